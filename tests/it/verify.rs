//! `verify`: damage of every kind is found, told and, with `--repair`, undone, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::check::{applied, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, dir, file, hard, noise, symlink};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::Tree;

struct Shop {
    registry: FakeRegistry,
    sandbox: Sandbox,
    base: Layer,
    top: Layer,
    other: Layer,
}

/// Two images that share their base, applied.
fn shop() -> Shop {
    let base = Layer::of(&[
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        hard("etc/passwd-", "etc/passwd"),
        symlink("etc/mtab", "/proc/mounts"),
        file("big", noise(1, 300_000)),
    ]);
    let top = Layer::of(&[file("top", "top")]);
    let other = Layer::of(&[file("other", "other")]);
    let mut content = BlobSet::with("a:1", &Image::new(&[base.clone(), top.clone()]));
    let descriptor = content.image(&Image::new(&[base.clone(), other.clone()]));
    content.tag("b:1", &descriptor);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::new();
    sandbox.images(&wanted(&registry.name(), &["a:1", "b:1"]));
    applied(&sandbox);
    registry.forget();
    Shop { registry, sandbox, base, top, other }
}

impl Shop {
    fn path(&self, layer: &Layer) -> PathBuf {
        self.sandbox.layers().join(layer.directory())
    }

    /// Status and detail by digest.
    fn verify(&self, arguments: &str, code: i32) -> BTreeMap<String, (String, String)> {
        statuses(&self.sandbox.msb(&format!("verify --json {arguments}")).run().code(code))
    }
}

fn statuses(output: &Output) -> BTreeMap<String, (String, String)> {
    let document = output.json();
    assert_eq!(document["version"], 1, "{output}");
    let layers = document["layers"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found: BTreeMap<_, _> = layers
        .iter()
        .map(|layer| (text(&layer["digest"]), (text(&layer["status"]), text(&layer["detail"]))))
        .collect();
    assert_eq!(found.len(), layers.len(), "a layer twice\n{output}");
    found
}

fn flip(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut content = fs::read(path).unwrap();
    content[0] ^= 1;
    fs::write(path, content).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn intact_layers_are_ok_and_verify_writes_and_asks_nothing() {
    let shop = shop();
    let before = Tree::snapshot(&shop.sandbox.user());
    let found = shop.verify("", 0);
    assert_eq!(found.len(), 3);
    assert!(found.values().all(|(status, detail)| status == "ok" && detail.is_empty()), "{found:?}");
    let one = shop.verify(&format!("{}/a:1", shop.registry.name()), 0);
    assert_eq!(one.keys().collect::<Vec<_>>().len(), 2);
    before.assert_matches(&Tree::snapshot(&shop.sandbox.user()), "the home after verify");
    assert!(shop.registry.requests().is_empty());
    let output = shop.sandbox.msb("verify").run().success();
    assert!(output.stdout.starts_with("Intact: 3 layers of 2 images"), "{output}");
}

#[test]
fn damage_is_found_by_its_content_and_repaired_alone() {
    let shop = shop();
    flip(&shop.path(&shop.base).join("big"));
    fs::write(shop.path(&shop.base).join("etc/added"), "x").unwrap();
    fs::remove_dir_all(shop.path(&shop.top)).unwrap();
    let found = shop.verify("", 1);
    let (status, detail) = &found[&shop.base.digest()];
    assert_eq!(status, "modified");
    for expected in ["big: content changed", "etc/added: added"] {
        assert!(detail.contains(expected), "{detail}");
    }
    // What is missing, and where it should be.
    let missing = format!("there is no directory {}", shop.path(&shop.top).display());
    assert_eq!(found[&shop.top.digest()], ("missing".to_owned(), missing.clone()));
    assert_eq!(found[&shop.other.digest()].0, "ok");
    let output = shop.sandbox.msb("verify").run().code(1);
    assert!(output.stdout.contains("big: content changed"), "{output}");
    assert!(output.stdout.contains(&missing), "{output}");

    let untouched = fs::metadata(shop.path(&shop.other)).unwrap();
    let database = fs::read(shop.sandbox.home().join("oci.db")).unwrap();
    let found = shop.verify("--repair", 0);
    assert!(found.values().all(|(status, _)| status == "ok"), "{found:?}");
    assert!(found[&shop.base.digest()].1.contains("big"), "{found:?}");
    assert_eq!(found[&shop.top.digest()].1, format!("was: {missing}"));
    let gets: Vec<String> =
        shop.registry.requests().into_iter().filter(|request| request.contains("/blobs/")).collect();
    assert_eq!(gets.len(), 2, "{gets:?}");
    assert!(!gets.iter().any(|get| get.contains(&shop.other.digest())), "{gets:?}");
    let after = fs::metadata(shop.path(&shop.other)).unwrap();
    assert_eq!((after.ino(), after.ctime_nsec()), (untouched.ino(), untouched.ctime_nsec()));
    assert_eq!(fs::read(shop.sandbox.home().join("oci.db")).unwrap(), database, "rows changed");
    assert!(shop.verify("", 0).values().all(|(status, _)| status == "ok"));
}

#[test]
fn a_layer_without_a_readable_record_is_incomplete() {
    let shop = shop();
    let records = shop.sandbox.home().join(".layers.msb-sync/records");
    fs::remove_file(records.join(shop.base.digest())).unwrap();
    fs::write(records.join(shop.top.digest()), "no record").unwrap();
    let found = shop.verify("", 1);
    assert_eq!(found[&shop.base.digest()].0, "incomplete");
    assert_eq!(found[&shop.top.digest()].0, "incomplete");
    shop.verify("--repair", 0);
}

#[test]
fn what_cannot_be_repaired_is_said_and_stays() {
    let shop = shop();
    flip(&shop.path(&shop.base).join("big"));
    shop.registry.on(|request| request.path.contains("/blobs/").then(|| Fault::status(404)));
    let output = shop.sandbox.msb("verify --repair --json").run().code(1);
    let (status, detail) = statuses(&output)[&shop.base.digest()].clone();
    assert_eq!(status, "modified");
    assert!(detail.contains("big: content changed") && detail.contains("not repaired: "), "{detail}");
    assert!(shop.path(&shop.base).join("big").exists());
}

#[test]
fn a_layout_is_asked_by_the_images_file_that_wanted_it() {
    let sandbox = Sandbox::new();
    let layer = Layer::of(&[file("hello", "hello")]);
    let mut content = BlobSet::default();
    let descriptor = content.image(&Image::new(std::slice::from_ref(&layer)));
    content.write_layout(&sandbox.work().join("oci"), &[("1", &descriptor)]);
    sandbox.images("[registry.\"vendored.local\"]\nlayout = \"oci\"\nimages = [\"x:1\"]\n");
    applied(&sandbox);
    flip(&sandbox.layers().join(layer.directory()).join("hello"));
    sandbox.msb("verify").run().code(1);
    let output = sandbox.msb("verify --repair vendored.local/x:1").run().success();
    assert!(output.stdout.contains("1 repaired"), "{output}");
    sandbox.msb("verify").run().success();
}

#[test]
fn an_unknown_image_is_an_error_with_the_nearest_name() {
    let shop = shop();
    let name = format!("{}/a:2", shop.registry.name());
    shop.sandbox.msb(&format!("verify {name}")).run().code(1).says("not recorded").says("a:1");
    Sandbox::new().msb("verify").run().success();
}
