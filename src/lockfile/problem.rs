//! What is wrong with a lockfile, and where: file, line, column, the line itself.
//!
//! The first problem is enough: nobody writes lockfiles by hand. What a line holds is escaped and cut short,
//! since anything may be in there.

use std::fmt;
use std::ops::Range;

use crate::error::printable;

/// Characters of a line that are shown before the place.
const BEFORE: usize = 60;
/// Characters of a line that are shown from the place on.
const AFTER: usize = 120;

/// A problem that only knows its bytes.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None }
    }

    /// Sets it in lines and columns.
    pub(super) fn at(self, text: &str, file: &str) -> LockfileProblem {
        let mut start = self.span.start.min(text.len());
        // The end of the file is best shown on its last line that has something.
        if start == text.len() {
            start = text.trim_end().len();
        }
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let (before, after) = text.split_at(start);
        let in_line = before.rfind('\n').map_or(before, |newline| &before[newline + 1..]);
        let after = after.split(['\r', '\n']).next().unwrap_or_default();
        let marked = after.get(..self.span.len()).unwrap_or(after);
        let column = in_line.chars().count() + 1;
        let before_it = in_line.chars().skip(column.saturating_sub(1 + BEFORE));
        let lead = printable(&before_it.collect::<String>());
        let short = |text: &str| printable(&text.chars().take(AFTER).collect::<String>());
        LockfileProblem {
            file: printable(file),
            line: before.matches('\n').count() + 1,
            column,
            indent: lead.chars().count(),
            text: lead + &short(after),
            width: short(marked).chars().count().max(1),
            message: self.message,
            hint: self.hint,
        }
    }
}

/// Something wrong at one place of the lockfile. Printed in the form of an images file's problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockfileProblem {
    file: String,
    line: usize,
    column: usize,
    text: String,
    indent: usize,
    width: usize,
    message: String,
    hint: Option<&'static str>,
}

impl LockfileProblem {
    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// `file:line:column`.
    pub fn position(&self) -> String {
        let Self { file, line, column, .. } = self;
        format!("{file}:{line}:{column}")
    }
}

impl fmt::Display for LockfileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, text, indent, width, message, .. } = self;
        let gutter = line.to_string().len();
        write!(f, "error: {message}\n{:gutter$}--> {file}:{line}:{column}", "")?;
        write!(f, "\n{:gutter$} |\n{line} | {text}", "")?;
        write!(f, "\n{:gutter$} | {:indent$}{}", "", "", "^".repeat(*width))?;
        let hint = self.hint.unwrap_or("if nothing else helps, delete the file and run: msb-sync lock");
        write!(f, "\nhint: {hint}")
    }
}

impl std::error::Error for LockfileProblem {}
