//! The verdict about the signatures of an image: by the proofs that the catalog has, else by what
//! the registry has.
//!
//! Nothing is asked of an image that no rule names, and nothing of one whose proof the same rule
//! has judged before. A place that cannot be asked is remembered: who does not find the signature
//! then cannot say that there is none.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::{CatalogError, Defect, Error, RegistryError, SignatureError};
use crate::image_ref::ImageRef;
use crate::registry::Registries;
use crate::state::{Candidate, Evidence, TrustStatus, Verdict};
use crate::threads::lock;
use crate::trust::{Demand, Judge, SignedBy};

/// The bytes of new signatures that a run holds until they are noted. Proofs beyond are noted
/// without theirs: another rule then has to ask for them again.
const MAX_HELD: usize = 16 << 20;

/// Whoever gives verdicts about images.
pub(crate) struct Signatures<'a> {
    judge: &'a Judge,
    registries: &'a Registries,
    home: &'a Path,
    /// The catalog, opened once more when a rule first needs one: lookups are not on the thread of
    /// the run.
    proofs: Mutex<Option<Catalog>>,
    /// The bytes of new signatures that are held by now.
    held: AtomicUsize,
    /// The time, in seconds since 1970.
    now: i64,
}

/// The question for the signatures of an image.
#[derive(Clone, Debug)]
pub(crate) struct SignatureQuestion {
    pub(crate) reference: ImageRef,
    /// The digest that the reference means: the index's where there is one, else the manifest's.
    pub(crate) digest: BlobDigest,
    /// The digest of the platform's manifest.
    pub(crate) manifest: BlobDigest,
}

/// The permission to ask the registry for signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// The registry may be asked.
    Granted,
    /// `--offline` forbids it.
    Offline,
    /// The pull policy forbids it.
    NeverPulled,
}

/// The answer of whoever has asked no registry.
pub(crate) enum Judged {
    /// No rule asks for anything.
    NothingWanted,
    /// The verdict.
    Verdict(Verdict),
    /// The registry has to be asked.
    Ask {
        /// The place of the rule that wants it.
        rule: String,
    },
}

impl<'a> Signatures<'a> {
    /// Makes whoever judges by `judge` and by the proofs in the catalog of `home`. Nothing is
    /// opened yet.
    pub(crate) fn new(judge: &'a Judge, registries: &'a Registries, home: &'a Path) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        Self { judge, registries, home, proofs: Mutex::default(), held: AtomicUsize::new(0), now }
    }

    /// Judges an image without its registry.
    pub(crate) fn without_asking(&self, asked: &SignatureQuestion, permission: Permission) -> Judged {
        let refused = |rule: &str, error: Error| {
            let error = Arc::new(error);
            Judged::Verdict(Verdict::Refused { rule: rule.to_owned(), status: TrustStatus::NotAsked, error })
        };
        let signed = match self.judge.demand(&asked.reference) {
            Demand::Nothing => return Judged::NothingWanted,
            Demand::Unsigned { rule } => {
                return Judged::Verdict(Verdict::Accepted { rule: rule.to_owned() });
            }
            Demand::NoRule { rule } => {
                return refused(rule, SignatureError::NoRule { place: rule.to_owned() }.into());
            }
            Demand::Signed(signed) => signed,
        };
        let rule = signed.rule();
        match (self.by_proofs(&signed, asked), permission) {
            (Err(error), _) => refused(rule, error.into()),
            (Ok(Some(verdict)), _) => Judged::Verdict(verdict),
            (Ok(None), Permission::Granted) => Judged::Ask { rule: rule.to_owned() },
            (Ok(None), Permission::Offline) => {
                refused(rule, SignatureError::Offline { rule: rule.to_owned() }.into())
            }
            (Ok(None), Permission::NeverPulled) => {
                refused(rule, SignatureError::NeverPulled { rule: rule.to_owned() }.into())
            }
        }
    }

