//! The real programs of microsandbox, podman and containerd, from `apply` to a container: what each lists, what a run
//! with nothing to do costs, what comes back, and what is left of runs that were killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::check::{applied, wanted};
use crate::support::engines::{RealEngines, say};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, dir, file, noise, tar};
use crate::support::sandbox::Sandbox;
use crate::support::sha256;

const ALL: [&str; 3] = ["containerd", "microsandbox", "podman"];
const NAMES: [&str; 3] = ["team/gzip:1", "team/odd:1", "team/zstd:1"];
/// Kills of an `apply` that loads.
const KILLS: u32 = 12;

fn items(seed: u64) -> Vec<crate::support::image::Item> {
    vec![dir("d"), file(format!("d/{seed}"), noise(seed, 150_000)), file("greeting", format!("hello {seed}"))]
}

fn layer(seed: u64, pack: Pack) -> Layer {
    Layer::packed(&tar(&items(seed)), pack)
}

/// Three images above one layer, for the `version`-th time: one by its index, one whose manifest nobody writes the
/// same way again, one whose upper layer is zstd's.
fn push(content: &mut BlobSet, version: u64) {
    let base = layer(1, Pack::Gzip);
    let image = |upper: Layer| Image::new(&[base.clone(), upper]).config(json!({"Cmd": ["/d/1"]}));
    let gzip = content.image(&image(layer(10 + version, Pack::Gzip)));
    let index = content.index(false, &[gzip]);
    content.tag(NAMES[0], &index);

    let plain = content.image(&image(layer(20 + version, Pack::Plain)));
    let text = String::from_utf8(content.blobs[plain.digest()].to_vec()).unwrap();
    let odd = text.replace("\": ", "\"  :\t").replace(",\n", " ,\r\n") + "\n\n";
    let digest = sha256(odd.as_bytes());
    content.types.insert(digest.clone(), content.types[plain.digest()].clone());
    content.blobs.insert(digest.clone(), odd.into_bytes().into());
    content.tags.insert(NAMES[1].to_owned(), digest);

    let zstd = content.image(&image(layer(30 + version, Pack::Zstd)));
    content.tag(NAMES[2], &zstd);
}

/// The digest of the manifest that each full reference leads to.
fn manifests(registry: &FakeRegistry) -> BTreeMap<String, String> {
    let name = registry.name();
    registry.edit(|content| {
        let manifest = |tag: &&str| {
            let digest = &content.tags[*tag];
            let document: Value = serde_json::from_slice(&content.blobs[digest]).unwrap();
            let inner = document["manifests"][0]["digest"].as_str().unwrap_or(digest);
            (format!("{name}/{tag}"), inner.to_owned())
        };
        NAMES.iter().map(manifest).collect()
    })
}

/// A registry with the three images, and an images file that wants `names` of them in `engines`.
fn with(sandbox: &Sandbox, engines: &RealEngines<'_>, names: &[&str]) -> FakeRegistry {
    let mut content = BlobSet::default();
    push(&mut content, 0);
    let registry = FakeRegistry::start(content);
    let head = "[settings]\nlayers = false\n";
    sandbox.images(&format!("{head}{}{}", engines.tables(), wanted(&registry.name(), names)));
    registry
}

#[track_caller]
fn assert_listed(engines: &RealEngines<'_>, manifests: &BTreeMap<String, String>, what: &str) {
    for engine in engines.names() {
        let listing = engines.listing(engine);
        for (name, manifest) in manifests {
            let listed = listing.get(name);
            assert!(
                listed.is_some_and(|digests| digests.contains(manifest)),
                "{engine} lists {name} as {listed:?}, not as {manifest}, {what}"
            );
        }
    }
}

