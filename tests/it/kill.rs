//! SIGKILL at random instants of a large apply: no incomplete layer ever has its final name, the next run
//! converges, and it fetches only what had not arrived.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, dir, file, hard, noise, tar};
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;

/// Kills, spread over several homes.
const KILLS: usize = 10;
/// Kills in one home before it may finish.
const PER_HOME: usize = 3;

/// A layer of `mib` MiB: one file of half of it, the rest in small ones.
fn layer(seed: u64, mib: usize, content: &[u8], pack: Pack) -> Layer {
    let start = usize::try_from(seed).unwrap() * 4099;
    let small = 8192;
    let mut items = vec![dir("d"), file("big", &content[start..start + mib * 512 * 1024])];
    let count = mib * 512 * 1024 / small;
    items.extend((0..count).map(|number| {
        let from = (start + number * 1031) % (content.len() - small);
        file(format!("d/{number}"), &content[from..from + small])
    }));
    items.push(hard("same", "big"));
    Layer::packed(&tar(&items), pack)
}

/// Sizes of the partial blobs by the layer they belong to.
fn spooled(sandbox: &Sandbox, layers: &[Layer]) -> BTreeMap<String, u64> {
    let Ok(entries) = std::fs::read_dir(sandbox.home().join("downloads")) else { return BTreeMap::new() };
    let mut sizes = BTreeMap::new();
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        for layer in layers.iter().filter(|layer| name.contains(&layer.digest()["sha256:".len()..])) {
            let size = sizes.entry(layer.digest()).or_insert(0);
            *size = entry.metadata().unwrap().len().max(*size);
        }
    }
    sizes
}

fn range_start(range: Option<&str>) -> u64 {
    range.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap())
}

#[test]
fn a_kill_at_any_instant_leaves_nothing_half_done() {
    let content = noise(1, 13 << 20);
    let packs = [Pack::Plain, Pack::Zstd, Pack::Gzip, Pack::Plain, Pack::Zstd, Pack::Plain];
    let sizes = [8, 20, 8, 24, 16, 20];
    let layers: Vec<Layer> =
        (0..).zip(sizes).zip(packs).map(|((seed, mib), pack)| layer(seed, mib, &content, pack)).collect();
    let expected: BTreeMap<String, Tree> = layers
        .iter()
        .map(|layer| (layer.directory(), Tree::expected(&crate::support::tree::unpack(&layer.blob))))
        .collect();
    let mut set = BlobSet::default();
    for (name, part) in [("team/app:1", &layers[..4]), ("team/app:2", &layers[2..])] {
        let manifest = set.image(&Image::new(part));
        set.tag(name, &manifest);
    }
    let registry = FakeRegistry::start(set);

    // How long a whole run takes, so that the kills fall all over it.
    let whole = {
        let sandbox = Sandbox::new();
        sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
        applied(&sandbox).elapsed
    };
    // Random, but the same in every run of the test; what happens in that instant never is.
    let mut chances = noise(0x6b69_6c6c, KILLS * 2).into_iter();
    let mut chance =
        || f64::from(u16::from_le_bytes([chances.next().unwrap(), chances.next().unwrap()])) / 65536.0;

    let (mut kills, mut interrupted) = (0, 0);
    while kills < KILLS {
        let sandbox = Sandbox::new();
        sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
        for _ in 0..PER_HOME.min(KILLS - kills) {
            kills += 1;
            let at = whole.mul_f64(chance());
            let before = (sandbox.extracted(), spooled(&sandbox, &layers));
            registry.forget();
            let running = sandbox.msb("apply --json").spawn();
            std::thread::sleep(at);
            running.signal(Signal::KILL);
            let output = running.wait();
            interrupted += usize::from(output.status.code().is_none());
            let what = format!("kill {kills} after {at:?}");
            assert_only_whole_layers(&sandbox.layers(), &expected, &what);
            assert_resumed(&registry, &layers, &before, &format!("the run before {what}\n{output}"));
        }
        let before = (sandbox.extracted(), spooled(&sandbox, &layers));
        registry.forget();
        let output = applied(&sandbox);
        assert_eq!(output.summary()["failed"], 0, "{output}");
        assert_resumed(&registry, &layers, &before, &format!("the run after kill {kills}\n{output}"));
        assert_only_whole_layers(&sandbox.layers(), &expected, "after convergence");
        assert_eq!(sandbox.extracted().len(), layers.len());
        let blobs = registry.edit(|content| content.blobs.clone());
        for image in listed(&sandbox) {
            assert_exact(&image, &|digest| blobs[digest].to_vec());
        }
        let left: Vec<_> =
            std::fs::read_dir(sandbox.home().join("downloads")).map(Iterator::collect).unwrap_or_default();
        assert!(left.is_empty(), "partial blobs are left: {left:?}");
        assert_no_litter(&sandbox.layers(), &expected);
    }
    assert!(interrupted >= KILLS / 2, "only {interrupted} of {KILLS} runs were still there to be killed");
}

#[track_caller]
fn assert_only_whole_layers(store: &Path, expected: &BTreeMap<String, Tree>, what: &str) {
    for (name, tree) in expected {
        if store.join(name).exists() {
            tree.assert_matches(&Tree::of(&store.join(name)), &format!("{name}, {what}"));
        }
    }
}

/// A run asks for nothing that was there before it: no finished layer, no byte of a partial blob.
#[track_caller]
fn assert_resumed(
    registry: &FakeRegistry,
    layers: &[Layer],
    before: &(Vec<String>, BTreeMap<String, u64>),
    what: &str,
) {
    for exchange in registry.log() {
        let request = &exchange.request;
        let wanted =
            layers.iter().find(|layer| request.method == "GET" && request.path.ends_with(&layer.digest()));
        let Some(layer) = wanted else { continue };
        assert!(!before.0.contains(&layer.directory()), "a finished layer was fetched again in {what}");
        let had = before.1.get(&layer.digest()).copied().unwrap_or(0);
        let start = range_start(request.header("range"));
        assert!(start >= had, "{had} bytes of {} were here, asked from {start} on in {what}", layer.digest());
    }
}

/// After a whole run the store holds the layers and what msb-sync notes about them, but no half of any layer.
#[track_caller]
fn assert_no_litter(store: &Path, expected: &BTreeMap<String, Tree>) {
    let mut pending = vec![store.to_owned()];
    let mut others = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
            let metadata = entry.metadata().unwrap();
            if expected.contains_key(&entry.file_name().into_string().unwrap()) && metadata.is_dir() {
                continue;
            }
            if metadata.is_dir() {
                pending.push(entry.path());
            } else {
                others.push((entry.path(), metadata.len()));
            }
        }
    }
    let bytes: u64 = others.iter().map(|(_, length)| length).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes are left beside the layers: {others:?}");
}

#[test]
fn a_home_on_which_a_run_was_killed_is_not_locked() {
    let sandbox = Sandbox::new();
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("f", "x")])])));
    registry.fail(1, "/blobs/", &crate::support::fake_registry::Fault::stall(0));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let running = sandbox.msb("apply").spawn();
    crate::support::eventually("a blob was asked for", Duration::from_secs(20), || {
        registry.requests().iter().any(|request| request.contains("/blobs/"))
    });
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);
    applied(&sandbox);
}
