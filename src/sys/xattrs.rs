//! Extended attributes of open files and directories.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disks::free_space;

/// The names of ACLs, as attributes.
const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// The bytes of the names that most files have, and the most that the kernel gives.
const FEW_NAMES: usize = 256;
const MOST_NAMES: usize = 64 * 1024;

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

/// The reason why an extended attribute cannot be set here, however often it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImpossibleXattr {
    /// No machine can set one of that name and size.
    Anywhere,
    /// This kind of file system cannot keep one so large.
    OnFileSystem,
}

/// Tells whether setting an extended attribute of `file` failed because of its name or size.
pub(crate) fn impossible_xattr(error: &io::Error, file: BorrowedFd<'_>) -> Option<ImpossibleXattr> {
    match Errno::from_io_error(error)? {
        Errno::TOOBIG | Errno::RANGE | Errno::INVAL | Errno::NAMETOOLONG => Some(ImpossibleXattr::Anywhere),
        // ext4 says so too if the attributes of one file are more than a block.
        Errno::NOSPC if free_space(file).is_ok_and(|free| free > 1 << 20) => {
            Some(ImpossibleXattr::OnFileSystem)
        }
        _ => None,
    }
}

/// Takes the ACLs from a directory that it has inherited: what is made in it would get other modes
/// than asked for, and other users rights that nobody asked for.
pub(crate) fn remove_acls(directory: BorrowedFd<'_>) -> io::Result<()> {
    for name in [DEFAULT_ACL, ACCESS_ACL] {
        match rustix::fs::fremovexattr(directory, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes all extended attributes `user.*` of an open file or directory.
pub(crate) fn remove_user_xattrs(file: BorrowedFd<'_>) -> io::Result<()> {
    let mut result = Ok(());
    each_name(
        |list| rustix::fs::flistxattr(file, list),
        |name| {
            if result.is_ok() && name.starts_with(b"user.") {
                result = rustix::fs::fremovexattr(file, name);
            }
        },
    )?;
    Ok(result?)
}

/// Calls `visit` with the name of each extended attribute of an open file or directory that
/// somebody has set, rather than the system by itself: see [`is_meant`].
pub(crate) fn each_xattr(file: BorrowedFd<'_>, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    each_name(
        |list| rustix::fs::flistxattr(file, list),
        |name| {
            if is_meant(name) {
                visit(name);
            }
        },
    )
}

/// Calls `visit` like [`each_xattr`], for the symlink `name`, which cannot be opened. Without
/// `/proc` nobody can tell.
pub(crate) fn each_xattr_of_symlink(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let listed = each_name(
        |list| rustix::fs::llistxattr(&path, list),
        |name| {
            if is_meant(name) {
                visit(name);
            }
        },
    );
    match listed {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

/// True for the names by which extended attributes change what a file means to anybody. The labels
/// that security modules put on each new file are none of these, nor is what file systems keep
/// under names of their own (`btrfs.`, `system.nfs4_acl`, Lustre's `trusted.lov`).
fn is_meant(name: &[u8]) -> bool {
    const LABELS: [&[u8]; 6] = [
        b"security.selinux",
        b"security.sehash",
        b"security.SMACK64",
        b"security.apparmor",
        b"security.ima",
        b"security.evm",
    ];
    const LUSTRE: [&[u8]; 3] = [b"trusted.lov", b"trusted.lma", b"trusted.link"];
    let begins = |start: &&[u8]| name.starts_with(start);
    match name {
        _ if name.starts_with(b"user.") => true,
        _ if name.starts_with(b"trusted.") => !LUSTRE.contains(&name),
        _ if name.starts_with(b"security.") => !LABELS.iter().any(begins),
        _ => [ACCESS_ACL, DEFAULT_ACL].iter().any(|acl| acl.as_bytes() == name),
    }
}

/// Calls `visit` with each name that `list` writes; a file system without extended attributes has
/// none.
fn each_name(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let (mut few, mut many) = ([0; FEW_NAMES], Vec::new());
    let names = match list(&mut few) {
        Ok(length) => few.get(..length),
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(Errno::RANGE) => {
            many.resize(MOST_NAMES, 0);
            let length = list(&mut many)?;
            many.get(..length)
        }
        Err(error) => return Err(error.into()),
    };
    names.unwrap_or_default().split(|&byte| byte == 0).filter(|name| !name.is_empty()).for_each(&mut visit);
    Ok(())
}
