//! From values to rows: an image whole in one transaction, so that microsandbox sees the old image
//! or the new one, never something between.
//!
//! Each name of an image has its own rows in microsandbox's tables; the layers are shared by all.
//! Layer rows that no manifest uses any more go in the same transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Result, Transaction, params};

use super::lists::{self, ListOf};
use super::rows::{self, NameRow, is_rfc3339, json, size, texts, well_formed};
use super::{holdings, image, past, stack, waiting};
use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::ImageRef;
use crate::state::{ConfigRecord, LayerDescriptor, Owner, RecordedImage, ResolvedImage};

/// A kept row's `created_at`, put right if microsandbox could not read it.
macro_rules! heal_created_at {
    () => {
        concat!(
            "created_at = CASE WHEN ",
            well_formed!("created_at"),
            " THEN created_at ELSE CURRENT_TIMESTAMP END, modified_at = CURRENT_TIMESTAMP"
        )
    };
}

pub(super) const DROP_UNUSED_LAYER: &str = "
    DELETE FROM layers WHERE digest = ?1
       AND NOT EXISTS (SELECT 1 FROM manifest_layers WHERE layer_id = layers.id)";

/// Calls a layer as an image of ours does, if none calls it as its row does.
pub(super) const SETTLE_MEDIA_TYPE: &str = "
    UPDATE layers SET media_type = (SELECT media_type FROM sync_image_layers WHERE digest = ?1 LIMIT 1)
     WHERE digest = ?1 AND EXISTS (SELECT 1 FROM sync_image_layers WHERE digest = ?1)
       AND NOT EXISTS (SELECT 1 FROM sync_image_layers AS own
                        WHERE own.digest = ?1 AND own.media_type = layers.media_type)";

/// The rows of an image that hang on its id, children first: not every database cascades.
pub(super) const DROP_DOCUMENTS: [&str; 4] = [
    "DELETE FROM configs WHERE manifest_id IN (SELECT id FROM manifests WHERE image_id = ?1)",
    "DELETE FROM manifest_layers WHERE manifest_id IN (SELECT id FROM manifests WHERE image_id = ?1)",
    "DELETE FROM manifests WHERE image_id = ?1",
    "DELETE FROM indexes WHERE image_id = ?1",
];

