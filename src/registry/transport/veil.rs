//! Hides secrets in what is shown, in whatever form a registry sends them back.
//!
//! A [`Veil`] knows each secret of a run by its beginning. A text is searched for these beginnings
//! as it stands and as it reads when its escapes, percent encoding, base64 or hexadecimal digits
//! are undone, one inside the other too; upper and lower case, and `_` and blank, are the same, and
//! what nobody sees parts nothing. A find goes to the end of its word: rather too much is hidden
//! than too little. Forms that take guesswork, such as lists of decimal numbers or a blank after
//! each letter, are not looked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::RwLock;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

use crate::error::{HIDDEN, is_unseen};
use crate::threads::unpoisoned;

/// The part of a secret that is remembered, in bytes: a part of a token is hidden too.
const BEGINNING: usize = 16;
/// A secret shorter than this is hidden only where it stands alone, in bytes.
const SHORT: usize = 4;
/// Encodings of encodings that are undone.
const DEPTH: usize = 3;
/// Texts are searched so far, in bytes, and no further shown.
const MAX_TEXT: usize = 16 << 10;

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
            let (folded, _) = fold(text);
            if folded.is_empty() {
                return;
            }
            let beginning: Box<[u8]> = folded[..folded.len().min(BEGINNING)].into();
            let whole = known.entry(beginning.len()).or_default().entry(beginning).or_default();
            *whole = folded.len().max(*whole);
        };
        add(secret.as_bytes());
        // Latin-1, which many servers speak, also as it reads where UTF-8 is expected.
        let latin: Option<Vec<u8>> = secret.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
        if let Some(latin) = latin.filter(|latin| !latin.is_ascii()) {
            add(&latin);
            add(String::from_utf8_lossy(&latin).as_bytes());
        }
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

/// The bytes as they are compared, and the place of each: none of what nobody sees is among them.
fn fold(bytes: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let fold = |byte: u8| if byte == b'_' { b' ' } else { byte.to_ascii_lowercase() };
    let (mut folded, mut places) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(bytes.len()));
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let unseen = unseen(rest);
        if unseen == 0 {
            folded.push(fold(rest[0]));
            places.push(at);
        }
        at += unseen.max(1);
    }
    (folded, places)
}

