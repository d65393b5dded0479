//! Trust: whether the right signer has signed an image.
//!
//! A pure room: bytes, rules, keys, roots and a clock's word in, a verdict with evidence out. The
//! caller reads the files that [`TrustPolicy::files`] names, and brings what the registry has
//! ([`Candidate`]s, one at a time).
//!
//! ```text
//! Judge::new(policy, files) ── demand(reference) ──> Demand::Signed(SignedBy) ── trial ──> Trial
//!                                                                     hear(candidate) … finish()
//! ```

#![expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    clippy::unnecessary_literal_bound,
    reason = "the room is being furnished"
)]

mod artifact;
mod finding;
mod notation;
mod pattern;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::digest::BlobDigest;
use crate::error::{SignatureError, TrustFileError};
use crate::image_ref::ImageRef;
use crate::state::{Candidate, Evidence, SignaturePlace, TrustPolicy};

/// Whoever judges signatures by the rules of one images file.
pub(crate) struct Judge {}

impl Judge {
    /// Makes a judge of rules and of the files that they name, read.
    ///
    /// # Errors
    /// A file that is not among `files`, or is not what the rule takes it for.
    pub(crate) fn new(
        _policy: &TrustPolicy,
        _files: &BTreeMap<PathBuf, Vec<u8>>,
    ) -> Result<Self, TrustFileError> {
        Ok(Self {})
    }

    /// Says what the first rule that names `reference` asks for.
    pub(crate) fn demand(&self, _reference: &ImageRef) -> Demand<'_> {
        Demand::Nothing
    }
}

/// The word of an images file about the signature of one image.
pub(crate) enum Demand<'j> {
    /// No rule names the image, and it needs no signature.
    Nothing,
    /// A rule accepts the image without a signature.
    Unsigned {
        /// The place of the rule.
        rule: &'j str,
    },
    /// No rule names the image, and it would need one.
    NoRule {
        /// The place of `unsigned = "refuse"`.
        rule: &'j str,
    },
    /// The image has to be signed.
    Signed(SignedBy<'j>),
}

/// The signature that a rule asks for.
pub(crate) struct SignedBy<'j> {
    rule: &'j str,
}

impl SignedBy<'_> {
    /// The place of the rule.
    pub(crate) fn rule(&self) -> &str {
        self.rule
    }

    /// The fingerprint of the rule's content, its keys and roots: two rules that judge alike have
    /// the same one, wherever they stand.
    pub(crate) fn fingerprint(&self) -> &str {
        ""
    }

    /// The places where the registry may have such a signature, in the order in which they are
    /// best asked.
    pub(crate) fn places(&self) -> &[SignaturePlace] {
        &[]
    }

    /// Begins to judge the image that `digest` means (an index's digest where there is one) and
    /// whose platform's manifest is `manifest`; `now` is in seconds since 1970.
    pub(crate) fn trial(&self, _digest: &BlobDigest, _manifest: &BlobDigest, _now: i64) -> Trial<'_> {
        Trial { rule: self.rule }
    }

    /// Judges evidence that was judged by another rule or root, without a registry: `None` if it
    /// will not do.
    pub(crate) fn judge_again(&self, _evidence: &Evidence, _now: i64) -> Option<Evidence> {
        None
    }
}

/// The search for the signature of one image, candidate by candidate.
pub(crate) struct Trial<'j> {
    rule: &'j str,
}

impl Trial<'_> {
    /// Judges a candidate. `message` gets the bytes of the candidate's subject, where the signature
    /// is one of those bytes: `None` if they cannot be had.
    pub(crate) fn hear(
        &mut self,
        _candidate: Candidate,
        _message: &mut dyn FnMut(&BlobDigest) -> Option<Vec<u8>>,
    ) {
    }

    /// True if everything that the rule asks for was found.
    pub(crate) fn is_over(&self) -> bool {
        false
    }

    /// The number of candidates so far.
    pub(crate) fn heard(&self) -> usize {
        0
    }

    /// Ends the trial.
    ///
    /// # Errors
    /// The refusal, with everything that was found.
    pub(crate) fn finish(self) -> Result<Evidence, SignatureError> {
        Err(SignatureError::Refused {
            rule: self.rule.to_owned(),
            expected: String::new(),
            findings: Vec::new(),
            hint: None,
        })
    }
}
