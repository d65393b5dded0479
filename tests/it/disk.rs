//! Disks that are full, read-only or not what they should be: a clear error, nothing half, and a next run that goes on
//! where this one stopped.
//!
//! Small file systems are tmpfs in a mount namespace of their own, which goes with the process that holds it. Where
//! the test may not make one it says so, and that case is not checked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink as make_symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Item, Layer, Pack, file, noise, tar};
use crate::support::may_trace;
use crate::support::sandbox::{Output, Run, Sandbox};

/// Mounts the tmpfs and holds it until stdin ends.
const SCRIPT: &str = "mount -t tmpfs -o \"$1\" msb-test \"$0\" && echo ready && exec cat";

/// A tmpfs at some place, seen by the programs that are run in it.
struct SmallDisk {
    holder: Child,
    place: PathBuf,
    user_namespace: bool,
}

impl SmallDisk {
    /// Mounts one with these options of mount(8); `None` (and a word on stderr) where that is not allowed.
    fn at(place: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        for user_namespace in [false, true] {
            let mut holder = Command::new("unshare")
                .args(if user_namespace { &["-r", "-m"][..] } else { &["-m"] })
                .args(["sh", "-c", SCRIPT])
                .arg(place)
                .arg(format!("mode=755,{options}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "ready\n" {
                return Some(Self { holder, place: place.to_owned(), user_namespace });
            }
            holder.wait().unwrap();
        }
        let _ = writeln!(std::io::stderr(), "may not mount a tmpfs: full disks were NOT checked");
        None
    }

    /// A program that sees it.
    fn program(&self, sandbox: &Sandbox, arguments: &[&str]) -> Run {
        let pid = self.holder.id().to_string();
        let work = format!("--wd={}", sandbox.work().display());
        // A mount namespace is entered at its own root; a chroot of these tests is below that.
        let mut all = vec!["-t", &pid, "-m", "-r", &work];
        if self.user_namespace {
            all.extend(["-U", "--preserve-credentials"]);
        }
        all.push("--");
        all.extend(arguments);
        sandbox.program("nsenter", &all)
    }

    /// `msb-sync` that sees it.
    fn msb(&self, sandbox: &Sandbox, arguments: &str) -> Run {
        let mut all = vec![env!("CARGO_BIN_EXE_msb-sync")];
        all.extend(arguments.split_whitespace());
        self.program(sandbox, &all)
    }

    /// Changes its options.
    fn remount(&self, sandbox: &Sandbox, options: &str) {
        let options = format!("remount,{options}");
        self.program(sandbox, &["mount", "-o", &options, self.place.to_str().unwrap()]).run().success();
    }

    /// The path under which this process sees what is at `path` there.
    fn path(&self, path: &Path) -> PathBuf {
        let mut seen = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        seen.push(path.strip_prefix("/").unwrap());
        seen
    }

    /// Names in a directory there, sorted; none if there is no such directory.
    fn names(&self, path: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn listed(&self, sandbox: &Sandbox) -> Vec<Value> {
        let output = self.msb(sandbox, "list --json").run().success();
        output.json()["images"].as_array().unwrap().clone()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its stdin closes with it; the kill is for a holder that hangs.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn errors(output: &Output) -> Vec<Value> {
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|event| event["status"] == "failed").map(|event| event["error"].clone()).collect()
}

fn serve(sandbox: &Sandbox, settings: &str, layers: &[Layer]) -> FakeRegistry {
    let mut set = BlobSet::default();
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let manifest = set.image(&Image::new(std::slice::from_ref(layer)));
        names.push(format!("team/app:{number}"));
        set.tag(&names[number], &manifest);
    }
    let registry = FakeRegistry::start(set);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &names)));
    registry
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_fetched_and_stops_no_other_image() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=5m") else { return };
    // Each of the big ones fits alone, both together do not: their image is given up as a whole.
    let layer = |seed, size| Layer::packed(&tar(&[file("f", noise(seed, size))]), Pack::Plain);
    let (big, small) = ([layer(0, 3 << 20), layer(1, 3 << 20)], layer(2, 10_000));
    let mut set = BlobSet::default();
    for (name, layers) in [("team/app:big", &big[..]), ("team/app:small", std::slice::from_ref(&small))] {
        let manifest = set.image(&Image::new(layers));
        set.tag(name, &manifest);
    }
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["team/app:big", "team/app:small"]));
    let output = disk.msb(&sandbox, "apply").run().code(1);
    for said in ["6.0 MiB (6306304 bytes)", "bytes) are free", "4.", "MiB", "hint: free some space"] {
        assert!(output.stderr.contains(said), "does not say {said}\n{output}");
    }
    assert!(big.iter().all(|layer| registry.sent(&layer.digest()) == 0), "{output}");
    assert_eq!(disk.listed(&sandbox).len(), 1);
    disk.remount(&sandbox, "size=40m");
    disk.msb(&sandbox, "apply").run().success();
    assert_eq!(disk.listed(&sandbox).len(), 2);
}

