//! The references that a plan takes out of engines: those that msb-sync has loaded for the owner
//! and that the owner does not want there any more.

use std::collections::{BTreeMap, BTreeSet};

use super::image::PlannedImage;
use super::names::Names;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, EngineName, LoadedReference, Observed};

/// Plans the references to take out of engines, in the order of the rows. `listed` are the images
/// that some part of the file lists, and `holds` says of a repository alone that nobody knows which
/// of its tags are wanted.
pub(super) fn plan_engine_removals(
    desired: &Desired,
    listed: &BTreeSet<&ImageRef>,
    holds: impl Fn(&ImageRef) -> bool,
    names: &Names<'_>,
    images: &[PlannedImage],
    observed: &Observed,
) -> Vec<LoadedReference> {
    let staying = images.iter().filter(|image| image.action != Action::Remove);
    let planned: BTreeSet<&ImageRef> = staying.map(|image| &image.reference).collect();
    let is_unwanted = |row: &&LoadedReference| {
        let known = planned.contains(&row.reference)
            || !(listed.contains(&row.reference) || holds(&row.reference.repository_alone()));
        row.owner == desired.owner && known && !names.are_wanted(row)
    };
    observed.loaded.iter().filter(is_unwanted).cloned().collect()
}

/// Notes on `images` which engines they are taken out of by `removals`.
pub(super) fn note_leaves(images: &mut [PlannedImage], removals: &[LoadedReference]) {
    let mut leaves: BTreeMap<&ImageRef, BTreeSet<EngineName>> = BTreeMap::new();
    for row in removals {
        leaves.entry(&row.reference).or_default().insert(row.engine.name);
    }
    for image in images {
        image.leaves = leaves.get(&image.reference).cloned().unwrap_or_default();
    }
}
