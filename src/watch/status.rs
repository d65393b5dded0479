//! The state of a watch, as people and scripts are told it: data alone.
//!
//! A status is never changed while somebody reads it: the board replaces it as a whole, and its
//! larger parts are shared between one status and the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::digest::BlobDigest;
use crate::error::printable;
use crate::progress::{SignatureReport, Waiting};
use crate::state::{Action, EngineName};

/// Runs that are remembered. Runs in a row that changed nothing and ended alike are one of them.
const RUNS: usize = 20;
/// Changed images that are remembered of one run, by name; the rest is a number.
pub(super) const CHANGES: usize = 100;
/// The longest text of an error or a summary, in characters.
const MAX_TEXT: usize = 1000;

/// The state of a watch.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// The images file.
    pub(super) file: String,
    /// The time after which tags are looked up again.
    pub(super) interval: Duration,
    /// The start of the watch.
    pub(super) since: Timestamp,
    /// The run that is going on.
    pub(super) running: Option<Running>,
    /// The next run if nothing happens before: its time, and the word for its reason.
    pub(super) next: Option<(Timestamp, &'static str)>,
    /// The images after the last run that could be carried out, sorted by reference.
    pub(super) images: Arc<[ImageStatus]>,
    /// The tags that selections would choose once they are no longer new.
    pub(super) new_tags: Arc<[(String, Waiting)]>,
    /// The last runs, the newest first.
    pub(super) runs: VecDeque<Arc<RunStatus>>,
}

/// A run that is going on.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) since: Timestamp,
    pub(super) reasons: Vec<Reason>,
}

/// The reason for a run: a word for scripts, and one for people.
#[derive(Clone, Debug)]
pub(super) struct Reason {
    pub(super) word: &'static str,
    pub(super) text: String,
}

/// The state of one image after a run.
#[derive(Clone, Debug)]
pub(super) struct ImageStatus {
    pub(super) reference: String,
    pub(super) platform: Option<String>,
    pub(super) state: ImageState,
    /// The digest that is here, as far as is known.
    pub(super) digest: Option<BlobDigest>,
    /// The digest that is to be here, where that is another one.
    pub(super) wanted: Option<BlobDigest>,
    pub(super) layers: usize,
    /// The bytes of the layers as fetched.
    pub(super) size: u64,
    /// The time when the image was made, by its own word.
    pub(super) created: Option<Timestamp>,
    /// The time since which the digest is here.
    pub(super) recorded: Option<Timestamp>,
    pub(super) engines: Vec<(EngineName, ImageState)>,
    pub(super) signatures: SignatureReport,
    /// The time since when the image is held at its digest.
    pub(super) held: Option<Timestamp>,
    /// The new digest of the tag that is not taken yet.
    pub(super) waiting: Option<Waiting>,
    /// True if the image is ready and could not be recorded.
    pub(super) staged: bool,
    /// The rule that chose the image.
    pub(super) chosen_by: Option<String>,
    pub(super) failure: Option<Failure>,
}

/// The state of an image, or of it in an engine; the ones that people have to look at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ImageState {
    /// The run could not do what was to be done.
    Failed,
    /// The image cannot be had.
    Blocked,
    /// The image is to be removed once nothing is blocked or fails.
    Waiting,
    /// The images file does not list the image any more, and it stays without prune.
    Unlisted,
    /// The image is as the file says.
    InSync,
}

impl ImageState {
    /// Every state, in this order.
    pub(super) const ALL: [Self; 5] =
        [Self::Failed, Self::Blocked, Self::Waiting, Self::Unlisted, Self::InSync];

    /// The word for scripts, the same as the label of the metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Waiting => "waiting",
            Self::Unlisted => "unlisted",
            Self::InSync => "in_sync",
        }
    }
}

/// The failure of an image.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// One run that has ended.
#[derive(Clone, Debug)]
pub(super) struct RunStatus {
    pub(super) ended: Timestamp,
    pub(super) elapsed: Duration,
    pub(super) reasons: Vec<Reason>,
    pub(super) verdict: Verdict,
    /// The changed images, at most [`CHANGES`].
    pub(super) changes: Vec<Change>,
    /// The number of changed images beyond these.
    pub(super) more_changes: usize,
    pub(super) downloaded_bytes: u64,
    /// The number of runs just before this one that changed nothing either and ended alike.
    pub(super) repeats: u64,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// `ok`, `failed`, or `error` where the run could not be carried out.
    pub(super) result: &'static str,
    /// The result in one line, for people.
    pub(super) summary: String,
    /// The next step, where the whole run failed and there is one.
    pub(super) hint: Option<String>,
}

/// One image that a run changed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) reference: String,
    pub(super) action: Action,
    pub(super) from: Option<BlobDigest>,
    pub(super) to: Option<BlobDigest>,
    /// The engines that took the image, or that it was taken out of.
    pub(super) engines: Vec<(EngineName, Action)>,
}

impl Status {
    /// The state of a watch that has just begun.
    pub(super) fn new(file: String, interval: Duration, now: Timestamp) -> Self {
        Self {
            file,
            interval,
            since: now,
            running: None,
            next: None,
            images: Arc::default(),
            new_tags: Arc::default(),
            runs: VecDeque::new(),
        }
    }

    /// Counts the images that have `state`.
    pub(super) fn count(&self, state: ImageState) -> usize {
        self.images.iter().filter(|image| image.state == state).count()
    }

    /// Remembers a run, and forgets the oldest one beyond [`RUNS`].
    pub(super) fn remember(&mut self, mut run: RunStatus) {
        if let Some(last) = self.runs.front()
            && last.is_quiet()
            && run.is_quiet()
            && last.verdict == run.verdict
        {
            run.repeats = last.repeats.saturating_add(1);
            self.runs.pop_front();
        }
        self.runs.push_front(Arc::new(run));
        self.runs.truncate(RUNS);
    }
}

impl RunStatus {
    /// Makes the memory of a run of which nothing is known but its end.
    pub(super) fn new(verdict: Verdict, ended: Timestamp, elapsed: Duration, reasons: Vec<Reason>) -> Self {
        let mut verdict = verdict;
        verdict.summary = clipped(&verdict.summary);
        verdict.hint = verdict.hint.as_deref().map(clipped);
        let (changes, more_changes, downloaded_bytes, repeats) = (Vec::new(), 0, 0, 0);
        Self { ended, elapsed, reasons, verdict, changes, more_changes, downloaded_bytes, repeats }
    }

    /// True if the run changed nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.changes.is_empty()
    }
}

/// The begin of `text`, in one line.
pub(super) fn clipped(text: &str) -> String {
    let mut characters = text.chars();
    let begin: String = characters.by_ref().take(MAX_TEXT).collect();
    let rest = if characters.next().is_some() { "…" } else { "" };
    format!("{}{rest}", printable(&begin))
}
