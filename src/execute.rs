//! The deeds of a plan: fetch, verify, extract, commit, record, remove.
//!
//! One thread a blob in flight reads the socket, hashes and spools; a second one extracts the spool while it
//! grows. The calling thread collects finished layers, gives them their names in groups (one sync of the
//! file system for many) and records each image when its last layer is there. A failure is data for the
//! images that need the layer; the others go on.

mod images;
mod layer;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::cancel::Cancel;
use crate::catalog::{self, Catalog, Change};
use crate::digest::BlobDigest;
use crate::error::{Defect, Error, StoreError};
use crate::extract::{self, Workers};
use crate::image_ref::ImageRef;
use crate::plan::{self, Fetch, Plan, PlannedImage, Record};
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::Registries;
use crate::state::{Action, Limits, Owner, Ownership};
use crate::store::{self, Left, Staged, Store};
use crate::sys;
use images::ImageProgress;
use layer::Job;

/// A finished layer waits at most this long for others that can be synced with it: a sync also writes out the blobs
/// that are still coming, which otherwise are gone before they ever reach the disk. Until then a kill loses nothing
/// (the next run finishes the layer), only a power loss does.
const GROUP_COMMIT: Duration = Duration::from_secs(5);
/// How often waiting threads look at the stop switch.
const POLL: Duration = Duration::from_millis(100);
/// Finished layers that wait for their group, and as many for their turn, at most: each has a directory open.
const GROUP_SIZE: usize = 96;

/// Files that a run has open beside its downloads, more or less: catalog, locks, the store's directories, names of hosts
/// being looked up, those being written.
const FILES_OF_A_RUN: usize = 64;
/// Files that a download has open, more or less: socket, spool, directories and inventory of the layer.
const FILES_OF_A_DOWNLOAD: usize = 16;

/// What the deeds are done with.
pub struct Executor<'a> {
    /// Where bytes come from.
    pub registries: &'a Registries,
    /// Where layers go.
    pub store: &'a Store,
    /// Where images are recorded.
    pub catalog: &'a mut Catalog,
    /// On whose behalf.
    pub owner: &'a Owner,
    /// Blobs in flight.
    pub downloads: usize,
    /// Threads that write small files.
    pub jobs: usize,
    /// How owner and mode are kept.
    pub ownership: Ownership,
    /// What is refused.
    pub limits: Limits,
    /// Who listens.
    pub reporter: &'a dyn Reporter,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// Whether no more blobs are to be begun: what is under way is finished, and images that need more are left as they
    /// are, [`Error::Stopped`].
    pub enough: &'a (dyn Fn() -> bool + Sync),
}

/// What became of a plan.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Each image of the plan, in its order, with the error if it failed.
    pub images: Vec<(ImageRef, Action, Option<Arc<Error>>)>,
    /// Layers extracted in this run.
    pub layers: usize,
    /// Layer directories removed.
    pub layers_removed: usize,
    /// Images whose removal waits, since a wanted one is blocked or has failed; not among the images above.
    pub waiting: Vec<ImageRef>,
    /// Bytes of blobs received over the network.
    pub downloaded_bytes: u64,
    /// Bytes of uncompressed layers extracted.
    pub extracted_bytes: u64,
    /// Whether the run was stopped before its end.
    pub stopped: bool,
    /// Why layers that nobody needs could not be removed at the end. The images are what the list above says.
    pub failure: Option<Arc<Error>>,
}

impl Outcome {
    /// Makes one of the outcomes of two plans of one run.
    pub fn append(&mut self, next: Self) {
        self.images.extend(next.images);
        self.images.sort_by(|a, b| plan::in_order((&a.0, a.1), (&b.0, b.1)));
        self.layers += next.layers;
        self.layers_removed += next.layers_removed;
        self.waiting.extend(next.waiting);
        self.downloaded_bytes += next.downloaded_bytes;
        self.extracted_bytes += next.extracted_bytes;
        self.stopped |= next.stopped;
        self.failure = self.failure.take().or(next.failure);
    }

    /// Leaves out, and returns, the images that wait for blobs that were not begun; none where the run was stopped.
    pub fn take_unfinished(&mut self) -> BTreeSet<ImageRef> {
        let mut left = BTreeSet::new();
        if !self.stopped {
            self.images.retain(|(image, _, error)| {
                let unfinished = matches!(error.as_deref(), Some(Error::Stopped));
                if unfinished {
                    left.insert(image.clone());
                }
                !unfinished
            });
        }
        left
    }

    /// How many images with `action` are done.
    pub fn done(&self, action: Action) -> usize {
        self.images.iter().filter(|(_, of, error)| *of == action && error.is_none()).count()
    }

