//! The catalog from outside: microsandbox 0.2's own queries and tables against what we write,
//! hostile rows, other processes, and random histories against a model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::StatementStatus;
use tempfile::TempDir;

use super::write::{Forgotten, Held};
use super::*;
use crate::cancel::Cancel;
use crate::digest::{Algorithm, DiffId};
use crate::image_ref::DEFAULT_REGISTRY;
use crate::locked_home::LockedHome;
use crate::progress::Silent;
use crate::state::{
    DocumentDescriptor, DocumentRecord, DocumentRole, EngineFile, EngineName, EngineSettings, Labels,
    LayerDescriptor, Platform, ResolvedImage, SignaturePlace,
};

/// The join by which microsandbox 0.2 finds an image's layers.
const MSB_LAYERS: &str =
    "SELECT l.id, l.media_type, l.digest, l.diff_id, l.size_bytes, l.created_at, l.modified_at
    FROM layers l
    JOIN manifest_layers ml ON l.id = ml.layer_id
    JOIN manifests m ON ml.manifest_id = m.id
    JOIN images i ON m.image_id = i.id
    WHERE i.reference = ? ORDER BY l.id ASC";

/// The join by which microsandbox 0.2 finds an image's config.
const MSB_CONFIG: &str = "SELECT c.* FROM configs c JOIN manifests m ON c.manifest_id = m.id
    JOIN images i ON m.image_id = i.id WHERE i.reference = ? LIMIT 1";

