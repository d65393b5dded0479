//! Text from outside in a message: registries, archives, files and arguments may hold anything.
//!
//! This one rule escapes characters that could steer a terminal, or make a line read as another,
//! wherever text from outside is shown. The caller says how much of it is shown, and on how many
//! lines.

/// True if a terminal could take `c` for more than a character: control characters, and those that
/// format text invisibly (directions, joiners, separators of lines).
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Appends `c` to `out`, escaped as in Rust's literals if it could disturb a terminal.
pub fn escape_into(out: &mut String, c: char) {
    if is_dangerous(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Makes one line of `text`, with whatever could disturb a terminal escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        escape_into(&mut out, c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\x1b[31m\r\nb\u{202e}c\u{9b}"), r"a\u{1b}[31m\r\nb\u{202e}c\u{9b}");
        assert_eq!(
            printable("zero\u{200b}width\u{feff} line\u{2028}"),
            r"zero\u{200b}width\u{feff} line\u{2028}"
        );
        assert_eq!(printable("naïve 日本 \\n"), "naïve 日本 \\n");
    }
}
