//! The document that stands in the place of a result where a command cannot be carried out: the
//! reason, and each mistake of a file at its place.

use msb_sync::sync::{Problem, VerbError};
use serde_json::{Value, json};

use super::{VERSION, error_value};

/// The reason why a whole command failed.
pub(crate) fn failure(failure: &VerbError) -> Value {
    match failure {
        VerbError::Problems(problems) => {
            let first = problems.iter().next();
            let more = problems.len().saturating_sub(1);
            of_file("images-file", first, more, &problems.iter().map(problem).collect::<Vec<_>>())
        }
        VerbError::Lockfile(broken) => of_file("lockfile", Some(broken), 0, &[problem(broken)]),
        VerbError::Error(error) | VerbError::Input(error) => document(&error_value(error), &[]),
    }
}

/// A command line that cannot be understood.
pub(crate) fn misuse(message: &str, hint: Option<&str>) -> Value {
    document(&json!({ "kind": "usage", "message": message, "hint": hint }), &[])
}

fn document(error: &Value, problems: &[Value]) -> Value {
    json!({ "version": VERSION, "error": error, "problems": problems })
}

/// A wrong file: its first mistake stands for all in the message.
fn of_file(kind: &str, first: Option<&Problem>, more: usize, problems: &[Value]) -> Value {
    let more = match more {
        0 => String::new(),
        1 => " (and 1 more problem)".to_owned(),
        more => format!(" (and {more} more problems)"),
    };
    let message = first.map(|first| format!("{}: {}{more}", first.position(), first.message()));
    let hint = first.and_then(Problem::hint);
    document(&json!({ "kind": kind, "message": message.unwrap_or_default(), "hint": hint }), problems)
}

fn problem(problem: &Problem) -> Value {
    json!({
        "file": problem.file(),
        "line": problem.line(),
        "column": problem.column(),
        "message": problem.message(),
        "hint": problem.hint(),
    })
}
