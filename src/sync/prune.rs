//! `prune` and `forget`: forgetting images, then the layers that nobody needs.
//!
//! Both look first without a lock. If there is something to do they lock, look again, drop the rows, and then
//! the directories: a crash in between leaves layers that nobody needs, which the next prune finds, and never
//! rows without layers. `prune` then takes partial downloads that no run is writing. No registry is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::lock::locked_selections;
use super::{Failure, ImagesSource, Loaded, Session, inputs, layer_totals};
use crate::catalog::{self, Catalog};
use crate::diagnostic::nearest;
use crate::digest::BlobDigest;
use crate::error::{Error, InputError, RecordedError};
use crate::image_ref::ImageRef;
use crate::plan::{self, Refusals, Removal};
use crate::progress::Event;
use crate::selection::CompiledRule;
use crate::state::{Desired, LayerState, Observed, Owner, RecordedImage, TagSelection};
use crate::store::{self, Leftover, Lock, PartialDownload, Places, Store};

/// Similar owners that a message names, at most.
const MAX_SIMILAR: usize = 5;

/// What `prune` is asked for.
#[derive(Clone, Debug)]
pub struct PruneRequest {
    /// The images file.
    pub source: ImagesSource,
    /// Change nothing.
    pub dry_run: bool,
    /// Remove all images of a file that lists none.
    pub allow_empty: bool,
}

/// What `prune` and `forget` did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// The images, those whose removal waits among them.
    pub images: Vec<Removal>,
    /// What they wait for: images that the file lists and that are not here; a repository alone stands for a selection
    /// of its tags.
    pub waiting_for: Vec<ImageRef>,
    /// The layer directories.
    pub layers: Vec<RemovedLayer>,
    /// Layers that nobody needs but a running process uses, or that cannot be removed now.
    pub kept: Vec<KeptLayer>,
    /// Partial downloads of runs that did not end.
    pub downloads: Vec<PartialDownload>,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

/// A layer that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedLayer {
    /// Which.
    pub digest: BlobDigest,
    /// Its directory.
    pub path: PathBuf,
    /// Bytes of the files in it, as far as that is recorded.
    pub size: u64,
    /// Why, for people.
    pub reason: String,
}

/// A layer that is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLayer {
    /// Which.
    pub digest: BlobDigest,
    /// Its directory.
    pub path: PathBuf,
    /// Who uses it, or why else it stays, for people.
    pub reason: String,
}

impl Pruned {
    /// Bytes of the layers and downloads that are removed.
    pub fn freed_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        let downloads = self.downloads.iter().map(|download| download.size);
        layers.chain(downloads).fold(0, u64::saturating_add)
    }

    /// The images whose removal waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Removal> {
        self.images.iter().filter(|image| image.waits)
    }

    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.images.len() == self.waiting().count() && self.layers.is_empty() && self.downloads.is_empty()
    }
}

/// On what grounds images are forgotten.
enum Wish {
    /// Their owner does not list them any more; layers that nobody needs go too, wherever they come from.
    Unlisted(Box<Unlisted>),
    /// They are named.
    Named(BTreeSet<ImageRef>),
    /// They are all that their owner has brought.
    Owned(Owner),
}

impl Wish {
    fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Unlisted(unlisted) => Some(&unlisted.desired.owner),
            Self::Named(_) => None,
            Self::Owned(owner) => Some(owner),
        }
    }
}

/// What an images file lists, for those who remove everything else.
struct Unlisted {
    request: PruneRequest,
    loaded: Loaded,
    desired: Desired,
    /// What it lists and what is not here.
    absent: Vec<ImageRef>,
}

/// Device and inode number of a directory of layers, which may have several names. Directories are locked in this
/// order.
type DirectoryId = (u64, u64);

