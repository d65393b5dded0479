//! `export`: bundles as others read them, the same each time, and none where something is wrong.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::check::wanted;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Descriptor, Image, Layer, file, noise};
use crate::support::sandbox::Sandbox;
use crate::support::{sha256, tool};

const NAME: &str = "io.containerd.image.name";
const INDEX: &str = "dev.msb-sync.index";

/// Two images that share a layer, one behind an index of two platforms.
fn content() -> (BlobSet, [Descriptor; 2], Descriptor) {
    let mut content = BlobSet::default();
    let shared = Layer::of(&[file("shared", noise(1, 300_000))]);
    let own = |name: &str| Layer::of(&[file("own", name)]);
    let one = content.image(&Image::new(&[shared.clone(), own("one")]));
    let foreign = content.image(&Image::new(&[own("foreign")]).platform("linux/s390x"));
    let two = content.image(&Image::new(&[shared, own("two")]).docker());
    let index = content.index(false, &[foreign, one.clone()]);
    content.tag("team/one:1", &index);
    content.tag("team/two:1", &two);
    (content, [one, two], index)
}

/// A registry with them, and a sandbox that lists and locks both.
fn locked() -> (Sandbox, FakeRegistry, [Descriptor; 2], Descriptor) {
    let (content, images, index) = content();
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["team/one:1", "team/two:1"]));
    sandbox.msb("lock").run().success();
    (sandbox, registry, images, index)
}

/// The members of a tar, by name.
fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let member = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    };
    archive.entries().unwrap().map(member).collect()
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[test]
fn a_bundle_has_the_original_bytes_and_is_the_same_each_time() {
    let (sandbox, registry, [one, two], index) = locked();
    sandbox.msb("export --output a.tar").run().success();
    sandbox.msb("export --output b.tar").run().success();
    let (first, second) = (sandbox.work().join("a.tar"), sandbox.work().join("b.tar"));
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(), "they differ");

    let members = members(&first);
    for (name, bytes) in members.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        assert_eq!(blob(&sha256(bytes)), *name);
    }
    let listed: Value = serde_json::from_slice(&members["index.json"]).unwrap();
    let entries = listed["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{listed:#}");
    assert_eq!(entries[0]["digest"], one.digest());
    assert_eq!(entries[0]["annotations"][NAME], format!("{}/team/one:1", registry.name()));
    assert_eq!(entries[0]["annotations"][INDEX], index.digest());
    assert_eq!(entries[1]["digest"], two.digest());
    assert_eq!(entries[1]["annotations"][INDEX], Value::Null);
    assert!(members.contains_key(&blob(index.digest())));
    let lockfile = std::fs::read(sandbox.work().join("images.lock")).unwrap();
    assert_eq!(String::from_utf8_lossy(&members["images.lock"]), String::from_utf8_lossy(&lockfile));
    // Nothing was recorded or extracted.
    assert_eq!(sandbox.extracted(), [] as [&str; 0]);

    sandbox.msb("export --index --docker --output c.tar").run().success();
    let members = self::members(&sandbox.work().join("c.tar"));
    let listed: Value = serde_json::from_slice(&members["index.json"]).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], index.digest());
    let docker: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    assert_eq!(docker[1]["RepoTags"][0], format!("{}/team/two:1", registry.name()));
}

