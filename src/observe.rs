//! Observing what is: the present meaning of each reference, the records of the catalog, the state
//! of the layers.
//!
//! Looks only; nothing is written. A lookup that fails is data for its one image
//! ([`Resolution::Blocked`]).

mod absent;
mod asker;
mod chooser;
mod contradicted;
mod cooling;
mod known;
mod locked;
mod lookups;
mod remembered;
mod selections;
mod signatures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use self::absent::{Content, Wishes, permission};
pub(crate) use self::asker::AllAnswered;
pub(crate) use self::asker::{Answer, Asker, ImageQuestion, Question};
pub(crate) use self::chooser::{FromList, two_platforms};
pub(crate) use self::cooling::{Cooled, CooledChoice, Digests, News};
use self::known::Known;
use self::lookups::Lookups;
pub(crate) use self::remembered::Remembered;
pub(crate) use self::signatures::{Judged, SignatureQuestion, Signatures};

use jiff::Timestamp;

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::engine::{Engines, Listed};
use crate::error::{Absent, Error, RegistryError};
use crate::extract;
use crate::image_ref::ImageRef;
use crate::progress::Reporter;
use crate::registry::Registries;
use crate::state::{
    AskedNames, Desired, DesiredImage, DocumentDescriptor, EngineName, LayerDescriptor, LayerState,
    LockedImage, Observed, Permission, Resolution,
};
use crate::store::{self, Blobs};
use crate::sys;

/// The number of images whose lookups leave so much behind that giving the memory back is worth the
/// time.
const MANY_LOOKUPS: usize = 1000;

/// The observer: where it looks, and how.
pub(crate) struct Observer<'a> {
    /// The registries.
    pub registries: &'a Registries,
    /// The catalog; `None` if there is none yet.
    pub catalog: Option<&'a Catalog>,
    /// The engines of this machine.
    pub engines: &'a Engines,
    /// The kept blobs.
    pub blobs: Blobs,
    /// The directory of layers.
    pub layers: &'a Path,
    /// Whoever gives verdicts about signatures.
    pub signatures: &'a Signatures<'a>,
    /// The time of the observation.
    pub now: Timestamp,
    /// Whoever knows the meanings of digests that need not be fetched.
    pub remembered: Remembered<'a>,
    /// Lookups at once.
    pub parallel: usize,
    /// The user forbids asking any registry.
    pub offline: bool,
    /// True if images that the lockfile names and the catalog lacks are looked up too, so that they
    /// can be recorded. The registry's word has to be the lockfile's.
    pub locked_too: bool,
    /// The listener.
    pub reporter: &'a dyn Reporter,
    /// The switch that ends the lookups early.
    pub cancel: &'a Cancel,
}

