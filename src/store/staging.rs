//! The staging directory: layers on their way in or out, each under a name that says which.
//!
//! No name in staging is waited for: beside what stays under one a second one is made
//! (`<digest>.1`).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Store;
use super::names::{MAX_NAMES, READY, STAGING, UNNEEDED, leftover_digest};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;

/// A thing that could not be removed; a later run tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// The layer that it is of, if it is of one.
    pub digest: Option<BlobDigest>,
    /// The place where it lies.
    pub path: PathBuf,
    /// The reason why it stays, for people.
    pub reason: String,
}

impl Left {
    pub(super) fn new(path: PathBuf, reason: &dyn fmt::Display) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let digest = leftover_digest(name);
        Self { digest, path, reason: reason.to_string() }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stays until a later run can remove it: {}", self.path.display(), self.reason)
    }
}

pub(super) fn staging_path(store: &Store) -> PathBuf {
    store.places.private.join(STAGING)
}

pub(super) fn staged_path(store: &Store, name: &[u8]) -> PathBuf {
    staging_path(store).join(OsStr::from_bytes(name))
}

/// Lists the names in staging, sorted.
pub(super) fn staged_names(store: &Store) -> Result<BTreeSet<Vec<u8>>, StoreError> {
    let mut names = BTreeSet::new();
    sys::each_entry(store.staging_directory.as_fd(), |name, _| {
        names.insert(name.to_vec());
        true
    })
    .map_err(StoreError::io("read", staging_path(store)))?;
    Ok(names)
}

pub(super) fn sync_staging(store: &Store) -> Result<(), StoreError> {
    sys::sync(store.staging_directory.as_fd()).map_err(StoreError::io("sync", staging_path(store)))
}

/// Has `make` use a name in staging that begins with `start`, and is free once the thing that had
/// the name before is removed, as far as it can be.
pub(super) fn free_name<T>(
    store: &Store,
    start: &str,
    make: impl Fn(&[u8]) -> io::Result<T>,
) -> Result<(Vec<u8>, T), StoreError> {
    let mut number = 0;
    loop {
        let name = if number == 0 { start.to_owned() } else { format!("{start}.{number}") };
        let made = match make(name.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A thing that stays is found, and told, by whoever looks for leftovers.
                let _ = remove_staged(store, name.as_bytes());
                make(name.as_bytes())
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => {
                number += 1;
            }
            Err(error) => return Err(StoreError::io("create", staging_path(store).join(name))(error)),
            Ok(made) => return Ok((name.into_bytes(), made)),
        }
    }
}

/// Removes what is staged under `name`, and its mark first: half a tree is not ready.
pub(super) fn remove_staged(store: &Store, name: &[u8]) -> Result<(), Left> {
    let staging = store.staging_directory.as_fd();
    let revoked = match sys::open_directory_beneath(staging, name) {
        Ok(directory) => revoke(directory.as_fd()),
        // Nothing there, or no directory of ours.
        Err(_) => Ok(()),
    };
    revoked.map_err(|error| Left::new(staged_path(store, name), &error))?;
    remove_named(store, name)
}

/// Removes what has `name` in staging, which is no layer that may be marked as ready.
pub(super) fn remove_named(store: &Store, name: &[u8]) -> Result<(), Left> {
    sys::remove_tree(store.staging_directory.as_fd(), name)
        .map_err(|kept| Left::new(staged_path(store, name), &kept.under(&staging_path(store))))
}

/// Takes away the mark that nobody needs a layer, if there is one.
pub(super) fn unmark_unneeded(store: &Store, digest: &BlobDigest) {
    // A mark that stays is of no layer, or of one with an inventory: the next run takes it away.
    let _ = sys::remove_file(store.staging_directory.as_fd(), format!("{UNNEEDED}{digest}").as_bytes());
}

/// Takes the mark away by which the layer staged in `directory` is ready.
pub(super) fn revoke(directory: BorrowedFd<'_>) -> io::Result<()> {
    match sys::remove_file(directory, READY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
