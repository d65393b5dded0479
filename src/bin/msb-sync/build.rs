//! Tells the binary from which commit it is built, and of which day that is.
//!
//! Only release builds are told: a commit would make everything of a developer's anew otherwise.
//! The answer comes from git where this directory is a repository of its own, else from the note
//! that `cargo package` leaves, which knows no day. The same sources give the same answer.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/bin/msb-sync/build.rs");
    println!("cargo:rerun-if-changed=Cargo.toml");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let origin = if is_release { of_git().or_else(of_package) } else { None };
    let origin = origin.map(|origin| format!(" ({origin})")).unwrap_or_default();
    println!("cargo:rustc-env=MSB_SYNC_VERSION={version}{origin}");
}

/// The commit and its day, if this directory is the top of a repository.
fn of_git() -> Option<String> {
    let here = env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(here).ok()? {
        return None;
    }
    // Each commit and each checkout is noted there.
    let moves = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists());
    if let Some(path) = moves.or_else(|| git(&["rev-parse", "--git-path", "HEAD"])) {
        println!("cargo:rerun-if-changed={path}");
    }
    git(&["-c", "core.abbrev=10", "show", "--no-patch", "--no-show-signature", "--format=%h %cs", "HEAD"])
}

/// The output of a command of git's, if it succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The commit that a package was made from.
fn of_package() -> Option<String> {
    let note = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, after) = note.split_once("\"sha1\"")?;
    let commit = after.split('"').nth(1)?;
    commit.get(..10).filter(|short| short.bytes().all(|byte| byte.is_ascii_hexdigit())).map(str::to_owned)
}
