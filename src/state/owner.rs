//! The owners of images, as the catalog stores them and as people read them.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// An owner of images: the absolute path of an images file (symlinks kept), or `pull`.
///
/// Two paths are two owners, whatever their bytes: a path that is UTF-8 is held unchanged, any
/// other path with its bytes escaped. The catalog stores the held text; [`Owner`]'s display form is
/// for people and documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub String);

/// The beginning of an escaped path's text. No absolute path begins so.
const ESCAPED_PATH: &str = "bytes:";

impl Owner {
    /// The owner of all images that `msb-sync pull` brought.
    pub fn pull() -> Self {
        Self("pull".to_owned())
    }

    /// The images file at the absolute `path`.
    pub fn images_file(path: &Path) -> Self {
        if let Some(text) = path.to_str() {
            return Self(text.to_owned());
        }
        let mut text = ESCAPED_PATH.to_owned();
        for chunk in path.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', "\\\\"));
            text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        Self(text)
    }

    /// The path of the images file; `None` for `pull` and for standard input, whose name is `-`.
    pub fn file(&self) -> Option<PathBuf> {
        let path = match self.0.strip_prefix(ESCAPED_PATH) {
            Some(escaped) => unescape(escaped.as_bytes())?,
            None => PathBuf::from(&self.0),
        };
        (path.is_absolute() && path.file_name() != Some("-".as_ref())).then_some(path)
    }
}

/// The path whose escaped form is `escaped`.
fn unescape(escaped: &[u8]) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        let byte;
        (byte, rest) = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => (b'\\', after),
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?, after)
            }
            _ => (first, after),
        };
        bytes.push(byte);
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.strip_prefix(ESCAPED_PATH).unwrap_or(&self.0))
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_paths_are_two_owners(
            one in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), any::<u8>()], 0..8),
            other in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), any::<u8>()], 0..8),
        ) {
            let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec([b"/", bytes].concat()));
            let (one, other) = (path(&one), path(&other));
            let owners = (Owner::images_file(&one), Owner::images_file(&other));
            prop_assert_eq!(one.as_os_str() == other.as_os_str(), owners.0 == owners.1);
            let file = Some(one.clone()).filter(|path| path.file_name() != Some("-".as_ref()));
            prop_assert_eq!(owners.0.file(), file);
            prop_assert!(owners.0.to_string().starts_with('/'));
            prop_assert_eq!(one.to_str().is_none(), owners.0.0.starts_with(ESCAPED_PATH));
        }
    }

    #[test]
    fn an_owner_that_is_no_file_has_no_path() {
        assert_eq!(Owner::pull().file(), None);
        assert_eq!(Owner("bytes:/a\\x".to_owned()).file(), Some(PathBuf::from("/a\\x")));
    }
}
