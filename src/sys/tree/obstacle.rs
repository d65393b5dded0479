//! Obstacles to a removal, and what it has left behind them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The reason why something stays.
#[derive(Debug)]
pub enum Obstacle {
    /// The thing is the root of another mount or file system.
    Mount,
    /// The thing, or the directory that it is in, may not be changed (`chattr +i` or `+a`).
    Immutable,
    /// A system call failed.
    Error(io::Error),
}

impl From<Errno> for Obstacle {
    fn from(errno: Errno) -> Self {
        Self::Error(errno.into())
    }
}

/// The things that a removal has left: the first one, and how many more. All else of the tree is
/// gone.
#[derive(Debug)]
pub struct Kept {
    /// The path of the first one, relative to the directory that the tree is in.
    pub path: PathBuf,
    /// The reason why it stays.
    pub why: Obstacle,
    /// The number of other things that stay.
    pub more: u64,
}

impl Kept {
    /// The same with the path below `directory`.
    #[must_use]
    pub fn under(self, directory: &Path) -> Self {
        Self { path: directory.join(&self.path), ..self }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Obstacle::Mount => write!(f, "something is mounted at {path}"),
            Obstacle::Immutable => write!(f, "{path} must not be changed (see lsattr)"),
            Obstacle::Error(error) => write!(f, "{path}: {error}"),
        }?;
        if self.more > 0 {
            write!(f, "; {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Kept {}

impl From<Kept> for io::Error {
    fn from(kept: Kept) -> Self {
        let kind = match &kept.why {
            Obstacle::Error(error) => error.kind(),
            Obstacle::Mount => io::ErrorKind::ResourceBusy,
            Obstacle::Immutable => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, kept)
    }
}
