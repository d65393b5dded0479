//! What all registries of a run share: limits, the reporter, the count of requests, and the loop that tries again.
//!
//! A thrown [`Cancel`] ends every wait at once and closes all sockets, so that no thread sits in a read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use ureq::Agent;

use super::Options;
use super::environment::{Environment, LOOKUP_PATIENCE, STALL};
use super::failure::Failure;
use super::http::{AgentKey, Connections};
use super::rests::Rests;
use super::tls::system_roots;
use super::veil::Veil;
use crate::cancel::Cancel;
use crate::error::RegistryError;
use crate::progress::{Event, Reporter};
use crate::state::{Limits, RegistrySettings};

/// How long an exchange may take that is no blob content, however it is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Documents that are kept for the run, of all registries, in bytes.
const MAX_DOCUMENTS: u64 = 8 << 20;
/// How often a request is sent before its failure is final (the contract says at least 5).
pub(super) const TRIES: u32 = 6;
/// Longest wait between two tries that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// First wait between two tries; doubles from there.
const BACKOFF: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all registries of a run share.
pub(super) struct Shared {
    pub(super) environment: Environment,
    pub(super) limits: Limits,
    /// Where containerd's hosts files are.
    pub(super) hosts_dir: Option<PathBuf>,
    pub(super) cancel: Cancel,
    reporter: Arc<dyn Reporter>,
    pub(super) rests: Rests,
    requests: AtomicU64,
    /// How long a connection may be silent.
    pub(super) stall: Duration,
    /// How long an exchange may take in all: headers, redirects, documents, errors, and the framing of a blob.
    pub(super) patience: Duration,
    /// How long no lookup may end before what is known is begun with.
    pub(super) lookup_patience: Duration,
    /// Bytes of documents that all registries keep.
    kept_documents: Mutex<u64>,
    /// Hides the run's secrets in what is shown.
    pub(super) veil: Veil,
    /// Whether what `docker login` and `podman login` stored is used.
    pub(super) stored_logins: bool,
    pub(super) max_connections: usize,
    roots: OnceLock<Result<Vec<CertificateDer<'static>>, String>>,
    agents: Mutex<Vec<Agent>>,
    /// The connections of all registries that have no TLS settings of their own.
    pub(super) plain_agents: Mutex<HashMap<AgentKey, Connections>>,
    watcher: Once,
}

impl Shared {
    pub(super) fn new(options: Options) -> (Self, Vec<RegistrySettings>) {
        let Options {
            registries,
            hosts_dir,
            limits,
            max_connections,
            environment,
            stored_logins,
            cancel,
            reporter,
            rests,
        } = options;
        let or_default = |seconds: Result<Duration, String>, default| {
            seconds.unwrap_or_else(|warning| {
                reporter.report(Event::Warning(warning));
                default
            })
        };
        let stall = or_default(environment.stall(), STALL);
        let lookup_patience = or_default(environment.lookup_patience(), LOOKUP_PATIENCE);
        let shared = Self {
            environment,
            limits,
            hosts_dir,
            cancel,
            reporter,
            rests,
            requests: AtomicU64::new(0),
            stall,
            // Who is less patient with silence is less patient with everything.
            patience: stall.saturating_mul(10).min(PATIENCE).max(stall),
            lookup_patience,
            kept_documents: Mutex::default(),
            veil: Veil::default(),
            stored_logins,
            max_connections: max_connections.max(1),
            roots: OnceLock::new(),
            agents: Mutex::default(),
            plain_agents: Mutex::default(),
            watcher: Once::new(),
        };
        (shared, registries)
    }

    /// Whether `bytes` more of documents may be kept; then they count until [`Shared::release`].
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let mut kept = lock(&self.kept_documents);
        let fits = kept.saturating_add(bytes) <= MAX_DOCUMENTS;
        if fits {
            *kept += bytes;
        }
        fits
    }

    /// Gives back what [`Shared::reserve`] granted.
    pub(super) fn release(&self, bytes: u64) {
        let mut kept = lock(&self.kept_documents);
        *kept = kept.saturating_sub(bytes);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts one request.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells what became of one.
    pub(super) fn answered(&self, registry: &str, status: Option<u16>) {
        self.reporter.report(Event::Request { registry: registry.to_owned(), status });
    }

    pub(super) fn warn(&self, text: impl AsRef<str>) {
        self.reporter.report(Event::Warning(self.veil.hide(text.as_ref())));
    }

    pub(super) fn detail(&self, text: impl AsRef<str>) {
        self.reporter.report(Event::Detail(self.veil.hide(text.as_ref())));
    }

    /// `result` without secrets in its error.
    pub(super) fn veiled<T>(&self, result: Result<T, RegistryError>) -> Result<T, RegistryError> {
        result.map_err(|error| error.map_text(&|text| self.veil.hide(text)))
    }

    pub(super) fn check(&self) -> Result<(), RegistryError> {
        if self.cancel.is_cancelled() { Err(RegistryError::Stopped) } else { Ok(()) }
    }

    /// Runs `attempt` until it succeeds, fails for good, or has failed `tries` times.
    pub(super) fn retry<T>(
        &self,
        tries: u32,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            self.check()?;
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            failures += 1;
            if !failure.may_pass() || failures >= tries {
                self.check()?;
                return Err(failure.error);
            }
            self.pause(&failure, failures)?;
        }
    }

    /// Waits before the next try, after `failures` in a row, of which the last one [may pass](Failure::may_pass).
    pub(super) fn pause(&self, failure: &Failure, failures: u32) -> Result<(), RegistryError> {
        self.check()?;
        let doubled = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BACKOFF);
        // Jitter spreads clients that failed together; it never goes below half the wait.
        let wait = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
        let wait = match failure.after {
            Some(after) => after.max(wait),
            None => wait,
        };
        let asked = match failure.after {
            Some(after) if !after.is_zero() => {
                format!("the registry asks to wait {} s; ", after.as_secs())
            }
            _ => String::new(),
        };
        let text = format!("{}; {asked}trying again in {:.1} s", failure.error, wait.as_secs_f64());
        if failure.after.is_some() && wait >= MAX_BACKOFF {
            self.warn(text);
        } else {
            self.detail(text);
        }
        if self.cancel.sleep(wait) { Ok(()) } else { Err(RegistryError::Stopped) }
    }

    /// The system's trusted roots, read once and only when asked for.
    pub(super) fn roots(&self) -> Result<&[CertificateDer<'static>], String> {
        self.roots.get_or_init(system_roots).as_deref().map_err(Clone::clone)
    }

    /// Takes note of `agent`, so that a thrown switch closes its sockets.
    pub(super) fn register(self: &Arc<Self>, agent: &Agent) {
        lock(&self.agents).push(agent.clone());
        self.watcher.call_once(|| {
            let weak = Arc::downgrade(self);
            let cancel = self.cancel.clone();
            // Without the thread a stop only takes effect when the current read ends: bearable.
            let _ = std::thread::Builder::new()
                .name("registry-stop".to_owned())
                .spawn(move || close_on_cancel(&weak, &cancel));
        });
    }
}

fn close_on_cancel(shared: &Weak<Shared>, cancel: &Cancel) {
    while shared.strong_count() > 0 {
        if !cancel.sleep(Duration::from_millis(500)) {
            if let Some(shared) = shared.upgrade() {
                for agent in lock(&shared.agents).drain(..) {
                    agent.shutdown();
                }
            }
            return;
        }
    }
}
