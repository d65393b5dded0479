//! `apply`, the main path: what a registry has becomes what the store and the catalog hold, and only what
//! changed is ever fetched again.

use serde_json::{Value, json};

use crate::support::check::{applied, assert_exact, event, image, listed, wanted};
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{
    BlobSet, Image, Layer, Pack, dir, file, hard, host_platform, noise, symlink, tar,
};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::Tree;

/// A layer of a few files that no other seed gives.
fn layer(seed: u64) -> Layer {
    Layer::of(&[dir("data"), file(format!("data/{seed}"), noise(seed, 5000)), symlink("data/link", "..")])
}

fn blob_requests(registry: &FakeRegistry) -> Vec<String> {
    let mut all = registry.requests();
    all.retain(|request| request.starts_with("GET") && request.contains("/blobs/"));
    all.sort();
    all
}

#[track_caller]
fn assert_counts(output: &Output, expected: &Value) {
    let summary = output.summary();
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(summary[key], *value, "{key}\n{output}");
    }
}

/// Pushes to `registry` an image by umoci (gzip), one by buildah in Docker's types, the first one as zstd, and an
/// index of two platforms.
fn push_real_images(registry: &DockerRegistry, sandbox: &Sandbox) {
    let root = sandbox.root();
    for (path, content) in [
        ("tree/etc/os-release", "NAME=test\n"),
        ("tree/usr/bin/tool", "#!/bin/sh\n"),
        ("more/etc/motd", "hi"),
    ] {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), content).unwrap();
    }
    std::fs::hard_link(root.join("tree/usr/bin/tool"), root.join("tree/usr/bin/same")).unwrap();
    std::os::unix::fs::symlink("usr/bin", root.join("tree/bin")).unwrap();
    let run = |program: &str, arguments: &str| {
        // Absolute paths: umoci without root does not find relative ones.
        let arguments = arguments.replace("../", &format!("{}/", root.display()));
        let all: Vec<&str> = arguments.split(' ').collect();
        let state = root.join("containers");
        let run = sandbox.program(program, &all).env("BUILDAH_ISOLATION", "chroot");
        let run = run.env("XDG_RUNTIME_DIR", &state).env("STORAGE_DRIVER", "vfs");
        run.run().success().stdout.trim().to_owned()
    };
    run("umoci", "init --layout ../umoci");
    run("umoci", "new --image ../umoci:x");
    run("umoci", "insert --rootless --image ../umoci:x ../tree /");
    run("umoci", "insert --rootless --image ../umoci:x ../more/etc/motd /etc/motd");
    run("umoci", "insert --rootless --image ../umoci:x --whiteout /etc/os-release");
    run("umoci", "config --image ../umoci:x --config.cmd sh --config.env A=b");
    let umoci = format!("oci:{}:x", root.join("umoci").display());
    // skopeo compresses only what is not compressed yet, and not where the registry has it in another form.
    let plain = format!("dir:{}", root.join("plain").display());
    run("skopeo", &format!("--insecure-policy copy -q --dest-decompress {umoci} {plain}"));
    registry.push(&plain, "made/umoci:zstd", &["--dest-compress", "--dest-compress-format=zstd"]);
    registry.push(&umoci, "made/umoci:gzip", &["--preserve-digests"]);
    registry.push(&umoci, "made/umoci:docker", &["--format=v2s2"]);

    let storage = format!("--root {0}/graph --runroot {0}/run", root.join("containers").display());
    let container = run("buildah", &format!("{storage} from scratch"));
    run("buildah", &format!("{storage} copy -q {container} ../tree /"));
    run("buildah", &format!("{storage} config --cmd sh {container}"));
    let built = root.join("buildah").display().to_string();
    run("buildah", &format!("{storage} commit -q --format docker {container} dir:{built}"));
    registry.push(&format!("dir:{built}"), "made/buildah:1", &[]);

    let mut set = BlobSet::default();
    let platforms = ["linux/amd64", "linux/arm64/v8"].map(|platform| {
        set.image(&Image::new(&[layer(1), Layer::of(&[file("platform", platform)])]).platform(platform))
    });
    let index = set.index(false, &platforms);
    set.write_layout(&root.join("index"), &[("x", &index)]);
    registry.push(&format!("oci:{}:x", root.join("index").display()), "made/index:1", &["--all"]);
}

