//! Manifests, indexes and configs made to mislead: wrong digests and sizes, documents that mean two things, huge and
//! deep ones. Each image is refused by itself, nothing of it is recorded, and its neighbours succeed.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::check::{applied, assert_exact, image, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{
    BlobSet, Descriptor, Image, Layer, OCI_INDEX, OCI_MANIFEST, Pack, file, noise, tar,
};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::{hex, sha256};

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer that no other seed gives.
fn layer(seed: u64) -> Layer {
    Layer::of(&[file("f", seed.to_string()), file("noise", noise(seed, 2000))])
}

/// Adds an image whose manifest and config were changed by this.
fn bent(set: &mut BlobSet, seed: u64, bend: impl FnOnce(&mut Value, &mut Value)) -> Descriptor {
    let made = set.image(&Image::new(&[layer(seed), layer(seed + 1)]));
    let read = |set: &BlobSet, digest: &str| -> Value { serde_json::from_slice(&set.blobs[digest]).unwrap() };
    let mut manifest = read(set, made.digest());
    let mut config = read(set, manifest["config"]["digest"].as_str().unwrap());
    let before = config.clone();
    let named = manifest["config"].clone();
    bend(&mut manifest, &mut config);
    if config != before && manifest["config"] == named {
        manifest["config"] = blob(set, OCI_CONFIG, config.to_string().into_bytes());
    }
    set.document(OCI_MANIFEST, &manifest)
}

/// Adds a blob as it is; its descriptor.
fn blob(set: &mut BlobSet, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let size = bytes.len();
    set.blobs.insert(digest.clone(), Arc::new(bytes));
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Adds a document as it is.
fn document(set: &mut BlobSet, media_type: &str, bytes: impl Into<Vec<u8>>) -> Descriptor {
    let json = blob(set, media_type, bytes.into());
    set.types.insert(json["digest"].as_str().unwrap().to_owned(), media_type.to_owned());
    Descriptor { json }
}

fn error_of(output: &Output, reference: &str) -> Option<String> {
    let event = output
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| event["reference"] == reference)
        .unwrap_or_else(|| panic!("no event of {reference}\n{output}"));
    (event["status"] != "done").then(|| event["error"]["message"].as_str().unwrap().to_owned())
}

/// Cases as they are added: what the error must say, or `None` where the image is fine.
#[derive(Default)]
struct Cases {
    set: BlobSet,
    names: Vec<(String, &'static str, Option<&'static str>)>,
}

impl Cases {
    fn add(
        &mut self,
        name: &'static str,
        says: Option<&'static str>,
        make: impl FnOnce(&mut BlobSet, u64) -> Descriptor,
    ) {
        let number = self.names.len();
        let descriptor = make(&mut self.set, 10 * number as u64);
        let tag = format!("case/n{number}:1");
        self.set.tag(&tag, &descriptor);
        self.names.push((tag, name, says));
    }

    fn refused(&mut self, name: &'static str, says: &'static str, bend: impl FnOnce(&mut Value, &mut Value)) {
        self.add(name, Some(says), |set, seed| bent(set, seed, bend));
    }

    fn fine(&mut self, name: &'static str, bend: impl FnOnce(&mut Value, &mut Value)) {
        self.add(name, None, |set, seed| bent(set, seed, bend));
    }