#[test]
fn skopeo_and_podman_keep_the_digests_of_a_bundle() {
    let (sandbox, registry, [one, _], _) = locked();
    sandbox.msb("export --output all.tar").run().success();
    sandbox.msb("export --output all").run().success();
    let reference = format!("{}/team/one:1", registry.name());
    // Of Docker's manifests skopeo finds no names in a layout, whoever wrote it.
    for place in ["oci-archive:all.tar", "oci:all"] {
        let from = format!("{place}:{reference}");
        let raw = tool(&sandbox.work(), "skopeo", &["--insecure-policy", "inspect", "--raw", &from]);
        assert_eq!(sha256(&raw), one.digest(), "{from}");
    }
    if std::process::Command::new("podman").arg("--version").output().is_err() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "needs Debian's podman: nothing is loaded into it here");
        return;
    }
    sandbox.msb("export --output one.tar --image").arg(&reference).run().success();
    let (root, run) = (sandbox.root().join("storage"), sandbox.root().join("run"));
    let storage =
        ["--storage-driver", "vfs", "--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
    let podman = |arguments: &[&str]| tool(&sandbox.work(), "podman", &[&storage[..], arguments].concat());
    podman(&["load", "-i", "one.tar"]);
    let images: Value = serde_json::from_slice(&podman(&["images", "--format", "json"])).unwrap();
    assert_eq!(images[0]["Names"][0], reference.as_str(), "{images:#}");
    assert_eq!(images[0]["Digest"], one.digest(), "{images:#}");
}

#[test]
fn a_directory_is_completed_and_its_blobs_are_not_believed_by_name() {
    let (sandbox, registry, [one, _], _) = locked();
    sandbox.msb("export --output bundle").run().success();
    let bundle = sandbox.work().join("bundle");
    let state = || -> BTreeMap<_, _> {
        let files = ["index.json", "images.lock", "oci-layout"].map(str::to_owned);
        let blobs = std::fs::read_dir(bundle.join("blobs/sha256")).unwrap();
        let blobs = blobs.map(|blob| format!("blobs/sha256/{}", blob.unwrap().file_name().display()));
        files
            .into_iter()
            .chain(blobs)
            .map(|name| {
                let metadata = bundle.join(&name).metadata().unwrap();
                (name, (metadata.ino(), metadata.mtime_nsec()))
            })
            .collect()
    };
    let before = state();
    registry.forget();
    sandbox.msb("export --output bundle").run().success();
    assert_eq!(state(), before, "something was written");
    let shared = Layer::of(&[file("shared", noise(1, 300_000))]).digest();
    assert!(registry.requests().iter().all(|request| !request.contains(&shared)), "fetched again");

    let damaged = bundle.join(blob(one.digest()));
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    std::fs::remove_file(bundle.join("index.json")).unwrap();
    sandbox.msb("export --output bundle").run().success();
    assert_eq!(sha256(&std::fs::read(&damaged).unwrap()), one.digest());
    assert!(bundle.join("index.json").exists());

    let other = sandbox.work().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("file"), "theirs").unwrap();
    sandbox.msb("export --output other").run().code(2).says("holds other things");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn a_delta_lacks_the_layers_that_the_receiver_has() {
    let (sandbox, registry, [_, two], _) = locked();
    std::fs::copy(sandbox.work().join("images.lock"), sandbox.work().join("old.lock")).unwrap();
    let shared = Layer::of(&[file("shared", noise(1, 300_000))]);
    let new = Layer::of(&[file("own", "newer")]);
    let moved = registry.edit(|content| {
        let moved = content.image(&Image::new(&[shared.clone(), new.clone()]).docker());
        content.tag("team/two:1", &moved);
        moved
    });
    sandbox.msb("lock --upgrade").run().success();
    let exported = sandbox.msb("export --json --since old.lock --output delta.tar").run().success().json();
    let members = members(&sandbox.work().join("delta.tar"));
    assert!(members.contains_key(&blob(&new.digest())) && members.contains_key(&blob(moved.digest())));
    assert!(!members.contains_key(&blob(&shared.digest())) && !members.contains_key(&blob(two.digest())));
    let left_out = exported["left_out"].as_array().unwrap();
    assert!(left_out.iter().any(|digest| *digest == shared.digest().as_str()), "{exported:#}");
}

#[test]
fn what_is_damaged_on_the_way_makes_no_bundle() {
    let (sandbox, registry, ..) = locked();
    let old = sandbox.write("old.tar", "as it was");
    registry.on(|request| request.path.contains("/blobs/").then(Fault::corrupt));
    sandbox.msb("export --output old.tar").run().code(1);
    assert_eq!(std::fs::read_to_string(old).unwrap(), "as it was");
    sandbox.msb("export --output new").run().code(1);
    assert!(!sandbox.work().join("new/index.json").exists());
    registry.behave();
    sandbox.msb("export --output new").run().success();
    sandbox.msb("export --output old.tar").run().success();
    assert!(members(&sandbox.work().join("old.tar")).contains_key("index.json"));
    assert_eq!(std::fs::read_dir(sandbox.work()).unwrap().count(), 4, "something was left behind");
}

