//! `watch` on the screen and in a log: each change once, and nothing where nothing changed.
//!
//! A run tells everything, as `apply` does. People are shown only what the run before did not say
//! too: a registry that is down for a night is one error an image, not one at every interval.
//! Machines get every event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use msb_sync::cancel::Cancel;
use msb_sync::clock::now;
use msb_sync::digest::BlobDigest;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::{Event, Reporter};
use msb_sync::state::Action;
use msb_sync::sync::{Applied, VerbError};
use msb_sync::threads::lock;
use msb_sync::watch::{Listener, Notice};

use crate::human::{self, Human, View};
use crate::json::Received;
use crate::output::Output;
use crate::text::{duration, plural};
use crate::{json, streams};

/// The voice of one watch.
pub(crate) struct Live {
    output: Arc<Output>,
    human: Arc<Human>,
    json: bool,
    received: Received,
    quiet: bool,
    said: Mutex<Said>,
    stop: Cancel,
    progress: Option<json::Progress>,
}

/// The words of a run, and of the one before it.
#[derive(Default)]
struct Said {
    warnings: BTreeSet<String>,
    warnings_before: BTreeSet<String>,
    errors: BTreeMap<ImageRef, String>,
    errors_before: BTreeMap<ImageRef, String>,
    /// The error of the run's end.
    failure: Option<String>,
    /// The new digests of tags that are not taken yet.
    waiting: BTreeMap<ImageRef, BlobDigest>,
    /// The images that are held, and since when.
    held: BTreeMap<ImageRef, Timestamp>,
    /// True if a summary was shown and nothing failed since.
    settled: bool,
}