#[test]
fn real_images_become_exact_trees_and_a_second_run_only_asks_what_the_tags_mean() {
    let sandbox = Sandbox::new();
    let registry = DockerRegistry::start();
    push_real_images(&registry, &sandbox);
    let names = ["made/umoci:gzip", "made/umoci:zstd", "made/umoci:docker", "made/buildah:1", "made/index:1"];
    let manifest = String::from_utf8(registry.blob(&registry.digest_of("made/umoci:zstd"))).unwrap();
    assert!(manifest.contains("tar+zstd"), "{manifest}");
    sandbox.images(&wanted(registry.name(), &names));

    let first = applied(&sandbox);
    assert_counts(&first, &json!({"added": 5, "failed": 0, "unchanged": 0, "updated": 0}));
    let images = listed(&sandbox);
    assert_eq!(images.len(), 5);
    for name in names {
        let listed = image(&images, &format!("{}/{name}", registry.name()));
        assert_eq!(listed["digest"], registry.digest_of(name), "{name}");
        assert_eq!(listed["platform"], host_platform());
        assert_exact(listed, &|digest| registry.blob(digest));
    }

    let before = Tree::snapshot(&sandbox.home());
    registry.requests();
    let second = applied(&sandbox);
    assert_counts(
        &second,
        &json!({"added": 0, "updated": 0, "repaired": 0, "removed": 0, "failed": 0, "unchanged": 5,
                "downloaded_bytes": 0, "extracted_bytes": 0, "requests": 5}),
    );
    let mut requests = registry.requests();
    requests.sort();
    let mut heads: Vec<String> = names
        .iter()
        .map(|name| name.rsplit_once(':').unwrap())
        .map(|(repository, tag)| format!("HEAD /v2/{repository}/manifests/{tag}"))
        .collect();
    heads.sort();
    assert_eq!(requests, heads);
    before.assert_matches(&Tree::snapshot(&sandbox.home()), "the home after a run with nothing to do");
}

#[test]
fn a_moved_tag_replaces_what_was_recorded_and_fetches_only_the_new_layer() {
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer(1), layer(2)])));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    let before = listed(&sandbox)[0].clone();

    registry.edit(|content| {
        let moved = content.image(&Image::new(&[layer(1), layer(3)]));
        content.tag("team/app:1", &moved);
    });
    registry.forget();
    let plan = sandbox.msb("plan --json").run().success().json();
    assert_eq!(plan["changes"], 1);
    let entry = &plan["images"][0];
    assert_eq!(entry["action"], "update");
    assert_eq!(entry["previous"], before["digest"]);
    assert_eq!(entry["layers"], json!({"total": 2, "present": 1}));
    assert_eq!(entry["download_bytes"], layer(3).blob.len());
    assert!(
        blob_requests(&registry).iter().all(|request| !request.contains(&layer(3).digest())),
        "plan read a layer"
    );

    let output = applied(&sandbox);
    assert_counts(&output, &json!({"added": 0, "updated": 1, "failed": 0}));
    assert_eq!(registry.sent(&layer(1).digest()), 0);
    assert_eq!(registry.sent(&layer(2).digest()), 0);
    assert_eq!(registry.sent(&layer(3).digest()), layer(3).blob.len() as u64);
    let images = listed(&sandbox);
    assert_eq!(images.len(), 1);
    assert_ne!(images[0]["digest"], before["digest"]);
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&images[0], &|digest| blobs[digest].to_vec());
}

