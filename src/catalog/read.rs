//! From rows to values. Every query that a run makes is answered by an index, whatever else the catalog holds.
//!
//! Rows are hostile: anybody may have edited them. What cannot be read as what it should be (another type, a
//! broken digest or reference) makes the image one that is not recorded by us, or whose rows are incomplete; it is
//! never an error, so that the next run can put it right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result, Row};

use crate::digest::{BlobDigest, DiffId};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{ConfigRecord, LayerDescriptor, MediaType, Owner, Platform, RecordedImage};

/// What microsandbox can parse as a timestamp without a panic, as an SQL condition on a column.
macro_rules! well_formed {
    ($column:literal) => {
        concat!(
            $column,
            " GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9]'"
        )
    };
}
pub(super) use well_formed;

/// The names of an owner's images, and of their second names that nobody owns. CROSS JOIN is SQLite's word for
/// "in this order": else the second names of all owners may be gone through.
pub(super) const OWNED_NAMES: &str = "
    SELECT reference FROM sync_owners WHERE owner = ?1
    UNION
    SELECT second.reference FROM sync_owners AS own
      CROSS JOIN sync_images AS second ON second.alias_of = own.reference
     WHERE own.owner = ?1
       AND NOT EXISTS (SELECT 1 FROM sync_owners AS direct WHERE direct.reference = second.reference)";

pub(super) const OUR_IMAGE: &str = "
    SELECT alias_of, preexisting, digest, manifest_digest, config_digest, platform, modified_at,
           layers_directory
      FROM sync_images WHERE reference = ?1";

pub(super) const OUR_LAYERS: &str = "
    SELECT digest, diff_id, media_type, size_bytes, position
      FROM sync_image_layers WHERE reference = ?1 ORDER BY position";

pub(super) const OWNERS: &str = "SELECT owner FROM sync_owners WHERE reference = ?1";

pub(super) const THEIR_IMAGE: &str = concat!(
    "SELECT modified_at, ",
    well_formed!("created_at"),
    " AND ",
    well_formed!("modified_at"),
    " FROM images WHERE reference = ?1"
);

/// What microsandbox's join finds, and whether it can read it. Not sorted: for a handful of rows, making SQLite's
/// sorter costs more than the query.
pub(super) const THEIR_LAYERS: &str = concat!(
    "SELECT l.digest, l.diff_id, l.media_type, l.size_bytes, ",
    well_formed!("l.created_at"),
    " AND ",
    well_formed!("l.modified_at"),
    ", l.id FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      JOIN manifest_layers AS ml ON ml.manifest_id = m.id
      JOIN layers AS l ON l.id = ml.layer_id
     WHERE i.reference = ?1"
);

/// Whether there is one manifest, the number of configs, and of those that microsandbox can read.
pub(super) const THEIR_DOCUMENTS: &str = concat!(
    "SELECT min(m.id) = max(m.id), count(c.id), coalesce(sum(",
    well_formed!("c.created_at"),
    " AND ",
    well_formed!("c.modified_at"),
    " AND (c.created IS NULL OR c.created GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:*')",
    " AND typeof(c.architecture) = 'text' AND typeof(c.os) = 'text'), 0)
      FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      LEFT JOIN configs AS c ON c.manifest_id = m.id
     WHERE i.reference = ?1"
);

/// The config's list of layers, as JSON.
pub(super) const THEIR_DIFF_IDS: &str = "
    SELECT c.rootfs_diff_ids_json FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      JOIN configs AS c ON c.manifest_id = m.id
     WHERE i.reference = ?1 LIMIT 1";

/// A longer list of layers is nobody's.
const MAX_DIFF_IDS: usize = 10_000;

/// Who uses a layer, by our rows.
pub(super) const OUR_USERS: &str = "SELECT reference FROM sync_image_layers WHERE digest = ?1";

/// Who uses a layer, by microsandbox's rows.
pub(super) const THEIR_USERS: &str = "
    SELECT i.reference FROM layers AS l
      JOIN manifest_layers AS ml ON ml.layer_id = l.id
      JOIN manifests AS m ON m.id = ml.manifest_id
      JOIN images AS i ON i.id = m.image_id
     WHERE l.digest = ?1";

