//! What `watch` is asked for, and what it tells: why runs start, and what became of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::Address;
use crate::sync::{Applied, Request, VerbError};

/// What `watch` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// As for `apply`. The images file cannot be standard input.
    pub request: Request,
    /// Where metrics and health are served.
    pub metrics: Option<Address>,
    /// Look at the files this often instead of waiting for the kernel to tell.
    pub poll: Option<Duration>,
}

/// Why a run was started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// A file or directory that the run reads changed.
    Changed(PathBuf),
    /// So many layers that are wanted went away.
    LayersGone(usize),
    /// The catalog went away.
    CatalogGone(PathBuf),
    /// It is time to look up the tags again.
    Interval,
    /// It is time to try again what failed.
    Retry,
    /// SIGHUP.
    Hangup,
}

impl Trigger {
    /// A word for machines.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Changed(_) => "file",
            Self::LayersGone(_) => "layer",
            Self::CatalogGone(_) => "catalog",
            Self::Interval => "interval",
            Self::Retry => "retry",
            Self::Hangup => "sighup",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(path) => write!(f, "{} changed", path.display()),
            Self::LayersGone(1) => f.write_str("a layer is gone"),
            Self::LayersGone(count) => write!(f, "{count} layers are gone"),
            Self::CatalogGone(path) => write!(f, "{} is gone", path.display()),
            Self::Interval => f.write_str("the interval is over"),
            Self::Retry => f.write_str("something failed"),
            Self::Hangup => f.write_str("SIGHUP"),
        }
    }
}

/// What `watch` tells beside the events of its runs.
#[derive(Debug)]
pub enum Notice<'a> {
    /// From now on no change is missed. The first run follows.
    Watching {
        /// The images file. Absolute.
        file: &'a Path,
        /// How often tags are looked up again.
        interval: Duration,
        /// Where metrics are served.
        metrics: Option<SocketAddr>,
        /// How often files are looked at of which the kernel does not tell, if there are any.
        poll: Option<Duration>,
    },
    /// A run starts, for these reasons.
    Triggered(&'a [Trigger]),
    /// A run ended.
    Applied {
        /// What it did.
        applied: &'a Applied,
        /// How long it took.
        elapsed: Duration,
        /// When the next one starts if nothing happens before.
        next: Duration,
    },
    /// A run could not be carried out: everything stays as the last good one left it.
    Failed {
        /// Why.
        failure: &'a VerbError,
        /// Whether the one before failed by the same, and nothing that it reads has changed.
        again: bool,
        /// When the next one starts if nothing happens before.
        next: Duration,
    },
    /// It ends; a run that is going on is stopped.
    Stopping,
}

/// Who hears of [`Notice`]s.
pub trait Listener: Send + Sync {
    /// Takes note; must not block for long.
    fn notice(&self, notice: &Notice<'_>);
}
