//! docker.io's name of an image of sandboxes.io, where somebody wants it for itself too: it stays as long as its own
//! owner wants it, and both mean what each of them is to mean.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::support::check::listed;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::BlobSet;
use crate::support::moving::version;
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;

const FIRST: &str = "sandboxes.io/library/alpine:latest";
const SECOND: &str = "docker.io/library/alpine:latest";

struct Twins {
    sandbox: Sandbox,
    registry: FakeRegistry,
}

impl Twins {
    /// A registry that serves both, by the settings of the machine.
    fn new() -> Self {
        let twins = Self { sandbox: Sandbox::in_memory(), registry: FakeRegistry::start(BlobSet::default()) };
        twins.moved("one");
        std::fs::create_dir_all(twins.sandbox.home()).unwrap();
        twins.serve_second_by(&twins.registry);
        twins
    }

    /// Lets docker.io be another registry.
    fn serve_second_by(&self, other: &FakeRegistry) {
        let endpoints = [("sandboxes.io", &self.registry), ("docker.io", other)];
        let table = |(name, registry): (&str, &FakeRegistry)| {
            format!("[registry.{name:?}]\nendpoint = {:?}\n", registry.url())
        };
        let tables = endpoints.map(table).concat();
        std::fs::write(self.sandbox.home().join("registries.toml"), tables).unwrap();
    }

    /// Lets the tag mean another image, and returns its digest.
    fn moved(&self, content: &str) -> String {
        self.release("alpine:latest", content)
    }

    /// Lets a tag mean an image, and returns its digest.
    fn release(&self, tag: &str, content: &str) -> String {
        self.registry.edit(|blobs| {
            let image = blobs.image(&version(content));
            blobs.tag(&format!("library/{tag}"), &image);
            image.digest().to_owned()
        })
    }

    /// Lists these names in the images file, the ones of sandboxes.io with `settings`.
    fn want(&self, names: &[&str], settings: &str) {
        let table = |registry: &str| {
            let is_listed = names.iter().any(|name| name.starts_with(registry));
            let settings = if registry == "sandboxes.io" { settings } else { "" };
            let image = format!("{{ name = \"alpine\"{settings} }}");
            format!("[registry.{registry:?}]\nimages = [{}]\n", if is_listed { &image } else { "" })
        };
        self.sandbox.images(&format!("{}{}", table("sandboxes.io"), table("docker.io")));
    }

    #[track_caller]
    fn run(&self, arguments: &str) {
        self.sandbox.msb(arguments).run().success();
    }

    /// Applies, and makes sure that the next run finds nothing to do, and writes nothing.
    #[track_caller]
    fn settle(&self, arguments: &str) {
        self.run(arguments);
        let before = Tree::snapshot(&self.sandbox.home());
        self.registry.forget();
        let again = self.sandbox.msb(&format!("{arguments} --json")).run().success();
        let summary = again.summary();
        assert_eq!(summary["added"].as_u64().zip(summary["repaired"].as_u64()), Some((0, 0)), "{again}");
        assert!(self.registry.requests().iter().all(|request| request.starts_with("HEAD ")), "{again}");
        before
            .assert_matches(&Tree::snapshot(&self.sandbox.home()), "the home after a run with nothing to do");
    }

    /// The recorded names, each with its digest.
    fn recorded(&self) -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let images = listed(&self.sandbox);
        images.iter().map(|image| (text(&image["reference"]), text(&image["digest"]))).collect()
    }

    #[track_caller]
    fn assert_recorded(&self, names: &[&str]) {
        let recorded = self.recorded();
        assert_eq!(recorded.iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
        assert_eq!(self.sandbox.extracted().len(), if names.is_empty() { 0 } else { 2 });
    }
}

#[test]
fn a_second_name_that_is_listed_stays_when_the_first_goes() {
    for (later, last) in [(&[FIRST, SECOND][..], true), (&[SECOND][..], false)] {
        let twins = Twins::new();
        twins.want(&[FIRST], "");
        twins.settle("apply");
        twins.want(later, "");
        twins.settle("apply");
        twins.want(&[SECOND], "");
        twins.settle(if last { "apply --prune" } else { "apply" });
        twins.run("prune");
        twins.assert_recorded(&[SECOND]);
        twins.settle("apply --prune");
        twins.want(&[], "");
        twins.run("apply --prune --allow-empty");
        twins.assert_recorded(&[]);
    }
}

