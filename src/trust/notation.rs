//! Notation's signatures: JWS and COSE, below a root of one's own.
//!
//! Only the signing scheme `notary.x509` is known, without plugins and without revocation, which
//! would ask somebody. A signature is good while all certificates of its chain are, or if a
//! timestamp (RFC 3161) says that it was made while they were. The roots of the timestamps'
//! authorities stand among the others.
//!
//! <https://github.com/notaryproject/specifications/tree/main/specs>

mod chain;
mod cose;
mod der;
mod envelope;
mod jws;
mod requirements;
mod roots;
mod subject;
#[cfg(test)]
mod tests;
mod timestamp;

use serde::Deserialize;

pub(super) use self::roots::Roots;
pub(super) use self::subject::Subject;

use self::chain::Chain;
use self::envelope::Envelope;
use super::finding::{Refused, Signed, shown};
use crate::digest::BlobDigest;
use crate::state::Candidate;

/// The media types of layers that hold such a signature.
pub(super) const MEDIA_TYPES: [&str; 2] = [JWS, COSE];

const JWS: &str = "application/jose+json";
const COSE: &str = "application/cose";

/// The media types of what a signature may be about.
const IMAGES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Judges a candidate whose layer is of one of [`MEDIA_TYPES`] (`media_type`). The signature has to
/// be of one of `subjects`: the digests of the image's index and of its platform's manifest.
pub(super) fn judge(
    candidate: &Candidate,
    media_type: &str,
    subjects: &[&BlobDigest],
    roots: &Roots,
    subject: &Subject,
    now: i64,
) -> Result<Signed, Refused> {
    let (form, envelope) = match media_type {
        JWS => ("notation jws", jws::read(&candidate.blob)?),
        COSE => ("notation cose", cose::read(&candidate.blob)?),
        _ => return Err(Refused::because("its layer is no signature of Notation")),
    };
    let chain = Chain::read(&envelope.chain).map_err(Refused::because)?;
    let by = chain.signer();
    match weigh(&envelope, &chain, subjects, roots, subject, now) {
        Ok((at, until)) => {
            Ok(Signed { by: shown(&by), issuer: Some(shown(&chain.issuer())), at, until, signer: by, form })
        }
        Err(refused) => Err(refused.by(&by)),
    }
}

/// Weighs everything that an envelope says; returns the time of its timestamp, and when it ends to
/// hold.
fn weigh(
    envelope: &Envelope,
    chain: &Chain,
    subjects: &[&BlobDigest],
    roots: &Roots,
    subject: &Subject,
    now: i64,
) -> Result<(Option<i64>, Option<i64>), Refused> {
    envelope.attributes.check().map_err(Refused::because)?;
    chain.verify(envelope.algorithm, &envelope.signed, &envelope.signature).map_err(Refused::because)?;
    check_payload(&envelope.payload, subjects)?;
    let trusted = chain.below(roots).map_err(Refused::because)?;
    if !subject.matches(chain.subject()) {
        return Err(Refused::because("its certificate is another subject's"));
    }
    if envelope.attributes.expiry.is_some_and(|expiry| expiry <= now) {
        return Err(Refused::because("its expiry is past"));
    }
    let stamp =
        envelope.timestamp.as_deref().map(|token| timestamp::verify(token, &envelope.signature, roots, now));
    let at = match (trusted.valid_during(now, now), stamp) {
        (Ok(()), stamp) => stamp
            .and_then(Result::ok)
            .filter(|stamp| trusted.valid_during(stamp.earliest, stamp.latest).is_ok())
            .map(|stamp| stamp.at),
        (Err(reason), None) => return Err(Refused::because(reason + ", and it has no timestamp")),
        (Err(reason), Some(Err(wrong))) => {
            return Err(Refused::because(format!("{reason}, and its timestamp will not do: {wrong}")));
        }
        (Err(_), Some(Ok(stamp))) => {
            trusted
                .valid_during(stamp.earliest, stamp.latest)
                .map_err(|reason| Refused::because(format!("{reason}, by its timestamp")))?;
            Some(stamp.at)
        }
    };
    trusted.verify(at.unwrap_or(now)).map_err(Refused::because)?;
    // Without a timestamp the certificates have to be good now, and so at each later time.
    let end = if at.is_none() { trusted.end() } else { None };
    Ok((at, envelope.attributes.expiry.into_iter().chain(end).min()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    target_artifact: Target,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    media_type: String,
    digest: String,
    #[serde(rename = "size")]
    _size: u64,
}

/// Checks that a payload is about one of `subjects`.
fn check_payload(payload: &[u8], subjects: &[&BlobDigest]) -> Result<(), Refused> {
    let Payload { target_artifact: target } =
        serde_json::from_slice(payload).map_err(|_| Refused::because("its payload cannot be read"))?;
    if !IMAGES.contains(&target.media_type.as_str()) {
        let kind = shown(&target.media_type);
        return Err(Refused::because(format!("it is about something of type {kind}, not an image")));
    }
    if !subjects.iter().any(|subject| subject.text() == *target.digest) {
        return Err(Refused::because(format!("it is about {}", shown(&target.digest))));
    }
    Ok(())
}
