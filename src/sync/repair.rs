//! The half of `verify --repair` that writes: damaged layers and blobs fetched again, images that
//! engines have lost or damaged loaded again.
//!
//! Repairing is an ordinary plan whose parts are observed to be damaged: the same executor fetches,
//! checks, exchanges the directories, and loads; rows of images are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::compare::{VerifiedLayer, compare};
use super::steps::compare_blobs::{VerifiedBlob, compare_blobs};
use super::steps::compare_engines::{VerifiedReference, compare_engines, remove_damaged_files};
use super::steps::finding::{Finding, Status};
use super::steps::load::{Loaded, load};
use super::steps::lock_home::{lock_home, open_store};
use super::steps::machine::without_file;
use super::steps::registries;
use super::verb_error::VerbError;
use crate::catalog::{Catalog, WritableCatalog};
use crate::digest::BlobDigest;
use crate::engine::Engines;
use crate::error::Error;
use crate::execute::{Executor, remove_kept_blobs};
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::plan;
use crate::registry::{Lookup, Registries};
use crate::state::{
    AskedNames, Desired, DesiredImage, EngineSettings, LayerState, LoadedReference, LoadedReferences,
    Observed, Owner, PullPolicy, RecordedImage, Resolution, ResolvedImage, Settings, Targets,
};
use crate::store::{self, Places};

/// Everything that was found, and whose repair is under way.
struct Found<'v> {
    layers: Vec<&'v mut VerifiedLayer>,
    blobs: &'v mut [VerifiedBlob],
    references: &'v mut [VerifiedReference],
}

/// The wishes of an owner about an image, as they are recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wishes {
    extracts: bool,
    keeps_blobs: bool,
    keeps_earlier: u32,
}

impl Wishes {
    /// The parts that the images are to have, in these engines.
    fn targets(self, engines: Vec<EngineSettings>) -> Targets {
        let Self { extracts, keeps_blobs, keeps_earlier } = self;
        Targets { extracts, keeps_blobs, keeps_earlier, engines }
    }
}

/// The owner on whose behalf images are repaired, and whether he wants layers extracted and blobs
/// kept: what the catalog says of that is not changed.
type Holder = (Owner, Wishes);

/// Images by those on whose behalf they are repaired.
type ByHolder<'r> = BTreeMap<Holder, BTreeMap<ImageRef, &'r RecordedImage>>;

/// Replaces what is damaged, and returns the failures that are no image's: a directory of layers
/// that cannot be opened is one, and keeps no other from being repaired.
pub(super) fn repair(
    session: &Session,
    engines: &Engines,
    (layers, blobs, references): (&mut [VerifiedLayer], &mut [VerifiedBlob], &mut [VerifiedReference]),
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> Result<Vec<Arc<Error>>, VerbError> {
    let damaged = |layer: &&VerifiedLayer| layer.found.status != Status::Ok;
    let mut directories: BTreeSet<PathBuf> =
        layers.iter().filter(damaged).map(|layer| layer.directory.clone()).collect();
    let damaged_parts = other_damage(blobs, references);
    let rows = damaged_parts.iter().filter_map(|reference| recorded.get(reference));
    directories.extend(rows.map(|row| session.layers_of(row)));
    directories.extend(with_leftovers(layers));
    let (mut files, mut causes, mut failures) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for directory in directories {
        let here = layers.iter_mut().filter(|layer| layer.found.status != Status::Ok);
        let layers = here.filter(|layer| layer.directory == directory).collect();
        let mut found = Found { layers, blobs, references };
        let rows = recorded.values().filter(|row| session.layers_of(row) == directory);
        let here = Here { directory: &directory, images: rows.map(|row| &row.reference).collect() };
        match repair_in(session, engines, &here, &mut found, recorded, (&mut files, &mut causes)) {
            Ok(of_directory) => failures.extend(of_directory),
            Err(VerbError::Error(error)) if !matches!(error, Error::Stopped) => {
                let cause = error.chain().join(": ");
                causes.extend(here.images.iter().map(|&image| (image.clone(), cause.clone())));
                // A home that cannot be locked fails in the same way for each directory.
                if !failures.iter().any(|other: &Arc<Error>| other.chain().join(": ") == cause) {
                    failures.push(Arc::new(error));
                }
            }
            Err(error) => return Err(error),
        }
    }
    explain(&mut Found { layers: layers.iter_mut().collect(), blobs, references }, &causes);
    Ok(failures)
}

/// A directory of layers, and the images that have theirs in it.
struct Here<'r> {
    directory: &'r Path,
    images: BTreeSet<&'r ImageRef>,
}

