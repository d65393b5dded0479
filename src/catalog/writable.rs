//! The catalog of a locked home: what changes it, each change one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::Catalog;
use super::connection::{absolute, connect, explain_open, sql_error, unsettled, why_not_opened};
use super::header::OpenCatalog;
use super::write;
use super::{directories, hook_events, loads, own, past, schema, stack, trust, waiting};
use crate::clock;
use crate::digest::BlobDigest;
use crate::error::CatalogError;
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::state::{Evidence, LoadedReference, Owner, PendingHookEvent, ResolvedImage, TagCandidate};

/// Images of one transaction at most, so that other writers need not wait long.
pub(super) const GROUP: usize = 100;

/// Images that are forgotten in one transaction at most. The rows of their layers lie all over a
/// large database: nearly every page changes in each transaction, and is written twice.
pub(crate) const FORGOTTEN_TOGETHER: usize = 1000;

/// The pages in memory from the first image that is forgotten on, in KiB (for SQLite: below zero).
/// A changed page that has to make room for another is written at once, after a sync of the
/// journal.
const FORGETTING_CACHE: i32 = -16 * 1024;

/// The catalog of a home that this run alone changes, as long as there is one.
#[derive(Debug)]
pub struct WritableCatalog {
    catalog: Catalog,
    home: LockedHome,
}

impl Deref for WritableCatalog {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

/// The wishes of an owner about his images.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    /// The directory where the layers of his images are.
    pub layers: &'a Path,
    /// The owner wants layers extracted.
    pub extracts: bool,
    /// The owner wants blobs kept.
    pub keeps_blobs: bool,
    /// The earlier digests of each reference that the owner wants spared by removals.
    pub keeps_earlier: u32,
}

/// A change of one image, for [`WritableCatalog::change`].
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// See [`WritableCatalog::record`].
    Record {
        /// The image that is recorded.
        image: &'a ResolvedImage,
        /// The names that it is recorded under, its own first.
        names: &'a [ImageRef],
        /// True if the image is held at this digest from now on.
        hold: bool,
        /// True if all blobs of the image are kept here, whoever wanted them.
        has_blobs: bool,
        /// The hooks that are to be told.
        events: &'a [PendingHookEvent],
    },
    /// See [`WritableCatalog::adopt`].
    Adopt {
        /// The names that are recorded.
        names: &'a [ImageRef],
        /// The hooks that are to be told.
        events: &'a [PendingHookEvent],
    },
    /// See [`WritableCatalog::stage`].
    Stage {
        /// The image that is ready to be recorded.
        image: &'a ResolvedImage,
    },
    /// All rows of the image are right, and something else of it changes.
    Tell {
        /// The hooks that are to be told.
        events: &'a [PendingHookEvent],
    },
}

impl WritableCatalog {
    /// Opens the catalog of a locked home to be written, creating the file (in a directory that
    /// exists) and the tables if they are missing. Waits up to a minute for other holders. A
    /// catalog that is up to date is not written.
    ///
    /// # Errors
    /// Anything but an SQLite database, or one whose tables are not those of microsandbox 0.2; a
    /// newer msb-sync's; no permission; a full disk. The file is then as it was.
    pub fn open(home: &LockedHome) -> Result<Self, CatalogError> {
        let path = absolute(&Catalog::path_in(home.path()))?;
        own::make_whole(&path, &schema::of_new_catalog);
        let (mut conn, open) = connect_to_write(&path)?;
        schema::upgrade(&mut conn, &path)?;
        Ok(Self {
            catalog: Catalog { conn, path, lacks_tables: false, is_ours: true, _open: open },
            home: home.clone(),
        })
    }

