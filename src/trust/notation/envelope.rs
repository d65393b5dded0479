//! The content of an envelope of Notation, be it JWS or COSE.

use super::super::finding::shown;

/// The names of attributes.
pub(super) const SCHEME: &str = "io.cncf.notary.signingScheme";
pub(super) const SIGNING_TIME: &str = "io.cncf.notary.signingTime";
pub(super) const AUTHENTIC_TIME: &str = "io.cncf.notary.authenticSigningTime";
pub(super) const EXPIRY: &str = "io.cncf.notary.expiry";
pub(super) const PLUGIN: &str = "io.cncf.notary.verificationPlugin";
pub(super) const TIMESTAMP: &str = "io.cncf.notary.timestampSignature";

const PAYLOAD: &str = "application/vnd.cncf.notary.payload.v1+json";

/// An envelope as read: nothing of it is verified.
pub(super) struct Envelope {
    /// The algorithm by which it says to be signed.
    pub(super) algorithm: Algorithm,
    /// The bytes that are signed.
    pub(super) signed: Vec<u8>,
    /// The signature: of ECDSA the two numbers, one after the other.
    pub(super) signature: Vec<u8>,
    /// The payload, which is among the signed bytes.
    pub(super) payload: Vec<u8>,
    /// The attributes, which are among the signed bytes.
    pub(super) attributes: Attributes,
    /// The certificates in DER, the signer's first.
    pub(super) chain: Vec<Vec<u8>>,
    /// The timestamp over the signature, a `TimeStampToken`.
    pub(super) timestamp: Option<Vec<u8>>,
}

/// The signed attributes of an envelope.
#[derive(Default)]
pub(super) struct Attributes {
    /// The media type of the payload.
    pub(super) content_type: Option<String>,
    /// The attributes that have to be understood.
    pub(super) critical: Vec<String>,
    /// The signing scheme.
    pub(super) scheme: Option<String>,
    /// True if the signer says when it signed: its word alone, so nothing follows from it.
    pub(super) has_signing_time: bool,
    /// True if a signing authority says when it signed.
    pub(super) has_authentic_time: bool,
    /// The time after which the signer wants the image no longer used, in seconds since 1970.
    pub(super) expiry: Option<i64>,
    /// The program that would have to verify the signature.
    pub(super) plugin: Option<String>,
}

impl Attributes {
    /// Checks that a verifier without plugins and authorities understands all of them.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.content_type.as_deref() != Some(PAYLOAD) {
            return Err("its payload is of an unknown type".to_owned());
        }
        match self.scheme.as_deref() {
            Some("notary.x509") => {}
            Some("notary.x509.signingAuthority") => {
                return Err("it is a signing authority's (notary.x509.signingAuthority), \
                            which is not supported"
                    .to_owned());
            }
            Some(other) => return Err(format!("its signing scheme {} is unknown", shown(other))),
            None => return Err("it names no signing scheme".to_owned()),
        }
        if let Some(plugin) = &self.plugin {
            return Err(format!("it asks for the verification plugin {}", shown(plugin)));
        }
        if self.has_authentic_time || !self.has_signing_time {
            return Err("its signing time is not what its signing scheme asks for".to_owned());
        }
        if let Some(unknown) = self.critical.iter().find(|name| ![SCHEME, EXPIRY].contains(&name.as_str())) {
            return Err(format!("its critical header {} is unknown", shown(unknown)));
        }
        let marks = |name: &str| self.critical.iter().filter(|marked| *marked == name).count();
        if marks(SCHEME) != 1 || marks(EXPIRY) != usize::from(self.expiry.is_some()) {
            return Err("its critical headers are not those that it has".to_owned());
        }
        Ok(())
    }
}

/// The algorithms of Notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

impl Algorithm {
    const ALL: [Self; 6] = [Self::Es256, Self::Es384, Self::Es512, Self::Ps256, Self::Ps384, Self::Ps512];

    /// The name in JWS.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// Finds an algorithm by its name in JWS.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}
