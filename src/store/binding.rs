//! The directory that an inventory is of: a layer that somebody removed and made anew, or put in
//! place of another one, is not the one that we extracted, whatever its name.
//!
//! Beside the inventories lie symlinks, of their names, whose texts say when a layer's directory
//! was made, and its inode number: what no program can give to another directory, and what one
//! `stat` call tells. Renaming a home keeps both. A copy (`cp -a`, a backup that is put back) has
//! neither; such a layer counts as complete again once its content has been compared with the
//! inventory, which needs no registry.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::digest::BlobDigest;
use crate::sys;

/// The start of a note that says that the inventory is not of the directory with this mark, nor
/// says what is in it.
const NOT: &str = "not ";
/// A note on its way. No digest has that name, and one run at a time writes notes.
const FRESH: &[u8] = b"new";

/// The relation of an inventory to a directory.
pub(super) enum Bound {
    /// The inventory is of that directory.
    Same,
    /// The inventory is not, nor does it say what is in there.
    Differs,
    /// The inventory is of another directory; they are to be compared.
    Unknown,
}

/// The notes of which directories inventories are of.
#[derive(Debug)]
pub(super) struct Bindings(OwnedFd);

impl Bindings {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Compares the note on a layer's inventory with the mark of the directory that the layer has
    /// now.
    pub(super) fn bound(&self, digest: &BlobDigest, mark: &str) -> Bound {
        let note = sys::read_link(self.0.as_fd(), digest.text().as_bytes());
        let Ok(text) = note else { return Bound::Unknown };
        match text.strip_prefix(NOT.as_bytes()) {
            None if text == mark.as_bytes() => Bound::Same,
            Some(other) if other == mark.as_bytes() => Bound::Differs,
            _ => Bound::Unknown,
        }
    }

    /// Notes that the inventory of a layer is of the directory with this mark, or is not, nor says
    /// what is in it. At no time there is half a note, or none where one was. Whatever else lies
    /// there in its place is removed.
    pub(super) fn note(&self, digest: &BlobDigest, is_of: bool, mark: &str) -> io::Result<()> {
        let not = if is_of { "" } else { NOT };
        let (notes, text, name) = (self.0.as_fd(), format!("{not}{mark}"), digest.text());
        match sys::make_symlink(notes, name.as_bytes(), text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.sweep();
                sys::make_symlink(notes, FRESH, text.as_bytes())?;
                match sys::rename_over(notes, FRESH, notes, name.as_bytes()) {
                    Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                        self.remove(digest)?;
                        sys::rename_over(notes, FRESH, notes, name.as_bytes())
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    /// Removes the note that a run which was killed has not given its name.
    pub(super) fn sweep(&self) {
        let _ = sys::remove_tree(self.0.as_fd(), FRESH);
    }

    /// Removes the note on a layer, which is one; see also [`Bindings::remove`].
    pub(super) fn forget(&self, digest: &BlobDigest) -> io::Result<()> {
        sys::remove_file(self.0.as_fd(), digest.text().as_bytes())
    }

    /// Removes the note on a layer, if there is one, whatever lies there in its place.
    pub(super) fn remove(&self, digest: &BlobDigest) -> Result<(), sys::Kept> {
        sys::remove_tree(self.0.as_fd(), digest.text().as_bytes())
    }

    /// Makes the notes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        sys::sync(self.0.as_fd())
    }
}
