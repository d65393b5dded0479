//! From a document to an image: index → the platform's manifest → config.
//!
//! Works alike for servers and image layouts, which differ only in where documents come from
//! ([`Documents`]). Everything it follows is bounded: depth, number of documents, size of each.

use std::collections::BTreeSet;

use super::config::parse_config;
use super::manifest::{Descriptor, For, Index, Manifest, Parsed, parse, turn};
use super::platforms::rank;
use crate::digest::{BlobDigest, ContentMismatch, Verifier};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::registry::sites::{Document, Held};
use crate::registry::transport::printable;
use crate::state::{
    ConfigRecord, DocumentDescriptor, DocumentRecord, DocumentRole, LayerDescriptor, MediaType, Platform,
    ResolvedImage,
};

/// Nesting of indexes that is followed.
const MAX_DEPTH: usize = 8;
/// Documents read for one image.
const MAX_DOCUMENTS: usize = 64;

/// A kind of document that an image has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DocumentKind {
    Manifest,
    Config,
    /// A layer of an artifact.
    Signature,
}

impl DocumentKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Signature => "signature",
        }
    }
}

/// A source of documents.
pub(crate) trait Documents {
    /// The document `digest`, of `size` bytes if that is known, verified.
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Held, RegistryError>;
}

/// Checks that `bytes` are the document `digest`, of `size` bytes if that is known.
pub(crate) fn verify(bytes: &[u8], digest: &BlobDigest, size: Option<u64>) -> Result<(), ContentMismatch> {
    let mut verifier = Verifier::new(digest, size.unwrap_or(bytes.len() as u64));
    verifier.update(bytes)?;
    verifier.finish()
}

/// Assembles the image that `top`, to which `reference` leads, means for `platform`.
///
/// The bytes of a document, and the portion of memory for them, are given up once it is read and
/// before another one is asked for: who has a portion waits for no other. All that is kept of it is
/// bounded: an index leaves a few of its entries, a manifest and a config what is recorded, which
/// `recorded` and `config` limit.
pub(crate) fn assemble(
    documents: &dyn Documents,
    reference: &ImageRef,
    platform: &Platform,
    top: Held,
) -> Result<ResolvedImage, RegistryError> {
    let digest = top.digest.clone();
    let mut search = Search::new(documents, platform);
    let origin = Origin::of(&top);
    let size = top.bytes.len() as u64;
    let opened = search.open(&top, &[])?;
    drop(top);
    let (index, found) = match opened {
        Opened::Manifest(manifest) => {
            let found = Found::read(documents, origin, manifest, size, Vec::new())?;
            found.check(platform)?;
            (None, found)
        }
        Opened::Index { media_type, annotations, nested, path } => {
            search.visit(nested, &origin, &path)?;
            let media_type = MediaType::from(&*media_type);
            let record = DocumentRecord { digest: digest.clone(), media_type, annotations_json: annotations };
            (Some(record), search.finish()?)
        }
    };
    let Found { origin, manifest, config, layers, documents } = found;
    Ok(ResolvedImage {
        reference: reference.clone(),
        platform: platform.clone(),
        digest,
        index,
        manifest: DocumentRecord {
            digest: origin.digest,
            media_type: MediaType::from(&*manifest.media_type),
            annotations_json: manifest.annotations,
        },
        config,
        documents: documents.into(),
        layers: layers.into(),
    })
}

/// The name of a document whose bytes are gone.
struct Origin {
    digest: BlobDigest,
    host: String,
    unvouched: bool,
}

impl Origin {
    fn of(document: &Document) -> Self {
        let Document { digest, host, unvouched, .. } = document;
        Self { digest: digest.clone(), host: host.clone(), unvouched: *unvouched }
    }

    /// Makes the error of a document of this `kind` that cannot be used.
    fn refused(&self, kind: &str, reason: String) -> RegistryError {
        let reason = if self.unvouched { LED_ASTRAY.to_owned() } else { reason };
        RegistryError::Document { what: format!("{kind} {}", self.digest), host: self.host.clone(), reason }
    }
}

/// The reason for which a document is refused that nobody vouches for and to which a redirect led:
/// its content is not shown.
pub(crate) const LED_ASTRAY: &str = "a redirect led to it, and it is not what was asked for";

fn read(document: &Document) -> Result<Parsed, RegistryError> {
    parse(&document.bytes, document.media_type.as_deref())
        .map_err(|reason| Origin::of(document).refused("manifest", reason))
}

