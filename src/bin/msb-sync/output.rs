//! The places where a command's result and everything else go, and their form.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use msb_sync::error::Error;
use msb_sync::progress::Reporter;
use msb_sync::sync::{Applied, VerbError};
use msb_sync::threads::lock;

use crate::args::{Cli, Printed, When};
use crate::exit::Exit;
use crate::human::{self, Human, Meter, View};
use crate::signals::LastWords;
use crate::{json, streams};

/// The time that a summary takes at most which somebody is printing already.
const PRINTING: Duration = Duration::from_millis(100);

/// The output of one run, as the global options want it.
pub(crate) struct Output {
    /// The result is JSON.
    pub(crate) json: bool,
    /// The form of the result with `--json`.
    printed: Printed,
    /// People are told errors only.
    pub(crate) quiet: bool,
    /// Everything but the result goes here.
    pub(crate) human: Arc<Human>,
    /// The value of `--home`, for commands that the output suggests.
    pub(crate) home: Option<PathBuf>,
    /// Events tell how far a run is.
    progress: bool,
    /// The time at which the run began whose summary is still to be printed.
    owes_summary: Mutex<Option<Instant>>,
}

impl Output {
    /// The output that the global options and the command ask for.
    pub(crate) fn new(cli: &Cli) -> Self {
        let global = &cli.global;
        streams::color(global.color);
        // A terminal that cannot move its cursor gets lines.
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        let is_terminal = io::stderr().is_terminal() && !is_dumb;
        let tally = Arc::default();
        let meter = match global.progress {
            _ if global.quiet => Meter::Off,
            When::Always if is_terminal => Meter::bars(&tally),
            When::Always => Meter::lines(),
            When::Auto if is_terminal && !global.json => Meter::bars(&tally),
            When::Auto | When::Never => Meter::Off,
        };
        Self {
            json: global.json,
            printed: cli.command.result(),
            quiet: global.quiet,
            human: Arc::new(Human::new(global.quiet, global.verbose, global.json, meter, tally)),
            home: global.home.clone(),
            progress: global.json && global.progress == When::Always,
            owes_summary: Mutex::default(),
        }
    }

    /// Notes that a run begins which has a summary at its end, whatever ends it.
    pub(crate) fn owe_summary(&self) {
        *lock(&self.owes_summary) = Some(Instant::now());
    }

    /// Prints the summary of the run, unless that was done; of `None`, the part that is known of a
    /// run which was stopped.
    pub(crate) fn summary(&self, applied: Option<&Applied>) {
        let Some(started) = lock(&self.owes_summary).take() else { return };
        let stopped = applied.is_none().then(|| self.human.tally().stopped());
        let Some(applied) = applied.or(stopped.as_ref()) else { return };
        let elapsed = started.elapsed();
        if self.json {
            self.result(&format!("{}\n", json::summary(applied, elapsed)));
        } else if !(self.quiet || applied.outcome.stopped && applied.outcome.images.is_empty()) {
            self.result(&human::summary(applied, elapsed, self.home.as_deref(), self.view()));
        }
    }

    /// The events that tell how far a run is, if they are wanted.
    pub(crate) fn progress(&self) -> Option<json::Progress> {
        self.progress.then(json::Progress::default)
    }

    /// The reporter of `verb`. With `--json`, `apply` and `pull` print events; the others print one
    /// document at their end.
    pub(crate) fn reporter(&self, verb: &str) -> Arc<dyn Reporter> {
        if self.json && matches!(verb, "apply" | "pull") {
            Arc::new(json::Events::new(Arc::clone(&self.human), self.progress()))
        } else {
            Arc::clone(&self.human) as _
        }
    }

    /// The view of a result.
    pub(crate) fn view(&self) -> View {
        View { verbose: self.human.is_verbose(), room: streams::room() }
    }

    /// Prints a result.
    pub(crate) fn result(&self, text: &str) {
        self.human.suspend(|| streams::print(text));
    }

    /// Prints a result that is a JSON document.
    pub(crate) fn document(&self, value: &serde_json::Value) {
        self.result(&format!("{value:#}\n"));
    }

    /// Prints the result of a verb as JSON or, unless only errors are wanted, for people.
    pub(crate) fn either(&self, json: impl FnOnce() -> serde_json::Value, human: impl FnOnce() -> String) {
        if self.json {
            self.document(&json());
        } else if !self.quiet {
            self.result(&human());
        }
    }

    /// Prints an error, its causes and the next step.
    pub(crate) fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        self.human.error(message, causes, hint);
    }

    /// Prints why a verb failed, with `--json` in the place of its result too.
    pub(crate) fn failure(&self, failure: &VerbError) -> Exit {
        self.human.clear();
        if self.json {
            match self.printed {
                Printed::Document => self.document(&json::failure(failure)),
                Printed::Events => json::print_failure(json::failure(failure)),
                Printed::Bundle => {}
            }
        }
        match failure {
            VerbError::Problems(problems) => {
                self.human.lines(&problems.to_string());
                Exit::Usage
            }
            VerbError::Lockfile(problem) => {
                self.human.lines(&problem.to_string());
                Exit::Usage
            }
            VerbError::Error(Error::Stopped) => Exit::Failed,
            VerbError::Error(error) => {
                self.human.failure(error);
                Exit::Failed
            }
            VerbError::Input(error) => {
                self.human.failure(error);
                Exit::Usage
            }
        }
    }
}

impl LastWords for Output {
    fn stopping(&self) {
        self.human.close();
    }

    fn overdue(&self) {
        if lock(&self.owes_summary).is_some() {
            self.summary(None);
        } else {
            std::thread::sleep(PRINTING);
        }
        self.human.stopped();
    }
}
