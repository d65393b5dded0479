//! Comparing layers with what was recorded of them. Nothing is locked or written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Status};
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::extract;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Task};
use crate::store::{OpenedLayer, Places, layer_path};
use crate::sync::session::Session;
use crate::sync::verb_error::VerbError;
use crate::threads;

/// Layers compared at once, at most: each keeps some directories open.
const MAX_THREADS: usize = 32;
/// A layer that somebody replaces while it is compared is looked at again, so often.
const LOOKS: usize = 3;

/// A layer and how it was found.
#[derive(Clone, Debug)]
pub struct VerifiedLayer {
    /// The digest of its blob.
    pub digest: BlobDigest,
    /// The directory of layers that it is in.
    pub directory: PathBuf,
    /// Bytes of its blob.
    pub size: u64,
    /// The images that it is part of, sorted.
    pub images: BTreeSet<ImageRef>,
    /// True if microsandbox alone has recorded images with the layer, so that only microsandbox
    /// fetches it again.
    pub of_microsandbox: bool,
    /// The state of the layer, as it was found.
    pub found: Finding,
}

/// Looks at layers, several at once, the biggest first.
pub(crate) fn compare(session: &Session, mut layers: Vec<&mut VerifiedLayer>) -> Result<(), VerbError> {
    if layers.is_empty() {
        return Ok(());
    }
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
    let bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    let task = Task::CompareLayers;
    session.reporter.report(Event::Begun { task, things: layers.len(), bytes });
    let threads = session.jobs().min(MAX_THREADS);
    let found = threads::each_with_files("compare", threads, &layers, |layer| {
        if session.cancel.is_cancelled() {
            return None;
        }
        let found = compare_layer(session, &layer.directory, &layer.digest);
        session.reporter.report(Event::Advanced { task, things: 1, bytes: layer.size });
        Some(found)
    });
    for (layer, found) in layers.into_iter().zip(found) {
        let Some(found) = found else { continue };
        layer.found = found;
    }
    if session.cancel.is_cancelled() { Err(Error::Stopped.into()) } else { Ok(()) }
}

fn compare_layer(session: &Session, directory: &Path, digest: &BlobDigest) -> Finding {
    let places = Places::of(directory);
    let mut looks = 0;
    loop {
        looks += 1;
        let opened = places.open(digest);
        let identity = opened.identity().ok().flatten();
        let found = match opened {
            OpenedLayer::Missing => {
                let path = layer_path(directory, digest);
                Finding::of(Status::Missing, format!("there is no directory {}", path.display()))
            }
            OpenedLayer::Incomplete(why) => Finding::of(Status::Incomplete, why),
            OpenedLayer::Complete { tree, mut inventory } => {
                match extract::verify(&tree, &mut inventory, &session.cancel) {
                    Ok(found) if found.count == 0 => Finding::OK,
                    Ok(found) => Finding::of(Status::Modified, found.to_string()),
                    Err(error) => {
                        Finding::of(Status::Incomplete, format!("its record cannot be read: {error}"))
                    }
                }
            }
        };
        let replaced = || places.open(digest).identity().ok().flatten() != identity;
        if found.status == Status::Ok || looks == LOOKS || !replaced() {
            return found;
        }
    }
}
