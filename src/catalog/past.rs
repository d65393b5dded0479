//! The past and the near future of references: the digests that they meant, with everything that a
//! way back needs, and the images that are ready to be recorded.
//!
//! An image that is replaced is copied from its rows, in the transaction that replaces them; so the
//! first record of an image costs one small row. A meaning stays as long as a history or a staged
//! image names it.

mod spared;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Result, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::lists::{self, ListOf};
use super::rows::{self, integer, json, parse_name, text, texts};
use super::{holdings, image, waiting};
pub(super) use spared::{Spared, earlier, remembered, spared, spared_blobs, spared_layers, with_past};

use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{
    ConfigRecord, DocumentDescriptor, DocumentRecord, History, HistoryEntry, LayerDescriptor, MediaType,
    Platform, ResolvedImage, StagedImage,
};

/// The entries of one reference's history, at most: the oldest go.
const MOST_ENTRIES: i64 = 100;
/// The time for which the layers of a staged image are spared, in milliseconds.
const STAGED_FOR: i64 = 14 * 24 * 3600 * 1000;

/// The index, the manifest and the config of a meaning, as they are stored. Their digests have
/// columns of their own.
#[derive(Serialize, Deserialize)]
struct Documents {
    index: Option<Document>,
    manifest: Document,
    config: ConfigRecord,
}

#[derive(Serialize, Deserialize)]
struct Document {
    media_type: MediaType,
    annotations: Option<String>,
}

impl Document {
    fn of(record: &DocumentRecord) -> Self {
        Self { media_type: record.media_type.clone(), annotations: record.annotations_json.clone() }
    }

    fn into_record(self, digest: BlobDigest) -> DocumentRecord {
        DocumentRecord { digest, media_type: self.media_type, annotations_json: self.annotations }
    }
}

// ----------------------------------------------------------------------------------------- writing

/// Notes that the image `name` means `image` from now on, before its rows are replaced.
pub(super) fn turn(tx: &Transaction<'_>, name: &str, image: &ResolvedImage, now: Timestamp) -> Result<()> {
    let new = Key { digest: image.digest.to_string(), platform: image.platform.to_string() };
    // A recorded image is staged no more, also where only its documents are new.
    let was_staged = tx
        .prepare_cached("DELETE FROM sync_staged WHERE reference = ?1 AND platform = ?2 AND digest = ?3")?
        .execute([name, &new.platform, &new.digest])?
        > 0;
    let present = key_of(tx, PRESENT, name)?;
    match key_of(tx, RECORDED, name)? {
        // A repair: a catalog that is older than its histories has no word of the present yet.
        Some((old, _)) if old == new && present.as_ref().is_some_and(|(of, _)| *of == new) => {
            return if was_staged { sweep(tx, name) } else { Ok(()) };
        }
        Some((old, modified_at)) if old != new => {
            remember_recorded(tx, name)?;
            if present.is_none() {
                let since = modified_at.as_deref().and_then(since_of).unwrap_or(now);
                put_entry(tx, name, &old, since.min(now))?;
            }
            end_present(tx, name, now)?;
        }
        _ if present.is_some() => end_present(tx, name, now)?,
        _ => {}
    }
    put_entry(tx, name, &new, now)?;
    tx.prepare_cached("DELETE FROM sync_holds WHERE reference = ?1 AND digest <> ?2")?
        .execute([name, &new.digest])?;
    // Whatever waited was new beside the digest before.
    waiting::drop_candidate(tx, name)?;
    sweep(tx, name)
}

/// An image of one reference.
#[derive(PartialEq, Eq)]
struct Key {
    digest: String,
    platform: String,
}

/// The present entry of a history.
const PRESENT: &str = "SELECT digest, platform, NULL FROM sync_history WHERE reference = ?1 AND until IS NULL
  ORDER BY id DESC LIMIT 1";
/// The recorded image, with the time of its record.
const RECORDED: &str = "SELECT digest, platform, modified_at FROM sync_images WHERE reference = ?1";

