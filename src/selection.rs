//! Which of a repository's tags a selection means: `semver`, `match` and `newest` of the images file.
//!
//! Pure: tags in, tags out. A tag is taken for a version as regsync and Renovate do: with or without a leading
//! `v`, and with one, two or three numbers, the missing ones being zero (`7.2` is 7.2.0). What follows a hyphen is a
//! pre-release, so that `7.2-alpine` fits no range that does not name one (the rule of Cargo and npm). What follows an
//! underscore is a build, which no range looks at: `_` stands for the `+` that no tag can have, as Helm writes it. Numbers
//! may have leading zeros, as in `24.04`.
//!
//! `newest` has an order for all tags, versions or not; see [`newer`]. A group `order` in `match` says what counts first.

use std::cmp::{Ordering, Reverse};

use semver::{BuildMetadata, Prerelease, Version, VersionReq};

use crate::state::TagRule;

/// The group of a pattern that says what orders.
const ORDER: &str = "order";
/// Most tags that one selection may choose.
pub const MAX_CHOSEN: usize = 1000;

/// A selection's rule, ready for use.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    semver: Vec<VersionReq>,
    matching: Option<regex::Regex>,
    /// Whether the pattern says what orders.
    orders: bool,
    newest: Option<usize>,
}

impl CompiledRule {
    /// Compiles `rule`.
    ///
    /// # Errors
    /// A range or a pattern that is none: no images file has one.
    pub fn new(rule: &TagRule) -> Result<Self, String> {
        let semver = rule.semver.iter().map(|range| VersionReq::parse(range)).collect::<Result<_, _>>();
        let matching = rule.matching.as_deref().map(regex::Regex::new).transpose();
        let matching = matching.map_err(|error| error.to_string())?;
        let named = |pattern: &regex::Regex| pattern.capture_names().flatten().any(|name| name == ORDER);
        Ok(Self {
            semver: semver.map_err(|error| error.to_string())?,
            orders: matching.as_ref().is_some_and(named),
            matching,
            newest: rule.newest.map(Into::into),
        })
    }

    /// How many tags are chosen at most.
    pub fn newest(&self) -> Option<usize> {
        self.newest
    }

    /// Whether `tag` is in one of the ranges and matches the pattern.
    pub fn fits(&self, tag: &str) -> bool {
        let in_range =
            || version(tag).is_some_and(|version| self.semver.iter().any(|range| range.matches(&version)));
        self.matching.as_ref().is_none_or(|pattern| pattern.is_match(tag))
            && (self.semver.is_empty() || in_range())
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
        chosen.sort_by_cached_key(|tag| Reverse((self.order(tag), Key::of(tag))));
        chosen.dedup();
        chosen.truncate(self.newest.unwrap_or(usize::MAX));
        chosen
    }

    /// Begins a choice from tags that are told one by one.
    pub fn chooser(self) -> Chooser {
        let most = self.newest.unwrap_or(usize::MAX).min(MAX_CHOSEN + 1);
        Chooser { rule: self, most, told: 0, fitting: 0, kept: Vec::new() }
    }

    /// What the pattern's group says that `tag` is ordered by; a tag in which the group matches nothing is older than all
    /// others.
    fn order<'t>(&self, tag: &'t str) -> Option<Key<'t>> {
        let pattern = self.matching.as_ref().filter(|_| self.orders)?;
        Some(Key::of(pattern.captures(tag)?.name(ORDER)?.as_str()))
    }
}

/// A choice under way. Of a list of any length it keeps no more tags than may be chosen, and a few.
#[derive(Debug)]
pub struct Chooser {
    rule: CompiledRule,
    /// Tags that may be chosen, and one more where that would be too many.
    most: usize,
    told: usize,
    fitting: usize,
    kept: Vec<String>,
}

/// What was chosen from a list of tags.
#[derive(Debug)]
pub struct Chosen {
    /// The chosen tags, newest first: not all of them where there are more than [`MAX_CHOSEN`].
    pub tags: Vec<String>,
    /// How many were chosen.
    pub count: usize,
    /// How many tags there were.
    pub of: usize,
}

impl Chooser {
    /// How many tags wait at most until the older ones among them are dropped.
    const WAITING: usize = 1024;

    /// Considers `tag`.
    pub fn add(&mut self, tag: &str) {
        self.told += 1;
        if !self.rule.fits(tag) {
            return;
        }
        self.fitting += 1;
        self.kept.push(tag.to_owned());
        if self.kept.len() >= self.most + Self::WAITING {
            self.settle();
        }
    }

    /// The choice from all tags that were told.
    pub fn finish(mut self) -> Chosen {
        self.settle();
        // A tag that was told twice counts once, as long as all that fit are here to be compared.
        let count = if self.kept.len() > MAX_CHOSEN {
            self.fitting.min(self.rule.newest.unwrap_or(usize::MAX))
        } else {
            self.kept.len()
        };
        Chosen { tags: self.kept, count, of: self.told }
    }

    fn settle(&mut self) {
        let rule = &self.rule;
        // Keys of all of them at once would be larger than the tags.
        self.kept.sort_by(|a, b| (rule.order(b), Key::of(b)).cmp(&(rule.order(a), Key::of(a))));
        self.kept.dedup();
        self.kept.truncate(self.most);
    }
}

/// A selection's rule as the images file says it, for people.
pub fn describe(rule: &TagRule) -> String {
    let mut parts = Vec::new();
    if !rule.semver.is_empty() {
        parts.push(format!("semver \"{}\"", rule.semver.join(" || ")));
    }
    if let Some(pattern) = &rule.matching {
        // The anchors are the images file's own addition.
        let pattern =
            pattern.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(pattern);
        parts.push(format!("match \"{pattern}\""));
    }
    if let Some(newest) = rule.newest {
        parts.push(format!("newest {newest}"));
    }
    parts.join(", ")
}

