//! Runs [`sync::apply`] again whenever something that it depends on changes, until it is stopped.
//!
//! One loop on one thread waits for what may happen: a file or directory changes (`eyes`, `paths`),
//! the interval is over, SIGHUP, the run's end, the stop switch. The run itself is the same
//! blocking code as `apply`'s, on a thread of its own. Changes are given time to settle
//! (`schedule`) and are compared with what the last run read, so a touched file, or a write of our
//! own, starts nothing; what changes during a run leads to one more run, however often it changed.
//! systemd is told how things are (`systemd`), and whoever asks over HTTP (`server`): programs by
//! `metrics` and `document`, people by a `page`. The last two show the `status` on the `board`,
//! which is made of the `results` of the runs.
//!
//! The images file is read by each run anew. One that is broken or gone changes nothing on the
//! machine.

mod address;
mod board;
mod document;
mod eyes;
mod metrics;
mod notice;
mod page;
mod paths;
mod results;
mod schedule;
mod server;
mod status;
mod systemd;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

pub use self::address::{Address, parse_address};
use self::board::Board;
use self::eyes::{Eyes, files_of};
use self::metrics::Metrics;
pub use self::notice::{Listener, Notice, Options, Trigger};
use self::paths::Content;
use self::schedule::Changes;
use crate::error::{Defect, Error};
use crate::state::Action;
use crate::store::layer_path;
use crate::sync::{self, Applied, Inputs, Session, VerbError};
use crate::threads;

/// A file that looks the same twice, so long apart, is not being written.
const REST: Duration = Duration::from_millis(40);

/// Applies now, and again whenever something changes, until the session's stop switch is thrown.
/// Returns the result of the run that this stopped, if one was under way and came to have a result.
///
/// # Errors
/// The first run could not be carried out (images that fail are no reason), the metrics cannot be
/// served, or the system has no threads or signals for us.
pub fn watch(
    session: &Session,
    options: &Options,
    listener: &dyn Listener,
) -> Result<Option<Applied>, VerbError> {
    let cannot =
        |doing: &'static str| move |source: std::io::Error| VerbError::Error(Error::System { doing, source });
    let inputs = sync::inputs(session, &options.request.source)?;
    let metrics = Arc::new(Metrics::new());
    let board = options.metrics.as_ref().map(|_| Arc::new(Board::new(&inputs.images_file, inputs.interval)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot("start watching"))?;
    let result = runtime.block_on(async {
        let hangups = signal(SignalKind::hangup()).map_err(cannot("wait for SIGHUP"))?;
        let server = match options.metrics.as_ref().zip(board.clone()) {
            Some((address, board)) => Some(server::start(address, Arc::clone(&metrics), board)?),
            None => None,
        };
        let stopped = Arc::new(Notify::new());
        let (cancel, waker) = (session.cancel.clone(), Arc::clone(&stopped));
        threads::start("watch-stop", move || {
            while cancel.sleep(Duration::from_secs(3600)) {}
            waker.notify_one();
        })
        .map_err(cannot("start watching"))?;
        let session = Session { reporter: metrics.listen(Arc::clone(&session.reporter)), ..session.clone() };
        let mut watch = Watch {
            eyes: Eyes::new(options.poll),
            session,
            options,
            listener,
            metrics,
            board,
            inputs,
            read: BTreeMap::new(),
            wanted: BTreeSet::new(),
            catalog: None,
            changes: None,
            touched: BTreeSet::new(),
            hangup: false,
            put_off: false,
            failures: 0,
            failed: None,
            next: Instant::now(),
            next_reason: Trigger::Interval,
            first: true,
            stopped: None,
        };
        watch.run(hangups, &stopped, server.as_ref().map(|server| server.address)).await
    });
    // A run that does not notice its end must not hold up ours.
    runtime.shutdown_background();
    result
}

/// The contents of the files that a run reads.
type Contents = BTreeMap<PathBuf, Content>;

/// The end of a run; `None` where the run was put off.
type RunResult = Result<Option<Applied>, VerbError>;

/// A run that is under way.
struct Run {
    result: oneshot::Receiver<RunResult>,
    /// The system's reason for giving the run no thread.
    refused: Option<std::io::Error>,
    started: Instant,
}

/// The loop's state.
struct Watch<'a> {
    session: Session,
    options: &'a Options,
    listener: &'a dyn Listener,
    metrics: Arc<Metrics>,
    /// The board for those who ask over HTTP, where anybody can.
    board: Option<Arc<Board>>,
    eyes: Eyes,
    /// The files and directories that the last readable images file leads to.
    inputs: Inputs,
    /// The contents that the last run read, or could have.
    read: Contents,
    /// The layer directories whose disappearance starts a run.
    wanted: BTreeSet<PathBuf>,
    /// The catalog, if there was one after the last run.
    catalog: Option<PathBuf>,
    /// The changes that the eyes saw and nobody has looked at yet.
    changes: Option<Changes>,
    /// Inputs that something happened to while a run was reading them: the run may have read
    /// something else than they hold now.
    touched: BTreeSet<PathBuf>,
    hangup: bool,
    /// The run that was told of has not begun yet.
    put_off: bool,
    /// Runs in a row with a failure that may pass by itself.
    failures: u32,
    /// The text of the last failure of a whole run, since the last good one.
    failed: Option<String>,
    /// The start of the next run if nothing happens, and the reason for it.
    next: Instant,
    next_reason: Trigger,
    first: bool,
    /// The result of the run that was stopped.
    stopped: Option<Applied>,
}

