//! Rules of trust from outside: what each verb does about an image that is signed, unsigned or refused, what it
//! asks for, what it says, and what stays.

mod back;
mod proofs;
mod pulls;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::check::{event, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::BlobSet;
use crate::support::sandbox::{Output, Sandbox};
use crate::support::signing::{Signature, SignedImage, fixtures, list_in};
use crate::support::watching::{LIMIT, Watching};

const WORKFLOW: &str = "https://github.com/example-org/tool/.github/workflows/publish.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// The image's content with these signatures of its index.
fn signed(image: &SignedImage, names: &[&str]) -> BlobSet {
    let mut content = image.content.clone();
    let (tags, lists): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.starts_with("cosign2"));
    for name in tags {
        let end = if name.contains("provenance") { ".att" } else { ".sig" };
        Signature::new(name).tag_in(&mut content, end);
    }
    let lists: Vec<Signature> = lists.into_iter().map(Signature::new).collect();
    if !lists.is_empty() {
        list_in(&mut content, &image.index, &lists);
    }
    content
}

/// The path of a fixture, in quotes for TOML.
fn quoted(name: &str) -> String {
    format!("\"{}\"", fixtures().join(name).display())
}

/// A rule for the images of `registry`; the table begins at line 4.
fn rule(registry: &FakeRegistry, signer: &str) -> String {
    format!("[[trust]]\nimages = [\"{}/*\"]\n{signer}\n", registry.name())
}

fn key(name: &str) -> String {
    format!("key = {}", quoted(name))
}

/// Writes the images file, with these settings and rules.
fn write(sandbox: &Sandbox, registry: &FakeRegistry, settings: &str, rules: &str) {
    sandbox.images(&format!(
        "[settings]\nplatform = \"linux/amd64\"\n{settings}\n{rules}{}",
        wanted(&registry.name(), &["team/app:1"])
    ));
}

fn world(names: &[&str], signer: &str) -> (Sandbox, FakeRegistry, SignedImage) {
    let image = SignedImage::new();
    let registry = FakeRegistry::start(signed(&image, names));
    let sandbox = Sandbox::in_memory();
    write(&sandbox, &registry, "", &rule(&registry, signer));
    (sandbox, registry, image)
}

fn reference(registry: &FakeRegistry) -> String {
    format!("{}/team/app:1", registry.name())
}

fn asked_for_layer(registry: &FakeRegistry, image: &SignedImage) -> bool {
    registry.requests().iter().any(|request| request.contains(&image.layer))
}

/// True for the signer who has the key `p256.pub`.
fn is_p256(by: &Value) -> bool {
    by.as_str().is_some_and(|by| by.starts_with("key p256.pub"))
}

/// The one image of a plan.
fn planned(output: &Output) -> Value {
    output.json()["images"][0].clone()
}

