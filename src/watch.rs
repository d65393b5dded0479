//! Runs [`Session::apply`] again whenever something that it depends on changes, until it is stopped.
//!
//! One loop on one thread waits for what may happen: a file or directory changes (`eyes`, `paths`), the interval is
//! over, SIGHUP, the run's end, the stop switch. The run itself is the same blocking code as `apply`'s, on a thread
//! of its own. Changes are given time to settle (`schedule`) and are compared with what the last run read, so a
//! touched file, or a write of our own, starts nothing; what changes during a run leads to one more run, however
//! often it changed. systemd is told how things are (`systemd`), and whoever asks over HTTP (`metrics`, `server`).
//!
//! The images file is read by each run anew. One that is broken or gone changes nothing on the machine.

mod eyes;
mod metrics;
mod paths;
mod schedule;
mod server;
mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, Sleep, sleep_until};

use self::eyes::{Eyes, files_of};
use self::metrics::Metrics;
use self::paths::Content;
use self::schedule::Changes;
pub use self::server::parse_address;
use crate::error::Error;
use crate::state::Action;
use crate::store::layer_path;
use crate::sync::{Applied, Failure, Inputs, Request, Session};

/// What `watch` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// As for `apply`. The images file cannot be standard input.
    pub request: Request,
    /// Where metrics and health are served.
    pub metrics: Option<SocketAddr>,
    /// Look at the files this often instead of waiting for the kernel to tell.
    pub poll: Option<Duration>,
}

/// Why a run was started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A file or directory that the run reads changed.
    Changed(PathBuf),
    /// So many layers that are wanted went away.
    LayersGone(usize),
    /// The catalog went away.
    CatalogGone(PathBuf),
    /// It is time to look up the tags again.
    Interval,
    /// It is time to try again what failed.
    Retry,
    /// SIGHUP.
    Hangup,
}

impl Reason {
    /// A word for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Changed(_) => "file",
            Self::LayersGone(_) => "layer",
            Self::CatalogGone(_) => "catalog",
            Self::Interval => "interval",
            Self::Retry => "retry",
            Self::Hangup => "sighup",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(path) => write!(f, "{} changed", path.display()),
            Self::LayersGone(1) => f.write_str("a layer is gone"),
            Self::LayersGone(count) => write!(f, "{count} layers are gone"),
            Self::CatalogGone(path) => write!(f, "{} is gone", path.display()),
            Self::Interval => f.write_str("the interval is over"),
            Self::Retry => f.write_str("something failed"),
            Self::Hangup => f.write_str("SIGHUP"),
        }
    }
}

/// What `watch` tells beside the events of its runs.
#[derive(Debug)]
pub enum Notice<'a> {
    /// From now on no change is missed. The first run follows.
    Watching {
        /// The images file. Absolute.
        file: &'a Path,
        /// How often tags are looked up again.
        interval: Duration,
        /// Where metrics are served.
        metrics: Option<SocketAddr>,
        /// How often files are looked at of which the kernel does not tell, if there are any.
        poll: Option<Duration>,
    },
    /// A run starts, for these reasons.
    Triggered(&'a [Reason]),
    /// A run ended.
    Applied {
        /// What it did.
        applied: &'a Applied,
        /// How long it took.
        elapsed: Duration,
        /// When the next one starts if nothing happens before.
        next: Duration,
    },
    /// A run could not be carried out: everything stays as the last good one left it.
    Failed {
        /// Why.
        failure: &'a Failure,
        /// Whether the one before failed by the same, and nothing that it reads has changed.
        again: bool,
        /// When the next one starts if nothing happens before.
        next: Duration,
    },
    /// It ends; a run that is going on is stopped.
    Stopping,
}

