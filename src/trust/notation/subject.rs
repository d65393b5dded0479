//! The subject that a rule asks for, `O=Acme,CN=*`, in the syntax of names (RFC 4514).
//!
//! Each attribute has to be among the certificate's, in any order; `*` in a value stands for
//! anything, `*` instead of an attribute for any others. A backslash takes a character as it is,
//! `\,` and `\*` too, and `\2c` is the byte of that number.

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{
    Ia5StringRef, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef,
};
use x509_cert::der::{Tag, Tagged as _};
use x509_cert::name::Name;

use super::super::finding::shown;
use crate::wildcard;

/// Short names of attributes, and what they stand for.
const NAMES: [(&str, &str); 15] = [
    ("CN", "2.5.4.3"),
    ("SN", "2.5.4.4"),
    ("SERIALNUMBER", "2.5.4.5"),
    ("C", "2.5.4.6"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("S", "2.5.4.8"),
    ("STREET", "2.5.4.9"),
    ("O", "2.5.4.10"),
    ("OU", "2.5.4.11"),
    ("UID", "0.9.2342.19200300.100.1.1"),
    ("DC", "0.9.2342.19200300.100.1.25"),
    ("E", "1.2.840.113549.1.9.1"),
    ("EMAIL", "1.2.840.113549.1.9.1"),
    ("EMAILADDRESS", "1.2.840.113549.1.9.1"),
];

/// A character that no name has, instead of a star that stands for itself.
const STAR: &str = "\0";

/// The attributes that the subject of a signer's certificate has to have: `O=Acme,CN=*`.
pub(in super::super) struct Subject {
    /// The values are patterns, with [`STAR`] for a star that stands for itself.
    wanted: Vec<(ObjectIdentifier, String)>,
}

/// One byte of a text, and whether it stands for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Byte {
    Plain(u8),
    Escaped(u8),
}

impl Subject {
    /// Reads a list of attributes; the error says what is wrong.
    pub(in super::super) fn parse(text: &str) -> Result<Self, String> {
        let bytes = unescape(text.as_bytes())?;
        let is_separator = |byte: &Byte| matches!(byte, Byte::Plain(b',' | b'+'));
        let mut wanted = Vec::new();
        for part in bytes.split(is_separator) {
            let part = trim(part);
            if part != [Byte::Plain(b'*')] {
                wanted.push(attribute(part)?);
            }
        }
        Ok(Self { wanted })
    }

    /// True if a name has all of the attributes.
    pub(super) fn matches(&self, name: &Name) -> bool {
        let fits = |pattern: &str, text: &str| {
            !text.contains(STAR) && wildcard::fits(pattern, &text.replace('*', STAR))
        };
        let has = |(kind, pattern): &(ObjectIdentifier, String)| {
            name.0.iter().flat_map(|part| part.0.iter()).any(|attribute| {
                attribute.oid == *kind && text_of(attribute).is_some_and(|text| fits(pattern, text))
            })
        };
        self.wanted.iter().all(has)
    }
}

/// Reads `2.5.4.10`. The package's own reader calls itself for every digit, and lets large numbers
/// overflow.
fn object_identifier(dotted: &str) -> Option<ObjectIdentifier> {
    let is_sensible = dotted.len() <= 128 && dotted.split('.').all(|number| number.len() <= 9);
    is_sensible.then(|| ObjectIdentifier::new(dotted).ok()).flatten()
}

/// Reads `O=Acme`.
fn attribute(part: &[Byte]) -> Result<(ObjectIdentifier, String), String> {
    let Some(middle) = part.iter().position(|byte| *byte == Byte::Plain(b'=')) else {
        return Err("an attribute is written NAME=VALUE, as in O=Acme".to_owned());
    };
    let name = plain_text(trim(&part[..middle]))?;
    let dotted = NAMES
        .iter()
        .find(|(short, _)| short.eq_ignore_ascii_case(&name))
        .map_or(name.as_str(), |(_, dotted)| dotted);
    let kind = object_identifier(dotted).ok_or_else(|| {
        format!("the attribute {} is unknown; known are CN, O, OU, C, ST, L and others", shown(&name))
    })?;
    let value = trim(&part[middle + 1..]);
    if value.is_empty() {
        return Err(format!("the attribute {} has no value", shown(&name)));
    }
    if value[0] == Byte::Plain(b'#') {
        return Err(format!("the value of {} in hexadecimal is not supported", shown(&name)));
    }
    if value.iter().any(|byte| matches!(byte, Byte::Plain(b'"' | b';' | b'<' | b'>'))) {
        return Err(format!("\", ;, < and > in the value of {} want a backslash", shown(&name)));
    }
    let mut pattern = String::new();
    for (position, piece) in value.split(|byte| *byte == Byte::Plain(b'*')).enumerate() {
        pattern.push_str(if position == 0 { "" } else { "*" });
        pattern.push_str(&plain_text(piece)?.replace('*', STAR));
    }
    Ok((kind, pattern))
}

