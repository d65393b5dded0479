//! `list` and `inspect`: what the catalog records, set beside what is on disk. Nothing is written, no registry is
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::stacking::{self, Stacking};
use super::{Failure, Session};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::extract::{InventoryReader, Totals};
use crate::image_ref::ImageRef;
use crate::progress::Event;
use crate::state::{
    ConfigRecord, LayerDescriptor, LayerState, Owner, Platform, RecordedImage, size_of_layers,
};
use crate::store::{self, Places};
use crate::sys;

/// One image as `list` and `inspect` show it.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// What the catalog says.
    pub image: RecordedImage,
    /// The platform it was pulled for, or, where microsandbox pulled it, the one that its config names.
    pub platform: Option<Platform>,
    /// When it was made, RFC 3339; `None` where its config does not say so.
    pub created: Option<String>,
    /// The directory of its layers.
    pub layers: PathBuf,
    /// Whether each layer is complete in the store, in order.
    pub states: Vec<LayerState>,
    /// Bytes, as fetched, of those of its layers that other images here need too.
    pub shared_bytes: u64,
    /// Those of its owners that are images files that are no more.
    pub gone: BTreeSet<Owner>,
}

/// One image in full.
#[derive(Clone, Debug)]
pub struct InspectedImage {
    /// As in `list`.
    pub listed: ListedImage,
    /// Its config, if it is recorded.
    pub config: Option<ConfigRecord>,
    /// What its layers amount to, as far as there are inventories.
    pub totals: Totals,
    /// What stacking its layers leads to, as far as there are inventories.
    pub stacking: Stacking,
}

impl ListedImage {
    /// Whether microsandbox pulled it itself, so that there are no inventories of its layers to be had.
    pub fn is_foreign(&self) -> bool {
        self.image.digest.is_none() && self.image.owners.is_empty()
    }

    /// Whether a layer in this state is there, as far as can be told.
    pub fn is_here(&self, state: LayerState) -> bool {
        state == LayerState::Complete || (self.is_foreign() && state == LayerState::Untrusted)
    }

    /// Its layers that are not here, base first.
    pub fn absent(&self) -> impl Iterator<Item = &LayerDescriptor> {
        let layers = self.image.layers.iter().zip(&self.states);
        layers.filter(|(_, state)| !self.is_here(**state)).map(|(layer, _)| layer)
    }

    /// The directories to stack, base first. A layer that occurs twice is there once, where its upper occurrence is:
    /// what is above it hides the lower one.
    pub fn rootfs(&self) -> Vec<PathBuf> {
        let digests = distinct(&self.image.layers);
        digests.into_iter().map(|digest| store::layer_path(&self.layers, digest)).collect()
    }
}

/// The digests of `layers`, each in its topmost place.
fn distinct(layers: &[LayerDescriptor]) -> Vec<&BlobDigest> {
    let mut seen = BTreeSet::new();
    let mut digests: Vec<_> =
        layers.iter().rev().map(|layer| &layer.digest).filter(|digest| seen.insert(*digest)).collect();
    digests.reverse();
    digests
}

impl Session {
    /// What the catalog holds, sorted by reference.
    ///
    /// # Errors
    /// The catalog or the store cannot be read.
    pub fn list(&self) -> Result<Vec<ListedImage>, Failure> {
        let Some(catalog) = Catalog::open_read_only(&self.catalog_path())? else { return Ok(Vec::new()) };
        let images = catalog.all()?;
        let users = Users::of(&images);
        let listed = images.into_iter().map(|image| {
            let config = catalog.config(&image.reference)?;
            self.listed(image, config.as_ref(), &users)
        });
        listed.collect()
    }

