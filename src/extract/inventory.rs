//! The inventory of a layer: what extraction put on disk, entry by entry, so that it can be checked
//! later.
//!
//! An inventory is one zstd stream: a line that names the format, then one item for each thing that
//! was done, in the order in which it was done, then totals. An item replaces what its path was
//! before, and one that is no directory also all that was below. A hard link whose target has not
//! come is two items: the name that it takes at once, and the link when it is made. So whoever
//! reads an inventory plays it back and decides nothing. Paths are stored without symlinks on their
//! way, as what differs from the path before, numbers as LEB128 varints; with that an inventory is
//! about 2 % of its layer.
//!
//! Content is recorded as XXH3-128. That is no defence against somebody who can write to the store
//! (he could write the inventory too), but finds every accident, and costs a tenth of SHA-256. What
//! came from the registry has passed SHA-256 before it is recorded.
//!
//! The end of the file, of fixed length so that it is found without reading the rest, are the
//! layer's [`LayerFacts`]: an image that comes later and says something else of the same blob is
//! wrong. For zstd they are a skippable frame (RFC 8878 section 3.1.2).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use crate::digest::DiffId;
use crate::error::LayerError;
use crate::state::LayerFacts;
use crate::sys::FileTime;

pub(super) const MAGIC: &[u8] = b"msb-sync layer record 1\n";
/// The longest path, link target or xattr that an inventory may hold; more is a damaged inventory.
const MAX_BYTES: u64 = 1 << 20;
/// The most xattrs that an entry of an inventory may have; more is a damaged inventory.
const MAX_XATTRS: u64 = 1 << 16;
/// The most bytes that all xattrs of an entry may have; a tar can hold less than half of that.
const MAX_XATTR_BYTES: usize = 4 << 20;
/// Inventories are mostly short deltas: the fastest level loses little.
const LEVEL: i32 = 1;
/// The header of the facts' frame, and the length of what follows it, padded with blanks: enough
/// for a SHA-512 and any number.
const FACTS_HEADER: [u8; 8] = [0x5a, 0x2a, 0x4d, 0x18, 192, 0, 0, 0];
const FACTS_LENGTH: usize = 192;

/// The type of an entry on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InventoryKind {
    /// A regular file (also one that stands for a device or fifo).
    File {
        /// The size in bytes.
        size: u64,
        /// The XXH3-128 of the content.
        hash: u128,
    },
    /// A directory.
    Directory,
    /// A symlink.
    Symlink {
        /// The text of the symlink.
        target: Vec<u8>,
    },
    /// A hard link: another name of an inode.
    HardLink {
        /// The path of the entry it was made from.
        target: Vec<u8>,
    },
    /// A hard link that waits for its target: the name is taken, and nothing is there yet.
    WaitingLink {
        /// The path of the entry that it waits for.
        target: Vec<u8>,
    },
}

/// One entry of a layer as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InventoryEntry {
    /// The path relative to the layer directory; empty for the directory itself.
    pub path: Vec<u8>,
    /// The type, with what belongs to it.
    pub kind: InventoryKind,
    /// The permission bits on disk.
    pub mode: u32,
    /// The modification time; `None` where the tar said nothing (parents made implicitly).
    pub modified: Option<FileTime>,
    /// The extended attributes set on disk, in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The sums over all entries of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of entries of the tar.
    pub entries: u64,
    /// The bytes of file content.
    pub content_bytes: u64,
    /// The bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// The number of extended attributes of the tar that are never set on the host (`security.*`,
    /// …).
    pub dropped_xattrs: u64,
}

const END: u8 = 0;
const FILE: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const HARD_LINK: u8 = 4;
const WAITING_LINK: u8 = 5;

/// Writes an inventory.
pub(super) struct InventoryWriter<W: Write> {
    out: zstd::stream::write::Encoder<'static, W>,
    last_path: Vec<u8>,
    buffer: Vec<u8>,
    items: u32,
}

impl<W: Write> InventoryWriter<W> {
    pub(super) fn new(file: W) -> io::Result<Self> {
        let mut out = zstd::stream::write::Encoder::new(file, LEVEL)?;
        out.write_all(MAGIC)?;
        Ok(Self { out, last_path: Vec::new(), buffer: Vec::new(), items: 0 })
    }

    /// Counts the items written so far.
    pub(super) fn items(&self) -> u32 {
        self.items
    }

