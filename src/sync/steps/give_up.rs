//! Giving up images, and then the layers that nobody needs: what `prune` and `forget` share.
//!
//! A run looks first without a lock, until it finds something to do. Then it locks, looks at
//! everything, removes the directories and kept blobs that no row needs, drops rows, and then
//! removes what these needed: a crash in between leaves layers that nobody needs, which the next
//! prune finds, and never rows without layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::candidates::{Candidate, Candidates, left_out};
use super::catch_up::{catch_up, mend_index, mend_index_locked};
use super::give_up_parts::{remove_unneeded_blobs, take_out_of_engines, unneeded_blobs};
use super::lock_home::{lock_home, open_store};
use super::needed_here::{Needed, NeededHere};
use super::neighbours::needed_by_other_homes;
use super::totals::layer_totals;
use crate::catalog::{self, Catalog, GivenUp, WritableCatalog};
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::execute::expect_to_forget;
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::plan::Removal;
use crate::progress::{Event, Task};
use crate::state::{LoadedReference, Owner, RecordedImage};
use crate::store::{self, KeptBlob, Leftover, LocatedLayers, Places, RemovedLayers, Store};
use crate::sync::pruned::{KeptLayer, Pruned, RemovedBlob, RemovedLayer, RemovedReference};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys::DirectoryId;
use crate::threads;

/// On what grounds images are given up.
pub(crate) trait Wish: Sized {
    /// Returns the owner who gives the images up; `None`: all owners do.
    fn owner(&self) -> Option<&Owner>;

    /// Returns the owner and the number of earlier digests of each image that he wants spared now;
    /// `None`: the numbers that were recorded count.
    fn keeps_earlier(&self) -> Option<(&Owner, u32)> {
        None
    }

    /// True if the owner gives up everything, and is never heard of again.
    fn ends_owner(&self) -> bool {
        false
    }

    /// Returns the directory of layers where every layer may go that nobody needs, wherever it
    /// comes from, as in all former ones; `None`: only layers of the images may go.
    fn all_layers_in(&self) -> Option<&Path> {
        None
    }

    /// Judges a home without a catalog, where nobody can say which layers are needed.
    fn without_catalog(&self, _session: &Session) -> Result<(), VerbError> {
        Ok(())
    }

    /// Reads again, inside the lock, what the wish was made of.
    fn read_again(self, _session: &Session, _catalog: &Catalog) -> Result<Self, VerbError> {
        Ok(self)
    }

    /// Chooses those of all `loaded` references that nobody wants in their engines any more, the
    /// images `leaving` being given up.
    fn unwanted(
        &self,
        catalog: &Catalog,
        leaving: &BTreeSet<&ImageRef>,
        loaded: Vec<LoadedReference>,
    ) -> Result<Vec<LoadedReference>, VerbError>;

    /// Decides which images go. Inside the lock, somebody else may have done all.
    fn removals(&self, catalog: &Catalog, locked: bool) -> Result<Removals, VerbError>;
}

/// The images that go.
pub(crate) struct Removals {
    /// The images, those whose removal waits among them.
    pub(crate) images: Vec<Removal>,
    /// The recorded images among which they were found.
    pub(crate) recorded: BTreeMap<ImageRef, RecordedImage>,
    /// See [`Pruned::waiting_for`].
    pub(crate) waiting_for: Vec<ImageRef>,
}

/// Sorts rows by their names.
pub(crate) fn by_reference(rows: Vec<RecordedImage>) -> BTreeMap<ImageRef, RecordedImage> {
    rows.into_iter().map(|row| (row.reference.clone(), row)).collect()
}

/// The reason of a layer that no image has needed by the catalog.
const UNRECORDED: &str = "no recorded image needs it";

