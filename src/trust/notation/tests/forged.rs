//! Envelopes that `notation` would not make, by certificates made here.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::{CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SigningKey as _,
};
use serde_json::{Value, json};
use x509_cert::der::Tag;

use super::*;

const NOW: i64 = 1_800_000_000;

/// The first certificate of a JWS, in PEM.
pub(super) fn pem(candidate: &Candidate) -> String {
    let envelope: Value = serde_json::from_slice(&candidate.blob).unwrap();
    let body = envelope["header"]["x5c"][0].as_str().unwrap();
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

/// A chain of certificates with the signer's key.
struct Signer {
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    roots: String,
}

fn named(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = usages.to_vec();
    params
}

fn root() -> CertificateParams {
    let mut params = named("root", &[KeyUsagePurpose::KeyCertSign]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn leaf() -> CertificateParams {
    let mut params = named("leaf", &[KeyUsagePurpose::DigitalSignature]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params
}

/// Makes a chain of certificates, the root first; the last is the signer's.
fn signer(certificates: Vec<CertificateParams>) -> Signer {
    let mut chain: Vec<Vec<u8>> = Vec::new();
    let mut roots = String::new();
    let mut above: Option<Issuer<'_, KeyPair>> = None;
    let last = certificates.len() - 1;
    for (position, params) in certificates.into_iter().enumerate() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = match &above {
            Some(issuer) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        chain.insert(0, certificate.der().to_vec());
        if position == 0 {
            roots = certificate.pem();
        }
        if position == last {
            return Signer { key, chain, roots };
        }
        above = Some(Issuer::new(params, key));
    }
    unreachable!()
}

fn protected() -> Value {
    json!({
        "alg": "ES256",
        "crit": ["io.cncf.notary.signingScheme"],
        "cty": "application/vnd.cncf.notary.payload.v1+json",
        "io.cncf.notary.signingScheme": "notary.x509",
        "io.cncf.notary.signingTime": "2026-11-29T11:00:00Z",
    })
}

fn payload() -> Value {
    let [index, _] = subjects();
    json!({"targetArtifact": {
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": index, "size": 491,
    }})
}

/// The two numbers of a signature by ECDSA on P-256.
fn two_numbers(signature: &[u8], size: usize) -> Vec<u8> {
    let numbers = der::Item::only(signature).unwrap().inside(Tag::Sequence).unwrap();
    let mut both = Vec::new();
    for number in numbers {
        let value = number.value.strip_prefix(&[0]).unwrap_or(number.value);
        both.extend(std::iter::repeat_n(0, size - value.len()));
        both.extend(value);
    }
    both
}

fn jws(signer: &Signer, protected: &str, payload: &str) -> Vec<u8> {
    let [protected, payload] = [protected, payload].map(|text| URL_SAFE_NO_PAD.encode(text));
    let signature = signer.key.sign(format!("{protected}.{payload}").as_bytes()).unwrap();
    let size = if *signer.key.algorithm() == PKCS_ECDSA_P384_SHA384 { 48 } else { 32 };
    let chain: Vec<String> = signer.chain.iter().map(|der| STANDARD.encode(der)).collect();
    serde_json::to_vec(&json!({
        "payload": payload, "protected": protected, "header": {"x5c": chain},
        "signature": URL_SAFE_NO_PAD.encode(two_numbers(&signature, size)),
    }))
    .unwrap()
}

fn judged_jws(signer: &Signer, protected: &Value, payload: &Value) -> Result<Signed, Refused> {
    judged_text(signer, &protected.to_string(), &payload.to_string())
}

fn judged_text(signer: &Signer, protected: &str, payload: &str) -> Result<Signed, Refused> {
    let [index, _] = subjects();
    let candidate = with(&index.text(), "{}", jws(signer, protected, payload));
    judged_blob(&candidate, JWS, &signer.roots, "CN=leaf", NOW)
}

fn reason(result: Result<Signed, Refused>) -> String {
    result.map_or_else(|refused| refused.reason, |signed| format!("accepted: {signed:?}"))
}

#[test]
fn headers_that_change_the_meaning_are_refused() {
    let signer = signer(vec![root(), leaf()]);
    assert!(judged_jws(&signer, &protected(), &payload()).is_ok());
    let scheme = "io.cncf.notary.signingScheme";
    for (change, expected) in [
        (json!({scheme: "notary.x509.signingAuthority"}), "notary.x509.signingAuthority"),
        (json!({scheme: "notary.x510"}), "its signing scheme notary.x510 is unknown"),
        (json!({scheme: null}), "names no signing scheme"),
        (json!({"crit": []}), "its critical headers"),
        (json!({"crit": null}), "cannot be read"),
        (json!({"crit": [scheme, scheme]}), "its critical headers"),
        (
            json!({"crit": [scheme, "com.example"], "com.example": 1}),
            "its critical header com.example is unknown",
        ),
        (json!({"crit": [scheme, "b64"], "b64": false}), "its critical header b64 is unknown"),
        (json!({"crit": [scheme, "io.cncf.notary.expiry"]}), "its critical headers"),
        (json!({"io.cncf.notary.expiry": "2099-01-01T00:00:00Z"}), "its critical headers"),
        (json!({"io.cncf.notary.expiry": "soon"}), "cannot be read"),
        (
            json!({"crit": [scheme, "io.cncf.notary.expiry"], "io.cncf.notary.expiry": "2020-01-01T01:00:00+01:00"}),
            "its expiry is past",
        ),
        (json!({"io.cncf.notary.verificationPlugin": "x"}), "asks for the verification plugin x"),
        (json!({"io.cncf.notary.authenticSigningTime": "2026-11-29T11:00:00Z"}), "signing time"),
        (json!({"io.cncf.notary.signingTime": null}), "signing time"),
        (json!({"cty": "application/json"}), "unknown type"),
        (json!({"cty": null}), "unknown type"),
        (json!({"alg": "none"}), "its algorithm none is unknown"),
        (json!({"alg": "HS256"}), "its algorithm HS256 is unknown"),
        (json!({"alg": "ES384"}), "its algorithm ES384 does not fit"),
        (json!({"alg": "PS256"}), "its algorithm PS256 does not fit"),
        (json!({"com.example": 1}), "accepted"),
        (
            json!({"crit": [scheme, "io.cncf.notary.expiry"], "io.cncf.notary.expiry": "2099-01-01T00:00:00Z"}),
            "accepted",
        ),
    ] {
        let mut protected = protected();
        for (name, value) in change.as_object().unwrap() {
            protected[name] = value.clone();
        }
        let reason = reason(judged_jws(&signer, &protected, &payload()));
        assert!(reason.contains(expected), "{change}: {reason}");
    }
}

#[test]
fn payloads_are_of_an_image_of_this_one() {
    let signer = signer(vec![root(), leaf()]);
    for (change, expected) in [
        (json!({"size": -1}), "cannot be read"),
        (json!({"size": 1.5}), "cannot be read"),
        (json!({"size": null}), "cannot be read"),
        (json!({"mediaType": "text/plain"}), "something of type text/plain"),
        (json!({"digest": "sha256:../../etc/passwd"}), "it is about sha256:../../etc/passwd"),
        (
            json!({"digest": payload()["targetArtifact"]["digest"].as_str().unwrap().to_uppercase()}),
            "it is about",
        ),
        (json!({"annotations": {"a": "b"}}), "accepted"),
    ] {
        let mut payload = payload();
        for (name, value) in change.as_object().unwrap() {
            payload["targetArtifact"][name] = value.clone();
        }
        let reason = reason(judged_jws(&signer, &protected(), &payload));
        assert!(reason.contains(expected), "{change}: {reason}");
    }
    // A thing said twice could be read in two ways.
    let twice = payload().to_string().replace("\"size\"", "\"digest\":\"sha256:0\",\"size\"");
    assert!(reason(judged_text(&signer, &protected().to_string(), &twice)).contains("cannot be read"));
    let twice = protected().to_string().replace("\"alg\"", "\"alg\":\"ES256\",\"alg\"");
    assert!(reason(judged_text(&signer, &twice, &payload().to_string())).contains("cannot be read"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn certificates_are_what_notation_asks_of_them() {
    use ExtendedKeyUsagePurpose as Extended;
    let leaf_of = |usages: &[KeyUsagePurpose], uses: &[Extended]| {
        let mut params = named("leaf", usages);
        params.extended_key_usages = uses.to_vec();
        vec![root(), params]
    };
    let root_of = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = root();
        change(&mut params);
        vec![params, leaf()]
    };
    let intermediate = |name: &str| {
        let mut params = root();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut no_below = root();
    no_below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let sign = KeyUsagePurpose::DigitalSignature;
    for (chain, expected) in [
        (leaf_of(&[sign], &[Extended::CodeSigning]), "accepted"),
        (leaf_of(&[sign], &[]), "accepted"),
        (leaf_of(&[sign, KeyUsagePurpose::ContentCommitment], &[]), "accepted"),
        (leaf_of(&[], &[Extended::CodeSigning]), "no critical key usage"),
        (leaf_of(&[KeyUsagePurpose::ContentCommitment], &[]), "not for signatures alone"),
        (leaf_of(&[sign, KeyUsagePurpose::KeyAgreement], &[]), "not for signatures alone"),
        (leaf_of(&[sign, KeyUsagePurpose::CrlSign], &[]), "not for signatures alone"),
        (leaf_of(&[sign], &[Extended::ServerAuth]), "not for signing code alone"),
        (leaf_of(&[sign], &[Extended::CodeSigning, Extended::ServerAuth]), "not for signing code alone"),
        (leaf_of(&[sign], &[Extended::CodeSigning, Extended::TimeStamping]), "not for signing code alone"),
        (leaf_of(&[sign], &[Extended::Any]), "not for signing code alone"),
        (root_of(&|root| root.key_usages = vec![sign]), "may not sign certificates"),
        (root_of(&|root| root.key_usages = Vec::new()), "no critical key usage"),
        (root_of(&|root| root.is_ca = IsCa::ExplicitNoCa), "it is not a CA's"),
        (root_of(&|root| root.is_ca = IsCa::NoCa), "no critical basic constraints"),
        (root_of(&|root| root.extended_key_usages = vec![Extended::TimeStamping]), "it is for other uses"),
        (root_of(&|root| root.extended_key_usages = vec![Extended::CodeSigning]), "accepted"),
        (vec![root(), intermediate("between"), leaf()], "accepted"),
        (vec![no_below, intermediate("between"), leaf()], "it allows no CA below"),
        (
            vec![
                root(),
                {
                    let mut ca = leaf();
                    ca.is_ca = IsCa::ExplicitNoCa;
                    ca
                },
                leaf(),
            ],
            "it is not a CA's",
        ),
        (
            vec![{
                let mut own = leaf();
                own.is_ca = IsCa::ExplicitNoCa;
                own
            }],
            "accepted",
        ),
        (vec![intermediate("leaf")], "it is a CA's"),
    ] {
        let names: Vec<_> = chain.iter().map(|params| format!("{:?}", params.key_usages)).collect();
        let reason = reason(judged_jws(&signer(chain), &protected(), &payload()));
        assert!(reason.contains(expected), "{names:?}, expected {expected}: {reason}");
    }
}

#[test]
fn chains_are_whole_and_in_order() {
    let chain = || {
        let mut between = root();
        between.distinguished_name.push(DnType::CommonName, "between");
        signer(vec![root(), between, leaf()])
    };
    for (order, expected) in [
        (&[0, 1, 2][..], "accepted"),
        (&[0, 2], "not a chain in order"),
        (&[0, 1], "none of the roots"),
        (&[0, 2, 1], "not a chain in order"),
        (&[0, 1, 1, 2], "not a chain in order"),
        (&[], "no certificate"),
        (&[0, 1, 1, 1, 1, 1, 1, 1, 2], "more than 8"),
    ] {
        let mut signer = chain();
        signer.chain = order.iter().map(|at: &usize| signer.chain[*at].clone()).collect();
        let reason = reason(judged_jws(&signer, &protected(), &payload()));
        assert!(reason.contains(expected), "{order:?}: {reason}");
    }
    // The names fit, but another root of the same name made it.
    let mut mixed = chain();
    mixed.chain[2] = chain().chain[2].clone();
    let other = chain();
    mixed.roots = other.roots;
    mixed.chain[2].clone_from(&other.chain[2]);
    let reason = reason(judged_jws(&mixed, &protected(), &payload()));
    assert!(reason.contains("its chain will not do"), "{reason}");
}

#[test]
fn a_curve_and_its_algorithm_belong_together() {
    let mut signer = signer(vec![root(), leaf()]);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    signer.key = key;
    let reason = reason(judged_jws(&signer, &protected(), &payload()));
    assert!(reason.contains("its signature is wrong"), "{reason}");
}

/// A COSE envelope by a signer; `change` gets its protected header.
fn cose(signer: &Signer, change: impl FnOnce(HeaderBuilder) -> HeaderBuilder) -> Vec<u8> {
    use coset::cbor::value::Value as Cbor;
    let text = |text: &str| Cbor::Text(text.to_owned());
    let header = HeaderBuilder::new()
        .algorithm(coset::iana::Algorithm::ES256)
        .content_type("application/vnd.cncf.notary.payload.v1+json".to_owned())
        .text_value("io.cncf.notary.signingScheme".to_owned(), text("notary.x509"))
        .text_value("io.cncf.notary.signingTime".to_owned(), Cbor::Tag(1, Box::new(Cbor::from(NOW))));
    let chain = signer.chain.iter().map(|der| Cbor::Bytes(der.clone())).collect();
    CoseSign1Builder::new()
        .protected(change(header).build())
        .unprotected(HeaderBuilder::new().value(33, Cbor::Array(chain)).build())
        .payload(payload().to_string().into_bytes())
        .create_signature(&[], |bytes| two_numbers(&signer.key.sign(bytes).unwrap(), 32))
        .build()
        .to_tagged_vec()
        .unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn headers_of_cose_are_read_alike() {
    use coset::cbor::value::Value as Cbor;
    use coset::iana::HeaderParameter;
    type Change<'c> = Box<dyn Fn(HeaderBuilder) -> HeaderBuilder + 'c>;
    let signer = signer(vec![root(), leaf()]);
    let scheme = || coset::RegisteredLabelWithPrivate::Text("io.cncf.notary.signingScheme".to_owned());
    let other = || coset::RegisteredLabelWithPrivate::Text("com.example".to_owned());
    let expiry = || coset::RegisteredLabelWithPrivate::Text("io.cncf.notary.expiry".to_owned());
    let named = |name: &str| name.to_owned();
    let time = |seconds: i64| Cbor::Tag(1, Box::new(Cbor::from(seconds)));
    let changes: Vec<(Change<'_>, &str)> = vec![
        (Box::new(|header| header.add_critical_label(scheme())), "accepted"),
        (Box::new(|header| header), "its critical headers"),
        (
            Box::new(|header| header.add_critical_label(scheme()).add_critical_label(other())),
            "its critical header com.example is unknown",
        ),
        (
            Box::new(|header| header.add_critical_label(scheme()).add_critical(HeaderParameter::Kid)),
            "its critical header Kid is unknown",
        ),
        (
            Box::new(|header| {
                let header = header.add_critical_label(scheme()).add_critical_label(expiry());
                header.text_value(named("io.cncf.notary.expiry"), time(NOW))
            }),
            "its expiry is past",
        ),
        (
            Box::new(|header| {
                let header = header.add_critical_label(scheme()).add_critical_label(expiry());
                header.text_value(named("io.cncf.notary.expiry"), time(NOW + 1))
            }),
            "accepted",
        ),
        (
            Box::new(|header| {
                let header = header.add_critical_label(scheme()).add_critical_label(expiry());
                header.text_value(named("io.cncf.notary.expiry"), Cbor::from(NOW + 1))
            }),
            "cannot be read",
        ),
        (
            Box::new(|header| {
                let plugin = Cbor::Text(named("x"));
                header
                    .add_critical_label(scheme())
                    .text_value(named("io.cncf.notary.verificationPlugin"), plugin)
            }),
            "verification plugin x",
        ),
        (
            Box::new(|header| {
                header
                    .add_critical_label(scheme())
                    .text_value(named("io.cncf.notary.authenticSigningTime"), time(1))
            }),
            "signing time",
        ),
        (
            Box::new(|header| header.add_critical_label(scheme()).algorithm(coset::iana::Algorithm::ES384)),
            "does not fit",
        ),
        (
            Box::new(|header| {
                header.add_critical_label(scheme()).algorithm(coset::iana::Algorithm::HMAC_256_256)
            }),
            "is unknown",
        ),
        (
            Box::new(|header| header.add_critical_label(scheme()).content_type(named("text/plain"))),
            "unknown type",
        ),
    ];
    let [index, _] = subjects();
    for (position, (change, expected)) in changes.into_iter().enumerate() {
        let candidate = with(&index.text(), "{}", cose(&signer, change));
        let reason = reason(judged_blob(&candidate, COSE, &signer.roots, "CN=leaf", NOW));
        assert!(reason.contains(expected), "change {position}, expected {expected}: {reason}");
    }
    let mut untagged = cose(&signer, |header| header.add_critical_label(scheme()));
    untagged.remove(0);
    let candidate = with(&index.text(), "{}", untagged);
    assert!(reason(judged_blob(&candidate, COSE, &signer.roots, "*", NOW)).contains("cannot be read"));
}
