//! zstd, frame by frame (RFC 8878), so that each frame's window counts against the memory of all
//! layers.
//!
//! A frame's header says how large a window its decoder keeps, and every frame may say something
//! else. Windows up to [`SHARED`] bytes share that much memory. Larger ones, as `zstd --ultra -22`
//! and `--long=27` make them, take turns: one at a time. A decoder gives back what it has before it
//! waits for more, so that no two of them wait for each other; what it waits for ends with the
//! frame of another layer, or with the run.

use std::io::{self, BufRead, ErrorKind, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use crate::cancel::Cancel;
use crate::extract::budget::{Budget, Held};

/// The largest window that is decoded: 2^27 bytes = 128 MiB, which is what `zstd -d` takes by
/// itself.
const MAX_WINDOW_LOG: u32 = 27;
const MAX_WINDOW: u64 = 1 << MAX_WINDOW_LOG;
/// The memory for the windows of all layers together, in bytes; one larger window comes on top.
const SHARED: usize = 16 << 20;

/// The memory for the windows of zstd decoders, all layers together.
#[derive(Debug)]
pub(in crate::extract) struct Windows {
    shared: Budget,
    /// The turn to have a larger window, which one decoder at a time has.
    large: Budget,
    cancel: Cancel,
}

impl Windows {
    /// Makes the memory free. Thrown, `cancel` ends all waiting.
    pub(in crate::extract) fn new(cancel: &Cancel) -> Self {
        Self { shared: Budget::new(SHARED), large: Budget::new(1), cancel: cancel.clone() }
    }

    fn hold(&self, bytes: usize) -> io::Result<Held<'_>> {
        let held = if bytes > SHARED {
            self.large.hold_unless(1, &self.cancel)
        } else {
            self.shared.hold_unless(bytes, &self.cancel)
        };
        held.ok_or_else(|| io::Error::other("stopped"))
    }
}

/// True if a frame begins with these bytes: one of data, or one to skip.
pub(super) fn is_zstd(start: &[u8]) -> bool {
    is_data(start) || is_skippable(start)
}

fn is_data(start: &[u8]) -> bool {
    start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Decodes one frame after the other.
pub(super) struct Frames<'w, R> {
    input: R,
    /// The header of the frame, as far as the decoder has not taken it yet.
    header: Vec<u8>,
    in_frame: bool,
    /// The decoder, and the memory that it may use.
    current: Option<Current<'w>>,
    windows: &'w Windows,
}

struct Current<'w> {
    decoder: Decoder<'static>,
    window: usize,
    /// The part of the memory that the decoder uses; dropped after the decoder.
    #[expect(dead_code, reason = "held as long as the decoder")]
    held: Held<'w>,
}

impl<'w, R: BufRead> Frames<'w, R> {
    pub(super) fn new(input: R, windows: &'w Windows) -> Self {
        Self { input, header: Vec::new(), in_frame: false, current: None, windows }
    }

    /// Reads `count` more bytes of the header.
    fn more(&mut self, count: usize) -> io::Result<()> {
        let start = self.header.len();
        self.header.resize(start + count, 0);
        self.input.read_exact(&mut self.header[start..])
    }

    /// Begins the next frame that has data; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            self.header.clear();
            loop {
                match self.input.fill_buf() {
                    Ok([]) => return Ok(false),
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.more(4)?;
            if !is_skippable(&self.header) {
                break;
            }
            self.more(4)?;
            let length = u32::from_le_bytes([self.header[4], self.header[5], self.header[6], self.header[7]]);
            let skipped = io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink())?;
            if skipped < length.into() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if !is_data(&self.header) {
            return Err(io::Error::new(ErrorKind::InvalidData, "what follows a frame is no frame"));
        }
        let window = self.window()?;
        // No more than has to be is kept while this one waits: nothing at all.
        if self.current.as_ref().is_none_or(|current| current.window < window) {
            self.current = None;
            let held = self.windows.hold(window)?;
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
            self.current = Some(Current { decoder, window, held });
        } else if let Some(current) = &mut self.current {
            current.decoder.reinit()?;
        }
        self.in_frame = true;
        Ok(true)
    }

