//! Trees of any depth and origin, looked through and removed by directory handles.
//!
//! No step follows a symlink, and none leaves the file system and the mount of the directory that the tree is in: a
//! bind mount somewhere in a layer is another's data, whatever the layer's own fate. Directories are told apart by
//! device and mount ([`Place`]), never by name. Other file systems may give the files of one directory several devices
//! (overlayfs does), so for those the mount alone counts; the kernel itself refuses to unlink a mounted file.
//!
//! Neither the stack nor the number of descriptors grows with the depth of a tree: the directories on the way down are
//! held open up to [`MAX_OPEN`], those further up are opened again by `..` and have to be the same inode then. Nothing
//! is renamed, so that every file system will do.
//!
//! A removal goes on beside what it cannot remove and tells that in the end ([`Kept`]): somebody may have mounted or
//! locked (`chattr +i`) something, and that must stop neither the rest nor the run.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxAttributes, StatxFlags, chmod,
    fchmod, fstat, openat, openat2, seek, statat, statx, unlinkat,
};
use rustix::io::Errno;

use super::DIRECTORY;

/// How many directories on the way down are held open, at most. Fewer where the system has no more descriptors.
const MAX_OPEN: usize = 16;
/// So many bytes of names that cannot be removed are remembered; then a removal gives up.
const MAX_KEPT_BYTES: usize = 4 << 20;
/// A directory that somebody fills while it is emptied is read again, so often.
const MAX_PASSES: u32 = 8;

/// Why something stays.
#[derive(Debug)]
pub enum Obstacle {
    /// It is the root of another mount or file system.
    Mount,
    /// It, or the directory that it is in, may not be changed (`chattr +i` or `+a`).
    Immutable,
    /// The system's words.
    Error(io::Error),
}

impl From<Errno> for Obstacle {
    fn from(errno: Errno) -> Self {
        Self::Error(errno.into())
    }
}

/// What a removal has left: the first thing, and how many more. All else of the tree is gone.
#[derive(Debug)]
pub struct Kept {
    /// Which, relative to the directory that the tree is in.
    pub path: PathBuf,
    /// Why.
    pub why: Obstacle,
    /// How many other things stay.
    pub more: u64,
}

