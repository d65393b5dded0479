//! What is: what each reference means now, what the catalog records, which layers are complete.
//!
//! Looks only; nothing is written. A lookup that fails is data for its one image ([`Resolution::Blocked`]).

mod selections;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::selections::Repository;
pub(crate) use self::selections::{choose_from_list, two_platforms};

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{Error, RegistryError};
use crate::extract;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::{Lookup, Meaning, Registries};
use crate::state::{
    Desired, DesiredImage, LayerDescriptor, LayerState, LockedImage, Observed, Platform, PullPolicy,
    RecordedImage, Resolution, ResolvedImage,
};
use crate::store;

/// Where to look, and how.
pub struct Observer<'a> {
    /// The registries.
    pub registries: &'a Registries,
    /// The catalog; `None` if there is none yet.
    pub catalog: Option<&'a Catalog>,
    /// The directory of layers.
    pub layers: &'a Path,
    /// Lookups at once.
    pub parallel: usize,
    /// Whether no registry may be asked at all.
    pub offline: bool,
    /// Who listens.
    pub reporter: &'a dyn Reporter,
    /// Ends the lookups early.
    pub cancel: &'a Cancel,
}

/// One lookup.
enum Job<'a> {
    /// An image, and the digest to compare with.
    Image(DesiredImage, Option<BlobDigest>),
    /// An image that does not, or may not, mean that digest any more.
    Moved(DesiredImage, BlobDigest, Meaning),
    /// The tags of a repository.
    Tags(Repository<'a>),
}

/// What the threads of a lookup share.
struct Asker<'a> {
    registries: &'a Registries,
    offline: bool,
}

