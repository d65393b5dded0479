//! Buffers for the pieces of large files, of one size and aligned for direct writes. They are used
//! again and again: fresh memory is slow.

use std::sync::Mutex;

use crate::threads::lock;

/// The bytes of a large file that are written at once; a multiple of [`ALIGNMENT`].
pub(super) const PIECE: usize = 512 * 1024;
/// The number of which offsets, lengths and addresses of direct writes are multiples, on any disk
/// of today.
pub(super) const ALIGNMENT: usize = 4096;

/// A buffer of [`PIECE`] bytes at an address that direct writes can take.
#[derive(Debug, Default)]
pub(super) struct Piece {
    memory: Vec<u8>,
    start: usize,
}

impl Piece {
    fn allocate() -> Self {
        let memory = vec![0; PIECE + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start }
    }

    /// The bytes of the buffer.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + PIECE]
    }
}

/// The buffers that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<Vec<Piece>>);

impl Pieces {
    /// Takes a buffer, a new one where all are in use.
    pub(super) fn take(&self) -> Piece {
        lock(&self.0).pop().unwrap_or_else(Piece::allocate)
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, piece: Piece) {
        lock(&self.0).push(piece);
    }
}
