//! From the plan and the outcome of a run to what a status keeps of it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::status::{CHANGES, Change, Failure, ImageState, ImageStatus, RunStatus, clipped};
use super::words::read_time;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::plan::PlannedImage;
use crate::progress::Waiting;
use crate::state::{Action, EngineName, TrustStatus, size_of_layers};
use crate::sync::{Applied, Outcome};

/// Adds to `run` what it changed.
pub(super) fn with_changes(run: RunStatus, applied: &Applied) -> RunStatus {
    let errors = errors_of(applied);
    let is_done = |image: &&PlannedImage| {
        (image.changes() && !image.reason.keeps_image() || !image.leaves.is_empty())
            && image.waits.is_none()
            && !matches!(errors.get(&image.reference), Some(Some(_)))
    };
    let done: Vec<&PlannedImage> = applied.plan.images.iter().filter(is_done).collect();
    let changes: Vec<Change> = done.iter().take(CHANGES).map(|image| change(image)).collect();
    let downloaded_bytes = applied.outcome.downloaded_bytes;
    RunStatus { more_changes: done.len() - changes.len(), changes, downloaded_bytes, ..run }
}

fn change(image: &PlannedImage) -> Change {
    Change {
        reference: image.reference.to_string(),
        action: image.action,
        from: image.previous.clone(),
        to: image.digest.clone().filter(|_| image.action != Action::Remove),
        engines: image.engine_actions().filter(|(_, action)| *action != Action::Keep).collect(),
    }
}

fn failure(error: &Error) -> Failure {
    let (message, hint) = (clipped(&error.chain().join(": ")), error.hint());
    Failure { kind: error.kind(), message, hint: hint.as_deref().map(clipped) }
}

/// The images after a run that ended at `now`, sorted by reference: those of the plan that are
/// still there, and those that are not listed any more.
pub(super) fn images_after(applied: &Applied, now: Timestamp) -> Arc<[ImageStatus]> {
    let errors = errors_of(applied);
    let there =
        applied.plan.images.iter().filter(|image| image.action != Action::Remove || image.waits.is_some());
    let error_of = |image: &PlannedImage| errors.get(&image.reference).copied().flatten();
    let mut images: Vec<ImageStatus> =
        there.map(|image| image_after(image, error_of(image), &applied.outcome, now)).collect();
    images.extend(applied.plan.unlisted.iter().map(|reference| ImageStatus {
        reference: reference.to_string(),
        platform: None,
        state: ImageState::Unlisted,
        digest: None,
        wanted: None,
        layers: 0,
        size: 0,
        created: None,
        recorded: None,
        engines: Vec::new(),
        signatures: TrustStatus::NotAsked.report(),
        held: None,
        waiting: None,
        staged: false,
        chosen_by: None,
        failure: None,
    }));
    images.sort_by(|one, other| one.reference.cmp(&other.reference));
    images.into()
}

/// The tags that selections would choose, were they not new.
pub(super) fn new_tags(applied: &Applied) -> Arc<[(String, Waiting)]> {
    applied.plan.new_tags.iter().map(|(tag, waiting)| (tag.to_string(), waiting.clone())).collect()
}

/// The states of an image in its engines after a run. Of an image that failed, those engines have
/// it that had it before, or that took it.
pub(super) fn engines_after(
    image: &PlannedImage,
    error: Option<&Error>,
    outcome: &Outcome,
) -> impl Iterator<Item = (EngineName, ImageState)> {
    // Any other failure is one before a load.
    let came_to_loads = error.is_none_or(|error| matches!(error, Error::Engine(_)));
    image.engines().map(move |(state, part)| {
        let engine = state.engine.name;
        let failed = outcome.engine_failures.contains(&(image.reference.clone(), engine));
        let state = match part.action() {
            Action::Blocked => ImageState::Blocked,
            Action::Keep => ImageState::InSync,
            _ if came_to_loads && !failed => ImageState::InSync,
            _ => ImageState::Failed,
        };
        (engine, state)
    })
}

/// The error of each image of a run, where it failed.
pub(super) fn errors_of(applied: &Applied) -> BTreeMap<&ImageRef, Option<&Error>> {
    applied.outcome.images.iter().map(|(name, _, error)| (name, error.as_deref())).collect()
}

fn image_after(
    image: &PlannedImage,
    error: Option<&Error>,
    outcome: &Outcome,
    now: Timestamp,
) -> ImageStatus {
    let state = match (error, image.action) {
        (_, Action::Remove) => ImageState::Waiting,
        (_, Action::Blocked) => ImageState::Blocked,
        (Some(_), _) => ImageState::Failed,
        (None, _) => ImageState::InSync,
    };
    // An engine has its part after layers and rows, which are here then.
    let is_here = error.is_none_or(|error| matches!(error, Error::Engine(_)));
    let digest = if is_here && image.digest.is_some() { &image.digest } else { &image.previous };
    let was_here = digest.is_some() && *digest == image.previous;
    let recorded = image.recorded_at.as_deref().and_then(read_time).filter(|_| was_here);
    ImageStatus {
        reference: image.reference.to_string(),
        platform: image.platform.as_ref().map(ToString::to_string),
        state,
        digest: digest.clone(),
        wanted: image.digest.clone().filter(|wanted| Some(wanted) != digest.as_ref()),
        layers: image.layers.len(),
        size: size_of_layers(&image.layers),
        created: image.created.as_deref().and_then(read_time),
        recorded: recorded.or_else(|| digest.as_ref().map(|_| now)),
        engines: engines_after(image, error, outcome).collect(),
        signatures: image.signatures(),
        held: image.held,
        waiting: image.waiting.clone(),
        staged: image.staged && error.is_some(),
        chosen_by: image.chosen_by.as_deref().map(clipped),
        failure: error.map(failure),
    }
}