/// A manifest with its config.
struct Found {
    origin: Origin,
    manifest: Manifest,
    config: ConfigRecord,
    layers: Vec<LayerDescriptor>,
    /// The indexes that lead to the manifest, the manifest, the config.
    documents: Vec<DocumentDescriptor>,
}

impl Found {
    /// Reads the config of a manifest of `size` bytes, to which the indexes `path` lead.
    fn read(
        documents: &dyn Documents,
        origin: Origin,
        manifest: Manifest,
        size: u64,
        mut path: Vec<DocumentDescriptor>,
    ) -> Result<Self, RegistryError> {
        let config =
            documents.document(DocumentKind::Config, &manifest.config.digest, Some(manifest.config.size))?;
        let _turn = turn(&config.bytes);
        let (config, layers) = parse_config(&config.bytes, &manifest)
            .map_err(|reason| Origin::of(&config).refused("config", reason))?;
        path.push(described(DocumentRole::Manifest, &origin.digest, &manifest.media_type, size));
        let Descriptor { digest, media_type, size } = &manifest.config;
        path.push(described(DocumentRole::Config, digest, media_type, *size));
        Ok(Self { origin, manifest, config, layers, documents: path })
    }

    /// Returns the platform that the config names; `None` where it names none.
    fn platform(&self) -> Option<Platform> {
        let ConfigRecord { os, architecture, variant, .. } = &self.config;
        let said = !os.is_empty() && !architecture.is_empty();
        said.then(|| Platform::new(os, architecture, variant.as_deref()))
    }

    fn check(&self, platform: &Platform) -> Result<(), RegistryError> {
        match self.platform() {
            Some(own) if rank(platform, &own).is_none() => Err(no_platform(platform, [shown(&own)])),
            _ => Ok(()),
        }
    }
}

fn described(role: DocumentRole, digest: &BlobDigest, media_type: &str, size: u64) -> DocumentDescriptor {
    DocumentDescriptor { role, digest: digest.clone(), media_type: MediaType::from(media_type), size }
}

fn shown(platform: &Platform) -> String {
    printable(&platform.to_string(), 60)
}

fn no_platform(wanted: &Platform, available: impl IntoIterator<Item = String>) -> RegistryError {
    RegistryError::NoPlatform {
        wanted: wanted.to_string(),
        available: available.into_iter().take(MAX_DOCUMENTS).collect(),
    }
}

/// A document that was read, as far as the search needs it.
enum Opened {
    Manifest(Manifest),
    Index {
        media_type: String,
        annotations: Option<String>,
        nested: Vec<Descriptor>,
        /// The indexes that lead to the nested ones, this one last.
        path: Vec<DocumentDescriptor>,
    },
}

/// A manifest that was not read yet, and the indexes that lead to it.
struct Listed {
    manifest: Descriptor,
    path: Vec<DocumentDescriptor>,
}

/// The search for a platform's manifest in an index and those it leads to.
struct Search<'a> {
    documents: &'a dyn Documents,
    platform: &'a Platform,
    /// The documents read so far.
    read: usize,
    best: Option<(u32, Listed)>,
    /// Manifests of which their index does not say for which platform they are; no more than are
    /// read.
    unnamed: Vec<Listed>,
    /// The platforms there are; no more than an error lists.
    seen: BTreeSet<String>,
}

impl<'a> Search<'a> {
    /// Begins a search of which the first document is read already.
    fn new(documents: &'a dyn Documents, platform: &'a Platform) -> Self {
        Self { documents, platform, read: 1, best: None, unnamed: Vec::new(), seen: BTreeSet::new() }
    }

    /// Reads `document`, to which the indexes `above` lead, and of an index notes what it lists.
    fn open(&mut self, document: &Document, above: &[DocumentDescriptor]) -> Result<Opened, RegistryError> {
        let _turn = turn(&document.bytes);
        match read(document)? {
            Parsed::Manifest(manifest) => Ok(Opened::Manifest(manifest)),
            Parsed::Index(index) => {
                let size = document.bytes.len() as u64;
                let own = described(DocumentRole::Index, &document.digest, &index.media_type, size);
                let path = [above, &[own]].concat();
                let nested = self.note(&index, document, &path)?;
                let Index { media_type, annotations, .. } = index;
                Ok(Opened::Index { media_type, annotations, nested, path })
            }
        }
    }

