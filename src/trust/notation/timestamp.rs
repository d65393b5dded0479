//! Timestamps (RFC 3161): the word of an authority that a signature was there at a time.
//!
//! A token is CMS (RFC 5652): the statement, its signer's certificate, and a signature over
//! attributes that name both by their digests. Only DER is read, and only what such tokens have.

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use sigstore_types::HashAlgorithm;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{DateTime, Decode as _, Encode as _, Tag, TagNumber};
use x509_cert::ext::pkix::SubjectKeyIdentifier;

use super::super::crypto;
use super::chain::{CA_ALGORITHMS, unix_time};
use super::der::{Item, context};
use super::requirements::{self, Use};
use super::roots::Roots;

/// The size of a token, at most: one with its chain has 6 KiB.
const MAX_SIZE: usize = 64 << 10;
const MAX_CERTIFICATES: usize = 8;

const TIME_STAMPING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const STATEMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
/// The policy whose timestamps are right to a second where they say nothing (RFC 3628).
const BASELINE: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.4.0.2023.1.1");

/// A verified timestamp, in seconds since 1970.
pub(super) struct Stamp {
    /// The time.
    pub(super) at: i64,
    /// The bounds of the time, by the authority's accuracy.
    pub(super) earliest: i64,
    pub(super) latest: i64,
}

/// Verifies a token over `signature` by an authority below one of the roots.
pub(super) fn verify(token: &[u8], signature: &[u8], roots: &Roots, now: i64) -> Result<Stamp, String> {
    if token.len() > MAX_SIZE {
        return Err("it is too large".to_owned());
    }
    let token = Token::read(token).ok_or("it cannot be read")?;
    let statement = Statement::read(token.statement).ok_or("it cannot be read")?;
    if digest(statement.hash, signature).as_deref() != Some(statement.imprint) {
        return Err("it is of another signature".to_owned());
    }
    let signer = token.signer().ok_or("its signer's certificate is not with it")?;
    token.verify(signer).ok_or("its own signature is wrong")?;
    let stamp = statement.stamp;
    if stamp.at > now {
        return Err("it is of the future".to_owned());
    }
    check_authority(signer, &token.certificates, roots, stamp.at)?;
    Ok(stamp)
}

