//! Rows of nonsense are noticed, and numbers at the end of their range are no panic.

use super::*;

/// Each of them makes the one image that is recorded one to repair.
const DAMAGES: &[&str] = &[
    "DELETE FROM configs",
    "DELETE FROM manifests",
    "DELETE FROM manifest_layers WHERE id = 1",
    "DELETE FROM layers WHERE id = 2",
    "DELETE FROM images",
    "UPDATE layers SET diff_id = 'sha256:0' WHERE id = 1",
    "UPDATE layers SET diff_id = digest WHERE id = 1",
    "UPDATE layers SET size_bytes = size_bytes + 1 WHERE id = 1",
    "UPDATE layers SET size_bytes = 'many' WHERE id = 1",
    "UPDATE layers SET size_bytes = -1",
    "UPDATE layers SET digest = x'00' WHERE id = 1",
    "UPDATE layers SET created_at = '2024-05-22T18:18:12Z'",
    "UPDATE layers SET modified_at = NULL",
    "UPDATE images SET created_at = 'x'",
    "UPDATE configs SET created_at = '2024-05-22T18:18:12Z'",
    "UPDATE configs SET created = 'yesterday'",
    "UPDATE configs SET os = NULL",
    "UPDATE manifests SET created_at = '2024-05-22T18:18:12Z'",
    "UPDATE manifests SET modified_at = '2024-05-22T18:18:12Z'",
    "UPDATE manifest_layers SET created_at = '2024-05-22T18:18:12Z' WHERE id = 2",
    "UPDATE manifest_layers SET modified_at = NULL",
    "UPDATE indexes SET created_at = '2024-05-22T18:18:12Z'",
    "UPDATE indexes SET modified_at = '2024-05-22T18:18:12Z'",
    "UPDATE indexes SET platform_arch = 'sparc'",
    "PRAGMA foreign_keys = OFF; DELETE FROM indexes",
    "UPDATE images SET size_bytes = 5",
    "UPDATE layers SET media_type = 'x' WHERE id = 1",
    "UPDATE configs SET config_cmd_json = '[\"evil\"]'",
    "UPDATE configs SET config_entrypoint_json = '[\"evil\"]'",
    "UPDATE configs SET config_env_json = NULL",
    "UPDATE configs SET config_user = 'root', config_working_dir = '/'",
    "UPDATE configs SET rootfs_diff_ids_json = '[]'",
    "UPDATE configs SET architecture = 'sparc'",
    "UPDATE configs SET os_variant = NULL",
    "UPDATE configs SET created = '2024-05-22T18:18:12.121Z'",
    // Stacked or listed upside down.
    "PRAGMA foreign_keys = OFF; UPDATE layers SET id = 99 WHERE id = 1;
     UPDATE manifest_layers SET layer_id = 99 WHERE layer_id = 1",
    "UPDATE manifest_layers SET id = 99 WHERE id = 1",
    "UPDATE sync_images SET config_json = '{'",
    "INSERT INTO manifests (image_id, schema_version, media_type) VALUES (1, 2, 'x')",
    "INSERT INTO configs (manifest_id, media_type) VALUES (1, 'x')",
    // Without its UNIQUE, so that a layer can be linked twice.
    "CREATE TABLE loose AS SELECT * FROM manifest_layers; DROP TABLE manifest_layers;
     ALTER TABLE loose RENAME TO manifest_layers;
     INSERT INTO manifest_layers SELECT 9, manifest_id, layer_id, created_at, modified_at
         FROM manifest_layers WHERE id = 1",
    "UPDATE sync_images SET digest = 'sha256:../../etc'",
    "UPDATE sync_images SET platform = x'ff'",
    "UPDATE sync_images SET config_json = '{', modified_at = 7",
    "UPDATE sync_image_layers SET position = 7 WHERE position = 0",
    "UPDATE sync_image_layers SET diff_id = 7",
    "DELETE FROM sync_image_layers WHERE position = 1",
    "DELETE FROM sync_image_layers",
    "UPDATE sync_images SET alias_of = reference",
    "UPDATE sync_images SET alias_of = x'00', preexisting = 'maybe', digest = ''",
];

#[test]
fn damaged_rows_are_noticed_and_recording_again_heals_them() {
    for damage in DAMAGES {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
        sandbox.sql().execute_batch(&format!("PRAGMA foreign_keys = ON; {damage}")).unwrap();
        let harmless = damage.contains("alias_of = reference");
        for found in [one(&catalog, ALPINE), catalog.all().unwrap().pop(), one(&sandbox.reader(), ALPINE)] {
            assert_eq!(found.is_some_and(|found| found.rows_complete), harmless, "{damage}");
        }
        catalog.layers_needed_outside(&refs(&[ALPINE])).unwrap();
        catalog.config(&reference(ALPINE)).unwrap();
        put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
        let found = one(&catalog, ALPINE).unwrap();
        assert!(found.rows_complete && found.digest.is_some(), "{damage}: {found:?}");
        assert_eq!(sandbox.stacked(ALPINE), ["a", "b"], "{damage}");
        sandbox.assert_sound();
        catalog.forget(&[reference(ALPINE)], None).unwrap();
    }
}

