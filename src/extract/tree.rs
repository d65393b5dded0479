//! Entries in, a directory tree out, in parallel and without ever leaving the root.
//!
//! Directories, symlinks, hard links and large files are made by the calling thread in tar order; small files
//! are collected into batches that a rayon pool writes. So that order still means what the tar says, the
//! paths of files in flight are remembered (as hashes) and an entry that touches one of them waits for all.
//!
//! Every directory is opened beneath the root without following any symlink, and every last component is
//! made with `O_EXCL`, `mkdirat`, `symlinkat` or `linkat`; nothing is ever written through an existing name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64_with_seed, xxh3_128};

use super::record::{RecordEntry, RecordKind, RecordReader, RecordWriter, Totals};
use super::tar::{Entry, EntryKind, Source, TarReader, show};
use super::{Budget, Workers};
use crate::error::LayerError;
use crate::state::{LayerFacts, Ownership};
use crate::sys::{self, FileTime, Kind};

/// Files up to this many bytes are written by the pool; larger ones stream through the calling thread.
const SMALL_FILE: u64 = 64 * 1024;
/// A batch goes to the pool with this many bytes or files.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_FILES: usize = 64;
/// After so many paths in flight the calling thread waits for the pool, which bounds the memory for hashes.
const MAX_IN_FLIGHT: usize = 16 * 1024;
/// Directory handles kept open for the entries to come.
const MAX_OPEN_DIRECTORIES: usize = 128;
/// Memory for hard links whose target has not come yet, in bytes of their paths.
const MAX_FORWARD_LINK_BYTES: usize = 8 << 20;
/// Memory for hard links whose target is in flight, in bytes of their paths.
const MAX_WAITING_LINK_BYTES: usize = 1 << 20;
/// What one open directory that a batch holds counts in the memory budget: descriptors are scarcer than memory.
const BYTES_PER_DIRECTORY: usize = 32 * 1024;
/// Bytes of a link that is remembered, beside its paths.
const LINK_BYTES: usize = 64;
/// Mode of directories that no entry describes.
const IMPLICIT_DIRECTORY_MODE: u32 = 0o755;

/// The xattr by which container tools and libkrun keep owner and mode (containers/storage `override_stat`).
const OVERRIDE_STAT: &[u8] = b"user.containers.override_stat";
/// `user.*` namespaces that container tools interpret; a tar must not speak to them.
const RESERVED_XATTRS: [&[u8]; 4] =
    [b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.vm."];

/// File type bits of `st_mode`.
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;

/// Who owns an entry inside the microVM, and its mode there.
#[derive(Clone, Copy)]
struct Stat {
    uid: u64,
    gid: u64,
    type_bits: u32,
    mode: u32,
}

impl Stat {
    fn of(entry: &Entry, type_bits: u32) -> Self {
        Self { uid: entry.uid, gid: entry.gid, type_bits, mode: entry.mode }
    }

    fn text(self) -> String {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.type_bits | self.mode)
    }
}

/// What all writers of one layer share.
struct Shared {
    ownership: Ownership,
    umask: u32,
    budget: Arc<Budget>,
    /// Whether the file system turned out to have no xattrs.
    no_xattrs: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    batches: usize,
    error: Option<LayerError>,
}

impl Shared {
    /// Sets xattrs, mode and times of a fresh file or directory; returns nothing that must be undone.
    fn finish(
        &self,
        file: BorrowedFd<'_>,
        name: &[u8],
        stat: Stat,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        fresh: bool,
    ) -> Result<(), LayerError> {
        let failed = |doing| move |source| LayerError::Write { doing, entry: show(name), source };
        if !self.no_xattrs.load(Ordering::Relaxed) {
            let mut supported = true;
            if self.ownership == Ownership::OverrideStat {
                supported = sys::set_xattr(file, OVERRIDE_STAT, stat.text().as_bytes())
                    .map_err(failed("set the owner xattr of"))?;
            }
            for (key, value) in xattrs {
                supported &= sys::set_xattr(file, key, value).map_err(|source| {
                    // Not this machine is short of anything: the layer asks for what cannot be.
                    if sys::is_impossible_xattr(&source, file) {
                        let reason =
                            format!("its extended attribute {:?} cannot be set: {source}", show(key));
                        return LayerError::Entry { entry: show(name), reason };
                    }
                    failed("set the extended attributes of")(source)
                })?;
            }
            if !supported {
                self.no_xattrs.store(true, Ordering::Relaxed);
            }
        }
        let mode = disk_mode(stat);
        // A fresh file got its mode at creation, less the umask.
        if !fresh || mode & self.umask != 0 {
            sys::set_mode(file, mode).map_err(failed("set the mode of"))?;
        }
        Ok(())
    }
}

