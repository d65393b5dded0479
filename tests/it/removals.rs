//! Removals come last and wait: nothing goes before what takes its place is here, an images file without images removes
//! nothing, and what a file lists by the time of the removal stays.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::check::{applied, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Running, Sandbox};
use crate::support::watching::{LIMIT, Watching};

fn layer(text: &str) -> Layer {
    Layer::of(&[file("f", text)])
}

fn add(registry: &FakeRegistry, name: &str) -> String {
    registry.edit(|content| {
        let image = content.image(&Image::new(&[layer(name)]));
        content.tags.insert(name.to_owned(), image.digest().to_owned());
        image.digest().to_owned()
    })
}

fn registry(names: &[&str]) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::default());
    for name in names {
        add(&registry, name);
    }
    registry
}

/// `name action`, and whether it waits, of each image of `plan --json`.
fn planned(output: &Output) -> Vec<(String, bool)> {
    let plan = output.json();
    let line = |image: &Value| {
        let name = image["reference"].as_str().unwrap().rsplit('/').next().unwrap();
        let waits = image["waits"].as_bool().unwrap_or_else(|| panic!("no \"waits\" in {image}"));
        (format!("{name} {}", image["action"].as_str().unwrap()), waits)
    };
    plan["images"].as_array().unwrap().iter().map(line).collect()
}

fn recorded(sandbox: &Sandbox) -> Vec<String> {
    let name = |image: &Value| image["reference"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    listed(sandbox).iter().map(name).collect()
}

/// Nothing was removed, and the summary says how many wait.
#[track_caller]
fn assert_waits(output: &Output, count: u64) {
    let summary = output.summary();
    assert_eq!(summary["removed"], 0, "{output}");
    assert_eq!(summary["removals_waiting"], count, "{output}");
    assert!(summary["failed"].as_u64().unwrap() > 0, "{output}");
    let events = output.json_lines();
    assert!(events.iter().all(|event| event["action"] != "remove"), "a removal that waits is none\n{output}");
}

#[test]
fn a_chosen_tag_that_cannot_be_had_keeps_the_old_one() {
    let sandbox = Sandbox::in_memory();
    for bad in ["manifest 404", "manifest 500", "layer 404", "layer damaged", "other platform", "no image"] {
        let registry = registry(&["app:1.0.0"]);
        let newest = "{ name = \"app\", tags = { semver = \">=1\", newest = 1 } }";
        sandbox.images(&format!("settings.prune = true\n{}", wanted(&registry.name(), &[newest])));
        let run = |arguments: &str| sandbox.msb(arguments).env("MICROSANDBOX_HOME", sandbox.root().join(bad));
        run("apply").run().success();
        add(&registry, "app:2.0.0");
        let digest = layer("app:2.0.0").digest();
        let of_manifest = |path: &str| path.ends_with("/manifests/2.0.0");
        match bad {
            "manifest 404" => registry.on(move |r| of_manifest(&r.path).then(|| Fault::status(404))),
            "manifest 500" => registry.on(move |r| of_manifest(&r.path).then(|| Fault::status(500))),
            "layer 404" => registry.on(move |r| r.path.ends_with(&digest).then(|| Fault::status(404))),
            "layer damaged" => registry.on(move |r| r.path.ends_with(&digest).then(Fault::corrupt)),
            "other platform" => registry.edit(|content| {
                let image = content.image(&Image::new(&[layer("x")]).platform("linux/riscv64"));
                content.tag("app:2.0.0", &image);
            }),
            _ => registry.on(move |r| {
                let body = br#"{"schemaVersion":2,"artifactType":"text/plain"}"#.to_vec();
                of_manifest(&r.path).then(|| Fault { body: Some(body), ..Fault::default() })
            }),
        }
        let output = run("apply --json").run().code(1);
        assert_waits(&output, 1);
        let list = run("list --json").run().success().json();
        let names: Vec<&str> =
            list["images"].as_array().unwrap().iter().map(|i| i["reference"].as_str().unwrap()).collect();
        assert_eq!(names, [format!("{}/app:1.0.0", registry.name())], "{bad}: {output}");
        run("verify").run().success();
        let text = run("apply").run().code(1);
        assert!(text.stdout.contains("1 removal waits"), "{bad}: {text}");
        assert!(text.stdout.contains("app:1.0.0"), "{bad}: which one\n{text}");
        registry.behave();
        if bad == "other platform" {
            registry.edit(|content| {
                let image = content.image(&Image::new(&[layer("y")]));
                content.tag("app:2.0.0", &image);
            });
        }
        let output = run("apply --json").run().success();
        let summary = output.summary();
        assert_eq!(
            (&summary["added"], &summary["removed"], &summary["removals_waiting"]),
            (&1.into(), &1.into(), &0.into()),
            "{bad}: {output}"
        );
    }
}

#[test]
fn an_edited_tag_that_cannot_be_had_keeps_the_old_one_and_the_plan_says_that_it_waits() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["redis:7.2", "redis:7.4.1", "other:1"]);
    sandbox.images(&wanted(&registry.name(), &["redis:7.2", "other:1"]));
    applied(&sandbox);
    let before = sandbox.extracted();
    sandbox.images(&wanted(&registry.name(), &["redis:7.4.1", "other:1"]));
    // Down, and without the network; the third is a tag that does not exist.
    registry.on(|_| Some(Fault::status(403)));
    for (arguments, images) in [("", "redis:7.4.1"), ("--offline", "redis:7.4.1"), ("", "redis:7.4.2")] {
        sandbox.images(&wanted(&registry.name(), &[images, "other:1"]));
        let plan = sandbox.msb(&format!("plan --json --prune {arguments}")).run().code(1);
        let mut plans = planned(&plan);
        plans.retain(|(line, _)| !line.starts_with("other"));
        let expected = [(format!("{images} blocked"), false), ("redis:7.2 remove".to_owned(), true)];
        assert_eq!(plans, expected, "{plan}");
        assert_eq!(plan.json()["changes"], 1, "{plan}");
        assert_eq!(plan.json()["layers_to_remove"], serde_json::json!([]), "{plan}");
        sandbox.msb(&format!("plan --detailed-exitcode --prune {arguments}")).run().code(1);
        let text = sandbox.msb(&format!("plan --prune {arguments}")).run().code(1);
        assert!(text.stdout.contains("waits") && text.stdout.contains("1 to remove"), "{text}");
        let output = sandbox.msb(&format!("apply --json --prune {arguments}")).run().code(1);
        assert_waits(&output, 1);
        assert_eq!(sandbox.extracted(), before, "{output}");
        if images == "redis:7.4.1" && arguments == "--offline" {
            registry.behave();
        }
    }
    assert_eq!(recorded(&sandbox), ["other:1", "redis:7.2"]);
    sandbox.images(&wanted(&registry.name(), &["redis:7.4.1", "other:1"]));
    let plan = sandbox.msb("plan --json --prune").run().success();
    assert!(planned(&plan).contains(&("redis:7.2 remove".to_owned(), false)), "{plan}");
    sandbox.msb("apply --prune").run().success();
    assert_eq!(recorded(&sandbox), ["other:1", "redis:7.4.1"]);
}

