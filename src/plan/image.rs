//! One wanted image in a plan: what it is to be, the state of its parts, and what is to be recorded
//! of it.

use std::sync::Arc;

use super::contradiction::contradicted;
use super::part::{PlannedPart, deciding};
use super::reason::Reason;
use crate::digest::BlobDigest;
use crate::error::{Defect, Error};
use crate::image_ref::ImageRef;
use crate::progress::Event;
use crate::state::{
    Action, BlockedSelection, Desired, DesiredImage, LayerDescriptor, LayersState, LockedImage, Observed,
    PartState, Platform, RecordedImage, Resolution, ResolvedImage,
};

/// One image in a [`Plan`](super::Plan).
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// The image.
    pub reference: ImageRef,
    /// The names under which the image is or will be recorded, its own first.
    pub names: Vec<ImageRef>,
    /// The platform that the image is wanted for, or is recorded for where it goes.
    pub platform: Option<Platform>,
    /// The parts of the image. An image that goes, or of which nothing is known, has none.
    pub parts: Vec<PlannedPart>,
    /// The action on the image: that of the part which decides.
    pub action: Action,
    /// The reason for the action.
    pub reason: Reason,
    /// The rule of the selection that chose the image, for people.
    pub chosen_by: Option<String>,
    /// The digest that the reference means now.
    pub digest: Option<BlobDigest>,
    /// The digest that the reference meant when the image was recorded.
    pub previous: Option<BlobDigest>,
    /// The layers of the image, base first.
    pub layers: Arc<[LayerDescriptor]>,
    /// The rows that the run has to write; `None` where all of them are right.
    pub to_record: Option<ToRecord>,
    /// True if a removal is put off: a wanted image is blocked or has failed, and what is to take
    /// the place of this image may be just that.
    pub waits: bool,
}

/// The rows that are to be written for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToRecord {
    /// All rows of this image.
    Image(Arc<ResolvedImage>),
    /// All rows of the image that the lockfile names. The image has to be looked up first: a plan
    /// with such an image can be shown, not carried out.
    Locked(Arc<LockedImage>),
    /// The owner, and the directory of the layers. All other rows are right.
    Owner,
}

impl PlannedImage {
    /// The state of the image's layers; that of nothing where the plan has no such part.
    pub fn layers_state(&self) -> LayersState {
        let mut states = self.parts.iter().map(|part| match part.state {
            PartState::Layers(layers) => layers,
        });
        states.next().unwrap_or_default()
    }

    /// The bytes of the image's layers that are to be fetched: each distinct layer counts once,
    /// also if another image needs it too.
    pub fn download_bytes(&self) -> u64 {
        if self.action == Action::Blocked { 0 } else { self.layers_state().absent_bytes }
    }

    /// The error that blocks the image.
    pub fn error(&self) -> Option<&Arc<Error>> {
        self.reason.error()
    }

    /// The words that people want beside the action: the reason where it is not evident, else the
    /// rule that chose the image.
    pub fn remark(&self) -> Option<String> {
        if self.reason.is_evident() {
            self.chosen_by.as_ref().map(|rule| format!("chosen by {rule}"))
        } else {
            Some(self.reason.to_string())
        }
    }

    /// The event that tells the end of the image: with the error if it failed.
    pub fn event(&self, error: Option<Arc<Error>>) -> Event {
        let (reference, action) = (self.reference.clone(), self.action);
        Event::Image { reference, action, reason: self.remark().unwrap_or_default(), error }
    }

    /// Makes the plan of an image of which nothing is known but that it goes, or cannot be had.
    pub(super) fn without_parts(
        reference: &ImageRef,
        names: Vec<ImageRef>,
        platform: Option<Platform>,
        reason: Reason,
    ) -> Self {
        Self {
            reference: reference.clone(),
            names,
            platform,
            parts: Vec::new(),
            action: reason.action(),
            reason,
            chosen_by: None,
            digest: None,
            previous: None,
            layers: Arc::default(),
            to_record: None,
            waits: false,
        }
    }
}

/// Plans a repository whose tags could not be chosen.
pub(super) fn plan_blocked_selection(blocked: &BlockedSelection) -> PlannedImage {
    let reason = Reason::Blocked(Arc::clone(&blocked.error));
    let names = vec![blocked.repository.clone()];
    PlannedImage::without_parts(&blocked.repository, names, Some(blocked.platform.clone()), reason)
}

