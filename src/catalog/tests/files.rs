//! The file of the catalog: absent, empty, foreign, write-protected, on a full disk.

use super::*;

#[test]
fn no_file_is_nothing_to_read_and_none_is_made() {
    let sandbox = Sandbox::new();
    assert!(Catalog::open_read_only(sandbox.dir.path()).unwrap().is_none());
    assert!(sandbox.files().is_empty());
}

#[test]
fn an_empty_file_is_a_new_database() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path(), "").unwrap();
    let reader = sandbox.reader();
    assert_eq!(reader.all().unwrap(), []);
    assert_eq!(reader.recorded(&[reference(ALPINE)]).unwrap(), []);
    assert_eq!(reader.owned_by(&file("one")).unwrap(), []);
    assert_eq!(reader.config(&reference(ALPINE)).unwrap(), None);
    assert_eq!(reader.layers_needed_outside(&BTreeSet::new()).unwrap(), BTreeSet::new());
    assert_eq!(fs::metadata(sandbox.path()).unwrap().len(), 0);
    drop(reader);
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
}

#[test]
fn a_new_database_is_whole_before_it_has_its_name() {
    let sandbox = Sandbox::new();
    let whole = |path: &Path| {
        assert_eq!(sandbox.files(), [""; 0], "nothing is there while the content is made");
        schema::of_new_catalog(path)
    };
    own::make_whole(&sandbox.path(), &whole);
    assert_eq!(sandbox.files(), ["oci.db"]);
    assert_eq!(fs::metadata(sandbox.path()).unwrap().mode() & 0o7777, 0o600);
    let content = fs::read(sandbox.path()).unwrap();
    assert!(!sandbox.reader().lacks_tables);
    // Opening it changes nothing, and what is there is never made again.
    drop(sandbox.open());
    own::make_whole(&sandbox.path(), &|_| unreachable!());
    assert_eq!(fs::read(sandbox.path()).unwrap(), content);

    // The tables are those that SQLite makes in place, as where files have to have names.
    let tables = |sandbox: &Sandbox| -> Vec<String> {
        let sql = sandbox.sql();
        let mut rows =
            sql.prepare("SELECT name || ' ' || coalesce(sql, '') FROM sqlite_master ORDER BY 1").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let in_place = Sandbox::new();
    own::make_whole(&in_place.path(), &|_| None);
    assert_eq!(in_place.files(), [""; 0]);
    fs::write(in_place.path(), "").unwrap();
    drop(in_place.open());
    assert_eq!(tables(&sandbox), tables(&in_place));
    // Page size, forms, and all that outlives a write: not the counters.
    let header = |sandbox: &Sandbox| -> Vec<u8> {
        let content = fs::read(sandbox.path()).unwrap();
        [&content[..24], &content[44..92]].concat()
    };
    assert_eq!(header(&sandbox), header(&in_place));
}

#[test]
fn what_a_lost_database_left_beside_it_is_not_put_into_a_new_one() {
    for (mode, left) in [("DELETE", "oci.db-journal"), ("WAL", "oci.db-wal")] {
        let sandbox = Sandbox::new();
        put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
        let sql = sandbox.sql();
        sql.execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA cache_size = 1; BEGIN; DELETE FROM images;"
        ))
        .unwrap();
        if mode == "WAL" {
            sql.execute_batch("COMMIT").unwrap();
        } else {
            sql.cache_flush().unwrap();
        }
        // As a killed run leaves them.
        let beside = fs::read(sandbox.dir.path().join(left)).unwrap();
        assert!(!beside.is_empty(), "{left}");
        drop(sql);
        for name in sandbox.files() {
            fs::remove_file(sandbox.dir.path().join(name)).unwrap();
        }
        fs::write(sandbox.dir.path().join(left), beside).unwrap();
        let catalog = sandbox.open();
        assert_eq!(catalog.all().unwrap(), []);
        drop(catalog);
        let sound: String = sandbox.sql().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok", "{left}");
    }
}

#[test]
fn names_that_were_made_last_before_anything_is_recorded() {
    let sandbox = Sandbox::new();
    let made = sandbox.home.path().join("made");
    fs::create_dir(&made).unwrap();
    sandbox.home.unsynced().note(fs::File::open(&made).unwrap().as_fd()).unwrap();
    let mut catalog = sandbox.open();
    assert_eq!(catalog.all().unwrap(), []);
    assert!(!sandbox.home.unsynced().is_empty(), "neither opening nor reading waits for the disk");
    let is_settled = catalog.write("record in", |_| Ok(sandbox.home.unsynced().is_empty())).unwrap();
    assert!(is_settled, "the transaction came first");
}