/// The decision of a run.
#[derive(Default)]
struct Intention {
    images: Vec<Removal>,
    /// See [`Pruned::waiting_for`].
    waiting_for: Vec<ImageRef>,
    /// The directories that were looked into.
    directories: BTreeMap<DirectoryId, Candidate>,
    /// By directory; still needed layers are not among them, layers in use may be.
    layers: BTreeMap<DirectoryId, Vec<RemovedLayer>>,
    leftovers: Vec<Leftover>,
    /// Kept blobs that nobody needs.
    blobs: Vec<KeptBlob>,
    /// References that nobody wants in their engines.
    loaded: Vec<LoadedReference>,
    /// The layers that stay because nobody can look where others are, for people.
    warnings: Vec<String>,
}

/// Gives up what `wish` says, or tells what that would be, beside what the run has `done` before.
pub(crate) fn give_up<W: Wish>(session: &Session, wish: W, mut done: Pruned) -> Result<Pruned, VerbError> {
    let ended = look_and_give_up(session, wish, &mut done);
    done.sort_layers();
    done.ended(ended, session)
}

fn look_and_give_up<W: Wish>(session: &Session, wish: W, done: &mut Pruned) -> Result<(), VerbError> {
    let dry_run = done.dry_run;
    let Some(catalog) = usable_catalog(session, &wish)? else { return wish.without_catalog(session) };
    let look = if dry_run { Look::Everything } else { Look::FirstThing };
    let intention = intend(session, &catalog, &wish, look)?;
    drop(catalog);
    // Another run may just be bringing an image that removals wait for: only under the lock is that
    // known.
    if dry_run || (intention.is_empty() && intention.waiting_for.is_empty()) {
        if !dry_run {
            mend_index(session)?;
            catch_up(session, intention.directories.values().map(|candidate| &*candidate.directory))?;
        }
        intention.in_theory(session, done);
        return Ok(());
    }
    let home = lock_home(session)?;
    if usable_catalog(session, &wish)?.is_none() {
        return wish.without_catalog(session);
    }
    let mut stores = BTreeMap::new();
    for (id, candidate) in &intention.directories {
        let opened = open_swept(session, &home, &candidate.directory, done);
        stores.extend(unless_left_out(session, &wish, candidate, opened)?.map(|store| (*id, store)));
    }
    let mut catalog = WritableCatalog::open(&home)?;
    // Whoever had the lock may have changed what is recorded, and somebody the images file.
    let wish = wish.read_again(session, &catalog)?;
    drop(intention);
    let intention = intend(session, &catalog, &wish, Look::Locked(&stores))?;
    if session.cancel.is_cancelled() {
        return Err(Error::Stopped.into());
    }
    let Intention { images, waiting_for, directories, layers, mut blobs, loaded, warnings, .. } = intention;
    session.warn_of(warnings);
    let mut layers: Vec<_> = layers
        .into_iter()
        .filter_map(|(id, layers)| Some((stores.get(&id)?, directories.get(&id)?, layers)))
        .collect();
    // Where a disk is full no image can be forgotten until there is some room.
    let is_unrecorded = |layer: &RemovedLayer| layer.reason == UNRECORDED;
    if !blobs.is_empty() || layers.iter().any(|(.., layers)| layers.iter().any(is_unrecorded)) {
        remove_unneeded_blobs(session, &home, (&catalog, wish.keeps_earlier()), &mut blobs, done)?;
        remove_unneeded_layers(session, &catalog, &wish, &mut layers, done)?;
    }
    take_out_of_engines(session, &mut catalog, &loaded, done);
    forget(&home, &mut catalog, &wish, &images, done)?;
    (done.images, done.waiting_for) = (images, waiting_for);
    remove_unneeded_blobs(session, &home, (&catalog, wish.keeps_earlier()), &mut blobs, done)?;
    remove_unneeded_layers(session, &catalog, &wish, &mut layers, done)?;
    // Whoever removes blobs writes the index.
    if done.blobs.is_empty() { mend_index_locked(session, &home, &catalog) } else { Ok(()) }
}

