//! Progress as plain lines from time to time, off a terminal.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use msb_sync::progress::Event;

use super::words::{begins, of_task, time_left};
use crate::tally::Tally;
use crate::text::{bytes, plural};

/// Pause between two lines; a line that tells of a finished layer waits for none.
const PAUSE: Duration = Duration::from_secs(2);

/// The time of the last line.
#[derive(Default)]
pub(crate) struct Lines {
    last: Option<Instant>,
}

impl Lines {
    /// Tells of `event`, which `tally` has counted.
    pub(super) fn update(&mut self, event: &Event, tally: &Tally) -> Option<String> {
        let now = Instant::now();
        match event {
            Event::Resolving { references } => {
                return Some(format!("looking up {}", plural(references.len(), "image")));
            }
            Event::Started { .. } => self.last = Some(now),
            Event::LayerReceived { .. } if self.is_due(now) => return self.fetched(tally, now),
            Event::LayerFinished { .. } => return self.fetched(tally, now),
            Event::Begun { task, things: things @ 1.., bytes: size } => {
                self.last = Some(now);
                let (doing, what) = begins(*task)?;
                let size = if *size > 0 { format!(", {} as fetched", bytes(*size)) } else { String::new() };
                return Some(format!("{doing} {}{size}", plural(*things, what)));
            }
            Event::Advanced { task, things, .. } => {
                let work = tally.task(*task)?;
                if *things > 0 && work.is_over() || self.is_due(now) {
                    self.last = Some(now);
                    return Some(format!("  {}", of_task(*task, work.things.0, work.things.1)));
                }
            }
            _ => {}
        }
        None
    }

    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE)
    }

    fn fetched(&mut self, tally: &Tally, now: Instant) -> Option<String> {
        self.last = Some(now);
        let fetching = tally.fetching(now)?;
        let (finished, layers) = fetching.layers;
        let mut line = format!("  {finished} of {} done, ", plural(layers, "layer"));
        let _ = write!(line, "{} of {} here", bytes(fetching.bytes.0), bytes(fetching.bytes.1));
        if let Some(rate) = fetching.rate.filter(|_| fetching.to_come > 0) {
            let _ = write!(line, ", {}/s", bytes(rate));
        }
        let left = time_left(fetching.to_come, fetching.rate);
        if !left.is_empty() {
            let _ = write!(line, ", {left}");
        }
        Some(line)
    }
}
