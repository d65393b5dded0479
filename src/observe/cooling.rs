//! Selections of tags with a cooldown: a tag that is chosen for the first time waits like a new
//! digest, and until then the next best tags stay chosen.
//!
//! A new tag is known by its digest, so that one that moves waits anew; the digest costs a HEAD.
//! The first choice of a selection takes what is there. A tag that is listed by name is wanted
//! anyway, and waits by its own entry only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::chooser::{Choices, FromList, compile};
use super::selections::{Deciding, Selected};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::plan::Cooldown;
use crate::state::{NewTag, Platform, RecordedImage, TagCandidate, TagSelection};

/// The digests of new tags, as far as they are known.
pub(crate) type Digests = BTreeMap<ImageRef, BlobDigest>;

/// Everything that says how long tags have been known.
#[derive(Clone, Copy)]
pub(crate) struct News<'a> {
    /// The digests of tags that were noted as new.
    pub(crate) candidates: &'a BTreeMap<ImageRef, TagCandidate>,
    /// The tags that are taken at once.
    pub(crate) taken_now: &'a BTreeSet<ImageRef>,
    /// The time of this run.
    pub(crate) now: Timestamp,
}

impl News<'_> {
    /// Returns the cooldown of `tag`.
    pub(crate) fn cooldown(&self, tag: &ImageRef, time: Duration) -> Cooldown {
        Cooldown { time, candidate: self.candidates.get(tag).cloned(), now: self.now }
    }

    /// Lists the tags of `repository` that were noted as new, or are taken at once.
    pub(crate) fn noted(&self, repository: &ImageRef) -> impl Iterator<Item = String> {
        let named = self.candidates.keys().chain(self.taken_now);
        let named = named.filter(move |name| name.is_of(repository));
        named.filter_map(|name| name.tag()).map(str::to_owned)
    }
}

/// One selection with a cooldown, and the tags of its last choice.
pub(crate) struct Cooled<'a> {
    /// The repository alone.
    pub(crate) repository: &'a ImageRef,
    /// The selection.
    pub(crate) selection: &'a TagSelection,
    /// The tags that need not wait, since they were taken before.
    pub(crate) taken: BTreeSet<String>,
    /// The tags that need not wait, since the same file lists them by name. They make no choice a
    /// later one.
    pub(crate) listed: BTreeSet<String>,
    /// The word about all other tags.
    pub(crate) news: News<'a>,
}

/// The choice of one selection with a cooldown.
pub(crate) struct CooledChoice {
    /// The chosen tags of the list, newest first.
    pub(crate) tags: Vec<String>,
    /// See [`FromList::gone`].
    pub(crate) gone: Vec<String>,
    /// The tags that would be chosen, were they not new.
    pub(crate) new_tags: Vec<NewTag>,
    /// The digests of newly chosen tags that have waited, by which they are to be fetched.
    pub(crate) admitted: Digests,
}