/// The mode on disk: never setuid, setgid or sticky, always usable by the owner.
fn disk_mode(stat: Stat) -> u32 {
    let usable = if stat.type_bits == TYPE_DIRECTORY { 0o700 } else { 0o600 };
    stat.mode & 0o777 | usable
}

/// Small files that one pool job writes.
#[derive(Default)]
struct Batch {
    files: Vec<SmallFile>,
    /// Paths and contents, one after the other.
    arena: Vec<u8>,
    /// What else the files hold: their extended attributes, and directories kept open.
    more: usize,
}

struct SmallFile {
    directory: Arc<OwnedFd>,
    path: Range<usize>,
    data: Range<usize>,
    stat: Stat,
    modified: FileTime,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Batch {
    fn write(&self, shared: &Shared) -> Result<(), LayerError> {
        for file in &self.files {
            let path = &self.arena[file.path.clone()];
            let (_, name) = split(path);
            let failed = |doing| move |source| LayerError::Write { doing, entry: show(path), source };
            let mut handle =
                create(file.directory.as_fd(), name, disk_mode(file.stat)).map_err(failed("create"))?;
            let data = &self.arena[file.data.clone()];
            if !data.is_empty() {
                handle.write_all(data).map_err(failed("write"))?;
            }
            shared.finish(handle.as_fd(), path, file.stat, &file.xattrs, true)?;
            sys::set_times(handle.as_fd(), file.modified).map_err(failed("set the times of"))?;
        }
        Ok(())
    }
}

/// Creates a file in place of whatever non-directory has its name.
fn create(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<File> {
    match sys::create_file(directory, name, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            sys::remove_file(directory, name)?;
            sys::create_file(directory, name, mode)
        }
        other => other,
    }
}

/// Writes one layer's tree.
pub(super) struct TreeWriter<'w> {
    root: Arc<OwnedFd>,
    workers: &'w Workers,
    shared: Arc<Shared>,
    record: RecordWriter<File>,
    totals: Totals,

    batch: Batch,
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
    _wait: WaitForPool,
}

impl<'w> TreeWriter<'w> {
    /// Starts a tree in the empty directory `root`; `record` is an empty file open for reading and writing.
    pub(super) fn new(
        root: OwnedFd,
        record: File,
        ownership: Ownership,
        workers: &'w Workers,
    ) -> Result<Self, LayerError> {
        let shared = Arc::new(Shared {
            ownership,
            umask: workers.umask,
            budget: Arc::clone(&workers.budget),
            no_xattrs: AtomicBool::new(false),
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let record = RecordWriter::new(record).map_err(record_failed)?;
        let wait = WaitForPool(Arc::clone(&shared));
        let mut tree = Self {
            root: Arc::new(root),
            workers,
            shared,
            record,
            totals: Totals::default(),
            batch: Batch::default(),
            in_flight: HashSet::new(),
            waiting_links: Vec::new(),
            waiting_bytes: 0,
            forward_links: BTreeMap::new(),
            forward_bytes: 0,
            directories: HashSet::new(),
            implicit: 0,
            open: HashMap::new(),
            seed,
            _wait: wait,
        };
        let root = Arc::clone(&tree.root);
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
        Ok((self.totals, self.shared.no_xattrs.load(Ordering::Relaxed)))
    }

    // ------------------------------------------------------------------------------------- kinds of entries

    fn directory(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_DIRECTORY));
        if entry.path.is_empty() {
            let failed = |source| LayerError::Write { doing: "create", entry: ".".to_owned(), source };
            sys::remove_user_xattrs(self.root.as_fd()).map_err(failed)?;
            self.shared.finish(self.root.as_fd(), &entry.path, stat, &xattrs, false)?;
        } else {
            let (parent, name) = self.parent_of(&entry.path)?;
            let hash = self.hash(&entry.path);
            if self.in_flight.contains(&hash) {
                self.wait()?;
            }
            self.drop_forward_link(&entry.path);
            let failed = |source| LayerError::Write { doing: "create", entry: show(&entry.path), source };
            let fresh = match sys::make_directory(parent.as_fd(), name, disk_mode(stat)) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let existing = sys::metadata(parent.as_fd(), name).map_err(failed)?;
                    if existing.is_some_and(|existing| existing.kind == Kind::Directory) {
                        false
                    } else {
                        sys::remove_file(parent.as_fd(), name).map_err(failed)?;
                        sys::make_directory(parent.as_fd(), name, disk_mode(stat)).map_err(failed)?;
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
            self.shared.finish(handle.as_fd(), &entry.path, stat, &xattrs, fresh)?;
            self.keep_open(&entry.path, Arc::new(handle));
        }
        self.remember(entry, RecordKind::Directory, disk_mode(stat), Some(stat), xattrs)
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
        let path_start = self.batch.arena.len();
        self.batch.arena.extend_from_slice(&entry.path);
        let data_start = self.batch.arena.len();
        loop {
            let piece = tar.data(source)?;
            if piece.is_empty() {
                break;
            }
            self.batch.arena.extend_from_slice(piece);
        }
        let end = self.batch.arena.len();
        let hash = xxh3_128(&self.batch.arena[data_start..end]);
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, type_bits));
        self.totals.content_bytes += size;
        self.remember(entry, RecordKind::File { size, hash }, disk_mode(stat), Some(stat), xattrs.clone())?;
        self.batch.more += xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.batch.files.last().is_none_or(|last| !Arc::ptr_eq(&last.directory, &directory)) {
            self.batch.more += BYTES_PER_DIRECTORY;
        }
        self.batch.files.push(SmallFile {
            directory,
            path: path_start..data_start,
            data: data_start..end,
            stat,
            modified: entry.modified,
            xattrs,
        });
        let hash = self.hash(&entry.path);
        self.in_flight.insert(hash);
        let bytes = self.batch.arena.len() + self.batch.more;
        if bytes >= BATCH_BYTES || self.batch.files.len() >= BATCH_FILES {
            self.dispatch()?;
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.wait()?;
        }
        Ok(())
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
        let failed = |doing| {
            let entry = show(&entry.path);
            move |source| LayerError::Write { doing, entry, source }
        };
        let stat = Stat::of(entry, TYPE_FILE);
        let mut file = create(directory.as_fd(), name, disk_mode(stat)).map_err(failed("create"))?;
        let mut hasher = Xxh3Default::new();
        loop {
            let piece = tar.data(source)?;
            if piece.is_empty() {
                break;
            }
            hasher.update(piece);
            file.write_all(piece).map_err(failed("write"))?;
        }
        let xattrs = self.kept_xattrs(entry);
        self.shared.finish(file.as_fd(), &entry.path, stat, &xattrs, true)?;
        sys::set_times(file.as_fd(), entry.modified).map_err(failed("set the times of"))?;
        self.totals.content_bytes += size;
        let kind = RecordKind::File { size, hash: hasher.digest128() };
        self.remember(entry, kind, disk_mode(stat), Some(stat), xattrs)
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

