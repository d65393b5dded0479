//! Engines in plans: which names an image has there, whose they are, and what is noted of them.

use crate::state::{EngineListing, EngineName, EngineSettings, LoadedReference, LoadedReferences};

use super::*;

const FILES: [&str; 2] = ["/images.toml", "/other.toml"];

fn podman() -> EngineSettings {
    EngineSettings::new(EngineName::Podman)
}

fn microsandbox() -> EngineSettings {
    EngineSettings::new(EngineName::Microsandbox)
}

fn named(text: &str) -> ImageRef {
    ImageRef::parse(text, "docker.io").unwrap()
}

/// The tag, or a pin of it.
fn tagged(pin: Option<&str>) -> ImageRef {
    let pin = pin.map(|pin| format!("@{}", digest(pin))).unwrap_or_default();
    named(&format!("registry.example/t:v1{pin}"))
}

fn loaded(owner: &str, engine: EngineSettings, reference: &ImageRef, manifest: &str) -> LoadedReference {
    LoadedReference {
        owner: Owner(owner.to_owned()),
        engine,
        name: reference.to_string(),
        reference: reference.clone(),
        manifest: digest(manifest),
        listed: Some(digest(manifest)),
        former: None,
        files: Vec::new(),
        wanted: true,
    }
}

/// Some images as they are recorded, each with the manifest that it means, wanted in `engines`.
fn recorded(images: &[(ImageRef, &str)], engines: &[EngineSettings], prune: bool) -> (Desired, Observed) {
    let mut observed = Observed::default();
    for (name, manifest) in images {
        let mut image = resolved(name, 1, &[]);
        (image.digest, image.manifest.digest) = (digest(manifest), digest(manifest));
        observed.recorded.insert(name.clone(), row(&image, name, &FILES));
        observed.resolutions.insert(name.clone(), Resolution::AsRecorded);
    }
    let mut desired = desired(images.iter().map(|(name, _)| name.clone()).collect(), prune);
    desired.targets.engines = engines.to_vec();
    for engine in engines {
        list(&mut observed, engine.name, &[]);
    }
    (desired, observed)
}

/// Lets an engine list these names alone.
fn list(observed: &mut Observed, engine: EngineName, images: &[(&ImageRef, &str)]) {
    let images = images.iter().map(|(name, manifest)| (name.to_string(), BTreeSet::from([digest(manifest)])));
    let listing = EngineListing { images: images.collect(), by_config: false };
    observed.engines.insert(engine, Ok(Arc::new(listing)));
}

fn changes(plan: &Plan) -> Vec<RowChange> {
    plan.row_changes().cloned().collect()
}

#[test]
fn another_spelling_of_an_engine_removes_nothing_and_is_noted() {
    let name = tagged(None);
    let (desired, mut observed) = recorded(&[(name.clone(), "m")], &[podman()], true);
    list(&mut observed, EngineName::Podman, &[(&name, "m")]);
    let by_path = EngineSettings { command: "/usr/bin/podman".to_owned(), ..podman() };
    observed.loaded = vec![loaded(FILES[0], by_path, &name, "m")].into();
    let plan = plan(&desired, &observed);
    assert_eq!((plan.changes(), plan.engine_removals.len()), (0, 0));
    assert_eq!(changes(&plan), [RowChange::Note(loaded(FILES[0], podman(), &name, "m"))]);
    assert!(!plan.is_empty(), "the row is still to be written");
    observed.loaded = vec![loaded(FILES[0], podman(), &name, "m")].into();
    assert!(super::plan(&desired, &observed).is_empty());
}

#[test]
fn another_place_is_another_engine_and_one_that_may_be_the_same_loses_nothing() {
    let name = tagged(None);
    let at = |home: Option<&str>| EngineSettings { home: home.map(Into::into), ..microsandbox() };
    let (mut desired, mut observed) = recorded(&[(name.clone(), "m")], &[at(Some("/b"))], true);
    list(&mut observed, EngineName::Microsandbox, &[(&name, "m")]);
    observed.loaded = vec![loaded(FILES[0], at(Some("/a")), &name, "m")].into();
    assert_eq!(plan(&desired, &observed).engine_removals, *observed.loaded);
    // msb's own home may be this one.
    observed.loaded = vec![loaded(FILES[0], at(None), &name, "m")].into();
    assert!(plan(&desired, &observed).engine_removals.is_empty());
    desired.images[0].engines = Some(BTreeSet::new());
    assert_eq!(plan(&desired, &observed).engine_removals, *observed.loaded);
}

