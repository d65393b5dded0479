//! Words from outside: shortened, cleaned of control characters, and less of what nobody should
//! read.

use std::collections::HashSet;

use crate::error;

/// `text` from outside as one short line, with at most `max` of its characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(max) {
        Some((end, _)) => error::printable(&text[..end]) + "…",
        None => error::printable(text),
    }
}

/// serde's words, less the text that they quote: who leads us to a document need not learn what it
/// says.
pub(crate) fn json_error(error: &serde_json::Error) -> String {
    let mut words = without_type_names(error.to_string());
    if let (Some(first), Some(last)) = (words.find('"'), words.rfind('"')) {
        words.replace_range(first..=last, "…");
    }
    let words = printable(&words, 200);
    if error.is_data() {
        format!("it is not what it should be: {words}")
    } else {
        format!("it is not JSON: {words}")
    }
}

/// serde's words, with the kind of a value in place of the type by which this program reads it.
fn without_type_names(words: String) -> String {
    // The text that the words quote stands before them, and may hold the same.
    for (ours, instead) in [
        ("expected struct ", "expected an object"),
        ("data did not match any variant of untagged enum ", "the value is of another kind"),
    ] {
        if let Some((before, name)) = words.rsplit_once(ours) {
            let after = name.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric());
            return format!("{before}{instead}{after}");
        }
    }
    words
}

/// The registry's own words in the body of an error, after `show`: the distribution spec's
/// `errors`, or what token servers say.
pub(super) fn reason_in(body: &[u8], show: &dyn Fn(&str) -> String) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: Option<&serde_json::Value>| {
        value
            .and_then(serde_json::Value::as_str)
            .map(str::trim)
            .filter(|text| !text.is_empty())
            // Before any change of case, which would make another secret of one in base64.
            .map(show)
    };
    let error = json.get("errors").and_then(|errors| errors.get(0));
    let code = text(error.and_then(|error| error.get("code"))).map(|code| match code.as_str() {
        "TOOMANYREQUESTS" => "too many requests".to_owned(),
        _ => code.to_lowercase().replace('_', " "),
    });
    let message = text(error.and_then(|error| error.get("message")));
    match (code, message) {
        (Some(code), Some(message)) if message.to_lowercase().starts_with(&code) => Some(message),
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => ["error_description", "details", "message", "error"]
            .into_iter()
            .find_map(|key| text(json.get(key))),
    }
}

/// The values that a text gives to names of secrets: `"Secret": "…"`, `password=…`. For words of
/// which nobody knows beforehand what is secret in them.
pub(crate) fn named_secrets(text: &str) -> Vec<String> {
    const NAMES: [&str; 6] = ["secret", "password", "passwd", "passphrase", "token", "credential"];
    let lower = text.to_ascii_lowercase();
    let mut found = HashSet::new();
    for name in NAMES {
        for (at, _) in lower.match_indices(name) {
            let after = text[at + name.len()..].trim_start_matches(['s', 'S']);
            let after = after.trim_start_matches(['"', '\'', ' ', '\t']);
            let Some(value) = after.strip_prefix([':', '=']).map(str::trim_start) else { continue };
            let value = match value.chars().next() {
                Some('"') => serde_json::Deserializer::from_str(value)
                    .into_iter::<String>()
                    .next()
                    .and_then(Result::ok)
                    .unwrap_or_else(|| value[1..].split('"').next().unwrap_or_default().to_owned()),
                Some('\'') => value[1..].split('\'').next().unwrap_or_default().to_owned(),
                _ => value.split([' ', '\t', '\n', ',', ';', '}']).next().unwrap_or_default().to_owned(),
            };
            if !value.is_empty() {
                found.insert(value);
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_own_words_are_found() {
        let reason = |body: &str| reason_in(body.as_bytes(), &str::to_owned);
        assert_eq!(
            reason(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#).as_deref(),
            Some("manifest unknown")
        );
        assert_eq!(
            reason(r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#).as_deref(),
            Some("denied: not yours")
        );
        assert_eq!(reason(r#"{"details":"incorrect password"}"#).as_deref(), Some("incorrect password"));
        assert_eq!(reason("<html>"), None);
        assert_eq!(reason(r#"{"errors":[]}"#), None);
    }

    #[test]
    fn no_type_of_ours_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(untagged)]
        enum Words {
            Many(Vec<String>),
            One(String),
        }
        #[derive(Debug, serde::Deserialize)]
        struct Outer {
            words: Words,
        }
        let error = |json: &str| json_error(&serde_json::from_str::<Outer>(json).unwrap_err());
        assert_eq!(
            error("null"),
            "it is not what it should be: invalid type: null, expected an object at line 1 column 4"
        );
        assert_eq!(
            error(r#""struct \"SECRET""#),
            "it is not what it should be: invalid type: string …, expected an object at line 1 column 17"
        );
        assert_eq!(
            error(r#"{"words": 5}"#),
            "it is not what it should be: the value is of another kind at line 1 column 12"
        );
        assert_eq!(
            error(r#"{"words": "struct "#),
            "it is not JSON: EOF while parsing a string at line 1 column 18"
        );
        let read: Outer = serde_json::from_str(r#"{"words": ["a"]}"#).unwrap();
        assert!(matches!(read.words, Words::Many(words) if words == ["a"]));
        assert!(matches!(serde_json::from_str(r#""a""#).unwrap(), Words::One(word) if word == "a"));
    }

    #[test]
    fn text_from_outside_is_one_short_line() {
        assert_eq!(printable("a\u{1b}[31m\r\nb", 100), "a\\u{1b}[31m\\r\\nb");
        assert_eq!(printable("abcdef", 3), "abc…");
    }
}
