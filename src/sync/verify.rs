//! `verify`: the recorded images' layers, kept blobs and places in engines against what was
//! recorded of them, and damaged ones replaced on request.
//!
//! Verifying takes no lock and writes nothing, repairing aside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::repair;
use super::session::Session;
use super::steps::catch_up::{catch_up, write_index};
use super::steps::compare::{VerifiedLayer, compare};
use super::steps::compare_blobs::{VerifiedBlob, compare_blobs};
use super::steps::compare_engines::{VerifiedReference, compare_engines};
use super::steps::engines;
use super::steps::finding::{Finding, Status};
use super::steps::give_up::by_reference;
use super::steps::machine::machine;
use super::steps::not_recorded::not_recorded;
use super::steps::unproven::{UnprovenImage, unproven};
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{Error, StoreError};
use crate::execute;
use crate::image_ref::ImageRef;
use crate::locked_home::LockedHome;
use crate::state::{LoadedReference, RecordedImage};
use crate::store::Blobs;

/// The report of `verify`.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Each layer once, sorted by digest.
    pub layers: Vec<VerifiedLayer>,
    /// Each kept blob once, sorted by digest.
    pub blobs: Vec<VerifiedBlob>,
    /// The references that engines were given, sorted by engine and name.
    pub engines: Vec<VerifiedReference>,
    /// The images of which nobody has proven that they are signed as a rule asks, sorted: no
    /// damage, and a matter of the next `apply`.
    pub unproven: Vec<UnprovenImage>,
    /// The failures that are no layer's, blob's or reference's: of the mark and the index of the
    /// kept blobs, and of a repair.
    pub failures: Vec<Arc<Error>>,
}

impl Verified {
    /// All that was found: of layers, kept blobs, and images in engines.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        let layers = self.layers.iter().map(|layer| &layer.found);
        let blobs = self.blobs.iter().map(|blob| &blob.found);
        layers.chain(blobs).chain(self.engines.iter().map(|reference| &reference.found))
    }

    /// Counts the things that have `status`.
    pub fn count(&self, status: Status) -> usize {
        self.findings().filter(|found| found.status == status).count()
    }

    /// Tells whether everything is in order now, and nothing failed.
    pub fn succeeded(&self) -> bool {
        self.is_intact() && self.failures.is_empty()
    }

    /// Tells whether everything is in order now.
    pub fn is_intact(&self) -> bool {
        self.findings().all(|found| found.status == Status::Ok)
    }
}

/// Compares the layers of recorded images, the kept blobs and the places in engines with what was
/// recorded of them; damaged ones are replaced if `repair`. Without `references`: of all images
/// that msb-sync recorded.
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
    let (recorded, loaded) = match Catalog::open_read_only(&session.home)? {
        Some(catalog) => (by_reference(catalog.all()?), catalog.loaded()?),
        None => (BTreeMap::new(), Vec::new()),
    };
    let missing: Vec<&ImageRef> =
        references.iter().filter(|reference| !recorded.contains_key(reference)).collect();
    if !missing.is_empty() {
        return Err(not_recorded(missing.into_iter(), &recorded));
    }
    // Of what only microsandbox pulled there are no inventories to compare with.
    let wanted = |row: &&RecordedImage| match references {
        [] => is_ours(row),
        _ => references.contains(&row.reference),
    };
    let images = || recorded.values().filter(wanted);
    let mut verified = Verified {
        layers: layers_to_verify(session, images(), &recorded),
        blobs: blobs_to_verify(session, images()),
        engines: references_to_verify(loaded, images()),
        unproven: unproven(session, images()),
        failures: Vec::new(),
    };
    compare(session, verified.layers.iter_mut().collect())?;
    compare_blobs(session, verified.blobs.iter_mut().collect())?;
    let engines = engines::of(session);
    compare_engines(session, &engines, verified.engines.iter_mut().collect())?;
    let frame = damaged_frame(session, references, &verified)?;
    if repair && (!verified.succeeded() || !repair::with_leftovers(&verified.layers).is_empty()) {
        let Verified { layers, blobs, engines: references, .. } = &mut verified;
        verified.failures = repair::repair(session, &engines, (layers, blobs, references), &recorded)?;
    }
    if let Some(file) = frame {
        match if repair { write_index(session) } else { Err(not_as_written(file)) } {
            Err(VerbError::Error(error)) if !matches!(error, Error::Stopped) => {
                verified.failures.push(Arc::new(error));
            }
            written => written?,
        }
    }
    if repair {
        let directories: BTreeSet<&Path> = verified.layers.iter().map(|layer| &*layer.directory).collect();
        catch_up(session, directories)?;
    }
    Ok(verified)
}

