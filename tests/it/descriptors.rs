//! Few file descriptors: a hard limit of open files makes a run slower, never wrong.

use crate::support::check::wanted;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Item, Layer, dir, file, noise};
use crate::support::sandbox::{Output, Sandbox};

/// Images of one layer each, with more directories than a writer keeps open, and files in each of them.
fn bushes(count: u64, directories: u64) -> (FakeRegistry, Vec<String>) {
    let mut content = BlobSet::default();
    let mut names = Vec::new();
    for number in 0..count {
        let items: Vec<Item> = (0..directories)
            .flat_map(|of| {
                let seed = number * 10_000 + of;
                [dir(format!("d{of}")), file(format!("d{of}/f"), noise(seed, 200))]
            })
            .collect();
        let image = content.image(&Image::new(&[Layer::of(&items)]));
        let name = format!("team/bush-{number}:1");
        content.tag(&name, &image);
        names.push(name);
    }
    (FakeRegistry::start(content), names)
}

/// `msb-sync` with at most so many open files.
fn limited(sandbox: &Sandbox, open_files: usize, arguments: &str) -> Output {
    let script = format!("ulimit -n {open_files} && exec \"$@\"");
    let mut all = vec!["-c", &script, "sh", env!("CARGO_BIN_EXE_msb-sync")];
    all.extend(arguments.split(' '));
    sandbox.program("sh", &all).run()
}

#[test]
fn a_thousand_open_files_are_enough_for_many_layers_at_once() {
    let (registry, names) = bushes(24, 150);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sandbox = Sandbox::in_memory();
    sandbox.images(&format!("settings.downloads = 24\n{}", wanted(&registry.name(), &names)));
    // All of them arrive at the same time.
    registry.on(|request| request.path.contains("/blobs/").then(|| Fault::slow(20_000)));
    let output = limited(&sandbox, 1024, "-j 32 apply --json").success();
    assert_eq!((&output.summary()["added"], output.stderr.as_str()), (&24.into(), ""), "{output}");
    limited(&sandbox, 1024, "-j 64 verify").success();
}

#[test]
fn with_very_few_open_files_less_is_done_at_once() {
    let (registry, names) = bushes(12, 40);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sandbox = Sandbox::in_memory();
    sandbox.images(&format!("settings.downloads = 64\n{}", wanted(&registry.name(), &names)));
    registry.on(|request| request.path.contains("/blobs/").then(|| Fault::slow(100_000)));
    let output = limited(&sandbox, 128, "-j 64 apply --json").success();
    assert_eq!((&output.summary()["added"], output.stderr.as_str()), (&12.into(), ""), "{output}");
    // Layers that nobody could open are not damaged ones.
    let output = limited(&sandbox, 64, "-j 64 verify --json").success();
    assert!(!output.stdout.contains("open files"), "{output}");
    limited(&sandbox, 128, "apply --offline").success();
}
