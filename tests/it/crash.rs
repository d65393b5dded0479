//! Runs that end before their time: SIGKILL and signals at random instants of an apply. No incomplete layer ever has
//! its final name, the next run converges, and it fetches only what had not arrived. What a power loss would need
//! (everything on disk before the catalog says so) is read off the system calls.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, dir, file, hard, noise, tar};
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;
use crate::support::{SOON, eventually, may_trace};

/// Kills of runs that were still there, spread over several homes.
const KILLS: usize = 24;
/// Kills in one home before it may finish.
const PER_HOME: usize = 8;
/// What the registry sends of each blob, in bytes a second: slow enough that most kills come while it is arriving.
const PACE: u64 = 4 << 20;

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
    let content = noise(1, 4 << 20);
    let packs = [Pack::Plain, Pack::Zstd, Pack::Gzip, Pack::Plain, Pack::Zstd, Pack::Plain];
    let sizes = [1, 2, 1, 3, 2, 2];
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
    registry.on(|request| request.path.contains("/blobs/").then(|| Fault::slow(PACE)));

    // How long a whole run takes, so that the kills fall all over it.
    let whole = {
        let sandbox = Sandbox::new();
        sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
        applied(&sandbox).elapsed
    };
    // Random, but the same in every run of the test; what happens in that instant never is.
    let mut chances = noise(0x6b69_6c6c, KILLS * 8).into_iter();
    let mut chance =
        || f64::from(u16::from_le_bytes([chances.next().unwrap(), chances.next().unwrap()])) / 65536.0;

    let (mut tries, mut kills, mut receiving) = (0, 0, 0);
    while kills < KILLS {
        let sandbox = Sandbox::new();
        sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
        for _ in 0..PER_HOME.min(KILLS - kills) {
            tries += 1;
            assert!(tries <= KILLS * 4, "only {kills} of {tries} runs were still there to be killed");
            // What an earlier run received counts: by several such steps the runs of a home come to their end.
            let at = whole.mul_f64(chance() * 0.5);
            let before = (sandbox.extracted(), spooled(&sandbox, &layers));
            registry.forget();
            let running = sandbox.msb("apply --json").spawn();
            std::thread::sleep(at);
            running.signal(Signal::KILL);
            let output = running.wait();
            let what = format!("kill {kills} after {at:?}");
            assert_only_whole_layers(&sandbox.layers(), &expected, &what);
            assert_resumed(&registry, &layers, &before, &format!("the run before {what}\n{output}"));
            if output.status.code().is_some() {
                // It was done before; the next one in this home would have nothing to do.
                break;
            }
            kills += 1;
            receiving += usize::from(!spooled(&sandbox, &layers).is_empty());
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
    assert!(receiving >= KILLS / 3, "only {receiving} of {KILLS} kills came while a blob was arriving");
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

/// A run at whose random instant this signal comes ends soon, with this code, and loses nothing.
#[test]
fn a_signal_at_any_instant_ends_the_run_soon() {
    let layers: Vec<Layer> =
        (0..4).map(|seed| Layer::packed(&tar(&[file("f", noise(seed, 300_000))]), Pack::Plain)).collect();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&layers)));
    registry.on(|request| request.path.contains("/blobs/").then(|| Fault::slow(400_000)));
    let sandbox = Sandbox::new();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let mut instants = noise(0x7369_676e, 16).into_iter();
    let mut stopped = 0;
    for number in 0..16 {
        let (signal, code) = if number % 2 == 0 { (Signal::INT, 130) } else { (Signal::TERM, 143) };
        let running = sandbox.msb("apply").spawn();
        // Not before the process can have set up anything: until then a signal simply ends it.
        eventually("the run listens to signals", Duration::from_secs(20), || running.catches(signal));
        std::thread::sleep(Duration::from_millis(u64::from(instants.next().unwrap())));
        let start = Instant::now();
        running.signal(signal);
        let output = running.wait();
        let elapsed = start.elapsed();
        assert!(elapsed < SOON, "took {elapsed:?}\n{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        match output.status.code() {
            Some(0) => {}
            Some(ended) if ended == code => stopped += 1,
            other => panic!("ended with {other:?}\n{output}"),
        }
    }
    assert!(stopped >= 2, "no run was still there to be stopped");
    applied(&sandbox);
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
}

