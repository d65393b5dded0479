//! HTTP as registries need it: one exchange, with its redirects.
//!
//! A [`Client`] is one registry's connections. Redirects are followed here and not by ureq, because
//! what may be sent along depends on where they lead. A blocking read is bounded by the stall time,
//! never by the length of the transfer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::Instant;

use ureq::http::{self, HeaderName, HeaderValue, Method, header};
use ureq::{Proxy, ProxyProtocol};

use super::answer::Answer;
use super::clock::Clock;
use super::connections::{ByKind, Connections, Kind};
use super::exchange::{Asked, Sent};
use super::failure::{FailedTry, blame_proxy, is_no_answer, wants_proxy_login};
use super::handshake::ClientCertificate;
use super::network::Network;
use super::secret::{Secret, basic};
use super::tls::{Tls, TlsSettings};
use crate::error::{RegistryError, RegistryName};
use crate::state::RegistrySettings;
use crate::threads::lock;
use crate::url::Url;

/// The number of redirects that are followed for one request.
const MAX_REDIRECTS: usize = 10;

/// One request, as far as it differs from others.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) accept: &'a str,
    /// The first byte that is asked for: `bytes=N-`.
    pub(crate) from: Option<u64>,
    /// The whole header value; dropped when a redirect leaves the origin.
    pub(crate) authorization: Option<&'a Secret>,
    /// The registry's own headers; dropped likewise.
    pub(crate) own_headers: &'a [(HeaderName, HeaderValue)],
    /// A form to POST.
    pub(crate) form: Option<&'a Secret>,
    /// The place where the credentials came from, in words.
    pub(crate) credentials: &'a str,
    /// True if the server's own words may be shown: a server that others lead to may have words for
    /// this machine alone.
    pub(crate) heard: bool,
}

impl<'a> Request<'a> {
    /// Asks for `url`.
    pub(crate) fn get(url: &'a Url, accept: &'a str) -> Self {
        Self {
            method: Method::GET,
            url,
            accept,
            from: None,
            authorization: None,
            own_headers: &[],
            form: None,
            credentials: "credentials",
            heard: true,
        }
    }
}

/// One registry's connections.
pub(crate) struct Client {
    pub(crate) network: Arc<Network>,
    /// The registry's name, and the host under which a login for it is stored.
    pub(crate) name: RegistryName,
    settings: RegistrySettings,
    /// PEM files of roots beside those of the settings.
    more_ca: Vec<PathBuf>,
    endpoint: Url,
    /// Hosts whose certificates `insecure` leaves unchecked: the endpoint's and the mirrors'.
    insecure_hosts: Vec<String>,
    insecure_warned: Once,
    /// True once the endpoint has answered over plain http.
    answered: AtomicBool,
    tls: OnceLock<Result<TlsSettings, String>>,
    connections: ByKind,
}

impl Client {
    /// Makes the connections of the registry `name` at `endpoint` and its `mirrors`; nothing is
    /// asked yet.
    pub(crate) fn new(
        network: Arc<Network>,
        name: RegistryName,
        settings: RegistrySettings,
        more_ca: Vec<PathBuf>,
        endpoint: Url,
        mirrors: &[Url],
    ) -> Self {
        let insecure_hosts = if settings.insecure {
            std::iter::once(&endpoint).chain(mirrors).map(|url| url.host().to_owned()).collect()
        } else {
            Vec::new()
        };
        Self {
            network,
            name,
            settings,
            more_ca,
            endpoint,
            insecure_hosts,
            insecure_warned: Once::new(),
            answered: AtomicBool::new(false),
            tls: OnceLock::new(),
            connections: Mutex::default(),
        }
    }

