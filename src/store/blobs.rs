//! Kept blobs: an OCI image layout in the home, with the bytes as they were fetched.
//!
//! | path | what it is |
//! |---|---|
//! | `<home>/blobs/oci-layout` | the mark of a layout |
//! | `<home>/blobs/index.json` | the images all of whose blobs are here |
//! | `<home>/blobs/blobs/<algorithm>/<hex>` | a blob: a layer, a manifest, an index, a config |
//! | `<home>/.blobs.new` | a layout that a run is making |
//! | `<home>/.blobs.behind` | the note that the index lags behind what is recorded |
//!
//! Other programs read it at any instant. So the directory appears with its mark and an index that
//! names nothing; a blob gets its name when all of it is verified and on disk, and is named by
//! `index.json` only when its own name is on disk. On the way out it is the other way round: the
//! index goes first, and is missing until they are gone where a full disk has no room for another.
//! Blobs whose images are not recorded yet, and those of runs that died, are named by nothing, and
//! are removed by whoever removes what no image needs.
//!
//! The spool of a blob becomes the blob by a rename. Where `blobs` or `downloads` is on a file
//! system of its own it is copied.

mod layout;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use self::layout::Layout;
use self::names::{ALGORITHMS, BEHIND, algorithm_place, blob_path};
use super::names::{FILE_MODE, partial_digest};
use super::{Left, Spool, Store};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::StoreError;
use crate::locked_home::LockedHome;
use crate::sys::{self, Kind};

pub(crate) use self::names::blobs_of;

/// The kept blobs of a home, to be read. Needs no lock: blobs appear and go whole.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    /// The directories of the algorithms, each once it was there.
    directories: [OnceLock<OwnedFd>; ALGORITHMS.len()],
}

/// A blob that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBlob {
    /// The digest by which it is named.
    pub digest: BlobDigest,
    /// The place where it lies.
    pub path: PathBuf,
    /// The number of its bytes.
    pub size: u64,
}

impl Blobs {
    /// Finds the kept blobs of `home`, which may have none.
    pub(crate) fn of(home: &Path) -> Self {
        Self { root: blobs_of(home), directories: Default::default() }
    }

    /// True if there is a directory of kept blobs at all.
    pub(crate) fn is_there(&self) -> bool {
        self.root.is_dir()
    }

    /// True if what is in the place of the kept blobs looks as a run has made it. Layouts of other
    /// programs say less in their index.
    pub(crate) fn is_ours(&self) -> bool {
        layout::is_ours(&self.root)
    }

    /// True if a run has changed what is recorded and has not come to write the index: see
    /// [`expect_blobs_index`].
    pub(crate) fn index_is_behind(&self) -> bool {
        self.root.with_file_name(BEHIND).symlink_metadata().is_ok()
    }

    /// True if the index is behind, or if the mark or the index is not there as a run writes it.
    /// Both ends of the index are looked at; a run with nothing to do reads no more.
    pub(crate) fn wants_index(&self) -> bool {
        self.index_is_behind() || layout::damaged_file(&self.root).is_some()
    }

    /// Finds the mark or the index, if it is not there as a run writes it, or if the index has more
    /// bytes than `limit`, or `is_index` says no to them.
    pub(crate) fn damaged_file(&self, limit: u64, is_index: impl Fn(&[u8]) -> bool) -> Option<PathBuf> {
        let is_damaged = || !layout::read_index(&self.root, limit).is_ok_and(|bytes| is_index(&bytes));
        layout::damaged_file(&self.root).or_else(|| is_damaged().then(|| self.root.join(layout::INDEX)))
    }

    /// Tells whether a blob of exactly `size` bytes has this name. Whoever uses the bytes hashes
    /// them.
    pub(crate) fn has(&self, digest: &BlobDigest, size: u64) -> bool {
        let found = self.directory(digest.algorithm()).ok().flatten();
        let found = found.and_then(|directory| {
            sys::metadata(directory.as_fd(), digest.text().hex().as_bytes()).ok().flatten()
        });
        found.is_some_and(|found| found.kind == Kind::File && found.size == size && sys::is_own(found.owner))
    }

    /// Opens a blob; `None` where it is not kept.
    ///
    /// # Errors
    /// The thing of its name is no regular file of this user's or root's, or cannot be opened.
    pub(crate) fn open(&self, digest: &BlobDigest) -> Result<Option<File>, StoreError> {
        let Some(directory) = self.directory(digest.algorithm())? else { return Ok(None) };
        match sys::open_own_file(directory.as_fd(), digest.text().hex().as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(StoreError::io("open the kept blob", self.path(digest))),
        }
    }

