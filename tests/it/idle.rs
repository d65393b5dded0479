//! What a run costs that finds everything in order, and what a first one asks of a registry: the figures that the
//! documentation gives to those who run fleets.

use std::process::Command;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

/// System calls that change something, make it durable, or wait for a lock.
const CHANGES: &str = "fsync,fdatasync,syncfs,sync,sync_file_range,flock,rename,renameat,renameat2,unlink,unlinkat,\
    rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,truncate,ftruncate,fallocate,pwrite64,pwritev,pwritev2,chmod,\
    fchmod,fchmodat,fsetxattr,setxattr,utimensat";

/// `count` images of three layers each, two of them shared by all; the second half behind an index.
fn crowd(count: usize) -> (BlobSet, Vec<String>, Vec<String>) {
    let shared = [Layer::of(&[file("base", "x")]), Layer::of(&[file("more", "y")])];
    let mut content = BlobSet::default();
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for number in 0..count {
        let own = Layer::of(&[file("own", number.to_string())]);
        let manifest = content.image(&Image::new(&[shared[0].clone(), shared[1].clone(), own]));
        let root = if number < count / 2 { manifest } else { content.index(false, &[manifest]) };
        content.tag(&format!("team/app-{number}:1"), &root);
        tags.push(format!("team/app-{number}:1"));
        digests.push(format!("team/app-{number}@{}", root.digest()));
    }
    (content, tags, digests)
}

fn list(sandbox: &Sandbox, registry: &FakeRegistry, images: &[String]) {
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &images));
}

/// How many requests there were of each kind: HEADs and GETs of manifests, GETs of blobs, and any others.
fn counts(registry: &FakeRegistry) -> [usize; 4] {
    let requests = registry.requests();
    registry.forget();
    let of = |start: &str, part: &str| {
        requests.iter().filter(|request| request.starts_with(start) && request.contains(part)).count()
    };
    let known = [of("HEAD", "/manifests/"), of("GET", "/manifests/"), of("GET", "/blobs/")];
    [known[0], known[1], known[2], requests.len() - known.iter().sum::<usize>()]
}

#[test]
fn requests_are_as_few_as_the_docs_say() {
    const IMAGES: usize = 20;
    let (content, tags, digests) = crowd(IMAGES);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    list(&sandbox, &registry, &tags);
    let summary = sandbox.msb("apply --json").run().success().summary();
    // Each manifest, half of them by way of an index, each config, each distinct layer.
    let (manifests, blobs) = (IMAGES + IMAGES / 2, IMAGES + IMAGES + 2);
    assert_eq!(counts(&registry), [0, manifests, blobs, 0]);
    assert_eq!(summary["requests"], manifests + blobs, "{summary}");

    let summary = sandbox.msb("apply --json").run().success().summary();
    assert_eq!(counts(&registry), [IMAGES, 0, 0, 0]);
    assert_eq!((&summary["requests"], &summary["downloaded_bytes"]), (&IMAGES.into(), &0.into()));

    // The same images by digest are other references: their documents are read again, their layers are there.
    list(&sandbox, &registry, &digests);
    sandbox.msb("apply").run().success();
    assert_eq!(counts(&registry), [0, manifests, IMAGES, 0]);
    sandbox.msb("apply").run().success();
    assert_eq!(counts(&registry), [0; 4]);

    // A tag that moved costs what is new.
    list(&sandbox, &registry, &tags);
    sandbox.msb("apply").run().success();
    registry.forget();
    let moved = Image::new(&[Layer::of(&[file("base", "x")]), Layer::of(&[file("new", "z")])]);
    registry.edit(|content| {
        let manifest = content.image(&moved);
        content.tag(&tags[0], &manifest);
    });
    sandbox.msb("apply").run().success();
    assert_eq!(counts(&registry), [IMAGES, 1, 2, 0]);
}

#[test]
fn nothing_to_do_changes_nothing_and_waits_for_no_lock() {
    if Command::new("strace").args(["-qq", "true"]).output().is_ok_and(|output| !output.status.success()) {
        eprintln!("strace may not trace here: the system calls were NOT checked");
        return;
    }
    let (content, tags, digests) = crowd(6);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    for (images, settings) in [(&tags, ""), (&digests, ""), (&tags, "[settings]\nblobs = \"keep\"\n")] {
        list(&sandbox, &registry, images);
        let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
        sandbox.images(&format!("{settings}{text}"));
        sandbox.msb("apply").run().success();
        for verb in ["apply", "plan"] {
            let trace = sandbox.root().join("trace");
            let filter = format!("trace={CHANGES}");
            let binary = env!("CARGO_BIN_EXE_msb-sync");
            let arguments = [
                "-f",
                "-qq",
                "-e",
                "signal=none",
                "-e",
                &filter,
                "-o",
                trace.to_str().unwrap(),
                binary,
                verb,
            ];
            sandbox.program("strace", &arguments).run().success();
            let calls = std::fs::read_to_string(&trace).unwrap();
            assert!(calls.trim().is_empty(), "{verb} of {images:?}:\n{calls}");
        }
    }
}

/// The benchmarks' own checks: table, picture and readers, and the judgement over two builds.
#[test]
fn benchmarks_check_themselves() {
    let sandbox = Sandbox::in_memory();
    for script in ["compare.py", "guard.py"] {
        let script = format!("{}/benches/{script}", env!("CARGO_MANIFEST_DIR"));
        let output = sandbox.program("python3", &["-B", &script, "--self-test"]).run().success();
        assert_eq!(output.stdout.trim(), "ok", "{script}: {output}");
    }
}
