//! A tree that was extracted is found intact, whatever its entries; any single change is found.

use std::fs;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ::tar::EntryType;
use proptest::prelude::*;

use super::*;
use crate::extract::tests::{Make, World, file};

fn check(world: &World) -> Differences {
    let root = sys::open_directory(&world.layer()).unwrap();
    let mut inventory = fs::File::open(world.temp.path().join("record")).unwrap();
    verify(&root, &mut inventory, &Cancel::new()).unwrap()
}

fn text(world: &World) -> String {
    check(world).to_string()
}

fn set_modified(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Changes content, and nothing that `stat` shows but the change time.
fn flip(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(&content).unwrap();
    file.set_modified(modified).unwrap();
}

fn rich() -> World {
    let world = World::new();
    let entries = [
        Make::Directory("./"),
        Make::Directory("usr/"),
        file("usr/tool", "#!/bin/sh\n"),
        Make::File("usr/large", vec![7; 300_000]),
        Make::Symlink("usr/link", "/etc/passwd"),
        Make::Link("usr/hard", "usr/tool"),
        Make::Link("first", "usr/late"),
        file("usr/late", "late"),
        file("deep/er/file", "x"),
        file("usr/.wh.gone", ""),
        Make::Device("dev/null", EntryType::Char),
    ];
    world.entry(&entries).unwrap();
    world
}

#[test]
fn what_was_extracted_is_intact() {
    assert_eq!(check(&rich()), Differences::default());
}

/// A change of the tree, and the words that tell of it.
type Deed = (fn(&Path), &'static str);

/// Changes of what an entry has.
fn changes_of_entries() -> [Deed; 12] {
    [
        (|l| flip(&l.join("usr/tool")), "usr/tool: content changed"),
        (|l| flip(&l.join("usr/large")), "usr/large: content changed"),
        (|l| flip(&l.join("first")), "usr/late: content changed"),
        (|l| set_modified(&l.join("usr/tool"), 5), "usr/tool: mtime changed"),
        (|l| set_modified(&l.join("usr"), 5), "usr: mtime changed"),
        (|l| set_modified(l, 5), ".: mtime changed"),
        (
            |l| fs::set_permissions(l.join("usr/tool"), Permissions::from_mode(0o4755)).unwrap(),
            "usr/tool: mode changed",
        ),
        (
            |l| fs::set_permissions(l.join("deep"), Permissions::from_mode(0o700)).unwrap(),
            "deep: mode changed",
        ),
        (
            |l| rustix::fs::removexattr(l.join("usr"), "user.containers.override_stat").unwrap(),
            "usr: xattr user.containers.override_stat changed",
        ),
        (
            |l| {
                let (path, name) = (l.join("usr/.wh.gone"), "user.containers.override_stat");
                rustix::fs::setxattr(path, name, b"0:0:0100644", rustix::fs::XattrFlags::empty()).unwrap();
            },
            "usr/.wh.gone: xattr user.containers.override_stat changed",
        ),
        (
            |l| fs::File::options().append(true).open(l.join("usr/large")).unwrap().write_all(b"x").unwrap(),
            "usr/large: mtime changed, size changed",
        ),
        (
            |l| fs::File::create(l.join("usr/tool")).map(drop).unwrap(),
            "usr/tool: mtime changed, size changed",
        ),
    ]
}

/// Changes of which entries there are, and of what type.
fn changes_of_names() -> [Deed; 10] {
    [
        (|l| fs::write(l.join("deep/new"), "").unwrap(), "deep/new: added"),
        (|l| fs::create_dir_all(l.join("new/below")).unwrap(), ": mtime changed; new: added"),
        (|l| fs::remove_file(l.join("deep/er/file")).unwrap(), "deep/er/file: removed"),
        (
            |l| fs::remove_dir_all(l.join("deep")).unwrap(),
            "; deep: removed; deep/er: removed; deep/er/file: removed",
        ),
        (
            |l| {
                fs::remove_file(l.join("first")).unwrap();
                fs::copy(l.join("usr/late"), l.join("first")).unwrap();
            },
            "first: hard link broken",
        ),
        (
            |l| {
                fs::remove_file(l.join("usr/link")).unwrap();
                symlink("/etc/shadow", l.join("usr/link")).unwrap();
            },
            "usr/link: mtime changed, link text changed",
        ),
        (
            |l| {
                fs::remove_file(l.join("dev/null")).unwrap();
                symlink("/dev/null", l.join("dev/null")).unwrap();
            },
            "dev/null: type changed",
        ),
        (
            |l| {
                fs::rename(l.join("deep"), l.parent().unwrap().join("elsewhere")).unwrap();
                symlink("../elsewhere", l.join("deep")).unwrap();
            },
            "deep: type changed; deep/er: removed; deep/er/file: removed",
        ),
        (
            |l| {
                fs::remove_file(l.join("usr/tool")).unwrap();
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    l.join("usr/tool"),
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o755),
                    0,
                )
                .unwrap();
            },
            "usr/tool: type changed",
        ),
        (|l| fs::remove_dir_all(l.join("usr")).unwrap(), "3 more"),
    ]
}

