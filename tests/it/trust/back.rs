//! Signatures and time: the way back to an earlier digest, and the switch to a staged one, obey the rules as they are
//! then, those of every owner.

use super::*;

/// A world in which the tag has meant the index, and means the manifest of the same content now: each has the signature
/// of these, if any.
fn moved(index: Option<&str>, manifest: Option<&str>) -> (Sandbox, FakeRegistry, SignedImage) {
    let (sandbox, registry, image) = world(&[], "");
    for (digest, name) in [(&image.index, index), (&image.manifest, manifest)] {
        if let Some(name) = name {
            registry.edit(|content| list_in(content, digest, &[Signature::new(name)]));
        }
    }
    (sandbox, registry, image)
}

/// Lets the tag mean this digest.
fn point(registry: &FakeRegistry, digest: &str) {
    registry.edit(|content| content.tags.insert("team/app:1".to_owned(), digest.to_owned()));
}

fn digest(sandbox: &Sandbox) -> String {
    listed(sandbox)[0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn the_way_back_obeys_the_rule_of_now_and_asks_nobody_for_what_was_proven() {
    let (sandbox, registry, image) = moved(Some("cosign3-p256"), Some("cosign3-manifest"));
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    sandbox.msb("apply").run().success();
    point(&registry, &image.manifest);
    sandbox.msb("apply").run().success();
    assert_eq!(digest(&sandbox), image.manifest);

    let back = format!("rollback {}", reference(&registry));
    registry.forget();
    let output = sandbox.msb(&format!("{back} --json")).run().success();
    let event_of_image = event(&output, &reference(&registry));
    assert_eq!(event_of_image["trust"]["status"], "verified", "{event_of_image:#}");
    assert!(is_p256(&event_of_image["trust"]["by"]));
    assert_eq!((digest(&sandbox), registry.requests()), (image.index.clone(), Vec::new()));
    // So does the next run, which holds it there.
    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&summary["unchanged"], &summary["requests"]), (&1.into(), &0.into()), "{summary:#}");

    // By another rule nothing is proven: what is recorded stays, and is not held.
    sandbox.msb(&format!("{back} --release")).run().success();
    sandbox.msb("apply").run().success();
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    let output = sandbox.msb(&format!("{back} --json")).run().code(1);
    let refused = event(&output, &reference(&registry));
    assert_eq!(
        (&refused["error"]["kind"], &refused["trust"]["rule"]),
        (&"signature".into(), &"images.toml:4".into())
    );
    assert_eq!((digest(&sandbox), &listed(&sandbox)[0]["held"]), (image.manifest, &false.into()));
}

#[test]
fn every_owner_has_to_admit_the_earlier_digest() {
    let (sandbox, registry, image) = moved(Some("cosign3-p256"), None);
    write(&sandbox, &registry, "", "");
    let images = wanted(&registry.name(), &["team/app:1"]);
    // The file that asks for more comes first, or last.
    for strict in ["a.toml", "z.toml"] {
        let settings = "settings.platform = \"linux/amd64\"\n";
        point(&registry, &image.manifest);
        sandbox.write(strict, format!("{settings}{images}"));
        for file in ["images.toml", strict] {
            sandbox.msb(&format!("apply {file}")).run().success();
        }
        point(&registry, &image.index);
        let rule = rule(&registry, &key("p256.pub"));
        sandbox.write(strict, format!("{settings}{rule}{images}"));
        for file in ["images.toml", strict] {
            sandbox.msb(&format!("apply {file}")).run().success();
        }
        let before = sandbox.msb("history --json").run().success().stdout;
        let output = sandbox.msb(&format!("rollback {} --json", reference(&registry))).run().code(1);
        let refused = event(&output, &reference(&registry));
        assert_eq!(refused["error"]["kind"], "signature", "{refused:#}");
        assert_eq!(refused["trust"]["rule"], format!("{strict}:2"), "{refused:#}");
        assert_eq!(sandbox.msb("history --json").run().success().stdout, before);
        assert_eq!((digest(&sandbox), &listed(&sandbox)[0]["held"]), (image.index.clone(), &false.into()));
        // With leave of both it goes back for both.
        sandbox.write(strict, format!("{settings}{images}"));
        let output = sandbox.msb(&format!("rollback {} --json", reference(&registry))).run().success();
        assert_eq!(output.summary()["updated"], 1, "{output}");
        assert_eq!(digest(&sandbox), image.manifest);
        sandbox.msb(&format!("forget --owner {strict}")).run().success();
        sandbox.msb(&format!("rollback --release {}", reference(&registry))).run().success();
    }
}

#[test]
fn a_staged_image_is_judged_before_its_layers_and_again_at_the_switch() {
    let (sandbox, registry, image) = moved(Some("cosign3-p256"), None);
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    let output = sandbox.msb("apply --stage --json").run().code(1);
    assert_eq!(event(&output, &reference(&registry))["error"]["kind"], "signature", "{output}");
    assert!(!asked_for_layer(&registry, &image) && sandbox.extracted().is_empty());

    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    let output = sandbox.msb("apply --stage --json").run().success();
    let staged = event(&output, &reference(&registry));
    assert_eq!((&staged["staged"], &staged["trust"]["status"]), (&true.into(), &"verified".into()));
    assert!(listed(&sandbox).is_empty() && !sandbox.extracted().is_empty());

    // What was good in the night may be refused at noon.
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    let output = sandbox.msb("apply --json").run().code(1);
    assert_eq!(event(&output, &reference(&registry))["error"]["kind"], "signature", "{output}");
    assert!(listed(&sandbox).is_empty());

    // The proof was kept: a look at the tag is all.
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    registry.forget();
    let output = sandbox.msb("apply --json").run().success();
    assert_eq!(event(&output, &reference(&registry))["trust"], staged["trust"]);
    assert_eq!(registry.requests(), ["HEAD /v2/team/app/manifests/1"]);
}

#[test]
fn a_pull_obeys_the_rules_of_the_files_that_own_the_image() {
    let (sandbox, registry, image) = moved(Some("cosign3-p256"), None);
    point(&registry, &image.index);
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    sandbox.msb("apply").run().success();
    // The tag means an unsigned image now.
    point(&registry, &image.manifest);
    let pull = format!("pull {} --platform linux/amd64", reference(&registry));
    registry.forget();
    let output = sandbox.msb(&format!("{pull} --json")).run().code(1);
    let refused = event(&output, &reference(&registry));
    assert_eq!(
        (&refused["error"]["kind"], &refused["trust"]["rule"]),
        (&"signature".into(), &"images.toml:4".into()),
        "{output}"
    );
    assert!(!asked_for_layer(&registry, &image));
    let recorded = listed(&sandbox)[0].clone();
    assert_eq!(
        (&recorded["digest"], recorded["owners"].as_array().unwrap().len()),
        (&image.index.clone().into(), 1)
    );
    // By another file's rules, too.
    sandbox.write("loose.toml", "settings.platform = \"linux/amd64\"\n");
    sandbox.msb(&format!("{pull} --file loose.toml")).run().code(1);
    assert_eq!(digest(&sandbox), image.index);
    // An image that is signed is pulled, and one that no file owns is nobody's.
    point(&registry, &image.index);
    sandbox.msb(&pull).run().success();
    point(&registry, &image.manifest);
    sandbox.msb(&format!("forget {}", reference(&registry))).run().success();
    sandbox.msb(&pull).run().success();
    assert_eq!(digest(&sandbox), image.manifest);
}
