//! The places where a command's result and everything else go, and their form.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use msb_sync::error::Error;
use msb_sync::progress::Reporter;
use msb_sync::sync::{Applied, VerbError};
use msb_sync::threads::lock;

use crate::args::{Cli, Printed, When};
use crate::exit::Exit;
use crate::human::{self, Human, Meter, View};
use crate::json::Document;
use crate::signals::LastWords;
use crate::{json, streams};

/// The time that a summary takes at most which somebody is printing already, on a machine that has
/// much else to do. Who reads it may also have stopped reading.
const PRINTING: Duration = Duration::from_secs(2);

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
    summary: Mutex<Summary>,
    summary_told: Condvar,
}

/// The state of the summary of a run.
#[derive(Default)]
enum Summary {
    /// There is none to print, or none any more.
    #[default]
    None,
    /// The run began then, and has told none yet.
    Owed(Instant),
    /// Somebody is printing it.
    Printing,
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
            summary: Mutex::default(),
            summary_told: Condvar::new(),
        }
    }

    /// Notes that a run begins which has a summary at its end, whatever ends it.
    pub(crate) fn owe_summary(&self) {
        *lock(&self.summary) = Summary::Owed(Instant::now());
    }

    /// Notes that the run has ended in another way.
    pub(crate) fn owe_nothing(&self) {
        *lock(&self.summary) = Summary::None;
    }

    /// Prints the summary of the run, unless that was done; of `None`, the part that is known of a
    /// run which was stopped.
    pub(crate) fn summary(&self, applied: Option<&Applied>) {
        let mut summary = lock(&self.summary);
        let Summary::Owed(started) = *summary else { return };
        *summary = Summary::Printing;
        drop(summary);
        let stopped = applied.is_none().then(|| self.human.tally().stopped());
        if let Some(Applied { outcome, .. }) = stopped.as_ref().filter(|_| self.json) {
            // Each image that is counted has its event, as where a run goes on to its end.
            for (image, ..) in &outcome.images {
                let has_ended = self.human.tally().has_ended(image);
                if !has_ended {
                    self.result(&format!("{}\n", json::stopped(image)));
                }
            }
        }
        if let Some(applied) = applied.or(stopped.as_ref()) {
            self.print_summary(applied, started.elapsed());
        }
        *lock(&self.summary) = Summary::None;
        self.summary_told.notify_all();
    }

    fn print_summary(&self, applied: &Applied, elapsed: Duration) {
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

    /// The reporter of `verb`. With `--json`, `apply`, `pull` and `rollback` print events; the
    /// others print one document at their end.
    pub(crate) fn reporter(&self, verb: &str) -> Arc<dyn Reporter> {
        if self.json && matches!(verb, "apply" | "pull" | "rollback") {
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
    pub(crate) fn document<'d>(&self, document: impl Into<Document<'d>>) {
        let document = document.into();
        self.human.suspend(|| streams::print_by(|stdout| document.write(stdout)));
    }

    /// Prints the result of a verb as JSON or, unless only errors are wanted, for people.
    pub(crate) fn either<'d, D: Into<Document<'d>>>(
        &self,
        json: impl FnOnce() -> D,
        human: impl FnOnce() -> String,
    ) {
        if self.json {
            self.document(json());
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
                Printed::Document => self.document(json::failure(failure)),
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
        self.summary(None);
        let is_printing = |summary: &mut Summary| matches!(summary, Summary::Printing);
        drop(self.summary_told.wait_timeout_while(lock(&self.summary), PRINTING, is_printing));
        self.human.stopped();
    }
}
