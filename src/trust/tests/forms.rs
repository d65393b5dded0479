//! Each form of signature: good, and wrong in one thing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fixtures::{
    GITHUB, PUBLISH, candidate, claims, file, image, judge, judge_by, keyless, keys, now, refusal, try_all,
    try_by,
};
use crate::digest::BlobDigest;
use crate::error::SignatureError;
use crate::state::{Candidate, TrustRule};

const PUBLISHED_BY: &str = "github.com/example-org/tool publish.yml@refs/heads/main";

#[test]
fn keys_of_every_kind_verify_every_form() {
    for (key, artifacts) in [
        (
            "p256",
            &[
                "cosign2-p256",
                "cosign2-manifest",
                "cosign2-log",
                "cosign3-p256",
                "cosign3-manifest",
                "cosign3-p256-log",
                "message-p256",
                "message-p256-manifest",
            ][..],
        ),
        ("p384", &["cosign2-p384", "cosign3-p384", "message-p384"]),
        ("ed25519", &["cosign2-ed25519"]),
        ("rsa2048", &["cosign2-rsa2048", "cosign3-rsa2048", "cosign3-rsa2048-log", "message-rsa2048"]),
        ("rsa4096", &["cosign2-rsa4096", "cosign3-rsa4096", "cosign3-rsa4096-log"]),
    ] {
        for artifact in artifacts {
            let evidence = try_by(&keys(&[&format!("{key}.pub")], false), &[artifact]);
            let evidence = evidence.unwrap_or_else(|error| panic!("{artifact}: {error}"));
            assert!(evidence.by.starts_with(&format!("key {key}.pub sha256:")), "{}", evidence.by);
            assert_eq!(evidence.at.is_some(), artifact.ends_with("-log"), "{artifact}: {:?}", evidence.at);
            assert_eq!(evidence.issuer, None);
        }
    }
}

#[test]
fn any_of_several_keys_will_do_and_any_of_several_signatures() {
    let both = keys(&["other.pub", "p256.pub"], false);
    assert!(try_by(&both, &["cosign3-p256"]).unwrap().by.starts_with("key p256.pub"));
    assert!(try_by(&both, &["cosign3-other"]).unwrap().by.starts_with("key other.pub"));
    let evidence = try_by(&keys(&["p256.pub"], false), &["cosign2-two"]).unwrap();
    assert_eq!(evidence.candidates.len(), 1);
    assert_eq!(evidence.candidates[0].layer, 1);
}

#[test]
fn other_keys_and_other_images_are_refused_in_words() {
    for (key, artifact, words) in [
        ("p256.pub", "cosign2-other", "by another key, or altered; the rule wants key p256.pub sha256:"),
        ("p256.pub", "cosign3-other", "by another key; the rule wants key p256.pub sha256:"),
        ("p256.pub", "message-other", "by another key; the rule wants key p256.pub"),
        ("p256.pub", "cosign2-other-image", "for another digest, sha256:"),
        ("p256.pub", "cosign3-other-image", "for another digest, sha256:"),
        (
            "p256.pub",
            "cosign2-keyless",
            "1 signature, by github.com/example-org/tool publish.yml@refs/heads/main",
        ),
        ("p256.pub", "cosign3-keyless", "by a certificate, not by a key"),
        ("p256.pub", "message-keyless", "by a certificate, not by a key"),
        ("ed25519.pub", "cosign3-ed25519", "Ed25519ph"),
        ("ed25519.pub", "message-ed25519", "Ed25519ph"),
        ("p256.pub", "cosign3-slsaprovenance1", "is provenance, which is no signature"),
        ("p256.pub", "cosign2-slsaprovenance", "is provenance, which is no signature"),
        ("p256.pub", "cosign3-custom", "which is no signature"),
        ("p256.pub", "cosign2-custom", "which is no signature"),
        ("p256.pub", "notation-jws", "a signature of Notation; the rule wants key p256.pub"),
        ("p256.pub", "notation-cose", "a signature of Notation; the rule wants key p256.pub"),
    ] {
        let reason = refusal(&keys(&[key], false), &[artifact]);
        assert!(reason.contains(words), "{artifact}: {reason}");
        assert!(reason.starts_with("images.toml:7: 1 signature"), "{reason}");
    }
}

