//! `watch` runs again when a file that it depends on changes, in every way in which files change, and for no other
//! reason: the images file and its symlinks, the lockfile, files that are named in it, layers, the catalog.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::check::{applied, listed, wanted};
use crate::support::fake_registry::{Auth, FakeRegistry};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;
use crate::support::tls::Authority;
use crate::support::watching::{LIMIT, Watching};
use crate::support::{at_once, eventually};

/// A registry with `team/app:1` to `team/app:9`, each with a layer of its own and one that all share.
fn nine() -> FakeRegistry {
    let mut content = BlobSet::default();
    let shared = Layer::of(&[file("shared", "x")]);
    for tag in 1..=9 {
        let layer = Layer::of(&[file("own", tag.to_string())]);
        let image = content.image(&Image::new(&[shared.clone(), layer]));
        content.tag(&format!("team/app:{tag}"), &image);
    }
    FakeRegistry::start(content)
}

fn app(registry: &FakeRegistry, tag: u32) -> String {
    wanted(&registry.name(), &[&format!("team/app:{tag}")])
}

fn name(registry: &FakeRegistry, tag: u32) -> String {
    format!("{}/team/app:{tag}", registry.name())
}

/// As editors do it: the new file is written beside the old one and renamed over it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_file_that_changes_in_any_way_is_applied() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    let path = sandbox.work().join("images.toml");
    sandbox.images(&app(&registry, 1));
    let watching = Watching::start(&sandbox, "--prune");
    // A run that still goes on would see the next change by chance.
    let added = |tag| {
        watching.until_done(&name(&registry, tag), "add");
        watching.settle(Duration::from_millis(400));
    };
    added(1);

    fs::write(&path, app(&registry, 2)).unwrap();
    added(2);
    replace(&path, &app(&registry, 3));
    added(3);
    fs::remove_file(&path).unwrap();
    watching.until("it says that the file is gone", |event| event["event"] == "error");
    fs::write(&path, app(&registry, 4)).unwrap();
    added(4);
    // A file becomes a symlink, whose target is written to, exchanged, and replaced by another one.
    fs::create_dir(sandbox.work().join("far")).unwrap();
    sandbox.write("far/one.toml", app(&registry, 5));
    symlink("far/one.toml", sandbox.work().join("link")).unwrap();
    fs::rename(sandbox.work().join("link"), &path).unwrap();
    added(5);
    sandbox.write("far/one.toml", app(&registry, 6));
    added(6);
    replace(&sandbox.work().join("far/one.toml"), &app(&registry, 7));
    added(7);
    sandbox.write("far/two.toml", app(&registry, 8));
    symlink("far/two.toml", sandbox.work().join("link")).unwrap();
    fs::rename(sandbox.work().join("link"), &path).unwrap();
    added(8);
    // The directory of the target goes away and comes back.
    fs::rename(sandbox.work().join("far"), sandbox.work().join("away")).unwrap();
    watching.until("it says that the target is gone", |event| {
        event["event"] == "error" && event["error"]["message"].as_str().unwrap().contains("images.toml")
    });
    sandbox.write("far/two.toml", app(&registry, 9));
    added(9);
    watching.settle(Duration::from_secs(1));
    assert_eq!(listed(&sandbox).len(), 1);
    assert_eq!(listed(&sandbox)[0]["reference"], name(&registry, 9));
    watching.stop();
}

/// How many inodes the kernel watches for this process.
fn kernel_watches(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let of = |path: std::path::PathBuf| {
        fs::read_to_string(path).unwrap_or_default().matches("inotify wd:").count()
    };
    open.map(|entry| of(entry.unwrap().path())).sum()
}

#[test]
fn a_config_map_that_kubernetes_exchanges_is_applied() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    let mount = sandbox.work().join("etc");
    // As the kubelet's atomic writer does it: a new directory, a new link, a rename, the old directory removed.
    let publish = |version: u32| {
        sandbox.write(&format!("etc/..{version}/images.toml"), app(&registry, version));
        symlink(format!("..{version}"), mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        // At times later, so that nothing but the link has changed.
        if version.is_multiple_of(2) {
            fs::remove_dir_all(mount.join(format!("..{}", version - 1))).unwrap();
        }
    };
    publish(1);
    symlink("..data/images.toml", mount.join("images.toml")).unwrap();
    let watching = Watching::start(&sandbox, "etc/images.toml");
    let mut watches = Vec::new();
    for version in 2..=9 {
        publish(version);
        watching.until_done(&name(&registry, version), "add");
        watching.settle(Duration::from_millis(300));
        watches.push(kernel_watches(watching.pid()));
    }
    // The one of the directory that is gone may still be there.
    assert!(watches.last().unwrap() <= &(watches[1] + 1), "the kernel's watches: {watches:?}");
    watching.stop();
}

