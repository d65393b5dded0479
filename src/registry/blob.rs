//! The bytes of one layer, whatever happens on the way.
//!
//! [`BlobReader`] yields the bytes from an offset to the descriptor's size and no more. A transfer
//! that breaks goes on where it stopped (`resumed`), at the next mirror or the endpoint
//! (`sources`), at the pace that the registry's blobs have. The reader's user checks the digest.

mod range;
mod resumed;
mod sources;

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use self::resumed::Resumed;
use self::sources::sources;
use super::pace::Pacer;
use super::sites::Remote;
use crate::error::RegistryError;
use crate::state::LayerDescriptor;

/// A layer's bytes; an [`io::Error`] of the reader is a [`RegistryError`], see
/// [`BlobReader::cause`].
pub(crate) struct BlobReader(Source);

enum Source {
    Remote(Box<Resumed>),
    File(io::Take<File>),
}

impl BlobReader {
    /// Reads `layer` of `repository` from `offset` on.
    pub(super) fn open(
        remote: &Arc<Remote>,
        repository: &str,
        layer: &LayerDescriptor,
        offset: u64,
    ) -> Result<Self, RegistryError> {
        let network = Arc::clone(&remote.client.network);
        let patience = remote.patience(&layer.digest);
        let sources = sources(remote, repository, layer);
        let pace = remote.pacer.as_ref().map(Pacer::begin);
        let resumed = Resumed::open(network, &layer.digest, layer.size, offset, sources, patience, pace)?;
        Ok(Self(Source::Remote(Box::new(resumed))))
    }

    /// Reads a part of a file.
    pub(super) fn of_file(part: io::Take<File>) -> Self {
        Self(Source::File(part))
    }

    /// Takes the [`RegistryError`] out of an error of a reader.
    ///
    /// # Errors
    /// The error itself, if it is none of this module.
    pub(crate) fn cause(error: io::Error) -> Result<RegistryError, io::Error> {
        error.downcast::<RegistryError>()
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Remote(blob) => blob.read(buffer).map_err(io::Error::other),
            Source::File(file) => file.read(buffer),
        }
    }
}
