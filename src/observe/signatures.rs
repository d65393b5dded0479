//! The verdict about the signatures of an image: by the proofs that the catalog has, else by what
//! the registry has.
//!
//! Nothing is asked of an image that no rule names, and nothing of one whose proof the same rule
//! has judged before. A place that cannot be asked is remembered: who does not find the signature
//! then cannot say that there is none.

use std::collections::BTreeMap;
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
use crate::state::{Candidate, Evidence, Permission, TrustStatus, Verdict};
use crate::threads::lock;
use crate::trust::{Demand, Judge, SignedBy};

/// The bytes of new signatures that a run holds until they are noted. Those of proofs beyond are
/// let go, and looked for once more when they are needed ([`Signatures::whole`]).
const MAX_HELD: usize = 16 << 20;

/// The digests of an image: of its index where there is one, and of its platform's manifest.
type Digests = (BlobDigest, BlobDigest);

/// Whoever gives verdicts about images.
pub(crate) struct Signatures<'a> {
    judge: &'a Judge,
    registries: &'a Registries,
    home: &'a Path,
    /// The catalog, opened once more when a rule first needs one: lookups are not on the thread of
    /// the run.
    proofs: Mutex<Option<Catalog>>,
    /// The proofs that registries have given this run.
    found: Mutex<BTreeMap<Digests, Vec<Arc<Evidence>>>>,
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

impl SignatureQuestion {
    fn digests(&self) -> Digests {
        (self.digest.clone(), self.manifest.clone())
    }
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
        let held = AtomicUsize::new(0);
        Self { judge, registries, home, proofs: Mutex::default(), found: Mutex::default(), held, now }
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
        match (self.by_proofs(&signed, asked, false), permission) {
            (Err(error), _) => refused(rule, error.into()),
            (Ok(Some((mut evidence, is_new))), _) => {
                if is_new {
                    self.hold(&mut evidence);
                }
                Judged::Verdict(verified(evidence, &signed, is_new))
            }
            (Ok(None), Permission::Granted) => Judged::Ask { rule: rule.to_owned() },
            (Ok(None), Permission::Offline) => {
                refused(rule, SignatureError::Offline { rule: rule.to_owned() }.into())
            }
            (Ok(None), Permission::NeverPulled) => {
                refused(rule, SignatureError::NeverPulled { rule: rule.to_owned() }.into())
            }
        }
    }

    /// Looks for a proof that the rule has judged already and that still holds, or else for one
    /// that will do, with its signatures: then it is new. `whole` where only the latter is wanted.
    fn by_proofs(
        &self,
        signed: &SignedBy<'_>,
        asked: &SignatureQuestion,
        whole: bool,
    ) -> Result<Option<(Evidence, bool)>, CatalogError> {
        let mut opened = lock(&self.proofs);
        if opened.is_none() {
            *opened = Catalog::open_read_only(self.home)?;
        }
        let Some(catalog) = &*opened else { return Ok(None) };
        let mut proofs = catalog.proofs(&asked.digest, &asked.manifest)?;
        let is_known =
            |proof: &Evidence| proof.judged_by == signed.fingerprint() && proof.holds(self.now) && !whole;
        if let Some(known) = proofs.iter().position(is_known) {
            return Ok(Some((proofs.swap_remove(known), false)));
        }
        for mut proof in proofs {
            proof.candidates = catalog.signatures(&proof)?;
            if let Some(evidence) = signed.judge_again(&proof, self.now) {
                return Ok(Some((evidence, true)));
            }
        }
        Ok(None)
    }

    /// Judges a refused image again, when the run has asked all registries: a proof is of digests,
    /// so one that was found beside another image counts for this one too, as it would once it is
    /// noted. `None` if there is none.
    pub(crate) fn by_found(&self, asked: &SignatureQuestion) -> Option<Verdict> {
        let Demand::Signed(signed) = self.judge.demand(&asked.reference) else { return None };
        let found = lock(&self.found).get(&asked.digests())?.clone();
        let is_known = |proof: &&Arc<Evidence>| proof.judged_by == signed.fingerprint();
        let evidence = match found.iter().find(is_known) {
            Some(known) => Evidence::clone(known),
            None => found.iter().find_map(|proof| signed.judge_again(proof, self.now))?,
        };
        Some(verified(evidence, &signed, true))
    }

    /// Returns a proof of `asked` that was accepted, with the signatures that this run has let go:
    /// from the catalog, else once more from the registry. `None` if there is no such proof now.
    pub(crate) fn whole(&self, asked: &SignatureQuestion) -> Option<Evidence> {
        let Demand::Signed(signed) = self.judge.demand(&asked.reference) else { return None };
        if let Ok(Some((evidence, _))) = self.by_proofs(&signed, asked, true) {
            return Some(evidence);
        }
        self.ask_registry(&signed, asked).ok()
    }

    /// Asks the registry, and judges what it has; where [`Judged::Ask`] was the answer.
    pub(crate) fn ask(&self, asked: &SignatureQuestion) -> Verdict {
        let Demand::Signed(signed) = self.judge.demand(&asked.reference) else {
            let error = Arc::new(Defect::NotLookedUp.into());
            return Verdict::Refused { rule: String::new(), status: TrustStatus::NotAsked, error };
        };
        match self.ask_registry(&signed, asked) {
            Ok(mut evidence) => {
                self.hold(&mut evidence);
                let verdict = verified(evidence, &signed, true);
                let evidence = verdict.evidence().map(Arc::clone);
                lock(&self.found).entry(asked.digests()).or_default().extend(evidence);
                verdict
            }
            Err((status, error)) => {
                Verdict::Refused { rule: signed.rule().to_owned(), status, error: Arc::new(error) }
            }
        }
    }

    fn ask_registry(
        &self,
        signed: &SignedBy<'_>,
        asked: &SignatureQuestion,
    ) -> Result<Evidence, (TrustStatus, Error)> {
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
                Ok(evidence)
            }
            (Err(_), Some(RegistryError::Stopped)) => Err((TrustStatus::NotAsked, Error::Stopped)),
            (Err(_), Some(down)) => {
                let (rule, source) = (signed.rule().to_owned(), Box::new(down));
                Err((TrustStatus::NotAsked, Error::Signatures { rule, source }))
            }
            (Err(refusal), None) => {
                let status = if found_any { TrustStatus::Refused } else { TrustStatus::Unsigned };
                Err((status, refusal.into()))
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

/// The verdict about an image that the signer of a rule has signed.
fn verified(evidence: Evidence, signed: &SignedBy<'_>, is_new: bool) -> Verdict {
    let rule = signed.rule().to_owned();
    Verdict::Verified { evidence: Arc::new(Evidence { rule: rule.clone(), ..evidence }), rule, is_new }
}