    /// Sends `request` and follows its redirects. Any status that is not a redirect is an answer.
    pub(crate) fn send(&self, request: &Request<'_>) -> Result<Answer, FailedTry> {
        let clock = Clock::start(self.network.waits.exchange);
        let mut url = request.url.clone();
        let mut own = true;
        for _ in 0..=MAX_REDIRECTS {
            let answer = clock.run(|| self.exchange(request, &url, own, clock));
            let answer = answer.map_err(|failure| failure.after_redirects(request.url, &url))?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let refuse = |reason: String| RegistryError::Redirect { from: url.to_string(), reason };
            if request.method == Method::POST {
                return Err(refuse("what was sent is meant for this host only".to_owned()).into());
            }
            let Some(location) = answer.headers.get(header::LOCATION) else {
                return Err(refuse("it does not say where to".to_owned()).into());
            };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let next = url.join(&location).map_err(|reason| refuse(reason.to_string()))?;
            if url.is_secure() && !next.is_secure() {
                return Err(refuse(format!("it leads from https to plain http, {next}")).into());
            }
            if next.is_local() && !request.url.is_local() {
                return Err(refuse(format!("it leads to this machine itself, {}", next.origin())).into());
            }
            own = own && next.same_origin(&url);
            answer.discard();
            url = next;
        }
        let reason = format!("there are more than {MAX_REDIRECTS} in a row");
        Err(RegistryError::Redirect { from: request.url.to_string(), reason }.into())
    }