#[test]
fn a_signed_image_is_told_with_its_signer_by_every_verb() {
    let keyless = format!("keyless = {{ issuer = \"{ISSUER}\", identity = \"{WORKFLOW}\" }}");
    for (names, signer, by, form) in [
        (["cosign3-p256"], key("p256.pub"), "key p256.pub", "sigstore bundle"),
        (["cosign2-p256"], key("p256.pub"), "key p256.pub", "simple signing"),
        (
            ["cosign3-keyless"],
            keyless,
            "github.com/example-org/tool publish.yml@refs/heads/main",
            "sigstore bundle",
        ),
        (
            ["notation-jws"],
            format!(
                "notation = {{ roots = {}, subject = \"O=Example,CN=images\" }}",
                quoted("notation-root.pem")
            ),
            "CN=images",
            "notation",
        ),
    ] {
        let (sandbox, registry, image) = world(&names, &signer);
        let root = format!("trusted-root = {}", quoted("trusted_root.json"));
        write(&sandbox, &registry, &root, &rule(&registry, &signer));
        let plan = planned(&sandbox.msb("plan --json").run().success());
        let trust = &plan["trust"];
        assert_eq!((&trust["status"], &plan["action"]), (&"verified".into(), &"add".into()), "{plan:#}");
        let said = trust["by"].as_str().unwrap();
        assert!(said.contains(by), "{said}");
        assert_eq!(trust["rule"], "images.toml:4");
        let keyless = names[0].contains("keyless");
        let issuer = match names[0] {
            "cosign3-keyless" => Some(ISSUER),
            "notation-jws" => Some("CN=root,O=Example"),
            _ => None,
        };
        assert_eq!(trust["issuer"].as_str(), issuer, "{plan:#}");
        if keyless {
            let at = trust["at"].as_str().unwrap();
            assert!(at.ends_with('Z') && at.contains('T'), "RFC 3339: {at}");
        }
        assert!(!sandbox.home().exists(), "a plan keeps nothing");
        let shown = sandbox.msb("plan").run().success();
        assert!(shown.stdout.contains(&format!("signed by {said}")), "{shown}");

        let applied = event(&sandbox.msb("apply --json").run().success(), &reference(&registry));
        assert_eq!(applied["trust"], *trust, "{applied:#}");
        assert_eq!(listed(&sandbox)[0]["trust"], *trust);
        let shown = sandbox.msb("list").run().success();
        assert!(shown.stdout.contains("SIGNED BY") && shown.stdout.contains(said), "{shown}");

        let inspected = sandbox.msb("inspect --json").arg(reference(&registry)).run().success().json();
        let evidence = &inspected["image"]["evidence"][0];
        assert!(evidence["form"].as_str().unwrap().to_lowercase().contains(form), "{evidence:#}");
        assert_eq!((&evidence["by"], &evidence["rule"]), (&trust["by"], &trust["rule"]));
        assert_eq!(evidence["digest"], image.index.as_str());
        assert_eq!(evidence["manifest_digest"], image.manifest.as_str());
        assert_eq!(evidence["signatures"][0]["digest"], Signature::new(names[0]).digest.as_str());
        assert!(!evidence["fingerprint"].as_str().unwrap().is_empty());
        let shown = sandbox.msb("inspect").arg(reference(&registry)).run().success();
        assert!(shown.stdout.contains("signed by") && shown.stdout.contains(said), "{shown}");
    }
}

#[test]
fn a_run_with_nothing_to_do_and_a_changed_rule_ask_for_nothing() {
    let (sandbox, registry, image) = world(&["cosign3-p256"], &key("p256.pub"));
    sandbox.msb("apply").run().success();
    let first = registry.requests();
    let layer = first.iter().position(|request| request.contains(&image.layer)).unwrap();
    let bundle = first.iter().position(|request| request.contains("/referrers/")).unwrap();
    assert!(bundle < layer, "{first:#?}");
    let artifact = Signature::new("cosign3-p256");
    let of_signature = |request: &&String| {
        request.contains("referrers")
            || request.contains("sha256-")
            || request.contains(&artifact.digest)
            || artifact.blobs.keys().any(|digest| request.contains(digest))
    };
    // The list, its fallback, the manifest, and the bundle.
    assert!(first.iter().filter(of_signature).count() <= 4, "{first:#?}");

    let head = ["HEAD /v2/team/app/manifests/1"];
    for rules in [
        rule(&registry, &key("p256.pub")),
        // Elsewhere in the file, with more keys, with none of the words the same.
        format!("\n\n{}", rule(&registry, &key("p256.pub"))),
        rule(&registry, &format!("keys = [{}, {}]", quoted("other.pub"), quoted("p256.pub"))),
        format!("[[trust]]\nimages = [\"*\"]\n{}\n", key("p256.pub")),
    ] {
        for _ in 0..2 {
            write(&sandbox, &registry, "", &rules);
            registry.forget();
            let summary = sandbox.msb("apply --json").run().success().summary();
            assert_eq!(summary["unchanged"], 1, "{summary:#}");
            assert_eq!(registry.requests(), head, "{rules}");
        }
    }
}

