//! What is: what each reference means now, what the catalog records, which layers are complete.
//!
//! Looks only; nothing is written. A lookup that fails is data for its one image ([`Resolution::Blocked`]).

mod lookups;
mod selections;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use self::lookups::{Known, Lookups, forbidden_offline, never_pulled};
use self::selections::Repository;
pub(crate) use self::selections::{Choices, choose_from_registry, two_platforms};

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{Absent, Error, RegistryError};
use crate::extract;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::{Lookup, Registries};
use crate::state::{
    Desired, LayerDescriptor, LayerState, Observed, Platform, PullPolicy, RecordedImage, Resolution,
    TagSelection,
};
use crate::store;

/// Tells whether all lookups have ended.
pub type Ended<'e> = &'e (dyn Fn() -> bool + Sync);

/// Where to look, and how.
pub struct Observer<'a> {
    /// The registries.
    pub registries: &'a Registries,
    /// The catalog; `None` if there is none yet.
    pub catalog: Option<&'a Catalog>,
    /// The directory of layers.
    pub layers: &'a Path,
    /// The directory of the layers that microsandbox recorded by itself.
    pub default_layers: &'a Path,
    /// Lookups at once.
    pub parallel: usize,
    /// Whether no registry may be asked at all.
    pub offline: bool,
    /// Whether what the lockfile names and the catalog lacks is looked up too, so that it can be recorded. The
    /// registry's word has to be the lockfile's.
    pub locked_too: bool,
    /// Who listens.
    pub reporter: &'a dyn Reporter,
    /// Ends the lookups early.
    pub cancel: &'a Cancel,
}

impl Observer<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// The catalog or the store cannot be read; a registry's failure is no error here.
    pub fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        self.look_at_catalog(desired, &mut observed)?;
        self.lookups(&observed).run(desired, None).into_observed(&mut observed);
        self.look_at_what_is_known(desired, observed)
    }

    /// As [`Observer::observe`]. While some lookups do not end, `part` is told in this thread, each time that it has
    /// become more, what is known by then: the part of what is desired that it is about, what was observed of it, and
    /// how to find out whether all lookups have ended meanwhile.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn observe_in_parts(
        &self,
        desired: &Desired,
        part: &mut dyn FnMut(&Desired, Observed, Ended<'_>),
    ) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        self.look_at_catalog(desired, &mut observed)?;
        let mut listener = |known: &Known, ended: Ended<'_>| {
            let (desired, observed) = known.part_of(desired, &observed);
            // What cannot be looked at now ends the run when all is known.
            if let Ok(observed) = self.look_at_what_is_known(&desired, observed) {
                part(&desired, observed, ended);
            }
        };
        let known = self.lookups(&observed).run(desired, Some(&mut listener));
        known.into_observed(&mut observed);
        self.look_at_what_is_known(desired, observed)
    }

    fn lookups<'l>(&'l self, observed: &'l Observed) -> Lookups<'l> {
        Lookups {
            registries: self.registries,
            offline: self.offline,
            parallel: self.parallel,
            reporter: self.reporter,
            recorded: &observed.recorded,
            locked_too: self.locked_too,
        }
    }

    fn look_at_what_is_known(&self, desired: &Desired, mut observed: Observed) -> Result<Observed, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        self.look_at_layers(&mut observed)?;
        self.block_repairs(desired, &mut observed);
        Ok(observed)
    }

    /// Looks again at what another process may have changed while this one waited for the lock: the catalog
    /// and the store. Whether what is recorded of the images was changed: then what the registries said before the
    /// wait may not hold any more.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn look_again(&self, desired: &Desired, observed: &mut Observed) -> Result<bool, Error> {
        let before = std::mem::take(&mut observed.recorded);
        self.look_at_catalog(desired, observed)?;
        self.look_at_layers(observed)?;
        let selected = observed.selected.iter().map(|selected| &selected.image);
        let names = desired.images.iter().chain(selected).flat_map(|image| image.reference.recorded_names());
        Ok(names.into_iter().any(|name| before.get(&name) != observed.recorded.get(&name)))
    }

    /// Takes the layers that are still to be compared for damaged ones, under the lock: whoever put them there did so
    /// after the others were compared.
    pub fn distrust_unbound(&self, desired: &Desired, observed: &mut Observed) {
        let unbound = observed.layers.values_mut().filter(|state| **state == LayerState::Unbound);
        let mut any = false;
        for state in unbound {
            (*state, any) = (LayerState::Untrusted, true);
        }
        if any {
            self.block_repairs(desired, observed);
        }
    }

    fn look_at_catalog(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        observed.recorded.clear();
        let Some(catalog) = self.catalog else { return Ok(()) };
        let names: Vec<ImageRef> =
            desired.images.iter().flat_map(|image| image.reference.recorded_names()).collect();
        let mut rows = catalog.recorded_or_owned(&names, &desired.owner)?;
        if !desired.selections.is_empty() {
            // Any tag of theirs may be chosen.
            let repositories: BTreeSet<ImageRef> = Repository::all(desired)
                .iter()
                .flat_map(|repository| repository.name.recorded_names())
                .collect();
            let among = |row: &RecordedImage| repositories.contains(&row.reference.repository_alone());
            rows.extend(catalog.all()?.into_iter().filter(among));
        }
        observed.recorded = rows.into_iter().map(|row| (row.reference.clone(), row)).collect();
        observed.needed_elsewhere = if desired.prune {
            let inside = observed.recorded.keys().cloned().collect();
            catalog.layers_needed_in(self.layers, self.default_layers, &inside)?
        } else {
            BTreeSet::new()
        };
        Ok(())
    }

    fn look_at_layers(&self, observed: &mut Observed) -> Result<(), Error> {
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
        let digests: BTreeSet<&BlobDigest> =
            recorded.chain(resolved.iter().copied()).map(|layer| &layer.digest).collect();
        let places = store::Places::of(self.layers);
        let located = places.locate()?;
        let mut states = BTreeMap::new();
        for digest in digests {
            states.insert(digest.clone(), located.state(digest)?);
        }
        let mut facts = BTreeMap::new();
        for layer in resolved {
            if !states.get(&layer.digest).is_some_and(|state| state.is_here()) {
                continue;
            }
            let known = places
                .open_inventory(&layer.digest)
                .ok()
                .and_then(|mut inventory| extract::read_facts(&mut inventory))
                .filter(|facts| facts.diff_id.algorithm() == layer.diff_id.algorithm());
            match known {
                Some(known) => {
                    facts.insert(layer.digest.clone(), known);
                }
                // What cannot be compared with what the image says is fetched and compared.
                None => {
                    states.insert(layer.digest.clone(), LayerState::Untrusted);
                }
            }
        }
        (observed.layers, observed.facts) = (states, facts);
        Ok(())
    }

    /// Without its registry an image cannot be repaired.
    fn block_repairs(&self, desired: &Desired, observed: &mut Observed) {
        let selected = observed.selected.iter().map(|selected| &selected.image);
        let never: BTreeSet<&ImageRef> = desired
            .images
            .iter()
            .chain(selected)
            .filter(|image| image.pull == PullPolicy::Never)
            .map(|image| &image.reference)
            .collect();
        for (reference, resolution) in &mut observed.resolutions {
            let blocked: fn(Absent) -> Resolution = if never.contains(reference) {
                never_pulled
            } else if self.offline && !self.registries.is_local(reference) {
                forbidden_offline
            } else {
                continue;
            };
            let complete = |row: &RecordedImage| {
                // What is to be compared with its inventory needs no registry for that.
                let state = |layer: &LayerDescriptor| observed.layers.get(&layer.digest);
                row.layers.iter().all(|layer| state(layer).is_some_and(|state| state.is_here()))
            };
            if matches!(resolution, Resolution::AsRecorded)
                && !observed.recorded.get(reference).is_some_and(complete)
            {
                *resolution = blocked(Absent::Layers);
            }
        }
    }
}

