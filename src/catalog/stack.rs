//! The order in which microsandbox stacks an image's layers: as the catalog has it, and could have.
//!
//! Layers have one id each, and every image that lists them has a say in it. Mostly the images'
//! rows agree with what is wanted of them. Rows that somebody has renumbered do not, in several
//! images at once where those share layers: then what was recorded of each image counts. An image
//! that cannot have its order beside the others is noted, and gets it when they go.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};

use super::order::Numbering;
use super::rows::{parse_name, texts};
use super::{order, rows};
use crate::state::LayerDescriptor;

/// The images noted at a time as those that have lost their order; more wait for a repair.
const MAX_NOTED: usize = 100;

/// The layers that images have above a layer by their ids, but for the images of two names.
pub(super) const LAYERS_ABOVE: &str = "
    SELECT DISTINCT above.layer_id FROM manifest_layers AS here
      JOIN manifest_layers AS above ON above.manifest_id = here.manifest_id AND above.layer_id > here.layer_id
     WHERE here.layer_id = ?1
       AND here.manifest_id NOT IN (SELECT m.id FROM images AS i JOIN manifests AS m ON m.image_id = i.id
                                     WHERE i.reference IN (?2, ?3))
     LIMIT 10000";

/// The layers that images are to have above a layer: by what we have recorded of them, or else, for
/// images that only microsandbox has recorded, by their ids.
pub(super) const WANTED_ABOVE: &str = "
    SELECT upper.id FROM layers AS here
      JOIN sync_image_layers AS low ON low.digest = here.digest
      JOIN sync_image_layers AS high ON high.reference = low.reference AND high.position > low.position
      JOIN layers AS upper ON upper.digest = high.digest
     WHERE here.id = ?1 AND upper.id <> here.id AND low.reference NOT IN (?2, ?3)
       AND NOT EXISTS (SELECT 1 FROM sync_image_layers AS again
                        WHERE again.digest = low.digest AND again.reference = low.reference
                          AND again.position > low.position)
    UNION
    SELECT above.layer_id FROM manifest_layers AS here
      JOIN manifest_layers AS above ON above.manifest_id = here.manifest_id AND above.layer_id > here.layer_id
      JOIN manifests AS m ON m.id = here.manifest_id
      JOIN images AS i ON i.id = m.image_id
     WHERE here.layer_id = ?1 AND i.reference NOT IN (?2, ?3)
       AND NOT EXISTS (SELECT 1 FROM sync_image_layers AS own WHERE own.reference = i.reference)
     LIMIT 10000";

/// The images that were recorded without their order, since others had the opposite one.
pub(super) const NOTED: &str =
    "SELECT substr(key, 14) FROM sync_meta WHERE key > ?1 AND key < ?1 || char(1114111)";

/// The beginning of their keys in the table of notes, before their names.
const NOTE: &str = "out-of-order ";

/// Layers each once, where they occur for the last time: a layer that covers itself with others
/// between shows what its upper occurrence holds.
pub(super) fn stacked(layers: &[LayerDescriptor]) -> Vec<&LayerDescriptor> {
    let mut seen = BTreeSet::new();
    let mut stack: Vec<&LayerDescriptor> =
        layers.iter().rev().filter(|layer| seen.insert(&layer.digest)).collect();
    stack.reverse();
    stack
}

/// Numbers the layers of the image of these names, which has one or two: `known` are the ids of
/// those that have a row, base first. What the rows of the image itself say does not count.
pub(super) fn number(
    conn: &Connection,
    known: &[Option<i64>],
    names: &BTreeSet<String>,
) -> Result<Numbering> {
    let highest: Option<i64> = conn.query_row("SELECT max(id) FROM layers", [], |row| row.get(0))?;
    let highest = highest.unwrap_or(0).max(0);
    // Room for every id that can be given out below.
    let Some(first_free) = highest.checked_add(1).filter(|id| id.checked_add(1 << 32).is_some()) else {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, highest));
    };
    let (first, last) = (names.first(), names.last());
    let by = |sql: &str| {
        order::number(known, first_free, |id| {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_map(params![id, first, last], |row| row.get(0))?.collect::<Result<Vec<i64>>>()
        })
    };
    let by_ids = by(LAYERS_ABOVE)?;
    if by_ids.is_in_order() {
        return Ok(by_ids);
    }
    let as_wanted = by(WANTED_ABOVE)?;
    Ok(if as_wanted.is_in_order() { as_wanted } else { by_ids })
}

