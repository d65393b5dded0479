//! Failures of the SQLite catalog.
//!
//! Messages carry SQLite's own words, the database's path and what was being done; rows are never
//! quoted, since anybody may have written them.

use std::path::PathBuf;

/// A failure of `oci.db`.
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
    /// The database, or a file that SQLite keeps beside it, is another user's, a symlink, or no
    /// file.
    #[error("cannot use {} as the catalog's file: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The words for what is there instead.
        reason: String,
    },
    /// The database, its directory or its file system does not let us read or write.
    #[error("cannot {doing} the catalog {}: {reason}", path.display())]
    Permission {
        /// The deed that failed, as an infinitive that ends before `the catalog`.
        doing: &'static str,
        /// The database file.
        path: PathBuf,
        /// SQLite's or the system's words.
        reason: String,
    },
    /// The file system that holds the database is full. Nothing of the change was kept.
    #[error("cannot {doing} the catalog {}: no space left on the file system", path.display())]
    DiskFull {
        /// The deed that failed, as an infinitive that ends before `the catalog`.
        doing: &'static str,
        /// The database file.
        path: PathBuf,
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
        /// The table or column.
        reason: String,
    },
    /// A newer msb-sync wrote the database.
    #[error(
        "the catalog {} was written by a newer msb-sync: its schema is {found}, this one knows {known}",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The schema version in the database.
        found: i64,
        /// The newest one this program knows.
        known: i64,
    },
    /// Another process held the database longer than msb-sync waits.
    #[error("the catalog {} is in use by another process", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// A query failed.
    #[error("cannot {doing} the catalog {}: {reason}", path.display())]
    Query {
        /// The deed that failed, as an infinitive that ends before `the catalog`.
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
            Self::Refused { .. } => "refused",
            Self::Permission { .. } => "permission",
            Self::DiskFull { .. } => "disk-full",
            Self::Corrupt { .. } => "catalog-corrupt",
            Self::Schema { .. } | Self::Newer { .. } => "catalog-schema",
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
            Self::Schema { path, .. } => Some(format!(
                "msb-sync needs the tables of microsandbox 0.2; if nothing else uses {}, move it away and run apply again",
                path.display()
            )),
            Self::Newer { .. } => Some("use the newer msb-sync, or another --home".to_owned()),
            Self::Busy { .. } => Some("wait for the other process, or stop it, and run again".to_owned()),
            Self::DiskFull { .. } => Some("free some space and run again; nothing was lost".to_owned()),
            Self::Permission { .. } => {
                Some("run as the user that owns the home, or choose another one with --home".to_owned())
            }
            Self::Refused { path, .. } => Some(format!(
                "it was left as it is: look who put {} there, then move it away, or choose another home with --home",
                path.display()
            )),
            Self::Open { .. } | Self::Query { .. } => None,
        }
    }
}