/// A database as microsandbox 0.2 makes it, by its own statements.
const MSB_DATABASE: &str = "
    CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
        installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL,
        execution_time BIGINT NOT NULL);
    INSERT INTO _sqlx_migrations VALUES (20250128014900, 'create images', '2025-06-01 10:00:00', 1, x'00', 5);
    CREATE TABLE IF NOT EXISTS images (id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE,
        size_bytes INTEGER NOT NULL, last_used_at DATETIME, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE IF NOT EXISTS indexes (id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL,
        schema_version INTEGER NOT NULL, media_type TEXT NOT NULL, platform_os TEXT, platform_arch TEXT,
        platform_variant TEXT, annotations_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE);
    CREATE INDEX IF NOT EXISTS idx_indexes_image_id ON indexes(image_id);
    CREATE TABLE IF NOT EXISTS manifests (id INTEGER PRIMARY KEY, index_id INTEGER, image_id INTEGER NOT NULL,
        schema_version INTEGER NOT NULL, media_type TEXT NOT NULL, annotations_json TEXT,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (index_id) REFERENCES indexes(id) ON DELETE CASCADE,
        FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE);
    CREATE TABLE IF NOT EXISTS configs (id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL,
        media_type TEXT NOT NULL, created DATETIME, architecture TEXT, os TEXT, os_variant TEXT,
        config_env_json TEXT, config_cmd_json TEXT, config_working_dir TEXT, config_entrypoint_json TEXT,
        config_volumes_json TEXT, config_exposed_ports_json TEXT, config_user TEXT, rootfs_type TEXT,
        rootfs_diff_ids_json TEXT, history_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE);
    CREATE TABLE IF NOT EXISTS layers (id INTEGER PRIMARY KEY, media_type TEXT NOT NULL,
        digest TEXT NOT NULL UNIQUE, diff_id TEXT NOT NULL, size_bytes INTEGER NOT NULL,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX IF NOT EXISTS idx_layers_digest ON layers(digest);
    CREATE INDEX IF NOT EXISTS idx_layers_diff_id ON layers(diff_id);
    CREATE TABLE IF NOT EXISTS manifest_layers (id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL,
        layer_id INTEGER NOT NULL, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE,
        FOREIGN KEY (layer_id) REFERENCES layers(id) ON DELETE CASCADE, UNIQUE(manifest_id, layer_id));";

struct Sandbox {
    dir: TempDir,
    home: LockedHome,
}

fn locked(home: &Path) -> LockedHome {
    LockedHome::acquire(home, "test", &Cancel::new(), Arc::new(Silent)).unwrap()
}

impl Sandbox {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { home: locked(dir.path()), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("oci.db")
    }

    /// A database that microsandbox made and pulled `reference` with `layers` into.
    fn of_microsandbox(reference: &str, layers: &[&str]) -> Self {
        let sandbox = Self::new();
        let sql = sandbox.sql();
        sql.execute_batch(MSB_DATABASE).unwrap();
        sql.execute(
            "INSERT INTO images (reference, size_bytes, last_used_at) VALUES (?, 9, CURRENT_TIMESTAMP)",
            [reference],
        )
        .unwrap();
        sql.execute_batch(
            "INSERT INTO manifests (index_id, image_id, schema_version, media_type) VALUES (NULL, 1, 2, 'm');
             INSERT INTO configs (manifest_id, media_type, created, architecture, os, config_env_json, config_cmd_json)
             VALUES (1, 'c', '2025-01-01T00:00:00+00:00', 'amd64', 'linux', 'null', '[\"sh\"]');",
        )
        .unwrap();
        for name in layers {
            let layer = layer(name);
            sql.execute(
                "INSERT INTO layers (media_type, digest, size_bytes, diff_id) VALUES (?, ?, ?, ?)",
                (
                    layer.media_type.as_str(),
                    layer.digest.as_str(),
                    layer.size.cast_signed(),
                    layer.diff_id.as_str(),
                ),
            )
            .unwrap();
            sql.execute(
                "INSERT INTO manifest_layers (manifest_id, layer_id) VALUES (1, ?)",
                [sql.last_insert_rowid()],
            )
            .unwrap();
        }
        sandbox
    }

    fn open(&self) -> WritableCatalog {
        WritableCatalog::open(&self.home).unwrap()
    }

    fn reader(&self) -> Catalog {
        Catalog::open_read_only(self.dir.path()).unwrap().unwrap()
    }

    fn sql(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn count(&self, table: &str) -> i64 {
        self.sql().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    /// The names of the layers that microsandbox stacks, base first.
    fn stacked(&self, reference: &str) -> Vec<String> {
        let conn = self.sql();
        let mut statement = conn.prepare(MSB_LAYERS).unwrap();
        let digests: Vec<String> = statement
            .query_map([reference], |row| {
                for column in [5, 6] {
                    assert_timestamp(&row.get::<_, String>(column)?);
                }
                row.get(2)
            })
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        digests.iter().map(|digest| name_of(digest)).collect()
    }

    fn assert_sound(&self) {
        let conn = self.sql();
        let broken: Vec<String> = conn
            .prepare("PRAGMA foreign_key_check")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(broken.is_empty(), "dangling rows in {broken:?}");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }

    fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".msb-sync.lock")
            .collect();
        files.sort();
        files
    }
}

/// The form is microsandbox's `%Y-%m-%d %H:%M:%S`, which panics on anything else.
fn assert_timestamp(text: &str) {
    jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).unwrap();
}

fn reference(text: &str) -> ImageRef {
    ImageRef::parse(text, DEFAULT_REGISTRY).unwrap()
}

fn layer(name: &str) -> LayerDescriptor {
    LayerDescriptor {
        digest: BlobDigest::of(Algorithm::Sha256, name.as_bytes()),
        diff_id: DiffId::of(Algorithm::Sha256, format!("tar of {name}").as_bytes()),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        size: 100 + name.len() as u64,
    }
}

const LAYER_NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn name_of(digest: &str) -> String {
    LAYER_NAMES
        .iter()
        .find(|name| layer(name).digest.as_str() == digest)
        .map_or_else(|| digest.to_owned(), |name| (*name).to_owned())
}

fn labels(value: &str) -> Labels {
    Labels::new(&BTreeMap::from([("l".to_owned(), value.to_owned())]))
}

fn image(name: &str, layers: &[&str]) -> ResolvedImage {
    let content = format!("{name} {layers:?}");
    let digest = |kind: &str| BlobDigest::of(Algorithm::Sha256, format!("{kind} {content}").as_bytes());
    let strings = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    ResolvedImage {
        reference: reference(name),
        platform: Platform::parse("linux/arm/v7").unwrap(),
        digest: digest("index"),
        index: Some(DocumentRecord {
            digest: digest("index"),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            annotations_json: Some(r#"{"k":"v"}"#.to_owned()),
        }),
        manifest: DocumentRecord {
            digest: digest("manifest"),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            annotations_json: None,
        },
        config: ConfigRecord {
            digest: digest("config"),
            media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
            created: Some("2024-05-22T18:18:12.120Z".to_owned()),
            architecture: "arm".to_owned(),
            os: "linux".to_owned(),
            variant: Some("v7".to_owned()),
            env: strings(&["PATH=/bin", "A=\"b\""]),
            cmd: strings(&["sh"]),
            working_dir: Some("/srv".to_owned()),
            entrypoint: None,
            volumes: strings(&["/data"]),
            exposed_ports: strings(&["80/tcp"]),
            user: Some("1000:1000".to_owned()),
            stop_signal: Some("SIGINT".to_owned()),
            labels: labels("x"),
            rootfs_type: "layers".to_owned(),
            history_json: Some("[{\"created_by\":\"x\"}]".to_owned()),
        },
        documents: Arc::default(),
        layers: layers.iter().map(|name| layer(name)).collect(),
    }
}

/// The wishes of most owners.
fn usual() -> Holding<'static> {
    Holding { layers: Path::new("/layers"), extracts: true, keeps_blobs: false }
}

fn file(name: &str) -> Owner {
    Owner(format!("/etc/{name}.toml"))
}

fn put(catalog: &mut WritableCatalog, name: &str, layers: &[&str], owner: &Owner) {
    catalog.record(&image(name, layers), &reference(name).recorded_names(), owner, usual()).unwrap();
}

fn one(catalog: &Catalog, name: &str) -> Option<RecordedImage> {
    catalog.recorded(&[reference(name)]).unwrap().pop()
}

fn digests(names: &[&str]) -> BTreeSet<BlobDigest> {
    names.iter().map(|name| layer(name).digest).collect()
}

fn refs(names: &[&str]) -> BTreeSet<ImageRef> {
    names.iter().map(|name| reference(name)).collect()
}

const ALPINE: &str = "docker.io/library/alpine:3.20";

// --------------------------------------------------------------------------------- microsandbox

#[test]
fn microsandbox_finds_what_we_record() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["c", "a", "b"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["c", "a", "b"]);

    let conn = sandbox.sql();
    let mut wanted = vec![layer("c"), layer("a"), layer("b")];
    let found: i64 = conn
        .query_row(
            "SELECT count(*) FROM (SELECT id, media_type, digest FROM layers WHERE digest IN (?, ?, ?))",
            rusqlite::params_from_iter(wanted.drain(..).map(|layer| layer.digest.as_str().to_owned())),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(found, 3);

    let text = |column: &str| -> Option<String> {
        conn.query_row(MSB_CONFIG, [ALPINE], |row| row.get(column)).unwrap()
    };
    assert_eq!(text("created").unwrap(), "2024-05-22T18:18:12.120Z");
    assert_eq!(text("config_env_json").unwrap(), r#"["PATH=/bin","A=\"b\""]"#);
    assert_eq!(text("config_entrypoint_json"), None);
    assert_eq!(text("config_exposed_ports_json").unwrap(), r#"["80/tcp"]"#);
    assert_eq!(text("os_variant").unwrap(), "v7");
    assert_eq!(text("config_working_dir").unwrap(), "/srv");
    assert_eq!(text("history_json").unwrap(), "[{\"created_by\":\"x\"}]");
    let diff_ids: Vec<DiffId> = serde_json::from_str(&text("rootfs_diff_ids_json").unwrap()).unwrap();
    assert_eq!(diff_ids, [layer("c").diff_id, layer("a").diff_id, layer("b").diff_id]);
    for column in ["created_at", "modified_at"] {
        assert_timestamp(&text(column).unwrap());
    }

    // This is what microsandbox does after a pull of its own.
    let id: i64 = conn
        .query_row(
            "UPDATE images SET size_bytes = ?, last_used_at = CURRENT_TIMESTAMP, modified_at = CURRENT_TIMESTAMP
             WHERE reference = ? RETURNING id, reference, size_bytes, last_used_at, created_at, modified_at",
            (5, ALPINE),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(id, 1);
    let (os, arch, variant, annotations): (String, String, String, String) = conn
        .query_row(
            "SELECT platform_os, platform_arch, platform_variant, x.annotations_json FROM indexes x
             JOIN manifests m ON m.index_id = x.id WHERE m.image_id = 1 AND m.annotations_json IS NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!((os.as_str(), arch.as_str(), variant.as_str()), ("linux", "arm", "v7"));
    assert_eq!(annotations, r#"{"k":"v"}"#);
    sandbox.assert_sound();
}

#[test]
fn a_creation_time_that_microsandbox_could_not_parse_is_not_written() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    for (text, kept) in [
        ("2024-05-22T18:18:12Z", true),
        ("2024-05-22T18:18:12.123456789+02:00", true),
        ("2024-05-22 18:18:12Z", false),
        ("20240522T181812Z", false),
        ("2024-13-22T18:18:12Z", false),
        ("2024-05-22T18:18:12", false),
        ("2024-05-22T18:18:12Z[UTC]", false),
        ("", false),
        ("now", false),
    ] {
        let mut image = image(ALPINE, &["a"]);
        image.config.created = Some(text.to_owned());
        catalog.record(&image, &[reference(ALPINE)], &file("one"), usual()).unwrap();
        let created: Option<String> =
            sandbox.sql().query_row("SELECT created FROM configs", [], |row| row.get(0)).unwrap();
        assert_eq!(created.as_deref(), kept.then_some(text));
    }
}

#[test]
fn a_database_of_microsandbox_is_opened_read_and_kept() {
    let theirs = "docker.io/library/python:3.12";
    let sandbox = Sandbox::of_microsandbox(theirs, &["a", "b"]);
    let reader = sandbox.reader();
    let found = one(&reader, theirs).unwrap();
    assert!(found.rows_complete && found.preexisting && found.owners.is_empty());
    assert_eq!((found.digest, found.platform), (None, None));
    assert_eq!(found.layers[..], [layer("a"), layer("b")]);
    let config = reader.config(&reference(theirs)).unwrap().unwrap();
    assert_eq!((config.env, config.cmd), (None, Some(vec!["sh".to_owned()])));
    assert_eq!(reader.layers_needed_outside(&BTreeSet::new()).unwrap(), digests(&["a", "b"]));

    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "c"], &file("one"));
    let forgotten = catalog.forget(&[reference(theirs)], None).unwrap();
    assert_eq!(forgotten.kept, refs(&[theirs]));
    let forgotten = catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(forgotten.removed, refs(&[ALPINE]));
    assert_eq!(forgotten.unneeded_layers, digests(&["c"]));
    assert_eq!(sandbox.stacked(theirs), ["a", "b"]);
    assert_eq!(sandbox.count("_sqlx_migrations"), 1);
    // Its migrations, which run again at its next start, find everything made.
    let again = MSB_DATABASE.split_once("CREATE TABLE IF NOT EXISTS images").unwrap().1;
    sandbox.sql().execute_batch(&format!("CREATE TABLE IF NOT EXISTS images{again}")).unwrap();
    sandbox.assert_sound();
}

#[test]
fn an_image_that_microsandbox_had_first_stays_when_we_forget_it() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a", "b"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    assert!(one(&catalog, ALPINE).unwrap().preexisting);
    put(&mut catalog, ALPINE, &["a", "b", "d"], &file("one"));
    let forgotten = catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(forgotten, Forgotten { kept: refs(&[ALPINE]), ..Forgotten::default() });
    assert_eq!(sandbox.stacked(ALPINE), ["a", "b", "d"]);
    let found = one(&catalog, ALPINE).unwrap();
    assert!(found.owners.is_empty() && found.digest.is_none() && found.rows_complete);
    assert_eq!(sandbox.count("layers"), 3);
}

// ------------------------------------------------------------------------------------ recording

#[test]
fn what_is_recorded_is_read_back() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let image = image(ALPINE, &["a", "b"]);
    catalog.record(&image, &[reference(ALPINE)], &file("one"), usual()).unwrap();
    catalog.adopt(&[reference(ALPINE), reference("nope")], &Owner::pull(), usual()).unwrap();
    for catalog in [&catalog, &sandbox.reader()] {
        let found = one(catalog, ALPINE).unwrap();
        assert_timestamp(&found.modified_at);
        assert_eq!(
            found,
            RecordedImage {
                reference: reference(ALPINE),
                platform: Some(image.platform.clone()),
                digest: Some(image.digest.clone()),
                manifest_digest: Some(image.manifest.digest.clone()),
                config_digest: Some(image.config.digest.clone()),
                layers: image.layers.clone(),
                documents: Arc::default(),
                owners: BTreeSet::from([file("one"), Owner::pull()]),
                extracted_for: BTreeSet::from([file("one"), Owner::pull()]),
                blobs_kept_for: BTreeSet::new(),
                rows_complete: true,
                alias_of: None,
                preexisting: false,
                layers_directory: Some("/layers".into()),
                modified_at: found.modified_at.clone(),
                created: image.config.created.clone(),
            }
        );
        assert_eq!(catalog.config(&reference(ALPINE)).unwrap().unwrap(), image.config);
        assert_eq!(catalog.all().unwrap(), std::slice::from_ref(&found));
        assert_eq!(catalog.owned_by(&Owner::pull()).unwrap(), [found]);
        assert_eq!(catalog.owned_by(&file("two")).unwrap(), []);
        assert_eq!(one(catalog, "nope"), None);
    }
}

#[test]
fn an_update_replaces_the_old_rows_and_keeps_shared_layers() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, "other:1", &["a"], &file("one"));
    put(&mut catalog, ALPINE, &["a", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a", "c"]);
    for (table, rows) in [
        ("images", 2),
        ("indexes", 2),
        ("manifests", 2),
        ("configs", 2),
        ("layers", 2),
        ("manifest_layers", 3),
    ] {
        assert_eq!(sandbox.count(table), rows, "{table}");
    }
    let ids: Vec<i64> = sandbox
        .sql()
        .prepare("SELECT id FROM layers WHERE digest = ?")
        .unwrap()
        .query_map([layer("a").digest.as_str()], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(ids, [1], "a layer in use keeps its id");
    sandbox.assert_sound();
}

#[test]
fn an_image_without_index_config_lists_or_layers_is_recorded() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let mut bare = image("bare:1", &[]);
    bare.index = None;
    bare.config.env = None;
    bare.config.history_json = None;
    catalog.record(&bare, &[reference("bare:1")], &file("one"), usual()).unwrap();
    let found = one(&catalog, "bare:1").unwrap();
    assert!(found.rows_complete && found.layers.is_empty());
    assert_eq!(sandbox.count("indexes"), 0);
}

#[test]
fn names_with_a_digest_are_recorded_in_full() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let digest = layer("a").digest;
    for name in [format!("quay.io/x/y@{digest}"), format!("quay.io/x/y:1@{digest}")] {
        put(&mut catalog, &name, &["a"], &file("one"));
        assert_eq!(sandbox.stacked(&name), ["a"]);
        assert_eq!(one(&catalog, &name).unwrap().reference.to_string(), name);
    }
}

