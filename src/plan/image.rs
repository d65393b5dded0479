//! One wanted image in a plan: what it is to be, the state of its parts, and what is to be recorded
//! of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::contradiction::contradicted;
use super::cooldown;
use super::engine_part::{Meaning, RowChange, plan_engine};
use super::names::Names;
use super::need::Need;
use super::part::{PlannedPart, deciding};
use super::reason::Reason;
use super::recorded_names::RecordedNames;
use super::wait::Wait;
use crate::digest::BlobDigest;
use crate::error::{Defect, Error};
use crate::image_ref::ImageRef;
use crate::progress::{Event, SignatureReport, Waiting};
use crate::state::{
    Action, BlobsState, BlockedSelection, Desired, DesiredImage, DocumentDescriptor, EngineName, EngineState,
    LayerDescriptor, LayersState, LockedImage, Observed, PartState, Platform, RecordedImage, Resolution,
    ResolvedImage, TrustStatus, Verdict, size_of_layers,
};

/// One image in a [`Plan`](super::Plan).
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct PlannedImage {
    /// The image.
    pub reference: ImageRef,
    /// The names under which the image is or will be recorded, its own first.
    pub names: Vec<ImageRef>,
    /// The platform that the image is wanted for, or is recorded for where it goes.
    pub platform: Option<Platform>,
    /// The parts of the image. An image that goes, or of which nothing is known, has none.
    pub parts: Vec<PlannedPart>,
    /// The engines that the image is taken out of (only with prune).
    pub leaves: BTreeSet<EngineName>,
    /// The rows about what engines were given that are out of date.
    pub row_changes: Vec<RowChange>,
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
    /// The time when the image was made, RFC 3339, where its config is known and says so.
    pub created: Option<String>,
    /// The time of the last recording, `YYYY-MM-DD HH:MM:SS` UTC, before the plan is carried out.
    pub recorded_at: Option<String>,
    /// The documents on the way from the reference to the layers, top first; empty where they are
    /// not known.
    pub documents: Arc<[DocumentDescriptor]>,
    /// The layers of the image, base first.
    pub layers: Arc<[LayerDescriptor]>,
    /// True if the run needs the blobs as they were fetched: to keep them, or to load them.
    pub needs_blobs: bool,
    /// The bytes of the image's layers that are to be fetched: each distinct layer counts once,
    /// also if another image needs it too.
    pub download_bytes: u64,
    /// The rows that the run has to write; `None` where all of them are right.
    pub to_record: Option<ToRecord>,
    /// True if the image is to be held at its digest once it is recorded.
    pub holds: bool,
    /// The time since when the image is held at its digest.
    pub held: Option<Timestamp>,
    /// The new digest of the tag that is not taken yet.
    pub waiting: Option<Waiting>,
    /// True if the image is to be added or updated and all of it is ready.
    pub staged: bool,
    /// True if the run makes the image ready, and does not record it.
    pub stages: bool,
    /// The verdict about the image's signatures; `None` where no rule asks for one.
    pub verdict: Option<Verdict>,
    /// The reason why a removal is put off, that of the image or those from engines; `None` where
    /// none is.
    pub waits: Option<Wait>,
}

/// The rows that are to be written for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToRecord {
    /// All rows of this image.
    Image(Arc<ResolvedImage>),
    /// All rows of the image that the lockfile names. The image has to be looked up first: a plan
    /// with such an image can be shown, not carried out.
    Locked(Arc<LockedImage>),
    /// The owner, the directory of the layers, and rows of second names that are not those of the
    /// image. All other rows are right.
    Owner,
}

impl PlannedImage {
    /// The state of the image's layers; that of nothing where the plan has no such part.
    pub fn layers_state(&self) -> LayersState {
        let mut states = self.parts.iter().filter_map(|part| match part.state {
            PartState::Layers(layers) => Some(layers),
            PartState::Blobs(_) | PartState::Engine(_) => None,
        });
        states.next().unwrap_or_default()
    }

    /// The parts in engines, with the state of each.
    pub fn engines(&self) -> impl Iterator<Item = (&EngineState, &PlannedPart)> {
        self.parts.iter().filter_map(|part| match &part.state {
            PartState::Engine(state) => Some((&**state, part)),
            PartState::Layers(_) | PartState::Blobs(_) => None,
        })
    }

