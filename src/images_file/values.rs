//! Texts of single values. Each function takes the text and returns the value or, as a fragment
//! that follows the key's name, what is wrong with the text.

pub(super) mod patterns;
pub(super) mod quantities;
pub(super) mod ranges;
pub(super) mod signers;

use std::path::{Component, Path, PathBuf};

use super::Source;
use super::quoted::quoted;
use crate::diagnostic::holds_pem;
use crate::state::{Platform, PullPolicy};
use crate::url::{Url, UrlError};

/// The reason why a text is no value of its key, and the next step where there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// The words for when a registry is asked.
pub(super) const PULL_WORDS: &[(&str, PullPolicy)] =
    &[("always", PullPolicy::Always), ("missing", PullPolicy::Missing), ("never", PullPolicy::Never)];

/// Reads a path, which becomes absolute: relative ones start at the file's directory, `~` is the
/// home directory. The path is cleaned by its letters alone: no file system is asked.
pub(super) fn path(text: &str, source: &Source<'_>) -> Result<PathBuf, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty"));
    }
    if holds_pem(text) {
        let hint = "put it into a file beside this one, and name the file here";
        return Err(Fault::with_hint("is the key or certificate itself, not the path of its file", hint));
    }
    if text.contains('\0') {
        return Err(Fault::new("has a NUL character, which no path can"));
    }
    let expanded = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = source.home_directory.ok_or_else(|| {
                Fault::with_hint("starts with ~, but there is no home directory", "set HOME")
            })?;
            home.join(rest.trim_start_matches('/'))
        }
        Some(_) => {
            return Err(Fault::with_hint(
                "names another user's home directory",
                "only ~ and ~/… are expanded; write ./~… for a file whose name starts with ~",
            ));
        }
        None => source.directory.join(text),
    };
    Ok(clean(&expanded))
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            // At the root `pop` does nothing, which is what `/..` means.
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// The next step for whoever wrote a login into a URL or a header.
const LOGIN_HINT: &str =
    "name the user with `username` and the password with `password-env` or `password-file`";

/// Reads the base URL of a server; the URL has no final slash afterwards.
pub(super) fn base_url(text: &str) -> Result<String, Fault> {
    let url = Url::parse_base(text).map_err(|error| match error {
        UrlError::NotAUrl => Fault::with_hint("is not a URL", "a URL starts with https:// or http://"),
        UrlError::Scheme => {
            Fault::with_hint("has an unknown scheme", "only https:// and http:// are possible")
        }
        UrlError::TooLong => Fault::new("is too long"),
        UrlError::NoHost | UrlError::Host => Fault::new("has no valid host name"),
        UrlError::PortZero | UrlError::Port => Fault::new("has a port that is not a number from 1 to 65535"),
        UrlError::User => Fault::with_hint("carries a user name or password", LOGIN_HINT),
        UrlError::Query => Fault::new("must not have a query or a fragment"),
        UrlError::Character => Fault::new("has a character that a URL cannot have"),
    })?;
    let path = url.path().trim_end_matches('/');
    if let Some(before) = path.strip_suffix("/v2") {
        let message = "ends in /v2, which msb-sync adds by itself";
        let before = before.trim_end_matches('/');
        return Err(Fault::with_hint(message, format!("write \"{}{before}\"", url.origin())));
    }
    Ok(format!("{}{path}", url.origin()))
}

/// The header fields that would break requests, or that the registry client sets itself.
const OWN_HEADERS: &[&str] =
    &["accept", "accept-encoding", "connection", "content-length", "host", "range", "transfer-encoding"];

/// Checks a header field's name (RFC 9110, section 5.1).
pub(super) fn header_name(name: &str) -> Result<(), Fault> {
    let lower = name.to_ascii_lowercase();
    if matches!(lower.as_str(), "authorization" | "proxy-authorization") {
        return Err(Fault::with_hint("must not be set in the file", LOGIN_HINT));
    }
    if OWN_HEADERS.contains(&lower.as_str()) {
        return Err(Fault::new("is set by msb-sync itself"));
    }
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Fault::new("is not a valid header name"));
    }
    Ok(())
}

/// Checks a header field's value (RFC 9110, section 5.5).
pub(super) fn header_value(value: &str) -> Result<(), Fault> {
    if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(Fault::new("has a control character in its value"));
    }
    if value != value.trim_matches([' ', '\t']) {
        return Err(Fault::new("has a value that starts or ends with a blank"));
    }
    if !value.is_ascii() {
        return Err(Fault::new("has a value with characters outside ASCII"));
    }
    Ok(())
}

/// Reads a platform.
pub(super) fn platform(text: &str) -> Result<Platform, Fault> {
    Platform::parse_wanted(text).map_err(|reason| Fault {
        message: format!("is no platform to ask for: {}", quoted(text)),
        hint: Some(reason.to_owned()),
    })
}

/// Reads a program: its name on `PATH`, or a path, which becomes absolute.
pub(super) fn program(text: &str, source: &Source<'_>) -> Result<String, Fault> {
    if text.contains('/') {
        return unicode(path(text, source)?);
    }
    not_empty(text)?;
    if text.starts_with(['~', '-']) || text.contains(|char: char| char.is_whitespace() || char.is_control()) {
        let hint = "name the program alone, without arguments: \"podman\", \"/usr/bin/podman\"";
        return Err(Fault::with_hint("is not the name of a program", hint));
    }
    Ok(text.to_owned())
}

