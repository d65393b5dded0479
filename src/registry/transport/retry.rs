//! The loop that tries again, and its waits.

use std::time::Duration;

use super::failure::FailedTry;
use super::network::Network;
use crate::error::RegistryError;

/// The number of tries before a failure is final (the contract says at least 5).
pub(crate) const TRIES: u32 = 6;
/// The longest wait between two tries that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// The first wait between two tries; it doubles from there.
const BACKOFF: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });

/// Runs `attempt` until it succeeds, fails for good, or has failed `tries` times.
pub(crate) fn retry<T>(
    network: &Network,
    tries: u32,
    mut attempt: impl FnMut() -> Result<T, FailedTry>,
) -> Result<T, RegistryError> {
    let mut failures = 0;
    loop {
        network.check()?;
        let failed = match attempt() {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        failures += 1;
        if !failed.may_pass() || failures >= tries {
            network.check()?;
            return Err(failed.error);
        }
        pause(network, &failed, failures)?;
    }
}

/// Waits before the next try, after `failures` in a row, of which the last one
/// [may pass](FailedTry::may_pass).
pub(crate) fn pause(network: &Network, failed: &FailedTry, failures: u32) -> Result<(), RegistryError> {
    network.check()?;
    let doubled = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BACKOFF);
    // Jitter spreads clients that failed together; it never goes below half the wait.
    let wait = doubled.mul_f64(0.5 + fastrand::f64() / 2.0);
    let wait = failed.after.map_or(wait, |after| after.max(wait));
    let asked = match failed.after {
        Some(after) if !after.is_zero() => format!("it asks to wait {} s; ", after.as_secs()),
        _ => String::new(),
    };
    let about = failed.about.as_ref().map_or_else(String::new, |about| format!("{about}: "));
    let text = format!("{about}{}; {asked}trying again in {:.1} s", failed.error, wait.as_secs_f64());
    if failed.after.is_some() && wait >= MAX_BACKOFF {
        network.warn(text);
    } else {
        network.detail(text);
    }
    if network.cancel.sleep(wait) { Ok(()) } else { Err(RegistryError::Stopped) }
}
