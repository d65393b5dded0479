//! The present meaning of every image of a run: questions made of what is desired, and answers
//! gathered.
//!
//! Images that selections choose from a list join the questions, so that no lookup waits for a list
//! that it does not need.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::absent::{Content, Wishes, permission};
use super::asker::{AllAnswered, Answer, Asker, ImageQuestion, Question};
use super::chooser::Choices;
use super::cooling::{Cooling, News};
use super::known::{Known, Listener};
use super::locked::{confirm, known_digest, mismatch, other_layer, recorded_as_locked};
use super::remembered::{Remembered, staged_digest};
use super::selections::{Deciding, Repository, Selected};
use super::signatures::{Judged, SignatureQuestion, Signatures};
use crate::digest::BlobDigest;
use crate::error::{Absent, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::plan::Cooldown;
use crate::progress::Reporter;
use crate::registry::{Lookup, Registries};
use crate::state::{
    Desired, DesiredImage, LockedImage, Observed, Permission, PullPolicy, RecordedImage, Resolution,
    ResolvedImage,
};
use crate::threads;

/// The lookups of a run.
pub(super) struct Lookups<'a> {
    pub(super) registries: &'a Registries,
    pub(super) signatures: &'a Signatures<'a>,
    /// Whoever knows the meanings of digests that need not be fetched.
    pub(super) remembered: &'a Remembered<'a>,
    pub(super) offline: bool,
    pub(super) parallel: usize,
    pub(super) reporter: &'a dyn Reporter,
    pub(super) desired: &'a Desired,
    /// The catalog and the engines, which were looked at before.
    pub(super) observed: &'a Observed,
    pub(super) wishes: Wishes<'a>,
    /// True if images that the lockfile names and the catalog lacks are looked up too.
    pub(super) locked_too: bool,
}

/// The purpose of a question: what its answer is for.
enum Purpose<'a> {
    /// A wanted image, with the question as it was asked.
    Image(ImageQuestion),
    /// An image that the lockfile names.
    Locked(Arc<LockedImage>),
    /// An image whose meaning is known, and whose signatures are not.
    Signatures(ImageRef, Resolution),
    /// Selections of tags.
    Tags(Deciding<'a>),
    /// The digest of a tag that a selection may choose for the first time.
    NewTag(Arc<Mutex<Option<Cooling<'a>>>>, ImageRef),
}

/// A digest at which an image is to be, whatever its tag means now.
struct Fixed<'a> {
    digest: &'a BlobDigest,
    /// The meaning of the reference by that digest, where it is known.
    meaning: Option<&'a Arc<ResolvedImage>>,
    /// The word for what is missing where nobody may be asked.
    absent: Absent,
}

