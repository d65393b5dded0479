//! Quantities: sizes, rates, durations, and modes of directories.

use std::num::NonZeroU64;
use std::time::Duration;

use super::Fault;
use crate::diagnostic::nearest;

/// Reads the permission bits of a directory, from `0755`: all for its owner, and nobody else may
/// write.
pub(in crate::images_file) fn mode(text: &str) -> Result<u32, Fault> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let octal = digits.len() == 3 && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let Some(mode) = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten() else {
        let hint = "a mode is octal, as in \"0755\": others may read; or \"0700\": they may not";
        return Err(Fault::with_hint("is not a mode", hint));
    };
    if mode & 0o700 != 0o700 {
        return Err(Fault::with_hint("keeps msb-sync itself out", "the first digit is 7, as in \"0755\""));
    }
    if mode & 0o022 != 0 {
        let hint = "who may write there decides what is in the images; \"0755\" lets others read";
        return Err(Fault::with_hint("lets others write", hint));
    }
    Ok(mode)
}

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads bytes that are not yet limited to what a file can hold.
fn bytes(text: &str) -> Result<u128, Fault> {
    let wrong =
        || Fault::with_hint("is not a size", "a size is a number with a unit, as in \"64GiB\" or \"10MB\"");
    let text = text.trim();
    let unit_at = text.find(|char: char| !(char.is_ascii_digit() || char == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..unit_at], text[unit_at..].trim());
    let factor = if unit.is_empty() {
        1
    } else if let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        *factor
    } else {
        let near = nearest(unit, SIZE_UNITS.iter().map(|(name, _)| *name));
        return Err(Fault {
            hint: near.map(|near| format!("did you mean `{near}`?")).or(wrong().hint),
            ..wrong()
        });
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let parts: Option<(u64, u64)> = whole.parse().ok().zip(fraction.parse().ok());
    let (whole, fraction_digits) = parts.filter(|_| fraction.len() <= 9).ok_or_else(wrong)?;
    // At most nine digits: the product of two such numbers fits 128 bits with room to spare.
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
    let bytes =
        u128::from(whole) * u128::from(factor) + u128::from(fraction_digits) * u128::from(factor) / scale;
    Ok(bytes)
}

/// Reads bytes, from `64GiB`, `1.5 MB` or `512`. Units in any case.
pub(in crate::images_file) fn size(text: &str) -> Result<u64, Fault> {
    positive_bytes(bytes(text)?)
}

/// Reads bytes a second, from `20MiB/s`: a size, and `/s`.
pub(in crate::images_file) fn rate(text: &str) -> Result<NonZeroU64, Fault> {
    let wrong = |hint: &str| Fault::with_hint("is not a rate", hint);
    let usual = "a rate is a size and /s, as in \"20MiB/s\" or \"500kB/s\"";
    let none = || Fault::with_hint("must be more than 0", "leave `rate` out: then nothing is held back");
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    if ["", "unlimited", "none", "off", "no", "false", "max", "inf", "infinity"].contains(&&*lower) {
        return Err(wrong("leave `rate` out where nothing is to be held back"));
    }
    if lower.contains("bit") || lower.ends_with("bps") {
        return Err(wrong("a rate counts bytes: 100 megabits are \"12.5MB/s\""));
    }
    let Some(amount) = text.strip_suffix("/s").or_else(|| text.strip_suffix("/S")) else {
        return Err(match bytes(text) {
            Ok(0) => none(),
            Ok(_) => wrong(&format!("did you mean \"{text}/s\"?")),
            Err(_) => wrong(usual),
        });
    };
    let amount = bytes(amount).map_err(|fault| {
        let near = fault.hint.filter(|hint| hint.starts_with("did you mean"));
        wrong(near.as_deref().unwrap_or(usual))
    })?;
    if amount == 0 {
        return Err(none());
    }
    let amount = positive_bytes(amount)?;
    NonZeroU64::new(amount).ok_or_else(none)
}

/// True if `text`, a rate, has a unit that others write for bits, such as `Mb`.
pub(in crate::images_file) fn looks_like_bits(text: &str) -> bool {
    text.contains('b') && text.contains(['k', 'K', 'M', 'G', 'T']) && !text.contains(['i', 'I'])
}

/// Takes a size that can be counted: from 1 to the most that SQLite and files can hold.
fn positive_bytes(bytes: u128) -> Result<u64, Fault> {
    match u64::try_from(bytes) {
        Ok(0) => Err(Fault::new("must be more than 0")),
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err(Fault::new("is larger than any file can be")),
    }
}

/// The units of durations, largest first, in milliseconds.
const TIME_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// The longest duration; timers overflow on absurd ones.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