#[test]
fn a_name_that_takes_the_place_of_the_other_stays_in_the_same_run() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.run("apply");
    twins.want(&[SECOND], "");
    // A prune alone cannot tell that the file lists it now: that waits for the next run.
    let waits = twins.sandbox.msb("prune").run().success();
    assert!(waits.to_string().contains(SECOND), "{waits}");
    twins.assert_recorded(&[SECOND, FIRST]);
    twins.settle("apply --prune");
    twins.assert_recorded(&[SECOND]);
    // And back.
    twins.want(&[FIRST], "");
    twins.settle("apply --prune");
    twins.assert_recorded(&[SECOND, FIRST]);
}

#[test]
fn a_second_name_that_another_group_lists_stays() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.run("apply");
    twins.sandbox.images(
        "[registry.\"sandboxes.io\"]\nimages = [{ name = \"busybox\", groups = [\"one\"] }]\n\
         [registry.\"docker.io\"]\nimages = [{ name = \"alpine\", groups = [\"two\"] }]\n",
    );
    twins.registry.edit(|blobs| {
        let image = blobs.image(&version("busybox"));
        blobs.tag("library/busybox:latest", &image);
    });
    let output = twins.sandbox.msb("apply --prune --group one --json").run().success();
    assert_eq!(output.summary()["removals_waiting"], 1, "{output}");
    assert!(twins.recorded().iter().any(|(name, _)| name == SECOND));
    twins.run("apply --prune");
    assert!(twins.recorded().iter().all(|(name, _)| name != FIRST));
    assert!(twins.recorded().iter().any(|(name, _)| name == SECOND));
}

#[test]
fn both_names_are_pulled_and_each_is_forgotten_alone() {
    for names in [["sandboxes.io/alpine", "alpine"], ["alpine", "sandboxes.io/alpine"]] {
        let twins = Twins::new();
        for name in names {
            twins.run(&format!("pull {name}"));
        }
        twins.run(&format!("forget {FIRST}"));
        twins.assert_recorded(&[SECOND]);
        twins.run(&format!("forget {SECOND}"));
        twins.assert_recorded(&[]);
    }
}

#[test]
fn each_of_two_listed_names_means_what_it_is_to_mean() {
    for settings in [", pull = \"missing\"", ", cooldown = \"3d\""] {
        let twins = Twins::new();
        let one = twins.moved("one");
        twins.want(&[FIRST, SECOND], settings);
        twins.settle("apply");
        let two = twins.moved("two");
        twins.run("apply");
        let both = vec![(SECOND.to_owned(), two.clone()), (FIRST.to_owned(), one.clone())];
        assert_eq!(twins.recorded(), both);
        twins.settle("apply --prune");
        assert_eq!(twins.recorded(), both);
        // Nobody wants the other name for itself any more: it means again what the first means.
        twins.want(&[FIRST], settings);
        twins.settle("apply --prune");
        assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), one.clone()), (FIRST.to_owned(), one)]);
    }
}

#[test]
fn a_repair_leaves_the_meaning_of_a_second_name_alone() {
    let twins = Twins::new();
    let podman = twins.sandbox.root().join("podman");
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py"), &podman).unwrap();
    let one = twins.moved("one");
    let engine = format!("settings.blobs = \"discard\"\n[engine.podman]\ncommand = {podman:?}\n");
    twins.sandbox.images(&format!("{engine}[registry.\"sandboxes.io\"]\nimages = [\"alpine\"]\n"));
    twins.run("apply");
    let two = twins.moved("two");
    twins.run("pull alpine");
    std::fs::remove_file(twins.sandbox.user().join("podman.images")).unwrap();
    twins.run("verify --repair");
    assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), two), (FIRST.to_owned(), one)]);
}

const CHOSEN: &str = "images = [{ name = \"alpine\", tags = { semver = \">=3\", newest = 1 } }]\n";

#[test]
fn a_prune_waits_for_no_second_name_of_a_repository_that_a_selection_draws_on() {
    let twins = Twins::new();
    for tag in ["alpine:3.20", "alpine:3.21", "old:1"] {
        twins.release(tag, tag);
    }
    twins.sandbox.images(
        "[registry.\"sandboxes.io\"]\nimages = [\"alpine:3.20\"]\n[registry.\"docker.io\"]\nimages = [\"old:1\"]\n",
    );
    twins.run("apply");
    twins.sandbox.images(&format!("[registry.\"docker.io\"]\n{CHOSEN}"));
    // Nothing is here that the selection has chosen.
    twins.run("prune");
    assert_eq!(twins.recorded().len(), 3);
    twins.run("apply");
    twins.run("prune");
    twins.assert_recorded(&["docker.io/library/alpine:3.21"]);
}