/// Takes the backslashes away.
fn unescape(text: &[u8]) -> Result<Vec<Byte>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(Byte::Plain(*first));
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match after {
            [high, low, after @ ..] if digit(high).is_some() && digit(low).is_some() => {
                let number = digit(high).unwrap_or_default() << 4 | digit(low).unwrap_or_default();
                bytes.push(Byte::Escaped(number));
                rest = after;
            }
            [special, after @ ..] if !special.is_ascii_alphanumeric() => {
                bytes.push(Byte::Escaped(*special));
                rest = after;
            }
            _ => return Err("a backslash stands before a character or two hexadecimal digits".to_owned()),
        }
    }
    Ok(bytes)
}

/// Takes the spaces around a text away, but those that stand for themselves.
fn trim(mut bytes: &[Byte]) -> &[Byte] {
    while let [Byte::Plain(b' '), rest @ ..] | [rest @ .., Byte::Plain(b' ')] = bytes {
        bytes = rest;
    }
    bytes
}

fn plain_text(bytes: &[Byte]) -> Result<String, String> {
    let bytes = bytes.iter().map(|(Byte::Plain(byte) | Byte::Escaped(byte))| *byte).collect();
    String::from_utf8(bytes).map_err(|_| "a value is not UTF-8".to_owned())
}

/// The text of an attribute, of the kinds of text that are in use.
fn text_of(attribute: &AttributeTypeAndValue) -> Option<&str> {
    let value = &attribute.value;
    match value.tag() {
        Tag::Utf8String => Utf8StringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::PrintableString => PrintableStringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::Ia5String => Ia5StringRef::try_from(value).ok().map(|text| text.as_str()),
        Tag::TeletexString => TeletexStringRef::try_from(value).ok().map(|text| text.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn each_attribute_has_to_be_there_in_any_order() {
        let name = Name::from_str(r"CN=images,OU=Team A,OU=Build,O=Example\, Inc.,C=CH").unwrap();
        for (pattern, expected) in [
            ("*", true),
            ("CN=images", true),
            ("cn=images", true),
            ("CN=Images", false),
            ("CN=image", false),
            ("CN=*", true),
            ("CN=im*s", true),
            ("L=*", false),
            ("C=CH,CN=images", true),
            ("CN=images, C=CH", true),
            ("C=CH+CN=images", true),
            ("C=CH,*", true),
            ("C=DE,*", false),
            ("OU=Build,OU=Team A", true),
            ("OU=Build,OU=Team B", false),
            (r"O=Example\, Inc.", true),
            (r"O=Example\2c Inc.", true),
            ("O=Example*", true),
            ("O=Example", false),
            (r"CN=image\*", false),
            (r"CN=image\2a", false),
            ("2.5.4.3=images", true),
            ("2.5.4.4=images", false),
            (" CN = images ", true),
            (r"CN=images\ ", false),
        ] {
            assert_eq!(Subject::parse(pattern).unwrap().matches(&name), expected, "{pattern}");
        }
    }

    #[test]
    fn a_star_with_a_backslash_is_a_star() {
        let name = Name::from_str("CN=*.example.com").unwrap();
        assert!(Subject::parse(r"CN=\*.example.com").unwrap().matches(&name));
        assert!(Subject::parse(r"CN=\2A.example.com").unwrap().matches(&name));
        let name = Name::from_str("CN=a.example.com").unwrap();
        assert!(!Subject::parse(r"CN=\*.example.com").unwrap().matches(&name));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", "NAME=VALUE"),
            ("O=Acme,", "NAME=VALUE"),
            ("Acme", "NAME=VALUE"),
            ("O=", "O has no value"),
            ("O= ", "O has no value"),
            ("X=1", "attribute X is unknown"),
            ("=1", "attribute  is unknown"),
            ("O=#0c0141", "hexadecimal"),
            ("O=\"Acme\"", "backslash"),
            ("O=a;CN=b", "backslash"),
            (r"O=a\", "backslash"),
            (r"O=a\z", "backslash"),
            (r"O=\ff", "UTF-8"),
        ] {
            let error = Subject::parse(text).err().unwrap_or_default();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
