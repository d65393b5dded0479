//! SIGKILL at random instants of every command that changes something: no incomplete layer is ever under its final name,
//! nothing that is wanted is lost, and the next run ends where the killed one would have.
//!
//! Kills of a first `apply` are in `crash`, those between single system calls too.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::check::{listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::{Output, Run, Sandbox};
use crate::support::tree::{Tree, unpack};
use crate::support::watching::LIMIT;

/// Kills of each command that came while it was at work.
const KILLS: usize = 12;
/// Small files of a layer.
const FILES: u64 = 60;
const NAMES: [&str; 4] = ["app:a", "app:b", "app:c", "app:d"];

struct World {
    sandbox: Sandbox,
    registry: FakeRegistry,
    /// What each layer's directory holds.
    expected: BTreeMap<String, Tree>,
    /// What the test has made of some.
    damaged: BTreeMap<String, Tree>,
    /// What was recorded before the command that is killed.
    before: BTreeMap<String, String>,
}

fn layer(seed: u64) -> Layer {
    let items: Vec<_> =
        (0..FILES).map(|number| file(format!("f{number}"), noise(seed + number, 900))).collect();
    Layer::of(&items)
}

impl World {
    /// All images are there, and applied.
    fn new() -> Self {
        let mut world = Self {
            sandbox: Sandbox::in_memory(),
            registry: FakeRegistry::start(BlobSet::default()),
            expected: BTreeMap::new(),
            damaged: BTreeMap::new(),
            before: BTreeMap::new(),
        };
        for name in NAMES {
            world.push(name, 0);
        }
        world.want(&NAMES);
        world.sandbox.msb("apply").run().success();
        world
    }

    /// Gives a tag a meaning: a layer that all have, and one of its own for this version.
    fn push(&mut self, name: &str, version: usize) {
        let number = NAMES.iter().position(|other| *other == name).unwrap();
        let own = u64::try_from(1000 + 100 * number + 10_000 * version).unwrap();
        let layers = [layer(1), layer(own)];
        for layer in &layers {
            let tree = || Tree::expected(&unpack(&layer.blob));
            self.expected.entry(layer.directory()).or_insert_with(tree);
        }
        self.registry.edit(|content| {
            let image = content.image(&Image::new(&layers));
            content.tag(name, &image);
        });
    }

    fn want(&self, names: &[&str]) {
        self.sandbox.images(&wanted(&self.registry.name(), names));
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.name())
    }

    fn recorded(&self) -> BTreeMap<String, String> {
        let entry = |image: &Value| {
            let name = image["reference"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            (name, image["digest"].as_str().unwrap().to_owned())
        };
        listed(&self.sandbox).iter().map(entry).collect()
    }

    /// Each layer under its name is whole, or as the test has made it.
    #[track_caller]
    fn assert_whole(&self, what: &str) {
        for name in self.sandbox.extracted() {
            let found = Tree::of(&self.sandbox.layers().join(&name));
            let as_damaged = self.damaged.get(&name).is_some_and(|tree| tree.differences(&found).is_empty());
            if !as_damaged {
                self.expected[&name].assert_matches(&found, &format!("{name}, {what}"));
            }
        }
    }

    /// All of these are recorded, and each recorded image has all its layers.
    #[track_caller]
    fn assert_here(&self, names: &[&str], what: &str) {
        let recorded = self.recorded();
        for name in names {
            assert!(recorded.contains_key(*name), "{name} is lost {what}: {recorded:?}");
        }
        let verified = self.sandbox.msb("verify --json").run();
        let layers = verified.json()["layers"].as_array().unwrap().clone();
        assert!(layers.iter().all(|layer| layer["status"] == "ok"), "{what}: {verified}");
    }

    /// These and no others are recorded, as their tags mean now, with their layers and no others.
    #[track_caller]
    fn assert_exactly(&self, names: &[&str], what: &str) {
        let digest = |name: &str| self.registry.edit(|content| content.tags[name].clone());
        let expected = names.iter().map(|name| ((*name).to_owned(), digest(name))).collect();
        assert_eq!(self.recorded(), expected, "{what}");
        self.assert_here(names, what);
        let needed: BTreeSet<String> = listed(&self.sandbox)
            .iter()
            .flat_map(|image| image["layers"].as_array().unwrap().clone())
            .map(|layer| format!("{}.extracted", layer["digest"].as_str().unwrap()))
            .collect();
        assert_eq!(self.sandbox.extracted().into_iter().collect::<BTreeSet<_>>(), needed, "{what}");
        let staging = self.sandbox.home().join(".layers.msb-sync/staging");
        assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0, "something is left in staging {what}");
    }

    /// Tags move and the file changes, forth and back.
    fn turn(&mut self, round: usize) -> &'static [&'static str] {
        for name in ["app:a", "app:c"] {
            self.push(name, round % 2);
        }
        let names: &[&str] =
            if round.is_multiple_of(2) { &["app:a", "app:b", "app:c"] } else { &["app:a", "app:c", "app:d"] };
        self.want(names);
        names
    }
}

