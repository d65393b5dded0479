//! A blob's bytes over transfers that may break: position, size, what to skip, and patience.
//!
//! [`Resumed`] asks no host and knows no login: that is the business of its sources' `open`; host
//! and URL are carried along for errors. A transfer that breaks goes on where it stopped, at the
//! next source when one is given up; a server that cannot do that is read again from the start, and
//! the bytes that the caller already has are skipped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::digest::{BlobDigest, ContentMismatch};
use crate::error::RegistryError;
use crate::registry::pace::Pace;
use crate::registry::sites::{MIRROR_TRIES, Patience, is_soon_for_a_mirror};
use crate::registry::transport::{FailedTry, Network, TRIES, pause};
use crate::threads::lock;

/// The time that the end of a body gets after its last byte: only the connection hangs on it.
const END_TIME: Duration = Duration::from_secs(2);

/// The bytes of one answer, as they arrive.
pub(super) trait Body: Send {
    /// Reads some bytes into `buffer`; none are the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FailedTry>;
    /// Waits for one byte more, but no longer than `limit`, and tells whether it came.
    fn has_more(&mut self, limit: Duration) -> bool;
}

/// A transfer under way.
pub(super) struct Transfer {
    pub(super) body: Box<dyn Body>,
    /// True if the body begins at the blob's start, and not at the position that was asked for.
    pub(super) whole: bool,
    /// True if the body's length was announced, so that its end is known without waiting for it.
    pub(super) measured: bool,
    /// The host that sends the body.
    pub(super) host: String,
}

/// A place that has the blob.
pub(super) struct Source {
    /// The address of the place, for messages.
    pub(super) url: String,
    /// Makes one try to get the bytes from a position on.
    pub(super) open: Box<dyn FnMut(u64) -> Result<Transfer, FailedTry> + Send>,
    /// Hears of the error for which the next source is asked instead.
    pub(super) given_up: Box<dyn FnMut(&RegistryError) + Send>,
}

/// A blob that is read from the first of its sources that has it.
pub(super) struct Resumed {
    network: Arc<Network>,
    digest: BlobDigest,
    size: u64,
    /// The bytes that the caller has.
    position: u64,
    /// The sources that are left; the last one is never given up.
    sources: VecDeque<Source>,
    transfer: Option<Transfer>,
    /// The bytes of the transfer to come that the caller has already.
    skip: u64,
    /// The failures since the last byte arrived.
    failures: u32,
    patience: Arc<Mutex<Patience>>,
    /// The rate at which bytes may be taken, where there is one.
    pace: Option<Pace>,
    failed: bool,
}

impl Resumed {
    /// Begins to read at `offset`.
    ///
    /// # Errors
    /// No source has the blob.
    pub(super) fn open(
        network: Arc<Network>,
        digest: &BlobDigest,
        size: u64,
        offset: u64,
        sources: VecDeque<Source>,
        patience: Arc<Mutex<Patience>>,
        pace: Option<Pace>,
    ) -> Result<Self, RegistryError> {
        let mut blob = Self {
            network,
            digest: digest.clone(),
            size,
            position: offset.min(size),
            sources,
            transfer: None,
            skip: 0,
            failures: 0,
            patience,
            pace,
            failed: false,
        };
        if blob.position < blob.size {
            let connected = blob.connect();
            blob.network.veiled(connected)?;
        }
        Ok(blob)
    }

