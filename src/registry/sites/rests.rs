//! The addresses that asked to be left alone, and until when: `Retry-After` beyond the time that a
//! run waits.
//!
//! This memory outlives the run that heard of it: `watch` runs again at its interval, for the sake
//! of all others, and nobody is asked before the time. One address says nothing of another one of
//! the same registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::error::{Login, Refusal, RegistryError, RegistryName};
use crate::threads::lock;

/// Addresses that are remembered, at most.
const MAX_KEPT: usize = 10_000;

/// The wishes to be left alone, by address. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Rests(Arc<Mutex<BTreeMap<String, Rest>>>);

#[derive(Debug)]
struct Rest {
    until: SystemTime,
    reason: String,
    status: u16,
    host: String,
    registry: Box<RegistryName>,
    refusal: Refusal,
    login: Box<Login>,
}

impl Rests {
    /// Forgets all wishes: somebody changed something, or wants an answer now.
    pub fn forget(&self) {
        lock(&self.0).clear();
    }

    /// Returns the error of a request to `url` at `now`, if that is not to be asked.
    pub(crate) fn error(&self, url: &str, now: SystemTime) -> Option<RegistryError> {
        let rests = lock(&self.0);
        let rest = rests.get(url).filter(|rest| rest.until > now)?;
        Some(RegistryError::Refused {
            reason: rest.reason.clone(),
            status: rest.status,
            host: rest.host.clone(),
            registry: rest.registry.clone(),
            refusal: rest.refusal,
            login: rest.login.clone(),
            until: Some(Box::new(rest.until)),
        })
    }

    /// Takes note of `error`, the answer of `url` at `now`, if that asks to be left alone.
    pub(crate) fn note(&self, url: &str, error: &RegistryError, now: SystemTime) {
        let RegistryError::Refused { reason, status, host, registry, refusal, login, until: Some(until) } =
            error
        else {
            return;
        };
        let mut rests = lock(&self.0);
        if rests.len() >= MAX_KEPT {
            rests.retain(|_, rest| rest.until > now);
        }
        if rests.len() < MAX_KEPT {
            let rest = Rest {
                until: **until,
                reason: reason.clone(),
                status: *status,
                host: host.clone(),
                registry: registry.clone(),
                refusal: *refusal,
                login: login.clone(),
            };
            rests.insert(url.to_owned(), rest);
        }
    }
}
