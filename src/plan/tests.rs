//! Plans in words: each action has its cause. The laws and other topics stand beside.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

mod cooldown;
mod earlier;
mod engines;
mod laws;
mod removals;
mod selections;

use super::part::deciding;
use super::*;
use crate::digest::{Algorithm, DiffId};
use crate::error::{Absent, Error, RegistryError, SignatureError, Unforgettable};
use crate::state::{
    BackTo, BlockedSelection, ConfigRecord, DesiredImage, DocumentRecord, Evidence, Labels, LayerDescriptor,
    LayerFacts, LayerState, LayersState, LockedImage, MediaType, Owner, PartState, Platform, PullPolicy,
    RecordedImage, Resolution, ResolvedImage, SelectedImage, TagRule, TagSelection, Targets, TrustStatus,
    Verdict,
};

fn digest(of: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, of.as_bytes())
}

fn reference(index: usize) -> ImageRef {
    ImageRef::parse(&format!("registry.example/image-{index}:1"), "docker.io").unwrap()
}

fn layer(index: usize) -> LayerDescriptor {
    LayerDescriptor {
        digest: digest(&format!("layer {index}")),
        diff_id: DiffId::of(Algorithm::Sha256, index.to_string().as_bytes()),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        size: 10 + index as u64,
    }
}

fn platform() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn resolved(reference: &ImageRef, version: usize, layers: &[usize]) -> ResolvedImage {
    ResolvedImage {
        reference: reference.clone(),
        platform: platform(),
        digest: digest(&format!("{reference} {version}")),
        index: None,
        manifest: DocumentRecord {
            digest: digest(&format!("{reference} {version}")),
            media_type: MediaType::UNKNOWN,
            annotations_json: None,
        },
        config: ConfigRecord {
            digest: digest("config"),
            media_type: MediaType::UNKNOWN,
            created: None,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
            env: None,
            cmd: None,
            working_dir: None,
            entrypoint: None,
            volumes: None,
            exposed_ports: None,
            user: None,
            stop_signal: None,
            labels: Labels::default(),
            rootfs_type: "layers".to_owned(),
            history_json: None,
        },
        documents: Arc::default(),
        layers: layers.iter().map(|&index| layer(index)).collect(),
    }
}

fn row(image: &ResolvedImage, name: &ImageRef, owners: &[&str]) -> RecordedImage {
    RecordedImage {
        reference: name.clone(),
        platform: Some(image.platform.clone()),
        digest: Some(image.digest.clone()),
        manifest_digest: Some(image.manifest.digest.clone()),
        config_digest: Some(image.config.digest.clone()),
        layers: image.layers.clone(),
        documents: Arc::default(),
        owners: owners.iter().map(|owner| Owner((*owner).to_owned())).collect(),
        extracted_for: owners.iter().map(|owner| Owner((*owner).to_owned())).collect(),
        blobs_kept_for: BTreeSet::new(),
        earlier_for: BTreeMap::new(),
        held: None,
        rows_complete: true,
        alias_of: (image.reference != *name).then(|| image.reference.clone()),
        second_name_of: (image.reference != *name).then(|| image.reference.clone()),
        layers_directory: Some("/layers".into()),
        preexisting: false,
        modified_at: "2026-01-01 00:00:00".to_owned(),
        created: image.config.created.clone(),
    }
}

fn wanted(reference: ImageRef) -> DesiredImage {
    DesiredImage {
        reference,
        platform: platform(),
        pull: PullPolicy::Always,
        cooldown: std::time::Duration::ZERO,
        groups: BTreeSet::new(),
        engines: None,
        locked: None,
        back_to: None,
    }
}

fn desired(images: Vec<ImageRef>, prune: bool) -> Desired {
    let images = images.into_iter().map(wanted).collect();
    Desired {
        owner: Owner("/images.toml".to_owned()),
        layers_directory: "/layers".into(),
        images,
        selections: Vec::new(),
        taken_now: BTreeSet::new(),
        listed_elsewhere: BTreeSet::new(),
        targets: Targets::default(),
        prune,
        stage: None,
    }
}

fn blocked() -> Resolution {
    Resolution::Blocked(Arc::new(Error::Offline(Absent::Image)))
}