#[test]
fn what_dead_runs_left_is_used_or_swept() {
    let sandbox = Sandbox::new();
    let (first, second) =
        (layer(0, 1, &noise(1, 1 << 20), Pack::Plain), layer(1, 1, &noise(2, 1 << 20), Pack::Plain));
    let mut set = BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&first)));
    let manifest = set.image(&Image::new(std::slice::from_ref(&second)));
    set.tag("team/app:2", &manifest);
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);

    let staging = sandbox.home().join(".layers.msb-sync/staging");
    let downloads = sandbox.home().join("downloads");
    for half in [first.digest(), second.digest(), format!("removed-{}", first.digest()), "garbage".to_owned()]
    {
        std::fs::create_dir_all(staging.join(&half).join("tree/d")).unwrap();
        std::fs::write(staging.join(&half).join("tree/d/f"), "half").unwrap();
        std::fs::write(staging.join(&half).join("record"), "half").unwrap();
        // Of another boot: what was ready then may not have reached the disk.
        std::fs::write(staging.join(&half).join("ready"), "another boot").unwrap();
    }
    let part = |layer: &Layer| downloads.join(format!("{}.part", layer.digest()));
    std::fs::write(part(&first), &first.blob[..]).unwrap();
    std::fs::write(part(&second), &second.blob[..500_000]).unwrap();
    registry.forget();
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
    applied(&sandbox);
    assert_eq!(registry.sent(&second.digest()), second.blob.len() as u64 - 500_000);
    for directory in [staging, downloads] {
        let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
        assert!(left.is_empty(), "{left:?} is left in {}", directory.display());
    }
    let blobs = registry.edit(|content| content.blobs.clone());
    for image in listed(&sandbox) {
        assert_exact(&image, &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn all_is_on_disk_before_the_catalog_says_so() {
    if may_trace("the order was NOT checked") {
        order_of_a_run(&Sandbox::new());
    }
}

/// A run that dies between naming a layer and syncing the name leaves a layer that the next run finds complete. Its
/// name is on disk before the catalog says so all the same.
#[test]
fn names_that_a_dead_run_gave_are_on_disk_before_the_catalog_says_so() {
    if !may_trace("names of dead runs were NOT checked") {
        return;
    }
    let sandbox = Sandbox::new();
    let layer = layer(0, 1, &noise(1, 1 << 20), Pack::Gzip);
    let image = Image::new(std::slice::from_ref(&layer));
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    // The first rename into the directory is let through, and nothing after it.
    let (msb, log) = (env!("CARGO_BIN_EXE_msb-sync"), sandbox.root().join("calls"));
    let store = sandbox.layers();
    let (log, store) = (log.to_str().unwrap(), store.to_str().unwrap());
    let kill = ["-f", "-o", log, "-P", store, "-e", "inject=fsync:signal=KILL:when=2", msb, "apply"];
    sandbox.program("strace", &kill).run();
    assert_eq!(sandbox.extracted(), [layer.directory()], "it did not die where it should");
    assert_eq!(listed(&sandbox).len(), 0);
    let look = ["-f", "-y", "-o", log, "-e", "trace=fsync,pwrite64", msb, "apply"];
    sandbox.program("strace", &look).run().success();
    assert_eq!(listed(&sandbox).len(), 1);
    let text = std::fs::read_to_string(log).unwrap();
    let find = |what: &str| text.lines().position(|line| line.contains(what));
    let synced = find(&format!("<{store}>")).unwrap_or_else(|| panic!("the layers are not synced\n{text}"));
    let written = find("oci.db").unwrap_or_else(|| panic!("the catalog is not written\n{text}"));
    assert!(synced < written, "the catalog was written first\n{text}");
}

/// Kills at the worst of times while a layer takes the place of something else, and while one that could not be
/// committed is removed: the next run knows what is whole and what is not.
#[test]
fn a_kill_while_a_layer_is_replaced_or_removed_does_not_make_it_look_whole() {
    if !may_trace("kills while layers are replaced and removed were NOT checked") {
        return;
    }
    for (replaced, inject) in [
        (true, &["inject=renameat:signal=KILL"][..]),
        (true, &["inject=renameat2:signal=KILL:when=2"]),
        (false, &["inject=syncfs:error=ENOSPC", "inject=unlinkat:signal=KILL:when=100"]),
    ] {
        let sandbox = Sandbox::new();
        let layer = layer(0, 2, &noise(1, 2 << 20), Pack::Gzip);
        let image = Image::new(std::slice::from_ref(&layer));
        let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image));
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let place = sandbox.layers().join(layer.directory());
        if replaced {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("junk"), "left by another program").unwrap();
        }
        let mut arguments = vec!["-f", "-qq", "-o", "/dev/null"];
        arguments.extend(inject.iter().flat_map(|inject| ["-e", inject]));
        arguments.extend([env!("CARGO_BIN_EXE_msb-sync"), "apply"]);
        let killed = sandbox.program("strace", &arguments).run();
        assert!(!killed.status.success(), "{inject:?}: {killed}");
        assert_eq!(listed(&sandbox).len(), 0, "{inject:?}");
        applied(&sandbox);
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
        sandbox.msb("verify").run().success();
    }
}

