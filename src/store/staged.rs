//! Layers on their way in: staged, ready, given their names in groups.
//!
//! A layer that cannot have its name (something is mounted there, or what has the name must not be
//! changed) fails alone, and stays staged if it is ready: a later run of this boot gives it its
//! name without fetching it again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::Store;
use super::directories::PRIVATE_MODE;
use super::names::{
    FILE_MODE, INVENTORY, MAX_NAMES, READY, REPLACED, TREE, layer_name, layer_path, staged_digest,
};
use super::removal::{refuse_mounts, refused, remove_in_place};
use super::staging::{Left, free_name, remove_staged, revoke, staged_path, unmark_unneeded};
use super::usage::layers_in_use;
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::state::LayerState;
use crate::sys::{self, Kind};

/// The most bytes of the mark that a staged layer is ready: one line.
const MAX_MARK: u64 = 4096;
/// The inventory of a tree that another program extracted, in staging.
const ADOPTED: &[u8] = b"adopted";

/// A layer on its way. Dropped without [`commit`] it is removed.
#[derive(Debug)]
pub(crate) struct Staged<'s> {
    pub(super) store: &'s Store,
    pub(super) digest: BlobDigest,
    /// The name of the layer in staging.
    name: Vec<u8>,
    pub(super) directory: OwnedFd,
    pub(super) armed: bool,
}

impl Staged<'_> {
    /// The layer.
    pub(crate) fn digest(&self) -> &BlobDigest {
        &self.digest
    }

    /// Opens the empty directory for the layer's entries.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn tree(&self) -> Result<OwnedFd, StoreError> {
        sys::open_directory_beneath(self.directory.as_fd(), TREE).map_err(StoreError::io("open", self.path()))
    }

    /// Makes an empty file for the inventory, open for reading and writing.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn inventory(&self) -> Result<File, StoreError> {
        sys::make_own_file(self.directory.as_fd(), INVENTORY, FILE_MODE)
            .map_err(StoreError::io("create", self.path().join("record")))
    }

    /// Declares that tree and inventory are complete and verified: from now on a run that dies
    /// loses nothing.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub(crate) fn ready(&self) -> Result<(), StoreError> {
        use std::io::Write;
        let path = self.path().join("ready");
        let mut file = sys::make_own_file(self.directory.as_fd(), READY, FILE_MODE)
            .map_err(StoreError::io("create", &path))?;
        file.write_all(sys::boot_id().unwrap_or_default().as_bytes()).map_err(StoreError::io("write", path))
    }

    /// Opens the tree that has the layer's name and is not ours: another program extracted it.
    /// `None` if there is none.
    pub(crate) fn foreign(&self) -> Option<OwnedFd> {
        // Usually there is nothing, and one look says so.
        sys::metadata(self.store.layers_directory.as_fd(), &layer_name(&self.digest)).ok()??;
        // Neither ours nor a damaged one of ours, which is to be repaired.
        if !matches!(self.store.places.state(&self.digest), Ok(LayerState::Untrusted)) {
            return None;
        }
        sys::open_directory_beneath(self.store.layers_directory.as_fd(), &layer_name(&self.digest)).ok()
    }

    /// Opens the inventory, to be read, and an empty file for one of another tree of the same
    /// layer: see [`Staged::adopt`].
    ///
    /// # Errors
    /// They cannot be opened.
    pub(crate) fn inventories(&self) -> Result<(File, File), StoreError> {
        let directory = self.directory.as_fd();
        let failed = || StoreError::io("open the records in", self.path());
        let inventory = sys::open_own_file(directory, INVENTORY).map_err(failed())?;
        Ok((inventory, sys::make_own_file(directory, ADOPTED, FILE_MODE).map_err(failed())?))
    }

    /// Takes the tree that has the layer's name already for the layer, with the second of
    /// [`Staged::inventories`] as its inventory. The staged tree is removed; [`Staged::ready`] is
    /// to follow.
    ///
    /// # Errors
    /// The inventory is not on disk, or the tree cannot be removed.
    pub(crate) fn adopt(&self, inventory: &File) -> Result<(), StoreError> {
        let failed = || StoreError::io("take over the record in", self.path());
        let directory = self.directory.as_fd();
        // A staged layer that is ready and has no tree is taken for placed, also after a power
        // loss.
        sys::sync(inventory.as_fd()).map_err(failed())?;
        sys::rename_over(directory, ADOPTED, directory, INVENTORY).map_err(failed())?;
        sys::sync(directory).map_err(failed())?;
        sys::remove_tree(directory, TREE).map_err(|kept| {
            StoreError::io("remove the tree in", self.path())(kept.under(&self.path()).into())
        })
    }

    /// Removes the place where the layer was staged, with the tree that the layer has replaced, if
    /// there is one.
    fn remove_emptied(&self) -> Result<(), Left> {
        // Mostly the mark is all that is left in there.
        let removed = revoke(self.directory.as_fd())
            .and_then(|()| sys::remove_directory(self.store.staging_directory.as_fd(), &self.name));
        removed.or_else(|_| remove_staged(self.store, &self.name))
    }

    pub(super) fn path(&self) -> PathBuf {
        staged_path(self.store, &self.name)
    }

    fn final_path(&self) -> PathBuf {
        layer_path(self.store.layers(), &self.digest)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.armed {
            // A thing that cannot be removed now is swept by the next run.
            let _ = remove_staged(self.store, &self.name);
        }
    }
}

