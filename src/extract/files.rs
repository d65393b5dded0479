//! Files with their content, attributes and times, written by the pool.
//!
//! Small files are collected into batches, one job each. Larger ones are cut into pieces, one job each, so that
//! neither hashing nor the next entries wait for the disk; whoever is the last to touch such a file sets its
//! attributes. From a mebibyte on a file's pieces bypass the page cache: a pull then costs no other
//! program its cache, copies nothing and touches no fresh memory (which is slow in a virtual machine), and has
//! less to sync at the end. Of other large files the kernel is asked to start writing them out, for the same end.
//!
//! The bytes on their way to disk are bounded by one budget for all layers.

mod large;

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::Workers;
use super::spelling::Spelling;
use super::tar::{Entry, show};
use super::tree::split;
use crate::error::LayerError;
use crate::state::Ownership;
use crate::sys::{self, FileTime};
use large::{ALIGNMENT, PIECE, PieceJob};
pub(super) use large::{LargeFile, Pieces};

/// A batch goes to the pool with this many bytes or files.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_FILES: usize = 64;

/// The xattr by which container tools and libkrun keep owner and mode (containers/storage `override_stat`).
pub(super) const OVERRIDE_STAT: &[u8] = b"user.containers.override_stat";

/// File type bits of `st_mode`.
pub(super) const TYPE_FILE: u32 = 0o100_000;
pub(super) const TYPE_DIRECTORY: u32 = 0o040_000;

/// The sticky bit.
const STICKY: u32 = 0o1000;

/// Names and values of extended attributes.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Who owns an entry inside the microVM, and its mode there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) type_bits: u32,
    pub(super) mode: u32,
}

impl Stat {
    pub(super) fn of(entry: &Entry, type_bits: u32) -> Self {
        Self { uid: entry.uid, gid: entry.gid, type_bits, mode: entry.mode }
    }

    pub(super) fn text(self) -> String {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.type_bits | self.mode)
    }

    /// The mode on disk: never setuid, setgid or sticky, always usable by the owner. A directory where the sticky bit
    /// keeps users from each other's files is not writable for others without it.
    pub(super) fn disk_mode(self) -> u32 {
        let is_directory = self.type_bits == TYPE_DIRECTORY;
        let usable = if is_directory { 0o700 } else { 0o600 };
        let shared = is_directory && self.mode & STICKY != 0;
        (self.mode & 0o777 | usable) & if shared { !0o002 } else { !0 }
    }
}

/// What a file has beside its content.
#[derive(Debug)]
pub(super) struct Attributes {
    pub(super) stat: Stat,
    pub(super) modified: FileTime,
    pub(super) xattrs: Xattrs,
}

/// What all writers of one layer share.
#[derive(Debug)]
struct Shared {
    ownership: Ownership,
    umask: u32,
    /// Whether the file system turned out to have no xattrs.
    no_xattrs: AtomicBool,
    spelling: Arc<Spelling>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    jobs: usize,
    error: Option<LayerError>,
}

impl Shared {
    /// Sets xattrs and mode of a file or directory; a `fresh` one was made with its mode, less the umask.
    fn set_attributes(
        &self,
        file: BorrowedFd<'_>,
        name: &[u8],
        stat: Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        fresh: bool,
    ) -> Result<(), LayerError> {
        let failed = |doing| move |source| LayerError::Write { doing, entry: show(name), source };
        if !self.no_xattrs.load(Ordering::Relaxed) {
            let mut supported = true;
            if self.ownership == Ownership::OverrideStat {
                supported = sys::set_xattr(file, OVERRIDE_STAT, stat.text().as_bytes())
                    .map_err(failed("set the owner xattr of"))?;
            }
            for (key, value) in xattrs {
                supported &= sys::set_xattr(file, key, value).map_err(|source| {
                    // Not this machine is short of anything: the layer asks for what cannot be.
                    if sys::is_impossible_xattr(&source, file) {
                        let reason =
                            format!("its extended attribute {:?} cannot be set: {source}", show(key));
                        return LayerError::Entry { entry: show(name), reason };
                    }
                    failed("set the extended attributes of")(source)
                })?;
            }
            if !supported {
                self.no_xattrs.store(true, Ordering::Relaxed);
            }
        }
        let mode = stat.disk_mode();
        if !fresh || mode & self.umask != 0 {
            sys::set_mode(file, mode).map_err(failed("set the mode of"))?;
        }
        Ok(())
    }

    /// Creates a file in place of whatever non-directory has its name.
    fn create(&self, directory: BorrowedFd<'_>, path: &[u8], mode: u32) -> Result<File, LayerError> {
        let (_, name) = split(path);
        let file = match sys::create_file(directory, name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.spelling.check(directory, path)?;
                sys::remove_file(directory, name).and_then(|()| sys::create_file(directory, name, mode))
            }
            other => other,
        };
        file.map_err(|source| LayerError::Write { doing: "create", entry: show(path), source })
    }

    fn finish_file(&self, file: &File, path: &[u8], attributes: &Attributes) -> Result<(), LayerError> {
        self.set_attributes(file.as_fd(), path, attributes.stat, &attributes.xattrs, true)?;
        sys::set_times(file.as_fd(), attributes.modified).map_err(|source| LayerError::Write {
            doing: "set the times of",
            entry: show(path),
            source,
        })
    }
}

