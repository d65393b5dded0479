//! Trees of any depth and origin, looked through and removed by directory handles.
//!
//! No step follows a symlink, and none leaves the file system and the mount of the directory that
//! the tree is in: a bind mount somewhere in a layer is another's data, whatever the layer's own
//! fate. Directories are told apart by device and mount ([`place`]), never by name. Other file
//! systems may give the files of one directory several devices (overlayfs does), so for those the
//! mount alone counts; the kernel itself refuses to unlink a mounted file.

mod descent;
mod obstacle;
mod place;
mod removal;
mod rights;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

pub(crate) use self::obstacle::Kept;
pub(super) use self::obstacle::Obstacle;
pub(crate) use self::place::is_immutable;
pub(crate) use self::removal::remove_tree;
pub(crate) use self::rights::with_rights;

use self::descent::Descent;
use self::place::{Looked, c_string};

/// Finds the first thing at or below `name` in `directory` that is on another mount or file system,
/// as a path relative to `directory`. A thing that does not answer counts as mounted; one in a
/// directory that is closed to us, as not.
///
/// # Errors
/// The directory cannot be looked at, or changes too fast.
pub(crate) fn find_mount(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    look_through(directory, name, |path, seen| {
        if matches!(seen, Seen::Mount) {
            found = Some(path());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Sums up the bytes of all files at and below `name` in `directory`, without those of other
/// mounts.
///
/// # Errors
/// The directory cannot be looked at, or changes too fast.
pub(crate) fn size_of_tree(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
    let mut size = 0_u64;
    look_through(directory, name, |_, seen| {
        if let Seen::File(bytes) = seen {
            size = size.saturating_add(bytes);
        }
        true
    })?;
    Ok(size)
}

/// A thing that a look through a tree comes by.
enum Seen {
    /// A thing that is no directory, of so many bytes.
    File(u64),
    /// The root of another mount or file system, which is not entered.
    Mount,
}

/// Visits all but directories at and below `name`, until `visit` says no.
fn look_through(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mut visit: impl FnMut(&dyn Fn() -> PathBuf, Seen) -> bool,
) -> io::Result<()> {
    let mut descent = Descent::new(directory, false)?;
    let mut next = Some(c_string(name)?);
    loop {
        if let Some(name) = next {
            let path = || descent.path(&name);
            let found = Looked::at(descent.innermost(), &name);
            let go_on = match &found {
                // Gone meanwhile, or in a directory that is closed to us.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
                {
                    true
                }
                // The thing does not answer: that is no file of a layer.
                Err(_) => visit(&path, Seen::Mount),
                Ok(found) if !found.is_on(descent.place) => visit(&path, Seen::Mount),
                Ok(found) if found.is_directory => match descent.enter(&name) {
                    Err(Obstacle::Mount) => visit(&|| descent.path(&name), Seen::Mount),
                    _ => true,
                },
                Ok(found) => visit(&path, Seen::File(found.size)),
            };
            if !go_on {
                return Ok(());
            }
        }
        if descent.levels.is_empty() {
            return Ok(());
        }
        next = descent.next()?.map(|(name, _)| name);
        if next.is_none() {
            descent.leave()?;
        }
    }
}

#[cfg(test)]
mod tests;