#[test]
fn a_layer_that_occurs_twice_has_one_row_in_its_upper_place() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "a", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["b", "a", "c"]);
    let found = one(&catalog, ALPINE).unwrap();
    assert_eq!(found.layers[..], [layer("a"), layer("b"), layer("a"), layer("c")]);
    assert!(found.rows_complete);
    let linked: Vec<String> = sandbox
        .sql()
        .prepare("SELECT digest FROM manifest_layers ml JOIN layers l ON l.id = layer_id ORDER BY ml.id")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|digest| name_of(&digest.unwrap()))
        .collect();
    assert_eq!(linked, ["a", "b", "c"]);
}

#[test]
fn layers_are_stacked_in_order_in_every_image_even_on_a_new_base() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/python:3.12", &["a", "b"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    put(&mut catalog, "other:1", &["a", "b", "c", "d"], &file("one"));
    // b and c on another base, as `COPY --link` makes them.
    put(&mut catalog, ALPINE, &["e", "b", "c"], &file("one"));
    put(&mut catalog, "third:1", &["f", "e", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["e", "b", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/other:1"), ["a", "b", "c", "d"]);
    assert_eq!(sandbox.stacked("docker.io/library/third:1"), ["f", "e", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/python:3.12"), ["a", "b"]);
    sandbox.assert_sound();
}

#[test]
fn layers_that_only_the_replaced_image_used_are_put_in_the_new_order() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a", "b"]);
    put(&mut sandbox.open(), ALPINE, &["b", "a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["b", "a"]);
    sandbox.assert_sound();
}

#[test]
fn opposite_orders_keep_the_first_image_right_and_the_second_present() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, "other:1", &["b", "a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a", "b"]);
    assert!(one(&catalog, "other:1").unwrap().rows_complete);
    sandbox.assert_sound();
}

// ----------------------------------------------------------------------------- owners and names

#[test]
fn an_image_of_two_owners_stays_until_both_drop_it() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, ALPINE, &["a", "b"], &file("two"));
    put(&mut catalog, "other:1", &["a"], &file("one"));
    let stranger = catalog.forget(&[reference(ALPINE)], Some(&file("three"))).unwrap();
    assert_eq!(stranger, Forgotten { kept: refs(&[ALPINE]), ..Forgotten::default() });
    let first = catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(first, Forgotten { kept: refs(&[ALPINE]), ..Forgotten::default() });
    assert_eq!(one(&catalog, ALPINE).unwrap().owners, BTreeSet::from([file("two")]));
    let second = catalog.forget(&[reference(ALPINE)], Some(&file("two"))).unwrap();
    let expected =
        Forgotten { removed: refs(&[ALPINE]), kept: BTreeSet::new(), unneeded_layers: digests(&["b"]) };
    assert_eq!(second, expected);
    assert_eq!(one(&catalog, ALPINE), None);
    assert_eq!((sandbox.count("layers"), sandbox.count("images"), sandbox.count("configs")), (1, 1, 1));
    assert_eq!(catalog.forget(&[reference(ALPINE)], None).unwrap(), Forgotten::default());
}

#[test]
fn remove_forgets_whoever_owns_it() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    catalog.adopt(&[reference(ALPINE)], &Owner::pull(), usual()).unwrap();
    let forgotten = catalog.forget(&[reference(ALPINE)], None).unwrap();
    assert_eq!((forgotten.removed, forgotten.unneeded_layers), (refs(&[ALPINE]), digests(&["a"])));
    for table in ["images", "layers", "sync_images", "sync_image_layers", "sync_owners"] {
        assert_eq!(sandbox.count(table), 0, "{table}");
    }
}

#[test]
fn a_second_name_lives_and_dies_with_its_image() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, first, &["a"], &file("one"));
    assert_eq!(sandbox.stacked(second), ["a"]);
    let alias = one(&catalog, second).unwrap();
    assert_eq!(alias.alias_of, Some(reference(first)));
    assert_eq!(alias.owners, BTreeSet::from([file("one")]));
    assert_eq!(catalog.owned_by(&file("one")).unwrap().len(), 2);
    assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), BTreeSet::new());
    assert_eq!(catalog.layers_needed_outside(&refs(&[second])).unwrap(), digests(&["a"]));
    // By itself it cannot be removed.
    assert_eq!(catalog.forget(&[reference(second)], None).unwrap().kept, refs(&[second]));
    assert_eq!(catalog.forget(&[reference(first)], None).unwrap().removed, refs(&[first, second]));
    assert_eq!(sandbox.count("images"), 0);
}