#[test]
fn a_log_that_is_required_has_to_have_the_signature() {
    let logged = keys(&["p256.pub"], true);
    for artifact in ["cosign2-log", "cosign3-p256-log"] {
        assert!(try_by(&logged, &[artifact]).unwrap().at.is_some(), "{artifact}");
    }
    for artifact in ["cosign2-p256", "cosign3-p256", "message-p256"] {
        let reason = refusal(&logged, &[artifact]);
        assert!(reason.contains("is in no log, which the rule wants"), "{reason}");
        assert!(reason.contains("expected a signature by key p256.pub sha256:"), "{reason}");
    }
    // An entry of a log that is not known is none.
    let other = judge_by(&logged, "other_trusted_root.json", &file("other_trusted_root.json")).unwrap();
    let Err(error @ SignatureError::Refused { .. }) = try_all(&other, &[candidate("cosign3-p256-log")])
    else {
        panic!("accepted")
    };
    assert!(error.to_string().contains("is unknown to the trusted root other_trusted_root.json"), "{error}");
    assert!(error.hint().unwrap().contains("trusted_root.json"));
    let optional = keys(&["p256.pub"], false);
    let other = judge_by(&optional, "other_trusted_root.json", &file("other_trusted_root.json")).unwrap();
    assert_eq!(try_all(&other, &[candidate("cosign3-p256-log")]).unwrap().at, None);
}

#[test]
fn holders_of_certificates_verify_every_form() {
    let rule = keyless(GITHUB, PUBLISH);
    for artifact in [
        "cosign2-keyless",
        "cosign2-keyless-manifest",
        "cosign3-keyless",
        "cosign3-keyless-manifest",
        "message-keyless",
        "message-keyless-manifest",
    ] {
        let evidence = try_by(&rule, &[artifact]).unwrap_or_else(|error| panic!("{artifact}: {error}"));
        assert_eq!(evidence.by, PUBLISHED_BY);
        assert_eq!(evidence.issuer.as_deref(), Some(GITHUB));
        let at = evidence.at.unwrap();
        assert!((now() - 86_400 - at).abs() < 3600, "{at}");
        let is_message = artifact.starts_with("message");
        assert_eq!(evidence.candidates[0].message.is_some(), is_message, "{artifact}");
    }
    let mail = keyless("https://accounts.example.com", "someone@example.com");
    for artifact in ["cosign2-keyless-mail", "cosign3-keyless-mail"] {
        assert_eq!(try_by(&mail, &[artifact]).unwrap().by, "someone@example.com");
    }
    assert!(try_by(&rule, &["cosign2-keyless"]).unwrap().form.starts_with("cosign simple signing of "));
    assert_eq!(try_by(&rule, &["cosign3-keyless"]).unwrap().form, "sigstore bundle");
}

#[test]
fn claims_of_github_tell_callers_from_workflows() {
    for (rule, artifact) in [
        (claims("example-org/tool", None, None), "-keyless"),
        (claims("example-org/*", Some("publish.yml"), Some("refs/heads/*")), "-keyless"),
        (claims("example-org/tool", Some("publish.yml"), Some("refs/tags/*")), "-keyless-tag"),
        (claims("example-org/tool", Some("publish.yml"), None), "-keyless-reusable"),
    ] {
        for tool in ["cosign2", "cosign3"] {
            let artifact = format!("{tool}{artifact}");
            let judged = try_by(&rule, &[&artifact]);
            assert!(judged.is_ok(), "{artifact}: {judged:?}");
        }
    }
    for (rule, artifact, words) in [
        (
            claims("example-org/tool", None, None),
            "-keyless-other-repository",
            "for repository https://github.com/example-org/other; the rule wants example-org/tool of",
        ),
        (
            claims("example-org/shared", None, None),
            "-keyless-reusable",
            "for repository https://github.com/example-org/tool;",
        ),
        (
            claims("example-org/tool", Some("release.yml"), None),
            "-keyless-reusable",
            "for workflow publish.yml",
        ),
        (
            claims("example-org/tool", Some("publish.yml"), None),
            "-keyless-other-workflow",
            "for workflow test.yml",
        ),
        (claims("example-org/tool", None, Some("refs/tags/*")), "-keyless", "for ref refs/heads/main"),
        (
            claims("example-org/tool", None, None),
            "-keyless-other-issuer",
            "whose issuer is https://issuer.example.com",
        ),
        (claims("example-org/tool", None, None), "-keyless-mail", "someone@example.com"),
    ] {
        for tool in ["cosign2", "cosign3"] {
            let artifact = format!("{tool}{artifact}");
            let reason = refusal(&rule, &[&artifact]);
            assert!(reason.contains(words), "{artifact}: {reason}");
        }
    }
}