    /// Sends `request` to `url`, which is its own origin's if `own`, and waits for the head of the
    /// answer.
    fn exchange(
        &self,
        request: &Request<'_>,
        url: &Url,
        own: bool,
        clock: Clock,
    ) -> Result<Answer, FailedTry> {
        self.network.check()?;
        let proxy = self.proxy(url)?;
        let Connections { agent, tls } = self.connections(url, proxy.as_ref())?;
        let builder = self.head(request, url, own, proxy.as_ref().map(|(_, proxy)| proxy))?;
        self.network.count_request();
        let has_credentials = own && (request.authorization.is_some() || request.form.is_some());
        let told = Sent::of(
            &self.network,
            &Asked {
                method: &request.method,
                url,
                credentials: Some(request.credentials).filter(|_| has_credentials),
                own_headers: request.own_headers,
                headers: builder.headers_ref(),
                heard: own && request.heard,
            },
        );
        let started = Instant::now();
        let sent = match request.form {
            Some(form) => builder
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.reveal().to_owned())
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
            None => builder.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        };
        let status = sent.as_ref().ok().map(|response| response.status().as_u16());
        let headers = sent.as_ref().ok().map(http::Response::headers);
        let exchange = told.map(|told| told.answered(started.elapsed(), headers));
        self.network.answered(&self.name.name, status, exchange);
        let response = sent.map_err(|error| {
            let ours = tls.as_ref().map_or(ClientCertificate::Unasked, Tls::client_certificate);
            self.failure(url, error, ours, proxy.as_ref().map(|(variable, _)| *variable))
        })?;
        // With CONNECT, this is the answer of whoever stands behind the proxy.
        if let (407, false, Some((variable, _))) = (response.status().as_u16(), url.is_secure(), &proxy) {
            return Err(wants_proxy_login(&format!("no way through the proxy that {variable} names")));
        }
        if self.is_plain_endpoint(url) {
            self.answered.store(true, Ordering::Relaxed);
        }
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.into_reader(),
            url: url.clone(),
            own,
            clock,
            network: Arc::clone(&self.network),
        })
    }

    /// Tells why there is no answer from `url`, which was asked through the proxy that `variable`
    /// names, if there is one.
    fn failure(
        &self,
        url: &Url,
        error: ureq::Error,
        ours: ClientCertificate,
        variable: Option<&str>,
    ) -> FailedTry {
        let is_no_answer = is_no_answer(&error);
        let failed = self.network.failure(url, error, ours);
        match variable {
            Some(variable) => blame_proxy(failed, variable),
            None if is_no_answer && self.is_plain_endpoint(url) && !self.answered.load(Ordering::Relaxed) => {
                failed.over_plain_http()
            }
            None => failed,
        }
    }

    /// True if `url` is the endpoint's, and that is asked over plain http.
    fn is_plain_endpoint(&self, url: &Url) -> bool {
        !url.is_secure() && url.same_origin(&self.endpoint)
    }

    /// Writes the head of `request` to `url`; secrets go along only to the request's `own` origin.
    fn head(
        &self,
        request: &Request<'_>,
        url: &Url,
        own: bool,
        proxy: Option<&Proxy>,
    ) -> Result<http::request::Builder, FailedTry> {
        let uri = uri(url).map_err(|reason| self.unusable(format!("{url}: {reason}")))?;
        let sensitive = |secret: &Secret| sensitive(secret).map_err(|reason| self.unusable(reason));
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(uri)
            .header(header::HOST, url.host_port())
            .header(header::ACCEPT, request.accept)
            // Digests are of the bytes as stored: nothing on the way may compress them.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(from) = request.from {
            builder = builder.header(header::RANGE, format!("bytes={from}-"));
        }
        // With CONNECT, ureq tells the proxy itself.
        if !url.is_secure()
            && let Some(proxy) = proxy
            && let Some(user) = proxy.username()
        {
            let credentials = basic(user, &Secret::new(proxy.password().unwrap_or_default()));
            builder = builder.header(header::PROXY_AUTHORIZATION, sensitive(&credentials)?);
        }
        if own {
            for (name, value) in request.own_headers {
                builder = builder.header(name, value);
            }
            if let Some(authorization) = request.authorization {
                builder = builder.header(header::AUTHORIZATION, sensitive(authorization)?);
            }
        }
        Ok(builder)
    }

    /// Makes the error of a setting that cannot be used.
    fn unusable(&self, reason: String) -> FailedTry {
        RegistryError::Settings { registry: self.name.name.clone(), reason }.into()
    }

    /// Finds the proxy for `url`, with the variable that names it; the value may hold a password.
    fn proxy(&self, url: &Url) -> Result<Option<(&'static str, Proxy)>, FailedTry> {
        let Some((variable, text)) = self.network.environment.proxy_for(url) else { return Ok(None) };
        let fail = |reason: &str| self.unusable(format!("{variable}: {reason}"));
        let proxy = Proxy::new(text).map_err(|_| fail("it is not a proxy URL"))?;
        self.network.veil.add(proxy.password().unwrap_or_default());
        match proxy.protocol() {
            ProxyProtocol::Http => Ok(Some((variable, proxy))),
            ProxyProtocol::Https if url.is_secure() => Ok(Some((variable, proxy))),
            _ => Err(fail("only http proxies are supported, and https proxies for https")),
        }
    }

    /// Returns the connections for `url`, which are made when they are first asked for.
    fn connections(
        &self,
        url: &Url,
        proxy: Option<&(&'static str, Proxy)>,
    ) -> Result<Connections, FailedTry> {
        let kind = Kind {
            secure: url.is_secure(),
            identified: !self.is_plain() && url.same_origin(&self.endpoint),
            verified: !self.insecure_hosts.iter().any(|host| host == url.host()),
            proxy: proxy.map(|(_, proxy)| proxy.clone()),
        };
        if kind.secure && !kind.verified {
            self.insecure_warned.call_once(|| {
                self.network.warn(format!(
                    "{}: insecure = true: certificates are not checked, so anybody on the way can read and change \
                     what is transferred",
                    self.name.name
                ));
            });
        }
        let pool = &self.network.pool;
        let mut known = lock(if self.is_plain() { &pool.plain } else { &self.connections });
        if let Some(connections) = known.get(&kind) {
            return Ok(connections.clone());
        }
        let tls = kind.secure.then(|| self.tls(&kind)).transpose();
        let connections = pool.open(&kind, tls.map_err(|reason| self.unusable(reason))?);
        known.insert(kind, connections.clone());
        Ok(connections)
    }

    fn tls(&self, kind: &Kind) -> Result<Tls, String> {
        let load = || TlsSettings::load(&self.settings, &self.more_ca, self.network.pool.roots());
        match self.tls.get_or_init(load) {
            Ok(settings) => settings.connector(kind.identified, kind.verified),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// Tells whether nothing about the connections is this registry's own, so that all such
    /// registries share theirs.
    fn is_plain(&self) -> bool {
        !self.settings.has_tls() && self.more_ca.is_empty()
    }
}

/// Writes the URL of a request, query and all, as ureq takes it.
pub(crate) fn uri(url: &Url) -> Result<http::Uri, &'static str> {
    url.whole().parse().map_err(|_| "it is not a URL")
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(secret.reveal())
        .map_err(|_| "the credentials cannot be sent as a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
