//! What a layer directory should hold, read from the layer's tar by a parser of its own, and what it does hold,
//! read from disk; compared entry for entry with differences for people.
//!
//! A [`Tree`] maps paths to named facts, so that a comparison can ask for just the facts that are promised.
//! The rules are those of the documentation, "The store": modes, owner attributes, whiteouts, devices, links.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sha2::Digest as _;

use super::hex;

type Facts = BTreeMap<&'static str, String>;

/// Paths and what is known of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    entries: BTreeMap<Vec<u8>, Facts>,
}

impl Tree {
    /// What lies below `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        let mut inodes = BTreeMap::new();
        let mut tree = Self::default();
        tree.read(directory, b"", &mut inodes, false);
        let inodes = inodes.into_iter().map(|(path, inode)| (path, format!("{inode:?}"))).collect();
        tree.note_links(&inodes);
        tree
    }

    /// What lies below `directory`, with the facts that any write changes: two equal snapshots mean that
    /// nothing was written in between.
    pub(crate) fn snapshot(directory: &Path) -> Self {
        let mut tree = Self::default();
        tree.entries.insert(Vec::new(), facts_of(directory, true));
        tree.read(directory, b"", &mut BTreeMap::new(), true);
        tree
    }

    fn read(
        &mut self,
        directory: &Path,
        prefix: &[u8],
        inodes: &mut BTreeMap<Vec<u8>, (u64, u64)>,
        times: bool,
    ) {
        let entries = std::fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            let name = [prefix, path.file_name().unwrap().as_bytes()].concat();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                self.read(&path, &[name.as_slice(), b"/"].concat(), inodes, times);
            } else {
                inodes.insert(name.clone(), (metadata.dev(), metadata.ino()));
            }
            self.entries.insert(name, facts_of(&path, times));
        }
    }

    /// Notes which paths are one inode.
    fn note_links(&mut self, inodes: &BTreeMap<Vec<u8>, String>) {
        let mut groups: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for (path, inode) in inodes {
            groups.entry(inode).or_default().push(path);
        }
        for paths in groups.values() {
            let text =
                paths.iter().map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>().join(" = ");
            for path in paths {
                let alone = paths.len() == 1;
                let facts = self.entries.get_mut(*path).unwrap();
                facts.insert("links", if alone { String::new() } else { text.clone() });
            }
        }
    }

    /// What a layer of this tar has to look like on disk.
    ///
    /// # Panics
    /// Where the tar is not one that must be accepted.
    pub(crate) fn expected(tar: &[u8]) -> Self {
        let mut tree = Self::default();
        let mut inodes: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut later = Vec::new();
        for (number, entry) in entries(tar).into_iter().enumerate() {
            let path = normal(&entry.name);
            if path.is_empty() {
                continue;
            }
            // A link that is still to be made is replaced as any other entry is, and so is what it stands in.
            let within = |inner: &[u8], outer: &[u8]| {
                inner.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'))
            };
            later.retain(|(link, _): &(Vec<u8>, Vec<u8>)| {
                *link != path && !within(&path, link) && (entry.kind == b'5' || !within(link, &path))
            });
            tree.make_parents(&path, &mut inodes);
            if entry.kind == b'1' {
                let target = normal(&entry.link);
                if !tree.link(&path, &target, &mut inodes) {
                    later.push((path, target));
                }
                continue;
            }
            tree.remove(&path, entry.kind == b'5', &mut inodes);
            if entry.kind != b'5' {
                inodes.insert(path.clone(), number.to_string());
            }
            tree.entries.insert(path, entry.facts());
        }
        while !later.is_empty() {
            let open = later.len();
            later.retain(|(path, target)| !tree.link(path, target, &mut inodes));
            assert!(later.len() < open, "no targets: {later:?}");
        }
        tree.note_links(&inodes);
        tree
    }

    fn link(&mut self, path: &[u8], target: &[u8], inodes: &mut BTreeMap<Vec<u8>, String>) -> bool {
        let (Some(facts), Some(inode)) = (self.entries.get(target).cloned(), inodes.get(target).cloned())
        else {
            return false;
        };
        self.remove(path, false, inodes);
        self.entries.insert(path.to_vec(), facts);
        inodes.insert(path.to_vec(), inode);
        true
    }

    fn make_parents(&mut self, path: &[u8], inodes: &mut BTreeMap<Vec<u8>, String>) {
        for (position, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = &path[..position];
            if self.entries.get(parent).is_none_or(|facts| facts["type"] != "directory") {
                self.remove(parent, false, inodes);
                self.entries.insert(parent.to_vec(), Facts::from([("type", "directory".to_owned())]));
            }
        }
    }

    /// A later entry replaces what was there; only a directory over a directory keeps what is within.
    fn remove(&mut self, path: &[u8], keep_directory: bool, inodes: &mut BTreeMap<Vec<u8>, String>) {
        if keep_directory && self.entries.get(path).is_some_and(|facts| facts["type"] == "directory") {
            return;
        }
        let within = [path, b"/"].concat();
        let gone = |key: &[u8]| key == path || key.starts_with(&within);
        self.entries.retain(|key, _| !gone(key));
        inodes.retain(|key, _| !gone(key));
    }

    /// One fact of one entry, where there is such an entry.
    pub(crate) fn fact(&self, path: &str, fact: &str) -> Option<&str> {
        self.entries.get(path.as_bytes())?.get(fact).map(String::as_str)
    }

    /// What `actual` has otherwise than this tree says, a line each; facts that this tree does not state may be
    /// anything.
    pub(crate) fn differences(&self, actual: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, facts) in &self.entries {
            let name = path.escape_ascii();
            let Some(there) = actual.entries.get(path) else {
                lines.push(format!("{name}: missing"));
                continue;
            };
            for (fact, value) in facts {
                let other = there.get(fact).map_or("nothing", String::as_str);
                if value != other {
                    lines.push(format!("{name}: {fact} should be {value:?}, is {other:?}"));
                }
            }
        }
        for path in actual.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            lines.push(format!("{}: should not be there", path.escape_ascii()));
        }
        lines
    }

    /// Fails with the first differences.
    #[track_caller]
    pub(crate) fn assert_matches(&self, actual: &Self, what: &str) {
        let lines = self.differences(actual);
        let shown = lines.iter().take(20).fold(String::new(), |mut text, line| {
            let _ = write!(text, "\n  {line}");
            text
        });
        assert!(lines.is_empty(), "{what}: {} differences{shown}", lines.len());
    }
}

