//! One registry on servers, and how its sites are asked.
//!
//! Mirrors are tried first for bytes (bytes of a digest can be checked, whoever serves them); what
//! a tag means is believed from the endpoint only, or from a mirror that the user trusts with it. A
//! mirror that fails costs one line and is left alone for a while; the endpoint's failure is the
//! one that counts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, Method};

use super::building::{Built, Terms, build};
use super::cache::Cache;
use super::outage::Outage;
use super::patience::Patience;
use super::pulls::Pulls;
use super::rests::Rests;
use super::role::Capability;
use super::site::Site;
use crate::digest::BlobDigest;
use crate::error::{Login, Refused, RegistryError};
use crate::registry::auth::{Authorizer, Challenged, Credentials, Party, Pass, is_challenge};
use crate::registry::pace::Pacer;
use crate::registry::transport::{
    Answer, Client, FailedTry, Network, Portion, Portions, Request, Sought, TRIES, refusal, retry,
};
use crate::state::RegistrySettings;
use crate::threads::lock;
use crate::url::Url;

/// The number of tries that a mirror gets before the next site is asked: the endpoint is there to
/// save the day.
pub(crate) const MIRROR_TRIES: u32 = 2;
/// The longest wait that is granted to a mirror that asks for one.
const MIRROR_PATIENCE: Duration = Duration::from_secs(10);
/// The place of credentials that a site has of its own, in words.
const HOSTS_FILE: &str = "a hosts file";
/// The time that a mirror which failed is left alone.
const MIRROR_REST: Duration = Duration::from_secs(60);

/// One registry: its sites, and all that is known of them in this run.
pub(crate) struct Remote {
    /// The endpoint's connections.
    pub(crate) client: Arc<Client>,
    /// Mirrors in order, the endpoint last.
    pub(crate) sites: Vec<Site>,
    pub(crate) cache: Cache,
    /// The rates at which its blobs are read, where there are some.
    pub(crate) pacer: Option<Pacer>,
    pub(crate) pulls: Pulls,
    /// True once HEAD has failed where GET may work.
    pub(crate) heads_fail: AtomicBool,
    /// The largest document that is read, in bytes.
    pub(crate) manifest_size: u64,
    portions: Arc<Portions>,
    credentials: Credentials,
    authorizer: Authorizer,
    /// The addresses that asked to be left alone, in this run or before.
    rests: Rests,
    /// Blobs that came damaged, and are therefore fetched from the endpoint only.
    distrusted: Mutex<HashSet<BlobDigest>>,
    /// Mirrors that failed, and when.
    resting: Mutex<HashMap<usize, Instant>>,
    /// The endpoint's own failures.
    outage: Outage,
    /// The challenge of the API's root, once that was asked; empty where there is none.
    root_challenge: Mutex<Option<HeaderMap>>,
    /// The cost of each blob so far.
    patience: Mutex<HashMap<BlobDigest, Arc<Mutex<Patience>>>>,
}

impl Remote {
    /// Makes the registry `name` with `settings`; its credentials are filed under `account`.
    ///
    /// # Errors
    /// Settings that cannot be used, and credentials that the images file promises but that are not
    /// there.
    pub(crate) fn new(
        network: &Arc<Network>,
        terms: &Terms,
        name: &str,
        account: &str,
        settings: &RegistrySettings,
    ) -> Result<Self, RegistryError> {
        let Built { client, credentials, sites } = build(network, terms, name, account, settings)?;
        Ok(Self {
            client,
            sites,
            cache: Cache::new(Arc::clone(&terms.documents)),
            pacer: terms.paces.of([name, account]),
            pulls: Pulls::default(),
            heads_fail: AtomicBool::new(false),
            manifest_size: terms.manifest_size,
            portions: Arc::clone(&terms.portions),
            credentials,
            authorizer: Authorizer::default(),
            rests: terms.rests.clone(),
            distrusted: Mutex::default(),
            resting: Mutex::default(),
            outage: Outage::default(),
            root_challenge: Mutex::default(),
            patience: Mutex::default(),
        })
    }

    /// Returns the network on which the registry is asked.
    pub(crate) fn network(&self) -> &Network {
        &self.client.network
    }

