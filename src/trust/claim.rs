//! The claim of a candidate, whatever its form: this signer signs this image.
//!
//! Every form of Sigstore's becomes a bundle: the newer ones are one, and of cosign 2's simple
//! signing and attestations one is made of the layer and its annotations. Nothing of a claim is
//! proven here, but that it is about the image: the signer proves the rest ([`Claim::verify`]).

use std::collections::BTreeMap;

use serde::Deserialize;
use sigstore_types::{
    Artifact, ArtifactDigest, Bundle, DigestBytes, HashAlgorithm, MediaType, PublicKeyIdentifier,
    SignatureBytes, SignatureContent, VerificationMaterialContent,
};
use sigstore_verify::{Policy, VerificationResult};

use super::annotations;
use super::artifact::Layer;
use super::crypto;
use super::finding::{Refused, shown};
use super::holder::claimed_by;
use super::modest::is_modest;
use super::root::Root;
use crate::digest::{Algorithm, BlobDigest};
use crate::state::Candidate;

/// The media type of cosign 2's simple signing.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The media type of cosign 2's attestations.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The predicate of a DSSE envelope that is a signature.
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
/// The predicates that are a provenance.
const PROVENANCE: [&str; 2] = ["https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"];
/// The types of cosign 2's simple signing.
const SIMPLE_TYPES: [&str; 2] = ["cosign container image signature", SIGN];
/// Each of a bundle's lists has at most so many entries: each of them costs a verification.
const MAX_ENTRIES: usize = 8;
/// The largest certificate, and the largest timestamp, in bytes: the packages make trees of them.
const MAX_DER: usize = 64 << 10;
/// The hashes of a log's proof: more than a tree of 2^63 leaves has.
const MAX_HASHES: usize = 128;
/// The signatures of a log's checkpoint: the log's own, and its witnesses'.
const MAX_NOTES: usize = 64;

/// A candidate may be one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The signature of an image.
    Signature,
    /// The provenance (SLSA) of an image.
    Provenance,
}

/// A candidate that is about the image.
pub(super) struct Claim {
    /// The signature and its proofs.
    pub(super) bundle: Bundle,
    pub(super) role: Role,
    /// The form, for people.
    pub(super) form: &'static str,
    /// The image that cosign 2 was told to sign: shown, not compared.
    pub(super) named: Option<String>,
    content: Content,
}

/// The bytes that a signature is of.
#[derive(Clone)]
enum Content {
    /// The candidate's own layer.
    Layer(Vec<u8>),
    /// The image's index or manifest.
    Document(Vec<u8>),
    /// A statement about the artifact of this digest, in an envelope.
    Statement(ArtifactDigest),
}

impl Claim {
    /// Reads a candidate's claim about one of `subjects`. `message` gets the bytes of the image's
    /// own document, where the signature is one of those.
    pub(super) fn read(
        candidate: &Candidate,
        layer: &Layer,
        subjects: &[&BlobDigest],
        message: &mut dyn FnMut(&BlobDigest) -> Option<Vec<u8>>,
    ) -> Result<Self, Refused> {
        match layer.media_type.as_str() {
            SIMPLE_SIGNING => Self::simple_signing(candidate, layer, subjects),
            ENVELOPE => {
                let envelope = is_modest(&candidate.blob).then(|| serde_json::from_slice(&candidate.blob));
                let Some(Ok(envelope)) = envelope else {
                    return Err(Refused::because("cannot be read as an attestation of cosign"));
                };
                let content = SignatureContent::DsseEnvelope(envelope);
                let bundle = annotations::bundle(&layer.annotations, content)?;
                check_sizes(&bundle)?;
                Self::statement(bundle, subjects, "cosign attestation")
            }
            other if other.parse::<MediaType>().is_ok() => {
                if !is_modest(&candidate.blob) {
                    return Err(Refused::because("has more values than a Sigstore bundle has"));
                }
                let bundle = str::from_utf8(&candidate.blob).ok().map(Bundle::from_json);
                let Some(Ok(bundle)) = bundle else { return Err(unreadable_bundle(&candidate.blob)) };
                check_sizes(&bundle)?;
                if matches!(bundle.content, SignatureContent::DsseEnvelope(_)) {
                    return Self::statement(bundle, subjects, "sigstore bundle");
                }
                Self::document(candidate, bundle, subjects, message)
            }
            other => Err(Refused::because(format!(
                "a layer of type {} is no signature that is known",
                shown(other)
            ))),
        }
    }

