//! The tables: microsandbox 0.2's six, ours, and how a database gets from an older state to this
//! one.
//!
//! Column names are the contract with microsandbox, which creates the same tables with `IF NOT
//! EXISTS`: whoever comes first makes them and the other keeps them. Ours start with `sync_` and
//! move through [`MIGRATIONS`], in order; the number of those applied is in `sync_meta`. sqlx's
//! `_sqlx_migrations` is never read or written.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::connection::{home_of, sql_error};
use super::directories;
use crate::error::CatalogError;

/// One table: what follows its name in `CREATE TABLE`, and the columns that our queries use.
struct Table {
    name: &'static str,
    body: &'static str,
    columns: &'static [&'static str],
}

/// microsandbox's tables, parents first.
const MICROSANDBOX: &[Table] = &[
    Table {
        name: "images",
        body: "(id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, size_bytes INTEGER NOT NULL, \
               last_used_at DATETIME, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP)",
        columns: &["id", "reference", "size_bytes", "last_used_at", "created_at", "modified_at"],
    },
    Table {
        name: "indexes",
        body: "(id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL, schema_version INTEGER NOT NULL, \
               media_type TEXT NOT NULL, platform_os TEXT, platform_arch TEXT, platform_variant TEXT, \
               annotations_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "image_id",
            "schema_version",
            "media_type",
            "platform_os",
            "platform_arch",
            "platform_variant",
            "annotations_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "manifests",
        body: "(id INTEGER PRIMARY KEY, index_id INTEGER, image_id INTEGER NOT NULL, \
               schema_version INTEGER NOT NULL, media_type TEXT NOT NULL, annotations_json TEXT, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (index_id) REFERENCES indexes(id) ON DELETE CASCADE, \
               FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "index_id",
            "image_id",
            "schema_version",
            "media_type",
            "annotations_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "configs",
        body: "(id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, media_type TEXT NOT NULL, created DATETIME, \
               architecture TEXT, os TEXT, os_variant TEXT, config_env_json TEXT, config_cmd_json TEXT, \
               config_working_dir TEXT, config_entrypoint_json TEXT, config_volumes_json TEXT, \
               config_exposed_ports_json TEXT, config_user TEXT, rootfs_type TEXT, rootfs_diff_ids_json TEXT, \
               history_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE)",
        columns: &[
            "id",
            "manifest_id",
            "media_type",
            "created",
            "architecture",
            "os",
            "os_variant",
            "config_env_json",
            "config_cmd_json",
            "config_working_dir",
            "config_entrypoint_json",
            "config_volumes_json",
            "config_exposed_ports_json",
            "config_user",
            "rootfs_type",
            "rootfs_diff_ids_json",
            "history_json",
            "created_at",
            "modified_at",
        ],
    },
    Table {
        name: "layers",
        body: "(id INTEGER PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, \
               diff_id TEXT NOT NULL, size_bytes INTEGER NOT NULL, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP)",
        columns: &["id", "media_type", "digest", "diff_id", "size_bytes", "created_at", "modified_at"],
    },
    Table {
        name: "manifest_layers",
        body: "(id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, layer_id INTEGER NOT NULL, \
               created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP, \
               FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE, \
               FOREIGN KEY (layer_id) REFERENCES layers(id) ON DELETE CASCADE, UNIQUE(manifest_id, layer_id))",
        columns: &["id", "manifest_id", "layer_id", "created_at", "modified_at"],
    },
];

