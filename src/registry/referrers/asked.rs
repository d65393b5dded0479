//! The lists of artifacts that a run has asked a registry for: images that share a digest ask once,
//! and threads that want the same list wait for the first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::artifact::Listed;
use crate::error::RegistryError;
use crate::threads::lock;

/// Lists of a registry that are kept.
const MAX_LISTS: usize = 5_000;
/// Artifacts on the lists that are kept, all together.
const MAX_ARTIFACTS: usize = 10_000;

/// The artifacts of one list.
pub(super) type List = Arc<[Listed]>;

/// The place of one list. The thread that asks for the list holds the lock.
type Slot = Arc<Mutex<Option<List>>>;

/// The lists of one registry, as its sites have them.
#[derive(Default)]
pub(crate) struct Asked {
    /// The turn of large candidates.
    pub(crate) turn: Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The lists by site and path.
    lists: HashMap<(usize, String), Slot>,
    artifacts: usize,
    /// Sites and repositories without the API for referrers.
    without_api: HashSet<(usize, String)>,
    /// Mirrors and repositories whose question failed.
    given_up: HashSet<(usize, String)>,
}

impl Asked {
    /// Returns the list at `path` of `site`, by `ask` where that is not known yet.
    ///
    /// # Errors
    /// Those of `ask`, which are not kept.
    pub(super) fn list(
        &self,
        site: usize,
        path: &str,
        ask: impl FnOnce() -> Result<Vec<Listed>, RegistryError>,
    ) -> Result<List, RegistryError> {
        let slot = {
            let mut known = lock(&self.known);
            let key = (site, path.to_owned());
            if known.lists.len() < MAX_LISTS || known.lists.contains_key(&key) {
                Arc::clone(known.lists.entry(key).or_default())
            } else {
                Slot::default()
            }
        };
        let mut place = lock(&slot);
        if let Some(list) = &*place {
            return Ok(Arc::clone(list));
        }
        let list: List = ask()?.into();
        let mut known = lock(&self.known);
        if known.artifacts + list.len() <= MAX_ARTIFACTS {
            known.artifacts += list.len();
            *place = Some(Arc::clone(&list));
        }
        Ok(list)
    }

    /// Takes note that `site` has no API for referrers in `repository`: one that has it answers
    /// with a list whatever it is asked for.
    pub(super) fn note_no_api(&self, site: usize, repository: &str) {
        let mut known = lock(&self.known);
        if known.without_api.len() < MAX_LISTS {
            known.without_api.insert((site, repository.to_owned()));
        }
    }

    /// Leaves the mirror `site` alone, in `repository`.
    pub(super) fn give_up(&self, site: usize, repository: &str) {
        let mut known = lock(&self.known);
        if known.given_up.len() < MAX_LISTS {
            known.given_up.insert((site, repository.to_owned()));
        }
    }

    /// True if the mirror `site` is left alone in `repository`.
    pub(super) fn is_given_up(&self, site: usize, repository: &str) -> bool {
        lock(&self.known).given_up.contains(&(site, repository.to_owned()))
    }

    /// True if `site` has no API for referrers in `repository`.
    pub(super) fn has_no_api(&self, site: usize, repository: &str) -> bool {
        lock(&self.known).without_api.contains(&(site, repository.to_owned()))
    }
}