/// What an update has replaced is removed no sooner than an image.
#[test]
fn layers_of_replaced_images_wait_too() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1"]);
    sandbox.images(&wanted(&registry.name(), &["a:1"]));
    applied(&sandbox);
    let old = layer("a:1").directory();
    registry.edit(|content| {
        let image = content.image(&Image::new(&[layer("moved")]));
        content.tag("a:1", &image);
    });
    sandbox.images(&wanted(&registry.name(), &["a:1", "b:1"]));
    let output = sandbox.msb("apply --json --prune").run().code(1);
    assert_eq!(output.summary()["updated"], 1, "{output}");
    assert!(sandbox.extracted().contains(&old), "{output}");
}

#[test]
fn a_file_without_images_removes_nothing_unless_that_is_asked_for() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1"]);
    let full = wanted(&registry.name(), &["a:1"]);
    sandbox.images(&full);
    applied(&sandbox);
    let empty = wanted(&registry.name(), &[]);
    for text in ["", "# nothing\n", &empty] {
        sandbox.images(text);
        for arguments in ["apply --prune", "plan --prune", "prune", "prune --dry-run", "watch --prune"] {
            let output = sandbox.msb(arguments).run().code(2).says("lists no image").says("--allow-empty");
            assert!(output.stderr.contains("hint: "), "{output}");
        }
        sandbox.msb("plan --prune --detailed-exitcode").run().code(1);
        sandbox.msb("apply").run().success();
        sandbox.msb("plan").run().success();
        sandbox.images(&format!("settings.prune = true\n{text}"));
        for arguments in ["apply", "plan", "apply --dry-run", "watch"] {
            sandbox.msb(arguments).run().code(2).says("lists no image");
        }
    }
    let from_stdin = sandbox.msb("apply --prune -").stdin("").run();
    from_stdin.code(2).says("lists no image");
    assert_eq!(recorded(&sandbox), ["a:1"]);
    sandbox.images(&empty);
    let plan = sandbox.msb("plan --json --prune --allow-empty").run().success();
    assert_eq!(planned(&plan), [("a:1 remove".to_owned(), false)]);
    let dry = sandbox.msb("prune --json --dry-run --allow-empty").run().success();
    assert_eq!(dry.json()["images"].as_array().unwrap().len(), 1, "{dry}");
    let output = sandbox.msb("apply --json --prune --allow-empty").run().success();
    assert_eq!(output.summary()["removed"], 1, "{output}");
    sandbox.images(&full);
    applied(&sandbox);
    sandbox.images(&empty);
    sandbox.msb("prune --allow-empty").run().success();
    assert!(recorded(&sandbox).is_empty() && sandbox.extracted().is_empty());
}

