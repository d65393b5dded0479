//! The one way to ask registries, for runs and for `lock`: a few threads, which the registries
//! share.
//!
//! An image whose digest is known is asked for by HEAD first; if it has moved, it joins the queue
//! again, so that a registry's tags are all asked before any of them is fetched. An answer may
//! bring forth more questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use super::chooser::{Choices, choose_from_list, newer_in_list};
use super::remembered::Remembered;
use super::signatures::{SignatureQuestion, Signatures};
use crate::digest::{Algorithm, BlobDigest};
use crate::error::RegistryError;
use crate::image_ref::ImageRef;
use crate::plan::Cooldown;
use crate::progress::{Event, Reporter};
use crate::queue::Queue;
use crate::registry::{Lookup, Meaning, Registries};
use crate::state::{DesiredImage, Platform, TagSelection, Verdict};
use crate::threads;

/// A waiting run looks for answers at least this often.
const GLANCE: Duration = Duration::from_millis(250);

/// Tells whether all questions have been answered meanwhile.
pub(crate) type AllAnswered<'e> = &'e (dyn Fn() -> bool + Sync);

/// Hears that no answer has come for a while, again and again until one comes.
pub(crate) type OnStall<'s> = &'s mut dyn FnMut(AllAnswered<'_>);

/// Takes an answer to the question that came with a key, and returns more questions.
pub(crate) type OnAnswer<'f, 'q, K> = &'f (dyn Fn(K, Answer) -> Vec<(K, Question<'q>)> + Sync);

/// Whoever asks registries.
pub(crate) struct Asker<'a> {
    pub(crate) registries: &'a Registries,
    pub(crate) signatures: &'a Signatures<'a>,
    /// Whoever knows the meanings of digests that need not be fetched; `None`: all are fetched.
    pub(crate) remembered: Option<&'a Remembered<'a>>,
    /// The number of questions under way at once, at most.
    pub(crate) parallel: usize,
    pub(crate) reporter: &'a dyn Reporter,
}

/// A question to a registry.
#[derive(Clone, Debug)]
pub(crate) enum Question<'q> {
    /// The meaning of a reference.
    Image(ImageQuestion),
    /// The verdict about the signatures of an image.
    Signatures(SignatureQuestion),
    /// The tags that selections choose from the list of a repository.
    Tags {
        /// The repository alone.
        repository: ImageRef,
        /// The selections.
        selections: Vec<&'q TagSelection>,
        /// The tags that are told of as well where the list has them and they fit.
        known: BTreeSet<String>,
    },
    /// The digest that a tag means.
    Digest {
        /// The tag.
        tag: ImageRef,
        /// The platform to ask for where the registry tells no digest by itself.
        platform: Platform,
    },
    /// The tags of a repository that are newer than others.
    Newer {
        /// The repository alone.
        repository: ImageRef,
        /// The other tags.
        than: Vec<String>,
    },
}

/// The question for the meaning of `reference` for `platform`.
#[derive(Clone, Debug)]
pub(crate) struct ImageQuestion {
    pub(crate) reference: ImageRef,
    pub(crate) platform: Platform,
    /// The digest that needs no fetch.
    pub(crate) known: Option<BlobDigest>,
    /// True if that is the digest of an image which is ready and not recorded.
    pub(crate) is_staged: bool,
    /// The digest to ask for in place of the tag.
    pub(crate) pinned: Option<BlobDigest>,
    /// The time that a new digest of the tag has to wait: nothing is fetched of one that waits.
    pub(crate) cooldown: Option<Cooldown>,
}

/// The answer to a [`Question`] of the same kind.
pub(crate) enum Answer {
    /// The meaning of a reference.
    Image(Result<Lookup, RegistryError>),
    /// The new digest of a tag, which waits.
    Waits(BlobDigest),
    /// The digest of a tag.
    Digest(Result<BlobDigest, RegistryError>),
    /// The verdict about the signatures of an image.
    Signatures(Verdict),
    /// The choices of the selections, in their order.
    Tags(Result<Choices, RegistryError>),
    /// The newer tags, newest first, for each of the others in their order.
    Newer(Result<Vec<Vec<String>>, RegistryError>),
}

/// A step of the way to an answer, as it stands in the queue.
enum Step<'q> {
    First(Question<'q>),
    /// The image does not, or may not, mean its known digest any more.
    Fetch(ImageQuestion, BlobDigest, Meaning),
}

/// The end of the first step of an image's question.
enum Begun {
    /// The question is answered.
    Answered(ImageRef, Answer),
    /// The image is to be fetched: it does not, or may not, mean its known digest any more.
    Open(Box<(ImageQuestion, BlobDigest, Meaning)>),
}

