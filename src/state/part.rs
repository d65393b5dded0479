//! The parts of an image on this machine: the places each of which has to have all of the image
//! before the image is in order. A plan has one state, and one action, for each of them.
//!
//! Each kind of part is a variant of [`PartState`] with its own data; nothing else has to know how
//! many kinds there are.

use std::collections::{BTreeMap, BTreeSet};

use super::layer::{LayerDescriptor, LayerState, size_of_layers};
use crate::digest::BlobDigest;

/// The state of one part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// The extracted layers, and the rows in the catalog by which they are found.
    Layers(LayersState),
}

/// The state of the layers of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayersState {
    /// The number of the image's layers that need not be fetched. A layer that the image has twice
    /// counts twice.
    pub present: usize,
    /// The number of distinct layers that have no directory.
    pub missing: usize,
    /// The number of distinct layers whose directory msb-sync did not finish.
    pub untrusted: usize,
    /// The number of distinct layers that have still to be compared with their inventories.
    pub unbound: usize,
    /// The bytes of the distinct layers that have to be fetched.
    pub absent_bytes: u64,
    /// True if the catalog has all rows of the image, under all of its names.
    pub rows_complete: bool,
}

impl LayersState {
    /// Counts `layers` by their `states`; a layer without a state is missing.
    pub fn of(
        layers: &[LayerDescriptor],
        states: &BTreeMap<BlobDigest, LayerState>,
        rows_complete: bool,
    ) -> Self {
        let state =
            |layer: &LayerDescriptor| states.get(&layer.digest).copied().unwrap_or(LayerState::Missing);
        let absent: Vec<LayerDescriptor> =
            layers.iter().filter(|layer| !state(layer).is_here()).cloned().collect();
        let mut counted = Self {
            present: layers.len() - absent.len(),
            absent_bytes: size_of_layers(&absent),
            rows_complete,
            ..Self::default()
        };
        let mut seen = BTreeSet::new();
        for layer in layers.iter().filter(|layer| seen.insert(&layer.digest)) {
            match state(layer) {
                LayerState::Complete => {}
                LayerState::Missing => counted.missing += 1,
                LayerState::Untrusted => counted.untrusted += 1,
                LayerState::Unbound => counted.unbound += 1,
            }
        }
        counted
    }

    /// True if every layer is complete.
    pub fn is_complete(&self) -> bool {
        self.missing + self.untrusted + self.unbound == 0
    }
}
