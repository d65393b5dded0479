//! HTTP as registries need it: one exchange with its redirects, and the loop that tries again.
//!
//! [`Shared`] is what all registries of a run have in common, [`Client`] one registry's connections. Redirects
//! are followed here and not by ureq, because what may be sent along depends on where they lead. A blocking
//! read is bounded by the stall time, never by the length of the transfer; a thrown [`Cancel`] closes all
//! sockets.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Method, header};
use ureq::tls::Certificate;
use ureq::{Agent, Proxy, ProxyProtocol};

use super::Options;
use super::environment::Environment;
use super::secret::Secret;
use super::tls::{TlsSettings, system_roots};
use super::url::Url;
use crate::cancel::Cancel;
use crate::error::{RegistryError, Trouble};
use crate::progress::{Event, Reporter};
use crate::state::{Limits, RegistrySettings};

/// How often a request is sent before its failure is final (the contract says at least 5).
pub(super) const TRIES: u32 = 6;
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Longest wait between two tries that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Longest wait that a registry may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// What is read of an error's body, in bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// First wait between two tries; doubles from there.
const BACKOFF: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });
/// A document's body may take this many times the stall time as a whole.
const DOCUMENT_STALLS: u32 = 20;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `text` from outside as one short line: control characters escaped, at most `max` characters.
pub(super) fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        if index == max {
            out.push('…');
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

// ------------------------------------------------------------------------------------------------- failures

/// Why one try failed, and whether another may succeed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: RegistryError,
    /// Whether trying again may help.
    pub(super) transient: bool,
    /// How long the server asks to wait.
    pub(super) after: Option<Duration>,
}

impl Failure {
    pub(super) fn transient(error: RegistryError) -> Self {
        Self { error, transient: true, after: None }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self { error, transient: false, after: None }
    }
}

// --------------------------------------------------------------------------------------------------- shared

/// What all registries of a run share.
pub(super) struct Shared {
    pub(super) environment: Environment,
    pub(super) limits: Limits,
    pub(super) cancel: Cancel,
    reporter: Arc<dyn Reporter>,
    requests: AtomicU64,
    stall: Duration,
    max_connections: usize,
    roots: OnceLock<Result<Vec<Certificate<'static>>, String>>,
    agents: Mutex<Vec<Agent>>,
    watcher: Once,
}

impl Shared {
    pub(super) fn new(options: Options) -> (Self, Vec<RegistrySettings>) {
        let Options { registries, limits, max_connections, environment, cancel, reporter } = options;
        let stall = environment.stall().unwrap_or_else(|text| {
            let text = printable(&text, 40);
            reporter.report(Event::Warning(format!(
                "MSB_SYNC_STALL_TIMEOUT={text} is no positive number of seconds; 30 s it is"
            )));
            Duration::from_secs(30)
        });
        let shared = Self {
            environment,
            limits,
            cancel,
            reporter,
            requests: AtomicU64::new(0),
            stall,
            max_connections: max_connections.max(1),
            roots: OnceLock::new(),
            agents: Mutex::default(),
            watcher: Once::new(),
        };
        (shared, registries)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn warn(&self, text: String) {
        self.reporter.report(Event::Warning(text));
    }

    pub(super) fn detail(&self, text: String) {
        self.reporter.report(Event::Detail(text));
    }

    pub(super) fn check(&self) -> Result<(), RegistryError> {
        if self.cancel.is_cancelled() { Err(RegistryError::Stopped) } else { Ok(()) }
    }

    /// Runs `attempt` until it succeeds, fails for good, or has failed `tries` times.
    pub(super) fn retry<T>(
        &self,
        tries: u32,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            self.check()?;
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            failures += 1;
            if !failure.transient || failures >= tries {
                self.check()?;
                return Err(failure.error);
            }
            self.pause(&failure, failures)?;
        }
    }

