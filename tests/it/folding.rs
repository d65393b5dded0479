//! File systems that do not tell capitals, or composed letters, apart: two names that meet there refuse the layer, and
//! all others are as they are anywhere.
//!
//! ext4 with casefold where the kernel has it, else one of ours on FUSE. Where neither can be mounted the test says so.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Item, Layer, dir, file, hard, noise, symlink};
use crate::support::sandbox::Sandbox;

/// A file system that folds names.
struct Folding {
    place: PathBuf,
    server: Option<Child>,
}

impl Folding {
    fn mount(sandbox: &Sandbox) -> Option<Self> {
        let place = sandbox.root().join("folding");
        std::fs::create_dir(&place).unwrap();
        Self::ext4(sandbox, &place).or_else(|| Self::fuse(sandbox, &place)).or_else(|| {
            let words =
                "no ext4 with casefold, and no FUSE with python3-fusepy: names that meet were NOT checked";
            let _ = writeln!(std::io::stderr(), "{words}");
            None
        })
    }

    fn ext4(sandbox: &Sandbox, place: &Path) -> Option<Self> {
        let script = "truncate -s 64M \"$0.img\" && mkfs.ext4 -q -O casefold \"$0.img\" \
                      && mount -o loop \"$0.img\" \"$0\" && chattr +F \"$0\"";
        let run = |script: &str| sandbox.program("sh", &["-c", script, place.to_str().unwrap()]).run();
        // The root of a file system has something in it, and what folds names has to be empty.
        let script = script.replace("chattr +F \"$0\"", "mkdir \"$0/all\" && chattr +F \"$0/all\"");
        if run(&script).status.success() {
            return Some(Self { place: place.to_owned(), server: None });
        }
        run("umount \"$0\"");
        None
    }

    fn fuse(sandbox: &Sandbox, place: &Path) -> Option<Self> {
        let backing = sandbox.root().join("backing");
        std::fs::create_dir_all(backing.join("all")).unwrap();
        let server = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/folding.py"))
            .args([&backing, place])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut mounted = Self { place: place.to_owned(), server: Some(server) };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if place.join("ALL").is_dir() {
                return Some(mounted);
            }
            if mounted.server.as_mut().unwrap().try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn directory(&self) -> PathBuf {
        self.place.join("all")
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l".as_ref(), self.place.as_os_str()])
            .stderr(Stdio::null())
            .status();
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[test]
fn two_names_that_are_one_on_disk_refuse_the_layer() {
    let sandbox = Sandbox::new();
    let Some(disk) = Folding::mount(&sandbox) else { return };
    let (composed, decomposed) = ("\u{e9}t\u{e9}", "e\u{301}te\u{301}");
    let met: [(&str, Vec<Item>, [&str; 2]); 10] = [
        ("files", vec![file("Foo", "1"), file("foo", "2")], ["Foo", "foo"]),
        (
            "large files",
            vec![file("d/Foo", noise(1, 200_000)), file("d/fOO", noise(2, 200_000))],
            ["d/Foo", "d/fOO"],
        ),
        ("directories", vec![dir("Foo"), dir("foo")], ["Foo", "foo"]),
        ("parents", vec![file("Foo/a", "1"), file("foo/b", "2")], ["Foo", "foo"]),
        ("deep parents", vec![file("x/Foo/a", "1"), file("x/foo/y/b", "2")], ["x/Foo", "x/foo"]),
        ("symlinks", vec![symlink("Foo", "a"), symlink("foo", "b")], ["Foo", "foo"]),
        ("a hard link", vec![file("f", "1"), file("Foo", "2"), hard("foo", "f")], ["Foo", "foo"]),
        ("a link that waits", vec![file("Foo", "2"), hard("foo", "f"), file("f", "1")], ["Foo", "foo"]),
        ("a way", vec![dir("usr"), symlink("Lib", "usr"), file("lib/x", "1")], ["Lib", "lib"]),
        ("letters", vec![file(composed, "1"), file(decomposed, "2")], [composed, decomposed]),
    ];
    let good = [
        dir("Usr"),
        file("Usr/Twice", "1"),
        file("Usr/Twice", "2"),
        symlink("Link", "Usr"),
        file("Link/Through", "x"),
        hard("Usr/Waits", "Usr/Late"),
        file("Usr/Late", "x"),
        dir("Usr"),
    ];
    let mut set = BlobSet::default();
    let mut add = |name: &str, items: &[Item]| {
        let layer = Layer::of(items);
        let manifest = set.image(&Image::new(std::slice::from_ref(&layer)));
        set.tag(name, &manifest);
        layer
    };
    let mut names: Vec<String> = Vec::new();
    for (number, (_, items, _)) in met.iter().enumerate() {
        names.push(format!("case/n{number}:1"));
        add(&names[number], items);
    }
    names.push("case/good:1".to_owned());
    let layer = add("case/good:1", &good);
    let registry = FakeRegistry::start(set);
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let settings = format!("[settings]\nlayers = {:?}\n", disk.directory().join("layers"));
    sandbox.images(&(settings + &wanted(&registry.name(), &all)));
    let output = sandbox.msb("apply --json").timeout(Duration::from_secs(180)).run();
    let error = |name: &str| {
        let events =
            output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut events = events.filter(|event| event["reference"] == format!("{}/{name}", registry.name()));
        events.next().unwrap_or_else(|| panic!("no event of {name}\n{output}"))["error"].clone()
    };
    for ((what, _, both), name) in met.iter().zip(&names) {
        let error = error(name);
        let message = error["message"].as_str().unwrap_or_else(|| panic!("{what} was accepted\n{output}"));
        for one in both {
            assert!(message.contains(&format!("{one:?}")), "{what}: {one:?} is not named: {message}");
        }
        assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("layers = ")), "{what}: {error}");
    }
    assert!(error("case/good:1").is_null(), "{output}");
    let there =
        std::fs::read_dir(disk.directory().join("layers")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut there: Vec<String> = there.map(|name| name.into_string().unwrap()).collect();
    there.retain(|name| name.starts_with("sha256:"));
    assert_eq!(there, [layer.directory()]);
    sandbox.msb("verify").timeout(Duration::from_secs(60)).run().success();
}
