//! Removing layers, and what is left of them: the one way out of the store.
//!
//! Nothing is removed or moved across a mount. A layer with one inside stays whole, under its name. What shows only on
//! the way (somebody mounts something meanwhile) stays where it is by then. All that stays is told and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{
    FILE_MODE, MAX_NAMES, READY, REMOVED, REMOVING, Store, UNNEEDED, layer_name, layer_path, layers_in_use,
    staged_digest,
};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;

/// Something that could not be removed; a later run tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Of which layer it is, if of one.
    pub digest: Option<BlobDigest>,
    /// Where it lies.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
}

impl Left {
    pub(super) fn new(path: PathBuf, reason: &dyn fmt::Display) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let digest = ["", REMOVED, REMOVING].iter().find_map(|prefix| staged_digest(name, prefix));
        Self { digest, path, reason: reason.to_string() }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stays until a later run can remove it: {}", self.path.display(), self.reason)
    }
}

/// What became of layers that nobody needs.
#[derive(Debug, Default)]
pub struct RemovedLayers {
    /// Those that were there and are not any more.
    pub removed: BTreeSet<BlobDigest>,
    /// Those that stay, with the reason.
    pub kept: BTreeMap<BlobDigest, String>,
    /// What is left of the removed ones.
    pub left: Vec<Left>,
}

impl Store {
    /// Removes layers, but for those that a running process uses and those that cannot be removed now. Renamed away
    /// first, so that no half of one is ever visible under its name, wherever the file system can.
    ///
    /// # Errors
    /// Names cannot be made durable; what was renamed away by then is swept by the next run.
    pub fn remove(&self, digests: &[&BlobDigest]) -> Result<RemovedLayers, StoreError> {
        let mut result =
            RemovedLayers { kept: layers_in_use(self.layers(), digests), ..RemovedLayers::default() };
        for (digest, reason) in &mut result.kept {
            // What is mounted there says more than who sees it, and than that nobody can tell.
            if let Err(error) = self.refuse_mounts(digest, "remove") {
                *reason = error.to_string();
            }
        }
        let (mut away, mut fixed) = (Vec::new(), Vec::new());
        for &digest in digests {
            if result.kept.contains_key(digest) {
                continue;
            }
            match self.take_away(digest) {
                Ok(name) => away.push((digest, name)),
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::CrossesDevices => {
                    fixed.push(digest);
                }
                Err(error) => {
                    result.kept.insert(digest.clone(), error.to_string());
                }
            }
        }
        if !away.is_empty() {
            self.sync_layers()?;
            self.sync_staging()?;
            for (digest, _) in &away {
                result.left.extend(self.remove_inventory(digest).err());
            }
            self.sync_inventories()?;
        }
        for (digest, name) in away {
            if let Some(name) = name {
                result.removed.insert(digest.clone());
                result.left.extend(self.remove_staged(&name).err());
            }
        }
        for digest in fixed {
            match self.remove_in_place(digest) {
                Ok(()) => result.removed.insert(digest.clone()),
                Err(error) => result.kept.insert(digest.clone(), error.to_string()).is_some(),
            };
        }
        for digest in &result.removed {
            self.unmark_unneeded(digest);
        }
        self.mark_unneeded(&mut result)?;
        Ok(result)
    }