/// Writes the files of one layer. Dropping it waits for the pool: a tree that failed is removed next, and no job may
/// write into it.
pub(super) struct FileWriter<'w> {
    workers: &'w Workers,
    shared: Arc<Shared>,
    batch: Batch,
}

impl<'w> FileWriter<'w> {
    pub(super) fn new(ownership: Ownership, spelling: Arc<Spelling>, workers: &'w Workers) -> Self {
        let shared = Shared {
            ownership,
            umask: workers.umask,
            no_xattrs: AtomicBool::new(false),
            spelling,
            progress: Mutex::default(),
            changed: Condvar::new(),
        };
        Self { workers, shared: Arc::new(shared), batch: Batch::default() }
    }

    pub(super) fn ownership(&self) -> Ownership {
        self.shared.ownership
    }

    /// Whether the file system turned out to have no xattrs.
    pub(super) fn no_xattrs(&self) -> bool {
        self.shared.no_xattrs.load(Ordering::Relaxed)
    }

    /// Sets xattrs and mode of a directory; a `fresh` one was made with its mode, less the umask.
    pub(super) fn finish_directory(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        stat: Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        fresh: bool,
    ) -> Result<(), LayerError> {
        self.shared.set_attributes(directory, path, stat, xattrs, fresh)
    }

    /// Takes in the content of a small file, which `read` appends to the buffer that it is given.
    pub(super) fn collect(
        &mut self,
        path: &[u8],
        read: impl FnOnce(&mut Vec<u8>) -> Result<(), LayerError>,
    ) -> Result<SmallContent, LayerError> {
        let arena = &mut self.batch.arena;
        let path_start = arena.len();
        arena.extend_from_slice(path);
        let data_start = arena.len();
        read(arena)?;
        Ok(SmallContent { path: path_start..data_start, data: data_start..arena.len() })
    }

    /// The bytes of a file that was just collected.
    pub(super) fn content(&self, of: &SmallContent) -> &[u8] {
        &self.batch.arena[of.data.clone()]
    }

    /// Has the file that was just collected written.
    pub(super) fn write_small(
        &mut self,
        directory: Arc<OwnedFd>,
        content: SmallContent,
        attributes: Attributes,
    ) -> Result<(), LayerError> {
        let xattrs = attributes.xattrs.iter();
        self.batch.more += xattrs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.batch.files.last().is_none_or(|last| !Arc::ptr_eq(&last.directory, &directory)) {
            self.batch.more += self.workers.bytes_per_directory;
        }
        self.batch.files.push(SmallFile { directory, content, attributes });
        let bytes = self.batch.arena.len() + self.batch.more;
        if bytes >= BATCH_BYTES || self.batch.files.len() >= BATCH_FILES {
            self.send_batch()?;
        }
        Ok(())
    }

    /// Creates a file of `size` bytes, whose content is to follow.
    pub(super) fn create_large(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        size: u64,
        attributes: Attributes,
    ) -> Result<LargeFile, LayerError> {
        let file = self.shared.create(directory, path, attributes.stat.disk_mode())?;
        Ok(LargeFile::new(file, path, size, attributes, self.workers.pieces.take()))
    }

