//! The catalog from outside: microsandbox 0.2's own queries and tables against what we write,
//! hostile rows, other processes, and random histories against a model.

mod conflicts;
mod damage;
mod files;
mod histories;
mod hooks;
mod microsandbox;
mod owners;
mod parts;
mod past;
mod processes;
mod proofs;
mod recording;
mod size;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::StatementStatus;
use tempfile::TempDir;

use super::writable::GROUP;
use super::writable::all_or_each;
use super::write::Held;
use super::*;
use crate::cancel::Cancel;
use crate::digest::{Algorithm, DiffId};
use crate::image_ref::DEFAULT_REGISTRY;
use crate::locked_home::LockedHome;
use crate::progress::Silent;
use crate::state::{
    DocumentDescriptor, DocumentRecord, DocumentRole, EngineFile, EngineName, EngineSettings, Labels,
    LayerDescriptor, MediaType, Platform, ResolvedImage, SignaturePlace,
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
                    layer.digest.text(),
                    layer.size.cast_signed(),
                    layer.diff_id.text(),
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
        .find(|name| layer(name).digest.text() == digest)
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
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            annotations_json: Some(r#"{"k":"v"}"#.to_owned()),
        }),
        manifest: DocumentRecord {
            digest: digest("manifest"),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            annotations_json: None,
        },
        config: ConfigRecord {
            digest: digest("config"),
            media_type: "application/vnd.oci.image.config.v1+json".into(),
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
    Holding { layers: Path::new("/layers"), extracts: true, keeps_blobs: false, keeps_earlier: 0 }
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

fn all_names(catalog: &Catalog) -> BTreeSet<ImageRef> {
    catalog.all().unwrap().into_iter().map(|image| image.reference).collect()
}

fn all_needed(catalog: &Catalog) -> BTreeSet<BlobDigest> {
    catalog.layers_needed_outside(&BTreeSet::new()).unwrap()
}

fn digests(names: &[&str]) -> BTreeSet<BlobDigest> {
    names.iter().map(|name| layer(name).digest).collect()
}

fn refs(names: &[&str]) -> BTreeSet<ImageRef> {
    names.iter().map(|name| reference(name)).collect()
}

const ALPINE: &str = "docker.io/library/alpine:3.20";