    /// Applies all of them in one run and judges each.
    #[track_caller]
    fn judge(self) {
        let sandbox = Sandbox::new();
        let registry = FakeRegistry::start(self.set);
        let tags: Vec<&str> = self.names.iter().map(|(tag, ..)| tag.as_str()).collect();
        sandbox.images(&wanted(&registry.name(), &tags));
        let output = sandbox.measured("apply --json").run();
        assert!(!output.stderr.contains("panicked"), "{output}");
        output.assert_bounded(32);
        let recorded = listed(&sandbox);
        let (mut wrong, mut layers) = (Vec::new(), BTreeSet::new());
        for (tag, name, says) in &self.names {
            let reference = format!("{}/{tag}", registry.name());
            match (says, error_of(&output, &reference)) {
                (None, None) => {
                    let image = image(&recorded, &reference);
                    let blobs = registry.edit(|content| content.blobs.clone());
                    assert_exact(image, &|digest| blobs[digest].to_vec());
                    layers.extend(
                        image["layers"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|layer| format!("{}.extracted", layer["digest"].as_str().unwrap())),
                    );
                }
                (Some(says), Some(error)) if error.contains(says) => {
                    let row = recorded.iter().any(|image| image["reference"] == reference.as_str());
                    if row {
                        wrong.push(format!("{name}: recorded"));
                    }
                }
                (says, error) => wrong.push(format!("{name}: wanted {says:?}, got {error:?}")),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // A layer whose image fails for another reason may be here, but it is whole then.
        for name in layers {
            assert!(sandbox.extracted().contains(&name), "{name} is missing");
        }
        assert!(!output.stderr.contains('\x1b'), "{output}");
    }
}

#[test]
fn a_manifest_that_does_not_fit_its_blobs_is_refused() {
    let mut cases = Cases::default();
    cases.fine("as it should be", |_, _| {});
    cases.refused("a layer's size is too large", "layer", |manifest, _| {
        manifest["layers"][0]["size"] = json!(99_999);
    });
    cases.refused("a layer's size is too small", "layer", |manifest, _| {
        manifest["layers"][0]["size"] = json!(10);
    });
    cases.refused("a layer's size is 0", "layer", |manifest, _| manifest["layers"][0]["size"] = json!(0));
    for size in
        [json!(-1), json!(1.5), json!(1e30), json!("12"), Value::Null, json!(u64::MAX), json!(1_u64 << 62)]
    {
        cases.refused("a layer's size is impossible", "is refused", move |manifest, _| {
            manifest["layers"][0]["size"] = size;
        });
    }
    cases.refused("a layer that is not there", "404", |manifest, _| {
        manifest["layers"][1]["digest"] = json!(sha256(b"nobody has this"));
    });
    cases
        .refused("the config's size is wrong", "config", |manifest, _| manifest["config"]["size"] = json!(3));
    cases.refused("a wrong diff_id", "diff_id", |_, config| {
        config["rootfs"]["diff_ids"][0] = json!(sha256(b"x"));
    });
    cases.refused("swapped diff_ids", "diff_id", |_, config| {
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().reverse();
    });
    cases.refused("a missing diff_id", "1 diff_ids for 2 layers", |_, config| {
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    cases.refused("a diff_id too many", "3 diff_ids for 2 layers", |_, config| {
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(sha256(b"x")));
    });
    cases.refused("no diff_ids", "diff_ids", |_, config| config["rootfs"]["diff_ids"] = Value::Null);
    cases.refused("no rootfs", "rootfs", |_, config| drop(config.as_object_mut().unwrap().remove("rootfs")));
    cases.refused("a null rootfs", "it has no rootfs", |_, config| config["rootfs"] = Value::Null);
    cases.refused("a rootfs of text", "expected an object", |_, config| config["rootfs"] = json!("layers"));
    let hashes = ["a".repeat(64), "A".repeat(64), "a".repeat(63), "a".repeat(65), "g".repeat(64)];
    for digest in [
        "sha256:../../../../victim".to_owned(),
        "../../../../victim".to_owned(),
        "sha256:".to_owned() + &"../".repeat(21) + "a",
        "/etc/passwd".to_owned(),
        format!("sha256:{}", hashes[1]),
        format!("SHA256:{}", hashes[0]),
        format!("sha256:{}", hashes[2]),
        format!("sha256:{}", hashes[3]),
        format!("sha256:{}", hashes[4]),
        format!("sha256:{}/..", hashes[0]),
        format!(" sha256:{}", hashes[0]),
        format!("sha256:{}\n", hashes[0]),
        format!("sha512:{}", hashes[0]),
        format!("md5:{}", "a".repeat(32)),
        format!("sha1:{}", "a".repeat(40)),
        hashes[0].clone(),
        "sha256:".to_owned(),
        ":".to_owned(),
        String::new(),
    ] {
        let (layers, configs, diffs) = (digest.clone(), digest.clone(), digest.clone());
        cases.refused("a layer's digest", "digest", move |manifest, _| {
            manifest["layers"][0]["digest"] = json!(layers);
        });
        cases.refused("a config's digest", "digest", move |manifest, _| {
            manifest["config"]["digest"] = json!(configs);
        });
        cases
            .refused("a diff_id", "diff_id", move |_, config| config["rootfs"]["diff_ids"][1] = json!(diffs));
        cases.add("an index's entry", Some("digest"), |set, _| {
            let platform = json!({"os": "linux", "architecture": "amd64"});
            let entry =
                json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 10, "platform": platform});
            let arm = json!({"os": "linux", "architecture": "arm64"});
            let other = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 10, "platform": arm});
            set.document(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [entry, other]}))
        });
    }
    cases.judge();
}

