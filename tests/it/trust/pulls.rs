//! A pull from outside: each image obeys the rules of the images files that own it, whatever else is named beside it.

use super::*;

const PLATFORM: &str = "settings.platform = \"linux/amd64\"\n";

/// A registry in which these tags mean the index, which is signed by the key `p256.pub`.
fn shelf(tags: &[&str]) -> (Sandbox, FakeRegistry, SignedImage) {
    let image = SignedImage::new();
    let registry = FakeRegistry::start(signed(&image, &["cosign3-p256"]));
    point(&registry, tags, &image.index);
    (Sandbox::in_memory(), registry, image)
}

/// Lets these tags mean this digest.
fn point(registry: &FakeRegistry, tags: &[&str], digest: &str) {
    for tag in tags {
        registry.edit(|content| content.tags.insert((*tag).to_owned(), digest.to_owned()));
    }
}

/// Writes an images file of these images, with these settings and rules.
fn file(sandbox: &Sandbox, registry: &FakeRegistry, name: &str, rules: &str, images: &[&str]) {
    sandbox.write(name, format!("{PLATFORM}{rules}{}", wanted(&registry.name(), images)));
}

/// The command that pulls these images.
fn pull(registry: &FakeRegistry, tags: &[&str]) -> String {
    let names: Vec<String> = tags.iter().map(|tag| format!("{}/{tag}", registry.name())).collect();
    format!("pull --platform linux/amd64 {}", names.join(" "))
}

/// The digests that are recorded, by reference.
fn recorded(sandbox: &Sandbox) -> Vec<(String, String)> {
    let text = |image: &Value, key: &str| image[key].as_str().unwrap().to_owned();
    listed(sandbox).iter().map(|image| (text(image, "reference"), text(image, "digest"))).collect()
}

#[test]
fn each_image_obeys_its_own_owners_whatever_is_named_beside_it() {
    let tags = ["team/x:1", "team/y:1"];
    let (sandbox, registry, image) = shelf(&tags);
    for name in ["a.toml", "b.toml"] {
        file(&sandbox, &registry, name, "", &tags);
        sandbox.msb(&format!("apply {name}")).run().success();
    }
    // Each file refuses one of them, and takes the other one as it is.
    for (name, accepted) in [("a.toml", "y"), ("b.toml", "x")] {
        let accepts = format!("[[trust]]\nimages = [\"*/team/{accepted}\"]\naccept = \"unsigned\"\n");
        file(&sandbox, &registry, name, &format!("settings.unsigned = \"refuse\"\n{accepts}"), &tags);
    }
    point(&registry, &tags, &image.manifest);
    let before = recorded(&sandbox);
    let output = sandbox.msb(&format!("{} --json", pull(&registry, &tags))).run().code(1);
    for (tag, refusing) in [("team/x:1", "a.toml:2"), ("team/y:1", "b.toml:2")] {
        let refused = event(&output, &format!("{}/{tag}", registry.name()));
        assert_eq!(refused["error"]["kind"], "signature", "{output}");
        assert_eq!(refused["trust"]["rule"], refusing, "{output}");
    }
    assert_eq!(recorded(&sandbox), before);
    // An image that nobody owns, or whose owner asks for nothing, is not held up by these.
    point(&registry, &["team/z:1"], &image.manifest);
    let output = sandbox.msb(&format!("{} --json", pull(&registry, &["team/x:1", "team/z:1"]))).run().code(1);
    assert_eq!((&output.summary()["added"], &output.summary()["failed"]), (&1.into(), &1.into()), "{output}");
    file(&sandbox, &registry, "a.toml", "", &tags);
    sandbox.msb(&pull(&registry, &["team/x:1"])).run().success();
}

#[test]
fn owners_cost_no_request() {
    let requests = |rules_of_owners: bool| {
        let (sandbox, registry, image) = shelf(&["team/app:1"]);
        let rule = rule(&registry, &key("p256.pub"));
        point(&registry, &["team/app:1"], &image.manifest);
        for name in ["a.toml", "b.toml", "own.toml"] {
            file(&sandbox, &registry, name, "", &["team/app:1"]);
            sandbox.msb(&format!("apply {name}")).run().success();
        }
        // Either all the owners ask for the signature, or nobody but the file that is named does.
        let asking = if rules_of_owners { &["a.toml", "b.toml", "own.toml"][..] } else { &["own.toml"] };
        for (line, name) in asking.iter().enumerate() {
            // Rules that are the same in other places are the same.
            file(&sandbox, &registry, name, &format!("{}{rule}", "\n".repeat(line)), &["team/app:1"]);
        }
        point(&registry, &["team/app:1"], &image.index);
        let mut found = Vec::new();
        for _ in 0..2 {
            registry.forget();
            let pull = format!("{} --file own.toml --json", pull(&registry, &["team/app:1"]));
            let output = sandbox.msb(&pull).run().success();
            let trust = &event(&output, &reference(&registry))["trust"];
            assert_eq!(trust["status"], "verified", "{output}");
            let mut requests = registry.requests();
            requests.sort_unstable();
            assert_eq!(output.summary()["requests"], requests.len(), "{output}");
            found.push(requests);
        }
        assert_eq!(recorded(&sandbox)[0].1, image.index);
        found
    };
    let with_owners = requests(true);
    assert_eq!(with_owners[1], ["HEAD /v2/team/app/manifests/1"]);
    assert_eq!(with_owners, requests(false));
}

