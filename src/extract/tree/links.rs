//! Hard links: at once where the target is there, after the files in flight where it is one of them, at the end
//! where it has not come yet.
//!
//! A name is one of three things. *Nothing* has it; an entry that is *made* has it, or is on its way to it (in
//! flight); or a link *waits* under it. A link that waits takes its name at once: what was there is gone, and
//! nothing is there until the end, or until a later entry takes the name from it. So a link to a name under which
//! another one waits, waits too, and what comes out in the end is the same in whatever order the waiting links are
//! made. They are kept in the inventory only, from which they are read when all else is made: there may be millions.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use super::directories::{Resolved, Unresolved};
use super::{LINK_BYTES, MAX_WAITING_LINK_BYTES, TreeWriter, inventory_failed, is_not_a_directory, split};
use crate::error::LayerError;
use crate::extract::inventory::{InventoryEntry, InventoryKind};
use crate::extract::outcome::{Bits, Outcome, each};
use crate::extract::tar::{Entry, show};
use crate::sys::{self, Kind};

/// Waiting links that are looked at together, in bytes of their paths.
const WINDOW_BYTES: usize = 1 << 20;
/// Paths that are looked at together to find out which links still wait.
const PATHS_AT_ONCE: u32 = 50_000;
/// How often all waiting links are gone through. Each time makes a whole window of links that lead to one another.
const MAX_ROUNDS: usize = 64;

/// What became of a hard link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    Made,
    /// Both names are of one inode already.
    Already,
    /// Nothing has the target's name.
    NoTarget,
}

