//! Proofs that images are signed, as the catalog keeps them: for which images they count, how long, and that none is
//! lost where there are many.

use super::*;
use crate::support::hex;

/// Asks the catalog, or changes it.
fn sql(sandbox: &Sandbox, statement: &str) -> String {
    let catalog = sandbox.home().join("oci.db");
    let output = sandbox.program("sqlite3", &[catalog.to_str().unwrap(), statement]).run().success();
    output.stdout.trim_end().to_owned()
}

/// The lockfile.
fn lockfile(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.work().join("images.lock")).unwrap()
}

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The largest candidate, in bytes.
const LARGEST: usize = 4 << 20;

#[test]
fn a_copy_of_a_signed_image_is_as_good_in_the_first_run_as_in_the_next() {
    let image = SignedImage::new();
    let mut content = signed(&image, &["cosign3-p256"]);
    for copy in ["a/copy:1", "z/copy:1"] {
        content.tags.insert(copy.to_owned(), image.index.clone());
    }
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    for names in [["a/copy:1", "team/app:1", "z/copy:1"], ["z/copy:1", "a/copy:1", "team/app:1"]] {
        sandbox.images(&format!(
            "[settings]\nplatform = \"linux/amd64\"\n\n{}{}",
            rule(&registry, &key("p256.pub")),
            wanted(&registry.name(), &names)
        ));
        let plan = sandbox.msb("plan --json").run().success().json();
        let all_verified = |plan: &Value| {
            plan["images"].as_array().unwrap().iter().all(|image| is_p256(&image["trust"]["by"]))
        };
        assert!(all_verified(&plan), "{plan:#}");
    }
    sandbox.msb("lock").run().success();
    assert_eq!(lockfile(&sandbox).matches("signed-by").count(), 3);
    std::fs::remove_file(sandbox.work().join("images.lock")).unwrap();
    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!(summary["added"], 3, "{summary:#}");
    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&summary["unchanged"], &summary["requests"]), (&3.into(), &3.into()), "{summary:#}");
}

#[test]
fn a_lockfile_for_several_platforms_wants_each_of_them_signed() {
    for (name, is_whole) in [("cosign3-manifest", false), ("cosign3-p256", true)] {
        let image = SignedImage::new();
        let mut content = image.content.clone();
        let signature = Signature::new(name);
        list_in(&mut content, &signature.subject.clone(), &[signature]);
        let registry = FakeRegistry::start(content);
        let sandbox = Sandbox::in_memory();
        for platforms in [["linux/amd64", "linux/arm64"], ["linux/arm64", "linux/amd64"]] {
            sandbox.images(&format!(
                "[settings]\nplatform = \"linux/amd64\"\nplatforms = {platforms:?}\n{}{}",
                rule(&registry, &key("p256.pub")),
                wanted(&registry.name(), &["team/app:1"])
            ));
            let locked = sandbox.msb("lock").run();
            if is_whole {
                locked.success();
                assert_eq!(lockfile(&sandbox).matches("signed-by").count(), 2);
            } else {
                locked.code(1).says("images.toml:4: no signature");
                assert!(!sandbox.work().join("images.lock").exists());
            }
        }
    }
}

#[test]
fn the_place_of_a_rule_is_in_its_file_whatever_the_directory() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("p256.pub"));
    let path = sandbox.work().join("images.toml");
    let applied = event(&sandbox.msb("apply --json").arg(&path).run().success(), &reference(&registry));
    assert_eq!(applied["trust"]["rule"], "images.toml:4");
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    let verified = sandbox.msb("verify --json").run().success().json();
    assert_eq!(verified["unproven"][0]["rule"], "images.toml:4", "{verified:#}");
    let plan = planned(&sandbox.msb("plan --json").arg(&path).run().code(1));
    let message = plan["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("images.toml:4: 1 signature"), "{message}");
}

