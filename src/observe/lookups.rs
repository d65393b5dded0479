//! The present meaning of every image of a run: questions made of what is desired, and answers
//! gathered.
//!
//! Images that selections choose from a list join the questions, so that no lookup waits for a list
//! that it does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::asker::{AllAnswered, Answer, Asker, ImageQuestion, Question};
use super::selections::{Deciding, Repository, Selected};
use super::signatures::{Judged, Permission, SignatureQuestion, Signatures};
use crate::digest::BlobDigest;
use crate::error::{Absent, Defect, Error, RegistryError};
use crate::image_ref::ImageRef;
use crate::progress::Reporter;
use crate::registry::{Lookup, Registries};
use crate::state::{
    Desired, DesiredImage, LayerDescriptor, LockedImage, Observed, PullPolicy, RecordedImage, Resolution,
    ResolvedImage, Verdict,
};
use crate::threads;

/// Hears everything resolved so far while lookups stall, and can ask whether all have ended
/// meanwhile.
pub(super) type Listener<'l> = &'l mut dyn FnMut(&Known, AllAnswered<'_>);

/// The lookups of a run.
pub(super) struct Lookups<'a> {
    pub(super) registries: &'a Registries,
    pub(super) signatures: &'a Signatures<'a>,
    pub(super) offline: bool,
    pub(super) parallel: usize,
    pub(super) reporter: &'a dyn Reporter,
    /// The rows of the catalog.
    pub(super) recorded: &'a BTreeMap<ImageRef, RecordedImage>,
    /// True if images that the lockfile names and the catalog lacks are looked up too.
    pub(super) locked_too: bool,
    /// True if the documents of images are needed, also of those recorded without them.
    pub(super) documents_too: bool,
}

/// Everything resolved so far.
#[derive(Clone, Default)]
pub(super) struct Known {
    resolutions: BTreeMap<ImageRef, Resolution>,
    /// The verdicts about those of them that a rule of trust names.
    verdicts: BTreeMap<ImageRef, Verdict>,
    selections: Vec<Selected>,
}

/// The purpose of a question: what its answer is for.
enum Purpose<'a> {
    /// A wanted image.
    Image(ImageRef),
    /// An image that the lockfile names.
    Locked(Arc<LockedImage>),
    /// An image whose meaning is known, and whose signatures are not.
    Signatures(ImageRef, Resolution),
    /// Selections of tags.
    Tags(Deciding<'a>),
}

/// A digest at which an image is to be, whatever its tag means now.
struct Fixed<'a> {
    digest: &'a BlobDigest,
    /// The meaning of the reference by that digest, where it is known.
    meaning: Option<&'a Arc<ResolvedImage>>,
    /// The word for what is missing where nobody may be asked.
    absent: Absent,
}

impl Known {
    /// Puts the answers where the planner looks for them.
    pub(super) fn into_observed(self, observed: &mut Observed) {
        observed.resolutions = self.resolutions;
        observed.verdicts = self.verdicts;
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

    /// Returns the part of `desired` that is resolved by now, and what was observed of it; a run
    /// leaves the others alone.
    pub(super) fn part_of(&self, desired: &Desired, recorded: &Observed) -> (Desired, Observed) {
        let mut observed = recorded.clone();
        self.clone().into_observed(&mut observed);
        let mut desired = desired.clone();
        let chosen: BTreeSet<ImageRef> =
            self.selections.iter().map(|selected| selected.repository.clone()).collect();
        let mut awaited = BTreeSet::new();
        // A refused image waits for all others: the proof of one of them may be its own.
        let is_refused =
            |reference: &ImageRef| self.verdicts.get(reference).and_then(Verdict::error).is_some();
        let is_known =
            |reference: &ImageRef| self.resolutions.contains_key(reference) && !is_refused(reference);
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
        let asker = Asker { registries, signatures, parallel, reporter };
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
                let row = self.recorded.get(reference)?;
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
            (Purpose::Image(reference), Answer::Image(answer)) => (
                reference.clone(),
                match answer {
                    Ok(Lookup::Same) => Resolution::AsRecorded,
                    Ok(Lookup::Image(image)) => Resolution::Resolved(Arc::new(ResolvedImage {
                        reference: reference.clone(),
                        ..*image
                    })),
                    Err(error) => Resolution::Blocked(Arc::new(error.into())),
                },
            ),
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
            (Purpose::Tags(deciding), Answer::Tags(choices)) => {
                return self.of_selected(deciding.finish(choices), known);
            }
            // The asker answers questions in kind.
            _ => return Vec::new(),
        };
        // Whoever was asked for the image may be asked for its signatures.
        self.settle(reference, resolution, Permission::Granted, known).into_iter().collect()
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
        let deciding = repository.decide(self.recorded, may_ask);
        let (repository, selections) = (deciding.name().clone(), deciding.open());
        if selections.is_empty() {
            return self.of_selected(deciding.finish(Ok(Vec::new())), known);
        }
        vec![(Purpose::Tags(deciding), Question::Tags { repository, selections })]
    }

