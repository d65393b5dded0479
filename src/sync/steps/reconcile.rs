//! From what is wanted to what is done: observe, plan, lock, look again, execute.
//!
//! Removals come last of all, and not at all where a wanted image is blocked or has failed: only
//! who has everything that is wanted knows what is not needed any more.

use std::time::Duration;

use super::catch_up::catch_up;
use super::desire::listed_meanwhile;
use super::neighbours::look_at_other_homes;
use super::parts::{DoneSoFar, observe_in_parts};
use super::run::{LockedRun, Run};
use crate::catalog::Catalog;
use crate::execute::{Executor, Outcome};
use crate::plan::{self, Plan, PlannedImage, Wait};
use crate::state::{Action, Observed};
use crate::store;
use crate::sync::verb_error::VerbError;

/// Partial downloads that no run has touched for so long, and that are not wanted now, are removed.
const STALE_DOWNLOAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Plans the way from what is to what is wanted; nothing is changed.
pub(crate) fn show(run: Run<'_>) -> Result<Plan, VerbError> {
    let catalog = Catalog::open_read_only(&run.session.home)?;
    let mut observer = run.observer(catalog.as_ref());
    // A plan can be shown by the lockfile's word alone.
    observer.locked_too = false;
    let mut observed = observer.observe(run.desired)?;
    look_at_other_homes(run.session, run.desired, &mut observed, true)?;
    Ok(plan::plan(run.desired, &observed))
}

/// Makes what is as it is wanted, in parts while a registry keeps the run waiting.
pub(crate) fn reconcile(run: Run<'_>) -> Result<(Plan, Outcome), VerbError> {
    let catalog = Catalog::open_read_only(&run.session.home)?;
    let mut done = DoneSoFar::default();
    let observed = observe_in_parts(run, catalog.as_ref(), &mut done);
    drop(catalog);
    let rest = observed.and_then(|observed| finish(run, observed, &mut done));
    done.finish(rest, &*run.session.reporter)
}

/// Does what no part has done, if there is something; else nothing is locked or written.
fn finish(run: Run<'_>, mut observed: Observed, done: &mut DoneSoFar) -> Result<(), VerbError> {
    done.update(&mut observed);
    look_at_other_homes(run.session, run.desired, &mut observed, true)?;
    let plan = done.plan_rest(run, &observed);
    if plan.is_empty() {
        let outcome = report_unchanged(run, &plan);
        done.add(plan, outcome, &*run.session.reporter);
        return catch_up(run.session, [&*run.desired.layers_directory]);
    }
    drop(plan);
    carry_out(run, observed, done)
}

/// Plans again inside the lock, and executes.
fn carry_out(run: Run<'_>, mut observed: Observed, done: &mut DoneSoFar) -> Result<(), VerbError> {
    let mut locked = LockedRun::lock(run)?;
    if locked.look_again(&mut observed)? {
        observed = locked.observe_again()?;
    }
    let mut plan = done.plan_locked(run, &locked, observed)?;
    let left = store::sweep_downloads(&locked.store, STALE_DOWNLOAD, &|digest| {
        plan.fetches.iter().any(|fetch| fetch.digest() == digest)
    })?;
    run.session.warn_of_left(&left);
    let mut executor = locked.executor(&|| false);
    let mut outcome = executor.execute(&plan)?;
    remove_last(run, &mut executor, &mut plan, &mut outcome);
    locked.keep_signatures(&plan);
    done.add(plan, outcome, &*run.session.reporter);
    Ok(())
}

/// Removes what is not wanted any more, if everything that is wanted is here, and the images file
/// still says so.
fn remove_last(run: Run<'_>, executor: &mut Executor<'_>, plan: &mut Plan, outcome: &mut Outcome) {
    if outcome.failed() > 0 && !outcome.stopped {
        plan.hold_removals(&Wait::Images);
    } else if run.desired.prune
        && let Some(loaded) = run.loaded
    {
        if let Some(listed) = listed_meanwhile(run.session, loaded, run.desired) {
            plan.spare(&listed);
        } else {
            plan.hold_removals(&Wait::ImagesFile);
            if plan.waiting().next().is_some() {
                run.session
                    .warn(format!("{} has changed and cannot be used: nothing is removed", loaded.name));
            }
        }
    }
    executor.remove(plan, outcome);
}

/// Tells that nothing was to be done.
fn report_unchanged(run: Run<'_>, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.note_waiting(plan);
    let waits = |image: &&PlannedImage| image.waits.is_some() && image.action == Action::Remove;
    for image in plan.images.iter().filter(|image| !waits(image)) {
        let error = image.error().cloned();
        outcome.images.push((image.reference.clone(), image.action, error.clone()));
        run.session.reporter.report(image.event(error));
    }
    outcome
}
