//! A source file as the rules read it: its lines, and its code without comments, literals and tests.

use std::path::Path;

/// One file of `src`.
pub(super) struct Source {
    /// Relative to `src`, as in `registry/auth.rs`.
    pub(super) path: String,
    /// The text as it was written.
    pub(super) text: String,
    /// The code: comments gone, literals blank, items marked `#[cfg(test)]` left out.
    code: String,
    /// A parent declares this file, or a file above it, under `#[cfg(test)]`.
    pub(super) is_test: bool,
}

impl Source {
    /// Reads a file that no test declares.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let bare = without_literals(text);
        let code = without_tests(&tokens(&bare)).join(" ");
        Self { path: path.to_owned(), text: text.to_owned(), code, is_test: false }
    }

    /// Words, `::` and single characters of the code.
    pub(super) fn tokens(&self) -> Vec<&str> {
        tokens(&self.code)
    }

    /// The room that the file belongs to.
    pub(super) fn room(&self) -> &str {
        room_of(&self.path)
    }

    /// The lines of the text above the tests that stand at the end of the file; all lines of a test.
    pub(super) fn lines(&self) -> Vec<&str> {
        let all: Vec<&str> = self.text.lines().collect();
        let tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
        let end = all.windows(2).position(tests).filter(|_| !self.is_test);
        all[..end.unwrap_or(all.len())].to_vec()
    }
}

/// Reads every Rust file below `src`, and tells tests from the program.
pub(super) fn read_all(src: &Path) -> Vec<Source> {
    let mut pending = vec![src.to_owned()];
    let mut sources = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(src).unwrap().to_str().unwrap();
                sources.push(Source::new(relative, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let tests: Vec<String> =
        sources.iter().flat_map(|source| test_modules(&source.path, &source.text)).collect();
    for source in &mut sources {
        let below = |test: &String| {
            source.path.strip_prefix(test).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        source.is_test = tests.iter().any(below);
    }
    sources
}

/// The room of a file: the first step of its path.
pub(super) fn room_of(path: &str) -> &str {
    stem(path).split('/').next().unwrap_or_default()
}

/// The path of a module: `registry/auth.rs` and `registry/auth/mod.rs` are `registry/auth`.
pub(super) fn stem(path: &str) -> &str {
    path.trim_end_matches(".rs").trim_end_matches("/mod")
}

/// The modules in files of their own that `#[cfg(test)]` marks in the file at `path`, as paths without `.rs`.
pub(super) fn test_modules(path: &str, source: &str) -> Vec<String> {
    let text = without_literals(source);
    let tokens = tokens(&text);
    let own = stem(path);
    let mark = [&MARK[..], &["mod"]].concat();
    let declared =
        tokens.windows(mark.len() + 2).filter(|window| window.starts_with(&mark) && window.ends_with(&[";"]));
    declared
        .map(|window| window[mark.len()])
        .map(|name| if own == "lib" { name.to_owned() } else { format!("{own}/{name}") })
        .collect()
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

#[test]
fn modules_of_tests_are_known() {
    let parent = "mod real; #[cfg(test)] mod tests; #[cfg(test)]\nmod inline { }";
    assert_eq!(test_modules("registry.rs", parent), ["registry/tests"]);
    assert_eq!(test_modules("lib.rs", parent), ["tests"]);
}
