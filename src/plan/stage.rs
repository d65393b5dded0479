//! Images that are made ready before they are recorded: what a run that only does that leaves of a
//! planned image.

use std::sync::Arc;

use super::image::PlannedImage;
use super::need::Need;
use super::part::PlannedPart;
use super::reason::Reason;
use crate::digest::BlobDigest;
use crate::state::{Action, Desired, Observed};

/// Notes of `planned` that all of it is ready; and, for a run that only makes images ready, leaves
/// nothing else to be done.
pub(super) fn stage(desired: &Desired, planned: PlannedImage, observed: &Observed) -> PlannedImage {
    let rows = planned.parts.first().map_or(planned.action, PlannedPart::action);
    let is_due = matches!(rows, Action::Add | Action::Update);
    let staged =
        is_due && planned.digest.is_some() && staged_digest(&planned, observed) == planned.digest.as_ref();
    let planned = PlannedImage { staged, ..planned };
    if desired.stage { only_staged(desired, planned, observed) } else { planned }
}

fn staged_digest<'o>(planned: &PlannedImage, observed: &'o Observed) -> Option<&'o BlobDigest> {
    let platform = planned.platform.clone().filter(|_| !observed.staged.is_empty())?;
    observed.staged.get(&(planned.reference.clone(), platform))
}

/// Leaves of a planned image what makes it ready: an image that is neither added nor updated, or
/// that is ready, stays as it is.
fn only_staged(desired: &Desired, planned: PlannedImage, observed: &Observed) -> PlannedImage {
    let rows = planned.parts.first().cloned();
    let action = rows.as_ref().map_or(planned.action, PlannedPart::action);
    let is_whole =
        planned.layers.iter().all(|layer| Need::of(desired, planned.needs_blobs, layer, observed).is_none())
            && (!planned.needs_blobs
                || planned.documents.iter().all(|document| observed.blobs.contains(&document.digest)));
    let reason = match action {
        Action::Blocked => return PlannedImage { row_changes: Vec::new(), to_record: None, ..planned },
        Action::Add | Action::Update if planned.staged && is_whole => Reason::Staged,
        Action::Add | Action::Update => {
            return PlannedImage { row_changes: Vec::new(), stages: true, ..planned };
        }
        Action::Keep => rows.as_ref().map_or(Reason::InSync, |rows| rows.reason.clone()),
        Action::Repair | Action::Remove => Reason::InSync,
    };
    PlannedImage {
        action: reason.action(),
        parts: rows.into_iter().map(|rows| PlannedPart { reason: reason.clone(), ..rows }).collect(),
        reason,
        row_changes: Vec::new(),
        to_record: None,
        needs_blobs: false,
        download_bytes: 0,
        // Its layers are no business of this run.
        layers: Arc::default(),
        documents: Arc::default(),
        ..planned
    }
}
