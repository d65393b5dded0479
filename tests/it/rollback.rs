//! The way back: what references have meant, an earlier digest made the present one and held there, and the digests
//! that are spared for it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::check::{event, image, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

const SHARED: &str = "shared by all versions";

/// A registry with one tag that moves.
struct World {
    sandbox: Sandbox,
    registry: FakeRegistry,
}

fn version(content: &str) -> Image {
    Image::new(&[Layer::of(&[file("base", SHARED)]), Layer::of(&[file("own", content)])])
}

fn world() -> World {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &version("v1")));
    let sandbox = Sandbox::in_memory();
    let images = wanted(&registry.name(), &["team/app:1"]);
    sandbox.images(&format!("{images}[groups]\nall = [\"{}/team/app:1\"]\n", registry.name()));
    World { sandbox, registry }
}

impl World {
    fn name(&self) -> String {
        format!("{}/team/app:1", self.registry.name())
    }

    /// Moves the tag, and returns the digest that it means now.
    fn moved(&self, content: &str) -> String {
        self.registry.edit(|blobs| {
            let image = blobs.image(&version(content));
            blobs.tag("team/app:1", &image);
            image.digest().to_owned()
        })
    }

    /// Moves the tag to each version and applies, and returns the digests.
    fn applied(&self, versions: &[&str]) -> Vec<String> {
        let digests = versions.iter().map(|version| {
            let digest = self.moved(version);
            self.run("apply");
            digest
        });
        digests.collect()
    }

    fn run(&self, arguments: &str) -> Output {
        self.sandbox.msb(&arguments.replace("REF", &self.name())).run().success()
    }

    /// Runs a command that prints events, and returns the image's event, the summary, and the requests.
    fn events(&self, arguments: &str) -> (Value, Value, Vec<String>) {
        self.registry.forget();
        let output = self.run(&format!("{arguments} --json"));
        (event(&output, &self.name()), output.summary(), self.registry.requests())
    }

    /// The image as it is listed.
    fn image(&self) -> Value {
        image(&listed(&self.sandbox), &self.name()).clone()
    }

    /// Runs a command whose result says `words`.
    fn shows(&self, arguments: &str, words: &str) {
        let output = self.run(arguments);
        assert!(output.stdout.contains(words), "{output}");
    }
}

#[test]
fn a_story_of_a_bad_release() {
    let world = world();
    let [one, two]: [String; 2] = world.applied(&["v1", "v2"]).try_into().unwrap();

    // v2 is bad: back to v1, whose layers are here, without asking anybody.
    let (event, summary, requests) = world.events("rollback REF");
    assert_eq!((&event["action"], &event["status"]), (&json!("update"), &json!("done")), "{event:#}");
    assert_eq!((&event["digest"], &event["previous"]), (&json!(one), &json!(two)));
    assert_eq!((&summary["updated"], &summary["requests"]), (&json!(1), &json!(0)), "{summary:#}");
    assert!(requests.is_empty(), "{requests:?}");
    let image = world.image();
    assert_eq!((&image["digest"], &image["held"]), (&json!(one), &json!(true)));
    world.shows("inspect REF", "since rollback 2");
    world.shows("list", "(held)");

    // The next runs keep v1, and do not even ask.
    for verb in ["apply", "apply --group all", "pull REF"] {
        let (event, summary, requests) = world.events(verb);
        assert_eq!((&event["action"], &event["digest"]), (&json!("keep"), &json!(one)));
        assert_eq!((&summary["unchanged"], requests.len()), (&json!(1), 0), "{summary:#}");
    }
    let plan = world.run("plan --json").json();
    assert_eq!(plan["images"][0]["reason_code"], "held");
    assert!(plan["images"][0]["reason"].as_str().unwrap().starts_with("held since rollback 2"), "{plan:#}");
    world.shows("plan", "held since rollback 2");

    // It is whole again at the held digest: the registry is asked for the blob alone.
    let lost = world.sandbox.layers().join(Layer::of(&[file("own", "v1")]).directory());
    std::fs::remove_dir_all(&lost).unwrap();
    let (event, _, requests) = world.events("apply");
    assert_eq!((&event["action"], &event["digest"]), (&json!("repair"), &json!(one)));
    assert!(requests.iter().all(|request| request.contains("/blobs/sha256:")), "{requests:?}");
    assert!(lost.is_dir());

    // v3 mends it.
    let three = world.moved("v3");
    assert_eq!(world.events("apply").0["digest"], json!(one));
    world.shows("rollback --release REF", "held no more");
    world.shows("rollback REF --release", "not held");
    assert_eq!(world.events("apply").0["digest"], json!(three));
    let history = world.run("history REF --json").json();
    let entries = history["images"][0]["entries"].as_array().unwrap();
    let digests: Vec<&Value> = entries.iter().map(|entry| &entry["digest"]).collect();
    assert_eq!(digests, [&three, &one, &two, &one].map(|digest| json!(digest)).iter().collect::<Vec<_>>());
    assert_eq!((&entries[0]["until"], &history["images"][0]["held"]), (&json!(null), &json!(false)));
    for pair in entries.windows(2) {
        assert_eq!(pair[1]["until"], pair[0]["from"]);
    }
    let shown = world.run("history").stdout;
    assert!([&one, &two, &three].iter().all(|digest| shown.contains(*digest)), "{shown}");
}