/// Kills a command again and again. `begin` makes a state and says what is run; `finish` looks at what the kill left, and
/// brings it to its end. `whole` is how long the command takes.
fn kill(
    world: &mut World,
    seed: u64,
    whole: Duration,
    begin: &dyn Fn(&mut World, usize) -> Run,
    finish: &dyn Fn(&mut World, usize, &str),
) {
    let mut chances = noise(seed, KILLS * 40).into_iter();
    let (mut tries, mut kills) = (0, 0);
    while kills < KILLS {
        tries += 1;
        assert!(tries <= KILLS * 10, "only {kills} of {tries} runs were still there to be killed");
        let at = whole.mul_f64(f64::from(chances.next().unwrap()) / 256.0);
        let running = begin(world, tries).spawn();
        std::thread::sleep(at);
        running.signal(Signal::KILL);
        let output = running.wait();
        let killed = output.status.signal() == Some(Signal::KILL.as_raw());
        kills += usize::from(killed);
        let what = format!("after kill {kills}, round {tries}, {at:?} into\n{output}");
        world.assert_whole(&what);
        finish(world, tries, &what);
    }
}

/// How long the first round takes, which is brought to its end.
fn time(
    world: &mut World,
    begin: &dyn Fn(&mut World, usize) -> Run,
    finish: &dyn Fn(&mut World, usize, &str),
) -> Duration {
    let output = begin(world, 0).run().success();
    finish(world, 0, "at first");
    output.elapsed
}

