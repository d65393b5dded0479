//! Random histories against a model: what images files, tags, time, damage, kills, locks, ways back, prunes and removals
//! lead to is what [`wanted::Model`] says, which knows nothing of plans, stores or catalogs.
//!
//! Most steps are calls of the library; some are runs of the program that are killed, after which the same step has
//! to lead where it would have led alone. `MSB_SYNC_MODEL_SEQUENCES=N` runs N histories, `MSB_SYNC_MODEL_SEED=S` the
//! one that a failure names.

mod steps;
mod wanted;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use msb_sync::digest::BlobDigest;
use msb_sync::image_ref::ImageRef;
use msb_sync::sync::{self, ImagesSource, LockRequest, PruneRequest, PullRequest, Request, Session, Upgrade};

use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

use self::steps::{Random, Step};
use self::wanted::{COOLDOWN, Disk, File, IMAGES, Model, Notes, PULL, Policy, Row, Rule, TAGS};

const SEQUENCES: u64 = 250;
const LAYERS: usize = 6;

struct World {
    directory: tempfile::TempDir,
    registry: FakeRegistry,
    layers: Vec<Layer>,
    /// Digest of each image's manifest.
    digests: Vec<String>,
    session: Session,
    random: Random,
}

impl World {
    fn new(seed: u64) -> Self {
        // A `sync` costs nothing in memory, and is no part of what is compared here.
        let directory = tempfile::Builder::new().prefix("msb-model-").tempdir_in(Sandbox::memory()).unwrap();
        let layer = |number: usize| {
            let text = number.to_string();
            Layer::of(&[file(format!("layer-{text}"), &text), file("shared", text)])
        };
        let layers: Vec<Layer> = (0..LAYERS).map(layer).collect();
        let mut content = BlobSet::default();
        let of = |image: &&[usize]| {
            let layers: Vec<Layer> = image.iter().map(|layer| layers[*layer].clone()).collect();
            content.image(&Image::new(&layers)).digest().to_owned()
        };
        let digests = IMAGES.iter().map(of).collect();
        let session = Session {
            jobs: Some(1),
            verb: "model".to_owned(),
            ..Session::new(directory.path().join("home"))
        };
        let registry = FakeRegistry::start(content);
        Self { directory, registry, layers, digests, session, random: Random(seed) }
    }

    fn path(&self, f: usize) -> PathBuf {
        self.directory.path().join(format!("{f}.toml"))
    }

    fn reference(&self, name: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/{name}", self.registry.name()), "docker.io").unwrap()
    }

    fn layer_directory(&self, layer: usize) -> PathBuf {
        self.session.home.join("layers").join(self.layers[layer].directory())
    }

    fn record(&self, layer: usize) -> PathBuf {
        self.session.home.join(".layers.msb-sync/records").join(self.layers[layer].digest())
    }

    fn write(&self, f: usize, file: &File) {
        let entry = |name: &&str| match name.split_once(':').filter(|_| file.cooling.contains(name)) {
            Some((name, tag)) => {
                format!("{{ name = {name:?}, tag = {tag:?}, cooldown = \"{COOLDOWN}h\" }}")
            }
            None => format!("{name:?}"),
        };
        let mut entries: Vec<String> = file.names.iter().map(entry).collect();
        entries.extend(file.selection.map(|Rule { below, newest }| {
            format!("{{ name = \"web\", tags = {{ semver = \">=1, <{below}\", newest = {newest} }} }}")
        }));
        let policy = format!("{:?}", file.policy).to_lowercase();
        let text = format!(
            "[settings]\npull = \"{policy}\"\nownership = \"none\"\n[registry.\"{}\"]\nimages = [{}]\n",
            self.registry.name(),
            entries.join(", ")
        );
        std::fs::write(self.path(f), text).unwrap();
    }

