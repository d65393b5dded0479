//! The images file by command, from outside: `add`, `remove`, `outdated`, several platforms, and what `df` counts.
//! How a text is edited is tested beside the editor.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file, host_platform};
use crate::support::sandbox::Sandbox;

fn layer(name: &str) -> Layer {
    Layer::of(&[file(name, name.repeat(100))])
}

fn image(name: &str) -> Image {
    Image::new(&[layer("base"), layer(name)])
}

fn statuses(document: &Value) -> Vec<(String, String)> {
    let images = document["images"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    images.map(|image| (text(&image["reference"]), text(&image["status"]))).collect()
}

#[test]
fn a_file_is_edited_in_place_and_keeps_its_mode_and_its_symlink() {
    let sandbox = Sandbox::in_memory();
    let made = sandbox.msb("add alpine:3.20 ghcr.io/a/b:1").run().success();
    assert!(made.stdout.contains("Wrote images.toml."), "{made}");
    let path = sandbox.work().join("images.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("[registry.\"ghcr.io\"]\nimages = [\n  \"a/b:1\",\n]\n"), "{text}");

    let real = sandbox.work().join("real.toml");
    fs::rename(&path, &real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.toml", &path).unwrap();
    let document = sandbox.msb("add alpine:3.20 redis:7 --group web --json").run().success().json();
    let [alpine, redis] = ["alpine:3.20", "redis:7"].map(|name| format!("docker.io/library/{name}"));
    let pair = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    assert_eq!(statuses(&document), [pair(&alpine, "grouped"), pair(&redis, "added")]);
    assert!(path.is_symlink());
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let text = fs::read_to_string(&real).unwrap();
    for entry in [
        "  { name = \"alpine\", tag = \"3.20\"",
        "  { name = \"redis\", tag = \"7\", groups = [\"web\"] },\n",
    ] {
        assert!(text.contains(entry), "{text}");
    }
    let again = sandbox.msb("add redis:7").run().success();
    assert!(again.stdout.contains("is listed already") && again.stdout.contains("stays as it is"), "{again}");
    assert_eq!(fs::read_to_string(&real).unwrap(), text);

    let near = sandbox.msb("remove redis:7.2").run().code(2);
    assert!(near.stderr.contains("images.toml does not list docker.io/library/redis:7.2"), "{near}");
    assert!(near.stderr.contains(&format!("hint: did you mean {redis}?")), "{near}");
    sandbox.write("images.lock", "version = 1\n");
    let removed = sandbox.msb("remove alpine:3.20 redis:7").run().success();
    assert!(removed.stdout.contains("images.lock does not fit it any more: msb-sync lock"), "{removed}");
    assert!(!fs::read_to_string(&real).unwrap().contains("redis"));

    // Nothing is written where the file is wrong, or would be, or is not a file.
    for (text, arguments) in [("[settings]\nlayerz = 1\n", "add a:1"), ("registry = {}\n", "add a:1")] {
        fs::write(&real, text).unwrap();
        sandbox.msb(arguments).run().code(2);
        assert_eq!(fs::read_to_string(&real).unwrap(), text);
    }
    assert_eq!(sandbox.msb("remove redis:7 --file nowhere.toml").run().code(2).stdout, "");
    assert!(!sandbox.home().exists(), "nothing else is touched");
}

#[test]
fn images_come_from_other_files() {
    let sandbox = Sandbox::in_memory();
    sandbox.write("compose.yaml", "services:\n  a:\n    image: alpine:3.20\n  b:\n    image: $UNSET\n");
    let some = sandbox.msb("add redis:7 --from compose.yaml --group web --json").run().code(1);
    let document = some.json();
    assert_eq!(statuses(&document).len(), 2);
    assert_eq!(
        document["unread"][0],
        json!({
            "file": "compose.yaml", "line": 5, "text": "$UNSET", "message": "the variable UNSET has no value in the file",
        })
    );
    assert!(some.stderr.contains("error: compose.yaml:5: \"$UNSET\" is left out"), "{some}");
    let objects = "apiVersion: v1\nkind: Pod\nspec: { containers: [{ image: 'ghcr.io/a/b:1' }] }\n";
    sandbox.msb("add --from -").stdin(objects).run().success();
    let text = fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    assert!(text.contains("\"a/b:1\"") && text.contains("tag = \"3.20\", groups = [\"web\"]"), "{text}");
    sandbox.msb("plan --offline").run().code(1);

    fs::create_dir(sandbox.work().join("dir.yml")).unwrap();
    let refused = sandbox.msb("add --from dir.yml").run().code(2);
    assert!(refused.stderr.contains("cannot read the source dir.yml"), "{refused}");
    // A source that names nothing makes no file.
    sandbox.msb("add --from - --file new.toml").stdin("services: {}\n").run().code(1);
    assert!(!sandbox.work().join("new.toml").exists());
}

#[test]
fn newer_tags_are_named_and_so_is_a_registry_that_is_down() {
    let mut content = BlobSet::with("team/app:1.0", &image("one"));
    let two = content.image(&image("two"));
    for tag in ["1.1", "1.10", "1.0.5", "2.0-rc1", "1.2-slim", "latest"] {
        content.tag(&format!("team/app:{tag}"), &two);
    }
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let name = registry.name();
    sandbox.images(&wanted(&name, &["team/app:1.0", "team/app:latest"]));
    let outdated = sandbox.msb("outdated --json").run().success().json();
    assert_eq!(
        outdated["images"],
        json!([{ "reference": format!("{name}/team/app:1.0"), "newer": ["1.10", "1.1"], "latest": "1.10" }])
    );
    let told = sandbox.msb("outdated").run().success().stdout;
    assert!(told.contains("→ 1.10  also 1.1\n"), "{told}");
    assert!(
        told.ends_with("Outdated: 1 of 1 image has newer tags; 1 image has no version as tag.\n"),
        "{told}"
    );

    registry.fail(usize::MAX, "/tags/list", &Fault::status(403));
    let failed = sandbox.msb("outdated").run().code(1);
    assert!(failed.stderr.contains(&format!("error: {name}/team/app")), "{failed}");
    assert!(!sandbox.home().exists(), "nothing is touched");
}

#[test]
fn one_lockfile_serves_machines_of_all_platforms() {
    let other = if host_platform() == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let mut content = BlobSet::default();
    let index = |content: &mut BlobSet, name: &str| {
        let here = content.image(&image(&format!("{name} here")).platform(&host_platform()));
        let there = content.image(&image(&format!("{name} there")).platform(other));
        let index = content.index(false, &[here, there]);
        content.tag("team/app:1.0", &index);
    };
    index(&mut content, "old");
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let (name, host) = (registry.name(), host_platform());
    let images = wanted(&name, &["team/app:1.0", "{ name = \"team/app\", tags = { newest = 1 } }"]);
    sandbox.images(&images);
    sandbox.msb("lock").run().success();
    // The second platform is locked to what the first one is locked to, though the tag has moved.
    registry.edit(|content| index(content, "new"));
    sandbox.images(&format!("[settings]\nplatforms = [{host:?}, {other:?}]\n{images}"));
    sandbox.msb("lock --check").run().code(2);
    let locked = sandbox.msb("lock --json").run().success().json();
    let digests = |document: &Value| -> Vec<String> {
        let images = document["images"].as_array().unwrap().iter();
        images.map(|image| format!("{} {}", image["platform"], image["digest"])).collect()
    };
    let old = digests(&locked);
    assert_eq!(old.len(), 2, "{locked:#}");
    let digest = |entry: &String| entry.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(digest(&old[0]), digest(&old[1]));

    let upgraded = digests(&sandbox.msb("lock --upgrade --json").run().success().json());
    assert_eq!(digest(&upgraded[0]), digest(&upgraded[1]));
    assert_ne!(digest(&upgraded[0]), digest(&old[0]));
    registry.forget();
    sandbox.msb("lock --check").run().success();
    assert_eq!(registry.requests(), [] as [&str; 0], "nothing is asked");
    sandbox.msb("apply --locked").run().success();
    let [applied] = &listed(&sandbox)[..] else { panic!("one image") };
    assert_eq!(applied["platform"], host);
    // A machine of the other platform reads the same lockfile.
    sandbox.images(&format!("[settings]\nplatform = {other:?}\nplatforms = [{host:?}, {other:?}]\n{images}"));
    let plan = sandbox.msb("plan --locked --json").run().success().json();
    assert_eq!(plan["images"][0]["platform"], other);
    sandbox.images(&images);
    let strict = sandbox.msb("plan --locked").run().code(1);
    assert!(strict.stderr.contains(&format!("(locked for {other}, too)")), "{strict}");
    let third = format!("[settings]\nplatform = \"linux/riscv64\"\nplatforms = [{host:?}]\n{images}");
    sandbox.images(&third);
    let refused = sandbox.msb("plan").run().code(2);
    assert!(
        refused.stderr.contains("`platform` is linux/riscv64, which is not among `platforms`"),
        "{refused}"
    );
}

#[test]
fn df_counts_what_is_there_and_frees_what_prune_does() {
    let mut content = BlobSet::with("team/app:1", &image("one"));
    let two = content.image(&image("two"));
    content.tag("team/app:2", &two);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let name = registry.name();
    let df = || sandbox.msb("df --json").run().success().json();
    assert_eq!((&df()["layers_bytes"], &df()["reclaimable_bytes"]), (&json!(0), &json!(0)));
    sandbox
        .images(&format!("[settings]\nblobs = \"keep\"\n{}", wanted(&name, &["team/app:1", "team/app:2"])));
    sandbox.msb("apply").run().success();

    let disk = df();
    // Each layer is one file; the base is shared.
    let [base, one, two] = ["base", "one", "two"].map(|name| name.len() * 100);
    assert_eq!(disk["layers_bytes"], base + one + two);
    let blobs = sandbox.home().join("blobs/blobs/sha256");
    let size = |path: &std::path::Path| fs::metadata(path).unwrap().len();
    let all: u64 = fs::read_dir(&blobs).unwrap().map(|entry| size(&entry.unwrap().path())).sum();
    assert_eq!(disk["blobs_bytes"], all);
    assert_eq!((&disk["downloads_bytes"], &disk["staging_bytes"]), (&json!(0), &json!(0)));
    assert_eq!(disk["reclaimable_bytes"], 0, "{disk:#}");
    let images = disk["images"].as_array().unwrap();
    let sum = |key: &str| images.iter().map(|image| image[key].as_u64().unwrap()).sum::<u64>();
    let shared = images[0]["shared_bytes"].as_u64().unwrap();
    assert!(shared > base as u64, "the blob of the base is shared, too: {disk:#}");
    assert_eq!(sum("bytes") - shared, (base + one + two) as u64 + all, "{disk:#}");

    sandbox.images(&format!("[settings]\nblobs = \"keep\"\n{}", wanted(&name, &["team/app:1"])));
    fs::create_dir_all(sandbox.home().join("downloads")).unwrap();
    let partial = format!("sha256:{}.part", "a".repeat(64));
    fs::write(sandbox.home().join("downloads").join(partial), "1234567").unwrap();
    let would = sandbox.msb("prune --dry-run --json").run().success().json();
    let disk = df();
    assert_eq!((&disk["downloads_bytes"], &disk["reclaimable_bytes"]), (&json!(7), &would["freed_bytes"]));
    assert!(would["freed_bytes"].as_u64().unwrap() > two as u64 + 7);
    let told = sandbox.msb("df").run().success().stdout;
    assert!(told.contains("could be freed: msb-sync prune /"), "{told}");
    let freed = sandbox.msb("prune --json").run().success().json();
    assert_eq!(freed["freed_bytes"], disk["reclaimable_bytes"]);
    assert_eq!(df()["reclaimable_bytes"], 0);
}

#[test]
fn a_pattern_narrows_the_list() {
    let mut content = BlobSet::with("team/app:1", &image("one"));
    let two = content.image(&image("two"));
    content.tag("other/app:2", &two);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let name = registry.name();
    sandbox.images(&wanted(&name, &["team/app:1", "other/app:2"]));
    sandbox.msb("apply").run().success();
    let count = |pattern: &str| {
        sandbox.msb("list --json").arg(pattern).run().success().json()["images"].as_array().unwrap().len()
    };
    let full = format!("{name}/team/app:1");
    for (pattern, images) in
        [("*", 2), ("*/team/*", 1), (&*full, 1), (&*format!("{name}/other/app"), 1), ("team", 0)]
    {
        assert_eq!(count(pattern), images, "{pattern}");
    }
    assert_eq!(sandbox.msb("list nothing*").run().success().stdout, "No recorded image fits nothing*.\n");
}
