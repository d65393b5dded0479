//! What microsandbox 0.2 sees: its own queries on the database that a run leaves, and a database that it made
//! before.

use serde_json::{Value, json};

use crate::support::check::{applied, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file, host_platform};
use crate::support::sandbox::Sandbox;

/// The tables as microsandbox 0.2 makes them, with an image that it pulled itself.
const MADE_BY_MICROSANDBOX: &str = "
    CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT
        NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
    INSERT INTO _sqlx_migrations VALUES (20250128014900, 'create images', '2025-06-01 10:00:00', 1, x'00ff', 5);
    CREATE TABLE images (id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, size_bytes INTEGER NOT NULL,
        last_used_at DATETIME, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE indexes (id INTEGER PRIMARY KEY, image_id INTEGER NOT NULL, schema_version INTEGER NOT NULL,
        media_type TEXT NOT NULL, platform_os TEXT, platform_arch TEXT, platform_variant TEXT, annotations_json TEXT,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE);
    CREATE TABLE manifests (id INTEGER PRIMARY KEY, index_id INTEGER, image_id INTEGER NOT NULL,
        schema_version INTEGER NOT NULL, media_type TEXT NOT NULL, annotations_json TEXT,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (index_id) REFERENCES indexes(id) ON DELETE CASCADE,
        FOREIGN KEY (image_id) REFERENCES images(id) ON DELETE CASCADE);
    CREATE TABLE configs (id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, media_type TEXT NOT NULL,
        created DATETIME, architecture TEXT, os TEXT, os_variant TEXT, config_env_json TEXT, config_cmd_json TEXT,
        config_working_dir TEXT, config_entrypoint_json TEXT, config_volumes_json TEXT, config_exposed_ports_json TEXT,
        config_user TEXT, rootfs_type TEXT, rootfs_diff_ids_json TEXT, history_json TEXT,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE);
    CREATE TABLE layers (id INTEGER PRIMARY KEY, media_type TEXT NOT NULL, digest TEXT NOT NULL UNIQUE,
        diff_id TEXT NOT NULL, size_bytes INTEGER NOT NULL,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE manifest_layers (id INTEGER PRIMARY KEY, manifest_id INTEGER NOT NULL, layer_id INTEGER NOT NULL,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP,
        FOREIGN KEY (manifest_id) REFERENCES manifests(id) ON DELETE CASCADE,
        FOREIGN KEY (layer_id) REFERENCES layers(id) ON DELETE CASCADE, UNIQUE(manifest_id, layer_id));
    INSERT INTO images VALUES (7, 'docker.io/library/theirs:1', 11, '2025-06-01 10:00:00', '2025-06-01 10:00:00', '2025-06-01 10:00:00');
    INSERT INTO manifests (id, image_id, schema_version, media_type) VALUES (5, 7, 2, 'application/vnd.oci.image.manifest.v1+json');
    INSERT INTO configs (manifest_id, media_type, architecture, os) VALUES (5, 'application/vnd.oci.image.config.v1+json', 'amd64', 'linux');
    INSERT INTO layers (id, media_type, digest, diff_id, size_bytes) VALUES (3, 'application/vnd.oci.image.layer.v1.tar+gzip',
        'sha256:1111111111111111111111111111111111111111111111111111111111111111',
        'sha256:2222222222222222222222222222222222222222222222222222222222222222', 11);
    INSERT INTO manifest_layers (manifest_id, layer_id) VALUES (5, 3);";

/// Rows of a query, as JSON.
#[track_caller]
fn sql(sandbox: &Sandbox, query: &str) -> Vec<Value> {
    let database = sandbox.home().join("oci.db");
    let output = sandbox.program("sqlite3", &["-json", database.to_str().unwrap(), query]).run().success();
    assert_eq!(output.stderr, "", "{query}");
    if output.stdout.is_empty() { Vec::new() } else { serde_json::from_str(&output.stdout).unwrap() }
}

fn layer(name: &str) -> Layer {
    Layer::of(&[dir("d"), file(format!("d/{name}"), name)])
}

/// microsandbox 0.2's check whether it has to pull an image: `check_image_layers`.
#[track_caller]
fn assert_present(sandbox: &Sandbox, reference: &str, layers: &[Layer]) {
    let count =
        sql(sandbox, &format!("SELECT COUNT(*) as count FROM images WHERE reference = '{reference}'"));
    assert_eq!(count, [json!({"count": 1})], "{reference}");
    let rows = sql(
        sandbox,
        &format!(
            "SELECT l.id, l.media_type, l.digest, l.diff_id, l.size_bytes, l.created_at, l.modified_at FROM layers l
             JOIN manifest_layers ml ON l.id = ml.layer_id JOIN manifests m ON ml.manifest_id = m.id
             JOIN images i ON m.image_id = i.id WHERE i.reference = '{reference}' ORDER BY l.id ASC"
        ),
    );
    let digests: Vec<&str> = rows.iter().map(|row| row["digest"].as_str().unwrap()).collect();
    let expected: Vec<String> = layers.iter().map(Layer::digest).collect();
    assert_eq!(digests, expected, "{reference}");
    for (row, layer) in rows.iter().zip(layers) {
        assert_eq!(row["diff_id"], layer.diff_id);
        assert_eq!(row["size_bytes"], layer.blob.len());
        assert!(sandbox.layers().join(layer.directory()).is_dir());
    }
    let list = digests.iter().map(|digest| format!("'{digest}'")).collect::<Vec<_>>().join(",");
    let found = sql(sandbox, &format!("SELECT id FROM layers WHERE digest IN ({list})"));
    assert_eq!(found.len(), digests.len(), "{reference}");
}

/// microsandbox 0.2's `get_image_config`.
fn config(sandbox: &Sandbox, reference: &str) -> Vec<Value> {
    sql(
        sandbox,
        &format!(
            "SELECT c.id, c.manifest_id, c.media_type, c.created, c.architecture, c.os, c.os_variant, c.config_env_json,
                 c.config_cmd_json, c.config_working_dir, c.config_entrypoint_json, c.config_volumes_json,
                 c.config_exposed_ports_json, c.config_user, c.rootfs_type, c.rootfs_diff_ids_json, c.history_json,
                 c.created_at, c.modified_at
             FROM configs c JOIN manifests m ON c.manifest_id = m.id JOIN images i ON m.image_id = i.id
             WHERE i.reference = '{reference}' LIMIT 1"
        ),
    )
}

/// Every timestamp that microsandbox parses; it panics at another form.
#[track_caller]
fn assert_timestamps(sandbox: &Sandbox) {
    for table in ["images", "indexes", "manifests", "configs", "layers", "manifest_layers"] {
        let wrong = sql(
            sandbox,
            &format!(
                "SELECT * FROM {table} WHERE created_at IS NOT strftime('%Y-%m-%d %H:%M:%S', created_at)
                 OR modified_at IS NOT strftime('%Y-%m-%d %H:%M:%S', modified_at)"
            ),
        );
        assert!(wrong.is_empty(), "{table}: {wrong:?}");
    }
    assert_eq!(sql(sandbox, "PRAGMA foreign_key_check"), [] as [Value; 0]);
    assert_eq!(sql(sandbox, "PRAGMA integrity_check"), [json!({"integrity_check": "ok"})]);
}

#[test]
fn microsandbox_finds_an_applied_image_and_reads_its_config() {
    let sandbox = Sandbox::new();
    let layers = [layer("one"), layer("two"), layer("three")];
    let mut content = BlobSet::default();
    let manifest = content.image(&Image::new(&layers));
    let index = content.index(false, &[manifest]);
    content.tag("team/app:1", &index);
    let registry = FakeRegistry::start(content);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);

    let reference = format!("{}/team/app:1", registry.name());
    assert_present(&sandbox, &reference, &layers);
    let config = config(&sandbox, &reference);
    let config = config.first().expect("no config");
    let parsed = |key: &str| -> Value { serde_json::from_str(config[key].as_str().unwrap()).unwrap() };
    let (os, architecture) =
        host_platform().split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for (key, value) in [
        ("os", json!(os)),
        ("architecture", json!(architecture)),
        ("config_working_dir", json!("/")),
        ("config_user", json!("1000:1000")),
        ("rootfs_type", json!("layers")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    for (key, value) in [
        ("config_env_json", json!(["PATH=/usr/bin:/bin"])),
        ("config_cmd_json", json!(["sh"])),
        ("config_entrypoint_json", json!(["/bin/init"])),
        ("config_volumes_json", json!(["/data"])),
        ("config_exposed_ports_json", json!(["80/tcp"])),
        ("rootfs_diff_ids_json", json!(layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>())),
    ] {
        assert_eq!(parsed(key), value, "{key}");
    }
    let created = config["created"].as_str().unwrap();
    assert!(created.starts_with("2024-05-06T07:08:09"), "{created}");
    assert_timestamps(&sandbox);
    let rows = sql(&sandbox, "SELECT media_type, platform_os, platform_arch FROM indexes");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["media_type"], "application/vnd.oci.image.index.v1+json");
    let order = "SELECT l.digest FROM manifest_layers ml JOIN layers l ON l.id = ml.layer_id ORDER BY ml.id";
    let order: Vec<Value> = sql(&sandbox, order).into_iter().map(|row| row["digest"].clone()).collect();
    assert_eq!(order, layers.map(|layer| json!(layer.digest())));
}

#[test]
fn an_updated_image_has_one_set_of_rows() {
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer("one")])));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    registry.edit(|content| {
        let config = json!({"Cmd": null, "Env": []});
        let moved = content.image(&Image::new(&[layer("one"), layer("two")]).config(config));
        content.tag("team/app:1", &moved);
    });
    applied(&sandbox);
    let reference = format!("{}/team/app:1", registry.name());
    assert_present(&sandbox, &reference, &[layer("one"), layer("two")]);
    for (table, count) in
        [("images", 1), ("indexes", 0), ("manifests", 1), ("configs", 1), ("manifest_layers", 2)]
    {
        let rows = sql(&sandbox, &format!("SELECT COUNT(*) AS count FROM {table}"));
        assert_eq!(rows, [json!({"count": count})], "{table}");
    }
    assert_timestamps(&sandbox);
}

