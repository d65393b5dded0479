//! Sparse files: which parts of a file its data is, in the four forms that there are.
//!
//! GNU tar's old form has a type of its own, `S`, and its map in the header and in blocks that
//! follow it. The PAX forms 0.0 and 0.1 have the map in their records, 1.0 has it before the data;
//! bsdtar writes 1.0 unasked. The rules are those of Go's `archive/tar`: parts in order that do not
//! overlap, inside the file, and as many bytes of data as they say. A map is read as it comes, and
//! what it may be as text bounds the memory for it.
//!
//! Sources: GNU tar manual "Sparse Formats" and "Storing Sparse Files", Go `archive/tar/reader.go`.

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::extensions::{MAX_EXTENSION, Records};
use super::numbers::{decimal, numeric};
use super::source::{BLOCK, Source, read_block};
use crate::error::LayerError;

/// The place of a map.
pub(super) enum Form {
    /// The map was read already.
    Read(Map),
    /// The map begins the data.
    BeforeData {
        /// The bytes of the whole file.
        real: u64,
    },
}

/// The parts of a file that are data, in order, without empty ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    parts: Vec<(u64, u64)>,
    /// The end of the last part.
    end: u64,
    /// The bytes of all parts.
    pub(super) data: u64,
    /// The bytes of the whole file.
    pub(super) real: u64,
}

impl Map {
    fn new(real: u64) -> Self {
        Self { parts: Vec::new(), end: 0, data: 0, real }
    }

    /// Adds a part.
    fn add(&mut self, offset: u64, length: u64) -> Result<(), &'static str> {
        let end = offset.checked_add(length).filter(|&end| end <= self.real);
        let end = end.ok_or("a sparse file with data beyond its end")?;
        if offset < self.end {
            return Err("a sparse file whose parts overlap, or are not in order");
        }
        self.end = end;
        self.data += length;
        if length > 0 {
            self.parts.push((offset, length));
        }
        Ok(())
    }

    /// Adds the parts of a header of GNU's; the first one that is empty is the end.
    fn add_all(&mut self, parts: &[GnuSparseHeader]) -> Result<(), &'static str> {
        for part in parts.iter().take_while(|part| part.offset[0] != 0) {
            self.add(map_number(&part.offset)?, map_number(&part.numbytes)?)?;
        }
        Ok(())
    }

    /// Counts the bytes that are no data.
    pub(super) fn holes(&self) -> u64 {
        self.real - self.data
    }

    /// Starts the map of a file of `real` bytes, of which the tar has no more than this number.
    fn of_size(real: u64) -> Result<Self, &'static str> {
        if real > i64::MAX as u64 {
            Err("a sparse file larger than any file can be")
        } else {
            Ok(Self::new(real))
        }
    }

    /// Reads the map of GNU's old form, from the header and the blocks that follow it.
    pub(super) fn old_gnu(
        header: Option<&GnuHeader>,
        source: &mut impl Source,
        refuse: impl Fn(&str) -> LayerError,
    ) -> Result<Self, LayerError> {
        let header = header.ok_or_else(|| refuse("a sparse file in a header that is not GNU's"))?;
        let mut map = Self::of_size(map_number(&header.realsize).map_err(&refuse)?).map_err(&refuse)?;
        map.add_all(&header.sparse).map_err(&refuse)?;
        let mut goes_on = header.isextended != [0];
        let mut read = 0;
        while goes_on {
            read += BLOCK as u64;
            if read > MAX_EXTENSION {
                return Err(refuse("a sparse file whose map is larger than 1 MiB"));
            }
            let block = read_block(source)?.ok_or_else(|| refuse("a sparse file whose map is cut off"))?;
            let mut more = GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(&block);
            map.add_all(&more.sparse).map_err(&refuse)?;
            goes_on = more.isextended != [0];
        }
        Ok(map)
    }

    /// Reads a map that begins the data of `size` bytes, and tells how many bytes it took.
    pub(super) fn before_data(
        real: u64,
        size: u64,
        source: &mut impl Source,
        refuse: impl Fn(&str) -> LayerError,
    ) -> Result<(Self, u64), LayerError> {
        let mut map = Self::of_size(real).map_err(&refuse)?;
        let (mut used, mut block, mut at) = (0, [0; BLOCK], BLOCK);
        let mut number = || {
            let mut value: Option<u64> = None;
            loop {
                if at == BLOCK {
                    if used + BLOCK as u64 > size {
                        return Err(refuse("a sparse file whose map is cut off"));
                    }
                    if used >= MAX_EXTENSION {
                        return Err(refuse("a sparse file whose map is larger than 1 MiB"));
                    }
                    block =
                        read_block(source)?.ok_or_else(|| refuse("a sparse file whose map is cut off"))?;
                    used += BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                let digit = match (byte, value) {
                    (b'\n', Some(value)) => return Ok((value, used)),
                    (b'0'..=b'9', _) => u64::from(byte - b'0'),
                    _ => return Err(refuse("a sparse file whose map has no number")),
                };
                let longer = value.unwrap_or(0).checked_mul(10).and_then(|value| value.checked_add(digit));
                value = Some(longer.ok_or_else(|| refuse("a sparse file whose map has no number"))?);
            }
        };
        let (count, mut taken) = number()?;
        for _ in 0..count {
            let (offset, _) = number()?;
            let (length, used) = number()?;
            map.add(offset, length).map_err(&refuse)?;
            taken = used;
        }
        Ok((map, taken))
    }
}