#[test]
fn every_kind_of_change_is_found_and_named() {
    for (deed, expected) in changes_of_entries().into_iter().chain(changes_of_names()) {
        let world = rich();
        deed(&world.layer());
        let found = text(&world);
        assert!(found.contains(expected), "{expected}\n{found}");
    }
}

/// Sets an attribute of an entry; `false` where this user or file system may not.
fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

#[test]
fn an_attribute_that_was_added_is_found_and_named() {
    // `setcap cap_net_raw+ep`, and `setfacl -m u:5:r`.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl =
        [&[2, 0, 0, 0][..], &acl_entry(1, 6, u32::MAX), &acl_entry(2, 4, 5), &acl_entry(4, 4, u32::MAX)];
    let acl = [&acl.concat()[..], &acl_entry(16, 4, u32::MAX), &acl_entry(32, 4, u32::MAX)].concat();
    let names: [(&str, &[u8]); 5] = [
        ("user.zz", b"x"),
        ("user.overlay.opaque", b"y"),
        ("trusted.zz", b"x"),
        ("security.capability", &capability),
        ("system.posix_acl_access", &acl),
    ];
    let mut tried = 0;
    for (name, value) in names {
        for path in ["", "usr", "usr/tool", "usr/.wh.gone", "usr/link", "dev/null"] {
            let world = rich();
            if !set(&world.layer().join(path), name, value) || (path.is_empty() && name.starts_with("system"))
            {
                continue;
            }
            tried += 1;
            let shown = if path.is_empty() { "." } else { path };
            assert!(text(&world).starts_with(&format!("{shown}: ")), "{name} of {path}: {}", text(&world));
            assert!(text(&world).ends_with(&format!("xattr {name} added")), "{name}: {}", text(&world));
        }
    }
    assert!(tried >= 10, "at least those of users can be set");
}

/// An entry of an ACL as the kernel keeps it: tag, rights, user or group.
fn acl_entry(tag: u16, rights: u16, id: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
}

/// The directory of layers may hand down ACLs, which are no part of a layer.
#[test]
fn inherited_acls_are_neither_kept_nor_missed() {
    let world = World::new();
    let acl =
        [&[2, 0, 0, 0][..], &acl_entry(1, 7, u32::MAX), &acl_entry(2, 5, 5), &acl_entry(4, 5, u32::MAX)];
    let acl = [&acl.concat()[..], &acl_entry(16, 5, u32::MAX), &acl_entry(32, 5, u32::MAX)].concat();
    if !set(world.temp.path(), "system.posix_acl_default", &acl) {
        let _ = writeln!(std::io::stderr(), "no ACLs here: inherited ones were NOT checked");
        return;
    }
    fs::remove_dir(world.layer()).unwrap();
    fs::create_dir(world.layer()).unwrap();
    world.entry(&[file("usr/tool", "x"), Make::Directory("etc/")]).unwrap();
    assert_eq!(text(&world), "");
    for path in ["", "usr", "usr/tool", "etc"] {
        let mut list = [0; 4096];
        let length = rustix::fs::llistxattr(world.layer().join(path), &mut list).unwrap();
        assert!(!String::from_utf8_lossy(&list[..length]).contains("posix_acl"), "{path}");
    }
}

