//! The check that a JSON text has few values, before anything makes a tree of it.
//!
//! A value of two bytes takes a reader dozens of them, and an object of one key takes hundreds. So
//! the marks between values are counted first: whatever the reader makes of them is bounded then.

/// The values of one text, at most: a large provenance has ten thousand.
const MAX_VALUES: usize = 50_000;

/// True if `json` has few values, whatever else it is.
pub(super) fn is_modest(json: &[u8]) -> bool {
    has_few_values(json, MAX_VALUES)
}

/// True if `json` has at most `max` marks that begin, end or part values.
pub(super) fn has_few_values(json: &[u8], max: usize) -> bool {
    let (mut values, mut in_text, mut escaped) = (0, false, false);
    for byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b',' | b':' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    values <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_but_in_texts() {
        for (json, values) in [
            (r"", 0),
            (r"1", 0),
            (r#""a,b:[{""#, 0),
            (r#""a\",b","#, 1),
            (r#""a\\","b""#, 1),
            (r"[1,2]", 2),
            (r#"{"a":[{},{}]}"#, 6),
        ] {
            assert!(has_few_values(json.as_bytes(), values), "{json}");
            assert!(values == 0 || !has_few_values(json.as_bytes(), values - 1), "{json}");
        }
    }
}
