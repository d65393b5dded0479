//! Which of a repository's tags a selection means: `semver`, `match` and `newest` of the images file.
//!
//! Pure: tags in, tags out. A tag is taken for a version as regsync and Renovate do: with or without a leading
//! `v`, and with one, two or three numbers, the missing ones being zero (`7.2` is 7.2.0). What follows a hyphen is a
//! pre-release, so that `7.2-alpine` fits no range that does not name one (the rule of Cargo and npm). Numbers may
//! have leading zeros, as in `24.04`.
//!
//! `newest` has an order for all tags, versions or not; see [`newer`].

use std::cmp::Ordering;

use semver::{BuildMetadata, Prerelease, Version, VersionReq};

use crate::state::TagSelection;

/// Most tags that one selection may choose.
pub const MAX_CHOSEN: usize = 1000;

/// A selection's rule, ready for use.
#[derive(Clone, Debug)]
pub struct Rule {
    semver: Option<VersionReq>,
    matching: Option<regex::Regex>,
    newest: Option<usize>,
}

impl Rule {
    /// The rule of `selection`.
    ///
    /// # Errors
    /// A range or a pattern that is none: no images file has one.
    pub fn new(selection: &TagSelection) -> Result<Self, String> {
        let semver = selection.semver.as_deref().map(VersionReq::parse).transpose();
        let matching = selection.matching.as_deref().map(regex::Regex::new).transpose();
        Ok(Self {
            semver: semver.map_err(|error| error.to_string())?,
            matching: matching.map_err(|error| error.to_string())?,
            newest: selection.newest.map(Into::into),
        })
    }

    /// How many tags are chosen at most.
    pub fn newest(&self) -> Option<usize> {
        self.newest
    }

    /// Whether `tag` is in the range and matches the pattern.
    pub fn fits(&self, tag: &str) -> bool {
        let in_range = |range: &VersionReq| version(tag).is_some_and(|version| range.matches(&version));
        self.matching.as_ref().is_none_or(|pattern| pattern.is_match(tag))
            && self.semver.as_ref().is_none_or(in_range)
    }

    /// Whether this rule may have chosen `tags`: they all fit, and are not too many.
    pub fn allows<'t>(&self, tags: impl IntoIterator<Item = &'t str>) -> bool {
        let mut count = 0;
        let fit = tags.into_iter().inspect(|_| count += 1).all(|tag| self.fits(tag));
        fit && count <= self.newest.unwrap_or(MAX_CHOSEN)
    }

    /// The tags that fit, newest first, each once, and no more of them than `newest` says.
    pub fn choose<'t>(&self, tags: impl IntoIterator<Item = &'t str>) -> Vec<&'t str> {
        let mut chosen: Vec<&str> = tags.into_iter().filter(|tag| self.fits(tag)).collect();
        chosen.sort_by(|a, b| newer(b, a));
        chosen.dedup();
        chosen.truncate(self.newest.unwrap_or(usize::MAX));
        chosen
    }
}

/// A selection's rule as the images file says it, for people.
pub fn describe(selection: &TagSelection) -> String {
    let mut parts = Vec::new();
    if let Some(range) = &selection.semver {
        parts.push(format!("semver \"{range}\""));
    }
    if let Some(pattern) = &selection.matching {
        // The anchors are the images file's own addition.
        let pattern =
            pattern.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(pattern);
        parts.push(format!("match \"{pattern}\""));
    }
    if let Some(newest) = selection.newest {
        parts.push(format!("newest {newest}"));
    }
    parts.join(", ")
}

/// Which of two tags is the newer one: a total order, in which only equal tags are equal.
///
/// Tags that begin with a number (after an optional `v`) are newer than all others. Of those the leading dotted
/// numbers count first, as numbers and with missing ones as zero; then a tag with nothing behind them is newer than
/// one with a suffix, as with pre-releases; then the suffixes, digits in them as numbers. Of equal versions the one
/// with more parts is newer, since it moves less: `7.2.0` before `7.2`.
pub fn newer(a: &str, b: &str) -> Ordering {
    Key::of(a).cmp(&Key::of(b))
}

/// The order of [`newer`], field by field.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'t> {
    is_version: bool,
    /// Without the zeros at the end.
    numbers: Vec<Number<'t>>,
    /// How the text behind the numbers begins: nothing is newer than something.
    bare: bool,
    suffix: Vec<Chunk<'t>>,
    /// So that only equal tags are equal.
    tag: &'t str,
}

/// A run of digits of any length, in numerical order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'t> {
    length: usize,
    /// Without leading zeros.
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

impl<'t> Key<'t> {
    fn of(tag: &'t str) -> Self {
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
        Self { is_version, numbers, bare: rest.is_empty(), suffix: chunks(rest), tag }
    }
}