#[test]
fn each_engine_lists_what_the_registry_has_keeps_it_and_gets_it_back() {
    let sandbox = Sandbox::new();
    let engines = RealEngines::start(&sandbox, &ALL);
    let registry = with(&sandbox, &engines, &NAMES);
    let manifests = manifests(&registry);
    let output = applied(&sandbox);
    assert_eq!(output.summary()["engine_loads"], 3 * engines.names().len(), "{output}");
    assert_listed(&engines, &manifests, "after the first apply");
    assert!(!sandbox.home().join("tmp").exists());

    // With nothing to do: one HEAD a tag, one listing an engine.
    registry.forget();
    engines.calls();
    let output = applied(&sandbox);
    assert_eq!((&output.summary()["engine_loads"], &output.summary()["unchanged"]), (&json!(0), &json!(3)));
    let requests = registry.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests.iter().all(|request| request.starts_with("HEAD ")), "{requests:?}");
    let mut calls: Vec<String> =
        engines.calls().into_iter().filter(|call| !call.ends_with(" --version")).collect();
    calls.sort();
    let begins = [("containerd", " images ls"), ("microsandbox", " image ls"), ("podman", " images ")];
    let expected: Vec<_> = begins.into_iter().filter(|(engine, _)| engines.has(engine)).collect();
    assert_eq!(calls.len(), expected.len(), "{calls:?}");
    for (call, (engine, words)) in calls.iter().zip(expected) {
        assert!(call.starts_with(engine) && call.contains(words), "{calls:?}");
    }

    // Somebody takes images out of the engines: they come back, and no registry is asked for more than the tags.
    for engine in engines.names() {
        for name in manifests.keys().take(2) {
            engines.take_out(engine, name);
        }
    }
    registry.forget();
    let output = applied(&sandbox);
    assert_eq!(output.summary()["engine_loads"], 2 * engines.names().len(), "{output}");
    let requests = registry.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests.iter().all(|request| request.starts_with("HEAD ")), "{requests:?}");
    assert_listed(&engines, &manifests, "after they were taken out");

    // Tags move.
    registry.edit(|content| push(content, 1));
    let manifests = self::manifests(&registry);
    applied(&sandbox);
    assert_listed(&engines, &manifests, "after their tags moved");

    // The engine itself takes them for there, without the registry.
    drop(registry);
    for name in manifests.keys() {
        if engines.has("microsandbox") {
            let pulled = engines.run("microsandbox", &["pull", name]).run().success();
            assert!(format!("{}{}", pulled.stdout, pulled.stderr).contains("cached"), "{pulled}");
        }
        if engines.has("podman") {
            let create = ["create", "--pull=never", "--network=none", name];
            engines.run("podman", &create).run().success();
        }
        if engines.has("containerd") {
            let checked = engines
                .run("containerd", &["images", "check", "--snapshotter", "native", &format!("name=={name}")])
                .run()
                .success();
            assert!(
                checked.stdout.contains("complete (3/3)") && checked.stdout.contains("true"),
                "{checked}"
            );
        }
    }
    assert_eq!(engines.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn podman_copies_no_blob_of_ours() {
    let sandbox = Sandbox::new();
    let engines = RealEngines::start(&sandbox, &["podman"]);
    if !engines.has("podman") {
        return;
    }
    let registry = with(&sandbox, &engines, &NAMES);
    applied(&sandbox);
    let loads = engines.calls().iter().filter(|call| call.contains(" load")).count();
    assert_eq!(loads, 3, "podman refuses links: it gets each blob's bytes in a second load");
    // It compares what it reads there with the digests.
    let name = format!("{}/{}", registry.name(), NAMES[2]);
    engines.take_out("podman", &name);
    let digest = layer(30, Pack::Zstd).digest();
    let blob = sandbox.home().join("blobs/blobs").join(digest.replace(':', "/"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let output = sandbox.msb("apply --json").run().code(1);
    assert!(output.stdout.contains("\"kind\":\"engine\""), "{output}");
    assert!(!engines.listing("podman").contains_key(&name), "{output}");
}

#[test]
fn runs_that_are_killed_at_any_moment_are_made_good_by_the_next() {
    let sandbox = Sandbox::in_memory();
    let engines = RealEngines::start(&sandbox, &ALL);
    let registry = with(&sandbox, &engines, &NAMES[..2]);
    let mut longest = applied(&sandbox).elapsed;
    let mut version = 0;
    let mut early = 0;
    let mut kills = 0;
    for attempt in 1..=4 * KILLS {
        version = 1 - version;
        registry.edit(|content| push(content, version));
        let mut running = sandbox.msb("apply --json").spawn();
        // Golden ratio: any number of moments is spread evenly.
        let part = (f64::from(attempt) * 0.618_034).fract();
        std::thread::sleep(longest.mul_f64(part));
        if running.ended() {
            early += 1;
            longest = longest.mul_f64(0.95);
            continue;
        }
        running.signal(Signal::KILL);
        drop(running);
        kills += 1;
        // The next run may be killed as well.
        if kills % 4 == 0 || kills == 1 || kills == KILLS {
            engines.outlast_the_killed();
            let output = applied(&sandbox);
            let what = format!("after kill {kills} at {part} of {longest:?}\n{output}");
            let mut wanted = manifests(&registry);
            wanted.pop_last();
            assert_listed(&engines, &wanted, &what);
            assert!(!sandbox.home().join("tmp").exists(), "{what}");
            assert_eq!(engines.leftovers(), Vec::<std::path::PathBuf>::new(), "{what}");
            let downloads = fs::read_dir(sandbox.home().join("downloads")).unwrap().count();
            assert_eq!(downloads, 0, "{what}");
        }
        if kills == KILLS {
            break;
        }
    }
    assert_eq!(kills, KILLS, "{early} runs ended before they were killed");
    let verified = sandbox.msb("verify --json").run().success();
    let engines_of = verified.json()["engines"].as_array().unwrap().clone();
    assert_eq!(engines_of.len(), 2 * engines.names().len(), "{verified}");
}

#[test]
fn a_damaged_file_of_microsandbox_is_found_and_mended_by_us_alone() {
    let sandbox = Sandbox::in_memory();
    let engines = RealEngines::start(&sandbox, &["microsandbox"]);
    if !engines.has("microsandbox") {
        return;
    }
    let registry = with(&sandbox, &engines, &NAMES);
    applied(&sandbox);
    drop(registry);
    let files = engines.erofs();
    // The layers, which three images share one of, and what is made of each manifest.
    assert_eq!(files.len(), 4 + 3, "{files:?}");
    for path in [&files[0], files.last().unwrap()] {
        let whole = fs::read(path).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(path, &flipped).unwrap();
        for name in NAMES {
            let listing = engines.listing("microsandbox");
            let name = listing.keys().find(|listed| listed.ends_with(name)).unwrap();
            let pulled = engines.run("microsandbox", &["pull", name]).run().success();
            assert!(format!("{}{}", pulled.stdout, pulled.stderr).contains("cached"), "{pulled}");
        }
        assert_eq!(fs::read(path).unwrap(), flipped, "msb mends it by itself");

        let found = sandbox.msb("verify --json").run().code(1).json();
        let damaged = found["engines"].as_array().unwrap().iter();
        let damaged: Vec<&Value> = damaged.filter(|found| found["status"] == "modified").collect();
        assert!(!damaged.is_empty(), "{found}");
        let shown = path.file_name().unwrap().to_str().unwrap();
        assert!(damaged.iter().all(|found| found["detail"].as_str().unwrap().contains(shown)), "{found}");
        sandbox.msb("verify --repair").run().success();
        assert_eq!(fs::read(path).unwrap(), whole);
        sandbox.msb("verify").run().success();
    }
}

/// Builds a program that needs nothing, and says so where that cannot be done.
fn static_program(directory: &Path) -> Option<Vec<u8>> {
    let (source, program) = (directory.join("hello.c"), directory.join("hello"));
    fs::write(&source, "#include <stdio.h>\nint main(void) { puts(\"hello from inside\"); return 0; }\n")
        .unwrap();
    let built = Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).args([&program, &source]).output();
    if built.is_ok_and(|built| built.status.success()) {
        return Some(fs::read(program).unwrap());
    }
    say("gcc links no static program here: containers");
    None
}

#[test]
fn a_container_runs_of_what_was_loaded() {
    let sandbox = Sandbox::in_memory();
    let engines = RealEngines::start(&sandbox, &["containerd", "podman"]);
    let Some(program) = static_program(&sandbox.root().join("tmp")) else { return };
    let layers =
        [layer(1, Pack::Gzip), Layer::packed(&tar(&[file("hello", program).mode(0o755)]), Pack::Zstd)];
    let image = Image::new(&layers).config(json!({"Entrypoint": ["/hello"], "WorkingDir": "/"}));
    let registry = FakeRegistry::start(BlobSet::with("team/hello:1", &image));
    sandbox.images(&format!("{}{}", engines.tables(), wanted(&registry.name(), &["team/hello:1"])));
    applied(&sandbox);
    let name = format!("{}/team/hello:1", registry.name());
    drop(registry);
    let commands = [
        ("containerd", &["run", "--rm", "--snapshotter", "native", &name, "hello"][..]),
        ("podman", &["run", "--rm", "--pull=never", "--network=none", "--cgroups=disabled", &name]),
    ];
    for (engine, command) in commands.into_iter().filter(|(engine, _)| engines.has(engine)) {
        let run = engines.run(engine, command).timeout(Duration::from_secs(60)).run();
        if run.status.success() {
            assert_eq!(run.stdout.trim(), "hello from inside", "{run}");
        } else {
            // The image is there: it is the kernel, or what runs containers, that refuses.
            assert!(run.stderr.contains("runc:") || run.stderr.contains("crun"), "{run}");
            say(&format!("no container of {engine} may run here ({})", run.stderr.trim()));
        }
    }
}
