//! Failures of the SQLite catalog.

use std::path::PathBuf;

/// What went wrong with `oci.db`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The database cannot be opened or created.
    #[error("cannot open the catalog {}: {reason}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's or the system's words.
        reason: String,
    },
    /// The file is not a database, or a damaged one.
    #[error("the catalog {} is damaged: {reason}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// The database has tables that msb-sync does not know how to use.
    #[error("the catalog {} has another schema: {reason}", path.display())]
    Schema {
        /// The database file.
        path: PathBuf,
        /// Which table or column.
        reason: String,
    },
    /// Another process held the database longer than msb-sync waits.
    #[error("the catalog {} is in use by another process", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// A query failed.
    #[error("cannot {doing} in the catalog {}: {reason}", path.display())]
    Query {
        /// What was being done, as an infinitive.
        doing: &'static str,
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
}

impl CatalogError {
    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open { .. } => "catalog-open",
            Self::Corrupt { .. } => "catalog-corrupt",
            Self::Schema { .. } => "catalog-schema",
            Self::Busy { .. } => "catalog-busy",
            Self::Query { .. } => "catalog-query",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupt { path, .. } => Some(format!(
                "move {} away and run apply again: the layers on disk are kept and recorded anew",
                path.display()
            )),
            Self::Busy { .. } => Some("wait for the other process, or stop it, and run again".to_owned()),
            _ => None,
        }
    }
}
