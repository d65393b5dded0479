//! The bytes of an archive, taken block by block.

use crate::error::LayerError;

/// The bytes of a header block; everything in a tar is a multiple of it.
pub(in crate::extract) const BLOCK: usize = 512;

/// The origin of uncompressed tar bytes.
pub(in crate::extract) trait Source {
    /// Takes the next bytes, at most `limit`; empty at the end.
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError>;

    /// Counts the bytes taken so far.
    fn position(&self) -> u64;
}

/// Makes the error of an archive that is none, at this byte.
pub(super) fn broken(offset: u64, reason: impl Into<String>) -> LayerError {
    LayerError::Tar { offset, reason: reason.into() }
}

/// Reads one block; `None` at the end.
pub(super) fn read_block(source: &mut impl Source) -> Result<Option<[u8; BLOCK]>, LayerError> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        let position = source.position();
        let piece = source.take(BLOCK - filled)?;
        if piece.is_empty() {
            if filled == 0 {
                return Ok(None);
            }
            return Err(broken(position, "the archive ends in the middle of a header"));
        }
        block[filled..filled + piece.len()].copy_from_slice(piece);
        filled += piece.len();
    }
    Ok(Some(block))
}

/// Skips `count` bytes, which have to be there.
pub(super) fn skip(source: &mut impl Source, count: u64) -> Result<(), LayerError> {
    if try_skip(source, count)? {
        Ok(())
    } else {
        Err(broken(source.position(), "the archive ends in the middle of an entry"))
    }
}

/// Skips `count` bytes; `false` if there are not so many.
pub(super) fn try_skip(source: &mut impl Source, mut count: u64) -> Result<bool, LayerError> {
    while count > 0 {
        let piece = source.take(usize::try_from(count).unwrap_or(usize::MAX))?.len();
        if piece == 0 {
            return Ok(false);
        }
        count -= piece as u64;
    }
    Ok(true)
}

/// Counts the bytes that fill up the last block of `size` bytes.
pub(super) fn padding_of(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}
