//! One registry on a server: its endpoint, its mirrors, and what is asked of them.
//!
//! Mirrors are tried first for bytes (what has a digest can be checked, whoever serves it); what a tag means
//! is believed from the endpoint only, or from a mirror that the user trusts with it. A mirror that fails costs one
//! line and is left alone for a while; the endpoint's failure is the one that counts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderName, HeaderValue, Method};

use super::Lookup;
use super::auth::{Authorizer, Party};
use super::blob::HttpBlob;
use super::credentials::Credentials;
use super::documents::{ACCEPT, Document};
use super::http::{Answer, Client, Failure, Request, Shared, TRIES, lock, printable};
use super::resolve::{Documents, Role, assemble, verify};
use super::url::{Url, is_loopback};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::RegistryError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{LayerDescriptor, Platform, RegistrySettings};

/// Where docker.io's registry really is.
pub(super) const DOCKER_HUB: &str = "https://registry-1.docker.io";
/// How often a mirror is tried before the next one is: the endpoint is there to save the day.
pub(super) const MIRROR_TRIES: u32 = 2;
/// How long a mirror that failed is left alone.
const MIRROR_REST: Duration = Duration::from_secs(60);
/// Documents kept for the run, in bytes.
const MAX_CACHE: usize = 32 << 20;
/// One page of tags, in bytes.
const MAX_TAG_PAGE: u64 = 32 << 20;
/// Pages of tags that are read.
const MAX_TAG_PAGES: usize = 1000;
/// Tags that are kept.
const MAX_TAGS: usize = 1_000_000;
/// Headers that `headers` must not set, because the exchange itself depends on them.
const RESERVED_HEADERS: [&str; 9] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "host",
    "proxy-authorization",
    "range",
    "te",
    "transfer-encoding",
];

/// The endpoint or a mirror.
pub(super) struct Site {
    pub(super) base: Url,
    /// The endpoint itself, which gets credentials and headers.
    pub(super) own: bool,
    /// Whether it may say what a tag means.
    resolves: bool,
}

pub(super) struct Remote {
    pub(super) client: Client,
    authorizer: Authorizer,
    credentials: Credentials,
    /// Mirrors in order, the endpoint last.
    sites: Vec<Site>,
    own_headers: Vec<(HeaderName, HeaderValue)>,
    cache: Mutex<Cache>,
    /// Blobs that came damaged, and are therefore fetched from the endpoint only.
    distrusted: Mutex<HashSet<BlobDigest>>,
    /// Mirrors that failed, and when.
    resting: Mutex<HashMap<usize, Instant>>,
}

/// Documents by digest; the inner lock makes threads that want the same one wait for the first.
#[derive(Default)]
struct Cache {
    slots: HashMap<BlobDigest, Arc<Mutex<Option<Arc<Document>>>>>,
    bytes: usize,
}

