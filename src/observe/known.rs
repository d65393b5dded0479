//! The answers that lookups have gathered so far, for the planner and for the parts of a run.

use std::collections::{BTreeMap, BTreeSet};

use super::asker::AllAnswered;
use super::selections::Selected;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Desired, Observed, Resolution, Verdict};

/// Hears everything resolved so far while lookups stall, and can ask whether all have ended
/// meanwhile.
pub(super) type Listener<'l> = &'l mut dyn FnMut(&Known, AllAnswered<'_>);

/// Everything resolved so far.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// The meanings of images.
    pub(super) resolutions: BTreeMap<ImageRef, Resolution>,
    /// The verdicts about those of them that a rule of trust names.
    pub(super) verdicts: BTreeMap<ImageRef, Verdict>,
    /// The digests that tags with a cooldown mean now.
    pub(super) seen: BTreeMap<ImageRef, BlobDigest>,
    /// The choices of selections.
    pub(super) selections: Vec<Selected>,
}

impl Known {
    /// Puts the answers where the planner looks for them.
    pub(super) fn into_observed(self, observed: &mut Observed) {
        observed.resolutions = self.resolutions;
        observed.verdicts = self.verdicts;
        observed.seen = self.seen;
        for selected in self.selections {
            if selected.decided {
                observed.decided.insert(selected.repository);
            }
            observed.selected.extend(selected.images);
            observed.blocked_selections.extend(selected.blocked);
            observed.new_tags.extend(selected.new_tags);
        }
        // The threads finish in any order.
        observed.selected.sort_by(|a, b| a.image.reference.cmp(&b.image.reference));
        observed.blocked_selections.sort_by(|a, b| a.repository.cmp(&b.repository));
    }

    /// Returns the part of `desired` that is resolved by now, and what was observed of it; a run
    /// leaves the others alone.
    pub(super) fn part_of(&self, desired: &Desired, recorded: &Observed) -> (Desired, Observed) {
        let mut observed = recorded.clone();
        self.clone().into_observed(&mut observed);
        let mut desired = desired.clone();
        let chosen: BTreeSet<ImageRef> =
            self.selections.iter().map(|selected| selected.repository.clone()).collect();
        let mut awaited = BTreeSet::new();
        // A refused image waits for all others: the proof of one of them may be its own.
        let is_refused =
            |reference: &ImageRef| self.verdicts.get(reference).and_then(Verdict::error).is_some();
        let is_answered =
            |reference: &ImageRef| self.resolutions.contains_key(reference) && !is_refused(reference);
        let wanted = desired.images.iter().chain(observed.selected.iter().map(|selected| &selected.image));
        let wanted: BTreeSet<ImageRef> = wanted.map(|image| image.reference.clone()).collect();
        let repositories = desired.selections.iter().map(|selection| selection.repository.clone());
        let undecided: BTreeSet<ImageRef> = repositories.filter(|name| !chosen.contains(name)).collect();
        // A second name that is awaited for itself would be taken for one of this image's.
        let awaits_second_name = |reference: &ImageRef| {
            reference.recorded_names().into_iter().skip(1).any(|name| {
                let is_wanted = wanted.contains(&name) || undecided.contains(&name.repository_alone());
                is_wanted && !is_answered(&name)
            })
        };
        let is_known = |reference: &ImageRef| is_answered(reference) && !awaits_second_name(reference);
        desired.images.retain(|image| {
            is_known(&image.reference) || {
                awaited.insert(image.reference.clone());
                false
            }
        });
        observed.selected.retain(|selected| {
            is_known(&selected.image.reference) || {
                awaited.insert(selected.image.reference.clone());
                false
            }
        });
        desired.selections.retain(|selection| {
            chosen.contains(&selection.repository) || {
                awaited.insert(selection.repository.clone());
                false
            }
        });
        desired.listed_elsewhere.extend(awaited);
        (desired, observed)
    }
}