#[test]
fn sha512_is_as_good_as_sha256() {
    use sha2::Digest as _;
    let sha512 = |bytes: &[u8]| format!("sha512:{}", hex(&sha2::Sha512::digest(bytes)));
    let sandbox = Sandbox::new();
    let mut set = BlobSet::default();
    let plain = tar(&[file("f", "x")]);
    let packed = Layer::packed(&plain, Pack::Gzip);
    let good = bent(&mut set, 1, |manifest, config| {
        manifest["layers"].as_array_mut().unwrap().truncate(1);
        manifest["layers"][0]["digest"] = json!(sha512(&packed.blob));
        manifest["layers"][0]["size"] = json!(packed.blob.len());
        config["rootfs"]["diff_ids"] = json!([sha512(&plain)]);
    });
    set.blobs.insert(sha512(&packed.blob), Arc::clone(&packed.blob));
    set.tag("case/good:1", &good);
    let bad = bent(&mut set, 3, |_, config| {
        config["rootfs"]["diff_ids"][0] = json!(sha512(b"something else"));
    });
    set.tag("case/bad:1", &bad);
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["case/bad:1", "case/good:1"]));
    sandbox.msb("apply").run().code(1).says("diff_id");
    let there = sandbox.layers().join(format!("{}.extracted/f", sha512(&packed.blob)));
    assert_eq!(std::fs::read_to_string(there).unwrap(), "x");
    assert_eq!(listed(&sandbox).len(), 1);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn documents_that_are_no_image_are_refused() {
    let mut cases = Cases::default();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(50_000), close.repeat(50_000));
    let empty_config = || json!({"mediaType": OCI_CONFIG, "digest": sha256(b"{}"), "size": 2});
    cases.add("HTML", Some("JSON"), |set, _| document(set, OCI_MANIFEST, "<html><body>Login</body></html>"));
    cases.add("HTML called HTML", Some("text/html"), |set, _| document(set, "text/html", "<html></html>"));
    cases.add("nothing", Some("JSON"), |set, _| document(set, OCI_MANIFEST, ""));
    cases.add("null", Some("manifest"), |set, _| document(set, OCI_MANIFEST, "null"));
    cases.add("a list", Some("manifest"), |set, _| document(set, OCI_MANIFEST, "[]"));
    cases.add("an empty object", Some("neither"), |set, _| document(set, OCI_MANIFEST, "{}"));
    cases.add("nulls", Some("neither"), |set, _| {
        document(set, OCI_MANIFEST, r#"{"schemaVersion":2,"config":null,"layers":null,"manifests":null}"#)
    });
    cases.add("cut", Some("JSON"), |set, _| document(set, OCI_MANIFEST, r#"{"schemaVersion":2,"lay"#));
    cases.add("deep lists", Some("JSON"), |set, _| document(set, OCI_MANIFEST, deep("[", "]")));
    cases.add("deep objects", Some("JSON"), |set, _| {
        document(set, OCI_MANIFEST, format!(r#"{{"x":{}}}"#, deep(r#"{"a":"#, "}").replace("}}", "}")))
    });
    cases.add("64 MiB", Some("manifest"), |set, _| document(set, OCI_MANIFEST, vec![b' '; 64 << 20]));
    cases.add("100,000 layers", Some(""), |set, seed| {
        let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b"x"), "size": seed});
        let layers = vec![layer; 100_000];
        set.document(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": empty_config(), "layers": layers}))
    });
    cases.add("5,000 layers", Some("5000 layers"), |set, _| {
        let layer =
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sha256(b"y"), "size": 1});
        let layers = vec![layer; 5000];
        set.document(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": empty_config(), "layers": layers}))
    });
    cases.refused("both kinds", "both `manifests` and `layers`", |manifest, _| {
        manifest["manifests"] = json!([]);
    });
    cases.refused("an index with a config", "both `manifests` and `config`", |manifest, _| {
        manifest["manifests"] = json!([]);
        manifest.as_object_mut().unwrap().remove("layers");
    });
    cases.add("layers twice", Some("duplicate"), |set, seed| {
        let good = bent(set, seed, |_, _| {});
        let text = String::from_utf8(set.blobs[good.digest()].to_vec()).unwrap();
        document(set, OCI_MANIFEST, text.replacen('{', r#"{"layers":[],"#, 1))
    });
    cases.add("served as an index", Some("served as"), |set, seed| {
        let good = bent(set, seed, |_, _| {});
        let bytes = [set.blobs[good.digest()].as_slice(), b" "].concat();
        document(set, OCI_INDEX, bytes)
    });
    cases.refused("a mediaType of an index", "", |manifest, _| manifest["mediaType"] = json!(OCI_INDEX));
    cases.refused("an unknown mediaType", "is no image's", |manifest, _| {
        manifest["mediaType"] = json!("text/x-evil\x1b[2J");
    });
    cases.refused("schema 1", "schema 1", |manifest, _| manifest["schemaVersion"] = json!(1));
    cases.refused("schema 3", "schemaVersion", |manifest, _| manifest["schemaVersion"] = json!(3));
    cases.add("a signed schema 1", Some("schema 1"), |set, _| {
        let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        document(set, media_type, r#"{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[],"history":[]}"#)
    });
    cases.refused("an artifact", "no container image", |manifest, _| {
        manifest["artifactType"] = json!("application/vnd.example.sbom");
        manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    });
    cases.refused("a chart", "no container image", |manifest, _| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    });
    cases.refused("a layer that is none", "no file system layer", |manifest, _| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    });
    cases.refused("an encrypted layer", "no file system layer", |manifest, _| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    });
    for text in ["", "no JSON", "null", "[]", "\u{0}", "{\"rootfs\":{\"diff_ids\":[[]]}}"] {
        cases.add("a config that is none", Some("config"), |set, seed| {
            let config = blob(set, OCI_CONFIG, text.as_bytes().to_vec());
            bent(set, seed, |manifest, _| manifest["config"] = config)
        });
    }
    cases.add("a deep config", Some("config"), |set, seed| {
        let config = blob(set, OCI_CONFIG, deep("[", "]").into_bytes());
        bent(set, seed, |manifest, _| manifest["config"] = config)
    });
    for date in
        [json!("yesterday"), json!("9999999-01-01T00:00:00Z"), json!(12), json!([]), json!(""), Value::Null]
    {
        cases.fine("a creation date that is none", move |_, config| config["created"] = date);
    }
    for odd in [
        json!("application/octet-stream"),
        json!("application/json"),
        json!("text/html; charset=utf-8"),
        json!(""),
        Value::Null,
    ] {
        cases.fine("a config of an odd media type", move |manifest, _| manifest["config"]["mediaType"] = odd);
    }
    cases.fine("a config without a media type", |manifest, _| {
        manifest["config"].as_object_mut().unwrap().remove("mediaType");
    });
    cases.fine("labels and history with nulls and numbers", |_, config| {
        config["config"] = json!({"Labels": {"null": null, "number": 5}});
        config["history"] = json!([null, {"created_by": null, "comment": null}]);
        config["author"] = Value::Null;
    });
    for (what, bytes, fine) in [
        ("a label in Latin-1", &b"{\"config\":{\"Labels\":{\"a\":\"caf\xe9\"}},"[..], true),
        ("a comment in Latin-1", b"{\"comment\":\"caf\xe9\",\"author\":null,", true),
        ("an environment in Latin-1", b"{\"config\":{\"Env\":[\"A=caf\xe9\"]},", false),
    ] {
        cases.add(what, (!fine).then_some("not UTF-8"), |set, seed| {
            let good = bent(set, seed, |_, _| {});
            let manifest: Value = serde_json::from_slice(&set.blobs[good.digest()]).unwrap();
            let config = set.blobs[manifest["config"]["digest"].as_str().unwrap()].to_vec();
            let mut value: Value = serde_json::from_slice(&config).unwrap();
            value.as_object_mut().unwrap().remove("config");
            let config = blob(set, OCI_CONFIG, [bytes, &value.to_string().as_bytes()[1..]].concat());
            let mut manifest = manifest;
            manifest["config"] = config;
            document(set, OCI_MANIFEST, manifest.to_string())
        });
    }
    cases.fine("a config with little in it", |_, config| {
        config["config"] = Value::Null;
        config["history"] = json!("garbage");
        config["author"] = json!("\x1b[2J");
    });
    cases.judge();
}

#[test]
fn indexes_are_followed_only_so_far() {
    let mut cases = Cases::default();
    cases.add("60 deep", Some("nested"), |set, seed| {
        let mut descriptor = bent(set, seed, |_, _| {});
        for level in 0..60 {
            let entry = descriptor.json.clone();
            descriptor = set.document(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [entry], "annotations": {"level": level.to_string()}}));
        }
        descriptor
    });
    cases.add("wide", Some("64 documents"), |set, _| {
        let entries: Vec<Value> = (0..100)
            .map(|number| {
                let inner =
                    json!({"schemaVersion": 2, "manifests": [], "annotations": {"n": number.to_string()}});
                set.document(OCI_INDEX, &inner).json
            })
            .collect();
        set.document(OCI_INDEX, &json!({"schemaVersion": 2, "manifests": entries}))
    });
    cases.add("no platform that fits", Some("linux/s390x"), |set, seed| {
        let other = set.image(&Image::new(&[layer(seed)]).platform("linux/s390x"));
        let windows = set.image(&Image::new(&[layer(seed + 1)]).platform("windows/amd64"));
        set.index(false, &[other, windows])
    });
    cases.add("a manifest for another platform", Some("linux/s390x"), |set, seed| {
        set.image(&Image::new(&[layer(seed)]).platform("linux/s390x"))
    });
    cases.add("an empty index", Some("platform"), |set, _| set.index(false, &[]));
    cases.add("an index that is listed as a manifest", Some("is an index"), |set, seed| {
        let good = bent(set, seed, |_, _| {});
        let mut inner = set.index(false, &[good]);
        inner.json["mediaType"] = json!(OCI_MANIFEST);
        inner.json["platform"] = json!({"os": "linux", "architecture": std::env::consts::ARCH});
        // Served as what the entry says, so that only the body tells.
        set.types.insert(inner.digest().to_owned(), "application/json".to_owned());
        set.index(false, &[inner])
    });
    cases.add("an entry of another size", Some("manifest"), |set, seed| {
        let mut good = set.image(&Image::new(&[layer(seed)]));
        good.json["size"] = json!(5);
        set.index(false, &[good])
    });
    cases.judge();
}

