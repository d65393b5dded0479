//! The directories: complete layers, layers being staged, partial downloads, kept blobs.
//!
//! | path | what it is |
//! |---|---|
//! | `<layers>/<digest>.extracted/` | a complete layer, for microsandbox |
//! | `<private>/records/<digest>` | its inventory; a layer without one is not trusted |
//! | `<private>/staging/<digest>/` | a layer on its way: `tree/`, `record`, `ready` |
//! | `<private>/staging/removed-<digest>/` | a layer on its way out |
//! | `<private>/staging/removing-<digest>` | the inventory of one that goes where it is |
//! | `<private>/staging/unneeded-<digest>` | nobody needs that layer, which has no inventory |
//! | `<private>/lock` | who works on these layers |
//! | `<private>/bindings/<digest>` | the directory that it is of ([`Store::bind`]) |
//! | `<private>/homes/<id>` | a symlink to a home that needs these layers ([`Store::open`]) |
//! | `<private>/homes/<id>.made-for` | what tells that home, and its place, from others |
//! | `<home>/.msb-sync.id` | by what a home's claims go |
//! | `<home>/downloads/<digest>.part` | a partial blob ([`Spool`]) |
//! | `<home>/blobs/` | an OCI image layout of the blobs that are kept ([`Blobs`]) |
//!
//! `<private>` is `.NAME.msb-sync` beside the layers directory NAME, or `.msb-sync` inside it where
//! beside is another file system or mount (renames must work) or may not be written; see
//! [`Places`].
//!
//! A layer becomes visible in this order: tree and inventory written, `ready` written, spool
//! removed, file system synced, tree renamed to its final name, layers directory synced, inventory
//! renamed, its binding made, bindings and inventories directories synced. So no power loss leaves
//! an inventory of nothing: a file system may keep two directories in any order. A crash between
//! any two steps leaves something that [`recover`] finishes (`ready` of this boot: the page cache
//! still has every byte) or removes. A directory without an inventory (another tool's, or half of a
//! rename) counts as [`LayerState::Untrusted`](crate::state::LayerState::Untrusted) and is replaced
//! by exchanging names.
//!
//! A layer goes in the opposite order: tree renamed into staging, both directories synced,
//! inventory removed, its directory synced, tree removed. After a crash staging says whose
//! inventory is to be removed. Where a tree cannot be renamed (overlayfs, of a lower layer)
//! its inventory goes first, into staging, and says there that the tree is on its way out.
//!
//! A layer that cannot be removed or replaced (a mount is in it, it is immutable, somebody uses it)
//! stays where it is, is told ([`Left`], or the error of its layer), and is tried again by later
//! runs; it never ends a run. No name in staging is waited for: beside what stays under one a
//! second one is made (`<digest>.1`).

mod binding;
mod blobs;
mod directories;
mod downloads;
mod homes;
mod names;
mod places;
mod recovery;
mod removal;
mod spool;
mod staged;
mod staging;
mod usage;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use blobs::KeptBlob;
pub(crate) use blobs::{
    Blobs, RemovedBlobs, blobs_of, expect_blobs_index, keep, remove_blobs, remove_blobs_index,
    write_blobs_index,
};
pub(crate) use directories::{PRIVATE_MODE, make_directory, make_unsynced_directory};
pub(crate) use downloads::{PartialDownload, partial_downloads, remove_download};
pub(crate) use homes::{claims_of_others, is_claimed};
pub use names::layer_path;
pub(crate) use places::{Leftover, LocatedLayers, OpenedLayer, Places};
pub(crate) use recovery::{clear, recover, sweep_downloads};
pub(crate) use removal::{RemovedLayers, remove};
pub(crate) use spool::Spool;
pub(crate) use staged::{Staged, commit, stage, unplaced};
pub(crate) use staging::Left;
pub(crate) use usage::layers_in_use;

use self::binding::Bindings;
use self::names::{BINDINGS, INVENTORIES, LOCK, STAGING, layer_name, partial_path};
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::locked_home::{HeldLock, LockedHome};
use crate::sys;

/// The most locks that are waited for one after the other, of directories that others replace.
const MAX_LOCKS: usize = 100;

/// Returns where the layers of `home` are unless somebody says otherwise.
pub(crate) fn default_layers_of(home: &Path) -> PathBuf {
    home.join("layers")
}

