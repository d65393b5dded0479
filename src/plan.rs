//! The planner: what is desired and what is observed in, the ordered actions between them out.
//!
//! Pure, total and deterministic: no I/O, no clock, no environment, no randomness. `plan`, `apply`, `watch`
//! and the tests all use this one function, so what `plan` shows is what `apply` does.

mod forget;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use forget::{Refusals, Removal, removals, removals_of, removals_of_owner};

use crate::digest::{BlobDigest, ContentMismatch, DiffId};
use crate::error::{Defect, Error, LayerError, RegistryError};
use crate::image_ref::ImageRef;
use crate::state::{
    Action, BlockedSelection, Desired, DesiredImage, LayerDescriptor, LayerFacts, LayerState, LockedImage,
    Observed, Owner, Platform, RecordedImage, Resolution, ResolvedImage, size_of_layers,
};

/// What is to be done, and why.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// One entry an image, sorted by reference; removals last.
    pub images: Vec<PlannedImage>,
    /// The layers to fetch, each once, biggest first.
    pub fetches: Vec<Fetch>,
    /// Layers that nothing needs once the images above are removed or replaced (only with prune), sorted.
    pub layers_to_remove: Vec<BlobDigest>,
    /// Images that the owner recorded and no longer lists, when prune is off: kept, but worth a word.
    pub unlisted: Vec<ImageRef>,
}

/// One image's part of a [`Plan`].
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// Which.
    pub reference: ImageRef,
    /// The names under which it is or will be recorded, itself first.
    pub names: Vec<ImageRef>,
    /// For which platform.
    pub platform: Option<Platform>,
    /// What is to be done.
    pub action: Action,
    /// What the reference means now.
    pub digest: Option<BlobDigest>,
    /// What it meant when it was recorded.
    pub previous: Option<BlobDigest>,
    /// Why, for people.
    pub reason: String,
    /// Its layers, base first.
    pub layers: Arc<[LayerDescriptor]>,
    /// How many of them are in the store, those that are to be compared with their inventories included.
    pub layers_present: usize,
    /// Bytes of its layers that are to be fetched, each distinct one once, also if another image needs them too.
    pub download_bytes: u64,
    /// What is to be recorded, if rows must be written.
    pub record: Option<Record>,
    /// Whether the owner or another layers directory is to be noted for an image that is recorded already.
    pub adopt: bool,
    /// Why it is blocked.
    pub error: Option<Arc<Error>>,
    /// Whether a removal is put off: a wanted image is blocked or has failed, and what is to take the place of this one
    /// may be just that.
    pub waits: bool,
}

/// What is to be recorded of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// This.
    Resolved(Arc<ResolvedImage>),
    /// What is to be looked up by the lockfile's digest first. Such a plan can be shown, not executed.
    Locked(Arc<LockedImage>),
}

/// One blob to fetch and extract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Which.
    pub digest: BlobDigest,
    /// What the images that need it say about it. Honest images agree, so there is one claim; where they do
    /// not, each is judged by itself.
    pub claims: Vec<Claim>,
}

/// What some images say about a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The layer in their words.
    pub layer: LayerDescriptor,
    /// The images, sorted.
    pub images: Vec<ImageRef>,
}

impl PlannedImage {
    /// Blocks the image if there is an error.
    fn block_if(&mut self, error: Option<Error>) {
        if let Some(error) = error {
            self.action = Action::Blocked;
            self.reason = error.to_string();
            self.error = Some(Arc::new(error));
        }
    }
}

impl Fetch {
    /// Bytes to fetch, by the first claim.
    pub fn size(&self) -> u64 {
        self.claims.first().map_or(0, |claim| claim.layer.size)
    }
}

impl Plan {
    /// How many images change: all but those kept and blocked. Removals that wait count.
    pub fn changes(&self) -> usize {
        self.images.iter().filter(|image| !matches!(image.action, Action::Keep | Action::Blocked)).count()
    }

    /// How many images have `action`.
    pub fn count(&self, action: Action) -> usize {
        self.images.iter().filter(|image| image.action == action).count()
    }

    /// Bytes to fetch, each blob once.
    pub fn download_bytes(&self) -> u64 {
        self.fetches.iter().map(Fetch::size).fold(0, u64::saturating_add)
    }

