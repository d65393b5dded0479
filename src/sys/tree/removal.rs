//! The removal of a tree, which goes on beside what it cannot remove and tells that in the end
//! ([`Kept`]): somebody may have mounted or locked (`chattr +i`) something, and that must stop
//! neither the rest nor the run.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, unlinkat};
use rustix::io::Errno;

use super::descent::Descent;
use super::obstacle::{Kept, Obstacle};
use super::place::{Looked, c_string, is_immutable};
use super::rights::{take_rights, take_rights_by_name};

/// The most bytes of names that cannot be removed and are remembered; then a removal gives up.
const MAX_KEPT_BYTES: usize = 4 << 20;
/// The number of times that a directory is read again which somebody fills while it is emptied.
const MAX_PASSES: u32 = 8;

/// Removes `name` in `directory` and all below it, whatever it is; nothing there is fine.
///
/// Directories of ours that are closed to us are opened. The directory itself is never changed
/// otherwise.
///
/// # Errors
/// The things that stay, if any do.
pub(crate) fn remove_tree(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Kept> {
    let started = c_string(name).and_then(|name| Ok((name, Descent::new(directory, true)?)));
    match started {
        Ok((name, descent)) => Removal { descent, kept: None, kept_bytes: 0 }.run(&name),
        Err(error) => {
            Err(Kept { path: OsStr::from_bytes(name).into(), why: Obstacle::Error(error), more: 0 })
        }
    }
}

/// A removal on its way.
struct Removal<'d> {
    descent: Descent<'d>,
    kept: Option<Kept>,
    kept_bytes: usize,
}

impl Removal<'_> {
    /// Removes `name` in the directory where the descent begins, and all below it.
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
        // The directory that the name is in may be one that its owner cannot pass through, or
        // itself may be closed.
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
