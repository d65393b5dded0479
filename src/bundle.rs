//! Bundles: image layouts and archives of the original bytes, as other engines and machines read
//! them.
//!
//! A pure room: bytes come and go by `Read` and `Write`. [`index_json`] says which images a bundle
//! has, and [`ArchiveWriter`] writes one as a tar. The same images give the same bytes: the order
//! is fixed, times and owners are 0.
//!
//! Sources: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>,
//! <https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md>,
//! <https://github.com/moby/docker-image-spec/blob/v1.3.1/v1.2.md> (`manifest.json`)

mod archive;
mod index;
mod signature;

pub(crate) use archive::ArchiveWriter;
pub(crate) use index::{docker_json, index_json, lists_all};
pub(crate) use signature::signature_blobs;

use std::collections::BTreeSet;

use crate::digest::BlobDigest;
use crate::state::{DocumentDescriptor, LayerDescriptor, Platform};

/// The marker file of a layout, and its content.
pub(crate) const MARKER: &str = "oci-layout";
/// The content of [`MARKER`].
pub(crate) const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The index of a layout.
pub(crate) const INDEX: &str = "index.json";

/// One image of a bundle.
#[derive(Clone, Debug)]
pub(crate) struct BundleImage {
    /// The references under which the bundle lists the image, in the full form.
    pub(crate) names: Vec<String>,
    /// The platform of the image.
    pub(crate) platform: Option<Platform>,
    /// The documents on the way from the reference to the layers, top first.
    pub(crate) documents: Vec<DocumentDescriptor>,
    /// The layers, base first.
    pub(crate) layers: Vec<BlobDigest>,
    /// The manifests of the signatures that travel with the image, sorted.
    pub(crate) signatures: BTreeSet<BlobDigest>,
}

impl BundleImage {
    /// Makes the entry of an image under `names`.
    pub(crate) fn new(
        names: Vec<String>,
        platform: Option<Platform>,
        documents: &[DocumentDescriptor],
        layers: &[LayerDescriptor],
    ) -> Self {
        let layers = layers.iter().map(|layer| layer.digest.clone()).collect();
        Self { names, platform, documents: documents.to_vec(), layers, signatures: BTreeSet::new() }
    }

    /// Lets `signatures` travel with the image: the digests of their manifests.
    pub(crate) fn signed_by(self, signatures: BTreeSet<BlobDigest>) -> Self {
        Self { signatures, ..self }
    }
}

/// The form of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// True if descriptors lead to the original index, where there is one, instead of straight to
    /// the platform's manifest.
    pub(crate) index: bool,
    /// True if a `manifest.json` is added, for docker's classic image store.
    pub(crate) docker: bool,
}

/// The path of a blob in a layout.
pub(crate) fn blob_path(digest: &BlobDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.text().hex())
}

#[cfg(test)]
mod tests;