#[test]
fn watch_keeps_the_last_good_state_of_a_file_that_loses_its_images() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1", "b:1"]);
    let settings = "settings.interval = \"1s\"\nsettings.prune = true\n";
    let file = |images: &[&str]| format!("{settings}{}", wanted(&registry.name(), images));
    sandbox.images(&file(&["a:1", "b:1"]));
    let watching = Watching::start(&sandbox, "");
    sandbox.images(&file(&[]));
    eventually("it was tried again twice", LIMIT, || watching.count("error") >= 3);
    assert_eq!(watching.stderr().matches("error:").count(), 1, "{}", watching.stderr());
    assert!(watching.stderr().contains("lists no image"), "{}", watching.stderr());
    assert_eq!(recorded(&sandbox), ["a:1", "b:1"]);
    sandbox.images(&file(&["a:1"]));
    watching.until_done(&format!("{}/b:1", registry.name()), "remove");
    watching.stop();
    sandbox.images(&file(&[]));
    let watching = Watching::start(&sandbox, "--allow-empty");
    assert!(recorded(&sandbox).is_empty());
    watching.stop();
}

/// Under `watch`, what waits is counted, and goes as soon as nothing is in its way.
#[test]
fn watch_counts_what_waits() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1", "b:1"]);
    let settings = "settings.interval = \"1s\"\nsettings.prune = true\n";
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["a:1", "b:1"])));
    applied(&sandbox);
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["a:1", "c:1"])));
    let watching = Watching::start(&sandbox, "--metrics 0");
    watching.until("it waits", |event| event["event"] == "summary" && event["removals_waiting"] == 1);
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("msb_sync_images{state=\"waiting\"} 1"), "{metrics}");
    add(&registry, "c:1");
    watching.until_done(&format!("{}/b:1", registry.name()), "remove");
    watching.stop();
    assert_eq!(recorded(&sandbox), ["a:1", "c:1"]);
}

/// Holds the home's lock until it is dropped.
fn hold(sandbox: &Sandbox) -> Running {
    let lock = sandbox.home().join(".msb-sync.lock");
    let holder = sandbox.program("flock", &[lock.to_str().unwrap(), "sleep", "600"]).spawn();
    eventually("the lock is held", LIMIT, || {
        let tried = std::process::Command::new("flock").args(["-n", lock.to_str().unwrap(), "true"]).status();
        !tried.unwrap().success()
    });
    holder
}