impl Here<'_> {
    /// True if one of the images has the blob.
    fn has(&self, blob: &VerifiedBlob) -> bool {
        blob.images.iter().any(|image| self.images.contains(image))
    }
}

/// Lists the directories in which a run that died has left something beside the layers: a repair
/// that was killed may have done its work but for the end.
pub(super) fn with_leftovers(layers: &[VerifiedLayer]) -> BTreeSet<PathBuf> {
    let mut directories: BTreeSet<PathBuf> = layers.iter().map(|layer| layer.directory.clone()).collect();
    // Whoever has to change something in a place that cannot be read tells of it.
    directories.retain(|directory| Places::of(directory).has_leftovers().unwrap_or_default());
    directories
}

/// The images that have a damaged blob, or are damaged in an engine.
fn other_damage(blobs: &[VerifiedBlob], references: &[VerifiedReference]) -> BTreeSet<ImageRef> {
    let blobs = blobs.iter().filter(|blob| blob.found.status.is_damaged());
    let references = references.iter().filter(|reference| reference.found.status.is_damaged());
    let of_blobs = blobs.flat_map(|blob| &blob.images);
    of_blobs.chain(references.map(|reference| &reference.loaded.reference)).cloned().collect()
}

/// Repairs what is damaged of the images that have their layers in one directory; images with the
/// same owner in one go. `causes` get the reasons for which images were not repaired.
fn repair_in(
    session: &Session,
    engines: &Engines,
    here: &Here<'_>,
    found: &mut Found<'_>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
    (files, causes): (&mut BTreeMap<Owner, Option<Loaded>>, &mut BTreeMap<ImageRef, String>),
) -> Result<Vec<Arc<Error>>, VerbError> {
    let directory = here.directory;
    let holders = by_holder(session, here, found, recorded, files);
    // Should it be gone, it is made as the images file says.
    let read = holders.keys().find_map(|(owner, _)| files.get(owner)?.as_ref());
    let mode = read.map_or(store::PRIVATE_MODE, |loaded| loaded.file.settings.layers_mode);
    let home = lock_home(session)?;
    store::make_unsynced_directory(directory, mode, &mut home.unsynced())?;
    let store = open_store(session, &home, directory)?;
    let mut catalog = WritableCatalog::open(&home)?;
    session.warn_of_left(&store::recover(&store)?.left);
    // Whoever had the lock may have repaired some already.
    look_after_repair(session, engines, &catalog, (found, here))?;
    remove_damaged_blobs(session, &home, &mut catalog, (found, here))?;
    let mut failures = Vec::new();
    for ((owner, wishes), images) in holders {
        let holder = (&owner, wishes);
        let (mut desired, mut observed) =
            wanted_for_repair(holder, directory, &images, recorded, (found, engines));
        let (registries, settings) = registries_of(session, files.get(&owner).and_then(Option::as_ref))?;
        look_up_documents(&registries, &mut desired, &mut observed, causes);
        make_way(session, &mut catalog, &observed.loaded)?;
        let plan = plan::plan(&desired, &observed).loading_by(&observed.loaded);
        if plan.is_empty() {
            continue;
        }
        let outcome = Executor {
            registries: &registries,
            store: &store,
            catalog: &mut catalog,
            engines,
            owner: &owner,
            hooks: &[],
            targets: &desired.targets,
            downloads: settings.downloads,
            jobs: session.jobs(),
            ownership: settings.ownership,
            limits: settings.limits,
            reporter: &*session.reporter,
            cancel: &session.cancel,
            begin_no_more: &|| false,
        }
        .execute(&plan)?;
        if outcome.stopped {
            return Err(Error::Stopped.into());
        }
        failures.extend(outcome.failure);
        let failed = outcome.images.into_iter().filter_map(|(image, _, error)| Some((image, error?)));
        causes.extend(failed.map(|(image, error)| (image, error.chain().join(": "))));
        look_after_repair(session, engines, &catalog, (found, here))?;
    }
    Ok(failures)
}

