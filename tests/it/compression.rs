//! Compressed layers as the world makes them and as an attacker would: every member and frame counts, a stream that
//! is not whole fails, what the bytes are decides, and no bomb goes further than the settings and the disk allow.

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, file, file_header, gzip, noise, tar};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::sha256;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// Name, blob, the tar in it, media type, and what the error says where it is refused.
type Case = (&'static str, Vec<u8>, Vec<u8>, &'static str, Option<&'static str>);

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A zstd frame that asks for a window of 2^`log` bytes.
fn zstd_window(bytes: &[u8], log: u32) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(log)).unwrap();
    // Flushed in pieces: a frame of known size gets a smaller window.
    for piece in bytes.chunks(bytes.len() / 2 + 1) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

fn apply(layers: &[Layer]) -> (Sandbox, Output, Vec<String>) {
    let sandbox = Sandbox::new();
    let mut set = BlobSet::default();
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let manifest = set.image(&Image::new(std::slice::from_ref(layer)));
        names.push(format!("case/n{number}:1"));
        set.tag(&names[number], &manifest);
    }
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &names.iter().map(String::as_str).collect::<Vec<_>>()));
    let output = sandbox.measured("apply --json").run();
    let names = names.iter().map(|name| format!("{}/{name}", registry.name())).collect();
    (sandbox, output, names)
}

