//! What ought to be: the images files, the registry's tags, the time and the damage as they are, and what each step
//! makes of catalog, store and lockfiles. It knows nothing of plans, digests or rows.

use std::collections::{BTreeMap, BTreeSet};

/// The layers of each image, base first.
pub(super) const IMAGES: &[&[usize]] =
    &[&[0], &[0, 1], &[1, 0], &[2, 3], &[0, 2, 4], &[5], &[3, 1], &[4, 5, 0, 1]];
pub(super) const TAGS: &[&str] = &["app:a", "app:b", "app:c", "web:1.0", "web:1.1", "web:1.2", "web:2.0"];
/// The hours for which a new digest waits, where an entry has a cooldown.
pub(super) const COOLDOWN: u32 = 2;
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
    /// Those of `names` that have a cooldown.
    pub(super) cooling: BTreeSet<&'static str>,
    pub(super) selection: Option<Rule>,
    pub(super) policy: Policy,
}

/// The image that a tag was first seen to mean at some hour, and that is not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    image: usize,
    since: u32,
}

pub(super) type Notes = BTreeMap<&'static str, Note>;

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
    /// The hours that have passed.
    pub(super) now: u32,
    pub(super) notes: Notes,
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

impl File {
    pub(super) fn of(policy: Policy) -> Self {
        Self { names: BTreeSet::new(), cooling: BTreeSet::new(), selection: None, policy }
    }

    fn cooldown(&self, name: &str) -> u32 {
        if self.cooling.contains(name) { COOLDOWN } else { 0 }
    }
}

/// What is taken where `here` is known of the tag `name`, which is seen to mean `means`.
fn take(
    notes: &mut Notes,
    (name, here): (&'static str, usize),
    means: usize,
    (now, cooldown): (u32, u32),
) -> usize {
    let noted = notes.remove(name).filter(|note| note.image == means);
    let note = noted.unwrap_or(Note { image: means, since: now });
    if means == here || now - note.since >= cooldown {
        return means;
    }
    notes.insert(name, note);
    here
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
        let (done, mut leaving) = self.bring(f, &wanted, &self.files[f].clone(), offline);
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
        file: &File,
        offline: bool,
    ) -> (bool, BTreeSet<usize>) {
        let (mut done, mut leaving) = (true, BTreeSet::new());
        let may_fetch = file.policy != Policy::Never && !offline && self.up;
        for (&name, locked) in wanted {
            let meant = self.meant(name, *locked, file, offline);
            match meant.and_then(|image| self.put(owner, name, image, may_fetch)) {
                Some(replaced) => leaving.extend(replaced),
                None => done = false,
            }
        }
        (done, leaving)
    }

    /// The image that `name` is to be; `None` if nobody knows.
    fn meant(
        &mut self,
        name: &'static str,
        locked: Option<usize>,
        file: &File,
        offline: bool,
    ) -> Option<usize> {
        let row = self.rows.get(name);
        let here = row.map(|row| row.image);
        let may_ask = self.up && !offline;
        if locked.is_some() {
            return locked.filter(|_| here == locked || (file.policy != Policy::Never && may_ask));
        }
        let asks = match file.policy {
            Policy::Always => !offline && !row.is_some_and(|row| row.held),
            Policy::Missing => here.is_none(),
            Policy::Never => false,
        };
        if !asks {
            return here;
        }
        let means = self.tags.get(name).copied().filter(|_| may_ask)?;
        // A first add takes what there is.
        let Some(here) = here else { return Some(means) };
        Some(take(&mut self.notes, (name, here), means, (self.now, file.cooldown(name))))
    }

    /// Records `image` for `owner`, if all of it is here or can be fetched; the layers of what it replaced.
    fn put(
        &mut self,
        owner: usize,
        name: &'static str,
        image: usize,
        may_fetch: bool,
    ) -> Option<&'static [usize]> {
        let disk = &mut self.disk;
        let looks_whole = |disk: Option<&Disk>| matches!(disk, Some(Disk::Whole | Disk::Edited));
        for layer in IMAGES[image] {
            if !looks_whole(disk.get(layer)) {
                if !may_fetch {
                    return None;
                }
                disk.insert(*layer, Disk::Whole);
            }
        }
        let new = || Row { image, past: Vec::new(), held: false, owners: BTreeSet::new() };
        let row = self.rows.entry(name).or_insert_with(new);
        row.owners.insert(owner);
        if row.image == image {
            return Some(&[]);
        }
        let old = std::mem::replace(&mut row.image, image);
        row.past.push(old);
        row.held = false;
        self.notes.retain(|of, note| *of != name || note.image != image);
        Some(IMAGES[old])
    }

    /// Makes the latest other image that `name` was current again, and holds it.
    pub(super) fn rollback(&mut self, name: &'static str) -> bool {
        let Some(row) = self.rows.get(name).cloned() else { return false };
        let Some(earlier) = row.past.iter().rev().find(|image| **image != row.image) else { return false };
        let lock = |owner: &usize| self.locks.get(*owner).and_then(Option::as_ref);
        if row.owners.iter().filter_map(lock).any(|lock| lock.images.contains_key(name)) {
            return false;
        }
        let done = row.owners.iter().all(|owner| self.put(*owner, name, *earlier, self.up).is_some());
        if let Some(row) = self.rows.get_mut(name).filter(|_| done) {
            row.held = true;
        }
        done
    }

    /// Lets `name` mean what its tag means again.
    pub(super) fn release(&mut self, name: &str) -> bool {
        self.rows.get_mut(name).map(|row| row.held = false).is_some()
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
        self.notes.retain(|name, _| self.rows.contains_key(name));
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
        self.notes.remove(name);
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
        let before = self.locks[f].clone();
        let old = before.clone().filter(|_| !upgrade);
        let locked = |name: &&'static str| before.as_ref().and_then(|old| old.images.get(name).copied());
        let mut notes = before.as_ref().map(|old| old.notes.clone()).unwrap_or_default();
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
        let mut image_of = |name: &&'static str| {
            let here = locked(name);
            let means = || self.tags.get(name).copied().filter(|_| self.up);
            match here {
                Some(here) if !upgrade => Some(here),
                Some(here) => {
                    Some(take(&mut notes, (*name, here), means()?, (self.now, file.cooldown(name))))
                }
                None => means(),
            }
        };
        let images: Option<BTreeMap<&'static str, usize>> =
            names.iter().map(|name| Some((*name, image_of(name)?))).collect();
        let Some(images) = images else { return false };
        notes.retain(|name, _| images.contains_key(name));
        self.locks[f] = Some(Locked { images, selection, notes });
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
