//! A compressed layer in, a directory tree and an inventory of it out.
//!
//! The bytes pass through threads: one inflates (`decode`), the calling one hashes for the `diff_id`, reads
//! tar headers (`tar`) and makes directories and links (`tree`), a rayon pool writes files (`files`). Between the first two is a bounded channel of recycled buffers, before the pool a memory budget
//! that all layers share: memory depends on neither layer nor file sizes.
//!
//! Everything about the input is hostile until the digests fit, and nothing here says that they do: the
//! caller compares the returned `diff_id` and throws the tree away if it is another one.

mod adopt;
mod decode;
mod files;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod inventory;
mod outcome;
mod spelling;
mod tar;
mod tree;
mod verify;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

pub use adopt::compare_foreign;
pub use inventory::{InventoryEntry, InventoryKind, InventoryReader, Totals, read_facts};
pub use verify::{Change, Difference, Differences, verify};

use crate::cancel::Cancel;
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::error::LayerError;
use crate::state::{LayerFacts, Limits, Ownership};
use crate::sys;

/// Size of the buffers between inflating and parsing, in bytes, and how many there are a layer.
const CHUNK: usize = 128 * 1024;
const CHUNKS: usize = 6;

/// The pool that writes files, and the memory it may hold; one for all layers of a run.
#[derive(Debug)]
pub struct Workers {
    pool: rayon::ThreadPool,
    budget: Arc<Budget>,
    windows: decode::Windows,
    pieces: Arc<files::Pieces>,
    umask: u32,
    /// Directories that the writer of one layer keeps open for the entries to come.
    open_directories: usize,
    /// What an open directory that waits for the pool counts in the memory budget.
    bytes_per_directory: usize,
}

/// Directories that the writer of one layer keeps open, at most.
const MAX_OPEN_DIRECTORIES: usize = 128;
/// What one open directory that waits for the pool counts in the memory budget, at least: file descriptors are scarcer
/// than memory.
const MIN_BYTES_PER_DIRECTORY: usize = 32 * 1024;

/// Memory for files on their way to disk, all layers together, in bytes.
const BUDGET: usize = 4 << 20;
/// How often somebody who waits looks whether the run has ended.
const LOOK: Duration = Duration::from_millis(100);

impl Workers {
    /// A pool of `threads` (at least one) for `layers` at the same time, at most. With few files that this process may
    /// open, layers keep fewer directories open. Thrown, `cancel` ends the wait for memory.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(threads: usize, layers: usize, cancel: &Cancel) -> io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("extract-{index}"))
            .build()
            .map_err(io::Error::other)?;
        // A quarter of all files for what writers keep open, a sixteenth for what waits for the pool.
        let open_files = sys::open_files_limit();
        Ok(Self {
            open_directories: (open_files / 4 / layers.max(1)).clamp(1, MAX_OPEN_DIRECTORIES),
            bytes_per_directory: (BUDGET / (open_files / 16).max(1)).max(MIN_BYTES_PER_DIRECTORY),
            pool,
            budget: Arc::new(Budget::new(BUDGET)),
            windows: decode::Windows::new(cancel),
            pieces: Arc::default(),
            umask: umask(),
        })
    }
}

/// This process's umask. Asking with `umask(2)` would change it for a moment under other threads' feet.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        // Unknown: every mode is set explicitly.
        .unwrap_or(0o777)
}

/// A counting semaphore over bytes.
#[derive(Debug)]
struct Budget {
    free: Mutex<usize>,
    total: usize,
    changed: Condvar,
}

impl Budget {
    const fn new(total: usize) -> Self {
        Self { free: Mutex::new(total), total, changed: Condvar::new() }
    }

    /// Waits for `bytes`; whoever wants more than there is gets all of it.
    fn acquire(&self, bytes: usize) {
        let bytes = bytes.min(self.total);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.changed.wait_while(free, |free| *free < bytes).unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
    }

    /// As [`Budget::acquire`], until the result is dropped.
    fn hold(&self, bytes: usize) -> Held<'_> {
        self.acquire(bytes);
        Held { budget: self, bytes }
    }

    /// As [`Budget::hold`]; `None` if `cancel` is thrown before.
    fn hold_unless(&self, bytes: usize, cancel: &Cancel) -> Option<Held<'_>> {
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            if cancel.is_cancelled() {
                return None;
            }
            (free, _) = self.changed.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Some(Held { budget: self, bytes })
    }

    fn release(&self, bytes: usize) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += bytes.min(self.total);
        self.changed.notify_all();
    }
}

/// A part of a budget.
#[derive(Debug)]
struct Held<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

/// What extraction may do and must know.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How owner and mode are kept.
    pub ownership: Ownership,
    /// What is refused.
    pub limits: Limits,
    /// The hash of the `diff_id` to compare with.
    pub algorithm: Algorithm,
    /// Bytes of the compressed blob, for the inventory.
    pub blob_size: u64,
}

/// A layer that was extracted, if its `diff_id` is the right one.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// Digest of the uncompressed bytes, to the very end of the stream.
    pub diff_id: DiffId,
    /// What it amounts to.
    pub totals: Totals,
    /// Whether the file system has no xattrs, so that owners and modes are lost.
    pub no_xattrs: bool,
}

