//! A layer's way to disk, through the one door that runs use: inflating and hashing alone, tar
//! headers, small files, large files. `cargo bench --bench layers`
//!
//! The stages are told apart by what the layer holds. What follows an archive's end is inflated and
//! hashed, and nothing else; global PAX headers are parsed and make nothing. Trees go to
//! `MSB_SYNC_BENCH_DIR`, else to the build's directory; each is removed before the next is timed.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use msb_sync::benched::{Options, Totals, Workers, extract};
use msb_sync::cancel::Cancel;
use msb_sync::digest::Algorithm;
use msb_sync::state::{Limits, Ownership};

const MIB: usize = 1 << 20;

/// Extracts `layer` into a fresh directory; how long that took, and what it came to.
fn once(layer: &[u8], workers: &Workers) -> (Duration, Totals) {
    let base = std::env::var_os("MSB_SYNC_BENCH_DIR").map_or_else(target, PathBuf::from);
    let directory = tempfile::tempdir_in(base).unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let inventory = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(directory.path().join("record"))
        .unwrap();
    let options = Options {
        ownership: Ownership::OverrideStat,
        limits: Limits::default(),
        algorithm: Algorithm::Sha256,
        blob_size: layer.len() as u64,
    };
    let root = File::open(&tree).unwrap().into();
    let start = Instant::now();
    let extracted = extract(layer, root, inventory, options, workers).unwrap();
    (start.elapsed(), extracted.totals)
}

fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Bytes as programs and texts have them: this program's own, over and over.
fn content(bytes: usize) -> Vec<u8> {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    own.iter().copied().cycle().take(bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar of `count` files of `size` bytes, a hundred a directory.
fn files(count: usize, size: usize) -> Vec<u8> {
    let data = content(size);
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..count {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, format!("usr/lib/d{}/file-{number}", number / 100), &*data).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A tar of `count` global PAX headers with a comment each.
fn headers(count: usize) -> Vec<u8> {
    let record = b"30 comment=nothing to be made\n";
    let mut tar = tar::Builder::new(Vec::new());
    for _ in 0..count {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_path("pax_global_header").unwrap();
        header.set_size(record.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &record[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn main() {
    let mut criterion =
        Criterion::default().sample_size(10).measurement_time(Duration::from_secs(10)).configure_from_args();
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let workers = Workers::new(threads, 1, &Cancel::new()).unwrap();
    let mut bench = |group: &str, name: &str, layer: &[u8], throughput: Throughput, entries: u64| {
        assert_eq!(once(layer, &workers).1.entries, entries, "{group} {name}");
        let mut group = criterion.benchmark_group(group);
        group.throughput(throughput);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| once(layer, &workers).0).sum());
        });
        group.finish();
    };

    let stream = [vec![0; 1024], content(128 * MIB)].concat();
    let bytes = Throughput::Bytes(stream.len() as u64);
    bench("inflate and hash", "gzip", &gzip(&stream), bytes.clone(), 0);
    bench("inflate and hash", "zstd", &zstd::encode_all(&*stream, 3).unwrap(), bytes.clone(), 0);
    bench("inflate and hash", "plain", &stream, bytes, 0);
    drop(stream);
    bench("tar headers", "100,000 that make nothing", &headers(100_000), Throughput::Elements(100_000), 0);
    for (count, size, name) in [
        (20_000, 0, "20,000 of 0 B"),
        (20_000, 1024, "20,000 of 1 KiB"),
        (5_000, 32 * 1024, "5,000 of 32 KiB"),
    ] {
        let layer = files(count, size);
        bench("files", name, &layer, Throughput::Elements(count as u64), count as u64);
    }
    let large = files(2, 128 * MIB);
    bench("files", "2 of 128 MiB", &large, Throughput::Bytes(256 * MIB as u64), 2);
    criterion.final_summary();
}
