//! The tables: microsandbox 0.2's six, ours, and how a database gets from an older state to this
//! one.
//!
//! Column names are the contract with microsandbox, which creates the same tables with `IF NOT
//! EXISTS`: whoever comes first makes them and the other keeps them. Ours start with `sync_` and
//! move through [`MIGRATIONS`], in order; the number of those applied is in `sync_meta`. sqlx's
//! `_sqlx_migrations` is never read or written.

mod tables;

use std::path::Path;

use rusqlite::{Connection, MAIN_DB, OptionalExtension, Transaction, TransactionBehavior};

use self::tables::{MICROSANDBOX, OURS, OUT_OF_ORDER, Table};
use super::connection::{home_of, sql_error};
use super::directories;
use crate::error::CatalogError;

/// One step of our own schema.
type Migration = fn(&Connection, home: &Path) -> rusqlite::Result<()>;

/// The steps, in order. Steps are only ever added: a released one never changes.
const MIGRATIONS: &[Migration] = &[
    own_tables,
    lookup_indexes,
    layers_directories,
    own_tables,
    own_tables,
    own_tables,
    own_tables,
    own_tables,
    histories,
    own_tables,
    own_tables,
    out_of_order,
    load_indexes,
];

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

/// Adds the tables of references in the course of time, with an index for lookups by reference.
fn histories(conn: &Connection, home: &Path) -> rusqlite::Result<()> {
    own_tables(conn, home)?;
    conn.execute_batch(
        "CREATE INDEX IF NOT EXISTS sync_idx_history_reference ON sync_history(reference, id);
         CREATE INDEX IF NOT EXISTS sync_idx_meaning_layers_digest ON sync_meaning_layers(digest, meaning);",
    )
}

/// Adds the notes of images that cannot have their order: of all that are out of order, since
/// whoever reads a note finds out if it still holds.
fn out_of_order(conn: &Connection, home: &Path) -> rusqlite::Result<()> {
    own_tables(conn, home)?;
    conn.execute_batch(
        "DELETE FROM sync_meta WHERE key GLOB 'out-of-order *';
         DELETE FROM sync_out_of_order;
         INSERT INTO sync_out_of_order
         SELECT DISTINCT reference FROM (
             SELECT own.reference, layers.id < lag(layers.id) OVER (
                        PARTITION BY own.reference ORDER BY own.position) AS is_below
               FROM sync_image_layers AS own JOIN layers ON layers.digest = own.digest
              WHERE NOT EXISTS (SELECT 1 FROM sync_image_layers AS again
                                 WHERE again.digest = own.digest AND again.reference = own.reference
                                   AND again.position > own.position))
          WHERE is_below;",
    )
}

/// Indexes for lookups of what engines were given, whatever engine that is.
fn load_indexes(conn: &Connection, _home: &Path) -> rusqlite::Result<()> {
    conn.execute_batch(
        "CREATE INDEX IF NOT EXISTS sync_idx_loads_name ON sync_loads(name);
         CREATE INDEX IF NOT EXISTS sync_idx_loads_owner ON sync_loads(owner);",
    )
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
    let done = version(conn, path)?;
    if done == newest() && missing_tables(conn, path, done)?.is_empty() {
        return check_columns(conn, path);
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    upgrade_to(&tx, path, MIGRATIONS.len())?;
    tx.commit().map_err(fail)
}

/// Returns the bytes of a catalog in which nothing is recorded.
pub(super) fn of_new_catalog(path: &Path) -> Option<Vec<u8>> {
    let mut conn = Connection::open_in_memory().ok()?;
    upgrade(&mut conn, path).ok()?;
    Some(conn.serialize(MAIN_DB).ok()?.to_vec())
}

fn upgrade_to(tx: &Transaction<'_>, path: &Path, steps: usize) -> Result<(), CatalogError> {
    let fail = |error| sql_error("create the tables of", path, &error);
    let done = version(tx, path)?;
    missing_tables(tx, path, done)?;
    for table in MICROSANDBOX {
        create(tx, "CREATE TABLE IF NOT EXISTS", table).map_err(fail)?;
    }
    // Before the indexes: one on a column that is not there would fail less clearly.
    check_columns(tx, path)?;
    tx.execute_batch(MICROSANDBOX_INDEXES).map_err(fail)?;
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
    check_columns(tx, path)
}

/// The schema of a database that is only read.
pub(super) struct Found {
    /// True if a table is missing: see [`stand_in`].
    pub(super) lacks_tables: bool,
    /// True if the database has had any of our migrations.
    pub(super) is_ours: bool,
}

/// Checks a database that is only read.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<Found, CatalogError> {
    let fail = |error| sql_error("read the schema of", path, &error);
    conn.execute_batch("PRAGMA temp_store = MEMORY").map_err(fail)?;
    check_columns(conn, path)?;
    let version = version(conn, path)?;
    let missing = missing_tables(conn, path, version)?;
    Ok(Found { lacks_tables: !missing.is_empty(), is_ours: version > 0 })
}

