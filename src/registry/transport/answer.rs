//! An answer whose body is still to be read, within the exchange's time.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::HeaderMap;

use super::clock::Clock;
use super::failure::FailedTry;
use super::handshake::ClientCertificate;
use super::network::Network;
use super::portions::{Portion, SMALL};
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

    /// Reads a body that is no document, of at most `limit` bytes and [`SMALL`]; `what` names it
    /// where it is larger.
    pub(crate) fn read(self, what: &str, limit: u64) -> Result<Vec<u8>, FailedTry> {
        let bytes = self.gather(what, limit.min(SMALL), &mut |_| true)?;
        Ok(bytes.unwrap_or_default())
    }

    /// Reads a document of at most `limit` bytes, as far as there is room for `portion` to grow to
    /// it; `what` names it where it is larger. `None`: there is no room, and the document is to be
    /// asked for once more.
    pub(crate) fn read_document(
        self,
        what: &str,
        limit: u64,
        portion: &mut Portion,
    ) -> Result<Option<Vec<u8>>, FailedTry> {
        let announced = self.content_length().unwrap_or_default();
        if announced <= limit && !portion.grow(announced) {
            return Ok(None);
        }
        // Where nobody says how much is to come, in a few large steps.
        let bytes = self.gather(what, limit, &mut |needed| {
            needed <= portion.size() || portion.grow(needed.saturating_mul(4).min(limit))
        })?;
        if let Some(bytes) = &bytes {
            portion.shrink(bytes.len() as u64);
        }
        Ok(bytes)
    }

    /// Reads a body of at most `limit` bytes; `None` once there `is_room` for less than has come.
    fn gather(
        mut self,
        what: &str,
        limit: u64,
        is_room: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Vec<u8>>, FailedTry> {
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
            let count = match self.clock.run(|| self.body.read(&mut buffer)) {
                Ok(0) => {
                    bytes.shrink_to_fit();
                    return Ok(Some(bytes));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(body_failure(&self.network, &self.url, error)),
            };
            let needed = (bytes.len() + count) as u64;
            if needed > limit {
                return Err(too_large());
            }
            if !is_room(needed) {
                return Ok(None);
            }
            bytes.extend_from_slice(&buffer[..count]);
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
