//! The bytes of one layer, whatever happens on the way.
//!
//! [`BlobReader`] yields the bytes from an offset to the descriptor's size and no more. A transfer that breaks
//! goes on with `Range` where it stopped, at the next mirror or the endpoint; a server that cannot do that is
//! read again from the start, and what the caller already has is skipped. Whoever reads checks the digest.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::clock::Clock;
use super::failure::Failure;
use super::http::Body;
use super::remote::{Ask, MIRROR_TRIES, Remote, Wanted};
use super::shared::{TRIES, lock};
use crate::digest::{BlobDigest, ContentMismatch};
use crate::error::RegistryError;
use crate::state::LayerDescriptor;
use crate::url::Url;

/// Breaks that a blob survives however little arrives between them.
const BREAKS: u64 = 100;
/// One more break is forgiven for so many bytes that arrived.
const BYTES_PER_BREAK: u64 = 1 << 20;
/// How often a blob is read again from its start, by servers that cannot go on in the middle.
const RESTARTS: u32 = 6;
/// How long the registry may let a blob wait, all `Retry-After` together: as often as there are tries.
const MAX_WAITED: Duration = Duration::from_secs(5 * 60);
/// How long the end of a body is waited for after its last byte: all that hangs on it is the connection.
const END_TIME: Duration = Duration::from_secs(2);
/// A mirror that asks to wait longer is left at once.
const MIRROR_PATIENCE: Duration = Duration::from_secs(10);

/// A layer's bytes; an [`io::Error`] of it is a [`RegistryError`], see [`BlobReader::cause`].
pub struct BlobReader(pub(super) Source);

pub(super) enum Source {
    Http(Box<HttpBlob>),
    File(io::Take<File>),
}

impl BlobReader {
    /// The [`RegistryError`] inside an error of a reader.
    ///
    /// # Errors
    /// The error itself, if it is none of this module.
    pub fn cause(error: io::Error) -> Result<RegistryError, io::Error> {
        error.downcast::<RegistryError>()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Http(blob) => blob.read(buffer).map_err(io::Error::other),
            Source::File(file) => file.read(buffer),
        }
    }
}

/// What a blob has cost so far in this run. The registry keeps it, so that who begins anew has no fresh patience.
#[derive(Default)]
pub(super) struct Budget {
    breaks: u64,
    restarts: u32,
    waited: Duration,
    /// The furthest byte that arrived: what arrives again earns nothing.
    furthest: u64,
}

impl Budget {
    fn lasts(&self) -> bool {
        self.breaks <= BREAKS + self.furthest / BYTES_PER_BREAK
            && self.restarts < RESTARTS
            && self.waited <= MAX_WAITED
    }
}

pub(super) struct HttpBlob {
    remote: Arc<Remote>,
    repository: String,
    digest: BlobDigest,
    size: u64,
    /// Bytes that the caller has.
    position: u64,
    /// Where to ask, mirrors first.
    sites: Vec<usize>,
    transfer: Option<Transfer>,
    /// The current site cannot, or did not, go on in the middle.
    from_the_start: bool,
    /// Failures since the last byte arrived.
    failures: u32,
    budget: Arc<Mutex<Budget>>,
    failed: bool,
}

struct Transfer {
    body: Body,
    url: Url,
    /// Bytes to come that the caller has already.
    skip: u64,
    /// The body's length was announced, so that its end is known without waiting for it.
    measured: bool,
}

impl HttpBlob {
    pub(super) fn open(
        remote: Arc<Remote>,
        repository: &str,
        layer: &LayerDescriptor,
        offset: u64,
    ) -> Result<Self, RegistryError> {
        let sites = remote.candidates(Wanted::Bytes, Some(&layer.digest));
        let budget = remote.budget(&layer.digest);
        let mut blob = Self {
            remote,
            repository: repository.to_owned(),
            digest: layer.digest.clone(),
            size: layer.size,
            position: offset.min(layer.size),
            sites,
            transfer: None,
            from_the_start: false,
            failures: 0,
            budget,
            failed: false,
        };
        if blob.position < blob.size {
            blob.connect()?;
        }
        Ok(blob)
    }

    fn connect(&mut self) -> Result<(), RegistryError> {
        while self.transfer.is_none() {
            match self.start() {
                Ok(transfer) => self.transfer = Some(transfer),
                Err(failure) => self.fail(failure)?,
            }
        }
        Ok(())
    }

    /// One try to get the body going.
    fn start(&mut self) -> Result<Transfer, Failure> {
        let site = self.remote.site(self.sites[0]);
        let url = site.url(&format!("/{}/blobs/{}", self.repository, self.digest));
        let from = (self.position > 0 && !self.from_the_start).then_some(self.position);
        let ask = Ask { from, unknown: "blob unknown", ..Ask::get(url) };
        let answer = match self.remote.ask(site, &self.repository, &ask) {
            Err(failure) if from.is_some() && is_status(&failure, 416) => {
                self.from_the_start = true;
                return self.start();
            }
            answer => answer?,
        };
        let url = answer.url.clone();
        let measured = answer.content_length().is_some();
        if answer.status == 206 {
            let range = answer.header("content-range").and_then(content_range);
            let fits = range.is_some_and(|range| {
                from == Some(range.first)
                    && range.last < self.size
                    && range.total.is_none_or(|total| total == self.size)
            });
            if fits {
                return Ok(Transfer { body: answer.body, url, skip: 0, measured });
            }
            if from.is_none() {
                let reason = "a part was sent where all was asked for".to_owned();
                return Err(Failure::transient(RegistryError::Protocol { url: url.to_string(), reason }));
            }
            self.from_the_start = true;
            return self.start();
        }
        match answer.content_length() {
            Some(length) if length != self.size => Err(self.wrong_size(&url, length).into()),
            _ => {
                if self.position > 0 {
                    lock(&self.budget).restarts += 1;
                }
                Ok(Transfer { body: answer.body, url, skip: self.position, measured })
            }
        }
    }

