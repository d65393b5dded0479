//! Memory is bounded by a budget, not by what is pulled or recorded: a huge file, very many files, very many layers,
//! several big layers at once, huge documents, a full catalog, very many registries. Each is one run, measured by
//! the kernel, in a small address space.
//!
//! What entries take, one by one, is seen in [`growth`]. `MSB_SYNC_TEST_HUGE_MIB`, `MSB_SYNC_TEST_MANY_FILES` and
//! `MSB_SYNC_TEST_BIG_MIB` change the sizes.

mod documents;
mod growth;
mod signatures;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::Digest as _;

use crate::support::check::wanted;
use crate::support::fake_registry::{FakeRegistry, serve};
use crate::support::hex;
use crate::support::http::{Front, Request, Response, Server};
use crate::support::image::{
    BlobSet, Image, Layer, OCI_INDEX, OCI_MANIFEST, dir, file, file_header, gzip, noise,
};
use crate::support::sandbox::{Output, Sandbox};

/// Bytes that are packed at once.
const STEP: usize = 16 << 20;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs `msb-sync` with these arguments and fails if it took more memory than promised.
#[track_caller]
#[expect(clippy::print_stdout, reason = "the figure is worth a look with --nocapture")]
fn assert_bounded(sandbox: &Sandbox, arguments: &str) -> Output {
    let output = sandbox.measured(arguments).timeout(Duration::from_secs(180)).run().success();
    println!("{arguments}: {} MiB at peak", output.peak_kib() / 1024);
    output.assert_bounded(0);
    output
}

/// Applies this image within bounds.
#[track_caller]
fn apply_bounded(image: &Image) -> Sandbox {
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", image));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    assert_bounded(&sandbox, "apply");
    sandbox
}

/// A layer of one file of `count` times [`STEP`] zeros. Each step is one packed piece, so that neither the file nor
/// its tar is ever whole in memory here.
fn huge_file(name: &str, count: usize, suffix: &str, pack: impl Fn(&[u8]) -> Vec<u8>) -> Layer {
    let (header, zeros, end) = (file_header(name, (count * STEP) as u64), vec![0_u8; STEP], [0; 1024]);
    let mut hasher = sha2::Sha256::new();
    hasher.update(&header);
    (0..count).for_each(|_| hasher.update(&zeros));
    hasher.update(end);
    let (member, mut blob) = (pack(&zeros), pack(&header));
    (0..count).for_each(|_| blob.extend(&member));
    blob.extend(pack(&end));
    let diff_id = format!("sha256:{}", hex(&hasher.finalize()));
    Layer::raw(blob, diff_id, &format!("application/vnd.oci.image.layer.v1.tar+{suffix}"))
}

/// A zstd frame that makes its reader keep a window of 8 MiB, as `zstd -19` does.
fn zstd_of_a_large_window(bytes: &[u8]) -> Vec<u8> {
    zstd_of_a_window(bytes, 23)
}

fn zstd_of_a_window(bytes: &[u8], log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(log)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_huge_file_takes_no_more_memory_than_a_small_one() {
    let count = setting("MSB_SYNC_TEST_HUGE_MIB", 1024).div_ceil(16);
    let layer = huge_file("huge", count, "gzip", gzip);
    let sandbox = apply_bounded(&Image::new(std::slice::from_ref(&layer)));
    let there = sandbox.layers().join(layer.directory()).join("huge").metadata().unwrap();
    assert_eq!(there.len(), (count * STEP) as u64);
}

#[test]
fn several_big_layers_at_once_share_the_budget() {
    let count = setting("MSB_SYNC_TEST_BIG_MIB", 64).div_ceil(16);
    // As many as are fetched at once, in both compressions.
    let layers: Vec<Layer> = (0..6)
        .map(|number| {
            let name = format!("big-{number}");
            if number % 2 == 0 {
                huge_file(&name, count, "gzip", gzip)
            } else {
                huge_file(&name, count, "zstd", zstd_of_a_large_window)
            }
        })
        .collect();
    let sandbox = apply_bounded(&Image::new(&layers));
    assert_eq!(sandbox.extracted().len(), 6);
}

/// The first frame says that little memory is wanted, and the later ones want much.
#[test]
fn the_windows_of_all_frames_share_the_budget() {
    for (log, more) in [(24, 0), (26, 64)] {
        let pack = |bytes: &[u8]| zstd_of_a_window(bytes, if bytes.len() < STEP { 10 } else { log });
        // Steps of other lengths, so that windows are filled.
        let layers: Vec<Layer> =
            (0..6).map(|number| huge_file(&format!("big-{number}"), 4, "zstd", pack)).collect();
        let sandbox = Sandbox::new();
        let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&layers)));
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let output = sandbox.measured("apply").timeout(Duration::from_secs(180)).run().success();
        output.assert_bounded(more);
    }
}

