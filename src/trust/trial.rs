//! The search for the signature of one image, candidate by candidate.

use std::collections::{BTreeMap, BTreeSet};

use super::claim::Role;
use super::finding::Signed;
use super::rule::{Accepted, Rule};
use crate::digest::BlobDigest;
use crate::error::{Finding, SignatureError};
use crate::state::{Candidate, Evidence, MAX_CANDIDATES, SignaturePlace};

/// The signers of whom a trial keeps signatures and provenance, at most.
const MAX_SIGNERS: usize = 4;

/// The trial of one image.
pub(crate) struct Trial<'j> {
    rule: &'j Rule,
    digest: BlobDigest,
    manifest: BlobDigest,
    now: i64,
    /// The first signature of each signer, with the image that cosign 2 was told to sign.
    signatures: Vec<(Candidate, Signed, Option<String>)>,
    /// The first provenance of each signer.
    provenance: Vec<(Candidate, Signed)>,
    findings: Vec<Finding>,
    hint: Option<String>,
    seen: BTreeSet<(BlobDigest, usize)>,
    /// The number of candidates by what they are about and where they were.
    heard_at: BTreeMap<(BlobDigest, SignaturePlace), usize>,
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
            signatures: Vec::new(),
            provenance: Vec::new(),
            findings: Vec::new(),
            hint: None,
            seen: BTreeSet::new(),
            heard_at: BTreeMap::new(),
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
        *self.heard_at.entry((candidate.subject.clone(), candidate.place)).or_default() += 1;
        match self.rule.judge(&candidate, &[&self.digest, &self.manifest], message, self.now) {
            Ok(Accepted { role, signed, named, document }) => {
                candidate.message = document;
                let known: Vec<&Signed> = match role {
                    Role::Signature => self.signatures.iter().map(|(_, known, _)| known).collect(),
                    Role::Provenance => self.provenance.iter().map(|(_, known)| known).collect(),
                };
                if known.len() >= MAX_SIGNERS || known.iter().any(|known| known.signer == signed.signer) {
                    return;
                }
                match role {
                    Role::Signature => self.signatures.push((candidate, signed, named)),
                    Role::Provenance => self.provenance.push((candidate, signed)),
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
        self.found().is_some()
    }

    /// The places of the signature and of its signer's provenance, where that is wanted.
    fn found(&self) -> Option<(usize, Option<usize>)> {
        self.signatures.iter().enumerate().find_map(|(index, (_, signature, _))| {
            if !self.rule.wants_provenance() {
                return Some((index, None));
            }
            let same = |(_, provenance): &(_, Signed)| provenance.signer == signature.signer;
            self.provenance.iter().position(same).map(|provenance| (index, Some(provenance)))
        })
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
        if let Some((signature, provenance)) = self.found() {
            let (signature, signed, named) = self.signatures.swap_remove(signature);
            let provenance = provenance.map(|provenance| self.provenance.swap_remove(provenance).0);
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
                until: signed.until,
                form,
                rule: self.rule.place().to_owned(),
                judged_by: self.rule.fingerprint().to_owned(),
                candidates: std::iter::once(signature).chain(provenance).collect(),
            });
        }
        let has_signature = !self.signatures.is_empty();
        for (signature, signed, _) in self.signatures {
            let reason = "the signature that is wanted, but its provenance is missing".to_owned();
            self.findings.push(Finding { digest: signature.digest, by: Some(signed.by), reason });
        }
        for (provenance, signed) in self.provenance {
            let reason = if has_signature {
                format!("provenance by {}, who has not signed the image", signed.by)
            } else {
                "the provenance that is wanted, but the signature is missing".to_owned()
            };
            self.findings.push(Finding { digest: provenance.digest, by: Some(signed.by), reason });
        }
        let hint = self.hint.or_else(|| {
            let may_have_more = self.heard_at.values().any(|heard| *heard >= MAX_CANDIDATES);
            may_have_more.then(|| {
                format!("only the first {MAX_CANDIDATES} signatures of a place are looked at, and there may be more")
            })
        });
        Err(SignatureError::Refused {
            rule: self.rule.place().to_owned(),
            expected: self.rule.expected(),
            findings: self.findings,
            hint,
        })
    }
}
