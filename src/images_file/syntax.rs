//! Broken TOML: the complaints of the parser that are causes, in words for people.

use std::collections::BTreeSet;

use super::quoted::quoted;
use crate::diagnostic::{Mistake, Mistakes, Page, Span};

/// Adds the syntax errors, and drops what probably only follows from them.
pub(super) fn note(text: &str, errors: &[toml::de::Error], page: &Page<'_>, mistakes: &mut Mistakes) {
    let span = |error: &toml::de::Error| Span::from(error.span().unwrap_or(0..0));
    let mut sorted: Vec<&toml::de::Error> = errors.iter().collect();
    let unclosed = |error: &toml::de::Error| {
        ["unclosed array", "unclosed inline table", "invalid multi-line"]
            .iter()
            .any(|start| error.message().starts_with(start))
    };
    let mut lines = BTreeSet::new();
    let first_line = sorted.first().map_or(0, |error| page.line_of(span(error).start));
    if sorted.iter().any(|error| unclosed(error)) {
        // The rest was read as part of the unclosed value: none of it can be judged.
        mistakes.retain_errors(|at| page.line_of(at.start) < first_line);
        let first = sorted.first().copied();
        sorted.retain(|error| unclosed(error) || first.is_some_and(|first| std::ptr::eq(first, *error)));
    } else {
        let broken: BTreeSet<usize> = sorted.iter().map(|error| page.line_of(span(error).start)).collect();
        // The keys after a broken header belong to a table that is not known.
        let headless: Vec<Span> = sorted
            .iter()
            .filter(|error| error.message().starts_with("unclosed table"))
            .map(|error| span(error).start)
            .map(|start| Span { start, end: end_of_table(text, start) })
            .collect();
        mistakes.retain_errors(|at| {
            let before = headless.partition_point(|table| table.start <= at.start);
            let in_headless = before.checked_sub(1).is_some_and(|last| at.start <= headless[last].end);
            !in_headless && !broken.contains(&page.line_of(at.start))
        });
    }
    for error in sorted {
        let span = span(error);
        // The first error of a line is the cause, the others its echoes.
        if lines.insert(page.line_of(span.start)) {
            mistakes.error(mistake(error.message(), text.get(span.start..span.end).unwrap_or(""), span));
        }
    }
}

fn end_of_table(text: &str, start: usize) -> usize {
    text.get(start..).and_then(|rest| rest.find("\n[")).map_or(text.len(), |found| start + found)
}

fn mistake(message: &str, at: &str, span: Span) -> Mistake {
    match message {
        "duplicate key" => Mistake::new(span, format!("duplicate key {}", quoted(at))),
        "recursion limit" => Mistake::new(span, "invalid TOML: keys or values nest too deeply"),
        _ if message.starts_with("string values must be quoted") && at.is_empty() => {
            Mistake::new(span, "invalid TOML: a value is missing")
        }
        _ if message.starts_with("string values must be quoted")
            || message.starts_with("invalid float, expected `")
            || message.starts_with("invalid boolean") =>
        {
            Mistake::new(span, "invalid TOML: not a value").hint("text goes in double quotes: \"…\"")
        }
        _ => Mistake::new(span, format!("invalid TOML: {message}")),
    }
}
