//! The lockfile from outside: what `lock` writes and leaves alone, and what `apply` and `plan` make of it.
//!
//! The registry is a copy of the quickstart's image layout, whose tags can be moved. Where nothing may be asked, it
//! is replaced by a server that does not exist.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file, host_platform};
use crate::support::may_trace;
use crate::support::sandbox::{Output, Sandbox};

const HELLO: &str = "quickstart.local/hello:1";
const GREETER: &str = "quickstart.local/greeter:1";
/// Nobody listens on port 1.
const UNREACHABLE: &str = "endpoint = \"http://127.0.0.1:1\"";

struct World {
    sandbox: Sandbox,
}

impl World {
    /// The quickstart's two images, listed and not yet locked.
    fn new() -> Self {
        let world = Self { sandbox: Sandbox::in_memory() };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/oci"), &world.path("oci"));
        world.lists(&["hello:1", "greeter:1"], "layout = \"oci\"");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.work().join(name)
    }

    fn lists(&self, images: &[&str], registry: &str) {
        self.sandbox.images(&format!("[registry.\"quickstart.local\"]\n{registry}\nimages = {images:?}\n"));
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> Output {
        self.sandbox.msb(arguments).run()
    }

    fn lockfile(&self) -> String {
        fs::read_to_string(self.path("images.lock")).unwrap()
    }

    /// The digest that the lockfile has for an image.
    fn locked_digest(&self, reference: &str) -> String {
        let text = self.lockfile();
        let entry = text.split("[[image]]").find(|entry| entry.contains(reference)).unwrap();
        entry.split("\ndigest = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    fn change_lockfile(&self, from: &str, to: &str) {
        let text = self.lockfile();
        assert!(text.contains(from), "{from}: {text}");
        fs::write(self.path("images.lock"), text.replacen(from, to, 1)).unwrap();
    }

    /// Makes the tags of the layout's two images mean each other.
    fn swap_tags(&self) {
        let index = self.path("oci/index.json");
        let text = fs::read_to_string(&index).unwrap();
        let text = text.replace("hello:1", "\0").replace("greeter:1", "hello:1").replace('\0', "greeter:1");
        fs::write(index, text).unwrap();
    }

    /// The files beside the images file, by name and content.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.sandbox.work())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Reference and action of each image of a `lock` or `plan` document.
fn actions(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let images = document["images"].as_array().unwrap().iter();
    images.map(|image| (text(&image["reference"]), text(&image["action"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn lock_writes_once_and_rewrites_nothing_that_did_not_change() {
    let world = World::new();
    let first = world.run("lock --json").code(0).json();
    assert_eq!(first["version"], 1);
    assert_eq!(first["changed"], true);
    assert_eq!(first["path"], world.path("images.lock").to_str().unwrap());
    assert_eq!(actions(&first), pairs(&[(GREETER, "add"), (HELLO, "add")]));
    assert_eq!(first["images"][1]["previous"], Value::Null);
    assert_eq!(first["images"][1]["digest"], world.locked_digest(HELLO));
    assert_eq!(first["images"][1]["platform"], host_platform());
    let (text, inode) = (world.lockfile(), fs::metadata(world.path("images.lock")).unwrap().ino());
    assert_eq!(text.matches("\n  { digest = \"sha256:").count(), 4, "{text}");

    let second = world.run("lock --upgrade --json").code(0).json();
    assert_eq!(second["changed"], false);
    assert_eq!(actions(&second), pairs(&[(GREETER, "keep"), (HELLO, "keep")]));
    assert_eq!(second["images"][0]["previous"], second["images"][0]["digest"]);
    assert_eq!(fs::metadata(world.path("images.lock")).unwrap().ino(), inode);
    assert_eq!(world.lockfile(), text);
    // `lock` is about the file alone, and leaves nothing else behind.
    assert!(!world.sandbox.home().exists());
    assert_eq!(world.files().len(), 2);
}

#[test]
fn a_complete_lockfile_needs_no_registry() {
    let world = World::new();
    world.run("lock").code(0);
    world.lists(&["hello:1", "greeter:1"], UNREACHABLE);
    world.run("lock").code(0);
    world.run("lock --check").code(0);
    let planned = world.run("plan --json --locked").code(0).json();
    assert_eq!(actions(&planned), pairs(&[(GREETER, "add"), (HELLO, "add")]));
    assert_eq!(planned["images"][0]["layers"]["total"], 2);
    assert!(planned["download_bytes"].as_u64().unwrap() > 0);
    // To drop an entry, nobody need be asked either.
    world.lists(&["hello:1"], UNREACHABLE);
    let dropped = world.run("lock --json").code(0).json();
    assert_eq!(actions(&dropped), pairs(&[(GREETER, "remove"), (HELLO, "keep")]));
    assert_eq!(dropped["images"][0]["digest"], Value::Null);
    assert!(!world.lockfile().contains("greeter"));
}

#[test]
fn only_upgrade_moves_a_tag_and_only_the_one_it_names() {
    let world = World::new();
    world.run("lock").code(0);
    let (hello, greeter) = (world.locked_digest(HELLO), world.locked_digest(GREETER));
    world.swap_tags();
    assert_eq!(world.run("lock --json").code(0).json()["changed"], false);
    assert_eq!(world.locked_digest(HELLO), hello);

    let pending = world.run("lock --upgrade --check --json").code(2).json();
    assert_eq!(actions(&pending), pairs(&[(GREETER, "update"), (HELLO, "update")]));
    assert_eq!(world.locked_digest(HELLO), hello, "--check writes nothing");

    let moved = world.run(&format!("lock --upgrade {HELLO}")).code(0);
    assert!(moved.stdout.contains("~ quickstart.local/hello:1"), "{}", moved.stdout);
    assert!(moved.stdout.ends_with("Wrote images.lock: 1 updated, 1 unchanged.\n"), "{}", moved.stdout);
    assert_eq!((world.locked_digest(HELLO), world.locked_digest(GREETER)), (greeter.clone(), greeter));
    world.run("lock --upgrade images.toml").code(0);
    assert_eq!(world.locked_digest(GREETER), hello);
}

#[test]
fn apply_makes_what_the_lockfile_says_not_what_the_tag_means() {
    let world = World::new();
    world.run("lock").code(0);
    let digest = world.locked_digest(HELLO);
    world.swap_tags();
    world.run("apply --locked").code(0);
    let inspected = world.run(&format!("inspect {HELLO} --json")).code(0).json();
    assert_eq!(inspected["image"]["digest"], digest);

    // What is here as locked needs no request.
    world.lists(&["hello:1", "greeter:1"], UNREACHABLE);
    for arguments in ["apply --json", "apply --json --locked --offline"] {
        let summary = world.run(arguments).code(0).summary();
        assert_eq!((&summary["unchanged"], &summary["requests"]), (&2.into(), &0.into()));
    }

    // The lockfile moves, and the machine with it.
    world.lists(&["hello:1", "greeter:1"], "layout = \"oci\"");
    world.run("lock --upgrade").code(0);
    let planned = world.run("plan --json").code(0).json();
    assert_eq!(planned["images"][1]["action"], "update");
    assert_eq!(planned["images"][1]["previous"], digest);
    assert_eq!(planned["images"][1]["digest"], world.locked_digest(HELLO));
    let summary = world.run("apply --json").code(0).summary();
    assert_eq!((&summary["updated"], &summary["extracted_bytes"]), (&2.into(), &0.into()));
    assert_eq!(world.run("plan --json").code(0).json()["changes"], 0);
}

#[test]
fn an_image_that_the_lockfile_lacks_is_resolved_and_reported() {
    let world = World::new();
    world.lists(&["hello:1"], "layout = \"oci\"");
    world.run("lock").code(0);
    world.lists(&["hello:1", "greeter:1"], "layout = \"oci\"");
    let applied = world.run("apply").code(0);
    let warning = "warning: not in images.lock: quickstart.local/greeter:1 (missing); run: msb-sync lock";
    assert!(applied.stderr.contains(warning), "{}", applied.stderr);
    world.run(&format!("inspect {GREETER}")).code(0);
}

#[test]
fn locked_fails_unless_the_lockfile_covers_the_file_exactly() {
    let world = World::new();
    let without = world.run("apply --locked").code(1);
    assert!(without.stderr.contains("there is no images.lock"), "{}", without.stderr);
    world.run("lock").code(0);
    let other = if host_platform() == "linux/amd64" { "arm64" } else { "amd64" };
    let for_other =
        format!("{{ name = \"hello\", tag = \"1\", platform = \"linux/{other}\" }}, \"greeter:1\"");
    for (images, complaint, checked) in [
        ("\"hello:1\"", "quickstart.local/greeter:1 (not listed any more)", 2),
        ("\"hello:1\", \"greeter:1\", \"hello:2\"", "quickstart.local/hello:2 (missing)", 1),
        (&for_other, "quickstart.local/hello:1 (locked for linux/", 2),
    ] {
        let text = format!("[registry.\"quickstart.local\"]\nlayout = \"oci\"\nimages = [{images}]\n");
        fs::write(world.path("images.toml"), text).unwrap();
        for arguments in ["apply --locked", "plan --locked --detailed-exitcode"] {
            let failed = world.run(arguments).code(1);
            assert!(failed.stderr.contains(complaint), "{}", failed.stderr);
            assert!(failed.stderr.contains("hint: run: msb-sync lock images.toml"), "{}", failed.stderr);
        }
        world.run("lock --check").code(checked);
    }
    assert!(!world.sandbox.home().exists(), "nothing is touched");
}

#[test]
fn diff_says_what_moved_for_people_reviewers_and_scripts() {
    let world = World::new();
    world.run("lock").code(0);
    fs::copy(world.path("images.lock"), world.path("old.lock")).unwrap();
    let same = world.run("diff old.lock").code(0).stdout;
    assert_eq!(same, "No difference: images.lock means the same images.\n");
    world.swap_tags();
    let digest = world.locked_digest(HELLO);
    world.lists(&["hello:1", &format!("greeter@{digest}")], "layout = \"oci\"");
    world.run("lock --upgrade").code(0);

    let told = world.run("diff old.lock images.lock").code(0).stdout;
    assert!(told.ends_with("images.lock: 1 added, 1 changed, 1 removed.\n"), "{told}");
    let moved = told.lines().find(|line| line.contains(HELLO)).unwrap();
    assert!(moved.starts_with("  ~ ") && moved.contains(" → sha256:"), "{told}");
    let table = world.run("diff old.lock --markdown").code(0).stdout;
    assert!(table.starts_with("### Container images: 1 added, 1 changed, 1 removed\n\n| |"), "{table}");
    assert!(table.contains(&format!("| changed | `{HELLO}` | {} | `sha256:", host_platform())), "{table}");

    let old = fs::read(world.path("old.lock")).unwrap();
    let document = world.sandbox.msb("diff - images.lock --json").stdin(old).run().code(0).json();
    let changed = &document["changed"][0];
    assert_eq!((&changed["reference"], &changed["from"]), (&HELLO.into(), &digest.as_str().into()));
    assert_eq!((&changed["to"], &changed["download_bytes"]), (&world.locked_digest(HELLO).into(), &0.into()));
    assert_eq!(document["removed"][0]["reference"], GREETER);
    assert_eq!(document["added"][0]["digest"], digest.as_str());

    // An error would show lines of the file that the symlink leads to.
    symlink("old.lock", world.path("link.lock")).unwrap();
    world.run("diff link.lock").code(0);
    let refused = world.run("diff link.lock --untrusted").code(2);
    assert!(refused.stderr.contains("is a symlink"), "{refused}");
    assert!(!world.sandbox.home().exists(), "nothing is touched");
}

#[test]
fn an_image_that_cannot_be_resolved_leaves_the_lockfile_alone() {
    let world = World::new();
    world.lists(&["hello:1"], "layout = \"oci\"");
    world.run("lock").code(0);
    let before = world.files();
    world.lists(&["hello:1", "greeter:1", "nope:1"], "layout = \"oci\"");
    let failed = world.run("lock").code(1);
    assert!(failed.stderr.contains("error: quickstart.local/nope:1: "), "{}", failed.stderr);
    assert!(!failed.stderr.contains("error: quickstart.local/greeter"), "{}", failed.stderr);
    assert_eq!(world.files()[0], before[0]);
    assert_eq!(world.files().len(), before.len(), "no temporary file stays");
    let document = world.run("lock --json").code(1).json();
    assert_eq!(document["changed"], false);
}

#[test]
fn a_wrong_reference_or_file_is_a_usage_error() {
    let world = World::new();
    let unknown = world.run("lock --upgrade quickstart.local/helo:1").code(2);
    assert!(unknown.stderr.contains("did you mean quickstart.local/hello:1?"), "{}", unknown.stderr);
    world.run("lock --upgrade UPPER").code(2);
    world.run("lock missing.toml").code(2);
    world.run("lock missing.toml --check").code(1);
    world.run("lock -").code(2);
    assert_eq!(world.files().len(), 1);

    for (text, complaint) in [
        ("version = 2\n", "its version is 2, this one knows 1"),
        ("version = 1\n<<<<<<< HEAD\n", "invalid TOML"),
        ("version = 1\nother = 1\n", "unknown key \"other\""),
        ("\u{feff}", "images.lock"),
    ] {
        fs::write(world.path("images.lock"), text).unwrap();
        for arguments in ["apply", "plan --locked", "lock", "lock --upgrade"] {
            let failed = world.run(arguments).code(2);
            assert!(failed.stderr.contains(complaint), "{}", failed.stderr);
            assert!(failed.stderr.contains("--> images.lock:"), "{}", failed.stderr);
        }
        world.run("lock --check").code(1);
        assert_eq!(world.lockfile(), text);
    }
    fs::write(world.path("images.lock"), [0xff, 0xfe]).unwrap();
    assert!(world.run("plan").code(2).stderr.contains("images.lock: it is not UTF-8"));
    fs::remove_file(world.path("images.lock")).unwrap();
    fs::create_dir(world.path("images.lock")).unwrap();
    assert!(world.run("plan").code(2).stderr.contains("images.lock: it is not a regular file"));
    assert!(!world.sandbox.home().exists(), "nothing is touched");
}

#[test]
fn a_registry_that_contradicts_the_lockfile_fails_that_image_only() {
    let world = World::new();
    world.run("lock").code(0);
    let text = world.lockfile();
    let manifest = text.split("hello:1").nth(1).unwrap().split("\nmanifest = \"").nth(1).unwrap();
    let manifest = manifest.split('"').next().unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    world.change_lockfile(manifest, &other);
    let failed = world.run("apply").code(1);
    let said = format!("the registry serves another manifest than the lockfile says: {manifest} instead of");
    assert!(failed.stderr.contains(&said), "{}", failed.stderr);
    world.run(&format!("inspect {GREETER}")).code(0);
    world.run(&format!("inspect {HELLO}")).code(1);

    // Layers that are not the manifest's are no better, though the plan shows them.
    fs::write(world.path("images.lock"), &text).unwrap();
    let (before, after) = text.split_once("hello:1").unwrap();
    let (layers, rest) = after.split_once("size = ").unwrap();
    let text = format!("{before}hello:1{layers}size = 9{rest}");
    fs::write(world.path("images.lock"), text).unwrap();
    let failed = world.run("apply").code(1);
    assert!(failed.stderr.contains("the registry serves another layer than"), "{}", failed.stderr);

    // A digest that the registry does not have.
    world.run("lock").code(0);
    world.change_lockfile(&world.locked_digest(HELLO), &other);
    let failed = world.run("apply").code(1);
    assert!(failed.stderr.contains(&format!("cannot get {other}, to which")), "{}", failed.stderr);

    // What is recorded already is held against the lockfile, too.
    world.lists(&["greeter:1"], "layout = \"oci\"");
    world.run("lock").code(0);
    assert_eq!(world.run("plan --json").code(0).json()["changes"], 0);
    let text = world.lockfile();
    let manifest = text.split("\nmanifest = \"").nth(1).unwrap().split('"').next().unwrap();
    world.change_lockfile(manifest, &other);
    let planned = world.run("plan --json").code(0).json();
    assert_eq!(planned["images"][0]["action"], "update");
    assert_eq!(planned["images"][0]["reason"], "the lockfile names another manifest");
    world.run("apply").code(1);
}

#[test]
fn a_pinned_image_keeps_its_pin() {
    let world = World::new();
    world.run("lock").code(0);
    let (hello, greeter) = (world.locked_digest(HELLO), world.locked_digest(GREETER));
    world.lists(&[&format!("hello:1@{hello}")], "layout = \"oci\"");
    world.run("lock").code(0);
    world.run("plan --locked").code(0);
    world.change_lockfile(&format!("\ndigest = \"{hello}"), &format!("\ndigest = \"{greeter}"));
    let failed = world.run("plan --locked").code(1);
    assert!(failed.stderr.contains(&format!("(locked to {greeter})")), "{}", failed.stderr);
    let healed = world.run("lock --json").code(0).json();
    assert_eq!(healed["images"][0]["action"], "update");
    assert_eq!(healed["images"][0]["digest"], hello);
}

#[test]
fn the_lockfile_keeps_its_mode_and_its_symlink() {
    let world = World::new();
    world.run("lock").code(0);
    fs::create_dir(world.path("elsewhere")).unwrap();
    fs::rename(world.path("images.lock"), world.path("elsewhere/real.lock")).unwrap();
    symlink("elsewhere/real.lock", world.path("images.lock")).unwrap();
    fs::set_permissions(world.path("images.lock"), fs::Permissions::from_mode(0o640)).unwrap();
    world.lists(&["hello:1"], "layout = \"oci\"");
    world.run("lock").code(0);
    assert!(fs::symlink_metadata(world.path("images.lock")).unwrap().is_symlink());
    let metadata = fs::metadata(world.path("elsewhere/real.lock")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert!(!world.lockfile().contains("greeter"));
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 1);
}

#[test]
fn a_symlink_to_where_no_file_is_is_not_followed() {
    let world = World::new();
    fs::create_dir(world.path("elsewhere")).unwrap();
    symlink("elsewhere/new.lock", world.path("images.lock")).unwrap();
    for (arguments, code) in [("lock", 2), ("lock --check", 1), ("apply", 2), ("plan", 2), ("prune", 0)] {
        let output = world.run(arguments);
        if arguments != "prune" {
            assert!(output.stderr.contains("images.lock: it is a symbolic link to where"), "{output}");
        }
        output.code(code);
    }
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
    assert!(fs::symlink_metadata(world.path("images.lock")).unwrap().is_symlink());
}

#[test]
fn a_symlink_of_another_user_leads_to_no_lockfile() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "needs root: links of another user were NOT tried");
        return;
    }
    let world = World::new();
    world.run("lock").code(0);
    fs::rename(world.path("images.lock"), world.path("real.lock")).unwrap();
    symlink("real.lock", world.path("images.lock")).unwrap();
    world.lists(&["hello:1"], "layout = \"oci\"");
    let before = fs::read(world.path("real.lock")).unwrap();
    for path in ["images.lock", "real.lock"] {
        let owner = |id| lchown(world.path(path), Some(id), Some(id)).unwrap();
        owner(65534);
        let output = world.run("lock").code(1);
        assert!(output.stderr.contains("images.lock: it belongs to user 65534"), "{output}");
        assert_eq!(fs::read(world.path("real.lock")).unwrap(), before);
        owner(0);
    }
    world.run("lock").code(0);
    assert_ne!(fs::read(world.path("real.lock")).unwrap(), before);
}

#[test]
fn other_line_ends_are_no_change() {
    let world = World::new();
    world.run("lock").code(0);
    for change in [|text: &str| text.replace('\n', "\r\n"), |text: &str| format!("# Checked.\n{text}\n\n")] {
        let text = change(&world.lockfile());
        fs::write(world.path("images.lock"), &text).unwrap();
        let checked = world.run("lock --check").code(0);
        assert!(checked.stdout.contains("Up to date: images.lock, 2 images."), "{checked}");
        assert_eq!(world.run("lock --json").code(0).json()["changed"], false);
        assert_eq!(world.lockfile(), text, "what did not change is not rewritten");
        world.run("apply --locked").code(0);
    }
    // What does change is written as ever.
    world.lists(&["hello:1"], "layout = \"oci\"");
    world.run("lock").code(0);
    assert!(!world.lockfile().contains('\r'));
}

#[test]
fn a_killed_lock_leaves_no_file() {
    let world = World::new();
    let left = [".images.lock.1.tmp", ".images.lock.4000000.tmp"];
    let kept = [".images.lock.tmp", ".images.lock.x.tmp", ".other.lock.1.tmp"];
    for name in left.iter().chain(&kept) {
        fs::write(world.path(name), "half").unwrap();
    }
    world.run("lock --check").code(2);
    assert!(world.path(left[0]).exists(), "--check changes nothing");
    world.run("lock").code(0);
    for name in left {
        assert!(!world.path(name).exists(), "{name}");
    }
    for name in kept {
        assert!(world.path(name).exists(), "{name}");
    }
    // Also where nothing is written.
    fs::write(world.path(left[0]), "half").unwrap();
    world.run("lock").code(0);
    assert!(!world.path(left[0]).exists());

    // Killed at each of its calls that could leave something.
    if !may_trace("a killed lock was NOT tried") {
        return;
    }
    for (call, count) in [("openat", 400), ("write", 40), ("fsync", 2), ("linkat", 1), ("renameat", 1)] {
        for number in (1..=count).step_by(if count > 20 { 13 } else { 1 }) {
            let _ = fs::remove_file(world.path("images.lock"));
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let trace = format!("trace={call}");
            let program = env!("CARGO_BIN_EXE_msb-sync");
            let arguments = ["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, program, "lock"];
            world.sandbox.program("strace", &arguments).run();
            let names: Vec<String> = world.files().into_iter().map(|(name, _)| name).collect();
            // Between its name and the lockfile's the file is whole, and the next run sweeps it.
            let half = names
                .iter()
                .filter(|name| name.starts_with(".images.lock.") && !kept.contains(&name.as_str()));
            if call != "renameat" {
                assert_eq!(half.count(), 0, "killed at {call} {number}: {names:?}");
            }
        }
    }
    world.run("lock").code(0);
    assert_eq!(world.files().len(), kept.len() + 2, "{:?}", world.files());
}

#[test]
fn what_is_recorded_is_held_against_the_lockfiles_layers() {
    let world = World::new();
    world.run("lock").code(0);
    world.run("apply --locked").code(0);
    let good = world.lockfile();
    // The two layers of one image in each other's place, and one that is larger than it is.
    let rows: Vec<&str> = good.lines().filter(|line| line.trim_start().starts_with("{ digest")).collect();
    let swapped = good.replacen(rows[0], "\0", 1).replacen(rows[1], rows[0], 1).replacen('\0', rows[1], 1);
    let larger = good.replacen("size = ", "size = 1", 1);
    for text in [swapped, larger] {
        assert_ne!(text, good);
        fs::write(world.path("images.lock"), &text).unwrap();
        for arguments in ["apply --locked", "apply", "apply --offline"] {
            let output = world.run(arguments).code(1);
            assert!(
                output.stderr.contains("the catalog records another layer than the lockfile"),
                "{output}"
            );
            assert!(output.stderr.contains("hint: the lockfile was changed by other hands"), "{output}");
        }
        let planned = world.run("plan --json --locked").json();
        assert!(actions(&planned).iter().any(|(_, action)| action == "blocked"), "{planned:#}");
    }
    fs::write(world.path("images.lock"), good).unwrap();
    assert_eq!(world.run("apply --json --locked").code(0).summary()["unchanged"], 2);
}

#[test]
fn offline_repairs_nothing_and_says_so() {
    let world = World::new();
    world.run("lock").code(0);
    world.run("apply").code(0);
    let layers = world.sandbox.layers();
    let layer = fs::read_dir(&layers)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "extracted"))
        .unwrap();
    fs::remove_dir_all(&layer).unwrap();
    world.lists(&["hello:1", "greeter:1"], UNREACHABLE);
    let blocked = world.run("apply --offline --json").code(1);
    assert!(blocked.stderr.contains("--offline forbids asking its registry"), "{}", blocked.stderr);
    assert_eq!(blocked.summary()["requests"], 0);
    // From a directory it is repaired without asking anybody.
    world.lists(&["hello:1", "greeter:1"], "layout = \"oci\"");
    world.run("apply --offline --locked").code(0);
    assert!(layer.exists());
}

#[test]
fn a_locked_image_is_fetched_by_digest_and_its_tag_is_never_asked_for() {
    let sandbox = Sandbox::in_memory();
    let image = |content: &str| Image::new(&[Layer::of(&[file("f", content)])]);
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image("old")));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let locked = sandbox.msb("lock --json").run().success().json();
    registry.edit(|content| {
        let moved = content.image(&image("new"));
        content.tag("team/app:1", &moved);
    });
    registry.forget();
    let planned = sandbox.msb("plan --json").run().success().json();
    assert_eq!(registry.requests(), [""; 0]);
    assert_eq!(planned["images"][0]["digest"], locked["images"][0]["digest"]);

    let applied = sandbox.msb("apply --json").run().success().summary();
    assert_eq!(applied["downloaded_bytes"], planned["download_bytes"], "the plan was exact");
    let requests = registry.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests.iter().all(|request| request.contains("/sha256:")), "{requests:?}");

    // One HEAD tells that the tag moved; without --upgrade nobody asks.
    registry.forget();
    sandbox.msb("lock --check").run().success();
    sandbox.msb("apply --locked").run().success();
    assert_eq!(registry.requests(), [""; 0]);
    sandbox.msb("lock --upgrade --check").run().code(2);
    assert!(registry.requests()[0].starts_with("HEAD "), "{:?}", registry.requests());
}