#[test]
fn odd_but_honest_images_are_extracted() {
    let mut cases = Cases::default();
    let empty = Layer::packed(&tar(&[]), Pack::Gzip);
    cases.add("a layer twice", None, |set, seed| {
        set.image(&Image::new(&[layer(seed), layer(seed + 1), layer(seed)]))
    });
    cases.add("empty layers", None, |set, seed| {
        set.image(&Image::new(&[empty.clone(), layer(seed), empty.clone()]))
    });
    cases.add("128 layers", None, |set, seed| {
        set.image(&Image::new(&(0..128).map(|number| layer(seed * 1000 + number)).collect::<Vec<_>>()))
    });
    cases.add("a layer with two sizes", Some("two sizes"), |set, seed| {
        let image = Image::new(&[layer(seed), layer(seed)]);
        let made = set.image(&image);
        let mut manifest: Value = serde_json::from_slice(&set.blobs[made.digest()]).unwrap();
        manifest["layers"][1]["size"] = json!(7);
        set.document(OCI_MANIFEST, &manifest)
    });
    cases.add("a layer with two diff_ids", Some("two diff_ids"), |set, seed| {
        let mut other = layer(seed);
        other.diff_id = sha256(b"other");
        set.image(&Image::new(&[layer(seed), other]))
    });
    cases.judge();
}

