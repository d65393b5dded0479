//! The names that things of the store have on disk. They are part of what earlier versions wrote,
//! and stay.

use std::path::{Path, PathBuf};

use crate::digest::BlobDigest;

/// The directories in the private one: inventories, notes of which directories they are of, claims
/// of homes, layers on their way.
pub(super) const INVENTORIES: &str = "records";
pub(super) const BINDINGS: &str = "bindings";
pub(super) const HOMES: &str = "homes";
pub(super) const STAGING: &str = "staging";
/// The lock, in the private directory.
pub(super) const LOCK: &str = "lock";

/// The start of the name, in staging, of a layer that is on its way out.
pub(super) const REMOVED: &str = "removed-";
/// The start of the name, in staging, of an inventory whose layer is being removed where it is.
pub(super) const REMOVING: &str = "removing-";
/// The start of the name, in staging, of a file that stands for a layer which nobody needs, and
/// which has no inventory, but could not be removed.
pub(super) const UNNEEDED: &str = "unneeded-";
/// The most names that are tried in staging for one thing, beside others that cannot be removed.
pub(super) const MAX_NAMES: usize = 1000;

/// The parts of a layer in staging: its tree, its inventory, the mark that both are complete, and
/// the tree that it has replaced.
pub(super) const TREE: &[u8] = b"tree";
pub(super) const INVENTORY: &[u8] = b"record";
pub(super) const READY: &[u8] = b"ready";
pub(super) const REPLACED: &[u8] = b"replaced";

/// The mode of the files beside layers.
pub(super) const FILE_MODE: u32 = 0o600;

/// Tells where a layer's directory is, whether or not it exists.
pub fn layer_path(layers: &Path, digest: &BlobDigest) -> PathBuf {
    layers.join(format!("{digest}.extracted"))
}

/// The name of a layer in the directory of layers.
pub(super) fn layer_name(digest: &BlobDigest) -> Vec<u8> {
    format!("{digest}.extracted").into_bytes()
}

/// The layer that has this name in staging, after a prefix that says what is to become of it.
pub(super) fn staged_digest(name: &[u8], prefix: &str) -> Option<BlobDigest> {
    let name = std::str::from_utf8(name.strip_prefix(prefix.as_bytes())?).ok()?;
    // A digest has no dot, so what follows one tells namesakes apart.
    let (digest, number) = name.split_once('.').unwrap_or((name, "0"));
    number.parse::<usize>().ok().and_then(|_| BlobDigest::parse(digest).ok())
}

/// The digest of the layer whose leftover in staging has this name, by whatever part of a run that
/// ended early.
pub(super) fn leftover_digest(name: &[u8]) -> Option<BlobDigest> {
    ["", REMOVED, REMOVING].iter().find_map(|prefix| staged_digest(name, prefix))
}

/// Tells where the part of a blob that has arrived is, in the directory of downloads.
pub(super) fn partial_path(downloads: &Path, digest: &BlobDigest) -> PathBuf {
    downloads.join(format!("{digest}.part"))
}

/// The blob of which a file of this name in the directory of downloads is a part.
pub(super) fn partial_digest(name: &std::ffi::OsStr) -> Option<BlobDigest> {
    BlobDigest::parse(name.to_str()?.strip_suffix(".part")?).ok()
}
