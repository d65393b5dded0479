//! The errors for references that are not recorded.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Catalog;
use crate::diagnostic::nearest;
use crate::error::RecordedError;
use crate::image_ref::ImageRef;
use crate::state::RecordedImage;
use crate::sync::verb_error::VerbError;

/// Makes the error for references that are not recorded, with the nearest ones that are.
pub(crate) fn not_recorded<'a>(
    references: impl Iterator<Item = &'a ImageRef>,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
) -> VerbError {
    let names: Vec<String> = recorded.keys().map(ToString::to_string).collect();
    let references: Vec<ImageRef> = references.cloned().collect();
    let nearest: BTreeSet<String> = references
        .iter()
        .filter_map(|reference| nearest(&reference.to_string(), names.iter().map(String::as_str)))
        .map(str::to_owned)
        .collect();
    VerbError::Error(RecordedError::Unknown { references, nearest }.into())
}

/// Makes the error for the one image that is to be shown or changed, with those of its repository
/// that are recorded.
pub(crate) fn not_here(reference: &ImageRef, catalog: Option<&Catalog>) -> VerbError {
    let names = catalog.map(Catalog::names).transpose();
    let repository = reference.repository_alone();
    match names {
        Ok(names) => {
            let others = names.into_iter().flatten().filter(|other| other.repository_alone() == repository);
            let (reference, others) = (reference.clone(), others.collect());
            VerbError::Error(RecordedError::NotHere { reference, others }.into())
        }
        Err(error) => error.into(),
    }
}