#[test]
fn a_refused_image_is_blocked_before_its_layers_with_every_reason() {
    let (sandbox, registry, image) = world(&["cosign3-other", "cosign2-other"], &key("p256.pub"));
    let plan = sandbox.msb("plan --json").run().code(1);
    let json = planned(&plan);
    assert_eq!(
        (&json["action"], &json["trust"]["status"]),
        (&"blocked".into(), &"refused".into()),
        "{json:#}"
    );
    assert_eq!(
        (&json["error"]["kind"], &json["trust"]["rule"]),
        (&"signature".into(), &"images.toml:4".into())
    );
    let message = json["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("images.toml:4: 2 signatures") && message.contains("; expected "),
        "{message}"
    );

    let shown = sandbox.msb("plan").run().code(1);
    let row = shown.stdout.lines().find(|line| line.starts_with("  x ")).unwrap();
    assert!(row.ends_with("blocked  refused by images.toml:4"), "{shown}");
    let details: Vec<&str> = shown.stdout.lines().filter(|line| line.starts_with("      ")).collect();
    assert_eq!(details.iter().filter(|line| line.starts_with("      - sha256:")).count(), 2, "{shown}");
    assert!(details.iter().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(details.concat().contains("expected"), "{shown}");
    assert!(!sandbox.home().exists(), "a plan keeps nothing");

    let apply = sandbox.msb("apply").run().code(1);
    assert_eq!(apply.stderr.lines().filter(|line| line.starts_with("  - sha256:")).count(), 2, "{apply}");
    let apply = event(&sandbox.msb("apply --json").run().code(1), &reference(&registry));
    assert_eq!((&apply["action"], &apply["status"]), (&"blocked".into(), &"failed".into()), "{apply:#}");
    assert_eq!(apply["trust"], json["trust"]);
    assert!(!asked_for_layer(&registry, &image), "{:#?}", registry.requests());
    assert_eq!(listed(&sandbox).len(), 0);
    assert_eq!(sandbox.extracted(), [""; 0]);
}

#[test]
fn an_image_that_no_rule_names_is_refused_where_the_file_says_so() {
    let (sandbox, registry, image) = world(&[], "");
    write(&sandbox, &registry, "unsigned = \"refuse\"", "");
    registry.forget();
    let plan = planned(&sandbox.msb("plan --json").run().code(1));
    assert_eq!(
        (&plan["trust"]["status"], &plan["trust"]["rule"]),
        (&"not-asked".into(), &"images.toml:3".into())
    );
    assert_eq!(plan["error"]["kind"], "signature");
    sandbox
        .msb("apply")
        .run()
        .code(1)
        .says("images.toml:3: no [[trust]] rule names the image")
        .says("hint: ");
    assert!(!asked_for_layer(&registry, &image));
    let of_signatures = |request: &String| request.contains("referrers") || request.contains("sha256-");
    assert!(!registry.requests().iter().any(of_signatures), "{:#?}", registry.requests());

    write(&sandbox, &registry, "unsigned = \"refuse\"", &rule(&registry, "accept = \"unsigned\""));
    let plan = planned(&sandbox.msb("plan --json").run().success());
    assert_eq!(
        (&plan["trust"]["status"], &plan["trust"]["rule"]),
        (&"unsigned".into(), &"images.toml:4".into())
    );
    let shown = sandbox.msb("plan").run().success();
    assert!(shown.stdout.contains("unsigned, accepted by images.toml:4"), "{shown}");
    sandbox.msb("apply").run().success();
    assert!(!registry.requests().iter().any(of_signatures), "{:#?}", registry.requests());
    assert_eq!(listed(&sandbox)[0]["trust"]["status"], "not-asked");

    write(&sandbox, &registry, "unsigned = \"allow\"", "");
    let plan = planned(&sandbox.msb("plan --json").run().success());
    assert_eq!(plan["trust"]["status"], "not-asked");
    assert!(plan["trust"]["rule"].is_null() && plan["trust"]["by"].is_null(), "{plan:#}");
}

#[test]
fn what_was_recorded_before_its_rule_is_named_blocked_and_kept() {
    let (sandbox, registry, image) = world(&["cosign3-other"], "");
    write(&sandbox, &registry, "", "");
    sandbox.msb("apply").run().success();
    let extracted = sandbox.extracted();
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    let verified = sandbox.msb("verify --json").run().success().json();
    assert_eq!(verified["unproven"][0]["reference"], reference(&registry).as_str(), "{verified:#}");
    assert_eq!(verified["unproven"][0]["rule"], "images.toml:4", "{verified:#}");
    let verified = sandbox.msb("verify").run().success();
    assert!(verified.stdout.contains("that images.toml:4 asks for"), "{verified}");

    registry.forget();
    sandbox.msb("apply").run().code(1).says("images.toml:4: 1 signature");
    assert!(!asked_for_layer(&registry, &image));
    assert_eq!((listed(&sandbox).len(), sandbox.extracted()), (1, extracted), "it stays");
    let rootfs = sandbox.msb("inspect --rootfs --json").arg(reference(&registry)).run().success().json();
    let layer = rootfs["rootfs"][0].as_str().unwrap();
    assert!(Path::new(layer).is_dir(), "and stays usable: {layer}");
    // Nor does it go because of that.
    sandbox.msb("apply --prune").run().code(1);
    assert_eq!(listed(&sandbox).len(), 1);

    registry.edit(|content| list_in(content, &image.index, &[Signature::new("cosign3-p256")]));
    let again = sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&again["unchanged"], &again["downloaded_bytes"]), (&1.into(), &0.into()), "{again:#}");
    assert_eq!(listed(&sandbox)[0]["trust"]["status"], "verified");
    let verified = sandbox.msb("verify --json").run().success().json();
    assert_eq!(verified["unproven"].as_array().unwrap().len(), 0, "{verified:#}");
}

