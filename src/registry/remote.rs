//! One registry on a server: its endpoint, its mirrors, and what is asked of them.
//!
//! Mirrors are tried first for bytes (what has a digest can be checked, whoever serves it); what a tag means
//! is believed from the endpoint only, or from a mirror that the user trusts with it. A mirror that fails costs one
//! line and is left alone for a while; the endpoint's failure is the one that counts.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::auth::{Authorizer, Party, Pass, parse_challenges};
use super::blob::{Budget, HttpBlob};
use super::credentials::Credentials;
use super::failure::{Failure, printable};
use super::hosts::{self, Access, Address, Hosts};
use super::http::{Answer, Client, Request};
use super::outage::Outage;
use super::pulls::Pulls;
use super::repository::Cache;
use super::secret::Secret;
use super::shared::{Shared, TRIES, lock};
use crate::digest::BlobDigest;
use crate::error::{Login, RegistryError, RegistryName};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{LayerDescriptor, RegistrySettings};
use crate::url::{Url, is_loopback};

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
#[expect(clippy::struct_excessive_bools, reason = "what a host may do is a set of independent permissions")]
pub(super) struct Site {
    pub(super) base: Url,
    /// The API's own path: `base` with `/v2`, as a rule.
    root: Url,
    /// Asked last; its failure is the one that counts.
    pub(super) own: bool,
    /// The registry itself, which gets credentials. A `server` of a hosts file may be another.
    authenticated: bool,
    /// Whether it may be asked for bytes.
    serves: bool,
    /// Whether it may say what a tag means.
    resolves: bool,
    /// Whether it may say which tags there are. A cache that knows only some must not: what it does not list
    /// would be taken for gone.
    lists: bool,
    /// The registry that it stands for, where it is told (`?ns=`).
    namespace: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// An `Authorization` header that a hosts file has for it.
    authorization: Option<Secret>,
    client: Arc<Client>,
}

impl Site {
    /// The URL of `suffix` below the API's root.
    pub(super) fn url(&self, suffix: &str) -> Url {
        let url = self.root.with_suffix(suffix);
        match &self.namespace {
            Some(namespace) => url.with_parameter("ns", namespace),
            None => url,
        }
    }

    /// The page of a list that a link of this site leads to, wherever the link says that the site is: path and query
    /// are asked for here, below the path of the site's own if the link leaves that out.
    pub(super) fn page(&self, link: &Url) -> Url {
        let url = self.root.with_path_of(link);
        match &self.namespace {
            Some(namespace) if !url.has_parameter("ns") => url.with_parameter("ns", namespace),
            _ => url,
        }
    }
}

/// What a site is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What has a digest.
    Bytes,
    /// What a tag means.
    Meaning,
    /// Which tags there are.
    List,
}