    /// Looks for a proof that the rule has judged already, or else for one that will do.
    fn by_proofs(
        &self,
        signed: &SignedBy<'_>,
        asked: &SignatureQuestion,
    ) -> Result<Option<Verdict>, CatalogError> {
        let mut opened = lock(&self.proofs);
        if opened.is_none() {
            *opened = Catalog::open_read_only(self.home)?;
        }
        let Some(catalog) = &*opened else { return Ok(None) };
        let mut proofs = catalog.proofs(&asked.digest, &asked.manifest)?;
        let verified = |evidence: Evidence, is_new| {
            let rule = signed.rule().to_owned();
            Some(Verdict::Verified {
                evidence: Arc::new(Evidence { rule: rule.clone(), ..evidence }),
                rule,
                is_new,
            })
        };
        if let Some(known) = proofs.iter().position(|proof| proof.judged_by == signed.fingerprint()) {
            return Ok(verified(proofs.swap_remove(known), false));
        }
        for mut proof in proofs {
            proof.candidates = catalog.signatures(&proof)?;
            if let Some(evidence) = signed.judge_again(&proof, self.now) {
                return Ok(verified(evidence, true));
            }
        }
        Ok(None)
    }

    /// Asks the registry, and judges what it has; where [`Judged::Ask`] was the answer.
    pub(crate) fn ask(&self, asked: &SignatureQuestion) -> Verdict {
        let Demand::Signed(signed) = self.judge.demand(&asked.reference) else {
            let error = Arc::new(Defect::NotLookedUp.into());
            return Verdict::Refused { rule: String::new(), status: TrustStatus::NotAsked, error };
        };
        let rule = signed.rule().to_owned();
        let mut trial = signed.trial(&asked.digest, &asked.manifest, self.now);
        // A signature of the index counts for the platform's manifest, and so does its own.
        let own = (asked.manifest != asked.digest).then_some(&asked.manifest);
        let subjects = [&asked.digest].into_iter().chain(own);
        let mut down: Option<RegistryError> = None;
        for (subject, place) in
            subjects.flat_map(|subject| signed.places().iter().map(move |place| (subject, *place)))
        {
            let mut unread = None;
            let mut message = |digest: &BlobDigest| {
                self.registries.message(&asked.reference, digest).map_err(|error| unread = Some(error)).ok()
            };
            let mut hear = |candidate| {
                trial.hear(candidate, &mut message);
                if trial.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let heard = self.registries.referrers(&asked.reference, subject, place, &mut hear);
            if trial.is_over() {
                break;
            }
            down = down.or(heard.err()).or(unread);
        }
        let found_any = trial.heard() > 0;
        match (trial.finish(), down) {
            (Ok(mut evidence), _) => {
                for candidate in &mut evidence.candidates {
                    // Only an export needs the config, and can do without the signature.
                    let _ = self.registries.complete(&asked.reference, candidate);
                }
                self.hold(&mut evidence);
                Verdict::Verified { rule, evidence: Arc::new(evidence), is_new: true }
            }
            (Err(_), Some(down)) => {
                Verdict::Refused { rule, status: TrustStatus::NotAsked, error: Arc::new(down.into()) }
            }
            (Err(refusal), None) => {
                let status = if found_any { TrustStatus::Refused } else { TrustStatus::Unsigned };
                Verdict::Refused { rule, status, error: Arc::new(refusal.into()) }
            }
        }
    }

    /// Lets go of the signatures of `evidence` where the run holds many.
    fn hold(&self, evidence: &mut Evidence) {
        let size = |candidate: &Candidate| {
            let optional = [&candidate.message, &candidate.config].into_iter().flatten().map(Vec::len);
            candidate.manifest.len() + candidate.blob.len() + optional.sum::<usize>()
        };
        let bytes = evidence.candidates.iter().map(size).sum();
        if self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MAX_HELD {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            evidence.candidates.clear();
        }
    }
}
