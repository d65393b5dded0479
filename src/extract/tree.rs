//! Entries in, a directory tree out, in parallel and without ever leaving the root.
//!
//! Directories, symlinks and hard links ([`links`]) are made by the calling thread in tar order;
//! files are written by the pool. What is there already, and what is on its way, the [`ground`]
//! knows.
//!
//! A path may lead through symlinks of the layer, which mean what they mean inside
//! ([`directories`]). Every directory is opened beneath the root without following any symlink, and
//! every last component is made with `O_EXCL`, `mkdirat`, `symlinkat` or `linkat`; nothing is ever
//! written through an existing name.

mod directories;
mod ground;
mod links;
mod path_set;

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use self::ground::Ground;
use self::links::HardLinks;
use super::attributes::{Attributes, Stat, TYPE_DIRECTORY, TYPE_FILE, Xattrs, is_kept};
use super::inventory::{InventoryEntry, InventoryKind, InventoryReader, Totals, inventory_failed};
use super::paths::failed;
use super::tar::{Data, Entry, EntryKind, Source, TarReader};
use super::workers::Workers;
use crate::error::LayerError;
use crate::state::{LayerFacts, Ownership};
use crate::sys;

/// Files up to this many bytes go to the pool in batches, larger ones in pieces.
const SMALL_FILE: u64 = 64 * 1024;

/// Writes one layer's tree.
pub(super) struct TreeWriter<'w> {
    ground: Ground<'w>,
    links: HardLinks,
    totals: Totals,
}

impl<'w> TreeWriter<'w> {
    /// Starts a tree in the empty directory `root`; `inventory` is an empty file open for reading
    /// and writing.
    pub(super) fn new(
        root: OwnedFd,
        inventory: File,
        ownership: Ownership,
        workers: &'w Workers,
    ) -> Result<Self, LayerError> {
        let ground = Ground::new(root, inventory, ownership, workers)?;
        Ok(Self { ground, links: HardLinks::default(), totals: Totals::default() })
    }

    /// Writes one entry; a file's data is read from `source`.
    pub(super) fn entry(
        &mut self,
        mut entry: Entry,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        self.totals.entries += 1;
        if let Some(path) = self.ground.locate(&entry.path)? {
            entry.path = path;
        }
        let entry = &entry;
        match &entry.kind {
            EntryKind::Directory => self.directory(entry),
            EntryKind::File { size } if *size <= SMALL_FILE => {
                self.small_file(entry, TYPE_FILE, *size, tar, source)
            }
            EntryKind::File { size } => self.large_file(entry, *size, tar, source),
            EntryKind::Special { type_bits } => self.small_file(entry, *type_bits, 0, tar, source),
            EntryKind::Symlink { target } => self.symlink(entry, target),
            EntryKind::HardLink { target } => {
                self.links.entry(&mut self.ground, &entry.path, target, entry.modified)
            }
        }
    }

    /// The number of directories made so far because the path of an entry needs them.
    pub(super) fn implicit_directories(&self) -> u64 {
        self.ground.implicit_directories()
    }

    /// Makes the entries that waited for others, sets the directories' times and closes the
    /// inventory.
    ///
    /// Returns the totals, and whether the file system had no xattrs.
    pub(super) fn finish(mut self, tar_bytes: u64, facts: &LayerFacts) -> Result<(Totals, bool), LayerError> {
        self.ground.wait()?;
        self.links.finish(&mut self.ground)?;
        self.totals.tar_bytes = tar_bytes;
        let (root, no_xattrs) = (self.ground.root(), self.ground.attributes.no_xattrs());
        let inventory = self.ground.inventory.finish(self.totals, facts).map_err(inventory_failed)?;
        set_directory_times(root.as_fd(), inventory)?;
        Ok((self.totals, no_xattrs))
    }

    // ---------------------------------------------------------------------------- kinds of entries

