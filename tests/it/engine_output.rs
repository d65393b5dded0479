//! Engines in plans, events, summaries, metrics and the watch. A script stands in for each engine's program: it takes
//! what they take and lists what they list.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::check::{event, image, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;
use crate::support::watching::Watching;

/// A registry with two images, and an images file for msb and podman with `settings`.
fn sandbox(settings: &str) -> (Sandbox, FakeRegistry) {
    let layer = |name: &str| Layer::of(&[file(name, name)]);
    let mut content = BlobSet::with("team/one:1", &Image::new(&[layer("base"), layer("one")]));
    let two = content.image(&Image::new(&[layer("base"), layer("two")]));
    content.tag("team/two:1", &two);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let (msb, podman) = (program(&sandbox, "msb"), program(&sandbox, "podman"));
    sandbox.images(&format!(
        "[settings]\n{settings}\n[engine.microsandbox]\ncommand = \"{}\"\n[engine.podman]\ncommand = \"{}\"\n{}",
        msb.display(),
        podman.display(),
        wanted(&registry.name(), &["team/one:1", "team/two:1"])
    ));
    (sandbox, registry)
}

/// Puts the script in the place of the program `name`.
fn program(sandbox: &Sandbox, name: &str) -> PathBuf {
    let directory = sandbox.root().join("engines");
    std::fs::create_dir_all(&directory).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py");
    let path = directory.join(name);
    symlink(script, &path).unwrap();
    path
}

/// Takes everything out of the engine `name`, as its own prune would.
fn prune(sandbox: &Sandbox, name: &str) {
    std::fs::remove_file(sandbox.user().join(format!("{name}.images"))).unwrap();
}

/// What the engine `name` has been given, by reference.
fn has(sandbox: &Sandbox, name: &str) -> usize {
    let text = std::fs::read(sandbox.user().join(format!("{name}.images")));
    text.map_or(0, |text| serde_json::from_slice::<Value>(&text).unwrap().as_object().unwrap().len())
}

#[test]
fn each_engine_has_its_own_word_in_plans_and_events() {
    let (sandbox, registry) = sandbox("layers = false");
    let one = format!("{}/team/one:1", registry.name());
    let plan = sandbox.msb("plan --json").run().success();
    let planned = image(plan.json()["images"].as_array().unwrap(), &one).clone();
    assert_eq!(planned["engines"], json!({"microsandbox": "add", "podman": "add"}), "{plan}");
    let shown = sandbox.msb("plan").run().success();
    assert!(shown.stdout.contains("into microsandbox, podman"), "{shown}");

    let output = sandbox.msb("apply --json").run().success();
    assert_eq!(event(&output, &one)["engines"], json!({"microsandbox": "add", "podman": "add"}), "{output}");
    assert_eq!(output.summary()["engine_loads"], 4, "{output}");
    assert_eq!((has(&sandbox, "msb"), has(&sandbox, "podman")), (2, 2));
    assert!(!sandbox.layers().exists() || sandbox.extracted().is_empty(), "no layer is extracted");
    assert_eq!(image(&listed(&sandbox), &one)["layers"][0]["path"], Value::Null);

    let before = registry.requests().len();
    prune(&sandbox, "podman");
    let plan = sandbox.msb("plan --json").run().success();
    let planned = image(plan.json()["images"].as_array().unwrap(), &one).clone();
    assert_eq!((&planned["action"], &planned["reason_code"]), (&json!("add"), &json!("engine")), "{plan}");
    assert_eq!(planned["engines"], json!({"microsandbox": "keep", "podman": "add"}), "{plan}");
    let shown = sandbox.msb("plan").run().success();
    assert!(shown.stdout.contains("not in podman") && !shown.stdout.contains("into podman"), "{shown}");
    let output = sandbox.msb("apply").run().success().says("loading 2 images into podman");
    assert!(output.stdout.contains("2 references loaded into engines."), "{output}");
    assert_eq!(has(&sandbox, "podman"), 2);
    // Each of the three runs has asked for the tags, and for nothing else.
    let asked = registry.requests().split_off(before);
    assert!(asked.iter().all(|request| request.starts_with("HEAD ")), "{asked:?}");
    let plan = sandbox.msb("plan --detailed-exitcode").run().success();
    assert!(plan.stdout.contains("In sync"), "{plan}");
}