    /// Lists the blobs, sorted by digest. Only regular files of this user's or root's: whatever
    /// else has such a name is not ours.
    ///
    /// # Errors
    /// A directory cannot be read; one that does not exist holds nothing.
    pub(crate) fn list(&self) -> Result<Vec<KeptBlob>, StoreError> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let Some(directory) = self.directory(algorithm)? else { continue };
            let mut names = Vec::new();
            sys::each_entry(directory.as_fd(), |name, is_directory| {
                if !is_directory {
                    names.extend(String::from_utf8(name.to_vec()));
                }
                true
            })
            .map_err(StoreError::io("read", algorithm_place(&self.root, algorithm)))?;
            for hex in names {
                let Ok(digest) = BlobDigest::parse(&format!("{}:{hex}", algorithm.as_str())) else {
                    continue;
                };
                // Gone meanwhile: then there is nothing to be told.
                let Ok(Some(blob)) = sys::metadata(directory.as_fd(), hex.as_bytes()) else { continue };
                if blob.kind == Kind::File && sys::is_own(blob.owner) {
                    found.push(KeptBlob { path: self.path(&digest), digest, size: blob.size });
                }
            }
        }
        found.sort_by(|one, other| one.digest.cmp(&other.digest));
        Ok(found)
    }

    /// Tells where a blob is, or would be.
    pub(crate) fn path(&self, digest: &BlobDigest) -> PathBuf {
        blob_path(&self.root, digest)
    }

    fn directory(&self, algorithm: Algorithm) -> Result<Option<&OwnedFd>, StoreError> {
        let place = &self.directories[names::position(algorithm)];
        if let Some(directory) = place.get() {
            return Ok(Some(directory));
        }
        let opened = sys::open_own_directory(&self.root)
            .and_then(|root| sys::open_own_directory_at(root.as_fd(), names::BLOBS))
            .and_then(|blobs| sys::open_own_directory_at(blobs.as_fd(), algorithm.as_str()));
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", algorithm_place(&self.root, algorithm))(error)),
            Ok(directory) => Ok(Some(place.get_or_init(|| directory))),
        }
    }
}

/// Makes verified and complete spools the blobs of their names: all of them are on disk, bytes and
/// names, at the cost of one wait for the file system. The results are in the order of `spools`.
pub(crate) fn keep(store: &Store, spools: &[Arc<Spool>]) -> Vec<Result<(), StoreError>> {
    if spools.is_empty() {
        return Vec::new();
    }
    let all_failed = |error: &StoreError| {
        let again = |_| match error {
            StoreError::Io { doing, path, source } => StoreError::io(doing, path)(copy(source)),
            other => StoreError::io("keep blobs in", blobs_of(store.home().path()))(io::Error::other(
                other.to_string(),
            )),
        };
        spools.iter().map(again).map(Err).collect()
    };
    let layout = match Layout::make(store.home().path()) {
        Err(error) => return all_failed(&error),
        Ok(layout) => layout,
    };
    let synced = sys::sync_file_system(store.downloads_directory.as_fd())
        .map_err(StoreError::io("sync", store.downloads()));
    if let Err(error) = synced {
        return all_failed(&error);
    }
    let mut used = BTreeMap::new();
    let mut results: Vec<_> = spools.iter().map(|spool| keep_one(store, &layout, spool, &mut used)).collect();
    // Names last until a power loss only once their directories are synced.
    for (algorithm, directory) in used {
        let synced = sys::sync(directory.as_fd());
        let Err(error) = synced else { continue };
        let path = algorithm_place(&blobs_of(store.home().path()), algorithm);
        for (spool, result) in spools.iter().zip(&mut results) {
            let is_of = partial_digest(spool.path().file_name().unwrap_or_default())
                .is_some_and(|digest| digest.algorithm() == algorithm);
            if is_of && result.is_ok() {
                *result = Err(StoreError::io("sync", &path)(copy(&error)));
            }
        }
    }
    results
}

fn keep_one(
    store: &Store,
    layout: &Layout,
    spool: &Spool,
    used: &mut BTreeMap<Algorithm, OwnedFd>,
) -> Result<(), StoreError> {
    let spool_name = spool.path().file_name().unwrap_or_default();
    let Some(digest) = partial_digest(spool_name) else {
        let error = io::Error::other("its name is not that of a digest");
        return Err(StoreError::io("keep", spool.path())(error));
    };
    let algorithm = digest.algorithm();
    let directory = match used.remove(&algorithm) {
        Some(directory) => directory,
        None => layout.algorithm(algorithm)?,
    };
    let (from, to) = (store.downloads_directory.as_fd(), directory.as_fd());
    let text = digest.text();
    let name = text.hex().as_bytes();
    let kept = sys::has_own_file(to, name).and_then(|_| {
        match sys::rename_over(from, format!("{digest}.part").as_bytes(), to, name) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut fill = |file: &mut File| spool.copy_to(file);
                sys::replace_file(to, name, Some(FILE_MODE), &mut fill)?;
                // One that stays is swept like any other.
                let _ = spool.remove();
                Ok(())
            }
            other => other,
        }
    });
    used.insert(algorithm, directory);
    kept.map_err(StoreError::io("keep the blob", blob_path(&blobs_of(store.home().path()), &digest)))
}

