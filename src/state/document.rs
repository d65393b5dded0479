//! The documents of an image: indexes, manifest and config, as files with digests.

use super::media_type::MediaType;
use crate::digest::BlobDigest;

/// One document on the way from what a tag means to the layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DocumentDescriptor {
    /// The role of the document.
    pub role: DocumentRole,
    /// The digest of its bytes.
    pub digest: BlobDigest,
    /// The media type, as its manifest, index or server says.
    pub media_type: MediaType,
    /// The number of its bytes.
    pub size: u64,
}

/// The role of a document in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentRole {
    /// An index, or Docker's manifest list.
    Index,
    /// The platform's manifest.
    Manifest,
    /// The config.
    Config,
}

impl DocumentRole {
    /// The word for the role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Config => "config",
        }
    }
}
