//! The names under which images are recorded: an image of sandboxes.io has docker.io's name too,
//! unless that one is wanted for itself.
//!
//! Both may mean different digests, by their rules or by the moment. Were the name that of both,
//! each run would record one image over the other; so the image that is wanted by the name has it.

use std::collections::BTreeSet;

use crate::image_ref::ImageRef;
use crate::state::{DesiredImage, Observed, RecordedImage};

/// The names of a run's images that somebody wants for themselves.
pub(super) struct RecordedNames<'a> {
    wanted: BTreeSet<&'a ImageRef>,
    observed: &'a Observed,
}

impl<'a> RecordedNames<'a> {
    /// Finds out which names the images of `wanted` have.
    pub(super) fn of(wanted: &[&'a DesiredImage], observed: &'a Observed) -> Self {
        Self { wanted: wanted.iter().map(|image| &image.reference).collect(), observed }
    }

    /// Lists the names under which `image` is recorded, its own first.
    pub(super) fn of_image(&self, image: &ImageRef) -> Vec<ImageRef> {
        let row = |name: &ImageRef| self.observed.recorded.get(name);
        let is_wanted = |name: &ImageRef| {
            self.wanted.contains(name) || row(name).is_some_and(RecordedImage::is_wanted_for_itself)
        };
        let mut names = image.recorded_names();
        names.retain(|name| name == image || !is_wanted(name));
        names
    }
}
