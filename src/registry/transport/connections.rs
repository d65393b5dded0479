//! The connections of a run: made by kind, kept open, shared where nothing tells them apart, and
//! closed at once when the run is stopped, so that no thread sits in a read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, OnceLock, Weak};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, TcpConnector};
use ureq::{Agent, Proxy};

use super::clock::Clocked;
use super::names::Remembered;
use super::proxy;
use super::tls::{Tls, system_roots};
use crate::cancel::Cancel;
use crate::threads::{self, lock};

/// The interval at which a stopped run is looked for that nothing has ended.
const LOOK: Duration = Duration::from_millis(500);

/// The properties of a connection that must not be mixed with others.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// True if TLS is spoken.
    pub(super) secure: bool,
    /// True if the client certificate is presented.
    pub(super) identified: bool,
    /// True if the server's certificate is checked.
    pub(super) verified: bool,
    /// The proxy on the way.
    pub(super) proxy: Option<Proxy>,
}

/// Connections of one kind, and how TLS is put on them.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) agent: Agent,
    pub(super) tls: Option<Tls>,
}

/// Connections by their kind.
pub(super) type ByKind = Mutex<HashMap<Kind, Connections>>;

/// All connections of a run.
pub(super) struct Pool {
    cancel: Cancel,
    stall: Duration,
    max_per_host: usize,
    roots: OnceLock<Result<Vec<CertificateDer<'static>>, String>>,
    agents: Mutex<Vec<Agent>>,
    /// The connections of all registries that have no TLS settings of their own: a run may have
    /// hundreds, which share their buffers and the system's roots.
    pub(super) plain: ByKind,
    watcher: Once,
}

impl Pool {
    pub(super) fn new(cancel: Cancel, stall: Duration, max_per_host: usize) -> Self {
        Self {
            cancel,
            stall,
            max_per_host,
            roots: OnceLock::new(),
            agents: Mutex::default(),
            plain: Mutex::default(),
            watcher: Once::new(),
        }
    }

    /// Returns the system's trusted roots, which are read once and only when asked for.
    pub(super) fn roots(&self) -> Result<&[CertificateDer<'static>], String> {
        self.roots.get_or_init(system_roots).as_deref().map_err(Clone::clone)
    }

    /// Makes connections of `kind`, over `tls` if that is secure.
    pub(super) fn open(self: &Arc<Self>, kind: &Kind, tls: Option<Tls>) -> Connections {
        let stall = Some(self.stall);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("msb-sync/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .max_idle_connections(self.max_per_host.saturating_mul(2))
            .max_idle_connections_per_host(self.max_per_host)
            .input_buffer_size(128 * 1024)
            .proxy(None);
        let agent = match (&tls, &kind.proxy) {
            (Some(tls), proxy) => {
                let config = config.proxy(proxy.clone()).build();
                // The proxy's own connection comes first: CONNECT is asked on it.
                let tunnel = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
                Agent::with_parts(config, Clocked(tunnel.chain(tls.clone())), Remembered::default())
            }
            (None, Some(proxy)) => proxy::agent(config.build(), proxy.uri().clone()),
            (None, None) => {
                let connector = Clocked(().chain(TcpConnector::default()));
                Agent::with_parts(config.build(), connector, Remembered::default())
            }
        };
        self.register(&agent);
        Connections { agent, tls }
    }

    /// Takes note of `agent`, so that a stop closes its sockets.
    fn register(self: &Arc<Self>, agent: &Agent) {
        lock(&self.agents).push(agent.clone());
        self.watcher.call_once(|| {
            let weak = Arc::downgrade(self);
            let cancel = self.cancel.clone();
            // Without the thread a stop only takes effect when the current read ends: bearable.
            let _ = threads::start("registry-stop", move || close_on_cancel(&weak, &cancel));
        });
    }
}

fn close_on_cancel(pool: &Weak<Pool>, cancel: &Cancel) {
    while pool.strong_count() > 0 {
        if !cancel.sleep(LOOK) {
            if let Some(pool) = pool.upgrade() {
                for agent in lock(&pool.agents).drain(..) {
                    agent.shutdown();
                }
            }
            return;
        }
    }
}
