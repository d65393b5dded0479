//! Rows in columns, and texts on lines: no wider than the terminal, where there is one.
//!
//! A cell that is far wider than the others of its column (a long reference) widens none of them:
//! the rest of its row goes on after it, or on a line of its own. Off a terminal lines are as long
//! as they need to be, so that programs find a row on one line.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::text::printable;

/// The columns between two cells.
const GAP: usize = 2;
/// A cell of up to so many columns is never too wide for its column.
const USUAL: usize = 40;
/// Text in fewer columns than these is no pleasure to read.
const NARROW: usize = 16;
/// The columns by which a text goes on further to the right, where its own place is too narrow.
const DEEPER: usize = 4;

/// Sets `rows` in columns, each row in one text without a line end. With `room`, the columns of a
/// terminal, no line is wider than that, and a row may have several.
pub(crate) fn table(rows: &[Vec<String>], indent: &str, room: Option<usize>) -> Vec<String> {
    // A cell is one line, whatever an image says.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell, false)).collect()).collect();
    let starts = starts(&rows, indent.width(), room);
    rows.iter().map(|row| lay(row, &starts, indent, room)).collect()
}

/// The width of a table whose rows need no second line.
pub(crate) fn width(rows: &[Vec<String>], indent: &str) -> usize {
    table(rows, indent, None).iter().map(|line| line.width()).max().unwrap_or_default()
}

/// The columns at which cells begin.
fn starts(rows: &[Vec<String>], indent: usize, room: Option<usize>) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let mut starts = vec![indent];
    for column in 0..columns.saturating_sub(1) {
        // The last cell of a row needs no place for others after it.
        let cells = rows.iter().filter(|row| row.len() > column + 1).map(|row| row[column].width());
        let mut widths: Vec<usize> = cells.collect();
        widths.sort_unstable();
        let median = widths.get(widths.len() / 2).copied().unwrap_or_default();
        let most = (2 * median).max(USUAL).min(room.map_or(usize::MAX, |room| room / 2));
        let width = widths.into_iter().filter(|width| *width <= most).max().unwrap_or_default();
        starts.push(starts[column] + width + GAP);
    }
    starts
}

