//! Keeps the house in order: the rules that `src/lib.rs` states, held against the sources.
//!
//! The checker reads source text, not types: it drops comments, literals and `#[cfg(test)]` items, expands every path,
//! and judges those (`rooms`, `circles`); and it reads lines (`shape`, `words`). A source file of no known room is a
//! violation too, so that the map stays whole.

mod circles;
mod paths;
mod rooms;
mod shape;
mod source;
mod words;

use std::path::Path;
use std::sync::LazyLock;

use self::circles::{Modules, circles, describe};
use self::source::Source;

/// Files that are longer than others may be, and why each is one thing.
const LONG_FILES: &[(&str, &str)] = &[];

static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let sources = source::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 5, "only {} files in src", sources.len());
    sources
});

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// Prefixes complaints with the file that they are about.
fn of<'a>(
    source: &'a Source,
    complaints: impl IntoIterator<Item = String> + 'a,
) -> impl Iterator<Item = String> + 'a {
    complaints.into_iter().map(|complaint| format!("src/{}: {complaint}", source.path))
}

#[test]
fn rooms_keep_to_themselves() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        let mut wrong = rooms::violations(source);
        if source.is_test {
            wrong.retain(|complaint| complaint == rooms::NO_PURPOSE);
        }
        found.extend(of(source, wrong));
    }
    assert_none(&found);
}

#[test]
fn the_maps_for_readers_name_every_room() {
    let read = |path| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("cannot read a file")
    };
    assert_none(&rooms::unmapped(&read("src/lib.rs"), &read("CONTRIBUTING.md")));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let modules = Modules::new(&SOURCES);
    let uses = modules.uses();
    assert!(uses.len() > 100, "only {} uses of a file by another", uses.len());
    let found = circles(&uses);
    assert_none(&found.iter().map(|circle| describe(circle, &uses)).collect::<Vec<_>>());
}

#[test]
fn a_types_methods_stand_in_one_file() {
    let found = shape::scattered_types(&SOURCES, &Modules::new(&SOURCES));
    let text = |(name, files): &(_, Vec<_>)| format!("impl {name} in {}", files.join(" and "));
    assert_none(&found.iter().map(text).collect::<Vec<_>>());
}

#[test]
fn files_functions_and_comments_read_once() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        if !source.is_test {
            found.extend(of(source, rooms::own_threads(source)));
            found.extend(of(source, shape::long_file(source, LONG_FILES)));
            found.extend(of(source, shape::long_functions(source)));
        }
        found.extend(of(source, words::complaints(source)));
    }
    assert_none(&found);
    for (path, _) in LONG_FILES {
        let long = |source: &Source| source.path == *path && shape::long_file(source, &[]).is_some();
        assert!(SOURCES.iter().any(long), "{path} is not long any more: take it off the list");
    }
}