    pub(super) fn entry(&mut self, entry: &InventoryEntry) -> io::Result<()> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.push(match entry.kind {
            InventoryKind::File { .. } => FILE,
            InventoryKind::Directory => DIRECTORY,
            InventoryKind::Symlink { .. } => SYMLINK,
            InventoryKind::HardLink { .. } => HARD_LINK,
            InventoryKind::WaitingLink { .. } => WAITING_LINK,
        });
        let shared = self.last_path.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
        put_number(buffer, shared as u64);
        put_bytes(buffer, &entry.path[shared..]);
        put_number(buffer, u64::from(entry.mode));
        match entry.modified {
            None => buffer.push(0),
            Some(time) => {
                buffer.push(1);
                put_number(buffer, zigzag(time.seconds));
                put_number(buffer, u64::from(time.nanoseconds));
            }
        }
        put_number(buffer, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            put_bytes(buffer, name);
            put_bytes(buffer, value);
        }
        match &entry.kind {
            InventoryKind::File { size, hash } => {
                put_number(buffer, *size);
                buffer.extend_from_slice(&hash.to_le_bytes());
            }
            InventoryKind::Directory => {}
            InventoryKind::Symlink { target }
            | InventoryKind::HardLink { target }
            | InventoryKind::WaitingLink { target } => put_bytes(buffer, target),
        }
        self.last_path.truncate(shared);
        self.last_path.extend_from_slice(&entry.path[shared..]);
        self.items = self.items.checked_add(1).ok_or_else(|| io::Error::other("too many entries"))?;
        self.out.write_all(buffer)
    }

    pub(super) fn finish(mut self, totals: Totals, facts: &LayerFacts) -> io::Result<W> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.push(END);
        for number in [totals.entries, totals.content_bytes, totals.tar_bytes, totals.dropped_xattrs] {
            put_number(buffer, number);
        }
        self.out.write_all(buffer)?;
        let mut file = self.out.finish()?;
        file.write_all(&facts_frame(facts))?;
        Ok(file)
    }
}

impl InventoryWriter<File> {
    /// Reads the items that were written so far; more may be written meanwhile.
    pub(super) fn so_far(&mut self) -> io::Result<InventoryReader<FromStart>> {
        self.out.flush()?;
        let mut reader = InventoryReader::of(self.out.get_ref())?;
        reader.left = Some(self.items);
        Ok(reader)
    }
}

/// A file from its first byte on, whatever the position of its handle.
pub(crate) struct FromStart {
    file: File,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Writes the end of an inventory.
pub(super) fn facts_frame(facts: &LayerFacts) -> Vec<u8> {
    let text = format!("{} {}\n", facts.diff_id, facts.size);
    [&FACTS_HEADER, format!("{text:FACTS_LENGTH$}").as_bytes()].concat()
}

/// Reads the facts at the end of an inventory; `None` if it is damaged, or of another version.
pub(crate) fn read_facts(inventory: &mut (impl Read + Seek)) -> Option<LayerFacts> {
    let mut frame = [0; FACTS_HEADER.len() + FACTS_LENGTH];
    inventory.seek(SeekFrom::End(-i64::try_from(frame.len()).ok()?)).ok()?;
    inventory.read_exact(&mut frame).ok()?;
    let text = std::str::from_utf8(frame.strip_prefix(&FACTS_HEADER)?).ok()?;
    let (diff_id, size) = text.trim_end_matches(' ').strip_suffix('\n')?.split_once(' ')?;
    Some(LayerFacts { diff_id: DiffId::parse(diff_id).ok()?, size: size.parse().ok()? })
}

/// Reads an inventory, entry by entry.
pub(crate) struct InventoryReader<R: Read> {
    input: BufReader<zstd::stream::read::Decoder<'static, BufReader<R>>>,
    path: Vec<u8>,
    totals: Option<Totals>,
    /// The items that are left to read, where the inventory has no end yet.
    left: Option<u32>,
}

impl InventoryReader<FromStart> {
    /// Starts to read a file's inventory; the file may be read elsewhere at the same time.
    ///
    /// # Errors
    /// As [`InventoryReader::new`]; no descriptor can be had.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Self::new(FromStart { file: file.try_clone()?, at: 0 })
    }
}