/// Sets one row.
fn lay(row: &[String], starts: &[usize], indent: &str, room: Option<usize>) -> String {
    let (mut lines, mut line) = (Vec::new(), indent.to_owned());
    // Columns far to the right of a narrow terminal are no place to begin at.
    let start = |column: usize| match room {
        Some(room) if starts[column] + NARROW > room => indent.width() + DEEPER,
        _ => starts[column],
    };
    for (column, cell) in row.iter().enumerate() {
        if column > 0 {
            match (start(column).checked_sub(line.width()), room) {
                (Some(blanks), _) if blanks >= GAP => line.push_str(&" ".repeat(blanks)),
                (_, None) => line.push_str(&" ".repeat(GAP)),
                (_, Some(_)) if cell.is_empty() => {}
                (_, Some(_)) => {
                    lines.push(line);
                    line = " ".repeat(start(column));
                }
            }
        }
        let Some(room) = room.filter(|room| line.width() + cell.width() > *room) else {
            line.push_str(cell);
            continue;
        };
        let hang = if column == 0 { indent.width() + DEEPER } else { line.width() };
        let mut pieces =
            pieces(cell, room.saturating_sub(line.width()), room.saturating_sub(hang)).into_iter();
        line.push_str(&pieces.next().unwrap_or_default());
        for piece in pieces {
            lines.push(std::mem::replace(&mut line, " ".repeat(hang)));
            line.push_str(&piece);
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// Breaks `text` into lines: the first one of `first` columns, the others of `next`. Blanks are the
/// best places, the joints of names the next best; a word without any is broken anywhere.
fn pieces(text: &str, first: usize, next: usize) -> Vec<String> {
    let (mut pieces, mut rest, mut limit) = (Vec::new(), text, first.max(1));
    while rest.width() > limit {
        let end = end_of_line(rest, limit);
        pieces.push(rest[..end].trim_end().to_owned());
        rest = rest[end..].trim_start();
        limit = next.max(1);
    }
    pieces.push(rest.to_owned());
    pieces
}

/// The number of bytes of `text` that go on a line of `limit` columns; never none.
fn end_of_line(text: &str, limit: usize) -> usize {
    let (mut width, mut fits) = (0, 0);
    for (at, c) in text.char_indices() {
        width += c.width().unwrap_or_default();
        if width > limit && at > 0 {
            break;
        }
        fits = at + c.len_utf8();
    }
    // A blank may stand beyond the end: nobody sees it.
    let blank = if text[fits..].starts_with(' ') { Some(fits) } else { text[..fits].rfind(' ') };
    if let Some(blank) = blank.filter(|blank| *blank > 0) {
        return blank;
    }
    let joint = text[..fits].rfind(['/', ':', '@', ',', '-']).map(|at| at + 1);
    joint.filter(|joint| *joint > limit / 2).unwrap_or(fits)
}

/// Breaks `text` at blanks into lines of `width` columns: the first one begins with `first`, all
/// others with `next`. A word that is longer than a line is broken where that is a `terminal`'s;
/// else it has a line of its own.
pub(crate) fn wrapped(text: &str, first: &str, next: &str, width: usize, terminal: bool) -> String {
    let (mut out, mut line, mut empty) = (String::new(), first.to_owned(), true);
    let mut end = |line: &mut String| {
        out.push_str(line.trim_end());
        out.push('\n');
        next.clone_into(line);
    };
    for word in printable(text, false).split(' ') {
        if !empty && line.width() + 1 + word.width() > width {
            end(&mut line);
            empty = true;
        }
        line.push_str(if empty { "" } else { " " });
        empty = false;
        if terminal && line.width() + word.width() > width {
            let room = |used: &str| width.saturating_sub(used.width());
            let mut parts = pieces(word, room(&line), room(next)).into_iter();
            line.push_str(&parts.next().unwrap_or_default());
            for part in parts {
                end(&mut line);
                line.push_str(&part);
            }
        } else {
            line.push_str(word);
        }
    }
    end(&mut line);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn tables_are_aligned() {
        assert_eq!(table(&rows(&[&["a", "b"], &["long", "é"]]), "  ", None), ["  a     b", "  long  é"]);
        // A wide character takes two columns, a combining one none.
        let wide = rows(&[&["漢字", "b"], &["e\u{301}", "c"]]);
        assert_eq!(table(&wide, "", None), ["漢字  b", "e\u{301}     c"]);
        assert_eq!(table(&rows(&[&["a\n\u{1b}"]]), "", None), ["a\\n\\u{1b}"]);
    }

    #[test]
    fn a_long_cell_breaks_no_other_row() {
        let long = format!("r.io/{}:1", "very-long/".repeat(9));
        let three = rows(&[&["r.io/a:1", "add", "x"], &[&long, "add", "y"], &["r.io/bcd:1", "keep", "z"]]);
        let shown = table(&three, "  ", None);
        assert_eq!(shown[0], "  r.io/a:1    add   x");
        assert_eq!(shown[1], format!("  {long}  add  y"));
        assert_eq!(shown[2], "  r.io/bcd:1  keep  z");
        // Where all are long, none is too long.
        let pinned = |name: &str| vec![format!("r.io/{name}:1@sha256:{}", "0".repeat(64)), "add".to_owned()];
        let shown = table(&[pinned("a"), pinned("bc")], "", None);
        assert_eq!(shown[0].find("add"), shown[1].find("add"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = format!("r.io/{}:1", "very-long/".repeat(9));
        let facts = "refused by images.toml:4 · 2 of 5 layers new, 12.1 MiB · into podman, docker";
        let some = rows(&[
            &["+ r.io/a:1", "add", facts],
            &[&format!("+ {long}"), "update", "1 layer"],
            &["= 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字", "keep", &"漢".repeat(70)],
            &["- b", "remove", ""],
        ]);
        for room in 20..200 {
            let shown = table(&some, "  ", Some(room));
            for line in shown.iter().flat_map(|row| row.lines()) {
                assert!(line.width() <= room, "{} columns of {room}: {line:?}", line.width());
            }
            let text = |row: usize| shown[row].split_whitespace().collect::<String>();
            assert_eq!(text(0), some[0].concat().replace(' ', ""), "nothing is left out");
            assert_eq!(text(1), some[1].concat().replace(' ', ""));
        }
        assert_eq!(
            table(
                &rows(&[&["+ a", "add", "one two three four five six"], &["+ bcd", "keep", ""]]),
                "  ",
                Some(34)
            ),
            ["  + a    add   one two three four\n               five six", "  + bcd  keep"]
        );
    }

    #[test]
    fn texts_are_wrapped_at_blanks() {
        let wrap = |text, first, next, width| wrapped(text, first, next, width, false);
        assert_eq!(wrap("one two three", "- ", "  ", 9), "- one two\n  three\n");
        assert_eq!(wrap("https://a.long/name x", "  ", "  ", 8), "  https://a.long/name\n  x\n");
        assert_eq!(wrap("a\nb \u{1b}", "", "", 80), "a\\nb \\u{1b}\n");
        assert_eq!(
            wrapped("x https://a.long/name", "", "  ", 12, true),
            "x\n  https://\n  a.long/\n  name\n"
        );
    }
}
