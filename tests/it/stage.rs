//! Images that are made ready before they are recorded: `apply --stage`, and the switch afterwards.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::support::check::wanted;
use crate::support::moving::Moving;
use crate::support::sandbox::Sandbox;

/// The one request that a look at the tag costs.
fn one_head() -> Vec<String> {
    vec!["HEAD /v2/team/app/manifests/1".to_owned()]
}

#[test]
fn an_update_is_made_ready_and_switched_to_by_one_head() {
    let world = Moving::new("");
    let one = world.moved("v1");
    world.run("apply");
    let two = world.moved("v2");
    let (event, summary, _) = world.events("apply --stage");
    assert_eq!(
        (&event["action"], &event["status"], &event["staged"]),
        (&json!("update"), &json!("done"), &json!(true))
    );
    assert_eq!((&event["digest"], &event["previous"]), (&json!(two), &json!(one)));
    assert_eq!((&summary["staged"], &summary["updated"]), (&json!(1), &json!(0)), "{summary:#}");
    // Nothing is recorded, and all is here.
    assert_eq!(world.digests(), [json!(one)]);
    assert!(world.has("v2"));
    let plan = world.run("plan --json").json();
    let image = &plan["images"][0];
    assert_eq!((&image["action"], &image["staged"]), (&json!("update"), &json!(true)), "{plan:#}");
    assert_eq!(plan["download_bytes"], 0);
    let shown = world.run("plan");
    assert!(shown.stdout.contains("staged"), "{shown}");
    // Again: one look at the tag, and nothing to do.
    let (event, summary, requests) = world.events("apply --stage");
    assert_eq!((&event["action"], &event["staged"], requests), (&json!("keep"), &json!(false), one_head()));
    assert_eq!((&summary["staged"], &summary["unchanged"]), (&json!(0), &json!(1)), "{summary:#}");
    // Nobody takes it away.
    let pruned = world.run("prune --json").json();
    assert_eq!(pruned["spared"], json!([{"reference": world.name(), "digest": two, "staged": true}]));
    assert!(world.run("prune").stdout.contains("1 staged image spared ("));
    assert!(world.has("v2"));
    // The switch.
    let (event, summary, requests) = world.events("apply");
    assert_eq!((&event["digest"], &event["staged"]), (&json!(two), &json!(false)));
    assert_eq!((&summary["updated"], requests), (&json!(1), one_head()), "{summary:#}");
    assert_eq!(world.run("plan --json").json()["images"][0]["staged"], false);
    // Back to a digest of the history, by the tag itself: nothing is fetched that is known.
    world.moved("v1");
    let (event, _, requests) = world.events("apply");
    assert_eq!((&event["digest"], requests), (&json!(one), one_head()));
}

#[test]
fn a_first_add_is_made_ready_alone_and_a_tag_that_moves_on_is_not() {
    let world = Moving::new("");
    let (event, summary, _) = world.events("apply --stage --prune");
    assert_eq!((&event["action"], &event["staged"]), (&json!("add"), &json!(true)));
    assert_eq!((&summary["staged"], &summary["added"]), (&json!(1), &json!(0)));
    assert!(world.digests().is_empty() && world.has("v1"));
    world.run("apply --stage --prune").says("--stage: nothing is removed");
    world.run("prune");
    assert!(world.has("v1"));
    let (_, summary, requests) = world.events("apply");
    assert_eq!((&summary["added"], requests), (&json!(1), one_head()), "{summary:#}");

    world.moved("v2");
    world.run("apply --stage");
    let three = world.moved("v3");
    let plan = world.run("plan --json").json();
    assert_eq!(plan["images"][0]["staged"], false);
    assert_eq!(world.events("apply").0["digest"], json!(three));
    // What is neither added nor updated is no business of such a run.
    let lost = world.lose("v3");
    let (event, _, _) = world.events("apply --stage");
    assert_eq!((&event["action"], lost.exists()), (&json!("keep"), false));
    // An image that cannot be had fails alone.
    let images = wanted(&world.registry.name(), &["team/app:1", "team/app:nowhere"]);
    world.sandbox.images(&images);
    world.moved("v4");
    let failed = world.sandbox.msb("apply --stage --json").run().code(1);
    assert_eq!(
        (&failed.summary()["failed"], &failed.summary()["staged"]),
        (&json!(1), &json!(1)),
        "{failed}"
    );
}

