//! The facts about kept blobs of layers that nobody extracts, and of which images say two things.
//!
//! An extracted layer has an inventory with the facts. Of a blob that is only kept nobody knows
//! more than what the first image has said, until another one says something else: then the blob
//! itself is asked.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Seek as _};

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::{BlobDigest, Verifier};
use crate::error::{Error, StoreError};
use crate::extract::{self, Workers};
use crate::state::{Desired, LayerDescriptor, LayerFacts, Limits, Observed, Ownership, Resolution};
use crate::store::Blobs;

/// Finds out the facts about kept layers of resolutions that contradict each other, or what is
/// recorded.
pub(super) fn look_into_blobs(
    desired: &Desired,
    observed: &mut Observed,
    (catalog, blobs): (Option<&Catalog>, &Blobs),
    cancel: &Cancel,
) -> Result<(), Error> {
    let Some(catalog) = catalog.filter(|_| !desired.targets.extracts) else { return Ok(()) };
    let mut kept: BTreeMap<&BlobDigest, &LayerDescriptor> = BTreeMap::new();
    let mut doubtful = Vec::new();
    for resolution in observed.resolutions.values() {
        let Resolution::Resolved(image) = resolution else { continue };
        for layer in image.layers.iter().filter(|layer| observed.blobs.contains(&layer.digest)) {
            let first = kept.entry(&layer.digest).or_insert(layer);
            if (&first.diff_id, first.size) != (&layer.diff_id, layer.size) {
                doubtful.push(layer);
            }
        }
    }
    let kept: Vec<&LayerDescriptor> = kept.into_values().collect();
    doubtful.extend(catalog.contradicted(&kept)?);
    let mut facts = BTreeMap::new();
    for layer in doubtful {
        if let Entry::Vacant(place) = facts.entry(layer.digest.clone())
            && let Some(found) = facts_of(layer, blobs, cancel)?
        {
            place.insert(found);
        }
    }
    observed.facts = facts;
    Ok(())
}

/// Reads the kept blob of `layer`; `None` where that is damaged, or gone by now.
fn facts_of(layer: &LayerDescriptor, blobs: &Blobs, cancel: &Cancel) -> Result<Option<LayerFacts>, Error> {
    let failed = |error: io::Error| {
        if cancel.is_cancelled() {
            return Error::Stopped;
        }
        StoreError::io("read the kept blob", blobs.path(&layer.digest))(error).into()
    };
    let Some(mut file) = blobs.open(&layer.digest)? else { return Ok(None) };
    let size = file.metadata().map_err(failed)?.len();
    let is_whole = Verifier::new(&layer.digest, size).read(&mut file, &|| cancel.is_cancelled());
    if is_whole.map_err(failed)?.is_err() {
        return Ok(None);
    }
    file.rewind().map_err(failed)?;
    let algorithm = layer.diff_id.algorithm();
    let (ownership, limits) = (Ownership::None, Limits::default());
    let options = extract::Options { ownership, limits, algorithm, blob_size: size };
    let workers = Workers::new(1, 1, cancel).map_err(failed)?;
    let diff_id = extract::diff_id(file, options, &workers);
    Ok(diff_id.ok().map(|diff_id| LayerFacts { diff_id, size }))
}