/// Removes those of `layers`, each from its directory, that nobody needs by what the catalog says
/// now, and leaves the others in the list.
fn remove_unneeded_layers(
    session: &Session,
    catalog: &Catalog,
    wish: &impl Wish,
    layers: &mut [(&Store, &Candidate, Vec<RemovedLayer>)],
    pruned: &mut Pruned,
) -> Result<(), VerbError> {
    let mut needed_here = NeededHere::new(session);
    let task = Task::RemoveLayers;
    let on_removed = |_: &BlobDigest| session.reporter.report(Event::Advanced { task, things: 1, bytes: 0 });
    for (store, candidate, layers) in layers.iter_mut().filter(|(.., layers)| !layers.is_empty()) {
        let now = GivenUp { images: &BTreeSet::new(), by: None, keeps: wish.keeps_earlier() };
        let needed = needed_here.layers(catalog, &candidate.directory, now)?.layers;
        let unneeded: Vec<RemovedLayer> =
            layers.extract_if(.., |layer| !needed.contains(&layer.digest)).collect();
        if unneeded.is_empty() {
            continue;
        }
        session.reporter.report(Event::Begun { task, things: unneeded.len(), bytes: 0 });
        let digests: Vec<&BlobDigest> = unneeded.iter().map(|layer| &layer.digest).collect();
        let removed = store::remove(store, &digests, session.jobs(), &on_removed).map_err(VerbError::from);
        if let Some(removed) = unless_left_out(session, wish, candidate, removed)? {
            session.warn_of_left(&removed.left);
            pruned.add(unneeded, &removed);
        }
    }
    Ok(())
}

/// Opens the catalog that tells what is needed. Where all layers may go that nobody needs, one that
/// has nothing of ours tells nothing: somebody has emptied it, or microsandbox has made it anew.
fn usable_catalog(session: &Session, wish: &impl Wish) -> Result<Option<Catalog>, VerbError> {
    let catalog = Catalog::open_read_only(&session.home)?;
    Ok(catalog.filter(|catalog| catalog.is_ours() || wish.all_layers_in().is_none()))
}

/// Takes the images that do not wait out of the catalog.
fn forget(
    home: &LockedHome,
    catalog: &mut WritableCatalog,
    wish: &impl Wish,
    images: &[Removal],
    done: &mut Pruned,
) -> Result<(), VerbError> {
    let leaving: Vec<&Removal> = images.iter().filter(|image| image.waits.is_none()).collect();
    if !leaving.is_empty() {
        expect_to_forget(home, catalog)?;
    }
    for group in leaving.chunks(catalog::FORGOTTEN_TOGETHER) {
        let names: Vec<ImageRef> = group.iter().flat_map(|image| image.names.clone()).collect();
        match wish.owner() {
            Some(owner) if wish.ends_owner() => catalog.forget_owner(&names, owner)?,
            owner => catalog.forget(&names, owner)?,
        }
        done.images.extend(group.iter().copied().cloned());
    }
    Ok(())
}

/// Locks and opens a directory of layers, and sweeps it.
fn open_swept(
    session: &Session,
    home: &LockedHome,
    directory: &Path,
    pruned: &mut Pruned,
) -> Result<Store, VerbError> {
    let store = open_store(session, home, directory)?;
    sweep(session, &store, pruned)?;
    Ok(store)
}