/// Makes an empty place for a layer to be extracted into.
///
/// # Errors
/// It cannot be made.
pub(crate) fn stage<'s>(store: &'s Store, digest: &BlobDigest) -> Result<Staged<'s>, StoreError> {
    // The inventory will be replaced in the end; one that may not be is told before anything is
    // fetched.
    sys::has_own_file(store.inventories_directory.as_fd(), digest.text().as_bytes())
        .map_err(StoreError::io("replace the record", store.places.inventory(digest)))?;
    // A power loss may take it: what is staged is finished in the same boot, or fetched again.
    let (name, directory) = free_name(store, &digest.text(), |name| {
        sys::make_fresh_directory(store.staging_directory.as_fd(), name, PRIVATE_MODE)
    })?;
    let staged = Staged { store, digest: digest.clone(), name, directory, armed: true };
    sys::make_directory(staged.directory.as_fd(), TREE, 0o755)
        .map_err(StoreError::io("create", staged.path()))?;
    Ok(staged)
}

/// Finds a layer that an earlier run of this boot has extracted and could not give its name, with
/// its inventory.
pub(crate) fn unplaced<'s>(store: &'s Store, digest: &BlobDigest) -> Option<(Staged<'s>, File)> {
    for number in 0..MAX_NAMES {
        let name = if number == 0 { digest.to_string() } else { format!("{digest}.{number}") };
        open_staged(store, name.as_bytes()).ok()?;
        if let Ok(Some(mut staged)) = staged_of_dead_run(store, name.as_bytes()) {
            if let Ok(inventory) = sys::open_own_file(staged.directory.as_fd(), INVENTORY) {
                return Some((staged, inventory));
            }
            staged.armed = false;
        }
    }
    None
}

/// Opens the layer staged under `name`, if it only needs its name, or its inventory's, to be
/// complete.
pub(super) fn staged_of_dead_run<'s>(
    store: &'s Store,
    name: &[u8],
) -> Result<Option<Staged<'s>>, StoreError> {
    let Some(digest) = staged_digest(name, "") else { return Ok(None) };
    let Some(ready) = mark_of(store, name)? else { return Ok(None) };
    let directory = open_staged(store, name)?;
    let has = |part: &[u8]| sys::metadata(directory.as_fd(), part).is_ok_and(|found| found.is_some());
    let is_whole = match (has(TREE), has(INVENTORY)) {
        // The page cache still has every byte.
        (true, true) => Some(&*ready) == sys::boot_id(),
        // The tree has its final name, so it was synced: only the inventory's rename is missing.
        // Where the tree has been removed since, the inventory would be one of nothing.
        (false, true) => store.has_layer(&digest)?,
        _ => false,
    };
    let name = name.to_vec();
    Ok(is_whole.then_some(Staged { store, digest, name, directory, armed: true }))
}

