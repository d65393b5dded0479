//! What every image of a run means now: all lookups, in a few threads that the registries share.
//!
//! What a list of tags chooses joins the queue, so that no lookup waits for a list that it does not need; what has
//! moved joins it too, so that a registry's tags are all asked before any of them is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use super::Ended;
use super::selections::{Repository, Selected};
use crate::digest::BlobDigest;
use crate::error::{Absent, Defect, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::{Lookup, Meaning, Registries};
use crate::state::{
    Desired, DesiredImage, LayerDescriptor, LockedImage, Observed, PullPolicy, RecordedImage, Resolution,
    ResolvedImage,
};

/// How often a run that waits for lookups looks whether one has ended, at least.
const GLANCE: Duration = Duration::from_millis(250);

/// Who listens to what is known while other lookups do not end, and can ask whether they have meanwhile.
pub(super) type Listener<'l> = &'l mut dyn FnMut(&Known, Ended<'_>);

/// What is looked up, and for whom.
pub(super) struct Lookups<'a> {
    pub(super) registries: &'a Registries,
    pub(super) offline: bool,
    pub(super) parallel: usize,
    pub(super) reporter: &'a dyn Reporter,
    /// What the catalog records.
    pub(super) recorded: &'a BTreeMap<ImageRef, RecordedImage>,
    /// Whether what the lockfile names and the catalog lacks is looked up too.
    pub(super) locked_too: bool,
}

/// What is known by now.
#[derive(Clone, Default)]
pub(super) struct Known {
    resolutions: BTreeMap<ImageRef, Resolution>,
    selections: Vec<Selected>,
}

/// One lookup.
enum Job<'a> {
    /// An image, and the digest to compare with.
    Image(DesiredImage, Option<BlobDigest>),
    /// An image that does not, or may not, mean that digest any more.
    Moved(DesiredImage, BlobDigest, Meaning),
    /// What the lockfile names.
    Locked(Arc<LockedImage>),
    /// The tags of a repository.
    Tags(Repository<'a>),
}

/// What the threads share.
struct Work<'w, 'd> {
    lookups: &'w Lookups<'w>,
    queue: Queue<Job<'d>>,
    known: Mutex<Known>,
    /// How many lookups have ended.
    ended: AtomicUsize,
}

impl Known {
    /// Puts it where the planner looks.
    pub(super) fn into_observed(self, observed: &mut Observed) {
        observed.resolutions = self.resolutions;
        for selected in self.selections {
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

    /// The part of `desired` that this is about, and the same of `observed`; what is not known yet is left alone.
    pub(super) fn part_of(&self, desired: &Desired, recorded: &Observed) -> (Desired, Observed) {
        let mut observed = recorded.clone();
        self.clone().into_observed(&mut observed);
        let mut desired = desired.clone();
        let chosen: BTreeSet<ImageRef> =
            self.selections.iter().map(|selected| selected.repository.clone()).collect();
        let mut awaited = BTreeSet::new();
        let is_known = |reference: &ImageRef| self.resolutions.contains_key(reference);
        desired.images.retain(|image| {
            is_known(&image.reference) || {
                awaited.insert(image.reference.clone());
                false
            }
        });
        observed.selected.retain(|selected| {
            is_known(&selected.image.reference) || {
                awaited.insert(selected.image.reference.clone());
                false
            }
        });
        desired.selections.retain(|selection| {
            chosen.contains(&selection.repository) || {
                awaited.insert(selection.repository.clone());
                false
            }
        });
        desired.listed_elsewhere.extend(awaited);
        (desired, observed)
    }
}

impl Lookups<'_> {
    /// Looks everything up. As long as no lookup ends for some seconds, `listener` is told what is known, each time
    /// that it has become more.
    pub(super) fn run(&self, desired: &Desired, listener: Option<Listener<'_>>) -> Known {
        let mut known = Known::default();
        let mut jobs: Vec<(String, Job<'_>)> = Repository::all(desired)
            .into_iter()
            .map(|repository| (repository.name.registry().to_owned(), Job::Tags(repository)))
            .collect();
        jobs.extend(desired.images.iter().filter_map(|image| self.job(image, &mut known)));
        if jobs.is_empty() {
            return known;
        }
        self.reporter.report(Event::Resolving { images: jobs.len() });
        let listing = jobs.iter().any(|(_, job)| matches!(job, Job::Tags(_)));
        let threads = if listing { self.parallel } else { self.parallel.min(jobs.len()) };
        let work = Work {
            lookups: self,
            queue: Queue::new(jobs),
            known: Mutex::new(known),
            ended: AtomicUsize::new(0),
        };
        let (at_work, at_rest) = bounded::<()>(0);
        std::thread::scope(|scope| {
            // Whoever does not listen works.
            let more = if listener.is_some() { threads } else { threads.saturating_sub(1) };
            let spawn = |_: &usize| {
                let (work, at_work) = (&work, at_work.clone());
                let run = move || {
                    work.run();
                    drop(at_work);
                };
                // Refused by the system: then there are fewer.
                std::thread::Builder::new().spawn_scoped(scope, run).is_ok()
            };
            let started = (0..more).filter(spawn).count();
            match listener {
                Some(listener) if started > 0 => {
                    drop(at_work);
                    work.listen(&at_rest, listener);
                }
                _ => work.run(),
            }
        });
        work.known.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first lookup of an image, in its registry's lane, unless what it means is known without.
    fn job(&self, image: &DesiredImage, known: &mut Known) -> Option<(String, Job<'static>)> {
        let lane = image.reference.registry().to_owned();
        match self.without_asking(image, self.recorded) {
            Some(Resolution::Locked(locked)) if self.locked_too => {
                self.registries.announce(&locked.reference.with_digest(&locked.digest), None);
                Some((lane, Job::Locked(locked)))
            }
            Some(resolution) => {
                known.resolutions.insert(image.reference.clone(), resolution);
                None
            }
            None => {
                let digest = known_digest(image, self.recorded);
                self.registries.announce(&image.reference, digest.as_ref());
                Some((lane, Job::Image(image.clone(), digest)))
            }
        }
    }

    /// What can be said without a request: by the lockfile, or by the pull policy.
    fn without_asking(
        &self,
        image: &DesiredImage,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
    ) -> Option<Resolution> {
        let may_ask = !self.offline || self.registries.is_local(&image.reference);
        if let Some(locked) = &image.locked {
            return Some(if let Some(row) = recorded_as_locked(image, recorded) {
                match other_layer(locked, &row.layers) {
                    None => Resolution::AsRecorded,
                    Some(difference) => {
                        Resolution::Blocked(Arc::new(mismatch("the catalog records", "layer", difference)))
                    }
                }
            } else if image.pull == PullPolicy::Never {
                never_pulled(Absent::LockedImage)
            } else if may_ask {
                Resolution::Locked(Arc::clone(locked))
            } else {
                forbidden_offline(Absent::LockedImage)
            });
        }
        let recorded = recorded.get(&image.reference);
        let usable = recorded.is_some_and(|recorded| recorded.platform.as_ref() == Some(&image.platform));
        let complete = usable && recorded.is_some_and(|recorded| recorded.rows_complete);
        match image.pull {
            PullPolicy::Missing | PullPolicy::Never if complete => return Some(Resolution::AsRecorded),
            PullPolicy::Never => return Some(never_pulled(Absent::Image)),
            _ => {}
        }
        match (may_ask, complete) {
            (true, _) => None,
            (false, true) => Some(Resolution::AsRecorded),
            (false, false) => Some(forbidden_offline(Absent::Image)),
        }
    }
}

impl Work<'_, '_> {
    fn run(&self) {
        let Lookups { registries, reporter, recorded, .. } = self.lookups;
        while let Some(taken) = self.queue.next() {
            match &taken.job {
                Job::Image(image, Some(known)) => match registries.check(&image.reference, known) {
                    Ok(Meaning::Same) => self.settle(&image.reference, Ok(Lookup::Same)),
                    Ok(meaning) => {
                        let job = Job::Moved(image.clone(), known.clone(), meaning);
                        self.queue.push([(image.reference.registry().to_owned(), job)]);
                    }
                    Err(error) => self.settle(&image.reference, Err(error)),
                },
                Job::Image(image, None) => {
                    let answer = registries.resolve(&image.reference, &image.platform, None);
                    self.settle(&image.reference, answer);
                }
                Job::Moved(image, known, meaning) => {
                    let answer = registries.fetch(&image.reference, &image.platform, known, meaning);
                    self.settle(&image.reference, answer);
                }
                Job::Locked(locked) => {
                    let pinned = locked.reference.with_digest(&locked.digest);
                    let answer = registries.resolve(&pinned, &locked.platform, None);
                    let resolution = match confirm(locked, answer) {
                        Ok(resolved) => Resolution::Resolved(Arc::new(resolved)),
                        Err(error) => Resolution::Blocked(Arc::new(error)),
                    };
                    self.insert(&locked.reference, resolution);
                }
                Job::Tags(repository) => {
                    let selected = self.lookups.select(repository, recorded);
                    let images = selected.images.iter().map(|selected| &selected.image);
                    let mut without = Known::default();
                    let jobs: Vec<_> =
                        images.filter_map(|image| self.lookups.job(image, &mut without)).collect();
                    self.known().resolutions.extend(without.resolutions);
                    if !jobs.is_empty() {
                        reporter.report(Event::Resolving { images: jobs.len() });
                    }
                    self.queue.push(jobs);
                    reporter.report(Event::Resolved(repository.name.clone()));
                    self.known().selections.push(selected);
                }
            }
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Until nobody is at work any more.
    fn listen(&self, at_rest: &Receiver<()>, listener: Listener<'_>) {
        let (mut told, mut ended, mut since) = (0, 0, Instant::now());
        let patience = self.lookups.registries.lookup_patience();
        let glance = GLANCE.min(patience / 4);
        while at_rest.recv_timeout(glance) == Err(RecvTimeoutError::Timeout) {
            let by_now = self.ended.load(Ordering::Relaxed);
            if by_now != ended {
                (ended, since) = (by_now, Instant::now());
            } else if since.elapsed() >= patience {
                let known = self.known().clone();
                let size = known.resolutions.len() + known.selections.len();
                if size > told {
                    told = size;
                    listener(&known, &|| at_rest.try_recv() == Err(TryRecvError::Disconnected));
                }
            }
        }
    }

    fn settle(&self, reference: &ImageRef, answer: Result<Lookup, RegistryError>) {
        let resolution = match answer {
            Ok(Lookup::Same) => Resolution::AsRecorded,
            Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(*image)),
            Err(error) => Resolution::Blocked(Arc::new(error.into())),
        };
        self.insert(reference, resolution);
    }

    fn insert(&self, reference: &ImageRef, resolution: Resolution) {
        self.known().resolutions.insert(reference.clone(), resolution);
        self.lookups.reporter.report(Event::Resolved(reference.clone()));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn never_pulled(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::NeverPulled(absent)))
}

pub(super) fn forbidden_offline(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::Offline(absent)))
}

/// What the registry has under the locked digest, if that is what the lockfile says.
fn confirm(locked: &LockedImage, answer: Result<Lookup, RegistryError>) -> Result<ResolvedImage, Error> {
    let resolved = match answer {
        Ok(Lookup::Image(image)) => ResolvedImage { reference: locked.reference.clone(), ..*image },
        // Nothing was known, so this does not come; without the image there is nothing to record.
        Ok(Lookup::Same) => return Err(Defect::Unanswered(locked.digest.clone()).into()),
        Err(source) => {
            let (digest, source) = (locked.digest.clone(), Box::new(source));
            return Err(Error::LockedDigest { digest, source });
        }
    };
    let registry = "the registry serves";
    if resolved.digest != locked.digest || resolved.manifest.digest != locked.manifest {
        let difference = (locked.manifest.to_string(), resolved.manifest.digest.to_string());
        return Err(mismatch(registry, "manifest", difference));
    }
    match other_layer(locked, &resolved.layers) {
        Some(difference) => Err(mismatch(registry, "layer", difference)),
        None => Ok(resolved),
    }
}

fn mismatch(who: &'static str, what: &'static str, (expected, actual): (String, String)) -> Error {
    Error::LockMismatch { who, what, expected, actual }
}

/// The first layer of the lockfile that `layers` have not, and what they have in its place.
fn other_layer(locked: &LockedImage, layers: &[LayerDescriptor]) -> Option<(String, String)> {
    let said = |layer: &LayerDescriptor| (layer.digest.clone(), layer.diff_id.clone(), layer.size);
    let shown = |layer: Option<&LayerDescriptor>| match layer {
        Some(layer) => format!("{} of {} bytes, {} unpacked", layer.digest, layer.size, layer.diff_id),
        None => "none".to_owned(),
    };
    (0..locked.layers.len().max(layers.len())).find_map(|index| {
        let (expected, actual) = (locked.layers.get(index), layers.get(index));
        (expected.map(said) != actual.map(said)).then(|| (shown(expected), shown(actual)))
    })
}

/// What is recorded, under all names of the image, where that is the lockfile's manifest.
fn recorded_as_locked<'r>(
    image: &DesiredImage,
    recorded: &'r BTreeMap<ImageRef, RecordedImage>,
) -> Option<&'r RecordedImage> {
    let locked = image.locked.as_ref()?;
    let row = recorded.get(&image.reference)?;
    let same = known_digest(image, recorded).as_ref() == Some(&locked.digest)
        && row.manifest_digest.as_ref() == Some(&locked.manifest);
    same.then_some(row)
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
