//! The lock of a home: one run at a time changes what lies there, and in the directories of layers
//! that it uses.
//!
//! A [`LockedHome`] is the proof of it. Only with one can a catalog be opened to be written, and a
//! store at all; both keep a share of it, so the lock lasts as long as anything that needs it.
//! Whatever a run has decided before it got the lock it looks at again inside.
//!
//! `flock` on files that are never removed: the kernel drops a lock with its process, so a dead one
//! blocks nobody. The file says who holds it, for people.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::{Error, StoreError};
use crate::progress::{Event, Reporter};
use crate::sys::{self, UnsyncedNames};
use crate::threads;

/// The lock's file in a home.
const NAME: &str = ".msb-sync.lock";
/// The mode of a lock's file.
const MODE: u32 = 0o600;
/// A taken lock is tried again after this time.
const RETRY: Duration = Duration::from_millis(50);

/// A home that this run alone changes, until the last share of the lock is dropped.
#[derive(Clone)]
pub struct LockedHome(Arc<Inner>);

struct Inner {
    home: PathBuf,
    _lock: HeldLock,
    /// The one who waits if more locks are wanted.
    waiter: Waiter,
    /// The locks of directories that this run has beside the home's.
    more: Mutex<Vec<Weak<HeldLock>>>,
    /// The directories in which names were made that nothing rests on yet.
    unsynced: Mutex<UnsyncedNames>,
}

/// The run that waits for a lock, and its stop switch.
struct Waiter {
    /// For those who wait for us: a command, no secrets.
    who: String,
    cancel: Cancel,
    reporter: Arc<dyn Reporter>,
}

/// A lock that this process has; dropped, it is free.
#[derive(Debug)]
pub(crate) struct HeldLock(File);

impl LockedHome {
    /// Waits for the lock of `home`, which exists, and tells `reporter` once for whom. `who` is
    /// written into the file for those who wait for us: a command, no secrets.
    ///
    /// # Errors
    /// `cancel` was thrown; the file cannot be made or locked, or is no regular file of this user's
    /// or root's: then it is left as it is.
    pub fn acquire(
        home: &Path,
        who: &str,
        cancel: &Cancel,
        reporter: Arc<dyn Reporter>,
    ) -> Result<Self, Error> {
        let waiter = Waiter { who: who.to_owned(), cancel: cancel.clone(), reporter };
        let lock = waiter.acquire(&home.join(NAME))?;
        Ok(Self(Arc::new(Inner {
            home: home.to_owned(),
            _lock: lock,
            waiter,
            more: Mutex::default(),
            unsynced: Mutex::default(),
        })))
    }

    /// Tells whether nobody has the lock of `home`, as far as that shows without waiting or
    /// writing.
    pub fn is_free(home: &Path) -> bool {
        is_free(&home.join(NAME))
    }

    /// Returns the home.
    pub fn path(&self) -> &Path {
        &self.0.home
    }

    /// Collects the directories in which names are made, for [`LockedHome::settle`].
    pub(crate) fn unsynced(&self) -> MutexGuard<'_, UnsyncedNames> {
        threads::lock(&self.0.unsynced)
    }

    /// Makes durable the names that were made so far, which whatever is recorded rests on. Until
    /// then a power loss may take them again: a new home does not wait for the disk at each.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.unsynced().sync()
    }

    /// Waits for one more lock, at `path`: that of a directory which several homes may share. A
    /// lock that this run has already is shared, by whatever path it was taken: else the run would
    /// wait for itself.
    ///
    /// # Errors
    /// As for [`LockedHome::acquire`].
    pub(crate) fn lock_too(&self, path: &Path) -> Result<Arc<HeldLock>, Error> {
        // One lock after the other: all runs take them in one order.
        let mut more = threads::lock(&self.0.more);
        if let Some(held) = more.iter().filter_map(Weak::upgrade).find(|held| held.is_at(path)) {
            return Ok(held);
        }
        let lock = Arc::new(self.0.waiter.acquire(path)?);
        more.retain(|other| other.strong_count() > 0);
        more.push(Arc::downgrade(&lock));
        Ok(lock)
    }
}

