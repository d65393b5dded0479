//! The size of files and functions, and the file in which a type's methods stand.

use std::collections::{BTreeMap, BTreeSet};

use super::circles::Modules;
use super::paths::at_the_top;
use super::source::Source;

/// Lines of a file.
const FILE: usize = 500;
/// Lines of a function, from its signature to its last bracket.
const FUNCTION: usize = 60;

/// The file is longer than [`FILE`]; `reasons` names those that may be.
pub(super) fn long_file(source: &Source, reasons: &[(&str, &str)]) -> Option<String> {
    let lines = source.text.lines().count();
    let known = reasons.iter().any(|(path, _)| *path == source.path);
    (lines > FILE && !known && !source.is_test)
        .then(|| format!("has {lines} lines, more than {FILE}: split it, or say why it is one thing"))
}

/// The functions that are longer than [`FUNCTION`], unless an attribute above them says why.
pub(super) fn long_functions(source: &Source) -> Vec<String> {
    let lines = source.lines();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let length = lines[start..].iter().position(|line| *line == end).map_or(0, |last| last + 1);
        let head = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}']));
        let has_body = head.is_some_and(|head| lines[start + head].ends_with('{'));
        if has_body && length > FUNCTION && !is_excused(&lines[..start]) {
            found.push(format!("{name} has {length} lines, more than {FUNCTION} (line {})", start + 1));
        }
    }
    found
}

/// The name of the function whose signature begins on `line`.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifier = |word: &str| {
        word.starts_with("pub")
            || matches!(word, "const" | "async" | "unsafe" | "in" | "extern" | "\"C\"")
            || word.ends_with(')')
    };
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (before.split_whitespace().all(qualifier) && !name.is_empty()).then_some(name)
}

/// The attributes at the end of `above` say why a function is long.
fn is_excused(above: &[&str]) -> bool {
    let own = above.iter().rev().take_while(|line| !line.is_empty() && !line.ends_with([';', '}', '{']));
    own.into_iter().any(|line| line.contains("clippy::too_many_lines"))
}

/// Types whose methods stand in more than one file, with these files.
pub(super) fn scattered_types<'a>(
    sources: &'a [Source],
    modules: &Modules<'a>,
) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut homes: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test) {
        let tokens = source.tokens();
        for position in at_the_top(&tokens).filter(|position| tokens[*position] == "impl") {
            let Some(path) = inherent(&tokens[position + 1..]) else { continue };
            let name = path[path.len() - 1];
            let definer = modules.definer(&source.path, &path).unwrap_or(&source.path);
            homes.entry((definer, name)).or_default().insert(&source.path);
        }
    }
    homes.retain(|_, files| files.len() > 1);
    homes.into_iter().map(|((_, name), files)| (name, files.into_iter().collect())).collect()
}

/// The path of the type whose own methods an `impl` holds; `after` is the code behind that word. `None` for a trait's.
fn inherent<'a>(after: &[&'a str]) -> Option<Vec<&'a str>> {
    let mut rest = skip_generics(after);
    let mut path = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        match *first {
            "::" => {}
            "<" => {
                rest = skip_generics(rest);
                continue;
            }
            "{" | "where" => return (!path.is_empty()).then_some(path),
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') && word != "for" => {
                path.push(word);
            }
            _ => return None,
        }
        rest = behind;
    }
    None
}

/// The code behind the `<…>` that it begins with.
fn skip_generics<'t, 'a>(tokens: &'t [&'a str]) -> &'t [&'a str] {
    let mut depth = 0_usize;
    for (position, token) in tokens.iter().enumerate() {
        match *token {
            "<" => depth += 1,
            // The arrow of `Fn() -> T`.
            ">" if position > 0 && tokens[position - 1] == "-" => {}
            ">" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return if *token == ">" { &tokens[position + 1..] } else { tokens };
        }
    }
    tokens
}

#[test]
fn long_functions_and_files_are_found() {
    let body = "    x();\n".repeat(FUNCTION);
    let long =
        format!("//! Purpose.\npub(crate) async fn long(\n    x: u8,\n) {{\n{body}}}\n\nfn short() {{}}\n");
    let found = long_functions(&Source::new("a.rs", &long));
    assert_eq!(found, [format!("long has {} lines, more than {FUNCTION} (line 2)", FUNCTION + 4)]);
    for excuse in [
        "#[expect(clippy::too_many_lines, reason = \"one\")]\n",
        "/// Doc.\n#[expect(\n    clippy::too_many_lines,\n    reason = \"one\"\n)]\n",
    ] {
        let text = long.replace("pub(crate) async", &format!("{excuse}pub(crate) async"));
        assert_eq!(long_functions(&Source::new("a.rs", &text)), [""; 0], "{excuse}");
    }
    for (before, after) in [
        ("#[cfg(test)]\nmod tests {\n", "}\n"),
        ("impl X {\n    fn brief(&self) -> u8 { 1 }\n", "}\n"),
        ("fn one() {}\n", "static X: u8 = {\n}\n"),
    ] {
        let text = format!("//! Purpose.\n{before}{body}{after}");
        assert_eq!(long_functions(&Source::new("a.rs", &text)), [""; 0], "{text}");
    }
    let lines = "// x\n".repeat(FILE + 1);
    assert!(long_file(&Source::new("a.rs", &lines), &[("b.rs", "one thing")]).is_some());
    assert!(long_file(&Source::new("b.rs", &lines), &[("b.rs", "one thing")]).is_none());
    assert!(long_file(&Source::new("a.rs", &lines[5..]), &[]).is_none());
}

#[test]
fn a_type_with_two_homes_is_found() {
    let scattered = |files: &[(&str, &str)]| -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let found = scattered_types(&sources, &Modules::new(&sources));
        found.into_iter().map(|(name, files)| format!("{name}: {}", files.join(", "))).collect()
    };
    let session =
        ("sync.rs", "pub use plan::P; pub struct Session<'a>(&'a u8); impl<'a> Session<'a> { fn a() {} }");
    for other in [
        "use super::Session; impl Session<'_> { fn b() {} }",
        "impl<T: Into<u8>, F: Fn(u8) -> Vec<T>> crate::sync::Session<T> where T: X { fn b() {} }",
        "use crate::sync as s; impl s::Session { fn b() {} }",
    ] {
        assert_eq!(
            scattered(&[("lib.rs", "pub mod sync;"), session, ("sync/plan.rs", other)]),
            ["Session: sync.rs, sync/plan.rs"],
            "{other}"
        );
    }
    for other in [
        "use super::Session; impl Drop for Session<'_> { fn drop(&mut self) {} }",
        "struct Session; impl Session { fn b() {} }",
        "use super::Session; #[cfg(test)] mod tests { impl Session { fn b() {} } }",
    ] {
        assert_eq!(
            scattered(&[("lib.rs", "pub mod sync;"), session, ("sync/plan.rs", other)]),
            [""; 0],
            "{other}"
        );
    }
}
