//! Times, sizes and digests in words, for the page.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// The whole seconds of `time`, as far as it can be told: clocks may be set to years that have no
/// date.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let end = if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    whole_seconds(Timestamp::try_from(time).unwrap_or(end))
}

/// `time` without the part of a second.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Reads a time that a catalog or a config writes: RFC 3339, or `YYYY-MM-DD HH:MM:SS` in UTC.
pub(super) fn read_time(text: &str) -> Option<Timestamp> {
    let utc = |text: &str| Timestamp::strptime("%Y-%m-%d %H:%M:%S %z", format!("{text} +0000"));
    text.parse().or_else(|_| utc(text)).ok().map(whole_seconds)
}

/// `3 weeks`: the largest unit that fits.
pub(super) fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 7] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let large = UNITS.iter().find(|(unit, _)| seconds >= *unit);
    large.map_or_else(|| "a moment".to_owned(), |(unit, name)| counted(seconds / unit, name))
}

/// `3 weeks ago`; clocks that differ by a little are no news.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    match now.as_second().saturating_sub(then.as_second()) {
        ..-60 => "in the future".to_owned(),
        -60..5 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// `in 4 minutes`; `now` where the time has come.
pub(super) fn ahead(then: Timestamp, now: Timestamp) -> String {
    match then.as_second().saturating_sub(now.as_second()) {
        ..=0 => "now".to_owned(),
        seconds => format!("in {}", span(seconds)),
    }
}

/// `0.3 s`, `42 s`, `5 min`, `1 h 20 min`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (large, small) = match seconds {
        0..10 => {
            let tenths = duration.as_millis() / 100;
            return match (tenths / 10, tenths % 10) {
                (0, 0) => "less than 0.1 s".to_owned(),
                (whole, 0) => format!("{whole} s"),
                (whole, tenth) => format!("{whole}.{tenth} s"),
            };
        }
        10..60 => return format!("{seconds} s"),
        60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        _ => ((seconds / 3600, "h"), (seconds % 3600 / 60, "min")),
    };
    match small {
        (0, _) => format!("{} {}", large.0, large.1),
        (small, unit) => format!("{} {} {small} {unit}", large.0, large.1),
    }
}

/// `12.1 MiB`; whole bytes below 1 KiB.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(exponent) = count.checked_ilog2().map(|bits| bits / 10).filter(|exponent| *exponent > 0) else {
        return format!("{count} B");
    };
    let unit = 1_u64 << (10 * exponent);
    let tenths = u128::from(count % unit) * 10 / u128::from(unit);
    let name = UNITS.get(exponent as usize - 1).copied().unwrap_or_default();
    format!("{}.{tenths} {name}", count / unit)
}

/// `1 image`, `2 images`.
pub(super) fn counted(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or_default() {
        1 => format!("1 {what}"),
        count => format!("{} {what}s", grouped(count)),
    }
}

/// `10,000`.
pub(super) fn grouped(count: impl TryInto<u64>) -> String {
    let digits = count.try_into().unwrap_or_default().to_string();
    let is_begin = |position: usize| position > 0 && (digits.len() - position).is_multiple_of(3);
    let groups =
        digits.char_indices().flat_map(|(position, digit)| [is_begin(position).then_some(','), Some(digit)]);
    groups.flatten().collect()
}

/// The first digits of a digest, without its algorithm.
pub(super) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_read_well() {
        let now = at("2026-01-31T12:00:00Z");
        for (then, expected) in [
            ("2026-01-31T11:59:58Z", "just now"),
            ("2026-01-31T12:00:30Z", "just now"),
            ("2026-01-31T12:02:00Z", "in the future"),
            ("2026-01-31T11:59:30Z", "30 seconds ago"),
            ("2026-01-31T11:58:59Z", "1 minute ago"),
            ("2026-01-28T11:00:00Z", "3 days ago"),
            ("1970-01-01T00:00:00Z", "56 years ago"),
        ] {
            assert_eq!(ago(at(then), now), expected, "{then}");
        }
        assert_eq!(ahead(at("2026-01-31T12:04:59Z"), now), "in 4 minutes");
        assert_eq!(ahead(at("2026-01-31T11:04:59Z"), now), "now");
        assert_eq!(read_time("2026-01-31 11:58:59"), Some(at("2026-01-31T11:58:59Z")));
        assert_eq!(read_time("2026-01-31T13:00:00.25+02:00"), Some(at("2026-01-31T11:00:00Z")));
        assert_eq!(read_time("yesterday"), None);
        assert_eq!(
            timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            at("1970-01-01T00:00:01Z")
        );
    }

    #[test]
    fn durations_and_sizes_read_well() {
        let durations = [20, 300, 1250, 9_000, 15_040, 60_000, 80_000, 3_600_000, 4_800_000];
        let words = durations.map(|millis| duration(Duration::from_millis(millis)));
        assert_eq!(
            words,
            ["less than 0.1 s", "0.3 s", "1.2 s", "9 s", "15 s", "1 min", "1 min 20 s", "1 h", "1 h 20 min"]
        );
        let sizes = [0, 1023, 1024, 1536, 3_670_016, 1 << 40, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.5 MiB", "1.0 TiB", "15.9 EiB"]);
        assert_eq!(
            (counted(1_u64, "layer"), counted(0_usize, "layer")),
            ("1 layer".into(), "0 layers".into())
        );
        assert_eq!([0_usize, 999, 1000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
        assert_eq!((short("sha256:0123456789abcdef"), short("sha256:é")), ("0123456789ab", "é"));
    }
}
