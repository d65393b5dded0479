//! Entries in, a directory tree out, in parallel and without ever leaving the root.
//!
//! Directories, symlinks and hard links (`links`) are made by the calling thread in tar order; files are written
//! by the pool ([`super::files`]). So that order still means what the tar says, the paths of files in flight are
//! remembered (as hashes) and an entry that touches one of them waits for all.
//!
//! Every directory is opened beneath the root without following any symlink, and every last component is
//! made with `O_EXCL`, `mkdirat`, `symlinkat` or `linkat`; nothing is ever written through an existing name.

mod links;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64_with_seed, xxh3_128};

use super::Workers;
use super::files::{Attributes, FileWriter, OVERRIDE_STAT, Stat, TYPE_DIRECTORY, TYPE_FILE, Xattrs};
use super::record::{RecordEntry, RecordKind, RecordReader, RecordWriter, Totals};
use super::tar::{Entry, EntryKind, Source, TarReader, show};
use crate::error::LayerError;
use crate::state::{LayerFacts, Ownership};
use crate::sys::{self, Kind};

/// Files up to this many bytes go to the pool in batches, larger ones in pieces.
const SMALL_FILE: u64 = 64 * 1024;
/// After so many paths in flight the calling thread waits for the pool, which bounds the memory for hashes.
const MAX_IN_FLIGHT: usize = 16 * 1024;
/// Memory for hard links whose target has not come yet, in bytes of their paths.
const MAX_FORWARD_LINK_BYTES: usize = 8 << 20;
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
    root: Arc<OwnedFd>,
    files: FileWriter<'w>,
    record: RecordWriter<File>,
    totals: Totals,

    /// Hashes of paths whose files or links are not made yet.
    in_flight: HashSet<u64>,
    /// Hard links whose target is in flight: (target, path), made at the next wait.
    waiting_links: Vec<(Vec<u8>, Vec<u8>)>,
    waiting_bytes: usize,
    /// Targets of hard links whose target has not come yet, by path: made at the end.
    forward_links: BTreeMap<Vec<u8>, Vec<u8>>,
    forward_bytes: usize,
    /// Hashes of the paths of all directories made; a superset is harmless.
    directories: HashSet<u64>,
    /// Directories made that no entry had described.
    implicit: u64,
    /// Open handles by path.
    open: HashMap<Vec<u8>, Arc<OwnedFd>>,
    seed: u64,
}

impl<'w> TreeWriter<'w> {
    /// Starts a tree in the empty directory `root`; `record` is an empty file open for reading and writing.
    pub(super) fn new(
        root: OwnedFd,
        record: File,
        ownership: Ownership,
        workers: &'w Workers,
    ) -> Result<Self, LayerError> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let record = RecordWriter::new(record).map_err(record_failed)?;
        let mut tree = Self {
            root: Arc::new(root),
            files: FileWriter::new(ownership, workers),
            record,
            totals: Totals::default(),
            in_flight: HashSet::new(),
            waiting_links: Vec::new(),
            waiting_bytes: 0,
            forward_links: BTreeMap::new(),
            forward_bytes: 0,
            directories: HashSet::new(),
            implicit: 0,
            open: HashMap::new(),
            seed,
        };
        let root = Arc::clone(&tree.root);
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
        entry: &Entry,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        self.totals.entries += 1;
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

    /// Makes what waited for others, sets the directories' times and closes the record.
    ///
    /// Returns the totals, and whether the file system had no xattrs.
    pub(super) fn finish(mut self, tar_bytes: u64, facts: &LayerFacts) -> Result<(Totals, bool), LayerError> {
        self.wait()?;
        self.make_forward_links()?;
        self.totals.tar_bytes = tar_bytes;
        let record = self.record.finish(self.totals, facts).map_err(record_failed)?;
        set_directory_times(self.root.as_fd(), record)?;
        Ok((self.totals, self.files.no_xattrs()))
    }

    // ------------------------------------------------------------------------------------- kinds of entries