/// Verifies the chain of an authority at the time that it states.
fn check_authority(
    signer: &(CertificateDer<'_>, Certificate),
    others: &[(CertificateDer<'_>, Certificate)],
    roots: &Roots,
    time: i64,
) -> Result<(), String> {
    let wrong = |reason| format!("its authority will not do: {reason}");
    requirements::check_signer(&signer.1, Use::Stamping).map_err(|reason| wrong(reason.to_owned()))?;
    let anchors = roots.for_use(Use::Stamping, time).filter_map(|der| anchor_from_trusted_cert(der).ok());
    let anchors: Vec<_> = anchors.collect();
    let others: Vec<CertificateDer<'_>> = others.iter().map(|(der, _)| der.clone()).collect();
    let chain = EndEntityCert::try_from(&signer.0).and_then(|leaf| {
        leaf.verify_for_usage(
            CA_ALGORITHMS,
            &anchors,
            &others,
            unix_time(time),
            KeyUsage::required(TIME_STAMPING),
            None,
            None,
        )
        .map(|_| ())
    });
    chain.map_err(|reason| wrong(reason.to_string()))
}

/// A token as read: nothing of it is verified.
struct Token<'a> {
    /// The statement (`TSTInfo`) in DER.
    statement: &'a [u8],
    certificates: Vec<(CertificateDer<'a>, Certificate)>,
    /// The name of the signer's certificate.
    signer: Item<'a>,
    /// The digest of the attributes and of the statement.
    hash: ObjectIdentifier,
    algorithm: ObjectIdentifier,
    attributes: Item<'a>,
    signature: &'a [u8],
}

impl<'a> Token<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let [kind, content] = Item::only(bytes)?.inside(Tag::Sequence)?[..] else { return None };
        let fields = content.explicit(TagNumber::N0)?.inside(Tag::Sequence)?;
        let [version, hashes, statement, certificates, signers] = fields[..] else { return None };
        let [kind_inside, statement] = statement.inside(Tag::Sequence)?[..] else { return None };
        let [signer] = signers.inside(Tag::Set)?[..] else { return None };
        let fields = signer.inside(Tag::Sequence)?;
        let [signer_version, signer, hash, attributes, algorithm, signature] = *fields.get(..6)? else {
            return None;
        };
        let hash = hash.algorithm()?;
        let hashes: Option<Vec<_>> = hashes.inside(Tag::Set)?.iter().map(Item::algorithm).collect();
        let as_expected = kind.name()? == SIGNED_DATA
            && kind_inside.name()? == STATEMENT
            && version.number(Tag::Integer)? == 3
            && signer_version.number(Tag::Integer)? == if signer.tag == Tag::Sequence { 1 } else { 3 }
            && hashes?.contains(&hash)
            && attributes.tag == context(TagNumber::N0)
            // Attributes that are not signed.
            && fields[6..].iter().all(|item| item.tag == context(TagNumber::N1));
        let certificates = certificates.inside(context(TagNumber::N0))?;
        if !as_expected || certificates.len() > MAX_CERTIFICATES {
            return None;
        }
        let certificate = |item: &Item<'a>| {
            Some((CertificateDer::from(item.whole), Certificate::from_der(item.whole).ok()?))
        };
        Some(Self {
            statement: statement.explicit(TagNumber::N0)?.bytes(Tag::OctetString)?,
            certificates: certificates.iter().map(certificate).collect::<Option<_>>()?,
            signer,
            hash,
            algorithm: algorithm.algorithm()?,
            attributes,
            signature: signature.bytes(Tag::OctetString)?,
        })
    }

    /// Finds the certificate that the token names as its signer's.
    fn signer(&self) -> Option<&(CertificateDer<'a>, Certificate)> {
        let fits = |certificate: &Certificate| {
            let tbs = &certificate.tbs_certificate;
            match self.signer.inside(Tag::Sequence).as_deref() {
                Some([issuer, serial]) => {
                    serial.bytes(Tag::Integer) == Some(tbs.serial_number.as_bytes())
                        && tbs.issuer.to_der().is_ok_and(|name| name == issuer.whole)
                }
                Some(_) => false,
                None => tbs.get::<SubjectKeyIdentifier>().is_ok_and(|found| {
                    let by_key = Tag::ContextSpecific { constructed: false, number: TagNumber::N0 };
                    found.is_some_and(|(_, key)| self.signer.bytes(by_key) == Some(key.0.as_bytes()))
                }),
            }
        };
        self.certificates.iter().find(|(_, certificate)| fits(certificate))
    }

    /// Verifies that the attributes are signed, and name the statement and the certificate.
    fn verify(&self, (der, _): &(CertificateDer<'_>, Certificate)) -> Option<()> {
        if self.attribute(CONTENT_TYPE)?.name()? != STATEMENT {
            return None;
        }
        let said = self.attribute(MESSAGE_DIGEST)?.bytes(Tag::OctetString)?;
        if digest(self.hash, self.statement)? != said {
            return None;
        }
        let named = self.attribute(SIGNING_CERTIFICATE)?.inside(Tag::Sequence)?;
        let named = named.first()?.inside(Tag::Sequence)?.first()?.inside(Tag::Sequence)?;
        let (hash, named) = match named[..] {
            [named, ..] if named.tag == Tag::OctetString => (SHA256, named),
            [hash, named, ..] => (hash.algorithm()?, named),
            _ => return None,
        };
        if digest(hash, der)? != named.bytes(Tag::OctetString)? {
            return None;
        }
        // The attributes are signed as the set that they are, not as the field that holds them.
        let mut signed = self.attributes.whole.to_vec();
        *signed.first_mut()? = 0x31;
        let signer = EndEntityCert::try_from(der).ok()?;
        let by = |method: &&dyn SignatureVerificationAlgorithm| {
            signer.verify_signature(*method, &signed, self.signature).is_ok()
        };
        self.methods().iter().any(by).then_some(())
    }

    /// The one value of an attribute that is there once.
    fn attribute(&self, name: ObjectIdentifier) -> Option<Item<'a>> {
        let mut found = None;
        for attribute in self.attributes.inside(context(TagNumber::N0))? {
            let [kind, values] = attribute.inside(Tag::Sequence)?[..] else { return None };
            if kind.name()? == name {
                let [value] = values.inside(Tag::Set)?[..] else { return None };
                if found.replace(value).is_some() {
                    return None;
                }
            }
        }
        found
    }

    /// The methods of verification that fit the algorithms named.
    fn methods(&self) -> Vec<&'static dyn SignatureVerificationAlgorithm> {
        match (self.algorithm, self.hash) {
            (RSA | RSA_SHA256, SHA256) => vec![ring::RSA_PKCS1_2048_8192_SHA256],
            (RSA | RSA_SHA384, SHA384) => vec![ring::RSA_PKCS1_2048_8192_SHA384],
            (RSA | RSA_SHA512, SHA512) => vec![ring::RSA_PKCS1_2048_8192_SHA512],
            (ECDSA_SHA256, SHA256) => vec![ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256],
            (ECDSA_SHA384, SHA384) => vec![ring::ECDSA_P256_SHA384, ring::ECDSA_P384_SHA384],
            _ => Vec::new(),
        }
    }
}