#[test]
fn a_tag_that_is_held_by_its_first_name_alone_is_chosen_by_no_selection_of_the_other() {
    let twins = Twins::new();
    let one = twins.release("alpine:3.20", "one");
    let first = format!("settings.keep = 3\nsettings.prune = true\n[registry.\"sandboxes.io\"]\n{CHOSEN}");
    twins.sandbox.images(&first);
    twins.run("apply");
    twins.release("alpine:3.20", "two");
    twins.run("apply");
    twins.run("rollback sandboxes.io/alpine:3.20");
    let three = twins.release("alpine:3.21", "three");
    twins.sandbox.images(&format!("{first}[registry.\"docker.io\"]\n{CHOSEN}"));
    for _ in 0..3 {
        let summary = twins.sandbox.msb("apply --json").run().success().summary();
        assert_eq!(summary["removed"], 0, "{summary:#}");
        let named = |name: &str, digest: &String| (name.to_owned(), digest.clone());
        let wanted = vec![
            named("docker.io/library/alpine:3.20", &one),
            named("docker.io/library/alpine:3.21", &three),
            named("sandboxes.io/library/alpine:3.20", &one),
            named("sandboxes.io/library/alpine:3.21", &three),
        ];
        assert_eq!(twins.recorded(), wanted);
    }
}

#[test]
fn a_second_name_that_cannot_be_had_lets_nobody_fetch_the_first_again() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.serve_second_by(&FakeRegistry::start(BlobSet::default()));
    twins.want(&[FIRST, SECOND], "");
    twins.sandbox.msb("apply").run().code(1);
    twins.registry.forget();
    twins.sandbox.msb("apply").run().code(1);
    assert_eq!(twins.registry.requests(), ["HEAD /v2/library/alpine/manifests/latest"]);
    let offline = twins.sandbox.msb("apply --offline --json").run().code(1);
    let failed: Vec<_> = offline.json_lines().into_iter().filter(|line| !line["error"].is_null()).collect();
    assert!(failed.iter().all(|line| line["reference"] != FIRST), "{offline}");
}

#[test]
fn the_layers_of_a_second_name_that_is_forgotten_go() {
    let twins = Twins::new();
    let one = twins.moved("one");
    twins.run("pull sandboxes.io/alpine");
    twins.moved("two");
    twins.run("pull alpine");
    assert_eq!(twins.sandbox.extracted().len(), 3);
    twins.run(&format!("forget {SECOND}"));
    twins.assert_recorded(&[SECOND, FIRST]);
    assert_eq!(twins.recorded()[0].1, one);
}

#[test]
fn a_second_name_outlives_a_catalog_that_has_lost_the_first() {
    let twins = Twins::new();
    twins.run("pull sandboxes.io/alpine");
    twins.run("pull alpine");
    let catalog = rusqlite::Connection::open(twins.sandbox.home().join("oci.db")).unwrap();
    catalog.execute("DELETE FROM sync_images WHERE reference = ?1", [FIRST]).unwrap();
    drop(catalog);
    twins.run(&format!("forget {SECOND}"));
}

#[test]
fn a_second_name_that_is_given_up_has_its_layers_where_the_first_has_them() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.run("apply");
    let other = "settings.layers = \"other\"\n[registry.\"docker.io\"]\n";
    twins.sandbox.write("other.toml", format!("{other}images = [\"alpine\"]\n"));
    twins.run("apply other.toml");
    twins.sandbox.write("other.toml", other);
    twins.run("apply other.toml --prune --allow-empty");
    twins.run("prune other.toml --allow-empty");
    let left = std::fs::read_dir(twins.sandbox.work().join("other")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_second_name_that_is_not_recorded_is_written_from_the_first() {
    for (settings, arguments) in [
        (", pull = \"missing\"", "apply"),
        ("", "apply"),
        ("", "apply --offline"),
        ("", "apply --offline --locked"),
    ] {
        let twins = Twins::new();
        let one = twins.moved("one");
        twins.serve_second_by(&FakeRegistry::start(BlobSet::default()));
        twins.want(&[FIRST, SECOND], settings);
        twins.sandbox.msb("apply").run().code(1);
        twins.want(&[FIRST], settings);
        if arguments.ends_with("locked") {
            twins.run("lock");
        }
        twins.registry.forget();
        let summary = twins.sandbox.msb(&format!("{arguments} --json")).run().success().summary();
        assert_eq!(summary["repaired"], 1, "{summary:#}");
        assert!(twins.registry.requests().iter().all(|request| request.starts_with("HEAD ")));
        twins.settle(arguments);
        assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), one.clone()), (FIRST.to_owned(), one)]);
        // microsandbox has removed it.
        let catalog = rusqlite::Connection::open(twins.sandbox.home().join("oci.db")).unwrap();
        catalog.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        catalog.execute("DELETE FROM images WHERE reference = ?1", [SECOND]).unwrap();
        drop(catalog);
        twins.settle(arguments);
        twins.want(&[], "");
        twins.run("apply --prune --allow-empty");
        twins.assert_recorded(&[]);
    }
}

