//! Selections of tags: what they choose, and what falls out of them.

use super::*;

fn redis(tag: &str) -> ImageRef {
    ImageRef::parse(&format!("redis:{tag}"), "docker.io").unwrap()
}

/// A file that selects tags of redis, with 7.2 and 7.4 recorded for it and 7.4 and 7.10 chosen now.
fn selecting(prune: bool) -> (Desired, Observed) {
    let mut desired = desired(Vec::new(), prune);
    desired.selections.push(TagSelection {
        repository: redis("1").repository_alone(),
        platform: platform(),
        pull: PullPolicy::Always,
        cooldown: std::time::Duration::ZERO,
        groups: BTreeSet::new(),
        engines: None,
        rule: TagRule { semver: vec!["7".to_owned()], ..TagRule::default() },
        locked: None,
    });
    let mut observed = Observed::default();
    for (index, tag) in ["7.2", "7.4", "7.10"].into_iter().enumerate() {
        let image = resolved(&redis(tag), 1, &[index]);
        if tag != "7.10" {
            let row = row(&image, &image.reference, &["/images.toml"]);
            observed.recorded.insert(image.reference.clone(), row);
            observed.layers.insert(layer(index).digest, LayerState::Complete);
        }
        if tag != "7.2" {
            let rule = "semver \"7\"".to_owned();
            observed.selected.push(SelectedImage { image: wanted(redis(tag)), rule });
            observed.resolutions.insert(redis(tag), Resolution::Resolved(Arc::new(image)));
        }
    }
    observed.decided.insert(redis("1").repository_alone());
    (desired, observed)
}

fn actions(plan: &Plan) -> Vec<(String, Action, String)> {
    plan.images.iter().map(|image| (image.reference.to_string(), image.action, remark(image))).collect()
}

#[test]
fn chosen_tags_are_planned_and_those_that_fell_out_are_removed_with_prune_only() {
    let (wanted, observed) = selecting(true);
    let name = |tag: &str| redis(tag).to_string();
    assert_eq!(
        actions(&plan(&wanted, &observed)),
        [
            (name("7.10"), Action::Add, "chosen by semver \"7\"".to_owned()),
            (name("7.4"), Action::Keep, "chosen by semver \"7\"".to_owned()),
            (name("7.2"), Action::Remove, "not listed any more: not among the tags chosen now".to_owned()),
        ]
    );
    let (wanted, observed) = selecting(false);
    let planned = plan(&wanted, &observed);
    assert_eq!(planned.unlisted, [redis("7.2")]);
    assert_eq!(planned.count(Action::Remove), 0);
}

#[test]
fn a_selection_that_was_not_made_from_the_list_removes_nothing_of_its_repository() {
    let (wanted, mut observed) = selecting(true);
    observed.decided.clear();
    let planned = plan(&wanted, &observed);
    assert_eq!((planned.count(Action::Remove), planned.unlisted.len()), (0, 0));

    observed.selected.clear();
    let error = Arc::new(Error::Offline(Absent::Tag("newest".to_owned())));
    let repository = redis("1").repository_alone();
    observed.blocked_selections.push(BlockedSelection { repository, platform: platform(), error });
    let planned = plan(&wanted, &observed);
    let blocked = (
        "docker.io/library/redis".to_owned(),
        Action::Blocked,
        "no tag here fits newest, and --offline forbids asking its registry".to_owned(),
    );
    assert_eq!(actions(&planned), [blocked]);
    assert!(planned.unlisted.is_empty() && planned.layers_to_remove.is_empty());
    assert!(planned.is_empty());
}

#[test]
fn a_selection_that_this_run_leaves_alone_keeps_its_repository() {
    let (mut wanted, mut observed) = selecting(true);
    wanted.selections.clear();
    observed = Observed { recorded: observed.recorded, layers: observed.layers, ..Observed::default() };
    assert_eq!(plan(&wanted, &observed).count(Action::Remove), 2);
    wanted.listed_elsewhere.insert(redis("1").repository_alone());
    assert_eq!(plan(&wanted, &observed).count(Action::Remove), 0);
}
