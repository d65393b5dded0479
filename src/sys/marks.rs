//! Marks that tell a file from others that have had its name before.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::disks::has_lasting_inodes;
use super::metadata::{FileTime, Metadata, metadata_by_statx, to_metadata};

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
        let asked = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        match rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, asked) {
            Err(Errno::NOENT) => Err(Errno::NOENT),
            Ok(found) if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BASIC_STATS) => {
                // Many file systems tell no time of birth.
                let tells = found.stx_mask & StatxFlags::BTIME.bits() != 0;
                let StatxTimestamp { tv_sec, tv_nsec, .. } = found.stx_btime;
                let made = tells.then(|| format!("made {tv_sec}.{tv_nsec:09}"));
                Ok(Self { metadata: metadata_by_statx(&found), made })
            }
            // Kernels before 4.11 and some seccomp filters have no statx.
            _ => {
                let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(Self { metadata: to_metadata(&found), made: None })
            }
        }
    }
}
