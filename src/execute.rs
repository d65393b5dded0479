//! The deeds of a plan: fetch, verify, extract, commit, record, remove.
//!
//! One thread a blob in flight reads the socket, hashes and spools; a second one extracts the spool while it
//! grows. The calling thread collects finished layers, gives them their names in groups (one sync of the
//! file system for many) and records each image when its last layer is there. A failure is data for the
//! images that need the layer; the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::cancel::Cancel;
use crate::catalog::Catalog;
use crate::digest::{BlobDigest, ContentMismatch, Verifier};
use crate::error::{Error, LayerError, RegistryError, StoreError};
use crate::extract::{self, Workers};
use crate::image_ref::ImageRef;
use crate::plan::{Claim, Fetch, Plan, PlannedImage, Record, contradiction};
use crate::progress::{Event, Reporter};
use crate::registry::{BlobReader, Registries};
use crate::state::{Action, LayerFacts, Limits, Owner, Ownership};
use crate::store::{Spool, Staged, Store};

/// Bytes read from a socket at once.
const RECEIVE_BUFFER: usize = 128 * 1024;
/// How often a blob whose bytes are wrong is fetched again from its first byte.
const CLEAN_RESTARTS: usize = 2;
/// A finished layer waits at most this long for others that can be synced with it. Until then a kill loses
/// nothing (the next run finishes it), only a power loss does.
const GROUP_COMMIT: Duration = Duration::from_millis(1500);
/// How often waiting threads look at the stop switch.
const POLL: Duration = Duration::from_millis(100);

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
    /// Does what `plan` says.
    ///
    /// # Errors
    /// Only what stops everything: the catalog cannot be written, there is not enough space, no threads.
    pub fn execute(&mut self, plan: &Plan) -> Result<Outcome, Error> {
        let too_large = self.check_space(plan)?;
        let workers = Workers::new(self.jobs).map_err(|source| {
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
        let removed = if stopped { Ok(0) } else { self.remove(plan, &mut progress) };
        let (layers_removed, failure) = match removed {
            Ok(count) => (count, None),
            Err(error) => (0, Some(Arc::new(error))),
        };
        Ok(Outcome {
            images: progress.into_results(plan, stopped),
            layers,
            layers_removed,
            downloaded_bytes: counters.downloaded.into_inner(),
            extracted_bytes: counters.extracted.into_inner(),
            stopped,
            failure,
        })
    }

    /// The fetches for which there cannot be enough space, each with its error: those that are larger than all that
    /// is free (whose registry may be lying), and all if the others together are.
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
            let error = refused(self.store.layers(), needed, free.layers);
            let known: BTreeSet<usize> = too_large.iter().map(|(index, _)| *index).collect();
            let others = (0..plan.fetches.len()).filter(|index| !known.contains(index));
            too_large.extend(others.map(|index| (index, Arc::clone(&error))));
        }
        Ok(too_large)
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
        let (next, (sender, receiver)) = (AtomicUsize::new(0), bounded(plan.fetches.len().max(1)));
        std::thread::scope(|scope| {
            let (job, next) = (&job, &next);
            for _ in 0..self.downloads.clamp(1, plan.fetches.len().max(1)) {
                let sender: Sender<Finished<'_>> = sender.clone();
                scope.spawn(move || {
                    while !job.cancel.is_cancelled() {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(fetch) = plan.fetches.get(index) else { break };
                        if too_large.contains(&index) {
                            continue;
                        }
                        if sender.send(job.run(index, fetch)).is_err() {
                            break;
                        }
                    }
                });
            }
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
                match receiver.recv_timeout(wait) {
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
                let due = !open || since.elapsed() >= GROUP_COMMIT || self.cancel.is_cancelled();
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
        let count = staged.len();
        let result = self.store.commit(staged).map_err(Error::from);
        let ok = result.is_ok();
        let error = result.err().map(Arc::new);
        for (fetch, wrong_claims) in finished {
            let digest = plan.fetches[fetch].digest.clone();
            match &error {
                None => progress.layer_done(plan, fetch, &wrong_claims),
                Some(error) => progress.all_claims_failed(plan, fetch, error),
            }
            self.reporter.report(Event::LayerFinished { digest, ok });
        }
        if ok { count } else { 0 }
    }

    /// Records, reports and forgets about every image that has what it needs.
    fn settle(&mut self, plan: &Plan, progress: &mut ImageProgress) {
        for index in progress.settled() {
            let image = &plan.images[index];
            if image.action != Action::Remove {
                let error = progress.error(index).or_else(|| self.record(image).err());
                progress.finish(index, error.clone());
                self.report_image(image, error);
            }
        }
    }

    fn record(&mut self, image: &PlannedImage) -> Result<(), Arc<Error>> {
        if image.action == Action::Blocked {
            let unknown = || Arc::new(Error::Usage { message: image.reason.clone(), hint: None });
            return Err(image.error.clone().unwrap_or_else(unknown));
        }
        if image.layers.is_empty() && image.record.is_some() {
            let text = format!("{} has no layers: microsandbox takes it for absent", image.reference);
            self.reporter.report(Event::Warning(text));
        }
        let layers = self.store.layers();
        let recorded = match &image.record {
            Some(Record::Resolved(resolved)) => {
                self.catalog.record(resolved, &image.names, self.owner, layers)
            }
            Some(Record::Locked(_)) => {
                let message = "its locked digest was not looked up".to_owned();
                return Err(Arc::new(Error::Usage { message, hint: None }));
            }
            None if image.adopt => self.catalog.adopt(&image.names, self.owner, layers),
            None => Ok(()),
        };
        recorded.map_err(|error| Arc::new(error.into()))
    }

    /// Rows first, then directories: a crash in between leaves layers that nobody needs, never rows without.
    fn remove(&mut self, plan: &Plan, progress: &mut ImageProgress) -> Result<usize, Error> {
        for (index, image) in plan.images.iter().enumerate() {
            if image.action == Action::Remove {
                let forgotten = self.catalog.forget(&image.names, Some(self.owner));
                let error = forgotten.err().map(|error| Arc::new(Error::from(error)));
                progress.finish(index, error.clone());
                self.report_image(image, error);
            }
        }
        if plan.layers_to_remove.is_empty() {
            return Ok(0);
        }
        // The plan supposed that every update succeeds; what the catalog says now is what counts.
        let needed = self.catalog.layers_needed_outside(&BTreeSet::new())?;
        let unneeded: Vec<&BlobDigest> =
            plan.layers_to_remove.iter().filter(|digest| !needed.contains(digest)).collect();
        let in_use = self.store.remove(&unneeded)?;
        for (digest, who) in &in_use {
            self.reporter.report(Event::Warning(format!("layer {digest} is kept: {who}")));
        }
        Ok(unneeded.len() - in_use.len())
    }

    fn report_image(&self, image: &PlannedImage, error: Option<Arc<Error>>) {
        let (reference, action) = (image.reference.clone(), image.action);
        self.reporter.report(Event::Image { reference, action, error });
    }
}

/// Which layers each image still waits for.
struct ImageProgress {
    images: Vec<ImageState>,
    /// The images of each reference, by position in the plan.
    positions: BTreeMap<ImageRef, usize>,
}

struct ImageState {
    waiting: BTreeSet<BlobDigest>,
    error: Option<Arc<Error>>,
    finished: bool,
}

impl ImageProgress {
    fn new(plan: &Plan) -> Self {
        let positions: BTreeMap<ImageRef, usize> =
            plan.images.iter().enumerate().map(|(index, image)| (image.reference.clone(), index)).collect();
        let mut images: Vec<ImageState> = plan
            .images
            .iter()
            .map(|_| ImageState { waiting: BTreeSet::new(), error: None, finished: false })
            .collect();
        for fetch in &plan.fetches {
            for reference in fetch.claims.iter().flat_map(|claim| &claim.images) {
                if let Some(&index) = positions.get(reference) {
                    images[index].waiting.insert(fetch.digest.clone());
                }
            }
        }
        Self { images, positions }
    }

    /// The images that wait for nothing more, or cannot succeed any more, and are not finished.
    fn settled(&self) -> Vec<usize> {
        let settled =
            |image: &ImageState| !image.finished && (image.waiting.is_empty() || image.error.is_some());
        (0..self.images.len()).filter(|&index| settled(&self.images[index])).collect()
    }

    fn error(&self, index: usize) -> Option<Arc<Error>> {
        self.images[index].error.clone()
    }

    fn finish(&mut self, index: usize, error: Option<Arc<Error>>) {
        self.images[index].finished = true;
        self.images[index].error = error;
    }

    fn layer_done(&mut self, plan: &Plan, fetch: usize, wrong: &[(usize, Arc<Error>)]) {
        let fetch = &plan.fetches[fetch];
        for (index, claim) in fetch.claims.iter().enumerate() {
            match wrong.iter().find(|(claim, _)| *claim == index) {
                Some((_, error)) => self.claim_failed(claim, error),
                None => self.each(claim, |image| {
                    image.waiting.remove(&fetch.digest);
                }),
            }
        }
    }

    fn layer_failed(&mut self, plan: &Plan, finished: &Finished<'_>) {
        let fetch = &plan.fetches[finished.fetch];
        for (index, error) in &finished.wrong_claims {
            self.claim_failed(&fetch.claims[*index], error);
        }
        if let Err(error) = &finished.result {
            self.all_claims_failed(plan, finished.fetch, error);
        }
    }

    fn all_claims_failed(&mut self, plan: &Plan, fetch: usize, error: &Arc<Error>) {
        for claim in &plan.fetches[fetch].claims {
            self.claim_failed(claim, error);
        }
    }

    fn claim_failed(&mut self, claim: &Claim, error: &Arc<Error>) {
        self.each(claim, |image| {
            image.error.get_or_insert_with(|| Arc::clone(error));
        });
    }

    fn each(&mut self, claim: &Claim, mut change: impl FnMut(&mut ImageState)) {
        for reference in &claim.images {
            if let Some(&index) = self.positions.get(reference) {
                change(&mut self.images[index]);
            }
        }
    }

    fn into_results(self, plan: &Plan, stopped: bool) -> Vec<(ImageRef, Action, Option<Arc<Error>>)> {
        let result = |(state, image): (ImageState, &PlannedImage)| {
            let error = match (state.finished, stopped) {
                (true, _) => state.error,
                // Nothing ends a run before its images are settled but the stop switch.
                (false, _) => Some(Arc::new(Error::Stopped)),
            };
            (image.reference.clone(), image.action, error)
        };
        self.images.into_iter().zip(&plan.images).map(result).collect()
    }
}

/// What the threads that fetch share.
struct Job<'a> {
    registries: &'a Registries,
    store: &'a Store,
    options: extract::Options,
    workers: &'a Workers,
    reporter: &'a dyn Reporter,
    cancel: &'a Cancel,
    counters: &'a Counters,
}

impl<'a> Job<'a> {
    /// Brings one blob into staging, by the first claim that holds.
    fn run(&self, index: usize, fetch: &Fetch) -> Finished<'a> {
        let mut wrong_claims = Vec::new();
        let mut last = None;
        for (position, claim) in fetch.claims.iter().enumerate() {
            match self.layer(claim) {
                Ok(staged) => {
                    let facts = LayerFacts { diff_id: claim.layer.diff_id.clone(), size: claim.layer.size };
                    for (other, claim) in fetch.claims.iter().enumerate().skip(position + 1) {
                        // Claims that say the same are one.
                        if let Some(error) = contradiction(&claim.layer, &facts) {
                            wrong_claims.push((other, Arc::new(error)));
                        }
                    }
                    return Finished { fetch: index, result: Ok(staged), wrong_claims };
                }
                Err(error) => {
                    let error = Arc::new(error);
                    wrong_claims.push((position, Arc::clone(&error)));
                    last = Some(error);
                }
            }
        }
        self.reporter.report(Event::LayerFinished { digest: fetch.digest.clone(), ok: false });
        let error = last.unwrap_or_else(|| Arc::new(Error::Stopped));
        Finished { fetch: index, result: Err(error), wrong_claims }
    }

    fn layer(&self, claim: &Claim) -> Result<Staged<'a>, Error> {
        let mut restarts = 0;
        loop {
            match self.attempt(claim) {
                // The bytes are not the blob's: an old prefix was damaged, or somebody on the way is lying.
                Err(Attempt::WrongBytes(error))
                    if restarts < CLEAN_RESTARTS && !self.cancel.is_cancelled() =>
                {
                    restarts += 1;
                    if let Some(image) = claim.images.first() {
                        self.registries.distrust_mirrors(image, &claim.layer.digest)?;
                    }
                    self.reporter
                        .report(Event::Detail(format!("{}: {error}; fetching it again", claim.layer.digest)));
                }
                Err(Attempt::WrongBytes(error)) => return Err(wrong_blob(claim, error)),
                Err(Attempt::Failed(error)) => return Err(error),
                Ok(staged) => return Ok(staged),
            }
        }
    }

    fn attempt(&self, claim: &Claim) -> Result<Staged<'a>, Attempt> {
        let layer = &claim.layer;
        let spool = self.store.spool(&layer.digest, layer.size)?;
        let staged = self.store.stage(&layer.digest)?;
        let (tree, record) = (staged.tree()?, staged.record()?);
        let image = claim.images.first().cloned();
        if let Some(image) = image {
            let (digest, size, resumed) = (layer.digest.clone(), layer.size, spool.length());
            self.reporter.report(Event::LayerStarted { digest, size, resumed, image });
        }
        let (algorithm, blob_size) = (layer.diff_id.algorithm(), layer.size);
        let options = extract::Options { algorithm, blob_size, ..self.options };
        let hopeless = &AtomicBool::new(false);
        let (received, extracted) = std::thread::scope(|scope| {
            let compressed = Watched {
                inner: spool.reader(),
                digest: &layer.digest,
                reporter: self.reporter,
                cancel: self.cancel,
            };
            let extraction =
                std::thread::Builder::new().name("extract".to_owned()).spawn_scoped(scope, move || {
                    let result = extract::extract(compressed, tree, record, options, self.workers);
                    // More bytes will not help: do not fetch them. (A broken stream is another matter: whether
                    // the blob or the registry is at fault shows when it is complete.)
                    if matches!(result, Err(LayerError::Write { .. } | LayerError::Limit { .. })) {
                        hopeless.store(true, Ordering::Relaxed);
                    }
                    result
                });
            let received = self.receive(claim, &spool, hopeless);
            match received {
                Ok(()) => spool.complete(),
                Err(_) => spool.give_up(),
            }
            let extracted = extraction.map(|thread| match thread.join() {
                Ok(result) => result,
                // A panic is a defect of ours; it ends the thread, and must not end the run.
                Err(_) => {
                    Err(LayerError::Tar { offset: 0, reason: "the extraction thread failed".to_owned() })
                }
            });
            (received, extracted)
        });
        if self.cancel.is_cancelled() {
            return Err(Attempt::Failed(Error::Stopped));
        }
        if !hopeless.load(Ordering::Relaxed) {
            received?;
        }
        let failed = |error| Attempt::Failed(Error::Layer { digest: layer.digest.clone(), error });
        let extracted =
            extracted.map_err(StoreError::io("start a thread that writes to", self.store.layers()))?;
        match extracted {
            Ok(extracted) if extracted.diff_id == layer.diff_id => {
                if extracted.no_xattrs && !self.counters.warned_no_xattrs.swap(true, Ordering::Relaxed) {
                    self.reporter.report(Event::Warning(format!(
                        "the file system of {} has no extended attributes: owners and special modes of files are not kept",
                        self.store.layers().display()
                    )));
                }
                self.counters.extracted.fetch_add(extracted.totals.tar_bytes, Ordering::Relaxed);
                staged.ready()?;
                spool.remove()?;
                Ok(staged)
            }
            Ok(extracted) => {
                spool.remove()?;
                let (expected, actual) = (layer.diff_id.clone(), extracted.diff_id);
                Err(failed(LayerError::DiffId { expected, actual }))
            }
            Err(error) => {
                // The blob is right, but this machine could not take it: the next run need not fetch it again.
                if !matches!(error, LayerError::Write { .. }) {
                    spool.remove()?;
                }
                Err(failed(error))
            }
        }
    }

    /// Completes the spool, hashing what an earlier run left and what comes.
    fn receive(&self, claim: &Claim, spool: &Spool, hopeless: &AtomicBool) -> Result<(), Attempt> {
        let layer = &claim.layer;
        let mut verifier = Verifier::new(&layer.digest, layer.size);
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while verifier.seen() < spool.length() {
            let count = spool.read_at(&mut buffer, verifier.seen())?;
            if self.cancel.is_cancelled() {
                return Err(Attempt::Failed(Error::Stopped));
            }
            if count == 0 {
                let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "somebody cut it short");
                return Err(StoreError::io("read the partial download", spool.path())(source).into());
            }
            // Never too long: a spool beyond the size was emptied when it was opened.
            let _ = verifier.update(&buffer[..count]);
        }
        if verifier.seen() < layer.size {
            let Some(image) = claim.images.first() else { return Err(Attempt::Failed(Error::Stopped)) };
            let mut reader = self.registries.blob(image, layer, verifier.seen()).map_err(Error::from)?;
            loop {
                if self.cancel.is_cancelled() || hopeless.load(Ordering::Relaxed) {
                    return Err(Attempt::Failed(Error::Stopped));
                }
                let count = reader.read(&mut buffer).map_err(|error| unreadable(claim, error))?;
                if count == 0 {
                    break;
                }
                verifier.update(&buffer[..count]).map_err(|error| wrong_bytes(spool, error))?;
                spool.append(&buffer[..count])?;
                self.counters.downloaded.fetch_add(count as u64, Ordering::Relaxed);
                self.reporter
                    .report(Event::LayerReceived { digest: layer.digest.clone(), bytes: count as u64 });
            }
        }
        verifier.finish().map_err(|error| wrong_bytes(spool, error))
    }
}