    /// Returns the portion of the memory of somebody who is about to read a document.
    pub(crate) fn portion(&self) -> Portion {
        self.portions.portion(&self.client.name.name)
    }

    /// Makes one try of a request for `repository`, authenticated as need be. Statuses of 300 and
    /// more are failures. An address that asked to be left alone is left alone.
    pub(crate) fn ask(&self, site: &Site, repository: &str, ask: &Ask<'_>) -> Result<Answer, FailedTry> {
        let (rests, url) = (&self.rests, ask.url.whole());
        match rests.error(&url, SystemTime::now()) {
            Some(error) => Err(error.into()),
            None => self
                .ask_now(site, repository, ask)
                .inspect_err(|failure| rests.note(&url, &failure.error, SystemTime::now()))
                .map_err(|failure| failure.about(|| self.about(repository, ask))),
        }
    }

    /// Names the image that `ask` is about, as far as that says it, and the request.
    fn about(&self, repository: &str, ask: &Ask<'_>) -> String {
        let name = &self.client.name.name;
        let image = match ask.url.path().rsplit_once("/manifests/") {
            Some((_, digest)) if digest.contains(':') => format!("@{digest}"),
            Some((_, tag)) => format!(":{tag}"),
            None => String::new(),
        };
        format!("{name}/{repository}{image}: {} {}", ask.method, ask.url)
    }

