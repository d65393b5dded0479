//! The blocks of a PEM file: labels and bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block between `-----BEGIN label-----` and `-----END label-----`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// The label, `PUBLIC KEY`.
    pub(super) label: &'a str,
    /// The bytes.
    pub(super) der: Vec<u8>,
}

/// Reads the blocks of `text` in their order, and passes over all that stands between them; the
/// error says what is wrong, without the content.
pub(super) fn blocks(text: &str) -> Result<Vec<Block<'_>>, &'static str> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim) {
        let mark = |word| line.strip_prefix(word).and_then(|rest: &str| rest.strip_suffix("-----"));
        match (&mut open, mark("-----BEGIN "), mark("-----END ")) {
            (None, Some(label), _) => open = Some((label, String::new())),
            (None, None, None) => {}
            (Some((label, body)), None, Some(end)) if end == *label => {
                let der = STANDARD.decode(&*body).map_err(|_| "a PEM block in it is not base64")?;
                blocks.push(Block { label, der });
                open = None;
            }
            // Old private keys have headers, which no base64 looks like.
            (Some(_), None, None) if line.contains(':') => {}
            (Some((_, body)), None, None) => body.push_str(line),
            _ => return Err("the marks of its PEM blocks do not fit each other"),
        }
    }
    if open.is_some() { Err("a PEM block in it has no end") } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_lines() {
        let text = "a key\r\n-----BEGIN X-----\r\nYW\r\nJj\r\n-----END X-----\r\n\n-----BEGIN Y-----\n-----END Y-----\nbye";
        let found = blocks(text).unwrap();
        assert_eq!(found[0], Block { label: "X", der: b"abc".to_vec() });
        assert_eq!(found[1], Block { label: "Y", der: Vec::new() });
        assert_eq!(blocks("").unwrap(), []);
        for broken in [
            "-----BEGIN X-----\nYWJj",
            "-----BEGIN X-----\n!\n-----END X-----",
            "-----BEGIN X-----\nYWJj\n-----END Y-----",
            "-----END X-----",
            "-----BEGIN X-----\n-----BEGIN X-----\n-----END X-----",
        ] {
            assert!(blocks(broken).is_err(), "{broken}");
        }
    }
}
