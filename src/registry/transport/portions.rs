//! The memory that documents take from their request until they are taken apart: portions of one
//! budget, which all registries of a run share.
//!
//! A small document needs none, so that the usual ones are as parallel as the lookups. Whoever
//! reads a large one has a portion of its size. A portion [grows](Portion::grow) while the body
//! arrives, as far as there is room: an exchange has a clock, and nobody waits under it for
//! somebody else's memory. Where there is no room the answer is given up, and the question is put
//! once more when [`Portion::wait`] has got a portion of the largest size, so never a third time.
//!
//! Nobody waits for a portion who has one, or who has a lock for which others wait that have one:
//! so nobody waits for ever. Portions are given in the order of asking. A registry gets no more
//! than a third of the budget, so that one which goes silent in the middle of a document keeps no
//! other one waiting; several such registries do, until the time of their exchanges is over.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::RegistryError;
use crate::threads::{lock, unpoisoned};

/// The largest document that needs no portion, in bytes.
pub(crate) const SMALL: u64 = 64 << 10;
/// The bytes of all portions. A larger document has the whole budget for itself.
const TOTAL: u64 = 12 << 20;
/// The bytes of one registry's portions. A larger document of a registry comes alone.
const SHARE: u64 = 4 << 20;
/// The time after which somebody who waits looks whether the run has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The budget of a run.
pub(crate) struct Portions {
    state: Mutex<State>,
    changed: Condvar,
    cancel: Cancel,
}

#[derive(Default)]
struct State {
    /// The bytes of all portions.
    taken: u64,
    /// The bytes of the portions of each registry that has one.
    by_registry: HashMap<Arc<str>, u64>,
    /// The readers that wait, in the order in which they came.
    waiting: VecDeque<Waiting>,
    /// The number of whoever waits next.
    next: u64,
}

struct Waiting {
    number: u64,
    registry: Arc<str>,
    bytes: u64,
}

impl State {
    /// True if the share of `registry` has room for `bytes` more.
    fn is_within_share(&self, registry: &str, bytes: u64) -> bool {
        let taken = self.by_registry.get(registry).copied().unwrap_or_default();
        taken == 0 || taken.saturating_add(bytes) <= SHARE
    }

    /// True if the budget has room for `bytes` more.
    fn is_within_total(&self, bytes: u64) -> bool {
        self.taken == 0 || self.taken.saturating_add(bytes) <= TOTAL
    }

    /// Finds whose turn it is: the first whose registry has not all of its share.
    fn first(&self) -> Option<&Waiting> {
        self.waiting.iter().find(|waiting| self.is_within_share(&waiting.registry, waiting.bytes))
    }

    fn take(&mut self, registry: &Arc<str>, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
        let own = self.by_registry.entry(Arc::clone(registry)).or_default();
        *own = own.saturating_add(bytes);
    }

    fn give_back(&mut self, registry: &str, bytes: u64) {
        self.taken = self.taken.saturating_sub(bytes);
        if let Some(own) = self.by_registry.get_mut(registry) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.by_registry.remove(registry);
            }
        }
    }
}

impl Portions {
    /// Makes a budget of which nothing is taken; nobody waits any more once `cancel` is thrown.
    pub(crate) fn new(cancel: Cancel) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), cancel })
    }

    /// Returns the portion of a reader of `registry` who has read nothing yet.
    pub(crate) fn portion(self: &Arc<Self>, registry: &str) -> Portion {
        Portion { portions: Arc::clone(self), registry: registry.into(), taken: 0 }
    }
}

/// One reader's part of the budget, given back when it is dropped.
pub(crate) struct Portion {
    portions: Arc<Portions>,
    registry: Arc<str>,
    /// The bytes taken from the budget.
    taken: u64,
}

impl Portion {
    /// Returns the size of the largest document that may be read.
    pub(crate) fn size(&self) -> u64 {
        self.taken.max(SMALL)
    }