    fn hard_link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.parent_of(&entry.path)?;
        let same = target == entry.path;
        if !same {
            self.make_way(&entry.path, directory.as_fd(), name)?;
        }
        self.remember(entry, RecordKind::HardLink { target: target.to_vec() }, 0, None, Vec::new())?;
        let (target_hash, hash) = (self.hash(target), self.hash(&entry.path));
        if self.in_flight.contains(&target_hash) {
            self.in_flight.insert(hash);
            self.waiting_bytes += target.len() + entry.path.len() + LINK_BYTES;
            self.waiting_links.push((target.to_vec(), entry.path.clone()));
            if self.waiting_bytes > MAX_WAITING_LINK_BYTES {
                self.wait()?;
            }
            return Ok(());
        }
        if !self.make_link(target, &entry.path)? {
            self.forward_bytes += target.len() + entry.path.len() + LINK_BYTES;
            if self.forward_bytes > MAX_FORWARD_LINK_BYTES {
                return Err(LayerError::Entry {
                    entry: show(&entry.path),
                    reason: "too many hard links stand before their targets".to_owned(),
                });
            }
            self.forward_links.insert(entry.path.clone(), target.to_vec());
        }
        Ok(())
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
            sys::remove_tree(directory, name).map_err(|source| LayerError::Write {
                doing: "replace",
                entry: show(path),
                source,
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

    /// Hands the batch to the pool, as soon as the memory budget allows.
    fn dispatch(&mut self) -> Result<(), LayerError> {
        if self.batch.files.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch.arena.reserve(BATCH_BYTES);
        let bytes = batch.arena.capacity() + batch.more;
        self.shared.budget.acquire(bytes);
        {
            let mut progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = progress.error.take() {
                self.shared.budget.release(bytes);
                return Err(error);
            }
            progress.batches += 1;
        }
        let shared = Arc::clone(&self.shared);
        self.workers.pool.spawn(move || {
            let result = batch.write(&shared);
            drop(batch);
            shared.budget.release(bytes);
            let mut progress = shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.batches -= 1;
            if let Err(error) = result {
                progress.error.get_or_insert(error);
            }
            shared.changed.notify_all();
        });
        Ok(())
    }

    /// Waits until nothing is in flight, then makes the links that waited.
    fn wait(&mut self) -> Result<(), LayerError> {
        self.dispatch()?;
        {
            let progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let mut progress = self
                .shared
                .changed
                .wait_while(progress, |progress| progress.batches > 0)
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = progress.error.take() {
                return Err(error);
            }
        }
        self.in_flight.clear();
        self.waiting_bytes = 0;
        for (target, path) in std::mem::take(&mut self.waiting_links) {
            if !self.make_link(&target, &path)? {
                return Err(missing_target(&path, &target));
            }
        }
        Ok(())
    }

    fn make_forward_links(&mut self) -> Result<(), LayerError> {
        let links: Vec<(Vec<u8>, Vec<u8>)> = std::mem::take(&mut self.forward_links).into_iter().collect();
        let by_path: HashMap<&[u8], usize> =
            links.iter().enumerate().map(|(index, (path, _))| (path.as_slice(), index)).collect();
        let mut visited = vec![false; links.len()];
        // A target may itself be one of these links: make that one first. Each is visited once, so a long
        // chain costs no more than its length and a circle ends.
        for first in 0..links.len() {
            let mut chain = vec![first];
            while let Some(&index) = chain.last() {
                let (path, target) = &links[index];
                if self.make_link(target, path)? {
                    chain.pop();
                    continue;
                }
                match by_path.get(target.as_slice()) {
                    Some(&next) if !std::mem::replace(&mut visited[next], true) => chain.push(next),
                    _ => return Err(missing_target(path, target)),
                }
            }
        }
        Ok(())
    }

    /// Links `path` to `target`; `false` if there is no target yet.
    fn make_link(&mut self, target: &[u8], path: &[u8]) -> Result<bool, LayerError> {
        let failed = |source| LayerError::Write { doing: "link", entry: show(path), source };
        let refuse = |reason: String| LayerError::Entry { entry: show(path), reason };
        let (target_parent, target_name) = split(target);
        let target_directory = match self.open.get(target_parent) {
            Some(directory) => Arc::clone(directory),
            None => match sys::open_directory_beneath(self.root.as_fd(), target_parent) {
                Ok(directory) => Arc::new(directory),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) if is_not_a_directory(&error) => {
                    return Err(refuse(format!(
                        "its link target {:?} is behind a symlink or a file",
                        show(target)
                    )));
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let Some(from) = sys::metadata(target_directory.as_fd(), target_name).map_err(failed)? else {
            return Ok(false);
        };
        if from.kind == Kind::Directory {
            return Err(refuse(format!("a hard link to the directory {:?}", show(target))));
        }
        let (directory, name) = self.parent_of(path)?;
        if let Some(existing) = sys::metadata(directory.as_fd(), name).map_err(failed)? {
            if existing.inode == from.inode {
                return Ok(true);
            }
            sys::remove_file(directory.as_fd(), name).map_err(failed)?;
        }
        sys::make_hard_link(target_directory.as_fd(), target_name, directory.as_fd(), name)
            .map_err(failed)?;
        Ok(true)
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
        let opened = match sys::open_directory_beneath(self.root.as_fd(), parent) {
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
        self.shared.finish(directory, path, stat, &[], false)?;
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
        if self.open.len() >= MAX_OPEN_DIRECTORIES {
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
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), LayerError> {
        let modified = Some(entry.modified);
        let mut record = RecordEntry { path: entry.path.clone(), kind, mode, modified, xattrs };
        if let Some(stat) = stat {
            self.add_owner_xattr(&mut record, stat);
        }
        self.record.entry(&record).map_err(record_failed)
    }

    fn add_owner_xattr(&self, record: &mut RecordEntry, stat: Stat) {
        if self.shared.ownership == Ownership::OverrideStat {
            record.xattrs.insert(0, (OVERRIDE_STAT.to_vec(), stat.text().into_bytes()));
        }
        if self.shared.no_xattrs.load(Ordering::Relaxed) {
            record.xattrs.clear();
        }
    }

    /// The xattrs of an entry that are set on the host; counts the others.
    fn kept_xattrs(&mut self, entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
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

/// Waits for the pool when it is dropped: a tree that failed is removed next, and no job may write into it.
struct WaitForPool(Arc<Shared>);

impl Drop for WaitForPool {
    fn drop(&mut self) {
        let progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.changed.wait_while(progress, |progress| progress.batches > 0));
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

fn missing_target(path: &[u8], target: &[u8]) -> LayerError {
    LayerError::Entry {
        entry: show(path),
        reason: format!("its hard link target {:?} is not in the layer", show(target)),
    }
}

fn record_failed(source: io::Error) -> LayerError {
    LayerError::Write { doing: "write the record of", entry: "the layer".to_owned(), source }
}
