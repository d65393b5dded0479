//! The catalog, `<home>/oci.db`: what is recorded, for microsandbox 0.2 and for us. All SQL lives
//! here.
//!
//! The file belongs to two programs. microsandbox's six tables get the rows that its queries look
//! for; what they cannot hold (digests of manifests, platforms, owners, a layer that occurs twice)
//! is in tables that start with `sync_`. Each change is one transaction, and is on disk when the
//! method returns. The journal mode is left as it is: in WAL mode a mere reader would have to
//! create files.
//!
//! microsandbox lists an image's layers by `layers.id`. (0.2 mounts them in the order of their
//! digests, which no id changes: see `extract/stacking.rs`.) Ids are given out so that this is the
//! OCI order of every image; when a new base goes under a layer that has a row already, that layer
//! (and what images have above it) gets a higher id. What remains: if two images want the same two
//! layers in opposite orders, the one recorded first has it right. A layer that an image lists
//! twice has one row, in the place of its upper occurrence.

mod agreement;
mod config;
mod connection;
mod directories;
mod header;
mod holdings;
mod hook_book;
mod hook_events;
mod image;
mod lists;
mod loads;
mod needed;
mod order;
mod own;
mod past;
mod rows;
mod schema;
mod stack;
#[cfg(test)]
mod tests;
mod trust;
mod waiting;
mod writable;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, ffi};

use crate::clock;
use crate::digest::BlobDigest;
use crate::error::CatalogError;
use crate::image_ref::ImageRef;
use crate::state::{
    AskedNames, Candidate, ConfigRecord, EarlierImage, Evidence, History, LayerDescriptor, LoadedReference,
    LoadedReferences, Owner, PendingHookEvent, Platform, RecordedImage, ResolvedImage, SparedImage,
    StagedImage, TagCandidate,
};
use connection::{absolute, connect, connect_read_only, explain_open, extended_code, home_of, sql_error};
use header::OpenCatalog;
pub(crate) use hook_book::HookBook;
pub(crate) use needed::{GivenUp, IsElsewhere};
pub use writable::Holding;
pub use writable::WritableCatalog;
pub(crate) use writable::{Change, FORGOTTEN_TOGETHER};

/// An open catalog, to be read; see [`WritableCatalog`] for changes.
#[derive(Debug)]
pub struct Catalog {
    conn: Connection,
    path: PathBuf,
    /// Whether tables were missing when the file was opened.
    lacks_tables: bool,
    /// See [`Catalog::is_ours`].
    is_ours: bool,
    // The last, so that the connection is closed before.
    _open: OpenCatalog,
}

impl Catalog {
    /// Returns where the catalog of `home` is.
    pub fn path_in(home: &Path) -> PathBuf {
        home.join("oci.db")
    }