fn order_of_a_run(sandbox: &Sandbox) {
    let layers = [layer(0, 1, &noise(1, 1 << 20), Pack::Gzip), layer(1, 1, &noise(2, 1 << 20), Pack::Zstd)];
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&layers)));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let calls = "trace=write,pwrite64,pwritev,openat,linkat,symlinkat,mkdirat,syncfs,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat";
    let log = sandbox.root().join("calls");
    let arguments = [
        "-f",
        "-y",
        "-s",
        "300",
        "-e",
        calls,
        "-o",
        log.to_str().unwrap(),
        env!("CARGO_BIN_EXE_msb-sync"),
        "apply",
    ];
    sandbox.program("strace", &arguments).run().success();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let all = |what: &str, fits: &dyn Fn(&str) -> bool| -> Vec<usize> {
        let found: Vec<usize> = (0..lines.len()).filter(|&index| fits(lines[index])).collect();
        assert!(!found.is_empty(), "no {what} in\n{text}");
        found
    };
    let store = sandbox.layers();
    let store = store.to_str().unwrap();
    let into_tree = all("write into a tree", &|line| {
        line.contains("/staging/")
            && line.contains("/tree")
            && !line.contains("unlinkat")
            && !line.contains("renameat")
    });
    let ready = all("mark", &|line| line.contains("\"ready\"") && line.contains("O_CREAT"));
    let synced = all("sync of the file system", &|line| line.contains("syncfs("));
    let named = all("rename", &|line| line.contains("renameat2(") && line.contains(".extracted\""));
    let recorded =
        all("rename of a record", &|line| line.contains("renameat") && line.contains("\"record\""));
    let layers_synced =
        all("sync of the layers", &|line| line.contains("fsync(") && line.contains(&format!("<{store}>")));
    let records_synced =
        all("sync of the records", &|line| line.contains("fsync(") && line.contains("records>"));
    let catalog = all("write to the catalog", &|line| line.contains("pwrite64(") && line.contains("oci.db"));
    let last = *catalog.last().unwrap();
    assert_eq!((ready.len(), named.len(), recorded.len()), (2, 2, 2), "{text}");
    // Every rename has a sync before it and after the last byte; each directory is synced after the last rename in
    // it; and only then the catalog is written again.
    for (name, record) in named.iter().zip(&recorded) {
        let sync = *synced.iter().rfind(|sync| *sync < name).expect("renamed without a sync");
        assert!(into_tree.iter().chain(&ready).all(|write| *write < sync || *write > *record), "{text}");
        let layers = *layers_synced.iter().find(|sync| *sync > name).expect("layers not synced");
        assert!(layers < *record, "a record that may outlive its layer\n{text}");
        let records = *records_synced.iter().find(|sync| *sync > record).expect("records not synced");
        assert!(last > layers && last > records, "{text}");
        let between = catalog.iter().filter(|write| (sync..layers.max(records)).contains(*write)).count();
        assert_eq!(between, 0, "the catalog was written too early\n{text}");
    }
    let durable = all("sync of the catalog", &|line| line.contains("sync(") && line.contains("oci.db"));
    assert!(durable.iter().any(|sync| *sync > last), "the catalog is not synced\n{text}");
    // What ends a transaction is the removal of its journal, whose name has to go for good.
    let home = format!("<{}>", sandbox.home().display());
    let ended =
        all("removal of a journal", &|line| line.contains("unlink(") && line.contains("oci.db-journal"));
    let last = *ended.last().unwrap();
    let gone = lines[last..].iter().any(|line| line.contains("sync(") && line.contains(&home));
    assert!(gone, "the end of a transaction is not synced\n{text}");
    // The home of a catalog, the home of a layer, and who needs its layers have names too.
    for named in [sandbox.user(), sandbox.home().join(".layers.msb-sync/homes")] {
        // A call that another thread's call interrupts in the log has no closing bracket.
        let name = format!("<{}>", named.display());
        let synced = lines.iter().position(|line| line.contains("sync(") && line.contains(&name));
        assert!(synced.is_some_and(|synced| synced < last), "{} is not synced\n{text}", named.display());
    }
}

