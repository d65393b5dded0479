//! Opening files and directories by a directory handle, beneath it, and without following a
//! symlink; and finding directories as others do, who do follow.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::descriptors::patiently;

/// The flags that open a directory, and nothing else.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `path` (a trusted path of ours: symlinks on the way are followed).
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(patiently(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?)
}

/// Opens the directory `path` only to look names up in it: needs no permission to list it.
pub(crate) fn locate_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(patiently(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?)
}

/// Finds the directory `path` below `directory`; symlinks are followed.
pub(crate) fn locate_at(directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?)
}

/// Finds the directory `path` as a process with the root directory `root` does: symlinks are
/// followed, and neither they nor `..` lead out of `root`. Linux 5.6 and newer; `ENOSYS` before.
pub(crate) fn locate_in_root(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens the directory `path` below `root`; no symlink on the way is followed, `..` cannot leave.
///
/// An empty path is `root` itself. `ELOOP` or `ENOTDIR` where a component is not a directory.
pub(crate) fn open_directory_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match patiently(|| rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve)) {
        // Kernels before 5.6 and some seccomp filters have no openat2: walk by hand.
        Err(Errno::NOSYS | Errno::PERM) => walk_beneath(root, path),
        Err(Errno::AGAIN) => open_directory_beneath(root, path),
        other => Ok(other?),
    }
}

fn walk_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut directory = patiently(|| rustix::fs::openat(root, ".", DIRECTORY, Mode::empty()))?;
    for component in path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if component == b".." {
            return Err(Errno::XDEV.into());
        }
        directory = patiently(|| rustix::fs::openat(&directory, component, DIRECTORY, Mode::empty()))?;
    }
    Ok(directory)
}

/// Creates the file `name` in `directory` for writing; `EEXIST` if anything has that name.
pub(crate) fn create_file(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    Ok(File::from(patiently(|| rustix::fs::openat(directory, name, flags, mode))?))
}

/// Opens the regular file `name` in `directory` for reading; a symlink is `ELOOP`, and nothing
/// blocks on a fifo.
///
/// The access time stays as it is, where the system lets us.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| patiently(|| rustix::fs::openat(directory, name, flags, Mode::empty()));
    let opened = match open(flags | OFlags::NOATIME) {
        // Only the owner may ask for that.
        Err(Errno::PERM) => open(flags),
        other => other,
    };
    Ok(File::from(opened?))
}

/// Has writes of an open file bypass the page cache, or not any more; `EINVAL` where the file
/// system cannot.
pub(crate) fn set_direct(file: BorrowedFd<'_>, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// True if an open was refused because a component is a symlink.
pub(crate) fn is_symlink_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::LOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;

    #[test]
    fn no_symlink_is_followed_beneath_a_root() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("root/a/b")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", temp.path().join("root/out")).unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("root/in")).unwrap();
        let root = open_directory(&temp.path().join("root")).unwrap();
        for open in [open_directory_beneath, |root: BorrowedFd<'_>, path: &[u8]| walk_beneath(root, path)] {
            assert!(open(root.as_fd(), b"a/b").is_ok());
            assert!(open(root.as_fd(), b"a/./b").is_ok());
            for bad in ["out", "in", "in/b", "..", "a/../../outside", "missing", "out/../a"] {
                assert!(open(root.as_fd(), bad.as_bytes()).is_err(), "{bad}");
            }
        }
    }
}