/// Layers that many images share are renumbered in all of them at once: no image's rows tell the
/// others' order.
#[test]
fn layers_that_are_upside_down_in_several_images_are_put_in_order_by_the_first_repair() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let names = ["one:1", "two:1"].map(|name| format!("docker.io/library/{name}"));
    for (name, top) in names.iter().zip(["c", "d"]) {
        put(&mut catalog, name, &["a", "b", top], &file("one"));
    }
    let upside_down = "UPDATE layers SET id = 99 WHERE id = 1;
        UPDATE manifest_layers SET layer_id = 99 WHERE layer_id = 1";
    sandbox.sql().execute_batch(&format!("PRAGMA foreign_keys = OFF; {upside_down}")).unwrap();
    assert_eq!(sandbox.stacked(&names[0]), ["b", "c", "a"]);
    for name in &names {
        assert!(!one(&catalog, name).unwrap().rows_complete, "{name}");
    }
    put(&mut catalog, &names[0], &["a", "b", "c"], &file("one"));
    for (name, top) in names.iter().zip(["c", "d"]) {
        assert_eq!(sandbox.stacked(name), ["a", "b", top]);
        assert!(one(&catalog, name).unwrap().rows_complete, "{name}");
    }
    sandbox.assert_sound();
}

/// No repair of the one would end that of the other.
#[test]
fn what_two_images_say_of_one_layer_is_no_damage() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let mut docker = image("docker:1", &["a", "b"]);
    Arc::make_mut(&mut docker.layers)[0].media_type =
        "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
    catalog.record(&docker, &[reference("docker:1")], &file("one"), usual()).unwrap();
    put(&mut catalog, "oci:1", &["b", "a"], &file("one"));
    for name in ["docker:1", "oci:1"] {
        assert!(one(&catalog, name).unwrap().rows_complete, "{name}");
    }
    assert_eq!(sandbox.count("sync_out_of_order"), 1, "the second has lost its order");
    // Where one goes, the other has its way.
    catalog.forget(&[reference("oci:1")], None).unwrap();
    assert!(one(&catalog, "docker:1").unwrap().rows_complete);
    put(&mut catalog, "oci:1", &["b", "a"], &file("one"));
    catalog.forget(&[reference("docker:1")], None).unwrap();
    assert_eq!(sandbox.stacked("docker.io/library/oci:1"), ["b", "a"]);
    assert!(one(&catalog, "oci:1").unwrap().rows_complete);
    assert_eq!(sandbox.count("sync_out_of_order"), 0);
    sandbox.assert_sound();
}

/// The next run would have to repair them else, though nobody has touched the catalog.
#[test]
fn images_get_their_order_when_those_go_that_had_the_opposite_one() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, "first:1", &["a", "b", "c"], &file("one"));
    put(&mut catalog, "second:1", &["b", "a"], &file("one"));
    put(&mut catalog, "third:1", &["c", "b", "a", "d"], &file("one"));
    assert_eq!(sandbox.count("sync_out_of_order"), 2, "two images have lost their order");
    put(&mut catalog, "first:1", &["e"], &file("one"));
    assert_eq!(sandbox.stacked("docker.io/library/second:1"), ["b", "a"]);
    assert_eq!(sandbox.stacked("docker.io/library/third:1"), ["c", "b", "a", "d"]);
    for name in ["first:1", "second:1", "third:1"] {
        assert!(one(&catalog, name).unwrap().rows_complete, "{name}");
    }
    assert_eq!(sandbox.count("sync_out_of_order"), 0);
    sandbox.assert_sound();
}

#[test]
fn names_and_rows_of_nonsense_are_passed_over() {
    let sandbox = Sandbox::of_microsandbox("not a reference", &["a"]);
    let sql = sandbox.sql();
    sql.execute_batch("INSERT INTO images (reference, size_bytes) VALUES (x'ff', 1), ('alpine', 'x')")
        .unwrap();
    let catalog = sandbox.open();
    sql.execute_batch(
        "INSERT INTO sync_owners VALUES ('gone', '/etc/one.toml', 'x'), (x'ff', '/etc/one.toml', 'x');
         INSERT INTO sync_images VALUES ('x', '', '', '', '', '', 'gone', 0, NULL, '')",
    )
    .unwrap();
    assert_eq!(catalog.all().unwrap(), []);
    assert_eq!(catalog.owned_by(&file("one")).unwrap(), []);
    assert_eq!(catalog.layers_needed_outside(&BTreeSet::new()).unwrap(), digests(&["a"]));
}

#[test]
fn ids_at_the_end_of_their_range_are_an_error_not_a_panic() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a"]);
    sandbox.sql().execute("INSERT INTO layers VALUES (?, '', 'x', 'x', 1, NULL, NULL)", [i64::MAX]).unwrap();
    let mut catalog = sandbox.open();
    let error = catalog
        .record(&image("other:1", &["b"]), &[reference("other:1")], &file("one"), usual())
        .unwrap_err();
    assert_eq!(error.kind(), "catalog-query");
    assert_eq!(sandbox.count("images"), 1, "nothing of it was kept");
}

#[test]
fn sizes_beyond_sqlite_are_cut_not_wrapped() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let mut huge = image(ALPINE, &["a", "b"]);
    Arc::make_mut(&mut huge.layers)[0].size = u64::MAX;
    catalog.record(&huge, &[reference(ALPINE)], &file("one"), usual()).unwrap();
    assert_eq!(one(&catalog, ALPINE).unwrap().layers[0].size, i64::MAX.cast_unsigned());
}
