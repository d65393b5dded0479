//! Moving selections of tags: which tags are chosen, what that costs, and that nothing is removed on the word of a
//! registry that did not answer.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

/// A registry with `team/app` under these tags, each another image.
fn registry(tags: &[&str]) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::default());
    for tag in tags {
        add(&registry, tag);
    }
    registry
}

fn add(registry: &FakeRegistry, tag: &str) {
    registry.edit(|content| {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", tag)])]));
        content.tags.insert(format!("team/app:{tag}"), image.digest().to_owned());
    });
}

fn selecting(registry: &FakeRegistry, tags: &str, more: &str) -> String {
    wanted(&registry.name(), &[&format!("{{ name = \"team/app\", tags = {tags}{more} }}")])
}

/// `tag action` of every image of a plan, in its order; the repository alone has no tag.
fn planned(output: &Output) -> Vec<String> {
    let plan = output.json();
    let line = |image: &Value| {
        let name = image["reference"].as_str().unwrap().rsplit('/').next().unwrap();
        format!("{name} {}", image["action"].as_str().unwrap())
    };
    plan["images"].as_array().unwrap().iter().map(line).collect()
}

fn recorded(sandbox: &Sandbox) -> Vec<String> {
    let name = |image: &Value| image["reference"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    listed(sandbox).iter().map(name).collect()
}

const NEWEST_TWO: &str = "{ semver = \">=7, <8\", newest = 2 }";

#[test]
fn the_newest_tags_in_a_range_come_and_older_ones_go() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["6.9.0", "7.2.0", "7.9.0", "7.10.0", "7.11.0-rc1", "8.0.0", "latest"]);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:7.10.0 add", "app:7.9.0 add"]);
    sandbox.msb("apply").run().success();
    assert_eq!(recorded(&sandbox), ["app:7.10.0", "app:7.9.0"]);

    registry.forget();
    let again = sandbox.msb("apply --json").run().success();
    let mut requests = registry.requests();
    requests.sort();
    assert_eq!(
        requests,
        [
            "GET /v2/team/app/tags/list",
            "HEAD /v2/team/app/manifests/7.10.0",
            "HEAD /v2/team/app/manifests/7.9.0"
        ]
    );
    assert_eq!(again.summary()["requests"], 3, "{again}");

    add(&registry, "7.12.0");
    let plan = sandbox.msb("plan").run().success();
    assert!(plan.stdout.contains("not listed any more, kept (--prune removes)"), "{plan}");
    let plan = sandbox.msb("plan --json --prune").run().success();
    assert_eq!(planned(&plan), ["app:7.10.0 keep", "app:7.12.0 add", "app:7.9.0 remove"]);
    assert!(plan.stdout.contains("chosen by semver"), "{plan}");
}

#[test]
fn what_is_kept_is_one_line_whatever_chose_it() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["6.9.0", "7.2.0", "7.9.0", "8.0.0"]);
    let eight = "{ name = \"team/app\", tags = { match = \"8.*\" } }";
    let seven = format!("{{ name = \"team/app\", tags = {NEWEST_TWO} }}");
    sandbox.images(&wanted(&registry.name(), &["team/app:6.9.0", eight, &seven]));
    sandbox.msb("apply").run().success();
    let kept = |arguments: &str| -> Vec<String> {
        let plan = sandbox.msb(arguments).run().success();
        plan.stdout.lines().filter(|line| line.starts_with("  = ")).map(str::to_owned).collect()
    };
    assert_eq!(kept("plan"), ["  = 4 images  keep"]);
    assert_eq!(kept("plan -v").len(), 4);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    sandbox.msb("apply --prune").run().success();
    assert_eq!(kept("plan"), ["  = 2 images  keep  chosen by semver \">=7, <8\", newest 2"]);
}

