//! Registries: what a reference means now, and the bytes of its layers.
//!
//! Three doors matter, [`Registries::resolve`] (or its two halves, [`Registries::check`] and
//! [`Registries::fetch`]), [`Registries::referrers`] and [`Registries::blob`]. The wing behind them
//! reads bottom up, and each room of it uses only those before it:
//!
//! | room | what lives there |
//! |---|---|
//! | `pace/` | the rate at which blobs are read, where one is set |
//! | `transport/` | one request and its answer, whatever lies between |
//! | `auth/` | challenges, credentials, and the tokens that they buy |
//! | `sites/` | one registry's endpoint and mirrors, and what is remembered of them |
//! | `documents/` | what a reference means: indexes, manifests, configs, platforms, tags |
//! | `referrers/` | what refers to an image: candidates for its signature |
//! | `blob/` | a layer's bytes, resumed where transfers break |
//! | `layout/` | an image layout, a directory or a bundle, instead of a server |
//! | `settings` | the settings by which a registry is reached |
//!
//! A registry is set up when it is first asked for; unused ones cost nothing. Manifests and configs
//! are verified here; a layer's digest is checked by whoever reads the layer.

mod auth;
mod blob;
mod documents;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod layout;
mod pace;
mod referrers;
mod settings;
mod sites;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

pub(crate) use self::blob::BlobReader;
use self::documents::{DocumentKind, Documents as _};
pub(crate) use self::documents::{Lookup, Meaning};
use self::layout::Layout;
use self::pace::Paces;
use self::referrers::{Asked, Hearing};
use self::settings::{SettingsByName, Way};
pub use self::sites::Rests;
use self::sites::{Held, Remote, Terms};
pub use self::transport::Environment;
use self::transport::{LOOKUP_PATIENCE, Network, Portions};
use crate::cancel::Cancel;
use crate::digest::BlobDigest;
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::progress::{Reporter, RequestDetail};
use crate::state::{
    Candidate, DocumentDescriptor, DocumentRole, LayerDescriptor, Limits, Platform, RegistrySettings,
    SignaturePlace,
};
use crate::threads::lock;

/// The things that a run's registries need to know.
pub(crate) struct Options {
    /// The settings of the images file; other registries get defaults.
    pub registries: Vec<RegistrySettings>,
    /// A directory of containerd's hosts files, which name more mirrors.
    pub hosts_dir: Option<PathBuf>,
    /// The bytes of blobs a second, of all registries together.
    pub rate: Option<NonZeroU64>,
    /// The sizes beyond which documents are refused.
    pub limits: Limits,
    /// The number of connections kept open per host.
    pub max_connections: usize,
    /// The environment: passwords, proxies, places of credentials.
    pub environment: Environment,
    /// True if logins that `docker login` and `podman login` stored are used.
    pub stored_logins: bool,
    /// The switch that ends every wait and closes every connection.
    pub cancel: Cancel,
    /// The listener for retries, mirrors and warnings.
    pub reporter: Arc<dyn Reporter>,
    /// The extent of what it hears of requests.
    pub requests: RequestDetail,
    /// The addresses that asked earlier runs to be left alone.
    pub rests: Rests,
    /// A bundle that stands for all registries.
    pub bundle: Option<PathBuf>,
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

enum Backend {
    /// Servers, and what they were asked for.
    Remote(Arc<Remote>, Asked),
    Layout(Layout),
}

/// All registries of a run. Shared by threads behind an [`Arc`].
pub(crate) struct Registries {
    network: Arc<Network>,
    terms: Terms,
    lookup_patience: Duration,
    settings: SettingsByName,
    backends: Mutex<HashMap<String, Arc<Backend>>>,
    /// The bundle that is asked in place of any registry.
    bundle: Option<Arc<Backend>>,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registries").field("requests", &self.requests()).finish_non_exhaustive()
    }
}