    /// Waits before the next try, after `failures` in a row.
    pub(super) fn pause(&self, failure: &Failure, failures: u32) -> Result<(), RegistryError> {
        self.check()?;
        let doubled = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BACKOFF);
        // Jitter spreads clients that failed together; it never goes below half the wait.
        let wait = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        let wait = match failure.after {
            Some(after) => after.min(MAX_RETRY_AFTER).max(wait),
            None => wait,
        };
        let text = format!("{}; trying again in {:.1} s", failure.error, wait.as_secs_f64());
        if failure.after.is_some() && wait >= MAX_BACKOFF {
            self.warn(text);
        } else {
            self.detail(text);
        }
        if self.cancel.sleep(wait) { Ok(()) } else { Err(RegistryError::Stopped) }
    }

    fn roots(&self) -> Result<&[Certificate<'static>], String> {
        self.roots.get_or_init(system_roots).as_deref().map_err(Clone::clone)
    }

    /// Takes note of `agent`, so that a thrown switch closes its sockets.
    fn register(self: &Arc<Self>, agent: &Agent) {
        lock(&self.agents).push(agent.clone());
        self.watcher.call_once(|| {
            let weak = Arc::downgrade(self);
            let cancel = self.cancel.clone();
            // Without the thread a stop only takes effect when the current read ends: bearable.
            let _ = std::thread::Builder::new()
                .name("registry-stop".to_owned())
                .spawn(move || close_on_cancel(&weak, &cancel));
        });
    }
}

fn close_on_cancel(shared: &Weak<Shared>, cancel: &Cancel) {
    while shared.strong_count() > 0 {
        if !cancel.sleep(Duration::from_millis(500)) {
            if let Some(shared) = shared.upgrade() {
                for agent in lock(&shared.agents).drain(..) {
                    agent.shutdown();
                }
            }
            return;
        }
    }
}

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
        let deadline = Instant::now() + client.shared.stall * DOCUMENT_STALLS;
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.body.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(client.body_failure(&self.url, error)),
            }
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
            if Instant::now() > deadline {
                return Err(Failure::transient(RegistryError::Protocol {
                    url: self.url.to_string(),
                    reason: format!("{what} arrives too slowly"),
                }));
            }
        }
    }

    /// Reads and forgets a short body, so that its connection can be used again.
    pub(super) fn discard(mut self) {
        if self.content_length().is_some_and(|length| length <= MAX_ERROR_BODY) {
            // It is only about the connection.
            let _ = io::copy(&mut self.body, &mut io::sink());
        }
    }
}

// -------------------------------------------------------------------------------------------------- client

/// What tells connections apart that must not be mixed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct AgentKey {
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
    settings: RegistrySettings,
    endpoint: Url,
    /// Hosts whose certificates `insecure` leaves unchecked: the endpoint's and the mirrors'.
    insecure_hosts: Vec<String>,
    insecure_warned: Once,
    tls: OnceLock<Result<TlsSettings, String>>,
    agents: Mutex<HashMap<AgentKey, Agent>>,
}

impl Client {
    pub(super) fn new(
        shared: Arc<Shared>,
        registry: String,
        settings: RegistrySettings,
        endpoint: Url,
        mirrors: &[Url],
    ) -> Self {
        let insecure_hosts = if settings.insecure {
            std::iter::once(&endpoint).chain(mirrors).map(|url| url.host().to_owned()).collect()
        } else {
            Vec::new()
        };
        Self {
            shared,
            registry,
            settings,
            endpoint,
            insecure_hosts,
            insecure_warned: Once::new(),
            tls: OnceLock::new(),
            agents: Mutex::default(),
        }
    }

