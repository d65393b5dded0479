//! An OCI image layout directory instead of a server: no network at all.
//!
//! Images are found in `index.json` by `org.opencontainers.image.ref.name` (the full form, `repository:tag` or the
//! tag, the longest that fits; docker.io's `library/` may be left out) or by digest. Only regular files are read, and all is verified as if it came from a
//! server.
//!
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::Lookup;
use super::blob::{BlobReader, Source};
use super::documents::{Document, Entry, For, Index, OCI_INDEX, Parsed, parse};
use super::failure::printable;
use super::platforms::rank;
use super::resolve::{Documents, Role, assemble, verify};
use crate::digest::{BlobDigest, ContentMismatch};
use crate::error::RegistryError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::state::{LayerDescriptor, Platform};
use crate::sys;

const REF_NAME: &str = oci_spec::image::ANNOTATION_REF_NAME;
/// containerd puts the full name here, and only the tag into [`REF_NAME`].
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Names that an error lists.
const MAX_NAMES: usize = 10;

pub(super) struct Layout {
    path: PathBuf,
    /// Bytes of one document.
    limit: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    pub(super) fn new(path: PathBuf, limit: u64) -> Self {
        Self { path, limit }
    }

    /// See [`super::Registries::resolve`].
    pub(super) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        let index = self.index()?;
        let (digest, size, media_type) = if let Some(digest) = reference.digest() {
            let entry = index.entries.iter().find(|entry| entry.digest_text() == digest.as_str());
            (digest.clone(), None, entry.and_then(Entry::media_type))
        } else {
            let entry = self.named(&index, reference, platform)?;
            let descriptor = entry.descriptor().map_err(|reason| self.error("read index.json", reason))?;
            (descriptor.digest, Some(descriptor.size), entry.media_type())
        };
        if known == Some(&digest) {
            return Ok(Lookup::Same);
        }
        let top = self.read(Role::Manifest, &digest, size, media_type.map(str::to_owned))?;
        Ok(Lookup::Image(Box::new(assemble(self, reference, platform, top)?)))
    }

    /// The tags of `reference`'s repository.
    pub(super) fn tags(&self, reference: &ImageRef) -> Result<Vec<String>, RegistryError> {
        let mut tags = BTreeSet::new();
        let repositories = repositories(reference);
        for entry in &self.index()?.entries {
            for name in [REF_NAME, CONTAINERD_NAME].into_iter().filter_map(|name| entry.annotation(name)) {
                let tag = match name.rsplit_once(':') {
                    Some((repository, tag)) if !tag.contains('/') => {
                        let registry = format!("{}/", reference.registry());
                        let bare = repository.strip_prefix(registry.as_str()).unwrap_or(repository);
                        if !repositories.contains(&bare) {
                            continue;
                        }
                        tag
                    }
                    _ => name,
                };
                if reference.with_tag(tag).is_ok() {
                    tags.insert(tag.to_owned());
                }
            }
        }
        Ok(tags.into_iter().collect())
    }

    /// See [`super::Registries::blob`].
    pub(super) fn blob(&self, layer: &LayerDescriptor, offset: u64) -> Result<BlobReader, RegistryError> {
        let path = self.blob_path(&layer.digest);
        let (mut file, size) = self.open("read a layer", &path)?;
        if size != layer.size {
            let (digest, expected) = (layer.digest.clone(), layer.size);
            let source = if size < expected {
                ContentMismatch::TooShort { digest, expected, actual: size }
            } else {
                ContentMismatch::TooLong { digest, expected }
            };
            return Err(RegistryError::Mismatch {
                what: format!("layer {}", layer.digest),
                host: self.host(),
                source,
            });
        }
        let offset = offset.min(size);
        file.seek(SeekFrom::Start(offset)).map_err(|error| self.error("read a layer", error.to_string()))?;
        Ok(BlobReader(Source::File(file.take(size - offset))))
    }

    fn host(&self) -> String {
        self.path.display().to_string()
    }

    fn error(&self, doing: &str, reason: impl Into<String>) -> RegistryError {
        RegistryError::Layout { doing: doing.to_owned(), path: self.path.clone(), reason: reason.into() }
    }

    fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Opens a regular file, and tells its size.
    fn open(&self, doing: &str, path: &Path) -> Result<(File, u64), RegistryError> {
        let shown = path.strip_prefix(&self.path).unwrap_or(path).display();
        let opened = sys::open_regular(path).and_then(|file| {
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        opened.map_err(|error| self.error(doing, format!("{shown}: {error}")))
    }

    fn bytes(&self, doing: &str, path: &Path) -> Result<Vec<u8>, RegistryError> {
        let (file, _) = self.open(doing, path)?;
        let shown = path.strip_prefix(&self.path).unwrap_or(path).display();
        let mut bytes = Vec::new();
        file.take(self.limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.error(doing, format!("{shown}: {error}")))?;
        if bytes.len() as u64 > self.limit {
            let (what, host) = (shown.to_string(), self.host());
            return Err(RegistryError::TooLarge { what, host, limit: self.limit });
        }
        Ok(bytes)
    }

    fn index(&self) -> Result<Index, RegistryError> {
        let marker = self.bytes("read oci-layout", &self.path.join("oci-layout"))?;
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|error| self.error("read oci-layout", printable(&error.to_string(), 200)))?;
        if !marker.image_layout_version.starts_with("1.") {
            let version = printable(&marker.image_layout_version, 40);
            return Err(self.error("read oci-layout", format!("its version {version} is not 1.0.0")));
        }
        let bytes = self.bytes("read index.json", &self.path.join("index.json"))?;
        match parse(&bytes, Some(OCI_INDEX)) {
            Ok(Parsed::Index(index)) => Ok(index),
            Ok(Parsed::Manifest(_)) => Err(self.error("read index.json", "it is no index")),
            Err(reason) => Err(self.error("read index.json", reason)),
        }
    }

    /// The entry that `reference` names.
    fn named<'a>(
        &self,
        index: &'a Index,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<&'a Entry, RegistryError> {
        let tag = reference.tag().unwrap_or("latest");
        let repositories = repositories(reference);
        let short: Vec<String> =
            repositories.iter().map(|repository| format!("{repository}:{tag}")).collect();
        let full: Vec<String> = short.iter().map(|name| format!("{}/{name}", reference.registry())).collect();
        let fits = |names: &[String], annotation: &str| -> Vec<&'a Entry> {
            let named = |entry: &&Entry| {
                entry.annotation(annotation).is_some_and(|name| names.iter().any(|other| other == name))
            };
            index.entries.iter().filter(named).collect()
        };
        let candidates = [
            fits(&full, REF_NAME),
            fits(&full, CONTAINERD_NAME),
            fits(&short, REF_NAME),
            fits(&[tag.to_owned()], REF_NAME),
        ];
        let doing = format!("find {}:{tag}", reference.repository());
        let Some(entries) = candidates.into_iter().find(|entries| !entries.is_empty()) else {
            let names: BTreeSet<String> = index
                .entries
                .iter()
                .filter_map(|entry| entry.annotation(REF_NAME))
                .map(|name| printable(name, 100))
                .take(MAX_NAMES)
                .collect();
            let there = if names.is_empty() {
                format!("index.json names nothing by {REF_NAME}")
            } else {
                format!("index.json names only {}", names.into_iter().collect::<Vec<_>>().join(", "))
            };
            return Err(self.error(&doing, there));
        };
        let distinct: BTreeSet<&str> = entries.iter().map(|entry| entry.digest_text()).collect();
        if distinct.len() == 1 {
            return Ok(entries[0]);
        }
        // One name for several platforms' manifests: `index.json` itself serves as the index.
        let best = entries
            .iter()
            .filter_map(|entry| match entry.platform() {
                For::Platform(own) => Some((rank(platform, &own)?, *entry)),
                For::Unsaid | For::Nobody => None,
            })
            .min_by_key(|(rank, _)| *rank);
        best.map(|(_, entry)| entry)
            .ok_or_else(|| self.error(&doing, format!("{} different images have this name", distinct.len())))
    }

    fn read(
        &self,
        role: Role,
        digest: &BlobDigest,
        size: Option<u64>,
        media_type: Option<String>,
    ) -> Result<Arc<Document>, RegistryError> {
        let what = format!("{} {digest}", role.as_str());
        if size.is_some_and(|size| size > self.limit) {
            return Err(RegistryError::TooLarge { what, host: self.host(), limit: self.limit });
        }
        let bytes = self.bytes(&format!("read {what}"), &self.blob_path(digest))?;
        verify(&bytes, digest, size).map_err(|source| RegistryError::Mismatch {
            what,
            host: self.host(),
            source,
        })?;
        Ok(Arc::new(Document { digest: digest.clone(), bytes, media_type, host: self.host() }))
    }
}

/// The names that a layout may have for `reference`'s repository: tools leave the `library/` of docker.io out.
fn repositories(reference: &ImageRef) -> Vec<&str> {
    let repository = reference.repository();
    let has_library = matches!(reference.registry(), DEFAULT_REGISTRY | SANDBOXES_REGISTRY);
    let bare = repository.strip_prefix("library/").filter(|_| has_library);
    std::iter::once(repository).chain(bare).collect()
}

impl Documents for Layout {
    fn document(
        &self,
        role: Role,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Arc<Document>, RegistryError> {
        self.read(role, digest, size, None)
    }
}
