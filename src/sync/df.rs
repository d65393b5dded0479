//! `df`: the bytes on disk of a home, and what a prune would free. Nothing is written, no registry
//! is asked.
//!
//! Sizes are those of the files' contents, as inventories record them: the same that `prune` and
//! `forget` report as freed, so that the figures of all three agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::list::first_name;
use super::prune::{PruneRequest, prune, prune_unneeded};
use super::pruned::Pruned;
use super::request::ImagesSource;
use super::session::Session;
use super::steps::spared::spared;
use super::steps::totals::layer_totals;
use super::verb_error::VerbError;
use crate::catalog::{Catalog, GivenUp};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::execute::list_kept_blobs;
use crate::image_ref::ImageRef;
use crate::state::{LayerState, Owner, RecordedImage};
use crate::store::{self, Blobs, Places};
use crate::sys::{self, DirectoryId};
use crate::threads;

/// The bytes that one image has on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOnDisk {
    /// The image.
    pub reference: ImageRef,
    /// The bytes of its layers and kept blobs.
    pub bytes: u64,
    /// The part of these that other images here need too.
    pub shared_bytes: u64,
}

/// The report of `df`.
#[derive(Clone, Debug, Default)]
pub struct DiskUse {
    /// The bytes of extracted layers.
    pub layers_bytes: u64,
    /// The number of extracted layers.
    pub layers: usize,
    /// The bytes of kept blobs.
    pub blobs_bytes: u64,
    /// The number of kept blobs.
    pub blobs: usize,
    /// The bytes of partial downloads.
    pub downloads_bytes: u64,
    /// The bytes of what is being extracted, or was when a run ended early.
    pub staging_bytes: u64,
    /// The bytes of earlier and staged images that prune spares, in the figures above.
    pub spared_bytes: u64,
    /// The bytes that `prune` would free with all the images files that own images here.
    pub reclaimable_bytes: u64,
    /// The images files with which it would free some of them.
    pub reclaimed_by: Vec<PathBuf>,
    /// The images, sorted. Of two names of one image only the first is here.
    pub images: Vec<ImageOnDisk>,
}

/// Measures what the home and its directories of layers have on disk.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let disk = sync::df(&session)?;
/// assert!(disk.layers_bytes > 0 && disk.reclaimable_bytes == 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The catalog or the store cannot be read.
pub fn df(session: &Session) -> Result<DiskUse, VerbError> {
    let catalog = Catalog::open_read_only(&session.home)?;
    let images = catalog.as_ref().map(Catalog::all).transpose()?.unwrap_or_default();
    let mut paths = catalog.as_ref().map(Catalog::layers_directories).transpose()?.unwrap_or_default();
    paths.extend(images.iter().map(|image| session.layers_of(image)).chain([session.default_layers()]));
    let mut directories: BTreeMap<DirectoryId, PathBuf> = BTreeMap::new();
    for directory in paths {
        match sys::directory_id(&directory).map_err(StoreError::io("look into", &directory)) {
            Ok(id) => directories.extend(id.map(|id| (id, directory))),
            Err(error) => session.warn(format!("layers are not counted: {error}")),
        }
    }
    let mut disk = DiskUse::default();
    if let Some(catalog) = &catalog {
        disk.spared_bytes = spared(session, catalog, GivenUp::from(&BTreeSet::new()))?.bytes;
    }
    let mut layers: BTreeMap<(DirectoryId, BlobDigest), u64> = BTreeMap::new();
    for (id, directory) in &directories {
        let places = Places::of(directory);
        let needed = images.iter().filter(|image| id_of_layers(session, image) == Some(*id));
        let needed = needed.flat_map(|image| image.layers.iter()).map(|layer| layer.digest.clone());
        let mut digests = places.removable(session.jobs(), |_| true)?;
        digests.extend(needed);
        let located = places.locate()?;
        let digests: Vec<BlobDigest> = digests.into_iter().collect();
        let sizes = threads::each_with_files("look", session.jobs(), &digests, |digest| {
            let is_there = located.state(digest)? != LayerState::Missing;
            let size = || layer_totals(&located, digest).map(|totals| totals.content_bytes);
            Ok::<_, StoreError>(is_there.then(|| size().unwrap_or_else(|| places.size_of(digest))))
        });
        for (digest, size) in digests.into_iter().zip(sizes) {
            layers.extend(size?.map(|size| ((*id, digest), size)));
        }
        disk.staging_bytes += places.size_of_staging();
    }
    disk.layers = layers.len();
    disk.layers_bytes = layers.values().fold(0, |sum, size| sum.saturating_add(*size));
    let blobs = match catalog {
        Some(catalog) => list_kept_blobs(&session.home, &catalog)?,
        None => Blobs::of(&session.home).list()?,
    };
    disk.blobs = blobs.len();
    let blobs: BTreeMap<BlobDigest, u64> = blobs.into_iter().map(|blob| (blob.digest, blob.size)).collect();
    disk.blobs_bytes = blobs.values().fold(0, |sum, size| sum.saturating_add(*size));
    let downloads = store::partial_downloads(&store::downloads_of(&session.home))?;
    disk.downloads_bytes = downloads.iter().map(|download| download.size).fold(0, u64::saturating_add);
    disk.images = by_image(session, &images, &layers, &blobs);
    reclaim(session, &images, &mut disk)?;
    Ok(disk)
}

