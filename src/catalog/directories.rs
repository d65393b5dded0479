//! Directories of layers: where recorded images have theirs, and which ones were ever used.
//!
//! One below the home is stored relative to it, so that it is found where the home is now, however
//! that was moved.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Result, params};

/// Returns the form in which a directory is stored.
pub(super) fn stored<'p>(home: &Path, directory: &'p Path) -> &'p [u8] {
    let below = directory.strip_prefix(home).ok().filter(|below| !below.as_os_str().is_empty());
    below.unwrap_or(directory).as_os_str().as_bytes()
}

/// Returns where a stored directory is now.
pub(super) fn resolved(home: &Path, stored: &Path) -> PathBuf {
    home.join(stored)
}

/// Makes directories that an earlier version stored relative to the home, and notes the directories
/// in use.
pub(super) fn take_over(conn: &Connection, home: &Path) -> Result<()> {
    let mut statement = conn.prepare(
        "SELECT DISTINCT layers_directory FROM sync_images WHERE typeof(layers_directory) = 'blob'",
    )?;
    let old: Vec<Vec<u8>> = statement.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
    for old in old {
        let path = Path::new(OsStr::from_bytes(&old));
        let new = stored(home, path);
        if new != old {
            let sql = "UPDATE sync_images SET layers_directory = ?2 WHERE layers_directory = ?1";
            conn.execute(sql, params![old, new])?;
        }
        note(conn, home, path)?;
    }
    Ok(())
}

/// Notes that layers are, or were, in `directory`.
pub(super) fn note(conn: &Connection, home: &Path, directory: &Path) -> Result<()> {
    let sql = "INSERT INTO sync_directories (path) VALUES (?1) ON CONFLICT DO NOTHING";
    conn.prepare_cached(sql)?.execute([stored(home, directory)])?;
    Ok(())
}

/// Returns all directories that were ever noted.
pub(super) fn all(conn: &Connection, home: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut statement = conn.prepare_cached("SELECT path FROM sync_directories")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        if let Ok(path) = row.get_ref(0)?.as_blob() {
            found.insert(resolved(home, Path::new(OsStr::from_bytes(path))));
        }
    }
    Ok(found)
}
