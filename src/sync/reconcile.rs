//! From what is desired to what is done: observe, plan, lock, look again, execute.
//!
//! As a rule one plan for all images. While a registry keeps a run waiting, what the others have said is planned and
//! carried out as a part of its own, so that a dead registry costs nobody else's images minutes. Removals come last of
//! all, and not at all where a wanted image is blocked or has failed: only who has everything that is wanted knows what
//! is not needed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Applied, Failure, Loaded, STALE_DOWNLOAD, Session};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::execute::{Executor, Outcome};
use crate::image_ref::ImageRef;
use crate::observe::{Ended, Observer};
use crate::plan::{self, Plan};
use crate::progress::Event;
use crate::registry::Registries;
use crate::state::{Action, Desired, Observed, RecordedImage, Settings};
use crate::store::{self, Store};

/// What a run works with.
pub(super) struct Means<'a> {
    pub(super) registries: &'a Registries,
    pub(super) settings: &'a Settings,
    pub(super) offline: bool,
    /// The images file, if there is one.
    pub(super) loaded: Option<&'a Loaded>,
}

/// What earlier parts of a run have done.
#[derive(Default)]
struct Earlier {
    plan: Plan,
    outcome: Outcome,
    /// Whom they took care of.
    images: BTreeSet<ImageRef>,
    /// What is recorded of those now; `None`: nothing.
    recorded: BTreeMap<ImageRef, Option<RecordedImage>>,
    /// Layers that they would have removed.
    released: BTreeSet<BlobDigest>,
}

impl Session {
    /// Plans the way from what is to `desired`; nothing is changed.
    pub(super) fn show_plan(&self, desired: &Desired, means: &Means<'_>) -> Result<Plan, Failure> {
        let catalog = Catalog::open_read_only(&self.catalog_path())?;
        let mut observer = self.observer(desired, means, catalog.as_ref());
        // A plan can be shown by the lockfile's word alone.
        observer.locked_too = false;
        let mut observed = observer.observe(desired)?;
        self.look_at_other_homes(desired, &mut observed, true)?;
        Ok(plan::plan(desired, &observed))
    }