fn key_of(conn: &Connection, sql: &str, name: &str) -> Result<Option<(Key, Option<String>)>> {
    conn.prepare_cached(sql)?
        .query_row([name], |row| {
            let (digest, platform) = (text(row, 0)?.unwrap_or_default(), text(row, 1)?.unwrap_or_default());
            Ok((Key { digest, platform }, text(row, 2)?))
        })
        .optional()
}

/// Ends the present entry of a history; the oldest of very many go.
fn end_present(tx: &Transaction<'_>, name: &str, now: Timestamp) -> Result<()> {
    tx.prepare_cached("UPDATE sync_history SET until = ?2 WHERE reference = ?1 AND until IS NULL")?
        .execute(params![name, now.as_millisecond()])?;
    tx.prepare_cached(
        "DELETE FROM sync_history WHERE reference = ?1 AND id NOT IN
           (SELECT id FROM sync_history WHERE reference = ?1 ORDER BY id DESC LIMIT ?2)",
    )?
    .execute(params![name, MOST_ENTRIES - 1])?;
    Ok(())
}

/// Reads the time of a record, `YYYY-MM-DD HH:MM:SS` UTC.
fn since_of(modified_at: &str) -> Option<Timestamp> {
    format!("{}Z", modified_at.replacen(' ', "T", 1)).parse().ok()
}

fn put_entry(tx: &Transaction<'_>, name: &str, key: &Key, since: Timestamp) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_history (reference, platform, digest, since) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![name, key.platform, key.digest, since.as_millisecond()])?;
    Ok(())
}

/// Copies the image `name` from its rows. Rows that cannot be read leave no meaning behind: a way
/// back to it then asks the registry.
fn remember_recorded(tx: &Transaction<'_>, name: &str) -> Result<()> {
    let Some(image) = recorded(tx, name)? else { return Ok(()) };
    put(tx, name, &image)
}

/// Reads the image that is recorded as `name` as it was resolved.
pub(super) fn recorded(conn: &Connection, name: &str) -> Result<Option<ResolvedImage>> {
    let Some(reference) = parse_name(name) else { return Ok(None) };
    let Some(row) = image::image(conn, &reference)? else { return Ok(None) };
    let config: Option<ConfigRecord> = conn
        .prepare_cached("SELECT config_json FROM sync_images WHERE reference = ?1")?
        .query_row([name], |row| text(row, 0))
        .optional()?
        .flatten()
        .and_then(|json| serde_json::from_str(&json).ok());
    let documents: Option<(Option<Document>, Option<Document>)> = conn
        .prepare_cached(
            "SELECT x.media_type, x.annotations_json, m.media_type, m.annotations_json FROM images AS i
               JOIN manifests AS m ON m.image_id = i.id LEFT JOIN indexes AS x ON x.id = m.index_id
              WHERE i.reference = ?1 LIMIT 1",
        )?
        .query_row([name], |row| {
            let document = |media_type, annotations| {
                let annotations = text(row, annotations)?;
                Ok::<_, rusqlite::Error>(
                    text(row, media_type)?
                        .map(|text| Document { media_type: MediaType::from(&*text), annotations }),
                )
            };
            Ok((document(0, 1)?, document(2, 3)?))
        })
        .optional()?;
    let documents_of_blobs = holdings::documents(conn, name)?;
    Ok((|| {
        let (index, manifest) = documents?;
        let digest = row.digest?;
        Some(ResolvedImage {
            reference,
            platform: row.platform?,
            index: index.map(|index| index.into_record(digest.clone())),
            manifest: manifest?.into_record(row.manifest_digest?),
            config: ConfigRecord { digest: row.config_digest?, ..config? },
            digest,
            documents: documents_of_blobs.into(),
            layers: row.layers,
        })
    })())
}

