//! Compressed layer bytes in, tar bytes out: gzip with any number of members, zstd with any number
//! of frames, or nothing. The first bytes decide, not the media type, which is often wrong.

mod frames;

use std::io::{self, BufRead, BufReader, Read};

pub(super) use self::frames::Windows;
use self::frames::{Frames, is_zstd};

/// The size of the buffer between the spool and the decoder, in bytes.
const INPUT_BUFFER: usize = 128 * 1024;
/// The number of bytes that tell a format.
const MAGIC: usize = 10;

/// The format of a layer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    Zstd,
    Plain,
}

impl Format {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Plain => "plain tar",
        }
    }

    /// Tells the format by its magic number: RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and
    /// 3.1.2 (skippable frames).
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            _ if is_zstd(start) => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Names the compression by which bytes begin that layers may not have, by its magic number; a tar
/// may begin with a file of nearly any name, so that of bzip2 takes in the first block's.
fn foreign_compression(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Some("bzip2"),
        _ => None,
    }
}

/// Decodes what `input`, of about `size` bytes, turns out to be. A zstd decoder waits at each frame
/// until `windows` has room for its window.
pub(super) fn decode(input: impl Read, size: u64, windows: &Windows) -> io::Result<(Format, impl Read)> {
    let mut start = Vec::with_capacity(MAGIC);
    let mut input = input;
    // A Read may give one byte at a time.
    input.by_ref().take(MAGIC as u64).read_to_end(&mut start)?;
    if let Some(name) = foreign_compression(&start) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is compressed with {name}")));
    }
    let format = Format::of(&start);
    let capacity = usize::try_from(size).map_or(INPUT_BUFFER, |size| size.clamp(MAGIC, INPUT_BUFFER));
    let input = BufReader::with_capacity(capacity, io::Cursor::new(start).chain(input));
    let decoder = match format {
        // Not GzDecoder: that one stops after the first member and silently loses the rest of
        // estargz layers.
        Format::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Format::Zstd => Decoder::Zstd(Frames::new(input, windows)),
        Format::Plain => Decoder::Plain(input),
    };
    Ok((format, decoder))
}

enum Decoder<'b, R: BufRead> {
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Frames<'b, R>),
    Plain(R),
}

impl<R: BufRead> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(reader) => reader.read(buffer).map_err(|error| match error.kind() {
                // The decoder says the same of both.
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "the data is cut off, or something else follows its end")
                }
                _ => error,
            }),
            Self::Zstd(reader) => reader.read(buffer),
            Self::Plain(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use std::io::Write;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_of(content: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(content, 3).unwrap()
    }

    /// Gives one byte a read, as a slow socket would.
    struct Dribble<'a>(&'a [u8]);
    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(1).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn decoded(bytes: &[u8]) -> io::Result<(Format, Vec<u8>)> {
        let windows = Windows::new(&Cancel::new());
        let (format, mut reader) = decode(Dribble(bytes), bytes.len() as u64, &windows)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((format, out))
    }

    #[test]
    fn every_member_and_frame_is_decoded_whatever_the_label_says() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(decoded(&members).unwrap(), (Format::Gzip, b"one two".to_vec()));
        let skippable =
            [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9][..], &zstd_of(b"one "), &zstd_of(b"two")]
                .concat();
        assert_eq!(decoded(&skippable).unwrap(), (Format::Zstd, b"one two".to_vec()));
        assert_eq!(decoded(b"plain").unwrap(), (Format::Plain, b"plain".to_vec()));
        assert_eq!(decoded(b"").unwrap(), (Format::Plain, Vec::new()));
    }

    #[test]
    fn a_compression_that_layers_may_not_have_is_named() {
        let bzip2 = |magic: &[u8]| [b"BZh9", magic, b"more"].concat();
        for (start, name) in [
            (b"\xfd7zXZ\0\0\x04more".to_vec(), "xz"),
            (bzip2(b"1AY&SY"), "bzip2"),
            (bzip2(b"\x17rE8P\x90"), "bzip2"),
        ] {
            let error = decoded(&start).unwrap_err().to_string();
            assert_eq!(error, format!("it is compressed with {name}"));
        }
        assert_eq!(decoded(b"BZh9.txt").unwrap().0, Format::Plain);
    }

    #[test]
    fn what_follows_a_gzip_stream_is_told() {
        let error = decoded(&[&gzip(b"content")[..], b"garbage"].concat()).unwrap_err().to_string();
        assert_eq!(error, "the data is cut off, or something else follows its end");
    }

    #[test]
    fn broken_streams_are_errors() {
        for good in [gzip(&[7; 5000]), zstd_of(&[7; 5000])] {
            for cut in 5..good.len() {
                assert!(decoded(&good[..cut]).is_err(), "cut at {cut} of {}", good.len());
            }
            assert!(decoded(&[&good[..], b"garbage"].concat()).is_err());
        }
        let mut wrong_checksum = gzip(b"content");
        let crc = wrong_checksum.len() - 8;
        wrong_checksum[crc] ^= 1;
        assert!(decoded(&wrong_checksum).is_err());
    }
}
