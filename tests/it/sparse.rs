//! Sparse files as GNU tar and bsdtar really write them, and as a liar would: on disk they are whole, their holes
//! cost nothing, and what is no honest map is refused by name.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, Pack, file, tar};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tool_command;

fn apply(sandbox: &Sandbox, tar: &[u8], settings: &str) -> (Layer, Output) {
    let layer = Layer::packed(tar, Pack::Zstd);
    let registry =
        FakeRegistry::start(BlobSet::with("case/sparse:1", &Image::new(std::slice::from_ref(&layer))));
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["case/sparse:1"])));
    let output = sandbox.measured("apply").run();
    (layer, output)
}

/// The parts of a file that have data: offset and length.
type Parts = &'static [(u64, usize)];

/// Makes the files whose parts these are, `(offset, length)` each, and their size.
fn make(directory: &Path) -> Vec<&'static str> {
    let files: [(&str, Parts, u64); 6] = [
        ("start", &[(0, 5000)], 10 << 20),
        ("middle", &[(4 << 20, 100_000), (8 << 20, 1)], 12 << 20),
        ("end", &[((6 << 20) - 4096, 4096)], 6 << 20),
        ("nothing", &[], 3 << 20),
        ("small", &[(20_480, 10)], 40_000),
        ("odd", &[(0, 4096), (1 << 20, 4096), ((2 << 20) + 4096, 70_001)], (3 << 20) + 17),
    ];
    for (name, parts, size) in files {
        let file = File::create(directory.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, length) in parts {
            let data: Vec<u8> = (0..*length).map(|at| u8::try_from(at % 251).unwrap() | 1).collect();
            file.write_all_at(&data, *offset).unwrap();
        }
    }
    // More parts than one block of a map holds.
    let many = File::create(directory.join("many")).unwrap();
    for part in 0..300 {
        many.write_all_at(&[7; 4096], part * 32_768).unwrap();
    }
    // Real tools find holes only in what is on disk.
    many.sync_all().unwrap();
    ["start", "middle", "end", "nothing", "small", "odd", "many"].to_vec()
}

#[test]
fn what_real_tools_write_is_whole_and_its_holes_cost_nothing() {
    let sandbox = Sandbox::new();
    let source = sandbox.root().join("source");
    std::fs::create_dir(&source).unwrap();
    let names = make(&source);
    let gnu =
        |form: &[&'static str]| [&["tar", "--create", "--sparse", "--file=-"], form, &names[..]].concat();
    let archives = [
        gnu(&["--format=gnu"]),
        gnu(&["--format=posix", "--sparse-version=0.0"]),
        gnu(&["--format=posix", "--sparse-version=0.1"]),
        gnu(&["--format=posix", "--sparse-version=1.0"]),
        [&["bsdtar", "-c", "-f", "-"], &names[..]].concat(),
    ];
    for command in archives {
        let made = tool_command(&source, command[0]).args(&command[1..]).output();
        let Ok(made) = made else {
            let _ = writeln!(std::io::stderr(), "no {} here: what it writes was NOT checked", command[0]);
            continue;
        };
        assert!(made.status.success(), "{command:?}");
        assert!(made.stdout.len() < 3 << 20, "{command:?} found no holes");
        let sandbox = Sandbox::new();
        let (layer, output) = apply(&sandbox, &made.stdout, "");
        assert!(output.status.success(), "{command:?}\n{output}");
        let root = sandbox.layers().join(layer.directory());
        for name in &names {
            let (there, here) = (root.join(name), source.join(name));
            let same = Command::new("cmp").arg(&there).arg(&here).output().unwrap();
            assert!(same.status.success(), "{command:?}: {name}: {same:?}");
        }
        let blocks = |name: &str| root.join(name).metadata().unwrap().blocks() * 512;
        for (name, most) in [("start", 200_000), ("middle", 400_000), ("end", 200_000), ("nothing", 100_000)]
        {
            assert!(blocks(name) < most, "{command:?}: {name} takes {} bytes", blocks(name));
        }
        sandbox.msb("verify").run().success();
    }
}

#[test]
fn a_map_that_is_none_is_refused_by_name() {
    let v1 = |map: &str, data: usize, real: &str| {
        let mut content = map.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512) + data, b'x');
        tar(&[file("liar", content)
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "liar")
            .pax("GNU.sparse.realsize", real)])
    };
    let v0 = |map: &str, count: &str, data: usize| {
        tar(&[file("liar", vec![b'x'; data])
            .pax("GNU.sparse.size", "1000")
            .pax("GNU.sparse.numblocks", count)
            .pax("GNU.sparse.map", map)])
    };
    let endless = |count: usize| {
        let lines: Vec<String> = (0..count).map(|part| format!("{part}\n0\n")).collect();
        format!("{count}\n{}", lines.concat())
    };
    for (what, archive) in [
        ("overlapping", v1("2\n0\n600\n500\n100\n", 700, "1000")),
        ("not in order", v1("2\n500\n100\n0\n100\n", 200, "1000")),
        ("beyond the end", v1("1\n990\n100\n", 100, "1000")),
        ("beyond all numbers", v1("1\n18446744073709551615\n1\n", 1, "18446744073709551615")),
        ("too large a number", v1("1\n99999999999999999999\n1\n", 1, "1000")),
        ("less data than it says", v1("1\n0\n600\n", 100, "1000")),
        ("more data than it says", v1("1\n0\n100\n", 600, "1000")),
        ("no number", v1("one\n", 0, "1000")),
        ("an empty number", v1("1\n\n100\n", 100, "1000")),
        ("more parts than there are", v1("9999999999\n0\n1\n", 1, "1000")),
        ("millions of parts", v1(&endless(3_000_000), 0, "9000000000")),
        (
            "another version",
            tar(&[file("liar", "x").pax("GNU.sparse.major", "2").pax("GNU.sparse.size", "1")]),
        ),
        ("no size", tar(&[file("liar", "x").pax("GNU.sparse.map", "0,1").pax("GNU.sparse.numblocks", "1")])),
        ("half a part", v0("0,100,200", "1", 100)),
        ("another count", v0("0,100,200,100", "3", 200)),
        ("overlapping, 0.1", v0("0,100,50,100", "2", 200)),
        ("an endless map, 0.1", v0(&"999,0,".repeat(150_000), "150000", 0)),
    ] {
        let sandbox = Sandbox::new();
        let (_, output) = apply(&sandbox, &archive, "");
        assert_eq!(output.status.code(), Some(1), "{what}\n{output}");
        assert!(output.stderr.contains("\"liar\"") && output.stderr.contains("sparse"), "{what}\n{output}");
        output.assert_bounded(0);
        assert_eq!(sandbox.extracted(), [""; 0], "{what}");
    }
}

#[test]
fn holes_count_against_the_limit() {
    let archive = tar(&[file("huge", "1\n0\n1\n".to_owned() + &"\0".repeat(506) + "x")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "50000000")]);
    let sandbox = Sandbox::new();
    let (_, output) = apply(&sandbox, &archive, "[settings.limits]\nlayer-size = \"40MB\"\n");
    assert!(output.stderr.contains("layer-size"), "{output}");
    let (layer, output) = apply(&sandbox, &archive, "[settings.limits]\nlayer-size = \"60MB\"\n");
    output.success();
    let there = sandbox.layers().join(layer.directory()).join("huge").metadata().unwrap();
    assert_eq!(there.len(), 50_000_000);
    assert!(there.blocks() * 512 < 200_000, "{} bytes on disk", there.blocks() * 512);
}