#[test]
fn the_lockfile_is_watched() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    sandbox.images(&app(&registry, 1));
    sandbox.msb("lock").run().success();
    let watching = Watching::start(&sandbox, "--locked");
    let other = registry.edit(|content| content.tags["team/app:2"].clone());
    registry.edit(|content| content.tags.insert("team/app:1".to_owned(), other.clone()));
    sandbox.msb("lock --upgrade").run().success();
    watching.until_done(&name(&registry, 1), "update");
    watching.until_triggered("images.lock changed");
    assert_eq!(listed(&sandbox)[0]["digest"], other);
    fs::write(sandbox.work().join("images.lock"), "version = 1\nnonsense").unwrap();
    watching.until("the lockfile is broken", |event| {
        event["error"]["kind"] == "lockfile" && event["problems"][0]["line"].is_u64()
    });
    assert_eq!(listed(&sandbox)[0]["digest"], other, "it lost the last good state");
    watching.stop();
}

/// Off a screen every failure is one line, and its hint another.
#[test]
fn a_log_has_the_next_step_of_a_broken_lockfile() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    sandbox.images(&app(&registry, 1));
    let running = sandbox.msb("watch").timeout(LIMIT * 10).spawn();
    eventually("the first run has ended", LIMIT, || running.stderr().contains("1 added"));
    fs::write(sandbox.work().join("images.lock"), "version = 1\nnonsense").unwrap();
    eventually("the failure is told", LIMIT, || running.stderr().contains("everything stays as it is"));
    let told = running.stderr();
    let said = told.find("images.lock:2:").expect(&told);
    let hint = told.find("hint: ").expect(&told);
    assert!(said < hint, "{told}");
    running.signal(Signal::TERM);
    running.wait();
}

#[test]
fn password_files_and_roots_are_watched() {
    let sandbox = Sandbox::in_memory();
    let authority = Authority::new();
    let content = || BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("f", "x")])]));
    let auth = Auth::Basic { user: "me".to_owned(), password: "right".to_owned() };
    let registry = FakeRegistry::with(content(), Front::Tls(authority.server(&["127.0.0.1"])), auth);
    sandbox.write("ca.pem", Authority::new().pem());
    sandbox.write("password", "wrong");
    sandbox.images(&format!(
        "[registry.{:?}]\nendpoint = {:?}\nca = \"ca.pem\"\nusername = \"me\"\npassword-file = \"password\"\nimages = [\"team/app:1\"]\n",
        registry.name(),
        registry.url(),
    ));
    let watching = Watching::start(&sandbox, "");
    watching.until("the root is not trusted", |event| event["error"]["kind"] == "tls");
    replace(&sandbox.work().join("ca.pem"), &authority.pem());
    watching.until("the password is wrong", |event| event["error"]["kind"] == "unauthorized");
    sandbox.write("password", "right\n");
    watching.until_done(&format!("{}/team/app:1", registry.name()), "add");
    watching.stop();
}

#[test]
fn hosts_files_are_watched() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    registry.on(|_| Some(crate::support::fake_registry::Fault::status(404)));
    let mirror = nine();
    sandbox.images(&format!("[settings]\nhosts-dir = \"certs.d\"\n{}", app(&registry, 1)));
    let watching = Watching::start(&sandbox, "");
    let text = format!("[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.url());
    sandbox.write(&format!("certs.d/{}/hosts.toml", registry.name()), text);
    watching.until_done(&name(&registry, 1), "add");
    sandbox.write(&format!("certs.d/{}/hosts.toml", registry.name()), "nonsense");
    watching.until("a broken hosts file", |event| event["error"]["kind"] == "settings");
    watching.stop();
}

#[test]
fn an_image_layout_is_watched() {
    let sandbox = Sandbox::in_memory();
    let mut content = BlobSet::default();
    let [one, two] = ["1", "2"].map(|text| content.image(&Image::new(&[Layer::of(&[file("f", text)])])));
    content.write_layout(&sandbox.work().join("oci"), &[("app:1", &one)]);
    sandbox.images("[registry.\"vendored.local\"]\nlayout = \"oci\"\nimages = [\"app:1\"]\n");
    let watching = Watching::start(&sandbox, "");
    let moved = sandbox.work().join("moved");
    content.write_layout(&moved, &[("app:1", &two)]);
    fs::rename(moved.join("index.json"), sandbox.work().join("oci/index.json")).unwrap();
    watching.until_done("vendored.local/app:1", "update");
    watching.stop();
}

#[test]
fn layers_and_the_catalog_come_back() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    sandbox.images(&app(&registry, 1));
    let watching = Watching::start(&sandbox, "");
    let complete = sandbox.extracted();
    assert_eq!(complete.len(), 2);
    let back = |what: &str| eventually(what, LIMIT, || sandbox.extracted() == complete);

    fs::rename(sandbox.layers().join(&complete[0]), sandbox.root().join("stolen")).unwrap();
    watching.until_done(&name(&registry, 1), "repair");
    back("the layer is there again");
    watching.settle(Duration::from_millis(500));
    fs::remove_dir_all(sandbox.layers()).unwrap();
    back("the directory of layers is there again");
    watching.settle(Duration::from_millis(500));
    fs::remove_dir_all(sandbox.layers().join(&complete[1])).unwrap();
    back("a layer of the new directory is there again");
    watching.settle(Duration::from_millis(500));
    fs::remove_file(sandbox.home().join("oci.db")).unwrap();
    watching.until_triggered("oci.db is gone");
    eventually("the image is recorded again", LIMIT, || listed(&sandbox).len() == 1);
    watching.stop();
}

