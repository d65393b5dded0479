//! The documents that a registry keeps for the run, so that images which share one fetch it once;
//! threads that want the same one wait for the first.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

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

/// The bytes of documents that all registries of a run keep together, and where they keep them.
#[derive(Default)]
pub(crate) struct Allowance {
    bytes: Mutex<u64>,
    caches: Mutex<Vec<Weak<Mutex<Kept>>>>,
}

impl Allowance {
    /// Takes `bytes`, if there are so many left.
    fn take(&self, bytes: u64) -> bool {
        let mut kept = lock(&self.bytes);
        let fits = kept.saturating_add(bytes) <= MAX_KEPT;
        if fits {
            *kept += bytes;
        }
        fits
    }

    /// Gives `bytes` back.
    fn give_back(&self, bytes: u64) {
        let mut kept = lock(&self.bytes);
        *kept = kept.saturating_sub(bytes);
    }

    /// Lets all registries let go of their documents: who fills the allowance first must not keep
    /// it from the others.
    fn make_room(&self) {
        for cache in lock(&self.caches).iter().filter_map(Weak::upgrade) {
            self.let_go(&cache);
        }
    }

    fn let_go(&self, kept: &Mutex<Kept>) {
        // A document that is in use elsewhere lives on there.
        let gone = std::mem::take(&mut *lock(kept));
        self.give_back(gone.bytes);
    }
}

/// The place of one document. The thread that fetches the document holds the lock.
pub(crate) type Slot = Arc<Mutex<Option<Arc<Document>>>>;

/// The documents of one registry, by digest.
pub(crate) struct Cache {
    allowance: Arc<Allowance>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
pub(crate) struct Kept {
    slots: HashMap<BlobDigest, Slot>,
    /// The part of the allowance that the documents here take.
    bytes: u64,
}

impl Cache {
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        let kept = Arc::default();
        lock(&allowance.caches).push(Arc::downgrade(&kept));
        Self { allowance, kept }
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
        let mut fits = self.allowance.take(bytes);
        if !fits && bytes <= MAX_KEPT {
            self.allowance.make_room();
            fits = self.allowance.take(bytes);
        }
        if fits {
            let mut kept = lock(&self.kept);
            kept.bytes += bytes;
            kept.slots.insert(document.digest.clone(), Arc::clone(slot));
            **place = Some(Arc::clone(document));
        }
    }

    /// Keeps nothing any more.
    pub(crate) fn clear(&self) {
        self.allowance.let_go(&self.kept);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;

    fn document(of: u8, bytes: usize) -> Arc<Document> {
        let bytes = vec![of; bytes];
        let digest = BlobDigest::of(Algorithm::Sha256, &bytes);
        Arc::new(Document { digest, bytes, media_type: None, host: String::new(), unvouched: false })
    }

    fn keeps(cache: &Cache, document: &Document) -> bool {
        lock(&cache.slot(&document.digest)).is_some()
    }

    #[test]
    fn a_registry_that_fills_the_allowance_does_not_keep_it_from_others() {
        let allowance = Arc::new(Allowance::default());
        let (first, second) = (Cache::new(Arc::clone(&allowance)), Cache::new(Arc::clone(&allowance)));
        let (large, small) = (document(1, usize::try_from(MAX_KEPT).unwrap()), document(2, 10));
        first.remember(&large);
        assert!(keeps(&first, &large));
        second.remember(&small);
        assert!(keeps(&second, &small) && !keeps(&first, &large));
        // Nothing of what is gone counts any more, and who could never fit drives nobody out.
        first.remember(&document(3, usize::try_from(MAX_KEPT).unwrap() + 1));
        assert!(keeps(&second, &small));
        assert_eq!(*lock(&allowance.bytes), 10);
        second.clear();
        assert!(!keeps(&second, &small));
        assert_eq!(*lock(&allowance.bytes), 0);
    }
}
