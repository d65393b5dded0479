//! One layer on its way: from the socket through the spool and the extractor into staging.
//!
//! The calling thread reads the socket, hashes and spools; a second one extracts the spool while
//! the spool grows. A small blob is received first, and extracted by the same thread. Bytes that
//! are not the blob's are thrown away and fetched again from the first; any other failure is final
//! here (the registry room has tried again already).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::asked::{asked_for, permission_to_fetch, unreadable, wrong_blob};
use super::source::{FromStart, Source};
use crate::cancel::Cancel;
use crate::digest::{BlobDigest, ContentMismatch, Verifier};
use crate::error::{Error, LayerError, StoreError};
use crate::extract::{self, Extracted, Workers};
use crate::image_ref::ImageRef;
use crate::plan::{Claim, Fetch, contradiction};
use crate::progress::{Event, Reporter};
use crate::registry::Registries;
use crate::state::{LayerDescriptor, LayerFacts, Permission};
use crate::store::{self, Spool, Staged, Store};
use crate::threads;

/// The number of bytes that are read from a socket at once.
const RECEIVE_BUFFER: usize = 128 * 1024;
/// The number of times that a blob whose bytes are wrong is fetched again from its first byte.
const CLEAN_RESTARTS: usize = 2;

/// The claims that a layer contradicts, by position, each with the error.
pub(super) type WrongClaims = Vec<(usize, Arc<Error>)>;

/// A blob that has arrived, with all that its plan wanted of it.
#[derive(Default)]
pub(super) struct Arrived<'s> {
    /// The layer, where it was to be extracted.
    pub(super) staged: Option<Staged<'s>>,
    /// The whole blob, where it is to be kept.
    pub(super) spool: Option<Arc<Spool>>,
    /// The bytes of the uncompressed layer, where it was extracted just now.
    extracted: u64,
}

/// The result of fetching one blob.
pub(super) struct Finished<'s> {
    /// The position of the fetch in the plan.
    pub(super) fetch: usize,
    /// The blob, or the reason why there is none.
    pub(super) result: Result<Arrived<'s>, Arc<Error>>,
    /// The claims that this very layer contradicts.
    pub(super) wrong_claims: WrongClaims,
}

/// The sums of a run, over all its threads.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) downloaded: AtomicU64,
    pub(super) extracted: AtomicU64,
    warned_no_xattrs: AtomicBool,
}

/// Everything that the threads which fetch share.
pub(super) struct Fetcher<'a> {
    pub(super) registries: &'a Registries,
    /// The images whose registries must not be asked.
    pub(super) unasked: &'a BTreeMap<ImageRef, Permission>,
    pub(super) store: &'a Store,
    pub(super) options: extract::Options,
    pub(super) workers: &'a Workers,
    pub(super) reporter: &'a dyn Reporter,
    pub(super) cancel: &'a Cancel,
    pub(super) counters: &'a Counters,
    /// Hears of each blob to be kept that is whole and verified.
    pub(super) on_whole: &'a (dyn Fn(&BlobDigest, u64) + Sync),
}

/// The work with one blob.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Work {
    extract: bool,
    keep: bool,
    /// True if the bytes are those of the kept blob.
    from_kept: bool,
    /// True if images do not agree about the layer, and no extraction tells which of them is right.
    compare: bool,
}