#[test]
fn what_is_not_a_database_is_named_and_left_alone() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let good = fs::read(sandbox.path()).unwrap();
    let mut malformed = good.clone();
    malformed[100..].fill(0xA5);
    for content in [b"hello".repeat(1000), malformed, good[..good.len() / 2].to_vec()] {
        fs::write(sandbox.path(), &content).unwrap();
        for error in [
            WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err(),
            Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
            assert!(error.hint().unwrap().contains("move"));
        }
        assert_eq!(fs::read(sandbox.path()).unwrap(), content);
    }
    assert_eq!(sandbox.files(), ["oci.db"]);
}

#[test]
fn a_file_with_another_name_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let other = sandbox.dir.path().join("precious");
    for name in ["oci.db", "oci.db-journal", "oci.db-wal", "oci.db-shm"] {
        let path = sandbox.dir.path().join(name);
        if !path.exists() {
            fs::write(&path, "precious").unwrap();
        }
        fs::hard_link(&path, &other).unwrap();
        let content = fs::read(&other).unwrap();
        for error in [
            WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err(),
            Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), "refused");
            let message = error.to_string();
            assert!(message.contains(name) && message.contains("second name"), "{message}");
        }
        assert_eq!(fs::read(&other).unwrap(), content);
        fs::remove_file(&other).unwrap();
        if name != "oci.db" {
            fs::remove_file(&path).unwrap();
        }
    }
    assert!(one(&sandbox.reader(), ALPINE).is_some());
}

#[test]
fn a_home_that_cannot_be_settled_says_why_as_the_system_does() {
    use std::io::{Error, ErrorKind};
    let path = Path::new("/home/oci.db");
    for (failure, kind, words) in [
        (ErrorKind::StorageFull, "disk-full", "cannot record in the catalog /home/oci.db: no space left"),
        (ErrorKind::QuotaExceeded, "disk-full", "no space left"),
        (ErrorKind::ReadOnlyFilesystem, "permission", "cannot record in the catalog /home/oci.db: "),
        (ErrorKind::Other, "catalog-query", "the directories made for it cannot be written to the disk"),
    ] {
        let error = connection::unsettled("record in", path, &Error::from(failure));
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.hint().is_some(), kind != "catalog-query", "{error}");
    }
}

#[test]
fn a_database_of_something_else_is_refused_and_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.sql().execute_batch("CREATE TABLE layers (id INTEGER PRIMARY KEY, url TEXT)").unwrap();
    let content = fs::read(sandbox.path()).unwrap();
    for error in [
        WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err(),
        Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), "catalog-schema");
        assert!(error.to_string().contains("the table layers has no column media_type"), "{error}");
    }
    assert_eq!(fs::read(sandbox.path()).unwrap(), content);
}

#[test]
fn a_directory_and_a_missing_one_are_explained() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path()).unwrap();
    let error = WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let error = Catalog::open_read_only(sandbox.dir.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    fs::remove_dir_all(sandbox.dir.path()).unwrap();
    let error = WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn odd_names_of_homes_are_only_names() {
    let sandbox = Sandbox::new();
    for name in ["a?mode=memory", "file:x", "ü %41#b", ":memory:"] {
        let path = sandbox.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        put(&mut WritableCatalog::open(&locked(&path)).unwrap(), ALPINE, &["a"], &file("one"));
        Connection::open(path.join("oci.db"))
            .and_then(|conn| conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())))
            .unwrap();
        let reader = Catalog::open_read_only(&path).unwrap().unwrap();
        assert_eq!(reader.all().unwrap().len(), 1, "{name}");
    }
    assert_eq!(sandbox.files().len(), 4, "{:?}", sandbox.files());
}

#[test]
fn opening_and_reading_change_nothing() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let content = fs::read(sandbox.path()).unwrap();
    let modified = fs::metadata(sandbox.path()).unwrap().modified().unwrap();
    drop(sandbox.open());
    let reader = sandbox.reader();
    reader.all().unwrap();
    assert!(reader.conn.execute("DELETE FROM images", []).is_err(), "a reader cannot write");
    assert_eq!(sandbox.files(), ["oci.db"]);
    assert_eq!(fs::read(sandbox.path()).unwrap(), content);
    assert_eq!(fs::metadata(sandbox.path()).unwrap().modified().unwrap(), modified);
}