#[test]
fn a_deleted_layer_is_repaired_alone() {
    let sandbox = Sandbox::new();
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer(1), layer(2), layer(3)])));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    std::fs::remove_dir_all(sandbox.layers().join(layer(2).directory())).unwrap();
    registry.forget();
    assert_counts(&applied(&sandbox), &json!({"added": 0, "repaired": 1, "unchanged": 0, "failed": 0}));
    assert_eq!(blob_requests(&registry), [format!("GET /v2/team/app/blobs/{}", layer(2).digest())]);
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
}

#[test]
fn a_blob_that_several_images_share_is_fetched_once() {
    let sandbox = Sandbox::new();
    let mut content = BlobSet::default();
    let names: Vec<String> = (10..16).map(|number| format!("team/app:{number}")).collect();
    for (number, name) in (10..).zip(&names) {
        let manifest = content.image(&Image::new(&[layer(1), layer(number), layer(1)]));
        content.tag(name, &manifest);
    }
    let registry = FakeRegistry::start(content);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    let output = applied(&sandbox);
    assert_counts(&output, &json!({"added": 6, "failed": 0}));
    let fetched = blob_requests(&registry);
    let mut distinct = fetched.clone();
    distinct.dedup();
    assert_eq!(fetched, distinct);
    let layers = fetched.iter().filter(|request| {
        (0..20).any(|seed| {
            [1, 10, 11, 12, 13, 14, 15].contains(&seed) && request.contains(&layer(seed).digest())
        })
    });
    assert_eq!(layers.count(), 7, "{fetched:#?}");
    let blobs = registry.edit(|content| content.blobs.clone());
    for image in listed(&sandbox) {
        assert_exact(&image, &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn an_image_that_fails_leaves_the_others() {
    let sandbox = Sandbox::new();
    let mut content = BlobSet::with("team/good:1", &Image::new(&[layer(1)]));
    let wrong = Layer::raw(layer(2).blob.to_vec(), layer(3).diff_id, &layer(2).media_type);
    let broken = content.image(&Image::new(&[wrong]));
    content.tag("team/wrong-diff-id:1", &broken);
    let gone = content.image(&Image::new(&[layer(4)]));
    content.tag("team/gone:1", &gone);
    content.blobs.remove(&layer(4).digest());
    let registry = FakeRegistry::start(content);
    let names = ["team/good:1", "team/wrong-diff-id:1", "team/gone:1", "team/unknown:1"];
    sandbox.images(&wanted(&registry.name(), &names));

    let output = sandbox.msb("apply --json").run().code(1);
    assert_counts(&output, &json!({"added": 1, "failed": 3}));
    let full = |name: &str| format!("{}/{name}", registry.name());
    assert_eq!(event(&output, &full("team/good:1"))["status"], "done");
    for name in &names[1..] {
        let event = event(&output, &full(name));
        assert_eq!(event["status"], "failed", "{event}");
        for key in ["kind", "message"] {
            assert!(event["error"][key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {event}");
        }
    }
    assert_eq!(listed(&sandbox).len(), 1);
    assert_eq!(sandbox.extracted(), [layer(1).directory()]);
}

#[test]
fn content_that_is_not_what_its_digest_says_is_never_kept() {
    for (what, part) in [("layer", layer(1).digest()), ("manifest", "/manifests/".to_owned())] {
        let sandbox = Sandbox::new();
        let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer(1)])));
        registry.fail(usize::MAX, &part, &Fault::corrupt());
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let output = sandbox.msb("apply --json").run().code(1);
        assert_counts(&output, &json!({"failed": 1}));
        assert_eq!(sandbox.extracted(), [""; 0], "{what}");
        assert_eq!(listed(&sandbox).len(), 0, "{what}");
    }
}

#[test]
fn a_pinned_digest_needs_no_request_at_all_the_second_time() {
    let sandbox = Sandbox::new();
    let content = BlobSet::with("team/app:1", &Image::new(&[layer(1)]));
    let digest = content.tags["team/app:1"].clone();
    let registry = FakeRegistry::start(content);
    sandbox
        .images(&wanted(&registry.name(), &[&format!("team/app:1@{digest}"), &format!("team/app@{digest}")]));
    assert_counts(&applied(&sandbox), &json!({"added": 2}));
    registry.forget();
    let before = Tree::snapshot(&sandbox.home());
    assert_counts(&applied(&sandbox), &json!({"unchanged": 2, "requests": 0}));
    assert_eq!(registry.log().len(), 0);
    before.assert_matches(&Tree::snapshot(&sandbox.home()), "the home after a run with nothing to do");
}

#[test]
fn the_platform_chooses_from_an_index() {
    let unknown = |digest: &str| json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest});
    let marked = |text: &str| Image::new(&[Layer::of(&[file("platform", text)])]).platform(text);
    let mut content = BlobSet::default();
    let platforms = ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/arm/v6", "freebsd/amd64"];
    let mut manifests = platforms.map(|platform| content.image(&marked(platform))).to_vec();
    let mut attestation = content.image(&marked("linux/amd64").config(json!({"Labels": {"a": "b"}})));
    attestation.json["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation.json["annotations"] = unknown(manifests[0].digest());
    manifests.insert(0, attestation);
    let flat = content.index(false, &manifests);
    content.tag("team/flat:1", &flat);
    let mut inner = content.index(false, &manifests[1..3]);
    inner.json["platform"] = Value::Null;
    inner.json.as_object_mut().unwrap().remove("platform");
    let nested = content.index(false, &[inner]);
    content.tag("team/nested:1", &nested);
    let plain = content.image(&marked("linux/s390x"));
    content.tag("team/plain:1", &plain);
    let docker = manifests[1..]
        .iter()
        .zip(platforms)
        .map(|(_, platform)| content.image(&marked(platform).docker()))
        .collect::<Vec<_>>();
    let docker = content.index(true, &docker);
    content.tag("team/docker:1", &docker);
    let registry = FakeRegistry::start(content);

    for (name, platform, expected) in [
        ("team/flat:1", "linux/amd64", "linux/amd64"),
        ("team/flat:1", "linux/arm64", "linux/arm64/v8"),
        ("team/flat:1", "linux/arm64/v8", "linux/arm64/v8"),
        ("team/flat:1", "linux/arm/v6", "linux/arm/v6"),
        ("team/flat:1", "freebsd/amd64", "freebsd/amd64"),
        ("team/nested:1", "linux/arm64", "linux/arm64/v8"),
        ("team/docker:1", "linux/arm/v7", "linux/arm/v7"),
        ("team/docker:1", "linux/amd64", "linux/amd64"),
        ("team/plain:1", "linux/s390x", "linux/s390x"),
    ] {
        for in_settings in [true, false] {
            let sandbox = Sandbox::new();
            let (repository, tag) = name.split_once(':').unwrap();
            sandbox.images(&if in_settings {
                format!("[settings]\nplatform = {platform:?}\n{}", wanted(&registry.name(), &[name]))
            } else {
                let entry = format!("{{ name = {repository:?}, tag = {tag:?}, platform = {platform:?} }}");
                wanted(&registry.name(), &[&entry])
            });
            applied(&sandbox);
            let images = listed(&sandbox);
            assert_eq!(images.len(), 1);
            let path = images[0]["layers"][0]["path"].as_str().unwrap();
            let content = std::fs::read_to_string(format!("{path}/platform")).unwrap();
            assert_eq!(content, expected, "{name} for {platform}");
            let digest = registry.edit(|content| content.tags[name].clone());
            assert_eq!(images[0]["digest"], digest, "the digest is the tag's, not the platform's");
        }
    }

    let sandbox = Sandbox::new();
    sandbox.images(&format!(
        "[settings]\nplatform = \"linux/riscv64\"\n{}",
        wanted(&registry.name(), &["team/flat:1"])
    ));
    let output = sandbox.msb("apply").run().code(1);
    for there in ["linux/amd64", "linux/arm64", "linux/arm/v7", "freebsd/amd64"] {
        assert!(output.stderr.contains(there), "{there}\n{output}");
    }
    assert!(!output.stderr.contains("unknown/unknown"), "{output}");
}

