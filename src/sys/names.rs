//! Names in a directory: listed, made, renamed and removed, each below a directory handle and never
//! through a symlink.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::descriptors::patiently;
use super::metadata::{Kind, metadata};

/// Calls `visit` with each name in `directory`, and whether it is a directory, until it returns
/// `false`.
pub(crate) fn each_entry(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(&[u8], bool) -> bool,
) -> io::Result<()> {
    for entry in patiently(|| Dir::read_from(directory))? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            // Some file systems do not tell.
            FileType::Unknown => {
                metadata(directory, name)?.is_some_and(|metadata| metadata.kind == Kind::Directory)
            }
            kind => kind == FileType::Directory,
        };
        if !visit(name, is_directory) {
            break;
        }
    }
    Ok(())
}

/// Reads the text of the symlink `name`.
pub(crate) fn read_link(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// Makes the directory `name`.
pub(crate) fn make_directory(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))?)
}

/// Makes the symlink `name` with the text `target`, which is not looked at.
pub(crate) fn make_symlink(directory: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, directory, name)?)
}

/// Makes `name` another name of the inode `from`/`from_name`; a symlink there is linked itself.
pub(crate) fn make_hard_link(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, from_name, directory, name, AtFlags::empty())?)
}

/// Removes the file or symlink `name`.
pub(crate) fn remove_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

/// Removes the empty directory `name`.
pub(crate) fn remove_directory(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}

/// Renames a file or directory, replacing nothing: `EEXIST` if `to_name` exists.
pub(crate) fn rename_new(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    match rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::NOREPLACE) {
        // File systems without RENAME_NOREPLACE: look first. Only lock holders rename, so nobody
        // races us.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if metadata(to, to_name)?.is_some() {
                return Err(Errno::EXIST.into());
            }
            Ok(rustix::fs::renameat(from, from_name, to, to_name)?)
        }
        other => Ok(other?),
    }
}

/// Renames a file, replacing one of that name.
pub(crate) fn rename_over(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::renameat(from, from_name, to, to_name)?)
}

/// Swaps two existing names in one step; `EINVAL` where the file system cannot.
pub(crate) fn rename_exchange(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::EXCHANGE)?)
}

/// True if an error means that the file system cannot exchange names.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::INVAL) || errno == Some(Errno::NOSYS) || errno == Some(Errno::OPNOTSUPP)
}