#[test]
fn a_pattern_matches_the_whole_tag_and_lists_are_read_to_their_end() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["22.9-slim", "22.10-slim", "22.10-slim-arm", "v22.1-slim"]);
    // Pages of one tag, whatever is asked for.
    registry.on(|request| {
        let list = request.path.ends_with("/tags/list") && request.parameter("last").is_none();
        list.then(|| Fault {
            body: Some(br#"{"tags":["22.10-slim","22.10-slim-arm"]}"#.to_vec()),
            ..Fault::default()
                .header("Link", "</v2/team/app/tags/list?n=9&last=22.10-slim-arm>; rel=\"next\"")
        })
    });
    sandbox.images(&selecting(&registry, "{ match = '22\\.[0-9]+-slim' }", ""));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:22.10-slim add", "app:22.9-slim add"]);
}

#[test]
fn a_list_that_cannot_be_had_or_chooses_nothing_blocks_and_removes_nothing() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0", "7.9.0"]);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    sandbox.msb("apply").run().success();

    registry.on(|request| request.path.ends_with("/tags/list").then(|| Fault::status(403)));
    let plan = sandbox.msb("plan --json --prune").run().code(1);
    assert_eq!(planned(&plan), ["app blocked"]);
    let reference = format!("{}/team/app", registry.name());
    assert_eq!(plan.json()["images"][0]["reference"], reference.as_str(), "{plan}");
    sandbox.msb("apply --prune").run().code(1).says(&format!("error: {reference}: "));
    assert_eq!(recorded(&sandbox).len(), 2);
    registry.behave();

    sandbox.images(&selecting(&registry, "{ semver = \">=9\" }", ""));
    let plan = sandbox.msb("plan --json --prune").run().code(1);
    assert_eq!(planned(&plan), ["app blocked"]);
    assert!(plan.stdout.contains("none of its 2 tags fits"), "{plan}");
    sandbox.msb("apply --prune").run().code(1);
    assert_eq!(recorded(&sandbox).len(), 2);
}

#[test]
fn without_the_network_the_recorded_tags_that_fit_are_used() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0", "7.9.0"]);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    let blocked = sandbox.msb("plan --json --offline").run().code(1);
    assert_eq!(planned(&blocked), ["app blocked"]);
    sandbox.msb("apply").run().success();
    add(&registry, "7.10.0");
    registry.forget();

    let newest_one = "{ semver = \"7\", newest = 1 }";
    for (tags, more, arguments) in [
        (NEWEST_TWO, "", "--offline"),
        (NEWEST_TWO, ", pull = \"never\"", ""),
        (NEWEST_TWO, ", pull = \"missing\"", ""),
    ] {
        sandbox.images(&selecting(&registry, tags, more));
        let plan = sandbox.msb(&format!("plan --json --prune {arguments}")).run().success();
        assert_eq!(planned(&plan), ["app:7.2.0 keep", "app:7.9.0 keep"], "{more} {arguments}");
    }
    // Which of the others would have been chosen is not known.
    sandbox.images(&selecting(&registry, newest_one, ""));
    let plan = sandbox.msb("plan --json --prune --offline").run().success();
    assert_eq!(planned(&plan), ["app:7.9.0 keep"]);
    assert_eq!(registry.requests(), [] as [&str; 0]);

    // One more than are here: only the registry knows it.
    let three = "{ semver = \"7\", newest = 3 }";
    sandbox.images(&selecting(&registry, three, ", pull = \"missing\""));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:7.10.0 add", "app:7.2.0 keep", "app:7.9.0 keep"]);
    sandbox.msb("apply").run().success();
    registry.forget();
    sandbox.msb("apply").run().success();
    assert_eq!(registry.requests(), [] as [&str; 0]);
}

