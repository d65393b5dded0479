//! One repository of a registry: what a tag means, and documents by digest.
//!
//! Documents are kept for the run, so that images which share one fetch it once; threads that want the same one wait
//! for the first.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use ureq::http::Method;

use super::documents::{ACCEPT, Document, parse};
use super::failure::Failure;
use super::http::Answer;
use super::remote::{Ask, Remote, Site, Wanted};
use super::resolve::{Documents, LED_ASTRAY, Role, assemble, verify};
use super::shared::lock;
use super::{Lookup, Meaning};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::state::Platform;
use crate::url::Url;

/// How often a HEAD that fails inside the registry is sent before GET is tried instead.
const HEAD_TRIES: u32 = 2;
/// How often a document whose bytes are wrong is fetched again, as a layer is.
const CLEAN_RESTARTS: u32 = 2;

/// Documents by digest; the inner lock makes threads that want the same one wait for the first.
#[derive(Default)]
pub(super) struct Cache {
    slots: HashMap<BlobDigest, Slot>,
    /// What the documents here count in what all registries keep.
    bytes: u64,
}

type Slot = Arc<Mutex<Option<Arc<Document>>>>;

impl Remote {
    /// See [`super::Registries::resolve`].
    pub(super) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        // Without a digest to compare with, HEAD would be one request more; with mirrors it saves the endpoint from
        // serving the bytes.
        let direct = known.is_none() && self.sites.len() == 1 && reference.digest().is_none();
        let meaning = if direct { Meaning::Unsaid } else { self.check(reference, known)? };
        self.fetch(reference, platform, known, &meaning)
    }

    /// See [`super::Registries::check`]. Unless it fails or nothing moved, the pull that it leads to is expected.
    pub(super) fn check(
        &self,
        reference: &ImageRef,
        known: Option<&BlobDigest>,
    ) -> Result<Meaning, RegistryError> {
        let repository =
            Repository { remote: self, name: reference.repository(), awaited: &Cell::new(false) };
        let meaning = match reference.digest() {
            Some(pinned) => Ok(Meaning::Digest(pinned.clone())),
            None => repository.head(reference.tag().unwrap_or("latest")),
        };
        match (&meaning, known) {
            (Ok(Meaning::Digest(digest)), Some(known)) if digest == known => return Ok(Meaning::Same),
            (Ok(_), Some(_)) => self.pulls.expect(),
            // Who asks without a known digest has announced it.
            (Err(_), None) => self.pulls.settle(),
            (Ok(_), None) | (Err(_), Some(_)) => {}
        }
        meaning
    }

    /// See [`super::Registries::fetch`].
    pub(super) fn fetch(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
        meaning: &Meaning,
    ) -> Result<Lookup, RegistryError> {
        let awaited = Cell::new(*meaning != Meaning::Same);
        let repository = Repository { remote: self, name: reference.repository(), awaited: &awaited };
        let found = repository.fetch(reference, platform, known, meaning);
        if awaited.take() {
            self.pulls.settle();
        }
        found
    }

    fn slot(&self, digest: &BlobDigest) -> Slot {
        Arc::clone(lock(&self.cache).slots.entry(digest.clone()).or_default())
    }

    /// Keeps `document` in `place`, the content of its `slot`, as far as there is room for it.
    fn keep(&self, slot: &Slot, place: &mut Option<Arc<Document>>, document: &Arc<Document>) {
        let bytes = document.bytes.len() as u64;
        let mut cache = lock(&self.cache);
        let mut fits = self.shared().reserve(bytes);
        if !fits && cache.bytes > 0 {
            // What is in use elsewhere lives on there.
            self.shared().release(cache.bytes);
            *cache = Cache::default();
            fits = self.shared().reserve(bytes);
        }
        if fits {
            cache.bytes += bytes;
            cache.slots.insert(document.digest.clone(), Arc::clone(slot));
            *place = Some(Arc::clone(document));
        }
    }

    fn remember(&self, document: &Arc<Document>) {
        let slot = self.slot(&document.digest);
        let mut place = lock(&slot);
        if place.is_none() {
            self.keep(&slot, &mut place, document);
        }
    }
}

