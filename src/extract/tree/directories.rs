//! The directories of a layer's tree: opened, and found by paths that lead through symlinks of the
//! same layer.
//!
//! A symlink means what it means inside the layer: an absolute target starts at the layer's root,
//! and `..` ends there (`RESOLVE_IN_ROOT` of `openat2(2)`, as containerd and umoci have it). Links
//! are followed here, one name at a time, and not by the kernel: the path that comes out has no
//! symlink in it, names one place only, and is what the inventory says. All directories are opened
//! by such paths, beneath the root and without following anything.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::path_set::PathSet;
use crate::error::LayerError;
use crate::extract::paths::{MAX_NAME, MAX_PATH, PathHash, split};
use crate::extract::spelling::Spelling;
use crate::sys::{self, Kind};

/// The most symlinks that a path may lead through, as containerd's `fs.RootPath` has it.
const MAX_LINKS: usize = 255;
/// The most names that are looked up for one path, those in the symlinks on its way included.
const MAX_STEPS: usize = 8192;

/// The directories of one tree.
pub(super) struct Directories {
    root: Arc<OwnedFd>,
    /// The open handles by path.
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
    max_open: usize,
    /// All directories made; a superset is harmless.
    made: PathSet,
    spelling: Arc<Spelling>,
    hashes: PathHash,
}

/// The place to which a path leads.
pub(super) enum Resolved {
    /// The path without symlinks, and whether all of it is there.
    Path(Vec<u8>, bool),
    /// The place is not known before what is in flight is on disk.
    InFlight,
}

/// The reason why a path leads nowhere.
pub(super) enum Unresolved {
    /// The path leads through something that is neither a directory nor a symlink.
    File,
    /// The path leads in circles, or through more symlinks than anybody follows.
    Loop,
    /// The path becomes longer than any can be.
    TooLong,
    /// A name on the way is another one's.
    Refused(LayerError),
    /// A system call failed.
    Failed(io::Error),
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Directories {
    /// Starts with the directory `root`, and keeps at most `max_open` of those below it open.
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

    /// The way in which the file system of the tree compares names.
    pub(super) fn spelling(&self) -> &Arc<Spelling> {
        &self.spelling
    }

    pub(super) fn hash(&self, path: &[u8]) -> u64 {
        self.hashes.of(path)
    }

    /// True if a directory was made at the path with this hash, and for few others.
    pub(super) fn may_have_made(&self, hash: u64) -> bool {
        self.made.may_have(hash)
    }

    /// Remembers that a directory was made.
    pub(super) fn note_made(&mut self, hash: u64) {
        self.made.insert(hash);
    }

    /// Opens the directory at `path`, in which no symlink is followed.
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

    /// True if the directory at `path` was found before, and is open.
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

    /// Finds the directory to which `path` leads; names that nothing has are taken to become
    /// directories.
    pub(super) fn resolve(&mut self, path: &[u8], in_flight: &HashSet<u64>) -> Result<Resolved, Unresolved> {
        let mut walk = Walk { at: Vec::new(), rest: path.to_vec(), used: 0, links: 0, steps: 0 };
        let mut exists = true;
        while let Some((above, name)) = walk.next_name()? {
            // On disk is still what an entry in flight replaces.
            if in_flight.contains(&self.hash(&walk.at)) {
                return Ok(Resolved::InFlight);
            }
            let directory = match self.open(&walk.at[..above]) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    exists = false;
                    continue;
                }
                other => other?,
            };
            let found = sys::metadata(directory.as_fd(), &name)?.map(|found| found.kind);
            if found.is_some_and(|kind| kind != Kind::Directory) {
                self.spelling.check(directory.as_fd(), &walk.at).map_err(Unresolved::Refused)?;
            }
            match found {
                None => exists = false,
                Some(Kind::Directory) => {}
                Some(Kind::Symlink) => walk.follow(above, &sys::read_link(directory.as_fd(), &name)?)?,
                Some(_) => return Err(Unresolved::File),
            }
        }
        Ok(Resolved::Path(walk.at, exists))
    }
}

/// A path on its way through symlinks.
struct Walk {
    /// The path so far, without symlinks.
    at: Vec<u8>,
    /// The rest of the path, of which the first `used` bytes are behind.
    rest: Vec<u8>,
    used: usize,
    links: usize,
    steps: usize,
}

impl Walk {
    /// Goes on to the next name, and returns it with the length of the path above; `None` at the
    /// end.
    fn next_name(&mut self) -> Result<Option<(usize, Vec<u8>)>, Unresolved> {
        while self.used < self.rest.len() {
            let left = &self.rest[self.used..];
            let name = left.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
            self.used = self.rest.len().min(self.used + name.len() + 1);
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Unresolved::Loop);
            }
            let above = self.at.len();
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    self.at.truncate(split(&self.at).0.len());
                    continue;
                }
                _ if name.len() > MAX_NAME => return Err(Unresolved::TooLong),
                _ if self.at.is_empty() => self.at.extend_from_slice(&name),
                _ => self.at.extend([b"/", &name[..]].concat()),
            }
            if self.at.len() > MAX_PATH {
                return Err(Unresolved::TooLong);
            }
            return Ok(Some((above, name)));
        }
        Ok(None)
    }

    /// Goes on where a symlink leads whose last name came after `above` bytes of the path.
    fn follow(&mut self, above: usize, target: &[u8]) -> Result<(), Unresolved> {
        self.links += 1;
        self.at.truncate(if target.starts_with(b"/") { 0 } else { above });
        self.rest = [target, b"/", &self.rest[self.used..]].concat();
        self.used = 0;
        if self.links > MAX_LINKS {
            return Err(Unresolved::Loop);
        }
        if self.rest.len() > 4 * MAX_PATH {
            return Err(Unresolved::TooLong);
        }
        Ok(())
    }
}
