//! The certificates of a signature: the signer's, the CAs' in order, the root's.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{AnyRef, Decode as _, Encode as _, Tag};
use x509_cert::name::Name;

use super::super::finding::shown;
use super::der::Item;
use super::envelope::Algorithm;
use super::requirements::{self, Use};
use super::roots::Roots;

/// The certificates of a chain, at most.
const MAX_CERTIFICATES: usize = 8;

const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The algorithms by which CAs sign.
pub(super) static CA_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
    ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// The certificates that came with a signature: nothing of them is verified.
pub(super) struct Chain {
    /// In DER and as read, the signer's first; never empty.
    certificates: Vec<(CertificateDer<'static>, Certificate)>,
}

impl Chain {
    /// Reads certificates in DER.
    pub(super) fn read(ders: &[Vec<u8>]) -> Result<Self, String> {
        if ders.is_empty() {
            return Err("it has no certificate".to_owned());
        }
        if ders.len() > MAX_CERTIFICATES {
            return Err(format!("it has more than {MAX_CERTIFICATES} certificates"));
        }
        let read = |der: &Vec<u8>| {
            let certificate =
                Certificate::from_der(der).map_err(|_| "its certificate cannot be read".to_owned())?;
            Ok((CertificateDer::from(der.clone()), certificate))
        };
        Ok(Self { certificates: ders.iter().map(read).collect::<Result<_, String>>()? })
    }

    fn leaf(&self) -> &Certificate {
        &self.certificates[0].1
    }

    /// The name of the signer.
    pub(super) fn subject(&self) -> &Name {
        &self.leaf().tbs_certificate.subject
    }

    /// The name of the signer, for people (RFC 4514).
    pub(super) fn signer(&self) -> String {
        self.subject().to_string()
    }

    /// The name of the CA of the signer's certificate, for people.
    pub(super) fn issuer(&self) -> String {
        self.leaf().tbs_certificate.issuer.to_string()
    }

    /// Verifies a signature by the signer's key, whose kind decides on the algorithm.
    pub(super) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Result<(), String> {
        let fit = self.algorithm().ok_or("its certificate's key is of an unsupported kind or size")?;
        if fit != algorithm {
            return Err(format!(
                "its algorithm {} does not fit its certificate's key, for which {} does",
                algorithm.name(),
                fit.name()
            ));
        }
        let of_two = |size| of_two_numbers(signature, size);
        let (method, signature) = match algorithm {
            Algorithm::Es256 => (ring::ECDSA_P256_SHA256, of_two(32)),
            Algorithm::Es384 => (ring::ECDSA_P384_SHA384, of_two(48)),
            Algorithm::Es512 => return Err("ES512 (keys of P-521) is not supported".to_owned()),
            Algorithm::Ps256 => (ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY, Some(signature.to_vec())),
            Algorithm::Ps384 => (ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY, Some(signature.to_vec())),
            Algorithm::Ps512 => (ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY, Some(signature.to_vec())),
        };
        let signer = EndEntityCert::try_from(&self.certificates[0].0)
            .map_err(|_| "its certificate cannot be read".to_owned())?;
        signature
            .and_then(|signature| signer.verify_signature(method, signed, &signature).ok())
            .ok_or_else(|| "its signature is wrong".to_owned())
    }

    /// The algorithm that belongs to the signer's key.
    fn algorithm(&self) -> Option<Algorithm> {
        let key = &self.leaf().tbs_certificate.subject_public_key_info;
        if key.algorithm.oid == EC {
            let curve = key.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()?;
            return match curve {
                P256 => Some(Algorithm::Es256),
                P384 => Some(Algorithm::Es384),
                P521 => Some(Algorithm::Es512),
                _ => None,
            };
        }
        if key.algorithm.oid != RSA {
            return None;
        }
        let numbers = Item::only(key.subject_public_key.as_bytes()?)?.inside(Tag::Sequence)?;
        let modulus = UintRef::from_der(numbers.first()?.whole).ok()?;
        let bits = modulus.as_bytes().len() * 8 - modulus.as_bytes().first()?.leading_zeros() as usize;
        match bits {
            2048 => Some(Algorithm::Ps256),
            3072 => Some(Algorithm::Ps384),
            4096 => Some(Algorithm::Ps512),
            _ => None,
        }
    }