    /// Records `image` under `names` for `owner`, with what he wants of it, in one transaction:
    /// what was recorded under these names is replaced. The first name is the image's own, the
    /// others are second names (see
    /// [`ImageRef::recorded_names`]), which stay as long as the first does. Owners it has stay. Its
    /// documents are recorded where `owner` wants blobs kept; they stay where any of them does.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn record(
        &mut self,
        image: &ResolvedImage,
        names: &[ImageRef],
        owner: &Owner,
        holding: Holding<'_>,
    ) -> Result<(), CatalogError> {
        let has_blobs = holding.keeps_blobs;
        self.change_all(
            &[Change::Record { image, names, hold: false, has_blobs, events: &[] }],
            owner,
            holding,
        )
    }

    /// Makes `owner` one of the owners of an image that [`WritableCatalog::record`] recorded under
    /// `names`, and notes what he wants of it. Names that are not recorded are skipped, but second
    /// names, of which the rows are written that are not those of the image. Documents that are not
    /// recorded stay so; they go where no owner wants blobs kept any more.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn adopt(
        &mut self,
        names: &[ImageRef],
        owner: &Owner,
        holding: Holding<'_>,
    ) -> Result<(), CatalogError> {
        self.change_all(&[Change::Adopt { names, events: &[] }], owner, holding)
    }

    /// Records and adopts as [`WritableCatalog::record`] and [`WritableCatalog::adopt`] do for many
    /// images at the cost of one wait for the disk a hundred: in one transaction, or, where that
    /// fails, each image in its own. The results are in the order of `changes`.
    pub fn change(
        &mut self,
        changes: &[Change<'_>],
        owner: &Owner,
        holding: Holding<'_>,
    ) -> Vec<Result<(), CatalogError>> {
        all_or_each(changes, |changes| self.change_all(changes, owner, holding))
    }

    fn change_all(
        &mut self,
        changes: &[Change<'_>],
        owner: &Owner,
        holding: Holding<'_>,
    ) -> Result<(), CatalogError> {
        let doing = match changes {
            [Change::Adopt { .. }] => "add an owner in",
            _ => "record an image in",
        };
        let home = self.home().to_owned();
        self.write(doing, |tx| {
            if holding.extracts {
                directories::note(tx, &home, holding.layers)?;
            }
            let held = write::Held {
                owner,
                layers: directories::stored(&home, holding.layers),
                extracts: holding.extracts,
                keeps_blobs: holding.keeps_blobs,
                keeps_earlier: holding.keeps_earlier,
                now: clock::now(),
            };
            let mut replaced = BTreeSet::new();
            changes.iter().try_for_each(|change| {
                let events = match change {
                    Change::Record { image, names, hold, has_blobs, events } => {
                        replaced.extend(stack::about_to_change(tx, *names, Some(&image.layers))?);
                        write::record(tx, image, names, (*hold, *has_blobs), held)?;
                        events
                    }
                    Change::Adopt { names, events } => {
                        replaced.extend(stack::about_to_change(tx, names.iter().skip(1), None)?);
                        write::adopt(tx, names, held)?;
                        events
                    }
                    Change::Stage { image } => {
                        past::stage(tx, image, held.now)?;
                        &[][..]
                    }
                    Change::Tell { events } => events,
                };
                hook_events::put(tx, owner, events)
            })?;
            stack::put_in_order(tx, &replaced)
        })
    }

    /// Drops the ownership of `owner` (`None`: of everybody) in `references`, in one transaction.
    /// An image that nobody owns then goes, with its second names and the rows of layers that no
    /// other manifest uses; but never what microsandbox had before us.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn forget(&mut self, references: &[ImageRef], owner: Option<&Owner>) -> Result<(), CatalogError> {
        self.write("forget images in", |tx| forget(tx, references, owner))
    }

    /// Drops the ownership of `owner`, who gives up everything, as [`WritableCatalog::forget`]
    /// does, and in the same transaction the changes that his hooks were still to be told of.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn forget_owner(&mut self, references: &[ImageRef], owner: &Owner) -> Result<(), CatalogError> {
        self.write("forget images in", |tx| {
            forget(tx, references, Some(owner))?;
            hook_events::drop_of(tx, owner)
        })
    }

    /// Drops the ownership of `owner` as [`WritableCatalog::forget`] does, and notes in the same
    /// transaction which hooks are to be told.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn forget_and_tell(
        &mut self,
        references: &[ImageRef],
        owner: &Owner,
        events: &[PendingHookEvent],
    ) -> Result<(), CatalogError> {
        self.write("forget images in", |tx| {
            forget(tx, references, Some(owner))?;
            hook_events::put(tx, owner, events)
        })
    }

    /// Notes which hooks are to be told of changes that are about to be made, in one transaction:
    /// they are told when a run finds the images in order.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn foretell(&mut self, events: &[PendingHookEvent], owner: &Owner) -> Result<(), CatalogError> {
        if events.is_empty() {
            return Ok(());
        }
        self.write("note what hooks are to be told in", |tx| hook_events::put(tx, owner, events))
    }

    /// Notes, in one transaction, loads that are about to start: from then on they are ours, and
    /// failed until [`WritableCatalog::end_loads`] says otherwise.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn begin_loads(&mut self, loads: &[LoadedReference]) -> Result<(), CatalogError> {
        if loads.is_empty() {
            // No run waits for another program without need.
            return Ok(());
        }
        self.write("note loads in", |tx| loads.iter().try_for_each(|load| loads::put(tx, load, false)))
    }

    /// Notes the results of loads at the cost of one wait for the disk: in one transaction, or,
    /// where that fails, each in its own. The results are in the order of `loads`.
    pub fn end_loads(&mut self, loads: &[&LoadedReference]) -> Vec<Result<(), CatalogError>> {
        all_or_each(loads, |loads| {
            self.write("note a load in", |tx| loads.iter().try_for_each(|load| loads::put(tx, load, true)))
        })
    }

    /// Notes of loads that their owners do not want them any more: nobody but a removal has to do
    /// with their references.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn unwant_loads(&mut self, loads: &[LoadedReference]) -> Result<(), CatalogError> {
        self.write("note loads in", |tx| loads.iter().try_for_each(|load| loads::unwant(tx, load)))
    }

    /// Forgets loads, whose references the engines have no more, or which are another's by now.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn forget_loads(&mut self, loads: &[LoadedReference]) -> Result<(), CatalogError> {
        self.write("forget loads in", |tx| loads.iter().try_for_each(|load| loads::forget(tx, load)))
    }

    /// Notes proofs that images are signed, in one transaction; those of images that are not
    /// recorded any more go.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn prove(&mut self, proofs: &[Arc<Evidence>]) -> Result<(), CatalogError> {
        if proofs.is_empty() {
            return Ok(());
        }
        self.write("note proofs in", |tx| {
            trust::sweep(tx)?;
            proofs.iter().try_for_each(|proof| trust::put(tx, proof))
        })
    }

    /// Notes a proof of an image that may not be recorded yet; no other goes.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn prove_one(&mut self, proof: &Evidence) -> Result<(), CatalogError> {
        self.write("note a proof in", |tx| trust::put(tx, proof))
    }

    /// Holds a recorded image at `digest` from now on.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn hold(&mut self, reference: &ImageRef, digest: &BlobDigest) -> Result<(), CatalogError> {
        let now = clock::now();
        self.write("hold an image in", |tx| waiting::put_hold(tx, &reference.to_string(), digest, now))
    }

    /// Holds an image no more; tells whether it was held.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn release(&mut self, reference: &ImageRef) -> Result<bool, CatalogError> {
        self.write("release an image in", |tx| waiting::drop_hold(tx, &reference.to_string()))
    }

    /// Notes, in one transaction, which digests of tags are not taken yet; `None`: none of this tag
    /// waits any more.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn note_candidates(
        &mut self,
        candidates: &BTreeMap<ImageRef, Option<TagCandidate>>,
    ) -> Result<(), CatalogError> {
        if candidates.is_empty() {
            return Ok(());
        }
        self.write("note new digests in", |tx| {
            candidates.iter().try_for_each(|(reference, candidate)| match candidate {
                Some(candidate) => waiting::put_candidate(tx, reference, candidate),
                None => waiting::drop_candidate(tx, &reference.to_string()),
            })
        })
    }

    /// Notes, in one transaction, that images are ready to be recorded: their layers are here. They
    /// are spared for 14 days.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn stage(&mut self, images: &[&ResolvedImage]) -> Result<(), CatalogError> {
        let now = clock::now();
        self.write("note staged images in", |tx| {
            images.iter().try_for_each(|image| past::stage(tx, image, now))
        })
    }

    pub(super) fn write<T>(
        &mut self,
        doing: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        let path = &self.catalog.path;
        self.home.settle().map_err(|error| unsettled(doing, path, &error))?;
        in_transaction(&mut self.catalog.conn, change).map_err(|error| sql_error(doing, path, &error))
    }
}