/// Opens the registries of an images file; without one, those of this machine.
fn registries_of(session: &Session, loaded: Option<&Loaded>) -> Result<(Registries, Settings), VerbError> {
    let (registries, settings) = match loaded {
        Some(Loaded { file, .. }) => (file.registries.clone(), file.settings.clone()),
        None => without_file(session)?,
    };
    Ok((registries::open(session, registries, &settings)?, settings))
}

/// Looks up, by their digests, images that are to be loaded and whose documents nobody has kept.
/// One that cannot be had is not loaded, for the cause that is noted.
fn look_up_documents(
    registries: &Registries,
    desired: &mut Desired,
    observed: &mut Observed,
    causes: &mut BTreeMap<ImageRef, String>,
) {
    for image in &mut desired.images {
        let Some(row) = observed.recorded.get(&image.reference) else { continue };
        let Some(digest) = row.digest.as_ref().filter(|_| row.documents.is_empty()) else { continue };
        if image.engines.as_ref().is_none_or(BTreeSet::is_empty) {
            continue;
        }
        let found = registries.resolve(&image.reference.with_digest(digest), &image.platform, None);
        let cause = match found {
            Ok(Lookup::Image(found)) if found.layers == row.layers => {
                let found = ResolvedImage { reference: image.reference.clone(), ..*found };
                observed.resolutions.insert(image.reference.clone(), Resolution::Resolved(Arc::new(found)));
                continue;
            }
            Ok(_) => "its registry has other layers than those recorded".to_owned(),
            Err(error) => Error::from(error).chain().join(": "),
        };
        causes.insert(image.reference.clone(), cause);
        // The rows stay as they are, too: their owner wants them still.
        image.engines = Some(BTreeSet::new());
        observed.loaded.retain(|row| row.reference != image.reference);
    }
}

/// Removes the damaged blobs of the images of a directory, after the index has ceased to name them.
fn remove_damaged_blobs(
    session: &Session,
    home: &LockedHome,
    catalog: &mut WritableCatalog,
    (found, here): (&Found<'_>, &Here<'_>),
) -> Result<(), VerbError> {
    let modified = found.blobs.iter().filter(|blob| blob.found.status == Status::Modified && here.has(blob));
    let modified: BTreeSet<BlobDigest> = modified.map(|blob| blob.digest.clone()).collect();
    if !modified.is_empty() {
        for left in remove_kept_blobs(home, catalog, &modified)?.kept.values() {
            session.warn(left.to_string());
        }
    }
    Ok(())
}

/// Removes the damaged files of images that are about to be loaded: their engines take those that
/// are there for good ones. Before that the catalog says that these images are to be loaded,
/// whatever becomes of this run.
fn make_way(
    session: &Session,
    catalog: &mut WritableCatalog,
    to_load: &[LoadedReference],
) -> Result<(), VerbError> {
    catalog.begin_loads(to_load)?;
    to_load.iter().try_for_each(|loaded| remove_damaged_files(session, loaded))
}

/// Says of each thing that is still damaged why it was not repaired.
fn explain(found: &mut Found<'_>, causes: &BTreeMap<ImageRef, String>) {
    let cause_of = |images: &BTreeSet<ImageRef>| images.iter().find_map(|image| causes.get(image));
    for layer in found.layers.iter_mut().filter(|layer| layer.found.status != Status::Ok) {
        let cause = cause_of(&layer.images).map(String::as_str);
        layer.found.explain(cause.unwrap_or("msb-sync did not record its image"));
    }
    for blob in found.blobs.iter_mut().filter(|blob| blob.found.status.is_damaged()) {
        if let Some(cause) = cause_of(&blob.images) {
            blob.found.explain(cause);
        }
    }
    for reference in found.references.iter_mut().filter(|reference| reference.found.status.is_damaged()) {
        let cause = causes.get(&reference.loaded.reference).map(String::as_str);
        reference.found.explain(cause.unwrap_or("the next apply loads it again"));
    }
}

