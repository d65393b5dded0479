//! Laws that hold of every plan, over random worlds.

use super::*;

fn part(reason: Reason) -> PlannedPart {
    PlannedPart { state: PartState::Layers(LayersState::default()), reason }
}

fn any_reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::NotRecorded),
        Just(Reason::AnotherDigest),
        Just(Reason::Rows),
        Just(Reason::InSync),
        Just(Reason::Blocked(Arc::new(Error::Stopped))),
    ]
}

#[test]
fn the_first_of_add_update_repair_blocked_and_keep_is_the_image_s_action() {
    let blocked = || Reason::Blocked(Arc::new(Error::Stopped));
    for (reasons, action) in [
        (vec![Reason::InSync], Action::Keep),
        (vec![Reason::InSync, blocked()], Action::Blocked),
        (vec![blocked(), Reason::Rows], Action::Repair),
        (vec![Reason::Rows, Reason::AnotherDigest, blocked()], Action::Update),
        (vec![Reason::InSync, Reason::LockedDigest, Reason::OnlyMicrosandbox], Action::Add),
    ] {
        let parts: Vec<PlannedPart> = reasons.into_iter().map(part).collect();
        assert_eq!(deciding(&parts).map(PlannedPart::action), Some(action), "{parts:?}");
    }
    assert!(deciding(&[]).is_none());
}