/// Writes `things` in groups, and where a group fails, each of it by itself. Who has waited a
/// minute for another program waits no more.
pub(super) fn all_or_each<T>(
    things: &[T],
    mut write: impl FnMut(&[T]) -> Result<(), CatalogError>,
) -> Vec<Result<(), CatalogError>> {
    let mut busy: Option<PathBuf> = None;
    let mut write = |things: &[T]| {
        if let Some(path) = &busy {
            return Err(CatalogError::Busy { path: path.clone() });
        }
        let result = write(things);
        if let Err(CatalogError::Busy { path }) = &result {
            busy = Some(path.clone());
        }
        result
    };
    let mut results = Vec::with_capacity(things.len());
    for group in things.chunks(GROUP) {
        match write(group) {
            Ok(()) => results.extend(group.iter().map(|_| Ok(()))),
            Err(error) if group.len() == 1 => results.push(Err(error)),
            Err(_) => results.extend(group.chunks(1).map(&mut write)),
        }
    }
    results
}

fn forget(tx: &Transaction<'_>, references: &[ImageRef], owner: Option<&Owner>) -> rusqlite::Result<()> {
    tx.pragma_update(None, "cache_size", FORGETTING_CACHE)?;
    let dropped = stack::about_to_change(tx, references, None)?;
    write::forget(tx, references, owner)?;
    stack::put_in_order(tx, &dropped)?;
    trust::sweep(tx)?;
    hook_events::drop_unfinished(tx, references, owner)
}

/// Opens the database at `path`, an absolute one, to be written; a file that is missing is made.
pub(super) fn connect_to_write(path: &Path) -> Result<(Connection, OpenCatalog), CatalogError> {
    let target = own::writable(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = OpenCatalog::new();
    let conn = connect(&target, flags).map_err(|error| explain_open(path, true, &error))?;
    let fail = |error| sql_error("open", path, &error);
    // SQLite quietly opens a file it may not write read-only; better to say so now than at the
    // first record.
    if conn.is_readonly("main").map_err(fail)? {
        let reason = "it is write-protected".to_owned();
        let fallback = CatalogError::Permission { doing: "write", path: path.to_owned(), reason };
        return Err(why_not_opened(path, true).unwrap_or(fallback));
    }
    // A transaction ends with the removal of its journal. With less than EXTRA the directory is
    // not synced after that: a power loss brings the journal back, and the journal takes back what
    // was told as done.
    conn.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON").map_err(fail)?;
    Ok((conn, open))
}

/// Makes a change in one transaction.
pub(super) fn in_transaction<T>(
    conn: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // Immediate: a transaction that first reads and then wants to write could not wait for another
    // writer.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = change(&tx)?;
    tx.commit()?;
    Ok(value)
}
