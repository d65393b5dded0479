//! Removals: what is listed no more, and what is forgotten by name.

use super::*;

fn rows(rows: Vec<RecordedImage>) -> BTreeMap<ImageRef, RecordedImage> {
    rows.into_iter().map(|row| (row.reference.clone(), row)).collect()
}

#[test]
fn what_is_unlisted_goes_unless_somebody_else_needs_it() {
    let row = |index: usize, owners: &[&str]| {
        row(&resolved(&reference(index), 1, &[index]), &reference(index), owners)
    };
    let mine = "/images.toml";
    let recorded = rows(vec![
        row(0, &[mine]),
        row(1, &[mine, "/other.toml"]),
        RecordedImage { preexisting: true, ..row(2, &[mine]) },
        row(3, &["/other.toml"]),
        row(4, &["pull"]),
        row(5, &[mine]),
    ]);
    let observed = Observed { recorded, ..Observed::default() };
    let mut desired = desired(vec![], false);
    desired.listed_elsewhere.insert(reference(5));
    assert!(removals(&desired, &observed, true).iter().all(|found| found.waits == Some(Wait::Images)));
    let found = removals(&desired, &observed, false);
    assert!(found.iter().all(|found| found.waits.is_none()));
    let facts: Vec<_> = found.iter().map(|found| (&found.reference, found.gone.len())).collect();
    assert_eq!(facts, [(&reference(0), 1), (&reference(1), 0), (&reference(2), 0)]);
    let reasons: Vec<_> = found.iter().map(|found| found.reason.to_string()).collect();
    assert_eq!(
        reasons,
        [
            "not listed any more",
            "not listed any more; stays for /other.toml",
            "not listed any more; stays for microsandbox, which had it first"
        ]
    );
}

#[test]
fn a_named_image_goes_whoever_owns_it_and_all_or_none_go() {
    let sandboxes = ImageRef::parse("sandboxes.io/alpine", "docker.io").unwrap();
    let docker = sandboxes.with_registry("docker.io");
    let image = resolved(&sandboxes, 1, &[1]);
    let own = row(&resolved(&reference(0), 1, &[2]), &reference(0), &["/images.toml", "pull"]);
    let foreign =
        RecordedImage { digest: None, ..row(&resolved(&reference(1), 1, &[3]), &reference(1), &[]) };
    let mut recorded = rows(vec![
        row(&image, &sandboxes, &["/images.toml"]),
        row(&image, &docker, &["/images.toml"]),
        own,
        foreign,
    ]);
    let remove = |names: &[&ImageRef], recorded: &BTreeMap<_, _>| {
        removals_of(&names.iter().map(|&name| name.clone()).collect(), recorded)
    };
    let found = remove(&[&reference(0), &sandboxes, &docker], &recorded).unwrap();
    assert_eq!(found.iter().flat_map(|found| found.gone.iter()).count(), 3);
    assert_eq!(found[1].names, [sandboxes.clone(), docker.clone()]);
    assert_eq!(found[0].reason.to_string(), "asked for; was wanted by /images.toml, pull");
    assert_eq!(
        remove(&[&reference(0), &reference(1), &reference(2), &docker], &recorded).unwrap_err(),
        Refusals {
            unknown: vec![reference(2)],
            refused: vec![
                Unforgettable::SecondName(docker.clone(), sandboxes.clone()),
                Unforgettable::Foreign(reference(1)),
            ],
        }
    );
    // A second name that a file lists too: the file gives it up, the first name still needs it.
    recorded.insert(docker.clone(), RecordedImage { alias_of: None, ..recorded[&docker].clone() });
    let found = remove(&[&docker], &recorded).unwrap();
    assert!(found[0].gone.len() == 1 && found[0].reason.to_string().contains("second name"), "{found:?}");
    assert_eq!(remove(&[&docker, &sandboxes], &recorded).unwrap()[0].gone.len(), 1);
}