    /// Reads the rest of a frame's header. Bytes of the window that its decoder keeps: RFC 8878
    /// section 3.1.1.1.
    fn window(&mut self) -> io::Result<usize> {
        self.more(1)?;
        let descriptor = self.header[4];
        let single_segment = descriptor & 0x20 != 0;
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content = match descriptor >> 6 {
            0 => usize::from(single_segment),
            log => 1 << log,
        };
        self.more(usize::from(!single_segment) + dictionary + content)?;
        let fields = &self.header[5..];
        let (window, fields) = if single_segment {
            // The whole content is the window.
            let size =
                fields[dictionary..].iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
            (if content == 2 { size + 256 } else { size }, fields)
        } else {
            let base = 1_u64 << (10 + (fields[0] >> 3));
            (base + base / 8 * u64::from(fields[0] & 7), &fields[1..])
        };
        if fields[..dictionary].iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a frame needs a dictionary, which no layer has",
            ));
        }
        match usize::try_from(window) {
            Ok(size) if window <= MAX_WINDOW => Ok(size),
            _ => Err(io::Error::new(
                ErrorKind::InvalidData,
                format!(
                    "a frame needs a window of {} MiB; at most {} MiB are decoded",
                    window.div_ceil(1 << 20),
                    MAX_WINDOW >> 20
                ),
            )),
        }
    }

    /// Decodes a piece of the frame.
    fn decode(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(current) = &mut self.current else { return Ok(0) };
        let (bytes, of_header) =
            if self.header.is_empty() { (self.input.fill_buf()?, false) } else { (&self.header[..], true) };
        let ended = bytes.is_empty();
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(buffer);
        let hint = current.decoder.run(&mut input, &mut output)?;
        let (used, produced) = (input.pos(), output.pos());
        if of_header {
            self.header.drain(..used);
        } else {
            self.input.consume(used);
        }
        if hint == 0 {
            self.in_frame = false;
            if current.window > SHARED {
                // The next one may have its turn.
                self.current = None;
            }
        } else if ended && produced == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "incomplete frame"));
        }
        Ok(produced)
    }
}

impl<R: BufRead> Read for Frames<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.in_frame && !self.begin()? {
                break;
            }
            match self.decode(buffer) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A frame of unknown content size with a window of 2^`log` bytes.
    fn frame(content: &[u8], log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(log)).unwrap();
        encoder.write_all(content).unwrap();
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(bytes: &[u8], windows: &Windows) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(bytes, windows).read_to_end(&mut out)?;
        Ok(out)
    }

    fn free(windows: &Windows) -> (usize, usize) {
        (windows.shared.free(), windows.large.free())
    }

    #[test]
    fn each_frames_window_counts_while_it_lasts() {
        let windows = Windows::new(&Cancel::new());
        let stream =
            [frame(b"a", 10), frame(b"b", 23), frame(b"c", 10), frame(b"d", 27), frame(b"e", 20)].concat();
        let mut frames = Frames::new(&stream[..], &windows);
        let mut seen = Vec::new();
        let mut byte = [0];
        while frames.read(&mut byte).unwrap() > 0 {
            seen.push((byte[0], SHARED - free(&windows).0, free(&windows).1));
        }
        // A smaller window uses the memory of a larger one before it; a large one is given back at
        // once.
        let held: Vec<(u8, usize)> = seen.iter().map(|&(byte, shared, _)| (byte, shared)).collect();
        assert_eq!(held[..3], [(b'a', 1 << 10), (b'b', 1 << 23), (b'c', 1 << 23)]);
        assert_eq!((seen[3].0, seen[3].1), (b'd', 0));
        assert_eq!(seen[4], (b'e', 1 << 20, 1));
        drop(frames);
        assert_eq!(free(&windows), (SHARED, 1));
    }

    #[test]
    fn the_window_of_a_frame_is_told_by_its_header() {
        let windows = Windows::new(&Cancel::new());
        let window = |frame: &[u8]| {
            let mut frames = Frames::new(frame, &windows);
            frames.begin().map(|begun| frames.current.as_ref().filter(|_| begun).unwrap().window)
        };
        for size in [0, 100, 255, 256, 70_000, 300_000] {
            let frame = zstd::bulk::compress(&vec![3; size], 3).unwrap();
            assert_eq!(window(&frame).unwrap(), size, "one segment of {size} bytes");
        }
        assert_eq!(window(&frame(b"x", 27)).unwrap(), 128 << 20);
        assert!(window(&[0x28, 0xb5, 0x2f, 0xfd, 0xff]).is_err(), "cut off");
        for header in [&[0x00, 0x89][..], &[0x00, 0xff], &[0xe0, 1, 0, 0, 8, 0, 0, 0, 0]] {
            let error = window(&[&[0x28, 0xb5, 0x2f, 0xfd][..], header].concat()).unwrap_err();
            assert!(error.to_string().contains("window"), "{error}");
        }
        let error = window(&[0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x58, 7]).unwrap_err();
        assert!(error.to_string().contains("dictionary"), "{error}");
    }

    #[test]
    fn a_large_window_waits_for_its_turn_and_no_longer_than_the_run() {
        let cancel = Cancel::new();
        let windows = Windows::new(&cancel);
        let large = frame(&[7; 1000], 27);
        let turn = windows.hold(128 << 20).unwrap();
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            let (windows, large) = (&windows, &large);
            let waiting = send.clone();
            scope.spawn(move || waiting.send(decoded(large, windows).map(|out| out.len())));
            assert!(receive.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
            assert_eq!(decoded(&frame(b"small", 20), windows).unwrap(), b"small", "a small one goes on");
            drop(turn);
            assert_eq!(receive.recv().unwrap().unwrap(), 1000);
            let _turn = windows.hold(128 << 20).unwrap();
            scope.spawn(move || send.send(decoded(large, windows).map(|out| out.len())));
            cancel.cancel();
            assert_eq!(receive.recv().unwrap().unwrap_err().to_string(), "stopped");
        });
    }
}
