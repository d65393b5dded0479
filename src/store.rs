//! The directories: complete layers, layers being staged, partial downloads.
//!
//! | path | what it is |
//! |---|---|
//! | `<layers>/<digest>.extracted/` | a complete layer, for microsandbox |
//! | `<private>/records/<digest>` | what that directory holds; without one it is not trusted |
//! | `<private>/staging/<digest>/` | a layer on its way: `tree/`, `record`, and `ready` once both digests fit |
//! | `<private>/staging/unneeded-<digest>` | nobody needs that layer, which has no inventory and could not be removed |
//! | `<private>/lock` | who works on these layers |
//! | `<private>/bindings/<digest>` | a symlink that says which directory that inventory is of ([`Store::bind`]) |
//! | `<private>/homes/<id>` | a symlink to each home that has recorded images with these layers ([`Claim`]) |
//! | `<home>/.msb-sync.id` | by what a home's claims go |
//! | `<home>/downloads/<digest>.part` | a partial blob ([`Spool`]) |
//!
//! `<private>` is `.NAME.msb-sync` beside the layers directory NAME, or `.msb-sync` inside it where beside is
//! another file system or mount (renames must work) or may not be written; see [`Places`].
//!
//! A layer becomes visible in this order: tree and inventory written, `ready` written, spool removed, file
//! system synced, tree renamed to its final name, layers directory synced, inventory renamed, its binding made, bindings
//! and inventories directories synced. So no power loss leaves an inventory of nothing: a file system may keep two directories in any order. A crash
//! between any two steps leaves something that [`Store::recover`] finishes (`ready` of this boot: the page cache
//! still has every byte) or removes. A directory without an inventory (another tool's, or half of a rename) counts
//! as [`LayerState::Untrusted`] and is replaced by exchanging names.
//!
//! A layer goes in the opposite order: tree renamed into staging, both directories synced, inventory removed, its
//! directory synced, tree removed. What is in staging says after a crash whose inventory is to be removed. Where a tree
//! cannot be renamed (overlayfs, of a lower layer) its inventory goes first, into staging, and says there that the tree
//! is on its way out.
//!
//! What cannot be removed or replaced (a mount is in it, it is immutable, somebody uses it) stays where it is, is told
//! ([`Left`], or the error of its layer), and is tried again by later runs; it never ends a run. No name in staging is
//! waited for: beside what stays under one a second one is made (`<digest>.1`).

mod adoption;
mod binding;
mod directories;
mod downloads;
mod homes;
mod lock;
mod look;
mod places;
mod removal;
mod spool;
mod staged;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use directories::{PRIVATE_MODE, make_directory};
pub use downloads::{PartialDownload, partial_downloads};
pub use homes::Claim;
pub use lock::Lock;
pub use look::{Leftover, OpenedLayer};
pub use places::{LocatedLayers, Places};
pub use removal::{Left, RemovedLayers};
pub use spool::{Spool, SpoolReader};
pub use staged::Staged;
pub use usage::layers_in_use;

use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::state::LayerState;
use crate::sys;

const INVENTORIES: &str = "records";
const STAGING: &str = "staging";
/// What the name of a layer begins with, in staging, that is on its way out.
const REMOVED: &str = "removed-";
/// What the name of an inventory begins with, in staging, whose layer is being removed where it is.
const REMOVING: &str = "removing-";
/// What the name of a file begins with, in staging, that stands for a layer which nobody needs, and which has no inventory,
/// but could not be removed.
const UNNEEDED: &str = "unneeded-";
/// Names that are tried in staging for one thing, beside others that cannot be removed.
const MAX_NAMES: usize = 1000;
/// Which directories inventories are of.
const BINDINGS: &str = "bindings";
const HOMES: &str = "homes";
/// The mode of the files beside layers.
const FILE_MODE: u32 = 0o600;
const READY: &[u8] = b"ready";
const TREE: &[u8] = b"tree";
const INVENTORY: &[u8] = b"record";
/// Bytes of the mark that a staged layer is ready: one line.
const MAX_MARK: u64 = 4096;
/// A layer that was replaced, in the staging directory of its successor.
const REPLACED: &[u8] = b"replaced";

/// Where a layer's directory is, whether or not it exists.
pub fn layer_path(layers: &Path, digest: &BlobDigest) -> PathBuf {
    layers.join(format!("{digest}.extracted"))
}

