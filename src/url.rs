//! The one grammar of URLs: http and https only, never with user info, shown without their query.
//!
//! [`Url::parse`] reads what servers send, which may be sloppy; [`Url::parse_base`] reads what
//! somebody wrote into a file, which has to be right. Beyond that, redirects, token realms and
//! `Link` headers need a little of [RFC 3986]. A query may carry a signature, so `Display` leaves
//! it out, and nothing but [`Url::whole`] gives it away.
//!
//! [RFC 3986]: https://www.rfc-editor.org/rfc/rfc3986

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest URL that is read, in bytes.
const MAX_URL: usize = 16 * 1024;

/// An absolute URL of http or https.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    secure: bool,
    /// The host in lower case; an IPv6 address keeps its brackets.
    host: String,
    port: u16,
    /// The path, which starts with a slash.
    path: String,
    query: Option<String>,
}

/// The reason why a text is not used as a URL, as a clause that names no part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// The text has no scheme, and so does not begin as a URL.
    #[error("it is not a URL")]
    NotAUrl,
    /// The scheme is neither http nor https.
    #[error("only http and https URLs are used")]
    Scheme,
    /// The text is longer than any URL that is read.
    #[error("the URL is too long")]
    TooLong,
    /// Nothing stands where the host should.
    #[error("the URL has no host")]
    NoHost,
    /// The host is no name, no IPv4 address, and no IPv6 address in brackets.
    #[error("the host is neither a name nor an address")]
    Host,
    /// The port is 0, which no server has.
    #[error("port 0 cannot be used")]
    PortZero,
    /// The port is no number up to 65535.
    #[error("the port is not a number")]
    Port,
    /// A base URL carries a user name or a password.
    #[error("credentials do not belong into the URL")]
    User,
    /// A base URL carries a query or a fragment.
    #[error("the URL has a query or a fragment")]
    Query,
    /// A base URL has a character that would have to be escaped.
    #[error("the URL has a character that no URL can have")]
    Character,
}

impl Url {
    /// Reads an absolute URL of a server's; user info and fragment are dropped, stray characters
    /// escaped.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        let text = escape(text.trim());
        let (secure, rest) = scheme(&text)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            None | Some("") => default_port(secure),
            Some(port) => number(port)?,
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { secure, host: host.to_ascii_lowercase(), port, path: path.to_owned(), query })
    }

    /// Reads the URL of an API as somebody wrote it into a file: a scheme, a host, perhaps a port
    /// and a path, and nothing that would be dropped or escaped.
    pub(crate) fn parse_base(text: &str) -> Result<Self, UrlError> {
        let (_, rest) = scheme(text)?;
        if rest.contains('@') {
            return Err(UrlError::User);
        }
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority)?;
        if !host.starts_with('[') && host.split('.').any(str::is_empty) {
            return Err(UrlError::Host);
        }
        port.map(number).transpose()?;
        // RFC 3986, section 3.3, less what would have to be escaped.
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:%".contains(&byte)) {
            return Err(UrlError::Character);
        }
        Self::parse(text)
    }

    /// Resolves the reference `location` against this URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.trim();
        let location = location.split('#').next().unwrap_or_default();
        let scheme_end = location.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'));
        if scheme_end.is_some_and(|end| end > 0 && location[end..].starts_with(':')) {
            return Self::parse(location);
        }
        let scheme = if self.secure { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let (path, query) = match location.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (location, None),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else if path.is_empty() {
            self.path.clone()
        } else {
            let folder = self.path.rfind('/').map_or("/", |end| &self.path[..=end]);
            format!("{folder}{path}")
        };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        Self::parse(&format!("{}{}{query}", self.origin(), remove_dots(&path)))
    }

    /// This URL with `suffix` (which starts with a slash) after its path, and without a query.
    pub(crate) fn with_suffix(&self, suffix: &str) -> Self {
        let (suffix, query) = match suffix.split_once('?') {
            Some((suffix, query)) => (suffix, Some(query.to_owned())),
            None => (suffix, None),
        };
        Self { path: format!("{}{suffix}", self.path.trim_end_matches('/')), query, ..self.clone() }
    }

    /// Path and query of `other` at the origin of this URL, whose own path ends in the API's `/v2`
    /// as a rule. What stands before that is put before a path that starts with the API's alone.
    pub(crate) fn with_path_of(&self, other: &Self) -> Self {
        let prefix = self.path.strip_suffix("/v2").unwrap_or_default();
        let inside = other.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let path = if !inside && other.path.starts_with("/v2/") {
            format!("{prefix}{}", other.path)
        } else {
            other.path.clone()
        };
        Self { path, query: other.query.clone(), ..self.clone() }
    }

    /// Tells whether the query has a parameter of this name.
    pub(crate) fn has_parameter(&self, name: &str) -> bool {
        let mut pairs = self.query.as_deref().unwrap_or_default().split('&');
        pairs.any(|pair| pair.split('=').next() == Some(name))
    }

    /// This URL with `name=value` added to its query.
    pub(crate) fn with_parameter(mut self, name: &str, value: &str) -> Self {
        let pair = form_pair(name, value);
        self.query = Some(match self.query.take() {
            Some(query) if !query.is_empty() => format!("{query}&{pair}"),
            _ => pair,
        });
        self
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host without port; an IPv6 address keeps its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host, and port where it is not the scheme's own.
    pub(crate) fn host_port(&self) -> String {
        if self.port == default_port(self.secure) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.host_port())
    }

    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure && self.host == other.host && self.port == other.port
    }

    /// Tells whether the host is this machine, or what only this machine's own link reaches:
    /// loopback, link-local (where clouds keep their secrets) and unspecified addresses.
    pub(crate) fn is_local(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let v4 =
            |address: Ipv4Addr| address.is_loopback() || address.is_link_local() || address.is_unspecified();
        let v6 = |address: Ipv6Addr| {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.to_ipv4_mapped().is_some_and(v4)
        };
        self.is_loopback() || bare.parse().is_ok_and(v4) || bare.parse().is_ok_and(v6)
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// The path, which starts with a slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The whole URL with its query, for the request itself and nothing else.
    pub(crate) fn whole(&self) -> String {
        match &self.query {
            Some(query) => format!("{}{}?{query}", self.origin(), self.path),
            None => format!("{}{}", self.origin(), self.path),
        }
    }
}

