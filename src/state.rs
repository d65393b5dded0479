//! The data that flows through a run: what is desired, what is observed. No behaviour beyond constructors.

mod layer;
mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, BlobDigest};
use crate::error::Error;
use crate::image_ref::ImageRef;
pub use crate::progress::Action;
pub use layer::{LayerDescriptor, LayerFacts, LayerState, MediaType, size_of_layers};
pub use platform::Platform;

// ----------------------------------------------------------------------------------------------- settings

/// When the registry is asked what a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// On every run.
    #[default]
    Always,
    /// Only if the image is not recorded.
    Missing,
    /// Never: what is not here is blocked.
    Never,
}

/// How the owner and mode of entries are kept for the microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ownership {
    /// In the xattr `user.containers.override_stat`, as containers/storage and libkrun do.
    #[default]
    OverrideStat,
    /// Not at all.
    None,
}

/// What is refused because it is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one uncompressed layer tar.
    pub layer_size: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Bytes of one index, manifest or config.
    pub manifest_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_size: 64 << 30, layer_entries: 4_000_000, manifest_size: 4 << 20 }
    }
}

/// `[settings]` of the images file, complete with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where extracted layers live; `None`: `<home>/layers`. Absolute.
    pub layers: Option<PathBuf>,
    /// The permission bits of that directory, where msb-sync makes it.
    pub layers_mode: u32,
    /// The platform of images that name none.
    pub platform: Platform,
    /// The policy of images that name none.
    pub pull: PullPolicy,
    /// Whether apply also removes what is no longer listed.
    pub prune: bool,
    /// Blobs in flight.
    pub downloads: usize,
    /// watch: how often tags are looked up again.
    pub interval: Duration,
    /// A directory of containerd `hosts.toml` files. Absolute.
    pub hosts_dir: Option<PathBuf>,
    /// How owner and mode are kept.
    pub ownership: Ownership,
    /// What is refused.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layers: None,
            layers_mode: 0o700,
            platform: Platform::of_this_machine(),
            pull: PullPolicy::default(),
            prune: false,
            downloads: 6,
            interval: Duration::from_secs(300),
            hosts_dir: None,
            ownership: Ownership::default(),
            limits: Limits::default(),
        }
    }
}

impl RegistrySettings {
    /// Whether they say how TLS is to be done, so that TLS is wanted.
    pub fn has_tls(&self) -> bool {
        self.ca.is_some() || self.client_cert.is_some() || self.client_key.is_some() || self.insecure
    }
}

/// One mirror of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Base URL, `https://mirror.corp`, without a final slash.
    pub url: String,
    /// Whether it is trusted to say what a tag means.
    pub resolve: bool,
}

/// `[registry."…"]` of the images file, without its images.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// The name that references use.
    pub name: String,
    /// Base URL, without a final slash; `None`: `https://<name>` (plain http on loopback).
    pub endpoint: Option<String>,
    /// Tried first, for bytes.
    pub mirrors: Vec<Mirror>,
    /// PEM file of extra trusted roots. Absolute.
    pub ca: Option<PathBuf>,
    /// PEM file of a client certificate chain. Absolute.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key. Absolute.
    pub client_key: Option<PathBuf>,
    /// Whether certificates are not checked at all.
    pub insecure: bool,
    /// Extra request headers.
    pub headers: Vec<(String, String)>,
    /// User name that goes with the password.
    pub username: Option<String>,
    /// Environment variable that holds the password.
    pub password_env: Option<String>,
    /// File that holds the password. Absolute.
    pub password_file: Option<PathBuf>,
    /// An OCI image layout directory instead of a server. Absolute.
    pub layout: Option<PathBuf>,
}

// ----------------------------------------------------------------------------------------------- images

/// Who wants an image: the absolute path of an images file (symlinks kept), or `pull`.
///
/// Two paths are two owners, whatever their bytes: one that is UTF-8 is held as it is, any other one with its bytes
/// escaped. The text that is held is what the catalog stores; [`Owner`]'s display form is for people and documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub String);