#[test]
fn keys_and_roots_that_cannot_be_used_are_mistakes_of_the_file() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("p256.pub"));
    sandbox.write("broken.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    std::fs::create_dir(sandbox.work().join("directory")).unwrap();
    let notation = |roots: &str| format!("notation = {{ roots = \"{roots}\", subject = \"CN=*\" }}");
    let cases = [
        ("", "key = \"missing.pub\"".to_owned(), "missing.pub"),
        ("", "key = \"broken.pem\"".to_owned(), "broken.pem"),
        ("", "key = \"images.toml\"".to_owned(), "images.toml"),
        ("", "keys = [\"directory\"]".to_owned(), "directory"),
        ("", key("rsa1024.pub"), "rsa1024.pub"),
        ("", notation("missing.pem"), "missing.pem"),
        ("", notation("broken.pem"), "broken.pem"),
        ("trusted-root = \"missing.json\"", key("p256.pub"), "missing.json"),
        ("trusted-root = \"images.toml\"", key("p256.pub"), "images.toml"),
    ];
    for (settings, signer, file) in cases {
        write(&sandbox, &registry, settings, &rule(&registry, &signer));
        registry.forget();
        for verb in ["plan", "apply", "lock"] {
            let output = sandbox.msb(verb).run().code(2).says("error: ").says(file);
            let line = if settings.is_empty() { "images.toml:4" } else { "trusted-root" };
            assert!(output.stderr.contains(line), "{output}");
            assert_eq!(registry.requests(), [""; 0], "nobody is asked: {output}");
        }
        assert!(!sandbox.home().join("oci.db").exists(), "nothing is touched");
    }
    let failure = sandbox.msb("plan --json").run().code(2);
    assert!(!failure.stderr.is_empty(), "{failure}");
}

#[test]
fn a_lockfile_names_signers_and_none_of_a_refused_image_is_written() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("other.pub"));
    let lockfile = sandbox.work().join("images.lock");
    let refused = sandbox.msb("lock").run().code(1).says("images.toml:4: 1 signature");
    assert!(!lockfile.exists(), "{refused}");

    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    let locked = sandbox.msb("lock --json").run().success().json();
    assert!(is_p256(&locked["images"][0]["signed_by"]), "{locked:#}");
    let text = std::fs::read_to_string(&lockfile).unwrap();
    assert!(text.contains("\nsigned-by = \"key p256.pub"), "{text}");
    sandbox.msb("lock").run().success();
    sandbox.msb("lock --check").run().success();
    assert_eq!(std::fs::read_to_string(&lockfile).unwrap(), text, "the same text where nothing changed");

    // Nobody goes by it.
    let lying = text.replace("key p256.pub", "key nobody.pub");
    sandbox.write("images.lock", &lying);
    let plan = planned(&sandbox.msb("plan --json --locked").run().success());
    assert!(is_p256(&plan["trust"]["by"]), "{plan:#}");
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    sandbox.msb("plan --locked").run().code(1);
    sandbox.msb("lock").run().code(1);
    assert_eq!(std::fs::read_to_string(&lockfile).unwrap(), lying, "nothing is written");

    // Lockfiles without it stay readable.
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    let older: Vec<&str> = text.lines().filter(|line| !line.starts_with("signed-by")).collect();
    sandbox.write("images.lock", &(older.join("\n") + "\n"));
    sandbox.msb("apply --locked").run().success();
}