impl Registries {
    /// Makes registries that have not been asked anything yet.
    ///
    /// # Errors
    /// The bundle cannot be used.
    pub(crate) fn new(options: Options) -> Result<Self, RegistryError> {
        let Options {
            registries,
            hosts_dir,
            rate,
            limits,
            max_connections,
            environment,
            stored_logins,
            cancel,
            reporter,
            requests,
            rests,
            bundle,
        } = options;
        let network = Network::new(environment, max_connections, cancel, reporter).telling(requests);
        let lookup_patience = network.environment.lookup_patience().unwrap_or_else(|warning| {
            network.warn(warning);
            LOOKUP_PATIENCE
        });
        let manifest_size = limits.manifest_size;
        let single = registries.iter().filter_map(|own| Some((own.name.as_str(), own.rate?)));
        let paces = Arc::new(Paces::new(rate, single));
        let portions = Portions::new(network.cancel.clone());
        let bundle = bundle.map(|path| Layout::bundle(&path, manifest_size, &portions)).transpose()?;
        let documents = Arc::default();
        Ok(Self {
            network: Arc::new(network),
            terms: Terms {
                hosts_dir,
                hosts_dir_missing: Once::new(),
                stored_logins,
                rests,
                manifest_size,
                paces,
                documents,
                portions,
            },
            lookup_patience,
            settings: SettingsByName::new(registries),
            backends: Mutex::default(),
            bundle: bundle.map(|bundle| Arc::new(Backend::Layout(bundle))),
        })
    }

