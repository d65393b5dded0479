//! The sums behind a pace: which bytes a reader may take, and when they are due.
//!
//! Pure: the time comes in with each question, as what has passed since the run began.
//!
//! A limit is a line of time. A reader takes a turn on it, a stretch as long as its bytes need at
//! the limit's rate, behind all turns that were taken before, and its bytes are due at the end of
//! the stretch. So each turn waits for one turn of every other reader at most, nobody starves, and
//! the rate holds to the byte. A turn has the bytes of a reader's fair share in [`TURN`], of the
//! limit where that is least: readers that nothing else holds back take turns of one length in a
//! circle, and share evenly what those leave that are held back elsewhere.
//!
//! Time that nobody took is lost but for [`BUCKET`], with which readers that were late catch up.

use std::num::NonZeroU64;
use std::time::Duration;

/// The time in which each reader gets one turn.
const TURN: Duration = Duration::from_millis(100);
/// The time for which a limit may lie idle and be made up for afterwards.
const BUCKET: Duration = Duration::from_millis(300);
/// The least bytes of a turn, unless fewer are wanted: nobody is woken for less.
const LEAST: u64 = 256;
/// The nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;

/// Limits and their readers.
#[derive(Debug, Default)]
pub(super) struct Shares {
    limits: Vec<Limit>,
}

/// The place of a limit among the limits of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitAt(usize);

/// Bytes that a reader may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) bytes: u64,
    /// The time from which they may be taken; it may have passed.
    pub(super) due: Duration,
}

/// Some bytes a second.
#[derive(Debug)]
struct Limit {
    rate: NonZeroU64,
    /// The end of the last turn, in nanoseconds times `rate`: one byte is one second of it, which
    /// no division rounds. `None` before the first reader.
    end: Option<u128>,
    readers: u64,
}

impl Shares {
    /// Adds a limit of `rate` bytes a second.
    pub(super) fn limit(&mut self, rate: NonZeroU64) -> LimitAt {
        self.limits.push(Limit { rate, end: None, readers: 0 });
        LimitAt(self.limits.len() - 1)
    }

    /// Adds a reader, which `limits` hold back.
    pub(super) fn join(&mut self, limits: &[LimitAt], now: Duration) {
        for LimitAt(at) in limits {
            let limit = &mut self.limits[*at];
            limit.readers += 1;
            limit.end.get_or_insert(limit.at(now));
        }
    }

    /// Removes a reader of `limits`, which has not used so many bytes of its last turn.
    pub(super) fn leave(&mut self, limits: &[LimitAt], unused: u64) {
        for LimitAt(at) in limits {
            let limit = &mut self.limits[*at];
            limit.readers = limit.readers.saturating_sub(1);
            limit.end = limit.end.map(|end| end.saturating_sub(length(unused)));
        }
    }

    /// Takes the next turn for a reader of `limits`, of no more than `wanted` bytes.
    pub(super) fn take(&mut self, limits: &[LimitAt], wanted: u64, now: Duration) -> Turn {
        let shares = limits.iter().map(|LimitAt(at)| self.limits[*at].share());
        let bytes = shares.fold(wanted, u64::min);
        let ends = limits.iter().map(|LimitAt(at)| self.limits[*at].take(bytes, now));
        Turn { bytes, due: ends.fold(Duration::ZERO, Duration::max) }
    }
}

impl Limit {
    /// Returns the bytes of one turn.
    fn share(&self) -> u64 {
        let all = u128::from(self.rate.get()) * TURN.as_nanos() / SECOND;
        let each = all / u128::from(self.readers.max(1));
        u64::try_from(each).unwrap_or(u64::MAX).max(LEAST)
    }

    /// Takes a turn of `bytes`, and tells when it ends.
    fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let begin = self.end.unwrap_or(0).max(self.at(now.saturating_sub(BUCKET)));
        let end = begin + length(bytes);
        self.end = Some(end);
        let nanos = end.div_ceil(u128::from(self.rate.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The time `now` on the limit's own line. No run is so long, and no rate so high, that this
    /// overflows: both have 64 bits.
    fn at(&self, now: Duration) -> u128 {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        u128::from(nanos) * u128::from(self.rate.get())
    }
}

/// The length of a turn of `bytes` on any limit's line.
fn length(bytes: u64) -> u128 {
    u128::from(bytes) * SECOND
}

#[cfg(test)]
mod tests;