/// Documents are compared when they are looked up; layers pass through, and are compared on their way.
#[test]
fn layers_are_verified_as_they_pass() {
    let (sandbox, registry, ..) = locked();
    let lockfile = std::fs::read_to_string(sandbox.work().join("images.lock")).unwrap();
    registry.on(move |request| {
        let digest = request.path.rsplit_once("/blobs/")?.1;
        // A layer's line has its diff_id too.
        let is_layer = lockfile.lines().any(|line| line.contains(digest) && line.contains("diff"));
        is_layer.then(Fault::corrupt)
    });
    for output in ["new.tar", "new"] {
        let failed = sandbox.msb(&format!("export --output {output}")).run().code(1);
        assert!(failed.stderr.contains("does not match its digest"), "{failed}");
        // Which image, which blob, and who sent it.
        let blob = format!("{0}/team/one:1: the blob sha256:", registry.name());
        assert!(failed.stderr.contains(&blob) && failed.stderr.contains("from 127.0.0.1"), "{failed}");
    }
    assert!(!sandbox.work().join("new.tar").exists() && !sandbox.work().join("new/index.json").exists());
}

/// The kept blobs of a sandbox whose images file keeps blobs, and has been applied.
fn keep(sandbox: &Sandbox) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&format!("[settings]\nblobs = \"keep\"\n{text}"));
    sandbox.msb("apply").run().success();
    let entries = std::fs::read_dir(sandbox.home().join("blobs/blobs/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn flip(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    content[0] ^= 1;
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_damaged_kept_blob_is_named_and_fetched_anew() {
    let (sandbox, registry, ..) = locked();
    sandbox.msb("export --output before.tar").run().success();
    let kept = keep(&sandbox);
    registry.forget();
    for path in &kept {
        flip(path);
    }
    // One that lost its end, and one that is something else.
    std::fs::write(&kept[0], "").unwrap();
    std::fs::remove_file(&kept[1]).unwrap();
    std::fs::create_dir(&kept[1]).unwrap();
    let before = std::fs::read(sandbox.work().join("before.tar")).unwrap();
    for output in ["after.tar", "-"] {
        let program = env!("CARGO_BIN_EXE_msb-sync");
        let script = format!("set -o pipefail; {program} export --output {output} | cat > piped.tar");
        let exported = sandbox.program("bash", &["-c", &script]).run().success();
        for path in &kept {
            let digest = format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
            assert!(exported.stderr.contains(&digest), "{digest} is not named: {exported}");
        }
    }
    for output in ["after.tar", "piped.tar"] {
        assert!(std::fs::read(sandbox.work().join(output)).unwrap() == before, "{output} has other bytes");
    }
    sandbox.msb("export --output new").run().success().says("is damaged");
    sandbox.msb("export --output new").run().success();
    let blobs = std::fs::read_dir(sandbox.work().join("new/blobs/sha256")).unwrap();
    for blob in blobs.map(|blob| blob.unwrap().path()) {
        let content = std::fs::read(&blob).unwrap();
        assert!(
            sha256(&content).ends_with(blob.file_name().unwrap().to_str().unwrap()),
            "{}",
            blob.display()
        );
    }
    // With the registry away there is nothing to take its place.
    let _gone = registry.gone();
    let failed = sandbox.msb("export --output after.tar").run().code(1);
    assert!(failed.stderr.contains("is damaged"), "{failed}");
}

#[test]
fn a_damaged_blob_is_asked_of_an_image_that_may_be_asked() {
    let (sandbox, registry, ..) = locked();
    let kept = keep(&sandbox);
    let shared = kept.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let never = |name: &str| format!("{{ name = \"team/{name}\", tag = \"1\", pull = \"never\" }}");
    let always = |name: &str| format!("\"team/{name}:1\"");
    for images in [[never("one"), always("two")], [always("one"), never("two")]] {
        sandbox.images(&format!(
            "settings.blobs = \"keep\"\n[registry.{:?}]\nimages = [{}]\n",
            registry.name(),
            images.join(", ")
        ));
        flip(shared);
        registry.forget();
        sandbox.msb("export --output after.tar").run().success().says("is damaged");
        assert!(registry.requests().iter().any(|request| request.contains("/blobs/")));
        flip(shared);
    }
}

#[test]
fn a_registry_that_is_away_is_not_needed_for_what_is_recorded_and_kept() {
    let (content, ..) = content();
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let selection = "{ name = \"team/two\", tags = { semver = \">=1\" } }";
    sandbox.images(&wanted(&registry.name(), &["team/one:1", selection]));
    keep(&sandbox);
    registry.forget();
    sandbox.msb("export --output before.tar").run().success();
    assert!(!registry.requests().is_empty(), "the tags are looked up");
    registry.forget();
    sandbox.msb("export --offline --output offline.tar").run().success();
    assert_eq!(registry.requests(), [] as [&str; 0]);

    // No answer is not "no such image".
    registry.edit(|content| content.tags.remove("team/one:1"));
    let failed = sandbox.msb("export --output no.tar").run().code(1);
    assert!(failed.stderr.contains("404"), "{failed}");
    let name = registry.name();
    let _gone = registry.gone();
    let exported = sandbox.msb("export --output after.tar").run().success();
    let warnings = exported.stderr.matches("warning:").count();
    assert!(exported.stderr.contains(&format!("{name}/team/one:1")), "{exported}");
    assert!(exported.stderr.contains("as recorded") && warnings == 1, "one word for all: {exported}");
    let read = |name: &str| std::fs::read(sandbox.work().join(name)).unwrap();
    assert!(read("before.tar") == read("after.tar"), "another bundle");
    assert!(read("before.tar") == read("offline.tar"), "another bundle");

    // What is not whole here fails, and a bundle without it is not made.
    let layer = Layer::of(&[file("shared", noise(1, 300_000))]).digest();
    std::fs::remove_file(sandbox.home().join("blobs/blobs").join(layer.replace(':', "/"))).unwrap();
    let failed = sandbox.msb("export --output no.tar").run().code(1);
    assert!(failed.stderr.contains("refused"), "{failed}");
    sandbox.msb("export --offline --output no.tar").run().code(1).says("--offline");
    assert!(!sandbox.work().join("no.tar").exists());
}

#[test]
fn without_documents_nothing_is_exported_offline() {
    let (content, ..) = content();
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["team/one:1"]));
    sandbox.msb("apply").run().success();
    let failed = sandbox.msb("export --offline --output no.tar").run().code(1);
    assert!(failed.stderr.contains("--offline") && !failed.stderr.contains("bug"), "{failed}");
}