    fn wrong_size(&self, url: &Url, actual: u64) -> RegistryError {
        let (digest, expected) = (self.digest.clone(), self.size);
        RegistryError::Mismatch {
            what: format!("layer {digest}"),
            host: url.host_port(),
            source: if actual < expected {
                ContentMismatch::TooShort { digest, expected, actual }
            } else {
                ContentMismatch::TooLong { digest, expected }
            },
        }
    }

    /// Decides whether to go on after `failure`, and where; waits if need be.
    fn fail(&mut self, failure: Failure) -> Result<(), RegistryError> {
        self.transfer = None;
        if matches!(failure.error, RegistryError::Stopped) {
            return Err(failure.error);
        }
        self.failures += 1;
        let patience = {
            let mut budget = lock(&self.budget);
            budget.breaks += 1;
            budget.lasts()
        };
        if self.sites.len() > 1 {
            let soon = failure.after.is_none_or(|after| after <= MIRROR_PATIENCE);
            if failure.may_pass() && patience && soon && self.failures < MIRROR_TRIES {
                return self.remote.client.shared.pause(&failure, self.failures);
            }
            let mirror = self.sites.remove(0);
            self.remote.mirror_failed(mirror, &failure.error);
            self.failures = 0;
            self.from_the_start = false;
            return Ok(());
        }
        if failure.may_pass() && patience && self.failures < TRIES {
            lock(&self.budget).waited += failure.after.unwrap_or_default();
            return self.remote.client.shared.pause(&failure, self.failures);
        }
        Err(failure.error)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.failed {
            let url = self.remote.site(self.sites[0]).base.to_string();
            return Err(RegistryError::Protocol {
                url,
                reason: "the transfer has failed already".to_owned(),
            });
        }
        let result = self.read_on(buffer);
        let result = self.remote.shared().veiled(result);
        if result.is_err() {
            self.failed = true;
            self.transfer = None;
        }
        result
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            self.remote.client.shared.check()?;
            let remaining = self.size - self.position;
            if remaining == 0 {
                return self.end();
            }
            self.connect()?;
            // `connect` leaves a transfer; without one there is nothing to do but to go round.
            let Some(mut transfer) = self.transfer.take() else { continue };
            // What is skipped may use the caller's buffer: it is not told of it.
            let wanted = if transfer.skip > 0 { transfer.skip } else { remaining };
            let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(buffer.len());
            // Chunks that are announced and never come do not keep a transfer alive.
            let clock = Clock::start(self.remote.shared().patience);
            let result = clock.run(|| transfer.body.read(&mut buffer[..count]));
            match result {
                Ok(0) => {
                    let short = self.wrong_size(&transfer.url, self.position);
                    self.fail(Failure::transient(short))?;
                }
                Ok(count) if transfer.skip > 0 => {
                    transfer.skip -= count as u64;
                    self.transfer = Some(transfer);
                }
                Ok(count) => {
                    self.position += count as u64;
                    self.failures = 0;
                    let mut budget = lock(&self.budget);
                    budget.furthest = budget.furthest.max(self.position);
                    drop(budget);
                    if self.position == self.size && transfer.measured {
                        // Seeing the end gives the connection back, even if the caller never asks for more.
                        let _ = Clock::start(END_TIME).run(|| transfer.body.read(&mut [0]));
                    } else {
                        self.transfer = Some(transfer);
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.transfer = Some(transfer),
                Err(error) => {
                    let mut failure = self.remote.client.body_failure(&transfer.url, error);
                    if let RegistryError::Slow { url, limit } = failure.error {
                        failure.error = RegistryError::Stalled { url, stall: limit };
                    }
                    self.fail(failure)?;
                }
            }
        }
    }

    /// All bytes are here; whatever comes now is one too many. Reading to the end also gives the connection back.
    fn end(&mut self) -> Result<usize, RegistryError> {
        if let Some(mut transfer) = self.transfer.take() {
            // A failure now changes nothing: the digest decides.
            let clock = Clock::start(self.remote.shared().stall);
            if transfer.skip == 0 && matches!(clock.run(|| transfer.body.read(&mut [0])), Ok(1..)) {
                return Err(self.wrong_size(&transfer.url, u64::MAX));
            }
        }
        Ok(0)
    }
}

fn is_status(failure: &Failure, wanted: u16) -> bool {
    matches!(failure.error, RegistryError::Refused { status, .. } if status == wanted)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*` (RFC 9110 section 14.4).
fn content_range(text: &str) -> Option<ContentRange> {
    let (unit, range) = text.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = range.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let range = ContentRange { first: number(first.trim())?, last: number(last.trim())?, total };
    (range.first <= range.last && total.is_none_or(|total| range.last < total)).then_some(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        assert_eq!(content_range("bytes 5-9/10"), range(5, 9, Some(10)));
        assert_eq!(content_range("Bytes 5-9/*"), range(5, 9, None));
        for bad in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9",
            "items 5-9/10",
            "bytes +5-9/10",
            "bytes -9/10",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_content_range_makes_sense_or_is_none(text in "(bytes )?[0-9*/ +-]{0,30}") {
            if let Some(range) = content_range(&text) {
                prop_assert!(range.first <= range.last);
                prop_assert!(range.total.is_none_or(|total| range.last < total));
            }
        }
    }
}
