//! References that wait: tags of which a new digest is not taken yet, and images that are held at
//! an earlier digest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};

use super::rows::{integer, parse_name, text};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::TagCandidate;

/// Reads the digest that the image `name` is held at, and since when.
pub(super) fn hold(conn: &Connection, name: &str) -> Result<Option<(BlobDigest, Timestamp)>> {
    let row = conn
        .prepare_cached(HOLD)?
        .query_row([name], |row| Ok((text(row, 0)?, integer(row, 1)?)))
        .optional()?;
    Ok(row.and_then(|(digest, since)| {
        BlobDigest::parse(&digest?).ok().zip(Timestamp::from_millisecond(since?).ok())
    }))
}

pub(super) const HOLD: &str = "SELECT digest, since FROM sync_holds WHERE reference = ?1";

/// Holds the image `name` at `digest`.
pub(super) fn put_hold(
    tx: &Transaction<'_>,
    name: &str,
    digest: &BlobDigest,
    since: Timestamp,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_holds (reference, digest, since) VALUES (?1, ?2, ?3)
         ON CONFLICT (reference) DO UPDATE SET digest = excluded.digest, since = excluded.since",
    )?
    .execute(params![name, digest.text(), since.as_millisecond()])?;
    Ok(())
}

/// Holds the image `name` no more; tells whether it was held.
pub(super) fn drop_hold(tx: &Transaction<'_>, name: &str) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM sync_holds WHERE reference = ?1")?.execute([name])? > 0)
}

/// Reads the digests that are not taken yet, by tag.
pub(super) fn candidates(conn: &Connection) -> Result<BTreeMap<ImageRef, TagCandidate>> {
    let mut statement = conn.prepare_cached(
        "SELECT reference, digest, since, ahead FROM sync_candidates LEFT JOIN sync_candidates_ahead
          USING (reference)",
    )?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (name, digest) = (text(row, 0)?, text(row, 1)?);
        let (since, ahead) = (integer(row, 2)?, integer(row, 3)?);
        found.extend((|| {
            let digest = BlobDigest::parse(&digest?).ok()?;
            let since = Timestamp::from_millisecond(since?).ok()?;
            let ahead = ahead.and_then(|ahead| Timestamp::from_millisecond(ahead).ok());
            Some((parse_name(&name?)?, TagCandidate { digest, since, ahead }))
        })());
    }
    Ok(found)
}

/// Notes a digest that is not taken yet, in place of another one of the same tag.
pub(super) fn put_candidate(
    tx: &Transaction<'_>,
    reference: &ImageRef,
    candidate: &TagCandidate,
) -> Result<()> {
    let name = reference.to_string();
    drop_candidate(tx, &name)?;
    tx.prepare_cached("INSERT INTO sync_candidates (reference, digest, since) VALUES (?1, ?2, ?3)")?
        .execute(params![name, candidate.digest.text(), candidate.since.as_millisecond()])?;
    if let Some(ahead) = candidate.ahead {
        tx.prepare_cached("INSERT INTO sync_candidates_ahead (reference, ahead) VALUES (?1, ?2)")?
            .execute(params![name, ahead.as_millisecond()])?;
    }
    Ok(())
}

/// Forgets the digest of the tag `name` that was not taken.
pub(super) fn drop_candidate(tx: &Transaction<'_>, name: &str) -> Result<()> {
    for sql in [
        "DELETE FROM sync_candidates WHERE reference = ?1",
        "DELETE FROM sync_candidates_ahead WHERE reference = ?1",
    ] {
        tx.prepare_cached(sql)?.execute([name])?;
    }
    Ok(())
}