#[test]
fn downloads_that_cannot_fit_are_refused_too() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=2m") else { return };
    let layer = Layer::packed(&tar(&[file("f", noise(1, 3 << 20))]), Pack::Plain);
    let _registry = serve(&sandbox, "[settings]\nlayers = \"layers\"\n", &[layer]);
    disk.msb(&sandbox, "apply").run().code(1).says("downloads: 3.0 MiB");
    disk.remount(&sandbox, "size=4m");
    disk.msb(&sandbox, "apply").run().success();
}

#[test]
fn a_disk_that_fills_up_while_extracting_loses_nothing() {
    for (what, options, more, big) in [
        ("bytes", "size=12m", "size=80m", vec![file("zeros", vec![0; 30 << 20]), file("f", "x")]),
        (
            "inodes",
            "size=12m,nr_inodes=200",
            "size=12m,nr_inodes=2000",
            (0..500).map(|number| file(format!("f{number}"), "x")).collect::<Vec<Item>>(),
        ),
    ] {
        let sandbox = Sandbox::new();
        let Some(disk) = SmallDisk::at(&sandbox.home(), options) else { return };
        let (small, big) = (Layer::of(&[file("small", "x")]), Layer::of(&big));
        let registry = serve(&sandbox, "", &[small.clone(), big.clone()]);
        let both = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
        sandbox.images(&wanted(&registry.name(), &["team/app:0"]));
        disk.msb(&sandbox, "apply").run().success();
        sandbox.images(&both);
        let output = disk.msb(&sandbox, "apply --json").run().code(1);
        let errors = errors(&output);
        assert_eq!(errors.len(), 1, "{what}\n{output}");
        assert_eq!(errors[0]["kind"], "disk-full", "{what}\n{output}");
        assert!(errors[0]["message"].as_str().unwrap().contains(&big.digest()), "{what}\n{output}");
        assert!(errors[0]["hint"].as_str().unwrap().contains("free some space"), "{what}\n{output}");
        assert_eq!(disk.names(&sandbox.layers()), [small.directory()], "{what}");
        assert_eq!(disk.names(&sandbox.home().join(".layers.msb-sync/staging")), [""; 0], "{what}");
        assert_eq!(disk.listed(&sandbox).len(), 1, "{what}");
        registry.forget();
        disk.remount(&sandbox, more);
        disk.msb(&sandbox, "apply").run().success();
        assert_eq!(registry.sent(&big.digest()), 0, "{what}: what had arrived was fetched again");
        let blobs = registry.edit(|content| content.blobs.clone());
        for mut image in disk.listed(&sandbox) {
            for layer in image["layers"].as_array_mut().unwrap() {
                let seen = disk.path(Path::new(layer["path"].as_str().unwrap()));
                layer["path"] = seen.to_str().unwrap().into();
            }
            assert_exact(&image, &|digest| blobs[digest].to_vec());
        }
    }
}

