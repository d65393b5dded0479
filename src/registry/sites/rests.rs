//! The addresses that asked to be left alone, and until when: `Retry-After` beyond the time that a
//! run waits.
//!
//! This memory outlives the run that heard of it: `watch` runs again at its interval, for the sake
//! of all others, and nobody is asked before the time. One address says nothing of another one of
//! the same registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::error::{Refused, RegistryError};
use crate::threads::lock;

/// Addresses that are remembered, at most.
const MAX_KEPT: usize = 10_000;

/// The wishes to be left alone, by address. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Rests(Arc<Mutex<BTreeMap<String, Refused>>>);

impl Rests {
    /// Forgets all wishes: somebody changed something, or wants an answer now.
    pub fn forget(&self) {
        lock(&self.0).clear();
    }

    /// Returns the error of a request to `url` at `now`, if that is not to be asked.
    pub(crate) fn error(&self, url: &str, now: SystemTime) -> Option<RegistryError> {
        let rests = lock(&self.0);
        let rest = rests.get(url).filter(|rest| lasts(rest, now))?;
        Some(RegistryError::Refused(rest.clone()))
    }

    /// Takes note of `error`, the answer of `url` at `now`, if that asks to be left alone.
    pub(crate) fn note(&self, url: &str, error: &RegistryError, now: SystemTime) {
        let RegistryError::Refused(refused @ Refused { until: Some(_), .. }) = error else { return };
        let mut rests = lock(&self.0);
        if rests.len() >= MAX_KEPT {
            rests.retain(|_, rest| lasts(rest, now));
        }
        if rests.len() < MAX_KEPT {
            rests.insert(url.to_owned(), refused.clone());
        }
    }
}

fn lasts(rest: &Refused, now: SystemTime) -> bool {
    rest.until.as_deref().is_some_and(|until| *until > now)
}