impl Watch<'_> {
    async fn run(
        &mut self,
        mut hangups: Signal,
        stopped: &Notify,
        server: Option<SocketAddr>,
    ) -> Result<Option<Applied>, VerbError> {
        self.eyes.arm(&self.inputs);
        self.listener.notice(&Notice::Watching {
            file: &self.inputs.images_file,
            interval: self.inputs.interval,
            metrics: server,
            poll: self.eyes.poll_every(),
        });
        let mut run = Some(self.start(&[], self.contents()));
        let watchdog = systemd::watchdog();
        let mut ping = std::pin::pin!(sleep_until(Instant::now()));
        let mut poll = std::pin::pin!(sleep_until(self.poll_due()));
        let mut due = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            set(&mut due, self.due());
            tokio::select! {
                biased;
                () = stopped.notified() => break,
                result = ended(&mut run) => {
                    run = None;
                    self.finish(result)?;
                    set(&mut poll, self.poll_due());
                }
                _ = hangups.recv() => {
                    self.hangup = true;
                    systemd::reloading();
                }
                () = self.eyes.news() => self.see(run.is_some()),
                () = &mut due, if run.is_none() => {
                    if let Some((reasons, contents)) = self.decide().await {
                        run = Some(self.start(&reasons, contents));
                    }
                    set(&mut poll, self.poll_due());
                }
                () = &mut poll, if self.eyes.poll_every().is_some() => {
                    self.eyes.poll();
                    set(&mut poll, self.poll_due());
                }
                () = &mut ping, if watchdog.is_some() => {
                    if self.metrics.is_alive() {
                        systemd::alive();
                    }
                    set(&mut ping, Instant::now() + watchdog.unwrap_or_default());
                }
            }
        }
        systemd::stopping();
        self.listener.notice(&Notice::Stopping);
        if run.is_some() {
            // The stop switch ends it; what it has finished stays.
            let result = ended(&mut run).await;
            self.finish(result)?;
        }
        Ok(self.stopped.take())
    }

    /// The time at which something is to be done if nothing happens, while no run is going on.
    fn due(&self) -> Instant {
        let now = Instant::now();
        match &self.changes {
            Some(changes) => changes.due(),
            None if self.hangup => now,
            None => self.next,
        }
    }

    fn poll_due(&self) -> Instant {
        Instant::now() + self.eyes.poll_every().unwrap_or(Duration::from_secs(3600))
    }

    /// Takes note of what the eyes saw.
    fn see(&mut self, running: bool) {
        let seen = self.eyes.take();
        if seen.is_empty() {
            return;
        }
        if running {
            let files = files_of(&self.inputs).into_iter();
            self.touched.extend(files.filter(|path| seen.all || seen.touched.contains(*path)).cloned());
        }
        self.changes = Some(Changes::note(self.changes, Instant::now(), seen.writing));
    }

    /// The reasons for a run now, and the contents that the run will read; `None` if there are
    /// none, or if a file is being written.
    ///
    /// A file that is written in place is empty for a moment, and an empty images file is a good
    /// one, which wants nothing. Each file must look the same twice, with nothing happening to it
    /// in between.
    async fn decide(&mut self) -> Option<(Vec<Trigger>, Contents)> {
        let changes = self.changes.take();
        let before = self.eyes.take();
        // A file system may hang, and the loop with it: whoever asks how things are is told.
        self.metrics.looking(true);
        let (reasons, contents) = self.look();
        self.metrics.looking(false);
        if !reasons.iter().any(|reason| matches!(reason, Trigger::Changed(_))) {
            return (!reasons.is_empty()).then_some((reasons, contents));
        }
        sleep(REST).await;
        let again = self.contents();
        // The kernel has told by now of everybody who was writing then.
        sleep(REST).await;
        let (now, seen) = (Instant::now(), self.eyes.take());
        let at_rest = !before.writing && !seen.writing && seen.is_empty() && again == contents;
        // Else it is taken as it is after a while, but for an empty one. A run that finds another
        // one does nothing.
        let contents = if at_rest { contents } else { self.contents() };
        let emptied = contents.get(&self.inputs.images_file).is_some_and(Content::is_empty_file);
        let overdue = changes.is_some_and(|changes| changes.overdue(now));
        if at_rest || overdue && !emptied {
            if !seen.is_empty() {
                self.changes = Some(Changes::note(None, now, seen.writing));
            }
            return Some((reasons, contents));
        }
        self.changes = Some(Changes::put_off(changes, now, seen.writing));
        None
    }

    /// Looks at everything: the reasons for a run, if there are any, and the contents it would
    /// read.
    fn look(&mut self) -> (Vec<Trigger>, Contents) {
        let mut reasons: BTreeSet<Trigger> = self.touched.iter().cloned().map(Trigger::Changed).collect();
        if self.hangup {
            reasons.insert(Trigger::Hangup);
        }
        if Instant::now() >= self.next {
            reasons.insert(self.next_reason.clone());
        }
        if let Ok(inputs) = sync::inputs(&self.session, &self.options.request.source) {
            self.inputs = inputs;
        }
        self.eyes.arm(&self.inputs);
        let now = self.contents();
        let changed = |path: &&PathBuf| self.read.get(*path) != now.get(*path);
        let all: BTreeSet<&PathBuf> = self.read.keys().chain(now.keys()).collect();
        reasons.extend(all.into_iter().filter(changed).cloned().map(Trigger::Changed));
        let gone = self.wanted.iter().filter(|path| !path.is_dir()).count();
        if gone > 0 {
            reasons.insert(Trigger::LayersGone(gone));
        }
        let gone = self.catalog.iter().filter(|path| !path.exists());
        reasons.extend(gone.cloned().map(Trigger::CatalogGone));
        (reasons.into_iter().collect(), now)
    }

    fn contents(&self) -> Contents {
        files_of(&self.inputs).into_iter().map(|path| (path.clone(), Content::of(path))).collect()
    }

    /// Starts a run that reads `contents`; the eyes see whatever changes from here on.
    fn start(&mut self, reasons: &[Trigger], contents: Contents) -> Run {
        if self.read != contents || reasons.contains(&Trigger::Hangup) {
            self.failed = None;
            // With other settings, or asked for by hand, a registry may answer.
            self.session.rests.forget();
        }
        self.read = contents;
        self.hangup = false;
        self.touched.clear();
        self.eyes.forget_writers();
        let reasons = if std::mem::take(&mut self.put_off) { &[] } else { reasons };
        if !reasons.is_empty() {
            self.listener.notice(&Notice::Triggered(reasons));
        }
        let why: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        systemd::status(&if why.is_empty() {
            "applying".to_owned()
        } else {
            format!("applying: {}", why.join(", "))
        });
        self.metrics.started(reasons);
        if let Some(board) = &self.board {
            board.started(reasons);
        }
        let (session, request) = (self.session.clone(), self.options.request.clone());
        let expected = self.read.get(&self.inputs.images_file).cloned();
        let (done, result) = oneshot::channel();
        let thread = threads::start("run", move || {
            let result = match expected {
                Some(Content::File(digest)) => sync::apply_unchanged(&session, &request, &digest),
                _ => sync::apply(&session, &request).map(Some),
            };
            // Nobody waits for it any more once the watch is stopped.
            let _ = done.send(result);
        });
        Run { result, refused: thread.err(), started: Instant::now() }
    }

    /// Draws the conclusions from a run.
    fn finish(&mut self, (result, elapsed): (RunResult, Duration)) -> Result<(), VerbError> {
        if self.session.cancel.is_cancelled() {
            self.stopped = result.ok().flatten();
            return Ok(());
        }
        let Some(result) = result.transpose() else {
            // The images file was written to just before it was read.
            self.touched.insert(self.inputs.images_file.clone());
            self.changes = Some(Changes::missed(Instant::now()));
            self.metrics.put_off();
            if let Some(board) = &self.board {
                board.put_off();
            }
            self.put_off = true;
            return Ok(());
        };
        let first = std::mem::take(&mut self.first);
        let wait = self.plan_next(&result);
        let verdict = self.metrics.finished(&result, elapsed);
        if let Some(board) = &self.board {
            board.finished(&result, verdict, elapsed, (wait, &self.next_reason), self.inputs.interval);
        }
        match &result {
            Ok(applied) => {
                self.failed = None;
                self.wanted = if self.inputs.extracts { wanted(applied) } else { BTreeSet::new() };
                self.listener.notice(&Notice::Applied { applied, elapsed, next: wait });
            }
            Err(_) if first => return result.map(drop),
            Err(failure) => {
                let text = failure.to_string();
                let again = self.failed.as_ref() == Some(&text);
                self.failed = Some(text);
                self.listener.notice(&Notice::Failed { failure, again, next: wait });
            }
        }
        self.catalog = Some(self.inputs.catalog.clone()).filter(|path| path.exists());
        // The run may have made the directories that were missing.
        self.eyes.arm(&self.inputs);
        if let Some(changes) = &mut self.changes {
            // They settle from here on: nobody could look at them before.
            *changes = changes.again(Instant::now());
        }
        // A layer may have gone before its directory was watched.
        if self.wanted.iter().any(|path| !path.is_dir()) {
            self.changes = Some(Changes::note(self.changes, Instant::now(), false));
        }
        if self.hangup {
            // The run that SIGHUP asked for is still to come.
            systemd::status(&self.metrics.summary());
        } else {
            systemd::ready(&self.metrics.summary());
        }
        Ok(())
    }

    /// Plans the next run, and returns the wait for it: soon where something failed that may pass
    /// by itself, else at the interval.
    fn plan_next(&mut self, result: &Result<Applied, VerbError>) -> Duration {
        let errors: Vec<&Error> = match result {
            Ok(applied) => {
                applied.outcome.images.iter().filter_map(|(_, _, error)| error.as_deref()).collect()
            }
            Err(VerbError::Error(error)) => vec![error],
            Err(_) => Vec::new(),
        };
        let now = SystemTime::now();
        let asked = |error: &Error| error.retry_at().map(|at| at.duration_since(now).unwrap_or_default());
        let passing = errors.into_iter().filter(|error| may_pass(error)).map(asked);
        let interval = self.inputs.interval;
        let retry = schedule::retry(passing, self.failures.saturating_add(1), interval, fastrand::f64());
        self.failures = if retry.is_some() { self.failures.saturating_add(1) } else { 0 };
        self.next_reason = if retry.is_some() { Trigger::Retry } else { Trigger::Interval };
        let wait = retry.unwrap_or(interval);
        self.next = Instant::now() + wait;
        wait
    }
}

