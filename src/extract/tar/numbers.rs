//! The numbers of tar headers and PAX records, as Go's `archive/tar` reads them.

use crate::sys::FileTime;

/// Cuts a field off at its first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// Reads a number field: octal text, or base-256 if its first bit is set. `None` if negative or
/// beyond `i64`.
pub(super) fn numeric(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        octal(field)
    } else {
        base256(field).and_then(|value| u64::try_from(value).ok())
    }
}

/// Reads octal digits between blanks and NULs, as Go's `parseOctal`; an empty field is 0.
pub(super) fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii();
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = digits.iter().position(|b| !blank(b)).unwrap_or(digits.len());
    let end = digits.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    let mut value = 0_u64;
    for &digit in until_nul(&digits[start..end]) {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))?;
    }
    (i64::try_from(value).is_ok()).then_some(value)
}

/// Reads GNU's base-256: big-endian two's complement, the first bit being the mark and the second
/// the sign.
pub(super) fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let invert = if negative { 0xff } else { 0 };
    let mut value = 0_i64;
    for (index, &byte) in field.iter().enumerate() {
        let mut byte = byte ^ invert;
        if index == 0 {
            byte &= 0x7f;
        }
        value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
    }
    Some(if negative { !value } else { value })
}

/// Reads a PAX number: decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads a PAX time: `[-]seconds[.fraction]`; the fraction is cut to nanoseconds, downwards.
pub(super) fn parse_time(text: &[u8]) -> Option<FileTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty() && fraction.is_empty()
        || !digits.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let seconds: i64 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let mut nanoseconds = 0_u32;
    for index in 0..9 {
        let digit = fraction.as_bytes().get(index).map_or(0, |digit| digit - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    Some(match (negative, nanoseconds) {
        (false, _) => FileTime { seconds, nanoseconds },
        (true, 0) => FileTime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => FileTime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