#[test]
fn what_the_file_lists_by_the_time_of_the_lock_stays() {
    let others = ["a:1", "b:1", "c:1"];
    for arguments in ["apply --prune --json", "prune --json"] {
        for meanwhile in ["relisted", "selected", "broken", "emptied", "gone"] {
            let sandbox = Sandbox::in_memory();
            let registry = registry(&others);
            let want = |images: &[&str]| sandbox.images(&wanted(&registry.name(), images));
            want(&others);
            applied(&sandbox);
            want(&["a:1"]);
            let holder = hold(&sandbox);
            let running = sandbox.msb(arguments).spawn();
            eventually("it waits for the lock", LIMIT, || running.stderr().contains("waiting for"));
            let mut stays = others.to_vec();
            match meanwhile {
                "relisted" => {
                    want(&["a:1", "b:1"]);
                    stays.pop();
                }
                "selected" => {
                    want(&["a:1", "{ name = \"b\", tags = { match = \"1\" } }"]);
                    stays.pop();
                }
                "broken" => sandbox.images("oops"),
                "emptied" => want(&[]),
                _ => std::fs::remove_file(sandbox.work().join("images.toml")).unwrap(),
            }
            drop(holder);
            let output = running.wait();
            assert_eq!(recorded(&sandbox), stays, "{arguments}, {meanwhile}: {output}");
            let layers: Vec<String> = stays.iter().map(|name| layer(name).directory()).collect();
            assert!(layers.iter().all(|layer| sandbox.extracted().contains(layer)), "{output}");
            assert_eq!(sandbox.extracted().len(), stays.len(), "{arguments}, {meanwhile}: {output}");
        }
    }
}

#[test]
fn what_the_file_lists_when_the_downloads_have_ended_stays() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1", "b:1", "c:1"]);
    sandbox.images(&wanted(&registry.name(), &["a:1", "b:1"]));
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["c:1"]));
    let (path, text) = (sandbox.work().join("images.toml"), wanted(&registry.name(), &["b:1", "c:1"]));
    let fetched = layer("c:1").digest();
    registry.on(move |request| {
        if request.path.ends_with(&fetched) {
            std::fs::write(&path, &text).unwrap();
        }
        None
    });
    let output = sandbox.msb("apply --prune --json").run().success();
    assert_eq!(output.summary()["removed"], 1, "{output}");
    assert_eq!(recorded(&sandbox), ["b:1", "c:1"]);
    sandbox.msb("verify").run().success();
    assert_eq!(sandbox.extracted().len(), 2, "{output}");
}

/// The lockfile says which tags a selection means: it is looked at again too.
#[test]
fn what_the_lockfile_chooses_by_the_time_of_the_lock_stays() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["web:1.0.0", "web:2.0.0", "a:1"]);
    let select =
        |newest: usize| format!("{{ name = \"web\", tags = {{ semver = \"*\", newest = {newest} }} }}");
    sandbox.images(&wanted(&registry.name(), &["a:1", &select(2)]));
    sandbox.msb("lock").run().success();
    applied(&sandbox);
    let both = std::fs::read(sandbox.work().join("images.lock")).unwrap();
    sandbox.images(&wanted(&registry.name(), &["a:1", &select(1)]));
    sandbox.msb("lock").run().success();
    let images = std::fs::read(sandbox.work().join("images.toml")).unwrap();
    for arguments in ["apply --prune --json", "prune --json"] {
        let holder = hold(&sandbox);
        let running = sandbox.msb(arguments).spawn();
        eventually("it waits for the lock", LIMIT, || running.stderr().contains("waiting for"));
        // The same images file; another lockfile, which that rule could have made.
        let text = String::from_utf8(both.clone()).unwrap().replace("newest = 2", "newest = 1");
        let text = text.replace("  \"2.0.0\",\n", "");
        let previous = std::fs::read(sandbox.work().join("images.lock")).unwrap();
        sandbox.write("images.lock", text);
        drop(holder);
        let output = running.wait();
        assert!(recorded(&sandbox).contains(&"web:1.0.0".to_owned()), "{arguments}: {output}");
        sandbox.write("images.lock", previous);
        sandbox.write("images.toml", &images);
    }
}

