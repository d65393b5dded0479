//! Keeps the rules between rooms that `src/lib.rs` states: who may import whom, which rooms are pure, and which
//! room is the only home of an outside crate.
//!
//! The checker reads source text, not types: it drops comments, literals and `#[cfg(test)]` items, expands
//! every path, and judges those. A source file of no known room is a violation too, so that the map stays whole.

use std::path::Path;

const VOCABULARY: &[&str] =
    &["digest", "image_ref", "error", "progress", "sys", "cancel", "queue", "threads", "diagnostic", "url"];
const PURE: &[&str] = &["state", "images_file", "lockfile", "selection", "plan"];
const ADAPTERS: &[&str] = &["registry", "store", "catalog", "extract"];
const DRIVERS: &[&str] = &["observe", "execute"];

/// What a pure room must not touch.
const IMPURE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
];

/// Outside crates and the only rooms that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["catalog"]),
    ("ureq", &["registry"]),
    ("rustls", &["registry"]),
    ("webpki", &["registry"]),
    ("tar", &["extract"]),
    ("flate2", &["extract"]),
    ("zstd", &["extract"]),
    ("libc", &["sys"]),
    ("rustix", &["sys"]),
    ("rayon", &["extract", "execute"]),
    ("notify", &["watch"]),
    ("tokio", &["watch"]),
    ("sd_notify", &["watch"]),
    ("prometheus_client", &["watch"]),
    ("hyper", &["watch"]),
    ("hyper_util", &["watch"]),
    ("clap", &["bin"]),
    ("indicatif", &["bin"]),
    ("signal_hook", &["bin"]),
    ("toml", &["images_file", "lockfile", "registry"]),
    ("semver", &["selection", "images_file"]),
    ("regex", &["selection", "images_file"]),
];

/// The files outside `sys` that open files by path: what they read is the kernel's, or what they say they make. All
/// else is opened by `sys`, which refuses fifos, devices and directories, and what another user has put there.
const OPENERS: &[&str] =
    &["extract.rs", "extract/fuzzing.rs", "store.rs", "store/usage", "catalog.rs", "sync.rs"];
const OPENS: &[&[&str]] = &[
    &["File", "open"],
    &["File", "create"],
    &["fs", "read"],
    &["fs", "read_to_string"],
    &["fs", "OpenOptions"],
];

const NO_PURPOSE: &str = "does not start with its purpose (//!)";

/// The rooms that `room` may import; `None` where everything goes (the map itself, the binary) and an empty
/// list where the room is unknown.
fn allowed(room: &str) -> Option<Vec<&'static str>> {
    let below: &[&[&str]] = match room {
        "lib" | "bin" => return None,
        _ if VOCABULARY.contains(&room) => &[VOCABULARY],
        _ if PURE.contains(&room) || ADAPTERS.contains(&room) => &[VOCABULARY, &["state"]],
        _ if DRIVERS.contains(&room) => &[VOCABULARY, PURE, ADAPTERS],
        "sync" => &[VOCABULARY, PURE, ADAPTERS, DRIVERS],
        // Not in the program: compiled for tests and fuzzing only.
        "fuzzing" => &[VOCABULARY, PURE, ADAPTERS],
        "watch" => &[VOCABULARY, PURE, ADAPTERS, DRIVERS, &["sync"]],
        _ => &[],
    };
    Some(below.concat())
}

/// Everything that a source file does against the rules; `path` is relative to `src`.
fn violations(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |text: String| found.push(format!("src/{path}: {text}"));
    let parts: Vec<&str> = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let room = parts[0];
    if !source.starts_with("//!") {
        report(NO_PURPOSE.to_owned());
    }
    let file = path;
    let text = without_literals(source);
    let tokens = without_tests(&tokens(&text));
    if room != "sys" && tokens.contains(&"unsafe") {
        report("unsafe outside sys".to_owned());
    }
    if tokens.windows(3).any(|window| window == ["#", "[", "path"]) || tokens.contains(&"include") {
        report("takes in a file by path, past the rooms".to_owned());
    }
    let below = allowed(room);
    if below.as_ref().is_some_and(Vec::is_empty) {
        report("is in no known room: place it in lib.rs and in this test".to_owned());
    }
    for path in paths(&tokens) {
        if let (Some(below), Some(target)) = (&below, inner_target(&path, parts.len()))
            && target != room
            && !below.contains(&target)
        {
            report(format!("{room} imports {target} ({})", path.join("::")));
        }
        let first = path[0];
        if let Some((_, homes)) = HOMES.iter().find(|(name, _)| *name == first)
            && !homes.contains(&room)
        {
            report(format!("{first} belongs to {homes:?}"));
        }
        let opens = OPENS.iter().any(|open| path.ends_with(open));
        if opens
            && !matches!(room, "sys" | "fuzzing")
            && !OPENERS.iter().any(|opener| file.starts_with(opener))
        {
            report(format!("opens a file by {}: sys does, whatever it is", path.join("::")));
        }
        let clock = path.len() > 1 && path.last() == Some(&"now");
        // Compiled in, not read from the environment.
        let constant = path.starts_with(&["std", "env", "consts"]);
        if PURE.contains(&room)
            && !constant
            && (clock || IMPURE.iter().any(|impure| path.starts_with(impure)))
        {
            report(format!("a pure room uses {}", path.join("::")));
        }
        if room == "bin" && path.starts_with(&["super", "super"]) {
            report(format!("the binary reaches out by {}", path.join("::")));
        }
    }
    found
}

