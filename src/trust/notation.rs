//! Notation's signatures: JWS and COSE, below a root of one's own.

use super::finding::{Refused, Signed};
use crate::digest::BlobDigest;
use crate::state::Candidate;

/// The media types of layers that hold such a signature.
pub(super) const MEDIA_TYPES: [&str; 2] = ["application/jose+json", "application/cose"];

/// Root certificates of an owner's own.
pub(super) struct Roots {}

impl Roots {
    /// Reads PEM certificates; the error says what is wrong, without the content.
    pub(super) fn parse(_pem: &[u8]) -> Result<Self, String> {
        Ok(Self {})
    }

    /// The bytes by which roots are compared, whatever is around them in their file: the
    /// certificates, in an order of their own.
    pub(super) fn canonical(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// The attributes that the subject of a signer's certificate has to have: `O=Acme,CN=*`.
pub(super) struct Subject {}

impl Subject {
    /// Reads a list of attributes; the error says what is wrong.
    pub(super) fn parse(_text: &str) -> Result<Self, String> {
        Ok(Self {})
    }
}

/// Judges a candidate whose layer is of one of [`MEDIA_TYPES`] (`media_type`). The signature has to
/// be of one of `subjects`: the digests of the image's index and of its platform's manifest.
pub(super) fn judge(
    _candidate: &Candidate,
    _media_type: &str,
    _subjects: &[&BlobDigest],
    _roots: &Roots,
    _subject: &Subject,
    _now: i64,
) -> Result<Signed, Refused> {
    Err(Refused::because("signatures of Notation cannot be judged yet"))
}
