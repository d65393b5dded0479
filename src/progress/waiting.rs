//! A new digest of a tag that is not taken before its time.

use std::fmt;

use jiff::{SignedDuration, Timestamp, Unit};

use crate::digest::BlobDigest;

/// A new digest that is not taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The digest.
    pub digest: BlobDigest,
    /// The time when this machine first saw the digest.
    pub since: Timestamp,
    /// The time from which the digest is taken.
    pub until: Timestamp,
}

impl fmt::Display for Waiting {
    /// Writes the digest, shortened, and both times: the days, or the seconds of a short cooldown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_long = self.until.duration_since(self.since) >= SignedDuration::from_hours(24);
        let shown = |time: Timestamp| {
            if is_long {
                time.strftime("%Y-%m-%d").to_string()
            } else {
                time.round(Unit::Second).unwrap_or(time).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
            }
        };
        let digest = self.digest.text();
        let (algorithm, start) =
            (self.digest.algorithm().as_str(), digest.hex().get(..12).unwrap_or_default());
        write!(f, "{algorithm}:{start}… seen {}, taken from {}", shown(self.since), shown(self.until))
    }
}
