//! COSE envelopes: a tagged `COSE_Sign1` (RFC 9052).
//!
//! The decoder makes a tree of what it reads, many times as large as a text of small items. So the
//! text is walked through first, and one of more items than an envelope has is refused.

use coset::cbor::value::Value;
use coset::{
    CoseSign1, Header, Label, RegisteredLabel, RegisteredLabelWithPrivate, TaggedCborSerializable as _,
};

use super::super::finding::Refused;
use super::envelope::{
    AUTHENTIC_TIME, Algorithm, Attributes, EXPIRY, Envelope, PLUGIN, SCHEME, SIGNING_TIME, TIMESTAMP,
};

/// The tag of a `COSE_Sign1`, and the array of four that it is.
const START: [u8; 2] = [0xd2, 0x84];
/// The items of an envelope, at most: one with two dozen attributes has a hundred.
const MAX_ITEMS: usize = 1_000;
const MAX_DEPTH: usize = 16;
/// The label of the certificates (RFC 9360).
const X5CHAIN: Label = Label::Int(33);

/// Reads an envelope.
pub(super) fn read(bytes: &[u8]) -> Result<Envelope, Refused> {
    let envelope = is_modest(bytes).then(|| CoseSign1::from_tagged_slice(bytes));
    let Some(Ok(sign1)) = envelope else { return Err(unreadable()) };
    let header = &sign1.protected.header;
    let algorithm = algorithm(header)?;
    let chain = [&sign1.unprotected, header].into_iter().find_map(|header| value(header, &X5CHAIN));
    let timestamp = match value(&sign1.unprotected, &Label::Text(TIMESTAMP.to_owned())) {
        Some(Value::Bytes(token)) => Some(token.clone()),
        Some(_) => return Err(unreadable()),
        None => None,
    };
    Ok(Envelope {
        algorithm,
        signed: sign1.tbs_data(&[]),
        attributes: attributes(header)?,
        chain: certificates(chain)?,
        timestamp,
        payload: sign1.payload.ok_or_else(unreadable)?,
        signature: sign1.signature,
    })
}

fn algorithm(header: &Header) -> Result<Algorithm, Refused> {
    use coset::iana::Algorithm as Known;
    match header.alg {
        Some(RegisteredLabelWithPrivate::Assigned(known)) => match known {
            Known::ES256 => Ok(Algorithm::Es256),
            Known::ES384 => Ok(Algorithm::Es384),
            Known::ES512 => Ok(Algorithm::Es512),
            Known::PS256 => Ok(Algorithm::Ps256),
            Known::PS384 => Ok(Algorithm::Ps384),
            Known::PS512 => Ok(Algorithm::Ps512),
            other => Err(Refused::because(format!("its algorithm {other:?} is unknown"))),
        },
        _ => Err(Refused::because("its algorithm is unknown")),
    }
}

fn attributes(header: &Header) -> Result<Attributes, Refused> {
    let critical = header.crit.iter().map(|label| match label {
        RegisteredLabelWithPrivate::Text(name) => name.clone(),
        RegisteredLabelWithPrivate::PrivateUse(number) => number.to_string(),
        RegisteredLabelWithPrivate::Assigned(known) => format!("{known:?}"),
    });
    let found = |name: &str| value(header, &Label::Text(name.to_owned()));
    let text = |name| match found(name) {
        Some(Value::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(unreadable()),
        None => Ok(None),
    };
    let time = |name| match found(name) {
        Some(Value::Tag(1, time)) => match &**time {
            Value::Integer(seconds) => i64::try_from(*seconds).map(Some).map_err(|_| unreadable()),
            _ => Err(unreadable()),
        },
        Some(_) => Err(unreadable()),
        None => Ok(None),
    };
    Ok(Attributes {
        content_type: match &header.content_type {
            Some(RegisteredLabel::Text(kind)) => Some(kind.clone()),
            _ => None,
        },
        critical: critical.collect(),
        scheme: text(SCHEME)?,
        has_signing_time: time(SIGNING_TIME)?.is_some(),
        has_authentic_time: found(AUTHENTIC_TIME).is_some(),
        expiry: time(EXPIRY)?,
        plugin: text(PLUGIN)?,
    })
}

fn certificates(chain: Option<&Value>) -> Result<Vec<Vec<u8>>, Refused> {
    let bytes = |one: &Value| one.as_bytes().cloned().ok_or_else(unreadable);
    match chain {
        Some(Value::Array(all)) => all.iter().map(bytes).collect(),
        Some(only) => Ok(vec![bytes(only)?]),
        None => Ok(Vec::new()),
    }
}

fn value<'h>(header: &'h Header, label: &Label) -> Option<&'h Value> {
    header.rest.iter().find(|(name, _)| name == label).map(|(_, value)| value)
}

fn unreadable() -> Refused {
    Refused::because("it cannot be read as a COSE envelope of Notation")
}

/// True if the text, and the protected header that is a text in it, have few items.
fn is_modest(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&START) else { return false };
    let Some((2, length)) = head(&mut rest) else { return false };
    let protected = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    has_few_items(bytes) && protected.is_some_and(has_few_items)
}

/// Walks through one item of CBOR without a tree. Items of unknown length are refused.
fn has_few_items(mut bytes: &[u8]) -> bool {
    let mut open: Vec<u64> = vec![1];
    for _ in 0..MAX_ITEMS {
        while let Some(0) = open.last() {
            open.pop();
        }
        let Some(left) = open.last_mut() else { return bytes.is_empty() };
        *left -= 1;
        let Some((major, argument)) = head(&mut bytes) else { return false };
        match major {
            2 | 3 => {
                let rest = usize::try_from(argument).ok().and_then(|length| bytes.get(length..));
                let Some(rest) = rest else { return false };
                bytes = rest;
            }
            4 => open.push(argument),
            5 => open.push(argument.saturating_mul(2)),
            6 => open.push(1),
            _ => {}
        }
        if open.len() > MAX_DEPTH {
            return false;
        }
    }
    false
}

/// Takes the head of an item off: its major type and its argument.
fn head(bytes: &mut &[u8]) -> Option<(u8, u64)> {
    let (&first, rest) = bytes.split_first()?;
    let size = match first & 0x1f {
        short @ 0..=23 => {
            *bytes = rest;
            return Some((first >> 5, u64::from(short)));
        }
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (argument, rest) = rest.split_at_checked(size)?;
    *bytes = rest;
    Some((first >> 5, argument.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_items_are_one_whole_item_that_is_neither_deep_nor_wide_nor_endless() {
        let deep = [vec![0x81; MAX_DEPTH], vec![0]].concat();
        let wide = [vec![0x99, 0x03, 0xe7], vec![0; MAX_ITEMS - 1]].concat();
        for (bytes, expected) in [
            (&[][..], false),
            (&[0x00], true),
            (&[0x00, 0x00], false),
            (&[0x18], false),
            (&[0x18, 0xff], true),
            (&[0x43, 1, 2, 3], true),
            (&[0x43, 1, 2], false),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            (&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            (&[0x9f, 0xff], false),
            (&[0x1f], false),
            (&[0xa1, 1, 2], true),
            (&[0xa1, 1], false),
            (&[0xc1, 1], true),
            (&[0x80], true),
            (&deep, false),
            (&deep[1..], true),
            (&wide, false),
        ] {
            assert_eq!(has_few_items(bytes), expected, "{bytes:02x?}");
        }
    }
}
