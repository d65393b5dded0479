//! The rate at which blobs are read, where the images file sets one.
//!
//! [`Paces`] has the limits of a run: one of all registries together, and those of single
//! registries. A blob in flight has a [`Pace`]. Before it reads, it waits until its share is due
//! (`shares` does the sums), and is woken then and not before; a stop ends the wait at once. The
//! bytes of blobs count as they are taken from a connection, those that come a second time too;
//! headers and documents do not. Where nothing is limited, there is no pace.
//!
//! Nobody waits while a read is under way: silence of a server is told from our own by that.

mod shares;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::shares::{LimitAt, Shares};
use crate::cancel::Cancel;
use crate::error::RegistryError;
use crate::threads::lock;

/// The limits of a run.
pub(super) struct Paces {
    start: Instant,
    shares: Mutex<Shares>,
    /// The limit of all registries together.
    whole: Option<LimitAt>,
    /// The limits of single registries, by name.
    single: HashMap<String, LimitAt>,
}

/// The limits of one registry's blobs.
pub(super) struct Pacer {
    paces: Arc<Paces>,
    limits: Vec<LimitAt>,
}

/// The pace of one blob in flight, which counts as such until this is dropped.
pub(super) struct Pace {
    paces: Arc<Paces>,
    limits: Vec<LimitAt>,
    /// The bytes that are due and not taken yet.
    due: u64,
    waited: Duration,
}

impl Paces {
    /// Limits all registries together to `whole`, and each of `single` to a rate of its own, in
    /// bytes a second.
    pub(super) fn new<'n>(
        whole: Option<NonZeroU64>,
        single: impl Iterator<Item = (&'n str, NonZeroU64)>,
    ) -> Self {
        let mut shares = Shares::default();
        let whole = whole.map(|rate| shares.limit(rate));
        let single = single.map(|(name, rate)| (name.to_owned(), shares.limit(rate))).collect();
        Self { start: Instant::now(), shares: Mutex::new(shares), whole, single }
    }

    /// Returns the limits of a registry, of which the first of `names` that has one counts; `None`
    /// where nothing is limited.
    pub(super) fn of(self: &Arc<Self>, names: [&str; 2]) -> Option<Pacer> {
        let single = names.iter().find_map(|name| self.single.get(*name)).copied();
        let limits: Vec<LimitAt> = self.whole.into_iter().chain(single).collect();
        (!limits.is_empty()).then(|| Pacer { paces: Arc::clone(self), limits })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Pacer {
    /// Begins a blob.
    pub(super) fn begin(&self) -> Pace {
        let Self { paces, limits } = self;
        lock(&paces.shares).join(limits, paces.now());
        Pace { paces: Arc::clone(paces), limits: limits.clone(), due: 0, waited: Duration::ZERO }
    }
}

impl Pace {
    /// Waits until some of `wanted` bytes may be taken, and returns how many.
    ///
    /// # Errors
    /// The run was stopped.
    pub(super) fn ready(&mut self, wanted: u64, cancel: &Cancel) -> Result<u64, RegistryError> {
        if self.due == 0 {
            let now = self.paces.now();
            let turn = lock(&self.paces.shares).take(&self.limits, wanted, now);
            self.due = turn.bytes;
            let wait = turn.due.saturating_sub(now);
            if !wait.is_zero() && !cancel.sleep(wait) {
                return Err(RegistryError::Stopped);
            }
            self.waited += wait;
        }
        Ok(wanted.min(self.due))
    }

    /// Takes note of bytes that were taken.
    pub(super) fn took(&mut self, bytes: u64) {
        self.due = self.due.saturating_sub(bytes);
    }

    /// Returns the time that was waited since the last such question.
    pub(super) fn waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        lock(&self.paces.shares).leave(&self.limits, self.due);
    }
}

#[cfg(test)]
mod tests;
