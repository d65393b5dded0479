//! HTTP as registries need it: one exchange, with its redirects.
//!
//! A [`Client`] is one registry's connections. Redirects are followed here and not by ureq, because what may be
//! sent along depends on where they lead. A blocking read is bounded by the stall time, never by the length of the
//! transfer.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, SystemTime};

use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Method, header};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, TcpConnector};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::clock::{Clock, Clocked};
use super::failure::{
    Failure, blame_proxy, is_too_long, printable, reason_in, retry_after, transport_failure,
};
use super::handshake::ClientCertificate;
use super::names::Remembered;
use super::secret::Secret;
use super::shared::{Shared, lock};
use super::tls::{Tls, TlsSettings};
use crate::error::{Login, RegistryError, RegistryName, TlsCure};
use crate::state::RegistrySettings;
use crate::url::Url;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// What is read of an error's body, in bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// How long the words of an error are waited for: its status has said the main thing.
const ERROR_TIME: Duration = Duration::from_secs(10);
/// Which part of the patience an unwanted body gets, so that its connection can be used again.
const DISCARD_PART: u32 = 30;

// ------------------------------------------------------------------------------------------------ requests

/// One request, as far as it differs from others.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) accept: &'a str,
    /// `bytes=N-`.
    pub(super) from: Option<u64>,
    /// The whole header value; dropped when a redirect leaves the origin.
    pub(super) authorization: Option<&'a Secret>,
    /// The registry's own headers; dropped likewise.
    pub(super) own_headers: &'a [(HeaderName, HeaderValue)],
    /// A form to POST.
    pub(super) form: Option<&'a Secret>,
}

impl<'a> Request<'a> {
    pub(super) fn get(url: &'a Url, accept: &'a str) -> Self {
        Self {
            method: Method::GET,
            url,
            accept,
            from: None,
            authorization: None,
            own_headers: &[],
            form: None,
        }
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Where it came from in the end.
    pub(super) url: Url,
    /// Whether it came from the origin that was asked.
    pub(super) own: bool,
    /// When it has to be here, unless it is a blob.
    clock: Clock,
}

pub(super) type Body = ureq::BodyReader<'static>;

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) fn read(mut self, client: &Client, what: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            Failure::from(RegistryError::TooLarge {
                what: what.to_owned(),
                host: self.url.host_port(),
                limit,
            })
        };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.clock.run(|| self.body.read(&mut buffer)) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(client.body_failure(&self.url, error)),
            }
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
    }

    /// Lets `read` have the body as it arrives.
    pub(super) fn stream<T>(mut self, read: impl FnOnce(&mut dyn Read) -> T) -> T {
        self.clock.run(|| read(&mut self.body))
    }

    /// Reads and forgets a short body, so that its connection can be used again.
    pub(super) fn discard(mut self, client: &Client) {
        if self.content_length().is_some_and(|length| length <= MAX_ERROR_BODY) {
            // It is only about the connection.
            let _ = self
                .clock
                .within(client.shared.patience / DISCARD_PART)
                .run(|| io::copy(&mut self.body, &mut io::sink()));
        }
    }
}

// -------------------------------------------------------------------------------------------------- client

/// What tells connections apart that must not be mixed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct AgentKey {
    secure: bool,
    identified: bool,
    verified: bool,
    proxy: Option<Proxy>,
}

/// One registry's connections.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    /// As the images file spells it.
    pub(super) registry: String,
    /// Under which host a login for it is stored.
    login: String,
    settings: RegistrySettings,
    /// Roots beside those of the settings.
    more_ca: Vec<PathBuf>,
    endpoint: Url,
    /// Hosts whose certificates `insecure` leaves unchecked: the endpoint's and the mirrors'.
    insecure_hosts: Vec<String>,
    insecure_warned: Once,
    tls: OnceLock<Result<TlsSettings, String>>,
    agents: Mutex<HashMap<AgentKey, Connections>>,
}

/// Connections of one kind, and how TLS is put on them.
#[derive(Clone)]
pub(super) struct Connections {
    agent: Agent,
    tls: Option<Tls>,
}

impl Client {
    pub(super) fn new(
        shared: Arc<Shared>,
        name: RegistryName,
        settings: RegistrySettings,
        more_ca: Vec<PathBuf>,
        endpoint: Url,
        mirrors: &[Url],
    ) -> Self {
        let RegistryName { name: registry, login } = name;
        let insecure_hosts = if settings.insecure {
            std::iter::once(&endpoint).chain(mirrors).map(|url| url.host().to_owned()).collect()
        } else {
            Vec::new()
        };
        Self {
            shared,
            registry,
            login,
            settings,
            more_ca,
            endpoint,
            insecure_hosts,
            insecure_warned: Once::new(),
            tls: OnceLock::new(),
            agents: Mutex::default(),
        }
    }