impl Remote {
    /// The registry `name` with `settings`; its credentials are filed under `account`.
    ///
    /// # Errors
    /// Settings that cannot be used, and credentials that the images file promises but that are not there.
    pub(super) fn new(
        shared: &Arc<Shared>,
        name: &str,
        account: &str,
        settings: &RegistrySettings,
    ) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::Settings { registry: name.to_owned(), reason };
        let base = |what: &str, text: &str| {
            let url = Url::parse(text).map_err(|reason| fail(format!("{what}: {reason}")))?;
            // The text itself would show what stands before the @.
            if text
                .split("://")
                .nth(1)
                .is_some_and(|rest| rest.split(['/', '?']).next().unwrap_or("").contains('@'))
            {
                return Err(fail(format!(
                    "{what}: credentials do not belong into the URL of {}",
                    url.host_port()
                )));
            }
            Ok(url)
        };
        let endpoint = match &settings.endpoint {
            Some(endpoint) => base("endpoint", endpoint)?,
            None if name == DEFAULT_REGISTRY => base("endpoint", DOCKER_HUB)?,
            None => {
                let host = match name.rsplit_once(':') {
                    Some((host, _)) if !host.is_empty() => host,
                    _ => name,
                };
                let scheme = if is_loopback(host) || is_loopback(name) { "http" } else { "https" };
                base("its name", &format!("{scheme}://{name}"))?
            }
        };
        let mut sites = Vec::with_capacity(settings.mirrors.len() + 1);
        for mirror in &settings.mirrors {
            sites.push(Site { base: base("mirrors", &mirror.url)?, own: false, resolves: mirror.resolve });
        }
        // Mirrors from containerd's hosts.toml files (`hosts-dir`) belong here, before the endpoint.
        sites.push(Site { base: endpoint.clone(), own: true, resolves: true });
        let mut own_headers = Vec::with_capacity(settings.headers.len());
        for (header, value) in &settings.headers {
            let shown = printable(header, 60);
            let header = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| fail(format!("headers: {shown:?} is no header name")))?;
            if RESERVED_HEADERS.contains(&header.as_str()) {
                return Err(fail(format!("headers: {shown} cannot be set")));
            }
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| fail(format!("headers: the value of {shown} cannot be sent")))?;
            value.set_sensitive(true);
            own_headers.push((header, value));
        }
        let mirrors: Vec<Url> = sites.iter().filter(|site| !site.own).map(|site| site.base.clone()).collect();
        let credentials = Credentials::new(account, settings, &shared.environment)?;
        Ok(Self {
            client: Client::new(Arc::clone(shared), name.to_owned(), settings.clone(), endpoint, &mirrors),
            authorizer: Authorizer::default(),
            credentials,
            sites,
            own_headers,
            cache: Mutex::default(),
            distrusted: Mutex::default(),
            resting: Mutex::default(),
        })
    }

    fn shared(&self) -> &Shared {
        &self.client.shared
    }

    pub(super) fn site(&self, site: usize) -> &Site {
        &self.sites[site]
    }

    // ---------------------------------------------------------------------------------------- one request

    /// One try of a request for `repository`, authenticated as need be. Statuses of 300 and more are failures.
    pub(super) fn ask(&self, site: &Site, repository: &str, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let party = Party {
            client: &self.client,
            base: &site.base,
            repository,
            credentials: site.own.then_some(&self.credentials),
        };
        let mut pass = self.authorizer.pass(&party)?;
        let mut renewed = false;
        loop {
            let request = Request {
                method: ask.method.clone(),
                from: ask.from,
                authorization: pass.header.as_ref(),
                own_headers: if site.own { &self.own_headers } else { &[] },
                ..Request::get(&ask.url, ask.accept)
            };
            let answer = self.client.send(&request)?;
            match answer.status {
                200 | 206 => return Ok(answer),
                401 if answer.own && !renewed => {
                    if let Some(better) = self.authorizer.challenged(&party, &pass, &answer.headers)? {
                        answer.discard();
                        pass = better;
                        renewed = true;
                        continue;
                    }
                }
                400.. => {}
                status => {
                    let reason = format!("unexpected HTTP status {status}");
                    let url = answer.url.to_string();
                    return Err(RegistryError::Protocol { url, reason }.into());
                }
            }
            return Err(self.client.refusal(answer, ask.unknown, pass.header.as_ref(), pass.authenticated));
        }
    }

    /// Sites in the order in which they are tried: for bytes, or for what a tag means.
    pub(super) fn candidates(&self, for_tag: bool, digest: Option<&BlobDigest>) -> Vec<usize> {
        let own_only = digest.is_some_and(|digest| lock(&self.distrusted).contains(digest));
        let resting = lock(&self.resting);
        let rests = |index: usize| resting.get(&index).is_some_and(|since| since.elapsed() < MIRROR_REST);
        let wanted = |(index, site): &(usize, &Site)| {
            site.own || (!own_only && (!for_tag || site.resolves) && !rests(*index))
        };
        self.sites.iter().enumerate().filter(wanted).map(|(index, _)| index).collect()
    }

    /// Takes note that a mirror failed.
    pub(super) fn mirror_failed(&self, site: usize, error: &RegistryError) {
        if !matches!(error, RegistryError::Refused { status: 400..=499, .. } | RegistryError::Mismatch { .. })
        {
            lock(&self.resting).insert(site, Instant::now());
        }
        self.shared().detail(format!("mirror {}: {error}; trying elsewhere", self.sites[site].base));
    }

    /// From now on `digest` is fetched from the endpoint only.
    pub(super) fn distrust(&self, digest: &BlobDigest) {
        lock(&self.distrusted).insert(digest.clone());
    }

    fn anywhere<T>(
        &self,
        for_tag: bool,
        mut attempt: impl FnMut(&Site) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        for index in self.candidates(for_tag, None) {
            let site = &self.sites[index];
            let tries = if site.own { TRIES } else { MIRROR_TRIES };
            match self.shared().retry(tries, || attempt(site)) {
                Err(error) if !site.own && !matches!(error, RegistryError::Stopped) => {
                    self.mirror_failed(index, &error);
                }
                result => return result,
            }
        }
        // Not reached: the endpoint is always a candidate, and the last one.
        Err(RegistryError::Settings {
            registry: self.client.registry.clone(),
            reason: "no endpoint".to_owned(),
        })
    }

    // ------------------------------------------------------------------------------------------- documents

    /// See [`super::Registries::resolve`].
    pub(super) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        let repository = Repository { remote: self, name: reference.repository() };
        let top = if let Some(pinned) = reference.digest() {
            if known == Some(pinned) {
                return Ok(Lookup::Same);
            }
            repository.document(Role::Manifest, pinned, None)?
        } else {
            let tag = reference.tag().unwrap_or("latest");
            let mirrored = self.sites.len() > 1;
            // Without a digest to compare with, HEAD would be one request more; with mirrors it saves the
            // endpoint from serving the bytes.
            let head = if known.is_some() || mirrored { repository.head(tag)? } else { None };
            match head {
                Some(digest) if known == Some(&digest) => return Ok(Lookup::Same),
                Some(digest) => repository.document(Role::Manifest, &digest, None)?,
                None => {
                    let document = repository.tagged(tag)?;
                    if known == Some(&document.digest) {
                        return Ok(Lookup::Same);
                    }
                    document
                }
            }
        };
        Ok(Lookup::Image(Box::new(assemble(&repository, reference, platform, top)?)))
    }

    fn slot(&self, digest: &BlobDigest) -> Arc<Mutex<Option<Arc<Document>>>> {
        let mut cache = lock(&self.cache);
        if cache.bytes > MAX_CACHE {
            *cache = Cache::default();
        }
        Arc::clone(cache.slots.entry(digest.clone()).or_default())
    }

    fn remember(&self, document: &Arc<Document>) {
        let slot = self.slot(&document.digest);
        let mut slot = lock(&slot);
        if slot.is_none() {
            lock(&self.cache).bytes += document.bytes.len();
            *slot = Some(Arc::clone(document));
        }
    }

    fn report_rate_limit(&self, answer: &Answer) {
        // Docker Hub: `76;w=21600`.
        let number =
            |name: &str| answer.header(name).and_then(|text| text.split(';').next()?.parse::<u64>().ok());
        if let Some(left) = number("ratelimit-remaining") {
            let of = number("ratelimit-limit").map(|limit| format!(" of {limit}")).unwrap_or_default();
            self.shared().detail(format!("{}: {left}{of} pulls left", self.client.registry));
        }
    }

    // ------------------------------------------------------------------------------------------------ blobs

    /// See [`super::Registries::blob`].
    pub(super) fn blob(
        self: &Arc<Self>,
        reference: &ImageRef,
        layer: &LayerDescriptor,
        offset: u64,
    ) -> Result<HttpBlob, RegistryError> {
        HttpBlob::open(Arc::clone(self), reference.repository(), layer, offset)
    }

    // ------------------------------------------------------------------------------------------------- tags

    /// See [`super::Registries::tags`].
    pub(super) fn tags(&self, reference: &ImageRef) -> Result<Vec<String>, RegistryError> {
        let repository = reference.repository();
        let mut found = None;
        for index in self.candidates(true, None) {
            let site = &self.sites[index];
            match self.tags_of(site, repository) {
                Err(error) if !site.own && !matches!(error, RegistryError::Stopped) => {
                    self.mirror_failed(index, &error);
                }
                result => {
                    found = Some(result?);
                    break;
                }
            }
        }
        let mut tags = found.unwrap_or_default();
        // What is no tag cannot be asked for.
        tags.retain(|tag| reference.with_tag(tag).is_ok());
        Ok(tags.into_iter().collect())
    }

    fn tags_of(&self, site: &Site, repository: &str) -> Result<BTreeSet<String>, RegistryError> {
        let mut url = site.base.with_suffix(&format!("/v2/{repository}/tags/list?n=1000"));
        let mut visited = HashSet::new();
        let mut tags = BTreeSet::new();
        let tries = if site.own { TRIES } else { MIRROR_TRIES };
        loop {
            let refuse = |reason: String| RegistryError::Document {
                what: "the tag list".to_owned(),
                host: site.base.host_port(),
                reason,
            };
            if !visited.insert(url.whole()) {
                return Err(refuse("its pages go round in circles".to_owned()));
            }
            if visited.len() > MAX_TAG_PAGES || tags.len() > MAX_TAGS {
                return Err(refuse("it does not end".to_owned()));
            }
            let ask =
                Ask { accept: "application/json", unknown: "repository unknown", ..Ask::get(url.clone()) };
            let (page, link) = self.shared().retry(tries, || {
                let answer = self.ask(site, repository, &ask)?;
                let link = answer.header("link").map(str::to_owned);
                let body = answer.read(&self.client, "the tag list", MAX_TAG_PAGE)?;
                let page: TagPage = serde_json::from_slice(&body).map_err(|error| {
                    refuse(format!("it is not what it should be: {}", printable(&error.to_string(), 200)))
                })?;
                Ok((page, link))
            })?;
            tags.extend(page.tags.unwrap_or_default());
            let Some(next) = link.as_deref().and_then(next_link) else { return Ok(tags) };
            let next = url.join(next).map_err(|reason| refuse(format!("its next page: {reason}")))?;
            if !next.same_origin(&site.base) {
                return Err(refuse(format!("its next page is on another host, {}", next.host_port())));
            }
            url = next;
        }
    }
}

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// The target of `Link: <target>; rel="next"` (RFC 8288).
fn next_link(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let parameters = after.split('<').next().unwrap_or_default();
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().trim_end_matches(',').trim_end();
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim()
                        .trim_matches('"')
                        .split_ascii_whitespace()
                        .any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

/// What is asked, as far as questions differ.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'a str,
    pub(super) from: Option<u64>,
    /// The words for a 404 that gives no reason.
    pub(super) unknown: &'a str,
}

