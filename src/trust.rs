//! Trust: whether the right signer has signed an image.
//!
//! A pure room: bytes, rules, keys, roots and a clock's word in, a verdict with evidence out. The
//! caller reads the files that [`TrustPolicy::files`] names, and brings what the registry has
//! ([`Candidate`](crate::state::Candidate)s, one at a time).
//!
//! ```text
//! Judge::new(policy, files) ── demand(reference) ──> Demand::Signed(SignedBy) ── trial ──> Trial
//!                                                                     hear(candidate) … finish()
//! ```
//!
//! `claim` reads the forms of Sigstore, `signer` verifies them by keys and certificates, `notation`
//! does both for its own. The cryptography is that of the packages: `crypto` gives them ring. Two
//! of them look at the machine's clock too: a log entry or a timestamp from the future is refused.

mod annotations;
mod artifact;
mod claim;
mod crypto;
mod finding;
mod holder;
mod key;
mod modest;
mod notation;
mod pem;
mod root;
mod rule;
mod signer;
mod trial;

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::root::BUILT_IN_ROOT_DATE;
use self::root::Root;
use self::rule::Rule;
pub(crate) use self::trial::Trial;
use crate::digest::BlobDigest;
use crate::error::TrustFileError;
use crate::image_ref::ImageRef;
use crate::state::{Evidence, SignaturePlace, SigstoreRoot, TrustPolicy};

/// The judge of signatures by the rules of one images file.
pub(crate) struct Judge {
    rules: Vec<Rule>,
    refuses_unsigned: Option<String>,
}

impl Judge {
    /// Makes a judge of rules and of the files that they name, read.
    ///
    /// # Errors
    /// A file that is not among `files`, or is not what the rule takes it for.
    pub(crate) fn new(
        policy: &TrustPolicy,
        files: &BTreeMap<PathBuf, Vec<u8>>,
    ) -> Result<Self, TrustFileError> {
        // Read where a rule asks for it; a file that is named is read in any case.
        let loaded: OnceCell<Arc<Root>> = OnceCell::new();
        let root = || {
            if let Some(root) = loaded.get() {
                return Ok(Arc::clone(root));
            }
            let file = match &policy.trusted_root {
                None => None,
                Some(path) => match files.get(path) {
                    Some(bytes) => Some((path.as_path(), bytes.as_slice())),
                    None => {
                        return Err(TrustFileError {
                            path: path.clone(),
                            rule: "trusted-root".to_owned(),
                            reason: "it was not read".to_owned(),
                            hint: None,
                        });
                    }
                },
            };
            Ok(Arc::clone(loaded.get_or_init({
                let root = Arc::new(Root::load(file)?);
                || root
            })))
        };
        if policy.trusted_root.is_some() {
            root()?;
        }
        let rules = policy.rules.iter().map(|rule| Rule::new(rule, files, &root));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            refuses_unsigned: policy.refuses_unsigned.clone(),
        })
    }

    /// Says what the first rule that names `reference` asks for.
    pub(crate) fn demand(&self, reference: &ImageRef) -> Demand<'_> {
        match self.rules.iter().find(|rule| rule.names(reference)) {
            Some(rule) if rule.accepts_unsigned() => Demand::Unsigned { rule: rule.place() },
            Some(rule) => Demand::Signed(SignedBy { rule }),
            None => match &self.refuses_unsigned {
                Some(rule) => Demand::NoRule { rule },
                None => Demand::Nothing,
            },
        }
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
    rule: &'j Rule,
}

impl<'j> SignedBy<'j> {
    /// The place of the rule.
    pub(crate) fn rule(&self) -> &'j str {
        self.rule.place()
    }

    /// The fingerprint of the rule's content, its keys and roots: two rules that judge alike have
    /// the same one, wherever they stand.
    pub(crate) fn fingerprint(&self) -> &'j str {
        self.rule.fingerprint()
    }

    /// The places where the registry may have such a signature, in the order in which they are
    /// best asked.
    pub(crate) fn places(&self) -> &'static [SignaturePlace] {
        self.rule.places()
    }

    /// Begins to judge the image that `digest` means (an index's digest where there is one) and
    /// whose platform's manifest is `manifest`; `now` is in seconds since 1970.
    pub(crate) fn trial(&self, digest: &BlobDigest, manifest: &BlobDigest, now: i64) -> Trial<'j> {
        Trial::new(self.rule, digest, manifest, now)
    }

    /// Judges evidence that was judged by another rule or root, without a registry: `None` if it
    /// will not do.
    pub(crate) fn judge_again(&self, evidence: &Evidence, now: i64) -> Option<Evidence> {
        let mut trial = self.trial(&evidence.digest, &evidence.manifest, now);
        for candidate in &evidence.candidates {
            trial.hear(candidate.clone(), &mut |_| None);
        }
        trial.finish().ok()
    }
}

/// Lists the keys and certificates of the trusted root in use; `file` is the one that an images
/// file names, read.
///
/// # Errors
/// A file that is no trusted root.
pub(crate) fn sigstore_root(file: Option<(&Path, &[u8])>) -> Result<SigstoreRoot, TrustFileError> {
    Ok(Root::load(file)?.list())
}
