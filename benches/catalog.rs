//! The catalog with 10,000 recorded images: opening it, reading the images of one file, all, and what prune asks, and
//! recording one more. `cargo bench --bench catalog`

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

mod common;

use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion};
use msb_sync::catalog::Catalog;
use msb_sync::image_ref::ImageRef;
use msb_sync::state::Owner;

/// Every fiftieth image belongs to the file that is asked about: 200 of 10,000.
const OURS: usize = 50;

/// Records `count` images.
fn fill(path: &Path, count: usize) {
    let mut catalog = Catalog::open(path).unwrap();
    for number in 0..count {
        let owner = if number % OURS == 0 { common::owner() } else { Owner::pull() };
        let image = common::image(number);
        let names = [image.reference.clone()];
        catalog.record(&image, &names, &owner, &common::layers_directory()).unwrap();
    }
}

fn main() {
    // /dev/shm: filling takes 10,000 durable commits.
    let base = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    let directory = tempfile::tempdir_in(base).unwrap();
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for count in [200, common::IMAGES] {
        let path = directory.path().join(format!("{count}.db"));
        fill(&path, count);
        let ours: Vec<ImageRef> = (0..count).step_by(OURS).map(common::reference).collect();
        let mut group = criterion.benchmark_group(format!("catalog of {count} images"));
        group.bench_function("open to read", |bencher| {
            bencher.iter(|| black_box(Catalog::open_read_only(&path).unwrap()));
        });
        let catalog = Catalog::open_read_only(&path).unwrap().unwrap();
        let found = catalog.recorded_or_owned(&ours, &common::owner()).unwrap();
        assert_eq!(found.len(), ours.len());
        group.bench_function(format!("read the {} images of a file", ours.len()), |bencher| {
            bencher.iter(|| black_box(catalog.recorded_or_owned(&ours, &common::owner()).unwrap()));
        });
        group.bench_function("read all images", |bencher| {
            bencher.iter(|| black_box(catalog.all().unwrap()));
        });
        let inside = ours.iter().cloned().collect();
        group.bench_function("layers that others need", |bencher| {
            bencher.iter(|| black_box(catalog.layers_needed_outside(&inside).unwrap()));
        });
        let mut writable = Catalog::open(&path).unwrap();
        let image = common::image(common::IMAGES);
        let names = [image.reference.clone()];
        group.bench_function("record an image (without the disk's sync)", |bencher| {
            bencher.iter_batched(
                || (),
                |()| writable.record(&image, &names, &common::owner(), &common::layers_directory()).unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
    criterion.final_summary();
}
