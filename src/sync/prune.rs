//! `prune`: what the images file lists no more goes, and with it whatever nobody needs. No registry
//! is asked.
//!
//! Before all else, `prune` takes partial downloads that no run is writing: where a disk is full no
//! image can be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::pruned::Pruned;
use super::request::ImagesSource;
use super::session::Session;
use super::steps::give_up::{Removals, Wish, by_reference, give_up};
use super::steps::gone::is_gone;
use super::steps::load::{Loaded, absolute_of_gone, load};
use super::steps::lock_home::lock_home;
use super::steps::lockfile::locked_selections;
use super::steps::spared::{Spared, spared};
use super::verb_error::VerbError;
use crate::catalog::{Catalog, GivenUp};
use crate::error::{Error, InputError};
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::plan::{self, Wait};
use crate::selection::CompiledRule;
use crate::state::{Desired, EngineName, LoadedReference, Observed, Owner, RecordedImage, TagSelection};
use crate::store::{self, Blobs, PartialDownload, Places};

/// The request to `prune`.
#[derive(Clone, Debug)]
pub struct PruneRequest {
    /// The images file.
    pub source: ImagesSource,
    /// The user asked to change nothing.
    pub dry_run: bool,
    /// The user asked to remove all images of a file that lists none.
    pub allow_empty: bool,
}

/// Removes the images that the file's owner no longer lists, and layers that nobody needs. As long
/// as an image that the file lists is not here, no image is removed: no registry is asked, and so
/// nobody knows whether it can be had. While an image's removal waits for that, layers and blobs do
/// too. A catalog in which nothing of ours is recorded has nothing removed: it tells nothing.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, PruneRequest, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let request = PruneRequest {
///     source: ImagesSource::Path("examples/quickstart/images.toml".into()),
///     dry_run: true,
///     allow_empty: false,
/// };
/// assert!(sync::prune(&session, &request)?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`].
pub fn prune(session: &Session, request: &PruneRequest) -> Result<Pruned, VerbError> {
    let loaded = load(session, &request.source).map_err(|error| explain_gone(session, error))?;
    loaded.refuse_empty(request.allow_empty)?;
    let catalog = Catalog::open_read_only(&session.home)?;
    let (owner, keep) = (loaded.owner.clone(), loaded.file.settings.targets.keeps_earlier);
    let unlisted = Unlisted::of(session, request.clone(), loaded, catalog.as_ref())?;
    drop(catalog);
    let was_busy = !LockedHome::is_free(&session.home);
    let downloads = prune_downloads(session, request.dry_run)?;
    let done = Pruned { downloads, dry_run: request.dry_run, ..Pruned::default() };
    let mut pruned = give_up(session, unlisted, done)?;
    let mut finish = || {
        if was_busy && !request.dry_run {
            pruned.downloads.extend(prune_downloads(session, false)?);
        }
        let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(()) };
        let leaving = || pruned.images.iter().filter(|image| image.waits.is_none());
        let gone = leaving().flat_map(|image| &image.gone).cloned().collect();
        let names = leaving().flat_map(|image| &image.names).cloned().collect();
        let now = GivenUp { images: &gone, by: Some((&owner, &names)), keeps: Some((&owner, keep)) };
        let Spared { images, bytes } = spared(session, &catalog, now)?;
        (pruned.spared, pruned.spared_bytes) = (images, bytes);
        Ok(())
    };
    let finished = finish();
    pruned.ended(finished, session)
}

/// Says of an images file that is gone, and of which images are recorded, how to let go of these.
fn explain_gone(session: &Session, error: VerbError) -> VerbError {
    let has_left_images = |path: &Path| {
        let owner = Owner::images_file(&absolute_of_gone(path).ok()?);
        let recorded = Catalog::open_read_only(&session.home).ok()??.all().ok()?;
        (is_gone(&owner) && recorded.iter().any(|row| row.owners.contains(&owner))).then_some(())
    };
    match error {
        VerbError::Input(Error::Input(InputError::Unreadable { path, source, .. }))
            if has_left_images(&path).is_some() =>
        {
            InputError::Gone { path, home: session.home_given.clone(), source }.into()
        }
        other => other,
    }
}

/// Tells what any prune would remove, whatever its images file lists: layers, blobs and downloads
/// that nobody needs. Nothing is changed.
pub(super) fn prune_unneeded(session: &Session) -> Result<Pruned, VerbError> {
    let downloads = prune_downloads(session, true)?;
    let done = Pruned { downloads, dry_run: true, ..Pruned::default() };
    give_up(session, Unneeded(session.default_layers()), done)
}

/// The wish that no image goes, and that everything else does which nobody needs. The path is that
/// of the home's layers.
struct Unneeded(PathBuf);

impl Wish for Unneeded {
    fn owner(&self) -> Option<&Owner> {
        None
    }

    fn all_layers_in(&self) -> Option<&Path> {
        Some(&self.0)
    }

