//! Running the hooks of an images file after a run, without the lock of the home: a hook may itself
//! run msb-sync.
//!
//! A run that has changed something has noted in the catalog which hooks are to be told. Each hook
//! claims what it is to be told of, also by runs that were killed before, is run once, and the
//! catalog forgets it. A kill before that leads to one more run of the hook; nothing else does.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::{Catalog, HookBook};
use crate::error::{CatalogError, Error, HookError};
use crate::execute::Outcome;
use crate::hooks::{self, Surroundings};
use crate::image_ref::ImageRef;
use crate::progress::Event;
use crate::state::{Action, Hook};
use crate::sync::session::Session;
use crate::sync::steps::load::Loaded;

/// A hook that was run, or could not be.
#[derive(Clone, Debug)]
pub struct HookRun {
    /// The place of its table, `images.toml:12`.
    pub rule: String,
    /// The program.
    pub program: String,
    /// The number of changes that it was told of.
    pub changes: usize,
    /// The failure, if there is one.
    pub error: Option<Arc<Error>>,
}

/// Tells whoever asks for details that the hooks of the file are not run.
pub(crate) fn tell_idle(session: &Session, loaded: &Loaded) {
    let count = loaded.file.hooks.len();
    if count > 0 {
        let tables = if count == 1 { "table" } else { "tables" };
        let text = format!("{}: {count} [[on-change]] {tables}, run with --hooks only", loaded.name);
        session.reporter.report(Event::Detail(text));
    }
}

/// Runs the hooks that are to be told of something, now that the run has come to `outcome`. Those
/// that a stopped run does not come to are run by the next one.
pub(crate) fn run_hooks(session: &Session, loaded: &Loaded, outcome: &mut Outcome) -> Vec<HookRun> {
    let mut runs = Vec::new();
    if outcome.stopped {
        return runs;
    }
    match tell_all(session, loaded, outcome, &mut runs) {
        Ok(is_stopped) => outcome.stopped = is_stopped,
        Err(error) => outcome.fail(Arc::new(error.into()), &*session.reporter),
    }
    runs
}

/// Returns true if the run was stopped before all were told.
fn tell_all(
    session: &Session,
    loaded: &Loaded,
    outcome: &Outcome,
    runs: &mut Vec<HookRun>,
) -> Result<bool, CatalogError> {
    let Some(catalog) = Catalog::open_read_only(&session.home)? else { return Ok(false) };
    let pending = catalog.pending_hook_events(&loaded.owner)?;
    drop(catalog);
    let hooks = &loaded.file.hooks;
    let keys: BTreeSet<String> = hooks.iter().map(Hook::key).collect();
    let done = images_in_order(outcome);
    // A run with nothing to tell writes nothing.
    let is_due = pending.iter().any(|pending| {
        pending.is_done || done.contains(&pending.event.reference) || !keys.contains(&pending.hook)
    });
    if !is_due {
        return Ok(false);
    }
    let mut book = HookBook::open(&session.home)?;
    for (program, count) in book.drop_others(&loaded.owner, &keys)? {
        let changes = if count == 1 { "1 change is".to_owned() } else { format!("{count} changes are") };
        session.warn(format!(
            "{changes} not told to a hook which {} does not have any more, or not in the same words: {program}",
            loaded.name
        ));
    }
    for hook in hooks {
        if !session.cancel.is_cancelled() {
            tell((session, loaded), hook, &done, &mut book, runs)?;
        }
    }
    Ok(session.cancel.is_cancelled())
}

/// Lists the images that are as they should be.
fn images_in_order(outcome: &Outcome) -> BTreeSet<ImageRef> {
    let images = outcome.images.iter();
    let in_order = images.filter(|(_, action, error)| *action != Action::Remove && error.is_none());
    in_order.map(|(reference, ..)| reference.clone()).collect()
}

/// Runs one hook, if it is to be told of anything.
fn tell(
    (session, loaded): (&Session, &Loaded),
    hook: &Hook,
    done: &BTreeSet<ImageRef>,
    book: &mut HookBook,
    runs: &mut Vec<HookRun>,
) -> Result<(), CatalogError> {
    let claimed = book.claim(&loaded.owner, &hook.key(), done)?;
    let changes = claimed.events.len();
    if changes == 0 {
        return Ok(());
    }
    let (rule, program) = (hook.place.clone(), hook.program().to_owned());
    session.reporter.report(Event::HookStarted { rule: rule.clone(), program: program.clone(), changes });
    let mut environment = session.environment.variables().clone();
    environment
        .retain(|name, _| name.to_str().is_none_or(|name| !loaded.file.secret_variables.contains(name)));
    let around = Surroundings { environment, cancel: &session.cancel, reporter: &*session.reporter };
    let result = hooks::run(hook, &claimed.events, &around);
    let is_told = result.as_ref().err().is_none_or(HookError::is_final);
    let ended = book.end(&claimed, is_told);
    let exit_code = result.as_ref().map_or_else(HookError::exit_code, |()| Some(0));
    let error = result.err().map(|error| Arc::new(Error::from(error)));
    let run = HookRun { rule, program, changes, error };
    session.reporter.report(Event::Hook {
        rule: run.rule.clone(),
        program: run.program.clone(),
        changes,
        exit_code,
        error: run.error.clone(),
    });
    // A hook that was stopped with the run has not failed.
    if !matches!(run.error.as_deref(), Some(Error::Stopped)) {
        runs.push(run);
    }
    ended
}