    /// Finds the part of the chain that ends in a root, and checks what Notation asks of each
    /// certificate in it.
    pub(super) fn below(&self, roots: &Roots) -> Result<Trusted<'_>, String> {
        let Some(end) = self.certificates.iter().position(|(der, _)| roots.contain(der)) else {
            // Never empty.
            let last = self.certificates.last().map(|(_, last)| last.tbs_certificate.subject.to_string());
            let last = shown(&last.unwrap_or_default());
            return Err(format!("its chain ends in {last}, which is none of the roots"));
        };
        let certificates = &self.certificates[..=end];
        for (position, (_, certificate)) in certificates.iter().enumerate() {
            let result = match position {
                0 => requirements::check_signer(certificate, Use::Signing),
                _ => requirements::check_authority(certificate, Use::Signing, Some(position - 1)),
            };
            result.map_err(|reason| {
                let name = shown(&certificate.tbs_certificate.subject.to_string());
                format!("its certificate of {name} will not do: {reason}")
            })?;
        }
        let in_order = certificates
            .windows(2)
            .all(|pair| pair[0].1.tbs_certificate.issuer == pair[1].1.tbs_certificate.subject);
        if !in_order {
            return Err("its certificates are not a chain in order".to_owned());
        }
        Ok(Trusted { certificates })
    }
}

/// The part of a chain that ends in a root.
pub(super) struct Trusted<'c> {
    certificates: &'c [(CertificateDer<'static>, Certificate)],
}

impl Trusted<'_> {
    /// Checks that all certificates are good from one time to another, in seconds since 1970.
    pub(super) fn valid_during(&self, from: i64, to: i64) -> Result<(), String> {
        for (position, (_, certificate)) in self.certificates.iter().enumerate() {
            let whose = if position == 0 { "its certificate" } else { "a certificate of its chain" };
            let [begin, end] = requirements::validity(certificate);
            if from < begin {
                return Err(format!("{whose} begins on {}", day(begin)));
            }
            if to > end {
                return Err(format!("{whose} ended on {}", day(end)));
            }
        }
        Ok(())
    }

    /// The first second in which not all certificates are good any more, in seconds since 1970.
    pub(super) fn end(&self) -> Option<i64> {
        let ends = self.certificates.iter().map(|(_, certificate)| requirements::validity(certificate)[1]);
        ends.min().map(|end| end.saturating_add(1))
    }

    /// Verifies the chain at a time.
    pub(super) fn verify(&self, time: i64) -> Result<(), String> {
        let [(leaf, _), between @ .., (root, _)] = self.certificates else {
            // The signer's own certificate is the root.
            return Ok(());
        };
        let between: Vec<CertificateDer<'_>> = between.iter().map(|(der, _)| der.clone()).collect();
        let anchor =
            anchor_from_trusted_cert(root).map_err(|reason| format!("its root will not do: {reason}"))?;
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    CA_ALGORITHMS,
                    &[anchor],
                    &between,
                    unix_time(time),
                    KeyUsage::required_if_present(CODE_SIGNING),
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(|reason| format!("its chain will not do: {reason}"))
    }
}

/// A time as the verifier of chains wants it.
pub(super) fn unix_time(time: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)))
}

/// The day of a time, for people.
fn day(time: i64) -> String {
    jiff::Timestamp::from_second(time)
        .map_or_else(|_| time.to_string(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// Makes the form in which X.509 writes ECDSA's signatures of the two numbers of `size` bytes.
fn of_two_numbers(signature: &[u8], size: usize) -> Option<Vec<u8>> {
    if signature.len() != 2 * size {
        return None;
    }
    let (r, s) = signature.split_at(size);
    let number = |bytes| UintRef::new(bytes).and_then(|number| number.to_der()).ok();
    let both = [number(r)?, number(s)?].concat();
    AnyRef::new(Tag::Sequence, &both).and_then(|sequence| sequence.to_der()).ok()
}
