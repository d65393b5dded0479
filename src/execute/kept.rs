//! The kept blobs at the end of a run: their index, and those that nobody needs.
//!
//! The index of the layout says which images are whole there, so it is written after the images are
//! recorded, and before blobs are removed.

use std::collections::BTreeSet;

use super::Executor;
use super::loads::blobs_of;
use crate::bundle::{self, BundleImage, Form};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::plan::Plan;
use crate::progress::Event;
use crate::state::RecordedImage;
use crate::store::{self, Blobs};

/// Brings the index of the kept blobs up to date, if `plan` had to do with any, and removes the
/// blobs that the run needed only to load them.
pub(super) fn look_after_kept_blobs(executor: &Executor<'_>, plan: &Plan) -> Result<(), Error> {
    let with_blobs = || plan.images.iter().filter(|image| image.needs_blobs);
    if executor.targets.keeps_blobs {
        let changes = with_blobs().next().is_some() || blobs_here(executor).index_is_behind();
        return if changes { write_index(executor, &BTreeSet::new()) } else { Ok(()) };
    }
    if with_blobs().next().is_none() {
        return Ok(());
    }
    let brought = with_blobs().flat_map(blobs_of).map(|(digest, _)| digest).collect();
    remove_blobs(executor, brought)
}

/// Notes that the index is going to lag behind the catalog, if the run `changes` what it names.
pub(super) fn foretell_index(executor: &Executor<'_>, changes: bool) -> Result<(), StoreError> {
    if changes { store::expect_blobs_index(executor.store.home()) } else { Ok(()) }
}

/// True if there are kept blobs at all.
pub(super) fn are_there(executor: &Executor<'_>) -> bool {
    blobs_here(executor).is_there()
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
    write_index(executor, blobs)?;
    for (digest, reason) in store::remove_blobs(executor.store.home(), blobs).kept {
        executor.reporter.report(Event::Warning(format!("the kept blob {digest} stays: {reason}")));
    }
    Ok(())
}

fn write_index(executor: &Executor<'_>, leaving: &BTreeSet<BlobDigest>) -> Result<(), Error> {
    let index = kept_index(executor.catalog, &blobs_here(executor), leaving)?;
    Ok(store::write_blobs_index(executor.store.home(), &index)?)
}

/// Makes the index of the kept blobs: the recorded images all of whose blobs are there, and none of
/// them among those that are `leaving`.
pub(crate) fn kept_index(
    catalog: &Catalog,
    blobs: &Blobs,
    leaving: &BTreeSet<BlobDigest>,
) -> Result<Vec<u8>, Error> {
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
