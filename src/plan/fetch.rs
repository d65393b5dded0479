//! The blobs that a plan fetches, and what images say of them.
//!
//! A blob is fetched once, whatever number of images needs it, and not at all where it is kept.
//! An image is believed only as far as the blob itself agrees: where two images
//! contradict each other, each is judged by what was fetched.

use std::collections::BTreeMap;

use super::image::PlannedImage;
use super::need::Need;
use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::ImageRef;
use crate::state::{Desired, DocumentDescriptor, LayerDescriptor, Observed};

/// The blob of one layer, to be fetched or taken from the kept ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The digest of the blob.
    pub digest: BlobDigest,
    /// The claims of the images that need the blob. Honest images agree, so there is one claim;
    /// where images do not, each claim is judged by itself.
    pub claims: Vec<Claim>,
    /// True if the layer is to be extracted.
    pub extract: bool,
    /// True if the blob is to be kept as it is fetched.
    pub keep: bool,
    /// True if the blob is kept already, so that no registry is asked.
    pub is_kept: bool,
}

/// The words in which some images describe a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The layer in these images' words.
    pub layer: LayerDescriptor,
    /// The images, sorted.
    pub images: Vec<ImageRef>,
}

/// A document that is to be kept as it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFetch {
    /// The document.
    pub document: DocumentDescriptor,
    /// The images that need it, sorted.
    pub images: Vec<ImageRef>,
}

impl Fetch {
    /// The bytes of the blob, by the first claim.
    pub fn size(&self) -> u64 {
        self.claims.first().map_or(0, |claim| claim.layer.size)
    }

    /// The bytes to fetch: none where the blob is kept.
    pub fn download_size(&self) -> u64 {
        if self.is_kept { 0 } else { self.size() }
    }
}

/// Plans the fetches for all `images` of which something can be done, the biggest first.
pub(super) fn plan_fetches(desired: &Desired, images: &[PlannedImage], observed: &Observed) -> Vec<Fetch> {
    let mut claims: BTreeMap<(&BlobDigest, u64, &DiffId), (Claim, Need)> = BTreeMap::new();
    for image in images.iter().filter(|image| image.rows_error().is_none()) {
        for layer in &*image.layers {
            let Some(need) = Need::of(desired, image.needs_blobs, layer, observed) else { continue };
            let (claim, known) = claims
                .entry((&layer.digest, layer.size, &layer.diff_id))
                .or_insert_with(|| (Claim { layer: layer.clone(), images: Vec::new() }, need));
            known.keep |= need.keep;
            known.extract |= need.extract;
            if claim.images.last() != Some(&image.reference) {
                claim.images.push(image.reference.clone());
            }
        }
    }
    let mut fetches: Vec<Fetch> = Vec::new();
    for ((digest, _, _), (claim, Need { extract, keep, is_kept })) in claims {
        match fetches.last_mut() {
            Some(fetch) if fetch.digest == *digest => {
                fetch.claims.push(claim);
                fetch.extract |= extract;
                fetch.keep |= keep;
            }
            _ => fetches.push(Fetch { digest: digest.clone(), claims: vec![claim], extract, keep, is_kept }),
        }
    }
    // The last big layer decides when a run ends: start it first. (A stable sort: ties stay by
    // digest.)
    fetches.sort_by_key(|fetch| std::cmp::Reverse(fetch.size()));
    fetches
}

/// Plans the documents that `images` need kept and that are not, sorted by digest.
pub(super) fn plan_documents(images: &[PlannedImage], observed: &Observed) -> Vec<DocumentFetch> {
    let mut documents: BTreeMap<&BlobDigest, DocumentFetch> = BTreeMap::new();
    for image in images.iter().filter(|image| image.needs_blobs) {
        for document in image.documents.iter().filter(|document| !observed.blobs.contains(&document.digest)) {
            let fetch = documents
                .entry(&document.digest)
                .or_insert_with(|| DocumentFetch { document: document.clone(), images: Vec::new() });
            if fetch.images.last() != Some(&image.reference) {
                fetch.images.push(image.reference.clone());
            }
        }
    }
    documents.into_values().collect()
}
