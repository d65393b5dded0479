//! The bytes of one blob: the kept ones, or those that a registry sends.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::error::StoreError;
use crate::store::{Spool, Store};

/// The source of a blob's bytes.
pub(super) enum Source {
    /// The kept blob.
    Kept(File),
    /// The spool, which a registry fills.
    Spool(Arc<Spool>),
}

impl Source {
    /// Opens a reader from the first byte on; that of a spool waits for bytes to come.
    pub(super) fn reader(&self, store: &Store) -> Result<Box<dyn Read + Send>, StoreError> {
        match self {
            Self::Kept(file) => {
                let copy = file.try_clone();
                let copy = copy.map_err(StoreError::io("read a kept blob in", store.home().path()))?;
                Ok(Box::new(FromStart::of(copy)))
            }
            Self::Spool(spool) => Ok(Box::new(spool.reader())),
        }
    }

    /// Throws the bytes away, which are no use; a kept blob stays what it is.
    pub(super) fn discard(&self) -> Result<(), StoreError> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Spool(spool) => spool.remove(),
        }
    }
}

/// Reads a file from its first byte, wherever others read it.
pub(super) struct FromStart<F> {
    file: F,
    offset: u64,
}

impl<F: Borrow<File>> FromStart<F> {
    pub(super) fn of(file: F) -> Self {
        Self { file, offset: 0 }
    }
}

impl<F: Borrow<File>> Read for FromStart<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.borrow().read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
