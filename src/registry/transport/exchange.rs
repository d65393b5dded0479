//! A request and the head of its answer, as people are told of them: without secrets.
//!
//! Headers of answers are shown that are known to hold nothing secret; cookies, and whatever else
//! somebody may have thought of, are only named. URLs lose user and
//! query, which may be a signature.

use std::time::Duration;

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::network::Network;
use super::words::printable;
use crate::error::HIDDEN;
use crate::progress::{Exchange, RequestDetail};
use crate::url::Url;

/// The longest value of a header that is shown, in characters.
const MAX_VALUE: usize = 300;
/// The number of headers of an answer that are shown.
const MAX_HEADERS: usize = 100;
/// Headers of answers that hold nothing secret, once URLs in them have lost their queries.
const SHOWN: &[&str] = &[
    "accept-ranges",
    "age",
    "cache-control",
    "cf-cache-status",
    "cf-ray",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-ratelimit-source",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "oci-filters-applied",
    "oci-subject",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "retry-after",
    "server",
    "transfer-encoding",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-cache",
    "x-github-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-request-id",
];

/// The same of a server to which another one leads: it may have words for this machine alone.
const SHOWN_OF_OTHERS: &[&str] = &["accept-ranges", "content-length", "content-range"];

/// A request to be told of.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    /// The place where the credentials came from that go along.
    pub(super) credentials: Option<&'a str>,
    /// The registry's own headers.
    pub(super) own_headers: &'a [(HeaderName, HeaderValue)],
    /// All that is sent.
    pub(super) headers: Option<&'a HeaderMap>,
    /// True if the answer's own words may be shown.
    pub(super) heard: bool,
}

/// The head of a request, which is told once it was answered.
pub(super) struct Sent<'a> {
    network: &'a Network,
    url: String,
    method: String,
    credentials: String,
    headers: Vec<(String, String)>,
    /// The headers of the answer whose values are shown.
    shown: &'static [&'static str],
}

impl<'a> Sent<'a> {
    /// Takes note of what is `asked`, where somebody wants to hear it.
    pub(super) fn of(network: &'a Network, asked: &Asked<'_>) -> Option<Self> {
        if network.detail_of_requests < RequestDetail::Exchanges {
            return None;
        }
        let with_headers = network.detail_of_requests >= RequestDetail::Headers;
        let headers = asked.headers.filter(|_| with_headers).map(|headers| {
            let is_own = |name: &HeaderName| asked.own_headers.iter().any(|(own, _)| own == name);
            let value = |name: &HeaderName, value: &HeaderValue| match *name {
                header::AUTHORIZATION | header::PROXY_AUTHORIZATION => {
                    let text = value.to_str().unwrap_or_default();
                    let scheme = text.split_once(' ').map_or("", |(scheme, _)| scheme);
                    format!("{scheme} {HIDDEN}").trim_start().to_owned()
                }
                // They may be a key of the user's.
                _ if is_own(name) => HIDDEN.to_owned(),
                _ => shown(network, value),
            };
            headers.iter().map(|(name, text)| (name.to_string(), value(name, text))).collect()
        });
        Some(Self {
            network,
            url: network.veil.hide(&asked.url.to_string()),
            method: asked.method.to_string(),
            credentials: asked.credentials.unwrap_or("no credentials").to_owned(),
            headers: headers.unwrap_or_default(),
            shown: if asked.heard { SHOWN } else { SHOWN_OF_OTHERS },
        })
    }

    /// The whole exchange, with the headers of the answer if there was one.
    pub(super) fn answered(self, elapsed: Duration, headers: Option<&HeaderMap>) -> Exchange {
        let Self { network, url, method, credentials, headers: sent, shown: known } = self;
        let headers = headers.filter(|_| network.detail_of_requests >= RequestDetail::Headers);
        let value = |name: &HeaderName, value: &HeaderValue| {
            if known.contains(&name.as_str()) { shown(network, value) } else { HIDDEN.to_owned() }
        };
        let received = headers.into_iter().flatten().take(MAX_HEADERS);
        let received = received.map(|(name, text)| (name.to_string(), value(name, text))).collect();
        Exchange { method, url, elapsed, credentials, sent, received }
    }
}

/// The value of a header, without secrets.
fn shown(network: &Network, value: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(value.as_bytes());
    printable(&network.heard(&text), MAX_VALUE)
}
