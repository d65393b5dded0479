//! Which rule decides, what it asks for, and evidence that is judged again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fixtures::{
    GITHUB, PUBLISH, candidate, file, image, judge, judge_by, keyless, keys, now, reference, rule, try_all,
    try_by,
};
use crate::state::{
    Candidate, Identity, Keyless, MAX_CANDIDATES, SignaturePlace, Signer, TrustPolicy, TrustRule,
};
use crate::trust::{Demand, Judge, SignedBy};

fn judge_of(rules: Vec<TrustRule>, refuses_unsigned: bool) -> Judge {
    let refuses_unsigned = refuses_unsigned.then(|| "images.toml:3".to_owned());
    let policy = TrustPolicy { rules, refuses_unsigned, trusted_root: None };
    let files: BTreeMap<PathBuf, Vec<u8>> =
        policy.files().into_iter().map(|path| (path.to_owned(), file(path.to_str().unwrap()))).collect();
    Judge::new(&policy, &files).unwrap()
}

fn for_images(images: &[&str], place: &str, signer: Signer) -> TrustRule {
    let images = images.iter().map(|image| (*image).to_owned()).collect();
    TrustRule { images, place: place.to_owned(), ..rule(signer) }
}

fn signed_by(judge: &Judge) -> SignedBy<'_> {
    let Demand::Signed(signed_by) = judge.demand(&reference("ghcr.io/a/b")) else {
        panic!("nothing asked for")
    };
    signed_by
}

#[test]
fn the_first_rule_that_names_an_image_decides() {
    let key = || Signer::Keys { files: vec![PathBuf::from("p256.pub")], log_required: false };
    let rules = vec![
        for_images(&["ghcr.io/acme/public-*"], "1", Signer::Nobody),
        for_images(&["ghcr.io/acme/*", "quay.io/acme/app"], "2", key()),
        for_images(&["docker.io/library/*"], "3", Signer::Nobody),
        for_images(&["*/special"], "4", key()),
    ];
    for (image, expected) in [
        ("ghcr.io/acme/public-x:1", "unsigned 1"),
        ("ghcr.io/acme/app:1", "signed 2"),
        ("ghcr.io/acme/team/app", "signed 2"),
        ("quay.io/acme/app", "signed 2"),
        ("quay.io/acme/app2", "no rule"),
        ("ghcr.io/acme-evil/app", "no rule"),
        ("alpine:3.20", "unsigned 3"),
        ("docker.io/library/alpine", "unsigned 3"),
        ("index.docker.io/alpine", "unsigned 3"),
        ("sandboxes.io/alpine", "unsigned 3"),
        ("someone/alpine", "no rule"),
        ("localhost:5000/x/special", "signed 4"),
    ] {
        for refuses in [false, true] {
            let judge = judge_of(rules.clone(), refuses);
            let demand = match judge.demand(&reference(image)) {
                Demand::Nothing => "no rule".to_owned(),
                Demand::NoRule { rule } => {
                    assert!(refuses && rule == "images.toml:3");
                    "no rule".to_owned()
                }
                Demand::Unsigned { rule } => format!("unsigned {rule}"),
                Demand::Signed(signed_by) => format!("signed {}", signed_by.rule()),
            };
            assert_eq!(demand, expected, "{image}");
            if !refuses && expected == "no rule" {
                assert!(matches!(judge.demand(&reference(image)), Demand::Nothing));
            }
        }
    }
}

