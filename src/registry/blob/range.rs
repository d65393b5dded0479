//! `Content-Range` headers, read strictly: bytes are appended only where they fit.

/// The part of a blob that an answer holds; the last byte counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

/// Reads `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*` (RFC 9110 section 14.4).
pub(super) fn content_range(text: &str) -> Option<ContentRange> {
    let (unit, range) = text.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = range.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    let range = ContentRange { first: number(first.trim())?, last: number(last.trim())?, total };
    (range.first <= range.last && total.is_none_or(|total| range.last < total)).then_some(range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        assert_eq!(content_range("bytes 5-9/10"), range(5, 9, Some(10)));
        assert_eq!(content_range("Bytes 5-9/*"), range(5, 9, None));
        for bad in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9",
            "items 5-9/10",
            "bytes +5-9/10",
            "bytes -9/10",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_content_range_makes_sense_or_is_none(text in "(bytes )?[0-9*/ +-]{0,30}") {
            if let Some(range) = content_range(&text) {
                prop_assert!(range.first <= range.last);
                prop_assert!(range.total.is_none_or(|total| range.last < total));
            }
        }
    }
}
