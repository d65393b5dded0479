//! Several processes on one home: runs wait for each other and say for whom, readers do not wait, and what another
//! program does to the catalog is waited for or reported, never repaired by deleting.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::Sandbox;

/// A registry with an image of a quick and a slow layer, which the images file wants.
fn slow_registry(sandbox: &Sandbox) -> (FakeRegistry, [Layer; 2]) {
    let slow = Layer::packed(&tar(&[file("slow", noise(1, 400_000))]), Pack::Plain);
    let quick = Layer::of(&[file("quick", "x")]);
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[quick.clone(), slow.clone()])));
    registry.fail(1, &slow.digest(), &Fault::slow(150_000));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    (registry, [quick, slow])
}

#[test]
fn any_number_of_runs_wait_for_each_other_and_fetch_once() {
    let sandbox = Sandbox::in_memory();
    let (registry, [quick, slow]) = slow_registry(&sandbox);
    // Something for each to do: an image that is not listed any more, and a damaged layer.
    let (old, pulled) = (Layer::of(&[file("old", "x")]), Layer::of(&[file("pulled", "x")]));
    let mut set = registry.edit(|content| content.clone());
    for (name, layer) in [("team/old:1", &old), ("team/pulled:1", &pulled)] {
        let manifest = set.image(&Image::new(std::slice::from_ref(layer)));
        set.tag(name, &manifest);
    }
    registry.edit(|content| *content = set);
    sandbox.images(&wanted(&registry.name(), &["team/old:1"]));
    applied(&sandbox);
    sandbox.msb("pull").arg(format!("{}/team/pulled:1", registry.name())).run().success();
    std::fs::write(sandbox.layers().join(pulled.directory()).join("pulled"), "damaged").unwrap();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    registry.forget();
    let mut first = sandbox.msb("apply --json").spawn();
    eventually("the first run is under way", Duration::from_secs(20), || {
        registry.sent(&slow.digest()) > 10_000
    });
    let reference = format!("{}/team/app:1", registry.name());
    let mut others: Vec<_> = (0..8)
        .map(|number| match number % 4 {
            0 => sandbox.msb("apply").spawn(),
            1 => sandbox.msb("pull").arg(&reference).spawn(),
            2 => sandbox.msb("verify --repair").spawn(),
            _ => sandbox.msb("prune").spawn(),
        })
        .collect();
    eventually("the first run is nearly done", Duration::from_secs(20), || {
        registry.sent(&slow.digest()) > 300_000
    });
    let early: Vec<_> =
        (0..).zip(&mut others).filter_map(|(at, other)| other.ended().then_some(at)).collect();
    assert!(first.ended() || early.is_empty(), "{early:?} of the others did not wait");
    let first = first.wait().success();
    assert_eq!(first.summary()["added"], 1, "{first}");
    let outputs: Vec<_> = others.into_iter().map(|other| other.wait().success()).collect();
    // All were started while the first had a second to go; one that came late may have found all done.
    let told = outputs.iter().filter(|output| output.stderr.contains("msb-sync apply (process")).count();
    assert!(
        told >= 1,
        "nobody said for whom it waits: {:?}",
        outputs.iter().map(|output| &output.stderr).collect::<Vec<_>>()
    );
    for layer in [&quick, &slow, &pulled] {
        assert_eq!(registry.sent(&layer.digest()), layer.blob.len() as u64, "fetched twice");
    }
    let images = listed(&sandbox);
    assert_eq!(images.len(), 2, "the one that is not listed is still there");
    let blobs = registry.edit(|content| content.blobs.clone());
    for image in &images {
        assert_exact(image, &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn readers_do_not_wait() {
    let sandbox = Sandbox::in_memory();
    let (registry, [_, slow]) = slow_registry(&sandbox);
    let mut first = sandbox.msb("apply").spawn();
    eventually("the first run is under way", Duration::from_secs(20), || {
        registry.sent(&slow.digest()) > 10_000
    });
    for arguments in ["list --json", "plan --json", "inspect nobody/has:this"] {
        let output = sandbox.msb(arguments).run();
        assert!(!output.stderr.to_lowercase().contains("waiting"), "{output}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output}");
        assert!(!first.ended(), "{arguments} was no test: nobody held the lock any more");
    }
    first.wait().success();
}

#[test]
fn the_lock_of_a_dead_run_blocks_nobody() {
    let sandbox = Sandbox::in_memory();
    let (registry, [_, slow]) = slow_registry(&sandbox);
    let running = sandbox.msb("apply").spawn();
    eventually("a blob is under way", Duration::from_secs(20), || registry.sent(&slow.digest()) > 10_000);
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);
    let lock = sandbox.home().join(".msb-sync.lock");
    assert!(std::fs::read_to_string(&lock).unwrap().contains("process"), "nothing says who it was");
    let output = sandbox.msb("apply").run().success();
    assert!(!output.stderr.contains("waiting"), "{output}");
    // Nor does a lock file that somebody has filled with anything.
    std::fs::write(lock, b"\xff\x1b[2Jgarbage\n".repeat(1000)).unwrap();
    std::fs::remove_dir_all(sandbox.layers()).unwrap();
    applied(&sandbox);
}

#[test]
fn another_holder_of_the_database_is_waited_for() {
    let sandbox = Sandbox::in_memory();
    let (registry, _) = slow_registry(&sandbox);
    registry.behave();
    applied(&sandbox);
    let mut set = registry.edit(|content| content.clone());
    let manifest = set.image(&Image::new(&[Layer::of(&[file("new", "x")])]));
    registry.edit(|content| {
        *content = set;
        content.tag("team/new:1", &manifest);
    });
    let held = sandbox.root().join("held");
    let database = sandbox.home().join("oci.db");
    let arguments = [
        database.to_str().unwrap(),
        "BEGIN EXCLUSIVE; INSERT INTO sync_meta VALUES ('rolled back', 1);",
        &format!(".shell touch {}; sleep 2", held.display()),
        "ROLLBACK;",
    ];
    let holder = sandbox.program("sqlite3", &arguments).spawn();
    eventually("the database is held", Duration::from_secs(20), || held.exists());
    let start = Instant::now();
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/new:1"]));
    applied(&sandbox);
    assert!(start.elapsed() > Duration::from_secs(1), "nobody held the database");
    holder.wait().success();
    assert_eq!(listed(&sandbox).len(), 2);
}

#[test]
fn a_damaged_catalog_is_reported_with_a_way_out_and_kept() {
    let sandbox = Sandbox::in_memory();
    let (registry, _) = slow_registry(&sandbox);
    registry.behave();
    applied(&sandbox);
    let path = sandbox.home().join("oci.db");
    let good = std::fs::read(&path).unwrap();
    let mut pages = good.clone();
    pages[4096..].fill(0xa5);
    let mut root = good.clone();
    root[100..4096].fill(0);
    for (what, bytes) in [
        ("text", b"this is no database at all".repeat(200)),
        ("a header only", good[..100].to_vec()),
        ("cut", good[..good.len() / 2].to_vec()),
        ("garbage in its pages", pages),
        ("no tables", root),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let output = sandbox.msb("apply").run().code(1);
        assert!(
            output.stderr.contains("catalog") && output.stderr.contains("hint: move"),
            "{what}\n{output}"
        );
        assert!(!output.stderr.contains("panicked"), "{what}\n{output}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{what}: the catalog was changed");
        let output = sandbox.msb("list").run();
        assert!(!output.stderr.contains("panicked"), "{what}\n{output}");
    }
    // The way out: nothing that is on disk is fetched again.
    std::fs::rename(&path, sandbox.root().join("away")).unwrap();
    registry.forget();
    let output = applied(&sandbox);
    assert_eq!(output.summary()["downloaded_bytes"], 0, "{output}");
    assert_eq!(listed(&sandbox).len(), 1);
}
