//! One flag that ends a run early, shared by every thread that waits or works.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use crate::threads;

/// The stop switch of a run. Cheap to clone; all clones are one switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    thrown: Condvar,
}

#[derive(Debug, Default)]
struct State {
    thrown: bool,
    parts: Vec<Weak<Shared>>,
}

impl Cancel {
    /// A switch that is not thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// A switch for a part of the run: thrown with this one, or alone.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = Self::default();
        let mut state = self.shared.lock();
        state.parts.retain(|part| part.strong_count() > 0);
        state.parts.push(Arc::downgrade(&part.shared));
        part.shared.lock().thrown = state.thrown;
        drop(state);
        part
    }

    /// Throws the switch: every [`Cancel::sleep`] returns at once. It cannot be taken back.
    pub fn cancel(&self) {
        self.shared.throw();
    }

    /// Tells whether the switch was thrown.
    pub fn is_cancelled(&self) -> bool {
        self.shared.lock().thrown
    }

    /// Sleeps for `duration`, or until the switch is thrown; `false` if it was.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let waited =
            self.shared.thrown.wait_timeout_while(self.shared.lock(), duration, |state| !state.thrown);
        let (state, _) = threads::unpoisoned(waited);
        !state.thrown
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        threads::lock(&self.state)
    }

    fn throw(&self) {
        let mut state = self.lock();
        state.thrown = true;
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        self.thrown.notify_all();
        parts.iter().filter_map(Weak::upgrade).for_each(|part| part.throw());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_sleep_ends_at_once() {
        let cancel = Cancel::new();
        assert!(cancel.sleep(Duration::from_millis(1)));
        let other = cancel.clone();
        let sleeper = std::thread::spawn(move || other.sleep(Duration::from_secs(600)));
        cancel.cancel();
        assert!(!sleeper.join().unwrap());
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn a_part_is_thrown_alone_or_with_the_whole() {
        let whole = Cancel::new();
        let (first, second) = (whole.part(), whole.part());
        first.cancel();
        assert!(first.is_cancelled() && !second.is_cancelled() && !whole.is_cancelled());
        let part_of_part = second.part();
        let sleeper = std::thread::spawn(move || part_of_part.sleep(Duration::from_secs(600)));
        whole.cancel();
        assert!(!sleeper.join().unwrap());
        assert!(second.is_cancelled() && whole.part().is_cancelled());
    }
}