    fn directory(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_DIRECTORY));
        let path = &entry.path;
        let (directory, fresh) = if path.is_empty() {
            (self.ground.root(), false)
        } else {
            self.ground.make_directory(path, stat.disk_mode())?
        };
        if !fresh {
            // An earlier entry's attributes count no more.
            sys::remove_user_xattrs(directory.as_fd()).map_err(failed("create", path))?;
        }
        self.ground.attributes.set(directory.as_fd(), path, stat, &xattrs, fresh)?;
        self.note(entry, InventoryKind::Directory, stat, xattrs)
    }

    fn small_file(
        &mut self,
        entry: &Entry,
        type_bits: u32,
        size: u64,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        let (directory, _) = self.ground.make_way(&entry.path)?;
        let content = self.ground.files.collect(&entry.path, |arena| {
            loop {
                match tar.data(source)? {
                    Data::Bytes(piece) => arena.extend_from_slice(piece),
                    Data::Zeros(count) => arena.extend(std::iter::repeat_n(0, clamped(count))),
                    Data::End => return Ok(()),
                }
            }
        })?;
        let hash = xxh3_128(self.ground.files.content(&content));
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, type_bits));
        self.totals.content_bytes += size;
        self.note(entry, InventoryKind::File { size, hash }, stat, xattrs.clone())?;
        let attributes = Attributes { stat, modified: entry.modified, xattrs };
        self.ground.files.write_small(directory, content, attributes)?;
        self.ground.now_in_flight(&entry.path)
    }

    fn large_file(
        &mut self,
        entry: &Entry,
        size: u64,
        tar: &mut TarReader,
        source: &mut impl Source,
    ) -> Result<(), LayerError> {
        let (directory, _) = self.ground.make_way(&entry.path)?;
        let (xattrs, stat) = (self.kept_xattrs(entry), Stat::of(entry, TYPE_FILE));
        let attributes = Attributes { stat, modified: entry.modified, xattrs: xattrs.clone() };
        let files = &mut self.ground.files;
        let mut file = files.create_large(directory.as_fd(), &entry.path, size, attributes)?;
        let mut hasher = Xxh3Default::new();
        loop {
            match tar.data(source)? {
                Data::Bytes(piece) => {
                    hasher.update(piece);
                    files.append(&mut file, piece)?;
                }
                Data::Zeros(count) => {
                    hash_zeros(&mut hasher, count);
                    files.skip(&mut file, count)?;
                }
                Data::End => break,
            }
        }
        files.close(file)?;
        self.totals.content_bytes += size;
        self.note(entry, InventoryKind::File { size, hash: hasher.digest128() }, stat, xattrs)?;
        self.ground.now_in_flight(&entry.path)
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), LayerError> {
        let (directory, name) = self.ground.make_way(&entry.path)?;
        let directory = directory.as_fd();
        let failed = failed("create", &entry.path);
        match sys::make_symlink(directory, name, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.ground.check_spelling(directory, &entry.path)?;
                sys::remove_file(directory, name).map_err(failed)?;
                sys::make_symlink(directory, name, target).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        sys::set_times_at(directory, name, entry.modified).map_err(failed)?;
        self.totals.dropped_xattrs += entry.xattrs.len() as u64;
        self.note_as(entry, InventoryKind::Symlink { target: target.to_vec() }, 0o777, Vec::new())
    }

    // ----------------------------------------------------------------------------------- inventory

    /// Notes an entry that has an owner and `xattrs` on disk.
    fn note(
        &mut self,
        entry: &Entry,
        kind: InventoryKind,
        stat: Stat,
        xattrs: Xattrs,
    ) -> Result<(), LayerError> {
        let xattrs = self.ground.attributes.on_disk(stat, xattrs);
        self.note_as(entry, kind, stat.disk_mode(), xattrs)
    }

    fn note_as(
        &mut self,
        entry: &Entry,
        kind: InventoryKind,
        mode: u32,
        xattrs: Xattrs,
    ) -> Result<(), LayerError> {
        let (path, modified) = (entry.path.clone(), Some(entry.modified));
        let item = InventoryEntry { path, kind, mode, modified, xattrs };
        self.ground.inventory.entry(&item).map_err(inventory_failed)
    }

    /// The xattrs of an entry that are set on the host; counts the others.
    fn kept_xattrs(&mut self, entry: &Entry) -> Xattrs {
        let kept = entry.xattrs.iter().filter(|(name, _)| is_kept(name));
        let kept: Xattrs = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
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

/// Sets the times of all directories, after everything in them is made. Later items win, as in the
/// tar.
fn set_directory_times(root: BorrowedFd<'_>, mut inventory: File) -> Result<(), LayerError> {
    inventory.rewind().map_err(inventory_failed)?;
    let mut inventory = InventoryReader::new(inventory).map_err(inventory_failed)?;
    while let Some(entry) = inventory.next_entry().map_err(inventory_failed)? {
        let (InventoryKind::Directory, Some(modified)) = (entry.kind, entry.modified) else { continue };
        // A directory that a later entry replaced is gone, or not a directory: nothing to set.
        if let Ok(directory) = sys::open_directory_beneath(root, &entry.path) {
            sys::set_times(directory.as_fd(), modified).map_err(failed("set the times of", &entry.path))?;
        }
    }
    Ok(())
}
