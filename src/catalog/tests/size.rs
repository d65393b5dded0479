//! Catalogs of very many images cost a run little.

use super::*;

/// `images` images of four layers each, one of them shared, in one transaction.
fn crowd(sandbox: &Sandbox, images: usize) -> WritableCatalog {
    let catalog = sandbox.open();
    let tx = catalog.conn.unchecked_transaction().unwrap();
    for number in 0..images {
        let name = format!("crowd:{number}");
        let own: Vec<String> = (0..3).map(|layer| format!("{number} {layer}")).collect();
        let layers = ["a", &own[0], &own[1], &own[2]];
        let owner = if number % 100 == 0 { file("one") } else { Owner::pull() };
        let held = Held {
            owner: &owner,
            layers: b"/layers",
            extracts: true,
            keeps_blobs: false,
            keeps_earlier: 0,
            now: Timestamp::now(),
        };
        write::record(&tx, &image(&name, &layers), &[reference(&name)], (false, false), held).unwrap();
    }
    tx.commit().unwrap();
    catalog
}

#[test]
fn ten_thousand_images_cost_a_run_little() {
    let sandbox = Sandbox::new();
    drop(crowd(&sandbox, 10_000));
    let start = Instant::now();
    let catalog = sandbox.reader();
    let owned = catalog.owned_by(&file("one")).unwrap();
    let names: Vec<ImageRef> = owned.iter().map(|image| image.reference.clone()).collect();
    assert_eq!(catalog.recorded(&names).unwrap().len(), 100);
    let before = start.elapsed();
    let needed = catalog.layers_needed_outside(&names.into_iter().collect()).unwrap();
    let total = start.elapsed();
    assert_eq!(needed.len(), 9_900 * 3 + 1);
    println!("opened, owned and recorded in {before:?}, with layers needed outside {total:?}");
    // Ten times what it takes in a release build: a scan in the wrong place would take minutes.
    assert!(total < Duration::from_secs(2), "{total:?}");

    let mut catalog = sandbox.open();
    let start = Instant::now();
    put(&mut catalog, "crowd:77", &["a", "b"], &file("one"));
    catalog.forget(&[reference("crowd:77")], None).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn statements_are_compiled_once_however_many_images_are_read() {
    let sandbox = Sandbox::new();
    let mut catalog = crowd(&sandbox, 50);
    let names: Vec<ImageRef> = (0..50).map(|number| reference(&format!("crowd:{number}"))).collect();
    for _ in 0..2 {
        catalog.recorded(&names).unwrap();
        catalog.recorded_or_owned(&names, &BTreeSet::new(), &file("one")).unwrap();
        put(&mut catalog, "crowd:7", &["a", "b"], &file("one"));
        catalog.layers_needed_outside(&names.iter().cloned().collect()).unwrap();
    }
    let reads = [rows::OUR_IMAGE, rows::OUR_LAYERS, holdings::HOLDERS, rows::THEIR_IMAGE, rows::THEIR_LAYERS];
    for sql in reads.into_iter().chain([rows::THEIR_DOCUMENTS, rows::OUR_USERS, rows::THEIR_USERS]) {
        let statement = catalog.conn.prepare_cached(sql).unwrap();
        assert!(statement.get_status(StatementStatus::Run) > 40, "{sql}");
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

#[test]
fn no_query_of_a_run_scans_a_table() {
    let sandbox = Sandbox::new();
    let catalog = crowd(&sandbox, 200);
    for analyzed in [false, true] {
        if analyzed {
            catalog.conn.execute_batch("ANALYZE").unwrap();
        }
        let mut hot = vec![
            rows::OWNED_NAMES,
            rows::NAMES_BETWEEN,
            loads::OF_OWNER,
            loads::OF_OTHERS_BY_NAME,
            loads::OF_OTHERS_BETWEEN,
            loads::SAME_NAME,
            rows::OUR_IMAGE,
            rows::OUR_LAYERS,
            holdings::HOLDERS,
            rows::THEIR_IMAGE,
            rows::THEIR_LAYERS,
            rows::THEIR_DOCUMENTS,
            rows::THEIR_DIFF_IDS,
            rows::OUR_USERS,
            rows::THEIR_USERS,
            rows::OUR_MEDIA_TYPE,
            rows::OTHER_WORDS,
            stack::LAYERS_ABOVE,
            stack::WANTED_ABOVE,
            stack::NOTED_WITH,
            stack::OPPOSED,
            write::DROP_UNUSED_LAYER,
            write::SETTLE_MEDIA_TYPE,
            "SELECT reference FROM sync_images WHERE alias_of = ?1",
            "UPDATE sync_images SET alias_of = NULL WHERE alias_of = ?1",
            // The look-ups of foreign keys when a parent goes.
            "SELECT 1 FROM manifests WHERE index_id = ?1",
            "SELECT 1 FROM manifest_layers WHERE layer_id = ?1",
        ];
        hot.extend(write::DROP_DOCUMENTS);
        for sql in hot {
            let mut plan = String::new();
            let mut statement = catalog.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let values = vec!["x"; statement.parameter_count()];
            let mut rows = statement.query(rusqlite::params_from_iter(values)).unwrap();
            while let Some(row) = rows.next().unwrap() {
                writeln!(plan, "{}", row.get::<_, String>(3).unwrap()).unwrap();
            }
            assert!(!plan.contains("SCAN"), "{sql}\n{plan}");
        }
    }
}
