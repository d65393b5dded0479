//! The config of a recorded image.

use rusqlite::{Connection, OptionalExtension, Result};

use super::rows::text;
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;
use crate::state::{ConfigRecord, Labels, MediaType};

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
        // microsandbox writes a list that is not there as the JSON text `null`, which reads as
        // `None` too.
        let list = |column| {
            Ok::<Option<Vec<String>>, rusqlite::Error>(
                text(row, column)?.and_then(|json| serde_json::from_str(&json).unwrap_or_default()),
            )
        };
        Ok(ConfigRecord {
            digest: ConfigRecord::no_digest(),
            media_type: text(row, 0)?.as_deref().map(MediaType::from).unwrap_or_default(),
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
            labels: Labels::default(),
            rootfs_type: text(row, 12)?.unwrap_or_default(),
            history_json: text(row, 13)?.filter(|json| json != "null"),
        })
    })
    .optional()
}
