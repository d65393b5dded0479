//! A counting semaphore over bytes: whoever needs memory waits until others have given enough of it
//! back.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::threads::{lock, unpoisoned};

/// The time after which somebody who waits looks whether the run has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A number of bytes that several threads share.
#[derive(Debug)]
pub(super) struct Budget {
    free: Mutex<usize>,
    total: usize,
    changed: Condvar,
}

impl Budget {
    /// Makes a budget of `total` bytes.
    pub(super) const fn new(total: usize) -> Self {
        Self { free: Mutex::new(total), total, changed: Condvar::new() }
    }

    /// Waits for `bytes`; whoever wants more than there is gets all of it.
    pub(super) fn acquire(&self, bytes: usize) {
        let bytes = bytes.min(self.total);
        let mut free = unpoisoned(self.changed.wait_while(lock(&self.free), |free| *free < bytes));
        *free -= bytes;
    }

    /// Waits for `bytes`, which the result gives back when it is dropped.
    pub(super) fn hold(&self, bytes: usize) -> Held<'_> {
        self.acquire(bytes);
        Held { budget: self, bytes }
    }

    /// Waits like [`Budget::hold`], and gives up with `None` once `cancel` is thrown.
    pub(super) fn hold_unless(&self, bytes: usize, cancel: &Cancel) -> Option<Held<'_>> {
        let bytes = bytes.min(self.total);
        let mut free = lock(&self.free);
        while *free < bytes {
            if cancel.is_cancelled() {
                return None;
            }
            (free, _) = unpoisoned(self.changed.wait_timeout(free, LOOK));
        }
        *free -= bytes;
        Some(Held { budget: self, bytes })
    }

    /// Gives back what [`Budget::acquire`] took for the same `bytes`.
    pub(super) fn release(&self, bytes: usize) {
        *lock(&self.free) += bytes.min(self.total);
        self.changed.notify_all();
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        *lock(&self.free)
    }
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}
