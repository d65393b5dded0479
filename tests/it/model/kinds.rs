//! The things that the model is made of, and how new digests and new tags wait.

use std::collections::{BTreeMap, BTreeSet};

/// The layers of each image, base first.
pub(super) const IMAGES: &[&[usize]] =
    &[&[0], &[0, 1], &[1, 0], &[2, 3], &[0, 2, 4], &[5], &[3, 1], &[4, 5, 0, 1]];
pub(super) const TAGS: &[&str] = &["app:a", "app:b", "app:c", "web:1.0", "web:1.1", "web:1.2", "web:2.0"];
/// The hours for which a new digest waits, where an entry has a cooldown.
pub(super) const COOLDOWN: u32 = 2;
/// The hours for which what is staged is spared.
pub(super) const STAGED_FOR: u32 = 14 * 24;
/// The owner that is no images file.
pub(super) const PULL: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Always,
    Missing,
    Never,
}

/// A layer's directory. One that was edited looks whole to all but `verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Whole,
    Edited,
    Unrecorded,
}

/// `semver = ">=1, <BELOW"`, `newest = N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) below: u32,
    pub(super) newest: usize,
}

/// A selection of the tags of `web`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) rule: Rule,
    /// It has a cooldown.
    pub(super) cools: bool,
}

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) names: BTreeSet<&'static str>,
    /// Those of `names` that have a cooldown.
    pub(super) cooling: BTreeSet<&'static str>,
    pub(super) selection: Option<Selection>,
    pub(super) policy: Policy,
    /// `keep = N`.
    pub(super) keep: usize,
}

/// The image that a tag was first seen to mean at some hour, and that is not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) image: usize,
    since: u32,
}

pub(super) type Notes = BTreeMap<&'static str, Note>;

/// What registries say that tags mean.
pub(super) type Tags = BTreeMap<&'static str, usize>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) images: BTreeMap<&'static str, usize>,
    pub(super) selection: Option<(Rule, Vec<&'static str>)>,
    pub(super) notes: Notes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) image: usize,
    /// What it was before, oldest first.
    pub(super) past: Vec<usize>,
    pub(super) held: bool,
    /// The owners, each with the number of earlier images that he keeps.
    pub(super) owners: BTreeMap<usize, usize>,
}

/// An image that is ready to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) image: usize,
    pub(super) since: u32,
}

/// How a step ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// Everything went well.
    pub(super) well: bool,
    /// The images whose removal waits.
    pub(super) waiting: BTreeSet<&'static str>,
}

impl Ended {
    pub(super) fn of(well: bool) -> Self {
        Self { well, waiting: BTreeSet::new() }
    }
}

impl Rule {
    pub(super) fn choose<'n>(self, names: impl IntoIterator<Item = &'n &'static str>) -> Vec<&'static str> {
        let version = |name: &str| -> Option<(u32, u32)> {
            let (major, minor) = name.strip_prefix("web:")?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let mut found: Vec<&'static str> = names
            .into_iter()
            .copied()
            .filter(|name| version(name).is_some_and(|(major, _)| major < self.below))
            .collect();
        found.sort_by_key(|name| std::cmp::Reverse(version(name)));
        found.truncate(self.newest);
        found
    }

    pub(super) fn fits(self, name: &&'static str) -> bool {
        !self.choose([name]).is_empty()
    }
}

impl File {
    pub(super) fn of(policy: Policy) -> Self {
        Self { names: BTreeSet::new(), cooling: BTreeSet::new(), selection: None, policy, keep: 0 }
    }

    /// The hours for which another digest of a tag waits.
    pub(super) fn cooldown(&self, name: &str) -> u32 {
        let cools = if self.names.contains(name) {
            self.cooling.contains(name)
        } else {
            self.selection.is_some_and(|selection| selection.cools)
        };
        if cools { COOLDOWN } else { 0 }
    }
}

impl Row {
    /// The other images that it was, the latest first.
    pub(super) fn earlier(&self) -> Vec<usize> {
        let mut seen = BTreeSet::from([self.image]);
        self.past.iter().rev().copied().filter(|image| seen.insert(*image)).collect()
    }

    /// Those that stay for a way back, where an owner wants so many by now.
    pub(super) fn kept(&self, by_now: Option<(usize, usize)>) -> impl Iterator<Item = usize> {
        let count = |(owner, count): (&usize, &usize)| match by_now {
            Some((keeping, by_now)) if keeping == *owner => by_now,
            _ => *count,
        };
        self.earlier().into_iter().take(self.owners.iter().map(count).max().unwrap_or(0))
    }
}

/// The note for a tag that is seen to mean `means`.
fn note(notes: &Notes, name: &str, means: usize, now: u32) -> Note {
    let noted = notes.get(name).copied().filter(|note| note.image == means);
    noted.unwrap_or(Note { image: means, since: now })
}

/// What is taken where `here` is known of the tag `name`, which is seen to mean `means`.
pub(super) fn take(
    notes: &mut Notes,
    (name, here): (&'static str, usize),
    means: usize,
    (now, cooldown): (u32, u32),
) -> usize {
    if means == here {
        notes.remove(name);
        return here;
    }
    let note = note(notes, name, means, now);
    if now - note.since >= cooldown {
        return means;
    }
    notes.insert(name, note);
    here
}

/// What a selection with a cooldown chooses where some tags were `taken` before, and others are `listed` by name, with
/// the notes of those that it would choose, were they not new.
pub(super) fn choose_cooled(
    rule: Rule,
    tags: &Tags,
    (taken, listed): (&BTreeSet<&'static str>, &BTreeSet<&'static str>),
    notes: &Notes,
    (now, at_once): (u32, Option<&'static str>),
) -> (Vec<&'static str>, Notes) {
    let first = rule.choose(tags.keys());
    let taken: BTreeSet<&'static str> = taken.iter().copied().filter(|name| rule.fits(name)).collect();
    // A first choice takes what there is; and without a list nothing is chosen.
    if taken.is_empty() || first.is_empty() {
        return (first, Notes::new());
    }
    let (mut admitted, mut waiting) = (Vec::new(), Notes::new());
    for (&name, &means) in tags.iter().filter(|(name, _)| rule.fits(name)) {
        let noted = notes.get(name).copied();
        let is_due = noted.is_some_and(|note| now - note.since >= COOLDOWN);
        if taken.contains(name) || listed.contains(name) || at_once == Some(name) {
            admitted.push(name);
        } else if first.contains(&name) || is_due {
            let note = note(notes, name, means, now);
            if now - note.since >= COOLDOWN {
                admitted.push(name);
            } else {
                waiting.insert(name, note);
            }
        } else {
            // Nobody looks at what is not among the newest.
            waiting.extend(noted.map(|noted| (name, noted)));
        }
    }
    let chosen = if admitted.is_empty() { rule.choose(&taken) } else { rule.choose(&admitted) };
    waiting.retain(|name, _| rule.choose(chosen.iter().chain([name])).contains(name));
    (chosen, waiting)
}
