//! A streaming tar reader for hostile input: header blocks and extension records in, [`Entry`]s out.
//!
//! Reads POSIX ustar and PAX, GNU (long names, base-256 numbers), star and v7 headers. Where these disagree,
//! the rules are those of Go's `archive/tar`, by which Docker, containerd and umoci read layers, so that a
//! layer means the same here and there: a PAX `size` wins over the header's (CVE-2025-62518 is what happens
//! otherwise), links and devices carry no data, two zero blocks end the archive and nothing after them is
//! parsed. What Go reads in a surprising way is refused here.
//!
//! Sources: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format", Go `archive/tar/reader.go`.

use std::collections::BTreeMap;

use crate::error::LayerError;
use crate::sys::FileTime;

/// Bytes of a header block; everything in a tar is a multiple of it.
pub(super) const BLOCK: usize = 512;
/// Longest extension record (PAX header, GNU long name), as Go's `maxSpecialFileSize`.
const MAX_EXTENSION: u64 = 1 << 20;
/// Longest entry name or link target: Linux takes no longer path.
const MAX_PATH: usize = 4095;
/// Longest name of one path component.
const MAX_COMPONENT: usize = 255;

/// Where uncompressed tar bytes come from.
pub(super) trait Source {
    /// The next bytes, at most `limit`; empty at the end.
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError>;

    /// Bytes taken so far.
    fn position(&self) -> u64;
}

/// What an entry becomes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A regular file with so many bytes of data, which follow in the stream.
    File { size: u64 },
    /// A directory.
    Directory,
    /// A symlink with this text.
    Symlink { target: Vec<u8> },
    /// Another name of the entry at this path (cleaned like [`Entry::path`]).
    HardLink { target: Vec<u8> },
    /// A character device, block device or fifo: the file type bits of its mode.
    Special { type_bits: u32 },
}

/// One entry, checked: its path is relative, clean and cannot leave the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// `a/b/c`, without empty, `.` or `..` components; empty for the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: FileTime,
    /// The extended attributes of PAX `SCHILY.xattr.*` records, by name.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Overrides for the next entry.
#[derive(Default)]
struct Extensions {
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    any: bool,
}

