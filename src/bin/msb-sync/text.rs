//! Text for terminals: colours, sizes, times, and nothing that could control the terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use msb_sync::error;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colored: bool,
}

impl Style {
    pub(crate) fn new(colored: bool) -> Self {
        Self { colored }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

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

/// Whether something of the result was lost on its way out.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints to stdout. A reader that has gone away (`| head`) is no error; any other failure is remembered.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Whether [`print`] failed.
pub(crate) fn output_lost() -> bool {
    LOST.load(Ordering::Relaxed)
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

/// The first digits of a digest.
pub(crate) fn short(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
    format!("{algorithm}:{}…", hex.get(..12).unwrap_or(hex))
}

/// Columns padded to their widest cell; the last one is not padded.
pub(crate) fn table(rows: &[Vec<String>], indent: &str) -> String {
    // A cell is one line, whatever an image says.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell, false)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                line.push_str(cell);
            } else {
                let _ = write!(line, "{cell:<width$}  ", width = widths[column]);
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
    fn line_ends_stay_where_they_may() {
        assert_eq!(printable("a\r\nb", false), "a\\r\\nb");
        assert_eq!(printable("a\r\nb\n", true), "a\\r\nb\n");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["long".to_owned(), "é".to_owned()]];
        assert_eq!(table(&rows, "  "), "  a     b\n  long  é\n");
    }
}
