//! The end of a plan: images that their owner does not list any more, and layers that nobody needs
//! then.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::earlier::Earlier;
use super::forget;
use super::image::PlannedImage;
use super::leaving::Leaving;
use super::reason::Reason;
use super::wait::Wait;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, DesiredImage, LayerState, Observed, Owner, RecordedImage};

/// The images that are to be there: those listed, and those chosen by selections.
pub(crate) fn wanted_images<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a DesiredImage> {
    desired.images.iter().chain(observed.selected.iter().map(|selected| &selected.image))
}

/// The images that are listed, by this run's part of the file or by another.
pub(super) fn listed<'a>(desired: &'a Desired, observed: &'a Observed) -> BTreeSet<&'a ImageRef> {
    wanted_images(desired, observed).map(|image| &image.reference).chain(&desired.listed_elsewhere).collect()
}

/// The recorded images of the owner that are not `listed`, first names only, sorted by reference.
pub(super) fn unlisted<'a>(
    desired: &Desired,
    listed: &BTreeSet<&ImageRef>,
    observed: &'a Observed,
) -> Vec<&'a RecordedImage> {
    if desired.owner == Owner::pull() {
        // Pulled images are on no list from which they could be missing.
        return Vec::new();
    }
    let is_held = held(desired, listed, observed);
    let owned = observed.recorded.values().filter(|row| row.owners.contains(&desired.owner));
    owned
        .filter(|row| !listed.contains(&row.reference) && !is_held(&row.reference.repository_alone()))
        // A second name goes with its first one.
        .filter(|row| row.alias_of.is_none())
        .collect()
}

/// Returns the question of a repository, alone, whether any of its tags may be wanted: a selection
/// that was not, or could not be, carried out might choose any.
pub(super) fn held(
    desired: &Desired,
    listed: &BTreeSet<&ImageRef>,
    observed: &Observed,
) -> impl Fn(&ImageRef) -> bool {
    let selecting = selecting_repositories(desired);
    move |repository| {
        listed.contains(repository)
            || (selecting.contains(repository) && !observed.decided.contains(repository))
    }
}

/// The repositories, alone, of which this run is to select tags.
fn selecting_repositories(desired: &Desired) -> BTreeSet<ImageRef> {
    desired.selections.iter().map(|selection| selection.repository.clone()).collect()
}

/// Plans to remove the `unlisted` images, each with its second names that are not `listed`
/// themselves.
pub(super) fn plan_removals(
    desired: &Desired,
    listed: &BTreeSet<&ImageRef>,
    unlisted: &[&RecordedImage],
    observed: &Observed,
) -> Vec<PlannedImage> {
    let references = unlisted.iter().map(|row| &row.reference);
    let leaving = Leaving::of(Some(&desired.owner), references, &observed.recorded);
    let removal = |row: &&RecordedImage| {
        let seconds = || leaving.second_names(&row.reference).iter().map(|second| &second.reference);
        let not_chosen = observed.decided.contains(&row.reference.repository_alone());
        let reason = Reason::NotListed { not_chosen, remains: leaving.remains(row) };
        let names = std::iter::once(&row.reference).chain(seconds().filter(|name| !listed.contains(name)));
        let names = names.cloned().collect();
        PlannedImage {
            previous: row.digest.clone(),
            layers: Arc::clone(&row.layers),
            // A listed second name goes with the first until a run has noted that it is wanted for
            // itself; this run does not.
            waits: seconds()
                .find(|name| desired.listed_elsewhere.contains(name))
                .map(|name| Wait::SecondName(name.clone())),
            ..PlannedImage::without_parts(&row.reference, names, row.platform.clone(), reason)
        }
    };
    unlisted.iter().map(removal).collect()
}

/// The layers of removed, replaced and earlier images that nothing will need: neither the images of
/// this plan, blocked ones included, nor any other record, nor an earlier digest that is spared.
pub(super) fn plan_layer_removals(
    desired: &Desired,
    images: &[PlannedImage],
    earlier: &Earlier<'_>,
    observed: &Observed,
) -> Vec<BlobDigest> {
    let mut needed: BTreeSet<&BlobDigest> = observed.needed_elsewhere.iter().collect();
    needed.extend(earlier.layers());
    let mut gone: BTreeSet<&ImageRef> = BTreeSet::new();
    for image in images {
        // An image may stay for others of whom none wants its layers.
        let goes = |name: &&ImageRef| {
            observed.recorded.get(*name).is_some_and(|row| forget::leaves_layers(row, &desired.owner))
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
    let earlier = earlier.candidates.iter().copied();
    let candidates: BTreeSet<&BlobDigest> = leaving.chain(&observed.released).chain(earlier).collect();
    // With another directory of layers than when they were recorded, some are not there.
    let there = |digest: &&&BlobDigest| observed.layers.get(**digest) != Some(&LayerState::Missing);
    candidates.difference(&needed).filter(there).map(|&digest| digest.clone()).collect()
}
