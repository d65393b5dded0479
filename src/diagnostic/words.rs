//! Words of hints: the valid word that was probably meant, or all of them.

/// Words longer than this get no suggestion: comparing is quadratic.
const MAX_COMPARED: usize = 300;
/// Candidates beyond this many are not compared.
const MAX_CANDIDATES: usize = 2_000;

/// Finds the word of `valid` that is nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
        // Words without a letter in common are not alike, however short they are.
        let is_alike = distance <= limit && distance < word.len().max(candidate.len());
        if is_alike && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean …", or else the list of what is valid.
pub(crate) fn suggest(word: &str, valid: &[&str]) -> String {
    match nearest(word, valid.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("valid here: {}", list(valid)),
    }
}

/// `` `a`, `b`, `c` ``.
pub(crate) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
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
        assert_eq!((nearest("x", ["B", "MB"]), nearest("b", ["B"])), (None, Some("B")));
        assert_eq!(nearest(&"x".repeat(1_000_000), words), None);
    }
}
