//! Proofs that images are signed, and how long they are kept.

use super::*;

fn proof(image: &ResolvedImage, judged_by: &str) -> Evidence {
    let candidate = |place| Candidate {
        subject: image.digest.clone(),
        place,
        digest: BlobDigest::of(Algorithm::Sha256, b"artifact"),
        manifest: b"{}".to_vec().into(),
        layer: 1,
        blob: vec![0, 255, 1],
        message: Some(b"m".to_vec()),
        config: None,
    };
    Evidence {
        digest: image.digest.clone(),
        manifest: image.manifest.digest.clone(),
        by: "key team.pub".to_owned(),
        issuer: Some("https://issuer".to_owned()),
        at: Some(1_700_000_000),
        until: Some(1_800_000_000),
        rule: "images.toml:3".to_owned(),
        form: "cosign bundle".to_owned(),
        judged_by: judged_by.to_owned(),
        candidates: vec![candidate(SignaturePlace::Referrers), candidate(SignaturePlace::AttestationTag)],
    }
}

#[test]
fn a_proof_is_kept_with_its_signatures_as_long_as_the_image_is_recorded() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let (first, second) = (image("r.example/a:1", &["a"]), image("r.example/b:1", &["b"]));
    let owner = Owner("/images.toml".to_owned());
    let holding =
        Holding { layers: sandbox.dir.path(), extracts: true, keeps_blobs: false, keeps_earlier: 0 };
    for image in [&first, &second] {
        catalog.record(image, std::slice::from_ref(&image.reference), &owner, holding).unwrap();
    }
    catalog.prove(&[Arc::new(proof(&first, "x")), Arc::new(proof(&second, "x"))]).unwrap();
    // The same rule again replaces its proof; another rule has its own.
    let again = Evidence { by: "key other.pub".to_owned(), ..proof(&first, "x") };
    catalog.prove(&[Arc::new(again.clone()), Arc::new(proof(&first, "y"))]).unwrap();
    let reader = sandbox.reader();
    let mut proofs = reader.proofs(&first.digest, &first.manifest.digest).unwrap();
    proofs.sort_by(|a, b| a.judged_by.cmp(&b.judged_by));
    assert_eq!(
        proofs.iter().map(|proof| proof.by.as_str()).collect::<Vec<_>>(),
        ["key other.pub", "key team.pub"]
    );
    assert!(proofs[0].candidates.is_empty());
    assert_eq!(reader.signatures(&proofs[0]).unwrap(), again.candidates);
    assert_eq!(Evidence { candidates: Vec::new(), ..again }, proofs[0]);
    // Another platform of the same index has no proof.
    assert!(reader.proofs(&first.digest, &second.manifest.digest).unwrap().is_empty());

    // An earlier digest keeps its proof for the way back, and a staged one until it is recorded.
    let next = ResolvedImage { reference: second.reference.clone(), ..image("r.example/c:1", &["c"]) };
    catalog.record(&next, std::slice::from_ref(&next.reference), &owner, holding).unwrap();
    catalog.prove(&[Arc::new(proof(&next, "x"))]).unwrap();
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (4, 8));

    catalog.forget(std::slice::from_ref(&next.reference), Some(&owner)).unwrap();
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (2, 4));
    catalog.record(&second, std::slice::from_ref(&second.reference), &owner, holding).unwrap();
    catalog.prove(&[Arc::new(proof(&second, "x"))]).unwrap();
    catalog.forget(std::slice::from_ref(&first.reference), Some(&owner)).unwrap();
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (1, 2));
    sandbox.assert_sound();
}

#[test]
fn an_image_has_few_proofs_however_often_its_rule_changes() {
    let sandbox = Sandbox::new();
    let mut catalog = sandbox.open();
    let image = image("r.example/a:1", &["a"]);
    let owner = Owner("/images.toml".to_owned());
    let holding =
        Holding { layers: sandbox.dir.path(), extracts: true, keeps_blobs: false, keeps_earlier: 0 };
    catalog.record(&image, std::slice::from_ref(&image.reference), &owner, holding).unwrap();
    for rule in 0..20 {
        catalog.prove(&[Arc::new(proof(&image, &format!("rule {rule}")))]).unwrap();
        let proofs = catalog.proofs(&image.digest, &image.manifest.digest).unwrap();
        assert!(proofs.iter().any(|proof| proof.judged_by == format!("rule {rule}")));
        assert!(proofs.len() <= 8);
    }
    assert_eq!((sandbox.count("sync_trust"), sandbox.count("sync_signatures")), (8, 16));
}

#[test]
fn a_catalog_of_an_older_version_has_no_proofs() {
    let sandbox = Sandbox::of_microsandbox("r.example/a:1", &["a"]);
    let image = image("r.example/a:1", &["a"]);
    assert!(sandbox.reader().proofs(&image.digest, &image.manifest.digest).unwrap().is_empty());
}
