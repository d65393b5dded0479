//! One run that makes what is as it is wanted, and what it works with once it has locked the home.

use std::collections::BTreeSet;

use super::engines;
use super::lock_home::{lock_home, open_store};
use super::rebind::rebind;
use super::trust::judge;
use crate::catalog::{Catalog, WritableCatalog};
use crate::clock;
use crate::engine::Engines;
use crate::error::Error;
use crate::execute::Executor;
use crate::observe::{Observer, Remembered, SignatureQuestion, Signatures};
use crate::plan::Plan;
use crate::registry::Registries;
use crate::state::{Desired, Hook, Observed, Settings, Verdict};
use crate::store::{self, Blobs, Store};
use crate::sync::session::Session;
use crate::sync::steps::load::Loaded;
use crate::sync::verb_error::VerbError;

/// Everything that a run works with.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) session: &'a Session,
    /// The wishes of the run.
    pub(crate) desired: &'a Desired,
    pub(crate) registries: &'a Registries,
    pub(crate) engines: &'a Engines,
    /// Whoever gives verdicts about signatures.
    pub(crate) signatures: &'a Signatures<'a>,
    pub(crate) settings: &'a Settings,
    /// The hooks that are run after it.
    pub(crate) hooks: &'a [Hook],
    /// The user forbids asking any registry.
    pub(crate) offline: bool,
    /// The images file, if there is one.
    pub(crate) loaded: Option<&'a Loaded>,
}

/// The wishes of a run, with everything that does not come from them.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) session: &'a Session,
    pub(crate) desired: &'a Desired,
    pub(crate) registries: &'a Registries,
    pub(crate) settings: &'a Settings,
    pub(crate) hooks: &'a [Hook],
    pub(crate) offline: bool,
    pub(crate) loaded: Option<&'a Loaded>,
}

impl<'a> Order<'a> {
    /// Makes the order of somebody who names images, whatever an images file lists.
    pub(crate) fn without_file(
        session: &'a Session,
        desired: &'a Desired,
        registries: &'a Registries,
        settings: &'a Settings,
    ) -> Self {
        Self { session, desired, registries, settings, hooks: &[], offline: false, loaded: None }
    }

    /// Lets `work` go on with the run.
    ///
    /// # Errors
    /// Those of `work`; a file that the rules of trust name is missing, or broken.
    pub(crate) fn begin<T>(self, work: impl FnOnce(Run<'_>) -> Result<T, VerbError>) -> Result<T, VerbError> {
        let Self { session, desired, registries, settings, hooks, offline, loaded } = self;
        let judge = judge(&settings.trust)?;
        let signatures = &Signatures::new(&judge, registries, &session.home);
        let engines = &engines::of(session);
        work(Run { session, desired, registries, engines, signatures, settings, hooks, offline, loaded })
    }
}

impl<'a> Run<'a> {
    /// Returns the observer of this run, which reads `catalog`.
    pub(crate) fn observer(&self, catalog: Option<&'a Catalog>) -> Observer<'a> {
        Observer {
            registries: self.registries,
            catalog,
            engines: self.engines,
            signatures: self.signatures,
            remembered: Remembered::new(&self.session.home, self.desired.targets.uses_blobs()),
            blobs: Blobs::of(&self.session.home),
            layers: &self.desired.layers_directory,
            now: clock::now(),
            parallel: self.settings.downloads,
            offline: self.offline,
            locked_too: true,
            reporter: &*self.session.reporter,
            cancel: &self.session.cancel,
        }
    }
}

/// A run inside the lock: the only one that changes catalog and layers.
pub(crate) struct LockedRun<'a> {
    run: Run<'a>,
    pub(crate) catalog: WritableCatalog,
    pub(crate) store: Store,
}

impl<'a> LockedRun<'a> {
    /// Locks home and layers, and finishes or removes what dead runs have left there.
    pub(crate) fn lock(run: Run<'a>) -> Result<Self, VerbError> {
        let (session, layers) = (run.session, &run.desired.layers_directory);
        // The home first: it is nobody else's, whatever the mode of the layers in it.
        let home = lock_home(session)?;
        store::make_unsynced_directory(layers, run.settings.layers_mode, &mut home.unsynced())?;
        let store = open_store(session, &home, layers)?;
        let catalog = WritableCatalog::open(&home)?;
        session.warn_of_left(&store::recover(&store)?.left);
        Ok(Self { run, catalog, store })
    }

    fn observer(&self) -> Observer<'_> {
        self.run.observer(Some(&self.catalog))
    }

    /// Looks again at what whoever had the lock before may have changed, and tells whether that
    /// makes the registries' answers doubtful: then they have to be asked again.
    pub(crate) fn look_again(&self, observed: &mut Observed) -> Result<bool, VerbError> {
        let differ = rebind(self.run.session, &self.store, observed)?;
        Ok(self.observer().look_again(self.run.desired, observed)? || differ)
    }

    /// Observes everything again, the registries' answers too.
    pub(crate) fn observe_again(&self) -> Result<Observed, Error> {
        self.observer().observe(self.run.desired)
    }

    /// Takes layers that nobody has compared with their inventories for damaged ones.
    pub(crate) fn distrust_unbound(&self, observed: &mut Observed) {
        self.observer().distrust_unbound(self.run.desired, observed);
    }

    /// Notes the signatures of new proofs that this run has let go since they were many: one image
    /// at a time. Without theirs a proof still counts, but no bundle carries them.
    pub(crate) fn keep_signatures(&mut self, plan: &Plan) {
        let session = self.run.session;
        let mut seen = BTreeSet::new();
        for image in &plan.images {
            let Some(Verdict::Verified { evidence, is_new: true, .. }) = &image.verdict else { continue };
            let key = (&evidence.digest, &evidence.manifest, &evidence.judged_by);
            if !evidence.candidates.is_empty() || !seen.insert(key) || session.cancel.is_cancelled() {
                continue;
            }
            let asked = SignatureQuestion {
                reference: image.reference.clone(),
                digest: evidence.digest.clone(),
                manifest: evidence.manifest.clone(),
            };
            let reason = match self.run.signatures.whole(&asked) {
                Some(proof) => self.catalog.prove_one(&proof).err().map(|error| error.to_string()),
                None => Some("they cannot be had again".to_owned()),
            };
            if let Some(reason) = reason {
                session.warn(format!(
                    "the signatures of {} are not kept: {reason}; an export will ask for them again",
                    image.reference
                ));
            }
        }
    }

    /// Returns the executor of this run, which begins no more blobs once `begin_no_more` says so.
    pub(crate) fn executor<'e>(&'e mut self, begin_no_more: &'e (dyn Fn() -> bool + Sync)) -> Executor<'e> {
        let Run { session, desired, registries, engines, settings, hooks, .. } = self.run;
        Executor {
            registries,
            store: &self.store,
            catalog: &mut self.catalog,
            engines,
            owner: &desired.owner,
            hooks,
            targets: &desired.targets,
            downloads: settings.downloads,
            jobs: session.jobs(),
            ownership: settings.ownership,
            limits: settings.limits,
            reporter: &*session.reporter,
            cancel: &session.cancel,
            begin_no_more,
        }
    }
}
