//! Finished layers that wait to be given their names together: one sync of the file system serves
//! many.

use std::time::{Duration, Instant};

use super::fetcher::Finished;
use crate::sys;

/// A finished layer waits at most this long for others that can be synced with it: a sync also
/// writes out the blobs that are still coming, which otherwise are gone before they ever reach the
/// disk. Until then a kill loses nothing (the next run finishes the layer), only a power loss does.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time after which a waiting thread looks at the stop switch.
const POLL: Duration = Duration::from_millis(100);
/// The number of finished layers that wait for their group, and as many for their turn, at most:
/// each has a directory open.
const MOST: usize = 96;

/// The finished layers that have no name yet.
pub(super) struct Group<'s> {
    layers: Vec<Finished<'s>>,
    /// The time when the first of them was finished.
    since: Instant,
    most: usize,
}

impl<'s> Group<'s> {
    pub(super) fn new() -> Self {
        Self { layers: Vec::new(), since: Instant::now(), most: Self::most() }
    }

    /// The number of layers in a group, where this process may open few files.
    pub(super) fn most() -> usize {
        MOST.min(sys::open_files_limit() / 16).max(1)
    }

    pub(super) fn add(&mut self, layer: Finished<'s>) {
        if self.layers.is_empty() {
            self.since = Instant::now();
        }
        self.layers.push(layer);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The time to wait for another layer before somebody looks at the group, or at the stop
    /// switch.
    pub(super) fn wait(&self) -> Duration {
        if self.is_empty() { POLL } else { PATIENCE.saturating_sub(self.since.elapsed()).min(POLL) }
    }

    /// True if the layers should not wait for more.
    pub(super) fn is_due(&self) -> bool {
        self.layers.len() >= self.most || self.since.elapsed() >= PATIENCE
    }

    pub(super) fn take(&mut self) -> Vec<Finished<'s>> {
        std::mem::take(&mut self.layers)
    }
}