#[test]
fn a_layout_directory_serves_like_a_registry() {
    let sandbox = Sandbox::new();
    let mut set = BlobSet::default();
    let (one, two) = (set.image(&Image::new(&[layer(1)])), set.image(&Image::new(&[layer(1), layer(2)])));
    let three = set.image(&Image::new(&[layer(3)]));
    let names = [("1", &one), ("tools/busybox:2", &two), ("vendored.local/tools/busybox:3", &three)];
    set.write_layout(&sandbox.work().join("vendor/oci"), &names);
    let pinned = format!("tools/pinned@{}", one.digest());
    let images = format!("[\"tools/busybox:1\", \"tools/busybox:2\", \"tools/busybox:3\", {pinned:?}]");
    sandbox.images(&format!("[registry.\"vendored.local\"]\nlayout = \"vendor/oci\"\nimages = {images}\n"));
    // No network: every connection would go to a port where nobody listens.
    let run = |arguments: &str| sandbox.msb(arguments).env("HTTPS_PROXY", "http://127.0.0.1:1").run();
    assert_counts(&run("apply --json").success(), &json!({"added": 4, "failed": 0, "requests": 0}));
    for image in listed(&sandbox) {
        assert_exact(&image, &|digest| set.blobs[digest].to_vec());
    }
    assert_counts(&run("apply --json").success(), &json!({"unchanged": 4}));

    let victim = sandbox.work().join("vendor/oci/blobs").join(layer(3).digest().replace(':', "/"));
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    std::fs::remove_dir_all(sandbox.layers().join(layer(3).directory())).unwrap();
    assert_counts(&run("apply --json").code(1), &json!({"unchanged": 3, "failed": 1}));
}