impl Cooled<'_> {
    /// True if new tags wait: there is a cooldown, and this is not the first choice.
    fn waits(&self) -> bool {
        !self.selection.cooldown.is_zero() && !self.taken.is_empty()
    }

    /// True if `tag` need not wait.
    fn is_free(&self, tag: &ImageRef) -> bool {
        let is_known = |name: &str| self.taken.contains(name) || self.listed.contains(name);
        tag.tag().is_some_and(is_known) || self.news.taken_now.contains(tag)
    }

    /// Lists the new tags of `choice` whose digests have to be asked for.
    pub(crate) fn to_ask(&self, choice: &FromList) -> BTreeSet<ImageRef> {
        if !self.waits() {
            return BTreeSet::new();
        }
        let all = choice.tags.iter().chain(&choice.known);
        let all = all.filter_map(|tag| self.repository.with_tag(tag).ok());
        // A noted tag that is not among the newest need not be asked before its time has come.
        let is_due = |tag: &ImageRef| {
            let is_chosen = tag.tag().is_some_and(|tag| choice.tags.iter().any(|chosen| chosen == tag));
            let noted = self.news.candidates.get(tag).map(|noted| &noted.digest);
            is_chosen || noted.is_some_and(|noted| self.cooldown(tag).waiting(noted).is_none())
        };
        all.filter(|tag| !self.is_free(tag) && is_due(tag)).collect()
    }

    /// Chooses among the tags of `choice` that need not wait, while `digests` are those of the
    /// others.
    pub(crate) fn choose(&self, choice: FromList, digests: &Digests) -> CooledChoice {
        let as_it_is = |tags| {
            let (gone, new_tags, admitted) = (Vec::new(), Vec::new(), Digests::new());
            CooledChoice { tags, gone, new_tags, admitted }
        };
        // The rule has chosen already.
        let (true, Ok(rule)) = (self.waits(), compile(self.selection)) else { return as_it_is(choice.tags) };
        let all: BTreeSet<&String> = choice.tags.iter().chain(&choice.known).collect();
        let (mut admissible, mut waiting) = (Vec::new(), Vec::new());
        let mut admitted = Digests::new();
        for &tag in &all {
            let Ok(reference) = self.repository.with_tag(tag) else { continue };
            if self.is_free(&reference) {
                admissible.push(tag.as_str());
                continue;
            }
            // A tag that was not asked, or could not be, waits on with the digest that was noted.
            let noted = self.news.candidates.get(&reference).map(|noted| &noted.digest);
            let (digest, is_sure) = match (digests.get(&reference), noted) {
                (Some(digest), _) => (digest, true),
                (None, Some(noted)) => (noted, false),
                (None, None) => continue,
            };
            if is_sure && self.cooldown(&reference).waiting(digest).is_none() {
                admissible.push(tag);
                admitted.insert(reference, digest.clone());
            } else {
                waiting.push((tag.as_str(), reference, digest.clone()));
            }
        }
        let tags = rule.choose(admissible);
        let would_be_chosen = |tag: &str| rule.choose(tags.iter().copied().chain([tag])).contains(&tag);
        let new_tags = waiting.into_iter().filter(|(tag, ..)| would_be_chosen(tag));
        let cooldown = self.selection.cooldown;
        let new_tags = new_tags.map(|(_, tag, digest)| NewTag { tag, digest, cooldown }).collect();
        admitted.retain(|reference, _| reference.tag().is_some_and(|tag| tags.contains(&tag)));
        // The places of tags that wait, or could not be asked, belong until then to those that were
        // taken and that the list has no more.
        let places = rule.choose(all.iter().map(|tag| tag.as_str())).len() - tags.len();
        let mut gone = rule.choose(self.taken.iter().filter(|tag| !all.contains(tag)).map(String::as_str));
        gone.truncate(places);
        let owned = |tags: Vec<&str>| tags.into_iter().map(str::to_owned).collect();
        CooledChoice { tags: owned(tags), gone: owned(gone), new_tags, admitted }
    }

    fn cooldown(&self, tag: &ImageRef) -> Cooldown {
        self.news.cooldown(tag, self.selection.cooldown)
    }
}

/// A repository whose new tags are being asked for their digests.
pub(super) struct Cooling<'d> {
    deciding: Deciding<'d>,
    choices: Choices,
    digests: Digests,
    /// The number of tags that have not answered yet.
    awaited: usize,
}

impl<'d> Cooling<'d> {
    /// Begins with the choices of the open selections of `deciding`, and returns the new tags whose
    /// digests have to be asked for, each with a platform.
    pub(super) fn begin(
        deciding: Deciding<'d>,
        choices: Choices,
        recorded: &BTreeMap<ImageRef, RecordedImage>,
        news: News<'_>,
    ) -> (Self, Vec<(ImageRef, Platform)>) {
        let mut questions = BTreeMap::new();
        for (selection, choice) in deciding.open().into_iter().zip(&choices) {
            let Ok(choice) = choice else { continue };
            let tags = cooled(&deciding, selection, recorded, news).to_ask(choice);
            questions.extend(tags.into_iter().map(|tag| (tag, selection.platform.clone())));
        }
        let cooling = Self { deciding, choices, digests: Digests::new(), awaited: questions.len() };
        (cooling, questions.into_iter().collect())
    }

    /// Takes the digest of a new tag, if it could be had, and tells whether that was the last one.
    pub(super) fn take(&mut self, tag: &ImageRef, digest: Option<BlobDigest>) -> bool {
        self.digests.extend(digest.map(|digest| (tag.clone(), digest)));
        self.awaited = self.awaited.saturating_sub(1);
        self.awaited == 0
    }

    /// Chooses among the tags that need not wait.
    pub(super) fn finish(self, recorded: &BTreeMap<ImageRef, RecordedImage>, news: News<'_>) -> Selected {
        let Self { deciding, choices, digests, .. } = self;
        let (mut new_tags, mut admitted) = (Vec::new(), Digests::new());
        let mut decided = Vec::with_capacity(choices.len());
        for (selection, choice) in deciding.open().into_iter().zip(choices) {
            decided.push(choice.map(|choice| {
                let chosen = cooled(&deciding, selection, recorded, news).choose(choice, &digests);
                new_tags.extend(chosen.new_tags);
                admitted.extend(chosen.admitted);
                FromList { tags: chosen.tags, known: Vec::new(), gone: chosen.gone }
            }));
        }
        Selected { new_tags, admitted, ..deciding.finish(Ok(decided)) }
    }
}

