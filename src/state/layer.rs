//! Layers: what manifests and configs say of them, and what is found in the store.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::digest::{BlobDigest, DiffId};

/// The media type of a layer. Nearly all layers have one of a few, which take no memory of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

/// The media types that registries serve: the [image spec's][oci] and [Docker's][docker].
///
/// [oci]: https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md
/// [docker]: https://github.com/distribution/distribution/blob/v2.8.3/docs/spec/manifest-v2-2.md
const USUAL_MEDIA_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

impl MediaType {
    /// Where none is known.
    pub const UNKNOWN: Self = Self(Cow::Borrowed(""));

    /// As a manifest writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MediaType {
    fn from(text: &str) -> Self {
        let usual = USUAL_MEDIA_TYPES.into_iter().find(|&usual| usual == text);
        Self(usual.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed))
    }
}

/// One layer of an image, in the words of its manifest and config.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LayerDescriptor {
    /// Digest of the compressed blob; names the directory.
    pub digest: BlobDigest,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// As the manifest says; what the bytes are decides.
    pub media_type: MediaType,
    /// Bytes of the compressed blob.
    pub size: u64,
}

/// Bytes of `layers` as fetched, each distinct one once.
pub fn size_of_layers(layers: &[LayerDescriptor]) -> u64 {
    let mut seen = BTreeSet::new();
    let distinct = layers.iter().filter(|layer| seen.insert(&layer.digest));
    distinct.fold(0, |sum, layer| sum.saturating_add(layer.size))
}

/// What is known of a layer's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Extracted, verified, under its final name.
    Complete,
    /// No directory.
    Missing,
    /// A directory with an inventory that is of another one (copied, put back from a backup, or made anew): complete once
    /// its content has been compared with the inventory.
    Unbound,
    /// A directory that msb-sync did not finish (another tool's, or tampered with): to be replaced.
    Untrusted,
}

impl LayerState {
    /// Whether the layer need not be fetched, as far as is known before it is compared with its inventory.
    pub fn is_here(self) -> bool {
        matches!(self, Self::Complete | Self::Unbound)
    }
}

/// What the blob of a complete layer was found to be when it was extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of the compressed blob.
    pub size: u64,
}
