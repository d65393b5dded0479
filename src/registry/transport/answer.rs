//! An answer whose body is still to be read, within the exchange's time.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::HeaderMap;

use super::clock::Clock;
use super::failure::FailedTry;
use super::handshake::ClientCertificate;
use super::network::Network;
use crate::error::RegistryError;
use crate::url::Url;

/// The longest body that is read and forgotten for the sake of its connection, in bytes.
const MAX_DISCARDED: u64 = 64 * 1024;
/// The memory that is reserved on a server's word alone, in bytes.
const MAX_RESERVED: u64 = 4 << 20;
/// The part of an exchange's time that an unwanted body gets, so that its connection can be used
/// again.
const DISCARD_PART: u32 = 30;

/// The body of an answer, as it arrives.
pub(crate) type Body = ureq::BodyReader<'static>;

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The URL that answered, after all redirects.
    pub(crate) url: Url,
    /// True if the answer came from the origin that was asked.
    pub(crate) own: bool,
    /// The time in which the body has to be here, unless it is a blob's.
    pub(super) clock: Clock,
    pub(super) network: Arc<Network>,
}

impl Answer {
    /// Returns the first header of this name, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// Returns the length that the body is announced to have, in bytes.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Reads a body of at most `limit` bytes; `what` names it where it is larger.
    pub(crate) fn read(mut self, what: &str, limit: u64) -> Result<Vec<u8>, FailedTry> {
        let too_large = || {
            FailedTry::from(RegistryError::TooLarge {
                what: what.to_owned(),
                host: self.url.host_port(),
                limit,
            })
        };
        let announced = self.content_length().unwrap_or_default();
        if announced > limit {
            return Err(too_large());
        }
        // Growing step by step would take up to twice the memory for a moment.
        let mut bytes = Vec::with_capacity(usize::try_from(announced.min(MAX_RESERVED)).unwrap_or_default());
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.clock.run(|| self.body.read(&mut buffer)) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(body_failure(&self.network, &self.url, error)),
            }
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
    }

    /// Lets `read` have the body as it arrives.
    pub(crate) fn stream<T>(mut self, read: impl FnOnce(&mut dyn Read) -> T) -> T {
        self.clock.run(|| read(&mut self.body))
    }

    /// Reads and forgets a short body, so that its connection can be used again.
    pub(crate) fn discard(mut self) {
        if self.content_length().is_some_and(|length| length <= MAX_DISCARDED) {
            let limit = self.network.waits.exchange / DISCARD_PART;
            // A failure costs the connection and nothing else.
            let _ = self.clock.within(limit).run(|| io::copy(&mut self.body, &mut io::sink()));
        }
    }

    /// Gives the rest of the answer no more than `limit`.
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { clock: self.clock.within(limit), ..self }
    }
}

/// Tells why a read of the body of `url`'s answer failed.
pub(crate) fn body_failure(network: &Network, url: &Url, error: io::Error) -> FailedTry {
    network.failure(url, ureq::Error::from(error), ClientCertificate::Unasked)
}