    /// Bytes, as fetched, of the wanted layers that are here already, each once.
    pub fn present_bytes(&self) -> u64 {
        let fetched: BTreeSet<&BlobDigest> = self.fetches.iter().map(|fetch| &fetch.digest).collect();
        let wanted = self.images.iter().filter(|image| image.action != Action::Remove);
        let mut seen = BTreeSet::new();
        wanted
            .flat_map(|image| &*image.layers)
            .filter(|layer| !fetched.contains(&layer.digest) && seen.insert(&layer.digest))
            .map(|layer| layer.size)
            .sum()
    }

    /// Leaves out what concerns `images` alone, but for their removal: another plan takes care of them.
    #[must_use]
    pub fn without(mut self, images: &BTreeSet<ImageRef>) -> Self {
        self.images.retain(|image| image.action == Action::Remove || !images.contains(&image.reference));
        for fetch in &mut self.fetches {
            fetch.claims.iter_mut().for_each(|claim| claim.images.retain(|image| !images.contains(image)));
            fetch.claims.retain(|claim| !claim.images.is_empty());
        }
        self.fetches.retain(|fetch| !fetch.claims.is_empty());
        self
    }

    /// The images whose removal waits.
    pub fn waiting(&self) -> impl Iterator<Item = &ImageRef> {
        self.images.iter().filter(|image| image.waits).map(|image| &image.reference)
    }

    /// Has all removals wait, those of the layers of replaced images too.
    pub fn hold_removals(&mut self) {
        for image in self.images.iter_mut().filter(|image| image.action == Action::Remove) {
            image.waits = true;
        }
        self.layers_to_remove.clear();
    }

    /// Leaves out the removals of images of `listed`, where a repository alone stands for all its images. Their layers
    /// stay, since they stay recorded.
    pub fn spare(&mut self, listed: &BTreeSet<ImageRef>) {
        let is_listed = |name: &ImageRef| listed.contains(name) || listed.contains(&name.repository_alone());
        self.images.retain(|image| image.action != Action::Remove || !image.names.iter().any(is_listed));
    }

    /// Leaves out all removals, and returns the layers that were to be removed: see [`Observed::released`].
    pub fn take_removals(&mut self) -> Vec<BlobDigest> {
        self.images.retain(|image| image.action != Action::Remove);
        std::mem::take(&mut self.layers_to_remove)
    }

    /// Makes one of two plans of one run, of which this one was carried out first.
    pub fn append(&mut self, next: Self) {
        self.images.extend(next.images);
        self.images.sort_by(|a, b| in_order((&a.reference, a.action), (&b.reference, b.action)));
        self.fetches.extend(next.fetches);
        self.layers_to_remove.extend(next.layers_to_remove);
        self.unlisted = next.unlisted;
    }

    /// Whether there is nothing to do now, not even to note that another file wants an image.
    pub fn is_empty(&self) -> bool {
        self.changes() == self.waiting().count()
            && self.layers_to_remove.is_empty()
            && !self.images.iter().any(|image| image.adopt)
    }
}

/// The order of a plan's images: by reference, removals last.
pub(crate) fn in_order(a: (&ImageRef, Action), b: (&ImageRef, Action)) -> Ordering {
    (a.1 == Action::Remove, a.0).cmp(&(b.1 == Action::Remove, b.0))
}

