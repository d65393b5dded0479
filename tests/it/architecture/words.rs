//! The words and the width of comments.

use super::source::Source;

/// Columns of a line that is a comment.
const WIDTH: usize = 100;
/// A doc comment that begins with one of these has no subject of its own.
const NO_SUBJECT: &[&str] = &[
    "What", "Whether", "It", "Its", "As", "That", "Those", "They", "Them", "Who", "Whom", "Whose", "Where",
    "How", "Why", "So", "Also", "Then", "Of", "With", "Without",
];

/// The comments that are too wide, or do not begin with a sentence of their own.
pub(super) fn complaints(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut before = "";
    for (number, line) in source.lines().iter().enumerate() {
        let text = line.trim();
        if text.starts_with("//") {
            let width = line.trim_end().chars().count();
            if width > WIDTH {
                found.push(format!("line {}: a comment of {width} columns, more than {WIDTH}", number + 1));
            }
            let opens = !before.starts_with(marker(text)) || before == marker(text);
            if let Some(word) = weak_start(text, opens) {
                found.push(format!("line {}: a comment begins with {word:?}: say who does what", number + 1));
            }
        }
        before = text;
    }
    found
}

/// The slashes of a comment.
fn marker(comment: &str) -> &str {
    match comment.get(..3) {
        Some(doc @ ("///" | "//!")) => doc,
        _ => "//",
    }
}

/// The first word of a comment if it is none to begin with; `opens` where a paragraph of docs begins here.
fn weak_start(comment: &str, opens: bool) -> Option<&'static str> {
    let marker = marker(comment);
    let text = comment[marker.len()..].strip_prefix(' ').unwrap_or(&comment[marker.len()..]);
    let word = text.split(|c: char| !c.is_alphanumeric()).next()?;
    let known = NO_SUBJECT.iter().find(|weak| **weak == word)?;
    (matches!(*known, "What" | "Whether") || opens && marker != "//").then_some(known)
}

#[test]
fn comments_without_a_subject_are_found() {
    for (text, complaint) in [
        ("/// What a run said.\n", "begins with \"What\""),
        ("    // Whether it ends.\n", "begins with \"Whether\""),
        ("//! Purpose.\n//!\n//! It has a thread.\n", "line 3: a comment begins with \"It\""),
        ("fn f() {}\n/// As `apply`.\n", "line 2: a comment begins with \"As\""),
        ("/// Doc.\n/// What else.\n", "line 2: a comment begins with \"What\""),
    ] {
        let found = complaints(&Source::new("a.rs", text));
        assert!(found.len() == 1 && found[0].contains(complaint), "{text}\n{found:?}");
    }
    for text in [
        "/// The run ends here.\n/// It ends there, too.\n",
        "// It is why.\n",
        "/// Items.\n/// What's more\n#[cfg(test)]\nmod tests {}\n"
            .trim_start_matches("/// Items.\n/// What's more\n"),
        "/// Italian words. Sofar.\n",
        "#[cfg(test)]\nmod tests {\n    /// What a test does.\n}\n",
    ] {
        assert_eq!(complaints(&Source::new("a.rs", text)), [""; 0], "{text}");
    }
    let wide = format!("    // {}\n", "é".repeat(WIDTH - 7));
    assert_eq!(complaints(&Source::new("a.rs", &wide)), [""; 0]);
    assert_eq!(complaints(&Source::new("a.rs", &wide.replace("// ", "// x"))).len(), 1);
    assert_eq!(complaints(&Source::new("a.rs", &format!("let x = \"{}\";\n", "x".repeat(WIDTH)))), [""; 0]);
}
