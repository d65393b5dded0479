//! The images that stay on disk though nobody needs them now: earlier ones for `rollback`, and
//! those that are staged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::totals::layer_totals;
use crate::catalog::{Catalog, GivenUp};
use crate::digest::BlobDigest;
use crate::execute::list_kept_blobs;
use crate::state::{LayerState, SparedImage};
use crate::store::Places;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::sys::{self, DirectoryId};

/// The images that are spared, and what they have on disk.
#[derive(Default)]
pub(crate) struct Spared {
    /// The images that have something on disk which no recorded image needs, each with just that.
    pub(crate) images: Vec<SparedImage>,
    /// The bytes of all that on disk.
    pub(crate) bytes: u64,
}

/// Finds out what is spared when the images of `given_up` are forgotten.
pub(crate) fn spared(
    session: &Session,
    catalog: &Catalog,
    given_up: GivenUp<'_>,
) -> Result<Spared, VerbError> {
    let (mut images, gone) = (catalog.spared(given_up)?, given_up.images);
    if images.is_empty() {
        return Ok(Spared::default());
    }
    let mut directories: BTreeMap<DirectoryId, PathBuf> = BTreeMap::new();
    let mut needed: BTreeSet<BlobDigest> = BTreeSet::new();
    catalog.each(&mut |row| {
        if !gone.contains(&row.reference) {
            needed.extend(row.layers.iter().map(|layer| layer.digest.clone()));
            needed.extend(row.documents.iter().map(|document| document.digest.clone()));
        }
    })?;
    for directory in catalog.layers_directories()?.into_iter().chain([session.default_layers()]) {
        // A directory that cannot be looked at is told of by whoever looks for what to remove.
        directories.extend(sys::directory_id(&directory).ok().flatten().map(|id| (id, directory)));
    }
    let mut on_disk: BTreeMap<&BlobDigest, u64> = BTreeMap::new();
    for image in &mut images {
        image.blobs.retain(|digest| !needed.contains(digest));
    }
    let digests: BTreeSet<&BlobDigest> = images.iter().flat_map(|image| &image.blobs).collect();
    for directory in directories.values() {
        let places = Places::of(directory);
        let Ok(located) = places.locate() else { continue };
        for &digest in &digests {
            if located.state(digest).is_ok_and(|state| state != LayerState::Missing) {
                let size = layer_totals(&located, digest).map(|totals| totals.content_bytes);
                *on_disk.entry(digest).or_default() += size.unwrap_or_else(|| places.size_of(digest));
            }
        }
    }
    for blob in list_kept_blobs(&session.home, catalog)? {
        if let Some(&digest) = digests.get(&blob.digest) {
            *on_disk.entry(digest).or_default() += blob.size;
        }
    }
    let bytes = on_disk.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
    let here: BTreeSet<BlobDigest> = on_disk.into_keys().cloned().collect();
    for image in &mut images {
        image.blobs.retain(|digest| here.contains(digest));
    }
    images.retain(|image| !image.blobs.is_empty());
    Ok(Spared { images, bytes })
}
