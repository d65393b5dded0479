//! Registries: what a reference means now, and the bytes of its layers.
//!
//! Two doors matter, [`Registries::resolve`] (or its two halves, [`Registries::check`] and [`Registries::fetch`]) and
//! [`Registries::blob`]. Behind them: authentication by challenge (`auth`, `credentials`), HTTP with retries, redirects
//! and proxies (`http`, `clock`, `proxy`, `tls`; `failure`, `handshake`, `veil`, `shared`, `outage`), counted pulls
//! (`pulls`), mirrors (`remote`, and
//! `hosts` for containerd's), resumed transfers (`blob`), image layout directories (`layout`), and the reading of
//! hostile documents (`documents`, `config`, `resolve`). A registry is set up when it is first asked for; unused ones
//! cost nothing.
//!
//! Manifests and configs are verified here; a layer's digest is checked by whoever reads the layer.

mod auth;
mod blob;
mod clock;
mod config;
mod credentials;
mod documents;
mod environment;
mod failure;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod handshake;
mod hosts;
mod http;
mod layout;
mod links;
mod names;
mod outage;
mod platforms;
mod proxy;
mod pulls;
mod remote;
mod repository;
mod resolve;
mod rests;
mod secret;
mod shared;
mod tags;
#[cfg(test)]
mod tests;
mod tls;
mod veil;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use self::blob::BlobReader;
use self::blob::Source;
pub use self::environment::Environment;
use self::layout::Layout;
use self::remote::Remote;
pub use self::rests::Rests;
use self::shared::{Shared, lock};
use crate::cancel::Cancel;
use crate::digest::BlobDigest;
use crate::error::RegistryError;
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef, SANDBOXES_REGISTRY};
use crate::progress::Reporter;
use crate::state::{LayerDescriptor, Limits, Platform, RegistrySettings, ResolvedImage};

/// What a run's registries need to know.
pub struct Options {
    /// Those of the images file; others get defaults.
    pub registries: Vec<RegistrySettings>,
    /// A directory of containerd's hosts files, which name more mirrors.
    pub hosts_dir: Option<PathBuf>,
    /// What is refused because it is larger.
    pub limits: Limits,
    /// Connections kept open per host.
    pub max_connections: usize,
    /// Passwords, proxies, where credentials are.
    pub environment: Environment,
    /// Whether what `docker login` and `podman login` stored is used.
    pub stored_logins: bool,
    /// Ends every wait and closes every connection.
    pub cancel: Cancel,
    /// Who hears of retries, mirrors and warnings.
    pub reporter: Arc<dyn Reporter>,
    /// Who asked earlier runs to be left alone.
    pub rests: Rests,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Settings may hold secret headers.
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// What a lookup found.
#[derive(Debug)]
pub enum Lookup {
    /// The reference still means the digest that is known.
    Same,
    /// It means this image.
    Image(Box<ResolvedImage>),
}

/// What a reference means, as far as that can be told without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The digest that is known.
    Same,
    /// Another one.
    Digest(BlobDigest),
    /// It has to be fetched to be known.
    Unsaid,
}

enum Backend {
    Remote(Arc<Remote>),
    Layout(Layout),
}

/// All registries of a run. Shared by threads behind an [`Arc`].
pub struct Registries {
    shared: Arc<Shared>,
    settings: HashMap<String, RegistrySettings>,
    backends: Mutex<HashMap<String, Arc<Backend>>>,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("requests", &self.requests()).finish_non_exhaustive()
    }
}

impl Registries {
    /// Registries that have not been asked anything yet.
    pub fn new(options: Options) -> Self {
        let (shared, registries) = Shared::new(options);
        let settings = registries.into_iter().map(|settings| (settings.name.clone(), settings)).collect();
        Self { shared: Arc::new(shared), settings, backends: Mutex::default() }
    }