    /// Sends `request` and follows its redirects. Any status that is not a redirect is an answer.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let clock = Clock::start(self.shared.patience);
        let mut url = request.url.clone();
        let mut own = true;
        for _ in 0..=MAX_REDIRECTS {
            let answer = clock.run(|| self.exchange(request, &url, own, clock));
            let answer = answer.map_err(|failure| Failure { redirected: url != *request.url, ..failure })?;
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
            answer.discard(self);
            url = next;
        }
        let reason = format!("there are more than {MAX_REDIRECTS} in a row");
        Err(RegistryError::Redirect { from: request.url.to_string(), reason }.into())
    }

    fn exchange(&self, request: &Request<'_>, url: &Url, own: bool, clock: Clock) -> Result<Answer, Failure> {
        self.shared.check()?;
        let proxy = self.proxy(url)?;
        let Connections { agent, tls } = self.connections(url, proxy.as_ref())?;
        let settings = |reason: String| RegistryError::Settings { registry: self.registry.clone(), reason };
        let uri = uri(url).map_err(|reason| settings(format!("{url}: {reason}")))?;
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
            && let Some((_, proxy)) = &proxy
            && let Some(user) = proxy.username()
        {
            let password = Secret::new(proxy.password().unwrap_or_default());
            let credentials = super::auth::basic(user, &password);
            builder = builder.header(header::PROXY_AUTHORIZATION, sensitive(&credentials).map_err(settings)?);
        }
        if own {
            for (name, value) in request.own_headers {
                builder = builder.header(name, value);
            }
            if let Some(authorization) = request.authorization {
                builder = builder.header(header::AUTHORIZATION, sensitive(authorization).map_err(settings)?);
            }
        }
        self.shared.count_request();
        let sent = match request.form {
            Some(form) => builder
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.reveal().to_owned())
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
            None => builder.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        };
        let status = sent.as_ref().ok().map(|response| response.status().as_u16());
        self.shared.answered(&self.registry, status);
        let response = sent.map_err(|error| {
            let ours = tls.as_ref().map_or(ClientCertificate::Unasked, Tls::client_certificate);
            let failure = transport_failure(&self.shared, url, error, ours);
            match &proxy {
                Some((variable, _)) => blame_proxy(failure, variable),
                None => failure,
            }
        })?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.into_reader(),
            url: url.clone(),
            own,
            clock,
        })
    }

    /// The proxy for `url`, with the variable that names it; the value may hold a password.
    fn proxy(&self, url: &Url) -> Result<Option<(&'static str, Proxy)>, Failure> {
        let Some((variable, text)) = self.shared.environment.proxy_for(url) else { return Ok(None) };
        let fail = |reason: &str| {
            let reason = format!("{variable}: {reason}");
            Failure::from(RegistryError::Settings { registry: self.registry.clone(), reason })
        };
        let proxy = Proxy::new(text).map_err(|_| fail("it is not a proxy URL"))?;
        self.shared.veil.add(proxy.password().unwrap_or_default());
        match proxy.protocol() {
            ProxyProtocol::Http => Ok(Some((variable, proxy))),
            ProxyProtocol::Https if url.is_secure() => Ok(Some((variable, proxy))),
            _ => Err(fail("only http proxies are supported, and https proxies for https")),
        }
    }

    fn connections(&self, url: &Url, proxy: Option<&(&'static str, Proxy)>) -> Result<Connections, Failure> {
        let settings = |reason: String| RegistryError::Settings { registry: self.registry.clone(), reason };
        let key = AgentKey {
            secure: url.is_secure(),
            identified: !self.is_plain() && url.same_origin(&self.endpoint),
            verified: !self.insecure_hosts.iter().any(|host| host == url.host()),
            proxy: proxy.map(|(_, proxy)| proxy.clone()),
        };
        if key.secure && !key.verified {
            self.insecure_warned.call_once(|| {
                self.shared.warn(format!(
                    "{}: insecure = true: certificates are not checked, so anybody on the way can read and change \
                     what is transferred",
                    self.registry
                ));
            });
        }
        let mut agents = lock(if self.is_plain() { &self.shared.plain_agents } else { &self.agents });
        if let Some(connections) = agents.get(&key) {
            return Ok(connections.clone());
        }
        let stall = Some(self.shared.stall);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("msb-sync/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .max_idle_connections(self.shared.max_connections.saturating_mul(2))
            .max_idle_connections_per_host(self.shared.max_connections)
            .input_buffer_size(128 * 1024)
            .proxy(None);
        let tls = key.secure.then(|| self.tls(&key)).transpose().map_err(settings)?;
        let agent = match (&tls, &key.proxy) {
            (Some(tls), proxy) => {
                let config = config.proxy(proxy.clone()).build();
                // The proxy's own connection comes first: CONNECT is asked on it.
                let tunnel = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
                Agent::with_parts(config, Clocked(tunnel.chain(tls.clone())), Remembered::default())
            }
            (None, Some(proxy)) => super::proxy::agent(config.build(), proxy.uri().clone()),
            (None, None) => {
                let connector = Clocked(().chain(TcpConnector::default()));
                Agent::with_parts(config.build(), connector, Remembered::default())
            }
        };
        self.shared.register(&agent);
        let connections = Connections { agent, tls };
        agents.insert(key, connections.clone());
        Ok(connections)
    }

    fn tls(&self, key: &AgentKey) -> Result<Tls, String> {
        let load = || {
            let system = self.shared.roots();
            TlsSettings::load(&self.settings, &self.more_ca, system)
        };
        match self.tls.get_or_init(load) {
            Ok(settings) => settings.connector(key.identified, key.verified),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// Whether nothing about its connections is this registry's own. All such registries share their connections,
    /// their buffers and the system's roots: a run may have hundreds.
    fn is_plain(&self) -> bool {
        !self.settings.has_tls() && self.more_ca.is_empty()
    }

    /// What a failed read of a body means.
    pub(super) fn body_failure(&self, url: &Url, error: io::Error) -> Failure {
        transport_failure(&self.shared, url, ureq::Error::from(error), ClientCertificate::Unasked)
    }

    /// The error that a status of 400 or more means.
    ///
    /// `unknown` are the words for a 404 without a reason. The server's own words are only shown where `heard` says
    /// so and no redirect led there: who is asked at somebody else's wish may have words for this machine alone.
    pub(super) fn refusal(&self, answer: Answer, unknown: &str, login: Login, heard: bool) -> Failure {
        let status = answer.status;
        let url = answer.url.clone();
        let host = url.host_port();
        let now = SystemTime::now();
        let after = answer.header("retry-after").and_then(|text| retry_after(text, now));
        let until = after.filter(|after| is_too_long(*after)).and_then(|after| now.checked_add(after));
        let own = answer.own;
        let answer = Answer { clock: answer.clock.within(ERROR_TIME), ..answer };
        let body = answer.read(self, "the error", MAX_ERROR_BODY).ok().filter(|_| own && heard);
        if let Some(misunderstood) = body.as_deref().and_then(|body| misunderstanding(&url, status, body)) {
            return misunderstood.into();
        }
        let hide = |text: &str| self.shared.veil.hide(text);
        let said = body.and_then(|body| reason_in(&body, &hide)).map(|reason| printable(&reason, 300));
        let reason = said.unwrap_or_else(|| match status {
            401 => "unauthorized".to_owned(),
            403 => "access denied".to_owned(),
            404 => unknown.to_owned(),
            _ => http::StatusCode::from_u16(status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .map_or_else(|| "unexpected answer".to_owned(), str::to_ascii_lowercase),
        });
        Failure {
            error: RegistryError::Refused {
                reason,
                status,
                host,
                registry: Box::new(RegistryName { name: self.registry.clone(), login: self.login.clone() }),
                login: if own { login } else { Login::None },
                until: until.map(Box::new),
            },
            // 501 and 505 are about what the server is, not how it is.
            transient: matches!(status, 408 | 429 | 500 | 502..=504 | 506..=599),
            after,
            redirected: false,
        }
    }
}

/// What servers say in plain HTTP of TLS that is missing.
fn misunderstanding(url: &Url, status: u16, body: &[u8]) -> Option<RegistryError> {
    let body = String::from_utf8_lossy(body).to_ascii_lowercase();
    let host = url.host_port();
    let fail = |words: &str, cure| Some(RegistryError::Tls { reason: format!("{host} {words}"), cure });
    // nginx's, Apache's and Go's words.
    let plain =
        ["plain http request was sent to https", "speaking plain http to an ssl", "http request to an https"];
    if status == 400 && !url.is_secure() && plain.iter().any(|words| body.contains(words)) {
        return fail("speaks https, and was asked over plain http", TlsCure::Https);
    }
    if url.is_secure() && status == 400 {
        if body.contains("no required ssl certificate was sent") {
            return fail("wants a client certificate, and there is none", TlsCure::ClientCertificate);
        }
        if body.contains("the ssl certificate error") {
            return fail("does not accept the client certificate", TlsCure::OtherClientCertificate);
        }
    }
    None
}

/// The URL of a request, query and all, as ureq takes it.
pub(super) fn uri(url: &Url) -> Result<http::Uri, &'static str> {
    url.whole().parse().map_err(|_| "it is not a URL")
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(secret.reveal())
        .map_err(|_| "the credentials cannot be sent as a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
