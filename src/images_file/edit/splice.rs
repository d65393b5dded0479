//! A text of TOML into which bytes go, and out of which bytes go, at places that its tree names.
//!
//! The style of a new element is that of the array's last one: a line of its own or not, the same
//! indentation, a trailing comma or not.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::diagnostic::Tree;

const MARK: &str = "\u{feff}";

/// A text of TOML, without its byte order mark.
pub(super) struct Text {
    mark: bool,
    body: String,
}

/// An array's place, and those of its elements.
pub(super) struct Array {
    span: Range<usize>,
    elements: Vec<Range<usize>>,
}

impl Array {
    /// Takes the places of `array`, which has the place `span`.
    pub(super) fn of(span: Range<usize>, array: &DeArray<'_>) -> Self {
        Self { span, elements: array.iter().map(Spanned::span).collect() }
    }

    /// The place of the closing bracket.
    fn close(&self) -> usize {
        self.span.end - 1
    }
}

impl Text {
    pub(super) fn new(text: &str) -> Self {
        match text.strip_prefix(MARK) {
            Some(body) => Self { mark: true, body: body.to_owned() },
            None => Self { mark: false, body: text.to_owned() },
        }
    }

    /// The text that places are in.
    pub(super) fn body(&self) -> &str {
        &self.body
    }

    pub(super) fn into_string(self) -> String {
        if self.mark { format!("{MARK}{}", self.body) } else { self.body }
    }

    /// Puts `with` in the place of the bytes `span`.
    pub(super) fn replaced(&self, span: Range<usize>, with: &str) -> Self {
        let (before, after) = (&self.body[..span.start], &self.body[span.end..]);
        Self { mark: self.mark, body: format!("{before}{with}{after}") }
    }

    /// Adds lines at the end, behind an empty one.
    pub(super) fn appended(&self, lines: &str) -> Self {
        let line_end = self.line_end();
        let body = &self.body;
        let open = if body.is_empty() || body.ends_with('\n') { "" } else { line_end };
        let is_apart = body.trim().is_empty() || body.ends_with("\n\n") || body.ends_with("\n\r\n");
        let gap = if is_apart { "" } else { line_end };
        let lines = lines.replace('\n', line_end);
        self.replaced(body.len()..body.len(), &format!("{open}{gap}{lines}"))
    }

    /// Adds the key `line` (`key = value`) to a table. `key` is the place of the table's name,
    /// `table` that of the table.
    pub(super) fn with_key(
        &self,
        key: &Range<usize>,
        table: &Range<usize>,
        entries: &DeTable<'_>,
        line: &str,
    ) -> Option<Self> {
        let own =
            entries.iter().filter(|(_, value)| !value.get_ref().is_table() || self.is_inline(&value.span()));
        let last = own.max_by_key(|(_, value)| value.span().end);
        if self.is_inline(table) {
            return Some(match last {
                Some((_, value)) => {
                    let end = value.span().end;
                    self.replaced(end..end, &format!(", {line}"))
                }
                None => self.replaced(table.clone(), &format!("{{ {line} }}")),
            });
        }
        // The key goes behind the table's last value, or its header, in the same words.
        let (at, prefix) = match last {
            Some((key, value)) => {
                let start = self.line_start(key.span().start);
                (self.line_stop(value.span().end), &self.body[start..key.span().start])
            }
            None => (self.line_stop(key.end), ""),
        };
        let is_header = self.body[self.line_start(key.start)..key.start].trim_start().starts_with('[');
        if last.is_none() && !is_header {
            return None;
        }
        Some(self.replaced(at..at, &format!("{}{prefix}{line}", self.line_end())))
    }

    /// Adds the element `new` to an array, as its last one.
    pub(super) fn with_element(&self, array: &Array, new: &str) -> Self {
        let (body, close) = (&self.body, array.close());
        let Some(last) = array.elements.last() else {
            let inside = array.span.start + 1..close;
            if !body[inside.clone()].contains(['\n', '#']) {
                return self.replaced(inside, new);
            }
            let bracket = self.line_start(close);
            let outer = self.indentation(bracket);
            let entry = format!("{outer}  {new},{}", self.line_end());
            return self.replaced(bracket..bracket, &entry);
        };
        let comma = self.comma(last.end, close);
        let start = self.line_start(last.start);
        let stop = self.line_stop(last.end);
        let is_alone = body[start..last.start].trim().is_empty() && start > array.span.start;
        let is_behind = comma.is_some_and(|comma| comma > stop);
        if is_alone && stop < close && !is_behind {
            let indentation = &body[start..last.start];
            let (first, then) = if comma.is_some() { ("", ",") } else { (",", "") };
            let rest = &body[last.end..stop];
            let line = format!("{first}{rest}{}{indentation}{new}{then}", self.line_end());
            return self.replaced(last.end..stop, &line);
        }
        let apart = if is_alone {
            format!("{}{}", self.line_end(), &body[start..last.start])
        } else {
            " ".to_owned()
        };
        match comma {
            Some(comma) => self.replaced(comma + 1..comma + 1, &format!("{apart}{new},")),
            None => self.replaced(last.end..last.end, &format!(",{apart}{new}")),
        }
    }