#[test]
fn fingerprints_know_what_a_judgement_depends_on_and_nothing_else() {
    let fingerprint = |rule: &TrustRule| signed_by(&judge(rule)).fingerprint().to_owned();
    let key = keys(&["p256.pub"], false);
    let moved =
        TrustRule { place: "other.toml:99".to_owned(), images: vec!["ghcr.io/*".to_owned()], ..key.clone() };
    assert_eq!(fingerprint(&key), fingerprint(&moved));
    let two = keys(&["p256.pub", "p384.pub"], false);
    assert_eq!(fingerprint(&two), fingerprint(&keys(&["p384.pub", "p256.pub"], false)));
    let claims = |workflow: Option<&str>, git_ref: Option<&str>| {
        let identity = Identity::Claims {
            repository: "a/b".to_owned(),
            workflow: workflow.map(str::to_owned),
            git_ref: git_ref.map(str::to_owned),
        };
        rule(Signer::Keyless(Keyless { issuer: GITHUB.to_owned(), identity }))
    };
    let all = [
        key.clone(),
        two,
        keys(&["p256.pub"], true),
        TrustRule { provenance: true, ..key.clone() },
        keyless(GITHUB, PUBLISH),
        keyless(GITHUB, "*"),
        keyless("*", PUBLISH),
        claims(None, None),
        claims(Some("x"), None),
        claims(None, Some("x")),
    ];
    let prints: std::collections::BTreeSet<String> = all.iter().map(fingerprint).collect();
    assert_eq!(prints.len(), all.len());
    let other_root = judge_by(&key, "r.json", &file("other_trusted_root.json")).unwrap();
    assert_ne!(signed_by(&other_root).fingerprint(), fingerprint(&key));
}

#[test]
fn places_are_those_where_such_signatures_are() {
    use SignaturePlace::{AttestationTag, Referrers, SignatureTag};
    let key = keys(&["p256.pub"], false);
    let with_provenance = TrustRule { provenance: true, ..key.clone() };
    let notation =
        rule(Signer::Notation { roots: "notation-root.pem".into(), subject: "O=Example".to_owned() });
    for (rule, places) in [
        (key, &[Referrers, SignatureTag][..]),
        (with_provenance, &[Referrers, SignatureTag, AttestationTag]),
        (notation, &[Referrers]),
    ] {
        assert_eq!(signed_by(&judge(&rule)).places(), places);
    }
}

#[test]
fn a_signature_of_cosign_is_none_of_notation() {
    let notation =
        rule(Signer::Notation { roots: "notation-root.pem".into(), subject: "O=Example".to_owned() });
    for artifact in ["cosign2-p256", "cosign3-keyless"] {
        let error = try_by(&notation, &[artifact]).unwrap_err().to_string();
        assert!(
            error.contains("not a signature of Notation; the rule wants O=Example below notation-root.pem"),
            "{error}"
        );
    }
}

#[test]
fn evidence_is_judged_again_without_a_registry() {
    for (artifact, by_own) in [
        ("cosign2-keyless", keyless(GITHUB, PUBLISH)),
        ("message-keyless", keyless(GITHUB, PUBLISH)),
        ("message-p256-manifest", keys(&["p256.pub"], false)),
    ] {
        let evidence = try_by(&by_own, &[artifact]).unwrap();
        let own = judge(&by_own);
        assert_eq!(signed_by(&own).judge_again(&evidence, now()).as_ref(), Some(&evidence));
        assert_eq!(evidence.judged_by, signed_by(&own).fingerprint());
        let wider = keyless("*", "*");
        let again = signed_by(&judge(&wider)).judge_again(&evidence, now());
        assert_eq!(again.is_some(), artifact.contains("keyless"), "{artifact}");
        if let Some(again) = again {
            assert_ne!(again.judged_by, evidence.judged_by);
            assert_eq!(again.candidates, evidence.candidates);
        }
        let narrower = keyless(GITHUB, "https://github.com/example-org/other/*");
        assert!(signed_by(&judge(&narrower)).judge_again(&evidence, now()).is_none());
        let other = judge_by(&by_own, "r.json", &file("other_trusted_root.json")).unwrap();
        assert_eq!(signed_by(&other).judge_again(&evidence, now()).is_some(), !artifact.contains("keyless"));
        let mut moved = evidence.clone();
        (moved.digest, moved.manifest) = (evidence.manifest.clone(), evidence.manifest.clone());
        let is_of_manifest = artifact.ends_with("-manifest");
        assert_eq!(signed_by(&own).judge_again(&moved, now()).is_some(), is_of_manifest, "{artifact}");
        let mut empty = evidence.clone();
        empty.candidates.clear();
        assert!(signed_by(&own).judge_again(&empty, now()).is_none());
    }
}