fn refusal() -> Verdict {
    let error = SignatureError::NoRule { place: "images.toml:1".to_owned() };
    Verdict::Refused {
        rule: "images.toml:1".to_owned(),
        status: TrustStatus::NotAsked,
        error: Arc::new(error.into()),
    }
}

/// Makes of `observed` what applying `plan` successfully makes of it.
fn applied(desired: &Desired, observed: &Observed, plan: &Plan) -> Observed {
    let mut after = observed.clone();
    for state in after.layers.values_mut().filter(|state| **state == LayerState::Unbound) {
        // Compared, and found to be what its record says.
        *state = LayerState::Complete;
    }
    for fetch in &plan.fetches {
        after.layers.insert(fetch.digest().clone(), LayerState::Complete);
    }
    for image in &plan.images {
        for name in &image.names {
            if let Some(ToRecord::Image(record)) = &image.to_record {
                let mut new = row(record, name, &[&desired.owner.0]);
                if let Some(old) = after.recorded.get(name) {
                    new.owners.extend(old.owners.clone());
                }
                after.recorded.insert(name.clone(), new);
            } else if image.action == Action::Remove {
                if image.waits.is_some() {
                    continue;
                }
                let row = after.recorded.get_mut(name).expect("only recorded images are removed");
                row.owners.remove(&desired.owner);
                if row.owners.is_empty() {
                    after.recorded.remove(name);
                }
            } else if image.to_record == Some(ToRecord::Owner) {
                let row = after.recorded.get_mut(name).unwrap();
                row.owners.insert(desired.owner.clone());
                row.extracted_for.insert(desired.owner.clone());
                row.layers_directory = Some(desired.layers_directory.clone());
            }
        }
        if matches!(image.action, Action::Add | Action::Update | Action::Repair) {
            after.resolutions.insert(image.reference.clone(), Resolution::AsRecorded);
        }
    }
    for digest in &plan.layers_to_remove {
        after.layers.insert(digest.clone(), LayerState::Missing);
    }
    after
}

/// For each of six images: listed?, what the lookup says, what is recorded (version, layers,
/// owners).
fn world() -> impl Strategy<Value = (Desired, Observed)> {
    let layers = || proptest::collection::vec(0_usize..8, 1..4);
    let image = (
        any::<bool>(),
        0_u8..3,
        0_usize..2,
        layers(),
        proptest::option::of((0_usize..2, layers(), 0_u8..4, any::<bool>())),
    );
    let states = proptest::collection::vec(0_u8..4, 8);
    (proptest::collection::vec(image, 6), states, proptest::collection::vec(0_usize..8, 0..3), any::<bool>())
        .prop_map(|(images, states, elsewhere, prune)| {
            let mut observed = Observed::default();
            let mut listed = Vec::new();
            for (index, (is_listed, lookup, version, new_layers, record)) in images.into_iter().enumerate() {
                let name = reference(index);
                if let Some((version, old_layers, owners, rows_complete)) = &record {
                    let owners: &[&str] = match owners {
                        0 => &[],
                        1 => &["/images.toml"],
                        2 => &["/other.toml"],
                        _ => &["/images.toml", "/other.toml"],
                    };
                    let mut row = row(&resolved(&name, *version, old_layers), &name, owners);
                    row.rows_complete = *rows_complete;
                    observed.recorded.insert(name.clone(), row);
                }
                if is_listed {
                    listed.push(name.clone());
                    let resolution = match (lookup, &record) {
                        (0, _) => blocked(),
                        (1, Some((_, _, _, true))) => Resolution::AsRecorded,
                        // The same digest always means the same layers.
                        (_, Some((recorded, old_layers, _, _))) if *recorded == version => {
                            Resolution::Resolved(Arc::new(resolved(&name, version, old_layers)))
                        }
                        _ => Resolution::Resolved(Arc::new(resolved(&name, version, &new_layers))),
                    };
                    observed.resolutions.insert(name, resolution);
                }
            }
            for (index, state) in states.into_iter().enumerate() {
                let state = match state {
                    0 => LayerState::Complete,
                    1 => LayerState::Missing,
                    2 => LayerState::Unbound,
                    _ => LayerState::Untrusted,
                };
                observed.layers.insert(layer(index).digest, state);
            }
            observed.needed_elsewhere = elsewhere.into_iter().map(|index| layer(index).digest).collect();
            (desired(listed, prune), observed)
        })
}