/// Returns where the partial downloads of `home` are.
pub(crate) fn downloads_of(home: &Path) -> PathBuf {
    home.join("downloads")
}

/// The store, opened for writing: as long as there is one, this run alone changes its layers, and
/// the home that its downloads are in.
#[derive(Debug)]
pub(crate) struct Store {
    home: LockedHome,
    _lock: Arc<HeldLock>,
    places: Places,
    downloads: PathBuf,
    downloads_directory: Arc<OwnedFd>,
    layers_directory: OwnedFd,
    lasting_inodes: bool,
    inventories_directory: OwnedFd,
    bindings: Bindings,
    staging_directory: OwnedFd,
}

impl Store {
    /// Locks `layers` too, which several homes may share, and opens the store of `home` there,
    /// making the directories that are missing, for this user alone. From now on other homes know
    /// that this one may need what is there. Names that are made last once [`LockedHome::settle`]
    /// has returned.
    ///
    /// # Errors
    /// The run was cancelled while it waited for the lock. A directory cannot be made or opened,
    /// for instance because it is a file, or another user's; or somebody replaces one all the time.
    /// The home's claim cannot be written.
    pub(crate) fn open(home: &LockedHome, layers: &Path) -> Result<Self, Error> {
        let LockedPlaces { lock, layers_directory, places, private } = lock_places(home, layers)?;
        let downloads = downloads_of(home.path());
        let mut noted = home.unsynced();
        let unsynced = &mut *noted;
        let mut make = |name| directories::make_private_in(&private, &places.private.join(name), unsynced);
        let store = Self {
            inventories_directory: make(INVENTORIES)?,
            bindings: Bindings::new(make(BINDINGS)?),
            staging_directory: make(STAGING)?,
            downloads_directory: Arc::new(make_unsynced_directory(&downloads, PRIVATE_MODE, unsynced)?),
            lasting_inodes: sys::has_lasting_inodes(layers_directory.as_fd()),
            layers_directory,
            places,
            downloads,
            home: home.clone(),
            _lock: lock,
        };
        drop(noted);
        homes::claim(home, &store.places)?;
        Ok(store)
    }

    /// Returns the home that this store belongs to.
    pub(crate) fn home(&self) -> &LockedHome {
        &self.home
    }

    /// The places where things lie.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// The directory of complete layers.
    pub(crate) fn layers(&self) -> &Path {
        &self.places.layers
    }

    /// The directory of partial downloads.
    pub(crate) fn downloads(&self) -> &Path {
        &self.downloads
    }

    /// Asks for the free bytes for layers and for downloads.
    ///
    /// # Errors
    /// The file systems do not tell.
    pub(crate) fn free_space(&self) -> Result<FreeSpace, StoreError> {
        let free = |directory: &OwnedFd, path: &Path| {
            sys::free_space(directory.as_fd()).map_err(StoreError::io("ask for the free space of", path))
        };
        Ok(FreeSpace {
            layers: free(&self.layers_directory, self.layers())?,
            downloads: free(&self.downloads_directory, &self.downloads)?,
        })
    }

