//! The tags that are newer than one that is listed: later versions of the same kind.
//!
//! A range of the images file would not do: `7.2-alpine` is a pre-release by its rules, and what is
//! newer for whoever lists it is `7.4-alpine`, and neither `7.4` nor `8.0-rc1`. A version of one or
//! two numbers stands for all that begin with them, as in ranges: `7.2.4` is no news beside `7.2`.

use std::cmp::Ordering;

use semver::Version;

use super::order::{Rank, without_v};
use super::version;

/// The newer tags that are kept of one repository.
const MAX_NEWER: usize = 1000;

/// The words of pre-releases; any other suffix names a variant, such as `-alpine`.
const PRERELEASES: &[&str] =
    &["alpha", "beta", "canary", "dev", "ea", "nightly", "pre", "preview", "rc", "snapshot"];

/// The newer tags of one that is listed, gathered while the list of tags arrives.
#[derive(Debug)]
pub(crate) struct NewerTags {
    listed: String,
    version: Version,
    kept: Vec<String>,
}

impl NewerTags {
    /// Begins to gather what is newer than `listed`; `None` if that is no version.
    pub(crate) fn than(listed: &str) -> Option<Self> {
        Some(Self { listed: listed.to_owned(), version: version(listed)?, kept: Vec::new() })
    }

    /// Considers `tag`.
    pub(crate) fn add(&mut self, tag: &str) {
        if self.is_newer(tag) {
            self.kept.push(tag.to_owned());
            if self.kept.len() >= 2 * MAX_NEWER {
                self.settle();
            }
        }
    }

    /// Returns the newer tags, newest first.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.settle();
        self.kept
    }

    fn settle(&mut self) {
        self.kept.sort_by(|a, b| Rank::of(b).cmp(&Rank::of(a)));
        self.kept.dedup();
        self.kept.truncate(MAX_NEWER);
    }

    fn is_newer(&self, tag: &str) -> bool {
        let (old, Some(new)) = (&self.version, version(tag)) else { return false };
        let (old_suffix, new_suffix) = (old.pre.as_str(), new.pre.as_str());
        let numbers = |version: &Version| [version.major, version.minor, version.patch];
        if is_prerelease(old_suffix) && (new_suffix.is_empty() || is_prerelease(new_suffix)) {
            // A pre-release is followed by the next one, or by the release.
            return (new.major, new.minor, new.patch, &new.pre) > (old.major, old.minor, old.patch, &old.pre);
        }
        if is_prerelease(new_suffix) || variant(old_suffix) != variant(new_suffix) {
            return false;
        }
        let parts = precision(&self.listed);
        match numbers(&new)[..parts].cmp(&numbers(old)[..parts]) {
            Ordering::Less => false,
            Ordering::Greater => true,
            // The same version, built again or on a newer base.
            Ordering::Equal => {
                precision(tag) == parts
                    && (new.pre != old.pre || new.build != old.build && !old.build.is_empty())
                    && Rank::of(tag) > Rank::of(&self.listed)
            }
        }
    }
}

/// Finds the newest of `newer` that is written with as many numbers as `listed`, else the newest.
pub(crate) fn most_alike<'t>(listed: &str, newer: &'t [String]) -> Option<&'t String> {
    newer.iter().find(|tag| precision(tag) == precision(listed)).or(newer.first())
}

/// Counts the numbers that a version is written with: one, two or three.
fn precision(tag: &str) -> usize {
    let core = without_v(tag).split(['-', '_']).next().unwrap_or_default();
    core.split('.').count().clamp(1, 3)
}

fn is_prerelease(suffix: &str) -> bool {
    let word = suffix.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
    let first: String = word.chars().take_while(char::is_ascii_alphabetic).collect();
    PRERELEASES.contains(&first.to_ascii_lowercase().as_str())
}

/// The suffix without its numbers: `alpine3.18` and `alpine3.19` are one variant.
fn variant(suffix: &str) -> String {
    suffix.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::tests::tag;
    use super::*;

    fn newer(listed: &str, tags: &[&str]) -> Vec<String> {
        let mut newer = NewerTags::than(listed).unwrap();
        for tag in tags {
            newer.add(tag);
        }
        newer.finish()
    }

    #[test]
    fn later_versions_of_the_same_kind_are_newer() {
        let tags = [
            "latest",
            "7",
            "7.2",
            "7.2.4",
            "7.4.1",
            "v7.10.0",
            "7.4-alpine",
            "7.2-alpine",
            "7.2.5-alpine",
            "8.0-rc1",
            "8.0",
            "8.0.1",
            "8-alpine",
            "6.9",
            "7.2_1",
        ];
        for (listed, expected) in [
            ("7.2", &["8.0.1", "8.0", "v7.10.0", "7.4.1"][..]),
            ("7.2.4", &["8.0.1", "8.0", "v7.10.0", "7.4.1"]),
            ("7", &["8.0.1", "8.0"]),
            ("7.2-alpine", &["8-alpine", "7.4-alpine"]),
            ("8.0.1", &[]),
            ("8.0-rc1", &["8.0.1", "8.0"]),
        ] {
            assert_eq!(newer(listed, &tags), expected, "{listed}");
        }
        let bases =
            ["1.25.3-alpine3.18", "1.25.3-alpine3.19", "1.25.4-alpine3.17", "1.25.4-bookworm", "1.25.4"];
        assert_eq!(newer("1.25.3-alpine3.18", &bases), ["1.25.4-alpine3.17", "1.25.3-alpine3.19"]);
        let builds = ["1.2.3_9", "1.2.3_10", "v1.2.3", "1.2.4"];
        assert_eq!(newer("1.2.3_9", &builds), ["1.2.4", "1.2.3_10"]);
        assert_eq!(newer("1.2.3", &builds), ["1.2.4"]);
        assert_eq!(newer("2.0.0-rc.2", &["2.0.0-rc.10", "2.0.0-rc.1", "2.0.0-beta.9"]), ["2.0.0-rc.10"]);
        assert!(NewerTags::than("latest").is_none() && NewerTags::than("stable-alpine").is_none());
    }

    #[test]
    fn the_most_alike_has_as_many_numbers() {
        let newer = ["22.1.0", "22.1", "22"].map(str::to_owned);
        assert_eq!(most_alike("20", &newer).unwrap(), "22");
        assert_eq!(most_alike("v20.1", &newer).unwrap(), "22.1");
        assert_eq!(most_alike("20", &newer[..2]).unwrap(), "22.1.0");
        assert_eq!(most_alike("20", &[]), None);
    }

    #[test]
    fn a_long_list_keeps_the_newest() {
        let mut newer = NewerTags::than("1.0").unwrap();
        for number in 0..10_000 {
            newer.add(&format!("1.{}", (number * 7919) % 10_000));
            assert!(newer.kept.len() < 2 * MAX_NEWER);
        }
        let kept = newer.finish();
        assert_eq!((kept.len(), &*kept[0], &*kept[999]), (MAX_NEWER, "1.9999", "1.9000"));
    }

    proptest! {
        #[test]
        fn no_tag_is_newer_than_itself_and_no_two_than_each_other(one in tag(), other in tag()) {
            let is_newer = |listed: &str, tag: &str| {
                NewerTags::than(listed).is_some_and(|newer| newer.is_newer(tag))
            };
            prop_assert!(!is_newer(&one, &one));
            prop_assert!(!(is_newer(&one, &other) && is_newer(&other, &one)), "{} {}", one, other);
        }
    }
}
