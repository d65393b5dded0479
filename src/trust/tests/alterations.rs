//! Signatures with one byte altered: none is accepted, unless it says the same.
//!
//! The same is said by another spelling (capitals of hex, bits of base64 that mean nothing), and by
//! what nobody has to follow: a hint, a key's id, the name beside a signature of a log's note. For
//! a key that needs no log, an entry of a log that nobody knows is no entry.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::fixtures::{GITHUB, PUBLISH, candidate, judge, keyless, keys, try_all};
use crate::state::{Candidate, TrustRule};
use crate::trust::pem;

const ANY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Nobody has to follow these, or they may be missing: the digest of a message is computed, and a
/// bundle that does not say its version is judged as one of the first, and a chain of certificates
/// that the root has itself is not needed.
const HINTS: &[&str] = &["hint", "keyid", "mediaType", "messageDigest", "dev.sigstore.cosign/chain"];

/// The fields that are read. Under another name, a field is none.
const KNOWN: &[&str] = &[
    "verificationMaterial",
    "certificate",
    "rawBytes",
    "tlogEntries",
    "logIndex",
    "logId",
    "keyId",
    "kindVersion",
    "kind",
    "version",
    "integratedTime",
    "inclusionPromise",
    "signedEntryTimestamp",
    "inclusionProof",
    "rootHash",
    "treeSize",
    "hashes",
    "checkpoint",
    "envelope",
    "canonicalizedBody",
    "publicKey",
    "dsseEnvelope",
    "payload",
    "payloadType",
    "signatures",
    "sig",
    "messageSignature",
    "signature",
    "SignedEntryTimestamp",
    "Payload",
    "body",
    "logID",
];

/// The meaning of a JSON value, whatever its spelling; `without` names the fields that have none.
fn meaning(value: &Value, without: &[&str]) -> Value {
    match value {
        Value::Object(fields) => {
            let counts = |name: &str| KNOWN.contains(&name) && !without.contains(&name);
            let fields = fields.iter().filter(|(name, _)| counts(name));
            Value::Object(fields.map(|(name, value)| (name.clone(), meaning(value, without))).collect())
        }
        Value::Array(values) => values.iter().map(|value| meaning(value, without)).collect(),
        Value::String(text) => spelt(text, without),
        other => other.clone(),
    }
}

/// The meaning of a text that may be JSON, a log's note, PEM, hex or base64.
fn spelt(text: &str, without: &[&str]) -> Value {
    if let Ok(inner @ Value::Object(_)) = serde_json::from_str(text) {
        return meaning(&inner, without);
    }
    // The names before the signatures of a note are not signed.
    if let Some((note, signatures)) = text.split_once("\n\n") {
        let signatures = signatures.lines().map(|line| spelt(line.rsplit(' ').next().unwrap(), without));
        return std::iter::once(Value::from(note)).chain(signatures).collect();
    }
    if let Ok(blocks) = pem::blocks(text)
        && !blocks.is_empty()
    {
        return blocks.iter().map(|block| Value::from(block.der.clone())).collect();
    }
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Value::from(text.to_ascii_lowercase());
    }
    match ANY_BASE64.decode(text.replace('-', "+").replace('_', "/")) {
        Ok(bytes) => Value::from(bytes),
        Err(_) => Value::from(text),
    }
}

/// The place where two values differ.
fn difference(one: &Value, other: &Value) -> String {
    match (one, other) {
        _ if one == other => String::new(),
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let differs = names.into_iter().find(|name| one.get(*name) != other.get(*name)).unwrap();
            let null = Value::Null;
            let inner = difference(one.get(differs).unwrap_or(&null), other.get(differs).unwrap_or(&null));
            format!("/{differs}{inner}")
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let at = (0..one.len()).find(|at| one[*at] != other[*at]).unwrap();
            format!("/{at}{}", difference(&one[at], &other[at]))
        }
        _ => format!(": {one:.60} and {other:.60}"),
    }
}

