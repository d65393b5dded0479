//! Hides secrets in what is shown, in whatever form a registry sends them back.
//!
//! A [`Veil`] knows each secret of a run by its beginning. A text is searched for these beginnings
//! as it stands and as it reads when its escapes, percent encoding, base64 or hexadecimal digits
//! are undone, one inside the other too; upper and lower case, and `_` and blank, are the same.
//! A find goes to the end of its word: rather too much is hidden than too little.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::RwLock;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

use crate::threads::unpoisoned;

/// The part of a secret that is remembered, in bytes: a part of a token is hidden too.
const BEGINNING: usize = 16;
/// A secret shorter than this is hidden only where it stands alone, in bytes.
const SHORT: usize = 4;
/// Encodings of encodings that are undone.
const DEPTH: usize = 3;
/// Texts are searched so far, in bytes, and no further shown.
const MAX_TEXT: usize = 16 << 10;
/// The text in a secret's place.
const HIDDEN: &str = "…";

/// The secrets of a run.
#[derive(Default)]
pub(crate) struct Veil {
    known: RwLock<Known>,
}

/// Beginnings by their length, each with the whole length of the longest secret that begins so.
type Known = BTreeMap<usize, BTreeMap<Box<[u8]>, usize>>;

impl Veil {
    /// From now on `secret` is hidden.
    pub(crate) fn add(&self, secret: &str) {
        let secret = secret.trim();
        if secret.is_empty() {
            return;
        }
        let mut known = unpoisoned(self.known.write());
        let mut add = |text: &[u8]| {
            let folded = fold(text);
            let beginning: Box<[u8]> = folded[..folded.len().min(BEGINNING)].into();
            let whole = known.entry(beginning.len()).or_default().entry(beginning).or_default();
            *whole = folded.len().max(*whole);
        };
        add(secret.as_bytes());
        // Also as base64 that has lost its upper case, as in the name of a host: it cannot be
        // decoded any more.
        for before in 0..3 {
            let text = [&b"\0\0"[..before], secret.as_bytes()].concat();
            // The letters that no neighbour has a part in.
            let letters = (before * 4).div_ceil(3)..text.len() * 4 / 3;
            for encoded in [BASE64_STANDARD_NO_PAD.encode(&text), BASE64_URL_SAFE_NO_PAD.encode(&text)] {
                encoded
                    .as_bytes()
                    .get(letters.clone())
                    .filter(|core| core.len() > SHORT)
                    .into_iter()
                    .for_each(&mut add);
            }
        }
    }

    /// `text` without the secrets.
    pub(crate) fn hide(&self, text: &str) -> String {
        let known = unpoisoned(self.known.read());
        let cut = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end));
        let (text, rest) = text.split_at(cut.unwrap_or(0));
        let dots = if rest.is_empty() { "" } else { HIDDEN };
        if known.is_empty() {
            return format!("{text}{dots}");
        }
        let mut spans = plain(&known, text.as_bytes());
        spans.extend(encoded(&known, text.as_bytes(), DEPTH));
        spans.sort_unstable_by_key(|span| (span.start, span.end));
        let mut shown = String::with_capacity(text.len());
        let mut end = 0;
        for span in spans {
            if span.start >= end {
                shown.push_str(text.get(end..span.start).unwrap_or_default());
                shown.push_str(HIDDEN);
            }
            // A span may end inside a character that was folded away.
            let after = (span.end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            end = end.max(after);
        }
        shown + text.get(end..).unwrap_or_default() + dots
    }
}

fn fold(bytes: &[u8]) -> Vec<u8> {
    let fold = |byte: &u8| if *byte == b'_' { b' ' } else { byte.to_ascii_lowercase() };
    bytes.iter().map(fold).collect()
}

/// Finds secrets in `bytes` as they are.
fn plain(known: &Known, bytes: &[u8]) -> Vec<Range<usize>> {
    let folded = fold(bytes);
    let alone = |range: &Range<usize>| {
        let inside = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        !inside(range.start.checked_sub(1).and_then(|at| folded.get(at))) && !inside(folded.get(range.end))
    };
    let mut found = Vec::new();
    for (length, beginnings) in known {
        for (start, window) in folded.windows(*length).enumerate() {
            let Some(whole) = beginnings.get(window) else { continue };
            let range = start..start + length;
            if *length < SHORT && !alone(&range) {
                continue;
            }
            // The rest of it, and of the word that it stands in.
            let rest = folded[range.end..].iter().take_while(|byte| is_of_a_word(**byte)).count();
            let end = (range.end + if *length < SHORT { 0 } else { rest }).max(start + whole);
            found.push(start..end.min(bytes.len()));
        }
    }
    found
}