    fn unwanted(
        &self,
        _catalog: &Catalog,
        _leaving: &BTreeSet<&ImageRef>,
        _loaded: Vec<LoadedReference>,
    ) -> Result<Vec<LoadedReference>, VerbError> {
        Ok(Vec::new())
    }

    fn removals(&self, _catalog: &Catalog, _locked: bool) -> Result<Removals, VerbError> {
        Ok(Removals { images: Vec::new(), recorded: BTreeMap::new(), waiting_for: Vec::new() })
    }
}

/// The wish that everything goes that an images file does not list.
struct Unlisted {
    request: PruneRequest,
    loaded: Loaded,
    desired: Desired,
    /// The images that the file lists and that are not here.
    absent: Vec<ImageRef>,
}

impl Unlisted {
    fn of(
        session: &Session,
        request: PruneRequest,
        loaded: Loaded,
        catalog: Option<&Catalog>,
    ) -> Result<Self, VerbError> {
        let mut listed: BTreeSet<ImageRef> =
            loaded.file.images.iter().map(|image| image.reference.clone()).collect();
        let mut absent = Vec::new();
        if let Some(catalog) = catalog {
            let selections = locked_selections(&loaded)?;
            let chosen = selections.iter().filter_map(|selection| selection.locked.as_ref()).flatten();
            listed.extend(chosen.map(|image| image.reference.clone()));
            let here = catalog.recorded_names(&listed)?;
            absent.extend(listed.iter().filter(|reference| !here.contains(reference)).cloned());
            let unlocked: Vec<&TagSelection> =
                selections.iter().filter(|selection| selection.locked.is_none()).collect();
            let owned = if unlocked.is_empty() { Vec::new() } else { catalog.owned_by(&loaded.owner)? };
            for selection in unlocked {
                // A second name goes with its first one, whatever the selection chooses.
                let of_selection = |row: &&RecordedImage| {
                    row.alias_of.is_none() && row.reference.is_of(&selection.repository)
                };
                let rows: Vec<&RecordedImage> = owned.iter().filter(of_selection).collect();
                if !fits_one(selection, &rows) {
                    absent.push(selection.repository.clone());
                }
                // The meaning of this selection only its registry can tell: all that it may have
                // brought stays.
                listed.extend(rows.into_iter().map(|row| row.reference.clone()));
            }
        }
        let settings = &loaded.file.settings;
        let desired = Desired {
            owner: loaded.owner.clone(),
            layers_directory: settings.layers.clone().unwrap_or_else(|| session.default_layers()),
            images: Vec::new(),
            selections: Vec::new(),
            taken_now: BTreeSet::new(),
            listed_elsewhere: listed,
            targets: settings.targets.clone(),
            prune: true,
            stage: None,
        };
        let mut unlisted = Self { request, loaded, desired, absent };
        if let Some(catalog) = catalog {
            let failed = unlisted.not_loaded(catalog.loaded()?);
            unlisted.absent.extend(failed);
        }
        Ok(unlisted)
    }
}

impl Unlisted {
    /// Finds the images that the file lists and whose last load into an engine has not ended well.
    fn not_loaded(&self, mut loaded: Vec<LoadedReference>) -> BTreeSet<ImageRef> {
        let names = self.wanted_names();
        loaded.retain(|row| {
            row.owner == self.desired.owner
                && row.listed.is_none()
                && self.desired.targets.engines.contains(&row.engine)
                && names.get(&row.engine.name).is_some_and(|names| names.contains(&row.name))
                && !self.absent.contains(&row.reference)
        });
        loaded.into_iter().map(|row| row.reference).collect()
    }

    /// Lists the texts by which each engine that the file names is to list what the file lists.
    fn wanted_names(&self) -> BTreeMap<EngineName, BTreeSet<String>> {
        let file = &self.loaded.file;
        let images: BTreeMap<&ImageRef, &Option<BTreeSet<EngineName>>> =
            file.images.iter().map(|image| (&image.reference, &image.engines)).collect();
        let is_wanted_by = |engine: &EngineName, reference: &ImageRef| {
            let of_selection = || {
                let repository = reference.repository_alone();
                let mut selections = file.selections.iter();
                selections.find(|selection| selection.repository == repository).map(|found| &found.engines)
            };
            let engines = images.get(reference).copied().or_else(of_selection);
            engines.and_then(Option::as_ref).is_none_or(|engines| engines.contains(engine))
        };
        let names = |engine: EngineName| {
            let listed = self.desired.listed_elsewhere.iter();
            let wanted = listed.filter(|reference| is_wanted_by(&engine, reference));
            (engine, wanted.flat_map(|reference| engine.names_of(reference)).collect())
        };
        self.desired.targets.engines.iter().map(|engine| names(engine.name)).collect()
    }
}

impl Wish for Unlisted {
    fn owner(&self) -> Option<&Owner> {
        Some(&self.desired.owner)
    }

    fn all_layers_in(&self) -> Option<&Path> {
        Some(&self.desired.layers_directory)
    }

