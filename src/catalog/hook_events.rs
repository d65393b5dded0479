//! Rows of changes that hooks are still to be told of.
//!
//! A row is written in the transaction that records the change, and goes when the hook has ended.
//! Nobody is told twice: a change that leads to what the last row of the image says already (a load
//! that had failed, and is done by a later run) is that row's.

use std::collections::BTreeSet;

use rusqlite::{Connection, Result, Row, Transaction, params};

use super::rows::{integer, is_true, parse_name, text};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::progress::Action;
use crate::state::{HookEvent, Owner, PendingHookEvent};

const ACTIONS: [Action; 4] = [Action::Add, Action::Update, Action::Repair, Action::Remove];

/// A row that was read.
pub(super) struct EventRow {
    pub(super) id: i64,
    /// The run that tells it, or did when it died.
    pub(super) claim: Option<i64>,
    /// `None` where the row is garbled.
    pub(super) pending: Option<PendingHookEvent>,
}

/// Reads the rows of `owner`, oldest first.
pub(super) fn of_owner(conn: &Connection, owner: &Owner) -> Result<Vec<EventRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, claim, hook, program, reference, time, platform, action, digest, previous, is_done
           FROM sync_hook_events WHERE owner = ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([&owner.0])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(id) = integer(row, 0)? else { continue };
        found.push(EventRow { id, claim: integer(row, 1)?, pending: pending(row)? });
    }
    Ok(found)
}

fn pending(row: &Row<'_>) -> Result<Option<PendingHookEvent>> {
    let (hook, program, reference) = (text(row, 2)?, text(row, 3)?, text(row, 4)?);
    let (time, platform, action) = (text(row, 5)?, text(row, 6)?, text(row, 7)?);
    let (digest, previous, is_done) = (text(row, 8)?, text(row, 9)?, is_true(row, 10)?);
    let parsed = |digest: String| BlobDigest::parse(&digest).ok();
    Ok((|| {
        let action = action?;
        let event = HookEvent {
            time: time?,
            reference: parse_name(&reference?)?,
            platform,
            action: ACTIONS.into_iter().find(|known| known.as_str() == action)?,
            digest: digest.and_then(parsed),
            previous: previous.and_then(parsed),
        };
        Some(PendingHookEvent { hook: hook?, program: program?, event, is_done })
    })())
}

/// Adds changes of `owner`'s images.
pub(super) fn put(tx: &Transaction<'_>, owner: &Owner, events: &[PendingHookEvent]) -> Result<()> {
    for PendingHookEvent { hook, program, event, is_done } in events {
        let reference = event.reference.to_string();
        let digest = event.digest.as_ref().map(BlobDigest::text);
        tx.prepare_cached(
            "INSERT INTO sync_hook_events (owner, hook, program, reference, time, platform, action, digest,
                 previous, is_done)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
              WHERE NOT coalesce((SELECT digest IS ?8 FROM sync_hook_events
                     WHERE owner = ?1 AND hook = ?2 AND reference = ?4 AND claim IS NULL
                     ORDER BY id DESC LIMIT 1), 0)",
        )?
        .execute(params![
            owner.0,
            hook,
            program,
            reference,
            event.time,
            event.platform,
            event.action.as_str(),
            digest,
            event.previous.as_ref().map(BlobDigest::text),
            is_done,
        ])?;
    }
    Ok(())
}

/// Drops the changes of images that go before they were done: no run will find them done.
pub(super) fn drop_unfinished(
    tx: &Transaction<'_>,
    references: &[ImageRef],
    owner: Option<&Owner>,
) -> Result<()> {
    let owner = owner.map(|owner| owner.0.as_str());
    for reference in references {
        tx.prepare_cached(
            "DELETE FROM sync_hook_events
              WHERE reference = ?1 AND (?2 IS NULL OR owner = ?2) AND is_done = 0 AND claim IS NULL",
        )?
        .execute(params![reference.to_string(), owner])?;
    }
    Ok(())
}

/// Drops the changes of all images of `owner`.
pub(super) fn drop_of(tx: &Transaction<'_>, owner: &Owner) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_hook_events WHERE owner = ?1")?.execute([&owner.0])?;
    Ok(())
}

/// Makes rows those of a claim, or nobody's.
pub(super) fn claim(tx: &Transaction<'_>, rows: &BTreeSet<i64>, claim: Option<i64>) -> Result<()> {
    let mut statement = tx.prepare_cached("UPDATE sync_hook_events SET claim = ?2 WHERE id = ?1")?;
    rows.iter().try_for_each(|id| statement.execute(params![id, claim]).map(drop))
}

/// Drops rows.
pub(super) fn drop_rows(tx: &Transaction<'_>, rows: &BTreeSet<i64>) -> Result<()> {
    let mut statement = tx.prepare_cached("DELETE FROM sync_hook_events WHERE id = ?1")?;
    rows.iter().try_for_each(|id| statement.execute([id]).map(drop))
}
