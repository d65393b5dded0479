//! cosign 2's annotations of a layer: signature, certificate, chain, log entry and timestamp, of
//! which a bundle is made as the newer forms bring one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sigstore_types::{
    Bundle, CanonicalizedBody, DerCertificate, DigestBytes, HashAlgorithm, InclusionPromise, KindVersion,
    LogId, LogIndex, LogKeyId, MediaType, MessageDigest, MessageSignature, PublicKeyIdentifier,
    Rfc3161Timestamp, SignatureBytes, SignatureContent, SignedTimestamp, TimestampToken,
    TimestampVerificationData, TransparencyLogEntry, VerificationMaterial, VerificationMaterialContent,
    X509Certificate,
};

use super::artifact::Annotations;
use super::crypto;
use super::finding::Refused;
use super::pem;

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const LOG_ENTRY: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";

/// Makes the content of a bundle of the signature of `message`.
pub(super) fn signature(annotations: &Annotations, message: &[u8]) -> Result<SignatureContent, Refused> {
    let text =
        annotations.signature.as_ref().ok_or_else(|| Refused::because("has no signature beside it"))?;
    let signature = STANDARD.decode(text).map_err(|_| unreadable(SIGNATURE))?;
    let hash = crypto::hash(HashAlgorithm::Sha2256, message).unwrap_or_default();
    let digest = MessageDigest::new(HashAlgorithm::Sha2256, DigestBytes::from(hash));
    let signature = MessageSignature::new(SignatureBytes::new(signature)).with_message_digest(digest);
    Ok(SignatureContent::MessageSignature(signature))
}

/// Makes a bundle of `content` and of the proofs beside it.
pub(super) fn bundle(annotations: &Annotations, content: SignatureContent) -> Result<Bundle, Refused> {
    let mut certificates = Vec::new();
    for (name, text) in [(CERTIFICATE, &annotations.certificate), (CHAIN, &annotations.chain)] {
        let text = text.as_deref().unwrap_or_default();
        let blocks = pem::blocks(text).map_err(|_| unreadable(name))?;
        if name == CHAIN && certificates.is_empty() && !blocks.is_empty() {
            return Err(Refused::because("has a chain of certificates, but none of its signer"));
        }
        certificates
            .extend(blocks.into_iter().map(|block| X509Certificate::new(DerCertificate::new(block.der))));
    }
    let signer = if certificates.is_empty() {
        VerificationMaterialContent::PublicKey(PublicKeyIdentifier::new(""))
    } else {
        VerificationMaterialContent::X509CertificateChain { certificates }
    };
    let mut material = VerificationMaterial::new(signer);
    if let Some(text) = annotations.log_entry.as_ref().filter(|text| !text.is_empty()) {
        let entry = log_entry(text).ok_or_else(|| unreadable(LOG_ENTRY))?;
        material = material.with_tlog_entries(vec![entry]);
    }
    if let Some(text) = annotations.timestamp.as_ref().filter(|text| !text.is_empty()) {
        let timestamp: Timestamp = serde_json::from_str(text).map_err(|_| unreadable(TIMESTAMP))?;
        let token = TimestampToken::from_base64(&timestamp.token).map_err(|_| unreadable(TIMESTAMP))?;
        let timestamps = TimestampVerificationData::new(vec![Rfc3161Timestamp::new(token)]);
        material = material.with_timestamp_verification_data(timestamps);
    }
    Ok(Bundle::new(MediaType::Bundle0_1, material, content))
}

fn unreadable(annotation: &str) -> Refused {
    Refused::because(format!("its annotation {annotation} cannot be read"))
}

/// The log's promise, as cosign 2 keeps it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LogEntry {
    signed_entry_timestamp: String,
    payload: LogPayload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogPayload {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

/// The kind of an entry, which its body says itself.
#[derive(Deserialize)]
struct Kind {
    kind: String,
    #[serde(rename = "apiVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Timestamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    token: String,
}

fn log_entry(text: &str) -> Option<TransparencyLogEntry> {
    let LogEntry { signed_entry_timestamp, payload } = serde_json::from_str(text).ok()?;
    let body = STANDARD.decode(&payload.body).ok()?;
    let kind: Kind = serde_json::from_slice(&body).ok()?;
    let kind = match (kind.kind.as_str(), kind.version.as_str()) {
        ("hashedrekord", "0.0.1") => KindVersion::HashedRekordV001,
        ("dsse", "0.0.1") => KindVersion::DsseV001,
        ("intoto", "0.0.2") => KindVersion::IntotoV002,
        _ => return None,
    };
    let log = LogKeyId::new(DigestBytes::from_hex(&payload.log_id).ok()?.into_bytes());
    let index = LogIndex::try_from(payload.log_index).ok()?;
    let promise = SignedTimestamp::new(STANDARD.decode(signed_entry_timestamp).ok()?);
    let entry = TransparencyLogEntry::new(index, LogId::new(log), kind, CanonicalizedBody::new(body))
        .with_integrated_time(jiff::Timestamp::from_second(payload.integrated_time).ok()?)
        .with_inclusion_promise(InclusionPromise::new(promise));
    Some(entry)
}
