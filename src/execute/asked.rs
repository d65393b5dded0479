//! Asking registries for a blob: the image by which one may be asked, and the errors of those that
//! were, or must not be.

use std::collections::BTreeMap;
use std::io;

use crate::digest::ContentMismatch;
use crate::error::{Absent, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::plan::Claim;
use crate::registry::{BlobReader, Registries};
use crate::state::Permission;

/// Finds an image of `claim` that is not among the `unasked`: by it the registry may be asked for
/// the blob.
pub(super) fn asked_for<'c>(
    claim: &'c Claim,
    unasked: &BTreeMap<ImageRef, Permission>,
) -> Option<&'c ImageRef> {
    claim.images.iter().find(|image| !unasked.contains_key(image))
}

/// Refuses to fetch anew the damaged blob of `claim` if no registry may be asked for it.
pub(super) fn permission_to_fetch(
    claim: &Claim,
    unasked: &BTreeMap<ImageRef, Permission>,
) -> Result<(), Error> {
    if asked_for(claim, unasked).is_some() {
        return Ok(());
    }
    let permission = claim.images.first().and_then(|image| unasked.get(image));
    let absent = Absent::DamagedBlob(claim.layer().digest.clone());
    permission.and_then(|permission| permission.refusal(absent)).map_or(Ok(()), Err)
}

/// The error of wrong bytes, with the place that they came from.
pub(super) fn wrong_blob(
    registries: &Registries,
    asked: Option<&ImageRef>,
    claim: &Claim,
    source: ContentMismatch,
) -> Error {
    let host = asked.map_or("the registry".to_owned(), |image| registries.source_of(image));
    let what = format!("layer {}", claim.layer().digest);
    RegistryError::Mismatch { what, host, source: source.into() }.into()
}

/// The error of a blob that could not be read to its end.
pub(super) fn unreadable(claim: &Claim, error: io::Error) -> Error {
    let cause = BlobReader::cause(error).unwrap_or_else(|error| RegistryError::Protocol {
        url: format!("layer {}", claim.layer().digest),
        reason: error.to_string(),
        may_be_tls: false,
    });
    cause.into()
}