fn error_of(output: &Output, reference: &str) -> Option<String> {
    let event = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|event| event["reference"] == reference)
        .unwrap_or_else(|| panic!("no event of {reference}\n{output}"));
    (event["status"] != "done").then(|| event["error"]["message"].as_str().unwrap().to_owned())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_stream_is_whole_or_refused_whatever_its_label_says() {
    let mut number = 0;
    // Each stream is of another tar: one blob is fetched and judged once.
    let mut fresh = || {
        number += 1;
        tar(&[file("f", format!("content {number}")), file("noise", noise(number, 20_000))])
    };
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name, make: &dyn Fn(&[u8]) -> Vec<u8>, label, refused| {
        let tar = fresh();
        cases.push((name, make(&tar), tar, label, refused));
    };
    let cut = |mut bytes: Vec<u8>, by: usize| {
        bytes.truncate(bytes.len() - by);
        bytes
    };
    let flipped = |mut bytes: Vec<u8>, from_end: usize| {
        let at = bytes.len() - from_end;
        bytes[at] ^= 0x10;
        bytes
    };
    let skippable = |content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x53, 0x2a, 0x4d, 0x18], &length[..], content].concat()
    };
    add("several members", &|tar| tar.chunks(700).flat_map(gzip).collect(), GZIP, None);
    add("empty members", &|tar| [gzip(b""), gzip(b""), gzip(tar), gzip(b"")].concat(), GZIP, None);
    add("a member of one byte", &|tar| [gzip(&tar[..1]), gzip(&tar[1..])].concat(), GZIP, None);
    add("cut", &|tar| cut(gzip(tar), 5000), GZIP, Some("gzip"));
    add("no footer", &|tar| cut(gzip(tar), 8), GZIP, Some("gzip"));
    add("half a footer", &|tar| cut(gzip(tar), 4), GZIP, Some("gzip"));
    add(
        "a second member cut",
        &|tar| cut([gzip(&tar[..600]), gzip(&tar[600..])].concat(), 3),
        GZIP,
        Some("gzip"),
    );
    add("a wrong CRC", &|tar| flipped(gzip(tar), 8), GZIP, Some("gzip"));
    add("a wrong length", &|tar| flipped(gzip(tar), 1), GZIP, Some("gzip"));
    add("damaged inside", &|tar| flipped(gzip(tar), 9000), GZIP, Some(""));
    add("garbage at the end", &|tar| [gzip(tar), b"garbage".to_vec()].concat(), GZIP, Some("gzip"));
    add("zeros at the end", &|tar| [gzip(tar), vec![0; 512]].concat(), GZIP, Some("gzip"));
    add("a tar at the end", &|tar| [gzip(tar), tar.to_vec()].concat(), GZIP, Some("gzip"));
    add("zstd at the end of gzip", &|tar| [gzip(tar), zstd_of(tar)].concat(), GZIP, Some("gzip"));
    add("a gzip header only", &|tar| gzip(tar)[..10].to_vec(), GZIP, Some("gzip"));
    add("two bytes", &|_| vec![0x1f, 0x8b], GZIP, Some("gzip"));
    add("several frames", &|tar| tar.chunks(7000).flat_map(zstd_of).collect(), ZSTD, None);
    add(
        "skippable frames",
        &|tar| {
            [
                skippable(b"first"),
                zstd_of(&tar[..900]),
                skippable(&vec![9; 70_000]),
                zstd_of(&tar[900..]),
                skippable(b""),
            ]
            .concat()
        },
        ZSTD,
        None,
    );
    add("an empty frame", &|tar| [zstd_of(b""), zstd_of(tar), zstd_of(b"")].concat(), ZSTD, None);
    add("a frame cut", &|tar| cut(zstd_of(tar), 50), ZSTD, Some("zstd"));
    add(
        "a skippable frame cut",
        &|tar| cut([zstd_of(tar), skippable(b"last")].concat(), 2),
        ZSTD,
        Some("zstd"),
    );
    add("zstd with garbage", &|tar| [zstd_of(tar), b"garbage".to_vec()].concat(), ZSTD, Some("zstd"));
    add("zstd with zeros", &|tar| [zstd_of(tar), vec![0; 512]].concat(), ZSTD, Some("zstd"));
    add("gzip at the end of zstd", &|tar| [zstd_of(tar), gzip(tar)].concat(), ZSTD, Some("zstd"));
    add("zstd magic only", &|tar| zstd_of(tar)[..4].to_vec(), ZSTD, Some("zstd"));
    add("a window of 8 MiB", &|tar| zstd_window(tar, 23), ZSTD, None);
    add("a window of 128 MiB", &|tar| zstd_window(tar, 27), ZSTD, None);
    add("a window of 256 MiB", &|tar| zstd_window(tar, 28), ZSTD, Some("window"));
    add(
        "windows of several frames",
        &|tar| {
            [zstd_window(&tar[..600], 27), zstd_window(&tar[600..9000], 10), zstd_window(&tar[9000..], 26)]
                .concat()
        },
        ZSTD,
        None,
    );
    add(
        "a large window in a later frame",
        &|tar| [zstd_of(&tar[..600]), zstd_window(&tar[600..], 28)].concat(),
        ZSTD,
        Some("window"),
    );
    add(
        "a dictionary",
        &|tar| {
            let mut frame = zstd_window(tar, 20);
            // The descriptor says that an ID of one byte follows the window.
            frame[4] |= 1;
            frame.insert(6, 9);
            frame
        },
        ZSTD,
        Some("dictionary"),
    );
    add("gzip called zstd", &gzip, ZSTD, None);
    add("zstd called gzip", &zstd_of, GZIP, None);
    add("plain called gzip", &<[u8]>::to_vec, GZIP, None);
    add("gzip called plain", &gzip, PLAIN, None);
    add("gzip in gzip", &|tar| gzip(&gzip(tar)), GZIP, Some(""));
    add("plain, cut", &|tar| tar[..9000].to_vec(), PLAIN, Some("the archive ends"));

    let layers: Vec<Layer> =
        cases.iter().map(|(_, blob, tar, label, _)| Layer::raw(blob.clone(), sha256(tar), label)).collect();
    let (sandbox, output, names) = apply(&layers);
    let mut wrong = Vec::new();
    for (((name, .., refused), layer), reference) in cases.iter().zip(&layers).zip(&names) {
        let here = sandbox.layers().join(layer.directory()).exists();
        match (refused, error_of(&output, reference)) {
            (None, None) if here => {}
            (Some(said), Some(error)) if error.contains(said) && error.contains(&layer.digest()) && !here => {
            }
            (_, error) => wrong.push(format!("{name}: {error:?}, on disk is {here}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!output.stderr.contains("panicked"), "{output}");
    output.assert_bounded(32);
}

/// A tar of one file of `mib` MiB of zeros, as gzip.
fn bomb(name: &str, mib: usize) -> Vec<u8> {
    let mut blob = gzip(&file_header(name, (mib << 20) as u64));
    let member = gzip(&vec![0; 16 << 20]);
    (0..mib / 16).for_each(|_| blob.extend(&member));
    blob.extend(gzip(&[0; 1024]));
    blob
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let sandbox = Sandbox::new();
    // More than the sandbox would like to hold; what is not stopped is 4 GiB.
    let blob = bomb("zeros", 4 << 10);
    let layer = Layer::raw(blob, sha256(b"whatever"), GZIP);
    let good = Layer::packed(&tar(&[file("good", "x")]), Pack::Gzip);
    let mut set = BlobSet::default();
    for (name, layer) in [("case/bomb:1", &layer), ("case/good:1", &good)] {
        let manifest = set.image(&Image::new(std::slice::from_ref(layer)));
        set.tag(name, &manifest);
    }
    let registry = FakeRegistry::start(set);
    let images = wanted(&registry.name(), &["case/bomb:1", "case/good:1"]);
    sandbox.images(&format!("[settings.limits]\nlayer-size = \"20MiB\"\n{images}"));
    let output = sandbox.measured("apply").run().code(1);
    assert!(output.stderr.contains("more than 20971520 bytes"), "{output}");
    assert!(output.stderr.contains("layer-size"), "no way out is named\n{output}");
    output.assert_bounded(0);
    assert_eq!(sandbox.extracted(), [good.directory()]);
    assert_eq!(std::fs::read_dir(sandbox.home().join("downloads")).unwrap().count(), 0);
}
