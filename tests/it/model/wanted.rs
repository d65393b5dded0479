//! What ought to be: the images files, the registry's tags and the damage as they are, and what each step makes of
//! catalog, store and lockfiles. It knows nothing of plans, digests or rows.

use std::collections::{BTreeMap, BTreeSet};

/// The layers of each image, base first.
pub(super) const IMAGES: &[&[usize]] =
    &[&[0], &[0, 1], &[1, 0], &[2, 3], &[0, 2, 4], &[5], &[3, 1], &[4, 5, 0, 1]];
pub(super) const TAGS: &[&str] = &["app:a", "app:b", "app:c", "web:1.0", "web:1.1", "web:1.2", "web:2.0"];
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

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) names: BTreeSet<&'static str>,
    pub(super) selection: Option<Rule>,
    pub(super) policy: Policy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) images: BTreeMap<&'static str, usize>,
    pub(super) selection: Option<(Rule, Vec<&'static str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) image: usize,
    pub(super) owners: BTreeSet<usize>,
}

/// What is wanted, and what there is.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) up: bool,
    pub(super) tags: BTreeMap<&'static str, usize>,
    pub(super) files: [File; 2],
    pub(super) locks: [Option<Locked>; 2],
    pub(super) rows: BTreeMap<&'static str, Row>,
    pub(super) disk: BTreeMap<usize, Disk>,
}

impl Rule {
    pub(super) fn choose<'n>(self, names: impl Iterator<Item = &'n &'static str>) -> Vec<&'static str> {
        let version = |name: &str| -> Option<(u32, u32)> {
            let (major, minor) = name.strip_prefix("web:")?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let mut found: Vec<&'static str> = names
            .copied()
            .filter(|name| version(name).is_some_and(|(major, _)| major < self.below))
            .collect();
        found.sort_by_key(|name| std::cmp::Reverse(version(name)));
        found.truncate(self.newest);
        found
    }
}

impl Model {
    /// The images that file `f` means, with what the lockfile says of them; whether nobody knows which tags its
    /// selection would choose; and whether that is a failure.
    pub(super) fn wanted(
        &self,
        f: usize,
        offline: bool,
    ) -> (BTreeMap<&'static str, Option<usize>>, bool, bool) {
        let (file, lock) = (&self.files[f], &self.locks[f]);
        let locked = |name: &&'static str| lock.as_ref().and_then(|lock| lock.images.get(name).copied());
        let mut wanted: BTreeMap<_, _> = file.names.iter().map(|name| (*name, locked(name))).collect();
        let Some(rule) = file.selection else { return (wanted, false, false) };
        if let Some((_, tags)) =
            lock.as_ref().and_then(|lock| lock.selection.as_ref()).filter(|(of, _)| *of == rule)
        {
            wanted.extend(tags.iter().map(|name| (*name, locked(name))));
            return (wanted, false, false);
        }
        let here = rule.choose(self.rows.keys());
        let blind = file.policy == Policy::Never || offline;
        let chosen = if blind || (file.policy == Policy::Missing && here.len() >= rule.newest) {
            (here, true)
        } else if self.up {
            (rule.choose(self.tags.keys()), false)
        } else {
            (Vec::new(), true)
        };
        let blocked = chosen.0.is_empty();
        for name in chosen.0 {
            wanted.entry(name).or_insert(None);
        }
        (wanted, chosen.1 || blocked, blocked)
    }

    /// Whether file `f` lists nothing at all.
    fn is_empty(&self, f: usize) -> bool {
        self.files[f].names.is_empty() && self.files[f].selection.is_none()
    }

    /// Whether everything went well.
    pub(super) fn apply(&mut self, f: usize, prune: bool, allow_empty: bool, offline: bool) -> bool {
        if prune && !allow_empty && self.is_empty(f) {
            return false;
        }
        let (wanted, held, blocked) = self.wanted(f, offline);
        let (done, mut leaving) = self.bring(f, &wanted, self.files[f].policy, offline);
        // Removals wait for everything that is wanted.
        if prune && done && !blocked {
            leaving.extend(
                self.forget_unlisted(f, |name| {
                    wanted.contains_key(name) || (held && name.starts_with("web:"))
                }),
            );
            self.drop_layers(&leaving);
        }
        done && !blocked
    }

    /// Records what can be had for `owner`; the layers of what that replaced.
    pub(super) fn bring(
        &mut self,
        owner: usize,
        wanted: &BTreeMap<&'static str, Option<usize>>,
        policy: Policy,
        offline: bool,
    ) -> (bool, BTreeSet<usize>) {
        let (mut done, mut leaving) = (true, BTreeSet::new());
        let here = self.disk.clone();
        for (&name, locked) in wanted {
            let row = self.rows.get(name).map(|row| row.image);
            let asked = if offline || !self.up { None } else { self.tags.get(name).copied() };
            let meant = match (locked, policy) {
                (Some(image), _) if row == Some(*image) => row,
                (Some(image), _) => Some(*image).filter(|_| policy != Policy::Never && !offline && self.up),
                (None, Policy::Always) if !offline => asked,
                (None, Policy::Never) => row,
                (None, _) => row.or(asked),
            };
            let looks_whole = |layer: &usize| matches!(here.get(layer), Some(Disk::Whole | Disk::Edited));
            let Some(image) = meant.filter(|image| {
                let may_fetch = policy != Policy::Never && !offline && self.up;
                may_fetch || IMAGES[*image].iter().all(looks_whole)
            }) else {
                done = false;
                continue;
            };
            for layer in IMAGES[image].iter().filter(|layer| !looks_whole(layer)) {
                self.disk.insert(*layer, Disk::Whole);
            }
            if let Some(old) = row.filter(|old| *old != image) {
                leaving.extend(IMAGES[old]);
            }
            let row = self.rows.entry(name).or_insert_with(|| Row { image, owners: BTreeSet::new() });
            row.image = image;
            row.owners.insert(owner);
        }
        (done, leaving)
    }

