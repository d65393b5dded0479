//! Layers: the words of manifests and configs about them, and their state in the store.

use std::collections::BTreeSet;

use serde::Serialize;

use super::media_type::MediaType;
use crate::digest::{BlobDigest, DiffId};

/// One layer of an image, in the words of its manifest and config.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LayerDescriptor {
    /// The digest of the compressed blob; names the directory.
    pub digest: BlobDigest,
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The manifest's word; the bytes themselves decide.
    pub media_type: MediaType,
    /// The bytes of the compressed blob.
    pub size: u64,
}

/// Sums up the bytes of `layers` as fetched, each distinct one once.
pub fn size_of_layers(layers: &[LayerDescriptor]) -> u64 {
    let mut seen = BTreeSet::new();
    let distinct = layers.iter().filter(|layer| seen.insert(&layer.digest));
    distinct.fold(0, |sum, layer| sum.saturating_add(layer.size))
}

/// The state of a layer's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// The layer is extracted, verified, and has its final name.
    Complete,
    /// There is no directory.
    Missing,
    /// The directory's inventory is of another one (copied, put back from a backup, or made anew):
    /// the layer is complete once its content has been compared with the inventory.
    Unbound,
    /// The directory is none that msb-sync finished (another tool's, or tampered with), and is to
    /// be replaced.
    Untrusted,
}

impl LayerState {
    /// True if the layer need not be fetched, as far as is known before the comparison with its
    /// inventory.
    pub fn is_here(self) -> bool {
        matches!(self, Self::Complete | Self::Unbound)
    }
}

/// The facts about the blob of a complete layer, found out when it was extracted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The bytes of the compressed blob.
    pub size: u64,
}
