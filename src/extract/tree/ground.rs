//! The tree on disk while it is made: the names that are there, those that are on their way, and
//! how a path of the tar leads to them.
//!
//! Files are written by the pool ([`FileWriter`]). So that order still means what the tar says, the
//! paths of files in flight are remembered (as hashes), and whatever touches one of them waits for
//! all.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::directories::{Directories, Resolved, Unresolved};
use super::links::{LINK_BYTES, Linked, Names, missing_target};
use crate::error::LayerError;
use crate::extract::attributes::{AttributeSetter, Stat, TYPE_DIRECTORY};
use crate::extract::files::FileWriter;
use crate::extract::inventory::{InventoryEntry, InventoryKind, InventoryWriter, inventory_failed};
use crate::extract::paths::{MAX_PATH, ancestors, failed, join, refused, show, split};
use crate::extract::workers::Workers;
use crate::state::Ownership;
use crate::sys::{self, Kind};

/// The number of paths in flight with which the tar waits for the pool: it bounds the memory for
/// hashes.
const MAX_IN_FLIGHT: usize = 16 * 1024;
/// The memory for hard links whose target is in flight, in bytes of their paths.
const MAX_LINK_BYTES: usize = 1 << 20;
/// The mode of directories that no entry describes.
const IMPLICIT_DIRECTORY_MODE: u32 = 0o755;

/// The tree of one layer, and the inventory of it.
pub(super) struct Ground<'w> {
    pub(super) files: FileWriter<'w>,
    pub(super) attributes: Arc<AttributeSetter>,
    pub(super) inventory: InventoryWriter<File>,
    directories: Directories,
    /// The hashes of the paths whose files or links are not on disk yet.
    in_flight: HashSet<u64>,
    /// The hard links whose target is in flight, (target, path), made at the next wait.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    link_bytes: usize,
    implicit: u64,
}

impl<'w> Ground<'w> {
    /// Starts a tree in the empty directory `root`; `inventory` is an empty file open for reading
    /// and writing.
    pub(super) fn new(
        root: OwnedFd,
        inventory: File,
        ownership: Ownership,
        workers: &'w Workers,
    ) -> Result<Self, LayerError> {
        let attributes = Arc::new(AttributeSetter::new(ownership, workers.umask));
        let directories = Directories::new(root, workers.open_directories);
        let spelling = Arc::clone(directories.spelling());
        let mut ground = Self {
            files: FileWriter::new(Arc::clone(&attributes), spelling, workers),
            attributes,
            inventory: InventoryWriter::new(inventory).map_err(inventory_failed)?,
            directories,
            in_flight: HashSet::new(),
            links: Vec::new(),
            link_bytes: 0,
            implicit: 0,
        };
        let root = ground.root();
        sys::remove_acls(root.as_fd()).map_err(failed("take the inherited ACLs from", b""))?;
        ground.finish_implicit(root.as_fd(), b"")?;
        Ok(ground)
    }

    pub(super) fn root(&self) -> Arc<OwnedFd> {
        self.directories.root()
    }

    /// The number of directories made so far because the path of an entry needs them.
    pub(super) fn implicit_directories(&self) -> u64 {
        self.implicit
    }

    // --------------------------------------------------------------------------------------- order

