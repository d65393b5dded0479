//! Parts of documents that are only recorded or shown: annotations, labels, history, dates.
//!
//! None of them refuses an image by being too large, and all take little memory. A run holds what
//! is recorded of all its images at once, so they are kept in the compact form of the catalog; and
//! a part that is larger than any builder makes it is not recorded at all.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::state::Labels;

/// The largest annotations of a document that are recorded, in bytes of JSON.
const MAX_ANNOTATIONS: usize = 64 << 10;
/// The largest labels of a config that are recorded, in bytes of JSON.
const MAX_LABELS: usize = 128 << 10;
/// The largest history of a config that is recorded, in bytes of JSON.
const MAX_HISTORY: usize = 128 << 10;
/// The longest word (a date, a signal) that is recorded, in bytes of JSON.
const MAX_WORD: usize = 256;

/// Normalises the annotations of an index or a manifest: compact, in the order of their keys.
pub(super) fn annotations(raw: Option<&RawValue>) -> Result<Option<String>, serde_json::Error> {
    let Some(json) = within(raw, MAX_ANNOTATIONS) else { return Ok(None) };
    let annotations: BTreeMap<String, String> = serde_json::from_str(json)?;
    if annotations.is_empty() { Ok(None) } else { serde_json::to_string(&annotations).map(Some) }
}

/// Reads labels as they are shown: what is no text as the JSON that it is, null as nothing. Labels
/// that are no object are none.
pub(super) fn labels(raw: Option<&RawValue>) -> Labels {
    let labels: BTreeMap<String, Value> = parsed(raw, MAX_LABELS).unwrap_or_default();
    let shown = |value| match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    Labels::new(&labels.into_iter().map(|(key, value)| (key, shown(value))).collect())
}

/// Normalises the history of a config, if it is a list.
pub(super) fn history(raw: Option<&RawValue>) -> Option<String> {
    let history: Vec<Value> = parsed(raw, MAX_HISTORY)?;
    serde_json::to_string(&history).ok()
}

/// Reads a word; `None` where something else stands.
pub(super) fn word(raw: Option<&RawValue>) -> Option<String> {
    parsed(raw, MAX_WORD)
}

fn parsed<T: serde::de::DeserializeOwned>(raw: Option<&RawValue>, limit: usize) -> Option<T> {
    serde_json::from_str(within(raw, limit)?).ok()
}

fn within(raw: Option<&RawValue>, limit: usize) -> Option<&str> {
    raw.map(RawValue::get).filter(|json| json.len() <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn annotations_are_sorted_and_compact_and_those_that_are_too_many_are_none() {
        let of = |json: &str| annotations(Some(&raw(json)));
        assert_eq!(of(r#"{ "b": "2", "a": "\u0031", "b": "3" }"#).unwrap().unwrap(), r#"{"a":"1","b":"3"}"#);
        assert_eq!(of("{}").unwrap(), None);
        assert_eq!(annotations(None).unwrap(), None);
        assert!(of(r#"{"a": null}"#).is_err() && of("[]").is_err());
        let large = |size: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(size - 8));
        assert_eq!(of(&large(MAX_ANNOTATIONS)).unwrap().map(|json| json.len()), Some(MAX_ANNOTATIONS));
        assert_eq!(of(&large(MAX_ANNOTATIONS + 1)).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_recorded_is_nothing() {
        let long = format!("[{}1]", "1,".repeat(MAX_HISTORY / 2));
        assert_eq!(history(Some(&raw(&long))), None);
        assert_eq!(history(Some(&raw(r#"[{"b":1, "a":null}]"#))).unwrap(), r#"[{"a":null,"b":1}]"#);
        assert_eq!(history(Some(&raw("{}"))), None);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_LABELS));
        for json in ["[]", "5", "null", &long] {
            assert_eq!(labels(Some(&raw(json))), Labels::default());
        }
        assert_eq!(word(Some(&raw("\"SIGINT\""))).as_deref(), Some("SIGINT"));
        assert_eq!(word(Some(&raw("15"))), None);
    }
}
