//! The rules between rooms: who may import whom, which rooms are pure, and which room is a package's only home.

use super::paths::paths;
use super::source::{Source, stem};

const VOCABULARY: &[&str] = &[
    "digest",
    "image_ref",
    "error",
    "progress",
    "sys",
    "cancel",
    "clock",
    "child",
    "queue",
    "threads",
    "diagnostic",
    "url",
    "wildcard",
    "locked_home",
];
const PURE: &[&str] = &["state", "images_file", "lockfile", "selection", "plan", "trust", "bundle"];
const ADAPTERS: &[&str] = &["registry", "store", "catalog", "extract", "engine", "hooks"];
const DRIVERS: &[&str] = &["observe", "execute"];

/// No pure room touches these.
const IMPURE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net"],
    &["std", "env"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
];

/// Outside crates and the only rooms that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("anstream", &["bin"]),
    ("anstyle", &["bin"]),
    ("base64", &["registry", "trust", "catalog"]),
    ("clap", &["bin"]),
    ("clap_complete", &["bin"]),
    ("clap_mangen", &["bin"]),
    ("coset", &["trust"]),
    ("crossbeam_channel", &["extract", "execute", "observe"]),
    ("fastrand", &["registry", "watch"]),
    ("flate2", &["extract"]),
    ("granit_parser", &["images_file"]),
    ("httpdate", &["registry"]),
    ("hyper", &["watch"]),
    ("hyper_util", &["watch"]),
    ("libc", &["sys"]),
    ("notify", &["watch"]),
    ("oci_spec", &["digest", "image_ref", "state", "registry"]),
    ("prometheus_client", &["watch"]),
    ("rayon", &["extract", "execute"]),
    ("regex", &["selection", "images_file"]),
    ("rusqlite", &["catalog"]),
    ("rustix", &["sys"]),
    // Of it, trust takes only the types of certificates and times that webpki wants.
    ("rustls", &["registry", "trust"]),
    ("rustls_native_certs", &["registry"]),
    ("sd_notify", &["watch"]),
    ("semver", &["selection", "images_file"]),
    (
        "serde_json",
        &["trust", "bundle", "catalog", "engine", "hooks", "images_file", "registry", "watch", "bin"],
    ),
    ("sha2", &["digest", "trust"]),
    ("signal_hook", &["bin"]),
    ("sigstore_crypto", &["trust"]),
    ("sigstore_trust_root", &["trust"]),
    ("sigstore_types", &["trust"]),
    ("sigstore_verify", &["trust"]),
    ("strsim", &["diagnostic"]),
    // Layers, bundles that are written, and bundles that stand for registries.
    ("tar", &["extract", "bundle", "registry"]),
    ("terminal_size", &["bin"]),
    ("tokio", &["watch"]),
    ("toml", &["diagnostic", "images_file", "lockfile", "registry"]),
    ("unicode_width", &["bin", "diagnostic"]),
    ("ureq", &["registry"]),
    ("webpki", &["registry", "trust"]),
    ("x509_cert", &["trust"]),
    ("xxhash_rust", &["extract"]),
    ("zstd", &["extract"]),
];

/// The files outside `sys` that open files by path: they read the kernel's, or what they say they
/// make. `sys` opens all else, and refuses fifos, devices, directories, and other users' files.
/// The last one is the build script, which is no part of the program.
const OPENERS: &[&str] =
    &["extract/fuzzing.rs", "store/usage", "catalog/connection.rs", "sync/init.rs", "bin/msb-sync/build.rs"];
const OPENS: &[&[&str]] = &[
    &["File", "open"],
    &["File", "create"],
    &["fs", "read"],
    &["fs", "read_to_string"],
    &["fs", "OpenOptions"],
];

pub(super) const NO_PURPOSE: &str = "does not start with its purpose (//!)";

/// The rooms that `room` may import; `None` where everything goes (the map itself, the binary) and
/// an empty list where the room is unknown.
fn allowed(room: &str) -> Option<Vec<&'static str>> {
    let below: &[&[&str]] = match room {
        "lib" | "bin" => return None,
        _ if VOCABULARY.contains(&room) => &[VOCABULARY],
        _ if PURE.contains(&room) || ADAPTERS.contains(&room) => &[VOCABULARY, &["state"]],
        _ if DRIVERS.contains(&room) => &[VOCABULARY, PURE, ADAPTERS],
        "sync" => &[VOCABULARY, PURE, ADAPTERS, DRIVERS],
        // Not in the program: compiled for tests and fuzzing only.
        "fuzzing" => &[VOCABULARY, PURE, ADAPTERS],
        "watch" => &[VOCABULARY, PURE, ADAPTERS, DRIVERS, &["sync"]],
        _ => &[],
    };
    Some(below.concat())
}

