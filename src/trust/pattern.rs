//! Patterns in which `*` stands for anything, even nothing and slashes.
//!
//! The matcher looks for the pieces between the stars one after the other, each as far to the left
//! as it goes: nothing is tried twice, so a hostile text costs no more than a search for each.

/// A pattern with `*`. All else in it stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<String>,
}

impl Pattern {
    /// Takes a pattern apart.
    pub(super) fn new(text: &str) -> Self {
        Self { pieces: text.split('*').map(str::to_owned).collect() }
    }

    /// True if the whole of `text` is as the pattern says.
    pub(super) fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &self.pieces[..] else {
            return self.pieces.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for piece in between {
            let Some(start) = rest.find(piece.as_str()) else { return false };
            rest = &rest[start + piece.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "any/thing", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**c", "abc", true),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aab", false),
            ("a.c", "abc", false),
            ("ghcr.io/acme/*", "ghcr.io/acme/app", true),
            ("ghcr.io/acme/*", "ghcr.io/acme", false),
            ("ghcr.io/acme/*", "ghcr.io/acme-evil/app", false),
            ("é*é", "éé", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    /// The same, by trying everything.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slowly(rest, &text[skip..])),
            ([c, rest @ ..], [d, after @ ..]) => c == d && slowly(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_search_finds_what_trying_everything_finds(pattern in "[ab*]{0,8}", text in "[ab]{0,12}") {
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