    /// The actions on the image in engines, also in those that it is taken out of.
    pub fn engine_actions(&self) -> impl Iterator<Item = (EngineName, Action)> {
        let parts = self.engines().map(|(state, part)| (state.engine.name, part.action()));
        let is_part = |name: &EngineName| self.engines().any(|(state, _)| state.engine.name == *name);
        let leaves = self.leaves.iter().copied().filter(move |name| !is_part(name));
        parts.chain(leaves.map(|name| (name, Action::Remove)))
    }

    /// True if the plan changes something of the image, now or, where a removal waits, as soon as a
    /// run like this one can.
    pub fn changes(&self) -> bool {
        let is_left = matches!(self.waits, Some(Wait::SecondName(_)));
        !is_left && !matches!(self.action, Action::Keep | Action::Blocked) || !self.leaves.is_empty()
    }

    /// The loads that the run has to do.
    pub fn loads(&self) -> impl Iterator<Item = &EngineState> {
        let is_due = |part: &PlannedPart| matches!(part.action(), Action::Add | Action::Update);
        self.engines().filter(move |(_, part)| is_due(part)).map(|(state, _)| state)
    }

    /// The error that blocks layers and rows, so that nothing at all can be done for the image.
    pub fn rows_error(&self) -> Option<&Arc<Error>> {
        let rows = self.parts.iter().find(|part| matches!(part.state, PartState::Layers(_)));
        rows.map_or(self.reason.error(), |part| part.reason.error())
    }

    /// The first error that blocks a part of the image.
    pub fn part_error(&self) -> Option<&Arc<Error>> {
        self.rows_error().or_else(|| self.parts.iter().find_map(|part| part.reason.error()))
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
        let engines =
            self.engine_actions().filter(|(_, action)| !(self.waits.is_some() && *action == Action::Remove));
        let engines = engines.map(|(engine, action)| (engine.as_str(), action)).collect();
        Event::Image {
            reference: self.reference.clone(),
            platform: self.platform.as_ref().map(ToString::to_string),
            action: self.action,
            digest: self.digest.clone(),
            previous: self.previous.clone(),
            reason: self.remark().unwrap_or_default(),
            candidate: self.waiting.clone().map(Box::new),
            held: self.held,
            engines,
            signatures: Box::new(self.signatures()),
            staged: self.stages,
            stays: self.reason.keeps_image(),
            error,
        }
    }

