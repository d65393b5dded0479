//! Parts of an image beside its layers: kept blobs, and loads into engines.

use super::*;

fn documents(of: &str) -> Vec<DocumentDescriptor> {
    let document = |role: DocumentRole| DocumentDescriptor {
        role,
        digest: BlobDigest::of(Algorithm::Sha256, format!("{role:?} of {of}").as_bytes()),
        media_type: MediaType::from(&*format!("application/{}", role.as_str())),
        size: 7,
    };
    [DocumentRole::Index, DocumentRole::Manifest, DocumentRole::Config].map(document).to_vec()
}

fn with_documents(name: &str, layers: &[&str]) -> ResolvedImage {
    ResolvedImage { documents: documents(name).into(), ..image(name, layers) }
}

fn kept() -> Holding<'static> {
    Holding { extracts: false, keeps_blobs: true, ..usual() }
}

#[test]
fn documents_are_recorded_as_long_as_an_owner_keeps_blobs() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let name = "sandboxes.io/library/alpine:3.20";
    let (image, names) = (with_documents(name, &["a", "b"]), reference(name).recorded_names());
    catalog.record(&image, &names, &file("one"), usual()).unwrap();
    let recorded = one(&catalog, name).unwrap();
    assert!(recorded.documents.is_empty() && recorded.blobs_kept_for.is_empty());
    assert_eq!(recorded.extracted_for, recorded.owners);
    assert!(catalog.blobs_needed_outside(&BTreeSet::new()).unwrap().is_empty());

    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    for name in &names {
        let recorded = one(&catalog, &name.to_string()).unwrap();
        assert_eq!(recorded.documents[..], documents("sandboxes.io/library/alpine:3.20"), "{name}");
        assert_eq!(recorded.extracted_for, BTreeSet::from([file("one")]));
        assert_eq!(recorded.blobs_kept_for, BTreeSet::from([file("two")]));
    }
    let mut needed = digests(&["a", "b"]);
    needed.extend(image.documents.iter().map(|document| document.digest.clone()));
    assert_eq!(catalog.blobs_needed_outside(&BTreeSet::new()).unwrap(), needed);
    assert!(catalog.blobs_needed_outside(&refs(&[name])).unwrap().is_empty());

    // Who records the image for another owner does not drop what the first one keeps.
    catalog.record(&image, &names, &file("one"), usual()).unwrap();
    assert_eq!(one(&catalog, name).unwrap().documents.len(), 3);
    // Who records another image has brought none of its blobs for him.
    let moved = ResolvedImage { documents: documents("moved").into(), ..self::image(name, &["c"]) };
    for (owner, holding, count) in [("one", usual(), 0), ("two", kept(), 3), ("one", usual(), 3)] {
        catalog.record(&moved, &names, &file(owner), holding).unwrap();
        for name in &names {
            assert_eq!(one(&catalog, &name.to_string()).unwrap().documents.len(), count, "{name}");
        }
    }
    catalog.adopt(&names, &file("two"), usual()).unwrap();
    assert_eq!(sandbox.count("sync_image_documents"), 0);
    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    catalog.forget(&names, Some(&file("two"))).unwrap();
    assert_eq!((sandbox.count("sync_image_documents"), sandbox.count("sync_holdings")), (0, 0));
    assert_eq!(one(&catalog, name).unwrap().owners, BTreeSet::from([file("one")]));
    catalog.record(&image, &names, &file("two"), kept()).unwrap();
    catalog.forget(&names, None).unwrap();
    assert_eq!((sandbox.count("sync_image_documents"), sandbox.count("sync_holdings")), (0, 0));
}

#[test]
fn layers_that_no_owner_wants_extracted_are_not_needed() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/theirs:1", &["c"]);
    let mut catalog = sandbox.open();
    let none = BTreeSet::new();
    let names = |name: &str| reference(name).recorded_names();
    for (name, layers) in
        [("sandboxes.io/library/alpine:3.20", ["a", "b"]), ("docker.io/library/theirs:1", ["c", "d"])]
    {
        catalog.record(&with_documents(name, &layers), &names(name), &file("one"), kept()).unwrap();
    }
    catalog.record(&image("other:1", &["b"]), &names("other:1"), &file("one"), usual()).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["b", "c", "d"]));
    let default = Path::new("/layers");
    let here = catalog.layers_needed_in((default, default), &none, &mut |_, _| false);
    assert_eq!(here.unwrap(), digests(&["b", "c", "d"]));
    assert_eq!(catalog.blobs_needed_outside(&refs(&["docker.io/library/theirs:1"])).unwrap().len(), 5);
    catalog.adopt(&names("sandboxes.io/library/alpine:3.20"), &Owner::pull(), usual()).unwrap();
    assert_eq!(catalog.layers_needed_outside(&none).unwrap(), digests(&["a", "b", "c", "d"]));
}

