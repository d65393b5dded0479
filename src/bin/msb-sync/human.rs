//! The output for people: events go to stderr as they happen, results are text for stdout.

mod bundle;
mod df;
mod diff;
mod edit;
mod failures;
mod history;
mod images;
mod lock;
mod meter;
mod outdated;
mod plan;
mod summary;
mod trust;
mod upkeep;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::{Event, Exchange, Reporter};
use msb_sync::state::Action;
use msb_sync::threads::lock;

pub(crate) use bundle::exported;
pub(crate) use df::df;
pub(crate) use diff::{diff, diff_markdown};
pub(crate) use edit::edited;
pub(crate) use failures::{Failure, grouped};
pub(crate) use history::{held, history, released};
pub(crate) use images::{inspect, list, lowerdir, names};
pub(crate) use lock::relocked;
pub(crate) use meter::Meter;
pub(crate) use outdated::outdated;
pub(crate) use plan::plan;
pub(crate) use summary::summary;
pub(crate) use trust::{trust_root, version};
pub(crate) use upkeep::{pruned, verified};

use crate::table::wrapped;
use crate::tally::Tally;
use crate::text::{bytes, plural, printable, short};
use crate::{paint, streams};

/// The widest that a text of several sentences gets.
const PARAGRAPH: usize = 80;
/// Images that cannot be had are told at the end of a run, or after so long.
const HELD_BACK: Duration = Duration::from_secs(1);

/// The extent of what is shown, and the room for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// The user asked for more (`-v`).
    pub(crate) verbose: bool,
    /// The columns of the terminal; none off a terminal, where lines are as long as they are.
    pub(crate) room: Option<usize>,
}

impl View {
    /// Shows `text` on one line, or on more where the terminal is too narrow for that. The first
    /// line begins with `first`, the others with `next`.
    pub(crate) fn lines(self, text: &str, first: &str, next: &str) -> String {
        match self.room {
            Some(room) => wrapped(text, first, next, room, true),
            None => format!("{first}{}\n", printable(text, false)),
        }
    }

    /// Shows `text` like [`View::lines`], never in more columns than are easy to read.
    pub(crate) fn paragraph(self, text: &str, first: &str, next: &str) -> String {
        wrapped(
            text,
            first,
            next,
            self.room.map_or(PARAGRAPH, |room| room.min(PARAGRAPH)),
            self.room.is_some(),
        )
    }
}

/// Tells people on stderr what happens.
pub(crate) struct Human {
    quiet: bool,
    verbose: u8,
    json: bool,
    meter: Meter,
    tally: Arc<Mutex<Tally>>,
    failures: Mutex<Failures>,
}

/// The failures of the images of a run.
#[derive(Default)]
struct Failures {
    /// The failures that are still to be told.
    held: Vec<(ImageRef, Arc<Error>)>,
    /// The time at which the first of these happened.
    since: Option<Instant>,
    /// The reasons that were told, each with its hint.
    told: BTreeSet<Vec<String>>,
}

