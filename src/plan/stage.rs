//! Images that are made ready before they are recorded: what a run that only does that leaves of a
//! planned image.
//!
//! Such a run asks no engine. An image that was never loaded into one is to be loaded by the next
//! run, which then wants the blobs here.

use std::sync::Arc;

use super::image::{PlannedImage, ToRecord};
use super::need::Need;
use super::part::PlannedPart;
use super::reason::Reason;
use crate::digest::BlobDigest;
use crate::state::{Action, Desired, DesiredImage, EngineSettings, Observed, Stage};

/// Notes of `planned` that all of it is ready; and, for a run that only makes images ready, leaves
/// nothing else to be done.
pub(super) fn stage(
    desired: &Desired,
    wanted: &DesiredImage,
    planned: PlannedImage,
    observed: &Observed,
) -> PlannedImage {
    let is_new = matches!(planned.to_record, Some(ToRecord::Image(_) | ToRecord::Locked(_)));
    let staged =
        is_new && planned.digest.is_some() && staged_digest(&planned, observed) == planned.digest.as_ref();
    let planned = PlannedImage { staged, ..planned };
    match &desired.stage {
        Some(stage) => only_staged((desired, stage), wanted, (planned, is_new), observed),
        None => planned,
    }
}

fn staged_digest<'o>(planned: &PlannedImage, observed: &'o Observed) -> Option<&'o BlobDigest> {
    let platform = planned.platform.clone().filter(|_| !observed.staged.is_empty())?;
    observed.staged.get(&(planned.reference.clone(), platform))
}

/// The state of an image for a run that only makes images ready.
enum Readiness {
    Blocked,
    /// The run makes it ready.
    Wanted,
    /// All of it is ready.
    Reached,
    /// The image stays as it is, with this word.
    Left(Reason),
}

/// Leaves of a planned image what makes it ready.
fn only_staged(
    of_run: (&Desired, &Stage),
    wanted: &DesiredImage,
    (planned, is_new): (PlannedImage, bool),
    observed: &Observed,
) -> PlannedImage {
    let reason = match readiness(of_run, wanted, (&planned, is_new), observed) {
        Readiness::Blocked => return PlannedImage { row_changes: Vec::new(), to_record: None, ..planned },
        Readiness::Wanted => {
            let to_record = planned.to_record.clone().filter(|_| is_new);
            return PlannedImage { row_changes: Vec::new(), to_record, stages: true, ..planned };
        }
        Readiness::Reached => Reason::Staged,
        Readiness::Left(reason) => reason,
    };
    let rows = planned.parts.first().cloned().into_iter();
    PlannedImage {
        action: reason.action(),
        parts: rows.map(|rows| PlannedPart { reason: reason.clone(), ..rows }).collect(),
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

/// Finds out how ready an image is: one that is neither added nor updated in any part, or that is
/// ready, stays as it is. Blobs that are lost of an image whose rows are right are left to the next
/// run, as lost layers are.
fn readiness(
    (desired, stage): (&Desired, &Stage),
    wanted: &DesiredImage,
    (planned, is_new): (&PlannedImage, bool),
    observed: &Observed,
) -> Readiness {
    let mut reasons = planned.parts.iter().map(|part| &part.reason);
    let rows = reasons.clone().next().unwrap_or(&planned.reason);
    let is_due = match rows.action() {
        Action::Blocked => return Readiness::Blocked,
        Action::Add | Action::Update => true,
        Action::Keep | Action::Repair | Action::Remove => {
            let lacks_blobs = reasons.clone().any(|reason| matches!(reason, Reason::Blobs(_)));
            let is_to_load = |engine: &EngineSettings| is_to_load(desired, wanted, engine, observed);
            is_new && lacks_blobs && (stage.keeps_blobs || stage.engines.iter().any(is_to_load))
        }
    };
    let is_whole =
        planned.layers.iter().all(|layer| Need::of(desired, planned.needs_blobs, layer, observed).is_none())
            && (!planned.needs_blobs
                || planned.documents.iter().all(|document| observed.blobs.contains(&document.digest)));
    if is_due && !(is_whole && (planned.staged || !is_new)) {
        return Readiness::Wanted;
    }
    if is_due || (is_whole && planned.staged) {
        return Readiness::Reached;
    }
    let is_left = |reason: &&Reason| {
        reason.action() == Action::Repair && (stage.keeps_blobs || !matches!(reason, Reason::Blobs(_)))
    };
    let repair = reasons.find(is_left).map(|repair| Reason::Left(Box::new(repair.clone())));
    Readiness::Left(repair.unwrap_or_else(|| rows.clone()))
}

/// True if `engine` is to have the recorded image, and was never given it.
fn is_to_load(
    desired: &Desired,
    wanted: &DesiredImage,
    engine: &EngineSettings,
    observed: &Observed,
) -> bool {
    let manifest = observed.recorded.get(&wanted.reference).and_then(|row| row.manifest_digest.as_ref());
    let is_wanted = wanted.engines.as_ref().is_none_or(|engines| engines.contains(&engine.name));
    let names = engine.name.names_of(&wanted.reference);
    let mut loaded = names.iter().flat_map(|name| observed.loaded.named(name)).filter(|row| {
        row.owner == desired.owner && row.reference == wanted.reference && row.engine.is_same(engine)
    });
    is_wanted && !loaded.any(|row| row.listed.is_some() && Some(&row.manifest) == manifest)
}