/// Identifies the directory of an image's layers, where it can be looked at.
fn id_of_layers(session: &Session, image: &RecordedImage) -> Option<DirectoryId> {
    sys::directory_id(&session.layers_of(image)).ok().flatten()
}

/// Lists the digests of an image's layers and documents, each once.
fn digests(image: &RecordedImage) -> BTreeSet<&BlobDigest> {
    let documents = image.documents.iter().map(|document| &document.digest);
    image.layers.iter().map(|layer| &layer.digest).chain(documents).collect()
}

/// Sums up what each image has on disk, and shares with others.
fn by_image(
    session: &Session,
    images: &[RecordedImage],
    layers: &BTreeMap<(DirectoryId, BlobDigest), u64>,
    blobs: &BTreeMap<BlobDigest, u64>,
) -> Vec<ImageOnDisk> {
    let mut users: BTreeMap<&BlobDigest, BTreeSet<&ImageRef>> = BTreeMap::new();
    for image in images {
        for digest in digests(image) {
            users.entry(digest).or_default().insert(first_name(image));
        }
    }
    let on_disk = |image: &RecordedImage| {
        let id = id_of_layers(session, image);
        let (mut bytes, mut shared_bytes) = (0_u64, 0_u64);
        for digest in digests(image) {
            let layer = id.and_then(|id| layers.get(&(id, digest.clone())));
            let size = layer
                .into_iter()
                .chain(blobs.get(digest))
                .fold(0, |sum: u64, size| sum.saturating_add(*size));
            bytes = bytes.saturating_add(size);
            if users.get(digest).is_some_and(|users| users.len() > 1) {
                shared_bytes = shared_bytes.saturating_add(size);
            }
        }
        ImageOnDisk { reference: image.reference.clone(), bytes, shared_bytes }
    };
    images.iter().filter(|image| image.alias_of.is_none()).map(on_disk).collect()
}

/// Finds out what `prune` would free, by asking it: for each images file that owns something here,
/// and for what nobody owns.
fn reclaim(session: &Session, images: &[RecordedImage], disk: &mut DiskUse) -> Result<(), VerbError> {
    let quiet = session.quiet();
    let mut freed: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut add = |pruned: &Pruned| {
        let before = freed.len();
        freed.extend(pruned.layers.iter().map(|layer| (layer.path.clone(), layer.size)));
        freed.extend(pruned.blobs.iter().map(|blob| (blob.path.clone(), blob.size)));
        freed.extend(pruned.downloads.iter().map(|download| (download.path.clone(), download.size)));
        freed.len() > before
    };
    add(&prune_unneeded(&quiet)?);
    let owners: BTreeSet<_> = images.iter().flat_map(|image| &image.owners).collect();
    for file in owners.into_iter().filter_map(Owner::file) {
        let request =
            PruneRequest { source: ImagesSource::Path(file.clone()), dry_run: true, allow_empty: false };
        // A file that is gone or broken, or lists nothing, frees nothing.
        if let Ok(pruned) = prune(&quiet, &request)
            && add(&pruned)
        {
            disk.reclaimed_by.push(file);
        }
    }
    disk.reclaimable_bytes = freed.values().fold(0, |sum, size| sum.saturating_add(*size));
    Ok(())
}
