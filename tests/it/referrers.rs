//! Where signatures are looked for, what is taken for absent, what a hostile registry costs, and
//! signatures that travel in bundles.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::check::{event, wanted};
use crate::support::docker_registry::DockerRegistry;
use crate::support::fake_registry::{Auth, FakeRegistry, Fault};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Descriptor, Image, Layer, OCI_INDEX, file};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::signing::{Signature, SignedImage, fallback, fixtures, list, list_in};
use crate::support::{at_once, sha256, tool};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const INDEX: &str = "dev.msb-sync.index";
const SIGNATURES: &str = "dev.msb-sync.signatures";

/// An images file that wants `team/app:1` of `registry`, signed by the owner of `p256.pub`; `more`
/// goes into the rule, `settings` into the registry's table.
fn images(registry: &str, more: &str, settings: &str) -> String {
    let key = fixtures().join("p256.pub");
    format!(
        "[settings]\nplatform = \"linux/amd64\"\n\
         [[trust]]\nimages = [\"{registry}/*\"]\nkey = \"{}\"\n{more}\n\
         {}{settings}\n",
        key.display(),
        wanted(registry, &["team/app:1"])
    )
}

fn sandbox(registry: &FakeRegistry) -> Sandbox {
    let sandbox = Sandbox::in_memory();
    sandbox.images(&images(&registry.name(), "", ""));
    sandbox
}

/// Signatures by the API for referrers, in this order.
fn by_api(image: &SignedImage, signatures: &[Signature]) -> BlobSet {
    let mut content = image.content.clone();
    for signature in signatures {
        signature.add_to(&mut content);
    }
    content.referrers = Some(BTreeMap::from([(image.index.clone(), list(signatures))]));
    content
}

fn apply(sandbox: &Sandbox) -> Output {
    sandbox.msb("apply --json").run()
}

/// The kind of the error for which the image is blocked; none of its layers was asked for.
#[track_caller]
fn blocked(sandbox: &Sandbox, registry: &FakeRegistry, image: &SignedImage) -> String {
    registry.forget();
    let run = apply(sandbox).code(1);
    let layers = registry.requests().into_iter().filter(|request| request.contains(&image.layer));
    assert_eq!(layers.collect::<Vec<_>>(), [""; 0], "{run}");
    let event = event(&run, &format!("{}/team/app:1", registry.name()));
    let message = event["error"]["message"].as_str().unwrap();
    if event["error"]["kind"] != "signature" {
        assert!(message.starts_with("cannot look for the signatures that images.toml:"), "{message}");
    }
    event["error"]["kind"].as_str().unwrap_or_else(|| panic!("no kind: {run}")).to_owned()
}

/// Applies, which must succeed, and asserts that another apply asks for nothing but the tag.
#[track_caller]
fn verified(sandbox: &Sandbox, registry: &FakeRegistry) -> Vec<String> {
    registry.forget();
    apply(sandbox).success();
    let requests = registry.requests();
    registry.forget();
    let again = apply(sandbox).success().summary();
    assert_eq!(again["unchanged"], 1, "{again}");
    assert_eq!(registry.requests(), ["HEAD /v2/team/app/manifests/1"]);
    requests
}

fn count(requests: &[String], part: &str) -> usize {
    requests.iter().filter(|request| request.contains(part)).count()
}

