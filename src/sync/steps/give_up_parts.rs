//! The kept blobs and the references in engines that go with images which are given up.
//!
//! References go first, while the catalog still says that they are ours.

use std::collections::{BTreeMap, BTreeSet};

use super::engines;
use crate::catalog::{Catalog, GivenUp, WritableCatalog};
use crate::digest::BlobDigest;
use crate::execute::{list_kept_blobs, remove_kept_blobs, take_out, wants_kept_index};
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::state::{LoadedReference, Owner, RecordedImage};
use crate::store::KeptBlob;
use crate::sync::pruned::{KeptReference, Pruned, RemovedBlob, RemovedReference};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Lists the kept blobs that nobody needs without what is given up: of all, or of the images
/// `among` alone.
pub(crate) fn unneeded_blobs(
    session: &Session,
    catalog: &Catalog,
    gone: GivenUp<'_>,
    among: Option<&BTreeMap<ImageRef, RecordedImage>>,
) -> Result<Vec<KeptBlob>, VerbError> {
    let mut blobs = list_kept_blobs(&session.home, catalog)?;
    if blobs.is_empty() {
        return Ok(blobs);
    }
    if let Some(rows) = among {
        let mut of_images = BTreeSet::new();
        for row in rows.values() {
            of_images.extend(row.documents.iter().map(|document| document.digest.clone()));
            of_images.extend(row.layers.iter().map(|layer| layer.digest.clone()));
            of_images.extend(catalog.remembered(&row.reference)?);
        }
        blobs.retain(|blob| of_images.contains(&blob.digest));
    }
    let needed = catalog.blobs_needed_outside(gone)?;
    blobs.retain(|blob| !needed.contains(&blob.digest));
    Ok(blobs)
}

/// Takes references out of engines, and tells what became of them. Those that somebody uses, and
/// those of engines that cannot be asked, stay ours.
pub(crate) fn take_out_of_engines(
    session: &Session,
    catalog: &mut WritableCatalog,
    unwanted: &[LoadedReference],
    pruned: &mut Pruned,
) {
    if unwanted.is_empty() {
        return;
    }
    let taken = take_out(&engines::of(session), catalog, unwanted, &*session.reporter);
    pruned.engines.extend(taken.removed.iter().map(RemovedReference::from));
    let kept = |(row, reason): (LoadedReference, String)| KeptReference {
        engine: row.engine.name,
        name: row.name,
        reason,
    };
    pruned.engines_kept.extend(taken.in_use.into_iter().map(kept));
    pruned.error = taken.error;
}

/// Removes those of `blobs` that no image needs by what the catalog says now, and leaves the others
/// in the list.
pub(crate) fn remove_unneeded_blobs(
    session: &Session,
    home: &LockedHome,
    (catalog, keeps): (&Catalog, Option<(&Owner, u32)>),
    blobs: &mut Vec<KeptBlob>,
    pruned: &mut Pruned,
) -> Result<(), VerbError> {
    let mut unneeded = Vec::new();
    if !blobs.is_empty() {
        let needed = catalog.blobs_needed_outside(GivenUp { images: &BTreeSet::new(), by: None, keeps })?;
        unneeded.extend(blobs.extract_if(.., |blob| !needed.contains(&blob.digest)));
    }
    if unneeded.is_empty() && !wants_kept_index(home.path(), catalog)? {
        return Ok(());
    }
    let digests: BTreeSet<BlobDigest> = unneeded.iter().map(|blob| blob.digest.clone()).collect();
    let removed = remove_kept_blobs(home, catalog, &digests)?;
    for left in removed.kept.values() {
        session.warn(left.to_string());
    }
    let is_removed = |blob: &KeptBlob| removed.removed.contains_key(&blob.digest);
    pruned.blobs.extend(unneeded.into_iter().filter(is_removed).map(RemovedBlob::from));
    Ok(())
}