/// Reads a number of a map in a header of GNU's.
fn map_number(field: &[u8]) -> Result<u64, &'static str> {
    numeric(field).ok_or("a sparse file whose map has no number")
}

/// Takes the name that the records of an entry have for a sparse file.
pub(super) fn take_name(pax: &mut Records) -> Option<Vec<u8>> {
    pax.remove(&b"GNU.sparse.name"[..]).filter(|name| !name.is_empty())
}

/// Reads what the records of an entry say of a sparse file; `None` if they say nothing.
pub(super) fn form(pax: &Records) -> Result<Option<Form>, &'static str> {
    if !pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
        return Ok(None);
    }
    let get = |key: &str| pax.get(format!("GNU.sparse.{key}").as_bytes());
    let number = |value: &Vec<u8>| decimal(value).ok_or("a sparse file whose map has no number");
    let real = get("size").or_else(|| get("realsize")).ok_or("a sparse file that does not say its size")?;
    let real = number(real)?;
    let version = (get("major").map(Vec::as_slice), get("minor").map(Vec::as_slice));
    match version {
        (Some(b"1"), Some(b"0")) => return Ok(Some(Form::BeforeData { real })),
        (Some(b"0"), Some(b"0" | b"1")) | (None, None) => {}
        _ => return Err("a sparse file of a form that msb-sync does not know"),
    }
    let count = number(get("numblocks").ok_or("a sparse file that does not say how many parts it has")?)?;
    let mut map = Map::of_size(real)?;
    let text = get("map").map(Vec::as_slice).unwrap_or_default();
    let mut numbers = text.split(|&byte| byte == b',').filter(|_| !text.is_empty());
    let mut parts = 0;
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or("a sparse file whose map ends within a part")?;
        map.add(number(&offset.to_vec())?, number(&length.to_vec())?)?;
        parts += 1;
    }
    if parts == count {
        Ok(Some(Form::Read(map)))
    } else {
        Err("a sparse file with more or fewer parts than it says")
    }
}

/// A sparse file while its content is read.
pub(super) struct Content {
    parts: std::vec::IntoIter<(u64, u64)>,
    /// The start of the next part, and its bytes that are still to come.
    part: Option<(u64, u64)>,
    at: u64,
    real: u64,
}

/// The bytes of a sparse file that come next.
pub(super) enum Next {
    Data(u64),
    Zeros(u64),
    End,
}

impl Content {
    pub(super) fn new(map: Map) -> Self {
        let mut parts = map.parts.into_iter();
        Self { part: parts.next(), parts, at: 0, real: map.real }
    }

    pub(super) fn next(&mut self) -> Next {
        let (at, until) = (self.at, self.part.map_or(self.real, |(offset, _)| offset));
        if at < until {
            self.at = until;
            return Next::Zeros(until - at);
        }
        self.part.map_or(Next::End, |(_, length)| Next::Data(length))
    }

    /// Notes that so many bytes of the data that comes next were taken.
    pub(super) fn taken(&mut self, count: u64) {
        self.at += count;
        self.part = match self.part {
            Some((offset, length)) if count < length => Some((offset + count, length - count)),
            _ => self.parts.next(),
        };
    }
}