#[test]
fn a_second_name_that_somebody_wants_for_itself_stays() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    for wanted_first in [true, false] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        let mut names = vec![first, second];
        if wanted_first {
            names.reverse();
        }
        for name in names {
            put(&mut catalog, name, &["a"], &file("one"));
        }
        assert_eq!(one(&catalog, second).unwrap().alias_of, None);
        assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), digests(&["a"]));
        let forgotten = catalog.forget(&[reference(first)], Some(&file("one"))).unwrap();
        assert_eq!(forgotten.removed, refs(&[first]));
        assert_eq!(sandbox.stacked(second), ["a"]);

        // And the other way round: not wanted for itself any more, it is a second name again.
        put(&mut catalog, first, &["a"], &file("two"));
        assert_eq!(catalog.forget(&[reference(second)], None).unwrap().kept, refs(&[second]));
        assert_eq!(one(&catalog, second).unwrap().alias_of, Some(reference(first)));
    }
}

#[test]
fn a_second_name_that_microsandbox_had_first_stays() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a"]);
    let mut catalog = sandbox.open();
    let first = "sandboxes.io/library/alpine:3.20";
    put(&mut catalog, first, &["a"], &file("one"));
    assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), digests(&["a"]));
    let forgotten = catalog.forget(&[reference(first)], None).unwrap();
    assert_eq!((forgotten.removed, forgotten.unneeded_layers), (refs(&[first]), BTreeSet::new()));
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
}

#[test]
fn layers_of_other_images_and_of_unfinished_pulls_are_needed() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/python:3.12", &["a"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    put(&mut catalog, "other:1", &["b", "d"], &file("two"));
    sandbox
        .sql()
        .execute(
            "INSERT INTO layers (media_type, digest, diff_id, size_bytes) VALUES ('', ?, 'x', 1)",
            [layer("h").digest.as_str()],
        )
        .unwrap();
    let outside = |names: &[&str]| catalog.layers_needed_outside(&refs(names)).unwrap();
    assert_eq!(outside(&[]), digests(&["a", "b", "c", "d", "h"]));
    assert_eq!(outside(&[ALPINE]), digests(&["a", "b", "d", "h"]));
    assert_eq!(outside(&[ALPINE, "other:1"]), digests(&["a", "h"]));
    // Our rows count even where microsandbox's are gone.
    sandbox.sql().execute_batch("PRAGMA foreign_keys = ON; DELETE FROM images; DELETE FROM layers").unwrap();
    assert_eq!(outside(&[ALPINE]), digests(&["b", "d"]));
}

// ------------------------------------------------------------------------------ hostile content

#[test]
fn damaged_rows_are_noticed_and_recording_again_heals_them() {
    for damage in [
        "DELETE FROM configs",
        "DELETE FROM manifests",
        "DELETE FROM manifest_layers WHERE id = 1",
        "DELETE FROM layers WHERE id = 2",
        "DELETE FROM images",
        "UPDATE layers SET diff_id = 'sha256:0' WHERE id = 1",
        "UPDATE layers SET diff_id = digest WHERE id = 1",
        "UPDATE layers SET size_bytes = size_bytes + 1 WHERE id = 1",
        "UPDATE layers SET size_bytes = 'many' WHERE id = 1",
        "UPDATE layers SET size_bytes = -1",
        "UPDATE layers SET digest = x'00' WHERE id = 1",
        "UPDATE layers SET created_at = '2024-05-22T18:18:12Z'",
        "UPDATE layers SET modified_at = NULL",
        "UPDATE images SET created_at = 'x'",
        "UPDATE configs SET created_at = '2024-05-22T18:18:12Z'",
        "UPDATE configs SET created = 'yesterday'",
        "UPDATE configs SET os = NULL",
        "INSERT INTO manifests (image_id, schema_version, media_type) VALUES (1, 2, 'x')",
        "INSERT INTO configs (manifest_id, media_type) VALUES (1, 'x')",
        // Without its UNIQUE, so that a layer can be linked twice.
        "CREATE TABLE loose AS SELECT * FROM manifest_layers; DROP TABLE manifest_layers;
         ALTER TABLE loose RENAME TO manifest_layers;
         INSERT INTO manifest_layers SELECT 9, manifest_id, layer_id, created_at, modified_at
             FROM manifest_layers WHERE id = 1",
        "UPDATE sync_images SET digest = 'sha256:../../etc'",
        "UPDATE sync_images SET platform = x'ff'",
        "UPDATE sync_images SET config_json = '{', modified_at = 7",
        "UPDATE sync_image_layers SET position = 7 WHERE position = 0",
        "UPDATE sync_image_layers SET diff_id = 7",
        "DELETE FROM sync_image_layers WHERE position = 1",
        "DELETE FROM sync_image_layers",
        "UPDATE sync_images SET alias_of = reference",
        "UPDATE sync_images SET alias_of = x'00', preexisting = 'maybe', digest = ''",
    ] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
        sandbox.sql().execute_batch(&format!("PRAGMA foreign_keys = ON; {damage}")).unwrap();
        let harmless = damage.contains("alias_of = reference");
        for found in [one(&catalog, ALPINE), catalog.all().unwrap().pop(), one(&sandbox.reader(), ALPINE)] {
            assert_eq!(found.is_some_and(|found| found.rows_complete), harmless, "{damage}");
        }
        catalog.layers_needed_outside(&refs(&[ALPINE])).unwrap();
        catalog.config(&reference(ALPINE)).unwrap();
        put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
        let found = one(&catalog, ALPINE).unwrap();
        assert!(found.rows_complete && found.digest.is_some(), "{damage}: {found:?}");
        assert_eq!(sandbox.stacked(ALPINE), ["a", "b"], "{damage}");
        sandbox.assert_sound();
        catalog.forget(&[reference(ALPINE)], None).unwrap();
    }
}

#[test]
fn names_and_rows_of_nonsense_are_passed_over() {
    let sandbox = Sandbox::of_microsandbox("not a reference", &["a"]);
    let sql = sandbox.sql();
    sql.execute_batch("INSERT INTO images (reference, size_bytes) VALUES (x'ff', 1), ('alpine', 'x')")
        .unwrap();
    let catalog = sandbox.open();
    sql.execute_batch(
        "INSERT INTO sync_owners VALUES ('gone', '/etc/one.toml', 'x'), (x'ff', '/etc/one.toml', 'x');
         INSERT INTO sync_images VALUES ('x', '', '', '', '', '', 'gone', 0, NULL, '')",
    )
    .unwrap();
    assert_eq!(catalog.all().unwrap(), []);
    assert_eq!(catalog.owned_by(&file("one")).unwrap(), []);
    assert_eq!(catalog.layers_needed_outside(&BTreeSet::new()).unwrap(), digests(&["a"]));
}

#[test]
fn ids_at_the_end_of_their_range_are_an_error_not_a_panic() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a"]);
    sandbox.sql().execute("INSERT INTO layers VALUES (?, '', 'x', 'x', 1, NULL, NULL)", [i64::MAX]).unwrap();
    let mut catalog = sandbox.open();
    let error = catalog
        .record(&image("other:1", &["b"]), &[reference("other:1")], &file("one"), usual())
        .unwrap_err();
    assert_eq!(error.kind(), "catalog-query");
    assert_eq!(sandbox.count("images"), 1, "nothing of it was kept");
}

#[test]
fn sizes_beyond_sqlite_are_cut_not_wrapped() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let mut huge = image(ALPINE, &["a", "b"]);
    Arc::make_mut(&mut huge.layers)[0].size = u64::MAX;
    catalog.record(&huge, &[reference(ALPINE)], &file("one"), usual()).unwrap();
    assert_eq!(one(&catalog, ALPINE).unwrap().layers[0].size, i64::MAX.cast_unsigned());
}

// ------------------------------------------------------------------------------------------ files

#[test]
fn no_file_is_nothing_to_read_and_none_is_made() {
    let sandbox = Sandbox::new();
    assert!(Catalog::open_read_only(sandbox.dir.path()).unwrap().is_none());
    assert!(sandbox.files().is_empty());
}