/// The statement of an authority.
struct Statement<'a> {
    hash: ObjectIdentifier,
    imprint: &'a [u8],
    stamp: Stamp,
}

impl<'a> Statement<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let fields = Item::only(bytes)?.inside(Tag::Sequence)?;
        let [version, policy, imprint, _serial, time, rest @ ..] = &fields[..] else { return None };
        let [hash, imprint] = imprint.inside(Tag::Sequence)?[..] else { return None };
        if version.number(Tag::Integer)? != 1 {
            return None;
        }
        let (at, is_whole) = seconds(time.bytes(Tag::GeneralizedTime)?)?;
        let accuracy = match rest.first() {
            Some(accuracy) if accuracy.tag == Tag::Sequence => accuracy_of(accuracy)?,
            _ => i64::from(policy.name()? == BASELINE),
        };
        let latest = at + accuracy + i64::from(!is_whole);
        Some(Self {
            hash: hash.algorithm()?,
            imprint: imprint.bytes(Tag::OctetString)?,
            stamp: Stamp { at, earliest: at - accuracy, latest },
        })
    }
}

/// Reads `20261129110000.5Z`: the seconds since 1970, and whether they are whole.
fn seconds(time: &[u8]) -> Option<(i64, bool)> {
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.len() != 14
        || fraction.is_empty()
        || !(whole.to_owned() + fraction).bytes().all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let (day, clock) = whole.split_at(8);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &day[..4],
        &day[4..6],
        &day[6..],
        &clock[..2],
        &clock[2..4],
        &clock[4..]
    );
    let time: DateTime = text.parse().ok()?;
    let seconds = i64::try_from(time.unix_duration().as_secs()).ok()?;
    Some((seconds, fraction.bytes().all(|digit| digit == b'0')))
}

/// Reads an accuracy, in seconds, rounded up.
fn accuracy_of(item: &Item<'_>) -> Option<i64> {
    let mut seconds = 0;
    for part in item.inside(Tag::Sequence)? {
        seconds += match part.tag {
            Tag::Integer => part.number(Tag::Integer)?,
            // Parts of a second.
            Tag::ContextSpecific { .. } => 1,
            _ => return None,
        };
    }
    Some(seconds)
}

fn digest(hash: ObjectIdentifier, bytes: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match hash {
        SHA256 => HashAlgorithm::Sha2256,
        SHA384 => HashAlgorithm::Sha2384,
        SHA512 => HashAlgorithm::Sha2512,
        _ => return None,
    };
    crypto::hash(algorithm, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_second() {
        for (text, expected) in [
            ("20261129110000Z", Some((1_795_950_000, true))),
            ("20261129110000.0Z", Some((1_795_950_000, true))),
            ("20261129110000.5Z", Some((1_795_950_000, false))),
            ("20261129110000", None),
            ("202611291100Z", None),
            ("20261329110000Z", None),
            ("20261129110000.Z", None),
            ("2026112911000éZ", None),
            ("20261129110000+0100", None),
            ("", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }
}