/// A question to a registry: what `reference` means for `platform`.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which image.
    pub reference: ImageRef,
    /// For which platform.
    pub platform: Platform,
    /// The digest that needs no answer.
    pub known: Option<BlobDigest>,
}

/// Asks the registries what references mean, fairly shared between registries. The answers are in the order of the
/// questions.
pub fn look_up(
    registries: &Registries,
    parallel: usize,
    reporter: &dyn Reporter,
    lookups: &[Ask],
) -> Vec<Result<Lookup, RegistryError>> {
    for Ask { reference, known, .. } in lookups {
        registries.announce(reference, known.as_ref());
    }
    let lane = |ask: &Ask| ask.reference.registry().to_owned();
    ask_all(parallel, reporter, lookups, lane, |Ask { reference, platform, known }| {
        let answer = registries.resolve(reference, platform, known.as_ref());
        reporter.report(Event::Resolved(reference.clone()));
        answer
    })
}

/// Chooses the tags of repositories' selections, each repository's from the list of its registry; the answers are in
/// the order of the questions.
pub(crate) fn choose_tags(
    registries: &Registries,
    parallel: usize,
    reporter: &dyn Reporter,
    repositories: &[(ImageRef, Vec<&TagSelection>)],
) -> Vec<Result<Choices, RegistryError>> {
    let lane = |(repository, _): &(ImageRef, Vec<&TagSelection>)| repository.registry().to_owned();
    ask_all(parallel, reporter, repositories, lane, |(repository, selections)| {
        let answer = choose_from_registry(registries, repository, selections);
        reporter.report(Event::Resolved(repository.clone()));
        answer
    })
}

/// Asks in up to `parallel` threads, which the questions' lanes share.
fn ask_all<Q: Sync, A: Send>(
    parallel: usize,
    reporter: &dyn Reporter,
    questions: &[Q],
    lane: impl Fn(&Q) -> String,
    ask: impl Fn(&Q) -> A + Sync,
) -> Vec<A> {
    if questions.is_empty() {
        return Vec::new();
    }
    reporter.report(Event::Resolving { images: questions.len() });
    let queue =
        Queue::new(questions.iter().enumerate().map(|(index, question)| (lane(question), (index, question))));
    let answers = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(taken) = queue.next() {
            let (index, question) = taken.job;
            let answer = ask(question);
            answers.lock().unwrap_or_else(PoisonError::into_inner).insert(index, answer);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parallel.min(questions.len()) {
            // Refused by the system: then there are fewer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}
