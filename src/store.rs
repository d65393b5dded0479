//! The directories: complete layers, layers being staged, partial downloads.
//!
//! | path | what it is |
//! |---|---|
//! | `<layers>/<digest>.extracted/` | a complete layer, for microsandbox |
//! | `<private>/records/<digest>` | what that directory holds; without one it is not trusted |
//! | `<private>/staging/<digest>/` | a layer on its way: `tree/`, `record`, and `ready` once both digests fit |
//! | `<private>/lock` | who works on these layers |
//! | `<private>/homes/` | a symlink to each home that has recorded images with these layers |
//! | `<home>/downloads/<digest>.part` | a partial blob ([`Spool`]) |
//!
//! `<private>` is `.NAME.msb-sync` beside the layers directory NAME, or `.msb-sync` inside it where beside is
//! another file system or mount (renames must work) or may not be written; see [`Places`].
//!
//! A layer becomes visible in this order: tree and record written, `ready` written, spool removed, file
//! system synced, tree renamed to its final name, layers directory synced, record renamed, records directory
//! synced. So no power loss leaves a record of nothing: a file system may keep two directories in any order. A crash
//! between any two steps leaves something that [`Store::recover`] finishes (`ready` of this boot: the page cache
//! still has every byte) or removes. A directory without a record (another tool's, or half of a rename) counts
//! as [`LayerState::Untrusted`] and is replaced by exchanging names.
//!
//! A layer goes in the opposite order: tree renamed into staging, both directories synced, record removed, its
//! directory synced, tree removed. What is in staging says after a crash whose record is to be removed.

mod directories;
mod downloads;
mod lock;
mod look;
mod places;
mod spool;
mod usage;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use directories::{PRIVATE_MODE, make_directory};
pub use downloads::{PartialDownload, partial_downloads};
pub use lock::Lock;
pub use look::{Leftover, OpenedLayer};
pub use places::{LocatedLayers, Places};
pub use spool::{Spool, SpoolReader};
pub use usage::layers_in_use;

use crate::digest::{Algorithm, BlobDigest};
use crate::error::StoreError;
use crate::state::LayerState;
use crate::sys;

