//! The words about images that stay as they are, or are ready, while their tags mean something else.

use serde_json::{Value, json};

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

/// A registry with the tag `app:1`, of which each version has a file of its own.
struct World {
    registry: FakeRegistry,
    sandbox: Sandbox,
}

impl World {
    fn new(settings: &str) -> Self {
        let world = Self { registry: FakeRegistry::start(BlobSet::default()), sandbox: Sandbox::in_memory() };
        world.sandbox.images(&format!("{settings}{}", wanted(&world.registry.name(), &["app:1"])));
        world
    }

    fn name(&self) -> String {
        format!("{}/app:1", self.registry.name())
    }

    /// Lets the tag mean a version.
    fn release(&self, version: &str) {
        self.registry.edit(|content| {
            let digest = content.image(&Image::new(&[Layer::of(&[file("version", version)])]));
            content.tag("app:1", &digest);
        });
    }

    /// Lets the tag mean an index of a version for two platforms.
    fn release_index(&self, version: &str) -> String {
        self.registry.edit(|content| {
            let of = ["linux/amd64", "linux/arm64"].map(|platform| {
                let layer = Layer::of(&[file("version", format!("{version} for {platform}"))]);
                content.image(&Image::new(&[layer]).platform(platform))
            });
            let index = content.index(false, &of);
            content.tag("app:1", &index);
            index.digest().to_owned()
        })
    }

    /// Runs what succeeds, and returns what people see.
    #[track_caller]
    fn told(&self, arguments: &str) -> String {
        let output = self.sandbox.msb(&arguments.replace("APP", &self.name())).run().success();
        output.stdout + &output.stderr
    }
}

#[test]
fn an_image_that_is_held_says_so_and_that_now_does_not_let_it_go() {
    let world = World::new("");
    for version in ["one", "two", "three"] {
        world.release(version);
        world.told("apply");
        if version == "two" {
            world.told("rollback APP");
        }
    }
    let held = format!("  = {}: held since rollback 20", world.name());
    for verb in ["apply", "pull APP"] {
        let told = world.told(verb);
        assert!(told.contains(&held), "{verb}: {told}");
    }
    let told = world.told("apply --now APP");
    assert!(told.contains(&format!("warning: --now {}: the image is held since rollback 20", world.name())));
    assert!(told.contains(&format!("msb-sync rollback --release {}", world.name())), "{told}");
    assert!(world.told("apply --quiet").is_empty());
}

#[test]
fn an_image_goes_back_to_a_digest_and_not_to_another_platform() {
    let world = World::new("");
    let list = |platform: &str| {
        let image = format!("{{ name = \"app\", tag = \"1\", platform = \"{platform}\" }}");
        world.sandbox.images(&wanted(&world.registry.name(), &[&image]));
    };
    list("linux/arm64");
    let one = world.release_index("one");
    world.told("apply");
    let history = world.told("history");
    assert!(!history.contains("linux/"), "{history}");
    list("linux/amd64");
    world.release_index("two");
    world.told("apply");
    let history = world.told("history");
    assert!(history.contains("  linux/amd64  20") && history.contains("  linux/arm64  20"), "{history}");
    world.told("rollback APP");
    let image = &listed(&world.sandbox)[0];
    assert_eq!((&image["platform"], &image["digest"]), (&json!("linux/amd64"), &json!(one)));
    let plan: Value = world.sandbox.msb("plan --json").run().success().json();
    assert_eq!(plan["changes"], 0, "{plan:#}");
}

#[test]
fn a_run_that_has_nothing_to_do_says_why() {
    let world = World::new("settings.keep = 1\n");
    world.release("one");
    world.told("apply --stage");
    let told = world.told("apply --stage");
    assert!(told.starts_with("Ready: 1 image, 1 of them staged before, nothing to do ("), "{told}");
    for version in ["one", "two", "three"] {
        world.release(version);
        world.told("apply");
    }
    let told = world.told("plan --prune");
    assert!(told.contains("In sync: nothing to do but to remove 1 layer that nothing needs. "), "{told}");
    world.told("apply --prune");
    let told = world.told("plan --prune");
    assert!(told.contains("In sync: nothing to do. "), "{told}");
}

#[test]
fn an_image_that_now_names_is_found_by_either_name_and_told_of_if_its_group_is_not_asked() {
    let world = World::new("");
    let image =
        r#"{ name = "app", tag = "1", groups = ["web"] }, { name = "b", tag = "1", groups = ["db"] }"#;
    world
        .sandbox
        .images(&format!("settings.cooldown = \"3d\"\n{}", wanted(&world.registry.name(), &[image])));
    world.release("one");
    world.registry.edit(|content| {
        let digest = content.image(&Image::new(&[Layer::of(&[file("b", "b")])]));
        content.tag("b:1", &digest);
    });
    world.told("apply");
    world.release("two");
    let told = world.told("apply --group db --now APP");
    assert!(
        told.contains(&format!("--now {}: the image is in none of the groups of this run", world.name()))
    );
    let endpoint = world.registry.url();
    let twin =
        format!("settings.cooldown = \"3d\"\n[registry.\"sandboxes.io\"]\nendpoint = \"{endpoint}\"\n");
    world.sandbox.images(&format!("{twin}images = [\"library/app:1\"]\n"));
    let tag = |version: &str| {
        world.registry.edit(|content| {
            let digest = content.image(&Image::new(&[Layer::of(&[file("version", version)])]));
            content.tag("library/app:1", &digest);
        });
    };
    tag("one");
    world.told("apply");
    tag("two");
    let told = world.told("apply --now docker.io/library/app:1");
    assert!(told.contains("Done: 1 updated"), "{told}");
}

#[test]
fn a_lockfile_that_notes_new_digests_alone_says_so() {
    let world = World::new("settings.cooldown = \"3d\"\n");
    world.release("one");
    world.told("lock");
    world.release("two");
    let check = world.sandbox.msb("lock --upgrade --check").run().code(2);
    assert!(
        check.stdout.ends_with("Would change images.lock: 1 new digest noted, 1 unchanged.\n"),
        "{check}"
    );
    let told = world.told("lock --upgrade");
    assert!(told.ends_with("Wrote images.lock: 1 new digest noted, 1 unchanged.\n"), "{told}");
}