/// Plans the way from `observed` to `desired`.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut images: Vec<PlannedImage> =
        desired.images.iter().map(|image| plan_image(desired, image, observed)).collect();
    images.extend(observed.selected.iter().map(|selected| {
        let mut planned = plan_image(desired, &selected.image, observed);
        if planned.reason.is_empty() {
            planned.reason = format!("chosen by {}", selected.rule);
        }
        planned
    }));
    images.extend(observed.blocked_selections.iter().map(plan_blocked_selection));
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    let fetches = plan_fetches(&images, observed);

    let listed: BTreeSet<&ImageRef> = wanted_images(desired, observed)
        .map(|image| &image.reference)
        .chain(&desired.listed_elsewhere)
        .collect();
    let selecting = selecting_repositories(desired);
    // What a selection would choose that was not, or could not be, carried out is not known to be unwanted.
    let held = |repository: &ImageRef| {
        listed.contains(repository)
            || (selecting.contains(repository) && !observed.decided.contains(repository))
    };
    let unlisted: Vec<&RecordedImage> = observed
        .recorded
        .values()
        // What was pulled is on no list from which it could be missing.
        .filter(|recorded| desired.owner != Owner::pull() && recorded.owners.contains(&desired.owner))
        .filter(|recorded| !listed.contains(&recorded.reference))
        .filter(|recorded| !held(&recorded.reference.repository_alone()))
        // A second name goes with its first one.
        .filter(|recorded| recorded.alias_of.is_none())
        .collect();
    if !desired.prune {
        let unlisted = unlisted.into_iter().map(|recorded| recorded.reference.clone()).collect();
        return Plan { images, fetches, layers_to_remove: Vec::new(), unlisted };
    }
    let mut second_names: BTreeMap<&ImageRef, Vec<&ImageRef>> = BTreeMap::new();
    for row in observed.recorded.values().filter(|row| !listed.contains(&row.reference)) {
        if let Some(first) = &row.alias_of {
            second_names.entry(first).or_default().push(&row.reference);
        }
    }
    let removals: Vec<PlannedImage> = unlisted
        .into_iter()
        .map(|recorded| {
            let seconds = second_names.get(&recorded.reference).map_or(&[][..], Vec::as_slice);
            plan_removal(desired, recorded, seconds, observed)
        })
        .collect();
    let incomplete = observed.failed || images.iter().any(|image| image.action == Action::Blocked);
    images.extend(removals);
    let layers_to_remove = plan_layer_removals(desired, &images, observed);
    let mut plan = Plan { images, fetches, layers_to_remove, unlisted: Vec::new() };
    if incomplete {
        plan.hold_removals();
    }
    plan
}

/// The images that are to be there: those listed, and those chosen by selections.
fn wanted_images<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a DesiredImage> + Clone {
    desired.images.iter().chain(observed.selected.iter().map(|selected| &selected.image))
}

/// The repositories, alone, of which this run is to select tags.
fn selecting_repositories(desired: &Desired) -> BTreeSet<ImageRef> {
    desired.selections.iter().map(|selection| selection.repository.clone()).collect()
}

fn plan_blocked_selection(blocked: &BlockedSelection) -> PlannedImage {
    PlannedImage {
        reference: blocked.repository.clone(),
        names: vec![blocked.repository.clone()],
        platform: Some(blocked.platform.clone()),
        action: Action::Blocked,
        digest: None,
        previous: None,
        reason: blocked.error.to_string(),
        layers: Arc::default(),
        layers_present: 0,
        download_bytes: 0,
        record: None,
        adopt: false,
        error: Some(Arc::clone(&blocked.error)),
        waits: false,
    }
}