/// Plans one wanted image: what it is to be, then the state of each part, then the rows.
pub(super) fn plan_image(
    desired: &Desired,
    wanted: &DesiredImage,
    chosen_by: Option<&str>,
    observed: &Observed,
) -> PlannedImage {
    let names = wanted.reference.recorded_names();
    let recorded = observed.recorded.get(&wanted.reference);
    let goal = Goal::of(wanted, recorded, observed);
    let parts = vec![plan_layers(wanted, recorded, &names, &goal, observed)];
    // A wanted image has parts.
    let reason = deciding(&parts).map_or(Reason::InSync, |part| part.reason.clone());
    let mut planned = PlannedImage {
        parts,
        chosen_by: chosen_by.map(str::to_owned),
        digest: goal.digest,
        previous: recorded.and_then(|recorded| recorded.digest.clone()),
        layers: goal.layers,
        to_record: goal.to_record,
        ..PlannedImage::without_parts(&wanted.reference, names, Some(wanted.platform.clone()), reason)
    };
    let keeps_rows = matches!(planned.action, Action::Keep | Action::Repair);
    if keeps_rows && planned.layers_state().rows_complete {
        // Rows that are complete and say the same need not be written again.
        planned.to_record = is_new_to(desired, &planned.names, observed).then_some(ToRecord::Owner);
    }
    planned
}

/// An image as it is to be after the run.
struct Goal {
    digest: Option<BlobDigest>,
    layers: Arc<[LayerDescriptor]>,
    to_record: Option<ToRecord>,
    /// The reason why nothing can be done.
    error: Option<Arc<Error>>,
}

impl Goal {
    /// Finds out what `wanted` is to be: what its reference means now, or else what is recorded.
    fn of(wanted: &DesiredImage, recorded: Option<&RecordedImage>, observed: &Observed) -> Self {
        let as_recorded = Self {
            digest: recorded.and_then(|recorded| recorded.digest.clone()),
            layers: recorded.map(|recorded| Arc::clone(&recorded.layers)).unwrap_or_default(),
            to_record: None,
            error: None,
        };
        match observed.resolutions.get(&wanted.reference) {
            Some(Resolution::AsRecorded) if recorded.is_some() => as_recorded,
            Some(Resolution::Resolved(image)) => Self {
                digest: Some(image.digest.clone()),
                layers: Arc::clone(&image.layers),
                to_record: Some(ToRecord::Image(Arc::clone(image))),
                error: contradicted(&image.layers, observed).map(Arc::new),
            },
            Some(Resolution::Locked(image)) => Self {
                digest: Some(image.digest.clone()),
                layers: Arc::clone(&image.layers),
                to_record: Some(ToRecord::Locked(Arc::clone(image))),
                error: None,
            },
            Some(Resolution::Blocked(error)) => Self { error: Some(Arc::clone(error)), ..as_recorded },
            // An observer that forgot an image: nothing may be done about what nobody looked at.
            Some(Resolution::AsRecorded) | None => {
                Self { error: Some(Arc::new(Defect::NotLookedUp.into())), ..as_recorded }
            }
        }
    }
}

/// Plans the part that every image has: its layers, and the rows by which they are found.
fn plan_layers(
    wanted: &DesiredImage,
    recorded: Option<&RecordedImage>,
    names: &[ImageRef],
    goal: &Goal,
    observed: &Observed,
) -> PlannedPart {
    let is_complete =
        |row: Option<&RecordedImage>| row.is_some_and(|row| row.rows_complete && row.digest == goal.digest);
    let rows_complete = names.iter().all(|name| is_complete(observed.recorded.get(name)));
    let state = LayersState::of(&goal.layers, &observed.layers, rows_complete);
    let reason = reason_for_layers(wanted, recorded, goal, state);
    PlannedPart { state: PartState::Layers(state), reason }
}

/// Finds the first reason for which the layers, or their rows, are not as they should be.
fn reason_for_layers(
    wanted: &DesiredImage,
    recorded: Option<&RecordedImage>,
    goal: &Goal,
    state: LayersState,
) -> Reason {
    if let Some(error) = &goal.error {
        return Reason::Blocked(Arc::clone(error));
    }
    let Some(recorded) = recorded else { return Reason::NotRecorded };
    if recorded.digest.is_none() {
        return Reason::OnlyMicrosandbox;
    }
    if recorded.platform.as_ref() != Some(&wanted.platform) {
        let (recorded, wanted) = (recorded.platform.clone(), wanted.platform.clone());
        return Reason::AnotherPlatform { recorded, wanted };
    }
    let locked = match &goal.to_record {
        Some(ToRecord::Locked(locked)) => Some(locked),
        _ => None,
    };
    if recorded.digest != goal.digest {
        return if locked.is_some() { Reason::LockedDigest } else { Reason::AnotherDigest };
    }
    if locked.is_some_and(|locked| recorded.manifest_digest.as_ref() != Some(&locked.manifest)) {
        return Reason::LockedManifest;
    }
    if !state.is_complete() {
        return Reason::Layers(state);
    }
    if state.rows_complete { Reason::InSync } else { Reason::Rows }
}

/// True if a row under one of `names` does not know yet who wants the image, or where its layers
/// are.
fn is_new_to(desired: &Desired, names: &[ImageRef], observed: &Observed) -> bool {
    names.iter().filter_map(|name| observed.recorded.get(name)).any(|row| {
        !row.owners.contains(&desired.owner)
            || row.layers_directory.as_ref() != Some(&desired.layers_directory)
    })
}
