//! The question for referrers, as it is put to the sites of a registry.
//!
//! Mirrors come first: what they have proves itself by its digest, whoever serves it. Their
//! failures and what they lack mean nothing; the endpoint decides. A site is asked by the API, and
//! by the tag that stands in for it where there is none or where it has no candidate.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use oci_spec::image::MediaType;

use super::artifact::{Artifact, Listed, MAX_SIZE, list, tag_of};
use super::asked::{Asked, List};
use super::hearing::{Belongs, Hearing};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::{Refused, RegistryError};
use crate::registry::documents::{
    ACCEPT, DocumentKind, Documents, LED_ASTRAY, fetch_again, next_page, read as read_document, verify,
};
use crate::registry::sites::{Ask, Capability, Document, Held, Remote, Site};
use crate::registry::transport::{Answer, Clock, FailedTry, Portion, Sought};
use crate::state::{MAX_CANDIDATES, SignaturePlace};
use crate::url::Url;

/// Pages of one list that are read: each may have a single artifact.
const MAX_PAGES: usize = MAX_CANDIDATES;
/// The number of exchanges whose time a whole list gets.
const EXCHANGES: u32 = 10;

/// Puts the question of `hearing` to `remote`, about an image of `repository`.
///
/// # Errors
/// Any [`RegistryError`] of the endpoint, unless the question is answered.
pub(crate) fn ask(
    remote: &Remote,
    asked: &Asked,
    repository: &str,
    mut hearing: Hearing<'_>,
) -> Result<(), RegistryError> {
    for index in remote.candidates(Capability::Pull, None) {
        if asked.is_given_up(index, repository) {
            continue;
        }
        let place = Place { remote, asked, index, site: &remote.sites[index], repository };
        match place.ask(&mut hearing) {
            Ok(ControlFlow::Break(())) => return Ok(()),
            Ok(ControlFlow::Continue(())) => {}
            Err(error) if place.site.is_mirror() && !matches!(error, RegistryError::Stopped) => {
                place.give_up(&error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The artifacts of one page of a list, and the place of the next page.
type Page = (Vec<Option<Listed>>, Option<Url>);

/// A repository at one site.
struct Place<'a> {
    remote: &'a Remote,
    asked: &'a Asked,
    index: usize,
    site: &'a Site,
    repository: &'a str,
}

impl Place<'_> {
    /// Puts the question to this site alone.
    fn ask(&self, hearing: &mut Hearing<'_>) -> Result<ControlFlow<()>, RegistryError> {
        hearing.begin();
        let mut no_api = None;
        if hearing.place == SignaturePlace::Referrers {
            match self.by_api(hearing.subject) {
                Ok(list) => {
                    if self.look(&list, Belongs::Says, hearing)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(error) if says_no_api(&error) => no_api = Some(error),
                Err(error) => return Err(error),
            }
        }
        if !hearing.has_heard()
            && let Some(tag) = tag_of(hearing.subject, hearing.place)
        {
            let list = self.by_tag(&tag, hearing.place)?;
            if self.look(&list, Belongs::Unsaid, hearing)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let ended = hearing.end();
        if !self.site.is_mirror() {
            ended?;
        }
        no_api.map_or(Ok(ControlFlow::Continue(())), Err)
    }

    /// Takes note that this mirror could not be asked.
    fn give_up(&self, error: &RegistryError) {
        use RegistryError::{Slow, Stalled, Tls, Unreachable};
        if matches!(error, Unreachable { .. } | Stalled { .. } | Slow { .. } | Tls { .. }) {
            self.remote.mirror_failed(self.index, error);
        } else {
            // It may be as good as ever for images.
            self.asked.give_up(self.index, self.repository);
            let text = format!("mirror {}: {error}; asking elsewhere", self.site.base);
            self.remote.network().detail(text);
        }
    }

    /// Looks at the artifacts of one list. That of a mirror may be wrong.
    fn look(
        &self,
        list: &List,
        belongs: Belongs,
        hearing: &mut Hearing<'_>,
    ) -> Result<ControlFlow<()>, RegistryError> {
        for listed in &**list {
            match hearing.look(self, listed, belongs) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                Err(error) if self.site.is_mirror() && !matches!(error, RegistryError::Stopped) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Lists what refers to `subject` by the API for that; nothing where there is none.
    fn by_api(&self, subject: &BlobDigest) -> Result<List, RegistryError> {
        if self.asked.has_no_api(self.index, self.repository) {
            return Ok(List::default());
        }
        let path = format!("/{}/referrers/{subject}", self.repository);
        self.asked.list(self.index, &path, || match self.pages(&path) {
            Err(RegistryError::Refused(answer)) if answer.is_absent() => {
                self.asked.note_no_api(self.index, self.repository);
                Ok(Vec::new())
            }
            list => list,
        })
    }

    /// Reads the pages of the list at `path`, as far as artifacts are looked at.
    fn pages(&self, path: &str) -> Result<Vec<Listed>, RegistryError> {
        let Self { remote, site, .. } = self;
        let limit = remote.network().waits.exchange.saturating_mul(EXCHANGES);
        let mut clock = Clock::start(limit);
        let mut portion = remote.portion();
        let slow = || RegistryError::Slow { url: site.url(path).to_string(), limit };
        let (mut url, mut visited) = (site.url(path), HashSet::new());
        let mut entries = Vec::new();
        loop {
            if !visited.insert(url.whole()) {
                return Err(refused(site, "its pages go round in circles".to_owned()));
            }
            let page = remote.persist(site, || {
                if clock.is_over() { Err(slow().into()) } else { clock.run(|| self.page(&url, &mut portion)) }
            });
            let next = match page {
                // The first page alone tells whether there is such a list.
                Err(RegistryError::Refused(answer)) if answer.is_absent() && visited.len() > 1 => {
                    return Err(refused(site, "a page of it is not there (HTTP 404)".to_owned()));
                }
                Err(RegistryError::Slow { .. }) if clock.is_over() => return Err(slow()),
                Err(error) => return Err(error),
                Ok(None) => {
                    let since = Instant::now();
                    portion.wait(MAX_SIZE)?;
                    // The site has no part in that wait.
                    clock = clock.later(since.elapsed());
                    visited.remove(&url.whole());
                    continue;
                }
                Ok(Some((more, next))) => {
                    entries.extend(more);
                    next
                }
            };
            portion.shrink(0);
            let Some(next) = next.filter(|_| entries.len() < MAX_CANDIDATES) else {
                entries.truncate(MAX_CANDIDATES);
                return Ok(entries.into_iter().flatten().collect());
            };
            if visited.len() >= MAX_PAGES {
                return Err(refused(site, "it has too many pages".to_owned()));
            }
            url = next;
        }
    }

    /// Reads one page, if there is room for it in `portion`, and finds out where the next one is.
    fn page(&self, url: &Url, portion: &mut Portion) -> Result<Option<Page>, FailedTry> {
        let Self { remote, site, repository, .. } = self;
        let accept = MediaType::ImageIndex;
        let ask = Ask { accept: accept.as_ref(), ..Ask::get(url.clone(), Sought::Referrers) };
        // There is the tag, where a server does not know such requests.
        let answer = remote.ask(site, repository, &ask).map_err(FailedTry::with_a_way_round)?;
        let next = next_page(remote.network(), &answer).map_err(|reason| refused(site, reason))?;
        let next = next.map(|link| url.join(&link)).transpose();
        let next = next.map_err(|reason| refused(site, format!("its next page: {reason}")))?;
        let own = answer.own;
        let Some(bytes) = read(answer, site, portion)? else { return Ok(None) };
        let page = list(&bytes).and_then(|page| page.ok_or_else(|| "it is no index".to_owned()));
        // Words about a document to which a redirect led are not shown.
        let page = page.map_err(|reason| refused(site, if own { reason } else { LED_ASTRAY.to_owned() }))?;
        // A server that stands before the registry is not known to it: only path and query count.
        Ok(Some((page, next.map(|next| site.page(&next)))))
    }

    /// Lists what is kept under `tag`: an index of artifacts, or one artifact itself.
    fn by_tag(&self, tag: &str, place: SignaturePlace) -> Result<List, RegistryError> {
        let path = format!("/{}/manifests/{tag}", self.repository);
        self.asked.list(self.index, &path, || {
            let document = match self.tagged(&path) {
                Err(RegistryError::Refused(answer)) if answer.is_absent() => return Ok(Vec::new()),
                document => document?,
            };
            let refused =
                |reason| refused(self.site, if document.unvouched { LED_ASTRAY.to_owned() } else { reason });
            if place == SignaturePlace::Referrers {
                let list = list(&document.bytes).map_err(refused)?;
                // The tag is anybody's, and a manifest there lists nothing.
                return Ok(list.unwrap_or_default().into_iter().flatten().collect());
            }
            // Some answer is no artifact, and not the news that there is none.
            Artifact::read(&document.bytes).map_err(refused)?;
            self.remote.cache.remember(&document);
            Ok(vec![Listed { digest: document.digest.clone(), size: Some(document.bytes.len() as u64) }])
        })
    }

    /// Fetches the document at `path`.
    fn tagged(&self, path: &str) -> Result<Held, RegistryError> {
        let mut portion = self.remote.portion();
        loop {
            if let Some(document) = self.tagged_within(path, &mut portion)? {
                return Ok(Held::new(document, portion));
            }
            portion.wait(MAX_SIZE)?;
        }
    }

    /// Fetches the document at `path`, if there is room for it in `portion`.
    fn tagged_within(
        &self,
        path: &str,
        portion: &mut Portion,
    ) -> Result<Option<Arc<Document>>, RegistryError> {
        let Self { remote, site, repository, .. } = self;
        let mut damaged = 0;
        remote.persist(site, || {
            let ask = Ask { accept: &ACCEPT, ..Ask::get(site.url(path), Sought::Manifest) };
            let answer = remote.ask(site, repository, &ask)?;
            let said = answer.header("docker-content-digest").and_then(|text| BlobDigest::parse(text).ok());
            let media_type = answer.header("content-type").map(str::to_owned);
            let (host, unvouched) = (answer.url.host_port(), !answer.own);
            let Some(bytes) = read(answer, site, portion)? else { return Ok(None) };
            if let Some(digest) = &said {
                verify(&bytes, digest, None).map_err(|source| {
                    let (what, host) = (format!("manifest {digest}"), host.clone());
                    fetch_again(
                        site,
                        &mut damaged,
                        RegistryError::Mismatch { what, host, source: source.into() },
                    )
                })?;
            }
            // Half a document that its sender takes for a whole one is no artifact, and none less.
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                .map_err(|_| fetch_again(site, &mut damaged, refused(site, "it is not JSON".to_owned())))?;
            let digest = said.unwrap_or_else(|| BlobDigest::of(Algorithm::Sha256, &bytes));
            Ok(Some(Arc::new(Document { digest, bytes, media_type, host, unvouched })))
        })
    }
}

impl Documents for Place<'_> {
    fn document(
        &self,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Held, RegistryError> {
        read_document(self.remote, self.repository, kind, digest, size)
    }
}

/// Reads a list, or a document that may be one, if there is room for it in `portion`.
fn read(answer: Answer, site: &Site, portion: &mut Portion) -> Result<Option<Vec<u8>>, FailedTry> {
    answer.read_document("the list of referrers", MAX_SIZE, portion).map_err(|failed| match failed.error {
        RegistryError::TooLarge { .. } => {
            refused(site, format!("it is larger than {} MiB", MAX_SIZE >> 20)).into()
        }
        error => FailedTry { error, ..failed },
    })
}

/// True if `error`, the API's, is one that registries without the API answer with: the tag may be
/// there, and nobody has said that nothing is.
fn says_no_api(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Refused(Refused { status: 400 | 405 | 406 | 501, .. })
            | RegistryError::Document { .. }
    )
}

fn refused(site: &Site, reason: String) -> RegistryError {
    RegistryError::Document { what: "the list of referrers".to_owned(), host: site.base.host_port(), reason }
}
