//! The words of a program, escaped and cut, and without the secrets of URLs; the lines that it
//! writes to stderr are told as they come, and the last ones kept.

use std::collections::VecDeque;

use crate::error::{printable, without_queries};

/// The lines that are kept for an error.
const LAST: usize = 5;
/// The characters of a line that are shown.
const WIDTH: usize = 500;
/// The lines that are told; a program may write for ever.
const TOLD: usize = 500;
/// The bytes at the end of a piece that are looked at once nothing is told any more.
const TAIL: usize = 4 << 10;

/// The characters of other words of a program that are shown.
const WORDS: usize = 300;

/// Escapes and cuts the words of a program, whose URLs lose user and query.
pub(crate) fn shown(text: &str) -> String {
    cut(text, WORDS)
}

fn cut(text: &str, width: usize) -> String {
    // Before the cut: what is cut off may be all that tells a login.
    let text = without_queries(text);
    let mut cut: String = text.chars().take(width).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    printable(&cut)
}

/// The lines of one program.
pub(crate) struct Lines<'a> {
    tell: &'a (dyn Fn(&str) + Sync),
    told: usize,
    /// The line that has not ended.
    line: Vec<u8>,
    last: VecDeque<String>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(tell: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self { tell, told: 0, line: Vec::new(), last: VecDeque::new() }
    }

    /// Takes more of what the program writes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let mut bytes = bytes;
        if self.told > TOLD && bytes.len() > TAIL {
            let tail = &bytes[bytes.len() - TAIL..];
            // Lines that nobody is told of cost no time, and the tail begins with a whole one.
            if let Some(end) = tail.iter().position(is_end) {
                self.end_line();
                bytes = &tail[end + 1..];
            }
        }
        let mut pieces = bytes.split(is_end);
        if let Some(first) = pieces.next() {
            self.append(first);
        }
        for piece in pieces {
            self.end_line();
            self.append(piece);
        }
    }

    /// The last lines, in one.
    pub(crate) fn last_words(mut self) -> String {
        self.end_line();
        Vec::from(self.last).join("; ")
    }

    fn append(&mut self, bytes: &[u8]) {
        // A character has four bytes at most.
        let room = (4 * WIDTH + 1).saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let line = cut(text, WIDTH);
        self.told += 1;
        if self.told <= TOLD {
            (self.tell)(&line);
        } else if self.told == TOLD + 1 {
            (self.tell)("(more, which is not shown)");
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<String>, String) {
        let told = Mutex::new(Vec::new());
        let tell = |line: &str| told.lock().unwrap().push(line.to_owned());
        let mut lines = Lines::new(&tell);
        for piece in pieces {
            lines.take(piece);
        }
        let last = lines.last_words();
        (told.into_inner().unwrap(), last)
    }

    #[test]
    fn lines_are_whole_escaped_and_cut() {
        let (told, last) = lines(&[b"Error: a\x1b[2", b"J\r\n\n  b", b"\xff \nend"]);
        assert_eq!(told, ["Error: a\\u{1b}[2J", "b\u{fffd}", "end"]);
        assert_eq!(last, "Error: a\\u{1b}[2J; b\u{fffd}; end");

        let long = "é".repeat(5000);
        let (told, _) = lines(&[long.as_bytes()]);
        assert_eq!(told[0].chars().count(), WIDTH + 1);
    }

    #[test]
    fn urls_lose_user_and_query() {
        let (told, last) = lines(&[b"no https://me:hunter2@r.io/a?sig=hunter2\nsee https://r.io/a"]);
        assert_eq!(told, ["no https://\u{2026}@r.io/a?\u{2026}", "see https://r.io/a"]);
        assert!(!last.contains("hunter2"), "{last}");
        assert_eq!(shown("r.io/a:1@sha256:0af"), "r.io/a:1@sha256:0af");
        let long = format!("{} https://me:hunter2@{}r.io", "x".repeat(WIDTH - 40), "x".repeat(90));
        assert!(!lines(&[long.as_bytes()]).1.contains("hunter2"), "what is cut off says that it is a login");
    }

    #[test]
    fn a_flood_is_bounded() {
        let many = (0..10_000).map(|number| format!("line {number}\n")).collect::<Vec<_>>().concat();
        let (told, last) = lines(&[many.as_bytes()]);
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!(last, "line 9995; line 9996; line 9997; line 9998; line 9999");
        for size in [10, TAIL, TAIL + 7, 3 * TAIL] {
            let pieces: Vec<&[u8]> = many.as_bytes().chunks(size).collect();
            let (told, last) = lines(&pieces);
            assert_eq!(told.len(), TOLD + 1);
            assert!(last.ends_with("line 9997; line 9998; line 9999"), "{size}: {last}");
        }
        // A line that is longer than all that is looked at.
        let long = [many.as_bytes(), &[b'x'; 3 * TAIL], b"\nend"].concat();
        let pieces: Vec<&[u8]> = long.chunks(TAIL + 1).collect();
        assert!(lines(&pieces).1.ends_with("x…; end"));
    }
}
