//! The blobs that a plan fetches, and what images say of them.
//!
//! A blob is fetched once, whatever number of images needs it, and not at all where it is kept.
//! An image is believed only as far as the blob itself agrees: where two images
//! contradict each other, each is judged by what was fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::image::PlannedImage;
use super::need::Need;
use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::ImageRef;
use crate::state::{Desired, DocumentDescriptor, LayerDescriptor, Observed};

/// The blob of one layer, to be fetched or taken from the kept ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    // Honest images agree, so there is one claim, which needs no memory of its own: a plan may have
    // a hundred thousand layers.
    first: Claim,
    others: Vec<Claim>,
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
    // Shared with the image, and between its claims.
    layers: Arc<[LayerDescriptor]>,
    place: u32,
    /// The images, sorted; never none.
    pub images: Arc<[ImageRef]>,
}

impl Claim {
    /// The layer in these images' words.
    pub fn layer(&self) -> &LayerDescriptor {
        &self.layers[self.place as usize]
    }

    /// Leaves out `images`; `None` where no other one says so.
    fn without(mut self, images: &BTreeSet<ImageRef>) -> Option<Self> {
        if self.images.iter().any(|image| images.contains(image)) {
            self.images = self.images.iter().filter(|image| !images.contains(image)).cloned().collect();
        }
        if self.images.is_empty() { None } else { Some(self) }
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
    /// The digest of the blob.
    pub fn digest(&self) -> &BlobDigest {
        &self.first.layer().digest
    }

    /// The claims of the images that need the blob. Where images do not agree, each claim is judged
    /// by itself.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The bytes of the blob, by the first claim.
    pub fn size(&self) -> u64 {
        self.first.layer().size
    }

    /// The bytes to fetch: none where the blob is kept.
    pub fn download_size(&self) -> u64 {
        if self.is_kept { 0 } else { self.size() }
    }

    /// Leaves out the claims of `images`; `None` where no other one needs the blob.
    pub(super) fn without(self, images: &BTreeSet<ImageRef>) -> Option<Self> {
        let Self { first, others, extract, keep, is_kept } = self;
        let claims = std::iter::once(first).chain(others);
        let mut claims = claims.filter_map(|claim| claim.without(images));
        Some(Self { first: claims.next()?, others: claims.collect(), extract, keep, is_kept })
    }
}

/// One layer of one image that makes work, by their places.
struct Wanted {
    image: u32,
    place: u32,
    need: Need,
}

impl Wanted {
    fn image<'p>(&self, images: &'p [PlannedImage]) -> &'p PlannedImage {
        &images[self.image as usize]
    }

    fn layer<'p>(&self, images: &'p [PlannedImage]) -> &'p LayerDescriptor {
        &self.image(images).layers[self.place as usize]
    }
}

/// The words that make a claim; those about one blob are neighbours.
fn words(layer: &LayerDescriptor) -> (&BlobDigest, u64, &DiffId) {
    (&layer.digest, layer.size, &layer.diff_id)
}

/// Plans the fetches for all `images` of which something can be done, the biggest first. The images
/// are sorted by reference, and so are those of a claim.
pub(super) fn plan_fetches(desired: &Desired, images: &[PlannedImage], observed: &Observed) -> Vec<Fetch> {
    let mut wanted = Vec::with_capacity(images.iter().map(|image| image.layers.len()).sum());
    for (number, image) in (0..).zip(images) {
        if image.rows_error().is_some() {
            continue;
        }
        for (place, layer) in (0..).zip(&*image.layers) {
            let need = Need::of(desired, image.needs_blobs, layer, observed);
            wanted.extend(need.map(|need| Wanted { image: number, place, need }));
        }
    }
    let layer = |wanted: &Wanted| wanted.layer(images);
    // Sorts that are stable take as much memory again.
    wanted.sort_unstable_by(|a, b| {
        words(layer(a)).cmp(&words(layer(b))).then_with(|| (a.image, a.place).cmp(&(b.image, b.place)))
    });
    let alone: Vec<Arc<[ImageRef]>> = images.iter().map(|image| [image.reference.clone()].into()).collect();
    let claim = |same: &[Wanted]| {
        let (first, last) = (&same[0], &same[same.len() - 1]);
        let of_claim = || {
            let mut all: Vec<ImageRef> = same.iter().map(|it| it.image(images).reference.clone()).collect();
            all.dedup();
            all.into()
        };
        let images_of =
            if first.image == last.image { Arc::clone(&alone[first.image as usize]) } else { of_claim() };
        Claim { layers: Arc::clone(&first.image(images).layers), place: first.place, images: images_of }
    };
    let of_one_blob = |a: &Wanted, b: &Wanted| layer(a).digest == layer(b).digest;
    let mut fetches = Vec::with_capacity(wanted.chunk_by(of_one_blob).count());
    for same in wanted.chunk_by(of_one_blob) {
        let mut claims = same.chunk_by(|a, b| words(layer(a)) == words(layer(b))).map(claim);
        let Some(first) = claims.next() else { continue };
        fetches.push(Fetch {
            first,
            others: claims.collect(),
            extract: same.iter().any(|wanted| wanted.need.extract),
            keep: same.iter().any(|wanted| wanted.need.keep),
            is_kept: same[0].need.is_kept,
        });
    }
    // The last big layer decides when a run ends: start it first.
    fetches.sort_unstable_by(|a, b| b.size().cmp(&a.size()).then_with(|| a.digest().cmp(b.digest())));
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
