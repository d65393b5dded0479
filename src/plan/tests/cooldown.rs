//! New digests that wait: the recorded image stays wanted, and what is noted says since when.

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::state::{NewTag, TagCandidate};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// An image of which the first version is recorded and the second one is new, at the second 100.
fn world() -> (Desired, Observed) {
    let name = reference(1);
    let (old, new) = (resolved(&name, 1, &[1]), resolved(&name, 2, &[2]));
    let mut image = wanted(name.clone());
    image.cooldown = Duration::from_secs(10);
    let observed = Observed {
        now: at(100),
        resolutions: BTreeMap::from([(name.clone(), Resolution::Resolved(Arc::new(new)))]),
        recorded: BTreeMap::from([(name.clone(), row(&old, &name, &["/images.toml"]))]),
        layers: BTreeMap::from([
            (layer(1).digest, LayerState::Complete),
            (layer(2).digest, LayerState::Missing),
        ]),
        ..Observed::default()
    };
    (Desired { images: vec![image], ..desired(Vec::new(), false) }, observed)
}

fn noted(of: &str, since: i64) -> BTreeMap<ImageRef, TagCandidate> {
    BTreeMap::from([(reference(1), TagCandidate { digest: digest(of), since: at(since), ahead: None })])
}

fn second() -> String {
    format!("{} 2", reference(1))
}

#[test]
fn a_planner_that_is_told_of_a_new_image_lets_it_wait() {
    let (desired, mut observed) = world();
    for (candidates, taken) in [
        (BTreeMap::new(), false),
        (noted(&second(), 91), false),
        (noted("another", 0), false),
        (noted(&second(), 90), true),
    ] {
        observed.candidates = candidates;
        let plan = plan(&desired, &observed);
        let image = &plan.images[0];
        let expected = if taken { Action::Update } else { Action::Keep };
        assert_eq!((image.action, image.waiting.is_none()), (expected, taken), "{image:?}");
        assert_eq!(image.digest, Some(digest(&format!("{} {}", reference(1), if taken { 2 } else { 1 }))));
        assert_eq!(plan.fetches.len(), usize::from(taken));
        // A note is written once, and changes nothing by itself.
        let is_new = !taken && observed.candidates != noted(&second(), 91);
        assert_eq!((plan.candidates.len(), plan.is_empty()), (usize::from(is_new), !taken && !is_new));
        assert_eq!(plan.changes(), usize::from(taken));
    }
}

#[test]
fn who_has_chosen_a_digest_does_not_wait_for_it() {
    let (mut desired, mut observed) = world();
    let update = |desired: &Desired, observed: &Observed| plan(desired, observed).images[0].action;
    assert_eq!(update(&desired, &observed), Action::Keep);
    desired.images[0].cooldown = Duration::ZERO;
    assert_eq!(update(&desired, &observed), Action::Update);
    desired.images[0].cooldown = Duration::from_secs(10);
    let row = observed.recorded.get_mut(&reference(1)).unwrap();
    row.platform = Some(Platform::new("linux", "arm64", None));
    assert_eq!(update(&desired, &observed), Action::Update, "the user wants another platform");
    observed.recorded.clear();
    assert_eq!(update(&desired, &observed), Action::Add, "a first add");
}

#[test]
fn a_damaged_image_is_repaired_while_its_successor_waits() {
    let (desired, mut observed) = world();
    observed.layers.insert(layer(1).digest, LayerState::Missing);
    let plan = plan(&desired, &observed);
    assert_eq!((plan.images[0].action, plan.fetches.len()), (Action::Repair, 1));
    assert!(plan.images[0].waiting.is_some() && plan.candidates.len() == 1);
}

#[test]
fn a_note_ends_when_a_registry_says_that_the_old_digest_is_back() {
    let (desired, mut observed) = world();
    observed.candidates = noted(&second(), 95);
    observed.resolutions.insert(reference(1), Resolution::AsRecorded);
    // Nobody was asked: offline, or by the policy.
    assert!(plan(&desired, &observed).candidates.is_empty());
    observed.seen.insert(reference(1), digest(&format!("{} 1", reference(1))));
    assert_eq!(plan(&desired, &observed).candidates, BTreeMap::from([(reference(1), None)]));
    observed.seen.insert(reference(1), digest(&second()));
    let plan = plan(&desired, &observed);
    assert!(plan.candidates.is_empty() && plan.images[0].waiting.is_some());
}

#[test]
fn tags_that_nobody_has_taken_for_a_year_are_forgotten() {
    let (desired, mut observed) = world();
    let new = ImageRef::parse("registry.example/image-1:2", "docker.io").unwrap();
    let gone = ImageRef::parse("registry.example/image-1:0", "docker.io").unwrap();
    let candidate = TagCandidate { digest: digest("x"), since: at(95), ahead: None };
    observed.candidates = BTreeMap::from([(new.clone(), candidate.clone()), (gone.clone(), candidate)]);
    let cooldown = Duration::from_secs(10);
    observed.new_tags = vec![NewTag { tag: new.clone(), digest: digest("x"), cooldown }];
    let changes = |observed: &Observed| {
        let mut plan = plan(&desired, observed);
        plan.candidates.remove(&reference(1));
        (plan.new_tags.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>(), plan.candidates)
    };
    // Another images file may wait for the other one.
    observed.decided.insert(new.repository_alone());
    assert_eq!(changes(&observed), (vec![new.clone()], BTreeMap::new()));
    observed.now = at(367 * 24 * 3600);
    let (waiting, mut changed) = changes(&observed);
    assert_eq!((waiting.len(), changed.remove(&gone), changed.len()), (0, Some(None), 0));
}
