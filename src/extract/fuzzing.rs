//! Functions that fuzzing feeds: a layer's bytes, all the way to a tree on disk, and an
//! inventory's.
//!
//! Compiled for tests and for `cargo fuzz` only. Each function takes any bytes and panics if a
//! promise of the room is broken: nothing outside the layer directory changes, nothing special lies
//! on disk, the digest is that of the whole stream, and the inventory describes the tree.

use std::fs::{self, File};
use std::io::{Cursor, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::inventory::{InventoryWriter, MAGIC, facts_frame};
use super::verify::Differences;
use super::{InventoryReader, Options, Totals, Workers, decode, extract, read_facts, verify};
use crate::cancel::Cancel;
use crate::digest::{Algorithm, DiffId};
use crate::state::{LayerFacts, Limits, Ownership};
use crate::sys::{self, Kind};

/// Limits so small that no input takes long.
const LIMITS: Limits = Limits { layer_size: 8 << 20, layer_entries: 500, manifest_size: 1 << 20 };
const FACTS_SIZE: u64 = 1;

/// A directory with a layer directory, and beside it things that no layer may touch.
struct Guard {
    name: String,
    top: PathBuf,
    before: Vec<String>,
}

impl Guard {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("msb-sync-fuzz-{}-{number}", std::process::id());
        let top = std::env::temp_dir().join(&name);
        let make = || {
            fs::create_dir(&top)?;
            fs::create_dir(top.join("layer"))?;
            fs::create_dir_all(top.join("outside/inner"))?;
            fs::write(top.join("outside/precious"), "untouched")?;
            symlink("precious", top.join("outside/link"))
        };
        make().expect("the temporary directory can be written");
        let mut guard = Self { name, top, before: Vec::new() };
        guard.before = guard.outside();
        guard
    }

    fn layer(&self) -> OwnedFd {
        sys::open_directory(&self.top.join("layer")).expect("it was made")
    }

    fn inventory(&self) -> File {
        let path = self.top.join("record");
        let opened = File::options().read(true).write(true).create(true).truncate(true).open(path);
        opened.expect("the temporary directory can be written")
    }

    /// Lists everything beside the layer directory, entry by entry. A change that is not named
    /// shows in the time of the inode's last change, unless it came in the same tick of the
    /// kernel's clock.
    fn outside(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.top.join("outside")];
        while let Some(path) = todo.pop() {
            let metadata = fs::symlink_metadata(&path).expect("it was made");
            let facts = [metadata.ino(), metadata.mode().into(), metadata.nlink(), metadata.size()];
            let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
            let content = if metadata.is_file() { fs::read_to_string(&path).ok() } else { None };
            found.push(format!("{} {facts:?} {times:?} {content:?}", path.display()));
            if metadata.is_dir() {
                todo.extend(children(&path));
            }
        }
        found.extend(children(&self.top).iter().map(|path| path.display().to_string()));
        found.retain(|line| !line.ends_with("/record"));
        found.sort();
        found
    }

    fn check(&self) {
        assert_eq!(self.outside(), self.before, "something outside the layer has changed");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let parent = sys::open_directory(&std::env::temp_dir());
        let removed = parent.and_then(|parent| Ok(sys::remove_tree(parent.as_fd(), self.name.as_bytes())?));
        if !std::thread::panicking() {
            removed.expect("whatever a layer is, it can be removed");
        }
    }
}

fn children(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).expect("it was made").flatten().map(|entry| entry.path()).collect()
}

fn workers() -> &'static Workers {
    static WORKERS: OnceLock<Workers> = OnceLock::new();
    WORKERS.get_or_init(|| Workers::new(2, 1, &Cancel::new()).expect("two threads can be had"))
}

/// A compressed layer, extracted below a guarded directory.
pub(crate) fn layer(data: &[u8]) {
    layer_at(|_| data.to_vec());
}