impl Question<'_> {
    fn name(&self) -> &ImageRef {
        match self {
            Self::Image(image) => &image.reference,
            Self::Signatures(image) => &image.reference,
            Self::Digest { tag, .. } => tag,
            Self::Tags { repository, .. } | Self::Newer { repository, .. } => repository,
        }
    }
}

impl ImageQuestion {
    /// Asks for all that the reference of `image` means.
    pub(super) fn of(image: &DesiredImage) -> Self {
        Self {
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            known: None,
            is_staged: false,
            pinned: None,
            cooldown: None,
        }
    }

    /// Asks for all of `image` by `digest`.
    pub(super) fn by_digest(image: &DesiredImage, digest: BlobDigest) -> Self {
        Self { pinned: Some(digest), ..Self::of(image) }
    }

    /// Returns the reference that the registry is asked for.
    fn asked(&self) -> ImageRef {
        match &self.pinned {
            Some(digest) => self.reference.with_digest(digest),
            None => self.reference.clone(),
        }
    }

    /// True if the new digest `digest` of the tag waits.
    pub(crate) fn waits_for(&self, digest: &BlobDigest) -> bool {
        self.cooldown.as_ref().is_some_and(|cooldown| cooldown.waiting(digest).is_some())
    }
}

/// Asks for the digest that `tag` means, by HEAD where the registry says as much.
fn digest_of(
    registries: &Registries,
    tag: &ImageRef,
    platform: &Platform,
) -> Result<BlobDigest, RegistryError> {
    // No tag means no bytes.
    let none = BlobDigest::of(Algorithm::Sha256, b"");
    let meaning = registries.check(tag, &none)?;
    registries.fetch_not(tag);
    if let Meaning::Digest(digest) = meaning {
        return Ok(digest);
    }
    match registries.resolve(tag, platform, None)? {
        Lookup::Image(image) => Ok(image.digest),
        Lookup::Same => Ok(none),
    }
}

impl Asker<'_> {
    /// Finds the meaning of an image by `digest` where that is known without its registry.
    fn remembered(&self, image: &ImageQuestion, digest: Option<&BlobDigest>) -> Option<Lookup> {
        let found = self.remembered?.find(&image.reference, &image.platform, digest?)?;
        Some(Lookup::Image(Box::new(found)))
    }

    /// Finds all that an image means, without its registry where that is known of `digest`.
    fn whole(&self, image: &ImageQuestion, digest: Option<&BlobDigest>) -> Result<Lookup, RegistryError> {
        let found = self.remembered(image, digest);
        found.map_or_else(|| self.registries.resolve(&image.asked(), &image.platform, None), Ok)
    }

    /// Asks the first thing about an image.
    fn begin(&self, image: ImageQuestion) -> Begun {
        let (registries, asked) = (self.registries, image.asked());
        let Some(known) = &image.known else {
            let answer = Answer::Image(self.whole(&image, image.pinned.as_ref()));
            return Begun::Answered(image.reference, answer);
        };
        let answer = match registries.check(&asked, known) {
            Ok(Meaning::Same) if image.is_staged => Answer::Image(self.whole(&image, Some(known))),
            Ok(Meaning::Same) => Answer::Image(Ok(Lookup::Same)),
            Ok(Meaning::Digest(digest)) if image.waits_for(&digest) => {
                registries.fetch_not(&asked);
                Answer::Waits(digest)
            }
            Ok(meaning) => {
                let digest = if let Meaning::Digest(digest) = &meaning { Some(digest) } else { None };
                let Some(found) = self.remembered(&image, digest) else {
                    let known = known.clone();
                    return Begun::Open(Box::new((image, known, meaning)));
                };
                registries.fetch_not(&asked);
                Answer::Image(Ok(found))
            }
            Err(error) => Answer::Image(Err(error)),
        };
        Begun::Answered(image.reference, answer)
    }

    /// Asks `questions`, and returns the answers in their order.
    pub(crate) fn ask_all(&self, questions: Vec<Question<'_>>) -> Vec<Answer> {
        let answers = Mutex::new(BTreeMap::new());
        let take = |index, answer| {
            threads::lock(&answers).insert(index, answer);
            Vec::new()
        };
        self.ask(questions.into_iter().enumerate().collect(), &take, None);
        threads::unpoisoned(answers.into_inner()).into_values().collect()
    }

    /// Asks `questions`, and the questions that their answers bring forth, and returns when all are
    /// answered. While no answer comes for a while, calls `on_stall` on this thread.
    pub(crate) fn ask<'q, K: Send>(
        &self,
        questions: Vec<(K, Question<'q>)>,
        on_answer: OnAnswer<'_, 'q, K>,
        on_stall: Option<OnStall<'_>>,
    ) {
        if questions.is_empty() {
            return;
        }
        let listing = questions.iter().any(|(_, question)| matches!(question, Question::Tags { .. }));
        let threads = if listing { self.parallel } else { self.parallel.min(questions.len()) };
        let asking = Asking { asker: self, on_answer, queue: Queue::new([]), answered: AtomicUsize::new(0) };
        asking.push(questions);
        let Some(on_stall) = on_stall else {
            threads::work_in_parallel("lookups", threads, || asking.work());
            return;
        };
        let (at_work, at_rest) = bounded::<()>(0);
        std::thread::scope(|scope| {
            let asking = &asking;
            let start = |_: &usize| {
                let at_work = at_work.clone();
                let work = move || {
                    asking.work();
                    drop(at_work);
                };
                threads::start_in(scope, "lookups", work).is_ok()
            };
            // Where the system refuses threads there are fewer.
            if (0..threads).filter(start).count() == 0 {
                return asking.work();
            }
            drop(at_work);
            asking.listen(&at_rest, on_stall);
        });
    }
}

