//! Failures of the directories that hold layers and downloads.

use std::io;
use std::path::PathBuf;

use super::named;
use crate::sys;

/// A failure on disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The deed that failed, as an infinitive.
        doing: &'static str,
        /// The path that it was done to.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A system call failed on a file that the user has named, or on its directory.
    #[error("cannot {doing} {}: {source}", named(path))]
    Named {
        /// The deed that failed, as an infinitive.
        doing: &'static str,
        /// The path that it was done to.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A directory is needed where something else is.
    #[error("cannot create the directory {}: {} is there and is no directory", path.display(), there.display())]
    InTheWay {
        /// The directory that is needed.
        path: PathBuf,
        /// The thing in the way: the path itself, or a parent that is no directory.
        there: PathBuf,
    },
    /// A layer would have to move that has a mount in it, or on it.
    #[error("cannot {doing} {}: something is mounted at {}", path.display(), mount.display())]
    Mounted {
        /// The deed that was to be done, as an infinitive.
        doing: &'static str,
        /// The layer's directory.
        path: PathBuf,
        /// The place where something is mounted.
        mount: PathBuf,
    },
    /// A layer would have to move that may not be changed.
    #[error("cannot {doing} {}: it must not be changed, or the directory that it is in", path.display())]
    Immutable {
        /// The deed that was to be done, as an infinitive.
        doing: &'static str,
        /// The layer's directory.
        path: PathBuf,
    },
    /// A layer would have to be replaced that somebody uses.
    #[error("{} is not replaced now: {who}", path.display())]
    InUse {
        /// The layer's directory.
        path: PathBuf,
        /// The user of the layer, or why that cannot be found out; for people.
        who: String,
    },
    /// The plan needs more space than there is.
    #[error(
        "not enough space in {}: {} are needed, {} are free",
        path.display(), in_units(*needed), in_units(*free)
    )]
    NoSpace {
        /// The directory that has too little space.
        path: PathBuf,
        /// The bytes that the plan needs.
        needed: u64,
        /// The bytes that the file system has for us.
        free: u64,
    },
}

impl StoreError {
    /// Wraps an I/O error with what was being done to which path.
    pub fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// Wraps an I/O error like [`StoreError::io`], of a file that the user has named: an images
    /// file, a lockfile, a bundle.
    pub fn named(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Named { doing, path, source }
    }

    /// See [`Error::kind`](super::Error::kind).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { source, .. } | Self::Named { source, .. } if sys::refusal(source).is_some() => {
                "refused"
            }
            Self::Io { source, .. } | Self::Named { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk-full",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "permission",
                io::ErrorKind::ResourceBusy => "in-use",
                _ => "io",
            },
            Self::InTheWay { .. } => "io",
            Self::Mounted { .. } | Self::InUse { .. } => "in-use",
            Self::Immutable { .. } => "permission",
            Self::NoSpace { .. } => "disk-full",
        }
    }

    fn is_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        if let Self::Named { source, .. } = self {
            let hint = match self.kind() {
                "disk-full" => "free some space there, or name a place on another file system",
                "refused" => {
                    "it was left as it is: look who put it there, then move it away, or name another file"
                }
                "permission" => {
                    "run as the user that may write there, or name a file in a directory of yours"
                }
                _ => return limit_hint(source),
            };
            return Some(hint.to_owned());
        }
        match self.kind() {
            "disk-full" => Some(
                "free some space, or put the layers on another file system with `layers = …` under [settings]"
                    .to_owned(),
            ),
            "refused" => Some(
                "it was left as it is: look who put it there, then move it away, or use another directory (--home, or `layers` in the images file)"
                    .to_owned(),
            ),
            "permission" if matches!(self, Self::Immutable { .. }) => {
                Some("lsattr shows which: take the attribute away (chattr -i, chattr -a), and run again".to_owned())
            }
            "permission" if self.is_read_only() => Some(
                "that file system may not be written: mount it so that it may, or use a directory elsewhere (--home, or `layers` in the images file)"
                    .to_owned(),
            ),
            "permission" => {
                Some("run as the user that owns the directory, or use one that is yours (--home, or `layers` in the images file)".to_owned())
            }
            "in-use" => Some("unmount it, or end what uses it, and run again".to_owned()),
            _ => match self {
                Self::Io { source, .. } => limit_hint(source),
                Self::InTheWay { there, .. } => {
                    Some(format!("move {} away, or choose another directory", there.display()))
                }
                _ => None,
            },
        }
    }
}

/// Tells what helps where a limit of this process is in the way.
pub(super) fn limit_hint(error: &io::Error) -> Option<String> {
    if sys::is_descriptor_shortage(error) {
        let hint = "raise the limit of open files (ulimit -n), or lower `downloads` under [settings] and -j";
        return Some(hint.to_owned());
    }
    if error.kind() == io::ErrorKind::TooManyLinks {
        let hint = "the file system gives one file no more names: put the layers on another one (xfs, btrfs), with `layers = …` under [settings]";
        return Some(hint.to_owned());
    }
    let hint =
        "this process may not write files so large: raise the limit (ulimit -f, LimitFSIZE= of systemd)";
    (error.kind() == io::ErrorKind::FileTooLarge).then(|| hint.to_owned())
}

/// `12.1 MiB (12687770 bytes)`.
fn in_units(bytes: u64) -> String {
    let mut unit = 1_u64 << 60;
    for name in ["EiB", "PiB", "TiB", "GiB", "MiB", "KiB"] {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return format!("{}.{} {name} ({bytes} bytes)", tenths / 10, tenths % 10);
        }
        unit >>= 10;
    }
    format!("{bytes} bytes")
}