/// A column as text, unless it is something else.
pub(super) fn text(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    })
}

fn integer(row: &Row<'_>, column: usize) -> Result<Option<i64>> {
    Ok(row.get_ref(column)?.as_i64().ok())
}

fn is_true(row: &Row<'_>, column: usize) -> Result<bool> {
    Ok(integer(row, column)? == Some(1))
}

/// A recorded name, if it is in the full form; no other name is ever asked for.
pub(super) fn parse_name(text: &str) -> Option<ImageRef> {
    ImageRef::parse(text, DEFAULT_REGISTRY).ok().filter(|reference| reference.to_string() == text)
}

/// The first column of every row, where it is text.
pub(super) fn texts(conn: &Connection, sql: &str, key: &str) -> Result<Vec<String>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([key])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(text(row, 0)?);
    }
    Ok(found)
}

/// Our own row of an image.
struct OurImage {
    platform: Platform,
    digest: BlobDigest,
    manifest_digest: BlobDigest,
    config_digest: BlobDigest,
    modified_at: String,
    layers_directory: Option<PathBuf>,
}

/// The part of our row that matters for who needs the image.
pub(super) struct Claim {
    pub(super) alias_of: Option<String>,
    pub(super) preexisting: bool,
}

impl Claim {
    pub(super) fn of(conn: &Connection, name: &str) -> Result<Option<Self>> {
        conn.prepare_cached("SELECT alias_of, preexisting FROM sync_images WHERE reference = ?1")?
            .query_row([name], Self::from_row)
            .optional()
    }

    fn from_row(row: &Row<'_>) -> Result<Self> {
        // A garbled flag counts as set: then microsandbox's rows are left alone.
        Ok(Self { alias_of: text(row, 0)?, preexisting: integer(row, 1)? != Some(0) })
    }
}

pub(super) fn owners(conn: &Connection, name: &str) -> Result<BTreeSet<Owner>> {
    Ok(texts(conn, OWNERS, name)?.into_iter().map(Owner).collect())
}

/// The image of which `name` is only a second name, with that image's owners.
pub(super) fn primary_of(
    conn: &Connection,
    alias_of: Option<&str>,
) -> Result<Option<(ImageRef, BTreeSet<Owner>)>> {
    let Some((text, primary)) = alias_of.and_then(|text| Some((text, parse_name(text)?))) else {
        return Ok(None);
    };
    let owners = owners(conn, text)?;
    Ok((!owners.is_empty()).then_some((primary, owners)))
}

/// Everything recorded under one name; `None` if neither we nor microsandbox know it.
pub(super) fn image(conn: &Connection, reference: &ImageRef) -> Result<Option<RecordedImage>> {
    let name = reference.to_string();
    let (claim, ours) = our_image(conn, &name)?.map_or((None, None), |(claim, ours)| (Some(claim), ours));
    let theirs: Option<(Option<String>, bool)> = conn
        .prepare_cached(THEIR_IMAGE)?
        .query_row([&name], |row| Ok((text(row, 0)?, is_true(row, 1)?)))
        .optional()?;
    // A garbled row of ours alone is no record: there is nothing left to be read.
    if ours.is_none() && theirs.is_none() {
        return Ok(None);
    }
    let ours = match ours {
        Some(ours) => our_layers(conn, &name)?.map(|layers| (ours, layers)),
        None => None,
    };
    let mut owners = owners(conn, &name)?;
    let mut alias_of = None;
    if owners.is_empty()
        && let Some((primary, its_owners)) =
            primary_of(conn, claim.as_ref().and_then(|claim| claim.alias_of.as_deref()))?
    {
        alias_of = Some(primary);
        owners = its_owners;
    }
    let (their_layers, layers_readable) = their_layers(conn, &name)?;
    let documents_readable = documents_readable(conn, &name)?;
    let readable =
        layers_readable && documents_readable && theirs.as_ref().is_some_and(|(_, readable)| *readable);
    let their_modified_at = theirs.and_then(|(modified_at, _)| modified_at).unwrap_or_default();
    let preexisting = claim.as_ref().is_none_or(|claim| claim.preexisting);

    Ok(Some(match ours {
        Some((ours, layers)) => {
            let rows_complete = readable && agree(&layers, &their_layers);
            RecordedImage {
                reference: reference.clone(),
                platform: Some(ours.platform),
                digest: Some(ours.digest),
                manifest_digest: Some(ours.manifest_digest),
                config_digest: Some(ours.config_digest),
                layers: layers.into(),
                owners,
                rows_complete,
                alias_of,
                preexisting,
                layers_directory: ours.layers_directory,
                modified_at: ours.modified_at,
            }
        }
        None => RecordedImage {
            reference: reference.clone(),
            platform: None,
            digest: None,
            manifest_digest: None,
            config_digest: None,
            // A row of ours that cannot be read is one that has to be written again.
            rows_complete: readable && !their_layers.is_empty() && claim.is_none(),
            layers: in_order_of_config(conn, &name, their_layers)?.into(),
            owners,
            alias_of,
            preexisting,
            layers_directory: None,
            modified_at: their_modified_at,
        },
    }))
}

