//! The frame of the layout: its mark, its index, and the directories of blobs.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::names::{ALGORITHMS, BLOBS, KEPT, algorithm_place, blobs_of};
use crate::digest::Algorithm;
use crate::error::StoreError;
use crate::store::directories::{PRIVATE_MODE, make_directory};
use crate::store::names::FILE_MODE;
use crate::sys;

/// The mark of a layout, and what it says.
const MARK: &str = "oci-layout";
const MARKED: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The index of a layout, and one that names nothing.
pub(super) const INDEX: &str = "index.json";
const NO_IMAGES: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// The end of an index.
const INDEX_END: &[u8] = b"]}";
/// The name of a layout that is being made, beside the one that it becomes.
const NEW: &str = ".blobs.new";

/// The layout of kept blobs, opened to be written.
#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    root: OwnedFd,
    blobs: OwnedFd,
}

impl Layout {
    /// Opens the layout of `home`, made where there is none; one that lacks something gets it.
    ///
    /// # Errors
    /// A directory or file of it is a symlink, another user's, or something else; the system's.
    pub(super) fn make(home: &Path) -> Result<Self, StoreError> {
        let path = blobs_of(home);
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            make_whole(home)?;
        }
        let root = make_directory(&path, PRIVATE_MODE)?;
        let blobs = complete(root.as_fd(), &path)?;
        Ok(Self { path, root, blobs })
    }

    /// Opens the directory of blobs with digests of one algorithm, made where it is missing.
    pub(super) fn algorithm(&self, algorithm: Algorithm) -> Result<OwnedFd, StoreError> {
        sys::make_own_directory_at(self.blobs.as_fd(), algorithm.as_str(), PRIVATE_MODE)
            .map_err(StoreError::io("use the directory", algorithm_place(&self.path, algorithm)))
    }

    /// Has the index say `bytes`, unless it does.
    pub(super) fn write_index(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let root = self.root.as_fd();
        let write = || {
            match sys::read_own_file(root, INDEX.as_bytes(), bytes.len() as u64) {
                Ok(found) if found == bytes => return Ok(()),
                Err(error) if sys::refusal(&error).is_some() => return Err(error),
                _ => {}
            }
            put(root, INDEX, bytes)
        };
        write().map_err(StoreError::io("write", self.path.join(INDEX)))
    }

    /// Makes the names of its files durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sys::sync(self.root.as_fd()).map_err(StoreError::io("sync", &self.path))
    }
}

/// Makes a layout without images, and gives it its name when it is whole.
fn make_whole(home: &Path) -> Result<(), StoreError> {
    let path = home.join(NEW);
    let failed = || StoreError::io("create the directory", &path);
    let home = sys::open_directory(home).map_err(StoreError::io("open", home))?;
    let new = sys::make_own_directory_at(home.as_fd(), NEW, PRIVATE_MODE).map_err(failed())?;
    let blobs = complete(new.as_fd(), &path)?;
    let name = || {
        sys::sync(blobs.as_fd())?;
        sys::sync(new.as_fd())?;
        sys::rename_new(home.as_fd(), NEW.as_bytes(), home.as_fd(), KEPT.as_bytes())?;
        sys::sync(home.as_fd())
    };
    name().map_err(failed())
}

/// Makes what the layout at `path` lacks, and opens its directory of blobs.
fn complete(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, StoreError> {
    for (name, bytes) in [(MARK, MARKED), (INDEX, NO_IMAGES)] {
        let there = sys::has_own_file(root, name.as_bytes());
        // Whoever has something to say in the index writes all of it.
        let is_sound = |there| there && (name == INDEX || is_marked(root));
        let made = there.and_then(|there| if is_sound(there) { Ok(()) } else { put(root, name, bytes) });
        made.map_err(StoreError::io("write", path.join(name)))?;
    }
    let make = |parent: BorrowedFd<'_>, name: &str, path: PathBuf| {
        sys::make_own_directory_at(parent, name, PRIVATE_MODE)
            .map_err(StoreError::io("use the directory", path))
    };
    let blobs = make(root, BLOBS, path.join(BLOBS))?;
    make(blobs.as_fd(), ALGORITHMS[0].as_str(), algorithm_place(path, ALGORITHMS[0]))?;
    Ok(blobs)
}

/// Finds the mark or the index of the layout `root`, if it is not there as a run writes it. Of the
/// index both ends are looked at.
pub(super) fn damaged_file(root: &Path) -> Option<PathBuf> {
    // A root that cannot be opened is told of by whoever needs it.
    let opened = sys::open_own_directory(root).ok()?;
    if !is_marked(opened.as_fd()) {
        return Some(root.join(MARK));
    }
    (!has_index(opened.as_fd()).unwrap_or(false)).then(|| root.join(INDEX))
}

/// Tells whether the directory `root` is a layout as a run writes it. Its index may be missing, as
/// on a full disk.
pub(super) fn is_ours(root: &Path) -> bool {
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    sys::open_own_directory(root)
        .is_ok_and(|root| is_marked(root.as_fd()) && has_index(root.as_fd()).unwrap_or_else(is_missing))
}

fn is_marked(root: BorrowedFd<'_>) -> bool {
    sys::read_own_file(root, MARK.as_bytes(), MARKED.len() as u64).is_ok_and(|found| found == MARKED)
}

fn has_index(root: BorrowedFd<'_>) -> io::Result<bool> {
    let file = sys::open_own_file(root, INDEX.as_bytes())?;
    let mut begin = vec![0; NO_IMAGES.len() - INDEX_END.len()];
    let mut end = vec![0; INDEX_END.len()];
    file.read_exact_at(&mut begin, 0)?;
    file.read_exact_at(&mut end, file.metadata()?.len().saturating_sub(INDEX_END.len() as u64))?;
    Ok(NO_IMAGES.starts_with(&begin) && end == INDEX_END)
}

/// Reads the index of the layout `root`, of at most `limit` bytes.
pub(super) fn read_index(root: &Path, limit: u64) -> io::Result<Vec<u8>> {
    sys::read_own_file(sys::open_own_directory(root)?.as_fd(), INDEX.as_bytes(), limit)
}

fn put(root: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    sys::replace_file(root, name.as_bytes(), Some(FILE_MODE), &mut |file| file.write_all(bytes))
}

/// Removes what killed runs have left of layouts and indexes on their way.
pub(super) fn sweep(home: &Path) {
    if let Ok(directory) = sys::open_directory(home)
        && sys::metadata(directory.as_fd(), NEW.as_bytes()).is_ok_and(|found| found.is_some())
    {
        // One that stays is completed, or told, by whoever makes a layout.
        let _ = sys::remove_tree(directory.as_fd(), NEW.as_bytes());
    }
    if let Ok(root) = sys::open_own_directory(&blobs_of(home)) {
        let is_ours = |name: &[u8]| name == INDEX.as_bytes() || name == MARK.as_bytes();
        sys::sweep_replacements(root.as_fd(), &is_ours);
    }
}
