//! Images that want their layers in opposite orders, as one empty layer in many of them makes them.

use super::*;

/// The base and the derived image of each number below `pairs`. All have one layer in common, which
/// the derived one has once more on top.
fn conflicts(catalog: &mut WritableCatalog, pairs: usize) {
    for number in 0..pairs {
        let [base, middle, top] = ["base", "middle", "top"].map(|part| format!("{part} {number}"));
        put(catalog, &format!("base{number}:1"), &[&base, "e", &middle], &file("one"));
        put(catalog, &format!("derived{number}:1"), &[&base, "e", &middle, &top, "e"], &file("one"));
    }
}

fn is_right(sandbox: &Sandbox, number: usize) -> bool {
    let stacked = sandbox.stacked(&format!("docker.io/library/derived{number}:1"));
    stacked.last().is_some_and(|top| top == "e")
}

/// Counts the images that a run would have to repair.
fn to_repair(catalog: &Catalog) -> usize {
    catalog.all().unwrap().iter().filter(|image| !image.rows_complete).count()
}

fn runs(catalog: &Catalog, sql: &str) -> i32 {
    catalog.conn.prepare_cached(sql).unwrap().get_status(StatementStatus::Run)
}

#[test]
fn a_layer_that_an_image_lists_twice_may_be_linked_in_either_place() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b", "a", "c"], &file("one"));
    // As it was until the links were put in the order of the stack.
    sandbox.sql().execute_batch("UPDATE manifest_layers SET id = 0 WHERE id = 2").unwrap();
    assert!(one(&catalog, ALPINE).unwrap().rows_complete);
    sandbox.sql().execute_batch("DELETE FROM manifest_layers WHERE id = 3").unwrap();
    assert!(!one(&catalog, ALPINE).unwrap().rows_complete);
}

/// Each attempt reads the layers of every image that has the one in common.
#[test]
fn a_read_attempts_no_order_and_a_removal_only_those_that_it_may_have_freed() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    conflicts(&mut catalog, 30);
    drop(catalog);
    let mut catalog = sandbox.open();
    assert_eq!(to_repair(&catalog), 0);
    assert_eq!(runs(&catalog, stack::LAYERS_ABOVE) + runs(&catalog, stack::WANTED_ABOVE), 0);

    put(&mut catalog, "new:1", &["a", "b", "e"], &file("one"));
    assert_eq!(runs(&catalog, stack::WANTED_ABOVE), 0);
    catalog.forget(&[reference("base7:1")], None).unwrap();
    assert!(is_right(&sandbox, 7) && !is_right(&sandbox, 8));
    assert_eq!(runs(&catalog, stack::WANTED_ABOVE), 0, "the one that is freed has its order at once");
    assert_eq!(to_repair(&catalog), 0);
    sandbox.assert_sound();
}

#[test]
fn the_last_of_many_conflicts_ends_when_its_other_image_goes_or_changes() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    conflicts(&mut catalog, 110);
    assert!(!is_right(&sandbox, 99) && !is_right(&sandbox, 98));
    catalog.forget(&[reference("base99:1")], None).unwrap();
    assert!(is_right(&sandbox, 99), "the last one by name");
    put(&mut catalog, "base98:1", &["base 98", "f"], &file("one"));
    assert!(is_right(&sandbox, 98));
    assert_eq!(to_repair(&catalog), 0);
    sandbox.assert_sound();
}

/// The third image of a circle shares but one layer with each of the others.
#[test]
fn a_conflict_of_three_images_ends_with_any_of_them() {
    for gone in ["first:1", "second:1"] {
        let sandbox = Sandbox::new();
        let mut catalog = sandbox.open();
        put(&mut catalog, "first:1", &["a", "b"], &file("one"));
        put(&mut catalog, "second:1", &["b", "c"], &file("one"));
        put(&mut catalog, "third:1", &["c", "a"], &file("one"));
        assert_eq!(to_repair(&catalog), 0);
        catalog.forget(&[reference(gone)], None).unwrap();
        assert_eq!(sandbox.stacked("docker.io/library/third:1"), ["c", "a"], "{gone}");
        assert_eq!(to_repair(&catalog), 0);
    }
}

#[test]
fn a_second_name_shares_the_note_of_its_image() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, ALPINE, &["a", "b"], &file("one"));
    put(&mut catalog, "sandboxes.io/library/x:1", &["b", "a"], &file("one"));
    assert_eq!(sandbox.count("images"), 3);
    assert_eq!(to_repair(&catalog), 0);
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    for name in ["sandboxes.io/library/x:1", "docker.io/library/x:1"] {
        assert_eq!(sandbox.stacked(name), ["b", "a"]);
    }
    assert_eq!(to_repair(&catalog), 0);
    assert_eq!(sandbox.count("sync_out_of_order"), 0);
}