#[test]
fn a_reference_that_another_file_had_loaded_is_ours_as_well() {
    let name = tagged(None);
    let (desired, mut observed) = recorded(&[(name.clone(), "m")], &[podman()], false);
    list(&mut observed, EngineName::Podman, &[(&name, "m")]);
    // An image that somebody else has put there is nobody's to remove.
    assert!(changes(&plan(&desired, &observed)).is_empty());
    observed.loaded = vec![loaded(FILES[1], podman(), &name, "m")].into();
    let plan = plan(&desired, &observed);
    assert_eq!((plan.changes(), plan.images[0].action), (0, Action::Keep));
    assert_eq!(changes(&plan), [RowChange::Note(loaded(FILES[0], podman(), &name, "m"))]);
    observed.loaded = FILES.map(|file| loaded(file, podman(), &name, "m")).to_vec().into();
    assert!(super::plan(&desired, &observed).is_empty());
}

#[test]
fn a_row_that_is_out_of_date_follows_the_engine_or_goes() {
    let name = tagged(None);
    let (desired, mut observed) = recorded(&[(name.clone(), "new")], &[podman()], false);
    list(&mut observed, EngineName::Podman, &[(&name, "new")]);
    let old = loaded(FILES[0], podman(), &name, "old");
    observed.loaded = vec![old.clone()].into();
    // Somebody else has put the new one there.
    assert_eq!(changes(&plan(&desired, &observed)), [RowChange::Drop(old.clone())]);
    // The other file has.
    observed.loaded = vec![old, loaded(FILES[1], podman(), &name, "new")].into();
    let now = loaded(FILES[0], podman(), &name, "new");
    assert_eq!(changes(&plan(&desired, &observed)), [RowChange::Note(now.clone())]);
    // The engine tells of the same image otherwise.
    observed.loaded = vec![LoadedReference { listed: Some(digest("index")), ..now.clone() }].into();
    assert_eq!(changes(&plan(&desired, &observed)), [RowChange::Note(now)]);
    // A load that failed is to be done again.
    observed.loaded = vec![LoadedReference { listed: None, ..observed.loaded[0].clone() }].into();
    let plan = plan(&desired, &observed);
    assert_eq!((plan.images[0].action, changes(&plan)), (Action::Add, Vec::new()));
}

#[test]
fn a_removal_from_an_engine_is_a_change_that_can_wait() {
    let name = tagged(None);
    let (mut desired, mut observed) = recorded(&[(name.clone(), "m")], &[podman()], true);
    list(&mut observed, EngineName::Podman, &[(&name, "m")]);
    observed.loaded = vec![loaded(FILES[0], podman(), &name, "m")].into();
    desired.images[0].engines = Some(BTreeSet::new());
    let mut narrowed = plan(&desired, &observed);
    assert_eq!((narrowed.changes(), narrowed.images[0].action), (1, Action::Keep));
    let actions: Vec<_> = narrowed.images[0].engine_actions().collect();
    assert_eq!(actions, [(EngineName::Podman, Action::Remove)]);
    assert!(!narrowed.is_empty() && narrowed.removes());
    narrowed.hold_removals(&Wait::Images);
    assert_eq!(narrowed.waiting().collect::<Vec<_>>(), [(&name, &Wait::Images)]);
    assert!(narrowed.is_empty() && narrowed.changes() == 1 && !narrowed.removes());
    narrowed.spare(&BTreeSet::from([name.clone()]));
    assert_eq!((narrowed.changes(), narrowed.images.len()), (0, 1));

    // An image that is recorded no more is still in the engine.
    desired.images.clear();
    observed.recorded.clear();
    let forgotten = plan(&desired, &observed);
    assert_eq!((forgotten.changes(), forgotten.only_in_engines().len()), (1, 1));
    desired.prune = false;
    let kept = plan(&desired, &observed);
    assert_eq!((kept.changes(), &kept.unwanted), (0, &observed.loaded.to_vec()));
    observed.loaded = vec![LoadedReference { wanted: false, ..observed.loaded[0].clone() }].into();
    assert!(plan(&desired, &observed).is_empty(), "it is noted");
}