    /// One recorded image; `None` if it is not recorded.
    ///
    /// # Errors
    /// The catalog or the store cannot be read.
    pub fn inspect(&self, reference: &ImageRef) -> Result<Option<InspectedImage>, Failure> {
        let Some(catalog) = Catalog::open_read_only(&self.catalog_path())? else { return Ok(None) };
        let images = catalog.all()?;
        let users = Users::of(&images);
        let Some(image) = images.into_iter().find(|image| image.reference == *reference) else {
            return Ok(None);
        };
        let config = catalog.config(reference)?;
        let listed = self.listed(image, config.as_ref(), &users)?;
        let places = Places::of(&listed.layers);
        let mut totals = Totals::default();
        for layer in &*listed.image.layers {
            if let Some(refusal) = places.open_inventory(&layer.digest).err().as_ref().and_then(sys::refusal)
            {
                let path = places.inventory(&layer.digest);
                self.reporter.report(Event::Warning(format!("{} is left alone: {refusal}", path.display())));
            }
            if let Some(of_layer) = layer_totals(&places, &layer.digest) {
                totals.entries += of_layer.entries;
                totals.content_bytes += of_layer.content_bytes;
                totals.tar_bytes += of_layer.tar_bytes;
                totals.dropped_xattrs += of_layer.dropped_xattrs;
            }
        }
        let digests = distinct(&listed.image.layers);
        let names: Vec<String> = digests.iter().map(ToString::to_string).collect();
        let stacking = stacking::compare(&names, &mut |layer, visit| {
            let inventory = places.open_inventory(digests[layer]).ok()?;
            let mut reader = InventoryReader::new(inventory).ok()?;
            while let Some(entry) = reader.next_entry().ok()? {
                visit(&entry);
            }
            Some(())
        });
        Ok(Some(InspectedImage { listed, config, totals, stacking }))
    }

    fn listed(
        &self,
        image: RecordedImage,
        config: Option<&ConfigRecord>,
        users: &Users,
    ) -> Result<ListedImage, Failure> {
        let layers = self.layers_of(&image);
        let places = Places::of(&layers);
        let mut states = Vec::with_capacity(image.layers.len());
        let located = places.locate()?;
        for layer in &*image.layers {
            states.push(located.state(&layer.digest)?);
        }
        let of_config = || {
            let config = config.filter(|config| !config.os.is_empty() && !config.architecture.is_empty())?;
            Some(Platform::new(&config.os, &config.architecture, config.variant.as_deref()))
        };
        Ok(ListedImage {
            platform: image.platform.clone().or_else(of_config),
            created: config.and_then(|config| config.created.clone()),
            shared_bytes: users.shared_bytes(&image),
            gone: image.owners.intersection(&users.gone).cloned().collect(),
            image,
            layers,
            states,
        })
    }
}

/// Who needs what: which images a layer (two names of one image are one), and which owners are no more.
struct Users {
    images: BTreeMap<BlobDigest, BTreeSet<ImageRef>>,
    gone: BTreeSet<Owner>,
}

impl Users {
    fn of(images: &[RecordedImage]) -> Self {
        let mut users: BTreeMap<BlobDigest, BTreeSet<ImageRef>> = BTreeMap::new();
        for image in images {
            for layer in &*image.layers {
                users.entry(layer.digest.clone()).or_default().insert(first_name(image).clone());
            }
        }
        let owners: BTreeSet<&Owner> = images.iter().flat_map(|image| &image.owners).collect();
        let gone = owners
            .into_iter()
            .filter(|owner| owner.file().is_some_and(|path| is_gone(&path)))
            .cloned()
            .collect();
        Self { images: users, gone }
    }

    fn shared_bytes(&self, image: &RecordedImage) -> u64 {
        let shared =
            |layer: &&LayerDescriptor| self.images.get(&layer.digest).is_some_and(|users| users.len() > 1);
        let shared: Vec<LayerDescriptor> = image.layers.iter().filter(shared).cloned().collect();
        size_of_layers(&shared)
    }
}

fn first_name(image: &RecordedImage) -> &ImageRef {
    image.alias_of.as_ref().unwrap_or(&image.reference)
}

/// Whether there is certainly no file. One that may not be looked at may be there.
fn is_gone(path: &Path) -> bool {
    fs::metadata(path)
        .is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

/// The totals at the end of a layer's inventory, if there is a readable one.
pub(super) fn layer_totals(places: &Places, digest: &BlobDigest) -> Option<Totals> {
    let mut reader = InventoryReader::new(places.open_inventory(digest).ok()?).ok()?;
    while reader.next_entry().ok()?.is_some() {}
    reader.totals()
}
