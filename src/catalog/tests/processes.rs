//! Other processes that read and write the same catalog.

use super::*;

#[test]
fn two_writers_and_a_reader_wait_for_each_other() {
    let sandbox = Sandbox::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["one", "two"]
            .into_iter()
            .map(|owner| {
                let home = sandbox.home.clone();
                scope.spawn(move || {
                    let mut catalog = WritableCatalog::open(&home).unwrap();
                    for round in 0..20 {
                        let name = format!("{owner}:{round}");
                        put(&mut catalog, &name, &["a", "b"], &file(owner));
                        if round % 3 == 0 {
                            catalog.forget(&[reference(&name)], Some(&file(owner))).unwrap();
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            if let Some(reader) = Catalog::open_read_only(sandbox.dir.path()).unwrap() {
                for image in reader.all().unwrap() {
                    assert!(image.rows_complete, "{image:?}");
                }
            }
        }
    });
    assert_eq!(sandbox.open().all().unwrap().len(), 26);
    sandbox.assert_sound();
}

#[test]
fn a_reader_of_a_new_catalog_sees_what_the_first_run_records() {
    let sandbox = Sandbox::new();
    sandbox.sql().execute_batch("VACUUM").unwrap();
    let reader = sandbox.reader();
    assert!(reader.all().unwrap().is_empty());
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    let found = one(&reader, ALPINE).unwrap();
    assert!(found.rows_complete && found.owners == BTreeSet::from([file("one")]), "{found:?}");
    assert!(reader.conn.execute("DELETE FROM images", []).is_err(), "a reader cannot write");
}

/// Two connections of one process share the locks of one file; a handle that is opened beside them
/// and closed takes the locks of both away. A second process then sees that the file is free.
#[test]
fn opening_a_reader_leaves_a_writer_its_lock() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute("DELETE FROM images", []).unwrap();
    drop(sandbox.reader());
    // The lock of a writer is on the byte after the pending byte, at 1 GiB.
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let inode = format!(":{} {} ", fs::metadata(sandbox.path()).unwrap().ino(), 0x4000_0001);
    assert!(locks.lines().any(|line| line.contains("WRITE") && line.contains(&inode)), "{locks}");
}

#[test]
fn a_reader_works_while_a_writer_is_inside_a_transaction() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute("DELETE FROM images", []).unwrap();
    assert!(one(&sandbox.reader(), ALPINE).unwrap().rows_complete);
}

#[test]
fn the_journal_of_a_killed_writer_is_rolled_back_by_a_reader() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a"], &file("one"));
    // A copy of the files in the middle of a large transaction is what a killed process leaves.
    catalog.conn.execute_batch("PRAGMA cache_size = 5").unwrap();
    let killed = Sandbox::new();
    let tx = Transaction::new_unchecked(&catalog.conn, TransactionBehavior::Immediate).unwrap();
    tx.execute_batch(
        "UPDATE images SET reference = 'torn';
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO images (reference, size_bytes) SELECT 'torn' || i, i FROM n;",
    )
    .unwrap();
    for name in sandbox.files() {
        fs::copy(sandbox.dir.path().join(&name), killed.dir.path().join(&name)).unwrap();
    }
    assert_eq!(killed.files(), ["oci.db", "oci.db-journal"]);
    assert!(one(&killed.reader(), ALPINE).unwrap().rows_complete);
    assert_eq!(killed.files(), ["oci.db"]);
}