fn facts_of(path: &Path, times: bool) -> Facts {
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let mut facts = Facts::new();
    let name = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () => "special",
    };
    facts.insert("type", name.to_owned());
    facts.insert("mode", format!("{:04o}", metadata.mode() & 0o7777));
    facts.insert("mtime", format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()));
    facts.insert("xattrs", xattrs_of(path));
    if kind.is_file() {
        facts.insert("size", metadata.size().to_string());
        facts.insert("content", content_of(path));
    }
    if kind.is_symlink() {
        let target = std::fs::read_link(path).unwrap().into_os_string().into_vec();
        facts.insert("target", target.escape_ascii().to_string());
    }
    if times {
        facts.insert("ctime", format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec()));
        facts.insert("inode", metadata.ino().to_string());
    }
    facts
}

fn content_of(path: &Path) -> String {
    let mut file = std::fs::File::open(path).unwrap();
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex(&hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// All extended attributes; the label of `SELinux` excepted, which the machine gives every file.
fn xattrs_of(path: &Path) -> String {
    let mut list = vec![0_u8; 64 * 1024];
    let Ok(length) = rustix::fs::llistxattr(path, list.as_mut_slice()) else {
        return "unsupported".to_owned();
    };
    let mut found = BTreeMap::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        if name != b"security.selinux" {
            found.insert(name.to_vec(), value[..length].to_vec());
        }
    }
    show_xattrs(&found)
}

fn show_xattrs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let show =
        |(name, value): (&Vec<u8>, &Vec<u8>)| format!("{}={}", name.escape_ascii(), value.escape_ascii());
    xattrs.iter().map(show).collect::<Vec<_>>().join(" ")
}

// ------------------------------------------------------------------------------------------------ reading tars

/// The tar within a layer blob.
pub(crate) fn unpack(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match blob {
        [0x1f, 0x8b, ..] => drop(flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap()),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => tar = zstd::decode_all(blob).unwrap(),
        _ => tar.extend(blob),
    }
    tar
}

