//! Public keys of signers, from PEM files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sigstore_crypto::{KeyAlgorithm, SigningScheme, VerificationKey, validate_raw_public_key};
use sigstore_types::{DerPublicKey, SignatureBytes};

use super::crypto;
use super::finding::shown;
use super::pem;
use crate::digest::{Algorithm, BlobDigest};

/// The digits of a key's fingerprint that people see.
const SHORT: usize = 12;

/// The public key of a signer.
pub(super) struct Key {
    /// The name of its file.
    name: String,
    public: DerPublicKey,
    algorithm: KeyAlgorithm,
    verifiers: Vec<VerificationKey>,
}

impl Key {
    /// Reads the one public key of a PEM file; the error says what is wrong, without the content.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|_| "it is not a PEM file")?;
        let block = match &mut pem::blocks(text)?[..] {
            [] => return Err("it holds no PEM block".to_owned()),
            [one] => std::mem::replace(one, pem::Block { label: "", der: Vec::new() }),
            more => return Err(format!("it holds {} PEM blocks; a file is one public key", more.len())),
        };
        match block.label {
            "PUBLIC KEY" => {}
            "CERTIFICATE" => return Err("it is a certificate, not a public key".to_owned()),
            "RSA PUBLIC KEY" => return Err("it is a bare RSA key, not one in PKIX form".to_owned()),
            secret if secret.contains("PRIVATE KEY") => {
                return Err("it is a private key, which does not belong here".to_owned());
            }
            _ => return Err("its PEM block is not labelled PUBLIC KEY".to_owned()),
        }
        let public = DerPublicKey::new(block.der);
        let algorithm = KeyAlgorithm::from_spki(&public).map_err(|_| {
            "it is no public key of the kinds that are known: P-256, P-384, Ed25519, RSA".to_owned()
        })?;
        let schemes: &[SigningScheme] = match algorithm {
            KeyAlgorithm::EcdsaP256 => &[SigningScheme::EcdsaP256Sha256],
            // cosign 2 signs with the one, cosign 3 with the other.
            KeyAlgorithm::EcdsaP384 => &[SigningScheme::EcdsaP384Sha384, SigningScheme::EcdsaP384Sha256],
            KeyAlgorithm::Ed25519 => &[SigningScheme::Ed25519],
            KeyAlgorithm::Rsa => &[SigningScheme::RsaPkcs1Sha256],
            _ => return Err("it is a key of another kind than P-256, P-384, Ed25519 and RSA".to_owned()),
        };
        let verifiers: Result<Vec<_>, _> =
            schemes.iter().map(|scheme| VerificationKey::from_spki_with_scheme(&public, *scheme)).collect();
        let verifiers = verifiers.map_err(|_| "it is no public key that can be used".to_owned())?;
        if let Some(key) = verifiers.first()
            && validate_raw_public_key(key.scheme(), key.as_bytes()).is_err()
        {
            return Err(match algorithm {
                KeyAlgorithm::Rsa => "it is an RSA key of fewer than 2048 or more than 8192 bits",
                _ => "its point is compressed",
            }
            .to_owned());
        }
        Ok(Self { name: shown(name), public, algorithm, verifiers })
    }

    /// Names the key for people: its file, and enough of its fingerprint to tell two apart.
    pub(super) fn by(&self) -> String {
        format!("key {} sha256:{}", self.name, self.fingerprint().get(..SHORT).unwrap_or_default())
    }

    /// The fingerprint of the key, in hex.
    pub(super) fn fingerprint(&self) -> String {
        BlobDigest::of(Algorithm::Sha256, self.public.as_bytes()).text().hex().to_owned()
    }

    /// The name of its file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The key itself, in DER.
    pub(super) fn public(&self) -> &DerPublicKey {
        &self.public
    }

    /// True if a bundle's `hint` means this key: the hash of it, as cosign 3 writes it.
    pub(super) fn is_hinted_at(&self, hint: &str) -> bool {
        let hash = crypto::hash(sigstore_types::HashAlgorithm::Sha2256, self.public.as_bytes());
        hash.is_some_and(|hash| STANDARD.encode(hash) == hint)
    }

    /// True if cosign 3 signs with this key in a way that nobody verifies.
    pub(super) fn is_ed25519(&self) -> bool {
        self.algorithm == KeyAlgorithm::Ed25519
    }

    /// True if `signature` is this key's of `message`.
    pub(super) fn verifies(&self, message: &[u8], signature: &SignatureBytes) -> bool {
        self.verifiers.iter().any(|key| key.verify(message, signature).is_ok())
    }
}
