//! A large file while its content comes: the pieces it is cut into, and whoever writes the last of
//! them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::maker::Maker;
use crate::error::LayerError;
use crate::extract::attributes::Attributes;
use crate::extract::paths::failed;
use crate::extract::pieces::{ALIGNMENT, PIECE, Piece, Pieces};
use crate::sys;
use crate::threads::lock;

/// The size from which on files bypass the page cache.
const DIRECT_FROM: u64 = 1 << 20;
/// The number of zeros from which on they are left out: a hole has its price too.
const HOLE_FROM: u64 = 64 * 1024;

/// A large file while its content comes.
pub(in crate::extract) struct LargeFile {
    target: Arc<Target>,
    piece: Piece,
    filled: usize,
    /// The number of bytes cut off as pieces.
    offset: u64,
    /// True if zeros were left out.
    has_holes: bool,
}

impl LargeFile {
    /// Starts with a file that was just created for `size` bytes, and a first buffer.
    pub(super) fn new(file: File, path: &[u8], size: u64, attributes: Attributes, piece: Piece) -> Self {
        let direct = size >= DIRECT_FROM && sys::set_direct(file.as_fd(), true).is_ok();
        let target = Target {
            file,
            path: path.to_vec(),
            attributes,
            direct: AtomicBool::new(direct),
            holders: AtomicUsize::new(1),
            tail: Mutex::default(),
        };
        Self { target: Arc::new(target), piece, filled: 0, offset: 0, has_holes: false }
    }

    /// Adds as many of `bytes` as there is room for, and returns the rest.
    pub(super) fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.filled));
        self.piece.bytes()[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        later
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Counts the bytes until the next offset from which direct writes can go on; never 0.
    pub(super) fn until_aligned(&self) -> usize {
        ALIGNMENT - self.filled % ALIGNMENT
    }

    /// Counts how many of `count` zeros can be left out here.
    pub(super) fn can_skip(&self, count: u64) -> u64 {
        let aligned = self.filled.is_multiple_of(ALIGNMENT);
        if aligned && count >= HOLE_FROM { count - count % ALIGNMENT as u64 } else { 0 }
    }

    /// Leaves out `count` zeros; nothing may be in the buffer.
    pub(super) fn leave_out(&mut self, count: u64) {
        self.offset += count;
        self.has_holes = true;
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == PIECE
    }

    /// Cuts off the bytes that were added, to be written; `next` takes those that follow.
    pub(super) fn cut(&mut self, next: Piece) -> PieceJob {
        let (piece, length) = (std::mem::replace(&mut self.piece, next), self.filled);
        self.filled = 0;
        self.job(piece, length)
    }

    /// Cuts off the last piece, when the content is complete.
    pub(super) fn end(mut self) -> PieceJob {
        let whole = self.filled - self.filled % ALIGNMENT;
        let bytes = self.piece.bytes()[whole..self.filled].to_vec();
        let length = self.has_holes.then_some(self.offset + self.filled as u64);
        *lock(&self.target.tail) = Tail { offset: self.offset + whole as u64, bytes, length };
        let piece = std::mem::take(&mut self.piece);
        let job = self.job(piece, whole);
        // The file itself is held no more, the job still holds it.
        job.target.holders.fetch_sub(1, Ordering::Relaxed);
        job
    }

    fn job(&mut self, piece: Piece, length: usize) -> PieceJob {
        let (target, offset) = (Arc::clone(&self.target), self.offset);
        self.offset += length as u64;
        target.holders.fetch_add(1, Ordering::Relaxed);
        PieceJob { target, piece, length, offset }
    }
}

/// A piece of a large file, to be written. Pieces may be written in any order; the last one
/// finishes the file.
pub(super) struct PieceJob {
    target: Arc<Target>,
    piece: Piece,
    length: usize,
    offset: u64,
}

impl PieceJob {
    pub(super) fn run(mut self, maker: &Maker, pieces: &Pieces) -> Result<(), LayerError> {
        let written = self.target.write(&self.piece.bytes()[..self.length], self.offset);
        if self.length > 0 && !self.target.direct.load(Ordering::Acquire) {
            sys::start_writing_out(&self.target.file, self.offset, self.length as u64);
        }
        pieces.give_back(self.piece);
        written?;
        self.target.release(maker)
    }
}

/// The parts of a large file that its jobs share.
struct Target {
    file: File,
    path: Vec<u8>,
    attributes: Attributes,
    /// True if writes bypass the page cache.
    direct: AtomicBool,
    /// Jobs that are not done, and one while content is still added.
    holders: AtomicUsize,
    tail: Mutex<Tail>,
}

/// The last bytes of a large file, fewer than a direct write could take.
#[derive(Default)]
struct Tail {
    offset: u64,
    bytes: Vec<u8>,
    /// The size of the whole file, if it may end with a hole.
    length: Option<u64>,
}

impl Target {
    fn write(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            // Asked before the write: another thread may end it meanwhile, and then this one still
            // has to try again.
            let direct = self.direct.load(Ordering::Acquire);
            match self.file.write_at(bytes, offset) {
                Ok(0) => return Err(failed("write", &self.path)(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A disk that wants other multiples, or a full one that took a part of the last
                // write.
                Err(error) if direct && error.kind() == io::ErrorKind::InvalidInput => {
                    self.end_direct()?;
                }
                Err(error) => return Err(failed("write", &self.path)(error)),
            }
        }
        Ok(())
    }

    /// Counts one holder less; the last one finishes the file.
    fn release(&self, maker: &Maker) -> Result<(), LayerError> {
        // Everything that other holders did is seen by the last one.
        if self.holders.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let tail = std::mem::take(&mut *lock(&self.tail));
        if !tail.bytes.is_empty() {
            if self.direct.load(Ordering::Acquire) {
                self.end_direct()?;
            }
            self.write(&tail.bytes, tail.offset)?;
        }
        if let Some(length) = tail.length {
            self.file.set_len(length).map_err(failed("write", &self.path))?;
        }
        maker.finish(&self.file, &self.path, &self.attributes)
    }

    fn end_direct(&self) -> Result<(), LayerError> {
        sys::set_direct(self.file.as_fd(), false).map_err(failed("write", &self.path))?;
        self.direct.store(false, Ordering::Release);
        Ok(())
    }
}
