//! `apply`: the machine becomes what the images file says.

use std::path::PathBuf;

use super::request::Request;
use super::session::Session;
use super::steps::desire::{desire, tell_not_taken};
use super::steps::hooks::{HookRun, run_hooks, tell_idle};
use super::steps::load::{ImagesText, Loaded, load, understand};
use super::steps::reconcile::reconcile;
use super::steps::registries;
use super::steps::run::Order;
use super::verb_error::VerbError;
use crate::digest::BlobDigest;
use crate::execute::Outcome;
use crate::plan::Plan;
use crate::state::Action;

/// The report of `apply` and `pull`.
#[derive(Debug)]
pub struct Applied {
    /// The plan that was carried out.
    pub plan: Plan,
    /// The outcome of each image.
    pub outcome: Outcome,
    /// HTTP requests sent.
    pub requests: u64,
    /// The directory of layers.
    pub layers: PathBuf,
    /// The hooks that were run, in the order of the file.
    pub hooks: Vec<HookRun>,
}

impl Applied {
    /// Tells whether everything is as the file says now.
    pub fn succeeded(&self) -> bool {
        let outcome = &self.outcome;
        outcome.failed() == 0 && self.failed_hooks() == 0 && outcome.failure.is_none() && !outcome.stopped
    }

    /// Counts the hooks that failed.
    pub fn failed_hooks(&self) -> usize {
        self.hooks.iter().filter(|hook| hook.error.is_some()).count()
    }

    /// Counts the images that were in order before.
    pub fn unchanged(&self) -> usize {
        self.outcome.done(Action::Keep)
    }
}

/// Makes the machine match the images file.
///
/// ```
/// use msb_sync::sync::{self, ImagesSource, Request, Session};
///
/// # let directory = tempfile::tempdir()?;
/// # let session = Session::new(directory.path().join("home"));
/// let request = Request::of(ImagesSource::Path("examples/quickstart/images.toml".into()));
/// let applied = sync::apply(&session, &request)?;
/// assert!(applied.succeeded());
/// // Nothing is left to do for a second run.
/// assert_eq!(sync::apply(&session, &request)?.unchanged(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`VerbError`]; images that fail are in the outcome.
pub fn apply(session: &Session, request: &Request) -> Result<Applied, VerbError> {
    let loaded = load(session, &request.source)?;
    apply_loaded(session, &loaded, request)
}

/// Does what [`apply`] does, but only if the images file still has the digest `expected`; `None` if
/// it does not, and nothing was done.
///
/// # Errors
/// See [`VerbError`]; images that fail are in the outcome.
pub fn apply_unchanged(
    session: &Session,
    request: &Request,
    expected: &BlobDigest,
) -> Result<Option<Applied>, VerbError> {
    let text = ImagesText::read(&request.source)?;
    if text.digest() != *expected {
        return Ok(None);
    }
    apply_loaded(session, &understand(session, text)?, request).map(Some)
}

fn apply_loaded(session: &Session, loaded: &Loaded, request: &Request) -> Result<Applied, VerbError> {
    let desired = desire(session, loaded, request)?;
    let registries = registries::of_file(session, loaded, request.from.as_deref())?;
    let order = Order {
        session,
        desired: &desired,
        registries: &registries,
        settings: &loaded.file.settings,
        hooks: if request.hooks && !request.stage { &loaded.file.hooks } else { &[] },
        offline: request.offline,
        loaded: Some(loaded),
    };
    let (plan, mut outcome) = order.begin(reconcile)?;
    tell_not_taken(session, &desired, &plan);
    let mut hooks = Vec::new();
    if request.stage {
        // Nothing has changed that anybody could be told of.
    } else if request.hooks {
        hooks = run_hooks(session, loaded, &mut outcome);
    } else {
        tell_idle(session, loaded);
    }
    let layers = desired.layers_directory.clone();
    Ok(Applied { plan, outcome, requests: registries.requests(), layers, hooks })
}