#[test]
fn two_selections_and_a_listed_tag_of_one_repository_share_one_list() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0", "7.9.0", "8.1.0", "8.2.0"]);
    sandbox.images(&wanted(
        &registry.name(),
        &[
            "team/app:7.9.0",
            "{ name = \"team/app\", tags = { semver = \"7\" }, groups = [\"old\"] }",
            "{ name = \"team/app\", tags = { match = \"8.*\", newest = 1 } }",
        ],
    ));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:7.2.0 add", "app:7.9.0 add", "app:8.2.0 add"]);
    let lists = registry.requests().iter().filter(|request| request.contains("/tags/list")).count();
    assert_eq!(lists, 1);

    sandbox.msb("apply").run().success();
    let plan = sandbox.msb("plan --json --prune --group old").run().success();
    assert_eq!(planned(&plan), ["app:7.2.0 keep", "app:7.9.0 keep"]);
}

#[test]
fn one_tag_for_two_platforms_is_refused() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0"]);
    let other = "{ name = \"team/app\", tags = { semver = \"7\" }, platform = \"linux/riscv64\" }";
    sandbox.images(&wanted(&registry.name(), &["team/app:7.2.0", other]));
    let plan = sandbox.msb("plan --json").run().code(1);
    assert_eq!(planned(&plan), ["app blocked", "app:7.2.0 add"]);
    assert!(plan.stdout.contains("two platforms"), "{plan}");
}

#[test]
fn a_lockfile_fixes_the_choice_until_it_is_upgraded() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["6.9.0", "7.2.0", "7.9.0"]);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    sandbox.msb("apply --locked").run().code(1).says("there is no images.lock");
    let first = sandbox.msb("lock --json").run().success();
    assert_eq!(planned(&first), ["app:7.2.0 add", "app:7.9.0 add"]);
    let text = std::fs::read_to_string(sandbox.work().join("images.lock")).unwrap();
    assert!(
        text.contains("semver = \">=7, <8\"\nnewest = 2\ntags = [\n  \"7.9.0\",\n  \"7.2.0\",\n]\n"),
        "{text}"
    );

    // A newer tag comes, and one of the locked ones moves: nobody asks, nothing changes.
    add(&registry, "7.10.0");
    registry.edit(|content| {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", "moved")])]));
        content.tags.insert("team/app:7.2.0".to_owned(), image.digest().to_owned());
    });
    sandbox.msb("lock").run().success();
    sandbox.msb("lock --check").run().success();
    assert_eq!(std::fs::read_to_string(sandbox.work().join("images.lock")).unwrap(), text);
    registry.forget();
    let plan = sandbox.msb("plan --json --locked").run().success();
    assert_eq!(planned(&plan), ["app:7.2.0 add", "app:7.9.0 add"]);
    assert!(plan.stdout.contains("chosen by semver"), "{plan}");
    assert!(plan.json()["download_bytes"].as_u64().unwrap() > 0, "{plan}");
    assert_eq!(registry.requests(), [] as [&str; 0]);
    sandbox.msb("apply --locked").run().success();
    assert!(registry.requests().iter().all(|request| !request.contains("tags/list")));
    assert_eq!(recorded(&sandbox), ["app:7.2.0", "app:7.9.0"]);
    registry.forget();
    sandbox.msb("apply --locked --offline").run().success();
    assert_eq!(registry.requests(), [] as [&str; 0]);

    // One tag by name moves that tag, and chooses nothing.
    let moved = sandbox.msb("lock --json --upgrade").arg(format!("{}/team/app:7.2.0", registry.name())).run();
    assert_eq!(planned(&moved.success()), ["app:7.2.0 update", "app:7.9.0 keep"]);
    // The repository by name chooses anew, and so does everything.
    let repository = format!("{}/team/app", registry.name());
    let pending = sandbox.msb("lock --json --check --upgrade").arg(&repository).run().code(2);
    assert_eq!(planned(&pending), ["app:7.10.0 add", "app:7.2.0 remove", "app:7.9.0 keep"]);
    sandbox.msb("lock --upgrade").run().success();
    let plan = sandbox.msb("plan --json --locked --prune").run().success();
    assert_eq!(planned(&plan), ["app:7.10.0 add", "app:7.9.0 keep", "app:7.2.0 remove"]);
    assert!(plan.stdout.contains("not among the tags chosen now"), "{plan}");
    sandbox.msb("apply --locked").run().success();
    let pruned = sandbox.msb("prune --json").run().success();
    assert!(pruned.stdout.contains("app:7.2.0"), "{pruned}");
    assert_eq!(recorded(&sandbox), ["app:7.10.0", "app:7.9.0"]);
}

