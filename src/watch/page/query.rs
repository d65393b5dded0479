//! The query of the page: the images that are shown, and how. Links carry it; nothing else does.

use std::fmt::{self, Write as _};

use crate::watch::status::{ImageState, ImageStatus};

/// The longest search text, in characters.
const MAX_SEARCH: usize = 200;

/// The part of the images that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::watch) struct Query {
    /// Images whose reference or digest has this text, in small letters.
    pub(super) search: String,
    /// Images in this state alone.
    pub(super) state: Option<ImageState>,
    /// The page of these, from 0 on.
    pub(super) page: usize,
    /// True if the browser is to ask again and again.
    pub(super) refreshes: bool,
}

impl Query {
    /// Reads the part of a URL behind the question mark. What is not understood is left out.
    pub(in crate::watch) fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for (key, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = decoded(value);
            match key {
                "q" => {
                    let search = value.trim().to_lowercase();
                    query.search = search.chars().filter(|c| !c.is_control()).take(MAX_SEARCH).collect();
                }
                "state" => query.state = ImageState::ALL.into_iter().find(|state| state.as_str() == value),
                "page" => query.page = value.parse::<usize>().unwrap_or(1).saturating_sub(1),
                "refresh" => query.refreshes = value == "on",
                _ => {}
            }
        }
        query
    }

    /// True if `image` is asked for.
    pub(super) fn fits(&self, image: &ImageStatus) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.search);
        self.state.is_none_or(|state| image.state == state)
            && (self.search.is_empty()
                || has(&image.reference)
                || image.digest.as_ref().is_some_and(|digest| has(&digest.text())))
    }

    /// True if all images are asked for.
    pub(super) fn is_everything(&self) -> bool {
        self.search.is_empty() && self.state.is_none()
    }
}

/// The link to the page with this query.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs = Vec::new();
        if !self.search.is_empty() {
            pairs.push(format!("q={}", encoded(&self.search)));
        }
        pairs.extend(self.state.map(|state| format!("state={}", state.as_str())));
        if self.page > 0 {
            pairs.push(format!("page={}", self.page + 1));
        }
        if self.refreshes {
            pairs.push("refresh=on".to_owned());
        }
        write!(f, "/{}{}", if pairs.is_empty() { "" } else { "?" }, pairs.join("&"))
    }
}

/// Reads a value as forms send it: `+` is a blank, `%20` too.
fn decoded(value: &str) -> String {
    let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.first().and_then(hex).zip(after.get(1).and_then(hex));
        rest = after;
        bytes.push(match (first, escaped) {
            (b'%', Some((high, low))) => {
                rest = &after[2..];
                high << 4 | low
            }
            (b'+', _) => b' ',
            (other, _) => *other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a value so that [`decoded`] reads it.
fn encoded(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_links_write_them() {
        let query = Query {
            search: "a b&c=é%/\"<".to_owned(),
            state: Some(ImageState::Failed),
            page: 2,
            refreshes: true,
        };
        let link = query.to_string();
        assert_eq!(link, "/?q=a%20b%26c%3D%C3%A9%25/%22%3C&state=failed&page=3&refresh=on");
        assert_eq!(Query::parse(&link[2..]), query);
        assert_eq!(Query::default().to_string(), "/");
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in
            ["", "&&=", "q", "page=x", "page=0", "page=-1", "state=other", "refresh=1", "x=y", "q=%00"]
        {
            assert_eq!(Query::parse(text), Query::default(), "{text}");
        }
        assert_eq!(Query::parse("q=A+%zz%4").search, "a %zz%4");
        assert_eq!(Query::parse(&format!("q={}", "x".repeat(5000))).search.len(), MAX_SEARCH);
        assert_eq!(Query::parse("page=99999999999999999999999").page, 0);
    }
}
