//! Runs in parts while a registry is silent: the whole story is here.
//!
//! Usually a run has one plan for all images. But a registry that is down is given up after
//! minutes, and must not cost everybody else's images that time. So while no lookup ends for a
//! while ([`Registries::lookup_patience`]), the observer hands over everything resolved so far, and
//! a part of the run carries that out. What stays is for the rest of the run
//! ([`reconcile`](super::reconcile)), once everything is known. A part
//!
//! - removes nothing: only who has everything that is wanted knows what is not needed any more. The
//!   layers that it would have removed are remembered ([`Observed::released`]), and so is that an
//!   image failed ([`Observed::failed`]);
//! - asks no registry again, also where another process has changed what is recorded: that may take
//!   long;
//! - begins no more blobs once all lookups have ended, and leaves the images that need them to the
//!   rest ([`Outcome::take_unfinished`]).
//!
//! Several parts and the rest are one plan and one outcome in the end ([`Plan::append`],
//! [`Outcome::append`]).
//!
//! [`Registries::lookup_patience`]: crate::registry::Registries::lookup_patience

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::neighbours::look_at_other_homes;
use super::run::{LockedRun, Run};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::execute::Outcome;
use crate::image_ref::ImageRef;
use crate::observe::AllAnswered;
use crate::plan::{self, Plan};
use crate::progress::Reporter;
use crate::state::{Action, Observed, RecordedImage};
use crate::sync::verb_error::VerbError;

/// The deeds of the parts of a run that were carried out so far.
#[derive(Default)]
pub(crate) struct DoneSoFar {
    plan: Plan,
    outcome: Outcome,
    /// The images that they took care of.
    images: BTreeSet<ImageRef>,
    /// The rows of those images now; `None`: there is none.
    recorded: BTreeMap<ImageRef, Option<RecordedImage>>,
    /// The layers that they would have removed.
    released: BTreeSet<BlobDigest>,
}

/// Observes everything that `run` is about, and carries out parts of it while lookups stall.
pub(crate) fn observe_in_parts(
    run: Run<'_>,
    catalog: Option<&Catalog>,
    done: &mut DoneSoFar,
) -> Result<Observed, VerbError> {
    let mut failure = None;
    let observed =
        run.observer(catalog).observe_in_parts(run.desired, &mut |desired, observed, all_answered| {
            if failure.is_none()
                && let Err(error) = carry_out_part(Run { desired, ..run }, observed, all_answered, done)
            {
                failure = Some(error);
                // Nobody needs the other lookups any more.
                run.registries.stop();
            }
        });
    match failure {
        Some(failure) => Err(failure),
        None => Ok(observed?),
    }
}

/// Carries out what `part` wants, but for removals, until the other lookups have ended.
fn carry_out_part(
    part: Run<'_>,
    mut observed: Observed,
    all_answered: AllAnswered<'_>,
    done: &mut DoneSoFar,
) -> Result<(), VerbError> {
    if part.session.cancel.is_cancelled() {
        return Ok(());
    }
    done.update(&mut observed);
    let mut plan = done.plan_rest(part, &observed);
    plan.take_removals();
    if plan.is_empty() {
        return Ok(());
    }
    let mut locked = LockedRun::lock(part)?;
    if locked.look_again(&mut observed)? {
        return Ok(());
    }
    let mut plan = done.plan_locked(part, &locked, observed)?;
    let released = plan.take_removals();
    let mut outcome = locked.executor(all_answered).execute(&plan)?;
    locked.keep_signatures(&plan);
    let plan = plan.without(&outcome.take_unfinished());
    let names: Vec<ImageRef> = plan.images.iter().flat_map(|image| image.names.clone()).collect();
    let rows = locked.catalog.recorded(&names)?;
    done.recorded.extend(names.into_iter().map(|name| (name, None)));
    done.recorded.extend(rows.into_iter().map(|row| (row.reference.clone(), Some(row))));
    done.released.extend(released);
    done.add(plan, outcome, &*part.session.reporter);
    Ok(())
}

impl DoneSoFar {
    /// Puts into what was observed at the start what was recorded since. What others have changed
    /// meanwhile has to come out under the lock.
    pub(crate) fn update(&self, observed: &mut Observed) {
        for (name, row) in &self.recorded {
            match row {
                Some(row) => observed.recorded.insert(name.clone(), row.clone()),
                None => observed.recorded.remove(name),
            };
        }
        self.tell_outcome(observed);
    }

    /// Tells the planner what became of the parts.
    fn tell_outcome(&self, observed: &mut Observed) {
        observed.released.clone_from(&self.released);
        observed.failed = self.outcome.failed() > 0;
    }

    /// Plans what the parts have not done.
    pub(crate) fn plan_rest(&self, run: Run<'_>, observed: &Observed) -> Plan {
        plan::plan(run.desired, observed).without(&self.images)
    }

    /// Plans, inside the lock, what the parts have not done.
    pub(crate) fn plan_locked(
        &self,
        run: Run<'_>,
        locked: &LockedRun<'_>,
        mut observed: Observed,
    ) -> Result<Plan, VerbError> {
        locked.distrust_unbound(&mut observed);
        self.tell_outcome(&mut observed);
        look_at_other_homes(run.session, run.desired, &mut observed, false)?;
        // The observations are much memory with very many images, and a run may take hours: it ends
        // here.
        Ok(self.plan_rest(run, &observed))
    }

    /// Adds what was carried out now.
    pub(crate) fn add(&mut self, plan: Plan, outcome: Outcome, reporter: &dyn Reporter) {
        let taken_care_of = plan.images.iter().filter(|image| image.action != Action::Remove);
        self.images.extend(taken_care_of.map(|image| image.reference.clone()));
        self.plan.append(plan);
        self.outcome.append(outcome, reporter);
    }

    /// Ends the run. What was done by then is worth telling also if `rest` failed.
    pub(crate) fn finish(
        mut self,
        rest: Result<(), VerbError>,
        reporter: &dyn Reporter,
    ) -> Result<(Plan, Outcome), VerbError> {
        match rest {
            Err(VerbError::Error(Error::Stopped)) if !self.images.is_empty() => {
                self.outcome.stopped = true;
            }
            Err(VerbError::Error(error)) if !self.images.is_empty() => {
                self.outcome.fail(Arc::new(error), reporter);
            }
            other => other?,
        }
        Ok((self.plan, self.outcome))
    }
}