impl<'a> Fetcher<'a> {
    /// Brings one blob into staging, by the first claim that holds, and reports the end of that.
    pub(super) fn run(&self, index: usize, fetch: &Fetch) -> Finished<'a> {
        let finished = self.bring(index, fetch);
        let digest = fetch.digest().clone();
        self.reporter.report(match &finished.result {
            Ok(arrived) => Event::LayerArrived { digest, extracted: arrived.extracted },
            Err(_) => Event::LayerFinished { digest, ok: false },
        });
        finished
    }

    fn bring(&self, index: usize, fetch: &Fetch) -> Finished<'a> {
        let Fetch { extract, keep, is_kept: from_kept, .. } = *fetch;
        let compare = !extract && fetch.claims().nth(1).is_some();
        let mut work = Work { extract, keep, from_kept, compare };
        let before = if work.extract { self.extracted_before(fetch) } else { None };
        let (mut staged_before, mut wrong_claims) = match before {
            Some((staged, wrong_claims)) if !work.keep => {
                let arrived = Arrived { staged: Some(staged), ..Arrived::default() };
                return Finished { fetch: index, result: Ok(arrived), wrong_claims };
            }
            // Only the blob is still wanted.
            Some((staged, wrong_claims)) => (Some(staged), wrong_claims),
            None => (None, Vec::new()),
        };
        work.extract &= staged_before.is_none();
        let known_wrong: Vec<usize> = wrong_claims.iter().map(|(position, _)| *position).collect();
        for (position, claim) in fetch.claims().enumerate() {
            if known_wrong.contains(&position) {
                continue;
            }
            match self.layer(claim, work) {
                Ok(mut arrived) => {
                    let facts =
                        LayerFacts { diff_id: claim.layer().diff_id.clone(), size: claim.layer().size };
                    // Claims that say the same are one: each other one is wrong.
                    let others = wrong_by(&facts, fetch);
                    let is_new = |other: usize| other > position && !known_wrong.contains(&other);
                    wrong_claims.extend(others.into_iter().filter(|(other, _)| is_new(*other)));
                    arrived.staged = arrived.staged.or(staged_before.take());
                    return Finished { fetch: index, result: Ok(arrived), wrong_claims };
                }
                Err(error) => wrong_claims.push((position, Arc::new(error))),
            }
        }
        let last = wrong_claims.last().map(|(_, error)| Arc::clone(error));
        let error = last.unwrap_or_else(|| Arc::new(Error::Stopped));
        Finished { fetch: index, result: Err(error), wrong_claims }
    }

    /// Takes the layer that an earlier run has extracted and could not give its name, with the
    /// claims that the layer contradicts; not if it contradicts all.
    fn extracted_before(&self, fetch: &Fetch) -> Option<(Staged<'a>, WrongClaims)> {
        let (staged, mut inventory) = store::unplaced(self.store, fetch.digest())?;
        let wrong = wrong_by(&extract::read_facts(&mut inventory)?, fetch);
        (wrong.len() < fetch.claims().count()).then_some((staged, wrong))
    }

    /// Brings a blob here as `claim` describes it; wrong bytes are fetched again.
    fn layer(&self, claim: &Claim, mut work: Work) -> Result<Arrived<'a>, Error> {
        let mut restarts = 0;
        loop {
            match self.attempt(claim, work) {
                // The kept blob is damaged, or gone: the registry's takes its place.
                Err(FailedAttempt::WrongBytes(error)) if work.from_kept => {
                    permission_to_fetch(claim, self.unasked)?;
                    (work.from_kept, work.keep) = (false, true);
                    let text = format!("the kept blob {}: {error}; fetching it again", claim.layer().digest);
                    self.reporter.report(Event::Warning(text));
                }
                // The bytes are not the blob's: an old prefix was damaged, or somebody on the way
                // is lying.
                Err(FailedAttempt::WrongBytes(error))
                    if restarts < CLEAN_RESTARTS && !self.cancel.is_cancelled() =>
                {
                    restarts += 1;
                    if let Some(image) = asked_for(claim, self.unasked) {
                        self.registries.distrust_mirrors(image, &claim.layer().digest)?;
                    }
                    self.reporter.report(Event::Detail(format!(
                        "{}: {error}; fetching it again",
                        claim.layer().digest
                    )));
                }
                Err(FailedAttempt::WrongBytes(error)) => {
                    return Err(wrong_blob(self.registries, asked_for(claim, self.unasked), claim, error));
                }
                Err(FailedAttempt::Failed(error)) => return Err(error),
                Ok(arrived) => return Ok(arrived),
            }
        }
    }

    /// Tries once to bring a blob here, and into staging at the same time where it is to be
    /// extracted; then compares the layer with the claim.
    fn attempt(&self, claim: &Claim, work: Work) -> Result<Arrived<'a>, FailedAttempt> {
        let layer = claim.layer();
        let source = self.source(claim, work)?;
        let failed = |error| FailedAttempt::Failed(Error::Layer { digest: layer.digest.clone(), error });
        if !work.extract {
            self.receive_to_end(claim, &source, &AtomicBool::new(false))?;
            if work.compare {
                let diff_id =
                    extract::diff_id(source.reader(self.store)?, self.options.of(layer), self.workers);
                let facts = LayerFacts { diff_id: diff_id.map_err(failed)?, size: layer.size };
                contradiction(layer, &facts).map_or(Ok(()), |error| Err(FailedAttempt::Failed(error)))?;
            }
            let spool = self.whole(claim, source, work);
            return Ok(Arrived { spool, ..Arrived::default() });
        }
        let staged = store::stage(self.store, &layer.digest)?;
        let transfer = self.transfer(claim, &source, &staged)?;
        if self.cancel.is_cancelled() {
            return Err(FailedAttempt::Failed(Error::Stopped));
        }
        if !transfer.hopeless {
            transfer.received?;
        }
        let extracted = transfer
            .extracted
            .map_err(StoreError::io("start a thread that writes to", self.store.layers()))?;
        match extracted {
            Ok(extracted) if extracted.diff_id == layer.diff_id => {
                let staged = Some(self.finish(&extracted, staged).map_err(FailedAttempt::Failed)?);
                let spool = self.whole(claim, source, work);
                Ok(Arrived { staged, spool, extracted: extracted.totals.tar_bytes })
            }
            Ok(extracted) => {
                source.discard()?;
                let (expected, actual) = (layer.diff_id.clone().into(), extracted.diff_id.into());
                Err(failed(LayerError::DiffId { expected, actual }))
            }
            Err(error) => {
                // The blob is right, but this machine could not take it: the next run need not
                // fetch it again.
                if !error.is_of_this_machine() {
                    source.discard()?;
                }
                Err(failed(error))
            }
        }
    }

    /// Opens the source of a blob's bytes: the kept blob, or the spool that a registry fills.
    fn source(&self, claim: &Claim, work: Work) -> Result<Source, FailedAttempt> {
        let LayerDescriptor { digest, size, .. } = claim.layer();
        if work.from_kept {
            let absent = || ContentMismatch::TooShort { digest: digest.clone(), expected: *size, actual: 0 };
            let kept = self.store.open_blob(digest, *size)?.map(Source::Kept);
            return kept.ok_or_else(|| FailedAttempt::WrongBytes(absent()));
        }
        let spool = self.store.spool(digest, *size)?;
        self.report_start(claim, &spool);
        Ok(Source::Spool(spool))
    }

    /// Tells of a whole, verified blob that is to be kept, and returns its spool; removes the spool
    /// of one that is not.
    fn whole(&self, claim: &Claim, source: Source, work: Work) -> Option<Arc<Spool>> {
        let Source::Spool(spool) = source else { return None };
        if work.keep {
            (self.on_whole)(&claim.layer().digest, claim.layer().size);
            return Some(spool);
        }
        if let Err(error) = spool.remove() {
            // The layer is none the worse for it.
            self.reporter.report(Event::Warning(error.to_string()));
        }
        None
    }

    fn report_start(&self, claim: &Claim, spool: &Spool) {
        if let Some(image) = asked_for(claim, self.unasked).cloned() {
            let (digest, size, resumed) = (claim.layer().digest.clone(), claim.layer().size, spool.length());
            self.reporter.report(Event::LayerStarted { digest, size, resumed, image });
        }
    }

    /// Receives a blob, or reads the kept one, while a second thread extracts it into staging; a
    /// small one is extracted after that.
    fn transfer(
        &self,
        claim: &Claim,
        source: &Source,
        staged: &Staged<'_>,
    ) -> Result<Transfer, FailedAttempt> {
        let layer = claim.layer();
        let (tree, inventory) = (staged.tree()?, staged.inventory()?);
        let options = self.options.of(layer);
        let compressed = Watched {
            inner: source.reader(self.store)?,
            digest: &layer.digest,
            reporter: self.reporter,
            cancel: self.cancel,
        };
        let extract = move || extract::extract(compressed, tree, inventory, options, self.workers);
        // A panic is a defect of ours; it ends the layer, and must not end the run.
        let panicked = || Err(LayerError::Defect { what: "the thread that extracts a layer" });
        let hopeless = AtomicBool::new(false);
        if layer.size <= extract::SMALL_BLOB {
            self.receive_to_end(claim, source, &hopeless)?;
            let extracted = catch_unwind(AssertUnwindSafe(extract)).unwrap_or_else(|_| panicked());
            return Ok(Transfer { received: Ok(()), extracted: Ok(extracted), hopeless: false });
        }
        let (received, extracted) = std::thread::scope(|scope| {
            let hopeless = &hopeless;
            let extraction = threads::start_in(scope, "extract", move || {
                let result = extract();
                // More bytes will not help: do not fetch them. (A broken stream is another matter:
                // whether the blob or the registry is at fault shows when the blob is complete.)
                let ends_all = |error: &LayerError| {
                    error.is_of_this_machine() || matches!(error, LayerError::Limit { .. })
                };
                if result.as_ref().is_err_and(ends_all) {
                    hopeless.store(true, Ordering::Relaxed);
                }
                result
            });
            let received = self.receive_to_end(claim, source, hopeless);
            let extracted = extraction.map(|thread| thread.join().unwrap_or_else(|_| panicked()));
            (received, extracted)
        });
        Ok(Transfer { received, extracted, hopeless: hopeless.into_inner() })
    }

    /// Receives a blob, or reads the kept one, and tells whoever reads the spool how that ended.
    fn receive_to_end(
        &self,
        claim: &Claim,
        source: &Source,
        hopeless: &AtomicBool,
    ) -> Result<(), FailedAttempt> {
        match source {
            Source::Kept(file) => self.check(claim, file),
            Source::Spool(spool) => {
                let received = self.receive(claim, spool, hopeless);
                match received {
                    Ok(()) => spool.complete(),
                    Err(_) => spool.give_up(),
                }
                received
            }
        }
    }

    /// Compares a kept blob with its digest.
    fn check(&self, claim: &Claim, file: &File) -> Result<(), FailedAttempt> {
        let layer = claim.layer();
        let compared = Verifier::new(&layer.digest, layer.size)
            .read(&mut FromStart::of(file), &|| self.cancel.is_cancelled());
        match compared {
            _ if self.cancel.is_cancelled() => Err(FailedAttempt::Failed(Error::Stopped)),
            Ok(result) => result.map_err(FailedAttempt::WrongBytes),
            Err(error) => Err(StoreError::io("read a kept blob in", self.store.home().path())(error).into()),
        }
    }

    /// Makes a layer that is as claimed ready to get its name.
    fn finish(&self, extracted: &Extracted, staged: Staged<'a>) -> Result<Staged<'a>, Error> {
        if extracted.no_xattrs && !self.counters.warned_no_xattrs.swap(true, Ordering::Relaxed) {
            self.reporter.report(Event::Warning(format!(
                "the file system of {} has no extended attributes: owners and special modes of files are not kept",
                self.store.layers().display()
            )));
        }
        self.counters.extracted.fetch_add(extracted.totals.tar_bytes, Ordering::Relaxed);
        self.adopt(&staged)?;
        staged.ready()?;
        Ok(staged)
    }

    /// Takes a tree that another program has extracted from the same blob for the layer, if the two
    /// are the same, rather than to replace the tree.
    fn adopt(&self, staged: &Staged<'_>) -> Result<(), Error> {
        let Some(tree) = staged.foreign() else { return Ok(()) };
        let (mut inventory, adapted) = staged.inventories()?;
        let kept = adapted.try_clone().map_err(StoreError::io("open", self.store.layers()))?;
        let digest = staged.digest();
        let text = match extract::compare_foreign(&tree, &mut inventory, adapted, self.cancel) {
            Ok(found) if self.cancel.is_cancelled() || found.count > 0 => {
                format!("layer {digest}: what is there was not extracted by msb-sync, and differs: {found}")
            }
            Ok(_) => {
                staged.adopt(&kept)?;
                format!("layer {digest}: what is there is the same, and is kept")
            }
            Err(error) => format!("layer {digest}: what is there cannot be compared: {error}"),
        };
        self.reporter.report(Event::Detail(text));
        Ok(())
    }

    /// Completes the spool, and hashes both what an earlier run left and what comes.
    fn receive(&self, claim: &Claim, spool: &Spool, hopeless: &AtomicBool) -> Result<(), FailedAttempt> {
        let layer = claim.layer();
        let mut verifier = Verifier::new(&layer.digest, layer.size);
        let size = usize::try_from(layer.size).unwrap_or(RECEIVE_BUFFER);
        let mut buffer = vec![0; size.clamp(1, RECEIVE_BUFFER)];
        while verifier.seen() < spool.length() {
            let count = spool.read_at(&mut buffer, verifier.seen())?;
            if self.cancel.is_cancelled() {
                return Err(FailedAttempt::Failed(Error::Stopped));
            }
            if count == 0 {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "somebody cut it short");
                return Err(StoreError::io("read the partial download", spool.path())(source).into());
            }
            // Never too long: a spool beyond the size was emptied when it was opened.
            let _ = verifier.update(&buffer[..count]);
        }
        if verifier.seen() < layer.size {
            let Some(image) = asked_for(claim, self.unasked) else {
                return Err(FailedAttempt::Failed(Error::Stopped));
            };
            let mut reader = self.registries.blob(image, layer, verifier.seen()).map_err(Error::from)?;
            loop {
                if self.cancel.is_cancelled() || hopeless.load(Ordering::Relaxed) {
                    return Err(FailedAttempt::Failed(Error::Stopped));
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

/// Throws the spool of a blob with wrong bytes away: nothing of it may be used again.
fn wrong_bytes(spool: &Spool, error: ContentMismatch) -> FailedAttempt {
    match spool.remove() {
        Ok(()) => FailedAttempt::WrongBytes(error),
        Err(error) => FailedAttempt::Failed(error.into()),
    }
}

/// The results of receiving and extracting one blob.
struct Transfer {
    received: Result<(), FailedAttempt>,
    /// The outer error: the system gave no thread.
    extracted: io::Result<Result<Extracted, LayerError>>,
    /// True if extraction failed so that more bytes do not help.
    hopeless: bool,
}

/// The reason why one attempt at a layer failed.
enum FailedAttempt {
    /// Other bytes came than those of the digest.
    WrongBytes(ContentMismatch),
    /// The failure is final.
    Failed(Error),
}

/// The claims of `fetch` that contradict the `facts` about its layer.
fn wrong_by(facts: &LayerFacts, fetch: &Fetch) -> WrongClaims {
    let claims = fetch.claims().enumerate();
    claims
        .filter_map(|(position, claim)| Some((position, Arc::new(contradiction(claim.layer(), facts)?))))
        .collect()
}

impl<E: Into<Error>> From<E> for FailedAttempt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// A reader that reports compressed bytes as extraction takes them, and ends when the run is
/// stopped.
struct Watched<'a, R> {
    cancel: &'a Cancel,
    inner: R,
    digest: &'a BlobDigest,
    reporter: &'a dyn Reporter,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        let count = self.inner.read(buffer)?;
        if count > 0 {
            self.reporter.report(Event::LayerExtracted { digest: self.digest.clone(), bytes: count as u64 });
        }
        Ok(count)
    }
}
