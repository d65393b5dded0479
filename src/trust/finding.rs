//! Judgements of one candidate, in the words of people.

use crate::error::printable;

/// The characters of a text from outside that a message shows.
const SHOWN: usize = 120;

/// A signature that is good, and by a signer whom the rule accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// The signer, for people.
    pub(super) by: String,
    /// The issuer of the signer's identity, where there is one.
    pub(super) issuer: Option<String>,
    /// The time of the signature, by a log or a timestamp, in seconds since 1970.
    pub(super) at: Option<i64>,
    /// The first second in which the signature does not hold any more, where there is an end.
    pub(super) until: Option<i64>,
    /// The signer, for comparison: two signatures of one signer have the same.
    pub(super) signer: String,
    /// The form of the signature, for people: `cosign bundle`, `notation jws`.
    pub(super) form: &'static str,
}

/// The refusal of a candidate. All text from outside is escaped and shortened already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The signer, where one could be read: not proven.
    pub(super) by: Option<String>,
    /// The reason, in words that go on after `sha256:0123456789ab: `.
    pub(super) reason: String,
    /// The next step, where the refusal suggests one.
    pub(super) hint: Option<String>,
}

impl Refused {
    /// Refuses a candidate of nobody in particular.
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { by: None, reason: reason.into(), hint: None }
    }

    /// Names the signer whom the candidate claims to be of.
    pub(super) fn by(self, by: &str) -> Self {
        Self { by: Some(shown(by)), ..self }
    }

    /// Says what to do about it.
    pub(super) fn hinted(self, hint: String) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

/// Makes text from outside fit for a message: one line, escaped, and short.
pub(super) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(SHOWN).collect();
    let mut shown = printable(&start);
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_escaped_and_short() {
        assert_eq!(shown("a\x1b[31mb\n"), r"a\u{1b}[31mb\n");
        assert_eq!(shown(&"x".repeat(SHOWN)), "x".repeat(SHOWN));
        assert_eq!(shown(&"é".repeat(SHOWN + 1)), "é".repeat(SHOWN) + "…");
    }
}
