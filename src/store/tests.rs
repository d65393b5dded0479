//! The store's promises, each on a directory of its own: names appear at once, whole and durable,
//! or not at all.

use std::collections::BTreeSet;
use std::fs::File;

use super::*;
use crate::cancel::Cancel;
use crate::digest::Algorithm;
use crate::progress::Silent;
use crate::state::LayerState;

fn digest(of: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, of.as_bytes())
}

fn open(temp: &Path) -> Store {
    let home = LockedHome::acquire(temp, "test", &Cancel::new(), Arc::new(Silent)).unwrap();
    Store::open(&home, &temp.join("layers")).unwrap()
}

/// Stages a layer whose tree has one file with `content`.
fn staged<'s>(store: &'s Store, digest: &BlobDigest, content: &str) -> Staged<'s> {
    let staged = stage(store, digest).unwrap();
    fs::write(staged.path().join("tree/file"), content).unwrap();
    staged.inventory().unwrap();
    staged
}

fn commit(store: &Store, staged: Staged<'_>) {
    let committed = super::commit(store, vec![staged]);
    assert!(committed.results.iter().all(Result::is_ok) && committed.left.is_empty(), "{committed:?}");
}

fn content(store: &Store, digest: &BlobDigest) -> Option<String> {
    fs::read_to_string(layer_path(store.layers(), digest).join("file")).ok()
}

fn nothing_is_staged(store: &Store) -> bool {
    fs::read_dir(staging::staging_path(store)).unwrap().next().is_none()
}

#[test]
fn a_layer_is_visible_after_commit_only_and_a_dropped_one_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (kept, dropped) = (digest("kept"), digest("dropped"));
    let first = staged(&store, &kept, "new");
    drop(staged(&store, &dropped, "x"));
    assert_eq!(store.places.state(&kept).unwrap(), LayerState::Missing);
    first.ready().unwrap();
    commit(&store, first);
    assert_eq!(store.places.state(&kept).unwrap(), LayerState::Complete);
    assert_eq!(content(&store, &kept).unwrap(), "new");
    assert_eq!(store.places.state(&dropped).unwrap(), LayerState::Missing);
    assert!(nothing_is_staged(&store));
}

#[test]
fn a_new_store_lasts_and_its_home_has_a_claim_on_it() {
    let temp = tempfile::tempdir().unwrap();
    let is_claimed = || homes::is_claimed(&Places::of(&temp.path().join("layers")), temp.path());
    assert!(is_claimed(), "where nothing was ever made nothing is to be claimed");
    let store = open(temp.path());
    assert!(store.home().unsynced().is_empty(), "each name that was made is on disk");
    assert!(is_claimed());
    // A claim that is there may be one of a run that was killed before it lasted.
    drop(store);
    assert!(!open(temp.path()).home().unsynced().is_empty());
}

/// Homes that share the layers in `shared`.
struct Street(tempfile::TempDir);

impl Street {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn places(&self) -> Places {
        Places::of(&self.at("shared"))
    }

    fn open(&self, home: &str) {
        let home = LockedHome::acquire(&self.at(home), "test", &Cancel::new(), Arc::new(Silent)).unwrap();
        drop(Store::open(&home, &self.at("shared")).unwrap());
        assert!(is_claimed(&self.places(), home.path()));
    }

    fn others(&self, home: &str) -> Vec<PathBuf> {
        let claims = claims_of_others(&self.places(), &self.at(home)).unwrap();
        claims.into_iter().map(|claim| claim.path).collect()
    }

    fn with_one_home() -> Self {
        let street = Self(tempfile::tempdir().unwrap());
        fs::create_dir(street.at("home")).unwrap();
        street.open("home");
        street
    }

