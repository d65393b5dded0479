//! Memory is bounded by a budget, not by what is pulled: a layer with one huge file, one with very many small
//! files, both in one run each, measured by the kernel.
//!
//! `MSB_SYNC_TEST_HUGE_MIB` and `MSB_SYNC_TEST_MANY_FILES` change the sizes.

use std::time::Duration;

use sha2::Digest as _;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::hex;
use crate::support::image::{BlobSet, Image, Layer, dir, file, file_header, gzip};
use crate::support::sandbox::Sandbox;

/// The promise, in KiB.
const PEAK: u64 = 64 * 1024;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Applies an image of this layer and fails if it took more memory than promised.
#[track_caller]
fn assert_bounded(layer: &Layer) -> Sandbox {
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(layer))));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let output = sandbox.measured("apply").timeout(Duration::from_secs(180)).run().success();
    let peak = output.peak_kib();
    assert!(peak <= PEAK, "{} MiB at peak\n{output}", peak / 1024);
    sandbox
}

#[test]
fn a_huge_file_takes_no_more_memory_than_a_small_one() {
    const STEP: usize = 16 << 20;
    let count = setting("MSB_SYNC_TEST_HUGE_MIB", 1024).div_ceil(16);
    let size = count * STEP;
    // A file of zeros as one gzip member repeated, so that neither it nor its tar is ever whole in memory here.
    let (header, zeros, end) = (file_header("huge", size as u64), vec![0_u8; STEP], [0; 1024]);
    let mut hasher = sha2::Sha256::new();
    hasher.update(&header);
    (0..count).for_each(|_| hasher.update(&zeros));
    hasher.update(end);
    let (member, mut blob) = (gzip(&zeros), gzip(&header));
    (0..count).for_each(|_| blob.extend(&member));
    blob.extend(gzip(&end));
    let diff_id = format!("sha256:{}", hex(&hasher.finalize()));
    let layer = Layer::raw(blob, diff_id, "application/vnd.oci.image.layer.v1.tar+gzip");

    let sandbox = assert_bounded(&layer);
    let there = sandbox.layers().join(layer.directory()).join("huge").metadata().unwrap();
    assert_eq!(there.len(), size as u64);
}

#[test]
fn very_many_files_take_no_more_memory_than_a_few() {
    let count = setting("MSB_SYNC_TEST_MANY_FILES", 100_000);
    let mut items = Vec::with_capacity(count + count / 1000 + 1);
    for number in 0..count {
        if number % 1000 == 0 {
            items.push(dir(format!("d{}", number / 1000)));
        }
        items.push(file(format!("d{}/f{number}", number / 1000), number.to_string()));
    }
    let layer = Layer::of(&items);
    drop(items);

    let sandbox = assert_bounded(&layer);
    let root = sandbox.layers().join(layer.directory());
    let mut there = 0;
    for directory in std::fs::read_dir(&root).unwrap() {
        there += std::fs::read_dir(directory.unwrap().path()).unwrap().count();
    }
    assert_eq!(there, count);
    let last = count - 1;
    let content = std::fs::read_to_string(root.join(format!("d{}/f{last}", last / 1000))).unwrap();
    assert_eq!(content, last.to_string());
}
