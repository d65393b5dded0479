//! An OCI image layout instead of a server: no network at all.
//!
//! A registry's `layout` is a directory; a bundle, which stands for all registries, may be a tar
//! too (`files`, `archive`). Images are found in `index.json` by their names (`names`) or by
//! digest. Only regular files are read, and all is verified as if it came from a server.
//!
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

mod archive;
mod files;
mod names;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Take};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci_spec::image::MediaType;
use serde::Deserialize;

use self::files::Files;
use self::names::Directory;
use super::blob::BlobReader;
use super::documents::{
    DocumentKind, Documents, Entry, For, Index, Lookup, Parsed, assemble, parse, rank, verify,
};
use super::referrers::{Belongs, Hearing, Listed, list, tag_of};
use super::sites::{Document, Held};
use super::transport::{Portion, Portions, printable};
use crate::digest::{BlobDigest, ContentMismatch};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::state::{Candidate, LayerDescriptor, Platform, SignaturePlace};
use crate::threads::lock;

/// Names that an error lists.
const MAX_NAMES: usize = 10;
/// Manifests without a name that are looked at for one that refers to an image.
const MAX_UNNAMED: usize = 256;
/// The bytes of an `index.json`, at least: some 18,000 names in full. It grows with the images of a
/// layout, and an index in a registry does not.
const MAX_INDEX: u64 = 8 << 20;

pub(crate) struct Layout {
    files: Files,
    /// Bytes of one document.
    limit: u64,
    /// True if the layout stands for all registries.
    is_bundle: bool,
    /// The turn of large candidates for a signature.
    turn: Mutex<()>,
    /// The memory that documents may take until they are taken apart.
    portions: Arc<Portions>,
    /// The entries of `index.json`, once they were read.
    directory: Mutex<Option<Arc<Directory>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// A directory that is one registry. Nothing is looked at yet.
    pub(crate) fn new(path: PathBuf, limit: u64, portions: &Arc<Portions>) -> Self {
        Self::of(Files::Directory(path), limit, false, portions)
    }