impl Live {
    /// Tells on `output`, and throws the switch `stop` when nobody reads the events any more.
    pub(crate) fn new(output: &Arc<Output>, stop: Cancel) -> Self {
        Self {
            output: Arc::clone(output),
            human: Arc::clone(&output.human),
            json: output.json,
            received: Received::default(),
            quiet: output.quiet,
            said: Mutex::default(),
            stop,
            progress: output.progress(),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    /// People are told of `event`.
    fn is_news(&self, event: &Event) -> bool {
        match event {
            Event::Warning(text) => {
                let mut said = self.said();
                !said.warnings_before.contains(text) & said.warnings.insert(text.clone())
            }
            Event::Image { reference, error: Some(error), .. } => {
                let text = error.chain().join(": ");
                let mut said = self.said();
                let news = said.errors_before.get(reference) != Some(&text);
                said.errors.insert(reference.clone(), text);
                news
            }
            Event::Image { reference, candidate: Some(waiting), .. } => {
                let before = self.said().waiting.insert(reference.clone(), waiting.digest.clone());
                before.as_ref() != Some(&waiting.digest)
            }
            Event::Image { reference, action: Action::Keep, held: Some(since), .. } => {
                self.said().held.insert(reference.clone(), *since) != Some(*since)
            }
            // Each image that is done says so: one line a change.
            Event::Started { .. } | Event::Loading { .. } => self.human.is_live() || self.human.is_verbose(),
            _ => true,
        }
    }

    /// Ends the watch when nobody reads its events any more.
    fn stop_unheard(&self) {
        if self.json && streams::nobody_reads() {
            self.stop.cancel();
        }
    }

    fn applied(&self, applied: &Applied, elapsed: Duration, next: Duration) {
        let mut said = self.said();
        said.warnings_before = std::mem::take(&mut said.warnings);
        said.errors_before = std::mem::take(&mut said.errors);
        let settled = std::mem::replace(&mut said.settled, applied.succeeded());
        let failure = applied.outcome.failure.as_deref();
        let text = failure.map(|failure| failure.chain().join(": "));
        let news = said.failure != text;
        said.failure = text;
        drop(said);
        self.human.clear();
        if let Some(failure) = failure.filter(|_| news) {
            self.human.failure(failure);
        }
        if self.json || self.quiet {
            return;
        }
        if !settled && applied.succeeded() || self.human.is_verbose() {
            let summary = human::summary(applied, elapsed, None, View::default());
            if let Some(line) = summary.lines().next() {
                self.human.suspend(|| streams::print(&format!("{line}\n")));
            }
        }
        let failed = applied.outcome.failed();
        let images = applied.outcome.images.iter();
        let all = images.filter(|(_, action, error)| error.is_some() || *action != Action::Remove).count();
        let state = match failed {
            0 => format!("{} in sync", plural(all, "image")),
            _ => format!("{failed} of {all} images failed"),
        };
        self.wait(&state, next);
    }

    /// The line at the bottom of a screen while nothing goes on.
    fn wait(&self, state: &str, next: Duration) {
        // Whoever looks at a screen lives in the machine's zone, or says another one by TZ.
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        let now = now().to_zoned(zone).strftime("%H:%M:%S %Z").to_string();
        let next = duration(next);
        self.human.status(&format!("watching · {state} · {now} · again in {next} at the latest"));
    }

    fn failed(&self, failure: &VerbError, again: bool, next: Duration) {
        self.said().settled = false;
        self.human.clear();
        if !again {
            match failure {
                // On a screen somebody is editing the file; a log has lines.
                VerbError::Problems(problems) if self.human.is_live() => {
                    self.human.lines(&problems.to_string());
                }
                VerbError::Lockfile(problem) if self.human.is_live() => {
                    self.human.lines(&problem.to_string());
                }
                _ => {
                    let (message, causes, hint) = in_one_line(failure);
                    self.human.error(&message, &causes, hint.as_deref());
                }
            }
            self.human.note("everything stays as it is until that is mended");
        }
        self.wait("not applied, see above", next);
    }
}

/// The message of a failure, its causes, and a hint. The message of a file's names the place of its
/// first problem.
fn in_one_line(failure: &VerbError) -> (String, Vec<String>, Option<String>) {
    match failure {
        VerbError::Problems(problems) => {
            let Some(first) = problems.iter().next() else { return (failure.to_string(), Vec::new(), None) };
            let more = match problems.len() - 1 {
                0 => String::new(),
                more => format!(" (and {})", plural(more, "more problem")),
            };
            let message = format!("{}: {}{more}", first.position(), first.message());
            (message, Vec::new(), first.hint().map(ToOwned::to_owned))
        }
        VerbError::Lockfile(problem) => {
            let message = format!("{}: {}", problem.position(), problem.message());
            (message, Vec::new(), problem.hint().map(ToOwned::to_owned))
        }
        VerbError::Error(error) | VerbError::Input(error) => {
            let mut chain = error.chain();
            (chain.remove(0), chain, error.hint())
        }
    }
}

impl Reporter for Live {
    fn report(&self, event: Event) {
        if self.json {
            json::print_event(&event, &self.received, &self.human);
            self.stop_unheard();
        }
        if self.is_news(&event) {
            self.human.say(&event);
        }
        self.human.count(&event);
        json::print_progress(self.progress.as_ref(), &self.human);
    }
}

impl Listener for Live {
    fn notice(&self, notice: &Notice<'_>) {
        if self.json {
            streams::print(&format!("{}\n", json::notice(notice)));
            self.stop_unheard();
        }
        match notice {
            Notice::Watching { .. } | Notice::Triggered(_) => self.output.owe_summary(),
            // Each says how the run ended.
            Notice::Applied { .. } | Notice::Failed { .. } => self.output.owe_nothing(),
            Notice::Stopping => {}
        }
        match notice {
            Notice::Watching { file, interval, metrics, .. } => {
                let every = duration(*interval);
                self.human.note(&format!("watching {}, looking up tags every {every}", file.display()));
                if let Some(address) = metrics {
                    self.human
                        .note(&format!("status at http://{address}/, metrics at http://{address}/metrics"));
                }
            }
            Notice::Triggered(reasons) => {
                self.human.clear();
                if self.human.is_verbose() {
                    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                    self.human.note(&format!("applying: {}", reasons.join(", ")));
                }
            }
            Notice::Applied { applied, elapsed, next } => self.applied(applied, *elapsed, *next),
            Notice::Failed { failure, again, next } => self.failed(failure, *again, *next),
            // A run that is under way has its summary, of what was counted.
            Notice::Stopping => self.human.close(),
        }
    }
}