impl Human {
    /// Tells as much as is asked for; `tally` counts what happens, for `meter` too.
    pub(crate) fn new(quiet: bool, verbose: u8, json: bool, meter: Meter, tally: Arc<Mutex<Tally>>) -> Self {
        Self { quiet, verbose, json, meter, tally, failures: Mutex::default() }
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

    /// The view of what goes to stderr.
    fn view(&self) -> View {
        View { verbose: self.is_verbose(), room: streams::errors_room() }
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

    /// Prints why images failed, those of one registry and for one reason as one.
    pub(crate) fn image_errors<'a>(&self, failures: impl IntoIterator<Item = (&'a ImageRef, &'a Error)>) {
        for failure in grouped(failures) {
            self.image_failure(&failure, true);
        }
    }

    /// Prints why some images failed, and the next step if `with_hint`.
    pub(crate) fn image_failure(&self, failure: &Failure<'_>, with_hint: bool) {
        let Failure { error, .. } = failure;
        let refusal = trust::refusal(Some(error));
        let mut chain = error.chain();
        let first = chain.remove(0);
        let message = format!(
            "{}: {}",
            failure.subject(),
            refusal.map_or(first, msb_sync::error::SignatureError::summary)
        );
        let mut text = format!("{}: {}\n", paint::red("error"), printable(&message, false));
        text.push_str(
            &failure
                .names(self.view())
                .map_or_else(String::new, |names| self.view().lines(&names, "  ", "  ")),
        );
        match refusal {
            Some(refusal) => text.push_str(&trust::reasons(refusal, "  ", self.view())),
            None => {
                for cause in chain {
                    let _ = writeln!(text, "  caused by: {}", printable(&cause, false));
                }
            }
        }
        if let Some(hint) = error.hint().filter(|_| with_hint) {
            let _ = write!(text, "{}: {}", paint::bold("hint"), printable(&hint, false));
        }
        self.raw(text.trim_end());
    }

    /// Takes note of the failure of an image. What blocks many is one entry, so it waits for the
    /// others; what happens while others go on is told at once, if it is news.
    fn note_failure(&self, reference: &ImageRef, error: &Arc<Error>, action: Action) {
        let mut failures = lock(&self.failures);
        if action == Action::Blocked || failures.told.contains(&failures::key(reference, error)) {
            failures.held.push((reference.clone(), Arc::clone(error)));
            failures.since.get_or_insert_with(Instant::now);
        } else {
            failures.told.insert(failures::key(reference, error));
            drop(failures);
            self.image_errors([(reference, &**error)]);
        }
    }

    /// Prints the failures that were held back.
    fn tell_failures(&self) {
        let mut failures = lock(&self.failures);
        let held = std::mem::take(&mut failures.held);
        failures.since = None;
        for failure in grouped(held.iter().map(|(reference, error)| (reference, &**error))) {
            let is_new = failures.told.insert(failures::key(failure.images[0], failure.error));
            self.image_failure(&failure, is_new);
        }
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

    /// Removes the bars, tells what was held back, and forgets the counts: the result comes next,
    /// or another run.
    pub(crate) fn clear(&self) {
        self.meter.clear(|| *self.tally() = Tally::default());
        self.tell_failures();
        lock(&self.failures).told.clear();
    }

    /// Removes the bars for good, and keeps the counts: the run is about to end.
    pub(crate) fn close(&self) {
        self.meter.close();
        self.tell_failures();
    }

    /// Says that a signal ended the run.
    pub(crate) fn stopped(&self) {
        self.error(
            "stopped by a signal; everything finished so far stays, the next run goes on from there",
            &[],
            None,
        );
    }

    fn image_staged(&self, reference: &ImageRef, action: Action) {
        let sign = if action == Action::Add { paint::green("+") } else { paint::yellow("~") };
        if !self.quiet && !self.json {
            self.raw(&format!("  {sign} {reference} staged"));
        }
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
        if lock(&self.failures).since.is_some_and(|since| since.elapsed() > HELD_BACK) {
            self.tell_failures();
        }
        match event {
            Event::Warning(message) => self.warning(message),
            Event::Detail(message) if self.verbose > 0 => self.raw(&printable(message, false)),
            Event::Waiting(who) if !self.quiet => {
                let text = format!("waiting for {who}, which works on the same directories");
                self.raw(&printable(&text, false));
            }
            Event::Image { reference, error: Some(error), action, .. }
                if !matches!(**error, Error::Stopped) =>
            {
                self.note_failure(reference, error, *action);
            }
            Event::Request { status, exchange: Some(exchange), .. } if self.verbose > 0 => {
                self.raw(&printable(&request(*status, exchange), true));
            }
            Event::Loading { engine, images } => {
                self.note(&format!("loading {} into {engine}", plural(*images, "image")));
            }
            Event::Loaded { engine, images, failed } if self.verbose > 0 => {
                let failed = if *failed > 0 { format!(", {failed} failed") } else { String::new() };
                self.note(&format!("{engine} has {} now{failed}", plural(*images, "image")));
            }
            Event::HookStarted { .. } | Event::HookOutput { .. } | Event::Hook { .. } => {
                self.say_of_hook(event);
            }
            Event::Image { reference, action, staged: true, error: None, .. } => {
                self.image_staged(reference, *action);
            }
            Event::Image {
                reference, action: Action::Keep, candidate: Some(waiting), error: None, ..
            } => {
                self.note(&format!("  = {reference}: new digest {waiting}"));
            }
            Event::Image { reference, action: Action::Keep, held: Some(_), reason, error: None, .. }
            | Event::Image { reference, stays: true, reason, error: None, .. } => {
                self.note(&format!("  = {reference}: {reason}"));
            }
            Event::Image { reference, action, reason, error: None, .. } => {
                self.image_done(reference, *action, reason);
            }
            Event::LayerStarted { digest, size, resumed, image }
                if !self.meter.is_bars() && self.verbose > 0 =>
            {
                let rest =
                    if *resumed > 0 { format!(", {} already here", bytes(*resumed)) } else { String::new() };
                self.note(&format!("    {} {} for {image}{rest}", short(&digest.text()), bytes(*size)));
            }
            Event::Started { layers, bytes: count, .. } if !self.meter.is_bars() => {
                self.note(&format!("fetching {}, {}", plural(*layers, "layer"), bytes(*count)));
            }
            _ => {}
        }
    }
}

impl Human {
    /// Tells people of a hook: that it runs, what it writes, and why it failed.
    fn say_of_hook(&self, event: &Event) {
        match event {
            Event::HookStarted { rule, program, changes } => {
                self.tell_failures();
                self.note(&format!("hook {rule}: running {program} for {}", plural(*changes, "change")));
            }
            Event::HookOutput { program, line } if !self.quiet => {
                self.raw(&printable(&format!("  {program}: {line}"), false));
            }
            Event::Hook { error: Some(error), .. } if !matches!(**error, Error::Stopped) => {
                self.failure(error);
            }
            Event::Hook { rule, program, error: None, .. } if self.verbose > 0 => {
                self.note(&format!("hook {rule}: {program} has ended well"));
            }
            _ => {}
        }
    }
}

/// A line about a request, and one more for each header that is told.
fn request(status: Option<u16>, exchange: &Exchange) -> String {
    let Exchange { method, url, elapsed, credentials, sent, received } = exchange;
    let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let mut text = format!("  {method} {url} {status} in {:.3} s, {credentials}", elapsed.as_secs_f64());
    for (sign, headers) in [('>', sent), ('<', received)] {
        for (name, value) in headers {
            let _ = write!(text, "\n    {sign} {name}: {}", printable(value, false));
        }
    }
    text
}
