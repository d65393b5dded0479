//! Engines: the programs of this machine that images are handed to, one small adapter each.
//!
//! An adapter knows the words of its program ([`Engine`]); everything else is shared. A `Program`
//! says what the program gets and how long it may take, and what its end means; it runs as a
//! `child`, which is fed, drained and ended; `Temporary` is the place of its temporary files. An
//! engine's program is asked for its version once a run.

mod adapter;
mod containerd;
mod docker;
mod listing;
mod microsandbox;
mod noted;
mod pieces;
mod podman;
mod program;
mod temporary;
mod version;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::ScopedJoinHandle;

pub(crate) use adapter::{Engine, Removed};
pub(crate) use noted::NotedFiles;
pub(crate) use program::Context;
pub(crate) use temporary::{has_left_temporary, sweep_temporary, temporary_in};

use self::containerd::Containerd;
use self::docker::Docker;
use self::microsandbox::Microsandbox;
use self::podman::Podman;
use self::program::{Patience, Program, Shared};
use crate::error::Error;
use crate::state::{AskedNames, EngineListing, EngineName, EngineSettings};
use crate::threads;

/// A listing, or the error of an engine that cannot be asked.
pub(crate) type Listed = Result<Arc<EngineListing>, Arc<Error>>;

/// The engines of a session, opened when they are first asked for.
pub(crate) struct Engines {
    shared: Arc<Shared>,
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
        Self::patient(context, Patience::default())
    }

    /// Makes engines whose programs get other times.
    fn patient(context: Context, patience: Patience) -> Self {
        Self { shared: Arc::new(Shared::new(context, patience)), opened: Mutex::default() }
    }

    /// Returns the engine that has `settings`.
    pub(crate) fn of(&self, settings: &EngineSettings) -> Arc<dyn Engine> {
        let mut opened = threads::lock(&self.opened);
        let engine = opened.entry(settings.clone()).or_insert_with(|| {
            let program = Program::new(settings.clone(), Arc::clone(&self.shared));
            match settings.name {
                EngineName::Microsandbox => Arc::new(Microsandbox::new(program)),
                EngineName::Containerd => Arc::new(Containerd::new(program)),
                EngineName::Podman => Arc::new(Podman::new(program)),
                EngineName::Docker => Arc::new(Docker::new(program)),
            }
        });
        Arc::clone(engine)
    }

    /// Asks all `engines` at once for their listings of what is asked about.
    pub(crate) fn listings(
        &self,
        engines: &[EngineSettings],
        asked: &AskedNames,
    ) -> BTreeMap<EngineName, Listed> {
        let ask = |settings: &EngineSettings| {
            self.of(settings).list(asked).map(Arc::new).map_err(|error| Arc::new(Error::from(error)))
        };
        std::thread::scope(|scope| {
            let start =
                |settings| (settings, threads::start_in(scope, "listing", move || ask(settings)).ok());
            let asked: Vec<(&EngineSettings, Option<ScopedJoinHandle<'_, Listed>>)> =
                engines.iter().map(start).collect();
            let answer = |(settings, thread): (&EngineSettings, Option<ScopedJoinHandle<'_, Listed>>)| {
                // Where the system gives no thread, this one asks.
                let listed = thread.and_then(|thread| thread.join().ok()).unwrap_or_else(|| ask(settings));
                (settings.name, listed)
            };
            asked.into_iter().map(answer).collect()
        })
    }
}

#[cfg(test)]
mod tests;