impl Ask<'_> {
    pub(super) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, accept: "*/*", from: None, unknown: "not found" }
    }
}

// -------------------------------------------------------------------------------------------- one repository

struct Repository<'a> {
    remote: &'a Remote,
    name: &'a str,
}

impl Repository<'_> {
    fn manifest_url(&self, site: &Site, tag_or_digest: &str) -> Url {
        site.base.with_suffix(&format!("/v2/{}/manifests/{tag_or_digest}", self.name))
    }

    /// The digest of `tag` by HEAD; `None` where the registry does not answer that usefully.
    fn head(&self, tag: &str) -> Result<Option<BlobDigest>, RegistryError> {
        let answer = self.remote.anywhere(true, |site| {
            let ask = Ask {
                method: Method::HEAD,
                accept: ACCEPT,
                unknown: "manifest unknown",
                ..Ask::get(self.manifest_url(site, tag))
            };
            self.remote.ask(site, self.name, &ask)
        });
        match answer {
            Ok(answer) => {
                self.remote.report_rate_limit(&answer);
                Ok(answer.header("docker-content-digest").and_then(|text| BlobDigest::parse(text).ok()))
            }
            // GET may be allowed where HEAD is not, and says why if it is not; a 401 has been dealt with.
            Err(RegistryError::Refused { status: 400 | 402..=407 | 409..=428 | 501, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The document that `tag` means now.
    fn tagged(&self, tag: &str) -> Result<Arc<Document>, RegistryError> {
        let limit = self.remote.shared().limits.manifest_size;
        let document = self.remote.anywhere(true, |site| {
            let ask =
                Ask { accept: ACCEPT, unknown: "manifest unknown", ..Ask::get(self.manifest_url(site, tag)) };
            let answer = self.remote.ask(site, self.name, &ask)?;
            self.remote.report_rate_limit(&answer);
            let media_type = answer.header("content-type").map(str::to_owned);
            let said = answer.header("docker-content-digest").and_then(|text| BlobDigest::parse(text).ok());
            let host = answer.url.host_port();
            let bytes = answer.read(&self.remote.client, "the manifest", limit)?;
            if let Some(digest) = &said {
                verify(&bytes, digest, None).map_err(|source| RegistryError::Mismatch {
                    what: format!("manifest {tag}"),
                    host: host.clone(),
                    source,
                })?;
            }
            let digest = said.unwrap_or_else(|| BlobDigest::of(Algorithm::Sha256, &bytes));
            Ok(Arc::new(Document { digest, bytes, media_type, host }))
        })?;
        self.remote.remember(&document);
        Ok(document)
    }
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
        let mut slot = lock(&slot);
        if let Some(document) = &*slot
            && size.is_none_or(|size| size == document.bytes.len() as u64)
        {
            return Ok(Arc::clone(document));
        }
        let document = self.remote.anywhere(false, |site| {
            let ask = match role {
                Role::Manifest => Ask {
                    accept: ACCEPT,
                    unknown: "manifest unknown",
                    ..Ask::get(self.manifest_url(site, digest.as_str()))
                },
                Role::Config => Ask {
                    unknown: "blob unknown",
                    ..Ask::get(site.base.with_suffix(&format!("/v2/{}/blobs/{digest}", self.name)))
                },
            };
            let answer = self.remote.ask(site, self.name, &ask)?;
            let media_type = answer.header("content-type").map(str::to_owned);
            let host = answer.url.host_port();
            let bytes = answer.read(&self.remote.client, &what, limit)?;
            verify(&bytes, digest, size).map_err(|source| RegistryError::Mismatch {
                what: what.clone(),
                host: host.clone(),
                source,
            })?;
            Ok(Arc::new(Document { digest: digest.clone(), bytes, media_type, host }))
        })?;
        lock(&self.remote.cache).bytes += document.bytes.len();
        *slot = Some(Arc::clone(&document));
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_a_link_header() {
        assert_eq!(
            next_link(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#),
            Some("/v2/x/tags/list?last=b&n=2")
        );
        assert_eq!(next_link(r#"</a>; rel="prev", </b>; title=x; rel=next"#), Some("/b"));
        assert_eq!(next_link(r#"</a>; rel="prev""#), None);
        assert_eq!(next_link("<"), None);
        assert_eq!(next_link(""), None);
    }
}