/// What a path names directly below the crate's root, where it leads there. `depth` is 1 for `src/room.rs`.
fn inner_target<'a>(path: &[&'a str], depth: usize) -> Option<&'a str> {
    if path[0] == "crate" {
        return path.get(1).copied();
    }
    let ups = path.iter().take_while(|part| **part == "super").count();
    (ups > 0 && ups >= depth).then(|| path.get(ups).copied()).flatten()
}

/// The source with comments gone and literals blank.
fn without_literals(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word_before = text.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            quoted(rest, 1)
        } else if let Some(hashes) = raw_string(rest).filter(|_| !word_before) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = rest.find('"').unwrap() + 1;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '\'' && is_char(rest) {
            1 + quoted(&rest[1..], 0)
        } else {
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        text.push(' ');
        rest = &rest[skipped..];
    }
    text
}

/// The length up to and including the closing quote (`"` where `start` is 1, else `'`).
fn quoted(text: &str, start: usize) -> usize {
    let quote = if start == 1 { b'"' } else { b'\'' };
    let mut position = start;
    while let Some(byte) = text.as_bytes().get(position) {
        match byte {
            b'\\' => position += 2,
            byte if *byte == quote => return position + 1,
            _ => position += 1,
        }
    }
    text.len()
}

/// How many `#` a raw string that starts here has.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// A character literal, as opposed to a lifetime.
fn is_char(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let first = chars.next();
    first == Some('\\') || chars.next() == Some('\'')
}

/// Words, `::` and single characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        found.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    found
}