/// Our tables, as the newest migration leaves them.
const OURS: &[Table] = &[
    Table {
        name: "sync_meta",
        body: "(key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID",
        columns: &["key", "value"],
    },
    Table {
        name: "sync_images",
        body: "(reference TEXT PRIMARY KEY NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, \
               manifest_digest TEXT NOT NULL, config_digest TEXT NOT NULL, config_json TEXT NOT NULL, \
               alias_of TEXT, preexisting INTEGER NOT NULL, layers_directory BLOB, \
               modified_at DATETIME NOT NULL)",
        columns: &[
            "reference",
            "platform",
            "digest",
            "manifest_digest",
            "config_digest",
            "config_json",
            "alias_of",
            "preexisting",
            "layers_directory",
            "modified_at",
        ],
    },
    Table {
        name: "sync_image_layers",
        body: "(reference TEXT NOT NULL, position INTEGER NOT NULL, digest TEXT NOT NULL, diff_id TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (reference, position)) \
               WITHOUT ROWID",
        columns: &["reference", "position", "digest", "diff_id", "media_type", "size_bytes"],
    },
    // Directories of layers that were ever used, those below the home relative to it.
    Table {
        name: "sync_directories",
        body: "(path BLOB PRIMARY KEY NOT NULL) WITHOUT ROWID",
        columns: &["path"],
    },
    Table {
        name: "sync_owners",
        body: "(reference TEXT NOT NULL, owner TEXT NOT NULL, since DATETIME NOT NULL, \
               PRIMARY KEY (reference, owner)) WITHOUT ROWID",
        columns: &["reference", "owner", "since"],
    },
    // The wishes of owners that are not the usual: layers extracted, no blob kept.
    Table {
        name: "sync_holdings",
        body: "(reference TEXT NOT NULL, owner TEXT NOT NULL, extracts INTEGER NOT NULL, \
               keeps_blobs INTEGER NOT NULL, PRIMARY KEY (reference, owner)) WITHOUT ROWID",
        columns: &["reference", "owner", "extracts", "keeps_blobs"],
    },
    // The documents of images whose blobs somebody keeps.
    Table {
        name: "sync_image_documents",
        body: "(reference TEXT NOT NULL, position INTEGER NOT NULL, role TEXT NOT NULL, digest TEXT NOT NULL, \
               media_type TEXT NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (reference, position)) \
               WITHOUT ROWID",
        columns: &["reference", "position", "role", "digest", "media_type", "size_bytes"],
    },
    // References that were loaded into engines; `engine` is the engine's settings as JSON.
    Table {
        name: "sync_loads",
        body: "(engine TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, reference TEXT NOT NULL, \
               manifest_digest TEXT NOT NULL, listed_digest TEXT, files_json TEXT NOT NULL, \
               since DATETIME NOT NULL, PRIMARY KEY (engine, name, owner)) WITHOUT ROWID",
        columns: &[
            "engine",
            "name",
            "owner",
            "reference",
            "manifest_digest",
            "listed_digest",
            "files_json",
            "since",
        ],
    },
    // Those of them that their owners do not want there any more, and that are still to be removed.
    Table {
        name: "sync_loads_unwanted",
        body: "(engine TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL, \
               PRIMARY KEY (engine, name, owner)) WITHOUT ROWID",
        columns: &["engine", "name", "owner"],
    },
    // Proofs that images are signed, by what their tags mean and by what judged them.
    Table {
        name: "sync_trust",
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, rule TEXT NOT NULL, \
               signed_by TEXT NOT NULL, issuer TEXT, signed_at INTEGER, form TEXT NOT NULL, \
               since DATETIME NOT NULL, PRIMARY KEY (digest, manifest_digest, judged_by)) WITHOUT ROWID",
        columns: &[
            "digest",
            "manifest_digest",
            "judged_by",
            "rule",
            "signed_by",
            "issuer",
            "signed_at",
            "form",
            "since",
        ],
    },
    // The proofs that end, and when: a table of its own, since older catalogs have the other one.
    Table {
        name: "sync_trust_ends",
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, \
               until INTEGER NOT NULL, PRIMARY KEY (digest, manifest_digest, judged_by)) WITHOUT ROWID",
        columns: &["digest", "manifest_digest", "judged_by", "until"],
    },
    // The signatures themselves, as they were served.
    Table {
        name: "sync_signatures",
        body: "(digest TEXT NOT NULL, manifest_digest TEXT NOT NULL, judged_by TEXT NOT NULL, \
               position INTEGER NOT NULL, subject TEXT NOT NULL, place TEXT NOT NULL, artifact TEXT NOT NULL, \
               artifact_manifest BLOB NOT NULL, layer INTEGER NOT NULL, layer_blob BLOB NOT NULL, message BLOB, \
               config_blob BLOB, PRIMARY KEY (digest, manifest_digest, judged_by, position))",
        columns: &[
            "digest",
            "manifest_digest",
            "judged_by",
            "position",
            "subject",
            "place",
            "artifact",
            "artifact_manifest",
            "layer",
            "layer_blob",
            "message",
            "config_blob",
        ],
    },
];

/// One step of our own schema.
type Migration = fn(&Connection, home: &Path) -> rusqlite::Result<()>;

/// The steps, in order. Steps are only ever added: a released one never changes.
const MIGRATIONS: &[Migration] =
    &[own_tables, lookup_indexes, layers_directories, own_tables, own_tables, own_tables, own_tables];

fn own_tables(conn: &Connection, _home: &Path) -> rusqlite::Result<()> {
    OURS.iter().try_for_each(|table| create(conn, "CREATE TABLE IF NOT EXISTS", table))
}

