//! The settings of the images file and of the machine, complete with defaults.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use super::engine::EngineSettings;
use super::platform::Platform;
use super::trust::TrustPolicy;

/// The policy that says when a registry is asked what a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// The registry is asked on every run.
    #[default]
    Always,
    /// The registry is asked only if the image is not recorded.
    Missing,
    /// The registry is never asked: an image that is not here is blocked.
    Never,
}

/// The way in which the owner and mode of entries are kept for the microVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ownership {
    /// The xattr `user.containers.override_stat` keeps them, as for containers/storage and libkrun.
    #[default]
    OverrideStat,
    /// Nothing keeps them.
    None,
}

/// The sizes beyond which an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of one uncompressed layer tar.
    pub layer_size: u64,
    /// The entries of one layer.
    pub layer_entries: u64,
    /// The bytes of one index, manifest or config.
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
    /// The absolute directory of extracted layers; `None`: `<home>/layers`.
    pub layers: Option<PathBuf>,
    /// The parts that images are to have on this machine.
    pub targets: Targets,
    /// The permission bits of that directory, where msb-sync makes it.
    pub layers_mode: u32,
    /// The platform of images that name none.
    pub platform: Platform,
    /// The platforms that the lockfile has entries for, of images that name none; empty: the one
    /// above.
    pub platforms: Vec<Platform>,
    /// The policy of images that name none.
    pub pull: PullPolicy,
    /// The user asked `apply` to remove images that are not listed any more.
    pub prune: bool,
    /// The number of blobs in flight.
    pub downloads: usize,
    /// The bytes of blobs a second that are read from all registries together.
    pub rate: Option<NonZeroU64>,
    /// The time after which `watch` looks tags up again.
    pub interval: Duration,
    /// The absolute directory of containerd's `hosts.toml` files.
    pub hosts_dir: Option<PathBuf>,
    /// The way in which owner and mode are kept.
    pub ownership: Ownership,
    /// The sizes beyond which an image is refused.
    pub limits: Limits,
    /// The rules that say who has to have signed images.
    pub trust: TrustPolicy,
    /// The time for which a tag's new digest has to be seen before it is taken, for images that
    /// name none.
    pub cooldown: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layers: None,
            targets: Targets::default(),
            layers_mode: 0o700,
            platform: Platform::of_this_machine(),
            platforms: Vec::new(),
            pull: PullPolicy::default(),
            prune: false,
            downloads: 6,
            rate: None,
            interval: Duration::from_secs(300),
            hosts_dir: None,
            ownership: Ownership::default(),
            limits: Limits::default(),
            trust: TrustPolicy::default(),
            cooldown: Duration::ZERO,
        }
    }
}

/// The parts that images are to have on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// True if layers are extracted; false after `layers = false`.
    pub extracts: bool,
    /// True if blobs are kept as they were fetched: where the file says so, or lists an engine and
    /// does not say otherwise.
    pub keeps_blobs: bool,
    /// The earlier digests of each reference that removals spare.
    pub keeps_earlier: u32,
    /// The engines, each once, in the order of [`EngineName::ALL`](super::EngineName::ALL): those
    /// of the file, and the machine's other ones.
    pub engines: Vec<EngineSettings>,
}

impl Targets {
    /// True if blobs are needed as they were fetched, to be kept or to be loaded.
    pub fn uses_blobs(&self) -> bool {
        self.keeps_blobs || !self.engines.is_empty()
    }

    /// Makes the parts of images of a machine with these engines, where nobody says otherwise.
    pub fn with(engines: Vec<EngineSettings>) -> Self {
        Self { extracts: true, keeps_blobs: !engines.is_empty(), keeps_earlier: 0, engines }
    }
}

impl Default for Targets {
    /// Extracted layers alone.
    fn default() -> Self {
        Self { extracts: true, keeps_blobs: false, keeps_earlier: 0, engines: Vec::new() }
    }
}

/// One mirror of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The base URL, `https://mirror.corp`, without a final slash.
    pub url: String,
    /// True if the mirror is trusted to say what a tag means.
    pub resolve: bool,
}

/// `[registry."…"]` of the images file, without its images. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegistrySettings {
    /// The name that references use.
    pub name: String,
    /// The base URL, without a final slash; `None`: `https://<name>` (plain http on loopback).
    pub endpoint: Option<String>,
    /// The mirrors, which are tried first, for bytes.
    pub mirrors: Vec<Mirror>,
    /// The PEM file of extra trusted roots.
    pub ca: Option<PathBuf>,
    /// The PEM file of a client certificate chain.
    pub client_cert: Option<PathBuf>,
    /// The PEM file of the client certificate's key.
    pub client_key: Option<PathBuf>,
    /// The user asked not to check certificates at all.
    pub insecure: bool,
    /// Extra request headers.
    pub headers: Vec<(String, String)>,
    /// The user name that goes with the password.
    pub username: Option<String>,
    /// The environment variable that holds the password.
    pub password_env: Option<String>,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The bytes of blobs a second that are read from this registry and its mirrors.
    pub rate: Option<NonZeroU64>,
    /// An OCI image layout directory instead of a server.
    pub layout: Option<PathBuf>,
}

impl RegistrySettings {
    /// True if the settings say how TLS is to be done, so that TLS is wanted.
    pub fn has_tls(&self) -> bool {
        self.ca.is_some() || self.client_cert.is_some() || self.client_key.is_some() || self.insecure
    }
}
