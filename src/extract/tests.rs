//! Layers in, trees out: what comes out, and what must never happen.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ::tar::{Builder, EntryType, Header};
use proptest::prelude::*;

use super::inventory::InventoryKind;
use super::*;
use crate::cancel::Cancel;
use crate::sys;

/// One entry for [`build`].
#[derive(Clone, Debug)]
pub(super) enum Make {
    File(&'static str, Vec<u8>),
    Directory(&'static str),
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
    Device(&'static str, EntryType),
}

pub(super) fn build(entries: &[Make]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        let set_name = |header: &mut Header, name: &str| {
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        };
        let set_target = |header: &mut Header, target: &str| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        };
        let mut data: &[u8] = &[];
        match entry {
            Make::File(name, content) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(content.len() as u64);
                set_name(&mut header, name);
                data = content;
            }
            Make::Directory(name) => {
                header.set_entry_type(EntryType::Directory);
                set_name(&mut header, name);
            }
            Make::Symlink(name, target) | Make::Link(name, target) => {
                let symlink = matches!(entry, Make::Symlink(..));
                header.set_entry_type(if symlink { EntryType::Symlink } else { EntryType::Link });
                set_name(&mut header, name);
                set_target(&mut header, target);
            }
            Make::Device(name, kind) => {
                header.set_entry_type(*kind);
                set_name(&mut header, name);
            }
        }
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) struct World {
    pub(super) temp: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("layer")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/precious"), "untouched").unwrap();
        Self { temp }
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.temp.path().join("layer")
    }

    fn extract(&self, bytes: &[u8]) -> Result<Extracted, LayerError> {
        self.extract_with(bytes, Limits::default())
    }

    fn extract_with(&self, bytes: &[u8], limits: Limits) -> Result<Extracted, LayerError> {
        let root = sys::open_directory(&self.layer()).unwrap();
        let inventory = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.temp.path().join("record"))
            .unwrap();
        let options = Options {
            ownership: Ownership::OverrideStat,
            limits,
            algorithm: Algorithm::Sha256,
            blob_size: bytes.len() as u64,
        };
        extract(bytes, root, inventory, options, &Workers::new(2, 1, &Cancel::new()).unwrap())
    }

    pub(super) fn entry(&self, bytes: &[Make]) -> Result<Extracted, LayerError> {
        self.extract(&build(bytes))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.layer().join(path)).ok()
    }

    fn outside_is_untouched(&self) -> bool {
        let metadata = fs::metadata(self.temp.path().join("outside/precious")).unwrap();
        let names: Vec<_> = fs::read_dir(self.temp.path().join("outside")).unwrap().collect();
        let top: Vec<_> = fs::read_dir(self.temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.len() == 1
            && metadata.nlink() == 1
            && fs::read_to_string(self.temp.path().join("outside/precious")).unwrap() == "untouched"
            && top.len() <= 3
    }
}

pub(super) fn file(name: &'static str, content: &str) -> Make {
    Make::File(name, content.as_bytes().to_vec())
}

fn xattr(path: &Path) -> String {
    let mut value = [0; 100];
    let length = rustix::fs::lgetxattr(path, "user.containers.override_stat", &mut value[..]).unwrap();
    String::from_utf8_lossy(&value[..length]).into_owned()
}

