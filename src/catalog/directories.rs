//! Directories of layers: where recorded images have theirs, and which ones were ever used.
//!
//! One below the home is stored relative to it, so that it is found where the home is now, however that was moved.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Result, params};

use super::read::{OUR_USERS, THEIR_USERS, texts};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// As it is stored.
pub(super) fn stored<'p>(home: &Path, directory: &'p Path) -> &'p [u8] {
    let below = directory.strip_prefix(home).ok().filter(|below| !below.as_os_str().is_empty());
    below.unwrap_or(directory).as_os_str().as_bytes()
}

/// What a stored directory is now.
pub(super) fn resolved(home: &Path, stored: &Path) -> PathBuf {
    home.join(stored)
}

/// Makes what an earlier version stored relative to the home, and notes the directories in use.
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

/// All that were ever noted.
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

/// Takes from `needed` what no image outside `inside` needs in `directory`, but only elsewhere. What microsandbox
/// recorded by itself, and what nobody is known to use, is in `default`.
pub(super) fn retain_needed_in(
    conn: &Connection,
    home: &Path,
    (directory, default): (&Path, &Path),
    inside: &BTreeSet<ImageRef>,
    needed: &mut BTreeSet<BlobDigest>,
) -> Result<()> {
    let known = all(conn, home)?;
    if known.iter().all(|other| is_same(other, directory)) {
        return Ok(());
    }
    let inside: BTreeSet<String> = inside.iter().map(ToString::to_string).collect();
    let is_default = is_same(directory, default);
    let mut elsewhere = Vec::new();
    for digest in &*needed {
        let mut users: BTreeSet<String> = texts(conn, OUR_USERS, digest.as_str())?.into_iter().collect();
        users.extend(texts(conn, THEIR_USERS, digest.as_str())?);
        users.retain(|user| !inside.contains(user));
        let mut here = users.is_empty() && is_default;
        for user in &users {
            let sql = "SELECT layers_directory FROM sync_images WHERE reference = ?1";
            let mut statement = conn.prepare_cached(sql)?;
            let of_user: Option<Option<PathBuf>> = statement
                .query_row([user], |row| {
                    let stored =
                        row.get_ref(0)?.as_blob().ok().map(|path| Path::new(OsStr::from_bytes(path)));
                    Ok(stored.map(|path| resolved(home, path)))
                })
                .optional()?;
            here |= match of_user.flatten() {
                Some(of_user) => is_same(&of_user, directory),
                None => is_default,
            };
        }
        if !here {
            elsewhere.push(digest.clone());
        }
    }
    for digest in elsewhere {
        needed.remove(&digest);
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    one == other || identity(one).is_some_and(|one| Some(one) == identity(other))
}
