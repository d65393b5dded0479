//! The half of `verify --repair` that writes: damaged layers fetched again.
//!
//! Repairing is an ordinary plan whose layers are observed to be damaged: the same executor
//! fetches, checks, and exchanges the directories; rows are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::request::ImagesSource;
use super::session::Session;
use super::steps::compare::{LayerStatus, VerifiedLayer, compare};
use super::steps::engines;
use super::steps::load::{Loaded, load};
use super::steps::lock_home::{lock_home, open_store};
use super::steps::machine::without_file;
use super::steps::registries;
use super::verb_error::VerbError;
use crate::catalog::WritableCatalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::execute::Executor;
use crate::image_ref::ImageRef;
use crate::plan;
use crate::state::{
    Desired, DesiredImage, LayerState, Observed, Owner, PullPolicy, RecordedImage, Resolution, Targets,
};
use crate::store;

/// Replaces the damaged ones of `layers`.
pub(super) fn repair(
    session: &Session,
    layers: &mut [VerifiedLayer],
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> Result<(), VerbError> {
    let damaged = |layer: &&mut VerifiedLayer| layer.status != LayerStatus::Ok;
    let directories: BTreeSet<PathBuf> =
        layers.iter_mut().filter(damaged).map(|layer| layer.directory.clone()).collect();
    let mut files = BTreeMap::new();
    for directory in directories {
        let damaged = layers.iter_mut().filter(damaged);
        repair_in(
            session,
            &directory,
            damaged.filter(|layer| layer.directory == directory).collect(),
            recorded,
            &mut files,
        )?;
    }
    Ok(())
}

/// Repairs the layers of one directory; those of images with the same owner in one go.
fn repair_in(
    session: &Session,
    directory: &Path,
    mut layers: Vec<&mut VerifiedLayer>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
    files: &mut BTreeMap<Owner, Option<Loaded>>,
) -> Result<(), VerbError> {
    let by_owner = by_owner(session, &layers, recorded, files);
    // Should it be gone, it is made as the images file says.
    let read = by_owner.keys().find_map(|owner| files.get(owner)?.as_ref());
    let mode = read.map_or(store::PRIVATE_MODE, |loaded| loaded.file.settings.layers_mode);
    store::make_directory(&session.home, store::PRIVATE_MODE)?;
    store::make_directory(directory, mode)?;
    let home = lock_home(session)?;
    let store = open_store(session, &home, directory)?;
    let mut catalog = WritableCatalog::open(&home)?;
    session.warn_of_left(&store::recover(&store)?.left);
    let mut causes = vec![None; layers.len()];
    // Whoever had the lock may have repaired some already.
    look_after_repair(session, &mut layers, &mut causes)?;
    for (owner, images) in by_owner {
        let (desired, observed) = wanted_for_repair(&owner, directory, &images, &layers);
        let plan = plan::plan(&desired, &observed);
        if plan.fetches.is_empty() {
            continue;
        }
        let (registries, settings) = match files.get(&owner) {
            Some(Some(loaded)) => (loaded.file.registries.clone(), loaded.file.settings.clone()),
            _ => without_file(session)?,
        };
        let outcome = Executor {
            registries: &registries::open(session, registries, &settings),
            store: &store,
            catalog: &mut catalog,
            engines: &engines::of(session),
            owner: &owner,
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
        for (layer, cause) in layers.iter().zip(&mut causes) {
            let failed = outcome.images.iter().find(|(image, _, error)| {
                error.is_some() && images.get(image).is_some_and(|row| has(row, &layer.digest))
            });
            if let Some((_, _, Some(error))) = failed {
                *cause = Some(error.chain().join(": "));
            }
        }
        look_after_repair(session, &mut layers, &mut causes)?;
    }
    explain(&mut layers, causes);
    Ok(())
}

/// Says of each layer that is still damaged why it was not repaired.
fn explain(layers: &mut [&mut VerifiedLayer], causes: Vec<Option<String>>) {
    for (layer, cause) in layers.iter_mut().zip(causes) {
        if layer.status != LayerStatus::Ok {
            let cause = cause.unwrap_or_else(|| "msb-sync did not record its image".to_owned());
            let found = layer.detail.take().map(|detail| format!("{detail}; ")).unwrap_or_default();
            layer.detail = Some(format!("{found}not repaired: {cause}"));
        }
    }
}

/// Returns the images of `layers`, each with the owner whose images file can be read, if there is
/// one.
fn by_owner<'r>(
    session: &Session,
    layers: &[&mut VerifiedLayer],
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
    files: &mut BTreeMap<Owner, Option<Loaded>>,
) -> BTreeMap<Owner, BTreeMap<ImageRef, &'r RecordedImage>> {
    let mut by_owner: BTreeMap<Owner, BTreeMap<ImageRef, &RecordedImage>> = BTreeMap::new();
    for reference in layers.iter().flat_map(|layer| &layer.images) {
        let Some(row) = recorded.get(reference) else { continue };
        let row = row.alias_of.as_ref().and_then(|first| recorded.get(first)).unwrap_or(row);
        for owner in &row.owners {
            files.entry(owner.clone()).or_insert_with(|| load_for_repair(session, owner));
        }
        let read = row.owners.iter().find(|owner| files.get(owner).is_some_and(Option::is_some));
        if let Some(owner) = read.or(row.owners.first()) {
            by_owner.entry(owner.clone()).or_default().insert(row.reference.clone(), row);
        }
    }
    by_owner
}