/// Indexes for our lookups from layer to image, and for the foreign keys of microsandbox's tables,
/// without which each deleted row would scan the child table.
fn lookup_indexes(conn: &Connection, _home: &Path) -> rusqlite::Result<()> {
    conn.execute_batch(
        "CREATE INDEX IF NOT EXISTS sync_idx_owners_owner ON sync_owners(owner, reference);
         CREATE INDEX IF NOT EXISTS sync_idx_images_alias_of ON sync_images(alias_of) WHERE alias_of IS NOT NULL;
         CREATE INDEX IF NOT EXISTS sync_idx_image_layers_digest ON sync_image_layers(digest, reference);
         CREATE INDEX IF NOT EXISTS sync_idx_manifest_layers_layer_id ON manifest_layers(layer_id);
         CREATE INDEX IF NOT EXISTS sync_idx_manifests_index_id ON manifests(index_id);",
    )
}

/// Directories of layers become relative to the home, and known by themselves.
fn layers_directories(conn: &Connection, home: &Path) -> rusqlite::Result<()> {
    own_tables(conn, home)?;
    directories::take_over(conn, home)
}

/// microsandbox's own indexes, by its names, so that its migrations find them made.
const MICROSANDBOX_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS idx_indexes_image_id ON indexes(image_id);
    CREATE INDEX IF NOT EXISTS idx_manifests_image_id ON manifests(image_id);
    CREATE INDEX IF NOT EXISTS idx_configs_manifest_id ON configs(manifest_id);
    CREATE INDEX IF NOT EXISTS idx_layers_digest ON layers(digest);
    CREATE INDEX IF NOT EXISTS idx_layers_diff_id ON layers(diff_id);";

