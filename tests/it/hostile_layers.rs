//! Layers made to get out: names, links, whiteouts, devices, numbers, headers that two readers understand
//! differently. Each is extracted exactly and inside, or refused with an error that names image, layer and entry.
//!
//! A table is one run: every case is an image of its own, so that one refused layer has to leave all others alone.
//! Around the run lie victims (directories that symlinks and dots aim at), which must not change in any way.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{
    BlobSet, Image, Item, Layer, Pack, dir, file, file_header, hard, node, noise, symlink, tar,
};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::Tree;

/// What has to become of a layer.
enum Want {
    /// It is on disk as the support's own reader understands the tar.
    Exact,
    /// It is refused, with this text in the message.
    Refused(&'static str),
    /// Exactly these paths exist.
    Paths(&'static [&'static str]),
    /// Whatever, as long as it is inside.
    Inside,
}
use Want::{Exact, Inside, Paths, Refused};

/// A kind of entry by its name, and how one called `x` is made.
type Kind = (&'static str, fn() -> Item);

struct Case {
    name: String,
    tar: Vec<u8>,
    want: Want,
}

fn case(name: impl Into<String>, items: &[Item], want: Want) -> Case {
    Case { name: name.into(), tar: tar(items), want }
}

fn raw(name: impl Into<String>, tar: Vec<u8>, want: Want) -> Case {
    Case { name: name.into(), tar, want }
}

/// A sandbox with victims where symlinks may lead.
fn arena() -> Sandbox {
    let sandbox = Sandbox::new();
    let victim = sandbox.root().join("victim");
    std::fs::create_dir_all(victim.join("dir")).unwrap();
    std::fs::write(victim.join("file"), "untouched").unwrap();
    std::os::unix::fs::symlink("file", victim.join("link")).unwrap();
    sandbox.write("neighbour", "untouched");
    sandbox
}

/// What nobody but the test may have touched.
fn outside(sandbox: &Sandbox) -> Vec<Tree> {
    ["victim", "work", "tmp"].iter().map(|part| Tree::snapshot(&sandbox.root().join(part))).collect()
}

/// Applies all cases at once and judges each.
#[track_caller]
fn judge(sandbox: &Sandbox, cases: &[Case]) {
    let mut set = BlobSet::default();
    let mut names = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        // The same tar twice must not be one layer: its fate would be told once only.
        let mut stream = case.tar.clone();
        let pack = if number % 2 == 0 { Pack::Gzip } else { Pack::Zstd };
        if !matches!(case.want, Refused(_)) {
            stream.extend([0; 512]);
            stream.extend(format!("after the end {number}").as_bytes());
        }
        let layer = Layer::packed(&stream, pack);
        let manifest = set.image(&Image::new(std::slice::from_ref(&layer)));
        let name = format!("case/n{number}:1");
        set.tag(&name, &manifest);
        names.push((name, layer));
    }
    let registry = FakeRegistry::start(set);
    let all: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    sandbox.images(&wanted(&registry.name(), &all));
    let before = outside(sandbox);
    let output = sandbox.measured("apply --json").run();
    for (before, after) in before.iter().zip(outside(sandbox)) {
        before.assert_matches(&after, "something outside changed");
    }
    output.assert_bounded(0);
    let recorded = listed(sandbox);
    let extracted = sandbox.extracted();
    let mut wrong = Vec::new();
    for (case, (name, layer)) in cases.iter().zip(&names) {
        let reference = format!("{}/{name}", registry.name());
        let verdict = verdict(sandbox, case, layer, outcome(&output, &reference).as_deref());
        wrong.extend(verdict.err().map(|reason| format!("{}: {reason}", case.name)));
        let is_here = extracted.contains(&layer.directory());
        let is_listed = recorded.iter().any(|image| image["reference"] == reference.as_str());
        if is_here != is_listed {
            wrong.push(format!("{}: on disk is {is_here}, recorded is {is_listed}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!output.stderr.contains("panicked"), "{output}");
    assert_harmless(&sandbox.home());
    assert_only_what_belongs(sandbox);
}

/// `None`: done; else the error.
#[track_caller]
fn outcome(output: &Output, reference: &str) -> Option<String> {
    let events: Vec<_> = output
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["reference"] == reference)
        .collect();
    assert_eq!(events.len(), 1, "events of {reference}\n{output}");
    (events[0]["status"] != "done").then(|| events[0]["error"]["message"].as_str().unwrap().to_owned())
}

fn verdict(sandbox: &Sandbox, case: &Case, layer: &Layer, outcome: Option<&str>) -> Result<(), String> {
    let directory = sandbox.layers().join(layer.directory());
    match (&case.want, outcome) {
        (Inside, None) => Ok(()),
        (Inside | Refused(""), Some(error)) if error.contains(&layer.digest()) => Ok(()),
        (Refused(said), Some(error)) if error.contains(said) && error.contains(&layer.digest()) => Ok(()),
        (Refused(said), Some(error)) => Err(format!("the error does not say {said:?}: {error}")),
        (Refused(_), None) => Err("was accepted".to_owned()),
        (_, Some(error)) => Err(format!("was refused: {error}")),
        (Exact, None) => {
            let lines = Tree::expected(&case.tar).differences(&Tree::of(&directory));
            if lines.is_empty() { Ok(()) } else { Err(lines.join(", ")) }
        }
        (Paths(paths), None) => {
            let mut found = Vec::new();
            walk(&directory, &mut |path, _| {
                found.push(path.strip_prefix(&directory).unwrap().to_str().unwrap().to_owned());
            });
            found.sort();
            if found == *paths { Ok(()) } else { Err(format!("has {found:?}")) }
        }
    }
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &std::fs::Metadata)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit);
        }
    }
}