    fn keeps_earlier(&self) -> Option<(&Owner, u32)> {
        Some((&self.desired.owner, self.desired.targets.keeps_earlier))
    }

    fn read_again(self, session: &Session, catalog: &Catalog) -> Result<Self, VerbError> {
        let Self { request, mut loaded, .. } = self;
        // Standard input is read once.
        if let ImagesSource::Path(_) = request.source {
            loaded = load(&session.quiet(), &request.source)?;
            loaded.refuse_empty(request.allow_empty)?;
        }
        Self::of(session, request, loaded, Some(catalog))
    }

    fn without_catalog(&self, session: &Session) -> Result<(), VerbError> {
        let places = Places::of(&self.desired.layers_directory);
        let layers = places.removable(session.jobs(), |_| true)?;
        if !layers.is_empty() || !Blobs::of(&session.home).list()?.is_empty() {
            let path = Catalog::path_in(&session.home);
            session.warn(format!(
                "nothing is removed: nothing is recorded in {}, though there are layers or blobs; run apply first",
                path.display()
            ));
        }
        Ok(())
    }

    fn unwanted(
        &self,
        catalog: &Catalog,
        _leaving: &BTreeSet<&ImageRef>,
        mut loaded: Vec<LoadedReference>,
    ) -> Result<Vec<LoadedReference>, VerbError> {
        if !self.absent.is_empty() {
            return Ok(Vec::new());
        }
        let owner = &self.desired.owner;
        let wanted = self.wanted_names();
        let others: BTreeSet<Owner> = loaded.iter().map(|row| row.owner.clone()).collect();
        let mut dead = BTreeSet::new();
        for other in others.into_iter().filter(|other| other != owner && is_gone(other)) {
            if catalog.owned_by(&other)?.is_empty() {
                dead.insert(other);
            }
        }
        let pull = Owner::pull();
        // Those in engines alone: very many may have been pulled.
        let of_pull = loaded.iter().filter(|row| row.owner == pull);
        let of_pull: Vec<ImageRef> = of_pull.map(|row| row.reference.clone()).collect();
        let mut pulled = catalog.recorded(&of_pull)?;
        pulled.retain(|row| row.owners.contains(&pull));
        let pulled: BTreeSet<ImageRef> = pulled.into_iter().map(|row| row.reference).collect();
        loaded.retain(|row| {
            let mut engines = self.desired.targets.engines.iter();
            let mut is_wanted = || {
                wanted.get(&row.engine.name).is_some_and(|names| names.contains(&row.name))
                    && engines.any(|engine| engine.may_be(&row.engine))
            };
            if row.owner == *owner {
                return !is_wanted();
            }
            // An image that was forgotten while its engine could not give it up has no owner's file
            // to see to it.
            dead.contains(&row.owner) || row.owner == pull && !pulled.contains(&row.reference)
        });
        Ok(loaded)
    }

    fn removals(&self, catalog: &Catalog, _locked: bool) -> Result<Removals, VerbError> {
        let recorded = by_reference(catalog.owned_by(&self.desired.owner)?);
        let observed = Observed { recorded, ..Observed::default() };
        let images = plan::removals(&self.desired, &observed, !self.absent.is_empty());
        let waits: BTreeSet<&Wait> = images.iter().filter_map(|image| image.waits.as_ref()).collect();
        let of_wait = |wait: &Wait| match wait {
            Wait::Images | Wait::ImagesFile => self.absent.clone(),
            Wait::SecondName(name) => vec![name.clone()],
        };
        let waiting_for = waits.into_iter().flat_map(of_wait).collect();
        Ok(Removals { images, recorded: observed.recorded, waiting_for })
    }
}

/// Tells whether one of these images is one that `selection` may have chosen.
fn fits_one(selection: &TagSelection, rows: &[&RecordedImage]) -> bool {
    let of_platform = |row: &&&RecordedImage| row.platform.as_ref() == Some(&selection.platform);
    let tags = rows.iter().filter(of_platform).filter_map(|row| row.reference.tag());
    CompiledRule::new(&selection.rule).is_ok_and(|rule| !rule.choose(tags).is_empty())
}

/// Removes the partial downloads of runs that are dead. While a run is at work on this home nobody
/// can say which of them it writes: then all stay.
fn prune_downloads(session: &Session, dry_run: bool) -> Result<Vec<PartialDownload>, VerbError> {
    let directory = store::downloads_of(&session.home);
    let mut downloads = store::partial_downloads(&directory)?;
    if downloads.is_empty() || !LockedHome::is_free(&session.home) {
        return Ok(Vec::new());
    }
    if !dry_run {
        let home = lock_home(session)?;
        downloads = store::partial_downloads(&directory)?;
        downloads.retain(|download| match store::remove_download(&home, &download.digest) {
            Ok(()) => true,
            Err(error) => {
                session.warn(error.to_string());
                false
            }
        });
    }
    Ok(downloads)
}