    /// Sends `request` and follows its redirects. Any status that is not a redirect is an answer.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        let mut own = true;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.exchange(request, &url, own)?;
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
            let next = url.join(&location).map_err(|reason| refuse(reason.to_owned()))?;
            if url.is_secure() && !next.is_secure() {
                return Err(refuse(format!("it leads from https to plain http, {next}")).into());
            }
            own = own && next.same_origin(&url);
            answer.discard();
            url = next;
        }
        let reason = format!("there are more than {MAX_REDIRECTS} in a row");
        Err(RegistryError::Redirect { from: request.url.to_string(), reason }.into())
    }

    fn exchange(&self, request: &Request<'_>, url: &Url, own: bool) -> Result<Answer, Failure> {
        self.shared.check()?;
        let proxy = self.proxy(url)?;
        let agent = self.agent(url, proxy.as_ref())?;
        let settings = |reason: String| RegistryError::Settings { registry: self.registry.clone(), reason };
        let uri = url.to_uri().map_err(|reason| settings(format!("{url}: {reason}")))?;
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
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        let sent = match request.form {
            Some(form) => builder
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.reveal().to_owned())
                .map_err(ureq::Error::from)
                .and_then(|request| agent.run(request)),
            None => builder.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        };
        let response = sent.map_err(|error| {
            let failure = self.failure(url, error);
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
        match proxy.protocol() {
            ProxyProtocol::Http => Ok(Some((variable, proxy))),
            ProxyProtocol::Https if url.is_secure() => Ok(Some((variable, proxy))),
            _ => Err(fail("only http proxies are supported, and https proxies for https")),
        }
    }

    fn agent(&self, url: &Url, proxy: Option<&(&'static str, Proxy)>) -> Result<Agent, Failure> {
        let settings = |reason: String| RegistryError::Settings { registry: self.registry.clone(), reason };
        let key = AgentKey {
            secure: url.is_secure(),
            identified: url.same_origin(&self.endpoint),
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
        let mut agents = lock(&self.agents);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let stall = Some(self.shared.stall);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("msb-sync/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            // Headers that drip in byte by byte would pass the stall detector for ever.
            .timeout_recv_response(Some(self.shared.stall.saturating_mul(4)))
            .max_idle_connections(self.shared.max_connections.saturating_mul(2))
            .max_idle_connections_per_host(self.shared.max_connections)
            .input_buffer_size(128 * 1024)
            .proxy(None);
        if key.secure {
            let tls = self.tls.get_or_init(|| TlsSettings::load(&self.settings, self.shared.roots()?));
            let tls = tls.as_ref().map_err(|reason| settings(reason.clone()))?;
            config = config.tls_config(tls.config(key.identified, key.verified)).proxy(key.proxy.clone());
        }
        let agent = match &key.proxy {
            Some(proxy) if !key.secure => super::proxy::agent(config.build(), proxy.uri().clone()),
            _ => Agent::new_with_config(config.build()),
        };
        self.shared.register(&agent);
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    // ------------------------------------------------------------------------------------- what went wrong

    /// What a failed read of a body means.
    pub(super) fn body_failure(&self, url: &Url, error: io::Error) -> Failure {
        self.failure(url, ureq::Error::from(error))
    }

    fn failure(&self, url: &Url, error: ureq::Error) -> Failure {
        if self.shared.cancel.is_cancelled() {
            return RegistryError::Stopped.into();
        }
        let unreachable =
            |trouble, reason| Failure::transient(RegistryError::Unreachable { reason, trouble });
        let origin = url.origin();
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                unreachable(Trouble::Broken, format!("cannot connect to {origin}: no answer"))
            }
            ureq::Error::Timeout(ureq::Timeout::Resolve) | ureq::Error::HostNotFound => unreachable(
                Trouble::HostNotFound,
                format!("cannot find the host {}: the name server does not know it", url.host()),
            ),
            ureq::Error::Timeout(_) => {
                Failure::transient(RegistryError::Stalled { url: url.to_string(), stall: self.shared.stall })
            }
            ureq::Error::ConnectProxyFailed(reason) => {
                let reason = printable(&reason, 120);
                unreachable(Trouble::Proxy, format!("the proxy does not connect to {origin}: {reason}"))
            }
            ureq::Error::Rustls(error) => tls_failure(url, &error).into(),
            ureq::Error::Io(error) => io_failure(url, &error),
            other => Failure::transient(RegistryError::Protocol {
                url: url.to_string(),
                reason: printable(&other.to_string(), 200),
            }),
        }
    }

    /// The error that a status of 400 or more means.
    ///
    /// `unknown` are the words for a 404 without a reason, `sent` the credentials that went along: a server
    /// that echoes them must not get them into a message; `authenticated` whether they are the user's.
    pub(super) fn refusal(
        &self,
        answer: Answer,
        unknown: &str,
        sent: Option<&Secret>,
        authenticated: bool,
    ) -> Failure {
        let status = answer.status;
        let host = answer.url.host_port();
        let after = answer.header("retry-after").and_then(|text| retry_after(text, SystemTime::now()));
        let own = answer.own;
        let said = answer
            .read(self, "the error", MAX_ERROR_BODY)
            .ok()
            .and_then(|body| reason_in(&body))
            .map(|reason| printable(&redact(reason, sent), 300));
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
                registry: self.registry.clone(),
                authenticated: authenticated && own,
            },
            transient: matches!(status, 408 | 429 | 500..=599),
            after,
        }
    }
}

/// Who did not answer, or was not found, is the proxy.
fn blame_proxy(mut failure: Failure, variable: &str) -> Failure {
    if let RegistryError::Unreachable { reason, trouble } = &mut failure.error
        && *trouble != Trouble::Proxy
    {
        *reason = format!("{reason}, by the proxy that {variable} names");
        *trouble = Trouble::Proxy;
    }
    failure
}

