//! The blobs that a plan fetches, and what images say of them.
//!
//! A blob is fetched once, whatever number of images needs it. What images say of a blob is
//! believed only as far as the blob itself agrees: where two images contradict each other, each is
//! judged by what was fetched.

use std::collections::BTreeMap;

use super::image::PlannedImage;
use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::ImageRef;
use crate::state::{Action, LayerDescriptor, Observed};

/// One blob to fetch and extract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The digest of the blob.
    pub digest: BlobDigest,
    /// The claims of the images that need the blob. Honest images agree, so there is one claim;
    /// where images do not, each claim is judged by itself.
    pub claims: Vec<Claim>,
}

/// The words in which some images describe a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The layer in these images' words.
    pub layer: LayerDescriptor,
    /// The images, sorted.
    pub images: Vec<ImageRef>,
}

impl Fetch {
    /// The bytes to fetch, by the first claim.
    pub fn size(&self) -> u64 {
        self.claims.first().map_or(0, |claim| claim.layer.size)
    }
}

/// Plans the fetches for all `images` that are not blocked, the biggest first.
pub(super) fn plan_fetches(images: &[PlannedImage], observed: &Observed) -> Vec<Fetch> {
    let mut claims: BTreeMap<(&BlobDigest, u64, &DiffId), Claim> = BTreeMap::new();
    for image in images.iter().filter(|image| image.action != Action::Blocked) {
        for layer in &*image.layers {
            if observed.layers.get(&layer.digest).is_some_and(|state| state.is_here()) {
                continue;
            }
            let claim = claims
                .entry((&layer.digest, layer.size, &layer.diff_id))
                .or_insert_with(|| Claim { layer: layer.clone(), images: Vec::new() });
            if claim.images.last() != Some(&image.reference) {
                claim.images.push(image.reference.clone());
            }
        }
    }
    let mut fetches: Vec<Fetch> = Vec::new();
    for ((digest, _, _), claim) in claims {
        match fetches.last_mut() {
            Some(fetch) if fetch.digest == *digest => fetch.claims.push(claim),
            _ => fetches.push(Fetch { digest: digest.clone(), claims: vec![claim] }),
        }
    }
    // The last big layer decides when a run ends: start it first. (A stable sort: ties stay by
    // digest.)
    fetches.sort_by_key(|fetch| std::cmp::Reverse(fetch.size()));
    fetches
}
