//! `watch` in a storm: many edits, a registry that flaps, layers that vanish. It ends as the last file says, has
//! run far less often than it was disturbed, and has grown neither in memory nor in descriptors.

use std::time::{Duration, Instant};

use crate::support::check::{assert_exact, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;
use crate::support::watching::{LIMIT, Watching};

const EDITS: u32 = 1000;
const TIME: Duration = Duration::from_secs(10);
const TAGS: u32 = 8;

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// One storm; the images that are wanted in the end.
fn storm(sandbox: &Sandbox, registry: &FakeRegistry, seed: u32) -> Vec<String> {
    // Small numbers that look random, the same in each run.
    let mut state = seed;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let start = Instant::now();
    let mut last = Vec::new();
    for edit in 0..EDITS {
        let mut names: Vec<String> = (0..TAGS).map(|tag| format!("team/app:{tag}")).collect();
        names.retain(|_| random(2) == 0);
        let text = if random(10) == 0 {
            "[registry.nonsense".to_owned()
        } else {
            last.clone_from(&names);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("# {edit}\n[settings]\ninterval = \"1s\"\n{}", wanted(&registry.name(), &names))
        };
        let path = sandbox.work().join("images.toml");
        if random(2) == 0 {
            sandbox.images(&text);
        } else {
            std::fs::write(path.with_extension("new"), text).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }
        if random(25) == 0 {
            if random(2) == 0 { registry.on(|_| Some(Fault::status(404))) } else { registry.behave() }
        }
        let layers = sandbox.extracted();
        if random(20) == 0 && !layers.is_empty() {
            let victim = &layers[usize::try_from(random(1000)).unwrap() % layers.len()];
            // The run may be removing it too.
            let _ = std::fs::remove_dir_all(sandbox.layers().join(victim));
        }
        std::thread::sleep((TIME * edit / EDITS).saturating_sub(start.elapsed()));
    }
    registry.behave();
    let names: Vec<&str> = last.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &names));
    last.iter().map(|name| format!("{}/{name}", registry.name())).collect()
}

#[test]
fn a_storm_passes() {
    let sandbox = Sandbox::in_memory();
    let mut content = BlobSet::default();
    let shared = Layer::of(&[file("shared", "x")]);
    for tag in 0..TAGS {
        let own = Layer::of(&[file("own", tag.to_string())]);
        let image = content.image(&Image::new(&[shared.clone(), own]));
        content.tag(&format!("team/app:{tag}"), &image);
    }
    let blobs = content.blobs.clone();
    let registry = FakeRegistry::start(content);
    sandbox.images("");
    let watching = Watching::start(&sandbox, "--prune --allow-empty");
    let pid = watching.pid();
    let converge = |expected: &[String]| {
        eventually("the machine is as the last file says", LIMIT, || {
            let images = listed(&sandbox);
            let found: Vec<&str> = images.iter().map(|image| image["reference"].as_str().unwrap()).collect();
            found == expected
                && images.iter().all(|image| {
                    let layers = image["layers"].as_array().unwrap();
                    layers.iter().all(|layer| std::path::Path::new(layer["path"].as_str().unwrap()).is_dir())
                })
        });
        for image in listed(&sandbox) {
            assert_exact(&image, &|digest| blobs[digest].to_vec());
        }
        watching.settle(Duration::from_secs(1));
        eventually("the threads of the runs have ended", LIMIT, || threads(pid) <= 6);
    };
    // The first one is to fill what is filled once.
    converge(&storm(&sandbox, &registry, 1));
    let (memory, open, runs) = (resident_kib(pid), descriptors(pid), watching.runs());
    let events = watching.count("triggered");
    converge(&storm(&sandbox, &registry, 2));
    let ran = watching.runs() - runs;
    assert!(watching.count("triggered") > events && ran >= 2, "it slept through the storm: {ran} runs");
    assert!(ran < usize::try_from(EDITS).unwrap() / 8, "{ran} runs for {EDITS} edits: not coalesced");
    let (memory_after, open_after) = (resident_kib(pid), descriptors(pid));
    assert!(open_after <= open, "{open} descriptors have become {open_after}");
    assert!(memory_after <= memory + 8 * 1024, "{memory} KiB have become {memory_after} KiB");
    println!("{ran} runs, {memory} → {memory_after} KiB, {open} → {open_after} descriptors");
    watching.stop();
}
