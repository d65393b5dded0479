//! The parts of an image on this machine: the places each of which has to have all of the image
//! before the image is in order. A plan has one state, and one action, for each of them.
//!
//! Each kind of part is a variant of [`PartState`] with its own data; nothing else has to know how
//! many kinds there are.

use std::collections::{BTreeMap, BTreeSet};

use super::document::DocumentDescriptor;
use super::engine::{EngineListing, EngineSettings};
use super::layer::{LayerDescriptor, LayerState, size_of_layers};
use super::loaded::{LoadedReference, LoadedReferences};
use super::owner::Owner;
use crate::digest::BlobDigest;

/// The state of one part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// The extracted layers, and the rows in the catalog by which they are found.
    Layers(LayersState),
    /// The blobs as they were fetched.
    Blobs(BlobsState),
    /// The image in an engine.
    Engine(Box<EngineState>),
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
        let present = layers.iter().filter(|layer| state(layer).is_here()).count();
        let mut counted = Self { present, rows_complete, ..Self::default() };
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

    /// Counts the layers of an image that is not to be extracted: those are present whose blobs are
    /// `kept`, and none is missing.
    pub fn not_extracted(
        layers: &[LayerDescriptor],
        kept: &BTreeSet<BlobDigest>,
        rows_complete: bool,
    ) -> Self {
        let present = layers.iter().filter(|layer| kept.contains(&layer.digest)).count();
        Self { present, rows_complete, ..Self::default() }
    }

    /// True if every layer is complete.
    pub fn is_complete(&self) -> bool {
        self.missing + self.untrusted + self.unbound == 0
    }
}

/// The state of the kept blobs of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobsState {
    /// The number of distinct blobs, documents included, that are not kept whole.
    pub missing: usize,
    /// The bytes of these.
    pub bytes: u64,
}

impl BlobsState {
    /// Counts those of an image's blobs that are not among the `kept` ones.
    pub fn of(
        documents: &[DocumentDescriptor],
        layers: &[LayerDescriptor],
        kept: &BTreeSet<BlobDigest>,
    ) -> Self {
        let absent: Vec<LayerDescriptor> =
            layers.iter().filter(|layer| !kept.contains(&layer.digest)).cloned().collect();
        let distinct: BTreeSet<&BlobDigest> = absent.iter().map(|layer| &layer.digest).collect();
        let documents: Vec<&DocumentDescriptor> =
            documents.iter().filter(|document| !kept.contains(&document.digest)).collect();
        let bytes =
            documents.iter().fold(size_of_layers(&absent), |sum, document| sum.saturating_add(document.size));
        Self { missing: distinct.len() + documents.len(), bytes }
    }
}

/// The state of an image in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineState {
    /// The engine.
    pub engine: EngineSettings,
    /// The texts under which the engine is to list the image, its own first.
    pub names: Vec<String>,
    /// True if the engine lists one of the names, with whatever digest.
    pub listed: bool,
    /// The first name under which the image has still to be loaded.
    pub to_load: Option<ToLoad>,
}

/// The reason why a name has to be loaded into an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToLoad {
    /// The engine does not list the name.
    Absent,
    /// The engine lists another digest under the name.
    AnotherDigest,
    /// The last load of the name failed or was killed, though the engine lists the digest.
    LoadFailed,
}

impl EngineState {
    /// Compares what `engine` lists under `names` with the digests that mean the image, and with
    /// the rows of loads by us: where `owner` has none, those of others count.
    pub fn of(
        engine: &EngineSettings,
        names: Vec<String>,
        digests: &[&BlobDigest],
        listing: &EngineListing,
        (owner, loaded): (&Owner, &LoadedReferences),
    ) -> Self {
        let failed = |name: &String| {
            let rows = loaded.named(name).iter().filter(|row| row.engine.is_same(engine));
            let (own, others): (Vec<_>, Vec<_>) = rows.partition(|row| row.owner == *owner);
            let has_failed = |row: &LoadedReference| row.listed.is_none();
            if own.is_empty() {
                !others.is_empty() && others.into_iter().all(has_failed)
            } else {
                own.into_iter().any(has_failed)
            }
        };
        let to_load = |name: &String| match listing.images.get(name) {
            None => Some(ToLoad::Absent),
            Some(found) if !digests.iter().any(|digest| found.contains(*digest)) => {
                Some(ToLoad::AnotherDigest)
            }
            Some(_) => failed(name).then_some(ToLoad::LoadFailed),
        };
        Self {
            listed: names.iter().any(|name| listing.images.contains_key(name)),
            to_load: names.iter().find_map(to_load),
            engine: engine.clone(),
            names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::image_ref::ImageRef;
    use crate::state::EngineName;

    #[test]
    fn a_load_that_failed_leaves_an_update_an_update() {
        let (engine, name) = (EngineSettings::new(EngineName::Podman), "r.test/a:1".to_owned());
        let [old, new] = [&b"old"[..], b"new"].map(|bytes| BlobDigest::of(Algorithm::Sha256, bytes));
        let failed = LoadedReference {
            owner: Owner::pull(),
            engine: engine.clone(),
            name: name.clone(),
            reference: ImageRef::parse(&name, "docker.io").unwrap(),
            manifest: new.clone(),
            listed: None,
            former: Some(old.clone()),
            files: Vec::new(),
            wanted: true,
        };
        let to_load = |listed: Option<&BlobDigest>| {
            let mut listing = EngineListing::default();
            listing.images.extend(listed.map(|digest| (name.clone(), BTreeSet::from([digest.clone()]))));
            let rows = (&Owner::pull(), &LoadedReferences::from(vec![failed.clone()]));
            EngineState::of(&engine, vec![name.clone()], &[&new], &listing, rows).to_load
        };
        assert_eq!(to_load(None), Some(ToLoad::Absent));
        assert_eq!(to_load(Some(&old)), Some(ToLoad::AnotherDigest));
        assert_eq!(to_load(Some(&new)), Some(ToLoad::LoadFailed));
    }
}
