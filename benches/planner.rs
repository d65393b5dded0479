//! The planner with 10,000 images and 100,000 layers in 100 registries: all new, all as they should be, all replaced,
//! half of them to be removed. `cargo bench --bench planner`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use msb_sync::image_ref::ImageRef;
use msb_sync::plan::plan;
use msb_sync::state::{
    Action, Desired, DesiredImage, LayerFacts, LayerState, Observed, PullPolicy, RecordedImage, Resolution,
    ResolvedImage, Targets,
};

/// What the catalog says of an image that was recorded as it is.
fn recorded(image: &ResolvedImage) -> RecordedImage {
    RecordedImage {
        reference: image.reference.clone(),
        platform: Some(image.platform.clone()),
        digest: Some(image.digest.clone()),
        manifest_digest: Some(image.manifest.digest.clone()),
        config_digest: Some(image.config.digest.clone()),
        layers: image.layers.clone(),
        documents: Arc::clone(&image.documents),
        owners: [common::owner()].into(),
        extracted_for: [common::owner()].into(),
        blobs_kept_for: BTreeSet::new(),
        earlier_for: BTreeMap::new(),
        held: None,
        rows_complete: true,
        alias_of: None,
        second_name_of: None,
        layers_directory: Some(common::layers_directory()),
        preexisting: false,
        created: None,
        modified_at: "2026-01-01 00:00:00".to_owned(),
    }
}

/// The images are wanted and `recorded` are there.
fn world(wanted: &[Arc<ResolvedImage>], recorded: BTreeMap<ImageRef, RecordedImage>) -> Observed {
    let mut observed = Observed { recorded, ..Observed::default() };
    for image in wanted {
        let same = observed
            .recorded
            .get(&image.reference)
            .is_some_and(|row| row.digest.as_ref() == Some(&image.digest));
        let resolution = if same { Resolution::AsRecorded } else { Resolution::Resolved(Arc::clone(image)) };
        observed.resolutions.insert(image.reference.clone(), resolution);
        for layer in &*image.layers {
            observed.layers.insert(layer.digest.clone(), LayerState::Missing);
        }
    }
    for layer in observed.recorded.values().flat_map(|row| &*row.layers) {
        observed.layers.insert(layer.digest.clone(), LayerState::Complete);
        let facts = LayerFacts { diff_id: layer.diff_id.clone(), size: layer.size };
        observed.facts.insert(layer.digest.clone(), facts);
    }
    observed
}

/// A file that lists these images.
fn desired(images: &[Arc<ResolvedImage>], prune: bool) -> Desired {
    let mut images: Vec<DesiredImage> = images
        .iter()
        .map(|image| DesiredImage {
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            pull: PullPolicy::Always,
            groups: BTreeSet::new(),
            engines: None,
            cooldown: std::time::Duration::ZERO,
            locked: None,
            back_to: None,
        })
        .collect();
    images.sort_by(|a, b| a.reference.cmp(&b.reference));
    Desired {
        owner: common::owner(),
        layers_directory: common::layers_directory(),
        images,
        selections: Vec::new(),
        taken_now: BTreeSet::new(),
        listed_elsewhere: BTreeSet::new(),
        targets: Targets::default(),
        prune,
        stage: None,
    }
}

fn main() {
    let images: Vec<Arc<ResolvedImage>> =
        (0..common::IMAGES).map(|number| Arc::new(common::image(number))).collect();
    let newer: Vec<Arc<ResolvedImage>> = images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            // The next version: another digest, and another top layer.
            let mut newer = ResolvedImage::clone(image);
            let top = common::image(number + common::IMAGES);
            newer.digest = top.digest;
            Arc::make_mut(&mut newer.layers)[9] = top.layers[9].clone();
            Arc::new(newer)
        })
        .collect();
    let rows = || images.iter().map(|image| (image.reference.clone(), recorded(image))).collect();
    let half = &images[..common::IMAGES / 2];
    let cases: [(&str, Action, usize, Desired, Observed); 4] = [
        ("all new", Action::Add, common::IMAGES, desired(&images, false), world(&images, BTreeMap::new())),
        ("nothing to do", Action::Keep, common::IMAGES, desired(&images, true), world(&images, rows())),
        ("all replaced", Action::Update, common::IMAGES, desired(&newer, true), world(&newer, rows())),
        ("half removed", Action::Remove, common::IMAGES / 2, desired(half, true), world(half, rows())),
    ];
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("plan of 10,000 images");
    group.throughput(Throughput::Elements(common::IMAGES as u64));
    for (name, action, count, desired, observed) in &cases {
        assert_eq!(plan(desired, observed).count(*action), *count, "{name}");
        group.bench_function(*name, |bencher| bencher.iter(|| black_box(plan(desired, observed))));
    }
    group.finish();
    criterion.final_summary();
}