/// Our row of an image, as far as it can be read.
fn our_image(conn: &Connection, name: &str) -> Result<Option<(Claim, Option<OurImage>)>> {
    conn.prepare_cached(OUR_IMAGE)?
        .query_row([name], |row| {
            let claim = Claim::from_row(row)?;
            let digest = |column| {
                Ok::<_, rusqlite::Error>(text(row, column)?.and_then(|text| BlobDigest::parse(&text).ok()))
            };
            let (digest, manifest_digest, config_digest) = (digest(2)?, digest(3)?, digest(4)?);
            let platform = text(row, 5)?.and_then(|text| Platform::parse(&text).ok());
            let modified_at = text(row, 6)?;
            let layers_directory =
                row.get_ref(7)?.as_blob().ok().map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let image = (|| {
                Some(OurImage {
                    platform: platform?,
                    digest: digest?,
                    manifest_digest: manifest_digest?,
                    config_digest: config_digest?,
                    modified_at: modified_at?,
                    layers_directory,
                })
            })();
            Ok((claim, image))
        })
        .optional()
}

/// Our layers of an image, base first; `None` where one of them is garbled or out of place.
fn our_layers(conn: &Connection, name: &str) -> Result<Option<Vec<LayerDescriptor>>> {
    let mut statement = conn.prepare_cached(OUR_LAYERS)?;
    let mut rows = statement.query([name])?;
    let mut layers = Vec::new();
    while let Some(row) = rows.next()? {
        let in_place = integer(row, 4)? == i64::try_from(layers.len()).ok();
        match descriptor(row)? {
            Some(layer) if in_place => layers.push(layer),
            _ => return Ok(None),
        }
    }
    Ok(Some(layers))
}

/// Digest, diff id, media type and size, from the first four columns.
fn descriptor(row: &Row<'_>) -> Result<Option<LayerDescriptor>> {
    let (digest, diff_id, media_type, size) = (text(row, 0)?, text(row, 1)?, text(row, 2)?, integer(row, 3)?);
    Ok((|| {
        Some(LayerDescriptor {
            digest: BlobDigest::parse(&digest?).ok()?,
            diff_id: DiffId::parse(&diff_id?).ok()?,
            media_type: MediaType::from(media_type?.as_str()),
            size: u64::try_from(size?).ok()?,
        })
    })())
}

/// The layers that microsandbox's join finds, in its order, and whether microsandbox can read them all.
fn their_layers(conn: &Connection, name: &str) -> Result<(Vec<LayerDescriptor>, bool)> {
    let mut statement = conn.prepare_cached(THEIR_LAYERS)?;
    let mut rows = statement.query([name])?;
    let (mut layers, mut readable) = (Vec::new(), true);
    while let Some(row) = rows.next()? {
        let (layer, id) = (descriptor(row)?, integer(row, 5)?);
        readable &= layer.is_some() && is_true(row, 4)?;
        layers.extend(layer.map(|layer| (id, layer)));
    }
    layers.sort_by_key(|(id, _)| *id);
    Ok((layers.into_iter().map(|(_, layer)| layer).collect(), readable))
}

