//! Finding out whether an image shows other files when its layers are stacked in the order of their
//! digests.
//!
//! microsandbox 0.2 has an image's layers in their order by `layers.id`. To mount them it asks its
//! database again, by `SELECT … WHERE digest IN (…)`, which SQLite answers in digest order, and
//! stacks them so. Often that makes no difference: most
//! paths are in one layer only. What each layer holds is in its inventory; of that only hashes are
//! kept, a part of all paths at a time, so that memory stays bounded whatever the image.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use super::inventory::{InventoryEntry, InventoryKind};
use super::paths::{PathHash, split};

/// Paths compared at the same time; some 40 bytes each.
const PATHS_AT_ONCE: u64 = 1 << 19;
/// Whiteouts that are compared; with more of them it is not found out what they do.
const MAX_WHITEOUTS: usize = 1 << 17;
const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT: &[u8] = b".wh.";

/// The effect of stacking an image's layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacking {
    /// Whiteouts in all layers, opaque ones included.
    pub whiteouts: u64,
    /// The difference that microsandbox 0.2 shows, other than the image's own order of layers says;
    /// `None`: nothing.
    pub restacked: Option<Restacked>,
}

/// The changes by another order of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restacked {
    /// Some paths are other files, or are there or not.
    Paths {
        /// The number of paths.
        count: u64,
        /// One of them, relative to the root.
        example: PathBuf,
    },
    /// The order is another one; what that changes could not be found out.
    Unknown,
}

/// Calls the visitor with every entry of a layer; `None` if its inventory cannot be read to its
/// end.
pub(crate) type Read<'a> = dyn FnMut(usize, &mut dyn FnMut(&InventoryEntry)) -> Option<()> + 'a;

/// Compares the two orders of `digests`, distinct ones and base first, whose inventories `read`
/// reads by position.
pub(crate) fn compare(digests: &[String], read: &mut Read<'_>) -> Stacking {
    let mut sorted: Vec<usize> = (0..digests.len()).collect();
    sorted.sort_by_key(|&layer| &digests[layer]);
    let mut ranks = vec![0; digests.len()];
    for (rank, &layer) in sorted.iter().enumerate() {
        ranks[layer] = rank;
    }
    let in_order = sorted.is_sorted();
    let unknown = |whiteouts| Stacking { whiteouts, restacked: (!in_order).then_some(Restacked::Unknown) };
    let paths = PathHash::new();
    let mut hides = Hides::new(paths);
    let (mut whiteouts, mut entries) = (0, 0);
    for layer in 0..digests.len() {
        let whole = read(layer, &mut |entry| {
            entries += 1;
            whiteouts += u64::from(hides.note(layer, &entry.path));
        });
        if whole.is_none() {
            return unknown(whiteouts);
        }
    }
    if in_order || hides.count > MAX_WHITEOUTS {
        return unknown(whiteouts);
    }
    let parts = entries / PATHS_AT_ONCE + 1;
    let mut differing = Differing::default();
    for part in 0..parts {
        let mut tops: HashMap<u64, Tops> = HashMap::new();
        for layer in 0..digests.len() {
            let whole = read(layer, &mut |entry| {
                let path = paths.of(&entry.path);
                if path % parts != part || is_whiteout(&entry.path) {
                    return;
                }
                let tops = tops.entry(path).or_default();
                tops.choice = PathHash::lasting().of(&entry.path);
                tops.see(layer, ranks[layer], looks(entry));
                hides.of(&entry.path, |hiding| tops.see(hiding, ranks[hiding], HIDDEN));
            });
            if whole.is_none() {
                return unknown(whiteouts);
            }
        }
        for tops in tops.into_values().filter(|tops| tops.by_image.1 != tops.by_digest.1) {
            differing.note(tops.choice);
        }
    }
    let restacked = differing.least.map(|least| {
        let example = find(digests.len(), read, |entry| PathHash::lasting().of(&entry.path) == least);
        example.map_or(Restacked::Unknown, |example| Restacked::Paths { count: differing.count, example })
    });
    Stacking { whiteouts, restacked }
}

/// Finds the path of an entry, in some layer, that `is_wanted`.
fn find(layers: usize, read: &mut Read<'_>, is_wanted: impl Fn(&InventoryEntry) -> bool) -> Option<PathBuf> {
    (0..layers).find_map(|layer| {
        let mut found = None;
        let _ = read(layer, &mut |entry| {
            if found.is_none() && is_wanted(entry) {
                found = Some(PathBuf::from(String::from_utf8_lossy(&entry.path).into_owned()));
            }
        });
        found
    })
}