/// Waits for the end of a run, for ever if there is none.
async fn ended(run: &mut Option<Run>) -> (RunResult, Duration) {
    let Some(run) = run else { return std::future::pending().await };
    let result = (&mut run.result).await.unwrap_or_else(|_| {
        Err(VerbError::Error(if let Some(source) = run.refused.take() {
            Error::System { doing: "start the thread of a run", source }
        } else {
            // A defect of ours ended the run, and must not end the watch.
            Defect::RunEnded.into()
        }))
    });
    (result, run.started.elapsed())
}

fn set(sleep: &mut Pin<&mut Sleep>, deadline: Instant) {
    if sleep.deadline() != deadline {
        sleep.as_mut().reset(deadline);
    }
}

/// Trying again soon may help: the registry, the engine, or the machine, may be well again.
fn may_pass(error: &Error) -> bool {
    matches!(
        error.kind(),
        "unreachable"
            | "stalled"
            | "protocol"
            | "rate-limited"
            | "registry-failure"
            | "catalog-busy"
            | "disk-full"
            | "engine"
            | "io"
    )
}

/// The layer directories that must be there after this run.
fn wanted(applied: &Applied) -> BTreeSet<PathBuf> {
    let failed: BTreeSet<_> = applied
        .outcome
        .images
        .iter()
        .filter(|(_, _, error)| error.is_some())
        .map(|(name, ..)| name)
        .collect();
    let images = applied.plan.images.iter();
    images
        .filter(|image| image.action != Action::Remove && !failed.contains(&image.reference))
        .flat_map(|image| image.layers.iter().map(|layer| layer_path(&applied.layers, &layer.digest)))
        .collect()
}
