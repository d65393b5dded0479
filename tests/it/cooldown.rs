//! Cooldowns: a tag's new digest is taken only once it has been seen for so long, with a lockfile and
//! without, and so is a newly chosen tag.

use serde_json::Value;

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

/// The image of which each version has a file of its own.
fn version(of: &str) -> Image {
    Image::new(&[Layer::of(&[file("version", of)])])
}

/// Lets `tag` mean a version, and returns its digest.
fn release(registry: &FakeRegistry, tag: &str, of: &str) -> String {
    registry.edit(|content| {
        let digest = content.image(&version(of));
        content.tag(tag, &digest);
        digest.digest().to_owned()
    })
}

/// Lets `hours` pass for the new digests that the catalog has noted.
fn pass(sandbox: &Sandbox, hours: u32) {
    let database = sandbox.home().join("oci.db");
    let sql = format!("UPDATE sync_candidates SET since = since - {hours} * 3600 * 1000");
    sandbox.program("sqlite3", &[database.to_str().unwrap(), &sql]).run().success();
}

/// Applies and returns the event of the only image.
#[track_caller]
fn apply(sandbox: &Sandbox) -> Value {
    let output = sandbox.msb("apply --json").run().success();
    let events = output.json_lines();
    events.into_iter().find(|event| event["event"] == "image").unwrap()
}

fn with_cooldown(registry: &FakeRegistry, image: &str) -> String {
    format!("settings.cooldown = \"3d\"\n{}", wanted(&registry.name(), &[image]))
}

#[test]
fn a_new_digest_waits_for_its_time() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1"));
    // A first add takes what there is.
    let first = release(&registry, "app:1", "one");
    assert_eq!(apply(&sandbox)["digest"], *first);

    let second = release(&registry, "app:1", "two");
    // A plan starts no clock.
    for _ in 0..2 {
        let plan = sandbox.msb("plan --json").run().success().json();
        assert_eq!((&plan["changes"], &plan["images"][0]["action"]), (&0.into(), &"keep".into()), "{plan}");
        assert_eq!(plan["images"][0]["candidate"]["digest"], *second);
    }
    assert_eq!(count(&sandbox), "0");
    registry.forget();
    let kept = apply(&sandbox);
    assert_eq!((&kept["action"], &kept["digest"]), (&"keep".into(), &first.clone().into()), "{kept}");
    assert!(kept["reason"].as_str().unwrap().starts_with("new digest sha256:"), "{kept}");
    // Nothing is fetched of what waits: a HEAD a run.
    apply(&sandbox);
    let heads = vec!["HEAD /v2/app/manifests/1".to_owned(); 2];
    assert_eq!(registry.requests(), heads);
    assert_eq!(count(&sandbox), "1");

    let told = sandbox.msb("apply").run().success();
    assert!(told.stderr.contains("  = ") && told.stderr.contains(": new digest "), "{told}");
    registry.forget();
    pass(&sandbox, 71);
    let plan = sandbox.msb("plan").run().success().stdout;
    assert!(
        plan.contains("new digest ") && plan.contains(" seen 20") && plan.contains(", taken from 20"),
        "{plan}"
    );
    assert_eq!(apply(&sandbox)["digest"], *first);
    pass(&sandbox, 1);
    let taken = apply(&sandbox);
    assert_eq!((&taken["action"], &taken["digest"]), (&"update".into(), &second.into()), "{taken}");
    assert_eq!(count(&sandbox), "0");
}

/// Counts the digests that the catalog has noted as new.
fn count(sandbox: &Sandbox) -> String {
    let database = sandbox.home().join("oci.db");
    let sql = "SELECT count(*) FROM sync_candidates";
    sandbox.program("sqlite3", &[database.to_str().unwrap(), sql]).run().success().stdout.trim().to_owned()
}

