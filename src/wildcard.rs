//! Texts in which `*` stands for anything: names of images, and identities of signers.

/// Tells whether `text` is what `pattern` says; each `*` stands for any text, also for none.
///
/// The work is bounded by the product of the two lengths: only the last `*` is ever tried again.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut next, mut at) = (0, 0);
    // The place after the last `*`, and the end of the text that it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(next) {
            Some(b'*') => {
                next += 1;
                star = Some((next, at));
            }
            Some(byte) if *byte == text[at] => (next, at) = (next + 1, at + 1),
            _ => {
                let Some((after, end)) = star else { return false };
                (next, at) = (after, end + 1);
                star = Some((after, at));
            }
        }
    }
    pattern[next..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain meaning of a pattern, in exponential time.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|cut| slow(rest, &text[cut..])),
            Some((first, rest)) => text.first() == Some(first) && slow(rest, &text[1..]),
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a", "*", false),
            ("ghcr.io/acme/*", "ghcr.io/acme/app", true),
            ("ghcr.io/acme/*", "ghcr.io/acme/team/app", true),
            ("ghcr.io/acme/*", "ghcr.io/acme", false),
            ("ghcr.io/acme/*", "ghcr.io/acme-evil/app", false),
            ("*/app", "ghcr.io/acme/app", true),
            ("*@refs/tags/v*.0", "x@refs/tags/v1.0.0", true),
            ("refs/tags/*", "refs/heads/refs/tags/v1", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!fits(&"a*".repeat(1000), &"a".repeat(999)), "at once");
    }

    proptest! {
        #[test]
        fn the_quick_way_says_what_the_slow_one_does(pattern in "[ab*é]{0,8}", text in "[abé]{0,10}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(fits(&pattern, &text), slow(&letters(&pattern), &letters(&text)));
        }
    }
}