#[test]
fn another_rule_or_none_is_not_covered_by_the_lockfile() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0", "7.9.0", "8.0.0"]);
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    sandbox.msb("lock").run().success();
    let lockfile = sandbox.work().join("images.lock");
    let before = std::fs::read_to_string(&lockfile).unwrap();
    registry.edit(|content| {
        let image = content.image(&Image::new(&[Layer::of(&[file("tag", "moved")])]));
        content.tags.insert("team/app:7.9.0".to_owned(), image.digest().to_owned());
    });

    sandbox.images(&selecting(&registry, "{ semver = \">=7\", newest = 2 }", ""));
    let refused = sandbox.msb("apply --locked").run().code(1);
    let refused =
        refused.says("does not cover images.toml exactly").says("not chosen yet, or by another rule");
    assert!(refused.stderr.contains("hint: run: msb-sync lock images.toml"), "{refused}");
    // Without --locked the choice is made by the list, and said.
    let plan = sandbox.msb("plan --json").run().success().says("warning: not in images.lock: tags of ");
    assert_eq!(planned(&plan), ["app:7.9.0 add", "app:8.0.0 add"]);
    sandbox.msb("lock --check").run().code(2);
    // What stays chosen stays what it was.
    let relocked = sandbox.msb("lock --json").run().success();
    assert_eq!(planned(&relocked), ["app:7.2.0 remove", "app:7.9.0 keep", "app:8.0.0 add"]);
    sandbox.msb("plan --locked").run().success();

    sandbox.images(&wanted(&registry.name(), &["team/app:7.9.0"]));
    sandbox.msb("plan --locked").run().code(1).says("not selected any more");
    let relocked = sandbox.msb("lock --json").run().success();
    assert_eq!(planned(&relocked), ["app:7.9.0 keep", "app:8.0.0 remove"]);
    assert!(!std::fs::read_to_string(&lockfile).unwrap().contains("[[selection]]"));

    // A tag that its rule cannot have chosen is not believed.
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    std::fs::write(&lockfile, before.replace("7.2.0", "9.2.0")).unwrap();
    sandbox.msb("plan --locked").run().code(1).says("not chosen yet");
    sandbox.msb("lock").run().success();
    assert_eq!(std::fs::read_to_string(&lockfile).unwrap(), before);
}

#[test]
fn a_selection_that_cannot_be_made_leaves_the_lockfile_alone() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["7.2.0"]);
    let riscv = "{ name = \"team/app\", tags = { semver = \"7\" }, platform = \"linux/riscv64\" }";
    for (images, complaint) in [
        (selecting(&registry, "{ semver = \">=9\" }", ""), "none of its 1 tags fits semver \">=9\""),
        (wanted(&registry.name(), &["team/app:7.2.0", riscv]), "two platforms"),
    ] {
        sandbox.images(&images);
        sandbox.msb("lock").run().code(1).says(complaint);
        assert!(!sandbox.work().join("images.lock").exists());
    }
    registry.on(|request| request.path.ends_with("/tags/list").then(|| Fault::status(403)));
    sandbox.images(&selecting(&registry, NEWEST_TWO, ""));
    let refused = sandbox.msb("lock --json").run().code(1);
    assert_eq!(planned(&refused), ["app blocked"], "{refused}");
    assert_eq!(refused.json()["changed"], false);
    assert!(!sandbox.work().join("images.lock").exists());
}

