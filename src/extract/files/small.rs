//! Small files, collected into batches that are written as one.

use std::io::Write as _;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::maker::Maker;
use crate::error::LayerError;
use crate::extract::attributes::Attributes;
use crate::extract::paths::failed;

/// The bytes, or files, with which a batch is full.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_FILES: usize = 64;

/// The small files that one job writes.
#[derive(Default)]
pub(super) struct Batch {
    files: Vec<SmallFile>,
    /// Paths and contents, one after the other.
    arena: Vec<u8>,
    /// The bytes that the files hold besides: their extended attributes, and directories kept open.
    more: usize,
}

/// The places of a small file's path and content in its batch.
#[derive(Debug)]
pub(in crate::extract) struct SmallContent {
    path: Range<usize>,
    data: Range<usize>,
}

struct SmallFile {
    directory: Arc<OwnedFd>,
    content: SmallContent,
    attributes: Attributes,
}

impl Batch {
    /// Takes in path and content of a file; `read` appends the content to the buffer that it is
    /// given.
    pub(super) fn collect(
        &mut self,
        path: &[u8],
        read: impl FnOnce(&mut Vec<u8>) -> Result<(), LayerError>,
    ) -> Result<SmallContent, LayerError> {
        let path_start = self.arena.len();
        self.arena.extend_from_slice(path);
        let data_start = self.arena.len();
        read(&mut self.arena)?;
        Ok(SmallContent { path: path_start..data_start, data: data_start..self.arena.len() })
    }

    /// The content of a file that was collected.
    pub(super) fn content(&self, of: &SmallContent) -> &[u8] {
        &self.arena[of.data.clone()]
    }

    /// Adds the file that was just collected. A directory that is not yet open for this batch
    /// counts as `bytes_per_directory`.
    pub(super) fn add(
        &mut self,
        directory: Arc<OwnedFd>,
        content: SmallContent,
        attributes: Attributes,
        bytes_per_directory: usize,
    ) {
        let xattrs = attributes.xattrs.iter();
        self.more += xattrs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.files.last().is_none_or(|last| !Arc::ptr_eq(&last.directory, &directory)) {
            self.more += bytes_per_directory;
        }
        self.files.push(SmallFile { directory, content, attributes });
    }

    pub(super) fn is_full(&self) -> bool {
        self.arena.len() + self.more >= BATCH_BYTES || self.files.len() >= BATCH_FILES
    }

    /// Takes the batch to be written, with the memory that it holds in bytes, and leaves an empty
    /// one.
    pub(super) fn take(&mut self) -> (Self, usize) {
        let batch = std::mem::take(self);
        self.arena.reserve(BATCH_BYTES);
        let bytes = batch.arena.capacity() + batch.more;
        (batch, bytes)
    }

    /// Writes all files of the batch.
    pub(super) fn write(&self, maker: &Maker) -> Result<(), LayerError> {
        for SmallFile { directory, content, attributes } in &self.files {
            let path = &self.arena[content.path.clone()];
            let mut file = maker.create(directory.as_fd(), path, attributes.stat.disk_mode())?;
            let data = &self.arena[content.data.clone()];
            if !data.is_empty() {
                file.write_all(data).map_err(failed("write", path))?;
            }
            maker.finish(&file, path, attributes)?;
        }
        Ok(())
    }
}
