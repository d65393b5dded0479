//! Looking at files, and setting their times and modes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps};
use rustix::io::Errno;

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileTime {
    /// The seconds, negative before 1970.
    pub seconds: i64,
    /// The nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The type of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A thing of another type.
    Other,
}

/// The part of `stat` that msb-sync looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The type.
    pub kind: Kind,
    /// The permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The size in bytes.
    pub size: u64,
    /// The time of the last modification.
    pub modified: FileTime,
    /// The inode number.
    pub inode: u64,
    /// The user who owns it.
    pub owner: u32,
}

/// Looks at `name`, without following it; `None` if there is nothing.
pub(crate) fn metadata(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Metadata>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(to_metadata(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Looks at an open file or directory.
pub(crate) fn metadata_of(file: BorrowedFd<'_>) -> io::Result<Metadata> {
    Ok(to_metadata(&rustix::fs::fstat(file)?))
}

#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "stat's field types differ between architectures; sizes and nanoseconds are never negative"
)]
pub(super) fn to_metadata(stat: &rustix::fs::Stat) -> Metadata {
    Metadata {
        kind: kind_of(stat.st_mode),
        mode: (stat.st_mode & 0o7777) as u32,
        size: stat.st_size as u64,
        modified: FileTime { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
        inode: stat.st_ino as u64,
        owner: stat.st_uid,
    }
}

pub(super) fn metadata_by_statx(found: &rustix::fs::Statx) -> Metadata {
    let mode = u32::from(found.stx_mode);
    let modified = FileTime { seconds: found.stx_mtime.tv_sec, nanoseconds: found.stx_mtime.tv_nsec };
    Metadata {
        kind: kind_of(mode),
        mode: mode & 0o7777,
        size: found.stx_size,
        modified,
        inode: found.stx_ino,
        owner: found.stx_uid,
    }
}

fn kind_of(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// Tells device and inode number of an open file or directory.
pub(crate) fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Writes a device number as `major:minor`.
pub(crate) fn device_numbers(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// Sets access and modification time of an open file or directory.
pub(crate) fn set_times(file: BorrowedFd<'_>, time: FileTime) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(time))?)
}

/// Sets the times of `name` itself, also if it is a symlink.
pub(crate) fn set_times_at(directory: BorrowedFd<'_>, name: &[u8], time: FileTime) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn timestamps(time: FileTime) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the permission bits of an open file or directory.
pub(crate) fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}