/// Questions under way, as the threads share them.
struct Asking<'w, 'q, K> {
    asker: &'w Asker<'w>,
    on_answer: OnAnswer<'w, 'q, K>,
    queue: Queue<(K, Step<'q>)>,
    /// The number of questions that were answered.
    answered: AtomicUsize,
}

impl<'q, K> Asking<'_, 'q, K> {
    /// Adds questions to the queue, each in its registry's lane.
    fn push(&self, questions: Vec<(K, Question<'q>)>) {
        if questions.is_empty() {
            return;
        }
        for (_, question) in &questions {
            if let Question::Image(image) = question {
                self.asker.registries.announce(&image.asked(), image.known.as_ref());
            }
        }
        let references = questions.iter().map(|(_, question)| question.name().clone()).collect();
        self.asker.reporter.report(Event::Resolving { references });
        self.queue.push(
            questions
                .into_iter()
                .map(|(key, question)| (question.name().registry().to_owned(), (key, Step::First(question)))),
        );
    }

    /// Works until every question is answered.
    fn work(&self)
    where
        K: Send,
    {
        while let Some(taken) = self.queue.next() {
            let (key, step) = taken.job;
            let registries = self.asker.registries;
            let (name, answer) = match step {
                Step::First(Question::Digest { tag, platform }) => {
                    let digest = digest_of(registries, &tag, &platform);
                    (tag, Answer::Digest(digest))
                }
                Step::First(Question::Tags { repository, selections, known }) => {
                    let choices = choose_from_list(registries, &repository, &selections, &known);
                    (repository, Answer::Tags(choices))
                }
                Step::First(Question::Newer { repository, than }) => {
                    let newer = newer_in_list(registries, &repository, &than);
                    (repository, Answer::Newer(newer))
                }
                Step::First(Question::Signatures(image)) => {
                    let verdict = self.asker.signatures.ask(&image);
                    (image.reference, Answer::Signatures(verdict))
                }
                Step::First(Question::Image(image)) => match self.asker.begin(image) {
                    Begun::Answered(name, answer) => (name, answer),
                    Begun::Open(step) => {
                        let lane = step.0.reference.registry().to_owned();
                        let (image, known, meaning) = *step;
                        self.queue.push([(lane, (key, Step::Fetch(image, known, meaning)))]);
                        // That is a step and no answer, but shows that the registry lives.
                        self.answered.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                },
                Step::Fetch(image, known, meaning) => {
                    let answer = match registries.fetch(&image.asked(), &image.platform, &known, &meaning) {
                        // Nothing is recorded that could be the same.
                        Ok(Lookup::Same) if image.is_staged => self.asker.whole(&image, Some(&known)),
                        answer => answer,
                    };
                    (image.reference, Answer::Image(answer))
                }
            };
            // Before the question counts as answered: the queue ends when nobody is at work.
            self.push((self.on_answer)(key, answer));
            self.asker.reporter.report(Event::Resolved(name));
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until nobody is at work any more, and calls `on_stall` while no answer comes.
    fn listen(&self, at_rest: &Receiver<()>, on_stall: OnStall<'_>) {
        let (mut answered, mut since) = (0, Instant::now());
        let patience = self.asker.registries.lookup_patience();
        let glance = GLANCE.min(patience / 4);
        while at_rest.recv_timeout(glance) == Err(RecvTimeoutError::Timeout) {
            let by_now = self.answered.load(Ordering::Relaxed);
            if by_now != answered {
                (answered, since) = (by_now, Instant::now());
            } else if since.elapsed() >= patience {
                on_stall(&|| at_rest.try_recv() == Err(TryRecvError::Disconnected));
            }
        }
    }
}