#[test]
fn a_wal_database_of_somebody_else_is_read_and_kept_in_wal() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let other = sandbox.sql();
    other.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    drop(other);
    assert_eq!(sandbox.reader().all().unwrap().len(), 1);
    assert_eq!(sandbox.files(), ["oci.db"], "a reader makes no -wal and no -shm");

    let mut writer = sandbox.open();
    put(&mut writer, "other:1", &["a"], &file("one"));
    assert_eq!(sandbox.reader().all().unwrap().len(), 2, "what is still in the log is seen");
    let mode: String = writer.conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn a_write_protected_database_is_a_permission_error() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o444)).unwrap();
    // Root may write anything: nothing to see there.
    if OpenOptions::new().write(true).open(sandbox.path()).is_err() {
        assert_eq!(WritableCatalog::open(&sandbox.home).map(|_| ()).unwrap_err().kind(), "permission");
    }
    assert_eq!(sandbox.reader().all().unwrap().len(), 1);
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_the_old_state() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    catalog
        .conn
        .query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))
        .and_then(|pages| catalog.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())))
        .unwrap();
    let mut large = image(ALPINE, &["b"]);
    large.config.labels = labels(&"x".repeat(1 << 20));
    let error = catalog.record(&large, &[reference(ALPINE)], &file("one"), usual()).unwrap_err();
    assert_eq!(error.kind(), "disk-full");
    assert_eq!(sandbox.stacked(ALPINE), ["a"]);
    assert!(one(&catalog, ALPINE).unwrap().rows_complete);
}

/// Committed transactions that changed the file: its change counter.
/// <https://www.sqlite.org/fileformat2.html#file_change_counter>
fn transactions(sandbox: &Sandbox) -> u32 {
    let header = std::fs::read(sandbox.path()).unwrap();
    u32::from_be_bytes(header[24..28].try_into().unwrap())
}

#[test]
fn many_changes_are_few_transactions() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let images: Vec<_> = (0..GROUP + 5).map(|index| image(&format!("crowd:{index}"), &["a", "b"])).collect();
    let names: Vec<_> = images.iter().map(|image| [image.reference.clone()]).collect();
    let record = |(image, names)| Change::Record { image, names, hold: false, has_blobs: false, events: &[] };
    let changes: Vec<_> =
        images.iter().zip(&names).map(|(image, names)| record((image, &names[..]))).collect();
    let before = transactions(&sandbox);
    let results = catalog.change(&changes, &file("one"), usual());
    assert!(results.len() == changes.len() && results.iter().all(Result::is_ok));
    assert_eq!(transactions(&sandbox), before + 2);
    let adopt: Vec<_> = names.iter().map(|names| Change::Adopt { names, events: &[] }).collect();
    assert!(catalog.change(&adopt, &Owner::pull(), usual()).iter().all(Result::is_ok));
    assert_eq!(transactions(&sandbox), before + 4);
    let all: Vec<ImageRef> = names.concat();
    catalog.forget(&all, Some(&file("one"))).unwrap();
    assert_eq!(all_names(&catalog).len(), all.len());
    catalog.forget(&all, None).unwrap();
    assert_eq!(all_names(&catalog), BTreeSet::new());
    assert_eq!(transactions(&sandbox), before + 6);
}

#[test]
fn one_change_that_fails_leaves_the_others() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let pages: i64 = catalog.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    catalog.conn.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), [], |_| Ok(())).unwrap();
    let mut large = image("docker.io/library/large:1", &["b"]);
    large.config.labels = labels(&"x".repeat(1 << 20));
    let (first, last) =
        (image("docker.io/library/first:1", &["a", "c"]), image("docker.io/library/last:1", &["d"]));
    let names = [&first, &large, &last].map(|image| [image.reference.clone()]);
    let changes = [(&first, &names[0]), (&large, &names[1]), (&last, &names[2])]
        .map(|(image, names)| Change::Record { image, names, hold: false, has_blobs: false, events: &[] });
    let results = catalog.change(&changes, &file("one"), usual());
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(CatalogError::kind)).collect();
    assert_eq!(kinds, [None, Some("disk-full"), None]);
    assert_eq!(sandbox.stacked("docker.io/library/first:1"), ["a", "c"]);
    assert_eq!(sandbox.stacked("docker.io/library/last:1"), ["d"]);
    assert!(one(&catalog, "docker.io/library/large:1").is_none());
}

#[test]
fn sqlite_failures_have_kinds() {
    let error = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
    for (code, kind) in [
        (ffi::SQLITE_BUSY, "catalog-busy"),
        (ffi::SQLITE_BUSY_SNAPSHOT, "catalog-busy"),
        (ffi::SQLITE_FULL, "disk-full"),
        (ffi::SQLITE_READONLY, "permission"),
        (ffi::SQLITE_READONLY_DIRECTORY, "permission"),
        (ffi::SQLITE_PERM, "permission"),
        (ffi::SQLITE_CANTOPEN, "catalog-open"),
        (ffi::SQLITE_NOTADB, "catalog-corrupt"),
        (ffi::SQLITE_CORRUPT, "catalog-corrupt"),
        (ffi::SQLITE_IOERR_WRITE, "catalog-query"),
    ] {
        assert_eq!(sql_error("test", Path::new("/x"), &error(code)).kind(), kind, "{code}");
    }
}