#[test]
fn a_database_that_microsandbox_made_is_kept() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.home()).unwrap();
    sql(&sandbox, MADE_BY_MICROSANDBOX);
    let theirs =
        "SELECT * FROM images i JOIN manifests m ON m.image_id = i.id JOIN configs c ON c.manifest_id = m.id
        JOIN manifest_layers ml ON ml.manifest_id = m.id JOIN layers l ON l.id = ml.layer_id WHERE i.id = 7";
    let migrations = "SELECT version, description, hex(checksum) FROM _sqlx_migrations";
    let before = (sql(&sandbox, theirs), sql(&sandbox, migrations));
    assert_eq!(before.0.len(), 1);

    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer("one")])));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    assert_present(&sandbox, &format!("{}/team/app:1", registry.name()), &[layer("one")]);
    sandbox.images(&wanted(&registry.name(), &[]));
    sandbox.msb("apply --prune --allow-empty").run().success();
    sandbox.msb("prune --allow-empty").run().success();
    assert_eq!((sql(&sandbox, theirs), sql(&sandbox, migrations)), before);
    assert_timestamps(&sandbox);

    let images = listed(&sandbox);
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(images[0]["reference"], "docker.io/library/theirs:1");
    assert_eq!(images[0]["managed_by"], Value::Null);
    let tables = sql(&sandbox, "SELECT name FROM sqlite_master WHERE type = 'table'");
    let known =
        ["images", "indexes", "manifests", "configs", "layers", "manifest_layers", "_sqlx_migrations"];
    for table in &tables {
        let name = table["name"].as_str().unwrap();
        assert!(known.contains(&name) || name.starts_with("sync_") || name.starts_with("sqlite_"), "{name}");
    }
}