/// Nothing of a blob with wrong bytes may be used again.
fn wrong_bytes(spool: &Spool, error: ContentMismatch) -> Attempt {
    match spool.remove() {
        Ok(()) => Attempt::WrongBytes(error),
        Err(error) => Attempt::Failed(error.into()),
    }
}

/// Why one attempt at a layer failed.
enum Attempt {
    /// Other bytes than the digest's came.
    WrongBytes(ContentMismatch),
    /// For good.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why a blob could not be read to its end.
fn unreadable(claim: &Claim, error: std::io::Error) -> Error {
    let cause = BlobReader::cause(error).unwrap_or_else(|error| RegistryError::Protocol {
        url: format!("layer {}", claim.layer.digest),
        reason: error.to_string(),
    });
    cause.into()
}

/// Wrong bytes, with who sent them.
fn wrong_blob(claim: &Claim, source: ContentMismatch) -> Error {
    let host = claim.images.first().map_or("the registry", |image| image.registry()).to_owned();
    RegistryError::Mismatch { what: format!("layer {}", claim.layer.digest), host, source }.into()
}

/// Reports compressed bytes as extraction takes them, and ends it when the run is stopped.
struct Watched<'a, R> {
    cancel: &'a Cancel,
    inner: R,
    digest: &'a BlobDigest,
    reporter: &'a dyn Reporter,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(std::io::Error::other("stopped"));
        }
        let count = self.inner.read(buffer)?;
        if count > 0 {
            self.reporter.report(Event::LayerExtracted { digest: self.digest.clone(), bytes: count as u64 });
        }
        Ok(count)
    }
}
