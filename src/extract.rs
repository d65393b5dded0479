//! A compressed layer in, a directory tree and an inventory of it out.
//!
//! The bytes pass through threads: one inflates (`decode`), the calling one hashes for the
//! `diff_id` (`stream`), reads tar headers (`tar`) and makes directories and links (`tree`),
//! a rayon pool writes files (`files`). Between the first two is a bounded channel of recycled
//! buffers, before the pool a memory budget that all layers share (`workers`): memory depends on
//! neither layer nor file sizes. A small blob (`SMALL_BLOB`) is inflated by the calling thread,
//! which also writes the small files that it has collected whenever it has to wait for the pool.
//!
//! An `inventory` keeps what was done, so that the tree can be checked later: `verify` compares
//! the two, `adopt` does so with a tree that microsandbox extracted, and `stacking` finds out what
//! another order of several layers shows.
//!
//! Everything about the input is hostile until the digests fit, and nothing here says that they do:
//! the caller compares the returned `diff_id` and throws the tree away if it is another one.

mod adopt;
mod attributes;
mod budget;
mod decode;
mod files;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod inventory;
mod outcome;
mod paths;
mod pieces;
mod spelling;
pub(crate) mod stacking;
mod stream;
mod tar;
mod tree;
mod verify;
mod workers;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

pub(crate) use adopt::compare_foreign;
pub use inventory::Totals;
pub(crate) use inventory::{InventoryReader, read_facts};
pub use stacking::{Restacked, Stacking};
pub(crate) use verify::verify;
pub use workers::Workers;

use self::stream::Inflated;
use crate::digest::{Algorithm, DiffId};
use crate::error::LayerError;
use crate::state::{LayerDescriptor, LayerFacts, Limits, Ownership};

/// The bytes of a compressed blob up to which one thread alone brings a layer here: it receives the
/// whole blob, then extracts it. Handing so few bytes on would take longer than the work.
pub(crate) const SMALL_BLOB: u64 = 128 * 1024;

/// The rules of an extraction, and what it must know.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The way in which owner and mode are kept.
    pub ownership: Ownership,
    /// The sizes beyond which a layer is refused.
    pub limits: Limits,
    /// The hash of the `diff_id` that the result is compared with.
    pub algorithm: Algorithm,
    /// The bytes of the compressed blob, for the inventory; a small one is inflated by the calling
    /// thread.
    pub blob_size: u64,
}

impl Options {
    /// The same rules for `layer`.
    pub(crate) fn of(self, layer: &LayerDescriptor) -> Self {
        Self { algorithm: layer.diff_id.algorithm(), blob_size: layer.size, ..self }
    }
}

/// A layer that was extracted, if its `diff_id` is the right one.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The digest of the uncompressed bytes, to the very end of the stream.
    pub diff_id: DiffId,
    /// The sums over all entries.
    pub totals: Totals,
    /// True if the file system has no xattrs, so that owners and modes are lost.
    pub no_xattrs: bool,
}

/// Extracts the layer that `compressed` yields into the empty directory `root` and writes its
/// inventory.
///
/// `inventory` must be an empty file, open for reading and writing. An error of `compressed` that
/// wraps a [`LayerError`] is returned as such; any other is a decompression error.
///
/// # Errors
/// See [`LayerError`]. What was written until then remains for the caller to remove.
pub fn extract(
    compressed: impl Read + Send,
    root: OwnedFd,
    inventory: File,
    options: Options,
    workers: &Workers,
) -> Result<Extracted, LayerError> {
    std::thread::scope(|scope| {
        let mut source = Inflated::start(scope, compressed, &workers.windows, options)?;
        let mut reader = tar::TarReader::new();
        let mut tree = tree::TreeWriter::new(root, inventory, options.ownership, workers)?;
        let mut entries = 0;
        while let Some(entry) = reader.next_entry(&mut source)? {
            entries += 1;
            if entries > options.limits.layer_entries {
                return Err(LayerError::Limit { what: "entries", limit: options.limits.layer_entries });
            }
            source.count_holes(entry.holes)?;
            tree.entry(entry, &mut reader, &mut source)?;
            // Names alone can ask for thousands of directories each.
            if entries + tree.implicit_directories() > options.limits.layer_entries {
                return Err(LayerError::Limit { what: "entries", limit: options.limits.layer_entries });
            }
        }
        let (diff_id, bytes) = source.drain()?;
        let facts = LayerFacts { diff_id: diff_id.clone(), size: options.blob_size };
        let (totals, no_xattrs) = tree.finish(bytes, &facts)?;
        Ok(Extracted { diff_id, totals, no_xattrs })
    })
}

/// Finds out the `diff_id` of the layer that `compressed` yields, which is extracted nowhere.
///
/// # Errors
/// The layer is no compressed stream, or larger than may be.
pub(crate) fn diff_id(
    compressed: impl Read + Send,
    options: Options,
    workers: &Workers,
) -> Result<DiffId, LayerError> {
    std::thread::scope(|scope| Ok(Inflated::start(scope, compressed, &workers.windows, options)?.drain()?.0))
}

#[cfg(test)]
mod tests;