#[test]
fn podman_is_led_to_kept_blobs_and_gets_their_bytes_where_it_cannot_follow() {
    for settings in ["layers = false", "blobs = \"discard\""] {
        let (sandbox, _registry) = sandbox(settings);
        let loads = || std::fs::read_to_string(sandbox.user().join("podman.loads")).unwrap();
        sandbox.msb("apply").run().success();
        assert_eq!((has(&sandbox, "podman"), loads().as_str()), (2, "links\nlinks\n"), "{settings}");
        assert!(!std::fs::read_to_string(sandbox.user().join("msb.loads")).unwrap().contains("links"));

        prune(&sandbox, "podman");
        std::fs::write(sandbox.user().join("podman.images.elsewhere"), "").unwrap();
        std::fs::remove_file(sandbox.user().join("podman.loads")).unwrap();
        let output = sandbox.msb("apply").run().success();
        // One refusal is enough for a run.
        assert_eq!((has(&sandbox, "podman"), loads().as_str()), (2, "links\nbytes\nbytes\n"), "{output}");
    }
}

#[test]
fn an_engine_that_is_not_there_blocks_its_part_and_no_other() {
    let (sandbox, registry) = sandbox("layers = false");
    std::fs::remove_file(sandbox.root().join("engines/podman")).unwrap();
    let one = format!("{}/team/one:1", registry.name());
    let plan = sandbox.msb("plan --json").run().code(1);
    let planned = image(plan.json()["images"].as_array().unwrap(), &one).clone();
    assert_eq!(planned["engines"], json!({"microsandbox": "add", "podman": "blocked"}), "{plan}");
    assert_eq!((&planned["action"], &planned["error"]["kind"]), (&json!("add"), &json!("engine")), "{plan}");
    let shown = sandbox.msb("plan").run().code(1);
    assert!(shown.stdout.contains("podman blocked"), "{shown}");
    assert_eq!(shown.stderr.matches("hint:").count(), 1, "one word for all images\n{shown}");

    let output = sandbox.msb("apply --json").run().code(1);
    let told = event(&output, &one);
    assert_eq!((&told["status"], &told["error"]["kind"]), (&json!("failed"), &json!("engine")), "{output}");
    assert_eq!(has(&sandbox, "msb"), 2, "the other one has them");
}

