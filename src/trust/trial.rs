//! The search for the signature of one image, candidate by candidate.

use std::collections::BTreeSet;

use super::claim::Role;
use super::finding::Signed;
use super::rule::{Accepted, Rule};
use crate::digest::BlobDigest;
use crate::error::{Finding, SignatureError};
use crate::state::{Candidate, Evidence};

/// The trial of one image.
pub(crate) struct Trial<'j> {
    rule: &'j Rule,
    digest: BlobDigest,
    manifest: BlobDigest,
    now: i64,
    signature: Option<(Candidate, Signed, Option<String>)>,
    provenance: Option<Candidate>,
    findings: Vec<Finding>,
    hint: Option<String>,
    seen: BTreeSet<(BlobDigest, usize)>,
}

impl<'j> Trial<'j> {
    /// Begins the trial of the image that `digest` means and whose platform's manifest is
    /// `manifest`.
    pub(super) fn new(rule: &'j Rule, digest: &BlobDigest, manifest: &BlobDigest, now: i64) -> Self {
        Self {
            rule,
            digest: digest.clone(),
            manifest: manifest.clone(),
            now,
            signature: None,
            provenance: None,
            findings: Vec::new(),
            hint: None,
            seen: BTreeSet::new(),
        }
    }

    /// Judges a candidate. `message` gets the bytes of the candidate's subject, where the signature
    /// is one of those bytes: `None` if they cannot be had.
    pub(crate) fn hear(
        &mut self,
        mut candidate: Candidate,
        message: &mut dyn FnMut(&BlobDigest) -> Option<Vec<u8>>,
    ) {
        // One artifact may be found in several places.
        if !self.seen.insert((candidate.digest.clone(), candidate.layer)) {
            return;
        }
        match self.rule.judge(&candidate, &[&self.digest, &self.manifest], message, self.now) {
            Ok(Accepted { role, signed, named, document }) => {
                candidate.message = document;
                match role {
                    Role::Signature if self.signature.is_none() => {
                        self.signature = Some((candidate, signed, named));
                    }
                    Role::Provenance if self.provenance.is_none() => self.provenance = Some(candidate),
                    Role::Signature | Role::Provenance => {}
                }
            }
            Err(refused) => {
                self.hint = self.hint.take().or(refused.hint);
                let (by, reason) = (refused.by, refused.reason);
                self.findings.push(Finding { digest: candidate.digest, by, reason });
            }
        }
    }

    /// True if everything that the rule asks for was found.
    pub(crate) fn is_over(&self) -> bool {
        self.signature.is_some() && (self.provenance.is_some() || !self.rule.wants_provenance())
    }

    /// The number of candidates so far.
    pub(crate) fn heard(&self) -> usize {
        self.seen.len()
    }

    /// Ends the trial.
    ///
    /// # Errors
    /// The refusal, with everything that was found.
    pub(crate) fn finish(mut self) -> Result<Evidence, SignatureError> {
        if self.is_over()
            && let Some((signature, signed, named)) = self.signature
        {
            let form = match named {
                Some(named) => format!("{} of {named}", signed.form),
                None => signed.form.to_owned(),
            };
            return Ok(Evidence {
                digest: self.digest,
                manifest: self.manifest,
                by: signed.by,
                issuer: signed.issuer,
                at: signed.at,
                form,
                rule: self.rule.place().to_owned(),
                judged_by: self.rule.fingerprint().to_owned(),
                candidates: std::iter::once(signature).chain(self.provenance).collect(),
            });
        }
        if let Some((signature, signed, _)) = self.signature {
            let reason = "the signature that is wanted, but its provenance is missing".to_owned();
            self.findings.push(Finding { digest: signature.digest, by: Some(signed.by), reason });
        } else if let Some(provenance) = self.provenance {
            let reason = "the provenance that is wanted, but the signature is missing".to_owned();
            self.findings.push(Finding { digest: provenance.digest, by: None, reason });
        }
        Err(SignatureError::Refused {
            rule: self.rule.place().to_owned(),
            expected: self.rule.expected(),
            findings: self.findings,
            hint: self.hint,
        })
    }
}