#[test]
fn the_way_back_leads_to_any_digest_and_to_none_that_was_not_there() {
    let world = world();
    let [one, two, three]: [String; 3] = world.applied(&["v1", "v2", "v3"]).try_into().unwrap();
    // Layers that are gone are fetched, by digest.
    let lost = world.sandbox.layers().join(Layer::of(&[file("own", "v1")]).directory());
    std::fs::remove_dir_all(&lost).unwrap();
    let (event, summary, requests) = world.events(&format!("rollback REF --to {}", &one[7..20]));
    assert_eq!((&event["digest"], &summary["requests"]), (&json!(one), &json!(1)), "{summary:#}");
    assert!(requests.iter().all(|request| request.contains("/blobs/sha256:")), "{requests:?}");
    // The latest other one.
    assert_eq!(world.events("rollback REF").0["digest"], json!(three));
    // A digest at which it is already is held only, and that is said.
    world.run("rollback REF --release");
    let (event, _, requests) = world.events(&format!("rollback REF --to {three}"));
    assert_eq!((&event["action"], requests.len()), (&json!("keep"), 0));
    assert_eq!(world.image()["held"], true);
    world.run(&format!("rollback REF --to {three}")).says("was at this digest before");

    let refused = |arguments: &str, kind: &str, words: &str| {
        let output = world.sandbox.msb(&arguments.replace("REF", &world.name())).run().code(1);
        assert!(output.stderr.contains(words), "{output}");
        let output = world.sandbox.msb(&format!("{} --json", arguments.replace("REF", &world.name()))).run();
        let last = output.code(1).json_lines().pop().unwrap();
        assert_eq!(last["error"]["kind"], kind, "{last:#}");
    };
    refused("rollback REF --to sha256:0123", "no-earlier", &two);
    refused("rollback REF --to sha256:", "no-earlier", "several");
    refused("rollback REF2", "not-recorded", "recorded of its repository");
    refused("rollback elsewhere.example/x", "not-recorded", "msb-sync list");
    world.sandbox.msb("history elsewhere.example/x").run().code(1).says("not recorded");
    let pinned = format!("{}/team/app@{three}", world.registry.name());
    world.run(&format!("pull {pinned}"));
    refused(&format!("rollback {pinned}"), "pinned", "pinned to a digest");
    // What was forgotten has no past.
    world.run("forget REF");
    world.run("apply");
    refused("rollback REF", "no-earlier", "msb-sync history");
}

#[test]
fn a_lockfile_decides_and_its_line_is_named() {
    let world = world();
    let [one, two]: [String; 2] = world.applied(&["v1", "v2"]).try_into().unwrap();
    world.run("lock");
    let text = std::fs::read_to_string(world.sandbox.work().join("images.lock")).unwrap();
    let before = world.run("list --json").stdout;
    let line = text.lines().position(|line| line.starts_with("digest = ")).unwrap() + 1;
    let arguments = format!("rollback {} --json", world.name());
    let output = world.sandbox.msb(&arguments).run().code(1);
    let error = output.json_lines().pop().unwrap()["error"].clone();
    assert_eq!(error["kind"], "locked", "{error:#}");
    let place = format!("{}:{line}", world.sandbox.work().join("images.lock").display());
    assert!(error["message"].as_str().unwrap().starts_with(&place), "{error:#}");
    assert!(error["message"].as_str().unwrap().contains(&two), "{error:#}");
    assert!(error["hint"].as_str().unwrap().contains(&format!("digest = \"{one}\"")), "{error:#}");
    assert_eq!(world.run("list --json").stdout, before);
    // An older lockfile is the way back, whatever is held.
    world.sandbox.write("images.lock", "version = 1\n");
    world.run("rollback REF");
    world.sandbox.write("images.lock", text);
    assert_eq!(world.events("apply").0["digest"], json!(two));
    assert_eq!(world.image()["held"], false);
}