#[test]
fn a_disk_that_fills_up_while_downloading_keeps_what_arrived() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=3m") else { return };
    let layers: Vec<Layer> =
        (0..2).map(|seed| Layer::packed(&tar(&[file("f", noise(seed, 2 << 20))]), Pack::Plain)).collect();
    let registry = serve(&sandbox, "[settings]\nlayers = \"layers\"\n", &layers);
    // At the same speed, so that both are half there when the disk is full.
    for layer in &layers {
        registry.fail(1, &layer.digest(), &Fault::slow(2 << 20));
    }
    let output = disk.msb(&sandbox, "apply --json").run().code(1);
    let errors = errors(&output);
    assert!(!errors.is_empty() && errors.iter().all(|error| error["kind"] == "disk-full"), "{output}");
    assert!(errors[0]["message"].as_str().unwrap().contains("downloads"), "{output}");
    let kept: u64 = disk
        .names(&sandbox.home().join("downloads"))
        .iter()
        .map(|name| disk.path(&sandbox.home().join("downloads").join(name)).metadata().unwrap().len())
        .sum();
    assert!(kept > 500_000, "only {kept} bytes were kept\n{output}");
    registry.forget();
    disk.remount(&sandbox, "size=8m");
    disk.msb(&sandbox, "apply").run().success();
    let whole: u64 = layers.iter().map(|layer| layer.blob.len() as u64).sum();
    assert!(registry.sent("/blobs/") < whole, "what had arrived was fetched again");
    assert_eq!(disk.names(&sandbox.home().join("downloads")), [""; 0]);
    assert_eq!(disk.listed(&sandbox).len(), 2);
}

#[test]
fn a_disk_that_is_full_for_the_catalog_is_told_and_nothing_is_fetched_again() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=64k") else { return };
    let layers: Vec<Layer> = (0..2).map(|seed| Layer::of(&[file("f", noise(seed, 1000))])).collect();
    let registry = serve(&sandbox, "[settings]\nlayers = \"layers\"\n", &layers);
    let output = disk.msb(&sandbox, "apply --json").run().code(1);
    assert!(output.stdout.contains("disk-full") || output.stderr.contains("no space left"), "{output}");
    assert!(!output.stderr.contains("panicked"), "{output}");
    disk.remount(&sandbox, "size=1m");
    disk.msb(&sandbox, "apply").run().success();

    // Full just before the last step: the layer is there, its row is not.
    let mut set = registry.edit(|content| content.clone());
    let labels: Value =
        (0..300).map(|number| (format!("label-{number}"), Value::from("x".repeat(500)))).collect();
    let third = Layer::of(&[file("third", "x")]);
    let image = Image::new(std::slice::from_ref(&third)).config(serde_json::json!({"Labels": labels}));
    let manifest = set.image(&image);
    set.tag("team/app:2", &manifest);
    registry.edit(|content| *content = set);
    let filler = disk.path(&sandbox.home().join("filler"));
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    // Room for the spool and a journal, not for the labels.
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(48 * 1024)).unwrap();
    let text = wanted(&registry.name(), &["team/app:0", "team/app:1", "team/app:2"]);
    sandbox.images(&format!("[settings]\nlayers = \"layers\"\n{text}"));
    let output = disk.msb(&sandbox, "apply --json").run().code(1);
    let errors = errors(&output);
    assert_eq!(errors.len(), 1, "{output}");
    assert_eq!(errors[0]["kind"], "disk-full", "{output}");
    assert_eq!(disk.listed(&sandbox).len(), 2);
    // An open file keeps its space.
    drop(file);
    std::fs::remove_file(filler).unwrap();
    registry.forget();
    let output = disk.msb(&sandbox, "apply --json").run().success();
    assert_eq!(output.summary()["downloaded_bytes"], 0, "{output}");
    assert_eq!(disk.listed(&sandbox).len(), 3);
}

