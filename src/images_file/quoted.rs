//! Pieces of the file that a message repeats.

use std::borrow::Cow;

use super::keys::SECRETS;
use crate::error::printable;

/// The longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 120;

/// Quotes a piece of the file for a message: escaped, shortened, without user info or query of a
/// URL.
///
/// A string that is not closed swallows lines that may hold secrets: no message repeats any of
/// these.
pub(super) fn quoted(text: &str) -> String {
    if text.contains('\n') || SECRETS.assigned_in(text) {
        return "`…`".to_owned();
    }
    let mut shown = Cow::Borrowed(text);
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest =
            rest.rsplit_once('@').map_or(Cow::Borrowed(rest), |(_, host)| format!("***@{host}").into());
        let rest = rest.split_once('?').map_or(rest.clone(), |(before, _)| format!("{before}?***").into());
        shown = format!("{scheme}://{rest}").into();
    }
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
        assert_eq!(quoted("https://me:p?w@host/x"), "`https://***@host/x`");
        assert_eq!(quoted("a\nb"), "`…`");
        assert_eq!(quoted("a, password = x"), "`…`");
        assert!(quoted(&"é".repeat(1000)).chars().count() <= MAX_QUOTED + 3);
    }
}
