//! Files and directories that msb-sync keeps for itself: locks, spools, staging, inventories, the
//! catalog.
//!
//! These things are never reached through a symlink, and belong to the user who runs msb-sync, or
//! to root, who could change them anyway. All else is a [`Refusal`], and is left as it was.
//!
//! Types and owners of what is there are looked at before opening, so that nothing is touched, and
//! again on the open handle, so that nobody can exchange the file in between. Modes are set through
//! the handle: no umask has a say in them.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::disks::UnsyncedNames;
use super::open::{DIRECTORY, open_file};
use super::refusal::{Refusal, check_own_directory, check_own_file, check_owner, check_sole_own_file};
use super::regular::read_bounded;

/// The most symlinks that are followed: as many as the kernel follows.
const MAX_SYMLINKS: usize = 40;

/// Opens the directory at `path`. It may be reached by symlinks of this user's or root's, and is
/// this user's or root's itself.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn open_own_directory(path: &Path) -> io::Result<OwnedFd> {
    open_own_directory_at(CWD, &follow_own_links(path)?)
}

/// Finds the path of the regular file to which symlinks lead from `path`: it and they are this
/// user's or root's.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn find_own_regular(path: &Path) -> io::Result<PathBuf> {
    let path = follow_own_links(path)?;
    check_own_file(&rustix::fs::lstat(&path)?)?;
    Ok(path)
}

/// Follows the symlinks that lead from `path`. Those on the way to its last component are the
/// kernel's to follow.
fn follow_own_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_SYMLINKS {
        let found = rustix::fs::lstat(&path)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            return Ok(path);
        }
        check_owner(&found)?;
        let target = rustix::fs::readlink(&path, Vec::new())?.into_bytes();
        path = path.parent().unwrap_or(Path::new("/")).join(OsString::from_vec(target));
    }
    Err(Errno::LOOP.into())
}

/// Opens the directory `name` in `directory`: no symlink, and this user's or root's.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn open_own_directory_at(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> io::Result<OwnedFd> {
    check_own_directory(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)?;
    let opened = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
    check_own_directory(&rustix::fs::fstat(&opened)?)?;
    Ok(opened)
}

/// Opens a directory like [`open_own_directory_at`], only to look names up in it: needs no
/// permission to list it.
///
/// # Errors
/// As for [`open_own_directory_at`].
pub(crate) fn locate_own_directory_at(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> io::Result<OwnedFd> {
    check_own_directory(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let located = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    check_own_directory(&rustix::fs::fstat(&located)?)?;
    Ok(located)
}

/// Opens a directory like [`open_own_directory_at`]; where there is nothing, makes it with exactly
/// this mode, durably.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn make_own_directory_at(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    mode: u32,
) -> io::Result<OwnedFd> {
    let mut unsynced = UnsyncedNames::default();
    let opened = make_unsynced_directory_at(directory, name, mode, &mut unsynced)?;
    unsynced.sync()?;
    Ok(opened)
}

/// Opens or makes a directory like [`make_own_directory_at`], whose name lasts once `unsynced` is
/// synced.
///
/// # Errors
/// As for [`make_own_directory_at`].
pub(crate) fn make_unsynced_directory_at(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    mode: u32,
    unsynced: &mut UnsyncedNames,
) -> io::Result<OwnedFd> {
    match make_fresh_directory(directory, name, mode) {
        Ok(made) => {
            unsynced.note(directory)?;
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_own_directory_at(directory, name),
        Err(error) => Err(error),
    }
}

/// Makes the directory `name` in `directory` with exactly this mode, and opens it. A power loss may
/// take it again.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where there is anything; a [`Refusal`] where somebody exchanges
/// it at once; the system's.
pub(crate) fn make_fresh_directory(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    mode: u32,
) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mkdirat(directory, name, mode)?;
    let made = match rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(Refusal::Symlink.into()),
        other => other?,
    };
    let found = rustix::fs::fstat(&made)?;
    check_own_directory(&found)?;
    set_mode(&made, &found, mode)?;
    Ok(made)
}

/// Gives a file that was just made, and `found` so, exactly this mode, whatever the umask has left.
fn set_mode(made: &OwnedFd, found: &Stat, mode: Mode) -> rustix::io::Result<()> {
    // To look is quicker than to set: that is a change which the file system has to journal.
    if Mode::from_raw_mode(found.st_mode) == mode { Ok(()) } else { rustix::fs::fchmod(made, mode) }
}

/// True if there is a file `name` in `directory`.
///
/// # Errors
/// A [`Refusal`] where it is not a regular file of this user's or root's; the system's.
pub(crate) fn has_own_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => check_own_file(&found).map(|()| true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// True if there is a file `name` in `directory`, which has no other name.
///
/// # Errors
/// As for [`has_own_file`]; a [`Refusal`] where the file has another name.
pub(crate) fn has_sole_own_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => check_sole_own_file(&found).map(|()| true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens the file `name` in `directory` to read: no symlink, and this user's or root's.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn open_own_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    check_own_file(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)?;
    let file = open_file(directory, name)?;
    check_own_file(&rustix::fs::fstat(&file)?)?;
    Ok(file)
}

/// Reads the file `name` in `directory`, which has at most `limit` bytes.
///
/// # Errors
/// As for [`open_own_file`]; [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_own_file(directory: BorrowedFd<'_>, name: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    read_bounded(open_own_file(directory, name)?, limit)
}