    /// Makes what is as `desired`, in parts while a registry keeps the run waiting.
    pub(super) fn reconcile(&self, desired: &Desired, means: &Means<'_>) -> Result<Applied, Failure> {
        let catalog = Catalog::open_read_only(&self.catalog_path())?;
        let mut earlier = Earlier::default();
        let mut failure = None;
        let observed = self.observer(desired, means, catalog.as_ref()).observe_in_parts(
            desired,
            &mut |desired, observed, ended| {
                if failure.is_none()
                    && let Err(error) = self.part(desired, observed, ended, means, &mut earlier)
                {
                    failure = Some(error);
                    // Nobody needs the other lookups any more.
                    means.registries.stop();
                }
            },
        );
        drop(catalog);
        let rest = match (failure, observed) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(observed)) => self.rest(desired, observed, means, &mut earlier),
        };
        match rest {
            // What was done by then is worth telling.
            Err(Failure::Error(Error::Stopped)) if !earlier.images.is_empty() => {
                earlier.outcome.stopped = true;
            }
            Err(Failure::Error(error)) if !earlier.images.is_empty() => {
                earlier.outcome.failure.get_or_insert(Arc::new(error));
            }
            other => other?,
        }
        Ok(Applied {
            plan: earlier.plan,
            outcome: earlier.outcome,
            requests: means.registries.requests(),
            layers: desired.layers_directory.clone(),
        })
    }

    /// Does what can be done of `desired` until the other lookups have `ended`, but for removals.
    fn part(
        &self,
        desired: &Desired,
        mut observed: Observed,
        ended: Ended<'_>,
        means: &Means<'_>,
        earlier: &mut Earlier,
    ) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        earlier.tell(&mut observed);
        let mut plan = plan::plan(desired, &observed).without(&earlier.images);
        plan.take_removals();
        if !plan.is_empty() {
            self.carry_out(desired, observed, means, earlier, Some(ended))?;
        }
        Ok(())
    }

    /// Does what earlier parts have not done.
    fn rest(
        &self,
        desired: &Desired,
        mut observed: Observed,
        means: &Means<'_>,
        earlier: &mut Earlier,
    ) -> Result<(), Failure> {
        earlier.tell(&mut observed);
        self.look_at_other_homes(desired, &mut observed, true)?;
        let plan = plan::plan(desired, &observed).without(&earlier.images);
        if !plan.is_empty() {
            return self.carry_out(desired, observed, means, earlier, None);
        }
        let outcome = self.report_unchanged(&plan);
        earlier.add(plan, outcome);
        Ok(())
    }

    /// Plans again under the lock and executes. What is only a part of the run removes nothing, and begins nothing
    /// more once all lookups have ended.
    fn carry_out(
        &self,
        desired: &Desired,
        mut observed: Observed,
        means: &Means<'_>,
        earlier: &mut Earlier,
        part_until: Option<Ended<'_>>,
    ) -> Result<(), Failure> {
        let layers = &desired.layers_directory;
        // The home first: it is nobody else's, whatever the mode of the layers in it.
        store::make_directory(&self.home, store::PRIVATE_MODE)?;
        store::make_directory(layers, means.settings.layers_mode)?;
        let _locks = self.lock([layers.as_path()])?;
        let mut catalog = Catalog::open(&self.catalog_path())?;
        let store = Store::open(layers, &self.downloads_path())?;
        store.claim(&self.home)?;
        self.tell_left(&store.recover()?.left);
        // Whoever had the lock may have done some of this already, and may know newer things.
        let observer = self.observer(desired, means, Some(&catalog));
        let differ = self.rebind(&store, &observed)?;
        if observer.look_again(desired, &mut observed)? || differ {
            if part_until.is_some() {
                // Asking again may take long: that is for the rest.
                return Ok(());
            }
            observed = observer.observe(desired)?;
        }
        observer.distrust_unbound(desired, &mut observed);
        earlier.tell_deeds(&mut observed);
        self.look_at_other_homes(desired, &mut observed, false)?;
        let mut plan = plan::plan(desired, &observed).without(&earlier.images);
        // With very many images that is much memory, and a run may take hours.
        drop(observed);
        let released = if part_until.is_some() { plan.take_removals() } else { Vec::new() };
        if part_until.is_none() {
            self.tell_left(&store.sweep_downloads(STALE_DOWNLOAD, &|digest| {
                plan.fetches.iter().any(|fetch| fetch.digest == *digest)
            })?);
        }
        let mut executor = Executor {
            registries: means.registries,
            store: &store,
            catalog: &mut catalog,
            owner: &desired.owner,
            downloads: means.settings.downloads,
            jobs: self.jobs(),
            ownership: means.settings.ownership,
            limits: means.settings.limits,
            reporter: &*self.reporter,
            cancel: &self.cancel,
            enough: part_until.unwrap_or(&|| false),
        };
        let mut outcome = executor.execute(&plan)?;
        if part_until.is_none() {
            self.remove_last(desired, means, &mut executor, &mut plan, &mut outcome);
        } else {
            let left = outcome.take_unfinished();
            plan = plan.without(&left);
            let names: Vec<ImageRef> = plan.images.iter().flat_map(|image| image.names.clone()).collect();
            let mut rows: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), None)).collect();
            let now = catalog.recorded(&names)?;
            rows.extend(now.into_iter().map(|row| (row.reference.clone(), Some(row))));
            earlier.recorded.extend(rows);
            earlier.released.extend(released);
        }
        earlier.add(plan, outcome);
        Ok(())
    }

    /// Removes what is not wanted any more, if everything that is wanted is here, and the images file still says so.
    fn remove_last(
        &self,
        desired: &Desired,
        means: &Means<'_>,
        executor: &mut Executor<'_>,
        plan: &mut Plan,
        outcome: &mut Outcome,
    ) {
        if outcome.failed() > 0 && !outcome.stopped {
            plan.hold_removals();
        } else if desired.prune
            && let Some(loaded) = means.loaded
        {
            if let Some(listed) = self.listed_meanwhile(loaded, desired) {
                plan.spare(&listed);
            } else {
                plan.hold_removals();
                if plan.waiting().next().is_some() {
                    let text = format!("{} has changed and cannot be used: nothing is removed", loaded.name);
                    self.reporter.report(Event::Warning(text));
                }
            }
        }
        executor.remove(plan, outcome);
    }

    fn observer<'a>(
        &'a self,
        desired: &'a Desired,
        means: &Means<'a>,
        catalog: Option<&'a Catalog>,
    ) -> Observer<'a> {
        Observer {
            registries: means.registries,
            catalog,
            layers: &desired.layers_directory,
            parallel: means.settings.downloads,
            offline: means.offline,
            locked_too: true,
            reporter: &*self.reporter,
            cancel: &self.cancel,
        }
    }

    fn report_unchanged(&self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.waiting.extend(plan.waiting().cloned());
        for image in plan.images.iter().filter(|image| !image.waits) {
            let error = image.error.clone();
            let (reference, action, reason) = (image.reference.clone(), image.action, image.reason.clone());
            outcome.images.push((reference.clone(), action, error.clone()));
            self.reporter.report(Event::Image { reference, action, reason, error });
        }
        outcome
    }
}

impl Earlier {
    /// Takes note, in what was observed at the start, of what was recorded since. What others have changed meanwhile
    /// has to come out under the lock.
    fn tell(&self, observed: &mut Observed) {
        for (name, row) in &self.recorded {
            match row {
                Some(row) => observed.recorded.insert(name.clone(), row.clone()),
                None => observed.recorded.remove(name),
            };
        }
        self.tell_deeds(observed);
    }

    /// Takes note of what became of the parts.
    fn tell_deeds(&self, observed: &mut Observed) {
        observed.released.clone_from(&self.released);
        observed.failed = self.outcome.failed() > 0;
    }

    fn add(&mut self, plan: Plan, outcome: Outcome) {
        let taken_care_of = plan.images.iter().filter(|image| image.action != Action::Remove);
        self.images.extend(taken_care_of.map(|image| image.reference.clone()));
        self.plan.append(plan);
        self.outcome.append(outcome);
    }
}
