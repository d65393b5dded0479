//! References in the course of time: histories, ways back, new digests that wait, staged images.

use super::*;

fn version(layers: &[&str]) -> ResolvedImage {
    ResolvedImage { reference: reference(ALPINE), ..image(ALPINE, layers) }
}

fn sparing(count: u32) -> Holding<'static> {
    Holding { keeps_earlier: count, ..usual() }
}

fn record(catalog: &mut WritableCatalog, layers: &[&str], holding: Holding<'_>) {
    catalog.record(&version(layers), &[reference(ALPINE)], &file("one"), holding).unwrap();
}

fn digests_of(history: &History) -> Vec<(BlobDigest, bool)> {
    history.entries.iter().map(|entry| (entry.digest.clone(), entry.until.is_none())).collect()
}

#[test]
fn a_history_tells_what_a_reference_meant_and_leads_back() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let versions = [version(&["a", "b"]), version(&["a", "c"]), version(&["d"])];
    assert_eq!(catalog.history(&reference(ALPINE)).unwrap().entries, []);
    for layers in [&["a", "b"][..], &["a", "c"], &["a", "c"], &["d"]] {
        record(&mut catalog, layers, usual());
    }
    let history = catalog.history(&reference(ALPINE)).unwrap();
    let expected =
        [(2, true), (1, false), (0, false)].map(|(of, now): (usize, _)| (versions[of].digest.clone(), now));
    assert_eq!(digests_of(&history), expected);
    for pair in history.entries.windows(2) {
        assert_eq!(pair[1].until, Some(pair[0].from));
        assert!(pair[1].from <= pair[0].from);
    }
    // All of an earlier image is there, and of the present one what its rows say.
    for earlier in &versions[..2] {
        let found = catalog.meaning(&reference(ALPINE), &earlier.platform, &earlier.digest).unwrap();
        assert_eq!(found.as_ref(), Some(earlier));
    }
    assert_eq!(
        catalog.meaning(&reference(ALPINE), &versions[2].platform, &versions[2].digest).unwrap(),
        None
    );
    // Going back makes the present one an earlier one; each digest counts once.
    record(&mut catalog, &["a", "b"], usual());
    let earlier: Vec<BlobDigest> =
        catalog.earlier(&reference(ALPINE)).unwrap().into_iter().map(|earlier| earlier.digest).collect();
    assert_eq!(earlier, [2, 1].map(|of: usize| versions[of].digest.clone()));
    assert_eq!(catalog.history(&reference(ALPINE)).unwrap().entries.len(), 4);
    // Nothing of an image that is gone stays.
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    for table in ["sync_history", "sync_meanings", "sync_meaning_layers", "sync_meaning_documents"] {
        assert_eq!(sandbox.count(table), 0, "{table}");
    }
}

#[test]
fn a_history_has_an_end() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    for round in 0..120 {
        let version =
            ResolvedImage { digest: BlobDigest::of(Algorithm::Sha256, &[round]), ..version(&["a"]) };
        catalog.record(&version, &[reference(ALPINE)], &file("one"), usual()).unwrap();
    }
    assert_eq!(catalog.history(&reference(ALPINE)).unwrap().entries.len(), 100);
    assert_eq!(sandbox.count("sync_meanings"), 99);
}

#[test]
fn an_older_catalog_knows_the_present_and_remembers_from_there() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    record(&mut catalog, &["a"], usual());
    sandbox.sql().execute_batch("DELETE FROM sync_history").unwrap();
    let before = catalog.history(&reference(ALPINE)).unwrap();
    assert_eq!(digests_of(&before), [(version(&["a"]).digest, true)]);
    record(&mut catalog, &["b"], usual());
    let after = catalog.history(&reference(ALPINE)).unwrap();
    assert_eq!(digests_of(&after), [(version(&["b"]).digest, true), (version(&["a"]).digest, false)]);
    assert_eq!(after.entries[1].from, before.entries[0].from);
}