struct Repository<'a> {
    remote: &'a Remote,
    name: &'a str,
    /// Whether a GET of a manifest is expected and still to come.
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
            Meaning::Digest(digest) => match self.document(Role::Manifest, digest, None) {
                // It has moved on since, or is a registry that knows manifests by tag only.
                Err(RegistryError::Refused { status: 404, .. }) if reference.digest().is_none() => {
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
        if site.own {
            let counted = counted && self.awaited.take();
            self.remote.pulls.hear(self.remote.shared(), &self.remote.client.registry, answer, counted);
        }
    }

    fn manifest_url(&self, site: &Site, tag_or_digest: &str) -> Url {
        site.url(&format!("/{}/manifests/{tag_or_digest}", self.name))
    }

    /// What `tag` means, by HEAD.
    fn head(&self, tag: &str) -> Result<Meaning, RegistryError> {
        let mut failures = 0;
        let answer = self.remote.anywhere(Wanted::Meaning, None, |site| {
            let ask = Ask {
                method: Method::HEAD,
                accept: ACCEPT,
                unknown: "manifest unknown",
                ..Ask::get(self.manifest_url(site, tag))
            };
            match self.remote.ask(site, self.name, &ask) {
                Ok(answer) => {
                    self.hear(site, &answer, false);
                    Ok(Some(answer))
                }
                Err(failure) if site.own && failure.may_pass() && is_of_the_server(&failure.error) => {
                    failures += 1;
                    let known = self.remote.heads_fail.load(Ordering::Relaxed);
                    if !known && failures < HEAD_TRIES {
                        return Err(failure);
                    }
                    // Should all of the registry be out of order, GET says so.
                    self.remote.heads_fail.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                Err(failure) => Err(failure),
            }
        });
        match answer {
            Ok(answer) => {
                let answer = answer.as_ref();
                let said = answer.and_then(|answer| answer.header("docker-content-digest"));
                let digest = said.and_then(|text| BlobDigest::parse(text).ok());
                Ok(digest.map_or(Meaning::Unsaid, Meaning::Digest))
            }
            // GET may be allowed where HEAD is not, and says why if it is not; a 401 has been dealt with.
            Err(RegistryError::Refused { status: 400 | 402..=407 | 409..=428 | 501, .. }) => {
                Ok(Meaning::Unsaid)
            }
            Err(error) => Err(error),
        }
    }

    /// The document that `tag` means now.
    fn tagged(&self, tag: &str) -> Result<Arc<Document>, RegistryError> {
        let limit = self.remote.shared().limits.manifest_size;
        let mut damaged = 0;
        let document = self.remote.anywhere(Wanted::Meaning, None, |site| {
            let ask =
                Ask { accept: ACCEPT, unknown: "manifest unknown", ..Ask::get(self.manifest_url(site, tag)) };
            let answer = self.remote.ask(site, self.name, &ask)?;
            self.hear(site, &answer, true);
            let media_type = answer.header("content-type").map(str::to_owned);
            let said = answer.header("docker-content-digest").and_then(|text| BlobDigest::parse(text).ok());
            let (host, own) = (answer.url.host_port(), answer.own);
            let bytes = answer.read(&self.remote.client, "the manifest", limit)?;
            let digest = if let Some(digest) = said {
                verify(&bytes, &digest, None).map_err(|source| {
                    let (what, host) = (format!("manifest {tag}"), host.clone());
                    fetch_again(site, &mut damaged, RegistryError::Mismatch { what, host, source })
                })?;
                digest
            } else {
                // Nothing to compare it with: what makes no sense may be damaged all the same.
                let digest = BlobDigest::of(Algorithm::Sha256, &bytes);
                parse(&bytes, media_type.as_deref()).map_err(|reason| {
                    let (what, host) = (format!("manifest {digest}"), host.clone());
                    // What a redirect led to is not shown.
                    let reason = if own { reason } else { LED_ASTRAY.to_owned() };
                    fetch_again(site, &mut damaged, RegistryError::Document { what, host, reason })
                })?;
                digest
            };
            Ok(Arc::new(Document { digest, bytes, media_type, host, unvouched: !own }))
        })?;
        self.remote.remember(&document);
        Ok(document)
    }
}

/// Whether the server failed, and not the way to it.
fn is_of_the_server(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused { status: 500.., .. } | RegistryError::Protocol { .. })
}

/// The failure of a try that got other bytes than those it asked for: a bit may have flipped on the way, or in a cache.
/// A mirror gets no second chance.
fn fetch_again(site: &Site, damaged: &mut u32, error: RegistryError) -> Failure {
    *damaged += 1;
    if site.own && *damaged <= CLEAN_RESTARTS { Failure::transient(error) } else { error.into() }
}

impl Documents for Repository<'_> {
    fn document(
        &self,
        role: Role,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Arc<Document>, RegistryError> {
        let limit = self.remote.shared().limits.manifest_size;
        let what = format!("{} {digest}", role.as_str());
        if size.is_some_and(|size| size > limit) {
            let host = self.remote.client.registry.clone();
            return Err(RegistryError::TooLarge { what, host, limit });
        }
        let slot = self.remote.slot(digest);
        let mut place = lock(&slot);
        if let Some(document) = &*place
            && size.is_none_or(|size| size == document.bytes.len() as u64)
        {
            return Ok(Arc::clone(document));
        }
        let mut damaged = 0;
        let document = self.remote.anywhere(Wanted::Bytes, Some(digest), |site| {
            let ask = match role {
                Role::Manifest => Ask {
                    accept: ACCEPT,
                    unknown: "manifest unknown",
                    ..Ask::get(self.manifest_url(site, digest.as_str()))
                },
                Role::Config => Ask {
                    unknown: "blob unknown",
                    ..Ask::get(site.url(&format!("/{}/blobs/{digest}", self.name)))
                },
            };
            let answer = self.remote.ask(site, self.name, &ask)?;
            self.hear(site, &answer, role == Role::Manifest);
            let media_type = answer.header("content-type").map(str::to_owned);
            let host = answer.url.host_port();
            let bytes = answer.read(&self.remote.client, &what, limit)?;
            verify(&bytes, digest, size).map_err(|source| {
                // From now on the registry itself is asked.
                self.remote.distrust(digest);
                let (what, host) = (what.clone(), host.clone());
                fetch_again(site, &mut damaged, RegistryError::Mismatch { what, host, source })
            })?;
            let digest = digest.clone();
            Ok(Arc::new(Document { digest, bytes, media_type, host, unvouched: false }))
        })?;
        self.remote.keep(&slot, &mut place, &document);
        Ok(document)
    }
}
