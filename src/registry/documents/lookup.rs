//! One repository of a registry: what a tag means, and documents by digest.
//!
//! Documents are kept for the run, so that images which share one fetch it once; threads that want
//! the same one wait for the first.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ureq::http::Method;

use super::assemble::{DocumentKind, Documents, LED_ASTRAY, assemble, verify};
use super::manifest::{ACCEPT, parse, turn};
use super::meaning::{Lookup, Meaning};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::{Refused, RegistryError};
use crate::image_ref::ImageRef;
use crate::registry::sites::{Ask, Capability, Document, Held, Remote, Site};
use crate::registry::transport::{Answer, FailedTry, Portion, Sought};
use crate::state::Platform;
use crate::threads::lock;
use crate::url::Url;

/// The number of times that a HEAD which fails inside the registry is sent before GET is tried
/// instead.
const HEAD_TRIES: u32 = 2;
/// The number of times that a document whose bytes are wrong is fetched again, as a layer is.
const CLEAN_RESTARTS: u32 = 2;

/// The largest signature that is kept for the run, in bytes: one that is larger is hardly one, and
/// would cost the others their place.
const MAX_KEPT_SIGNATURE: usize = 256 << 10;

/// Finds out what `reference` means for `platform`, see [`super::super::Registries::resolve`].
pub(crate) fn resolve(
    remote: &Remote,
    reference: &ImageRef,
    platform: &Platform,
    known: Option<&BlobDigest>,
) -> Result<Lookup, RegistryError> {
    // Without a digest to compare with, HEAD would be one request more; with mirrors it saves the
    // endpoint from serving the bytes.
    let direct = known.is_none() && remote.sites.len() == 1 && reference.digest().is_none();
    let meaning = if direct { Meaning::Unsaid } else { check(remote, reference, known)? };
    fetch(remote, reference, platform, known, &meaning)
}

/// Asks by HEAD what `reference` means, see [`super::super::Registries::check`]. Unless that fails
/// or nothing moved, the pull that it leads to is expected.
pub(crate) fn check(
    remote: &Remote,
    reference: &ImageRef,
    known: Option<&BlobDigest>,
) -> Result<Meaning, RegistryError> {
    let repository = Repository { remote, name: reference.repository(), awaited: &Cell::new(false) };
    let meaning = match reference.digest() {
        Some(pinned) => Ok(Meaning::Digest(pinned.clone())),
        None => repository.head(reference.tag().unwrap_or("latest")),
    };
    match (&meaning, known) {
        (Ok(Meaning::Digest(digest)), Some(known)) if digest == known => return Ok(Meaning::Same),
        (Ok(_), Some(_)) => remote.pulls.expect(),
        // A lookup without a known digest was announced.
        (Err(_), None) => remote.pulls.settle(),
        (Ok(_), None) | (Err(_), Some(_)) => {}
    }
    meaning
}

/// Fetches what `reference` means, see [`super::super::Registries::fetch`].
pub(crate) fn fetch(
    remote: &Remote,
    reference: &ImageRef,
    platform: &Platform,
    known: Option<&BlobDigest>,
    meaning: &Meaning,
) -> Result<Lookup, RegistryError> {
    let awaited = Cell::new(*meaning != Meaning::Same);
    let repository = Repository { remote, name: reference.repository(), awaited: &awaited };
    let found = repository.fetch(reference, platform, known, meaning);
    if awaited.take() {
        remote.pulls.settle();
    }
    found
}

/// Reads one document of the `repository`, of `size` bytes if that is known: see
/// [`super::super::Registries::document`].
pub(crate) fn read(
    remote: &Remote,
    repository: &str,
    kind: DocumentKind,
    digest: &BlobDigest,
    size: Option<u64>,
) -> Result<Held, RegistryError> {
    let repository = Repository { remote, name: repository, awaited: &Cell::new(false) };
    repository.document(kind, digest, size)
}

/// One repository while it is asked.
struct Repository<'a> {
    remote: &'a Remote,
    name: &'a str,
    /// True while a GET of a manifest is expected and still to come.
    awaited: &'a Cell<bool>,
}

