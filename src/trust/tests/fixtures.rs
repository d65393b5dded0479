//! Signatures, images, keys and roots from `tests/fixtures/signing`, and rules to judge them by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::digest::BlobDigest;
use crate::error::{SignatureError, TrustFileError};
use crate::image_ref::{DEFAULT_REGISTRY, ImageRef};
use crate::state::{Candidate, Evidence, Identity, Keyless, SignaturePlace, Signer, TrustPolicy, TrustRule};
use crate::trust::{Demand, Judge};

/// The issuer of GitHub's workflows.
pub(super) const GITHUB: &str = "https://token.actions.githubusercontent.com";
/// The workflow that signed most of the fixtures.
pub(super) const PUBLISH: &str =
    "https://github.com/example-org/tool/.github/workflows/publish.yml@refs/heads/main";

pub(super) fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/signing").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&file(name)).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is missing"))
}

fn bytes(blob: &Value) -> Vec<u8> {
    match blob.get("text") {
        Some(text) => text.as_str().unwrap().as_bytes().to_vec(),
        None => STANDARD.decode(text(blob, "base64")).unwrap(),
    }
}

/// The image that most fixtures are of: its index and the manifest for one platform.
pub(super) fn image() -> (BlobDigest, BlobDigest) {
    let image = json("image.json");
    let digest = |key| BlobDigest::parse(text(&image, key)).unwrap();
    (digest("index"), digest("manifest"))
}

/// The documents of the image.
pub(super) fn document(digest: &BlobDigest) -> Option<Vec<u8>> {
    let image = json("image.json");
    image["manifests"].get(&*digest.text()).map(|text| text.as_str().unwrap().as_bytes().to_vec())
}

/// The candidates of one artifact.
pub(super) fn candidates(name: &str) -> Vec<Candidate> {
    let artifact = json(&format!("{name}.json"));
    let manifest = text(&artifact, "manifest");
    let parsed: Value = serde_json::from_str(manifest).unwrap();
    let layers = parsed["layers"].as_array().unwrap();
    let place = match text(&artifact, "place") {
        "referrers" => SignaturePlace::Referrers,
        "signature-tag" => SignaturePlace::SignatureTag,
        "attestation-tag" => SignaturePlace::AttestationTag,
        other => panic!("{other}"),
    };
    let candidate = |layer: usize| Candidate {
        subject: BlobDigest::parse(text(&artifact, "subject")).unwrap(),
        place,
        digest: BlobDigest::of(crate::digest::Algorithm::Sha256, manifest.as_bytes()),
        manifest: manifest.as_bytes().into(),
        layer,
        blob: bytes(&artifact["blobs"][text(&layers[layer], "digest")]),
        message: None,
        config: None,
    };
    (0..layers.len()).map(candidate).collect()
}

/// The one candidate of an artifact.
pub(super) fn candidate(name: &str) -> Candidate {
    let mut all = candidates(name);
    assert_eq!(all.len(), 1, "{name}");
    all.remove(0)
}

/// A rule for every image.
pub(super) fn rule(signer: Signer) -> TrustRule {
    TrustRule { images: vec!["*".to_owned()], signer, provenance: false, place: "images.toml:7".to_owned() }
}

/// A rule of keys.
pub(super) fn keys(names: &[&str], log_required: bool) -> TrustRule {
    rule(Signer::Keys { files: names.iter().map(PathBuf::from).collect(), log_required })
}

/// A rule of an identity.
pub(super) fn keyless(issuer: &str, name: &str) -> TrustRule {
    let identity = Identity::Name(name.to_owned());
    rule(Signer::Keyless(Keyless { issuer: issuer.to_owned(), identity }))
}

/// A rule of GitHub's claims.
pub(super) fn claims(repository: &str, workflow: Option<&str>, git_ref: Option<&str>) -> TrustRule {
    let identity = Identity::Claims {
        repository: repository.to_owned(),
        workflow: workflow.map(str::to_owned),
        git_ref: git_ref.map(str::to_owned),
    };
    rule(Signer::Keyless(Keyless { issuer: GITHUB.to_owned(), identity }))
}

/// A judge of one rule by the Sigstore of `trusted_root.json`, unless the rule has another.
pub(super) fn judge(rule: &TrustRule) -> Judge {
    judge_by(rule, "trusted_root.json", &file("trusted_root.json")).unwrap()
}

/// A judge of one rule by a Sigstore of its own.
pub(super) fn judge_by(rule: &TrustRule, name: &str, root: &[u8]) -> Result<Judge, TrustFileError> {
    let policy = TrustPolicy {
        rules: vec![rule.clone()],
        refuses_unsigned: None,
        trusted_root: Some(PathBuf::from(name)),
    };
    let mut files = BTreeMap::from([(PathBuf::from(name), root.to_vec())]);
    for path in policy.files() {
        files.entry(path.to_owned()).or_insert_with(|| file(path.to_str().unwrap()));
    }
    Judge::new(&policy, &files)
}

pub(super) fn reference(text: &str) -> ImageRef {
    ImageRef::parse(text, DEFAULT_REGISTRY).unwrap()
}

/// The time of all trials: a day after the fixtures were made.
pub(super) fn now() -> i64 {
    String::from_utf8(file("made-at")).unwrap().trim().parse::<i64>().unwrap() + 86_400
}

/// Judges all of `heard` as being found with the image.
pub(super) fn try_all(judge: &Judge, heard: &[Candidate]) -> Result<Evidence, SignatureError> {
    let Demand::Signed(signed_by) = judge.demand(&reference("ghcr.io/example-org/tool:1")) else {
        panic!("the rule asks for a signature")
    };
    let (index, manifest) = image();
    let mut trial = signed_by.trial(&index, &manifest, now());
    for candidate in heard {
        trial.hear(candidate.clone(), &mut document);
    }
    trial.finish()
}

/// Judges the artifacts `names` by `rule`.
pub(super) fn try_by(rule: &TrustRule, names: &[&str]) -> Result<Evidence, SignatureError> {
    let heard: Vec<Candidate> = names.iter().flat_map(|name| candidates(name)).collect();
    try_all(&judge(rule), &heard)
}

/// The reason why `rule` refuses the artifacts `names`.
pub(super) fn refusal(rule: &TrustRule, names: &[&str]) -> String {
    try_by(rule, names).map(|evidence| format!("{names:?} accepted: {evidence:?}")).unwrap_err().to_string()
}