    /// Grows to a document of `bytes`, if there is room for it and nobody is waiting for that.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        if bytes <= self.size() {
            return true;
        }
        let mut state = lock(&self.portions.state);
        // As if the old portion were given back and a new one asked for.
        state.give_back(&self.registry, self.taken);
        let is_free = state.is_within_share(&self.registry, bytes) && state.is_within_total(bytes);
        let grows = is_free && state.first().is_none();
        let taken = if grows { bytes } else { self.taken };
        state.take(&self.registry, taken);
        self.taken = taken;
        grows
    }

    /// Becomes as small as a document of `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let needed = if bytes <= SMALL { 0 } else { bytes.min(self.taken) };
        if needed < self.taken {
            let mut state = lock(&self.portions.state);
            state.give_back(&self.registry, self.taken - needed);
            drop(state);
            self.taken = needed;
            self.portions.changed.notify_all();
        }
    }

    /// Gives the portion back, and waits for another one for a document of `bytes`.
    ///
    /// # Errors
    /// The run was stopped.
    pub(crate) fn wait(&mut self, bytes: u64) -> Result<(), RegistryError> {
        self.shrink(0);
        if bytes <= SMALL {
            return Ok(());
        }
        let Portions { state, changed, cancel } = &*self.portions;
        let mut state = lock(state);
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Waiting { number, registry: Arc::clone(&self.registry), bytes });
        loop {
            let is_turn = state.first().is_some_and(|first| first.number == number);
            let goes_on = is_turn && state.is_within_total(bytes);
            let stopped = !goes_on && cancel.is_cancelled();
            if goes_on || stopped {
                state.waiting.retain(|waiting| waiting.number != number);
                if goes_on {
                    state.take(&self.registry, bytes);
                    self.taken = bytes;
                }
                drop(state);
                // Now it is somebody else's turn.
                changed.notify_all();
                return if goes_on { Ok(()) } else { Err(RegistryError::Stopped) };
            }
            (state, _) = unpoisoned(changed.wait_timeout(state, LOOK));
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits until so many others wait.
    fn until_waiting(portions: &Portions, count: usize) {
        while lock(&portions.state).waiting.len() < count {
            std::thread::yield_now();
        }
    }

    fn taken(portions: &Portions) -> u64 {
        let state = lock(&portions.state);
        assert_eq!(state.taken, state.by_registry.values().sum::<u64>());
        state.taken
    }

    #[test]
    fn small_documents_take_nothing_and_a_portion_is_given_back() {
        let portions = Portions::new(Cancel::new());
        let mut many: Vec<Portion> = (0..1000).map(|_| portions.portion("a")).collect();
        assert!(many.iter_mut().all(|portion| portion.grow(SMALL) && portion.wait(SMALL).is_ok()));
        assert_eq!(taken(&portions), 0);
        let mut large = portions.portion("a");
        assert!(large.grow(SMALL + 1) && large.grow(SHARE) && large.grow(1));
        assert_eq!((taken(&portions), large.size()), (SHARE, SHARE));
        large.shrink(SMALL + 5);
        large.shrink(SHARE);
        assert_eq!((taken(&portions), large.size()), (SMALL + 5, SMALL + 5));
        drop(large);
        assert_eq!(taken(&portions), 0);
    }

    #[test]
    fn a_registry_has_its_share_and_all_have_the_total() {
        let portions = Portions::new(Cancel::new());
        let grown = |registry: &str, bytes| {
            let mut portion = portions.portion(registry);
            portion.grow(bytes).then_some(portion)
        };
        let mut first = grown("a", SHARE / 2).unwrap();
        let _second = grown("a", SHARE / 2).unwrap();
        assert!(!first.grow(SHARE) && grown("a", SMALL + 1).is_none());
        assert_eq!(first.size(), SHARE / 2);
        let _others: Vec<Portion> = ["b", "c"].map(|registry| grown(registry, SHARE).unwrap()).into();
        assert_eq!(taken(&portions), TOTAL);
        assert!(grown("d", SMALL + 1).is_none());
        drop(first);
        assert!(grown("a", SHARE / 2).is_some() && grown("d", SHARE / 2).is_some());
    }

    #[test]
    fn a_document_that_is_larger_than_the_budget_comes_alone() {
        let portions = Portions::new(Cancel::new());
        let mut small = portions.portion("a");
        assert!(small.grow(SMALL + 1));
        let mut huge = portions.portion("b");
        assert!(!huge.grow(10 * TOTAL));
        drop(small);
        huge.wait(10 * TOTAL).unwrap();
        assert!(!portions.portion("a").grow(SMALL + 1));
        huge.wait(10 * TOTAL).unwrap();
        drop(huge);
        assert_eq!(taken(&portions), 0);
    }

    #[test]
    fn nobody_overtakes_but_those_whose_registry_has_room() {
        let portions = Portions::new(Cancel::new());
        let (told, served) = mpsc::channel();
        std::thread::scope(|scope| {
            // The silent registry has all of its share, and three more readers wait for it.
            let mut silent = portions.portion("silent");
            silent.wait(SHARE).unwrap();
            let wait = |name: &'static str, registry: &'static str, bytes| {
                let (portions, told) = (&portions, told.clone());
                let before = lock(&portions.state).waiting.len();
                scope.spawn(move || {
                    let mut portion = portions.portion(registry);
                    portion.wait(bytes).unwrap();
                    told.send((name, portion)).unwrap();
                });
                before
            };
            for count in 1..=3 {
                wait("silent", "silent", SHARE);
                until_waiting(&portions, count);
            }
            wait("first", "b", SHARE);
            let (name, first) = served.recv().unwrap();
            assert_eq!(name, "first");
            // All of the budget but a little; who wants more waits, and a later one does not pass.
            let mut other = portions.portion("c");
            assert!(other.grow(SHARE - SMALL));
            wait("large", "d", SHARE);
            until_waiting(&portions, 4);
            assert!(!portions.portion("e").grow(SMALL + 1));
            wait("later", "e", SMALL + 1);
            until_waiting(&portions, 5);
            drop(first);
            let (name, large) = served.recv().unwrap();
            assert_eq!(name, "large");
            drop((large, other));
            let (name, later) = served.recv().unwrap();
            assert_eq!(name, "later");
            drop((later, silent));
            for _ in 0..3 {
                assert_eq!(served.recv().unwrap().0, "silent");
            }
        });
        assert_eq!(taken(&portions), 0);
    }

    #[test]
    fn a_stopped_run_waits_no_more() {
        let cancel = Cancel::new();
        let portions = Portions::new(cancel.clone());
        let mut first = portions.portion("a");
        first.wait(SHARE).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| portions.portion("a").wait(SHARE));
            until_waiting(&portions, 1);
            cancel.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(RegistryError::Stopped)));
        });
        assert!(lock(&portions.state).waiting.is_empty());
    }
}