#[test]
fn a_tag_and_a_pin_of_it_share_no_name_but_where_they_are_one_image() {
    let (tag, pin) = (tagged(None), tagged(Some("old")));
    let engines = [microsandbox(), podman()];
    let (desired, observed) = recorded(&[(tag.clone(), "new"), (pin.clone(), "old")], &engines, false);
    let plan = plan(&desired, &observed);
    let parts = |reference: &ImageRef| {
        let image = plan.images.iter().find(|image| image.reference == *reference).unwrap();
        image.engines().map(|(state, part)| (state.names.clone(), part.action())).collect::<Vec<_>>()
    };
    let (tag_name, pin_name) = (vec![tag.to_string()], vec![pin.to_string()]);
    assert_eq!(parts(&tag), [(tag_name.clone(), Action::Add), (tag_name.clone(), Action::Add)]);
    assert_eq!(parts(&pin), [(pin_name.clone(), Action::Add), (Vec::new(), Action::Blocked)]);
    let error = plan.images.iter().find_map(|image| image.part_error()).unwrap();
    assert_eq!(error.kind(), "engine");
    assert!(error.to_string().contains("cannot hold") && error.to_string().contains(&pin.to_string()));

    let (desired, observed) = recorded(&[(tag.clone(), "old"), (pin.clone(), "old")], &engines, false);
    let plan = super::plan(&desired, &observed);
    let image = plan.images.iter().find(|image| image.reference == pin).unwrap();
    let actions: Vec<Action> = image.engine_actions().map(|(_, action)| action).collect();
    assert_eq!(actions, [Action::Add, Action::Keep], "podman gets it by the tag");
    // Alone, the pin has both.
    let (desired, observed) = recorded(&[(pin.clone(), "old")], &engines, false);
    let plan = super::plan(&desired, &observed);
    let names: Vec<_> = plan.images[0].engines().map(|(state, _)| state.names.clone()).collect();
    assert_eq!(names, [vec![pin.to_string(), tag.to_string()], vec![tag.to_string()]]);
}

#[test]
fn a_tag_keeps_its_name_while_its_selection_is_not_carried_out() {
    let (tag, pin) = (tagged(None), tagged(Some("old")));
    let images = [(tag.clone(), "new"), (pin.clone(), "old")];
    let (mut desired, mut observed) = recorded(&images, &[microsandbox()], false);
    desired.images.retain(|image| image.reference == pin);
    let names = |desired: &Desired, observed: &Observed| {
        let plan = plan(desired, observed);
        let image = plan.images.iter().find(|image| image.reference == pin).unwrap();
        image.engines().flat_map(|(state, _)| state.names.clone()).collect::<Vec<_>>()
    };
    let both = [pin.to_string(), tag.to_string()];
    desired.listed_elsewhere.insert(tag.repository_alone());
    assert_eq!(names(&desired, &observed), both, "the engine was not given the tag");
    observed.loaded = vec![loaded(FILES[0], microsandbox(), &tag, "new")].into();
    assert_eq!(names(&desired, &observed), [pin.to_string()]);
    desired.listed_elsewhere.clear();
    assert_eq!(names(&desired, &observed), both, "nobody wants the tag");
    desired.selections.push(TagSelection {
        repository: tag.repository_alone(),
        platform: platform(),
        pull: PullPolicy::Missing,
        groups: BTreeSet::new(),
        engines: None,
        cooldown: std::time::Duration::ZERO,
        rule: TagRule::default(),
        locked: None,
    });
    assert_eq!(names(&desired, &observed), [pin.to_string()]);
    observed.decided.insert(tag.repository_alone());
    assert_eq!(names(&desired, &observed), both, "the selection has not chosen it");
}

#[test]
fn a_plan_that_loads_by_rows_has_no_other_names() {
    let (tag, pin) = (tagged(None), tagged(Some("old")));
    let (desired, observed) = recorded(&[(pin.clone(), "old")], &[microsandbox(), podman()], false);
    let plan =
        plan(&desired, &observed).loading_by(&vec![loaded(FILES[0], microsandbox(), &pin, "old")].into());
    let names: Vec<_> = plan.images[0].loads().map(|state| (state.engine.name, &state.names[..])).collect();
    assert_eq!(names, [(EngineName::Microsandbox, &[pin.to_string()][..])]);
    // A name of another image is none of this one's.
    let plan = plan.loading_by(&vec![loaded(FILES[0], microsandbox(), &tag, "new")].into());
    assert!(plan.images[0].loads().next().is_none());
}

