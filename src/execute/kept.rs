//! The kept blobs at the end of a run: their index, and those that nobody needs.
//!
//! The index of the layout says which images are whole there, so it is written after the images are
//! recorded, and before blobs are removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Executor;
use super::loads::blobs_of;
use crate::bundle::{self, BundleImage, Form};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::locked_home::LockedHome;
use crate::plan::Plan;
use crate::progress::Event;
use crate::state::RecordedImage;
use crate::store::{self, Blobs, RemovedBlobs};

/// The bytes of an index that may name images which are not kept any more.
const UNKEPT: u64 = 16 << 20;

/// Brings the index of the kept blobs up to date, if `plan` had to do with any, and removes the
/// blobs that the run needed only to load them.
pub(super) fn look_after_kept_blobs(executor: &Executor<'_>, plan: &Plan) -> Result<(), Error> {
    let with_blobs = || plan.images.iter().filter(|image| image.needs_blobs);
    let changes = with_blobs().next().is_some();
    if !changes || executor.targets.keeps_blobs {
        let wants_index = changes || blobs_here(executor).wants_index();
        return if wants_index { write_kept_index(executor.store.home(), executor.catalog) } else { Ok(()) };
    }
    let brought = with_blobs().flat_map(blobs_of).map(|(digest, _)| digest).collect();
    remove_blobs(executor, brought)
}

fn blobs_here(executor: &Executor<'_>) -> Blobs {
    Blobs::of(executor.store.home().path())
}

/// Removes all kept blobs that no image needs any more.
pub(super) fn prune_blobs(executor: &Executor<'_>) -> Result<(), Error> {
    let blobs = blobs_here(executor);
    if !blobs.is_there() {
        return Ok(());
    }
    let kept = blobs.list()?;
    remove_blobs(executor, kept.into_iter().map(|blob| blob.digest).collect())
}

/// Removes those of `blobs` that no image needs.
fn remove_blobs(executor: &Executor<'_>, mut blobs: BTreeSet<BlobDigest>) -> Result<(), Error> {
    let needed = executor.catalog.blobs_needed_outside(&BTreeSet::new())?;
    blobs.retain(|digest| !needed.contains(digest));
    take_away(executor, &blobs)
}

/// Removes damaged blobs, which the next run fetches.
pub(super) fn remove_damaged(executor: &Executor<'_>, blobs: &BTreeSet<BlobDigest>) -> Result<(), Error> {
    if blobs.is_empty() { Ok(()) } else { take_away(executor, blobs) }
}

fn take_away(executor: &Executor<'_>, blobs: &BTreeSet<BlobDigest>) -> Result<(), Error> {
    for left in remove_kept_blobs(executor.store.home(), executor.catalog, blobs)?.kept.into_values() {
        executor.reporter.report(Event::Warning(left.to_string()));
    }
    Ok(())
}

/// Notes that images are going to be forgotten which the index of the kept blobs may name, if there
/// are kept blobs.
///
/// # Errors
/// The note cannot be made: then nothing may be forgotten.
pub(crate) fn expect_to_forget(home: &LockedHome) -> Result<(), StoreError> {
    if Blobs::of(home.path()).is_there() { store::expect_blobs_index(home) } else { Ok(()) }
}

/// Has the index of the kept blobs say what `catalog` does.
///
/// # Errors
/// The index cannot be written, or the catalog not read.
pub(crate) fn write_kept_index(home: &LockedHome, catalog: &Catalog) -> Result<(), Error> {
    write_index_without(home, catalog, &BTreeSet::new())
}

/// Removes kept blobs, after the index has ceased to name the images that consist of them: whoever
/// reads the layout meanwhile finds all of what the index names.
///
/// # Errors
/// The index cannot be written: then no blob is removed.
pub(crate) fn remove_kept_blobs(
    home: &LockedHome,
    catalog: &Catalog,
    blobs: &BTreeSet<BlobDigest>,
) -> Result<RemovedBlobs, Error> {
    write_index_without(home, catalog, blobs)?;
    Ok(store::remove_blobs(home, blobs))
}

/// Writes an index of the recorded images all of whose blobs are there, and none of them among
/// those that are `leaving`.
fn write_index_without(
    home: &LockedHome,
    catalog: &Catalog,
    leaving: &BTreeSet<BlobDigest>,
) -> Result<(), Error> {
    Ok(store::write_blobs_index(home, &index_without(home.path(), catalog, leaving)?)?)
}

/// Finds the file by which other programs find the kept blobs and that is not as it was written:
/// the mark, or the index, which may lack an image all of whose blobs are here.
///
/// # Errors
/// The catalog cannot be read.
pub(crate) fn damaged_frame(home: &Path, catalog: &Catalog) -> Result<Option<PathBuf>, Error> {
    let index = index_without(home, catalog, &BTreeSet::new())?;
    // Images that nobody keeps any more are named until the next prune.
    let limit = 2 * index.len() as u64 + UNKEPT;
    Ok(Blobs::of(home).damaged_file(limit, |found| bundle::lists_all(found, &index)))
}

/// Says what the index is to be.
fn index_without(home: &Path, catalog: &Catalog, leaving: &BTreeSet<BlobDigest>) -> Result<Vec<u8>, Error> {
    let blobs = Blobs::of(home);
    let has = |digest: &BlobDigest, size| !leaving.contains(digest) && blobs.has(digest, size);
    let is_whole = |row: &RecordedImage| {
        !row.blobs_kept_for.is_empty()
            && !row.documents.is_empty()
            && row.documents.iter().all(|document| has(&document.digest, document.size))
            && row.layers.iter().all(|layer| has(&layer.digest, layer.size))
    };
    let mut images = Vec::new();
    catalog.each(&mut |row| {
        if is_whole(&row) {
            // The index says nothing of layers.
            images.push(BundleImage::new(vec![row.reference.to_string()], row.platform, &row.documents, &[]));
        }
    })?;
    Ok(bundle::index_json(&images, Form { index: false, docker: false }))
}
