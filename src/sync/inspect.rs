//! `inspect`: one recorded image in full. Nothing is written, no registry is asked.

use std::collections::BTreeSet;

use super::list::{ListedImage, Users, distinct, in_engines, listed, proofs};
use super::session::Session;
use super::steps::totals::layer_totals;
use super::verb_error::VerbError;
use crate::catalog::Catalog;
use crate::extract::{InventoryReader, Stacking, Totals, stacking};
use crate::image_ref::ImageRef;
use crate::state::{ConfigRecord, RecordedImage};
use crate::store::{Blobs, KeptBlob, Places};
use crate::sys;

/// One image in full.
#[derive(Clone, Debug)]
pub struct InspectedImage {
    /// The image as `list` shows it.
    pub listed: ListedImage,
    /// The config of the image, if that is recorded.
    pub config: Option<ConfigRecord>,
    /// The sum of its layers, as far as there are inventories.
    pub totals: Totals,
    /// The blobs of the image that are kept, documents first, each once.
    pub blobs: Vec<KeptBlob>,
    /// The effect of stacking its layers, as far as there are inventories.
    pub stacking: Stacking,
}

/// Shows one recorded image; `None` if it is not recorded.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// # let file = ImagesSource::Path("examples/quickstart/images.toml".into());
/// # sync::apply(&session, &Request::of(file))?;
/// let reference = session.reference("quickstart.local/hello:1")?;
/// let Some(inspected) = sync::inspect(&session, &reference)? else { return Ok(()) };
/// // Directories of layers, base first.
/// println!("{:?}", inspected.listed.rootfs());
/// # assert!(!inspected.listed.rootfs().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The catalog or the store cannot be read.
pub fn inspect(session: &Session, reference: &ImageRef) -> Result<Option<InspectedImage>, VerbError> {
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(None) };
    let images = catalog.all()?;
    let users = Users::of(&images);
    let Some(image) = images.into_iter().find(|image| image.reference == *reference) else {
        return Ok(None);
    };
    let config = catalog.config(reference)?;
    let mut proofs = proofs(&catalog, &image)?;
    for proof in &mut proofs {
        proof.candidates = catalog.signatures(proof)?;
    }
    let engines = in_engines(&catalog.loaded()?, &image);
    let listed = ListedImage { engines, proofs, ..listed(session, image, config.as_ref(), &users)? };
    let places = Places::of(&listed.layers);
    let located = places.locate()?;
    let mut totals = Totals::default();
    for layer in &*listed.image.layers {
        if let Some(refusal) = located.open_inventory(&layer.digest).err().as_ref().and_then(sys::refusal) {
            let path = places.inventory(&layer.digest);
            session.warn(format!("{} is left alone: {refusal}", path.display()));
        }
        if let Some(of_layer) = layer_totals(&located, &layer.digest) {
            totals.entries += of_layer.entries;
            totals.content_bytes += of_layer.content_bytes;
            totals.tar_bytes += of_layer.tar_bytes;
            totals.dropped_xattrs += of_layer.dropped_xattrs;
        }
    }
    let digests = distinct(&listed.image.layers);
    let names: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let stacking = stacking::compare(&names, &mut |layer, visit| {
        let inventory = located.open_inventory(digests[layer]).ok()?;
        let mut reader = InventoryReader::new(inventory).ok()?;
        while let Some(entry) = reader.next_entry().ok()? {
            visit(&entry);
        }
        Some(())
    });
    let blobs = kept_blobs(session, &listed.image);
    Ok(Some(InspectedImage { listed, config, totals, blobs, stacking }))
}

/// Finds those blobs of an image that are kept.
fn kept_blobs(session: &Session, image: &RecordedImage) -> Vec<KeptBlob> {
    let kept = Blobs::of(&session.home);
    let documents = image.documents.iter().map(|document| (&document.digest, document.size));
    let layers = image.layers.iter().map(|layer| (&layer.digest, layer.size));
    let mut seen = BTreeSet::new();
    documents
        .chain(layers)
        .filter(|(digest, size)| seen.insert(*digest) && kept.has(digest, *size))
        .map(|(digest, size)| KeptBlob { digest: digest.clone(), path: kept.path(digest), size })
        .collect()
}
