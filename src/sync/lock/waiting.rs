//! New digests that `lock --upgrade` sees and does not take yet: the lockfile notes each with the
//! time when it was first seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::lockfile::Lockfile;
use crate::observe::{Answer, Asker, Cooled, CooledChoice, Digests, FromList, News, Question};
use crate::plan::{Cooldown, Waiting, candidate_of};
use crate::state::{Platform, TagCandidate, TagSelection};
use crate::sync::steps::load::Loaded;

/// The cooldowns of one images file, and the digests that wait.
pub(super) struct Waits<'a> {
    noted: &'a BTreeMap<ImageRef, TagCandidate>,
    now: Timestamp,
    none: BTreeSet<ImageRef>,
    times: BTreeMap<ImageRef, Duration>,
    /// The images that are listed by name, with their platforms.
    listed: BTreeSet<(ImageRef, Platform)>,
    /// The tags that were looked up, and the repositories alone of which tags were chosen anew.
    asked: BTreeSet<ImageRef>,
    waiting: BTreeMap<ImageRef, Waiting>,
    admitted: Digests,
    /// The chosen tags that their registry has no more.
    gone: BTreeSet<ImageRef>,
}

impl<'a> Waits<'a> {
    /// Takes the cooldowns from the file, and the digests that wait from its lockfile.
    pub(super) fn new(loaded: &Loaded, old: &'a Lockfile, now: Timestamp) -> Self {
        let mut times: BTreeMap<ImageRef, Duration> = BTreeMap::new();
        let files = loaded.for_each_platform();
        let mut listed = BTreeSet::new();
        for image in files.iter().flat_map(|file| &file.images) {
            listed.insert((image.reference.clone(), image.platform.clone()));
            let time = times.entry(image.reference.clone()).or_default();
            *time = image.cooldown.max(*time);
        }
        let selections = files.iter().flat_map(|file| &file.selections);
        for selection in selections {
            let time = times.entry(selection.repository.clone()).or_default();
            *time = selection.cooldown.max(*time);
        }
        Self {
            noted: old.candidates(),
            now,
            none: BTreeSet::new(),
            times,
            listed,
            asked: BTreeSet::new(),
            waiting: BTreeMap::new(),
            admitted: Digests::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Returns the cooldown of a locked image that is looked up again; a pinned one has none.
    pub(super) fn of(&mut self, reference: &ImageRef) -> Option<Cooldown> {
        let repository = reference.repository_alone();
        let time = self.times.get(reference).or_else(|| self.times.get(&repository)).copied()?;
        self.asked.insert(reference.clone());
        let cooldown = self.news().cooldown(reference, time);
        (reference.digest().is_none() && !time.is_zero()).then_some(cooldown)
    }

    /// Takes note that a new digest waits.
    pub(super) fn note(&mut self, reference: ImageRef, digest: &BlobDigest) {
        let cooldown = self.of(&reference);
        let waiting = cooldown.and_then(|cooldown| cooldown.waiting(digest));
        self.waiting.extend(waiting.map(|waiting| (reference, waiting)));
    }

    /// Lists the tags of `repository` that a list of tags is to be searched for: those of the last
    /// choice, those listed by name, and those noted.
    pub(super) fn known_tags(&self, repository: &ImageRef, taken: &BTreeSet<String>) -> BTreeSet<String> {
        let listed = self.listed_tags(repository).map(|(tag, _)| tag.to_owned());
        taken.iter().cloned().chain(listed).chain(self.news().noted(repository)).collect()
    }

    /// Lists the tags of `repository` that are listed by name, each with its platform.
    fn listed_tags(&self, repository: &ImageRef) -> impl Iterator<Item = (&str, &Platform)> {
        let is_tag = |name: &ImageRef| name.digest().is_none() && name.is_of(repository);
        let listed = self.listed.iter().filter(move |(name, _)| is_tag(name));
        listed.filter_map(|(name, platform)| Some((name.tag()?, platform)))
    }

    /// Lets a selection that chose the tags `taken` before choose anew from `from_list`.
    pub(super) fn choose(
        &mut self,
        selection: &TagSelection,
        taken: BTreeSet<String>,
        from_list: FromList,
        asker: &Asker<'_>,
    ) -> Vec<String> {
        self.asked.insert(selection.repository.clone());
        let TagSelection { repository, platform, .. } = selection;
        let listed = self.listed_tags(repository).filter(|(_, of)| *of == platform);
        let listed = listed.map(|(tag, _)| tag.to_owned()).collect();
        let cooled = Cooled { repository, selection, taken, listed, news: self.news() };
        let tags: Vec<ImageRef> = cooled.to_ask(&from_list).into_iter().collect();
        let question =
            |tag: &ImageRef| Question::Digest { tag: tag.clone(), platform: selection.platform.clone() };
        let answers = asker.ask_all(tags.iter().map(question).collect());
        let digests: Digests = tags
            .into_iter()
            .zip(answers)
            .filter_map(|(tag, answer)| match answer {
                Answer::Digest(digest) => Some((tag, digest.ok()?)),
                _ => None,
            })
            .collect();
        let CooledChoice { tags, gone, new_tags, admitted } = cooled.choose(from_list, &digests);
        self.gone.extend(gone.iter().filter_map(|tag| repository.with_tag(tag).ok()));
        self.admitted.extend(admitted);
        for new in new_tags {
            let waiting = self.news().cooldown(&new.tag, new.cooldown).waiting(&new.digest);
            self.waiting.extend(waiting.map(|waiting| (new.tag, waiting)));
        }
        [tags, gone].concat()
    }

    /// True if a selection chose `reference`, which its registry has no more, until others have
    /// waited.
    pub(super) fn is_gone(&self, reference: &ImageRef) -> bool {
        self.gone.contains(reference)
    }

    /// Returns the digests of newly chosen tags that have waited, by which they are to be fetched.
    pub(super) fn take_admitted(&mut self) -> Digests {
        std::mem::take(&mut self.admitted)
    }

    /// Returns the notes for the new lockfile: of what was not looked up, those of the old one, as
    /// long as `is_locked` says that the tag is of an image or of a selection.
    pub(super) fn candidates(
        &self,
        is_locked: impl Fn(&ImageRef) -> bool,
    ) -> BTreeMap<ImageRef, TagCandidate> {
        // A tag that is listed by name does not wait for a selection.
        let was_chosen_anew =
            |tag: &ImageRef| !self.times.contains_key(tag) && self.asked.contains(&tag.repository_alone());
        let was_asked = |tag: &ImageRef| self.asked.contains(tag) || was_chosen_anew(tag);
        let kept = self.noted.iter().filter(|(tag, _)| !was_asked(tag) && is_locked(tag));
        let kept = kept.map(|(tag, noted)| (tag.clone(), noted.clone()));
        let note =
            |(tag, waiting): (&ImageRef, &Waiting)| (tag.clone(), candidate_of(waiting, self.noted.get(tag)));
        kept.chain(self.waiting.iter().map(note)).collect()
    }

    /// Returns the digests that wait.
    pub(super) fn into_waiting(self) -> BTreeMap<ImageRef, Waiting> {
        self.waiting
    }

    fn news(&self) -> News<'_> {
        News { candidates: self.noted, taken_now: &self.none, now: self.now }
    }
}