pub(super) struct Remote {
    pub(super) client: Arc<Client>,
    authorizer: Authorizer,
    credentials: Credentials,
    /// Mirrors in order, the endpoint last.
    pub(super) sites: Vec<Site>,
    pub(super) cache: Mutex<Cache>,
    /// Blobs that came damaged, and are therefore fetched from the endpoint only.
    distrusted: Mutex<HashSet<BlobDigest>>,
    /// Mirrors that failed, and when.
    resting: Mutex<HashMap<usize, Instant>>,
    /// What is known of the endpoint's own failures.
    outage: Outage,
    pub(super) pulls: Pulls,
    /// How the API's root challenges, once that was asked; empty where it does not.
    root_challenge: Mutex<Option<HeaderMap>>,
    /// What each blob has cost so far.
    budgets: Mutex<HashMap<BlobDigest, Arc<Mutex<Budget>>>>,
    /// Whether HEAD has failed where GET may work.
    pub(super) heads_fail: AtomicBool,
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
            Url::parse_base(text).map_err(|reason| fail(format!("{what}: {reason}")))
        };
        let hosts = match &shared.hosts_dir {
            Some(directory) => {
                hosts::load(directory, account).map_err(|reason| fail(format!("hosts-dir: {reason}")))?
            }
            None => Hosts::default(),
        };
        let endpoint = match &settings.endpoint {
            Some(endpoint) => base("endpoint", endpoint)?,
            None if name == DEFAULT_REGISTRY => base("endpoint", DOCKER_HUB)?,
            None => {
                let host = match name.rsplit_once(':') {
                    Some((host, _)) if !host.is_empty() => host,
                    _ => name,
                };
                // Who says how TLS is to be done wants TLS.
                let plain =
                    (is_loopback(host) || is_loopback(name)) && !settings.has_tls() && !hosts.own.has_tls();
                base("its name", &format!("{}://{name}", if plain { "http" } else { "https" }))?
            }
        };
        let mut mirrors = Vec::with_capacity(settings.mirrors.len());
        for mirror in &settings.mirrors {
            mirrors.push((base("mirrors", &mirror.url)?, mirror.resolve));
        }
        if settings.has_tls()
            && settings.endpoint.is_some()
            && !endpoint.is_secure()
            && !mirrors.iter().any(|(mirror, _)| mirror.is_secure())
        {
            shared.warn(format!(
                "{name}: its endpoint is plain http, so ca, client-cert, client-key and insecure do not protect it; \
                 write https:// if it speaks TLS, and leave them out if it does not"
            ));
        }
        let own_headers = own_headers(shared, name, settings).map_err(fail)?;
        let credentials = Credentials::new(shared, account, settings, &endpoint)?;
        let login = credentials.stored_under().to_owned();
        let urls: Vec<Url> = mirrors.iter().map(|(url, _)| url.clone()).collect();
        let client = |settings: RegistrySettings, more_ca, endpoint: &Url, mirrors: &[Url]| {
            Arc::new(Client::new(
                Arc::clone(shared),
                RegistryName { name: name.to_owned(), login: login.clone() },
                settings,
                more_ca,
                endpoint.clone(),
                mirrors,
            ))
        };
        let main = client(settings.clone(), Vec::new(), &endpoint, &urls);
        let sites = mirrors
            .into_iter()
            .map(|(base, resolves)| Site {
                root: base.with_suffix("/v2"),
                base,
                own: false,
                authenticated: false,
                serves: true,
                resolves,
                lists: resolves,
                namespace: None,
                headers: Vec::new(),
                authorization: None,
                client: Arc::clone(&main),
            })
            .collect();
        let mut builder = Builder { shared, settings, account, endpoint, sites, client: &client };
        builder.hosts(hosts, own_headers, &main);
        Ok(Self {
            client: main,
            authorizer: Authorizer::default(),
            credentials,
            sites: builder.sites,
            cache: Mutex::default(),
            distrusted: Mutex::default(),
            resting: Mutex::default(),
            outage: Outage::default(),
            pulls: Pulls::default(),
            root_challenge: Mutex::default(),
            budgets: Mutex::default(),
            heads_fail: AtomicBool::new(false),
        })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.client.shared
    }

    pub(super) fn site(&self, site: usize) -> &Site {
        &self.sites[site]
    }

    // ---------------------------------------------------------------------------------------- one request

    /// One try of a request for `repository`, authenticated as need be. Statuses of 300 and more are failures. Who asked
    /// to be left alone is.
    pub(super) fn ask(&self, site: &Site, repository: &str, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let (rests, url) = (&self.shared().rests, ask.url.whole());
        match rests.error(&url, SystemTime::now()) {
            Some(error) => Err(error.into()),
            None => self
                .ask_now(site, repository, ask)
                .inspect_err(|failure| rests.note(&url, &failure.error, SystemTime::now())),
        }
    }

    fn ask_now(&self, site: &Site, repository: &str, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let party = Party {
            client: &site.client,
            base: &site.base,
            repository,
            credentials: site.authenticated.then_some(&self.credentials),
        };
        let mut pass = match &site.authorization {
            Some(header) => Pass::fixed(header.clone()),
            None => self.authorizer.pass(&party)?,
        };
        loop {
            let request = Request {
                method: ask.method.clone(),
                from: ask.from,
                authorization: pass.header.as_ref(),
                own_headers: &site.headers,
                ..Request::get(&ask.url, ask.accept)
            };
            let answer = site.client.send(&request)?;
            match answer.status {
                200 | 206 => return Ok(answer),
                status @ (401 | 403 | 404) if answer.own && site.authorization.is_none() => {
                    let headers = if status == 401 && is_challenge(&answer.headers) {
                        Some(answer.headers.clone())
                    } else if pass.header.is_none() {
                        self.challenge_at_root(site, repository)?
                    } else {
                        None
                    };
                    if let Some(headers) = headers
                        && let Some(better) = self.authorizer.challenged(&party, &pass, &headers)?
                    {
                        answer.discard(&site.client);
                        pass = better;
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
            let login = self.login(site, repository, &pass)?;
            return Err(site.client.refusal(answer, ask.unknown, login, true));
        }
    }

    /// What the registry knows of us where it refuses.
    fn login(&self, site: &Site, repository: &str, pass: &Pass) -> Result<Login, RegistryError> {
        Ok(if pass.authenticated {
            Login::Sent
        } else if !site.authenticated {
            Login::None
        } else if self.credentials.find(self.shared(), repository)?.is_some() {
            Login::NotAsked
        } else if self.credentials.are_withheld() {
            Login::Withheld
        } else {
            Login::None
        })
    }

    /// How the API's root challenges, for a registry that refuses without asking who we are, where there is an answer
    /// to that. It is asked once.
    fn challenge_at_root(&self, site: &Site, repository: &str) -> Result<Option<HeaderMap>, Failure> {
        if !site.authenticated || self.credentials.find(self.shared(), repository)?.is_none() {
            return Ok(None);
        }
        // Under the lock: others that are refused wait for the same answer.
        let mut known = lock(&self.root_challenge);
        if known.is_none() {
            let url = site.url("/");
            let request = Request { own_headers: &site.headers, ..Request::get(&url, "application/json") };
            let answer = site.client.send(&request)?;
            let challenges = answer.status == 401 && answer.own;
            let headers = answer.headers.clone();
            answer.discard(&site.client);
            *known = Some(if challenges { headers } else { HeaderMap::new() });
        }
        Ok(known.clone().filter(is_challenge))
    }

    /// Sites in the order in which they are tried.
    pub(super) fn candidates(&self, what: Wanted, digest: Option<&BlobDigest>) -> Vec<usize> {
        let own_only = self.is_distrusted(digest);
        let resting = lock(&self.resting);
        let rests = |index: usize| resting.get(&index).is_some_and(|since| since.elapsed() < MIRROR_REST);
        let wanted = |(index, site): &(usize, &Site)| {
            let may = match what {
                Wanted::Bytes => site.serves,
                Wanted::Meaning => site.resolves,
                Wanted::List => site.lists,
            };
            site.own || (!own_only && may && !rests(*index))
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

    fn is_distrusted(&self, digest: Option<&BlobDigest>) -> bool {
        digest.is_some_and(|digest| lock(&self.distrusted).contains(digest))
    }

    /// What `digest` has cost so far in this run.
    pub(super) fn budget(&self, digest: &BlobDigest) -> Arc<Mutex<Budget>> {
        Arc::clone(lock(&self.budgets).entry(digest.clone()).or_default())
    }

    /// The answer of `site` to a lookup, which is tried again as often as it deserves.
    pub(super) fn persist<T>(
        &self,
        site: &Site,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        if !site.own {
            return self.shared().retry(MIRROR_TRIES, attempt);
        }
        let (mut redirected, mut transient) = (false, false);
        let tries = self.outage.tries();
        let mut result = self.shared().retry(tries, || match self.outage.error() {
            Some(known) => Err(known.into()),
            None => attempt().inspect_err(|failure| {
                (redirected, transient) = (failure.redirected, failure.may_pass());
            }),
        });
        let no_answer = |error: &RegistryError| {
            matches!(
                error,
                RegistryError::Unreachable { .. }
                    | RegistryError::Stalled { .. }
                    | RegistryError::Slow { .. }
                    | RegistryError::Stopped
            )
        };
        if tries < TRIES && transient && result.as_ref().is_err_and(|error| !no_answer(error)) {
            // It is back, if not in order yet: that deserves as much patience as ever.
            self.outage.answered();
            result = self.shared().retry(TRIES - tries, attempt);
        }
        match result.as_ref().err().filter(|_| !redirected) {
            Some(error) => self.outage.failed(error),
            None => self.outage.answered(),
        }
        result
    }

    /// The answer of the first site that has one, each tried again as often as it deserves. What has a `digest` is
    /// not asked of mirrors that serve something else under it.
    pub(super) fn anywhere<T>(
        &self,
        what: Wanted,
        digest: Option<&BlobDigest>,
        mut attempt: impl FnMut(&Site) -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        for index in self.candidates(what, digest) {
            let site = &self.sites[index];
            if !site.own && self.is_distrusted(digest) {
                continue;
            }
            match self.persist(site, || attempt(site)) {
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

/// The images file's own headers for the registry `name`, which are hidden from now on.
fn own_headers(
    shared: &Shared,
    name: &str,
    settings: &RegistrySettings,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut own_headers = Vec::with_capacity(settings.headers.len());
    for (header, value) in &settings.headers {
        let shown = printable(header, 60);
        let header = HeaderName::from_bytes(header.as_bytes())
            .map_err(|_| format!("headers: {shown:?} is no header name"))?;
        if RESERVED_HEADERS.contains(&header.as_str()) {
            return Err(format!("headers: {shown} cannot be set"));
        }
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| format!("headers: the value of {shown} cannot be sent"))?;
        value.set_sensitive(true);
        if let Ok(text) = value.to_str()
            && is_secret(text, name)
        {
            shared.veil.add(text);
        }
        own_headers.push((header, value));
    }
    Ok(own_headers)
}

/// Whether the value of a header for `registry` is to be hidden: which registry a mirror is to ask is no secret.
fn is_secret(value: &str, registry: &str) -> bool {
    let is_address = Url::parse(value).is_ok() && !value.contains(['@', '?']);
    !is_address && !registry.contains(value)
}

/// Whether `headers` say how to authenticate.
fn is_challenge(headers: &HeaderMap) -> bool {
    headers.get_all(header::WWW_AUTHENTICATE).iter().any(|value| {
        let challenges = parse_challenges(&String::from_utf8_lossy(value.as_bytes()));
        challenges.iter().any(|challenge| matches!(&*challenge.scheme, "basic" | "bearer"))
    })
}

/// Connections by these settings, with more roots, for an endpoint and its mirrors.
type MakeClient<'a> = dyn Fn(RegistrySettings, Vec<PathBuf>, &Url, &[Url]) -> Arc<Client> + 'a;

/// Puts together the sites of a registry from what a hosts file says, after those of the images file.
struct Builder<'a> {
    shared: &'a Shared,
    settings: &'a RegistrySettings,
    account: &'a str,
    /// Where the registry is, by the images file or by its name.
    endpoint: Url,
    sites: Vec<Site>,
    client: &'a MakeClient<'a>,
}

impl Builder<'_> {
    fn hosts(&mut self, hosts: Hosts, own_headers: Vec<(HeaderName, HeaderValue)>, main: &Arc<Client>) {
        let Hosts { mirrors, server, own: mut access, details } = hosts;
        for detail in details {
            self.shared.detail(detail);
        }
        let itself = Address { base: self.endpoint.clone(), root: self.endpoint.with_suffix("/v2") };
        let server = match server {
            // docker.io itself serves no images.
            Some(server) if self.account == DEFAULT_REGISTRY && server.base.host() == DEFAULT_REGISTRY => {
                itself.clone()
            }
            // What the images file says counts.
            Some(_) if self.settings.endpoint.is_some() => itself.clone(),
            Some(server) => server,
            None => itself.clone(),
        };
        for mirror in mirrors {
            if mirror.address.root == server.root {
                // Not a mirror, but more about the server.
                access.join(mirror.access);
            } else {
                let site = self.site(mirror.address, mirror.access, mirror.pull, mirror.resolve);
                self.sites.push(site);
            }
        }
        let authenticated = server.base.same_origin(&self.endpoint);
        let mut site = if authenticated {
            let client = if access.has_tls() { self.own_client(&access) } else { Arc::clone(main) };
            Site { client, ..self.site(server, access, true, true) }
        } else {
            self.site(server, access, true, true)
        };
        (site.own, site.lists, site.authenticated) = (true, true, authenticated);
        if authenticated {
            site.namespace = None;
            site.headers.extend(own_headers);
        }
        self.sites.push(site);
    }

    fn own_client(&self, access: &Access) -> Arc<Client> {
        let mut settings = self.settings.clone();
        settings.insecure |= access.skip_verify;
        if settings.client_cert.is_none() && settings.client_key.is_none() {
            (settings.client_cert, settings.client_key) = access.client.clone().unzip();
        }
        (self.client)(settings, access.ca.clone(), &self.endpoint, &[])
    }

    fn site(&self, address: Address, access: Access, serves: bool, resolves: bool) -> Site {
        let secrets = access.secrets().filter(|secret| is_secret(secret, self.account));
        secrets.for_each(|secret| self.shared.veil.add(secret));
        let (client_cert, client_key) = access.client.unzip();
        let settings = RegistrySettings {
            name: self.settings.name.clone(),
            ca: self.settings.ca.clone(),
            client_cert,
            client_key,
            insecure: access.skip_verify,
            ..RegistrySettings::default()
        };
        let host = address.base.host_port();
        let same = host == self.account || host == self.endpoint.host_port();
        Site {
            client: (self.client)(settings, access.ca, &address.base, &[]),
            base: address.base,
            root: address.root,
            own: false,
            authenticated: false,
            serves,
            resolves,
            lists: false,
            namespace: (!same).then(|| self.account.to_owned()),
            headers: access.headers,
            authorization: access.authorization,
        }
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
