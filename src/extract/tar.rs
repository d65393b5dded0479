//! A streaming tar reader for hostile input: header blocks and extension records in, [`Entry`]s out.
//!
//! Reads POSIX ustar and PAX, GNU (long names, base-256 numbers), star and v7 headers. Where these disagree,
//! the rules are those of Go's `archive/tar`, by which Docker, containerd and umoci read layers, so that a
//! layer means the same here and there: a PAX `size` wins over the header's (CVE-2025-62518 is what happens
//! otherwise), links and devices carry no data, two zero blocks end the archive and nothing after them is
//! parsed. What Go reads in a surprising way is refused here.
//!
//! Sparse files are read whole, their holes as zeros ([`sparse`]).
//!
//! Sources: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format", Go `archive/tar/reader.go`.

mod numbers;
mod sparse;

use std::collections::BTreeMap;

use self::numbers::{base256, decimal, numeric, octal, parse_time};
use super::paths::{MAX_NAME, MAX_PATH, show};
use crate::error::LayerError;
use crate::sys::FileTime;

/// Bytes of a header block; everything in a tar is a multiple of it.
pub(super) const BLOCK: usize = 512;
/// Longest extension record (PAX header, GNU long name), as Go's `maxSpecialFileSize`.
const MAX_EXTENSION: u64 = 1 << 20;

/// Where uncompressed tar bytes come from.
pub(super) trait Source {
    /// The next bytes, at most `limit`; empty at the end.
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError>;

    /// Bytes taken so far.
    fn position(&self) -> u64;
}

/// The next piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Data<'a> {
    /// Bytes of the archive; never none.
    Bytes(&'a [u8]),
    /// So many zeros of which the archive has nothing.
    Zeros(u64),
    /// It is all taken.
    End,
}

/// What an entry becomes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A regular file of so many bytes, which follow in the stream but for its holes.
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
    /// Bytes of a file that are not in the archive.
    pub(super) holes: u64,
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
    sparse: Option<sparse::Content>,
    ended: bool,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { data_left: 0, padding: 0, sparse: None, ended: false }
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
            (self.data_left, self.padding, self.sparse) = (0, 0, None);
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
                _ => return self.entry(&header, extensions, source).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data.
    pub(super) fn data<'a>(&mut self, source: &'a mut impl Source) -> Result<Data<'a>, LayerError> {
        let wanted = match self.sparse.as_mut().map(sparse::Content::next) {
            None if self.data_left == 0 => return Ok(Data::End),
            None => self.data_left,
            Some(sparse::Next::Data(count)) => count,
            Some(sparse::Next::Zeros(count)) => return Ok(Data::Zeros(count)),
            Some(sparse::Next::End) => return Ok(Data::End),
        };
        let position = source.position();
        let piece = source.take(usize::try_from(wanted).unwrap_or(usize::MAX))?;
        if piece.is_empty() {
            return Err(broken(position, "the archive ends in the middle of a file"));
        }
        self.data_left -= piece.len() as u64;
        if let Some(content) = &mut self.sparse {
            content.taken(piece.len() as u64);
        }
        Ok(Data::Bytes(piece))
    }

    /// Finds out what a file's data is: all of it, or the parts of a sparse one. Returns its size and that of its
    /// holes.
    fn begin_file(
        &mut self,
        stored: u64,
        form: Option<sparse::Form>,
        source: &mut impl Source,
        refuse: impl Fn(&str) -> LayerError,
    ) -> Result<(u64, u64), LayerError> {
        (self.data_left, self.padding) = (stored, padding_of(stored));
        let map = match form {
            None => return Ok((stored, 0)),
            Some(sparse::Form::Read(map)) => map,
            Some(sparse::Form::BeforeData { real }) => {
                let (map, used) = sparse::Map::before_data(real, stored, source, &refuse)?;
                self.data_left -= used;
                map
            }
        };
        if map.data != self.data_left {
            return Err(refuse("a sparse file with more or less data than its parts have"));
        }
        let size = (map.real, map.holes());
        self.sparse = Some(sparse::Content::new(map));
        Ok(size)
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        extensions: Extensions,
        source: &mut impl Source,
    ) -> Result<Entry, LayerError> {
        let Extensions { mut pax, gnu_name, gnu_link, .. } = extensions;
        let sparse_name = sparse::take_name(&mut pax);
        let raw_name =
            sparse_name.or(gnu_name).or_else(|| pax.remove(&b"path"[..])).unwrap_or_else(|| header.name());
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
            b'0' | b'7' | b'S' | 0 => EntryKind::File { size },
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
        let mut form = sparse::form(&pax).map_err(&refuse)?;
        let (kind, holes) = match kind {
            EntryKind::File { size } => {
                if header.type_flag() == b'S' {
                    form = Some(sparse::Form::Read(sparse::Map::old_gnu(header.block, source, refuse)?));
                }
                let (size, holes) = self.begin_file(size, form, source, refuse)?;
                (EntryKind::File { size }, holes)
            }
            _ if form.is_some() => return Err(refuse("a sparse file that is no file")),
            kind => (kind, 0),
        };
        let xattrs = pax
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
            .collect();
        Ok(Entry { path, kind, holes, mode, uid, gid, modified, xattrs })
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

/// The records of a PAX header: `LENGTH KEY=VALUE\n`, LENGTH counting itself. An empty value deletes.
fn parse_pax(mut content: &[u8], offset: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, LayerError> {
    let bad = |reason: &str| broken(offset, format!("malformed PAX header: {reason}"));
    let mut records = BTreeMap::new();
    let (mut map, mut numbers) = (Vec::new(), 0_u64);
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
        // Sparse files of form 0.0 repeat these; put together they are what form 0.1 has.
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            let wanted: &[u8] =
                if numbers.is_multiple_of(2) { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
            if key != wanted || value.contains(&b',') {
                return Err(bad("a map of a sparse file that is none"));
            }
            if numbers > 0 {
                map.push(b',');
            }
            map.extend_from_slice(value);
            numbers += 1;
        } else if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            records.remove(key);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
        content = rest;
    }
    if numbers > 0 {
        records.insert(b"GNU.sparse.map".to_vec(), map);
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
            _ if component.len() > MAX_NAME => {
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
