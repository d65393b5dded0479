//! Layers that another program has extracted already: looked at, compared by the caller, and taken for ours where they
//! are the same, rather than replaced.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use super::{FILE_MODE, INVENTORY, Staged, TREE};
use crate::error::StoreError;
use crate::state::LayerState;
use crate::sys;

/// The inventory of a tree that another program extracted, in staging.
const ADOPTED: &[u8] = b"adopted";

impl Staged<'_> {
    /// The tree that has the layer's name and is not what we recorded: another program extracted it. `None`: there is
    /// none.
    pub fn foreign(&self) -> Option<OwnedFd> {
        // Neither ours nor a damaged one of ours, which is to be repaired.
        if !matches!(self.store.places.state(&self.digest), Ok(LayerState::Untrusted)) {
            return None;
        }
        let name = format!("{}.extracted", self.digest);
        sys::open_directory_beneath(self.store.layers_directory.as_fd(), name.as_bytes()).ok()
    }

    /// The inventory, to be read, and an empty file for one of another tree of the same layer: see [`Staged::adopt`].
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn inventories(&self) -> Result<(File, File), StoreError> {
        let directory = self.directory.as_fd();
        let failed = || StoreError::io("open the records in", self.path());
        let inventory = sys::open_own_file(directory, INVENTORY).map_err(failed())?;
        Ok((inventory, sys::make_own_file(directory, ADOPTED, FILE_MODE).map_err(failed())?))
    }

    /// Takes the tree that has the layer's name already for the layer, with the second of [`Staged::inventories`] as its
    /// inventory. The staged tree is removed; [`Staged::ready`] is to follow.
    ///
    /// # Errors
    /// The inventory is not on disk, or the tree cannot be removed.
    pub fn adopt(&self, inventory: &File) -> Result<(), StoreError> {
        let failed = || StoreError::io("take over the record in", self.path());
        let directory = self.directory.as_fd();
        // What is ready and has no tree is taken for placed, also after a power loss.
        sys::sync(inventory.as_fd()).map_err(failed())?;
        sys::rename_over(directory, ADOPTED, directory, INVENTORY).map_err(failed())?;
        sys::sync(directory).map_err(failed())?;
        sys::remove_tree(directory, TREE).map_err(|kept| {
            StoreError::io("remove the tree in", self.path())(kept.under(&self.path()).into())
        })
    }
}
