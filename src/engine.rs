//! Engines: the programs of this machine that images are handed to, one small adapter each.
//!
//! An adapter knows its program's words ([`Engine`]); everything else is shared: the child process
//! with its limits and its end (`child`), the words of its output (`words`). Each engine's program
//! is asked for its version once a run.

mod child;
mod containerd;
mod docker;
mod microsandbox;
mod podman;
mod version;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use child::shown;

use crate::cancel::Cancel;
use crate::digest::{BlobDigest, DiffId};
use crate::error::{EngineError, Error};
use crate::progress::Reporter;
use crate::state::{EngineFile, EngineListing, EngineName, EngineSettings};
use crate::threads;

/// Everything that the engines of a session have in common.
pub(crate) struct Context {
    /// The environment of this process; programs get the harmless part of it.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// The directory for the programs' temporary files.
    pub(crate) temporary: PathBuf,
    /// The switch that ends the programs.
    pub(crate) cancel: Cancel,
    /// The listener.
    pub(crate) reporter: Arc<dyn Reporter>,
}

/// A listing, or the error of an engine that cannot be asked.
pub(crate) type Listed = Result<Arc<EngineListing>, Arc<Error>>;

/// Writes an archive into an engine's program.
pub(crate) type Archive<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// The result of taking one reference out of an engine.
#[derive(Debug)]
pub(crate) enum Removed {
    /// The engine lists the reference no more.
    Gone,
    /// Somebody uses the image; the engine's words.
    InUse(String),
    /// The engine failed.
    Failed(EngineError),
}

/// One engine.
pub(crate) trait Engine: Send + Sync {
    /// The settings that the engine was opened with.
    fn settings(&self) -> &EngineSettings;

    /// Lists the images of the engine, by references in the full form.
    fn list(&self) -> Result<EngineListing, EngineError>;

    /// True if an archive may have one image alone, under one name.
    fn takes_one_image(&self) -> bool {
        false
    }

    /// True if archives need docker's `manifest.json`.
    fn wants_docker_form(&self) -> bool {
        false
    }

    /// Starts the engine's program for loading, and lets `archive` write into it.
    fn load(&self, archive: Archive<'_>) -> Result<(), EngineError>;

    /// Tells of each of `names`, which the engine lists, whether the image is whole.
    fn check(&self, names: &[String]) -> Vec<Result<(), EngineError>> {
        names.iter().map(|_| Ok(())).collect()
    }

    /// Takes `names` out of the engine, never by force.
    fn remove(&self, names: &[String]) -> Vec<Removed>;

    /// Hashes the engine's own files of an image, where they can be verified.
    fn files(
        &self,
        _manifest: &BlobDigest,
        _layers: &[(BlobDigest, DiffId)],
    ) -> Result<Vec<EngineFile>, EngineError> {
        Ok(Vec::new())
    }
}

/// The engines of a session, opened when they are first asked for.
pub(crate) struct Engines {
    context: Arc<Context>,
    opened: Mutex<HashMap<EngineSettings, Arc<dyn Engine>>>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment has secrets.
        f.debug_struct("Engines").finish_non_exhaustive()
    }
}

impl Engines {
    /// Makes engines that have not been asked anything yet.
    pub(crate) fn new(context: Context) -> Self {
        Self { context: Arc::new(context), opened: Mutex::default() }
    }

    /// Returns the engine that has `settings`.
    pub(crate) fn of(&self, settings: &EngineSettings) -> Arc<dyn Engine> {
        let mut opened = threads::lock(&self.opened);
        let engine = opened.entry(settings.clone()).or_insert_with(|| {
            let program = child::Program::new(settings.clone(), Arc::clone(&self.context));
            match settings.name {
                EngineName::Microsandbox => Arc::new(microsandbox::Microsandbox::new(program)),
                EngineName::Containerd => Arc::new(containerd::Containerd::new(program)),
                EngineName::Podman => Arc::new(podman::Podman::new(program)),
                EngineName::Docker => Arc::new(docker::Docker::new(program)),
            }
        });
        Arc::clone(engine)
    }

    /// Asks all `engines` at once for their listings.
    pub(crate) fn listings(&self, engines: &[EngineSettings]) -> BTreeMap<EngineName, Listed> {
        let ask = |settings: &EngineSettings| {
            self.of(settings).list().map(Arc::new).map_err(|error| Arc::new(Error::from(error)))
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = engines
                .iter()
                .map(|settings| (settings, threads::start_in(scope, "engine", move || ask(settings)).ok()))
                .collect();
            let answer = |(settings, thread): (&EngineSettings, Option<_>)| {
                let thread: Option<std::thread::ScopedJoinHandle<'_, Listed>> = thread;
                // Where the system gives no thread, this one asks.
                let listed = thread.and_then(|thread| thread.join().ok()).unwrap_or_else(|| ask(settings));
                (settings.name, listed)
            };
            asked.into_iter().map(answer).collect()
        })
    }
}

/// Takes each of `names` out of `engine` by `remove`, and believes the listing afterwards: exit codes
/// lie.
fn remove_each(
    engine: &dyn Engine,
    names: &[String],
    remove: impl Fn(&str) -> Result<child::Output, EngineError>,
) -> Vec<Removed> {
    let failures: Vec<Option<EngineError>> = names.iter().map(|name| remove(name).err()).collect();
    let listing = engine.list();
    let result = |(name, failure): (&String, Option<EngineError>)| match (&listing, failure) {
        (Ok(listing), _) if !listing.images.contains_key(name) => Removed::Gone,
        // An engine refuses what somebody uses; whatever else it says has the same consequence.
        (Ok(_), Some(EngineError::Failed { words, .. })) => Removed::InUse(words),
        (Ok(_), Some(error)) => Removed::Failed(error),
        (Ok(_), None) => Removed::InUse("the engine lists it still".to_owned()),
        (Err(error), _) => Removed::Failed(EngineError::Unreadable {
            engine: engine.settings().name.as_str(),
            doing: "a listing after a removal".to_owned(),
            reason: error.to_string(),
        }),
    };
    names.iter().zip(failures).map(result).collect()
}

fn unreadable(program: &child::Program, doing: &str, reason: &str) -> EngineError {
    EngineError::Unreadable {
        engine: program.settings().name.as_str(),
        doing: doing.to_owned(),
        reason: shown(reason, 300),
    }
}
