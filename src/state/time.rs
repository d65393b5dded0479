//! References in the course of time: the digests that they meant, those that wait to be taken, and
//! the images that are made ready.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::platform::Platform;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// A digest that a tag has come to mean, and that is not taken before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagCandidate {
    /// The digest.
    pub digest: BlobDigest,
    /// The time when the digest was first seen.
    pub since: Timestamp,
    /// The time of an earlier note, by a clock that has gone back to before it since: it counts
    /// again as soon as the clock says so.
    pub ahead: Option<Timestamp>,
}

/// The digests that a recorded reference has meant here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The reference.
    pub reference: ImageRef,
    /// The time since when the reference is held at its present digest; `None` if it is not.
    pub held: Option<Timestamp>,
    /// The digests, the present one first.
    pub entries: Vec<HistoryEntry>,
}

/// One digest that a reference has meant for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The platform that the image was recorded for.
    pub platform: Platform,
    /// The digest.
    pub digest: BlobDigest,
    /// The time when the digest was recorded.
    pub from: Timestamp,
    /// The time when another digest was recorded; `None` for the present one.
    pub until: Option<Timestamp>,
}

/// An image that a reference meant before, as far as its layers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierImage {
    /// The digest that the reference meant.
    pub digest: BlobDigest,
    /// The layers, each with the bytes of its blob.
    pub layers: BTreeMap<BlobDigest, u64>,
}

/// An image that no owner needs now, and whose layers and blobs are spared all the same: for a way
/// back, or since it is ready to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparedImage {
    /// The reference.
    pub reference: ImageRef,
    /// The digest that the reference meant, or is to mean.
    pub digest: BlobDigest,
    /// True if the image is ready to be recorded.
    pub staged: bool,
    /// The layers and documents.
    pub blobs: BTreeSet<BlobDigest>,
}

/// An image that is ready to be recorded: all its layers are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedImage {
    /// The reference.
    pub reference: ImageRef,
    /// The platform.
    pub platform: Platform,
    /// The digest that the reference meant then.
    pub digest: BlobDigest,
    /// The time when the image became ready.
    pub since: Timestamp,
}