    /// Counts what lies with the claims.
    fn names(&self) -> usize {
        fs::read_dir(self.at(".shared.msb-sync/homes")).unwrap().count()
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn copy(&self, from: &str, to: &str) {
        Self::copy_of(&self.at(from), &self.at(to));
    }

    fn copy_of(from: &Path, to: &Path) {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    }
}

#[test]
fn a_home_takes_back_what_it_has_claimed_before() {
    let street = Street::with_one_home();
    street.rename("home", "moved");
    assert!(!is_claimed(&street.places(), &street.at("moved")) && street.others("moved").is_empty());
    // Somebody took it for gone.
    fs::remove_dir_all(street.at(".shared.msb-sync/homes")).unwrap();
    assert!(!is_claimed(&street.places(), &street.at("moved")));
    street.open("moved");
    street.rename("moved", "home");
    street.open("home");
    // Without its identifier it is the same directory, where it was.
    fs::remove_file(street.at("home/.msb-sync.id")).unwrap();
    assert!(!is_claimed(&street.places(), &street.at("home")) && street.others("home").is_empty());
    street.open("home");
    assert_eq!((street.others("home").len(), street.names()), (0, 2));
}

#[test]
fn a_copy_takes_no_claim_of_its_original() {
    let street = Street::with_one_home();
    // In whichever place of the two, beside each other or not.
    fs::create_dir(street.at("away")).unwrap();
    for original in ["original", "away/home"] {
        street.rename("home", original);
        street.copy(original, "home");
        let claimed = street.others("home");
        street.open("home");
        assert_eq!(street.others("home"), claimed, "the original is there, and may run");
        street.open(original);
        assert_eq!((street.others("home").len(), street.others(original).len()), (1, 1));
        fs::remove_dir_all(street.at("home")).unwrap();
        // A user follows the hint.
        for claim in street.others(original) {
            fs::remove_file(claim).unwrap();
        }
        street.rename(original, "home");
        street.open("home");
        assert_eq!(street.names(), 2, "a claim, and for whom it was made");
    }
}

#[test]
fn a_clone_gets_an_identifier_of_its_own_once_it_sees_its_original() {
    let street = Street::with_one_home();
    let id = |home: &str| fs::read_to_string(street.at(home).join(".msb-sync.id")).unwrap();
    street.copy("home", "clone");
    let mark = sys::lasting_mark(sys::open_directory(&street.at("clone")).unwrap().as_fd()).unwrap();
    let of_clone = format!("{} {mark}\n", id("home").split_once(' ').unwrap().0);
    fs::write(street.at("clone/.msb-sync.id"), &of_clone).unwrap();
    assert!(!is_claimed(&street.places(), &street.at("clone")));
    assert_eq!(street.others("clone").len(), 1);
    street.open("clone");
    assert!(is_claimed(&street.places(), &street.at("home")) && id("clone") != of_clone);
    assert_eq!((street.others("home").len(), street.others("clone").len()), (1, 1));
    // Neither takes the other's, wherever they are then: the marks are the same.
    street.rename("home", "original");
    street.rename("clone", "home");
    street.open("home");
    assert_eq!(street.others("home").len(), 1);
    street.open("original");
    assert_eq!((street.others("home").len(), street.others("original").len()), (1, 1));
}

#[test]
fn an_original_that_shares_the_layers_in_its_copy_keeps_its_claim() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let open = |home: &str, layers: &str| {
        let home = LockedHome::acquire(&at(home), "test", &Cancel::new(), Arc::new(Silent)).unwrap();
        drop(Store::open(&home, &at(layers)).unwrap());
    };
    fs::create_dir(at("home")).unwrap();
    open("home", "home/layers");
    Street::copy_of(&at("home"), &at("copy"));
    let others = || claims_of_others(&Places::of(&at("copy/layers")), &at("copy")).unwrap().len();
    assert_eq!(others(), 0, "the claim was copied with the layers");
    for _ in 0..2 {
        open("copy", "copy/layers");
        open("home", "copy/layers");
        assert_eq!(others(), 1);
    }
}

#[test]
fn what_lies_beside_a_claim_goes_with_it() {
    let street = Street::with_one_home();
    let gone = "0123456789abcdef0123456789abcdef";
    for name in [".made-for", ".made-for.new", ".new"] {
        let path = street.at(".shared.msb-sync/homes").join(format!("{gone}{name}"));
        std::os::unix::fs::symlink("x", path).unwrap();
    }
    street.open("home");
    assert_eq!(street.names(), 2);
}

#[test]
fn what_another_tool_left_is_not_trusted_and_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let layer = digest("layer");
    let path = layer_path(store.layers(), &layer);
    for make in [
        |path: &Path| fs::create_dir(path).unwrap(),
        |path: &Path| fs::write(path, "a file").unwrap(),
        |path: &Path| std::os::unix::fs::symlink("/", path).unwrap(),
    ] {
        make(&path);
        assert_eq!(store.places.state(&layer).unwrap(), LayerState::Untrusted);
        let new = staged(&store, &layer, "new");
        new.ready().unwrap();
        commit(&store, new);
        assert_eq!(store.places.state(&layer).unwrap(), LayerState::Complete);
        assert_eq!(content(&store, &layer).unwrap(), "new");
        assert!(nothing_is_staged(&store));
        fs::remove_dir_all(&path).unwrap();
        fs::remove_file(store.places.inventory(&layer)).unwrap();
    }
}