/// Reads a duration from `5m`, `30s` or `1h30m`, between `least` and a year.
pub(in crate::images_file) fn duration(text: &str, least: Duration) -> Result<Duration, Fault> {
    let wrong = |hint: &str| Fault::with_hint("is not a duration", hint);
    let usual = "a duration is numbers with units, as in \"30s\", \"5m\", \"1h30m\" or \"3d\"";
    let mut rest = text.trim();
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong(&format!("a unit is missing; did you mean \"{}s\"?", &rest[..rest.len().min(20)])));
    }
    if rest.is_empty() {
        return Err(wrong(usual));
    }
    let mut units = TIME_UNITS;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            let order = TIME_UNITS.iter().any(|(name, _)| *name == unit);
            return Err(wrong(if order {
                "larger units come first, each once, as in \"1h30m\""
            } else {
                usual
            }));
        };
        let factor = units[at].1;
        units = &units[at + 1..];
        let number: u64 = number.parse().map_err(|_| wrong(usual))?;
        total = number
            .checked_mul(factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| Fault::new("is longer than a year"))?;
        rest = after.trim_start();
    }
    let duration = Duration::from_millis(total);
    if duration < least {
        return Err(Fault::new(format!("must be at least {}s", least.as_secs())));
    }
    if duration > MAX_DURATION {
        return Err(Fault::new("is longer than a year"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64GiB", 64 << 30),
            ("4MiB", 4 << 20),
            ("4 mib", 4 << 20),
            ("10MB", 10_000_000),
            ("1.5kB", 1500),
            ("0.5KiB", 512),
            ("512", 512),
            ("1B", 1),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "GiB",
            "-1",
            "1..5MB",
            "0",
            "0GiB",
            "9999999999TiB",
            "99999999999999999999",
            "1e3",
            "1 2MB",
            "é",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(size("4Mib").unwrap(), 4 << 20);
        assert_eq!(size("4MiBs").unwrap_err().hint.unwrap(), "did you mean `MiB`?");
        assert_eq!(size("0").unwrap_err().message, "must be more than 0");
    }

    #[test]
    fn rates() {
        for (text, expected) in [
            ("20MiB/s", 20 << 20),
            (" 1.5 MB /s ", 1_500_000),
            ("500kb/S", 500_000),
            ("1KiB/s", 1024),
            ("10gib/s", 10 << 30),
            ("512/s", 512),
        ] {
            assert_eq!(rate(text).map(NonZeroU64::get), Ok(expected), "{text}");
        }
        let leave_out = "leave `rate` out: then nothing is held back";
        let usual = "a rate is a size and /s, as in \"20MiB/s\" or \"500kB/s\"";
        for (text, message, hint) in [
            ("20MiB", "is not a rate", "did you mean \"20MiB/s\"?"),
            ("20MiBs/s", "is not a rate", "did you mean `MiB`?"),
            ("20MiB/min", "is not a rate", usual),
            ("-1MiB/s", "is not a rate", usual),
            ("fast", "is not a rate", usual),
            ("/s", "is not a rate", usual),
            ("100Mbit/s", "is not a rate", "a rate counts bytes: 100 megabits are \"12.5MB/s\""),
            ("100Mbps", "is not a rate", "a rate counts bytes: 100 megabits are \"12.5MB/s\""),
            ("unlimited", "is not a rate", "leave `rate` out where nothing is to be held back"),
            ("", "is not a rate", "leave `rate` out where nothing is to be held back"),
            ("0", "must be more than 0", leave_out),
            ("0/s", "must be more than 0", leave_out),
            ("0.0 MiB/s", "must be more than 0", leave_out),
        ] {
            assert_eq!(rate(text), Err(Fault::with_hint(message, hint)), "{text}");
        }
        assert!(rate("99999999TiB/s").is_err());
        for (text, bits) in [("20Mb/s", true), ("20kb/s", true), ("20MB/s", false), ("20mib/s", false)] {
            assert_eq!(looks_like_bits(text), bits, "{text}");
        }
    }

    #[test]
    fn durations() {
        let second = Duration::from_secs(1);
        for (text, seconds) in [
            ("5m", 300),
            ("30s", 30),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("1d", 86_400),
            ("1s", 1),
            ("1500ms", 1),
        ] {
            assert_eq!(duration(text, second).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in [
            "",
            "m",
            "5",
            "5x",
            "30m1h",
            "1m1m",
            "-5m",
            "1.5h",
            "999ms",
            "0s",
            "400d",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert!(duration(bad, second).is_err(), "{bad}");
        }
        assert_eq!(
            duration("300", second).unwrap_err().hint.unwrap(),
            "a unit is missing; did you mean \"300s\"?"
        );
        assert_eq!(duration("0s", second).unwrap_err().message, "must be at least 1s");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_quantity_panic(text in "\\PC{0,40}") {
            let _ = size(&text);
            let _ = rate(&text);
            let _ = duration(&text, Duration::from_secs(1));
            let _ = mode(&text);
        }

        #[test]
        fn a_size_is_its_number_of_units(number in 1_u64..1000, unit in 0..SIZE_UNITS.len()) {
            let (name, factor) = SIZE_UNITS[unit];
            prop_assert_eq!(size(&format!("{number}{name}")), Ok(number * factor));
        }

        #[test]
        fn a_duration_is_the_sum_of_its_parts(hours in 0_u64..100, minutes in 0_u64..1000, seconds in 1_u64..1000) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(duration(&text, Duration::from_secs(1)), Ok(expected));
        }
    }
}
