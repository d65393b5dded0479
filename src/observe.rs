//! What is: what each reference means now, what the catalog records, which layers are complete.
//!
//! Looks only; nothing is written. A lookup that fails is data for its one image ([`Resolution::Blocked`]).

mod queue;
mod selections;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::queue::Queue;
use self::selections::Repository;

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::progress::{Event, Reporter};
use crate::registry::{Lookup, Registries};
use crate::state::{Desired, DesiredImage, Observed, PullPolicy, RecordedImage, Resolution};
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
        Ok(observed)
    }

    /// Looks again at what another process may have changed while this one waited for the lock: the catalog
    /// and the store. What the registries said still holds.
    ///
    /// # Errors
    /// As for [`Observer::observe`].
    pub fn look_again(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        self.look_at_catalog(desired, observed)?;
        self.look_at_layers(observed)
    }

    fn look_at_catalog(&self, desired: &Desired, observed: &mut Observed) -> Result<(), Error> {
        observed.recorded.clear();
        let Some(catalog) = self.catalog else { return Ok(()) };
        let names: Vec<ImageRef> =
            desired.images.iter().flat_map(|image| image.reference.recorded_names()).collect();
        let mut rows = catalog.recorded(&names)?;
        rows.extend(catalog.owned_by(&desired.owner)?);
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
        let recorded = observed.recorded.values().flat_map(|row| &row.layers);
        let resolved = observed.resolutions.values().filter_map(|resolution| match resolution {
            Resolution::Resolved(image) => Some(&image.layers),
            _ => None,
        });
        let digests: BTreeSet<&BlobDigest> =
            recorded.chain(resolved.flatten()).map(|layer| &layer.digest).collect();
        let places = store::Places::of(self.layers);
        let mut states = BTreeMap::new();
        for digest in digests {
            states.insert(digest.clone(), places.state(digest)?);
        }
        observed.layers = states;
        Ok(())
    }

    /// Looks up tag lists and images in a few threads. What a list chooses joins the queue, so that no lookup waits
    /// for a list that it does not need.
    fn resolve_all(&self, desired: &Desired, observed: &mut Observed) {
        let ask = Asker { registries: self.registries, offline: self.offline };
        let recorded = &observed.recorded;
        let mut resolutions = BTreeMap::new();
        let mut jobs: Vec<Job<'_>> = Repository::all(desired).into_iter().map(Job::Tags).collect();
        let image_job = |image: &DesiredImage, resolutions: &mut BTreeMap<ImageRef, Resolution>| {
            if let Some(resolution) = ask.without_asking(image, recorded.get(&image.reference)) {
                resolutions.insert(image.reference.clone(), resolution);
                return None;
            }
            Some(Job::Image(image.clone(), known_digest(image, recorded)))
        };
        jobs.extend(desired.images.iter().filter_map(|image| image_job(image, &mut resolutions)));
        if jobs.is_empty() {
            observed.resolutions = resolutions;
            return;
        }
        let reporter = self.reporter;
        reporter.report(Event::Resolving { images: jobs.len() });
        let listing = jobs.iter().any(|job| matches!(job, Job::Tags(_)));
        let threads = if listing { self.parallel } else { self.parallel.min(jobs.len()) };
        let queue = Queue::new(jobs);
        let found = Mutex::new((resolutions, Vec::new()));
        let found = || found.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            while let Some(taken) = queue.next() {
                match &taken.job {
                    Job::Image(image, known) => {
                        let resolution = ask.resolve(image, known.as_ref());
                        found().0.insert(image.reference.clone(), resolution);
                        reporter.report(Event::Resolved(image.reference.clone()));
                    }
                    Job::Tags(repository) => {
                        let selected = ask.select(repository, recorded);
                        let images = selected.images.iter().map(|selected| &selected.image);
                        let jobs: Vec<Job<'_>> = {
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
                scope.spawn(work);
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
    fn resolve(&self, image: &DesiredImage, known: Option<&BlobDigest>) -> Resolution {
        match self.registries.resolve(&image.reference, &image.platform, known) {
            Ok(Lookup::Same) => Resolution::AsRecorded,
            Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(*image)),
            Err(error) => Resolution::Blocked(Arc::new(error.into())),
        }
    }

    /// What can be said without a request: by the pull policy, or because a pinned digest cannot move.
    fn without_asking(&self, image: &DesiredImage, recorded: Option<&RecordedImage>) -> Option<Resolution> {
        let usable = recorded.is_some_and(|recorded| recorded.platform.as_ref() == Some(&image.platform));
        let complete = usable && recorded.is_some_and(|recorded| recorded.rows_complete);
        let blocked = |message: String, hint: &str| {
            Some(Resolution::Blocked(Arc::new(Error::Usage { message, hint: Some(hint.to_owned()) })))
        };
        match image.pull {
            PullPolicy::Missing | PullPolicy::Never if complete => return Some(Resolution::AsRecorded),
            PullPolicy::Never => {
                return blocked(
                    "not here, and its pull policy is \"never\"".to_owned(),
                    "set pull = \"missing\" for this image, or pull it by hand",
                );
            }
            _ => {}
        }
        if self.offline && !self.registries.is_local(&image.reference) {
            if complete {
                return Some(Resolution::AsRecorded);
            }
            return blocked(
                "not here, and --offline forbids asking its registry".to_owned(),
                "run without --offline",
            );
        }
        None
    }
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
