//! The patience that a blob gets in one run. The registry keeps it, so that whoever begins anew has
//! no fresh one.

use std::time::Duration;

/// The breaks that a blob survives however little arrives between them.
const BREAKS: u64 = 100;
/// The bytes whose arrival forgives one more break.
const BYTES_PER_BREAK: u64 = 1 << 20;
/// The number of times that a blob is read again from its start, by servers that cannot go on in
/// the middle.
const RESTARTS: u32 = 6;
/// The time after which a server that was kept waiting may hang up: a line that is slow on purpose
/// looks to it like one that is dead.
const KEPT_WAITING: Duration = Duration::from_secs(10);
/// The time that the registry may let a blob wait, all `Retry-After` together.
const MAX_WAITED: Duration = Duration::from_secs(5 * 60);

/// The cost of a blob so far.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    breaks: u64,
    restarts: u32,
    waited: Duration,
    /// The furthest byte that arrived: a byte that arrives again earns nothing.
    furthest: u64,
}

impl Patience {
    /// Tells whether the blob may cost more.
    pub(crate) fn lasts(&self) -> bool {
        self.breaks <= BREAKS + self.furthest / BYTES_PER_BREAK
            && self.restarts < RESTARTS
            && self.waited <= MAX_WAITED
    }

    /// Takes note of a transfer that broke, after its server was `kept_waiting` by us.
    pub(crate) fn broke(&mut self, kept_waiting: Duration) {
        self.breaks += u64::from(kept_waiting < KEPT_WAITING);
    }

    /// Takes note of a transfer that begins at the blob's start once more.
    pub(crate) fn restarted(&mut self) {
        self.restarts += 1;
    }

    /// Takes note of a wait that the registry asked for.
    pub(crate) fn waited(&mut self, wait: Duration) {
        self.waited += wait;
    }

    /// Takes note that the blob arrived up to `position`.
    pub(crate) fn arrived(&mut self, position: u64) {
        self.furthest = self.furthest.max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_arrive_earn_breaks_and_nothing_earns_restarts_or_waits() {
        let mut patience = Patience::default();
        (0..BREAKS).for_each(|_| patience.broke(Duration::ZERO));
        assert!(patience.lasts());
        patience.broke(KEPT_WAITING);
        assert!(patience.lasts(), "the server is not to blame");
        patience.broke(Duration::from_secs(1));
        assert!(!patience.lasts());
        patience.arrived(BYTES_PER_BREAK);
        patience.arrived(1);
        assert!(patience.lasts());
        patience.waited(MAX_WAITED);
        assert!(patience.lasts());
        patience.waited(Duration::from_millis(1));
        assert!(!patience.lasts());
        let mut patience = Patience::default();
        (1..RESTARTS).for_each(|_| patience.restarted());
        assert!(patience.lasts());
        patience.restarted();
        assert!(!patience.lasts());
    }
}
