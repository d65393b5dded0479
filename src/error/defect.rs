//! Defects of msb-sync itself: what the code promises itself, and what does not come true all the
//! same. A defect fails one image, or ends one run, with words instead of a panic.

use crate::digest::BlobDigest;

/// A promise within msb-sync that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// The observer forgot an image: nothing may be done about what nobody looked at.
    #[error("not looked up")]
    NotLookedUp,
    /// The executor got a plan that is to be shown only: the lockfile's word was never looked up.
    #[error("its locked digest was not looked up")]
    LockNotLookedUp,
    /// The registries were asked for all of an image, and answered that it is still the same.
    #[error("{0}: its registry did not say what it is")]
    Unanswered(BlobDigest),
    /// A run's thread ended without a result.
    #[error("the run ended unexpectedly")]
    RunEnded,
}

impl Defect {
    /// See [`Error::hint`](super::Error::hint).
    pub fn hint(&self) -> Option<String> {
        matches!(self, Self::RunEnded).then(|| "please report this".to_owned())
    }
}