    /// Reads cosign 2's simple signing: the layer names the image, an annotation signs the layer.
    fn simple_signing(
        candidate: &Candidate,
        layer: &Layer,
        subjects: &[&BlobDigest],
    ) -> Result<Self, Refused> {
        let payload: Payload = serde_json::from_slice(&candidate.blob)
            .map_err(|_| Refused::because("cannot be read as simple signing of cosign"))?;
        let Critical { identity, image, kind } = payload.critical;
        if !SIMPLE_TYPES.contains(&kind.as_str()) {
            return Err(Refused::because(format!("is no signature of cosign, but {}", shown(&kind))));
        }
        let content = annotations::signature(&layer.annotations, &candidate.blob)?;
        let bundle = annotations::bundle(&layer.annotations, content)?;
        check_sizes(&bundle)?;
        if !subjects.iter().any(|subject| subject.text() == *image.digest) {
            let (digest, name) = (shown(&image.digest), shown(&identity.reference));
            return Err(about_another(&bundle, &format!("{digest} of {name}")));
        }
        Ok(Self {
            bundle,
            role: Role::Signature,
            form: "cosign simple signing",
            named: Some(shown(&identity.reference)).filter(|name| !name.is_empty()),
            content: Content::Layer(candidate.blob.clone()),
        })
    }

    /// Reads a statement: only some predicates are a signature.
    fn statement(bundle: Bundle, subjects: &[&BlobDigest], form: &'static str) -> Result<Self, Refused> {
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(Refused::because("holds no envelope"));
        };
        if envelope.payload_type != "application/vnd.in-toto+json" {
            let kind = shown(&envelope.payload_type);
            return Err(Refused::because(format!("is no statement, but {kind}")));
        }
        // The packages make a tree of all of it, before they verify anything.
        if !is_modest(envelope.payload.as_bytes()) {
            return Err(Refused::because("its statement has more values than can be looked at"));
        }
        let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
            .map_err(|_| Refused::because("its statement cannot be read"))?;
        let role = match statement.predicate_type.as_str() {
            SIGN => Role::Signature,
            kind if PROVENANCE.contains(&kind) => Role::Provenance,
            other => {
                return Err(Refused::because(format!(
                    "is an attestation ({}), which is no signature",
                    shown(other)
                )));
            }
        };
        let is_named = |subject: &&&BlobDigest| {
            statement
                .subject
                .iter()
                .any(|named| named.digest.of(subject.algorithm()) == Some(subject.text().hex()))
        };
        let Some(subject) = subjects.iter().find(is_named) else {
            let first = statement.subject.first().and_then(|named| named.digest.any());
            return Err(about_another(&bundle, &shown(first.as_deref().unwrap_or("none"))));
        };
        let digest = artifact_digest(subject)
            .ok_or_else(|| Refused::because("for a digest that cannot be verified"))?;
        Ok(Self { bundle, role, form, named: None, content: Content::Statement(digest) })
    }

    /// Reads a signature of the bytes of the image's index or manifest.
    fn document(
        candidate: &Candidate,
        bundle: Bundle,
        subjects: &[&BlobDigest],
        message: &mut dyn FnMut(&BlobDigest) -> Option<Vec<u8>>,
    ) -> Result<Self, Refused> {
        let SignatureContent::MessageSignature(signature) = &bundle.content else {
            return Err(Refused::because("holds no signature that is known"));
        };
        let subject = &candidate.subject;
        if !subjects.contains(&subject) {
            return Err(about_another(&bundle, &subject.text()));
        }
        let known = candidate.message.clone().or_else(|| message(subject));
        let Some(bytes) = known.filter(|bytes| BlobDigest::of(subject.algorithm(), bytes) == *subject) else {
            return Err(Refused::because(format!("signs the bytes of {subject}, which cannot be had")));
        };
        if let Some(digest) = &signature.message_digest
            && crypto::hash(digest.algorithm, &bytes).as_deref() != Some(digest.digest.as_bytes())
        {
            return Err(about_another(&bundle, "that of a document which is not the image's"));
        }
        let content = Content::Document(bytes);
        Ok(Self { role: Role::Signature, form: "sigstore bundle of a message", named: None, content, bundle })
    }

    /// The signature itself.
    pub(super) fn signature(&self) -> Option<&SignatureBytes> {
        match &self.bundle.content {
            SignatureContent::MessageSignature(signature) => Some(&signature.signature),
            SignatureContent::DsseEnvelope(envelope) => Some(&envelope.signature.sig),
            _ => None,
        }
    }

    /// The bytes that were signed.
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        match (&self.content, &self.bundle.content) {
            (Content::Layer(bytes) | Content::Document(bytes), _) => bytes.clone(),
            (Content::Statement(_), SignatureContent::DsseEnvelope(envelope)) => envelope.pae(),
            (Content::Statement(_), _) => Vec::new(),
        }
    }

    /// The document of the image that was signed, if it was one.
    pub(super) fn into_document(self) -> Option<Vec<u8>> {
        match self.content {
            Content::Document(bytes) => Some(bytes),
            Content::Layer(_) | Content::Statement(_) => None,
        }
    }

    /// Verifies everything that the bundle claims about its signer, by `root`.
    pub(super) fn verify(
        &self,
        root: &Root,
        policy: &dyn Policy,
    ) -> Result<VerificationResult, sigstore_verify::Error> {
        match &self.content {
            Content::Layer(bytes) | Content::Document(bytes) => crypto::with_message(bytes, || {
                root.verifier().verify(Artifact::from_blob(bytes), &self.bundle, policy)
            }),
            Content::Statement(digest) => {
                root.verifier().verify(Artifact::Digest(digest.clone()), &self.bundle, policy)
            }
        }
    }

    /// The same claim as of the owner of a key, without certificate and timestamps: they prove
    /// nothing about a key.
    pub(super) fn of_key(&self) -> Self {
        let content = self.content.clone();
        let mut bundle = self.bundle.clone();
        let material = &mut bundle.verification_material;
        material.timestamp_verification_data = sigstore_types::TimestampVerificationData::default();
        if !matches!(material.content, VerificationMaterialContent::PublicKey(_)) {
            material.content = VerificationMaterialContent::PublicKey(PublicKeyIdentifier::new(""));
        }
        Self { bundle, content, named: self.named.clone(), ..*self }
    }
}