#[test]
fn a_selection_of_tags_is_in_the_lockfile_of_the_bundle() {
    let (mut content, [_, two], index) = content();
    for tag in ["2", "3", "4"] {
        content.tag(&format!("team/one:{tag}"), &index);
    }
    content.tag("team/two:nightly", &two);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let selection = "{ name = \"team/one\", tags = { semver = \">=1, <4\", newest = 2 } }";
    sandbox.images(&wanted(&registry.name(), &["team/two:1", selection]));
    sandbox.msb("export --output bundle.tar").run().success();
    sandbox
        .msb("export --output one.tar --image")
        .arg(format!("{}/team/two:1", registry.name()))
        .run()
        .success();
    sandbox.msb("lock").run().success();
    sandbox.msb("export --output locked.tar").run().success();
    let read = |name: &str| std::fs::read(sandbox.work().join(name)).unwrap();
    assert!(read("bundle.tar") == read("locked.tar"), "another bundle by the same lockfile");
    let lockfile = members(&sandbox.work().join("bundle.tar")).remove("images.lock").unwrap();
    let lockfile = String::from_utf8(lockfile).unwrap();
    assert_eq!(lockfile, String::from_utf8(read("images.lock")).unwrap());
    let one = members(&sandbox.work().join("one.tar")).remove("images.lock").unwrap();
    assert!(!String::from_utf8(one).unwrap().contains("selection"), "no choice without its images");

    // Another machine has the images file and the bundle alone; with the bundle's lockfile, too.
    let _gone = registry.gone();
    for strict in ["", "--locked"] {
        let far = Sandbox::in_memory();
        far.images(&std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap());
        if !strict.is_empty() {
            far.write("images.lock", &lockfile);
        }
        let bundle = sandbox.work().join("bundle.tar");
        let output = far.msb(&format!("apply --json {strict} --from")).arg(&bundle).run().success();
        assert_eq!((&output.summary()["added"], &output.summary()["requests"]), (&3.into(), &0.into()));
        let again = far.msb(&format!("apply --json {strict} --from")).arg(&bundle).run().success();
        assert_eq!(again.summary()["unchanged"], 3, "{again}");
    }
}