#[test]
fn very_many_layers_take_no_more_memory_than_a_few() {
    let layer = |number: usize| {
        let content = vec![u8::try_from(number).unwrap(); 1 << 20];
        Layer::of(&[file(format!("f{number}"), content), file("small", number.to_string())])
    };
    let sandbox = apply_bounded(&Image::new(&(0..128).map(layer).collect::<Vec<_>>()));
    assert_eq!(sandbox.extracted().len(), 128);
}

#[test]
fn documents_of_the_largest_size_fit() {
    // A manifest and a config just below the limit of 4 MiB, of many small parts: what a parser likes least.
    let labels: serde_json::Map<String, serde_json::Value> = (0..90_000)
        .map(|number| (format!("label-{number}"), json!(format!("value of {number:06}"))))
        .collect();
    let mut content = BlobSet::default();
    let image = Image::new(&[Layer::of(&[file("f", "x")])]).config(json!({"Labels": labels}));
    let plain = content.image(&image);
    let mut manifest: serde_json::Value = serde_json::from_slice(&content.blobs[plain.digest()]).unwrap();
    manifest["annotations"] = serde_json::Value::Object(labels);
    let descriptor = content.document(OCI_MANIFEST, &manifest);
    let size = content.blobs[descriptor.digest()].len();
    assert!((3 << 20..4 << 20).contains(&size), "{size}");
    content.tag("team/app:1", &descriptor);
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(content);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    for _ in 0..2 {
        let output = sandbox.measured("apply").timeout(Duration::from_secs(300)).run().success();
        output.assert_bounded(0);
    }
}

/// Several registries' worth of documents at once: each is small enough, and all together are not.
#[test]
fn indexes_of_the_largest_size_fit_beside_each_other() {
    let mut content = BlobSet::default();
    let image = content.image(&Image::new(&[Layer::of(&[file("f", "x")])]));
    let own = json!({"mediaType": OCI_MANIFEST, "digest": image.digest(), "size": content.blobs[image.digest()].len()});
    let other = |number: u32| {
        json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{number:064x}"), "size": 1,
               "platform": {"os": "plan9", "architecture": format!("a{number}")}})
    };
    let mut entries: Vec<serde_json::Value> = (0..15_000).map(other).collect();
    entries.push(own);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let index = serde_json::to_string_pretty(&index).unwrap();
    let open = index.strip_suffix('}').unwrap();
    let mut names = Vec::new();
    for number in 0..8 {
        let index = format!("{open},\"annotations\":{{\"number\":\"{number}\"}}}}");
        let descriptor = content.text(OCI_INDEX, index);
        let size = content.blobs[descriptor.digest()].len();
        assert!((3 << 20..4 << 20).contains(&size), "{size}");
        let name = format!("team/app{number}:1");
        content.tag(&name, &descriptor);
        names.push(name);
    }
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(content);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    assert_bounded(&sandbox, "apply");
}