/// Gives existing rows of layers the ids that a numbering has for them.
pub(super) fn renumber(tx: &Transaction<'_>, numbering: &Numbering) -> Result<()> {
    if !numbering.moves.is_empty() {
        // A row and those that point to it change one after the other; the check waits for the
        // commit.
        tx.execute_batch("PRAGMA defer_foreign_keys = ON")?;
    }
    for (old, new) in &numbering.moves {
        tx.prepare_cached("UPDATE layers SET id = ?2 WHERE id = ?1")?.execute([old, new])?;
        tx.prepare_cached("UPDATE manifest_layers SET layer_id = ?2 WHERE layer_id = ?1")?
            .execute([old, new])?;
    }
    Ok(())
}

/// Notes whether the image `name`, that is recorded, has its order.
pub(super) fn note(tx: &Transaction<'_>, name: &str, has_order: bool) -> Result<()> {
    if has_order {
        return forget(tx, name);
    }
    tx.prepare_cached("INSERT INTO sync_meta (key, value) VALUES (?1 || ?2, 1) ON CONFLICT DO NOTHING")?
        .execute([NOTE, name])?;
    Ok(())
}

/// Drops the note of the image `name`, if there is one.
pub(super) fn forget(tx: &Transaction<'_>, name: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_meta WHERE key = ?1 || ?2")?.execute([NOTE, name])?;
    Ok(())
}

/// Puts images into their order that have lost it to others, if those others are gone: their next
/// run has nothing to repair then.
pub(super) fn put_in_order(tx: &Transaction<'_>) -> Result<()> {
    let mut noted = texts(tx, NOTED, NOTE)?;
    noted.truncate(MAX_NOTED);
    loop {
        let before = noted.len();
        let mut left = Vec::new();
        for name in noted {
            if restack(tx, &name)? {
                forget(tx, &name)?;
            } else {
                left.push(name);
            }
        }
        if left.is_empty() || left.len() == before {
            return Ok(());
        }
        // The order of one of the others may have been in their way.
        noted = left;
    }
}

/// Stacks the layers of the recorded image `name` in their order, if that can be done.
fn restack(tx: &Transaction<'_>, name: &str) -> Result<bool> {
    let (Some(reference), Some(layers)) = (parse_name(name), rows::our_layers(tx, name)?) else {
        return Ok(true);
    };
    let mut ids = Vec::new();
    for layer in stacked(&layers) {
        let mut statement = tx.prepare_cached("SELECT id FROM layers WHERE digest = ?1")?;
        let id: Option<i64> = statement.query_row([layer.digest.text()], |row| row.get(0)).optional()?;
        ids.push(id);
    }
    if ids.contains(&None) {
        return Ok(true);
    }
    let names: BTreeSet<String> = reference.recorded_names().iter().map(ToString::to_string).collect();
    let numbering = number(tx, &ids, &names)?;
    let has_order = numbering.is_in_order();
    if has_order {
        renumber(tx, &numbering)?;
    }
    Ok(has_order)
}

/// Tells whether recording the image of these names again would put its layers, base first, into
/// their order. Two images may want opposite ones.
pub(super) fn can_be_put_in_order(
    conn: &Connection,
    ids: &[Option<i64>],
    names: &BTreeSet<String>,
) -> Result<bool> {
    match number(conn, ids, names) {
        Err(rusqlite::Error::IntegralValueOutOfRange(..)) => Ok(false),
        numbering => Ok(numbering?.is_in_order()),
    }
}
