//! Cooldowns: a tag's new digest is taken only once it has been seen for so long, with a lockfile and
//! without, and so is a newly chosen tag.

use serde_json::Value;

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file, host_platform};
use crate::support::moving::Moving;
use crate::support::sandbox::Sandbox;

const THREE_DAYS: &str = "settings.cooldown = \"3d\"\n";
const TWO_HOURS: &str = "settings.cooldown = \"2h\"\n";

#[test]
fn a_new_digest_waits_for_its_time() {
    let world = Moving::wanting(THREE_DAYS, &["app:1"]);
    // A first add takes what there is.
    let first = world.release("app:1", "one");
    assert_eq!(world.apply()["digest"], *first);

    let second = world.release("app:1", "two");
    // A plan starts no clock.
    for _ in 0..2 {
        let plan = world.sandbox.msb("plan --json").run().success().json();
        assert_eq!((&plan["changes"], &plan["images"][0]["action"]), (&0.into(), &"keep".into()), "{plan}");
        assert_eq!(plan["images"][0]["candidate"]["digest"], *second);
    }
    assert_eq!(world.noted(), 0);
    world.registry.forget();
    let kept = world.apply();
    assert_eq!((&kept["action"], &kept["digest"]), (&"keep".into(), &first.clone().into()), "{kept}");
    assert!(kept["reason"].as_str().unwrap().starts_with("new digest sha256:"), "{kept}");
    // Nothing is fetched of what waits: a HEAD a run.
    world.apply();
    let heads = vec!["HEAD /v2/app/manifests/1".to_owned(); 2];
    assert_eq!(world.registry.requests(), heads);
    assert_eq!(world.noted(), 1);

    let told = world.sandbox.msb("apply").run().success();
    assert!(told.stderr.contains("  = ") && told.stderr.contains(": new digest "), "{told}");
    world.registry.forget();
    world.pass(71);
    let plan = world.sandbox.msb("plan").run().success().stdout;
    assert!(
        plan.contains("new digest ") && plan.contains(" seen 20") && plan.contains(", taken from 20"),
        "{plan}"
    );
    assert_eq!(world.apply()["digest"], *first);
    world.pass(1);
    let taken = world.apply();
    assert_eq!((&taken["action"], &taken["digest"]), (&"update".into(), &second.into()), "{taken}");
    assert_eq!(world.noted(), 0);
}

#[test]
fn another_digest_waits_anew_and_the_old_one_ends_the_wait() {
    let world = Moving::wanting(THREE_DAYS, &["app:1"]);
    let first = world.release("app:1", "one");
    world.apply();
    world.release("app:1", "two");
    world.apply();
    world.pass(100);
    world.release("app:1", "three");
    assert_eq!(world.apply()["digest"], *first);
    world.pass(100);
    world.release("app:1", "one");
    let back = world.apply();
    assert_eq!((&back["digest"], world.noted()), (&first.clone().into(), 0), "{back}");
    let fourth = world.release("app:1", "three");
    assert_eq!(world.apply()["digest"], *first);
    // Who cannot wait need not.
    let name = format!("{}/app:1", world.registry.name());
    world.sandbox.msb("apply --now").arg(&name).run().success();
    assert_eq!(listed(&world.sandbox)[0]["digest"], *fourth);
    let wrong =
        world.sandbox.msb("apply --json --now").arg(format!("{}/app:2", world.registry.name())).run().code(2);
    assert_eq!(wrong.json()["error"]["kind"], "not-listed", "{wrong}");
}

#[test]
fn a_damaged_image_is_mended_while_its_successor_waits() {
    let world = Moving::wanting(THREE_DAYS, &["app:1"]);
    let first = world.release("app:1", "one");
    world.apply();
    world.release("app:1", "two");
    world.apply();
    std::fs::remove_dir_all(world.sandbox.layers().join(&world.sandbox.extracted()[0])).unwrap();
    let repaired = world.apply();
    assert_eq!(
        (&repaired["action"], &repaired["digest"]),
        (&"repair".into(), &first.clone().into()),
        "{repaired}"
    );
    let database = world.sandbox.home().join("oci.db");
    let garble = "DELETE FROM manifest_layers";
    world.sandbox.program("sqlite3", &[database.to_str().unwrap(), garble]).run().success();
    let repaired = world.apply();
    assert_eq!((&repaired["action"], &repaired["digest"]), (&"repair".into(), &first.into()), "{repaired}");
    assert_eq!((world.apply()["action"].as_str(), world.noted()), (Some("keep"), 1));
}

