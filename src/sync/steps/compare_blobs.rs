//! Hashing kept blobs. Nothing is locked or written.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::digest::{BlobDigest, Verifier};
use crate::error::{Error, StoreError};
use crate::image_ref::ImageRef;
use crate::progress::{Counted, Event, Task};
use crate::store::Blobs;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys;
use crate::threads;

/// Blobs read at once, at most: more only make a disk seek.
const MAX_THREADS: usize = 8;

/// The state of a kept blob, or of an image in an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartStatus {
    /// The thing is as it was fetched, or loaded.
    Ok,
    /// There is no such thing.
    Missing,
    /// There is another thing in its place.
    Modified,
    /// The engine cannot be asked, or the file not be read: nobody knows.
    Blocked,
}

impl PartStatus {
    /// True if the thing is not as it was fetched, or loaded.
    pub fn is_damaged(self) -> bool {
        matches!(self, Self::Missing | Self::Modified)
    }

    /// Says what is known of a file that cannot be read for `error`. Only another thing in the
    /// file's place is proof of damage, and nothing else may be removed.
    pub(crate) fn of_unread(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ if sys::refusal(error).is_some() => Self::Modified,
            _ => Self::Blocked,
        }
    }

    /// Returns the word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Modified => "modified",
            Self::Blocked => "blocked",
        }
    }
}

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
    /// The state of the blob now.
    pub status: PartStatus,
    /// The damage that is or was found, for people.
    pub detail: Option<String>,
    /// True if the blob was damaged and is in order now.
    pub repaired: bool,
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
        (blob.status, blob.detail) = found;
    }
    if session.cancel.is_cancelled() { Err(Error::Stopped.into()) } else { Ok(()) }
}

fn compare_blob(
    session: &Session,
    kept: &Blobs,
    digest: &BlobDigest,
    size: u64,
) -> (PartStatus, Option<String>) {
    let missing =
        || session.reporter.report(Event::Advanced { task: Task::CompareBlobs, things: 1, bytes: size });
    let file = match kept.open(digest) {
        Ok(Some(file)) => file,
        Ok(None) => {
            missing();
            let path = kept.path(digest);
            return (PartStatus::Missing, Some(format!("there is no file {}", path.display())));
        }
        Err(error) => {
            missing();
            let status = match &error {
                StoreError::Io { source, .. } => PartStatus::of_unread(source),
                _ => PartStatus::Blocked,
            };
            return (status, Some(Error::from(error).chain().join(": ")));
        }
    };
    let mut file = Counted::new(file, Task::CompareBlobs, &*session.reporter);
    let compared = Verifier::new(digest, size).read(&mut file, &|| session.cancel.is_cancelled());
    file.finish(size);
    match compared {
        Ok(Ok(())) => (PartStatus::Ok, None),
        Ok(Err(mismatch)) => (PartStatus::Modified, Some(mismatch.to_string())),
        Err(error) => (PartStatus::of_unread(&error), Some(format!("cannot be read: {error}"))),
    }
}
