//! The time of the next run: changes are given time to settle, failures are tried again ever later.
//!
//! Pure arithmetic on moments that the caller passes in.

use std::time::Duration;

use tokio::time::Instant;

/// Quiet time after a change before it is looked at.
const SETTLE: Duration = Duration::from_millis(150);
/// Changes that keep coming are looked at after this time.
const SETTLE_AT_MOST: Duration = Duration::from_secs(1);
/// A file that somebody still writes to is left alone this long after the last write …
const WRITING: Duration = Duration::from_secs(2);
/// … and this long in all.
const WRITING_AT_MOST: Duration = Duration::from_secs(10);
/// First wait before what failed is tried again; doubles from there.
const BACKOFF: Duration = Duration::from_secs(10);
/// Machines that were asked to wait for the same time come back within this one.
const MAX_JITTER: Duration = Duration::from_secs(1);

/// Changes that nobody has looked at yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes {
    first: Instant,
    last: Instant,
    /// The loop looked at the changes in vain, and does not again before this.
    not_before: Option<Instant>,
    /// True if somebody has a changed file open for writing.
    writing: bool,
}

impl Changes {
    /// One more change at `now`.
    pub(super) fn note(earlier: Option<Self>, now: Instant, writing: bool) -> Self {
        Self {
            first: earlier.map_or(now, |changes| changes.first),
            last: now,
            not_before: earlier.and_then(|changes| changes.not_before),
            writing,
        }
    }

    /// The loop looked at the changes, at `now`, and files were still being written.
    pub(super) fn put_off(earlier: Option<Self>, now: Instant, writing: bool) -> Self {
        Self { not_before: Some(now + SETTLE), ..Self::note(earlier, now, writing) }
    }

    /// A run came too late for what it was to read: the next one is overdue.
    pub(super) fn missed(now: Instant) -> Self {
        let first = now.checked_sub(WRITING).unwrap_or(now);
        Self { first, last: now, not_before: Some(now + SETTLE), writing: false }
    }

    /// The changes have gone on for so long that a file which never comes to rest is taken as it
    /// is.
    pub(super) fn overdue(self, now: Instant) -> bool {
        now >= self.first + WRITING
    }

    /// The same, as if they had begun at `now`.
    pub(super) fn again(self, now: Instant) -> Self {
        Self { first: now, ..self }
    }

    /// The time to look at the changes.
    pub(super) fn due(&self) -> Instant {
        let (settle, at_most) =
            if self.writing { (WRITING, WRITING_AT_MOST) } else { (SETTLE, SETTLE_AT_MOST) };
        let due = (self.last + settle).min(self.first + at_most);
        self.not_before.map_or(due, |not_before| due.max(not_before))
    }
}

/// The wait before failures are tried again: as long as a registry asks for, else as [`backoff`]
/// says; `None` where nothing failed that may pass. Each of `failed` is the wait that was asked
/// for, if any.
pub(super) fn retry(
    failed: impl IntoIterator<Item = Option<Duration>>,
    failures: u32,
    interval: Duration,
    jitter: f64,
) -> Option<Duration> {
    let backoff = backoff(failures, interval, jitter);
    let jitter = MAX_JITTER.mul_f64(jitter.clamp(0.0, 1.0));
    let waits = failed.into_iter().map(|asked| asked.map_or(backoff, |asked| asked.saturating_add(jitter)));
    Some(waits.min()?.min(interval))
}

/// The wait before the try after `failures` failed runs in a row: doubling, at most `interval`,
/// with `jitter` (0 to 1) so that machines that failed together do not come back together.
pub(super) fn backoff(failures: u32, interval: Duration, jitter: f64) -> Duration {
    let doubled = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(interval);
    doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_settle_but_not_for_ever() {
        let start = Instant::now();
        let mut changes = Changes::note(None, start, false);
        assert_eq!(changes.due(), start + SETTLE);
        for step in 1..=20 {
            changes = Changes::note(Some(changes), start + Duration::from_millis(100) * step, false);
        }
        assert_eq!(changes.due(), start + SETTLE_AT_MOST);
        assert!(changes.overdue(start + WRITING) && !changes.overdue(start + SETTLE));
        let late = start + Duration::from_secs(3);
        let put_off = Changes::put_off(Some(changes), late, false);
        assert_eq!(put_off.due(), late + SETTLE);
        assert!(put_off.overdue(late));
        assert_eq!(Changes::note(Some(put_off), late + SETTLE / 2, false).due(), late + SETTLE);
        let open = Changes::note(None, start, true);
        assert_eq!(open.due(), start + WRITING);
        assert_eq!(Changes::note(Some(open), start + SETTLE, false).due(), start + SETTLE * 2, "closed");
    }

    #[test]
    fn who_is_asked_to_wait_comes_back_then_and_not_before() {
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let retry = |failed: &[Option<Duration>], interval| retry(failed.iter().copied(), 1, interval, 0.0);
        assert_eq!(retry(&[], hour), None);
        assert_eq!(retry(&[Some(minute * 2), Some(minute * 5)], hour), Some(minute * 2));
        assert_eq!(retry(&[Some(minute * 2), None], hour), Some(BACKOFF / 2));
        assert_eq!(retry(&[Some(hour)], minute), Some(minute), "other tags are looked up then");
    }

    #[test]
    fn back_off_doubles_up_to_the_interval() {
        let wait = |failures| backoff(failures, Duration::from_secs(300), 1.0).as_secs();
        assert_eq!([1, 2, 3, 5, 6, 40, u32::MAX].map(wait), [10, 20, 40, 160, 300, 300, 300]);
        assert_eq!(backoff(1, Duration::from_secs(2), 1.0), Duration::from_secs(2));
        assert_eq!(backoff(1, Duration::from_secs(300), 0.0), Duration::from_secs(5));
    }
}