/// Which of two tags is the newer one: a total order, in which only equal tags are equal.
///
/// Tags that begin with a number (after an optional `v`) are newer than all others. Of those the leading dotted
/// numbers count first, as numbers and with missing ones as zero; then a tag with nothing behind them is newer than
/// one with a suffix, as with pre-releases; then the suffixes, digits in them as numbers; then what follows an
/// underscore, which is a build: newer than none. Of equal versions the one with more parts is newer, since it moves
/// less: `7.2.0` before `7.2`.
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
    /// What follows an underscore.
    build: Option<Vec<Chunk<'t>>>,
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
        let (suffix, build) =
            rest.split_once('_').map_or((rest, None), |(suffix, build)| (suffix, Some(build)));
        let (bare, build) = (suffix.is_empty(), build.map(chunks));
        Self { is_version, numbers, bare, suffix: chunks(suffix), build, tag }
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
    let (text, build) = text.split_once('_').map_or((text, None), |(text, build)| (text, Some(build)));
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
    let build = match build {
        Some("") => return None,
        Some(build) => BuildMetadata::new(build).ok()?,
        None => BuildMetadata::EMPTY,
    };
    Some(Version { major, minor, patch, pre, build })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    fn rule(semver: Option<&str>, matching: Option<&str>, newest: Option<usize>) -> TagRule {
        TagRule {
            semver: semver.map(|ranges| ranges.split("||").map(str::to_owned).collect()).unwrap_or_default(),
            matching: matching.map(|pattern| format!("^(?:{pattern})$")),
            newest: newest.and_then(NonZeroUsize::new),
        }
    }

    fn choose<'t>(
        semver: Option<&str>,
        matching: Option<&str>,
        newest: Option<usize>,
        tags: &[&'t str],
    ) -> Vec<&'t str> {
        CompiledRule::new(&rule(semver, matching, newest)).unwrap().choose(tags.iter().copied())
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
    fn a_version_may_be_in_any_of_several_ranges() {
        assert_eq!(choose(Some("~7.2||^8"), None, None, REDIS), ["8.0.0", "7.2.4", "7.2"]);
    }

    #[test]
    fn what_follows_an_underscore_is_a_build() {
        let tags = ["1.2.3_9", "1.2.3_10", "1.2.3", "1.2.3-rc1_5", "1.2.2_99", "1.2.3_a_b", "1.2.3_"];
        let chosen = ["1.2.3_10", "1.2.3_9", "1.2.3", "1.2.2_99"];
        assert_eq!(choose(Some(">=1.2"), None, None, &tags), chosen);
        assert_eq!(choose(Some("=1.2.3"), None, Some(1), &tags), ["1.2.3_10"]);
    }

    #[test]
    fn a_group_says_what_orders() {
        let tags = ["main-fffffff-1700000000", "main-0000000-1800000000", "main-1234567-900000000", "main-x"];
        let pattern = "main-[0-9a-f]+-(?P<order>[0-9]+)";
        assert_eq!(choose(None, Some(pattern), Some(1), &tags), ["main-0000000-1800000000"]);
        let oldest_last = ["main-0000000-1800000000", "main-fffffff-1700000000", "main-1234567-900000000"];
        assert_eq!(choose(None, Some("main-[0-9a-f]+-(?<order>[0-9]+)"), None, &tags), oldest_last);
        // Where it matches nothing, it says nothing; of equals the whole tags count.
        let optional = "main-[0-9a-fx]+(-(?P<order>[0-9]+))?";
        assert_eq!(choose(None, Some(optional), None, &tags)[3], "main-x");
        assert_eq!(choose(None, Some("(?P<order>a)[0-9]+"), Some(2), &["a9", "a10", "a8"]), ["a10", "a9"]);
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
        let all = rule(Some(">=7"), Some("a|b"), Some(2));
        assert_eq!(describe(&all), "semver \">=7\", match \"a|b\", newest 2");
    }

    #[test]
    fn a_choice_from_a_long_list_keeps_a_few_tags() {
        for (newest, kept, count) in
            [(Some(2), 2, 2), (None, MAX_CHOSEN + 1, 50_000), (Some(3000), 1001, 3000)]
        {
            let mut chooser = CompiledRule::new(&rule(Some(">=1"), None, newest)).unwrap().chooser();
            for number in 0..50_000 {
                chooser.add(&format!("1.{}", (number * 7919) % 50_000));
                chooser.add("latest");
                assert!(chooser.kept.len() <= 2 * MAX_CHOSEN + 50);
            }
            let chosen = chooser.finish();
            assert_eq!((chosen.tags.len(), chosen.count, chosen.of), (kept, count, 100_000));
            assert_eq!(chosen.tags[..2], ["1.49999", "1.49998"]);
        }
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
        fn tags_told_one_by_one_are_chosen_as_from_a_list(tags in prop::collection::vec(tag(), 0..30), count in 1_usize..5) {
            let rule = CompiledRule::new(&rule(Some(">=1"), None, Some(count))).unwrap();
            let all = rule.choose(tags.iter().map(String::as_str));
            let mut chooser = rule.clone().chooser();
            for tag in &tags {
                chooser.add(tag);
            }
            let chosen = chooser.finish();
            prop_assert_eq!((chosen.count, chosen.of), (all.len(), tags.len()));
            prop_assert_eq!(chosen.tags, all);
        }

        #[test]
        fn any_text_is_judged(text in ".{0,40}") {
            newer(&text, "1.0");
            version(&text);
        }
    }
}
