//! The digests that references meant before: those that owners want spared for `rollback`, and
//! those whose layers may go.
//!
//! The digest that a run replaces is the latest earlier one by the time when something is removed.

use std::collections::{BTreeMap, BTreeSet};

use super::image::PlannedImage;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{Action, Desired, EarlierImage, LayerState, Observed, RecordedImage};

/// A digest that a reference meant, with its layers and their bytes.
type Version<'a> = (&'a BlobDigest, BTreeMap<&'a BlobDigest, u64>);

/// The earlier images of the references of a run, as they will be after it.
#[derive(Default)]
pub(super) struct Earlier<'a> {
    /// The images that stay, each with its layers.
    spared: Vec<(&'a ImageRef, Version<'a>)>,
    /// The layers of the others.
    pub(super) candidates: BTreeSet<&'a BlobDigest>,
}

impl<'a> Earlier<'a> {
    /// Finds out which earlier digests stay when `images` are as they are planned.
    pub(super) fn of(desired: &Desired, images: &[PlannedImage], observed: &'a Observed) -> Self {
        let planned: BTreeMap<&ImageRef, &PlannedImage> =
            images.iter().map(|image| (&image.reference, image)).collect();
        let mut found = Self::default();
        // A second name has the history of its first one.
        for (name, row) in observed.recorded.iter().filter(|(_, row)| row.alias_of.is_none()) {
            let planned = planned.get(name).copied();
            let most = usize::try_from(most(desired, planned, row)).unwrap_or(usize::MAX);
            let earlier = after(planned, row, observed.earlier.get(name).map_or(&[], Vec::as_slice));
            for (at, (digest, layers)) in earlier.into_iter().enumerate() {
                if at < most {
                    found.spared.push((name, (digest, layers)));
                } else {
                    found.candidates.extend(layers.into_keys());
                }
            }
        }
        found
    }

    /// The layers that stay.
    pub(super) fn layers(&self) -> impl Iterator<Item = &'a BlobDigest> {
        self.spared.iter().flat_map(|(_, (_, layers))| layers.keys().copied())
    }

    /// The digests that stay for nothing but a way back and have layers here, and the bytes of
    /// these.
    pub(super) fn spared(
        &self,
        images: &[PlannedImage],
        observed: &Observed,
    ) -> (Vec<(ImageRef, BlobDigest)>, u64) {
        let wanted = images.iter().filter(|image| image.action != Action::Remove);
        let updated: BTreeSet<&ImageRef> = images
            .iter()
            .filter(|image| matches!(image.action, Action::Update | Action::Remove))
            .flat_map(|image| &image.names)
            .collect();
        let rows = observed.recorded.values().filter(|row| !updated.contains(&row.reference));
        let layers = wanted.flat_map(|image| &*image.layers).chain(rows.flat_map(|row| &*row.layers));
        let used: BTreeSet<&BlobDigest> = layers.map(|layer| &layer.digest).collect();
        let stays_for_this = |digest: &BlobDigest| {
            !used.contains(digest)
                && observed.layers.get(digest).is_some_and(|state| *state != LayerState::Missing)
        };
        let mut sizes: BTreeMap<&BlobDigest, u64> = BTreeMap::new();
        let mut digests = Vec::new();
        for (name, (digest, layers)) in &self.spared {
            let mut own = layers.iter().filter(|(digest, _)| stays_for_this(digest)).peekable();
            if own.peek().is_some() {
                digests.push(((*name).clone(), (*digest).clone()));
                sizes.extend(own.map(|(digest, size)| (*digest, *size)));
            }
        }
        digests.sort();
        (digests, sizes.into_values().fold(0, u64::saturating_add))
    }
}

/// The number of earlier digests of `row` that its owners want spared after the run.
fn most(desired: &Desired, planned: Option<&PlannedImage>, row: &RecordedImage) -> u32 {
    let others = row.earlier_for.iter().filter(|(owner, _)| {
        // Of images that the run leaves alone, its owner wants what he wanted.
        let counts = **owner != desired.owner || planned.is_none();
        counts && row.extracted_for.contains(*owner)
    });
    let own = match planned {
        Some(image) if image.action != Action::Remove && desired.targets.extracts => {
            desired.targets.keeps_earlier
        }
        _ => 0,
    };
    others.map(|(_, count)| *count).max().unwrap_or_default().max(own)
}

/// The digests that come before the present one after the run, the latest first, with their layers.
fn after<'a>(
    planned: Option<&PlannedImage>,
    row: &'a RecordedImage,
    earlier: &'a [EarlierImage],
) -> Vec<Version<'a>> {
    let present =
        planned.filter(|image| image.action == Action::Update).and_then(|image| image.digest.as_ref());
    let replaced = row.digest.as_ref().filter(|digest| present.is_some_and(|present| present != *digest));
    let replaced = replaced.map(|digest| {
        (digest, row.layers.iter().map(|layer| (&layer.digest, layer.size)).collect::<BTreeMap<_, _>>())
    });
    let earlier = earlier.iter().filter(|image| Some(&image.digest) != present);
    let earlier = earlier
        .map(|image| (&image.digest, image.layers.iter().map(|(digest, size)| (digest, *size)).collect()));
    replaced.into_iter().chain(earlier).collect()
}