/// Returns the damaged images that have their layers in a directory, each with an owner who wants
/// the damaged part, one whose images file can be read, if there is one.
fn by_holder<'r>(
    session: &Session,
    here: &Here<'_>,
    found: &Found<'_>,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
    files: &mut BTreeMap<Owner, Option<Loaded>>,
) -> ByHolder<'r> {
    let mut holders = ByHolder::new();
    let mut add = |reference: &ImageRef, owners: &dyn Fn(&RecordedImage) -> BTreeSet<Owner>| {
        let Some(row) = recorded.get(reference) else { return };
        let row = row.alias_of.as_ref().and_then(|first| recorded.get(first)).unwrap_or(row);
        let owners = owners(row);
        for owner in &owners {
            files.entry(owner.clone()).or_insert_with(|| load_for_repair(session, owner));
        }
        let read = owners.iter().find(|owner| files.get(owner).is_some_and(Option::is_some));
        if let Some(owner) = read.or(owners.first()) {
            let wishes = Wishes {
                extracts: row.extracted_for.contains(owner),
                keeps_blobs: row.blobs_kept_for.contains(owner),
                keeps_earlier: row.earlier_for.get(owner).copied().unwrap_or_default(),
            };
            holders.entry((owner.clone(), wishes)).or_default().insert(row.reference.clone(), row);
        }
    };
    for reference in found.layers.iter().flat_map(|layer| &layer.images) {
        add(reference, &|row| row.extracted_for.clone());
    }
    for blob in found.blobs.iter().filter(|blob| blob.found.status.is_damaged()) {
        for reference in blob.images.iter().filter(|reference| here.images.contains(reference)) {
            add(reference, &|row| row.blobs_kept_for.clone());
        }
    }
    for reference in found.references.iter().filter(|reference| reference.found.status.is_damaged()) {
        let loaded = &reference.loaded;
        if here.images.contains(&loaded.reference) {
            add(&loaded.reference, &|_| BTreeSet::from([loaded.owner.clone()]));
        }
    }
    holders
}

/// Compares what was damaged again.
fn look_after_repair(
    session: &Session,
    engines: &Engines,
    catalog: &Catalog,
    (found, here): (&mut Found<'_>, &Here<'_>),
) -> Result<(), VerbError> {
    let layers = found.layers.iter_mut().map(|layer| &mut **layer);
    let layers = layers.filter(|layer| layer.found.status.is_damaged()).collect();
    look_again(layers, |layer| &mut layer.found, |layers| compare(session, layers))?;
    let blobs = found.blobs.iter_mut().filter(|blob| blob.found.status.is_damaged() && here.has(blob));
    look_again(blobs.collect(), |blob| &mut blob.found, |blobs| compare_blobs(session, blobs))?;
    let references = found.references.iter_mut().filter(|reference| reference.found.status.is_damaged());
    let mut references: Vec<_> =
        references.filter(|reference| here.images.contains(&reference.loaded.reference)).collect();
    if references.is_empty() {
        return Ok(());
    }
    let rows = LoadedReferences::from(catalog.loaded()?);
    for VerifiedReference { loaded, .. } in references.iter_mut().map(|reference| &mut **reference) {
        let is_it = |row: &&LoadedReference| row.owner == loaded.owner && row.engine == loaded.engine;
        // The row of a load that has not ended has no files: those noted before say what is
        // damaged.
        if let Some(row) = rows.named(&loaded.name).iter().find(is_it).filter(|row| row.listed.is_some()) {
            *loaded = row.clone();
        }
    }
    look_again(references, |one| &mut one.found, |references| compare_engines(session, engines, references))
}

