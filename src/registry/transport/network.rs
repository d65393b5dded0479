//! The network as one run uses it: whom it tells, how long it waits, what it hides, and when it
//! ends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::clock::Waits;
use super::connections::Pool;
use super::environment::{Environment, STALL};
use super::failure::{FailedTry, transport_failure};
use super::handshake::ClientCertificate;
use super::veil::Veil;
use crate::cancel::Cancel;
use crate::error::{RegistryError, without_queries};
use crate::progress::{Event, Exchange, Reporter, RequestDetail};
use crate::threads::lock;
use crate::url::Url;

/// The longest time for an exchange that is no blob content, however slow the server is.
const EXCHANGE: Duration = Duration::from_secs(60);

/// The network as all registries of one run use it.
pub(crate) struct Network {
    /// The process environment: proxies, passwords, places of credentials.
    pub(crate) environment: Environment,
    /// The switch that ends every wait.
    pub(crate) cancel: Cancel,
    /// The times that servers get.
    pub(crate) waits: Waits,
    /// The run's secrets, which are hidden in all that is shown.
    pub(crate) veil: Veil,
    /// The connections of all registries.
    pub(super) pool: Arc<Pool>,
    /// The extent of what the listener hears of requests.
    pub(super) detail_of_requests: RequestDetail,
    reporter: Arc<dyn Reporter>,
    /// The warnings that are told once.
    told: Mutex<BTreeSet<String>>,
    requests: AtomicU64,
}

impl Network {
    /// Makes a network on which nothing was asked yet; it keeps at most `max_connections` to a host
    /// open.
    pub(crate) fn new(
        environment: Environment,
        max_connections: usize,
        cancel: Cancel,
        reporter: Arc<dyn Reporter>,
    ) -> Self {
        let stall = environment.stall().unwrap_or_else(|warning| {
            reporter.report(Event::Warning(warning));
            STALL
        });
        // A user who is less patient with silence is less patient with everything.
        let exchange = stall.saturating_mul(10).min(EXCHANGE).max(stall);
        Self {
            environment,
            waits: Waits { stall, exchange },
            veil: Veil::default(),
            pool: Arc::new(Pool::new(cancel.clone(), stall, max_connections.max(1))),
            cancel,
            detail_of_requests: RequestDetail::default(),
            reporter,
            told: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// Tells so much of requests.
    pub(crate) fn telling(self, detail_of_requests: RequestDetail) -> Self {
        Self { detail_of_requests, ..self }
    }

    /// Returns the number of requests sent so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts one request.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports the end of a request to `registry`, with the status of its answer if there was one.
    pub(super) fn answered(&self, registry: &str, status: Option<u16>, exchange: Option<Exchange>) {
        let registry = registry.to_owned();
        self.reporter.report(Event::Request { registry, status, exchange: exchange.map(Box::new) });
    }

    /// Reports a warning, without secrets.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.reporter.report(Event::Warning(self.heard(text.as_ref())));
    }

    /// Reports a warning, without secrets, unless the run has told it already.
    pub(crate) fn warn_once(&self, text: String) {
        if lock(&self.told).insert(text.clone()) {
            self.warn(text);
        }
    }

    /// Reports a detail, without secrets.
    pub(crate) fn detail(&self, text: impl AsRef<str>) {
        self.reporter.report(Event::Detail(self.heard(text.as_ref())));
    }

    /// Words in which a server may have a part, as they may be shown: without secrets, and with
    /// URLs that have lost user and query.
    pub(crate) fn heard(&self, words: &str) -> String {
        // Secrets first: one that has a question mark would not be known without what follows that.
        without_queries(&self.veil.hide(words))
    }

    /// Hides the secrets in the error of `result`, and the queries of URLs.
    pub(crate) fn veiled<T>(&self, result: Result<T, RegistryError>) -> Result<T, RegistryError> {
        result.map_err(|error| error.map_text(&|text| self.heard(text)))
    }

    /// Fails once the run was stopped.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        if self.cancel.is_cancelled() { Err(RegistryError::Stopped) } else { Ok(()) }
    }

    /// Tells why an exchange with `url`, or a read of its body, failed; a stopped run is the reason
    /// for all.
    pub(super) fn failure(&self, url: &Url, error: ureq::Error, ours: ClientCertificate) -> FailedTry {
        match self.check() {
            Ok(()) => transport_failure(self.waits, url, error, ours),
            Err(stopped) => stopped.into(),
        }
    }
}
