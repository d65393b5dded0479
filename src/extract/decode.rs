//! Compressed layer bytes in, tar bytes out: gzip with any number of members, zstd with any number of
//! frames, or nothing. The first bytes decide, not the media type, which is often wrong.

use std::io::{self, BufRead, BufReader, Read};

use super::{Budget, Held};

/// Buffer between the spool and the decoder, in bytes.
const INPUT_BUFFER: usize = 128 * 1024;

/// The largest zstd window that is decoded: 2^25 bytes = 32 MiB. That is the most that image builders use
/// (buildkit, buildah and containerd at their best level); zstd's own `--ultra` and `--long` modes go
/// further and would break the memory budget.
const MAX_WINDOW_LOG: u32 = 25;

/// What a layer's bytes are.
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

    /// By magic number: RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2 (skippable frames).
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Longest header of a zstd frame, with its magic number.
const FRAME_HEADER: usize = 18;

/// Bytes of the window that a zstd frame asks for, which its decoder keeps: RFC 8878 section 3.1.1.1. Of anything else
/// the smallest there is.
fn window_of(start: &[u8]) -> usize {
    let descriptor = start.get(4).copied().unwrap_or_default();
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = start.get(5).copied().unwrap_or_default();
        let base = 1_usize << (10 + u32::from(window >> 3)).min(MAX_WINDOW_LOG);
        return base + base / 8 * usize::from(window & 7);
    }
    // The whole content is the window; its size follows the dictionary's id.
    let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let field = start.get(at..at + length).unwrap_or_default();
    let size = field.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
    let size = if length == 2 { size + 256 } else { size };
    usize::try_from(size).unwrap_or(usize::MAX).min(1 << MAX_WINDOW_LOG)
}

/// Decodes what `input` turns out to be. A zstd decoder waits until `windows` has room for its first frame's window;
/// the frames that may follow are taken to be like it.
pub(super) fn decode(input: impl Read, windows: &Budget) -> io::Result<(Format, impl Read)> {
    let mut start = Vec::with_capacity(FRAME_HEADER);
    let mut input = input;
    // A Read may give one byte at a time.
    input.by_ref().take(FRAME_HEADER as u64).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let window = if format == Format::Zstd { window_of(&start) } else { 0 };
    let input = BufReader::with_capacity(INPUT_BUFFER, io::Cursor::new(start).chain(input));
    let decoder = match format {
        // Not GzDecoder: that one stops after the first member and silently loses the rest of estargz layers.
        Format::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Decoder::Zstd(Box::new(decoder), windows.hold(window))
        }
        Format::Plain => Decoder::Plain(input),
    };
    Ok((format, decoder))
}

enum Decoder<'b, R: BufRead> {
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(
        Box<zstd::stream::read::Decoder<'static, R>>,
        #[expect(dead_code, reason = "held until the end")] Held<'b>,
    ),
    Plain(R),
}

impl<R: BufRead> Read for Decoder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader, _) => reader.read(buffer),
            Self::Plain(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let windows = Budget::new(1 << 20);
        let (format, mut reader) = decode(Dribble(bytes), &windows)?;
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

    #[test]
    fn the_window_of_a_frame_is_told_by_its_header() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(23)).unwrap();
        encoder.write_all(&[1; 100]).unwrap();
        encoder.flush().unwrap();
        assert_eq!(window_of(&encoder.finish().unwrap()), 8 << 20);
        for size in [0, 100, 255, 256, 70_000, 300_000] {
            let frame = zstd::bulk::compress(&vec![3; size], 3).unwrap();
            assert_eq!(window_of(&frame), size, "one segment of {size} bytes");
        }
        assert_eq!(window_of(&[0x28, 0xb5, 0x2f, 0xfd, 0xff]), 0, "cut off");
        assert_eq!(window_of(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff]), (1 << 25) / 8 * 15);
    }

    #[test]
    fn a_window_beyond_the_budget_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).unwrap();
        encoder.write_all(&vec![1; 100_000]).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&vec![2; 100_000]).unwrap();
        assert!(decoded(&encoder.finish().unwrap()).is_err());
    }
}
