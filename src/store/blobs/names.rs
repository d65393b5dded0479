//! The names of an OCI image layout.

use std::path::{Path, PathBuf};

use crate::digest::{Algorithm, BlobDigest};

/// The layout of kept blobs, in a home.
pub(super) const KEPT: &str = "blobs";
/// The note that the layout's index lags behind the catalog, in a home.
pub(super) const BEHIND: &str = ".blobs.behind";
/// The directory of blobs, in a layout.
pub(super) const BLOBS: &str = "blobs";
/// The algorithms that have a directory of blobs each.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// Returns where the kept blobs of `home` are.
pub(crate) fn blobs_of(home: &Path) -> PathBuf {
    home.join(KEPT)
}

/// Returns the place of an algorithm in [`ALGORITHMS`].
pub(super) fn position(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
    }
}

/// Tells where the blobs with digests of one algorithm are, in the layout `root`.
pub(super) fn algorithm_place(root: &Path, algorithm: Algorithm) -> PathBuf {
    root.join(BLOBS).join(algorithm.as_str())
}

/// Tells where a blob is, in the layout `root`.
pub(super) fn blob_path(root: &Path, digest: &BlobDigest) -> PathBuf {
    algorithm_place(root, digest.algorithm()).join(digest.text().hex())
}
