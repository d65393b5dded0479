//! File systems: what they are, what they hold, and when their content is on disk.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, StatxFlags};
use rustix::io::Errno;

use super::open::{DIRECTORY, locate_directory};

/// Tells the file system and the mount that `path` is on; `None` if it cannot be told. Between two
/// of them nothing can be renamed, even where one file system is mounted twice.
pub(crate) fn mount_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(path).ok()?.dev();
    let mask = StatxFlags::MNT_ID;
    // Kernels before 5.8 do not tell.
    let known = rustix::fs::statx(CWD, path, AtFlags::empty(), mask).ok();
    let known = known.filter(|known| known.stx_mask & mask.bits() != 0);
    Some((device, known.map_or(0, |known| known.stx_mnt_id)))
}

/// Counts the bytes that an unprivileged user may still write to the file system of `file`;
/// `u64::MAX` where that has no size to tell, as ramfs.
pub(crate) fn free_space(file: BorrowedFd<'_>) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(file)?;
    Ok(if stat.f_blocks == 0 { u64::MAX } else { stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// Writes everything of the file system that holds `file` to the disk.
pub(crate) fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Writes one file or directory to the disk.
pub(crate) fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        // Some file systems have no fsync for directories; their renames are as durable as they
        // get.
        Err(Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

/// Makes the names in the directory at `path` durable, as far as this user can: see
/// [`UnsyncedNames::note`].
///
/// # Errors
/// The system's.
pub(crate) fn sync_names(path: &Path) -> io::Result<()> {
    let mut unsynced = UnsyncedNames::default();
    unsynced.note(locate_directory(path)?.as_fd())?;
    unsynced.sync()
}

/// Directories in which names were made that a power loss may take again.
///
/// Synced together they cost about one wait for the disk, not one each: most file systems write the
/// names of all of them with those of the first.
#[derive(Debug, Default)]
pub(crate) struct UnsyncedNames {
    directories: Vec<OwnedFd>,
    /// The error of an earlier sync. The kernel tells it once, and the names are as lost as before.
    failed: Option<Errno>,
}

impl UnsyncedNames {
    /// Notes that names were made in `directory`. Those in one that this user may not read are as
    /// durable as they get.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn note(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        // The given one may be open for lookups alone, which cannot be synced.
        match rustix::fs::openat(directory, ".", DIRECTORY, Mode::empty()) {
            Ok(opened) => self.directories.push(opened),
            Err(Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// True if there is nothing to be synced.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Makes the names durable, in the order in which they were noted.
    ///
    /// # Errors
    /// The system's, now and whenever it is asked for again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if let Some(failed) = self.failed {
            return Err(failed.into());
        }
        for directory in &self.directories {
            let synced = sync(directory.as_fd());
            self.failed = synced.as_ref().err().and_then(Errno::from_io_error);
            synced?;
        }
        self.directories.clear();
        Ok(())
    }
}

/// True if the files on the file system of `file` keep their inode numbers. FUSE, 9p and overlayfs
/// may give new ones each time that they are mounted.
pub(crate) fn has_lasting_inodes(file: BorrowedFd<'_>) -> bool {
    const CHANGING: [u32; 3] = [0x6573_5546, 0x0102_1997, 0x794c_7630];
    // The kernel's numbers have 32 bits, whatever the width of the field.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the upper half holds nothing"
    )]
    let kind = rustix::fs::fstatfs(file).map(|found| found.f_type as u32);
    kind.is_ok_and(|kind| !CHANGING.contains(&kind))
}

/// True if another machine, or a program, may change what is in the directory without this kernel
/// knowing.
///
/// By the magic numbers of `statfs(2)`: NFS, SMB, 9p, Ceph, AFS, Coda, FUSE, and the cluster file
/// systems.
pub(crate) fn may_change_unseen(directory: &Path) -> io::Result<bool> {
    const UNSEEN: [u32; 14] = [
        0x0000_6969, // NFS
        0x0000_517b, // SMB
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x0102_1997, // 9p
        0x00c3_6400, // Ceph
        0x5346_414f, // OpenAFS
        0x6b41_4653, // kAFS
        0x7375_7245, // Coda
        0x6573_5546, // FUSE: sshfs, virtiofs, and others
        0x0116_1970, // GFS2
        0x7461_636f, // OCFS2
        0x0bd0_0bd0, // Lustre
        0x4750_4653, // GPFS
    ];
    // The kernel's numbers have 32 bits, whatever the width of the field.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the upper half holds nothing"
    )]
    let kind = rustix::fs::statfs(directory)?.f_type as u32;
    Ok(UNSEEN.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_tells_no_size_is_not_full() {
        let of = |path: &str| free_space(locate_directory(Path::new(path)).unwrap().as_fd()).unwrap();
        assert_eq!(of("/proc"), u64::MAX);
        assert!(of("/") < u64::MAX);
    }
}
