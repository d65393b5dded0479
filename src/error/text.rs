//! Text from outside in a message: registries, archives, files and arguments may hold anything.
//!
//! This one rule escapes characters that could steer a terminal, or make a line read as another,
//! wherever text from outside is shown. The caller says how much of it is shown, and on how many
//! lines.
//!
//! A second rule hides what may be secret in a text that stands for a URL or for an image
//! reference, well formed or not: user info, query and fragment. Words of servers and of programs
//! lose the same of the URLs in them.

use std::ops::Range;
use std::path::Path;

/// True if nobody sees `c`: a separator of lines, or what Unicode lets programs leave out where
/// they cannot show it (`Default_Ignorable_Code_Point` in `DerivedCoreProperties.txt`, Unicode 16).
pub(crate) fn is_unseen(c: char) -> bool {
    is_variation(c)
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{180e}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}')
        || matches!(c, '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// True if `c` chooses a form of the character before it, and does nothing else.
fn is_variation(c: char) -> bool {
    matches!(c, '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// True if a terminal could take `c` for more than a character: control characters, and those that
/// format text invisibly (directions, joiners, separators of lines).
fn is_dangerous(c: char) -> bool {
    c.is_control() || is_unseen(c) && !is_variation(c)
}

/// Appends `c` to `out`, escaped as in Rust's literals if it could disturb a terminal.
pub fn escape_into(out: &mut String, c: char) {
    if is_dangerous(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// True if `text` is the usual name of an environment variable, and hardly a password that was put
/// in the place of one.
pub(crate) fn is_variable(text: &str) -> bool {
    let letter = |char: char| char.is_ascii_uppercase() || char == '_';
    text.starts_with(letter) && text.chars().all(|char| letter(char) || char.is_ascii_digit())
}

/// Makes one line of `text`, with whatever could disturb a terminal escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        escape_into(&mut out, c);
    }
    out
}

/// `path` as a word for a shell, with nothing in it that could control a terminal.
pub fn shell_word(path: &Path) -> String {
    let text = printable(&path.display().to_string());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Names a file that the user gave; one that was given as a URL may have a password in it.
pub(crate) fn named(path: &Path) -> String {
    // A path that is made absolute loses one of the slashes of a scheme.
    let text = path.display().to_string().replacen("https:/", "https://", 1).replacen("http:/", "http://", 1);
    let text = text.replacen(":///", "://", 1);
    // An `@` alone makes no login of a path, as in `release@1.2/images.toml`.
    let may_be_url = text.contains("://") || text.split('@').next().is_some_and(|user| user.contains(':'));
    if may_be_url { without_likely_secrets(&text) } else { text }
}

/// The algorithms of digests that people write.
const ALGORITHMS: [&str; 9] =
    ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s", "blake3"];

/// Copies `text`, which was given as a URL or as an image reference, with `***` in the place of
/// user info, query and fragment.
pub fn without_secrets(text: &str) -> String {
    masked(text, &secret_parts(text, true), "***")
}

/// Copies `text`, which may be a URL or an image reference and anything else, like
/// [`without_secrets`].
pub(crate) fn without_likely_secrets(text: &str) -> String {
    masked(text, &secret_parts(text, false), "***")
}

/// Copies `text` with `mask` in the place of each of `parts`, which are in order and apart.
fn masked(text: &str, parts: &[Range<usize>], mask: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for part in parts {
        out.push_str(&text[from..part.start]);
        out.push_str(mask);
        from = part.end;
    }
    out.push_str(&text[from..]);
    out
}

/// The text in the place of what is not shown of words from outside.
pub(crate) const HIDDEN: &str = "…";

/// Copies `words` from outside with URLs that have lost user, query and fragment.
pub(crate) fn without_queries(words: &str) -> String {
    // No character of a URL. Signatures may hold all others, commas and semicolons too.
    let is_outside = |char: char| char.is_whitespace() || matches!(char, '"' | '<' | '>' | '`');
    let shown = |piece: &str| {
        let shown = masked(piece, &secret_parts(piece, false), HIDDEN);
        let shown = without_encoded_url(&shown);
        match shown.find('?') {
            Some(query) if query + 1 < shown.len() => shown[..=query].to_owned() + HIDDEN,
            _ => shown,
        }
    };
    words
        .split_inclusive(is_outside)
        .map(|piece| match piece.strip_suffix(is_outside) {
            Some(inside) => shown(inside) + &piece[inside.len()..],
            None => shown(piece),
        })
        .collect()
}

/// Cuts a URL in percent encoding after its scheme, where it has a user, a query or a fragment.
fn without_encoded_url(piece: &str) -> String {
    const SCHEME_ENDS: &str = "%3a%2f%2f";
    let lower = piece.to_ascii_lowercase();
    let parted = lower.split_once(SCHEME_ENDS);
    match parted.filter(|(_, rest)| ["%40", "%3f", "%23"].iter().any(|mark| rest.contains(mark))) {
        Some((scheme, _)) => piece[..scheme.len() + SCHEME_ENDS.len()].to_owned() + HIDDEN,
        None => piece.to_owned(),
    }
}

/// Finds the parts of `text` that may be secrets, if it is a URL or an image reference: user info,
/// and query or fragment. They are in order, and do not overlap.
///
/// A login needs no scheme: `bob:hunter2@r.io/a`. Unless the text `is_reference` (or a
/// URL) for certain, it needs more than an `@` or a `?`: mail addresses and patterns have these,
/// and paths of files may have anything.
pub(crate) fn secret_parts(text: &str, is_reference: bool) -> Vec<Range<usize>> {
    // A login or a query may hold whatever looks like a scheme.
    let scheme = text.find("://").filter(|at| !text[..*at].contains(['?', '#', '@']));
    let scheme = scheme.map(|at| at + "://".len());
    let scheme = scheme.or_else(|| text.starts_with("//").then_some("//".len()));
    let certain = is_reference || scheme.is_some();
    if !certain && ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
        return Vec::new();
    }
    let start = scheme.unwrap_or(0);
    let rest = &text[start..];
    let user = user_end(rest, certain, scheme.is_some()).map(|end| start..start + end);
    let query = rest
        .match_indices(['?', '#'])
        .find(|(at, _)| certain || starts_query(&rest[..*at], &rest[at + 1..]))
        .map(|(at, _)| start + at);
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
    // Before the first slash of a URL there is no digest, whatever looks like one.
    let authority = if has_scheme { text.find('/').unwrap_or(text.len()) } else { 0 };
    let mut end = text.len();
    let at = loop {
        let at = text[..end].rfind('@')?;
        let (before, after) = (&text[..at], &text[at + 1..end]);
        if at < authority || !names_digest(before, after) {
            break at;
        }
        end = at;
    };
    let (user, host) = (&text[..at], &text[at + 1..end]);
    let hides = if has_scheme {
        // A password may have a slash; so may a path that an `@` stands in, after a host.
        at < authority || !is_host(&text[..authority]) || user.contains(':')
    } else {
        is_login(user, host) || certain && host.contains(['.', ':', '/'])
    };
    (hides && !user.is_empty()).then_some(at)
}

/// True if `user` and `host`, with an `@` between them, look like a login even in a text that may
/// be anything: it has a password, or a path follows the host.
pub(crate) fn is_login(user: &str, host: &str) -> bool {
    user.contains(':') || host.split_once('/').is_some_and(|(name, _)| is_host(name))
}

fn is_host(name: &str) -> bool {
    name == "localhost" || name.contains(['.', ':'])
}

/// True if what stands `after` an `@` is meant for a digest of the image `before` the `@`, and not
/// for the host of a login.
pub(crate) fn names_digest(before: &str, after: &str) -> bool {
    is_digest(after) || begins_digest(after) && is_plain(before)
}

/// True if `text`, which follows an `@`, is meant for a digest, right or wrong, and no host with a
/// port.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, rest)) = text.split_once(':') else { return false };
    // The text around it may go on.
    let digits = rest.trim_end_matches(|char: char| "\"'`,;:.!?)]}>".contains(char));
    let is_port = !digits.starts_with('0') && digits.parse::<u16>().is_ok();
    let is_known = ALGORITHMS.iter().any(|name| algorithm.eq_ignore_ascii_case(name));
    is_known && !is_port && !rest.is_empty() && !digits.contains(['/', '.', '@'])
}

/// True if `text`, which follows an `@`, is what is left of a digest: nothing, as of a variable
/// that is not set, or its first digits.
fn begins_digest(text: &str) -> bool {
    let is_hex = |digits: &str| digits.chars().all(|char| char.is_ascii_hexdigit());
    text.is_empty()
        || text.split_once(':').is_some_and(|(name, rest)| ALGORITHMS.contains(&name) && is_hex(rest))
}

/// True if `text` is an image's name, with or without a tag, rather than a user with a password: it
/// has a path, or its tag is a version.
fn is_plain(text: &str) -> bool {
    let is_word = |word: &str| {
        let belongs = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "._-".contains(char);
        !word.is_empty() && word.chars().all(belongs)
    };
    // Each part is a number, or a word that may end with one, and the first is a number, as may be
    // that of a release to come: most passwords mix more.
    let is_version = |tag: &str| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_to_come = |part: &str| {
            let word = part.trim_matches(|char: char| char.is_ascii_digit());
            let is_known = ["a", "alpha", "b", "beta", "pre", "rc"].contains(&word);
            is_known && part.starts_with(|char: char| char.is_ascii_digit())
        };
        let is_part = |part: &str| {
            let digits = part.trim_start_matches(|char: char| char.is_ascii_lowercase());
            !part.is_empty() && (digits.is_empty() || is_number(digits)) || is_to_come(part)
        };
        let is_first = |part: &str| is_number(part) || is_to_come(part);
        let mut parts = tag.strip_prefix('v').unwrap_or(tag).split(['.', '-', '_']);
        tag == "latest" || parts.next().is_some_and(is_first) && parts.all(is_part)
    };
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let (host, path) = name.split_once('/').map_or((None, name), |(host, path)| (Some(host), path));
    let is_host = |host: &str| {
        let (host, port) = host.split_once(':').unwrap_or((host, "0"));
        is_word(host) && port.parse::<u16>().is_ok()
    };
    let is_tag = |tag: &str| is_word(tag) && (host.is_some() || is_version(tag));
    host.is_none_or(is_host) && path.split('/').all(is_word) && tag.map_or(host.is_some(), is_tag)
}

/// True if a `?` or a `#` between these texts looks like that of a URL, and not like that of a
/// pattern.
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
    fn a_file_that_was_given_as_a_url_is_named_without_its_login() {
        for (path, expected) in [
            ("https://bob:hunter2@h/x", "https://***@h/x"),
            ("/w/https:/bob:hunter2@h/x", "/w/https://***@h/x"),
            ("/w/http:/h/x?token=hunter2", "/w/http://h/x?***"),
            ("/w/release@1.2/images.toml", "/w/release@1.2/images.toml"),
            ("work/https/x.toml", "work/https/x.toml"),
        ] {
            assert_eq!(named(Path::new(path)), expected);
        }
    }

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
            ("https://r.io/a#access_token=hunter2", "https://r.io/a#***"),
            ("https://me:p#w@host/x", "https://***"),
            ("//bob:hunter2@cdn/a", "//***@cdn/a"),
            ("//hunter2@cdn", "//***@cdn"),
            ("https://bob:hun/ter2@cdn/a", "https://***@cdn/a"),
            ("https://hun/ter2@cdn/a", "https://***@cdn/a"),
            // What looks like a scheme is a part of the secret.
            ("bob:hunter2@https://r.io", "***@https://r.io"),
            ("r.io/a?sig=hunter2&u=https://x", "r.io/a?***"),
            ("/login?state=hunter2&rd=https://r.io/x", "/login?***"),
            ("/login#hunter2&rd=https://r.io/x", "/login#***"),
            // Hosts that begin like algorithms, or are called like them.
            ("https://bob:hunter2@shared:5000", "https://***@shared:5000"),
            ("https://bob:hunter2@shanghai:5000/a", "https://***@shanghai:5000/a"),
            ("https://bob:hunter2@blake:443", "https://***@blake:443"),
            ("https://bob:hunter2@md5", "https://***@md5"),
            ("https://bob:hunter2@sha256:abcdef", "https://***@sha256:abcdef"),
            ("bob:hunter2@shared", "***@shared"),
            ("bob:hunter2@shared:5000", "***@shared:5000"),
            ("bob:hunter2@sha256:5000", "***@sha256:5000"),
            ("bob:hunter2@sha256", "***@sha256"),
            ("bob:hunter2@shared@sha256:00", "***@shared@sha256:00"),
            // None of these has a secret.
            ("r.io/a:1@sha256:00", "r.io/a:1@sha256:00"),
            ("a@md5:d41d8", "a@md5:d41d8"),
            ("a:1@md5:d41d8", "a:1@md5:d41d8"),
            ("a:1@SHA512:0Af", "a:1@SHA512:0Af"),
            ("a:1@sha256:zz", "a:1@sha256:zz"),
            ("a:1@sha256:", "a:1@sha256:"),
            ("a:1@sha256:…", "a:1@sha256:…"),
            ("a:1@sha256:abc def", "a:1@sha256:abc def"),
            ("r.io/a/b:1@sha256:${DIGEST}", "r.io/a/b:1@sha256:${DIGEST}"),
            ("r.io/a@sha256:0af: not", "r.io/a@sha256:0af: not"),
            ("https://medium.com/@acme/limits", "https://medium.com/@acme/limits"),
            ("a:1@blake2b:0af", "a:1@blake2b:0af"),
            ("docker://r.io/a:1@sha256:0af", "docker://r.io/a:1@sha256:0af"),
            ("a@latest", "a@latest"),
            ("@web", "@web"),
            ("a?", "a?"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), expected, "{text}");
        }
    }

    #[test]
    fn a_reference_is_shown_whose_digest_is_empty_or_cut() {
        for (text, expected) in [
            ("alpine:3@", "alpine:3@"),
            ("r.io/t/a:1@", "r.io/t/a:1@"),
            ("localhost:5000/a@", "localhost:5000/a@"),
            ("t/a@sha256:12", "t/a@sha256:12"),
            ("python:3.12-slim@sha256:123", "python:3.12-slim@sha256:123"),
            ("golang:1.22rc1@", "golang:1.22rc1@"),
            ("postgres:17beta1@sha256:", "postgres:17beta1@sha256:"),
            ("r.io/a:1@sha256:5000", "r.io/a:1@sha256:5000"),
            ("alpine:v3.20_rc1@", "alpine:v3.20_rc1@"),
            ("alpine:latest@sha256:", "alpine:latest@sha256:"),
            // These may be logins all the same.
            ("bob:hunter2!@", "***@"),
            ("bob:1hunter2@", "***@"),
            ("bob:1-hun7er@", "***@"),
            ("bob:hunter2@sha256:", "***@sha256:"),
            ("bob:Hunter2$@sha256:5000", "***@sha256:5000"),
        ] {
            assert_eq!(without_secrets(text), expected, "{text}");
        }
    }

    #[test]
    fn urls_lose_user_and_query() {
        for (text, expected) in [
            ("text/html; q=1", "text/html; q=1"),
            ("https://cdn/x?sig=SECRET&b=/", "https://cdn/x?…"),
            ("https://cdn/x?SignedHeaders=host;range,b&sig=SECRET", "https://cdn/x?…"),
            ("https://user:SECRET@cdn/x?sig=SECRET", "https://…@cdn/x?…"),
            ("</v2/_catalog?last=SECRET>; rel=\"next\"", "</v2/_catalog?…>; rel=\"next\""),
            (
                "Bearer realm=\"https://a/t?k=SECRET\",service=\"s\"",
                "Bearer realm=\"https://a/t?…\",service=\"s\"",
            ),
            (
                "expired: `https://a/b?sig=SECRET`\tsee\nhttps://c?sig=SECRET",
                "expired: `https://a/b?…`\tsee\nhttps://c?…",
            ),
            ("a?b d?e", "a?… d?…"),
            ("see https://bob:hun@SECRET@cdn/x.", "see https://…@cdn/x."),
            ("https://bob:hun?SECRET@cdn", "https://…"),
            ("https://bob:SEC/RET@cdn and more", "https://…@cdn and more"),
            ("at //bob:SECRET@cdn/x", "at //…@cdn/x"),
            ("//SECRET@cdn/x", "//…@cdn/x"),
            ("bob:SECRET@cdn", "…@cdn"),
            ("https://cdn/x#token=SECRET", "https://cdn/x#…"),
            (
                "no team/app:1@sha256:0af, and \"a:1@sha256:0af\"",
                "no team/app:1@sha256:0af, and \"a:1@sha256:0af\"",
            ),
            ("who are you? ask why?", "who are you? ask why?"),
            ("x@y", "x@y"),
            ("/login?state=SECRET&rd=https://r.io/x", "/login?…"),
            ("no team/app@sha256:0af: not found", "no team/app@sha256:0af: not found"),
            ("in /home/ann@corp.com/.docker/config.json", "in /home/ann@corp.com/.docker/config.json"),
            ("see https://medium.com/@acme/limits", "see https://medium.com/@acme/limits"),
            ("at https%3A%2F%2Fcdn%2Fx%3Fsig%3DSECRET now", "at https%3A%2F%2F… now"),
            ("at https%3a%2f%2fbob%3aSECRET%40cdn now", "at https%3a%2f%2f… now"),
            ("at https%3A%2F%2Fcdn%2Fx now", "at https%3A%2F%2Fcdn%2Fx now"),
            ("see https://a and write to me@b", "see https://a and write to me@b"),
        ] {
            assert_eq!(without_queries(text), expected);
        }
    }

    #[test]
    fn mail_addresses_and_patterns_are_no_secrets() {
        for text in [
            "ann@corp.com",
            "ann@corp",
            "^v?[0-9]+$",
            "v?1",
            "(?P<order>[0-9]+)",
            "a:1@sha256:00",
            "x.y?*",
            "#1",
            "/srv/me:x@host.corp/images.toml",
            "./me:x@host/images.toml",
            "../a?b=c/images.toml",
        ] {
            assert!(secret_parts(text, false).is_empty(), "{text}");
        }
        for text in [
            "bob:hunter2@r.io",
            "bob:hunter2@shared",
            "hunter2@r.io/a:1",
            "hunter2@r:5000/a",
            "hunter2@localhost/a",
            "r.io/a:1?token=hunter2",
            "r.io/a:1#token=hunter2",
            "a?token=hunter2",
            "ftp://me:hunter2@h",
            "//me:hunter2@h/a",
            "/https://me:hunter2@h/a",
        ] {
            assert!(!without_likely_secrets(text).contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\x1b[31m\r\nb\u{202e}c\u{9b}"), r"a\u{1b}[31m\r\nb\u{202e}c\u{9b}");
        assert_eq!(
            printable("zero\u{200b}width\u{feff} line\u{2028}"),
            r"zero\u{200b}width\u{feff} line\u{2028}"
        );
        assert_eq!(printable("soft\u{ad}\u{61c}tag\u{e0041}"), r"soft\u{ad}\u{61c}tag\u{e0041}");
        assert_eq!(printable("naïve 日本 ❤\u{fe0f} \\n"), "naïve 日本 ❤\u{fe0f} \\n");
    }
}
