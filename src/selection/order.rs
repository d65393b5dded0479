//! Which of two tags is the newer one, versions or not.

/// The rank of a tag: of two tags the greater one is the newer one. The order is total, and only
/// equal tags are equal.
///
/// Tags that begin with a number (after an optional `v`) are newer than all others. Of those the
/// leading dotted numbers count first, as numbers and with missing ones as zero; then a tag with
/// nothing behind them is newer than one with a suffix, as with pre-releases; then the suffixes,
/// digits in them as numbers; then what follows an underscore, which is a build: newer than none.
/// Of equal versions the one with more parts is newer, since it moves less: `7.2.0` before `7.2`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'t> {
    is_version: bool,
    /// The leading dotted numbers, without the zeros at the end.
    numbers: Vec<Number<'t>>,
    /// True if the numbers have no suffix.
    bare: bool,
    suffix: Vec<Chunk<'t>>,
    /// The text behind an underscore.
    build: Option<Vec<Chunk<'t>>>,
    /// The whole tag, so that only equal tags are equal.
    tag: &'t str,
}

/// A run of digits of any length, which is ordered as a number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'t> {
    length: usize,
    /// The digits without leading zeros.
    digits: &'t str,
}

/// A part of a text that is all digits, or has none.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Chunk<'t> {
    Number(Number<'t>),
    Text(&'t str),
}

impl<'t> Number<'t> {
    fn of(digits: &'t str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self { length: digits.len(), digits }
    }
}

impl<'t> Rank<'t> {
    pub(super) fn of(tag: &'t str) -> Self {
        let text = without_v(tag);
        let mut rest = text;
        let mut numbers = Vec::new();
        while let Some((digits, after)) = leading_digits(rest) {
            numbers.push(Number::of(digits));
            rest = after;
            match after.strip_prefix('.') {
                Some(next) if next.starts_with(|first: char| first.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        while numbers.last().is_some_and(|number| number.length == 0) {
            numbers.pop();
        }
        let is_version = rest.len() < text.len();
        let (suffix, build) =
            rest.split_once('_').map_or((rest, None), |(suffix, build)| (suffix, Some(build)));
        let (bare, build) = (suffix.is_empty(), build.map(chunks));
        Self { is_version, numbers, bare, suffix: chunks(suffix), build, tag }
    }
}

/// Drops a `v` before the first number of a tag.
pub(super) fn without_v(tag: &str) -> &str {
    let rest = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    if rest.starts_with(|first: char| first.is_ascii_digit()) { rest } else { tag }
}

fn leading_digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn chunks(mut text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    while !text.is_empty() {
        if let Some((digits, after)) = leading_digits(text) {
            chunks.push(Chunk::Number(Number::of(digits)));
            text = after;
        } else {
            let (words, after) = text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()));
            chunks.push(Chunk::Text(words));
            text = after;
        }
    }
    chunks
}

#[cfg(test)]
pub(super) mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    pub(in crate::selection) fn newer(a: &str, b: &str) -> Ordering {
        Rank::of(a).cmp(&Rank::of(b))
    }

    #[test]
    fn older_comes_before_newer() {
        let ordered = [
            "alpha",
            "build-9",
            "build-10",
            "latest",
            "0.9",
            "1-alpine",
            "1",
            "1.0",
            "1.0.0",
            "1.0.1-rc9",
            "1.0.1-rc10",
            "1.0.1",
            "1.9",
            "1.10",
            "v9",
            "v10",
            "20240101",
            "20240102",
            "99999999999999999999999999",
            "100000000000000000000000000",
        ];
        for pair in ordered.windows(2) {
            assert_eq!(newer(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    pub(in crate::selection) fn tag() -> impl Strategy<Value = String> {
        prop_oneof![
            "[vV]?[0-9]{1,3}(\\.[0-9]{1,2}){0,3}([-.][a-z0-9.]{0,4})?",
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}"
        ]
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in tag(), b in tag(), c in tag()) {
            prop_assert_eq!(newer(&a, &b), newer(&b, &a).reverse());
            prop_assert_eq!(newer(&a, &b) == Ordering::Equal, a == b);
            if newer(&a, &b).is_le() && newer(&b, &c).is_le() {
                prop_assert!(newer(&a, &c).is_le());
            }
        }

        #[test]
        fn numbers_are_ordered_as_numbers(a in 0_u64.., b in 0_u64.., suffix in "(-[a-z]{1,3})?") {
            let order = newer(&format!("v1.{a}{suffix}"), &format!("v1.{b}{suffix}"));
            prop_assert_eq!(order, a.cmp(&b));
        }

        #[test]
        fn versions_are_ordered_as_semver_does(a in any::<[u16; 3]>(), b in any::<[u16; 3]>()) {
            let text = |[x, y, z]: [u16; 3]| format!("{x}.{y}.{z}");
            prop_assert_eq!(newer(&text(a), &text(b)), a.cmp(&b));
        }
    }
}
