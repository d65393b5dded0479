//! Opening the database, and SQLite's failures in our words.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::header::OpenCatalog;
use crate::error::CatalogError;
use crate::sys;

/// Other holders of the database are waited for this long. microsandbox and we hold it for
/// milliseconds; a copy on a slow disk may take longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Prepared statements kept; there are about sixty.
const CACHED_STATEMENTS: usize = 96;

/// The home of the catalog at `path`, which is absolute.
pub(super) fn home_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// An absolute path is never taken for a `file:` URI or for `:memory:`.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CatalogError> {
    std::path::absolute(path).map_err(|error| open_error(path, &error))
}

/// Opens `target` (an absolute path, or a URI) and makes SQLite look at the file, which opening
/// alone does not.
pub(super) fn connect(target: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(target, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Without this the planner may look at bound values, for which a cached statement is compiled
    // anew each time that it is used: more work than all else that a run with nothing to do asks of
    // SQLite.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(conn)
}

/// Opens the database at `path` to read, as part of `catalog`.
pub(super) fn connect_read_only(path: &Path, catalog: &OpenCatalog) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if catalog.is_wal(path) && !has_log(path) {
        // Everything is in the main file. The usual way would create -wal and -shm, or fail where
        // it may not.
        let uri = immutable_uri(path);
        return connect(&uri, flags | OpenFlags::SQLITE_OPEN_URI);
    }
    connect(path, flags)
}

fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0)
}

/// `file:///…?immutable=1`, with every byte that could mean something in a URI percent-encoded.
fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = b"file://".to_vec();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            uri.push(*byte);
        } else {
            uri.extend(format!("%{byte:02X}").into_bytes());
        }
    }
    uri.extend(b"?immutable=1");
    PathBuf::from(std::ffi::OsString::from_vec(uri))
}

pub(super) fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// The system's refusal to open something, in our words.
pub(super) fn open_error(path: &Path, error: &io::Error) -> CatalogError {
    io_error("open", path, error, |path, reason| CatalogError::Open { path, reason })
}

/// The error of a home whose new directories cannot be written to the disk.
pub(super) fn unsettled(doing: &'static str, path: &Path, error: &io::Error) -> CatalogError {
    io_error(doing, path, error, |path, reason| {
        let reason = format!("the directories made for it cannot be written to the disk: {reason}");
        CatalogError::Query { doing, path, reason }
    })
}

/// The system's failure in our words, or in those of `other` where there are none for its kind;
/// `doing` is the deed that failed.
fn io_error(
    doing: &'static str,
    path: &Path,
    error: &io::Error,
    other: impl FnOnce(PathBuf, String) -> CatalogError,
) -> CatalogError {
    let (path, reason) = (path.to_owned(), error.to_string());
    if sys::refusal(error).is_some() {
        return CatalogError::Refused { path, reason };
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            CatalogError::Permission { doing, path, reason }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CatalogError::DiskFull { doing, path },
        _ => other(path, reason),
    }
}

/// The error of an open that failed: SQLite only says that it cannot, the system says why.
pub(super) fn explain_open(path: &Path, write: bool, error: &rusqlite::Error) -> CatalogError {
    let vague = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::SystemIoFailure
        )
    );
    let cause = if vague { why_not_opened(path, write) } else { None };
    cause.unwrap_or_else(|| sql_error("open", path, error))
}

/// The system's reason not to open a file, if it has one.
pub(super) fn why_not_opened(path: &Path, write: bool) -> Option<CatalogError> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Some(CatalogError::Open { path: path.to_owned(), reason: "not a regular file".to_owned() });
    }
    Some(open_error(path, &sys::may_open(path, write).err()?))
}

/// SQLite's failure in our words.
pub(super) fn sql_error(doing: &'static str, path: &Path, error: &rusqlite::Error) -> CatalogError {
    let path = path.to_owned();
    let mut reason = match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    };
    if let (Some(ErrorCode::SystemIoFailure), Some(limit)) =
        (error.sqlite_error_code(), sys::file_size_limit())
    {
        // SQLite does not tell this failure from others.
        reason = format!("{reason} (this process may write files of {limit} bytes and no larger: ulimit -f)");
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => CatalogError::Busy { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => CatalogError::Corrupt { path, reason },
        Some(ErrorCode::DiskFull) => CatalogError::DiskFull { doing, path },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            CatalogError::Permission { doing, path, reason }
        }
        Some(ErrorCode::CannotOpen) => CatalogError::Open { path, reason },
        _ => CatalogError::Query { doing, path, reason },
    }
}