/// A layer goes in the order in which no power loss leaves a record of nothing: tree, then record, each name synced.
#[test]
fn a_layer_goes_before_its_record() {
    if !may_trace("the order of a removal was NOT checked") {
        return;
    }
    let sandbox = Sandbox::new();
    let [stays, goes] = [0, 1].map(|seed| Layer::of(&[file("f", noise(seed, 1000))]));
    let mut set = BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&stays)));
    let manifest = set.image(&Image::new(std::slice::from_ref(&goes)));
    set.tag("team/app:2", &manifest);
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let log = sandbox.root().join("calls");
    let calls = "trace=fsync,renameat,renameat2,unlink,unlinkat";
    let msb = env!("CARGO_BIN_EXE_msb-sync");
    let arguments =
        ["-f", "-y", "-s", "300", "-e", calls, "-o", log.to_str().unwrap(), msb, "apply", "--prune"];
    sandbox.program("strace", &arguments).run().success();
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines = text.lines();
    let (store, digest) = (sandbox.layers(), goes.digest());
    let steps: [&[&str]; 7] = [
        &["unlink(", "oci.db-journal"],
        &["fsync(", &format!("<{}>", sandbox.home().display())],
        &["rename", &format!("{digest}.extracted"), "removed-"],
        &["fsync(", &format!("<{}>", store.display())],
        &["unlinkat(", "/records>", &digest],
        &["fsync(", "/records>"],
        &["unlinkat(", "removed-"],
    ];
    for step in steps {
        let found = lines.any(|line| step.iter().all(|part| line.contains(part)));
        assert!(found, "{step:?} is not in its place\n{text}");
    }
}

/// A removal that dies between the layer and its record is finished by the next run.
#[test]
fn a_removal_that_dies_leaves_no_record_of_nothing() {
    if !may_trace("removals that die were NOT checked") {
        return;
    }
    let sandbox = Sandbox::new();
    let [stays, goes] = [0, 1].map(|seed| Layer::of(&[file("f", noise(seed, 1000))]));
    let mut set = BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&stays)));
    let manifest = set.image(&Image::new(std::slice::from_ref(&goes)));
    set.tag("team/app:2", &manifest);
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let records = sandbox.home().join(".layers.msb-sync/records");
    let kill = ["-f", "-qq", "-o", "/dev/null", "-P", records.to_str().unwrap()];
    let mut arguments = kill.to_vec();
    arguments.extend(["-e", "inject=unlinkat:signal=KILL", env!("CARGO_BIN_EXE_msb-sync"), "prune"]);
    sandbox.program("strace", &arguments).run();
    assert_eq!(sandbox.extracted(), [stays.directory()], "it did not die where it should");
    // The kill comes after the call, or before; and so may a power loss.
    std::fs::write(records.join(goes.digest()), "").unwrap();
    sandbox.msb("prune").run().success();
    let left: Vec<_> = std::fs::read_dir(records).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [stays.digest().as_str()]);
}
