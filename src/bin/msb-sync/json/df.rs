//! The document of `df`.

use msb_sync::sync::DiskUse;
use serde_json::json;

use super::{Document, VERSION};

/// The document of `df`.
pub(crate) fn df(disk: &DiskUse) -> Document<'_> {
    let images = disk.images.iter().map(|image| {
        json!({
            "reference": image.reference.to_string(),
            "bytes": image.bytes,
            "shared_bytes": image.shared_bytes,
        })
    });
    let document = json!({
        "version": VERSION,
        "layers_bytes": disk.layers_bytes,
        "blobs_bytes": disk.blobs_bytes,
        "downloads_bytes": disk.downloads_bytes,
        "staging_bytes": disk.staging_bytes,
        "spared_bytes": disk.spared_bytes,
        "reclaimable_bytes": disk.reclaimable_bytes,
    });
    Document::from(document).with("images", images)
}