    /// Does a step here and in the model, which must agree on whether it went well.
    fn step(&mut self, step: Step, model: &mut Model) {
        let (expected, killed) = match step {
            Step::Edit(f) => {
                model.files[f] = self.random.file();
                self.write(f, &model.files[f]);
                return;
            }
            Step::Move => {
                let recorded: Vec<&str> = model.rows.keys().copied().collect();
                // Tags that are recorded are worth moving, and between few images.
                let known = !recorded.is_empty() && !self.random.one_in(3);
                let name = self.random.of(if known { &recorded } else { TAGS });
                let image = self.random.below(if known { 3 } else { IMAGES.len() });
                model.tags.insert(name, image);
                self.registry
                    .edit(|content| content.tags.insert(name.to_owned(), self.digests[image].clone()));
                return;
            }
            Step::Untag => {
                let name = self.random.of(TAGS);
                model.tags.remove(name);
                self.registry.edit(|content| content.tags.remove(name));
                return;
            }
            Step::Down(down) => {
                model.up = !down;
                self.registry.behave();
                if down {
                    self.registry.on(|_| Some(Fault::status(403)));
                }
                return;
            }
            Step::Pass(hours) => {
                model.now += hours;
                self.pass(hours);
                return;
            }
            Step::Lose | Step::Damage | Step::Unrecord => {
                self.damage(step, model);
                return;
            }
            Step::Apply { f, locked, .. } if locked && !model.is_covered(f) => (false, false),
            Step::Apply { f, prune, allow_empty, offline, .. } => {
                // With "missing" the tags that a killed run has brought may be enough for the next one.
                let settles = model.files[f].policy == Policy::Missing && model.files[f].selection.is_some();
                let killed = !settles && self.kill_one_in(6, step);
                (model.apply(f, prune, allow_empty, offline), killed)
            }
            Step::Prune { f, allow_empty } => {
                let killed = self.kill_one_in(4, step);
                (model.prune(f, allow_empty), killed)
            }
            Step::Remove(name) => (model.remove(name), false),
            Step::Pull(name) => {
                let killed = self.kill_one_in(4, step);
                let wanted = BTreeMap::from([(name, None)]);
                (model.bring(PULL, &wanted, &File::of(Policy::Always), false).0, killed)
            }
            Step::Lock { f, upgrade } => {
                let killed = self.kill_one_in(6, step);
                (model.lock(f, upgrade), killed)
            }
            Step::Repair => {
                let killed = self.kill_one_in(4, step);
                (model.repair(), killed)
            }
            Step::Rollback(name) => (model.rollback(name), false),
            Step::Release(name) => (model.release(name), false),
        };
        let done = self.call(step);
        assert_eq!(done.is_ok(), expected, "{done:?}");
        if killed {
            self.forgive_extra_layers(model);
        }
        self.compare(model);
        if matches!(step, Step::Prune { .. }) && expected && self.session.home.join("oci.db").exists() {
            let staged = std::fs::read_dir(self.session.home.join(".layers.msb-sync/staging"));
            assert_eq!(staged.map_or(0, Iterator::count), 0, "prune left something of a dead run");
        }
        if let Step::Apply { .. } = step
            && expected
        {
            let (plan, _) = sync::plan(&self.session, &self.request(step)).unwrap();
            assert!(plan.is_empty(), "a second apply would do something: {plan:#?}");
        }
    }

    /// Lets hours pass for all that the catalog and the lockfiles have seen first.
    fn pass(&self, hours: u32) {
        let database = self.session.home.join("oci.db");
        if database.exists() {
            let database = rusqlite::Connection::open(database).unwrap();
            let sql = "UPDATE sync_candidates SET since = since - ?1 * 3600 * 1000";
            database.execute(sql, [hours]).unwrap();
        }
        for path in (0..2).map(|f| self.path(f).with_extension("lock")).filter(|path| path.exists()) {
            let earlier = |line: &str| match line.strip_prefix("since = ") {
                Some(since) => {
                    let since: jiff::Timestamp = since.trim_matches('"').parse().unwrap();
                    format!("since = \"{}\"\n", since - Duration::from_secs(3600 * u64::from(hours)))
                }
                None => format!("{line}\n"),
            };
            let text: String = std::fs::read_to_string(&path).unwrap().lines().map(earlier).collect();
            std::fs::write(path, text).unwrap();
        }
    }

    fn damage(&mut self, step: Step, model: &mut Model) {
        let there: Vec<usize> = model.disk.keys().copied().collect();
        if there.is_empty() {
            return;
        }
        let layer = self.random.of(&there);
        match step {
            Step::Lose => {
                std::fs::remove_dir_all(self.layer_directory(layer)).unwrap();
                model.disk.remove(&layer);
            }
            Step::Damage => {
                let path = self.layer_directory(layer).join("shared");
                std::fs::write(path, "x").unwrap();
                let disk = model.disk.get_mut(&layer).unwrap();
                *disk = if *disk == Disk::Whole { Disk::Edited } else { *disk };
            }
            _ if self.record(layer).exists() => {
                std::fs::remove_file(self.record(layer)).unwrap();
                model.disk.insert(layer, Disk::Unrecorded);
            }
            _ => {}
        }
    }

