//! The promises of kept blobs, each on a home of its own.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::cancel::Cancel;
use crate::progress::Silent;

const EMPTY: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

struct Home {
    temp: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let home = LockedHome::acquire(temp.path(), "test", &Cancel::new(), Arc::new(Silent)).unwrap();
        let store = Store::open(&home, &temp.path().join("layers")).unwrap();
        Self { temp, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn spool(&self, digest: &BlobDigest, content: &str) -> Arc<Spool> {
        let spool = self.store.spool(digest, content.len() as u64).unwrap();
        spool.append(content.as_bytes()).unwrap();
        spool.complete();
        spool
    }

    fn keep(&self, content: &str) -> BlobDigest {
        let digest = digest(content);
        for result in keep(&self.store, &[self.spool(&digest, content)]) {
            result.unwrap();
        }
        digest
    }

    fn blobs(&self) -> Blobs {
        Blobs::of(self.temp.path())
    }
}

fn digest(content: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, content.as_bytes())
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn spools_become_blobs_of_a_layout_that_only_its_user_reads() {
    let home = Home::new();
    let reader = home.blobs();
    assert!(reader.list().unwrap().is_empty() && !reader.has(&digest("a"), 1));
    let long = BlobDigest::of(Algorithm::Sha512, b"b");
    let results = keep(&home.store, &[home.spool(&digest("a"), "a"), home.spool(&long, "b")]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(reader.has(&digest("a"), 1) && reader.has(&long, 1));
    assert!(!reader.has(&digest("a"), 2), "another size");
    let mut text = String::new();
    reader.open(&long).unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");
    assert_eq!(reader.open(&digest("none")).unwrap().map(drop), None);
    let found: Vec<_> = reader.list().unwrap().into_iter().map(|blob| (blob.digest, blob.size)).collect();
    assert_eq!(found, [(digest("a"), 1), (long.clone(), 1)]);

    assert_eq!(
        fs::read_to_string(home.path("blobs/oci-layout")).unwrap(),
        r#"{"imageLayoutVersion":"1.0.0"}"#
    );
    assert_eq!(fs::read_to_string(home.path("blobs/index.json")).unwrap(), EMPTY);
    for directory in ["blobs", "blobs/blobs", "blobs/blobs/sha256", "blobs/blobs/sha512"] {
        assert_eq!(mode(&home.path(directory)), 0o700, "{directory}");
    }
    for file in [home.path("blobs/oci-layout"), home.path("blobs/index.json"), reader.path(&digest("a"))] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert!(fs::read_dir(home.path("downloads")).unwrap().next().is_none());
    assert!(!home.path(".blobs.new").exists());
}

#[test]
fn an_index_is_written_when_it_changes_and_blobs_go_one_by_one() {
    let home = Home::new();
    let (one, two) = (home.keep("one"), home.keep("two"));
    let index = home.path("blobs/index.json");
    write_blobs_index(home.store.home(), b"{}").unwrap();
    assert_eq!(fs::read_to_string(&index).unwrap(), "{}");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = inode(&index);
    write_blobs_index(home.store.home(), b"{}").unwrap();
    assert_eq!(inode(&index), before, "the same bytes are not written again");
    let removed = remove_blobs(home.store.home(), &BTreeSet::from([one.clone(), digest("never")]));
    assert_eq!(removed.removed, BTreeMap::from([(one.clone(), 3)]));
    assert!(removed.kept.is_empty());
    assert!(!home.blobs().has(&one, 3) && home.blobs().has(&two, 3));
}

#[test]
fn what_is_in_the_way_is_left_alone_and_named() {
    let home = Home::new();
    home.keep("first");
    let outside = home.path("outside");
    fs::write(&outside, "theirs").unwrap();
    let (link, directory) = (digest("link"), digest("directory"));
    symlink(&outside, home.blobs().path(&link)).unwrap();
    fs::create_dir(home.blobs().path(&directory)).unwrap();
    assert!(!home.blobs().has(&link, 6));
    assert!(home.blobs().open(&link).is_err() && home.blobs().open(&directory).is_err());
    assert_eq!(home.blobs().list().unwrap().len(), 1);
    let results = keep(&home.store, &[home.spool(&link, "link"), home.spool(&directory, "directory")]);
    for (result, digest) in results.into_iter().zip([&link, &directory]) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(digest.text().hex()), "{message}");
    }
    let removed = remove_blobs(home.store.home(), &BTreeSet::from([link.clone(), directory.clone()]));
    assert_eq!((removed.removed.len(), removed.kept.len()), (0, 2));
    assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");

    let index = home.path("blobs/index.json");
    fs::remove_file(&index).unwrap();
    symlink(&outside, &index).unwrap();
    let error = write_blobs_index(home.store.home(), b"{}").unwrap_err().to_string();
    assert!(error.contains("index.json") && error.contains("symbolic link"), "{error}");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "theirs");
}

#[test]
fn a_layout_that_lacks_something_gets_it_and_a_directory_elsewhere_serves() {
    let home = Home::new();
    fs::create_dir(home.path("elsewhere")).unwrap();
    symlink("elsewhere", home.path("blobs")).unwrap();
    let kept = home.keep("kept");
    assert!(home.path("elsewhere/blobs/sha256").join(kept.text().hex()).exists());
    fs::remove_file(home.path("blobs/oci-layout")).unwrap();
    write_blobs_index(home.store.home(), b"{}").unwrap();
    assert!(home.path("blobs/oci-layout").exists());
    fs::remove_file(home.path("blobs")).unwrap();
    fs::write(home.path("blobs"), "a file").unwrap();
    assert!(write_blobs_index(home.store.home(), b"{}").is_err());
    let spool = home.spool(&digest("x"), "x");
    assert!(keep(&home.store, &[spool])[0].is_err());
    assert_eq!(
        fs::read_to_string(home.path("downloads").join(format!("{}.part", digest("x")))).unwrap(),
        "x"
    );
}

#[test]
fn what_killed_runs_left_is_swept_and_what_they_received_is_there() {
    let home = Home::new();
    let kept = home.keep("kept");
    fs::create_dir_all(home.path(".blobs.new/blobs")).unwrap();
    let left = [
        home.path("blobs/.index.json.7.tmp"),
        home.path("blobs/blobs/sha256").join(format!(".{}.7.tmp", kept.text().hex())),
    ];
    for left in &left {
        fs::write(left, "half").unwrap();
    }
    sweep(home.temp.path());
    assert!(left.iter().all(|left| !left.exists()) && !home.path(".blobs.new").exists());
    assert!(home.blobs().has(&kept, 4));

    let whole = digest("whole");
    home.spool(&whole, "whole");
    assert!(home.store.open_blob(&whole, 9).unwrap().is_none());
    assert!(home.store.open_blob(&whole, 5).unwrap().is_some());
    assert!(home.store.open_blob(&kept, 4).unwrap().is_some());
    assert!(home.store.open_blob(&digest("none"), 4).unwrap().is_none());
}