#[test]
fn without_a_network_the_kept_proof_counts_and_nothing_else() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("p256.pub"));
    sandbox.msb("apply").run().success();
    registry.fail(usize::MAX, "", &Fault::status(500));
    sandbox.msb("apply --offline").run().success();
    write(&sandbox, &registry, "", &rule(&registry, &key("other.pub")));
    sandbox.msb("apply --offline").run().code(1).says("images.toml:4: ").says("--offline");
    write(&sandbox, &registry, "pull = \"never\"", &rule(&registry, &key("other.pub")));
    sandbox.msb("apply").run().code(1).says("images.toml:4: ").says("\"never\"");
    write(&sandbox, &registry, "pull = \"never\"", &rule(&registry, &key("p256.pub")));
    sandbox.msb("apply").run().success();
    assert_eq!(listed(&sandbox).len(), 1, "what is here stays");
}

#[test]
fn provenance_is_wanted_beside_a_signature_and_is_none() {
    let wants = |signer: &str| format!("{signer}\nprovenance = true");
    for (names, signer, code) in [
        (&["cosign3-p256", "cosign3-slsaprovenance1"][..], wants(&key("p256.pub")), 0),
        (&["cosign2-p256", "cosign2-slsaprovenance"], wants(&key("p256.pub")), 0),
        (&["cosign3-p256"], wants(&key("p256.pub")), 1),
        (&["cosign3-p256", "cosign3-slsaprovenance1-other"], wants(&key("p256.pub")), 1),
        (&["cosign3-p256", "cosign3-custom"], wants(&key("p256.pub")), 1),
        (&["cosign3-slsaprovenance1"], wants(&key("p256.pub")), 1),
        (&["cosign3-slsaprovenance1"], key("p256.pub"), 1),
    ] {
        let (sandbox, _registry, _) = world(names, &signer);
        let run = sandbox.msb("plan").run();
        assert_eq!(run.status.code(), Some(code), "{names:?} {run}");
    }
}

#[test]
fn pull_obeys_the_rules_of_its_file() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("other.pub"));
    let pull = || sandbox.msb("pull --platform linux/amd64").arg(reference(&registry));
    pull().arg("--file").arg("images.toml").run().code(1).says("images.toml:4: 1 signature");
    assert_eq!(listed(&sandbox).len(), 0);
    write(&sandbox, &registry, "", &rule(&registry, &key("p256.pub")));
    pull().arg("--file").arg("images.toml").run().success();
    assert!(is_p256(&listed(&sandbox)[0]["trust"]["by"]));
}

#[test]
fn layouts_and_bundles_have_signatures_of_their_own() {
    let (sandbox, registry, _) = world(&["cosign3-p256"], &key("p256.pub"));
    sandbox.msb("export --output bundle").run().success();
    registry.fail(usize::MAX, "", &Fault::status(500));
    let summary = sandbox.msb("apply --json --from bundle").run().success().summary();
    assert_eq!((&summary["added"], &summary["requests"]), (&1.into(), &0.into()), "{summary:#}");
    assert_eq!(listed(&sandbox)[0]["trust"]["status"], "verified");

    let other = Sandbox::in_memory();
    let layout = sandbox.work().join("bundle");
    let images = |key: &str| {
        other.images(&format!(
            "[settings]\nplatform = \"linux/amd64\"\n\n[[trust]]\nimages = [\"*\"]\n{key}\n\
             [registry.{:?}]\nlayout = {layout:?}\nimages = [\"team/app:1\"]\n",
            registry.name()
        ));
    };
    images(&key("other.pub"));
    other.msb("apply").run().code(1).says("images.toml:4: 1 signature");
    images(&key("p256.pub"));
    other.msb("apply").run().success();
    assert!(is_p256(&listed(&other)[0]["trust"]["by"]));
}