    /// The state of the image's signatures.
    pub fn signatures(&self) -> SignatureReport {
        self.verdict.as_ref().map_or_else(|| TrustStatus::NotAsked.report(), Verdict::report)
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
            leaves: BTreeSet::new(),
            row_changes: Vec::new(),
            action: reason.action(),
            reason,
            chosen_by: None,
            digest: None,
            previous: None,
            created: None,
            recorded_at: None,
            documents: Arc::default(),
            layers: Arc::default(),
            needs_blobs: false,
            download_bytes: 0,
            to_record: None,
            holds: false,
            held: None,
            waiting: None,
            staged: false,
            stages: false,
            verdict: None,
            waits: None,
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
    (recorded_names, engine_names): (&RecordedNames<'_>, &Names<'_>),
    observed: &Observed,
) -> PlannedImage {
    let names = recorded_names.of_image(&wanted.reference);
    let recorded = observed.recorded.get(&wanted.reference);
    let waiting = cooldown::waiting(wanted, recorded, observed);
    let goal = Goal::of(wanted, recorded, waiting.is_some(), observed);
    let rows = plan_layers(desired, wanted, recorded, &names, &goal, observed);
    let rows_action = rows.action();
    let mut parts = vec![rows];
    if desired.targets.keeps_blobs {
        parts.push(plan_blobs(&parts[0].reason, &goal, observed));
    }
    let (in_engines, row_changes) = plan_engines(desired, wanted, &goal, engine_names, observed);
    parts.extend(in_engines);
    // A wanted image has parts.
    let reason = match (deciding(&parts).map_or(Reason::InSync, |part| part.reason.clone()), &waiting) {
        (Reason::InSync, Some(waiting)) => Reason::NewDigest(waiting.clone()),
        (reason, _) => reason,
    };
    let mut planned = PlannedImage {
        parts,
        row_changes,
        chosen_by: chosen_by.map(str::to_owned),
        previous: recorded.and_then(|recorded| recorded.digest.clone()),
        created: goal.created,
        recorded_at: recorded.map(|recorded| recorded.modified_at.clone()),
        documents: goal.documents,
        layers: goal.layers,
        to_record: goal.to_record,
        digest: goal.digest,
        holds: wanted.back_to.is_some(),
        held: recorded.and_then(RecordedImage::held_itself).filter(|_| wanted.locked.is_none()),
        waiting,
        verdict: observed.verdicts.get(&wanted.reference).cloned(),
        ..PlannedImage::without_parts(&wanted.reference, names, Some(wanted.platform.clone()), reason)
    };
    planned.needs_blobs =
        rows_action != Action::Blocked && (desired.targets.keeps_blobs || planned.loads().next().is_some());
    if rows_action != Action::Blocked {
        let downloads = |layer: &&LayerDescriptor| {
            Need::of(desired, planned.needs_blobs, layer, observed).is_some_and(Need::downloads)
        };
        let to_fetch = planned.layers.iter().filter(downloads);
        planned.download_bytes = size_of_layers(&to_fetch.cloned().collect::<Vec<_>>());
    }
    let keeps_rows = matches!(rows_action, Action::Keep | Action::Repair);
    let are_right = planned.layers_state().rows_complete && !lacks_documents(&planned, observed);
    if keeps_rows && (are_right || planned.to_record.is_none()) {
        // Rows of the image that are complete and say the same need not be written again.
        let is_due = !are_right || is_new_to(desired, &planned, observed);
        planned.to_record = is_due.then_some(ToRecord::Owner);
    }
    planned
}

/// Plans the parts in those engines of the run that are to have the image, and what is to be noted
/// of them.
fn plan_engines(
    desired: &Desired,
    wanted: &DesiredImage,
    goal: &Goal,
    names: &Names<'_>,
    observed: &Observed,
) -> (Vec<PlannedPart>, Vec<RowChange>) {
    let image = Meaning {
        owner: &desired.owner,
        reference: &wanted.reference,
        digest: goal.digest.as_ref(),
        manifest: goal.manifest.as_ref(),
        config: goal.config.as_ref(),
        error: goal.error.as_ref(),
    };
    let (mut parts, mut row_changes) = (Vec::new(), Vec::new());
    let is_wanted = |name: EngineName| wanted.engines.as_ref().is_none_or(|engines| engines.contains(&name));
    for engine in desired.targets.engines.iter().filter(|engine| is_wanted(engine.name)) {
        let (part, changes) = plan_engine(engine, &image, names, observed);
        parts.push(part);
        row_changes.extend(changes);
    }
    (parts, row_changes)
}

/// An image as it is to be after the run.
struct Goal {
    digest: Option<BlobDigest>,
    manifest: Option<BlobDigest>,
    config: Option<BlobDigest>,
    created: Option<String>,
    documents: Arc<[DocumentDescriptor]>,
    layers: Arc<[LayerDescriptor]>,
    to_record: Option<ToRecord>,
    /// The reason why nothing can be done.
    error: Option<Arc<Error>>,
}

impl Goal {
    /// Finds out what `wanted` is to be: what its reference means now, or else what is recorded, as
    /// long as a new digest waits. An image that is refused stays as it is.
    fn of(wanted: &DesiredImage, recorded: Option<&RecordedImage>, waits: bool, observed: &Observed) -> Self {
        let goal = Self::unjudged(wanted, recorded, waits, observed);
        match observed.verdicts.get(&wanted.reference).and_then(Verdict::error) {
            Some(refusal) if goal.error.is_none() => {
                Self { error: Some(Arc::clone(refusal)), to_record: None, ..goal }
            }
            _ => goal,
        }
    }