impl Observer<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// The catalog or the store cannot be read; a registry's failure is no error here.
    pub(crate) fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let mut observed = Observed { now: self.now, ..Observed::default() };
        self.look_at_catalog(desired, &mut observed)?;
        observed.engines = self.listings(desired, &observed);
        let known = self.lookups(desired, &observed).run(desired, None);
        known.into_observed(&mut observed);
        self.give_memory_back(desired, &observed);
        self.look_at_what_is_known(desired, observed)
    }

    /// Observes like [`Observer::observe`], but while lookups stall, calls `on_part` on this thread
    /// with everything resolved so far, each time that it has become more: the part of the wishes
    /// that is resolved, what was observed of it, and a way to find out whether all lookups have
    /// ended meanwhile.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub(crate) fn observe_in_parts(
        &self,
        desired: &Desired,
        on_part: &mut dyn FnMut(&Desired, Observed, AllAnswered<'_>),
    ) -> Result<Observed, Error> {
        let mut observed = Observed { now: self.now, ..Observed::default() };
        self.look_at_catalog(desired, &mut observed)?;
        // A part of the run needs the listings too.
        observed.engines = self.listings(desired, &observed);
        let mut listener = |known: &Known, all_answered: AllAnswered<'_>| {
            let (desired, observed) = known.part_of(desired, &observed);
            // Files that cannot be looked at now end the run when all is known.
            if let Ok(observed) = self.look_at_what_is_known(&desired, observed) {
                on_part(&desired, observed, all_answered);
            }
        };
        let known = self.lookups(desired, &observed).run(desired, Some(&mut listener));
        known.into_observed(&mut observed);
        self.give_memory_back(desired, &observed);
        self.look_at_what_is_known(desired, observed)
    }

    /// Asks the engines for the images, and for what they have been given.
    fn listings(&self, desired: &Desired, observed: &Observed) -> BTreeMap<EngineName, Listed> {
        let mut asked = asked_names(desired);
        asked.names.extend(observed.loaded.iter().map(|row| row.name.clone()));
        self.engines.listings(&desired.targets.engines, &asked)
    }

    fn lookups<'l>(&'l self, desired: &'l Desired, observed: &'l Observed) -> Lookups<'l> {
        Lookups {
            registries: self.registries,
            signatures: self.signatures,
            remembered: &self.remembered,
            offline: self.offline,
            parallel: self.parallel,
            reporter: self.reporter,
            desired,
            observed,
            wishes: Wishes::of(desired, observed),
            locked_too: self.locked_too,
        }
    }

    /// Gives back the memory that lookups took and nobody needs any more, where they were many.
    fn give_memory_back(&self, desired: &Desired, observed: &Observed) {
        if observed.resolutions.len() >= MANY_LOOKUPS {
            if !desired.targets.uses_blobs() {
                self.registries.forget_documents();
            }
            sys::give_memory_back();
        }
    }

    fn look_at_what_is_known(&self, desired: &Desired, mut observed: Observed) -> Result<Observed, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        self.look_at_layers(desired, &mut observed)?;
        self.look_at_blobs(desired, &mut observed);
        contradicted::look_into_blobs(desired, &mut observed, (self.catalog, &self.blobs), self.cancel)?;
        self.block_absent(desired, &mut observed);
        Ok(observed)
    }

    /// Looks again at what another process may have changed while this one waited for the lock: the
    /// catalog and the store. Whether what is recorded of the images was changed: then what the
    /// registries said before the wait may not hold any more, or not be enough for an engine that
    /// lost an image meanwhile.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub(crate) fn look_again(&self, desired: &Desired, observed: &mut Observed) -> Result<bool, Error> {
        let before = std::mem::take(&mut observed.recorded);
        let loaded_before = std::mem::take(&mut observed.loaded);
        self.look_at_catalog(desired, observed)?;
        self.look_at_layers(desired, observed)?;
        self.look_at_blobs(desired, observed);
        contradicted::look_into_blobs(desired, observed, (self.catalog, &self.blobs), self.cancel)?;
        let is_loaded_anew = observed.loaded != loaded_before;
        if is_loaded_anew {
            observed.engines = self.listings(desired, observed);
        }
        let selected = observed.selected.iter().map(|selected| &selected.image);
        let names = desired.images.iter().chain(selected).flat_map(|image| image.reference.recorded_names());
        let differs = |name: &ImageRef| before.get(name) != observed.recorded.get(name);
        Ok(is_loaded_anew && !desired.targets.keeps_blobs || names.into_iter().any(|name| differs(&name)))
    }

    /// Takes the layers that are still to be compared for damaged ones, under the lock: whoever put
    /// them there did so after the others were compared.
    pub(crate) fn distrust_unbound(&self, desired: &Desired, observed: &mut Observed) {
        let unbound = observed.layers.values_mut().filter(|state| **state == LayerState::Unbound);
        let mut any = false;
        for state in unbound {
            (*state, any) = (LayerState::Untrusted, true);
        }
        if any {
            self.block_absent(desired, observed);
        }
    }

    fn look_at_catalog(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        observed.recorded.clear();
        let Some(catalog) = self.catalog else { return Ok(()) };
        let names: Vec<ImageRef> =
            desired.images.iter().flat_map(|image| image.reference.recorded_names()).collect();
        // Any tag of a repository with a selection may be chosen.
        let repositories: BTreeSet<ImageRef> =
            desired.selections.iter().flat_map(|selection| selection.repository.recorded_names()).collect();
        let rows = catalog.recorded_or_owned(&names, &repositories, &desired.owner)?;
        observed.recorded = rows.into_iter().map(|row| (row.reference.clone(), row)).collect();
        observed.candidates = catalog.candidates()?;
        observed.loaded = catalog.loaded_among(&desired.owner, &asked_names(desired))?;
        let staged = catalog.staged(self.now)?.into_iter();
        observed.staged = staged.map(|staged| ((staged.reference, staged.platform), staged.digest)).collect();
        observed.needed_elsewhere = if desired.prune {
            let inside = observed.recorded.keys().cloned().collect();
            catalog.layers_needed_outside(&inside)?
        } else {
            BTreeSet::new()
        };
        Ok(())
    }

    /// Finds out which blobs of the images are kept, where the run has to do with blobs.
    fn look_at_blobs(&self, desired: &Desired, observed: &mut Observed) {
        observed.blobs.clear();
        if !desired.targets.uses_blobs() && desired.targets.extracts && !self.blobs.is_there() {
            return;
        }
        let mut kept = BTreeSet::new();
        let mut look = |digest: &BlobDigest, size: u64| {
            if !kept.contains(digest) && self.blobs.has(digest, size) {
                kept.insert(digest.clone());
            }
        };
        let mut look_at_all = |documents: &[DocumentDescriptor], layers: &[LayerDescriptor]| {
            for document in documents {
                look(&document.digest, document.size);
            }
            for layer in layers {
                look(&layer.digest, layer.size);
            }
        };
        for row in observed.recorded.values() {
            look_at_all(&row.documents, &row.layers);
        }
        for resolution in observed.resolutions.values() {
            match resolution {
                Resolution::Resolved(image) => look_at_all(&image.documents, &image.layers),
                Resolution::Locked(image) => look_at_all(&[], &image.layers),
                Resolution::AsRecorded | Resolution::Blocked(_) => {}
            }
        }
        observed.blobs = kept;
    }

    /// Finds out which layers of what references meant before are here, of runs that remove.
    fn look_at_earlier(
        &self,
        desired: &Desired,
        observed: &mut Observed,
        state: &dyn Fn(&BlobDigest) -> Result<LayerState, Error>,
    ) -> Result<(), Error> {
        observed.earlier.clear();
        let Some(catalog) = self.catalog.filter(|_| desired.prune) else { return Ok(()) };
        for reference in catalog.with_past()? {
            let Some(row) = observed.recorded.get(&reference) else { continue };
            let most = row.earlier_for.values().copied().max().unwrap_or_default();
            let most = usize::try_from(most.max(desired.targets.keeps_earlier)).unwrap_or(usize::MAX);
            let mut earlier = Vec::new();
            for mut image in catalog.earlier(&reference)? {
                for digest in std::mem::take(&mut image.layers) {
                    let is_here = state(&digest.0)?;
                    if is_here != LayerState::Missing {
                        observed.layers.entry(digest.0.clone()).or_insert(is_here);
                        image.layers.extend([digest]);
                    }
                }
                // Very many may be remembered of which nothing is here.
                if earlier.len() <= most || !image.layers.is_empty() {
                    earlier.push(image);
                }
            }
            observed.earlier.insert(reference, earlier);
        }
        Ok(())
    }

    fn look_at_layers(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        if !desired.targets.extracts {
            return Ok(());
        }
        let recorded = observed.recorded.values().flat_map(|row| &*row.layers);
        let resolved: Vec<&LayerDescriptor> = observed
            .resolutions
            .values()
            .filter_map(|resolution| match resolution {
                Resolution::Resolved(image) => Some(&*image.layers),
                Resolution::Locked(image) => Some(&*image.layers),
                Resolution::AsRecorded | Resolution::Blocked(_) => None,
            })
            .flatten()
            .collect();
        let recorded: BTreeSet<&BlobDigest> = recorded.map(|layer| &layer.digest).collect();
        let mut digests: Vec<&BlobDigest> = resolved.iter().map(|layer| &layer.digest).collect();
        digests.extend(&recorded);
        digests.sort_unstable();
        digests.dedup();
        let places = store::Places::of(self.layers);
        let located = places.locate()?;
        let mut states = BTreeMap::new();
        for digest in digests {
            let state = located.state(digest)?;
            // A new image may have very many layers of which none is here.
            if state != LayerState::Missing || recorded.contains(digest) {
                states.insert(digest.clone(), state);
            }
        }
        let mut facts = BTreeMap::new();
        for layer in resolved {
            if !states.get(&layer.digest).is_some_and(|state| state.is_here()) {
                continue;
            }
            let known = located
                .open_inventory(&layer.digest)
                .ok()
                .and_then(|mut inventory| extract::read_facts(&mut inventory))
                .filter(|facts| facts.diff_id.algorithm() == layer.diff_id.algorithm());
            match known {
                Some(known) => {
                    facts.insert(layer.digest.clone(), known);
                }
                // A layer that cannot be compared with the image's word is fetched and compared.
                None => {
                    states.insert(layer.digest.clone(), LayerState::Untrusted);
                }
            }
        }
        (observed.layers, observed.facts) = (states, facts);
        self.look_at_earlier(desired, observed, &|digest| Ok(located.state(digest)?))
    }

    /// Returns the error of a locked image that nobody has looked up yet, if a bundle lacks the
    /// documents that its digest leads to; a meaning that is remembered needs no bundle.
    fn lacks_manifest(&self, wanted: &DesiredImage, locked: &LockedImage) -> Option<RegistryError> {
        let lacks = [&locked.digest, &locked.manifest]
            .into_iter()
            .find_map(|digest| self.registries.lacks("manifest", digest))?;
        let is_remembered = self.remembered.locked(wanted, locked).is_some();
        (!is_remembered).then_some(lacks)
    }

    /// Blocks images of which something is needed that cannot be had: with their registry not to be
    /// asked, a repair; with a bundle, what it lacks.
    fn block_absent(&self, desired: &Desired, observed: &mut Observed) {
        let wanted = desired.images.iter().chain(observed.selected.iter().map(|selected| &selected.image));
        let permissions = wanted
            .map(|image| (image.reference.clone(), permission(image, self.offline, self.registries)))
            .filter(|(_, permission)| *permission != Permission::Granted);
        observed.unasked = permissions.collect();
        absent::block(desired, observed, &|wanted, resolution, wishes| {
            let observed = wishes.observed;
            let row = observed.recorded.get(&wanted.reference);
            let content = Content::of(resolution, row);
            // A meaning that is remembered needs no lookup either.
            if let Resolution::AsRecorded | Resolution::Resolved(_) = resolution
                && let Some(permission) = observed.unasked.get(&wanted.reference)
            {
                let blocked =
                    |absent| permission.refusal(absent).map(|error| Resolution::Blocked(Arc::new(error)));
                let Some(content) = content else { return blocked(Absent::Layers) };
                if content.lacks_documents(wishes, wanted) {
                    return blocked(Absent::Documents);
                }
                let is_here =
                    |digest: &BlobDigest| observed.layers.get(digest).is_some_and(|state| state.is_here());
                let mut absent = content.absent(wishes, wanted).peekable();
                absent.peek()?;
                let lacks_blobs = !desired.targets.extracts || absent.all(|(_, digest)| is_here(digest));
                return blocked(if lacks_blobs { Absent::Blobs } else { Absent::Layers });
            }
            let unread = match resolution {
                Resolution::Locked(locked) => self.lacks_manifest(wanted, locked),
                _ => None,
            };
            let content = content?;
            let mut absent = content.absent(wishes, wanted);
            let error =
                unread.or_else(|| absent.find_map(|(what, digest)| self.registries.lacks(what, digest)))?;
            Some(Resolution::Blocked(Arc::new(error.into())))
        });
    }
}

/// Gathers the names by which engines have the images, which a selection may yet choose among all
/// of its repository.
fn asked_names(desired: &Desired) -> AskedNames {
    let mut asked = AskedNames::default();
    for engine in &desired.targets.engines {
        asked.names.extend(desired.images.iter().flat_map(|image| engine.name.names_of(&image.reference)));
    }
    let repositories = desired.selections.iter().flat_map(|selection| selection.repository.recorded_names());
    asked.repositories.extend(repositories.map(|name| name.to_string()));
    asked
}
