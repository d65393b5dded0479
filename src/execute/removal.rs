//! Removing the layers of one directory: the one way, for plans, `prune` and `forget`.

use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::store::{self, RemovedLayers, Store};

/// Removes those of `layers` from the directory of `store` that no recorded image needs there, by
/// what the catalog says now: whoever decided may have supposed something else. Reports what was
/// removed, what had to be kept and why, and what is left over. Other homes were asked before.
pub(crate) fn remove_layers(
    catalog: &Catalog,
    store: &Store,
    mut layers: BTreeSet<BlobDigest>,
) -> Result<RemovedLayers, Error> {
    if layers.is_empty() {
        return Ok(RemovedLayers::default());
    }
    let default = store::default_layers_of(store.home().path());
    let needed = catalog.layers_needed_in(store.layers(), &default, &BTreeSet::new())?;
    layers.retain(|digest| !needed.contains(digest));
    Ok(store::remove(store, &layers.iter().collect::<Vec<_>>())?)
}
