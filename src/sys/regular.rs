//! Files that a user names: read through symlinks, whoever owns them, but only if they are regular
//! ones. A fifo would block, and opening a device may do anything.
//!
//! The type is looked at before opening, so that nothing is touched, and again on the open handle,
//! so that nobody can exchange the file in between.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use super::refusal::check_regular;

/// Opens the regular file at `path` to read. Symlinks are followed; nothing else is opened, so
/// nothing blocks.
///
/// # Errors
/// A [`Refusal`](super::Refusal) where there is something else; the system's.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    check_regular(&rustix::fs::stat(path)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    check_regular(&rustix::fs::fstat(&file)?)?;
    Ok(file.into())
}

/// Tells whether the system lets this process read the file at `path`, and write to the file if
/// `write` says so. The file is not opened: closing a database takes away the locks that this
/// process has on it.
///
/// # Errors
/// The system's reason not to.
pub(crate) fn may_open(path: &Path, write: bool) -> io::Result<()> {
    let access = if write { Access::READ_OK | Access::WRITE_OK } else { Access::READ_OK };
    Ok(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)?)
}

/// Reads the regular file at `path`, which has at most `limit` bytes.
///
/// # Errors
/// As for [`open_regular`]; [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_bounded(open_regular(path)?, limit)
}

/// Reads text like [`read_regular`].
///
/// # Errors
/// As for [`read_regular`]; [`io::ErrorKind::InvalidData`] where it is not UTF-8.
pub(crate) fn read_regular_text(path: &Path, limit: u64) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
    String::from_utf8(read_regular(path, limit)?).map_err(not_text)
}

pub(super) fn read_bounded(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
