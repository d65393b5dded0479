//! The power goes at any moment: whatever was told as done is there afterwards, with all its layers, nothing half done
//! looks done, and the next run goes on from there.
//!
//! Home and layers lie on two disks, each with an ext4, that remember every write and every flush
//! ([`RecordedDisk`]). Some runs are made once; then each cut makes the disks that a power loss would have left, mounts
//! them, and asks the program. It takes root, FUSE and loop devices; where they are missing the test says so. All of it
//! happens in a mount namespace of its own, which goes with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::recorded_disk::{Loss, RecordedDisk, Recording};
use crate::support::sandbox::{Output, Run, Sandbox};
use crate::support::tree::{Tree, unpack};
use crate::support::{path, sha256};

/// Set for the process that has the namespace.
const INSIDE: &str = "MSB_SYNC_TEST_POWER_LOSS_INSIDE";
const SEED: &str = "MSB_SYNC_TEST_SEED";
/// Cuts at moments that are drawn from a seed, beside those right after something was told, at least.
const DRAWN: usize = 10;
/// Cuts in all, at least: on a slow machine much is told in one moment.
const CUTS: usize = 30;
/// Bytes of each disk. Each cut copies both, so they are little larger than what is on them.
const SIZES: [usize; 2] = [16 << 20, 16 << 20];
const NAMES: [&str; 6] = ["app:a", "app:b", "app:c", "app:d", "app:e", "app:f"];

#[test]
fn what_was_told_as_done_outlives_a_power_loss() {
    in_a_namespace("power_loss::what_was_told_as_done_outlives_a_power_loss", "");
}

#[test]
fn kept_blobs_outlive_a_power_loss() {
    in_a_namespace("power_loss::kept_blobs_outlive_a_power_loss", "settings.blobs = \"keep\"\n");
}