#[test]
fn every_packing_of_a_layer_is_read_by_its_bytes() {
    let items = [dir("d"), file("d/a", noise(5, 100_000)), file("d/b", vec![0; 100_000]), hard("c", "d/a")];
    let bytes = tar(&items);
    let sandbox = Sandbox::new();
    let mut content = BlobSet::default();
    let mut names = Vec::new();
    for (number, pack) in [Pack::Gzip, Pack::GzipMembers, Pack::Zstd, Pack::Plain].into_iter().enumerate() {
        let right = Layer::packed(&bytes, pack);
        let wrong_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (kind, media_type) in [("right", right.media_type.clone()), ("wrong", wrong_type.to_owned())] {
            let manifest = content.image(&Image::new(&[Layer { media_type, ..right.clone() }]));
            let name = format!("team/app:{kind}-{number}");
            content.tag(&name, &manifest);
            names.push(name);
        }
    }
    let registry = FakeRegistry::start(content);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    assert_counts(&applied(&sandbox), &json!({"added": 8, "failed": 0}));
    let blobs = registry.edit(|content| content.blobs.clone());
    for image in listed(&sandbox) {
        assert_exact(&image, &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn a_broken_transfer_is_resumed_where_it_stopped() {
    let size = 300_000;
    let big = Layer::packed(&tar(&[file("big", noise(9, size))]), Pack::Plain);
    let total = big.blob.len() as u64;
    for (what, fault, at_most) in [
        ("a cut connection", Fault::cut(100_000), total),
        ("a stall", Fault::stall(100_000), total),
        ("an error", Fault::status(503).header("Retry-After", "0"), total + 1000),
    ] {
        let sandbox = Sandbox::new();
        let registry =
            FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&big))));
        registry.fail(2, &big.digest(), &fault);
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let run = sandbox.msb("apply --json").env("MSB_SYNC_STALL_TIMEOUT", "1").run();
        assert_counts(&run.success(), &json!({"added": 1, "failed": 0}));
        let sent = registry.sent(&big.digest());
        assert!(sent <= at_most, "{what}: {sent} of {total} bytes were sent");
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
    }
    // What must not be appended: the whole body again, or a range that was not asked for.
    for (what, fault) in [
        ("no ranges", Fault::no_ranges()),
        (
            "another range",
            Fault { body: Some(big.blob[5..].to_vec()), ..Fault::status(206) }
                .header("Content-Range", &format!("bytes 5-{}/{total}", total - 1)),
        ),
        ("not satisfiable", Fault::status(416)),
    ] {
        let sandbox = Sandbox::new();
        let registry =
            FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&big))));
        let mut number = 0;
        let digest = big.digest();
        registry.on(move |request| {
            let hit = request.path.contains(&digest);
            number += u32::from(hit);
            match number {
                1 if hit => Some(Fault::cut(100_000)),
                2 if hit => Some(fault.clone()),
                _ => None,
            }
        });
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let output = sandbox.msb("apply --json").run();
        assert_eq!(output.status.code(), Some(0), "{what}\n{output}");
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
    }
}