/// A directory of layers that may hold something to remove; it exists.
struct Candidate {
    /// One of its names.
    directory: PathBuf,
    /// Whether the run fails where the directory cannot be used; else it is left out of the run.
    is_essential: bool,
    /// What nobody may need, with the reason.
    layers: BTreeMap<BlobDigest, &'static str>,
}

#[derive(Default)]
struct Candidates(BTreeMap<DirectoryId, Candidate>);

impl Candidates {
    /// The candidate at `directory`, by whatever name it became one; `None` where there is no directory.
    fn entry(&mut self, directory: &Path) -> Option<&mut Candidate> {
        let found = std::fs::metadata(directory).ok().filter(std::fs::Metadata::is_dir)?;
        let new =
            || Candidate { directory: directory.to_owned(), is_essential: false, layers: BTreeMap::new() };
        Some(self.0.entry((found.dev(), found.ino())).or_insert_with(new))
    }
}

/// What is to be done.
#[derive(Default)]
struct Intention {
    images: Vec<Removal>,
    /// See [`Pruned::waiting_for`].
    waiting_for: Vec<ImageRef>,
    /// The directories that were looked into.
    directories: BTreeMap<DirectoryId, Candidate>,
    /// By directory; still needed ones are not among them, ones in use may be.
    layers: BTreeMap<DirectoryId, Vec<RemovedLayer>>,
    leftovers: Vec<Leftover>,
}

