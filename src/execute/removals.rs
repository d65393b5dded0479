//! Taking references out of engines: only those that msb-sync has loaded, that are still what was
//! loaded, and that nobody else wants there. Never by force.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Executor, Outcome};
use crate::engine::{Engines, Removed};
use crate::error::Error;
use crate::plan::Plan;
use crate::progress::{Event, Reporter};
use crate::state::{AskedNames, EngineListing, EngineSettings, LoadedReference};

/// The report of references that were to be taken out of engines.
#[derive(Default)]
pub(crate) struct TakenOut {
    /// The rows that are ours no more: the reference is gone, is not what we loaded any more, or is
    /// wanted by another owner, or in the same engine with other settings.
    pub(crate) gone: Vec<LoadedReference>,
    /// The references that somebody uses, with the engine's words; they stay ours.
    pub(crate) in_use: Vec<(LoadedReference, String)>,
    /// The first error of an engine.
    pub(crate) error: Option<Arc<Error>>,
}

/// Takes out of engines what `plan` says. What somebody uses there stays, and stays ours.
pub(super) fn remove_from_engines(executor: &mut Executor<'_>, plan: &Plan, outcome: &mut Outcome) {
    if plan.engine_removals.is_empty() {
        return;
    }
    let taken_out = executor.catalog.loaded().map_err(Error::from).and_then(|all: Vec<LoadedReference>| {
        let taken_out = take_out(executor.engines, &plan.engine_removals, &all, executor.reporter);
        executor.catalog.forget_loads(&taken_out.gone)?;
        Ok(taken_out)
    });
    match taken_out {
        Ok(taken_out) => {
            outcome.engine_removals += taken_out.gone.len();
            if let Some(error) = taken_out.error {
                outcome.failure.get_or_insert(error);
            }
        }
        Err(error) => outcome.failure = Some(Arc::new(error)),
    }
}

/// Takes `unwanted` out of their engines; `all` are the rows of all owners.
pub(crate) fn take_out(
    engines: &Engines,
    unwanted: &[LoadedReference],
    all: &[LoadedReference],
    reporter: &dyn Reporter,
) -> TakenOut {
    let mut report = TakenOut::default();
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
                report.error.get_or_insert_with(|| Arc::new(error.into()));
                continue;
            }
        };
        let (ours, others): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| is_ours_alone(row, &listing, unwanted, all));
        report.gone.extend(others.into_iter().cloned());
        let names: Vec<String> = ours.iter().map(|row| row.name.clone()).collect();
        if names.is_empty() {
            continue;
        }
        for (row, removed) in ours.into_iter().zip(engine.remove(&names)) {
            match removed {
                Removed::Gone => report.gone.push(row.clone()),
                Removed::InUse(words) => {
                    let text = format!("{} stays in {}: {words}", row.name, settings.name);
                    reporter.report(Event::Warning(text));
                    report.in_use.push((row.clone(), words));
                }
                Removed::Failed(error) => {
                    report.error.get_or_insert_with(|| Arc::new(error.into()));
                }
            }
        }
    }
    report
}

/// True if the engine lists the reference of `row` by the digest that we loaded, and no row but
/// those that are `unwanted` has the same name in this engine, or in one that may be the same.
fn is_ours_alone(
    row: &LoadedReference,
    listing: &EngineListing,
    unwanted: &[LoadedReference],
    all: &[LoadedReference],
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
    let is_same = |one: &LoadedReference, other: &LoadedReference| {
        one.owner == other.owner && one.engine == other.engine && one.name == other.name
    };
    let is_wanted = |other: &&LoadedReference| {
        other.name == row.name
            && other.engine.may_be(&row.engine)
            && !unwanted.iter().any(|unwanted| is_same(unwanted, other))
    };
    is_ours && !all.iter().any(|other| is_wanted(&other))
}
