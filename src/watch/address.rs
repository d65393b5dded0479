//! Addresses that metrics are served at, as `--metrics` takes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address to serve at: an IP address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Parses `HOST:PORT`; a port alone, with or without a colon, is on loopback.
///
/// # Errors
/// `text` is no address; the error says how one looks.
pub fn parse_address(text: &str) -> Result<Address, String> {
    const EXAMPLE: &str = "as in 127.0.0.1:9090";
    let port = |port: &str| port.parse::<u16>().ok();
    if let Some(port) = port(text.strip_prefix(':').unwrap_or(text)) {
        return Ok(Address { host: Ipv4Addr::LOCALHOST.to_string(), port });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address { host: address.ip().to_string(), port: address.port() });
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("a port is missing, {EXAMPLE}"));
    }
    match text.rsplit_once(':').map(|(name, number)| (name, port(number))) {
        Some((name, Some(port))) if is_name(name) => Ok(Address { host: name.to_ascii_lowercase(), port }),
        None if is_name(text) => Err(format!("a port is missing, {EXAMPLE}")),
        _ => Err(format!("an address is a port, or an IP address or a name with a port, {EXAMPLE}")),
    }
}

/// `text` may be a host's name: it has a letter, and nothing that names do not have.
fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        for (text, expected) in [
            ("9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("localhost:9090", "localhost:9090"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:0", "[::1]:0"),
            ("Node-7.Corp:80", "node-7.corp:80"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected);
        }
        for bad in
            ["", ":", "x", "127.0.0.1", "70000", ":70000", "1.2.3.4:x", "a b:1", "1.2.3:4", "::1:x", "a..b:1"]
        {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
