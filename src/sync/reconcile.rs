//! From what is desired to what is done: observe, plan, lock, look again, execute.
//!
//! As a rule one plan for all images. While a registry keeps a run waiting, what the others have said is planned and
//! carried out as a part of its own, so that a dead registry costs nobody else's images minutes. Removals come last of
//! all: only who knows everything that is wanted knows what is not.

use std::collections::BTreeSet;

use super::{Applied, Failure, STALE_DOWNLOAD, Session};
use crate::catalog::Catalog;
use crate::digest::BlobDigest;
use crate::error::Error;
use crate::execute::{Executor, Outcome};
use crate::image_ref::ImageRef;
use crate::observe::Observer;
use crate::plan::{self, Plan};
use crate::progress::Event;
use crate::registry::Registries;
use crate::state::{Action, Desired, Observed, Settings};
use crate::store::Store;

/// What a run works with.
struct Means<'a> {
    registries: &'a Registries,
    settings: &'a Settings,
    offline: bool,
}

/// What earlier parts of a run have done.
#[derive(Default)]
struct Earlier {
    plan: Plan,
    outcome: Outcome,
    /// Whom they took care of.
    images: BTreeSet<ImageRef>,
    /// What they would have removed.
    layers_to_remove: Vec<BlobDigest>,
}

impl Session {
    /// Shows the way from what is to `desired`.
    pub(super) fn show_plan(
        &self,
        desired: &Desired,
        registries: &Registries,
        settings: &Settings,
        offline: bool,
    ) -> Result<Plan, Failure> {
        let catalog = Catalog::open_read_only(&self.catalog_path())?;
        let means = Means { registries, settings, offline };
        let mut observed = self.observer(desired, &means, catalog.as_ref()).observe(desired)?;
        self.look_at_other_homes(desired, &mut observed)?;
        Ok(plan::plan(desired, &observed))
    }

    /// Goes it.
    pub(super) fn reconcile(
        &self,
        desired: &Desired,
        registries: &Registries,
        settings: &Settings,
        offline: bool,
    ) -> Result<Applied, Failure> {
        let means = Means { registries, settings, offline };
        let catalog = Catalog::open_read_only(&self.catalog_path())?;
        let mut earlier = Earlier::default();
        let mut failure = None;
        let observed = self.observer(desired, &means, catalog.as_ref()).observe_in_parts(
            desired,
            &mut |desired, observed| {
                if failure.is_none()
                    && let Err(error) = self.part(desired, observed, &means, &mut earlier)
                {
                    failure = Some(error);
                    // Nobody needs the other lookups any more.
                    registries.stop();
                }
            },
        );
        drop(catalog);
        if let Some(failure) = failure {
            return Err(failure);
        }
        match observed {
            Ok(observed) => self.rest(desired, observed, &means, &mut earlier)?,
            // What was done by then is worth telling.
            Err(Error::Stopped) if !earlier.images.is_empty() => earlier.outcome.stopped = true,
            Err(error) => return Err(error.into()),
        }
        Ok(Applied {
            plan: earlier.plan,
            outcome: earlier.outcome,
            requests: registries.requests(),
            layers: desired.layers_directory.clone(),
        })
    }

    /// Does what can be done of `desired` while other lookups go on, but for removals.
    fn part(
        &self,
        desired: &Desired,
        mut observed: Observed,
        means: &Means<'_>,
        earlier: &mut Earlier,
    ) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        self.catch_up(desired, &mut observed, means, earlier)?;
        self.look_at_other_homes(desired, &mut observed)?;
        let mut plan = plan::plan(desired, &observed).without(&earlier.images);
        plan.take_removals();
        if !plan.is_empty() {
            self.carry_out(desired, observed, means, earlier, true)?;
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
        self.catch_up(desired, &mut observed, means, earlier)?;
        self.look_at_other_homes(desired, &mut observed)?;
        let plan = plan::plan(desired, &observed).without(&earlier.images);
        if !plan.is_empty() || !earlier.layers_to_remove.is_empty() {
            return self.carry_out(desired, observed, means, earlier, false);
        }
        let outcome = self.report_unchanged(&plan);
        earlier.add(plan, outcome);
        Ok(())
    }

    /// Takes note of what earlier parts have recorded since the catalog was looked at.
    fn catch_up(
        &self,
        desired: &Desired,
        observed: &mut Observed,
        means: &Means<'_>,
        earlier: &Earlier,
    ) -> Result<(), Failure> {
        if !earlier.images.is_empty() {
            let catalog = Catalog::open_read_only(&self.catalog_path())?;
            self.observer(desired, means, catalog.as_ref()).look_again(desired, observed)?;
        }
        Ok(())
    }

    /// Plans again under the lock and executes. With `part` nothing is removed.
    fn carry_out(
        &self,
        desired: &Desired,
        mut observed: Observed,
        means: &Means<'_>,
        earlier: &mut Earlier,
        part: bool,
    ) -> Result<(), Failure> {
        let layers = &desired.layers_directory;
        let _locks = self.lock([layers.as_path()])?;
        let mut catalog = Catalog::open(&self.catalog_path())?;
        let store = Store::open(layers, &self.home.join("downloads"))?;
        store.claim(&self.home)?;
        store.recover()?;
        // Whoever had the lock may have done some of this already.
        let observer = self.observer(desired, means, Some(&catalog));
        let before = std::mem::take(&mut observed.recorded);
        observer.look_again(desired, &mut observed)?;
        if observed.recorded != before {
            // And may know newer things: what the registries said before the wait does not hold any more.
            observed = observer.observe(desired)?;
        }
        observer.resolve_locked(&mut observed)?;
        self.look_at_other_homes(desired, &mut observed)?;
        let mut plan = plan::plan(desired, &observed).without(&earlier.images);
        // With very many images that is much memory, and a run may take hours.
        drop(observed);
        if part {
            earlier.layers_to_remove.extend(plan.take_removals());
        } else {
            plan.layers_to_remove.append(&mut earlier.layers_to_remove);
            plan.layers_to_remove.sort();
            plan.layers_to_remove.dedup();
            store.sweep_downloads(STALE_DOWNLOAD, &|digest| {
                plan.fetches.iter().any(|fetch| fetch.digest == *digest)
            })?;
        }
        let outcome = Executor {
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
        }
        .execute(&plan)?;
        earlier.add(plan, outcome);
        Ok(())
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
            reporter: &*self.reporter,
            cancel: &self.cancel,
        }
    }

    fn report_unchanged(&self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        for image in &plan.images {
            let error = image.error.clone();
            let (reference, action, reason) = (image.reference.clone(), image.action, image.reason.clone());
            outcome.images.push((reference.clone(), action, error.clone()));
            self.reporter.report(Event::Image { reference, action, reason, error });
        }
        outcome
    }
}

impl Earlier {
    fn add(&mut self, plan: Plan, outcome: Outcome) {
        let taken_care_of = plan.images.iter().filter(|image| image.action != Action::Remove);
        self.images.extend(taken_care_of.map(|image| image.reference.clone()));
        self.plan.append(plan);
        self.outcome.append(outcome);
    }
}
