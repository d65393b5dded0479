//! The threads and the memory that all layers of a run share while they are extracted.

use std::io;
use std::sync::Arc;

use super::budget::Budget;
use super::decode::Windows;
use super::pieces::Pieces;
use crate::cancel::Cancel;
use crate::sys;

/// The most directories that the writer of one layer keeps open.
const MAX_OPEN_DIRECTORIES: usize = 128;
/// The least that one open directory which waits for the pool counts in the memory budget: file
/// descriptors are scarcer than memory.
const MIN_BYTES_PER_DIRECTORY: usize = 32 * 1024;
/// The memory for files on their way to disk, all layers together, in bytes.
pub(super) const BUDGET: usize = 4 << 20;

/// The pool that writes files, and the memory it may hold; one for all layers of a run.
#[derive(Debug)]
pub struct Workers {
    pub(super) pool: rayon::ThreadPool,
    pub(super) budget: Arc<Budget>,
    pub(super) windows: Windows,
    pub(super) pieces: Arc<Pieces>,
    pub(super) umask: u32,
    /// The directories that the writer of one layer keeps open for the entries to come.
    pub(super) open_directories: usize,
    /// The bytes that an open directory which waits for the pool counts in the memory budget.
    pub(super) bytes_per_directory: usize,
}

impl Workers {
    /// Starts a pool of `threads` (at least one) for `layers` at the same time, at most. With few
    /// files that this process may open, layers keep fewer directories open. Thrown, `cancel` ends
    /// the wait for memory.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(threads: usize, layers: usize, cancel: &Cancel) -> io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("extract-{index}"))
            .build()
            .map_err(io::Error::other)?;
        // A quarter of all files for what writers keep open, a sixteenth for what waits for the
        // pool.
        let open_files = sys::open_files_limit();
        Ok(Self {
            open_directories: (open_files / 4 / layers.max(1)).clamp(1, MAX_OPEN_DIRECTORIES),
            bytes_per_directory: (BUDGET / (open_files / 16).max(1)).max(MIN_BYTES_PER_DIRECTORY),
            pool,
            budget: Arc::new(Budget::new(BUDGET)),
            windows: Windows::new(cancel),
            pieces: Arc::default(),
            // Unknown: every mode is set explicitly.
            umask: sys::umask().unwrap_or(0o777),
        })
    }
}
