//! Removing layers that nobody needs, and taking references out of engines: only those that
//! msb-sync has loaded, that are still what was loaded, and that nobody else wants there. Never by
//! force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Executor, Outcome, kept};
use crate::catalog::WritableCatalog;
use crate::digest::BlobDigest;
use crate::engine::{Engines, Removed};
use crate::error::{CatalogError, Error};
use crate::image_ref::ImageRef;
use crate::plan::Plan;
use crate::progress::{Event, Reporter, Task};
use crate::state::{AskedNames, EngineListing, EngineSettings, LoadedReference, Owner, PendingHookEvent};
use crate::store;

/// The report of references that were to be taken out of engines.
#[derive(Default)]
pub(crate) struct TakenOut {
    /// The rows of references that the engine has given up.
    pub(crate) removed: Vec<LoadedReference>,
    /// The rows of references that are not ours to remove: the engine does not list them, they are
    /// not what we loaded any more, or another owner wants them, or the same one in the same engine
    /// with other settings.
    pub(crate) not_ours: Vec<LoadedReference>,
    /// The references that somebody uses, with the engine's words; they stay ours.
    pub(crate) in_use: Vec<(LoadedReference, String)>,
    /// The first error, of an engine or of the catalog.
    pub(crate) error: Option<Arc<Error>>,
}

impl TakenOut {
    fn fail(&mut self, error: Error, reporter: &dyn Reporter) {
        if self.error.is_none() {
            self.error = Some(Arc::new(error));
        } else {
            reporter.report(Event::Warning(error.chain().join(": ")));
        }
    }
}

/// Takes out of engines what `plan` says. What somebody uses there stays, and stays ours.
pub(super) fn remove_from_engines(executor: &mut Executor<'_>, plan: &Plan, outcome: &mut Outcome) {
    if plan.engine_removals.is_empty() {
        return;
    }
    let Executor { engines, catalog, reporter, .. } = executor;
    let taken_out = take_out(engines, catalog, &plan.engine_removals, *reporter);
    outcome.engine_removals += taken_out.removed.len();
    if let Some(error) = taken_out.error {
        outcome.fail(error, *reporter);
    }
}

/// Removes those of `layers` that no image needs, and leaves the others in the list.
pub(super) fn remove_layers(executor: &Executor<'_>, layers: &mut Vec<BlobDigest>, outcome: &mut Outcome) {
    match try_to_remove_layers(executor, layers) {
        Ok(count) => outcome.layers_removed += count,
        Err(error) => outcome.fail(Arc::new(error), executor.reporter),
    }
}

fn try_to_remove_layers(executor: &Executor<'_>, layers: &mut Vec<BlobDigest>) -> Result<usize, Error> {
    if layers.is_empty() {
        return Ok(0);
    }
    // The plan supposed that the catalog changes by its own deeds alone. A layer stays that an
    // image needs anywhere: where an image's layers are, the catalog knows of one owner.
    let needed = executor.catalog.layers_needed_outside(&BTreeSet::new())?;
    let unneeded: Vec<BlobDigest> = layers.extract_if(.., |digest| !needed.contains(digest)).collect();
    let unneeded: Vec<&BlobDigest> = unneeded.iter().collect();
    let (task, reporter) = (Task::RemoveLayers, executor.reporter);
    reporter.report(Event::Begun { task, things: unneeded.len(), bytes: 0 });
    let on_removed = |_: &BlobDigest| reporter.report(Event::Advanced { task, things: 1, bytes: 0 });
    let removed = store::remove(executor.store, &unneeded, executor.jobs, &on_removed)?;
    for (digest, reason) in &removed.kept {
        reporter.report(Event::Warning(format!("layer {digest} is kept: {reason}")));
    }
    executor.report_left(&removed.left);
    Ok(removed.removed.len())
}

/// Takes images out of the catalog, with what hooks are to be told of that. On a full disk some
/// room is made first, of those of `layers` among others that no image needs even now.
pub(super) fn forget(
    executor: &mut Executor<'_>,
    (names, told): (&[ImageRef], &[PendingHookEvent]),
    layers: &mut Vec<BlobDigest>,
    outcome: &mut Outcome,
) -> Result<(), CatalogError> {
    match executor.catalog.forget_and_tell(names, executor.owner, told) {
        Err(error) if error.kind() == "disk-full" => {
            make_room(executor, layers, outcome);
            executor.catalog.forget_and_tell(names, executor.owner, told)
        }
        forgotten => forgotten,
    }
}