/// The length of the character at the beginning of `text`, if nobody sees that.
fn unseen(text: &[u8]) -> usize {
    let length = match text[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let char = text.get(..length).and_then(|bytes| str::from_utf8(bytes).ok()?.chars().next());
    char.filter(|char| char.is_control() || is_unseen(*char)).map_or(0, char::len_utf8)
}

/// Finds secrets in `bytes` as they are.
fn plain(known: &Known, bytes: &[u8]) -> Vec<Range<usize>> {
    let (folded, places) = fold(bytes);
    let alone = |range: &Range<usize>| {
        let inside = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        !inside(range.start.checked_sub(1).and_then(|at| bytes.get(at))) && !inside(bytes.get(range.end))
    };
    let mut found = Vec::new();
    for (length, beginnings) in known {
        for (start, window) in folded.windows(*length).enumerate() {
            let Some(whole) = beginnings.get(window) else { continue };
            let mut range = places[start]..places[start + length - 1] + 1;
            if *length < SHORT {
                if alone(&range) && range.len() == *length {
                    found.push(range);
                }
                continue;
            }
            // The rest of it, and of the word that it stands in.
            let rest = bytes[range.end..].iter().take_while(|byte| is_of_a_word(**byte)).count();
            let last = (start + whole.max(length)).min(folded.len()) - 1;
            range.end = (range.end + rest).max(places[last] + 1);
            found.push(range);
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
        if unescaped(&bytes[word.clone()]).iter().any(|plain| tells(plain)) {
            found.push(word);
        }
    }
    // Escapes may hide a blank inside a secret.
    if found.is_empty() && unescaped(bytes).iter().any(|all| !plain(known, all).is_empty()) {
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

/// A family of escapes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// `%2B`, as in paths of URLs.
    Percent,
    /// The same, with `+` for a blank, as in forms.
    Form,
    /// JSON's and those of programming languages.
    Backslash,
    /// HTML's.
    Entity,
}

/// Undoes the escapes in `bytes`, in each way that changes something: those of each family alone,
/// since what looks like another one may be a part of the secret, and all at once. Escapes of
/// escapes are for the next turn.
fn unescaped(bytes: &[u8]) -> Vec<Vec<u8>> {
    use Family::{Backslash, Entity, Form, Percent};
    let mut readings: Vec<Vec<u8>> = Vec::new();
    for families in [&[Form, Backslash, Entity][..], &[Percent], &[Form], &[Backslash], &[Entity]] {
        readings.extend(without_escapes(bytes, families).filter(|reading| !readings.contains(reading)));
    }
    readings
}

/// `bytes` with the escapes of `families` undone; `None` where there are none.
fn without_escapes(bytes: &[u8], families: &[Family]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut changed = false;
    while let Some(first) = rest.first() {
        let (bytes, length) = match families.iter().find_map(|family| family.escape(rest)) {
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

impl Family {
    /// The meaning of the escape at the beginning of `text`, and its length.
    fn escape(self, text: &[u8]) -> Option<(Vec<u8>, usize)> {
        match (self, text) {
            (Self::Form, [b'+', ..]) => Some((vec![b' '], 1)),
            (Self::Percent | Self::Form, [b'%', high, low, ..]) => {
                let byte = number(&[*high, *low], 16).and_then(|byte| u8::try_from(byte).ok());
                byte.map(|byte| (vec![byte], 3))
            }
            (Self::Backslash, [b'\\', b'u', b'{', ..]) => {
                let end = text.iter().take(10).position(|byte| *byte == b'}')?;
                number(&text[3..end], 16).and_then(utf8).map(|char| (char, end + 1))
            }
            (Self::Backslash, [b'\\', b'u', ..]) => utf16(text),
            // A byte, not a character: Latin-1 is known too.
            (Self::Backslash, [b'\\', b'x', high, low, ..]) => {
                let byte = number(&[*high, *low], 16).and_then(|byte| u8::try_from(byte).ok());
                byte.map(|byte| (vec![byte], 4))
            }
            (Self::Backslash, [b'\\', high @ b'0'..=b'3', middle, low, ..]) => {
                let byte = number(&[*high, *middle, *low], 8).and_then(|byte| u8::try_from(byte).ok());
                byte.map(|byte| (vec![byte], 4))
            }
            (Self::Backslash, [b'\\', b'n' | b'r' | b't' | b'b' | b'f' | b'a', ..]) => Some((vec![b'\n'], 2)),
            (Self::Backslash, [b'\\', next @ (b'"' | b'/' | b'\\' | b'\''), ..]) => Some((vec![*next], 2)),
            (Self::Entity, [b'&', ..]) => entity(text),
            _ => None,
        }
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u32::from_str_radix(text, radix).ok()
}

fn utf8(code: u32) -> Option<Vec<u8>> {
    char::from_u32(code).map(|char| char.to_string().into_bytes())
}

/// The character that `\uXXXX`, or a pair of such, at the beginning of `text` is.
fn utf16(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        number(escape, 16).and_then(|unit| u16::try_from(unit).ok())
    };
    let units: Vec<u16> = [unit(0)?].into_iter().chain(unit(6)).collect();
    let char = char::decode_utf16(units).next()?.ok()?;
    Some((char.to_string().into_bytes(), 6 * char.len_utf16()))
}

/// The character that `&amp;` or `&#38;` at the beginning of `text` is.
fn entity(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    const NAMED: [(&[u8], u8); 5] =
        [(b"amp", b'&'), (b"lt", b'<'), (b"gt", b'>'), (b"quot", b'"'), (b"apos", b'\'')];
    let end = text.iter().take(10).position(|byte| *byte == b';')?;
    let char = match text.get(1..end)? {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16).and_then(utf8),
        [b'#', digits @ ..] => number(digits, 10).and_then(utf8),
        name => NAMED.iter().find(|(known, _)| *known == name).map(|(_, char)| vec![*char]),
    };
    char.map(|char| (char, end + 1))
}

#[cfg(test)]
mod tests;