/// The rooms that the map in `lib.rs` lists otherwise than these rules, or that `CONTRIBUTING.md` leaves out.
pub(super) fn unmapped(map: &str, contributing: &str) -> Vec<String> {
    let map = map.replace("\n//!", " ");
    let mut found = Vec::new();
    for (kind, rooms) in [("Vocabulary", VOCABULARY), ("Pure rooms", PURE), ("Adapters", ADAPTERS)] {
        let listed = map.split_once(&format!(" {kind} (")).map_or("", |(_, after)| after);
        let listed = listed.split_once(") ").map_or("", |(listed, _)| listed);
        let mut listed: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
        let mut rooms = rooms.to_vec();
        listed.sort_unstable();
        rooms.sort_unstable();
        if listed != rooms {
            found.push(format!("{kind}: lib.rs lists {listed:?}, the rules {rooms:?}"));
        }
    }
    let rooms = [VOCABULARY, PURE, ADAPTERS, DRIVERS, &["sync", "watch", "fuzzing"]].concat();
    let table = |room: &&str| {
        contributing.contains(&format!("`{room}.rs`")) || contributing.contains(&format!("`{room}/`"))
    };
    found.extend(
        rooms.iter().filter(|room| !table(room)).map(|room| format!("{room} is not in CONTRIBUTING.md")),
    );
    found
}

/// Everything that a source file does against these rules.
pub(super) fn violations(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |text: String| found.push(text);
    let (room, depth, file) = (source.room(), stem(&source.path).split('/').count(), &source.path);
    if !source.text.starts_with("//!") {
        report(NO_PURPOSE.to_owned());
    }
    let tokens = source.tokens();
    if room != "sys" && tokens.contains(&"unsafe") {
        report("unsafe outside sys".to_owned());
    }
    if tokens.windows(3).any(|window| window == ["#", "[", "path"]) || tokens.contains(&"include") {
        report("takes in a file by path, past the rooms".to_owned());
    }
    let below = allowed(room);
    if below.as_ref().is_some_and(Vec::is_empty) {
        report("is in no known room: place it in lib.rs and in this test".to_owned());
    }
    for path in paths(&tokens) {
        if let (Some(below), Some(target)) = (&below, inner_target(&path, depth))
            && target != room
            && !below.contains(&target)
        {
            report(format!("{room} imports {target} ({})", path.join("::")));
        }
        let first = path[0];
        if let Some((_, homes)) = HOMES.iter().find(|(name, _)| *name == first)
            && !homes.contains(&room)
        {
            report(format!("{first} belongs to {homes:?}"));
        }
        let opens = OPENS.iter().any(|open| path.ends_with(open));
        if opens
            && !matches!(room, "sys" | "fuzzing")
            && !OPENERS.iter().any(|opener| file.starts_with(opener))
        {
            report(format!("opens a file by {}: sys does, whatever it is", path.join("::")));
        }
        let clock = path.len() > 1 && path.last() == Some(&"now");
        // Compiled in, not read from the environment.
        let constant = path.starts_with(&["std", "env", "consts"]);
        if PURE.contains(&room)
            && !constant
            && (clock || IMPURE.iter().any(|impure| path.starts_with(impure)))
        {
            report(format!("a pure room uses {}", path.join("::")));
        }
        if room == "bin" && path.starts_with(&["super", "super"]) {
            report(format!("the binary reaches out by {}", path.join("::")));
        }
    }
    found
}

/// Thread starts and poisoned locks outside of `threads`, which has one way for each.
pub(super) fn own_threads(source: &Source) -> Vec<String> {
    let tokens = source.tokens();
    let starter = |path: &[&str]| {
        path.ends_with(&["thread", "spawn"]) || path.windows(2).any(|pair| pair == ["thread", "Builder"])
    };
    let mut found = Vec::new();
    if tokens.contains(&"PoisonError") {
        found.push("unpoisons a lock: threads does".to_owned());
    }
    if tokens.contains(&"spawn_scoped") || paths(&tokens).iter().any(|path| starter(path)) {
        found.push("starts a thread: threads does, and says so where the system refuses".to_owned());
    }
    found.retain(|_| source.room() != "threads");
    found
}

/// The room that a path leads to over the crate's root. `depth` is 1 for `src/room.rs`.
fn inner_target<'a>(path: &[&'a str], depth: usize) -> Option<&'a str> {
    if path[0] == "crate" {
        return path.get(1).copied();
    }
    let ups = path.iter().take_while(|part| **part == "super").count();
    (ups > 0 && ups >= depth).then(|| path.get(ups).copied()).flatten()
}