/// Removes what no image needs by the catalog as it is. The run has ended all its downloads.
fn make_room(executor: &Executor<'_>, layers: &mut Vec<BlobDigest>, outcome: &mut Outcome) {
    match store::sweep_downloads(executor.store, Duration::ZERO, &|_| false) {
        Ok(left) => executor.report_left(&left),
        Err(error) => outcome.fail(Arc::new(error.into()), executor.reporter),
    }
    kept::prune_blobs(executor).unwrap_or_else(|error| outcome.fail(Arc::new(error), executor.reporter));
    remove_layers(executor, layers, outcome);
}

/// Takes `unwanted` out of their engines, and their rows out of the catalog.
pub(crate) fn take_out(
    engines: &Engines,
    catalog: &mut WritableCatalog,
    unwanted: &[LoadedReference],
    reporter: &dyn Reporter,
) -> TakenOut {
    let all = match catalog.loaded() {
        Ok(all) => all,
        Err(error) => return TakenOut { error: Some(Arc::new(error.into())), ..TakenOut::default() },
    };
    let mut report = take_out_of_engines(engines, unwanted, &all, reporter);
    let gone: Vec<LoadedReference> = report.removed.iter().chain(&report.not_ours).cloned().collect();
    if let Err(error) = catalog.forget_loads(&gone) {
        report.fail(error.into(), reporter);
    }
    report
}

/// Takes `unwanted` out of their engines; `all` are the rows of all owners.
fn take_out_of_engines(
    engines: &Engines,
    unwanted: &[LoadedReference],
    all: &[LoadedReference],
    reporter: &dyn Reporter,
) -> TakenOut {
    let mut report = TakenOut::default();
    let leaving: BTreeSet<_> = unwanted.iter().map(key).collect();
    let mut wanted: BTreeMap<&str, Vec<&LoadedReference>> = BTreeMap::new();
    for row in all.iter().filter(|row| !leaving.contains(&key(row))) {
        wanted.entry(&row.name).or_default().push(row);
    }
    let mut by_engine: BTreeMap<&EngineSettings, Vec<&LoadedReference>> = BTreeMap::new();
    for row in unwanted {
        by_engine.entry(&row.engine).or_default().push(row);
    }
    for (settings, rows) in by_engine {
        let engine = engines.of(settings);
        let asked = AskedNames::of(rows.iter().map(|row| &row.name));
        let listing = match engine.list(&asked) {
            Ok(listing) => listing,
            Err(error) => {
                report.fail(error.into(), reporter);
                continue;
            }
        };
        let (ours, others): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| is_ours_alone(row, &listing, &wanted));
        report.not_ours.extend(others.into_iter().cloned());
        let names: Vec<String> = ours.iter().map(|row| row.name.clone()).collect();
        if names.is_empty() {
            continue;
        }
        for (row, removed) in ours.into_iter().zip(engine.remove(&names)) {
            match removed {
                Removed::Gone => report.removed.push(row.clone()),
                Removed::InUse(words) => {
                    let text = format!("{} stays in {}: {words}", row.name, settings.name);
                    reporter.report(Event::Warning(text));
                    report.in_use.push((row.clone(), words));
                }
                Removed::Failed(error) => report.fail(error.into(), reporter),
            }
        }
    }
    report
}

/// The parts of a row by which the catalog knows the row from all others.
fn key(row: &LoadedReference) -> (&Owner, &EngineSettings, &str) {
    (&row.owner, &row.engine, &row.name)
}

/// True if the engine lists the reference of `row` by the digest that we loaded, and no row that is
/// still `wanted` has the same name in this engine, or in one that may be the same.
fn is_ours_alone(
    row: &LoadedReference,
    listing: &EngineListing,
    wanted: &BTreeMap<&str, Vec<&LoadedReference>>,
) -> bool {
    let found = listing.images.get(&row.name);
    let is_ours = match (&row.listed, found) {
        (Some(digest), Some(found)) => found.contains(digest),
        // A load that failed may have left the reference behind, with our manifest's digest, or as
        // what it was before.
        (None, Some(found)) => {
            found.contains(&row.manifest) || row.former.as_ref().is_some_and(|digest| found.contains(digest))
        }
        (_, None) => false,
    };
    let of_name = wanted.get(&*row.name).into_iter().flatten();
    is_ours && !of_name.into_iter().any(|other| other.engine.may_be(&row.engine))
}
