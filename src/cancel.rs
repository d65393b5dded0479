//! One flag that ends a run early, shared by every thread that waits or works.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A run's stop switch. Cheap to clone; all clones are one switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Cancel {
    /// A switch that is not thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Throws the switch: every [`Cancel::sleep`] returns at once. It cannot be taken back.
    pub fn cancel(&self) {
        let (flag, condvar) = &*self.shared;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        condvar.notify_all();
    }

    /// Whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `duration`, or until the switch is thrown; `false` if it was.
    #[must_use]
    pub fn sleep(&self, duration: Duration) -> bool {
        let (flag, condvar) = &*self.shared;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = condvar
            .wait_timeout_while(guard, duration, |cancelled| !*cancelled)
            .unwrap_or_else(PoisonError::into_inner);
        !*guard
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
}