fn image_id(tx: &Transaction<'_>, name: &str) -> Result<Option<i64>> {
    tx.prepare_cached("SELECT id FROM images WHERE reference = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Digests of all layers that an image's rows mention, ours and microsandbox's, as text.
fn layers_of(tx: &Transaction<'_>, name: &str) -> Result<BTreeSet<String>> {
    let mut digests: BTreeSet<String> =
        texts(tx, "SELECT digest FROM sync_image_layers WHERE reference = ?1", name)?.into_iter().collect();
    digests.extend(texts(tx, rows::THEIR_LAYERS, name)?);
    Ok(digests)
}

/// A [`Holding`](super::Holding) of an owner, its directory as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) owner: &'a Owner,
    pub(super) layers: &'a [u8],
    pub(super) extracts: bool,
    pub(super) keeps_blobs: bool,
    pub(super) keeps_earlier: u32,
    /// The time of the change.
    pub(super) now: Timestamp,
}

/// See [`WritableCatalog::record`](super::WritableCatalog::record).
pub(super) fn record(
    tx: &Transaction<'_>,
    image: &ResolvedImage,
    names: &[ImageRef],
    (hold, has_blobs): (bool, bool),
    held: Held<'_>,
) -> Result<()> {
    let Some(first) = names.first() else { return Ok(()) };
    let primary = first.to_string();
    let known = holdings::documents(tx, &primary)?;
    past::turn(tx, &primary, image, held.now)?;
    put_names(tx, image, names, held.layers)?;
    for second in &first.recorded_names()[1..] {
        link(tx, &second.to_string(), &primary)?;
    }
    if let Some(first_name) = first.first_name() {
        link(tx, &primary, &first_name.to_string())?;
    }
    if hold {
        waiting::put_hold(tx, &primary, &image.digest, held.now)?;
    }
    put_owner(tx, &primary, held)?;
    // Blobs that are not here are still to be brought by those who keep them.
    let are_brought = has_blobs || known[..] == image.documents[..];
    let is_kept = are_brought && !holdings::holders(tx, &primary)?.blobs_kept_for.is_empty();
    for name in names {
        holdings::put_documents(tx, &name.to_string(), if is_kept { &image.documents } else { &[] })?;
    }
    Ok(())
}

/// Notes that the image `second` has the second name of `first`, where both are recorded: it stays
/// as long as that one does, whoever wants it for itself.
fn link(tx: &Transaction<'_>, second: &str, first: &str) -> Result<()> {
    tx.prepare_cached(
        "UPDATE sync_images SET alias_of = ?2
          WHERE reference = ?1 AND EXISTS (SELECT 1 FROM sync_images WHERE reference = ?2)",
    )?
    .execute([second, first])?;
    Ok(())
}

/// Replaces what is recorded under `names` by `image`, but for owners.
fn put_names(tx: &Transaction<'_>, image: &ResolvedImage, names: &[ImageRef], layers: &[u8]) -> Result<()> {
    let mut old_layers = BTreeSet::new();
    let mut rows = Vec::with_capacity(names.len());
    for name in names.iter().collect::<BTreeSet<_>>() {
        let name = name.to_string();
        old_layers.extend(layers_of(tx, &name)?);
        let row = NameRow::of(tx, &name)?;
        let known = image_id(tx, &name)?;
        let preexisting = row.map_or(known.is_some(), |row| row.preexisting);
        let id = put_image(tx, &name, known, size(image.size()))?;
        for sql in DROP_DOCUMENTS {
            tx.prepare_cached(sql)?.execute([id])?;
        }
        rows.push((name, id, preexisting));
    }
    // Only now: layers that nothing but the replaced rows used can be numbered freely.
    let all_names = names.iter().map(ToString::to_string).collect();
    let (layer_ids, has_order) = put_layers(tx, &image.layers, &all_names)?;
    stack::note(tx, &all_names, has_order)?;
    for (name, id, preexisting) in &rows {
        put_documents(tx, *id, image, &layer_ids)?;
        put_ours(tx, name, image, *preexisting, layers)?;
    }
    for digest in old_layers {
        tx.prepare_cached(DROP_UNUSED_LAYER)?.execute([&digest])?;
        tx.prepare_cached(SETTLE_MEDIA_TYPE)?.execute([digest])?;
    }
    Ok(())
}

fn put_image(tx: &Transaction<'_>, name: &str, known: Option<i64>, size: i64) -> Result<i64> {
    if let Some(id) = known {
        tx.prepare_cached(concat!(
            "UPDATE images SET size_bytes = ?2, last_used_at = CURRENT_TIMESTAMP, ",
            heal_created_at!(),
            " WHERE id = ?1"
        ))?
        .execute(params![id, size])?;
        return Ok(id);
    }
    tx.prepare_cached(
        "INSERT INTO images (reference, size_bytes, last_used_at, created_at, modified_at)
         VALUES (?1, ?2, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )?
    .execute(params![name, size])?;
    Ok(tx.last_insert_rowid())
}

/// Makes or refreshes the rows of `layers`, the layers of the image of these names, in stacking
/// order by id; returns each one's id, and whether the order is theirs.
fn put_layers<'a>(
    tx: &Transaction<'_>,
    layers: &'a [LayerDescriptor],
    names: &BTreeSet<String>,
) -> Result<(BTreeMap<&'a BlobDigest, i64>, bool)> {
    let stack = stack::stacked(layers);
    let known = stack::ids_of(tx, &stack)?;
    let numbering = stack::number(tx, &stack, &known, names)?
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, i64::MAX))?;
    stack::renumber(tx, &numbering)?;
    let has_order = numbering.is_in_order();
    let mut ids = BTreeMap::new();
    for ((layer, id), known) in stack.into_iter().zip(numbering.ids).zip(known) {
        let sql = if known.is_some() {
            concat!(
                "UPDATE layers SET media_type = ?2, digest = ?3, diff_id = ?4, size_bytes = ?5, ",
                heal_created_at!(),
                " WHERE id = ?1"
            )
        } else {
            "INSERT INTO layers (id, media_type, digest, diff_id, size_bytes, created_at, modified_at)
             VALUES (?1, ?2, ?3, ?4, ?5, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        };
        tx.prepare_cached(sql)?.execute(params![
            id,
            layer.media_type.as_str(),
            layer.digest.text(),
            layer.diff_id.text(),
            size(layer.size)
        ])?;
        ids.insert(&layer.digest, id);
    }
    Ok((ids, has_order))
}

