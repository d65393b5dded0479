//! Rights that an owner has not given to himself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, chmod, fchmod, fstat, openat};

use super::place::c_string;

/// Does a `deed` that needs rights on the directory `name` in `directory`, and does it once more
/// with them if its owner has not given them to himself: a directory that is to be moved has to be
/// writable.
pub(crate) fn with_rights<T>(
    directory: BorrowedFd<'_>,
    name: &[u8],
    deed: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    match deed() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            match c_string(name).and_then(|name| Ok(take_rights_by_name(directory, &name)?)) {
                Ok(()) => deed(),
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}

/// Lets the owner read, change and pass through an open directory.
pub(super) fn take_rights(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fchmod(directory, Mode::from_raw_mode(fstat(directory)?.st_mode) | Mode::RWXU)
}

/// Lets the owner do the same with a directory that cannot be opened. A symlink is never followed,
/// which leaves the way through /proc: no other call changes the mode of what is only held.
pub(super) fn take_rights_by_name(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(parent, name, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&held)?.st_mode) | Mode::RWXU;
    chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode)
}