/// What the text of an escaped path begins with. No absolute path begins so.
const ESCAPED_PATH: &str = "bytes:";

impl Owner {
    /// The owner of what `msb-sync pull` brought.
    pub fn pull() -> Self {
        Self("pull".to_owned())
    }

    /// The images file at the absolute `path`.
    pub fn images_file(path: &Path) -> Self {
        if let Some(text) = path.to_str() {
            return Self(text.to_owned());
        }
        let mut text = ESCAPED_PATH.to_owned();
        for chunk in path.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', "\\\\"));
            text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        Self(text)
    }

    /// The path of the images file; `None` for `pull` and for standard input, whose name is `-`.
    pub fn file(&self) -> Option<PathBuf> {
        let path = match self.0.strip_prefix(ESCAPED_PATH) {
            Some(escaped) => unescape(escaped.as_bytes())?,
            None => PathBuf::from(&self.0),
        };
        (path.is_absolute() && path.file_name() != Some("-".as_ref())).then_some(path)
    }
}

/// The path of which this is the escaped form.
fn unescape(escaped: &[u8]) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        let byte;
        (byte, rest) = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?, after)
            }
            _ => (first, after),
        };
        bytes.push(byte);
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.strip_prefix(ESCAPED_PATH).unwrap_or(&self.0))
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The index through which an image was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRecord {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its media type.
    pub media_type: String,
    /// Its annotations, if any.
    pub annotations: BTreeMap<String, String>,
}

/// An image's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRecord {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its media type.
    pub media_type: String,
    /// Its annotations, if any.
    pub annotations: BTreeMap<String, String>,
}

/// An image's config, as far as it is recorded; the catalog keeps it in this form. Lists are `None` where the config
/// has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// Its digest: no part of the kept form, whose reader sets it.
    #[serde(skip, default = "ConfigRecord::no_digest")]
    pub digest: BlobDigest,
    /// Its media type.
    pub media_type: String,
    /// When the image was made, RFC 3339; `None` where the config says nothing usable.
    pub created: Option<String>,
    /// Architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Variant of the architecture.
    pub variant: Option<String>,
    /// `KEY=value` pairs.
    pub env: Option<Vec<String>>,
    /// Default arguments.
    pub cmd: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Program.
    pub entrypoint: Option<Vec<String>>,
    /// Mount points, sorted.
    pub volumes: Option<Vec<String>>,
    /// `80/tcp`, sorted.
    pub exposed_ports: Option<Vec<String>>,
    /// User, `uid[:gid]` or names.
    pub user: Option<String>,
    /// Signal that stops the program.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `layers`.
    pub rootfs_type: String,
    /// The config's `history` array as JSON text, if it has one.
    pub history_json: Option<String>,
}

impl ConfigRecord {
    /// That of nothing, where the config's own is not known.
    pub fn no_digest() -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, b"")
    }
}

/// All that a reference means for a platform: everything but the layers' bytes, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What was asked for.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// What the tag means: the index's digest where there is one, else the manifest's.
    pub digest: BlobDigest,
    /// The outermost index, where there is one.
    pub index: Option<IndexRecord>,
    /// The platform's manifest.
    pub manifest: ManifestRecord,
    /// Its config.
    pub config: ConfigRecord,
    /// Its layers, base first; a layer may occur twice.
    pub layers: Arc<[LayerDescriptor]>,
}

impl ResolvedImage {
    /// Bytes of the layers as fetched, each distinct one once.
    pub fn size(&self) -> u64 {
        size_of_layers(&self.layers)
    }
}

/// What the lockfile says that a reference means for a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedImage {
    /// Which.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// What the tag meant: the index's digest where there is one, else the manifest's.
    pub digest: BlobDigest,
    /// The platform's manifest.
    pub manifest: BlobDigest,
    /// Its layers, base first, without their media types, which no lockfile has.
    pub layers: Arc<[LayerDescriptor]>,
}

