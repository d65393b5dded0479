//! The documents that a registry keeps for the run, so that images which share one fetch it once;
//! threads that want the same one wait for the first.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::digest::BlobDigest;
use crate::registry::transport::Portion;
use crate::threads::lock;

/// The documents that all registries of a run keep, in bytes.
const MAX_KEPT: u64 = 4 << 20;

/// A document as it was served; its bytes have the digest.
pub(crate) struct Document {
    pub(crate) digest: BlobDigest,
    pub(crate) bytes: Vec<u8>,
    /// The Content-Type, or the descriptor's media type where there is no server.
    pub(crate) media_type: Option<String>,
    /// The host that served the document.
    pub(crate) host: String,
    /// True if a redirect led to the host and no digest vouches for the bytes: what they say is not
    /// shown.
    pub(crate) unvouched: bool,
}

/// A document while somebody reads it, who has a portion of the memory for it.
pub(crate) struct Held {
    document: Arc<Document>,
    _portion: Portion,
}

impl Held {
    pub(crate) fn new(document: Arc<Document>, portion: Portion) -> Self {
        Self { document, _portion: portion }
    }

    /// Returns the bytes; whoever gets them bounds their memory himself.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        Arc::try_unwrap(self.document).map_or_else(|kept| kept.bytes.clone(), |document| document.bytes)
    }
}

impl Deref for Held {
    type Target = Arc<Document>;

    fn deref(&self) -> &Arc<Document> {
        &self.document
    }
}

/// The bytes of documents that all registries of a run keep together.
#[derive(Default)]
pub(crate) struct Allowance(Mutex<u64>);

impl Allowance {
    /// Takes `bytes`, if there are so many left.
    fn take(&self, bytes: u64) -> bool {
        let mut kept = lock(&self.0);
        let fits = kept.saturating_add(bytes) <= MAX_KEPT;
        if fits {
            *kept += bytes;
        }
        fits
    }

    /// Gives `bytes` back.
    fn give_back(&self, bytes: u64) {
        let mut kept = lock(&self.0);
        *kept = kept.saturating_sub(bytes);
    }
}

/// The place of one document. The thread that fetches the document holds the lock.
pub(crate) type Slot = Arc<Mutex<Option<Arc<Document>>>>;

/// The documents of one registry, by digest.
pub(crate) struct Cache {
    allowance: Arc<Allowance>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<BlobDigest, Slot>,
    /// The part of the allowance that the documents here take.
    bytes: u64,
}

impl Cache {
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        Self { allowance, kept: Mutex::default() }
    }

    /// Returns the place of `digest`.
    pub(crate) fn slot(&self, digest: &BlobDigest) -> Slot {
        Arc::clone(lock(&self.kept).slots.entry(digest.clone()).or_default())
    }

    /// Keeps `document` in `place`, the content of its `slot`, as far as there is room for it.
    pub(crate) fn keep(
        &self,
        slot: &Slot,
        place: &mut MutexGuard<'_, Option<Arc<Document>>>,
        document: &Arc<Document>,
    ) {
        let bytes = document.bytes.len() as u64;
        let mut kept = lock(&self.kept);
        let mut fits = self.allowance.take(bytes);
        if !fits && kept.bytes > 0 {
            self.let_go(&mut kept);
            fits = self.allowance.take(bytes);
        }
        if fits {
            kept.bytes += bytes;
            kept.slots.insert(document.digest.clone(), Arc::clone(slot));
            **place = Some(Arc::clone(document));
        }
    }

    /// Keeps nothing any more.
    pub(crate) fn clear(&self) {
        self.let_go(&mut lock(&self.kept));
    }

    fn let_go(&self, kept: &mut Kept) {
        // A document that is in use elsewhere lives on there.
        self.allowance.give_back(kept.bytes);
        *kept = Kept::default();
    }

    /// Keeps `document` unless it is kept already.
    pub(crate) fn remember(&self, document: &Arc<Document>) {
        let slot = self.slot(&document.digest);
        let mut place = lock(&slot);
        if place.is_none() {
            self.keep(&slot, &mut place, document);
        }
    }
}