#[test]
fn another_digest_waits_anew_and_the_old_one_ends_the_wait() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1"));
    let first = release(&registry, "app:1", "one");
    apply(&sandbox);
    release(&registry, "app:1", "two");
    apply(&sandbox);
    pass(&sandbox, 100);
    release(&registry, "app:1", "three");
    assert_eq!(apply(&sandbox)["digest"], *first);
    pass(&sandbox, 100);
    release(&registry, "app:1", "one");
    let back = apply(&sandbox);
    assert_eq!((&back["digest"], count(&sandbox).as_str()), (&first.clone().into(), "0"), "{back}");
    let fourth = release(&registry, "app:1", "three");
    assert_eq!(apply(&sandbox)["digest"], *first);
    // Who cannot wait need not.
    let name = format!("{}/app:1", registry.name());
    sandbox.msb("apply --now").arg(&name).run().success();
    assert_eq!(listed(&sandbox)[0]["digest"], *fourth);
    let wrong = sandbox.msb("apply --json --now").arg(format!("{}/app:2", registry.name())).run().code(2);
    assert_eq!(wrong.json()["error"]["kind"], "not-listed", "{wrong}");
}

#[test]
fn a_damaged_image_is_mended_while_its_successor_waits() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1"));
    let first = release(&registry, "app:1", "one");
    apply(&sandbox);
    release(&registry, "app:1", "two");
    apply(&sandbox);
    std::fs::remove_dir_all(sandbox.layers().join(&sandbox.extracted()[0])).unwrap();
    let repaired = apply(&sandbox);
    assert_eq!(
        (&repaired["action"], &repaired["digest"]),
        (&"repair".into(), &first.clone().into()),
        "{repaired}"
    );
    let database = sandbox.home().join("oci.db");
    let garble = "DELETE FROM manifest_layers";
    sandbox.program("sqlite3", &[database.to_str().unwrap(), garble]).run().success();
    let repaired = apply(&sandbox);
    assert_eq!((&repaired["action"], &repaired["digest"]), (&"repair".into(), &first.into()), "{repaired}");
    assert_eq!((apply(&sandbox)["action"].as_str(), count(&sandbox).as_str()), (Some("keep"), "1"));
}

#[test]
fn a_newly_chosen_tag_waits_and_the_one_before_stays() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    let newest = r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#;
    let images = with_cooldown(&registry, newest);
    sandbox.images(&format!("settings.prune = true\n{images}"));
    let tags = || -> Vec<String> {
        let image =
            |image: Value| image["reference"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        listed(&sandbox).into_iter().map(image).collect()
    };
    release(&registry, "app:1.0", "one");
    apply(&sandbox);
    release(&registry, "app:1.1", "two");
    apply(&sandbox);
    pass(&sandbox, 24);
    release(&registry, "app:1.2", "three");
    apply(&sandbox);
    let plan = sandbox.msb("plan --json").run().success().json();
    let waiting: Vec<&str> =
        plan["new_tags"].as_array().unwrap().iter().filter_map(|new| new["reference"].as_str()).collect();
    assert!(waiting.len() == 2 && waiting[0].ends_with(":1.1") && waiting[1].ends_with(":1.2"), "{plan}");
    assert_eq!((tags(), plan["changes"].as_u64()), (vec!["1.0".to_owned()], Some(0)));
    pass(&sandbox, 48);
    sandbox.msb("apply").run().success();
    assert_eq!(tags(), ["1.1"]);
    // A tag that is moved while it waits, waits again.
    release(&registry, "app:1.2", "four");
    pass(&sandbox, 100);
    sandbox.msb("apply").run().success();
    assert_eq!(tags(), ["1.1"]);
    pass(&sandbox, 72);
    sandbox.msb("apply").run().success();
    assert_eq!((tags(), count(&sandbox).as_str()), (vec!["1.2".to_owned()], "0"));
}