/// Nothing below is special or setuid, or has an attribute that the kernel or root's tools obey.
#[track_caller]
fn assert_harmless(home: &Path) {
    walk(home, &mut |path, metadata| {
        let kind = metadata.file_type();
        let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
        assert!(!special, "{} is a special file", path.display());
        assert_eq!(metadata.mode() & 0o7000, if kind.is_symlink() { metadata.mode() & 0o7000 } else { 0 });
        let mut names = vec![0_u8; 64 * 1024];
        let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let fine = name.starts_with(b"user.") || name == b"security.selinux";
            assert!(fine, "{} has {}", path.display(), name.escape_ascii());
        }
    });
}

/// Beside what is complete, the home holds nothing of any layer.
#[track_caller]
fn assert_only_what_belongs(sandbox: &Sandbox) {
    let names = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let home = sandbox.home();
    assert_eq!(
        names(&home),
        [".layers.msb-sync", ".msb-sync.id", ".msb-sync.lock", "downloads", "layers", "oci.db"]
    );
    assert_eq!(names(&sandbox.layers()), sandbox.extracted());
    assert_eq!(names(&home.join("downloads")), [""; 0]);
    assert_eq!(names(&home.join(".layers.msb-sync/staging")), [""; 0]);
    let records: Vec<String> = names(&home.join(".layers.msb-sync/records"))
        .iter()
        .map(|name| format!("{name}.extracted"))
        .collect();
    assert_eq!(records, sandbox.extracted());
}

// ------------------------------------------------------------------------------------------------- bytes by hand

