//! The sites of a registry as sources of one blob: the request, what its answer says of the part
//! that was sent, and the body.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use super::range::content_range;
use super::resumed::{Body, Source, Transfer, wrong_size};
use crate::digest::BlobDigest;
use crate::error::{Refused, RegistryError};
use crate::registry::sites::{Ask, Capability, Remote};
use crate::registry::transport::{self, Answer, Clock, FailedTry, Network, Sought, body_failure};
use crate::state::LayerDescriptor;
use crate::url::Url;

/// Returns the sites that have `layer`, mirrors first.
pub(super) fn sources(remote: &Arc<Remote>, repository: &str, layer: &LayerDescriptor) -> VecDeque<Source> {
    let source = |site: usize| {
        let mut blob = BlobAt {
            remote: Arc::clone(remote),
            site,
            repository: repository.to_owned(),
            digest: layer.digest.clone(),
            size: layer.size,
            from_the_start: false,
        };
        let remote = Arc::clone(remote);
        Source {
            url: remote.sites[site].base.to_string(),
            open: Box::new(move |position| blob.open(position)),
            given_up: Box::new(move |error| remote.mirror_failed(site, error)),
        }
    };
    remote.candidates(Capability::Pull, Some(&layer.digest)).into_iter().map(source).collect()
}

/// A blob at one site.
struct BlobAt {
    remote: Arc<Remote>,
    site: usize,
    repository: String,
    digest: BlobDigest,
    size: u64,
    /// True once the site could not, or did not, go on in the middle.
    from_the_start: bool,
}

impl BlobAt {
    /// Makes one try to get the body going from `position` on, or else from the start.
    fn open(&mut self, position: u64) -> Result<Transfer, FailedTry> {
        if position > 0 && !self.from_the_start {
            match self.ask(Some(position)) {
                Ok(answer) if answer.status != 206 => return self.whole(answer),
                Ok(answer) if self.fits(&answer, position) => return Ok(self.transfer(answer, false)),
                Err(failed) if !is_status(&failed, 416) => return Err(failed),
                Ok(_) | Err(_) => self.from_the_start = true,
            }
        }
        let answer = self.ask(None)?;
        if answer.status == 206 {
            let reason = "a part was sent where all was asked for".to_owned();
            let url = answer.url.to_string();
            return Err(FailedTry::transient(RegistryError::Protocol { url, reason, may_be_tls: false }));
        }
        self.whole(answer)
    }

    fn ask(&self, from: Option<u64>) -> Result<Answer, FailedTry> {
        let site = &self.remote.sites[self.site];
        let url = site.url(&format!("/{}/blobs/{}", self.repository, self.digest));
        let ask = Ask { from, ..Ask::get(url, Sought::Blob) };
        self.remote.ask(site, &self.repository, &ask)
    }

    /// Tells whether `answer` holds the bytes from `position` on, of a blob of the right size.
    fn fits(&self, answer: &Answer, position: u64) -> bool {
        answer.header("content-range").and_then(content_range).is_some_and(|range| {
            range.first == position
                && range.last < self.size
                && range.total.is_none_or(|total| total == self.size)
        })
    }

    fn whole(&self, answer: Answer) -> Result<Transfer, FailedTry> {
        match answer.content_length() {
            Some(length) if length != self.size => {
                Err(wrong_size(&self.digest, self.size, &answer.url.host_port(), length).into())
            }
            _ => Ok(self.transfer(answer, true)),
        }
    }

    fn transfer(&self, answer: Answer, whole: bool) -> Transfer {
        let (measured, host) = (answer.content_length().is_some(), answer.url.host_port());
        let network = Arc::clone(&self.remote.client.network);
        let about = format!("{}/{}: GET {}", self.remote.client.name.name, self.repository, answer.url);
        let body = Box::new(HttpBody { body: answer.body, url: answer.url, about, network });
        Transfer { body, whole, measured, host }
    }
}

fn is_status(failed: &FailedTry, wanted: u16) -> bool {
    matches!(failed.error, RegistryError::Refused(Refused { status, .. }) if status == wanted)
}

/// The body of an answer.
struct HttpBody {
    body: transport::Body,
    url: Url,
    /// The repository and the request, for people.
    about: String,
    network: Arc<Network>,
}

impl Body for HttpBody {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FailedTry> {
        loop {
            // Chunks that are announced and never come do not keep a transfer alive.
            let clock = Clock::start(self.network.waits.exchange);
            match clock.run(|| self.body.read(buffer)) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.network.check()?,
                Err(error) => {
                    let mut failed = body_failure(&self.network, &self.url, error);
                    if let RegistryError::Slow { url, limit } = failed.error {
                        failed.error = RegistryError::Stalled { url, stall: limit };
                    }
                    return Err(failed.about(|| self.about.clone()));
                }
            }
        }
    }

    fn has_more(&mut self, limit: Duration) -> bool {
        matches!(Clock::start(limit).run(|| self.body.read(&mut [0])), Ok(1..))
    }
}
