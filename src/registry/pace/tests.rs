//! Each registry has the limits that are meant for it, and a stop ends a wait. The sums have tests
//! of their own.

use super::*;

fn rate(bytes: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes).unwrap()
}

#[test]
fn a_registry_has_its_own_limit_or_its_accounts_and_that_of_all() {
    let paces = Arc::new(Paces::new(None, [("a", rate(1)), ("b", rate(2))].into_iter()));
    let of = |name, account| paces.of([name, account]).map(|pacer| pacer.limits);
    assert_eq!(of("c", "c"), None, "nothing is limited");
    assert_eq!(of("a", "b"), of("a", "a"));
    assert_eq!(of("c", "a"), of("a", "a"));
    assert_ne!(of("a", "a"), of("b", "b"));
    let paces = Arc::new(Paces::new(Some(rate(3)), [("a", rate(1))].into_iter()));
    let of = |name, account| paces.of([name, account]).map(|pacer| pacer.limits);
    assert_eq!((of("a", "a").unwrap().len(), of("c", "c").unwrap().len()), (2, 1));
}

#[test]
fn a_stop_ends_the_wait_and_what_was_not_taken_is_there_for_others() {
    let paces = Arc::new(Paces::new(Some(rate(1)), std::iter::empty()));
    let pacer = paces.of(["a", "a"]).unwrap();
    let stopped = Cancel::new();
    stopped.cancel();
    let mut pace = pacer.begin();
    assert!(matches!(pace.ready(1 << 40, &stopped), Err(RegistryError::Stopped)));
    drop(pace);
    let now = paces.now();
    let turn = lock(&paces.shares).take(&pacer.limits, 1, now);
    assert!(turn.due <= now + Duration::from_secs(1), "{turn:?} after {now:?}");
}

#[test]
fn bytes_that_are_due_are_taken_without_another_wait() {
    let paces = Arc::new(Paces::new(Some(rate(1 << 30)), std::iter::empty()));
    let mut pace = paces.of(["a", "a"]).unwrap().begin();
    let cancel = Cancel::new();
    let due = pace.ready(1000, &cancel).unwrap();
    assert_eq!(due, 1000);
    pace.took(400);
    cancel.cancel();
    assert_eq!(pace.ready(1 << 20, &cancel).unwrap(), 600, "nobody sleeps for what is due");
    assert!(pace.waited() <= Duration::from_millis(1) && pace.waited().is_zero());
}