/// Compares the layers that were damaged again.
fn look_after_repair(
    session: &Session,
    layers: &mut [&mut VerifiedLayer],
    causes: &mut [Option<String>],
) -> Result<(), VerbError> {
    let before: Vec<(LayerStatus, Option<String>)> =
        layers.iter().map(|layer| (layer.status, layer.detail.clone())).collect();
    let damaged = layers.iter_mut().filter(|layer| layer.status != LayerStatus::Ok);
    compare(session, damaged.map(|layer| &mut **layer).collect())?;
    for ((layer, (status, detail)), cause) in layers.iter_mut().zip(before).zip(causes) {
        if status != LayerStatus::Ok && layer.status == LayerStatus::Ok {
            layer.repaired = true;
            let was = detail.unwrap_or_else(|| status.as_str().to_owned());
            layer.detail = Some(format!("was: {was}"));
            *cause = None;
        }
    }
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

fn has(image: &RecordedImage, digest: &BlobDigest) -> bool {
    image.layers.iter().any(|layer| layer.digest == *digest)
}

/// The images as they are recorded, and their damaged layers as not there.
fn wanted_for_repair(
    owner: &Owner,
    directory: &Path,
    images: &BTreeMap<ImageRef, &RecordedImage>,
    layers: &[&mut VerifiedLayer],
) -> (Desired, Observed) {
    let damaged: BTreeMap<&BlobDigest, LayerState> = layers
        .iter()
        .filter(|layer| layer.status != LayerStatus::Ok)
        .map(|layer| match layer.status {
            LayerStatus::Missing => (&layer.digest, LayerState::Missing),
            _ => (&layer.digest, LayerState::Untrusted),
        })
        .collect();
    let mut desired = Desired {
        owner: owner.clone(),
        layers_directory: directory.to_owned(),
        images: Vec::new(),
        selections: Vec::new(),
        listed_elsewhere: BTreeSet::new(),
        targets: Targets::default(),
        prune: false,
    };
    let mut observed = Observed::default();
    for (reference, &row) in images {
        let Some(platform) = row.platform.clone() else { continue };
        if !row.layers.iter().any(|layer| damaged.contains_key(&layer.digest)) {
            continue;
        }
        desired.images.push(DesiredImage {
            reference: reference.clone(),
            platform,
            pull: PullPolicy::Never,
            groups: BTreeSet::new(),
            engines: None,
            locked: None,
        });
        observed.resolutions.insert(reference.clone(), Resolution::AsRecorded);
        observed.recorded.insert(reference.clone(), row.clone());
        for layer in &*row.layers {
            let state = damaged.get(&layer.digest).copied().unwrap_or(LayerState::Complete);
            observed.layers.insert(layer.digest.clone(), state);
        }
    }
    (desired, observed)
}
