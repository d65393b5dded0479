//! The size of a layer, by its inventory.

use crate::digest::BlobDigest;
use crate::extract::{InventoryReader, Totals};
use crate::store::LocatedLayers;

/// Reads the totals at the end of a layer's inventory, if there is a readable one.
pub(crate) fn layer_totals(layers: &LocatedLayers<'_>, digest: &BlobDigest) -> Option<Totals> {
    let mut reader = InventoryReader::new(layers.open_inventory(digest).ok()?).ok()?;
    while reader.next_entry().ok()?.is_some() {}
    reader.totals()
}