#[test]
fn certificates_of_others_and_out_of_their_time_are_refused_in_words() {
    let rule = keyless(GITHUB, PUBLISH);
    for (artifact, words) in [
        (
            "-keyless-tag",
            "signed by github.com/example-org/tool publish.yml@refs/tags/v1.2.3; the rule wants https://github.com/example-org/tool/",
        ),
        (
            "-keyless-other-repository",
            "signed by github.com/example-org/other publish.yml@refs/heads/main; the rule wants",
        ),
        (
            "-keyless-other-workflow",
            "signed by github.com/example-org/tool test.yml@refs/heads/main; the rule wants",
        ),
        ("-keyless-other-issuer", "whose issuer is https://issuer.example.com; the rule wants"),
        ("-keyless-other-image", "for another digest, sha256:"),
        ("-keyless-other-root", "is unknown to the trusted root trusted_root.json"),
        ("-keyless-late", "certificate was not valid at the time of the log entry"),
        ("-p256", "by a key, not by a certificate"),
        ("-slsaprovenance-keyless", "is provenance, which is no signature"),
    ] {
        for tool in ["cosign2", "cosign3"] {
            let artifact = format!("{tool}{artifact}");
            let reason = refusal(&rule, &[&artifact]);
            assert!(reason.contains(words), "{artifact}: {reason}");
        }
    }
    let reason = refusal(&rule, &["cosign2-keyless-tag", "cosign3-keyless-other-repository"]);
    assert!(
        reason.starts_with(
            "images.toml:7: 2 signatures, by github.com/example-org/tool publish.yml@refs/tags/v1.2.3, \
             github.com/example-org/other publish.yml@refs/heads/main; expected a signature by https://github.com/"
        ),
        "{reason}"
    );
}

#[test]
fn provenance_is_wanted_of_the_same_signer() {
    let with_provenance = |mut rule: TrustRule| {
        rule.provenance = true;
        rule
    };
    let key = with_provenance(keys(&["p256.pub"], false));
    let holder = with_provenance(keyless(GITHUB, PUBLISH));
    for (rule, signature, provenance) in [
        (&key, "cosign2-p256", "cosign2-slsaprovenance"),
        (&key, "cosign2-p256", "cosign2-slsaprovenance1"),
        (&key, "cosign3-p256", "cosign3-slsaprovenance"),
        (&key, "cosign3-p256", "cosign3-slsaprovenance1"),
        (&key, "message-p256", "cosign3-slsaprovenance1"),
        (&holder, "cosign2-keyless", "cosign2-slsaprovenance-keyless"),
        (&holder, "cosign3-keyless", "cosign3-slsaprovenance-keyless"),
        (&holder, "cosign3-keyless", "cosign3-slsaprovenance1-keyless"),
    ] {
        for order in [[signature, provenance], [provenance, signature]] {
            let evidence = try_by(rule, &order).unwrap_or_else(|error| panic!("{order:?}: {error}"));
            assert_eq!(evidence.candidates.len(), 2, "{order:?}");
        }
        let reason = refusal(rule, &[signature]);
        assert!(reason.contains("the signature that is wanted, but its provenance is missing"), "{reason}");
        assert!(reason.contains("and provenance by the same"), "{reason}");
        let reason = refusal(rule, &[provenance]);
        assert!(reason.contains("the provenance that is wanted, but the signature is missing"), "{reason}");
    }
    for (rule, signature, provenance) in [
        (&key, "cosign2-p256", "cosign2-slsaprovenance-other"),
        (&key, "cosign3-p256", "cosign3-slsaprovenance1-other"),
        (&key, "cosign3-p256", "cosign3-custom"),
        (&key, "cosign3-p256", "cosign3-slsaprovenance1-keyless"),
        (&holder, "cosign3-keyless", "cosign3-slsaprovenance1-keyless-other"),
        (&holder, "cosign3-keyless", "cosign3-custom-keyless"),
    ] {
        let reason = refusal(rule, &[signature, provenance]);
        assert!(reason.contains("its provenance is missing"), "{reason}");
    }
}

