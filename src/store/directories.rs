//! Making and opening the store's directories, which are this user's alone unless he says
//! otherwise.
//!
//! A directory that is made here gets its mode whatever the umask; one that is there keeps its own.
//! The home and the directories of layers and downloads may be symlinks of this user's or root's;
//! the private directories may not, and none may be another user's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use crate::error::StoreError;
use crate::sys;

/// The mode of a directory that is its user's alone.
pub(crate) const PRIVATE_MODE: u32 = 0o700;

/// Opens the directory `path`, making those on the way to it and itself with `mode` where they are
/// missing.
///
/// # Errors
/// It cannot be made, is no directory, or is another user's.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<OwnedFd, StoreError> {
    let make = || -> io::Result<OwnedFd> {
        let mut missing = Vec::new();
        let mut there = path;
        while let Err(error) = fs::symlink_metadata(there) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            let Some(parent) = there.parent() else { break };
            missing.extend(there.components().next_back());
            there = parent;
        }
        if missing.is_empty() {
            return sys::open_own_directory(path);
        }
        let mut directory = sys::locate_directory(there)?;
        for component in missing.into_iter().rev() {
            directory = match component {
                Component::Normal(name) => sys::make_own_directory_at(directory.as_fd(), name, mode)?,
                other => sys::open_own_directory_at(directory.as_fd(), other.as_os_str())?,
            };
        }
        sys::open_own_directory(path)
    };
    make().map_err(|error| explain(path, error))
}

/// Opens the private directory `path`, making it where it is missing. Its parent is there.
///
/// # Errors
/// As for [`make_directory`]; it is a symlink.
pub(super) fn make_private(path: &Path) -> Result<OwnedFd, StoreError> {
    let make = || {
        // Paths of private directories end in a name.
        let name = path.file_name().unwrap_or_default();
        let parent = sys::locate_directory(path.parent().unwrap_or(Path::new("/")))?;
        sys::make_own_directory_at(parent.as_fd(), name, PRIVATE_MODE)
    };
    make().map_err(|error| explain(path, error))
}

/// Opens a private directory like [`make_private`], in an open directory.
///
/// # Errors
/// As for [`make_private`].
pub(super) fn make_private_in(parent: &OwnedFd, path: &Path) -> Result<OwnedFd, StoreError> {
    let name = path.file_name().unwrap_or_default();
    sys::make_own_directory_at(parent.as_fd(), name, PRIVATE_MODE).map_err(|error| explain(path, error))
}

/// Makes the error of a directory that cannot be made or opened; names a file that is in its place.
fn explain(path: &Path, error: io::Error) -> StoreError {
    let in_the_way = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    let is_file = matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory)
        || matches!(sys::refusal(&error), Some(sys::Refusal::NotADirectory(_)));
    match in_the_way {
        Some(there) if is_file && !there.is_dir() => {
            StoreError::InTheWay { path: path.to_owned(), there: there.to_owned() }
        }
        _ if sys::refusal(&error).is_some() => StoreError::io("use the directory", path)(error),
        _ => StoreError::io("create the directory", path)(error),
    }
}
