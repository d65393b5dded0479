//! The failures between us and a server: which may pass, and how they are told.
//!
//! A [`FailedTry`] is one try's. Its words come from ureq, rustls, the system or the server;
//! whatever could carry a URL's query or a credential is left out or cut out here.

use std::io;
use std::time::{Duration, SystemTime};

use super::clock::Waits;
use super::handshake::{ClientCertificate, tls_failure};
use super::words::printable;
use crate::error::{Refused, RegistryError, TlsCure, Trouble};
use crate::url::Url;
use crate::{sys, threads};

/// Longest wait that a registry gets when it asks for one; who asks for more is not asked again in
/// this run.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Longer ones are cut to these 7000 years: calendars end with the year 9999.
const MAX_TOLD: Duration = Duration::from_secs(7000 * 366 * 24 * 3600);

/// The failure of one try.
#[derive(Debug)]
pub(crate) struct FailedTry {
    pub(crate) error: RegistryError,
    /// True if another try may help.
    pub(crate) transient: bool,
    /// The time that the server asks to wait.
    pub(crate) after: Option<Duration>,
    /// True if the try failed where a redirect led: the one who redirected had answered.
    pub(crate) redirected: bool,
    /// The image and the request that the try was about, for people.
    pub(crate) about: Option<Box<str>>,
}

impl FailedTry {
    pub(crate) fn transient(error: RegistryError) -> Self {
        Self { error, transient: true, after: None, redirected: false, about: None }
    }

    /// Takes note of what the try was about, unless that is known.
    pub(crate) fn about(mut self, about: impl FnOnce() -> String) -> Self {
        self.about.get_or_insert_with(|| about().into_boxed_str());
        self
    }

    /// The same failure of a request in whose place another one can be made: a server that does not
    /// know such requests (501) is not asked again.
    pub(crate) fn with_a_way_round(self) -> Self {
        let unknown = matches!(self.error, RegistryError::Refused(Refused { status: 501, .. }));
        Self { transient: self.transient && !unknown, ..self }
    }

    /// The same failure of a request over plain http to somebody who has said nothing else so far.
    pub(super) fn over_plain_http(mut self) -> Self {
        match &mut self.error {
            RegistryError::Protocol { may_be_tls, .. } => *may_be_tls = true,
            RegistryError::Unreachable { trouble: trouble @ Trouble::Broken, .. } => {
                *trouble = Trouble::Unencrypted;
            }
            _ => {}
        }
        self
    }

    /// The same failure at `url`, where a redirect of `asked` led: who redirected had answered.
    pub(super) fn after_redirects(mut self, asked: &Url, url: &Url) -> Self {
        self.redirected = url != asked;
        if !url.same_origin(asked) {
            self.error = self.error.elsewhere("the host to which the registry sends", Trouble::Elsewhere);
        }
        self
    }

    /// Tells whether another try in this run may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        self.transient && !self.after.is_some_and(is_too_long)
    }
}

impl From<RegistryError> for FailedTry {
    fn from(error: RegistryError) -> Self {
        Self { error, transient: false, after: None, redirected: false, about: None }
    }
}

/// Tells what a failed exchange with `url`, or a failed read of its body, means.
pub(super) fn transport_failure(
    waits: Waits,
    url: &Url,
    error: ureq::Error,
    ours: ClientCertificate,
) -> FailedTry {
    let unreachable = |trouble, reason| FailedTry::transient(RegistryError::Unreachable { reason, trouble });
    let origin = url.origin();
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect) => {
            unreachable(Trouble::NoAnswer, format!("cannot connect to {origin}: no answer"))
        }
        ureq::Error::Timeout(ureq::Timeout::Resolve) | ureq::Error::HostNotFound => unreachable(
            Trouble::HostNotFound,
            format!("cannot find the host {}: the name server does not know it", url.host()),
        ),
        // The clock of the whole exchange.
        ureq::Error::Timeout(ureq::Timeout::Global) => {
            FailedTry::transient(RegistryError::Slow { url: url.to_string(), limit: waits.exchange })
        }
        ureq::Error::Timeout(_) => {
            FailedTry::transient(RegistryError::Stalled { url: url.to_string(), stall: waits.stall })
        }
        ureq::Error::ConnectProxyFailed(reason) => {
            // "proxy server responded 407/407"
            let status = reason.rsplit('/').next().and_then(|status| status.parse::<u16>().ok());
            let words = status.map_or_else(|| printable(&reason, 120), |status| format!("HTTP {status}"));
            match status {
                Some(407) => wants_proxy_login(&format!("the proxy does not connect to {origin}")),
                _ => unreachable(Trouble::Proxy, format!("the proxy does not connect to {origin}: {words}")),
            }
        }
        // Their words quote the URL, query and all.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            let reason = "the request cannot be written as HTTP".to_owned();
            RegistryError::Protocol { url: url.to_string(), reason, may_be_tls: false }.into()
        }
        ureq::Error::Rustls(error) => tls_failure(url, &error, ours).into(),
        ureq::Error::Io(error) => io_failure(url, &error, ours),
        other => FailedTry::transient(RegistryError::Protocol {
            url: url.to_string(),
            reason: printable(&other.to_string(), 200),
            may_be_tls: false,
        }),
    }
}

