//! Small text helpers: what a message repeats of the file, and which valid word was probably meant.

use std::borrow::Cow;

use super::secrets::has_secret;
use crate::error::printable;

/// Longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 120;
/// Words longer than this get no suggestion: comparing is quadratic.
const MAX_COMPARED: usize = 300;
/// Candidates beyond this many are not compared.
const MAX_CANDIDATES: usize = 2_000;

/// A piece of the file for use in a message: escaped, shortened, without user info or query of a URL.
///
/// A string that is not closed swallows lines that may hold secrets: of these, nothing is repeated.
pub(super) fn quoted(text: &str) -> String {
    if text.contains('\n') || has_secret(text) {
        return "`…`".to_owned();
    }
    let mut shown = Cow::Borrowed(text);
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest =
            rest.rsplit_once('@').map_or(Cow::Borrowed(rest), |(_, host)| format!("***@{host}").into());
        let rest = rest.split_once('?').map_or(rest.clone(), |(before, _)| format!("{before}?***").into());
        shown = format!("{scheme}://{rest}").into();
    }
    let mut out: String = shown.chars().take(MAX_QUOTED).collect();
    if out.len() < shown.len() {
        out.push('…');
    }
    format!("`{}`", printable(&out))
}

/// The word of `valid` that is nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_COMPARED {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    let mut best: Option<(usize, &str)> = None;
    for candidate in valid.into_iter().take(MAX_CANDIDATES) {
        let limit = (word.len().max(candidate.len()) / 3).clamp(1, 4);
        if candidate.len().abs_diff(word.len()) > limit {
            continue;
        }
        let distance = strsim::damerau_levenshtein(&word, &plain(candidate));
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean …", or else the list of what is valid.
pub(super) fn suggest(word: &str, valid: &[&str]) -> String {
    match nearest(word, valid.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("valid here: {}", list(valid)),
    }
}

/// `` `a`, `b`, `c` ``.
pub(super) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The start of the character that `offset` falls into.
pub(super) fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The first start of a character at or after `offset`.
pub(super) fn ceil_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset += 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_find_their_word() {
        let words = ["settings", "registry", "groups", "images", "password-env", "pull"];
        for (word, expected) in [
            ("imags", Some("images")),
            ("imgs", Some("images")),
            ("Images", Some("images")),
            ("registries", Some("registry")),
            ("password_env", Some("password-env")),
            ("pul", Some("pull")),
            ("gruops", Some("groups")),
            ("x", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1_000_000), words), None);
    }

    #[test]
    fn quoted_text_is_short_printable_and_free_of_secrets() {
        assert_eq!(quoted("a\u{1b}[31m\u{202e}b"), "`a\\u{1b}[31m\\u{202e}b`");
        assert_eq!(quoted("https://me:pw@host/x?sig=1"), "`https://***@host/x?***`");
        assert_eq!(quoted("https://me:p?w@host/x"), "`https://***@host/x`");
        assert_eq!(quoted("a\nb"), "`…`");
        assert_eq!(quoted("a, password = x"), "`…`");
        assert!(quoted(&"é".repeat(1000)).chars().count() <= MAX_QUOTED + 3);
    }
}
