//! One writer at a time on a home and on a directory of layers.
//!
//! `flock` on a file that is never removed: the kernel drops the lock with its process, so a dead one
//! blocks nobody. The file says who holds it, for people.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::names::FILE_MODE;
use crate::cancel::Cancel;
use crate::error::StoreError;
use crate::progress::{Event, Reporter};
use crate::sys;

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// A held lock; dropped, it is free.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Whether this is the lock at `path`, by whatever path it was taken.
    pub fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let there = std::fs::symlink_metadata(path).map(identity);
        there.is_ok_and(|there| self.file.metadata().is_ok_and(|own| identity(own) == there))
    }

    /// Waits for the lock at `path` (telling `reporter` once for whom); `None` if cancelled meanwhile.
    ///
    /// `who` is written into the file for those who wait for us: a command, no secrets.
    ///
    /// # Errors
    /// The file cannot be made or locked, or is no regular file of this user's or root's: then it is left as it is.
    pub fn acquire(
        path: &Path,
        who: &str,
        cancel: &Cancel,
        reporter: &dyn Reporter,
    ) -> Result<Option<Self>, StoreError> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let mut file = sys::open_own_directory(path.parent().unwrap_or(Path::new("/")))
            .and_then(|directory| sys::open_or_make_own_file(directory.as_fd(), name, FILE_MODE))
            .map_err(StoreError::io("open the lock", path))?;
        // Whoever may open the file can hold the lock for ever: earlier versions let all users read it.
        let _ = sys::set_mode(file.as_fd(), FILE_MODE);
        let mut told = false;
        while !sys::try_lock(&file).map_err(StoreError::io("lock", path))? {
            if !told {
                reporter.report(Event::Waiting(holder(&mut file)));
                told = true;
            }
            if !cancel.sleep(RETRY) {
                return Ok(None);
            }
        }
        // Only for people: a full disk must not stop a run that needs no space.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{who} (process {})\n", std::process::id()).as_bytes()));
        Ok(Some(Self { file }))
    }

    /// Whether nobody holds the lock at `path`, as far as can be told without waiting or writing.
    pub fn is_free(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let lock = sys::locate_directory(path.parent().unwrap_or(Path::new("/")))
            .and_then(|directory| sys::open_own_file(directory.as_fd(), name));
        match lock {
            Ok(lock) => sys::try_lock(&lock).unwrap_or(false),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Who wrote the file, or "another process".
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
    use std::sync::Mutex;

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
        let path = temp.path().join("lock");
        let (cancel, heard) = (Cancel::new(), Heard::default());
        let first = Lock::acquire(&path, "msb-sync apply", &cancel, &heard).unwrap();
        assert!(first.is_some());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::acquire(&path, "msb-sync pull", &cancel, &heard).unwrap());
            while heard.0.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap().is_some());
        });
        let expected = format!("Waiting(\"msb-sync apply (process {})\")", std::process::id());
        assert_eq!(*heard.0.lock().unwrap(), [expected]);
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let cancel = Cancel::new();
        let _first = Lock::acquire(&path, "a", &cancel, &Heard::default()).unwrap();
        cancel.cancel();
        assert!(Lock::acquire(&path, "b", &cancel, &Heard::default()).unwrap().is_none());
    }
}
