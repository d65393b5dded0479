//! The planner: what is desired and what is observed in, the ordered actions between them out.
//!
//! Pure, total and deterministic: no I/O, no clock, no environment, no randomness. `plan`, `apply`,
//! `watch` and the tests all use this one function, so what `plan` shows is what `apply` does.
//!
//! Read on in `image` (one wanted image), `cooldown` (new digests that wait), `part` (an image's
//! parts, and which of them decides), `reason` (the words), `fetch` (the blobs), `removal` (the end
//! of a run), `forget` (the images that `prune` and `forget` give up), `leaving` (who keeps these)
//! and `wait` (why removals are put off).

mod candidates;
mod contradiction;
mod cooldown;
mod earlier;
mod engine;
mod engine_part;
mod fetch;
mod forget;
mod image;
mod leaving;
mod names;
mod need;
mod part;
mod reason;
mod recorded_names;
mod removal;
mod stage;
mod wait;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use crate::progress::Waiting;
pub use candidates::CandidateChanges;
pub(crate) use contradiction::contradiction;
pub(crate) use cooldown::{Cooldown, candidate_of};
pub use engine_part::RowChange;
pub use fetch::{Claim, DocumentFetch, Fetch};
pub use forget::{Refusals, Removal, removals, removals_of, removals_of_owner};
pub use image::{PlannedImage, ToRecord};
pub(crate) use names::Names;
pub use part::PlannedPart;
pub use reason::{Reason, Remains};
pub(crate) use removal::wanted_images;
pub use wait::Wait;

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::progress::AwaitedImage;
use crate::state::{
    Action, Desired, DesiredImage, EngineName, Evidence, LoadedReference, LoadedReferences, Observed,
    PartState, Permission, Verdict,
};
use candidates::plan_candidates;
use earlier::Earlier;
use engine::{note_leaves, plan_engine_removals};
use fetch::{plan_documents, plan_fetches};
use image::{plan_blocked_selection, plan_image};
use recorded_names::RecordedNames;
use removal::{held, listed, plan_layer_removals, plan_removals, unlisted};
use stage::stage;

/// Plans the way from `observed` to `desired`.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let wanted: Vec<&DesiredImage> = wanted_images(desired, observed).collect();
    let names = Names::of(desired, &wanted, observed);
    let recorded_names = RecordedNames::of(&wanted, observed);
    let plan_wanted = |image, chosen_by| {
        let planned = plan_image(desired, image, chosen_by, (&recorded_names, &names), observed);
        stage(desired, image, planned, observed)
    };
    let mut images: Vec<PlannedImage> = desired.images.iter().map(|image| plan_wanted(image, None)).collect();
    let selected = observed.selected.iter();
    images.extend(selected.map(|selected| plan_wanted(&selected.image, Some(&*selected.rule))));
    images.extend(observed.blocked_selections.iter().map(plan_blocked_selection));
    let (new_tags, candidates) = plan_candidates(&images, observed);
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    let fetches = plan_fetches(desired, &images, observed);
    let documents = plan_documents(&images, observed);

    let listed = listed(desired, observed);
    let unlisted = unlisted(desired, &listed, observed);
    let holds = held(desired, &listed, observed);
    let engine_removals = plan_engine_removals(desired, &listed, holds, &names, &images, observed);
    if !desired.prune {
        let (unasked, stages) = (observed.unasked.clone(), desired.stage.is_some());
        let plan =
            Plan { images, fetches, unasked, stages, documents, new_tags, candidates, ..Plan::default() };
        // Who only makes images ready wants what is there as it is.
        if stages {
            return plan;
        }
        let unlisted = unlisted.into_iter().map(|row| row.reference.clone()).collect();
        let unwanted = engine_removals.into_iter().filter(|row| row.wanted).collect();
        return Plan { unwanted, unlisted, ..plan };
    }
    let incomplete = observed.failed || images.iter().any(|image| image.part_error().is_some());
    images.extend(plan_removals(desired, &listed, &unlisted, observed));
    let earlier = Earlier::of(desired, &images, observed);
    let layers_to_remove = plan_layer_removals(desired, &images, &earlier, observed);
    let (spared, spared_bytes) = earlier.spared(&images, observed);
    let sweeps_blobs = images.iter().any(replaces);
    note_leaves(&mut images, &engine_removals);
    let mut plan = Plan {
        images,
        fetches,
        unasked: observed.unasked.clone(),
        documents,
        new_tags,
        candidates,
        layers_to_remove,
        spared,
        spared_bytes,
        sweeps_blobs,
        engine_removals,
        ..Plan::default()
    };
    if incomplete {
        plan.hold_removals(&Wait::Images);
    }
    plan
}

/// True if another image may be the earlier one that is spared, once `image` is recorded.
fn replaces(image: &PlannedImage) -> bool {
    image.action == Action::Update || image.to_record == Some(ToRecord::Owner)
}

