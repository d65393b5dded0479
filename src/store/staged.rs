//! Layers on their way in: staged, ready, given their names in groups.
//!
//! A layer that cannot have its name (something is mounted there, or what has the name must not be changed) fails
//! alone, and stays staged if it is ready: a later run of this boot gives it its name without fetching it again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::removal::{Left, revoke};
use super::{
    FILE_MODE, INVENTORY, MAX_MARK, MAX_NAMES, PRIVATE_MODE, READY, REPLACED, Store, TREE, boot_id,
    layer_name, layer_path, layers_in_use, staged_digest,
};
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::sys::{self, Kind};

/// What became of a group of layers.
#[derive(Debug)]
pub struct Committed {
    /// Of each layer, in their order, whether it has its name, for good.
    pub results: Vec<Result<(), Arc<Error>>>,
    /// What they have replaced and could not be removed.
    pub left: Vec<Left>,
}

impl Store {
    /// An empty place for a layer to be extracted into.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage(&self, digest: &BlobDigest) -> Result<Staged<'_>, StoreError> {
        // The inventory will be replaced in the end; one that may not be is told before anything is fetched.
        sys::has_own_file(self.inventories_directory.as_fd(), digest.as_str().as_bytes())
            .map_err(StoreError::io("replace the record", self.places.inventory(digest)))?;
        let staging = self.staging_directory.as_fd();
        let (name, directory) =
            self.free_name(digest.as_str(), |name| match sys::metadata(staging, name)? {
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => sys::make_own_directory_at(staging, name, PRIVATE_MODE),
            })?;
        let staged = Staged { store: self, digest: digest.clone(), name, directory, armed: true };
        sys::make_directory(staged.directory.as_fd(), TREE, 0o755)
            .map_err(StoreError::io("create", staged.path()))?;
        Ok(staged)
    }

    /// A layer that an earlier run of this boot has extracted and could not give its name, with its inventory.
    pub fn unplaced(&self, digest: &BlobDigest) -> Option<(Staged<'_>, File)> {
        for number in 0..MAX_NAMES {
            let name = if number == 0 { digest.to_string() } else { format!("{digest}.{number}") };
            self.open_staged(name.as_bytes()).ok()?;
            if let Ok(Some(mut staged)) = self.staged_of_dead_run(name.as_bytes()) {
                if let Ok(inventory) = sys::open_own_file(staged.directory.as_fd(), INVENTORY) {
                    return Some((staged, inventory));
                }
                staged.armed = false;
            }
        }
        None
    }

    /// The layer staged under `name`, if it only needs its name, or its inventory's, to be complete.
    pub(super) fn staged_of_dead_run(&self, name: &[u8]) -> Result<Option<Staged<'_>>, StoreError> {
        let Some(digest) = staged_digest(name, "") else { return Ok(None) };
        let Some(ready) = self.mark_of(name)? else { return Ok(None) };
        let directory = self.open_staged(name)?;
        let has = |part: &[u8]| sys::metadata(directory.as_fd(), part).is_ok_and(|found| found.is_some());
        let is_whole = match (has(TREE), has(INVENTORY)) {
            // The page cache still has every byte.
            (true, true) => Some(ready) == boot_id(),
            // The tree has its final name, so it was synced: only the inventory's rename is missing. Where the tree has
            // been removed since, the inventory would be one of nothing.
            (false, true) => self.has_layer(&digest)?,
            _ => false,
        };
        let name = name.to_vec();
        Ok(is_whole.then_some(Staged { store: self, digest, name, directory, armed: true }))
    }

    /// Gives layers their final names, durably: one sync of the file system for all of them. One that cannot have its
    /// name fails alone.
    pub fn commit(&self, layers: Vec<Staged<'_>>) -> Committed {
        let synced = sys::sync_file_system(self.layers_directory.as_fd());
        if let Err(error) = synced {
            return Committed::all_failed(&layers, StoreError::io("sync", self.layers())(error));
        }
        let in_use = self.replaced_in_use(&layers);
        let place = |staged: &Staged<'_>| match in_use.get(&staged.digest) {
            // What is mounted there says more than who sees it.
            Some(who) => self
                .refuse_mounts(&staged.digest, "replace")
                .and_then(|()| Err(StoreError::InUse { path: staged.final_path(), who: who.clone() })),
            None => self.place(staged),
        };
        let mut results: Vec<Result<(), StoreError>> = layers.iter().map(place).collect();
        if let Err(error) = self.sync_layers() {
            return Committed::all_failed(&layers, error);
        }
        for (staged, result) in layers.iter().zip(&mut results) {
            if result.is_ok() {
                *result = self.place_inventory(staged);
            }
        }
        if let Err(error) = self.sync_inventories() {
            return Committed::all_failed(&layers, error);
        }
        let mut left = Vec::new();
        for (mut staged, result) in layers.into_iter().zip(&results) {
            staged.armed = false;
            match result {
                // With the tree that was replaced.
                Ok(()) => left.extend(self.remove_staged(&staged.name).err()),
                // Itself, it cannot be renamed: a later run must make another one.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                    left.extend(self.remove_staged(&staged.name).err());
                }
                Err(_) => {}
            }
        }
        let results =
            results.into_iter().map(|result| result.map_err(|error| Arc::new(error.into()))).collect();
        Committed { results, left }
    }

    /// Those of the layers whose present trees would have to make way for them, and are in use, with who uses them.
    fn replaced_in_use(&self, layers: &[Staged<'_>]) -> BTreeMap<BlobDigest, String> {
        let there = |directory: &OwnedFd, name: &[u8]| {
            sys::metadata(directory.as_fd(), name).is_ok_and(|found| found.is_some())
        };
        let replaces = |staged: &&Staged<'_>| {
            there(&staged.directory, TREE) && there(&self.layers_directory, &layer_name(&staged.digest))
        };
        let replaced: Vec<&BlobDigest> =
            layers.iter().filter(replaces).map(|staged| &staged.digest).collect();
        // Looks at all processes: only where something is to be replaced.
        if replaced.is_empty() { BTreeMap::new() } else { layers_in_use(self.layers(), &replaced) }
    }

    /// Gives a tree its final name.
    fn place(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let (staging, layers) = (staged.directory.as_fd(), self.layers_directory.as_fd());
        let name = layer_name(&staged.digest);
        let failed = || StoreError::io("rename the finished layer to", staged.final_path());
        // A layer whose tree recovery did not find, or that was taken over, has its final name already.
        if sys::metadata(staging, TREE).map_err(failed())?.is_none() {
            let found = sys::metadata(layers, &name).map_err(failed())?;
            // Somebody may have removed it since: its inventory would be one of nothing.
            return match found {
                Some(found) if found.kind == Kind::Directory => Ok(()),
                _ => {
                    Err(StoreError::io("find the layer", staged.final_path())(io::ErrorKind::NotFound.into()))
                }
            };
        }
        match sys::rename_new(staging, TREE, layers, &name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.refuse_mounts(&staged.digest, "replace")?;
                // After the exchange the old tree lies here: a run that finds it must not take it for the new one.
                revoke(staging).map_err(failed())?;
                self.replace(staged).inspect_err(|_| {
                    // What lies here is still the new one. Without the mark it is fetched again.
                    let _ = staged.ready();
                })
            }
            other => other.map_err(failed()),
        }
    }

    /// Gives a tree the name that another one has, which is then here.
    fn replace(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let (staging, layers) = (staged.directory.as_fd(), self.layers_directory.as_fd());
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
                self.remove_in_place(&staged.digest)?;
                sys::rename_new(staging, TREE, layers, name)
                    .map_err(StoreError::io("rename the finished layer to", staged.final_path()))
            }
            other => other.map_err(|error| self.refused(&staged.digest, "replace", error)),
        }
    }

    /// Gives the inventory of a placed layer its name.
    fn place_inventory(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let (staging, inventories) = (staged.directory.as_fd(), self.inventories_directory.as_fd());
        let path = self.places.inventory(&staged.digest);
        sys::rename_over(staging, INVENTORY, inventories, staged.digest.as_str().as_bytes())
            .map_err(StoreError::io("rename the finished record to", path))?;
        self.unmark_unneeded(&staged.digest);
        self.bind(&staged.digest)
    }

    fn open_staged(&self, name: &[u8]) -> Result<OwnedFd, StoreError> {
        sys::open_own_directory_at(self.staging_directory.as_fd(), name)
            .map_err(StoreError::io("open", self.staged_path(name)))
    }

    /// The boot in which what is staged under `name` was declared ready, if it was.
    fn mark_of(&self, name: &[u8]) -> Result<Option<String>, StoreError> {
        let path = || self.staged_path(name);
        let refused = |error: io::Error, path: PathBuf| match sys::refusal(&error) {
            // What is no directory or file was not made by a run, and is swept.
            Some(sys::Refusal::Owner { .. }) => Err(StoreError::io("finish", path)(error)),
            _ => Ok(None),
        };
        match sys::open_own_directory_at(self.staging_directory.as_fd(), name) {
            Err(error) => refused(error, path()),
            Ok(staged) => match sys::read_own_file(staged.as_fd(), READY, MAX_MARK) {
                Err(error) => refused(error, path().join("ready")),
                Ok(mark) => Ok(String::from_utf8(mark).ok()),
            },
        }
    }
}