/// Layers that microsandbox's rows list, put into the order in which the image's config names them, base first. Rows
/// have the order in which layers were first pulled, by whatever image. Where config and rows do not fit each other,
/// the order of the rows stays.
fn in_order_of_config(
    conn: &Connection,
    name: &str,
    layers: Vec<LayerDescriptor>,
) -> Result<Vec<LayerDescriptor>> {
    let diff_ids = conn
        .prepare_cached(THEIR_DIFF_IDS)?
        .query_row([name], |row| text(row, 0))
        .optional()?
        .flatten()
        .and_then(|json| serde_json::from_str::<Vec<String>>(&json).ok())
        .unwrap_or_default();
    if diff_ids.len() > MAX_DIFF_IDS {
        return Ok(layers);
    }
    // Two blobs may unpack to the same tar; then the first place is the first row's.
    let mut unplaced: BTreeMap<&str, VecDeque<&LayerDescriptor>> = BTreeMap::new();
    for layer in &layers {
        unplaced.entry(layer.diff_id.as_str()).or_default().push_back(layer);
    }
    let mut ordered = Vec::with_capacity(diff_ids.len());
    for diff_id in &diff_ids {
        let Some(rows) = unplaced.get_mut(diff_id.as_str()) else { return Ok(layers) };
        // The last row stays: a layer that the config names twice has one row.
        let row = if rows.len() > 1 { rows.pop_front() } else { rows.front().copied() };
        ordered.extend(row);
    }
    let placed: BTreeSet<&BlobDigest> = ordered.iter().map(|layer| &layer.digest).collect();
    if layers.iter().any(|layer| !placed.contains(&layer.digest)) {
        return Ok(layers);
    }
    Ok(ordered.into_iter().cloned().collect())
}

/// Whether there is exactly one manifest with exactly one config, as microsandbox needs to read it.
fn documents_readable(conn: &Connection, name: &str) -> Result<bool> {
    conn.prepare_cached(THEIR_DOCUMENTS)?
        .query_row([name], |row| Ok((0..3).all(|column| is_true(row, column).unwrap_or(false))))
}

/// Whether microsandbox's rows are the distinct ones of ours.
fn agree(ours: &[LayerDescriptor], theirs: &[LayerDescriptor]) -> bool {
    let key = |layer: &LayerDescriptor| (layer.digest.clone(), (layer.diff_id.clone(), layer.size));
    let ours: BTreeMap<_, _> = ours.iter().map(key).collect();
    ours.len() == theirs.len() && ours == theirs.iter().map(key).collect()
}

/// Every name that we or microsandbox have, sorted.
pub(super) fn all_names(conn: &Connection) -> Result<Vec<ImageRef>> {
    let mut statement =
        conn.prepare_cached("SELECT reference FROM images UNION SELECT reference FROM sync_images")?;
    let mut rows = statement.query([])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        names.extend(text(row, 0)?.as_deref().and_then(parse_name));
    }
    names.sort();
    Ok(names)
}

/// The layers that anything but `inside` needs.
///
/// A layer that microsandbox lists and that no image uses counts as needed: microsandbox may be in the middle of
/// pulling it. A second name that nobody owns goes with its image, unless microsandbox had it before.
pub(super) fn layers_needed_outside(
    conn: &Connection,
    inside: &BTreeSet<ImageRef>,
) -> Result<BTreeSet<BlobDigest>> {
    let mut inside_names: BTreeSet<String> = inside.iter().map(ToString::to_string).collect();
    for name in inside.iter().map(ToString::to_string) {
        for second in texts(conn, "SELECT reference FROM sync_images WHERE alias_of = ?1", &name)? {
            let claimed = Claim::of(conn, &second)?.is_none_or(|claim| claim.preexisting);
            if !claimed && owners(conn, &second)?.is_empty() {
                inside_names.insert(second);
            }
        }
    }

    let mut candidates: BTreeSet<String> = BTreeSet::new();
    for name in &inside_names {
        candidates.extend(texts(conn, "SELECT digest FROM sync_image_layers WHERE reference = ?1", name)?);
        candidates.extend(texts(conn, THEIR_LAYERS, name)?);
    }
    let mut only_inside: BTreeSet<String> = BTreeSet::new();
    for digest in candidates {
        if !used_outside(conn, &digest, &inside_names)? {
            only_inside.insert(digest);
        }
    }

    // Both in digest order and without repeats, so that one pass finds what only our rows list and the set is
    // built from sorted runs: this is the one query of a run that grows with the catalog.
    let mut needed: Vec<BlobDigest> = Vec::new();
    for_each_digest(conn, "SELECT digest FROM layers ORDER BY digest", |digest| {
        if !only_inside.contains(digest) {
            needed.extend(BlobDigest::parse(digest).ok());
        }
    })?;
    let listed = needed.len();
    let mut place = 0;
    for_each_digest(conn, "SELECT digest FROM sync_image_layers ORDER BY digest", |digest| {
        while needed.get(place).filter(|_| place < listed).is_some_and(|other| other.as_str() < digest) {
            place += 1;
        }
        let found = place < listed && needed.get(place).is_some_and(|other| other.as_str() == digest);
        if !found && !only_inside.contains(digest) {
            needed.extend(BlobDigest::parse(digest).ok());
        }
    })?;
    Ok(needed.into_iter().collect())
}

