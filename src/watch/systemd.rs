//! Messages to systemd (`sd_notify(3)`); nothing happens where there is no systemd.
//!
//! A message that cannot be delivered changes nothing for us: systemd then acts by its own
//! timeouts.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Tells that a run has ended: the service is up, or has reloaded.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Tells that SIGHUP came.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Tells what is going on, for `systemctl status`.
pub(super) fn status(text: &str) {
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// Tells that the watch ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells that the watch is well.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Pause between two calls of [`alive`]: half of what systemd asks for; `None` if it does not ask.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(10)))
}

/// The text without line ends, which would start another message.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
