//! Making the files of one layer, and finishing them: what small and large ones have in common.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::error::LayerError;
use crate::extract::attributes::{AttributeSetter, Attributes};
use crate::extract::paths::{failed, split};
use crate::extract::spelling::Spelling;
use crate::sys;

/// Makes the files of one layer, from any thread.
pub(super) struct Maker {
    attributes: Arc<AttributeSetter>,
    spelling: Arc<Spelling>,
}

impl Maker {
    pub(super) fn new(attributes: Arc<AttributeSetter>, spelling: Arc<Spelling>) -> Self {
        Self { attributes, spelling }
    }

    /// Creates a file in place of whatever non-directory has its name.
    pub(super) fn create(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        mode: u32,
    ) -> Result<File, LayerError> {
        let (_, name) = split(path);
        let file = match sys::create_file(directory, name, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.spelling.check(directory, path)?;
                sys::remove_file(directory, name).and_then(|()| sys::create_file(directory, name, mode))
            }
            other => other,
        };
        file.map_err(failed("create", path))
    }

    /// Gives a file whose content is complete all its attributes.
    pub(super) fn finish(&self, file: &File, path: &[u8], attributes: &Attributes) -> Result<(), LayerError> {
        self.attributes.finish(file, path, attributes)
    }
}