#[test]
fn an_artifact_that_is_found_twice_is_heard_once() {
    let judge = judge(&keys(&["p256.pub"], false));
    let (index, manifest) = image();
    let mut trial = signed_by(&judge).trial(&index, &manifest, now());
    assert_eq!(trial.heard(), 0);
    for name in ["cosign3-other", "cosign3-other", "cosign2-other"] {
        trial.hear(candidate(name), &mut |_| None);
    }
    assert_eq!(trial.heard(), 2);
    assert!(!trial.is_over());
    let error = trial.finish().unwrap_err().to_string();
    assert!(error.contains("2 signatures"), "{error}");
    let nothing = try_all(&judge, &[]).unwrap_err().to_string();
    assert!(
        nothing.starts_with("images.toml:7: no signature; expected a signature by key p256.pub"),
        "{nothing}"
    );
}

#[test]
fn files_that_are_no_keys_are_refused_with_a_reason_and_without_their_content() {
    let pem = |label: &str| format!("-----BEGIN {label}-----\nc2VjcmV0c2VjcmV0\n-----END {label}-----\n");
    let two = [file("p256.pub"), file("p384.pub")].concat();
    for (content, reason) in [
        (file("rsa1024.pub"), "it is an RSA key of fewer than 2048"),
        (file("p521.pub"), "it is no public key of the kinds that are known: P-256, P-384, Ed25519, RSA"),
        (file("notation-root.pem"), "it is a certificate, not a public key"),
        (
            pem("ENCRYPTED SIGSTORE PRIVATE KEY").into_bytes(),
            "it is a private key, which does not belong here",
        ),
        (pem("PRIVATE KEY").into_bytes(), "it is a private key"),
        (pem("PUBLIC KEY").into_bytes(), "it is no public key of the kinds that are known"),
        (pem("RSA PUBLIC KEY").into_bytes(), "it is a bare RSA key"),
        (pem("SOMETHING").into_bytes(), "not labelled PUBLIC KEY"),
        (b"secretsecret".to_vec(), "it holds no PEM block"),
        (Vec::new(), "it holds no PEM block"),
        (vec![0xff; 9], "it is not a PEM file"),
        (two, "it holds 2 PEM blocks"),
    ] {
        let policy = TrustPolicy { rules: vec![keys(&["/x/k.pub"], false)], ..TrustPolicy::default() };
        let files = BTreeMap::from([(PathBuf::from("/x/k.pub"), content)]);
        let Err(error) = Judge::new(&policy, &files) else { panic!("{reason}: accepted") };
        let error = error.to_string();
        assert!(error.starts_with("cannot use /x/k.pub, which images.toml:7 names: "), "{error}");
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("secret") && !error.contains("c2VjcmV0"), "{error}");
    }
    for key in ["p256.pub", "p384.pub", "ed25519.pub", "rsa2048.pub", "rsa4096.pub"] {
        judge(&keys(&[key], false));
    }
    // A root that is named is read, whether a rule needs it or not.
    let policy = TrustPolicy { trusted_root: Some("/r.json".into()), ..TrustPolicy::default() };
    assert!(Judge::new(&policy, &BTreeMap::new()).is_err());
    assert!(Judge::new(&policy, &BTreeMap::from([("/r.json".into(), b"{}".to_vec())])).is_err());
}

#[test]
fn a_layer_that_is_too_large_comes_without_its_bytes_and_is_refused_in_words() {
    let good = candidate("cosign3-p256");
    let mut manifest: serde_json::Value = serde_json::from_slice(&good.manifest).unwrap();
    manifest["layers"][0]["size"] = ((4 << 20) + 1).into();
    let large =
        Candidate { manifest: manifest.to_string().into_bytes().into(), blob: Vec::new(), ..good.clone() };
    let rule = keys(&["p256.pub"], false);
    let error = try_all(&judge(&rule), &[large]).unwrap_err().to_string();
    assert!(error.contains("1 signature") && error.contains("larger than a signature may be"), "{error}");
}

#[test]
fn a_place_with_more_signatures_than_are_looked_at_is_told() {
    let good = candidate("cosign3-p256");
    let broken = |layer| Candidate { layer, blob: b"{}".to_vec(), ..good.clone() };
    let rule = keys(&["p256.pub"], false);
    let hint = |count| {
        let heard: Vec<Candidate> = (0..count).map(broken).collect();
        try_all(&judge(&rule), &heard).unwrap_err().hint()
    };
    assert_eq!(hint(MAX_CANDIDATES - 1), None);
    assert!(hint(MAX_CANDIDATES).unwrap().contains("only the first 32 signatures of a place"));
}