/// Changes the header at `header` from `at` on, and its checksum with it.
fn patched(mut tar: Vec<u8>, header: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
    let block = &mut tar[header..header + 512];
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

const NAME: usize = 0;
const MODE: usize = 100;
const UID: usize = 108;
const SIZE: usize = 124;
const MTIME: usize = 136;
const KIND: usize = 156;
const MAGIC: usize = 257;

/// An extension header of this kind with this content, before one file `f`.
fn extended(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = patched(file_header("extension", content.len() as u64), 0, KIND, &[kind]);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(tar(&[file("f", "x")]));
    bytes
}

/// A PAX header before one file `f`.
fn pax(records: &[u8]) -> Vec<u8> {
    extended(b'x', records)
}

/// One file `f` of `size` bytes by its header, and `content` bytes of it.
fn sized(size: &[u8; 12], content: usize) -> Vec<u8> {
    let mut bytes = patched(file_header("f", 0), 0, SIZE, size);
    bytes.extend(vec![b'x'; content]);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend([0; 1024]);
    bytes
}

// --------------------------------------------------------------------------------------------------------- tables

#[test]
fn no_name_leads_outside() {
    let sandbox = arena();
    let ups = "../".repeat(12);
    let victim = sandbox.root().join("victim");
    let victim = victim.to_str().unwrap();
    let component = |length: usize| vec![b'n'; length];
    let deep = |levels: usize| "d/".repeat(levels);
    let cases = [
        case("dots", &[file("../evil", "x")], Refused("../evil")),
        case("dots within", &[file("a/b/../../../evil", "x")], Refused("a/b/../../../evil")),
        case("dots that stay inside", &[file("a/../b", "x")], Refused("a/../b")),
        case("dots at the end", &[dir("a/..")], Refused("a/..")),
        case("far dots", &[file(format!("{ups}tmp/evil"), "x")], Refused("tmp/evil")),
        case("a directory with dots", &[dir("../evil").mode(0o777)], Refused("../evil")),
        case("a symlink with dots", &[symlink("../evil", "x")], Refused("../evil")),
        case("a hard link with dots", &[file("f", "x"), hard("../evil", "f")], Refused("../evil")),
        case("a device with dots", &[node(b'3', "../evil")], Refused("../evil")),
        case("absolute", &[file("/absolute/file", "x"), dir("/absolute/dir"), symlink("/s", "/")], Exact),
        case("the victim's own name", &[file(format!("{victim}/file"), "x"), dir(victim)], Exact),
        case("many slashes", &[file("//a///.//b//", "x"), dir("././c/.")], Exact),
        case("the root", &[dir("/").mode(0o6777), dir(".").mode(0o000)], Exact),
        case("a file for the root", &[file("./", "x")], Refused("layer directory itself")),
        case("a symlink for the root", &[symlink(".", victim)], Refused("layer directory itself")),
        case(
            "a hard link for the root",
            &[file("f", "x"), hard("/", "f")],
            Refused("layer directory itself"),
        ),
        case("no name", &[file("", "x")], Refused("layer directory itself")),
        case("a NUL", &[Item::new(b'0', "x").pax("path", b"a\0b")], Refused("NUL")),
        case("a long component", &[file(component(255), "x")], Exact),
        case("a longer one", &[file(component(300), "x")], Refused("255")),
        case("beyond PATH_MAX", &[file(format!("{}f", deep(2100)), "x")], Refused("4,095")),
        case("very deep", &[file(format!("{}f", deep(1500)), "x"), dir(deep(1500))], Exact),
        case("as deep as it gets", &[dir(deep(2000)), file(format!("{}f", deep(2040)), "x")], Inside),
        case("control characters", &[file("a\x1b[2J\n\r\t", "x")], Exact),
        case("control characters refused", &[file("../\x1b[2J", "x")], Refused("../\\u{1b}[2J")),
    ];
    // What is as deep as it gets cannot be read by path.
    let (deepest, others): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| matches!(case.want, Inside));
    judge(&sandbox, &others);
    let sandbox = arena();
    let layer = Layer::packed(&deepest[0].tar, Pack::Zstd);
    let registry =
        FakeRegistry::start(BlobSet::with("case/deep:1", &Image::new(std::slice::from_ref(&layer))));
    sandbox.images(&wanted(&registry.name(), &["case/deep:1"]));
    let before = outside(&sandbox);
    sandbox.msb("apply").run();
    for (before, after) in before.iter().zip(outside(&sandbox)) {
        before.assert_matches(&after, "something outside changed");
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let sandbox = arena();
    let victim = sandbox.root().join("victim").to_str().unwrap().to_owned();
    // From a layer's root the victim is some levels up, wherever the layer is staged.
    let mut targets = vec![victim.clone()];
    targets.extend((3..8).map(|depth| format!("{}victim", "../".repeat(depth))));
    let mut cases = Vec::new();
    for target in &targets {
        let at = |what: &str| format!("{what} ({target})");
        let (file_there, new) = (format!("{target}/file"), format!("{target}/new"));
        let s = symlink("s", target);
        cases.extend([
            case(at("through"), &[s.clone(), file("s/evil", "x")], Inside),
            case(at("through, large"), &[s.clone(), file("s/evil", noise(1, 100_000))], Inside),
            case(at("through, over"), &[s.clone(), file("s/file", "x")], Inside),
            case(at("a directory through"), &[s.clone(), dir("s/evil")], Inside),
            case(at("a symlink through"), &[s.clone(), symlink("s/evil", "x")], Inside),
            case(at("a device through"), &[s.clone(), node(b'3', "s/evil")], Inside),
            case(at("a hard link through"), &[s.clone(), file("f", ""), hard("s/evil", "f")], Inside),
            case(at("a whiteout through"), &[s.clone(), file("s/.wh.file", "")], Inside),
            case(at("an opaque mark through"), &[s.clone(), file("s/.wh..wh..opq", "")], Inside),
            case(at("deep through"), &[dir("p"), symlink("p/q", target), file("p/q/r/evil", "x")], Inside),
            case(at("chained"), &[symlink("a", target), symlink("b", "a/dir"), file("b/evil", "x")], Inside),
            case(at("over"), &[symlink("s", &file_there), file("s", "changed").mode(0o777)], Exact),
            case(at("large over"), &[symlink("s", &file_there), file("s", noise(1, 100_000))], Exact),
            case(at("over a dangling one"), &[symlink("s", &new), file("s", "x")], Exact),
            case(at("through a dangling one"), &[symlink("s", &new), file("s/x", "x")], Inside),
            case(at("a directory over"), &[s.clone(), dir("s").mode(0o777), file("s/evil", "x")], Exact),
            case(at("a device over"), &[symlink("s", &file_there), node(b'4', "s").mode(0o6777)], Exact),
            case(
                at("attributes of one"),
                &[symlink("s", &file_there).xattr("user.x", "y").xattr("security.x", "y").mode(0o4777)],
                Exact,
            ),
            case(
                at("swapped in"),
                &[dir("d"), file("d/a", "x"), symlink("d", target), file("d/evil", "x")],
                Inside,
            ),
            case(
                at("swapped in for an implied one"),
                &[file("d/e/a", "x"), symlink("d", target), file("d/dir/evil", "x")],
                Inside,
            ),
            case(
                at("swapped in and out"),
                &[dir("d"), symlink("d", target), dir("d"), file("d/inside", "x"), symlink("e", target)],
                Exact,
            ),
            case(
                at("a link for a directory that has times and modes"),
                &[dir("d").mtime(1).mode(0o711), dir("d/dir").mtime(2), symlink("d", target)],
                Exact,
            ),
            case(
                at("a hard link to what is behind"),
                &[s.clone(), hard("thief", "s/file")],
                Refused("thief"),
            ),
            case(
                at("a hard link to one, then over it"),
                &[symlink("s", &file_there), hard("h", "s"), file("h", "x"), file("s", "y")],
                Exact,
            ),
            case(
                at("a late hard link through"),
                &[hard("d/thief", "d/late"), symlink("d", target), file("other/late", "x")],
                Exact,
            ),
            case(
                at("a late target through"),
                &[hard("thief", "d/file"), symlink("d", target)],
                Refused("thief"),
            ),
        ]);
    }
    cases.extend([
        case(
            "a circle of symlinks",
            &[symlink("a", "b"), symlink("b", "a"), file("a/x", "x")],
            Refused("a/x"),
        ),
        case("a symlink to here", &[symlink("s", "."), file("s/x", "x")], Paths(&["s", "x"])),
        case(
            "links in a chain, with dots, and to what is not there",
            &[symlink("a", "/b/../c"), symlink("c", "../../d"), file("a/x", "x"), hard("y", "c/x")],
            Paths(&["a", "c", "d", "d/x", "y"]),
        ),
        case(
            "a link that is replaced",
            &[symlink("lib", "usr/lib"), file("lib/.wh.x", ""), dir("lib"), file("lib/.wh..wh..opq", "")],
            Paths(&["lib", "lib/.wh..wh..opq", "usr", "usr/lib", "usr/lib/.wh.x"]),
        ),
        case("a link to a file", &[file("f", "x"), symlink("s", "f"), file("s/x", "x")], Refused("s/x")),
        case("a magic link", &[symlink("s", "/proc/self/cwd"), file("s/evil", "x")], Inside),
        case("a magic root", &[symlink("s", "/proc/self/root"), file("s/tmp/evil", "x")], Inside),
    ]);
    judge(&sandbox, &cases);
}

#[test]
fn hard_links_join_entries_of_the_layer_only() {
    let sandbox = arena();
    let victim = sandbox.root().join("victim/file");
    let judged = [
        case("above", &[hard("thief", "../../../../victim/file")], Refused("thief")),
        case("absolute", &[hard("thief", victim.to_str().unwrap())], Refused("thief")),
        case("of the working directory", &[hard("thief", "neighbour")], Refused("thief")),
        case("of the process", &[hard("thief", "/proc/self/exe")], Refused("thief")),
        case("missing", &[hard("lonely", "missing")], Refused("lonely")),
        case("missing in a directory", &[dir("d"), hard("lonely", "d/missing")], Refused("lonely")),
        case("itself", &[hard("self", "self")], Refused("self")),
        case("a circle", &[hard("a", "b"), hard("b", "c"), hard("c", "a")], Refused("is not in the layer")),
        case("a directory", &[dir("d"), hard("l", "d")], Refused("directory")),
        case("a directory to come", &[hard("l", "d"), dir("d")], Refused("directory")),
        case("the root", &[hard("l", "./")], Refused("root")),
        case("nothing", &[hard("l", "")], Refused("root")),
        case("a NUL", &[Item::new(b'1', "l").pax("linkpath", b"f\0g")], Refused("NUL")),
        case("below a file", &[file("f", "x"), hard("l", "f/g")], Refused("\"l\"")),
        case("too long a target", &[file("f", "x"), hard("l", "d/".repeat(2100))], Refused("4,095")),
        case("a symlink", &[symlink("s", "/etc/passwd"), hard("l", "s")], Exact),
        case("forward", &[hard("a", "b"), hard("b", "c"), hard("d/e", "a"), file("c", "x")], Exact),
        case("over a directory", &[file("f", "x"), dir("d"), file("d/g", "y"), hard("d", "f")], Exact),
        case(
            "over a symlink",
            &[file("f", "x"), symlink("s", victim.to_str().unwrap()), hard("s", "f")],
            Exact,
        ),
        case(
            "to what is replaced then",
            &[file("f", "1"), hard("l", "f"), file("f", "2"), hard("m", "f")],
            Exact,
        ),
        case(
            "in a directory that is replaced",
            &[dir("d"), hard("d/l", "z"), file("d", "x"), dir("d"), file("z", "x")],
            Paths(&["d", "z"]),
        ),
        case("to a device", &[node(b'3', "n"), hard("l", "n")], Exact),
        case(
            "waiting for what waits, over a symlink",
            &[hard("b", "a"), symlink("a", "x"), hard("a", "c"), file("c", "x")],
            Paths(&["a", "b", "c"]),
        ),
        case(
            "waiting under a name that was a file",
            &[file("a", "old"), hard("a", "c"), hard("d", "a"), file("c", "new")],
            Paths(&["a", "c", "d"]),
        ),
    ];
    judge(&sandbox, &judged);
}

#[test]
fn whiteouts_are_plain_files_inside() {
    judge(
        &arena(),
        &[
            case("without a name", &[file(".wh.", "")], Exact),
            case("of here", &[file(".wh..", "")], Exact),
            case("of above", &[file(".wh...", ""), file("a/.wh...", "")], Exact),
            case("escaping", &[file(".wh./../../x", "")], Refused("..")),
            case("of an escape", &[file("a/.wh.b/../../../evil", "")], Refused("..")),
            case("opaque", &[file(".wh..wh..opq", ""), file("a/.wh..wh..opq", "")], Exact),
            case("of aufs", &[file(".wh..wh.plnk/1.2", "x"), dir(".wh..wh.orph")], Exact),
            case("a directory", &[dir(".wh.d"), file(".wh.d/e", "x")], Exact),
            case("a symlink", &[symlink(".wh.s", "/etc/passwd"), node(b'3', ".wh.n")], Exact),
            case("of a file of the same layer", &[file("f", "x"), file(".wh.f", ""), file("g", "x")], Exact),
            case(
                "as overlayfs has it",
                &[Item::new(b'3', "gone"), dir("d").xattr("user.overlay.opaque", "y")],
                Exact,
            ),
        ],
    );
}

#[test]
fn nothing_on_disk_is_special_or_privileged() {
    let capability = b"\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00";
    let mut cases = Vec::new();
    for mode in [0o4755, 0o2755, 0o6777, 0o1777, 0o7777, 0o000] {
        let items: Vec<Item> = [b'0', b'3', b'4', b'5', b'6', b'7']
            .into_iter()
            .map(|kind| Item::new(kind, format!("kind-{}", char::from(kind))).mode(mode).owner(0, 0))
            .chain([file("large", noise(1, 70_000)).mode(mode), file("kind-5/in", "x").mode(mode)])
            .collect();
        cases.push(case(format!("mode {mode:o}"), &items, Exact));
    }
    for name in [
        "user.containers.override_stat",
        "user.containers.override_symlink",
        "user.overlay.opaque",
        "user.overlay.metacopy",
        "user.fuseoverlayfs.override_stat",
        "user.vm.stat",
        "security.capability",
        "security.selinux",
        "security.ima",
        "trusted.overlay.opaque",
        "system.posix_acl_access",
        "User.x",
        "",
    ] {
        let value: &[u8] = if name == "security.capability" { capability } else { b"0:0:0104755" };
        let items = [
            file("small", "x").xattr(name, value).mode(0o755),
            file("large", noise(1, 70_000)).xattr(name, value),
            dir("d").xattr(name, value),
            symlink("s", "small").xattr(name, value),
            node(b'3', "n").xattr(name, value),
        ];
        cases.push(case(format!("xattr {name}"), &items, Exact));
    }
    let twice = [dir("d").xattr("user.a", "1"), dir("d").xattr("user.b", "2"), file("d/f", "x")];
    cases.push(case("xattrs of a directory that comes twice", &twice, Exact));
    for (what, name, value) in [
        ("an xattr that is too large", "user.large".to_owned(), vec![b'x'; 100_000]),
        ("an xattr with too long a name", format!("user.{}", "n".repeat(300)), vec![b'x']),
        ("an xattr without a name", "user.".to_owned(), vec![b'x']),
    ] {
        cases.push(case(what, &[file("f", "x").xattr(&name, value)], Refused("\"f\"")));
    }
    cases.push(case("an unknown kind", &[Item::new(b'Z', "f")], Refused("unknown entry type")));
    cases.push(case("a GNU volume label", &[Item::new(b'V', "f")], Refused("unknown entry type")));
    cases.push(case("a multi-volume file", &[Item::new(b'M', "f")], Refused("unknown entry type")));
    judge(&arena(), &cases);
}

#[test]
fn a_later_entry_replaces_one_of_any_kind() {
    let kinds: [Kind; 8] = [
        ("file", || file("x", "content")),
        ("large file", || file("x", noise(3, 70_000))),
        ("directory", || dir("x").mode(0o700)),
        ("symlink", || symlink("x", "../../../../../victim/file")),
        ("hard link", || hard("x", "other")),
        ("late hard link", || hard("x", "later")),
        ("device", || node(b'3', "x").mode(0o666)),
        ("fifo", || node(b'6', "x").mode(0o622)),
    ];
    let mut cases = Vec::new();
    for (first, make_first) in kinds {
        for (second, make_second) in kinds {
            let mut items = vec![file("other", "other"), make_first()];
            if first == "directory" {
                items.extend([file("x/inside", "x"), dir("x/more"), file("x/more/inside", "x")]);
            }
            items.extend([make_second(), file("later", "later")]);
            cases.push(case(format!("{second} over {first}"), &items, Exact));
        }
    }
    judge(&arena(), &cases);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn extensions_mean_what_they_mean_to_other_readers() {
    let smuggled = tar(&[file("smuggled", "x")]);
    // A file whose content is a tar. Headers: PAX at 0, its records at 512, the file's own at 1024.
    let nested = |pax_size: &str| tar(&[file("f", &smuggled).pax("size", pax_size)]);
    let full = smuggled.len().to_string();
    let gnu = |kind: u8, text: Vec<u8>| extended(kind, &text);
    let record = |text: &str| pax(format!("{} {text}\n", text.len() + 4).as_bytes());
    judge(
        &arena(),
        &[
            // CVE-2025-62518: a reader that believes the ustar size takes the content for entries.
            raw(
                "a PAX size over a ustar size of 0",
                patched(nested(&full), 1024, SIZE, b"00000000000\0"),
                Exact,
            ),
            raw("a PAX size of 0 over a ustar size", nested("0"), Paths(&["f", "smuggled"])),
            raw("a PAX size of 0 over a ustar size of 0", tar(&[file("f", "").pax("size", "0")]), Exact),
            raw("a PAX size that is none", nested("1x"), Refused("\"f\"")),
            raw("a negative PAX size", nested("-1"), Refused("\"f\"")),
            raw("a PAX size of 8 EiB", nested("9223372036854775808"), Refused("\"f\"")),
            raw("a PAX size of nearly 8 EiB", nested("9223372036854775807"), Refused("")),
            raw("a PAX size that lies", nested("99999"), Refused("the archive ends")),
            case("a PAX path over a name", &[file("f", "x").pax("path", "g/h")], Exact),
            case("a PAX path with dots", &[file("f", "x").pax("path", "../g")], Refused("../g")),
            case("an empty PAX path", &[file("f", "x").pax("path", "")], Paths(&["f"])),
            case("a PAX linkpath", &[hard("l", "f").pax("linkpath", "g"), file("g", "x")], Exact),
            case(
                "a PAX linkpath outside",
                &[hard("l", "f").pax("linkpath", "../../f"), file("f", "")],
                Refused("\"l\""),
            ),
            case("PAX owners", &[file("f", "x").pax("uid", "4294967295").pax("gid", "0")], Exact),
            case(
                "a PAX uid beyond all bounds",
                &[file("f", "x").pax("uid", "99999999999999999999")],
                Refused("\"f\""),
            ),
            case("a negative PAX uid", &[file("f", "x").pax("uid", "-1")], Refused("\"f\"")),
            case("a PAX mtime", &[file("f", "x").pax("mtime", "1.5")], Inside),
            case("a PAX mtime that is none", &[file("f", "x").pax("mtime", "NaN")], Refused("\"f\"")),
            case("a PAX mtime with an exponent", &[file("f", "x").pax("mtime", "1e9")], Refused("\"f\"")),
            case("a PAX mtime far away", &[file("f", "x").pax("mtime", "9223372036854775807")], Inside),
            case(
                "a PAX mtime farther away",
                &[file("f", "x").pax("mtime", "99999999999999999999")],
                Refused("\"f\""),
            ),
            case("a PAX mtime before all", &[file("f", "x").pax("mtime", "-9223372036854775807.5")], Inside),
            raw("records: no length", pax(b"path=evil\n"), Refused("PAX")),
            raw("records: too long", pax(b"99 path=evil\n"), Refused("PAX")),
            raw("records: too short", pax(b"5 path=evil\n"), Refused("PAX")),
            raw("records: length 0", pax(b"0 path=evil\n"), Refused("PAX")),
            raw("records: a huge length", pax(b"18446744073709551629 path=evil\n"), Refused("PAX")),
            raw("records: a negative length", pax(b"-13 path=evil\n"), Refused("PAX")),
            raw("records: endless digits", pax(&[b'1'; 400]), Refused("PAX")),
            raw("records: no end", pax(b"12 path=evil"), Refused("PAX")),
            raw("records: no equals", pax(b"8 patht\n"), Refused("PAX")),
            raw("records: no key", pax(b"8 =evil\n"), Refused("PAX")),
            raw("records: a NUL in a key", pax(b"10 a\0b=cd\n"), Refused("PAX")),
            raw("records: a key nobody knows", record("MSB.x=1"), Paths(&["f"])),
            raw(
                "records of 300 MB",
                {
                    let mut bytes = patched(file_header("extension", 300_000_000), 0, KIND, b"x");
                    bytes.resize(4 << 20, b'1');
                    bytes
                },
                Refused("extension header"),
            ),
            raw(
                "records without an entry",
                pax(b"11 path=ab\n")[..1024].to_vec(),
                Refused("extension header"),
            ),
            raw("global records that name", extended(b'g', b"13 path=evil\n"), Refused("global")),
            raw("global records that size", extended(b'g', b"10 size=9\n"), Refused("global")),
            raw("global records that comment", extended(b'g', b"13 comment=x\n"), Paths(&["f"])),
            raw("a GNU name", gnu(b'L', b"long/name\0".to_vec()), Paths(&["long", "long/name"])),
            raw("a GNU name without its NUL", gnu(b'L', b"name".to_vec()), Paths(&["name"])),
            raw("a GNU name with dots", gnu(b'L', b"../evil\0".to_vec()), Refused("../evil")),
            raw("an empty GNU name", gnu(b'L', b"\0".to_vec()), Inside),
            raw("a GNU name beyond PATH_MAX", gnu(b'L', "d/".repeat(2100).into_bytes()), Refused("4,095")),
            raw("a GNU name of 2 MiB", gnu(b'L', vec![b'n'; 2 << 20]), Refused("extension header")),
            raw("a GNU link", gnu(b'K', b"anything\0".to_vec()), Paths(&["f"])),
            raw(
                "a GNU sparse file of no GNU",
                patched(tar(&[file("f", "x")]), 0, KIND, b"S"),
                Refused("sparse"),
            ),
            case(
                "a PAX sparse file whose map is cut off",
                &[file("f", "1\n0\n1\nx")
                    .pax("GNU.sparse.major", "1")
                    .pax("GNU.sparse.minor", "0")
                    .pax("GNU.sparse.realsize", "99")],
                Refused("sparse"),
            ),
            case(
                "a PAX sparse file without its size",
                &[file("f", "x").pax("GNU.sparse.map", "0,1")],
                Refused("sparse"),
            ),
        ],
    );
}

#[test]
fn headers_and_ends_are_read_as_other_readers_do_or_refused() {
    let two = || tar(&[file("a", noise(1, 5000)), file("b", "x")]);
    let one = || tar(&[file("f", "x")]);
    let without_end = |mut tar: Vec<u8>| {
        tar.truncate(tar.len() - 1024);
        tar
    };
    let spaced = |field: &[u8; 12]| sized(field, 10);
    // The end marker, then more entries: they are data after the end.
    let hidden = |zeros: usize| [without_end(one()), vec![0; zeros], tar(&[file("hidden", "x")])].concat();
    let mut checksum = one();
    checksum[0] ^= 1;
    let mut blank_checksum = one();
    blank_checksum[148..156].fill(b' ');
    let ones = [0xff_u8; 12];
    let judged = [
        raw("octal with blanks", spaced(b"        12 \0"), Exact),
        raw("octal to the brim", spaced(b"000000000012"), Exact),
        raw("base 256", spaced(b"\x80\0\0\0\0\0\0\0\0\0\0\x0a"), Exact),
        raw("a size that is empty", sized(&[0; 12], 0), Exact),
        raw("a size that is text", spaced(b"ten bytes\0\0\0"), Refused("size")),
        raw("a size in hex", spaced(b"0x0000000a\0\0"), Refused("size")),
        raw("a size with a sign", spaced(b"-0000000012\0"), Refused("size")),
        raw("a negative base 256", sized(&ones, 10), Refused("size")),
        raw("8 EiB", sized(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", 10), Refused("size")),
        raw(
            "beyond all bounds",
            sized(b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10),
            Refused("size"),
        ),
        raw(
            "nearly 8 EiB",
            sized(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 10),
            Refused("the archive ends"),
        ),
        raw("more than there is", sized(b"00000077777\0", 100), Refused("the archive ends")),
        raw("less than there is", patched(two(), 0, SIZE, b"00000000001\0"), Refused("broken tar")),
        raw("a mode that is none", patched(one(), 0, MODE, b"rwxr-xr\0"), Refused("mode")),
        raw("a mode with a file type", patched(one(), 0, MODE, b"0120777\0"), Inside),
        raw("a uid that is none", patched(one(), 0, UID, b"root\0\0\0\0"), Refused("uid")),
        raw("a negative uid", patched(one(), 0, UID, &[0xff; 8]), Refused("uid")),
        raw("an mtime that is none", patched(one(), 0, MTIME, b"yesterday\0\0\0"), Refused("mtime")),
        raw("an mtime before 1970", patched(one(), 0, MTIME, &[0xff; 12]), Paths(&["f"])),
        raw("a name without a NUL", patched(one(), 0, NAME, &[b'n'; 100]), Exact),
        raw("a name with a NUL", patched(one(), 0, NAME, b"f\0g"), Exact),
        raw("a wrong checksum", checksum, Refused("checksum")),
        raw("no checksum", blank_checksum, Refused("checksum")),
        raw("a v7 file", patched(one(), 0, MAGIC, &[0; 8]), Exact),
        raw("a v7 file of kind NUL", patched(patched(one(), 0, MAGIC, &[0; 8]), 0, KIND, b"\0"), Exact),
        raw(
            "a v7 directory",
            patched(patched(tar(&[file("d/", "")]), 0, MAGIC, &[0; 8]), 0, KIND, b"\0"),
            Paths(&["d"]),
        ),
        raw("a GNU header", patched(one(), 0, MAGIC, b"ustar  \0"), Exact),
        raw("a prefix", patched(one(), 0, 345, b"some/prefix"), Exact),
        raw("a prefix with dots", patched(one(), 0, 345, b"../.."), Refused("../../f")),
        raw(
            "a prefix that GNU has not",
            patched(patched(one(), 0, MAGIC, b"ustar  \0"), 0, 345, b"../.."),
            Paths(&["f"]),
        ),
        raw(
            "a link with a size",
            patched([tar(&[file("f", "x"), symlink("s", "f")])].concat(), 1024, SIZE, b"00000001000\0"),
            Exact,
        ),
        raw("a directory with a size", patched(tar(&[dir("d")]), 0, SIZE, b"00000001000\0"), Paths(&["d"])),
        raw("one zero block between entries", hidden(512), Refused("zero block")),
        raw("two zero blocks between entries", hidden(1024), Paths(&["f"])),
        raw("an end like a whole archive", [one(), two()].concat(), Paths(&["f"])),
        raw("an end twice", [one(), vec![0; 10240]].concat(), Paths(&["f"])),
        raw("noise", noise(4, 4096), Refused("broken tar")),
        raw("text", b"<html>no tar</html>".repeat(100), Refused("broken tar")),
        raw("cut in a file", two()[..3000].to_vec(), Refused("the archive ends")),
        raw("cut in a header", two()[..5632 + 100].to_vec(), Refused("the archive ends")),
        raw("nothing", vec![0; 1024], Paths(&[])),
    ];
    // These end with the stream: nothing may follow them.
    let bare = [
        raw("no end", without_end(one()), Refused("")),
        raw("half an end", one()[..one().len() - 512].to_vec(), Refused("")),
        raw("no padding", without_end(one())[..513].to_vec(), Refused("")),
    ];
    judge(&arena(), &judged);
    let sandbox = arena();
    let mut set = BlobSet::default();
    for (number, case) in bare.iter().enumerate() {
        let manifest = set.image(&Image::new(&[Layer::packed(&case.tar, Pack::Gzip)]));
        set.tag(&format!("case/n{number}:1"), &manifest);
    }
    let registry = FakeRegistry::start(set);
    sandbox.images(&wanted(&registry.name(), &["case/n0:1", "case/n1:1", "case/n2:1"]));
    sandbox.msb("apply").run().success();
    for case in bare {
        let directory = sandbox.layers().join(Layer::packed(&case.tar, Pack::Gzip).directory());
        assert_eq!(std::fs::read_to_string(directory.join("f")).unwrap(), "x", "{}", case.name);
    }
}

// ------------------------------------------------------------------------------------------------- what they cost

/// Applies a layer with this setting, measured.
#[track_caller]
fn cost(sandbox: &Sandbox, tar: &[u8], settings: &str) -> Output {
    let layer = Layer::packed(tar, Pack::Zstd);
    let registry = FakeRegistry::start(BlobSet::with("case/cost:1", &Image::new(&[layer])));
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["case/cost:1"])));
    sandbox.measured("apply").run()
}

#[test]
fn what_entries_carry_beside_content_counts_against_memory() {
    let value = vec![b'v'; 60_000];
    let items: Vec<Item> = (0..150)
        .map(|number| {
            (0..16)
                .fold(file(format!("f{number}"), ""), |item, key| item.xattr(&format!("user.k{key}"), &value))
        })
        .collect();
    let output = cost(&arena(), &tar(&items), "");
    output.assert_bounded(0);
}

#[test]
fn hard_links_that_wait_count_against_memory() {
    let long = ["n".repeat(250), "m".repeat(250), "o".repeat(250), "p".repeat(250)].join("/");
    let mut items = vec![file(format!("{long}/f"), "x")];
    items.extend((0..25_000).map(|number| hard(format!("{long}/{number}"), format!("{long}/f"))));
    let output = cost(&arena(), &tar(&items), "").success();
    output.assert_bounded(0);
}

#[test]
fn directories_that_names_ask_for_count_as_entries() {
    let items = [file(format!("{}f", "d/".repeat(400)), "x"), file(format!("{}f", "e/".repeat(400)), "x")];
    let sandbox = arena();
    let output = cost(&sandbox, &tar(&items), "[settings.limits]\nlayer-entries = 500\n").code(1);
    assert!(output.stderr.contains("more than 500 entries"), "{output}");
    assert_eq!(sandbox.extracted(), [""; 0]);
    cost(&sandbox, &tar(&items), "[settings.limits]\nlayer-entries = 1000\n").success();
}

#[test]
fn many_layers_need_few_open_files() {
    let layers: Vec<Layer> =
        (0..500).map(|number| Layer::of(&[file(format!("f{number}"), number.to_string())])).collect();
    let sandbox = arena();
    let registry = FakeRegistry::start(BlobSet::with("case/open:1", &Image::new(&layers)));
    sandbox.images(&wanted(&registry.name(), &["case/open:1"]));
    let script = "ulimit -n 300; exec \"$@\"";
    sandbox.program("sh", &["-c", script, "sh", env!("CARGO_BIN_EXE_msb-sync"), "apply"]).run().success();
    assert_eq!(sandbox.extracted().len(), 500);
}

#[test]
fn many_directories_need_few_open_files() {
    let items: Vec<Item> = (0..3000).map(|number| file(format!("d{number}/f"), "x")).collect();
    let sandbox = arena();
    let layer = Layer::of(&items);
    let registry = FakeRegistry::start(BlobSet::with("case/open:1", &Image::new(&[layer])));
    sandbox.images(&wanted(&registry.name(), &["case/open:1"]));
    let script = "ulimit -n 400; exec \"$@\"";
    sandbox
        .program("sh", &["-c", script, "sh", env!("CARGO_BIN_EXE_msb-sync"), "apply", "-j", "1"])
        .run()
        .success();
}