/// No row can be forgotten on a full disk; room is made by what no row needs.
#[test]
fn prune_frees_a_full_disk() {
    for download in [true, false] {
        let sandbox = Sandbox::new();
        let Some(disk) = SmallDisk::at(&sandbox.home(), "size=8m") else { return };
        let layers: Vec<Layer> = (0..2).map(|seed| Layer::of(&[file("f", noise(seed, 1000))])).collect();
        let registry = serve(&sandbox, "", &layers);
        disk.msb(&sandbox, "apply").run().success();
        let (digest, room) = (format!("sha256:{}", "a".repeat(64)), vec![1; 1 << 20]);
        let unneeded = if download {
            sandbox.home().join("downloads").join(format!("{digest}.part"))
        } else {
            let layer = sandbox.layers().join(format!("{digest}.extracted"));
            std::fs::create_dir(disk.path(&layer)).unwrap();
            let record = sandbox.home().join(".layers.msb-sync/records").join(&digest);
            std::fs::write(disk.path(&record), "").unwrap();
            layer.join("f")
        };
        std::fs::write(disk.path(&unneeded), room).unwrap();
        fill(&disk, &sandbox);
        sandbox.images(&wanted(&registry.name(), &["team/app:0"]));
        let output = disk.msb(&sandbox, "prune").run().success();
        assert!(!disk.path(&unneeded).exists(), "{output}");
        assert_eq!(disk.listed(&sandbox).len(), 1, "{output}");
        assert_eq!(disk.names(&sandbox.layers()), [layers[0].directory()], "{output}");
        assert_eq!(output.stdout.contains("partial download"), download, "{output}");
    }
}

