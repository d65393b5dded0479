//! The order in which microsandbox lists an image's layers: as the catalog has it, and could have.
//!
//! Layers have one id each, and every image that lists them has a say in it. Mostly the images'
//! rows agree with what is wanted of them. Rows that somebody has renumbered do not, in several
//! images at once where those share layers: then what was recorded of each image counts.
//!
//! An image that cannot have its order beside the others is noted in `sync_out_of_order`, under all
//! of its names: without the order it is as it should be, as long as the note holds. When we take
//! away what stood in its way it gets its order at once, and loses its note. Any other one out of
//! order is to be recorded again, which mends it or notes it. So a read has to try for noted images
//! alone, and mostly finds at once that another image of ours wants two layers the other way round.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};

use super::order;
use super::order::Numbering;
use super::rows::{THEIR_LAYERS, our_layers, parse_name, texts};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::LayerDescriptor;

/// The noted images that one change tries to put in order. Each may have to look at very many
/// layers; those that are left keep their notes.
const MAX_TRIED: usize = 100;

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

/// The noted images that list a layer. CROSS JOIN is SQLite's word for "in this order".
pub(super) const NOTED_WITH: &str = "
    SELECT noted.reference FROM sync_image_layers AS own
      CROSS JOIN sync_out_of_order AS noted ON noted.reference = own.reference
     WHERE own.digest = ?1";

/// One row if an image, but for those of two names, wants the layer `?2` below the layer `?1`. The
/// layer `?5` is that of the two which fewer images have: one may be in all of them.
pub(super) const OPPOSED: &str = "
    SELECT 1 FROM sync_image_layers AS own
     WHERE own.digest = ?5 AND own.reference NOT IN (?3, ?4)
       AND (SELECT max(position) FROM sync_image_layers WHERE digest = ?2 AND reference = own.reference)
         < (SELECT max(position) FROM sync_image_layers WHERE digest = ?1 AND reference = own.reference)";

/// Layers each once, where they occur for the last time: a layer that covers itself with others
/// between shows what its upper occurrence holds.
pub(super) fn stacked(layers: &[LayerDescriptor]) -> Vec<&LayerDescriptor> {
    let mut seen = BTreeSet::new();
    let mut stack: Vec<&LayerDescriptor> =
        layers.iter().rev().filter(|layer| seen.insert(&layer.digest)).collect();
    stack.reverse();
    stack
}

/// Reads the ids of those of `stack` that have a row.
pub(super) fn ids_of(conn: &Connection, stack: &[&LayerDescriptor]) -> Result<Vec<Option<i64>>> {
    let mut statement = conn.prepare_cached("SELECT id FROM layers WHERE digest = ?1")?;
    let mut id = |layer: &&LayerDescriptor| {
        statement.query_row([layer.digest.text()], |row| row.get::<_, i64>(0)).optional()
    };
    stack.iter().map(&mut id).collect()
}

/// Numbers `stack`, the layers of the image of these names, which has one or two: `known` are the
/// ids of those that have a row. What the rows of the image itself say does not count. `None` where
/// the ids in use leave no room.
pub(super) fn number(
    conn: &Connection,
    stack: &[&LayerDescriptor],
    known: &[Option<i64>],
    names: &BTreeSet<String>,
) -> Result<Option<Numbering>> {
    let highest: Option<i64> = conn.query_row("SELECT max(id) FROM layers", [], |row| row.get(0))?;
    let first_free = highest.unwrap_or(0).max(0).checked_add(1);
    // Room for every id that can be given out below.
    let Some(first_free) = first_free.filter(|id| id.checked_add(1 << 32).is_some()) else {
        return Ok(None);
    };
    let (first, last) = (names.first(), names.last());
    let by = |sql: &str| {
        order::number(known, first_free, |id| {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_map(params![id, first, last], |row| row.get(0))?.collect::<Result<Vec<i64>>>()
        })
    };
    let by_ids = by(LAYERS_ABOVE)?;
    if by_ids.is_in_order() || Opposed::default().any(conn, stack, names)? {
        return Ok(Some(by_ids));
    }
    let as_wanted = by(WANTED_ABOVE)?;
    Ok(Some(if as_wanted.is_in_order() { as_wanted } else { by_ids }))
}

/// Finds out which of two layers fewer images have, where one has not very many.
fn rarer<'l>(conn: &Connection, one: &'l BlobDigest, other: &'l BlobDigest) -> Result<&'l BlobDigest> {
    const USERS: &str = "SELECT count(*) FROM (SELECT 1 FROM sync_image_layers WHERE digest = ?1 LIMIT 1000)";
    let mut statement = conn.prepare_cached(USERS)?;
    let mut users = |layer: &BlobDigest| statement.query_row([layer.text()], |row| row.get::<_, i64>(0));
    Ok(if users(one)? <= users(other)? { one } else { other })
}

/// The answers of one transaction to whether some image wants two layers, the first of which is to
/// be the lower one, the other way round.
#[derive(Default)]
struct Opposed(BTreeMap<(BlobDigest, BlobDigest), bool>);