proptest! {
    #[test]
    fn an_image_is_kept_only_if_all_its_parts_are(reasons in proptest::collection::vec(any_reason(), 1..6)) {
        let mut parts: Vec<PlannedPart> = reasons.into_iter().map(part).collect();
        let actions: Vec<Action> = parts.iter().map(PlannedPart::action).collect();
        let action = deciding(&parts).map(PlannedPart::action).unwrap();
        prop_assert!(actions.contains(&action));
        prop_assert_eq!(action == Action::Keep, actions.iter().all(|action| *action == Action::Keep));
        let changes = |action: &Action| !matches!(action, Action::Keep | Action::Blocked);
        prop_assert_eq!(changes(&action), actions.iter().any(changes));
        // Their order says nothing.
        parts.reverse();
        prop_assert_eq!(deciding(&parts).map(PlannedPart::action), Some(action));
    }

    #[test]
    fn an_image_does_what_its_parts_say((desired, observed) in world()) {
        for image in &plan(&desired, &observed).images {
            prop_assert_eq!(image.action, image.reason.action());
            match deciding(&image.parts) {
                Some(part) => prop_assert_eq!(part.reason.code(), image.reason.code()),
                None => prop_assert!(matches!(image.action, Action::Remove | Action::Blocked)),
            }
        }
    }

    #[test]
    fn planning_after_applying_is_empty((desired, observed) in world()) {
        let first = plan(&desired, &observed);
        let after = applied(&desired, &observed, &first);
        let second = plan(&desired, &after);
        prop_assert!(second.is_empty(), "{second:#?}");
        prop_assert_eq!(second.download_bytes(), 0);
        prop_assert_eq!(second.count(Action::Blocked), first.count(Action::Blocked));
    }

    #[test]
    fn what_is_only_to_be_compared_is_not_fetched((desired, mut observed) in world()) {
        for state in observed.layers.values_mut() {
            *state = LayerState::Unbound;
        }
        let plan = plan(&desired, &observed);
        prop_assert!(plan.fetches.is_empty(), "{plan:#?}");
        for image in plan.images.iter().filter(|image| image.action != Action::Remove) {
            prop_assert_eq!(image.download_bytes, 0);
            prop_assert_eq!(image.layers_state().present, image.layers.len());
        }
    }

    #[test]
    fn a_layer_that_any_image_keeps_is_never_removed((desired, observed) in world()) {
        let plan = plan(&desired, &observed);
        let after = applied(&desired, &observed, &plan);
        let removed: BTreeSet<_> = plan.layers_to_remove.iter().collect();
        for row in after.recorded.values() {
            prop_assert!(row.layers.iter().all(|layer| !removed.contains(&layer.digest)));
        }
        prop_assert!(observed.needed_elsewhere.iter().all(|digest| !removed.contains(digest)));
        if !desired.prune {
            prop_assert!(removed.is_empty());
            prop_assert_eq!(plan.count(Action::Remove), 0);
        }
    }

    #[test]
    fn an_unresolved_image_removes_nothing((desired, mut observed) in world()) {
        for resolution in observed.resolutions.values_mut() {
            *resolution = blocked();
        }
        let plan = plan(&desired, &observed);
        let listed: BTreeSet<_> = desired.images.iter().map(|image| &image.reference).collect();
        for image in plan.images.iter().filter(|image| image.action != Action::Remove) {
            prop_assert_eq!(image.action, Action::Blocked);
        }
        for row in observed.recorded.values().filter(|row| listed.contains(&row.reference)) {
            prop_assert!(row.layers.iter().all(|layer| !plan.layers_to_remove.contains(&layer.digest)));
        }
        prop_assert!(plan.fetches.is_empty());
    }

    #[test]
    fn a_refused_image_is_left_as_it_is((desired, mut observed) in world(), refused in proptest::collection::vec(any::<bool>(), 6)) {
        let refused: BTreeSet<ImageRef> =
            (0..6).filter(|&index| refused[index]).map(reference).collect();
        for image in &refused {
            observed.verdicts.insert(image.clone(), refusal());
        }
        let plan = plan(&desired, &observed);
        let mut any = false;
        for image in plan.images.iter().filter(|image| image.action != Action::Remove) {
            if refused.contains(&image.reference) {
                any = true;
                prop_assert_eq!(image.action, Action::Blocked);
                prop_assert!(image.to_record.is_none() || image.to_record == Some(ToRecord::Owner));
                prop_assert_eq!(image.download_bytes, 0);
            }
        }
        for claim in plan.fetches.iter().flat_map(Fetch::claims) {
            prop_assert!(claim.images.iter().all(|image| !refused.contains(image)), "{claim:?}");
        }
        // Images that are not listed are no concern of a rule, and go where nothing is blocked.
        prop_assert!(!any || plan.layers_to_remove.is_empty());
        prop_assert!(plan.proofs().is_empty());
    }

    #[test]
    fn nothing_is_removed_while_a_wanted_image_is_blocked_or_failed((desired, mut observed) in world(), failed: bool) {
        observed.failed = failed;
        let held = plan(&desired, &observed);
        let waits = failed || held.count(Action::Blocked) > 0;
        for image in &held.images {
            prop_assert_eq!(image.waits.is_some(), waits && image.action == Action::Remove);
        }
        prop_assert!(!waits || held.layers_to_remove.is_empty());
        prop_assert_eq!(held.waiting().count(), if waits { held.count(Action::Remove) } else { 0 });
        // The same images wait that go as soon as nothing is in their way.
        let free = plan(&Desired { images: Vec::new(), ..desired.clone() }, &Observed { failed: false, ..observed.clone() });
        let listed: BTreeSet<_> = desired.images.iter().map(|image| &image.reference).collect();
        let free = free.images.iter().map(|image| &image.reference).filter(|name| !listed.contains(name));
        let held = held.images.iter().filter(|image| image.action == Action::Remove).map(|image| &image.reference);
        prop_assert!(held.eq(free));
    }

    #[test]
    fn what_is_listed_by_now_is_spared((desired, observed) in world(), spared in proptest::collection::vec(any::<bool>(), 6)) {
        let mut plan = plan(&desired, &observed);
        let spared: BTreeSet<ImageRef> = (0..6).filter(|index| spared[*index]).map(reference).collect();
        let before = plan.images.len();
        let listed = plan.images.iter().filter(|image| image.action == Action::Remove && spared.contains(&image.reference)).count();
        plan.spare(&spared);
        prop_assert_eq!(plan.images.len(), before - listed);
        prop_assert!(plan.images.iter().all(|image| image.action != Action::Remove || !spared.contains(&image.reference)));
    }

    #[test]
    fn the_order_of_the_file_does_not_matter((desired, observed) in world()) {
        let mut reversed = desired.clone();
        reversed.images.reverse();
        prop_assert_eq!(format!("{:?}", plan(&desired, &observed)), format!("{:?}", plan(&reversed, &observed)));
    }

    /// A lockfile's word about an image leads to the same plan as its registry's word.
    #[test]
    fn a_locked_image_is_planned_as_a_resolved_one((desired, observed) in world()) {
        let mut by_lockfile = observed.clone();
        for resolution in by_lockfile.resolutions.values_mut() {
            if let Resolution::Resolved(image) = resolution {
                *resolution = locked(image);
            }
        }
        let (resolved, locked) = (plan(&desired, &observed), plan(&desired, &by_lockfile));
        prop_assert_eq!(resolved.download_bytes(), locked.download_bytes());
        prop_assert_eq!(&resolved.layers_to_remove, &locked.layers_to_remove);
        prop_assert_eq!(resolved.images.len(), locked.images.len());
        for (one, other) in resolved.images.iter().zip(&locked.images) {
            prop_assert_eq!((one.action, &one.digest, &one.previous), (other.action, &other.digest, &other.previous));
            prop_assert_eq!((one.layers_state(), one.download_bytes), (other.layers_state(), other.download_bytes));
            prop_assert_eq!(one.to_record.is_some(), other.to_record.is_some());
        }
    }

    /// A run in two parts, of which the first knows some lookups only, ends where one that knows
    /// all at once does.
    #[test]
    fn parts_lead_where_the_whole_leads((desired, observed) in world(), known in proptest::collection::vec(any::<bool>(), 6)) {
        let is_known = |name: &ImageRef| (0..6).any(|index| known[index] && reference(index) == *name);
        let whole = plan(&desired, &observed);
        let goal = applied(&desired, &observed, &whole);

        let (mut part, mut known) = (desired.clone(), observed.clone());
        part.images.retain(|image| is_known(&image.reference));
        part.listed_elsewhere.extend(desired.images.iter().map(|image| image.reference.clone()));
        known.resolutions.retain(|name, _| is_known(name));
        let mut first = plan(&part, &known);
        let left = first.take_removals();
        let handled: BTreeSet<ImageRef> = first.images.iter().map(|image| image.reference.clone()).collect();
        let after = applied(&part, &known, &first);
        let released = left.into_iter().collect();
        let between = Observed { recorded: after.recorded, layers: after.layers, released, ..observed.clone() };
        let rest = plan(&desired, &between).without(&handled);
        let end = applied(&desired, &between, &rest);

        prop_assert_eq!(&end.recorded, &goal.recorded);
        let complete = |observed: &Observed| -> Vec<BlobDigest> {
            let complete = observed.layers.iter().filter(|(_, state)| **state == LayerState::Complete);
            complete.map(|(digest, _)| digest.clone()).collect()
        };
        prop_assert_eq!(complete(&end), complete(&goal));
        first.append(rest);
        let actions = |plan: &Plan| -> Vec<_> {
            // The first part may bring the layer that an image of the rest lacks.
            let action = |image: &PlannedImage| match image.action {
                Action::Repair => Action::Keep,
                other => other,
            };
            plan.images.iter().map(|image| (image.reference.clone(), action(image))).collect()
        };
        prop_assert_eq!(actions(&first), actions(&whole));
        prop_assert_eq!(first.download_bytes(), whole.download_bytes());
    }

    #[test]
    fn every_record_has_its_layers_fetched_before((desired, observed) in world()) {
        let plan = plan(&desired, &observed);
        let fetched: BTreeSet<_> = plan.fetches.iter().map(Fetch::digest).collect();
        for image in plan.images.iter().filter(|image| !matches!(image.action, Action::Remove | Action::Blocked)) {
            for layer in &*image.layers {
                let here = observed.layers.get(&layer.digest).is_some_and(|state| state.is_here());
                prop_assert!(here != fetched.contains(&layer.digest));
            }
        }
        prop_assert!(plan.fetches.windows(2).all(|pair| pair[0].size() >= pair[1].size()));
        prop_assert_eq!(fetched.len(), plan.fetches.len());
    }

    #[test]
    fn a_layer_that_no_record_has_is_missing_where_nothing_is_said_of_it((desired, observed) in world()) {
        let mut brief = observed.clone();
        let recorded: BTreeSet<_> =
            observed.recorded.values().flat_map(|row| &*row.layers).map(|layer| &layer.digest).collect();
        brief.layers.retain(|digest, state| *state != LayerState::Missing || recorded.contains(digest));
        prop_assert_eq!(format!("{:?}", plan(&desired, &brief)), format!("{:?}", plan(&desired, &observed)));
    }

    #[test]
    fn every_image_that_needs_a_blob_has_its_word_in_one_claim((desired, observed) in world()) {
        let plan = plan(&desired, &observed);
        let goes_on = |image: &&PlannedImage| image.action != Action::Remove && image.rows_error().is_none();
        for fetch in &plan.fetches {
            for image in plan.images.iter().filter(goes_on) {
                let layer = image.layers.iter().find(|layer| layer.digest == *fetch.digest());
                let claims = fetch.claims().filter(|claim| claim.images.contains(&image.reference));
                let said: Vec<_> = claims.map(Claim::layer).collect();
                prop_assert_eq!(said, Vec::from_iter(layer));
            }
            prop_assert!(fetch.claims().all(|claim| claim.images.is_sorted_by(|a, b| a < b)));
        }
    }
}
