//! The output for people: what happens goes to stderr as it happens, results are text for stdout.

mod images;
mod progress;
mod run;
mod upkeep;

use std::fmt::Write as _;
use std::io::{self, Write};

use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::{Event, Reporter};
use msb_sync::state::Action;

pub(crate) use images::{inspect, list, lowerdir};
pub(crate) use progress::Progress;
pub(crate) use run::{Next, plan, relocked, summary};
pub(crate) use upkeep::{pruned, verified};

use crate::text::{Style, bytes, plural, printable, short};

/// Prints to stderr what happens.
pub(crate) struct Human {
    quiet: bool,
    verbose: u8,
    json: bool,
    style: Style,
    progress: Progress,
}

impl Human {
    pub(crate) fn new(quiet: bool, verbose: u8, json: bool, progress: Progress, style: Style) -> Self {
        Self { quiet, verbose, json, style, progress }
    }

    /// Runs `write` while no bar is on the screen.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.progress.suspend(write)
    }

    /// Prints text to stderr, control characters escaped.
    pub(crate) fn lines(&self, text: &str) {
        let text = printable(text.trim_end_matches('\n'), true);
        self.suspend(|| {
            // Nobody left to read errors is no reason to fail.
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// Prints an error, its causes and the next step.
    pub(crate) fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        let mut text = format!("{}: {}", self.style.red("error"), printable(message, false));
        for cause in causes {
            let _ = write!(text, "\n  caused by: {}", printable(cause, false));
        }
        if let Some(hint) = hint {
            let _ = write!(text, "\n{}: {}", self.style.bold("hint"), printable(hint, false));
        }
        self.raw(&text);
    }

    /// Prints what went wrong beside the images.
    pub(crate) fn failure(&self, error: &Error) {
        let mut chain = error.chain();
        let message = chain.remove(0);
        self.error(&message, &chain, error.hint().as_deref());
    }

    /// Prints why an image failed.
    pub(crate) fn image_error(&self, reference: &ImageRef, error: Option<&Error>) {
        let Some(error) = error else { return };
        let mut chain = error.chain();
        let message = format!("{reference}: {}", chain.remove(0));
        self.error(&message, &chain, error.hint().as_deref());
    }

    /// Whether to say more.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Whether bars and a status line are shown.
    pub(crate) fn is_live(&self) -> bool {
        self.progress.is_bars()
    }

    /// Shows `text` at the bottom of the screen, until [`Human::clear`].
    pub(crate) fn status(&self, text: &str) {
        self.progress.status(&printable(text, false));
    }

    /// Prints what the user should know that stops nothing.
    pub(crate) fn warning(&self, message: &str) {
        if self.quiet {
            return;
        }
        self.raw(&format!("{}: {}", self.style.yellow("warning"), printable(message, true)));
    }

    /// Prints a line that has been made printable.
    fn raw(&self, text: &str) {
        self.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// Prints something that nobody needs to know.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.raw(&printable(text, false));
        }
    }

    /// Removes the bars: the result comes next, or the end.
    pub(crate) fn clear(&self) {
        self.progress.clear();
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
            Action::Add => (self.style.green("+"), "added"),
            Action::Update => (self.style.yellow("~"), "updated"),
            Action::Repair => (self.style.yellow("!"), "repaired"),
            Action::Remove => (self.style.red("-"), "removed"),
            Action::Keep if self.verbose > 0 => (self.style.dim("="), "unchanged"),
            Action::Keep | Action::Blocked => return,
        };
        if !self.quiet && !self.json {
            let why =
                if reason.is_empty() { String::new() } else { format!(": {}", printable(reason, false)) };
            self.raw(&format!("  {sign} {reference} {what}{}", self.style.dim(&why)));
        }
    }
}

impl Reporter for Human {
    fn report(&self, event: Event) {
        match &event {
            Event::Warning(message) => self.warning(message),
            Event::Detail(message) if self.verbose > 0 => self.raw(&printable(message, false)),
            Event::Waiting(who) if !self.quiet => {
                let text = format!("waiting for {who}, which works on the same directories");
                self.raw(&printable(&text, false));
            }
            Event::Image { reference, error: Some(error), .. } if !matches!(**error, Error::Stopped) => {
                self.image_error(reference, Some(error));
            }
            Event::Image { reference, action, reason, error: None } => {
                self.image_done(reference, *action, reason);
            }
            Event::LayerStarted { digest, size, resumed, image }
                if !self.progress.is_bars() && self.verbose > 0 =>
            {
                let rest =
                    if *resumed > 0 { format!(", {} already here", bytes(*resumed)) } else { String::new() };
                self.note(&format!("    {} {} for {image}{rest}", short(digest.as_str()), bytes(*size)));
            }
            Event::Started { layers, bytes: count } if !self.progress.is_bars() => {
                self.note(&format!("fetching {}, {}", plural(*layers, "layer"), bytes(*count)));
            }
            _ => {}
        }
        if let Some(line) = self.progress.update(&event) {
            self.raw(&line);
        }
    }
}
