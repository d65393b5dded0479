//! The error for references that are not recorded.

use std::collections::{BTreeMap, BTreeSet};

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