/// The index, manifest, layer links and config of one name.
fn put_documents(
    tx: &Transaction<'_>,
    image_id: i64,
    image: &ResolvedImage,
    layer_ids: &BTreeMap<&BlobDigest, i64>,
) -> Result<()> {
    let index_id = match &image.index {
        None => None,
        Some(index) => {
            tx.prepare_cached(
                "INSERT INTO indexes (image_id, schema_version, media_type, platform_os, platform_arch,
                     platform_variant, annotations_json, created_at, modified_at)
                 VALUES (?1, 2, ?2, ?3, ?4, ?5, ?6, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
            )?
            .execute(params![
                image_id,
                index.media_type.as_str(),
                image.platform.os(),
                image.platform.architecture(),
                image.platform.variant(),
                index.annotations_json,
            ])?;
            Some(tx.last_insert_rowid())
        }
    };
    tx.prepare_cached(
        "INSERT INTO manifests (index_id, image_id, schema_version, media_type, annotations_json,
             created_at, modified_at)
         VALUES (?1, ?2, 2, ?3, ?4, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )?
    .execute(params![
        index_id,
        image_id,
        image.manifest.media_type.as_str(),
        image.manifest.annotations_json
    ])?;
    let manifest_id = tx.last_insert_rowid();

    for layer in stack::stacked(&image.layers) {
        tx.prepare_cached(
            "INSERT INTO manifest_layers (manifest_id, layer_id, created_at, modified_at)
             VALUES (?1, ?2, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
        )?
        .execute(params![manifest_id, layer_ids.get(&layer.digest)])?;
    }
    put_config(tx, manifest_id, &image.config, &image.layers)
}

fn put_config(
    tx: &Transaction<'_>,
    manifest_id: i64,
    config: &ConfigRecord,
    layers: &[LayerDescriptor],
) -> Result<()> {
    let diff_ids: Vec<&DiffId> = layers.iter().map(|layer| &layer.diff_id).collect();
    tx.prepare_cached(
        "INSERT INTO configs (manifest_id, media_type, created, architecture, os, os_variant, config_env_json,
             config_cmd_json, config_working_dir, config_entrypoint_json, config_volumes_json,
             config_exposed_ports_json, config_user, rootfs_type, rootfs_diff_ids_json, history_json,
             created_at, modified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
             CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    )?
    .execute(params![
        manifest_id,
        config.media_type.as_str(),
        config.created.as_deref().filter(|created| is_rfc3339(created)),
        config.architecture,
        config.os,
        config.variant,
        list(config.env.as_ref()),
        list(config.cmd.as_ref()),
        config.working_dir,
        list(config.entrypoint.as_ref()),
        list(config.volumes.as_ref()),
        list(config.exposed_ports.as_ref()),
        config.user,
        config.rootfs_type,
        json(&diff_ids),
        config.history_json,
    ])?;
    Ok(())
}

fn list(list: Option<&Vec<String>>) -> Option<String> {
    list.map(json_of_list)
}

fn json_of_list(list: &Vec<String>) -> String {
    json(list)
}

/// Our own rows of one name, but for owner and alias.
fn put_ours(
    tx: &Transaction<'_>,
    name: &str,
    image: &ResolvedImage,
    preexisting: bool,
    layers: &[u8],
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_images (reference, platform, digest, manifest_digest, config_digest, config_json,
             alias_of, preexisting, layers_directory, modified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, ?7, ?8, CURRENT_TIMESTAMP)
         ON CONFLICT (reference) DO UPDATE SET platform = excluded.platform, digest = excluded.digest,
             manifest_digest = excluded.manifest_digest, config_digest = excluded.config_digest,
             config_json = excluded.config_json, preexisting = excluded.preexisting,
             layers_directory = excluded.layers_directory,
             modified_at = excluded.modified_at",
    )?
    .execute(params![
        name,
        image.platform.to_string(),
        image.digest.text(),
        image.manifest.digest.text(),
        image.config.digest.text(),
        json(&image.config),
        preexisting,
        layers,
    ])?;
    tx.prepare_cached("DELETE FROM sync_image_layers WHERE reference = ?1")?.execute([name])?;
    lists::put_layers(tx, ListOf::Image(name), &image.layers)
}

fn put_owner(tx: &Transaction<'_>, name: &str, held: Held<'_>) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO sync_owners (reference, owner, since) VALUES (?1, ?2, CURRENT_TIMESTAMP)
         ON CONFLICT DO NOTHING",
    )?
    .execute([name, held.owner.0.as_str()])?;
    holdings::put(tx, name, held.owner, (held.extracts, held.keeps_blobs, held.keeps_earlier))
}

/// See [`WritableCatalog::adopt`](super::WritableCatalog::adopt).
pub(super) fn adopt(tx: &Transaction<'_>, names: &[ImageRef], held: Held<'_>) -> Result<()> {
    let Some((first, second_names)) = names.split_first() else { return Ok(()) };
    let name = first.to_string();
    if NameRow::of(tx, &name)?.is_none() {
        return Ok(());
    }
    put_owner(tx, &name, held)?;
    drop_unkept_documents(tx, &name)?;
    put_layers_directory(tx, &name, held.layers)?;
    second_names.iter().try_for_each(|second| put_second_name(tx, second, first))
}