/// Everything in a candidate that may count.
fn essence(candidate: &Candidate, without: &[&str]) -> Value {
    let manifest: Value = serde_json::from_slice(&candidate.manifest).unwrap_or_default();
    let layer = &manifest["layers"][candidate.layer];
    let known = [
        "dev.cosignproject.cosign/signature",
        "dev.sigstore.cosign/certificate",
        "dev.sigstore.cosign/chain",
        "dev.sigstore.cosign/bundle",
    ];
    let annotations: Map<String, Value> = known
        .iter()
        .filter(|name| !without.contains(name))
        .map(|name| ((*name).to_owned(), meaning(&layer["annotations"][name], without)))
        .collect();
    let media_type = layer["mediaType"].clone();
    // The layer of simple signing is what is signed, to the byte.
    let blob = match media_type.as_str() {
        Some("application/vnd.dev.cosign.simplesigning.v1+json") => Value::from(candidate.blob.clone()),
        _ => meaning(&serde_json::from_slice(&candidate.blob).unwrap_or_default(), without),
    };
    Value::Array(vec![media_type, Value::Object(annotations), blob])
}

/// Alters every `stride`th byte of layer and manifest, one at a time.
fn alter(rule: &TrustRule, name: &str, stride: usize, without: &[&str]) {
    let judge = judge(rule);
    let good = candidate(name);
    let evidence = try_all(&judge, std::slice::from_ref(&good)).unwrap();
    let essence_of_good = essence(&good, without);
    let mut refused = 0;
    let layer = (0..good.blob.len()).step_by(stride).map(|at| (true, at));
    let manifest = (0..good.manifest.len()).step_by(stride).map(|at| (false, at));
    for (is_layer, at) in layer.chain(manifest) {
        let mut altered = good.clone();
        let bit = 1 << (at % 7);
        if is_layer {
            altered.blob[at] ^= bit;
        } else {
            let mut bytes = good.manifest.to_vec();
            bytes[at] ^= bit;
            altered.manifest = bytes.into();
        }
        match try_all(&judge, std::slice::from_ref(&altered)) {
            Err(_) => refused += 1,
            Ok(accepted) => {
                let part = if is_layer { "layer" } else { "manifest" };
                let difference = difference(&essence_of_good, &essence(&altered, without));
                assert_eq!(difference, "", "{name}: accepted with byte {at} of the {part} altered");
                assert_eq!((accepted.by, accepted.issuer), (evidence.by.clone(), evidence.issuer.clone()));
            }
        }
    }
    assert!(refused > 40, "{name}: {refused}");
}

#[test]
fn no_altered_signature_of_a_key_is_accepted() {
    for name in ["cosign2-p256", "cosign3-p256", "message-p256"] {
        alter(&keys(&["p256.pub"], false), name, 1, HINTS);
    }
    for (key, name) in
        [("p384.pub", "cosign3-p384"), ("ed25519.pub", "cosign2-ed25519"), ("rsa2048.pub", "cosign3-rsa2048")]
    {
        alter(&keys(&[key], false), name, 3, HINTS);
    }
}

#[test]
fn no_altered_signature_of_a_key_in_the_log_is_accepted() {
    // A proof of the log will do without its promise, which says when.
    for name in ["cosign2-log", "cosign3-p256-log"] {
        alter(&keys(&["p256.pub"], true), name, 5, &[HINTS, &["inclusionPromise"]].concat());
    }
    // An entry of a log that nobody knows is none.
    for name in ["cosign2-log", "cosign3-p256-log"] {
        alter(
            &keys(&["p256.pub"], false),
            name,
            11,
            &[HINTS, &["logId", "logID", "tlogEntries", "dev.sigstore.cosign/bundle"]].concat(),
        );
    }
}

#[test]
fn no_altered_signature_of_a_holder_is_accepted() {
    for name in ["cosign2-keyless", "cosign3-keyless", "message-keyless-manifest"] {
        alter(&keyless(GITHUB, PUBLISH), name, 13, HINTS);
    }
    let with_provenance = TrustRule { provenance: true, ..keyless(GITHUB, PUBLISH) };
    let judge = judge(&with_provenance);
    let signature = candidate("cosign3-keyless");
    for name in ["cosign2-slsaprovenance-keyless", "cosign3-slsaprovenance1-keyless"] {
        let good = candidate(name);
        assert!(try_all(&judge, &[signature.clone(), good.clone()]).is_ok());
        let essence_of_good = essence(&good, HINTS);
        for at in (0..good.blob.len()).step_by(29) {
            let mut altered = good.clone();
            altered.blob[at] ^= 1 << (at % 7);
            let judged = try_all(&judge, &[signature.clone(), altered.clone()]);
            let difference = difference(&essence_of_good, &essence(&altered, HINTS));
            assert!(judged.is_err() || difference.is_empty(), "{name}: byte {at}: {difference}");
        }
    }
}
