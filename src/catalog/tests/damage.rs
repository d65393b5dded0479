//! Rows of nonsense are noticed, and numbers at the end of their range are no panic.

use super::*;

#[test]
fn damaged_rows_are_noticed_and_recording_again_heals_them() {
    for damage in [
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
    ] {
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
