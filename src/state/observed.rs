//! The facts: what references mean now, what the catalog records, which layers are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::desired::DesiredImage;
use super::document::DocumentDescriptor;
use super::engine::{EngineListing, EngineName};
use super::layer::{LayerDescriptor, LayerFacts, LayerState};
use super::loaded::LoadedReferences;
use super::locked::LockedImage;
use super::owner::Owner;
use super::permission::Permission;
use super::platform::Platform;
use super::resolved::ResolvedImage;
use super::time::{EarlierImage, TagCandidate};
use super::trust::Verdict;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;

/// The state of a machine and of its registries, as far as a [`Desired`](super::Desired) is
/// concerned.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The time of the observation.
    pub now: Timestamp,
    /// The present meaning of each desired and each selected image.
    pub resolutions: BTreeMap<ImageRef, Resolution>,
    /// The images that selections of tags chose and that are not desired by name, sorted by
    /// reference.
    pub selected: Vec<SelectedImage>,
    /// Repositories with a selection that could not be carried out, sorted; each once.
    pub blocked_selections: Vec<BlockedSelection>,
    /// The digests that tags mean now, by the word of registries: of tags with a cooldown, or with
    /// a digest that was noted as new.
    pub seen: BTreeMap<ImageRef, BlobDigest>,
    /// The digests of tags that earlier runs have noted as new.
    pub candidates: BTreeMap<ImageRef, TagCandidate>,
    /// The tags that selections would choose, were they not new.
    pub new_tags: Vec<NewTag>,
    /// Repositories, alone, of which all selections were made from the list of their tags. Of the
    /// others with a selection nothing may be removed: nobody knows what they would have chosen.
    pub decided: BTreeSet<ImageRef>,
    /// The desired and selected images whose registries must not be asked, each with the reason.
    pub unasked: BTreeMap<ImageRef, Permission>,
    /// The verdicts about those desired and selected images that a rule of trust names, or that
    /// need a signature by default.
    pub verdicts: BTreeMap<ImageRef, Verdict>,
    /// The catalog's word about the desired names, the owner's images, and repositories with a
    /// selection.
    pub recorded: BTreeMap<ImageRef, RecordedImage>,
    /// The state of every layer of a record above, and of those of resolutions that are not
    /// missing.
    pub layers: BTreeMap<BlobDigest, LayerState>,
    /// The facts about complete layers of resolutions, for comparison with what the images say.
    pub facts: BTreeMap<BlobDigest, LayerFacts>,
    /// The blobs of resolutions and records above, layers and documents, that are kept whole.
    pub blobs: BTreeSet<BlobDigest>,
    /// The listings of the run's engines, or the errors of those that cannot be asked.
    pub engines: BTreeMap<EngineName, Result<Arc<EngineListing>, Arc<Error>>>,
    /// The references that msb-sync has loaded into engines: for the owner, and by the names of the
    /// images for whatever other one.
    pub loaded: LoadedReferences,
    /// Layers that recorded images outside [`Observed::recorded`] need.
    pub needed_elsewhere: BTreeSet<BlobDigest>,
    /// The images that references meant before, the latest first, as far as their layers are here:
    /// for runs that remove.
    pub earlier: BTreeMap<ImageRef, Vec<EarlierImage>>,
    /// The digests of images that are ready to be recorded.
    pub staged: BTreeMap<(ImageRef, Platform), BlobDigest>,
    /// True if an image failed in an earlier part of this run. Then nothing is removed in the rest.
    pub failed: bool,
    /// Layers of images that an earlier part of this run replaced: with prune, the rest of the run
    /// removes them unless somebody needs them.
    pub released: BTreeSet<BlobDigest>,
}

/// The present meaning of a desired image.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// The reference means what the catalog records.
    AsRecorded,
    /// The reference means another image, or its first one.
    Resolved(Arc<ResolvedImage>),
    /// The lockfile names another image, or the first one; nobody was asked. The image must be
    /// looked up before a plan is carried out.
    Locked(Arc<LockedImage>),
    /// Nobody can tell.
    Blocked(Arc<Error>),
}

/// An image that a selection of tags chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedImage {
    /// The image.
    pub image: DesiredImage,
    /// The rule that chose the image, for people.
    pub rule: String,
}

/// A tag that a selection would choose, were it not new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTag {
    /// The tag.
    pub tag: ImageRef,
    /// The digest that the tag means now.
    pub digest: BlobDigest,
    /// The time for which the selection wants new tags to be seen.
    pub cooldown: Duration,
}

/// A repository whose tags could not be chosen.
#[derive(Clone, Debug)]
pub struct BlockedSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// The platform that the images were wanted for.
    pub platform: Platform,
    /// The reason why no tag could be chosen.
    pub error: Arc<Error>,
}

/// The catalog's word about one image. Fields are `None` where microsandbox itself pulled the
/// image, unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedImage {
    /// The name of the record.
    pub reference: ImageRef,
    /// The platform that the image was pulled for.
    pub platform: Option<Platform>,
    /// The digest that the tag meant then.
    pub digest: Option<BlobDigest>,
    /// The digest of the manifest.
    pub manifest_digest: Option<BlobDigest>,
    /// The digest of the config.
    pub config_digest: Option<BlobDigest>,
    /// The layers, base first.
    pub layers: Arc<[LayerDescriptor]>,
    /// The documents on the way from the tag to the layers, top first; empty where no owner keeps
    /// the image's blobs.
    pub documents: Arc<[DocumentDescriptor]>,
    /// Everybody who wants the image; empty where only microsandbox does.
    pub owners: BTreeSet<Owner>,
    /// The owners among them that want the layers extracted.
    pub extracted_for: BTreeSet<Owner>,
    /// The owners among them that want the blobs kept.
    pub blobs_kept_for: BTreeSet<Owner>,
    /// The number of earlier digests that owners among them want spared, where they want any.
    pub earlier_for: BTreeMap<Owner, u32>,
    /// The time since when the image is held at its digest, whatever the tag means; `None` if it is
    /// not.
    pub held: Option<Timestamp>,
    /// True if microsandbox's rows are all there and agree with ours, as far as recording the image
    /// again would have them agree.
    pub rows_complete: bool,
    /// The image of which this is only a second name (docker.io for sandboxes.io); `None` for
    /// others.
    pub alias_of: Option<ImageRef>,
    /// The image of which this is the second name, wanted for itself or not, as long as somebody
    /// wants that one: this name stays as long as that one does.
    pub second_name_of: Option<ImageRef>,
    /// The directory of the layers when the image was recorded.
    pub layers_directory: Option<PathBuf>,
    /// True if microsandbox had the image first: forgetting it then leaves microsandbox's rows, and
    /// so the layers, alone.
    pub preexisting: bool,
    /// The time when the image was made, RFC 3339, where its config says so.
    pub created: Option<String>,
    /// The time of the last recording, `YYYY-MM-DD HH:MM:SS` UTC.
    pub modified_at: String,
}

impl RecordedImage {
    /// True if somebody wants the image by this very name, and not only an image of which it is the
    /// second name.
    pub fn is_wanted_for_itself(&self) -> bool {
        self.alias_of.is_none() && !self.owners.is_empty()
    }

    /// The time since when the image is held by this very name. A second name is held only as long
    /// as nobody wants it for itself.
    pub fn held_itself(&self) -> Option<Timestamp> {
        self.held.filter(|_| self.alias_of.is_none())
    }
}
