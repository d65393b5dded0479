//! Random histories against a model: what images files, tags, time, damage, kills, locks, stages, ways back, prunes and
//! removals lead to is what [`wanted::Model`] says, which knows nothing of plans, stores or catalogs.
//!
//! Most steps are calls of the library; some are runs of the program that are killed, after which the same step has
//! to lead where it would have led alone. `MSB_SYNC_MODEL_SEQUENCES=N` runs N histories, `MSB_SYNC_MODEL_SEED=S` the
//! one that a failure names.

mod commands;
mod kinds;
mod steps;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use msb_sync::digest::BlobDigest;
use msb_sync::image_ref::ImageRef;
use msb_sync::sync::{self, Session};

use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

use self::kinds::{COOLDOWN, Disk, Ended, File, IMAGES, Policy, Row, Rule, TAGS};
use self::steps::{Apply, Random, Step};
use self::wanted::Model;

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
    /// A run was killed: what it has fetched need not be fetched again.
    killed: bool,
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
        Self { directory, registry, layers, digests, session, random: Random(seed), killed: false }
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
        entries.extend(file.selection.map(|selection| {
            let (Rule { below, newest }, hours) =
                (selection.rule, if selection.cools { COOLDOWN } else { 0 });
            let tags = format!("{{ semver = \">=1, <{below}\", newest = {newest} }}");
            format!("{{ name = \"web\", tags = {tags}, cooldown = \"{hours}h\" }}")
        }));
        let policy = format!("{:?}", file.policy).to_lowercase();
        let text = format!(
            "[settings]\npull = \"{policy}\"\nkeep = {}\nownership = \"none\"\n[registry.\"{}\"]\nimages = [{}]\n",
            file.keep,
            self.registry.name(),
            entries.join(", ")
        );
        std::fs::write(self.path(f), text).unwrap();
    }

    /// Does a step here and in the model, which must agree on whether it went well.
    fn step(&mut self, step: Step, model: &mut Model) {
        let earlier = match step {
            Step::Rollback(name) => model.way_back(name),
            _ => None,
        };
        let kills = match step {
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
            // What a killed run has recorded may be enough for the next one, or no first choice any more.
            Step::Apply(Apply { f, stage: false, .. })
                if model.files[f]
                    .selection
                    .is_some_and(|selection| selection.cools || model.files[f].policy == Policy::Missing) =>
            {
                false
            }
            Step::Apply(_) | Step::Lock { .. } => self.random.one_in(6),
            Step::Prune { .. } | Step::Pull(_) | Step::Repair => self.random.one_in(4),
            Step::Rollback(_) => earlier.is_some() && self.random.one_in(3),
            Step::Release(_) => self.random.one_in(3),
            Step::Remove(_) => false,
        };
        if kills {
            self.kill(step, earlier);
        }
        self.registry.forget();
        model.fetched.clear();
        let expected = match step {
            Step::Apply(apply) => model.apply(apply),
            Step::Prune { f, allow_empty } => model.prune(f, allow_empty),
            Step::Remove(name) => Ended::of(model.remove(name)),
            Step::Pull(name) => Ended::of(model.pull(name)),
            Step::Lock { f, upgrade } => Ended::of(model.lock(f, upgrade)),
            Step::Repair => Ended::of(model.repair()),
            Step::Rollback(name) => Ended::of(model.rollback(name)),
            Step::Release(name) => Ended::of(model.release(name)),
            _ => return,
        };
        let (text, ended) = self.call(step, earlier);
        assert_eq!(ended, expected, "the step ended (left) as the model does not say (right): {text}");
        if kills {
            self.forgive_extra_layers(model);
        }
        self.compare(model);
        if matches!(step, Step::Prune { .. }) && expected.well && self.session.home.join("oci.db").exists() {
            let staged = std::fs::read_dir(self.session.home.join(".layers.msb-sync/staging"));
            assert_eq!(staged.map_or(0, Iterator::count), 0, "prune left something of a dead run");
        }
        if let Step::Apply(apply) = step
            && expected.well
        {
            let (plan, _) = sync::plan(&self.session, &self.request(apply)).unwrap();
            assert!(plan.is_empty(), "a second apply would do something: {plan:#?}");
        }
    }

    /// Lets hours pass for all that the catalog and the lockfiles have seen first.
    fn pass(&self, hours: u32) {
        let database = self.session.home.join("oci.db");
        if database.exists() {
            let database = rusqlite::Connection::open(database).unwrap();
            for table in ["sync_candidates", "sync_staged"] {
                let sql = format!("UPDATE {table} SET since = since - ?1 * 3600 * 1000");
                database.execute(&sql, [hours]).unwrap();
            }
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
        let short = |name: String| name.split_once('/').unwrap().1.to_owned();
        let mut histories: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for history in sync::history(&self.session, None).unwrap() {
            let past = history.entries.iter().rev().map(|entry| self.image(&entry.digest)).collect();
            histories.insert(short(history.reference.to_string()), past);
        }
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
                let name = short(listed.image.reference.to_string());
                let mut past = histories.remove(&name).unwrap();
                assert_eq!(past.pop(), Some(image), "the present entry of the history");
                let kept = |of: &_| listed.image.earlier_for.get(of).map_or(0, |kept| *kept as usize);
                let owners = listed.image.owners.iter().map(|of| (owner(of), kept(of))).collect();
                let row = Row { image, past, held: listed.image.held.is_some(), owners };
                (name, row)
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
        self.compare_notes(model);
        let fetched: BTreeSet<usize> =
            self.registry.requests().iter().filter_map(|line| self.layer_of(line)).collect();
        // Who was killed has left something of what is to be fetched; and a registry that is down is asked in vain.
        assert!(
            !model.up || fetched == model.fetched || self.killed && fetched.is_subset(&model.fetched),
            "fetched {fetched:?}, and not {:?}",
            model.fetched
        );
    }

    /// The layer that a request was for.
    fn layer_of(&self, request: &str) -> Option<usize> {
        let path = request.strip_prefix("GET ")?;
        self.layers.iter().position(|layer| path.ends_with(&layer.digest()))
    }

    /// Compares what waits, and what is ready.
    fn compare_notes(&self, model: &Model) {
        let path = self.session.home.join("oci.db");
        let database = path.exists().then(|| rusqlite::Connection::open(&path).unwrap());
        let read = |sql: &str| -> BTreeMap<String, usize> {
            let Some(database) = &database else { return BTreeMap::new() };
            let mut statement = database.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            let rows = rows.map(Result::unwrap).map(|(name, digest): (String, String)| {
                let image = self.digests.iter().position(|other| *other == digest).unwrap();
                (name.split_once('/').unwrap().1.to_owned(), image)
            });
            rows.collect()
        };
        let notes: BTreeMap<String, usize> =
            model.notes.iter().map(|(name, note)| ((*name).to_owned(), note.image)).collect();
        assert_eq!(read("SELECT reference, digest FROM sync_candidates"), notes, "what waits");
        let staged: BTreeMap<String, usize> =
            model.staged.iter().map(|(name, staged)| ((*name).to_owned(), staged.image)).collect();
        assert_eq!(read("SELECT reference, digest FROM sync_staged"), staged, "what is ready");
    }
}

/// Runs one history; what went wrong, with the history.
fn history(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    let mut model = Model::new();
    let mut told = format!("MSB_SYNC_MODEL_SEED={seed}\n");
    let mut steps = vec![Step::Edit(0), Step::Edit(1)];
    steps.extend([Step::Move; 6]);
    let f = world.random.below(2);
    let all = Step::Apply(Apply { f, ..Apply::default() });
    steps.push(all);
    let count = 6 + world.random.below(8);
    steps.extend((0..count).map(|_| world.random.step()));
    let hours = Step::Pass(world.random.of(&[1, 2]));
    match world.random.below(6) {
        0 | 1 => steps.extend([Step::Move, Step::Move, all, Step::Move, hours, all, Step::Move, all]),
        2 => {
            let staged = Step::Apply(Apply { f, stage: true, ..Apply::default() });
            let pruned = Step::Prune { f, allow_empty: false };
            steps.extend([Step::Move, Step::Move, staged, pruned, hours, all]);
        }
        _ => {}
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
