//! Which directory an inventory is of: a layer that somebody removed and made anew, or put in place of another one, is
//! not the one that we extracted, whatever its name.
//!
//! Beside the inventories lie symlinks, of their names, whose texts say when a layer's directory was made, and its inode number: what no program
//! can give to another directory, and what one `stat` call tells. Renaming a home keeps both. A copy (`cp -a`, a
//! backup that is put back) has neither; such a layer counts as complete again once its content has been compared
//! with the inventory, which needs no registry.

use std::os::fd::{AsFd as _, BorrowedFd};

use super::{Store, layer_path};
use crate::digest::BlobDigest;
use crate::error::StoreError;
use crate::sys;

/// What the note before a mark says: that the directory is another one, and not what the inventory says either.
const NOT: &str = "not ";
/// A note on its way. No digest has that name, and one run at a time writes notes.
const FRESH: &[u8] = b"new";

/// What is known of an inventory and a directory.
pub(super) enum Bound {
    /// The inventory is of that directory.
    Same,
    /// It is not, nor does it say what is in there.
    Differs,
    /// It is of another directory; they are to be compared.
    Unknown,
}

impl Bound {
    /// Of the inventory of a layer, and the directory with this mark.
    pub(super) fn of(bindings: BorrowedFd<'_>, digest: &BlobDigest, mark: &str) -> Self {
        let Ok(text) = sys::read_link(bindings, digest.as_str().as_bytes()) else { return Self::Unknown };
        match text.strip_prefix(NOT.as_bytes()) {
            None if text == mark.as_bytes() => Self::Same,
            Some(other) if other == mark.as_bytes() => Self::Differs,
            _ => Self::Unknown,
        }
    }
}

impl Store {
    /// Notes that the inventory of a layer is of the directory that the layer has now. The note lasts once inventories are
    /// synced; where a power loss takes it before, the layer is compared with its inventory again.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn bind(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        self.note(digest, "")
    }

    /// Notes that the inventory of a layer does not say what is in the directory that the layer has now. The layer is not
    /// trusted then; its inventory stays, by which others know that we made one.
    ///
    /// # Errors
    /// As for [`Store::bind`].
    pub fn distrust(&self, digest: &BlobDigest) -> Result<(), StoreError> {
        self.note(digest, NOT)
    }

    fn note(&self, digest: &BlobDigest, what: &str) -> Result<(), StoreError> {
        let (layers, bindings) = (self.layers_directory.as_fd(), self.bindings_directory.as_fd());
        let name = format!("{digest}.extracted");
        let lasting = sys::has_lasting_inodes(layers);
        let found = sys::mark(layers, name.as_bytes(), lasting)
            .map_err(StoreError::io("look at", layer_path(self.layers(), digest)))?;
        // Somebody took it away again: there is nothing to be noted.
        let Some((_, mark)) = found else { return Ok(()) };
        let name = digest.as_str().as_bytes();
        let failed = || StoreError::io("note the directory of", self.places.inventory(digest));
        self.sweep_bindings();
        sys::make_symlink(bindings, FRESH, format!("{what}{mark}").as_bytes()).map_err(failed())?;
        sys::rename_over(bindings, FRESH, bindings, name).map_err(failed())
    }

    /// Removes the note that a run which was killed has not given its name.
    pub(super) fn sweep_bindings(&self) {
        let _ = sys::remove_file(self.bindings_directory.as_fd(), FRESH);
    }
}
