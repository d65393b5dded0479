//! Recording an image: what is read back, what is replaced, in which order layers are stacked.

use super::*;

#[test]
fn what_is_recorded_is_read_back() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let image = image(ALPINE, &["a", "b"]);
    catalog.record(&image, &[reference(ALPINE)], &file("one"), usual()).unwrap();
    for name in [ALPINE, "nope"] {
        catalog.adopt(&[reference(name)], &Owner::pull(), usual()).unwrap();
    }
    for catalog in [&catalog, &sandbox.reader()] {
        let found = one(catalog, ALPINE).unwrap();
        assert_timestamp(&found.modified_at);
        assert_eq!(
            found,
            RecordedImage {
                reference: reference(ALPINE),
                platform: Some(image.platform.clone()),
                digest: Some(image.digest.clone()),
                manifest_digest: Some(image.manifest.digest.clone()),
                config_digest: Some(image.config.digest.clone()),
                layers: image.layers.clone(),
                documents: Arc::default(),
                owners: BTreeSet::from([file("one"), Owner::pull()]),
                extracted_for: BTreeSet::from([file("one"), Owner::pull()]),
                blobs_kept_for: BTreeSet::new(),
                earlier_for: BTreeMap::new(),
                held: None,
                rows_complete: true,
                alias_of: None,
                second_name_of: None,
                preexisting: false,
                layers_directory: Some("/layers".into()),
                modified_at: found.modified_at.clone(),
                created: image.config.created.clone(),
            }
        );
        assert_eq!(catalog.config(&reference(ALPINE)).unwrap().unwrap(), image.config);
        assert_eq!(catalog.all().unwrap(), std::slice::from_ref(&found));
        assert_eq!(catalog.owned_by(&Owner::pull()).unwrap(), [found]);
        assert_eq!(catalog.owned_by(&file("two")).unwrap(), []);
        assert_eq!(one(catalog, "nope"), None);
    }
}

#[test]
fn an_update_replaces_the_old_rows_and_keeps_shared_layers() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, "other:1", &["a"], &file("one"));
    put(&mut catalog, ALPINE, &["a", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a", "c"]);
    for (table, rows) in [
        ("images", 2),
        ("indexes", 2),
        ("manifests", 2),
        ("configs", 2),
        ("layers", 2),
        ("manifest_layers", 3),
    ] {
        assert_eq!(sandbox.count(table), rows, "{table}");
    }
    let ids: Vec<i64> = sandbox
        .sql()
        .prepare("SELECT id FROM layers WHERE digest = ?")
        .unwrap()
        .query_map([layer("a").digest.text()], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(ids, [1], "a layer in use keeps its id");
    sandbox.assert_sound();
}

#[test]
fn an_image_without_index_config_lists_or_layers_is_recorded() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let mut bare = image("bare:1", &[]);
    bare.index = None;
    bare.config.env = None;
    bare.config.history_json = None;
    catalog.record(&bare, &[reference("bare:1")], &file("one"), usual()).unwrap();
    let found = one(&catalog, "bare:1").unwrap();
    assert!(found.rows_complete && found.layers.is_empty());
    assert_eq!(sandbox.count("indexes"), 0);
}

#[test]
fn names_with_a_digest_are_recorded_in_full() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let digest = layer("a").digest;
    for name in [format!("quay.io/x/y@{digest}"), format!("quay.io/x/y:1@{digest}")] {
        put(&mut catalog, &name, &["a"], &file("one"));
        assert_eq!(sandbox.stacked(&name), ["a"]);
        assert_eq!(one(&catalog, &name).unwrap().reference.to_string(), name);
    }
}

#[test]
fn a_layer_that_occurs_twice_has_one_row_in_its_upper_place() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "a", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["b", "a", "c"]);
    let found = one(&catalog, ALPINE).unwrap();
    assert_eq!(found.layers[..], [layer("a"), layer("b"), layer("a"), layer("c")]);
    assert!(found.rows_complete);
    let linked: Vec<String> = sandbox
        .sql()
        .prepare("SELECT digest FROM manifest_layers ml JOIN layers l ON l.id = layer_id ORDER BY ml.id")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|digest| name_of(&digest.unwrap()))
        .collect();
    assert_eq!(linked, ["b", "a", "c"], "listed as they are stacked");
}

#[test]
fn layers_are_stacked_in_order_in_every_image_even_on_a_new_base() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/python:3.12", &["a", "b"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    put(&mut catalog, "other:1", &["a", "b", "c", "d"], &file("one"));
    // b and c on another base, as `COPY --link` makes them.
    put(&mut catalog, ALPINE, &["e", "b", "c"], &file("one"));
    put(&mut catalog, "third:1", &["f", "e", "c"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["e", "b", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/other:1"), ["a", "b", "c", "d"]);
    assert_eq!(sandbox.stacked("docker.io/library/third:1"), ["f", "e", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/python:3.12"), ["a", "b"]);
    sandbox.assert_sound();
}

#[test]
fn layers_that_only_the_replaced_image_used_are_put_in_the_new_order() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a", "b"]);
    put(&mut sandbox.open(), ALPINE, &["b", "a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["b", "a"]);
    sandbox.assert_sound();
}

#[test]
fn opposite_orders_keep_the_first_image_right_and_the_second_present() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, "other:1", &["b", "a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a", "b"]);
    assert!(one(&catalog, "other:1").unwrap().rows_complete);
    sandbox.assert_sound();
}
