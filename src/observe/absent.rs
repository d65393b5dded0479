//! The blobs that an image lacks on this machine: those that a run would have to fetch, if it may.

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::plan::{Names, wanted_images};
use crate::registry::Registries;
use crate::state::{
    Desired, DesiredImage, DocumentDescriptor, EngineState, LayerDescriptor, Observed, Permission,
    PullPolicy, RecordedImage, Resolution,
};

/// The wishes of a run and what was observed of them, with the owners of names in engines.
pub(super) struct Wishes<'a> {
    pub(super) desired: &'a Desired,
    pub(super) observed: &'a Observed,
    names: Names<'a>,
}

impl<'a> Wishes<'a> {
    pub(super) fn of(desired: &'a Desired, observed: &'a Observed) -> Self {
        let wanted: Vec<&DesiredImage> = wanted_images(desired, observed).collect();
        Self { desired, observed, names: Names::of(desired, &wanted, observed) }
    }
}

/// An image as far as its blobs are known.
pub(super) struct Content<'a> {
    reference: &'a ImageRef,
    digest: Option<&'a BlobDigest>,
    manifest: Option<&'a BlobDigest>,
    config: Option<&'a BlobDigest>,
    documents: &'a [DocumentDescriptor],
    layers: &'a [LayerDescriptor],
}

impl<'a> Content<'a> {
    /// The content of a recorded image.
    pub(super) fn recorded(row: &'a RecordedImage) -> Self {
        Self {
            reference: &row.reference,
            digest: row.digest.as_ref(),
            manifest: row.manifest_digest.as_ref(),
            config: row.config_digest.as_ref(),
            documents: &row.documents,
            layers: &row.layers,
        }
    }

    /// The content of the image that `resolution` means; `row` is what is recorded of it.
    pub(super) fn of(resolution: &'a Resolution, row: Option<&'a RecordedImage>) -> Option<Self> {
        match resolution {
            Resolution::AsRecorded => row.map(Self::recorded),
            Resolution::Resolved(image) => Some(Self {
                reference: &image.reference,
                digest: Some(&image.digest),
                manifest: Some(&image.manifest.digest),
                config: Some(&image.config.digest),
                documents: &image.documents,
                layers: &image.layers,
            }),
            Resolution::Locked(image) => Some(Self {
                reference: &image.reference,
                digest: Some(&image.digest),
                manifest: Some(&image.manifest),
                config: None,
                documents: &[],
                layers: &image.layers,
            }),
            Resolution::Blocked(_) => None,
        }
    }

    /// The blobs that a run for `wanted` would have to fetch, each with a word for it.
    pub(super) fn absent(
        &self,
        wishes: &Wishes<'_>,
        wanted: &DesiredImage,
    ) -> impl Iterator<Item = (&'static str, &'a BlobDigest)> {
        let Wishes { desired, observed, .. } = *wishes;
        let needs_blobs = self.needs_blobs(wishes, wanted);
        let extracts = desired.targets.extracts;
        let kept = |digest: &BlobDigest| observed.blobs.contains(digest);
        // A layer that is to be compared with its inventory needs no registry for that.
        let is_here = |digest: &BlobDigest| observed.layers.get(digest).is_some_and(|state| state.is_here());
        let documents = self.documents.iter().filter(move |_| needs_blobs);
        let documents = documents.map(|document| (document.role.as_str(), &document.digest));
        let needed = move |digest: &BlobDigest| needs_blobs || extracts && !is_here(digest);
        let layers = self.layers.iter().map(|layer| ("layer", &layer.digest));
        documents
            .chain(layers.filter(move |(_, digest)| needed(digest)))
            .filter(move |(_, digest)| !kept(digest))
    }

    /// True if the run needs documents of the image, and nobody has noted which it has.
    pub(super) fn lacks_documents(&self, wishes: &Wishes<'_>, wanted: &DesiredImage) -> bool {
        self.documents.is_empty() && self.needs_blobs(wishes, wanted)
    }

    fn needs_blobs(&self, wishes: &Wishes<'_>, wanted: &DesiredImage) -> bool {
        wishes.desired.targets.keeps_blobs || self.is_to_load(wishes, wanted)
    }

    /// True if an engine of the run has still to load the image.
    fn is_to_load(&self, wishes: &Wishes<'_>, wanted: &DesiredImage) -> bool {
        let Wishes { desired, observed, names } = wishes;
        let engines = desired.targets.engines.iter();
        let mut engines = engines
            .filter(|engine| wanted.engines.as_ref().is_none_or(|engines| engines.contains(&engine.name)));
        engines.any(|engine| {
            let Some(Ok(listing)) = observed.engines.get(&engine.name) else { return false };
            let digests: Vec<&BlobDigest> = if listing.by_config {
                self.config.into_iter().collect()
            } else {
                self.digest.into_iter().chain(self.manifest).collect()
            };
            let names = names.of_image(engine, self.reference, self.manifest).own;
            let rows = (&desired.owner, &observed.loaded);
            EngineState::of(engine, names, &digests, listing, rows).to_load.is_some()
        })
    }
}

/// Calls `judge` with each image of the run and what it means, and blocks those for which there is
/// an error.
pub(super) fn block(
    desired: &Desired,
    observed: &mut Observed,
    judge: &dyn Fn(&DesiredImage, &Resolution, &Wishes<'_>) -> Option<Resolution>,
) {
    let wishes = Wishes::of(desired, observed);
    let blocked = wanted_images(desired, observed).filter_map(|wanted| {
        let blocked = judge(wanted, observed.resolutions.get(&wanted.reference)?, &wishes)?;
        Some((wanted.reference.clone(), blocked))
    });
    let blocked: Vec<_> = blocked.collect();
    observed.resolutions.extend(blocked);
}

/// Finds out who forbids asking the registry of an image.
pub(super) fn permission(image: &DesiredImage, offline: bool, registries: &Registries) -> Permission {
    if image.pull == PullPolicy::Never {
        Permission::NeverPulled
    } else if offline && !registries.is_local(&image.reference) {
        Permission::Offline
    } else {
        Permission::Granted
    }
}
