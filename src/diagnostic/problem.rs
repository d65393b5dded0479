//! Problems of a file, each with its place: file, line, column, the line itself and a next step.

use std::fmt;
use std::sync::Arc;

/// The weight of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The problem stops the run.
    Error,
    /// The problem is doubtful, and the run goes on.
    Warning,
}

/// A place in the file, with its line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
    /// The line, escaped and shortened, with its secrets hidden.
    pub(super) text: String,
    /// Columns of that text before the marked part.
    pub(super) indent: usize,
    /// Columns of the marked part.
    pub(super) width: usize,
}

/// Something wrong, or doubtful, at one place of a file.
///
/// A problem prints itself in rustc's form: message, place, the line with the place underlined,
/// hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) place: Place,
    pub(super) related: Option<(Place, &'static str)>,
    pub(super) hint: Option<String>,
}

impl Problem {
    /// Says if the problem stops the run.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Says in one line what is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The file, by the name that its reader was given.
    pub fn file(&self) -> &str {
        &self.place.file
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

impl std::error::Error for Problem {}

/// All problems of one file, by their place. There is at least one wherever problems are an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    pub(super) problems: Vec<Problem>,
    /// Problems that were only counted.
    pub(super) not_kept: usize,
}

impl Problems {
    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// Counts the problems, those beyond the first 500 included.
    pub fn len(&self) -> usize {
        self.problems.len() + self.not_kept
    }

    /// True if there are no problems.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], not_kept: 0 }
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
