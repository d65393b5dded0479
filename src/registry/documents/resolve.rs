//! From a document to an image: index → the platform's manifest → config.
//!
//! Works alike for servers and image layouts, which differ only in where documents come from
//! ([`Documents`]). Everything it follows is bounded: depth, number of documents, size of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::parse_config;
use super::manifest::{Descriptor, For, Index, Manifest, Parsed, parse};
use super::platforms::rank;
use crate::digest::{BlobDigest, ContentMismatch, Verifier};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::registry::sites::Document;
use crate::registry::transport::printable;
use crate::state::{ConfigRecord, DocumentRecord, LayerDescriptor, Platform, ResolvedImage};

/// Nesting of indexes that is followed.
const MAX_DEPTH: usize = 8;
/// Documents read for one image.
const MAX_DOCUMENTS: usize = 64;

/// A kind of document that an image has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DocumentKind {
    Manifest,
    Config,
}

impl DocumentKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
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
    ) -> Result<Arc<Document>, RegistryError>;
}

/// Checks that `bytes` are the document `digest`, of `size` bytes if that is known.
pub(crate) fn verify(bytes: &[u8], digest: &BlobDigest, size: Option<u64>) -> Result<(), ContentMismatch> {
    let mut verifier = Verifier::new(digest, size.unwrap_or(bytes.len() as u64));
    verifier.update(bytes)?;
    verifier.finish()
}

/// Assembles the image that `top`, to which `reference` leads, means for `platform`.
pub(crate) fn assemble(
    documents: &dyn Documents,
    reference: &ImageRef,
    platform: &Platform,
    top: Arc<Document>,
) -> Result<ResolvedImage, RegistryError> {
    let digest = top.digest.clone();
    let (index, found) = match read(&top)? {
        Parsed::Manifest(manifest) => {
            let found = Found::read(documents, top, manifest)?;
            found.check(platform)?;
            (None, found)
        }
        Parsed::Index(index) => {
            let mut search = Search {
                documents,
                platform,
                read: 1,
                best: None,
                unnamed: Vec::new(),
                seen: BTreeSet::new(),
            };
            search.visit(&index, &top, 1)?;
            let record = DocumentRecord {
                digest: digest.clone(),
                media_type: index.media_type,
                annotations: index.annotations,
            };
            (Some(record), search.finish()?)
        }
    };
    let Found { document, manifest, config, layers } = found;
    Ok(ResolvedImage {
        reference: reference.clone(),
        platform: platform.clone(),
        digest,
        index,
        manifest: DocumentRecord {
            digest: document.digest.clone(),
            media_type: manifest.media_type,
            annotations: manifest.annotations,
        },
        config,
        layers: layers.into(),
    })
}

/// The reason for which a document is refused that nobody vouches for and to which a redirect led:
/// its content is not shown.
pub(crate) const LED_ASTRAY: &str = "a redirect led to it, and it is not what was asked for";

fn refused(kind: &str, document: &Document, reason: String) -> RegistryError {
    let reason = if document.unvouched { LED_ASTRAY.to_owned() } else { reason };
    RegistryError::Document {
        what: format!("{kind} {}", document.digest),
        host: document.host.clone(),
        reason,
    }
}

fn read(document: &Document) -> Result<Parsed, RegistryError> {
    parse(&document.bytes, document.media_type.as_deref())
        .map_err(|reason| refused("manifest", document, reason))
}

/// A manifest with its config.
struct Found {
    document: Arc<Document>,
    manifest: Manifest,
    config: ConfigRecord,
    layers: Vec<LayerDescriptor>,
}