#[test]
fn a_second_name_that_is_newly_wanted_is_not_held_with_the_first() {
    for is_pulled in [false, true] {
        let twins = Twins::new();
        let one = twins.moved("one");
        twins.want(&[FIRST], "");
        twins.run("apply");
        let two = twins.moved("two");
        twins.run("apply");
        twins.run("rollback sandboxes.io/alpine");
        if is_pulled {
            twins.run("pull alpine");
        } else {
            twins.want(&[FIRST, SECOND], "");
            twins.settle("apply");
        }
        assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), two), (FIRST.to_owned(), one)]);
    }
}

#[test]
fn a_second_name_that_is_newly_wanted_does_not_wait() {
    let twins = Twins::new();
    let one = twins.moved("one");
    twins.want(&[FIRST], ", pull = \"missing\"");
    twins.run("apply");
    let two = twins.moved("two");
    twins.sandbox.images(
        "[registry.\"sandboxes.io\"]\nimages = [{ name = \"alpine\", pull = \"missing\" }]\n\
         [registry.\"docker.io\"]\nimages = [{ name = \"alpine\", cooldown = \"3d\" }]\n",
    );
    twins.settle("apply");
    let both = vec![(SECOND.to_owned(), two), (FIRST.to_owned(), one)];
    assert_eq!(twins.recorded(), both);
    twins.moved("three");
    twins.run("apply");
    assert_eq!(twins.recorded(), both);
}

#[test]
fn a_bundle_has_both_names_with_different_meanings() {
    let twins = Twins::new();
    let one = twins.moved("one");
    let mut blobs = BlobSet::default();
    let other = blobs.image(&version("two"));
    blobs.tag("library/alpine:latest", &other);
    let registry = FakeRegistry::start(blobs);
    twins.serve_second_by(&registry);
    twins.want(&[FIRST, SECOND], "");
    twins.run("export --output bundle");
    let both = vec![(SECOND.to_owned(), other.digest().to_owned()), (FIRST.to_owned(), one.clone())];
    for _ in 0..2 {
        twins.run("apply --from bundle");
        assert_eq!(twins.recorded(), both);
    }
    // One name alone means the other, too.
    twins.want(&[FIRST], "");
    twins.run("export --output first");
    twins.want(&[SECOND], "");
    twins.run("apply --from first");
    assert_eq!(twins.recorded()[0], (SECOND.to_owned(), one));
}

#[test]
fn a_selection_wants_its_tags_also_where_the_other_name_is_listed() {
    let twins = Twins::new();
    let one = twins.release("alpine:3.20", "one");
    let selection = format!("[registry.\"docker.io\"]\n{CHOSEN}");
    let listed = "[registry.\"sandboxes.io\"]\nimages = [\n  \
                  { name = \"alpine\", tag = \"3.20\", pull = \"missing\" },\n]\n";
    twins.sandbox.images(&format!("{selection}{listed}"));
    twins.run("apply");
    let two = twins.release("alpine:3.20", "two");
    twins.run("apply");
    let [first, second] = [FIRST, SECOND].map(|name| name.replace("latest", "3.20"));
    assert_eq!(twins.recorded(), vec![(second.clone(), two), (first, one)]);
    twins.sandbox.images(&selection);
    twins.run("prune");
    twins.assert_recorded(&[&second]);
    let summary = twins.sandbox.msb("apply --json").run().success().summary();
    assert_eq!(summary["added"], 0, "{summary:#}");
}

#[test]
fn a_pull_of_the_first_name_asks_nothing_of_those_who_want_the_second_for_itself() {
    let twins = Twins::new();
    let one = twins.moved("one");
    let second = "[registry.\"docker.io\"]\nimages = [\"alpine\"]\n";
    twins.sandbox.write("second.toml", second);
    twins.run("apply second.toml");
    twins.sandbox.write("second.toml", format!("settings.unsigned = \"refuse\"\n{second}"));
    let two = twins.moved("two");
    twins.run("pull sandboxes.io/alpine");
    assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), one), (FIRST.to_owned(), two)]);
    twins.sandbox.msb("pull alpine").run().code(1);
}

