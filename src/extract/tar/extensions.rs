//! The headers that extend the next entry: PAX records, and GNU's long names.

use std::collections::BTreeMap;

use tar::EntryType;

use super::header::Header;
use super::numbers::{decimal, until_nul};
use super::source::{Source, broken, padding_of, skip};
use crate::error::LayerError;

/// The longest extension (PAX header, GNU long name, map of a sparse file), as Go's
/// `maxSpecialFileSize`.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;

/// The PAX records of a header, by key.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The extensions of the next entry.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) pax: Records,
    pub(super) gnu_name: Option<Vec<u8>>,
    pub(super) gnu_link: Option<Vec<u8>>,
    /// True if an extension came, which wants an entry to follow.
    pub(super) any: bool,
}

impl Extensions {
    /// Takes in the extension that a header announces; `false` if it is the header of an entry.
    pub(super) fn take(&mut self, header: &Header<'_>, source: &mut impl Source) -> Result<bool, LayerError> {
        let offset = header.offset;
        match header.entry_type() {
            EntryType::XGlobalHeader => {
                let records = parse_records(&read_extension(source, header)?, offset)?;
                refuse_global(&records, offset)?;
                return Ok(true);
            }
            EntryType::GNULongName => {
                self.gnu_name = Some(until_nul(&read_extension(source, header)?).to_vec());
            }
            EntryType::GNULongLink => {
                self.gnu_link = Some(until_nul(&read_extension(source, header)?).to_vec());
            }
            // Solaris writes X.
            kind if kind == EntryType::XHeader || kind.as_byte() == b'X' => {
                // A later extended header replaces an earlier one for the same entry, as in Go.
                self.pax = parse_records(&read_extension(source, header)?, offset)?;
            }
            _ => return Ok(false),
        }
        self.any = true;
        Ok(true)
    }
}

/// Refuses global records by which readers would make different things of the entries to come.
fn refuse_global(records: &Records, offset: u64) -> Result<(), LayerError> {
    let changes_entries = |key: &[u8]| {
        matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
            || key.starts_with(b"SCHILY.xattr.")
            || key.starts_with(b"GNU.sparse.")
    };
    match records.keys().find(|key| changes_entries(key)) {
        None => Ok(()),
        Some(key) => {
            let key = String::from_utf8_lossy(key);
            let reason = format!("a global PAX header sets {key}, which readers understand differently");
            Err(broken(offset, reason))
        }
    }
}

/// Reads the content of an extension.
fn read_extension(source: &mut impl Source, header: &Header<'_>) -> Result<Vec<u8>, LayerError> {
    let size = header.size()?;
    if size > MAX_EXTENSION {
        return Err(broken(
            header.offset,
            format!("an extension header of {size} bytes; at most {MAX_EXTENSION} are read"),
        ));
    }
    let mut content = Vec::new();
    let mut left = size;
    while left > 0 {
        let position = source.position();
        let piece = source.take(usize::try_from(left).unwrap_or(usize::MAX))?;
        if piece.is_empty() {
            return Err(broken(position, "the archive ends in the middle of an extension header"));
        }
        left -= piece.len() as u64;
        content.extend_from_slice(piece);
    }
    skip(source, padding_of(size))?;
    Ok(content)
}

/// Reads the records of a PAX header: `LENGTH KEY=VALUE\n`, LENGTH counting itself. An empty value
/// deletes.
///
/// `tar::PaxExtensions` would not do: it parts records at line ends, which values may have (xattrs
/// do), and takes a record that is cut off for the last one.
fn parse_records(mut content: &[u8], offset: u64) -> Result<Records, LayerError> {
    let bad = |reason: &'static str| broken(offset, format!("malformed PAX header: {reason}"));
    let mut records = Records::new();
    let mut map = SparseMap::default();
    while !content.is_empty() {
        let Record { key, value, rest } = Record::split(content).map_err(bad)?;
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            map.add(key, value).map_err(bad)?;
        } else if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            records.remove(key);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
        content = rest;
    }
    if map.numbers > 0 {
        records.insert(b"GNU.sparse.map".to_vec(), map.text);
    }
    Ok(records)
}

/// A PAX record, and the bytes after it.
struct Record<'c> {
    key: &'c [u8],
    value: &'c [u8],
    rest: &'c [u8],
}

impl<'c> Record<'c> {
    /// Splits the first record off.
    fn split(content: &'c [u8]) -> Result<Self, &'static str> {
        let space = content.iter().take(20).position(|&b| b == b' ').ok_or("no length")?;
        let length = decimal(&content[..space])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length > space + 2 && length <= content.len())
            .ok_or("a length that does not fit")?;
        let (record, rest) = content.split_at(length);
        let Some((b'\n', body)) = record[space + 1..].split_last() else {
            return Err("a record without its line end");
        };
        let equals = body.iter().position(|&b| b == b'=').ok_or("a record without =")?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        if key.is_empty() {
            return Err("a record without a key");
        }
        if key.contains(&0) {
            return Err("a NUL in a key");
        }
        Ok(Self { key, value, rest })
    }
}

/// The map of a sparse file of form 0.0, whose records repeat; put together they are the map of
/// form 0.1.
#[derive(Default)]
struct SparseMap {
    text: Vec<u8>,
    numbers: u64,
}

impl SparseMap {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let wanted: &[u8] =
            if self.numbers.is_multiple_of(2) { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
        if key != wanted || value.contains(&b',') {
            return Err("a map of a sparse file that is none");
        }
        if self.numbers > 0 {
            self.text.push(b',');
        }
        self.text.extend_from_slice(value);
        self.numbers += 1;
        Ok(())
    }
}
