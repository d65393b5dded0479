//! Contradictions between the words of an image about a layer and the facts about its blob.

use std::cmp::Ordering;

use crate::digest::ContentMismatch;
use crate::error::{Error, LayerError, RegistryError};
use crate::state::{LayerDescriptor, LayerFacts, Observed};

/// The error of an image that describes a complete layer otherwise than its blob was found to be.
pub(super) fn contradicted(layers: &[LayerDescriptor], observed: &Observed) -> Option<Error> {
    layers.iter().find_map(|layer| contradiction(layer, observed.facts.get(&layer.digest)?))
}

/// The error of an image whose `claim` about a layer contradicts the `facts`; `None` where the two
/// agree.
pub(crate) fn contradiction(claim: &LayerDescriptor, facts: &LayerFacts) -> Option<Error> {
    if claim.diff_id != facts.diff_id {
        let error = LayerError::DiffId {
            expected: claim.diff_id.clone().into(),
            actual: facts.diff_id.clone().into(),
        };
        return Some(Error::Layer { digest: claim.digest.clone(), error });
    }
    let (digest, expected) = (claim.digest.clone(), claim.size);
    let source = match facts.size.cmp(&expected) {
        Ordering::Equal => return None,
        Ordering::Greater => ContentMismatch::TooLong { digest, expected },
        Ordering::Less => ContentMismatch::TooShort { digest, expected, actual: facts.size },
    };
    let (what, host) = (format!("layer {}", claim.digest), "the registry".to_owned());
    Some(RegistryError::Mismatch { what, host, source: source.into() }.into())
}