/// Fills it up to the last byte.
fn fill(disk: &SmallDisk, sandbox: &Sandbox) {
    let mut file = std::fs::File::create(disk.path(&sandbox.home().join("filler"))).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

/// The index of the kept blobs is a new file, for which there is no room either.
#[test]
fn prune_frees_a_full_disk_of_kept_blobs() {
    for images in [&["team/app:0", "team/app:1"][..], &["team/app:0"]] {
        let sandbox = Sandbox::new();
        let Some(disk) = SmallDisk::at(&sandbox.home(), "size=8m") else { return };
        let layers: Vec<Layer> = (0..2).map(|seed| Layer::of(&[file("f", noise(seed, 300_000))])).collect();
        let registry = serve(&sandbox, "[settings]\nblobs = \"keep\"\n", &layers);
        disk.msb(&sandbox, "apply").run().success();
        sandbox.images(&wanted(&registry.name(), &["team/app:0", "team/app:1"]));
        disk.msb(&sandbox, "apply").run().success();
        sandbox.images(&wanted(&registry.name(), images));
        fill(&disk, &sandbox);
        let output = disk.msb(&sandbox, "prune").run().success();
        assert!(disk.names(&sandbox.home().join("blobs/blobs/sha256")).is_empty(), "{output}");
        assert!(disk.names(&sandbox.home().join("blobs")).contains(&"index.json".to_owned()), "{output}");
        assert!(!output.stderr.contains("warning"), "{output}");
        assert_eq!(disk.listed(&sandbox).len(), images.len(), "{output}");
        assert_eq!(disk.names(&sandbox.layers()).len(), images.len(), "{output}");
        let output = disk.msb(&sandbox, "prune").run().success();
        assert_eq!(output.stdout, "Nothing to remove.\n");
    }
}

/// The run has nothing to bring, and so it may take what it left behind before it forgets.
#[test]
fn apply_that_only_removes_frees_a_full_disk() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=8m") else { return };
    let layers: Vec<Layer> = (0..2).map(|seed| Layer::of(&[file("f", noise(seed, 1000))])).collect();
    let registry = serve(&sandbox, "", &layers);
    disk.msb(&sandbox, "apply").run().success();
    let downloads = sandbox.home().join("downloads");
    let part = downloads.join(format!("sha256:{}.part", "a".repeat(64)));
    std::fs::write(disk.path(&part), vec![1; 1 << 20]).unwrap();
    fill(&disk, &sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/app:0"]));
    let output = disk.msb(&sandbox, "apply --prune").run().success();
    assert_eq!(disk.listed(&sandbox).len(), 1, "{output}");
    assert!(disk.names(&downloads).is_empty(), "{output}");
}

/// Calls that fail only on disks that break or fill up at the worst of times, made to fail by strace: the error says
/// what could not be done, nothing is recorded or half there, and the next run finishes the job.
#[test]
fn a_disk_that_fails_in_the_last_steps_is_told_and_the_next_run_goes_on() {
    if !may_trace("failing disks were NOT checked") {
        return;
    }
    let sandbox = Sandbox::new();
    let layer = Layer::of(&[file("d/f", "x"), file("large", noise(1, 200_000))]);
    let registry = serve(&sandbox, "", &[Layer::of(&[file("first", "x")]), layer.clone()]);
    let (home, layers) = (sandbox.home(), sandbox.layers());
    let tree = home.join(".layers.msb-sync/staging").join(layer.digest()).join("tree");
    let spool = home.join("downloads").join(format!("{}.part", layer.digest()));
    // Which calls to fail, those on which file (any, where there is none), the error, its kind and its words.
    for (calls, path, error, kind, said) in [
        ("renameat2", None, "ENOSPC", "disk-full", "rename the finished layer"),
        ("renameat2", None, "EIO", "io", "rename the finished layer"),
        ("syncfs", None, "EIO", "io", "sync"),
        ("syncfs", None, "ENOSPC", "disk-full", "sync"),
        // The first is for the names that dead runs gave.
        ("fsync:when=2", Some(layers.clone()), "EIO", "io", "sync"),
        ("write,pwrite64", Some(spool), "EIO", "io", "downloads"),
        ("write,pwrite64", Some(tree.join("large")), "EIO", "io", "large"),
        ("write,pwrite64", Some(tree.join("d/f")), "EDQUOT", "disk-full", "d/f"),
        ("pwrite64", Some(home.join("oci.db")), "EIO", "catalog-query", "oci.db"),
        ("pwrite64", Some(home.join("oci.db-journal")), "ENOSPC", "disk-full", "oci.db"),
        ("fsync,fdatasync", Some(home.join("oci.db")), "EIO", "catalog-query", "oci.db"),
    ] {
        let what = format!("{error} from {calls} on {path:?}");
        // With a catalog that has its tables.
        let _ = std::fs::remove_dir_all(&home);
        sandbox.images(&wanted(&registry.name(), &["team/app:0"]));
        applied(&sandbox);
        sandbox.images(&wanted(&registry.name(), &["team/app:0", "team/app:1"]));
        let (calls, when) =
            calls.split_once(':').map_or((calls, String::new()), |(calls, when)| (calls, format!(":{when}")));
        let inject = format!("inject={calls}:error={error}{when}");
        let log = sandbox.root().join("calls");
        let mut arguments = vec!["-f", "-o", log.to_str().unwrap(), "-e", &inject];
        let path = path.as_ref().map(|path| path.to_str().unwrap());
        arguments.extend(path.iter().flat_map(|path| ["-P", path]));
        arguments.extend([env!("CARGO_BIN_EXE_msb-sync"), "apply", "--json"]);
        let output = sandbox.program("strace", &arguments).run().code(1);
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("(INJECTED)"), "{what}: the call was not made\n{text}");
        let errors = errors(&output);
        let told = errors.first().unwrap_or_else(|| panic!("{what}: no error\n{output}"));
        assert_eq!(told["kind"], kind, "{what}\n{output}");
        let message = told["message"].as_str().unwrap();
        let place = [home.to_str().unwrap(), &layer.digest()].iter().any(|place| message.contains(place));
        assert!(message.contains(said) && place, "{what}: {message}");
        assert_eq!(told["hint"].is_string(), kind == "disk-full", "{what}\n{output}");
        assert_eq!(listed(&sandbox).len(), 1, "{what}");
        if sandbox.extracted().contains(&layer.directory()) {
            let content = std::fs::read(layers.join(layer.directory()).join("large")).unwrap();
            assert!(content == noise(1, 200_000), "{what}");
        }
        let left = std::fs::read_dir(home.join(".layers.msb-sync/staging")).unwrap().count();
        // A layer that only lacks its name waits for it.
        let waits = calls == "renameat2";
        assert_eq!(left, usize::from(waits), "{what}: a half layer is left");
        registry.forget();
        applied(&sandbox);
        assert!(!waits || registry.sent(&layer.digest()) == 0, "{what}: fetched again");
        assert_eq!(listed(&sandbox).len(), 2, "{what}");
        let content = std::fs::read(layers.join(layer.directory()).join("large")).unwrap();
        assert!(content == noise(1, 200_000), "{what}");
    }
}