    /// Returns the questions for the images that selections have chosen.
    fn of_selected<'d>(&self, selected: Selected, known: &Mutex<Known>) -> Vec<(Purpose<'d>, Question<'d>)> {
        let images = selected.images.iter();
        let questions = images.filter_map(|selected| self.of_image(&selected.image, known)).collect();
        threads::lock(known).selections.push(selected);
        questions
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
        let (reference, platform) = (image.reference.clone(), image.platform.clone());
        match self.without_asking(image, self.recorded) {
            Some(Resolution::Locked(locked)) if self.locked_too => {
                let pinned = Some(locked.digest.clone());
                let question = ImageQuestion { reference, platform, known: None, pinned };
                Some((Purpose::Locked(locked), Question::Image(question)))
            }
            Some(Resolution::AsRecorded) if self.lacks_documents(image) => {
                let pinned = known_digest(image, self.recorded);
                let purpose = Purpose::Image(reference.clone());
                let question = ImageQuestion { reference, platform, known: None, pinned };
                Some((purpose, Question::Image(question)))
            }
            Some(resolution) => self.settle(reference, resolution, self.permission(image), known),
            None => {
                let digest = known_digest(image, self.recorded).filter(|_| !self.lacks_documents(image));
                let purpose = Purpose::Image(reference.clone());
                let question = ImageQuestion { reference, platform, known: digest, pinned: None };
                Some((purpose, Question::Image(question)))
            }
        }
    }

    /// Finds out who forbids asking for the signatures of an image whose meaning is known.
    fn permission(&self, image: &DesiredImage) -> Permission {
        if image.pull == PullPolicy::Never {
            Permission::NeverPulled
        } else if self.offline && !self.registries.is_local(&image.reference) {
            Permission::Offline
        } else {
            Permission::Granted
        }
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
            let meaning = meaning.filter(|meaning| !(self.documents_too && meaning.documents.is_empty()));
            return Some(Fixed { digest: &back.digest, meaning, absent: Absent::Image });
        }
        let row = self.recorded.get(&image.reference).filter(|row| row.held.is_some())?;
        Some(Fixed { digest: row.digest.as_ref()?, meaning: None, absent: Absent::Image })
    }

    /// Returns the question for an image that is to be at a digest, whatever its tag means now.
    fn of_fixed<'d>(
        &self,
        image: &DesiredImage,
        Fixed { digest, meaning, absent }: Fixed<'_>,
        known: &Mutex<Known>,
    ) -> Option<(Purpose<'d>, Question<'d>)> {
        let (reference, platform) = (image.reference.clone(), image.platform.clone());
        let is_recorded = known_digest(image, self.recorded).as_ref() == Some(digest);
        let resolution = if is_recorded && !self.lacks_documents(image) {
            Resolution::AsRecorded
        } else if let Some(meaning) = meaning {
            Resolution::Resolved(Arc::clone(meaning))
        } else if image.pull == PullPolicy::Never {
            never_pulled(absent)
        } else if self.offline && !self.registries.is_local(&reference) {
            forbidden_offline(absent)
        } else {
            let purpose = Purpose::Image(reference.clone());
            let pinned = Some(digest.clone());
            return Some((
                purpose,
                Question::Image(ImageQuestion { reference, platform, known: None, pinned }),
            ));
        };
        self.settle(reference, resolution, self.permission(image), known)
    }

    /// True if the image is recorded without the documents that are needed, and its registry may be
    /// asked for them.
    fn lacks_documents(&self, image: &DesiredImage) -> bool {
        let may_ask = !self.offline || self.registries.is_local(&image.reference);
        let row = self.recorded.get(&image.reference);
        self.documents_too
            && may_ask
            && image.pull != PullPolicy::Never
            && row.is_some_and(|row| row.documents.is_empty())
    }

    /// Decides an image that needs no request: by the lockfile, or by the pull policy.
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

pub(super) fn never_pulled(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::NeverPulled(absent)))
}

pub(super) fn forbidden_offline(absent: Absent) -> Resolution {
    Resolution::Blocked(Arc::new(Error::Offline(absent)))
}

/// Accepts the image that the registry has under the locked digest, if it is the lockfile's.
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

/// Finds the first layer of the lockfile that `layers` have not, and what they have in its place.
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

/// Finds the row of the image, if all its names are recorded with the lockfile's manifest.
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

/// Returns the digest to compare with, if what is recorded is good enough to be kept as it is.
fn known_digest(image: &DesiredImage, recorded: &BTreeMap<ImageRef, RecordedImage>) -> Option<BlobDigest> {
    let names = image.reference.recorded_names();
    let rows: Option<Vec<&RecordedImage>> = names.iter().map(|name| recorded.get(name)).collect();
    let rows = rows?;
    let good = rows.iter().all(|row| {
        row.rows_complete && row.platform.as_ref() == Some(&image.platform) && row.digest == rows[0].digest
    });
    if good { rows[0].digest.clone() } else { None }
}
