//! From rows to values, and from single values to columns. Every query that a run makes is answered
//! by an index, whatever else the catalog holds.
//!
//! Rows are hostile: anybody may have edited them. What cannot be read as what it should be
//! (another type, a broken digest or reference) makes the image one that is not recorded by us, or
//! whose rows are incomplete; it is never an error, so that the next run can put it right.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Result, Row, Rows, ToSql};

use crate::digest::{BlobDigest, DiffId, DigestText};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{LayerDescriptor, MediaType};

/// The timestamps that microsandbox can parse without a panic, as an SQL condition on a column.
macro_rules! well_formed {
    ($column:literal) => {
        concat!(
            $column,
            " GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9]'"
        )
    };
}
pub(super) use well_formed;

/// Everybody who wants an image, but for one.
pub(super) const OWNERS: &str = "SELECT DISTINCT owner FROM sync_owners WHERE owner <> ?1";

/// The names of an owner's images, and of their second names that nobody owns. CROSS JOIN is
/// SQLite's word for "in this order": else the second names of all owners may be gone through.
pub(super) const OWNED_NAMES: &str = "
    SELECT reference FROM sync_owners WHERE owner = ?1
    UNION
    SELECT second.reference FROM sync_owners AS own
      CROSS JOIN sync_images AS second ON second.alias_of = own.reference
     WHERE own.owner = ?1
       AND NOT EXISTS (SELECT 1 FROM sync_owners AS direct WHERE direct.reference = second.reference)";

pub(super) const NAMES_BETWEEN: &str = "
    SELECT reference FROM images WHERE reference >= ?1 AND reference < ?2
    UNION
    SELECT reference FROM sync_images WHERE reference >= ?1 AND reference < ?2";

pub(super) const OUR_IMAGE: &str = "
    SELECT alias_of, preexisting, digest, manifest_digest, config_digest, platform, modified_at,
           layers_directory,
           (SELECT c.created FROM images AS i
              JOIN manifests AS m ON m.image_id = i.id
              JOIN configs AS c ON c.manifest_id = m.id
             WHERE i.reference = ?1 LIMIT 1)
      FROM sync_images WHERE reference = ?1";

pub(super) const OUR_LAYERS: &str = "
    SELECT digest, diff_id, media_type, size_bytes, position
      FROM sync_image_layers WHERE reference = ?1 ORDER BY position";

pub(super) const THEIR_IMAGE: &str = concat!(
    "SELECT modified_at, ",
    well_formed!("created_at"),
    " AND ",
    well_formed!("modified_at"),
    ", size_bytes FROM images WHERE reference = ?1"
);

/// The layers that microsandbox's join finds, each with whether microsandbox can read its rows, and
/// their ids. Not sorted: for a handful of rows, making SQLite's sorter costs more than the query.
pub(super) const THEIR_LAYERS: &str = concat!(
    "SELECT l.digest, l.diff_id, l.media_type, l.size_bytes, ",
    well_formed!("l.created_at"),
    " AND ",
    well_formed!("l.modified_at"),
    " AND ",
    well_formed!("ml.created_at"),
    " AND ",
    well_formed!("ml.modified_at"),
    ", l.id, ml.id FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      JOIN manifest_layers AS ml ON ml.manifest_id = m.id
      JOIN layers AS l ON l.id = ml.layer_id
     WHERE i.reference = ?1"
);

/// One row: is there one manifest only, the number of configs, and of those that microsandbox can
/// read; can it read the manifest and its index. Then the config, with what we have recorded of it,
/// and the index's platform with ours.
pub(super) const THEIR_DOCUMENTS: &str = concat!(
    "SELECT min(m.id) = max(m.id), count(c.id), coalesce(sum(",
    well_formed!("c.created_at"),
    " AND ",
    well_formed!("c.modified_at"),
    " AND (c.created IS NULL OR c.created GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:*')",
    " AND typeof(c.architecture) = 'text' AND typeof(c.os) = 'text'), 0), min(coalesce(",
    well_formed!("m.created_at"),
    " AND ",
    well_formed!("m.modified_at"),
    " AND (m.index_id IS NULL OR x.image_id = i.id AND ",
    well_formed!("x.created_at"),
    " AND ",
    well_formed!("x.modified_at"),
    "), 0)),
           c.media_type, c.created, c.architecture, c.os, c.os_variant, c.config_env_json, c.config_cmd_json,
           c.config_working_dir, c.config_entrypoint_json, c.config_volumes_json, c.config_exposed_ports_json,
           c.config_user, c.rootfs_type, c.rootfs_diff_ids_json, own.config_json,
           x.id, x.platform_os, x.platform_arch, x.platform_variant, own.platform
      FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      LEFT JOIN configs AS c ON c.manifest_id = m.id
      LEFT JOIN indexes AS x ON x.id = m.index_id
      LEFT JOIN sync_images AS own ON own.reference = i.reference
     WHERE i.reference = ?1"
);

