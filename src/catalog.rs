//! The catalog, `<home>/oci.db`: what is recorded, for microsandbox 0.2 and for us. All SQL lives here.
//!
//! The file belongs to two programs. microsandbox's six tables get the rows that its queries look for; what they
//! cannot hold (digests of manifests, platforms, owners, a layer that occurs twice) is in tables that start with
//! `sync_`. Each change is one transaction, and is on disk when the method returns. The journal mode is left as
//! it is: in WAL mode a mere reader would have to create files.
//!
//! microsandbox stacks an image's layers by `layers.id`. Ids are given out so that this is the OCI order of every
//! image; when a new base goes under a layer that has a row already, that layer (and what images have above it) gets
//! a higher id. What remains: if two images want the same two layers in opposite orders, the one recorded first has
//! it right. A layer that an image lists twice has one row, in the place of its upper occurrence.

mod directories;
mod order;
mod own;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi};

use crate::digest::BlobDigest;
use crate::error::CatalogError;
use crate::image_ref::ImageRef;
use crate::state::{ConfigRecord, Owner, RecordedImage, ResolvedImage};
use crate::sys;

/// How long to wait for other holders of the database. microsandbox and we hold it for milliseconds; a copy on a
/// slow disk may take longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// Images of one transaction at most, so that other writers need not wait long.
pub const GROUP: usize = 100;

/// Prepared statements kept; there are about forty.
const CACHED_STATEMENTS: usize = 64;

/// An open catalog.
#[derive(Debug)]
pub struct Catalog {
    conn: Connection,
    path: PathBuf,
}

/// What [`Catalog::change`] does to one image.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// See [`Catalog::record`].
    Record {
        /// What is recorded.
        image: &'a ResolvedImage,
        /// Under which names, its own first.
        names: &'a [ImageRef],
    },
    /// See [`Catalog::adopt`].
    Adopt {
        /// The names that are recorded.
        names: &'a [ImageRef],
    },
}

/// What [`Catalog::forget`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Names (second names too) that are not recorded any more.
    pub removed: BTreeSet<ImageRef>,
    /// Names asked for that are still recorded: somebody else owns them, another image needs them as its second
    /// name, or microsandbox had them first.
    pub kept: BTreeSet<ImageRef>,
    /// Layers of what was forgotten that no recorded image needs any more, ours or microsandbox's.
    pub unneeded_layers: BTreeSet<BlobDigest>,
}

impl Catalog {
    /// Opens the catalog to write, creating the file (in a directory that exists) and the tables if they are
    /// missing. Waits up to a minute for other holders. A catalog that is up to date is not written.
    ///
    /// # Errors
    /// Anything but an SQLite database, or one whose tables are not those of microsandbox 0.2; a newer
    /// msb-sync's; no permission; a full disk. The file is then as it was.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        const DOING: &str = "open";
        let path = absolute(path)?;
        let target = own::writable(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = connect(&target, flags).map_err(|error| explain_open(&path, true, &error))?;
        let fail = |error| sql_error(DOING, &path, &error);
        // SQLite quietly opens a file it may not write read-only; better to say so now than at the first record.
        if conn.is_readonly("main").map_err(fail)? {
            let reason = "it is write-protected".to_owned();
            let fallback = CatalogError::Permission { doing: "write", path: path.clone(), reason };
            return Err(why_not_opened(&path, true).unwrap_or(fallback));
        }
        // A transaction ends with the removal of its journal. With less than EXTRA the directory is not synced after
        // that: a power loss brings the journal back, and the journal takes back what was told as done.
        conn.execute_batch("PRAGMA synchronous = EXTRA; PRAGMA foreign_keys = ON").map_err(fail)?;
        schema::upgrade(&mut conn, &path)?;
        Ok(Self { conn, path })
    }

