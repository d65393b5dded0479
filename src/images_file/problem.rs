//! Problems of an images file, each with its place: file, line, column, the line itself and a next step.
//!
//! While the file is read, problems are [`Draft`]s that only know byte ranges; a [`Page`] turns them into
//! [`Problem`]s. Lines are shown with control characters escaped, shortened around the place, and with
//! every hidden range (passwords, header values, user info and queries of URLs) as `***`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::text::{ceil_boundary, floor_boundary};
use crate::error::{escape_into, printable};

/// Problems beyond this many are counted, not kept.
const MAX_KEPT: usize = 500;
/// Bytes of a long line that are shown before the place.
const BEFORE: usize = 80;
/// Bytes of a long line that are shown from the window's start.
const WINDOW: usize = 220;

/// A range of bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A problem that is not yet set in lines and columns.
#[derive(Debug)]
pub(super) struct Draft {
    span: Span,
    message: String,
    hint: Option<String>,
    related: Option<(Span, &'static str)>,
}

impl Draft {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None, related: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Points at a second place, with what is there.
    pub(super) fn related(mut self, span: Span, what: &'static str) -> Self {
        self.related = Some((span, what));
        self
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Whether the file may be a stranger's: keys that need trust are errors then.
    pub(super) untrusted: bool,
    errors: Vec<Draft>,
    not_kept: usize,
    pub(super) warnings: Vec<Draft>,
}

impl Notes {
    pub(super) fn error(&mut self, draft: Draft) {
        if self.errors.len() < MAX_KEPT {
            self.errors.push(draft);
        } else {
            self.not_kept += 1;
        }
    }

    pub(super) fn warn(&mut self, draft: Draft) {
        if self.warnings.len() < MAX_KEPT {
            self.warnings.push(draft);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Keeps the errors whose place `keep` accepts.
    pub(super) fn retain_errors(&mut self, keep: impl Fn(Span) -> bool) {
        self.errors.retain(|draft| keep(draft.span));
    }

    pub(super) fn into_errors(self, page: &Page<'_>) -> Problems {
        Problems { problems: page.set_all(self.errors, Severity::Error), not_kept: self.not_kept }
    }
}

/// Whether a [`Problem`] stops the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// A place in the file, with its line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: Arc<str>,
    line: usize,
    column: usize,
    text: String,
    indent: usize,
    width: usize,
}

/// Something wrong, or doubtful, at one place of the images file.
///
/// Printed in rustc's form: message, place, the line with the place underlined, hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    severity: Severity,
    message: String,
    place: Place,
    related: Option<(Place, &'static str)>,
    hint: Option<String>,
}

impl Problem {
    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.place.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.place.column
    }

    /// `file:line:column`.
    pub fn position(&self) -> String {
        let Place { file, line, column, .. } = &self.place;
        format!("{file}:{line}:{column}")
    }

    /// The line's text: control characters escaped, secrets hidden, shortened around the column.
    pub fn text(&self) -> &str {
        &self.place.text
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)?;
        let related_line = self.related.as_ref().map_or(0, |(place, _)| place.line);
        let gutter = self.place.line.max(related_line).to_string().len();
        let show = |f: &mut fmt::Formatter<'_>, arrow: &str, place: &Place, mark: &str, note: &str| {
            let Place { file, line, column, text, indent, width } = place;
            let note = if note.is_empty() { String::new() } else { format!(" {note}") };
            write!(f, "\n{:gutter$}{arrow} {file}:{line}:{column}", "")?;
            write!(f, "\n{:gutter$} |\n{line:>gutter$} |", "")?;
            if !text.is_empty() {
                write!(f, " {text}")?;
            }
            write!(f, "\n{:gutter$} | {:indent$}{}{note}", "", "", mark.repeat(*width))
        };
        show(f, "-->", &self.place, "^", "")?;
        if let Some((place, what)) = &self.related {
            show(f, ":::", place, "-", what)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// All problems of one images file, by their place. Never empty where it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
    not_kept: usize,
}

impl Problems {
    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// How many there are, those beyond the first 500 included.
    pub fn len(&self) -> usize {
        self.problems.len() + self.not_kept
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        if self.not_kept > 0 {
            write!(f, "\n\nerror: {} more problems in the same file are not shown", self.not_kept)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The text, ready to show any place of it.
pub(super) struct Page<'t> {
    text: &'t str,
    file: Arc<str>,
    line_starts: Vec<usize>,
    /// Sorted, not overlapping.
    hidden: Vec<Span>,
}

impl<'t> Page<'t> {
    pub(super) fn new(text: &'t str, file: &str, mut hidden: Vec<Span>) -> Self {
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
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The bytes of a line, from 1, without its end.
    fn line_range(&self, line: usize) -> Span {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let end = if self.text.as_bytes()[start..end].ends_with(b"\r") { end - 1 } else { end };
        Span { start, end }
    }

    pub(super) fn set_all(&self, mut drafts: Vec<Draft>, severity: Severity) -> Vec<Problem> {
        drafts.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
        drafts.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        drafts.into_iter().map(|draft| self.set(draft, severity)).collect()
    }

    fn set(&self, draft: Draft, severity: Severity) -> Problem {
        Problem {
            severity,
            message: draft.message,
            place: self.place(draft.span),
            related: draft.related.map(|(span, what)| (self.place(span), what)),
            hint: draft.hint,
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

        let from = if start - range.start > BEFORE {
            floor_boundary(self.text, start - BEFORE).max(range.start)
        } else {
            range.start
        };
        let to = floor_boundary(self.text, from + WINDOW).clamp(from, range.end);

        let mut text = String::new();
        let (mut indent, mut width) = (0, 0);
        let mut put = |piece: &str, at: usize, after: usize| {
            text.push_str(piece);
            let count = piece.chars().count();
            if after <= start {
                indent += count;
            } else if at < end {
                width += count;
            }
        };
        if from > range.start {
            put("…", range.start, from.min(start));
        }
        let mut offset = from;
        while let Some(char) = self.text.get(offset..to).and_then(|rest| rest.chars().next()) {
            let next = self.hidden.partition_point(|hidden| hidden.end <= offset);
            match self.hidden.get(next) {
                Some(hidden) if hidden.start <= offset => {
                    put("***", offset, hidden.end);
                    offset = ceil_boundary(self.text, hidden.end);
                }
                _ => {
                    let mut piece = String::new();
                    if char == '\t' {
                        piece.push_str("    ");
                    } else {
                        escape_into(&mut piece, char);
                    }
                    put(&piece, offset, offset + char.len_utf8());
                    offset += char.len_utf8();
                }
            }
        }
        if to < range.end && offset < range.end {
            put("…", range.end, range.end);
        }
        Place {
            file: Arc::clone(&self.file),
            line,
            column: self.text[range.start..start].chars().count() + 1,
            text,
            indent,
            width: width.max(1),
        }
    }
}
