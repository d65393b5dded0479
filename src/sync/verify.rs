//! `verify`: the recorded images' layers against their inventories, and `--repair`, which fetches damaged ones
//! again.
//!
//! Verifying takes no lock and writes nothing. Repairing is an ordinary plan whose layers are observed to be
//! damaged: the same executor fetches, checks, and exchanges the directories; rows are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::prune::unknown;
use super::{Failure, ImagesSource, Loaded, Session};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::execute::Executor;
use crate::extract;
use crate::image_ref::ImageRef;
use crate::plan;
use crate::progress::Event;
use crate::state::{
    Desired, DesiredImage, LayerState, Observed, Owner, PullPolicy, RecordedImage, Resolution,
};
use crate::store::{self, OpenedLayer, Places, Store, layer_path};
use crate::sys;

/// Layers compared at once, at most: each keeps some directories open.
const MAX_THREADS: usize = 32;
/// Files that a thread which compares a layer has open, more or less.
const FILES_OF_A_THREAD: usize = 24;
/// A layer that somebody replaces while it is compared is looked at again, so often.
const LOOKS: usize = 3;

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStatus {
    /// As it was extracted.
    Ok,
    /// There is no directory.
    Missing,
    /// There is a directory, but no readable inventory of it: msb-sync has not finished it.
    Incomplete,
    /// Something in it is not as it was extracted.
    Modified,
}

impl LayerStatus {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Incomplete => "incomplete",
            Self::Modified => "modified",
        }
    }
}

/// A layer and how it was found.
#[derive(Clone, Debug)]
pub struct VerifiedLayer {
    /// Which.
    pub digest: BlobDigest,
    /// The directory of layers that it is in.
    pub directory: PathBuf,
    /// Bytes of its blob.
    pub size: u64,
    /// The images that it is part of, sorted.
    pub images: BTreeSet<ImageRef>,
    /// How it is now.
    pub status: LayerStatus,
    /// What is or was wrong, for people.
    pub detail: Option<String>,
    /// Whether it was damaged and is in order now.
    pub repaired: bool,
}

/// What `verify` found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Each layer once, sorted by digest.
    pub layers: Vec<VerifiedLayer>,
}

impl Verified {
    /// How many layers have `status`.
    pub fn count(&self, status: LayerStatus) -> usize {
        self.layers.iter().filter(|layer| layer.status == status).count()
    }

    /// Whether every layer is in order now.
    pub fn succeeded(&self) -> bool {
        self.count(LayerStatus::Ok) == self.layers.len()
    }
}

impl Session {
    /// Compares the layers of recorded images with what was recorded of them; damaged ones are replaced if
    /// `repair`. Without `references`: of all images that msb-sync recorded.
    ///
    /// # Errors
    /// See [`Failure`]; damage is in the result.
    pub fn verify(&self, references: &[ImageRef], repair: bool) -> Result<Verified, Failure> {
        if repair {
            // What is wrong with it is said before anything is looked at.
            self.machine()?;
        }
        let recorded: BTreeMap<ImageRef, RecordedImage> = match Catalog::open_read_only(&self.catalog_path())?
        {
            Some(catalog) => catalog.all()?.into_iter().map(|row| (row.reference.clone(), row)).collect(),
            None => BTreeMap::new(),
        };
        let missing: Vec<&ImageRef> =
            references.iter().filter(|reference| !recorded.contains_key(reference)).collect();
        if !missing.is_empty() {
            return Err(unknown(missing.into_iter(), &recorded));
        }
        // Of what only microsandbox pulled there are no inventories to compare with.
        let wanted = |row: &&RecordedImage| match references {
            [] => row.digest.is_some() || !row.owners.is_empty(),
            _ => references.contains(&row.reference),
        };
        let mut verified = Verified { layers: self.layers_to_verify(recorded.values().filter(wanted)) };
        self.compare(verified.layers.iter_mut().collect())?;
        if repair && !verified.succeeded() {
            self.repair(&mut verified, &recorded)?;
        }
        Ok(verified)
    }