/// One row if an image of ours has the layer with this media type: a layer has one row, whatever
/// each image calls it.
pub(super) const OUR_MEDIA_TYPE: &str =
    "SELECT 1 FROM sync_image_layers WHERE digest = ?1 AND media_type = ?2";

/// One row if an image of ours says another `diff_id` or size of the layer.
pub(super) const OTHER_WORDS: &str =
    "SELECT 1 FROM sync_image_layers WHERE digest = ?1 AND (diff_id <> ?2 OR size_bytes <> ?3)";

/// The config's list of layers, as JSON.
pub(super) const THEIR_DIFF_IDS: &str = "
    SELECT c.rootfs_diff_ids_json FROM images AS i
      JOIN manifests AS m ON m.image_id = i.id
      JOIN configs AS c ON c.manifest_id = m.id
     WHERE i.reference = ?1 LIMIT 1";

/// The users of a layer by our rows.
pub(super) const OUR_USERS: &str = "SELECT reference FROM sync_image_layers WHERE digest = ?1";

/// The users of a layer by microsandbox's rows.
pub(super) const THEIR_USERS: &str = "
    SELECT i.reference FROM layers AS l
      JOIN manifest_layers AS ml ON ml.layer_id = l.id
      JOIN manifests AS m ON m.id = ml.manifest_id
      JOIN images AS i ON i.id = m.image_id
     WHERE l.digest = ?1";

/// Reads a column as text, unless it is something else.
pub(super) fn text(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    })
}

pub(super) fn integer(row: &Row<'_>, column: usize) -> Result<Option<i64>> {
    Ok(row.get_ref(column)?.as_i64().ok())
}

pub(super) fn is_true(row: &Row<'_>, column: usize) -> Result<bool> {
    Ok(integer(row, column)? == Some(1))
}

/// The number of bytes as a column. `SQLite`'s integers end at `i64::MAX`; no blob does.
pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl ToSql for DigestText {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        (**self).to_sql()
    }
}

/// The JSON text of records, lists and maps of strings, which always have one.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads our layers of an image, base first, as [`layers`] does.
pub(super) fn our_layers(conn: &Connection, name: &str) -> Result<Option<Vec<LayerDescriptor>>> {
    layers(&mut conn.prepare_cached(OUR_LAYERS)?.query([name])?)
}

/// Reads layers from rows of digest, diff id, media type, size and position, in their order; `None`
/// where one of them is garbled or out of place.
pub(super) fn layers(rows: &mut Rows<'_>) -> Result<Option<Vec<LayerDescriptor>>> {
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

/// Reads digest, diff id, media type and size, from the first four columns.
pub(super) fn descriptor(row: &Row<'_>) -> Result<Option<LayerDescriptor>> {
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

/// Tells whether microsandbox, which unwraps, can parse a time.
pub(super) fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let at = |place: usize, expected: u8| bytes.get(place) == Some(&expected);
    let digits = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18];
    digits.iter().all(|place| bytes.get(*place).is_some_and(u8::is_ascii_digit))
        && at(4, b'-')
        && at(7, b'-')
        && at(10, b'T')
        && at(13, b':')
        && at(16, b':')
        && !text.contains('[')
        && text.parse::<jiff::Timestamp>().is_ok()
}

/// The bounds, the second one outside, between which the names of all images of `repository` are:
/// those with a tag, and those with a digest alone.
pub(super) fn names_in(repository: &str) -> [[String; 2]; 2] {
    // The end is the next character.
    [(':', ';'), ('@', 'A')].map(|(begin, end)| [begin, end].map(|bound| format!("{repository}{bound}")))
}

/// Parses a recorded name, if it is in the full form; no other name is ever asked for.
pub(super) fn parse_name(text: &str) -> Option<ImageRef> {
    ImageRef::parse(text, DEFAULT_REGISTRY).ok().filter(|reference| reference.to_string() == text)
}

/// Reads the first column of every row, where it is text.
pub(super) fn texts(conn: &Connection, sql: &str, key: &str) -> Result<Vec<String>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([key])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(text(row, 0)?);
    }
    Ok(found)
}

/// The part of our row of a name that says who needs the image.
pub(super) struct NameRow {
    pub(super) alias_of: Option<String>,
    pub(super) preexisting: bool,
}

impl NameRow {
    /// Reads the row of `name`.
    pub(super) fn of(conn: &Connection, name: &str) -> Result<Option<Self>> {
        conn.prepare_cached("SELECT alias_of, preexisting FROM sync_images WHERE reference = ?1")?
            .query_row([name], Self::from_row)
            .optional()
    }

    pub(super) fn from_row(row: &Row<'_>) -> Result<Self> {
        // A garbled flag counts as set: then microsandbox's rows are left alone.
        Ok(Self { alias_of: text(row, 0)?, preexisting: integer(row, 1)? != Some(0) })
    }
}
