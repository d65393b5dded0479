//! `rate` of `[settings]` and of a registry's table: bytes a second.

use std::num::NonZeroU64;

use toml::de::DeValue;

use crate::diagnostic::Mistake;
use crate::images_file::reader::{Reader, Table};
use crate::images_file::values::quantities;

/// Reads the key, if it is there.
pub(super) fn read(reader: &mut Reader<'_>, table: Table<'_>) -> Option<NonZeroU64> {
    let node = table.get("rate")?;
    let DeValue::String(text) = node.value else {
        reader.wrong_type(node, "a rate such as \"20MiB/s\"");
        return None;
    };
    let rate = reader.checked(node, quantities::rate(text))?;
    if quantities::looks_like_bits(text) {
        let message = "`rate` counts bytes, and this looks like bits";
        let hint = "write MB/s; eight megabits are one megabyte";
        reader.warn(Mistake::new(node.span, message).hint(hint));
    }
    Some(rate)
}