/// The actions that lead from what is to what is wanted, and the reasons for them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The images, sorted by reference; removals last.
    pub images: Vec<PlannedImage>,
    /// The layers to fetch, each once, biggest first.
    pub fetches: Vec<Fetch>,
    /// The images whose registries must not be asked, each with the reason.
    pub unasked: BTreeMap<ImageRef, Permission>,
    /// True if the run only makes images ready.
    pub stages: bool,
    /// The documents to keep, each once, sorted by digest.
    pub documents: Vec<DocumentFetch>,
    /// The tags that selections would choose, were they not new; sorted.
    pub new_tags: Vec<(ImageRef, Waiting)>,
    /// The notes about new digests that are to be written.
    pub candidates: CandidateChanges,
    /// The layers that nothing needs once the images above are removed or replaced (only with
    /// prune), sorted.
    pub layers_to_remove: Vec<BlobDigest>,
    /// The earlier digests of references whose layers are here and stay for `rollback` alone (only
    /// with prune), sorted.
    pub spared: Vec<(ImageRef, BlobDigest)>,
    /// The bytes of these layers as they were fetched, each once.
    pub spared_bytes: u64,
    /// True if blobs of replaced images may be kept that nobody needs any more (only with prune).
    pub sweeps_blobs: bool,
    /// The references to take out of engines (only with prune).
    pub engine_removals: Vec<LoadedReference>,
    /// The references in engines that the owner wants no more, when prune is off, as far as that is
    /// still to be noted.
    pub unwanted: Vec<LoadedReference>,
    /// The images that the owner recorded and no longer lists, when prune is off: kept, but worth a
    /// word.
    pub unlisted: Vec<ImageRef>,
}

impl Plan {
    /// Counts the images that change: all but those that are kept, or blocked, and taken out of no
    /// engine. Removals that wait count, unless no run like this one would ever carry them out.
    pub fn changes(&self) -> usize {
        self.images.iter().filter(|image| image.changes()).count() + self.only_in_engines().len()
    }

    /// The images that are to be taken out of engines and that are neither listed nor recorded any
    /// more, each with the engines.
    pub fn only_in_engines(&self) -> BTreeMap<&ImageRef, BTreeSet<EngineName>> {
        let known: BTreeSet<&ImageRef> = self.images.iter().map(|image| &image.reference).collect();
        let mut found: BTreeMap<&ImageRef, BTreeSet<EngineName>> = BTreeMap::new();
        for row in self.engine_removals.iter().filter(|row| !known.contains(&row.reference)) {
            found.entry(&row.reference).or_default().insert(row.engine.name);
        }
        found
    }

    /// The changes of what is noted about engines, while they are told nothing.
    pub fn row_changes(&self) -> impl Iterator<Item = &RowChange> {
        self.images.iter().flat_map(|image| &image.row_changes)
    }

    /// Counts the images that have `action`.
    pub fn count(&self, action: Action) -> usize {
        self.images.iter().filter(|image| image.action == action).count()
    }

    /// Sums up the bytes to fetch, each blob once.
    pub fn download_bytes(&self) -> u64 {
        self.fetches.iter().map(Fetch::download_size).fold(0, u64::saturating_add)
    }

    /// Lists the images that wait for layers, sorted by reference.
    pub fn awaited(&self) -> Vec<AwaitedImage> {
        let mut awaited: BTreeMap<&ImageRef, Vec<(BlobDigest, u64)>> = BTreeMap::new();
        for fetch in &self.fetches {
            let images: BTreeSet<&ImageRef> = fetch.claims().flat_map(|claim| claim.images.iter()).collect();
            for image in images {
                awaited.entry(image).or_default().push((fetch.digest().clone(), fetch.download_size()));
            }
        }
        let image =
            |(reference, layers): (&ImageRef, _)| AwaitedImage { reference: reference.clone(), layers };
        awaited.into_iter().map(image).collect()
    }

    /// Sums up the bytes, as fetched, of the wanted layers that are here already, each once.
    pub fn present_bytes(&self) -> u64 {
        let fetched: BTreeSet<&BlobDigest> =
            self.fetches.iter().filter(|fetch| !fetch.is_kept).map(Fetch::digest).collect();
        // Of an image that is blocked, nothing is fetched: some of its layers may be here or not.
        let is_known = |image: &PlannedImage| {
            image.rows_error().is_none() || image.layers_state().present == image.layers.len()
        };
        let wanted = self.images.iter().filter(|image| image.action != Action::Remove && is_known(image));
        let mut seen = BTreeSet::new();
        wanted
            .flat_map(|image| &*image.layers)
            .filter(|layer| !fetched.contains(&layer.digest) && seen.insert(&layer.digest))
            .map(|layer| layer.size)
            .sum()
    }

    /// True if there is nothing to do now, not even to note that another file wants an image, or
    /// which documents it has.
    pub fn is_empty(&self) -> bool {
        let is_due = |image: &PlannedImage| match image.action {
            Action::Keep | Action::Blocked => image.to_record.is_some() && image.rows_error().is_none(),
            Action::Remove => image.waits.is_none(),
            Action::Add | Action::Update | Action::Repair => true,
        };
        self.layers_to_remove.is_empty()
            && self.engine_removals.is_empty()
            && self.unwanted.is_empty()
            && self.candidates.is_empty()
            && self.proofs().is_empty()
            && self.row_changes().next().is_none()
            && !self.images.iter().any(is_due)
    }