/// The result of committing a group of layers.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The result for each layer, in their order: it has its name for good, or not.
    pub results: Vec<Result<(), Arc<Error>>>,
    /// The trees that they have replaced and that could not be removed.
    pub left: Vec<Left>,
}

impl Committed {
    /// Fails the whole group, of which nothing can be believed to be on disk: dropped, it is
    /// removed.
    fn all_failed(layers: &[Staged<'_>], error: StoreError) -> Self {
        let error = Arc::new(Error::from(error));
        let results = layers.iter().map(|_| Err(Arc::clone(&error))).collect();
        Self { results, left: Vec::new() }
    }
}

/// Gives layers their final names, durably: one sync of the file system for all of them. A layer
/// that cannot have its name fails alone.
pub(crate) fn commit(store: &Store, layers: Vec<Staged<'_>>) -> Committed {
    let synced = sys::sync_file_system(store.layers_directory.as_fd());
    if let Err(error) = synced {
        return Committed::all_failed(&layers, StoreError::io("sync", store.layers())(error));
    }
    let in_use = replaced_in_use(store, &layers);
    let place = |staged: &Staged<'_>| match in_use.get(&staged.digest) {
        // A mount there says more than who sees it.
        Some(who) => refuse_mounts(store, &staged.digest, "replace")
            .and_then(|()| Err(StoreError::InUse { path: staged.final_path(), who: who.clone() })),
        None => place(store, staged),
    };
    let mut results: Vec<Result<(), StoreError>> = layers.iter().map(place).collect();
    if let Err(error) = store.sync_layers() {
        return Committed::all_failed(&layers, error);
    }
    for (staged, result) in layers.iter().zip(&mut results) {
        if result.is_ok() {
            *result = place_inventory(store, staged);
        }
    }
    if let Err(error) = store.sync_inventories() {
        return Committed::all_failed(&layers, error);
    }
    let mut left = Vec::new();
    for (mut staged, result) in layers.into_iter().zip(&results) {
        staged.armed = false;
        match result {
            Ok(()) => left.extend(staged.remove_emptied().err()),
            // Itself, it cannot be renamed: a later run must make another one.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                left.extend(remove_staged(store, &staged.name).err());
            }
            Err(_) => {}
        }
    }
    let results = results.into_iter().map(|result| result.map_err(|error| Arc::new(error.into()))).collect();
    Committed { results, left }
}

/// Finds the layers whose present trees would have to make way for them, and are in use, with who
/// uses them.
fn replaced_in_use(store: &Store, layers: &[Staged<'_>]) -> BTreeMap<BlobDigest, String> {
    let there = |directory: &OwnedFd, name: &[u8]| {
        sys::metadata(directory.as_fd(), name).is_ok_and(|found| found.is_some())
    };
    let replaces = |staged: &&Staged<'_>| {
        there(&staged.directory, TREE) && there(&store.layers_directory, &layer_name(&staged.digest))
    };
    let replaced: Vec<&BlobDigest> = layers.iter().filter(replaces).map(|staged| &staged.digest).collect();
    // Looks at all processes: only where something is to be replaced.
    if replaced.is_empty() { BTreeMap::new() } else { layers_in_use(store.layers(), &replaced) }
}