/// A part that has to be treated as `reason` says.
/// The words beside the action.
fn remark(image: &PlannedImage) -> String {
    image.remark().unwrap_or_default()
}

fn observed_with(resolution: Resolution, recorded: Vec<RecordedImage>, complete: &[usize]) -> Observed {
    let mut observed = Observed::default();
    observed.resolutions.insert(reference(0), resolution);
    observed.recorded = recorded.into_iter().map(|row| (row.reference.clone(), row)).collect();
    observed.layers = complete.iter().map(|&index| (layer(index).digest, LayerState::Complete)).collect();
    observed
}

#[test]
fn a_new_proof_is_noted_once_also_where_nothing_else_is_to_do() {
    let (first, second) = (reference(0), reference(1));
    let image = resolved(&first, 1, &[1]);
    let mut observed =
        observed_with(Resolution::AsRecorded, vec![row(&image, &first, &["/images.toml"])], &[1]);
    observed.resolutions.insert(second.clone(), Resolution::AsRecorded);
    observed.recorded.insert(second.clone(), row(&image, &second, &["/images.toml"]));
    observed.recorded.get_mut(&second).unwrap().alias_of = None;
    let proof = Arc::new(Evidence {
        digest: image.digest.clone(),
        manifest: image.manifest.digest.clone(),
        by: "key team.pub".to_owned(),
        issuer: None,
        at: None,
        until: None,
        rule: "images.toml:3".to_owned(),
        form: "cosign bundle".to_owned(),
        judged_by: "f".repeat(64),
        candidates: Vec::new(),
    });
    let desired = desired(vec![first.clone(), second.clone()], false);
    for (is_new, proofs) in [(false, 0), (true, 1)] {
        for name in [&first, &second] {
            let (rule, evidence) = ("images.toml:3".to_owned(), Arc::clone(&proof));
            observed.verdicts.insert(name.clone(), Verdict::Verified { rule, evidence, is_new });
        }
        let plan = plan(&desired, &observed);
        assert_eq!((plan.proofs().len(), plan.changes()), (proofs, 0));
        assert_eq!(plan.is_empty(), !is_new);
        assert_eq!(plan.images[0].verdict.as_ref().unwrap().status(), TrustStatus::Verified);
    }
}

#[test]
fn the_layers_of_a_blocked_image_are_here_only_if_they_are() {
    let name = reference(0);
    let image = Arc::new(resolved(&name, 1, &[1, 2]));
    let desired = desired(vec![name.clone()], false);
    for (complete, here) in [(&[][..], 0), (&[1, 2][..], layer(1).size + layer(2).size)] {
        let mut observed = observed_with(Resolution::Resolved(Arc::clone(&image)), Vec::new(), complete);
        observed.verdicts.insert(name.clone(), refusal());
        let plan = plan(&desired, &observed);
        assert_eq!((plan.images[0].action, plan.images[0].layers.len()), (Action::Blocked, 2));
        assert_eq!((plan.present_bytes(), plan.download_bytes()), (here, 0), "{complete:?}");
    }
}

#[test]
fn each_action_has_its_cause() {
    let name = reference(0);
    let image = resolved(&name, 1, &[1, 2]);
    let new = Resolution::Resolved(Arc::new(resolved(&name, 2, &[2, 3])));
    let recorded = || row(&image, &name, &["/images.toml"]);
    let arm = RecordedImage { platform: Some(Platform::new("linux", "arm64", None)), ..recorded() };
    let damaged = RecordedImage { rows_complete: false, ..recorded() };
    let same = || Resolution::Resolved(Arc::new(image.clone()));
    let foreign = RecordedImage { digest: None, platform: None, owners: BTreeSet::new(), ..recorded() };
    for (resolution, rows, complete, action, reason, present, bytes) in [
        (same(), vec![], &[][..], Action::Add, "", 0, 23),
        (same(), vec![], &[2], Action::Add, "", 1, 11),
        (same(), vec![foreign], &[1, 2], Action::Add, "recorded by microsandbox only", 2, 0),
        (new, vec![recorded()], &[1, 2], Action::Update, "", 1, 13),
        (same(), vec![arm], &[1, 2], Action::Update, "linux/arm64 → linux/amd64", 2, 0),
        (Resolution::AsRecorded, vec![recorded()], &[1], Action::Repair, "1 layer missing on disk", 1, 12),
        (same(), vec![damaged], &[1, 2], Action::Repair, "rows missing or damaged in the catalog", 2, 0),
        (Resolution::AsRecorded, vec![recorded()], &[1, 2], Action::Keep, "", 2, 0),
        (
            blocked(),
            vec![recorded()],
            &[1, 2],
            Action::Blocked,
            "not here, and --offline forbids asking its registry",
            2,
            0,
        ),
    ] {
        let plan = plan(&desired(vec![name.clone()], false), &observed_with(resolution, rows, complete));
        let got = &plan.images[0];
        let facts = (got.action, remark(got), got.layers_state().present, got.download_bytes);
        assert_eq!(facts, (action, reason.to_owned(), present, bytes));
    }
}

