//! The process environment as it was when the run began, and what it says of proxies.
//!
//! A snapshot, so that a run cannot change its mind halfway, and so that tests need not touch the
//! real one. Its `Debug` names variables but never their values: passwords live there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::words::printable;
use crate::url::{Url, is_loopback};

/// The time that a silent connection gets, unless `MSB_SYNC_STALL_TIMEOUT` says otherwise.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// The time without an ended lookup after which a run begins with what it knows, unless
/// `MSB_SYNC_LOOKUP_PATIENCE` says otherwise. A registry that refuses connections is given up in
/// about five seconds, one that says nothing in minutes.
pub(crate) const LOOKUP_PATIENCE: Duration = Duration::from_secs(8);

/// A snapshot of environment variables. An empty variable counts as unset.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The variables of this process.
    pub fn from_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of `name`, if it is set, not empty and UTF-8.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    /// All of them, for a program that is started.
    pub(crate) fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// The value of `name` as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Reads the time that a connection may be silent: `MSB_SYNC_STALL_TIMEOUT` in seconds, else
    /// 30.
    ///
    /// # Errors
    /// A warning, if the value is no positive number.
    pub(super) fn stall(&self) -> Result<Duration, String> {
        self.seconds("MSB_SYNC_STALL_TIMEOUT", STALL)
    }

    /// Reads the time without an ended lookup after which a run begins with what it knows:
    /// `MSB_SYNC_LOOKUP_PATIENCE` in seconds, else 8.
    ///
    /// # Errors
    /// A warning, if the value is no positive number.
    pub(crate) fn lookup_patience(&self) -> Result<Duration, String> {
        self.seconds("MSB_SYNC_LOOKUP_PATIENCE", LOOKUP_PATIENCE)
    }

    fn seconds(&self, name: &str, default: Duration) -> Result<Duration, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match text.trim().parse::<f64>() {
            Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => {
                Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
            }
            _ => {
                let text = printable(text, 40);
                Err(format!("{name}={text} is no positive number of seconds; {} s it is", default.as_secs()))
            }
        }
    }

    /// The proxy for `url`, as curl and Go choose it: `HTTPS_PROXY` or `HTTP_PROXY` by the URL's
    /// scheme (lower case too), unless `NO_PROXY` names the host; loopback is never proxied. With
    /// the variable's name.
    pub(super) fn proxy_for(&self, url: &Url) -> Option<(&'static str, &str)> {
        let names =
            if url.is_secure() { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
        let (name, proxy) = names.into_iter().find_map(|name| Some((name, self.get(name)?)))?;
        let no_proxy = self.get("NO_PROXY").or_else(|| self.get("no_proxy")).unwrap_or_default();
        if is_loopback(url.host()) || is_exempt(no_proxy, url.host(), url.port()) {
            return None;
        }
        Some((name, proxy))
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect() }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Tells whether the list `no_proxy` names `host`: a domain (with its subdomains), an address, a
/// network, `*`.
fn is_exempt(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = host.parse().ok();
    no_proxy.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        let entry = entry.to_ascii_lowercase();
        if let Some((network, bits)) = entry.split_once('/') {
            return matches!((network.parse(), bits.parse(), address), (Ok(network), Ok(bits), Some(address))
                if contains(network, bits, address));
        }
        let bare = entry.trim_start_matches('[');
        let (name, entry_port) = match bare.rsplit_once(':') {
            // More than one colon and no bracket: an IPv6 address without a port.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => match port.parse::<u16>() {
                Ok(port) => (name.trim_end_matches(']'), Some(port)),
                Err(_) => return false,
            },
            _ => (bare.trim_end_matches(']'), None),
        };
        if entry_port.is_some_and(|entry_port| entry_port != port) {
            return false;
        }
        if let Some(address) = address {
            return name.parse() == Ok(address);
        }
        let domain = name.trim_start_matches('*');
        match domain.strip_prefix('.') {
            Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        }
    })
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let shift = 32 - bits;
            u64::from(u32::from(network)) >> shift == u64::from(u32::from(address)) >> shift
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let shift = 128 - bits;
            u128::from(network).checked_shr(shift).unwrap_or(0)
                == u128::from(address).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let environment: Environment = variables.iter().copied().collect();
        environment.proxy_for(&Url::parse(url).unwrap()).map(|(_, proxy)| proxy.to_owned())
    }

    #[test]
    fn the_proxy_goes_by_the_scheme_and_never_for_loopback() {
        let variables = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "http://p:1")];
        assert_eq!(proxy(&variables, "https://r.corp/").as_deref(), Some("http://s:1"));
        assert_eq!(proxy(&variables, "http://r.corp/").as_deref(), Some("http://p:1"));
        assert_eq!(proxy(&variables[1..], "https://r.corp/"), None);
        assert_eq!(proxy(&variables, "http://localhost:5000/"), None);
        assert_eq!(proxy(&variables, "http://127.0.0.1:5000/"), None);
        assert_eq!(proxy(&variables, "http://[::1]:5000/"), None);
    }

    #[test]
    fn no_proxy_knows_domains_addresses_networks_and_ports() {
        for (list, host, exempt) in [
            ("*", "a.b", true),
            ("corp", "corp", true),
            ("corp", "r.corp", true),
            ("corp", "r.notcorp", false),
            (".corp", "r.corp", true),
            (".corp", "corp", false),
            ("*.corp", "r.corp", true),
            ("x, r.corp", "r.corp", true),
            ("r.corp:443", "r.corp", true),
            ("r.corp:444", "r.corp", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("fe80::1", "[fe80::1]", true),
            ("[fe80::1]:443", "[fe80::1]", true),
            ("fe80::/16", "[fe80::1]", true),
            ("::/0", "[fe80::1]", true),
            ("", "a.b", false),
            (",,:,", "a.b", false),
        ] {
            assert_eq!(is_exempt(list, host, 443), exempt, "{list} {host}");
        }
    }

    #[test]
    fn the_stall_timeout_may_be_fractional_but_not_nonsense() {
        let stall = |text: &str| Environment::from_iter([("MSB_SYNC_STALL_TIMEOUT", text)]).stall();
        assert_eq!(stall(""), Ok(STALL));
        assert_eq!(stall("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "x", "inf", "NaN", "1e300"] {
            assert!(stall(bad).is_err(), "{bad}");
        }
    }
}