    /// Makes sure that a non-directory can be made at `path`, and opens its parent: nothing in
    /// flight has the path, no directory is there. A file, symlink or link that is there is
    /// replaced when the entry is made.
    pub(super) fn make_way<'p>(&mut self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8]), LayerError> {
        let (directory, name) = self.parent_of(path)?;
        let hash = self.directories.hash(path);
        if self.in_flight.contains(&hash) {
            self.wait()?;
        }
        if self.directories.may_have_made(hash) {
            self.wait()?;
            sys::remove_tree(directory.as_fd(), name).map_err(|kept| failed("replace", path)(kept.into()))?;
            self.directories.forget(hash);
        }
        Ok((directory, name))
    }

    /// Remembers that the file at `path` is being written.
    pub(super) fn now_in_flight(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.in_flight.insert(self.directories.hash(path));
        if self.in_flight.len() >= MAX_IN_FLIGHT { self.wait() } else { Ok(()) }
    }

    /// Waits until nothing is in flight.
    pub(super) fn wait(&mut self) -> Result<(), LayerError> {
        self.files.wait()?;
        self.in_flight.clear();
        self.link_bytes = 0;
        for (target, path) in std::mem::take(&mut self.links) {
            if self.link_now(&target, &path)? == Linked::NoTarget {
                return Err(missing_target(&path, &target));
            }
        }
        Ok(())
    }

    // --------------------------------------------------------------------------------- directories

    /// Makes the directory at `path`, or takes the one that is there, and opens it. Tells whether
    /// it was made.
    pub(super) fn make_directory(
        &mut self,
        path: &[u8],
        mode: u32,
    ) -> Result<(Arc<OwnedFd>, bool), LayerError> {
        let (parent, name) = self.parent_of(path)?;
        let parent = parent.as_fd();
        let hash = self.directories.hash(path);
        if self.in_flight.contains(&hash) {
            self.wait()?;
        }
        let failed = failed("create", path);
        let fresh = match sys::make_directory(parent, name, mode) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !self.directories.may_have_made(hash) {
                    self.directories.spelling().check(parent, path)?;
                }
                let existing = sys::metadata(parent, name).map_err(failed)?;
                if existing.is_some_and(|existing| existing.kind == Kind::Directory) {
                    false
                } else {
                    sys::remove_file(parent, name).map_err(failed)?;
                    sys::make_directory(parent, name, mode).map_err(failed)?;
                    true
                }
            }
            Err(error) => return Err(failed(error)),
        };
        self.directories.note_made(hash);
        let handle = Arc::new(sys::open_directory_beneath(parent, name).map_err(failed)?);
        self.directories.keep(path, Arc::clone(&handle));
        Ok((handle, fresh))
    }

    /// Finds the path of an entry without symlinks on its way; `None` where there are none.
    pub(super) fn locate(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
        let (parent, name) = split(path);
        if self.directories.is_kept(parent) {
            return Ok(None);
        }
        match self.open_directory(parent)? {
            Ok(_) => return self.check_parents(parent).map(|()| None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_not_a_directory(&error) => {}
            Err(error) => return Err(parent_failed(path, error)),
        }
        match self.resolve(parent)? {
            Ok((parent, _)) if parent.len() + 1 + name.len() <= MAX_PATH => Ok(Some(join(&parent, name))),
            Ok(_) | Err(Unresolved::TooLong) => {
                Err(refused(path, "its path leads through symlinks to one that is longer than any can be"))
            }
            Err(Unresolved::File) => Err(refused(path, "its parent is a file in the same layer")),
            Err(Unresolved::Loop) => {
                Err(refused(path, "its path leads through too many symlinks, or in a circle of them"))
            }
            Err(Unresolved::Refused(error)) => Err(error),
            Err(Unresolved::Failed(error)) => Err(parent_failed(path, error)),
        }
    }

    /// Opens the directory at `path`, in which no symlink is followed. Where descriptors are short,
    /// gives back those that are kept.
    fn open_directory(&mut self, path: &[u8]) -> Result<io::Result<Arc<OwnedFd>>, LayerError> {
        let opened = self.directories.open(path);
        if !opened.as_ref().is_err_and(sys::is_descriptor_shortage) {
            return Ok(opened);
        }
        // Directories kept for later, and files that wait for the pool, hold some.
        self.directories.close();
        self.wait()?;
        Ok(self.directories.open(path))
    }

    /// Follows the symlinks of `path`, and tells whether all of it is there.
    fn resolve(&mut self, path: &[u8]) -> Result<Result<(Vec<u8>, bool), Unresolved>, LayerError> {
        loop {
            match self.directories.resolve(path, &self.in_flight) {
                Ok(Resolved::InFlight) => self.wait()?,
                Ok(Resolved::Path(path, exists)) => return Ok(Ok((path, exists))),
                Err(why) => return Ok(Err(why)),
            }
        }
    }

    /// Makes sure that the directory at `path` is there by that very name.
    fn check_parents(&mut self, path: &[u8]) -> Result<(), LayerError> {
        if self.directories.may_have_made(self.directories.hash(path)) {
            return Ok(());
        }
        for prefix in ancestors(path) {
            let (parent, _) = split(prefix);
            let parent = self.directories.open(parent).map_err(|error| parent_failed(prefix, error))?;
            self.directories.spelling().check(parent.as_fd(), prefix)?;
        }
        Ok(())
    }

    /// Makes sure that a name that is there already is there by that very spelling.
    pub(super) fn check_spelling(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        self.directories.spelling().check(directory, path)
    }

    /// Opens the parent directory of `path`, which is made if it is missing; returns the last
    /// component too.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8]), LayerError> {
        let (parent, name) = split(path);
        let opened = match self.open_directory(parent)? {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut above = ancestors(parent);
                if above.any(|path| self.in_flight.contains(&self.directories.hash(path))) {
                    self.wait()?;
                }
                let made = Arc::new(self.make_parents(parent, path)?);
                self.directories.keep(parent, Arc::clone(&made));
                made
            }
            other => other.map_err(|error| parent_failed(path, error))?,
        };
        Ok((opened, name))
    }

    /// Makes the directories on the way to `parent`, for the entry at `path`.
    fn make_parents(&mut self, parent: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
        let failed = |error| parent_failed(path, error);
        let mut directory = sys::open_directory_beneath(self.root().as_fd(), b"").map_err(failed)?;
        for prefix in ancestors(parent) {
            let (_, name) = split(prefix);
            let made = match sys::make_directory(directory.as_fd(), name, IMPLICIT_DIRECTORY_MODE) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !self.directories.may_have_made(self.directories.hash(prefix)) {
                        self.directories.spelling().check(directory.as_fd(), prefix)?;
                    }
                    false
                }
                Err(error) => return Err(failed(error)),
            };
            directory = sys::open_directory_beneath(directory.as_fd(), name).map_err(failed)?;
            if made {
                self.implicit += 1;
                self.finish_implicit(directory.as_fd(), prefix)?;
            }
        }
        Ok(directory)
    }

    /// Gives a directory that no entry has described (yet) what root's directories have.
    fn finish_implicit(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        let stat = Stat { uid: 0, gid: 0, type_bits: TYPE_DIRECTORY, mode: IMPLICIT_DIRECTORY_MODE };
        self.attributes.set(directory, path, stat, &[], false)?;
        self.directories.note_made(self.directories.hash(path));
        self.note(&InventoryEntry {
            path: path.to_vec(),
            kind: InventoryKind::Directory,
            mode: IMPLICIT_DIRECTORY_MODE,
            modified: None,
            xattrs: self.attributes.on_disk(stat, Vec::new()),
        })
    }

    // --------------------------------------------------------------------------------------- links

    /// Makes `path` another name of what is at `target`, in both of which no symlink is followed.
    fn link_now(&mut self, target: &[u8], path: &[u8]) -> Result<Linked, LayerError> {
        let failed = failed("link", path);
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
            return Err(refused(path, format!("a hard link to the directory {:?}", show(target))));
        }
        let (directory, name) = self.parent_of(path)?;
        if let Some(existing) = sys::metadata(directory.as_fd(), name).map_err(failed)? {
            self.directories.spelling().check(directory.as_fd(), path)?;
            if existing.inode == from.inode {
                return Ok(Linked::Already);
            }
            sys::remove_file(directory.as_fd(), name).map_err(failed)?;
        }
        sys::make_hard_link(target_directory.as_fd(), target_name, directory.as_fd(), name)
            .map_err(failed)?;
        Ok(Linked::Made)
    }
}