#[test]
fn a_later_image_must_say_of_a_complete_layer_what_is_true() {
    let sandbox = Sandbox::new();
    let (shared, own) = (layer(1), layer(2));
    let mut set = BlobSet::default();
    let good = set.image(&Image::new(std::slice::from_ref(&shared)));
    set.tag("case/good:1", &good);
    let mut lying = shared.clone();
    lying.diff_id = sha256(b"a tar that nobody has");
    let diff_id = set.image(&Image::new(&[lying, own.clone()]));
    set.tag("case/diff-id:1", &diff_id);
    let made = set.image(&Image::new(&[shared.clone(), own.clone()]));
    let mut manifest: Value = serde_json::from_slice(&set.blobs[made.digest()]).unwrap();
    manifest["layers"][0]["size"] = json!(shared.blob.len() + 1);
    let size = set.document(OCI_MANIFEST, &manifest);
    set.tag("case/size:1", &size);
    let registry = FakeRegistry::start(set);
    let name = registry.name();
    sandbox.images(&wanted(&name, &["case/good:1"]));
    applied(&sandbox);
    registry.forget();

    sandbox.images(&wanted(&name, &["case/good:1", "case/diff-id:1", "case/size:1"]));
    for _ in 0..2 {
        let output = sandbox.msb("apply --json").run().code(1);
        let said = error_of(&output, &format!("{name}/case/diff-id:1")).unwrap();
        assert!(said.contains("diff_id") && said.contains(&shared.digest()), "{said}");
        let said = error_of(&output, &format!("{name}/case/size:1")).unwrap();
        assert!(said.contains(&shared.digest()), "{said}");
        assert_eq!(error_of(&output, &format!("{name}/case/good:1")), None, "{output}");
        assert_eq!(listed(&sandbox).len(), 1, "a lie was recorded");
    }
    assert_eq!(
        registry.sent("/blobs/sha256:"),
        registry.sent(&format!("/blobs/{}", config_of(&registry, &diff_id)))
            + registry.sent(&format!("/blobs/{}", config_of(&registry, &size))),
        "a layer was fetched"
    );

    // Without its record nothing is known of the layer: it is fetched, and the lie found out all the same.
    let record = sandbox.home().join(".layers.msb-sync/records").join(shared.digest());
    let whole = std::fs::read(&record).unwrap();
    for damaged in [&whole[..whole.len() - 5], &whole[..10], b""] {
        std::fs::write(&record, damaged).unwrap();
        sandbox.images(&wanted(&name, &["case/diff-id:1"]));
        sandbox.msb("apply").run().code(1).says("diff_id");
        assert_eq!(listed(&sandbox).len(), 1);
    }
    sandbox.images(&wanted(&name, &["case/good:1"]));
    applied(&sandbox);
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
}

