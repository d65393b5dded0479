//! Texts of single values: sizes, durations, URLs, paths, header fields. Each function takes the text and
//! returns the value or, as a fragment that follows the key's name, what is wrong with it.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::Source;
use super::text::quoted;
use crate::diagnostic::nearest;
use crate::image_ref;
use crate::state::Platform;

/// What is wrong, and the next step where there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// The permission bits of a directory, from `0755`: all for its owner, and nobody else may write.
pub(super) fn mode(text: &str) -> Result<u32, Fault> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let octal = digits.len() == 3 && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let Some(mode) = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten() else {
        let hint = "a mode is octal, as in \"0755\": others may read; or \"0700\": they may not";
        return Err(Fault::with_hint("is not a mode", hint));
    };
    if mode & 0o700 != 0o700 {
        return Err(Fault::with_hint("keeps msb-sync itself out", "the first digit is 7, as in \"0755\""));
    }
    if mode & 0o022 != 0 {
        let hint = "who may write there decides what is in the images; \"0755\" lets others read";
        return Err(Fault::with_hint("lets others write", hint));
    }
    Ok(mode)
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Bytes, from `64GiB`, `1.5 MB` or `512`. Units in any case.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    let wrong =
        || Fault::with_hint("is not a size", "a size is a number with a unit, as in \"64GiB\" or \"10MB\"");
    let text = text.trim();
    let unit_at = text.find(|char: char| !(char.is_ascii_digit() || char == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..unit_at], text[unit_at..].trim());
    let factor = if unit.is_empty() {
        1
    } else if let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        *factor
    } else {
        let near = nearest(unit, SIZE_UNITS.iter().map(|(name, _)| *name));
        return Err(Fault {
            hint: near.map(|near| format!("did you mean `{near}`?")).or(wrong().hint),
            ..wrong()
        });
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let parts: Option<(u64, u64)> = whole.parse().ok().zip(fraction.parse().ok());
    let (whole, fraction_digits) = parts.filter(|_| fraction.len() <= 9).ok_or_else(wrong)?;
    // At most nine digits: the product of two such numbers fits 128 bits with room to spare.
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let bytes =
        u128::from(whole) * u128::from(factor) + u128::from(fraction_digits) * u128::from(factor) / scale;
    positive_bytes(bytes)
}

/// A size that can be counted: from 1 to what SQLite and files can hold.
pub(super) fn positive_bytes(bytes: u128) -> Result<u64, Fault> {
    match u64::try_from(bytes) {
        Ok(0) => Err(Fault::new("must be more than 0")),
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(Fault::new("is larger than any file can be")),
    }
}

/// Units of durations, largest first, in milliseconds.
const TIME_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Longest duration; timers overflow on absurd ones.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

/// A duration from `5m`, `30s` or `1h30m`, between `least` and a year.
pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, Fault> {
    let wrong = |hint: &str| Fault::with_hint("is not a duration", hint);
    let usual = "a duration is numbers with units, as in \"30s\", \"5m\" or \"1h30m\"";
    let mut rest = text.trim();
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong(&format!("a unit is missing; did you mean \"{}s\"?", &rest[..rest.len().min(20)])));
    }
    if rest.is_empty() {
        return Err(wrong(usual));
    }
    let mut units = TIME_UNITS;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            let order = TIME_UNITS.iter().any(|(name, _)| *name == unit);
            return Err(wrong(if order {
                "larger units come first, each once, as in \"1h30m\""
            } else {
                usual
            }));
        };
        let factor = units[at].1;
        units = &units[at + 1..];
        let number: u64 = number.parse().map_err(|_| wrong(usual))?;
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| Fault::new("is longer than a year"))?;
        rest = after.trim_start();
    }
    let duration = Duration::from_millis(total);
    if duration < least {
        return Err(Fault::new(format!("must be at least {}s", least.as_secs())));
    }
    if duration > MAX_DURATION {
        return Err(Fault::new("is longer than a year"));
    }
    Ok(duration)
}