const RECORDS: &str = "records";
const STAGING: &str = "staging";
/// What the name of a layer begins with, in staging, that is on its way out.
const REMOVED: &str = "removed-";
const HOMES: &str = "homes";
/// The mode of the files beside layers.
const FILE_MODE: u32 = 0o600;
const READY: &[u8] = b"ready";
const TREE: &[u8] = b"tree";
const RECORD: &[u8] = b"record";
/// Bytes of the mark that a staged layer is ready: one line.
const MAX_MARK: u64 = 4096;

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
    records_directory: OwnedFd,
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
            records_directory: directories::make_private_in(&private, &places.private.join(RECORDS))?,
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

    /// Notes that the catalog of `home` may need layers in here, since several homes may share them.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn claim(&self, home: &Path) -> Result<(), StoreError> {
        let directory = self.places.private.join(HOMES);
        directories::make_private(&directory)?;
        let name = BlobDigest::of(Algorithm::Sha256, home.as_os_str().as_bytes());
        let path = directory.join(name.hex());
        match std::os::unix::fs::symlink(home, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Before anything is recorded that needs these layers: else a power loss leaves them to other homes.
            Ok(()) => sync_directory(&directory),
            Err(error) => Err(StoreError::io("create", path)(error)),
        }
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

    /// Finishes or removes what runs that died have left in staging. Returns how many layers were finished.
    ///
    /// # Errors
    /// The first failure; a layer that cannot be finished is removed instead.
    pub fn recover(&self) -> Result<usize, StoreError> {
        let staging = self.staging_path();
        let boot = boot_id();
        let mut finished = Vec::new();
        for entry in fs::read_dir(&staging).map_err(StoreError::io("read", &staging))? {
            let entry = entry.map_err(StoreError::io("read", &staging))?;
            let name = entry.file_name();
            let path = entry.path();
            let digest = name.to_str().and_then(|name| BlobDigest::parse(name).ok());
            let ready = self.mark_of(name.as_encoded_bytes())?;
            let has = |part: &str| path.join(part).symlink_metadata().is_ok();
            let placed = !has("tree") && has("record");
            match digest {
                // The tree has its final name, so it was synced: only the record's rename is missing. Where the tree
                // has been removed since, the record would be one of nothing.
                Some(digest) if ready.is_some() && placed && self.has_layer(&digest)? => {
                    finished.push(digest);
                }
                Some(digest) if ready.is_some() && ready == boot && has("tree") && has("record") => {
                    finished.push(digest);
                }
                _ => {
                    // The run died while it removed this layer.
                    if let Some(digest) = name.to_str().and_then(removed_layer)
                        && !self.has_layer(&digest)?
                    {
                        self.remove_record(&digest)?;
                        self.sync_records()?;
                    }
                    self.remove_staged(name.as_encoded_bytes())?;
                }
            }
        }
        let mut staged = Vec::new();
        for digest in finished {
            let directory = self.open_staged(&digest)?;
            // The run died between declaring the layer ready and removing its blob.
            self.remove_spool(&digest)?;
            staged.push(Staged { store: self, digest, directory, armed: true });
        }
        let count = staged.len();
        if count > 0 {
            self.commit(staged)?;
        } else {
            // Layers whose run died right after naming them are complete, and will be recorded as they are.
            self.sync_layers()?;
            self.sync_records()?;
        }
        Ok(count)
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
    ) -> Result<(), StoreError> {
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
                self.remove_spool(&digest)?;
            }
        }
        Ok(())
    }

    /// Bytes of a blob that earlier runs have received.
    pub fn spooled(&self, digest: &BlobDigest) -> u64 {
        let metadata = fs::symlink_metadata(self.spool_path(digest));
        metadata.map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
    }

    fn spool_path(&self, digest: &BlobDigest) -> PathBuf {
        self.downloads.join(format!("{digest}.part"))
    }

    fn remove_spool(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        spool::remove(self.downloads_directory.as_fd(), &self.spool_path(digest))
    }

    /// An empty place for a layer to be extracted into.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage(&self, digest: &BlobDigest) -> Result<Staged<'_>, StoreError> {
        // The record will be replaced in the end; one that may not be is told before anything is fetched.
        sys::has_own_file(self.records_directory.as_fd(), digest.as_str().as_bytes())
            .map_err(StoreError::io("replace the record", self.places.record(digest)))?;
        self.remove_staged(digest.as_str().as_bytes())?;
        let path = self.staging_path().join(digest.as_str());
        let name = digest.as_str().as_bytes();
        let directory = sys::make_own_directory_at(self.staging_directory.as_fd(), name, PRIVATE_MODE)
            .map_err(StoreError::io("create", &path))?;
        let staged = Staged { store: self, digest: digest.clone(), directory, armed: true };
        sys::make_directory(staged.directory.as_fd(), TREE, 0o755)
            .map_err(StoreError::io("create", &path))?;
        Ok(staged)
    }

    /// Gives layers their final names, durably: one sync of the file system for all of them.
    ///
    /// # Errors
    /// None of them can be believed to be there then; those that were not placed are removed.
    pub fn commit(&self, layers: Vec<Staged<'_>>) -> Result<(), StoreError> {
        sys::sync_file_system(self.layers_directory.as_fd())
            .map_err(StoreError::io("sync", self.layers()))?;
        for staged in &layers {
            self.place(staged)?;
        }
        self.sync_layers()?;
        for staged in &layers {
            self.place_record(staged)?;
        }
        self.sync_records()?;
        // Dropping removes the staging directories, with the trees that were replaced in them.
        drop(layers);
        Ok(())
    }

    /// Makes the names of layers durable.
    fn sync_layers(&self) -> Result<(), StoreError> {
        sys::sync(self.layers_directory.as_fd()).map_err(StoreError::io("sync", self.layers()))
    }

    /// Makes the names of records durable: after those of the layers, so that no record is one of nothing.
    fn sync_records(&self) -> Result<(), StoreError> {
        sys::sync(self.records_directory.as_fd())
            .map_err(StoreError::io("sync", self.places.private.join(RECORDS)))
    }

    fn has_layer(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        let name = format!("{digest}.extracted");
        let found = sys::metadata(self.layers_directory.as_fd(), name.as_bytes());
        found
            .map(|found| found.is_some())
            .map_err(|error| StoreError::io("look at", layer_path(self.layers(), digest))(error))
    }

    fn remove_record(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        sys::remove_tree(self.records_directory.as_fd(), digest.as_str().as_bytes())
            .map_err(|error| StoreError::io("remove the record", self.places.record(digest))(error))
    }

    /// Removes layers, but for those that a running process uses, which are returned with who that is. Renamed
    /// away first, so that no half of one is ever visible under its name.
    ///
    /// # Errors
    /// The first failure; what was renamed away by then is swept by the next run.
    pub fn remove(&self, digests: &[&BlobDigest]) -> Result<BTreeMap<BlobDigest, String>, StoreError> {
        let (layers, staging) = (self.layers_directory.as_fd(), self.staging_directory.as_fd());
        let in_use = layers_in_use(self.layers(), digests);
        let removed: Vec<&BlobDigest> =
            digests.iter().copied().filter(|digest| !in_use.contains_key(*digest)).collect();
        if removed.is_empty() {
            return Ok(in_use);
        }
        for &digest in &removed {
            let path = layer_path(self.layers(), digest);
            let name = format!("{digest}.extracted");
            let away = format!("{REMOVED}{digest}");
            self.remove_staged(away.as_bytes())?;
            match sys::rename_new(layers, name.as_bytes(), staging, away.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(StoreError::io("remove", path))?,
            }
        }
        self.sync_layers()?;
        sys::sync(staging).map_err(StoreError::io("sync", self.staging_path()))?;
        for digest in &removed {
            self.remove_record(digest)?;
        }
        self.sync_records()?;
        for digest in removed {
            self.remove_staged(format!("{REMOVED}{digest}").as_bytes())?;
        }
        Ok(in_use)
    }

    fn place(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let path = layer_path(self.layers(), &staged.digest);
        let final_name = format!("{}.extracted", staged.digest);
        let (staging, layers) = (staged.directory.as_fd(), self.layers_directory.as_fd());
        let name = final_name.as_bytes();
        let failed =
            |source| StoreError::Io { doing: "rename the finished layer to", path: path.clone(), source };
        // A layer that recovery found without its tree has its final name already.
        if sys::metadata(staging, TREE).map_err(failed)?.is_some() {
            match sys::rename_new(staging, TREE, layers, name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // After the exchange the old tree lies here: a run that finds it must not take it for the new one.
                    revoke(staging).map_err(failed)?;
                    match sys::rename_exchange(staging, TREE, layers, name) {
                        // File systems that cannot exchange: the name is gone for a moment.
                        Err(error) if sys::is_unsupported(&error) => {
                            sys::rename_new(layers, name, staging, b"replaced").map_err(failed)?;
                            sys::rename_new(staging, TREE, layers, name).map_err(failed)?;
                        }
                        other => other.map_err(failed)?,
                    }
                }
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Gives the record of a placed layer its name.
    fn place_record(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let (staging, records) = (staged.directory.as_fd(), self.records_directory.as_fd());
        let path = self.places.record(&staged.digest);
        sys::rename_over(staging, RECORD, records, staged.digest.as_str().as_bytes())
            .map_err(StoreError::io("rename the finished record to", path))
    }

    fn staging_path(&self) -> PathBuf {
        self.places.private.join(STAGING)
    }

    fn open_staged(&self, digest: &BlobDigest) -> Result<OwnedFd, StoreError> {
        sys::open_own_directory_at(self.staging_directory.as_fd(), digest.as_str().as_bytes())
            .map_err(StoreError::io("open", self.staging_path().join(digest.as_str())))
    }

    /// The boot in which what is staged under `name` was declared ready, if it was.
    fn mark_of(&self, name: &[u8]) -> Result<Option<String>, StoreError> {
        let path = || self.staging_path().join(std::ffi::OsStr::from_bytes(name));
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

    /// Removes what is staged under `name`, and its mark first: half a tree is not ready.
    fn remove_staged(&self, name: &[u8]) -> Result<(), StoreError> {
        let staging = self.staging_directory.as_fd();
        let revoked = match sys::open_directory_beneath(staging, name) {
            Ok(directory) => revoke(directory.as_fd()),
            // Nothing there, or no directory of ours.
            Err(_) => Ok(()),
        };
        revoked
            .and_then(|()| sys::remove_tree(staging, name))
            .map_err(StoreError::io("remove what is left in", self.staging_path()))
    }
}

/// Takes the mark away by which the layer staged in `directory` is ready.
fn revoke(directory: BorrowedFd<'_>) -> io::Result<()> {
    match sys::remove_file(directory, READY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Free bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Where layers go.
    pub layers: u64,
    /// Where downloads go.
    pub downloads: u64,
}

/// A layer on its way. Dropped without [`Store::commit`] it is removed.
#[derive(Debug)]
pub struct Staged<'s> {
    store: &'s Store,
    digest: BlobDigest,
    directory: OwnedFd,
    armed: bool,
}

impl Staged<'_> {
    /// The empty directory for the layer's entries.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn tree(&self) -> Result<OwnedFd, StoreError> {
        sys::open_directory_beneath(self.directory.as_fd(), TREE).map_err(StoreError::io("open", self.path()))
    }

    /// An empty file for the record, open for reading and writing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn record(&self) -> Result<File, StoreError> {
        sys::make_own_file(self.directory.as_fd(), RECORD, FILE_MODE)
            .map_err(StoreError::io("create", self.path().join("record")))
    }

    /// Declares that tree and record are complete and verified: from now on a run that dies loses nothing.
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

    fn path(&self) -> PathBuf {
        self.store.staging_path().join(self.digest.as_str())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.armed {
            // What cannot be removed now is swept by the next run.
            let _ = self.store.remove_staged(self.digest.as_str().as_bytes());
        }
    }
}

/// What tells this boot from the one before: data not synced then is lost, data not synced now is not.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// The layer that what has this name in staging was, before it was renamed away.
fn removed_layer(name: &str) -> Option<BlobDigest> {
    BlobDigest::parse(name.strip_prefix(REMOVED)?).ok()
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