impl Committed {
    /// Nothing of the group can be believed to be on disk: dropped, it is removed.
    fn all_failed(layers: &[Staged<'_>], error: StoreError) -> Self {
        let error = Arc::new(Error::from(error));
        let results = layers.iter().map(|_| Err(Arc::clone(&error))).collect();
        Self { results, left: Vec::new() }
    }
}

/// A layer on its way. Dropped without [`Store::commit`] it is removed.
#[derive(Debug)]
pub struct Staged<'s> {
    pub(super) store: &'s Store,
    pub(super) digest: BlobDigest,
    /// In staging.
    name: Vec<u8>,
    pub(super) directory: OwnedFd,
    pub(super) armed: bool,
}

impl Staged<'_> {
    /// Which layer.
    pub fn digest(&self) -> &BlobDigest {
        &self.digest
    }

    /// The empty directory for the layer's entries.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn tree(&self) -> Result<OwnedFd, StoreError> {
        sys::open_directory_beneath(self.directory.as_fd(), TREE).map_err(StoreError::io("open", self.path()))
    }

    /// An empty file for the inventory, open for reading and writing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn inventory(&self) -> Result<File, StoreError> {
        sys::make_own_file(self.directory.as_fd(), INVENTORY, FILE_MODE)
            .map_err(StoreError::io("create", self.path().join("record")))
    }

    /// Declares that tree and inventory are complete and verified: from now on a run that dies loses nothing.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn ready(&self) -> Result<(), StoreError> {
        use std::io::Write;
        let path = self.path().join("ready");
        let mut file = sys::make_own_file(self.directory.as_fd(), READY, FILE_MODE)
            .map_err(StoreError::io("create", &path))?;
        file.write_all(boot_id().unwrap_or_default().as_bytes()).map_err(StoreError::io("write", path))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.store.staged_path(&self.name)
    }

    fn final_path(&self) -> PathBuf {
        layer_path(self.store.layers(), &self.digest)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.armed {
            // What cannot be removed now is swept by the next run.
            let _ = self.store.remove_staged(&self.name);
        }
    }
}
