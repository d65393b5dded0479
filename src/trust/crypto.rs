//! The cryptography beneath Sigstore's verification: ring's, by way of webpki.
//!
//! Sigstore's crates ask a provider, one for the whole process. ring verifies messages but no
//! hashes of messages, which Sigstore asks for where a signature is one of an artifact's bytes: so
//! the message is laid out beside the call ([`with_message`]), and is verified itself if its hash
//! is the one that was asked for.

use std::cell::RefCell;

use sha2::Digest as _;
use sigstore_crypto::{CryptoProvider, Error, HashContext, SigningScheme};
use sigstore_types::HashAlgorithm;
use webpki::ring;

thread_local! {
    /// The message whose signature this thread verifies, where only its hash is asked about.
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes Sigstore's crates use ring. Whoever installed another provider before keeps that one.
pub(super) fn install() {
    let _ = sigstore_crypto::install_default_provider(&Ring);
}

/// Calls `verify`, which may ask for the verification of a hash of `message`.
pub(super) fn with_message<T>(message: &[u8], verify: impl FnOnce() -> T) -> T {
    MESSAGE.with_borrow_mut(|kept| message.clone_into(kept));
    let result = verify();
    MESSAGE.with_borrow_mut(Vec::clear);
    result
}

/// Hashes `bytes`.
pub(super) fn hash(algorithm: HashAlgorithm, bytes: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        HashAlgorithm::Sha2256 => Some(sha2::Sha256::digest(bytes).to_vec()),
        HashAlgorithm::Sha2384 => Some(sha2::Sha384::digest(bytes).to_vec()),
        HashAlgorithm::Sha2512 => Some(sha2::Sha512::digest(bytes).to_vec()),
        _ => None,
    }
}

/// The provider.
#[derive(Debug)]
struct Ring;

impl CryptoProvider for Ring {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>, Error> {
        Ok(match algorithm {
            HashAlgorithm::Sha2256 => Box::new(Running(sha2::Sha256::new())),
            HashAlgorithm::Sha2384 => Box::new(Running(sha2::Sha384::new())),
            HashAlgorithm::Sha2512 => Box::new(Running(sha2::Sha512::new())),
            other => return Err(Error::UnsupportedAlgorithm(other.to_string())),
        })
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        let algorithm = match scheme {
            SigningScheme::EcdsaP256Sha256 => ring::ECDSA_P256_SHA256,
            SigningScheme::EcdsaP256Sha384 => ring::ECDSA_P256_SHA384,
            SigningScheme::EcdsaP384Sha256 => ring::ECDSA_P384_SHA256,
            SigningScheme::EcdsaP384Sha384 => ring::ECDSA_P384_SHA384,
            SigningScheme::Ed25519 => ring::ED25519,
            SigningScheme::RsaPssSha256 => ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            SigningScheme::RsaPssSha384 => ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            SigningScheme::RsaPssSha512 => ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            SigningScheme::RsaPkcs1Sha256 => ring::RSA_PKCS1_2048_8192_SHA256,
            SigningScheme::RsaPkcs1Sha384 => ring::RSA_PKCS1_2048_8192_SHA384,
            SigningScheme::RsaPkcs1Sha512 => ring::RSA_PKCS1_2048_8192_SHA512,
            _ => return Err(Error::UnsupportedAlgorithm(scheme.name().to_owned())),
        };
        let invalid = |_| Error::Verification(format!("{} signature invalid", scheme.name()));
        algorithm.verify_signature(key, data, signature).map_err(invalid)
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        MESSAGE.with_borrow(|message| {
            let hashed = scheme.hash_algorithm().and_then(|algorithm| hash(algorithm, message));
            if hashed.as_deref() != Some(digest) {
                return Err(Error::Verification("the message of the hash is not known".to_owned()));
            }
            self.verify_raw(scheme, key, message, signature)
        })
    }
}

/// A hash of the bytes so far.
struct Running<H>(H);

impl<H: sha2::Digest + Send> HashContext for Running<H> {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}
