//! The planner: what is desired and what is observed in, the ordered actions between them out.
//!
//! Pure, total and deterministic: no I/O, no clock, no environment, no randomness. `plan`, `apply`,
//! `watch` and the tests all use this one function, so what `plan` shows is what `apply` does.
//!
//! Read on in `image` (one wanted image), `part` (its parts, and which of them decides), `reason`
//! (the words), `fetch` (the blobs), `removal` (the end of a run) and `forget` (the images that
//! `prune` and `forget` give up).

mod contradiction;
mod engine;
mod fetch;
mod forget;
mod image;
mod need;
mod part;
mod reason;
mod removal;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) use contradiction::contradiction;
pub use fetch::{Claim, DocumentFetch, Fetch};
pub use forget::{Refusals, Removal, removals, removals_of, removals_of_owner};
pub use image::{PlannedImage, ToRecord};
pub use part::PlannedPart;
pub use reason::{Reason, Remains};

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, Evidence, LoadedReference, Observed, Verdict};
use engine::plan_engine_removals;
use fetch::{plan_documents, plan_fetches};
use image::{plan_blocked_selection, plan_image};
use removal::{held, listed, plan_layer_removals, plan_removals, unlisted};

/// Plans the way from `observed` to `desired`.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let mut images: Vec<PlannedImage> =
        desired.images.iter().map(|image| plan_image(desired, image, None, observed)).collect();
    images.extend(
        observed
            .selected
            .iter()
            .map(|selected| plan_image(desired, &selected.image, Some(&selected.rule), observed)),
    );
    images.extend(observed.blocked_selections.iter().map(plan_blocked_selection));
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    let fetches = plan_fetches(desired, &images, observed);
    let documents = plan_documents(&images, observed);

    let listed = listed(desired, observed);
    let unlisted = unlisted(desired, &listed, observed);
    if !desired.prune {
        let unlisted = unlisted.into_iter().map(|row| row.reference.clone()).collect();
        return Plan { images, fetches, documents, unlisted, ..Plan::default() };
    }
    let incomplete = observed.failed || images.iter().any(|image| image.part_error().is_some());
    images.extend(plan_removals(desired, &listed, &unlisted, observed));
    let layers_to_remove = plan_layer_removals(desired, &images, observed);
    let holds = held(desired, &listed, observed);
    let engine_removals = plan_engine_removals(desired, &listed, holds, &images, observed);
    let mut plan =
        Plan { images, fetches, documents, layers_to_remove, engine_removals, unlisted: Vec::new() };
    if incomplete {
        plan.hold_removals();
    }
    plan
}

/// The actions that lead from what is to what is wanted, and the reasons for them.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The images, sorted by reference; removals last.
    pub images: Vec<PlannedImage>,
    /// The layers to fetch, each once, biggest first.
    pub fetches: Vec<Fetch>,
    /// The documents to keep, each once, sorted by digest.
    pub documents: Vec<DocumentFetch>,
    /// The layers that nothing needs once the images above are removed or replaced (only with
    /// prune), sorted.
    pub layers_to_remove: Vec<BlobDigest>,
    /// The references to take out of engines (only with prune).
    pub engine_removals: Vec<LoadedReference>,
    /// The images that the owner recorded and no longer lists, when prune is off: kept, but worth a
    /// word.
    pub unlisted: Vec<ImageRef>,
}

impl Plan {
    /// Counts the images that change: all but those kept and blocked. Removals that wait count.
    pub fn changes(&self) -> usize {
        self.images.iter().filter(|image| !matches!(image.action, Action::Keep | Action::Blocked)).count()
    }

    /// Counts the images that have `action`.
    pub fn count(&self, action: Action) -> usize {
        self.images.iter().filter(|image| image.action == action).count()
    }

    /// Sums up the bytes to fetch, each blob once.
    pub fn download_bytes(&self) -> u64 {
        self.fetches.iter().map(Fetch::download_size).fold(0, u64::saturating_add)
    }

