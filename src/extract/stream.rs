//! The uncompressed bytes of a layer: inflated, mostly in a thread of their own, hashed and counted
//! as they pass.

use std::io::{self, Read};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::decode::{self, Windows};
use super::paths::failed;
use super::tar::Source;
use super::{Options, SMALL_BLOB};
use crate::digest::{DiffId, Hasher};
use crate::error::LayerError;
use crate::threads;

/// The size of the buffers between inflating and parsing, in bytes, and how many there are a layer.
const CHUNK: usize = 128 * 1024;
const CHUNKS: usize = 6;
/// The size of the one buffer, where whoever parses inflates too.
const CHUNK_HERE: usize = 32 * 1024;

type Chunk = Result<Vec<u8>, LayerError>;

/// The uncompressed bytes of a layer, hashed and counted as they pass.
pub(super) struct Inflated<'s> {
    chunks: Chunks<'s>,
    chunk: Vec<u8>,
    used: usize,
    received: u64,
    /// The bytes of sparse files that did not come.
    holes: u64,
    hasher: Hasher,
    limit: u64,
}

/// The place where the chunks come from.
enum Chunks<'s> {
    /// Another thread inflates.
    Thread { incoming: Receiver<Chunk>, recycle: Sender<Vec<u8>> },
    /// Whoever takes the chunks inflates: the blob is small, and a thread would cost more.
    Here(Inflating<'s>),
}

impl<'scope> Inflated<'scope> {
    /// Starts to inflate the blob that `compressed` yields, in a thread of `scope` unless it is a
    /// small one.
    ///
    /// # Errors
    /// The system refuses the thread; the first bytes cannot be read.
    pub(super) fn start(
        scope: &'scope Scope<'scope, '_>,
        compressed: impl Read + Send + 'scope,
        windows: &'scope Windows,
        options: Options,
    ) -> Result<Self, LayerError> {
        let size = options.blob_size;
        let chunks = if size <= SMALL_BLOB {
            Chunks::Here(Inflating::start(compressed, size, windows, CHUNK_HERE)?)
        } else {
            let (filled, incoming) = bounded(CHUNKS);
            let (recycle, empty) = bounded(CHUNKS);
            for _ in 0..CHUNKS {
                // The channel has room for all of them.
                let _ = recycle.send(Vec::new());
            }
            let inflate = move || match Inflating::start(compressed, size, windows, CHUNK) {
                Ok(inflating) => inflating.pass_on(&empty, &filled),
                // Nobody listens any more where extraction has failed.
                Err(error) => drop(filled.send(Err(error))),
            };
            threads::start_in(scope, "inflate", inflate)
                .map_err(failed("start a thread for", b"the layer"))?;
            Chunks::Thread { incoming, recycle }
        };
        Ok(Self {
            chunks,
            chunk: Vec::new(),
            used: 0,
            received: 0,
            holes: 0,
            hasher: Hasher::new(options.algorithm),
            limit: options.limits.layer_size,
        })
    }

    /// Gets the next chunk; `false` at the end.
    fn refill(&mut self) -> Result<bool, LayerError> {
        let used = std::mem::take(&mut self.chunk);
        self.used = 0;
        let next = match &mut self.chunks {
            Chunks::Here(inflating) => inflating.next(used),
            Chunks::Thread { incoming, recycle } => {
                let next = incoming.recv().ok();
                // The inflating thread may have ended already.
                let _ = recycle.try_send(used);
                next
            }
        };
        let Some(chunk) = next else { return Ok(false) };
        self.chunk = chunk?;
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

impl Source for Inflated<'_> {
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

/// A blob that is being inflated, chunk by chunk.
struct Inflating<'s> {
    format: &'static str,
    decoder: Box<dyn Read + 's>,
    /// The bytes of a chunk; only the last one has fewer.
    size: usize,
    rest: Rest,
}

/// The rest of a blob, after the chunks so far.
enum Rest {
    /// Perhaps there is more.
    Bytes,
    /// An error, after the last chunk.
    Failure(LayerError),
    Nothing,
}

impl<'s> Inflating<'s> {
    /// Starts with the blob of `blob_size` bytes that `compressed` yields.
    fn start(
        compressed: impl Read + 's,
        blob_size: u64,
        windows: &'s Windows,
        size: usize,
    ) -> Result<Self, LayerError> {
        let (format, decoder) = decode::decode(compressed, blob_size, windows)
            .map_err(|error| inflating_failed("gzip or zstd", error))?;
        Ok(Self { format: format.as_str(), decoder: Box::new(decoder), size, rest: Rest::Bytes })
    }