#[test]
fn earlier_layers_are_needed_as_long_as_somebody_spares_them() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let none = BTreeSet::new();
    for layers in [["a"], ["b"], ["c"]] {
        record(&mut catalog, &layers, sparing(1));
    }
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["b", "c"]));
    assert_eq!(catalog.layers_needed_outside(&refs(&[ALPINE])).unwrap(), none_of_layers());
    let (here, elsewhere) = (Path::new("/layers"), Path::new("/other"));
    let needed = catalog.layers_needed_in((here, elsewhere), &none, &mut |_, _| false);
    assert_eq!(needed.unwrap(), digests(&["b", "c"]));
    catalog.adopt(&[reference(ALPINE)], &file("two"), sparing(2)).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["a", "b", "c"]));
    assert_eq!(
        one(&catalog, ALPINE).unwrap().earlier_for,
        BTreeMap::from([(file("one"), 1), (file("two"), 2)])
    );
    let (one_file, two, alpine) = (file("one"), file("two"), refs(&[ALPINE]));
    let leaving = GivenUp { images: &none, by: Some((&two, &alpine)), keeps: None };
    assert_eq!(catalog.layers_needed_outside(leaving).unwrap(), digests(&["b", "c"]));
    // A file may say another number by now than when it was applied.
    let keeping = |count| GivenUp { keeps: Some((&one_file, count)), ..leaving };
    assert_eq!(catalog.layers_needed_outside(keeping(2)).unwrap(), digests(&["a", "b", "c"]));
    assert_eq!(catalog.layers_needed_outside(keeping(0)).unwrap(), digests(&["c"]));
    // Who wants no layers spares none; blobs are spared where they are kept.
    catalog.adopt(&[reference(ALPINE)], &file("two"), Holding { extracts: false, ..sparing(2) }).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["b", "c"]));
    assert_eq!(catalog.blobs_needed_outside(&none).unwrap(), none_of_layers());
    let keeping = Holding { extracts: false, keeps_blobs: true, ..sparing(2) };
    catalog.adopt(&[reference(ALPINE)], &file("two"), keeping).unwrap();
    assert_eq!(catalog.blobs_needed_outside(&none).unwrap(), digests(&["a", "b", "c"]));
    catalog.forget(&[reference(ALPINE)], Some(&file("two"))).unwrap();
    catalog.adopt(&[reference(ALPINE)], &file("one"), usual()).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["c"]));
    assert_eq!(sandbox.count("sync_keeps"), 0);
}

fn none_of_layers() -> BTreeSet<BlobDigest> {
    BTreeSet::new()
}

#[test]
fn a_hold_ends_with_its_digest() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let held = |catalog: &Catalog| {
        let by_row = one(catalog, ALPINE).unwrap().held;
        assert_eq!(catalog.history(&reference(ALPINE)).unwrap().held, by_row);
        by_row.is_some()
    };
    record(&mut catalog, &["a"], usual());
    record(&mut catalog, &["b"], usual());
    assert!(!held(&catalog));
    let back = [Change::Record {
        image: &version(&["a"]),
        names: &[reference(ALPINE)],
        hold: true,
        has_blobs: false,
        events: &[],
    }];
    catalog.change(&back, &file("one"), usual()).into_iter().for_each(Result::unwrap);
    assert!(held(&catalog));
    // The same again, by another owner too, changes nothing.
    catalog.record(&version(&["a"]), &[reference(ALPINE)], &file("two"), usual()).unwrap();
    assert!(held(&catalog));
    assert!(catalog.release(&reference(ALPINE)).unwrap());
    assert!(!held(&catalog) && !catalog.release(&reference(ALPINE)).unwrap());
    catalog.hold(&reference(ALPINE), &version(&["a"]).digest).unwrap();
    record(&mut catalog, &["b"], usual());
    assert!(!held(&catalog));
    assert_eq!(sandbox.count("sync_holds"), 0);
}

