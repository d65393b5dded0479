//! The report of `prune` and `forget`.

use std::path::PathBuf;
use std::sync::Arc;

use super::session::Session;
use super::verb_error::VerbError;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::plan::Removal;
use crate::state::{EngineName, LoadedReference, SparedImage};
use crate::store::{KeptBlob, Leftover, PartialDownload, RemovedLayers};

/// The report of `prune` and `forget`: what they did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// The images, those whose removal waits among them.
    pub images: Vec<Removal>,
    /// The images that removals wait for: the file lists them, and they are not here, or not yet by
    /// these names. A repository alone stands for a selection of its tags.
    pub waiting_for: Vec<ImageRef>,
    /// The layer directories.
    pub layers: Vec<RemovedLayer>,
    /// Layers that nobody needs but a running process uses, or that cannot be removed now.
    pub kept: Vec<KeptLayer>,
    /// Kept blobs.
    pub blobs: Vec<RemovedBlob>,
    /// References in engines.
    pub engines: Vec<RemovedReference>,
    /// References in engines that are ours to remove and that somebody uses.
    pub engines_kept: Vec<KeptReference>,
    /// The first failure: of an engine that could not be asked, and keeps what was loaded into it,
    /// or of the step after all that is listed here.
    pub error: Option<Arc<Error>>,
    /// Images that stay though nobody needs them now, with what they alone have on disk.
    pub spared: Vec<SparedImage>,
    /// The bytes of all that on disk.
    pub spared_bytes: u64,
    /// Partial downloads of runs that did not end.
    pub downloads: Vec<PartialDownload>,
    /// The user asked to change nothing.
    pub dry_run: bool,
}

/// A layer that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedLayer {
    /// The digest of its blob.
    pub digest: BlobDigest,
    /// The directory of the layer.
    pub path: PathBuf,
    /// Bytes of the files in it, as far as that is recorded.
    pub size: u64,
    /// The reason, for people.
    pub reason: String,
}

/// A kept blob that is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedBlob {
    /// The digest of the blob.
    pub digest: BlobDigest,
    /// The place of the blob.
    pub path: PathBuf,
    /// The number of its bytes.
    pub size: u64,
}

/// A reference that is taken out of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedReference {
    /// The engine.
    pub engine: EngineName,
    /// The text by which the engine lists the image.
    pub name: String,
}

/// A reference that stays in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReference {
    /// The engine.
    pub engine: EngineName,
    /// The text by which the engine lists the image.
    pub name: String,
    /// The engine's words, for people.
    pub reason: String,
}

/// A layer that is not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLayer {
    /// The digest of its blob.
    pub digest: BlobDigest,
    /// The directory of the layer.
    pub path: PathBuf,
    /// The process that uses the layer, or why else it stays, for people.
    pub reason: String,
}

impl Pruned {
    /// Sorts the layers by their paths, in whatever order they were removed.
    pub(super) fn sort_layers(&mut self) {
        self.layers.sort_by(|one, other| one.path.cmp(&other.path));
    }

    /// Counts the bytes of the layers, blobs and downloads that are removed.
    pub fn freed_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        let downloads = self.downloads.iter().map(|download| download.size);
        let blobs = self.blobs.iter().map(|blob| blob.size);
        layers.chain(blobs).chain(downloads).fold(0, u64::saturating_add)
    }

    /// Returns the images whose removal waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Removal> {
        self.images.iter().filter(|image| image.waits.is_some())
    }

    /// Tells whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.images.len() == self.waiting().count()
            && self.layers.is_empty()
            && self.blobs.is_empty()
            && self.engines.is_empty()
            && self.downloads.is_empty()
    }

    /// Takes note of how the rest of the run has ended. A failure is told beside the things that
    /// are gone, where there are some: these cannot be taken back.
    ///
    /// # Errors
    /// The failure, where nothing is gone, or where the run was stopped.
    pub(super) fn ended(mut self, rest: Result<(), VerbError>, session: &Session) -> Result<Self, VerbError> {
        match rest {
            Err(VerbError::Error(error))
                if !(self.dry_run || self.is_empty() || matches!(error, Error::Stopped)) =>
            {
                if self.error.is_some() {
                    session.warn(error.chain().join(": "));
                }
                self.error.get_or_insert_with(|| Arc::new(error));
                Ok(self)
            }
            ended => ended.map(|()| self),
        }
    }

    /// Adds those of `layers` that were removed or had to be kept, as the store reports.
    pub(super) fn add(&mut self, layers: Vec<RemovedLayer>, report: &RemovedLayers) {
        for layer in layers {
            if let Some(why) = report.kept.get(&layer.digest) {
                let RemovedLayer { digest, path, .. } = layer;
                self.kept.push(KeptLayer { digest, path, reason: why.clone() });
            } else if report.removed.contains(&layer.digest) {
                self.layers.push(layer);
            }
        }
    }
}

impl From<Leftover> for RemovedLayer {
    fn from(leftover: Leftover) -> Self {
        let Leftover { digest, path, size } = leftover;
        Self { digest, path, size, reason: "left by a run that did not end".to_owned() }
    }
}

impl From<KeptBlob> for RemovedBlob {
    fn from(blob: KeptBlob) -> Self {
        let KeptBlob { digest, path, size } = blob;
        Self { digest, path, size }
    }
}

impl From<&LoadedReference> for RemovedReference {
    fn from(loaded: &LoadedReference) -> Self {
        Self { engine: loaded.engine.name, name: loaded.name.clone() }
    }
}
