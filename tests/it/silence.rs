//! Runs that may ask no registry, and find damage in what they thought to have: they fail, and ask nobody.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::support::check::event;
use crate::support::moving::Moving;

/// A machine that keeps the blobs of its image, has lost a layer, and finds the blob of that layer damaged.
fn damaged() -> Moving {
    let world = Moving::new("settings.blobs = \"keep\"\n");
    world.run("apply");
    harm(&world);
    world
}

fn harm(world: &Moving) {
    let lost = world.lose("v1");
    let name = lost.file_name().unwrap().to_str().unwrap();
    let digest = name.strip_prefix("sha256:").unwrap().strip_suffix(".extracted").unwrap();
    let path = world.sandbox.home().join("blobs/blobs/sha256").join(digest);
    let mut blob = fs::read(&path).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    fs::write(path, blob).unwrap();
}

#[track_caller]
fn fails_in_silence(world: &Moving, arguments: &str, kind: &str) {
    world.registry.forget();
    let output = world.sandbox.msb(&format!("{arguments} --json")).run().code(1);
    let error = event(&output, &world.name())["error"].clone();
    assert_eq!(error["kind"], kind, "{output}");
    assert!(error["message"].as_str().unwrap().contains("is damaged"), "{output}");
    assert_ne!(error["hint"], Value::Null, "{output}");
    assert!(world.registry.requests().is_empty(), "{:?}", world.registry.requests());
    assert!(!world.has("v1"));
}

#[test]
fn a_damaged_kept_blob_is_fetched_again_by_nobody_who_may_not_ask() {
    let world = damaged();
    fails_in_silence(&world, "apply --offline", "offline");
    world.want("settings.blobs = \"keep\"\nsettings.pull = \"never\"\n", &["team/app:1"]);
    fails_in_silence(&world, "apply", "pull-never");
    fails_in_silence(&world, "apply --offline", "pull-never");
    // By a selection of tags, too.
    let selection = "{ name = \"team/app\", tags = { match = \"[0-9]+\" }, pull = \"never\" }";
    world.want("settings.blobs = \"keep\"\n", &[selection]);
    fails_in_silence(&world, "apply", "pull-never");
    // Whoever may ask does.
    world.want("settings.blobs = \"keep\"\nsettings.pull = \"missing\"\n", &["team/app:1"]);
    world.run("apply");
    assert!(world.has("v1"));
    // By the lockfile, too.
    world.run("lock");
    harm(&world);
    fails_in_silence(&world, "apply --locked --offline", "offline");
    world.run("apply --locked");
    assert!(world.has("v1"));
}

#[test]
fn an_image_of_the_same_blob_that_may_be_asked_for_mends_both() {
    let world = damaged();
    world.release("team/other:1", "v1");
    let images = ["{ name = \"team/app\", tag = \"1\", pull = \"never\" }", "team/other:1"];
    world.want("settings.blobs = \"keep\"\n", &images);
    world.registry.forget();
    world.run("apply");
    assert!(world.has("v1"));
    let requests = world.registry.requests();
    assert!(requests.iter().all(|request| request.contains("/team/other/")), "{requests:?}");
}

#[test]
fn a_bundle_without_a_network_has_no_damaged_blob() {
    let world = damaged();
    for settings in ["", "settings.pull = \"never\"\n"] {
        world.want(&format!("settings.blobs = \"keep\"\n{settings}"), &["team/app:1"]);
        world.registry.forget();
        let offline = if settings.is_empty() { " --offline" } else { "" };
        let output = world.sandbox.msb(&format!("export --output full.tar{offline} --json")).run().code(1);
        let text = output.to_string();
        assert!(text.contains("is damaged") && text.contains(&world.name()), "{output}");
        assert!(world.registry.requests().is_empty(), "{output}");
        assert!(!world.sandbox.work().join("full.tar").exists());
    }
}

#[test]
fn an_engine_that_is_given_a_damaged_kept_blob_says_how_to_go_on() {
    let world = Moving::new("");
    let podman = world.sandbox.root().join("podman");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py"), &podman).unwrap();
    let settings =
        |pull: &str| format!("settings.layers = false\n{pull}[engine.podman]\ncommand = {podman:?}\n");
    for (pull, option, hint) in [
        ("", " --offline", "run without --offline"),
        ("settings.pull = \"never\"\n", "", "set pull = \"missing\""),
    ] {
        world.want(&settings(""), &["team/app:1"]);
        world.run("apply");
        world.want(&settings(pull), &["team/app:1"]);
        fs::remove_file(world.sandbox.user().join("podman.images")).unwrap();
        let blobs = fs::read_dir(world.sandbox.home().join("blobs/blobs/sha256")).unwrap();
        let largest =
            blobs.map(|blob| blob.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
        let largest = largest.unwrap();
        let mut blob = fs::read(&largest).unwrap();
        blob[0] ^= 1;
        fs::write(&largest, blob).unwrap();
        let output = world.sandbox.msb(&format!("apply{option}")).run().code(1);
        let output = output.says("is damaged, and taken away");
        assert!(!output.stderr.contains("run again") && output.stderr.contains(hint), "{output}");
        let output = world.sandbox.msb(&format!("apply{option}")).run().code(1);
        assert!(!output.stderr.contains("layers are here") && output.stderr.contains(hint), "{output}");
    }
}
