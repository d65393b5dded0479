//! Entries in, a directory tree out, in parallel and without ever leaving the root.
//!
//! Directories, symlinks and hard links (`links`) are made by the calling thread in tar order; files are written
//! by the pool ([`super::files`]). So that order still means what the tar says, the paths of files in flight are
//! remembered (as hashes) and an entry that touches one of them waits for all.
//!
//! A path may lead through symlinks of the layer, which mean what they mean inside ([`directories`]). Every directory
//! is opened beneath the root without following any symlink, and every last component is made with `O_EXCL`,
//! `mkdirat`, `symlinkat` or `linkat`; nothing is ever written through an existing name.

mod directories;
mod links;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use self::directories::{Directories, Resolved, Unresolved};
use super::Workers;
use super::files::{Attributes, FileWriter, OVERRIDE_STAT, Stat, TYPE_DIRECTORY, TYPE_FILE, Xattrs};
use super::inventory::{InventoryEntry, InventoryKind, InventoryReader, InventoryWriter, Totals};
use super::tar::{Data, Entry, EntryKind, MAX_PATH, Source, TarReader, show};
use crate::error::LayerError;
use crate::state::{LayerFacts, Ownership};
use crate::sys::{self, Kind};

/// Files up to this many bytes go to the pool in batches, larger ones in pieces.
const SMALL_FILE: u64 = 64 * 1024;
/// After so many paths in flight the calling thread waits for the pool, which bounds the memory for hashes.
const MAX_IN_FLIGHT: usize = 16 * 1024;
/// Memory for hard links whose target is in flight, in bytes of their paths.
const MAX_WAITING_LINK_BYTES: usize = 1 << 20;
/// Bytes of a link that is remembered, beside its paths.
const LINK_BYTES: usize = 64;
/// Mode of directories that no entry describes.
const IMPLICIT_DIRECTORY_MODE: u32 = 0o755;
/// `user.*` namespaces that container tools interpret; a tar must not speak to them.
const RESERVED_XATTRS: [&[u8]; 4] =
    [b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.vm."];

/// Writes one layer's tree.
pub(super) struct TreeWriter<'w> {
    files: FileWriter<'w>,
    inventory: InventoryWriter<File>,
    totals: Totals,
    directories: Directories,

    /// Hashes of paths whose files or links are not made yet.
    in_flight: HashSet<u64>,
    /// Hard links whose target is in flight: (target, path), made at the next wait.
    links_in_flight: Vec<(Vec<u8>, Vec<u8>)>,
    links_in_flight_bytes: usize,
    /// Hard links whose target had not come, made at the end.
    waiting: u64,
    /// Directories made that no entry had described.
    implicit: u64,
}

impl<'w> TreeWriter<'w> {
    /// Starts a tree in the empty directory `root`; `record` is an empty file open for reading and writing.
    pub(super) fn new(
        root: OwnedFd,
        inventory: File,
        ownership: Ownership,
        workers: &'w Workers,
    ) -> Result<Self, LayerError> {
        let inventory = InventoryWriter::new(inventory).map_err(inventory_failed)?;
        let directories = Directories::new(root, workers.open_directories);
        let mut tree = Self {
            files: FileWriter::new(ownership, Arc::clone(&directories.spelling), workers),
            inventory,
            totals: Totals::default(),
            directories,
            in_flight: HashSet::new(),
            links_in_flight: Vec::new(),
            links_in_flight_bytes: 0,
            waiting: 0,
            implicit: 0,
        };
        let root = tree.directories.root();
        sys::remove_default_acl(root.as_fd()).map_err(|source| LayerError::Write {
            doing: "take the default ACL from",
            entry: ".".to_owned(),
            source,
        })?;
        tree.implicit_directory(root.as_fd(), b"")?;
        Ok(tree)
    }

    /// Writes one entry; a file's data is read from `source`.
    pub(super) fn entry(
        &mut self,
        mut entry: Entry,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        self.totals.entries += 1;
        if let Some(path) = self.locate(&entry.path)? {
            entry.path = path;
        }
        let entry = &entry;
        match &entry.kind {
            EntryKind::Directory => self.directory(entry),
            EntryKind::File { size } if *size <= SMALL_FILE => {
                let size = *size;
                self.small_file(entry, TYPE_FILE, size, tar, source)
            }
            EntryKind::File { size } => {
                let size = *size;
                self.large_file(entry, size, tar, source)
            }
            EntryKind::Special { type_bits } => {
                let type_bits = *type_bits;
                self.small_file(entry, type_bits, 0, tar, source)
            }
            EntryKind::Symlink { target } => self.symlink(entry, target),
            EntryKind::HardLink { target } => self.hard_link(entry, target),
        }
    }

