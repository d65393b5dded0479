//! The time that a tag's new digest has to wait: counted from when this machine first saw the
//! digest, never from what an image says of itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::progress::Waiting;
use crate::state::{DesiredImage, Observed, RecordedImage, Resolution, TagCandidate};

/// A tag's cooldown, with what is known of the tag's new digest.
#[derive(Clone, Debug)]
pub(crate) struct Cooldown {
    /// The time for which a new digest has to be seen.
    pub(crate) time: Duration,
    /// The digest that was noted as new, and when.
    pub(crate) candidate: Option<TagCandidate>,
    /// The time of this run.
    pub(crate) now: Timestamp,
}

impl Cooldown {
    /// Tells how the new digest `digest` has to wait; `None` if its time has come.
    pub(crate) fn waiting(&self, digest: &BlobDigest) -> Option<Waiting> {
        if self.time.is_zero() {
            return None;
        }
        let since = self.first_seen(digest);
        let time = SignedDuration::try_from(self.time).unwrap_or(SignedDuration::MAX);
        let until = since.saturating_add(time).unwrap_or(Timestamp::MAX);
        (self.now < until).then(|| Waiting { digest: digest.clone(), since, until })
    }

    /// Tells since when `digest` has been seen.
    ///
    /// The time begins anew where the clock went backwards to before the note: nobody can tell how
    /// long ago that was. Once the clock is as late again, it was wrong in between, and what was
    /// noted first counts.
    fn first_seen(&self, digest: &BlobDigest) -> Timestamp {
        let notes = notes(self.candidate.as_ref(), digest);
        notes.filter(|noted| *noted <= self.now).max().unwrap_or(self.now)
    }
}

/// Lists the times at which `digest` was noted as new, by clocks that differed.
fn notes(candidate: Option<&TagCandidate>, digest: &BlobDigest) -> impl Iterator<Item = Timestamp> {
    let candidate = candidate.filter(|noted| noted.digest == *digest);
    candidate.into_iter().flat_map(|noted| [Some(noted.since), noted.ahead]).flatten()
}

/// Finds the new digest that `wanted` does not take yet: its recorded digest stays wanted. A first
/// add takes what there is, also that of a name which was only a second one; who pinned or locked
/// the image, or holds it, has chosen its digest.
pub(super) fn waiting(
    wanted: &DesiredImage,
    recorded: Option<&RecordedImage>,
    observed: &Observed,
) -> Option<Waiting> {
    let recorded = recorded.filter(|row| row.held.is_none() && row.alias_of.is_none())?;
    let is_chosen =
        wanted.locked.is_some() || wanted.back_to.is_some() || wanted.reference.digest().is_some();
    if is_chosen || recorded.platform.as_ref() != Some(&wanted.platform) {
        return None;
    }
    let meant = meant(&wanted.reference, observed)?;
    let is_new = recorded.digest.as_ref().is_some_and(|digest| digest != meant);
    let cooldown = Cooldown {
        time: wanted.cooldown,
        candidate: observed.candidates.get(&wanted.reference).cloned(),
        now: observed.now,
    };
    is_new.then(|| cooldown.waiting(meant)).flatten()
}

/// The digest that a registry says the tag means now, where one was asked.
fn meant<'o>(tag: &ImageRef, observed: &'o Observed) -> Option<&'o BlobDigest> {
    observed.seen.get(tag).or_else(|| match observed.resolutions.get(tag)? {
        Resolution::Resolved(image) => Some(&image.digest),
        Resolution::AsRecorded | Resolution::Locked(_) | Resolution::Blocked(_) => None,
    })
}