impl Opposed {
    /// Tells whether another image wants two layers of `stack`, that of the image of these names,
    /// as their ids have them and `stack` does not. Then there is no order for both images.
    fn any(
        &mut self,
        conn: &Connection,
        stack: &[&LayerDescriptor],
        names: &BTreeSet<String>,
    ) -> Result<bool> {
        let ids = ids_of(conn, stack)?;
        let placed: Vec<(&BlobDigest, i64)> =
            stack.iter().zip(ids).filter_map(|(layer, id)| Some((&layer.digest, id?))).collect();
        for (place, (upper, upper_id)) in placed.iter().enumerate() {
            for (lower, _) in placed.iter().take(place).filter(|(_, lower_id)| lower_id > upper_id) {
                let pair = ((*lower).clone(), (*upper).clone());
                let is_opposed = if let Some(known) = self.0.get(&pair) {
                    *known
                } else {
                    let rarer = rarer(conn, lower, upper)?;
                    let values =
                        params![lower.text(), upper.text(), names.first(), names.last(), rarer.text()];
                    let found = conn.prepare_cached(OPPOSED)?.exists(values)?;
                    *self.0.entry(pair).or_insert(found)
                };
                if is_opposed {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
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

/// Notes whether the image that is recorded under `names` has its order.
pub(super) fn note(tx: &Transaction<'_>, names: &BTreeSet<String>, has_order: bool) -> Result<()> {
    for name in names {
        if has_order {
            forget(tx, name)?;
        } else {
            tx.prepare_cached(
                "INSERT INTO sync_out_of_order (reference) VALUES (?1) ON CONFLICT DO NOTHING",
            )?
            .execute([name])?;
        }
    }
    Ok(())
}

/// Drops the note of the image `name`, if there is one.
pub(super) fn forget(tx: &Transaction<'_>, name: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM sync_out_of_order WHERE reference = ?1")?.execute([name])?;
    Ok(())
}

/// Tells whether the image `name` of `layers` is noted as one that cannot have its order, and still
/// cannot have it: somebody else may have taken away what stood in its way.
pub(super) fn cannot_have_order(conn: &Connection, name: &str, layers: &[LayerDescriptor]) -> Result<bool> {
    let noted =
        conn.prepare_cached("SELECT 1 FROM sync_out_of_order WHERE reference = ?1")?.exists([name])?;
    let names = if noted { names_of(conn, name, layers)? } else { None };
    let Some(names) = names else { return Ok(false) };
    let stack = stacked(layers);
    if Opposed::default().any(conn, &stack, &names)? {
        return Ok(true);
    }
    let ids = ids_of(conn, &stack)?;
    Ok(number(conn, &stack, &ids, &names)?.is_none_or(|numbering| !numbering.is_in_order()))
}

/// Lists the names of the image `name` of `layers`: a second name that has layers of its own is
/// another image's.
fn names_of(conn: &Connection, name: &str, layers: &[LayerDescriptor]) -> Result<Option<BTreeSet<String>>> {
    let Some(reference) = parse_name(name) else { return Ok(None) };
    let mut names = BTreeSet::from([name.to_owned()]);
    for second in &reference.recorded_names()[1..] {
        let second = second.to_string();
        if our_layers(conn, &second)?.is_some_and(|its| its == *layers) {
            names.insert(second);
        }
    }
    Ok(Some(names))
}

/// Lists, for [`put_in_order`], the layers of the images `names` that are about to be forgotten, or
/// to be recorded with the layers `new`; none where that is in nobody's way.
pub(super) fn about_to_change<'a>(
    tx: &Transaction<'_>,
    names: impl IntoIterator<Item = &'a ImageRef>,
    new: Option<&[LayerDescriptor]>,
) -> Result<BTreeSet<String>> {
    let mut changing = BTreeSet::new();
    if !tx.prepare_cached("SELECT 1 FROM sync_out_of_order LIMIT 1")?.exists([])? {
        return Ok(changing);
    }
    for name in names {
        let name = name.to_string();
        let ours = our_layers(tx, &name)?.unwrap_or_default();
        if new.is_none_or(|new| *new != ours) {
            changing.extend(ours.iter().map(|layer| layer.digest.text().to_string()));
            changing.extend(texts(tx, THEIR_LAYERS, &name)?);
        }
    }
    Ok(changing)
}

/// Puts noted images into their order if what stood in their way was one of the images of which
/// `changed` were the layers: their next run has nothing to repair then.
pub(super) fn put_in_order(tx: &Transaction<'_>, changed: &BTreeSet<String>) -> Result<()> {
    let mut names = BTreeSet::new();
    for digest in changed {
        names.extend(texts(tx, NOTED_WITH, digest)?);
    }
    let (mut opposed, mut left) = (Opposed::default(), Vec::new());
    for name in names {
        let Some(image) = Noted::of(tx, name)? else { continue };
        if left.len() < MAX_TRIED && !opposed.any(tx, &stacked(&image.layers), &image.names)? {
            left.push(image);
        }
    }
    loop {
        let before = left.len();
        let mut again = Vec::new();
        for image in left {
            if !image.restack(tx)? {
                again.push(image);
            }
        }
        if again.is_empty() || again.len() == before {
            return Ok(());
        }
        // The order of one of the others may have been in their way.
        left = again;
    }
}

/// An image that is noted as one that cannot have its order.
struct Noted {
    name: String,
    layers: Vec<LayerDescriptor>,
    /// All names of the image.
    names: BTreeSet<String>,
}

impl Noted {
    fn of(tx: &Transaction<'_>, name: String) -> Result<Option<Self>> {
        let Some(layers) = our_layers(tx, &name)? else { return Ok(None) };
        Ok(names_of(tx, &name, &layers)?.map(|names| Self { name, layers, names }))
    }

    /// Stacks the layers in their order and drops the note, if that can be done.
    fn restack(&self, tx: &Transaction<'_>) -> Result<bool> {
        let stack = stacked(&self.layers);
        let ids = ids_of(tx, &stack)?;
        // An image without all of its rows is recorded again.
        if ids.contains(&None) {
            return Ok(false);
        }
        let Some(numbering) = number(tx, &stack, &ids, &self.names)?.filter(Numbering::is_in_order) else {
            return Ok(false);
        };
        renumber(tx, &numbering)?;
        forget(tx, &self.name)?;
        Ok(true)
    }
}
