//! Reasons not to use what somebody else may have put in the place of a file.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use rustix::fs::{FileType, Stat};
use rustix::process::geteuid;

/// The reason why something on disk is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A symbolic link where none may be.
    Symlink,
    /// A thing of another type, in words, where a regular file is needed.
    NotAFile(&'static str),
    /// A thing of another type, in words, where a directory is needed.
    NotADirectory(&'static str),
    /// A thing of another user.
    Owner {
        /// The user who owns it.
        owner: u32,
        /// The user who runs this program.
        user: u32,
    },
    /// A file with several names, one of which may be another program's.
    HardLink,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("it is a symbolic link, which is not followed"),
            Self::NotAFile(kind) => write!(f, "it is not a regular file but {kind}"),
            Self::NotADirectory(kind) => write!(f, "it is not a directory but {kind}"),
            Self::Owner { owner, user } => write!(f, "it belongs to user {owner}, not to user {user}"),
            Self::HardLink => f.write_str("it has a second name somewhere (a hard link)"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::other(refusal)
    }
}

/// Tells why something is not used, if that is what `error` says.
pub(crate) fn refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref().copied()
}

pub(super) fn check_regular(found: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(Refusal::Symlink.into()),
        kind => Err(Refusal::NotAFile(in_words(kind)).into()),
    }
}

pub(super) fn check_own_file(found: &Stat) -> io::Result<()> {
    check_regular(found)?;
    check_owner(found)
}

pub(super) fn check_sole_own_file(found: &Stat) -> io::Result<()> {
    check_own_file(found)?;
    if found.st_nlink > 1 { Err(Refusal::HardLink.into()) } else { Ok(()) }
}

pub(super) fn check_own_directory(found: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => check_owner(found),
        FileType::Symlink => Err(Refusal::Symlink.into()),
        kind => Err(Refusal::NotADirectory(in_words(kind)).into()),
    }
}

pub(super) fn check_owner(found: &Stat) -> io::Result<()> {
    let (owner, user) = (found.st_uid, user());
    if is_own(owner) { Ok(()) } else { Err(Refusal::Owner { owner, user }.into()) }
}

/// True if `owner` is this user, or root, who could change everything anyway.
pub(crate) fn is_own(owner: u32) -> bool {
    owner == user() || owner == 0
}

/// The user as whom this process acts, from its start to its end.
fn user() -> u32 {
    static USER: OnceLock<u32> = OnceLock::new();
    *USER.get_or_init(|| geteuid().as_raw())
}

fn in_words(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something else",
    }
}