    /// Marks the layers that stay and have no inventory, by which a later run would find them.
    fn mark_unneeded(&self, result: &mut RemovedLayers) -> Result<(), StoreError> {
        let mut marked = false;
        for digest in result.kept.keys() {
            let is_half =
                || sys::metadata(self.staging_directory.as_fd(), format!("{REMOVING}{digest}").as_bytes());
            if self.has_inventory(digest)?
                || !self.has_layer(digest)?
                || is_half().is_ok_and(|found| found.is_some())
            {
                continue;
            }
            let name = format!("{UNNEEDED}{digest}");
            match sys::create_file(self.staging_directory.as_fd(), name.as_bytes(), FILE_MODE) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    result.left.push(Left::new(self.staged_path(name.as_bytes()), &error));
                }
                _ => marked = true,
            }
        }
        if marked { self.sync_staging() } else { Ok(()) }
    }

    /// Renames a layer into staging, and tells its name there; `None` if there is no such layer.
    fn take_away(&self, digest: &BlobDigest) -> Result<Option<Vec<u8>>, StoreError> {
        let (layers, staging) = (self.layers_directory.as_fd(), self.staging_directory.as_fd());
        let name = layer_name(digest);
        self.refuse_mounts(digest, "remove")?;
        let renamed = self.free_name(&format!("{REMOVED}{digest}"), |away| {
            sys::with_rights(layers, &name, || sys::rename_new(layers, &name, staging, away))
        });
        match renamed {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(StoreError::Io { source, .. }) => Err(self.refused(digest, "remove", source)),
            other => other.map(|(name, ())| Some(name)),
        }
    }

    /// Refuses to move a layer in which something is mounted, or on which.
    pub(super) fn refuse_mounts(&self, digest: &BlobDigest, doing: &'static str) -> Result<(), StoreError> {
        let path = layer_path(self.layers(), digest);
        match sys::find_mount(self.layers_directory.as_fd(), &layer_name(digest)) {
            Ok(None) => Ok(()),
            Ok(Some(mount)) => Err(StoreError::Mounted { doing, path, mount: self.layers().join(mount) }),
            Err(error) => Err(StoreError::io("look for mounts in", path)(error)),
        }
    }

    /// Why a layer can be neither moved nor replaced.
    pub(super) fn refused(&self, digest: &BlobDigest, doing: &'static str, error: io::Error) -> StoreError {
        let path = layer_path(self.layers(), digest);
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        if denied && sys::is_immutable(self.layers_directory.as_fd(), &layer_name(digest)) {
            StoreError::Immutable { doing, path }
        } else {
            StoreError::io(doing, path)(error)
        }
    }

    /// Removes a layer where it is, for file systems that cannot rename it: overlayfs, whose lower layers hold it. Its
    /// inventory goes first, so that no half of it counts as complete, and says in staging until the end that the rest is
    /// to be removed.
    pub(super) fn remove_in_place(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        let (inventories, staging) = (self.inventories_directory.as_fd(), self.staging_directory.as_fd());
        let marker = format!("{REMOVING}{digest}");
        let path = layer_path(self.layers(), digest);
        let moved = sys::rename_over(inventories, digest.as_str().as_bytes(), staging, marker.as_bytes());
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match sys::create_file(staging, marker.as_bytes(), FILE_MODE) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    _ => Ok(()),
                }
            }
            other => other,
        }
        .map_err(StoreError::io("revoke the record of", &path))?;
        self.sync_staging()?;
        self.sync_inventories()?;
        sys::remove_tree(self.layers_directory.as_fd(), &layer_name(digest))
            .map_err(|kept| StoreError::io("remove", path)(kept.under(self.layers()).into()))?;
        self.sync_layers()?;
        // Of an inventory that is gone: nobody looks at it.
        let _ = sys::remove_file(self.bindings_directory.as_fd(), digest.as_str().as_bytes());
        self.remove_staged(marker.as_bytes())
            .map_err(|left| StoreError::io("remove", left.path)(io::Error::other(left.reason)))
    }

    fn remove_inventory(&self, digest: &BlobDigest) -> Result<(), Left> {
        for directory in [&self.inventories_directory, &self.bindings_directory] {
            sys::remove_tree(directory.as_fd(), digest.as_str().as_bytes()).map_err(|kept| {
                let path = self.places.inventory(digest);
                Left::new(path.clone(), &kept.under(path.parent().unwrap_or(&path)))
            })?;
        }
        Ok(())
    }

    /// Removes what lies in staging under `name` and is of no use, and finishes the removal that it may stand for.
    ///
    /// # Errors
    /// Names cannot be made durable, or looked at.
    pub(super) fn sweep(&self, name: &[u8]) -> Result<Result<(), Left>, StoreError> {
        if let Some(digest) = staged_digest(name, UNNEEDED)
            && !self.has_inventory(&digest)?
            && self.has_layer(&digest)?
        {
            // Who needs the layer by now only the catalogs tell: whoever removes layers asks them.
            return Ok(Ok(()));
        }
        if let Some(digest) = staged_digest(name, REMOVED)
            && !self.has_layer(&digest)?
        {
            // The run died while it removed this layer.
            if let Err(left) = self.remove_inventory(&digest) {
                return Ok(Err(left));
            }
            self.sync_inventories()?;
        }
        if let Some(digest) = staged_digest(name, REMOVING)
            && !self.has_inventory(&digest)?
            && self.has_layer(&digest)?
        {
            // The run died while it removed this layer where it is.
            let kept = match layers_in_use(self.layers(), &[&digest]).remove(&digest) {
                Some(who) => Some(who),
                None => self.remove_in_place(&digest).err().map(|error| error.to_string()),
            };
            let path = layer_path(self.layers(), &digest);
            return Ok(kept.map_or(Ok(()), |reason| Err(Left { digest: Some(digest), path, reason })));
        }
        Ok(self.remove_staged(name))
    }

    fn has_inventory(&self, digest: &BlobDigest) -> Result<bool, StoreError> {
        let found = sys::metadata(self.inventories_directory.as_fd(), digest.as_str().as_bytes());
        found
            .map(|found| found.is_some())
            .map_err(|error| StoreError::io("look at", self.places.inventory(digest))(error))
    }

    /// Removes what is staged under `name`, and its mark first: half a tree is not ready.
    pub(super) fn remove_staged(&self, name: &[u8]) -> Result<(), Left> {
        let staging = self.staging_directory.as_fd();
        let revoked = match sys::open_directory_beneath(staging, name) {
            Ok(directory) => revoke(directory.as_fd()),
            // Nothing there, or no directory of ours.
            Err(_) => Ok(()),
        };
        revoked.map_err(|error| Left::new(self.staged_path(name), &error))?;
        sys::remove_tree(staging, name)
            .map_err(|kept| Left::new(self.staged_path(name), &kept.under(&self.staging_path())))
    }

    /// Has `make` use a name in staging that begins with `start`, after what had it before is removed, as far as it can
    /// be.
    pub(super) fn free_name<T>(
        &self,
        start: &str,
        make: impl Fn(&[u8]) -> io::Result<T>,
    ) -> Result<(Vec<u8>, T), StoreError> {
        let mut number = 0;
        loop {
            let name = if number == 0 { start.to_owned() } else { format!("{start}.{number}") };
            // What stays is found, and told, by who looks for leftovers.
            let _ = self.remove_staged(name.as_bytes());
            match make(name.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => {
                    number += 1;
                }
                Err(error) => return Err(StoreError::io("create", self.staging_path().join(name))(error)),
                Ok(made) => return Ok((name.into_bytes(), made)),
            }
        }
    }

    pub(super) fn staged_path(&self, name: &[u8]) -> PathBuf {
        self.staging_path().join(OsStr::from_bytes(name))
    }
}

/// Takes the mark away by which the layer staged in `directory` is ready.
pub(super) fn revoke(directory: BorrowedFd<'_>) -> io::Result<()> {
    match sys::remove_file(directory, READY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
