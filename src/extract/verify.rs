//! A tree on disk against its inventory, entry by entry: the mirror image of writing one.
//!
//! The inventory is read several times: what describes each path in the end ([`Outcome`]), that
//! compared with the disk, and the recorded directories listed for what no item describes.
//! Directories are opened beneath the root without following a symlink, only regular files are ever
//! opened, content is hashed piece by piece: neither a tree that somebody has tampered with nor a
//! large one costs more than some bytes an entry, out of a budget that all layers which are
//! compared at the same time share, and one buffer.

mod differences;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

pub(crate) use self::differences::{Change, Differences};
use super::attributes::OVERRIDE_STAT;
use super::budget::Budget;
use super::inventory::{InventoryEntry, InventoryKind, InventoryReader, read_facts};
use super::outcome::{Outcome, Part, each};
use super::paths::{PathHash, show, split};
use crate::cancel::Cancel;
use crate::sys::{self, FileTime, Kind, Metadata};

/// The bytes that are read at once.
const BUFFER: usize = 128 * 1024;
/// The directory handles that are kept for the entries to come.
const MAX_OPEN_DIRECTORIES: usize = 16;
/// The paths that are looked at together.
const PATHS_AT_ONCE: u32 = 400_000;
/// The memory for the outcomes of inventories, all layers together, in bytes. A layer that needs
/// all of it is compared alone.
const OUTCOMES: usize = 24 << 20;
/// The most bytes that an item, and a path that is looked at, take.
const BYTES_PER_ITEM: usize = 12;
const BYTES_PER_PATH: usize = 40;
/// The bytes of entries that are kept because their inode has lost its first name.
const ORPHAN_BYTES: usize = 1 << 20;
static BUDGET: Budget = Budget::new(OUTCOMES);
/// The times at which file systems end: a later or earlier one is kept as the nearest of these
/// (ext4 and xfs, old and new, in seconds since the epoch).
const CLAMPED_TIMES: [i64; 6] =
    [i32::MIN as i64, 0, i32::MAX as i64, u32::MAX as i64, 15_032_385_535, 16_299_260_424];

/// Compares the tree at `root` with its `inventory`. Thrown, `cancel` ends it early with what was
/// found so far.
///
/// # Errors
/// The inventory cannot be read to its end. What cannot be read of the tree is a difference.
pub(crate) fn verify(root: &OwnedFd, inventory: &mut File, cancel: &Cancel) -> io::Result<Differences> {
    if let Some(found) = of_another_user(root)? {
        return Ok(found);
    }
    if read_facts(inventory).is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the layer record is cut off"));
    }
    let inventory: &File = inventory;
    let mut items = 0;
    each(InventoryReader::of(inventory)?, |item, _| items = item + 1)?;
    let paths = items.min(PATHS_AT_ONCE) as usize;
    let _held = BUDGET.hold(items as usize * BYTES_PER_ITEM + paths * BYTES_PER_PATH);
    let outcome = Outcome::of(items, PATHS_AT_ONCE, || InventoryReader::of(inventory))?;
    let shared = outcome.shared();
    let inodes = vec![None; shared.len()];
    let mut checker = Checker {
        root: root.as_fd(),
        outcome,
        shared,
        inodes,
        orphans: HashMap::new(),
        orphan_bytes: 0,
        orphans_from: None,
        open: HashMap::new(),
        buffer: vec![0; BUFFER],
        found: Differences::default(),
        cancel,
    };
    each(InventoryReader::of(inventory)?, |item, entry| {
        checker.item(&entry, item);
        checker.orphan(entry, item, 0);
    })?;
    while let Some(from) = checker.orphans_from.take() {
        checker.orphans.clear();
        checker.orphan_bytes = 0;
        each(InventoryReader::of(inventory)?, |item, entry| checker.orphan(entry, item, from))?;
    }
    checker.added(inventory, items)?;
    Ok(checker.found)
}

/// Finds that the tree at `root` is another user's, who may change it at any time: then nothing
/// else is looked at.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn of_another_user(root: &OwnedFd) -> io::Result<Option<Differences>> {
    let owner = sys::metadata_of(root.as_fd())?.owner;
    let mut found = Differences::default();
    if !sys::is_own(owner) {
        found.add(b"", vec![Change::Owner(owner)]);
    }
    Ok((found.count > 0).then_some(found))
}

/// A comparison on its way.
struct Checker<'a> {
    root: BorrowedFd<'a>,
    outcome: Outcome,
    /// The items whose inode has several names, sorted, and their inodes once one of the names was
    /// looked at.
    shared: Vec<u32>,
    inodes: Vec<Option<NonZeroU64>>,
    /// The items that have lost their own name, while their inode has others.
    orphans: HashMap<u32, InventoryEntry>,
    orphan_bytes: usize,
    /// The first such item for which there was no room.
    orphans_from: Option<u32>,
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
    buffer: Vec<u8>,
    found: Differences,
    cancel: &'a Cancel,
}