#[test]
fn signatures_are_found_at_each_place_before_a_layer_is_asked_for() {
    let image = SignedImage::new();
    let bundle = Signature::new("cosign3-p256");
    let simple = Signature::new("cosign2-p256");
    let mut by_fallback = image.content.clone();
    list_in(&mut by_fallback, &image.index, std::slice::from_ref(&bundle));
    let mut beside_an_empty_api = by_fallback.clone();
    beside_an_empty_api.referrers = Some(BTreeMap::new());
    let mut by_tag = image.content.clone();
    simple.tag_in(&mut by_tag, ".sig");
    let mut on_the_manifest = image.content.clone();
    Signature::new("cosign2-manifest").tag_in(&mut on_the_manifest, ".sig");
    let api = by_api(&image, std::slice::from_ref(&bundle));
    for (name, content, artifact) in [
        ("API", api, &bundle.digest),
        ("fallback tag", by_fallback, &bundle.digest),
        ("fallback tag beside an API that lists nothing", beside_an_empty_api, &bundle.digest),
        ("cosign 2's tag", by_tag, &format!("{}.sig", fallback(&image.index))),
        ("cosign 2's tag of the manifest", on_the_manifest, &format!("{}.sig", fallback(&image.manifest))),
    ] {
        let registry = FakeRegistry::start(content);
        let requests = verified(&sandbox(&registry), &registry);
        let at = |part: &str| requests.iter().position(|request| request.contains(part));
        let (signature, layer) = (at(artifact).expect(name), at(&image.layer).expect(name));
        assert!(signature < layer, "{name}: {requests:?}");
        // Nothing is asked for twice.
        let distinct: BTreeSet<&String> = requests.iter().collect();
        assert_eq!(distinct.len(), requests.len(), "{name}: {requests:?}");
    }
}

#[test]
fn a_registry_that_fails_is_down_and_its_image_not_unsigned() {
    let image = SignedImage::new();
    let faults = [
        (Fault::status(401), "unauthorized"),
        (Fault::status(403), "forbidden"),
        (Fault::status(429).header("Retry-After", "9999"), "rate-limited"),
        (Fault::status(500), "registry-failure"),
        (Fault { body: Some(b"{\"manifests\":[".to_vec()), ..Fault::default() }, "invalid-document"),
        (Fault { body: Some(b"<html>".to_vec()), ..Fault::default() }, "invalid-document"),
        (Fault::cut(20), "protocol"),
    ];
    // They wait for the next try most of the time.
    at_once(faults, |(fault, kind)| {
        let registry = FakeRegistry::start(by_api(&image, &[Signature::new("cosign3-p256")]));
        let sandbox = sandbox(&registry);
        registry.fail(usize::MAX, "/referrers/", &fault);
        assert_eq!(blocked(&sandbox, &registry, &image), kind, "{fault:?}");
        registry.behave();
        verified(&sandbox, &registry);
    });
}

#[test]
fn an_image_of_which_the_registry_knows_no_signature_is_unsigned() {
    let image = SignedImage::new();
    for api in [None, Some(BTreeMap::new())] {
        let registry = FakeRegistry::start(BlobSet { referrers: api, ..image.content.clone() });
        let sandbox = sandbox(&registry);
        assert_eq!(blocked(&sandbox, &registry, &image), "signature");
        assert_eq!(count(&registry.requests(), ".att"), 0, "nothing has to be attested");
        let plan = sandbox.msb("plan --json").run().code(1).json();
        assert_eq!(plan["images"][0]["trust"]["status"], "unsigned", "{plan:#}");
    }
}

#[test]
fn the_first_32_candidates_count_and_none_that_is_large() {
    let image = SignedImage::new();
    let other = |number: usize| Signature::of(&image.index, BUNDLE, format!("{{\"n\":{number}}}").as_bytes());
    let good = Signature::new("cosign3-p256");
    let mut signatures: Vec<Signature> = (0..32).map(other).collect();
    signatures.push(good.clone());
    let registry = FakeRegistry::start(by_api(&image, &signatures));
    let sandbox = sandbox(&registry);
    assert_eq!(blocked(&sandbox, &registry, &image), "signature");
    assert_eq!(count(&registry.requests(), &good.digest), 0);
    signatures.swap(31, 32);
    registry.edit(|content| content.referrers = by_api(&image, &signatures).referrers);
    verified(&sandbox, &registry);

    let large = Signature::of(&image.index, BUNDLE, &vec![b' '; 5 << 20]);
    let blob = large.blobs.keys().find(|digest| **digest != sha256(b"{}")).unwrap().clone();
    let registry = FakeRegistry::start(by_api(&image, &[large, good]));
    let requests = verified(&self::sandbox(&registry), &registry);
    assert_eq!(count(&requests, &blob), 0, "{requests:?}");
}