/// Prune asks no registry, so it cannot know whether an image that the file lists can be had: what it would remove
/// waits until that image is here.
#[test]
fn prune_waits_for_what_the_file_lists() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["redis:7.2", "redis:7.4.1", "web:1.0.0"]);
    sandbox.images(&wanted(&registry.name(), &["redis:7.2"]));
    applied(&sandbox);
    let newest = "{ name = \"web\", tags = { semver = \"1\", newest = 1 } }";
    for images in [&["redis:7.4.1"][..], &["redis:7.4.1", newest], &[newest]] {
        sandbox.images(&wanted(&registry.name(), images));
        for arguments in ["prune --dry-run --json", "prune --json"] {
            let output = sandbox.msb(arguments).run().success();
            let document = output.json();
            assert_eq!(document["removals_waiting"], 1, "{output}");
            assert_eq!(document["images"][0]["waits"], true, "{output}");
            assert_eq!(document["waiting_for"].as_array().unwrap().len(), images.len(), "{output}");
        }
        let text = sandbox.msb("prune").run().success();
        assert!(text.stdout.contains("waits") && text.stdout.contains("msb-sync apply"), "{text}");
        assert_eq!(recorded(&sandbox), ["redis:7.2"]);
        assert_eq!(sandbox.extracted().len(), 1);
    }
    sandbox.images(&wanted(&registry.name(), &["redis:7.4.1", newest]));
    applied(&sandbox);
    let output = sandbox.msb("prune --json").run().success();
    assert_eq!(output.json()["removals_waiting"], 0, "{output}");
    assert_eq!(recorded(&sandbox), ["redis:7.4.1", "web:1.0.0"]);
    assert_eq!(sandbox.extracted().len(), 2);
}

/// The catalog as it is when the layers go decides, not as it was when the plan was made.
#[test]
fn a_layer_that_microsandbox_has_recorded_meanwhile_stays() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["a:1", "b:1", "c:1"]);
    sandbox.images(&wanted(&registry.name(), &["a:1", "b:1"]));
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["b:1", "c:1"]));
    let database = sandbox.home().join("oci.db");
    let digest = layer("a:1").digest();
    let done = Arc::new(Mutex::new(false));
    let theirs = Arc::clone(&done);
    // The plan has been made by then.
    let fetched = layer("c:1").digest();
    registry.on(move |request| {
        if request.path.ends_with(&fetched) && !std::mem::replace(&mut *theirs.lock().unwrap(), true) {
            record_as_microsandbox(&database, &digest);
        }
        None
    });
    let output = sandbox.msb("apply --prune --json").run().success();
    assert!(*done.lock().unwrap());
    assert_eq!(output.summary()["removed"], 1, "{output}");
    assert!(sandbox.extracted().contains(&layer("a:1").directory()), "{output}");
}

/// Another image of the layer, as microsandbox itself records one.
fn record_as_microsandbox(database: &Path, digest: &str) {
    let sql = format!(
        "PRAGMA busy_timeout = 10000;
         INSERT INTO images (reference, size_bytes) VALUES ('example.org/theirs:1', 1);
         INSERT INTO manifests (image_id, schema_version, media_type) SELECT id, 2, 'x' FROM images
             WHERE reference = 'example.org/theirs:1';
         INSERT INTO manifest_layers (manifest_id, layer_id) SELECT manifests.id, layers.id
             FROM manifests, layers WHERE manifests.media_type = 'x' AND digest = '{digest}';"
    );
    let done = std::process::Command::new("sqlite3").arg(database).arg(sql).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A failure of an early part of a run holds the removals of its rest.
#[test]
fn an_image_that_failed_in_an_earlier_part_keeps_removals_waiting() {
    let sandbox = Sandbox::in_memory();
    let (fast, silent) = (registry(&["a:1", "b:1", "bad:1"]), registry(&["c:1"]));
    sandbox.images(&wanted(&fast.name(), &["a:1", "b:1"]));
    applied(&sandbox);
    let bad = layer("bad:1").digest();
    fast.on(move |request| request.path.ends_with(&bad).then(|| Fault::status(404)));
    sandbox.images(&format!(
        "settings.prune = true\n{}{}",
        wanted(&fast.name(), &["a:1", "bad:1"]),
        wanted(&silent.name(), &["c:1"])
    ));
    let speaks = Arc::new(Mutex::new(false));
    let until = Arc::clone(&speaks);
    silent.on(move |request| {
        let start = std::time::Instant::now();
        while request.path.contains("/manifests/")
            && !*until.lock().unwrap()
            && start.elapsed() < Duration::from_secs(30)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    });
    let running = sandbox.msb("apply --json").spawn();
    eventually("the first part has failed", LIMIT, || running.stdout().contains("bad:1"));
    *speaks.lock().unwrap() = true;
    let output = running.wait().code(1);
    assert_waits(&output, 1);
    assert_eq!(output.summary()["added"], 1, "{output}");
    assert_eq!(recorded(&sandbox).len(), 3);
}
