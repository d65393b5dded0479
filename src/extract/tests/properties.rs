//! Random trees come out as they went in, and random hostile archives change nothing beside their
//! directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;

use super::World;
use crate::extract::fuzzing;

/// One entry of a tar, written as builders write it: what does not fit into the header goes into a
/// PAX record, or (`gnu`) into an entry of GNU's.
#[derive(Clone, Debug)]
struct Raw {
    kind: u8,
    name: Vec<u8>,
    target: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    modified: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    gnu: bool,
}

impl Raw {
    fn write(&self, out: &mut Vec<u8>) {
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| {
            let body = [b" ", key, b"=", value, b"\n"].concat();
            let mut length = body.len();
            while length != body.len() + length.to_string().len() {
                length = body.len() + length.to_string().len();
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.extend_from_slice(&body);
        };
        for (kind, key, text) in [(b'L', &b"path"[..], &self.name), (b'K', b"linkpath", &self.target)] {
            match (text.len() > 100, self.gnu) {
                (false, _) => {}
                (true, true) => block(out, kind, b"././@LongLink", b"", 0, (0, 0), 0, text),
                (true, false) => record(key, text),
            }
        }
        let (seconds, nanoseconds) = self.modified;
        if nanoseconds > 0 || seconds < 0 {
            // As a decimal number: -0.25 is a quarter before the epoch, that is second -1 and
            // 750,000,000.
            let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
            let sign = if whole < 0 { "-" } else { "" };
            let (seconds, rest) = (whole.abs() / 1_000_000_000, whole.abs() % 1_000_000_000);
            record(b"mtime", format!("{sign}{seconds}.{rest:09}").as_bytes());
        }
        for (key, number) in [(b"uid", self.owner.0), (b"gid", self.owner.1)] {
            if number > 0o777_7777 {
                record(key, number.to_string().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            record(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            block(out, b'x', b"PaxHeader", b"", 0, (0, 0), 0, &records);
        }
        let owner = (self.owner.0.min(0o777_7777), self.owner.1.min(0o777_7777));
        let seconds = u64::try_from(seconds).unwrap_or(0);
        block(out, self.kind, &self.name, &self.target, self.mode, owner, seconds, &self.content);
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of a header")]
fn block(
    out: &mut Vec<u8>,
    kind: u8,
    name: &[u8],
    target: &[u8],
    mode: u32,
    owner: (u64, u64),
    seconds: u64,
    content: &[u8],
) {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &name[..name.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{:07o}", owner.0).as_bytes());
    put(116, format!("{:07o}", owner.1).as_bytes());
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, format!("{seconds:011o}").as_bytes());
    put(156, &[kind]);
    put(157, &target[..target.len().min(100)]);
    put(257, b"ustar\x0000");
    put(148, b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.write(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}

// ----------------------------------------------------------------------------------- the same tree

/// Bytes that a name may have.
fn name(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    proptest::collection::vec(byte, length)
}

/// Directories are called `d…`, all else `l…`, so that no file is in the way of a directory.
fn folder() -> impl Strategy<Value = Vec<u8>> {
    let long = [b"d".to_vec(), vec![b'x'; 200]].concat();
    let names = [b"d".to_vec(), b"d2".to_vec(), b"d\xff\xfe".to_vec(), b"d\n\x1b[2J ".to_vec(), long];
    proptest::collection::vec(proptest::sample::select(names.to_vec()), 0..4)
        .prop_map(|parts| parts.join(&b'/'))
}

fn leaf() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![3 => name(0..6), 1 => name(90..254)];
    (folder(), leaf).prop_map(|(folder, leaf)| {
        let leaf = [b"l", &leaf[..]].concat();
        if folder.is_empty() { leaf } else { [&folder[..], b"/", &leaf].concat() }
    })
}

fn entry() -> impl Strategy<Value = Raw> {
    let content = prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..600),
        1 => (any::<u8>(), 0_usize..200_000).prop_map(|(byte, size)| vec![byte; size]),
    ];
    // A hard link's target is chosen later, among the files there are.
    let what = prop_oneof![
        4 => (Just(b'0'), leaf(), Just(Vec::new()), content),
        2 => (Just(b'5'), folder(), Just(Vec::new()), Just(Vec::new())),
        2 => (Just(b'2'), leaf(), name(1..150), Just(Vec::new())),
        2 => (Just(b'1'), leaf(), Just(Vec::new()), Just(Vec::new())),
        1 => (proptest::sample::select(vec![b'3', b'4', b'6']), leaf(), Just(Vec::new()), Just(Vec::new())),
    ];
    let key = "[a-z]{1,20}".prop_map(|word| format!("user.{word}").into_bytes());
    let xattrs = proptest::collection::btree_map(key, proptest::collection::vec(any::<u8>(), 0..60), 0..3);
    let nanoseconds = prop_oneof![Just(0), 1_u32..1_000_000_000];
    let owner = (0_u64..0xffff_ffff, prop_oneof![0_u64..2000, Just(0xffff_fffe)]);
    (what, 0_u32..0o10_000, owner, (-2_000_000_000_i64..8_000_000_000, nanoseconds), xattrs, any::<bool>())
        .prop_map(|((kind, name, target, content), mode, owner, modified, xattrs, gnu)| {
            // These have neither.
            let xattrs = if matches!(kind, b'1' | b'2') { BTreeMap::new() } else { xattrs };
            Raw { kind, name, target, content, mode, owner, modified, xattrs, gnu }
        })
}

/// Entries of different names in any order, hard links with targets.
fn tree() -> impl Strategy<Value = Vec<Raw>> {
    let chosen = proptest::collection::vec((entry(), any::<proptest::sample::Index>()), 1..25);
    chosen.prop_map(|entries| {
        let mut seen = std::collections::BTreeSet::new();
        let mut entries: Vec<_> = entries
            .into_iter()
            .filter(|(entry, _)| !entry.name.is_empty() && seen.insert(entry.name.clone()))
            .collect();
        let targets: Vec<Vec<u8>> = entries
            .iter()
            .filter(|(entry, _)| !matches!(entry.kind, b'1' | b'5'))
            .map(|(entry, _)| entry.name.clone())
            .collect();
        entries.retain(|(entry, _)| entry.kind != b'1' || !targets.is_empty());
        for (entry, index) in &mut entries {
            if entry.kind == b'1' {
                entry.target = targets[index.index(targets.len())].clone();
            }
        }
        entries.into_iter().map(|(entry, _)| entry).collect()
    })
}

/// Every path below `root`, parents first.
fn listing(root: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

fn xattr(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let mut value = [0; 200];
    let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

/// Finds what is wrong with an entry on disk; `origin` is the one whose inode it is.
fn difference(root: &Path, entry: &Raw, origin: &Raw) -> Option<String> {
    let path = root.join(OsStr::from_bytes(&entry.name));
    let metadata = fs::symlink_metadata(&path).ok()?;
    let type_bits = match origin.kind {
        b'0' => 0o100_000,
        b'5' => 0o040_000,
        b'3' => 0o020_000,
        b'4' => 0o060_000,
        b'6' => 0o010_000,
        _ => 0,
    };
    let mut wrong = Vec::new();
    let mut check = |fits: bool, what: String| {
        if !fits {
            wrong.push(what);
        }
    };
    let times = (metadata.mtime(), metadata.mtime_nsec());
    check(times == (origin.modified.0, origin.modified.1.into()), format!("mtime {times:?}"));
    if origin.kind == b'2' {
        let target = fs::read_link(&path).map(|target| target.into_os_string().into_vec()).ok();
        check(target.as_ref() == Some(&origin.target), format!("target {target:?}"));
    } else {
        let least = if origin.kind == b'5' { 0o700 } else { 0o600 };
        let mode = metadata.mode() & 0o7777;
        // Without its sticky bit a directory is not writable for others.
        let lost = if origin.kind == b'5' && origin.mode & 0o1000 != 0 { 0o002 } else { 0 };
        check(mode == (origin.mode & 0o777 | least) & !lost, format!("mode {mode:o}"));
        check(metadata.is_dir() == (origin.kind == b'5'), "its type".to_owned());
        check(metadata.is_dir() || metadata.is_file(), "a special file".to_owned());
        let stat = format!("{}:{}:0{:o}", origin.owner.0, origin.owner.1, type_bits | origin.mode);
        let found = xattr(&path, b"user.containers.override_stat");
        check(found.as_deref() == Some(stat.as_bytes()), format!("override_stat {found:?}, not {stat}"));
        for (name, value) in &origin.xattrs {
            check(xattr(&path, name).as_ref() == Some(value), format!("{}", name.escape_ascii()));
        }
    }
    if metadata.is_file() {
        check(fs::read(&path).ok().as_ref() == Some(&origin.content), "content".to_owned());
    }
    let inode = |name: &[u8]| fs::symlink_metadata(root.join(OsStr::from_bytes(name))).unwrap().ino();
    check(metadata.ino() == inode(&origin.name), "another inode".to_owned());
    (!wrong.is_empty()).then(|| format!("{}: {}", entry.name.escape_ascii(), wrong.join(", ")))
}

// --------------------------------------------------------------------------------- nothing outside

/// `@` stands for the directory beside which lies what must not change.
const HOSTILE_NAMES: [&str; 26] = [
    "a",
    "b",
    "c",
    "a/x",
    "a/y",
    "a/x/z",
    "b/x",
    "c/",
    "./a",
    "/a",
    "@/outside/new",
    "../outside/new",
    "../outside/precious",
    "a/../../outside/new",
    "a/../b",
    "..",
    "a/..",
    "a/precious",
    "b/inner/new",
    "a/outside/new",
    ".wh.a",
    ".wh...",
    ".wh.",
    ".wh..",
    "a/.wh..wh..opq",
    "a/.wh.../outside",
];
const HOSTILE_TARGETS: [&str; 18] = [
    "a",
    "b",
    "c",
    "a/x",
    "b/x",
    "x",
    ".",
    "..",
    "/",
    "@",
    "@/outside",
    "@/outside/precious",
    "../outside",
    "../outside/precious",
    "../../outside",
    "../layer",
    "a/../../outside/precious",
    "nowhere",
];

fn hostile() -> impl Strategy<Value = Raw> {
    let name = proptest::sample::select(HOSTILE_NAMES.to_vec());
    let target = proptest::sample::select(HOSTILE_TARGETS.to_vec());
    let kind = proptest::sample::select(b"00055522221111346".to_vec());
    let content = prop_oneof![3 => 0_usize..200, 1 => 60_000_usize..100_000];
    let keys = ["user.x", "security.capability", "trusted.overlay.opaque", "user.containers.override_stat"];
    let key = proptest::sample::select(keys.to_vec()).prop_map(|key| key.as_bytes().to_vec());
    let xattrs = proptest::collection::btree_map(key, Just(b"0:0:0104777".to_vec()), 0..2);
    (kind, name, target, content, 0_u32..0o10_000, xattrs, any::<bool>()).prop_map(
        |(kind, name, target, content, mode, xattrs, gnu)| Raw {
            kind,
            name: name.into(),
            target: if matches!(kind, b'1' | b'2') { target.into() } else { Vec::new() },
            content: if kind == b'0' { vec![b'x'; content] } else { Vec::new() },
            mode,
            owner: (0, 0),
            modified: (1_000_000_000, 0),
            xattrs,
            gnu,
        },
    )
}

fn at(top: &Path, text: &[u8]) -> Vec<u8> {
    match text.strip_prefix(b"@") {
        Some(rest) => [top.as_os_str().as_bytes(), rest].concat(),
        None => text.to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_tree_comes_out_as_it_went_in(entries in tree()) {
        let world = World::new();
        let root = world.layer();
        world.extract(&archive(&entries)).unwrap();
        let by_name: BTreeMap<&[u8], &Raw> = entries.iter().map(|entry| (&entry.name[..], entry)).collect();
        let mut expected: Vec<Vec<u8>> = Vec::new();
        for entry in &entries {
            let origin = if entry.kind == b'1' { by_name[&entry.target[..]] } else { entry };
            prop_assert_eq!(difference(&root, entry, origin), None);
            expected.extend(super::super::paths::ancestors(&entry.name).map(<[u8]>::to_vec));
            expected.push(entry.name.clone());
        }
        expected.retain(|path| !path.is_empty());
        expected.sort();
        expected.dedup();
        prop_assert_eq!(listing(&root), expected);
    }

    /// The checks are in [`fuzzing::layer_at`].
    #[test]
    fn hostile_entries_in_any_order_change_nothing_outside(entries in proptest::collection::vec(hostile(), 1..14)) {
        fuzzing::layer_at(|top| {
            let mut entries = entries.clone();
            for entry in &mut entries {
                (entry.name, entry.target) = (at(top, &entry.name), at(top, &entry.target));
            }
            archive(&entries)
        });
    }
}