#[test]
fn a_rule_of_several_signers_wants_signature_and_provenance_of_one() {
    let keys = TrustRule { provenance: true, ..keys(&["p256.pub", "other.pub"], false) };
    let holders = TrustRule { provenance: true, ..claims("example-org/*", None, None) };
    for (rule, one, other) in [
        (
            &keys,
            ["cosign3-p256", "cosign3-slsaprovenance1"],
            ["cosign3-other", "cosign3-slsaprovenance1-other"],
        ),
        (
            &holders,
            ["cosign3-keyless", "cosign3-slsaprovenance1-keyless"],
            ["cosign3-keyless-other-repository", "cosign3-slsaprovenance1-keyless-other"],
        ),
    ] {
        assert!(try_by(rule, &one).is_ok() && try_by(rule, &other).is_ok());
        for mixed in [[one[0], other[1]], [other[1], one[0]], [other[0], one[1]]] {
            let reason = refusal(rule, &mixed);
            assert!(reason.contains("its provenance is missing"), "{reason}");
            assert!(reason.contains("who has not signed the image"), "{reason}");
        }
        // Both are found among those of others, in whatever order.
        let evidence = try_by(rule, &[other[0], one[1], one[0]]).unwrap();
        let alone = try_by(rule, &one).unwrap();
        assert_eq!((evidence.by, evidence.candidates), (alone.by, alone.candidates));
    }
}