    /// Adds content to a large file.
    pub(super) fn append(&mut self, file: &mut LargeFile, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            bytes = file.fill(bytes);
            if file.is_full() {
                let job = file.cut(self.workers.pieces.take());
                self.send_piece(job)?;
            }
        }
        Ok(())
    }

    /// Adds `count` zeros to a large file, as a hole where that saves writing.
    pub(super) fn skip(&mut self, file: &mut LargeFile, mut count: u64) -> Result<(), LayerError> {
        const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
        while count > 0 {
            let hole = file.can_skip(count);
            if hole == 0 {
                let zeros = usize::try_from(count).unwrap_or(ALIGNMENT).min(file.until_aligned());
                self.append(file, &ZEROS[..zeros])?;
                count -= zeros as u64;
                continue;
            }
            if !file.is_empty() {
                let job = file.cut(self.workers.pieces.take());
                self.send_piece(job)?;
            }
            file.leave_out(hole);
            count -= hole;
        }
        Ok(())
    }

    /// Writes what is left of a large file, whose content is complete.
    pub(super) fn close(&mut self, file: LargeFile) -> Result<(), LayerError> {
        self.send_piece(file.end())
    }

    /// Waits until everything given so far is written.
    pub(super) fn wait(&mut self) -> Result<(), LayerError> {
        self.send_batch()?;
        match self.idle().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn send_batch(&mut self) -> Result<(), LayerError> {
        if self.batch.files.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch.arena.reserve(BATCH_BYTES);
        let bytes = batch.arena.capacity() + batch.more;
        self.spawn(bytes, move |shared| batch.write(shared))
    }

    fn send_piece(&self, job: PieceJob) -> Result<(), LayerError> {
        let pieces = Arc::clone(&self.workers.pieces);
        self.spawn(PIECE, move |shared| job.run(shared, &pieces))
    }

    /// Hands a job to the pool, as soon as the memory budget allows.
    fn spawn(
        &self,
        bytes: usize,
        job: impl FnOnce(&Shared) -> Result<(), LayerError> + Send + 'static,
    ) -> Result<(), LayerError> {
        let budget = Arc::clone(&self.workers.budget);
        budget.acquire(bytes);
        {
            let mut progress = lock(&self.shared.progress);
            if let Some(error) = progress.error.take() {
                budget.release(bytes);
                return Err(error);
            }
            progress.jobs += 1;
        }
        let shared = Arc::clone(&self.shared);
        self.workers.pool.spawn(move || {
            // A panic is a defect of ours: it ends this layer, and neither the process nor the other layers.
            let result = catch_unwind(AssertUnwindSafe(|| job(&shared)))
                .unwrap_or(Err(LayerError::Defect { what: "a thread that writes files" }));
            budget.release(bytes);
            let mut progress = lock(&shared.progress);
            progress.jobs -= 1;
            if let Err(error) = result {
                progress.error.get_or_insert(error);
            }
            shared.changed.notify_all();
        });
        Ok(())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Progress> {
        let progress = lock(&self.shared.progress);
        let waited = self.shared.changed.wait_while(progress, |progress| progress.jobs > 0);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        drop(self.idle());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ----------------------------------------------------------------------------------------------- small files

/// Small files that one job writes.
#[derive(Default)]
struct Batch {
    files: Vec<SmallFile>,
    /// Paths and contents, one after the other.
    arena: Vec<u8>,
    /// What else the files hold: their extended attributes, and directories kept open.
    more: usize,
}

/// Where path and content of a small file are.
#[derive(Debug)]
pub(super) struct SmallContent {
    path: Range<usize>,
    data: Range<usize>,
}

struct SmallFile {
    directory: Arc<OwnedFd>,
    content: SmallContent,
    attributes: Attributes,
}

impl Batch {
    fn write(&self, shared: &Shared) -> Result<(), LayerError> {
        for SmallFile { directory, content, attributes } in &self.files {
            let path = &self.arena[content.path.clone()];
            let mut file = shared.create(directory.as_fd(), path, attributes.stat.disk_mode())?;
            let data = &self.arena[content.data.clone()];
            if !data.is_empty() {
                file.write_all(data).map_err(|error| write_failed(path, error))?;
            }
            shared.finish_file(&file, path, attributes)?;
        }
        Ok(())
    }
}

fn write_failed(path: &[u8], source: io::Error) -> LayerError {
    LayerError::Write { doing: "write", entry: show(path), source }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cancel::Cancel;

    fn writer<'w>(directory: &tempfile::TempDir, workers: &'w Workers) -> FileWriter<'w> {
        let root = Arc::new(sys::open_directory(directory.path()).unwrap());
        FileWriter::new(Ownership::None, Arc::new(Spelling::new(root)), workers)
    }

    /// A tree that failed is removed next: no job may still write into it then.
    #[test]
    fn a_writer_that_is_dropped_waits_for_its_jobs() {
        let workers = Workers::new(1, 1, &Cancel::new()).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let written = Arc::new(AtomicBool::new(false));
        let temp = tempfile::tempdir().unwrap();
        let writer = writer(&temp, &workers);
        let job = Arc::clone(&written);
        let write = move |_: &Shared| {
            // The other end is dropped when it is time to write.
            let _ = wait.recv();
            job.store(true, Ordering::SeqCst);
            Ok(())
        };
        writer.spawn(1, write).unwrap();
        std::thread::scope(|scope| {
            let dropping = scope.spawn(move || {
                drop(writer);
                written.load(Ordering::SeqCst)
            });
            // Enough for a drop that does not wait; one that does ends no sooner than the job.
            let start = Instant::now();
            while !dropping.is_finished() && start.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(go);
            assert!(dropping.join().unwrap(), "the job was still writing");
        });
    }

    #[test]
    fn a_job_that_panics_ends_its_layer_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let workers = Workers::new(1, 1, &Cancel::new()).unwrap();
        let mut broken = writer(&temp, &workers);
        for _ in 0..3 {
            broken
                .spawn(PIECE, |_| panic!("on purpose"))
                .unwrap_or_else(|error| assert_eq!(error.kind(), "defect"));
        }
        assert_eq!(broken.wait().unwrap_err().kind(), "defect");
        let mut whole = writer(&temp, &workers);
        whole.spawn(super::super::BUDGET, |_| Ok(())).unwrap();
        whole.wait().unwrap();
    }
}