impl LockedImage {
    /// What a lockfile keeps of `image`.
    pub fn of(image: &ResolvedImage) -> Self {
        let layers = image.layers.iter();
        Self {
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            digest: image.digest.clone(),
            manifest: image.manifest.digest.clone(),
            layers: layers
                .map(|layer| LayerDescriptor { media_type: MediaType::UNKNOWN, ..layer.clone() })
                .collect(),
        }
    }
}

/// The tags that a moving selection chose when its lockfile was written. It stands for a selection of the same
/// repository, platform and rule; whoever changes one of these asks for another choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// The rule that chose.
    pub rule: TagRule,
    /// The chosen tags, newest first.
    pub tags: Vec<String>,
}

impl LockedSelection {
    /// What a lockfile keeps of `selection`, which chose `tags`.
    pub fn of(selection: &TagSelection, tags: Vec<String>) -> Self {
        Self {
            repository: selection.repository.clone(),
            platform: selection.platform.clone(),
            rule: selection.rule.clone(),
            tags,
        }
    }

    /// Whether it is the choice of `selection`, by the rule that this has now.
    pub fn is_of(&self, selection: &TagSelection) -> bool {
        self.repository == selection.repository
            && self.platform == selection.platform
            && self.rule == selection.rule
    }
}

/// What the catalog says of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedImage {
    /// Under which name.
    pub reference: ImageRef,
    /// For which platform it was pulled; `None` where microsandbox itself pulled it.
    pub platform: Option<Platform>,
    /// What its tag meant then; `None` where microsandbox itself pulled it.
    pub digest: Option<BlobDigest>,
    /// Its manifest; `None` where microsandbox itself pulled it.
    pub manifest_digest: Option<BlobDigest>,
    /// Its config; `None` where microsandbox itself pulled it.
    pub config_digest: Option<BlobDigest>,
    /// Its layers, base first.
    pub layers: Arc<[LayerDescriptor]>,
    /// Who wants it; empty where only microsandbox does.
    pub owners: BTreeSet<Owner>,
    /// Whether microsandbox's rows are all there and agree with ours.
    pub rows_complete: bool,
    /// The image of which this is only a second name (docker.io for sandboxes.io).
    pub alias_of: Option<ImageRef>,
    /// The directory of its layers, as it was when it was recorded; `None` where microsandbox itself pulled it.
    pub layers_directory: Option<PathBuf>,
    /// Whether microsandbox had it first: forgetting it then leaves its rows, and so its layers, alone.
    pub preexisting: bool,
    /// When it was last recorded, `YYYY-MM-DD HH:MM:SS` UTC.
    pub modified_at: String,
}

// ------------------------------------------------------------------------------------ desired and observed

/// One image that an images file, or `pull`, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredImage {
    /// Which.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// The groups it is in, by its own entry or by `[groups]`.
    pub groups: BTreeSet<String>,
    /// What it has to mean, if the lockfile says so.
    pub locked: Option<Arc<LockedImage>>,
}

/// The rule by which a moving selection chooses tags, as the images file writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagRule {
    /// Ranges that `semver::VersionReq` parses, of which a tag's version has to be in one; none: any tag will do.
    pub semver: Vec<String>,
    /// A pattern that `regex` compiles, already anchored as a whole: `^(?:…)$`. What its group `order` matches says
    /// which tag is newer.
    pub matching: Option<String>,
    /// How many, the newest first; `None`: all that fit.
    pub newest: Option<NonZeroUsize>,
}

/// A moving selection of one repository's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// Every group it is in, by its own entry or by `[groups]`, directly or through other groups.
    pub groups: BTreeSet<String>,
    /// Which of its tags.
    pub rule: TagRule,
    /// What it has to mean, newest first, if the lockfile says so.
    pub locked: Option<Vec<Arc<LockedImage>>>,
}