#[test]
fn a_second_name_stays_as_long_as_anybody_wants_the_first() {
    let first = ImageRef::parse("sandboxes.io/alpine", "docker.io").unwrap();
    let second = first.with_registry("docker.io");
    let image = resolved(&first, 1, &[1]);
    let (mine, other) = ("/images.toml", "/other.toml");
    let of_itself = || RecordedImage { alias_of: None, ..row(&image, &second, &[mine]) };
    let stays = format!("; stays as the second name of {first}");
    for (of_first, seconds_reason) in [
        // Of another owner the planner knows no more than the second name's row says.
        (None, &*stays),
        (Some(row(&image, &first, &[mine, other])), &*stays),
        (Some(row(&image, &first, &[mine])), ""),
    ] {
        let recorded = rows(of_first.into_iter().chain([of_itself()]).collect());
        let observed = Observed { recorded: recorded.clone(), ..Observed::default() };
        let found = removals(&desired(vec![], false), &observed, false);
        assert_eq!(found[0].reason.to_string(), format!("not listed any more{seconds_reason}"));
        assert_eq!(found[0].reason.keeps_image(), !seconds_reason.is_empty());
        let forgotten = removals_of_owner(&Owner(mine.to_owned()), &recorded);
        assert_eq!(forgotten[0].reason.to_string(), format!("asked for{seconds_reason}"));
    }
}

#[test]
fn a_moved_layers_directory_is_noted() {
    let name = reference(0);
    let row = row(&resolved(&name, 1, &[1]), &name, &["/images.toml"]);
    let mut desired = desired(vec![name], false);
    let observed = observed_with(Resolution::AsRecorded, vec![row], &[1]);
    assert!(plan(&desired, &observed).is_empty());
    desired.layers_directory = "/elsewhere".into();
    let planned = plan(&desired, &observed);
    assert_eq!(
        (planned.images[0].action, &planned.images[0].to_record),
        (Action::Keep, &Some(ToRecord::Owner))
    );
}

#[test]
fn rows_of_a_second_name_are_repaired_by_those_of_the_image() {
    let first = ImageRef::parse("sandboxes.io/alpine", "docker.io").unwrap();
    let second = first.with_registry("docker.io");
    let image = resolved(&first, 1, &[1]);
    let right = || vec![row(&image, &first, &["/images.toml"]), row(&image, &second, &["/images.toml"])];
    let mut observed = observed_with(Resolution::AsRecorded, right(), &[1]);
    observed.resolutions.insert(first.clone(), Resolution::AsRecorded);
    let desired = desired(vec![first], false);
    assert!(plan(&desired, &observed).is_empty());
    observed.recorded.get_mut(&second).unwrap().rows_complete = false;
    for _ in 0..2 {
        let planned = plan(&desired, &observed);
        assert_eq!(
            (planned.images[0].action, &planned.images[0].to_record),
            (Action::Repair, &Some(ToRecord::Owner))
        );
        observed.recorded.remove(&second);
    }
}

#[test]
fn a_second_name_that_is_listed_is_wanted_for_itself() {
    let first = ImageRef::parse("sandboxes.io/alpine", "docker.io").unwrap();
    let second = first.with_registry("docker.io");
    let image = resolved(&first, 1, &[1]);
    let both = || vec![row(&image, &first, &["/images.toml"]), row(&image, &second, &["/images.toml"])];
    let mut observed = observed_with(Resolution::AsRecorded, both(), &[1]);
    for name in [&first, &second] {
        observed.resolutions.insert(name.clone(), Resolution::AsRecorded);
    }
    let of = |plan: &Plan, name: &ImageRef| {
        plan.images.iter().find(|image| image.reference == *name).cloned().unwrap()
    };
    // It is adopted, with the first name and without.
    for listed in [vec![first.clone(), second.clone()], vec![second.clone()]] {
        let planned = plan(&desired(listed, true), &observed);
        assert_eq!(of(&planned, &second).to_record, Some(ToRecord::Owner));
        assert_eq!(
            (of(&planned, &first).names, &planned.layers_to_remove[..]),
            (vec![first.clone()], &[][..])
        );
        assert!(planned.waiting().next().is_none());
    }
    // A run that does not see to it lets the first name wait.
    let mut elsewhere = desired(vec![], true);
    elsewhere.listed_elsewhere.insert(second.clone());
    let planned = plan(&elsewhere, &observed);
    let waits = Wait::SecondName(second.clone());
    assert_eq!(planned.waiting().collect::<Vec<_>>(), [(&first, &waits)]);
    assert!(planned.layers_to_remove.is_empty() && planned.is_empty() && planned.changes() == 0);
    assert_eq!(removals(&elsewhere, &observed, false)[0].waits, Some(waits));
    // Wanted for itself, it is nobody else's to record, and nothing is to do.
    observed.recorded.get_mut(&second).unwrap().alias_of = None;
    for listed in [vec![first.clone(), second.clone()], vec![first.clone()]] {
        let planned = plan(&desired(listed, false), &observed);
        assert_eq!(of(&planned, &first).names, std::slice::from_ref(&first));
        assert!(planned.is_empty(), "{planned:#?}");
    }
}