    /// Opens the catalog to read; `None` if there is no file. Works while others write, on a read-only file
    /// system, and on a database that only microsandbox has used.
    ///
    /// No file is created or changed, with two exceptions that SQLite leaves no way around: a journal that a
    /// killed writer left is rolled back, and a WAL database (made so by somebody else) that has a log without its
    /// `-shm` gets one.
    ///
    /// # Errors
    /// As for [`Catalog::open`].
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, CatalogError> {
        let path = absolute(path)?;
        let Some(target) = own::readable(&path)? else { return Ok(None) };
        let conn = match connect_read_only(&target) {
            Err(error) if extended_code(&error) == Some(ffi::SQLITE_READONLY_ROLLBACK) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                connect(&target, flags)
            }
            other => other,
        }
        .map_err(|error| explain_open(&path, false, &error))?;
        schema::stand_in(&conn, &path)?;
        conn.execute_batch("PRAGMA query_only = ON").map_err(|error| sql_error("open", &path, &error))?;
        Ok(Some(Self { conn, path }))
    }

    /// Those of `references` that are recorded, by us or by microsandbox.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn recorded(&self, references: &[ImageRef]) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("look up images in", |tx| images(tx, self.home(), references))
    }

    /// The images of `owner`, with their second names.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn owned_by(&self, owner: &Owner) -> Result<Vec<RecordedImage>, CatalogError> {
        self.recorded_or_owned(&[], owner)
    }

    /// Those of `references` that are recorded, and the images of `owner` with their second names: each once,
    /// sorted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn recorded_or_owned(
        &self,
        references: &[ImageRef],
        owner: &Owner,
    ) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("look up images in", |tx| {
            let names = read::texts(tx, read::OWNED_NAMES, &owner.0)?;
            let mut wanted: BTreeSet<ImageRef> =
                names.iter().filter_map(|name| read::parse_name(name)).collect();
            wanted.extend(references.iter().cloned());
            images(tx, self.home(), &wanted)
        })
    }

    /// Every recorded image, sorted by reference; those that only microsandbox recorded too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn all(&self) -> Result<Vec<RecordedImage>, CatalogError> {
        self.read("list the images of", |tx| images(tx, self.home(), &read::all_names(tx)?))
    }

    /// The config of a recorded image. microsandbox keeps neither digest, labels nor stop signal: for an image
    /// that only it recorded, the latter are empty and [`ConfigRecord::digest`] is that of no bytes (its
    /// [`RecordedImage::config_digest`] is `None`).
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn config(&self, reference: &ImageRef) -> Result<Option<ConfigRecord>, CatalogError> {
        self.read("read an image's config from", |tx| read::config(tx, reference))
    }

    /// The layers that any recorded image outside `references` needs, ours or microsandbox's. The second names of
    /// `references` count as inside.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_needed_outside(
        &self,
        references: &BTreeSet<ImageRef>,
    ) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        self.read("look up needed layers in", |tx| read::layers_needed_outside(tx, references))
    }

    /// Those of [`Catalog::layers_needed_outside`] that are needed in `directory`: what an image has elsewhere is not.
    /// What microsandbox recorded by itself is in the directory `default`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_needed_in(
        &self,
        directory: &Path,
        default: &Path,
        outside: &BTreeSet<ImageRef>,
    ) -> Result<BTreeSet<BlobDigest>, CatalogError> {
        self.read("look up needed layers in", |tx| {
            let mut needed = read::layers_needed_outside(tx, outside)?;
            let of = (directory, default);
            directories::retain_needed_in(tx, self.home(), of, outside, &mut needed)?;
            Ok(needed)
        })
    }

    /// Every directory of layers that images of this home have had theirs in.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layers_directories(&self) -> Result<BTreeSet<PathBuf>, CatalogError> {
        self.read("look up the directories of layers in", |tx| directories::all(tx, self.home()))
    }

    /// Where the catalog lies: directories below are stored relative to it.
    fn home(&self) -> &Path {
        home_of(&self.path)
    }

    /// Records `image` under `names` for `owner`, its layers being in the directory `layers`, in one transaction: what was recorded under these names is
    /// replaced. The first name is the image's own, the others are second names (see
    /// [`ImageRef::recorded_names`]), which stay as long as the first does. Owners it has stay.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn record(
        &mut self,
        image: &ResolvedImage,
        names: &[ImageRef],
        owner: &Owner,
        layers: &Path,
    ) -> Result<(), CatalogError> {
        self.change_all(&[Change::Record { image, names }], owner, layers)
    }

    /// Makes `owner` one of the owners of an image that [`Catalog::record`] recorded under `names`, and notes
    /// that its layers are in the directory `layers`. Names that are not recorded are skipped.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn adopt(&mut self, names: &[ImageRef], owner: &Owner, layers: &Path) -> Result<(), CatalogError> {
        self.change_all(&[Change::Adopt { names }], owner, layers)
    }

    /// Does what [`Catalog::record`] and [`Catalog::adopt`] do for many images at the cost of one wait for the disk a
    /// hundred: in one transaction, or, where that fails, each image in its own. The results are in the order of
    /// `changes`.
    pub fn change(
        &mut self,
        changes: &[Change<'_>],
        owner: &Owner,
        layers: &Path,
    ) -> Vec<Result<(), CatalogError>> {
        let mut results = Vec::with_capacity(changes.len());
        for group in changes.chunks(GROUP) {
            match self.change_all(group, owner, layers) {
                Ok(()) => results.extend(group.iter().map(|_| Ok(()))),
                // Who has waited a minute for another program need not wait a minute for each image.
                Err(CatalogError::Busy { path }) => {
                    results.extend(group.iter().map(|_| Err(CatalogError::Busy { path: path.clone() })));
                }
                Err(error) if group.len() == 1 => results.push(Err(error)),
                Err(_) => {
                    let alone = |change| self.change_all(std::slice::from_ref(change), owner, layers);
                    results.extend(group.iter().map(alone));
                }
            }
        }
        results
    }

    fn change_all(
        &mut self,
        changes: &[Change<'_>],
        owner: &Owner,
        layers: &Path,
    ) -> Result<(), CatalogError> {
        let doing = match changes {
            [Change::Adopt { .. }] => "add an owner in",
            _ => "record an image in",
        };
        let home = self.home().to_owned();
        self.write(doing, |tx| {
            directories::note(tx, &home, layers)?;
            let layers = directories::stored(&home, layers);
            changes.iter().try_for_each(|change| match change {
                Change::Record { image, names } => write::record(tx, image, names, owner, layers),
                Change::Adopt { names } => write::adopt(tx, names, owner, layers),
            })
        })
    }

    /// Drops the ownership of `owner` (`None`: of everybody) in `references`, in one transaction. An image that
    /// nobody owns then goes, with its second names and the rows of layers that no other manifest uses; but never
    /// what microsandbox had before us.
    ///
    /// # Errors
    /// The database cannot be written; it is then as it was.
    pub fn forget(
        &mut self,
        references: &[ImageRef],
        owner: Option<&Owner>,
    ) -> Result<Forgotten, CatalogError> {
        self.write("forget images in", |tx| write::forget(tx, references, owner))
    }

    /// Runs queries that see one state of the database.
    fn read<T>(
        &self,
        doing: &'static str,
        queries: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        Transaction::new_unchecked(&self.conn, TransactionBehavior::Deferred)
            .and_then(|tx| queries(&tx))
            .map_err(|error| sql_error(doing, &self.path, &error))
    }

    fn write<T>(
        &mut self,
        doing: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        // Immediate: a transaction that first reads and then wants to write could not wait for another writer.
        let result = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
            let value = change(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        result.map_err(|error| sql_error(doing, &self.path, &error))
    }
}

fn images<'a>(
    conn: &Connection,
    home: &Path,
    references: impl IntoIterator<Item = &'a ImageRef>,
) -> rusqlite::Result<Vec<RecordedImage>> {
    let mut found = Vec::new();
    for reference in references {
        let mut image = read::image(conn, reference)?;
        if let Some(directory) = image.as_mut().and_then(|image| image.layers_directory.as_mut()) {
            *directory = directories::resolved(home, directory);
        }
        found.extend(image);
    }
    Ok(found)
}

/// The home of the catalog at `path`, which is absolute.
fn home_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// An absolute path is never taken for a `file:` URI or for `:memory:`.
fn absolute(path: &Path) -> Result<PathBuf, CatalogError> {
    std::path::absolute(path).map_err(|error| io_error(path, &error))
}

/// Opens `target` (an absolute path, or a URI) and makes SQLite look at the file, which opening alone does not.
fn connect(target: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(target, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Without this the planner may look at bound values, for which a cached statement is compiled anew each time
    // that it is used: more work than all else that a run with nothing to do asks of SQLite.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(conn)
}

fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if is_wal(path) && !has_log(path) {
        // Everything is in the main file. The usual way would create -wal and -shm, or fail where it may not.
        let uri = immutable_uri(path);
        return connect(&uri, flags | OpenFlags::SQLITE_OPEN_URI);
    }
    connect(path, flags)
}

/// Whether the file says that it wants a write-ahead log: byte 19, the read version, is 2.
/// <https://www.sqlite.org/fileformat2.html#the_database_header>
fn is_wal(path: &Path) -> bool {
    let mut header = [0; 20];
    sys::open_regular(path).and_then(|mut file| file.read_exact(&mut header)).is_ok() && header[19] == 2
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

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

fn io_error(path: &Path, error: &io::Error) -> CatalogError {
    let (path, reason) = (path.to_owned(), error.to_string());
    if sys::refusal(error).is_some() {
        return CatalogError::Refused { path, reason };
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            CatalogError::Permission { doing: "open", path, reason }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            CatalogError::DiskFull { doing: "open", path }
        }
        _ => CatalogError::Open { path, reason },
    }
}

/// The error of an open that failed: SQLite only says that it cannot, the system says why.
fn explain_open(path: &Path, write: bool, error: &rusqlite::Error) -> CatalogError {
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
fn why_not_opened(path: &Path, write: bool) -> Option<CatalogError> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Some(CatalogError::Open { path: path.to_owned(), reason: "not a regular file".to_owned() });
    }
    let error = OpenOptions::new().read(true).write(write).open(path).err()?;
    Some(io_error(path, &error))
}

/// SQLite's failure in our words.
fn sql_error(doing: &'static str, path: &Path, error: &rusqlite::Error) -> CatalogError {
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