    /// Takes the element `index` out of the array at `path`.
    pub(super) fn without_element(&self, path: &[String], index: usize) -> Option<Self> {
        let tree = Tree::parse(&self.body);
        let (span, array) = array_at(tree.root(), path)?;
        let array = Array::of(span, array);
        let element = array.elements.get(index)?.clone();
        let next = array.elements.get(index + 1).map(|next| next.start);
        let comma = self.comma(element.end, next.unwrap_or(array.close()));
        let end = comma.map_or(element.end, |comma| comma + 1);
        let (start, stop) = (self.line_start(element.start), self.line_stop(end));
        let is_first_of_line = self.body[start..element.start].trim().is_empty() && start > array.span.start;
        let rest = self.body[end..stop].trim_start();
        let is_alone = is_first_of_line && (rest.is_empty() || rest.starts_with('#')) && stop < array.close();
        // Without a comma behind it, the one before is not needed any more.
        let before = (comma.is_none() && index > 0)
            .then(|| self.comma(array.elements[index - 1].end, element.start))
            .flatten();
        if is_alone {
            let without = self.replaced(start..self.next_line(stop), "");
            return Some(match before {
                Some(before) => without.replaced(before..before + 1, ""),
                None => without,
            });
        }
        if let Some(before) = before {
            let gap = &self.body[before + 1..element.start];
            let cut = if gap.contains('#') { element.start..end } else { before + 1..end };
            return Some(self.replaced(cut, "").replaced(before..before + 1, ""));
        }
        // All goes up to the next one, or to the comment before the next one.
        let gap = &self.body[end..next.unwrap_or(array.close())];
        let blank = gap.len() - gap.trim_start_matches([' ', '\t']).len();
        Some(if next.is_none() && index > 0 && comma.is_some() {
            // Of the last one the comma stays with the one before.
            let last = array.elements[index - 1].end;
            let comma = self.comma(last, element.start)?;
            let gap = &self.body[comma + 1..element.start];
            let from = if gap.contains('#') { element.start } else { comma + 1 };
            self.replaced(from..end, "")
        } else if array.elements.len() == 1 && !self.body[array.span.clone()].contains(['\n', '#']) {
            self.replaced(array.span.start + 1..array.close(), "")
        } else {
            self.replaced(element.start..end + blank, "")
        })
    }

    /// Takes the key at `path` out of its table, with its value: all the lines that it has.
    pub(super) fn without_key(&self, path: &[String]) -> Option<Self> {
        let tree = Tree::parse(&self.body);
        let (last, parents) = path.split_last()?;
        let table = table_at(tree.root(), parents)?;
        let (key, value) = table.get_key_value(last.as_str())?;
        let (start, stop) = (self.line_start(key.span().start), self.line_stop(value.span().end));
        Some(self.replaced(start..self.next_line(stop), ""))
    }

    /// Finds the comma between `from` and `to`, where only blanks and comments are beside it.
    fn comma(&self, from: usize, to: usize) -> Option<usize> {
        let mut in_comment = false;
        for (at, byte) in self.body.as_bytes().iter().enumerate().take(to).skip(from) {
            match byte {
                b'\n' => in_comment = false,
                b'#' => in_comment = true,
                b',' if !in_comment => return Some(at),
                _ => {}
            }
        }
        None
    }

    /// The line end of the file, by its first line.
    fn line_end(&self) -> &'static str {
        let first = self.body.split_once('\n').map_or("", |(line, _)| line);
        if first.ends_with('\r') { "\r\n" } else { "\n" }
    }

    /// Finds where the line of `at` begins.
    fn line_start(&self, at: usize) -> usize {
        self.body[..at].rfind('\n').map_or(0, |end| end + 1)
    }

    /// Finds where the line of `at` ends, before its line end.
    fn line_stop(&self, at: usize) -> usize {
        let stop = self.body[at..].find('\n').map_or(self.body.len(), |length| at + length);
        if self.body[at..stop].ends_with('\r') { stop - 1 } else { stop }
    }

    /// Finds where the line begins that follows the line end at `stop`.
    fn next_line(&self, stop: usize) -> usize {
        self.body[stop..].find('\n').map_or(self.body.len(), |length| stop + length + 1)
    }

    /// The blanks at the beginning of a line.
    fn indentation(&self, start: usize) -> &str {
        let line = &self.body[start..];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    /// True if a value is written between braces.
    fn is_inline(&self, span: &Range<usize>) -> bool {
        self.body[span.clone()].starts_with('{')
    }
}

/// Finds the table at `path`.
fn table_at<'t>(root: &'t DeTable<'t>, path: &[String]) -> Option<&'t DeTable<'t>> {
    path.iter().try_fold(root, |table, key| match table.get(key.as_str())?.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    })
}

/// Finds the array at `path`, and its place.
pub(super) fn array_at<'t>(
    root: &'t DeTable<'t>,
    path: &[String],
) -> Option<(Range<usize>, &'t DeArray<'t>)> {
    let (last, parents) = path.split_last()?;
    let value = table_at(root, parents)?.get(last.as_str())?;
    match value.get_ref() {
        DeValue::Array(array) => Some((value.span(), array)),
        _ => None,
    }
}
