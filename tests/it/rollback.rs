//! The way back: what references have meant, an earlier digest made the present one and held there, and the digests
//! that are spared for it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::check::{image, listed, wanted};
use crate::support::moving::Moving;

#[test]
fn a_story_of_a_bad_release() {
    let world = Moving::new("settings.cooldown = \"3d\"\n");
    let images = std::fs::read_to_string(world.sandbox.work().join("images.toml")).unwrap();
    world.sandbox.images(&format!("{images}[groups]\nall = [{:?}]\n", world.name()));
    let one = world.applied(&["v1"]).remove(0);

    // v2 appears, and cools: a look a run, and nothing is fetched.
    let two = world.moved("v2");
    for _ in 0..2 {
        let (event, summary, requests) = world.events("apply");
        assert_eq!((&event["action"], &event["digest"]), (&json!("keep"), &json!(one)), "{event:#}");
        assert_eq!(event["candidate"]["digest"], json!(two));
        assert_eq!((&summary["unchanged"], requests.len()), (&json!(1), 1), "{requests:?}");
    }
    let waits = format!("new digest {}… seen 20", &two[..19]);
    world.shows("plan", &waits);
    assert!(world.run("apply").stderr.contains(&waits));
    world.pass(71);
    assert_eq!(world.events("apply").0["action"], "keep");
    // It is taken after its time.
    world.pass(1);
    world.shows("plan", "1 to update");
    let (event, ..) = world.events("apply");
    assert_eq!((&event["action"], &event["digest"]), (&json!("update"), &json!(two)), "{event:#}");
    assert!(event["candidate"].is_null() && world.has("v2"), "{event:#}");

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
    let lost = world.lose("v1");
    let (event, _, requests) = world.events("apply");
    assert_eq!((&event["action"], &event["digest"]), (&json!("repair"), &json!(one)));
    assert!(requests.iter().all(|request| request.contains("/blobs/sha256:")), "{requests:?}");
    assert!(lost.is_dir());

    // v3 mends it: it is nobody's while v1 is held, and cools from when it is seen.
    let three = world.moved("v3");
    assert_eq!(world.events("apply").0["digest"], json!(one));
    world.pass(100);
    world.shows("rollback --release REF", "held no more");
    world.shows("rollback REF --release", "not held");
    let (event, ..) = world.events("apply");
    assert_eq!((&event["digest"], &event["candidate"]["digest"]), (&json!(one), &json!(three)), "{event:#}");
    world.pass(72);
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
    let world = Moving::new("");
    let [one, two, three]: [String; 3] = world.applied(&["v1", "v2", "v3"]).try_into().unwrap();
    // Layers that are gone are fetched, by digest.
    world.lose("v1");
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
    let world = Moving::new("");
    let [one]: [String; 1] = world.applied(&["v1"]).try_into().unwrap();
    let lockfile = || std::fs::read_to_string(world.sandbox.work().join("images.lock")).unwrap();
    world.run("lock");
    let older = lockfile();
    let two = world.moved("v2");
    world.run("lock --upgrade");
    world.run("apply");
    let text = lockfile();
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
    // As the hint says: the older version of the lockfile; or a pin, which is recorded under its own name.
    world.sandbox.write("images.lock", older);
    let (event, _, requests) = world.events("apply");
    assert_eq!((&event["digest"], requests.len()), (&json!(one), 0), "{requests:?}");
    world.sandbox.write("images.lock", &text);
    assert_eq!(world.events("apply").0["digest"], json!(two));
    let pin = format!("team/app:1@{one}");
    assert!(error["hint"].as_str().unwrap().contains(&format!("list \"{pin}\" in ")), "{error:#}");
    world.want("", &[&pin]);
    world.run("lock");
    world.run("apply --locked");
    let pinned = format!("{}@{one}", world.name());
    assert_eq!(image(&listed(&world.sandbox), &pinned)["digest"], json!(one));
    world.want("", &["team/app:1"]);
    world.run(&format!("forget {pinned}"));
    // An older lockfile is the way back, whatever is held.
    world.sandbox.write("images.lock", "version = 1\n");
    world.run("rollback REF");
    world.sandbox.write("images.lock", text);
    assert_eq!(world.events("apply").0["digest"], json!(two));
    assert_eq!(world.image()["held"], false);
}

#[test]
fn engines_get_the_earlier_digest_for_each_owner() {
    let world = Moving::new("");
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
    let world = Moving::new("");
    let images = wanted(&world.registry.name(), &["team/app:1"]);
    let set = |settings: &str| world.sandbox.images(&format!("[settings]\n{settings}\n{images}"));
    let has = |content: &str| world.has(content);
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
fn a_prune_spares_as_many_as_the_file_says_by_now() {
    let world = Moving::new("");
    world.applied(&["v1", "v2", "v3"]);
    let has = || [world.has("v1"), world.has("v2"), world.has("v3")];
    for (keep, left) in [(2, [true; 3]), (1, [false, true, true]), (0, [false, false, true])] {
        world.want(&format!("settings.keep = {keep}\n"), &["team/app:1"]);
        if keep > 0 {
            let spared = if keep == 1 { "1 earlier digest spared (" } else { "2 earlier digests spared (" };
            world.shows("prune --dry-run", spared);
            world.shows("prune", spared);
        }
        world.run("prune");
        assert_eq!(has(), left);
    }
}

#[test]
fn kept_blobs_of_earlier_digests_are_spared_and_fall_out_too() {
    let world = Moving::new("");
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

#[test]
fn a_held_image_of_a_selection_stays_until_it_is_released() {
    let selection = "{ name = \"team/app\", tags = { semver = \">=1\", newest = 1 } }";
    let world = Moving::wanting("settings.prune = true\nsettings.keep = 3\n", &[selection]);
    let tag = |version: &str| format!("{}/team/app:{version}", world.registry.name());
    let one = world.release("team/app:1.0", "v1");
    world.run("apply");
    world.release("team/app:1.0", "v2");
    world.run("apply");
    world.run(&format!("rollback {}", tag("1.0")));
    // The selection moves on.
    world.release("team/app:1.1", "v3");
    for verb in ["apply", "apply --prune", "prune", "apply"] {
        world.run(verb);
        let held = image(&listed(&world.sandbox), &tag("1.0")).clone();
        assert_eq!((&held["digest"], &held["held"]), (&json!(one), &json!(true)));
    }
    let plan = world.run("plan --json").json();
    let images = plan["images"].as_array().unwrap();
    let facts: Vec<_> = images.iter().map(|image| (&image["action"], &image["reason_code"])).collect();
    assert_eq!(facts, [(&json!("keep"), &json!("held")), (&json!("keep"), &json!("in-sync"))], "{plan:#}");
    world.shows("plan", "held since rollback 2");
    assert_eq!(plan["changes"], 0);
    world.run(&format!("rollback --release {}", tag("1.0")));
    world.run("apply");
    assert_eq!(listed(&world.sandbox).len(), 1);
}
