//! Hashing kept blobs. Nothing is locked or written.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::finding::{Finding, Status};
use crate::digest::{BlobDigest, Verifier};
use crate::error::{Error, StoreError};
use crate::image_ref::ImageRef;
use crate::progress::{Counted, Event, Task};
use crate::store::Blobs;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::threads;

/// Blobs read at once, at most: more only make a disk seek.
const MAX_THREADS: usize = 8;

/// A kept blob and how it was found.
#[derive(Clone, Debug)]
pub struct VerifiedBlob {
    /// The digest of the blob.
    pub digest: BlobDigest,
    /// The place where it lies, or should.
    pub path: PathBuf,
    /// The number of its bytes.
    pub size: u64,
    /// The images that it is part of, sorted.
    pub images: BTreeSet<ImageRef>,
    /// The state of the blob, as it was found.
    pub found: Finding,
}

/// Reads and hashes blobs, several at once, the biggest first.
pub(crate) fn compare_blobs(session: &Session, mut blobs: Vec<&mut VerifiedBlob>) -> Result<(), VerbError> {
    if blobs.is_empty() {
        return Ok(());
    }
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let bytes = blobs.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
    session.reporter.report(Event::Begun { task: Task::CompareBlobs, things: blobs.len(), bytes });
    let kept = Blobs::of(&session.home);
    let threads = session.jobs().min(blobs.len()).min(MAX_THREADS);
    let found = threads::each_in_parallel("hash", threads, &blobs, |blob| {
        let is_stopped = session.cancel.is_cancelled();
        (!is_stopped).then(|| compare_blob(session, &kept, &blob.digest, blob.size))
    });
    for (blob, found) in blobs.into_iter().zip(found) {
        let Some(found) = found else { continue };
        blob.found = found;
    }
    if session.cancel.is_cancelled() { Err(Error::Stopped.into()) } else { Ok(()) }
}

fn compare_blob(session: &Session, kept: &Blobs, digest: &BlobDigest, size: u64) -> Finding {
    let missing =
        || session.reporter.report(Event::Advanced { task: Task::CompareBlobs, things: 1, bytes: size });
    let file = match kept.open(digest) {
        Ok(Some(file)) => file,
        Ok(None) => {
            missing();
            let path = kept.path(digest);
            return Finding::of(Status::Missing, format!("there is no file {}", path.display()));
        }
        Err(error) => {
            missing();
            let status = match &error {
                StoreError::Io { source, .. } => Status::of_unread(source),
                _ => Status::Blocked,
            };
            return Finding::of(status, Error::from(error).chain().join(": "));
        }
    };
    let mut file = Counted::new(file, Task::CompareBlobs, &*session.reporter);
    let compared = Verifier::new(digest, size).read(&mut file, &|| session.cancel.is_cancelled());
    file.finish(size);
    match compared {
        Ok(Ok(())) => Finding::OK,
        Ok(Err(mismatch)) => Finding::of(Status::Modified, mismatch.to_string()),
        Err(error) => Finding::of(Status::of_unread(&error), format!("cannot be read: {error}")),
    }
}