fn plan_image(desired: &Desired, image: &DesiredImage, observed: &Observed) -> PlannedImage {
    let names = image.reference.recorded_names();
    let recorded = observed.recorded.get(&image.reference);
    let previous = recorded.and_then(|recorded| recorded.digest.clone());
    let mut planned = PlannedImage {
        reference: image.reference.clone(),
        names,
        platform: Some(image.platform.clone()),
        action: Action::Keep,
        digest: previous.clone(),
        previous,
        reason: String::new(),
        layers: recorded.map(|recorded| Arc::clone(&recorded.layers)).unwrap_or_default(),
        layers_present: 0,
        download_bytes: 0,
        record: None,
        adopt: false,
        error: None,
        waits: false,
    };
    match observed.resolutions.get(&image.reference) {
        Some(Resolution::AsRecorded) if recorded.is_some() => {}
        Some(Resolution::Resolved(resolved)) => {
            planned.digest = Some(resolved.digest.clone());
            planned.layers = Arc::clone(&resolved.layers);
            planned.record = Some(Record::Resolved(Arc::clone(resolved)));
            planned.block_if(contradicted(&resolved.layers, observed));
        }
        Some(Resolution::Locked(locked)) => {
            planned.digest = Some(locked.digest.clone());
            planned.layers = Arc::clone(&locked.layers);
            planned.record = Some(Record::Locked(Arc::clone(locked)));
        }
        Some(Resolution::Blocked(error)) => {
            planned.action = Action::Blocked;
            planned.reason = error.to_string();
            planned.error = Some(Arc::clone(error));
        }
        // An observer that forgot an image: nothing may be done about what nobody looked at.
        Some(Resolution::AsRecorded) | None => {
            planned.block_if(Some(Defect::NotLookedUp.into()));
        }
    }
    let state =
        |layer: &LayerDescriptor| observed.layers.get(&layer.digest).copied().unwrap_or(LayerState::Missing);
    let count = |wanted: LayerState| {
        let mut seen = BTreeSet::new();
        planned.layers.iter().filter(|layer| seen.insert(&layer.digest) && state(layer) == wanted).count()
    };
    let (missing, untrusted) = (count(LayerState::Missing), count(LayerState::Untrusted));
    let unbound = count(LayerState::Unbound);
    planned.layers_present = planned.layers.iter().filter(|layer| state(layer).is_here()).count();
    if planned.action == Action::Blocked {
        return planned;
    }
    let absent: Vec<LayerDescriptor> =
        planned.layers.iter().filter(|layer| !state(layer).is_here()).cloned().collect();
    planned.download_bytes = size_of_layers(&absent);

    let rows = |name: &ImageRef| {
        observed.recorded.get(name).is_some_and(|row| row.rows_complete && row.digest == planned.digest)
    };
    let rows_complete = planned.names.iter().all(rows);
    let (action, reason) = match recorded {
        None => (Action::Add, String::new()),
        Some(recorded) if recorded.digest.is_none() => {
            (Action::Add, "recorded by microsandbox only".to_owned())
        }
        Some(recorded) if recorded.platform.as_ref() != Some(&image.platform) => {
            let was =
                recorded.platform.as_ref().map_or_else(|| "another platform".to_owned(), ToString::to_string);
            (Action::Update, format!("{was} → {}", image.platform))
        }
        Some(recorded) if recorded.digest != planned.digest => {
            let locked = matches!(planned.record, Some(Record::Locked(_)));
            (Action::Update, if locked { "by the lockfile".to_owned() } else { String::new() })
        }
        Some(recorded) if another_manifest(recorded, planned.record.as_ref()) => {
            (Action::Update, "the lockfile names another manifest".to_owned())
        }
        Some(_) if missing + untrusted + unbound > 0 => {
            (Action::Repair, why_repaired(missing, untrusted, unbound))
        }
        Some(_) if !rows_complete => (Action::Repair, "rows missing in the catalog".to_owned()),
        Some(_) => (Action::Keep, String::new()),
    };
    planned.action = action;
    planned.reason = reason;
    // Rows that are complete and say the same need not be written again.
    if matches!(action, Action::Keep | Action::Repair) && rows_complete {
        planned.record = None;
        planned.adopt = planned.names.iter().filter_map(|name| observed.recorded.get(name)).any(|row| {
            !row.owners.contains(&desired.owner)
                || row.layers_directory.as_ref() != Some(&desired.layers_directory)
        });
    }
    planned
}

