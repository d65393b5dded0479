//! One clock for all of an exchange that is no blob content: looking up addresses, connecting, TLS,
//! a proxy's CONNECT, headers, redirects, documents, the bodies of errors, the framing of chunks.
//!
//! A server that sends a byte now and then is never silent, and so passes every limit on silence. A
//! [`Clock`] has an end: under [`Clock::run`] nobody on this thread waits longer for the network
//! than is left. [`Clocked`] makes a connector's connections obey; they ask at each read and write,
//! so that one connection may serve exchanges with clocks of their own.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

thread_local! {
    /// When the clock under which this thread runs ends.
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The times that servers get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// The time that a connection may be silent.
    pub(crate) stall: Duration,
    /// The time of a whole exchange: headers, redirects, documents, errors, and the framing of a
    /// blob.
    pub(crate) exchange: Duration,
}

/// An end that does not move, whatever arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    end: Instant,
}

impl Clock {
    /// A clock that ends after `limit`, or with the one under which this thread runs where that is
    /// sooner.
    pub(crate) fn start(limit: Duration) -> Self {
        let now = Instant::now();
        // A limit beyond what the system can count is a day.
        let end = now.checked_add(limit).unwrap_or(now + Duration::from_secs(24 * 60 * 60));
        Self { end: END.get().map_or(end, |outer| outer.min(end)) }
    }

    /// Tells whether the clock has ended.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.end
    }

    /// This clock, or one that ends after `limit` where that is sooner.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { end: self.end.min(Self::start(limit).end) }
    }

    /// This clock, ending later by the `time` that nobody spent with the network.
    pub(crate) fn later(self, time: Duration) -> Self {
        Self { end: self.end.checked_add(time).unwrap_or(self.end) }
    }

    /// Does `work`; waiting for the network fails with [`Timeout::Global`] when the clock has
    /// ended.
    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let _before = Restore(END.replace(Some(self.end)));
        work()
    }
}

/// Puts the thread's earlier clock back, after a panic too.
struct Restore(Option<Instant>);

impl Drop for Restore {
    fn drop(&mut self) {
        END.set(self.0);
    }
}

/// `timeout`, or what is left of this thread's clock.
pub(super) fn left(mut timeout: NextTimeout) -> Result<NextTimeout, Error> {
    let Some(end) = END.get() else { return Ok(timeout) };
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::Timeout(Timeout::Global));
    }
    if left < *timeout.after {
        timeout.after = left.into();
        timeout.reason = Timeout::Global;
    }
    Ok(timeout)
}

/// A connector whose connections, and whose making of them, obey the thread's clock.
#[derive(Debug)]
pub(super) struct Clocked<C>(pub(super) C);

impl<In: Transport, C: Connector<In>> Connector<In> for Clocked<C> {
    type Out = ClockedTransport<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: left(details.timeout)?,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        Ok(self.0.connect(&details, chained)?.map(ClockedTransport))
    }
}

#[derive(Debug)]
pub(super) struct ClockedTransport<T>(T);

impl<T: Transport> Transport for ClockedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, left(timeout)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.await_input(left(timeout)?)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_caps_what_is_waited_and_only_under_it() {
        let endless = NextTimeout::default();
        assert_eq!(left(endless).unwrap().reason, endless.reason);
        let outer = Clock::start(Duration::from_secs(3600));
        outer.run(|| {
            let capped = left(endless).unwrap();
            assert!(*capped.after <= Duration::from_secs(3600));
            let ended = Clock::start(Duration::ZERO);
            ended.run(|| assert!(matches!(left(endless), Err(Error::Timeout(Timeout::Global)))));
            assert!(left(endless).is_ok(), "the outer clock counts again");
            ended.run(|| assert!(Clock::start(Duration::from_secs(60)).is_over(), "it cannot be outrun"));
        });
        assert!(
            std::panic::catch_unwind(|| Clock::start(Duration::ZERO).run(|| panic!("a defect"))).is_err()
        );
        assert_eq!(*left(endless).unwrap().after, *endless.after);
    }
}