/// Makes a read-only database answer every query of the transaction `tx`: a table that is not there
/// (an empty file, or a database that only microsandbox has used) is read as an empty one. The
/// stand-ins live in memory, and no longer than the transaction: the first run may make the true
/// tables right after. Where nobody has noted yet which images cannot have their order, each may be
/// one.
pub(super) fn stand_in(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch("PRAGMA query_only = OFF")?;
    for table in all_missing(tx)? {
        if table.name == OUT_OF_ORDER {
            tx.execute_batch("CREATE TEMP VIEW sync_out_of_order AS SELECT reference FROM sync_images")?;
        } else {
            create(tx, "CREATE TEMP TABLE", table)?;
        }
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
        Some(found) => {
            let found = found.map_or_else(|| "not a number".to_owned(), |found| found.to_string());
            let reason = format!("the schema version in its table sync_meta is {found}");
            Err(CatalogError::Corrupt { path: path.to_owned(), reason })
        }
    }
}

/// Lists the tables that a database which has had `done` of our migrations lacks; an error if that
/// is one of ours that it once had. What was recorded there is lost, and an empty one would say
/// that nothing ever was.
fn missing_tables(conn: &Connection, path: &Path, done: i64) -> Result<Vec<&'static Table>, CatalogError> {
    let missing = all_missing(conn).map_err(|error| sql_error("read the schema of", path, &error))?;
    match missing.iter().find(|table| table.since <= done) {
        None => Ok(missing),
        Some(table) => Err(CatalogError::Corrupt {
            path: path.to_owned(),
            reason: format!("the table {} is missing, although its version says otherwise", table.name),
        }),
    }
}

fn all_missing(conn: &Connection) -> rusqlite::Result<Vec<&'static Table>> {
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
        assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("is not a number"), "{error}");
        conn.execute("UPDATE sync_meta SET value = -1", []).unwrap();
        let error = upgrade(&mut conn, Path::new("x")).unwrap_err();
        assert!(error.to_string().contains("is -1") && error.hint().unwrap().contains("move"), "{error}");
    }

    #[test]
    fn a_table_of_ours_that_somebody_dropped_is_named_to_readers_too() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        conn.execute_batch("DROP TABLE layers").unwrap();
        let found = check(&conn, Path::new("x")).unwrap();
        assert!(found.lacks_tables && found.is_ours, "microsandbox's is made again");
        conn.execute_batch("DROP TABLE sync_owners").unwrap();
        let by_reader = check(&conn, Path::new("x")).map(|_| ()).unwrap_err();
        for error in [by_reader, upgrade(&mut conn, Path::new("x")).unwrap_err()] {
            assert!(error.to_string().contains("sync_owners is missing"), "{error}");
            assert_eq!(error.kind(), "catalog-corrupt");
        }
    }

    #[test]
    fn a_table_of_an_older_schema_that_somebody_dropped_is_not_made_anew() {
        let mut conn = Connection::open_in_memory().unwrap();
        upgrade(&mut conn, Path::new("x")).unwrap();
        conn.execute_batch("UPDATE sync_meta SET value = 10; DROP TABLE sync_candidates_ahead").unwrap();
        assert!(check(&conn, Path::new("x")).unwrap().lacks_tables, "a later step makes it");
        conn.execute_batch("DROP TABLE sync_image_layers").unwrap();
        let by_reader = check(&conn, Path::new("x")).map(|_| ()).unwrap_err();
        for error in [by_reader, upgrade(&mut conn, Path::new("x")).unwrap_err()] {
            assert!(error.to_string().contains("sync_image_layers is missing"), "{error}");
            assert_eq!(error.kind(), "catalog-corrupt");
        }
    }

    #[test]
    fn a_database_without_our_tables_is_not_ours() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert!(!check(&conn, Path::new("x")).unwrap().is_ours);
        for table in MICROSANDBOX {
            create(&conn, "CREATE TABLE", table).unwrap();
        }
        assert!(!check(&conn, Path::new("x")).unwrap().is_ours);
        upgrade(&mut conn, Path::new("x")).unwrap();
        assert!(check(&conn, Path::new("x")).unwrap().is_ours);
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
