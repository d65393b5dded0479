//! The owner of the catalog's files: SQLite opens them by path and asks nobody, so they are looked
//! at before.
//!
//! Neither the database nor the files that SQLite keeps beside it may be a symlink, anything but a
//! file, another user's, or a file with another name: a journal that a stranger has put there would
//! be rolled back into the database, and what SQLite writes would stand under the other name too.
//! The directory may be reached by symlinks, so SQLite gets the real path, and follows none itself.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::connection::open_error;
use crate::error::CatalogError;
use crate::sys;

/// The mode of a new catalog; SQLite gives it to the files beside it as well.
const MODE: u32 = 0o600;
/// The endings that SQLite appends to the name of a database for the files beside it.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];

/// Makes the catalog `path` with `content` where there is none, at the cost of one wait for the
/// disk: SQLite would wait for five. Its name lasts with the first transaction, whose journal
/// SQLite makes and syncs beside it.
///
/// A failure leaves nothing there, and [`writable`] finds out why. Nothing is made beside a journal
/// or a log either, which SQLite would roll back or replay into the new catalog: it drops them for
/// an empty file.
pub(super) fn make_whole(path: &Path, content: &dyn Fn(&Path) -> Option<Vec<u8>>) {
    let make = || {
        let (directory, _) = place(path).ok()?;
        if check(&directory, path).ok()? || has_files_beside(&directory, path).ok()? {
            return None;
        }
        let mut file = sys::make_unnamed_file(directory.as_fd()).ok()??;
        sys::set_mode(file.as_fd(), MODE).ok()?;
        file.write_all(&content(path)?).ok()?;
        // Before the file has a name: else a power loss may leave one that is half a database.
        file.sync_all().ok()?;
        sys::name_file(&file, directory.as_fd(), name(path)).ok()
    };
    // One that somebody else has made meanwhile is as good.
    let _ = make();
}

/// Returns the real path of the catalog `path`, which is made, empty, where there is none.
pub(super) fn writable(path: &Path) -> Result<PathBuf, CatalogError> {
    let fail = |error: io::Error| open_error(path, &error);
    let (directory, real) = place(path).map_err(fail)?;
    if !check(&directory, path)? {
        match sys::make_own_file(directory.as_fd(), name(path), MODE) {
            // Another run has made the same one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(check(&directory, path)?),
            other => drop(other.map_err(fail)?),
        }
    }
    Ok(real)
}

/// Returns the real path of the catalog `path`; `None` where there is none.
pub(super) fn readable(path: &Path) -> Result<Option<PathBuf>, CatalogError> {
    match place(path) {
        Ok((directory, real)) => Ok(check(&directory, path)?.then_some(real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(open_error(path, &error)),
    }
}

fn place(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let directory = fs::canonicalize(path.parent().unwrap_or(Path::new("/")))?;
    Ok((sys::locate_directory(&directory)?, directory.join(path.file_name().unwrap_or_default())))
}

fn name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

/// Tells whether there is a catalog, and refuses strangers' files.
fn check(directory: &OwnedFd, path: &Path) -> Result<bool, CatalogError> {
    has_files_beside(directory, path)?;
    has(directory, path)
}

/// Tells whether one of the files is there that SQLite keeps beside a database, and refuses
/// strangers'.
fn has_files_beside(directory: &OwnedFd, path: &Path) -> Result<bool, CatalogError> {
    let mut any = false;
    for suffix in BESIDE {
        let mut beside = OsString::from(path);
        beside.push(suffix);
        any |= has(directory, Path::new(&beside))?;
    }
    Ok(any)
}

fn has(directory: &OwnedFd, path: &Path) -> Result<bool, CatalogError> {
    sys::has_sole_own_file(directory.as_fd(), name(path)).map_err(|error| open_error(path, &error))
}