#[test]
fn what_changes_nothing_starts_nothing() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    sandbox.images(&app(&registry, 1));
    let watching = Watching::start(&sandbox, "--prune");
    sandbox.images(&app(&registry, 2));
    // The run removes a layer itself.
    watching.until_done(&name(&registry, 1), "remove");
    eventually("its layer is gone", LIMIT, || sandbox.extracted().len() == 2);
    watching.settle(Duration::from_secs(1));
    let runs = watching.runs();
    // Touched, read, written with the same content, neighbours, a layer that nobody wants.
    fs::File::options().append(true).open(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&app(&registry, 2));
    sandbox.write("neighbour.toml", "x");
    fs::create_dir(sandbox.layers().join("sha256:0.extracted")).unwrap();
    fs::remove_dir(sandbox.layers().join("sha256:0.extracted")).unwrap();
    sandbox.msb("list").run().success();
    sandbox.msb("verify").run().success();
    applied(&sandbox);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(watching.runs(), runs, "{:#?}", watching.events());
    watching.stop();
}

#[test]
fn a_file_that_is_being_written_is_not_read_in_the_middle() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
    let watching = Watching::start(&sandbox, "--prune");
    // Emptied at once, filled slowly: in between it is a good file that wants nothing.
    let mut open = fs::File::create(sandbox.work().join("images.toml")).unwrap();
    for line in wanted(&registry.name(), &["team/app:1", "team/app:3"]).lines() {
        std::thread::sleep(Duration::from_millis(700));
        writeln!(open, "{line}").unwrap();
    }
    drop(open);
    watching.until_done(&name(&registry, 3), "add");
    let removed =
        |event: &serde_json::Value| event["action"] == "remove" && event["reference"] == name(&registry, 1);
    assert!(!watching.events().iter().any(removed), "{:#?}", watching.events());
    watching.stop();
}

#[test]
fn a_file_that_is_written_in_place_again_and_again_is_never_taken_for_empty() {
    let sandbox = Sandbox::in_memory();
    let registry = nine();
    let text = |number: usize| format!("# {}\n{}", "x".repeat(number % 50), app(&registry, 1));
    sandbox.images(&text(0));
    let watching = Watching::start(&sandbox, "--prune --allow-empty");
    let path = sandbox.work().join("images.toml");
    let start = std::time::Instant::now();
    let mut number = 0;
    // Empty half of the time, as far as a reader can tell.
    while start.elapsed() < Duration::from_secs(5) {
        number += 1;
        let mut open = fs::File::create(&path).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        open.write_all(text(number).as_bytes()).unwrap();
        drop(open);
        std::thread::sleep(Duration::from_millis(1));
    }
    watching.settle(Duration::from_secs(1));
    let removed = |event: &serde_json::Value| event["action"] == "remove";
    assert!(!watching.events().iter().any(removed), "{:#?}", watching.events());
    // Emptied for good it is what it says.
    fs::write(&path, "").unwrap();
    watching.until_done(&name(&registry, 1), "remove");
    watching.stop();
}

#[test]
fn files_are_polled_where_the_kernel_does_not_tell() {
    // By the user's wish, and where the system has no watches left: none at all, and not for one more directory.
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let mut ways = vec![None];
    if probe.is_ok_and(|probe| probe.status.success()) {
        ways.extend([Some("inotify_init1:error=EMFILE"), Some("inotify_add_watch:error=ENOSPC")]);
    } else {
        // Seen without --nocapture too.
        let _ =
            writeln!(std::io::stderr(), "needs Debian's strace and leave to trace: only --poll was checked");
    }
    at_once(ways, |refuse: Option<&str>| {
        let sandbox = Sandbox::in_memory();
        let registry = nine();
        sandbox.images(&app(&registry, 1));
        let run = match refuse {
            None => sandbox.msb("watch --json --poll 1"),
            Some(refuse) => {
                let inject = format!("inject={refuse}");
                let arguments =
                    ["-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1,inotify_add_watch"];
                let program = env!("CARGO_BIN_EXE_msb-sync");
                let arguments = [&arguments[..], &["-e", &inject, program, "watch", "--json"]].concat();
                sandbox.program("strace", &arguments)
            }
        };
        let watching = Watching::started(run);
        let poll = watching.events()[0]["poll_ms"].as_u64();
        assert!(poll.is_some_and(|poll| poll <= 10_000), "{refuse:?}: {poll:?}");
        replace(&sandbox.work().join("images.toml"), &app(&registry, 2));
        watching.until_done(&name(&registry, 2), "add");
        for layer in sandbox.extracted() {
            fs::remove_dir_all(sandbox.layers().join(layer)).unwrap();
        }
        watching.until_done(&name(&registry, 2), "repair");
        watching.settle(Duration::from_secs(3));
        let runs = watching.runs();
        assert!(runs <= 5, "{refuse:?}: {runs} runs");
        watching.signal(rustix::process::Signal::TERM);
    });
}