/// Finds a file that is not as it was written, of the two by which other programs find the kept
/// blobs. A repair of a blob writes both, and so does a run that is at work, or the next one after
/// one that was killed.
fn damaged_frame(
    session: &Session,
    references: &[ImageRef],
    verified: &Verified,
) -> Result<Option<PathBuf>, VerbError> {
    let kept = Blobs::of(&session.home);
    let is_whole = verified.blobs.iter().all(|blob| blob.found.status == Status::Ok);
    if !references.is_empty() || verified.blobs.is_empty() || !is_whole || kept.index_is_behind() {
        return Ok(None);
    }
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(None) };
    let damaged = execute::damaged_frame(&session.home, &catalog)?;
    Ok(damaged.filter(|_| LockedHome::is_free(&session.home)))
}

fn not_as_written(file: PathBuf) -> VerbError {
    let why = io::Error::other("it is not as it was written");
    StoreError::io("find the kept blobs by", file)(why).into()
}

/// True if msb-sync has recorded the image, and not microsandbox alone.
fn is_ours(row: &RecordedImage) -> bool {
    row.digest.is_some() || !row.owners.is_empty()
}

/// True if the layers of an image are to be there: those that no owner wants extracted are not.
fn wants_layers(row: &RecordedImage) -> bool {
    row.owners.is_empty() || !row.extracted_for.is_empty()
}

fn layers_to_verify<'a>(
    session: &Session,
    images: impl Iterator<Item = &'a RecordedImage>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> Vec<VerifiedLayer> {
    let mut layers: BTreeMap<(BlobDigest, PathBuf), VerifiedLayer> = BTreeMap::new();
    for image in images.filter(|image| wants_layers(image)) {
        let directory = session.layers_of(image);
        for layer in &*image.layers {
            let verified =
                layers.entry((layer.digest.clone(), directory.clone())).or_insert_with(|| VerifiedLayer {
                    digest: layer.digest.clone(),
                    directory: directory.clone(),
                    size: layer.size,
                    images: BTreeSet::new(),
                    of_microsandbox: true,
                    found: Finding::UNSEEN,
                });
            verified.images.insert(image.reference.clone());
            verified.of_microsandbox &= !is_ours(image);
        }
    }
    if layers.values().any(|layer| layer.of_microsandbox) {
        // A layer of microsandbox's image that an image of ours has too is mended with that.
        for row in recorded.values().filter(|row| is_ours(row) && wants_layers(row)) {
            for layer in &*row.layers {
                let key = (layer.digest.clone(), session.layers_of(row));
                if let Some(shared) = layers.get_mut(&key).filter(|shared| shared.of_microsandbox) {
                    shared.images.insert(row.reference.clone());
                    shared.of_microsandbox = false;
                }
            }
        }
    }
    layers.into_values().collect()
}

/// The blobs that owners keep. An image without documents has still to be fetched for them.
fn blobs_to_verify<'a>(
    session: &Session,
    images: impl Iterator<Item = &'a RecordedImage>,
) -> Vec<VerifiedBlob> {
    let kept = Blobs::of(&session.home);
    let mut blobs: BTreeMap<BlobDigest, VerifiedBlob> = BTreeMap::new();
    for image in images.filter(|image| !image.documents.is_empty()) {
        let documents = image.documents.iter().map(|document| (&document.digest, document.size));
        let layers = image.layers.iter().map(|layer| (&layer.digest, layer.size));
        for (digest, size) in documents.chain(layers) {
            let verified = blobs.entry(digest.clone()).or_insert_with(|| VerifiedBlob {
                digest: digest.clone(),
                path: kept.path(digest),
                size,
                images: BTreeSet::new(),
                found: Finding::UNSEEN,
            });
            verified.images.insert(image.reference.clone());
        }
    }
    blobs.into_values().collect()
}

/// The references that engines were given for owners who still want the images.
fn references_to_verify<'a>(
    loaded: Vec<LoadedReference>,
    images: impl Iterator<Item = &'a RecordedImage>,
) -> Vec<VerifiedReference> {
    let owners: BTreeMap<_, _> = images.map(|row| (&row.reference, &row.owners)).collect();
    let is_wanted = |loaded: &LoadedReference| {
        loaded.wanted && owners.get(&loaded.reference).is_some_and(|owners| owners.contains(&loaded.owner))
    };
    let verified = |loaded| VerifiedReference { loaded, found: Finding::UNSEEN };
    loaded.into_iter().filter(is_wanted).map(verified).collect()
}
