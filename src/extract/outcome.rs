//! An inventory played back: which of its items describe the tree in the end, and which are names
//! of one inode.
//!
//! The inventory says what was done, one thing after the other, so nothing is decided here: the
//! last item of a path counts, unless an item above it took everything away later. Memory is
//! bounded whatever the inventory: a bit an item, four bytes an item where there are hard links,
//! and paths as 64-bit hashes, a part of all paths at a time and the inventory read once more for
//! each part. Two of a million paths share a hash once in forty million layers.

use std::collections::HashMap;
use std::io::{self, Read};

use super::inventory::{InventoryEntry, InventoryKind, InventoryReader};
use super::paths::PathHash;

/// Marks an item that is no hard link, or one of an unknown inode.
const NONE: u32 = u32::MAX;

/// A part of all hashes, one of several equal ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// Cuts all hashes into parts, so that each has about `at_once` of `count` at most.
    pub(super) fn all(count: u32, at_once: u32) -> impl Iterator<Item = Self> {
        let of = u64::from(count) / u64::from(at_once) + 1;
        (0..of).map(move |number| Self { number, of })
    }

    pub(super) fn has(self, hash: u64) -> bool {
        (u128::from(hash) * u128::from(self.of)) >> 64 == u128::from(self.number)
    }

    pub(super) fn is_first(self) -> bool {
        self.number == 0
    }
}

/// One bit for each item of an inventory.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u32) -> Self {
        Self(vec![0; count as usize / 64 + 1])
    }

    pub(super) fn get(&self, item: u32) -> bool {
        self.0.get(item as usize / 64).is_some_and(|word| word >> (item % 64) & 1 == 1)
    }

    fn set(&mut self, item: u32) {
        if let Some(word) = self.0.get_mut(item as usize / 64) {
            *word |= 1 << (item % 64);
        }
    }

    pub(super) fn clear(&mut self, item: u32) {
        if let Some(word) = self.0.get_mut(item as usize / 64) {
            *word &= !(1 << (item % 64));
        }
    }
}

/// Calls `visit` with each item of an inventory and its number.
pub(super) fn each(
    inventory: InventoryReader<impl Read>,
    mut visit: impl FnMut(u32, InventoryEntry),
) -> io::Result<()> {
    let mut inventory = inventory;
    let mut item = 0_u32;
    while let Some(entry) = inventory.next_entry()? {
        visit(item, entry);
        item = item.checked_add(1).ok_or_else(|| io::Error::other("too many entries"))?;
    }
    Ok(())
}

/// The tree that an inventory leads to: the items that count in the end, and which of them are of
/// one inode.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The items that describe their path in the end.
    pub(super) survivors: Bits,
    /// For each item that is a hard link: the item that brought its inode.
    origins: Vec<u32>,
    hashes: PathHash,
}

impl Outcome {
    /// Plays back an inventory of `items`, which `open` opens as often as it takes; `at_once` paths
    /// are looked at together.
    ///
    /// # Errors
    /// The inventory is damaged, or ends before its end mark.
    pub(super) fn of<R: Read>(
        items: u32,
        at_once: u32,
        mut open: impl FnMut() -> io::Result<InventoryReader<R>>,
    ) -> io::Result<Self> {
        let hashes = PathHash::new();
        let mut outcome = Self { survivors: Bits::new(items), origins: Vec::new(), hashes };
        let (mut emptying, mut emptied) = (Bits::new(items), 0);
        for part in Part::all(items, at_once) {
            let mut replay = Replay {
                outcome: &mut outcome,
                part,
                last: HashMap::new(),
                emptying: &mut emptying,
                emptied: &mut emptied,
            };
            each(open()?, |item, entry| replay.item(item, &entry))?;
            for last in replay.last.into_values() {
                outcome.survivors.set(last.item);
            }
        }
        for item in 0..outcome.origins.len() {
            // The target's item is an earlier one, and knows its own origin already.
            let target = outcome.origins[item];
            if let Some(&origin) = outcome.origins.get(target as usize).filter(|&&origin| origin != NONE) {
                outcome.origins[item] = origin;
            }
        }
        if emptied > 0 {
            for part in Part::all(emptied, at_once) {
                outcome.take_away(part, &emptying, &mut open)?;
            }
        }
        Ok(outcome)
    }

    /// Finds out which items went with a directory above them.
    fn take_away<R: Read>(
        &mut self,
        part: Part,
        emptying: &Bits,
        open: &mut impl FnMut() -> io::Result<InventoryReader<R>>,
    ) -> io::Result<()> {
        let mut emptied: HashMap<u64, u32> = HashMap::new();
        let hashes = self.hashes;
        each(open()?, |item, entry| {
            if emptying.get(item) {
                let hash = hashes.of(&entry.path);
                if part.has(hash) {
                    emptied.insert(hash, item);
                }
            }
        })?;
        each(open()?, |item, entry| {
            let mut above = hashes.along(&entry.path).filter_map(|hash| emptied.get(&hash));
            if above.any(|&by| by > item) {
                self.survivors.clear(item);
            }
        })
    }

