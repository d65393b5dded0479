//! Errors, by room. Each says what was being done, to which image, URL or path, and what went
//! wrong, in lower-case fragments; [`Error::hint`] is the next step, where there is one, and
//! [`Error::kind`] a stable word for machines (the `kind` in `--json` events).
//!
//! A message never carries a secret: URLs are shown without user info and query.

mod catalog;
mod defect;
mod engine;
mod hook;
mod input;
mod layer;
mod recorded;
mod registry;
mod selection;
mod signature;
mod store;
mod text;

pub use catalog::CatalogError;
pub use defect::Defect;
pub use engine::EngineError;
pub use hook::HookError;
pub use input::{InputError, InputFile};
pub use layer::LayerError;
pub use recorded::{RecordedError, Unforgettable};
pub use registry::{Login, Refusal, Refused, RegistryError, RegistryName, TlsCure, Trouble};
pub use selection::SelectionError;
pub use signature::{Finding, SignatureError, TrustFileError};
pub use store::StoreError;
pub(crate) use text::{
    HIDDEN, is_login, is_unseen, is_variable, named, names_digest, secret_parts, starts_query,
    without_likely_secrets, without_queries,
};
pub use text::{escape_into, printable, shell_word, without_secrets};

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::BlobDigest;

/// Anything that can fail for one image, one layer or a whole run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A registry failed, or served something that cannot be used.
    #[error(transparent)]
    Registry(RegistryError),
    /// The SQLite catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store's directories cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content of a layer is refused, or cannot be written.
    #[error("layer {digest}: {error}")]
    Layer {
        /// The digest of the layer.
        digest: BlobDigest,
        /// The failure.
        error: LayerError,
    },
    /// The digest that the lockfile names cannot be had.
    #[error("cannot get {digest}, to which the lockfile locks it")]
    LockedDigest {
        /// The locked digest.
        digest: BlobDigest,
        /// The registry's failure.
        source: Box<RegistryError>,
    },
    /// The lockfile and another source, the registry or the catalog, disagree about a digest.
    #[error("{who} another {what} than the lockfile says: {actual} instead of {expected}")]
    LockMismatch {
        /// The other source, with a verb.
        who: &'static str,
        /// The kind of thing: manifest or layer.
        what: &'static str,
        /// The lockfile's word.
        expected: String,
        /// The other source's word.
        actual: String,
    },
    /// `--offline` forbids asking for what is not here.
    #[error("{0}, and --offline forbids asking its registry")]
    Offline(Absent),
    /// The pull policy `never` forbids asking for what is not here.
    #[error("{0}, and its pull policy is \"never\"")]
    NeverPulled(Absent),
    /// A selection of tags cannot be carried out.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Several selections of one repository failed, each for a reason of its own.
    #[error("{}", joined(.0))]
    Several(Vec<Arc<Error>>),
    /// A command line, or a file that it names, cannot be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The catalog or the store does not have what the user asks for.
    #[error(transparent)]
    Recorded(#[from] RecordedError),
    /// `watch` cannot serve its metrics.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics {
        /// The address that was asked for.
        address: String,
        /// The system's words.
        source: io::Error,
    },
    /// The system refuses what a whole run needs: threads, signals.
    #[error("cannot {doing}: {source}")]
    System {
        /// The deed that failed, as an infinitive.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// An engine failed, or has something else than it was given.
    #[error(transparent)]
    Engine(EngineError),
    /// A hook failed, or could not be run.
    #[error(transparent)]
    Hook(HookError),
    /// The right signer has not signed the image.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Nobody can tell whether the right signer has signed the image.
    #[error("cannot look for the signatures that {rule} asks for")]
    Signatures {
        /// The place of the rule, `images.toml:12`.
        rule: String,
        /// The registry's failure.
        source: Box<RegistryError>,
    },
    /// msb-sync itself is at fault.
    #[error(transparent)]
    Defect(#[from] Defect),
    /// The run was stopped by a signal.
    #[error("stopped")]
    Stopped,
}

/// Something that is not on this machine, and that nobody may fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// An image.
    Image,
    /// An image as the lockfile has it.
    LockedImage,
    /// Some layers of a recorded image.
    Layers,
    /// Blobs of a recorded image whose layers are extracted, or need not be.
    Blobs,
    /// The documents of a recorded image.
    Documents,
    /// A blob that is kept, and is not what its digest says.
    DamagedBlob(BlobDigest),
    /// Any tag that fits this rule.
    Tag(String),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("not here"),
            Self::LockedImage => f.write_str("not here as the lockfile has it"),
            Self::Layers => f.write_str("not all of its layers are here"),
            Self::Blobs => f.write_str("not all of its blobs are kept here"),
            Self::Documents => f.write_str("its manifest is not kept here"),
            Self::DamagedBlob(digest) => write!(f, "its kept blob {digest} is damaged"),
            Self::Tag(rule) => write!(f, "no tag here fits {rule}"),
        }
    }
}