    /// Takes `owner` off what is not listed; the layers of what nobody owns then.
    pub(super) fn forget_unlisted(&mut self, owner: usize, listed: impl Fn(&str) -> bool) -> BTreeSet<usize> {
        let mut leaving = BTreeSet::new();
        self.rows.retain(|name, row| {
            let gives_up = row.owners.contains(&owner) && !listed(name);
            if gives_up {
                row.owners.remove(&owner);
            }
            let stays = !row.owners.is_empty();
            if !stays {
                leaving.extend(IMAGES[row.image]);
            }
            stays
        });
        leaving
    }

    pub(super) fn drop_layers(&mut self, candidates: &BTreeSet<usize>) {
        let needed: BTreeSet<usize> = self.rows.values().flat_map(|row| IMAGES[row.image]).copied().collect();
        self.disk.retain(|layer, _| needed.contains(layer) || !candidates.contains(layer));
    }

    pub(super) fn prune(&mut self, f: usize, allow_empty: bool) -> bool {
        if !allow_empty && self.is_empty(f) {
            return false;
        }
        if self.rows.is_empty() && self.disk.is_empty() {
            return true;
        }
        let file = self.files[f].clone();
        let chosen = self.locks[f].as_ref().and_then(|lock| lock.selection.clone());
        let chosen = chosen.filter(|(rule, _)| Some(*rule) == file.selection).map(|(_, tags)| tags);
        // What is listed and not here: what would be removed may be all that there is of it.
        let wanted = file.names.iter().chain(chosen.iter().flatten());
        let absent = wanted.into_iter().any(|name| !self.rows.contains_key(name));
        let owned = self.rows.iter().filter(|(_, row)| row.owners.contains(&f)).map(|(name, _)| name);
        let unknown = chosen.is_none() && file.selection.is_some_and(|rule| rule.choose(owned).is_empty());
        let waits = absent || unknown;
        let mut leaving = self.forget_unlisted(f, |name| {
            waits
                || file.names.contains(name)
                || match &chosen {
                    Some(tags) => tags.contains(&name),
                    None => file.selection.is_some() && name.starts_with("web:"),
                }
        });
        leaving
            .extend(self.disk.iter().filter(|(_, disk)| **disk != Disk::Unrecorded).map(|(layer, _)| *layer));
        self.drop_layers(&leaving);
        true
    }

    pub(super) fn remove(&mut self, name: &'static str) -> bool {
        let Some(row) = self.rows.remove(name) else { return false };
        self.drop_layers(&IMAGES[row.image].iter().copied().collect());
        true
    }

    pub(super) fn repair(&mut self) -> bool {
        let needed: BTreeSet<usize> = self.rows.values().flat_map(|row| IMAGES[row.image]).copied().collect();
        let damaged = needed.iter().filter(|layer| self.disk.get(layer) != Some(&Disk::Whole));
        let damaged: Vec<usize> = damaged.copied().collect();
        if self.up {
            self.disk.extend(damaged.iter().map(|layer| (*layer, Disk::Whole)));
        }
        self.up || damaged.is_empty()
    }

    pub(super) fn lock(&mut self, f: usize, upgrade: bool) -> bool {
        let file = &self.files[f];
        let old = self.locks[f].clone().filter(|_| !upgrade);
        let known = |name: &&'static str| old.as_ref().and_then(|old| old.images.get(name).copied());
        let mut names: BTreeSet<&'static str> = file.names.clone();
        let mut selection = None;
        if let Some(rule) = file.selection {
            let kept = old.as_ref().and_then(|old| old.selection.clone()).filter(|(of, _)| *of == rule);
            let fresh = if self.up { rule.choose(self.tags.keys()) } else { Vec::new() };
            let (_, tags) = kept.unwrap_or((rule, fresh));
            if tags.is_empty() {
                return false;
            }
            names.extend(&tags);
            selection = Some((rule, tags));
        }
        let asked = |name: &&'static str| self.tags.get(name).copied().filter(|_| self.up);
        let images: Option<BTreeMap<&'static str, usize>> =
            names.iter().map(|name| Some((*name, known(name).or_else(|| asked(name))?))).collect();
        let Some(images) = images else { return false };
        self.locks[f] = Some(Locked { images, selection });
        true
    }

    /// What `--locked` demands.
    pub(super) fn is_covered(&self, f: usize) -> bool {
        let Some(lock) = &self.locks[f] else { return false };
        let rule = lock.selection.as_ref().map(|(rule, _)| *rule);
        let chosen = lock.selection.iter().flat_map(|(_, tags)| tags);
        let names: BTreeSet<&str> = self.files[f].names.iter().chain(chosen).copied().collect();
        rule == self.files[f].selection && names == lock.images.keys().copied().collect()
    }
}
