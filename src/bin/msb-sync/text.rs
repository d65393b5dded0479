//! Text for terminals: columns, sizes, times, and nothing that could control the terminal.

use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use msb_sync::error;
use unicode_width::UnicodeWidthStr;

/// `text` with whatever could disturb a terminal escaped; line ends stay if `lines`.
pub(crate) fn printable(text: &str, lines: bool) -> String {
    if lines {
        text.split('\n').map(error::printable).collect::<Vec<_>>().join("\n")
    } else {
        error::printable(text)
    }
}

/// `path` as a word for a shell, with nothing in it that could control a terminal.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = printable(&path.display().to_string(), false);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
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

/// `1 layer`, `2 layers`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `0.3 s`, `1 min 20 s`.
pub(crate) fn duration(duration: Duration) -> String {
    if duration.as_secs() >= 60 {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// The time, as far as it can be told: clocks may be set to years that have no date.
pub(crate) fn now() -> Timestamp {
    let now = SystemTime::now();
    let end = if now < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(now).unwrap_or(end)
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

/// Breaks `text` at blanks into lines of `width` columns: the first one begins with `first`, all
/// others with `next`. A word that is longer than a line has one of its own.
pub(crate) fn wrapped(text: &str, first: &str, next: &str, width: usize) -> String {
    let (mut out, mut line, mut empty) = (String::new(), first.to_owned(), true);
    for word in printable(text, false).split(' ') {
        if !empty && line.width() + 1 + word.width() > width {
            out.push_str(line.trim_end());
            out.push('\n');
            next.clone_into(&mut line);
            empty = true;
        }
        line.push_str(if empty { "" } else { " " });
        line.push_str(word);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

/// Sets `rows` in columns as wide as their widest cell; the last cell of a row is not padded.
pub(crate) fn table(rows: &[Vec<String>], indent: &str) -> String {
    // A cell is one line, whatever an image says.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell, false)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                line.push_str(&" ".repeat(widths[column] - cell.width() + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        let sizes: Vec<String> = [0, 1023, 1024, 1536, 3_670_016, 1 << 40, u64::MAX].map(bytes).to_vec();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.5 MiB", "1.0 TiB", "16383.9 PiB"]);
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(80)), "1 min 20 s");
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

    #[test]
    fn texts_are_wrapped_at_blanks() {
        assert_eq!(wrapped("one two three", "- ", "  ", 9), "- one two\n  three\n");
        assert_eq!(wrapped("https://a.long/name x", "  ", "  ", 8), "  https://a.long/name\n  x\n");
        assert_eq!(wrapped("a\nb \u{1b}", "", "", 80), "a\\nb \\u{1b}\n");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "é".to_owned()]];
        assert_eq!(table(&rows, "  "), "  a     b\n  long  é\n");
        // A wide character takes two columns, a combining one none.
        let rows = [vec!["漢字".to_owned(), "b".to_owned()], vec!["e\u{301}".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows, ""), "漢字  b\ne\u{301}     c\n");
    }
}