    /// Sums up the bytes, as fetched, of the wanted layers that are here already, each once.
    pub fn present_bytes(&self) -> u64 {
        let fetched: BTreeSet<&BlobDigest> =
            self.fetches.iter().filter(|fetch| !fetch.is_kept).map(|fetch| &fetch.digest).collect();
        let wanted = self.images.iter().filter(|image| image.action != Action::Remove);
        let mut seen = BTreeSet::new();
        wanted
            .flat_map(|image| &*image.layers)
            .filter(|layer| !fetched.contains(&layer.digest) && seen.insert(&layer.digest))
            .map(|layer| layer.size)
            .sum()
    }

    /// True if there is nothing to do now, not even to note that another file wants an image.
    pub fn is_empty(&self) -> bool {
        self.changes() == self.waiting().count()
            && self.layers_to_remove.is_empty()
            && self.engine_removals.is_empty()
            && self.proofs().is_empty()
            && !self.images.iter().any(|image| image.to_record == Some(ToRecord::Owner))
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
            || self.images.iter().any(|image| image.action == Action::Remove && !image.waits)
    }

    /// The images whose removal waits.
    pub fn waiting(&self) -> impl Iterator<Item = &ImageRef> {
        self.images.iter().filter(|image| image.waits).map(|image| &image.reference)
    }

    /// Lets all removals wait, those of the layers of replaced images too.
    pub fn hold_removals(&mut self) {
        for image in self.images.iter_mut().filter(|image| image.action == Action::Remove) {
            image.waits = true;
        }
        self.layers_to_remove.clear();
        self.engine_removals.clear();
    }

    /// Leaves out the removals of images of `listed`, where a repository alone stands for all its
    /// images. Their layers stay, since the images stay recorded.
    pub fn spare(&mut self, listed: &BTreeSet<ImageRef>) {
        let is_listed = |name: &ImageRef| listed.contains(name) || listed.contains(&name.repository_alone());
        self.images.retain(|image| image.action != Action::Remove || !image.names.iter().any(is_listed));
        self.engine_removals.retain(|row| !is_listed(&row.reference));
    }

    /// Leaves out all removals, and returns the layers that were to be removed: see
    /// [`Observed::released`].
    pub fn take_removals(&mut self) -> Vec<BlobDigest> {
        self.images.retain(|image| image.action != Action::Remove);
        self.engine_removals.clear();
        std::mem::take(&mut self.layers_to_remove)
    }

    /// Leaves out everything that concerns `images` alone, but for their removal: another plan
    /// takes care of them.
    #[must_use]
    pub fn without(mut self, images: &BTreeSet<ImageRef>) -> Self {
        self.images.retain(|image| image.action == Action::Remove || !images.contains(&image.reference));
        for fetch in &mut self.fetches {
            fetch.claims.iter_mut().for_each(|claim| claim.images.retain(|image| !images.contains(image)));
            fetch.claims.retain(|claim| !claim.images.is_empty());
        }
        self.fetches.retain(|fetch| !fetch.claims.is_empty());
        for fetch in &mut self.documents {
            fetch.images.retain(|image| !images.contains(image));
        }
        self.documents.retain(|fetch| !fetch.images.is_empty());
        self
    }

    /// Makes one of two plans of one run, of which this one was carried out first.
    pub fn append(&mut self, next: Self) {
        self.images.extend(next.images);
        self.images.sort_by(|a, b| in_order((&a.reference, a.action), (&b.reference, b.action)));
        self.fetches.extend(next.fetches);
        self.documents.extend(next.documents);
        self.layers_to_remove.extend(next.layers_to_remove);
        self.engine_removals.extend(next.engine_removals);
        self.unlisted = next.unlisted;
    }
}

/// The order of a plan's images: by reference, removals last.
pub(crate) fn in_order(a: (&ImageRef, Action), b: (&ImageRef, Action)) -> Ordering {
    (a.1 == Action::Remove, a.0).cmp(&(b.1 == Action::Remove, b.0))
}

#[cfg(test)]
mod tests;
