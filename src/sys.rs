//! Every system call that has no wrapper in std: directory handles, `openat2`, xattrs, locks, syncs.
//!
//! All path arguments are relative to a directory handle and none of them ever follows a symlink, so
//! whoever controls the names in a layer cannot reach outside its directory. This is the only file of
//! the project that may hold `unsafe`.

mod files;
mod tree;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Timespec, Timestamps,
    XattrFlags,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

pub use files::{
    Refusal, file_size_limit, find_own_regular, has_own_file, is_own, locate_own_directory_at,
    make_own_directory_at, make_own_file, make_unnamed_file, name_file, open_or_make_own_file,
    open_own_directory, open_own_directory_at, open_own_file, open_regular, read_own_file, read_regular,
    read_regular_text, refusal,
};
pub use tree::{Kept, Obstacle, find_mount, is_immutable, remove_tree, size_of_tree, with_rights};

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// The number of the user who runs this process.
pub fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// The part of `stat` that msb-sync looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub modified: FileTime,
    /// Inode number.
    pub inode: u64,
    /// The user that it belongs to.
    pub owner: u32,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `path` (a trusted path of ours: symlinks on the way are followed).
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(patiently(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?)
}

/// Opens the directory `path` only to look names up in it: needs no permission to list it.
pub fn locate_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(patiently(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?)
}

/// Finds the directory `path` below `directory`; symlinks are followed.
pub fn locate_at(directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, path, flags, Mode::empty())?)
}

/// Finds the directory `path` as a process with the root directory `root` does: symlinks are followed, and neither
/// they nor `..` lead out of `root`. Linux 5.6 and newer; `ENOSYS` before.
pub fn locate_in_root(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Device and inode number of an open file or directory.
pub fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A device number as `major:minor`.
pub fn device_numbers(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// Opens the directory `path` below `root`; no symlink on the way is followed, `..` cannot leave.
///
/// An empty path is `root` itself. `ELOOP` or `ENOTDIR` where a component is not a directory.
pub fn open_directory_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
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
pub fn create_file(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    Ok(File::from(patiently(|| rustix::fs::openat(directory, name, flags, mode))?))
}

/// Has writes of an open file bypass the page cache, or not any more; `EINVAL` where the file system cannot.
pub fn set_direct(file: BorrowedFd<'_>, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Opens the regular file `name` in `directory` for reading; a symlink is `ELOOP`, and nothing blocks on a fifo.
///
/// Its access time stays as it is, where the system lets us.
pub fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| patiently(|| rustix::fs::openat(directory, name, flags, Mode::empty()));
    let opened = match open(flags | OFlags::NOATIME) {
        // Only the owner may ask for that.
        Err(Errno::PERM) => open(flags),
        other => other,
    };
    Ok(File::from(opened?))
}

/// Makes the directory `name`.
pub fn make_directory(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))?)
}

/// Makes the symlink `name` with the text `target`, which is not looked at.
pub fn make_symlink(directory: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, directory, name)?)
}

/// Makes `name` another name of the inode `from`/`from_name`; a symlink there is linked itself.
pub fn make_hard_link(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, from_name, directory, name, AtFlags::empty())?)
}

/// Which mount `path` is on, and which file system; `None` if it cannot be told. Between two of them nothing can be
/// renamed, even where one file system is mounted twice.
pub fn mount_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(path).ok()?.dev();
    let mask = StatxFlags::MNT_ID;
    // Kernels before 5.8 do not tell.
    let known = rustix::fs::statx(CWD, path, AtFlags::empty(), mask).ok();
    let known = known.filter(|known| known.stx_mask & mask.bits() != 0);
    Some((device, known.map_or(0, |known| known.stx_mnt_id)))
}