    /// Finds out what `wanted` is to be if nobody minds.
    fn unjudged(
        wanted: &DesiredImage,
        recorded: Option<&RecordedImage>,
        waits: bool,
        observed: &Observed,
    ) -> Self {
        let as_recorded = Self {
            digest: recorded.and_then(|recorded| recorded.digest.clone()),
            manifest: recorded.and_then(|recorded| recorded.manifest_digest.clone()),
            config: recorded.and_then(|recorded| recorded.config_digest.clone()),
            created: recorded.and_then(|recorded| recorded.created.clone()),
            documents: recorded.map(|recorded| Arc::clone(&recorded.documents)).unwrap_or_default(),
            layers: recorded.map(|recorded| Arc::clone(&recorded.layers)).unwrap_or_default(),
            to_record: None,
            error: None,
        };
        match observed.resolutions.get(&wanted.reference) {
            Some(Resolution::AsRecorded) if recorded.is_some() => as_recorded,
            // The observer has not heeded the cooldown.
            Some(Resolution::Resolved(image))
                if waits && Some(&image.digest) != as_recorded.digest.as_ref() =>
            {
                as_recorded
            }
            Some(Resolution::Resolved(image)) => Self {
                digest: Some(image.digest.clone()),
                manifest: Some(image.manifest.digest.clone()),
                config: Some(image.config.digest.clone()),
                created: image.config.created.clone(),
                documents: Arc::clone(&image.documents),
                layers: Arc::clone(&image.layers),
                to_record: Some(ToRecord::Image(Arc::clone(image))),
                error: contradicted(&image.layers, observed).map(Arc::new),
            },
            Some(Resolution::Locked(image)) => Self {
                digest: Some(image.digest.clone()),
                manifest: Some(image.manifest.clone()),
                config: None,
                created: None,
                documents: Arc::default(),
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

/// Plans the part that every image has: its layers, where they are to be extracted, and the rows
/// of the image.
fn plan_layers(
    desired: &Desired,
    wanted: &DesiredImage,
    recorded: Option<&RecordedImage>,
    names: &[ImageRef],
    goal: &Goal,
    observed: &Observed,
) -> PlannedPart {
    let is_complete = |row: &RecordedImage| row.rows_complete && row.digest == goal.digest;
    let rows_complete = names.iter().all(|name| observed.recorded.get(name).is_some_and(is_complete));
    let state = if desired.targets.extracts {
        LayersState::of(&goal.layers, &observed.layers, rows_complete)
    } else {
        LayersState::not_extracted(&goal.layers, &observed.blobs, rows_complete)
    };
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
        return match locked {
            Some(_) => Reason::LockedDigest,
            None if wanted.back_to.is_some() => Reason::BackToEarlier,
            None => Reason::AnotherDigest,
        };
    }
    if locked.is_some_and(|locked| recorded.manifest_digest.as_ref() != Some(&locked.manifest)) {
        return Reason::LockedManifest;
    }
    if !state.is_complete() {
        return Reason::Layers(state);
    }
    match recorded.held_itself() {
        _ if !state.rows_complete => Reason::Rows,
        Some(since) if wanted.locked.is_none() => Reason::Held { since },
        _ => Reason::InSync,
    }
}

/// Plans the part of the kept blobs. An image that is added or updated for another reason, given by
/// `rows`, brings its blobs with it.
fn plan_blobs(rows: &Reason, goal: &Goal, observed: &Observed) -> PlannedPart {
    let state = BlobsState::of(&goal.documents, &goal.layers, &observed.blobs);
    let reason = match rows.action() {
        Action::Blocked => rows.clone(),
        Action::Add | Action::Update if state.missing > 0 => rows.clone(),
        _ if state.missing > 0 => Reason::Blobs(state),
        _ => Reason::InSync,
    };
    PlannedPart { state: PartState::Blobs(state), reason }
}

/// True if the run needs the image's documents, and a row of the image does not name them.
fn lacks_documents(planned: &PlannedImage, observed: &Observed) -> bool {
    let mut rows = planned.names.iter().filter_map(|name| observed.recorded.get(name));
    planned.needs_blobs && rows.any(|row| row.documents != planned.documents)
}

/// True if a row of the image does not know yet who wants the image, in which parts, or where its
/// layers are.
fn is_new_to(desired: &Desired, planned: &PlannedImage, observed: &Observed) -> bool {
    let Desired { owner, targets, .. } = desired;
    let mut rows = planned.names.iter().filter_map(|name| observed.recorded.get(name));
    rows.any(|row| {
        !row.owners.contains(owner)
            // A second name has the owners of the first until it is wanted for itself.
            || (row.alias_of.is_some() && row.reference == planned.reference)
            || row.extracted_for.contains(owner) != targets.extracts
            || row.blobs_kept_for.contains(owner) != targets.keeps_blobs
            || row.earlier_for.get(owner).copied().unwrap_or_default() != targets.keeps_earlier
            || row.layers_directory.as_ref() != Some(&desired.layers_directory)
    })
}
