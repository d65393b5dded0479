//! The rule of hard links: made at once where the target is there, at the end where it has not come
//! yet.
//!
//! A name is one of three things. *Nothing* has it; an entry that is *made* has it, or is on its
//! way to it (in flight); or a link *waits* under it. A link that waits takes its name at once:
//! what was there is gone, and nothing is there until the end, or until a later entry takes the
//! name from it. So a link to a name under which another one waits, waits too, and what comes out
//! in the end is the same in whatever order the waiting links are made. A link to itself changes
//! nothing where its name is taken, be it by a link that waits.
//!
//! The rule knows no disk: it is given [`Names`], which are those on disk while a layer is
//! extracted, and those of a map in the tests. It notes each decision in the inventory, and keeps
//! nothing else, since millions of links may wait: those that still wait at the end are what the
//! inventory, played back, leaves under their names ([`Outcome`], by which `verify` too knows the
//! tree).

use std::collections::HashMap;
use std::fs::File;

use crate::error::LayerError;
use crate::extract::inventory::{InventoryEntry, InventoryKind, InventoryWriter, inventory_failed};
use crate::extract::outcome::{Bits, Outcome, each};
use crate::extract::paths::{refused, show};
use crate::sys::FileTime;

/// The waiting links that are looked at together, in bytes of their paths.
const WINDOW_BYTES: usize = 1 << 20;
/// The bytes of a link that is remembered, beside its paths.
pub(super) const LINK_BYTES: usize = 64;
/// The paths that are looked at together to find out which links still wait.
const PATHS_AT_ONCE: u32 = 50_000;
/// The most times that all waiting links are gone through. Each time makes a whole window of links
/// that lead to one another.
const MAX_ROUNDS: usize = 64;

/// The result of an attempt to make a hard link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linked {
    /// The link is there, or will be as soon as its target is on disk.
    Made,
    /// Both names are of one inode already.
    Already,
    /// Nothing has the target's name.
    NoTarget,
}

/// The names of a tree, and its inventory, as the rule sees them.
pub(super) trait Names {
    /// Finds the path of a link's target without symlinks on its way; `None` while a directory on
    /// the way is missing.
    fn find(&mut self, target: &[u8], link: &[u8]) -> Result<Option<Vec<u8>>, LayerError>;

    /// Takes a directory that has the name `path` away; anything else there may stay.
    fn make_way(&mut self, path: &[u8]) -> Result<(), LayerError>;

    /// Makes `path` another name of what is at `target`, in place of any file there.
    fn link(&mut self, target: &[u8], path: &[u8]) -> Result<Linked, LayerError>;

    /// Takes the name `path` from the file that has it: nothing is there then.
    fn vacate(&mut self, path: &[u8]) -> Result<(), LayerError>;

    /// Notes an item in the inventory.
    fn note(&mut self, entry: &InventoryEntry) -> Result<(), LayerError>;

    fn inventory(&mut self) -> &mut InventoryWriter<File>;
}

/// The hard links of one layer.
#[derive(Debug, Default)]
pub(super) struct HardLinks {
    /// The number of links that had to wait, those included whose names were taken since.
    waiting: u64,
}

impl HardLinks {
    /// Takes in the entry of a hard link from `path` to `target`: makes it, or has it wait.
    pub(super) fn entry(
        &mut self,
        names: &mut impl Names,
        path: &[u8],
        target: &[u8],
        modified: FileTime,
    ) -> Result<(), LayerError> {
        let found = names.find(target, path)?;
        if found.as_deref().unwrap_or(target) != path {
            names.make_way(path)?;
        }
        let linked = found.as_deref().map(|found| names.link(found, path)).transpose()?;
        let target = found.unwrap_or_else(|| target.to_vec());
        let kind = match linked {
            Some(Linked::Already) => return Ok(()),
            Some(Linked::Made) => InventoryKind::HardLink { target },
            Some(Linked::NoTarget) | None => {
                names.vacate(path)?;
                self.waiting += 1;
                InventoryKind::WaitingLink { target }
            }
        };
        let (path, modified) = (path.to_vec(), Some(modified));
        names.note(&InventoryEntry { path, kind, mode: 0, modified, xattrs: Vec::new() })
    }