    fn layers_to_verify<'a>(&self, images: impl Iterator<Item = &'a RecordedImage>) -> Vec<VerifiedLayer> {
        let mut layers: BTreeMap<(BlobDigest, PathBuf), VerifiedLayer> = BTreeMap::new();
        for image in images {
            let directory = self.layers_of(image);
            for layer in &*image.layers {
                let verified = layers.entry((layer.digest.clone(), directory.clone())).or_insert_with(|| {
                    VerifiedLayer {
                        digest: layer.digest.clone(),
                        directory: directory.clone(),
                        size: layer.size,
                        images: BTreeSet::new(),
                        status: LayerStatus::Missing,
                        detail: None,
                        repaired: false,
                    }
                });
                verified.images.insert(image.reference.clone());
            }
        }
        layers.into_values().collect()
    }

    /// Looks at layers, several at once, the biggest first.
    pub(super) fn compare(&self, mut layers: Vec<&mut VerifiedLayer>) -> Result<(), Failure> {
        if layers.is_empty() {
            return Ok(());
        }
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        self.reporter.report(Event::Comparing { layers: layers.len(), bytes });
        let affordable = (sys::open_files_limit() / FILES_OF_A_THREAD).saturating_sub(1).max(1);
        let threads = self.jobs().min(layers.len()).min(MAX_THREADS).min(affordable);
        let layers: Vec<Mutex<&mut VerifiedLayer>> = layers.into_iter().map(Mutex::new).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Nobody else takes this one.
                let mut layer = layer.lock().unwrap_or_else(PoisonError::into_inner);
                if self.cancel.is_cancelled() {
                    break;
                }
                (layer.status, layer.detail) = self.compare_layer(&layer.directory, &layer.digest);
                self.reporter.report(Event::Compared(layer.digest.clone()));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Refused by the system: then there are fewer.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        if self.cancel.is_cancelled() { Err(Error::Stopped.into()) } else { Ok(()) }
    }

    fn compare_layer(&self, directory: &Path, digest: &BlobDigest) -> (LayerStatus, Option<String>) {
        let places = Places::of(directory);
        let mut looks = 0;
        loop {
            looks += 1;
            let opened = places.open(digest);
            let identity = opened.identity().ok().flatten();
            let found = match opened {
                OpenedLayer::Missing => {
                    let path = layer_path(directory, digest);
                    (LayerStatus::Missing, Some(format!("there is no directory {}", path.display())))
                }
                OpenedLayer::Incomplete(why) => (LayerStatus::Incomplete, Some(why)),
                OpenedLayer::Complete { tree, mut inventory } => {
                    match extract::verify(&tree, &mut inventory, &self.cancel) {
                        Ok(found) if found.count == 0 => (LayerStatus::Ok, None),
                        Ok(found) => (LayerStatus::Modified, Some(found.to_string())),
                        Err(error) => {
                            (LayerStatus::Incomplete, Some(format!("its record cannot be read: {error}")))
                        }
                    }
                }
            };
            let replaced = || places.open(digest).identity().ok().flatten() != identity;
            if found.0 == LayerStatus::Ok || looks == LOOKS || !replaced() {
                return found;
            }
        }
    }

    // ---------------------------------------------------------------------------------------------- repair

    fn repair(
        &self,
        verified: &mut Verified,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Result<(), Failure> {
        let damaged = |layer: &&mut VerifiedLayer| layer.status != LayerStatus::Ok;
        let directories: BTreeSet<PathBuf> =
            verified.layers.iter_mut().filter(damaged).map(|layer| layer.directory.clone()).collect();
        let mut files = BTreeMap::new();
        for directory in directories {
            let layers = verified.layers.iter_mut().filter(damaged);
            self.repair_in(
                &directory,
                layers.filter(|layer| layer.directory == directory).collect(),
                recorded,
                &mut files,
            )?;
        }
        Ok(())
    }

    /// Repairs the layers of one directory; those of images with the same owner in one go.
    fn repair_in(
        &self,
        directory: &Path,
        mut layers: Vec<&mut VerifiedLayer>,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
        files: &mut BTreeMap<Owner, Option<Loaded>>,
    ) -> Result<(), Failure> {
        let by_owner = self.by_owner(&layers, recorded, files);
        // Should it be gone, it is made as the images file says.
        let read = by_owner.keys().find_map(|owner| files.get(owner)?.as_ref());
        let mode = read.map_or(store::PRIVATE_MODE, |loaded| loaded.file.settings.layers_mode);
        store::make_directory(&self.home, store::PRIVATE_MODE)?;
        store::make_directory(directory, mode)?;
        let _locks = self.lock([directory])?;
        let mut catalog = Catalog::open(&self.catalog_path())?;
        let store = Store::open(directory, &self.downloads_path())?;
        self.tell_left(&store.recover()?.left);
        let mut causes = vec![None; layers.len()];
        // Whoever had the lock may have repaired some already.
        self.look_after_repair(&mut layers, &mut causes)?;
        for (owner, images) in by_owner {
            let (desired, observed) = wanted_for_repair(&owner, directory, &images, &layers);
            let plan = plan::plan(&desired, &observed);
            if plan.fetches.is_empty() {
                continue;
            }
            let (registries, settings) = match files.get(&owner) {
                Some(Some(loaded)) => (loaded.file.registries.clone(), loaded.file.settings.clone()),
                _ => self.without_file()?,
            };
            let outcome = Executor {
                registries: &self.open_registries(registries, &settings),
                store: &store,
                catalog: &mut catalog,
                owner: &owner,
                downloads: settings.downloads,
                jobs: self.jobs(),
                ownership: settings.ownership,
                limits: settings.limits,
                reporter: &*self.reporter,
                cancel: &self.cancel,
                enough: &|| false,
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
            self.look_after_repair(&mut layers, &mut causes)?;
        }
        for (layer, cause) in layers.iter_mut().zip(causes) {
            if layer.status != LayerStatus::Ok {
                let cause = cause.unwrap_or_else(|| "msb-sync did not record its image".to_owned());
                let found = layer.detail.take().map(|detail| format!("{detail}; ")).unwrap_or_default();
                layer.detail = Some(format!("{found}not repaired: {cause}"));
            }
        }
        Ok(())
    }

    /// The images of `layers`, each with the owner whose images file can be read, if there is one.
    fn by_owner<'r>(
        &self,
        layers: &[&mut VerifiedLayer],
        recorded: &'r BTreeMap<ImageRef, RecordedImage>,
        files: &mut BTreeMap<Owner, Option<Loaded>>,
    ) -> BTreeMap<Owner, BTreeMap<ImageRef, &'r RecordedImage>> {
        let mut by_owner: BTreeMap<Owner, BTreeMap<ImageRef, &RecordedImage>> = BTreeMap::new();
        for reference in layers.iter().flat_map(|layer| &layer.images) {
            let Some(row) = recorded.get(reference) else { continue };
            let row = row.alias_of.as_ref().and_then(|first| recorded.get(first)).unwrap_or(row);
            for owner in &row.owners {
                files.entry(owner.clone()).or_insert_with(|| self.load_for_repair(owner));
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
        &self,
        layers: &mut [&mut VerifiedLayer],
        causes: &mut [Option<String>],
    ) -> Result<(), Failure> {
        let before: Vec<(LayerStatus, Option<String>)> =
            layers.iter().map(|layer| (layer.status, layer.detail.clone())).collect();
        let damaged = layers.iter_mut().filter(|layer| layer.status != LayerStatus::Ok);
        self.compare(damaged.map(|layer| &mut **layer).collect())?;
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
    fn load_for_repair(&self, owner: &Owner) -> Option<Loaded> {
        let loaded = self.load(&ImagesSource::Path(owner.file()?));
        if loaded.is_err() {
            self.reporter.report(Event::Warning(format!(
                "{owner} cannot be used; its images are repaired with default settings"
            )));
        }
        loaded.ok()
    }
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
