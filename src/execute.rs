//! The deeds of a plan: fetch, verify, extract, commit, record, remove.
//!
//! A thread for each blob in flight reads the socket, hashes and spools; a second one extracts the
//! spool while the spool grows, unless the blob is a small one (`fetcher`). The calling thread
//! collects finished layers, gives them their names in groups (`group`) and records each image when
//! its last layer is there (`waitlist`). A blob that is to be kept becomes a kept one in the same
//! groups. Engines take their images meanwhile, each in a thread of its own, which streams an
//! archive of the whole blobs into the engine's program (`loads`). A failure is data for the images
//! that need the layer, and for the one part of an image that it concerns; the others go on.

mod asked;
mod documents;
mod fetcher;
mod group;
mod kept;
mod loads;
mod outcome;
mod removals;
mod source;
mod space;
mod told;
mod waitlist;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::cancel::Cancel;
use crate::catalog::{self, Change, Holding, WritableCatalog};
use crate::digest::{Algorithm, BlobDigest};
use crate::engine::{Engines, NotedFiles};
use crate::error::{Defect, Error, StoreError};
use crate::extract::{self, Workers};
use crate::image_ref::ImageRef;
use crate::plan::{Fetch, Plan, PlannedImage, ToRecord};
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::Registries;
use crate::state::{
    Action, EngineName, Hook, Limits, LoadedReference, Owner, Ownership, PendingHookEvent, Permission,
    Targets,
};
use crate::store::{self, Left, Store};
use crate::sys;
use crate::threads;
use fetcher::{Counters, Fetcher, Finished};
use group::Group;
pub(crate) use kept::{
    damaged_frame, expect_to_forget, has_kept_blobs, list_kept_blobs, remove_kept_blobs, wants_kept_index,
    write_kept_index,
};
use loads::{Feed, LoadResult, Loads};
pub use outcome::Outcome;
pub(crate) use removals::take_out;
use waitlist::Waitlist;

/// Files that a run has open beside its downloads, more or less: catalog, locks, the store's
/// directories, names of hosts being looked up, those being written.
const FILES_OF_A_RUN: usize = 64;
/// Files that a download has open, more or less: socket, spool, directories and inventory of the
/// layer.
const FILES_OF_A_DOWNLOAD: usize = 16;

/// Everything that a plan is carried out with.
pub(crate) struct Executor<'a> {
    /// The registries, which serve the bytes.
    pub registries: &'a Registries,
    /// The store, which takes the layers.
    pub store: &'a Store,
    /// The catalog, which records the images.
    pub catalog: &'a mut WritableCatalog,
    /// The engines of this machine.
    pub engines: &'a Engines,
    /// The owner on whose behalf the run works.
    pub owner: &'a Owner,
    /// The hooks that are to be told of changes.
    pub hooks: &'a [Hook],
    /// The parts that images are to have.
    pub targets: &'a Targets,
    /// The number of blobs in flight.
    pub downloads: usize,
    /// The number of threads that write small files.
    pub jobs: usize,
    /// The way in which owner and mode are kept.
    pub ownership: Ownership,
    /// The sizes beyond which an image is refused.
    pub limits: Limits,
    /// The listener.
    pub reporter: &'a dyn Reporter,
    /// The switch that ends the run early.
    pub cancel: &'a Cancel,
    /// Says true when no more blobs are to be begun: the executor finishes what is under way, and
    /// leaves images that need more as they are, [`Error::Stopped`].
    pub begin_no_more: &'a (dyn Fn() -> bool + Sync),
}

