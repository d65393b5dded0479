//! What a run tells while it runs: one [`Event`] enum, one [`Reporter`] trait with one method.
//!
//! The library never prints. The binary has a reporter for people and one for `--json`.

use std::sync::Arc;

use serde::Serialize;

use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;

/// What is to be done about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Not recorded yet.
    Add,
    /// Recorded with another digest or for another platform.
    Update,
    /// Right digest, but a layer or a row is missing or damaged.
    Repair,
    /// Nothing.
    Keep,
    /// Recorded by this owner, no longer listed.
    Remove,
    /// Cannot be resolved.
    Blocked,
}

impl Action {
    /// The word in plans and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Repair => "repair",
            Self::Keep => "keep",
            Self::Remove => "remove",
            Self::Blocked => "blocked",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Something the user should know that does not stop the run.
    Warning(String),
    /// A detail for `-v`.
    Detail(String),
    /// Another msb-sync works on this home; waiting for it. The text says who.
    Waiting(String),
    /// What so many references mean, or so many more, is being looked up.
    Resolving {
        /// How many.
        images: usize,
    },
    /// One of them is known, or known to be unknown. A repository alone is one of which tags are selected.
    Resolved(ImageRef),
    /// Execution starts: so many layers with so many bytes are to be fetched.
    Started {
        /// Distinct layers.
        layers: usize,
        /// Compressed bytes, those already spooled included.
        bytes: u64,
    },
    /// A layer's transfer begins.
    LayerStarted {
        /// Which.
        digest: BlobDigest,
        /// Compressed bytes.
        size: u64,
        /// Bytes already here from an earlier run.
        resumed: u64,
        /// An image that needs it.
        image: ImageRef,
    },
    /// So many more compressed bytes of a layer arrived.
    LayerReceived {
        /// Which.
        digest: BlobDigest,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// So many more compressed bytes of a layer went through extraction.
    LayerExtracted {
        /// Which.
        digest: BlobDigest,
        /// Compressed bytes since the last event.
        bytes: u64,
    },
    /// A layer has its final name (`ok`) or failed for good.
    LayerFinished {
        /// Which.
        digest: BlobDigest,
        /// Whether it is complete in the store.
        ok: bool,
    },
    /// So many extracted layers are to be compared with their inventories.
    Comparing {
        /// How many.
        layers: usize,
        /// Their compressed bytes.
        bytes: u64,
    },
    /// One of them has been compared.
    Compared(BlobDigest),
    /// A request to a registry was answered, or was not: those for tokens, to mirrors and to where redirects
    /// lead included.
    Request {
        /// The registry on whose behalf, as the images file names it.
        registry: String,
        /// The HTTP status; `None` where no answer came.
        status: Option<u16>,
    },
    /// An image is done.
    Image {
        /// Which.
        reference: ImageRef,
        /// What was to be done.
        action: Action,
        /// Why, for people; may be empty.
        reason: String,
        /// Why it was not, if it was not.
        error: Option<Arc<Error>>,
    },
}

/// Who listens. Called from many threads at once.
pub trait Reporter: Send + Sync {
    /// Takes note of `event`; must not block for long.
    fn report(&self, event: Event);
}

/// A reporter that listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&self, _event: Event) {}
}