/// What `name` is, without following it; `None` if there is nothing.
pub fn metadata(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Metadata>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(to_metadata(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What an open file or directory is.
pub fn metadata_of(file: BorrowedFd<'_>) -> io::Result<Metadata> {
    Ok(to_metadata(&rustix::fs::fstat(file)?))
}

/// The text of the symlink `name`.
pub fn read_link(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// Calls `visit` with each name in `directory`, and whether it is a directory, until it returns `false`.
pub fn each_entry(directory: BorrowedFd<'_>, mut visit: impl FnMut(&[u8], bool) -> bool) -> io::Result<()> {
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

#[expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "stat's field types differ between architectures; sizes and nanoseconds are never negative"
)]
fn to_metadata(stat: &rustix::fs::Stat) -> Metadata {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    };
    Metadata {
        kind,
        mode: (stat.st_mode & 0o7777) as u32,
        size: stat.st_size as u64,
        modified: FileTime { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
        inode: stat.st_ino as u64,
        owner: stat.st_uid,
    }
}

/// Removes the file or symlink `name`.
pub fn remove_file(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

/// Renames, replacing nothing: `EEXIST` if `to_name` exists.
pub fn rename_new(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    match rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::NOREPLACE) {
        // File systems without RENAME_NOREPLACE: look first. Only lock holders rename, so nobody races us.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if metadata(to, to_name)?.is_some() {
                return Err(Errno::EXIST.into());
            }
            Ok(rustix::fs::renameat(from, from_name, to, to_name)?)
        }
        other => Ok(other?),
    }
}

/// Renames, replacing a file of that name.
pub fn rename_over(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::renameat(from, from_name, to, to_name)?)
}

/// Swaps two existing names in one step; `EINVAL` where the file system cannot.
pub fn rename_exchange(
    from: BorrowedFd<'_>,
    from_name: &[u8],
    to: BorrowedFd<'_>,
    to_name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::EXCHANGE)?)
}

/// Whether an open was refused because a component is a symlink.
pub fn is_symlink_refusal(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Whether an error means that the file system cannot exchange names.
pub fn is_unsupported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::INVAL) || errno == Some(Errno::NOSYS) || errno == Some(Errno::OPNOTSUPP)
}

fn timestamps(time: FileTime) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets access and modification time of an open file or directory.
pub fn set_times(file: BorrowedFd<'_>, time: FileTime) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(time))?)
}