/// Opens the file `name` in `directory` to read and write, and makes it with exactly this mode
/// where there is nothing. A file that is there is no symlink, has no other name, and is this
/// user's or root's; its content and mode stay.
///
/// # Errors
/// A [`Refusal`]; the system's.
pub(crate) fn open_or_make_own_file(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    loop {
        match make_own_file(directory, name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
        match has_sole_own_file(directory, name) {
            Ok(true) => {}
            // Whoever made the file has removed it.
            Ok(false) => continue,
            Err(error) => return Err(error),
        }
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => {
                check_sole_own_file(&rustix::fs::fstat(&file)?)?;
                return Ok(file.into());
            }
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP) => return Err(Refusal::Symlink.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the file `name` in `directory` with exactly this mode, to read and write.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where there is anything; the system's.
pub(crate) fn make_own_file(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    let file = rustix::fs::openat(directory, name, flags, mode)?;
    set_mode(&file, &rustix::fs::fstat(&file)?, mode)?;
    Ok(file.into())
}

/// Makes a file without a name in `directory`, to write, for [`name_file`]; its mode is what the
/// umask leaves. `None` where the file system has no such files.
///
/// `tempfile` would not do: it cannot give such a file its name, and leaves named ones behind when
/// the process is killed.
///
/// # Errors
/// The system's.
pub(crate) fn make_unnamed_file(directory: BorrowedFd<'_>) -> io::Result<Option<File>> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, ".", flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Some(file.into())),
        // Old kernels take the flag for that of a directory.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file of [`make_unnamed_file`] its name.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where there is anything; the system's, for instance without
/// `/proc`.
pub(crate) fn name_file(file: &File, directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // To name it by its descriptor alone is a privilege.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::sys::{read_regular, read_regular_text, refusal};

    fn refused<T>(result: io::Result<T>) -> Option<Refusal> {
        result.err().and_then(|error| refusal(&error))
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_blocks() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR).unwrap();
        assert_eq!(read_regular_text(&at("file"), 4).unwrap(), "text");
        assert_eq!(read_regular_text(&at("link"), 4).unwrap(), "text");
        assert_eq!(read_regular(&at("file"), 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_regular(&at("dangling"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(refused(read_regular(&at("fifo"), 9)), Some(Refusal::NotAFile("a fifo")));
        assert_eq!(refused(read_regular(temp.path(), 9)), Some(Refusal::NotAFile("a directory")));
        assert_eq!(refused(read_regular(Path::new("/dev/zero"), 9)), Some(Refusal::NotAFile("a device")));
        let directory = crate::sys::open_directory(temp.path()).unwrap();
        let own = |name: &str| read_own_file(directory.as_fd(), name.as_bytes(), 9);
        assert_eq!(own("file").unwrap(), b"text");
        assert_eq!(refused(own("link")), Some(Refusal::Symlink));
        assert_eq!(refused(own("fifo")), Some(Refusal::NotAFile("a fifo")));
    }

    #[test]
    fn a_file_of_ours_is_made_once_and_never_reached_by_another_name() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let directory = crate::sys::open_directory(temp.path()).unwrap();
        let open = |name: &str| open_or_make_own_file(directory.as_fd(), name.as_bytes(), 0o666);
        open("file").unwrap();
        assert_eq!(mode(&at("file")), 0o666, "whatever the umask");
        fs::write(at("file"), "text").unwrap();
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).unwrap();
        open("file").unwrap();
        assert_eq!((fs::read_to_string(at("file")).unwrap(), mode(&at("file"))), ("text".to_owned(), 0o640));
        symlink("file", at("link")).unwrap();
        assert_eq!(refused(open("link")), Some(Refusal::Symlink));
        symlink("nowhere", at("dangling")).unwrap();
        assert_eq!(refused(open("dangling")), Some(Refusal::Symlink));
        assert!(!at("nowhere").exists());
        fs::hard_link(at("file"), at("second")).unwrap();
        assert_eq!(refused(open("second")), Some(Refusal::HardLink));
        rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(refused(open("fifo")), Some(Refusal::NotAFile("a fifo")));
    }

    #[test]
    fn directories_are_made_with_their_mode_and_links_are_followed_where_they_may_be() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let directory = crate::sys::open_directory(temp.path()).unwrap();
        for mode_wanted in [0o700, 0o777] {
            let name = format!("{mode_wanted:o}");
            make_own_directory_at(directory.as_fd(), name.as_str(), mode_wanted).unwrap();
            make_own_directory_at(directory.as_fd(), name.as_str(), 0o711).unwrap();
            assert_eq!(mode(&at(&name)), mode_wanted);
        }
        symlink("700", at("link")).unwrap();
        symlink(at("link"), at("far")).unwrap();
        symlink("loop", at("loop")).unwrap();
        assert_eq!(refused(make_own_directory_at(directory.as_fd(), "link", 0o700)), Some(Refusal::Symlink));
        assert!(open_own_directory(&at("far")).is_ok());
        assert!(open_own_directory(&at("loop")).is_err());
        fs::write(at("file"), "").unwrap();
        let error = open_own_directory(&at("file"));
        assert_eq!(refused(error), Some(Refusal::NotADirectory("a file")));
    }
}