    /// Opens a bundle: a directory or a tar.
    ///
    /// # Errors
    /// There is no layout.
    pub(crate) fn bundle(path: &Path, limit: u64, portions: &Arc<Portions>) -> Result<Self, RegistryError> {
        let files = Files::open(path).map_err(|error| RegistryError::Layout {
            doing: "find images".to_owned(),
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let bundle = Self::of(files, limit, true, portions);
        bundle.directory()?;
        Ok(bundle)
    }

    fn of(files: Files, limit: u64, is_bundle: bool, portions: &Arc<Portions>) -> Self {
        let (turn, directory, portions) = (Mutex::default(), Mutex::default(), Arc::clone(portions));
        Self { files, limit, is_bundle, turn, portions, directory }
    }

    /// Returns the error of the blob `digest`, if the layout has none.
    pub(crate) fn lacks(&self, what: &str, digest: &BlobDigest) -> Option<RegistryError> {
        (!self.files.has(&blob_name(digest))).then(|| self.missing(format!("{what} {digest}")))
    }

    /// See [`super::Registries::resolve`].
    pub(crate) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        let directory = self.directory()?;
        let (digest, size, media_type) = if let Some(digest) = reference.digest() {
            let entry = directory.entries().iter().find(|entry| digest.text() == entry.digest_text());
            (digest.clone(), None, entry.and_then(Entry::media_type))
        } else {
            let entry = self.named(&directory, reference, platform)?;
            let descriptor = entry.descriptor().map_err(|reason| self.error("read index.json", reason))?;
            if let Some(index) = entry.index() {
                return self.by_index(reference, platform, known, (entry, &descriptor.digest, index));
            }
            (descriptor.digest, Some(descriptor.size), entry.media_type())
        };
        if known == Some(&digest) {
            return Ok(Lookup::Same);
        }
        let top = self.read(DocumentKind::Manifest, &digest, size, media_type.map(str::to_owned))?;
        Ok(Lookup::Image(Box::new(assemble(self, reference, platform, top)?)))
    }

    /// Finds the image of an entry that leads straight to `manifest` and says which `index` its tag
    /// means: that one is what is recorded, if it leads there too.
    fn by_index(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
        (entry, manifest, index): (&Entry, &BlobDigest, &str),
    ) -> Result<Lookup, RegistryError> {
        if let For::Platform(own) = entry.platform()
            && rank(platform, &own).is_none()
        {
            let available = vec![printable(&own.to_string(), 60)];
            return Err(RegistryError::NoPlatform { wanted: platform.to_string(), available });
        }
        let digest = BlobDigest::parse(index)
            .map_err(|error| self.error("read index.json", format!("an entry's index: {error}")))?;
        let top = self.read(DocumentKind::Manifest, &digest, None, None)?;
        let image = assemble(self, reference, platform, top)?;
        let found = &image.manifest.digest;
        if found != manifest {
            let reason = format!("index {digest} leads to manifest {found}, and index.json to {manifest}");
            return Err(self.error(&format!("find {reference}"), reason));
        }
        Ok(if known == Some(&digest) { Lookup::Same } else { Lookup::Image(Box::new(image)) })
    }

    /// Tells `add` the tags of `reference`'s repository.
    pub(crate) fn tags(&self, reference: &ImageRef, add: impl FnMut(&str)) -> Result<(), RegistryError> {
        self.directory()?.tags(reference).into_iter().for_each(add);
        Ok(())
    }

    /// See [`super::Registries::blob`].
    pub(crate) fn blob(&self, layer: &LayerDescriptor, offset: u64) -> Result<BlobReader, RegistryError> {
        let what = format!("layer {}", layer.digest);
        let (part, size) = self.open(&what, &blob_name(&layer.digest), offset)?;
        if size != layer.size {
            let (digest, expected) = (layer.digest.clone(), layer.size);
            let source = if size < expected {
                ContentMismatch::TooShort { digest, expected, actual: size }
            } else {
                ContentMismatch::TooLong { digest, expected }
            };
            return Err(RegistryError::Mismatch { what, host: self.host(), source: source.into() });
        }
        Ok(BlobReader::of_file(part))
    }

    /// See [`super::Registries::referrers`].
    pub(crate) fn referrers(
        &self,
        reference: &ImageRef,
        subject: &BlobDigest,
        place: SignaturePlace,
        hear: &mut dyn FnMut(Candidate) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let mut hearing = Hearing::new(subject, place, hear, &self.turn);
        for (listed, belongs) in self.artifacts(reference, subject, place)? {
            if hearing.look(self, &listed, belongs)?.is_break() {
                return Ok(());
            }
        }
        hearing.end()
    }

    /// Lists the artifacts that may refer to `subject`: those that a bundle carries along with the
    /// image, those under the tags that registries have for them, and those without a name.
    fn artifacts(
        &self,
        reference: &ImageRef,
        subject: &BlobDigest,
        place: SignaturePlace,
    ) -> Result<Vec<(Listed, Belongs)>, RegistryError> {
        let directory = self.directory()?;
        let is_subject =
            |entry: &&Entry| subject.text() == entry.digest_text() || entry.index() == Some(&subject.text());
        let named = reference.tag().map(|tag| directory.find(reference, tag)).unwrap_or_default();
        let about = named.into_iter().chain(directory.entries().iter().filter(is_subject));
        let carried = about.filter_map(Entry::signatures).flat_map(|digests| digests.split(','));
        let carried = carried.filter_map(|digest| BlobDigest::parse(digest.trim()).ok());
        let carried: BTreeSet<BlobDigest> = carried.take(MAX_UNNAMED).collect();
        let mut found: Vec<_> =
            carried.into_iter().map(|digest| (Listed { digest, size: None }, Belongs::Carried)).collect();
        let tag = tag_of(subject, place);
        for entry in tag.map(|tag| directory.find(reference, &tag)).unwrap_or_default() {
            let entry = entry.descriptor().map_err(|reason| self.error("read index.json", reason))?;
            let listed = Listed { digest: entry.digest, size: Some(entry.size) };
            if place != SignaturePlace::Referrers {
                found.push((listed, Belongs::Unsaid));
                continue;
            }
            let document = self.document(DocumentKind::Manifest, &listed.digest, listed.size)?;
            let listed = list(&document.bytes)
                .map_err(|reason| self.error(&format!("read index {}", listed.digest), reason))?;
            let listed = listed.unwrap_or_default().into_iter().flatten();
            found.extend(listed.map(|listed| (listed, Belongs::Unsaid)));
        }
        if place == SignaturePlace::Referrers {
            let is_unnamed = |entry: &&Entry| {
                let names = entry.ref_name().is_none() && entry.containerd_name().is_none();
                names && !entry.is_index() && matches!(entry.platform(), For::Unsaid)
            };
            let unnamed = directory.entries().iter().filter(is_unnamed).take(MAX_UNNAMED);
            let unnamed = unnamed.filter_map(|entry| entry.descriptor().ok());
            found.extend(
                unnamed.map(|entry| (Listed { digest: entry.digest, size: Some(entry.size) }, Belongs::Says)),
            );
        }
        Ok(found)
    }

    pub(super) fn host(&self) -> String {
        self.files.path().display().to_string()
    }

    fn error(&self, doing: &str, reason: impl Into<String>) -> RegistryError {
        let path = self.files.path().to_owned();
        RegistryError::Layout { doing: doing.to_owned(), path, reason: reason.into() }
    }

    fn missing(&self, what: String) -> RegistryError {
        RegistryError::NotInBundle { what, bundle: self.files.path().to_owned() }
    }

    /// Opens the file `name`, which is `what`, at `offset`, and tells its size.
    fn open(&self, what: &str, name: &str, offset: u64) -> Result<(Take<File>, u64), RegistryError> {
        self.files.file(name, offset).map_err(|error| {
            if self.is_bundle && error.kind() == ErrorKind::NotFound && name != what {
                self.missing(what.to_owned())
            } else {
                self.error(&format!("read {what}"), format!("{name}: {error}"))
            }
        })
    }

    /// Reads the file `name`, which is `what`, with the portion of memory that it takes.
    fn bytes(&self, what: &str, name: &str, limit: u64) -> Result<(Vec<u8>, Portion), RegistryError> {
        let (file, size) = self.open(what, name, 0)?;
        let size = size.min(limit.saturating_add(1));
        let mut portion = self.portions.portion(&self.host());
        portion.wait(size)?;
        // Growing step by step would take up to twice the memory for a moment.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.error(&format!("read {what}"), format!("{name}: {error}")))?;
        if bytes.len() as u64 > limit {
            let (what, host) = (name.to_owned(), self.host());
            return Err(RegistryError::TooLarge { what, host, limit });
        }
        Ok((bytes, portion))
    }

    /// Reads which images there are, once a run.
    fn directory(&self) -> Result<Arc<Directory>, RegistryError> {
        let mut known = lock(&self.directory);
        if let Some(directory) = &*known {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(Directory::of(self.index()?.entries, self.is_bundle));
        *known = Some(Arc::clone(&directory));
        Ok(directory)
    }

    fn index(&self) -> Result<Index, RegistryError> {
        let (marker, _) = self.bytes("oci-layout", "oci-layout", self.limit)?;
        let marker: Marker = serde_json::from_slice(&marker)
            .map_err(|error| self.error("read oci-layout", printable(&error.to_string(), 200)))?;
        if !marker.image_layout_version.starts_with("1.") {
            let version = printable(&marker.image_layout_version, 40);
            return Err(self.error("read oci-layout", format!("its version {version} is not 1.0.0")));
        }
        let (bytes, _portion) = self.bytes("index.json", "index.json", self.limit.max(MAX_INDEX))?;
        match parse(&bytes, Some(MediaType::ImageIndex.as_ref())) {
            Ok(Parsed::Index(index)) => Ok(index),
            Ok(Parsed::Manifest(_)) => Err(self.error("read index.json", "it is no index")),
            Err(reason) => Err(self.error("read index.json", reason)),
        }
    }

    /// The entry that `reference` names.
    fn named<'a>(
        &self,
        directory: &'a Directory,
        reference: &ImageRef,
        platform: &Platform,
    ) -> Result<&'a Entry, RegistryError> {
        let tag = reference.tag().unwrap_or("latest");
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
    ) -> Result<Held, RegistryError> {
        let what = format!("{} {digest}", kind.as_str());
        if size.is_some_and(|size| size > self.limit) {
            return Err(RegistryError::TooLarge { what, host: self.host(), limit: self.limit });
        }
        let (bytes, portion) = self.bytes(&what, &blob_name(digest), self.limit)?;
        verify(&bytes, digest, size).map_err(|source| RegistryError::Mismatch {
            what,
            host: self.host(),
            source: source.into(),
        })?;
        let (digest, host) = (digest.clone(), self.host());
        let document = Arc::new(Document { digest, bytes, media_type, host, unvouched: false });
        Ok(Held::new(document, portion))
    }
}

impl Documents for Layout {
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Held, RegistryError> {
        self.read(kind, digest, size, None)
    }
}

fn blob_name(digest: &BlobDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.text().hex())
}
