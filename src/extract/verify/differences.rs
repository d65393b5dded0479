//! The differences that a comparison of a tree with its inventory finds, as values and in words.

use std::fmt;

use crate::extract::paths::show;

/// The number of differences that are told; the others are counted.
const MAX_TOLD: usize = 5;

/// A way in which an entry is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The inventory does not have the entry.
    Added,
    /// The disk does not have the entry.
    Removed,
    /// A file, directory or symlink has become another of these.
    Kind,
    /// The entry belongs to this other user.
    Owner(u32),
    /// The permission bits differ.
    Mode,
    /// The size differs.
    Size,
    /// The bytes differ, though their number does not.
    Content,
    /// The modification time differs.
    Modified,
    /// The text of a symlink differs.
    LinkText,
    /// A hard link is a file of its own now.
    HardLink,
    /// An extended attribute is lost or has another value.
    Xattr(String),
    /// An extended attribute that the entry did not have.
    XattrAdded(String),
    /// The entry cannot be looked at; the system's words.
    Unreadable(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Kind => "type changed",
            Self::Owner(owner) => return write!(f, "belongs to user {owner}"),
            Self::Mode => "mode changed",
            Self::Size => "size changed",
            Self::Content => "content changed",
            Self::Modified => "mtime changed",
            Self::LinkText => "link text changed",
            Self::HardLink => "hard link broken",
            Self::Xattr(name) => return write!(f, "xattr {name} changed"),
            Self::XattrAdded(name) => return write!(f, "xattr {name} added"),
            Self::Unreadable(error) => return write!(f, "cannot be read: {error}"),
        })
    }
}

/// An entry that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The path in the layer, lossily as text; `.` is the layer directory itself.
    pub path: String,
    /// The ways in which the entry differs; never empty.
    pub changes: Vec<Change>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        for (index, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The differences between a tree and its inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// The first few entries that differ.
    pub told: Vec<Difference>,
    /// The number of entries that differ, those above included.
    pub count: u64,
}

impl Differences {
    /// Adds an entry that differs in `changes`, if there are any.
    pub(super) fn add(&mut self, path: &[u8], changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            let path = if path.is_empty() { ".".to_owned() } else { show(path) };
            self.told.push(Difference { path, changes });
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, difference) in self.told.iter().enumerate() {
            write!(f, "{}{difference}", if index == 0 { "" } else { "; " })?;
        }
        match self.count.saturating_sub(self.told.len() as u64) {
            0 => Ok(()),
            more => write!(f, "; {more} more"),
        }
    }
}