/// An absolute path: relative ones start at the file's directory, `~` is the home directory. Cleaned by
/// its letters alone (no file system is asked).
pub(super) fn path(text: &str, source: &Source<'_>) -> Result<PathBuf, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty"));
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

/// A base URL: `http` or `https`, a host, perhaps a port and a path; no final slash afterwards.
pub(super) fn base_url(text: &str) -> Result<String, Fault> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Fault::with_hint("is not a URL", "a URL starts with https:// or http://"));
    };
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(Fault::with_hint("has an unknown scheme", "only https:// and http:// are possible"));
    }
    if rest.contains('@') {
        return Err(Fault::with_hint(
            "carries a user name or password",
            "name the user with `username` and the password with `password-env` or `password-file`",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(Fault::new("must not have a query or a fragment"));
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host_ok = if host.starts_with('[') {
        image_ref::check_registry(host).is_ok()
    } else {
        !host.split('.').any(str::is_empty)
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if !host_ok {
        return Err(Fault::new("has no valid host name"));
    }
    let port_ok = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if !port.is_none_or(port_ok) {
        return Err(Fault::new("has a port that is not a number from 1 to 65535"));
    }
    // RFC 3986, section 3.3, less what would have to be escaped.
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:%".contains(&b)) {
        return Err(Fault::new("has a character that a URL cannot have"));
    }
    let (authority, path) = (authority.to_ascii_lowercase(), path.trim_end_matches('/'));
    if let Some(before) = path.strip_suffix("/v2") {
        let instead = format!("{scheme}://{authority}{}", before.trim_end_matches('/'));
        let message = "ends in /v2, which msb-sync adds by itself";
        return Err(Fault::with_hint(message, format!("write \"{instead}\"")));
    }
    Ok(format!("{scheme}://{authority}{path}"))
}

/// Header fields that would break requests, or that the registry client sets itself.
const OWN_HEADERS: &[&str] =
    &["accept", "accept-encoding", "connection", "content-length", "host", "range", "transfer-encoding"];

/// A header field's name (RFC 9110, section 5.1).
pub(super) fn header_name(name: &str) -> Result<(), Fault> {
    let lower = name.to_ascii_lowercase();
    if matches!(lower.as_str(), "authorization" | "proxy-authorization") {
        return Err(Fault::with_hint(
            "must not be set in the file",
            "name the user with `username` and the password with `password-env` or `password-file`",
        ));
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

/// A header field's value (RFC 9110, section 5.5).
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

/// A platform.
pub(super) fn platform(text: &str) -> Result<Platform, Fault> {
    Platform::parse(text).map_err(|reason| Fault {
        message: format!("is not a platform: {}", quoted(text)),
        hint: Some(reason.to_owned()),
    })
}

/// A group's name.
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
            untrusted: false,
            machine: None,
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64GiB", 64 << 30),
            ("4MiB", 4 << 20),
            ("4 mib", 4 << 20),
            ("10MB", 10_000_000),
            ("1.5kB", 1500),
            ("0.5KiB", 512),
            ("512", 512),
            ("1B", 1),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "-1",
            "1..5MB",
            "0",
            "0GiB",
            "9999999999TiB",
            "99999999999999999999",
            "1e3",
            "1 2MB",
            "é",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(size("4Mib").unwrap(), 4 << 20);
        assert_eq!(size("4MiBs").unwrap_err().hint.unwrap(), "did you mean `MiB`?");
        assert_eq!(size("0").unwrap_err().message, "must be more than 0");
    }

    #[test]
    fn durations() {
        let second = Duration::from_secs(1);
        for (text, seconds) in [
            ("5m", 300),
            ("30s", 30),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("1d", 86_400),
            ("1s", 1),
            ("1500ms", 1),
        ] {
            assert_eq!(duration(text, second).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in [
            "",
            "m",
            "5",
            "5x",
            "30m1h",
            "1m1m",
            "-5m",
            "1.5h",
            "999ms",
            "0s",
            "400d",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert!(duration(bad, second).is_err(), "{bad}");
        }
        assert_eq!(
            duration("300", second).unwrap_err().hint.unwrap(),
            "a unit is missing; did you mean \"300s\"?"
        );
        assert_eq!(duration("0s", second).unwrap_err().message, "must be at least 1s");
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
            let _ = size(&text);
            let _ = duration(&text, Duration::from_secs(1));
            let _ = base_url(&text);
            let _ = header_name(&text).and(header_value(&text));
            let _ = group_name(&text);
            if let Ok(path) = path(&text, &source()) {
                prop_assert!(path.is_absolute());
                prop_assert!(!path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)));
            }
        }

        #[test]
        fn a_size_is_its_number_of_units(number in 1_u64..1000, unit in 0..SIZE_UNITS.len()) {
            let (name, factor) = SIZE_UNITS[unit];
            prop_assert_eq!(size(&format!("{number}{name}")), Ok(number * factor));
        }

        #[test]
        fn a_duration_is_the_sum_of_its_parts(hours in 0_u64..100, minutes in 0_u64..1000, seconds in 1_u64..1000) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(duration(&text, Duration::from_secs(1)), Ok(expected));
        }
    }
}