/// Documents of which each part is small and all of them together are not: what is recorded of every image of a run
/// is held until the image is recorded. They are put together as text, since a [`serde_json::Value`] of each would take
/// longer to make than all that is tested.
#[test]
fn what_is_recorded_of_hostile_images_is_bounded() {
    let many = |pairs: usize, between: &str| {
        (0..pairs).fold(String::new(), |mut text, number| {
            let _ = write!(text, "\"0{number}\":\"\",{between}");
            text
        })
    };
    let mut content = BlobSet::default();
    let layer = Layer::of(&[file("f", "x")]);
    let template = Image::new(&[layer]).config(json!("HERE"));
    let mut names = Vec::new();
    let mut add = |config: &str, annotations: &str| {
        let number = names.len();
        let plain = content.image(&template);
        let mut manifest: serde_json::Value = serde_json::from_slice(&content.blobs[plain.digest()]).unwrap();
        let of_template = &content.blobs[manifest["config"]["digest"].as_str().unwrap()];
        let config = String::from_utf8_lossy(of_template).replacen("\"HERE\"", config, 1);
        manifest["config"] = content.blob("application/vnd.oci.image.config.v1+json", config).json;
        let manifest = manifest.to_string();
        let open = manifest.strip_suffix('}').unwrap();
        let manifest = format!("{open},\"annotations\":{{{annotations}\"number\":\"{number}\"}}}}");
        let descriptor = content.text(OCI_MANIFEST, manifest);
        let name = format!("team/app{number}:1");
        content.tag(&name, &descriptor);
        names.push(name);
    };
    let annotations = many(190_000, "\n    ");
    for _ in 0..8 {
        add("{}", &annotations);
    }
    // As much as is recorded.
    let (labels, annotations) = (many(9_500, ""), many(3_000, "\n    "));
    for number in 8..40 {
        let env: Vec<String> =
            (0..4000).map(|entry| format!("\"{number}{entry}={}\"", "x".repeat(48))).collect();
        let labels = format!("{labels}\"number\":\"{number}\"");
        let config = format!("{{\"Labels\":{{{labels}}},\"Env\":[{}]}}", env.join(","));
        add(&config, &annotations);
    }
    // JSON of which a parser makes a hundred times as much.
    let bomb = format!("[{}0]", r#"{"":0},"#.repeat(400_000));
    add(&format!("{{\"Labels\":{{\"x\":{bomb}}}}}"), "");
    add(&format!("{{\"StopSignal\":{bomb}}}"), "");
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(content);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    assert_bounded(&sandbox, "plan");
    assert_bounded(&sandbox, "lock");
    assert_bounded(&sandbox, "apply");
}

/// 10,000 more images of ten layers each, as if `pull` had brought them.
const CROWD: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
      INSERT INTO images (id, reference, size_bytes, last_used_at)
      SELECT 1000 + i, 'crowd.example/app:' || i, 10, CURRENT_TIMESTAMP FROM n;
    INSERT INTO manifests (id, image_id, schema_version, media_type)
      SELECT id, id, 2, 'application/vnd.oci.image.manifest.v1+json' FROM images WHERE id > 1000;
    INSERT INTO configs (manifest_id, media_type, architecture, os)
      SELECT id, 'application/vnd.oci.image.config.v1+json', 'amd64', 'linux' FROM manifests WHERE id > 1000;
    WITH RECURSIVE n(i) AS (SELECT 10000 UNION ALL SELECT i + 1 FROM n WHERE i < 109999)
      INSERT INTO layers (id, media_type, digest, diff_id, size_bytes)
      SELECT i, 'application/vnd.oci.image.layer.v1.tar+gzip', printf('sha256:%064x', i), printf('sha256:%064x', i), 1 FROM n;
    INSERT INTO manifest_layers (manifest_id, layer_id) SELECT 1001 + (id - 10000) / 10, id FROM layers WHERE id >= 10000;
    INSERT INTO sync_images (reference, platform, digest, manifest_digest, config_digest, config_json, preexisting, modified_at)
      SELECT reference, 'linux/amd64', printf('sha256:%064x', id), printf('sha256:%064x', id), printf('sha256:%064x', id), '{}', 0, CURRENT_TIMESTAMP
        FROM images WHERE id > 1000;
    INSERT INTO sync_image_layers (reference, position, digest, diff_id, media_type, size_bytes)
      SELECT 'crowd.example/app:' || (1 + (id - 10000) / 10), id % 10, digest, diff_id, media_type, 1 FROM layers WHERE id >= 10000;
    INSERT INTO sync_owners (reference, owner, since) SELECT reference, 'pull', CURRENT_TIMESTAMP FROM images WHERE id > 1000;";

#[test]
fn ten_thousand_recorded_images_take_little_memory() {
    let image = Image::new(&[Layer::of(&[file("f", "x")])]);
    let sandbox = apply_bounded(&image);
    let database = sandbox.home().join("oci.db");
    sandbox.program("sqlite3", &[database.to_str().unwrap(), CROWD]).run().success();
    let plan = assert_bounded(&sandbox, "--json plan --offline --prune");
    assert_eq!(plan.json()["images"][0]["action"], "keep", "{plan}");
    assert_bounded(&sandbox, "prune");
    assert_bounded(&sandbox, "apply --offline");
    let more = sandbox.program("sqlite3", &[database.to_str().unwrap(), "SELECT count(*) FROM layers"]).run();
    assert_eq!(more.success().stdout.trim(), "100001");
}

/// Makes the crowd's images have the blobs of the applied one, which are kept.
const KEPT: &str = "
    UPDATE sync_image_layers SET (digest, diff_id, media_type, size_bytes) =
      (SELECT digest, diff_id, media_type, size_bytes FROM sync_image_layers WHERE reference NOT LIKE 'crowd%')
     WHERE reference LIKE 'crowd%';
    INSERT INTO sync_image_documents (reference, position, role, digest, media_type, size_bytes)
      SELECT crowd.reference, position, role, document.digest, media_type, size_bytes
        FROM sync_images AS crowd, sync_image_documents AS document WHERE crowd.reference LIKE 'crowd%';
    INSERT INTO sync_holdings (reference, owner, extracts, keeps_blobs)
      SELECT reference, owner, 1, 1 FROM sync_owners WHERE reference LIKE 'crowd%';";

#[test]
fn the_index_of_ten_thousand_kept_images_takes_little_memory() {
    let sandbox = Sandbox::new();
    let image = |name: &str| Image::new(&[Layer::of(&[file("f", name)])]);
    let mut content = BlobSet::with("team/app:1", &image("x"));
    let other = content.image(&image("y"));
    content.tag("team/app:2", &other);
    let registry = FakeRegistry::start(content);
    let settings = "[settings]\nblobs = \"keep\"\n";
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["team/app:1"])));
    assert_bounded(&sandbox, "apply");
    let database = sandbox.home().join("oci.db");
    for sql in [CROWD, KEPT] {
        sandbox.program("sqlite3", &[database.to_str().unwrap(), sql]).run().success();
    }
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["team/app:1", "team/app:2"])));
    assert_bounded(&sandbox, "apply");
    let index = std::fs::read(sandbox.home().join("blobs/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 10_002);
    assert_bounded(&sandbox, "prune");
}

#[test]
fn keeping_and_exporting_many_blobs_takes_no_more_memory_than_a_few() {
    let files = setting("MSB_SYNC_TEST_MANY_FILES", 20_000);
    let small =
        |layer: usize| move |number: usize| file(format!("d{layer}/f{number}"), format!("{layer} {number}"));
    let layers: Vec<Layer> = (0..40)
        .map(|layer| {
            let mut items: Vec<_> = (0..files / 40).map(small(layer)).collect();
            items.push(file("big", noise(layer as u64, 1 << 20)));
            Layer::of(&items)
        })
        .collect();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&layers)));
    let sandbox = Sandbox::new();
    sandbox.images(&format!("[settings]\nblobs = \"keep\"\n{}", wanted(&registry.name(), &["team/app:1"])));
    drop(layers);
    assert_bounded(&sandbox, "apply");
    drop(registry);
    assert_bounded(&sandbox, "verify");
    for output in ["out.tar", "out"] {
        assert_bounded(&sandbox, &format!("export --offline --output {output}"));
    }
}

#[test]
fn very_many_registries_take_no_more_memory_than_one() {
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("f", "x")])])));
    let sandbox = Sandbox::new();
    let named = |number: usize| {
        format!(
            "[registry.\"r{number}.example\"]\nendpoint = \"{}\"\nimages = [\"team/app:1\"]\n",
            registry.url()
        )
    };
    sandbox.images(&(0..300).map(named).collect::<String>());
    assert_bounded(&sandbox, "apply");
    assert_eq!(sandbox.extracted().len(), 1);
    assert_bounded(&sandbox, "apply");
}