    /// How many images failed or were blocked.
    pub fn failed(&self) -> usize {
        self.images.iter().filter(|(_, _, error)| error.is_some()).count()
    }
}

/// How one blob ended.
struct Finished<'s> {
    fetch: usize,
    /// The layer, or why there is none.
    result: Result<Staged<'s>, Arc<Error>>,
    /// Claims that this very layer contradicts.
    wrong_claims: Vec<(usize, Arc<Error>)>,
}

#[derive(Default)]
struct Counters {
    downloaded: AtomicU64,
    extracted: AtomicU64,
    warned_no_xattrs: AtomicBool,
}

impl Executor<'_> {
    /// Does what `plan` says, but for removals: those come last, by [`Executor::remove`].
    ///
    /// # Errors
    /// Only what stops everything: the catalog cannot be written, there is not enough space, no threads.
    pub fn execute(&mut self, plan: &Plan) -> Result<Outcome, Error> {
        let too_large = self.check_space(plan)?;
        let workers =
            Workers::new(self.jobs, self.downloads_at_once(plan), self.cancel).map_err(|source| {
                let path = self.store.layers().to_owned();
                Error::from(StoreError::Io { doing: "start the threads that write to", path, source })
            })?;
        if !plan.fetches.is_empty() {
            self.reporter.report(Event::Started { layers: plan.fetches.len(), bytes: plan.download_bytes() });
        }
        let mut progress = ImageProgress::new(plan);
        for (fetch, error) in &too_large {
            progress.all_claims_failed(plan, *fetch, error);
        }
        let counters = Counters::default();
        // What needs no layer is done first, so that a run that is stopped has done it.
        self.settle(plan, &mut progress);
        let too_large: BTreeSet<usize> = too_large.into_iter().map(|(fetch, _)| fetch).collect();
        let layers = self.fetch_all(plan, &too_large, &workers, &counters, &mut progress);
        let stopped = self.cancel.is_cancelled();
        Ok(Outcome {
            images: progress.into_results(plan, stopped),
            layers,
            layers_removed: 0,
            waiting: Vec::new(),
            downloaded_bytes: counters.downloaded.into_inner(),
            extracted_bytes: counters.extracted.into_inner(),
            stopped,
            failure: None,
        })
    }

    /// The fetches for which there cannot be enough space, each with its error: those that are larger than all that
    /// is free (whose registry may be lying), and of the others as many images as it takes.
    ///
    /// A layer is hardly ever smaller than its blob: less space than that cannot be enough. Downloads are gone one
    /// by one, so each counts for itself.
    fn check_space(&self, plan: &Plan) -> Result<Vec<(usize, Arc<Error>)>, Error> {
        let mut too_large = Vec::new();
        if plan.download_bytes() == 0 {
            return Ok(too_large);
        }
        let free = self.store.free_space()?;
        let refused = |path: &Path, needed, free| {
            Arc::new(Error::from(StoreError::NoSpace { path: path.to_owned(), needed, free }))
        };
        let mut needed = 0_u64;
        for (index, fetch) in plan.fetches.iter().enumerate() {
            let size = fetch.size();
            let to_come = size.saturating_sub(self.store.spooled(&fetch.digest));
            if size > free.layers {
                too_large.push((index, refused(self.store.layers(), size, free.layers)));
            } else if to_come > free.downloads {
                too_large.push((index, refused(self.store.downloads(), to_come, free.downloads)));
            } else {
                needed = needed.saturating_add(size);
            }
        }
        if needed > free.layers {
            let known = too_large.iter().map(|(index, _)| *index).collect();
            let error = refused(self.store.layers(), needed, free.layers);
            let given_up = give_up(plan, known, needed - free.layers);
            too_large.extend(given_up.into_iter().map(|index| (index, Arc::clone(&error))));
        }
        Ok(too_large)
    }

    /// How many blobs are fetched at the same time: fewer than allowed where the plan has fewer, or where this process
    /// may open too few files for all.
    fn downloads_at_once(&self, plan: &Plan) -> usize {
        let affordable = sys::open_files_limit().saturating_sub(FILES_OF_A_RUN) / FILES_OF_A_DOWNLOAD;
        self.downloads.min(affordable).clamp(1, plan.fetches.len().max(1))
    }

    fn fetch_all(
        &mut self,
        plan: &Plan,
        too_large: &BTreeSet<usize>,
        workers: &Workers,
        counters: &Counters,
        progress: &mut ImageProgress,
    ) -> usize {
        let job = Job {
            registries: self.registries,
            store: self.store,
            options: extract::Options {
                ownership: self.ownership,
                limits: self.limits,
                algorithm: crate::digest::Algorithm::Sha256,
                blob_size: 0,
            },
            workers,
            reporter: self.reporter,
            cancel: self.cancel,
            counters,
        };
        let enough = self.enough;
        // The plan has the biggest first; the registries share the threads.
        let fetches = plan.fetches.iter().enumerate().filter(|(index, _)| !too_large.contains(index));
        let queue = Queue::new(fetches.map(|fetch| (registry_of(fetch.1), fetch)));
        let group_size = GROUP_SIZE.min(sys::open_files_limit() / 16).max(1);
        let (sender, receiver) = bounded(group_size);
        let next = || {
            if job.cancel.is_cancelled() || enough() {
                return None;
            }
            let taken = queue.next()?;
            let (index, fetch) = taken.job;
            Some(job.run(index, fetch))
        };
        let next = &next;
        std::thread::scope(|scope| {
            let receiver_thread = || {
                let sender: Sender<Finished<'_>> = sender.clone();
                move || {
                    while let Some(finished) = next() {
                        if sender.send(finished).is_err() {
                            break;
                        }
                    }
                }
            };
            let threads = self.downloads_at_once(plan);
            let started = (0..threads)
                .filter(|_| std::thread::Builder::new().spawn_scoped(scope, receiver_thread()).is_ok());
            // Where the system refuses threads there are fewer; where it gives none, this one does their work.
            let alone = started.count() == 0;
            drop(sender);
            let mut ready: Vec<Finished<'_>> = Vec::new();
            let mut since = Instant::now();
            let mut committed = 0;
            let mut open = true;
            while open || !ready.is_empty() {
                let wait = if ready.is_empty() {
                    POLL
                } else {
                    GROUP_COMMIT.saturating_sub(since.elapsed()).min(POLL)
                };
                let received = if alone {
                    next().ok_or(RecvTimeoutError::Disconnected)
                } else {
                    receiver.recv_timeout(wait)
                };
                match received {
                    Ok(finished) => {
                        if finished.result.is_ok() {
                            if ready.is_empty() {
                                since = Instant::now();
                            }
                            ready.push(finished);
                        } else {
                            progress.layer_failed(plan, &finished);
                            self.settle(plan, progress);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
                let due = !open
                    || ready.len() >= group_size
                    || since.elapsed() >= GROUP_COMMIT
                    || self.cancel.is_cancelled();
                if due && !ready.is_empty() {
                    committed += self.commit(plan, std::mem::take(&mut ready), progress);
                    self.settle(plan, progress);
                }
            }
            committed
        })
    }

    /// Gives a group of layers their names.
    fn commit(&mut self, plan: &Plan, group: Vec<Finished<'_>>, progress: &mut ImageProgress) -> usize {
        let mut staged = Vec::new();
        let mut finished = Vec::new();
        for Finished { fetch, result, wrong_claims } in group {
            if let Ok(layer) = result {
                staged.push(layer);
                finished.push((fetch, wrong_claims));
            }
        }
        let committed = store::commit(self.store, staged);
        self.report_left(&committed.left);
        let mut count = 0;
        for ((fetch, wrong_claims), result) in finished.into_iter().zip(committed.results) {
            let digest = plan.fetches[fetch].digest.clone();
            let ok = result.is_ok();
            match result {
                Ok(()) => {
                    count += 1;
                    progress.layer_done(plan, fetch, &wrong_claims);
                }
                Err(error) => progress.all_claims_failed(plan, fetch, &error),
            }
            self.reporter.report(Event::LayerFinished { digest, ok });
        }
        count
    }

    /// Records, reports and forgets about every image that has what it needs.
    fn settle(&mut self, plan: &Plan, progress: &mut ImageProgress) {
        let settled = progress.take_settled();
        let mut changes = Vec::new();
        // Each with its error, or whether its change is the next one.
        let mut outcomes: Vec<(usize, Result<bool, Arc<Error>>)> = Vec::with_capacity(settled.len());
        for index in settled {
            let image = &plan.images[index];
            if image.action == Action::Remove {
                continue;
            }
            let change = progress.error(index).map_or_else(|| self.change(image), Err);
            outcomes.push((index, change.as_ref().map(Option::is_some).map_err(Arc::clone)));
            changes.extend(change.into_iter().flatten());
        }
        let mut changed = self.catalog.change(&changes, self.owner, self.store.layers()).into_iter();
        for (index, outcome) in outcomes {
            let error = match outcome {
                Ok(true) => changed.next().and_then(Result::err).map(|error| Arc::new(error.into())),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            progress.finish(index, error.clone());
            self.report_image(&plan.images[index], error);
        }
    }

    /// What is to be changed in the catalog for an image that has all its layers; `None`: nothing.
    fn change<'p>(&self, image: &'p PlannedImage) -> Result<Option<Change<'p>>, Arc<Error>> {
        if image.action == Action::Blocked {
            let unknown = || Arc::new(Defect::NotLookedUp.into());
            return Err(image.error.clone().unwrap_or_else(unknown));
        }
        if image.layers.is_empty() && image.record.is_some() {
            let text = format!("{} has no layers: microsandbox takes it for absent", image.reference);
            self.reporter.report(Event::Warning(text));
        }
        let names = &image.names[..];
        match &image.record {
            Some(Record::Resolved(resolved)) => Ok(Some(Change::Record { image: resolved, names })),
            Some(Record::Locked(_)) => Err(Arc::new(Defect::LockNotLookedUp.into())),
            None => Ok(image.adopt.then_some(Change::Adopt { names })),
        }
    }

    /// Removes what `plan` says and does not let wait, after [`Executor::execute`] has done the rest of it: `outcome` is
    /// what became of that, and takes what becomes of this. A run that was stopped removes nothing.
    ///
    /// Rows first, then directories: a crash in between leaves layers that nobody needs, never rows without.
    pub fn remove(&mut self, plan: &Plan, outcome: &mut Outcome) {
        outcome.waiting.extend(plan.waiting().cloned());
        let leaving = plan.images.iter().filter(|image| image.action == Action::Remove && !image.waits);
        let leaving: Vec<&PlannedImage> = leaving.collect();
        if self.cancel.is_cancelled() {
            outcome.stopped = true;
            let stopped = Arc::new(Error::Stopped);
            let unfinished =
                |image: &&PlannedImage| (image.reference.clone(), image.action, Some(Arc::clone(&stopped)));
            outcome.images.extend(leaving.iter().map(unfinished));
            return;
        }
        for group in leaving.chunks(catalog::GROUP) {
            let names: Vec<ImageRef> = group.iter().flat_map(|image| image.names.clone()).collect();
            let forgotten = self.catalog.forget(&names, Some(self.owner));
            let error = forgotten.err().map(|error| Arc::new(Error::from(error)));
            for image in group {
                outcome.images.push((image.reference.clone(), image.action, error.clone()));
                self.report_image(image, error.clone());
            }
        }
        match self.remove_layers(&plan.layers_to_remove) {
            Ok(count) => outcome.layers_removed += count,
            Err(error) => outcome.failure = Some(Arc::new(error)),
        }
    }

    fn remove_layers(&self, layers: &[BlobDigest]) -> Result<usize, Error> {
        if layers.is_empty() {
            return Ok(0);
        }
        // The plan supposed that the catalog changes by its own deeds alone; what the catalog says now is what counts.
        let needed = self.catalog.layers_needed_outside(&BTreeSet::new())?;
        let unneeded: Vec<&BlobDigest> = layers.iter().filter(|digest| !needed.contains(digest)).collect();
        let removed = store::remove(self.store, &unneeded)?;
        for (digest, reason) in &removed.kept {
            self.reporter.report(Event::Warning(format!("layer {digest} is kept: {reason}")));
        }
        self.report_left(&removed.left);
        Ok(removed.removed.len())
    }

    /// Warns of what could not be removed.
    fn report_left(&self, left: &[Left]) {
        for left in left {
            self.reporter.report(Event::Warning(left.to_string()));
        }
    }

    fn report_image(&self, image: &PlannedImage, error: Option<Arc<Error>>) {
        let (reference, action, reason) = (image.reference.clone(), image.action, image.reason.clone());
        self.reporter.report(Event::Image { reference, action, reason, error });
    }
}

/// The fetches to leave out beside `known`, the biggest first with all that only its images need, so that at least
/// `excess` bytes less are needed.
fn give_up(plan: &Plan, known: BTreeSet<usize>, mut excess: u64) -> Vec<usize> {
    let mut failed: BTreeSet<&ImageRef> = BTreeSet::new();
    let images = |fetch: usize| plan.fetches[fetch].claims.iter().flat_map(|claim| &claim.images);
    let (mut left_out, mut given_up) = (known, Vec::new());
    for biggest in 0..plan.fetches.len() {
        if excess == 0 {
            break;
        }
        if left_out.contains(&biggest) {
            continue;
        }
        failed.extend(images(biggest));
        for fetch in biggest..plan.fetches.len() {
            if !left_out.contains(&fetch) && images(fetch).all(|image| failed.contains(image)) {
                left_out.insert(fetch);
                given_up.push(fetch);
                excess = excess.saturating_sub(plan.fetches[fetch].size());
            }
        }
    }
    given_up
}

/// The registry that serves a blob: that of the first image that needs it.
fn registry_of(fetch: &Fetch) -> String {
    let first = fetch.claims.iter().flat_map(|claim| &claim.images).next();
    first.map_or_else(String::new, |image| image.registry().to_owned())
}
