//! Pieces of the file that a message repeats.

use super::keys::SECRETS;
use crate::diagnostic::holds_pem;
use crate::error::{printable, without_likely_secrets, without_secrets};

/// The longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 120;

/// Quotes a piece of the file for a message: escaped, shortened, without user info, query and
/// fragment of a URL or of an image reference.
///
/// A string that is not closed swallows lines that may hold secrets: no message repeats any of
/// these.
pub(super) fn quoted(text: &str) -> String {
    quoted_without(without_likely_secrets, text)
}

/// Quotes a piece of the file that stands where an image reference or a registry's name belongs, as
/// [`quoted`] does: there an `@` with a host behind is that of a login.
pub(super) fn quoted_reference(text: &str) -> String {
    quoted_without(without_secrets, text)
}

fn quoted_without(secrets: fn(&str) -> String, text: &str) -> String {
    if text.contains(['\n', '\r']) || holds_pem(text) || SECRETS.assigned_in(text) {
        return "`…`".to_owned();
    }
    let shown = secrets(text);
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
        assert_eq!(quoted("ann@corp.com"), "`ann@corp.com`");
        assert_eq!(quoted_reference("pw@corp.com"), "`***@corp.com`");
        assert_eq!(quoted_reference("a:1@sha256:…"), "`a:1@sha256:…`");
        assert_eq!(quoted("a, password = x"), "`…`");
        assert!(quoted(&"é".repeat(1000)).chars().count() <= MAX_QUOTED + 3);
    }
}
