//! Signatures by the real `notation`, and forged ones. The fixtures' folder says what each of them
//! is.

macro_rules! text {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/signing/", $name))
    };
}

mod forged;
mod hostile;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::super::finding::{Refused, Signed};
use super::*;
use crate::state::SignaturePlace;

const ROOT: &str = text!("notation-root.pem");
const OTHER_ROOT: &str = text!("notation-other-root.pem");
/// The same, with the root of the timestamps' authority.
const ROOTS: &str = text!("notation-roots.pem");

/// The time at which the fixtures were all made, and some were good no longer.
fn made() -> i64 {
    text!("made-at").trim().parse().unwrap()
}

#[derive(Deserialize)]
struct Image {
    index: String,
    manifest: String,
}

fn subjects() -> [BlobDigest; 2] {
    let image: Image = serde_json::from_str(text!("image.json")).unwrap();
    [&image.index, &image.manifest].map(|digest| BlobDigest::parse(digest).unwrap())
}

#[derive(Deserialize)]
struct Fixture {
    subject: String,
    manifest: String,
    blobs: BTreeMap<String, Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Blob {
    Text(String),
    Base64(String),
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// Reads a fixture: the candidate, and the media type of its layer.
fn candidate(text: &str) -> (Candidate, String) {
    let mut fixture: Fixture = serde_json::from_str(text).unwrap();
    let layer = serde_json::from_str::<Manifest>(&fixture.manifest).unwrap().layers.remove(0);
    let blob = match fixture.blobs.remove(&layer.digest).unwrap() {
        Blob::Text(text) => text.into_bytes(),
        Blob::Base64(text) => STANDARD.decode(text).unwrap(),
    };
    (with(&fixture.subject, &fixture.manifest, blob), layer.media_type)
}

fn with(subject: &str, manifest: &str, blob: Vec<u8>) -> Candidate {
    let digest = BlobDigest::parse(subject).unwrap();
    Candidate {
        subject: digest.clone(),
        place: SignaturePlace::Referrers,
        digest,
        manifest: Arc::from(manifest.as_bytes()),
        layer: 0,
        blob,
        message: None,
        config: None,
    }
}

fn judged(text: &str, roots: &str, subject: &str, now: i64) -> Result<Signed, Refused> {
    let (candidate, kind) = candidate(text);
    judged_blob(&candidate, &kind, roots, subject, now)
}

fn judged_blob(
    candidate: &Candidate,
    kind: &str,
    roots: &str,
    subject: &str,
    now: i64,
) -> Result<Signed, Refused> {
    let [index, manifest] = subjects();
    let roots = Roots::parse(roots.as_bytes()).unwrap();
    judge(candidate, kind, &[&index, &manifest], &roots, &Subject::parse(subject).unwrap(), now)
}

#[test]
fn signatures_of_all_kinds_are_good() {
    for (name, text) in [
        ("jws", text!("notation-jws.json")),
        ("jws", text!("notation-jws-p256.json")),
        ("jws", text!("notation-jws-rsa2048.json")),
        ("jws", text!("notation-jws-rsa3072.json")),
        ("jws", text!("notation-jws-rsa4096.json")),
        ("jws", text!("notation-jws-manifest.json")),
        ("jws", text!("notation-jws-metadata.json")),
        ("jws", text!("notation-jws-expiring.json")),
        ("cose", text!("notation-cose.json")),
        ("cose", text!("notation-cose-p256.json")),
        ("cose", text!("notation-cose-rsa2048.json")),
        ("cose", text!("notation-cose-rsa3072.json")),
        ("cose", text!("notation-cose-rsa4096.json")),
        ("cose", text!("notation-cose-manifest.json")),
        ("cose", text!("notation-cose-metadata.json")),
        ("cose", text!("notation-cose-expiring.json")),
    ] {
        let signed = judged(text, ROOT, "O=Example, OU=Team *, CN=images", made());
        let expected = Signed {
            by: "CN=images,OU=Team A,O=Example,C=CH".to_owned(),
            issuer: Some("CN=root,O=Example".to_owned()),
            at: None,
            until: signed.as_ref().ok().and_then(|signed| signed.until),
            signer: "CN=images,OU=Team A,O=Example,C=CH".to_owned(),
            form: if name == "jws" { "notation jws" } else { "notation cose" },
        };
        assert_eq!(signed, Ok(expected), "{}", &text[..200]);
    }
}

#[test]
fn a_certificate_may_be_below_an_intermediate_one() {
    for text in [text!("notation-jws-intermediate.json"), text!("notation-cose-intermediate.json")] {
        let signed = judged(text, ROOT, "CN=images", made()).unwrap();
        assert_eq!(signed.issuer.as_deref(), Some("CN=intermediate,O=Example"));
    }
}

#[test]
fn a_certificate_that_has_ended_is_good_at_a_timestamp() {
    for text in [text!("notation-jws-stamped.json"), text!("notation-cose-stamped.json")] {
        let signed = judged(text, ROOTS, "CN=images", made() + 3600).unwrap();
        let at = signed.at.unwrap();
        assert!((made() - 120..=made()).contains(&at), "{at}");
        let decades = judged(text, ROOTS, "CN=images", made() + 50 * 31_557_600).unwrap();
        assert_eq!(decades.at, Some(at));
        // While it was good, a timestamp of a stranger did no harm.
        assert_eq!(judged(text, ROOT, "CN=images", at).unwrap().at, None);
    }
}

#[test]
fn everything_else_is_refused_by_name() {
    let other = format!("{OTHER_ROOT}{ROOT}");
    let long = made() + 200 * 31_557_600;
    let at = |text: &str| judged(text, ROOTS, "*", made()).unwrap().at.unwrap();
    let stamped = text!("notation-jws-stamped.json");
    for (text, roots, subject, now, reason) in [
        (text!("notation-jws-p521.json"), ROOT, "*", made(), "ES512 (keys of P-521) is not supported"),
        (text!("notation-cose-p521.json"), ROOT, "*", made(), "ES512 (keys of P-521) is not supported"),
        (text!("notation-jws-other-root.json"), ROOT, "*", made(), "none of the roots"),
        (text!("notation-cose-other-root.json"), ROOT, "*", made(), "none of the roots"),
        (text!("notation-jws.json"), OTHER_ROOT, "*", made(), "none of the roots"),
        (text!("notation-jws-other-subject.json"), ROOT, "O=Example", made(), "another subject's"),
        (text!("notation-cose-other-subject.json"), ROOT, "O=Example", made(), "another subject's"),
        (text!("notation-jws.json"), ROOT, "CN=images,OU=Team B", made(), "another subject's"),
        (text!("notation-jws-other-image.json"), ROOT, "*", made(), "it is about sha256:"),
        (text!("notation-cose-other-image.json"), ROOT, "*", made(), "it is about sha256:"),
        (text!("notation-jws-expiring.json"), ROOT, "*", made() + 3600, "its expiry is past"),
        (text!("notation-cose-expiring.json"), ROOT, "*", made() + 3600, "its expiry is past"),
        (text!("notation-jws.json"), ROOT, "*", made() - 86400, "its certificate begins on 2"),
        (text!("notation-jws.json"), ROOT, "*", long, "and it has no timestamp"),
        (text!("notation-jws-short.json"), ROOT, "*", made() + 3600, "its certificate ended on 2"),
        (text!("notation-cose-short.json"), ROOTS, "*", made() + 3600, "and it has no timestamp"),
        (stamped, ROOT, "*", made() + 3600, "its authority will not do"),
        (text!("notation-cose-stamped.json"), ROOT, "*", made() + 3600, "its authority will not do"),
        (stamped, ROOTS, "*", at(stamped) - 86400, "its timestamp will not do: it is of the future"),
        (text!("notation-jws-stamped-late.json"), ROOTS, "*", made() + 3600, ", by its timestamp"),
    ] {
        let refused = judged(text, roots, subject, now).unwrap_err();
        assert!(refused.reason.contains(reason), "{}: {refused:?}", &text[..100]);
        assert!(refused.by.is_some(), "{refused:?}");
    }
    assert!(judged(text!("notation-jws-other-root.json"), &other, "*", made()).is_ok());
    assert!(judged(text!("notation-jws-other-subject.json"), ROOT, r"O=Example\, Inc.", made()).is_ok());
    assert!(judged(text!("notation-jws-expiring.json"), ROOT, "*", made() + 3400).is_ok());
}

#[test]
fn a_signature_holds_until_its_expiry_or_the_end_of_its_certificates() {
    let stamped_at = judged(text!("notation-jws-stamped.json"), ROOTS, "*", made()).unwrap().at.unwrap();
    for (text, roots, now, ends_within) in [
        (text!("notation-jws-expiring.json"), ROOT, made(), Some(3600)),
        (text!("notation-cose-expiring.json"), ROOT, made(), Some(3600)),
        (text!("notation-jws.json"), ROOT, made(), Some(101 * 31_557_600)),
        // Its certificate ends after twenty seconds; the timestamp counts where its root is known.
        (text!("notation-jws-stamped.json"), ROOT, stamped_at, Some(30)),
        (text!("notation-jws-stamped.json"), ROOTS, stamped_at, None),
        (text!("notation-cose-stamped.json"), ROOTS, made(), None),
    ] {
        let signed = judged(text, roots, "*", now).unwrap();
        assert_eq!(signed.until.is_some(), ends_within.is_some(), "{signed:?}");
        let (Some(until), Some(within)) = (signed.until, ends_within) else { continue };
        assert!((now..=now + within).contains(&until), "{until}");
        assert!(judged(text, roots, "*", until - 1).is_ok());
        assert!(judged(text, roots, "*", until).is_err());
    }
}

#[test]
fn a_timestamp_of_another_signature_is_none() {
    let (stamped, kind) = candidate(text!("notation-jws-stamped.json"));
    let (mut short, _) = candidate(text!("notation-jws-short.json"));
    let mut envelope: serde_json::Value = serde_json::from_slice(&short.blob).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&stamped.blob).unwrap();
    envelope["header"]["io.cncf.notary.timestampSignature"] =
        other["header"]["io.cncf.notary.timestampSignature"].clone();
    short.blob = serde_json::to_vec(&envelope).unwrap();
    let refused = judged_blob(&short, &kind, ROOTS, "*", made() + 3600).unwrap_err();
    assert!(refused.reason.contains("it is of another signature"), "{refused:?}");
}

#[test]
fn roots_are_certificates_in_pem_whatever_is_around_them() {
    let one = Roots::parse(ROOT.as_bytes()).unwrap().canonical();
    assert_eq!(one.len(), 1);
    let dressed = format!("the team's root\n\n{}\n{ROOT}", ROOT.replace('\n', "\r\n"));
    assert_eq!(Roots::parse(dressed.as_bytes()).unwrap().canonical(), one);
    let [both, turned] = [ROOT.to_owned() + OTHER_ROOT, OTHER_ROOT.to_owned() + ROOT];
    let both = Roots::parse(both.as_bytes()).unwrap().canonical();
    assert_eq!(both.len(), 2);
    assert_eq!(Roots::parse(turned.as_bytes()).unwrap().canonical(), both);

    let leaf = forged::pem(&candidate(text!("notation-jws.json")).0);
    for (text, expected) in [
        ("", "it has no certificate in PEM"),
        ("hello", "it has no certificate in PEM"),
        (text!("p256.pub"), "it has no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\n", "certificate 1 cannot be read"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 cannot be read"),
        (&leaf, "certificate 1 (CN=images,OU=Team A,O=Example,C=CH) is neither a CA's nor signed by itself"),
    ] {
        assert_eq!(Roots::parse(text.as_bytes()).err().as_deref(), Some(expected), "{text}");
    }
}
