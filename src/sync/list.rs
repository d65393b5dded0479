//! `list`: what the catalog records, set beside what is on disk. Nothing is written, no registry is
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::session::Session;
use super::steps::gone::is_gone;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::clock;
use crate::digest::BlobDigest;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{
    ConfigRecord, Evidence, LayerDescriptor, LayerState, LoadedReference, Owner, Platform, RecordedImage,
    size_of_layers,
};
use crate::store::{self, Places};
use crate::wildcard;

/// One image as `list` and `inspect` show it.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// The row of the catalog.
    pub image: RecordedImage,
    /// The platform that the image was pulled for, or, where microsandbox pulled it, the one that
    /// its config names.
    pub platform: Option<Platform>,
    /// The time when the image was made, RFC 3339; `None` where its config does not say so.
    pub created: Option<String>,
    /// The directory of its layers.
    pub layers: PathBuf,
    /// The state of each layer in the store, in order.
    pub states: Vec<LayerState>,
    /// Bytes, as fetched, of those of its layers that other images here need too.
    pub shared_bytes: u64,
    /// The owners whose images files are no more.
    pub gone: BTreeSet<Owner>,
    /// The references that msb-sync has loaded into engines for the image, each once.
    pub engines: Vec<LoadedReference>,
    /// The proofs that the image is signed, the newest first. Those of `list` lack the signatures
    /// themselves.
    pub proofs: Vec<Evidence>,
}

impl ListedImage {
    /// Returns the newest of the proofs that still hold in time, whatever rule is in force now: the
    /// catalog knows no rules.
    pub fn proof(&self) -> Option<&Evidence> {
        let now = clock::now().as_second();
        self.proofs.iter().find(|proof| proof.holds(now))
    }

    /// Tells whether microsandbox pulled the image itself, so that there are no inventories of its
    /// layers to be had.
    pub fn is_foreign(&self) -> bool {
        self.image.digest.is_none() && self.image.owners.is_empty()
    }

    /// Tells whether anybody wants the layers of the image extracted.
    pub fn is_extracted(&self) -> bool {
        self.image.owners.is_empty() || !self.image.extracted_for.is_empty()
    }

    /// Tells whether a layer in this state is there, as far as can be told.
    pub fn is_here(&self, state: LayerState) -> bool {
        state == LayerState::Complete || (self.is_foreign() && state == LayerState::Untrusted)
    }

    /// Returns the layers that are not here, base first.
    pub fn absent(&self) -> impl Iterator<Item = &LayerDescriptor> {
        let layers = self.image.layers.iter().zip(&self.states);
        layers.filter(|(_, state)| !self.is_here(**state)).map(|(layer, _)| layer)
    }

    /// Tells whether the image is one that `pattern` means, in which each `*` stands for any text.
    /// The reference is held against it in full and as people write it, with and without its tag.
    pub fn fits(&self, pattern: &str) -> bool {
        let reference = &self.image.reference;
        let pinned = reference.without_digest();
        let names = [reference.clone(), pinned, reference.repository_alone()].map(|name| name.to_string());
        names.iter().any(|name| {
            let hub = name.strip_prefix(DEFAULT_REGISTRY).and_then(|rest| rest.strip_prefix('/'));
            let official = hub.and_then(|rest| rest.strip_prefix("library/"));
            [Some(name.as_str()), hub, official]
                .into_iter()
                .flatten()
                .any(|name| wildcard::fits(pattern, name))
        })
    }

    /// Returns the directories to stack, base first. A layer that occurs twice is there once, where
    /// its upper occurrence is: what is above it hides the lower one.
    pub fn rootfs(&self) -> Vec<PathBuf> {
        let digests = distinct(&self.image.layers);
        digests.into_iter().map(|digest| store::layer_path(&self.layers, digest)).collect()
    }
}