#[test]
fn what_microsandbox_pulled_is_shown_as_what_it_is() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.home()).unwrap();
    sql(&sandbox, MADE_BY_MICROSANDBOX);
    let directory = sandbox.layers().join(format!("sha256:{}.extracted", "1".repeat(64)));
    std::fs::create_dir_all(&directory).unwrap();
    let shown = |arguments: &str| sandbox.msb(arguments).run().success().stdout;
    let (list, inspect) = (shown("list"), shown("inspect theirs:1"));
    assert!(list.contains("linux/amd64") && list.lines().nth(1).unwrap().ends_with("microsandbox"), "{list}");
    assert!(inspect.contains("Pulled by microsandbox itself"), "{inspect}");
    assert!(!format!("{list}{inspect}").to_lowercase().contains("missing"), "{list}{inspect}");
    assert!(shown("inspect --rootfs theirs:1").contains("sha256\\:1111"));

    std::fs::remove_dir(&directory).unwrap();
    assert!(shown("list").contains("1 (1 missing)"));
    sandbox.msb("inspect --rootfs theirs:1").run().code(1).says("let microsandbox pull it again");
}

#[test]
fn layers_of_an_image_that_microsandbox_pulled_are_shown_in_the_order_of_its_config() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.home()).unwrap();
    sandbox
        .program("sqlite3", &[sandbox.home().join("oci.db").to_str().unwrap(), MADE_BY_MICROSANDBOX])
        .run()
        .success();
    let digest = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
    let shown = || {
        let image = listed(&sandbox).into_iter().find(|image| image["managed_by"].is_null()).unwrap();
        let layers = image["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Rows 1, 3 and 8, of which the config says that the last one is the base.
    for (row, of, diff_id) in [(1, 'a', 'b'), (8, 'c', 'd')] {
        let (layer, diff_id) = (digest(of), digest(diff_id));
        sql(
            &sandbox,
            &format!(
                "INSERT INTO layers (id, media_type, digest, diff_id, size_bytes) VALUES ({row}, 'x', '{layer}', '{diff_id}', 5);
                 INSERT INTO manifest_layers (manifest_id, layer_id) VALUES (5, {row});"
            ),
        );
    }
    let says = |diff_ids: &[char]| {
        let diff_ids: Vec<String> = diff_ids.iter().map(|digit| digest(*digit)).collect();
        sql(&sandbox, &format!("UPDATE configs SET rootfs_diff_ids_json = '{}'", json!(diff_ids)));
    };
    says(&['d', '2', 'b']);
    assert_eq!(shown(), [digest('c'), digest('1'), digest('a')]);
    let inspected = sandbox.msb("inspect docker.io/library/theirs:1 --json").run().success().json();
    assert_eq!(inspected["image"]["layers"][0]["digest"], digest('c'));
    // A layer that occurs twice has one row.
    says(&['2', 'd', '2', 'b']);
    assert_eq!(shown(), [digest('1'), digest('c'), digest('1'), digest('a')]);
    // Where config and rows do not fit each other, the rows' own order is all that there is.
    let by_row = [digest('a'), digest('1'), digest('c')];
    for of in [&['d', '2'][..], &['d', '2', 'b', 'e'], &[]] {
        says(of);
        assert_eq!(shown(), by_row, "{of:?}");
    }
    for text in ["null", "broken", "[1]", "{}"] {
        sql(&sandbox, &format!("UPDATE configs SET rootfs_diff_ids_json = '{text}'"));
        assert_eq!(shown(), by_row, "{text}");
    }
}
