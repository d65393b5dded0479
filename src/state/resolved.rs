//! An image whose reference was resolved: all that its registry says of it but the layers' bytes,
//! verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::document::DocumentDescriptor;
use super::layer::{LayerDescriptor, size_of_layers};
use super::media_type::MediaType;
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
    /// The documents on the way from the tag to the layers, top first: the index and those nested
    /// in it that lead to the manifest, the manifest, the config.
    pub documents: Arc<[DocumentDescriptor]>,
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
    pub media_type: MediaType,
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
    pub media_type: MediaType,
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

/// The labels of a config, in one piece: a run holds those of all its images, and a map of very
/// many short ones would be several times as large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// All names and values, in the order of the names.
    text: String,
    /// The end of each name and of each value in the text.
    ends: Vec<(u32, u32)>,
}

impl Labels {
    /// Writes `labels` down, as far as 4 GiB of text go.
    pub fn new(labels: &BTreeMap<String, String>) -> Self {
        let mut all = Self::default();
        for (name, value) in labels {
            let name_end = all.text.len() + name.len();
            let ends = (u32::try_from(name_end), u32::try_from(name_end + value.len()));
            let (Ok(name_end), Ok(value_end)) = ends else { break };
            all.text.push_str(name);
            all.text.push_str(value);
            all.ends.push((name_end, value_end));
        }
        all.text.shrink_to_fit();
        all.ends.shrink_to_fit();
        all
    }

    /// Lists names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(name_end, value_end)| {
            let (name_end, value_end) = (*name_end as usize, *value_end as usize);
            let label = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            label
        })
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
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