#[test]
fn a_second_name_that_is_awaited_means_what_its_own_registry_says() {
    let twins = Twins::new();
    let one = twins.moved("one");
    twins.want(&[FIRST], "");
    twins.run("apply");
    let slow = FakeRegistry::start(twins.registry.edit(|blobs| blobs.clone()));
    slow.on(|request| {
        if request.path.contains("/manifests/") {
            std::thread::sleep(Duration::from_millis(1500));
        }
        None
    });
    twins.serve_second_by(&slow);
    let two = twins.moved("two");
    twins.want(&[FIRST, SECOND], "");
    twins.sandbox.msb("apply").env("MSB_SYNC_LOOKUP_PATIENCE", "0.2").run().success();
    assert_eq!(twins.recorded(), vec![(SECOND.to_owned(), one), (FIRST.to_owned(), two)]);
}

#[test]
fn a_second_name_that_its_first_keeps_is_not_removed() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.run("apply");
    // Another file may list the other one.
    for (first, second) in [("images.toml", "images.toml"), ("images.toml", "other.toml")] {
        let table = |name: &str| format!("[registry.{name:?}]\nimages = [\"alpine\"]\n");
        let of_first = table("sandboxes.io");
        let both = if first == second { of_first.clone() + &table("docker.io") } else { table("docker.io") };
        let without = if first == second { of_first } else { String::new() };
        for verb in ["apply --prune --allow-empty --json", "prune --allow-empty --json"] {
            twins.sandbox.write(second, &both);
            twins.run(&format!("apply {second}"));
            twins.sandbox.write(second, &without);
            let plan = twins.sandbox.msb(&format!("plan --prune --allow-empty {second}")).run().success();
            assert!(plan.stdout.contains(&format!("stays as the second name of {FIRST}")), "{plan}");
            assert!(!plan.stdout.contains("1 to remove"), "{plan}");
            let output = twins.sandbox.msb(&format!("{verb} {second}")).run().success();
            if verb.starts_with("apply") {
                assert_eq!(output.summary()["removed"], 0, "{output}");
            } else {
                assert_eq!(output.json()["images"][0]["stays"], true, "{output}");
            }
            twins.assert_recorded(&[SECOND, FIRST]);
        }
    }
    // With the first name it goes.
    twins.want(&[FIRST, SECOND], "");
    twins.run("apply");
    twins.want(&[], "");
    let output = twins.sandbox.msb("apply --prune --allow-empty --json").run().success();
    assert_eq!(output.summary()["removed"], 2, "{output}");
    twins.assert_recorded(&[]);
}

#[test]
fn a_removal_that_waits_for_another_group_says_so() {
    let twins = Twins::new();
    twins.want(&[FIRST], "");
    twins.run("apply");
    twins.sandbox.images(
        "[registry.\"sandboxes.io\"]\nimages = [{ name = \"busybox\", groups = [\"one\"] }]\n\
         [registry.\"docker.io\"]\nimages = [{ name = \"alpine\", groups = [\"two\"] }]\n",
    );
    twins.release("busybox:latest", "busybox");
    twins.run("apply --group one");
    let why = format!("until an apply without --group has noted that {SECOND} is listed");
    let plan = twins.sandbox.msb("plan --prune --group one").run().success();
    assert!(plan.stdout.contains(&why) && plan.stdout.contains("In sync"), "{plan}");
    twins.sandbox.msb("plan --prune --group one --detailed-exitcode").run().code(0);
    let plan = twins.sandbox.msb("plan --prune --group one --json").run().success().json();
    assert_eq!(plan["changes"], 0, "{plan:#}");
    let waiting = |image: &&serde_json::Value| image["waits"] == true;
    assert_eq!(plan["images"].as_array().unwrap().iter().filter(waiting).count(), 1, "{plan:#}");
    let output = twins.sandbox.msb("apply --prune --group one").run().success();
    assert!(output.stdout.contains(&format!("kept {why}")), "{output}");
    let output = twins.sandbox.msb("prune").run().success();
    assert!(output.stdout.contains(&why) && !output.stdout.contains("not here"), "{output}");
    twins.run("apply --prune");
    assert!(twins.recorded().iter().all(|(name, _)| name != FIRST));
}