/// Gives a tree its final name.
fn place(store: &Store, staged: &Staged<'_>) -> Result<(), StoreError> {
    let (staging, layers) = (staged.directory.as_fd(), store.layers_directory.as_fd());
    let name = layer_name(&staged.digest);
    let failed = || StoreError::io("rename the finished layer to", staged.final_path());
    // A layer whose tree recovery did not find, or that was taken over, has its final name already.
    if sys::metadata(staging, TREE).map_err(failed())?.is_none() {
        let found = sys::metadata(layers, &name).map_err(failed())?;
        // Somebody may have removed it since: its inventory would be one of nothing.
        return match found {
            Some(found) if found.kind == Kind::Directory => Ok(()),
            _ => Err(StoreError::io("find the layer", staged.final_path())(io::ErrorKind::NotFound.into())),
        };
    }
    match sys::rename_new(staging, TREE, layers, &name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            refuse_mounts(store, &staged.digest, "replace")?;
            // After the exchange the old tree lies here: a run that finds it must not take it for
            // the new one.
            revoke(staging).map_err(failed())?;
            replace(store, staged).inspect_err(|_| {
                // The tree here is still the new one. Without the mark it is fetched again.
                let _ = staged.ready();
            })
        }
        other => other.map_err(failed()),
    }
}

/// Gives a tree the name that another one has, which is then here.
fn replace(store: &Store, staged: &Staged<'_>) -> Result<(), StoreError> {
    let (staging, layers) = (staged.directory.as_fd(), store.layers_directory.as_fd());
    let name = &layer_name(&staged.digest);
    let swap = || sys::rename_exchange(staging, TREE, layers, name);
    let mut renamed = sys::with_rights(layers, name, swap);
    if renamed.as_ref().is_err_and(sys::is_unsupported) {
        // File systems that cannot exchange: the name is gone for a moment.
        let _ = sys::remove_tree(staging, REPLACED);
        let away = || sys::rename_new(layers, name, staging, REPLACED);
        renamed = sys::with_rights(layers, name, away).and_then(|()| {
            sys::rename_new(staging, TREE, layers, name).inspect_err(|_| {
                let _ = sys::rename_new(staging, REPLACED, layers, name);
            })
        });
    }
    match renamed {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            remove_in_place(store, &staged.digest)?;
            sys::rename_new(staging, TREE, layers, name)
                .map_err(StoreError::io("rename the finished layer to", staged.final_path()))
        }
        other => other.map_err(|error| refused(store, &staged.digest, "replace", error)),
    }
}

/// Gives the inventory of a placed layer its name.
fn place_inventory(store: &Store, staged: &Staged<'_>) -> Result<(), StoreError> {
    let (staging, inventories) = (staged.directory.as_fd(), store.inventories_directory.as_fd());
    let path = store.places.inventory(&staged.digest);
    sys::rename_over(staging, INVENTORY, inventories, staged.digest.text().as_bytes())
        .map_err(StoreError::io("rename the finished record to", path))?;
    unmark_unneeded(store, &staged.digest);
    store.bind(&staged.digest)
}

fn open_staged(store: &Store, name: &[u8]) -> Result<OwnedFd, StoreError> {
    sys::open_own_directory_at(store.staging_directory.as_fd(), name)
        .map_err(StoreError::io("open", staged_path(store, name)))
}

/// Reads in which boot the layer staged under `name` was declared ready, if it was.
fn mark_of(store: &Store, name: &[u8]) -> Result<Option<String>, StoreError> {
    let path = || staged_path(store, name);
    let refused = |error: io::Error, path: PathBuf| match sys::refusal(&error) {
        // A thing that is no directory or file was not made by a run, and is swept.
        Some(sys::Refusal::Owner { .. }) => Err(StoreError::io("finish", path)(error)),
        _ => Ok(None),
    };
    match sys::open_own_directory_at(store.staging_directory.as_fd(), name) {
        Err(error) => refused(error, path()),
        Ok(staged) => match sys::read_own_file(staged.as_fd(), READY, MAX_MARK) {
            Err(error) => refused(error, path().join("ready")),
            Ok(mark) => Ok(String::from_utf8(mark).ok()),
        },
    }
}
