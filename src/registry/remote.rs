//! One registry on a server: its endpoint, its mirrors, and what is asked of them.
//!
//! Mirrors are tried first for bytes (what has a digest can be checked, whoever serves it); what a tag means
//! is believed from the endpoint only, or from a mirror that the user trusts with it. A mirror that fails costs one
//! line and is left alone for a while; the endpoint's failure is the one that counts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::http::{HeaderName, HeaderValue, Method};

use super::auth::{Authorizer, Party};
use super::blob::HttpBlob;
use super::credentials::Credentials;
use super::failure::{Failure, printable};
use super::http::{Answer, Client, Request};
use super::repository::Cache;
use super::shared::{Shared, TRIES, lock};
use super::url::{Url, is_loopback};
use crate::digest::BlobDigest;
use crate::error::RegistryError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{LayerDescriptor, RegistrySettings};

/// Where docker.io's registry really is.
pub(super) const DOCKER_HUB: &str = "https://registry-1.docker.io";
/// How often a mirror is tried before the next one is: the endpoint is there to save the day.
pub(super) const MIRROR_TRIES: u32 = 2;
/// How long a mirror that failed is left alone.
const MIRROR_REST: Duration = Duration::from_secs(60);
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
    pub(super) sites: Vec<Site>,
    own_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) cache: Mutex<Cache>,
    /// Blobs that came damaged, and are therefore fetched from the endpoint only.
    distrusted: Mutex<HashSet<BlobDigest>>,
    /// Mirrors that failed, and when.
    resting: Mutex<HashMap<usize, Instant>>,
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

    pub(super) fn shared(&self) -> &Shared {
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

    /// The answer of the first site that has one, each tried again as often as it deserves.
    pub(super) fn anywhere<T>(
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