#[test]
fn what_is_ready_is_switched_to_where_no_head_tells_a_digest() {
    let world = Moving::new("");
    let bundle = world.sandbox.work().join("full.tar");
    world.run(&format!("export --output {}", bundle.display()));
    let from = |verb: &str| world.events(&format!("{verb} --from {}", bundle.display()));
    assert_eq!(from("apply --stage").0["staged"], json!(true));
    // Again, and as a plan: what is ready is known to be.
    let (event, summary, _) = from("apply --stage");
    assert_eq!((&event["action"], &summary["failed"]), (&json!("keep"), &json!(0)), "{event:#}");
    let plan = world.run(&format!("plan --json --from {}", bundle.display())).json();
    assert_eq!((&plan["images"][0]["action"], &plan["images"][0]["staged"]), (&json!("add"), &json!(true)));
    let (_, summary, requests) = from("apply");
    assert_eq!((&summary["added"], requests.len()), (&json!(1), 0), "{summary:#}");
}

#[test]
fn a_lockfile_says_what_is_made_ready_and_then_nobody_is_asked() {
    let world = Moving::new("");
    let one = world.moved("v1");
    world.run("lock");
    world.moved("v2");
    assert_eq!(world.events("apply --locked --stage").0["digest"], json!(one));
    let (event, summary, requests) = world.events("apply --locked");
    assert_eq!((&event["digest"], &summary["added"]), (&json!(one), &json!(1)));
    assert!(requests.is_empty(), "{requests:?}");
}

#[test]
fn no_engine_is_touched_until_the_switch_loads_it_from_kept_blobs() {
    let directory = Sandbox::in_memory();
    let podman = directory.root().join("podman");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py"), &podman).unwrap();
    let world = Moving::new(&format!("[settings]\nlayers = false\n[engine.podman]\ncommand = {podman:?}\n"));
    let has = || std::fs::read_to_string(world.sandbox.user().join("podman.images")).unwrap_or_default();
    let one = world.moved("v1");
    assert_eq!(world.events("apply --stage").1["staged"], 1);
    assert_eq!(has(), "");
    let (_, summary, requests) = world.events("apply");
    assert_eq!((&summary["engine_loads"], requests), (&json!(1), one_head()), "{summary:#}");
    assert!(has().contains(&one));
    let two = world.moved("v2");
    world.run("apply --stage");
    assert!(!has().contains(&two));
    let (_, summary, requests) = world.events("apply");
    assert_eq!((&summary["engine_loads"], requests), (&json!(1), one_head()), "{summary:#}");
    assert!(has().contains(&two));
}

#[test]
fn what_an_engine_or_the_kept_blobs_lack_is_made_ready() {
    let directory = Sandbox::in_memory();
    let podman = directory.root().join("podman");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py"), &podman).unwrap();
    let engine = format!("[engine.podman]\ncommand = {podman:?}\n");
    for (settings, loads) in [(&engine[..], 1), ("settings.blobs = \"keep\"\n", 0)] {
        for moves in [false, true] {
            // Recorded without its documents.
            let world = Moving::new("");
            world.run("apply");
            world.want(settings, &["team/app:1"]);
            let wanted = world.moved(if moves { "v2" } else { "v1" });
            let before = world.image();
            let (event, summary, requests) = world.events("apply --stage");
            assert_eq!((&event["staged"], &summary["staged"]), (&json!(true), &json!(1)), "{summary:#}");
            assert!(requests.iter().any(|request| request.contains("/blobs/")), "{requests:?}");
            assert_eq!(world.image(), before);
            assert!(!world.sandbox.user().join("podman.images").exists());
            // Again: all is ready.
            let (event, summary, requests) = world.events("apply --stage");
            assert_eq!((&event["action"], &event["staged"]), (&json!("keep"), &json!(false)), "{event:#}");
            assert_eq!((&summary["staged"], requests), (&json!(0), one_head()));
            world.shows("apply --stage", "1 of them staged before");
            world.run("prune");
            // The switch.
            let (event, summary, requests) = world.events("apply");
            assert_eq!((&event["digest"], requests), (&json!(wanted), one_head()), "{event:#}");
            assert_eq!(summary["engine_loads"], loads, "{summary:#}");
            world.shows("apply", "In sync");
            assert_eq!(world.run("prune --json").json()["spared"], json!([]));
        }
    }
}

#[test]
fn an_engine_that_has_the_image_wants_no_blobs_that_are_not_kept() {
    let directory = Sandbox::in_memory();
    let podman = directory.root().join("podman");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py"), &podman).unwrap();
    let world = Moving::new("");
    world.run("apply");
    let settings = format!("settings.blobs = \"discard\"\n[engine.podman]\ncommand = {podman:?}\n");
    world.want(&settings, &["team/app:1"]);
    // The engine was never given it.
    assert_eq!(world.events("apply --stage").1["staged"], 1);
    let (_, summary, requests) = world.events("apply");
    assert_eq!((&summary["engine_loads"], requests), (&json!(1), one_head()), "{summary:#}");
    let (event, summary, requests) = world.events("apply");
    assert_eq!((&event["action"], &summary["engine_loads"]), (&json!("keep"), &json!(0)), "{event:#}");
    assert_eq!(requests, one_head());
    let (event, summary, _) = world.events("apply --stage");
    assert_eq!((&event["action"], &summary["staged"]), (&json!("keep"), &json!(0)), "{event:#}");
    assert_eq!(summary["downloaded_bytes"], 0, "{summary:#}");
    world.shows("apply --stage", "Ready: 1 image, nothing to do");
}