impl Checker<'_> {
    fn item(&mut self, entry: &InventoryEntry, item: u32) {
        if self.cancel.is_cancelled() || !self.outcome.survivors.get(item) {
            return;
        }
        let origin = self.outcome.origin(item);
        let changes = match &entry.kind {
            // Nothing is there; in the inventory of a whole layer none is left.
            InventoryKind::WaitingLink { .. } => return,
            InventoryKind::HardLink { .. } => match self.look(&entry.path) {
                Err(change) => vec![change],
                Ok((_, found)) => self.same_inode(origin, &found),
            },
            _ => self.compare(&entry.path, entry, Some(origin)),
        };
        self.found.add(&entry.path, changes);
    }

    /// A hard link may outlive the name it was made from: then its own name shows whether the
    /// content is right. Items before `from` were looked at before.
    fn orphan(&mut self, entry: InventoryEntry, item: u32, from: u32) {
        if self.cancel.is_cancelled() {
            return;
        }
        if let InventoryKind::HardLink { .. } = entry.kind {
            if self.outcome.survivors.get(item)
                && let Some(first) = self.orphans.remove(&self.outcome.origin(item))
            {
                let mut changes = self.compare(&entry.path, &first, None);
                // That it is gone was told.
                changes.retain(|change| *change != Change::Removed);
                self.found.add(&entry.path, changes);
            }
            return;
        }
        if item < from || self.outcome.survivors.get(item) || self.shared.binary_search(&item).is_err() {
            return;
        }
        if self.orphan_bytes > ORPHAN_BYTES {
            self.orphans_from.get_or_insert(item);
            return;
        }
        let xattrs = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>();
        self.orphan_bytes += entry.path.len() + xattrs + size_of::<InventoryEntry>();
        self.orphans.insert(item, entry);
    }

    /// Looks at `path`, and opens its parent.
    fn look(&mut self, path: &[u8]) -> Result<(Arc<OwnedFd>, Metadata), Change> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Change::Removed,
            _ if sys::is_symlink_refusal(&error) => Change::Removed,
            _ => Change::Unreadable(error.to_string()),
        };
        let (parent, name) = split(path);
        let directory = if let Some(directory) = self.open.get(parent) {
            Arc::clone(directory)
        } else {
            let opened = Arc::new(sys::open_directory_beneath(self.root, parent).map_err(unreadable)?);
            if self.open.len() >= MAX_OPEN_DIRECTORIES {
                self.open.clear();
            }
            self.open.insert(parent.to_vec(), Arc::clone(&opened));
            opened
        };
        let found = if name.is_empty() {
            sys::metadata_of(directory.as_fd()).map(Some)
        } else {
            sys::metadata(directory.as_fd(), name)
        };
        match found {
            Ok(Some(found)) => Ok((directory, found)),
            Ok(None) => Err(Change::Removed),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn same_inode(&mut self, origin: u32, found: &Metadata) -> Vec<Change> {
        let Ok(position) = self.shared.binary_search(&origin) else { return Vec::new() };
        let inode = NonZeroU64::new(found.inode);
        match self.inodes[position] {
            Some(_) if self.inodes[position] != inode => vec![Change::HardLink],
            Some(_) => Vec::new(),
            None => {
                self.inodes[position] = inode;
                Vec::new()
            }
        }
    }

    /// Compares what is at `path` with an entry that is no hard link.
    fn compare(&mut self, path: &[u8], entry: &InventoryEntry, origin: Option<u32>) -> Vec<Change> {
        let (directory, found) = match self.look(path) {
            Ok(looked) => looked,
            Err(change) => return vec![change],
        };
        let (_, name) = split(path);
        let expected = match &entry.kind {
            InventoryKind::File { .. } => Kind::File,
            InventoryKind::Directory => Kind::Directory,
            // A hard link is never compared by itself.
            InventoryKind::Symlink { .. }
            | InventoryKind::HardLink { .. }
            | InventoryKind::WaitingLink { .. } => Kind::Symlink,
        };
        if found.kind != expected {
            return vec![Change::Kind];
        }
        let mut changes = Vec::new();
        if !sys::is_own(found.owner) {
            changes.push(Change::Owner(found.owner));
        }
        if let Some(origin) = origin {
            changes.extend(self.same_inode(origin, &found));
        }
        if found.kind != Kind::Symlink && found.mode != entry.mode {
            changes.push(Change::Mode);
        }
        if entry.modified.is_some_and(|modified| !same_time(modified, found.modified)) {
            changes.push(Change::Modified);
        }
        let more = match &entry.kind {
            InventoryKind::File { size, hash } => {
                self.compare_file(directory.as_fd(), name, entry, (*size, *hash), &found)
            }
            InventoryKind::Directory if name.is_empty() => compare_xattrs(directory.as_fd(), entry),
            InventoryKind::Directory => sys::open_directory_beneath(directory.as_fd(), name)
                .and_then(|opened| compare_xattrs(opened.as_fd(), entry)),
            InventoryKind::Symlink { target } => compare_symlink(directory.as_fd(), name, target),
            InventoryKind::HardLink { .. } | InventoryKind::WaitingLink { .. } => Ok(Vec::new()),
        };
        match more {
            Ok(more) => changes.extend(more),
            Err(error) => changes.push(Change::Unreadable(error.to_string())),
        }
        changes
    }

    fn compare_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &InventoryEntry,
        (size, hash): (u64, u128),
        found: &Metadata,
    ) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        if found.size != size {
            changes.push(Change::Size);
        }
        let mut file = sys::open_file(directory, name)?;
        // It may have been replaced since it was looked at.
        match sys::metadata_of(file.as_fd())? {
            opened if opened.kind != Kind::File => return Ok(vec![Change::Kind]),
            opened if opened.owner != found.owner => return Ok(vec![Change::Owner(opened.owner)]),
            _ => {}
        }
        changes.extend(compare_xattrs(file.as_fd(), entry)?);
        if found.size == size && self.hash(&mut file, size)? != hash {
            changes.push(Change::Content);
        }
        Ok(changes)
    }

    /// Hashes at most `size` bytes of `file`.
    fn hash(&mut self, file: &mut File, size: u64) -> io::Result<u128> {
        let mut hasher = Xxh3Default::new();
        let mut rest = size;
        while rest > 0 && !self.cancel.is_cancelled() {
            let wanted = usize::try_from(rest).unwrap_or(BUFFER).min(BUFFER);
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&self.buffer[..count]);
                    rest -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hasher.digest128())
    }

    /// Finds what no item describes. Only directories of the inventory are listed, so the tree's
    /// depth is bounded by the inventory's.
    fn added(&mut self, inventory: &File, items: u32) -> io::Result<()> {
        let hashes = PathHash::new();
        for part in Part::all(items, PATHS_AT_ONCE) {
            let mut known = HashSet::new();
            each(InventoryReader::of(inventory)?, |item, entry| {
                let hash = hashes.of(&entry.path);
                if self.outcome.survivors.get(item) && part.has(hash) {
                    known.insert(hash);
                }
            })?;
            each(InventoryReader::of(inventory)?, |item, entry| {
                if entry.kind == InventoryKind::Directory && self.outcome.survivors.get(item) {
                    self.list(&entry.path, hashes.of(&entry.path), part, &known);
                }
            })?;
        }
        Ok(())
    }

    /// Tells what is in a directory and in a part of all paths, but not among those that are known.
    fn list(&mut self, path: &[u8], hash: u64, part: Part, known: &HashSet<u64>) {
        if self.cancel.is_cancelled() {
            return;
        }
        let found = &mut self.found;
        let visited = sys::open_directory_beneath(self.root, path).and_then(|directory| {
            sys::each_entry(directory.as_fd(), |name, _| {
                let below = PathHash::below(hash, name);
                if part.has(below) && !known.contains(&below) {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    found.add(&[path, slash, name].concat(), vec![Change::Added]);
                }
                true
            })
        });
        // A directory that is none any more was told when it was compared.
        let gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
                || sys::is_symlink_refusal(error)
        };
        if let Err(error) = visited
            && part.is_first()
            && !gone(&error)
        {
            self.found.add(path, vec![Change::Unreadable(error.to_string())]);
        }
    }
}

