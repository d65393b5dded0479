//! Pieces of the file that a message repeats.

use super::keys::SECRETS;
use crate::diagnostic::holds_pem;
use crate::error::{printable, without_likely_secrets};

/// The longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 120;

/// Quotes a piece of the file for a message: escaped, shortened, without user info or query of a
/// URL or of an image reference.
///
/// A string that is not closed swallows lines that may hold secrets: no message repeats any of
/// these.
pub(super) fn quoted(text: &str) -> String {
    if text.contains(['\n', '\r']) || holds_pem(text) || SECRETS.assigned_in(text) {
        return "`…`".to_owned();
    }
    let shown = without_likely_secrets(text);
    let mut out: String = shown.chars().take(MAX_QUOTED).collect();
    if out.len() < shown.len() {
        out.push('…');
    }
    format!("`{}`", printable(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_short_printable_and_free_of_secrets() {
        assert_eq!(quoted("a\u{1b}[31m\u{202e}b"), "`a\\u{1b}[31m\\u{202e}b`");
        assert_eq!(quoted("https://me:pw@host/x?sig=1"), "`https://***@host/x?***`");
        assert_eq!(quoted("https://me:p?w@host/x"), "`https://***`");
        assert_eq!(quoted("me:pw@host/x:1"), "`***@host/x:1`");
        assert_eq!(quoted("host/x:1?sig=1"), "`host/x:1?***`");
        assert_eq!(quoted("pw@r.io/x:1"), "`***@r.io/x:1`");
        assert_eq!(quoted("-----BEGIN PRIVATE KEY-----"), "`…`");
        assert_eq!(quoted("a\nb"), "`…`");
        assert_eq!(quoted("a, password = x"), "`…`");
        assert!(quoted(&"é".repeat(1000)).chars().count() <= MAX_QUOTED + 3);
    }
}