#[derive(Default)]
struct Differing {
    count: u64,
    least: Option<u64>,
}

impl Differing {
    fn note(&mut self, path: u64) {
        self.count += 1;
        self.least = Some(self.least.map_or(path, |least| least.min(path)));
    }
}

/// The look of a path in the topmost layer that says something of it, by either order. A layer
/// counts from 1.
#[derive(Default)]
struct Tops {
    by_image: (usize, u64),
    by_digest: (usize, u64),
    /// The hash by which an example is chosen, the same one in each run.
    choice: u64,
}

/// The look of a path that is not there.
const HIDDEN: u64 = 0;
const DIRECTORY: u64 = 1;

impl Tops {
    fn see(&mut self, layer: usize, rank: usize, look: u64) {
        for (top, position) in [(&mut self.by_image, layer + 1), (&mut self.by_digest, rank + 1)] {
            // A layer does not hide its own entries.
            if position > top.0 || (position == top.0 && look != HIDDEN) {
                *top = (position, look);
            }
        }
    }
}

/// The layers that hide what lies below them at a path, by the hash of the path.
struct Hides {
    paths: PathHash,
    /// By whiteout.
    whited: HashMap<u64, Vec<usize>>,
    /// Below an opaque directory.
    opaque: HashMap<u64, Vec<usize>>,
    count: usize,
}

impl Hides {
    fn new(paths: PathHash) -> Self {
        Self { paths, whited: HashMap::new(), opaque: HashMap::new(), count: 0 }
    }

    /// Takes note of a whiteout, and tells whether the path is one.
    fn note(&mut self, layer: usize, path: &[u8]) -> bool {
        if !is_whiteout(path) {
            return false;
        }
        self.count += 1;
        if self.count > MAX_WHITEOUTS {
            return true;
        }
        let (parent, name) = split(path);
        let parent = self.paths.of(parent);
        let (hides, at) = match name.strip_prefix(WHITEOUT) {
            Some(target) if name != OPAQUE => (&mut self.whited, PathHash::below(parent, target)),
            _ => (&mut self.opaque, parent),
        };
        hides.entry(at).or_default().push(layer);
        true
    }

    /// Calls `hidden` with each layer that hides `path` in those below it.
    fn of(&self, path: &[u8], mut hidden: impl FnMut(usize)) {
        if self.count == 0 {
            return;
        }
        let mut call =
            |layers: Option<&Vec<usize>>| layers.into_iter().flatten().copied().for_each(&mut hidden);
        let mut parent = self.paths.of(b"");
        for here in self.paths.along(path) {
            call(self.opaque.get(&parent));
            call(self.whited.get(&here));
            parent = here;
        }
    }
}

fn is_whiteout(path: &[u8]) -> bool {
    let name = split(path).1;
    name.starts_with(WHITEOUT) && name.len() > WHITEOUT.len()
}

