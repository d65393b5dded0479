//! An image whose reference was resolved: all that its registry says of it but the layers' bytes,
//! verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::layer::{LayerDescriptor, size_of_layers};
use super::platform::Platform;
use crate::digest::{Algorithm, BlobDigest};
use crate::image_ref::ImageRef;

/// Everything that a reference means for a platform but the layers' bytes, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference that was asked for.
    pub reference: ImageRef,
    /// The platform that was asked for.
    pub platform: Platform,
    /// The digest that the tag means: the index's where there is one, else the manifest's.
    pub digest: BlobDigest,
    /// The outermost index, where there is one.
    pub index: Option<DocumentRecord>,
    /// The platform's manifest.
    pub manifest: DocumentRecord,
    /// The image's config.
    pub config: ConfigRecord,
    /// The layers, base first; a layer may occur twice.
    pub layers: Arc<[LayerDescriptor]>,
}

impl ResolvedImage {
    /// Sums up the bytes of the layers as fetched, each distinct one once.
    pub fn size(&self) -> u64 {
        size_of_layers(&self.layers)
    }
}

/// An index or a manifest, as far as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentRecord {
    /// The digest of the document.
    pub digest: BlobDigest,
    /// The media type of the document.
    pub media_type: String,
    /// The annotations of the document as a JSON object of strings; `None` if there are none, or
    /// too many to be recorded.
    pub annotations_json: Option<String>,
}

/// An image's config, as far as it is recorded; the catalog keeps it in this form. Lists are `None`
/// where the config has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// The digest of the config: no part of the kept form, whose reader sets it.
    #[serde(skip, default = "ConfigRecord::no_digest")]
    pub digest: BlobDigest,
    /// The media type of the config.
    pub media_type: String,
    /// The time when the image was made, RFC 3339; `None` where the config says nothing usable.
    pub created: Option<String>,
    /// The architecture.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The variant of the architecture.
    pub variant: Option<String>,
    /// The environment as `KEY=value` pairs.
    pub env: Option<Vec<String>>,
    /// The default arguments.
    pub cmd: Option<Vec<String>>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The program.
    pub entrypoint: Option<Vec<String>>,
    /// The mount points, sorted.
    pub volumes: Option<Vec<String>>,
    /// The ports, as `80/tcp`, sorted.
    pub exposed_ports: Option<Vec<String>>,
    /// The user, `uid[:gid]` or names.
    pub user: Option<String>,
    /// The signal that stops the program.
    pub stop_signal: Option<String>,
    /// The labels.
    pub labels: Labels,
    /// The type of the root file system: `layers`.
    pub rootfs_type: String,
    /// The config's `history` array as JSON text, if it has one.
    pub history_json: Option<String>,
}

/// The labels of a config, as text: a run holds those of all its images, and a map of very many
/// short ones would be several times as large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// A JSON object of strings.
    json: String,
}

impl Labels {
    /// Writes `labels` down.
    pub fn new(labels: &BTreeMap<String, String>) -> Self {
        // A map of strings always has a JSON form.
        Self { json: serde_json::to_string(labels).unwrap_or_default() }
    }

    /// Returns the labels one by one.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::new(&BTreeMap::new())
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json: &RawValue = serde_json::from_str(&self.json).map_err(S::Error::custom)?;
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|labels| Self::new(&labels))
    }
}

impl ConfigRecord {
    /// The digest of no bytes, where the config's own is not known.
    pub fn no_digest() -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, b"")
    }
}