#[test]
fn engines_get_the_earlier_digest_for_each_owner() {
    let world = world();
    let directory = world.sandbox.root().join("engines");
    std::fs::create_dir_all(&directory).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py");
    assert!(script.metadata().unwrap().permissions().mode() & 0o100 != 0);
    let podman = directory.join("podman");
    symlink(script, &podman).unwrap();
    let images = wanted(&world.registry.name(), &["team/app:1"]);
    let text = format!("[settings]\nlayers = false\n[engine.podman]\ncommand = {podman:?}\n{images}");
    world.sandbox.write("engine.toml", text);
    let mut digests = Vec::new();
    for content in ["v1", "v2"] {
        digests.push(world.moved(content));
        world.run("apply");
        world.run("apply engine.toml");
    }
    let (event, summary, requests) = world.events("rollback REF");
    assert_eq!((&event["digest"], &summary["updated"]), (&json!(digests[0]), &json!(1)), "{summary:#}");
    assert_eq!((&summary["engine_loads"], requests.len()), (&json!(1), 0), "{summary:#} {requests:?}");
    let has = std::fs::read_to_string(world.sandbox.user().join("podman.images")).unwrap();
    assert!(has.contains(&digests[0]) && !has.contains(&digests[1]), "{has}");
    for file in ["images.toml", "engine.toml"] {
        let (event, summary, requests) = world.events(&format!("apply {file}"));
        assert_eq!((&event["action"], &event["digest"]), (&json!("keep"), &json!(digests[0])), "{file}");
        assert_eq!((&summary["engine_loads"], requests.len()), (&json!(0), 0), "{file}");
    }
    assert_eq!(world.image()["owners"].as_array().unwrap().len(), 2);
    // The owners' files are gone: what is recorded for them says which engines are theirs.
    world.run("rollback REF --release");
    for file in ["images.toml", "engine.toml"] {
        std::fs::remove_file(world.sandbox.work().join(file)).unwrap();
    }
    assert_eq!(world.events("rollback REF").0["digest"], json!(digests[1]));
    let has = std::fs::read_to_string(world.sandbox.user().join("podman.images")).unwrap();
    assert!(has.contains(&digests[1]), "{has}");
}

#[test]
fn keep_spares_the_newest_earlier_digests_and_says_so() {
    let world = world();
    let images = wanted(&world.registry.name(), &["team/app:1"]);
    let set = |settings: &str| world.sandbox.images(&format!("[settings]\n{settings}\n{images}"));
    let has =
        |content: &str| world.sandbox.extracted().contains(&Layer::of(&[file("own", content)]).directory());
    set("prune = true\nkeep = 1");
    let digests = world.applied(&["v1", "v2", "v3"]);
    assert_eq!([has("v1"), has("v2"), has("v3")], [false, true, true]);
    let plan = world.run("plan --json").json();
    assert_eq!(plan["spared"], json!([{"reference": world.name(), "digest": digests[1]}]), "{plan:#}");
    assert!(plan["spared_bytes"].as_u64().unwrap() > 0 && plan["layers_to_remove"] == json!([]), "{plan:#}");
    world.shows("plan --prune", "1 earlier digest spared (");
    world.shows("prune", "1 earlier digest spared (");
    let pruned = world.run("prune --json").json();
    assert_eq!(pruned["spared"], json!([{"reference": world.name(), "digest": digests[1], "staged": false}]));
    let disk = world.run("df --json").json();
    assert_eq!((&disk["spared_bytes"], &disk["reclaimable_bytes"]), (&pruned["spared_bytes"], &json!(0)));
    assert!(disk["spared_bytes"].as_u64().unwrap() > 0);
    // In sync: nothing is written, and nothing goes.
    assert_eq!(world.events("apply").1["unchanged"], 1);
    // The way back needs nobody; what was replaced is the earlier one then.
    assert_eq!(world.events("rollback REF").1["requests"], 0);
    world.run("apply");
    assert_eq!([has("v2"), has("v3")], [true, true]);
    // A smaller number counts at the next run.
    set("keep = 0");
    world.run("apply");
    assert!(has("v3"));
    assert!(world.run("df --json").json()["reclaimable_bytes"].as_u64().unwrap() > 0);
    world.shows("plan --prune", "In sync");
    world.run("apply --prune");
    assert_eq!([has("v2"), has("v3")], [true, false]);
    assert_eq!(world.run("df --json").json()["reclaimable_bytes"], 0);
    // With the image goes what only its past needed.
    set("keep = 2");
    world.run("rollback REF --release");
    world.run("apply");
    assert_eq!([has("v2"), has("v3")], [true, true]);
    world.run("forget REF");
    assert!(world.sandbox.extracted().is_empty());
}

#[test]
fn kept_blobs_of_earlier_digests_are_spared_and_fall_out_too() {
    let world = world();
    let images = wanted(&world.registry.name(), &["team/app:1"]);
    world
        .sandbox
        .images(&format!("[settings]\nlayers = false\nblobs = \"keep\"\nprune = true\nkeep = 1\n{images}"));
    let blobs = || {
        let directory = world.sandbox.home().join("blobs/blobs/sha256");
        std::fs::read_dir(directory).unwrap().count()
    };
    world.applied(&["v1", "v2"]);
    // Two manifests, two configs, a shared layer and two others.
    assert_eq!(blobs(), 7);
    world.applied(&["v3"]);
    assert_eq!(blobs(), 7);
    let (_, summary, requests) = world.events("rollback REF");
    assert_eq!((&summary["updated"], requests.len()), (&json!(1), 0), "{requests:?}");
    world.run("prune");
    assert_eq!(blobs(), 7);
    world.run("forget REF");
    assert_eq!(blobs(), 0);
}