impl Session {
    /// Removes the images that the file's owner no longer lists, and layers that nobody needs. As long as an image that
    /// the file lists is not here, no image is removed: no registry is asked, and so nobody knows whether it can be had.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn prune(&self, request: &PruneRequest) -> Result<Pruned, Failure> {
        let loaded = self.load(&request.source)?;
        loaded.refuse_empty(request.allow_empty)?;
        let catalog = Catalog::open_read_only(&self.catalog_path())?;
        let unlisted = self.unlisted(request.clone(), loaded, catalog.as_ref())?;
        drop(catalog);
        let mut pruned = self.give_up(Wish::Unlisted(Box::new(unlisted)), request.dry_run)?;
        pruned.downloads = self.prune_downloads(request.dry_run)?;
        Ok(pruned)
    }

    fn unlisted(
        &self,
        request: PruneRequest,
        loaded: Loaded,
        catalog: Option<&Catalog>,
    ) -> Result<Unlisted, Failure> {
        let mut listed: BTreeSet<ImageRef> =
            loaded.file.images.iter().map(|image| image.reference.clone()).collect();
        let mut absent = Vec::new();
        if let Some(catalog) = catalog {
            let selections = locked_selections(&loaded)?;
            let chosen = selections.iter().filter_map(|selection| selection.locked.as_ref()).flatten();
            listed.extend(chosen.map(|image| image.reference.clone()));
            let wanted: Vec<ImageRef> = listed.iter().cloned().collect();
            let here = catalog.recorded(&wanted)?;
            let here: BTreeSet<&ImageRef> = here.iter().map(|row| &row.reference).collect();
            absent.extend(wanted.into_iter().filter(|reference| !here.contains(reference)));
            let owned = catalog.owned_by(&loaded.owner)?;
            for selection in selections.iter().filter(|selection| selection.locked.is_none()) {
                let of_selection =
                    |row: &&RecordedImage| selection.repository == row.reference.repository_alone();
                let rows: Vec<&RecordedImage> = owned.iter().filter(of_selection).collect();
                if !fits_one(selection, &rows) {
                    absent.push(selection.repository.clone());
                }
                // What it means only its registry can tell: all that it may have brought stays.
                listed.extend(rows.into_iter().map(|row| row.reference.clone()));
            }
        }
        let settings = &loaded.file.settings;
        let desired = Desired {
            owner: loaded.owner.clone(),
            layers_directory: settings.layers.clone().unwrap_or_else(|| self.default_layers()),
            images: Vec::new(),
            selections: Vec::new(),
            listed_elsewhere: listed,
            prune: true,
        };
        Ok(Unlisted { request, loaded, desired, absent })
    }

    /// Under the lock: what the images file lists now, and what is here now. Standard input is read once.
    fn look_again_at(&self, wish: Wish, catalog: &Catalog) -> Result<Wish, Failure> {
        let Wish::Unlisted(unlisted) = wish else { return Ok(wish) };
        let Unlisted { request, mut loaded, .. } = *unlisted;
        if let ImagesSource::Path(_) = request.source {
            loaded = self.quiet().load(&request.source)?;
            loaded.refuse_empty(request.allow_empty)?;
        }
        Ok(Wish::Unlisted(Box::new(self.unlisted(request, loaded, Some(catalog))?)))
    }

    /// Removes the partial downloads of runs that are dead. While a run is at work on this home nobody can say which
    /// of them it writes: then all stay.
    fn prune_downloads(&self, dry_run: bool) -> Result<Vec<PartialDownload>, Failure> {
        let directory = self.downloads_path();
        let mut downloads = store::partial_downloads(&directory)?;
        if downloads.is_empty() || !Lock::is_free(&self.lock_path()) {
            return Ok(Vec::new());
        }
        if !dry_run {
            let _locks = self.lock([])?;
            downloads = store::partial_downloads(&directory)?;
            downloads.retain(|download| match download.remove() {
                Ok(()) => true,
                Err(error) => {
                    self.reporter.report(Event::Warning(error.to_string()));
                    false
                }
            });
        }
        Ok(downloads)
    }

    /// Forgets images, whoever owns them, and removes their layers that nobody else needs.
    ///
    /// # Errors
    /// See [`Failure`]; if one of `references` cannot be forgotten, none is.
    pub fn forget(&self, references: &[ImageRef], dry_run: bool) -> Result<Pruned, Failure> {
        self.give_up(Wish::Named(references.iter().cloned().collect()), dry_run)
    }

    /// Gives up, for the images file at `path`, all images that it brought, and removes those that nobody else
    /// wants, with their layers. There need be no file any more.
    ///
    /// # Errors
    /// See [`Failure`]; the file has brought nothing that is still recorded.
    pub fn forget_owner(&self, path: &Path, dry_run: bool) -> Result<Pruned, Failure> {
        let absolute = inputs::absolute_of_gone(path).map_err(|source| {
            Failure::Input(InputError::NoAbsolutePath { path: path.to_owned(), source }.into())
        })?;
        self.give_up(Wish::Owned(Owner::images_file(&absolute)), dry_run)
    }

    fn give_up(&self, wish: Wish, dry_run: bool) -> Result<Pruned, Failure> {
        let Some(catalog) = Catalog::open_read_only(&self.catalog_path())? else {
            return match &wish {
                Wish::Named(references) => Err(unknown(references.iter(), &BTreeMap::new())),
                Wish::Owned(owner) => Err(unknown_owner(owner, &BTreeMap::new())),
                // Without a catalog nobody can say which layers are needed.
                Wish::Unlisted(_) => Ok(Pruned { dry_run, ..Pruned::default() }),
            };
        };
        let intention = self.intend(&catalog, &wish, None)?;
        drop(catalog);
        // Another run may just be bringing an image that removals wait for: only under the lock is that known.
        if dry_run || (intention.is_empty() && intention.waiting_for.is_empty()) {
            return Ok(intention.in_theory(dry_run));
        }
        let mut locks = self.lock([])?;
        let mut stores = BTreeMap::new();
        let mut pruned = Pruned::default();
        for (id, candidate) in &intention.directories {
            let opened = self.open_locked(&candidate.directory, &mut locks, &mut pruned);
            stores.extend(self.unless_left_out(candidate, opened)?.map(|store| (*id, store)));
        }
        let mut catalog = Catalog::open(&self.catalog_path())?;
        // Whoever had the lock may have changed what is recorded, and somebody the images file.
        let wish = self.look_again_at(wish, &catalog)?;
        let intention = self.intend(&catalog, &wish, Some(&stores))?;
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped.into());
        }
        let leaving: Vec<&Removal> = intention.images.iter().filter(|image| !image.waits).collect();
        for group in leaving.chunks(catalog::GROUP) {
            let names: Vec<ImageRef> = group.iter().flat_map(|image| image.names.clone()).collect();
            catalog.forget(&names, wish.owner())?;
        }
        let Intention { images, waiting_for, directories, layers, .. } = intention;
        (pruned.images, pruned.waiting_for) = (images, waiting_for);
        for (id, layers) in layers {
            let (Some(store), Some(candidate)) = (stores.get(&id), directories.get(&id)) else { continue };
            let needed =
                catalog.layers_needed_in(store.layers(), &self.default_layers(), &BTreeSet::new())?;
            let unneeded: Vec<RemovedLayer> =
                layers.into_iter().filter(|layer| !needed.contains(&layer.digest)).collect();
            let digests: Vec<&BlobDigest> = unneeded.iter().map(|layer| &layer.digest).collect();
            let removed = store.remove(&digests).map_err(Failure::from);
            if let Some(removed) = self.unless_left_out(candidate, removed)? {
                self.tell_left(&removed.left);
                pruned.add(unneeded, &removed.kept);
            }
        }
        Ok(pruned)
    }

    /// Locks and opens a directory of layers, and sweeps it.
    fn open_locked(
        &self,
        directory: &Path,
        locks: &mut Vec<Lock>,
        pruned: &mut Pruned,
    ) -> Result<Store, Failure> {
        self.lock_layers(directory, locks)?;
        let store = Store::open(directory, &self.downloads_path())?;
        store.claim(&self.home)?;
        self.sweep(&store, pruned)?;
        Ok(store)
    }

    /// What was found in a directory of layers; `None`, and a warning, where the directory cannot be used and the run
    /// can do without.
    fn unless_left_out<T>(
        &self,
        candidate: &Candidate,
        found: Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        match found {
            Err(Failure::Error(Error::Store(error))) if !candidate.is_essential => {
                let text = format!(
                    "the former layers directory {} is left out: {}",
                    candidate.directory.display(),
                    Error::Store(error).chain().join(": ")
                );
                self.reporter.report(Event::Warning(text));
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Finishes or removes what broken runs have left. What can be neither is kept, and named.
    fn sweep(&self, store: &Store, pruned: &mut Pruned) -> Result<(), Failure> {
        let before = store.places().leftovers()?;
        store.recover()?;
        let left = store.clear_staging()?;
        // What could be finished is a layer like any other now.
        let finished = store.places().removable()?;
        let gone = |leftover: &Leftover| {
            let stays = left.iter().any(|left| left.path == leftover.path);
            !stays && !finished.contains(&leftover.digest)
        };
        pruned.layers.extend(before.into_iter().filter(gone).map(RemovedLayer::from));
        for left in left {
            match left.digest {
                Some(digest) => pruned.kept.push(KeptLayer { digest, path: left.path, reason: left.reason }),
                None => self.tell_left(&[left]),
            }
        }
        Ok(())
    }

    /// Decides; nothing is written. Under the locks, only the directories in `locked` are looked into.
    fn intend(
        &self,
        catalog: &Catalog,
        wish: &Wish,
        locked: Option<&BTreeMap<DirectoryId, Store>>,
    ) -> Result<Intention, Failure> {
        let recorded = match wish {
            Wish::Unlisted(unlisted) => catalog.owned_by(&unlisted.desired.owner)?,
            Wish::Named(_) | Wish::Owned(_) => catalog.all()?,
        };
        let recorded: BTreeMap<ImageRef, RecordedImage> =
            recorded.into_iter().map(|row| (row.reference.clone(), row)).collect();
        let mut observed = Observed { recorded, ..Observed::default() };
        let images = match wish {
            Wish::Unlisted(unlisted) => {
                plan::removals(&unlisted.desired, &observed, !unlisted.absent.is_empty())
            }
            Wish::Named(references) => plan::removals_of(references, &observed.recorded)
                .map_err(|refusals| refused(refusals, &observed.recorded))?,
            Wish::Owned(owner) => match plan::removals_of_owner(owner, &observed.recorded) {
                // Under the lock, somebody else may have done all.
                none if none.is_empty() && locked.is_none() => {
                    return Err(unknown_owner(owner, &observed.recorded));
                }
                images => images,
            },
        };
        let leaving = images.iter().filter(|image| !image.waits);
        let gone: BTreeSet<ImageRef> = leaving.flat_map(|image| &image.gone).cloned().collect();
        observed.recorded.retain(|name, _| gone.contains(name));

        let mut candidates = Candidates::default();
        for row in observed.recorded.values() {
            let Some(candidate) = candidates.entry(&self.layers_of(row)) else { continue };
            candidate.is_essential |= !matches!(wish, Wish::Unlisted(_));
            let digests = row.layers.iter().map(|layer| layer.digest.clone());
            candidate.layers.extend(digests.map(|digest| (digest, "no image needs it any more")));
        }
        let mut waiting_for = Vec::new();
        if let Wish::Unlisted(unlisted) = wish {
            if images.iter().any(|image| image.waits) {
                waiting_for.clone_from(&unlisted.absent);
            }
            if let Some(own) = candidates.entry(&unlisted.desired.layers_directory) {
                own.is_essential = true;
            }
            for directory in catalog.layers_directories()? {
                candidates.entry(&directory);
            }
        }
        let mut intention = Intention { images, waiting_for, ..Intention::default() };
        for (id, mut candidate) in candidates.0 {
            if locked.is_some_and(|locked| !locked.contains_key(&id)) {
                continue;
            }
            let needed = catalog.layers_needed_in(&candidate.directory, &self.default_layers(), &gone)?;
            let found = self.look_into(&mut candidate, wish, &needed, locked.is_some());
            let Some((layers, leftovers)) = self.unless_left_out(&candidate, found)? else { continue };
            // Where nothing is to be done, nothing is locked or made.
            if candidate.is_essential || !(layers.is_empty() && leftovers.is_empty()) {
                intention.directories.insert(id, candidate);
            }
            intention.leftovers.extend(leftovers);
            if !layers.is_empty() {
                intention.layers.insert(id, layers);
            }
        }
        Ok(intention)
    }

    /// What a directory of layers holds that is not `needed`, and what broken runs have left there.
    fn look_into(
        &self,
        candidate: &mut Candidate,
        wish: &Wish,
        needed: &BTreeSet<BlobDigest>,
        locked: bool,
    ) -> Result<(Vec<RemovedLayer>, Vec<Leftover>), Failure> {
        let places = Places::of(&candidate.directory);
        let mut leftovers = Vec::new();
        if let Wish::Unlisted(_) = wish {
            for digest in places.removable()? {
                candidate.layers.entry(digest).or_insert("no recorded image needs it");
            }
            if !locked && places.is_idle() {
                leftovers = places.leftovers()?;
            }
        }
        let needed_elsewhere = self.needed_by_other_homes(&places, !locked)?;
        let located = places.locate()?;
        let mut layers = Vec::new();
        for (digest, reason) in &candidate.layers {
            let is_needed = needed.contains(digest) || needed_elsewhere.contains(digest);
            if !is_needed && located.state(digest)? != LayerState::Missing {
                layers.push(removed_layer(&candidate.directory, &places, digest.clone(), reason));
            }
        }
        Ok((layers, leftovers))
    }
}

impl Intention {
    fn is_empty(&self) -> bool {
        self.images.iter().all(|image| image.waits) && self.layers.is_empty() && self.leftovers.is_empty()
    }

    /// What would be done.
    fn in_theory(self, dry_run: bool) -> Pruned {
        let Self { images, waiting_for, directories, layers, leftovers } = self;
        let mut pruned = Pruned { images, waiting_for, dry_run, ..Pruned::default() };
        pruned.layers.extend(leftovers.into_iter().map(RemovedLayer::from));
        for (id, layers) in layers {
            let Some(candidate) = directories.get(&id) else { continue };
            let digests: Vec<&BlobDigest> = layers.iter().map(|layer| &layer.digest).collect();
            let in_use = store::layers_in_use(&candidate.directory, &digests);
            pruned.add(layers, &in_use);
        }
        pruned
    }
}

impl Pruned {
    fn add(&mut self, layers: Vec<RemovedLayer>, in_use: &BTreeMap<BlobDigest, String>) {
        for layer in layers {
            match in_use.get(&layer.digest) {
                Some(who) => {
                    let RemovedLayer { digest, path, .. } = layer;
                    self.kept.push(KeptLayer { digest, path, reason: who.clone() });
                }
                None => self.layers.push(layer),
            }
        }
    }
}

impl From<Leftover> for RemovedLayer {
    fn from(leftover: Leftover) -> Self {
        let Leftover { digest, path, size } = leftover;
        Self { digest, path, size, reason: "left by a run that did not end".to_owned() }
    }
}

/// Whether one of these images is one that `selection` may have chosen.
fn fits_one(selection: &TagSelection, rows: &[&RecordedImage]) -> bool {
    let of_platform = |row: &&&RecordedImage| row.platform.as_ref() == Some(&selection.platform);
    let tags = rows.iter().filter(of_platform).filter_map(|row| row.reference.tag());
    CompiledRule::new(&selection.rule).is_ok_and(|rule| !rule.choose(tags).is_empty())
}

fn removed_layer(directory: &Path, places: &Places, digest: BlobDigest, reason: &str) -> RemovedLayer {
    let totals = layer_totals(places, &digest).unwrap_or_default();
    let path = store::layer_path(directory, &digest);
    RemovedLayer { path, size: totals.content_bytes, reason: reason.to_owned(), digest }
}

/// The error for references that are not recorded, with the nearest ones that are.
pub(super) fn unknown<'a>(
    references: impl Iterator<Item = &'a ImageRef>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> Failure {
    let names: Vec<String> = recorded.keys().map(ToString::to_string).collect();
    let references: Vec<ImageRef> = references.cloned().collect();
    let nearest: BTreeSet<String> = references
        .iter()
        .filter_map(|reference| nearest(&reference.to_string(), names.iter().map(String::as_str)))
        .map(str::to_owned)
        .collect();
    Failure::Error(RecordedError::Unknown { references, nearest }.into())
}

/// The error for an owner of nothing, with the owners that it may have been meant for: files of the same name, or of
/// nearly the same path.
fn unknown_owner(owner: &Owner, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Failure {
    let owners: BTreeSet<&str> =
        recorded.values().flat_map(|row| &row.owners).map(|other| other.0.as_str()).collect();
    let file_name = |owner: &str| owner.rsplit('/').next().map(str::to_owned);
    let mut near: Vec<&str> = nearest(&owner.0, owners.iter().copied()).into_iter().collect();
    let namesakes = owners.iter().filter(|other| file_name(other) == file_name(&owner.0));
    for other in namesakes {
        if !near.contains(other) {
            near.push(other);
        }
    }
    let nearest = near.into_iter().take(MAX_SIMILAR).map(str::to_owned).collect();
    Failure::Error(RecordedError::UnknownOwner { owner: owner.0.clone(), nearest }.into())
}

/// The error for what cannot be forgotten; the unknown ones first.
fn refused(refusals: Refusals, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Failure {
    let Refusals { unknown: unknowns, refused } = refusals;
    if unknowns.is_empty() {
        return Failure::Error(RecordedError::NotForgotten { refused }.into());
    }
    unknown(unknowns.iter(), recorded)
}