fn joined(errors: &[Arc<Error>]) -> String {
    errors.iter().map(|error| error.chain().join(": ")).collect::<Vec<_>>().join("; ")
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Stopped => Self::Stopped,
            error => Self::Registry(error),
        }
    }
}

impl From<EngineError> for Error {
    /// An engine that was stopped with the run has not failed.
    fn from(error: EngineError) -> Self {
        if let EngineError::Stopped { .. } = error { Self::Stopped } else { Self::Engine(error) }
    }
}

impl From<HookError> for Error {
    /// A hook that was stopped with the run has not failed.
    fn from(error: HookError) -> Self {
        if let HookError::Stopped { .. } = error { Self::Stopped } else { Self::Hook(error) }
    }
}

impl Error {
    /// A stable, machine-readable word for the kind of failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Layer { error, .. } => error.kind(),
            Self::LockedDigest { source, .. } | Self::Signatures { source, .. } => source.kind(),
            Self::LockMismatch { .. } => "lock-mismatch",
            Self::Offline(_) => "offline",
            Self::NeverPulled(_) => "pull-never",
            Self::Selection(error) => error.kind(),
            Self::Several(_) => "several",
            Self::Input(error) => error.kind(),
            Self::Recorded(error) => error.kind(),
            Self::Metrics { .. } => "metrics",
            Self::System { .. } => "system",
            Self::Engine(error) => error.kind(),
            Self::Hook(error) => error.kind(),
            Self::Signature(error) => error.kind(),
            Self::Defect(_) => "defect",
            Self::Stopped => "stopped",
        }
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Layer { error, .. } => error.hint(),
            Self::LockedDigest { source, .. } => match **source {
                RegistryError::Refused(ref answer) if answer.is_absent() => Some(
                    "the registry may have dropped it; to take what the tag means now: msb-sync lock --upgrade"
                        .to_owned(),
                ),
                _ => source.hint(),
            },
            Self::LockMismatch { .. } => Some(
                "the lockfile was changed by other hands: remove the image's entry, then run: msb-sync lock"
                    .to_owned(),
            ),
            Self::Offline(_) => Some("run without --offline".to_owned()),
            Self::NeverPulled(Absent::Tag(_)) => {
                Some("set pull = \"missing\" for this selection, or pull the images by hand".to_owned())
            }
            Self::NeverPulled(_) => {
                Some("set pull = \"missing\" for this image, or pull it by hand".to_owned())
            }
            Self::Selection(error) => error.hint(),
            Self::Several(errors) => errors.iter().find_map(|error| error.hint()),
            Self::Input(error) => error.hint(),
            Self::Recorded(error) => error.hint(),
            Self::Metrics { source, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => "another program listens there: choose another port".to_owned(),
                _ => "choose an address of this machine, and a port that this user may listen on".to_owned(),
            }),
            Self::Engine(error) => error.hint(),
            Self::Hook(error) => error.hint(),
            Self::Signature(error) => error.hint(),
            Self::Signatures { source, .. } => source.hint(),
            Self::Defect(defect) => defect.hint(),
            Self::System { .. } | Self::Stopped => None,
        }
    }

    /// The time to try again, where a registry said so and that is not soon.
    pub fn retry_at(&self) -> Option<SystemTime> {
        match self {
            Self::Registry(error) => error.retry_at(),
            Self::LockedDigest { source, .. } | Self::Signatures { source, .. } => source.retry_at(),
            _ => None,
        }
    }

    /// True if nothing was learnt from the registry: it was not reached, gave no answer, or said
    /// that it has a problem itself.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_outage(),
            Self::LockedDigest { source, .. } | Self::Signatures { source, .. } => source.is_outage(),
            Self::Several(errors) => errors.iter().all(|error| error.is_outage()),
            _ => false,
        }
    }

    /// The message and its causes, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // Many libraries repeat their cause in their own words.
            if !messages.iter().any(|said| said.contains(&message)) {
                messages.push(message);
            }
            cause = error.source();
        }
        messages
    }
}

#[cfg(test)]
mod tests;
