//! Changes that hooks are to be told of: with the record of the image or not at all, each once, and
//! by one run at a time.

use super::*;
use crate::progress::Action;
use crate::state::{HookEvent, PendingHookEvent};

const HOOK: &str = "sha256:1";

fn pending(hook: &str, name: &str, action: Action, is_done: bool) -> PendingHookEvent {
    PendingHookEvent {
        hook: hook.to_owned(),
        program: "notify".to_owned(),
        event: HookEvent {
            time: "2026-11-29T09:30:02.417Z".to_owned(),
            reference: reference(name),
            platform: Some("linux/amd64".to_owned()),
            action,
            digest: (action != Action::Remove).then(|| image(name, &["a"]).digest),
            previous: None,
        },
        is_done,
    }
}

fn tell(catalog: &mut WritableCatalog, events: &[PendingHookEvent]) {
    for result in catalog.change(&[Change::Tell { events }], &file("one"), usual()) {
        result.unwrap();
    }
}

fn names(events: &[HookEvent]) -> Vec<String> {
    events.iter().map(|event| format!("{} {}", event.action.as_str(), event.reference)).collect()
}

#[test]
fn a_change_is_noted_with_the_record_and_with_the_removal() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let (one, names) = (image(ALPINE, &["a"]), reference(ALPINE).recorded_names());
    let added = pending(HOOK, ALPINE, Action::Add, true);
    let record = Change::Record {
        image: &one,
        names: &names,
        hold: false,
        has_blobs: false,
        events: std::slice::from_ref(&added),
    };
    catalog.change(&[record], &file("one"), usual()).pop().unwrap().unwrap();
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), std::slice::from_ref(&added));
    assert_eq!(catalog.pending_hook_events(&file("two")).unwrap(), []);

    let removed = pending(HOOK, ALPINE, Action::Remove, true);
    catalog.forget_and_tell(&names, &file("one"), std::slice::from_ref(&removed)).unwrap();
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), [added, removed]);
    // One that fails notes nothing.
    sandbox
        .sql()
        .execute_batch(
            "DELETE FROM sync_hook_events;
             CREATE TRIGGER no BEFORE INSERT ON sync_images BEGIN SELECT RAISE(ABORT, 'no'); END;",
        )
        .unwrap();
    let added = [pending(HOOK, ALPINE, Action::Add, true)];
    let record = Change::Record { image: &one, names: &names, hold: false, has_blobs: false, events: &added };
    catalog.change(&[record], &file("one"), usual()).pop().unwrap().unwrap_err();
    assert_eq!(sandbox.count("sync_hook_events"), 0);
}

#[test]
fn what_the_last_row_says_is_not_noted_again() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let loaded_later = pending(HOOK, ALPINE, Action::Add, false);
    let put_back = pending(HOOK, ALPINE, Action::Update, true);
    tell(&mut catalog, &[loaded_later.clone(), put_back.clone()]);
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), std::slice::from_ref(&loaded_later));
    let gone = pending(HOOK, ALPINE, Action::Remove, true);
    let other = pending("sha256:2", ALPINE, Action::Update, true);
    tell(&mut catalog, &[gone.clone(), put_back.clone(), other.clone()]);
    let all = [loaded_later, gone.clone(), put_back.clone(), other.clone()];
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), all);
    // An image that goes before it was done is never found done.
    catalog.forget(&[reference(ALPINE)], Some(&file("one"))).unwrap();
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), [gone, put_back, other]);
}

#[test]
fn one_run_at_a_time_tells_and_a_dead_ones_changes_are_told_again() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let waits = pending(HOOK, "app:2", Action::Add, false);
    tell(&mut catalog, &[pending(HOOK, "app:1", Action::Add, true), waits]);
    let open = || HookBook::open(sandbox.dir.path()).unwrap();
    let (mut one, mut other) = (open(), open());
    let nothing = BTreeSet::new();
    let app = |number: usize| format!("add docker.io/library/app:{number}");
    // The lock of the home is another's all the time.
    let claimed = one.claim(&file("one"), HOOK, &nothing).unwrap();
    assert_eq!(names(&claimed.events), [app(1)]);
    assert_eq!(other.claim(&file("two"), HOOK, &nothing).unwrap().events, []);
    assert_eq!(other.claim(&file("one"), HOOK, &nothing).unwrap().events, []);
    let second = other.claim(&file("one"), HOOK, &refs(&["app:2"])).unwrap();
    assert_eq!(names(&second.events), [app(2)]);
    // A change that comes meanwhile is one of its own.
    tell(&mut catalog, &[pending(HOOK, "app:1", Action::Add, true)]);
    let third = other.claim(&file("one"), HOOK, &nothing).unwrap();
    assert_eq!(names(&third.events), [app(1)]);
    other.end(&second, true).unwrap();
    other.end(&third, true).unwrap();
    drop(one);
    assert_eq!(names(&other.claim(&file("one"), HOOK, &nothing).unwrap().events), [app(1)]);
    drop(other);
    let mut last = open();
    let claimed = last.claim(&file("one"), HOOK, &nothing).unwrap();
    last.end(&claimed, false).unwrap();
    let claimed = open().claim(&file("one"), HOOK, &nothing).unwrap();
    assert_eq!(names(&claimed.events), [app(1)]);
    let claimed = last.claim(&file("one"), HOOK, &nothing).unwrap();
    last.end(&claimed, true).unwrap();
    assert_eq!(sandbox.count("sync_hook_events"), 0);
}

#[test]
fn changes_for_hooks_that_are_no_more_go_and_rows_may_say_anything() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let kept = pending(HOOK, "app:1", Action::Add, true);
    tell(&mut catalog, &[kept.clone(), pending("sha256:2", "app:1", Action::Add, true)]);
    let sql = sandbox.sql();
    for claim in ["-1", "'x'", "9223372036854775807", "NULL"] {
        sql.execute_batch(&format!(
            "INSERT INTO sync_hook_events (owner, hook, program, reference, time, action, is_done, claim)
             VALUES ('/etc/one.toml', '{HOOK}', x'00', 'UPPER', 'now', 'explode', 'yes', {claim})"
        ))
        .unwrap();
    }
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap().len(), 2);
    let mut book = HookBook::open(sandbox.dir.path()).unwrap();
    let dropped = book.drop_others(&file("one"), &BTreeSet::from([HOOK.to_owned()])).unwrap();
    assert_eq!(dropped, BTreeMap::from([(String::new(), 4), ("notify".to_owned(), 1)]));
    assert_eq!(catalog.pending_hook_events(&file("one")).unwrap(), [kept]);
    let claimed = book.claim(&file("one"), HOOK, &BTreeSet::new()).unwrap();
    assert_eq!(claimed.events.len(), 1);
}