/// What is to be true after the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// On whose behalf.
    pub owner: Owner,
    /// The directory where the layers are to be. Absolute.
    pub layers_directory: PathBuf,
    /// The images, sorted by reference.
    pub images: Vec<DesiredImage>,
    /// Selections of tags: which images they mean is observed ([`Observed::selected`]).
    pub selections: Vec<TagSelection>,
    /// References that the file lists but this run leaves alone (`--group`): never removed. A selection of tags
    /// is there as its repository alone, which stands for all its images.
    pub listed_elsewhere: BTreeSet<ImageRef>,
    /// Whether what the owner no longer lists is removed.
    pub prune: bool,
}

/// What a desired image means now.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// The same as the catalog records.
    AsRecorded,
    /// Something else, or something new.
    Resolved(Arc<ResolvedImage>),
    /// Something else, or something new, that the lockfile names; nobody was asked. What is to be recorded must
    /// be looked up before a plan is executed.
    Locked(Arc<LockedImage>),
    /// It cannot be told.
    Blocked(Arc<Error>),
}

/// An image that a selection of tags chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedImage {
    /// The image.
    pub image: DesiredImage,
    /// By which rule, for people.
    pub rule: String,
}

/// A repository of which the tags could not be chosen.
#[derive(Clone, Debug)]
pub struct BlockedSelection {
    /// The repository alone.
    pub repository: ImageRef,
    /// The platform that the images were wanted for.
    pub platform: Platform,
    /// Why.
    pub error: Arc<Error>,
}

/// What is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What each desired and each selected image means now.
    pub resolutions: BTreeMap<ImageRef, Resolution>,
    /// The images that selections of tags chose and that are not desired by name, sorted by reference.
    pub selected: Vec<SelectedImage>,
    /// Repositories with a selection that could not be carried out, sorted; each once.
    pub blocked_selections: Vec<BlockedSelection>,
    /// Repositories, alone, of which all selections were made from the list of their tags. Of the others with a
    /// selection nothing may be removed: nobody knows what they would have chosen.
    pub decided: BTreeSet<ImageRef>,
    /// What the catalog records under the desired names, for the owner, and of repositories with a selection.
    pub recorded: BTreeMap<ImageRef, RecordedImage>,
    /// The state of every layer of a resolution or a record above.
    pub layers: BTreeMap<BlobDigest, LayerState>,
    /// What the complete layers of resolutions are, for comparison with what the images say of them.
    pub facts: BTreeMap<BlobDigest, LayerFacts>,
    /// Layers that recorded images outside [`Observed::recorded`] need.
    pub needed_elsewhere: BTreeSet<BlobDigest>,
    /// Whether an image failed in an earlier part of this run. Then nothing is to be removed in the rest.
    pub failed: bool,
    /// Layers of images that an earlier part of this run replaced: to be removed, with prune, unless somebody needs
    /// them.
    pub released: BTreeSet<BlobDigest>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_paths_are_two_owners(
            one in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), any::<u8>()], 0..8),
            other in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), any::<u8>()], 0..8),
        ) {
            let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec([b"/", bytes].concat()));
            let (one, other) = (path(&one), path(&other));
            let owners = (Owner::images_file(&one), Owner::images_file(&other));
            prop_assert_eq!(one.as_os_str() == other.as_os_str(), owners.0 == owners.1);
            let file = Some(one.clone()).filter(|path| path.file_name() != Some("-".as_ref()));
            prop_assert_eq!(owners.0.file(), file);
            prop_assert!(owners.0.to_string().starts_with('/'));
            prop_assert_eq!(one.to_str().is_none(), owners.0.0.starts_with(ESCAPED_PATH));
        }
    }

    #[test]
    fn an_owner_that_is_no_file_has_no_path() {
        assert_eq!(Owner::pull().file(), None);
        assert_eq!(Owner("bytes:/a\\x".to_owned()).file(), Some(PathBuf::from("/a\\x")));
    }
}