impl Found {
    fn read(
        documents: &dyn Documents,
        document: Arc<Document>,
        manifest: Manifest,
    ) -> Result<Self, RegistryError> {
        let config =
            documents.document(DocumentKind::Config, &manifest.config.digest, Some(manifest.config.size))?;
        let (config, layers) =
            parse_config(&config.bytes, &manifest).map_err(|reason| refused("config", &config, reason))?;
        Ok(Self { document, manifest, config, layers })
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

fn shown(platform: &Platform) -> String {
    printable(&platform.to_string(), 60)
}

fn no_platform(wanted: &Platform, available: impl IntoIterator<Item = String>) -> RegistryError {
    RegistryError::NoPlatform {
        wanted: wanted.to_string(),
        available: available.into_iter().take(MAX_DOCUMENTS).collect(),
    }
}

/// The search for a platform's manifest in an index and those it leads to.
struct Search<'a> {
    documents: &'a dyn Documents,
    platform: &'a Platform,
    /// Documents read so far.
    read: usize,
    best: Option<(u32, Descriptor)>,
    /// Manifests of which their index does not say for which platform they are.
    unnamed: Vec<Descriptor>,
    /// The platforms there are.
    seen: BTreeSet<String>,
}

impl Search<'_> {
    fn visit(&mut self, index: &Index, document: &Document, depth: usize) -> Result<(), RegistryError> {
        let mut nested = Vec::new();
        for entry in &index.entries {
            let fits = match entry.platform() {
                For::Nobody => continue,
                For::Unsaid => None,
                For::Platform(platform) => {
                    let rank = rank(self.platform, &platform);
                    self.seen.insert(shown(&platform));
                    let Some(rank) = rank else { continue };
                    Some(rank)
                }
            };
            let descriptor = entry.descriptor().map_err(|reason| refused("index", document, reason))?;
            match fits {
                _ if entry.is_index() => nested.push(descriptor),
                None => self.unnamed.push(descriptor),
                Some(rank) if self.best.as_ref().is_none_or(|(best, _)| rank < *best) => {
                    self.best = Some((rank, descriptor));
                }
                Some(_) => {}
            }
        }
        for descriptor in nested {
            if matches!(self.best, Some((0, _))) {
                break;
            }
            if depth >= MAX_DEPTH {
                let reason = format!("indexes are nested deeper than {MAX_DEPTH}");
                return Err(refused("index", document, reason));
            }
            let inner = self.fetch(&descriptor, document)?;
            match read(&inner)? {
                Parsed::Index(index) => self.visit(&index, &inner, depth + 1)?,
                Parsed::Manifest(_) => {
                    return Err(refused(
                        "index",
                        &inner,
                        "it is listed as an index but is a manifest".to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn fetch(&mut self, descriptor: &Descriptor, parent: &Document) -> Result<Arc<Document>, RegistryError> {
        self.read += 1;
        if self.read > MAX_DOCUMENTS {
            let reason = format!("it leads to more than {MAX_DOCUMENTS} documents");
            return Err(refused("index", parent, reason));
        }
        self.documents.document(DocumentKind::Manifest, &descriptor.digest, Some(descriptor.size))
    }

    fn finish(mut self) -> Result<Found, RegistryError> {
        if let Some((_, descriptor)) = self.best.take() {
            let document =
                self.documents.document(DocumentKind::Manifest, &descriptor.digest, Some(descriptor.size))?;
            return match read(&document)? {
                Parsed::Manifest(manifest) => Found::read(self.documents, document, manifest),
                Parsed::Index(_) => {
                    let reason = "it is listed as a manifest but is an index".to_owned();
                    Err(refused("manifest", &document, reason))
                }
            };
        }
        let mut best: Option<(u32, Found)> = None;
        for descriptor in std::mem::take(&mut self.unnamed) {
            self.read += 2;
            if self.read > MAX_DOCUMENTS {
                break;
            }
            let document =
                self.documents.document(DocumentKind::Manifest, &descriptor.digest, Some(descriptor.size))?;
            // An index may list artifacts beside images.
            let Ok(Parsed::Manifest(manifest)) = read(&document) else { continue };
            let found = Found::read(self.documents, document, manifest)?;
            let Some(own) = found.platform() else { continue };
            self.seen.insert(shown(&own));
            if let Some(rank) = rank(self.platform, &own)
                && best.as_ref().is_none_or(|(other, _)| rank < *other)
            {
                best = Some((rank, found));
            }
        }
        best.map(|(_, found)| found).ok_or_else(|| no_platform(self.platform, self.seen))
    }
}
