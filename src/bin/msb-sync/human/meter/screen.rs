//! Rows at the bottom of a terminal, drawn over and over.
//!
//! Between two writes the cursor rests at the first column of the first row. Everything follows
//! from that: the `^C` that a terminal echoes lands there and wraps nothing; whatever becomes of
//! the rows when the terminal's size changes lies below the cursor; and all of it goes by one
//! "erase to the end of the screen".
//!
//! Ctrl-C also drops what was written and not yet read, and its echo may come amid a write: a
//! terminal's driver takes a write in blocks that end at line feeds, and at a few kilobytes. Hence
//! no write has a line feed or is longer than [`BLOCK`], and each begins and ends where the cursor
//! rests: lost or not, the next one finds its place.

use std::fmt::Write as _;

use crate::streams;

/// Erases from the cursor's row to the end of the screen.
const ERASE: &str = "\r\x1b[J";
/// Moves to the row below, which scrolls at the end of the screen as a line feed does.
const DOWN: &str = "\x0b";
/// The bytes that any terminal's driver takes in one block: Linux splits at 2048, and queues in
/// buffers of 1792.
const BLOCK: usize = 1024;

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
        for text in writes(&rows) {
            streams::draw(&text);
        }
        self.shown = rows;
    }

    /// Tells whether these rows are shown.
    pub(super) fn shows(&self, rows: &[String]) -> bool {
        self.shown == rows
    }

    /// Removes what is shown. A closed screen may still get the echo of what closed it.
    pub(super) fn erase(&mut self) {
        if !self.shown.is_empty() || self.is_closed {
            streams::draw(ERASE);
            self.shown.clear();
        }
    }

    /// Removes what is shown, and shows nothing any more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.erase();
    }
}

/// The texts that draw `rows` from the cursor's row on, each of which brings the cursor back. A
/// terminal may show some of them and not the others, but never a part of one.
fn writes(rows: &[String]) -> Vec<String> {
    let mut writes: Vec<String> = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        let after = if position + 1 == rows.len() { "\x1b[J" } else { "\x1b[K" };
        let mut text = format!("\r{}{row}{after}\r", DOWN.repeat(position));
        if position > 0 {
            let _ = write!(text, "\x1b[{position}A");
        }
        match writes.last_mut().filter(|last| last.len() + text.len() <= BLOCK) {
            Some(last) => last.push_str(&text),
            None => writes.push(text),
        }
    }
    writes
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
        (0..count).map(|row| format!("{}", row % 10).repeat(columns)).collect()
    }

    fn draw(terminal: &mut vt100::Parser, rows: &[String]) {
        for text in writes(rows) {
            terminal.process(text.as_bytes());
        }
    }

    /// The screen's rows, without the blanks at their ends.
    fn shown(terminal: &vt100::Parser) -> Vec<String> {
        let text = terminal.screen().contents();
        text.lines().map(|row| row.trim_end().to_owned()).collect()
    }

    /// The blocks in which Linux takes writes to a terminal; others come between them.
    fn blocks(writes: &[String]) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        for chunk in writes.iter().flat_map(|text| text.as_bytes().chunks(2048)) {
            for line in chunk.split_inclusive(|byte| matches!(byte, b'\n' | b'\t')) {
                let (last, before) = line.split_last().unwrap();
                if matches!(last, b'\n' | b'\t') {
                    blocks.extend([
                        before.to_vec(),
                        if *last == b'\n' { b"\r\n".to_vec() } else { vec![*last] },
                    ]);
                } else {
                    blocks.push(line.to_vec());
                }
            }
        }
        blocks
    }

    #[test]
    fn an_interrupt_amid_frames_leaves_nothing_of_them() {
        for (columns, height, count) in [(30, 24, 20), (50, 8, 7), (80, 24, 1), (80, 24, 12), (200, 24, 20)] {
            let frames = [count.min(2), count, count, count - 1].map(|count| rows(count, columns - 1));
            let mut all: Vec<String> = frames.iter().flat_map(|rows| writes(rows)).collect();
            all.push(ERASE.to_owned());
            let all = blocks(&all);
            let erased = all.len() - 1;
            for at in 0..=erased {
                // Ctrl-C drops what the terminal has not read yet.
                for dropped in [0, 1, 2, 5, at].into_iter().filter(|dropped| *dropped <= at) {
                    for echo in ["^C", "^C^C"] {
                        let mut terminal = terminal(height, u16::try_from(columns).unwrap());
                        terminal.process(b"before\r\n");
                        for block in &all[..at - dropped] {
                            terminal.process(block);
                        }
                        terminal.process(echo.as_bytes());
                        for block in &all[at..] {
                            terminal.process(block);
                        }
                        let case = format!("{columns} columns, {count} rows, {dropped} of {at} blocks lost");
                        let cursor = terminal.screen().cursor_position();
                        let left = shown(&terminal);
                        // What is above may have scrolled out of sight.
                        assert!(left.is_empty() || left == ["before"], "{case}: {left:#?}");
                        assert_eq!(usize::from(cursor.0), left.len(), "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_write_is_longer_than_drivers_take() {
        for (count, columns) in [(1, 29), (50, 29), (50, 250), (12, 119)] {
            let texts = writes(&rows(count, columns));
            assert!(texts.iter().all(|text| text.len() <= BLOCK), "{count} of {columns}");
            assert!(texts.len() <= count * columns / 500 + 3, "{count} of {columns}: {}", texts.len());
        }
    }

    #[test]
    fn a_frame_replaces_the_one_before_and_leaves_the_cursor_at_its_start() {
        let mut terminal = terminal(6, 20);
        terminal.process(b"before\r\n");
        for count in [3, 5, 1, 4] {
            draw(&mut terminal, &rows(count, 19));
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
        draw(&mut terminal, &rows(3, 19));
        assert_eq!(shown(&terminal)[0], "3");
        terminal.process(ERASE.as_bytes());
        terminal.process(b"4\r\n");
        assert_eq!(shown(&terminal), ["3", "4"]);
    }

    #[test]
    fn a_narrower_terminal_keeps_nothing_of_wider_rows() {
        let mut terminal = terminal(8, 40);
        terminal.process(b"before\r\n");
        draw(&mut terminal, &rows(3, 39));
        terminal.set_size(size(8), size(15));
        draw(&mut terminal, &rows(3, 14));
        assert_eq!(shown(&terminal)[1..], rows(3, 14));
        terminal.process(ERASE.as_bytes());
        assert_eq!(shown(&terminal), ["before"]);
    }
}