/// Reads entries from a [`Source`], one after the other.
pub(super) struct TarReader {
    /// Data and padding of the current entry that the caller has not taken.
    data_left: u64,
    padding: u64,
    ended: bool,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { data_left: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the end of the archive (not of the stream). The previous entry's data
    /// must have been taken with [`TarReader::data`].
    pub(super) fn next_entry(&mut self, source: &mut impl Source) -> Result<Option<Entry>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            skip(source, self.data_left)?;
            // Some writers leave out the last file's padding. As in Go, that ends the archive.
            let padded = try_skip(source, self.padding)?;
            (self.data_left, self.padding) = (0, 0);
            if !padded {
                self.ended = true;
                return Ok(None);
            }
            let start = source.position();
            let Some(block) = read_block(source)? else {
                if extensions.any {
                    return Err(broken(start, "the archive ends after an extension header"));
                }
                self.ended = true;
                return Ok(None);
            };
            if block.iter().all(|&b| b == 0) {
                if extensions.any {
                    return Err(broken(start, "an extension header has no entry"));
                }
                if let Some(second) = read_block(source)?
                    && second.iter().any(|&b| b != 0)
                {
                    return Err(broken(start, "a single zero block between entries"));
                }
                self.ended = true;
                return Ok(None);
            }
            let header = Header::new(&block, start)?;
            match header.type_flag() {
                b'x' | b'X' => {
                    let records = read_extension(source, &header)?;
                    // A later extended header replaces an earlier one for the same entry, as in Go.
                    extensions.pax = parse_pax(&records, start)?;
                    extensions.any = true;
                }
                b'g' => {
                    let records = read_extension(source, &header)?;
                    for key in parse_pax(&records, start)?.keys() {
                        if changes_entries(key) {
                            return Err(broken(
                                start,
                                format!(
                                    "a global PAX header sets {}, which readers understand differently",
                                    String::from_utf8_lossy(key)
                                ),
                            ));
                        }
                    }
                }
                b'L' => {
                    extensions.gnu_name = Some(until_nul(&read_extension(source, &header)?).to_vec());
                    extensions.any = true;
                }
                b'K' => {
                    extensions.gnu_link = Some(until_nul(&read_extension(source, &header)?).to_vec());
                    extensions.any = true;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data; empty when it is all taken.
    pub(super) fn data<'a>(&mut self, source: &'a mut impl Source) -> Result<&'a [u8], LayerError> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let position = source.position();
        let piece = source.take(usize::try_from(self.data_left).unwrap_or(usize::MAX))?;
        if piece.is_empty() {
            return Err(broken(position, "the archive ends in the middle of a file"));
        }
        self.data_left -= piece.len() as u64;
        Ok(piece)
    }

    fn entry(&mut self, header: &Header<'_>, extensions: Extensions) -> Result<Entry, LayerError> {
        let Extensions { mut pax, gnu_name, gnu_link, .. } = extensions;
        let offset = header.offset;
        if let Some(key) = pax.keys().find(|key| key.starts_with(b"GNU.sparse.")) {
            return Err(broken(
                offset,
                format!("a sparse file ({}), which msb-sync does not extract", String::from_utf8_lossy(key)),
            ));
        }
        let raw_name = gnu_name.or_else(|| pax.remove(&b"path"[..])).unwrap_or_else(|| header.name());
        let raw_link = gnu_link.or_else(|| pax.remove(&b"linkpath"[..])).unwrap_or_else(|| header.link());
        let shown = show(&raw_name);
        let refuse = |reason: &str| LayerError::Entry { entry: shown.clone(), reason: reason.to_owned() };

        let mut size = header.size()?;
        if let Some(value) = pax.get(&b"size"[..]) {
            size = decimal(value).ok_or_else(|| refuse("its PAX size is not a number"))?;
        }
        if size > i64::MAX as u64 {
            return Err(refuse("its size is more than any file can have"));
        }
        let mut number = |key: &[u8], field: Result<u64, LayerError>| match pax.remove(key) {
            Some(value) => decimal(&value).ok_or_else(|| refuse("a PAX uid or gid is not a number")),
            None => field,
        };
        let uid = number(b"uid", header.uid())?;
        let gid = number(b"gid", header.gid())?;
        let modified = match pax.get(&b"mtime"[..]) {
            Some(value) => parse_time(value).ok_or_else(|| refuse("its PAX mtime is not a time"))?,
            None => header.modified()?,
        };
        let path = clean_path(&raw_name).map_err(&refuse)?;
        let mode = header.mode()? & 0o7777;

        let kind = match header.type_flag() {
            0 if raw_name.ends_with(b"/") => EntryKind::Directory,
            b'0' | b'7' | 0 => EntryKind::File { size },
            b'5' => EntryKind::Directory,
            b'2' => {
                if raw_link.is_empty() {
                    return Err(refuse("a symlink without a target"));
                }
                if raw_link.contains(&0) {
                    return Err(refuse("its target has a NUL"));
                }
                if raw_link.len() > MAX_PATH {
                    return Err(refuse("its target is longer than any path can be"));
                }
                EntryKind::Symlink { target: raw_link }
            }
            b'1' => {
                let target = clean_path(&raw_link)
                    .map_err(|reason| refuse(&format!("its link target {:?}: {reason}", show(&raw_link))))?;
                if target.is_empty() {
                    return Err(refuse("a hard link to the root directory"));
                }
                EntryKind::HardLink { target }
            }
            b'3' => EntryKind::Special { type_bits: 0o020_000 },
            b'4' => EntryKind::Special { type_bits: 0o060_000 },
            b'6' => EntryKind::Special { type_bits: 0o010_000 },
            b'S' => return Err(refuse("a sparse file (old GNU form), which msb-sync does not extract")),
            other => {
                return Err(refuse(&format!(
                    "an unknown entry type {:?}",
                    char::from(other).escape_default().to_string()
                )));
            }
        };
        if path.is_empty() && kind != EntryKind::Directory {
            return Err(refuse("it would replace the layer directory itself"));
        }
        if let EntryKind::File { size } = kind {
            (self.data_left, self.padding) = (size, padding_of(size));
        }
        let xattrs = pax
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
            .collect();
        Ok(Entry { path, kind, mode, uid, gid, modified, xattrs })
    }
}

/// One header block.
struct Header<'a> {
    block: &'a [u8; BLOCK],
    raw: &'a tar::Header,
    offset: u64,
}

impl<'a> Header<'a> {
    /// Checks the checksum (unsigned, as POSIX says, or signed, as old tars wrote it).
    fn new(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, LayerError> {
        let raw = tar::Header::from_byte_slice(block);
        let header = Self { block, raw, offset };
        let stored =
            octal(&block[148..156]).ok_or_else(|| broken(offset, "the header's checksum is not a number"))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&index) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if i64::try_from(stored).is_ok_and(|stored| stored == unsigned || stored == signed) {
            Ok(header)
        } else {
            Err(broken(offset, "the header's checksum is wrong"))
        }
    }

    fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// Name with the prefix of ustar and star headers; GNU and v7 headers have none.
    fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.block[0..100]);
        let prefix = if &self.block[257..263] == b"ustar\0" {
            let end = if &self.block[508..512] == b"tar\0" { 345 + 131 } else { 345 + 155 };
            until_nul(&self.block[345..end])
        } else {
            b""
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn link(&self) -> Vec<u8> {
        until_nul(&self.block[157..257]).to_vec()
    }

    fn number(&self, field: &[u8], what: &str) -> Result<u64, LayerError> {
        numeric(field)
            .ok_or_else(|| broken(self.offset, format!("the {what} field is not a number in 0 … 2^63")))
    }

    fn size(&self) -> Result<u64, LayerError> {
        self.number(&self.raw.as_old().size, "size")
    }

    fn uid(&self) -> Result<u64, LayerError> {
        self.number(&self.raw.as_old().uid, "uid")
    }

    fn gid(&self) -> Result<u64, LayerError> {
        self.number(&self.raw.as_old().gid, "gid")
    }

    fn mode(&self) -> Result<u32, LayerError> {
        let mode = self.number(&self.raw.as_old().mode, "mode")?;
        // Only the low bits matter; some tars put the file type into the others.
        Ok(u32::try_from(mode & 0o177_777).unwrap_or_default())
    }

    fn modified(&self) -> Result<FileTime, LayerError> {
        let field = &self.raw.as_old().mtime;
        let seconds = if field[0] & 0x80 == 0 {
            octal(field).and_then(|seconds| i64::try_from(seconds).ok())
        } else {
            base256(field)
        };
        match seconds {
            Some(seconds) => Ok(FileTime { seconds, nanoseconds: 0 }),
            None => Err(broken(self.offset, "the mtime field is not a number")),
        }
    }
}

fn broken(offset: u64, reason: impl Into<String>) -> LayerError {
    LayerError::Tar { offset, reason: reason.into() }
}

/// An entry's name as text for people: lossy and bounded.
pub(super) fn show(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    if text.chars().count() > 200 {
        text.chars().take(200).chain("…".chars()).collect()
    } else {
        text.into_owned()
    }
}

fn read_block(source: &mut impl Source) -> Result<Option<[u8; BLOCK]>, LayerError> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        let position = source.position();
        let piece = source.take(BLOCK - filled)?;
        if piece.is_empty() {
            if filled == 0 {
                return Ok(None);
            }
            return Err(broken(position, "the archive ends in the middle of a header"));
        }
        block[filled..filled + piece.len()].copy_from_slice(piece);
        filled += piece.len();
    }
    Ok(Some(block))
}

/// The content of an extension header (PAX records, a GNU long name).
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

fn skip(source: &mut impl Source, count: u64) -> Result<(), LayerError> {
    if try_skip(source, count)? {
        Ok(())
    } else {
        Err(broken(source.position(), "the archive ends in the middle of an entry"))
    }
}

/// Skips `count` bytes; `false` if there are not so many.
fn try_skip(source: &mut impl Source, mut count: u64) -> Result<bool, LayerError> {
    while count > 0 {
        let piece = source.take(usize::try_from(count).unwrap_or(usize::MAX))?.len();
        if piece == 0 {
            return Ok(false);
        }
        count -= piece as u64;
    }
    Ok(true)
}

fn padding_of(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number field: octal text, or base-256 if its first bit is set. `None` if negative or beyond `i64`.
fn numeric(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 == 0 {
        octal(field)
    } else {
        base256(field).and_then(|value| u64::try_from(value).ok())
    }
}

/// Octal digits between blanks and NULs, as Go's `parseOctal`; an empty field is 0.
fn octal(field: &[u8]) -> Option<u64> {
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

/// GNU's base-256: big-endian two's complement, the first bit being the mark and the second the sign.
fn base256(field: &[u8]) -> Option<i64> {
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

/// A PAX number: decimal digits only.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time: `[-]seconds[.fraction]`; the fraction is cut to nanoseconds, downwards.
fn parse_time(text: &[u8]) -> Option<FileTime> {
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

/// The records of a PAX header: `LENGTH KEY=VALUE\n`, LENGTH counting itself. An empty value deletes.
fn parse_pax(mut content: &[u8], offset: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, LayerError> {
    let bad = |reason: &str| broken(offset, format!("malformed PAX header: {reason}"));
    let mut records = BTreeMap::new();
    while !content.is_empty() {
        let space = content.iter().take(20).position(|&b| b == b' ').ok_or_else(|| bad("no length"))?;
        let length = decimal(&content[..space])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length > space + 2 && length <= content.len())
            .ok_or_else(|| bad("a length that does not fit"))?;
        let (record, rest) = content.split_at(length);
        let Some((b'\n', body)) = record[space + 1..].split_last() else {
            return Err(bad("a record without its line end"));
        };
        let equals = body.iter().position(|&b| b == b'=').ok_or_else(|| bad("a record without ="))?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        if key.is_empty() {
            return Err(bad("a record without a key"));
        }
        if key.contains(&0) {
            return Err(bad("a NUL in a key"));
        }
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            records.remove(key);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
        content = rest;
    }
    Ok(records)
}

/// Whether a PAX key says something about what an entry becomes.
fn changes_entries(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
        || key.starts_with(b"SCHILY.xattr.")
        || key.starts_with(b"GNU.sparse.")
}

/// `a/b/c` of `/a/./b//c/`: relative to the root whatever it starts with. `..` is refused.
fn clean_path(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("its path goes up with .."),
            _ if component.len() > MAX_COMPONENT => {
                return Err("a part of its path is longer than 255 bytes");
            }
            _ if component.contains(&0) => return Err("its path has a NUL"),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > MAX_PATH {
        return Err("its path is longer than 4,095 bytes");
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
