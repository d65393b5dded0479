//! The wish: the images that are to be here after a run, and on whose behalf.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{EngineName, EngineSettings};
use super::locked::LockedImage;
use super::owner::Owner;
use super::platform::Platform;
use super::resolved::ResolvedImage;
use super::selection::TagSelection;
use super::settings::{PullPolicy, Targets};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// The state of a machine that a run is to bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The owner on whose behalf the run works.
    pub owner: Owner,
    /// The absolute directory where the layers are to be.
    pub layers_directory: PathBuf,
    /// The images, sorted by reference.
    pub images: Vec<DesiredImage>,
    /// Selections of tags. The observer finds out which images they choose:
    /// [`Observed::selected`](super::Observed::selected).
    pub selections: Vec<TagSelection>,
    /// The tags, chosen by selections or not, that are taken at once, new or not.
    pub taken_now: BTreeSet<ImageRef>,
    /// References that the file lists but this run leaves alone (`--group`): never removed. A
    /// selection of tags is there as its repository alone, which stands for all its images.
    pub listed_elsewhere: BTreeSet<ImageRef>,
    /// The parts that the images are to have on this machine.
    pub targets: Targets,
    /// True if the run removes images that the owner no longer lists.
    pub prune: bool,
    /// The run only makes ready what the next one is to add or update: nothing is recorded, loaded
    /// or removed.
    pub stage: Option<Stage>,
}

/// The parts that the run after one which only makes images ready is to bring about, beside the
/// layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// True if it keeps blobs, whatever engines need.
    pub keeps_blobs: bool,
    /// The engines that are to have the images.
    pub engines: Vec<EngineSettings>,
}

/// One image that an images file, or `pull`, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredImage {
    /// The reference.
    pub reference: ImageRef,
    /// The platform.
    pub platform: Platform,
    /// The policy that says when to ask the registry.
    pub pull: PullPolicy,
    /// The groups that the image is in, by its own entry or by `[groups]`.
    pub groups: BTreeSet<String>,
    /// The engines that are to have the image; `None`: all of the run.
    pub engines: Option<BTreeSet<EngineName>>,
    /// The time for which the tag's new digest has to be seen before it is taken.
    pub cooldown: Duration,
    /// The meaning of the reference, if the lockfile fixes one.
    pub locked: Option<Arc<LockedImage>>,
    /// The earlier digest that the reference goes back to, whatever its registry says.
    pub back_to: Option<BackTo>,
}

/// An earlier digest that a reference goes back to, to be held there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackTo {
    /// The digest.
    pub digest: BlobDigest,
    /// Everything that the reference meant by the digest; `None` where nobody knows that any more.
    pub meaning: Option<Arc<ResolvedImage>>,
}