/// Splits the scheme off; true stands for https.
fn scheme(text: &str) -> Result<(bool, &str), UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NotAUrl)?;
    match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => Ok((true, rest)),
        _ if scheme.eq_ignore_ascii_case("http") => Ok((false, rest)),
        _ => Err(UrlError::Scheme),
    }
}

/// Splits an authority without user info. The host, which is compared with other hosts, is all that
/// stands before the port: nothing odd may hide between them, as in `[::1].corp`.
fn host_and_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if authority.is_empty() {
        return Err(UrlError::NoHost);
    }
    let end = if authority.starts_with('[') {
        authority.find(']').ok_or(UrlError::Host)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    match (host, rest.strip_prefix(':')) {
        ("", _) => Err(UrlError::NoHost),
        (host, port) if is_host(host) && (port.is_some() || rest.is_empty()) => Ok((host, port)),
        _ => Err(UrlError::Host),
    }
}

/// Reads a port; one that is present but no number never becomes the default one in silence.
fn number(port: &str) -> Result<u16, UrlError> {
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    match port.parse() {
        Ok(0) => Err(UrlError::PortZero),
        Ok(port) => Ok(port),
        Err(_) => Err(UrlError::Port),
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// A DNS name (or IPv4 address), or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')),
    }
}

/// `localhost` and its subdomains (RFC 6761), 127.0.0.0/8 and `::1`. `host` without port.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

/// Percent-encodes what a URL must not contain, as browsers do with a sloppy `Location`.
fn escape(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0..=0x20 | 0x7f.. | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

fn remove_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => out.push(""),
            "." => {}
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            other => out.push(other),
        }
    }
    format!("/{}", out.join("/"))
}

/// `name=value` as `application/x-www-form-urlencoded` wants it.
pub(crate) fn form_pair(name: &str, value: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(name.len() + value.len() + 1);
    for (index, part) in [name, value].into_iter().enumerate() {
        if index == 1 {
            out.push('=');
        }
        for byte in part.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
    out
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests;
