//! The work that a layer makes: to be extracted, to be kept, or none.

use crate::state::{Desired, LayerDescriptor, Observed};

/// The work that an image makes with the blob of one of its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// True if the layer is to be extracted.
    pub(super) extract: bool,
    /// True if the blob is to be kept.
    pub(super) keep: bool,
    /// True if the blob is kept already.
    pub(super) is_kept: bool,
}

impl Need {
    /// Finds the work with `layer`, of which the blob may be needed as it was fetched; `None` where
    /// all is there.
    pub(super) fn of(
        desired: &Desired,
        needs_blobs: bool,
        layer: &LayerDescriptor,
        observed: &Observed,
    ) -> Option<Self> {
        let is_here = observed.layers.get(&layer.digest).is_some_and(|state| state.is_here());
        let is_kept = observed.blobs.contains(&layer.digest);
        let need =
            Self { extract: desired.targets.extracts && !is_here, keep: needs_blobs && !is_kept, is_kept };
        (need.extract || need.keep).then_some(need)
    }

    /// True if the bytes come from a registry.
    pub(super) fn downloads(self) -> bool {
        !self.is_kept
    }
}
