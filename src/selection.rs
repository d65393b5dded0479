//! Choosing among a repository's tags by a rule of the images file: `semver`, `match`, `newest`.
//!
//! Pure: tags in, tags out. A [`CompiledRule`] is a [`TagRule`] ready for use; a [`Chooser`]
//! applies one to a list of any length while the list arrives.
//!
//! A tag is taken for a version as regsync and Renovate do: with or without a leading `v`, and with
//! one, two or three numbers, the missing ones being zero (`7.2` is 7.2.0). A text behind a hyphen
//! is a pre-release, so that `7.2-alpine` fits no range that does not name one (the rule of Cargo
//! and npm). A text behind an underscore is a build, which no range looks at: `_` stands for the
//! `+` that no tag can have, as Helm writes it. Numbers may have leading zeros, as in `24.04`.
//!
//! `newest` has an order for all tags, versions or not (`order.rs`). A group `order` in `match`
//! says what counts first.

mod newer;
mod order;

use std::cmp::Reverse;

use semver::{BuildMetadata, Prerelease, Version, VersionReq};

pub(crate) use self::newer::{NewerTags, most_alike};
use self::order::{Rank, without_v};
use crate::state::TagRule;

/// The group of a pattern that says by what tags are ordered.
const ORDER: &str = "order";
/// The most tags that one selection may choose.
pub(crate) const MAX_CHOSEN: usize = 1000;

/// A rule, ready for use.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    semver: Vec<VersionReq>,
    matching: Option<regex::Regex>,
    /// True if the pattern says by what tags are ordered.
    orders: bool,
    newest: Option<usize>,
}

impl CompiledRule {
    /// Compiles `rule`.
    ///
    /// # Errors
    /// A range or a pattern that is none: no images file has one.
    pub(crate) fn new(rule: &TagRule) -> Result<Self, String> {
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

    /// The number of tags that are chosen at most.
    pub(crate) fn newest(&self) -> Option<usize> {
        self.newest
    }

    /// True if `tag` is in one of the ranges and matches the pattern.
    pub(crate) fn fits(&self, tag: &str) -> bool {
        let in_range =
            || version(tag).is_some_and(|version| self.semver.iter().any(|range| range.matches(&version)));
        self.matching.as_ref().is_none_or(|pattern| pattern.is_match(tag))
            && (self.semver.is_empty() || in_range())
    }

    /// True if this rule may have chosen `tags`: they all fit, and are not too many.
    pub(crate) fn allows<'t>(&self, tags: impl IntoIterator<Item = &'t str>) -> bool {
        let mut count = 0;
        let fit = tags.into_iter().inspect(|_| count += 1).all(|tag| self.fits(tag));
        fit && count <= self.newest.unwrap_or(MAX_CHOSEN)
    }

    /// Chooses the tags that fit, newest first, each once, and no more of them than `newest` says.
    pub(crate) fn choose<'t>(&self, tags: impl IntoIterator<Item = &'t str>) -> Vec<&'t str> {
        let mut chosen: Vec<&str> = tags.into_iter().filter(|tag| self.fits(tag)).collect();
        chosen.sort_by_cached_key(|tag| Reverse((self.order(tag), Rank::of(tag))));
        chosen.dedup();
        chosen.truncate(self.newest.unwrap_or(usize::MAX));
        chosen
    }

    /// Begins a choice from tags that are told one by one.
    pub(crate) fn chooser(self) -> Chooser {
        let most = self.newest.unwrap_or(usize::MAX).min(MAX_CHOSEN + 1);
        Chooser { rule: self, most, told: 0, fitting: 0, kept: Vec::new() }
    }

    /// Ranks `tag` by what the pattern's group matches in it; a tag in which the group matches
    /// nothing is older than all others.
    fn order<'t>(&self, tag: &'t str) -> Option<Rank<'t>> {
        let pattern = self.matching.as_ref().filter(|_| self.orders)?;
        Some(Rank::of(pattern.captures(tag)?.name(ORDER)?.as_str()))
    }
}

/// A choice under way. Of a list of any length the chooser keeps no more tags than may be chosen,
/// and a few.
#[derive(Debug)]
pub(crate) struct Chooser {
    rule: CompiledRule,
    /// The number of tags that may be chosen, and one more where that would be too many.
    most: usize,
    told: usize,
    fitting: usize,
    kept: Vec<String>,
}

/// The outcome of a choice from a list of tags.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The chosen tags, newest first: not all of them where there are more than [`MAX_CHOSEN`].
    pub tags: Vec<String>,
    /// The number of tags that were chosen.
    pub count: usize,
    /// The number of tags that the list had.
    pub of: usize,
}

impl Chooser {
    /// The number of tags that wait at most until the older ones among them are dropped.
    const WAITING: usize = 1024;

    /// Considers `tag`, and tells whether the rule allows it.
    pub(crate) fn add(&mut self, tag: &str) -> bool {
        self.told += 1;
        if !self.rule.fits(tag) {
            return false;
        }
        self.fitting += 1;
        self.kept.push(tag.to_owned());
        if self.kept.len() >= self.most + Self::WAITING {
            self.settle();
        }
        true
    }

    /// Chooses from all tags that were told.
    pub(crate) fn finish(mut self) -> Chosen {
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
        self.kept.sort_by(|a, b| (rule.order(b), Rank::of(b)).cmp(&(rule.order(a), Rank::of(a))));
        self.kept.dedup();
        self.kept.truncate(self.most);
    }
}

/// Writes a rule as the images file says it, for people.
pub(crate) fn describe(rule: &TagRule) -> String {
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

/// Tells whether `tag` is a version.
pub(crate) fn is_version(tag: &str) -> bool {
    version(tag).is_some()
}

/// Takes `tag` for a version, if it is one.
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

    use super::order::tests::{newer, tag};
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

    proptest! {
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