/// What `ulimit -f` forbids would kill the process without a word.
#[test]
fn files_that_may_not_grow_so_large_are_told() {
    let layer = Layer::of(&[file("large", noise(1, 400_000))]);
    // In blocks of 512 bytes: too small for the partial download, for the catalog, for anything.
    for (blocks, command) in [(500, "apply"), (60, "apply"), (1, "apply"), (0, "apply"), (0, "lock")] {
        let sandbox = Sandbox::new();
        let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
        let script = format!("ulimit -f {blocks}; exec {} {command}", env!("CARGO_BIN_EXE_msb-sync"));
        let output = sandbox.program("dash", &["-c", &script]).run().code(1);
        assert!(output.stderr.contains("error: "), "{output}");
        assert!(output.stderr.contains("ulimit -f"), "{blocks} blocks\n{output}");
        assert!(!sandbox.work().join("images.lock").exists());
        applied(&sandbox);
        assert_eq!(listed(&sandbox).len(), 1);
    }
}

#[test]
fn a_home_that_is_read_only_can_be_read() {
    let sandbox = Sandbox::new();
    let Some(disk) = SmallDisk::at(&sandbox.home(), "size=20m") else { return };
    let layers: Vec<Layer> = (0..2).map(|seed| Layer::of(&[file("f", seed.to_string())])).collect();
    let registry = serve(&sandbox, "", &layers);
    sandbox.images(&wanted(&registry.name(), &["team/app:0"]));
    disk.msb(&sandbox, "apply").run().success();
    disk.remount(&sandbox, "ro");
    assert_eq!(disk.listed(&sandbox).len(), 1);
    // In sync: nothing is to be written.
    disk.msb(&sandbox, "apply").run().success();
    sandbox.images(&wanted(&registry.name(), &["team/app:0", "team/app:1"]));
    assert_eq!(disk.msb(&sandbox, "plan --json").run().success().json()["changes"], 1);
    let output = disk.msb(&sandbox, "apply").run().code(1);
    assert!(output.stderr.to_lowercase().contains("read-only"), "{output}");
    assert!(
        output.stderr.contains(sandbox.home().to_str().unwrap()) && output.stderr.contains("hint:"),
        "{output}"
    );
    disk.remount(&sandbox, "rw");
    disk.msb(&sandbox, "apply").run().success();
}