    /// What `reference` means for `platform`.
    ///
    /// With `known`, the digest that was recorded, an unchanged tag costs one HEAD and a pinned reference
    /// nothing at all; without it, the tag is fetched at once. Only the digest is compared: whether the record is
    /// for the same platform is for the caller to know.
    ///
    /// # Errors
    /// Any [`RegistryError`]; those worth it have been tried again before.
    pub fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote) => self.shared.veiled(remote.resolve(reference, platform, known)),
            Backend::Layout(layout) => layout.resolve(reference, platform, known),
        }
    }

    /// The first half of [`Registries::resolve`] with a `known` digest: what `reference` means now, by HEAD, which
    /// registries do not count as a pull. Who asks for many does all of these first, so that it is known how many
    /// pulls are to come before the first one.
    ///
    /// # Errors
    /// As for [`Registries::resolve`].
    pub fn check(&self, reference: &ImageRef, known: &BlobDigest) -> Result<Meaning, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote) => self.shared.veiled(remote.check(reference, Some(known))),
            Backend::Layout(_) => Ok(Meaning::Unsaid),
        }
    }

    /// The second half of it, with what the first one found.
    ///
    /// # Errors
    /// As for [`Registries::resolve`].
    pub fn fetch(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: &BlobDigest,
        meaning: &Meaning,
    ) -> Result<Lookup, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote) => {
                self.shared.veiled(remote.fetch(reference, platform, Some(known), meaning))
            }
            Backend::Layout(layout) => layout.resolve(reference, platform, Some(known)),
        }
    }

    /// Takes note that `reference` is going to be resolved, with `known`: where a registry says how many pulls are
    /// left, it is compared with how many are to come.
    pub fn announce(&self, reference: &ImageRef, known: Option<&BlobDigest>) {
        // A registry that cannot be used says so when it is asked.
        if known.is_none()
            && let Ok(backend) = self.backend(reference)
            && let Backend::Remote(remote) = &*backend
        {
            remote.pulls.expect();
        }
    }

    /// The bytes of `layer`, one of `reference`'s, from `offset` on.
    ///
    /// The reader yields at most `layer.size - offset` bytes, resumes broken transfers by itself, and fails if it
    /// cannot get them all. It does not check the digest.
    ///
    /// # Errors
    /// Any [`RegistryError`] before the first byte; later ones come out of the reader, see [`BlobReader::cause`].
    pub fn blob(
        &self,
        reference: &ImageRef,
        layer: &LayerDescriptor,
        offset: u64,
    ) -> Result<BlobReader, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote) => {
                let blob = self.shared.veiled(remote.blob(reference, layer, offset))?;
                Ok(BlobReader(Source::Http(Box::new(blob))))
            }
            Backend::Layout(layout) => layout.blob(layer, offset),
        }
    }

    /// Takes note that `layer` came with another digest than its own, so that no mirror is asked for it again.
    ///
    /// # Errors
    /// Settings of the registry that cannot be used.
    pub fn distrust_mirrors(&self, reference: &ImageRef, layer: &BlobDigest) -> Result<(), RegistryError> {
        if let Backend::Remote(remote) = &*self.backend(reference)? {
            remote.distrust(layer);
        }
        Ok(())
    }

    /// Tells `add` all tags of `reference`'s repository one by one, in no useful order: a list may be too large to be
    /// kept. `begin` makes what they are added to, anew where a mirror fails and another site is asked. A tag may be
    /// told more than once.
    ///
    /// # Errors
    /// Any [`RegistryError`]; a list that could not be read to its end is one.
    pub fn fold_tags<T>(
        &self,
        reference: &ImageRef,
        begin: impl Fn() -> T,
        add: impl Fn(&mut T, &str),
    ) -> Result<T, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote) => self.shared.veiled(remote.fold_tags(reference, begin, add)),
            Backend::Layout(layout) => {
                let mut tags = begin();
                layout.tags(reference, |tag| add(&mut tags, tag))?;
                Ok(tags)
            }
        }
    }

    /// Whether `reference` is in an image layout directory, so that no network is needed for it.
    pub fn is_local(&self, reference: &ImageRef) -> bool {
        self.settings_of(reference.registry()).2.layout.is_some()
    }

    /// Ends all that is under way, and whatever is asked from now on.
    pub fn stop(&self) {
        self.shared.cancel.cancel();
    }

    /// HTTP requests sent so far: those for tokens, to mirrors and to where redirects lead included.
    pub fn requests(&self) -> u64 {
        self.shared.requests()
    }

    /// How long no lookup may end before what is known by then is begun with.
    pub fn lookup_patience(&self) -> Duration {
        self.shared.lookup_patience
    }

    fn backend(&self, reference: &ImageRef) -> Result<Arc<Backend>, RegistryError> {
        let (name, account, settings) = self.settings_of(reference.registry());
        let mut backends = lock(&self.backends);
        if let Some(backend) = backends.get(name) {
            return Ok(Arc::clone(backend));
        }
        let backend = Arc::new(match &settings.layout {
            Some(path) => Backend::Layout(Layout::new(path.clone(), self.shared.limits.manifest_size)),
            None => Backend::Remote(Arc::new(Remote::new(&self.shared, name, account, &settings)?)),
        });
        backends.insert(name.to_owned(), Arc::clone(&backend));
        Ok(backend)
    }

    /// The name, account and settings by which `registry` is reached.
    ///
    /// sandboxes.io is served by docker.io: it shares all of docker.io's settings and tokens, unless the
    /// images file says anything of its own about it.
    fn settings_of<'a>(&self, registry: &'a str) -> (&'a str, &'a str, RegistrySettings) {
        let own = self.settings.get(registry);
        let unset = RegistrySettings { name: registry.to_owned(), ..RegistrySettings::default() };
        if registry != SANDBOXES_REGISTRY {
            return (registry, registry, own.cloned().unwrap_or(unset));
        }
        let hub = self.settings.get(DEFAULT_REGISTRY).cloned();
        let hub =
            hub.unwrap_or_else(|| RegistrySettings { name: DEFAULT_REGISTRY.to_owned(), ..unset.clone() });
        let Some(own) = own.filter(|own| **own != unset) else {
            return (DEFAULT_REGISTRY, DEFAULT_REGISTRY, hub);
        };
        if own.endpoint.is_some() || own.layout.is_some() {
            // Another server: docker.io's credentials are none of its business.
            return (registry, registry, own.clone());
        }
        let mut merged = RegistrySettings { name: own.name.clone(), ..hub };
        if merged.endpoint.is_none() {
            merged.endpoint = Some(remote::DOCKER_HUB.to_owned());
        }
        if own.password_env.is_some() || own.password_file.is_some() || own.username.is_some() {
            merged.username.clone_from(&own.username);
            merged.password_env.clone_from(&own.password_env);
            merged.password_file.clone_from(&own.password_file);
        }
        if !own.mirrors.is_empty() {
            merged.mirrors.clone_from(&own.mirrors);
        }
        if own.ca.is_some() {
            merged.ca.clone_from(&own.ca);
        }
        if own.client_cert.is_some() || own.client_key.is_some() {
            merged.client_cert.clone_from(&own.client_cert);
            merged.client_key.clone_from(&own.client_key);
        }
        if !own.headers.is_empty() {
            merged.headers.clone_from(&own.headers);
        }
        merged.insecure |= own.insecure;
        (registry, DEFAULT_REGISTRY, merged)
    }
}