    fn directory(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_DIRECTORY));
        if entry.path.is_empty() {
            let failed = |source| LayerError::Write { doing: "create", entry: ".".to_owned(), source };
            sys::remove_user_xattrs(self.root.as_fd()).map_err(failed)?;
            self.files.finish_directory(self.root.as_fd(), &entry.path, stat, &xattrs, false)?;
        } else {
            let (parent, name) = self.parent_of(&entry.path)?;
            let hash = self.hash(&entry.path);
            if self.in_flight.contains(&hash) {
                self.wait()?;
            }
            self.drop_forward_link(&entry.path);
            let failed = |source| LayerError::Write { doing: "create", entry: show(&entry.path), source };
            let fresh = match sys::make_directory(parent.as_fd(), name, stat.disk_mode()) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
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
            self.directories.insert(hash);
            let handle = sys::open_directory_beneath(parent.as_fd(), name).map_err(failed)?;
            if !fresh {
                // What an earlier entry said of it counts no more.
                sys::remove_user_xattrs(handle.as_fd()).map_err(failed)?;
            }
            self.files.finish_directory(handle.as_fd(), &entry.path, stat, &xattrs, fresh)?;
            self.keep_open(&entry.path, Arc::new(handle));
        }
        self.remember(entry, RecordKind::Directory, stat.disk_mode(), Some(stat), xattrs)
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
                let piece = tar.data(source)?;
                if piece.is_empty() {
                    return Ok(());
                }
                arena.extend_from_slice(piece);
            }
        })?;
        let hash = xxh3_128(self.files.content(&content));
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, type_bits));
        self.totals.content_bytes += size;
        self.remember(entry, RecordKind::File { size, hash }, stat.disk_mode(), Some(stat), xattrs.clone())?;
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
            let piece = tar.data(source)?;
            if piece.is_empty() {
                break;
            }
            hasher.update(piece);
            self.files.append(&mut file, piece)?;
        }
        self.files.close(file)?;
        self.totals.content_bytes += size;
        let kind = RecordKind::File { size, hash: hasher.digest128() };
        self.remember(entry, kind, stat.disk_mode(), Some(stat), xattrs)?;
        self.now_in_flight(&entry.path)
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        self.make_way(&entry.path, directory.as_fd(), name)?;
        let failed = |source| LayerError::Write { doing: "create", entry: show(&entry.path), source };
        match sys::make_symlink(directory.as_fd(), name, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                sys::remove_file(directory.as_fd(), name).map_err(failed)?;
                sys::make_symlink(directory.as_fd(), name, target).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        sys::set_times_at(directory.as_fd(), name, entry.modified).map_err(failed)?;
        self.totals.dropped_xattrs += entry.xattrs.len() as u64;
        self.remember(entry, RecordKind::Symlink { target: target.to_vec() }, 0o777, None, Vec::new())
    }

    // ----------------------------------------------------------------------------------------------- order

    /// Makes sure that a non-directory can be made at `path`: nothing in flight has the path, no directory is
    /// there. A file, symlink or link that is there is replaced when the entry is made.
    fn make_way(&mut self, path: &[u8], directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), LayerError> {
        let hash = self.hash(path);
        if self.in_flight.contains(&hash) {
            self.wait()?;
        }
        self.drop_forward_link(path);
        if self.directories.contains(&hash) {
            self.wait()?;
            sys::remove_tree(directory, name).map_err(|kept| LayerError::Write {
                doing: "replace",
                entry: show(path),
                source: kept.into(),
            })?;
            self.directories.remove(&hash);
            self.open.clear();
            // What was to be linked in there is replaced too. `0` is the byte after `/`.
            let within = [path, b"/"].concat()..[path, b"0"].concat();
            for link in self.forward_links.range(within).map(|(link, _)| link.clone()).collect::<Vec<_>>() {
                self.drop_forward_link(&link);
            }
        }
        Ok(())
    }

    /// A later entry replaces a link of that name that is still to be made.
    fn drop_forward_link(&mut self, path: &[u8]) {
        if let Some(target) = self.forward_links.remove(path) {
            self.forward_bytes -= target.len() + path.len() + LINK_BYTES;
        }
    }

    /// Remembers that the file at `path` is being written.
    fn now_in_flight(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let hash = self.hash(path);
        self.in_flight.insert(hash);
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight, then makes the links that waited.
    fn wait(&mut self) -> Result<(), LayerError> {
        self.files.wait()?;
        self.in_flight.clear();
        self.waiting_bytes = 0;
        for (target, path) in std::mem::take(&mut self.waiting_links) {
            if !self.make_link(&target, &path)? {
                return Err(links::missing_target(&path, &target));
            }
        }
        Ok(())
    }

    // ----------------------------------------------------------------------------------------- directories

    /// The open parent directory of `path`, made if it is missing, and the last component.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8]), LayerError> {
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok((Arc::clone(&self.root), name));
        }
        if let Some(directory) = self.open.get(parent) {
            return Ok((Arc::clone(directory), name));
        }
        let mut opened = sys::open_directory_beneath(self.root.as_fd(), parent);
        if opened.as_ref().is_err_and(sys::is_descriptor_shortage) {
            // What is kept for later, and what waits for the pool, holds some.
            self.open.clear();
            self.wait()?;
            opened = sys::open_directory_beneath(self.root.as_fd(), parent);
        }
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let in_flight = ancestors(parent).any(|path| self.in_flight.contains(&self.hash(path)));
                if in_flight {
                    self.wait()?;
                }
                self.make_parents(parent, path)?
            }
            other => other.map_err(|error| parent_failed(path, error))?,
        };
        let opened = Arc::new(opened);
        self.keep_open(parent, Arc::clone(&opened));
        Ok((opened, name))
    }

    fn make_parents(&mut self, parent: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
        let mut directory = sys::open_directory_beneath(self.root.as_fd(), b"")
            .map_err(|error| parent_failed(path, error))?;
        for prefix in ancestors(parent) {
            let (_, name) = split(prefix);
            let made = match sys::make_directory(directory.as_fd(), name, IMPLICIT_DIRECTORY_MODE) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(parent_failed(path, error)),
            };
            directory = sys::open_directory_beneath(directory.as_fd(), name)
                .map_err(|error| parent_failed(path, error))?;
            if made {
                self.implicit += 1;
                self.drop_forward_link(prefix);
                self.implicit_directory(directory.as_fd(), prefix)?;
            }
        }
        Ok(directory)
    }

    /// Gives a directory that no entry has described (yet) what root's directories have.
    fn implicit_directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), LayerError> {
        let stat = Stat { uid: 0, gid: 0, type_bits: TYPE_DIRECTORY, mode: IMPLICIT_DIRECTORY_MODE };
        self.files.finish_directory(directory, path, stat, &[], false)?;
        let hash = self.hash(path);
        self.directories.insert(hash);
        let mut record = RecordEntry {
            path: path.to_vec(),
            kind: RecordKind::Directory,
            mode: IMPLICIT_DIRECTORY_MODE,
            modified: None,
            xattrs: Vec::new(),
        };
        self.add_owner_xattr(&mut record, stat);
        self.record.entry(&record).map_err(record_failed)
    }

    fn keep_open(&mut self, path: &[u8], directory: Arc<OwnedFd>) {
        if self.open.len() >= self.files.open_directories() {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), directory);
    }

    // ----------------------------------------------------------------------------------------------- record

    fn remember(
        &mut self,
        entry: &Entry,
        kind: RecordKind,
        mode: u32,
        stat: Option<Stat>,
        xattrs: Xattrs,
    ) -> Result<(), LayerError> {
        let modified = Some(entry.modified);
        let mut record = RecordEntry { path: entry.path.clone(), kind, mode, modified, xattrs };
        if let Some(stat) = stat {
            self.add_owner_xattr(&mut record, stat);
        }
        self.record.entry(&record).map_err(record_failed)
    }

    fn add_owner_xattr(&self, record: &mut RecordEntry, stat: Stat) {
        if self.files.ownership() == Ownership::OverrideStat {
            record.xattrs.insert(0, (OVERRIDE_STAT.to_vec(), stat.text().into_bytes()));
        }
        if self.files.no_xattrs() {
            record.xattrs.clear();
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

    fn hash(&self, path: &[u8]) -> u64 {
        xxh3_64_with_seed(path, self.seed)
    }
}

/// Sets the times of all directories, after everything in them is made. Later items win, as in the tar.
fn set_directory_times(root: BorrowedFd<'_>, record: File) -> Result<(), LayerError> {
    use std::io::Seek as _;
    let mut record = record;
    record.rewind().map_err(record_failed)?;
    let mut record = RecordReader::new(record).map_err(record_failed)?;
    while let Some(entry) = record.next_entry().map_err(record_failed)? {
        let (RecordKind::Directory, Some(modified)) = (entry.kind, entry.modified) else { continue };
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
        LayerError::Entry {
            entry: show(path),
            reason: "its parent is a symlink or a file in the same layer".to_owned(),
        }
    } else {
        LayerError::Write { doing: "create the parent of", entry: show(path), source }
    }
}

fn record_failed(source: io::Error) -> LayerError {
    LayerError::Write { doing: "write the record of", entry: "the layer".to_owned(), source }
}
