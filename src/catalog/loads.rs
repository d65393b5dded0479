//! The references that were loaded into engines, for which owner, and as what.
//!
//! A row is there from before a load starts until the reference is removed from the engine, whether
//! or not its owner or its image is still recorded: it alone says that the reference is ours to
//! remove.

use rusqlite::{Connection, Result, Row, Transaction, params, params_from_iter};

use super::rows::{self, parse_name, text};
use crate::digest::BlobDigest;
use crate::state::{AskedNames, EngineSettings, LoadedReference, Owner};

macro_rules! loads {
    ($condition:literal) => {
        concat!(
            "SELECT load.owner, load.engine, load.name, load.reference, load.manifest_digest,
                    load.listed_digest, load.files_json, unwanted.name, former.digest
               FROM sync_loads AS load LEFT JOIN sync_loads_unwanted AS unwanted
                 ON unwanted.engine = load.engine AND unwanted.name = load.name
                    AND unwanted.owner = load.owner
               LEFT JOIN sync_former_loads AS former
                 ON former.engine = load.engine AND former.name = load.name AND former.owner = load.owner",
            $condition
        )
    };
}

const ALL: &str = loads!(" ORDER BY load.engine, load.name, load.owner");
pub(super) const OF_OWNER: &str = loads!(" WHERE load.owner = ?1");
pub(super) const OF_OTHERS_BY_NAME: &str = loads!(" WHERE load.name = ?2 AND load.owner <> ?1");
pub(super) const OF_OTHERS_BETWEEN: &str =
    loads!(" WHERE load.name >= ?2 AND load.name < ?3 AND load.owner <> ?1");
pub(super) const SAME_NAME: &str = "SELECT engine, owner FROM sync_loads WHERE name = ?1";

/// Visits all loads. A row that is garbled is nobody's.
pub(super) fn each(conn: &Connection, visit: &mut dyn FnMut(LoadedReference)) -> Result<()> {
    visit_found(conn, ALL, &[], visit)
}

/// Visits the loads of `owner`, and those of others by names that are `asked` about.
pub(super) fn each_of(
    conn: &Connection,
    owner: &Owner,
    asked: &AskedNames,
    visit: &mut dyn FnMut(LoadedReference),
) -> Result<()> {
    visit_found(conn, OF_OWNER, &[&owner.0], visit)?;
    for name in &asked.names {
        visit_found(conn, OF_OTHERS_BY_NAME, &[&owner.0, name], visit)?;
    }
    for [begin, end] in asked.repositories.iter().flat_map(|repository| rows::names_in(repository)) {
        visit_found(conn, OF_OTHERS_BETWEEN, &[&owner.0, &begin, &end], visit)?;
    }
    Ok(())
}

fn visit_found(
    conn: &Connection,
    sql: &str,
    values: &[&str],
    visit: &mut dyn FnMut(LoadedReference),
) -> Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        load(row)?.into_iter().for_each(&mut *visit);
    }
    Ok(())
}

fn load(row: &Row<'_>) -> Result<Option<LoadedReference>> {
    let (owner, engine, name) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
    let (reference, manifest) = (text(row, 3)?, text(row, 4)?);
    let (listed, files, unwanted) = (text(row, 5)?, text(row, 6)?, text(row, 7)?);
    let former = text(row, 8)?;
    let parsed = |digest: String| BlobDigest::parse(&digest).ok();
    Ok((|| {
        Some(LoadedReference {
            owner: Owner(owner?),
            engine: serde_json::from_str(&engine?).ok()?,
            name: name?,
            reference: parse_name(&reference?)?,
            manifest: BlobDigest::parse(&manifest?).ok()?,
            listed: listed.and_then(parsed),
            former: former.and_then(parsed),
            files: files.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
            wanted: unwanted.is_none(),
        })
    })())
}

