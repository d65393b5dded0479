//! `trust_root`: the CAs and logs of Sigstore's that are believed. Nothing is written, nobody is
//! asked.

use std::path::PathBuf;

use super::request::ImagesSource;
use super::session::Session;
use super::steps::load::load;
use super::steps::trust::read_file;
use super::verb_error::VerbError;
use crate::error::InputError;
use crate::state::SigstoreRoot;
use crate::trust::{self, sigstore_root};

/// The trusted root, and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    /// The file that an images file names; `None`: the root is built in.
    pub file: Option<PathBuf>,
    /// The keys and certificates.
    pub root: SigstoreRoot,
}

/// Lists whom the images file `source` believes, or, without one, the built-in root does.
///
/// ```
/// use msb_sync::sync::{self, Session};
///
/// # let directory = tempfile::tempdir()?;
/// let root = sync::trust_root(&Session::new(directory.path().join("home")), None)?;
/// assert!(root.file.is_none() && !root.root.anchors.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The images file, or the file of the root, cannot be read, or is not what it should be.
pub fn trust_root(session: &Session, source: Option<&ImagesSource>) -> Result<TrustRoot, VerbError> {
    let file = match source {
        Some(source) => load(session, source)?.file.settings.trust.trusted_root,
        None => None,
    };
    let bytes = file.as_deref().map(|file| read_file(file, "trusted-root")).transpose()?;
    let root = sigstore_root(file.as_deref().zip(bytes.as_deref())).map_err(InputError::TrustFile)?;
    Ok(TrustRoot { file, root })
}

/// The day of the root that is built in, `2026-10-23`.
pub fn built_in_root_date() -> &'static str {
    trust::BUILT_IN_ROOT_DATE
}
