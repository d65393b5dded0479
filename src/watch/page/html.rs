//! HTML that is written piece by piece. What is not a literal of the source goes in by
//! [`Html::text`] alone, which escapes it: no text from outside can become markup.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;

use crate::error::escape_into;

/// A page that is being written.
pub(super) struct Html(String);

impl Html {
    pub(super) fn new() -> Self {
        Self(String::with_capacity(32 * 1024))
    }

    /// Adds markup.
    pub(super) fn tags(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, or the value of an attribute in double quotes.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string does not fail.
        let _ = write!(Escaping(&mut self.0), "{text}");
        self
    }

    /// Adds the parts of a long name, each of which may begin a new line.
    pub(super) fn breakable(&mut self, name: &str) -> &mut Self {
        for part in name.split_inclusive(['/', '@', ':']) {
            self.text(part).tags("<wbr>");
        }
        self
    }

    /// Adds words for `time`, with the time itself for those who want to know.
    pub(super) fn time(&mut self, time: Timestamp, words: impl Display) -> &mut Self {
        self.tags("<time datetime=\"").text(time);
        self.tags("\" title=\"").text(time.strftime("%Y-%m-%d %H:%M:%S UTC"));
        self.tags("\">").text(words).tags("</time>")
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Escapes what is written through it.
struct Escaping<'a>(&'a mut String);

impl std::fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => escape_into(self.0, other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let mut html = Html::new();
        html.tags("<b title=\"")
            .text("\" onclick='x' <&>")
            .tags("\">")
            .text("a\u{202e}b\u{1b}\n")
            .tags("</b>");
        assert_eq!(
            html.finish(),
            "<b title=\"&quot; onclick=&#39;x&#39; &lt;&amp;&gt;\">a\\u{202e}b\\u{1b}\\n</b>"
        );
    }

    #[test]
    fn long_names_break_at_their_parts() {
        let mut html = Html::new();
        html.breakable("a.io/b<c:1");
        assert_eq!(html.finish(), "a.io/<wbr>b&lt;c:<wbr>1<wbr>");
    }
}