/// Returns the digests of `layers`, each in its topmost place.
pub(super) fn distinct(layers: &[LayerDescriptor]) -> Vec<&BlobDigest> {
    let mut seen = BTreeSet::new();
    let mut digests: Vec<_> =
        layers.iter().rev().map(|layer| &layer.digest).filter(|digest| seen.insert(*digest)).collect();
    digests.reverse();
    digests
}

/// Lists the images of the catalog, sorted by reference.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// for listed in sync::list(&session)? {
///     println!("{}: {} layers", listed.image.reference, listed.image.layers.len());
/// }
/// # assert_eq!(sync::list(&session)?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The catalog or the store cannot be read.
pub fn list(session: &Session) -> Result<Vec<ListedImage>, VerbError> {
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(Vec::new()) };
    let images = catalog.all()?;
    let users = Users::of(&images);
    let mut loaded: BTreeMap<ImageRef, Vec<LoadedReference>> = BTreeMap::new();
    for row in catalog.loaded()? {
        loaded.entry(row.reference.clone()).or_default().push(row);
    }
    let listed = images.into_iter().map(|image| {
        let config = catalog.config(&image.reference)?;
        let proofs = proofs(&catalog, &image)?;
        let engines = in_engines(loaded.get(&image.reference).map_or(&[], Vec::as_slice), &image);
        Ok(ListedImage { engines, proofs, ..listed(session, image, config.as_ref(), &users)? })
    });
    listed.collect()
}

/// Finds the references of `image` that engines have been given, each once whoever had it loaded.
pub(super) fn in_engines(loaded: &[LoadedReference], image: &RecordedImage) -> Vec<LoadedReference> {
    let mut seen = BTreeSet::new();
    let of_image = loaded.iter().filter(|row| row.reference == image.reference && row.listed.is_some());
    of_image.filter(|row| seen.insert((&row.engine, &row.name))).cloned().collect()
}

/// Reads the proofs that an image is signed, without the signatures.
pub(super) fn proofs(catalog: &Catalog, image: &RecordedImage) -> Result<Vec<Evidence>, VerbError> {
    match (&image.digest, &image.manifest_digest) {
        (Some(digest), Some(manifest)) => Ok(catalog.proofs(digest, manifest)?),
        _ => Ok(Vec::new()),
    }
}

/// Sets what is on disk beside what the catalog says of an image.
pub(super) fn listed(
    session: &Session,
    image: RecordedImage,
    config: Option<&ConfigRecord>,
    users: &Users,
) -> Result<ListedImage, VerbError> {
    let layers = session.layers_of(&image);
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
        engines: Vec::new(),
        proofs: Vec::new(),
        image,
        layers,
        states,
    })
}

/// The users of layers (two names of one image are one user), and the owners that are no more.
pub(super) struct Users {
    images: BTreeMap<BlobDigest, BTreeSet<ImageRef>>,
    gone: BTreeSet<Owner>,
}

impl Users {
    pub(super) fn of(images: &[RecordedImage]) -> Self {
        let mut users: BTreeMap<BlobDigest, BTreeSet<ImageRef>> = BTreeMap::new();
        for image in images {
            for layer in &*image.layers {
                users.entry(layer.digest.clone()).or_default().insert(first_name(image).clone());
            }
        }
        let owners: BTreeSet<&Owner> = images.iter().flat_map(|image| &image.owners).collect();
        let gone = owners.into_iter().filter(|owner| is_gone(owner)).cloned().collect();
        Self { images: users, gone }
    }

    fn shared_bytes(&self, image: &RecordedImage) -> u64 {
        let shared =
            |layer: &&LayerDescriptor| self.images.get(&layer.digest).is_some_and(|users| users.len() > 1);
        let shared: Vec<LayerDescriptor> = image.layers.iter().filter(shared).cloned().collect();
        size_of_layers(&shared)
    }
}

/// Returns the name by which the image was asked for.
pub(super) fn first_name(image: &RecordedImage) -> &ImageRef {
    image.alias_of.as_ref().unwrap_or(&image.reference)
}
