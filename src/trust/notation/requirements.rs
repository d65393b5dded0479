//! The requirements of Notation on certificates, which go beyond those of a chain.
//!
//! The section "Certificate Requirements" of the signature specification lists them.

use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};

const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// Uses that exclude both: anything, servers, clients, e-mail.
const OTHERS: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("2.5.29.37.0"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4"),
];

/// The use of a chain of certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Signing,
    Stamping,
}

impl Use {
    fn purpose(self) -> ObjectIdentifier {
        match self {
            Self::Signing => CODE_SIGNING,
            Self::Stamping => TIME_STAMPING,
        }
    }
}

/// True if a certificate says that it is a CA's.
pub(super) fn is_authority(certificate: &Certificate) -> bool {
    matches!(certificate.tbs_certificate.get::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca)
}

/// Checks a CA's certificate with `below` other CAs between it and the signer, where that is known.
/// A certificate that names other uses ends no chain of this one.
pub(super) fn check_authority(
    certificate: &Certificate,
    wanted: Use,
    below: Option<usize>,
) -> Result<(), &'static str> {
    let tbs = &certificate.tbs_certificate;
    let Ok(Some((true, constraints))) = tbs.get::<BasicConstraints>() else {
        return Err("it has no critical basic constraints");
    };
    if !constraints.ca {
        return Err("it is not a CA's");
    }
    if let (Some(longest), Some(below)) = (constraints.path_len_constraint, below)
        && below > usize::from(longest)
    {
        return Err("it allows no CA below");
    }
    let Ok(Some((true, usage))) = tbs.get::<KeyUsage>() else {
        return Err("it has no critical key usage");
    };
    if !usage.key_cert_sign() {
        return Err("its key may not sign certificates");
    }
    match tbs.get::<ExtendedKeyUsage>() {
        Ok(None) => Ok(()),
        Ok(Some((_, uses))) if uses.0.contains(&wanted.purpose()) || uses.0.contains(&OTHERS[0]) => Ok(()),
        _ => Err("it is for other uses"),
    }
}

/// Checks the certificate of a signer or a timestamp authority.
pub(super) fn check_signer(certificate: &Certificate, wanted: Use) -> Result<(), &'static str> {
    let tbs = &certificate.tbs_certificate;
    if !matches!(tbs.get::<BasicConstraints>(), Ok(None | Some((_, BasicConstraints { ca: false, .. })))) {
        return Err("it is a CA's");
    }
    let Ok(Some((true, usage))) = tbs.get::<KeyUsage>() else {
        return Err("it has no critical key usage");
    };
    let others = KeyUsages::KeyEncipherment
        | KeyUsages::DataEncipherment
        | KeyUsages::KeyAgreement
        | KeyUsages::KeyCertSign
        | KeyUsages::CRLSign
        | KeyUsages::EncipherOnly
        | KeyUsages::DecipherOnly;
    if !usage.digital_signature() || !(usage.0 & others).is_empty() {
        return Err("its key is not for signatures alone");
    }
    let other = if wanted == Use::Signing { TIME_STAMPING } else { CODE_SIGNING };
    match tbs.get::<ExtendedKeyUsage>() {
        Ok(None) if wanted == Use::Signing => Ok(()),
        Ok(Some((_, uses)))
            if uses.0.contains(&wanted.purpose())
                && !uses.0.iter().any(|one| *one == other || OTHERS.contains(one)) =>
        {
            Ok(())
        }
        _ if wanted == Use::Signing => Err("it is not for signing code alone"),
        _ => Err("it is not for timestamps alone"),
    }
}

/// True if a certificate is good from one time to another, in seconds since 1970.
pub(super) fn valid_during(certificate: &Certificate, from: i64, to: i64) -> bool {
    let [begin, end] = validity(certificate);
    begin <= from && to <= end
}

/// The first and the last second of a certificate.
pub(super) fn validity(certificate: &Certificate) -> [i64; 2] {
    let validity = &certificate.tbs_certificate.validity;
    [validity.not_before, validity.not_after]
        .map(|time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX))
}