#[test]
fn kept_blobs_need_no_registry() {
    let (sandbox, registry, ..) = locked();
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&format!("[settings]\nblobs = \"keep\"\n{text}"));
    sandbox.msb("export --output before.tar").run().success();
    sandbox.msb("apply").run().success();
    registry.forget();
    let exported = sandbox.msb("export --json --output after.tar").run().success().json();
    assert_eq!(exported["requests"], 0, "{exported:#}");
    assert_eq!(registry.requests(), [] as [&str; 0]);
    let read = |name: &str| std::fs::read(sandbox.work().join(name)).unwrap();
    assert!(read("before.tar") == read("after.tar"), "kept blobs give other bytes");
}

#[test]
fn a_reader_that_is_slow_for_a_moment_stops_nobody() {
    let (sandbox, _registry, ..) = locked();
    sandbox.msb("export --output whole.tar").run().success();
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let script = format!(
        "set -o pipefail; {{ {program} export --output - && touch ended; }} |
         {{ for i in $(seq 400); do [ -e ended ] && break; sleep 0.05; done; [ -e ended ] && cat > late.tar; }}"
    );
    sandbox.program("bash", &["-c", &script]).run().success();
    let read = |name: &str| std::fs::read(sandbox.work().join(name)).unwrap();
    // More than a pipe holds by itself.
    assert!(read("whole.tar").len() > 200_000 && read("whole.tar") == read("late.tar"));
}

#[test]
fn a_reader_that_leaves_is_told() {
    let layer = Layer::of(&[file("large", noise(1, 4 << 20))]);
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[layer])));
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let script = format!("{program} export --output - | head -c 1000 > /dev/null; echo ${{PIPESTATUS[0]}}");
    let output = sandbox.program("bash", &["-c", &script]).run().success();
    assert_eq!(output.stdout.trim(), "1", "{output}");
    assert!(output.stderr.contains("Broken pipe"), "{output}");
}

#[test]
fn a_locked_index_holds_for_every_platform() {
    let (sandbox, registry, _, index) = locked();
    registry.edit(|content| {
        let own = Layer::of(&[file("own", "moved")]);
        let moved = content.image(&Image::new(&[own]).platform("linux/s390x"));
        let index = content.index(false, &[moved]);
        content.tag("team/one:1", &index);
    });
    let image = format!("{}/team/one:1", registry.name());
    let export = || sandbox.msb("export --json --output out.tar --platform linux/s390x --image").arg(&image);
    let exported = export().run().success().json();
    assert_eq!(exported["images"][0]["digest"], index.digest(), "{exported:#}");
    std::fs::remove_file(sandbox.work().join("images.lock")).unwrap();
    let exported = export().run().success().json();
    assert_ne!(exported["images"][0]["digest"], index.digest(), "the tag has moved");
}

