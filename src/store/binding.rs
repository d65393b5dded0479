//! Which directory a record is of: a layer that somebody removed and made anew, or put in place of another one, is
//! not the one that we extracted, whatever its name.
//!
//! Beside the records lie symlinks, of their names, whose texts say when a layer's directory was made, and its inode number: what no program
//! can give to another directory, and what one `stat` call tells. Renaming a home keeps both. A copy (`cp -a`, a
//! backup that is put back) has neither; such a layer counts as complete again once its content has been compared
//! with the record, which needs no registry.

use std::os::fd::{AsFd as _, BorrowedFd};

use super::{Store, layer_path};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;

/// Whether the record of a layer is of the directory with this mark.
pub(super) fn is_bound(bindings: BorrowedFd<'_>, digest: &BlobDigest, mark: &str) -> bool {
    sys::read_link(bindings, digest.as_str().as_bytes()).is_ok_and(|text| text == mark.as_bytes())
}

impl Store {
    /// Notes that the record of a layer is of the directory that the layer has now. Where a power loss takes
    /// the note, the layer is compared with its record again.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn bind(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        let (layers, bindings) = (self.layers_directory.as_fd(), self.bindings_directory.as_fd());
        let name = format!("{digest}.extracted");
        let lasting = sys::has_lasting_inodes(layers);
        let found = sys::mark(layers, name.as_bytes(), lasting)
            .map_err(StoreError::io("look at", layer_path(self.layers(), digest)))?;
        // Somebody took it away again: there is nothing to be noted.
        let Some((_, mark)) = found else { return Ok(()) };
        let name = digest.as_str().as_bytes();
        let fresh = [name, b".new"].concat();
        let failed = || StoreError::io("note the directory of", self.places.record(digest));
        let _ = sys::remove_file(bindings, &fresh);
        sys::make_symlink(bindings, &fresh, mark.as_bytes()).map_err(failed())?;
        sys::rename_over(bindings, &fresh, bindings, name).map_err(failed())
    }

    /// Drops the record of a layer, which is of another directory. The layer is not trusted then.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn unbind(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        for directory in [&self.records_directory, &self.bindings_directory] {
            match sys::remove_file(directory.as_fd(), digest.as_str().as_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove the record", self.places.record(digest))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