impl<R: Read> InventoryReader<R> {
    /// Starts to read an inventory.
    ///
    /// # Errors
    /// `InvalidData` if it is not an inventory of a known version.
    pub(crate) fn new(file: R) -> io::Result<Self> {
        let mut input = BufReader::new(zstd::stream::read::Decoder::new(file)?);
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("not a layer record of a known version"));
        }
        Ok(Self { input, path: Vec::new(), totals: None, left: None })
    }

    /// Reads the next entry; `None` after the last one.
    ///
    /// # Errors
    /// An inventory that is cut off or damaged.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<InventoryEntry>> {
        if self.totals.is_some() || self.left == Some(0) {
            return Ok(None);
        }
        self.left = self.left.map(|left| left - 1);
        let kind = self.byte()?;
        if kind == END {
            self.totals = Some(Totals {
                entries: self.number()?,
                content_bytes: self.number()?,
                tar_bytes: self.number()?,
                dropped_xattrs: self.number()?,
            });
            return Ok(None);
        }
        let shared = usize::try_from(self.number()?).map_err(|_| damaged("a path"))?;
        if shared > self.path.len() {
            return Err(damaged("a path"));
        }
        self.path.truncate(shared);
        let rest = self.bytes()?;
        self.path.extend_from_slice(&rest);
        let mode = u32::try_from(self.number()?).map_err(|_| damaged("a mode"))?;
        let modified = match self.byte()? {
            0 => None,
            1 => Some(FileTime {
                seconds: unzigzag(self.number()?),
                nanoseconds: u32::try_from(self.number()?).map_err(|_| damaged("a time"))?,
            }),
            _ => return Err(damaged("a time")),
        };
        let mut xattrs = Vec::new();
        let count = self.number()?;
        if count > MAX_XATTRS {
            return Err(damaged("too many extended attributes"));
        }
        let mut bytes = 0;
        for _ in 0..count {
            let (name, value) = (self.bytes()?, self.bytes()?);
            bytes += name.len() + value.len();
            if bytes > MAX_XATTR_BYTES {
                return Err(damaged("too large extended attributes"));
            }
            xattrs.push((name, value));
        }
        let kind = match kind {
            FILE => {
                let size = self.number()?;
                let mut hash = [0; 16];
                self.input.read_exact(&mut hash)?;
                InventoryKind::File { size, hash: u128::from_le_bytes(hash) }
            }
            DIRECTORY => InventoryKind::Directory,
            SYMLINK => InventoryKind::Symlink { target: self.bytes()? },
            HARD_LINK => InventoryKind::HardLink { target: self.bytes()? },
            WAITING_LINK => InventoryKind::WaitingLink { target: self.bytes()? },
            _ => return Err(damaged("an unknown kind of entry")),
        };
        Ok(Some(InventoryEntry { path: self.path.clone(), kind, mode, modified, xattrs }))
    }

    /// Gives the totals, once [`InventoryReader::next_entry`] has returned `None`.
    pub(crate) fn totals(&self) -> Option<Totals> {
        self.totals
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = *self.input.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.input.consume(1);
        Ok(byte)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number"))
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > MAX_BYTES {
            return Err(damaged("a length"));
        }
        let mut bytes = Vec::new();
        if (&mut self.input).take(length).read_to_end(&mut bytes)? as u64 == length {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// Makes the error of an inventory that cannot be written, or read while its layer is extracted.
pub(super) fn inventory_failed(source: io::Error) -> LayerError {
    LayerError::Write { doing: "write the record of", entry: "the layer".to_owned(), source }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged layer record: {what}"))
}

fn put_number(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    buffer.push(value.to_le_bytes()[0]);
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_number(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Algorithm;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = InventoryEntry> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let kind = prop_oneof![
            (any::<u64>(), any::<u128>()).prop_map(|(size, hash)| InventoryKind::File { size, hash }),
            Just(InventoryKind::Directory),
            bytes().prop_map(|target| InventoryKind::Symlink { target }),
            bytes().prop_map(|target| InventoryKind::HardLink { target }),
            bytes().prop_map(|target| InventoryKind::WaitingLink { target }),
        ];
        let time = (any::<i64>(), 0_u32..1_000_000_000)
            .prop_map(|(seconds, nanoseconds)| FileTime { seconds, nanoseconds });
        (
            bytes(),
            kind,
            0_u32..0o10_000,
            proptest::option::of(time),
            proptest::collection::vec((bytes(), bytes()), 0..3),
        )
            .prop_map(|(path, kind, mode, modified, xattrs)| InventoryEntry {
                path,
                kind,
                mode,
                modified,
                xattrs,
            })
    }

    fn read(bytes: &[u8]) -> io::Result<(Vec<InventoryEntry>, Option<Totals>)> {
        let mut reader = InventoryReader::new(bytes)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok((entries, reader.totals()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in proptest::collection::vec(entry(), 0..20)) {
            let totals = Totals { entries: 1, content_bytes: 300, tar_bytes: u64::MAX, dropped_xattrs: 0 };
            let mut writer = InventoryWriter::new(Vec::new()).unwrap();
            for entry in &entries {
                writer.entry(entry).unwrap();
            }
            let diff_id = DiffId::of(Algorithm::Sha512, b"");
            let facts = LayerFacts { diff_id, size: totals.tar_bytes };
            let bytes = writer.finish(totals, &facts).unwrap();
            prop_assert_eq!(read(&bytes).unwrap(), (entries, Some(totals)));
            prop_assert_eq!(usize::from(FACTS_HEADER[4]), FACTS_LENGTH);
            prop_assert_eq!(read_facts(&mut io::Cursor::new(&bytes)), Some(facts));
            for cut in [1, FACTS_LENGTH, bytes.len() - 1] {
                prop_assert_eq!(read_facts(&mut io::Cursor::new(&bytes[..bytes.len() - cut])), None);
            }
            let end = bytes.len() - FACTS_HEADER.len() - FACTS_LENGTH;
            prop_assert!(read(&bytes[..end - 1]).is_err());
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            stream.write_all(MAGIC).unwrap();
            stream.write_all(&body).unwrap();
            let _ = read(&stream.finish().unwrap());
            prop_assert!(read(&body).is_err());
        }
    }
}