/// Tells whether `error` is a server's that closes without an answer, or says something else than
/// HTTP.
pub(super) fn is_no_answer(error: &ureq::Error) -> bool {
    match error {
        // httparse's words where a line does not begin as one of a status; else it is HTTP.
        ureq::Error::Protocol(error) => error.to_string().ends_with("invalid HTTP version"),
        ureq::Error::Io(error) => is_closed(error),
        _ => false,
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// The failure at a proxy that wants a login, or another one: no later try is any better.
pub(super) fn wants_proxy_login(words: &str) -> FailedTry {
    let reason = format!("{words}: it wants a login, or another one (HTTP 407)");
    RegistryError::Unreachable { reason, trouble: Trouble::ProxyLogin }.into()
}

/// Blames the proxy, which is the one that did not answer or was not found.
pub(super) fn blame_proxy(mut failure: FailedTry, variable: &str) -> FailedTry {
    if let RegistryError::Unreachable { reason, trouble } = &mut failure.error
        && !matches!(trouble, Trouble::Proxy | Trouble::ProxyLogin | Trouble::Limit)
    {
        *reason = format!("{reason}, by the proxy that {variable} names");
        *trouble = Trouble::Proxy;
    }
    failure
}

fn io_failure(url: &Url, error: &io::Error, ours: ClientCertificate) -> FailedTry {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_failure(url, error, ours).into();
    }
    let origin = url.origin();
    let unreachable = |trouble, reason| FailedTry::transient(RegistryError::Unreachable { reason, trouble });
    let words = error.to_string();
    if is_closed(error) && ours == ClientCertificate::Missing {
        // Some servers say nothing more; but then a connection may have broken by itself, too.
        let reason =
            format!("no TLS connection to {}: it asks for a client certificate, and closes", url.host_port());
        return FailedTry::transient(RegistryError::Tls { reason, cure: TlsCure::ClientCertificate });
    }
    if sys::is_descriptor_shortage(error) || threads::is_refusal(error) {
        return unreachable(
            Trouble::Limit,
            format!("cannot connect to {origin}: {}", printable(&words, 200)),
        );
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            unreachable(Trouble::Refused, format!("connection refused by {origin}"))
        }
        io::ErrorKind::TimedOut => unreachable(Trouble::Broken, format!("no answer from {origin}")),
        io::ErrorKind::UnexpectedEof => FailedTry::transient(RegistryError::Protocol {
            url: url.to_string(),
            reason: "the connection was closed too early".to_owned(),
            may_be_tls: false,
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

/// Tells whether nobody waits for so long in one run.
pub(super) fn is_too_long(after: Duration) -> bool {
    after > MAX_RETRY_AFTER
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)).min(MAX_TOLD));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(MAX_TOLD))
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
        assert_eq!(seconds("99999999999999999999999"), Some(MAX_TOLD.as_secs()));
        for bad in ["", "-1", "soon", "1.5"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_shortage_of_this_process_is_no_broken_connection() {
        let url = Url::parse("https://r.io/v2/").unwrap();
        let failed = |error| io_failure(&url, &error, ClientCertificate::Unasked).error;
        let files = failed(io::Error::from_raw_os_error(24));
        let thread = threads::refusal_for_tests();
        for error in [files, failed(thread)] {
            assert!(error.to_string().starts_with("cannot connect to https://r.io: "), "{error}");
            assert!(error.hint().unwrap().contains("raise the limits"), "{error}");
            assert_eq!(error.kind(), "system");
        }
        let broken = failed(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(broken.to_string().contains("broke"), "{broken}");
    }

    #[test]
    fn a_shortage_of_this_process_is_not_the_proxys_fault() {
        let url = Url::parse("https://r.io/v2/").unwrap();
        let shortage = io::Error::from_raw_os_error(24);
        let failed =
            blame_proxy(io_failure(&url, &shortage, ClientCertificate::Unasked), "HTTPS_PROXY").error;
        assert!(!failed.to_string().contains("proxy"), "{failed}");
        assert_eq!(failed.kind(), "system");
    }

    proptest! {
        #[test]
        fn any_retry_after_is_bounded(text in ".{0,40}") {
            prop_assert!(retry_after(&text, SystemTime::now()).is_none_or(|wait| wait <= MAX_TOLD));
        }
    }
}