#[test]
fn removed_layers_are_gone_with_their_inventories() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let (first, second) = (digest("first"), digest("second"));
    let layer = staged(&store, &first, "x");
    commit(&store, layer);
    let open = File::open(layer_path(store.layers(), &first).join("file")).unwrap();
    let removed = remove(&store, &[&first, &second], 2, &|_| {}).unwrap();
    assert!(removed.removed.is_empty());
    assert_eq!(removed.kept.keys().collect::<Vec<_>>(), [&first]);
    assert_eq!(store.places.state(&first).unwrap(), LayerState::Complete);
    drop(open);
    let removed = remove(&store, &[&first, &second], 2, &|_| {}).unwrap();
    assert_eq!(removed.removed, [first.clone()].into());
    assert!(removed.kept.is_empty() && removed.left.is_empty());
    assert_eq!(store.places.state(&first).unwrap(), LayerState::Missing);
    assert!(!store.places.inventory(&first).exists());
    assert!(nothing_is_staged(&store));
}

/// Several threads remove: each layer is told once, and who cannot go stops no other one.
#[test]
fn many_layers_are_removed_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let digests: Vec<BlobDigest> = (0..40).map(|number| digest(&format!("layer {number}"))).collect();
    for digest in &digests {
        commit(&store, staged(&store, digest, "x"));
    }
    let used = &digests[17];
    let open = File::open(layer_path(store.layers(), used).join("file")).unwrap();
    // In the place of an inventory lies a directory, in that of a note a file.
    let (odd, bare) = (&digests[3], &digests[5]);
    fs::remove_file(store.places.inventory(odd)).unwrap();
    fs::create_dir_all(store.places.inventory(odd).join("not/an/inventory")).unwrap();
    fs::remove_file(store.places.private.join(BINDINGS).join(bare.text())).unwrap();
    let all: Vec<&BlobDigest> = digests.iter().collect();
    let told = std::sync::Mutex::new(Vec::new());
    let removed = remove(&store, &all, 4, &|digest| told.lock().unwrap().push(digest.clone())).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort();
    let others: Vec<BlobDigest> = digests
        .iter()
        .filter(|digest| *digest != used)
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_eq!(told, others);
    assert!(removed.left.is_empty() && removed.removed.iter().eq(&others), "{removed:?}");
    assert_eq!(removed.kept.keys().collect::<Vec<_>>(), [used]);
    drop(open);
    for name in [INVENTORIES, BINDINGS] {
        let names = store.places.private_names(name).unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), [used.to_string()]);
    }
    assert!(nothing_is_staged(&store));
}

#[test]
fn downloads_that_are_of_no_use_any_more_are_swept() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let names = ["complete", "wanted", "stale", "fresh"];
    for name in names {
        fs::write(store.spool_path(&digest(name)), "blob").unwrap();
    }
    commit(&store, staged(&store, &digest("complete"), "x"));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    for name in ["wanted", "stale"] {
        let file = fs::File::options().write(true).open(store.spool_path(&digest(name))).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let day = std::time::Duration::from_secs(24 * 3600);
    sweep_downloads(&store, day, &|of| *of == digest("wanted")).unwrap();
    assert_eq!(names.map(|name| store.spooled(&digest(name))), [0, 4, 0, 4]);
}

#[test]
fn what_is_no_directory_is_named() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "").unwrap();
    for path in ["file", "file/below"] {
        let error = make_directory(&temp.path().join(path), PRIVATE_MODE).unwrap_err();
        assert!(matches!(&error, StoreError::InTheWay { there, .. } if there.ends_with("file")), "{error}");
    }
}

#[test]
fn a_run_that_died_is_finished_or_swept() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let names = ["unready", "ready", "other boot", "renamed"];
    for name in names {
        let mut left = staged(&store, &digest(name), name);
        if name != "unready" {
            left.ready().unwrap();
        }
        if name == "other boot" {
            fs::write(left.path().join("ready"), "another boot").unwrap();
        }
        if name == "renamed" {
            fs::write(left.path().join("ready"), "another boot").unwrap();
            fs::rename(left.path().join("tree"), layer_path(store.layers(), left.digest())).unwrap();
            assert_eq!(store.places.state(left.digest()).unwrap(), LayerState::Untrusted);
        }
        left.armed = false;
    }
    fs::create_dir(staging::staging_path(&store).join("garbage")).unwrap();
    for name in ["ready", "unready"] {
        fs::write(store.spool_path(&digest(name)), "blob").unwrap();
    }
    assert_eq!(recover(&store).unwrap().layers, 2);
    assert_eq!((store.spooled(&digest("ready")), store.spooled(&digest("unready"))), (0, 4));
    assert!(nothing_is_staged(&store));
    let states: Vec<_> = names.iter().map(|name| store.places.state(&digest(name)).unwrap()).collect();
    assert_eq!(
        states,
        [LayerState::Missing, LayerState::Complete, LayerState::Missing, LayerState::Complete]
    );
    assert_eq!(content(&store, &digest("ready")).unwrap(), "ready");
}