/// Stores a meaning of the image `name`, in place of an older word about the same digest.
fn put(tx: &Transaction<'_>, name: &str, image: &ResolvedImage) -> Result<()> {
    let key = [name, &image.platform.to_string(), &image.digest.text()];
    let known: Option<i64> = tx
        .prepare_cached(
            "SELECT id FROM sync_meanings WHERE reference = ?1 AND platform = ?2 AND digest = ?3",
        )?
        .query_row(key, |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        drop_meaning(tx, known)?;
    }
    let documents = Documents {
        index: image.index.as_ref().map(Document::of),
        manifest: Document::of(&image.manifest),
        config: image.config.clone(),
    };
    tx.prepare_cached(
        "INSERT INTO sync_meanings (reference, platform, digest, manifest_digest, config_digest, documents_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        key[0],
        key[1],
        key[2],
        image.manifest.digest.text(),
        image.config.digest.text(),
        json(&documents),
    ])?;
    let meaning = ListOf::Meaning(tx.last_insert_rowid());
    lists::put_layers(tx, meaning, &image.layers)?;
    lists::put_documents(tx, meaning, &image.documents)
}

/// Notes that an image is ready to be recorded.
pub(super) fn stage(tx: &Transaction<'_>, image: &ResolvedImage, now: Timestamp) -> Result<()> {
    let name = image.reference.to_string();
    put(tx, &name, image)?;
    tx.prepare_cached(
        "INSERT INTO sync_staged (reference, platform, digest, since) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (reference, platform) DO UPDATE SET digest = excluded.digest, since = excluded.since",
    )?
    .execute(params![name, image.platform.to_string(), image.digest.text(), now.as_millisecond()])?;
    // Images that were staged long ago go, with their meanings.
    let long_ago = (now.as_millisecond() - STAGED_FOR).to_string();
    let mut names = texts(tx, "SELECT DISTINCT reference FROM sync_staged WHERE since <= ?1", &long_ago)?;
    tx.prepare_cached("DELETE FROM sync_staged WHERE since <= ?1")?.execute([&long_ago])?;
    names.push(name);
    names.iter().try_for_each(|name| sweep(tx, name))
}

/// Forgets everything about the image `name` but what is staged.
pub(super) fn drop_of(tx: &Transaction<'_>, name: &str) -> Result<()> {
    for sql in
        ["DELETE FROM sync_history WHERE reference = ?1", "DELETE FROM sync_holds WHERE reference = ?1"]
    {
        tx.prepare_cached(sql)?.execute([name])?;
    }
    waiting::drop_candidate(tx, name)?;
    sweep(tx, name)
}

/// Drops the meanings of the image `name` that nothing names any more.
fn sweep(tx: &Transaction<'_>, name: &str) -> Result<()> {
    let mut statement = tx.prepare_cached(
        "SELECT id FROM sync_meanings AS m WHERE reference = ?1
            AND NOT EXISTS (SELECT 1 FROM sync_history AS h WHERE h.reference = m.reference
                               AND h.platform = m.platform AND h.digest = m.digest AND h.until IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM sync_staged AS s WHERE s.reference = m.reference
                               AND s.platform = m.platform AND s.digest = m.digest)",
    )?;
    let unneeded = statement.query_map([name], |row| row.get(0))?.collect::<Result<Vec<i64>>>()?;
    unneeded.into_iter().try_for_each(|meaning| drop_meaning(tx, meaning))
}

fn drop_meaning(tx: &Transaction<'_>, meaning: i64) -> Result<()> {
    for sql in [
        "DELETE FROM sync_meaning_layers WHERE meaning = ?1",
        "DELETE FROM sync_meaning_documents WHERE meaning = ?1",
        "DELETE FROM sync_meanings WHERE id = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([meaning])?;
    }
    Ok(())
}

// ----------------------------------------------------------------------------------------- reading

/// Reads what the image `reference` has meant, the present digest first; no entry where it is not
/// recorded by us.
pub(super) fn history(conn: &Connection, reference: &ImageRef) -> Result<History> {
    let name = reference.to_string();
    let mut statement = conn.prepare_cached(
        "SELECT platform, digest, since, until FROM sync_history WHERE reference = ?1 ORDER BY id DESC",
    )?;
    let mut rows = statement.query([&name])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.extend(entry(row)?);
    }
    if entries.is_empty()
        && let Some(row) = image::image(conn, reference)?
        && let (Some(platform), Some(digest)) = (row.platform, row.digest)
        && let Some(from) = since_of(&row.modified_at)
    {
        // An older catalog knows the present alone.
        entries.push(HistoryEntry { platform, digest, from, until: None });
    }
    let held = waiting::hold(conn, &name)?.filter(|(digest, _)| {
        entries.first().is_some_and(|entry| entry.until.is_none() && entry.digest == *digest)
    });
    Ok(History { reference: reference.clone(), held: held.map(|(_, since)| since), entries })
}

