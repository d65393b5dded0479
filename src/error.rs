//! Errors, by module. Each says what was being done, to which image, URL or path, and what went wrong, in
//! lower-case fragments; [`Error::hint`] is the next step, where there is one, and [`Error::kind`] a stable
//! word for machines (the `kind` in `--json` events).
//!
//! A message never carries a secret: URLs are shown without user info and query.

mod catalog;
mod layer;
mod registry;
mod store;
mod text;

pub use catalog::CatalogError;
pub use layer::LayerError;
pub use registry::{Login, RegistryError, RegistryName, TlsCure, Trouble};
pub use store::StoreError;
pub use text::{escape_into, printable};

use std::time::SystemTime;

use crate::digest::BlobDigest;

/// Anything that can fail for one image, one layer or a whole run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A registry, or what it served.
    #[error(transparent)]
    Registry(RegistryError),
    /// The SQLite catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The directories of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content of a layer.
    #[error("layer {digest}: {error}")]
    Layer {
        /// Which layer.
        digest: BlobDigest,
        /// What is wrong with it.
        error: LayerError,
    },
    /// The digest that the lockfile names cannot be had.
    #[error("cannot get {digest}, to which the lockfile locks it")]
    LockedDigest {
        /// The locked digest.
        digest: BlobDigest,
        /// Why.
        source: Box<RegistryError>,
    },
    /// The lockfile says something else about a digest than the registry, or than what was recorded of it.
    #[error("{who} another {what} than the lockfile says: {actual} instead of {expected}")]
    LockMismatch {
        /// Who says something else, with a verb.
        who: &'static str,
        /// Manifest or layer.
        what: &'static str,
        /// The lockfile's.
        expected: String,
        /// Theirs.
        actual: String,
    },
    /// Something that only applies to a combination of settings.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The run was stopped by a signal.
    #[error("stopped")]
    Stopped,
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Stopped => Self::Stopped,
            error => Self::Registry(error),
        }
    }
}

impl Error {
    /// A stable, machine-readable word for the kind of failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Layer { error, .. } => error.kind(),
            Self::LockedDigest { source, .. } => source.kind(),
            Self::LockMismatch { .. } => "lock-mismatch",
            Self::Usage { .. } => "usage",
            Self::Stopped => "stopped",
        }
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Layer { error, .. } => error.hint(),
            Self::LockedDigest { source, .. } => match **source {
                RegistryError::Refused { status: 404, .. } => Some(
                    "the registry may have dropped it; to take what the tag means now: msb-sync lock --upgrade"
                        .to_owned(),
                ),
                _ => source.hint(),
            },
            Self::LockMismatch { .. } => Some(
                "the lockfile was changed by other hands: remove the image's entry, then run: msb-sync lock"
                    .to_owned(),
            ),
            Self::Usage { hint, .. } => hint.clone(),
            Self::Stopped => None,
        }
    }

    /// When to try again, where a registry said so and that is not soon.
    pub fn retry_at(&self) -> Option<SystemTime> {
        match self {
            Self::Registry(error) => error.retry_at(),
            Self::LockedDigest { source, .. } => source.retry_at(),
            _ => None,
        }
    }

    /// The message and its causes, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // Many libraries repeat their cause in their own words.
            if !messages.iter().any(|said| said.contains(&message)) {
                messages.push(message);
            }
            cause = error.source();
        }
        messages
    }
}
