//! The output for people: events go to stderr as they happen, results are text for stdout.

mod bundle;
mod df;
mod diff;
mod edit;
mod images;
mod lock;
mod meter;
mod outdated;
mod plan;
mod summary;
mod trust;
mod upkeep;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::{Event, Reporter};
use msb_sync::state::Action;
use msb_sync::threads::lock;

pub(crate) use bundle::exported;
pub(crate) use df::df;
pub(crate) use diff::{diff, diff_markdown};
pub(crate) use edit::edited;
pub(crate) use images::{inspect, list, lowerdir};
pub(crate) use lock::relocked;
pub(crate) use meter::Meter;
pub(crate) use outdated::outdated;
pub(crate) use plan::plan;
pub(crate) use summary::summary;
pub(crate) use trust::{trust_root, version};
pub(crate) use upkeep::{pruned, verified};

use crate::tally::Tally;
use crate::text::{bytes, plural, printable, short};
use crate::{paint, streams};

/// Tells people on stderr what happens.
pub(crate) struct Human {
    quiet: bool,
    verbose: u8,
    json: bool,
    meter: Meter,
    tally: Arc<Mutex<Tally>>,
}

impl Human {
    /// Tells as much as is asked for; `tally` counts what happens, for `meter` too.
    pub(crate) fn new(quiet: bool, verbose: u8, json: bool, meter: Meter, tally: Arc<Mutex<Tally>>) -> Self {
        Self { quiet, verbose, json, meter, tally }
    }

    /// Returns the counts of the run so far.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Counts an event of which people may not be told.
    pub(crate) fn count(&self, event: &Event) {
        self.tally().note(event, Instant::now());
        if let Some(line) = self.meter.update(event, &self.tally) {
            self.raw(&line);
        }
    }

    /// Runs `write` while no bar is on the screen.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.meter.suspend(write)
    }

    /// Prints text to stderr, control characters escaped.
    pub(crate) fn lines(&self, text: &str) {
        self.raw(&printable(text.trim_end_matches('\n'), true));
    }

    /// Prints an error, its causes and the next step.
    pub(crate) fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        let mut text = format!("{}: {}", paint::red("error"), printable(message, false));
        for cause in causes {
            let _ = write!(text, "\n  caused by: {}", printable(cause, false));
        }
        if let Some(hint) = hint {
            let _ = write!(text, "\n{}: {}", paint::bold("hint"), printable(hint, false));
        }
        self.raw(&text);
    }

    /// Prints an error that concerns no image, or all.
    pub(crate) fn failure(&self, error: &Error) {
        let mut chain = error.chain();
        let message = chain.remove(0);
        self.error(&message, &chain, error.hint().as_deref());
    }

    /// Prints why an image failed.
    pub(crate) fn image_error(&self, reference: &ImageRef, error: Option<&Error>) {
        let Some(error) = error else { return };
        if let Some(refusal) = trust::refusal(Some(error)) {
            let message = format!("{reference}: {}", refusal.summary());
            let mut text = format!("{}: {}\n", paint::red("error"), printable(&message, false));
            text.push_str(&trust::reasons(refusal, "  "));
            if let Some(hint) = refusal.hint() {
                let _ = write!(text, "{}: {}", paint::bold("hint"), printable(&hint, false));
            }
            self.raw(text.trim_end());
            return;
        }
        let mut chain = error.chain();
        let message = format!("{reference}: {}", chain.remove(0));
        self.error(&message, &chain, error.hint().as_deref());
    }

    /// The user asked for more (`-v`).
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Bars and a status line are on the screen.
    pub(crate) fn is_live(&self) -> bool {
        self.meter.is_bars()
    }

    /// Shows `text` at the bottom of the screen, until [`Human::clear`].
    pub(crate) fn status(&self, text: &str) {
        self.meter.status(&printable(text, false));
    }

    /// Prints a warning: the user should know, and the run goes on.
    pub(crate) fn warning(&self, message: &str) {
        if self.quiet {
            return;
        }
        self.raw(&format!("{}: {}", paint::yellow("warning"), printable(message, true)));
    }

    /// Prints a line whose control characters are escaped, and colours ours.
    fn raw(&self, text: &str) {
        self.suspend(|| streams::tell(text));
    }

    /// Prints a line that nobody needs.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.raw(&printable(text, false));
        }
    }

    /// Removes the bars, and forgets the counts: the result comes next, or another run.
    pub(crate) fn clear(&self) {
        self.meter.clear(|| *self.tally() = Tally::default());
    }

    /// Removes the bars for good, and keeps the counts: the run is about to end.
    pub(crate) fn close(&self) {
        self.meter.close();
    }

    /// Says that a signal ended the run.
    pub(crate) fn stopped(&self) {
        self.error(
            "stopped by a signal; everything finished so far stays, the next run goes on from there",
            &[],
            None,
        );
    }

    fn image_done(&self, reference: &ImageRef, action: Action, reason: &str) {
        let (sign, what) = match action {
            Action::Add => (paint::green("+"), "added"),
            Action::Update => (paint::yellow("~"), "updated"),
            Action::Repair => (paint::yellow("!"), "repaired"),
            Action::Remove => (paint::red("-"), "removed"),
            Action::Keep if self.verbose > 0 => (paint::dim("="), "unchanged"),
            Action::Keep | Action::Blocked => return,
        };
        if !self.quiet && !self.json {
            let why =
                if reason.is_empty() { String::new() } else { format!(": {}", printable(reason, false)) };
            self.raw(&format!("  {sign} {reference} {what}{}", paint::dim(&why)));
        }
    }
}

impl Reporter for Human {
    fn report(&self, event: Event) {
        self.say(&event);
        self.count(&event);
    }
}

impl Human {
    /// Tells people of `event`.
    pub(crate) fn say(&self, event: &Event) {
        match event {
            Event::Warning(message) => self.warning(message),
            Event::Detail(message) if self.verbose > 0 => self.raw(&printable(message, false)),
            Event::Waiting(who) if !self.quiet => {
                let text = format!("waiting for {who}, which works on the same directories");
                self.raw(&printable(&text, false));
            }
            Event::Image { reference, error: Some(error), .. } if !matches!(**error, Error::Stopped) => {
                self.image_error(reference, Some(error));
            }
            Event::Loading { engine, images } => {
                self.note(&format!("loading {} into {engine}", plural(*images, "image")));
            }
            Event::Loaded { engine, images, failed } if self.verbose > 0 => {
                let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
                self.note(&format!("{engine} has {} now{failed}", plural(*images, "image")));
            }
            Event::Image { reference, action, reason, error: None, .. } => {
                self.image_done(reference, *action, reason);
            }
            Event::LayerStarted { digest, size, resumed, image }
                if !self.meter.is_bars() && self.verbose > 0 =>
            {
                let rest =
                    if *resumed > 0 { format!(", {} already here", bytes(*resumed)) } else { String::new() };
                self.note(&format!("    {} {} for {image}{rest}", short(digest.as_str()), bytes(*size)));
            }
            Event::Started { layers, bytes: count, .. } if !self.meter.is_bars() => {
                self.note(&format!("fetching {}, {}", plural(*layers, "layer"), bytes(*count)));
            }
            _ => {}
        }
    }
}