    fn request(&self, step: Step) -> Request {
        let Step::Apply { f, prune, allow_empty, locked, offline } = step else { panic!("{step:?}") };
        let source = ImagesSource::Path(self.path(f));
        Request { prune, allow_empty, offline, locked, ..Request::of(source) }
    }

    /// Does a step by the library.
    fn call(&self, step: Step) -> Result<(), String> {
        let session = &self.session;
        let source = |f| ImagesSource::Path(self.path(f));
        let (text, done) = match step {
            Step::Apply { .. } => {
                let applied = sync::apply(session, &self.request(step));
                let applied = applied.map_err(|error| error.to_string())?;
                (format!("{:?}", applied.outcome), applied.succeeded())
            }
            Step::Prune { f, allow_empty } => {
                let request = PruneRequest { source: source(f), dry_run: false, allow_empty };
                let pruned = sync::prune(session, &request).map_err(|error| error.to_string())?;
                (format!("{pruned:?}"), true)
            }
            Step::Remove(name) => {
                let removed = sync::forget(session, &[self.reference(name)], false)
                    .map_err(|error| error.to_string())?;
                (format!("{removed:?}"), true)
            }
            Step::Pull(name) => {
                let references = vec![self.reference(name)];
                let pulled = sync::pull(session, &PullRequest { references, ..PullRequest::default() });
                let pulled = pulled.map_err(|error| error.to_string())?;
                (format!("{:?}", pulled.outcome), pulled.succeeded())
            }
            Step::Lock { f, upgrade } => {
                let upgrade = if upgrade { Upgrade::Everything } else { Upgrade::Nothing };
                let locked = sync::lock(session, &LockRequest { source: source(f), upgrade, check: false });
                let locked = locked.map_err(|error| error.to_string())?;
                (format!("{locked:?}"), locked.failed.is_empty())
            }
            Step::Repair => {
                let verified = sync::verify(session, &[], true).map_err(|error| error.to_string())?;
                (format!("{verified:?}"), verified.succeeded())
            }
            Step::Rollback(name) => {
                let back = sync::rollback(session, &self.reference(name), None);
                let back = back.map_err(|error| error.to_string())?;
                (format!("{:?}", back.applied.outcome), back.applied.succeeded())
            }
            Step::Release(name) => {
                let released = sync::release(session, &self.reference(name));
                (String::new(), released.map_err(|error| error.to_string()).is_ok())
            }
            _ => (String::new(), true),
        };
        if done { Ok(()) } else { Err(text) }
    }