/// Why layers have to be fetched, or compared, although the image is recorded.
fn why_repaired(missing: usize, untrusted: usize, unbound: usize) -> String {
    let part = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 layer {what}")),
        _ => Some(format!("{count} layers {what}")),
    };
    let parts = [
        part(missing, "missing on disk"),
        part(untrusted, "incomplete on disk"),
        part(unbound, "in another directory than was extracted, to be compared"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Whether the lockfile has the recorded digest but another manifest: one of the two is wrong.
fn another_manifest(recorded: &RecordedImage, record: Option<&Record>) -> bool {
    match record {
        Some(Record::Locked(locked)) => recorded.manifest_digest.as_ref() != Some(&locked.manifest),
        _ => false,
    }
}

/// What is wrong with an image that says something else of a complete layer than its blob was found to be.
fn contradicted(layers: &[LayerDescriptor], observed: &Observed) -> Option<Error> {
    layers.iter().find_map(|layer| contradiction(layer, observed.facts.get(&layer.digest)?))
}

/// What is wrong with what an image says of a layer whose blob was found to be otherwise; `None`: nothing.
pub(crate) fn contradiction(claim: &LayerDescriptor, facts: &LayerFacts) -> Option<Error> {
    if claim.diff_id != facts.diff_id {
        let error = LayerError::DiffId { expected: claim.diff_id.clone(), actual: facts.diff_id.clone() };
        return Some(Error::Layer { digest: claim.digest.clone(), error });
    }
    let (digest, expected) = (claim.digest.clone(), claim.size);
    let source = match facts.size.cmp(&expected) {
        Ordering::Equal => return None,
        Ordering::Greater => ContentMismatch::TooLong { digest, expected },
        Ordering::Less => ContentMismatch::TooShort { digest, expected, actual: facts.size },
    };
    let (what, host) = (format!("layer {}", claim.digest), "the registry".to_owned());
    Some(RegistryError::Mismatch { what, host, source }.into())
}

fn plan_removal(
    desired: &Desired,
    recorded: &RecordedImage,
    second_names: &[&ImageRef],
    observed: &Observed,
) -> PlannedImage {
    let mut names = vec![recorded.reference.clone()];
    names.extend(second_names.iter().copied().cloned());
    let others: Vec<String> =
        recorded.owners.iter().filter(|&owner| *owner != desired.owner).map(ToString::to_string).collect();
    let mut reason = "not listed any more".to_owned();
    if observed.decided.contains(&recorded.reference.repository_alone()) {
        reason.push_str(": not among the tags chosen now");
    }
    if !others.is_empty() {
        reason = format!("{reason}; stays for {}", others.join(", "));
    }
    PlannedImage {
        reference: recorded.reference.clone(),
        names,
        platform: recorded.platform.clone(),
        action: Action::Remove,
        digest: None,
        previous: recorded.digest.clone(),
        reason,
        layers: Arc::clone(&recorded.layers),
        layers_present: 0,
        download_bytes: 0,
        record: None,
        adopt: false,
        error: None,
        waits: false,
    }
}

fn plan_fetches(images: &[PlannedImage], observed: &Observed) -> Vec<Fetch> {
    let mut claims: BTreeMap<(&BlobDigest, u64, &DiffId), Claim> = BTreeMap::new();
    for image in images.iter().filter(|image| image.action != Action::Blocked) {
        for layer in &*image.layers {
            if observed.layers.get(&layer.digest).is_some_and(|state| state.is_here()) {
                continue;
            }
            let claim = claims
                .entry((&layer.digest, layer.size, &layer.diff_id))
                .or_insert_with(|| Claim { layer: layer.clone(), images: Vec::new() });
            if claim.images.last() != Some(&image.reference) {
                claim.images.push(image.reference.clone());
            }
        }
    }
    let mut fetches: Vec<Fetch> = Vec::new();
    for ((digest, _, _), claim) in claims {
        match fetches.last_mut() {
            Some(fetch) if fetch.digest == *digest => fetch.claims.push(claim),
            _ => fetches.push(Fetch { digest: digest.clone(), claims: vec![claim] }),
        }
    }
    // The last big layer decides when a run ends: start it first. (A stable sort: ties stay by digest.)
    fetches.sort_by_key(|fetch| std::cmp::Reverse(fetch.size()));
    fetches
}

/// Layers of removed and replaced images that nothing will need: neither the images of this plan, blocked ones
/// included, nor any other record.
fn plan_layer_removals(desired: &Desired, images: &[PlannedImage], observed: &Observed) -> Vec<BlobDigest> {
    let mut needed: BTreeSet<&BlobDigest> = observed.needed_elsewhere.iter().collect();
    let mut gone: BTreeSet<&ImageRef> = BTreeSet::new();
    for image in images {
        let goes = |name: &&ImageRef| {
            observed.recorded.get(*name).is_some_and(|row| forget::goes(row, Some(&desired.owner)))
        };
        match image.action {
            Action::Remove => gone.extend(image.names.iter().filter(goes)),
            // Their old rows are replaced.
            Action::Update => gone.extend(&image.names),
            _ => {}
        }
        if image.action != Action::Remove {
            needed.extend(image.layers.iter().map(|layer| &layer.digest));
        }
    }
    let (leaving, staying): (Vec<_>, Vec<_>) =
        observed.recorded.values().partition(|row| gone.contains(&row.reference));
    needed.extend(staying.iter().flat_map(|row| &*row.layers).map(|layer| &layer.digest));
    let leaving = leaving.iter().flat_map(|row| &*row.layers).map(|layer| &layer.digest);
    let candidates: BTreeSet<&BlobDigest> = leaving.chain(&observed.released).collect();
    // With another directory of layers than when they were recorded, some are not there.
    let there = |digest: &&&BlobDigest| observed.layers.get(**digest) != Some(&LayerState::Missing);
    candidates.difference(&needed).filter(there).map(|&digest| digest.clone()).collect()
}

#[cfg(test)]
mod tests;