#[test]
fn an_empty_file_is_a_new_database() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(), "").unwrap();
    let reader = sandbox.reader();
    assert_eq!(reader.all().unwrap(), []);
    assert_eq!(reader.recorded(&[reference(ALPINE)]).unwrap(), []);
    assert_eq!(reader.owned_by(&file("one")).unwrap(), []);
    assert_eq!(reader.config(&reference(ALPINE)).unwrap(), None);
    assert_eq!(reader.layers_needed_outside(&BTreeSet::new()).unwrap(), BTreeSet::new());
    assert_eq!(fs::metadata(sandbox.path()).unwrap().len(), 0);
    drop(reader);
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
}

#[test]
fn what_is_not_a_database_is_named_and_left_alone() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let good = fs::read(sandbox.path()).unwrap();
    let mut malformed = good.clone();
    malformed[100..].fill(0xA5);
    for content in [b"hello".repeat(1000), malformed, good[..good.len() / 2].to_vec()] {
        fs::write(sandbox.path(), &content).unwrap();
        for error in [
            WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err(),
            Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
            assert!(error.hint().unwrap().contains("move"));
        }
        assert_eq!(fs::read(sandbox.path()).unwrap(), content);
    }
    assert_eq!(sandbox.files(), ["oci.db"]);
}

#[test]
fn a_database_of_something_else_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.sql().execute_batch("CREATE TABLE layers (id INTEGER PRIMARY KEY, url TEXT)").unwrap();
    let content = fs::read(sandbox.path()).unwrap();
    for error in [
        WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err(),
        Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), "catalog-schema");
        assert!(error.to_string().contains("the table layers has no column media_type"), "{error}");
    }
    assert_eq!(fs::read(sandbox.path()).unwrap(), content);
}

#[test]
fn a_directory_and_a_missing_one_are_explained() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path()).unwrap();
    let error = WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let error = Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    fs::remove_dir_all(sandbox.dir.path()).unwrap();
    let error = WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn odd_names_of_homes_are_only_names() {
    let sandbox = Sandbox::new();
    for name in ["a?mode=memory", "file:x", "ü %41#b", ":memory:"] {
        let path = sandbox.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        put(&mut WritableCatalog::open(&locked(&path)).unwrap(), ALPINE, &["a"], &file("one"));
        Connection::open(path.join("oci.db"))
            .and_then(|conn| conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())))
            .unwrap();
        let reader = Catalog::open_read_only(&path).unwrap().unwrap();
        assert_eq!(reader.all().unwrap().len(), 1, "{name}");
    }
    assert_eq!(sandbox.files().len(), 4, "{:?}", sandbox.files());
}

#[test]
fn opening_and_reading_change_nothing() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let content = fs::read(sandbox.path()).unwrap();
    let modified = fs::metadata(sandbox.path()).unwrap().modified().unwrap();
    drop(sandbox.open());
    let reader = sandbox.reader();
    reader.all().unwrap();
    assert!(reader.conn.execute("DELETE FROM images", []).is_err(), "a reader cannot write");
    assert_eq!(sandbox.files(), ["oci.db"]);
    assert_eq!(fs::read(sandbox.path()).unwrap(), content);
    assert_eq!(fs::metadata(sandbox.path()).unwrap().modified().unwrap(), modified);
}

#[test]
fn a_wal_database_of_somebody_else_is_read_and_kept_in_wal() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let other = sandbox.sql();
    other.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    drop(other);
    assert_eq!(sandbox.reader().all().unwrap().len(), 1);
    assert_eq!(sandbox.files(), ["oci.db"], "a reader makes no -wal and no -shm");

    let mut writer = sandbox.open();
    put(&mut writer, "other:1", &["a"], &file("one"));
    assert_eq!(sandbox.reader().all().unwrap().len(), 2, "what is still in the log is seen");
    let mode: String = writer.conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn a_write_protected_database_is_a_permission_error() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o444)).unwrap();
    // Root may write anything: nothing to see there.
    if OpenOptions::new().write(true).open(sandbox.path()).is_err() {
        assert_eq!(WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().kind(), "permission");
    }
    assert_eq!(sandbox.reader().all().unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_the_old_state() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    catalog
        .conn
        .query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))
        .and_then(|pages| catalog.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())))
        .unwrap();
    let mut large = image(ALPINE, &["b"]);
    large.config.labels = labels(&"x".repeat(1 << 20));
    let error = catalog.record(&large, &[reference(ALPINE)], &file("one"), usual()).unwrap_err();
    assert_eq!(error.kind(), "disk-full");
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
    assert!(one(&catalog, ALPINE).unwrap().rows_complete);
}

/// Committed transactions that changed the file: its change counter.
/// <https://www.sqlite.org/fileformat2.html#file_change_counter>
fn transactions(sandbox: &Sandbox) -> u32 {
    let header = std::fs::read(sandbox.path()).unwrap();
    u32::from_be_bytes(header[24..28].try_into().unwrap())
}

#[test]
fn many_changes_are_few_transactions() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let images: Vec<_> = (0..GROUP + 5).map(|index| image(&format!("crowd:{index}"), &["a", "b"])).collect();
    let names: Vec<_> = images.iter().map(|image| [image.reference.clone()]).collect();
    let record = |(image, names)| Change::Record { image, names };
    let changes: Vec<_> =
        images.iter().zip(&names).map(|(image, names)| record((image, &names[..]))).collect();
    let before = transactions(&sandbox);
    let results = catalog.change(&changes, &file("one"), usual());
    assert!(results.len() == changes.len() && results.iter().all(Result::is_ok));
    assert_eq!(transactions(&sandbox), before + 2);
    let adopt: Vec<_> = names.iter().map(|names| Change::Adopt { names }).collect();
    assert!(catalog.change(&adopt, &Owner::pull(), usual()).iter().all(Result::is_ok));
    assert_eq!(transactions(&sandbox), before + 4);
    let all: Vec<ImageRef> = names.concat();
    assert_eq!(catalog.forget(&all, Some(&file("one"))).unwrap().kept.len(), all.len());
    assert_eq!(catalog.forget(&all, None).unwrap().removed.len(), all.len());
    assert_eq!(transactions(&sandbox), before + 6);
    assert!(catalog.all().unwrap().is_empty());
}