fn cooled<'a>(
    deciding: &'a Deciding<'_>,
    selection: &'a TagSelection,
    recorded: &BTreeMap<ImageRef, RecordedImage>,
    news: News<'a>,
) -> Cooled<'a> {
    let repository = deciding.name();
    let mut taken: BTreeSet<String> = deciding.taken_tags(selection, recorded).map(str::to_owned).collect();
    // Who changes the rule so that nothing fits which is here, chooses for the first time.
    if let Ok(rule) = compile(selection) {
        taken.retain(|tag| rule.allows([tag.as_str()]));
    }
    let listed = deciding.listed_tags().filter(|(_, platform)| **platform == selection.platform);
    let listed = listed.map(|(tag, _)| tag.to_owned()).collect();
    Cooled { repository, selection, taken, listed, news }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use crate::image_ref::DEFAULT_REGISTRY;
    use crate::state::{PullPolicy, TagRule};

    fn tag(name: &str) -> ImageRef {
        ImageRef::parse(&format!("docker.io/library/redis:{name}"), DEFAULT_REGISTRY).unwrap()
    }

    fn digest(of: &str) -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn selection(newest: usize) -> TagSelection {
        TagSelection {
            repository: tag("x").repository_alone(),
            platform: Platform::parse("linux/amd64").unwrap(),
            pull: PullPolicy::Always,
            groups: BTreeSet::new(),
            engines: None,
            cooldown: Duration::from_secs(10),
            rule: TagRule { newest: newest.try_into().ok(), ..TagRule::default() },
            locked: None,
        }
    }

    /// A machine at the time `now` that has taken the tags `taken` and noted some with their times.
    struct Machine {
        taken: Vec<String>,
        listed: Vec<String>,
        noted: BTreeMap<ImageRef, TagCandidate>,
        now: i64,
    }

    impl Machine {
        fn new(taken: &[&str], noted: &[(&str, &str, i64)], now: i64) -> Self {
            let note = |(of, means, since): &(&str, &str, i64)| {
                (tag(of), TagCandidate { digest: digest(means), since: at(*since), ahead: None })
            };
            let noted = noted.iter().map(note).collect();
            Self { taken: strings(taken), listed: Vec::new(), noted, now }
        }

        fn listing(self, by_name: &[&str]) -> Self {
            Self { listed: strings(by_name), ..self }
        }

        /// Lists the tags that are asked, those chosen of a list, those that wait, those admitted.
        fn choose(&self, newest: usize, listed: &[&str], means: &[(&str, &str)]) -> [Vec<String>; 4] {
            let (selection, taken_now) = (selection(newest), BTreeSet::new());
            let news = News { candidates: &self.noted, taken_now: &taken_now, now: at(self.now) };
            let taken: BTreeSet<String> = self.taken.iter().cloned().collect();
            let by_name = self.listed.iter().cloned().collect();
            let cooled = Cooled {
                repository: &selection.repository,
                selection: &selection,
                taken,
                listed: by_name,
                news,
            };
            let known: BTreeSet<String> = self
                .taken
                .iter()
                .chain(&self.listed)
                .cloned()
                .chain(news.noted(&selection.repository))
                .collect();
            let rule = compile(&selection).unwrap();
            let choice = FromList {
                tags: strings(&rule.choose(listed.iter().copied())),
                known: known.into_iter().filter(|tag| listed.contains(&tag.as_str())).collect(),
                gone: Vec::new(),
            };
            let asked = cooled.to_ask(&choice);
            let digests = means.iter().map(|(of, means)| (tag(of), digest(means)));
            let digests: Digests = digests.filter(|(tag, _)| asked.contains(tag)).collect();
            let chosen = cooled.choose(choice, &digests);
            let names =
                |tags: Vec<&ImageRef>| tags.iter().filter_map(|tag| tag.tag()).map(str::to_owned).collect();
            [
                names(asked.iter().collect()),
                [chosen.tags, chosen.gone].concat(),
                names(chosen.new_tags.iter().map(|new| &new.tag).collect()),
                names(chosen.admitted.keys().collect()),
            ]
        }
    }

    fn expect(found: &[Vec<String>; 4], expected: [&[&str]; 4]) {
        assert_eq!(*found, expected.map(strings));
    }

    #[test]
    fn a_first_choice_takes_what_there_is() {
        expect(&Machine::new(&[], &[], 0).choose(1, &["1", "2"], &[]), [&[], &["2"], &[], &[]]);
    }

    #[test]
    fn a_new_tag_waits_and_the_next_best_stays() {
        let means = [("2", "a"), ("3", "b")];
        let machine = Machine::new(&["1"], &[], 0);
        expect(&machine.choose(1, &["1", "2"], &means), [&["2"], &["1"], &["2"], &[]]);
        let machine = Machine::new(&["1"], &[("2", "a", 0)], 9);
        expect(&machine.choose(1, &["1", "2"], &means), [&["2"], &["1"], &["2"], &[]]);
        let machine = Machine::new(&["1"], &[("2", "a", 0)], 10);
        expect(&machine.choose(1, &["1", "2"], &means), [&["2"], &["2"], &[], &["2"]]);
        // A newer one keeps the noted one from nothing; the noted one is asked in its time only.
        let machine = Machine::new(&["1"], &[("2", "a", 0)], 5);
        expect(&machine.choose(1, &["1", "2", "3"], &means), [&["3"], &["1"], &["2", "3"], &[]]);
        let machine = Machine::new(&["1"], &[("2", "a", 0), ("3", "b", 5)], 12);
        expect(&machine.choose(1, &["1", "2", "3"], &means), [&["2", "3"], &["2"], &["3"], &["2"]]);
        // Once a newer one is chosen, nobody waits for the older one any more.
        let machine = Machine::new(&["1"], &[("2", "a", 8), ("3", "b", 0)], 12);
        expect(&machine.choose(1, &["1", "2", "3"], &means), [&["3"], &["3"], &[], &["3"]]);
    }

    #[test]
    fn a_tag_that_moves_or_cannot_be_asked_waits_on() {
        let machine = Machine::new(&["1"], &[("2", "a", 0)], 50);
        expect(&machine.choose(1, &["1", "2"], &[("2", "b")]), [&["2"], &["1"], &["2"], &[]]);
        expect(&machine.choose(1, &["1", "2"], &[]), [&["2"], &["1"], &["2"], &[]]);
        let machine = Machine::new(&["1"], &[], 50);
        expect(&machine.choose(1, &["1", "2"], &[]), [&["2"], &["1"], &[], &[]]);
    }

    #[test]
    fn a_tag_that_is_listed_by_name_waits_by_its_own_entry() {
        let machine = Machine::new(&["1"], &[], 0).listing(&["2"]);
        expect(&machine.choose(1, &["1", "2"], &[("2", "a")]), [&[], &["2"], &[], &[]]);
        expect(&machine.choose(1, &["1", "2", "3"], &[("3", "b")]), [&["3"], &["2"], &["3"], &[]]);
        // A note of the tag's own entry is none of the selection's.
        let machine = Machine::new(&["1"], &[("2", "a", 0)], 5).listing(&["2"]);
        expect(&machine.choose(1, &["1", "2"], &[("2", "a")]), [&[], &["2"], &[], &[]]);
        // A first choice remains one.
        let machine = Machine::new(&[], &[], 0).listing(&["1"]);
        expect(&machine.choose(1, &["1", "2"], &[("2", "a")]), [&[], &["2"], &[], &[]]);
    }

    #[test]
    fn a_list_without_the_taken_tags_hurries_nobody() {
        let machine = Machine::new(&["1"], &[], 0);
        expect(&machine.choose(1, &["2"], &[("2", "a")]), [&["2"], &["1"], &["2"], &[]]);
        let machine = Machine::new(&["1", "2"], &[], 0);
        expect(&machine.choose(2, &["2", "3"], &[("3", "a")]), [&["3"], &["2", "1"], &["3"], &[]]);
        // A tag that could not be asked has its place, too.
        expect(&machine.choose(2, &["2", "3"], &[]), [&["3"], &["2", "1"], &[], &[]]);
        let machine = Machine::new(&["1", "2"], &[("3", "a", 0)], 10);
        expect(&machine.choose(2, &["2", "3"], &[("3", "a")]), [&["3"], &["3", "2"], &[], &["3"]]);
        // Nobody is to take the place of the last one.
        expect(&Machine::new(&["1", "2"], &[], 0).choose(2, &["2"], &[]), [&[], &["2"], &[], &[]]);
    }

    #[test]
    fn an_older_tag_takes_the_place_of_one_that_is_gone_once_it_has_waited() {
        let means = [("1", "a")];
        let machine = Machine::new(&["2"], &[], 0);
        expect(&machine.choose(1, &["1"], &means), [&["1"], &["2"], &["1"], &[]]);
        let machine = Machine::new(&["2"], &[("1", "a", 0)], 9);
        expect(&machine.choose(1, &["1"], &means), [&["1"], &["2"], &["1"], &[]]);
        let machine = Machine::new(&["2"], &[("1", "a", 0)], 10);
        expect(&machine.choose(1, &["1"], &means), [&["1"], &["1"], &[], &["1"]]);
    }
}
