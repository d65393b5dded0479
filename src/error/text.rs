//! Text from outside in a message: registries, archives, files and arguments may hold anything.
//!
//! This one rule escapes characters that could steer a terminal, or make a line read as another,
//! wherever text from outside is shown. The caller says how much of it is shown, and on how many
//! lines.
//!
//! A second rule hides what may be secret in a text that stands for a URL or for an image
//! reference, well formed or not: user info and query.

use std::ops::Range;

/// True if a terminal could take `c` for more than a character: control characters, and those that
/// format text invisibly (directions, joiners, separators of lines).
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Appends `c` to `out`, escaped as in Rust's literals if it could disturb a terminal.
pub fn escape_into(out: &mut String, c: char) {
    if is_dangerous(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Makes one line of `text`, with whatever could disturb a terminal escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        escape_into(&mut out, c);
    }
    out
}

/// Copies `text`, which was given as a URL or as an image reference, with `***` in the place of
/// user info and query.
pub fn without_secrets(text: &str) -> String {
    masked(text, &secret_parts(text, true))
}

/// Copies `text` with `***` in the place of each of `parts`, which are in order and do not overlap.
pub(crate) fn masked(text: &str, parts: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for part in parts {
        out.push_str(&text[from..part.start]);
        out.push_str("***");
        from = part.end;
    }
    out.push_str(&text[from..]);
    out
}

/// Finds the parts of `text` that may be secrets, if it is a URL or an image reference: user info,
/// and query. They are in order, and do not overlap.
///
/// A login needs no scheme: `bob:hunter2@r.io/a`. Unless the text `is_reference` (or a
/// URL) for certain, it needs more than an `@` or a `?`: mail addresses and patterns have these.
pub(crate) fn secret_parts(text: &str, is_reference: bool) -> Vec<Range<usize>> {
    let scheme = text.find("://").map(|at| at + "://".len());
    let start = scheme.unwrap_or(0);
    let certain = is_reference || scheme.is_some();
    let user = user_end(&text[start..], certain, scheme.is_some()).map(|end| start..start + end);
    let query = text[start..]
        .find('?')
        .map(|at| start + at)
        .filter(|at| certain || starts_query(&text[..*at], &text[at + 1..]));
    let (user, query) = match (user, query) {
        // A password may have a `?`, and a query an `@`: nobody can tell which this is.
        (Some(user), Some(query)) if query < user.end => (Some(user.start..text.len()), None),
        parts => parts,
    };
    let query = query.map(|at| at + 1..text.len()).filter(|query| !query.is_empty());
    user.into_iter().chain(query).collect()
}

/// Finds the `@` that ends the user info which `text`, without its scheme, begins with.
fn user_end(text: &str, certain: bool, has_scheme: bool) -> Option<usize> {
    let mut end = text.len();
    let at = loop {
        let at = text[..end].rfind('@')?;
        if !is_digest(&text[at + 1..end]) {
            break at;
        }
        end = at;
    };
    let (user, host) = (&text[..at], &text[at + 1..end]);
    let is_login = has_scheme || user.contains(':') || certain && host.contains(['.', ':', '/']);
    (is_login && !user.is_empty()).then_some(at)
}

/// True if `text`, which follows an `@`, is meant for a digest, and not for a host.
pub(crate) fn is_digest(text: &str) -> bool {
    let (algorithm, hex) = text.split_once(':').unwrap_or((text, ""));
    let algorithm = algorithm.to_ascii_lowercase();
    ["sha", "md5", "blake"].iter().any(|name| algorithm.starts_with(name))
        && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && !hex.contains(['/', '.'])
}

/// True if a `?` between these texts looks like that of a URL, and not like that of a pattern.
pub(crate) fn starts_query(before: &str, after: &str) -> bool {
    let in_url = |char: char| char.is_ascii_alphanumeric() || "/:._-@[]%~".contains(char);
    let is_url = !before.is_empty() && before.chars().all(in_url);
    let is_query = after.starts_with(|char: char| char.is_ascii_alphanumeric() || "%_-&".contains(char));
    is_url && is_query && (before.contains(['/', ':', '.']) || after.contains('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_and_queries_are_hidden_in_references_with_and_without_a_scheme() {
        for (text, expected) in [
            ("https://bob:hunter2@r.io/a:1", "https://***@r.io/a:1"),
            ("docker://bob:hunter2@r.io/a:1", "docker://***@r.io/a:1"),
            ("https//bob:hunter2@r.io/a:1", "***@r.io/a:1"),
            ("bob:hunter2@r.io/a:1", "***@r.io/a:1"),
            ("bob:hun@ter/2@r.io/a:1", "***@r.io/a:1"),
            ("bob:hunter2@r.io/a@sha256:00", "***@r.io/a@sha256:00"),
            ("bob:hunter2@host", "***@host"),
            ("hunter2@r.io/a", "***@r.io/a"),
            ("r.io/a:1?sig=hunter2", "r.io/a:1?***"),
            ("a?hunter2", "a?***"),
            ("https://h/?sig=a@hunter2", "https://***"),
            ("https://me:p?w@host/x", "https://***"),
            // None of these has a secret.
            ("r.io/a:1@sha256:00", "r.io/a:1@sha256:00"),
            ("a@md5:d41d8", "a@md5:d41d8"),
            ("a@latest", "a@latest"),
            ("@web", "@web"),
            ("a?", "a?"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), expected, "{text}");
        }
    }

    #[test]
    fn mail_addresses_and_patterns_are_no_secrets() {
        for text in ["ann@corp.com", "^v?[0-9]+$", "v?1", "(?P<order>[0-9]+)", "a:1@sha256:00", "x.y?*"] {
            assert!(secret_parts(text, false).is_empty(), "{text}");
        }
        for text in ["bob:hunter2@r.io", "r.io/a:1?token=hunter2", "a?token=hunter2", "ftp://me:hunter2@h"] {
            assert!(!masked(text, &secret_parts(text, false)).contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\x1b[31m\r\nb\u{202e}c\u{9b}"), r"a\u{1b}[31m\r\nb\u{202e}c\u{9b}");
        assert_eq!(
            printable("zero\u{200b}width\u{feff} line\u{2028}"),
            r"zero\u{200b}width\u{feff} line\u{2028}"
        );
        assert_eq!(printable("naïve 日本 \\n"), "naïve 日本 \\n");
    }
}