impl Lookups<'_> {
    /// Looks everything up. While no lookup ends for a while, calls `listener` with everything
    /// resolved so far, each time that it has become more.
    pub(super) fn run(&self, desired: &Desired, listener: Option<Listener<'_>>) -> Known {
        let known = Mutex::new(Known::default());
        let mut questions = Vec::new();
        for repository in Repository::all(desired) {
            questions.extend(self.of_repository(repository, &known));
        }
        questions.extend(desired.images.iter().filter_map(|image| self.of_image(image, &known)));
        let Self { registries, signatures, parallel, reporter, .. } = *self;
        let remembered = Some(self.remembered);
        let asker = Asker { registries, signatures, remembered, parallel, reporter };
        let take = |purpose, answer| self.take(purpose, answer, &known);
        match listener {
            None => asker.ask(questions, &take, None),
            Some(listener) => {
                let mut told = 0;
                let mut on_stall = |all_answered: AllAnswered<'_>| {
                    let by_now = threads::lock(&known).clone();
                    let size = by_now.resolutions.len() + by_now.selections.len();
                    if size > told {
                        told = size;
                        listener(&by_now, all_answered);
                    }
                };
                asker.ask(questions, &take, Some(&mut on_stall));
            }
        }
        let mut known = threads::unpoisoned(known.into_inner());
        self.share_proofs(&mut known);
        known
    }

    /// Lets proofs that were found beside one image hold for all images of the same digests,
    /// whichever of them was asked about first: so says the next run, by the proofs that are noted.
    fn share_proofs(&self, known: &mut Known) {
        for (reference, verdict) in &mut known.verdicts {
            if verdict.error().is_some()
                && let Some(resolution) = known.resolutions.get(reference)
                && let Some(asked) = self.question(reference, resolution)
                && let Some(proven) = self.signatures.by_found(&asked)
            {
                *verdict = proven;
            }
        }
    }

    /// Makes the question for the signatures of an image that has this meaning.
    fn question(&self, reference: &ImageRef, resolution: &Resolution) -> Option<SignatureQuestion> {
        let (digest, manifest) = match resolution {
            Resolution::Blocked(_) => return None,
            Resolution::Resolved(image) => (image.digest.clone(), image.manifest.digest.clone()),
            Resolution::Locked(image) => (image.digest.clone(), image.manifest.clone()),
            Resolution::AsRecorded => {
                let row = self.observed.recorded.get(reference)?;
                (row.digest.clone()?, row.manifest_digest.clone()?)
            }
        };
        Some(SignatureQuestion { reference: reference.clone(), digest, manifest })
    }

    /// Takes an answer, and returns the questions that it brings forth.
    fn take<'d>(
        &self,
        purpose: Purpose<'d>,
        answer: Answer,
        known: &Mutex<Known>,
    ) -> Vec<(Purpose<'d>, Question<'d>)> {
        let (reference, resolution) = match (purpose, answer) {
            (Purpose::Image(asked), Answer::Waits(digest)) => return self.wait(asked, digest, known),
            (Purpose::Image(asked), Answer::Image(Ok(Lookup::Image(image))))
                if asked.waits_for(&image.digest) =>
            {
                return self.wait(asked, image.digest, known);
            }
            (Purpose::Image(asked), Answer::Image(answer)) => {
                (asked.reference.clone(), resolution_of(asked, answer, known))
            }
            (Purpose::Locked(locked), Answer::Image(answer)) => (
                locked.reference.clone(),
                match confirm(&locked, answer) {
                    Ok(resolved) => Resolution::Resolved(Arc::new(resolved)),
                    Err(error) => Resolution::Blocked(Arc::new(error)),
                },
            ),
            (Purpose::Signatures(reference, resolution), Answer::Signatures(verdict)) => {
                let mut known = threads::lock(known);
                known.verdicts.insert(reference.clone(), verdict);
                known.resolutions.insert(reference, resolution);
                return Vec::new();
            }
            (Purpose::Tags(deciding), Answer::Tags(Ok(choices))) => {
                return self.cool(deciding, choices, known);
            }
            (Purpose::Tags(deciding), Answer::Tags(Err(error))) => {
                return self.of_selected(deciding.finish(Err(error)), known);
            }
            (Purpose::NewTag(cooling, tag), Answer::Digest(digest)) => {
                let mut cooling = threads::lock(&cooling);
                let is_last = cooling.as_mut().is_some_and(|cooling| cooling.take(&tag, digest.ok()));
                let Some(cooled) = cooling.take_if(|_| is_last) else { return Vec::new() };
                return self.of_selected(cooled.finish(&self.observed.recorded, self.news()), known);
            }
            // The asker answers questions in kind.
            _ => return Vec::new(),
        };
        // Whoever was asked for the image may be asked for its signatures.
        self.settle(reference, resolution, Permission::Granted, known).into_iter().collect()
    }

    /// Takes note that a tag's new digest waits: the image stays as it is recorded. Where that
    /// cannot be told from the rows, asks for the recorded digest.
    fn wait<'d>(
        &self,
        asked: ImageQuestion,
        digest: BlobDigest,
        known: &Mutex<Known>,
    ) -> Vec<(Purpose<'d>, Question<'d>)> {
        let reference = asked.reference.clone();
        threads::lock(known).seen.insert(reference.clone(), digest);
        if asked.known.is_some() && !asked.is_staged {
            let settled = self.settle(reference, Resolution::AsRecorded, Permission::Granted, known);
            return settled.into_iter().collect();
        }
        let pinned = self.observed.recorded.get(&reference).and_then(|row| row.digest.clone());
        let asked = ImageQuestion { pinned, known: None, is_staged: false, cooldown: None, ..asked };
        vec![(Purpose::Image(asked.clone()), Question::Image(asked))]
    }

    /// Returns the questions for the digests of newly chosen tags, or for the images where no tag
    /// is new.
    fn cool<'d>(
        &self,
        deciding: Deciding<'d>,
        choices: Choices,
        known: &Mutex<Known>,
    ) -> Vec<(Purpose<'d>, Question<'d>)> {
        let (cooling, questions) = Cooling::begin(deciding, choices, &self.observed.recorded, self.news());
        if questions.is_empty() {
            return self.of_selected(cooling.finish(&self.observed.recorded, self.news()), known);
        }
        let cooling = Arc::new(Mutex::new(Some(cooling)));
        let question = |(tag, platform): (ImageRef, _)| {
            (Purpose::NewTag(Arc::clone(&cooling), tag.clone()), Question::Digest { tag, platform })
        };
        questions.into_iter().map(question).collect()
    }

    /// Lists the tags of a repository that have been recorded, listed by name, or noted as new.
    fn known_tags(&self, deciding: &Deciding<'_>) -> BTreeSet<String> {
        let repository = deciding.name();
        let recorded = ImageRef::all_of(repository, &self.observed.recorded).map(|(name, _)| name);
        let recorded = recorded.filter(|name| name.digest().is_none()).filter_map(|name| name.tag());
        let tags = recorded.chain(deciding.listed_tags().map(|(tag, _)| tag));
        tags.map(str::to_owned).chain(self.news().noted(repository)).collect()
    }

    /// Everything that says how long tags have been known.
    fn news(&self) -> News<'_> {
        let Observed { candidates, now, .. } = self.observed;
        News { candidates, taken_now: &self.desired.taken_now, now: *now }
    }

    /// Takes note of the meaning of an image, or returns the question for the image's signatures:
    /// nothing is done about an image before its signatures are judged.
    fn settle<'d>(
        &self,
        reference: ImageRef,
        resolution: Resolution,
        permission: Permission,
        known: &Mutex<Known>,
    ) -> Option<(Purpose<'d>, Question<'d>)> {
        let judged = match self.question(&reference, &resolution) {
            Some(asked) => match self.signatures.without_asking(&asked, permission) {
                Judged::Ask { .. } => {
                    let purpose = Purpose::Signatures(reference, resolution);
                    return Some((purpose, Question::Signatures(asked)));
                }
                judged => judged,
            },
            None => Judged::NothingWanted,
        };
        let mut known = threads::lock(known);
        if let Judged::Verdict(verdict) = judged {
            known.verdicts.insert(reference.clone(), verdict);
        }
        known.resolutions.insert(reference, resolution);
        None
    }

    /// Returns the question for the list of a repository, if its selections need that, else the
    /// questions for the images that they choose.
    fn of_repository<'d>(
        &self,
        repository: Repository<'d>,
        known: &Mutex<Known>,
    ) -> Vec<(Purpose<'d>, Question<'d>)> {
        let may_ask = !self.offline || self.registries.is_local(&repository.name);
        let deciding = repository.decide(&self.observed.recorded, may_ask);
        let (repository, selections) = (deciding.name().clone(), deciding.open());
        if selections.is_empty() {
            return self.of_selected(deciding.finish(Ok(Vec::new())), known);
        }
        let cools = selections.iter().any(|selection| !selection.cooldown.is_zero());
        let known = if cools { self.known_tags(&deciding) } else { BTreeSet::new() };
        vec![(Purpose::Tags(deciding), Question::Tags { repository, selections, known })]
    }

    /// Returns the questions for the images that selections have chosen.
    fn of_selected<'d>(
        &self,
        mut selected: Selected,
        known: &Mutex<Known>,
    ) -> Vec<(Purpose<'d>, Question<'d>)> {
        let chosen = selected.images.iter_mut().map(|selected| &mut selected.image);
        for image in chosen.filter(|image| self.desired.taken_now.contains(&image.reference)) {
            image.cooldown = Duration::ZERO;
        }
        let images = selected.images.iter().map(|selected| &selected.image);
        let question = |image: &DesiredImage| {
            let admitted = selected.admitted.get(&image.reference).filter(|_| image.locked.is_none());
            match admitted.filter(|_| !self.observed.recorded.contains_key(&image.reference)) {
                Some(digest) => Some(Self::of_digest(image, digest.clone())),
                None => self.of_image(image, known),
            }
        };
        let questions = images.filter_map(question).collect();
        threads::lock(known).selections.push(selected);
        questions
    }

    /// Returns the question for an image by its digest.
    fn of_digest<'d>(image: &DesiredImage, digest: BlobDigest) -> (Purpose<'d>, Question<'d>) {
        let question = ImageQuestion::by_digest(image, digest);
        (Purpose::Image(question.clone()), Question::Image(question))
    }

    /// Returns the question for an image, unless its meaning is known without.
    fn of_image<'d>(
        &self,
        image: &DesiredImage,
        known: &Mutex<Known>,
    ) -> Option<(Purpose<'d>, Question<'d>)> {
        if let Some(fixed) = self.fixed(image) {
            return self.of_fixed(image, fixed, known);
        }
        match self.without_asking(image).map(|found| self.completed(image, found)) {
            Some(Resolution::Locked(locked)) if self.locked_too => {
                let question = ImageQuestion::by_digest(image, locked.digest.clone());
                Some((Purpose::Locked(locked), Question::Image(question)))
            }
            Some(Resolution::AsRecorded) if self.lacks_documents(image) => {
                let pinned = known_digest(image, &self.observed.recorded).cloned();
                let question = ImageQuestion { pinned, ..ImageQuestion::of(image) };
                Some((Purpose::Image(question.clone()), Question::Image(question)))
            }
            Some(resolution) => {
                self.settle(image.reference.clone(), resolution, self.permission(image), known)
            }
            None => {
                let lacks_documents = self.lacks_documents(image);
                let known = known_digest(image, &self.observed.recorded).filter(|_| !lacks_documents);
                let is_recorded = self.observed.recorded.contains_key(&image.reference) && !lacks_documents;
                let staged = staged_digest(image, &self.observed.staged, is_recorded);
                let (is_staged, known, cooldown) =
                    (staged.is_some(), staged.or_else(|| known.cloned()), self.cooldown(image));
                let question = ImageQuestion { known, is_staged, cooldown, ..ImageQuestion::of(image) };
                Some((Purpose::Image(question.clone()), Question::Image(question)))
            }
        }
    }

    /// Finds the time that a new digest of the image's tag has to wait. A first add takes what is
    /// there, and so does who pinned the image; of a tag with a note the digest is worth knowing.
    fn cooldown(&self, image: &DesiredImage) -> Option<Cooldown> {
        let row = self.observed.recorded.get(&image.reference)?;
        let is_second_name = row.alias_of.is_some();
        let is_first =
            is_second_name || row.digest.is_none() || row.platform.as_ref() != Some(&image.platform);
        let is_noted = self.observed.candidates.contains_key(&image.reference);
        let is_chosen = image.reference.digest().is_some();
        let counts = !is_first && !is_chosen && (is_noted || !image.cooldown.is_zero());
        counts.then(|| self.news().cooldown(&image.reference, image.cooldown))
    }

    /// Finds out who forbids asking for an image whose meaning is known.
    fn permission(&self, image: &DesiredImage) -> Permission {
        permission(image, self.offline, self.registries)
    }

    /// Finds out at which digest an image is to be, whatever its tag means now: by the lockfile,
    /// where it fixes an index for another platform, which holds for all of them; by a way back; or
    /// since the image is held.
    fn fixed<'i>(&'i self, image: &'i DesiredImage) -> Option<Fixed<'i>> {
        if let Some(locked) = &image.locked {
            let is_of_another = locked.platform != image.platform;
            return is_of_another.then(|| Fixed {
                digest: &locked.digest,
                meaning: None,
                absent: Absent::LockedImage,
            });
        }
        if let Some(back) = &image.back_to {
            let meaning = back.meaning.as_ref();
            // An image that is to be kept whole, or loaded, needs the documents too.
            let needs_documents = self.desired.targets.uses_blobs();
            let meaning = meaning.filter(|meaning| !(needs_documents && meaning.documents.is_empty()));
            return Some(Fixed { digest: &back.digest, meaning, absent: Absent::Image });
        }
        let row = self.observed.recorded.get(&image.reference).filter(|row| row.held_itself().is_some())?;
        Some(Fixed { digest: row.digest.as_ref()?, meaning: None, absent: Absent::Image })
    }

    /// Returns the question for an image that is to be at a digest, whatever its tag means now.
    fn of_fixed<'d>(
        &self,
        image: &DesiredImage,
        Fixed { digest, meaning, absent }: Fixed<'_>,
        known: &Mutex<Known>,
    ) -> Option<(Purpose<'d>, Question<'d>)> {
        let reference = image.reference.clone();
        let is_recorded = known_digest(image, &self.observed.recorded) == Some(digest);
        let resolution = if is_recorded && !self.lacks_documents(image) {
            self.completed(image, Resolution::AsRecorded)
        } else if let Some(meaning) = meaning {
            Resolution::Resolved(Arc::clone(meaning))
        } else if let Some(refusal) = self.permission(image).refusal(absent) {
            Resolution::Blocked(Arc::new(refusal))
        } else {
            return Some(Self::of_digest(image, digest.clone()));
        };
        self.settle(reference, resolution, self.permission(image), known)
    }

    /// Completes the meaning of an image that is recorded without the documents that are needed: it
    /// may have been made ready with them.
    fn completed(&self, image: &DesiredImage, resolution: Resolution) -> Resolution {
        if let Resolution::AsRecorded = resolution
            && let Some(digest) = self.row_without_documents(image).and_then(|row| row.digest.as_ref())
            && let Some(found) = self.remembered.find(&image.reference, &image.platform, digest)
        {
            return Resolution::Resolved(Arc::new(found));
        }
        resolution
    }

    /// True if the image is recorded without the documents that are needed, and its registry may be
    /// asked for them.
    fn lacks_documents(&self, image: &DesiredImage) -> bool {
        self.permission(image) == Permission::Granted && self.row_without_documents(image).is_some()
    }

    /// Returns the row of an image that names no documents, where the run needs them: blobs that
    /// are not kept are needed for as long as an engine has still to load the image.
    fn row_without_documents(&self, image: &DesiredImage) -> Option<&RecordedImage> {
        let row = self.observed.recorded.get(&image.reference)?;
        Content::recorded(row).lacks_documents(&self.wishes, image).then_some(row)
    }

    /// Decides an image that needs no request: by the lockfile, or by the pull policy.
    fn without_asking(&self, image: &DesiredImage) -> Option<Resolution> {
        let recorded = &self.observed.recorded;
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
                self.remembered.locked(image, locked).unwrap_or_else(|| never_pulled(Absent::LockedImage))
            } else if may_ask {
                Resolution::Locked(Arc::clone(locked))
            } else {
                self.remembered
                    .locked(image, locked)
                    .unwrap_or_else(|| forbidden_offline(Absent::LockedImage))
            });
        }
        let recorded = recorded.get(&image.reference);
        // Without its digests nobody could say whether it is signed.
        let usable = recorded.is_some_and(|recorded| {
            recorded.platform.as_ref() == Some(&image.platform)
                && recorded.digest.is_some()
                && recorded.manifest_digest.is_some()
        });
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

/// Makes the meaning of an image of the answer about it.
fn resolution_of(
    asked: ImageQuestion,
    answer: Result<Lookup, RegistryError>,
    known: &Mutex<Known>,
) -> Resolution {
    let ImageQuestion { reference, known: same, cooldown, .. } = asked;
    match answer {
        Ok(Lookup::Same) => {
            if let (Some(same), Some(_)) = (same, cooldown) {
                threads::lock(known).seen.insert(reference, same);
            }
            Resolution::AsRecorded
        }
        Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(ResolvedImage { reference, ..*image })),
        Err(error) => Resolution::Blocked(Arc::new(error.into())),
    }
}

fn never_pulled(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::NeverPulled(absent)))
}

fn forbidden_offline(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::Offline(absent)))
}