    fn ask_now(&self, site: &Site, repository: &str, ask: &Ask<'_>) -> Result<Answer, FailedTry> {
        let party = Party {
            client: &site.client,
            base: &site.base,
            repository,
            credentials: site.has_credentials().then_some(&self.credentials),
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
                credentials: if site.authorization.is_some() { HOSTS_FILE } else { pass.source() },
                own_headers: &site.headers,
                ..Request::get(&ask.url, ask.accept)
            };
            let answer = site.client.send(&request)?;
            match answer.status {
                200 | 206 => return Ok(answer),
                status @ (401 | 403 | 404) if answer.own && site.authorization.is_none() => {
                    let at_root;
                    let heard = if status == 401 && is_challenge(&answer.headers) {
                        Some(Challenged::Here(&answer.headers))
                    } else if pass.header.is_none() {
                        at_root = self.challenge_at_root(site, repository)?;
                        at_root.as_ref().map(Challenged::AtRoot)
                    } else {
                        None
                    };
                    if let Some(heard) = heard
                        && let Some(better) = self.authorizer.challenged(&party, &pass, &heard)?
                    {
                        answer.discard();
                        pass = better;
                        continue;
                    }
                }
                400.. => {}
                status => {
                    let reason = format!("unexpected HTTP status {status}");
                    let url = answer.url.to_string();
                    return Err(RegistryError::Protocol { url, reason, may_be_tls: false }.into());
                }
            }
            let login = self.login(site, repository, &pass)?;
            return Err(refusal(&site.client, answer, ask.sought, login, true));
        }
    }

    /// Tells whom a registry that refuses knows in us.
    fn login(&self, site: &Site, repository: &str, pass: &Pass) -> Result<Login, RegistryError> {
        Ok(if let Some(place) = &pass.place {
            Login::Sent { place: (**place).into() }
        } else if site.authorization.is_some() {
            Login::HostsFile
        } else if !site.has_credentials() {
            Login::unknown()
        } else if self.credentials.find(self.network(), repository)?.is_some() {
            // A token for anybody: one that goes by the credentials has their place.
            if pass.header.is_some() { Login::KeptBack } else { Login::NotAsked }
        } else {
            self.credentials.no_login()
        })
    }

    /// Returns the challenge of the API's root, for a registry that refuses without asking who we
    /// are, where there is an answer to that. The root is asked once.
    fn challenge_at_root(&self, site: &Site, repository: &str) -> Result<Option<HeaderMap>, FailedTry> {
        if !site.has_credentials() || self.credentials.find(self.network(), repository)?.is_none() {
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
            answer.discard();
            *known = Some(if challenges { headers } else { HeaderMap::new() });
        }
        Ok(known.clone().filter(is_challenge))
    }

    /// Lists the sites that are asked, in their order.
    pub(crate) fn candidates(&self, wanted: Capability, digest: Option<&BlobDigest>) -> Vec<usize> {
        let own_only = self.is_distrusted(digest);
        let resting = lock(&self.resting);
        let rests = |index: usize| resting.get(&index).is_some_and(|since| since.elapsed() < MIRROR_REST);
        let is_asked = |(index, site): &(usize, &Site)| {
            !site.is_mirror() || (!own_only && site.may(wanted) && !rests(*index))
        };
        self.sites.iter().enumerate().filter(is_asked).map(|(index, _)| index).collect()
    }

    /// Takes note that a mirror failed.
    pub(crate) fn mirror_failed(&self, site: usize, error: &RegistryError) {
        // Such a refusal is about what was asked for; one that is rate-limited is about the mirror.
        let is_about_one = match error {
            RegistryError::Refused(Refused { status, .. }) => matches!(status, 400..=428 | 430..=499),
            RegistryError::Mismatch { .. } => true,
            _ => false,
        };
        if !is_about_one {
            lock(&self.resting).insert(site, Instant::now());
        }
        self.network().detail(format!("mirror {}: {error}; trying elsewhere", self.sites[site].base));
    }

    /// Fetches `digest` from the endpoint only, from now on.
    pub(crate) fn distrust(&self, digest: &BlobDigest) {
        lock(&self.distrusted).insert(digest.clone());
    }

    fn is_distrusted(&self, digest: Option<&BlobDigest>) -> bool {
        digest.is_some_and(|digest| lock(&self.distrusted).contains(digest))
    }

    /// Returns the patience that is left for `digest` in this run.
    pub(crate) fn patience(&self, digest: &BlobDigest) -> Arc<Mutex<Patience>> {
        Arc::clone(lock(&self.patience).entry(digest.clone()).or_default())
    }

    /// Asks `site` for a lookup, as often as the answer deserves.
    pub(crate) fn persist<T>(
        &self,
        site: &Site,
        mut attempt: impl FnMut() -> Result<T, FailedTry>,
    ) -> Result<T, RegistryError> {
        if site.is_mirror() {
            return retry(self.network(), MIRROR_TRIES, || {
                attempt().map_err(|failed| FailedTry {
                    transient: failed.transient && is_soon_for_a_mirror(&failed),
                    ..failed
                })
            });
        }
        let (mut redirected, mut transient) = (false, false);
        let tries = self.outage.tries();
        let mut result = retry(self.network(), tries, || match self.outage.error() {
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
            result = retry(self.network(), TRIES - tries, attempt);
        }
        match result.as_ref().err().filter(|_| !redirected) {
            Some(error) => self.outage.failed(error),
            None => self.outage.answered(),
        }
        result
    }

    /// Asks one site after the other, each as often as it deserves, for the first answer. A
    /// `digest` is not asked of mirrors that serve something else under it.
    pub(crate) fn anywhere<T>(
        &self,
        wanted: Capability,
        digest: Option<&BlobDigest>,
        mut attempt: impl FnMut(&Site) -> Result<T, FailedTry>,
    ) -> Result<T, RegistryError> {
        for index in self.candidates(wanted, digest) {
            let site = &self.sites[index];
            if site.is_mirror() && self.is_distrusted(digest) {
                continue;
            }
            match self.persist(site, || attempt(site)) {
                Err(error) if site.is_mirror() && !matches!(error, RegistryError::Stopped) => {
                    self.mirror_failed(index, &error);
                }
                result => return result,
            }
        }
        // Not reached: the endpoint is always a candidate, and the last one.
        Err(RegistryError::Settings {
            registry: self.client.name.name.clone(),
            reason: "no endpoint".to_owned(),
        })
    }
}

/// True if a mirror that `failed` asks for no longer wait than a mirror gets.
pub(crate) fn is_soon_for_a_mirror(failed: &FailedTry) -> bool {
    failed.after.is_none_or(|after| after <= MIRROR_PATIENCE)
}

/// A question to a site, as far as questions differ.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) accept: &'a str,
    pub(crate) from: Option<u64>,
    pub(crate) sought: Sought,
}

impl Ask<'_> {
    pub(crate) fn get(url: Url, sought: Sought) -> Self {
        Self { method: Method::GET, url, accept: "*/*", from: None, sought }
    }
}
