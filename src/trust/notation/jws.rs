//! JWS envelopes: JSON in the flattened form (RFC 7515), and nothing but what Notation puts there.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::finding::{Refused, shown};
use super::super::modest::has_few_values;
use super::envelope::{Algorithm, Attributes, Envelope};

/// The values of an envelope, and of its header, at most: one with two dozen attributes has a
/// hundred.
const MAX_VALUES: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flattened {
    payload: String,
    protected: String,
    header: Unprotected,
    signature: String,
}

#[derive(Deserialize)]
struct Unprotected {
    x5c: Vec<String>,
    #[serde(rename = "io.cncf.notary.timestampSignature")]
    timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Protected {
    alg: String,
    cty: Option<String>,
    #[serde(default)]
    crit: Vec<String>,
    #[serde(rename = "io.cncf.notary.signingScheme")]
    scheme: Option<String>,
    #[serde(rename = "io.cncf.notary.signingTime")]
    signing_time: Option<String>,
    #[serde(rename = "io.cncf.notary.authenticSigningTime")]
    authentic_time: Option<IgnoredAny>,
    #[serde(rename = "io.cncf.notary.expiry")]
    expiry: Option<String>,
    #[serde(rename = "io.cncf.notary.verificationPlugin")]
    plugin: Option<String>,
}

/// Reads an envelope.
pub(super) fn read(bytes: &[u8]) -> Result<Envelope, Refused> {
    let modest = |json: &[u8]| has_few_values(json, MAX_VALUES).then_some(()).ok_or_else(unreadable);
    modest(bytes)?;
    let jws: Flattened = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| unreadable());
    let header = decoded(&jws.protected)?;
    modest(&header)?;
    let protected: Protected = serde_json::from_slice(&header).map_err(|_| unreadable())?;
    let algorithm = Algorithm::of_name(&protected.alg)
        .ok_or_else(|| Refused::because(format!("its algorithm {} is unknown", shown(&protected.alg))))?;
    let certificates = jws.header.x5c.iter().map(|text| STANDARD.decode(text));
    let time = |text: &str| {
        text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).map_err(|_| unreadable())
    };
    let signing_time = protected.signing_time.as_deref().map(time).transpose()?;
    Ok(Envelope {
        algorithm,
        signed: format!("{}.{}", jws.protected, jws.payload).into_bytes(),
        signature: decoded(&jws.signature)?,
        payload: decoded(&jws.payload)?,
        chain: certificates.collect::<Result<_, _>>().map_err(|_| unreadable())?,
        timestamp: match jws.header.timestamp {
            Some(text) => Some(STANDARD.decode(text).map_err(|_| unreadable())?),
            None => None,
        },
        attributes: Attributes {
            content_type: protected.cty,
            critical: protected.crit,
            scheme: protected.scheme,
            has_signing_time: signing_time.is_some(),
            has_authentic_time: protected.authentic_time.is_some(),
            expiry: protected.expiry.as_deref().map(time).transpose()?,
            plugin: protected.plugin,
        },
    })
}

fn unreadable() -> Refused {
    Refused::because("it cannot be read as a JWS of Notation")
}
