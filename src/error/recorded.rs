//! Failures to do something with an image that the user names, by the catalog's or the store's
//! word.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{named, shell_word};
use crate::digest::BlobDigest;
use crate::image_ref::ImageRef;

/// A recorded image that `forget` does not forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unforgettable {
    /// Only microsandbox has recorded this image.
    Foreign(ImageRef),
    /// The first reference is the second name of the other image, and goes with it.
    SecondName(ImageRef, ImageRef),
}

impl fmt::Display for Unforgettable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(reference) => {
                write!(f, "{reference} was pulled by microsandbox itself and is left alone")
            }
            Self::SecondName(reference, first) => {
                write!(f, "{reference} is only the second name of {first}")
            }
        }
    }
}

impl Unforgettable {
    fn hint(&self) -> String {
        match self {
            Self::Foreign(_) => "remove it with microsandbox's own tools".to_owned(),
            Self::SecondName(_, first) => format!("msb-sync forget {first}"),
        }
    }
}

/// The catalog or the store does not have what the user asks for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordedError {
    /// Nobody has recorded these images.
    #[error("not recorded on this machine: {}", list(references))]
    Unknown {
        /// The images.
        references: Vec<ImageRef>,
        /// The recorded images that were probably meant.
        nearest: BTreeSet<String>,
    },
    /// Nobody has recorded the image that is to be shown.
    #[error("{reference}: not recorded on this machine")]
    NotHere {
        /// The image.
        reference: ImageRef,
        /// The recorded images of the same repository.
        others: Vec<ImageRef>,
    },
    /// The image has meant no other digest here.
    #[error("{reference} has meant no other digest on this machine")]
    NoEarlier {
        /// The image.
        reference: ImageRef,
    },
    /// No digest that the image has meant here, or more than one, is the one that is asked for.
    #[error("{}", match of_several {
        true => format!("{reference} has meant several digests that begin with {asked}"),
        false => format!("{reference} has never meant {asked} on this machine"),
    })]
    UnknownDigest {
        /// The image.
        reference: ImageRef,
        /// The text that was asked for.
        asked: String,
        /// True if it is the beginning of several.
        of_several: bool,
        /// The digests that the image has meant, the latest first.
        known: Vec<BlobDigest>,
    },
    /// The image is pinned to a digest, so that it has no other.
    #[error("{reference} is pinned to a digest, and never means another")]
    Pinned {
        /// The image.
        reference: ImageRef,
    },
    /// A lockfile decides which digest the image means.
    #[error("{place} says what {reference} means: {locked}")]
    Locked {
        /// The image.
        reference: ImageRef,
        /// The file and line of the digest.
        place: String,
        /// The lockfile.
        lockfile: String,
        /// The images file.
        images_file: String,
        /// The digest that stands there.
        locked: Box<BlobDigest>,
        /// The digest that is to stand there.
        instead: Box<BlobDigest>,
    },
    /// An images file that the user names owns no recorded image.
    #[error("{} has brought nothing that is recorded on this machine", named(owner))]
    UnknownOwner {
        /// The images file, as the user knows it.
        owner: PathBuf,
        /// The owners that were probably meant, the best guess first.
        nearest: Vec<String>,
    },
    /// The images are recorded, and are not msb-sync's to forget.
    #[error("{}", list_of(refused, "; "))]
    NotForgotten {
        /// Each image with its reason.
        refused: Vec<Unforgettable>,
    },
    /// The image lacks a layer on disk.
    #[error("{reference}: layer {layer} is not complete on disk")]
    Incomplete {
        /// The image.
        reference: ImageRef,
        /// The first layer that is not complete.
        layer: BlobDigest,
        /// True if only microsandbox has recorded the image.
        foreign: bool,
    },
    /// The image has no layers.
    #[error("{reference} has no layers")]
    NoLayers {
        /// The image.
        reference: ImageRef,
    },
    /// The path of a layer has characters that no mount option can name.
    #[error("no mount option can name {}", path.display())]
    NotMountable {
        /// The path.
        path: PathBuf,
    },
}

/// The recorded images of a repository that a hint names.
const MAX_OTHERS: usize = 8;

fn list(references: &[ImageRef]) -> String {
    list_of(references, ", ")
}

fn list_of(items: &[impl fmt::Display], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

impl RecordedError {
    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown { .. } | Self::NotHere { .. } => "not-recorded",
            Self::NoEarlier { .. } | Self::UnknownDigest { .. } => "no-earlier",
            Self::Pinned { .. } => "pinned",
            Self::Locked { .. } => "locked",
            Self::UnknownOwner { .. } => "unknown-owner",
            Self::NotForgotten { .. } => "not-forgotten",
            Self::Incomplete { .. } => "incomplete",
            Self::NoLayers { .. } => "no-layers",
            Self::NotMountable { .. } => "not-mountable",
        }
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown { nearest, .. } if nearest.is_empty() => "show what is recorded: msb-sync list",
            Self::Unknown { nearest, .. } => {
                let near: Vec<&str> = nearest.iter().map(String::as_str).collect();
                return Some(format!("did you mean {}?", near.join(", ")));
            }
            Self::NotHere { others, .. } if !others.is_empty() => {
                let (shown, more) = others.split_at(others.len().min(MAX_OTHERS));
                let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
                return Some(format!("recorded of its repository: {}{more}", list(shown)));
            }
            Self::NotHere { .. } => "show what is: msb-sync list; or fetch it: msb-sync pull",
            Self::NoEarlier { reference } => {
                return Some(format!("show what it has meant: msb-sync history {reference}"));
            }
            Self::UnknownDigest { known, .. } => {
                let (shown, more) = known.split_at(known.len().min(MAX_OTHERS));
                let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
                return Some(format!("it has meant {}{more}", list_of(shown, ", ")));
            }
            Self::Pinned { .. } => "write another digest, or the tag alone, into the images file",
            Self::Locked { reference, place, lockfile, images_file, instead, .. } => {
                return Some(locked_hint((place, lockfile, images_file), reference, instead));
            }
            Self::UnknownOwner { nearest, .. } if nearest.is_empty() => {
                "show what is recorded, and who manages it: msb-sync list"
            }
            Self::UnknownOwner { nearest, .. } => {
                return Some(format!("did you mean {}?", nearest.join(", ")));
            }
            Self::NotForgotten { refused } => {
                let hints: BTreeSet<String> = refused.iter().map(Unforgettable::hint).collect();
                return Some(hints.into_iter().collect::<Vec<_>>().join("; "));
            }
            Self::Incomplete { foreign: true, .. } => "let microsandbox pull it again",
            Self::Incomplete { .. } => "fetch it again: msb-sync apply, or msb-sync verify --repair",
            Self::NoLayers { .. } => return None,
            Self::NotMountable { .. } => "move the layers to a path without quotes and control characters",
        };
        Some(hint.to_owned())
    }
}

/// The next step where a lockfile stands in the way of an earlier digest. Its entry has more lines
/// than that of the digest: whoever changes one has to change all.
fn locked_hint(
    (place, lockfile, images_file): (&str, &str, &str),
    reference: &ImageRef,
    digest: &BlobDigest,
) -> String {
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let (log, file) = (shell_word(Path::new(lockfile)), shell_word(Path::new(images_file)));
    format!(
        "bring back the version of {lockfile} that has digest = \"{digest}\" at {place} (git log -p -- {log}), \
         then: msb-sync apply {file}; or list \"{}{tag}@{digest}\" in {images_file}, then: msb-sync lock {file} && \
         msb-sync apply {file}",
        reference.repository()
    )
}