/// Lets the name `second` mean what the recorded image `first` means.
fn put_second_name(tx: &Transaction<'_>, second: &ImageRef, first: &ImageRef) -> Result<()> {
    let (name, primary) = (second.to_string(), first.to_string());
    let Some(row) = image::image(tx, first)? else { return Ok(()) };
    // Rows that cannot be read are written again by the next run of an owner.
    let Some(layers) = row.layers_directory.as_ref().map(|path| path.as_os_str().as_bytes()) else {
        return Ok(());
    };
    let is_same = |known: &RecordedImage| {
        known.rows_complete
            && (&known.digest, &known.manifest_digest) == (&row.digest, &row.manifest_digest)
            && known.documents == row.documents
    };
    if image::image(tx, second)?.as_ref().is_some_and(is_same) {
        put_layers_directory(tx, &name, layers)?;
    } else if let Some(image) = past::recorded(tx, &primary)? {
        put_names(tx, &image, std::slice::from_ref(second), layers)?;
        holdings::put_documents(tx, &name, &image.documents)?;
    }
    link(tx, &name, &primary)
}

fn put_layers_directory(tx: &Transaction<'_>, name: &str, layers: &[u8]) -> Result<()> {
    tx.prepare_cached("UPDATE sync_images SET layers_directory = ?2 WHERE reference = ?1")?
        .execute(params![name, layers])?;
    Ok(())
}

/// Drops the documents of an image, and of its second names, where no owner wants blobs kept.
fn drop_unkept_documents(tx: &Transaction<'_>, name: &str) -> Result<()> {
    if holdings::holders(tx, name)?.blobs_kept_for.is_empty() {
        holdings::drop_documents(tx, name)?;
        for second in texts(tx, "SELECT reference FROM sync_images WHERE alias_of = ?1", name)? {
            if holdings::holders(tx, &second)?.blobs_kept_for.is_empty() {
                holdings::drop_documents(tx, &second)?;
            }
        }
    }
    Ok(())
}

/// See [`WritableCatalog::forget`](super::WritableCatalog::forget).
pub(super) fn forget(tx: &Transaction<'_>, references: &[ImageRef], owner: Option<&Owner>) -> Result<()> {
    let mut freed = BTreeSet::new();
    // Images first, then the second names that they leave behind.
    let mut todo: Vec<String> = give_up(tx, references, owner)?.into_iter().collect();
    while let Some(name) = todo.pop() {
        let Some(row) = NameRow::of(tx, &name)? else { continue };
        if !holdings::holders(tx, &name)?.owners.is_empty() {
            continue;
        }
        if let Some((first, _)) = holdings::primary_of(tx, row.alias_of.as_deref())?
            && let Some(second) = rows::parse_name(&name)
        {
            past::drop_of(tx, &name)?;
            put_second_name(tx, &second, &first)?;
            continue;
        }
        let mut second_names = texts(tx, "SELECT reference FROM sync_images WHERE alias_of = ?1", &name)?;
        tx.prepare_cached("UPDATE sync_images SET alias_of = NULL WHERE alias_of = ?1")?.execute([&name])?;
        todo.append(&mut second_names);

        let layers = layers_of(tx, &name)?;
        tx.prepare_cached("DELETE FROM sync_image_layers WHERE reference = ?1")?.execute([&name])?;
        holdings::drop_documents(tx, &name)?;
        past::drop_of(tx, &name)?;
        stack::forget(tx, &name)?;
        tx.prepare_cached("DELETE FROM sync_images WHERE reference = ?1")?.execute([&name])?;
        if !row.preexisting
            && let Some(id) = image_id(tx, &name)?
        {
            for sql in DROP_DOCUMENTS {
                tx.prepare_cached(sql)?.execute([id])?;
            }
            tx.prepare_cached("DELETE FROM images WHERE id = ?1")?.execute([id])?;
        }
        freed.extend(layers);
    }
    for digest in freed {
        let is_dropped = tx.prepare_cached(DROP_UNUSED_LAYER)?.execute([&digest])? > 0;
        if !is_dropped {
            tx.prepare_cached(SETTLE_MEDIA_TYPE)?.execute([&digest])?;
        }
    }
    Ok(())
}

/// Drops the ownership of `owner` (`None`: of everybody), and returns the names that were given up.
fn give_up(tx: &Transaction<'_>, references: &[ImageRef], owner: Option<&Owner>) -> Result<BTreeSet<String>> {
    let mut released = BTreeSet::new();
    for reference in references {
        let name = reference.to_string();
        let dropped = match owner {
            Some(owner) => tx
                .prepare_cached("DELETE FROM sync_owners WHERE reference = ?1 AND owner = ?2")?
                .execute([&name, &owner.0])?,
            None => tx.prepare_cached("DELETE FROM sync_owners WHERE reference = ?1")?.execute([&name])?,
        };
        holdings::drop_of(tx, &name, owner)?;
        drop_unkept_documents(tx, &name)?;
        if dropped > 0 || owner.is_none() {
            released.insert(name);
        }
    }
    Ok(released)
}