/// The tag without a `v` before its first number.
fn without_v(tag: &str) -> &str {
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

/// The version that `tag` is, if it is one.
fn version(tag: &str) -> Option<Version> {
    let text = without_v(tag);
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let mut numbers = [0_u64; 3];
    let parts: Vec<&str> = core.split('.').take(4).collect();
    if parts.len() > 3 {
        return None;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    let [major, minor, patch] = numbers;
    let pre = match pre {
        Some("") => return None,
        Some(pre) => Prerelease::new(pre).ok()?,
        None => Prerelease::EMPTY,
    };
    Some(Version { major, minor, patch, pre, build: BuildMetadata::EMPTY })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::state::{Platform, PullPolicy};

    fn selection(semver: Option<&str>, matching: Option<&str>, newest: Option<usize>) -> TagSelection {
        TagSelection {
            registry: "docker.io".to_owned(),
            repository: "library/redis".to_owned(),
            platform: Platform::new("linux", "amd64", None),
            pull: PullPolicy::Always,
            groups: BTreeSet::new(),
            line: 1,
            semver: semver.map(str::to_owned),
            matching: matching.map(|pattern| format!("^(?:{pattern})$")),
            newest: newest.and_then(NonZeroUsize::new),
            locked: None,
        }
    }

    fn choose<'t>(
        semver: Option<&str>,
        matching: Option<&str>,
        newest: Option<usize>,
        tags: &[&'t str],
    ) -> Vec<&'t str> {
        Rule::new(&selection(semver, matching, newest)).unwrap().choose(tags.iter().copied())
    }

    const REDIS: &[&str] = &[
        "latest",
        "6.2.14",
        "7",
        "7.0",
        "7.2",
        "7.2.4",
        "7.2-alpine",
        "7.4.1",
        "7.10.0",
        "8.0.0",
        "8.0-rc1",
        "v7.3.0",
        "alpine",
        "7.9.9.9",
        "7.x",
    ];

    #[test]
    fn a_range_chooses_versions_in_all_their_spellings_and_no_prereleases() {
        assert_eq!(
            choose(Some(">=7, <8"), None, None, REDIS),
            ["7.10.0", "7.4.1", "v7.3.0", "7.2.4", "7.2", "7.0", "7"]
        );
        assert_eq!(choose(Some(">=7, <8"), None, Some(2), REDIS), ["7.10.0", "7.4.1"]);
        assert_eq!(choose(Some("~7.2"), None, None, REDIS), ["7.2.4", "7.2"]);
        assert_eq!(choose(Some(">=9"), None, None, REDIS), [] as [&str; 0]);
    }

    #[test]
    fn prereleases_are_chosen_by_a_range_that_names_one() {
        let tags = ["1.0.0-rc.9", "1.0.0-rc.10", "1.0.0", "1.1.0-rc.1"];
        assert_eq!(choose(Some(">=1.0.0-rc.1"), None, None, &tags), ["1.0.0", "1.0.0-rc.10", "1.0.0-rc.9"]);
    }

    #[test]
    fn dates_and_leading_zeros_are_versions() {
        let tags = ["20.04", "22.04", "24.04", "24.10", "jammy"];
        assert_eq!(choose(Some(">=22, <25"), None, Some(1), &tags), ["24.10"]);
    }

    #[test]
    fn a_pattern_matches_the_whole_tag() {
        let tags = ["22.9-slim", "22.10-slim", "22.10-slim-arm", "x22.1-slim", "22-slim"];
        assert_eq!(choose(None, Some("22\\.[0-9]+-slim"), None, &tags), ["22.10-slim", "22.9-slim"]);
        assert_eq!(choose(None, Some("22\\.[0-9]+-slim"), Some(1), &tags), ["22.10-slim"]);
        assert_eq!(choose(None, Some("a|b"), None, &["a", "ab", "b"]), ["b", "a"]);
    }

    #[test]
    fn a_range_and_a_pattern_must_both_fit() {
        assert_eq!(choose(Some(">=7, <8"), Some("[0-9]+\\.[0-9]+"), None, REDIS), ["7.2", "7.0"]);
    }

    #[test]
    fn newest_alone_prefers_versions_and_orders_numbers_as_numbers() {
        assert_eq!(choose(None, None, Some(3), REDIS), ["8.0.0", "8.0-rc1", "7.10.0"]);
        assert_eq!(choose(None, None, Some(2), &["v9", "v10", "v8"]), ["v10", "v9"]);
        assert_eq!(choose(None, None, Some(1), &["a", "b"]), ["b"]);
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

    #[test]
    fn a_rule_is_described_as_it_was_written() {
        let all = selection(Some(">=7"), Some("a|b"), Some(2));
        assert_eq!(describe(&all), "semver \">=7\", match \"a|b\", newest 2");
    }

    fn tag() -> impl Strategy<Value = String> {
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

        #[test]
        fn the_newest_are_a_prefix_of_all_that_fit(tags in prop::collection::vec(tag(), 0..30), count in 1_usize..5) {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let all = choose(Some(">=1"), None, None, &tags);
            let newest = choose(Some(">=1"), None, Some(count), &tags);
            prop_assert_eq!(&newest[..], &all[..count.min(all.len())]);
            prop_assert!(all.windows(2).all(|pair| newer(pair[0], pair[1]).is_gt()));
            let mut reversed = tags.clone();
            reversed.reverse();
            prop_assert_eq!(choose(Some(">=1"), None, Some(count), &reversed), newest);
        }

        #[test]
        fn any_text_is_judged(text in ".{0,40}") {
            newer(&text, "1.0");
            version(&text);
        }
    }
}
