//! A text with its lines and its secrets: what shows the place of a mistake.
//!
//! Lines are shown with control characters escaped, shortened around the place, and with every
//! hidden range (passwords, header values, user info and queries of URLs) as `***`.

use std::sync::Arc;

use unicode_width::UnicodeWidthStr as _;

use super::mistake::{Mistake, Mistakes};
use super::problem::{Place, Problem, Problems, Severity};
use super::span::{Span, ceil_boundary, floor_boundary};
use crate::error::{escape_into, printable};

/// Bytes of a long line that are shown before the place.
const BEFORE: usize = 80;
/// Bytes of a long line that are shown from the window's start.
const WINDOW: usize = 220;

/// The text of a file, ready to show any place of it.
pub(crate) struct Page<'t> {
    text: &'t str,
    file: Arc<str>,
    line_starts: Vec<usize>,
    /// The ranges that are never shown, sorted, not overlapping.
    hidden: Vec<Span>,
}

impl<'t> Page<'t> {
    /// Reads the lines of `text`, which problems call `file` and of which they never show `hidden`.
    pub(crate) fn new(text: &'t str, file: &str, mut hidden: Vec<Span>) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(index, _)| index + 1)).collect();
        hidden.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(hidden.len());
        for span in hidden.into_iter().filter(|span| span.start < span.end) {
            match merged.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => merged.push(span),
            }
        }
        Self { text, file: printable(file).into(), line_starts, hidden: merged }
    }

    /// The line of a byte, from 1.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The bytes of a line, from 1, without its end.
    fn line_range(&self, line: usize) -> Span {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let end = if self.text.as_bytes()[start..end].ends_with(b"\r") { end - 1 } else { end };
        Span { start, end }
    }

    /// Sets all mistakes, in the order of the text.
    ///
    /// # Errors
    /// The errors, if there are any; else the warnings are returned.
    pub(crate) fn settle(&self, mistakes: Mistakes) -> Result<Vec<Problem>, Problems> {
        let Mistakes { errors, not_kept, warnings } = mistakes;
        if errors.is_empty() {
            return Ok(self.set_all(warnings, Severity::Warning));
        }
        Err(Problems { problems: self.set_all(errors, Severity::Error), not_kept })
    }

    fn set_all(&self, mut mistakes: Vec<Mistake>, severity: Severity) -> Vec<Problem> {
        mistakes.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
        mistakes.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        mistakes.into_iter().map(|mistake| self.set(mistake, severity)).collect()
    }

    /// Sets one mistake in lines and columns.
    pub(crate) fn set(&self, mistake: Mistake, severity: Severity) -> Problem {
        let Mistake { span, message, hint, related } = mistake;
        Problem {
            severity,
            message,
            place: self.place(span),
            related: related.map(|(span, what)| (self.place(span), what)),
            hint,
        }
    }

    fn place(&self, span: Span) -> Place {
        let mut start = floor_boundary(self.text, span.start);
        // The end of the file is best shown on its last line that has something.
        if start == self.text.len() {
            start = self.text.trim_end().len();
        }
        let line = self.line_of(start);
        let range = self.line_range(line);
        start = start.min(range.end);
        let end = ceil_boundary(self.text, span.end).clamp(start, range.end);
        let Shown { text, indent, width, .. } = self.show(range, Span { start, end });
        let column = self.text[range.start..start].chars().count() + 1;
        Place { file: Arc::clone(&self.file), line, column, text, indent, width: width.max(1) }
    }

    /// Shows the line at `range`, or the part of a long one that is around `marked`.
    fn show(&self, range: Span, marked: Span) -> Shown {
        let from = if marked.start - range.start > BEFORE {
            floor_boundary(self.text, marked.start - BEFORE).max(range.start)
        } else {
            range.start
        };
        let to = floor_boundary(self.text, from + WINDOW).clamp(from, range.end);
        let mut shown = Shown { marked, text: String::new(), indent: 0, width: 0 };
        if from > range.start {
            shown.put("…", Span { start: range.start, end: from.min(marked.start) });
        }
        let mut offset = from;
        while let Some(char) = self.text.get(offset..to).and_then(|rest| rest.chars().next()) {
            if let Some(end) = self.hidden_until(offset) {
                shown.put("***", Span { start: offset, end });
                offset = ceil_boundary(self.text, end);
            } else {
                let end = offset + char.len_utf8();
                shown.put_char(char, Span { start: offset, end });
                offset = end;
            }
        }
        if to < range.end && offset < range.end {
            shown.put("…", Span { start: range.end, end: range.end });
        }
        shown
    }

    /// The end of the hidden range that `offset` is in.
    fn hidden_until(&self, offset: usize) -> Option<usize> {
        let next = self.hidden.partition_point(|hidden| hidden.end <= offset);
        self.hidden.get(next).filter(|hidden| hidden.start <= offset).map(|hidden| hidden.end)
    }
}

/// A line as it is shown, and where its marked part stands in that.
struct Shown {
    marked: Span,
    text: String,
    /// Columns before the marked part.
    indent: usize,
    /// Columns of the marked part.
    width: usize,
}

impl Shown {
    /// Adds `piece`, which stands for the bytes of `span`.
    fn put(&mut self, piece: &str, span: Span) {
        self.text.push_str(piece);
        if span.end <= self.marked.start {
            self.indent += piece.width();
        } else if span.start < self.marked.end {
            self.width += piece.width();
        }
    }

    /// Adds a character of the file, made harmless.
    fn put_char(&mut self, char: char, span: Span) {
        let mut piece = String::new();
        match char {
            '\t' => piece.push_str("    "),
            _ => escape_into(&mut piece, char),
        }
        self.put(&piece, span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, marked: &str, hidden: &[&str]) -> String {
        let find = |part: &str| {
            let start = text.find(part).unwrap();
            Span { start, end: start + part.len() }
        };
        let page = Page::new(text, "a.toml", hidden.iter().map(|part| find(part)).collect());
        let mistake = Mistake::new(find(marked), "wrong").hint("right");
        page.set(mistake, Severity::Error).to_string()
    }

    #[test]
    fn the_caret_stands_below_its_place_whatever_is_before_it() {
        for (before, column, indent) in [
            ("x = ", 5, 4),
            // Two columns each.
            ("名前 = ", 6, 7),
            // A letter with an accent of its own takes one column, and two characters.
            ("e\u{301} = ", 6, 4),
            ("\t\u{1b} = ", 6, 13),
        ] {
            let shown = shown(&format!("# first\r\n{before}日本\r\n"), "日本", &[]);
            assert!(shown.starts_with(&format!("error: wrong\n --> a.toml:2:{column}\n")), "{shown}");
            let caret = format!("\n  | {}^^^^\nhint: right", " ".repeat(indent));
            assert!(shown.ends_with(&caret), "{shown}");
        }
    }

    #[test]
    fn hidden_parts_and_the_far_ends_of_long_lines_are_not_shown() {
        let line =
            format!("a = \"{}\" # hunter2 {} bad {}", "x".repeat(50), "y".repeat(100), "z".repeat(300));
        let shown = shown(&line, "bad", &["hunter2"]);
        assert!(shown.contains("1 | …") && shown.contains("z…\n"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(shown.matches('^').count(), 3, "{shown}");
        let near = super::tests::shown("password = \"hunter2\" # bad", "bad", &["hunter2"]);
        assert!(near.contains("1 | password = \"***\" # bad\n  |                    ^^^\n"), "{near}");
    }
}