fn noted(results: Vec<Result<(), CatalogError>>) {
    for result in results {
        result.unwrap();
    }
}

#[test]
fn whoever_waited_for_a_busy_catalog_waits_no_more() {
    let things: Vec<usize> = (0..250).collect();
    let busy = || CatalogError::Busy { path: "oci.db".into() };
    let mut tries = 0;
    let results = all_or_each(&things, |group| {
        tries += 1;
        match group {
            // The first group fails as a whole, and of it one alone.
            [0, _, ..] | [50] => Err(CatalogError::Query {
                doing: "note a load in",
                path: "oci.db".into(),
                reason: String::new(),
            }),
            [100, ..] => Err(busy()),
            _ => Ok(()),
        }
    });
    assert_eq!(tries, 1 + 100 + 1, "the last group is not tried at all, nor each of the second one");
    let of = |range: std::ops::Range<usize>| results[range].iter().filter(|result| result.is_ok()).count();
    assert_eq!((results.len(), of(0..100), of(100..250)), (250, 99, 0));
    assert!(matches!(results[50], Err(CatalogError::Query { .. })));
    assert!(results[100..].iter().all(|result| matches!(result, Err(CatalogError::Busy { .. }))));
}

#[test]
fn loads_are_noted_before_they_start_and_outlive_their_owners() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let engine =
        EngineSettings { home: Some("/srv/msb".into()), ..EngineSettings::new(EngineName::Microsandbox) };
    let load = |name: &str, owner: Owner| LoadedReference {
        owner,
        engine: engine.clone(),
        name: name.to_owned(),
        reference: reference(ALPINE),
        manifest: layer("a").digest,
        listed: Some(layer("b").digest),
        former: None,
        files: vec![EngineFile { path: "/srv/msb/x.erofs".into(), digest: "sha256:00".to_owned() }],
        wanted: true,
    };
    let loads = [load("a:1", file("one")), load("a:1", file("two")), load("b:1", file("one"))];
    catalog.begin_loads(&loads).unwrap();
    let begun = |load: &LoadedReference| LoadedReference { listed: None, files: Vec::new(), ..load.clone() };
    assert_eq!(catalog.loaded().unwrap(), loads.clone().map(|load| begun(&load)));
    noted(catalog.end_loads(&[&loads[1]]));
    // The reference is what it is, whoever had it loaded.
    assert_eq!(catalog.loaded().unwrap(), [loads[0].clone(), loads[1].clone(), begun(&loads[2])]);
    catalog.unwant_loads(&loads[1..]).unwrap();
    assert_eq!(
        catalog.loaded().unwrap().iter().map(|load| load.wanted).collect::<Vec<_>>(),
        [true, false, false]
    );
    noted(catalog.end_loads(&[&loads[1]]));
    assert_eq!(
        catalog.loaded().unwrap().iter().map(|load| load.wanted).collect::<Vec<_>>(),
        [true, true, false]
    );
    // The former image is ours until the new one is there, however often its load begins.
    let next = LoadedReference { listed: Some(layer("c").digest), ..loads[1].clone() };
    let files = loads[1].files.clone();
    let under_way = LoadedReference { former: Some(layer("b").digest), files, ..begun(&next) };
    for _ in 0..2 {
        catalog.begin_loads(std::slice::from_ref(&next)).unwrap();
        assert_eq!(catalog.loaded().unwrap()[1], under_way);
    }
    noted(catalog.end_loads(&[&next]));
    assert_eq!(catalog.loaded().unwrap()[1], next);
    catalog.begin_loads(&[loads[1].clone()]).unwrap();
    noted(catalog.end_loads(&[&loads[1]]));
    assert_eq!(sandbox.count("sync_former_loads"), 0);
    catalog.forget(&[reference(ALPINE)], None).unwrap();
    catalog.forget_loads(&[loads[0].clone(), loads[2].clone()]).unwrap();
    assert_eq!(sandbox.reader().loaded().unwrap(), [loads[1].clone()]);
    // Rows that somebody has edited are no failure.
    sandbox.sql().execute_batch("UPDATE sync_loads SET listed_digest = 'x', files_json = 'y'").unwrap();
    assert_eq!(catalog.loaded().unwrap(), [begun(&loads[1])]);
    sandbox.sql().execute_batch("UPDATE sync_loads SET engine = '{}'").unwrap();
    assert!(catalog.loaded().unwrap().is_empty());
}

