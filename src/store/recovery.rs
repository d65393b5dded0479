//! Leftovers of runs that died: finished where that is possible, else removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::Store;
use super::blobs::{self, blobs_of};
use super::names::partial_digest;
use super::places::Leftover;
use super::removal::sweep;
use super::spool;
use super::staged::{Staged, commit, staged_of_dead_run};
use super::staging::{Left, staged_names};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::state::LayerState;

/// The result of recovering what dead runs have left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The number of layers that were finished.
    pub layers: usize,
    /// The things that could not be removed.
    pub left: Vec<Left>,
}

/// Finishes or removes what runs that died have left in staging. Layers that are ready but cannot
/// be given their names stay there, for [`unplaced`](super::unplaced).
///
/// # Errors
/// Staging cannot be read, or the directories of names cannot be synced.
pub(crate) fn recover(store: &Store) -> Result<Recovered, StoreError> {
    store.bindings.sweep();
    blobs::sweep(store.home().path());
    let keeps_blobs = blobs_of(store.home().path()).exists();
    let mut recovered = Recovered::default();
    let mut staged: Vec<Staged<'_>> = Vec::new();
    for name in staged_names(store)? {
        let found = staged_of_dead_run(store, &name).and_then(|found| {
            match found {
                Some(found) => staged.push(found),
                None => recovered.left.extend(sweep(store, &name)?.err()),
            }
            Ok(())
        });
        if let Err(error) = found {
            // The next run finds again what is ready.
            for ready in &mut staged {
                ready.armed = false;
            }
            return Err(error);
        }
    }
    for staged in &staged {
        // The run died between declaring the layer ready and removing its blob, or keeping it:
        // where blobs are kept, whoever wants this one need not fetch it again.
        if !keeps_blobs {
            recovered.left.extend(remove_spool(store, staged.digest()).err());
        }
    }
    if staged.is_empty() {
        // Layers whose run died right after naming them are complete, and will be recorded as they
        // are.
        store.sync_layers()?;
        store.sync_inventories()?;
    } else {
        let committed = commit(store, staged);
        recovered.layers = committed.results.iter().filter(|result| result.is_ok()).count();
        recovered.left.extend(committed.left);
    }
    Ok(recovered)
}

/// The result of clearing all that dead runs have left in staging.
#[derive(Debug, Default)]
pub(crate) struct Cleared {
    /// The things that were there and are not any more.
    pub gone: Vec<Leftover>,
    /// The things that could not be removed.
    pub left: Vec<Left>,
}

/// Finishes what runs that died have left in staging, where that is possible, and removes all else,
/// ready or not. So many `threads` look at what was finished.
///
/// # Errors
/// As for [`recover`].
pub(crate) fn clear(store: &Store, threads: usize) -> Result<Cleared, StoreError> {
    let before = store.places.leftovers()?;
    recover(store)?;
    let mut left = Vec::new();
    for name in staged_names(store)? {
        left.extend(sweep(store, &name)?.err());
    }
    // A layer that could be finished is one like any other now.
    let asked: BTreeSet<&BlobDigest> = before.iter().map(|leftover| &leftover.digest).collect();
    let finished = if asked.is_empty() {
        BTreeSet::new()
    } else {
        store.places.removable(threads, |it| asked.contains(it))?
    };
    let stays = |leftover: &Leftover| {
        finished.contains(&leftover.digest) || left.iter().any(|left| left.path == leftover.path)
    };
    let gone = before.into_iter().filter(|leftover| !stays(leftover)).collect();
    Ok(Cleared { gone, left })
}

/// Removes partial downloads that nobody has touched for `age`, except those of `wanted`, and those
/// of layers that are complete.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn sweep_downloads(
    store: &Store,
    age: Duration,
    wanted: &dyn Fn(&BlobDigest) -> bool,
) -> Result<Vec<Left>, StoreError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(&store.downloads).map_err(StoreError::io("read", &store.downloads))? {
        let entry = entry.map_err(StoreError::io("read", &store.downloads))?;
        let name = entry.file_name();
        let digest = partial_digest(&name);
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age));
        if let Some(digest) = digest.filter(|digest| !wanted(digest))
            && (old || store.places.state(&digest)? == LayerState::Complete)
        {
            left.extend(remove_spool(store, &digest).err());
        }
    }
    Ok(left)
}

fn remove_spool(store: &Store, digest: &BlobDigest) -> Result<(), Left> {
    let path = store.spool_path(digest);
    spool::remove(store.downloads_directory.as_fd(), &path).map_err(|error| Left::new(path, &error))
}