/// A sandbox whose images file wants one image of a layout directory, applied.
fn one_applied() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut set = BlobSet::default();
    let image = set.image(&Image::new(&[layer(1)]));
    set.write_layout(&sandbox.work().join("oci"), &[("1", &image)]);
    sandbox.images("[registry.\"vendored.local\"]\nlayout = \"oci\"\nimages = [\"app:1\"]\n");
    sandbox.msb("apply").run().success();
    sandbox
}

#[test]
fn an_images_file_is_one_owner_however_it_is_named() {
    let sandbox = one_applied();
    std::fs::create_dir(sandbox.work().join("sub")).unwrap();
    let again = sandbox.msb("apply sub/../images.toml --json").run().success();
    assert_counts(&again, &json!({"unchanged": 1}));
    let inspected = sandbox.msb("inspect vendored.local/app:1 --json").run().success().json();
    assert_eq!(inspected["image"]["owners"].as_array().unwrap().len(), 1, "{inspected}");
}

#[test]
fn layers_that_moved_are_listed_where_they_are() {
    let sandbox = one_applied();
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&format!("[settings]\nlayers = \"elsewhere\"\n{text}"));
    sandbox.msb("apply").run().success();
    let path = listed(&sandbox)[0]["layers"][0]["path"].as_str().unwrap().to_owned();
    assert!(path.contains("/elsewhere/") && std::path::Path::new(&path).is_dir(), "{path}");
}

#[test]
fn pull_never_asks_no_registry_to_repair() {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer(1)])));
    let sandbox = Sandbox::new();
    let images = |pull: &str| {
        let host = registry.name();
        format!("[settings]\npull = \"{pull}\"\n[registry.\"{host}\"]\nimages = [\"team/app:1\"]\n")
    };
    sandbox.images(&images("always"));
    sandbox.msb("apply").run().success();
    std::fs::remove_dir_all(sandbox.layers().join(layer(1).directory())).unwrap();
    sandbox.images(&images("never"));
    registry.forget();
    assert_counts(&sandbox.msb("apply --json").run().code(1), &json!({"failed": 1}));
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let sandbox = one_applied();
    let command = format!("{} list > /dev/full", env!("CARGO_BIN_EXE_msb-sync"));
    sandbox.program("sh", &["-c", &command]).run().code(1);
    let command = format!("{} list | true", env!("CARGO_BIN_EXE_msb-sync"));
    sandbox.program("sh", &["-c", &command]).run().success();
}

#[test]
fn a_group_can_be_pulled() {
    let sandbox = one_applied();
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&format!("{text}[groups]\ndev = [\"vendored.local/app:1\"]\n"));
    sandbox.msb("pull @dev").run().success();
    sandbox.msb("pull @nope").run().code(2);
    let inspected = sandbox.msb("inspect vendored.local/app:1 --json").run().success().json();
    let owners = inspected["image"]["owners"].as_array().unwrap();
    assert!(owners.contains(&json!("pull")) && owners.len() == 2, "{inspected}");
}
