//! Places of files: on which file system and which mount they are, and whether they may be changed
//! at all.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, fstat, openat, statat, statx,
};
use rustix::io::Errno;

/// The file system that a directory is on, and which of its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    device: (u32, u32),
    /// Kernels before 5.8 tell it of open files only, in /proc.
    mount: Option<u64>,
}

/// The part of `statx` that matters for trees.
pub(super) struct Looked {
    pub(super) is_directory: bool,
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) place: Place,
    pub(super) is_fixed: bool,
}

impl Looked {
    pub(super) fn at(directory: BorrowedFd<'_>, name: &CString) -> io::Result<Self> {
        // Nothing is mounted by looking, and no server is asked for sizes that may have changed.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let mut looked = match statx(directory, name, flags, Self::mask()) {
            Ok(found) => Self::of(&found),
            // Some seccomp filters refuse what they do not know.
            Err(Errno::NOSYS | Errno::PERM) => {
                Self::of_stat(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Err(Errno::NOENT) => return Err(Errno::NOENT.into()),
            // The root of another user's FUSE mount, or of one whose server is dead, tells where it
            // is, and no more: that takes asking for nothing.
            Err(error) => Self::of(&statx(directory, name, flags, StatxFlags::empty()).map_err(|_| error)?),
        };
        // A directory is looked at once more when it is open.
        if looked.place.mount.is_none() && !looked.is_directory {
            let held =
                openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            looked.place.mount = held.ok().and_then(|held| mount_by_proc(held.as_fd()));
        }
        Ok(looked)
    }

    pub(super) fn of_open(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut looked = match statx(file, c"", AtFlags::EMPTY_PATH, Self::mask()) {
            Ok(found) => Self::of(&found),
            Err(Errno::NOSYS | Errno::PERM) => Self::of_stat(&fstat(file)?),
            Err(error) => return Err(error.into()),
        };
        if looked.place.mount.is_none() {
            looked.place.mount = mount_by_proc(file);
        }
        Ok(looked)
    }

    fn mask() -> StatxFlags {
        StatxFlags::TYPE | StatxFlags::SIZE | StatxFlags::INO | StatxFlags::MNT_ID
    }

    fn of(found: &Statx) -> Self {
        let told = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        Self {
            is_directory: FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory,
            size: found.stx_size,
            inode: found.stx_ino,
            place: Place {
                device: (found.stx_dev_major, found.stx_dev_minor),
                mount: told.then_some(found.stx_mnt_id),
            },
            is_fixed: found.stx_attributes.intersects(fixed),
        }
    }

    #[expect(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "stat's field types differ between architectures; sizes are never negative"
    )]
    fn of_stat(found: &rustix::fs::Stat) -> Self {
        let device = found.st_dev as u64;
        Self {
            is_directory: FileType::from_raw_mode(found.st_mode) == FileType::Directory,
            size: found.st_size as u64,
            inode: found.st_ino as u64,
            place: Place { device: (rustix::fs::major(device), rustix::fs::minor(device)), mount: None },
            is_fixed: false,
        }
    }

    /// True if the thing is no root of another mount or file system, as far as its name tells.
    pub(super) fn is_on(&self, place: Place) -> bool {
        let one_device = !self.is_directory || self.place.device == place.device;
        one_device && (self.place.mount.is_none() || self.place.mount == place.mount)
    }
}

/// Finds the mount of an open file, by proc(5).
fn mount_by_proc(file: BorrowedFd<'_>) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// True if `name`, or `directory` itself, may not be changed, not even by root (`chattr +i` or
/// `+a`), as far as the file system tells.
pub(crate) fn is_immutable(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let is_fixed = |found: io::Result<Looked>| found.is_ok_and(|found| found.is_fixed);
    is_fixed(Looked::of_open(directory))
        || c_string(name).is_ok_and(|name| is_fixed(Looked::at(directory, &name)))
}

pub(super) fn c_string(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL.into())
}