#[test]
fn a_held_image_is_kept_unless_the_lockfile_decides() {
    let name = reference(0);
    let (image, other) = (resolved(&name, 1, &[1]), resolved(&name, 2, &[2]));
    let since = "2026-11-29T18:00:30Z".parse().unwrap();
    let held = || RecordedImage { held: Some(since), ..row(&image, &name, &["/images.toml"]) };
    let mut wish = desired(vec![name.clone()], false);
    let got = plan(&wish, &observed_with(Resolution::AsRecorded, vec![held()], &[1]));
    assert!(got.is_empty());
    let got = &got.images[0];
    assert_eq!((got.action, got.reason.code()), (Action::Keep, "held"));
    assert_eq!(remark(got), "held since rollback 2026-11-29 18:00 UTC");
    // Damage comes first.
    let damaged = plan(&wish, &observed_with(Resolution::AsRecorded, vec![held()], &[]));
    assert_eq!((damaged.images[0].action, damaged.fetches.len()), (Action::Repair, 1));
    wish.images[0].locked = Some(Arc::new(LockedImage::of(&other)));
    let got = plan(&wish, &observed_with(locked(&other), vec![held()], &[1]));
    assert_eq!((got.images[0].action, got.images[0].reason.code()), (Action::Update, "locked-digest"));
    wish.images[0].locked = Some(Arc::new(LockedImage::of(&image)));
    let got = plan(&wish, &observed_with(Resolution::AsRecorded, vec![held()], &[1]));
    assert_eq!(got.images[0].reason.code(), "in-sync");
}

#[test]
fn a_way_back_is_recorded_and_held() {
    let name = reference(0);
    let (earlier, present) = (resolved(&name, 1, &[1, 2]), resolved(&name, 2, &[1, 3]));
    let mut wish = desired(vec![name.clone()], false);
    let meaning = Some(Arc::new(earlier.clone()));
    wish.images[0].back_to = Some(BackTo { digest: earlier.digest.clone(), meaning: meaning.clone() });
    let rows = vec![row(&present, &name, &["/images.toml"])];
    let resolution = Resolution::Resolved(Arc::new(earlier.clone()));
    let got = plan(&wish, &observed_with(resolution, rows, &[1, 2, 3]));
    let image = &got.images[0];
    assert_eq!((image.action, image.reason.code(), image.holds), (Action::Update, "back-to-earlier", true));
    assert_eq!(image.to_record.as_ref(), meaning.map(ToRecord::Image).as_ref());
    assert!(got.fetches.is_empty() && got.layers_to_remove.is_empty());
}

/// The meaning of `image` by a lockfile's word.
fn locked(image: &ResolvedImage) -> Resolution {
    Resolution::Locked(Arc::new(LockedImage::of(image)))
}