    /// Finds out what `reference` means for `platform`.
    ///
    /// With `known`, the digest that was recorded, an unchanged tag costs one HEAD and a pinned
    /// reference nothing at all; without it, the tag is fetched at once. Only the digest is
    /// compared: whether the record is for the same platform is for the caller to know.
    ///
    /// # Errors
    /// Any [`RegistryError`]; those worth another try have been tried again before.
    pub(crate) fn resolve(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: Option<&BlobDigest>,
    ) -> Result<Lookup, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => {
                self.network.veiled(documents::resolve(remote, reference, platform, known))
            }
            Backend::Layout(layout) => layout.resolve(reference, platform, known),
        }
    }

    /// Does the first half of [`Registries::resolve`] with a `known` digest: asks what `reference`
    /// means now, by HEAD, which registries do not count as a pull. A caller that asks for many
    /// does all of these first, so that it is known how many pulls are to come before the first
    /// one.
    ///
    /// # Errors
    /// Those of [`Registries::resolve`].
    pub(crate) fn check(&self, reference: &ImageRef, known: &BlobDigest) -> Result<Meaning, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => {
                self.network.veiled(documents::check(remote, reference, Some(known)))
            }
            Backend::Layout(_) => Ok(Meaning::Unsaid),
        }
    }

    /// Does the second half of [`Registries::resolve`], with the result of the first one.
    ///
    /// # Errors
    /// Those of [`Registries::resolve`].
    pub(crate) fn fetch(
        &self,
        reference: &ImageRef,
        platform: &Platform,
        known: &BlobDigest,
        meaning: &Meaning,
    ) -> Result<Lookup, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => {
                self.network.veiled(documents::fetch(remote, reference, platform, Some(known), meaning))
            }
            Backend::Layout(layout) => layout.resolve(reference, platform, Some(known)),
        }
    }

    /// Takes note that the second half of a lookup does not come, though the first one found
    /// another digest.
    pub(crate) fn fetch_not(&self, reference: &ImageRef) {
        if let Ok(backend) = self.backend(reference)
            && let Backend::Remote(remote, _) = &*backend
        {
            remote.pulls.settle();
        }
    }

    /// Takes note that `reference` is going to be resolved, with `known`: where a registry says how
    /// many pulls are left, that number is compared with how many are to come.
    pub(crate) fn announce(&self, reference: &ImageRef, known: Option<&BlobDigest>) {
        // A registry that cannot be used says so when it is asked.
        if known.is_none()
            && let Ok(backend) = self.backend(reference)
            && let Backend::Remote(remote, _) = &*backend
        {
            remote.pulls.expect();
        }
    }

    /// Opens the bytes of `layer`, one of `reference`'s, from `offset` on.
    ///
    /// The reader yields at most `layer.size - offset` bytes, at the rate that is set, resumes broken
    /// transfers by itself, and fails if it cannot get them all. It does not check the digest.
    ///
    /// # Errors
    /// Any [`RegistryError`] before the first byte; later ones come out of the reader, see
    /// [`BlobReader::cause`].
    pub(crate) fn blob(
        &self,
        reference: &ImageRef,
        layer: &LayerDescriptor,
        offset: u64,
    ) -> Result<BlobReader, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => BlobReader::open(remote, reference.repository(), layer, offset),
            Backend::Layout(layout) => layout.blob(layer, offset),
        }
    }

    /// Returns one document of `reference` as it was served, verified: a moment after the lookup
    /// from memory, else by one more request.
    ///
    /// # Errors
    /// Any [`RegistryError`].
    pub(crate) fn document(
        &self,
        reference: &ImageRef,
        document: &DocumentDescriptor,
    ) -> Result<Held, RegistryError> {
        let kind = match document.role {
            DocumentRole::Index | DocumentRole::Manifest => DocumentKind::Manifest,
            DocumentRole::Config => DocumentKind::Config,
        };
        self.read(reference, kind, &document.digest, Some(document.size))
    }

    /// Tells `hear` the candidates for a signature of the index or manifest `subject`, one of
    /// `reference`'s: layers of the artifacts that refer to it and are kept at `place`, in the
    /// order in which they are listed. The first 32 count, and none of more than 4 MiB; each
    /// candidate's bytes have their digests. A break ends the question.
    ///
    /// Nothing at all is heard where there is nothing. A mirror may serve what it has; what is
    /// absent, and what cannot be had, is the endpoint's word alone.
    ///
    /// # Errors
    /// Any [`RegistryError`], unless `hear` has broken off: candidates may be missing.
    pub(crate) fn referrers(
        &self,
        reference: &ImageRef,
        subject: &BlobDigest,
        place: SignaturePlace,
        hear: &mut dyn FnMut(Candidate) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, asked) => {
                let hearing = Hearing::new(subject, place, hear, &asked.turn);
                self.network.veiled(referrers::ask(remote, asked, reference.repository(), hearing))
            }
            Backend::Layout(layout) => layout.referrers(reference, subject, place, hear),
        }
    }

    /// Fetches the config of an accepted candidate's artifact, so that an export can carry it. The
    /// empty one is known without a request.
    ///
    /// # Errors
    /// Any [`RegistryError`].
    pub(crate) fn complete(
        &self,
        reference: &ImageRef,
        candidate: &mut Candidate,
    ) -> Result<(), RegistryError> {
        if candidate.config.is_some() {
            return Ok(());
        }
        let config = referrers::config_of(&candidate.manifest).map_err(|reason| RegistryError::Document {
            what: format!("manifest {}", candidate.digest),
            host: reference.registry().to_owned(),
            reason,
        })?;
        candidate.config = match config {
            None => None,
            Some((digest, _)) if referrers::is_empty_config(&digest) => {
                Some(referrers::EMPTY_CONFIG.to_vec())
            }
            Some((digest, size)) => {
                Some(self.read(reference, DocumentKind::Config, &digest, Some(size))?.into_bytes())
            }
        };
        Ok(())
    }

    /// Returns the bytes of the index or manifest `digest` of `reference`'s repository, verified:
    /// a moment after the lookup from memory, else by one more request.
    ///
    /// # Errors
    /// Any [`RegistryError`].
    pub(crate) fn message(
        &self,
        reference: &ImageRef,
        digest: &BlobDigest,
    ) -> Result<Vec<u8>, RegistryError> {
        Ok(self.read(reference, DocumentKind::Manifest, digest, None)?.into_bytes())
    }

    fn read(
        &self,
        reference: &ImageRef,
        kind: DocumentKind,
        digest: &BlobDigest,
        size: Option<u64>,
    ) -> Result<Held, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => {
                self.network.veiled(documents::read(remote, reference.repository(), kind, digest, size))
            }
            Backend::Layout(layout) => layout.document(kind, digest, size),
        }
    }

    /// Takes note that `layer` came with another digest than its own, so that no mirror is asked
    /// for it again.
    ///
    /// # Errors
    /// Settings of the registry that cannot be used.
    pub(crate) fn distrust_mirrors(
        &self,
        reference: &ImageRef,
        layer: &BlobDigest,
    ) -> Result<(), RegistryError> {
        if let Backend::Remote(remote, _) = &*self.backend(reference)? {
            remote.distrust(layer);
        }
        Ok(())
    }

    /// Tells `add` all tags of `reference`'s repository one by one, in no useful order: a list may
    /// be too large to be kept. `begin` makes the value they are added to, anew where a mirror
    /// fails and another site is asked. A tag may be told more than once.
    ///
    /// # Errors
    /// Any [`RegistryError`]; a list that could not be read to its end is one.
    pub(crate) fn fold_tags<T>(
        &self,
        reference: &ImageRef,
        begin: impl Fn() -> T,
        add: impl Fn(&mut T, &str),
    ) -> Result<T, RegistryError> {
        match &*self.backend(reference)? {
            Backend::Remote(remote, _) => {
                self.network.veiled(documents::fold_tags(remote, reference, begin, add))
            }
            Backend::Layout(layout) => {
                let mut tags = begin();
                layout.tags(reference, |tag| add(&mut tags, tag))?;
                Ok(tags)
            }
        }
    }

    /// Returns the error of the blob `digest`, which is a `what`, if a bundle stands for all
    /// registries and lacks it.
    pub(crate) fn lacks(&self, what: &str, digest: &BlobDigest) -> Option<RegistryError> {
        match self.bundle.as_deref()? {
            Backend::Layout(bundle) => bundle.lacks(what, digest),
            Backend::Remote(..) => None,
        }
    }

    /// True if a bundle stands for all registries.
    pub(crate) fn are_a_bundle(&self) -> bool {
        self.bundle.is_some()
    }

    /// Tells whether `reference` is in an image layout, so that no network is needed for it.
    pub(crate) fn is_local(&self, reference: &ImageRef) -> bool {
        self.are_a_bundle() || self.settings.of(reference.registry()).settings.layout.is_some()
    }

    /// Ends all that is under way, and whatever is asked from now on.
    pub(crate) fn stop(&self) {
        self.network.cancel.cancel();
    }

    /// Returns the number of HTTP requests sent so far: those for tokens, to mirrors and to where
    /// redirects lead included.
    pub(crate) fn requests(&self) -> u64 {
        self.network.requests()
    }

    /// Returns the time after which what is known is begun with, if no lookup has ended meanwhile.
    pub(crate) fn lookup_patience(&self) -> Duration {
        self.lookup_patience
    }

    /// Names the place that blobs of `reference` come from, for errors: the bundle or the layout, or
    /// the registry.
    pub(crate) fn source_of(&self, reference: &ImageRef) -> String {
        match self.backend(reference).as_deref() {
            Ok(Backend::Layout(layout)) => layout.host(),
            Ok(Backend::Remote(..)) | Err(_) => reference.registry().to_owned(),
        }
    }

    /// Lets go of the documents that images may share, once no lookup is left that would ask for
    /// them again.
    pub(crate) fn forget_documents(&self) {
        for backend in lock(&self.backends).values() {
            if let Backend::Remote(remote, _) = &**backend {
                remote.cache.clear();
            }
        }
    }

    fn backend(&self, reference: &ImageRef) -> Result<Arc<Backend>, RegistryError> {
        if let Some(bundle) = &self.bundle {
            return Ok(Arc::clone(bundle));
        }
        let Way { name, account, settings } = self.settings.of(reference.registry());
        let mut backends = lock(&self.backends);
        if let Some(backend) = backends.get(&name) {
            return Ok(Arc::clone(backend));
        }
        let backend = Arc::new(if let Some(path) = settings.layout {
            Backend::Layout(Layout::new(path, self.terms.manifest_size, &self.terms.portions))
        } else {
            let remote = Remote::new(&self.network, &self.terms, &name, &account, &settings)?;
            Backend::Remote(Arc::new(remote), Asked::default())
        });
        backends.insert(name, Arc::clone(&backend));
        Ok(backend)
    }
}