impl fmt::Debug for LockedHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockedHome").field(&self.0.home).finish()
    }
}

impl HeldLock {
    /// Tells whether this is the lock at `path`, by whatever path it was taken.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let there = std::fs::symlink_metadata(path).map(identity);
        there.is_ok_and(|there| self.0.metadata().is_ok_and(|own| identity(own) == there))
    }
}

impl Waiter {
    fn acquire(&self, path: &Path) -> Result<HeldLock, Error> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let mut file = sys::open_own_directory(path.parent().unwrap_or(Path::new("/")))
            .and_then(|directory| sys::open_or_make_own_file(directory.as_fd(), name, MODE))
            .map_err(StoreError::io("open the lock", path))?;
        // Whoever may open the file can hold the lock for ever: earlier versions let all users read
        // it.
        let _ = sys::set_mode(file.as_fd(), MODE);
        let mut told = false;
        while !sys::try_lock(&file).map_err(StoreError::io("lock", path))? {
            if !told {
                self.reporter.report(Event::Waiting(holder(&mut file)));
                told = true;
            }
            if !self.cancel.sleep(RETRY) {
                return Err(Error::Stopped);
            }
        }
        // Only for people: a full disk must not stop a run that needs no space.
        let line = format!("{} (process {})\n", self.who, std::process::id());
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line.as_bytes()));
        Ok(HeldLock(file))
    }
}

/// Tells whether nobody has the lock at `path`, as far as that shows without waiting or writing.
pub(crate) fn is_free(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let lock = sys::locate_directory(path.parent().unwrap_or(Path::new("/")))
        .and_then(|directory| sys::open_own_file(directory.as_fd(), name));
    match lock {
        Ok(lock) => sys::try_lock(&lock).unwrap_or(false),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Reads who wrote the file; "another process" where it does not say.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(200).read_to_string(&mut text));
    let line = text.lines().next().unwrap_or_default().trim();
    match read {
        Ok(_) if !line.is_empty() => line.chars().filter(|c| !c.is_control()).collect(),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Reporter for Heard {
        fn report(&self, event: Event) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }

    #[test]
    fn the_second_waits_for_the_first_and_says_for_whom() {
        let temp = tempfile::tempdir().unwrap();
        let (cancel, heard) = (Cancel::new(), Arc::new(Heard::default()));
        let lock = |who| LockedHome::acquire(temp.path(), who, &cancel, Arc::clone(&heard) as _);
        let first = lock("msb-sync apply").unwrap();
        // As long as anybody has a share of it.
        let share = first.clone();
        drop(first);
        assert!(!LockedHome::is_free(temp.path()));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock("msb-sync pull").unwrap());
            while heard.0.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert!(!second.is_finished());
            drop(share);
            assert_eq!(second.join().unwrap().path(), temp.path());
        });
        assert!(LockedHome::is_free(temp.path()));
        let expected = format!("Waiting(\"msb-sync apply (process {})\")", std::process::id());
        assert_eq!(*heard.0.lock().unwrap(), [expected]);
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let temp = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let lock = |who| LockedHome::acquire(temp.path(), who, &cancel, Arc::new(Heard::default()));
        let _first = lock("a").unwrap();
        cancel.cancel();
        assert!(matches!(lock("b"), Err(Error::Stopped)));
    }

    #[test]
    fn a_lock_that_the_run_has_is_shared_by_whatever_path_it_is_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let (home, layers) = (temp.path().join("home"), temp.path().join("layers"));
        for directory in [&home, &layers] {
            std::fs::create_dir(directory).unwrap();
        }
        std::os::unix::fs::symlink(&layers, temp.path().join("also")).unwrap();
        let locked = LockedHome::acquire(&home, "a", &Cancel::new(), Arc::new(Heard::default())).unwrap();
        let one = locked.lock_too(&layers.join("lock")).unwrap();
        let same = locked.lock_too(&temp.path().join("also/lock")).unwrap();
        assert!(Arc::ptr_eq(&one, &same));
        drop(one);
        assert!(!is_free(&layers.join("lock")));
        drop(same);
        assert!(is_free(&layers.join("lock")));
        locked.lock_too(&layers.join("lock")).unwrap();
    }
}