    /// Opens the catalog of `home` to read; `None` if there is no file. Works while others write,
    /// on a read-only file system, and on a database that only microsandbox has used.
    ///
    /// No file is created or changed, with two exceptions that SQLite leaves no way around: a
    /// journal that a killed writer left is rolled back, and a WAL database (made so by somebody
    /// else) that has a log without its `-shm` gets one.
    ///
    /// # Errors
    /// As for [`WritableCatalog::open`].
    pub fn open_read_only(home: &Path) -> Result<Option<Self>, CatalogError> {
        let path = absolute(&Self::path_in(home))?;
        let Some(target) = own::readable(&path)? else { return Ok(None) };
        let open = OpenCatalog::new();
        let conn = match connect_read_only(&target, &open) {
            Err(error) if extended_code(&error) == Some(ffi::SQLITE_READONLY_ROLLBACK) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                connect(&target, flags)
            }
            other => other,
        }
        .map_err(|error| explain_open(&path, false, &error))?;
        let schema::Found { lacks_tables, is_ours } = schema::check(&conn, &path)?;
        conn.execute_batch("PRAGMA query_only = ON").map_err(|error| sql_error("open", &path, &error))?;
        Ok(Some(Self { conn, path, lacks_tables, is_ours, _open: open }))
    }

    /// True if msb-sync has made its tables in the file. A file that was emptied, or that only
    /// microsandbox has used, records nothing of ours: nobody can say by it which layers of ours
    /// are needed.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Those of `references` that are recorded, by us or by microsandbox.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn recorded(&self, references: &[ImageRef]) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("look up images in", |tx| images(tx, self.home(), references))
    }

    /// The names among `references` that are recorded, by us or by microsandbox.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn recorded_names<'r>(
        &self,
        references: impl IntoIterator<Item = &'r ImageRef>,
    ) -> Result<BTreeSet<&'r ImageRef>, CatalogError> {
        self.read("look up images in", |tx| {
            let mut found = BTreeSet::new();
            for reference in references {
                if image::is_recorded(tx, reference)? {
                    found.insert(reference);
                }
            }
            Ok(found)
        })
    }

    /// The images of `owner`, with their second names.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn owned_by(&self, owner: &Owner) -> Result<Vec<RecordedImage>, CatalogError> {
        self.recorded_or_owned(&[], &BTreeSet::new(), owner)
    }

    /// Those of `references` that are recorded, and the images of `owner` with their second names:
    /// each once, sorted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn recorded_or_owned(
        &self,
        references: &[ImageRef],
        repositories: &BTreeSet<ImageRef>,
        owner: &Owner,
    ) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("look up images in", |tx| {
            let names = rows::texts(tx, rows::OWNED_NAMES, &owner.0)?;
            let mut wanted: BTreeSet<ImageRef> =
                names.iter().filter_map(|name| rows::parse_name(name)).collect();
            wanted.extend(references.iter().cloned());
            for repository in repositories {
                wanted.extend(image::names_in(tx, repository)?);
            }
            images(tx, self.home(), &wanted)
        })
    }

    /// Every recorded image, sorted by reference; those that only microsandbox recorded too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn all(&self) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("list the images of", |tx| images(tx, self.home(), &image::all_names(tx)?))
    }

    /// The names of all recorded images, sorted; those that only microsandbox recorded too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn names(&self) -> Result<Vec<ImageRef>, CatalogError> {
        self.read("list the names of images in", image::all_names)
    }

    /// Everybody who wants a recorded image.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn owners(&self) -> Result<Vec<Owner>, CatalogError> {
        self.read("list owners in", |tx| {
            let names = rows::texts(tx, rows::OWNERS, "")?;
            Ok(names.into_iter().map(Owner).collect())
        })
    }

    /// Calls `visit` with every recorded image, sorted by reference: as [`Catalog::all`], but never
    /// with all in memory.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(RecordedImage)) -> Result<(), CatalogError> {
        self.read("list the images of", |tx| {
            for reference in image::all_names(tx)? {
                for image in images(tx, self.home(), [&reference])? {
                    visit(image);
                }
            }
            Ok(())
        })
    }

    /// The config of a recorded image. microsandbox keeps neither digest, labels nor stop signal:
    /// for an image that only it recorded, the latter are empty and [`ConfigRecord::digest`] is
    /// that of no bytes (its
    /// [`RecordedImage::config_digest`] is `None`).
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn config(&self, reference: &ImageRef) -> Result<Option<ConfigRecord>, CatalogError> {
        self.read("read an image's config from", |tx| config::config(tx, reference))
    }

    /// The layers that any recorded image outside `references` needs, ours or microsandbox's. The
    /// second names of `references` count as inside, and so do images of which no owner wants the
    /// layers, unless microsandbox had them first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_needed_outside<'a>(
        &self,
        references: impl Into<GivenUp<'a>>,
    ) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        let references = references.into();
        self.read("look up needed layers in", |tx| {
            needed::layers_needed_outside(tx, references, clock::now())
        })
    }

    /// Those of [`Catalog::layers_needed_outside`] that may be needed in `directory`: a layer that
    /// all images which need it have elsewhere, as `is_elsewhere` says, is not. What microsandbox
    /// recorded by itself is in the directory `default`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_needed_in<'a>(
        &self,
        (directory, default): (&Path, &Path),
        outside: impl Into<GivenUp<'a>>,
        is_elsewhere: IsElsewhere<'_>,
    ) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        let outside = outside.into();
        self.read("look up needed layers in", |tx| {
            let now = clock::now();
            let mut needed = needed::layers_needed_outside(tx, outside, now)?;
            let of = (directory, default, is_elsewhere);
            needed::retain_needed_in(tx, self.home(), of, (outside, now), &mut needed)?;
            Ok(needed)
        })
    }

    /// The blobs, documents and layers, that are kept for recorded images outside `references`,
    /// the second names of which count as inside.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn blobs_needed_outside<'a>(
        &self,
        references: impl Into<GivenUp<'a>>,
    ) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        let references = references.into();
        self.read("look up needed blobs in", |tx| needed::blobs_needed_outside(tx, references, clock::now()))
    }

    /// Every reference that was loaded into an engine, for whatever owner, one that is gone too;
    /// sorted by engine and name.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn loaded(&self) -> Result<Vec<LoadedReference>, CatalogError> {
        let mut loaded = Vec::new();
        self.each_loaded(&mut |load| loaded.push(load))?;
        Ok(loaded)
    }

    /// Those of [`Catalog::loaded`] that are `owner`'s, and those of others by names that are `asked`
    /// about.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn loaded_among(&self, owner: &Owner, asked: &AskedNames) -> Result<LoadedReferences, CatalogError> {
        let mut loaded = Vec::new();
        self.read("look up what engines have been given in", |tx| {
            loads::each_of(tx, owner, asked, &mut |load| loaded.push(load))
        })?;
        Ok(loaded.into())
    }

    /// Calls `visit` with each of [`Catalog::loaded`], never with all in memory.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn each_loaded(&self, visit: &mut dyn FnMut(LoadedReference)) -> Result<(), CatalogError> {
        self.read("look up what engines have been given in", |tx| loads::each(tx, visit))
    }

    /// Those of `layers` that a recorded image describes otherwise.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn contradicted<'a>(
        &self,
        layers: &[&'a LayerDescriptor],
    ) -> Result<Vec<&'a LayerDescriptor>, CatalogError> {
        self.read("look up layers in", |tx| {
            let mut statement = tx.prepare_cached(rows::OTHER_WORDS)?;
            let mut found = Vec::new();
            for layer in layers {
                let words = (layer.digest.text(), layer.diff_id.text(), rows::size(layer.size));
                found.extend(statement.exists(words)?.then_some(*layer));
            }
            Ok(found)
        })
    }

    /// The proofs that the image of these digests (the tag's, and the platform's manifest's) is
    /// signed, without the signatures, the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn proofs(&self, digest: &BlobDigest, manifest: &BlobDigest) -> Result<Vec<Evidence>, CatalogError> {
        self.read("look up proofs in", |tx| trust::proofs(tx, digest, manifest))
    }

    /// The signatures of a proof.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn signatures(&self, proof: &Evidence) -> Result<Vec<Candidate>, CatalogError> {
        self.read("look up signatures in", |tx| trust::signatures(tx, proof))
    }

    /// The digests that `reference` has meant here; none where it is not recorded.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn history(&self, reference: &ImageRef) -> Result<History, CatalogError> {
        self.read("read the history of an image in", |tx| past::history(tx, reference))
    }

    /// The images that `reference` meant before, as far as their layers go, the latest first: each
    /// digest once, and never the present one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn earlier(&self, reference: &ImageRef) -> Result<Vec<EarlierImage>, CatalogError> {
        self.read("read the history of an image in", |tx| past::earlier(tx, reference))
    }

    /// The references that have meant something before.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn with_past(&self) -> Result<BTreeSet<ImageRef>, CatalogError> {
        self.read("look up histories in", past::with_past)
    }

    /// The layers and documents of everything that `reference` meant before.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn remembered(&self, reference: &ImageRef) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        self.read("read the history of an image in", |tx| past::remembered(tx, reference))
    }

    /// True if an owner keeps the blobs of a recorded image.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn keeps_blobs(&self) -> Result<bool, CatalogError> {
        self.read("look up kept blobs in", holdings::keeps_blobs)
    }

    /// The images outside `references` whose layers and blobs are spared though nobody needs them
    /// now, sorted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn spared<'a>(
        &self,
        references: impl Into<GivenUp<'a>>,
    ) -> Result<Vec<SparedImage>, CatalogError> {
        let references = references.into();
        self.read("look up spared images in", |tx| needed::spared(tx, references, clock::now()))
    }

    /// Everything that `reference` meant by `digest`, if that is in its history or staged.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn meaning(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        digest: &BlobDigest,
    ) -> Result<Option<ResolvedImage>, CatalogError> {
        self.read("look up an earlier image in", |tx| past::meaning(tx, reference, platform, digest))
    }

    /// The digests that tags have come to mean and that are not taken yet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn candidates(&self) -> Result<BTreeMap<ImageRef, TagCandidate>, CatalogError> {
        self.read("look up new digests in", waiting::candidates)
    }

    /// The images that are ready to be recorded at the time `now`, sorted by reference.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn staged(&self, now: Timestamp) -> Result<Vec<StagedImage>, CatalogError> {
        self.read("look up staged images in", |tx| past::staged(tx, now))
    }

    /// The changes of `owner`'s images that hooks are still to be told of, oldest first; those too
    /// that another run is telling.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn pending_hook_events(&self, owner: &Owner) -> Result<Vec<PendingHookEvent>, CatalogError> {
        self.read("look up what hooks are to be told in", |tx| {
            Ok(hook_events::of_owner(tx, owner)?.into_iter().filter_map(|row| row.pending).collect())
        })
    }

    /// Every directory of layers that images of this home have had theirs in.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_directories(&self) -> Result<BTreeSet<PathBuf>, CatalogError> {
        self.read("look up the directories of layers in", |tx| directories::all(tx, self.home()))
    }

    /// Where the catalog lies: directories below are stored relative to it.
    fn home(&self) -> &Path {
        home_of(&self.path)
    }

    /// Runs queries that see one state of the database.
    fn read<T>(
        &self,
        doing: &'static str,
        queries: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        Transaction::new_unchecked(&self.conn, TransactionBehavior::Deferred)
            .and_then(|tx| {
                if self.lacks_tables {
                    schema::stand_in(&tx)?;
                }
                queries(&tx)
            })
            .map_err(|error| sql_error(doing, &self.path, &error))
    }
}

fn images<'a>(
    conn: &Connection,
    home: &Path,
    references: impl IntoIterator<Item = &'a ImageRef>,
) -> rusqlite::Result<Vec<RecordedImage>> {
    let mut found = Vec::new();
    for reference in references {
        let mut image = image::image(conn, reference)?;
        if let Some(directory) = image.as_mut().and_then(|image| image.layers_directory.as_mut()) {
            *directory = directories::resolved(home, directory);
        }
        found.extend(image);
    }
    Ok(found)
}
