//! The reasons of a plan: each has its words, a code for scripts, and the one action that it leads
//! to.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Error;
use crate::image_ref::ImageRef;
use crate::progress::Waiting;
use crate::state::{Action, BlobsState, EngineName, LayersState, Owner, Platform, ToLoad};

/// The reason why a plan does something, or nothing, about an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody has recorded the image.
    NotRecorded,
    /// Only microsandbox has recorded the image, and so without its digest.
    OnlyMicrosandbox,
    /// The tag means another digest than was recorded.
    AnotherDigest,
    /// The lockfile names another digest than was recorded.
    LockedDigest,
    /// The lockfile names another manifest than was recorded under the same digest: one of the two
    /// is wrong.
    LockedManifest,
    /// The reference goes back to an earlier digest.
    BackToEarlier,
    /// The image is recorded for another platform.
    AnotherPlatform {
        /// The recorded platform, where the catalog knows it.
        recorded: Option<Platform>,
        /// The platform that is wanted.
        wanted: Platform,
    },
    /// Some layers are not complete on disk.
    Layers(LayersState),
    /// Some blobs are not kept.
    Blobs(BlobsState),
    /// An engine does not have the image, or has another one.
    Engine {
        /// The engine.
        engine: EngineName,
        /// The reason for a load.
        to_load: ToLoad,
    },
    /// The catalog lacks rows of the image, or has damaged ones.
    Rows,
    /// Everything is as it should be.
    InSync,
    /// Everything is there, and the image is held at its digest whatever the tag means.
    Held {
        /// The time since when it is held.
        since: Timestamp,
    },
    /// Everything is as it should be as long as a new digest of the tag is not taken.
    NewDigest(Waiting),
    /// The image is ready to be recorded.
    Staged,
    /// The run does not do what is to be done for this reason: the next one does.
    Left(Box<Self>),
    /// The image cannot be had.
    Blocked(Arc<Error>),
    /// The owner does not list the image any more.
    NotListed {
        /// True if a selection of the repository's tags was made and did not choose this one.
        not_chosen: bool,
        /// Whoever keeps the image all the same.
        remains: Vec<Remains>,
    },
    /// The user asked to forget the image.
    AskedFor {
        /// The owners that lose the image.
        wanted_by: Vec<Owner>,
        /// Whoever keeps the image all the same.
        remains: Vec<Remains>,
    },
}

/// Whoever keeps an image that is removed or forgotten for somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remains {
    /// Other owners want the image.
    For(Vec<Owner>),
    /// The image is the second name of this one, which stays.
    SecondNameOf(ImageRef),
    /// microsandbox had the image before msb-sync.
    ForMicrosandbox,
}

impl Reason {
    /// The action that the reason leads to.
    pub fn action(&self) -> Action {
        match self {
            Self::AnotherDigest
            | Self::LockedDigest
            | Self::LockedManifest
            | Self::BackToEarlier
            | Self::AnotherPlatform { .. }
            | Self::Engine { to_load: ToLoad::AnotherDigest, .. } => Action::Update,
            Self::NotRecorded | Self::OnlyMicrosandbox | Self::Engine { .. } => Action::Add,
            Self::Layers(_) | Self::Blobs(_) | Self::Rows => Action::Repair,
            Self::InSync | Self::Held { .. } | Self::NewDigest(_) | Self::Staged | Self::Left(_) => {
                Action::Keep
            }
            Self::Blocked(_) => Action::Blocked,
            Self::NotListed { .. } | Self::AskedFor { .. } => Action::Remove,
        }
    }