/// Returns the note that the next run counts from, in place of `noted`.
pub(crate) fn candidate_of(waiting: &Waiting, noted: Option<&TagCandidate>) -> TagCandidate {
    let Waiting { digest, since, .. } = waiting;
    let ahead = notes(noted, digest).filter(|noted| noted > since).max();
    TagCandidate { digest: digest.clone(), since: *since, ahead }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Algorithm;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn digest(of: u8) -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, &[of])
    }

    fn cooldown(seconds: u64, candidate: Option<(u8, i64)>, now: i64) -> Cooldown {
        let candidate =
            candidate.map(|(of, since)| TagCandidate { digest: digest(of), since: at(since), ahead: None });
        Cooldown { time: Duration::from_secs(seconds), candidate, now: at(now) }
    }

    #[test]
    fn a_digest_waits_for_its_time_and_not_for_anothers() {
        let waits =
            |cooldown: Cooldown| cooldown.waiting(&digest(1)).map(|waiting| (waiting.since, waiting.until));
        assert_eq!(waits(cooldown(0, None, 100)), None);
        assert_eq!(waits(cooldown(10, None, 100)), Some((at(100), at(110))));
        assert_eq!(waits(cooldown(10, Some((1, 95)), 100)), Some((at(95), at(105))));
        assert_eq!(waits(cooldown(10, Some((1, 90)), 100)), None);
        assert_eq!(waits(cooldown(10, Some((2, 0)), 100)), Some((at(100), at(110))));
        // The clock went back: the note is of no use any more.
        assert_eq!(waits(cooldown(10, Some((1, 101)), 100)), Some((at(100), at(110))));
        assert_eq!(waits(cooldown(u64::MAX, None, 100)), Some((at(100), Timestamp::MAX)));
    }

    #[test]
    fn a_clock_that_is_right_again_counts_from_the_first_note() {
        let mut noted = Some(TagCandidate { digest: digest(1), since: at(1000), ahead: None });
        let mut see = |now| {
            let cooldown = Cooldown { time: Duration::from_secs(10), candidate: noted.clone(), now: at(now) };
            let waiting = cooldown.waiting(&digest(1))?;
            noted = Some(candidate_of(&waiting, noted.as_ref()));
            Some((waiting.since, waiting.until))
        };
        // A machine whose clock begins in 1970, until a server tells it the time.
        assert_eq!(see(0), Some((at(0), at(10))));
        assert_eq!(see(5), Some((at(0), at(10))));
        assert_eq!(see(1005), Some((at(1000), at(1010))));
        assert_eq!(see(990), Some((at(990), at(1000))));
        assert_eq!(see(1009), Some((at(1000), at(1010))));
        assert_eq!(see(1010), None);
        // A clock that was ahead once holds nobody up for ever.
        assert_eq!(see(100), Some((at(100), at(110))));
        assert_eq!(see(110), None);
    }

    #[test]
    fn a_note_keeps_the_latest_time_that_a_clock_has_gone_back_from() {
        let waiting = |since| Waiting { digest: digest(1), since: at(since), until: at(99) };
        let noted = TagCandidate { digest: digest(1), since: at(20), ahead: Some(at(30)) };
        let ahead = |since, noted: &TagCandidate| candidate_of(&waiting(since), Some(noted)).ahead;
        assert_eq!(ahead(10, &noted), Some(at(30)));
        assert_eq!(ahead(20, &noted), Some(at(30)));
        assert_eq!(ahead(30, &noted), None);
        assert_eq!(ahead(10, &TagCandidate { ahead: None, ..noted.clone() }), Some(at(20)));
        assert_eq!(ahead(10, &TagCandidate { digest: digest(2), ..noted }), None);
    }

    #[test]
    fn days_are_told_as_days_and_seconds_as_seconds() {
        let told = |seconds| cooldown(seconds, None, 1_764_201_600).waiting(&digest(1)).unwrap().to_string();
        let of = &digest(1).to_string()[..19];
        assert_eq!(told(3 * 86_400), format!("{of}… seen 2025-11-27, taken from 2025-11-30"));
        let expected = format!("{of}… seen 2025-11-27 00:00:00Z, taken from 2025-11-27 00:01:00Z");
        assert_eq!(told(60), expected);
    }

    proptest! {
        /// A tag moves, the clock jumps both ways, runs are missed: no digest is taken before real
        /// time has passed since a run first saw it without a break, as long as the clock does not
        /// jump forwards; and one that stays is taken by the first run after its time.
        #[test]
        fn no_digest_is_taken_before_its_time_and_each_that_stays_is_taken(
            steps in proptest::collection::vec((0_u8..3, 0_i64..40, -30_i64..=0), 1..60),
            time in 1_u64..60,
        ) {
            let (mut real, mut wrong) = (1_000_000_i64, 0_i64);
            let mut candidate: Option<TagCandidate> = None;
            let mut taken = digest(0);
            // The real time, and the step, when each run of sightings began, and of the last jump of
            // the clock: both may fall into one second.
            let mut seen: Option<(BlobDigest, (i64, usize))> = None;
            let mut settled = (real, 0);
            for (step, (tag, passed, jump)) in steps.into_iter().enumerate() {
                real += passed;
                wrong += jump;
                if jump != 0 {
                    settled = (real, step);
                }
                let meant = digest(tag);
                if meant == taken {
                    (candidate, seen) = (None, None);
                    continue;
                }
                if seen.as_ref().is_none_or(|(of, _)| *of != meant) {
                    seen = Some((meant.clone(), (real, step)));
                }
                let (_, first) = seen.clone().unwrap();
                let cooldown =
                    Cooldown { time: Duration::from_secs(time), candidate: candidate.clone(), now: at(real + wrong) };
                if let Some(waiting) = cooldown.waiting(&meant) {
                    // With a clock that stood still for long enough, the digest would be taken.
                    let waited = real - first.max(settled).0;
                    prop_assert!(waited < i64::try_from(time).unwrap() || first < settled, "{waited}");
                    candidate = Some(candidate_of(&waiting, candidate.as_ref()));
                } else {
                    let waited = real - first.0;
                    prop_assert!(waited >= i64::try_from(time).unwrap(), "taken after {waited}");
                    (taken, candidate, seen) = (meant, None, None);
                }
            }
        }

        /// A clock goes back now and then for some runs, always as far, and is right again: what was
        /// first seen while the clock was right is not taken before its time either.
        #[test]
        fn a_clock_that_goes_back_and_is_right_again_hurries_nobody(
            steps in proptest::collection::vec((0_u8..3, 0_i64..40, any::<bool>()), 1..60),
            (time, back) in (1_u64..60, 1_i64..200),
        ) {
            let mut real = 1_000_000_i64;
            let mut candidate: Option<TagCandidate> = None;
            let mut taken = digest(0);
            // The real time of the first sight of the run of sightings, if the clock was right.
            let mut seen: Option<(BlobDigest, Option<i64>)> = None;
            for (tag, passed, is_wrong) in steps {
                real += passed;
                let meant = digest(tag);
                if meant == taken {
                    (candidate, seen) = (None, None);
                    continue;
                }
                if seen.as_ref().is_none_or(|(of, _)| *of != meant) {
                    seen = Some((meant.clone(), (!is_wrong).then_some(real)));
                }
                let now = at(if is_wrong { real - back } else { real });
                let cooldown =
                    Cooldown { time: Duration::from_secs(time), candidate: candidate.clone(), now };
                if let Some(waiting) = cooldown.waiting(&meant) {
                    candidate = Some(candidate_of(&waiting, candidate.as_ref()));
                } else {
                    if let Some((_, Some(first))) = seen {
                        let waited = real - first;
                        prop_assert!(waited >= i64::try_from(time).unwrap(), "taken after {waited}");
                    }
                    (taken, candidate, seen) = (meant, None, None);
                }
            }
        }
    }
}