/// Does to rows and engines what carrying out `plan` does.
fn carry_out(plan: &Plan, owner: &Owner, observed: &mut Observed) {
    let note = |loaded: &mut LoadedReferences, new: LoadedReference| {
        let mut rows = loaded.to_vec();
        for row in rows.iter_mut().filter(|row| row.name == new.name && row.engine == new.engine) {
            (row.manifest, row.listed) = (new.manifest.clone(), new.listed.clone());
        }
        rows.retain(|row| !(row.name == new.name && row.engine == new.engine && row.owner == new.owner));
        rows.push(new);
        *loaded = rows.into();
    };
    for image in &plan.images {
        let Some(manifest) = image.digest.clone() else { continue };
        for state in image.loads() {
            let mut listing = (**observed.engines[&state.engine.name].as_ref().unwrap()).clone();
            for name in &state.names {
                listing.images.insert(name.clone(), BTreeSet::from([manifest.clone()]));
                let row = LoadedReference {
                    owner: owner.clone(),
                    engine: state.engine.clone(),
                    name: name.clone(),
                    reference: image.reference.clone(),
                    manifest: manifest.clone(),
                    listed: Some(manifest.clone()),
                    former: None,
                    files: Vec::new(),
                    wanted: true,
                };
                note(&mut observed.loaded, row);
            }
            observed.engines.insert(state.engine.name, Ok(Arc::new(listing)));
        }
        for change in &image.row_changes {
            match change {
                RowChange::Note(row) => note(&mut observed.loaded, row.clone()),
                RowChange::Drop(row) => observed.loaded.retain(|other| other != row),
            }
        }
    }
    for row in &plan.engine_removals {
        observed.loaded.retain(|other| other != row);
        if !observed.loaded.iter().any(|other| other.name == row.name && other.engine == row.engine) {
            let mut listing = (**observed.engines[&row.engine.name].as_ref().unwrap()).clone();
            listing.images.remove(&row.name);
            observed.engines.insert(row.engine.name, Ok(Arc::new(listing)));
        }
    }
}

proptest! {
    /// Whatever tags and pins two files list, nothing is loaded in a second round, and nothing is
    /// taken out that one of them wants.
    #[test]
    fn two_files_with_tags_and_pins_come_to_rest(
        listed in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), 2),
        tag_means in 0_usize..3,
        prune: bool,
    ) {
        let manifests = ["m0", "m1", "m2"];
        let all: Vec<(ImageRef, &str)> = std::iter::once((tagged(None), manifests[tag_means]))
            .chain(manifests.iter().map(|&pin| (tagged(Some(pin)), pin)))
            .collect();
        let engines = [microsandbox(), podman()];
        let (_, mut observed) = recorded(&all, &engines, prune);
        let wishes: Vec<Desired> = listed.iter().zip(FILES).map(|(listed, file)| {
            let images = all.iter().zip(listed).filter(|(_, listed)| **listed).map(|(image, _)| image.clone());
            let (mut desired, _) = recorded(&images.collect::<Vec<_>>(), &engines, prune);
            desired.owner = Owner(file.to_owned());
            desired
        }).collect();
        for round in 0..4 {
            for desired in &wishes {
                let plan = plan(desired, &observed);
                for image in &plan.images {
                    prop_assert!(round < 2 || image.loads().next().is_none(), "round {round}: {:?}", image);
                }
                prop_assert!(round < 3 || plan.engine_removals.is_empty() && changes(&plan).is_empty(), "{plan:?}");
                carry_out(&plan, &desired.owner, &mut observed);
            }
        }
        // Each pin is there under its own text, whoever else has its tag.
        let Ok(listing) = &observed.engines[&EngineName::Microsandbox] else { unreachable!() };
        for image in wishes.iter().flat_map(|desired| &desired.images) {
            let means = all.iter().find(|(name, _)| *name == image.reference).unwrap().1;
            prop_assert_eq!(&listing.images[&image.reference.to_string()], &BTreeSet::from([digest(means)]));
        }
    }
}