impl Kept {
    /// The same with the path below `directory`.
    #[must_use]
    pub fn under(self, directory: &Path) -> Self {
        Self { path: directory.join(&self.path), ..self }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Obstacle::Mount => write!(f, "something is mounted at {path}"),
            Obstacle::Immutable => write!(f, "{path} must not be changed (see lsattr)"),
            Obstacle::Error(error) => write!(f, "{path}: {error}"),
        }?;
        if self.more > 0 {
            write!(f, "; {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Kept {}

impl From<Kept> for io::Error {
    fn from(kept: Kept) -> Self {
        let kind = match &kept.why {
            Obstacle::Error(error) => error.kind(),
            Obstacle::Mount => io::ErrorKind::ResourceBusy,
            Obstacle::Immutable => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, kept)
    }
}

/// Removes `name` in `directory` and all below it, whatever it is; nothing there is fine.
///
/// Directories of ours that are closed to us are opened. The directory itself is never changed otherwise.
///
/// # Errors
/// What stays, if anything does.
pub fn remove_tree(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Kept> {
    let started = c_string(name).and_then(|name| Ok((name, Descent::new(directory, true)?)));
    match started {
        Ok((name, descent)) => Removal { descent, kept: None, kept_bytes: 0 }.run(&name),
        Err(error) => {
            Err(Kept { path: OsStr::from_bytes(name).into(), why: Obstacle::Error(error), more: 0 })
        }
    }
}

/// The first thing at or below `name` in `directory` that is on another mount or file system, as a path relative to
/// `directory`. What does not answer counts as mounted; what is in a directory that is closed to us, as not.
///
/// # Errors
/// The directory cannot be looked at, or changes too fast.
pub fn find_mount(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<PathBuf>> {
    let mut found = None;
    look_through(directory, name, |path, seen| {
        if matches!(seen, Seen::Mount) {
            found = Some(path());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Whether `name`, or `directory` itself, may not be changed, not even by root (`chattr +i` or `+a`), as far as the file
/// system tells.
pub fn is_immutable(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let is_fixed = |found: io::Result<Looked>| found.is_ok_and(|found| found.is_fixed);
    is_fixed(Looked::of_open(directory))
        || c_string(name).is_ok_and(|name| is_fixed(Looked::at(directory, &name)))
}

/// Bytes of all files at and below `name` in `directory`, without those of other mounts.
///
/// # Errors
/// The directory cannot be looked at, or changes too fast.
pub fn size_of_tree(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
    let mut size = 0_u64;
    look_through(directory, name, |_, seen| {
        if let Seen::File(bytes) = seen {
            size = size.saturating_add(bytes);
        }
        true
    })?;
    Ok(size)
}

/// What a look through a tree comes by.
enum Seen {
    /// Anything but a directory, of so many bytes.
    File(u64),
    /// The root of another mount or file system, which is not entered.
    Mount,
}

/// Visits all but directories at and below `name`, until `visit` says no.
fn look_through(
    directory: BorrowedFd<'_>,
    name: &[u8],
    mut visit: impl FnMut(&dyn Fn() -> PathBuf, Seen) -> bool,
) -> io::Result<()> {
    let mut descent = Descent::new(directory, false)?;
    let mut next = Some(c_string(name)?);
    loop {
        if let Some(name) = next {
            let path = || descent.path(&name);
            let found = Looked::at(descent.innermost(), &name);
            let go_on = match &found {
                // Gone meanwhile, or in a directory that is closed to us.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
                {
                    true
                }
                // What is there does not answer: that is no file of a layer.
                Err(_) => visit(&path, Seen::Mount),
                Ok(found) if !found.is_on(descent.place) => visit(&path, Seen::Mount),
                Ok(found) if found.is_directory => match descent.enter(&name) {
                    Err(Obstacle::Mount) => visit(&|| descent.path(&name), Seen::Mount),
                    _ => true,
                },
                Ok(found) => visit(&path, Seen::File(found.size)),
            };
            if !go_on {
                return Ok(());
            }
        }
        if descent.levels.is_empty() {
            return Ok(());
        }
        next = descent.next()?.map(|(name, _)| name);
        if next.is_none() {
            descent.leave()?;
        }
    }
}

fn c_string(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL.into())
}

/// On which file system a directory is, and on which of its mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: (u32, u32),
    /// Kernels before 5.8 tell it of open files only, in /proc.
    mount: Option<u64>,
}

/// The part of `statx` that matters here.
struct Looked {
    is_directory: bool,
    size: u64,
    inode: u64,
    place: Place,
    is_fixed: bool,
}

impl Looked {
    fn at(directory: BorrowedFd<'_>, name: &CString) -> io::Result<Self> {
        // Nothing is mounted by looking, and no server is asked for sizes that may have changed.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let mut looked = match statx(directory, name, flags, Self::mask()) {
            Ok(found) => Self::of(&found),
            // Some seccomp filters refuse what they do not know.
            Err(Errno::NOSYS | Errno::PERM) => {
                Self::of_stat(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Err(Errno::NOENT) => return Err(Errno::NOENT.into()),
            // The root of another user's FUSE mount, or of one whose server is dead, tells where it is, and no more:
            // that takes asking for nothing.
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

    fn of_open(file: BorrowedFd<'_>) -> io::Result<Self> {
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

    /// Whether it is no root of another mount or file system, as far as its name tells.
    fn is_on(&self, place: Place) -> bool {
        let one_device = !self.is_directory || self.place.device == place.device;
        one_device && (self.place.mount.is_none() || self.place.mount == place.mount)
    }
}

/// The mount of an open file, by proc(5).
fn mount_by_proc(file: BorrowedFd<'_>) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// A directory on the way down.
struct Level {
    name: CString,
    inode: u64,
    /// `None` while it is closed.
    stream: Option<Dir>,
    /// Where the stream goes on after it was closed.
    offset: u64,
    /// What is not to be tried again after that.
    kept: BTreeSet<CString>,
    passes: u32,
}

/// The way from a directory down into a tree in it.
struct Descent<'d> {
    base: BorrowedFd<'d>,
    place: Place,
    levels: Vec<Level>,
    /// So many of the levels are closed, from the outermost on; never the innermost.
    closed: usize,
    /// Whether entries are removed on the way: then a directory is read from its start after it was closed.
    changes: bool,
}

impl<'d> Descent<'d> {
    fn new(base: BorrowedFd<'d>, changes: bool) -> io::Result<Self> {
        Ok(Self { base, place: Looked::of_open(base)?.place, levels: Vec::new(), closed: 0, changes })
    }

    /// The directory whose entries are looked at.
    fn innermost(&self) -> BorrowedFd<'_> {
        let stream = self.levels.last().and_then(|level| level.stream.as_ref());
        stream.and_then(|stream| stream.fd().ok()).unwrap_or(self.base)
    }

    fn path(&self, name: &CString) -> PathBuf {
        let names = self.levels.iter().map(|level| &level.name).chain([name]);
        names.map(|name| OsStr::from_bytes(name.as_bytes())).collect()
    }

    /// The next entry of the innermost directory; `None` after the last.
    fn next(&mut self) -> io::Result<Option<(CString, FileType)>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let Some(stream) = &mut level.stream else { return Ok(None) };
        for entry in stream.by_ref() {
            let entry = entry?;
            level.offset = entry.offset().cast_unsigned();
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") && !level.kept.contains(name) {
                return Ok(Some((name.to_owned(), entry.file_type())));
            }
        }
        Ok(None)
    }

    /// Goes down into the directory `name`, if it is one, and no mount.
    fn enter(&mut self, name: &CString) -> Result<(), Obstacle> {
        let directory = loop {
            match self.open(name) {
                Err(Errno::MFILE | Errno::NFILE) if self.close_outermost() => {}
                Err(Errno::XDEV) => return Err(Obstacle::Mount),
                other => break other?,
            }
        };
        let looked = Looked::of_open(directory.as_fd()).map_err(Obstacle::Error)?;
        if looked.place != self.place {
            return Err(Obstacle::Mount);
        }
        self.levels.push(Level {
            name: name.clone(),
            inode: looked.inode,
            stream: Some(Dir::new(directory)?),
            offset: 0,
            kept: BTreeSet::new(),
            passes: 0,
        });
        if self.levels.len() - self.closed > MAX_OPEN {
            self.close_outermost();
        }
        Ok(())
    }

    fn open(&self, name: &CString) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(self.innermost(), name, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                // Kernels before 5.6 and some seccomp filters have no openat2. A mount shows in its place then.
                Err(Errno::NOSYS | Errno::PERM) => {
                    return openat(self.innermost(), name, DIRECTORY, Mode::empty());
                }
                other => return other,
            }
        }
    }

    /// Closes the outermost directory that is open, but not the innermost; `false` if there is no other.
    fn close_outermost(&mut self) -> bool {
        let may = self.closed + 1 < self.levels.len();
        if may {
            self.levels[self.closed].stream = None;
            self.closed += 1;
        }
        may
    }

    /// Goes up again, to where the directory above was left, or to its start if the tree is being changed.
    fn leave(&mut self) -> io::Result<Option<Level>> {
        let Some(left) = self.levels.pop() else { return Ok(None) };
        if let Some(above) = self.levels.last_mut()
            && above.stream.is_none()
        {
            let below = left.stream.as_ref().ok_or(Errno::BADF)?.fd()?;
            let opened = match openat(below, c"..", DIRECTORY, Mode::empty()) {
                // A directory may be listed by whom it does not let through.
                Err(Errno::ACCESS) => {
                    take_rights(below)?;
                    openat(below, c"..", DIRECTORY, Mode::empty())?
                }
                other => other?,
            };
            let looked = Looked::of_open(opened.as_fd())?;
            if (looked.inode, looked.place) != (above.inode, self.place) {
                return Err(io::Error::other("somebody moves its directories"));
            }
            if !self.changes {
                seek(&opened, SeekFrom::Start(above.offset))?;
            }
            above.stream = Some(Dir::new(opened)?);
            self.closed -= 1;
        }
        Ok(Some(left))
    }
}

/// A removal on its way.
struct Removal<'d> {
    descent: Descent<'d>,
    kept: Option<Kept>,
    kept_bytes: usize,
}

impl Removal<'_> {
    fn run(mut self, name: &CString) -> Result<(), Kept> {
        self.entry(name, FileType::Unknown);
        while let Some(level) = self.descent.levels.last() {
            let name = level.name.clone();
            let done = match self.descent.next() {
                Ok(Some((name, kind))) => {
                    self.entry(&name, kind);
                    Ok(())
                }
                Ok(None) => self.end_of_directory(),
                Err(error) => self.descent.leave().map(|_| self.keep(&name, Obstacle::Error(error))),
            };
            if let Err(error) = done {
                self.keep(&name, Obstacle::Error(error));
                break;
            }
            if self.kept_bytes > MAX_KEPT_BYTES {
                break;
            }
        }
        self.kept.map_or(Ok(()), Err)
    }

    /// Removes an entry of the innermost directory, or goes down into it.
    fn entry(&mut self, name: &CString, kind: FileType) {
        let unlinked = match kind {
            FileType::Directory => Err(Errno::ISDIR),
            _ => self.unlink(name, AtFlags::empty()),
        };
        match unlinked {
            Ok(()) => {}
            Err(Errno::ISDIR) => self.enter(name),
            // So POSIX says it for directories.
            Err(Errno::PERM) if self.look_at(name).is_some_and(|looked| looked.is_directory) => {
                self.enter(name);
            }
            Err(errno) => self.keep_refused(name, errno),
        }
    }

    fn enter(&mut self, name: &CString) {
        let is_closed = |entered: &Result<(), Obstacle>| matches!(entered, Err(Obstacle::Error(error)) if error.kind() == io::ErrorKind::PermissionDenied);
        let mut entered = self.descent.enter(name);
        // The directory that the name is in may be one that its owner cannot pass through, or itself may be closed.
        if is_closed(&entered)
            && !self.descent.levels.is_empty()
            && take_rights(self.descent.innermost()).is_ok()
        {
            entered = self.descent.enter(name);
        }
        if is_closed(&entered) && take_rights_by_name(self.descent.innermost(), name).is_ok() {
            entered = self.descent.enter(name);
        }
        match entered {
            Ok(()) => {}
            Err(Obstacle::Error(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(why) => self.keep(name, why),
        }
    }

    /// Goes up from the innermost directory, of which every entry was looked at, and removes it.
    fn end_of_directory(&mut self) -> io::Result<()> {
        let Some(left) = self.descent.leave()? else { return Ok(()) };
        if !left.kept.is_empty() {
            self.remember(&left.name);
            return Ok(());
        }
        match self.unlink(&left.name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if left.passes < MAX_PASSES => {
                let depth = self.descent.levels.len();
                self.enter(&left.name);
                if let Some(again) = self.descent.levels.get_mut(depth) {
                    again.passes = left.passes + 1;
                }
            }
            Err(errno) => self.keep_refused(&left.name, errno),
        }
        Ok(())
    }

    fn unlink(&self, name: &CString, flags: AtFlags) -> Result<(), Errno> {
        let directory = self.descent.innermost();
        let unlinked = match unlinkat(directory, name, flags) {
            // The directory in which the tree lies is not ours to change.
            Err(Errno::ACCESS) if !self.descent.levels.is_empty() => {
                take_rights(directory).map_err(|_| Errno::ACCESS)?;
                unlinkat(directory, name, flags)
            }
            other => other,
        };
        match unlinked {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    fn look_at(&self, name: &CString) -> Option<Looked> {
        Looked::at(self.descent.innermost(), name).ok()
    }

    fn keep_refused(&mut self, name: &CString, errno: Errno) {
        let is_fixed = || is_immutable(self.descent.innermost(), name.as_bytes());
        let why = match errno {
            Errno::BUSY if self.look_at(name).is_none_or(|looked| !looked.is_on(self.descent.place)) => {
                Obstacle::Mount
            }
            Errno::PERM if is_fixed() => Obstacle::Immutable,
            errno => errno.into(),
        };
        self.keep(name, why);
    }

    fn keep(&mut self, name: &CString, why: Obstacle) {
        match &mut self.kept {
            Some(kept) => kept.more += 1,
            None => self.kept = Some(Kept { path: self.descent.path(name), why, more: 0 }),
        }
        self.remember(name);
    }

    fn remember(&mut self, name: &CString) {
        if let Some(level) = self.descent.levels.last_mut() {
            self.kept_bytes += name.as_bytes().len() + size_of::<CString>();
            level.kept.insert(name.clone());
        }
    }
}

/// Does what needs rights on the directory `name` in `directory`, and once more with them if its owner has not given them
/// to himself: a directory that is to be moved has to be writable.
pub fn with_rights<T>(
    directory: BorrowedFd<'_>,
    name: &[u8],
    deed: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    match deed() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            match c_string(name).and_then(|name| Ok(take_rights_by_name(directory, &name)?)) {
                Ok(()) => deed(),
                Err(_) => Err(error),
            }
        }
        other => other,
    }
}

/// Lets the owner read, change and pass through an open directory.
fn take_rights(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fchmod(directory, Mode::from_raw_mode(fstat(directory)?.st_mode) | Mode::RWXU)
}

/// The same for a directory that cannot be opened. A symlink is never followed, which leaves the way through /proc: no
/// other call changes the mode of what is only held.
fn take_rights_by_name(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = openat(parent, name, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&held)?.st_mode) | Mode::RWXU;
    chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), mode)
}

#[cfg(test)]
mod tests;