/// Who hears of [`Notice`]s.
pub trait Listener: Send + Sync {
    /// Takes note; must not block for long.
    fn notice(&self, notice: &Notice<'_>);
}

/// Applies now, and again whenever something changes, until the session's stop switch is thrown.
///
/// # Errors
/// The first run could not be carried out (images that fail are no reason), the metrics cannot be served, or the
/// system has no threads or signals for us.
pub fn watch(session: &Session, options: &Options, listener: &dyn Listener) -> Result<(), Failure> {
    let cannot = |doing: &str| {
        let doing = doing.to_owned();
        move |error: std::io::Error| {
            Failure::Error(Error::Usage { message: format!("cannot {doing}: {error}"), hint: None })
        }
    };
    let inputs = session.inputs(&options.request.source)?;
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot("start watching"))?;
    let result = runtime.block_on(async {
        let hangups = signal(SignalKind::hangup()).map_err(cannot("wait for SIGHUP"))?;
        let server = match options.metrics {
            Some(address) => Some(server::start(address, Arc::clone(&metrics)).await?),
            None => None,
        };
        let stopped = Arc::new(Notify::new());
        let (cancel, waker) = (session.cancel.clone(), Arc::clone(&stopped));
        std::thread::Builder::new()
            .name("watch-stop".to_owned())
            .spawn(move || {
                while cancel.sleep(Duration::from_secs(3600)) {}
                waker.notify_one();
            })
            .map_err(cannot("start a thread"))?;
        let session = Session { reporter: metrics.listen(Arc::clone(&session.reporter)), ..session.clone() };
        let mut watch = Watch {
            eyes: Eyes::new(options.poll),
            session,
            options,
            listener,
            metrics,
            inputs,
            read: BTreeMap::new(),
            wanted: BTreeSet::new(),
            had_catalog: false,
            changes: None,
            touched: BTreeSet::new(),
            hangup: false,
            failures: 0,
            failed: None,
            next: Instant::now(),
            next_reason: Reason::Interval,
            first: true,
        };
        watch.run(hangups, &stopped, server).await
    });
    // A run that does not notice its end must not hold up ours.
    runtime.shutdown_background();
    result
}

/// What the inputs of a run hold.
type Contents = BTreeMap<PathBuf, Content>;

/// A run that is under way.
struct Run {
    task: JoinHandle<Result<Applied, Failure>>,
    started: Instant,
}

/// The loop's state.
struct Watch<'a> {
    session: Session,
    options: &'a Options,
    listener: &'a dyn Listener,
    metrics: Arc<Metrics>,
    eyes: Eyes,
    /// By the last images file that could be read.
    inputs: Inputs,
    /// What the last run read, or could have.
    read: Contents,
    /// The layer directories that have to be there.
    wanted: BTreeSet<PathBuf>,
    had_catalog: bool,
    /// What was seen and not looked at yet.
    changes: Option<Changes>,
    /// Inputs that something happened to while a run was reading them: whatever they hold now, it may have read
    /// something else.
    touched: BTreeSet<PathBuf>,
    hangup: bool,
    /// Runs in a row with a failure that may pass by itself.
    failures: u32,
    /// The text of the last failure of a whole run, since the last good one.
    failed: Option<String>,
    /// When the next run starts if nothing happens, and why.
    next: Instant,
    next_reason: Reason,
    first: bool,
}