/// Reads the path of a socket, which becomes absolute; it may be written as a URL.
pub(super) fn socket(text: &str, source: &Source<'_>) -> Result<String, Fault> {
    let bare = text.strip_prefix("unix://").unwrap_or(text);
    if bare.contains("://") {
        let hint = "only a socket of this machine is possible: \"/run/containerd/containerd.sock\"";
        return Err(Fault::with_hint("is not the path of a socket", hint));
    }
    unicode(path(bare, source)?)
}

fn unicode(path: PathBuf) -> Result<String, Fault> {
    path.into_os_string().into_string().map_err(|_| Fault::new("is below a directory that is not UTF-8"))
}

/// Checks a name of containerd's, such as a namespace's.
pub(super) fn identifier(text: &str) -> Result<String, Fault> {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if text.len() > 76 || !text.split(['.', '_', '-']).all(is_word) {
        let message = "is not a name: letters and digits, with single '.', '_' or '-' between them";
        return Err(Fault::new(message));
    }
    Ok(text.to_owned())
}

/// Checks a group's name.
pub(super) fn group_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::new("is empty"));
    }
    if name.starts_with('@') {
        return Err(Fault::with_hint(
            "starts with @",
            "the @ goes before a group's name only where [groups] refers to it",
        ));
    }
    if !name.chars().all(|char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.')) {
        return Err(Fault::new("must have only letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

/// Takes any text but an empty one.
pub(super) fn not_empty(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty"));
    }
    Ok(text.to_owned())
}

/// Takes the name of an environment variable.
pub(super) fn variable_name(text: &str) -> Result<String, Fault> {
    if text.is_empty() || text.contains(['=', '\0']) {
        let hint = "name the variable that holds the password, as in \"GHCR_TOKEN\"";
        return Err(Fault::with_hint("is not the name of a variable", hint));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source() -> Source<'static> {
        Source {
            name: "images.toml",
            directory: Path::new("/etc/msb"),
            home_directory: Some(Path::new("/home/ann")),
            default_registry: "docker.io",
            default_platform: Platform::new("linux", "amd64", None),
            for_platform: None,
            untrusted: false,
            machine: None,
        }
    }

    #[test]
    fn paths_start_at_the_file_or_at_home() {
        for (text, expected) in [
            ("ca.pem", "/etc/msb/ca.pem"),
            ("./a/../b//c/", "/etc/msb/b/c"),
            ("../x", "/etc/x"),
            ("../../../../x", "/x"),
            ("/var/lib/layers", "/var/lib/layers"),
            ("~", "/home/ann"),
            ("~/layers", "/home/ann/layers"),
            ("a/~/b", "/etc/msb/a/~/b"),
            ("./~x", "/etc/msb/~x"),
        ] {
            assert_eq!(path(text, &source()).unwrap(), Path::new(expected), "{text}");
        }
        for bad in ["", "~bob/x", "a\0b"] {
            assert!(path(bad, &source()).is_err(), "{bad}");
        }
        let homeless = Source { home_directory: None, ..source() };
        assert!(path("~/x", &homeless).unwrap_err().message.contains("no home directory"));
    }

    #[test]
    fn base_urls() {
        for (text, expected) in [
            ("https://registry.corp:5000", "https://registry.corp:5000"),
            ("https://Mirror.Corp/", "https://mirror.corp"),
            ("http://[::1]:5000/v2/Proxy//", "http://[::1]:5000/v2/Proxy"),
            ("HTTP://my_registry", "http://my_registry"),
        ] {
            assert_eq!(base_url(text).unwrap(), expected);
        }
        for bad in [
            "",
            "registry.corp",
            "ftp://x",
            "https://",
            "https:///x",
            "https://a..b",
            "https://h:0",
            "https://h:x",
            "https://h:99999",
            "https://h?x=1",
            "https://h/#f",
            "https://u:p@h",
            "https://u@h",
            "https://[zz]",
            "https://h/a b",
            "https://h\n",
            "https://é",
            "https://h:",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
        for text in ["https://h:5000/v2", "HTTPS://H:5000/v2//"] {
            assert_eq!(base_url(text).unwrap_err().hint.unwrap(), "write \"https://h:5000\"");
        }
        assert_eq!(base_url("https://h/a/v2/").unwrap_err().hint.unwrap(), "write \"https://h/a\"");
        assert_eq!(base_url("https://h/v2x").unwrap(), "https://h/v2x");
        assert_eq!(base_url("https://v2").unwrap(), "https://v2");
        assert_eq!(base_url("http://v2/").unwrap(), "http://v2");
        assert_eq!(base_url("http://v2/v2").unwrap_err().hint.unwrap(), "write \"http://v2\"");
    }

    #[test]
    fn header_fields() {
        assert!(header_name("X-Team").is_ok());
        for bad in ["", "X Team", "X:Y", "é", "Authorization", "proxy-authorization", "Host", "a\r\nb"] {
            assert!(header_name(bad).is_err(), "{bad}");
        }
        assert!(header_value("infra, and more").is_ok());
        for bad in ["a\r\nX: y", "a\0", "\u{7f}", " a", "é"] {
            assert!(header_value(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_value_panic(text in "\\PC{0,40}") {
            let _ = base_url(&text);
            let _ = header_name(&text).and(header_value(&text));
            let _ = group_name(&text);
            if let Ok(path) = path(&text, &source()) {
                prop_assert!(path.is_absolute());
                prop_assert!(!path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)));
            }
        }
    }
}
