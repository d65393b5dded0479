//! Refusals: the error that an answer with a status of 400 or more means, in the registry's own
//! words where those may be shown.

use std::time::{Duration, SystemTime};

use ureq::http;

use super::answer::Answer;
use super::failure::{FailedTry, is_too_long, retry_after};
use super::http::Client;
use super::words::{printable, reason_in};
use crate::error::{Login, Refusal, Refused, RegistryError, TlsCure};
use crate::url::Url;

/// The part of an error's body that is read, in bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// The time that the words of an error get: its status has said the main thing.
const ERROR_TIME: Duration = Duration::from_secs(10);

/// The thing that a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    Manifest,
    /// A manifest that an index names.
    Child,
    Tags,
    Referrers,
    Blob,
    Token,
}

impl Sought {
    /// Our own words for a 404 without a reason.
    fn unknown(self) -> &'static str {
        match self {
            Self::Manifest | Self::Child => "manifest unknown",
            Self::Tags => "repository unknown",
            Self::Referrers => "no referrers",
            Self::Blob => "blob unknown",
            Self::Token => "not found",
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Manifest | Self::Tags | Self::Referrers => Refusal::Image,
            Self::Child | Self::Blob => Refusal::Part,
            Self::Token => Refusal::Token,
        }
    }
}

/// Makes the error that `answer`, with a status of 400 or more, means for `client`, which asked for
/// what is `sought`.
///
/// The server's own words are only shown where `heard` says so and no redirect led there: a host
/// that is asked at somebody else's wish may have words for this machine alone.
pub(crate) fn refusal(
    client: &Client,
    answer: Answer,
    sought: Sought,
    login: Login,
    heard: bool,
) -> FailedTry {
    let (status, own, url) = (answer.status, answer.own, answer.url.clone());
    let now = SystemTime::now();
    let after = answer.header("retry-after").and_then(|text| retry_after(text, now));
    let until = after.filter(|after| is_too_long(*after)).and_then(|after| now.checked_add(after));
    let body = answer.within(ERROR_TIME).read("the error", MAX_ERROR_BODY).ok().filter(|_| own && heard);
    if let Some(misunderstood) = body.as_deref().and_then(|body| misunderstanding(&url, status, body)) {
        return misunderstood.into();
    }
    let show = |text: &str| client.network.heard(text);
    let said = body.and_then(|body| reason_in(&body, &show)).map(|reason| printable(&reason, 300));
    FailedTry {
        error: RegistryError::Refused(Refused {
            reason: said.unwrap_or_else(|| words_for(status, sought)),
            status,
            host: url.host_port(),
            registry: Box::new(client.name.clone()),
            refusal: sought.refusal(),
            elsewhere: !own,
            login: Box::new(login),
            until: until.map(Box::new),
        }),
        transient: matches!(status, 408 | 429 | 500..=599),
        after,
        redirected: false,
        about: None,
    }
}

/// Returns our own words for `status`, where the server has none.
fn words_for(status: u16, sought: Sought) -> String {
    match status {
        401 => "unauthorized".to_owned(),
        403 => "access denied".to_owned(),
        404 => sought.unknown().to_owned(),
        _ => http::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .map_or_else(|| "unexpected answer".to_owned(), str::to_ascii_lowercase),
    }
}

/// Recognises the words by which servers say in plain HTTP that TLS is missing.
fn misunderstanding(url: &Url, status: u16, body: &[u8]) -> Option<RegistryError> {
    let body = String::from_utf8_lossy(body).to_ascii_lowercase();
    let host = url.host_port();
    let fail = |words: &str, cure| Some(RegistryError::Tls { reason: format!("{host} {words}"), cure });
    // nginx's, Apache's, Go's and Tomcat's words.
    let plain = [
        "plain http request was sent to https",
        "speaking plain http to an ssl",
        "http request to an https",
        "combination of host and port requires tls",
    ];
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