impl Observer<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// The catalog or the store cannot be read; a registry's failure is no error here.
    pub fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let mut observed = Observed::default();
        self.look_at_catalog(desired, &mut observed)?;
        self.resolve_all(desired, &mut observed);
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        self.look_at_layers(&mut observed)?;
        self.block_repairs(desired, &mut observed);
        Ok(observed)
    }

    /// Looks again at what another process may have changed while this one waited for the lock: the catalog
    /// and the store. What the registries said still holds.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn look_again(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        self.look_at_catalog(desired, observed)?;
        let selected = observed.selected.iter().map(|selected| &selected.image);
        for image in desired.images.iter().chain(selected) {
            let resolution = observed.resolutions.get_mut(&image.reference);
            if let Some(resolution @ Resolution::Locked(_)) = resolution
                && is_as_locked(image, &observed.recorded)
            {
                *resolution = Resolution::AsRecorded;
            }
        }
        self.look_at_layers(observed)
    }

    /// Looks up what the lockfile names and the catalog lacks, by digest, so that it can be recorded. The
    /// registry's word has to be the lockfile's.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn resolve_locked(&self, observed: &mut Observed) -> Result<(), Error> {
        let (mut locked, mut lookups) = (Vec::new(), Vec::new());
        for resolution in observed.resolutions.values() {
            if let Resolution::Locked(image) = resolution {
                locked.push(Arc::clone(image));
                lookups.push(Ask {
                    reference: image.reference.with_digest(&image.digest),
                    platform: image.platform.clone(),
                    known: None,
                });
            }
        }
        for (image, answer) in locked.into_iter().zip(self.look_up(&lookups)) {
            let resolution = match confirm(&image, answer) {
                Ok(resolved) => Resolution::Resolved(Arc::new(resolved)),
                Err(error) => Resolution::Blocked(Arc::new(error)),
            };
            observed.resolutions.insert(image.reference.clone(), resolution);
        }
        if self.cancel.is_cancelled() {
            return Err(Error::Stopped);
        }
        self.look_at_layers(observed)
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
            catalog.layers_needed_outside(&observed.recorded.keys().cloned().collect())?
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
            if states.get(&layer.digest) != Some(&LayerState::Complete) {
                continue;
            }
            let known = File::open(places.record(&layer.digest))
                .ok()
                .and_then(|mut record| extract::read_facts(&mut record))
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
            let why: fn(&str) -> Resolution = if never.contains(reference) {
                never_pulled
            } else if self.offline && !self.registries.is_local(reference) {
                forbidden_offline
            } else {
                continue;
            };
            let complete = |row: &RecordedImage| {
                row.layers
                    .iter()
                    .all(|layer| observed.layers.get(&layer.digest) == Some(&LayerState::Complete))
            };
            if matches!(resolution, Resolution::AsRecorded)
                && !observed.recorded.get(reference).is_some_and(complete)
            {
                *resolution = why("not all of its layers are here");
            }
        }
    }

    fn look_up(&self, lookups: &[Ask]) -> Vec<Result<Lookup, RegistryError>> {
        look_up(self.registries, self.parallel, self.reporter, lookups)
    }

    /// Looks up tag lists and images in a few threads. What a list chooses joins the queue, so that no lookup waits
    /// for a list that it does not need; what has moved joins it too, so that a registry's tags are all asked before
    /// any of them is fetched.
    fn resolve_all(&self, desired: &Desired, observed: &mut Observed) {
        let ask = Asker { registries: self.registries, offline: self.offline };
        let recorded = &observed.recorded;
        let mut resolutions = BTreeMap::new();
        let mut jobs: Vec<(String, Job<'_>)> = Repository::all(desired)
            .into_iter()
            .map(|repository| (repository.name.registry().to_owned(), Job::Tags(repository)))
            .collect();
        let image_job = |image: &DesiredImage, resolutions: &mut BTreeMap<ImageRef, Resolution>| {
            if let Some(resolution) = ask.without_asking(image, recorded) {
                resolutions.insert(image.reference.clone(), resolution);
                return None;
            }
            let known = known_digest(image, recorded);
            ask.registries.announce(&image.reference, known.as_ref());
            Some((image.reference.registry().to_owned(), Job::Image(image.clone(), known)))
        };
        jobs.extend(desired.images.iter().filter_map(|image| image_job(image, &mut resolutions)));
        if jobs.is_empty() {
            observed.resolutions = resolutions;
            return;
        }
        let reporter = self.reporter;
        reporter.report(Event::Resolving { images: jobs.len() });
        let listing = jobs.iter().any(|(_, job)| matches!(job, Job::Tags(_)));
        let threads = if listing { self.parallel } else { self.parallel.min(jobs.len()) };
        let queue = Queue::new(jobs);
        let found = Mutex::new((resolutions, Vec::new()));
        let found = || found.lock().unwrap_or_else(PoisonError::into_inner);
        let settle = |image: &DesiredImage, answer: Result<Lookup, RegistryError>| {
            let resolution = match answer {
                Ok(Lookup::Same) => Resolution::AsRecorded,
                Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(*image)),
                Err(error) => Resolution::Blocked(Arc::new(error.into())),
            };
            found().0.insert(image.reference.clone(), resolution);
            reporter.report(Event::Resolved(image.reference.clone()));
        };
        let work = || {
            while let Some(taken) = queue.next() {
                match &taken.job {
                    Job::Image(image, Some(known)) => match ask.registries.check(&image.reference, known) {
                        Ok(Meaning::Same) => settle(image, Ok(Lookup::Same)),
                        Ok(meaning) => {
                            let job = Job::Moved(image.clone(), known.clone(), meaning);
                            queue.push([(image.reference.registry().to_owned(), job)]);
                        }
                        Err(error) => settle(image, Err(error)),
                    },
                    Job::Image(image, None) => {
                        settle(image, ask.registries.resolve(&image.reference, &image.platform, None));
                    }
                    Job::Moved(image, known, meaning) => {
                        let (reference, platform) = (&image.reference, &image.platform);
                        settle(image, ask.registries.fetch(reference, platform, known, meaning));
                    }
                    Job::Tags(repository) => {
                        let selected = ask.select(repository, recorded);
                        let images = selected.images.iter().map(|selected| &selected.image);
                        let jobs: Vec<_> = {
                            let resolutions = &mut found().0;
                            images.filter_map(|image| image_job(image, resolutions)).collect()
                        };
                        if !jobs.is_empty() {
                            reporter.report(Event::Resolving { images: jobs.len() });
                        }
                        queue.push(jobs);
                        reporter.report(Event::Resolved(repository.name.clone()));
                        found().1.push(selected);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Refused by the system: then there are fewer.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let (resolutions, selections) = std::mem::take(&mut *found());
        observed.resolutions = resolutions;
        for selected in selections {
            if selected.decided {
                observed.decided.insert(selected.repository);
            }
            observed.selected.extend(selected.images);
            observed.blocked_selections.extend(selected.blocked);
        }
        // The threads finish in any order.
        observed.selected.sort_by(|a, b| a.image.reference.cmp(&b.image.reference));
        observed.blocked_selections.sort_by(|a, b| a.repository.cmp(&b.repository));
    }
}

impl Asker<'_> {
    /// What can be said without a request: by the lockfile, or by the pull policy.
    fn without_asking(
        &self,
        image: &DesiredImage,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Option<Resolution> {
        let may_ask = !self.offline || self.registries.is_local(&image.reference);
        if let Some(locked) = &image.locked {
            return Some(if is_as_locked(image, recorded) {
                Resolution::AsRecorded
            } else if image.pull == PullPolicy::Never {
                never_pulled("not here as the lockfile has it")
            } else if may_ask {
                Resolution::Locked(Arc::clone(locked))
            } else {
                forbidden_offline("not here as the lockfile has it")
            });
        }
        let recorded = recorded.get(&image.reference);
        let usable = recorded.is_some_and(|recorded| recorded.platform.as_ref() == Some(&image.platform));
        let complete = usable && recorded.is_some_and(|recorded| recorded.rows_complete);
        match image.pull {
            PullPolicy::Missing | PullPolicy::Never if complete => return Some(Resolution::AsRecorded),
            PullPolicy::Never => return Some(never_pulled("not here")),
            _ => {}
        }
        match (may_ask, complete) {
            (true, _) => None,
            (false, true) => Some(Resolution::AsRecorded),
            (false, false) => Some(forbidden_offline("not here")),
        }
    }
}

fn blocked(message: String, hint: &str) -> Resolution {
    Resolution::Blocked(Arc::new(Error::Usage { message, hint: Some(hint.to_owned()) }))
}

fn never_pulled(why: &str) -> Resolution {
    let hint = "set pull = \"missing\" for this image, or pull it by hand";
    blocked(format!("{why}, and its pull policy is \"never\""), hint)
}

fn forbidden_offline(why: &str) -> Resolution {
    blocked(format!("{why}, and --offline forbids asking its registry"), "run without --offline")
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

/// Asks the registries for all tags of repositories; the answers are in the order of the questions.
pub fn list_tags(
    registries: &Registries,
    parallel: usize,
    reporter: &dyn Reporter,
    repositories: &[ImageRef],
) -> Vec<Result<Vec<String>, RegistryError>> {
    let lane = |repository: &ImageRef| repository.registry().to_owned();
    ask_all(parallel, reporter, repositories, lane, |repository| {
        let answer = registries.tags(repository);
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

/// What the registry has under the locked digest, if that is what the lockfile says.
fn confirm(locked: &LockedImage, answer: Result<Lookup, RegistryError>) -> Result<ResolvedImage, Error> {
    let resolved = match answer {
        Ok(Lookup::Image(image)) => ResolvedImage { reference: locked.reference.clone(), ..*image },
        // Nothing was known, so this does not come; without the image there is nothing to record.
        Ok(Lookup::Same) => {
            let message = format!("{}: its registry did not say what it is", locked.digest);
            return Err(Error::Usage { message, hint: None });
        }
        Err(source) => {
            let (digest, source) = (locked.digest.clone(), Box::new(source));
            return Err(Error::LockedDigest { digest, source });
        }
    };
    let said = LockedImage::of(&resolved);
    let mismatch = |what, expected: String, actual: String| Error::LockMismatch { what, expected, actual };
    if said.digest != locked.digest || said.manifest != locked.manifest {
        return Err(mismatch("manifest", locked.manifest.to_string(), said.manifest.to_string()));
    }
    let count = locked.layers.len().max(said.layers.len());
    let layer = |image: &LockedImage, index: usize| match image.layers.get(index) {
        Some(layer) => format!("{} of {} bytes, {} unpacked", layer.digest, layer.size, layer.diff_id),
        None => "none".to_owned(),
    };
    match (0..count).find(|&index| locked.layers.get(index) != said.layers.get(index)) {
        Some(index) => Err(mismatch("layer", layer(locked, index), layer(&said, index))),
        None => Ok(resolved),
    }
}

/// Whether what is recorded, under all names of the image, is what the lockfile says.
fn is_as_locked(image: &DesiredImage, recorded: &BTreeMap<ImageRef, RecordedImage>) -> bool {
    image.locked.as_ref().is_some_and(|locked| {
        let row = recorded.get(&image.reference);
        known_digest(image, recorded).as_ref() == Some(&locked.digest)
            && row.is_some_and(|row| row.manifest_digest.as_ref() == Some(&locked.manifest))
    })
}

/// The digest to compare with, if what is recorded is good enough to be kept as it is.
fn known_digest(image: &DesiredImage, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Option<BlobDigest> {
    let names = image.reference.recorded_names();
    let rows: Option<Vec<&RecordedImage>> = names.iter().map(|name| recorded.get(name)).collect();
    let rows = rows?;
    let good = rows.iter().all(|row| {
        row.rows_complete && row.platform.as_ref() == Some(&image.platform) && row.digest == rows[0].digest
    });
    if good { rows[0].digest.clone() } else { None }
}