/// Notes a load. With `is_done`, it is what the engine lists, for all owners who have the name;
/// else it is under way: what the engine listed as ours before is ours still, and its files are as
/// they were noted then. A row of the same owner and engine with other settings goes.
pub(super) fn put(tx: &Transaction<'_>, load: &LoadedReference, is_done: bool) -> Result<()> {
    let (listed, files) = if is_done { (load.listed.as_ref(), &load.files[..]) } else { (None, &[][..]) };
    let listed = listed.map(BlobDigest::text);
    let (engine, files) = (json(&load.engine)?, json(&files)?);
    for (other, owner) in same_name(tx, load)? {
        if owner == load.owner.0 && other != engine {
            drop_row(tx, &other, &load.name, &owner)?;
        } else if owner != load.owner.0 && is_done {
            tx.prepare_cached(
                "UPDATE sync_loads SET manifest_digest = ?4, listed_digest = ?5, files_json = ?6
                  WHERE engine = ?1 AND name = ?2 AND owner = ?3",
            )?
            .execute(params![other, load.name, owner, load.manifest.text(), listed, files])?;
            forget_former(tx, &other, &load.name, &owner)?;
        }
    }
    want(tx, &engine, &load.name, &load.owner.0)?;
    if is_done {
        forget_former(tx, &engine, &load.name, &load.owner.0)?;
    } else {
        tx.prepare_cached(
            "INSERT OR REPLACE INTO sync_former_loads (engine, name, owner, digest)
             SELECT engine, name, owner, listed_digest FROM sync_loads
              WHERE engine = ?1 AND name = ?2 AND owner = ?3 AND listed_digest IS NOT NULL",
        )?
        .execute([&engine, &load.name, &load.owner.0])?;
    }
    tx.prepare_cached(
        "INSERT INTO sync_loads (engine, name, owner, reference, manifest_digest, listed_digest, files_json,
             since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, CURRENT_TIMESTAMP)
         ON CONFLICT (engine, name, owner) DO UPDATE SET reference = excluded.reference,
             manifest_digest = excluded.manifest_digest, listed_digest = excluded.listed_digest,
             files_json = iif(?8, excluded.files_json, files_json), since = excluded.since",
    )?
    .execute(params![
        engine,
        load.name,
        load.owner.0,
        load.reference.to_string(),
        load.manifest.text(),
        listed,
        files,
        is_done,
    ])?;
    Ok(())
}

/// Lists the rows of the name of `load` in its engine: the text of each one's settings, and its
/// owner.
fn same_name(tx: &Transaction<'_>, load: &LoadedReference) -> Result<Vec<(String, String)>> {
    let mut statement = tx.prepare_cached(SAME_NAME)?;
    let mut rows = statement.query([&load.name])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (Some(text), Some(owner)) = (text(row, 0)?, text(row, 1)?) else { continue };
        let engine: Option<EngineSettings> = serde_json::from_str(&text).ok();
        if engine.is_some_and(|engine| engine.is_same(&load.engine)) {
            found.push((text, owner));
        }
    }
    Ok(found)
}

fn forget_former(tx: &Transaction<'_>, engine: &str, name: &str, owner: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_former_loads WHERE engine = ?1 AND name = ?2 AND owner = ?3")?
        .execute([engine, name, owner])?;
    Ok(())
}

/// Forgets a load.
pub(super) fn forget(tx: &Transaction<'_>, load: &LoadedReference) -> Result<()> {
    drop_row(tx, &json(&load.engine)?, &load.name, &load.owner.0)
}

/// Notes that the owner of a load does not want it any more.
pub(super) fn unwant(tx: &Transaction<'_>, load: &LoadedReference) -> Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO sync_loads_unwanted (engine, name, owner) VALUES (?1, ?2, ?3)")?
        .execute(params![json(&load.engine)?, load.name, load.owner.0])?;
    Ok(())
}

fn want(tx: &Transaction<'_>, engine: &str, name: &str, owner: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_loads_unwanted WHERE engine = ?1 AND name = ?2 AND owner = ?3")?
        .execute([engine, name, owner])?;
    Ok(())
}

fn drop_row(tx: &Transaction<'_>, engine: &str, name: &str, owner: &str) -> Result<()> {
    want(tx, engine, name, owner)?;
    forget_former(tx, engine, name, owner)?;
    tx.prepare_cached("DELETE FROM sync_loads WHERE engine = ?1 AND name = ?2 AND owner = ?3")?
        .execute([engine, name, owner])?;
    Ok(())
}

/// Paths that are not UTF-8 have no JSON form.
fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
