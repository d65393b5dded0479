//! A reader of DER for what has no type of its own: an item at a time, and no tree.

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{AnyRef, Decode as _, Reader as _, SliceReader, Tag, TagNumber};

/// One item.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    /// The tag.
    pub(super) tag: Tag,
    /// The bytes inside.
    pub(super) value: &'a [u8],
    /// All its bytes.
    pub(super) whole: &'a [u8],
}

impl<'a> Item<'a> {
    /// Reads bytes that are one item.
    pub(super) fn only(bytes: &'a [u8]) -> Option<Self> {
        let [item] = items(bytes)?[..] else { return None };
        Some(item)
    }

    /// The items inside, if this one is of the type `tag`.
    pub(super) fn inside(&self, tag: Tag) -> Option<Vec<Item<'a>>> {
        if self.tag == tag { items(self.value) } else { None }
    }

    /// The one item inside an explicit tag.
    pub(super) fn explicit(&self, number: TagNumber) -> Option<Item<'a>> {
        let [item] = self.inside(context(number))?[..] else { return None };
        Some(item)
    }

    /// The bytes inside, if this item is of the type `tag`.
    pub(super) fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.value)
    }

    /// An object identifier.
    pub(super) fn name(&self) -> Option<ObjectIdentifier> {
        ObjectIdentifier::from_bytes(self.bytes(Tag::ObjectIdentifier)?).ok()
    }

    /// The name of an `AlgorithmIdentifier` without parameters.
    pub(super) fn algorithm(&self) -> Option<ObjectIdentifier> {
        match self.inside(Tag::Sequence)?[..] {
            [name] => name.name(),
            [name, none] if none.whole == [5, 0] => name.name(),
            _ => None,
        }
    }

    /// A small number that is not negative.
    pub(super) fn number(&self, tag: Tag) -> Option<i64> {
        let bytes = self.bytes(tag)?;
        if bytes.is_empty() || bytes.len() > 4 || bytes[0] > 0x7f {
            return None;
        }
        Some(bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)))
    }
}

/// The tag of a field that holds others, `[number]`.
pub(super) fn context(number: TagNumber) -> Tag {
    Tag::ContextSpecific { constructed: true, number }
}

/// Reads items that stand one after the other.
fn items(bytes: &[u8]) -> Option<Vec<Item<'_>>> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let mut items = Vec::new();
    while !reader.is_finished() {
        let whole = reader.tlv_bytes().ok()?;
        let item = AnyRef::from_der(whole).ok()?;
        items.push(Item { tag: x509_cert::der::Tagged::tag(&item), value: item.value(), whole });
    }
    Some(items)
}