#[test]
fn one_change_that_fails_leaves_the_others() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let pages: i64 = catalog.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    catalog.conn.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), [], |_| Ok(())).unwrap();
    let mut large = image("docker.io/library/large:1", &["b"]);
    large.config.labels = labels(&"x".repeat(1 << 20));
    let (first, last) =
        (image("docker.io/library/first:1", &["a", "c"]), image("docker.io/library/last:1", &["d"]));
    let names = [&first, &large, &last].map(|image| [image.reference.clone()]);
    let changes = [(&first, &names[0]), (&large, &names[1]), (&last, &names[2])]
        .map(|(image, names)| Change::Record { image, names });
    let results = catalog.change(&changes, &file("one"), usual());
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(CatalogError::kind)).collect();
    assert_eq!(kinds, [None, Some("disk-full"), None]);
    assert_eq!(sandbox.stacked("docker.io/library/first:1"), ["a", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/last:1"), ["d"]);
    assert!(one(&catalog, "docker.io/library/large:1").is_none());
}

#[test]
fn sqlite_failures_have_kinds() {
    let error = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    for (code, kind) in [
        (ffi::SQLITE_BUSY, "catalog-busy"),
        (ffi::SQLITE_BUSY_SNAPSHOT, "catalog-busy"),
        (ffi::SQLITE_FULL, "disk-full"),
        (ffi::SQLITE_READONLY, "permission"),
        (ffi::SQLITE_READONLY_DIRECTORY, "permission"),
        (ffi::SQLITE_PERM, "permission"),
        (ffi::SQLITE_CANTOPEN, "catalog-open"),
        (ffi::SQLITE_NOTADB, "catalog-corrupt"),
        (ffi::SQLITE_CORRUPT, "catalog-corrupt"),
        (ffi::SQLITE_IOERR_WRITE, "catalog-query"),
    ] {
        assert_eq!(sql_error("test", Path::new("/x"), &error(code)).kind(), kind, "{code}");
    }
}

// ------------------------------------------------------------------------------ other processes

#[test]
fn two_writers_and_a_reader_wait_for_each_other() {
    let sandbox = Sandbox::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["one", "two"]
            .into_iter()
            .map(|owner| {
                let home = sandbox.home.clone();
                scope.spawn(move || {
                    let mut catalog = WritableCatalog::open(&home).unwrap();
                    for round in 0..20 {
                        let name = format!("{owner}:{round}");
                        put(&mut catalog, &name, &["a", "b"], &file(owner));
                        if round % 3 == 0 {
                            catalog.forget(&[reference(&name)], Some(&file(owner))).unwrap();
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            if let Some(reader) = Catalog::open_read_only(sandbox.dir.path()).unwrap() {
                for image in reader.all().unwrap() {
                    assert!(image.rows_complete, "{image:?}");
                }
            }
        }
    });
    assert_eq!(sandbox.open().all().unwrap().len(), 26);
    sandbox.assert_sound();
}

#[test]
fn a_reader_of_a_new_catalog_sees_what_the_first_run_records() {
    let sandbox = Sandbox::new();
    sandbox.sql().execute_batch("VACUUM").unwrap();
    let reader = sandbox.reader();
    assert!(reader.all().unwrap().is_empty());
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let found = one(&reader, ALPINE).unwrap();
    assert!(found.rows_complete && found.owners == BTreeSet::from([file("one")]), "{found:?}");
    assert!(reader.conn.execute("DELETE FROM images", []).is_err(), "a reader cannot write");
}

/// Two connections of one process share the locks of one file; a handle that is opened beside them
/// and closed takes the locks of both away. A second process then sees that the file is free.
#[test]
fn opening_a_reader_leaves_a_writer_its_lock() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute("DELETE FROM images", []).unwrap();
    drop(sandbox.reader());
    // The lock of a writer is on the byte after the pending byte, at 1 GiB.
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let inode = format!(":{} {} ", fs::metadata(sandbox.path()).unwrap().ino(), 0x4000_0001);
    assert!(locks.lines().any(|line| line.contains("WRITE") && line.contains(&inode)), "{locks}");
}

#[test]
fn a_reader_works_while_a_writer_is_inside_a_transaction() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute("DELETE FROM images", []).unwrap();
    assert!(one(&sandbox.reader(), ALPINE).unwrap().rows_complete);
}

#[test]
fn the_journal_of_a_killed_writer_is_rolled_back_by_a_reader() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    // A copy of the files in the middle of a large transaction is what a killed process leaves.
    catalog.conn.execute_batch("PRAGMA cache_size = 5").unwrap();
    let killed = Sandbox::new();
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute_batch(
        "UPDATE images SET reference = 'torn';
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO images (reference, size_bytes) SELECT 'torn' || i, i FROM n;",
    )
    .unwrap();
    for name in sandbox.files() {
        fs::copy(sandbox.dir.path().join(&name), killed.dir.path().join(&name)).unwrap();
    }
    assert_eq!(killed.files(), ["oci.db", "oci.db-journal"]);
    assert!(one(&killed.reader(), ALPINE).unwrap().rows_complete);
    assert_eq!(killed.files(), ["oci.db"]);
}

// ------------------------------------------------------------------------------------------ size

/// `images` images of four layers each, one of them shared, in one transaction.
fn crowd(sandbox: &Sandbox, images: usize) -> WritableCatalog {
    let catalog = sandbox.open();
    let tx = catalog.conn.unchecked_transaction().unwrap();
    for number in 0..images {
        let name = format!("crowd:{number}");
        let own: Vec<String> = (0..3).map(|layer| format!("{number} {layer}")).collect();
        let layers = ["a", &own[0], &own[1], &own[2]];
        let owner = if number % 100 == 0 { file("one") } else { Owner::pull() };
        let held = Held { owner: &owner, layers: b"/layers", extracts: true, keeps_blobs: false };
        write::record(&tx, &image(&name, &layers), &[reference(&name)], held).unwrap();
    }
    tx.commit().unwrap();
    catalog
}

#[test]
fn ten_thousand_images_cost_a_run_little() {
    let sandbox = Sandbox::new();
    drop(crowd(&sandbox, 10_000));
    let start = Instant::now();
    let catalog = sandbox.reader();
    let owned = catalog.owned_by(&file("one")).unwrap();
    let names: Vec<ImageRef> = owned.iter().map(|image| image.reference.clone()).collect();
    assert_eq!(catalog.recorded(&names).unwrap().len(), 100);
    let before = start.elapsed();
    let needed = catalog.layers_needed_outside(&names.into_iter().collect()).unwrap();
    let total = start.elapsed();
    assert_eq!(needed.len(), 9_900 * 3 + 1);
    println!("opened, owned and recorded in {before:?}, with layers needed outside {total:?}");
    // Ten times what it takes in a release build: a scan in the wrong place would take minutes.
    assert!(total < Duration::from_secs(2), "{total:?}");

    let mut catalog = sandbox.open();
    let start = Instant::now();
    put(&mut catalog, "crowd:77", &["a", "b"], &file("one"));
    catalog.forget(&[reference("crowd:77")], None).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn statements_are_compiled_once_however_many_images_are_read() {
    let sandbox = Sandbox::new();
    let mut catalog = crowd(&sandbox, 50);
    let names: Vec<ImageRef> = (0..50).map(|number| reference(&format!("crowd:{number}"))).collect();
    for _ in 0..2 {
        catalog.recorded(&names).unwrap();
        catalog.recorded_or_owned(&names, &file("one")).unwrap();
        put(&mut catalog, "crowd:7", &["a", "b"], &file("one"));
        catalog.layers_needed_outside(&names.iter().cloned().collect()).unwrap();
    }
    let reads = [rows::OUR_IMAGE, rows::OUR_LAYERS, holdings::HOLDERS, rows::THEIR_IMAGE, rows::THEIR_LAYERS];
    for sql in reads.into_iter().chain([rows::THEIR_DOCUMENTS, rows::OUR_USERS, rows::THEIR_USERS]) {
        let statement = catalog.conn.prepare_cached(sql).unwrap();
        assert!(statement.get_status(StatementStatus::Run) > 40, "{sql}");
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

#[test]
fn no_query_of_a_run_scans_a_table() {
    let sandbox = Sandbox::new();
    let catalog = crowd(&sandbox, 200);
    for analyzed in [false, true] {
        if analyzed {
            catalog.conn.execute_batch("ANALYZE").unwrap();
        }
        let mut hot = vec![
            rows::OWNED_NAMES,
            rows::OUR_IMAGE,
            rows::OUR_LAYERS,
            holdings::HOLDERS,
            rows::THEIR_IMAGE,
            rows::THEIR_LAYERS,
            rows::THEIR_DOCUMENTS,
            rows::THEIR_DIFF_IDS,
            rows::OUR_USERS,
            rows::THEIR_USERS,
            write::LAYERS_ABOVE,
            write::DROP_UNUSED_LAYER,
            "SELECT reference FROM sync_images WHERE alias_of = ?1",
            "UPDATE sync_images SET alias_of = NULL WHERE alias_of = ?1",
            // The look-ups of foreign keys when a parent goes.
            "SELECT 1 FROM manifests WHERE index_id = ?1",
            "SELECT 1 FROM manifest_layers WHERE layer_id = ?1",
        ];
        hot.extend(write::DROP_DOCUMENTS);
        for sql in hot {
            let mut plan = String::new();
            let mut statement = catalog.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut rows = statement.query(["x"]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                writeln!(plan, "{}", row.get::<_, String>(3).unwrap()).unwrap();
            }
            assert!(!plan.contains("SCAN"), "{sql}\n{plan}");
        }
    }
}

// ------------------------------------------------------------------------------------ histories

#[derive(Clone, Debug)]
enum Step {
    Record { name: usize, layers: Vec<&'static str>, owner: usize },
    AddOwner { name: usize, owner: usize },
    Forget { names: Vec<usize>, owner: Option<usize> },
}

const NAMES: [&str; 4] = ["quay.io/x/p:1", "quay.io/x/q:1", ALPINE, "sandboxes.io/library/alpine:3.20"];
const THEIRS: &str = "docker.io/library/python:3.12";

fn step() -> impl Strategy<Value = Step> {
    let layers = proptest::collection::vec(proptest::sample::select(&LAYER_NAMES[..5]), 1..5);
    prop_oneof![
        4 => (0..NAMES.len(), layers, 0..2_usize)
            .prop_map(|(name, layers, owner)| Step::Record { name, layers, owner }),
        1 => (0..NAMES.len(), 0..2_usize).prop_map(|(name, owner)| Step::AddOwner { name, owner }),
        3 => (proptest::collection::vec(0..NAMES.len(), 1..3), proptest::option::of(0..2_usize))
            .prop_map(|(names, owner)| Step::Forget { names, owner }),
    ]
}

/// The model of the catalog: layers and owners by name; an ownerless name lives through the
/// sandboxes.io one.
#[derive(Default)]
struct Model {
    images: BTreeMap<&'static str, (Vec<&'static str>, BTreeSet<usize>)>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Record { name, layers, owner } => {
                let name = NAMES[*name];
                let image = self.images.entry(name).or_default();
                image.0.clone_from(layers);
                image.1.insert(*owner);
                if name == NAMES[3] {
                    self.images.entry(ALPINE).or_default().0.clone_from(layers);
                }
            }
            Step::AddOwner { name, owner } => {
                if let Some(image) = self.images.get_mut(NAMES[*name]) {
                    image.1.insert(*owner);
                }
            }
            Step::Forget { names, owner } => {
                for name in names {
                    if let Some(image) = self.images.get_mut(NAMES[*name]) {
                        image.1.retain(|other| owner.is_some_and(|owner| owner != *other));
                    }
                }
                let first_lives = self.images.get(NAMES[3]).is_some_and(|image| !image.1.is_empty());
                self.images.retain(|name, image| !image.1.is_empty() || (*name == ALPINE && first_lives));
            }
        }
    }

    fn needed(&self) -> BTreeSet<BlobDigest> {
        let ours = self.images.values().flat_map(|image| image.0.iter().copied());
        ours.chain(["a", "f"]).map(|name| layer(name).digest).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_history_leaves_what_the_model_says(steps in proptest::collection::vec(step(), 1..14)) {
        let sandbox = Sandbox::of_microsandbox(THEIRS, &["a", "f"]);
        let mut catalog = sandbox.open();
        catalog.conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        let mut model = Model::default();
        let owners = [file("one"), Owner::pull()];
        for step in &steps {
            let needed_before = catalog.layers_needed_outside(&BTreeSet::new()).unwrap();
            let before: BTreeSet<_> = model.images.keys().copied().collect();
            model.apply(step);
            match step {
                Step::Record { name, layers, owner } => {
                    put(&mut catalog, NAMES[*name], layers, &owners[*owner]);
                }
                Step::AddOwner { name, owner } => {
                    catalog.adopt(&[reference(NAMES[*name])], &owners[*owner], usual()).unwrap();
                }
                Step::Forget { names, owner } => {
                    let names: Vec<_> = names.iter().map(|name| reference(NAMES[*name])).collect();
                    let forgotten = catalog.forget(&names, owner.map(|owner| &owners[owner])).unwrap();
                    let gone = before.iter().filter(|name| !model.images.contains_key(**name));
                    prop_assert_eq!(forgotten.removed, gone.map(|name| reference(name)).collect());
                    let unneeded = needed_before.difference(&model.needed()).cloned().collect();
                    prop_assert_eq!(forgotten.unneeded_layers, unneeded);
                }
            }
            prop_assert_eq!(catalog.layers_needed_outside(&BTreeSet::new()).unwrap(), model.needed());
            let all = catalog.all().unwrap();
            let names: BTreeSet<String> = all.iter().map(|image| image.reference.to_string()).collect();
            let expected = model.images.keys().copied().chain([THEIRS]).map(str::to_owned).collect();
            prop_assert_eq!(names, expected);
            for image in all {
                prop_assert!(image.rows_complete, "{:?}", image);
                let Some((layers, _)) = model.images.get(image.reference.to_string().as_str()) else { continue };
                let expected: Vec<_> = layers.iter().map(|name| layer(name)).collect();
                prop_assert_eq!(&image.layers[..], expected);
            }
            prop_assert_eq!(sandbox.stacked(THEIRS), ["a", "f"]);
        }
        sandbox.assert_sound();
    }
}

// ------------------------------------------------------------------------ kept blobs and engines

fn documents(of: &str) -> Vec<DocumentDescriptor> {
    let document = |role: DocumentRole| DocumentDescriptor {
        role,
        digest: BlobDigest::of(Algorithm::Sha256, format!("{role:?} of {of}").as_bytes()),
        media_type: format!("application/{}", role.as_str()),
        size: 7,
    };
    [DocumentRole::Index, DocumentRole::Manifest, DocumentRole::Config].map(document).to_vec()
}

fn with_documents(name: &str, layers: &[&str]) -> ResolvedImage {
    ResolvedImage { documents: documents(name).into(), ..image(name, layers) }
}

fn kept() -> Holding<'static> {
    Holding { extracts: false, keeps_blobs: true, ..usual() }
}

#[test]
fn documents_are_recorded_as_long_as_an_owner_keeps_blobs() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let name = "sandboxes.io/library/alpine:3.20";
    let (image, names) = (with_documents(name, &["a", "b"]), reference(name).recorded_names());
    catalog.record(&image, &names, &file("one"), usual()).unwrap();
    let recorded = one(&catalog, name).unwrap();
    assert!(recorded.documents.is_empty() && recorded.blobs_kept_for.is_empty());
    assert_eq!(recorded.extracted_for, recorded.owners);
    assert!(catalog.blobs_needed_outside(&BTreeSet::new()).unwrap().is_empty());

    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    for name in &names {
        let recorded = one(&catalog, &name.to_string()).unwrap();
        assert_eq!(recorded.documents[..], documents("sandboxes.io/library/alpine:3.20"), "{name}");
        assert_eq!(recorded.extracted_for, BTreeSet::from([file("one")]));
        assert_eq!(recorded.blobs_kept_for, BTreeSet::from([file("two")]));
    }
    let mut needed = digests(&["a", "b"]);
    needed.extend(image.documents.iter().map(|document| document.digest.clone()));
    assert_eq!(catalog.blobs_needed_outside(&BTreeSet::new()).unwrap(), needed);
    assert!(catalog.blobs_needed_outside(&refs(&[name])).unwrap().is_empty());

    // Who records the image for another owner does not drop what the first one keeps.
    catalog.record(&image, &names, &file("one"), usual()).unwrap();
    assert_eq!(one(&catalog, name).unwrap().documents.len(), 3);
    catalog.adopt(&names, &file("two"), usual()).unwrap();
    assert_eq!(sandbox.count("sync_image_documents"), 0);
    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    catalog.forget(&names, Some(&file("two"))).unwrap();
    assert_eq!((sandbox.count("sync_image_documents"), sandbox.count("sync_holdings")), (0, 0));
    assert_eq!(one(&catalog, name).unwrap().owners, BTreeSet::from([file("one")]));
    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    catalog.forget(&names, None).unwrap();
    assert_eq!((sandbox.count("sync_image_documents"), sandbox.count("sync_holdings")), (0, 0));
}

#[test]
fn layers_that_no_owner_wants_extracted_are_not_needed() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/theirs:1", &["c"]);
    let mut catalog = sandbox.open();
    let none = BTreeSet::new();
    let names = |name: &str| reference(name).recorded_names();
    for (name, layers) in
        [("sandboxes.io/library/alpine:3.20", ["a", "b"]), ("docker.io/library/theirs:1", ["c", "d"])]
    {
        catalog.record(&with_documents(name, &layers), &names(name), &file("one"), kept()).unwrap();
    }
    catalog.record(&image("other:1", &["b"]), &names("other:1"), &file("one"), usual()).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["b", "c", "d"]));
    let default = Path::new("/layers");
    assert_eq!(catalog.layers_needed_in(default, default, &none).unwrap(), digests(&["b", "c", "d"]));
    assert_eq!(catalog.blobs_needed_outside(&refs(&["docker.io/library/theirs:1"])).unwrap().len(), 5);
    catalog.adopt(&names("sandboxes.io/library/alpine:3.20"), &Owner::pull(), usual()).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["a", "b", "c", "d"]));
}