impl Repository<'_> {
    fn fetch(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
        meaning: &Meaning,
    ) -> Result<Lookup, RegistryError> {
        let tag = reference.tag().unwrap_or("latest");
        let top = match meaning {
            Meaning::Same => return Ok(Lookup::Same),
            Meaning::Digest(digest) => match self.document(DocumentKind::Manifest, digest, None) {
                // It has moved on since, or is a registry that knows manifests by tag only.
                Err(RegistryError::Refused(answer)) if answer.is_absent() && reference.digest().is_none() => {
                    self.tagged(tag)?
                }
                document => document?,
            },
            Meaning::Unsaid => {
                let document = self.tagged(tag)?;
                if known == Some(&document.digest) {
                    return Ok(Lookup::Same);
                }
                document
            }
        };
        Ok(Lookup::Image(Box::new(assemble(self, reference, platform, top)?)))
    }

    /// Takes note of what `site`'s answer says of pulls; `counted` where it is one.
    fn hear(&self, site: &Site, answer: &Answer, counted: bool) {
        if !site.is_mirror() {
            let counted = counted && self.awaited.take();
            self.remote.pulls.hear(self.remote.network(), &self.remote.client.name.name, answer, counted);
        }
    }

    fn manifest_url(&self, site: &Site, tag_or_digest: &str) -> Url {
        site.url(&format!("/{}/manifests/{tag_or_digest}", self.name))
    }

    /// Asks by HEAD what `tag` means.
    fn head(&self, tag: &str) -> Result<Meaning, RegistryError> {
        let mut failures = 0;
        let answer = self.remote.anywhere(Capability::Resolve, None, |site| {
            let ask = Ask {
                method: Method::HEAD,
                accept: &ACCEPT,
                ..Ask::get(self.manifest_url(site, tag), Sought::Manifest)
            };
            // There is GET, where a server does not know HEAD.
            match self.remote.ask(site, self.name, &ask).map_err(FailedTry::with_a_way_round) {
                Ok(answer) => {
                    self.hear(site, &answer, false);
                    Ok(Some(answer))
                }
                Err(failed) if !site.is_mirror() && failed.may_pass() && is_of_the_server(&failed.error) => {
                    failures += 1;
                    let known = self.remote.heads_fail.load(Ordering::Relaxed);
                    if !known && failures < HEAD_TRIES {
                        return Err(failed);
                    }
                    // Should all of the registry be out of order, GET says so.
                    self.remote.heads_fail.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                Err(failed) => Err(failed),
            }
        });
        match answer {
            Ok(answer) => {
                let answer = answer.as_ref();
                let said = answer.and_then(|answer| answer.header("docker-content-digest"));
                let digest = said.and_then(|text| BlobDigest::parse(text).ok());
                Ok(digest.map_or(Meaning::Unsaid, Meaning::Digest))
            }
            // GET may be allowed where HEAD is not, and says why if it is not; a 401 has been dealt
            // with.
            Err(RegistryError::Refused(Refused { status: 400 | 402..=407 | 409..=428 | 501, .. })) => {
                Ok(Meaning::Unsaid)
            }
            Err(error) => Err(error),
        }
    }

    /// The document that `tag` means now.
    fn tagged(&self, tag: &str) -> Result<Held, RegistryError> {
        let mut portion = self.remote.portion();
        loop {
            if let Some(document) = self.tagged_within(&mut portion, tag)? {
                self.remote.cache.remember(&document);
                return Ok(Held::new(document, portion));
            }
            portion.wait(self.remote.manifest_size)?;
        }
    }

    /// The document that `tag` means now, if there is room for it in `portion`.
    fn tagged_within(
        &self,
        portion: &mut Portion,
        tag: &str,
    ) -> Result<Option<Arc<Document>>, RegistryError> {
        let limit = self.remote.manifest_size;
        let mut damaged = 0;
        self.remote.anywhere(Capability::Resolve, None, |site| {
            let ask = Ask { accept: &ACCEPT, ..Ask::get(self.manifest_url(site, tag), Sought::Manifest) };
            let answer = self.remote.ask(site, self.name, &ask)?;
            self.hear(site, &answer, true);
            let media_type = answer.header("content-type").map(str::to_owned);
            let said = answer.header("docker-content-digest").and_then(|text| BlobDigest::parse(text).ok());
            let (host, own) = (answer.url.host_port(), answer.own);
            let Some(bytes) = answer.read_document("the manifest", limit, portion)? else { return Ok(None) };
            let digest = if let Some(digest) = said {
                verify(&bytes, &digest, None).map_err(|source| {
                    let (what, host) = (format!("manifest {tag}"), host.clone());
                    fetch_again(
                        site,
                        &mut damaged,
                        RegistryError::Mismatch { what, host, source: source.into() },
                    )
                })?;
                digest
            } else {
                // Nothing to compare it with: what makes no sense may be damaged all the same.
                let digest = BlobDigest::of(Algorithm::Sha256, &bytes);
                let _turn = turn(&bytes);
                parse(&bytes, media_type.as_deref()).map_err(|reason| {
                    let (what, host) = (format!("manifest {digest}"), host.clone());
                    // A document to which a redirect led is not shown.
                    let reason = if own { reason } else { LED_ASTRAY.to_owned() };
                    fetch_again(site, &mut damaged, RegistryError::Document { what, host, reason })
                })?;
                digest
            };
            Ok(Some(Arc::new(Document { digest, bytes, media_type, host, unvouched: !own })))
        })
    }

    /// The document `digest`, of `size` bytes if that is known, if there is room for it in
    /// `portion`.
    fn document_within(
        &self,
        portion: &mut Portion,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Option<Arc<Document>>, RegistryError> {
        let (limit, what) = (self.remote.manifest_size, named(kind, digest));
        let slot = self.remote.cache.slot(digest);
        let mut place = lock(&slot);
        if let Some(document) = &*place
            && size.is_none_or(|size| size == document.bytes.len() as u64)
        {
            // The cache may give up the document while it is read here.
            return Ok(portion.grow(document.bytes.len() as u64).then(|| Arc::clone(document)));
        }
        let mut damaged = 0;
        // The size is known of what another document names.
        let sought = if size.is_some() { Sought::Child } else { Sought::Manifest };
        let document = self.remote.anywhere(Capability::Pull, Some(digest), |site| {
            let ask = match kind {
                DocumentKind::Manifest => {
                    Ask { accept: &ACCEPT, ..Ask::get(self.manifest_url(site, &digest.text()), sought) }
                }
                DocumentKind::Config | DocumentKind::Signature => {
                    Ask::get(site.url(&format!("/{}/blobs/{digest}", self.name)), Sought::Blob)
                }
            };
            let answer = self.remote.ask(site, self.name, &ask)?;
            self.hear(site, &answer, kind == DocumentKind::Manifest);
            let media_type = answer.header("content-type").map(str::to_owned);
            let host = answer.url.host_port();
            let Some(bytes) = answer.read_document(&what, limit, portion)? else { return Ok(None) };
            verify(&bytes, digest, size).map_err(|source| {
                // From now on the registry itself is asked.
                self.remote.distrust(digest);
                let (what, host) = (what.clone(), host.clone());
                fetch_again(site, &mut damaged, RegistryError::Mismatch { what, host, source: source.into() })
            })?;
            let digest = digest.clone();
            Ok(Some(Arc::new(Document { digest, bytes, media_type, host, unvouched: false })))
        })?;
        let Some(document) = document else { return Ok(None) };
        if kind != DocumentKind::Signature || document.bytes.len() <= MAX_KEPT_SIGNATURE {
            self.remote.cache.keep(&slot, &mut place, &document);
        }
        Ok(Some(document))
    }
}

/// Tells whether the server failed, and not the way to it.
fn is_of_the_server(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused(Refused { status: 500.., .. }) | RegistryError::Protocol { .. })
}

/// The failure of a try that got other bytes than those it asked for: a bit may have flipped on the
/// way, or in a cache. A mirror gets no second chance.
pub(crate) fn fetch_again(site: &Site, damaged: &mut u32, error: RegistryError) -> FailedTry {
    *damaged += 1;
    if !site.is_mirror() && *damaged <= CLEAN_RESTARTS { FailedTry::transient(error) } else { error.into() }
}

impl Documents for Repository<'_> {
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Held, RegistryError> {
        let limit = self.remote.manifest_size;
        if size.is_some_and(|size| size > limit) {
            let (what, host) = (named(kind, digest), self.remote.client.name.name.clone());
            return Err(RegistryError::TooLarge { what, host, limit });
        }
        let mut portion = self.remote.portion();
        // Where the size is known, no question has to be put twice.
        portion.wait(size.unwrap_or_default())?;
        loop {
            if let Some(document) = self.document_within(&mut portion, kind, digest, size)? {
                return Ok(Held::new(document, portion));
            }
            // Not while the document's place is locked: others that have a portion may wait for it.
            portion.wait(limit)?;
        }
    }
}

/// The words for a document in errors.
fn named(kind: DocumentKind, digest: &BlobDigest) -> String {
    format!("{} {digest}", kind.as_str())
}