impl Watch<'_> {
    async fn run(
        &mut self,
        mut hangups: Signal,
        stopped: &Notify,
        server: Option<SocketAddr>,
    ) -> Result<(), Failure> {
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
                    let (reasons, contents) = self.look();
                    set(&mut poll, self.poll_due());
                    if !reasons.is_empty() {
                        run = Some(self.start(&reasons, contents));
                    }
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
            drop(ended(&mut run).await);
        }
        Ok(())
    }

    /// When something has to be done if nothing happens, while no run is going on.
    fn due(&self) -> Instant {
        let now = Instant::now();
        match &self.changes {
            _ if self.hangup => now,
            Some(changes) => changes.due().min(self.next),
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

    /// Looks at everything: the reasons for a run, if there are any, and what it will read.
    fn look(&mut self) -> (Vec<Reason>, Contents) {
        let mut reasons = BTreeSet::new();
        if std::mem::take(&mut self.hangup) {
            reasons.insert(Reason::Hangup);
        }
        if Instant::now() >= self.next {
            reasons.insert(self.next_reason.clone());
        }
        self.changes = None;
        self.eyes.forget_writers();
        if let Ok(inputs) = self.session.inputs(&self.options.request.source) {
            self.inputs = inputs;
        }
        self.eyes.arm(&self.inputs);
        let now = self.contents();
        let changed = |path: &&PathBuf| self.read.get(*path) != now.get(*path);
        let all: BTreeSet<&PathBuf> = self.read.keys().chain(now.keys()).collect();
        reasons.extend(all.into_iter().filter(changed).cloned().map(Reason::Changed));
        reasons.extend(std::mem::take(&mut self.touched).into_iter().map(Reason::Changed));
        let gone = self.wanted.iter().filter(|path| !path.is_dir()).count();
        if gone > 0 {
            reasons.insert(Reason::LayersGone(gone));
        }
        if self.had_catalog && !self.inputs.catalog.exists() {
            reasons.insert(Reason::CatalogGone(self.inputs.catalog.clone()));
        }
        (reasons.into_iter().collect(), now)
    }

    fn contents(&self) -> Contents {
        files_of(&self.inputs).into_iter().map(|path| (path.clone(), Content::of(path))).collect()
    }

    /// Starts a run that reads `contents`, or what changes from here on, which is seen as a change.
    fn start(&mut self, reasons: &[Reason], contents: Contents) -> Run {
        if self.read != contents || reasons.contains(&Reason::Hangup) {
            self.failed = None;
        }
        self.read = contents;
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
        let (session, request) = (self.session.clone(), self.options.request.clone());
        Run { task: spawn_blocking(move || session.apply(&request)), started: Instant::now() }
    }

    /// Draws the conclusions from a run.
    fn finish(&mut self, (result, elapsed): (Result<Applied, Failure>, Duration)) -> Result<(), Failure> {
        if self.session.cancel.is_cancelled() {
            return Ok(());
        }
        let first = std::mem::take(&mut self.first);
        let passing = match &result {
            Ok(applied) => {
                applied.outcome.images.iter().any(|(_, _, error)| error.as_deref().is_some_and(may_pass))
            }
            Err(Failure::Error(error)) => may_pass(error),
            Err(_) => false,
        };
        self.failures = if passing { self.failures.saturating_add(1) } else { 0 };
        let interval = self.inputs.interval;
        let wait =
            if passing { schedule::backoff(self.failures, interval, fastrand::f64()) } else { interval };
        self.next = Instant::now() + wait;
        self.next_reason = if passing { Reason::Retry } else { Reason::Interval };
        self.metrics.finished(&result, elapsed);
        match &result {
            Ok(applied) => {
                self.failed = None;
                self.wanted = wanted(applied);
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
        self.had_catalog = self.inputs.catalog.exists();
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
}

/// Waits for the end of a run, for ever if there is none.
async fn ended(run: &mut Option<Run>) -> (Result<Applied, Failure>, Duration) {
    let Some(run) = run else { return std::future::pending().await };
    let result = (&mut run.task).await.unwrap_or_else(|_| {
        // A defect of ours ended the run, and must not end the watch.
        let message = "the run ended unexpectedly".to_owned();
        Err(Failure::Error(Error::Usage { message, hint: Some("please report this".to_owned()) }))
    });
    (result, run.started.elapsed())
}

fn set(sleep: &mut Pin<&mut Sleep>, deadline: Instant) {
    if sleep.deadline() != deadline {
        sleep.as_mut().reset(deadline);
    }
}

/// Whether trying again soon may help: the registry, or the machine, may be well again.
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
            | "io"
    )
}

/// The layer directories that have to be there after this run.
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
