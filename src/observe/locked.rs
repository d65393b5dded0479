//! Images that the lockfile names, compared with the registry's word and with what is recorded.

use std::collections::BTreeMap;

use crate::digest::BlobDigest;
use crate::error::{Defect, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::registry::Lookup;
use crate::state::{DesiredImage, LayerDescriptor, LockedImage, RecordedImage, ResolvedImage};

/// Accepts the image that the registry has under the locked digest, if it is the lockfile's.
pub(super) fn confirm(
    locked: &LockedImage,
    answer: Result<Lookup, RegistryError>,
) -> Result<ResolvedImage, Error> {
    let resolved = match answer {
        Ok(Lookup::Image(image)) => ResolvedImage { reference: locked.reference.clone(), ..*image },
        // Nothing was known, so this does not come; without the image there is nothing to record.
        Ok(Lookup::Same) => return Err(Defect::Unanswered(locked.digest.clone()).into()),
        Err(source) => {
            let (digest, source) = (locked.digest.clone(), Box::new(source));
            return Err(Error::LockedDigest { digest, source });
        }
    };
    let registry = "the registry serves";
    if resolved.digest != locked.digest || resolved.manifest.digest != locked.manifest {
        let difference = (locked.manifest.to_string(), resolved.manifest.digest.to_string());
        return Err(mismatch(registry, "manifest", difference));
    }
    match other_layer(locked, &resolved.layers) {
        Some(difference) => Err(mismatch(registry, "layer", difference)),
        None => Ok(resolved),
    }
}

pub(super) fn mismatch(who: &'static str, what: &'static str, (expected, actual): (String, String)) -> Error {
    Error::LockMismatch { who, what, expected, actual }
}

/// Finds the first layer of the lockfile that `layers` have not, and what they have in its place.
pub(super) fn other_layer(locked: &LockedImage, layers: &[LayerDescriptor]) -> Option<(String, String)> {
    let said = |layer: &LayerDescriptor| (layer.digest.clone(), layer.diff_id.clone(), layer.size);
    let shown = |layer: Option<&LayerDescriptor>| match layer {
        Some(layer) => format!("{} of {} bytes, {} unpacked", layer.digest, layer.size, layer.diff_id),
        None => "none".to_owned(),
    };
    (0..locked.layers.len().max(layers.len())).find_map(|index| {
        let (expected, actual) = (locked.layers.get(index), layers.get(index));
        (expected.map(said) != actual.map(said)).then(|| (shown(expected), shown(actual)))
    })
}

/// Finds the row of the image, if it is recorded with the lockfile's manifest.
pub(super) fn recorded_as_locked<'r>(
    image: &DesiredImage,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
) -> Option<&'r RecordedImage> {
    let locked = image.locked.as_ref()?;
    let row = recorded.get(&image.reference)?;
    let same = known_digest(image, recorded) == Some(&locked.digest)
        && row.manifest_digest.as_ref() == Some(&locked.manifest);
    same.then_some(row)
}

/// Returns the digest to compare with, if what is recorded is good enough to be kept as it is.
/// Second names have no say: nobody is asked for rows that are written from the image's own.
pub(super) fn known_digest<'r>(
    image: &DesiredImage,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
) -> Option<&'r BlobDigest> {
    let row = recorded.get(&image.reference)?;
    let is_good = row.rows_complete && row.platform.as_ref() == Some(&image.platform);
    row.digest.as_ref().filter(|_| is_good)
}