#[test]
fn large_candidates_of_many_images_take_little_memory() {
    const MIB: usize = 1 << 20;
    let mut content = BlobSet::default();
    let mut lists = BTreeMap::new();
    let names: Vec<String> = (0..8).map(|number| format!("team/app:{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let image = Image::new(&[Layer::of(&[file("number", name.clone())])]).platform("linux/amd64");
        let image = content.image(&image);
        content.tag(name, &image);
        let artifacts = [0, 1].map(|which| {
            let seed = u8::try_from(2 * number + which).unwrap();
            let mut artifact = Signature::of(image.digest(), BUNDLE, &vec![seed; 4 * MIB]);
            // Almost all of what a manifest may have.
            artifact.manifest.resize(4 * MIB, b' ');
            artifact.digest = sha256(&artifact.manifest);
            artifact.add_to(&mut content);
            artifact
        });
        lists.insert(image.digest().to_owned(), list(&artifacts));
    }
    content.referrers = Some(lists);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = images(&registry.name(), "", "").replace("team/app:1", &listed.join("\", \""));
    sandbox.images(&text);
    let run = sandbox.measured("apply --json").run().code(1);
    run.assert_bounded(0);
    for name in names {
        let event = event(&run, &format!("{}/{name}", registry.name()));
        assert_eq!(event["error"]["kind"], "signature", "{event:#}");
    }
    assert_eq!(count(&registry.requests(), "/referrers/"), 8);
}

#[test]
fn a_digest_that_lies_is_the_registrys_failure_and_hides_no_good_signature() {
    let image = SignedImage::new();
    let (good, other) = (Signature::new("cosign3-p256"), Signature::new("cosign3-other"));
    let blob = other.blobs.keys().find(|digest| **digest != sha256(b"{}")).unwrap().clone();
    for part in [&other.digest, &blob] {
        let registry = FakeRegistry::start(by_api(&image, std::slice::from_ref(&other)));
        let sandbox = sandbox(&registry);
        registry.fail(usize::MAX, part, &Fault::corrupt());
        assert_eq!(blocked(&sandbox, &registry, &image), "content-mismatch");
        registry.edit(|content| *content = by_api(&image, &[other.clone(), good.clone()]));
        verified(&sandbox, &registry);
    }
    // Of another image, by its own word; and one that calls itself this image's, and is not.
    let foreign = Signature::new("cosign3-other-image");
    let registry = FakeRegistry::start(by_api(&image, &[foreign]));
    assert_eq!(blocked(&sandbox(&registry), &registry, &image), "signature");
}

#[test]
fn a_mirror_may_have_the_signature_and_never_says_that_there_is_none() {
    let image = SignedImage::new();
    let signed = by_api(&image, &[Signature::new("cosign3-p256")]);
    let with_mirror = |registry: &FakeRegistry, mirror: &FakeRegistry| {
        let sandbox = Sandbox::in_memory();
        let settings = format!("mirrors = [\"{}\"]", mirror.url());
        sandbox.images(&images(&registry.name(), "", &settings));
        sandbox
    };
    // A signature that only the mirror has counts.
    let (registry, mirror) =
        (FakeRegistry::start(image.content.clone()), FakeRegistry::start(signed.clone()));
    apply(&with_mirror(&registry, &mirror)).success();
    assert_eq!(count(&registry.requests(), "/referrers/"), 0);
    // A mirror that has nothing, is down, or lies leaves it to the endpoint.
    let faults = [
        None,
        Some(Fault::status(500)),
        Some(Fault::status(403)),
        Some(Fault { body: Some(b"<html>".to_vec()), ..Fault::status(200) }),
    ];
    // They wait for the next try most of the time.
    let all = |fault: Option<Fault>| {
        let mirror = FakeRegistry::start(image.content.clone());
        if let Some(fault) = &fault {
            mirror.fail(usize::MAX, "/referrers/", fault);
        }
        let registry = FakeRegistry::start(signed.clone());
        let sandbox = with_mirror(&registry, &mirror);
        apply(&sandbox).success();
        // And is as good as ever for layers.
        assert_eq!(count(&registry.requests(), &image.layer), 0, "{fault:?}");
        let unsigned = FakeRegistry::start(image.content.clone());
        let sandbox = with_mirror(&unsigned, &mirror);
        assert_eq!(blocked(&sandbox, &unsigned, &image), "signature", "{fault:?}");
        let down = FakeRegistry::start(signed.clone());
        down.fail(usize::MAX, "/referrers/", &Fault::status(500));
        let sandbox = with_mirror(&down, &mirror);
        assert_eq!(blocked(&sandbox, &down, &image), "registry-failure", "{fault:?}");
    };
    at_once(faults, all);
}

#[test]
fn signatures_of_a_private_repository_are_asked_for_with_its_credentials() {
    let image = SignedImage::new();
    let user = Some(("octocat".to_owned(), "hunter2".to_owned()));
    let content = by_api(&image, &[Signature::new("cosign3-p256")]);
    let registry = FakeRegistry::with(content, Front::Plain, Auth::Bearer { user });
    let sandbox = Sandbox::in_memory();
    let login = "username = \"octocat\"\npassword-env = \"PASSWORD\"";
    sandbox.images(&images(&registry.name(), "", login));
    let run = sandbox.msb("apply -vv").env("PASSWORD", "hunter2").run().success();
    assert!(!run.to_string().contains("hunter2"), "{run}");
    assert_eq!(count(&registry.requests(), "/token"), 1, "one token is enough");
    sandbox.msb("forget --json").arg(format!("{}/team/app:1", registry.name())).run().success();
    registry.forget();
    sandbox.msb("apply").env("PASSWORD", "wrong").run().code(1);
}

#[test]
fn a_real_registry_keeps_signatures_at_its_fallback_tag() {
    let image = SignedImage::new();
    let registry = DockerRegistry::start();
    let sandbox = Sandbox::in_memory();
    let mut content = image.content.clone();
    let signatures = ["cosign3-other", "cosign3-p256", "notation-jws"].map(Signature::new);
    list_in(&mut content, &image.index, &signatures);
    Signature::new("cosign2-other").tag_in(&mut content, ".sig");
    let layout = sandbox.work().join("layout");
    let described = |digest: &String| {
        let size = content.blobs[digest].len();
        Descriptor { json: json!({"mediaType": content.types[digest], "digest": digest, "size": size}) }
    };
    let tags = content.tags.iter().map(|(name, digest)| (name.rsplit_once(':').unwrap().1, digest));
    let names: Vec<(&str, Descriptor)> = tags.map(|(tag, digest)| (tag, described(digest))).collect();
    let named: Vec<_> = names.iter().map(|(name, descriptor)| (*name, descriptor)).collect();
    content.write_layout(&layout, &named);
    // As they are: skopeo writes artifacts and their lists anew.
    for digest in content.blobs.keys() {
        registry.put_blob("team/app", digest, &layout.join("blobs").join(digest.replace(':', "/")));
    }
    let mut documents: Vec<_> = content.types.iter().map(|(digest, kind)| (digest, kind, digest)).collect();
    documents.sort_by_key(|(_, kind, _)| *kind == OCI_INDEX);
    let tagged = names.iter().map(|(tag, _)| (&content.tags[&format!("team/app:{tag}")], *tag));
    let tagged: Vec<(&String, &String, String)> =
        tagged.map(|(digest, tag)| (digest, &content.types[digest], tag.to_owned())).collect();
    let documents = documents.into_iter().map(|(digest, kind, name)| (digest, kind, name.clone()));
    for (digest, kind, name) in documents.chain(tagged) {
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        registry.put_manifest("team/app", &name, kind, &path);
    }
    sandbox.images(&images(registry.name(), "", ""));
    registry.requests();
    apply(&sandbox).success();
    let requests = registry.requests();
    // It knows no path for referrers, and does not even log that it was asked.
    let tag = format!("GET /v2/team/app/manifests/{}", fallback(&image.index));
    assert_eq!(requests.iter().filter(|request| **request == tag).count(), 1, "{requests:?}");
    assert_eq!(count(&requests, &signatures[1].digest), 1, "{requests:?}");
    assert_eq!(count(&requests, &signatures[2].digest), 0, "one is enough: {requests:?}");
    apply(&sandbox).success();
    assert_eq!(registry.requests(), ["HEAD /v2/team/app/manifests/1"]);
    // The layout that was pushed is as good as the registry.
    let sandbox = Sandbox::in_memory();
    let rules = images("vendored.local", "", &format!("layout = {layout:?}"));
    sandbox.images(&rules);
    apply(&sandbox).success();
}

#[test]
fn a_bundle_carries_the_signatures_that_were_accepted() {
    let image = SignedImage::new();
    let (bundle, provenance) = (Signature::new("cosign3-p256"), Signature::new("cosign3-slsaprovenance"));
    let content = by_api(&image, &[Signature::new("cosign3-other"), bundle.clone(), provenance.clone()]);
    let mut by_tags = image.content.clone();
    let (simple, attested) = (Signature::new("cosign2-two"), Signature::new("cosign2-slsaprovenance"));
    simple.tag_in(&mut by_tags, ".sig");
    attested.tag_in(&mut by_tags, ".att");
    for (content, carried) in [(content, [&bundle, &provenance]), (by_tags, [&simple, &attested])] {
        let registry = FakeRegistry::start(content);
        let maker = Sandbox::in_memory();
        let rules = images(&registry.name(), "provenance = true", "");
        maker.images(&rules);
        // Straight from the registry, and again from what is recorded, the same bytes.
        maker.msb("lock").run().success();
        maker.msb("export --output one.tar").run().success();
        apply(&maker).success();
        maker.msb("export --output two.tar").run().success();
        let read = |name: &str| std::fs::read(maker.work().join(name)).unwrap();
        assert!(read("one.tar") == read("two.tar"), "they differ");
        maker.msb("export --output since.tar --since images.lock").run().success();
        maker.msb("export --output index.tar --index --docker").run().success();
        maker.msb("export --output directory").run().success();
        let index: Value = serde_json::from_slice(&read("directory/index.json")).unwrap();
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations[INDEX], image.index.as_str());
        let told: BTreeSet<&str> = annotations[SIGNATURES].as_str().unwrap().split(',').collect();
        assert_eq!(told, carried.iter().map(|signature| signature.digest.as_str()).collect());
        for signature in carried {
            let path = format!("directory/blobs/{}", signature.digest.replace(':', "/"));
            assert_eq!(read(&path), signature.manifest);
        }
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        // Others read such a bundle, and take no notice.
        let reference = format!("{}/team/app:1", registry.name());
        for place in ["oci-archive:one.tar", "oci:directory"] {
            let from = format!("{place}:{reference}");
            let raw = tool(&maker.work(), "skopeo", &["--insecure-policy", "inspect", "--raw", &from]);
            assert_eq!(sha256(&raw), image.manifest, "{from}");
        }
        // A machine without the registry believes the bundle by its own rules.
        registry.forget();
        for name in ["one.tar", "index.tar", "directory"] {
            let sandbox = Sandbox::in_memory();
            sandbox.images(&rules);
            let path = maker.work().join(name);
            sandbox.msb("apply --json --from").arg(&path).run().success();
            let listed = sandbox.msb("list --json").run().success().json();
            assert_eq!(listed["images"][0]["trust"]["status"], "verified", "{name}: {listed:#}");
            // And hands it on.
            sandbox.msb("apply --json --offline").run().success();
            let strict = Sandbox::in_memory();
            strict.images(&rules.replace("p256.pub", "p384.pub"));
            let run = strict.msb("apply --json --from").arg(&path).run().code(1);
            assert_eq!(event(&run, &reference)["error"]["kind"], "signature", "{name}: {run}");
        }
        // The layers that a delta leaves out are here; its signatures are not.
        let delta = maker.work().join("since.tar");
        maker.msb("apply --json --from").arg(&delta).run().success();
        assert_eq!(registry.requests(), [] as [&str; 0]);
    }
}

#[test]
fn an_image_that_is_refused_is_not_exported() {
    let image = SignedImage::new();
    let registry = FakeRegistry::start(by_api(&image, &[Signature::new("cosign3-other")]));
    let sandbox = sandbox(&registry);
    let run = sandbox.msb("export --output one.tar").run().code(1);
    assert!(run.to_string().contains("images.toml:3"), "{run}");
    assert!(!sandbox.work().join("one.tar").exists());
    assert_eq!(count(&registry.requests(), &image.layer), 0);
}