/// Does as [`layer`] with bytes that depend on where the layer directory and its neighbour
/// `outside` lie.
pub(super) fn layer_at(make: impl FnOnce(&Path) -> Vec<u8>) {
    let guard = Guard::new();
    let data = &make(&guard.top)[..];
    let (root, mut inventory) = (guard.layer(), guard.inventory());
    let options = Options {
        ownership: Ownership::OverrideStat,
        limits: LIMITS,
        algorithm: Algorithm::Sha256,
        blob_size: data.len() as u64,
    };
    let handle = inventory.try_clone().expect("a descriptor can be had");
    let result = extract(data, guard.layer(), handle, options, workers());
    guard.check();
    nothing_special(&root);
    let extracted = match result {
        Ok(extracted) => extracted,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut plain = Vec::new();
    let windows = decode::Windows::new(&Cancel::new());
    let (_, mut decoded) = decode::decode(data, data.len() as u64, &windows).expect("it was decoded before");
    decoded.read_to_end(&mut plain).expect("it was decoded before");
    assert_eq!(extracted.diff_id, DiffId::of(Algorithm::Sha256, &plain), "the digest of the whole stream");
    assert_eq!(extracted.totals.tar_bytes, plain.len() as u64);
    let facts = LayerFacts { diff_id: extracted.diff_id, size: data.len() as u64 };
    assert_eq!(read_facts(&mut inventory), Some(facts));
    let differences = verify(&root, &mut inventory, &Cancel::new()).expect("it was just written");
    assert_eq!(differences, Differences::default(), "the record describes the tree: {differences}");
    guard.check();
}

/// Files, directories and symlinks, none of them setuid, setgid or sticky.
fn nothing_special(root: &OwnedFd) {
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let directory = sys::open_directory_beneath(root.as_fd(), &path).expect("its owner may open it");
        let visited = sys::each_entry(directory.as_fd(), |name, _| {
            let found = sys::metadata(directory.as_fd(), name).ok().flatten().expect("it was just listed");
            assert!(found.kind != Kind::Other, "a special file");
            assert!(found.kind == Kind::Symlink || found.mode & 0o7000 == 0, "mode {:o}", found.mode);
            if found.kind == Kind::Directory {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name);
                todo.push(below);
            }
            true
        });
        visited.expect("its owner may list it");
    }
}

/// A layer's inventory, as it is or (most of the time, or compression would hide everything) as
/// what is compressed in it: read, written again, and compared with a tree.
pub(crate) fn inventory(data: &[u8]) {
    let facts = LayerFacts { diff_id: DiffId::of(Algorithm::Sha256, b""), size: FACTS_SIZE };
    let whole =
        if data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) { data.to_vec() } else { wrapped(data, &facts) };
    let _ = read_facts(&mut Cursor::new(&whole));
    if let Some((entries, totals)) = read(&whole) {
        let mut writer = InventoryWriter::new(Vec::new()).expect("memory can be written");
        for entry in &entries {
            writer.entry(entry).expect("memory can be written");
        }
        let again = writer.finish(totals, &facts).expect("memory can be written");
        assert_eq!(read(&again), Some((entries, totals)), "what was read can be written and read");
    }
    let guard = Guard::new();
    let layer = guard.top.join("layer");
    let make = || {
        fs::create_dir(layer.join("d"))?;
        fs::write(layer.join("d/f"), "content")?;
        fs::set_permissions(layer.join("d/f"), fs::Permissions::from_mode(0o644))?;
        fs::hard_link(layer.join("d/f"), layer.join("h"))?;
        symlink("../outside", layer.join("s"))
    };
    make().expect("the temporary directory can be written");
    let mut file = guard.inventory();
    file.write_all(&whole).and_then(|()| file.rewind()).expect("the temporary directory can be written");
    if let Ok(differences) = verify(&guard.layer(), &mut file, &Cancel::new()) {
        assert!(differences.told.len() as u64 <= differences.count);
        assert!(differences.told.iter().all(|difference| !difference.changes.is_empty()));
    }
    guard.check();
}

/// An inventory whose compressed part holds `data`.
fn wrapped(data: &[u8], facts: &LayerFacts) -> Vec<u8> {
    let body = [MAGIC, data].concat();
    let compressed = zstd::stream::encode_all(&body[..], 1).expect("memory can be written");
    [compressed, facts_frame(facts)].concat()
}

fn read(whole: &[u8]) -> Option<(Vec<super::inventory::InventoryEntry>, Totals)> {
    let mut reader = InventoryReader::new(whole).ok()?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        entries.push(entry);
    }
    Some((entries, reader.totals()?))
}