impl Executor<'_> {
    /// Carries out `plan`, but for removals: those come last, by [`Executor::remove`].
    ///
    /// # Errors
    /// Only failures that stop everything: the catalog cannot be written, there are no threads.
    pub(crate) fn execute(&mut self, plan: &Plan) -> Result<Outcome, Error> {
        self.catalog.note_candidates(&plan.candidates)?;
        self.catalog.prove(&plan.proofs())?;
        let too_large = space::too_large(plan, self.store)?;
        if too_large.is_empty()
            && let Some(doubt) = space::doubt(plan, self.store)?
        {
            self.reporter.report(Event::Warning(doubt));
        }
        let workers =
            Workers::new(self.jobs, self.downloads_at_once(plan), self.cancel).map_err(|source| {
                let path = self.store.layers().to_owned();
                Error::from(StoreError::Io { doing: "start the threads that write to", path, source })
            })?;
        if !plan.fetches.is_empty() {
            let (images, layers) = (plan.awaited(), plan.fetches.len());
            self.reporter.report(Event::Started { images, layers, bytes: plan.download_bytes() });
        }
        let mut waitlist = Waitlist::new(plan);
        for (fetch, error) in &too_large {
            waitlist.all_claims_failed(plan, *fetch, error);
        }
        let keeps = self.targets.keeps_blobs && plan.images.iter().any(|image| image.needs_blobs);
        if keeps {
            store::expect_blobs_index(self.store.home())?;
        }
        documents::keep_documents(self, plan, &mut waitlist);
        self.catalog.foretell(&told::of_repairs(self.hooks, plan), self.owner)?;
        let (loads, counters) = (Loads::of(plan, self.owner, self.engines), Counters::default());
        let noted = loads.noted_files(plan, self.catalog)?;
        let given_up: BTreeSet<usize> = too_large.into_iter().map(|(fetch, _)| fetch).collect();
        let (store, cancel, reporter) = (self.store, self.cancel, self.reporter);
        let (layers, loaded) = std::thread::scope(|scope| {
            let feed = loads.start(scope, plan, store, cancel, reporter);
            // Images that need no layer are done first, so that a run that is stopped has done
            // them.
            self.settle(plan, &mut waitlist, &feed);
            let layers = self.fetch_all(plan, &given_up, &workers, &counters, (&mut waitlist, &feed));
            (layers, feed.finish())
        });
        let (loads, engine_failures) = self.end_loads(plan, loaded, &noted, &mut waitlist);
        let ended =
            loads::note_rows(self.catalog, plan).and_then(|()| kept::look_after_kept_blobs(self, plan));
        let stopped = self.cancel.is_cancelled();
        self.tell_unfinished(plan, &waitlist, stopped);
        let images = waitlist.into_results(plan);
        Ok(Outcome {
            failure: ended.err().map(Arc::new),
            staged: outcome::staged(plan, &images),
            images,
            layers,
            loads,
            engine_failures,
            downloaded_bytes: counters.downloaded.into_inner(),
            extracted_bytes: counters.extracted.into_inner(),
            stopped,
            ..Outcome::default()
        })
    }

    /// Tells the end of images that were not finished. Those of a part that is to begin nothing
    /// more are left to the rest of the run.
    fn tell_unfinished(&self, plan: &Plan, waitlist: &Waitlist, stopped: bool) {
        if stopped || !(self.begin_no_more)() {
            for image in waitlist.unfinished(plan) {
                self.reporter.report(image.event(Some(Arc::new(Error::Stopped))));
            }
        }
    }

    /// The number of blobs to fetch at the same time: less than allowed where the plan has fewer,
    /// or where this process may open too few files for all.
    fn downloads_at_once(&self, plan: &Plan) -> usize {
        let affordable = sys::open_files_limit().saturating_sub(FILES_OF_A_RUN) / FILES_OF_A_DOWNLOAD;
        self.downloads.min(affordable).clamp(1, plan.fetches.len().max(1))
    }

    // -------------------------------------------------------------------------------------- layers

    /// Fetches all layers but those `given_up`, in threads that the registries share, and returns
    /// how many got their names.
    fn fetch_all(
        &mut self,
        plan: &Plan,
        given_up: &BTreeSet<usize>,
        workers: &Workers,
        counters: &Counters,
        (waitlist, feed): (&mut Waitlist, &Feed<'_>),
    ) -> usize {
        let on_whole = |digest: &BlobDigest, size| feed.blob(digest, size);
        let fetcher = self.fetcher(&plan.unasked, workers, counters, &on_whole);
        let (cancel, begin_no_more) = (self.cancel, self.begin_no_more);
        // The plan has the biggest first; the registries share the threads.
        let fetches = plan.fetches.iter().enumerate().filter(|(index, _)| !given_up.contains(index));
        let queue = Queue::new(fetches.map(|fetch| (registry_of(fetch.1), fetch)));
        let next = || {
            if cancel.is_cancelled() || begin_no_more() {
                return None;
            }
            let taken = queue.next()?;
            let (index, fetch) = taken.job;
            Some(fetcher.run(index, fetch))
        };
        let next = &next;
        let (sender, receiver) = bounded(Group::most());
        std::thread::scope(|scope| {
            let fetch_on = || {
                let sender = sender.clone();
                move || while next().is_some_and(|finished| sender.send(finished).is_ok()) {}
            };
            let threads = self.downloads_at_once(plan);
            let started = (0..threads).filter(|_| threads::start_in(scope, "fetch", fetch_on()).is_ok());
            // Where the system refuses threads there are fewer; where it gives none, this one does
            // their work.
            let alone = started.count() == 0;
            drop(sender);
            self.collect(plan, (waitlist, feed), |wait| {
                if alone { next().ok_or(RecvTimeoutError::Disconnected) } else { receiver.recv_timeout(wait) }
            })
        })
    }

    fn fetcher<'f>(
        &self,
        unasked: &'f BTreeMap<ImageRef, Permission>,
        workers: &'f Workers,
        counters: &'f Counters,
        on_whole: &'f (dyn Fn(&BlobDigest, u64) + Sync),
    ) -> Fetcher<'f>
    where
        Self: 'f,
    {
        Fetcher {
            registries: self.registries,
            unasked,
            store: self.store,
            options: extract::Options {
                ownership: self.ownership,
                limits: self.limits,
                algorithm: Algorithm::Sha256,
                blob_size: 0,
            },
            workers,
            reporter: self.reporter,
            cancel: self.cancel,
            counters,
            on_whole,
        }
    }

    /// Takes finished layers from `receive` until there are no more, gives them their names in
    /// groups, and settles the images that waited for them. Returns how many layers got their
    /// names.
    fn collect<'s>(
        &mut self,
        plan: &Plan,
        (waitlist, feed): (&mut Waitlist, &Feed<'_>),
        receive: impl Fn(Duration) -> Result<Finished<'s>, RecvTimeoutError>,
    ) -> usize {
        let mut group = Group::new();
        let mut committed = 0;
        let mut open = true;
        while open || !group.is_empty() {
            match receive(group.wait()) {
                Ok(finished) if finished.result.is_ok() => group.add(finished),
                Ok(finished) => {
                    waitlist.layer_failed(plan, &finished);
                    self.settle(plan, waitlist, feed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            let due = !open || group.is_due() || self.cancel.is_cancelled();
            if due && !group.is_empty() {
                committed += self.commit(plan, group.take(), waitlist);
                self.settle(plan, waitlist, feed);
            }
        }
        committed
    }

    /// Gives a group of layers their names and keeps the blobs that are to be kept; returns how
    /// many layers got their names.
    fn commit(&mut self, plan: &Plan, group: Vec<Finished<'_>>, waitlist: &mut Waitlist) -> usize {
        let (mut staged, mut spools, mut finished) = (Vec::new(), Vec::new(), Vec::new());
        for Finished { fetch, result, wrong_claims } in group {
            let Ok(arrived) = result else { continue };
            finished.push((fetch, wrong_claims, arrived.staged.is_some(), arrived.spool.is_some()));
            staged.extend(arrived.staged);
            spools.extend(arrived.spool);
        }
        let mut kept = store::keep(self.store, &spools).into_iter();
        let committed = if staged.is_empty() { None } else { Some(store::commit(self.store, staged)) };
        let (mut results, left) =
            committed.map_or_else(Default::default, |committed| (committed.results, committed.left));
        self.report_left(&left);
        let mut results = results.drain(..);
        let mut count = 0;
        for (fetch, wrong_claims, has_layer, has_blob) in finished {
            let layer = if has_layer { results.next() } else { None };
            let blob = if has_blob { kept.next() } else { None };
            let failed = layer.and_then(Result::err);
            let failed = failed.or_else(|| blob?.err().map(|error| Arc::new(error.into())));
            count += usize::from(has_layer && failed.is_none());
            match &failed {
                None => waitlist.layer_done(plan, fetch, &wrong_claims),
                Some(error) => waitlist.all_claims_failed(plan, fetch, error),
            }
            let digest = plan.fetches[fetch].digest().clone();
            self.reporter.report(Event::LayerFinished { digest, ok: failed.is_none() });
        }
        count
    }

    // -------------------------------------------------------------------------------------- images

    /// Records every image that waits for no layer any more, notes that its loads begin, and hands
    /// it to the engines that are to load it; reports those that no engine loads. Of an image that
    /// never comes so far the engines have what they had.
    fn settle(&mut self, plan: &Plan, waitlist: &mut Waitlist, feed: &Feed<'_>) {
        let settled = waitlist.take_settled();
        let told = told::of_settled(self.hooks, plan, &settled, feed);
        let mut changes = Vec::new();
        // Each with its error, or with true if its change is the next one.
        let mut outcomes: Vec<(usize, Result<bool, Arc<Error>>)> = Vec::with_capacity(settled.len());
        for (index, events) in settled.into_iter().zip(&told) {
            let image = &plan.images[index];
            if image.action == Action::Remove {
                continue;
            }
            let change = waitlist.error(index).map_or_else(|| self.change(image, events), Err);
            outcomes.push((index, change.as_ref().map(Option::is_some).map_err(Arc::clone)));
            changes.extend(change.into_iter().flatten());
        }
        let Targets { extracts, keeps_blobs, keeps_earlier, .. } = *self.targets;
        let holding = Holding { layers: self.store.layers(), extracts, keeps_blobs, keeps_earlier };
        let mut changed = self.catalog.change(&changes, self.owner, holding).into_iter();
        let errors: Vec<(usize, Option<Arc<Error>>)> = outcomes
            .into_iter()
            .map(|(index, outcome)| match outcome {
                Ok(true) => (index, changed.next().and_then(Result::err).map(|error| Arc::new(error.into()))),
                Ok(false) => (index, None),
                Err(error) => (index, Some(error)),
            })
            .collect();
        let whole = errors.iter().filter(|(_, error)| error.is_none());
        let rows: Vec<LoadedReference> = whole.flat_map(|(index, _)| feed.rows(*index)).cloned().collect();
        let not_begun = self.catalog.begin_loads(&rows).err().map(|error| Arc::new(error.into()));
        for (index, error) in errors {
            let is_to_load = error.is_none() && feed.rows(index).next().is_some();
            let error = error.or_else(|| not_begun.clone().filter(|_| is_to_load));
            if error.is_none() && feed.image(index) {
                continue;
            }
            let error = error.or_else(|| plan.images[index].part_error().cloned());
            waitlist.finish(index, error.clone());
            self.reporter.report(plan.images[index].event(error));
        }
    }

    /// Records the results of the loads, reports their images, and returns how many references
    /// engines took, and which images failed in which engines.
    fn end_loads(
        &mut self,
        plan: &Plan,
        mut loaded: Vec<LoadResult>,
        noted: &NotedFiles,
        waitlist: &mut Waitlist,
    ) -> (usize, BTreeSet<(ImageRef, EngineName)>) {
        let (mut count, mut failures) = (0, BTreeSet::new());
        let mut errors: BTreeMap<usize, Option<Arc<Error>>> = BTreeMap::new();
        let damaged: BTreeSet<BlobDigest> =
            loaded.iter().filter_map(|result| result.damaged.clone()).collect();
        if let Err(error) = kept::remove_damaged(self, &damaged) {
            self.reporter.report(Event::Warning(format!("damaged kept blobs stay: {error}")));
        }
        for row in loaded.iter_mut().flat_map(|result| &mut result.rows) {
            noted.correct(&mut row.files);
        }
        let rows: Vec<&LoadedReference> = loaded.iter().flat_map(|result| &result.rows).collect();
        let mut recorded = self.catalog.end_loads(&rows).into_iter();
        for LoadResult { image, engine, rows, error, .. } in loaded {
            let mut failed = error;
            for result in recorded.by_ref().take(rows.len()) {
                match result {
                    Ok(()) => count += 1,
                    Err(error) => failed = failed.or_else(|| Some(Arc::new(error.into()))),
                }
            }
            if failed.is_some() {
                failures.insert((plan.images[image].reference.clone(), engine));
            }
            let first = errors.entry(image).or_default();
            if first.is_none() {
                *first = failed;
            } else if let Some(error) = failed {
                // An image has one error; those of its other engines are told beside it.
                let image = &plan.images[image].reference;
                self.reporter.report(Event::Warning(format!("{image}: {}", error.chain().join(": "))));
            }
        }
        for (index, error) in errors {
            let error = error.or_else(|| plan.images[index].part_error().cloned());
            waitlist.finish(index, error.clone());
            self.reporter.report(plan.images[index].event(error));
        }
        (count, failures)
    }

    /// The change in the catalog for an image that has all its layers, if there is one.
    fn change<'p>(
        &self,
        image: &'p PlannedImage,
        events: &'p [PendingHookEvent],
    ) -> Result<Option<Change<'p>>, Arc<Error>> {
        if let Some(error) = image.rows_error() {
            return Err(Arc::clone(error));
        }
        let names = &image.names[..];
        Ok(match &image.to_record {
            Some(ToRecord::Image(resolved)) if image.stages => Some(Change::Stage { image: resolved }),
            Some(ToRecord::Image(resolved)) => {
                if image.layers.is_empty() {
                    let text = format!("{} has no layers: microsandbox takes it for absent", image.reference);
                    self.reporter.report(Event::Warning(text));
                }
                let has_blobs = kept::has_all_blobs(self, resolved);
                Some(Change::Record { image: resolved, names, hold: image.holds, has_blobs, events })
            }
            Some(ToRecord::Locked(_)) => return Err(Arc::new(Defect::LockNotLookedUp.into())),
            Some(ToRecord::Owner) => Some(Change::Adopt { names, events }),
            None => (!events.is_empty()).then_some(Change::Tell { events }),
        })
    }

    // ------------------------------------------------------------------------------------ removals

    /// Removes everything that `plan` says and does not let wait, after [`Executor::execute`] has
    /// done the rest: `outcome` is the result of that, and takes the result of this. A run that was
    /// stopped removes nothing.
    ///
    /// Rows first, then directories: a crash in between leaves layers that nobody needs, never rows
    /// without.
    pub(crate) fn remove(&mut self, plan: &Plan, outcome: &mut Outcome) {
        outcome.note_waiting(plan);
        let leaving =
            plan.images.iter().filter(|image| image.action == Action::Remove && image.waits.is_none());
        let leaving: Vec<&PlannedImage> = leaving.collect();
        if self.cancel.is_cancelled() {
            outcome.stopped = true;
            return self.end_removals(&leaving, Some(&Arc::new(Error::Stopped)), outcome);
        }
        let foretold =
            if leaving.is_empty() { Ok(()) } else { expect_to_forget(self.store.home(), self.catalog) };
        if let Err(error) = foretold {
            return self.end_removals(&leaving, Some(&Arc::new(error)), outcome);
        }
        let mut layers = plan.layers_to_remove.clone();
        for group in leaving.chunks(catalog::FORGOTTEN_TOGETHER) {
            let names: Vec<ImageRef> = group.iter().flat_map(|image| image.names.clone()).collect();
            let told: Vec<PendingHookEvent> =
                group.iter().flat_map(|image| told::events(self.hooks, image, true)).collect();
            let forgotten = removals::forget(self, (&names, &told), &mut layers, outcome);
            let error = forgotten.err().map(|error| Arc::new(Error::from(error)));
            self.end_removals(group, error.as_ref(), outcome);
        }
        removals::remove_from_engines(self, plan, outcome);
        if plan.removes() || plan.sweeps_blobs {
            kept::prune_blobs(self).unwrap_or_else(|error| outcome.fail(Arc::new(error), self.reporter));
        }
        removals::remove_layers(self, &mut layers, outcome);
    }

    /// Notes and tells the end of images that leave.
    fn end_removals(&self, leaving: &[&PlannedImage], error: Option<&Arc<Error>>, outcome: &mut Outcome) {
        for image in leaving {
            if error.is_none() && image.reason.keeps_image() {
                outcome.kept.insert(image.reference.clone());
            }
            outcome.images.push((image.reference.clone(), image.action, error.cloned()));
            self.reporter.report(image.event(error.cloned()));
        }
    }

    /// Warns of leftovers that could not be removed.
    fn report_left(&self, left: &[Left]) {
        for left in left {
            self.reporter.report(Event::Warning(left.to_string()));
        }
    }
}

/// The registry that serves a blob: that of the first image that needs the blob.
fn registry_of(fetch: &Fetch) -> String {
    let first = fetch.claims().flat_map(|claim| claim.images.iter()).next();
    first.map_or_else(String::new, |image| image.registry().to_owned())
}