#[test]
fn a_row_of_nobody_s_with_the_last_id_keeps_no_image_from_being_forgotten() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    conflicts(&mut catalog, 1);
    let last = [i64::MAX - 807];
    sandbox.sql().execute("INSERT INTO layers VALUES (?, '', 'x', 'x', 1, NULL, NULL)", last).unwrap();
    catalog.forget(&[reference("base0:1")], Some(&file("one"))).unwrap();
    assert_eq!(one(&catalog, "base0:1"), None);
    assert!(!is_right(&sandbox, 0));
    assert_eq!(to_repair(&catalog), 0, "it stays noted");
}

#[test]
fn a_second_name_that_means_something_of_its_own_keeps_its_order() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, "quay.io/x/p:1", &["c", "b"], &file("one"));
    put(&mut catalog, "sandboxes.io/library/alpine:3.20", &["b", "c"], &file("one"));
    put(&mut catalog, ALPINE, &["c", "b"], &file("one"));
    put(&mut catalog, "quay.io/x/p:1", &["a"], &file("one"));
    assert_eq!(sandbox.stacked(ALPINE), ["c", "b"]);
    assert_eq!(to_repair(&catalog), 0);
}

/// Catalogs from before the notes: nobody has touched them.
#[test]
fn an_older_catalog_with_conflicts_is_in_order_before_and_after_the_notes() {
    let sandbox = Sandbox::new();
    conflicts(&mut sandbox.open(), 3);
    let older = "DROP TABLE sync_out_of_order; UPDATE sync_meta SET value = 11;
        INSERT INTO sync_meta VALUES ('out-of-order docker.io/library/derived0:1', 1);";
    sandbox.sql().execute_batch(older).unwrap();
    assert_eq!(to_repair(&sandbox.reader()), 0);
    assert_eq!(to_repair(&sandbox.open()), 0);
    assert_eq!((sandbox.count("sync_meta"), sandbox.count("sync_out_of_order")), (1, 3));
    assert_eq!(to_repair(&sandbox.reader()), 0);
}

/// An image that only microsandbox has: it may go without a word to us.
#[test]
fn an_image_is_repaired_when_microsandbox_takes_away_what_stood_in_its_way() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    put(&mut catalog, "theirs:1", &["b", "a"], &file("one"));
    for table in ["sync_images", "sync_image_layers", "sync_owners"] {
        sandbox.sql().execute_batch(&format!("DELETE FROM {table}")).unwrap();
    }
    put(&mut catalog, "ours:1", &["a", "b"], &file("one"));
    assert_eq!((to_repair(&catalog), sandbox.count("sync_out_of_order")), (0, 1));
    let gone = "PRAGMA foreign_keys = ON; DELETE FROM images WHERE reference LIKE '%theirs%'";
    sandbox.sql().execute_batch(gone).unwrap();
    assert_eq!(to_repair(&catalog), 1);
    put(&mut catalog, "ours:1", &["a", "b"], &file("one"));
    assert_eq!(sandbox.stacked("docker.io/library/ours:1"), ["a", "b"]);
    assert_eq!((to_repair(&catalog), sandbox.count("sync_out_of_order")), (0, 0));
}

/// One change tries not very many of them.
#[test]
fn all_that_one_image_stood_in_the_way_of_get_their_order_or_are_repaired() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let middles: Vec<String> = (0..130).map(|number| format!("middle {number}")).collect();
    let base: Vec<&str> = middles.iter().map(|middle| &**middle).chain(["e"]).collect();
    put(&mut catalog, "base:1", &base, &file("one"));
    for (number, middle) in middles.iter().enumerate() {
        put(&mut catalog, &format!("upper{number}:1"), &["e", middle], &file("one"));
    }
    assert_eq!(to_repair(&catalog), 0);
    catalog.forget(&[reference("base:1")], None).unwrap();
    let in_order = |number: usize| {
        let stacked = sandbox.stacked(&format!("docker.io/library/upper{number}:1"));
        stacked.first().is_some_and(|bottom| bottom == "e")
    };
    let count = (0..130).filter(|number| in_order(*number)).count();
    assert_eq!((count, to_repair(&catalog)), (100, 30));
}

/// Rows that somebody renumbered are no conflict, and a step that is done again does no harm.
#[test]
fn the_step_that_notes_conflicts_hides_no_damage_and_can_be_done_again() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    conflicts(&mut catalog, 1);
    put(&mut catalog, ALPINE, &["x", "y"], &file("one"));
    drop(catalog);
    let swap = "PRAGMA foreign_keys = OFF;
        CREATE TEMP TABLE swap AS SELECT max(id) AS last FROM layers;
        UPDATE manifest_layers SET layer_id = 0 WHERE layer_id = (SELECT last FROM swap);
        UPDATE layers SET id = 0 WHERE id = (SELECT last FROM swap);
        UPDATE sync_meta SET value = 11 WHERE key = 'schema_version';";
    sandbox.sql().execute_batch(swap).unwrap();
    let catalog = sandbox.open();
    assert_eq!(to_repair(&catalog), 1, "the one that was renumbered");
    assert_eq!(sandbox.count("sync_out_of_order"), 2);
}
