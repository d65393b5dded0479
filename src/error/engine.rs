//! Failures of the engines that images are handed to.

use std::io;

use super::Error;

/// A failure of one engine. The words of its program are shown as they are, with control characters
/// escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The program of the engine cannot be started.
    #[error("cannot run {command} for engine {engine}: {source}")]
    NotRun {
        /// The name of the engine's table.
        engine: &'static str,
        /// The program.
        command: String,
        /// The system's words.
        source: io::Error,
    },
    /// The program of the engine failed.
    #[error("engine {engine}: {doing} failed: {status}{}", said(.words))]
    Failed {
        /// The name of the engine's table.
        engine: &'static str,
        /// The subcommand, as people type it: `podman load`.
        doing: String,
        /// The way in which it ended: `exit status: 1`.
        status: String,
        /// The last lines that it wrote to stderr, escaped; may be empty.
        words: String,
    },
    /// The program of the engine did not come to an end.
    #[error("engine {engine}: {doing} did not end: no progress for {seconds} seconds")]
    Hung {
        /// The name of the engine's table.
        engine: &'static str,
        /// The subcommand.
        doing: String,
        /// The patience, in seconds.
        seconds: u64,
    },
    /// The run was stopped while the engine was at work.
    #[error("engine {engine}: {doing} was stopped")]
    Stopped {
        /// The name of the engine's table.
        engine: &'static str,
        /// The subcommand.
        doing: String,
    },
    /// The engine is too old, or no version that is known.
    #[error("engine {engine}: {found} is too old: {needed} or newer is needed")]
    TooOld {
        /// The name of the engine's table.
        engine: &'static str,
        /// The version that it says it is.
        found: String,
        /// The oldest version that works.
        needed: &'static str,
    },
    /// The engine wrote something that cannot be read.
    #[error("engine {engine}: {doing} said something that cannot be read: {reason}")]
    Unreadable {
        /// The name of the engine's table.
        engine: &'static str,
        /// The subcommand.
        doing: String,
        /// The problem.
        reason: String,
    },
    /// The engine took the image and lists another one under its name, or none.
    #[error("engine {engine} lists {name} {found} after the load, not as {wanted}")]
    NotListed {
        /// The name of the engine's table.
        engine: &'static str,
        /// The reference.
        name: String,
        /// The digests that it lists, or that it lists none.
        found: String,
        /// The digest that was loaded.
        wanted: String,
    },
    /// The engine has an image under its name that is not whole.
    #[error("engine {engine} lists {name}, and has not all of it: {reason}")]
    Incomplete {
        /// The name of the engine's table.
        engine: &'static str,
        /// The reference.
        name: String,
        /// The engine's words.
        reason: String,
    },
    /// The engine was to be given a kept blob that is damaged.
    #[error("engine {engine}: the kept blob {digest} of the image is damaged, and taken away: {reason}")]
    DamagedBlob {
        /// The name of the engine's table.
        engine: &'static str,
        /// The digest of the blob.
        digest: String,
        /// The damage.
        reason: String,
        /// The reason why nobody may fetch the blob again; `None` where the next run does.
        refusal: Option<Box<Error>>,
    },
    /// The engine cannot hold such an image.
    #[error("engine {engine} cannot hold {name}: {reason}")]
    Unfit {
        /// The name of the engine's table.
        engine: &'static str,
        /// The reference.
        name: String,
        /// The reason.
        reason: &'static str,
    },
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl EngineError {
    /// The name of the engine's table.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::NotRun { engine, .. }
            | Self::Failed { engine, .. }
            | Self::Hung { engine, .. }
            | Self::Stopped { engine, .. }
            | Self::TooOld { engine, .. }
            | Self::Unreadable { engine, .. }
            | Self::NotListed { engine, .. }
            | Self::Incomplete { engine, .. }
            | Self::DamagedBlob { engine, .. }
            | Self::Unfit { engine, .. } => engine,
        }
    }

    /// True if it is no use to ask the engine for anything more: that would fail, or take as long.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::NotRun { .. } | Self::Hung { .. } | Self::Stopped { .. } | Self::TooOld { .. })
    }

    /// See [`Error::kind`](super::Error::kind): one word for all, whatever engine it is.
    pub fn kind(&self) -> &'static str {
        "engine"
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRun { engine, source, .. } if source.kind() == io::ErrorKind::NotFound => Some(format!(
                "install it, name its path with `command = …` under [engine.{engine}], or take the table out; what \
                 was loaded there can be taken out only by it"
            )),
            Self::TooOld { engine, needed, .. } => Some(format!("update {engine} to {needed} or newer")),
            Self::Unfit { .. } => Some("leave the engine out for it, with `engines = […]`".to_owned()),
            Self::DamagedBlob { refusal: Some(refusal), .. } => refusal.hint(),
            Self::DamagedBlob { .. } => Some("run again: what is not kept is fetched".to_owned()),
            Self::Hung { .. } => Some("look what it waits for, then run again".to_owned()),
            Self::Unreadable { engine, .. } => Some(format!(
                "is `command` under [engine.{engine}] the engine's program, and nothing around it that writes \
                 words of its own?"
            )),
            _ => None,
        }
    }
}
