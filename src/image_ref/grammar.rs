//! The grammar of references, after [distribution/reference]: the parts of a text, and the form of
//! each part.
//!
//! [distribution/reference]: https://github.com/distribution/reference/blob/v0.6.0/reference.go

use super::DEFAULT_REGISTRY;
use crate::error::without_secrets;

/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// The reason why a text is no image reference. Of the text it knows no login and no query: whoever
/// copies a URL may copy a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct RefError {
    text: String,
    reason: String,
    instead: Option<String>,
}

impl RefError {
    pub(super) fn new(text: &str, reason: impl Into<String>) -> Self {
        let text = without_secrets(text).chars().take(300).collect();
        Self { text, reason: reason.into(), instead: None }
    }

    /// Adds what was probably meant.
    pub(super) fn or_instead(self, instead: Option<String>) -> Self {
        Self { instead, ..self }
    }

    /// Says what is wrong, without the text itself.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Gives what was probably meant, where that can be told.
    pub fn instead(&self) -> Option<&str> {
        self.instead.as_deref()
    }
}

/// Splits off the registry that `text` names before its first slash. By distribution's rule that
/// part is one if it has a dot or a colon, or is `localhost`.
pub(crate) fn split_registry(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") => {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

/// Splits off `docker://` and the like before a reference.
pub(crate) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, _) = text.split_once("://")?;
    let plain =
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    plain.then(|| text.split_at(scheme.len() + "://".len()))
}

/// Brings a registry's name into the form in which names are compared: lower case, and docker.io
/// for `index.docker.io`.
///
/// # Errors
/// See [`check_registry`].
pub fn registry_name(registry: &str) -> Result<String, RefError> {
    check_registry(registry)?;
    let name = registry.to_ascii_lowercase();
    Ok(if name == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { name })
}

/// Checks a registry's name: `host[:port]`, where the host is a DNS name, an IPv4 or a bracketed
/// IPv6 address. Capitals are allowed; [`registry_name`] folds them.
///
/// # Errors
/// Anything else (a scheme, a path, an empty label, a port beyond 65535).
pub fn check_registry(registry: &str) -> Result<(), RefError> {
    let fail = |reason: &str| Err(RefError::new(registry, reason));
    if registry.contains("://") {
        return fail("a registry is host[:port], without a scheme");
    }
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return fail("the bracket of an IPv6 address is not closed");
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return fail("not an IPv6 address between the brackets");
        }
        match after.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if after.is_empty() => (None, None),
            None => return fail("only :port may follow an IPv6 address"),
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    if let Some(port) = port
        && !(port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return fail("the port must be a number from 1 to 65535");
    }
    if let Some(host) = host {
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !host.split('.').all(label_ok) {
            return fail(
                "not a host name: labels of letters, digits and inner dashes, parted by single dots",
            );
        }
    }
    Ok(())
}

/// Checks a tag.
pub(super) fn check_tag(tag: &str) -> Result<(), RefError> {
    let fail = |reason: &str| Err(RefError::new(tag, reason));
    let mut bytes = tag.bytes();
    match bytes.next() {
        None => return fail("the tag is empty"),
        Some(b) if b.is_ascii_alphanumeric() || b == b'_' => {}
        Some(_) => return fail("a tag starts with a letter, a digit or an underscore"),
    }
    if !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return fail("a tag has only letters, digits, '_', '.' and '-'");
    }
    if tag.len() > MAX_TAG {
        return fail("a tag has at most 128 characters");
    }
    Ok(())
}

/// Checks a repository, `path-component *(/ path-component)`: a component is runs of `[a-z0-9]+`
/// parted by `.`, `_`, `__` or dashes.
pub(super) fn check_repository(repository: &str) -> Result<(), RefError> {
    let fail = |reason: &str| Err(RefError::new(repository, reason));
    if repository.is_empty() {
        return fail("the repository is empty");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return fail("repositories are lower case");
    }
    for component in repository.split('/') {
        let bytes = component.as_bytes();
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
            return fail("each part of a repository starts and ends with a lower-case letter or a digit");
        }
        for separator in component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
            let fits = matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !fits {
                return fail(
                    "a repository has lower-case letters and digits, parted by '/', '.', '_', '__' or dashes",
                );
            }
        }
    }
    Ok(())
}