#[test]
fn a_watch_puts_back_what_an_engine_lost_and_counts_it() {
    let (sandbox, _registry) = sandbox("layers = false\ninterval = \"1s\"");
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    assert_eq!(has(&sandbox, "msb"), 2);
    prune(&sandbox, "msb");
    watching.until("it is put back", |event| {
        event["engines"]["microsandbox"] == "add" && has(&sandbox, "msb") == 2
    });
    let url = format!("http://{address}/metrics");
    let text = crate::support::tool(sandbox.root(), "curl", &["--silent", "--show-error", "--fail", &url]);
    let text = String::from_utf8(text).unwrap();
    for line in [
        "msb_sync_engine_images{engine=\"podman\",state=\"in_sync\"} 2",
        "msb_sync_engine_images{engine=\"microsandbox\",state=\"failed\"} 0",
        "msb_sync_engine_loads_total{engine=\"podman\",result=\"done\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    watching.stop();
}

#[test]
fn temporary_files_that_a_killed_run_has_left_go_with_the_next_run_that_has_nothing_else_to_do() {
    let (sandbox, _registry) = sandbox("");
    sandbox.msb("apply").run().success();
    let left = sandbox.home().join("tmp");
    for verb in ["apply", "prune", "verify --repair"] {
        std::fs::create_dir_all(left.join("storage1")).unwrap();
        std::fs::write(left.join("storage1/layer"), "half").unwrap();
        // Nobody has said that they are ours.
        sandbox.msb(verb).run().success();
        assert!(left.join("storage1/layer").exists(), "{verb}");
        std::fs::write(left.join(".msb-sync"), "").unwrap();
        let output = sandbox.msb(verb).run().success();
        assert!(!left.exists(), "{output}");
    }
}

#[test]
fn each_engine_that_refuses_an_image_counts() {
    let (sandbox, _registry) = sandbox("layers = false\ninterval = \"1h\"");
    for name in ["msb", "podman"] {
        std::fs::write(sandbox.user().join(format!("{name}.broken")), "").unwrap();
    }
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let url = format!("http://{address}/metrics");
    let text = crate::support::tool(sandbox.root(), "curl", &["--silent", "--show-error", "--fail", &url]);
    let text = String::from_utf8(text).unwrap();
    for engine in ["microsandbox", "podman"] {
        for (state, count) in [("failed", 2), ("in_sync", 0)] {
            let line = format!("msb_sync_engine_images{{engine=\"{engine}\",state=\"{state}\"}} {count}");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
    watching.stop();
}

#[test]
fn lists_say_what_engines_have_and_that_nothing_is_extracted() {
    let (sandbox, registry) = sandbox("layers = false");
    let one = format!("{}/team/one:1", registry.name());
    let applied = sandbox.msb("apply").run().success();
    assert!(applied.stdout.contains(" fetched.") && !applied.stdout.contains("Their files"), "{applied}");
    let listed = sandbox.msb("list --json").run().success().json();
    let engines = image(listed["images"].as_array().unwrap(), &one)["engines"].clone();
    let names: Vec<&Value> =
        engines.as_array().unwrap().iter().flat_map(|one| [&one["engine"], &one["reference"]]).collect();
    assert_eq!(names, ["microsandbox", &one, "podman", &one], "{listed}");
    let shown = sandbox.msb("list").run().success();
    assert!(shown.stdout.contains("2 (not extracted)") && !shown.stdout.contains("missing"), "{shown}");
    let shown = sandbox.msb("inspect").arg(&one).run().success();
    assert!(shown.stdout.contains(&format!("podman as {one}")), "{shown}");
    assert!(shown.stdout.contains("not extracted") && !shown.stdout.contains("MISSING"), "{shown}");
}

#[test]
fn each_engine_that_refuses_an_image_is_told() {
    let (sandbox, _registry) = sandbox("layers = false");
    for name in ["msb", "podman"] {
        std::fs::write(sandbox.user().join(format!("{name}.broken")), "").unwrap();
    }
    let failed = sandbox.msb("apply").run().code(1);
    for engine in ["microsandbox: msb load failed", "podman: podman load failed"] {
        assert!(failed.stderr.contains(&format!("engine {engine}")), "{failed}");
    }
}

#[test]
fn an_image_that_containerd_lists_and_has_not_whole_is_found_and_loaded_again() {
    let (sandbox, registry) = sandbox("layers = false");
    let one = format!("{}/team/one:1", registry.name());
    let ctr = program(&sandbox, "ctr");
    let listed = wanted(&registry.name(), &["team/one:1", "team/two:1"]);
    sandbox.images(&format!("[engine.containerd]\ncommand = \"{}\"\n{listed}", ctr.display()));
    sandbox.msb("apply").run().success();
    std::fs::write(sandbox.user().join("ctr.incomplete"), &one).unwrap();
    let verified = sandbox.msb("verify --json").run().code(1).json();
    let found: Vec<&Value> =
        verified["engines"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!(found, ["missing", "ok"], "{verified}");
    assert!(verified["engines"][0]["detail"].as_str().unwrap().contains("has not all of it"), "{verified}");
    let repaired = sandbox.msb("verify --json --repair").run().success().json();
    assert_eq!(repaired["engines"][0]["repaired"], true, "{repaired}");
    sandbox.msb("verify").run().success();
}