/// Notes that the index is going to lag behind the catalog, until it is written at the end of what
/// is recorded or forgotten. The note lasts before any of that, and goes with
/// [`write_blobs_index`]: a run that is killed in between leaves the index to the next one.
///
/// # Errors
/// The note cannot be made.
pub(crate) fn expect_blobs_index(home: &LockedHome) -> Result<(), StoreError> {
    let note = || {
        let directory = sys::open_own_directory(home.path())?;
        sys::open_or_make_own_file(directory.as_fd(), BEHIND.as_bytes(), FILE_MODE)?;
        home.unsynced().note(directory.as_fd())
    };
    note().map_err(StoreError::io("create", home.path().join(BEHIND)))
}

/// Has `index.json` of the layout say `index_json`; the layout is made where there is none. The
/// same bytes are not written again. Blobs that it names must be kept already.
///
/// # Errors
/// The layout cannot be made or written; a file in it is a symlink, or somebody else's.
pub(crate) fn write_blobs_index(home: &LockedHome, index_json: &[u8]) -> Result<(), StoreError> {
    let layout = Layout::make(home.path())?;
    layout.write_index(index_json)?;
    if Blobs::of(home.path()).index_is_behind()
        && let Ok(directory) = sys::open_own_directory(home.path())
    {
        // A run may have been killed right after it had written the same.
        layout.sync()?;
        // One that stays, or comes back after a power loss, has the index looked at once more.
        let _ = sys::remove_file(directory.as_fd(), BEHIND.as_bytes());
    }
    Ok(())
}

/// Takes `index.json` of the layout away, which then names nothing until it is written again.
///
/// # Errors
/// The file cannot be removed; one that is a symlink, or somebody else's, stays.
pub(crate) fn remove_blobs_index(home: &LockedHome) -> Result<(), StoreError> {
    let path = blobs_of(home.path());
    let remove = || {
        let root = sys::open_own_directory(&path)?;
        if sys::has_own_file(root.as_fd(), layout::INDEX.as_bytes())? {
            sys::remove_file(root.as_fd(), layout::INDEX.as_bytes())?;
        }
        sys::sync(root.as_fd())
    };
    remove().map_err(StoreError::io("remove", path.join(layout::INDEX)))
}

/// The result of removing kept blobs.
#[derive(Debug, Default)]
pub(crate) struct RemovedBlobs {
    /// The blobs that were there and are not any more, with their bytes.
    pub removed: BTreeMap<BlobDigest, u64>,
    /// The blobs that stay, with the reason.
    pub kept: BTreeMap<BlobDigest, Left>,
}

/// Removes kept blobs, which `index.json` names no more. Those that are not there are no failure.
pub(crate) fn remove_blobs(home: &LockedHome, digests: &BTreeSet<BlobDigest>) -> RemovedBlobs {
    let blobs = Blobs::of(home.path());
    let mut result = RemovedBlobs::default();
    for digest in digests {
        match remove_one(&blobs, digest) {
            Ok(Some(size)) => {
                result.removed.insert(digest.clone(), size);
            }
            Ok(None) => {}
            Err(error) => {
                let left = Left { digest: Some(digest.clone()), path: blobs.path(digest), reason: error };
                result.kept.insert(digest.clone(), left);
            }
        }
    }
    result
}

fn remove_one(blobs: &Blobs, digest: &BlobDigest) -> Result<Option<u64>, String> {
    let directory = blobs.directory(digest.algorithm()).map_err(|error| error.to_string())?;
    let Some(directory) = directory else { return Ok(None) };
    let text = digest.text();
    let (directory, name) = (directory.as_fd(), text.hex().as_bytes());
    let remove = || -> io::Result<Option<u64>> {
        if !sys::has_own_file(directory, name)? {
            return Ok(None);
        }
        let size = sys::metadata(directory, name)?.map_or(0, |found| found.size);
        match sys::remove_file(directory, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| Some(size)),
        }
    };
    remove().map_err(|error| error.to_string())
}

/// Removes what killed runs have left of blobs and of indexes on their way.
pub(super) fn sweep(home: &Path) {
    layout::sweep(home);
    for algorithm in ALGORITHMS {
        if let Ok(Some(directory)) = Blobs::of(home).directory(algorithm) {
            let is_blob = |name: &[u8]| {
                std::str::from_utf8(name)
                    .is_ok_and(|hex| BlobDigest::parse(&format!("{}:{hex}", algorithm.as_str())).is_ok())
            };
            sys::sweep_replacements(directory.as_fd(), &is_blob);
        }
    }
}

/// Makes an error again for one more blob.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests;