    /// Opens the spool of a blob of `size` bytes, with the bytes that an earlier run has received.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn spool(&self, digest: &BlobDigest, size: u64) -> Result<Arc<Spool>, StoreError> {
        Spool::open(&self.downloads_directory, self.spool_path(digest), size).map(Arc::new)
    }

    /// Counts the bytes of a blob that earlier runs have received.
    pub(crate) fn spooled(&self, digest: &BlobDigest) -> u64 {
        let metadata = fs::symlink_metadata(self.spool_path(digest));
        metadata.map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
    }

    /// Tells where the kept blob of `size` bytes lies, as an absolute path; `None` where it is not
    /// kept.
    pub(crate) fn kept_path(&self, digest: &BlobDigest, size: u64) -> Option<PathBuf> {
        let blobs = Blobs::of(self.home().path());
        if blobs.has(digest, size) { std::path::absolute(blobs.path(digest)).ok() } else { None }
    }

    /// Opens the bytes of a blob of `size` bytes that are here: those of the kept one, else what
    /// earlier runs have received, if that is as much. Whoever uses them hashes them.
    ///
    /// # Errors
    /// The thing of its name is no regular file of this user's or root's, or cannot be opened.
    pub(crate) fn open_blob(&self, digest: &BlobDigest, size: u64) -> Result<Option<File>, StoreError> {
        let blobs = Blobs::of(self.home().path());
        if blobs.has(digest, size) {
            return blobs.open(digest);
        }
        if self.spooled(digest) != size {
            return Ok(None);
        }
        let (path, name) = (self.spool_path(digest), format!("{digest}.part"));
        match sys::open_own_file(self.downloads_directory.as_fd(), name.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(StoreError::io("open the partial download", path)),
        }
    }

    /// Notes that the inventory of a layer is of the directory that the layer has now. The note
    /// lasts once inventories are synced; where a power loss takes it before, the layer is compared
    /// with its inventory again.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn bind(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        self.note(digest, true)
    }

    /// Notes that the inventory of a layer does not say what is in the directory that the layer has
    /// now. The layer is not trusted then; its inventory stays, by which others know that we made
    /// one.
    ///
    /// # Errors
    /// As for [`Store::bind`].
    pub(crate) fn distrust(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        self.note(digest, false)
    }

    fn note(&self, digest: &BlobDigest, is_of: bool) -> Result<(), StoreError> {
        let layers = self.layers_directory.as_fd();
        let found = sys::mark(layers, &layer_name(digest), self.lasting_inodes)
            .map_err(StoreError::io("look at", layer_path(self.layers(), digest)))?;
        // Somebody took it away again: there is nothing to be noted.
        let Some((_, mark)) = found else { return Ok(()) };
        let inventory = self.places.inventory(digest);
        self.bindings.note(digest, is_of, &mark).map_err(StoreError::io("note the directory of", inventory))
    }

    fn spool_path(&self, digest: &BlobDigest) -> PathBuf {
        partial_path(&self.downloads, digest)
    }

    /// Makes the names of layers durable.
    fn sync_layers(&self) -> Result<(), StoreError> {
        sys::sync(self.layers_directory.as_fd()).map_err(StoreError::io("sync", self.layers()))
    }

    /// Makes the names of inventories durable: after those of the layers, so that no inventory is
    /// one of nothing, and after the notes of which directories they are of, so that no power loss
    /// makes a finished layer one to be compared.
    pub(crate) fn sync_inventories(&self) -> Result<(), StoreError> {
        self.bindings.sync().map_err(StoreError::io("sync", self.places.private.join(BINDINGS)))?;
        sys::sync(self.inventories_directory.as_fd())
            .map_err(StoreError::io("sync", self.places.private.join(INVENTORIES)))
    }

    fn has_layer(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        let found = sys::metadata(self.layers_directory.as_fd(), &layer_name(digest));
        found
            .map(|found| found.is_some())
            .map_err(|error| StoreError::io("look at", layer_path(self.layers(), digest))(error))
    }
}

/// The locked places of layers, with directories that were opened after the lock was had.
struct LockedPlaces {
    lock: Arc<HeldLock>,
    layers_directory: OwnedFd,
    places: Places,
    private: OwnedFd,
}

/// Locks the directory `layers`. A run may wait for that as long as another one works, and somebody
/// may move or replace directories meanwhile, or mount a disk there: what is there once the lock is
/// had is what the run works in, and if that has another lock, the run waits for that one.
fn lock_places(home: &LockedHome, layers: &Path) -> Result<LockedPlaces, Error> {
    for _ in 0..MAX_LOCKS {
        let make = || {
            let unsynced = &mut *home.unsynced();
            let layers_directory = make_unsynced_directory(layers, PRIVATE_MODE, unsynced)?;
            let (places, private) = Places::of(layers).make_private(unsynced)?;
            Ok::<_, Error>((layers_directory, places, private))
        };
        let lock = home.lock_too(&make()?.1.private.join(LOCK))?;
        let (layers_directory, places, private) = make()?;
        if lock.is_at(&places.private.join(LOCK)) {
            return Ok(LockedPlaces { lock, layers_directory, places, private });
        }
    }
    let error = io::Error::other("somebody replaces it again and again");
    Err(StoreError::io("lock the directory", layers)(error).into())
}

/// The free bytes of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    /// The free bytes where layers go.
    pub layers: u64,
    /// The free bytes where downloads go.
    pub downloads: u64,
}

#[cfg(test)]
mod tests;