#[test]
fn new_digests_wait_until_they_are_taken_or_gone() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    record(&mut catalog, &["a"], usual());
    let candidate = |layers: &[&str], since| TagCandidate {
        digest: version(layers).digest,
        since: Timestamp::from_millisecond(since).unwrap(),
        ahead: None,
    };
    let (one, other) = (candidate(&["b"], 5), candidate(&["c"], 7));
    let back = TagCandidate { ahead: Some(Timestamp::from_millisecond(9).unwrap()), ..other.clone() };
    for now in [&one, &back, &other] {
        let changes = BTreeMap::from([(reference(ALPINE), Some(now.clone()))]);
        catalog.note_candidates(&changes).unwrap();
        assert_eq!(catalog.candidates().unwrap(), BTreeMap::from([(reference(ALPINE), now.clone())]));
    }
    // A repair is no news. Another digest is, also if it is not the one that waits.
    record(&mut catalog, &["a"], usual());
    assert_eq!(catalog.candidates().unwrap().len(), 1);
    record(&mut catalog, &["b"], usual());
    assert!(catalog.candidates().unwrap().is_empty());
    catalog.note_candidates(&BTreeMap::from([(reference(ALPINE), Some(back))])).unwrap();
    record(&mut catalog, &["c"], usual());
    assert_eq!((sandbox.count("sync_candidates"), sandbox.count("sync_candidates_ahead")), (0, 0));
    catalog.note_candidates(&BTreeMap::from([(reference(ALPINE), Some(one))])).unwrap();
    catalog.note_candidates(&BTreeMap::from([(reference(ALPINE), None)])).unwrap();
    assert!(catalog.candidates().unwrap().is_empty());
}

#[test]
fn staged_images_are_spared_until_they_are_recorded_or_old() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let none = BTreeSet::new();
    record(&mut catalog, &["a"], usual());
    catalog.stage(&[&version(&["b"])]).unwrap();
    catalog.stage(&[&version(&["c"])]).unwrap();
    let staged = catalog.staged(Timestamp::now()).unwrap();
    assert_eq!(staged.len(), 1);
    assert_eq!((&staged[0].reference, &staged[0].digest), (&reference(ALPINE), &version(&["c"]).digest));
    let meaning = catalog.meaning(&reference(ALPINE), &staged[0].platform, &staged[0].digest).unwrap();
    assert_eq!(meaning, Some(version(&["c"])));
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["a", "c"]));
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(14 * 24 + 1);
    assert_eq!(catalog.staged(later).unwrap(), []);
    sandbox.sql().execute_batch("UPDATE sync_staged SET since = since - 15 * 24 * 3600 * 1000").unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["a"]));
    catalog.stage(&[&version(&["c"])]).unwrap();
    record(&mut catalog, &["c"], usual());
    assert_eq!((sandbox.count("sync_staged"), sandbox.count("sync_meanings")), (0, 1));
}

#[test]
fn a_layer_is_needed_wherever_an_image_may_have_it() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let none = BTreeSet::new();
    let [here, other, default] = ["here", "other", "default"].map(|name| sandbox.dir.path().join(name));
    for directory in [&here, &other] {
        fs::create_dir(directory).unwrap();
    }
    let at = |layers| Holding { layers, ..usual() };
    catalog.record(&image("a:1", &["a"]), &[reference("a:1")], &file("one"), at(&*here)).unwrap();
    catalog.record(&image("b:1", &["b"]), &[reference("b:1")], &file("one"), at(&*other)).unwrap();
    let mut asked = Vec::new();
    let mut needed = |catalog: &WritableCatalog, is_elsewhere: bool| {
        let mut look = |theirs: &Path, digest: &BlobDigest| {
            asked.push((theirs.to_owned(), digest.clone()));
            is_elsewhere && theirs != here
        };
        catalog.layers_needed_in((&*here, &*default), &none, &mut look).unwrap()
    };
    assert_eq!(needed(&catalog, true), digests(&["a"]));
    assert_eq!(needed(&catalog, false), digests(&["a", "b"]));
    // The directory of an image that is ready and not recorded is not known.
    catalog.stage(&[&version(&["c"])]).unwrap();
    assert_eq!(needed(&catalog, true), digests(&["a", "c"]));
    assert!(asked.iter().any(|(theirs, digest)| *theirs == other && digests(&["b"]).contains(digest)));
}