    /// Tells which item brought the inode of `item`: itself, unless it is a hard link.
    pub(super) fn origin(&self, item: u32) -> u32 {
        self.origins.get(item as usize).copied().filter(|&origin| origin != NONE).unwrap_or(item)
    }

    /// Lists the items that brought an inode which has a hard link in the end, sorted.
    pub(super) fn shared(&self) -> Vec<u32> {
        let count = u32::try_from(self.origins.len()).unwrap_or(NONE);
        let mut shared = Bits::new(count);
        for (&origin, item) in self.origins.iter().zip(0..count) {
            if origin != NONE && self.survivors.get(item) {
                shared.set(origin);
            }
        }
        (0..count).filter(|&item| shared.get(item)).collect()
    }
}

/// The names of a part of all paths while an inventory is played back: the state that extraction
/// has on disk, in a map.
///
/// Nothing has a name that is not in `last`. Else the last item of the name has it: a thing that
/// was made, a directory or not, or a link that waits. The rule of hard links has decided before
/// which of these it is; an item says so, and replaces what had its name.
struct Replay<'o> {
    outcome: &'o mut Outcome,
    part: Part,
    last: HashMap<u64, Last>,
    /// The items that have replaced a directory, and with it all that was below.
    emptying: &'o mut Bits,
    /// The number of these items.
    emptied: &'o mut u32,
}

/// The last item of a name so far, and whether it is a directory.
#[derive(Clone, Copy)]
struct Last {
    item: u32,
    directory: bool,
}

impl Replay<'_> {
    /// Takes in an item of the inventory.
    fn item(&mut self, item: u32, entry: &InventoryEntry) {
        let name = self.outcome.hashes.of(&entry.path);
        match &entry.kind {
            InventoryKind::HardLink { target } => {
                self.link(item, self.outcome.hashes.of(target));
                self.take(item, name, false);
            }
            // A link to itself that waits changes nothing where its name is taken.
            InventoryKind::WaitingLink { target }
                if *target == entry.path && self.last.contains_key(&name) => {}
            kind => self.take(item, name, *kind == InventoryKind::Directory),
        }
    }

    /// Notes that a hard link is of the inode that has the name `target` now.
    fn link(&mut self, item: u32, target: u64) {
        if !self.part.has(target) {
            return;
        }
        let origins = &mut self.outcome.origins;
        if origins.len() <= item as usize {
            origins.resize(item as usize + 1, NONE);
        }
        // A link to a name that nothing has is an inode of its own.
        origins[item as usize] = self.last.get(&target).map_or(item, |last| last.item);
    }

    /// Gives a name to an item, in place of what had it before.
    fn take(&mut self, item: u32, name: u64, directory: bool) {
        if !self.part.has(name) {
            return;
        }
        let old = self.last.insert(name, Last { item, directory });
        if !directory && old.is_some_and(|old| old.directory) {
            self.emptying.set(item);
            *self.emptied += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Algorithm, DiffId};
    use crate::extract::inventory::{InventoryWriter, Totals};
    use crate::state::LayerFacts;

    fn entry() -> impl Strategy<Value = InventoryEntry> {
        let path = || proptest::sample::select(vec!["a", "b", "c", "a/x", "a/x/y", "b/x", "c/x"]);
        let bytes = |path: &str| path.as_bytes().to_vec();
        let kind = prop_oneof![
            Just(InventoryKind::Directory),
            Just(InventoryKind::File { size: 0, hash: 0 }),
            path().prop_map(move |path| InventoryKind::HardLink { target: bytes(path) }),
            path().prop_map(move |path| InventoryKind::WaitingLink { target: bytes(path) }),
        ];
        (path(), kind).prop_map(move |(path, kind)| InventoryEntry {
            path: bytes(path),
            kind,
            mode: 0,
            modified: None,
            xattrs: Vec::new(),
        })
    }

    proptest! {
        /// A part of all paths at a time leads to the same as all of them together.
        #[test]
        fn it_does_not_matter_how_many_paths_are_looked_at_together(
            entries in proptest::collection::vec(entry(), 0..20),
        ) {
            let mut writer = InventoryWriter::new(Vec::new()).unwrap();
            for entry in &entries {
                writer.entry(entry).unwrap();
            }
            let facts = LayerFacts { diff_id: DiffId::of(Algorithm::Sha256, b""), size: 0 };
            let inventory = writer.finish(Totals::default(), &facts).unwrap();
            let items = u32::try_from(entries.len()).unwrap();
            let of = |at_once| {
                let outcome = Outcome::of(items, at_once, || InventoryReader::new(&inventory[..])).unwrap();
                let survivors: Vec<bool> = (0..items).map(|item| outcome.survivors.get(item)).collect();
                let origins: Vec<u32> = (0..items).map(|item| outcome.origin(item)).collect();
                (survivors, origins, outcome.shared())
            };
            let together = of(100);
            for at_once in 1..4 {
                prop_assert_eq!(of(at_once), together.clone());
            }
        }
    }
}
