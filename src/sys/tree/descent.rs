//! The way from a directory down into a tree in it.
//!
//! Neither the stack nor the number of descriptors grows with the depth of a tree: the directories
//! on the way down are held open up to [`MAX_OPEN`], those further up are opened again by `..` and
//! have to be the same inode then. Nothing is renamed, so that every file system will do.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Dir, FileType, Mode, ResolveFlags, SeekFrom, openat, openat2, seek};
use rustix::io::Errno;

use super::obstacle::Obstacle;
use super::place::{Looked, Place};
use super::rights::take_rights;
use crate::sys::open::DIRECTORY;

/// The most directories on the way down that are held open. Fewer where the system has no more
/// descriptors.
const MAX_OPEN: usize = 16;

/// A directory on the way down.
pub(super) struct Level {
    pub(super) name: CString,
    inode: u64,
    /// `None` while it is closed.
    stream: Option<Dir>,
    /// The offset at which the stream goes on after it was closed.
    offset: u64,
    /// The names that are not to be tried again after that.
    pub(super) kept: BTreeSet<CString>,
    pub(super) passes: u32,
}

/// The way from a directory down into a tree in it.
pub(super) struct Descent<'d> {
    base: BorrowedFd<'d>,
    pub(super) place: Place,
    pub(super) levels: Vec<Level>,
    /// The number of levels that are closed, from the outermost on; never the innermost.
    closed: usize,
    /// True if entries are removed on the way: then a directory is read from its start after it was
    /// closed.
    changes: bool,
}

impl<'d> Descent<'d> {
    pub(super) fn new(base: BorrowedFd<'d>, changes: bool) -> io::Result<Self> {
        Ok(Self { base, place: Looked::of_open(base)?.place, levels: Vec::new(), closed: 0, changes })
    }

    /// The directory whose entries are looked at.
    pub(super) fn innermost(&self) -> BorrowedFd<'_> {
        let stream = self.levels.last().and_then(|level| level.stream.as_ref());
        stream.and_then(|stream| stream.fd().ok()).unwrap_or(self.base)
    }

    pub(super) fn path(&self, name: &CString) -> PathBuf {
        let names = self.levels.iter().map(|level| &level.name).chain([name]);
        names.map(|name| OsStr::from_bytes(name.as_bytes())).collect()
    }

    /// Reads the next entry of the innermost directory; `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<(CString, FileType)>> {
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
    pub(super) fn enter(&mut self, name: &CString) -> Result<(), Obstacle> {
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
                // Kernels before 5.6 and some seccomp filters have no openat2. A mount shows in its
                // place then.
                Err(Errno::NOSYS | Errno::PERM) => {
                    return openat(self.innermost(), name, DIRECTORY, Mode::empty());
                }
                other => return other,
            }
        }
    }

    /// Closes the outermost directory that is open, but not the innermost; `false` if there is no
    /// other.
    fn close_outermost(&mut self) -> bool {
        let may = self.closed + 1 < self.levels.len();
        if may {
            self.levels[self.closed].stream = None;
            self.closed += 1;
        }
        may
    }

    /// Goes up again, to where the directory above was left, or to its start if the tree is being
    /// changed.
    pub(super) fn leave(&mut self) -> io::Result<Option<Level>> {
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