#[test]
fn a_locked_image_is_planned_from_the_lockfile_alone() {
    let name = reference(0);
    let (old, new) = (resolved(&name, 1, &[1, 2]), resolved(&name, 2, &[2, 3, 3]));
    let recorded = || row(&old, &name, &["/images.toml"]);
    let damaged = RecordedImage { rows_complete: false, ..recorded() };
    let mut forged = old.clone();
    forged.manifest.digest = digest("another manifest");
    for (image, rows, action, reason, bytes) in [
        (&new, vec![], Action::Add, "", 13),
        (&new, vec![recorded()], Action::Update, "by the lockfile", 13),
        (&old, vec![damaged], Action::Repair, "1 layer missing on disk", 11),
        (&forged, vec![recorded()], Action::Update, "the lockfile names another manifest", 11),
    ] {
        let plan = plan(&desired(vec![name.clone()], false), &observed_with(locked(image), rows, &[2]));
        let got = &plan.images[0];
        assert_eq!((got.action, remark(got), got.download_bytes), (action, reason.to_owned(), bytes));
        assert_eq!(plan.download_bytes(), bytes);
        assert_eq!(got.digest.as_ref(), Some(&image.digest));
        assert_eq!(got.to_record, Some(ToRecord::Locked(Arc::new(LockedImage::of(image)))));
    }
    // As after another process did the work: nothing is left to be recorded.
    let done =
        plan(&desired(vec![name.clone()], false), &observed_with(locked(&old), vec![recorded()], &[1, 2]));
    assert!(done.is_empty() && done.images[0].to_record.is_none(), "{done:#?}");
}

#[test]
fn a_second_name_is_recorded_and_removed_with_the_first() {
    let name = ImageRef::parse("sandboxes.io/alpine", "docker.io").unwrap();
    let docker = name.with_registry("docker.io");
    let image = resolved(&name, 1, &[1]);
    let rows = vec![row(&image, &name, &["/images.toml"]), row(&image, &docker, &["/images.toml"])];
    let mut observed = observed_with(Resolution::AsRecorded, rows, &[1]);
    observed.resolutions = [(name.clone(), Resolution::AsRecorded)].into();
    let kept = plan(&desired(vec![name.clone()], true), &observed);
    assert!(kept.is_empty(), "{kept:#?}");
    let removed = plan(&desired(vec![], true), &observed);
    assert_eq!(removed.images.len(), 1);
    assert_eq!(removed.images[0].names, [name.clone(), docker.clone()]);
    assert_eq!(removed.layers_to_remove, [layer(1).digest]);
    observed.recorded.remove(&docker);
    let repaired = plan(&desired(vec![name], true), &observed);
    assert_eq!(repaired.images[0].action, Action::Repair);
}

#[test]
fn images_that_disagree_about_a_blob_are_separate_claims() {
    let (first, second) = (reference(0), reference(1));
    let mut lying = resolved(&second, 1, &[1]);
    Arc::make_mut(&mut lying.layers)[0].diff_id = layer(9).diff_id;
    let mut observed =
        observed_with(Resolution::Resolved(Arc::new(resolved(&first, 1, &[1, 1]))), vec![], &[]);
    observed.resolutions.insert(second.clone(), Resolution::Resolved(Arc::new(lying)));
    let plan = plan(&desired(vec![first.clone(), second.clone()], false), &observed);
    assert_eq!(plan.fetches.len(), 1);
    let words = |claim: &Claim| (claim.layer().diff_id.clone(), claim.images.to_vec());
    let claims: BTreeMap<_, _> = plan.fetches[0].claims().map(words).collect();
    let honest = (layer(1).diff_id, vec![first]);
    assert_eq!(claims, BTreeMap::from([honest, (layer(9).diff_id, vec![second])]));
    assert_eq!(plan.download_bytes(), 11);
}

#[test]
fn an_error_keeps_its_kind_through_the_plan() {
    let mismatch = crate::digest::ContentMismatch::TooLong { digest: digest("x"), expected: 1 };
    let error = RegistryError::Mismatch {
        what: "manifest".to_owned(),
        host: "h".to_owned(),
        source: mismatch.into(),
    };
    let resolution = Resolution::Blocked(Arc::new(error.into()));
    let plan = plan(&desired(vec![reference(0)], true), &observed_with(resolution, vec![], &[]));
    assert_eq!(plan.images[0].error().map(|error| error.kind()), Some("content-mismatch"));
    assert_eq!(plan.changes(), 0);
}