    /// Reads some bytes into `buffer`; none are the blob's end.
    ///
    /// # Errors
    /// No source has the rest of the blob, the blob is longer than it should be, or reading has
    /// failed before.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.failed {
            let url = self.sources.front().map(|source| source.url.clone()).unwrap_or_default();
            let reason = "the transfer has failed already".to_owned();
            return Err(RegistryError::Protocol { url, reason, may_be_tls: false });
        }
        let result = self.read_on(buffer);
        let result = self.network.veiled(result);
        if result.is_err() {
            self.failed = true;
            self.transfer = None;
        }
        result
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            self.network.check()?;
            let remaining = self.size - self.position;
            if remaining == 0 {
                return self.end();
            }
            self.connect()?;
            // Bytes to skip may use the caller's buffer, who is not told of them.
            let mut wanted = if self.skip > 0 { self.skip } else { remaining };
            if let Some(pace) = &mut self.pace {
                wanted = pace.ready(wanted, &self.network.cancel)?;
            }
            // `connect` leaves a transfer; without one there is nothing to do but to go round.
            let Some(transfer) = &mut self.transfer else { continue };
            let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(buffer.len());
            match transfer.body.read(&mut buffer[..count]) {
                Ok(0) => {
                    let short = wrong_size(&self.digest, self.size, &transfer.host, self.position);
                    self.fail(FailedTry::transient(short))?;
                }
                Ok(count) => {
                    if let Some(pace) = &mut self.pace {
                        pace.took(count as u64);
                    }
                    if self.skip == 0 {
                        self.arrived(count as u64);
                        return Ok(count);
                    }
                    self.skip -= count as u64;
                }
                Err(failed) => self.fail(failed)?,
            }
        }
    }

    /// Takes note of `count` bytes for the caller.
    fn arrived(&mut self, count: u64) {
        self.position += count;
        self.failures = 0;
        lock(&self.patience).arrived(self.position);
        if self.position == self.size
            && let Some(mut transfer) = self.transfer.take_if(|transfer| transfer.measured)
        {
            // Seeing the end gives the connection back, even if the caller never asks for more.
            transfer.body.has_more(END_TIME);
        }
    }

    /// All bytes are here, and any byte that comes now is one too many. Reading to the end also
    /// gives the connection back.
    fn end(&mut self) -> Result<usize, RegistryError> {
        if let Some(mut transfer) = self.transfer.take()
            && self.skip == 0
            // A failure now changes nothing: the digest decides.
            && transfer.body.has_more(self.network.waits.stall)
        {
            return Err(wrong_size(&self.digest, self.size, &transfer.host, u64::MAX));
        }
        Ok(0)
    }

    fn connect(&mut self) -> Result<(), RegistryError> {
        while self.transfer.is_none() {
            let Some(source) = self.sources.front_mut() else {
                // Not reached: the last source is never given up, and there is one for the
                // endpoint.
                let reason = "there is no source".to_owned();
                return Err(RegistryError::Protocol { url: String::new(), reason, may_be_tls: false });
            };
            match (source.open)(self.position) {
                Ok(transfer) => {
                    self.skip = if transfer.whole { self.position } else { 0 };
                    if self.skip > 0 {
                        lock(&self.patience).restarted();
                    }
                    self.transfer = Some(transfer);
                }
                Err(failed) => self.fail(failed)?,
            }
        }
        Ok(())
    }

    /// Decides whether to go on after `failed`, and where; waits if need be.
    fn fail(&mut self, failed: FailedTry) -> Result<(), RegistryError> {
        self.transfer = None;
        if matches!(failed.error, RegistryError::Stopped) {
            return Err(failed.error);
        }
        self.failures += 1;
        let waited = self.pace.as_mut().map_or(Duration::ZERO, Pace::waited);
        let lasts = {
            let mut patience = lock(&self.patience);
            patience.broke(waited);
            patience.lasts()
        };
        let again = failed.may_pass() && lasts;
        if self.sources.len() > 1 {
            if again && is_soon_for_a_mirror(&failed) && self.failures < MIRROR_TRIES {
                return pause(&self.network, &failed, self.failures);
            }
            if let Some(mut source) = self.sources.pop_front() {
                (source.given_up)(&failed.error);
            }
            self.failures = 0;
            return Ok(());
        }
        if again && self.failures < TRIES {
            lock(&self.patience).waited(failed.after.unwrap_or_default());
            return pause(&self.network, &failed, self.failures);
        }
        Err(failed.error)
    }
}

/// Makes the error of a blob that has `actual` bytes at `host` instead of `expected`.
pub(super) fn wrong_size(digest: &BlobDigest, expected: u64, host: &str, actual: u64) -> RegistryError {
    let digest = digest.clone();
    RegistryError::Mismatch {
        what: format!("layer {digest}"),
        host: host.to_owned(),
        source: Box::new(if actual < expected {
            ContentMismatch::TooShort { digest, expected, actual }
        } else {
            ContentMismatch::TooLong { digest, expected }
        }),
    }
}

#[cfg(test)]
mod tests;
