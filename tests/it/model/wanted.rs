//! What ought to be: the images files, the registry's tags, the time and the damage as they are, and what each step
//! makes of catalog, store and lockfiles. It knows nothing of plans, digests or rows.

use std::collections::{BTreeMap, BTreeSet};

use super::kinds::{
    Disk, Ended, File, IMAGES, Locked, Notes, PULL, Policy, Row, STAGED_FOR, Staged, Tags, choose_cooled,
    take,
};
use super::steps::Apply;

/// What is wanted, and what there is.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) up: bool,
    pub(super) tags: Tags,
    pub(super) files: [File; 2],
    pub(super) locks: [Option<Locked>; 2],
    pub(super) rows: BTreeMap<&'static str, Row>,
    /// The hours that have passed.
    pub(super) now: u32,
    pub(super) notes: Notes,
    pub(super) staged: BTreeMap<&'static str, Staged>,
    pub(super) disk: BTreeMap<usize, Disk>,
    /// The layers that the last step has fetched.
    pub(super) fetched: BTreeSet<usize>,
}

/// The images that a run wants, with what the lockfile says of them.
pub(super) type Wanted = BTreeMap<&'static str, Option<usize>>;

/// On whose behalf a run works, and what it may do.
#[derive(Clone, Copy)]
struct Run<'f> {
    owner: usize,
    file: &'f File,
    offline: bool,
    now: Option<&'static str>,
}

impl Model {
    pub(super) fn new() -> Self {
        let empty = File::of(Policy::Always);
        Self {
            up: true,
            tags: Tags::new(),
            files: [empty.clone(), empty],
            locks: [None, None],
            rows: BTreeMap::new(),
            now: 0,
            notes: Notes::new(),
            staged: BTreeMap::new(),
            disk: BTreeMap::new(),
            fetched: BTreeSet::new(),
        }
    }

    // ------------------------------------------------------------------------------------------------- what is wanted