#[test]
fn what_is_known_of_a_complete_layer_is_believed_more_than_an_image() {
    let name = reference(0);
    let image = resolved(&name, 1, &[1, 2]);
    let facts = |layer: &LayerDescriptor| LayerFacts { diff_id: layer.diff_id.clone(), size: layer.size };
    let observe = |facts: LayerFacts| {
        let mut observed = observed_with(Resolution::Resolved(Arc::new(image.clone())), Vec::new(), &[1, 2]);
        observed.facts.insert(layer(1).digest, facts);
        observed
    };
    let desired = desired(vec![name.clone()], false);
    let honest = plan(&desired, &observe(facts(&layer(1))));
    assert_eq!((honest.images[0].action, honest.images[0].error().is_none()), (Action::Add, true));
    let other_tar = LayerFacts { diff_id: layer(2).diff_id, ..facts(&layer(1)) };
    let other_size = LayerFacts { size: layer(1).size + 1, ..facts(&layer(1)) };
    let smaller = LayerFacts { size: 0, ..facts(&layer(1)) };
    for (facts, kind) in [(other_tar, "diff-id-mismatch"), (other_size, "mismatch"), (smaller, "mismatch")] {
        let plan = plan(&desired, &observe(facts));
        assert_eq!(plan.images[0].action, Action::Blocked);
        let error = plan.images[0].error().unwrap();
        assert!(
            error.kind().contains(kind) && error.to_string().contains(&*layer(1).digest.text()),
            "{error}"
        );
        assert!(plan.fetches.is_empty());
    }
}

/// One reason of each kind, with its action, its code and its words.
#[test]
fn each_reason_has_its_action_its_code_and_its_words() {
    let layers = LayersState { missing: 2, untrusted: 1, unbound: 1, ..LayersState::default() };
    let others = || vec![Owner("/a.toml".to_owned()), Owner::pull()];
    let (here, arm) = (platform(), Platform::new("linux", "arm64", None));
    let reasons = [
        (Reason::NotRecorded, Action::Add, "not-recorded", "not recorded yet"),
        (Reason::OnlyMicrosandbox, Action::Add, "only-microsandbox", "recorded by microsandbox only"),
        (Reason::AnotherDigest, Action::Update, "another-digest", "the tag means another digest now"),
        (Reason::LockedDigest, Action::Update, "locked-digest", "by the lockfile"),
        (Reason::LockedManifest, Action::Update, "locked-manifest", "the lockfile names another manifest"),
        (
            Reason::AnotherPlatform { recorded: Some(arm), wanted: here.clone() },
            Action::Update,
            "another-platform",
            "linux/arm64 → linux/amd64",
        ),
        (
            Reason::AnotherPlatform { recorded: None, wanted: here },
            Action::Update,
            "another-platform",
            "another platform → linux/amd64",
        ),
        (
            Reason::Layers(layers),
            Action::Repair,
            "layers",
            "2 layers missing on disk, 1 layer incomplete on disk, \
             1 layer in another directory than was extracted, to be compared",
        ),
        (Reason::Rows, Action::Repair, "rows", "rows missing or damaged in the catalog"),
        (Reason::InSync, Action::Keep, "in-sync", "in sync"),
        (Reason::Blocked(Arc::new(Error::Stopped)), Action::Blocked, "blocked", "stopped"),
        (
            Reason::NotListed { not_chosen: true, remains: vec![Remains::For(others())] },
            Action::Remove,
            "not-listed",
            "not listed any more: not among the tags chosen now; stays for /a.toml, pull",
        ),
        (
            Reason::AskedFor {
                wanted_by: others(),
                remains: vec![Remains::SecondNameOf(reference(1)), Remains::ForMicrosandbox],
            },
            Action::Remove,
            "asked-for",
            "asked for; was wanted by /a.toml, pull; stays as the second name of registry.example/image-1:1; \
             stays for microsandbox, which had it first",
        ),
    ];
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let listed =
        page.split("\n`reason_code` says why").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/msb-sync/json/schema.json");
    let schema = std::fs::read_to_string(schema).unwrap();
    let known = schema.split("\"reasonCode\": {").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    for (reason, action, code, words) in reasons {
        assert!(known.contains(&format!("\"{code}\"")), "the schema of the output does not know {code}");
        assert!(listed.contains(&format!("`{code}`")), "docs/json.md does not list {code}");
        assert_eq!((reason.action(), reason.code(), reason.to_string().as_str()), (action, code, words));
    }
}
