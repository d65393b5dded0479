//! Failures of a layer's content: compression, tar, entries.

use std::io;

use crate::digest::DiffId;

/// The reason why a layer was refused or could not be extracted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The compressed stream is broken.
    #[error("cannot decompress the layer as {format}: {source}")]
    Decompress {
        /// The compression: gzip or zstd.
        format: &'static str,
        /// The error of the decoder.
        source: io::Error,
    },
    /// The tar stream is not a tar stream.
    #[error("broken tar at byte {offset}: {reason}")]
    Tar {
        /// The position in the uncompressed tar.
        offset: u64,
        /// The fault, for people.
        reason: String,
    },
    /// An entry is refused.
    #[error("entry {entry:?} is refused: {reason}")]
    Entry {
        /// The entry's name, lossily as text.
        entry: String,
        /// The fault, for people.
        reason: String,
    },
    /// An entry could not be written.
    #[error("cannot {doing} entry {entry:?}: {source}")]
    Write {
        /// The deed that failed, as an infinitive.
        doing: &'static str,
        /// The entry's name, lossily as text.
        entry: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file system of the layers has no room for an attribute of an entry.
    #[error(
        "the extended attribute {name:?} of entry {entry:?} is larger than the file system of the layers can keep"
    )]
    Xattr {
        /// The entry's name, lossily as text.
        entry: String,
        /// The attribute's name, lossily as text.
        name: String,
    },
    /// Two entries have names that are one on the file system of the layers.
    #[error(
        "entries {entry:?} and {other:?} have one name on the file system of the layers, which does not tell capitals \
         or forms of letters apart"
    )]
    SameName {
        /// The entry that came later, lossily as text.
        entry: String,
        /// The entry that is there.
        other: String,
    },
    /// A defect of msb-sync ends this layer and nothing else.
    #[error("a defect in msb-sync: {what} has failed")]
    Defect {
        /// The part of the program that failed.
        what: &'static str,
    },
    /// The layer is larger than the settings allow.
    #[error("the layer is larger than the settings allow: more than {limit} {what}")]
    Limit {
        /// The thing that is limited: bytes or entries.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The uncompressed tar is not the one that the image config names.
    #[error("the uncompressed layer does not match its diff_id: expected {expected}, got {actual}")]
    DiffId {
        /// The digest that the config names.
        expected: Box<DiffId>,
        /// The digest of the bytes that came.
        actual: Box<DiffId>,
    },
}

impl LayerError {
    /// True if the blob may be right all the same: this machine could not take it.
    pub fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Xattr { .. } | Self::SameName { .. } | Self::Defect { .. })
    }

    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decompress { .. } => "layer-compression",
            Self::Tar { .. } => "layer-tar",
            Self::Entry { .. } | Self::Xattr { .. } => "layer-entry",
            Self::SameName { .. } => "layer-names",
            Self::Defect { .. } => "defect",
            Self::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk-full",
                _ => "io",
            },
            Self::Limit { .. } => "limit",
            Self::DiffId { .. } => "diff-id-mismatch",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Limit { what: "entries", .. } => {
                Some("raise layer-entries under [settings.limits] if you trust this image".to_owned())
            }
            Self::Limit { .. } => {
                Some("raise layer-size under [settings.limits] if you trust this image".to_owned())
            }
            Self::Write { .. } if self.kind() == "disk-full" => Some(
                "free some space, or put the layers on another file system with `layers = …` under [settings]"
                    .to_owned(),
            ),
            Self::Write { source, .. } => super::store::limit_hint(source),
            Self::SameName { .. } => Some(
                "put the layers on a file system that tells capitals apart, with `layers = …` under [settings]"
                    .to_owned(),
            ),
            Self::Xattr { .. } => Some(
                "put the layers on a file system that keeps larger ones (xfs), with `layers = …` under [settings]"
                    .to_owned(),
            ),
            Self::DiffId { .. } | Self::Entry { .. } | Self::Tar { .. } | Self::Decompress { .. } => {
                Some("the image itself is at fault; nothing of this layer was kept".to_owned())
            }
            _ => None,
        }
    }
}
