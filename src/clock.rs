//! The time of day, as far as it can be told: clocks may be set to years that have no date.

use std::time::SystemTime;

use jiff::Timestamp;

/// Returns the present time, or the nearest one that has a date.
pub fn now() -> Timestamp {
    let now = SystemTime::now();
    let end = if now < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(now).unwrap_or(end)
}
