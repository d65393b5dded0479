//! The permission to ask an image's registry, which a user or an images file may withhold.

use crate::error::{Absent, Error};

/// The permission to ask the registry of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The registry may be asked.
    Granted,
    /// `--offline` forbids it.
    Offline,
    /// The pull policy forbids it.
    NeverPulled,
}

impl Permission {
    /// The error of an image that lacks something; `None` where its registry may be asked.
    pub fn refusal(self, absent: Absent) -> Option<Error> {
        match self {
            Self::Granted => None,
            Self::Offline => Some(Error::Offline(absent)),
            Self::NeverPulled => Some(Error::NeverPulled(absent)),
        }
    }
}
