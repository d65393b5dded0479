//! An image as a lockfile fixes it.

use std::sync::Arc;

use super::layer::LayerDescriptor;
use super::media_type::MediaType;
use super::platform::Platform;
use super::resolved::ResolvedImage;
use crate::digest::BlobDigest;
use crate::error::printable;
use crate::image_ref::ImageRef;

/// The longest signer that is noted, in characters.
const MAX_SIGNER: usize = 300;

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
    /// The signer, for those who review the lockfile: nobody goes by it, each machine checks.
    pub signed_by: Option<String>,
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
            signed_by: None,
        }
    }

    /// Notes who signed the image, in plain text of one line.
    #[must_use]
    pub fn with_signer(self, by: Option<&str>) -> Self {
        let signed_by = by.map(|by| printable(&by.chars().take(MAX_SIGNER).collect::<String>()));
        Self { signed_by, ..self }
    }
}
