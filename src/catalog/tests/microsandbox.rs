//! microsandbox finds of a catalog what is ours, and keeps what is its own.

use super::*;

#[test]
fn microsandbox_finds_what_we_record() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["c", "a", "b"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["c", "a", "b"]);

    let conn = sandbox.sql();
    let mut wanted = vec![layer("c"), layer("a"), layer("b")];
    let found: i64 = conn
        .query_row(
            "SELECT count(*) FROM (SELECT id, media_type, digest FROM layers WHERE digest IN (?, ?, ?))",
            rusqlite::params_from_iter(wanted.drain(..).map(|layer| layer.digest.to_string())),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(found, 3);

    let text = |column: &str| -> Option<String> {
        conn.query_row(MSB_CONFIG, [ALPINE], |row| row.get(column)).unwrap()
    };
    assert_eq!(text("created").unwrap(), "2024-05-22T18:18:12.120Z");
    assert_eq!(text("config_env_json").unwrap(), r#"["PATH=/bin","A=\"b\""]"#);
    assert_eq!(text("config_entrypoint_json"), None);
    assert_eq!(text("config_exposed_ports_json").unwrap(), r#"["80/tcp"]"#);
    assert_eq!(text("os_variant").unwrap(), "v7");
    assert_eq!(text("config_working_dir").unwrap(), "/srv");
    assert_eq!(text("history_json").unwrap(), "[{\"created_by\":\"x\"}]");
    let diff_ids: Vec<DiffId> = serde_json::from_str(&text("rootfs_diff_ids_json").unwrap()).unwrap();
    assert_eq!(diff_ids, [layer("c").diff_id, layer("a").diff_id, layer("b").diff_id]);
    for column in ["created_at", "modified_at"] {
        assert_timestamp(&text(column).unwrap());
    }

    // This is what microsandbox does after a pull of its own.
    let id: i64 = conn
        .query_row(
            "UPDATE images SET size_bytes = ?, last_used_at = CURRENT_TIMESTAMP, modified_at = CURRENT_TIMESTAMP
             WHERE reference = ? RETURNING id, reference, size_bytes, last_used_at, created_at, modified_at",
            (5, ALPINE),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(id, 1);
    let (os, arch, variant, annotations): (String, String, String, String) = conn
        .query_row(
            "SELECT platform_os, platform_arch, platform_variant, x.annotations_json FROM indexes x
             JOIN manifests m ON m.index_id = x.id WHERE m.image_id = 1 AND m.annotations_json IS NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!((os.as_str(), arch.as_str(), variant.as_str()), ("linux", "arm", "v7"));
    assert_eq!(annotations, r#"{"k":"v"}"#);
    sandbox.assert_sound();
}

#[test]
fn a_creation_time_that_microsandbox_could_not_parse_is_not_written() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    for (text, kept) in [
        ("2024-05-22T18:18:12Z", true),
        ("2024-05-22T18:18:12.123456789+02:00", true),
        ("2024-05-22 18:18:12Z", false),
        ("20240522T181812Z", false),
        ("2024-13-22T18:18:12Z", false),
        ("2024-05-22T18:18:12", false),
        ("2024-05-22T18:18:12Z[UTC]", false),
        ("", false),
        ("now", false),
    ] {
        let mut image = image(ALPINE, &["a"]);
        image.config.created = Some(text.to_owned());
        catalog.record(&image, &[reference(ALPINE)], &file("one"), usual()).unwrap();
        let created: Option<String> =
            sandbox.sql().query_row("SELECT created FROM configs", [], |row| row.get(0)).unwrap();
        assert_eq!(created.as_deref(), kept.then_some(text));
    }
}

#[test]
fn a_database_of_microsandbox_is_opened_read_and_kept() {
    let theirs = "docker.io/library/python:3.12";
    let sandbox = Sandbox::of_microsandbox(theirs, &["a", "b"]);
    let reader = sandbox.reader();
    let found = one(&reader, theirs).unwrap();
    assert!(found.rows_complete && found.preexisting && found.owners.is_empty());
    assert_eq!((found.digest, found.platform), (None, None));
    assert_eq!(found.layers[..], [layer("a"), layer("b")]);
    let config = reader.config(&reference(theirs)).unwrap().unwrap();
    assert_eq!((config.env, config.cmd), (None, Some(vec!["sh".to_owned()])));
    assert_eq!(reader.layers_needed_outside(&BTreeSet::new()).unwrap(), digests(&["a", "b"]));

    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "c"], &file("one"));
    catalog.forget(&[reference(theirs)], None).unwrap();
    assert_eq!(all_names(&catalog), refs(&[theirs, ALPINE]));
    catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!((all_names(&catalog), all_needed(&catalog)), (refs(&[theirs]), digests(&["a", "b"])));
    assert_eq!(sandbox.stacked(theirs), ["a", "b"]);
    assert_eq!(sandbox.count("_sqlx_migrations"), 1);
    // Its migrations, which run again at its next start, find everything made.
    let again = MSB_DATABASE.split_once("CREATE TABLE IF NOT EXISTS images").unwrap().1;
    sandbox.sql().execute_batch(&format!("CREATE TABLE IF NOT EXISTS images{again}")).unwrap();
    sandbox.assert_sound();
}

#[test]
fn an_image_that_microsandbox_had_first_stays_when_we_forget_it() {
    let sandbox = Sandbox::of_microsandbox(ALPINE, &["a", "b"]);
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "c"], &file("one"));
    assert!(one(&catalog, ALPINE).unwrap().preexisting);
    put(&mut catalog, ALPINE, &["a", "b", "d"], &file("one"));
    catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(sandbox.stacked(ALPINE), ["a", "b", "d"]);
    let found = one(&catalog, ALPINE).unwrap();
    assert!(found.owners.is_empty() && found.digest.is_none() && found.rows_complete);
    assert_eq!(sandbox.count("layers"), 3);
}