    /// True if somebody keeps the image that is removed or forgotten for somebody else.
    pub fn keeps_image(&self) -> bool {
        match self {
            Self::NotListed { remains, .. } | Self::AskedFor { remains, .. } => !remains.is_empty(),
            _ => false,
        }
    }

    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRecorded => "not-recorded",
            Self::OnlyMicrosandbox => "only-microsandbox",
            Self::AnotherDigest => "another-digest",
            Self::LockedDigest => "locked-digest",
            Self::LockedManifest => "locked-manifest",
            Self::BackToEarlier => "back-to-earlier",
            Self::AnotherPlatform { .. } => "another-platform",
            Self::Layers(_) => "layers",
            Self::Blobs(_) => "blobs",
            Self::Engine { .. } => "engine",
            Self::Rows => "rows",
            Self::InSync => "in-sync",
            Self::Held { .. } => "held",
            Self::NewDigest(_) => "new-digest",
            Self::Staged => "staged",
            Self::Left(_) => "left",
            Self::Blocked(_) => "blocked",
            Self::NotListed { .. } => "not-listed",
            Self::AskedFor { .. } => "asked-for",
        }
    }

    /// True if the action says as much as the words do.
    pub fn is_evident(&self) -> bool {
        matches!(self, Self::NotRecorded | Self::AnotherDigest | Self::InSync)
    }

    /// The error that blocks the image.
    pub fn error(&self) -> Option<&Arc<Error>> {
        match self {
            Self::Blocked(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRecorded => f.write_str("not recorded yet"),
            Self::OnlyMicrosandbox => f.write_str("recorded by microsandbox only"),
            Self::AnotherDigest => f.write_str("the tag means another digest now"),
            Self::LockedDigest => f.write_str("by the lockfile"),
            Self::BackToEarlier => f.write_str("back to an earlier digest, and held there"),
            Self::LockedManifest => f.write_str("the lockfile names another manifest"),
            Self::AnotherPlatform { recorded: Some(recorded), wanted } => write!(f, "{recorded} → {wanted}"),
            Self::AnotherPlatform { recorded: None, wanted } => write!(f, "another platform → {wanted}"),
            Self::Layers(layers) => write_layers(f, layers),
            Self::Blobs(blobs) => {
                write!(f, "{} blob{} not kept", blobs.missing, if blobs.missing == 1 { "" } else { "s" })
            }
            Self::Engine { engine, to_load } => match to_load {
                ToLoad::Absent => write!(f, "not in {engine}"),
                ToLoad::AnotherDigest => write!(f, "another digest in {engine}"),
                ToLoad::LoadFailed => write!(f, "its load into {engine} is not known to be good"),
            },
            Self::Rows => f.write_str("rows missing or damaged in the catalog"),
            Self::InSync => f.write_str("in sync"),
            Self::Staged => f.write_str("staged: the next apply records it"),
            Self::Left(reason) => write!(f, "{reason}: left to the next apply"),
            Self::Held { since } => {
                write!(f, "held since rollback {}", since.strftime("%Y-%m-%d %H:%M UTC"))
            }
            Self::NewDigest(waiting) => write!(f, "new digest {waiting}"),
            Self::Blocked(error) => error.fmt(f),
            Self::NotListed { not_chosen, remains } => {
                f.write_str("not listed any more")?;
                f.write_str(if *not_chosen { ": not among the tags chosen now" } else { "" })?;
                write_remains(f, remains)
            }
            Self::AskedFor { wanted_by, remains } => {
                f.write_str("asked for")?;
                if !wanted_by.is_empty() {
                    write!(f, "; was wanted by {}", Names(wanted_by))?;
                }
                write_remains(f, remains)
            }
        }
    }
}

fn write_layers(f: &mut fmt::Formatter<'_>, layers: &LayersState) -> fmt::Result {
    let counts = [
        (layers.missing, "missing on disk"),
        (layers.untrusted, "incomplete on disk"),
        (layers.unbound, "in another directory than was extracted, to be compared"),
    ];
    let mut separator = "";
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        write!(f, "{separator}{count} layer{} {what}", if count == 1 { "" } else { "s" })?;
        separator = ", ";
    }
    Ok(())
}

fn write_remains(f: &mut fmt::Formatter<'_>, remains: &[Remains]) -> fmt::Result {
    remains.iter().try_for_each(|remains| match remains {
        Remains::For(owners) => write!(f, "; stays for {}", Names(owners)),
        Remains::SecondNameOf(first) => write!(f, "; stays as the second name of {first}"),
        Remains::ForMicrosandbox => f.write_str("; stays for microsandbox, which had it first"),
    })
}

/// Owners as a list in words.
struct Names<'a>(&'a [Owner]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}