fn sensitive(secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(secret.reveal())
        .map_err(|_| "the credentials cannot be sent as a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn io_failure(url: &Url, error: &io::Error) -> Failure {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_failure(url, error).into();
    }
    let origin = url.origin();
    let unreachable = |trouble, reason| Failure::transient(RegistryError::Unreachable { reason, trouble });
    let words = error.to_string();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            unreachable(Trouble::Refused, format!("connection refused by {origin}"))
        }
        io::ErrorKind::TimedOut => unreachable(Trouble::Broken, format!("no answer from {origin}")),
        io::ErrorKind::UnexpectedEof => Failure::transient(RegistryError::Protocol {
            url: url.to_string(),
            reason: "the connection was closed too early".to_owned(),
        }),
        // std has no kind for what getaddrinfo says.
        _ if words.contains("lookup address") => {
            let reason = words.rsplit(": ").next().unwrap_or_default();
            unreachable(Trouble::HostNotFound, format!("cannot find the host {}: {reason}", url.host()))
        }
        _ => unreachable(
            Trouble::Broken,
            format!("the connection to {origin} broke: {}", printable(&words, 200)),
        ),
    }
}

fn tls_failure(url: &Url, error: &rustls::Error) -> RegistryError {
    let host = url.host_port();
    match error {
        rustls::Error::InvalidCertificate(reason) => RegistryError::Tls {
            untrusted: matches!(
                reason,
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature
            ),
            reason: format!(
                "the certificate of {host} is not trusted: {}",
                printable(&reason.to_string(), 300)
            ),
        },
        other => RegistryError::Tls {
            reason: format!("no TLS connection to {host}: {}", printable(&other.to_string(), 200)),
            untrusted: false,
        },
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)).min(MAX_RETRY_AFTER));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// The registry's own words in the body of an error: the distribution spec's `errors`, or what token servers say.
fn reason_in(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: Option<&serde_json::Value>| {
        value
            .and_then(serde_json::Value::as_str)
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let error = json.get("errors").and_then(|errors| errors.get(0));
    let code = text(error.and_then(|error| error.get("code"))).map(|code| match code.as_str() {
        "TOOMANYREQUESTS" => "too many requests".to_owned(),
        _ => code.to_lowercase().replace('_', " "),
    });
    let message = text(error.and_then(|error| error.get("message")));
    match (code, message) {
        (Some(code), Some(message)) if message.to_lowercase().starts_with(&code) => Some(message),
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => ["error_description", "details", "message", "error"]
            .into_iter()
            .find_map(|key| text(json.get(key))),
    }
}

fn redact(text: String, sent: Option<&Secret>) -> String {
    let Some(sent) = sent else { return text };
    // "Basic xyz" or a whole form: every long word of it counts.
    sent.reveal()
        .split([' ', '&', '='])
        .filter(|word| word.len() >= 8 && !text.is_empty())
        .fold(text.clone(), |text, word| text.replace(word, "…"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("40"), Some(40));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(300));
        for bad in ["", "-1", "soon", "1.5"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_registrys_own_words_are_found() {
        let reason = |body: &str| reason_in(body.as_bytes());
        assert_eq!(
            reason(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#).as_deref(),
            Some("manifest unknown")
        );
        assert_eq!(
            reason(r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#).as_deref(),
            Some("denied: not yours")
        );
        assert_eq!(reason(r#"{"details":"incorrect password"}"#).as_deref(), Some("incorrect password"));
        assert_eq!(reason("<html>"), None);
        assert_eq!(reason(r#"{"errors":[]}"#), None);
    }

    #[test]
    fn credentials_that_a_server_echoes_are_cut_out() {
        let sent = Secret::new("Bearer abcdefgh12345678");
        assert_eq!(redact("bad token abcdefgh12345678!".to_owned(), Some(&sent)), "bad token …!");
    }

    #[test]
    fn text_from_outside_is_one_short_line() {
        assert_eq!(printable("a\u{1b}[31m\r\nb", 100), "a\\u{1b}[31m\\r\\nb");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    proptest! {
        #[test]
        fn any_retry_after_is_bounded(text in ".{0,40}") {
            prop_assert!(retry_after(&text, SystemTime::now()).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        }
    }
}