/// Extracts the layer that `compressed` yields into the empty directory `root` and writes its inventory.
///
/// `record` must be an empty file, open for reading and writing. An error of `compressed` that wraps a
/// [`LayerError`] is returned as such; any other is a decompression error.
///
/// # Errors
/// See [`LayerError`]. What was written until then remains for the caller to remove.
pub fn extract(
    compressed: impl Read + Send,
    root: OwnedFd,
    inventory: File,
    options: Options,
    workers: &Workers,
) -> Result<Extracted, LayerError> {
    let (filled, incoming) = bounded(CHUNKS);
    let (recycle, empty) = bounded(CHUNKS);
    for _ in 0..CHUNKS {
        // The channel has room for all of them.
        let _ = recycle.send(Vec::new());
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, move || inflate(compressed, &workers.windows, &empty, &filled))
            .map_err(|source| LayerError::Write {
                doing: "start a thread for",
                entry: "the layer".to_owned(),
                source,
            })?;
        let mut source = Inflated::new(incoming, recycle, options);
        let mut reader = tar::TarReader::new();
        let mut tree = tree::TreeWriter::new(root, inventory, options.ownership, workers)?;
        let mut entries = 0;
        while let Some(entry) = reader.next_entry(&mut source)? {
            entries += 1;
            if entries > options.limits.layer_entries {
                return Err(LayerError::Limit { what: "entries", limit: options.limits.layer_entries });
            }
            source.count_holes(entry.holes)?;
            tree.entry(entry, &mut reader, &mut source)?;
            // Names alone can ask for thousands of directories each.
            if entries + tree.implicit_directories() > options.limits.layer_entries {
                return Err(LayerError::Limit { what: "entries", limit: options.limits.layer_entries });
            }
        }
        let (diff_id, bytes) = source.drain()?;
        let facts = LayerFacts { diff_id: diff_id.clone(), size: options.blob_size };
        let (totals, no_xattrs) = tree.finish(bytes, &facts)?;
        Ok(Extracted { diff_id, totals, no_xattrs })
    })
}

type Chunk = Result<Vec<u8>, LayerError>;

/// Decodes into recycled buffers until the end, an error, or until nobody listens any more.
fn inflate(
    compressed: impl Read,
    windows: &decode::Windows,
    empty: &Receiver<Vec<u8>>,
    filled: &Sender<Chunk>,
) {
    let failed = |format: &'static str, source: io::Error| match source.downcast::<LayerError>() {
        Ok(error) => error,
        Err(source) => LayerError::Decompress { format, source },
    };
    let (format, mut decoder) = match decode::decode(compressed, windows) {
        Ok((format, decoder)) => (format.as_str(), decoder),
        Err(error) => {
            let _ = filled.send(Err(failed("anything", error)));
            return;
        }
    };
    while let Ok(mut chunk) = empty.recv() {
        chunk.resize(CHUNK, 0);
        let mut length = 0;
        let result = loop {
            match decoder.read(&mut chunk[length..]) {
                Ok(0) => break Ok(()),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(failed(format, error)),
            }
            if length == CHUNK {
                break Ok(());
            }
        };
        chunk.truncate(length);
        let end = length < CHUNK;
        // Nobody listens any more: extraction has failed, its error is the one that counts.
        if (length > 0 && filled.send(Ok(chunk)).is_err()) || end && result.is_ok() {
            return;
        }
        if let Err(error) = result {
            let _ = filled.send(Err(error));
            return;
        }
    }
}

/// The inflated stream: hashed and counted as it passes.
struct Inflated {
    incoming: Receiver<Chunk>,
    recycle: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
    received: u64,
    /// Bytes of sparse files that did not come.
    holes: u64,
    hasher: Hasher,
    limit: u64,
}

impl Inflated {
    fn new(incoming: Receiver<Chunk>, recycle: Sender<Vec<u8>>, options: Options) -> Self {
        Self {
            incoming,
            recycle,
            chunk: Vec::new(),
            used: 0,
            received: 0,
            holes: 0,
            hasher: Hasher::new(options.algorithm),
            limit: options.limits.layer_size,
        }
    }

    /// Gets the next chunk; `false` at the end.
    fn refill(&mut self) -> Result<bool, LayerError> {
        let Ok(chunk) = self.incoming.recv() else { return Ok(false) };
        let old = std::mem::replace(&mut self.chunk, chunk?);
        // The inflating thread may have ended already.
        let _ = self.recycle.try_send(old);
        self.used = 0;
        self.received += self.chunk.len() as u64;
        self.check_limit()?;
        self.hasher.update(&self.chunk);
        Ok(true)
    }

    /// Takes in that a file has holes, which take no less room when somebody copies them.
    fn count_holes(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.holes = self.holes.saturating_add(bytes);
        self.check_limit()
    }

    fn check_limit(&self) -> Result<(), LayerError> {
        if self.received.saturating_add(self.holes) > self.limit {
            return Err(LayerError::Limit { what: "bytes", limit: self.limit });
        }
        Ok(())
    }

    /// Hashes what follows the archive's end, and returns the digest and size of the whole stream.
    fn drain(mut self) -> Result<(DiffId, u64), LayerError> {
        while self.refill()? {}
        Ok((DiffId::from_hasher(self.hasher), self.received))
    }
}

impl tar::Source for Inflated {
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError> {
        if self.used == self.chunk.len() && !self.refill()? {
            return Ok(&[]);
        }
        let start = self.used;
        self.used = self.chunk.len().min(start.saturating_add(limit));
        Ok(&self.chunk[start..self.used])
    }

    fn position(&self) -> u64 {
        self.received - (self.chunk.len() - self.used) as u64
    }
}

#[cfg(test)]
mod tests;
