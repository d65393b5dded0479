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
use crate::sys::{self, UnsyncedNames};

/// The mode of a directory that is its user's alone.
pub(crate) const PRIVATE_MODE: u32 = 0o700;

/// Opens the directory `path`, making those on the way to it and itself with `mode` where they are
/// missing, durably.
///
/// # Errors
/// It cannot be made, is no directory, or is another user's.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<OwnedFd, StoreError> {
    let mut unsynced = UnsyncedNames::default();
    let opened = make_unsynced_directory(path, mode, &mut unsynced)?;
    unsynced.sync().map_err(StoreError::io("create the directory", path))?;
    Ok(opened)
}

/// Opens or makes a directory like [`make_directory`]; the names that are made last once `unsynced`
/// is synced.
///
/// # Errors
/// As for [`make_directory`].
pub(crate) fn make_unsynced_directory(
    path: &Path,
    mode: u32,
    unsynced: &mut UnsyncedNames,
) -> Result<OwnedFd, StoreError> {
    let make = |unsynced: &mut UnsyncedNames| -> io::Result<OwnedFd> {
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
                Component::Normal(name) => {
                    sys::make_unsynced_directory_at(directory.as_fd(), name, mode, unsynced)?
                }
                other => sys::open_own_directory_at(directory.as_fd(), other.as_os_str())?,
            };
        }
        sys::open_own_directory(path)
    };
    make(unsynced).map_err(|error| explain(path, error))
}

/// Opens the private directory `path`, making it where it is missing; its name lasts once
/// `unsynced` is synced. Its parent is there.
///
/// # Errors
/// As for [`make_directory`]; it is a symlink.
pub(super) fn make_private(path: &Path, unsynced: &mut UnsyncedNames) -> Result<OwnedFd, StoreError> {
    let parent = sys::locate_directory(path.parent().unwrap_or(Path::new("/")));
    make_private_in(&parent.map_err(|error| explain(path, error))?, path, unsynced)
}

/// Opens a private directory like [`make_private`], in an open directory.
///
/// # Errors
/// As for [`make_private`].
pub(super) fn make_private_in(
    parent: &OwnedFd,
    path: &Path,
    unsynced: &mut UnsyncedNames,
) -> Result<OwnedFd, StoreError> {
    // Paths of private directories end in a name.
    let name = path.file_name().unwrap_or_default();
    sys::make_unsynced_directory_at(parent.as_fd(), name, PRIVATE_MODE, unsynced)
        .map_err(|error| explain(path, error))
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
        Some(link) if error.kind() == io::ErrorKind::NotFound && link.is_symlink() => {
            let to = fs::read_link(link).unwrap_or_default();
            let text = format!("{} is a symlink to {}, where nothing is", link.display(), to.display());
            StoreError::io("use the directory", path)(io::Error::new(error.kind(), text))
        }
        _ if sys::refusal(&error).is_some() => StoreError::io("use the directory", path)(error),
        _ => StoreError::io("create the directory", path)(error),
    }
}
