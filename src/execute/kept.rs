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
use crate::error::Error;
use crate::locked_home::LockedHome;
use crate::plan::Plan;
use crate::progress::Event;
use crate::state::{RecordedImage, ResolvedImage};
use crate::store::{self, Blobs, KeptBlob, RemovedBlobs};

/// The bytes of an index that may name images which are not kept any more.
const UNKEPT: u64 = 16 << 20;

/// Brings the index of the kept blobs up to date, if `plan` had to do with any, and removes the
/// blobs that the run needed only to load them.
pub(super) fn look_after_kept_blobs(executor: &Executor<'_>, plan: &Plan) -> Result<(), Error> {
    let with_blobs = || plan.images.iter().filter(|image| image.needs_blobs);
    let (home, catalog): (_, &Catalog) = (executor.store.home(), executor.catalog);
    let changes = with_blobs().next().is_some();
    if executor.targets.keeps_blobs {
        let is_due = changes || wants_kept_index(home.path(), catalog)?;
        return if is_due { write_kept_index(home, catalog) } else { Ok(()) };
    }
    if changes {
        let brought = with_blobs().flat_map(blobs_of).map(|(digest, _)| digest).collect();
        return remove_blobs(executor, brought);
    }
    // The index is of the images of others, who hear of it from their own runs.
    if wants_kept_index(home.path(), catalog)?
        && let Err(error) = write_kept_index(home, catalog)
    {
        let text = format!("the index of the kept blobs is not up to date: {error}");
        executor.reporter.report(Event::Warning(text));
    }
    Ok(())
}

/// True if all blobs of an image that is about to be recorded are kept here: a run that keeps them
/// has brought them, and another one may find them.
pub(super) fn has_all_blobs(executor: &Executor<'_>, image: &ResolvedImage) -> bool {
    let blobs = Blobs::of(executor.store.home().path());
    let has = |digest, size| blobs.has(digest, size);
    executor.targets.keeps_blobs
        || blobs.is_there()
            && !image.documents.is_empty()
            && image.documents.iter().all(|document| has(&document.digest, document.size))
            && image.layers.iter().all(|layer| has(&layer.digest, layer.size))
}

/// Removes all kept blobs that no image needs any more.
pub(super) fn prune_blobs(executor: &Executor<'_>) -> Result<(), Error> {
    let home = executor.store.home().path();
    let kept = list_kept_blobs(home, executor.catalog)?;
    if kept.is_empty() && !wants_kept_index(home, executor.catalog)? {
        return Ok(());
    }
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
/// The note cannot be made, or the catalog not read: then nothing may be forgotten.
pub(crate) fn expect_to_forget(home: &LockedHome, catalog: &Catalog) -> Result<(), Error> {
    if has_kept_blobs(home.path(), catalog)? { Ok(store::expect_blobs_index(home)?) } else { Ok(()) }
}

/// Tells whether the layout of kept blobs has an index to be looked after: images have their blobs
/// there, or had when it was written last. A directory of that name may be somebody's own.
///
/// # Errors
/// The catalog cannot be read.
pub(crate) fn has_kept_blobs(home: &Path, catalog: &Catalog) -> Result<bool, Error> {
    let blobs = Blobs::of(home);
    Ok(blobs.is_there() && (blobs.index_is_behind() || catalog.keeps_blobs()?))
}

/// Lists the kept blobs. Where no image has any, those of a layout that somebody else has made are
/// not ours.
///
/// # Errors
/// The catalog, or a directory of blobs, cannot be read.
pub(crate) fn list_kept_blobs(home: &Path, catalog: &Catalog) -> Result<Vec<KeptBlob>, Error> {
    let blobs = Blobs::of(home);
    let are_ours = has_kept_blobs(home, catalog)? || blobs.is_ours();
    if are_ours { Ok(blobs.list()?) } else { Ok(Vec::new()) }
}

/// Tells whether a run that brings no blobs, and removes none, is to write the index of the kept
/// ones: one lags behind `catalog`, or is spoiled.
///
/// # Errors
/// The catalog cannot be read.
pub(crate) fn wants_kept_index(home: &Path, catalog: &Catalog) -> Result<bool, Error> {
    Ok(has_kept_blobs(home, catalog)? && Blobs::of(home).wants_index())
}

/// Has the index of the kept blobs say what `catalog` does.
///
/// # Errors
/// The index cannot be written, or the catalog not read.
pub(crate) fn write_kept_index(home: &LockedHome, catalog: &Catalog) -> Result<(), Error> {
    write_index_without(home, catalog, &BTreeSet::new())
}

/// Removes kept blobs, after the index has ceased to name the images that consist of them: whoever
/// reads the layout meanwhile finds all of what the index names. On a full disk, where no other
/// index can be written, that is nothing for the moment.
///
/// # Errors
/// The index cannot be written: then no blob is removed.
pub(crate) fn remove_kept_blobs(
    home: &LockedHome,
    catalog: &Catalog,
    blobs: &BTreeSet<BlobDigest>,
) -> Result<RemovedBlobs, Error> {
    if blobs.is_empty() && !has_kept_blobs(home.path(), catalog)? {
        return Ok(RemovedBlobs::default());
    }
    let written = write_index_without(home, catalog, blobs);
    if blobs.is_empty() || !written.as_ref().is_err_and(|error| error.kind() == "disk-full") {
        written?;
        return Ok(store::remove_blobs(home, blobs));
    }
    store::remove_blobs_index(home)?;
    let removed = store::remove_blobs(home, blobs);
    // An index that still cannot be written is put back by the next run.
    let _ = write_kept_index(home, catalog);
    Ok(removed)
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