/// Returns what was found in a directory of layers; `None`, and a warning, where the directory
/// cannot be used and the run can do without: images are forgotten all the same.
fn unless_left_out<T>(
    session: &Session,
    wish: &impl Wish,
    candidate: &Candidate,
    found: Result<T, VerbError>,
) -> Result<Option<T>, VerbError> {
    match found {
        Err(VerbError::Error(Error::Store(error)))
            if !candidate.is_essential || wish.all_layers_in().is_none() =>
        {
            session.warn(left_out(
                wish.all_layers_in(),
                &candidate.directory,
                &Error::Store(error).chain().join(": "),
            ));
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Finishes or removes what broken runs have left. What can be neither is kept, and named.
fn sweep(session: &Session, store: &Store, pruned: &mut Pruned) -> Result<(), VerbError> {
    let cleared = store::clear(store, session.jobs())?;
    pruned.layers.extend(cleared.gone.into_iter().map(RemovedLayer::from));
    for left in cleared.left {
        match left.digest {
            Some(digest) => pruned.kept.push(KeptLayer { digest, path: left.path, reason: left.reason }),
            None => session.warn_of_left(&[left]),
        }
    }
    Ok(())
}

/// A run's way to look.
#[derive(Clone, Copy)]
enum Look<'s> {
    /// At everything, without locks.
    Everything,
    /// Into each directory until something to remove is found there, without locks.
    FirstThing,
    /// At everything in these directories, under their locks.
    Locked(&'s BTreeMap<DirectoryId, Store>),
}

impl Look<'_> {
    fn is_locked(self) -> bool {
        matches!(self, Self::Locked(_))
    }

    /// Looks on where a layer that is found is no reason to remove something.
    fn at_everything(self) -> Self {
        if self.is_locked() { self } else { Self::Everything }
    }
}

/// Decides; nothing is written. Only directories that are locked are looked into, where some are.
fn intend(
    session: &Session,
    catalog: &Catalog,
    wish: &impl Wish,
    look: Look<'_>,
) -> Result<Intention, VerbError> {
    let Removals { images, mut recorded, waiting_for } = wish.removals(catalog, look.is_locked())?;
    let leaving = || images.iter().filter(|image| image.waits.is_none());
    let waits = images.iter().any(|image| image.waits.is_some());
    let gone: BTreeSet<ImageRef> = leaving().flat_map(|image| &image.gone).cloned().collect();
    let names: BTreeSet<ImageRef> = leaving().flat_map(|image| &image.names).cloned().collect();
    // An image that stays for others may leave behind what none of them wants.
    recorded.retain(|name, _| names.contains(name));
    let (mut candidates, warnings) =
        Candidates::of(session, catalog, wish.all_layers_in(), (&recorded, &gone))?;
    if matches!(look, Look::FirstThing) && !names.is_empty() && !waits && are_sure(session, &candidates) {
        // An image that leaves is a first thing.
        let directories = candidates.0;
        return Ok(Intention { images, waiting_for, directories, warnings, ..Intention::default() });
    }
    candidates.add_layers(session, catalog, &recorded)?;
    let by = wish.owner().map(|owner| (owner, &names));
    let given_up = GivenUp { images: &gone, by, keeps: wish.keeps_earlier() };
    let loaded = wish.unwanted(catalog, &names.iter().collect(), catalog.loaded()?)?;
    let among = wish.all_layers_in().is_none().then_some(&recorded);
    // Where removals wait, all do: an image that is still to come may need any of it.
    let look = if waits { look.at_everything() } else { look };
    let blobs = if waits { Vec::new() } else { unneeded_blobs(session, catalog, given_up, among)? };

    let mut intention = Intention { images, waiting_for, blobs, loaded, warnings, ..Intention::default() };
    let mut needed_here = NeededHere::new(session);
    for (id, mut candidate) in candidates.0 {
        if let Look::Locked(stores) = look
            && !stores.contains_key(&id)
        {
            continue;
        }
        let Needed { layers: needed, in_doubt } =
            needed_here.layers(catalog, &candidate.directory, given_up)?;
        let found = look_into(session, &mut candidate, wish, &needed, look);
        let Some((mut layers, leftovers)) = unless_left_out(session, wish, &candidate, found)? else {
            continue;
        };
        intention.warnings.extend(candidate.stay_in_doubt(wish.all_layers_in().is_some(), in_doubt));
        layers.retain(|_| !waits);
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

/// Tells whether a look into the directories has nothing to say that the one under their locks does
/// not: all are to be locked, and no other home has a claim there.
fn are_sure(session: &Session, candidates: &Candidates) -> bool {
    candidates.0.values().all(|candidate| {
        let others = || store::claims_of_others(&Places::of(&candidate.directory), &session.home);
        candidate.is_essential && others().is_ok_and(|others| others.is_empty())
    })
}

/// Finds the layers in a directory that are not `needed`, and what broken runs have left there.
fn look_into(
    session: &Session,
    candidate: &mut Candidate,
    wish: &impl Wish,
    needed: &BTreeSet<BlobDigest>,
    look: Look<'_>,
) -> Result<(Vec<RemovedLayer>, Vec<Leftover>), VerbError> {
    let places = Places::of(&candidate.directory);
    let mut leftovers = Vec::new();
    let needed_elsewhere = needed_by_other_homes(session, &places, !look.is_locked())?;
    let is_needed = |digest: &BlobDigest| needed.contains(digest) || needed_elsewhere.contains(digest);
    let located = places.locate()?;
    let directory = candidate.directory.clone();
    let look_at = |layer: &(BlobDigest, &str)| removed_layer(&located, &directory, layer);
    if matches!(look, Look::FirstThing) {
        let mut layers = candidate.unneeded(is_needed).into_iter();
        if let Some(first) = layers.find_map(|layer| look_at(&layer).transpose()).transpose()? {
            return Ok((vec![first], leftovers));
        }
    }
    if wish.all_layers_in().is_some() {
        for digest in places.removable(session.jobs(), |digest| !is_needed(digest))? {
            candidate.layers.entry(digest).or_insert(UNRECORDED);
        }
        if !look.is_locked() && places.is_idle() {
            leftovers = places.leftovers()?;
        }
    }
    let unneeded = candidate.unneeded(is_needed);
    let layers = threads::each_with_files("look", session.jobs(), &unneeded, look_at);
    let layers = layers.into_iter().filter_map(Result::transpose).collect::<Result<_, StoreError>>()?;
    Ok((layers, leftovers))
}

/// Describes a layer that is to be removed; `None` if there is no such layer.
fn removed_layer(
    located: &LocatedLayers<'_>,
    directory: &Path,
    (digest, reason): &(BlobDigest, &str),
) -> Result<Option<RemovedLayer>, StoreError> {
    if !located.has(digest)? {
        return Ok(None);
    }
    Ok(Some(RemovedLayer {
        path: store::layer_path(directory, digest),
        size: layer_totals(located, digest).map(|totals| totals.content_bytes).unwrap_or_default(),
        reason: (*reason).to_owned(),
        digest: digest.clone(),
    }))
}

impl Intention {
    fn is_empty(&self) -> bool {
        self.images.iter().all(|image| image.waits.is_some())
            && self.layers.is_empty()
            && self.leftovers.is_empty()
            && self.blobs.is_empty()
            && self.loaded.is_empty()
    }

    /// Reports what would be done.
    fn in_theory(self, session: &Session, done: &mut Pruned) {
        let Self { images, waiting_for, directories, layers, leftovers, blobs, loaded, warnings } = self;
        session.warn_of(warnings);
        (done.images, done.waiting_for) = (images, waiting_for);
        done.blobs.extend(blobs.into_iter().map(RemovedBlob::from));
        done.engines.extend(loaded.iter().map(RemovedReference::from));
        done.layers.extend(leftovers.into_iter().map(RemovedLayer::from));
        for (id, layers) in layers {
            let Some(candidate) = directories.get(&id) else { continue };
            let digests: Vec<&BlobDigest> = layers.iter().map(|layer| &layer.digest).collect();
            let kept = store::layers_in_use(&candidate.directory, &digests);
            let removed =
                digests.iter().filter(|digest| !kept.contains_key(digest)).copied().cloned().collect();
            done.add(layers, &RemovedLayers { removed, kept, left: Vec::new() });
        }
    }
}