/// The store, opened for writing. Its holder must have the [`Lock`]s.
#[derive(Debug)]
pub struct Store {
    places: Places,
    downloads: PathBuf,
    downloads_directory: Arc<OwnedFd>,
    layers_directory: OwnedFd,
    inventories_directory: OwnedFd,
    bindings_directory: OwnedFd,
    staging_directory: OwnedFd,
}

impl Store {
    /// Opens the store, making what directories are missing, for this user alone.
    ///
    /// # Errors
    /// A directory cannot be made or opened, for instance because it is a file, or another user's.
    pub fn open(layers: &Path, downloads: &Path) -> Result<Self, StoreError> {
        let downloads_directory = Arc::new(make_directory(downloads, PRIVATE_MODE)?);
        let layers_directory = make_directory(layers, PRIVATE_MODE)?;
        let (places, private) = Places::of(layers).make_private()?;
        Ok(Self {
            downloads_directory,
            layers_directory,
            inventories_directory: directories::make_private_in(&private, &places.private.join(INVENTORIES))?,
            bindings_directory: directories::make_private_in(&private, &places.private.join(BINDINGS))?,
            staging_directory: directories::make_private_in(&private, &places.private.join(STAGING))?,
            places,
            downloads: downloads.to_owned(),
        })
    }

    /// Where the lock for `layers` lies; its directories are made.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn lock_path(layers: &Path) -> Result<PathBuf, StoreError> {
        make_directory(layers, PRIVATE_MODE)?;
        Ok(Places::of(layers).make_private()?.0.private.join("lock"))
    }

    /// Where things lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The directory of complete layers.
    pub fn layers(&self) -> &Path {
        &self.places.layers
    }

    /// The directory of partial downloads.
    pub fn downloads(&self) -> &Path {
        &self.downloads
    }

    /// Free bytes for layers and for downloads.
    ///
    /// # Errors
    /// The file systems do not tell.
    pub fn free_space(&self) -> Result<FreeSpace, StoreError> {
        let free = |directory: &OwnedFd, path: &Path| {
            sys::free_space(directory.as_fd()).map_err(StoreError::io("ask for the free space of", path))
        };
        Ok(FreeSpace {
            layers: free(&self.layers_directory, self.layers())?,
            downloads: free(&self.downloads_directory, &self.downloads)?,
        })
    }

    /// The spool of a blob of `size` bytes, with what an earlier run has received.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn spool(&self, digest: &BlobDigest, size: u64) -> Result<Arc<Spool>, StoreError> {
        Spool::open(&self.downloads_directory, self.spool_path(digest), size).map(Arc::new)
    }

    /// Finishes or removes what runs that died have left in staging. Layers that are ready but cannot be given their
    /// names stay there, for [`Store::unplaced`].
    ///
    /// # Errors
    /// Staging cannot be read, or the directories of names cannot be synced.
    pub fn recover(&self) -> Result<Recovered, StoreError> {
        self.sweep_bindings();
        let mut recovered = Recovered::default();
        let mut staged = Vec::new();
        for name in self.staged_names()? {
            match self.staged_of_dead_run(&name)? {
                Some(found) => staged.push(found),
                None => recovered.left.extend(self.sweep(&name)?.err()),
            }
        }
        for staged in &staged {
            // The run died between declaring the layer ready and removing its blob.
            recovered.left.extend(self.remove_spool(staged.digest()).err());
        }
        if staged.is_empty() {
            // Layers whose run died right after naming them are complete, and will be recorded as they are.
            self.sync_layers()?;
            self.sync_inventories()?;
        } else {
            let committed = self.commit(staged);
            recovered.layers = committed.results.iter().filter(|result| result.is_ok()).count();
            recovered.left.extend(committed.left);
        }
        Ok(recovered)
    }

    /// Removes what is left in staging after [`Store::recover`], ready or not.
    ///
    /// # Errors
    /// Staging cannot be read.
    pub fn clear_staging(&self) -> Result<Vec<Left>, StoreError> {
        let mut left = Vec::new();
        for name in self.staged_names()? {
            left.extend(self.sweep(&name)?.err());
        }
        Ok(left)
    }

    /// Removes partial downloads that nobody has touched for `age`, except those of `wanted`, and those of layers
    /// that are complete.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep_downloads(
        &self,
        age: std::time::Duration,
        wanted: &dyn Fn(&BlobDigest) -> bool,
    ) -> Result<Vec<Left>, StoreError> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.downloads).map_err(StoreError::io("read", &self.downloads))? {
            let entry = entry.map_err(StoreError::io("read", &self.downloads))?;
            let name = entry.file_name();
            let digest = PartialDownload::digest_in(&name);
            let old = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age));
            if let Some(digest) = digest.filter(|digest| !wanted(digest))
                && (old || self.places.state(&digest)? == LayerState::Complete)
            {
                left.extend(self.remove_spool(&digest).err());
            }
        }
        Ok(left)
    }

    /// Bytes of a blob that earlier runs have received.
    pub fn spooled(&self, digest: &BlobDigest) -> u64 {
        let metadata = fs::symlink_metadata(self.spool_path(digest));
        metadata.map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
    }

    fn spool_path(&self, digest: &BlobDigest) -> PathBuf {
        self.downloads.join(format!("{digest}.part"))
    }

    fn remove_spool(&self, digest: &BlobDigest) -> Result<(), Left> {
        let path = self.spool_path(digest);
        spool::remove(self.downloads_directory.as_fd(), &path).map_err(|error| Left::new(path, &error))
    }

    /// Makes the names of layers durable.
    fn sync_layers(&self) -> Result<(), StoreError> {
        sys::sync(self.layers_directory.as_fd()).map_err(StoreError::io("sync", self.layers()))
    }

    /// Makes the names of inventories durable: after those of the layers, so that no inventory is one of nothing, and after
    /// the notes of which directories they are of, so that no power loss makes a finished layer one to be compared.
    pub(crate) fn sync_inventories(&self) -> Result<(), StoreError> {
        sys::sync(self.bindings_directory.as_fd())
            .map_err(StoreError::io("sync", self.places.private.join(BINDINGS)))?;
        sys::sync(self.inventories_directory.as_fd())
            .map_err(StoreError::io("sync", self.places.private.join(INVENTORIES)))
    }

    fn sync_staging(&self) -> Result<(), StoreError> {
        sys::sync(self.staging_directory.as_fd()).map_err(StoreError::io("sync", self.staging_path()))
    }

    /// Takes away the mark that nobody needs a layer, if there is one.
    fn unmark_unneeded(&self, digest: &BlobDigest) {
        // A mark that stays is of no layer, or of one with an inventory: the next run takes it away.
        let _ = sys::remove_file(self.staging_directory.as_fd(), format!("{UNNEEDED}{digest}").as_bytes());
    }

    fn has_layer(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        let found = sys::metadata(self.layers_directory.as_fd(), &layer_name(digest));
        found
            .map(|found| found.is_some())
            .map_err(|error| StoreError::io("look at", layer_path(self.layers(), digest))(error))
    }

    fn staging_path(&self) -> PathBuf {
        self.places.private.join(STAGING)
    }

    /// What lies in staging, sorted.
    fn staged_names(&self) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        let mut names = BTreeSet::new();
        sys::each_entry(self.staging_directory.as_fd(), |name, _| {
            names.insert(name.to_vec());
            true
        })
        .map_err(StoreError::io("read", self.staging_path()))?;
        Ok(names)
    }
}