/// The schema version that this program writes.
fn newest() -> i64 {
    // A handful of functions: the count fits any integer.
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn create(conn: &Connection, verb: &str, table: &Table) -> rusqlite::Result<()> {
    conn.execute_batch(&format!("{verb} {} {}", table.name, table.body))
}

/// Brings a writable database to the newest schema, in one transaction; writes nothing if it is
/// there already.
pub(super) fn upgrade(conn: &mut Connection, path: &Path) -> Result<(), CatalogError> {
    const DOING: &str = "create the tables of";
    let fail = |error| sql_error(DOING, path, &error);
    if version(conn, path)? == newest() && missing_tables(conn).map_err(fail)?.is_empty() {
        return check_columns(conn, path);
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    upgrade_to(&tx, path, MIGRATIONS.len())?;
    tx.commit().map_err(fail)
}

fn upgrade_to(tx: &Transaction<'_>, path: &Path, steps: usize) -> Result<(), CatalogError> {
    let fail = |error| sql_error("create the tables of", path, &error);
    for table in MICROSANDBOX {
        create(tx, "CREATE TABLE IF NOT EXISTS", table).map_err(fail)?;
    }
    // Before the indexes: one on a column that is not there would fail less clearly.
    check_columns(tx, path)?;
    tx.execute_batch(MICROSANDBOX_INDEXES).map_err(fail)?;
    let done = version(tx, path)?;
    let skip = usize::try_from(done).unwrap_or(usize::MAX);
    for migration in MIGRATIONS.iter().take(steps).skip(skip) {
        migration(tx, home_of(path)).map_err(fail)?;
    }
    if skip < steps {
        let reached = i64::try_from(steps).unwrap_or(i64::MAX);
        tx.execute(
            "INSERT INTO sync_meta (key, value) VALUES ('schema_version', ?1) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [reached],
        )
        .map_err(fail)?;
    }
    if let Some(table) = missing_tables(tx).map_err(fail)?.first() {
        return Err(CatalogError::Schema {
            path: path.to_owned(),
            reason: format!("the table {} is missing, although its version says otherwise", table.name),
        });
    }
    check_columns(tx, path)
}

/// Checks a database that is only read, and tells whether a table is missing: see [`stand_in`].
pub(super) fn lacks_tables(conn: &Connection, path: &Path) -> Result<bool, CatalogError> {
    let fail = |error| sql_error("read the schema of", path, &error);
    conn.execute_batch("PRAGMA temp_store = MEMORY").map_err(fail)?;
    check_columns(conn, path)?;
    version(conn, path)?;
    Ok(!missing_tables(conn).map_err(fail)?.is_empty())
}

/// Makes a read-only database answer every query of the transaction `tx`: a table that is not there
/// (an empty file, or a database that only microsandbox has used) is read as an empty one. The
/// stand-ins live in memory, and no longer than the transaction: the first run may make the true
/// tables right after.
pub(super) fn stand_in(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch("PRAGMA query_only = OFF")?;
    for table in missing_tables(tx)? {
        create(tx, "CREATE TEMP TABLE", table)?;
    }
    tx.execute_batch("PRAGMA query_only = ON")
}

/// Reads how many of our migrations the database has had; 0 for one without our tables.
fn version(conn: &Connection, path: &Path) -> Result<i64, CatalogError> {
    let fail = |error| sql_error("read the schema version of", path, &error);
    if columns_of(conn, "sync_meta").map_err(fail)?.is_empty() {
        return Ok(0);
    }
    let found: Option<Option<i64>> = conn
        .query_row("SELECT value FROM main.sync_meta WHERE key = 'schema_version'", [], |row| {
            Ok(row.get_ref(0)?.as_i64().ok())
        })
        .optional()
        .map_err(fail)?;
    match found {
        Some(Some(found)) if found > newest() => {
            Err(CatalogError::Newer { path: path.to_owned(), found, known: newest() })
        }
        Some(Some(found)) if found >= 0 => Ok(found),
        None => Ok(0),
        Some(_) => Err(CatalogError::Schema {
            path: path.to_owned(),
            reason: "the schema version in table sync_meta is not a number".to_owned(),
        }),
    }
}

fn missing_tables(conn: &Connection) -> rusqlite::Result<Vec<&'static Table>> {
    let mut missing = Vec::new();
    for table in MICROSANDBOX.iter().chain(OURS) {
        if columns_of(conn, table.name)?.is_empty() {
            missing.push(table);
        }
    }
    Ok(missing)
}

/// Every known table that exists must have every column that our queries name.
fn check_columns(conn: &Connection, path: &Path) -> Result<(), CatalogError> {
    for table in MICROSANDBOX.iter().chain(OURS) {
        let found =
            columns_of(conn, table.name).map_err(|error| sql_error("read the schema of", path, &error))?;
        if found.is_empty() {
            continue;
        }
        let lacks = |column: &&&str| !found.iter().any(|have| have.eq_ignore_ascii_case(column));
        if let Some(column) = table.columns.iter().find(lacks) {
            return Err(CatalogError::Schema {
                path: path.to_owned(),
                reason: format!("the table {} has no column {column}", table.name),
            });
        }
    }
    Ok(())
}

fn columns_of(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare_cached("SELECT name FROM pragma_table_info(?1, 'main')")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema_of(conn: &Connection) -> Vec<(String, String)> {
        let mut statement = conn
            .prepare("SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name")
            .expect("sqlite_master is always there");
        statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .expect("two texts a row")
    }

    fn step_to(conn: &mut Connection, steps: usize) {
        let tx = conn.transaction().unwrap();
        upgrade_to(&tx, Path::new("x"), steps).unwrap();
        tx.commit().unwrap();
    }

    #[test]
    fn going_step_by_step_gives_the_schema_of_a_fresh_database() {
        let mut stepped = Connection::open_in_memory().unwrap();
        for steps in 1..=MIGRATIONS.len() {
            step_to(&mut stepped, steps);
            let mut fresh = Connection::open_in_memory().unwrap();
            step_to(&mut fresh, steps);
            assert_eq!(schema_of(&stepped), schema_of(&fresh), "after step {steps}");
            assert_eq!(version(&stepped, Path::new("x")).unwrap(), i64::try_from(steps).unwrap());
        }
        let before = schema_of(&stepped);
        upgrade(&mut stepped, Path::new("x")).unwrap();
        assert_eq!(schema_of(&stepped), before);
    }

    #[test]
    fn the_columns_that_queries_need_are_the_columns_that_are_made() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        for table in MICROSANDBOX.iter().chain(OURS) {
            assert_eq!(columns_of(&conn, table.name).unwrap(), table.columns, "{}", table.name);
        }
    }

    #[test]
    fn an_upgraded_database_is_not_written_again() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        let before = conn.total_changes();
        conn.execute_batch("PRAGMA query_only = ON").unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        assert_eq!(conn.total_changes(), before);
    }

    #[test]
    fn a_newer_or_broken_version_is_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        conn.execute("UPDATE sync_meta SET value = 99", []).unwrap();
        let error = upgrade(&mut conn, Path::new("x")).unwrap_err();
        assert!(matches!(error, CatalogError::Newer { found: 99, .. }), "{error}");
        conn.execute("UPDATE sync_meta SET value = 'x'", []).unwrap();
        let error = upgrade(&mut conn, Path::new("x")).unwrap_err();
        assert!(matches!(error, CatalogError::Schema { .. }), "{error}");
    }

    #[test]
    fn a_table_of_ours_that_somebody_dropped_is_named() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        conn.execute_batch("DROP TABLE sync_owners").unwrap();
        let message = upgrade(&mut conn, Path::new("x")).unwrap_err().to_string();
        assert!(message.contains("sync_owners is missing"), "{message}");
    }

    #[test]
    fn a_table_with_other_columns_is_named_with_the_column_and_nothing_is_changed() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE images (id INTEGER PRIMARY KEY, reference TEXT)").unwrap();
        let before = schema_of(&conn);
        let message = upgrade(&mut conn, Path::new("x")).unwrap_err().to_string();
        assert!(message.contains("the table images has no column size_bytes"), "{message}");
        assert_eq!(schema_of(&conn), before);
    }
}