#[test]
fn a_newly_chosen_tag_waits_and_the_one_before_stays() {
    let newest = r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#;
    let world = Moving::wanting(&format!("settings.prune = true\n{THREE_DAYS}"), &[newest]);
    let tags = || -> Vec<String> {
        let image =
            |image: Value| image["reference"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        listed(&world.sandbox).into_iter().map(image).collect()
    };
    world.release("app:1.0", "one");
    world.apply();
    world.release("app:1.1", "two");
    world.apply();
    world.pass(24);
    world.release("app:1.2", "three");
    world.apply();
    let plan = world.sandbox.msb("plan --json").run().success().json();
    let waiting: Vec<&str> =
        plan["new_tags"].as_array().unwrap().iter().filter_map(|new| new["reference"].as_str()).collect();
    assert!(waiting.len() == 2 && waiting[0].ends_with(":1.1") && waiting[1].ends_with(":1.2"), "{plan}");
    assert_eq!((tags(), plan["changes"].as_u64()), (vec!["1.0".to_owned()], Some(0)));
    world.pass(48);
    world.sandbox.msb("apply").run().success();
    assert_eq!(tags(), ["1.1"]);
    // A tag that is moved while it waits, waits again.
    world.release("app:1.2", "four");
    world.pass(100);
    world.sandbox.msb("apply").run().success();
    assert_eq!(tags(), ["1.1"]);
    world.pass(72);
    world.sandbox.msb("apply").run().success();
    assert_eq!((tags(), world.noted()), (vec!["1.2".to_owned()], 0));
}

#[test]
fn a_lockfile_notes_new_digests_and_takes_them_in_their_time() {
    let newest = r#"{ name = "web", tags = { semver = ">=1", newest = 1 } }"#;
    let world = Moving::wanting(TWO_HOURS, &["app:1", newest]);
    let (first, web) = (world.release("app:1", "one"), world.release("web:1.0", "web"));
    world.sandbox.msb("lock").run().success();
    let lockfile = || std::fs::read_to_string(world.sandbox.work().join("images.lock")).unwrap();
    assert!(!lockfile().contains("[[candidate]]"), "{}", lockfile());
    let (second, next) = (world.release("app:1", "two"), world.release("web:1.1", "next"));
    // Plain `lock` never moves a tag, nor starts a clock.
    world.sandbox.msb("lock --check").run().success();
    let upgraded = world.sandbox.msb("lock --upgrade --json").run().success().json();
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
    let again = world.sandbox.msb("lock --upgrade").run().success();
    assert!(again.stdout.contains("Up to date") && again.stdout.contains("new digest "), "{again}");
    assert_eq!(lockfile(), noted);
    world.sandbox.msb("apply --locked").run().success();
    let digests: Vec<Value> = listed(&world.sandbox).iter().map(|image| image["digest"].clone()).collect();
    assert_eq!(digests, [first.clone(), web.clone()]);
    // Two hours ago.
    let older: String = noted
        .lines()
        .map(|line| if line.starts_with("since = ") { "since = \"2026-01-01T00:00:00Z\"" } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    world.sandbox.write("images.lock", &older);
    world.sandbox.msb("lock").run().success();
    assert_eq!(lockfile(), older);
    world.sandbox.msb("lock --upgrade").run().success();
    let taken = lockfile();
    assert!(!taken.contains("[[candidate]]") && taken.contains(&second) && taken.contains(&next), "{taken}");
    assert!(!taken.contains(&first) && !taken.contains(&web), "{taken}");
}

#[test]
fn a_pull_ends_the_wait_of_another_digest() {
    let world = Moving::wanting(THREE_DAYS, &["app:1"]);
    world.release("app:1", "one");
    world.apply();
    world.release("app:1", "two");
    world.apply();
    let third = world.release("app:1", "three");
    world.sandbox.msb("pull").arg(format!("{}/app:1", world.registry.name())).run().success();
    let left = world.noted();
    world.pass(100);
    world.release("app:1", "two");
    let event = world.apply();
    assert_eq!((&event["digest"], left), (&third.into(), 0), "{event}");
}

#[test]
fn taking_another_digest_ends_the_wait() {
    let world = Moving::wanting(THREE_DAYS, &["app:1"]);
    world.release("app:1", "one");
    world.apply();
    world.release("app:1", "two");
    world.apply();
    world.release("app:1", "three");
    world.sandbox.images(&wanted(&world.registry.name(), &["app:1"]));
    world.apply();
    assert_eq!(world.noted(), 0);
}

#[test]
fn a_selection_of_another_file_leaves_a_note() {
    let world = Moving::wanting(THREE_DAYS, &["app:1.0"]);
    world.release("app:1.0", "one");
    world.release("app:2.0", "other");
    world.apply();
    world.release("app:1.0", "two");
    world.apply();
    assert_eq!(world.noted(), 1);
    world.sandbox.write(
        "other.toml",
        wanted(&world.registry.name(), &[r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#]),
    );
    world.sandbox.msb("apply other.toml").run().success();
    assert_eq!(world.noted(), 1);
}

#[test]
fn who_changes_the_rule_so_that_nothing_fits_chooses_for_the_first_time() {
    let below = |major: u32| format!("{{ name = \"app\", tags = {{ semver = \"<{major}\", newest = 1 }} }}");
    let world = Moving::wanting(THREE_DAYS, &[&below(3)]);
    world.release("app:2.0", "two");
    world.apply();
    let older = world.release("app:1.9", "one");
    world.want(THREE_DAYS, &[&below(2)]);
    let event = world.apply();
    assert_eq!((&event["action"], &event["digest"]), (&"add".into(), &older.into()), "{event}");
    assert_eq!(world.noted(), 0);
}

#[test]
fn a_tag_that_is_listed_by_name_waits_for_no_selection() {
    let newest = r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#;
    let settings = format!("settings.prune = true\n{THREE_DAYS}");
    let world = Moving::wanting(&settings, &[newest]);
    world.release("app:1.0", "one");
    world.apply();
    // The newest one waits, and the named one is the next best, however new.
    let named = world.release("app:1.1", "two");
    world.release("app:1.2", "three");
    world.want(&settings, &[newest, "app:1.1"]);
    world.run("apply");
    assert_eq!(world.digests(), [named]);
    let plan = world.run("plan --json").json();
    assert_eq!((&plan["changes"], plan["new_tags"].as_array().map(Vec::len)), (&0.into(), Some(1)), "{plan}");
}

#[test]
fn a_lockfile_notes_no_tag_that_is_listed_by_name_for_a_selection() {
    let newest = r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#;
    let world = Moving::wanting(TWO_HOURS, &[newest]);
    world.release("app:1.0", "one");
    world.run("lock");
    let named = world.release("app:1.1", "two");
    world.want(TWO_HOURS, &[newest, "app:1.1"]);
    world.run("lock --upgrade");
    let lockfile = std::fs::read_to_string(world.sandbox.work().join("images.lock")).unwrap();
    assert!(!lockfile.contains("[[candidate]]") && !lockfile.contains("app:1.0"), "{lockfile}");
    assert!(lockfile.contains(&named), "{lockfile}");
    world.run("lock --upgrade --check");
}

#[test]
fn who_cannot_wait_for_a_tag_of_a_selection_need_not() {
    let newest = r#"{ name = "app", tags = { semver = ">=1", newest = 1 } }"#;
    let world = Moving::wanting(THREE_DAYS, &[newest]);
    let now = |tag: &str| world.run(&format!("apply --json --now {}/{tag}", world.registry.name()));
    world.release("app:1.0", "one");
    world.apply();
    // Another digest of a tag that was chosen.
    let moved = world.release("app:1.0", "another");
    assert_eq!(world.apply()["action"], "keep");
    now("app:1.0");
    assert_eq!(world.digests(), [moved]);
    // A tag that is not the newest, and that nobody has looked at yet.
    world.release("app:1.2", "three");
    let chosen = world.release("app:1.1", "two");
    now("app:1.1");
    assert!(world.digests().contains(&chosen.into()));
}

#[test]
fn another_platform_gets_no_digest_that_waits() {
    let host = host_platform();
    let other = if host == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let index = |content: &mut BlobSet, release: &str| {
        let images = [&*host, other].map(|platform| {
            let layer = Layer::of(&[file("release", format!("{release} of {platform}"))]);
            content.image(&Image::new(&[layer]).platform(platform))
        });
        let index = content.index(false, &images);
        content.tag("app:1", &index);
    };
    for (first, second) in [(&*host, other), (other, &*host)] {
        let mut content = BlobSet::default();
        index(&mut content, "one");
        let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
        let images = wanted(&registry.name(), &["app:1"]);
        let settings = |platforms: &[&str]| {
            format!(
                "[settings]\ncooldown = \"3d\"\nplatform = {first:?}\nplatforms = {platforms:?}\n{images}"
            )
        };
        sandbox.images(&settings(&[first]));
        let locked = sandbox.msb("lock --json").run().success().json();
        registry.edit(|content| index(content, "two"));
        sandbox.images(&settings(&[first, second]));
        let upgraded = sandbox.msb("lock --upgrade --json").run().success().json();
        let entries = upgraded["images"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{upgraded:#}");
        for entry in entries {
            assert_eq!(
                entry["digest"], locked["images"][0]["digest"],
                "{first} was locked first: {upgraded:#}"
            );
        }
    }
}

#[test]
fn a_digest_without_an_index_holds_no_other_platform_up() {
    let host = host_platform();
    let other = if host == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let image = |content: &mut BlobSet, release: &str, platform: &str| {
        let layer = Layer::of(&[file("release", format!("{release} of {platform}"))]);
        content.image(&Image::new(&[layer]).platform(platform))
    };
    let mut content = BlobSet::default();
    let alone = image(&mut content, "one", &host);
    content.tag("app:1", &alone);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let images = wanted(&registry.name(), &["app:1"]);
    let settings =
        |platforms: &[&str]| format!("[settings]\ncooldown = \"3d\"\nplatforms = {platforms:?}\n{images}");
    sandbox.images(&settings(&[&host]));
    sandbox.msb("lock").run().success();
    registry.edit(|content| {
        let both = [&*host, other].map(|platform| image(content, "two", platform));
        let index = content.index(false, &both);
        content.tag("app:1", &index);
    });
    sandbox.images(&settings(&[&host, other]));
    let upgraded = sandbox.msb("lock --upgrade --json").run().success().json();
    let entries = upgraded["images"].as_array().unwrap();
    let of = |platform: &str| entries.iter().find(|entry| entry["platform"] == platform).unwrap();
    assert_eq!(of(&host)["digest"], alone.digest(), "{upgraded:#}");
    assert_eq!(of(other)["digest"], upgraded["candidates"][0]["digest"], "{upgraded:#}");
}

#[test]
fn a_chosen_tag_that_leaves_its_registry_stays_until_the_new_one_has_waited() {
    let selection = "{ name = \"app\", tags = { semver = \">=1\", newest = 1 } }";
    for prune in ["", "settings.prune = true\n"] {
        let world = Moving::wanting(&format!("{THREE_DAYS}{prune}"), &[selection]);
        let old = world.release("app:1.0", "one");
        world.run("apply");
        let new = world.release("app:1.1", "two");
        world.registry.edit(|content| content.tags.remove("app:1.0"));
        for _ in 0..2 {
            let plan = world.run("plan --json").json();
            let image = &plan["images"][0];
            assert_eq!(
                (&plan["changes"], &image["action"], &image["digest"]),
                (&0.into(), &"keep".into(), &old.clone().into())
            );
            world.registry.forget();
            let output = world.run("apply --json");
            assert_eq!(output.summary()["unchanged"], 1, "{output}");
            let told = world.run("plan").to_string();
            assert!(told.contains("app:1.1") && told.contains(&new[..19]), "{told}");
            let asked = world.registry.requests();
            assert!(!asked.iter().any(|request| request.contains("manifests/1.0")), "{asked:?}");
        }
        world.pass(72);
        let output = world.run("apply --prune --json");
        assert_eq!(
            (&output.summary()["added"], &output.summary()["removed"]),
            (&1.into(), &1.into()),
            "{output}"
        );
        // Without a cooldown nothing speaks for the old one.
        world.release("app:1.2", "three");
        world.registry.edit(|content| content.tags.remove("app:1.1"));
        world.want(prune, &[selection]);
        world.run("apply --prune");
        assert_eq!(listed(&world.sandbox)[0]["reference"], format!("{}/app:1.2", world.registry.name()));
    }
}

#[test]
fn a_locked_tag_that_leaves_its_registry_stays_until_the_new_one_has_waited() {
    let selection = "{ name = \"app\", tags = { semver = \">=1\", newest = 1 } }";
    let world = Moving::wanting(THREE_DAYS, &[selection]);
    let old = world.release("app:1.0", "one");
    world.run("lock");
    world.release("app:1.1", "two");
    world.registry.edit(|content| content.tags.remove("app:1.0"));
    let upgraded = world.run("lock --upgrade --json").json();
    assert_eq!(upgraded["candidates"].as_array().map(Vec::len), Some(1), "{upgraded:#}");
    let lockfile = std::fs::read_to_string(world.sandbox.work().join("images.lock")).unwrap();
    assert!(lockfile.contains(&old) && lockfile.contains("[[candidate]]"), "{lockfile}");
    world.run("lock --upgrade --check");
}

#[test]
fn an_older_tag_follows_a_chosen_one_that_is_withdrawn_once_it_has_waited() {
    let selection = "{ name = \"app\", tags = { semver = \">=1\", newest = 1 } }";
    let world = Moving::wanting(&format!("{THREE_DAYS}settings.prune = true\n"), &[selection]);
    let old = world.release("app:1.0", "one");
    let withdrawn = world.release("app:1.1", "two");
    world.run("apply");
    world.run("lock");
    world.registry.edit(|content| content.tags.remove("app:1.1"));
    let upgraded = world.run("lock --upgrade --json").json();
    assert_eq!(upgraded["candidates"].as_array().map(Vec::len), Some(1), "{upgraded:#}");
    std::fs::remove_file(world.sandbox.work().join("images.lock")).unwrap();
    for digest in [&withdrawn, &withdrawn, &old] {
        let output = world.run("apply --json");
        assert_eq!(listed(&world.sandbox)[0]["digest"], **digest, "{output}");
        world.pass(48);
    }
}

#[test]
fn a_tag_that_the_file_never_chose_takes_no_place_of_one_that_is_withdrawn() {
    let selection = "{ name = \"app\", tags = { semver = \">=1\", newest = 2 } }";
    let world = Moving::wanting(&format!("{THREE_DAYS}settings.prune = true\n"), &[selection]);
    for tag in ["app:1.0", "app:1.1"] {
        world.release(tag, tag);
    }
    world.run("apply");
    let chosen = listed(&world.sandbox).len();
    world.release("app:1.9", "pulled by hand");
    world.run(&format!("pull {}/app:1.9", world.registry.name()));
    world.registry.edit(|content| {
        content.tags.remove("app:1.9");
        content.tags.remove("app:1.1");
    });
    world.release("app:2.0", "new");
    for _ in 0..2 {
        let output = world.run("apply --json");
        let names: Vec<String> =
            listed(&world.sandbox).iter().map(|image| image["reference"].to_string()).collect();
        assert_eq!(names.len(), chosen + 1, "{output}");
        assert!(names.iter().any(|name| name.contains("app:1.1")), "{names:?} {output}");
        assert_eq!(output.summary()["unchanged"], 2, "{output}");
    }
}
