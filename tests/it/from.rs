//! `--from BUNDLE`: everything comes from a directory or a tar, and nothing is asked of anybody.

use std::path::Path;

use serde_json::{Value, json};

use crate::requests::layer;
use crate::support::check::{applied, assert_exact, image, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Descriptor, Image, Item, OCI_INDEX, file, gzip, node, symlink, tar};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tool;

const INDEX: &str = "dev.msb-sync.index";

/// An entry of a bundle's index, under a full name.
fn entry(descriptor: &Descriptor, name: &str) -> Descriptor {
    let named = descriptor.clone().annotated("io.containerd.image.name", name);
    named.annotated("org.opencontainers.image.ref.name", name)
}

/// Writes a bundle of these entries as a directory.
fn bundle(directory: &Path, content: &BlobSet, entries: &[Descriptor]) {
    content.write_layout(directory, &[]);
    let manifests: Vec<&Value> = entries.iter().map(|entry| &entry.json).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

/// The files of a bundle's directory, as members of a tar whose names begin with `prefix`.
fn members(directory: &Path, prefix: &str) -> Vec<Item> {
    let read = |name: &str| file(format!("{prefix}{name}"), std::fs::read(directory.join(name)).unwrap());
    let mut items = vec![read("oci-layout")];
    let mut blobs: Vec<String> = std::fs::read_dir(directory.join("blobs/sha256"))
        .unwrap()
        .map(|blob| blob.unwrap().file_name().into_string().unwrap())
        .collect();
    blobs.sort();
    items.extend(blobs.iter().map(|blob| read(&format!("blobs/sha256/{blob}"))));
    items.push(read("index.json"));
    items
}

fn from(sandbox: &Sandbox, bundle: &str) -> Output {
    sandbox.msb("apply --json").arg(format!("--from={bundle}")).run()
}

/// A registry that has one image of two layers behind an index, and the descriptors of both.
fn served() -> (FakeRegistry, BlobSet, Descriptor, Descriptor) {
    let mut content = BlobSet::default();
    let here = content.image(&Image::new(&[layer(1, 3_000), layer(2, 200)]));
    let elsewhere = BlobSet::default().image(&Image::new(&[layer(3, 10)]).platform("linux/s390x"));
    let index = content.index(false, &[elsewhere, here.clone()]);
    content.tag("team/app:1", &index);
    (FakeRegistry::start(content.clone()), content, here, index)
}

#[test]
fn a_directory_and_a_tar_serve_all_registries_and_nobody_is_asked() {
    let (registry, content, here, index) = served();
    let maker = Sandbox::in_memory();
    let directory = maker.work().join("bundle");
    let full = format!("{}/team/app:1", registry.name());
    let entries = [entry(&here, &full).annotated(INDEX, index.digest()), entry(&here, "ghcr.io/team/app:1")];
    bundle(&directory, &content, &entries);
    for (name, prefix) in [("bundle", ""), ("plain.tar", ""), ("dotted.tar", "./")] {
        let path = maker.work().join(name);
        if name != "bundle" {
            std::fs::write(&path, tar(&members(&directory, prefix))).unwrap();
        }
        let path = path.to_str().unwrap();
        let sandbox = Sandbox::in_memory();
        // A password that cannot be had is an error where it is read.
        let text = format!(
            "{}username = \"u\"\npassword-env = \"NOT_SET\"\n{}",
            wanted(&registry.name(), &["team/app:1"]),
            wanted("ghcr.io", &["team/app:1"])
        );
        sandbox.images(&text);
        let plan = sandbox.msb("plan --json --offline").arg("--from").arg(path).run().success().json();
        assert_eq!(plan["changes"], 2, "{plan:#}");
        let summary = from(&sandbox, path).success().summary();
        assert_eq!((&summary["added"], &summary["requests"]), (&2.into(), &0.into()), "{summary:#}");
        let images = listed(&sandbox);
        let row = image(&images, &full);
        assert_eq!(row["digest"], index.digest());
        assert_eq!(row["manifest_digest"], here.digest());
        assert_exact(row, &|digest| content.blobs[digest].to_vec());
        assert_eq!(image(&images, "ghcr.io/team/app:1")["digest"], here.digest());
        let summary = from(&sandbox, path).success().summary();
        assert_eq!(summary["unchanged"], 2, "{summary:#}");
        assert_eq!(registry.requests(), [] as [&str; 0]);
        // The registry says the same as the bundle did: nothing is to be done.
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        assert_eq!(applied(&sandbox).summary()["unchanged"], 1);
        registry.forget();
    }
}

#[test]
fn locks_and_pins_hold() {
    let (registry, content, here, index) = served();
    let sandbox = Sandbox::in_memory();
    let full = format!("{}/team/app:1", registry.name());
    let named = entry(&here, &full).annotated(INDEX, index.digest());
    bundle(&sandbox.work().join("bundle"), &content, &[named]);
    let pins = [
        format!("team/app@{}", index.digest()),
        format!("team/app:1@{}", here.digest()),
        "team/app:1".to_owned(),
    ];
    sandbox.images(&wanted(&registry.name(), &pins.each_ref().map(String::as_str)));
    sandbox.msb("lock").run().success();
    registry.forget();
    let output = sandbox.msb("apply --json --locked --from bundle").run().success();
    assert_eq!(output.summary()["added"], 3, "{output}");
    assert_eq!(registry.requests(), [] as [&str; 0]);
    // The tag means another image in another bundle, and stays what is locked.
    let mut other = BlobSet::default();
    let moved = other.image(&Image::new(&[layer(9, 90)]));
    bundle(&sandbox.work().join("other"), &other, &[entry(&moved, &full)]);
    let summary = from(&sandbox, "other").success().summary();
    assert_eq!(summary["unchanged"], 3, "{summary:#}");
    let empty = Sandbox::in_memory();
    bundle(&empty.work().join("other"), &other, &[entry(&moved, &full)]);
    empty.images(&wanted(&registry.name(), &["team/app:1"]));
    empty.write("images.lock", std::fs::read(sandbox.work().join("images.lock")).unwrap());
    let plan = empty.msb("plan --json --from other").run().code(1).json();
    assert_eq!(plan["images"][0]["action"], "blocked", "{plan:#}");
    from(&empty, "other").code(1).says(index.digest()).says("other has no manifest");
    assert_eq!(empty.extracted(), [] as [&str; 0]);
    // The layer itself makes no image of what nobody can read the manifest of.
    let mut torn = content.clone();
    torn.blobs.remove(index.digest());
    torn.blobs.remove(here.digest());
    bundle(&empty.work().join("torn"), &torn, &[]);
    let plan = empty.msb("plan --json --from torn").run().code(1).json();
    assert_eq!(plan["images"][0]["action"], "blocked", "{plan:#}");
    // Without a lock the bundle's word counts.
    std::fs::remove_file(empty.work().join("images.lock")).unwrap();
    from(&empty, "other").success();
    assert_eq!(image(&listed(&empty), &full)["digest"], moved.digest());
}

#[test]
fn an_index_that_is_not_there_or_leads_elsewhere_is_no_meaning() {
    let (_, mut content, here, index) = served();
    let other = content.image(&Image::new(&[layer(7, 70)]));
    let lie = content.index(false, std::slice::from_ref(&other));
    let nobody = format!("sha256:{}", "0".repeat(64));
    for (said, words) in [
        (lie.digest(), "leads to manifest"),
        (&*nobody, "bundle has no manifest sha256:000"),
        ("../../etc/passwd", "an entry's index"),
    ] {
        let sandbox = Sandbox::in_memory();
        let named = entry(&here, "ghcr.io/team/app:1").annotated(INDEX, said);
        let right = entry(&here, "ghcr.io/team/right:1").annotated(INDEX, index.digest());
        bundle(&sandbox.work().join("bundle"), &content, &[named, right]);
        sandbox.images(&wanted("ghcr.io", &["team/app:1", "team/right:1"]));
        let output = from(&sandbox, "bundle").code(1).says(words);
        assert_eq!(output.summary()["added"], 1, "{output}");
        assert_eq!(listed(&sandbox).len(), 1);
    }
}

#[test]
fn a_delta_needs_the_rest_here_and_what_is_nowhere_blocks_its_image_alone() {
    let mut content = BlobSet::default();
    let shared = layer(1, 500);
    let old = content.image(&Image::new(std::slice::from_ref(&shared)));
    let new = content.image(&Image::new(&[shared.clone(), layer(2, 300)]));
    let apart = content.image(&Image::new(&[layer(3, 100)]));
    let maker = Sandbox::in_memory();
    bundle(&maker.work().join("old"), &content, &[entry(&old, "ghcr.io/team/app:1")]);
    let delta = maker.work().join("delta");
    let entries = [entry(&new, "ghcr.io/team/app:1"), entry(&apart, "ghcr.io/team/apart:1")];
    bundle(&delta, &content, &entries);
    std::fs::remove_file(delta.join("blobs").join(shared.digest().replace(':', "/"))).unwrap();
    let delta_tar = maker.write("delta.tar", tar(&members(&delta, "")));
    for kept in ["", "settings.blobs = \"keep\"\n"] {
        for delta in [&delta, &delta_tar] {
            let delta = delta.to_str().unwrap();
            let sandbox = Sandbox::in_memory();
            sandbox.images(&format!("{kept}{}", wanted("ghcr.io", &["team/app:1", "team/apart:1"])));
            let plan = sandbox.msb("plan --json").arg("--from").arg(delta).run().code(1).json();
            let app = image(plan["images"].as_array().unwrap(), "ghcr.io/team/app:1");
            assert_eq!(app["action"], "blocked", "{plan:#}");
            assert_eq!(app["error"]["kind"], "not-in-bundle", "{plan:#}");
            let message = app["error"]["message"].as_str().unwrap();
            assert!(message.contains(delta) && message.contains(&shared.digest()), "{message}");
            let output = sandbox.msb("apply").arg("--from").arg(delta).run().code(1);
            output.says(&shared.digest()).says(delta).says("hint: a bundle made with --since");
            let has = |count: usize| assert_eq!(listed(&sandbox).len(), count);
            has(1);
            // The older bundle lacks the other image, which is left alone.
            from(&sandbox, maker.work().join("old").to_str().unwrap()).code(1);
            has(2);
            let summary = from(&sandbox, delta).success().summary();
            assert_eq!((&summary["updated"], &summary["unchanged"]), (&1.into(), &1.into()));
            assert_eq!(image(&listed(&sandbox), "ghcr.io/team/app:1")["digest"], new.digest());
        }
    }
}

#[test]
fn names_of_two_repositories_and_of_two_registries_are_different_images() {
    let mut content = BlobSet::default();
    let [a, b] = [1, 2].map(|seed| content.image(&Image::new(&[layer(seed, 50)])));
    let sandbox = Sandbox::in_memory();
    let entries = [entry(&a, "ghcr.io/team/a:1"), entry(&b, "ghcr.io/team/b:1")];
    bundle(&sandbox.work().join("bundle"), &content, &entries);
    sandbox.images(&wanted("ghcr.io", &["team/a:1", "team/b:1"]));
    from(&sandbox, "bundle").success();
    let images = listed(&sandbox);
    assert_eq!(image(&images, "ghcr.io/team/a:1")["digest"], a.digest());
    assert_eq!(image(&images, "ghcr.io/team/b:1")["digest"], b.digest());
    sandbox.images(&wanted("quay.io", &["team/a:1"]));
    from(&sandbox, "bundle").code(1).says("index.json names only ghcr.io/team/a:1, ghcr.io/team/b:1");
    sandbox.images(&wanted("ghcr.io", &["team/c:1"]));
    from(&sandbox, "bundle").code(1).says("index.json names only");
}

#[test]
fn a_tag_is_not_the_pin_beside_it() {
    let mut content = BlobSet::default();
    let [old, new] = [1, 2].map(|seed| content.image(&Image::new(&[layer(seed, 50)])));
    content.tag("team/app:1", &new);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let pin = format!("team/app:1@{}", old.digest());
    sandbox.images(&wanted(&registry.name(), &["team/app:1", &pin]));
    sandbox.msb("export --output bundle.tar").run().success();
    sandbox.images(&wanted(&registry.name(), &[&pin]));
    sandbox.msb("export --output pin.tar").run().success();
    let name = registry.name();
    let _gone = registry.gone();
    for (bundle, wants, meant) in [
        ("bundle.tar", vec!["team/app:1", &pin], &new),
        ("bundle.tar", vec!["team/app:1"], &new),
        // Where nothing else has the tag, the pin has.
        ("pin.tar", vec!["team/app:1"], &old),
    ] {
        let far = Sandbox::in_memory();
        far.images(&wanted(&name, &wants));
        from(&far, sandbox.work().join(bundle).to_str().unwrap()).success();
        let images = listed(&far);
        assert_eq!(image(&images, &format!("{name}/team/app:1"))["digest"], meant.digest(), "{bundle}");
        if wants.len() > 1 {
            assert_eq!(image(&images, &format!("{name}/{pin}"))["digest"], old.digest());
        }
    }
}

#[test]
fn archives_of_skopeo_are_bundles() {
    let (registry, _, here, _) = served();
    let sandbox = Sandbox::in_memory();
    let archive = sandbox.work().join("skopeo.tar");
    let source = format!("docker://{}/team/app:1", registry.name());
    let target = format!("oci-archive:{}:{}/team/app:1", archive.display(), registry.name());
    tool(
        sandbox.root(),
        "skopeo",
        &["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &source, &target],
    );
    registry.forget();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    from(&sandbox, "skopeo.tar").success();
    assert_eq!(listed(&sandbox)[0]["digest"], here.digest());
    assert_eq!(registry.requests(), [] as [&str; 0]);
}

#[test]
fn a_damaged_blob_fails_its_image_alone() {
    let mut content = BlobSet::default();
    let damaged = layer(1, 5_000);
    let [bad, good] = [damaged.clone(), layer(2, 50)].map(|layer| content.image(&Image::new(&[layer])));
    let sandbox = Sandbox::in_memory();
    let directory = sandbox.work().join("bundle");
    bundle(&directory, &content, &[entry(&bad, "ghcr.io/bad:1"), entry(&good, "ghcr.io/good:1")]);
    let path = directory.join("blobs").join(damaged.digest().replace(':', "/"));
    let mut bytes = damaged.blob.to_vec();
    sandbox.images(&wanted("ghcr.io", &["bad:1", "good:1"]));
    let fails = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        sandbox.write("bundle.tar", tar(&members(&directory, "")));
        for bundle in ["bundle", "bundle.tar"] {
            let output = from(&sandbox, bundle).code(1).says(&damaged.digest());
            assert_eq!(output.summary()["failed"], 1, "{output}");
            assert_eq!(listed(&sandbox).len(), 1);
        }
    };
    fails(&bytes[..3_000]);
    bytes[2_500] ^= 1;
    fails(&bytes);
}

#[test]
fn what_is_no_bundle_is_refused_before_anything_is_done() {
    let mut content = BlobSet::default();
    let app = content.image(&Image::new(&[layer(1, 2_000)]));
    let sandbox = Sandbox::in_memory();
    let directory = sandbox.work().join("bundle");
    bundle(&directory, &content, &[entry(&app, "ghcr.io/app:1")]);
    sandbox.images(&wanted("ghcr.io", &["app:1"]));
    let items = members(&directory, "");
    let whole = tar(&items);
    let with = |item: Item| tar(&[&items[..], &[item]].concat());
    let mut huge = whole.clone();
    huge[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    checksum(&mut huge[..512]);
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    let long = file("x".repeat(70_000), "");
    let files: &[(&str, Vec<u8>, &str)] = &[
        ("empty.tar", Vec::new(), "neither a directory nor a tar"),
        ("text.tar", b"hello".repeat(400), "neither a directory nor a tar"),
        ("flipped.tar", flipped, "neither a directory nor a tar"),
        ("gzip.tar", gzip(&whole), "decompress it first (gunzip)"),
        ("zstd.tar", zstd::encode_all(&whole[..], 3).unwrap(), "decompress it first (zstd -d)"),
        ("huge.tar", huge, "cut off"),
        ("cut.tar", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("cut-blocks.tar", whole[..1024].to_vec(), "cut off"),
        ("no-index.tar", tar(&items[..items.len() - 1]), "index.json"),
        ("two.tar", with(items.last().unwrap().clone()), "two members index.json"),
        ("link.tar", with(symlink("./index.json", "/etc/passwd")), "is no regular file"),
        ("device.tar", with(node(b'3', "oci-layout")), "is no regular file"),
        ("sparse.tar", with(file("index.json", "x").pax("GNU.sparse.major", "1")), "is no regular file"),
        ("size.tar", with(file("x", "y").pax("size", "99999999999999")), "cut off"),
        ("size-text.tar", with(file("x", "y").pax("size", "-1")), "size is no number"),
        ("long.tar", with(long), "name is too long"),
    ];
    for (name, bytes, words) in files {
        sandbox.write(name, bytes);
        for verb in ["plan", "apply"] {
            let output = sandbox.msb(verb).arg("--from").arg(name).run().code(2).says(words).says(name);
            output.says("error: --from: ");
        }
    }
    for (name, words) in [
        ("nowhere", "No such file"),
        (".", "oci-layout"),
        ("https://user:secret@example.org/bundle.tar?sig=secret", "is a URL"),
        ("https://user:hun?secret@example.org/bundle.tar", "--from: https://*** is a URL"),
        (
            "https://user:sec/secret@example.org/bundle.tar",
            "--from: https://***@example.org/bundle.tar is a URL",
        ),
    ] {
        let output = sandbox.msb("apply").arg("--from").arg(name).run().code(2).says(words);
        assert!(!output.stderr.contains("secret"), "{output}");
    }
    sandbox.msb("apply --watch --from bundle").run().code(2);
    sandbox.msb("watch --from bundle").run().code(2);
    assert!(!sandbox.home().exists());
    // What is nobody's, and a blob that comes twice, harm nothing.
    for (name, item) in [
        ("climb.tar", file("../blobs/sha256/x", "y")),
        ("climb-index.tar", file("blobs/../index.json", "{}")),
        ("absolute.tar", file("/index.json", "{}")),
        ("again.tar", items[1].clone()),
        ("text.tar", file("images.lock", "")),
    ] {
        sandbox.write(name, with(item));
        let empty = Sandbox::in_memory();
        empty.images(&wanted("ghcr.io", &["app:1"]));
        from(&empty, sandbox.work().join(name).to_str().unwrap()).success();
        assert!(!sandbox.work().join("../blobs").exists());
    }
}

/// Writes the checksum of a header.
fn checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
