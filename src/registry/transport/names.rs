//! Addresses of hosts, remembered for a few seconds.
//!
//! ureq asks for them before every request, also if a connection is open already, and starts a
//! thread for it: a run that looks up 200 tags would ask its name server 200 times. Failures are
//! not remembered, and what is remembered is forgotten before a registry that has moved uses up its
//! tries.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration as TimeLimit;

use super::clock::left;
use crate::threads::{self, lock};

/// The time for which an address is good.
const REMEMBERED: Duration = Duration::from_secs(3);

/// Since when which addresses are known.
type Known = (Instant, Vec<SocketAddr>);

/// A resolver that asks another one.
#[derive(Debug)]
pub(super) struct Remembered<R = InThread> {
    inner: R,
    age: Duration,
    /// By scheme (which stands for the port) and authority.
    known: Mutex<HashMap<(String, String), Known>>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { inner: InThread, age: REMEMBERED, known: Mutex::default() }
    }
}

/// ureq's resolver in a thread of its own, so that it can be given up. Its own way to do this
/// panics where the system refuses the thread.
#[derive(Debug)]
pub(super) struct InThread;

impl Resolver for InThread {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (answer, answered) = mpsc::sync_channel(1);
        let (uri, config) = (uri.clone(), config.clone());
        let ask = move || {
            let endless = NextTimeout { after: TimeLimit::NotHappening, ..timeout };
            // Nobody may wait any more.
            let _ = answer.send(DefaultResolver::default().resolve(&uri, &config, endless));
        };
        threads::start("resolve", ask).map_err(Error::Io)?;
        answered.recv_timeout(*timeout.after).unwrap_or(Err(Error::Timeout(timeout.reason)))
    }
}

impl<R: Resolver> Resolver for Remembered<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let part = |part: Option<&str>| part.unwrap_or_default().to_ascii_lowercase();
        let key = (part(uri.scheme_str()), part(uri.authority().map(Authority::as_str)));
        if let Some((since, addresses)) = lock(&self.known).get(&key)
            && since.elapsed() < self.age
        {
            let mut found = self.empty();
            for address in addresses {
                found.push(*address);
            }
            return Ok(found);
        }
        // Not under the lock: another host need not wait for this one's name server.
        let found = self.inner.resolve(uri, config, left(timeout)?)?;
        lock(&self.known).insert(key, (Instant::now(), found.iter().copied().collect()));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// Gives another port each time; `nowhere` has no address.
    #[derive(Debug)]
    struct Counting(Arc<AtomicU16>);

    impl Resolver for Counting {
        fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            if uri.host() == Some("nowhere") {
                return Err(Error::HostNotFound);
            }
            let mut found = self.empty();
            found.push(SocketAddr::from(([127, 0, 0, 1], asked)));
            Ok(found)
        }
    }

    fn names(age: Duration) -> (Remembered<Counting>, Arc<AtomicU16>) {
        let asked = Arc::new(AtomicU16::new(0));
        (Remembered { inner: Counting(Arc::clone(&asked)), age, known: Mutex::default() }, asked)
    }

    fn port(names: &Remembered<Counting>, uri: &str) -> Result<u16, Error> {
        let timeout = NextTimeout {
            after: Duration::from_secs(1).into(),
            reason: ureq::Timeout::Resolve,
            ..NextTimeout::default()
        };
        let found = names.resolve(&uri.parse().unwrap(), &Config::default(), timeout)?;
        Ok(found[0].port())
    }

    #[test]
    fn a_host_is_asked_for_once_and_each_by_itself() {
        let (names, asked) = names(Duration::from_secs(3600));
        for (uri, expected) in
            [("http://a/x", 0), ("http://a/y", 0), ("http://a:81/", 1), ("https://a/", 2), ("http://A/", 0)]
        {
            assert_eq!(port(&names, uri).unwrap(), expected, "{uri}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn neither_failures_nor_old_addresses_are_remembered() {
        let (lasting, asked) = names(Duration::from_secs(3600));
        assert!(port(&lasting, "http://nowhere/").is_err());
        assert!(port(&lasting, "http://nowhere/").is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let (fleeting, asked) = names(Duration::ZERO);
        assert_eq!((port(&fleeting, "http://a/").unwrap(), port(&fleeting, "http://a/").unwrap()), (0, 1));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