#[test]
fn what_is_left_to_the_next_run_is_not_called_in_sync() {
    let world = Moving::new("");
    world.run("apply");
    world.lose("v1");
    let (event, summary, _) = world.events("apply --stage");
    assert_eq!((&event["action"], &summary["unchanged"]), (&json!("keep"), &json!(1)), "{event:#}");
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("1 layer missing on disk") && reason.contains("next apply"), "{event:#}");
    let told = world.run("apply --stage");
    assert!(!told.stdout.contains("In sync") && told.to_string().contains("next apply"), "{told}");
}

#[test]
fn a_kept_blob_that_is_lost_is_left_to_the_next_run() {
    let world = Moving::new("settings.blobs = \"keep\"\n");
    world.run("apply");
    let blobs = world.sandbox.home().join("blobs/blobs/sha256");
    let lost = std::fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&lost).unwrap();
    let (event, summary, requests) = world.events("apply --stage");
    assert_eq!((&event["action"], &summary["staged"]), (&json!("keep"), &json!(0)), "{event:#}");
    assert!(event["reason"].as_str().unwrap().contains("next apply"), "{event:#}");
    assert_eq!((requests, lost.exists()), (one_head(), false));
    world.run("apply");
    assert!(lost.exists());
}

#[test]
fn what_was_made_ready_of_a_recorded_image_is_switched_to_where_nobody_may_be_asked() {
    let keep = "settings.blobs = \"keep\"\n";
    let missing = format!("{keep}settings.pull = \"missing\"\n");
    for (settings, locks, arguments) in [
        (keep, true, "apply"),
        (keep, true, "apply --offline"),
        (keep, false, "apply --offline"),
        (&*missing, false, "apply"),
    ] {
        let world = Moving::new("");
        world.run("apply");
        if locks {
            world.run("lock");
        }
        world.want(settings, &["team/app:1"]);
        assert_eq!(world.events("apply --stage").1["staged"], 1);
        let (event, _, requests) = world.events(arguments);
        assert_eq!((&event["action"], requests.len()), (&json!("keep"), 0), "{arguments}: {requests:?}");
        assert_eq!(world.run("prune --json").json()["spared"], json!([]));
        world.shows("apply --offline", "In sync");
    }
}

#[test]
fn what_a_lockfile_names_is_switched_to_offline() {
    let world = Moving::new("");
    let one = world.moved("v1");
    world.run("lock");
    world.run("apply --locked --stage");
    let (event, summary, requests) = world.events("apply --locked --offline");
    assert_eq!((&event["digest"], &summary["added"]), (&json!(one), &json!(1)));
    assert!(requests.is_empty(), "{requests:?}");
    // So it is where the registry is never asked; but what is not here cannot be had.
    world.moved("v2");
    world.run("lock --upgrade");
    world.run("apply --stage");
    world.want("settings.pull = \"never\"\n", &["team/app:1"]);
    world.lose("v2");
    let failed = world.sandbox.msb("apply --locked --json").run().code(1);
    assert_eq!(failed.json_lines()[0]["error"]["kind"], "pull-never", "{failed}");
    assert_eq!(world.digests(), [json!(one)]);
    world.want("", &["team/app:1"]);
    world.run("apply --stage");
    world.want("settings.pull = \"never\"\n", &["team/app:1"]);
    let (_, summary, requests) = world.events("apply --locked");
    assert_eq!((&summary["updated"], requests.len()), (&json!(1), 0), "{requests:?}");
}

#[test]
fn blobs_that_were_made_ready_for_one_owner_stay_his_whoever_switches_to_them() {
    for switch in ["apply other.toml", "pull"] {
        let world = Moving::new("settings.blobs = \"keep\"\n");
        let images = wanted(&world.registry.name(), &["team/app:1"]);
        world.sandbox.write("other.toml", images);
        world.run("apply");
        world.run("apply other.toml");
        world.moved("v2");
        world.run("apply --stage");
        let switch = if switch == "pull" { format!("pull {}", world.name()) } else { switch.to_owned() };
        world.run(&switch);
        world.run("prune");
        world.registry.forget();
        let output = world.run("apply --offline --json");
        assert_eq!(output.summary()["unchanged"], 1, "{switch}: {output}");
        world.run("verify");
    }
}
