//! The integration tests: one binary, so that it links once and all tests share `support`.
//!
//! They see only the built `msb-sync`, real servers on loopback and real files, and hold what the
//! documentation promises, not how the crate keeps it. One file a subject; `architecture` alone reads the
//! sources, to keep the rules between rooms that `src/lib.rs` states.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails, and says where")]
#![expect(clippy::too_many_lines, reason = "a test tells one story, or is one table of cases")]

mod apply;
mod architecture;
mod bad_days;
mod bars;
mod blobs;
mod closed_layers;
mod compression;
mod concurrency;
mod contract;
mod cooldown;
mod crash;
mod descriptors;
mod disk;
mod docker;
mod docs;
mod engine_output;
mod engine_wishes;
mod examples;
mod export;
mod faults;
mod file_verbs;
mod folding;
mod from;
mod homes;
mod hooks;
mod hostile_images;
mod hostile_layers;
mod idle;
mod inspect;
mod json;
mod kills;
mod layers;
mod layouts;
mod lock;
mod machine_settings;
mod memory;
mod microsandbox;
mod mirrors;
mod mistakes;
mod model;
mod obstacles;
mod odd_files;
mod output;
mod page;
mod parts;
mod policies;
mod power_loss;
mod prune;
mod rate;
mod real_engines;
mod real_names;
mod references;
mod referrers;
mod registries;
mod removals;
mod requests;
mod rollback;
mod second_names;
mod selections;
mod services;
mod shells;
mod signing_live;
mod silence;
mod sparse;
mod stage;
mod stop;
mod strangers;
mod supply_chain;
mod support;
mod tag_lists;
mod told;
mod trust;
mod untrusted;
mod usage;
mod verify;
mod watch;
mod watch_files;
mod watch_storm;

/// A test file that nobody declares compiles never and fails never.
#[test]
fn no_test_file_is_forgotten() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    for (folder, declarations) in [
        ("", include_str!("main.rs")),
        ("architecture", include_str!("architecture.rs")),
        ("model", include_str!("model.rs")),
        ("support", include_str!("support/mod.rs")),
    ] {
        for entry in std::fs::read_dir(std::path::Path::new(directory).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|extension| extension == "rs") && name != "main" && name != "mod"
            {
                let declared = declarations.lines().any(|line| line.ends_with(&format!("mod {name};")));
                assert!(declared, "{} is not declared beside it: add `mod {name};`", path.display());
            }
        }
    }
}
