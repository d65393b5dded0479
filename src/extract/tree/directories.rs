//! The directories of a layer's tree: opened, and found by paths that lead through symlinks of the same layer.
//!
//! A symlink means what it means inside the layer: an absolute target starts at the layer's root, and `..` ends
//! there (`RESOLVE_IN_ROOT` of `openat2(2)`, as containerd and umoci have it). Links are followed here, one name at
//! a time, and not by the kernel: the path that comes out has no symlink in it, names one place only, and is what
//! the inventory says. All directories are opened by such paths, beneath the root and without following anything.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{MAX_PATH, split};
use crate::error::LayerError;
use crate::extract::outcome::PathHash;
use crate::extract::spelling::Spelling;
use crate::sys::{self, Kind};

/// Symlinks that a path may lead through, as containerd's `fs.RootPath` has it.
const MAX_LINKS: usize = 255;
/// Names that are looked up for one path, those in the symlinks on its way included.
const MAX_STEPS: usize = 8192;
/// Longest name of one path component.
const MAX_NAME: usize = 255;

/// The directories of one tree.
pub(super) struct Directories {
    root: Arc<OwnedFd>,
    /// Open handles by path.
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
    max_open: usize,
    /// All directories made; a superset is harmless.
    pub(super) made: PathSet,
    /// How the file system compares names.
    pub(super) spelling: Arc<Spelling>,
    hashes: PathHash,
}

/// Where a path leads.
pub(super) enum Resolved {
    /// The path without symlinks, and whether all of it is there.
    Path(Vec<u8>, bool),
    /// Not known before what is in flight is on disk.
    InFlight,
}

/// Why a path leads nowhere.
pub(super) enum Unresolved {
    /// Through something that is neither a directory nor a symlink.
    File,
    /// In circles, or through more symlinks than anybody follows.
    Loop,
    /// Beyond what a path can be.
    TooLong,
    /// Under a name that is another one's.
    Refused(LayerError),
    /// The system's words.
    Failed(io::Error),
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Directories {
    /// Those below `root`, of which `max_open` at most are kept open.
    pub(super) fn new(root: OwnedFd, max_open: usize) -> Self {
        let root = Arc::new(root);
        Self {
            root: Arc::clone(&root),
            open: HashMap::new(),
            max_open,
            made: PathSet::default(),
            spelling: Arc::new(Spelling::new(root)),
            hashes: PathHash::new(),
        }
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    pub(super) fn hash(&self, path: &[u8]) -> u64 {
        self.hashes.of(path)
    }

    /// The directory at `path`, in which no symlink is followed.
    pub(super) fn open(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some(directory) = self.open.get(path) {
            return Ok(Arc::clone(directory));
        }
        let opened = Arc::new(sys::open_directory_beneath(self.root.as_fd(), path)?);
        self.keep(path, Arc::clone(&opened));
        Ok(opened)
    }

    /// Whether the directory at `path` was found before, and is open.
    pub(super) fn is_kept(&self, path: &[u8]) -> bool {
        path.is_empty() || self.open.contains_key(path)
    }

    /// Keeps the handle of the directory at `path` for the entries to come.
    pub(super) fn keep(&mut self, path: &[u8], directory: Arc<OwnedFd>) {
        if self.open.len() >= self.max_open {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), directory);
    }

    /// Gives back the handles that are kept.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// Forgets a directory that was removed with all below it.
    pub(super) fn forget(&mut self, hash: u64) {
        self.made.remove(hash);
        self.open.clear();
    }

    /// The path of the directory that `path` leads to; what is not there is taken to become directories.
    pub(super) fn resolve(&mut self, path: &[u8], in_flight: &HashSet<u64>) -> Result<Resolved, Unresolved> {
        let mut at: Vec<u8> = Vec::new();
        let mut rest = path.to_vec();
        let mut used = 0;
        let (mut exists, mut links, mut steps) = (true, 0, 0);
        while used < rest.len() {
            let end = rest[used..].iter().position(|&byte| byte == b'/').map_or(rest.len(), |end| used + end);
            let name = rest[used..end].to_vec();
            used = rest.len().min(end + 1);
            steps += 1;
            if steps > MAX_STEPS {
                return Err(Unresolved::Loop);
            }
            let above = at.len();
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(split(&at).0.len());
                    continue;
                }
                _ if name.len() > MAX_NAME => return Err(Unresolved::TooLong),
                _ if at.is_empty() => at.extend_from_slice(&name),
                _ => at.extend([b"/", &name[..]].concat()),
            }
            if at.len() > MAX_PATH {
                return Err(Unresolved::TooLong);
            }
            // On disk is still what an entry in flight replaces.
            if in_flight.contains(&self.hash(&at)) {
                return Ok(Resolved::InFlight);
            }
            let directory = match self.open(&at[..above]) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    exists = false;
                    continue;
                }
                other => other?,
            };
            let found = sys::metadata(directory.as_fd(), &name)?.map(|found| found.kind);
            if found.is_some_and(|kind| kind != Kind::Directory) {
                self.spelling.check(directory.as_fd(), &at).map_err(Unresolved::Refused)?;
            }
            match found {
                None => exists = false,
                Some(Kind::Directory) => {}
                Some(Kind::Symlink) => {
                    links += 1;
                    let target = sys::read_link(directory.as_fd(), &name)?;
                    at.truncate(if target.starts_with(b"/") { 0 } else { above });
                    rest = [&target[..], b"/", &rest[used..]].concat();
                    used = 0;
                    if links > MAX_LINKS {
                        return Err(Unresolved::Loop);
                    }
                    if rest.len() > 4 * MAX_PATH {
                        return Err(Unresolved::TooLong);
                    }
                }
                Some(_) => return Err(Unresolved::File),
            }
        }
        Ok(Resolved::Path(at, exists))
    }
}

/// Hashes of paths: exactly as long as they are few, then a superset of a fixed size.
#[derive(Default)]
pub(super) struct PathSet {
    few: HashSet<u64>,
    many: Vec<u64>,
}

/// So many hashes are kept as they are.
const FEW: usize = 1 << 15;
/// Bits of the superset: in a layer of 100,000 directories one other path in eighty is taken for one.
const MANY_BITS: usize = 1 << 23;

impl PathSet {
    fn bit(hash: u64) -> (usize, u64) {
        #[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
        let bit = hash as usize % MANY_BITS;
        (bit / 64, 1 << (bit % 64))
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.many.is_empty() {
            self.few.insert(hash);
            if self.few.len() < FEW {
                return;
            }
            self.many = vec![0; MANY_BITS / 64];
        }
        for hash in std::mem::take(&mut self.few).into_iter().chain([hash]) {
            let (word, bit) = Self::bit(hash);
            self.many[word] |= bit;
        }
    }

    pub(super) fn may_have(&self, hash: u64) -> bool {
        if self.many.is_empty() {
            return self.few.contains(&hash);
        }
        let (word, bit) = Self::bit(hash);
        self.many[word] & bit != 0
    }

    fn remove(&mut self, hash: u64) {
        self.few.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_paths_forgets_none_however_many() {
        let mut set = PathSet::default();
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for number in 0..2 * FEW as u64 {
            set.insert(hash(number));
        }
        assert!((0..2 * FEW as u64).all(|number| set.may_have(hash(number))));
        let wrong = (3 * FEW as u64..4 * FEW as u64).filter(|&number| set.may_have(hash(number))).count();
        assert!(wrong < FEW / 50, "{wrong} of {FEW} others are taken for one");
        let mut few = PathSet::default();
        few.insert(1);
        few.remove(1);
        assert!(!few.may_have(1) && !few.may_have(2));
    }
}