    /// Makes the links that still wait, when all else is made.
    pub(super) fn finish(self, names: &mut impl Names) -> Result<(), LayerError> {
        if self.waiting == 0 {
            return Ok(());
        }
        let inventory = names.inventory();
        let items = inventory.items();
        let outcome = Outcome::of(items, PATHS_AT_ONCE, || inventory.so_far()).map_err(inventory_failed)?;
        let mut waiting = outcome.survivors;
        let mut still = None;
        for _ in 0..MAX_ROUNDS {
            let round = Round::run(names, &mut waiting)?;
            match round.missing {
                None => return Ok(()),
                Some((path, target)) if round.made == 0 => return Err(missing_target(&path, &target)),
                missing => still = missing,
            }
        }
        let (path, _) = still.unwrap_or_default();
        Err(refused(&path, "too many hard links lead to one another before the entry that they mean"))
    }
}

/// A round: one time through all waiting links.
struct Round<'r> {
    /// The items of links that still wait.
    waiting: &'r mut Bits,
    /// The links that are looked at together: item and entry.
    window: Vec<(u32, InventoryEntry)>,
    bytes: usize,
    made: usize,
    /// The first link that could not be made, and its target.
    missing: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'r> Round<'r> {
    fn run(names: &mut impl Names, waiting: &'r mut Bits) -> Result<Self, LayerError> {
        let mut round = Self { waiting, window: Vec::new(), bytes: 0, made: 0, missing: None };
        let mut failed = None;
        let so_far = names.inventory().so_far().map_err(inventory_failed)?;
        each(so_far, |item, entry| {
            if failed.is_none() && round.take(item, entry) {
                failed = round.make_window(names).err();
            }
        })
        .map_err(inventory_failed)?;
        failed.map_or(Ok(()), Err)?;
        round.make_window(names)?;
        Ok(round)
    }

    /// Takes in an item of the inventory, and tells whether the window is full.
    fn take(&mut self, item: u32, entry: InventoryEntry) -> bool {
        let InventoryKind::WaitingLink { target } = &entry.kind else { return false };
        if !self.waiting.get(item) {
            return false;
        }
        self.bytes += target.len() + entry.path.len() + size_of::<InventoryEntry>() + LINK_BYTES;
        self.window.push((item, entry));
        self.bytes > WINDOW_BYTES
    }

    /// Makes the waiting links of a window, each after the one that it is a link to. A long chain
    /// costs no more than its length, and a circle ends, since each link is gone on to once.
    fn make_window(&mut self, names: &mut impl Names) -> Result<(), LayerError> {
        let links = std::mem::take(&mut self.window);
        self.bytes = 0;
        let by_path: HashMap<&[u8], usize> =
            links.iter().enumerate().map(|(index, (_, entry))| (&entry.path[..], index)).collect();
        let mut visited = vec![false; links.len()];
        let mut done = vec![false; links.len()];
        for first in 0..links.len() {
            let mut chain = vec![first];
            while let Some(&index) = chain.last() {
                if done[index] {
                    chain.pop();
                    continue;
                }
                let (item, entry) = &links[index];
                let InventoryKind::WaitingLink { target } = &entry.kind else { break };
                let found = names.find(target, &entry.path)?;
                if let Some(found) = &found
                    && names.link(found, &entry.path)? != Linked::NoTarget
                {
                    let kind = InventoryKind::HardLink { target: found.clone() };
                    names.note(&InventoryEntry { kind, ..entry.clone() })?;
                    done[index] = true;
                    self.waiting.clear(*item);
                    self.made += 1;
                    continue;
                }
                match found.and_then(|found| by_path.get(&found[..])) {
                    Some(&next) if !std::mem::replace(&mut visited[next], true) => chain.push(next),
                    _ => {
                        self.missing.get_or_insert_with(|| (entry.path.clone(), target.clone()));
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Makes the error of a link whose target never comes.
pub(super) fn missing_target(path: &[u8], target: &[u8]) -> LayerError {
    refused(path, format!("its hard link target {:?} is not in the layer", show(target)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Names in memory, each with the number of its inode. All are files of one directory.
    struct Map {
        inodes: BTreeMap<Vec<u8>, usize>,
        inventory: InventoryWriter<File>,
    }

    impl Names for Map {
        fn find(&mut self, target: &[u8], _link: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
            Ok(Some(target.to_vec()))
        }

        fn make_way(&mut self, _path: &[u8]) -> Result<(), LayerError> {
            Ok(())
        }

        fn link(&mut self, target: &[u8], path: &[u8]) -> Result<Linked, LayerError> {
            let Some(&inode) = self.inodes.get(target) else { return Ok(Linked::NoTarget) };
            let old = self.inodes.insert(path.to_vec(), inode);
            Ok(if old == Some(inode) { Linked::Already } else { Linked::Made })
        }

        fn vacate(&mut self, path: &[u8]) -> Result<(), LayerError> {
            self.inodes.remove(path);
            Ok(())
        }

        fn note(&mut self, entry: &InventoryEntry) -> Result<(), LayerError> {
            self.inventory.entry(entry).map_err(inventory_failed)
        }

        fn inventory(&mut self) -> &mut InventoryWriter<File> {
            &mut self.inventory
        }
    }

    impl Map {
        fn file(&mut self, path: &[u8], inode: usize) {
            self.inodes.insert(path.to_vec(), inode);
            let kind = InventoryKind::File { size: 0, hash: 0 };
            let (path, xattrs) = (path.to_vec(), Vec::new());
            self.note(&InventoryEntry { path, kind, mode: 0, modified: None, xattrs }).unwrap();
        }
    }

    /// What the rule says in the header, in the simplest words: `None` is a link that waits.
    fn reference(entries: &[(u8, Option<u8>)]) -> Option<BTreeMap<Vec<u8>, usize>> {
        let mut names: BTreeMap<u8, Result<usize, u8>> = BTreeMap::new();
        for (inode, &(path, target)) in entries.iter().enumerate() {
            let has = match target {
                None => Ok(inode),
                Some(target) => match names.get(&target) {
                    Some(Ok(inode)) => Ok(*inode),
                    // A link to itself leaves another one that waits there in peace.
                    Some(Err(_)) if target == path => continue,
                    _ => Err(target),
                },
            };
            names.insert(path, has);
        }
        loop {
            let made = names.iter().find_map(|(path, has)| {
                let target = has.err()?;
                Some((*path, names.get(&target)?.ok()?))
            });
            let Some((path, inode)) = made else { break };
            names.insert(path, Ok(inode));
        }
        names.into_iter().map(|(path, has)| Some((vec![path], has.ok()?))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The rule, given a map, makes what the reference says, and its inventory, played back,
        /// says the same of every name: which are there, and which are of one inode.
        #[test]
        fn links_in_any_order_lead_to_the_same_names_and_the_inventory_knows_them(
            entries in proptest::collection::vec(
                (b'a'..=b'e', proptest::option::weighted(0.7, b'a'..=b'e')), 1..14,
            ),
        ) {
            let inventory = InventoryWriter::new(tempfile::tempfile().unwrap()).unwrap();
            let mut names = Map { inodes: BTreeMap::new(), inventory };
            let mut links = HardLinks::default();
            for (inode, (path, target)) in entries.iter().enumerate() {
                match target {
                    None => names.file(&[*path], inode),
                    Some(target) => {
                        links.entry(&mut names, &[*path], &[*target], FileTime::default()).unwrap();
                    }
                }
            }
            let made = links.finish(&mut names).is_ok().then(|| names.inodes.clone());
            prop_assert_eq!(&made, &reference(&entries));
            let Some(made) = made else { return Ok(()) };
            let items = names.inventory.items();
            let outcome = Outcome::of(items, 3, || names.inventory.so_far()).unwrap();
            let mut known: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            each(names.inventory.so_far().unwrap(), |item, entry| {
                if outcome.survivors.get(item) {
                    known.insert(entry.path, outcome.origin(item));
                }
            }).unwrap();
            prop_assert!(known.keys().eq(made.keys()), "{known:?} {made:?}");
            for (one, of_one) in &made {
                for (other, of_other) in &made {
                    prop_assert_eq!(known[one] == known[other], of_one == of_other);
                }
            }
        }
    }
}
