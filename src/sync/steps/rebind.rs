//! Layers whose inventories are of other directories: copied, put back from a backup, or made anew
//! by somebody. Those that are what their inventories say are taken for complete again, without a
//! registry; the others are not trusted any more.

use std::collections::BTreeSet;
use std::path::Path;

use super::compare::{VerifiedLayer, compare};
use super::finding::{Finding, Status};
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::progress::Event;
use crate::state::{LayerState, Observed};
use crate::store::Store;
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;

/// Compares the layers among `observed` that are of other directories than their inventories, under
/// the lock of `store`, and tells whether one of them is not what its inventory says.
///
/// # Errors
/// See [`VerbError`].
pub(crate) fn rebind(session: &Session, store: &Store, observed: &Observed) -> Result<bool, VerbError> {
    let unbound = observed.layers.iter().filter(|(_, state)| **state == LayerState::Unbound);
    let located = store.places().locate()?;
    let mut layers = Vec::new();
    for (digest, _) in unbound {
        // Whoever had the lock before may have compared it.
        if located.state(digest)? == LayerState::Unbound {
            layers.push(to_compare(store.layers(), digest));
        }
    }
    drop(located);
    if layers.is_empty() {
        return Ok(false);
    }
    compare(session, layers.iter_mut().collect())?;
    let mut differ = false;
    for layer in &layers {
        let noted = if layer.found.status == Status::Ok {
            store.bind(&layer.digest)
        } else {
            differ = true;
            let found = layer.found.detail.as_deref().unwrap_or(layer.found.status.as_str());
            let text = format!("layer {} is not the one that was extracted: {found}", layer.digest);
            session.reporter.report(Event::Detail(text));
            store.distrust(&layer.digest)
        };
        // Then it counts as damaged in this run: whoever replaces it fails with its images alone.
        if let Err(error) = noted {
            differ = true;
            session.warn(format!("layer {}: {}", layer.digest, Error::from(error).chain().join(": ")));
        }
    }
    store.sync_inventories()?;
    Ok(differ)
}

fn to_compare(directory: &Path, digest: &BlobDigest) -> VerifiedLayer {
    VerifiedLayer {
        digest: digest.clone(),
        directory: directory.to_owned(),
        size: 0,
        images: BTreeSet::new(),
        of_microsandbox: false,
        found: Finding::UNSEEN,
    }
}