const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Without every item that `#[cfg(test)]` marks.
fn without_tests<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let mut kept = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        if !tokens[position..].starts_with(&MARK) {
            kept.push(tokens[position]);
            position += 1;
            continue;
        }
        position += MARK.len();
        let mut depth = 0_usize;
        while position < tokens.len() {
            let token = tokens[position];
            position += 1;
            match token {
                "{" | "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Words after which a path may begin with `::`.
const KEYWORDS: &[&str] =
    &["use", "return", "as", "dyn", "impl", "for", "in", "mut", "pub", "else", "match", "if"];

/// The modules in files of their own that `#[cfg(test)]` marks in the file at `path`, as paths without `.rs`.
fn test_modules(path: &str, source: &str) -> Vec<String> {
    let text = without_literals(source);
    let tokens = tokens(&text);
    let own = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let mark = [&MARK[..], &["mod"]].concat();
    let declared =
        tokens.windows(mark.len() + 2).filter(|window| window.starts_with(&mark) && window.ends_with(&[";"]));
    declared
        .map(|window| window[mark.len()])
        .map(|name| if own == "lib" { name.to_owned() } else { format!("{own}/{name}") })
        .collect()
}

/// Every path of the code, `use` trees expanded; single words only where `use` names them.
fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        // `use ::name` names the crate `name` as well.
        let single = tokens[..position].ends_with(&["use"]) || tokens[..position].ends_with(&["use", "::"]);
        let start = position;
        if is_word(tokens[position]) && !KEYWORDS.contains(&tokens[position]) {
            expand(tokens, &mut position, &[], single, &mut found);
        }
        position = position.max(start + 1);
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn expand<'a>(
    tokens: &[&'a str],
    position: &mut usize,
    prefix: &[&'a str],
    single: bool,
    found: &mut Vec<Vec<&'a str>>,
) {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(*position) {
            Some(&"{") if !path.is_empty() => {
                *position += 1;
                while tokens.get(*position).is_some_and(|token| *token != "}") {
                    let before = *position;
                    expand(tokens, position, &path, true, found);
                    if tokens.get(*position) == Some(&"as") {
                        *position += 2;
                    }
                    if tokens.get(*position) == Some(&",") || *position == before {
                        *position += 1;
                    }
                }
                *position += 1;
                return;
            }
            Some(word) if is_word(word) || *word == "*" => path.push(word),
            _ => break,
        }
        *position += 1;
        if tokens.get(*position) != Some(&"::") {
            break;
        }
        *position += 1;
    }
    if path.len() > 1 || single && !path.is_empty() {
        found.push(path);
    }
}

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                sources.push((relative, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 5, "only {} files in src", sources.len());
    let tests: Vec<String> = sources.iter().flat_map(|(path, source)| test_modules(path, source)).collect();
    let mut found = Vec::new();
    for (path, source) in &sources {
        let is_test = |stem: &String| {
            path.strip_prefix(stem).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        let mut wrong = violations(path, source);
        if tests.iter().any(is_test) {
            wrong.retain(|line| line.ends_with(NO_PURPOSE));
        }
        found.extend(wrong);
    }
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_checker_finds_what_is_against_the_rules() {
    for (path, code, complaint) in [
        ("plan.rs", "use crate::catalog::Catalog;", "plan imports catalog"),
        ("plan.rs", "use crate::{digest::DiffId, store};", "plan imports store"),
        ("plan.rs", "use super::store::Store;", "plan imports store"),
        ("plan.rs", "fn f() { crate::store::open() }", "plan imports store"),
        ("plan.rs", "fn f<'a>(x: &'a str) -> char { crate::sync::x(); 'a' }", "plan imports sync"),
        ("plan.rs", "use crate::Everything;", "plan imports Everything"),
        ("plan.rs", "use std::{fmt, fs::File};", "uses std::fs::File"),
        ("plan.rs", "use std::time::{Duration, Instant};", "uses std::time::Instant"),
        ("plan.rs", "fn f() { std::env::var(\"x\"); }", "uses std::env::var"),
        ("lockfile.rs", "fn f() { let now = jiff::Timestamp::now(); }", "uses jiff::Timestamp::now"),
        ("digest.rs", "use crate::state::Platform;", "digest imports state"),
        ("error/layer.rs", "use super::super::plan::Plan;", "error imports plan"),
        ("registry/auth.rs", "use crate::catalog;", "registry imports catalog"),
        ("extract.rs", "use crate::store::Staged;", "extract imports store"),
        ("observe.rs", "use crate::execute::run;", "observe imports execute"),
        ("execute.rs", "use crate::sync;", "execute imports sync"),
        ("sync.rs", "use crate::watch::Watch;", "sync imports watch"),
        ("store.rs", "use rusqlite::Connection;", "rusqlite belongs to"),
        ("sync.rs", "fn f() { tar::Archive::new(x); }", "tar belongs to"),
        ("store.rs", "use ::rustix::fs;", "rustix belongs to"),
        ("store.rs", "use libc;", "libc belongs to"),
        ("bin/msb-sync/main.rs", "use rusqlite as sql;", "rusqlite belongs to"),
        ("bin/msb-sync/main.rs", "#[path = \"../../catalog.rs\"] mod catalog;", "by path"),
        ("registry/tls.rs", "fn f() { File::open(path); }", "opens a file by File::open"),
        ("watch/paths.rs", "fn f() { std::fs::read(path); }", "opens a file by std::fs::read"),
        ("bin/msb-sync/human.rs", "use super::super::x;", "reaches out"),
        ("store.rs", "fn f() { unsafe { g() } }", "unsafe outside sys"),
        ("helpers.rs", "fn f() {}", "no known room"),
    ] {
        let found = violations(path, &format!("//! Purpose.\n{code}"));
        assert!(found.iter().any(|line| line.contains(complaint)), "{path}: {code}\n{found:?}");
    }
    assert_eq!(violations("plan.rs", "fn f() {}").len(), 1, "a file without purpose");
    let parent = "mod real; #[cfg(test)] mod tests; #[cfg(test)]\nmod inline { }";
    assert_eq!(test_modules("registry.rs", parent), ["registry/tests"]);
    assert_eq!(test_modules("lib.rs", parent), ["tests"]);
}

#[test]
fn the_checker_leaves_alone_what_keeps_the_rules() {
    for (path, code) in [
        ("plan.rs", "use crate::state::{Desired, Observed};\nuse std::time::Duration;"),
        ("state.rs", "use std::env::consts::ARCH;"),
        ("plan.rs", "// use crate::store;\n/* std::fs */ const X: &str = \"crate::store \\\" std::fs\";"),
        ("plan.rs", "const X: &str = r#\"use crate::store; \" std::fs\"#; const Q: char = '\"';"),
        ("plan.rs", "#[cfg(test)]\nmod tests { use super::*; use std::fs; fn f() { crate::sync::x(); } }"),
        ("plan.rs", "#[cfg(test)]\nuse std::fs;\nfn f(now: u64) -> u64 { now }"),
        ("error/layer.rs", "use super::Error;"),
        ("registry/auth.rs", "use super::transport::Client;\nuse crate::registry::token;\nuse ureq::Agent;"),
        ("execute.rs", "use crate::{catalog::Catalog, plan::Plan, store::Store};\nuse rayon::prelude::*;"),
        ("watch.rs", "use crate::sync;\nuse tokio::time;\nuse notify as n;"),
        ("sys.rs", "use rustix::fs; fn f() { unsafe { g() } }"),
        ("lib.rs", "pub mod catalog;\npub use crate::catalog::Catalog;"),
        ("bin/msb-sync/main.rs", "use clap::Parser;\nuse msb_sync::sync;\nmod args;\nuse crate::args::Args;"),
        ("extract/mod.rs", "use self::entry::tar_name; use crate::extract::entry; use tar as t;"),
    ] {
        let found = violations(path, &format!("//! Purpose.\n{code}"));
        assert!(found.is_empty(), "{path}: {code}\n{found:?}");
    }
}
