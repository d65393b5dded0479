//! Partial downloads, seen from outside: what the runs that wrote them have left behind.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::names::{partial_digest, partial_path};
use super::{downloads_of, spool};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::locked_home::LockedHome;
use crate::sys;

/// A blob of which a part has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialDownload {
    /// The digest of the whole blob.
    pub digest: BlobDigest,
    /// The file that holds the part.
    pub path: PathBuf,
    /// The bytes that have arrived.
    pub size: u64,
}

/// Removes what has arrived of a blob from the locked home, where no other run writes it.
///
/// # Errors
/// The file system's; a file that is gone is fine.
pub(crate) fn remove_download(home: &LockedHome, digest: &BlobDigest) -> Result<(), StoreError> {
    let directory = downloads_of(home.path());
    let opened = sys::locate_directory(&directory).map_err(StoreError::io("open", &directory))?;
    spool::remove(opened.as_fd(), &partial_path(&directory, digest))
}

/// Lists the partial downloads in `directory`, sorted. Only regular files of this user's or root's:
/// whatever else has such a name is not ours.
///
/// # Errors
/// The directory cannot be read; one that does not exist holds nothing.
pub(crate) fn partial_downloads(directory: &Path) -> Result<Vec<PartialDownload>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(StoreError::io("read", directory))?,
    };
    let opened = sys::locate_directory(directory).map_err(StoreError::io("open", directory))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", directory))?;
        let Some(digest) = partial_digest(&entry.file_name()) else { continue };
        // Gone meanwhile: then there is nothing to be removed either.
        let Ok(metadata) = entry.metadata() else { continue };
        if sys::has_own_file(opened.as_fd(), entry.file_name().as_bytes()).unwrap_or(false) {
            found.push(PartialDownload { digest, path: entry.path(), size: metadata.len() });
        }
    }
    found.sort_by(|a, b| a.digest.cmp(&b.digest));
    Ok(found)
}
