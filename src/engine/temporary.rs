//! The directory for the temporary files of engines that load: `<home>/tmp`.
//!
//! The directory is there while a load runs, and empty when the first of several begins: engines
//! that were killed leave copies of whole archives. One that msb-sync has not made is used as it
//! is, and nothing is removed from it; a mark tells the two apart.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::locked_home::LockedHome;
use crate::sys;
use crate::threads::lock;

/// The file that says that the directory is ours.
const MARK: &[u8] = b".msb-sync";

/// Returns the path of the directory in `home`.
pub(crate) fn temporary_in(home: &Path) -> PathBuf {
    home.join("tmp")
}

/// Tells whether a run that was killed has left its directory in `home`.
pub(crate) fn has_left_temporary(home: &Path) -> bool {
    Temporary::new(temporary_in(home)).open_ours().is_ok_and(|ours| ours.is_some())
}

/// Removes the directory that a killed run has left in `home`, if there is one.
///
/// # Errors
/// Something stays, for the next run to remove.
pub(crate) fn sweep_temporary(home: &LockedHome) -> io::Result<()> {
    match Temporary::new(temporary_in(home.path())).remove() {
        Err(error) if error.kind() == io::ErrorKind::NotFound || sys::refusal(&error).is_some() => Ok(()),
        other => other,
    }
}

/// The directory, shared by the loads of a run, which holds the lock of the home.
pub(super) struct Temporary {
    path: PathBuf,
    /// The number of loads that use the directory.
    users: Mutex<usize>,
}

/// One load that uses the directory.
pub(super) struct Used<'a>(&'a Temporary);

impl Temporary {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, users: Mutex::new(0) }
    }

    /// Makes the directory, or empties it, unless another load uses it.
    ///
    /// # Errors
    /// The system's, and a refusal of whatever somebody else has put in its place.
    pub(super) fn enter(&self) -> io::Result<Used<'_>> {
        let mut users = lock(&self.users);
        if *users == 0 {
            self.make()?;
        }
        *users += 1;
        Ok(Used(self))
    }

    fn make(&self) -> io::Result<()> {
        let (parent, name) = self.place()?;
        let is_new = match sys::open_own_directory_at(parent.as_fd(), name) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        let directory = sys::make_own_directory_at(parent.as_fd(), name, 0o700)?;
        if sys::has_own_file(directory.as_fd(), MARK)? {
            // A thing that cannot be removed harms no load.
            let _ = empty(&directory);
        }
        if is_new {
            sys::make_own_file(directory.as_fd(), MARK, 0o600)?;
        }
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        if let Some(directory) = self.open_ours()? {
            let (parent, name) = self.place()?;
            empty(&directory)?;
            sys::remove_tree(parent.as_fd(), name.as_encoded_bytes())?;
        }
        Ok(())
    }

    /// Opens the directory if msb-sync has made it.
    fn open_ours(&self) -> io::Result<Option<OwnedFd>> {
        let (parent, name) = self.place()?;
        let directory = sys::open_own_directory_at(parent.as_fd(), name)?;
        Ok(sys::has_own_file(directory.as_fd(), MARK)?.then_some(directory))
    }

    fn place(&self) -> io::Result<(OwnedFd, &std::ffi::OsStr)> {
        let place = self.path.parent().zip(self.path.file_name());
        let (parent, name) = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok((sys::open_directory(parent)?, name))
    }
}

impl Used<'_> {
    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Drop for Used<'_> {
    fn drop(&mut self) {
        let mut users = lock(&self.0.users);
        *users -= 1;
        if *users == 0 {
            // A thing that stays is there for the next run to remove.
            let _ = self.0.remove();
        }
    }
}

/// Removes all but the mark, without which nobody would remove the rest.
fn empty(directory: &OwnedFd) -> io::Result<()> {
    let mut result = Ok(());
    for name in names_in(directory)?.iter().filter(|name| *name != MARK) {
        if let Err(kept) = sys::remove_tree(directory.as_fd(), name) {
            result = Err(kept.into());
        }
    }
    result
}

fn names_in(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    sys::each_entry(directory.as_fd(), |name, _| {
        names.push(name.to_vec());
        true
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_directory_lasts_as_long_as_its_last_load_and_keeps_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tmp");
        let temporary = Temporary::new(path.clone());
        let first = temporary.enter().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::write(path.join("copy"), "of an archive").unwrap();
        let second = temporary.enter().unwrap();
        assert!(second.path().join("copy").exists(), "the first load is at work");
        drop(first);
        assert!(path.join("copy").exists(), "the second load is at work");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn leftovers_of_a_killed_run_are_swept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tmp");
        std::mem::forget(Temporary::new(path.clone()).enter().unwrap());
        fs::create_dir(path.join("storage1")).unwrap();
        fs::write(path.join("storage1/layer"), "half").unwrap();
        let temporary = Temporary::new(path.clone());
        let used = temporary.enter().unwrap();
        assert!(!path.join("storage1").exists());
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_of_somebody_elses_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tmp");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("diary"), "mine").unwrap();
        drop(Temporary::new(path.clone()).enter().unwrap());
        assert_eq!(fs::read_to_string(path.join("diary")).unwrap(), "mine");
        fs::remove_file(path.join("diary")).unwrap();
        drop(Temporary::new(path.clone()).enter().unwrap());
        assert!(path.is_dir(), "an empty one, too");

        let other = home.path().join("other");
        std::os::unix::fs::symlink(&path, &other).unwrap();
        assert!(Temporary::new(other).enter().is_err(), "a symlink is nobody's directory");
    }
}
