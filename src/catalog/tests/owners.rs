//! The owners of an image, and its second name.

use super::*;

#[test]
fn an_image_of_two_owners_stays_until_both_drop_it() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, ALPINE, &["a", "b"], &file("two"));
    put(&mut catalog, "other:1", &["a"], &file("one"));
    catalog.forget(&[reference(ALPINE)], Some(&file("three"))).unwrap();
    assert_eq!(one(&catalog, ALPINE).unwrap().owners, BTreeSet::from([file("one"), file("two")]));
    catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(one(&catalog, ALPINE).unwrap().owners, BTreeSet::from([file("two")]));
    assert_eq!(all_needed(&catalog), digests(&["a", "b"]));
    catalog.forget(&[reference(ALPINE)], Some(&file("two"))).unwrap();
    assert_eq!((all_names(&catalog), all_needed(&catalog)), (refs(&["other:1"]), digests(&["a"])));
    assert_eq!((sandbox.count("layers"), sandbox.count("images"), sandbox.count("configs")), (1, 1, 1));
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    assert_eq!(all_names(&catalog), refs(&["other:1"]));
}

#[test]
fn remove_forgets_whoever_owns_it() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    catalog.adopt(&[reference(ALPINE)], &Owner::pull(), usual()).unwrap();
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    assert_eq!(all_needed(&catalog), BTreeSet::new());
    for table in ["images", "layers", "sync_images", "sync_image_layers", "sync_owners"] {
        assert_eq!(sandbox.count(table), 0, "{table}");
    }
}

#[test]
fn a_second_name_lives_and_dies_with_its_image() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, first, &["a"], &file("one"));
    assert_eq!(sandbox.stacked(second), ["a"]);
    let alias = one(&catalog, second).unwrap();
    assert_eq!(alias.alias_of, Some(reference(first)));
    assert_eq!(alias.owners, BTreeSet::from([file("one")]));
    assert_eq!(catalog.owned_by(&file("one")).unwrap().len(), 2);
    assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), BTreeSet::new());
    assert_eq!(catalog.layers_needed_outside(&refs(&[second])).unwrap(), digests(&["a"]));
    // By itself it cannot be removed.
    catalog.forget(&[reference(second)], None).unwrap();
    assert_eq!(all_names(&catalog), refs(&[first, second]));
    catalog.forget(&[reference(first)], None).unwrap();
    assert_eq!(all_names(&catalog), BTreeSet::new());
    assert_eq!(sandbox.count("images"), 0);
}

#[test]
fn a_second_name_that_somebody_wants_for_itself_stays() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    for wanted_first in [true, false] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        let mut names = vec![first, second];
        if wanted_first {
            names.reverse();
        }
        for name in names {
            put(&mut catalog, name, &["a"], &file("one"));
        }
        let row = one(&catalog, second).unwrap();
        assert_eq!((row.alias_of, row.second_name_of), (None, Some(reference(first))));
        assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), digests(&["a"]));
        catalog.forget(&[reference(first)], Some(&file("one"))).unwrap();
        assert_eq!(all_names(&catalog), refs(&[second]));
        assert_eq!(one(&catalog, second).unwrap().second_name_of, None);
        assert_eq!(sandbox.stacked(second), ["a"]);

        // And the other way round: not wanted for itself any more, it is a second name again.
        put(&mut catalog, first, &["a"], &file("two"));
        catalog.forget(&[reference(second)], None).unwrap();
        assert_eq!(one(&catalog, second).unwrap().alias_of, Some(reference(first)));
    }
}

#[test]
fn a_second_name_that_nobody_wants_for_itself_any_more_means_what_the_first_means() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    for names in [[first, second], [second, first]] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        for name in names {
            let layers = if name == first { &["a"][..] } else { &["b"] };
            let image = image(name, layers);
            catalog.record(&image, &[reference(name)], &file("one"), usual()).unwrap();
        }
        let digest = |catalog: &WritableCatalog, name| one(catalog, name).unwrap().digest;
        assert_ne!(digest(&catalog, first), digest(&catalog, second));
        catalog.forget(&[reference(second)], Some(&file("one"))).unwrap();
        let row = one(&catalog, second).unwrap();
        assert_eq!((row.alias_of, row.rows_complete), (Some(reference(first)), true));
        assert_eq!(row.digest, digest(&catalog, first));
        assert_eq!((sandbox.stacked(second), all_needed(&catalog)), (vec!["a".to_owned()], digests(&["a"])));
    }
}

#[test]
fn a_second_name_that_is_lost_is_written_from_the_first() {
    let (first, second) = ("sandboxes.io/library/alpine:3.20", ALPINE);
    for lost in [&["images"][..], &["images", "sync_images"]] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        put(&mut catalog, first, &["a", "b"], &file("one"));
        let before = one(&catalog, second).unwrap();
        for table in lost {
            let sql = format!("DELETE FROM {table} WHERE reference = ?1");
            sandbox.sql().execute(&sql, [second]).unwrap();
        }
        catalog.adopt(&[reference(first), reference(second)], &file("one"), usual()).unwrap();
        let after = one(&catalog, second).unwrap();
        assert_eq!(after, RecordedImage { modified_at: after.modified_at.clone(), ..before });
        assert_eq!(sandbox.stacked(second), ["a", "b"]);
    }
}

#[test]
fn a_second_name_that_microsandbox_had_first_stays() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a"]);
    let mut catalog = sandbox.open();
    let first = "sandboxes.io/library/alpine:3.20";
    put(&mut catalog, first, &["a"], &file("one"));
    assert_eq!(catalog.layers_needed_outside(&refs(&[first])).unwrap(), digests(&["a"]));
    catalog.forget(&[reference(first)], None).unwrap();
    assert_eq!((all_names(&catalog), all_needed(&catalog)), (refs(&[ALPINE]), digests(&["a"])));
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
}

#[test]
fn layers_of_other_images_and_of_unfinished_pulls_are_needed() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/python:3.12", &["a"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    put(&mut catalog, "other:1", &["b", "d"], &file("two"));
    sandbox
        .sql()
        .execute(
            "INSERT INTO layers (media_type, digest, diff_id, size_bytes) VALUES ('', ?, 'x', 1)",
            [layer("h").digest.text()],
        )
        .unwrap();
    let outside = |names: &[&str]| catalog.layers_needed_outside(&refs(names)).unwrap();
    assert_eq!(outside(&[]), digests(&["a", "b", "c", "d", "h"]));
    assert_eq!(outside(&[ALPINE]), digests(&["a", "b", "d", "h"]));
    assert_eq!(outside(&[ALPINE, "other:1"]), digests(&["a", "h"]));
    // Our rows count even where microsandbox's are gone.
    sandbox.sql().execute_batch("PRAGMA foreign_keys = ON; DELETE FROM images; DELETE FROM layers").unwrap();
    assert_eq!(outside(&[ALPINE]), digests(&["b", "d"]));
}
