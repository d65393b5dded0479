//! The error of a verb.

use crate::diagnostic::{Problem, Problems};
use crate::error::{CatalogError, Error, InputError, StoreError};

/// The error of a verb that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The images file is wrong. Nothing was touched.
    #[error("{0}")]
    Problems(Problems),
    /// The lockfile is broken, or of a newer version. Nothing was touched.
    #[error("{0}")]
    Lockfile(Box<Problem>),
    /// Anything else stops the whole run.
    #[error(transparent)]
    Error(#[from] Error),
    /// The user's input is at fault, and nothing was touched.
    #[error(transparent)]
    Input(Error),
}

impl From<InputError> for VerbError {
    fn from(error: InputError) -> Self {
        Self::Input(error.into())
    }
}

impl From<CatalogError> for VerbError {
    fn from(error: CatalogError) -> Self {
        Self::Error(error.into())
    }
}

impl From<StoreError> for VerbError {
    fn from(error: StoreError) -> Self {
        Self::Error(error.into())
    }
}