    /// Now and then runs the program for this step, and kills it at some instant.
    fn kill_one_in(&mut self, count: usize, step: Step) -> bool {
        if !self.random.one_in(count) {
            return false;
        }
        let mut arguments = match step {
            Step::Apply { f, prune, allow_empty, locked, offline } => {
                let mut arguments = vec!["apply".to_owned(), self.path(f).display().to_string()];
                let flags = [("--prune", prune), ("--allow-empty", allow_empty), ("--locked", locked)];
                for (flag, given) in flags.into_iter().chain([("--offline", offline)]) {
                    arguments.extend(given.then(|| flag.to_owned()));
                }
                arguments
            }
            Step::Prune { f, allow_empty } => {
                let mut arguments = vec!["prune".to_owned(), self.path(f).display().to_string()];
                arguments.extend(allow_empty.then(|| "--allow-empty".to_owned()));
                arguments
            }
            Step::Pull(name) => vec!["pull".to_owned(), self.reference(name).to_string()],
            Step::Lock { f, upgrade } => {
                let mut arguments = vec!["lock".to_owned(), self.path(f).display().to_string()];
                arguments.extend(upgrade.then(|| "--upgrade".to_owned()));
                arguments
            }
            _ => vec!["verify".to_owned(), "--repair".to_owned()],
        };
        arguments.extend(["--home".to_owned(), self.session.home.display().to_string()]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_msb-sync"))
            .args(arguments)
            .env_clear()
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Any instant will do: this is not waiting for anything.
        std::thread::sleep(Duration::from_micros(self.random.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        true
    }

    /// The layers on disk, with whether they have a record.
    fn found(&self) -> BTreeMap<usize, bool> {
        let there = (0..LAYERS).filter(|layer| self.layer_directory(*layer).is_dir());
        there.map(|layer| (layer, self.record(layer).exists())).collect()
    }

    /// After a kill, layers that a replaced image has left may stay until the next prune.
    fn forgive_extra_layers(&self, model: &mut Model) {
        for (layer, recorded) in self.found() {
            let shared = std::fs::read_to_string(self.layer_directory(layer).join("shared"));
            let disk = match (recorded, shared.unwrap()) {
                (false, _) => Disk::Unrecorded,
                (true, content) if content == layer.to_string() => Disk::Whole,
                (true, _) => Disk::Edited,
            };
            model.disk.entry(layer).or_insert(disk);
        }
    }

    fn image(&self, digest: &BlobDigest) -> usize {
        self.digests.iter().position(|other| *other == digest.to_string()).unwrap()
    }

    fn compare(&self, model: &Model) {
        let owner = |owner: &msb_sync::state::Owner| {
            let owners =
                [self.path(0).display().to_string(), self.path(1).display().to_string(), "pull".to_owned()];
            owners.iter().position(|other| *other == owner.0).unwrap()
        };
        let rows: BTreeMap<String, Row> = sync::list(&self.session)
            .unwrap()
            .iter()
            .map(|listed| {
                let image = self.image(listed.image.digest.as_ref().unwrap());
                let layers: Vec<String> =
                    listed.image.layers.iter().map(|layer| layer.digest.to_string()).collect();
                let expected: Vec<String> =
                    IMAGES[image].iter().map(|layer| self.layers[*layer].digest()).collect();
                assert_eq!(layers, expected);
                assert!(listed.image.rows_complete);
                let history = sync::history(&self.session, Some(&listed.image.reference)).unwrap();
                let mut past: Vec<usize> =
                    history[0].entries.iter().map(|entry| self.image(&entry.digest)).collect();
                past.reverse();
                assert_eq!(past.pop(), Some(image), "the present entry of the history");
                let (owners, held) =
                    (listed.image.owners.iter().map(owner).collect(), listed.image.held.is_some());
                let row = Row { image, past, held, owners };
                let name = listed.image.reference.to_string();
                (name.split_once('/').unwrap().1.to_owned(), row)
            })
            .collect();
        let expected: BTreeMap<String, Row> =
            model.rows.iter().map(|(name, row)| ((*name).to_owned(), row.clone())).collect();
        assert_eq!(rows, expected, "the catalog (left) is not what the model says (right)");
        let recorded = model.disk.iter().map(|(layer, disk)| (*layer, *disk != Disk::Unrecorded)).collect();
        assert_eq!(self.found(), recorded, "the layers on disk (left) are not what the model says (right)");
        for layer in model.disk.iter().filter(|(_, disk)| **disk == Disk::Whole).map(|(layer, _)| *layer) {
            let read = |name: &str| std::fs::read_to_string(self.layer_directory(layer).join(name)).unwrap();
            assert_eq!(read(&format!("layer-{layer}")), layer.to_string());
            assert_eq!(read("shared"), layer.to_string(), "layer {layer}");
        }
        for f in 0..2 {
            assert_eq!(
                self.path(f).with_extension("lock").exists(),
                model.locks[f].is_some(),
                "lockfile {f}"
            );
        }
    }
}

/// Runs one history; what went wrong, with the history.
fn history(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    let empty = File::of(Policy::Always);
    let mut model = Model {
        up: true,
        tags: BTreeMap::new(),
        files: [empty.clone(), empty],
        locks: [None, None],
        rows: BTreeMap::new(),
        now: 0,
        notes: Notes::new(),
        disk: BTreeMap::new(),
    };
    let mut told = format!("MSB_SYNC_MODEL_SEED={seed}\n");
    let mut steps = vec![Step::Edit(0), Step::Edit(1)];
    steps.extend([Step::Move; 6]);
    let f = world.random.below(2);
    let all = Step::Apply { f, prune: false, allow_empty: false, locked: false, offline: false };
    steps.push(all);
    let count = 6 + world.random.below(8);
    steps.extend((0..count).map(|_| world.random.step()));
    if world.random.one_in(3) {
        let hours = Step::Pass(world.random.of(&[1, 2]));
        steps.extend([Step::Move, Step::Move, all, Step::Move, hours, all, Step::Move, all]);
    }
    for step in steps {
        let _ = writeln!(told, "{step:?}");
        let outcome = catch_unwind(AssertUnwindSafe(|| world.step(step, &mut model)));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text =
                text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            return Err(format!("{told}{text}\n{model:#?}"));
        }
    }
    Ok(())
}

#[test]
fn random_histories_end_where_the_model_says() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match number("MSB_SYNC_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MSB_SYNC_MODEL_SEQUENCES").unwrap_or(SEQUENCES),
    };
    let next = AtomicU64::new(seeds.start);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, Into::into).min(4) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        break;
                    }
                    if let Err(failure) = history(seed) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} histories differ from the model:\n{}",
        failures.len(),
        seeds.end - seeds.start,
        failures.join("\n")
    );
}