#[test]
fn files_that_ask_for_different_signatures_end_a_pull_before_it_begins() {
    let tags = ["team/app:1", "team/z:1"];
    let (sandbox, registry, image) = shelf(&tags);
    let (one, other) = (rule(&registry, &key("p256.pub")), rule(&registry, &key("other.pub")));
    for name in ["a.toml", "b.toml"] {
        file(&sandbox, &registry, name, "", &["team/app:1"]);
        sandbox.msb(&format!("apply {name}")).run().success();
    }
    let before = recorded(&sandbox);
    point(&registry, &tags, &image.manifest);
    registry.forget();
    file(&sandbox, &registry, "a.toml", &one, &["team/app:1"]);
    for different in [&other, &format!("{one}provenance = true\n"), "settings.unsigned = \"refuse\"\n"] {
        file(&sandbox, &registry, "b.toml", different, &["team/app:1"]);
        let output = sandbox.msb(&pull(&registry, &tags)).run().code(2);
        let files = ["a.toml", "b.toml"].map(|name| sandbox.work().join(name).display().to_string());
        output
            .says(&format!(
                "{}: {} and {} ask for different signatures",
                reference(&registry),
                files[0],
                files[1]
            ))
            .says("msb-sync apply FILE");
    }
    // So does the file that is named, which need not own the image.
    file(&sandbox, &registry, "b.toml", "", &["team/app:1"]);
    file(&sandbox, &registry, "own.toml", &other, &[]);
    let output = sandbox.msb(&format!("{} --file own.toml --json", pull(&registry, &tags))).run().code(2);
    assert_eq!(output.json()["error"]["kind"], "trust-file", "{output}");
    assert_eq!((recorded(&sandbox), registry.requests()), (before, Vec::new()));
    // A file whose rule accepts the image leaves the word to the others.
    file(&sandbox, &registry, "own.toml", &rule(&registry, "accept = \"unsigned\""), &[]);
    point(&registry, &tags, &image.index);
    sandbox.msb(&format!("{} --file own.toml", pull(&registry, &tags))).run().success();
}

#[test]
fn an_owner_that_cannot_be_read_ends_a_pull_before_it_begins() {
    let (sandbox, registry, _) = shelf(&["team/app:1", "team/z:1"]);
    file(&sandbox, &registry, "a.toml", "", &["team/app:1"]);
    sandbox.msb("apply a.toml").run().success();
    let before = recorded(&sandbox);
    let pull = pull(&registry, &["team/z:1", "team/app:1"]);
    registry.forget();
    let missing = rule(&registry, "key = \"missing.pub\"");
    for (rules, said) in [(&missing[..], "missing.pub"), ("broken = [\n", "a.toml")] {
        file(&sandbox, &registry, "a.toml", rules, &["team/app:1"]);
        sandbox.msb(&pull).run().code(2).says(said);
        assert_eq!((recorded(&sandbox), registry.requests()), (before.clone(), Vec::new()), "{rules}");
    }
    // A key of a rule for other images is nobody's business, nor is a file that is no more.
    let elsewhere = "[[trust]]\nimages = [\"elsewhere.example/*\"]\nkey = \"missing.pub\"\n";
    file(&sandbox, &registry, "a.toml", elsewhere, &["team/app:1"]);
    sandbox.msb(&pull).run().success();
    std::fs::remove_file(sandbox.work().join("a.toml")).unwrap();
    sandbox.msb(&pull).run().success();
}

#[test]
fn a_key_that_goes_meanwhile_takes_nothing_from_the_images_that_are_done() {
    let tags = ["team/app:1", "team/z:1"];
    let (sandbox, registry, _) = shelf(&tags);
    file(&sandbox, &registry, "a.toml", "", &tags[..1]);
    sandbox.msb("apply a.toml").run().success();
    let copy = sandbox.write("copy.pub", std::fs::read(fixtures().join("p256.pub")).unwrap());
    file(&sandbox, &registry, "a.toml", &rule(&registry, "key = \"copy.pub\""), &tags[..1]);
    registry.on(move |_| {
        std::fs::remove_file(&copy).ok();
        None
    });
    let output = sandbox.msb(&format!("{} --json", pull(&registry, &tags))).run().code(1);
    let summary = output.summary();
    assert_eq!((&summary["added"], &summary["error"]["kind"]), (&1.into(), &"trust-file".into()), "{output}");
    assert_eq!(recorded(&sandbox).len(), 2);
}

#[test]
fn a_selection_is_judged_by_the_file_that_makes_it() {
    let (sandbox, registry, image) = shelf(&["team/app:1.0"]);
    file(&sandbox, &registry, "a.toml", "", &["team/app:1.0"]);
    sandbox.msb("apply a.toml").run().success();
    file(&sandbox, &registry, "a.toml", "settings.unsigned = \"refuse\"\n", &["team/app:1.0"]);
    point(&registry, &["team/app:2.0"], &image.manifest);
    let newest = "{ name = \"team/app\", tags = { semver = \">=1\", newest = 1 }, groups = [\"newest\"] }";
    file(&sandbox, &registry, "own.toml", "", &[newest]);
    let output = sandbox.msb("pull @newest --file own.toml --json").run().success();
    assert_eq!(output.summary()["added"], 1, "{output}");
    assert_eq!(recorded(&sandbox)[1], (format!("{}/team/app:2.0", registry.name()), image.manifest));
}