/// Calls `visit` with each distinct text of a sorted column.
fn for_each_digest(conn: &Connection, sql: &str, mut visit: impl FnMut(&str)) -> Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut last = String::new();
    while let Some(row) = rows.next()? {
        if let Ok(digest) = row.get_ref(0)?.as_str()
            && digest != last
        {
            visit(digest);
            last.clear();
            last.push_str(digest);
        }
    }
    Ok(())
}

fn used_outside(conn: &Connection, digest: &str, inside: &BTreeSet<String>) -> Result<bool> {
    for sql in [OUR_USERS, THEIR_USERS] {
        let mut statement = conn.prepare_cached(sql)?;
        let mut rows = statement.query([digest])?;
        while let Some(row) = rows.next()? {
            // A name that is not even text is nobody's to give up.
            if !row.get_ref(0)?.as_str().is_ok_and(|name| inside.contains(name)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The config of an image, from our row, else from microsandbox's.
pub(super) fn config(conn: &Connection, reference: &ImageRef) -> Result<Option<ConfigRecord>> {
    let name = reference.to_string();
    let ours = conn
        .prepare_cached("SELECT config_digest, config_json FROM sync_images WHERE reference = ?1")?
        .query_row([&name], |row| Ok((text(row, 0)?, text(row, 1)?)))
        .optional()?;
    if let Some((Some(digest), Some(json))) = ours
        && let Ok(digest) = BlobDigest::parse(&digest)
        && let Ok(stored) = serde_json::from_str::<ConfigRecord>(&json)
    {
        return Ok(Some(ConfigRecord { digest, ..stored }));
    }
    conn.prepare_cached(
        "SELECT c.media_type, c.created, c.architecture, c.os, c.os_variant, c.config_env_json,
                c.config_cmd_json, c.config_working_dir, c.config_entrypoint_json, c.config_volumes_json,
                c.config_exposed_ports_json, c.config_user, c.rootfs_type, c.history_json
           FROM images AS i
           JOIN manifests AS m ON m.image_id = i.id
           JOIN configs AS c ON c.manifest_id = m.id
          WHERE i.reference = ?1 LIMIT 1",
    )?
    .query_row([&name], |row| {
        // microsandbox writes a list that is not there as the JSON text `null`, which reads as `None` too.
        let list = |column| {
            Ok::<Option<Vec<String>>, rusqlite::Error>(
                text(row, column)?.and_then(|json| serde_json::from_str(&json).unwrap_or_default()),
            )
        };
        Ok(ConfigRecord {
            digest: ConfigRecord::no_digest(),
            media_type: text(row, 0)?.unwrap_or_default(),
            created: text(row, 1)?,
            architecture: text(row, 2)?.unwrap_or_default(),
            os: text(row, 3)?.unwrap_or_default(),
            variant: text(row, 4)?,
            env: list(5)?,
            cmd: list(6)?,
            working_dir: text(row, 7)?,
            entrypoint: list(8)?,
            volumes: list(9)?,
            exposed_ports: list(10)?,
            user: text(row, 11)?,
            stop_signal: None,
            labels: BTreeMap::new(),
            rootfs_type: text(row, 12)?.unwrap_or_default(),
            history_json: text(row, 13)?.filter(|json| json != "null"),
        })
    })
    .optional()
}
