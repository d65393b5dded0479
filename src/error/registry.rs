//! Failures of registries and of what they serve.

use crate::digest::ContentMismatch;

/// What went wrong with a registry, or with what it served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A document or blob that is not what its descriptor says.
    #[error("{what} from {host} is not what was asked for")]
    Mismatch {
        /// Manifest, config or layer, with its digest.
        what: String,
        /// Who served it.
        host: String,
        /// Which of digest and size.
        source: ContentMismatch,
    },
}

impl RegistryError {
    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mismatch { .. } => "content-mismatch",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        None
    }
}