fn entry(row: &Row<'_>) -> Result<Option<HistoryEntry>> {
    let (platform, digest) = (text(row, 0)?, text(row, 1)?);
    let (since, until) = (integer(row, 2)?, integer(row, 3)?);
    Ok((|| {
        Some(HistoryEntry {
            platform: Platform::parse(&platform?).ok()?,
            digest: BlobDigest::parse(&digest?).ok()?,
            from: Timestamp::from_millisecond(since?).ok()?,
            until: until.and_then(|until| Timestamp::from_millisecond(until).ok()),
        })
    })())
}

/// Reads a stored meaning; `None` where nobody stored it, or where it is garbled.
pub(super) fn meaning(
    conn: &Connection,
    reference: &ImageRef,
    platform: &Platform,
    digest: &BlobDigest,
) -> Result<Option<ResolvedImage>> {
    let key = [&*reference.to_string(), &platform.to_string(), &digest.text()];
    let found = conn
        .prepare_cached(
            "SELECT id, manifest_digest, config_digest, documents_json FROM sync_meanings
              WHERE reference = ?1 AND platform = ?2 AND digest = ?3",
        )?
        .query_row(key, |row| Ok((row.get::<_, i64>(0)?, [text(row, 1)?, text(row, 2)?, text(row, 3)?])))
        .optional()?;
    let Some((id, [manifest_digest, config_digest, documents])) = found else { return Ok(None) };
    let Some(layers) = layers_of(conn, id)? else { return Ok(None) };
    let documents_of_blobs = documents_of(conn, id)?;
    Ok((|| {
        let documents: Documents = serde_json::from_str(&documents?).ok()?;
        Some(ResolvedImage {
            reference: reference.clone(),
            platform: platform.clone(),
            digest: digest.clone(),
            index: documents.index.map(|index| index.into_record(digest.clone())),
            manifest: documents.manifest.into_record(BlobDigest::parse(&manifest_digest?).ok()?),
            config: ConfigRecord { digest: BlobDigest::parse(&config_digest?).ok()?, ..documents.config },
            documents: documents_of_blobs.into(),
            layers: layers.into(),
        })
    })())
}

fn layers_of(conn: &Connection, meaning: i64) -> Result<Option<Vec<LayerDescriptor>>> {
    let mut statement = conn.prepare_cached(
        "SELECT digest, diff_id, media_type, size_bytes, position FROM sync_meaning_layers
          WHERE meaning = ?1 ORDER BY position",
    )?;
    rows::layers(&mut statement.query([meaning])?)
}

fn documents_of(conn: &Connection, meaning: i64) -> Result<Vec<DocumentDescriptor>> {
    let mut statement = conn.prepare_cached(
        "SELECT role, digest, media_type, size_bytes, position FROM sync_meaning_documents
          WHERE meaning = ?1 ORDER BY position",
    )?;
    holdings::documents_in(&mut statement.query([meaning])?)
}

/// Reads the images that are ready to be recorded, sorted by reference; those of long ago count no
/// more.
pub(super) fn staged(conn: &Connection, now: Timestamp) -> Result<Vec<StagedImage>> {
    let mut statement = conn.prepare_cached(
        "SELECT reference, platform, digest, since FROM sync_staged WHERE since > ?1
          ORDER BY reference, platform",
    )?;
    let mut rows = statement.query([now.as_millisecond() - STAGED_FOR])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, platform, digest) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
        let since = integer(row, 3)?;
        found.extend((|| {
            Some(StagedImage {
                reference: parse_name(&name?)?,
                platform: Platform::parse(&platform?).ok()?,
                digest: BlobDigest::parse(&digest?).ok()?,
                since: Timestamp::from_millisecond(since?).ok()?,
            })
        })());
    }
    Ok(found)
}
