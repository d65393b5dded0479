//! Headers as real tools and as liars write them. What becomes of them on disk is tested in
//! `extract`.

use proptest::prelude::*;

use super::entry::clean_path;
use super::numbers::parse_time;
use super::*;
use crate::sys::FileTime;

struct Bytes<'a> {
    all: &'a [u8],
    used: usize,
    piece: usize,
}

impl Source for Bytes<'_> {
    fn take(&mut self, limit: usize) -> Result<&[u8], LayerError> {
        let start = self.used;
        self.used = self.all.len().min(start + limit.min(self.piece));
        Ok(&self.all[start..self.used])
    }

    fn position(&self) -> u64 {
        self.used as u64
    }
}

/// A header block with the usual fields; `change` edits it before the checksum is made.
fn header(name: &str, type_flag: u8, size: u64, change: impl Fn(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000144");
    block[156] = type_flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn plain(name: &str, type_flag: u8, size: u64) -> Vec<u8> {
    header(name, type_flag, size, |_| {})
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn pax(type_flag: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        body.extend(format!("{length}{rest}").into_bytes());
    }
    [plain("pax", type_flag, body.len() as u64), padded(&body)].concat()
}

fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// All entries with their data, read in pieces of `piece` bytes.
fn read_in(archive: &[u8], piece: usize) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    let mut source = Bytes { all: archive, used: 0, piece };
    let mut reader = TarReader::new();
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry(&mut source)? {
        let mut data = Vec::new();
        loop {
            match reader.data(&mut source)? {
                Data::Bytes(piece) => data.extend_from_slice(piece),
                Data::Zeros(count) => data.resize(data.len() + usize::try_from(count).unwrap(), 0),
                Data::End => break,
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn read(parts: &[Vec<u8>]) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    read_in(&parts.concat(), usize::MAX)
}

fn only(parts: &[Vec<u8>]) -> Entry {
    let mut entries = read(parts).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0).0
}

#[test]
fn a_pax_size_wins_over_the_header() {
    // CVE-2025-62518: a reader that skips by the header's size 0 takes the file's data for an
    // entry.
    let hidden = [plain("evil", b'0', 0), padded(b"")].concat();
    let archive = [
        pax(b'x', &[("size", &hidden.len().to_string())]),
        plain("outer", b'0', 0),
        padded(&hidden),
        plain("after", b'0', 2),
        padded(b"ok"),
        end(),
    ];
    let entries = read(&archive).unwrap();
    let names: Vec<&[u8]> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
    assert_eq!(names, [&b"outer"[..], b"after"]);
    assert_eq!(entries[0].1, hidden);
}

#[test]
fn extensions_name_the_next_entry_only() {
    let long = "d/".repeat(120) + "file";
    let archive = [
        pax(b'x', &[("path", &long), ("uid", "70000"), ("mtime", "12.5"), ("SCHILY.xattr.user.a", "b")]),
        plain("short", b'0', 0),
        plain("././@LongLink", b'L', long.len() as u64 + 1),
        padded(&[long.as_bytes(), b"\0"].concat()),
        plain("short", b'0', 0),
        plain("plain", b'0', 0),
        end(),
    ];
    let entries: Vec<Entry> = read(&archive).unwrap().into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(entries[0].path, long.as_bytes());
    assert_eq!((entries[0].uid, entries[0].modified.nanoseconds), (70000, 500_000_000));
    assert_eq!(entries[0].xattrs[&b"user.a"[..]], b"b");
    assert_eq!(entries[1].path, long.as_bytes());
    assert_eq!((entries[2].path.as_slice(), entries[2].uid, entries[2].xattrs.len()), (&b"plain"[..], 0, 0));
}

#[test]
fn a_pax_value_may_have_line_ends() {
    let value = "a\n11 path=x\nb\n";
    let entry = only(&[pax(b'x', &[("SCHILY.xattr.user.a", value)]), plain("f", b'0', 0), end()]);
    assert_eq!((&entry.path[..], &entry.xattrs[&b"user.a"[..]][..]), (&b"f"[..], value.as_bytes()));
}

#[test]
fn numbers_are_read_in_every_form() {
    let entry = only(&[
        header("f", b'0', 0, |block| {
            block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0x01, 0, 0, 0]);
            block[116..124].copy_from_slice(b"   17 \0 ");
            block[136..148].copy_from_slice(&[0xff; 12]);
        }),
        end(),
    ]);
    assert_eq!((entry.uid, entry.gid, entry.modified.seconds), (1 << 24, 0o17, -1));
    for (field, value) in [
        (124, &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..]),
        (124, b"\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"00000000009\0"),
        (124, b"-0000000001\0"),
        (108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (100, b"rw-r--r-"),
    ] {
        let archive =
            [header("f", b'0', 0, |block| block[field..field + value.len()].copy_from_slice(value)), end()];
        assert!(read(&archive).is_err(), "{field} {value:?}");
    }
}

#[test]
fn times_keep_their_fraction() {
    for (text, seconds, nanoseconds) in [
        ("1.5", 1, 500_000_000),
        ("-1.5", -2, 500_000_000),
        ("0", 0, 0),
        (".25", 0, 250_000_000),
        ("1.0000000019", 1, 1),
    ] {
        assert_eq!(parse_time(text.as_bytes()), Some(FileTime { seconds, nanoseconds }), "{text}");
    }
    for bad in ["", ".", "-", "1e5", "1.x", "--1", "99999999999999999999"] {
        assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn old_headers_mean_what_they_meant() {
    let v7 = |name: &str| header(name, 0, 0, |block| block[257..265].fill(0));
    assert_eq!(only(&[v7("dir/"), end()]).kind, EntryKind::Directory);
    assert_eq!(only(&[v7("file"), end()]).kind, EntryKind::File { size: 0 });
    let with_prefix = |magic: &'static [u8]| {
        header("name", b'0', 0, move |block| {
            block[257..257 + magic.len()].copy_from_slice(magic);
            block[345..348].copy_from_slice(b"pre");
        })
    };
    assert_eq!(only(&[with_prefix(b"ustar\x0000"), end()]).path, b"pre/name");
    // GNU headers have times where ustar has its prefix.
    assert_eq!(only(&[with_prefix(b"ustar  \0"), end()]).path, b"name");
}

#[test]
fn paths_are_cleaned_or_refused() {
    for (name, clean) in [
        ("/etc/passwd", "etc/passwd"),
        ("./a//b/./c/", "a/b/c"),
        (".wh..wh..opq", ".wh..wh..opq"),
        ("...", "..."),
    ] {
        assert_eq!(clean_path(name.as_bytes()).unwrap(), clean.as_bytes());
    }
    assert_eq!(clean_path(b"./").unwrap(), b"");
    let long_component = "x".repeat(256);
    let long_path = "x/".repeat(2048) + "y";
    for bad in ["..", "a/../b", "../x", "a/..", "a\0b", &long_component, &long_path] {
        assert!(clean_path(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn the_end_is_two_zero_blocks_or_the_end_of_the_stream() {
    let file = || plain("a", b'0', 0);
    assert_eq!(read(&[file()]).unwrap().len(), 1);
    assert_eq!(read(&[file(), vec![0; BLOCK]]).unwrap().len(), 1);
    assert_eq!(read(&[file(), end(), file()]).unwrap().len(), 1);
    let unpadded = read(&[plain("a", b'0', 2), b"ok".to_vec()]).unwrap();
    assert_eq!((unpadded.len(), unpadded[0].1.as_slice()), (1, &b"ok"[..]));
    assert_eq!(read(&[end()]).unwrap().len(), 0);
    assert_eq!(read(&[]).unwrap().len(), 0);
    for broken in [
        vec![file(), vec![0; BLOCK], file()],
        vec![file()[..500].to_vec()],
        vec![plain("a", b'0', 600), padded(b"too short")],
        vec![pax(b'x', &[("path", "b")]), end()],
        vec![pax(b'x', &[("path", "b")])],
        vec![
            header("a", b'0', 0, |_| {})
                .iter()
                .enumerate()
                .map(|(i, b)| if i == 0 { b'z' } else { *b })
                .collect(),
        ],
    ] {
        assert!(read(&broken).is_err(), "{:?}", broken.concat().len());
    }
}

#[test]
fn what_readers_understand_differently_is_refused() {
    let file = || plain("a", b'0', 0);
    let raw_pax = |body: &str| [plain("pax", b'x', body.len() as u64), padded(body.as_bytes())].concat();
    for (name, archive) in [
        ("global path", vec![pax(b'g', &[("path", "b")]), file()]),
        ("sparse pax", vec![pax(b'x', &[("GNU.sparse.major", "1")]), file()]),
        ("sparse gnu", vec![plain("a", b'S', 0)]),
        ("unknown type", vec![plain("a", b'Z', 0)]),
        ("length too long", vec![raw_pax("99 path=x\n"), file()]),
        ("length zero", vec![raw_pax("0 path=x\n"), file()]),
        ("no newline", vec![raw_pax("9 path=xy"), file()]),
        ("no equals", vec![raw_pax("8 path\n\n"), file()]),
        ("negative size", vec![pax(b'x', &[("size", "-1")]), file()]),
        ("huge size", vec![pax(b'x', &[("size", "9223372036854775808")]), file()]),
        ("300 MB of records", vec![plain("pax", b'x', 300 << 20)]),
        ("root as a file", vec![plain("./", b'0', 0)]),
        ("empty symlink", vec![plain("a", b'2', 0)]),
        ("empty link", vec![plain("a", b'1', 0)]),
    ] {
        assert!(read(&archive).is_err(), "{name} was accepted");
    }
    assert_eq!(read(&[pax(b'g', &[("comment", "0123abc")]), file(), end()]).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        piece in 1_usize..600,
    ) {
        let _ = read_in(&bytes, piece);
    }

    #[test]
    fn a_damaged_archive_never_panics_and_pieces_do_not_matter(
        position in 0_usize..4096,
        value in any::<u8>(),
        piece in 1_usize..600,
    ) {
        let archive = [
            pax(b'x', &[("path", "long/name"), ("size", "5")]),
            plain("a", b'0', 0),
            padded(b"12345"),
            plain("l", b'2', 0),
            plain("d/", b'5', 0),
            end(),
        ];
        let mut bytes = archive.concat();
        let index = position % bytes.len();
        bytes[index] = value;
        let (whole, pieces) = (read_in(&bytes, usize::MAX), read_in(&bytes, piece));
        prop_assert_eq!(whole.map_err(|error| error.to_string()), pieces.map_err(|error| error.to_string()));
    }
}