/// Tells whether a byte goes on with a token or a password.
fn is_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'~' | b'+' | b'/' | b'=')
}

/// Finds words in `bytes` that read as a secret when they are decoded.
fn encoded(known: &Known, bytes: &[u8], depth: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if depth == 0 {
        return found;
    }
    let tells =
        |decoded: &[u8]| !plain(known, decoded).is_empty() || !encoded(known, decoded, depth - 1).is_empty();
    for word in runs(bytes, |byte| !byte.is_ascii_whitespace()) {
        if unescaped(&bytes[word.clone()]).is_some_and(|plain| tells(&plain)) {
            found.push(word);
        }
    }
    // Escapes may hide a blank inside a secret.
    if found.is_empty() && unescaped(bytes).is_some_and(|all| !plain(known, &all).is_empty()) {
        found.push(0..bytes.len());
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    let mut add = |runs: Vec<Range<usize>>, readings: fn(&[u8]) -> Vec<Vec<u8>>| {
        for run in runs.into_iter().filter(|run| run.len() >= SHORT) {
            if readings(&bytes[run.clone()]).iter().any(|decoded| tells(decoded)) {
                found.push(run);
            }
        }
    };
    add(runs(bytes, letter), base64_readings);
    add(runs(bytes, |byte| byte.is_ascii_hexdigit()), hexadecimal);
    found
}

fn runs(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| belongs(**byte)) {
        match runs.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// Decodes `run` as base64 in all ways, of either alphabet: it may stand right after something else
/// of the same letters.
fn base64_readings(run: &[u8]) -> Vec<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let letters: Vec<u8> = run
        .iter()
        .filter(|byte| **byte != b'=')
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    let engine = GeneralPurpose::new(&alphabet::STANDARD, lenient);
    (0..4)
        .filter_map(|skip| {
            let letters = letters.get(skip..)?;
            // A single letter over is no byte.
            let whole = letters.len() - usize::from(letters.len() % 4 == 1);
            engine.decode(&letters[..whole]).ok()
        })
        .collect()
}

fn hexadecimal(run: &[u8]) -> Vec<Vec<u8>> {
    let value = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = run.iter().map(|byte| value(*byte)).collect();
    let pairs = |digits: &[u8]| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    digits.map_or_else(Vec::new, |digits| vec![pairs(&digits), pairs(digits.get(1..).unwrap_or_default())])
}

/// `bytes` with percent encoding, JSON's and HTML's escapes undone; `None` where there are none.
fn unescaped(bytes: &[u8]) -> Option<Vec<u8>> {
    const NAMED: [(&[u8], u8); 6] = [
        (b"&amp;", b'&'),
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&quot;", b'"'),
        (b"&apos;", b'\''),
        (b"\\\"", b'"'),
    ];
    let number = |digits: &[u8], radix| {
        let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        u32::from_str_radix(text, radix).ok().and_then(char::from_u32)
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut changed = false;
    while let Some((first, after)) = rest.split_first() {
        let semicolon = rest.iter().take(10).position(|byte| *byte == b';');
        let escape = match (first, after) {
            (b'%', [high, low, ..]) => number(&[*high, *low], 16)
                .map(|char| (vec![u8::try_from(u32::from(char)).unwrap_or(b'?')], 3)),
            (b'+', _) => Some((vec![b' '], 1)),
            (b'\\', [b'u', digits @ ..]) if digits.len() >= 4 => {
                number(&digits[..4], 16).map(|char| (char.to_string().into_bytes(), 6))
            }
            (b'\\', [b'x', digits @ ..]) if digits.len() >= 2 => {
                number(&digits[..2], 16).map(|char| (char.to_string().into_bytes(), 4))
            }
            (b'\\', [next @ (b'/' | b'\\' | b'\''), ..]) => Some((vec![*next], 2)),
            (b'&', [b'#', b'x' | b'X', ..]) => semicolon.and_then(|end| {
                number(rest.get(3..end)?, 16).map(|char| (char.to_string().into_bytes(), end + 1))
            }),
            (b'&', [b'#', ..]) => semicolon.and_then(|end| {
                number(rest.get(2..end)?, 10).map(|char| (char.to_string().into_bytes(), end + 1))
            }),
            _ => None,
        };
        let named = || NAMED.iter().find(|(name, _)| rest.starts_with(name));
        let (bytes, length) = match escape.or_else(|| named().map(|(name, byte)| (vec![*byte], name.len()))) {
            Some(found) => {
                changed = true;
                found
            }
            None => (vec![*first], 1),
        };
        plain.extend(bytes);
        rest = &rest[length..];
    }
    changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::super::words::named_secrets;
    use super::*;
    use crate::url::form_pair;

    fn veil(secrets: &[&str]) -> Veil {
        let veil = Veil::default();
        for secret in secrets {
            veil.add(secret);
        }
        veil
    }

    /// Every form in which `secret` may come back, with what must not be seen.
    fn forms(secret: &str) -> Vec<String> {
        let pair = format!("me:{secret}");
        let bytes = |before: &str| -> Vec<String> {
            secret.bytes().map(|byte| format!("{before}{byte:02x}")).collect()
        };
        let (hex, percent) = (bytes("").concat(), bytes("%").concat());
        let chars = |form: &dyn Fn(u32) -> String| -> Vec<String> {
            secret.chars().map(|char| form(u32::from(char))).collect()
        };
        let unicode = chars(&|char| format!("\\u{char:04x}")).concat();
        let entities = chars(&|char| format!("&#{char};")).concat();
        let form = form_pair("password", secret).split_off("password=".len());
        vec![
            secret.to_owned(),
            secret.to_ascii_uppercase(),
            form.clone(),
            percent,
            unicode,
            entities,
            hex.to_uppercase(),
            hex,
            BASE64_STANDARD.encode(secret),
            BASE64_STANDARD_NO_PAD.encode(&pair),
            BASE64_URL_SAFE_NO_PAD.encode(&pair),
            form_pair("x", &BASE64_STANDARD.encode(&pair)),
            BASE64_STANDARD.encode(form),
            BASE64_STANDARD_NO_PAD.encode(&pair).to_ascii_lowercase(),
        ]
    }

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        for secret in ["hunter2-hunter2", "open sesame", "p&ss<w>\"rd/+", "pässwörter", "tok_en_12"] {
            let veil = veil(&[secret]);
            for form in forms(secret) {
                for around in ["no: {}", "/v2/{}/x", "\"{}\" is wrong", "key={}&y"] {
                    let shown = veil.hide(&around.replace("{}", &form));
                    assert!(shown.contains(HIDDEN) && !shown.contains(&form), "{secret} as {form}: {shown}");
                }
            }
        }
    }

    #[test]
    fn other_words_stay_and_short_secrets_only_hide_where_they_stand_alone() {
        let veil = veil(&["hunter2", "ab", "eyJhbGciOiJSUzI1NiJ9.payload.signature"]);
        for text in ["manifest unknown", "about a cabin", "https://registry.corp:5000/v2/team/app", "ähm"] {
            assert_eq!(veil.hide(text), text);
        }
        assert_eq!(veil.hide("is it ab?"), "is it …?");
        assert_eq!(veil.hide("bad eyJhbGciOiJSUzI1NiJ9.pay"), "bad …", "a part of a token is enough");
        assert_eq!(Veil::default().hide("anything"), "anything");
        assert!(veil.hide(&"x".repeat(2 * MAX_TEXT)).len() <= MAX_TEXT + HIDDEN.len());
    }

    #[test]
    fn what_a_text_calls_a_secret_is_one() {
        let found = |text: &str| {
            let mut found = named_secrets(text);
            found.sort();
            found
        };
        assert_eq!(found(r#"{"Username":"me","Secret":"hunt\"er2"}"#), ["hunt\"er2"]);
        assert_eq!(found("password=hunter2, token: abc"), ["abc", "hunter2"]);
        assert_eq!(found("cannot open the secret service"), Vec::<String>::new());
        assert_eq!(found(r#"{"Secret":"cut"#), ["cut"]);
    }

    proptest! {
        #[test]
        fn any_secret_is_hidden_in_any_text(
            secret in "[!-~]{6,40}", before in "[ -~]{0,20}", after in "[ -~]{0,20}",
        ) {
            let veil = veil(&[&secret]);
            for form in forms(&secret) {
                let shown = veil.hide(&format!("{before} {form} {after}"));
                prop_assert!(!shown.contains(&form), "{} as {}: {}", secret, form, shown);
            }
        }

        #[test]
        fn any_text_is_taken(text in ".{0,200}", secret in ".{0,10}") {
            veil(&[&secret]).hide(&text);
            named_secrets(&text);
        }
    }
}