#[test]
fn a_lockfile_notes_new_digests_and_takes_them_in_their_time() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    let newest = r#"{ name = "web", tags = { semver = ">=1", newest = 1 } }"#;
    let images = wanted(&registry.name(), &["app:1", newest]);
    sandbox.images(&format!("settings.cooldown = \"2h\"\n{images}"));
    let (first, web) = (release(&registry, "app:1", "one"), release(&registry, "web:1.0", "web"));
    sandbox.msb("lock").run().success();
    let lockfile = || std::fs::read_to_string(sandbox.work().join("images.lock")).unwrap();
    assert!(!lockfile().contains("[[candidate]]"), "{}", lockfile());
    let (second, next) = (release(&registry, "app:1", "two"), release(&registry, "web:1.1", "next"));
    // Plain `lock` never moves a tag, nor starts a clock.
    sandbox.msb("lock --check").run().success();
    let upgraded = sandbox.msb("lock --upgrade --json").run().success().json();
    assert_eq!(
        (&upgraded["changed"], upgraded["candidates"].as_array().map(Vec::len)),
        (&true.into(), Some(2))
    );
    let noted = lockfile();
    assert_eq!(noted.matches("[[candidate]]").count(), 2, "{noted}");
    for digest in [&first, &web, &second, &next] {
        assert!(noted.contains(digest.as_str()), "{noted}");
    }
    // Once more changes nothing; machines take what is locked.
    let again = sandbox.msb("lock --upgrade").run().success();
    assert!(again.stdout.contains("Up to date") && again.stdout.contains("new digest "), "{again}");
    assert_eq!(lockfile(), noted);
    sandbox.msb("apply --locked").run().success();
    let digests: Vec<Value> = listed(&sandbox).iter().map(|image| image["digest"].clone()).collect();
    assert_eq!(digests, [first.clone(), web.clone()]);
    // Two hours ago.
    let older: String = noted
        .lines()
        .map(|line| if line.starts_with("since = ") { "since = \"2026-01-01T00:00:00Z\"" } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    sandbox.write("images.lock", &older);
    sandbox.msb("lock").run().success();
    assert_eq!(lockfile(), older);
    sandbox.msb("lock --upgrade").run().success();
    let taken = lockfile();
    assert!(!taken.contains("[[candidate]]") && taken.contains(&second) && taken.contains(&next), "{taken}");
    assert!(!taken.contains(&first) && !taken.contains(&web), "{taken}");
}

#[test]
fn a_pull_ends_the_wait_of_another_digest() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1"));
    release(&registry, "app:1", "one");
    apply(&sandbox);
    release(&registry, "app:1", "two");
    apply(&sandbox);
    let third = release(&registry, "app:1", "three");
    sandbox.msb("pull").arg(format!("{}/app:1", registry.name())).run().success();
    let left = count(&sandbox);
    pass(&sandbox, 100);
    release(&registry, "app:1", "two");
    let event = apply(&sandbox);
    assert_eq!((&event["digest"], left.as_str()), (&third.into(), "0"), "{event}");
}

#[test]
fn taking_another_digest_ends_the_wait() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1"));
    release(&registry, "app:1", "one");
    apply(&sandbox);
    release(&registry, "app:1", "two");
    apply(&sandbox);
    release(&registry, "app:1", "three");
    sandbox.images(&wanted(&registry.name(), &["app:1"]));
    apply(&sandbox);
    assert_eq!(count(&sandbox), "0");
}

#[test]
fn a_selection_of_another_file_leaves_a_note() {
    let registry = FakeRegistry::start(BlobSet::default());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&with_cooldown(&registry, "app:1.0"));
    release(&registry, "app:1.0", "one");
    release(&registry, "app:2.0", "other");
    apply(&sandbox);
    release(&registry, "app:1.0", "two");
    apply(&sandbox);
    assert_eq!(count(&sandbox), "1");
    sandbox.write(
        "other.toml",
        wanted(&registry.name(), &[r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#]),
    );
    sandbox.msb("apply other.toml").run().success();
    assert_eq!(count(&sandbox), "1");
}
