//! The references that were loaded into engines, for which owner, and as what.
//!
//! A row is there from before a load starts until the reference is removed from the engine, whether
//! or not its owner or its image is still recorded: it alone says that the reference is ours to
//! remove.

use rusqlite::{Connection, Result, Row, Transaction, params};

use super::rows::{parse_name, text};
use crate::digest::BlobDigest;
use crate::state::{LoadedReference, Owner};

/// Reads all loads. A row that is garbled is nobody's.
pub(super) fn all(conn: &Connection) -> Result<Vec<LoadedReference>> {
    let mut statement = conn.prepare_cached(
        "SELECT owner, engine, name, reference, manifest_digest, listed_digest, files_json FROM sync_loads
          ORDER BY engine, name, owner",
    )?;
    let mut rows = statement.query([])?;
    let mut loads = Vec::new();
    while let Some(row) = rows.next()? {
        loads.extend(load(row)?);
    }
    Ok(loads)
}

fn load(row: &Row<'_>) -> Result<Option<LoadedReference>> {
    let (owner, engine, name) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
    let (reference, manifest) = (text(row, 3)?, text(row, 4)?);
    let (listed, files) = (text(row, 5)?, text(row, 6)?);
    Ok((|| {
        Some(LoadedReference {
            owner: Owner(owner?),
            engine: serde_json::from_str(&engine?).ok()?,
            name: name?,
            reference: parse_name(&reference?)?,
            manifest: BlobDigest::parse(&manifest?).ok()?,
            listed: listed.and_then(|digest| BlobDigest::parse(&digest).ok()),
            files: files.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
        })
    })())
}

/// Notes a load. With `is_done`, it is what the engine lists; else it is under way.
pub(super) fn put(tx: &Transaction<'_>, load: &LoadedReference, is_done: bool) -> Result<()> {
    let (listed, files) = if is_done { (load.listed.as_ref(), &load.files[..]) } else { (None, &[][..]) };
    tx.prepare_cached(
        "INSERT INTO sync_loads (engine, name, owner, reference, manifest_digest, listed_digest, files_json,
             since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, CURRENT_TIMESTAMP)
         ON CONFLICT (engine, name, owner) DO UPDATE SET reference = excluded.reference,
             manifest_digest = excluded.manifest_digest, listed_digest = excluded.listed_digest,
             files_json = excluded.files_json, since = excluded.since",
    )?
    .execute(params![
        json(&load.engine)?,
        load.name,
        load.owner.0,
        load.reference.to_string(),
        load.manifest.as_str(),
        listed.map(BlobDigest::as_str),
        json(&files)?,
    ])?;
    Ok(())
}

/// Forgets a load.
pub(super) fn forget(tx: &Transaction<'_>, load: &LoadedReference) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_loads WHERE engine = ?1 AND name = ?2 AND owner = ?3")?
        .execute(params![json(&load.engine)?, load.name, load.owner.0])?;
    Ok(())
}

/// Paths that are not UTF-8 have no JSON form.
fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