#[test]
fn thousands_of_large_patterns_are_refused_at_once_with_their_place() {
    let sandbox = Sandbox::in_memory();
    let mut text = "[registry.\"r.example\"]\nimages = [\n".to_owned();
    for number in 0..5000 {
        let _ = writeln!(
            text,
            "  {{ name = \"app-{number}\", tags = {{ match = \"[0-9a-z]{{500}}-{number}\" }} }},"
        );
    }
    text.push_str("]\n");
    sandbox.images(&text);
    let refused = sandbox.msb("plan").timeout(Duration::from_secs(60)).run().code(2);
    assert_eq!(refused.stderr.matches("error: ").count(), 1, "{refused}");
    assert!(
        refused.stderr.contains("one pattern too many") && refused.stderr.contains("images.toml:"),
        "{refused}"
    );
    // Generous: a debug build, on a busy machine.
    assert!(refused.elapsed < Duration::from_secs(30), "{refused}");
    // As many small ones are fine.
    sandbox.images(&text.replace("[0-9a-z]{500}", "[0-9a-z]+"));
    sandbox.msb("plan --offline").timeout(Duration::from_secs(120)).run().code(1);
}

#[test]
fn a_group_of_the_pattern_says_what_is_newest() {
    let sandbox = Sandbox::in_memory();
    let registry =
        registry(&["main-fffffff-1700000000", "main-0000000-1800000000", "main-1234567-900000000", "dev-1"]);
    let pattern = "'main-[0-9a-f]+-(?P<order>[0-9]+)'";
    sandbox.images(&selecting(&registry, &format!("{{ match = {pattern}, newest = 1 }}"), ""));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:main-0000000-1800000000 add"]);
    // The lockfile keeps the rule as it is.
    sandbox.msb("lock").run().success();
    sandbox.msb("apply --locked").run().success();
    sandbox.msb("lock --check").run().success();
    add(&registry, "main-aaaaaaa-1900000000");
    let upgraded = sandbox.msb("lock --upgrade --json").run().success();
    assert_eq!(planned(&upgraded), ["app:main-0000000-1800000000 remove", "app:main-aaaaaaa-1900000000 add"]);
}

#[test]
fn ranges_may_be_written_as_npm_helm_and_people_do() {
    let sandbox = Sandbox::in_memory();
    let registry = registry(&["v1.2.0", "1.9.3_2", "1.9.3_10", "2.0.0", "2.5.1", "3.1.0", "24.04"]);
    for (range, chosen) in [
        ("\">=1.2 <2 || ^3\"", &["1.9.3_10", "1.9.3_2", "3.1.0", "v1.2.0"][..]),
        ("[\"~2.5\", \"3.1.0 - 3.2\"]", &["2.5.1", "3.1.0"]),
        ("\"v1.9 - v2.0\"", &["1.9.3_10", "1.9.3_2", "2.0.0"]),
        ("\">=v2\"", &["2.0.0", "2.5.1", "24.04", "3.1.0"]),
        ("\">=24.04\"", &["24.04"]),
    ] {
        sandbox.images(&selecting(&registry, &format!("{{ semver = {range} }}"), ""));
        let plan = sandbox.msb("plan --json").run().success();
        let expected: Vec<String> = chosen.iter().map(|tag| format!("app:{tag} add")).collect();
        assert_eq!(planned(&plan), expected, "{range}");
        // What was locked by the rule is found by it again.
        sandbox.msb("lock").run().success();
        sandbox.msb("plan --locked").run().success();
        std::fs::remove_file(sandbox.work().join("images.lock")).unwrap();
    }
    sandbox.images(&selecting(&registry, "{ semver = \"^1\", newest = 1 }", ""));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(planned(&plan), ["app:1.9.3_10 add"], "builds are numbers too");

    sandbox.images(&selecting(&registry, "{ semver = [\">=1\",\n\"1 || two\"] }", ""));
    let wrong = sandbox.msb("plan").run().code(2).says("images.toml:3:1");
    assert!(wrong.stderr.contains("is not a range of versions: `two`"), "{wrong}");
}
