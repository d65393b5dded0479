//! Files with their content, attributes and times, written by the pool.
//!
//! Small files are collected into batches, one job each; a batch that is collected when somebody
//! waits for all is written at once by who waits. Larger ones are cut into pieces, one job each, so
//! that neither hashing nor the next entries wait for the disk; whoever is the last to touch such a
//! file sets its attributes. From a mebibyte on a file's pieces bypass the page cache: a pull then
//! costs no other program its cache, copies nothing and touches no fresh memory (which is slow in a
//! virtual machine), and has less to sync at the end. Of other large files the kernel is asked to
//! start writing them out, for the same end.
//!
//! The bytes on their way to disk are bounded by one budget for all layers.

mod jobs;
mod large;
mod maker;
mod small;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use self::jobs::Jobs;
use self::large::{LargeFile, PieceJob};
use self::maker::Maker;
use self::small::{Batch, SmallContent};
use super::attributes::{AttributeSetter, Attributes};
use super::pieces::{ALIGNMENT, PIECE};
use super::spelling::Spelling;
use super::workers::Workers;
use crate::error::LayerError;

/// Writes the files of one layer. Dropped, the writer waits for its jobs in the pool.
pub(super) struct FileWriter<'w> {
    workers: &'w Workers,
    maker: Arc<Maker>,
    jobs: Jobs<'w>,
    batch: Batch,
}

impl<'w> FileWriter<'w> {
    pub(super) fn new(
        attributes: Arc<AttributeSetter>,
        spelling: Arc<Spelling>,
        workers: &'w Workers,
    ) -> Self {
        Self {
            workers,
            maker: Arc::new(Maker::new(attributes, spelling)),
            jobs: Jobs::new(workers),
            batch: Batch::default(),
        }
    }

    /// Takes in the content of a small file, which `read` appends to the buffer that it is given.
    pub(super) fn collect(
        &mut self,
        path: &[u8],
        read: impl FnOnce(&mut Vec<u8>) -> Result<(), LayerError>,
    ) -> Result<SmallContent, LayerError> {
        self.batch.collect(path, read)
    }

    /// The bytes of a file that was just collected.
    pub(super) fn content(&self, of: &SmallContent) -> &[u8] {
        self.batch.content(of)
    }

    /// Has the file that was just collected written.
    pub(super) fn write_small(
        &mut self,
        directory: Arc<OwnedFd>,
        content: SmallContent,
        attributes: Attributes,
    ) -> Result<(), LayerError> {
        self.batch.add(directory, content, attributes, self.workers.bytes_per_directory);
        if self.batch.is_full() { self.send_batch() } else { Ok(()) }
    }

    /// Creates a file of `size` bytes, whose content is to follow.
    pub(super) fn create_large(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        size: u64,
        attributes: Attributes,
    ) -> Result<LargeFile, LayerError> {
        let file = self.maker.create(directory, path, attributes.stat.disk_mode())?;
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

    /// Writes the rest of a large file, whose content is complete.
    pub(super) fn close(&mut self, file: LargeFile) -> Result<(), LayerError> {
        self.send_piece(file.end())
    }

    /// Waits until everything given so far is written.
    pub(super) fn wait(&mut self) -> Result<(), LayerError> {
        // This thread has nothing else to do.
        std::mem::take(&mut self.batch).write(&self.maker)?;
        self.jobs.wait()
    }

    fn send_batch(&mut self) -> Result<(), LayerError> {
        let (batch, bytes) = self.batch.take();
        let maker = Arc::clone(&self.maker);
        self.jobs.start(bytes, move || batch.write(&maker))
    }

    fn send_piece(&self, job: PieceJob) -> Result<(), LayerError> {
        let (maker, pieces) = (Arc::clone(&self.maker), Arc::clone(&self.workers.pieces));
        self.jobs.start(PIECE, move || job.run(&maker, &pieces))
    }
}
