//! A blob while it arrives: one thread appends what the socket gives, another reads it as it grows.
//!
//! The spool is a file, so that a broken run can go on where it stopped, and so that a slow decoder
//! holds up no socket and needs no memory: what was written a moment ago is read back from the page
//! cache.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::names::FILE_MODE;
use crate::error::StoreError;
use crate::sys;
use crate::threads::{lock, unpoisoned};

/// A partial blob on disk.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    directory: Arc<OwnedFd>,
    path: PathBuf,
    progress: Mutex<Progress>,
    grown: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    length: u64,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    Broken,
}

impl Spool {
    /// Opens or makes the spool at `path`, which is in `directory`; one that is longer than `size`
    /// is emptied.
    pub(super) fn open(directory: &Arc<OwnedFd>, path: PathBuf, size: u64) -> Result<Self, StoreError> {
        let file = sys::open_or_make_own_file(directory.as_fd(), name(&path), FILE_MODE)
            .map_err(StoreError::io("open the partial download", &path))?;
        let mut length = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        if length > size {
            file.set_len(0).map_err(StoreError::io("empty", &path))?;
            length = 0;
        }
        let progress = Mutex::new(Progress { length, end: End::Open });
        Ok(Self { file, directory: Arc::clone(directory), path, progress, grown: Condvar::new() })
    }

    /// Counts the bytes received so far, in this and earlier runs.
    pub(crate) fn length(&self) -> u64 {
        self.lock().length
    }

    /// The path of the spool.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what an earlier run has left, from `offset`.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        self.file.read_at(buffer, offset).map_err(StoreError::io("read", &self.path))
    }

    /// Copies all that was received to the end of `file`.
    pub(super) fn copy_to(&self, file: &mut File) -> io::Result<()> {
        let mut offset = 0;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match self.file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    file.write_all(&buffer[..count])?;
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds received bytes.
    ///
    /// # Errors
    /// The disk's, a full one above all.
    pub(crate) fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = self.length();
        self.file.write_all_at(bytes, length).map_err(StoreError::io("write", &self.path))?;
        self.lock().length = length + bytes.len() as u64;
        self.grown.notify_all();
        Ok(())
    }

    /// Declares the blob complete: readers come to an end after the last byte.
    pub(crate) fn complete(&self) {
        self.end(End::Complete);
    }

    /// Declares that no more will come: readers fail.
    pub(crate) fn give_up(&self) {
        self.end(End::Broken);
    }

    /// Removes the file, when nobody needs its bytes again.
    ///
    /// # Errors
    /// The file system's; a file that is gone is fine.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        remove(self.directory.as_fd(), &self.path)
    }

    /// Starts a reader from the first byte on, which waits for bytes to come.
    pub(crate) fn reader(self: &Arc<Self>) -> SpoolReader {
        SpoolReader { spool: Arc::clone(self), offset: 0 }
    }

    fn end(&self, end: End) {
        self.lock().end = end;
        self.grown.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        lock(&self.progress)
    }
}

/// Removes the spool at `path`, which is in `directory`; one that is gone is fine, and what is none
/// stays.
pub(super) fn remove(directory: BorrowedFd<'_>, path: &Path) -> Result<(), StoreError> {
    let result = match sys::has_own_file(directory, name(path)) {
        Ok(true) => sys::remove_file(directory, name(path)),
        Ok(false) => Ok(()),
        Err(error) if sys::refusal(&error).is_some() => Ok(()),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The last component of a spool's path.
fn name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

/// Reads a spool while it grows.
#[derive(Debug)]
pub(crate) struct SpoolReader {
    spool: Arc<Spool>,
    offset: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = |progress: &mut Progress| progress.length <= self.offset && progress.end == End::Open;
        let progress = *unpoisoned(self.spool.grown.wait_while(self.spool.lock(), waiting));
        if progress.end == End::Broken {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was given up"));
        }
        let available = progress.length.saturating_sub(self.offset);
        let wanted = buffer.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.spool.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the partial download was cut short by somebody",
            ));
        }
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &Path, size: u64) -> Arc<Spool> {
        let directory = Arc::new(sys::open_directory(path.parent().unwrap()).unwrap());
        Arc::new(Spool::open(&directory, path.to_owned(), size).unwrap())
    }

    #[test]
    fn a_reader_follows_the_writer_to_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.part");
        fs::write(&path, "earlier ").unwrap();
        let spool = open(&path, 100);
        assert_eq!(spool.length(), 8);
        let mut reader = spool.reader();
        let thread = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        for piece in ["and ", "now"] {
            spool.append(piece.as_bytes()).unwrap();
        }
        spool.complete();
        assert_eq!(thread.join().unwrap().unwrap(), "earlier and now");
        spool.remove().unwrap();
        spool.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_given_up_spool_fails_its_readers_and_an_overlong_one_starts_anew() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.part");
        fs::write(&path, "longer than the blob").unwrap();
        let spool = open(&path, 3);
        assert_eq!(spool.length(), 0);
        let mut reader = spool.reader();
        let thread = std::thread::spawn(move || reader.read(&mut [0; 8]).is_err());
        spool.give_up();
        assert!(thread.join().unwrap());
    }
}