#[test]
fn what_would_take_much_memory_is_refused_before_it_is_read() {
    let key = keys(&["p256.pub"], false);
    let many =
        |start: &str, item: &str, end: &str| format!("{start}{}1{end}", format!("{item},").repeat(60_000));
    let good = candidate("cosign3-p256");
    let media_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let mut bundle: serde_json::Value = serde_json::from_slice(&good.blob).unwrap();
    let statement =
        many(r#"{"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":["#, "{}", "]}");
    bundle["dsseEnvelope"]["payload"] = STANDARD.encode(statement).into();
    for (blob, words) in [
        (many(&format!(r#"{{"mediaType":"{media_type}","x":["#), "1", "]}"), "has more values than"),
        (bundle.to_string(), "its statement has more values than"),
    ] {
        let heard = Candidate { blob: blob.into_bytes(), ..good.clone() };
        let reason = try_all(&judge(&key), &[heard]).unwrap_err().to_string();
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn each_part_of_the_root_counts_alone() {
    let own: serde_json::Value = serde_json::from_slice(&file("trusted_root.json")).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&file("other_trusted_root.json")).unwrap();
    let rule = keyless(GITHUB, PUBLISH);
    for artifact in ["cosign2-keyless", "cosign3-keyless", "message-keyless"] {
        for (part, words) in [
            (
                "certificateAuthorities",
                "its certificate is of no authority that the trusted root mixed.json believes",
            ),
            ("tlogs", "is unknown to the trusted root mixed.json"),
            (
                "ctlogs",
                "no log of certificates that the trusted root mixed.json believes has its certificate",
            ),
        ] {
            for replaced in [other[part].clone(), serde_json::json!([])] {
                let mut mixed = own.clone();
                mixed[part] = replaced;
                let mixed = serde_json::to_vec(&mixed).unwrap();
                let judge = judge_by(&rule, "mixed.json", &mixed).unwrap();
                let error = try_all(&judge, &[candidate(artifact)]).unwrap_err();
                assert!(error.to_string().contains(words), "{artifact} {part}: {error}");
                assert!(error.hint().unwrap().contains("trust-root"), "{error}");
            }
            // The other's key under the own id is not the own key.
            if part != "certificateAuthorities" {
                let mut mixed = own.clone();
                mixed[part][0]["publicKey"] = other[part][0]["publicKey"].clone();
                let judge = judge_by(&rule, "mixed.json", &serde_json::to_vec(&mixed).unwrap()).unwrap();
                assert!(try_all(&judge, &[candidate(artifact)]).is_err(), "{artifact} {part}");
            }
        }
    }
}

#[test]
fn the_log_entry_is_that_of_this_signature() {
    // Two signatures of one image by one workflow: each with the other's entry.
    let mut swapped = candidate("cosign3-keyless");
    let mut bundle: serde_json::Value = serde_json::from_slice(&swapped.blob).unwrap();
    for from in ["cosign3-keyless-manifest", "cosign3-slsaprovenance1-keyless", "message-keyless"] {
        let donor: serde_json::Value = serde_json::from_slice(&candidate(from).blob).unwrap();
        bundle["verificationMaterial"]["tlogEntries"] = donor["verificationMaterial"]["tlogEntries"].clone();
        swapped.blob = serde_json::to_vec(&bundle).unwrap();
        let judge = super::fixtures::judge(&keyless(GITHUB, PUBLISH));
        let error = try_all(&judge, &[swapped.clone()]).unwrap_err().to_string();
        assert!(error.contains("of another signature") || error.contains("cannot be verified"), "{error}");
        // The same for a key, whether the log is asked for or not.
        for log_required in [true, false] {
            let mut keyed = candidate("cosign3-p256-log");
            let mut bundle: serde_json::Value = serde_json::from_slice(&keyed.blob).unwrap();
            bundle["verificationMaterial"]["tlogEntries"] =
                donor["verificationMaterial"]["tlogEntries"].clone();
            keyed.blob = serde_json::to_vec(&bundle).unwrap();
            let judge = super::fixtures::judge(&keys(&["p256.pub"], log_required));
            assert!(try_all(&judge, &[keyed]).is_err(), "{from}");
        }
    }
    // cosign 2 keeps the entry in an annotation.
    let good = candidate("cosign2-keyless");
    let mut swapped = good.clone();
    let annotation = |candidate: &crate::state::Candidate| {
        let manifest: serde_json::Value = serde_json::from_slice(&candidate.manifest).unwrap();
        manifest["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"].as_str().unwrap().to_owned()
    };
    let (own, others) = (annotation(&good), annotation(&candidate("cosign2-keyless-manifest")));
    let mut manifest: serde_json::Value = serde_json::from_slice(&good.manifest).unwrap();
    manifest["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = others.into();
    swapped.manifest = serde_json::to_vec(&manifest).unwrap().into();
    let judge = super::fixtures::judge(&keyless(GITHUB, PUBLISH));
    let error = try_all(&judge, &[swapped.clone()]).unwrap_err().to_string();
    assert!(error.contains("of another signature"), "{error}");
    manifest["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = own.into();
    swapped.manifest = serde_json::to_vec(&manifest).unwrap().into();
    assert!(try_all(&judge, &[swapped]).is_ok(), "the test itself alters nothing else");
}

#[test]
fn a_message_has_to_be_the_document_that_its_digest_names() {
    let rule = super::fixtures::judge(&keys(&["p256.pub"], false));
    let signed_by = |rule: &super::super::Judge| {
        let crate::trust::Demand::Signed(signed_by) = rule.demand(&super::fixtures::reference("a/b")) else {
            panic!("no signature is asked for")
        };
        signed_by.fingerprint().to_owned()
    };
    assert!(!signed_by(&rule).is_empty());
    let crate::trust::Demand::Signed(signed_by) = rule.demand(&super::fixtures::reference("a/b")) else {
        panic!("no signature is asked for")
    };
    let (index, manifest) = image();
    for document in [None, Some(b"{}".to_vec())] {
        let mut trial = signed_by.trial(&index, &manifest, now());
        trial.hear(candidate("message-p256"), &mut |_: &BlobDigest| document.clone());
        assert!(!trial.is_over());
        assert!(trial.finish().unwrap_err().to_string().contains("which cannot be had"));
    }
    // Bytes that came with the candidate are believed no more than others.
    let mut trial = signed_by.trial(&index, &manifest, now());
    let forged = crate::state::Candidate { message: Some(b"{}".to_vec()), ..candidate("message-p256") };
    trial.hear(forged, &mut |_: &BlobDigest| None);
    assert!(!trial.is_over());
}