fn config_of(registry: &FakeRegistry, manifest: &Descriptor) -> String {
    let bytes = registry.edit(|content| content.blobs[manifest.digest()].clone());
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_registry_serves_is_what_was_asked_for() {
    let serve = || {
        let registry = FakeRegistry::start(BlobSet::with("case/app:1", &Image::new(&[layer(1), layer(2)])));
        let sandbox = Sandbox::new();
        sandbox.images(&wanted(&registry.name(), &["case/app:1"]));
        (sandbox, registry)
    };
    let other = layer(9).blob.to_vec();
    // The same tar, and even the same length, but not the bytes that the digest names: gzip's own time differs.
    let first = layer(1);
    let mut retimed = first.blob.to_vec();
    retimed[4] ^= 1;
    let first = format!("/blobs/{}", first.digest());
    for (what, path, fault) in [
        ("a damaged manifest", "/manifests/", Fault::corrupt()),
        (
            "another manifest",
            "/manifests/",
            Fault { body: Some(br#"{"schemaVersion":2}"#.to_vec()), ..Fault::default() },
        ),
        (
            "a login page",
            "/manifests/",
            Fault { body: Some(b"<html>".to_vec()), ..Fault::default() }.header("Content-Type", "text/html"),
        ),
        ("the same tar in another blob", first.as_str(), Fault { body: Some(retimed), ..Fault::default() }),
        ("a damaged blob", "/blobs/", Fault::corrupt()),
        ("another blob", "/blobs/", Fault { body: Some(other), ..Fault::default() }),
        ("an empty blob", "/blobs/", Fault { body: Some(Vec::new()), ..Fault::default() }),
        ("a long blob", "/blobs/", Fault { body: Some(vec![0; 1 << 20]), ..Fault::default() }),
    ] {
        let (sandbox, registry) = serve();
        registry.fail(usize::MAX, path, &fault);
        let output = sandbox.msb("apply").run().code(1);
        assert!(output.stderr.contains("error:") && !output.stderr.contains("panicked"), "{what}\n{output}");
        // Where only one of the two layers is bad, the other one may well be here.
        assert!(!sandbox.extracted().contains(&layer(1).directory()), "{what}\n{output}");
        assert_eq!(listed(&sandbox).len(), 0, "{what}\n{output}");
        registry.behave();
        applied(&sandbox);
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn urls_in_a_manifest_are_never_contacted() {
    let sandbox = Sandbox::new();
    let elsewhere = FakeRegistry::start(BlobSet::default());
    let mut set = BlobSet::default();
    let url = format!("{}/layer", elsewhere.url());
    for (name, foreign) in [("case/urls:1", ""), ("case/foreign:1", "nondistributable.")] {
        let seed = name.len() as u64 * 10;
        let image = bent(&mut set, seed, |manifest, _| {
            for layer in manifest["layers"].as_array_mut().unwrap() {
                layer["urls"] = json!([url, "file:///etc/passwd"]);
                layer["mediaType"] = json!(format!("application/vnd.oci.image.layer.{foreign}v1.tar+gzip"));
            }
            manifest["config"]["urls"] = json!([url]);
        });
        set.tag(name, &image);
    }
    let missing = bent(&mut set, 900, |manifest, _| {
        manifest["layers"][0]["urls"] = json!([url]);
        manifest["layers"][0]["digest"] = json!(sha256(b"only elsewhere"));
    });
    set.tag("case/missing:1", &missing);
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["case/urls:1", "case/foreign:1", "case/missing:1"]));
    sandbox.msb("apply").run().code(1).says("case/missing:1");
    assert_eq!(listed(&sandbox).len(), 2);
    assert_eq!(elsewhere.requests(), [""; 0]);
}

#[test]
fn a_tag_that_moves_between_two_requests_gives_one_image_or_the_other() {
    let mut set = BlobSet::default();
    let old = set.image(&Image::new(&[layer(1)]));
    let new = set.image(&Image::new(&[layer(3)]));
    set.tag("case/app:1", &old);
    let registry = FakeRegistry::start(set);
    let sandbox = Sandbox::new();
    sandbox.images(&wanted(&registry.name(), &["case/app:1"]));
    // From the first GET on, the tag means something else than the HEAD said.
    let mut moved = false;
    let new_digest = new.digest().to_owned();
    let document = registry.edit(|content| content.blobs[new.digest()].to_vec());
    registry.on(move |request| {
        let by_tag = request.path.ends_with("/manifests/1") && request.method == "GET";
        moved |= request.method == "HEAD";
        (moved && by_tag).then(|| {
            Fault { body: Some(document.clone()), ..Fault::default() }
                .header("Docker-Content-Digest", &new_digest)
        })
    });
    applied(&sandbox);
    let recorded = listed(&sandbox);
    assert_eq!(recorded.len(), 1);
    let digest = recorded[0]["digest"].as_str().unwrap();
    assert!([old.digest(), new.digest()].contains(&digest), "{digest}");
    let blobs = registry.edit(|content| content.blobs.clone());
    assert_exact(&recorded[0], &|digest| blobs[digest].to_vec());
}