    /// Lists the proofs of signatures that are to be noted, each once.
    pub fn proofs(&self) -> Vec<Arc<Evidence>> {
        let mut seen = BTreeSet::new();
        let verdicts = self.images.iter().filter_map(|image| image.verdict.as_ref());
        let new = verdicts.filter_map(|verdict| match verdict {
            Verdict::Verified { evidence, is_new: true, .. } => Some(evidence),
            _ => None,
        });
        new.filter(|proof| seen.insert((&proof.digest, &proof.manifest, &proof.judged_by))).cloned().collect()
    }

    /// True if the plan removes anything now.
    pub fn removes(&self) -> bool {
        !self.layers_to_remove.is_empty()
            || !self.engine_removals.is_empty()
            || self.images.iter().any(|image| image.action == Action::Remove && image.waits.is_none())
    }

    /// The images whose removal waits, that from engines too, each with the reason.
    pub fn waiting(&self) -> impl Iterator<Item = (&ImageRef, &Wait)> {
        self.images.iter().filter_map(|image| Some((&image.reference, image.waits.as_ref()?)))
    }

    /// Lets all removals wait, those of the layers of replaced images too.
    pub fn hold_removals(&mut self, why: &Wait) {
        let removed = |image: &&mut PlannedImage| image.action == Action::Remove || !image.leaves.is_empty();
        for image in self.images.iter_mut().filter(removed) {
            image.waits = Some(why.clone());
        }
        self.layers_to_remove.clear();
        self.sweeps_blobs = false;
        self.engine_removals.clear();
    }

    /// Leaves out the removals of images of `listed`, where a repository alone stands for all its
    /// images. Their layers stay, since the images stay recorded.
    pub fn spare(&mut self, listed: &BTreeSet<ImageRef>) {
        let is_listed = |name: &ImageRef| listed.contains(name) || listed.contains(&name.repository_alone());
        self.images.retain(|image| image.action != Action::Remove || !image.names.iter().any(is_listed));
        self.engine_removals.retain(|row| !is_listed(&row.reference));
        note_leaves(&mut self.images, &self.engine_removals);
    }

    /// Leaves out all removals, and returns the layers that were to be removed: see
    /// [`Observed::released`].
    pub fn take_removals(&mut self) -> Vec<BlobDigest> {
        self.images.retain(|image| image.action != Action::Remove);
        self.engine_removals.clear();
        note_leaves(&mut self.images, &[]);
        std::mem::take(&mut self.layers_to_remove)
    }

    /// Loads images by those names alone by which `rows` have them: another name may be another
    /// image's, which this plan need not know.
    #[must_use]
    pub fn loading_by(mut self, rows: &LoadedReferences) -> Self {
        for image in &mut self.images {
            let reference = &image.reference;
            image.parts.retain_mut(|part| {
                let PartState::Engine(state) = &mut part.state else { return true };
                let is_it = |row: &LoadedReference| row.reference == *reference && row.engine == state.engine;
                state.names.retain(|name| rows.named(name).iter().any(is_it));
                !state.names.is_empty()
            });
        }
        self
    }

    /// Leaves out everything that concerns `images` alone, but for their removal: another plan
    /// takes care of them.
    #[must_use]
    pub fn without(mut self, images: &BTreeSet<ImageRef>) -> Self {
        self.images.retain(|image| image.action == Action::Remove || !images.contains(&image.reference));
        let fetches = std::mem::take(&mut self.fetches);
        self.fetches = fetches.into_iter().filter_map(|fetch| fetch.without(images)).collect();
        for fetch in &mut self.documents {
            fetch.images.retain(|image| !images.contains(image));
        }
        self.documents.retain(|fetch| !fetch.images.is_empty());
        self.candidates.retain(|tag, _| !images.contains(tag));
        self
    }

    /// Makes one of two plans of one run, of which this one was carried out first.
    pub fn append(&mut self, next: Self) {
        self.images.extend(next.images);
        self.images.sort_by(|a, b| in_order((&a.reference, a.action), (&b.reference, b.action)));
        self.fetches.extend(next.fetches);
        self.unasked.extend(next.unasked);
        self.stages |= next.stages;
        self.documents.extend(next.documents);
        self.layers_to_remove.extend(next.layers_to_remove);
        (self.spared, self.spared_bytes) = (next.spared, next.spared_bytes);
        self.engine_removals.extend(next.engine_removals);
        self.unwanted.extend(next.unwanted);
        self.unlisted = next.unlisted;
        self.new_tags = next.new_tags;
        self.candidates.extend(next.candidates);
    }
}

/// The order of a plan's images: by reference, removals last.
pub(crate) fn in_order(a: (&ImageRef, Action), b: (&ImageRef, Action)) -> Ordering {
    (a.1 == Action::Remove, a.0).cmp(&(b.1 == Action::Remove, b.0))
}

#[cfg(test)]
mod tests;
