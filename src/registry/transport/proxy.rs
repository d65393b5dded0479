//! Plain http through a proxy: the request goes to the proxy with the whole URL as its target ([RFC
//! 9112 section 3.2.2]). ureq only knows CONNECT, which proxies rarely allow to other ports than
//! 443.
//!
//! A resolver gives out the proxy's address for every host, and a transport puts scheme and host
//! into the request line as it passes. https goes by CONNECT and needs none of this.
//!
//! [RFC 9112 section 3.2.2]: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, Error};

use super::clock::Clocked;
use super::names::Remembered;

/// An agent that sends every request to the proxy at `proxy`.
pub(super) fn agent(config: Config, proxy: Uri) -> Agent {
    let connector = Clocked(().chain(TcpConnector::default()).chain(WholeTarget));
    Agent::with_parts(config, connector, ToProxy { proxy, resolver: Remembered::default() })
}

#[derive(Debug)]
struct ToProxy {
    proxy: Uri,
    resolver: Remembered,
}

impl Resolver for ToProxy {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.resolver.resolve(&self.proxy, config, timeout)
    }
}

#[derive(Debug)]
struct WholeTarget;

impl<In: Transport> Connector<In> for WholeTarget {
    type Out = WholeTargetTransport<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let authority = details.uri.authority().map(ToString::to_string).unwrap_or_default();
        let origin = format!("http://{authority}");
        Ok(chained.map(|inner| WholeTargetTransport { inner, origin, at_start: true }))
    }
}

#[derive(Debug)]
struct WholeTargetTransport<In> {
    inner: In,
    origin: String,
    /// The next byte sent begins a request.
    at_start: bool,
}

impl<In: Transport> Transport for WholeTargetTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if amount == 0 || !std::mem::take(&mut self.at_start) {
            return self.inner.transmit_output(amount, timeout);
        }
        let head = self.inner.buffers().output()[..amount].to_vec();
        // `GET /path HTTP/1.1`
        let split = head.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
        let whole = [&head[..split], self.origin.as_bytes(), &head[split..]].concat();
        let room = self.inner.buffers().output().len().max(1);
        for part in whole.chunks(room) {
            self.inner.buffers().output()[..part.len()].copy_from_slice(part);
            self.inner.transmit_output(part.len(), timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // Without pipelining, what is sent after something was received is the next request.
        self.at_start = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
