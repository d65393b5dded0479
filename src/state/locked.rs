//! An image as a lockfile fixes it.

use std::sync::Arc;

use super::layer::{LayerDescriptor, MediaType};
use super::platform::Platform;
use super::resolved::ResolvedImage;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// The meaning of a reference for a platform, by the lockfile's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedImage {
    /// The reference.
    pub reference: ImageRef,
    /// The platform.
    pub platform: Platform,
    /// The digest that the tag meant: the index's where there is one, else the manifest's.
    pub digest: BlobDigest,
    /// The digest of the platform's manifest.
    pub manifest: BlobDigest,
    /// The layers, base first, without their media types, which no lockfile has.
    pub layers: Arc<[LayerDescriptor]>,
}

impl LockedImage {
    /// Takes from `image` everything that a lockfile keeps.
    pub fn of(image: &ResolvedImage) -> Self {
        let layers = image.layers.iter();
        Self {
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            digest: image.digest.clone(),
            manifest: image.manifest.digest.clone(),
            layers: layers
                .map(|layer| LayerDescriptor { media_type: MediaType::UNKNOWN, ..layer.clone() })
                .collect(),
        }
    }
}
