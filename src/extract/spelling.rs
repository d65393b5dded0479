//! Names that are two in a layer and one on disk: `Foo` and `foo` where the file system does not
//! tell capitals apart (ext4 with casefold, vfat, many network file systems), `é` and `e` with an
//! accent where it composes them.
//!
//! The second would silently replace the first. Whether a file system is such a one is asked once a
//! layer, and only when a name that is to be made is there already; on all others that is the whole
//! cost.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::paths::{failed, join, show, split};
use crate::error::LayerError;
use crate::sys;

/// Two names that nobody gives, each with another that is the same where names are folded.
const PROBES: [(&str, &str); 2] =
    [(".msb-sync-names-a", ".MSB-SYNC-NAMES-A"), (".msb-sync-names-\u{e9}", ".msb-sync-names-e\u{301}")];

/// The way in which the file system of one layer's tree compares names.
#[derive(Debug)]
pub(super) struct Spelling {
    root: Arc<OwnedFd>,
    folds: OnceLock<bool>,
}

impl Spelling {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        Self { root, folds: OnceLock::new() }
    }

    /// Makes sure that what is at `path`, whose parent is `directory`, is there by that very name.
    pub(super) fn check(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path);
        match self.other(directory, name).map_err(failed("look at the names beside", path))? {
            None => Ok(()),
            Some(other) => {
                Err(LayerError::SameName { entry: show(path), other: show(&join(parent, &other)) })
            }
        }
    }

    /// Finds the name under which `name` is there, if it is another one.
    fn other(&self, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if !self.folds.get_or_init(|| folds(self.root.as_fd())) {
            return Ok(None);
        }
        let Some(there) = sys::metadata(directory, name)? else { return Ok(None) };
        let mut itself = false;
        sys::each_entry(directory, |found, _| {
            itself = found == name;
            !itself
        })?;
        if itself {
            return Ok(None);
        }
        let mut other = None;
        sys::each_entry(directory, |found, _| {
            let inode = sys::metadata(directory, found).ok().flatten().map(|found| found.inode);
            if inode == Some(there.inode) {
                other = Some(found.to_vec());
            }
            other.is_none()
        })?;
        // Whatever its name is, it is not this one.
        Ok(Some(other.unwrap_or_else(|| name.to_vec())))
    }
}

fn folds(root: BorrowedFd<'_>) -> bool {
    PROBES.iter().any(|(name, other)| {
        let (name, other) = (name.as_bytes(), other.as_bytes());
        // Where that cannot be found out, names are taken not to be folded: nothing is lost on the
        // file systems that are usual.
        if sys::create_file(root, name, 0o600).is_err() {
            return false;
        }
        let found = sys::metadata(root, other).ok().flatten().is_some();
        let _ = sys::remove_file(root, name);
        found
    })
}