#[test]
fn layers_may_lie_on_another_disk_than_downloads() {
    let sandbox = Sandbox::new();
    let place = sandbox.root().join("other");
    let Some(disk) = SmallDisk::at(&place, "size=40m") else { return };
    let layer = Layer::of(&[file("f", noise(1, 1 << 20)), file("g", "x")]);
    for setting in ["../other", "../other/below", "link"] {
        if setting == "link" {
            make_symlink(&place, sandbox.work().join("link")).unwrap();
        }
        let _registry =
            serve(&sandbox, &format!("[settings]\nlayers = {setting:?}\n"), std::slice::from_ref(&layer));
        disk.msb(&sandbox, "apply").run().success();
        let real = if setting == "../other/below" { place.join("below") } else { place.clone() };
        let content = std::fs::read(disk.path(&real).join(layer.directory()).join("g")).unwrap();
        assert_eq!(content, b"x", "{setting}");
    }
    // The disk holds all that is msb-sync's about its layers: nothing is made where only its mount point is.
    assert!(std::fs::read_dir(&place).unwrap().next().is_none());
}

/// As a container engine mounts a volume: the same file system as its surroundings, but nothing can be renamed across.
#[test]
fn layers_may_be_a_bind_mount() {
    let sandbox = Sandbox::new();
    let layer = Layer::of(&[file("f", noise(1, 1 << 20)), file("g", "x")]);
    let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
    let (volume, layers) = (sandbox.root().join("volume"), sandbox.layers());
    for path in [&volume, &layers] {
        std::fs::create_dir_all(path).unwrap();
    }
    let script = "mount --bind \"$0\" \"$1\" || exit 77; exec \"$2\" apply";
    let (volume, layers) = (volume.to_str().unwrap(), layers.to_str().unwrap());
    for namespaces in [&["-m"][..], &["-r", "-m"]] {
        let arguments =
            [namespaces, &["sh", "-c", script, volume, layers, env!("CARGO_BIN_EXE_msb-sync")]].concat();
        let output = sandbox.program("unshare", &arguments).run();
        if output.status.code() == Some(77) || output.stderr.starts_with("unshare: ") {
            continue;
        }
        output.success();
        let there = Path::new(volume).join(layer.directory()).join("g");
        assert_eq!(std::fs::read(there).unwrap(), b"x");
        return;
    }
    let _ = writeln!(std::io::stderr(), "may not mount: bind mounts were NOT checked");
}

#[test]
fn what_is_no_directory_is_named() {
    let layer = Layer::of(&[file("f", "x")]);
    let prepare = |name: &str, settings: &str| {
        let sandbox = Sandbox::new();
        let path = sandbox.user().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let registry = serve(&sandbox, settings, std::slice::from_ref(&layer));
        (sandbox, path, registry)
    };
    for (name, settings) in [
        (".microsandbox", ""),
        (".microsandbox/layers", ""),
        (".microsandbox/downloads", ""),
        (".microsandbox/.layers.msb-sync", ""),
        ("elsewhere", "[settings]\nlayers = \"~/elsewhere\"\n"),
        ("elsewhere", "[settings]\nlayers = \"~/elsewhere/deep/er\"\n"),
    ] {
        let (sandbox, path, registry) = prepare(name, settings);
        let output = sandbox.msb("apply").run().code(1);
        assert!(output.stderr.contains(path.to_str().unwrap()), "{name} is not named\n{output}");
        assert!(output.stderr.contains("director"), "{name}\n{output}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious", "{name}");
        assert_eq!(registry.sent(&layer.digest()), 0, "{name}");
        std::fs::remove_file(path).unwrap();
        applied(&sandbox);
    }
    // Symlinks to directories are the user's choice; dangling ones are named.
    for link in [".microsandbox", ".microsandbox/layers", ".microsandbox/downloads"] {
        let sandbox = Sandbox::new();
        let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
        let path = sandbox.user().join(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        make_symlink("../real", &path).unwrap();
        let target = path.parent().unwrap().join("../real");
        let output = sandbox.msb("apply").run().code(1);
        assert!(output.stderr.contains(link), "{link} is not named\n{output}");
        std::fs::create_dir(&target).unwrap();
        applied(&sandbox);
        assert_eq!(listed(&sandbox).len(), 1);
        assert_eq!(std::fs::read(sandbox.layers().join(layer.directory()).join("f")).unwrap(), b"x");
    }
}
