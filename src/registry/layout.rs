//! An OCI image layout directory instead of a server: no network at all.
//!
//! Images are found in `index.json` by their names (`names`) or by digest. Only regular files are
//! read, and all is verified as if it came from a server.
//!
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

mod names;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::MediaType;
use serde::Deserialize;

use self::names::Directory;
use super::blob::BlobReader;
use super::documents::{
    DocumentKind, Documents, Entry, For, Index, Lookup, Parsed, assemble, parse, rank, verify,
};
use super::sites::Document;
use super::transport::printable;
use crate::digest::{BlobDigest, ContentMismatch};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::state::{LayerDescriptor, Platform};
use crate::sys;

/// Names that an error lists.
const MAX_NAMES: usize = 10;

pub(crate) struct Layout {
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
    pub(crate) fn new(path: PathBuf, limit: u64) -> Self {
        Self { path, limit }
    }

    /// See [`super::Registries::resolve`].
    pub(crate) fn resolve(
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
        let top = self.read(DocumentKind::Manifest, &digest, size, media_type.map(str::to_owned))?;
        Ok(Lookup::Image(Box::new(assemble(self, reference, platform, top)?)))
    }

    /// Tells `add` the tags of `reference`'s repository.
    pub(crate) fn tags(&self, reference: &ImageRef, add: impl FnMut(&str)) -> Result<(), RegistryError> {
        let index = self.index()?;
        Directory::of(&index.entries).tags(reference).into_iter().for_each(add);
        Ok(())
    }

    /// See [`super::Registries::blob`].
    pub(crate) fn blob(&self, layer: &LayerDescriptor, offset: u64) -> Result<BlobReader, RegistryError> {
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
        Ok(BlobReader::of_file(file.take(size - offset)))
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
        match parse(&bytes, Some(MediaType::ImageIndex.as_ref())) {
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
        let directory = Directory::of(&index.entries);
        let entries = directory.find(reference, tag);
        let doing = format!("find {}:{tag}", reference.repository());
        if entries.is_empty() {
            let names = directory.shown();
            let mut shown: Vec<String> =
                names.iter().take(MAX_NAMES).map(|name| printable(name, 100)).collect();
            if names.len() > MAX_NAMES {
                shown.push(format!("and {} more", names.len() - MAX_NAMES));
            }
            let there = if shown.is_empty() {
                "index.json names no image".to_owned()
            } else {
                format!("index.json names only {}", shown.join(", "))
            };
            return Err(self.error(&doing, there));
        }
        let distinct: BTreeSet<&str> = entries.iter().map(|entry| entry.digest_text()).collect();
        if distinct.len() == 1 {
            return Ok(entries[0]);
        }
        // One name for several platforms' manifests: `index.json` itself serves as the index.
        let ranked: Vec<(u32, &Entry)> = entries
            .iter()
            .filter_map(|entry| match entry.platform() {
                For::Platform(own) => Some((rank(platform, &own)?, *entry)),
                For::Unsaid | For::Nobody => None,
            })
            .collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min();
        let mut best = ranked.into_iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, entry)| entry);
        let first = best.next();
        let alike = first.is_some_and(|first| best.all(|other| other.digest_text() == first.digest_text()));
        first
            .filter(|_| alike)
            .ok_or_else(|| self.error(&doing, format!("{} different images have this name", distinct.len())))
    }

    fn read(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
        media_type: Option<String>,
    ) -> Result<Arc<Document>, RegistryError> {
        let what = format!("{} {digest}", kind.as_str());
        if size.is_some_and(|size| size > self.limit) {
            return Err(RegistryError::TooLarge { what, host: self.host(), limit: self.limit });
        }
        let bytes = self.bytes(&format!("read {what}"), &self.blob_path(digest))?;
        verify(&bytes, digest, size).map_err(|source| RegistryError::Mismatch {
            what,
            host: self.host(),
            source,
        })?;
        let (digest, host) = (digest.clone(), self.host());
        Ok(Arc::new(Document { digest, bytes, media_type, host, unvouched: false }))
    }
}

impl Documents for Layout {
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Arc<Document>, RegistryError> {
        self.read(kind, digest, size, None)
    }
}
