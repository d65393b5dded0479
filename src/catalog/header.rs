//! The header of the database file, which is read before SQLite opens the file.
//!
//! Closing any handle on a file takes away every POSIX lock that the process has on that file, and
//! SQLite locks by them: a connection in another thread would go on without its locks
//! (<https://www.sqlite.org/howtocorrupt.html>, section 2.2). So a handle of ours stays open for as
//! long as this process has any catalog open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Mutex;

use crate::sys;
use crate::threads::lock;

static OPEN: Mutex<OpenCatalogs> = Mutex::new(OpenCatalogs { count: 0, handles: Vec::new() });

/// The catalogs that this process has open, and the handles that are closed with the last of them.
struct OpenCatalogs {
    count: usize,
    handles: Vec<File>,
}

/// A catalog of this process that is open, or about to be. It outlives the connection.
#[derive(Debug)]
pub(super) struct OpenCatalog(());

impl OpenCatalog {
    pub(super) fn new() -> Self {
        lock(&OPEN).count += 1;
        Self(())
    }

    /// Tells whether the database at `path` wants a write-ahead log: byte 19, the read version,
    /// is 2. <https://www.sqlite.org/fileformat2.html#the_database_header>
    // By `self`, so that the handle has a catalog that keeps it open.
    #[expect(clippy::unused_self, reason = "the open catalog is what makes the call safe")]
    pub(super) fn is_wal(&self, path: &Path) -> bool {
        let read = || -> io::Result<u8> {
            let mut open = lock(&OPEN);
            let place = fs::metadata(path)?;
            let same = |file: &File| {
                file.metadata().is_ok_and(|its| (its.dev(), its.ino()) == (place.dev(), place.ino()))
            };
            let at = if let Some(at) = open.handles.iter().position(same) {
                at
            } else {
                open.handles.push(sys::open_regular(path)?);
                open.handles.len() - 1
            };
            let mut header = [0; 20];
            open.handles[at].read_exact_at(&mut header, 0)?;
            Ok(header[19])
        };
        read().is_ok_and(|version| version == 2)
    }
}

impl Drop for OpenCatalog {
    fn drop(&mut self) {
        let mut open = lock(&OPEN);
        open.count -= 1;
        if open.count == 0 {
            open.handles.clear();
        }
    }
}