#[test]
fn loads_are_noted_before_they_start_and_outlive_their_owners() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let engine =
        EngineSettings { home: Some("/srv/msb".into()), ..EngineSettings::new(EngineName::Microsandbox) };
    let load = |name: &str, owner: Owner| LoadedReference {
        owner,
        engine: engine.clone(),
        name: name.to_owned(),
        reference: reference(ALPINE),
        manifest: layer("a").digest,
        listed: Some(layer("b").digest),
        former: None,
        files: vec![EngineFile { path: "/srv/msb/x.erofs".into(), digest: "sha256:00".to_owned() }],
        wanted: true,
    };
    let loads = [load("a:1", file("one")), load("a:1", file("two")), load("b:1", file("one"))];
    catalog.begin_loads(&loads).unwrap();
    let begun = |load: &LoadedReference| LoadedReference { listed: None, files: Vec::new(), ..load.clone() };
    assert_eq!(catalog.loaded().unwrap(), loads.clone().map(|load| begun(&load)));
    catalog.end_load(&loads[1]).unwrap();
    // The reference is what it is, whoever had it loaded.
    assert_eq!(catalog.loaded().unwrap(), [loads[0].clone(), loads[1].clone(), begun(&loads[2])]);
    catalog.unwant_loads(&loads[1..]).unwrap();
    assert_eq!(
        catalog.loaded().unwrap().iter().map(|load| load.wanted).collect::<Vec<_>>(),
        [true, false, false]
    );
    catalog.end_load(&loads[1]).unwrap();
    assert_eq!(
        catalog.loaded().unwrap().iter().map(|load| load.wanted).collect::<Vec<_>>(),
        [true, true, false]
    );
    // The former image is ours until the new one is there, however often its load begins.
    let next = LoadedReference { listed: Some(layer("c").digest), ..loads[1].clone() };
    let under_way = LoadedReference { former: Some(layer("b").digest), ..begun(&next) };
    for _ in 0..2 {
        catalog.begin_loads(std::slice::from_ref(&next)).unwrap();
        assert_eq!(catalog.loaded().unwrap()[1], under_way);
    }
    catalog.end_load(&next).unwrap();
    assert_eq!(catalog.loaded().unwrap()[1], next);
    catalog.begin_loads(&[loads[1].clone()]).unwrap();
    catalog.end_load(&loads[1]).unwrap();
    assert_eq!(sandbox.count("sync_former_loads"), 0);
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    catalog.forget_loads(&[loads[0].clone(), loads[2].clone()]).unwrap();
    assert_eq!(sandbox.reader().loaded().unwrap(), [loads[1].clone()]);
    // Rows that somebody has edited are no failure.
    sandbox.sql().execute_batch("UPDATE sync_loads SET listed_digest = 'x', files_json = 'y'").unwrap();
    assert_eq!(catalog.loaded().unwrap(), [begun(&loads[1])]);
    sandbox.sql().execute_batch("UPDATE sync_loads SET engine = '{}'").unwrap();
    assert!(catalog.loaded().unwrap().is_empty());
}