#[test]
fn a_tag_that_no_selection_chooses_makes_no_bundle() {
    let mut content = BlobSet::default();
    for tag in ["1.0.0", "2.0.0"] {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", tag)])]));
        content.tag(&format!("s:{tag}"), &image);
    }
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let selection = "images = [{ name = \"s\", tags = { semver = \">=1\", newest = 1 } }]";
    sandbox.images(&format!("[registry.{:?}]\n{selection}\n", registry.name()));
    let export = |tag: &str| {
        sandbox.msb("export --output s.tar --image").arg(format!("{}/s:{tag}", registry.name())).run()
    };
    export("2.0.0").success();
    let before = std::fs::read(sandbox.work().join("s.tar")).unwrap();
    export("1.0.0").code(2).says("does not list").says("s:2.0.0");
    assert!(std::fs::read(sandbox.work().join("s.tar")).unwrap() == before);
}

#[test]
fn what_would_be_something_else_than_was_meant_is_refused() {
    let (sandbox, registry, ..) = locked();
    let failed = sandbox.msb("export --output a.tar.gz").run().code(2);
    assert!(failed.stderr.contains("bundles are not compressed"), "{failed}");
    assert!(!sandbox.work().join("a.tar.gz").exists());
    let listed = wanted(&registry.name(), &["team/one:1", "team/two:1"]);
    sandbox.images(&format!("{listed}\n[groups]\ndev = [\"{}/team/one:1\"]\n", registry.name()));
    let two = format!("{}/team/two:1", registry.name());
    let failed = sandbox.msb("export --output b.tar --group dev --image").arg(&two).run().code(2);
    assert!(failed.stderr.contains(&format!("{two} is in none of the groups")), "{failed}");
}

#[test]
fn places_of_the_home_are_no_bundles() {
    let (sandbox, _registry, ..) = locked();
    keep(&sandbox);
    let home = sandbox.home();
    let before = std::fs::read(home.join("blobs/index.json")).unwrap();
    std::os::unix::fs::symlink(home.join("blobs"), sandbox.work().join("link")).unwrap();
    std::fs::create_dir_all(home.join("downloads")).unwrap();
    std::fs::create_dir_all(home.join("layers")).unwrap();
    let places = [home.clone(), home.join("blobs"), home.join("downloads"), home.join("layers")];
    for place in places.iter().map(|place| place.to_str().unwrap()).chain(["link", "link/../layers/."]) {
        let failed = sandbox.msb("export --output").arg(place).run().code(2);
        assert!(failed.stderr.contains("name a new directory"), "{place}: {failed}");
    }
    assert!(std::fs::read(home.join("blobs/index.json")).unwrap() == before);
    assert!(!home.join("downloads/index.json").exists());
}

/// A name of a home's own is one before there is anything of that name, too.
#[test]
fn places_that_the_home_is_to_have_are_no_bundles() {
    let (sandbox, _registry, ..) = locked();
    let home = sandbox.home();
    let _ = std::fs::remove_dir_all(&home);
    let refused = |place: &std::path::Path| {
        let failed = sandbox.msb("export --output").arg(place).run().code(2);
        assert!(failed.stderr.contains("name a new directory"), "{place:?}: {failed}");
        assert!(!place.exists(), "{place:?}");
    };
    let own = ["", "blobs", "downloads", "layers", "tmp", "x/../blobs/"].into_iter();
    let own =
        own.chain(["oci.db", "oci.db-wal", ".msb-sync.lock", ".msb-sync.id", ".blobs.behind", "x/../oci.db"]);
    for name in own.chain(["blobs/x", "blobs/blobs/sha256/x", "downloads/x", "tmp/x/y"]) {
        refused(&home.join(name));
    }
    // A directory that an earlier run has used.
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&format!("[settings]\nlayers = \"former\"\n{text}"));
    sandbox.msb("apply").run().success();
    sandbox.images(&text);
    std::fs::remove_dir_all(sandbox.work().join("former")).unwrap();
    refused(&sandbox.work().join("former"));
    sandbox.msb("export --output").arg(home.join("bundle")).run().success();
}