impl TreeWriter<'_> {
    pub(super) fn hard_link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let found = self.find_target(target, &entry.path)?;
        let (directory, name) = self.parent_of(&entry.path)?;
        let itself = found.as_deref().unwrap_or(target) == entry.path;
        if !itself {
            self.make_way(&entry.path, directory.as_fd(), name)?;
        }
        if let Some(target) = &found {
            if self.in_flight.contains(&self.directories.hash(target)) {
                return if itself { Ok(()) } else { self.link_later(entry, target) };
            }
            match self.link(target, &entry.path)? {
                Linked::Made => return self.inventory_link(entry, target.clone()),
                Linked::Already => return Ok(()),
                Linked::NoTarget => {}
            }
        }
        if !itself && sys::metadata(directory.as_fd(), name).is_ok_and(|found| found.is_some()) {
            self.directories.spelling.check(directory.as_fd(), &entry.path)?;
        }
        match sys::remove_file(directory.as_fd(), name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LayerError::Write { doing: "replace", entry: show(&entry.path), source: error });
            }
            _ => {}
        }
        self.waiting += 1;
        let kind = InventoryKind::WaitingLink { target: found.unwrap_or_else(|| target.to_vec()) };
        self.remember(entry, kind, 0, None, Vec::new())
    }

    /// Links to a file in flight when it is on disk.
    fn link_later(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        self.in_flight.insert(self.directories.hash(&entry.path));
        self.links_in_flight_bytes += target.len() + entry.path.len() + LINK_BYTES;
        self.links_in_flight.push((target.to_vec(), entry.path.clone()));
        self.inventory_link(entry, target.to_vec())?;
        if self.links_in_flight_bytes > MAX_WAITING_LINK_BYTES {
            self.wait()?;
        }
        Ok(())
    }

    fn inventory_link(&mut self, entry: &Entry, target: Vec<u8>) -> Result<(), LayerError> {
        self.remember(entry, InventoryKind::HardLink { target }, 0, None, Vec::new())
    }

    /// Makes the links to files that were in flight.
    pub(super) fn make_links_in_flight(&mut self) -> Result<(), LayerError> {
        self.links_in_flight_bytes = 0;
        for (target, path) in std::mem::take(&mut self.links_in_flight) {
            if self.link(&target, &path)? == Linked::NoTarget {
                return Err(missing_target(&path, &target));
            }
        }
        Ok(())
    }

    /// Makes the links that wait, when all else is made.
    pub(super) fn make_waiting_links(&mut self) -> Result<(), LayerError> {
        if self.waiting == 0 {
            return Ok(());
        }
        let items = self.inventory.items();
        let outcome =
            Outcome::of(items, PATHS_AT_ONCE, || self.inventory.so_far()).map_err(inventory_failed)?;
        let mut round = Round { waiting: outcome.survivors, ..Round::default() };
        for _ in 0..MAX_ROUNDS {
            (round.made, round.missing) = (0, None);
            let inventory = self.inventory.so_far().map_err(inventory_failed)?;
            let mut failed = None;
            each(inventory, |item, entry| {
                if failed.is_none() && round.take(item, entry) {
                    failed = self.make_window(&mut round).err();
                }
            })
            .map_err(inventory_failed)?;
            failed.map_or(Ok(()), Err)?;
            self.make_window(&mut round)?;
            match round.missing.take() {
                None => return Ok(()),
                Some((path, target)) if round.made == 0 => return Err(missing_target(&path, &target)),
                Some(still) => round.last = Some(still),
            }
        }
        let entry = round.last.map(|(path, _)| show(&path)).unwrap_or_default();
        Err(LayerError::Entry {
            entry,
            reason: "too many hard links lead to one another before the entry that they mean".to_owned(),
        })
    }

    /// Makes the waiting links of a window, each after the one that it is a link to. A long chain costs no more than
    /// its length, and a circle ends, since each link is gone on to once.
    fn make_window(&mut self, round: &mut Round) -> Result<(), LayerError> {
        let links = std::mem::take(&mut round.window);
        round.bytes = 0;
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
                let found = self.find_target(target, &entry.path)?;
                if let Some(found) = &found
                    && self.link(found, &entry.path)? != Linked::NoTarget
                {
                    let kind = InventoryKind::HardLink { target: found.clone() };
                    self.inventory
                        .entry(&InventoryEntry { kind, ..entry.clone() })
                        .map_err(inventory_failed)?;
                    done[index] = true;
                    round.waiting.clear(*item);
                    round.made += 1;
                    continue;
                }
                match found.and_then(|found| by_path.get(&found[..])) {
                    Some(&next) if !std::mem::replace(&mut visited[next], true) => chain.push(next),
                    _ => {
                        round.missing.get_or_insert_with(|| (entry.path.clone(), target.clone()));
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The path of a link's target without symlinks on its way; `None` while a directory on the way is missing.
    fn find_target(&mut self, target: &[u8], link: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
        let (parent, name) = split(target);
        let failed = |source| LayerError::Write { doing: "link", entry: show(link), source };
        match self.open_directory(parent)? {
            Ok(_) => return Ok(Some(target.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_not_a_directory(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let refuse = |why: &str| LayerError::Entry {
            entry: show(link),
            reason: format!("its link target {:?} leads {why}", show(target)),
        };
        loop {
            return match self.directories.resolve(parent, &self.in_flight) {
                Ok(Resolved::InFlight) => {
                    self.wait()?;
                    continue;
                }
                Ok(Resolved::Path(parent, true)) => Ok(Some(super::join(&parent, name))),
                Ok(Resolved::Path(_, false)) | Err(Unresolved::File) => Ok(None),
                Err(Unresolved::Loop) => Err(refuse("through too many symlinks, or in a circle of them")),
                Err(Unresolved::TooLong) => Err(refuse("to a path that is longer than any can be")),
                Err(Unresolved::Refused(error)) => Err(error),
                Err(Unresolved::Failed(error)) => Err(failed(error)),
            };
        }
    }

    /// Makes `path` another name of what is at `target`, in both of which no symlink is followed.
    fn link(&mut self, target: &[u8], path: &[u8]) -> Result<Linked, LayerError> {
        let failed = |source| LayerError::Write { doing: "link", entry: show(path), source };
        let (target_parent, target_name) = split(target);
        let target_directory = match self.directories.open(target_parent) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_not_a_directory(&error) => {
                return Ok(Linked::NoTarget);
            }
            Err(error) => return Err(failed(error)),
        };
        let Some(from) = sys::metadata(target_directory.as_fd(), target_name).map_err(failed)? else {
            return Ok(Linked::NoTarget);
        };
        if from.kind == Kind::Directory {
            return Err(LayerError::Entry {
                entry: show(path),
                reason: format!("a hard link to the directory {:?}", show(target)),
            });
        }
        let (directory, name) = self.parent_of(path)?;
        if let Some(existing) = sys::metadata(directory.as_fd(), name).map_err(failed)? {
            if existing.inode == from.inode {
                self.directories.spelling.check(directory.as_fd(), path)?;
                return Ok(Linked::Already);
            }
            self.directories.spelling.check(directory.as_fd(), path)?;
            sys::remove_file(directory.as_fd(), name).map_err(failed)?;
        }
        sys::make_hard_link(target_directory.as_fd(), target_name, directory.as_fd(), name)
            .map_err(failed)?;
        Ok(Linked::Made)
    }
}

/// One time through all waiting links.
#[derive(Default)]
struct Round {
    /// Items of links that still wait.
    waiting: Bits,
    /// Links that are looked at together: item and entry.
    window: Vec<(u32, InventoryEntry)>,
    bytes: usize,
    made: usize,
    /// The first link that could not be made, and its target.
    missing: Option<(Vec<u8>, Vec<u8>)>,
    /// The same, of an earlier time.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Round {
    /// Takes in an item of the inventory; whether the window is full.
    fn take(&mut self, item: u32, entry: InventoryEntry) -> bool {
        let InventoryKind::WaitingLink { target } = &entry.kind else { return false };
        if !self.waiting.get(item) {
            return false;
        }
        self.bytes += target.len() + entry.path.len() + size_of::<InventoryEntry>() + LINK_BYTES;
        self.window.push((item, entry));
        self.bytes > WINDOW_BYTES
    }
}

fn missing_target(path: &[u8], target: &[u8]) -> LayerError {
    LayerError::Entry {
        entry: show(path),
        reason: format!("its hard link target {:?} is not in the layer", show(target)),
    }
}
