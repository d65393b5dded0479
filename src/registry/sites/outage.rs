//! The memory of an endpoint that could not be reached, so that its next lookups need not find out
//! again.
//!
//! Six tries take seconds where connections are refused, and minutes where nobody answers. Once one
//! lookup has made them all in vain, the others of that registry fail at once for a while (nobody
//! is there) or have one try (somebody is there and says nothing). An answer, whatever it says,
//! ends the outage.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::{RegistryError, Trouble};
use crate::registry::transport::TRIES;
use crate::threads::lock;

/// The time in which nobody tries again.
const REST: Duration = Duration::from_secs(30);

/// The outage of one endpoint, if there is one.
#[derive(Default)]
pub(super) struct Outage(Mutex<Option<Known>>);

enum Known {
    /// Nobody listens, or nobody knows where.
    Unreachable { since: Instant, reason: String, trouble: Trouble },
    /// The endpoint takes requests and answers none.
    Silent,
}

impl Outage {
    /// Returns the error of the next request, if that is known already.
    pub(crate) fn error(&self) -> Option<RegistryError> {
        match &*lock(&self.0) {
            Some(Known::Unreachable { since, reason, trouble }) if since.elapsed() < REST => {
                Some(RegistryError::Unreachable { reason: reason.clone(), trouble: *trouble })
            }
            _ => None,
        }
    }

    /// Returns the number of tries that a request gets.
    pub(crate) fn tries(&self) -> u32 {
        if lock(&self.0).is_some() { 1 } else { TRIES }
    }

    /// Takes note that the endpoint answered.
    pub(crate) fn answered(&self) {
        *lock(&self.0) = None;
    }

    /// Takes note of why all tries of a request failed.
    pub(crate) fn failed(&self, error: &RegistryError) {
        let mut known = lock(&self.0);
        match error {
            // That is what is known already.
            RegistryError::Unreachable { .. } if matches!(&*known, Some(Known::Unreachable { since, .. }) if since.elapsed() < REST) =>
                {}
            RegistryError::Unreachable {
                reason,
                trouble:
                    trouble @ (Trouble::Refused
                    | Trouble::HostNotFound
                    | Trouble::NoAnswer
                    | Trouble::Proxy
                    | Trouble::ProxyLogin
                    | Trouble::TokenServer),
            } => {
                let (reason, trouble) = (reason.clone(), *trouble);
                *known = Some(Known::Unreachable { since: Instant::now(), reason, trouble });
            }
            RegistryError::Stalled { .. } | RegistryError::Slow { .. } => *known = Some(Known::Silent),
            RegistryError::Stopped => {}
            // A connection that breaks may be about one repository; everything else is an answer.
            _ => *known = None,
        }
    }
}