#[derive(Debug)]
struct TarEntry<'a> {
    name: Vec<u8>,
    kind: u8,
    mode: u64,
    uid: u64,
    gid: u64,
    mtime: String,
    link: Vec<u8>,
    content: &'a [u8],
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl TarEntry<'_> {
    fn facts(&self) -> Facts {
        let (name, type_bits, writable) = match self.kind {
            b'5' => ("directory", 0o040_000, 0o700),
            b'2' => ("symlink", 0o120_000, 0),
            b'3' => ("file", 0o020_000, 0o600),
            b'4' => ("file", 0o060_000, 0o600),
            b'6' => ("file", 0o010_000, 0o600),
            _ => ("file", 0o100_000, 0o600),
        };
        let mut facts = Facts::from([("type", name.to_owned())]);
        if name == "symlink" {
            facts.insert("target", self.link.escape_ascii().to_string());
            facts.insert("xattrs", String::new());
            return facts;
        }
        // A directory that loses its sticky bit is not writable for others.
        let lost = if name == "directory" && self.mode & 0o1000 != 0 { 0o002 } else { 0 };
        facts.insert("mode", format!("{:04o}", (self.mode & 0o777 | writable) & !lost));
        let interpreted: [&[u8]; 4] =
            [b"user.containers.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.vm."];
        let mut xattrs = self.xattrs.clone();
        xattrs.retain(|key, _| {
            key.starts_with(b"user.") && !interpreted.iter().any(|prefix| key.starts_with(prefix))
        });
        let owner = format!("{}:{}:0{:o}", self.uid, self.gid, type_bits | self.mode & 0o7777);
        xattrs.insert(b"user.containers.override_stat".to_vec(), owner.into_bytes());
        facts.insert("xattrs", show_xattrs(&xattrs));
        if name == "file" {
            facts.insert("size", self.content.len().to_string());
            facts.insert("content", hex(&sha2::Sha256::digest(self.content)));
        }
        if type_bits == 0o100_000 {
            facts.insert("mtime", self.mtime.clone());
        }
        facts
    }
}

/// Without `.` and empty parts.
fn normal(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .inspect(|part| assert!(*part != b"..", "a tar that must be refused"))
        .collect();
    parts.join(&b'/')
}

/// All entries; PAX records and GNU's long names applied.
fn entries(tar: &[u8]) -> Vec<TarEntry<'_>> {
    let mut found = Vec::new();
    let mut pax: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut position = 0;
    while let Some(block) = tar.get(position..position + 512).filter(|block| block.iter().any(|b| *b != 0)) {
        let text = |from: usize, length: usize| until_nul(&block[from..from + length]);
        let kind = block[156];
        let takes_number = |pax: &BTreeMap<Vec<u8>, Vec<u8>>, key: &str, from, length| {
            pax.get(key.as_bytes()).map_or_else(
                || number(&block[from..from + length]),
                |value| std::str::from_utf8(value).unwrap().parse().unwrap(),
            )
        };
        let size = match kind {
            b'1'..=b'6' => 0,
            b'x' | b'g' | b'L' | b'K' => number(&block[124..136]),
            _ => takes_number(&pax, "size", 124, 12),
        };
        let content = &tar[position + 512..][..usize::try_from(size).unwrap()];
        position += 512 + content.len().next_multiple_of(512);
        match kind {
            b'x' => pax.extend(records(content)),
            b'g' => {}
            b'L' => drop(pax.insert(b"path".to_vec(), until_nul(content).to_vec())),
            b'K' => drop(pax.insert(b"linkpath".to_vec(), until_nul(content).to_vec())),
            _ => {
                let prefix = if &block[257..263] == b"ustar\0" { text(345, 155) } else { b"" };
                let short = match prefix {
                    b"" => text(0, 100).to_vec(),
                    prefix => [prefix, b"/", text(0, 100)].concat(),
                };
                let seconds = number(&block[136..148]).to_string();
                let mtime = pax
                    .get(b"mtime".as_slice())
                    .map_or(seconds, |value| std::str::from_utf8(value).unwrap().to_owned());
                let (whole, fraction) = mtime.split_once('.').unwrap_or((&mtime, ""));
                let uid = takes_number(&pax, "uid", 108, 8);
                let gid = takes_number(&pax, "gid", 116, 8);
                let mut taken = std::mem::take(&mut pax);
                let xattrs = taken
                    .iter()
                    .filter_map(|(key, value)| {
                        Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone()))
                    })
                    .collect();
                found.push(TarEntry {
                    mode: number(&block[100..108]),
                    mtime: format!("{whole}.{fraction:0<9.9}"),
                    xattrs,
                    name: taken.remove(b"path".as_slice()).unwrap_or(short),
                    link: taken.remove(b"linkpath".as_slice()).unwrap_or_else(|| text(157, 100).to_vec()),
                    kind,
                    uid,
                    gid,
                    content,
                });
            }
        }
    }
    found
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap()
}

fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    }
    let digits = std::str::from_utf8(until_nul(field)).unwrap().trim();
    if digits.is_empty() { 0 } else { u64::from_str_radix(digits, 8).unwrap() }
}

fn records(mut bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').unwrap();
        found.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    found
}
