//! What a record says a tree should be: which item describes each path, and which names are one inode.
//!
//! The record is read as extraction wrote it: a later item of a path replaces an earlier one, a non-directory
//! takes away all that was below a directory, a hard link is another name of whatever had the target's name
//! then, or at the end if nothing had it yet. Paths are kept as 64-bit hashes with a secret seed: 16 bytes
//! an entry (36 MiB in all for a million) instead of the paths, and two of a million share a hash once in
//! forty million layers.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::extract::record::{RecordEntry, RecordKind, RecordReader};
use crate::extract::tree::ancestors;

/// The item that describes a path: its number in the record, and whether it is a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) item: u32,
    pub(super) directory: bool,
}

/// A record, reduced to what comparing needs.
#[derive(Debug, Default)]
pub(super) struct Model {
    seed: u64,
    /// By path: what describes it, unless [`Model::emptied`] says that it went with a directory above.
    places: HashMap<u64, Place>,
    /// By path: the last item that took away all below it.
    emptied: HashMap<u64, u32>,
    /// Hard links made: the item that brought their inode.
    origins: HashMap<u32, u32>,
    /// Items of links that were made after all others, so that nothing took them away.
    made_last: HashSet<u32>,
}

/// A hard link whose target had not come when its item was written.
struct Forward {
    target: Vec<u8>,
    path: Vec<u8>,
    item: u32,
}

impl Model {
    /// Reads a whole record.
    ///
    /// # Errors
    /// It is damaged, or ends before its end mark.
    pub(super) fn read(record: impl Read) -> io::Result<Self> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let mut model = Self { seed, ..Self::default() };
        let mut record = RecordReader::new(record)?;
        let mut forward = Vec::new();
        let mut forward_paths = HashSet::new();
        let mut item = 0_u32;
        while let Some(entry) = record.next_entry()? {
            model.put(&entry, item, &mut forward, &mut forward_paths);
            item = item.checked_add(1).ok_or_else(|| io::Error::other("too many entries"))?;
        }
        model.link_forward(&forward);
        Ok(model)
    }

    fn put(
        &mut self,
        entry: &RecordEntry,
        item: u32,
        forward: &mut Vec<Forward>,
        forward_paths: &mut HashSet<u64>,
    ) {
        let RecordEntry { path, kind, .. } = entry;
        if matches!(kind, RecordKind::HardLink { target } if target == path) {
            // What has the name keeps it.
            return;
        }
        let hash = self.hash(path);
        if forward_paths.remove(&hash) {
            forward.retain(|link| link.path != *path);
        }
        let directory = *kind == RecordKind::Directory;
        if !directory && self.places.get(&hash).is_some_and(|place| place.directory) {
            self.emptied.insert(hash, item);
            self.places.remove(&hash);
            // Links that were to be made in there went with it.
            forward.retain(|link| {
                link.path.strip_prefix(path.as_slice()).is_none_or(|rest| rest.first() != Some(&b'/'))
            });
        }
        if let RecordKind::HardLink { target } = kind {
            if !self.link(target, path, item) {
                forward.push(Forward { target: target.clone(), path: path.clone(), item });
                forward_paths.insert(hash);
            }
        } else {
            self.places.insert(hash, Place { item, directory });
        }
    }

    /// Makes `path` another name of what `target` is now; `false` if that is nothing.
    fn link(&mut self, target: &[u8], path: &[u8], item: u32) -> bool {
        let Some(place) = self.find(target).filter(|place| !place.directory) else { return false };
        let origin = self.origin(place.item);
        // The same inode already: the older item stays the one that describes the path.
        if self.find(path).is_some_and(|old| self.origin(old.item) == origin) {
            return true;
        }
        self.origins.insert(item, origin);
        self.places.insert(self.hash(path), Place { item, directory: false });
        true
    }

    /// Makes the links that waited for their target, each after the one that it is a link to. One that cannot
    /// be made has no place: then the layer was never finished, and everything under its name is too much.
    fn link_forward(&mut self, links: &[Forward]) {
        let by_path: HashMap<&[u8], usize> =
            links.iter().enumerate().map(|(index, link)| (link.path.as_slice(), index)).collect();
        let mut visited = vec![false; links.len()];
        for first in 0..links.len() {
            let mut chain = vec![first];
            while let Some(&index) = chain.last() {
                let link = &links[index];
                if self.link(&link.target, &link.path, link.item) {
                    self.made_last.insert(link.item);
                    chain.pop();
                    continue;
                }
                match by_path.get(link.target.as_slice()) {
                    Some(&next) if !std::mem::replace(&mut visited[next], true) => chain.push(next),
                    _ => {
                        chain.pop();
                        break;
                    }
                }
            }
        }
    }

    /// What is at `path` in the end.
    pub(super) fn find(&self, path: &[u8]) -> Option<Place> {
        let place = *self.places.get(&self.hash(path))?;
        let taken_away = !self.emptied.is_empty()
            && !self.made_last.contains(&place.item)
            && ancestors(path)
                .filter(|above| above.len() < path.len())
                .any(|above| self.emptied.get(&self.hash(above)).is_some_and(|&by| by > place.item));
        (!taken_away).then_some(place)
    }

    /// The item that brought the inode of `item`: itself, unless it is a hard link.
    pub(super) fn origin(&self, item: u32) -> u32 {
        self.origins.get(&item).copied().unwrap_or(item)
    }

    /// The items that brought an inode with several names.
    pub(super) fn shared(&self) -> HashSet<u32> {
        self.origins.values().copied().collect()
    }

    fn hash(&self, path: &[u8]) -> u64 {
        xxh3_64_with_seed(path, self.seed)
    }
}
