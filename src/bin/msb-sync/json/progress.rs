//! Events that tell how far a run is: the counts of the bars, for machines.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use msb_sync::threads::lock;
use serde_json::{Value, json};

use crate::human::Human;
use crate::tally::Fetching;

/// The time between two events.
const PAUSE: Duration = Duration::from_millis(500);

/// The time of the last event of a run.
#[derive(Default)]
pub(crate) struct Progress {
    last: Mutex<Option<Instant>>,
}

impl Progress {
    /// Tells how far the run of `human` is, unless it did so just now.
    pub(super) fn due(&self, human: &Human) -> Option<Value> {
        let (mut last, now) = (lock(&self.last), Instant::now());
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return None;
        }
        let fetching = human.tally().fetching(now).filter(|fetching| !fetching.is_over)?;
        *last = Some(now);
        Some(event(&fetching))
    }
}

fn event(fetching: &Fetching) -> Value {
    json!({
        "event": "progress",
        "received_bytes": fetching.bytes.0,
        "total_bytes": fetching.bytes.1,
        "layers_done": fetching.layers.0,
        "layers": fetching.layers.1,
    })
}