/// Hashes the look of an entry, but for its times; directories of several layers are one.
fn looks(entry: &InventoryEntry) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &entry.kind {
        InventoryKind::Directory => return DIRECTORY,
        InventoryKind::File { size, hash } => (0, size, hash).hash(&mut hasher),
        InventoryKind::Symlink { target } => (1, target).hash(&mut hasher),
        InventoryKind::HardLink { target } | InventoryKind::WaitingLink { target } => {
            (2, target).hash(&mut hasher);
        }
    }
    (entry.mode, &entry.xattrs).hash(&mut hasher);
    hasher.finish().max(DIRECTORY + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path` is a file of that content after `=`, a directory with `/` at its end.
    fn layer(entries: &[&str]) -> Vec<InventoryEntry> {
        let entry = |text: &&str| {
            let (path, kind) = match text.split_once('=') {
                Some((path, content)) => {
                    (path, InventoryKind::File { size: 1, hash: u128::from(content.as_bytes()[0]) })
                }
                None => match text.strip_suffix('/') {
                    Some(path) => (path, InventoryKind::Directory),
                    None => (*text, InventoryKind::File { size: 0, hash: 0 }),
                },
            };
            InventoryEntry { path: path.into(), kind, mode: 0o644, modified: None, xattrs: Vec::new() }
        };
        entries.iter().map(entry).collect()
    }

    fn stacked(layers: &[(&str, &[&str])]) -> Stacking {
        let digests: Vec<String> = layers.iter().map(|(digest, _)| (*digest).to_owned()).collect();
        let contents: Vec<Vec<InventoryEntry>> = layers.iter().map(|(_, entries)| layer(entries)).collect();
        compare(&digests, &mut |index, visit| {
            contents[index].iter().for_each(visit);
            Some(())
        })
    }

    fn changed(layers: &[(&str, &[&str])]) -> Option<(u64, String)> {
        match stacked(layers).restacked {
            None => None,
            Some(Restacked::Paths { count, example }) => Some((count, example.display().to_string())),
            Some(Restacked::Unknown) => panic!("not found out"),
        }
    }

    #[test]
    fn only_what_really_looks_otherwise_counts() {
        let one = |path: &str| Some((1, path.to_owned()));
        for (layers, expected) in [
            // The order of the digests is the image's.
            (&[("a", &["f=1"][..]), ("b", &["f=2"])][..], None),
            (&[("b", &["f=1"]), ("a", &["f=2"])], one("f")),
            // Nothing in common, or the same.
            (&[("b", &["f=1", "d/"]), ("a", &["g=2", "d/"])], None),
            (&[("b", &["f=1"]), ("a", &["f=1"])], None),
            // What is on top is on top in both.
            (&[("b", &["f=1"]), ("a", &["f=2"]), ("c", &["f=3"])], None),
            (&[("a", &["f=1"]), ("c", &["f=2"]), ("b", &["f=1"])], one("f")),
            // A file in place of a directory.
            (&[("b", &["x/"]), ("a", &["x=1"])], one("x")),
            // Whiteouts: of what is below, of nothing, of what comes back.
            (&[("b", &["d/", "d/f=1"]), ("a", &["d/", "d/.wh.f"])], one("d/f")),
            (&[("b", &["d/", "d/f=1"]), ("a", &["d/", "d/.wh.g"])], None),
            (&[("b", &["f=1"]), ("a", &[".wh.f"]), ("c", &["f=2"])], None),
            // A directory that is removed and made again, without what was in it.
            (&[("b", &["d/", "d/f=1"]), ("a", &[".wh.d"]), ("c", &["d/"])], one("d/f")),
            // An opaque directory hides what is in it below, and itself shows.
            (&[("b", &["d/", "d/e/", "d/e/f=1"]), ("a", &["d/", "d/.wh..wh..opq", "d/e/"])], one("d/e/f")),
            (&[("b", &["d/"]), ("a", &["d/", "d/.wh..wh..opq", "d/g=1"])], None),
            (&[("b", &["f=1"]), ("a", &[".wh..wh..opq"])], one("f")),
        ] {
            assert_eq!(changed(layers), expected, "{layers:?}");
        }
    }

    #[test]
    fn an_inventory_that_cannot_be_read_leaves_it_open() {
        let digests = ["b".to_owned(), "a".to_owned()];
        assert_eq!(compare(&digests, &mut |_, _| None).restacked, Some(Restacked::Unknown));
        assert_eq!(compare(&digests[..1], &mut |_, _| None).restacked, None);
    }

    #[test]
    fn many_paths_are_compared_in_parts() {
        let count = PATHS_AT_ONCE * 2 + 1;
        let mut content = |layer: usize, visit: &mut dyn FnMut(&InventoryEntry)| {
            let mut entry = self::layer(&["f=0"]).remove(0);
            for number in 0..count / 2 {
                entry.path = number.to_string().into_bytes();
                if number % 1000 == 0 {
                    entry.kind = InventoryKind::File { size: layer as u64, hash: 0 };
                } else {
                    entry.kind = InventoryKind::File { size: 7, hash: 0 };
                }
                visit(&entry);
            }
            Some(())
        };
        let stacking = compare(&["b".to_owned(), "a".to_owned()], &mut content);
        let Some(Restacked::Paths { count: found, example }) = stacking.restacked else { panic!() };
        assert_eq!(found, (count / 2).div_ceil(1000));
        assert!(example.to_str().unwrap().parse::<u64>().unwrap().is_multiple_of(1000));
    }

    #[test]
    fn whiteouts_are_counted() {
        let stacking = stacked(&[("a", &["f=1", ".wh."]), ("b", &[".wh.f", "d/.wh..wh..opq"])]);
        assert_eq!(stacking, Stacking { whiteouts: 2, restacked: None });
    }
}