    /// Notes the manifests that `index` lists, and returns the indexes, no more than are read.
    /// `path` leads to them.
    fn note(
        &mut self,
        index: &Index,
        document: &Document,
        path: &[DocumentDescriptor],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut nested = Vec::new();
        let listed = |manifest| Listed { manifest, path: path.to_vec() };
        for entry in &index.entries {
            let fits = match entry.platform() {
                For::Nobody => continue,
                For::Unsaid => None,
                For::Platform(platform) => {
                    let rank = rank(self.platform, &platform);
                    self.see(&platform);
                    let Some(rank) = rank else { continue };
                    Some(rank)
                }
            };
            let descriptor =
                entry.descriptor().map_err(|reason| Origin::of(document).refused("index", reason))?;
            match fits {
                _ if entry.is_index() => keep(&mut nested, descriptor),
                None => keep(&mut self.unnamed, listed(descriptor)),
                Some(rank) if self.best.as_ref().is_none_or(|(best, _)| rank < *best) => {
                    self.best = Some((rank, listed(descriptor)));
                }
                Some(_) => {}
            }
        }
        Ok(nested)
    }

    /// Takes note that there is an image for `platform`.
    fn see(&mut self, platform: &Platform) {
        self.seen.insert(shown(platform));
        if self.seen.len() > MAX_DOCUMENTS {
            self.seen.pop_last();
        }
    }

    /// Searches the indexes `nested` in `parent`, until one has the very platform.
    fn visit(
        &mut self,
        nested: Vec<Descriptor>,
        parent: &Origin,
        path: &[DocumentDescriptor],
    ) -> Result<(), RegistryError> {
        for descriptor in nested {
            if matches!(self.best, Some((0, _))) {
                break;
            }
            if path.len() >= MAX_DEPTH {
                let reason = format!("indexes are nested deeper than {MAX_DEPTH}");
                return Err(parent.refused("index", reason));
            }
            self.read += 1;
            if self.read > MAX_DOCUMENTS {
                let reason = format!("it leads to more than {MAX_DOCUMENTS} documents");
                return Err(parent.refused("index", reason));
            }
            let inner = self.manifest(&descriptor)?;
            let origin = Origin::of(&inner);
            let opened = self.open(&inner, path)?;
            drop(inner);
            match opened {
                Opened::Index { nested, path, .. } => self.visit(nested, &origin, &path)?,
                Opened::Manifest(_) => {
                    let reason = "it is listed as an index but is a manifest".to_owned();
                    return Err(origin.refused("index", reason));
                }
            }
        }
        Ok(())
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Held, RegistryError> {
        self.documents.document(DocumentKind::Manifest, &descriptor.digest, Some(descriptor.size))
    }

    /// Reads the best manifest, or else looks into those of which nothing is said.
    fn finish(mut self) -> Result<Found, RegistryError> {
        if let Some((_, Listed { manifest, path })) = self.best.take() {
            let document = self.manifest(&manifest)?;
            let origin = Origin::of(&document);
            let parsed = in_turn(&document)?;
            drop(document);
            return match parsed {
                Parsed::Manifest(found) => Found::read(self.documents, origin, found, manifest.size, path),
                Parsed::Index(_) => {
                    let reason = "it is listed as a manifest but is an index".to_owned();
                    Err(origin.refused("manifest", reason))
                }
            };
        }
        let mut best: Option<(u32, Found)> = None;
        for Listed { manifest: listed, path } in std::mem::take(&mut self.unnamed) {
            self.read += 2;
            if self.read > MAX_DOCUMENTS {
                break;
            }
            let document = self.manifest(&listed)?;
            let origin = Origin::of(&document);
            // An index may list artifacts beside images.
            let Ok(Parsed::Manifest(manifest)) = in_turn(&document) else { continue };
            drop(document);
            let found = Found::read(self.documents, origin, manifest, listed.size, path)?;
            let Some(own) = found.platform() else { continue };
            self.see(&own);
            if let Some(rank) = rank(self.platform, &own)
                && best.as_ref().is_none_or(|(other, _)| rank < *other)
            {
                best = Some((rank, found));
            }
        }
        best.map(|(_, found)| found).ok_or_else(|| no_platform(self.platform, self.seen))
    }
}

/// Keeps `value`, as far as so many are read.
fn keep<T>(kept: &mut Vec<T>, value: T) {
    if kept.len() < MAX_DOCUMENTS {
        kept.push(value);
    }
}

/// Reads a document that is a manifest, if all is well.
fn in_turn(document: &Document) -> Result<Parsed, RegistryError> {
    let _turn = turn(&document.bytes);
    read(document)
}
