//! Notes about new digests that are not taken yet: of wanted tags, and of tags that selections
//! would choose.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::cooldown::{Cooldown, candidate_of};
use super::image::PlannedImage;
use crate::image_ref::ImageRef;
use crate::progress::Waiting;
use crate::state::{Observed, TagCandidate};

/// The notes about new digests that are to be written: with `None`, none of the tag's waits any
/// more.
pub type CandidateChanges = BTreeMap<ImageRef, Option<TagCandidate>>;

/// Gathers the tags that selections do not choose yet, and what is to be noted about new digests.
pub(super) fn plan_candidates(
    images: &[PlannedImage],
    observed: &Observed,
) -> (Vec<(ImageRef, Waiting)>, CandidateChanges) {
    let mut new_tags: BTreeMap<&ImageRef, Waiting> = BTreeMap::new();
    for new in &observed.new_tags {
        let candidate = observed.candidates.get(&new.tag).cloned();
        let cooldown = Cooldown { time: new.cooldown, candidate, now: observed.now };
        new_tags.extend(cooldown.waiting(&new.digest).map(|waiting| (&new.tag, waiting)));
    }
    let of_images = images.iter().filter_map(|image| Some((&image.reference, image.waiting.clone()?)));
    let waiting: BTreeMap<&ImageRef, Waiting> = of_images.chain(new_tags.clone()).collect();
    let mut changes = BTreeMap::new();
    for (tag, waiting) in &waiting {
        let noted = observed.candidates.get(*tag);
        let candidate = candidate_of(waiting, noted);
        if noted != Some(&candidate) {
            changes.insert((*tag).clone(), Some(candidate));
        }
    }
    // An image that is taken ends its candidate by its record.
    let wanted: BTreeSet<&ImageRef> = images.iter().map(|image| &image.reference).collect();
    let told: BTreeSet<&ImageRef> = observed.new_tags.iter().map(|new| &new.tag).collect();
    let others = observed.candidates.keys().filter(|tag| !waiting.contains_key(tag) && !told.contains(tag));
    for tag in others {
        let came_back = observed
            .seen
            .get(tag)
            .is_some_and(|seen| observed.recorded.get(tag).and_then(|row| row.digest.as_ref()) == Some(seen));
        // No cooldown is longer than a year. Until then another images file may wait for the tag.
        let is_old = observed.candidates.get(tag).is_some_and(|noted| {
            observed.now.duration_since(noted.since) > SignedDuration::from_hours(366 * 24)
        });
        if came_back || is_old && !wanted.contains(tag) {
            changes.insert(tag.clone(), None);
        }
    }
    (new_tags.into_iter().map(|(tag, waiting)| (tag.clone(), waiting)).collect(), changes)
}
