//! The finding of a look at something that msb-sync has brought here: a layer, a kept blob, or an
//! image in an engine.

use std::io;

use crate::sys;

/// The state of a thing beside what was recorded of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The thing is as it was extracted, fetched or loaded.
    Ok,
    /// There is no such thing.
    Missing,
    /// There is a layer without a readable inventory: msb-sync has not finished it.
    Incomplete,
    /// There is another thing in its place.
    Modified,
    /// The engine cannot be asked, or the file not be read: nobody knows.
    Blocked,
}

impl Status {
    /// True if the thing is certainly not as it was recorded.
    pub fn is_damaged(self) -> bool {
        matches!(self, Self::Missing | Self::Incomplete | Self::Modified)
    }

    /// Returns the word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Incomplete => "incomplete",
            Self::Modified => "modified",
            Self::Blocked => "blocked",
        }
    }

    /// Says what is known of a file that cannot be read for `error`. Only another thing in the
    /// file's place is proof of damage, and nothing else may be removed.
    pub(crate) fn of_unread(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ if sys::refusal(error).is_some() => Self::Modified,
            _ => Self::Blocked,
        }
    }
}

/// The state in which a thing was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The state of the thing now.
    pub status: Status,
    /// The damage that is or was found, for people.
    pub detail: Option<String>,
    /// True if the thing was damaged and is in order now.
    pub repaired: bool,
}

impl Finding {
    /// A thing in order.
    pub(crate) const OK: Self = Self { status: Status::Ok, detail: None, repaired: false };
    /// A thing that nobody has looked at yet.
    pub(crate) const UNSEEN: Self = Self { status: Status::Missing, detail: None, repaired: false };

    /// Makes the finding of a thing that is not in order.
    pub(crate) fn of(status: Status, detail: String) -> Self {
        Self { status, detail: Some(detail), repaired: false }
    }

    /// Takes note of the damage found `before` an attempt to repair the thing. Damage that is left
    /// is told as it was found first: damaged things are removed to be had again.
    pub(crate) fn look_back(&mut self, before: Self) {
        if self.status == Status::Ok {
            let was = before.detail.unwrap_or_else(|| before.status.as_str().to_owned());
            (self.repaired, self.detail) = (true, Some(format!("was: {was}")));
        } else if self.status.is_damaged() {
            *self = before;
        }
    }

    /// Adds the reason why the thing was not repaired.
    pub(crate) fn explain(&mut self, cause: &str) {
        let found = self.detail.take().map(|detail| format!("{detail}; ")).unwrap_or_default();
        self.detail = Some(format!("{found}not repaired: {cause}"));
    }
}