/// Has `things` compared, and notes what has become of the damage.
fn look_again<T>(
    mut things: Vec<&mut T>,
    finding: impl Fn(&mut T) -> &mut Finding,
    compare: impl FnOnce(Vec<&mut T>) -> Result<(), VerbError>,
) -> Result<(), VerbError> {
    let before: Vec<Finding> = things.iter_mut().map(|thing| finding(thing).clone()).collect();
    compare(things.iter_mut().map(|thing| &mut **thing).collect())?;
    things.into_iter().zip(before).for_each(|(thing, before)| finding(thing).look_back(before));
    Ok(())
}

/// The images file of `owner`, for its registries; `None` if there is none that can be used.
fn load_for_repair(session: &Session, owner: &Owner) -> Option<Loaded> {
    let loaded = load(session, &ImagesSource::Path(owner.file()?));
    if loaded.is_err() {
        session.warn(format!("{owner} cannot be used; its images are repaired with default settings"));
    }
    loaded.ok()
}

/// The images as they are recorded, and what is damaged of them as not there.
fn wanted_for_repair(
    (owner, wishes): (&Owner, Wishes),
    directory: &Path,
    images: &BTreeMap<ImageRef, &RecordedImage>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
    (found, engines): (&Found<'_>, &Engines),
) -> (Desired, Observed) {
    let damaged = damaged_layers(found);
    let to_load: Vec<&LoadedReference> = found
        .references
        .iter()
        .filter(|reference| reference.found.status.is_damaged() && reference.loaded.owner == *owner)
        .map(|reference| &reference.loaded)
        .filter(|loaded| images.contains_key(&loaded.reference))
        .collect();
    let settings: BTreeSet<&EngineSettings> = to_load.iter().map(|loaded| &loaded.engine).collect();
    let settings: Vec<EngineSettings> = settings.into_iter().cloned().collect();
    let sound = found.blobs.iter().filter(|blob| blob.found.status == Status::Ok);
    let begun = |loaded: &&LoadedReference| LoadedReference { listed: None, ..(*loaded).clone() };
    let mut observed = Observed {
        blobs: sound.map(|blob| blob.digest.clone()).collect(),
        engines: engines.listings(&settings, &AskedNames::of(to_load.iter().map(|loaded| &loaded.name))),
        loaded: to_load.iter().map(begun).collect::<Vec<_>>().into(),
        ..Observed::default()
    };
    let mut desired = Desired {
        owner: owner.clone(),
        layers_directory: directory.to_owned(),
        images: Vec::new(),
        selections: Vec::new(),
        taken_now: BTreeSet::new(),
        listed_elsewhere: BTreeSet::new(),
        targets: wishes.targets(settings),
        prune: false,
        stage: None,
    };
    for (reference, &row) in images {
        let Some(platform) = row.platform.clone() else { continue };
        let of_image = to_load.iter().filter(|loaded| loaded.reference == *reference);
        desired.images.push(DesiredImage {
            reference: reference.clone(),
            platform,
            pull: PullPolicy::Never,
            cooldown: Duration::ZERO,
            groups: BTreeSet::new(),
            engines: Some(of_image.map(|loaded| loaded.engine.name).collect()),
            locked: None,
            back_to: None,
        });
        observed.resolutions.insert(reference.clone(), Resolution::AsRecorded);
        // A second name that is wanted for itself means its own.
        let rows = reference.recorded_names().into_iter().filter_map(|name| recorded.get_key_value(&name));
        observed.recorded.extend(rows.map(|(name, row)| (name.clone(), row.clone())));
        for layer in &*row.layers {
            let state = damaged.get(&layer.digest).copied().unwrap_or(LayerState::Complete);
            observed.layers.insert(layer.digest.clone(), state);
        }
    }
    (desired, observed)
}

/// The layers that are not in order, as the planner knows them.
fn damaged_layers<'f>(found: &'f Found<'_>) -> BTreeMap<&'f BlobDigest, LayerState> {
    let state = |layer: &VerifiedLayer| match layer.found.status {
        Status::Missing => Some(LayerState::Missing),
        status => status.is_damaged().then_some(LayerState::Untrusted),
    };
    found.layers.iter().filter_map(|layer| Some((&layer.digest, state(layer)?))).collect()
}