#[test]
fn a_catalog_from_before_there_was_a_choice_extracts_and_keeps_nothing() {
    let sandbox = Sandbox::new();
    put(&mut sandbox.open(), ALPINE, &["a"], &file("one"));
    sandbox
        .sql()
        .execute_batch(
            "DROP TABLE sync_holdings; DROP TABLE sync_image_documents; DROP TABLE sync_loads;
             UPDATE sync_meta SET value = 3;",
        )
        .unwrap();
    for catalog in [sandbox.reader(), sandbox.reader()] {
        let recorded = one(&catalog, ALPINE).unwrap();
        assert_eq!((recorded.extracted_for.len(), recorded.blobs_kept_for.len()), (1, 0));
        assert!(catalog.loaded().unwrap().is_empty());
    }
    let catalog = sandbox.open();
    assert_eq!(one(&catalog, ALPINE).unwrap().extracted_for.len(), 1);
    assert_eq!(sandbox.count("sync_loads"), 0);
}

#[test]
fn a_run_reads_the_loads_of_its_owner_and_those_of_its_names() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let load = |engine, name: &str, owner: &str| LoadedReference {
        owner: file(owner),
        engine: EngineSettings::new(engine),
        name: name.to_owned(),
        reference: reference(ALPINE),
        manifest: layer("a").digest,
        listed: None,
        former: None,
        files: Vec::new(),
        wanted: true,
    };
    let names =
        ["r.test/a:1", "r.test/a:2", "r.test/a-b:1", "r.test/a/b:1", "r.test/b:1", "r.test/a@sha256:00"];
    let loads: Vec<_> = [EngineName::Podman, EngineName::Docker]
        .iter()
        .flat_map(|engine| {
            names.iter().flat_map(|name| ["one", "two"].map(|owner| load(*engine, name, owner)))
        })
        .collect();
    catalog.begin_loads(&loads).unwrap();
    catalog.unwant_loads(&loads[..1]).unwrap();
    for (by_name, repositories, expected) in [
        (&[][..], &[][..], &[][..]),
        (&["r.test/a:1", "r.test/a"], &[], &["r.test/a:1"]),
        (&[], &["r.test/a"], &["r.test/a:1", "r.test/a:2", "r.test/a@sha256:00"]),
        (&["r.test/b:1"], &["r.test/a/b"], &["r.test/a/b:1", "r.test/b:1"]),
    ] {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let asked = AskedNames { names: texts(by_name), repositories: texts(repositories) };
        let found = catalog.loaded_among(&file("one"), &asked).unwrap();
        let is_wanted =
            |row: &LoadedReference| row.owner == file("one") || expected.contains(&row.name.as_str());
        let sought = catalog.loaded().unwrap().into_iter().filter(is_wanted).collect::<Vec<_>>();
        let sorted = |rows: &[LoadedReference]| {
            let mut rows = rows.to_vec();
            rows.sort_by_key(|row| (row.name.clone(), row.engine.clone(), row.owner.clone()));
            rows
        };
        assert_eq!(sorted(&found), sorted(&sought), "{by_name:?} {repositories:?}");
    }
}

#[test]
fn the_images_of_a_repository_are_found_whoever_has_them() {
    let sandbox = Sandbox::of_microsandbox("docker.io/library/a:theirs", &["c"]);
    let mut catalog = sandbox.open();
    for name in [
        "docker.io/library/a:1",
        "docker.io/library/a-b:1",
        "docker.io/library/a/b:1",
        "docker.io/library/b:1",
    ] {
        put(&mut catalog, name, &["a"], &file("one"));
    }
    let by_digest = format!("docker.io/library/a@{}", layer("a").digest);
    put(&mut catalog, &by_digest, &["a"], &file("one"));
    let repositories = BTreeSet::from([reference("docker.io/library/a:1").repository_alone()]);
    let found = catalog.recorded_or_owned(&[], &repositories, &file("two")).unwrap();
    let names: BTreeSet<String> = found.iter().map(|row| row.reference.to_string()).collect();
    let expected = ["docker.io/library/a:1", "docker.io/library/a:theirs", &by_digest];
    assert_eq!(names, expected.iter().map(ToString::to_string).collect());
}