/// Runs the test in a mount namespace of its own, its images files with these settings.
fn in_a_namespace(test: &str, settings: &'static str) {
    if std::env::var_os(INSIDE).is_some() {
        return inside(settings);
    }
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let said = match &output {
        Ok(output) => [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat(),
        Err(error) => error.to_string(),
    };
    if said.contains("power losses: checked") {
        assert!(output.unwrap().status.success(), "{said}");
    } else if said.contains("panicked") {
        panic!("{said}");
    } else {
        let why = said.lines().find(|line| line.contains("NOT checked")).unwrap_or(&said).to_owned();
        say(&format!("needs root, FUSE and loop devices: power losses were NOT checked: {why}"));
    }
}

/// Is seen without `--nocapture` too.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What became of an image, between which moments.
struct Change {
    begun: usize,
    told: usize,
    /// Its digest; `None`: not recorded.
    state: Option<String>,
}

struct World {
    sandbox: Sandbox,
    settings: &'static str,
    registry: FakeRegistry,
    recording: Arc<Recording>,
    /// What the disks held at first.
    fresh: [Vec<u8>; 2],
    changes: BTreeMap<String, Vec<Change>>,
    /// What the images file said from when on.
    files: Vec<(usize, Vec<&'static str>)>,
    /// A layer's directory that the test itself took away, and from when until when it may be missing.
    taken: Option<(String, usize, usize)>,
    expected: BTreeMap<String, Tree>,
}

fn inside(settings: &'static str) {
    let sandbox = Sandbox::in_memory();
    if let Err(error) = Command::new("mkfs.ext4").arg("-V").env("PATH", path()).output() {
        say(&format!("power losses were NOT checked: mkfs.ext4: {error}"));
        return;
    }
    let fresh = SIZES.map(|size| fresh_file_system(&sandbox, size));
    let recording = Arc::new(Recording::default());
    let mut disks = Vec::new();
    for (number, content) in fresh.iter().enumerate() {
        let place = sandbox.root().join(format!("recorded-{number}"));
        match RecordedDisk::start(&recording, number, content.clone(), &place) {
            Ok(disk) => disks.push(disk),
            Err(error) => {
                say(&format!("power losses were NOT checked: {error}"));
                return;
            }
        }
    }
    let mut world = World {
        registry: FakeRegistry::start(BlobSet::default()),
        sandbox,
        settings,
        recording,
        fresh,
        changes: BTreeMap::new(),
        files: Vec::new(),
        taken: None,
        expected: BTreeMap::new(),
    };
    for (number, disk) in disks.iter().enumerate() {
        std::fs::create_dir(world.place(number)).unwrap();
        if let Err(error) = world.mount(number, &disk.file()) {
            say(&format!("power losses were NOT checked: {error}"));
            return;
        }
    }
    world.live();
    let end = world.recording.now();
    for number in 0..2 {
        world.unmount(number);
    }
    drop(disks);
    world.cut_everywhere(end);
    say("power losses: checked");
}

fn fresh_file_system(sandbox: &Sandbox, size: usize) -> Vec<u8> {
    let path = sandbox.root().join("fresh");
    std::fs::write(&path, vec![0; size]).unwrap();
    // All at once: a kernel thread that does it later would write in between.
    let options = ["-q", "-F", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    sandbox.program("mkfs.ext4", &[&options[..], &[path.to_str().unwrap()]].concat()).run().success();
    let content = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    content
}

impl World {
    fn place(&self, number: usize) -> PathBuf {
        self.sandbox.root().join(["home-disk", "layers-disk"][number])
    }

    fn home(&self) -> PathBuf {
        self.place(0).join("home")
    }

    fn layers(&self) -> PathBuf {
        self.place(1).join("layers")
    }

    fn mount(&self, number: usize, image: &Path) -> Result<(), String> {
        let (image, place) = (image.to_str().unwrap(), self.place(number));
        let arguments = ["-t", "ext4", "-o", "loop", image, place.to_str().unwrap()];
        let output = self.sandbox.program("mount", &arguments).run();
        if output.status.success() { Ok(()) } else { Err(output.stderr) }
    }

    fn unmount(&self, number: usize) {
        self.sandbox.program("umount", &[self.place(number).to_str().unwrap()]).run().success();
    }

    fn msb(&self, arguments: &str) -> Run {
        self.sandbox.msb(&format!("{arguments} --home")).arg(self.home())
    }

    // ------------------------------------------------------------------------------------- before the cut

    /// A new meaning of a tag: a layer that all have and one of its own.
    fn push(&mut self, name: &str, version: u64) {
        let layer = |seed: u64, size: usize| {
            let small = (0..8).map(|number| file(format!("f{number}"), noise(seed + number, 500)));
            let items: Vec<_> = small.chain([file("big", noise(seed, size))]).collect();
            Layer::packed(&tar(&items), Pack::Plain)
        };
        let number = NAMES.iter().position(|other| *other == name).unwrap() as u64;
        let layers = [layer(1, 40_000), layer(100 * version + 10 * number, 90_000)];
        for layer in &layers {
            self.expected.insert(layer.directory(), Tree::expected(&unpack(&layer.blob)));
        }
        self.registry.edit(|content| {
            let image = content.image(&Image::new(&layers));
            content.tag(name, &image);
        });
    }

    fn digest(&self, name: &str) -> String {
        self.registry.edit(|content| content.tags[name].clone())
    }

    fn want(&mut self, names: &[&'static str]) {
        self.files.push((self.recording.now(), names.to_vec()));
        self.write_images(names);
    }

    fn write_images(&self, names: &[&str]) {
        let layers = format!("settings.layers = {:?}\n", self.layers().to_str().unwrap());
        let settings = format!("{layers}{}", self.settings);
        self.sandbox.images(&format!("{settings}{}", wanted(&self.registry.name(), names)));
    }

    /// Runs a command, and takes note of what it tells, and when.
    fn tell(&mut self, arguments: &str) {
        let begun = self.recording.now();
        let mut running = self.msb(&format!("{arguments} --json")).spawn();
        let mut told = 0;
        loop {
            let ended = running.ended();
            let text = running.stdout();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            let now = self.recording.now();
            if arguments.starts_with("apply") {
                for line in text[told..whole].lines() {
                    self.hear(&serde_json::from_str(line).unwrap(), begun, now);
                }
                told = whole;
            }
            if ended {
                break;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        let now = self.recording.now();
        let output = running.wait().success();
        if !arguments.starts_with("apply") {
            for image in output.json()["images"].as_array().into_iter().flatten() {
                if image["stays"] == false {
                    self.change(image, begun, now, None);
                }
            }
        }
    }

    fn hear(&mut self, event: &Value, begun: usize, told: usize) {
        assert_ne!(event["status"], "failed", "{event}");
        match event["action"].as_str() {
            Some("add" | "update" | "repair") => {
                let name = event["reference"].as_str().unwrap().rsplit('/').next().unwrap();
                self.change(event, begun, told, Some(self.digest(name)));
            }
            Some("remove") => self.change(event, begun, told, None),
            _ => {}
        }
    }

    fn change(&mut self, image: &Value, begun: usize, told: usize, state: Option<String>) {
        let name = image["reference"].as_str().unwrap().rsplit('/').next().unwrap();
        self.changes.entry(name.to_owned()).or_default().push(Change { begun, told, state });
    }

    /// Some runs of all kinds.
    fn live(&mut self) {
        for name in NAMES {
            self.push(name, 1);
        }
        self.want(&["app:a", "app:b"]);
        self.tell("apply");
        self.want(&["app:a", "app:b", "app:c", "app:d"]);
        self.tell("apply");
        self.push("app:a", 2);
        self.push("app:c", 2);
        self.tell("apply --prune");
        self.want(&["app:a", "app:c", "app:e"]);
        self.tell("apply --prune");
        self.tell(&format!("forget {}/app:c", self.registry.name()));
        self.tell("apply");
        self.take_away_and_repair();
        self.want(&["app:a"]);
        self.tell("prune");
        self.want(&NAMES);
        self.tell("apply");
        let all: BTreeSet<&str> = self.changes.keys().map(String::as_str).collect();
        assert_eq!(all.len(), NAMES.len());
    }

    fn take_away_and_repair(&mut self) {
        let listed = self.msb("list --json").run().success().json();
        let layer = listed["images"][0]["layers"][1]["path"].as_str().unwrap().to_owned();
        let from = self.recording.now();
        std::fs::remove_dir_all(&layer).unwrap();
        self.msb("verify --repair").run().success();
        let name = Path::new(&layer).file_name().unwrap().to_str().unwrap().to_owned();
        self.taken = Some((name, from, self.recording.now()));
    }

    // -------------------------------------------------------------------------------------- after the cut

    /// Cuts right after each thing that was told, with all unwritten data lost, and at drawn moments, with some of it.
    fn cut_everywhere(&self, end: usize) {
        let mut moments: BTreeSet<usize> =
            self.changes.values().flatten().map(|change| change.told).collect();
        moments.extend(self.taken.iter().map(|(_, _, until)| *until));
        let seed = std::env::var(SEED).map_or(1, |seed| seed.parse().unwrap());
        let mut cuts: Vec<(usize, Loss)> = moments.iter().map(|moment| (*moment, Loss::All)).collect();
        cuts.extend((0..).zip(&moments).map(|(number, moment)| (*moment, Loss::Some(seed + number))));
        let drawn = noise(seed, DRAWN.max(CUTS.saturating_sub(cuts.len())) * 4);
        cuts.extend((0..).zip(drawn.chunks(4)).map(|(number, bytes)| {
            let at = u32::from_le_bytes(bytes.try_into().unwrap());
            (usize::try_from(at).unwrap() % end, Loss::Some(seed + 1000 + number))
        }));
        assert!(cuts.len() >= CUTS, "only {} cuts", cuts.len());
        say(&format!("{} cuts of {end} writes and flushes, {SEED}={seed}", cuts.len()));
        let mut wrong = Vec::new();
        for (moment, loss) in &cuts {
            for number in 0..2 {
                let content = self.recording.after_loss(number, self.fresh[number].clone(), *moment, *loss);
                let image = self.sandbox.root().join(format!("cut-{number}"));
                std::fs::write(&image, content).unwrap();
                self.mount(number, &image).unwrap();
            }
            if let Err(what) = self.check(*moment) {
                wrong.push(format!("power lost at {moment}, {loss:?}: {what}"));
            }
            for number in 0..2 {
                self.unmount(number);
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {} cuts, {SEED}={seed}:\n{}",
            wrong.len(),
            cuts.len(),
            wrong.join("\n")
        );
    }

    fn check(&self, moment: usize) -> Result<(), String> {
        let recorded = self.recorded();
        for name in NAMES {
            let changes = self.changes.get(name).map_or(&[][..], Vec::as_slice);
            let told = changes.iter().rfind(|change| change.told <= moment);
            let under_way = changes.iter().find(|change| change.begun <= moment && moment < change.told);
            let mut allowed = vec![told.and_then(|change| change.state.clone())];
            allowed.extend(under_way.map(|change| change.state.clone()));
            let found = recorded.get(name).cloned();
            if !allowed.contains(&found) {
                return Err(format!("{name} is {found:?}, and not one of {allowed:?}"));
            }
        }
        let taken = self.taken.as_ref().filter(|(_, from, until)| (*from..*until).contains(&moment));
        self.check_layers(taken.map(|(name, ..)| name.as_str()))?;
        let verified = self.msb("verify --json").run();
        for layer in verified.json()["layers"].as_array().unwrap() {
            let ours = taken.is_some_and(|(name, ..)| layer["path"].as_str().unwrap().ends_with(name));
            if layer["status"] != "ok" && !ours {
                return Err(format!("a recorded image lacks a layer: {verified}"));
            }
        }
        for blob in verified.json()["blobs"].as_array().unwrap() {
            if blob["status"] != "ok" {
                return Err(format!("a recorded image lacks a kept blob: {verified}"));
            }
        }
        self.check_blobs()?;
        self.check_convergence(moment)
    }

    /// The kept blobs are a layout whose index names whole images alone, and each blob that has its name is whole.
    /// Returns all of them, and the names in the index.
    fn check_blobs(&self) -> Result<(BTreeSet<String>, BTreeSet<String>), String> {
        let root = self.home().join("blobs");
        if !root.exists() {
            return Ok((BTreeSet::new(), BTreeSet::new()));
        }
        let read = |name: &str| std::fs::read(root.join(name)).map_err(|error| format!("{name}: {error}"));
        if read("oci-layout")? != br#"{"imageLayoutVersion":"1.0.0"}"# {
            return Err("oci-layout is not whole".to_owned());
        }
        let parse =
            |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).map_err(|error| error.to_string());
        let index = parse(read("index.json")?)?;
        let kept: BTreeSet<String> = names_in(&root.join("blobs/sha256"))
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .map(|name| format!("sha256:{name}"))
            .collect();
        let blob = |digest: &Value| read(&format!("blobs/{}", digest.as_str().unwrap().replace(':', "/")));
        for digest in &kept {
            if sha256(&blob(&Value::from(digest.as_str()))?) != *digest {
                return Err(format!("the kept blob {digest} has other bytes"));
            }
        }
        let mut named = BTreeSet::new();
        for entry in index["manifests"].as_array().unwrap() {
            let manifest = parse(blob(&entry["digest"])?)?;
            let layers = manifest["layers"].as_array().unwrap();
            for part in layers.iter().chain([&manifest["config"]]) {
                blob(&part["digest"])?;
            }
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
            named.insert(name.rsplit('/').next().unwrap().to_owned());
        }
        Ok((kept, named))
    }

    fn recorded(&self) -> BTreeMap<String, String> {
        let listed = self.msb("list --json").run().success().json();
        let entry = |image: &Value| {
            let name = image["reference"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            (name, image["digest"].as_str().unwrap().to_owned())
        };
        listed["images"].as_array().unwrap().iter().map(entry).collect()
    }

    /// Each layer that has its name is whole.
    fn check_layers(&self, but: Option<&str>) -> Result<(), String> {
        for name in names_in(&self.layers()) {
            if name.ends_with(".extracted") && Some(name.as_str()) != but {
                let differences = self.expected[&name].differences(&Tree::of(&self.layers().join(&name)));
                if !differences.is_empty() {
                    return Err(format!("{name} is not whole: {differences:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_convergence(&self, moment: usize) -> Result<(), String> {
        let (_, names) = self.files.iter().rfind(|(from, _)| *from <= moment).unwrap_or(&self.files[0]);
        self.write_images(names);
        let failed = |output: &Output| format!("it does not converge: {output}");
        for arguments in ["apply --json", "verify --json", "prune --json", "verify --json"] {
            let output = self.msb(arguments).run();
            if !output.status.success() {
                return Err(failed(&output));
            }
        }
        let recorded = self.recorded();
        let expected: BTreeMap<String, String> =
            names.iter().map(|name| ((*name).to_owned(), self.digest(name))).collect();
        if recorded != expected {
            return Err(format!("it ends with {recorded:?}, and not with {expected:?}"));
        }
        self.check_layers(None)?;
        // One whose home nobody finds would keep every layer for ever.
        let mut claims = names_in(&self.place(1).join(".layers.msb-sync/homes"));
        // Beside each lies the home that it was made for.
        claims.retain(|name| !name.contains('.'));
        if claims.len() != 1 {
            return Err(format!("the layers have the claims {claims:?}"));
        }
        if !self.settings.is_empty() {
            let (kept, named) = self.check_blobs()?;
            let expected = self.blobs_of(expected.values());
            if kept != expected {
                return Err(format!("it keeps {kept:?}, and not {expected:?}"));
            }
            if named.iter().ne(recorded.keys()) {
                return Err(format!("its index names {named:?}, and not {:?}", recorded.keys()));
            }
        }
        let private = self.place(1).join(".layers.msb-sync");
        let layers = names_in(&self.layers());
        for record in names_in(&private.join("records")) {
            if !layers.contains(&format!("{record}.extracted")) {
                return Err(format!("{record} is a record of nothing"));
            }
        }
        match names_in(&private.join("staging")).first() {
            Some(left) => Err(format!("{left} is left in staging")),
            None => Ok(()),
        }
    }
}

impl World {
    /// The blobs of images with these manifests.
    fn blobs_of<'a>(&self, manifests: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
        let mut blobs = BTreeSet::new();
        for digest in manifests {
            let manifest: Value =
                self.registry.edit(|content| serde_json::from_slice(&content.blobs[digest]).unwrap());
            let layers = manifest["layers"].as_array().unwrap();
            let parts = layers.iter().chain([&manifest["config"]]);
            blobs.extend(parts.map(|part| part["digest"].as_str().unwrap().to_owned()));
            blobs.insert(digest.clone());
        }
        blobs
    }
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
