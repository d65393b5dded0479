//! The board on which a watch writes its state, for the server to read at any time.
//!
//! Readers take a whole status, and hold nobody up: the lock is held only to exchange it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::notice::Trigger;
use super::results::{images_after, new_tags, with_changes};
use super::status::{Reason, RunStatus, Running, Status, Verdict};
use super::words::timestamp;
use crate::sync::{Applied, VerbError};
use crate::threads::lock;

/// The last status of a watch.
pub(super) struct Board {
    status: Mutex<Arc<Status>>,
}

impl Board {
    /// A board with the status of a watch that begins now.
    pub(super) fn new(file: &Path, interval: Duration) -> Self {
        let status = Status::new(file.to_string_lossy().into_owned(), interval, timestamp(SystemTime::now()));
        Self { status: Mutex::new(Arc::new(status)) }
    }

    /// The status now.
    pub(super) fn read(&self) -> Arc<Status> {
        Arc::clone(&lock(&self.status))
    }

    /// Writes down that a run begins.
    pub(super) fn started(&self, reasons: &[Trigger]) {
        let reason = |trigger: &Trigger| Reason { word: trigger.as_str(), text: trigger.to_string() };
        let since = timestamp(SystemTime::now());
        self.change(|status| {
            status.running = Some(Running { since, reasons: reasons.iter().map(reason).collect() });
        });
    }

    /// Writes down that the run which had begun found nothing to begin with.
    pub(super) fn put_off(&self) {
        self.change(|status| status.running = None);
    }

    /// Writes down the end of a run, and the wait for the next one with its reason.
    pub(super) fn finished(
        &self,
        result: &Result<Applied, VerbError>,
        verdict: Verdict,
        elapsed: Duration,
        (wait, reason): (Duration, &Trigger),
        interval: Duration,
    ) {
        let now = SystemTime::now();
        let ended = timestamp(now);
        let next = now.checked_add(wait).map(|next| (timestamp(next), reason.as_str()));
        let reasons = self.read().running.as_ref().map(|running| running.reasons.clone());
        let run = RunStatus::new(verdict, ended, elapsed, reasons.unwrap_or_default());
        let (run, images) = match result {
            Ok(applied) => {
                (with_changes(run, applied), Some((images_after(applied, ended), new_tags(applied))))
            }
            Err(_) => (run, None),
        };
        self.change(|status| {
            status.running = None;
            status.interval = interval;
            status.next = next;
            if let Some((images, new_tags)) = images {
                (status.images, status.new_tags) = (images, new_tags);
            }
            status.remember(run);
        });
    }

    /// Exchanges the status. The loop of the watch alone does so, so that no change gets lost.
    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = Status::clone(&self.read());
        change(&mut status);
        *lock(&self.status) = Arc::new(status);
    }
}