/// What became of what dead runs have left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// How many layers were finished.
    pub layers: usize,
    /// What could not be removed.
    pub left: Vec<Left>,
}

/// Free bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Where layers go.
    pub layers: u64,
    /// Where downloads go.
    pub downloads: u64,
}

/// What tells this boot from the one before: data not synced then is lost, data not synced now is not.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// The name of a layer in the directory of layers.
fn layer_name(digest: &BlobDigest) -> Vec<u8> {
    format!("{digest}.extracted").into_bytes()
}

/// The layer that has this name in staging, after what says that it is on its way out.
fn staged_digest(name: &[u8], prefix: &str) -> Option<BlobDigest> {
    let name = std::str::from_utf8(name.strip_prefix(prefix.as_bytes())?).ok()?;
    // A digest has no dot, so what follows one tells namesakes apart.
    let (digest, number) = name.split_once('.').unwrap_or((name, "0"));
    number.parse::<usize>().ok().and_then(|_| BlobDigest::parse(digest).ok())
}

/// Makes the names in a directory durable; those in one that this user may not read are as durable as they get.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    match sys::open_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened
            .and_then(|directory| sys::sync(directory.as_fd()))
            .map_err(StoreError::io("sync the directory", path)),
    }
}

#[cfg(test)]
mod tests;