#[test]
fn an_earlier_layer_is_spared_here_unless_its_image_is_seen_elsewhere() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let [here, other] = ["here", "other"].map(|name| sandbox.dir.path().join(name));
    for directory in [&here, &other] {
        fs::create_dir(directory).unwrap();
    }
    let at = Holding { layers: &other, ..sparing(1) };
    for layers in [["a"], ["b"]] {
        catalog.record(&image("x:1", &layers), &[reference("x:1")], &file("one"), at).unwrap();
    }
    let needed = |seen: &[&str]| {
        let seen = digests(seen);
        let mut look = |_: &Path, digest: &BlobDigest| seen.contains(digest);
        catalog.layers_needed_in((&*here, &*here), &BTreeSet::new(), &mut look).unwrap()
    };
    assert_eq!(needed(&[]), digests(&["a", "b"]));
    assert_eq!(needed(&["a"]), digests(&["b"]));
    assert_eq!(needed(&["a", "b"]), digests(&[]));
    // Where the current layers are, the directory is the one that is recorded.
    assert_eq!(needed(&["b"]), digests(&[]));
}

#[test]
fn garbled_rows_of_the_past_are_no_past() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    record(&mut catalog, &["a"], usual());
    record(&mut catalog, &["b"], sparing(3));
    catalog.stage(&[&version(&["c"])]).unwrap();
    for garble in [
        "UPDATE sync_history SET digest = x'00' WHERE until IS NOT NULL",
        "UPDATE sync_meanings SET documents_json = '{'",
        "UPDATE sync_meaning_layers SET position = 7",
        "UPDATE sync_staged SET platform = 5",
        "INSERT INTO sync_candidates VALUES ('UPPER', 'sha256:', 'soon'), ('x', 'y', 0)",
        "INSERT INTO sync_holds VALUES ('docker.io/library/alpine:3.20', 7, 'now')",
        "INSERT INTO sync_keeps VALUES ('docker.io/library/alpine:3.20', 'x', 'many')",
    ] {
        sandbox.sql().execute_batch(garble).unwrap();
        catalog.history(&reference(ALPINE)).unwrap();
        catalog.earlier(&reference(ALPINE)).unwrap();
        catalog.candidates().unwrap();
        catalog.staged(Timestamp::now()).unwrap();
        catalog.layers_needed_outside(&BTreeSet::new()).unwrap();
        catalog.blobs_needed_outside(&BTreeSet::new()).unwrap();
        one(&catalog, ALPINE).unwrap();
    }
    let a = version(&["a"]);
    assert_eq!(catalog.meaning(&reference(ALPINE), &a.platform, &a.digest).unwrap(), None);
    record(&mut catalog, &["d"], usual());
    assert_eq!(one(&catalog, ALPINE).unwrap().held, None);
}

#[test]
fn a_meaning_that_was_staged_long_ago_goes_with_the_next_stage() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let elsewhere = ResolvedImage { reference: reference("elsewhere.example/x:1"), ..version(&["b"]) };
    catalog.stage(&[&version(&["a"])]).unwrap();
    sandbox.sql().execute_batch("UPDATE sync_staged SET since = since - 15 * 24 * 3600 * 1000").unwrap();
    catalog.stage(&[&elsewhere]).unwrap();
    assert_eq!((sandbox.count("sync_staged"), sandbox.count("sync_meanings")), (1, 1));
}