    /// Inflates the next chunk into the memory of `chunk`, a used one; `None` at the end.
    fn next(&mut self, mut chunk: Vec<u8>) -> Option<Chunk> {
        if matches!(self.rest, Rest::Bytes) {
            chunk.resize(self.size, 0);
            let length = self.fill(&mut chunk);
            if length > 0 {
                chunk.truncate(length);
                return Some(Ok(chunk));
            }
        }
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Failure(error) => Some(Err(error)),
            Rest::Bytes | Rest::Nothing => None,
        }
    }

    /// Fills a chunk, as far as there are bytes.
    fn fill(&mut self, chunk: &mut [u8]) -> usize {
        let mut length = 0;
        while length < chunk.len() {
            match self.decoder.read(&mut chunk[length..]) {
                Ok(0) => {
                    self.rest = Rest::Nothing;
                    break;
                }
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.rest = Rest::Failure(inflating_failed(self.format, error));
                    break;
                }
            }
        }
        length
    }

    /// Inflates into recycled chunks until the end, an error, or until nobody listens any more:
    /// then extraction has failed, and its error is the one that counts.
    fn pass_on(mut self, empty: &Receiver<Vec<u8>>, filled: &Sender<Chunk>) {
        while let Ok(chunk) = empty.recv() {
            let Some(next) = self.next(chunk) else { return };
            if filled.send(next).is_err() || matches!(self.rest, Rest::Nothing) {
                return;
            }
        }
    }
}

/// The error of a blob of that `format`, by its reader or by the decoder.
fn inflating_failed(format: &'static str, error: io::Error) -> LayerError {
    match error.downcast::<LayerError>() {
        Ok(error) => error,
        Err(source) => LayerError::Decompress { format, source },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::cancel::Cancel;
    use crate::digest::Algorithm;
    use crate::state::{Limits, Ownership};

    /// Everything that comes of a blob, and how that ends.
    fn all(blob: &[u8], blob_size: u64, limit: u64) -> (Vec<u8>, Result<(DiffId, u64), String>) {
        let windows = Windows::new(&Cancel::new());
        let options = Options {
            ownership: Ownership::OverrideStat,
            limits: Limits { layer_size: limit, ..Limits::default() },
            algorithm: Algorithm::Sha256,
            blob_size,
        };
        let mut came = Vec::new();
        let end = std::thread::scope(|scope| {
            let mut inflated = Inflated::start(scope, blob, &windows, options)?;
            loop {
                let bytes = inflated.take(usize::MAX)?;
                if bytes.is_empty() {
                    return inflated.drain();
                }
                came.extend_from_slice(bytes);
            }
        });
        (came, end.map_err(|error: LayerError| error.to_string()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A blob is the same to whoever inflates it, also a broken one: but for the bytes before the
        /// error.
        #[test]
        fn a_blob_inflates_to_the_same_here_and_in_a_thread(
            seed in proptest::collection::vec(any::<u8>(), 1..500),
            times in 0_usize..2000,
            format in 0..3,
            cut in proptest::option::of(0.0..1.0),
            limit in prop_oneof![Just(u64::MAX), 0..1_000_000_u64],
        ) {
            let plain = seed.repeat(times);
            let mut blob = match format {
                0 => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(&plain).unwrap();
                    encoder.finish().unwrap()
                }
                1 => zstd::stream::encode_all(&plain[..], 3).unwrap(),
                _ => plain.clone(),
            };
            let whole = blob.len();
            if let Some(part) = cut {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                    reason = "a part of a small length")]
                blob.truncate((blob.len() as f64 * part) as usize);
            }
            let (here, here_end) = all(&blob, SMALL_BLOB, limit);
            let (there, there_end) = all(&blob, SMALL_BLOB + 1, limit);
            prop_assert_eq!(&here_end, &there_end);
            let is_broken = cut.is_some() && format != 2 && blob.len() >= 5 && blob.len() < whole;
            prop_assert!(!is_broken || here_end.is_err(), "the end is missing");
            if here_end.is_ok() {
                prop_assert_eq!(&here, &there);
            }
            if cut.is_none() && plain.len() as u64 <= limit {
                // What is called plain here may look compressed.
                let is_plain = format != 2 || decode::decode(&blob[..], 0, &Windows::new(&Cancel::new()))
                    .is_ok_and(|(format, _)| format == decode::Format::Plain);
                prop_assert!(!is_plain || here_end.is_ok_and(|(_, bytes)| bytes == plain.len() as u64));
                prop_assert!(!is_plain || here == plain);
            }
        }
    }
}
