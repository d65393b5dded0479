//! Marks that tell a file from others that have had its name before.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use super::disks::has_lasting_inodes;
use super::metadata::{FileTime, Metadata, to_metadata};

/// Marks the thing that has a name now, so that it can be told from others that have had the name
/// before; `None` if there is nothing.
///
/// The mark is the time at which it was made, to the nanosecond, and its inode number if
/// `lasting_inodes`. Where the file system does not say when it was made, the time of its last
/// modification stands in.
pub(crate) fn mark(
    directory: BorrowedFd<'_>,
    name: &[u8],
    lasting_inodes: bool,
) -> io::Result<Option<(Metadata, String)>> {
    let found = match Identity::of(directory, name) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let FileTime { seconds, nanoseconds } = found.metadata.modified;
    let modified = || format!("modified {seconds}.{nanoseconds:09}");
    let inode = if lasting_inodes { format!("inode {} ", found.metadata.inode) } else { String::new() };
    Ok(Some((found.metadata, inode + &found.made.unwrap_or_else(modified))))
}

/// Marks an open directory like [`mark`], by nothing that changes when names in it do. Where the
/// file system tells nothing that lasts, all directories have the same mark.
pub(crate) fn lasting_mark(directory: BorrowedFd<'_>) -> io::Result<String> {
    let found = Identity::of(directory, b".")?;
    let inode = if has_lasting_inodes(directory) { found.metadata.inode.to_string() } else { "-".to_owned() };
    Ok(format!("inode {inode} {}", found.made.unwrap_or_else(|| "made -".to_owned())))
}

/// The thing under a name, and when it was made, if its file system tells.
struct Identity {
    metadata: Metadata,
    made: Option<String>,
}

impl Identity {
    fn of(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Self> {
        let metadata = to_metadata(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
        // Kernels before 4.11 and some seccomp filters have no statx, many file systems no time of
        // birth.
        let found = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok();
        let found = found.filter(|found| found.stx_mask & StatxFlags::BTIME.bits() != 0);
        let made =
            found.map(|found| format!("made {}.{:09}", found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        Ok(Self { metadata, made })
    }
}
