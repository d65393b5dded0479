//! The blobs that a plan fetches, and what images say of them.
//!
//! A blob is fetched once, whatever number of images needs it, and not at all where it is kept.
//! An image is believed only as far as the blob itself agrees: where two images
//! contradict each other, each is judged by what was fetched.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    // Shared with the image: a plan may have a hundred thousand layers.
    layers: Arc<[LayerDescriptor]>,
    place: usize,
    /// The images, sorted.
    pub images: Vec<ImageRef>,
}

impl Claim {
    /// The layer in these images' words.
    pub fn layer(&self) -> &LayerDescriptor {
        &self.layers[self.place]
    }
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
        self.claims.first().map_or(0, |claim| claim.layer().size)
    }

    /// The bytes to fetch: none where the blob is kept.
    pub fn download_size(&self) -> u64 {
        if self.is_kept { 0 } else { self.size() }
    }
}

/// One layer of one image that makes work.
struct Wanted<'p> {
    image: &'p PlannedImage,
    place: usize,
    need: Need,
}

impl<'p> Wanted<'p> {
    fn layer(&self) -> &'p LayerDescriptor {
        &self.image.layers[self.place]
    }

    /// Adds the words to the `claims` about a blob.
    fn join(&self, claims: &mut Vec<Claim>) {
        let (image, place) = (self.image, self.place);
        match claims.last_mut() {
            Some(last) if words(last.layer()) == words(self.layer()) => {
                if last.images.last() != Some(&image.reference) {
                    last.images.push(image.reference.clone());
                }
            }
            _ => {
                let images = vec![image.reference.clone()];
                claims.push(Claim { layers: Arc::clone(&image.layers), place, images });
            }
        }
    }
}

/// The words that make a claim; those about one blob are neighbours.
fn words(layer: &LayerDescriptor) -> (&BlobDigest, u64, &DiffId) {
    (&layer.digest, layer.size, &layer.diff_id)
}

/// Plans the fetches for all `images` of which something can be done, the biggest first.
pub(super) fn plan_fetches(desired: &Desired, images: &[PlannedImage], observed: &Observed) -> Vec<Fetch> {
    let mut wanted = Vec::new();
    for image in images.iter().filter(|image| image.rows_error().is_none()) {
        for (place, layer) in image.layers.iter().enumerate() {
            let need = Need::of(desired, image.needs_blobs, layer, observed);
            wanted.extend(need.map(|need| Wanted { image, place, need }));
        }
    }
    // Sorts that are stable take as much memory again. The images of a claim stay sorted.
    wanted.sort_unstable_by(|a, b| {
        let images = || (&a.image.reference, a.place).cmp(&(&b.image.reference, b.place));
        words(a.layer()).cmp(&words(b.layer())).then_with(images)
    });
    let of_one_blob = |a: &Wanted<'_>, b: &Wanted<'_>| a.layer().digest == b.layer().digest;
    let mut fetches = Vec::with_capacity(wanted.chunk_by(of_one_blob).count());
    for same in wanted.chunk_by(of_one_blob) {
        // Mostly one, and room for no more.
        let mut claims = Vec::with_capacity(1);
        for wanted in same {
            wanted.join(&mut claims);
        }
        fetches.push(Fetch {
            digest: same[0].layer().digest.clone(),
            claims,
            extract: same.iter().any(|wanted| wanted.need.extract),
            keep: same.iter().any(|wanted| wanted.need.keep),
            is_kept: same[0].need.is_kept,
        });
    }
    // The last big layer decides when a run ends: start it first.
    fetches.sort_unstable_by(|a, b| b.size().cmp(&a.size()).then_with(|| a.digest.cmp(&b.digest)));
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
