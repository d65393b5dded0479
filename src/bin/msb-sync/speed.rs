//! The speed of the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time that is looked back: a line that stalls shows so after it, and a burst is forgotten.
const WINDOW: Duration = Duration::from_secs(5);
/// The time over which bytes are summed up before they are remembered.
const STEP: Duration = Duration::from_millis(200);
/// The time before which no speed is told: the first bytes come in bursts.
const START: Duration = Duration::from_secs(1);

/// Bytes and when they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Speed {
    first: Option<Instant>,
    steps: VecDeque<(Instant, u64)>,
}

impl Speed {
    /// Notes that `bytes` came `now`.
    pub(crate) fn add(&mut self, bytes: u64, now: Instant) {
        self.first.get_or_insert(now);
        match self.steps.back_mut() {
            Some((begin, sum)) if now.saturating_duration_since(*begin) < STEP => {
                *sum = sum.saturating_add(bytes);
            }
            _ => self.steps.push_back((now, bytes)),
        }
        while self.steps.front().is_some_and(|(begin, _)| now.saturating_duration_since(*begin) > WINDOW) {
            self.steps.pop_front();
        }
    }

    /// Returns the bytes a second of the last seconds; `None` while too little is known.
    pub(crate) fn rate(&self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.first?);
        if since < START {
            return None;
        }
        let recent = self.steps.iter().filter(|(begin, _)| now.saturating_duration_since(*begin) <= WINDOW);
        let bytes = recent.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let millis = since.min(WINDOW).as_millis().max(1);
        u64::try_from(u128::from(bytes) * 1000 / millis).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let (start, mut speed) = (Instant::now(), Speed::default());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(speed.rate(start), None);
        for step in 0..100 {
            speed.add(1000, at(step * 100));
        }
        assert_eq!(speed.rate(at(500)), None);
        let rate = speed.rate(at(10_000)).unwrap();
        assert!((9_000..=10_500).contains(&rate), "{rate}");
        assert!(speed.steps.len() <= 30, "{}", speed.steps.len());
        // A line that stalls slows down, and stops.
        let rate = speed.rate(at(12_500)).unwrap();
        assert!((4_000..=6_000).contains(&rate), "{rate}");
        assert_eq!(speed.rate(at(16_000)), Some(0));
    }
}