    /// Directories made so far because the path of an entry needs them.
    pub(super) fn implicit_directories(&self) -> u64 {
        self.implicit
    }

    /// Makes what waited for others, sets the directories' times and closes the inventory.
    ///
    /// Returns the totals, and whether the file system had no xattrs.
    pub(super) fn finish(mut self, tar_bytes: u64, facts: &LayerFacts) -> Result<(Totals, bool), LayerError> {
        self.wait()?;
        self.make_waiting_links()?;
        self.totals.tar_bytes = tar_bytes;
        let inventory = self.inventory.finish(self.totals, facts).map_err(inventory_failed)?;
        set_directory_times(self.directories.root().as_fd(), inventory)?;
        Ok((self.totals, self.files.no_xattrs()))
    }

    // ------------------------------------------------------------------------------------- kinds of entries

    fn directory(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_DIRECTORY));
        if entry.path.is_empty() {
            let failed = |source| LayerError::Write { doing: "create", entry: ".".to_owned(), source };
            let root = self.directories.root();
            sys::remove_user_xattrs(root.as_fd()).map_err(failed)?;
            self.files.finish_directory(root.as_fd(), &entry.path, stat, &xattrs, false)?;
        } else {
            let (parent, name) = self.parent_of(&entry.path)?;
            let hash = self.directories.hash(&entry.path);
            if self.in_flight.contains(&hash) {
                self.wait()?;
            }
            let failed = |source| LayerError::Write { doing: "create", entry: show(&entry.path), source };
            let fresh = match sys::make_directory(parent.as_fd(), name, stat.disk_mode()) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !self.directories.made.may_have(hash) {
                        self.directories.spelling.check(parent.as_fd(), &entry.path)?;
                    }
                    let existing = sys::metadata(parent.as_fd(), name).map_err(failed)?;
                    if existing.is_some_and(|existing| existing.kind == Kind::Directory) {
                        false
                    } else {
                        sys::remove_file(parent.as_fd(), name).map_err(failed)?;
                        sys::make_directory(parent.as_fd(), name, stat.disk_mode()).map_err(failed)?;
                        true
                    }
                }
                Err(error) => return Err(failed(error)),
            };
            self.directories.made.insert(hash);
            let handle = sys::open_directory_beneath(parent.as_fd(), name).map_err(failed)?;
            if !fresh {
                // What an earlier entry said of it counts no more.
                sys::remove_user_xattrs(handle.as_fd()).map_err(failed)?;
            }
            self.files.finish_directory(handle.as_fd(), &entry.path, stat, &xattrs, fresh)?;
            self.directories.keep(&entry.path, Arc::new(handle));
        }
        self.remember(entry, InventoryKind::Directory, stat.disk_mode(), Some(stat), xattrs)
    }

    fn small_file(
        &mut self,
        entry: &Entry,
        type_bits: u32,
        size: u64,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        self.make_way(&entry.path, directory.as_fd(), name)?;
        let content = self.files.collect(&entry.path, |arena| {
            loop {
                match tar.data(source)? {
                    Data::Bytes(piece) => arena.extend_from_slice(piece),
                    Data::Zeros(count) => arena.extend(std::iter::repeat_n(0, clamped(count))),
                    Data::End => return Ok(()),
                }
            }
        })?;
        let hash = xxh3_128(self.files.content(&content));
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, type_bits));
        self.totals.content_bytes += size;
        self.remember(
            entry,
            InventoryKind::File { size, hash },
            stat.disk_mode(),
            Some(stat),
            xattrs.clone(),
        )?;
        self.files.write_small(directory, content, Attributes { stat, modified: entry.modified, xattrs })?;
        self.now_in_flight(&entry.path)
    }

    fn large_file(
        &mut self,
        entry: &Entry,
        size: u64,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        self.make_way(&entry.path, directory.as_fd(), name)?;
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_FILE));
        let attributes = Attributes { stat, modified: entry.modified, xattrs: xattrs.clone() };
        let mut file = self.files.create_large(directory.as_fd(), &entry.path, size, attributes)?;
        let mut hasher = Xxh3Default::new();
        loop {
            match tar.data(source)? {
                Data::Bytes(piece) => {
                    hasher.update(piece);
                    self.files.append(&mut file, piece)?;
                }
                Data::Zeros(count) => {
                    hash_zeros(&mut hasher, count);
                    self.files.skip(&mut file, count)?;
                }
                Data::End => break,
            }
        }
        self.files.close(file)?;
        self.totals.content_bytes += size;
        let kind = InventoryKind::File { size, hash: hasher.digest128() };
        self.remember(entry, kind, stat.disk_mode(), Some(stat), xattrs)?;
        self.now_in_flight(&entry.path)
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        self.make_way(&entry.path, directory.as_fd(), name)?;
        let failed = |source| LayerError::Write { doing: "create", entry: show(&entry.path), source };
        match sys::make_symlink(directory.as_fd(), name, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.directories.spelling.check(directory.as_fd(), &entry.path)?;
                sys::remove_file(directory.as_fd(), name).map_err(failed)?;
                sys::make_symlink(directory.as_fd(), name, target).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        sys::set_times_at(directory.as_fd(), name, entry.modified).map_err(failed)?;
        self.totals.dropped_xattrs += entry.xattrs.len() as u64;
        self.remember(entry, InventoryKind::Symlink { target: target.to_vec() }, 0o777, None, Vec::new())
    }

    // ----------------------------------------------------------------------------------------------- order

    /// Makes sure that a non-directory can be made at `path`: nothing in flight has the path, no directory is
    /// there. A file, symlink or link that is there is replaced when the entry is made.
    fn make_way(&mut self, path: &[u8], directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), LayerError> {
        let hash = self.directories.hash(path);
        if self.in_flight.contains(&hash) {
            self.wait()?;
        }
        if self.directories.made.may_have(hash) {
            self.wait()?;
            sys::remove_tree(directory, name).map_err(|kept| LayerError::Write {
                doing: "replace",
                entry: show(path),
                source: kept.into(),
            })?;
            self.directories.forget(hash);
        }
        Ok(())
    }

    /// Remembers that the file at `path` is being written.
    fn now_in_flight(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.in_flight.insert(self.directories.hash(path));
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight, then makes the links that waited.
    fn wait(&mut self) -> Result<(), LayerError> {
        self.files.wait()?;
        self.in_flight.clear();
        self.make_links_in_flight()
    }

    // ----------------------------------------------------------------------------------------- directories

    /// The directory at `path`, in which no symlink is followed.
    fn open_directory(&mut self, path: &[u8]) -> Result<io::Result<Arc<OwnedFd>>, LayerError> {
        let opened = self.directories.open(path);
        if !opened.as_ref().is_err_and(sys::is_descriptor_shortage) {
            return Ok(opened);
        }
        // What is kept for later, and what waits for the pool, holds some.
        self.directories.close();
        self.wait()?;
        Ok(self.directories.open(path))
    }

    /// The path of an entry without symlinks on its way, where it has any.
    fn locate(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
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
        let refuse = |reason: &str| LayerError::Entry { entry: show(path), reason: reason.to_owned() };
        loop {
            return match self.directories.resolve(parent, &self.in_flight) {
                Ok(Resolved::InFlight) => {
                    self.wait()?;
                    continue;
                }
                Ok(Resolved::Path(parent, _)) if parent.len() + 1 + name.len() <= MAX_PATH => {
                    Ok(Some(join(&parent, name)))
                }
                Ok(Resolved::Path(..)) | Err(Unresolved::TooLong) => {
                    Err(refuse("its path leads through symlinks to one that is longer than any can be"))
                }
                Err(Unresolved::File) => Err(refuse("its parent is a file in the same layer")),
                Err(Unresolved::Loop) => {
                    Err(refuse("its path leads through too many symlinks, or in a circle of them"))
                }
                Err(Unresolved::Refused(error)) => Err(error),
                Err(Unresolved::Failed(error)) => Err(parent_failed(path, error)),
            };
        }
    }

    /// Makes sure that the directory at `path` is there by that very name.
    fn check_parents(&mut self, path: &[u8]) -> Result<(), LayerError> {
        if self.directories.made.may_have(self.directories.hash(path)) {
            return Ok(());
        }
        for prefix in ancestors(path) {
            let (parent, _) = split(prefix);
            let parent = self.directories.open(parent).map_err(|error| parent_failed(prefix, error))?;
            self.directories.spelling.check(parent.as_fd(), prefix)?;
        }
        Ok(())
    }

    /// The open parent directory of `path`, made if it is missing, and the last component.
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

    fn make_parents(&mut self, parent: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
        let root = self.directories.root();
        let mut directory =
            sys::open_directory_beneath(root.as_fd(), b"").map_err(|error| parent_failed(path, error))?;
        for prefix in ancestors(parent) {
            let (_, name) = split(prefix);
            let made = match sys::make_directory(directory.as_fd(), name, IMPLICIT_DIRECTORY_MODE) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !self.directories.made.may_have(self.directories.hash(prefix)) {
                        self.directories.spelling.check(directory.as_fd(), prefix)?;
                    }
                    false
                }
                Err(error) => return Err(parent_failed(path, error)),
            };
            directory = sys::open_directory_beneath(directory.as_fd(), name)
                .map_err(|error| parent_failed(path, error))?;
            if made {
                self.implicit += 1;
                self.implicit_directory(directory.as_fd(), prefix)?;
            }
        }
        Ok(directory)
    }

    /// Gives a directory that no entry has described (yet) what root's directories have.
    fn implicit_directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        let stat = Stat { uid: 0, gid: 0, type_bits: TYPE_DIRECTORY, mode: IMPLICIT_DIRECTORY_MODE };
        self.files.finish_directory(directory, path, stat, &[], false)?;
        self.directories.made.insert(self.directories.hash(path));
        let mut inventory = InventoryEntry {
            path: path.to_vec(),
            kind: InventoryKind::Directory,
            mode: IMPLICIT_DIRECTORY_MODE,
            modified: None,
            xattrs: Vec::new(),
        };
        self.add_owner_xattr(&mut inventory, stat);
        self.inventory.entry(&inventory).map_err(inventory_failed)
    }

    // ----------------------------------------------------------------------------------------------- inventory

    fn remember(
        &mut self,
        entry: &Entry,
        kind: InventoryKind,
        mode: u32,
        stat: Option<Stat>,
        xattrs: Xattrs,
    ) -> Result<(), LayerError> {
        let modified = Some(entry.modified);
        let mut inventory = InventoryEntry { path: entry.path.clone(), kind, mode, modified, xattrs };
        if let Some(stat) = stat {
            self.add_owner_xattr(&mut inventory, stat);
        }
        self.inventory.entry(&inventory).map_err(inventory_failed)
    }

    fn add_owner_xattr(&self, inventory: &mut InventoryEntry, stat: Stat) {
        if self.files.ownership() == Ownership::OverrideStat {
            inventory.xattrs.insert(0, (OVERRIDE_STAT.to_vec(), stat.text().into_bytes()));
        }
        if self.files.no_xattrs() {
            inventory.xattrs.clear();
        }
    }

    /// The xattrs of an entry that are set on the host; counts the others.
    fn kept_xattrs(&mut self, entry: &Entry) -> Xattrs {
        let kept: Vec<_> = entry
            .xattrs
            .iter()
            .filter(|(name, _)| {
                name.starts_with(b"user.")
                    && !RESERVED_XATTRS.iter().any(|reserved| name.starts_with(reserved))
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        self.totals.dropped_xattrs += (entry.xattrs.len() - kept.len()) as u64;
        kept
    }
}

fn clamped(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn hash_zeros(hasher: &mut Xxh3Default, mut count: u64) {
    const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    while count > 0 {
        let zeros = clamped(count).min(ZEROS.len());
        hasher.update(&ZEROS[..zeros]);
        count -= zeros as u64;
    }
}

/// Sets the times of all directories, after everything in them is made. Later items win, as in the tar.
fn set_directory_times(root: BorrowedFd<'_>, inventory: File) -> Result<(), LayerError> {
    use std::io::Seek as _;
    let mut inventory = inventory;
    inventory.rewind().map_err(inventory_failed)?;
    let mut inventory = InventoryReader::new(inventory).map_err(inventory_failed)?;
    while let Some(entry) = inventory.next_entry().map_err(inventory_failed)? {
        let (InventoryKind::Directory, Some(modified)) = (entry.kind, entry.modified) else { continue };
        // A directory that a later entry replaced is gone, or not a directory: nothing to set.
        if let Ok(directory) = sys::open_directory_beneath(root, &entry.path) {
            sys::set_times(directory.as_fd(), modified).map_err(|source| LayerError::Write {
                doing: "set the times of",
                entry: show(&entry.path),
                source,
            })?;
        }
    }
    Ok(())
}

/// Parent and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The path of `name` in the directory `parent`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// `a`, `a/b`, `a/b/c` of `a/b/c`.
pub(super) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(index, _)| index);
    ends.chain([path.len()]).map(|end| &path[..end])
}

fn is_not_a_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory) || sys::is_symlink_refusal(error)
}

fn parent_failed(path: &[u8], source: io::Error) -> LayerError {
    if is_not_a_directory(&source) {
        LayerError::Entry { entry: show(path), reason: "its parent is a file in the same layer".to_owned() }
    } else {
        LayerError::Write { doing: "create the parent of", entry: show(path), source }
    }
}

fn inventory_failed(source: io::Error) -> LayerError {
    LayerError::Write { doing: "write the record of", entry: "the layer".to_owned(), source }
}