#[test]
fn a_proof_that_has_ended_is_judged_again_by_what_is_kept_and_then_asked_for() {
    let signer =
        format!("notation = {{ roots = {}, subject = \"O=Example,*\" }}", quoted("notation-root.pem"));
    let (sandbox, registry, _) = world(&["notation-jws"], &signer);
    sandbox.msb("apply").run().success();
    let until = || sql(&sandbox, "SELECT until FROM sync_trust_ends");
    let end = until();
    assert!(end.len() >= 10, "{end}");
    let end_now = || sql(&sandbox, "UPDATE sync_trust_ends SET until = 1");

    end_now();
    assert_eq!(listed(&sandbox)[0]["trust"]["status"], "not-asked", "what has ended proves nothing");
    let shown = sandbox.msb("list").run().success();
    assert!(!shown.stdout.contains("SIGNED BY"), "{shown}");
    let shown = sandbox.msb("inspect").arg(reference(&registry)).run().success();
    assert!(shown.stdout.contains("it does not hold any more, since 1970-01-01T00:00:01Z"), "{shown}");
    registry.forget();
    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&summary["unchanged"], &summary["requests"]), (&1.into(), &1.into()), "{summary:#}");
    assert_eq!(until(), end, "the signature that is kept still holds");
    assert_eq!(listed(&sandbox)[0]["trust"]["status"], "verified");

    // The signature that is kept is another, which has expired.
    end_now();
    let expired = Signature::new("notation-jws-expiring");
    let blob = expired.blobs.values().find(|blob| blob.len() > 100).unwrap();
    sql(&sandbox, &format!("UPDATE sync_signatures SET layer_blob = X'{}'", hex(blob)));
    sandbox.msb("apply --offline").run().code(1).says("no signature of the image that will do is here");
    assert_eq!(listed(&sandbox).len(), 1);
    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!(summary["unchanged"], 1, "{summary:#}");
    assert_eq!(until(), end);
}

#[test]
fn a_signature_that_is_too_large_is_refused_and_not_overlooked() {
    let image = SignedImage::new();
    let mut content = image.content.clone();
    let mut blob = Signature::new("cosign3-p256").blobs.into_values().max_by_key(Vec::len).unwrap();
    blob.resize(LARGEST + 1, b' ');
    list_in(&mut content, &image.index, &[Signature::of(&image.index, BUNDLE, &blob)]);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    let plan = sandbox.msb("plan --json").run().code(1);
    let planned = planned(&plan);
    assert_eq!(planned["trust"]["status"], "refused", "{planned:#}");
    let shown = sandbox.msb("plan").run().code(1);
    assert!(shown.stdout.contains("larger than a signature may be"), "{shown}");
    assert!(shown.stdout.contains("0 B to fetch, 0 B already here."), "{shown}");
}

#[test]
fn signatures_beyond_what_a_run_holds_are_neither_lost_nor_held() {
    let image = SignedImage::new();
    let mut content = image.content.clone();
    content.tags.insert("team/app:2".to_owned(), image.index.clone());
    // As large as they may be, by what means nothing in JSON.
    let large = |name: &str| {
        let mut blob = Signature::new(name).blobs.into_values().max_by_key(Vec::len).unwrap();
        blob.resize(LARGEST, b' ');
        Signature::of(&image.index, BUNDLE, &blob)
    };
    list_in(&mut content, &image.index, &[large("cosign3-p256"), large("cosign3-slsaprovenance1")]);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let file = format!(
        "[settings]\nplatform = \"linux/amd64\"\n\n{}provenance = true\n[registry.{:?}]\nimages = [\"team/app:1\", \
         {{ name = \"team/app\", tag = \"2\", platform = \"linux/arm64\" }}]\n",
        rule(&registry, &key("p256.pub")),
        registry.name(),
    );
    sandbox.images(&file);
    let bounded = |arguments: &str| {
        let output = sandbox.measured(arguments).run().success();
        output.assert_bounded(0);
        output
    };
    // Nothing is recorded yet.
    bounded("export --output bundle");
    for _ in 0..2 {
        let from = bounded("apply --json --from bundle").summary();
        assert_eq!((&from["failed"], &from["requests"]), (&0.into(), &0.into()), "{from:#}");
    }
    let kept = || sql(&sandbox, "SELECT count(DISTINCT manifest_digest), count(*) FROM sync_signatures");
    assert_eq!(kept(), "2|4");
    // Another rule that wants the same: its proofs are new, and come of what is kept.
    sandbox.images(
        &file.replace(&key("p256.pub"), &format!("keys = [{}, {}]", quoted("other.pub"), quoted("p256.pub"))),
    );
    registry.forget();
    bounded("apply --json");
    assert_eq!(kept(), "2|8");
    assert!(
        !registry.requests().iter().any(|request| request.contains("sha256-")),
        "{:#?}",
        registry.requests()
    );
}
