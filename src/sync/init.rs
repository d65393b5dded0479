//! `init`: a commented images file to start from.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::verb_error::VerbError;
use crate::error::{Error, InputError, StoreError};
use crate::images_file;
use crate::sys;

/// Writes the commented starter file to `path`.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("images.toml");
/// msb_sync::sync::init(&path)?;
/// assert!(msb_sync::sync::init(&path).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// There is a file already (it is never overwritten), or it cannot be written.
pub fn init(path: &Path) -> Result<(), VerbError> {
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            let written = file.write_all(images_file::STARTER.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(StoreError::named("write", path))?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            Ok(sys::sync_names(directory).map_err(StoreError::io("sync the directory", directory))?)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::from(InputError::Exists { path: path.to_owned() }).into())
        }
        Err(error) => Err(StoreError::named("create", path)(error).into()),
    }
}
