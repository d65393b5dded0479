//! The directories of layers that a run which removes looks into, and what it finds there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::digest::BlobDigest;

/// Device and inode number of a directory of layers, which may have several names. Directories are
/// locked in this order.
pub(crate) type DirectoryId = (u64, u64);

/// Identifies the directory at `path`; `None` where there is none.
pub(crate) fn directory_id(path: &Path) -> Option<DirectoryId> {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// A directory of layers that may hold something to remove; it exists.
pub(crate) struct Candidate {
    /// One of its names.
    pub(crate) directory: PathBuf,
    /// True if the run is about this directory: it is locked whatever is found there, and `prune`
    /// fails where it cannot be used.
    pub(crate) is_essential: bool,
    /// The layers that nobody may need, with the reason.
    pub(crate) layers: BTreeMap<BlobDigest, &'static str>,
}

impl Candidate {
    /// Lists the layers that nobody needs by `is_needed`, with the reason.
    pub(crate) fn unneeded(
        &self,
        is_needed: impl Fn(&BlobDigest) -> bool,
    ) -> Vec<(BlobDigest, &'static str)> {
        let layers = self.layers.iter().filter(|(digest, _)| !is_needed(digest));
        layers.map(|(digest, reason)| (digest.clone(), *reason)).collect()
    }
}

/// All candidates of a run, each once, in the order of their locks.
#[derive(Default)]
pub(crate) struct Candidates(pub(crate) BTreeMap<DirectoryId, Candidate>);

impl Candidates {
    /// Returns the candidate at `directory`, by whatever name it became one; `None` where there is
    /// no directory.
    pub(crate) fn entry(&mut self, directory: &Path) -> Option<&mut Candidate> {
        let id = directory_id(directory)?;
        let new =
            || Candidate { directory: directory.to_owned(), is_essential: false, layers: BTreeMap::new() };
        Some(self.0.entry(id).or_insert_with(new))
    }
}