#[test]
fn a_link_that_outlived_its_first_name_is_checked_for_its_content() {
    let world = World::new();
    world
        .entry(&[file("a", "first"), Make::Link("b", "a"), file("a", "second"), Make::Link("c", "b")])
        .unwrap();
    assert_eq!(text(&world), "");
    flip(&world.layer().join("c"));
    assert_eq!(text(&world), "b: content changed");
}

#[test]
fn a_hostile_tree_is_told_and_no_more() {
    let world = World::new();
    let mut names: Vec<&'static str> = Vec::new();
    for depth in 1..=30 {
        names.push(Box::leak("d/".repeat(depth).into_boxed_str()));
    }
    world.entry(&names.iter().map(|name| Make::Directory(name)).collect::<Vec<_>>()).unwrap();
    let mut current = sys::open_directory_beneath(
        sys::open_directory(&world.layer()).unwrap().as_fd(),
        names[29].trim_end_matches('/').as_bytes(),
    )
    .unwrap();
    for _ in 0..3000 {
        sys::make_directory(current.as_fd(), b"d", 0o700).unwrap();
        current = sys::open_directory_beneath(current.as_fd(), b"d").unwrap();
    }
    let found = check(&world);
    assert_eq!(found.count, 2, "{found}");
    assert!(found.told[1].path.ends_with("d/d") && found.told[1].changes == [Change::Added], "{found}");
    let root = sys::open_directory(world.temp.path()).unwrap();
    sys::remove_tree(root.as_fd(), b"layer").unwrap();
}

#[test]
fn a_cut_off_inventory_is_an_error() {
    let world = rich();
    let path = world.temp.path().join("record");
    let bytes = fs::read(&path).unwrap();
    let root = sys::open_directory(&world.layer()).unwrap();
    for length in [0, 10, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let mut inventory = fs::File::open(&path).unwrap();
        assert!(verify(&root, &mut inventory, &Cancel::new()).is_err(), "{length}");
    }
}

const NAMES: [&str; 9] = ["a", "b", "c", "a/x", "a/y", "b/x", "b/x/z", "c/x", "c/x/y"];

fn entry() -> impl Strategy<Value = Make> {
    let name = || proptest::sample::select(&NAMES[..]);
    prop_oneof![
        3 => (name(), 0_usize..100_000, any::<u8>()).prop_map(|(name, size, with)| Make::File(name, vec![with; size])),
        2 => name().prop_map(Make::Directory),
        1 => (name(), name()).prop_map(|(name, target)| Make::Symlink(name, target)),
        4 => (name(), name()).prop_map(|(name, target)| Make::Link(name, target)),
        1 => name().prop_map(|name| Make::Device(name, EntryType::Char)),
    ]
}

fn files_below(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// The model says what extraction did, with all its replacing, linking and waiting.
    #[test]
    fn whatever_is_extracted_is_intact_until_one_thing_is_changed(
        entries in proptest::collection::vec(entry(), 1..12),
        pick in any::<prop::sample::Index>(),
        deed in 0_u8..4,
    ) {
        let world = World::new();
        if world.entry(&entries).is_err() {
            return Ok(());
        }
        prop_assert_eq!(text(&world), "");
        let mut paths = Vec::new();
        files_below(&world.layer(), &mut paths);
        if paths.is_empty() {
            return Ok(());
        }
        paths.sort();
        let path = &paths[pick.index(paths.len())];
        let metadata = fs::symlink_metadata(path).unwrap();
        match deed {
            0 if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
            0 => fs::remove_file(path).unwrap(),
            1 if metadata.is_file() && metadata.len() > 0 => flip(path),
            1 if metadata.is_file() => fs::write(path, "x").unwrap(),
            2 if !metadata.is_symlink() => {
                fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            }
            _ => fs::write(path.with_file_name("new"), "").unwrap(),
        }
        prop_assert!(check(&world).count > 0, "deed {} on {}", deed, path.display());
    }
}