#[test]
fn apply_with_updates_and_removals() {
    let mut world = World::new();
    let begin = |world: &mut World, round: usize| {
        world.turn(round);
        world.sandbox.msb("apply --prune")
    };
    let finish = |world: &mut World, round: usize, what: &str| {
        let names = world.turn(round);
        // Both the old file and the new one want them.
        world.assert_here(&["app:a", "app:c"], what);
        world.sandbox.msb("apply --prune").run().success();
        // Layers of replaced images that a dead run has left.
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(names, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 1, whole, &begin, &finish);
}

#[test]
fn verify_with_repair() {
    let mut world = World::new();
    let begin = |world: &mut World, round: usize| {
        let layers = world.sandbox.extracted();
        let [edited, gone, unrecorded] =
            [0, 1, 2].map(|number| layers[(round + number) % layers.len()].clone());
        let path = |name: &str| world.sandbox.layers().join(name);
        std::fs::write(path(&edited).join("f1"), "damaged").unwrap();
        std::fs::remove_dir_all(path(&gone)).unwrap();
        let record = unrecorded.trim_end_matches(".extracted");
        std::fs::remove_file(world.sandbox.home().join(".layers.msb-sync/records").join(record)).unwrap();
        world.damaged = [(edited.clone(), Tree::of(&path(&edited)))].into();
        world.sandbox.msb("verify --repair")
    };
    let finish = |world: &mut World, _: usize, what: &str| {
        assert_eq!(world.recorded().len(), NAMES.len(), "{what}");
        world.sandbox.msb("verify --repair").run().success();
        world.damaged.clear();
        world.assert_whole(what);
        // A run of apply finds nothing to do.
        let output: Output = world.sandbox.msb("apply --json").run().success();
        assert_eq!(output.summary()["unchanged"], NAMES.len(), "{what}: {output}");
        world.assert_exactly(&NAMES, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 2, whole, &begin, &finish);
}

#[test]
fn prune() {
    let mut world = World::new();
    let stays = ["app:a", "app:c"];
    let begin = |world: &mut World, _: usize| {
        world.want(&stays);
        world.sandbox.msb("prune")
    };
    let finish = |world: &mut World, _: usize, what: &str| {
        world.assert_here(&stays, what);
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(&stays, what);
        world.want(&NAMES);
        world.sandbox.msb("apply").run().success();
        world.assert_exactly(&NAMES, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 3, whole, &begin, &finish);
}

#[test]
fn forget() {
    let mut world = World::new();
    let (goes, stays) = (["app:b", "app:d"], ["app:a", "app:c"]);
    let begin = |world: &mut World, _: usize| {
        let names = goes.map(|name| world.full(name));
        world.sandbox.msb(&format!("forget {}", names.join(" ")))
    };
    let finish = |world: &mut World, _: usize, what: &str| {
        world.assert_here(&stays, what);
        let recorded = world.recorded();
        for name in goes.iter().filter(|name| recorded.contains_key(**name)) {
            world.sandbox.msb("forget").arg(world.full(name)).run().success();
        }
        // Layers that a dead run has left: of those that are forgotten nobody is asked again.
        world.want(&stays);
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(&stays, what);
        world.want(&NAMES);
        world.sandbox.msb("apply").run().success();
        world.assert_exactly(&NAMES, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 4, whole, &begin, &finish);
}

/// Nothing is recorded before its time, and the switch needs nothing but a look at the tags.
#[test]
fn apply_that_only_stages() {
    let mut world = World::new();
    let begin = |world: &mut World, round: usize| {
        world.turn(round);
        world.before = world.recorded();
        world.sandbox.msb("apply --stage")
    };
    let finish = |world: &mut World, round: usize, what: &str| {
        let names = world.turn(round);
        assert_eq!(world.recorded(), world.before, "{what}");
        world.sandbox.msb("apply --stage").run().success();
        assert_eq!(world.recorded(), world.before, "{what}");
        world.sandbox.msb("prune").run().success();
        world.registry.forget();
        world.sandbox.msb("apply --prune").run().success();
        let requests = world.registry.requests();
        assert!(requests.iter().all(|request| request.starts_with("HEAD ")), "{requests:?} {what}");
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(names, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 6, whole, &begin, &finish);
}

/// The image is at the one digest or at the other, and held at the earlier one only.
#[test]
fn rollback() {
    let mut world = World::new();
    let history = |world: &World| {
        let arguments = format!("history {} --json", world.full("app:a"));
        world.sandbox.msb(&arguments).run().success().json()["images"][0].clone()
    };
    let begin = |world: &mut World, round: usize| {
        world.turn(round + 1);
        world.sandbox.msb("apply").run().success();
        world.turn(round);
        world.sandbox.msb("apply --prune").run().success();
        world.before = world.recorded();
        world.sandbox.msb("rollback").arg(world.full("app:a"))
    };
    let finish = |world: &mut World, round: usize, what: &str| {
        let names = world.turn(round);
        let now = history(world);
        let went = world.recorded()["app:a"] != world.before["app:a"];
        assert_eq!(now["held"], went, "{now:#} {what}");
        world.assert_here(&["app:a"], what);
        let earlier = now["entries"][usize::from(!went)]["digest"].as_str().unwrap().to_owned();
        let arguments = format!("rollback {} --to {earlier}", world.full("app:a"));
        world.sandbox.msb(&arguments).run().success();
        world.sandbox.msb("apply").run().success();
        assert_eq!((world.recorded()["app:a"].as_str(), &history(world)["held"]), (&*earlier, &true.into()));
        world.sandbox.msb("rollback --release").arg(world.full("app:a")).run().success();
        world.sandbox.msb("apply --prune").run().success();
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(names, what);
    };
    let whole = time(&mut world, &begin, &finish);
    kill(&mut world, 7, whole, &begin, &finish);
}

/// Half of the kills come in its first run, half in one that a change has started.
#[test]
fn watch() {
    let mut world = World::new();
    let apply = |world: &mut World, round: usize| {
        world.turn(round);
        world.sandbox.msb("apply --prune")
    };
    let finish = |world: &mut World, round: usize, what: &str| {
        let names = world.turn(round);
        world.assert_here(&["app:a", "app:c"], what);
        let running = world.sandbox.msb("watch --prune --json").spawn();
        eventually("the next watch has made a run", LIMIT, || running.stdout().contains("\"summary\""));
        running.signal(Signal::TERM);
        running.wait().code(143);
        world.sandbox.msb("prune").run().success();
        world.assert_exactly(names, what);
    };
    let whole = time(&mut world, &apply, &finish);
    let mut chances = noise(5, KILLS).into_iter();
    for round in 1..=KILLS {
        let at = whole.mul_f64(f64::from(chances.next().unwrap()) / 200.0);
        let first = round % 2 == 0;
        if first {
            world.turn(round);
        }
        let running = world.sandbox.msb("watch --prune --json").spawn();
        if !first {
            eventually("it has made its first run", LIMIT, || running.stdout().contains("\"summary\""));
            world.turn(round);
            eventually("it has seen the change", LIMIT, || running.stdout().contains("\"triggered\""));
        }
        std::thread::sleep(at);
        running.signal(Signal::KILL);
        let output = running.wait().killed_by(Signal::KILL);
        let what = format!("after kill {round}, {at:?} into\n{output}");
        world.assert_whole(&what);
        finish(&mut world, round, &what);
    }
}