    /// The images that file `f` means, with what the lockfile says of them; whether nobody knows which tags its
    /// selection would choose; and whether that is a failure.
    fn wanted(&mut self, Apply { f, offline, now, .. }: Apply) -> (Wanted, bool, bool) {
        let (file, lock) = (&self.files[f], &self.locks[f]);
        let locked = |name: &&'static str| lock.as_ref().and_then(|lock| lock.images.get(name).copied());
        let mut wanted: Wanted = file.names.iter().map(|name| (*name, locked(name))).collect();
        let Some(selection) = file.selection else { return (wanted, false, false) };
        let rule = selection.rule;
        if let Some((_, tags)) =
            lock.as_ref().and_then(|lock| lock.selection.as_ref()).filter(|(of, _)| *of == rule)
        {
            wanted.extend(tags.iter().map(|name| (*name, locked(name))));
            return (wanted, false, false);
        }
        let here = rule.choose(self.rows.keys());
        let blind = file.policy == Policy::Never || offline;
        let (chosen, held) = if blind || (file.policy == Policy::Missing && here.len() >= rule.newest) {
            (here, true)
        } else if !self.up {
            (Vec::new(), true)
        } else if selection.cools {
            let is_ours = |(_, row): &(&&'static str, &Row)| row.owners.contains_key(&f);
            let taken = self.rows.iter().filter(is_ours).map(|(name, _)| *name).collect();
            let known = (&taken, &file.names);
            let (chosen, waiting) = choose_cooled(rule, &self.tags, known, &self.notes, (self.now, now));
            self.notes.extend(waiting);
            (chosen, false)
        } else {
            (rule.choose(self.tags.keys()), false)
        };
        let blocked = chosen.is_empty();
        for name in chosen {
            wanted.entry(name).or_insert(None);
        }
        (wanted, held || blocked, blocked)
    }

    /// Whether file `f` lists nothing at all.
    fn is_empty(&self, f: usize) -> bool {
        self.files[f].names.is_empty() && self.files[f].selection.is_none()
    }

    /// What `--locked` demands.
    fn is_covered(&self, f: usize) -> bool {
        let Some(lock) = &self.locks[f] else { return false };
        let rule = lock.selection.as_ref().map(|(rule, _)| *rule);
        let chosen = lock.selection.iter().flat_map(|(_, tags)| tags);
        let names: BTreeSet<&str> = self.files[f].names.iter().chain(chosen).copied().collect();
        rule == self.files[f].selection.map(|selection| selection.rule)
            && names == lock.images.keys().copied().collect()
    }

    /// Whether the command line is a right one for file `f`.
    fn is_possible(&self, Apply { f, prune, allow_empty, locked, now, .. }: Apply) -> bool {
        let file = &self.files[f];
        let is_listed =
            |name: &str| file.names.contains(name) || file.selection.is_some() && name.starts_with("web:");
        (!prune || allow_empty || !self.is_empty(f))
            && (!locked || self.is_covered(f))
            && now.is_none_or(is_listed)
    }

    /// The image that `name` is to be; `None` if nobody knows.
    fn meant(&mut self, name: &'static str, locked: Option<usize>, run: Run<'_>) -> Option<usize> {
        let Run { file, offline, now, .. } = run;
        let row = self.rows.get(name);
        let here = row.map(|row| row.image);
        let may_ask = self.up && !offline;
        if let Some(image) = locked {
            // What is remembered need not be asked.
            let may_be_had = self.is_remembered(name, image) || (file.policy != Policy::Never && may_ask);
            return (here == locked || may_be_had).then_some(image);
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
        let cooldown = if now == Some(name) { 0 } else { file.cooldown(name) };
        Some(take(&mut self.notes, (name, here), means, (self.now, cooldown)))
    }

    /// Whether the catalog knows what all there is to know of an image of `name`.
    fn is_remembered(&self, name: &str, image: usize) -> bool {
        self.rows.get(name).is_some_and(|row| row.past.contains(&image))
            || self.staged.get(name).is_some_and(|staged| staged.image == image)
    }

    // ---------------------------------------------------------------------------------------------------------- apply

    pub(super) fn apply(&mut self, apply: Apply) -> Ended {
        if !self.is_possible(apply) {
            return Ended::of(false);
        }
        let Apply { f, prune, offline, stage, now, .. } = apply;
        let (wanted, held, blocked) = self.wanted(apply);
        let file = self.files[f].clone();
        let run = Run { owner: f, file: &file, offline, now };
        if stage {
            let done =
                wanted.iter().fold(true, |done, (name, locked)| self.stage(name, *locked, run) && done);
            return Ended::of(done && !blocked);
        }
        let well = self.bring_all(&wanted, run) && !blocked;
        if !prune {
            return Ended::of(well);
        }
        let is_listed = |name: &'static str| wanted.contains_key(name) || (held && name.starts_with("web:"));
        // Removals wait for everything that is wanted.
        if !well {
            return Ended { well, waiting: self.unlisted(f, is_listed) };
        }
        let is_seen = |name: &str, row: &Row| {
            wanted.contains_key(name)
                || row.owners.contains_key(&f)
                || (file.selection.is_some() && name.starts_with("web:"))
        };
        let seen = self.rows.iter().filter(|(name, row)| is_seen(name, row));
        let mut leaving = layers_of(seen.flat_map(|(_, row)| row.earlier()));
        leaving.extend(self.forget_unlisted(f, is_listed));
        self.drop_layers(&leaving, None);
        Ended::of(well)
    }

    /// Brings what `pull` names.
    pub(super) fn pull(&mut self, name: &'static str) -> bool {
        let file = File::of(Policy::Always);
        let run = Run { owner: PULL, file: &file, offline: false, now: None };
        self.bring_all(&BTreeMap::from([(name, None)]), run)
    }

    /// Records what can be had; whether that is all.
    fn bring_all(&mut self, wanted: &Wanted, run: Run<'_>) -> bool {
        let may_fetch = run.file.policy != Policy::Never && !run.offline && self.up;
        let mut done = true;
        for (&name, locked) in wanted {
            let meant = self.meant(name, *locked, run);
            done &= meant.is_some_and(|image| self.put((run.owner, run.file.keep), name, image, may_fetch));
        }
        done
    }

    /// Fetches what is missing of an image; whether all of it is here then.
    fn fetch(&mut self, image: usize, may_fetch: bool) -> bool {
        let looks_whole = |disk: Option<&Disk>| matches!(disk, Some(Disk::Whole | Disk::Edited));
        let missing = IMAGES[image].iter().filter(|layer| !looks_whole(self.disk.get(layer)));
        let missing: Vec<usize> = missing.copied().collect();
        if may_fetch {
            self.disk.extend(missing.iter().map(|layer| (*layer, Disk::Whole)));
            self.fetched.extend(&missing);
        }
        may_fetch || missing.is_empty()
    }

    /// Records `image` for an owner who keeps so many earlier ones, if all of it is here or can be fetched.
    fn put(
        &mut self,
        (owner, keep): (usize, usize),
        name: &'static str,
        image: usize,
        may_fetch: bool,
    ) -> bool {
        if !self.fetch(image, may_fetch) {
            return false;
        }
        let is_new = !self.rows.contains_key(name);
        let new = || Row { image, past: Vec::new(), held: false, owners: BTreeMap::new() };
        let row = self.rows.entry(name).or_insert_with(new);
        row.owners.insert(owner, keep);
        if row.image != image {
            let old = std::mem::replace(&mut row.image, image);
            row.past.push(old);
            row.held = false;
        } else if !is_new {
            return true;
        }
        // Whatever waited was new beside the image before.
        self.notes.remove(name);
        if self.staged.get(name).is_some_and(|staged| staged.image == image) {
            self.staged.remove(name);
        }
        true
    }

    /// Makes an image ready that is to be added or updated, and leaves all others alone.
    fn stage(&mut self, name: &'static str, locked: Option<usize>, run: Run<'_>) -> bool {
        let is_forbidden = run.file.policy == Policy::Never || run.offline;
        let Some(image) = self.meant(name, locked, run) else { return false };
        if self.rows.get(name).is_some_and(|row| row.image == image) {
            return !is_forbidden || self.fetch(image, false);
        }
        let is_ready = self.spared_stages().any(|(of, ready)| (of, ready) == (name, image));
        if is_ready && self.fetch(image, false) {
            return true;
        }
        let done = self.fetch(image, self.up && !is_forbidden);
        if done {
            let now = self.now;
            self.staged.insert(name, Staged { image, since: now });
            self.staged.retain(|_, staged| now - staged.since < STAGED_FOR);
        }
        done
    }

    /// The images that are ready and still spared.
    pub(super) fn spared_stages(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let staged = self.staged.iter().filter(|(_, staged)| self.now - staged.since < STAGED_FOR);
        staged.map(|(name, staged)| (*name, staged.image))
    }

    // ------------------------------------------------------------------------------------------------------- the past

    /// The image to which `rollback` would lead.
    pub(super) fn way_back(&self, name: &str) -> Option<usize> {
        self.rows.get(name)?.earlier().first().copied()
    }

    /// Makes the latest other image that `name` was current again, and holds it.
    pub(super) fn rollback(&mut self, name: &'static str) -> bool {
        let (Some(earlier), Some(row)) = (self.way_back(name), self.rows.get(name).cloned()) else {
            return false;
        };
        let lock = |owner: &usize| self.locks.get(*owner).and_then(Option::as_ref);
        if row.owners.keys().filter_map(lock).any(|lock| lock.images.contains_key(name)) {
            return false;
        }
        let keep = |owner: usize| self.files.get(owner).map_or(0, |file| file.keep);
        let owners: Vec<(usize, usize)> = row.owners.keys().map(|owner| (*owner, keep(*owner))).collect();
        let done = owners.into_iter().all(|owner| self.put(owner, name, earlier, self.up));
        if let Some(row) = self.rows.get_mut(name).filter(|_| done) {
            row.held = true;
        }
        done
    }

    /// Lets `name` mean what its tag means again.
    pub(super) fn release(&mut self, name: &str) -> bool {
        self.rows.get_mut(name).map(|row| row.held = false).is_some()
    }

    // ------------------------------------------------------------------------------------------------------- removals

    /// What `owner` has brought and is not listed.
    fn unlisted(&self, owner: usize, is_listed: impl Fn(&'static str) -> bool) -> BTreeSet<&'static str> {
        let unlisted =
            self.rows.iter().filter(|(name, row)| row.owners.contains_key(&owner) && !is_listed(name));
        unlisted.map(|(name, _)| *name).collect()
    }

    /// Takes `owner` off what is not listed; the layers of all that it is and was.
    fn forget_unlisted(&mut self, owner: usize, is_listed: impl Fn(&'static str) -> bool) -> BTreeSet<usize> {
        let mut leaving = BTreeSet::new();
        for name in self.unlisted(owner, is_listed) {
            let Some(row) = self.rows.get_mut(name) else { continue };
            row.owners.remove(&owner);
            leaving.extend(layers_of(row.earlier()));
            if row.owners.is_empty() {
                leaving.extend(self.forget(name));
            }
        }
        leaving
    }

    /// Forgets an image and its past; the layers of all that.
    fn forget(&mut self, name: &'static str) -> BTreeSet<usize> {
        self.notes.remove(name);
        let row = self.rows.remove(name);
        layers_of(row.iter().flat_map(|row| row.earlier().into_iter().chain([row.image])))
    }

    /// Removes those of `candidates` that nobody needs, now or for a way back, and that are not ready for a switch. An
    /// owner may keep another number of earlier images by now.
    fn drop_layers(&mut self, candidates: &BTreeSet<usize>, by_now: Option<(usize, usize)>) {
        let of_rows = self.rows.values().flat_map(|row| row.kept(by_now).chain([row.image]));
        let staged = self.spared_stages().map(|(_, image)| image);
        let needed = layers_of(of_rows.chain(staged));
        self.disk.retain(|layer, _| needed.contains(layer) || !candidates.contains(layer));
    }

    pub(super) fn prune(&mut self, f: usize, allow_empty: bool) -> Ended {
        if !allow_empty && self.is_empty(f) {
            return Ended::of(false);
        }
        if self.rows.is_empty() && self.disk.is_empty() {
            return Ended::of(true);
        }
        let file = self.files[f].clone();
        let chosen = self.locks[f].as_ref().and_then(|lock| lock.selection.clone());
        let rule = file.selection.map(|selection| selection.rule);
        let chosen = chosen.filter(|(of, _)| Some(*of) == rule).map(|(_, tags)| tags);
        // What is listed and not here: what would be removed may be all that there is of it.
        let wanted = file.names.iter().chain(chosen.iter().flatten());
        let absent = wanted.into_iter().any(|name| !self.rows.contains_key(name));
        let owned = self.rows.iter().filter(|(_, row)| row.owners.contains_key(&f)).map(|(name, _)| name);
        let unknown = chosen.is_none() && rule.is_some_and(|rule| rule.choose(owned).is_empty());
        let is_listed = |name: &'static str| {
            file.names.contains(name)
                || match &chosen {
                    Some(tags) => tags.contains(&name),
                    None => file.selection.is_some() && name.starts_with("web:"),
                }
        };
        let waiting = if absent || unknown { self.unlisted(f, is_listed) } else { BTreeSet::new() };
        if !waiting.is_empty() {
            return Ended { well: true, waiting };
        }
        let mut leaving = self.forget_unlisted(f, is_listed);
        let recorded = self.disk.iter().filter(|(_, disk)| **disk != Disk::Unrecorded);
        leaving.extend(recorded.map(|(layer, _)| *layer));
        self.drop_layers(&leaving, Some((f, file.keep)));
        Ended { well: true, waiting }
    }

    pub(super) fn remove(&mut self, name: &'static str) -> bool {
        let is_here = self.rows.contains_key(name);
        let leaving = self.forget(name);
        self.drop_layers(&leaving, None);
        is_here
    }

    pub(super) fn repair(&mut self) -> bool {
        let needed = layers_of(self.rows.values().map(|row| row.image));
        let damaged = needed.iter().filter(|layer| self.disk.get(layer) != Some(&Disk::Whole));
        let damaged: Vec<usize> = damaged.copied().collect();
        if self.up {
            self.disk.extend(damaged.iter().map(|layer| (*layer, Disk::Whole)));
            self.fetched.extend(&damaged);
        }
        self.up || damaged.is_empty()
    }

    // ------------------------------------------------------------------------------------------------------- the lock

    pub(super) fn lock(&mut self, f: usize, upgrade: bool) -> bool {
        let file = &self.files[f];
        let before = self.locks[f].clone();
        let old = before.as_ref().map(|old| old.notes.clone()).unwrap_or_default();
        let locked = |name: &&'static str| before.as_ref().and_then(|old| old.images.get(name).copied());
        // The tags that are looked up, and what waits of them.
        let (mut asked, mut waiting) = (BTreeSet::new(), Notes::new());
        let mut names: BTreeSet<&'static str> = file.names.clone();
        let mut selection = None;
        if let Some(wanted) = file.selection {
            let rule = wanted.rule;
            let last = before.as_ref().and_then(|old| old.selection.clone()).filter(|(of, _)| *of == rule);
            let tags = match last {
                Some((_, tags)) if !upgrade => tags,
                _ if !self.up => return false,
                last => {
                    let taken = last.filter(|_| wanted.cools);
                    let taken = taken.map(|(_, tags)| tags.into_iter().collect()).unwrap_or_default();
                    let known = (&taken, &file.names);
                    let (tags, new) = choose_cooled(rule, &self.tags, known, &old, (self.now, None));
                    waiting.extend(new);
                    // Nobody waits any more for a tag that the selection would not choose.
                    let of_selection = old.keys().filter(|name| name.starts_with("web:"));
                    asked.extend(of_selection.filter(|name| !file.names.contains(*name)).copied());
                    tags
                }
            };
            if tags.is_empty() {
                return false;
            }
            names.extend(&tags);
            selection = Some((rule, tags));
        }
        let mut image_of = |name: &'static str| {
            let means = || self.tags.get(name).copied().filter(|_| self.up);
            match locked(&name) {
                Some(here) if upgrade => {
                    asked.insert(name);
                    let (means, mut notes) = (means()?, old.clone());
                    let taken = take(&mut notes, (name, here), means, (self.now, file.cooldown(name)));
                    let note = notes.get(name).filter(|_| taken != means);
                    waiting.extend(note.map(|note| (name, *note)));
                    Some(taken)
                }
                Some(here) => Some(here),
                // The first entry takes what there is.
                None => means(),
            }
        };
        let images: Option<BTreeMap<&'static str, usize>> =
            names.into_iter().map(|name| Some((name, image_of(name)?))).collect();
        let Some(images) = images else { return false };
        let is_of_selection = |name: &str| file.selection.is_some() && name.starts_with("web:");
        let mut notes = old;
        notes.retain(|name, _| !asked.contains(name) && (images.contains_key(name) || is_of_selection(name)));
        notes.extend(waiting);
        self.locks[f] = Some(Locked { images, selection, notes });
        true
    }
}

/// The layers of several images.
fn layers_of(images: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
    images.into_iter().flat_map(|image| IMAGES[image]).copied().collect()
}