#[test]
fn a_note_that_a_killed_run_has_not_named_is_swept() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let bindings = store.places.private.join(BINDINGS);
    std::os::unix::fs::symlink("x", bindings.join("new")).unwrap();
    recover(&store).unwrap();
    assert!(fs::read_dir(&bindings).unwrap().next().is_none());
    // One that lies there meanwhile is in nobody's way.
    std::os::unix::fs::symlink("x", bindings.join("new")).unwrap();
    let layer = digest("layer");
    let new = staged(&store, &layer, "new");
    new.ready().unwrap();
    commit(&store, new);
    store.distrust(&layer).unwrap();
    let names: Vec<_> = fs::read_dir(&bindings).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [&*layer.text()]);
    let note = fs::read_link(bindings.join(layer.text())).unwrap();
    assert!(note.to_string_lossy().starts_with("not inode "), "{note:?}");
}

/// The place of a layer that is named is gone, whatever else lies in there.
#[test]
fn nothing_stays_of_the_place_where_a_layer_was_staged() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let staging = staging::staging_path(&store);
    for (name, more) in [("plain", None), ("more", Some("left/over"))] {
        let layer = digest(name);
        // An earlier run has left something of that name.
        fs::create_dir_all(staging.join(layer.text()).join("tree/old")).unwrap();
        let new = staged(&store, &layer, name);
        assert!(!new.path().join("tree/old").exists());
        new.ready().unwrap();
        if let Some(more) = more {
            fs::create_dir_all(new.path().join(more)).unwrap();
        }
        commit(&store, new);
        assert!(nothing_is_staged(&store));
        assert_eq!(content(&store, &layer).unwrap(), name);
    }
}

#[test]
fn a_tree_that_was_taken_over_and_is_gone_gets_no_inventory() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let layer = digest("layer");
    let path = layer_path(store.layers(), &layer);
    for make in [|_: &Path| (), |path: &Path| fs::write(path, "a file").unwrap()] {
        let new = staged(&store, &layer, "new");
        // As [`Staged::adopt`] leaves it.
        fs::remove_dir_all(new.path().join("tree")).unwrap();
        new.ready().unwrap();
        make(&path);
        let committed = super::commit(&store, vec![new]);
        let error = committed.results[0].as_ref().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(!store.places.inventory(&layer).exists());
        let _ = fs::remove_file(&path);
    }
    recover(&store).unwrap();
    assert!(nothing_is_staged(&store) && !store.places.inventory(&layer).exists());
}

#[test]
fn a_note_is_written_whatever_lies_in_its_place() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let layer = digest("layer");
    commit(&store, staged(&store, &layer, "x"));
    let bindings = store.places.private.join("bindings");
    let make: [&dyn Fn(&Path); 3] = [
        &|path| fs::create_dir_all(path.join("below")).unwrap(),
        &|path| fs::write(path, "").unwrap(),
        &|path| std::os::unix::fs::symlink("elsewhere", path).unwrap(),
    ];
    for in_the_way in ["new", &layer.to_string()] {
        for make in make {
            let _ = fs::remove_file(bindings.join(in_the_way));
            make(&bindings.join(in_the_way));
            store.bind(&layer).unwrap();
            assert_eq!(store.places.state(&layer).unwrap(), LayerState::Complete);
        }
    }
}

#[test]
fn what_is_ready_outlives_an_error_of_another_layer() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mut layers = [digest("a"), digest("b")];
    layers.sort();
    for layer in &layers {
        let mut staged = staged(&store, layer, "x");
        staged.ready().unwrap();
        // As a run leaves it that is killed.
        staged.armed = false;
    }
    let foreign = staging::staging_path(&store).join(layers[1].to_string());
    if std::os::unix::fs::chown(&foreign, Some(54_321), None).is_err() {
        use std::io::Write as _;
        let _ = writeln!(io::stderr(), "not root: what another user put there was NOT checked");
        return;
    }
    recover(&store).unwrap_err();
    std::os::unix::fs::chown(&foreign, Some(sys::user_id()), None).unwrap();
    assert_eq!(recover(&store).unwrap().layers, 2);
    assert_eq!(content(&store, &layers[0]).unwrap(), "x");
}

#[test]
fn a_symlink_in_the_place_of_a_directory_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let layer = digest("layer");
    std::os::unix::fs::symlink("/", layer_path(store.layers(), &layer)).unwrap();
    let opened = store.places.open(&layer);
    assert!(
        matches!(&opened, OpenedLayer::Incomplete(why) if why.starts_with("a symlink is in")),
        "{opened:?}"
    );
    drop(store);
    std::os::unix::fs::symlink("nowhere", temp.path().join("dangling")).unwrap();
    let home = LockedHome::acquire(temp.path(), "test", &Cancel::new(), Arc::new(Silent)).unwrap();
    let error = Store::open(&home, &temp.path().join("dangling")).unwrap_err().to_string();
    assert!(error.ends_with("dangling is a symlink to nowhere, where nothing is"), "{error}");
}