/// Refuses what is no bundle. cosign 3 leaves the digest of a message empty where an Ed25519 key
/// has signed it.
fn unreadable_bundle(blob: &[u8]) -> Refused {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OfMessage {
        message_signature: Prehashed,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Prehashed {
        message_digest: BTreeMap<String, String>,
    }
    match serde_json::from_slice::<OfMessage>(blob) {
        Ok(OfMessage { message_signature }) if message_signature.message_digest.is_empty() => {
            Refused::because(
                "does not say how its message was hashed, as newer cosigns do where a key of Ed25519 \
                 signs Ed25519ph, which is not supported",
            )
        }
        _ => Refused::because("cannot be read as a Sigstore bundle"),
    }
}

/// Refuses a signature of something else; `digest` is fit to be shown.
fn about_another(bundle: &Bundle, digest: &str) -> Refused {
    let refused = Refused::because(format!("for another digest, {digest}"));
    match claimed_by(bundle) {
        Some(by) => refused.by(&by),
        None => refused,
    }
}

/// Refuses what would cost too much to verify.
fn check_sizes(bundle: &Bundle) -> Result<(), Refused> {
    let material = &bundle.verification_material;
    let (chain, is_large_chain) = match &material.content {
        VerificationMaterialContent::X509CertificateChain { certificates } => {
            let is_large = certificates.iter().any(|one| one.raw_bytes.as_bytes().len() > MAX_DER);
            (certificates.len(), is_large)
        }
        _ => (1, false),
    };
    let stamps = &material.timestamp_verification_data.rfc3161_timestamps;
    let is_large_stamp = stamps.iter().any(|stamp| stamp.signed_timestamp.as_bytes().len() > MAX_DER);
    let has_large_body =
        material.tlog_entries.iter().any(|entry| !is_modest(entry.canonicalized_body.as_bytes()));
    let proofs = material.tlog_entries.iter().filter_map(|entry| entry.inclusion_proof.as_ref());
    let has_long_proof = proofs.into_iter().any(|proof| {
        let notes = proof.checkpoint.checkpoint().map_or(0, |checkpoint| checkpoint.signatures().len());
        proof.hashes.len() > MAX_HASHES || notes > MAX_NOTES
    });
    let is_large =
        bundle.signing_certificate().is_some_and(|certificate| certificate.as_bytes().len() > MAX_DER);
    let is_large = is_large || is_large_chain || is_large_stamp || has_large_body;
    let lists = [chain, material.tlog_entries.len(), stamps.len()];
    if has_long_proof || is_large || lists.iter().any(|length| *length > MAX_ENTRIES) {
        return Err(Refused::because(
            "has more or larger certificates, log entries or timestamps than is sensible",
        ));
    }
    if bundle.media_type == MediaType::Bundle0_3 && chain == 0 {
        return Err(Refused::because("has no certificate"));
    }
    Ok(())
}

fn artifact_digest(digest: &BlobDigest) -> Option<ArtifactDigest> {
    let algorithm = match digest.algorithm() {
        Algorithm::Sha256 => HashAlgorithm::Sha2256,
        Algorithm::Sha512 => HashAlgorithm::Sha2512,
    };
    ArtifactDigest::new(algorithm, DigestBytes::from_hex(digest.text().hex()).ok()?).ok()
}

/// The layer of cosign 2's simple signing.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(default)]
    identity: Named,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default, rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// An in-toto statement, without its predicate.
#[derive(Deserialize)]
struct Statement {
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digests,
}

#[derive(Deserialize)]
struct Digests {
    sha256: Option<String>,
    sha512: Option<String>,
}

impl Digests {
    fn of(&self, algorithm: Algorithm) -> Option<&str> {
        match algorithm {
            Algorithm::Sha256 => self.sha256.as_deref(),
            Algorithm::Sha512 => self.sha512.as_deref(),
        }
    }

    fn any(&self) -> Option<String> {
        let sha256 = self.sha256.as_ref().map(|hex| format!("sha256:{hex}"));
        sha256.or_else(|| self.sha512.as_ref().map(|hex| format!("sha512:{hex}")))
    }
}
