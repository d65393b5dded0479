//! The pulls that a registry still allows, against those that this run needs.
//!
//! Docker Hub counts every GET of a manifest, and no HEAD. Its answers say what is left:
//! `RateLimit-Remaining: 76;w=21600`, of a `RateLimit-Limit`, in a window of so many seconds.
//! Nothing is asked for this alone: the first answer of a run tells, and a run that needs more than
//! what is left says so then, once.
//!
//! Source: <https://docs.docker.com/docker-hub/usage/pulls/>

use std::sync::Mutex;

use crate::registry::transport::{Answer, Network};
use crate::threads::lock;

/// The pulls of one registry.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<State>);

#[derive(Default)]
struct State {
    /// Images of this run whose manifest is still to be fetched.
    needed: u64,
    /// The number that was reported last.
    told: Option<u64>,
    warned: bool,
}

/// `76;w=21600`: a count, and the seconds of its window.
fn read(answer: &Answer, name: &str) -> Option<(u64, Option<u64>)> {
    let mut parts = answer.header(name)?.split(';').map(str::trim);
    let count = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")).and_then(|seconds| seconds.parse().ok());
    Some((count, window))
}

impl Pulls {
    /// One more manifest is going to be fetched.
    pub(crate) fn expect(&self) {
        lock(&self.0).needed += 1;
    }

    /// One of those was fetched, or is not to be fetched any more.
    pub(crate) fn settle(&self) {
        let mut state = lock(&self.0);
        state.needed = state.needed.saturating_sub(1);
    }

    /// Takes note of what an answer of `registry` says; `counted` where it is one of those
    /// expected.
    pub(crate) fn hear(&self, network: &Network, registry: &str, answer: &Answer, counted: bool) {
        let mut state = lock(&self.0);
        if counted {
            state.needed = state.needed.saturating_sub(1);
        }
        let Some((left, window)) = read(answer, "ratelimit-remaining") else { return };
        let of = read(answer, "ratelimit-limit").map(|(limit, _)| format!(" of {limit}")).unwrap_or_default();
        if state.told != Some(left) {
            state.told = Some(left);
            network.detail(format!("{registry}: {left}{of} pulls left"));
        }
        if state.needed > left && !state.warned {
            state.warned = true;
            let period = match window {
                Some(seconds) if seconds >= 3600 => {
                    format!(", which it does every {} h", seconds.div_ceil(3600))
                }
                Some(seconds) => format!(", which it does every {seconds} s"),
                None => String::new(),
            };
            network.warn(format!(
                "{registry}: {left}{of} pulls are left, and this run needs at least {} more: the rest will be refused \
                 until the registry counts anew{period}",
                state.needed
            ));
        }
    }
}