#[test]
fn a_catalog_from_before_there_was_a_choice_extracts_and_keeps_nothing() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    sandbox
        .sql()
        .execute_batch(
            "DROP TABLE sync_holdings; DROP TABLE sync_image_documents; DROP TABLE sync_loads;
             UPDATE sync_meta SET value = 3;",
        )
        .unwrap();
    for catalog in [sandbox.reader(), sandbox.reader()] {
        let recorded = one(&catalog, ALPINE).unwrap();
        assert_eq!((recorded.extracted_for.len(), recorded.blobs_kept_for.len()), (1, 0));
        assert!(catalog.loaded().unwrap().is_empty());
    }
    let catalog = sandbox.open();
    assert_eq!(one(&catalog, ALPINE).unwrap().extracted_for.len(), 1);
    assert_eq!(sandbox.count("sync_loads"), 0);
}

fn proof(image: &ResolvedImage, judged_by: &str) -> Evidence {
    let candidate = |place| Candidate {
        subject: image.digest.clone(),
        place,
        digest: BlobDigest::of(Algorithm::Sha256, b"artifact"),
        manifest: b"{}".to_vec().into(),
        layer: 1,
        blob: vec![0, 255, 1],
        message: Some(b"m".to_vec()),
        config: None,
    };
    Evidence {
        digest: image.digest.clone(),
        manifest: image.manifest.digest.clone(),
        by: "key team.pub".to_owned(),
        issuer: Some("https://issuer".to_owned()),
        at: Some(1_700_000_000),
        until: Some(1_800_000_000),
        rule: "images.toml:3".to_owned(),
        form: "cosign bundle".to_owned(),
        judged_by: judged_by.to_owned(),
        candidates: vec![candidate(SignaturePlace::Referrers), candidate(SignaturePlace::AttestationTag)],
    }
}

#[test]
fn a_proof_is_kept_with_its_signatures_as_long_as_the_image_is_recorded() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let (first, second) = (image("r.example/a:1", &["a"]), image("r.example/b:1", &["b"]));
    let owner = Owner("/images.toml".to_owned());
    let holding = Holding { layers: sandbox.dir.path(), extracts: true, keeps_blobs: false };
    for image in [&first, &second] {
        catalog.record(image, std::slice::from_ref(&image.reference), &owner, holding).unwrap();
    }
    catalog.prove(&[Arc::new(proof(&first, "x")), Arc::new(proof(&second, "x"))]).unwrap();
    // The same rule again replaces its proof; another rule has its own.
    let again = Evidence { by: "key other.pub".to_owned(), ..proof(&first, "x") };
    catalog.prove(&[Arc::new(again.clone()), Arc::new(proof(&first, "y"))]).unwrap();
    let reader = sandbox.reader();
    let mut proofs = reader.proofs(&first.digest, &first.manifest.digest).unwrap();
    proofs.sort_by(|a, b| a.judged_by.cmp(&b.judged_by));
    assert_eq!(
        proofs.iter().map(|proof| proof.by.as_str()).collect::<Vec<_>>(),
        ["key other.pub", "key team.pub"]
    );
    assert!(proofs[0].candidates.is_empty());
    assert_eq!(reader.signatures(&proofs[0]).unwrap(), again.candidates);
    assert_eq!(Evidence { candidates: Vec::new(), ..again }, proofs[0]);
    // Another platform of the same index has no proof.
    assert!(reader.proofs(&first.digest, &second.manifest.digest).unwrap().is_empty());

    catalog.forget(std::slice::from_ref(&first.reference), Some(&owner)).unwrap();
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (1, 2));
    sandbox.assert_sound();
}

#[test]
fn an_image_has_few_proofs_however_often_its_rule_changes() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let image = image("r.example/a:1", &["a"]);
    let owner = Owner("/images.toml".to_owned());
    let holding = Holding { layers: sandbox.dir.path(), extracts: true, keeps_blobs: false };
    catalog.record(&image, std::slice::from_ref(&image.reference), &owner, holding).unwrap();
    for rule in 0..20 {
        catalog.prove(&[Arc::new(proof(&image, &format!("rule {rule}")))]).unwrap();
        let proofs = catalog.proofs(&image.digest, &image.manifest.digest).unwrap();
        assert!(proofs.iter().any(|proof| proof.judged_by == format!("rule {rule}")));
        assert!(proofs.len() <= 8);
    }
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (8, 16));
}

#[test]
fn a_catalog_of_an_older_version_has_no_proofs() {
    let sandbox = Sandbox::of_microsandbox("r.example/a:1", &["a"]);
    let image = image("r.example/a:1", &["a"]);
    assert!(sandbox.reader().proofs(&image.digest, &image.manifest.digest).unwrap().is_empty());
}
