//! The options of `watch`, and its notices: why runs start, and what became of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::Address;
use crate::sync::{Applied, Request, VerbError};

/// The options of `watch`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The request of each run. Its images file cannot be standard input.
    pub request: Request,
    /// The address that metrics and health are served at.
    pub metrics: Option<Address>,
    /// The pause between two looks at the files, instead of waiting for the kernel to tell.
    pub poll: Option<Duration>,
}

/// The reason why a run starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// A file or directory that the run reads changed.
    Changed(PathBuf),
    /// This number of wanted layers went away.
    LayersGone(usize),
    /// The catalog went away.
    CatalogGone(PathBuf),
    /// The interval is over: tags are looked up again.
    Interval,
    /// Something failed, and is tried again.
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

/// A message of `watch` beside the events of its runs.
#[derive(Debug)]
pub enum Notice<'a> {
    /// From now on no change is missed. The first run follows.
    Watching {
        /// The images file. Absolute.
        file: &'a Path,
        /// The pause between two lookups of all tags.
        interval: Duration,
        /// The address that metrics are served at.
        metrics: Option<SocketAddr>,
        /// The pause between two looks at the files of which the kernel does not tell, if there are
        /// any.
        poll: Option<Duration>,
    },
    /// A run starts, for these reasons.
    Triggered(&'a [Trigger]),
    /// A run ended.
    Applied {
        /// The plan of the run, and its outcome.
        applied: &'a Applied,
        /// The duration of the run.
        elapsed: Duration,
        /// The wait for the next run if nothing happens before.
        next: Duration,
    },
    /// A run could not be carried out: everything stays as the last good one left it.
    Failed {
        /// The reason.
        failure: &'a VerbError,
        /// True if the run before failed by the same, and nothing that it reads has changed.
        again: bool,
        /// The wait for the next run if nothing happens before.
        next: Duration,
    },
    /// The watch ends; a run that is going on is stopped.
    Stopping,
}

/// A hearer of [`Notice`]s.
pub trait Listener: Send + Sync {
    /// Takes note; must not block for long.
    fn notice(&self, notice: &Notice<'_>);
}