#[test]
fn watch_takes_an_image_when_it_is_signed_and_counts_images_by_trust() {
    let (sandbox, registry, image) = world(&[], &key("p256.pub"));
    write(&sandbox, &registry, "interval = \"1s\"", &rule(&registry, &key("p256.pub")));
    let watching = Watching::start(&sandbox, "--metrics 127.0.0.1:0");
    let address = || {
        let events = watching.events();
        events.iter().find_map(|event| event["metrics"].as_str().map(str::to_owned))
    };
    eventually("metrics are served", LIMIT, || address().is_some());
    let url = format!("http://{}/metrics", address().unwrap());
    let metrics = || sandbox.program("curl", &["--silent", "--noproxy", "*", &url]).run().stdout;
    let counted = |state: &str| metrics().contains(&format!("image_signatures{{state=\"{state}\"}} 1\n"));
    eventually("it counts as unsigned", LIMIT, || counted("unsigned"));
    registry.edit(|content| list_in(content, &image.index, &[Signature::new("cosign3-p256")]));
    watching.until_done(&reference(&registry), "add");
    eventually("it counts as verified", LIMIT, || counted("verified"));
    watching.settle(Duration::from_millis(50));
    watching.stop();
}

#[test]
fn an_image_of_sandboxes_answers_to_the_rules_of_its_other_name() {
    let sandbox = Sandbox::in_memory();
    sandbox.images(
        "[settings]\nunsigned = \"refuse\"\npull = \"never\"\n[[trust]]\nimages = [\"docker.io/library/*\"]\n\
         accept = \"unsigned\"\n[registry.\"sandboxes.io\"]\nimages = [\"alpine:1\"]\n",
    );
    let plan = planned(&sandbox.msb("plan --json").run().code(1));
    assert_ne!(plan["error"]["kind"], "signature", "{plan:#}");
}

#[test]
fn the_trusted_root_is_shown_with_its_date() {
    let sandbox = Sandbox::in_memory();
    let version = sandbox.msb("--version -v").run().success();
    let date =
        version.stdout.lines().find_map(|line| line.strip_prefix("Sigstore's trusted root, built in: "));
    let date = date.unwrap_or_else(|| panic!("{version}")).to_owned();
    assert_eq!(sandbox.msb("--version").run().success().stdout.lines().count(), 1);

    let shown = sandbox.msb("trust-root").run().success();
    assert!(shown.stdout.contains(&date) && shown.stdout.contains("https://rekor.sigstore.dev"), "{shown}");
    let root = sandbox.msb("trust-root --json").run().success().json();
    assert_eq!((root["source"].as_str(), root["date"].as_str()), (Some("built-in"), Some(&*date)));
    let believed = root["believed"].as_array().unwrap();
    for kind in ["certificate-authority", "log", "certificate-log", "timestamp-authority"] {
        let of_kind =
            believed.iter().find(|anchor| anchor["kind"] == kind).unwrap_or_else(|| panic!("{kind}"));
        assert_eq!(of_kind["id"].as_str().unwrap().len(), 64, "{of_kind:#}");
        assert!(of_kind["from"].as_str().unwrap().ends_with('Z'), "{of_kind:#}");
    }

    let settings = format!("[settings]\ntrusted-root = {}\n", quoted("trusted_root.json"));
    sandbox.images(&settings);
    for file in ["", "images.toml"] {
        let root = sandbox.msb(&format!("trust-root --json {file}")).run().success().json();
        assert!(root["source"].as_str().unwrap().ends_with("trusted_root.json"), "{root:#}");
        assert!(root["date"].is_null());
    }
    sandbox.msb("trust-root missing.toml").run().code(2);
    sandbox.images("[settings]\ntrusted-root = \"images.toml\"\n");
    sandbox.msb("trust-root").run().code(2).says("trusted-root");
    assert!(!sandbox.home().exists());
}

#[test]
fn the_example_takes_what_its_key_has_signed_and_nothing_else() {
    let sandbox = Sandbox::in_memory();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/trust");
    let plan = |file: &str| sandbox.msb("plan --json").arg(example.join(file)).run();
    let document = plan("images.toml").success().json();
    let statuses: Vec<_> =
        document["images"].as_array().unwrap().iter().map(|image| &image["trust"]["status"]).collect();
    assert_eq!(statuses, ["unsigned", "verified"], "{document:#}");
    let refused = planned(&plan("refused.toml").code(1));
    assert_eq!(
        (&refused["trust"]["status"], &refused["error"]["kind"]),
        (&"refused".into(), &"signature".into())
    );
}