impl Names for Ground<'_> {
    fn find(&mut self, target: &[u8], link: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
        let (parent, name) = split(target);
        match self.open_directory(parent)? {
            Ok(_) => return Ok(Some(target.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_not_a_directory(&error) => {}
            Err(error) => return Err(failed("link", link)(error)),
        }
        let leads = |why: &str| refused(link, format!("its link target {:?} leads {why}", show(target)));
        match self.resolve(parent)? {
            Ok((parent, true)) => Ok(Some(join(&parent, name))),
            Ok((_, false)) | Err(Unresolved::File) => Ok(None),
            Err(Unresolved::Loop) => Err(leads("through too many symlinks, or in a circle of them")),
            Err(Unresolved::TooLong) => Err(leads("to a path that is longer than any can be")),
            Err(Unresolved::Refused(error)) => Err(error),
            Err(Unresolved::Failed(error)) => Err(failed("link", link)(error)),
        }
    }

    fn make_way(&mut self, path: &[u8]) -> Result<(), LayerError> {
        Ground::make_way(self, path).map(drop)
    }

    fn link(&mut self, target: &[u8], path: &[u8]) -> Result<Linked, LayerError> {
        if !self.in_flight.contains(&self.directories.hash(target)) {
            return self.link_now(target, path);
        }
        if target == path {
            return Ok(Linked::Already);
        }
        // The file that is the target is not on disk yet.
        self.in_flight.insert(self.directories.hash(path));
        self.link_bytes += target.len() + path.len() + LINK_BYTES;
        self.links.push((target.to_vec(), path.to_vec()));
        if self.link_bytes > MAX_LINK_BYTES {
            self.wait()?;
        }
        Ok(Linked::Made)
    }

    fn vacate(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(path)?;
        let directory = directory.as_fd();
        if sys::metadata(directory, name).is_ok_and(|found| found.is_some()) {
            self.directories.spelling().check(directory, path)?;
        }
        match sys::remove_file(directory, name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("replace", path)(error)),
            _ => Ok(()),
        }
    }

    fn note(&mut self, entry: &InventoryEntry) -> Result<(), LayerError> {
        self.inventory.entry(entry).map_err(inventory_failed)
    }

    fn inventory(&mut self) -> &mut InventoryWriter<File> {
        &mut self.inventory
    }
}

fn is_not_a_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory) || sys::is_symlink_refusal(error)
}

fn parent_failed(path: &[u8], source: io::Error) -> LayerError {
    if is_not_a_directory(&source) {
        refused(path, "its parent is a file in the same layer")
    } else {
        failed("create the parent of", path)(source)
    }
}
