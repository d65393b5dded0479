//! The catalog with 10,000 recorded images: opening it, reading the images of one file, all, and what prune asks, and
//! recording one more. `cargo bench --bench catalog`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

mod common;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use msb_sync::benched::{Catalog, Holding, LockedHome, WritableCatalog};
use msb_sync::cancel::Cancel;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::Silent;
use msb_sync::state::Owner;

/// Every fiftieth image belongs to the file that is asked about: 200 of 10,000.
const OURS: usize = 50;

/// The wishes of most owners.
fn holding(layers: &Path) -> Holding<'_> {
    Holding { layers, extracts: true, keeps_blobs: false, keeps_earlier: 0 }
}

/// Records `count` images.
fn fill(catalog: &mut WritableCatalog, count: usize) {
    let layers = common::layers_directory();
    for number in 0..count {
        let owner = if number % OURS == 0 { common::owner() } else { Owner::pull() };
        let image = common::image(number);
        let names = [image.reference.clone()];
        catalog.record(&image, &names, &owner, holding(&layers)).unwrap();
    }
}

fn main() {
    // /dev/shm: filling takes 10,000 durable commits.
    let base = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    let directory = tempfile::tempdir_in(base).unwrap();
    let layers = common::layers_directory();
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for count in [200, common::IMAGES] {
        let home = directory.path().join(count.to_string());
        std::fs::create_dir(&home).unwrap();
        let locked = LockedHome::acquire(&home, "benchmark", &Cancel::new(), Arc::new(Silent)).unwrap();
        let mut writable = WritableCatalog::open(&locked).unwrap();
        fill(&mut writable, count);
        let ours: Vec<ImageRef> = (0..count).step_by(OURS).map(common::reference).collect();
        let mut group = criterion.benchmark_group(format!("catalog of {count} images"));
        group.bench_function("open to read", |bencher| {
            bencher.iter(|| black_box(Catalog::open_read_only(&home).unwrap()));
        });
        let catalog = Catalog::open_read_only(&home).unwrap().unwrap();
        let found = catalog.recorded_or_owned(&ours, &BTreeSet::new(), &common::owner()).unwrap();
        assert_eq!(found.len(), ours.len());
        group.bench_function(format!("read the {} images of a file", ours.len()), |bencher| {
            bencher.iter(|| {
                black_box(catalog.recorded_or_owned(&ours, &BTreeSet::new(), &common::owner()).unwrap())
            });
        });
        group.bench_function("read all images", |bencher| {
            bencher.iter(|| black_box(catalog.all().unwrap()));
        });
        let inside = ours.iter().cloned().collect();
        group.bench_function("layers that others need", |bencher| {
            bencher.iter(|| black_box(catalog.layers_needed_outside(&inside).unwrap()));
        });
        let image = common::image(common::IMAGES);
        let names = [image.reference.clone()];
        group.bench_function("record an image (without the disk's sync)", |bencher| {
            bencher.iter_batched(
                || (),
                |()| writable.record(&image, &names, &common::owner(), holding(&layers)).unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
    criterion.final_summary();
}