/// Sets the times of `name` itself, also if it is a symlink.
pub fn set_times_at(directory: BorrowedFd<'_>, name: &[u8], time: FileTime) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &timestamps(time), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the permission bits of an open file or directory.
pub fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Sets an extended attribute of an open file or directory; `false` where the file system has none.
pub fn set_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<bool> {
    match rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An extended attribute of an open file or directory, if it has it and the value is no longer than `limit` bytes.
pub fn get_xattr(file: BorrowedFd<'_>, name: &[u8], limit: usize) -> io::Result<Option<Vec<u8>>> {
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

/// Whether an open file or directory has an extended attribute with exactly this value.
pub fn has_xattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<bool> {
    // One byte more than expected: a longer value fills it, or does not fit.
    let mut found = vec![0; value.len() + 1];
    match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut found[..]) {
        Ok(length) => Ok(found.get(..length) == Some(value)),
        Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether setting an extended attribute of `file` failed because of its name or size, on any machine or on this
/// kind of file system.
pub fn is_impossible_xattr(error: &io::Error, file: BorrowedFd<'_>) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::TOOBIG | Errno::RANGE | Errno::INVAL | Errno::NAMETOOLONG) => true,
        // ext4 says so too if the attributes of one file are more than a block.
        Some(Errno::NOSPC) => free_space(file).is_ok_and(|free| free > 1 << 20),
        _ => false,
    }
}

/// Takes the default ACL from a directory: what is made in it would get other modes than asked for.
pub fn remove_default_acl(directory: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fremovexattr(directory, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes all extended attributes `user.*` of an open file or directory.
pub fn remove_user_xattrs(file: BorrowedFd<'_>) -> io::Result<()> {
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

/// How long, and how often, an open waits for a file descriptor that another thread gives back.
const DESCRIPTOR_PATIENCE: (Duration, u32) = (Duration::from_millis(10), 100);

/// Opens by `open`, and waits a moment where this process or the system has no file descriptor left.
fn patiently<T>(mut open: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let (pause, mut tries) = DESCRIPTOR_PATIENCE;
    loop {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(pause);
            }
            other => return other,
        }
    }
}

/// Whether an open was refused because this process or the system has no file descriptor left.
pub fn is_descriptor_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// This process's umask, if `/proc` tells it. Asking with `umask(2)` would change it for a moment under
/// other threads' feet.
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

/// How many files this process may have open.
pub fn open_files_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Lets this process open as many files as it may ever open: shells and service managers give less at first.
pub fn raise_open_files_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // A limit that cannot be raised is still enough for what is usual.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Has the kernel start to write a range of a file to the disk, without waiting. Only a hint: nothing is promised by
/// it, and a kernel or file system that cannot do it does not.
pub fn start_writing_out(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        use std::os::fd::AsRawFd;
        #[expect(unsafe_code, reason = "rustix does not have this call")]
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the call takes nothing but numbers.
        let _ =
            unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}

/// Writes everything of the file system that holds `file` to the disk.
pub fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Writes one file or directory to the disk.
pub fn sync(file: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        // Some file systems have no fsync for directories; their renames are as durable as they get.
        Err(Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

/// Bytes that an unprivileged user may still write to the file system of `file`.
pub fn free_space(file: BorrowedFd<'_>) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(file)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What tells `name` from others that may have had its name before, with what it is; `None` if there is nothing.
///
/// That is when it was made, to the nanosecond, and its inode number if `lasting_inodes`. Where the file system does
/// not say when it was made, the time of its last modification stands in.
pub fn mark(
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

/// As [`mark`], of an open directory, by nothing that changes when names in it do. Where the file system tells nothing
/// that lasts, all directories have the same.
pub fn lasting_mark(directory: BorrowedFd<'_>) -> io::Result<String> {
    let found = Identity::of(directory, b".")?;
    let inode = if has_lasting_inodes(directory) { found.metadata.inode.to_string() } else { "-".to_owned() };
    Ok(format!("inode {inode} {}", found.made.unwrap_or_else(|| "made -".to_owned())))
}

/// What is under a name, and when it was made, if its file system tells.
struct Identity {
    metadata: Metadata,
    made: Option<String>,
}

impl Identity {
    fn of(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Self> {
        let metadata = to_metadata(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
        // Kernels before 4.11 and some seccomp filters have no statx, many file systems no time of birth.
        let found = rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok();
        let found = found.filter(|found| found.stx_mask & StatxFlags::BTIME.bits() != 0);
        let made =
            found.map(|found| format!("made {}.{:09}", found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        Ok(Self { metadata, made })
    }
}

/// Whether what is on the file system of `file` keeps its inode numbers. FUSE, 9p and overlayfs may give new ones each
/// time that they are mounted.
pub fn has_lasting_inodes(file: BorrowedFd<'_>) -> bool {
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

/// Whether another machine, or a program, may change what is in the directory without this kernel knowing.
///
/// By the magic numbers of `statfs(2)`: NFS, SMB, 9p, Ceph, AFS, Coda, FUSE, and the cluster file systems.
pub fn may_change_unseen(directory: &Path) -> io::Result<bool> {
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

/// Takes the lock of `file` if nobody has it; `false` if somebody has. It ends with the process at the latest.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Keeps the allocator from holding memory in one arena a thread, which would defeat the memory budget.
pub fn limit_allocator_arenas() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator has no safe interface")]
    // SAFETY: mallopt only sets integers in the allocator and is called before any thread is started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
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

    #[test]
    fn a_lock_is_exclusive_and_ends_with_its_holder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = file.reopen().unwrap();
        let second = File::open(file.path()).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }
}
