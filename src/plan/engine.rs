//! The references that a plan takes out of engines: those that msb-sync has loaded for the owner
//! and that the owner does not want there any more.

use std::collections::BTreeSet;

use super::image::PlannedImage;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, EngineSettings, LoadedReference, Observed};

/// Plans the references to take out of engines, in the order of the rows. `listed` are the images
/// that some part of the file lists, and `holds` says of a repository alone that nobody knows which
/// of its tags are wanted.
pub(super) fn plan_engine_removals(
    desired: &Desired,
    listed: &BTreeSet<&ImageRef>,
    holds: impl Fn(&ImageRef) -> bool,
    images: &[PlannedImage],
    observed: &Observed,
) -> Vec<LoadedReference> {
    let staying = || images.iter().filter(|image| image.action != Action::Remove);
    let planned: BTreeSet<&ImageRef> = staying().map(|image| &image.reference).collect();
    let wanted: BTreeSet<(&EngineSettings, &str)> = staying()
        .flat_map(PlannedImage::engines)
        .flat_map(|(state, _)| state.names.iter().map(|name| (&state.engine, name.as_str())))
        .collect();
    let is_unwanted = |row: &&LoadedReference| {
        let known = planned.contains(&row.reference)
            || !(listed.contains(&row.reference) || holds(&row.reference.repository_alone()));
        row.owner == desired.owner && known && !wanted.contains(&(&row.engine, row.name.as_str()))
    };
    observed.loaded.iter().filter(is_unwanted).cloned().collect()
}
