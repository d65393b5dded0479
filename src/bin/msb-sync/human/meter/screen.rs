//! Rows at the bottom of a terminal, drawn over and over.
//!
//! Between two draws the cursor rests at the first column of the first row. Everything follows from
//! that: the `^C` that a terminal echoes lands there and wraps nothing; whatever becomes of the
//! rows when the terminal's size changes lies below the cursor; and all of it goes by one "erase to
//! the end of the screen".

use std::fmt::Write as _;

use crate::streams;

/// Erases from the cursor's row to the end of the screen.
const ERASE: &str = "\r\x1b[J";

/// The rows that are on the screen now.
#[derive(Default)]
pub(super) struct Screen {
    shown: Vec<String>,
    is_closed: bool,
}

impl Screen {
    /// Shows `rows` in the place of those that are shown. None may be wider than the terminal.
    pub(super) fn draw(&mut self, rows: Vec<String>) {
        if rows.is_empty() || self.is_closed {
            self.erase();
            return;
        }
        streams::draw(&frame(&rows));
        self.shown = rows;
    }

    /// Tells whether these rows are shown.
    pub(super) fn shows(&self, rows: &[String]) -> bool {
        self.shown == rows
    }

    /// Removes what is shown.
    pub(super) fn erase(&mut self) {
        if !self.shown.is_empty() {
            streams::draw(ERASE);
            self.shown.clear();
        }
    }

    /// Removes what is shown, and shows nothing any more.
    pub(super) fn close(&mut self) {
        self.erase();
        self.is_closed = true;
    }
}

/// The text that draws `rows` from the cursor's row on, and brings the cursor back. It is for one
/// write: no terminal shows half of it.
fn frame(rows: &[String]) -> String {
    let mut text = "\r".to_owned();
    for (position, row) in rows.iter().enumerate() {
        text.push_str(if position > 0 { "\r\n" } else { "" });
        text.push_str(row);
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J\r");
    if rows.len() > 1 {
        let _ = write!(text, "\x1b[{}A", rows.len() - 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn size(count: u16) -> NonZeroU16 {
        NonZeroU16::new(count).unwrap()
    }

    fn terminal(rows: u16, columns: u16) -> vt100::Parser {
        vt100::Parser::new(size(rows), size(columns), 10)
    }

    fn rows(count: usize, columns: usize) -> Vec<String> {
        (0..count).map(|row| format!("{row}").repeat(columns)).collect()
    }

    /// The screen's rows, without the blanks at their ends.
    fn shown(terminal: &vt100::Parser) -> Vec<String> {
        let text = terminal.screen().contents();
        text.lines().map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_frame_replaces_the_one_before_and_leaves_the_cursor_at_its_start() {
        let mut terminal = terminal(6, 20);
        terminal.process(b"before\r\n");
        for count in [3, 5, 1, 4] {
            terminal.process(frame(&rows(count, 19)).as_bytes());
            let mut expected = vec!["before".to_owned()];
            expected.extend(rows(count, 19));
            assert_eq!(shown(&terminal), expected);
            assert_eq!(terminal.screen().cursor_position(), (1, 0));
        }
        // The echo of Ctrl-C lands in the first row, and goes with it.
        terminal.process(b"^C");
        terminal.process(ERASE.as_bytes());
        assert_eq!(shown(&terminal), ["before"]);
    }

    #[test]
    fn a_frame_at_the_bottom_scrolls_what_is_above() {
        let mut terminal = terminal(4, 20);
        terminal.process(b"1\r\n2\r\n3\r\n");
        terminal.process(frame(&rows(3, 19)).as_bytes());
        assert_eq!(shown(&terminal)[0], "3");
        terminal.process(ERASE.as_bytes());
        terminal.process(b"4\r\n");
        assert_eq!(shown(&terminal), ["3", "4"]);
    }

    #[test]
    fn a_narrower_terminal_keeps_nothing_of_wider_rows() {
        let mut terminal = terminal(8, 40);
        terminal.process(b"before\r\n");
        terminal.process(frame(&rows(3, 39)).as_bytes());
        terminal.set_size(size(8), size(15));
        terminal.process(frame(&rows(3, 14)).as_bytes());
        assert_eq!(shown(&terminal)[1..], rows(3, 14));
        terminal.process(ERASE.as_bytes());
        assert_eq!(shown(&terminal), ["before"]);
    }
}
