//! `verify`: the recorded images' layers against what was recorded of them, and damaged ones
//! replaced on request.
//!
//! Verifying takes no lock and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::repair;
use super::session::Session;
use super::steps::compare::{LayerStatus, VerifiedLayer, compare};
use super::steps::machine::machine;
use super::steps::not_recorded::not_recorded;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::RecordedImage;

/// The report of `verify`.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Each layer once, sorted by digest.
    pub layers: Vec<VerifiedLayer>,
}

impl Verified {
    /// Counts the layers that have `status`.
    pub fn count(&self, status: LayerStatus) -> usize {
        self.layers.iter().filter(|layer| layer.status == status).count()
    }

    /// Tells whether every layer is in order now.
    pub fn succeeded(&self) -> bool {
        self.count(LayerStatus::Ok) == self.layers.len()
    }
}

/// Compares the layers of recorded images with what was recorded of them; damaged ones are replaced
/// if `repair`. Without `references`: of all images that msb-sync recorded.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let verified = sync::verify(&session, &[], false)?;
/// assert!(verified.succeeded());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; damage is in the result.
pub fn verify(session: &Session, references: &[ImageRef], repair: bool) -> Result<Verified, VerbError> {
    if repair {
        // Mistakes in the settings are told before anything is looked at.
        machine(session)?;
    }
    let recorded: BTreeMap<ImageRef, RecordedImage> = match Catalog::open_read_only(&session.home)? {
        Some(catalog) => catalog.all()?.into_iter().map(|row| (row.reference.clone(), row)).collect(),
        None => BTreeMap::new(),
    };
    let missing: Vec<&ImageRef> =
        references.iter().filter(|reference| !recorded.contains_key(reference)).collect();
    if !missing.is_empty() {
        return Err(not_recorded(missing.into_iter(), &recorded));
    }
    // Of what only microsandbox pulled there are no inventories to compare with.
    let wanted = |row: &&RecordedImage| match references {
        [] => row.digest.is_some() || !row.owners.is_empty(),
        _ => references.contains(&row.reference),
    };
    let mut verified = Verified { layers: layers_to_verify(session, recorded.values().filter(wanted)) };
    compare(session, verified.layers.iter_mut().collect())?;
    if repair && !verified.succeeded() {
        repair::repair(session, &mut verified.layers, &recorded)?;
    }
    Ok(verified)
}

fn layers_to_verify<'a>(
    session: &Session,
    images: impl Iterator<Item = &'a RecordedImage>,
) -> Vec<VerifiedLayer> {
    let mut layers: BTreeMap<(BlobDigest, PathBuf), VerifiedLayer> = BTreeMap::new();
    for image in images {
        let directory = session.layers_of(image);
        for layer in &*image.layers {
            let verified =
                layers.entry((layer.digest.clone(), directory.clone())).or_insert_with(|| VerifiedLayer {
                    digest: layer.digest.clone(),
                    directory: directory.clone(),
                    size: layer.size,
                    images: BTreeSet::new(),
                    status: LayerStatus::Missing,
                    detail: None,
                    repaired: false,
                });
            verified.images.insert(image.reference.clone());
        }
    }
    layers.into_values().collect()
}
