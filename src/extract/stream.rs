//! The uncompressed bytes of a layer: inflated in a thread of their own, hashed and counted as they
//! pass.

use std::io::{self, Read};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::decode::{self, Windows};
use super::paths::failed;
use super::tar::Source;
use crate::digest::{Algorithm, DiffId, Hasher};
use crate::error::LayerError;
use crate::threads;

/// The size of the buffers between inflating and parsing, in bytes, and how many there are a layer.
const CHUNK: usize = 128 * 1024;
const CHUNKS: usize = 6;

type Chunk = Result<Vec<u8>, LayerError>;

/// The uncompressed bytes of a layer, hashed and counted as they pass.
pub(super) struct Inflated {
    incoming: Receiver<Chunk>,
    recycle: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
    received: u64,
    /// The bytes of sparse files that did not come.
    holes: u64,
    hasher: Hasher,
    limit: u64,
}

impl Inflated {
    /// Starts to inflate `compressed` in a thread of `scope`. The stream may have `limit` bytes,
    /// and is hashed by `algorithm`.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        compressed: impl Read + Send + 'scope,
        windows: &'scope Windows,
        limit: u64,
        algorithm: Algorithm,
    ) -> Result<Self, LayerError> {
        let (filled, incoming) = bounded(CHUNKS);
        let (recycle, empty) = bounded(CHUNKS);
        for _ in 0..CHUNKS {
            // The channel has room for all of them.
            let _ = recycle.send(Vec::new());
        }
        threads::start_in(scope, "inflate", move || inflate(compressed, windows, &empty, &filled))
            .map_err(failed("start a thread for", b"the layer"))?;
        Ok(Self {
            incoming,
            recycle,
            chunk: Vec::new(),
            used: 0,
            received: 0,
            holes: 0,
            hasher: Hasher::new(algorithm),
            limit,
        })
    }

    /// Gets the next chunk; `false` at the end.
    fn refill(&mut self) -> Result<bool, LayerError> {
        let Ok(chunk) = self.incoming.recv() else { return Ok(false) };
        let old = std::mem::replace(&mut self.chunk, chunk?);
        // The inflating thread may have ended already.
        let _ = self.recycle.try_send(old);
        self.used = 0;
        self.received += self.chunk.len() as u64;
        self.check_limit()?;
        self.hasher.update(&self.chunk);
        Ok(true)
    }

    /// Counts the holes of a file, which take no less room when somebody copies them.
    pub(super) fn count_holes(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.holes = self.holes.saturating_add(bytes);
        self.check_limit()
    }

    fn check_limit(&self) -> Result<(), LayerError> {
        if self.received.saturating_add(self.holes) > self.limit {
            return Err(LayerError::Limit { what: "bytes", limit: self.limit });
        }
        Ok(())
    }

    /// Hashes the bytes after the archive's end, and returns the digest and size of the whole
    /// stream.
    pub(super) fn drain(mut self) -> Result<(DiffId, u64), LayerError> {
        while self.refill()? {}
        Ok((DiffId::from_hasher(self.hasher), self.received))
    }
}

impl Source for Inflated {
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError> {
        if self.used == self.chunk.len() && !self.refill()? {
            return Ok(&[]);
        }
        let start = self.used;
        self.used = self.chunk.len().min(start.saturating_add(limit));
        Ok(&self.chunk[start..self.used])
    }

    fn position(&self) -> u64 {
        self.received - (self.chunk.len() - self.used) as u64
    }
}

/// Decodes into recycled buffers until the end, an error, or until nobody listens any more.
fn inflate(compressed: impl Read, windows: &Windows, empty: &Receiver<Vec<u8>>, filled: &Sender<Chunk>) {
    let failed = |format: &'static str, source: io::Error| match source.downcast::<LayerError>() {
        Ok(error) => error,
        Err(source) => LayerError::Decompress { format, source },
    };
    let (format, mut decoder) = match decode::decode(compressed, windows) {
        Ok((format, decoder)) => (format.as_str(), decoder),
        Err(error) => {
            let _ = filled.send(Err(failed("anything", error)));
            return;
        }
    };
    while let Ok(mut chunk) = empty.recv() {
        chunk.resize(CHUNK, 0);
        let mut length = 0;
        let result = loop {
            match decoder.read(&mut chunk[length..]) {
                Ok(0) => break Ok(()),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(failed(format, error)),
            }
            if length == CHUNK {
                break Ok(());
            }
        };
        chunk.truncate(length);
        let end = length < CHUNK;
        // Nobody listens any more: extraction has failed, its error is the one that counts.
        if (length > 0 && filled.send(Ok(chunk)).is_err()) || end && result.is_ok() {
            return;
        }
        if let Err(error) = result {
            let _ = filled.send(Err(error));
            return;
        }
    }
}