#[test]
fn trespasses_are_found() {
    for (path, code, complaint) in [
        ("plan.rs", "use crate::catalog::Catalog;", "plan imports catalog"),
        ("plan.rs", "use crate::{digest::DiffId, store};", "plan imports store"),
        ("plan.rs", "use super::store::Store;", "plan imports store"),
        ("plan.rs", "fn f() { crate::store::open() }", "plan imports store"),
        ("plan.rs", "fn f<'a>(x: &'a str) -> char { crate::sync::x(); 'a' }", "plan imports sync"),
        ("plan.rs", "use crate::Everything;", "plan imports Everything"),
        ("plan.rs", "use std::{fmt, fs::File};", "uses std::fs::File"),
        ("plan.rs", "use std::time::{Duration, Instant};", "uses std::time::Instant"),
        ("plan.rs", "fn f() { std::env::var(\"x\"); }", "uses std::env::var"),
        ("lockfile.rs", "fn f() { let now = jiff::Timestamp::now(); }", "uses jiff::Timestamp::now"),
        ("digest.rs", "use crate::state::Platform;", "digest imports state"),
        ("error/layer.rs", "use super::super::plan::Plan;", "error imports plan"),
        ("registry/auth.rs", "use crate::catalog;", "registry imports catalog"),
        ("extract.rs", "use crate::store::Staged;", "extract imports store"),
        ("observe.rs", "use crate::execute::run;", "observe imports execute"),
        ("execute.rs", "use crate::sync;", "execute imports sync"),
        ("sync/init.rs", "use crate::watch::Watch;", "sync imports watch"),
        ("store.rs", "use rusqlite::Connection;", "rusqlite belongs to"),
        ("watch.rs", "fn f() { anstream::println!(); }", "anstream belongs to"),
        ("catalog/connection.rs", "use oci_spec::image::Digest;", "oci_spec belongs to"),
        ("sync/init.rs", "fn f() { tar::Archive::new(x); }", "tar belongs to"),
        ("store.rs", "use ::rustix::fs;", "rustix belongs to"),
        ("store.rs", "use libc;", "libc belongs to"),
        ("bin/msb-sync/main.rs", "use rusqlite as sql;", "rusqlite belongs to"),
        ("bin/msb-sync/main.rs", "#[path = \"../../catalog.rs\"] mod catalog;", "by path"),
        ("registry/tls.rs", "fn f() { File::open(path); }", "opens a file by File::open"),
        ("watch/paths.rs", "fn f() { std::fs::read(path); }", "opens a file by std::fs::read"),
        ("bin/msb-sync/human.rs", "use super::super::x;", "reaches out"),
        ("store.rs", "fn f() { unsafe { g() } }", "unsafe outside sys"),
        ("helpers.rs", "fn f() {}", "no known room"),
    ] {
        let found = violations(&Source::new(path, &format!("//! Purpose.\n{code}")));
        assert!(found.iter().any(|line| line.contains(complaint)), "{path}: {code}\n{found:?}");
    }
    assert_eq!(violations(&Source::new("plan.rs", "fn f() {}")).len(), 1, "a file without purpose");
}

#[test]
fn what_keeps_the_rules_is_left_alone() {
    for (path, code) in [
        ("plan.rs", "use crate::state::{Desired, Observed};\nuse std::time::Duration;"),
        ("state.rs", "use std::env::consts::ARCH;"),
        ("plan.rs", "// use crate::store;\n/* std::fs */ const X: &str = \"crate::store \\\" std::fs\";"),
        ("plan.rs", "const X: &str = r#\"use crate::store; \" std::fs\"#; const Q: char = '\"';"),
        ("plan.rs", "#[cfg(test)]\nmod tests { use super::*; use std::fs; fn f() { crate::sync::x(); } }"),
        ("plan.rs", "#[cfg(test)]\nuse std::fs;\nfn f(now: u64) -> u64 { now }"),
        ("error/layer.rs", "use super::Error;"),
        ("registry/auth.rs", "use super::transport::Client;\nuse crate::registry::token;\nuse ureq::Agent;"),
        ("execute.rs", "use crate::{catalog::Catalog, plan::Plan, store::Store};\nuse rayon::prelude::*;"),
        ("watch.rs", "use crate::sync;\nuse tokio::time;\nuse notify as n;"),
        ("sys.rs", "use rustix::fs; fn f() { unsafe { g() } }"),
        ("lib.rs", "pub mod catalog;\npub use crate::catalog::Catalog;"),
        ("bin/msb-sync/main.rs", "use clap::Parser;\nuse msb_sync::sync;\nmod args;\nuse crate::args::Args;"),
        ("extract/mod.rs", "use self::entry::tar_name; use crate::extract::entry; use tar as t;"),
    ] {
        let found = violations(&Source::new(path, &format!("//! Purpose.\n{code}")));
        assert!(found.is_empty(), "{path}: {code}\n{found:?}");
    }
}

#[test]
fn threads_of_ones_own_are_found() {
    for (path, code, complaint) in [
        ("watch.rs", "fn f() { std::thread::spawn(g); }", "starts a thread"),
        ("bin/msb-sync/main.rs", "use std::thread::{self, Builder};", "starts a thread"),
        ("store.rs", "fn f() { scope.spawn_scoped(g); }", "starts a thread"),
        ("store.rs", "use std::sync::{Mutex, PoisonError};", "unpoisons a lock"),
    ] {
        let found = own_threads(&Source::new(path, code));
        assert!(found.len() == 1 && found[0].contains(complaint), "{path}: {code}\n{found:?}");
    }
    for (path, code) in [
        ("threads.rs", "use std::sync::PoisonError; use std::thread::Builder;"),
        ("watch.rs", "fn f() { std::thread::scope(g); std::thread::sleep(t); tokio::spawn(g); }"),
        ("watch.rs", "#[cfg(test)] mod tests { fn f() { std::thread::spawn(g); } }"),
    ] {
        assert_eq!(own_threads(&Source::new(path, code)), [""; 0], "{path}: {code}");
    }
}
