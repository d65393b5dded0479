//! Kept blobs on their way into a bundle.
//!
//! A blob is compared with its digest before its first byte goes out, since nobody can take back
//! what is in a pipe; that of a damaged one comes from elsewhere. The file was not written to in
//! the meantime: its times tell.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::MetadataExt as _;

use crate::digest::{BlobDigest, Verifier};
use crate::error::Error;
use crate::store::Blobs;

/// The kept blob of a digest, as it was found.
pub(super) enum Kept {
    /// No blob is kept.
    Absent,
    /// The blob is what its digest says.
    Sound(SoundFile),
    /// The thing in its place is something else, for this reason.
    Damaged(String),
}

/// The file of a kept blob that was compared with its digest.
pub(super) struct SoundFile {
    file: File,
    stamp: Stamp,
}

/// The signs by which a file that was written to differs from before: size, and times of content
/// and inode.
type Stamp = (u64, (i64, i64), (i64, i64));

/// Looks for the kept blob of `digest`, and compares it; `is_stopped` ends that early.
///
/// # Errors
/// [`Error::Stopped`].
pub(super) fn look(
    blobs: &Blobs,
    digest: &BlobDigest,
    size: u64,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Kept, Error> {
    let file = match blobs.open(digest) {
        Ok(None) => return Ok(Kept::Absent),
        Ok(Some(file)) => file,
        Err(error) => return Ok(Kept::Damaged(Error::from(error).chain().join(": "))),
    };
    match compare(file, digest, size, is_stopped) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Error::Stopped),
        Err(error) => Ok(Kept::Damaged(format!("it cannot be read: {error}"))),
        Ok(found) => Ok(found),
    }
}

fn compare(
    mut file: File,
    digest: &BlobDigest,
    size: u64,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<Kept> {
    let stamp = stamp(&file)?;
    if let Err(mismatch) = Verifier::new(digest, size).read(&mut file, is_stopped)? {
        return Ok(Kept::Damaged(mismatch.to_string()));
    }
    file.rewind()?;
    Ok(Kept::Sound(SoundFile { file, stamp }))
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let found = file.metadata()?;
    Ok((found.len(), (found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())))
}

impl Read for SoundFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 && !buffer.is_empty() && stamp(&self.file)? != self.stamp {
            return Err(io::Error::other("a kept blob was written to while it was read"));
        }
        Ok(count)
    }
}
