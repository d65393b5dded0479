//! `rate`: bytes of blobs a second, of all downloads together and of one registry, seen from outside. How evenly it is
//! shared, and how exactly it is kept, is proven where the sums are done.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::check::{applied, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::{Output, Running, Sandbox};
use crate::support::{SOON, eventually};

const KIB: usize = 1024;

/// An image of so many layers, each of about so many bytes, and the bytes of all of them.
fn image(seed: u64, layers: u64, size: usize) -> (Image, u64) {
    let layer =
        |number| Layer::packed(&tar(&[file("noise", noise(seed + number, size - 2 * KIB))]), Pack::Plain);
    let layers: Vec<Layer> = (0..layers).map(layer).collect();
    let bytes = layers.iter().map(|layer| layer.blob.len() as u64).sum();
    (Image::new(&layers), bytes)
}

fn content(seed: u64, layers: u64, size: usize) -> (BlobSet, u64) {
    let (image, bytes) = image(seed, layers, size);
    (BlobSet::with("team/app:1", &image), bytes)
}

/// Fails unless `output` took as long as `bytes` need at `rate`, and not many times as long.
#[track_caller]
fn took_its_time(output: &Output, bytes: u64, rate: u64) {
    let due = Duration::from_millis(bytes * 1000 / rate);
    assert!(output.elapsed >= due, "{bytes} bytes came in {:?}, not in {due:?}\n{output}", output.elapsed);
    assert!(output.elapsed < due * 5 + Duration::from_secs(5), "{:?} for {due:?}\n{output}", output.elapsed);
}

/// The requests for layers, of which each is asked for once.
fn layers_asked(registry: &FakeRegistry) -> usize {
    registry.log().iter().filter(|exchange| exchange.sent > 20 * KIB as u64).count()
}

/// Writes the machine's own table of `registry`.
fn machine_table(home: &Path, registry: &FakeRegistry, keys: &str) {
    std::fs::create_dir_all(home).unwrap();
    let table = format!("[registry.\"{}\"]\n{keys}\n", registry.name());
    std::fs::write(home.join("registries.toml"), table).unwrap();
}

/// The bytes of blobs that a run has received so far, as its last progress event says.
fn received(running: &Running) -> Option<u64> {
    let lines = running.stdout();
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| event["received_bytes"].as_u64()).next_back()
}

#[test]
fn all_registries_together_keep_to_the_rate_and_nobody_takes_that_for_a_stall() {
    let ((one, first), (other, second)) = (content(1, 4, 96 * KIB), content(9, 4, 96 * KIB));
    let [one, other] = [one, other].map(FakeRegistry::start);
    let sandbox = Sandbox::in_memory();
    let images = [&one, &other].map(|registry| wanted(&registry.name(), &["team/app:1"])).concat();
    sandbox.images(&format!("[settings]\nrate = \"512KiB/s\"\n{images}"));
    let output = sandbox.msb("apply --json -v").env("MSB_SYNC_STALL_TIMEOUT", "0.2").run().success();
    took_its_time(&output, first + second, 512 << 10);
    assert_eq!(output.summary()["downloaded_bytes"], first + second, "{output}");
    assert_eq!([layers_asked(&one), layers_asked(&other)], [4, 4], "{output}");
    assert!(!output.stderr.contains("trying again"), "{output}");
    assert_eq!(listed(&sandbox).len(), 2);
}

#[test]
fn a_registrys_own_rate_counts_its_mirrors() {
    let (set, bytes) = content(1, 2, 128 * KIB);
    let (slow, mirror) = (FakeRegistry::start(set.clone()), FakeRegistry::start(set));
    let sandbox = Sandbox::in_memory();
    machine_table(&sandbox.home(), &slow, &format!("rate = \"200KiB/s\"\nmirrors = [\"{}\"]", mirror.url()));
    let output = sandbox.msb(&format!("pull {}/team/app:1", slow.name())).run().success();
    took_its_time(&output, bytes, 200 << 10);
    assert_eq!((layers_asked(&mirror), layers_asked(&slow)), (2, 0));
    // A bundle's blobs come from the registry too.
    sandbox.images(&wanted(&slow.name(), &["team/app:1"]));
    let elsewhere = sandbox.work().join("home");
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::copy(sandbox.home().join("registries.toml"), elsewhere.join("registries.toml")).unwrap();
    let output = sandbox.msb("export --output bundle").arg("--home").arg(elsewhere).run().success();
    took_its_time(&output, bytes, 200 << 10);
}

#[test]
fn a_registrys_own_rate_holds_nobody_else_back() {
    let ((set, bytes), (other, free_bytes)) = (content(1, 2, 128 * KIB), content(5, 2, 128 * KIB));
    let [slow, free] = [set, other].map(FakeRegistry::start);
    let sandbox = Sandbox::in_memory();
    machine_table(&sandbox.home(), &slow, "rate = \"1KiB/s\"");
    let [late, soon] = [&slow, &free].map(|registry| format!("{}/team/app:1", registry.name()));
    let running = sandbox.msb(&format!("pull --json -v --progress always {late} {soon}")).spawn();
    // The slow one takes four minutes.
    eventually("the other image is here", Duration::from_secs(40), || running.stdout().contains("\"image\""));
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert!(output.summary()["downloaded_bytes"].as_u64().unwrap() < free_bytes + bytes, "{output}");
    let listed: Vec<Value> = listed(&sandbox).into_iter().map(|image| image["reference"].clone()).collect();
    assert_eq!(listed, [&*soon], "{output}");
}

#[test]
fn ctrl_c_ends_the_wait_for_a_share_at_once() {
    let (set, _) = content(1, 8, 32 * KIB);
    let registry = FakeRegistry::start(set);
    let sandbox = Sandbox::in_memory();
    let images = wanted(&registry.name(), &["team/app:1"]);
    sandbox.images(&format!("[settings]\nrate = \"1KiB/s\"\n{images}"));
    let run = sandbox.msb("apply --json -v --progress always").env("MSB_SYNC_STALL_TIMEOUT", "0.2");
    let running = run.spawn();
    eventually("some bytes have come", Duration::from_secs(20), || {
        received(&running).is_some_and(|received| received >= 1000)
    });
    let start = Instant::now();
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert!(start.elapsed() < SOON, "{:?}\n{output}", start.elapsed());
    assert!(!output.stderr.contains("trying again"), "{output}");
    assert!(output.summary()["downloaded_bytes"].as_u64().unwrap() < 16 << 10, "{output}");
    sandbox.images(&images);
    applied(&sandbox);
}

#[test]
fn what_is_on_this_machine_is_not_held_back() {
    let mut set = BlobSet::default();
    let descriptor = set.image(&image(1, 2, 128 * KIB).0);
    let sandbox = Sandbox::in_memory();
    set.write_layout(&sandbox.work().join("saved"), &[("team/app:1", &descriptor)]);
    let images = wanted("vendored.local", &["team/app:1"]);
    sandbox.images(&format!("[settings]\nrate = \"1KiB/s\"\n{images}layout = \"saved\"\n"));
    applied(&sandbox);
    assert_eq!(listed(&sandbox).len(), 1);
}
