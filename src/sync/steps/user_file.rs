//! Files that users write, where they cannot be read as they are: a symbolic link to where no file
//! is, and bytes that are no text.

use std::io;
use std::path::Path;

use crate::images_file;
use crate::sync::verb_error::VerbError;

/// Says of a symbolic link to where no file is that it is one: to whoever looks, the file is there.
pub(super) fn of_dangling(path: &Path, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound && path.is_symlink() {
        io::Error::new(error.kind(), "it is a symbolic link to where no file is")
    } else {
        error
    }
}

/// Takes the bytes of an images file, or of the machine's settings, for its text; problems call it
/// `name`.
pub(super) fn toml_text(bytes: Vec<u8>, name: &str) -> Result<String, VerbError> {
    String::from_utf8(bytes)
        .map_err(|error| VerbError::Problems(images_file::not_utf8(error.as_bytes(), name)))
}
