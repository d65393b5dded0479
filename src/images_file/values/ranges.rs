//! Ranges of versions as people write them, in the form that `semver::VersionReq` parses.
//!
//! A range that `VersionReq` takes stays as it is. Besides there are: alternatives parted by `||`;
//! `a - b`, both ends included; comparators parted by blanks, as npm and Helm have them; a `v`
//! before a version; leading zeros, as in `24.04`; `_` for `+`, which no tag can have.

use semver::VersionReq;

use crate::images_file::quoted::quoted;

/// The most alternatives of one range.
const MAX_ALTERNATIVES: usize = 100;

/// Reads the alternatives of a range; a version has to fit one of them.
///
/// # Errors
/// The reason why the text is no range, with the alternative where there are several.
pub(in crate::images_file) fn alternatives(text: &str) -> Result<Vec<String>, String> {
    let all: Vec<&str> = text.split("||").collect();
    if all.len() > MAX_ALTERNATIVES {
        return Err(format!("more than {MAX_ALTERNATIVES} alternatives"));
    }
    let several = all.len() > 1;
    all.into_iter()
        .map(|alternative| {
            let alternative = if several { alternative.trim() } else { alternative };
            range(alternative).map_err(|reason| {
                if several { format!("{} is none: {reason}", quoted(alternative)) } else { reason }
            })
        })
        .collect()
}

/// Brings one range into the form of `VersionReq`.
fn range(text: &str) -> Result<String, String> {
    if VersionReq::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let comparators = match ends(text) {
        Some((least, most)) => {
            let bare =
                |end: &str| end.trim_start_matches(['v', 'V']).starts_with(|c: char| c.is_ascii_digit());
            if !bare(least) || !bare(most) {
                return Err("`a - b` has a version on each side".to_owned());
            }
            vec![format!(">={}", version(least)), format!("<={}", version(most))]
        }
        None => comparators(text),
    };
    let normal = comparators.join(", ");
    match VersionReq::parse(&normal) {
        Ok(_) => Ok(normal),
        Err(error) => Err(error.to_string()),
    }
}

/// Splits `a - b` into its ends.
fn ends(text: &str) -> Option<(&str, &str)> {
    let (least, most) = text.split_once(" - ")?;
    Some((least.trim(), most.trim()))
}

/// Splits a range into its comparators, each without blanks.
fn comparators(text: &str) -> Vec<String> {
    let parted = |c: char| c.is_whitespace() || c == ',';
    let mut found = Vec::new();
    let mut rest = text.trim_matches(parted);
    while !rest.is_empty() {
        let (operator, after) =
            rest.split_at(rest.find(|c: char| !"<>=^~".contains(c)).unwrap_or(rest.len()));
        let after = after.trim_start();
        let (word, after) = after.split_at(after.find(parted).unwrap_or(after.len()));
        // Ruby's and Helm's word for `~`.
        let operator = if operator == "~>" { "~" } else { operator };
        found.push(format!("{operator}{}", version(word)));
        rest = after.trim_start_matches(parted);
    }
    found
}

/// Rewrites a version, or the beginning of one: without `v`, with `_` as `+`, its numbers without
/// leading zeros.
fn version(text: &str) -> String {
    let bare = text.strip_prefix(['v', 'V']).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let text = bare.unwrap_or(text).replacen('_', "+", 1);
    let (core, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let number = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        stripped if part.bytes().all(|byte| byte.is_ascii_digit()) => stripped.to_owned(),
        _ => part.to_owned(),
    };
    format!("{}{rest}", core.split('.').map(number).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use semver::Version;

    use super::*;

    #[test]
    fn what_semver_takes_stays_as_it_is() {
        for text in [">=7, <8", "7", "~1.25", "^0.3.1", "1.*", "*", "=1.2.3-rc.1", "> 1 , <= 2"] {
            assert_eq!(alternatives(text), Ok(vec![text.to_owned()]));
        }
    }

    #[test]
    fn what_people_write_besides_is_brought_into_its_form() {
        for (text, expected) in [
            (">=1.2 <2 || ^3.1", &[">=1.2, <2", "^3.1"][..]),
            ("1 || 2||v3", &["1", "2", "3"]),
            ("1.2 - 2.3", &[">=1.2, <=2.3"]),
            (" v1.2.3  -  v2 ", &[">=1.2.3, <=2"]),
            (">=v1.2, <V2", &[">=1.2, <2"]),
            (">= 1.2 < 2.0.0-0", &[">=1.2, <2.0.0-0"]),
            ("~> 1.2", &["~1.2"]),
            (">=22.04 <24.10", &[">=22.4, <24.10"]),
            (">=1.2.3_4", &[">=1.2.3+4"]),
            (">=00.0.1,", &[">=0.0.1"]),
        ] {
            assert_eq!(alternatives(text).unwrap(), expected, "{text}");
        }
        for (text, words) in [
            ("", "unexpected end of input"),
            ("1 ||", "`` is none: unexpected end of input"),
            ("1 || seven", "`seven` is none: unexpected character 's'"),
            (">1 - 2", "a version on each side"),
            ("1 -", "unexpected"),
            ("!=1", "unexpected character '!'"),
            ("1.2.3.4", "expected comma after patch version number"),
        ] {
            let error = alternatives(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(alternatives(&"1||".repeat(MAX_ALTERNATIVES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_range_is_brought_into_form_or_refused(text in "[0-9v.,<>=^~*|_ x+-]{0,30}") {
            for range in alternatives(&text).unwrap_or_default() {
                prop_assert!(VersionReq::parse(&range).is_ok(), "{range}");
                prop_assert_eq!(alternatives(&range), Ok(vec![range.clone()]));
            }
        }

        #[test]
        fn from_one_to_another_includes_both(a in 0_u64..20, b in 0_u64..20, c in 0_u64..20) {
            let range = &alternatives(&format!("{a} - {b}")).unwrap()[0];
            let fits = VersionReq::parse(range).unwrap().matches(&Version::new(c, 7, 1));
            prop_assert_eq!(fits, a <= c && c <= b);
        }
    }
}
