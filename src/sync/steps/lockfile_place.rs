//! The lockfile on disk: where it lies beside its images file, and how it is read.

use std::io;
use std::path::{Path, PathBuf};

use super::user_file::of_dangling;
use crate::error::{InputError, InputFile, StoreError};
use crate::lockfile::{Lockfile, MAX_TEXT};
use crate::sync::verb_error::VerbError;
use crate::sys;

/// The place of an images file's lockfile.
pub(crate) struct LockfilePlace {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

impl LockfilePlace {
    /// `<stem>.lock` beside the images file `given`; none where that would be the images file
    /// itself.
    pub(crate) fn beside(given: &Path, absolute: &Path) -> Option<Self> {
        let path = absolute.with_extension("lock");
        (path != absolute).then(|| Self { path, name: given.with_extension("lock").display().to_string() })
    }

    /// Returns the absolute path.
    pub(crate) fn into_path(self) -> PathBuf {
        self.path
    }

    /// Reads the text; `None` if there is no file.
    pub(crate) fn read(&self) -> Result<Option<String>, VerbError> {
        match sys::read_regular_text(&self.path, MAX_TEXT as u64) {
            Ok(text) => Ok(Some(text)),
            // Whoever made a symlink to where no file is wants a lockfile, and there is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.path.is_symlink() => Ok(None),
            Err(error) => Err(unreadable(Path::new(&self.name), of_dangling(&self.path, error))),
        }
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Lockfile, VerbError> {
        Lockfile::parse(text, &self.name).map_err(VerbError::Lockfile)
    }

    /// Returns the file to replace: where a symlink of this user leads to a file of his, that one.
    pub(crate) fn target(&self) -> Result<PathBuf, StoreError> {
        if self.path.is_symlink() {
            sys::find_own_regular(&self.path).map_err(StoreError::named("write", &self.path))
        } else {
            Ok(self.path.clone())
        }
    }
}

/// Reads a lockfile that a user names, which is to be there, and returns its name for people with
/// the text.
pub(crate) fn read_named(path: &Path) -> Result<(String, String), VerbError> {
    let place = LockfilePlace { path: path.to_owned(), name: path.display().to_string() };
    // The system's own words for a file that is not there.
    let absent = || path.metadata().err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
    let text = place.read()?.ok_or_else(|| unreadable(path, absent()))?;
    Ok((place.name, text))
}

/// Makes the error for a lockfile that the system does not let us read.
pub(crate) fn unreadable(path: &Path, source: io::Error) -> VerbError {
    InputError::unreadable(InputFile::Lockfile, path, source).into()
}
