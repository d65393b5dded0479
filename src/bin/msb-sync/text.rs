//! Text for terminals: columns, sizes, times, and nothing that could control the terminal.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use msb_sync::error;
pub(crate) use msb_sync::error::shell_word;

/// `text` with whatever could disturb a terminal escaped; line ends stay if `lines`.
pub(crate) fn printable(text: &str, lines: bool) -> String {
    if lines {
        text.split('\n').map(error::printable).collect::<Vec<_>>().join("\n")
    } else {
        error::printable(text)
    }
}

/// `home`, the value of `--home`, as the option of a command that the output suggests.
pub(crate) fn home_option(home: Option<&Path>) -> String {
    home.map_or_else(String::new, |home| format!(" --home {}", shell_word(home)))
}

/// `12.1 MiB`; whole bytes below 1 KiB.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut whole, mut rest, mut unit) = (count / 1024, count % 1024, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
}

/// `1 removal waits`, `2 removals wait`.
pub(crate) fn removals_wait(count: usize) -> String {
    format!("{} {}", plural(count, "removal"), if count == 1 { "waits" } else { "wait" })
}

/// `1 image stays for others`, `2 images stay for others`; `None` for none.
pub(crate) fn stay_for_others(count: usize) -> Option<String> {
    let stay = if count == 1 { "stays" } else { "stay" };
    (count > 0).then(|| format!("{} {stay} for others", plural(count, "image")))
}

/// `1 layer`, `2 layers`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `1 entry`, `2 entries`: for words whose plural is not one letter more.
pub(crate) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `0.3 s`, `15 s`, `1 min 20 s`, `5 min`, `2 h 1 min`: as exact as anybody wants to know.
pub(crate) fn duration(duration: Duration) -> String {
    let (seconds, tenths) = (duration.as_secs(), (duration.as_millis() + 50) / 100);
    if tenths < 100 && duration.subsec_nanos() > 0 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    let parts = match seconds {
        0..60 => return format!("{} s", (tenths + 5) / 10),
        60..3600 => [(seconds / 60, "min"), (seconds % 60, "s")],
        3600..86_400 => [(seconds / 3600, "h"), (seconds / 60 % 60, "min")],
        _ => [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h")],
    };
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// `3 days ago`: how long before `now` it is that `then` names, in RFC 3339 or as `YYYY-MM-DD
/// HH:MM:SS` in UTC. `None` where it is neither; what is still to come is `in the future`.
pub(crate) fn age(then: &str, now: Timestamp) -> Option<String> {
    const UNITS: [(i64, &str); 5] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
    ];
    let utc = |text: &str| Timestamp::strptime("%Y-%m-%d %H:%M:%S %z", format!("{text} +0000"));
    let then = then.parse().or_else(|_| utc(then)).ok()?;
    let seconds = now.as_second().saturating_sub(then.as_second());
    // Clocks that differ by a little are no news.
    if seconds < -60 {
        return Some("in the future".to_owned());
    }
    let large = UNITS.iter().find(|(unit, _)| seconds >= *unit);
    Some(match large {
        Some((unit, name)) => {
            format!("{} ago", plural(usize::try_from(seconds / unit).unwrap_or(usize::MAX), name))
        }
        None if seconds >= 60 => {
            format!("{} ago", plural(usize::try_from(seconds / 60).unwrap_or(usize::MAX), "minute"))
        }
        None => "just now".to_owned(),
    })
}

/// The first digits of a digest.
pub(crate) fn short(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
    format!("{algorithm}:{}…", hex.get(..12).unwrap_or(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        let sizes: Vec<String> = [0, 1023, 1024, 1536, 3_670_016, 1 << 40, u64::MAX].map(bytes).to_vec();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.5 MiB", "1.0 TiB", "16383.9 PiB"]);
        for (milliseconds, expected) in [
            (0, "0 s"),
            (49, "0.0 s"),
            (1_250, "1.3 s"),
            (2_000, "2 s"),
            (9_960, "10 s"),
            (15_000, "15 s"),
            (15_700, "16 s"),
            (80_000, "1 min 20 s"),
            (300_000, "5 min"),
            (3_600_000, "1 h"),
            (7_265_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected, "{milliseconds} ms");
        }
        assert_eq!(count(1, "entry", "entries") + &count(2, "entry", "entries"), "1 entry2 entries");
    }

    #[test]
    fn ages_read_well() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (then, expected) in [
            ("2026-01-31T11:59:30Z", Some("just now")),
            ("2026-01-31T12:00:30Z", Some("just now")),
            ("2026-01-31T13:00:00+02:00", Some("1 hour ago")),
            ("2026-01-31 11:58:59", Some("1 minute ago")),
            ("2026-01-28T11:00:00.25Z", Some("3 days ago")),
            ("2026-01-17T11:00:00Z", Some("2 weeks ago")),
            ("2025-11-01T00:00:00Z", Some("3 months ago")),
            ("1970-01-01T00:00:00Z", Some("56 years ago")),
            ("2027-01-01T00:00:00Z", Some("in the future")),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(age(then, now).as_deref(), expected, "{then}");
        }
    }

    #[test]
    fn line_ends_stay_where_they_may() {
        assert_eq!(printable("a\r\nb", false), "a\\r\\nb");
        assert_eq!(printable("a\r\nb\n", true), "a\\r\nb\n");
    }
}
