//! Extended attributes of open files and directories.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disks::free_space;

/// Sets an extended attribute of an open file or directory; `false` where the file system has none.
pub(crate) fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<bool> {
    match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads an extended attribute of an open file or directory, if it has it; a value that is longer
/// than `limit` bytes is an error.
pub(crate) fn get_xattr(file: BorrowedFd<'_>, name: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; limit];
    match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// True if an open file or directory has an extended attribute with exactly this value.
pub(crate) fn has_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<bool> {
    // One byte more than expected: a longer value fills it, or does not fit.
    let mut found = vec![0; value.len() + 1];
    match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut found[..]) {
        Ok(length) => Ok(found.get(..length) == Some(value)),
        Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// True if setting an extended attribute of `file` failed because of its name or size, on any
/// machine or on this kind of file system.
pub(crate) fn is_impossible_xattr(error: &io::Error, file: BorrowedFd<'_>) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::TOOBIG | Errno::RANGE | Errno::INVAL | Errno::NAMETOOLONG) => true,
        // ext4 says so too if the attributes of one file are more than a block.
        Some(Errno::NOSPC) => free_space(file).is_ok_and(|free| free > 1 << 20),
        _ => false,
    }
}

/// Takes the default ACL from a directory: what is made in it would get other modes than asked for.
pub(crate) fn remove_default_acl(directory: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fremovexattr(directory, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes all extended attributes `user.*` of an open file or directory.
pub(crate) fn remove_user_xattrs(file: BorrowedFd<'_>) -> io::Result<()> {
    // The kernel gives no longer list.
    let mut list = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(file, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in list[..length].split(|&b| b == 0).filter(|name| name.starts_with(b"user.")) {
        rustix::fs::fremovexattr(file, name)?;
    }
    Ok(())
}
