//! Progress as plain lines from time to time, off a terminal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use msb_sync::digest::BlobDigest;
use msb_sync::progress::Event;

use crate::text::{bytes, plural};

/// Pause between two lines; a line that tells of a finished layer waits for none.
const PAUSE: Duration = Duration::from_secs(2);

/// The counts that the lines show.
#[derive(Default)]
pub(crate) struct Lines {
    layers: usize,
    finished: usize,
    size: u64,
    /// Bytes here of each layer.
    received: HashMap<BlobDigest, u64>,
    last: Option<Instant>,
}

impl Lines {
    pub(super) fn update(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Resolving { images } => return Some(format!("looking up {}", plural(*images, "image"))),
            Event::Started { layers, bytes } => {
                *self = Self { layers: *layers, size: *bytes, last: Some(Instant::now()), ..Self::default() };
            }
            Event::LayerStarted { digest, resumed, .. } => {
                self.received.insert(digest.clone(), *resumed);
            }
            Event::LayerReceived { digest, bytes } => {
                *self.received.entry(digest.clone()).or_default() += bytes;
                if self.last.is_some_and(|last| last.elapsed() >= PAUSE) {
                    return Some(self.line());
                }
            }
            Event::LayerFinished { .. } => {
                self.finished += 1;
                return Some(self.line());
            }
            Event::Comparing { layers, bytes: size } => {
                *self = Self { layers: *layers, last: Some(Instant::now()), ..Self::default() };
                return Some(format!("comparing {}, {} as fetched", plural(*layers, "layer"), bytes(*size)));
            }
            Event::Compared(_) => {
                self.finished += 1;
                let due = self.last.is_some_and(|last| last.elapsed() >= PAUSE);
                if due || self.finished == self.layers {
                    self.last = Some(Instant::now());
                    return Some(format!("  {} of {} compared", self.finished, plural(self.layers, "layer")));
                }
            }
            _ => {}
        }
        None
    }

    fn line(&mut self) -> String {
        self.last = Some(Instant::now());
        let received = self.received.values().fold(0_u64, |sum, part| sum.saturating_add(*part));
        let (finished, layers) = (self.finished, plural(self.layers, "layer"));
        format!("  {finished} of {layers} done, {} of {} here", bytes(received), bytes(self.size))
    }
}