/// Compares the extended attributes of an open file or directory with those of its entry.
fn compare_xattrs(file: BorrowedFd<'_>, entry: &InventoryEntry) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut later = HashSet::new();
    // Where a name occurs twice the later value was set over the earlier one.
    for (name, value) in entry.xattrs.iter().rev().filter(|(name, _)| later.insert(name)) {
        if !sys::has_xattr(file, name, value)? {
            changes.push(Change::Xattr(show(name)));
        }
    }
    sys::each_xattr(file, |name| {
        let is_known = entry.xattrs.iter().any(|(known, _)| known == name);
        // Earlier versions left the layer's directory an ACL that it had inherited, and did not
        // note the owner of directories of which a tree that they adopted says nothing.
        let is_earlier = entry.path.is_empty() && name == b"system.posix_acl_access"
            || entry.modified.is_none() && name == OVERRIDE_STAT;
        if !is_known && !is_earlier {
            changes.push(Change::XattrAdded(show(name)));
        }
    })?;
    Ok(changes)
}

/// Compares the text of a symlink with its entry. A layer's symlinks have no extended attributes.
fn compare_symlink(directory: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    if sys::read_link(directory, name)? != target {
        changes.push(Change::LinkText);
    }
    sys::each_xattr_of_symlink(directory, name, |name| changes.push(Change::XattrAdded(show(name))))?;
    Ok(changes)
}

/// True if a file system may keep `written` as `found`: some have no nanoseconds, none has all
/// years.
fn same_time(written: FileTime, found: FileTime) -> bool {
    let clamped = !(0..=i64::from(i32::MAX)).contains(&written.seconds)
        && CLAMPED_TIMES.contains(&found.seconds)
        && found.seconds.unsigned_abs() <= written.seconds.unsigned_abs();
    let rounded = found.nanoseconds == 0 || found.nanoseconds == written.nanoseconds / 100 * 100;
    found == written || clamped || (found.seconds == written.seconds && rounded)
}

#[cfg(test)]
mod tests;