#[test]
fn a_tree_is_what_the_tar_says() {
    let world = World::new();
    let large = vec![7; 300_000];
    let extracted = world
        .entry(&[
            Make::Directory("usr/"),
            file("usr/tool", "#!/bin/sh\n"),
            Make::File("usr/large", large.clone()),
            Make::Symlink("usr/link", "/etc/passwd"),
            Make::Link("usr/hard", "usr/tool"),
            file("deep/er/file", "x"),
            file("usr/.wh.gone", ""),
            file(".wh..wh..opq", ""),
            Make::Device("dev/null", EntryType::Char),
            Make::Device("dev/sda", EntryType::Block),
            Make::Device("dev/pipe", EntryType::Fifo),
        ])
        .unwrap();
    let layer = world.layer();
    assert_eq!(world.read("usr/tool").unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::read(layer.join("usr/large")).unwrap(), large);
    assert_eq!(fs::read_link(layer.join("usr/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(
        fs::metadata(layer.join("usr/hard")).unwrap().ino(),
        fs::metadata(layer.join("usr/tool")).unwrap().ino()
    );
    assert_eq!(world.read("usr/.wh.gone").unwrap(), "");
    for (path, mode, stat) in [
        ("usr", 0o755, "1000:50:044755"),
        ("usr/tool", 0o755, "1000:50:0104755"),
        ("usr/large", 0o755, "1000:50:0104755"),
        ("dev/null", 0o755, "1000:50:024755"),
        ("dev/sda", 0o755, "1000:50:064755"),
        ("dev/pipe", 0o755, "1000:50:014755"),
        ("deep/er", 0o755, "0:0:040755"),
        ("", 0o755, "0:0:040755"),
    ] {
        let metadata = fs::symlink_metadata(layer.join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!(xattr(&layer.join(path)), stat, "{path}");
        assert!(metadata.is_dir() || metadata.is_file(), "{path}");
    }
    for path in ["usr", "usr/tool", "usr/large", "usr/link", "dev/null"] {
        assert_eq!(fs::symlink_metadata(layer.join(path)).unwrap().mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(extracted.totals.entries, 11);
    assert_eq!(extracted.totals.content_bytes, 300_011);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    let kinds: [fn(&'static str) -> Make; 5] = [
        |name| file(name, "a file"),
        |name| Make::Directory(name),
        |name| Make::Symlink(name, "../outside/precious"),
        |name| Make::Link(name, "other"),
        |name| Make::Device(name, EntryType::Fifo),
    ];
    for (first, make_first) in kinds.iter().enumerate() {
        for (second, make_second) in kinds.iter().enumerate() {
            let world = World::new();
            let mut entries = vec![file("other", "other"), make_first("x")];
            if first == 1 {
                entries.push(file("x/inner", "inner"));
            }
            entries.push(make_second("x"));
            world.entry(&entries).unwrap_or_else(|error| panic!("{first} {second}: {error}"));
            let metadata = fs::symlink_metadata(world.layer().join("x")).unwrap();
            let now = match second {
                0 => world.read("x").as_deref() == Some("a file"),
                1 => metadata.is_dir() && (world.read("x/inner").is_some() == (first == 1)),
                2 => metadata.is_symlink(),
                3 => metadata.nlink() == 2,
                _ => metadata.is_file() && metadata.len() == 0,
            };
            assert!(now, "{first} then {second}");
            assert_eq!(world.read("other").unwrap(), "other");
            assert!(world.outside_is_untouched(), "{first} {second}");
        }
    }
}

/// Files of every length that is written differently: in a batch, in pieces, past the page cache,
/// with a last part that direct writes do not take; each one linked, and the first replaced by the
/// second while it is written.
#[test]
fn large_files_have_their_content_times_and_owner_whatever_their_length() {
    let (page, mib) = (4096, 1 << 20);
    let lengths = [65_536, 65_537, mib - 1, mib, mib + 1, mib + page, mib + page + 7, 2 * mib, 3 * mib - 512];
    for home in ["/dev/shm", "/var/tmp"].map(Path::new).iter().filter(|path| path.is_dir()) {
        for length in lengths {
            let world = World { temp: tempfile::tempdir_in(home).unwrap() };
            fs::create_dir(world.layer()).unwrap();
            let content: Vec<u8> = (0..length as u64)
                .flat_map(|word| xxhash_rust::xxh3::xxh3_64(&word.to_le_bytes()).to_le_bytes())
                .take(length)
                .collect();
            let entries = [
                Make::File("file", vec![1; length + 3 * page]),
                Make::File("file", content.clone()),
                Make::Link("link", "file"),
            ];
            world.entry(&entries).unwrap();
            let path = world.layer().join("file");
            assert!(fs::read(&path).unwrap() == content, "{length} bytes in {}", home.display());
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(
                (metadata.mtime(), metadata.mode() & 0o7777, metadata.nlink()),
                (1_000_000_000, 0o755, 2)
            );
            assert_eq!(xattr(&path), "1000:50:0104755");
        }
    }
}

#[test]
fn a_replaced_name_does_not_change_its_other_names() {
    let world = World::new();
    world
        .entry(&[
            file("a", "first"),
            Make::Link("b", "a"),
            file("a", "second"),
            Make::Link("c", "a"),
            Make::Link("c", "c"),
        ])
        .unwrap();
    let read = |path| world.read(path).unwrap();
    assert_eq!((read("a"), read("b"), read("c")), ("second".into(), "first".into(), "second".into()));
}

#[test]
fn hard_links_are_made_whatever_their_order() {
    let world = World::new();
    world
        .entry(&[
            Make::Link("one", "two"),
            Make::Link("two", "dir/three"),
            Make::Link("late", "two"),
            file("late", "an entry of its own"),
            file("dir/three", "content"),
            Make::Symlink("sym", "nowhere"),
            Make::Link("symlinked", "sym"),
        ])
        .unwrap();
    assert_eq!(world.read("one").unwrap(), "content");
    assert_eq!(world.read("two").unwrap(), "content");
    assert_eq!(world.read("late").unwrap(), "an entry of its own");
    assert!(fs::symlink_metadata(world.layer().join("symlinked")).unwrap().is_symlink());
}

#[test]
fn what_would_leave_the_layer_is_refused_and_named() {
    let precious = "../outside/precious";
    for (entries, named) in [
        (vec![file("../outside/new", "x")], "../outside/new"),
        (vec![file("a/../../outside/new", "x")], "a/../../outside/new"),
        (vec![Make::Symlink("s", "../outside"), Make::Link("stolen", "s/precious")], "stolen"),
        (vec![Make::Link("stolen", precious)], "stolen"),
        (vec![Make::Symlink("a", "b"), Make::Symlink("b", "../a"), file("a/precious", "x")], "a/precious"),
        (vec![Make::Link("l", "missing")], "l"),
        (vec![Make::Link("l", "m"), Make::Link("m", "l")], "l"),
        (vec![Make::Directory("d"), Make::Link("l", "d")], "l"),
        (vec![file("f", ""), file("f/below", "")], "f/below"),
        (vec![Make::Link("l", "l")], "l"),
    ] {
        let world = World::new();
        let error = world.entry(&entries).expect_err(named);
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(error.kind(), "layer-entry", "{error}");
        assert!(world.outside_is_untouched(), "{named}");
    }
}

#[test]
fn nothing_is_written_through_a_symlink_to_the_outside() {
    for entries in [
        vec![Make::Symlink("s", "../outside"), file("s/precious", "inside")],
        vec![Make::Symlink("s", "/"), file("s/outside/precious", "inside")],
        vec![Make::Symlink("s", "../outside"), Make::Directory("s/new"), Make::Symlink("s/precious", "x")],
        vec![file("f", ""), Make::Symlink("s", "../outside"), Make::Link("s/precious", "f")],
        vec![Make::Symlink("a", "b"), Make::Symlink("b", "../outside"), file("a/precious", "x")],
        vec![Make::Directory("d"), Make::Symlink("d", "../outside"), file("d/precious", "x")],
    ] {
        let world = World::new();
        world.entry(&entries).unwrap();
        assert!(fs::symlink_metadata(world.layer().join("outside/precious")).is_ok(), "{entries:?}");
        assert!(world.outside_is_untouched(), "{entries:?}");
    }
}

#[test]
fn a_directory_replaced_by_a_symlink_gets_no_times_through_it() {
    let world = World::new();
    let outside = world.temp.path().join("outside");
    let before = fs::metadata(&outside).unwrap().mtime();
    world.entry(&[Make::Directory("d"), Make::Directory("d/e"), Make::Symlink("d", "../outside")]).unwrap();
    assert_eq!(fs::metadata(&outside).unwrap().mtime(), before);
}

#[test]
fn limits_stop_a_bomb() {
    let zeros = build(&[Make::File("zeros", vec![0; 2_000_000])]);
    let limits = Limits { layer_size: 1_000_000, ..Limits::default() };
    assert_eq!(World::new().extract_with(&zeros, limits).unwrap_err().kind(), "limit");
    let many = build(&[file("a", ""), file("b", ""), file("c", "")]);
    let limits = Limits { layer_entries: 2, ..Limits::default() };
    assert_eq!(World::new().extract_with(&many, limits).unwrap_err().kind(), "limit");
}

#[test]
fn the_diff_id_covers_the_whole_stream() {
    let mut archive = build(&[file("a", "x")]);
    let plain = World::new().extract(&archive).unwrap().diff_id;
    assert_eq!(plain, DiffId::of(Algorithm::Sha256, &archive));
    archive.extend_from_slice(b"after the end");
    assert_eq!(World::new().extract(&archive).unwrap().diff_id, DiffId::of(Algorithm::Sha256, &archive));
}

#[test]
fn the_inventory_tells_what_is_on_disk() {
    let world = World::new();
    world.entry(&[Make::Directory("d"), file("d/f", "content"), Make::Symlink("s", "d/f")]).unwrap();
    let mut inventory =
        InventoryReader::new(fs::File::open(world.temp.path().join("record")).unwrap()).unwrap();
    let mut entries = BTreeMap::new();
    while let Some(entry) = inventory.next_entry().unwrap() {
        entries.insert(String::from_utf8(entry.path.clone()).unwrap(), entry);
    }
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["", "d", "d/f", "s"]);
    let hash = xxhash_rust::xxh3::xxh3_128(b"content");
    assert_eq!(entries["d/f"].kind, InventoryKind::File { size: 7, hash });
    assert_eq!(entries["s"].kind, InventoryKind::Symlink { target: b"d/f".to_vec() });
    assert_eq!(inventory.totals().unwrap().entries, 3);
}

const NAMES: [&str; 8] = ["a", "b", "c", "a/x", "a/y", "b/x", "b/x/z", "c/x"];
const TARGETS: [&str; 9] = ["a", "b", "c", "a/x", "b/x/z", "..", "../outside", "../outside/precious", "/"];

fn hostile_entry() -> impl Strategy<Value = Make> {
    let name = || proptest::sample::select(&NAMES[..]);
    let target = || proptest::sample::select(&TARGETS[..]);
    prop_oneof![
        (name(), 0_usize..100_000).prop_map(|(name, size)| Make::File(name, vec![b'x'; size])),
        name().prop_map(Make::Directory),
        (name(), target()).prop_map(|(name, target)| Make::Symlink(name, target)),
        (name(), target()).prop_map(|(name, target)| Make::Link(name, target)),
        name().prop_map(|name| Make::Device(name, EntryType::Char)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the entries, nothing outside changes, and what is refused is refused with an error.
    #[test]
    fn hostile_archives_stay_inside(entries in proptest::collection::vec(hostile_entry(), 0..12)) {
        let world = World::new();
        let _ = world.entry(&entries);
        prop_assert!(world.outside_is_untouched());
    }

    /// One writer and many, in batches or not, give the same tree: the last entry of each name.
    #[test]
    fn the_last_file_of_a_name_wins(
        names in proptest::collection::vec((0_usize..20, 0_usize..200_000), 1..60),
    ) {
        let paths: Vec<&'static str> = vec![
            "f0", "f1", "f2", "f3", "f4", "d/f5", "d/f6", "d/f7", "d/f8", "d/f9",
            "e/f10", "e/f11", "e/f12", "e/f13", "e/f14", "e/g/f15", "e/g/f16", "e/g/f17", "e/g/f18", "e/g/f19",
        ];
        let mut last = BTreeMap::new();
        let mut entries = Vec::new();
        for (index, (name, size)) in names.iter().enumerate() {
            let content = vec![b'a' + u8::try_from(index % 26).unwrap(); *size];
            last.insert(paths[*name], content.clone());
            entries.push(Make::File(paths[*name], content));
        }
        let world = World::new();
        world.entry(&entries).unwrap();
        for (path, content) in last {
            prop_assert!(fs::read(world.layer().join(path)).unwrap() == content, "{}", path);
        }
    }
}

mod properties;
mod sequence;
