//! What stands in the way of a removal or a replacement: mounts, immutable files, closed directories, file systems that
//! can do less than others. Nothing behind a mount is ever touched, one layer that cannot be placed fails alone, and no
//! leftover ends a run.
//!
//! Mounts are made in a mount namespace of their own, which goes with the program that is run in it. Where a test may
//! not make one, or not make a file immutable, it says so, and that case is not checked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::check::{applied, assert_exact, event, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file};
use crate::support::sandbox::{Output, Run, Sandbox};
use crate::support::{may_trace, tool_command};

const MSB: &str = env!("CARGO_BIN_EXE_msb-sync");
/// The exit code of a script that may not mount.
const MAY_NOT: i32 = 77;
/// A user that owns nothing here.
const NOBODY: u32 = 65534;
/// Takes the processes out of sight, and with them who uses what.
const NO_PROC: &str = " && mount -t tmpfs none /proc";

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `msb-sync` after a shell script, which sees `places` as `$1` and so on, in a mount namespace of their own; `None`
/// (and a word on stderr) where that is not allowed.
fn with_mounts(sandbox: &Sandbox, script: &str, places: &[&Path], arguments: &str) -> Option<Output> {
    let script = format!("{{ {script}; }} || exit {MAY_NOT}\nexec {MSB} {arguments}");
    let namespaces = [&["-m"][..], &["-r", "-m"]];
    for namespace in namespaces {
        let mut all = [namespace, &["sh", "-c", &script, "sh"]].concat();
        all.extend(places.iter().map(|place| place.to_str().unwrap()));
        let output = sandbox.program("unshare", &all).run();
        if output.status.code() != Some(MAY_NOT) && !output.stderr.starts_with("unshare: ") {
            return Some(output);
        }
    }
    say("may not mount: what is mounted in layers was NOT checked");
    None
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file or directory that nobody may change, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// `None`, and a word on stderr, where that is not allowed.
    fn make(path: &Path) -> Option<Self> {
        let made = Command::new("chattr").arg("+i").arg(path).output();
        if made.is_ok_and(|made| made.status.success()) {
            return Some(Self(path.to_owned()));
        }
        say("may not make files immutable: they were NOT checked");
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
    }
}

/// Images `a:1`, `b:1` and `c:1`, each of the layer of its name.
struct Shop {
    sandbox: Sandbox,
    registry: FakeRegistry,
}

fn layer(name: &str) -> Layer {
    Layer::of(&[dir("data"), file("data/f", name), file("conf", name.repeat(50)), dir("deep/er")])
}

impl Shop {
    fn new(applied_images: &[&str]) -> Self {
        let mut content = BlobSet::default();
        for name in ["a", "b", "c"] {
            let manifest = content.image(&Image::new(&[layer(name)]));
            content.tag(&format!("{name}:1"), &manifest);
        }
        let shop = Self { sandbox: Sandbox::new(), registry: FakeRegistry::start(content) };
        if !applied_images.is_empty() {
            shop.want(applied_images);
            applied(&shop.sandbox);
            shop.registry.forget();
        }
        shop
    }

    fn want(&self, images: &[&str]) {
        self.sandbox.images(&wanted(&self.registry.name(), images));
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.name())
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.sandbox.layers().join(layer(name).directory())
    }

    fn private(&self, name: &str) -> PathBuf {
        self.sandbox.home().join(".layers.msb-sync").join(name)
    }

    fn staged(&self) -> Vec<String> {
        let entries = fs::read_dir(self.private("staging")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[track_caller]
    fn assert_exact(&self, images: &[&str]) {
        let all = listed(&self.sandbox);
        assert_eq!(all.len(), images.len(), "{all:#?}");
        let blobs = self.registry.edit(|content| content.blobs.clone());
        for image in all {
            assert_exact(&image, &|digest| blobs[digest].to_vec());
        }
    }
}

#[test]
fn temporary_files_of_engines_that_cannot_be_removed_stay_ours() {
    let shop = Shop::new(&["a:1"]);
    let left = shop.sandbox.home().join("tmp");
    fs::create_dir(&left).unwrap();
    for name in [".msb-sync", "copy1", "copy2", "copy3", "copy4"] {
        fs::write(left.join(name), "of an archive").unwrap();
    }
    let Some(fixed) = Immutable::make(&left.join("copy3")) else { return };
    for _ in 0..2 {
        let output = shop.sandbox.msb("apply").run().success();
        output.says("temporary files of engines stay").says("copy3");
        let mut names: Vec<_> =
            fs::read_dir(&left).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".msb-sync", "copy3"]);
    }
    drop(fixed);
    let output = shop.sandbox.msb("apply").run().success();
    assert!(!left.exists() && output.stderr.is_empty(), "{output}");
}

/// Each verb that replaces or removes, with something of somebody else's mounted on a directory or a file of the layer,
/// or on the layer: that something is untouched, the layer keeps its place, all else is done, and a later run does the
/// rest. Who uses a layer is out of sight where /proc is.
#[test]
fn what_is_mounted_in_a_layer_is_nobodys_to_remove() {
    let mounts = [
        "mount --bind \"$1\" \"$2/data\"",
        "mount --bind \"$1/f\" \"$2/conf\"",
        "mount --bind \"$1\" \"$2\"",
    ];
    for (verb, mount) in ["verify --repair", "apply", "apply --prune", "prune", "forget"]
        .iter()
        .flat_map(|verb| mounts.map(|mount| (*verb, mount)))
    {
        let what = format!("{verb} after {mount}");
        let shop = Shop::new(&["a:1", "b:1"]);
        let precious = shop.sandbox.root().join("precious");
        fs::create_dir_all(precious.join("below/er")).unwrap();
        fs::write(precious.join("f"), "precious").unwrap();
        let place = shop.directory("a");
        let replaces = matches!(verb, "verify --repair" | "apply");
        match verb {
            "verify --repair" => fs::write(place.join("data/f"), "damaged").unwrap(),
            "apply" => {
                fs::remove_file(shop.private("records").join(layer("a").digest())).unwrap();
                shop.want(&["a:1", "b:1", "c:1"]);
            }
            _ => shop.want(&["b:1"]),
        }
        let script = format!("{mount}{}", if replaces { "" } else { NO_PROC });
        let arguments =
            if verb == "forget" { format!("forget {}", shop.name("a:1")) } else { verb.to_owned() };
        let Some(output) = with_mounts(&shop.sandbox, &script, &[&precious, &place], &arguments) else {
            return;
        };
        assert_eq!(fs::read_to_string(precious.join("f")).unwrap(), "precious", "{what}\n{output}");
        assert!(precious.join("below/er").is_dir(), "{what}\n{output}");
        assert!(place.join("conf").is_file() && place.join("data").is_dir(), "{what}\n{output}");
        let told = format!("{}{}", output.stdout, output.stderr);
        assert!(told.contains("mounted at"), "{what}\n{output}");
        assert_eq!(output.status.code(), Some(i32::from(replaces)), "{what}\n{output}");
        // What was fetched to replace it waits.
        assert_eq!(shop.staged().len(), usize::from(replaces), "{what}\n{output}");
        if verb == "apply" {
            assert!(shop.directory("c").is_dir(), "{what}\n{output}");
        }
        shop.registry.forget();
        shop.sandbox.msb(if replaces { verb } else { "prune" }).run().success();
        match verb {
            "verify --repair" => shop.assert_exact(&["a", "b"]),
            "apply" => shop.assert_exact(&["a", "b", "c"]),
            _ => {
                shop.assert_exact(&["b"]);
                assert!(!place.exists(), "{what}");
            }
        }
        assert_eq!(shop.registry.sent("/blobs/"), 0, "{what}");
        assert!(shop.staged().is_empty(), "{what}");
    }
}

/// Kernels before 5.8 tell the mount of a file in /proc only, and those before 5.6 cannot open within one.
#[test]
fn mounts_show_without_the_calls_of_new_kernels() {
    if !may_trace("mounts on old kernels were NOT checked") {
        return;
    }
    for mount in ["mount --bind \"$1\" \"$2/data\"", "mount --bind \"$1/f\" \"$2/conf\""] {
        let shop = Shop::new(&["a:1"]);
        let precious = shop.sandbox.root().join("precious");
        fs::create_dir_all(precious.join("below")).unwrap();
        fs::write(precious.join("f"), "precious").unwrap();
        let place = shop.directory("a");
        fs::write(place.join("deep/more"), "damaged").unwrap();
        let script = format!(
            "{mount} && exec strace -f -qq -o /dev/null -e inject=statx,openat2:error=ENOSYS {MSB} verify --repair"
        );
        let Some(output) = with_mounts(&shop.sandbox, &script, &[&precious, &place], "") else { return };
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(output.stdout.contains("mounted at"), "{output}");
        assert_eq!(fs::read_to_string(precious.join("f")).unwrap(), "precious", "{output}");
        assert!(precious.join("below").is_dir() && place.join("deep/more").is_file(), "{output}");
    }
}

/// Not even root may look at another user's FUSE mount.
#[test]
fn a_mount_that_only_its_user_may_look_at_is_one() {
    let shop = Shop::new(&["a:1"]);
    let place = shop.directory("a");
    fs::write(place.join("deep/more"), "damaged").unwrap();
    let script = "( : <>/dev/fuse ) && exec 3<>/dev/fuse && mount -i -t fuse \
                  -o fd=3,rootmode=40000,user_id=65534,group_id=65534 none \"$1/data\"";
    let Some(output) = with_mounts(&shop.sandbox, script, &[&place], "verify --repair") else { return };
    let output = output.code(1);
    assert!(output.stdout.contains("mounted at"), "{output}");
    assert_eq!(fs::read_to_string(place.join("deep/more")).unwrap(), "damaged");
    assert!(place.join("data").is_dir());
}

/// What is mounted in something that a dead run left stays with it, and ends no run.
#[test]
fn what_is_mounted_in_a_leftover_stays() {
    let shop = Shop::new(&["a:1"]);
    let precious = shop.sandbox.root().join("precious");
    fs::create_dir_all(precious.join("below")).unwrap();
    let leftover = shop.private("staging").join(layer("b").digest());
    fs::create_dir_all(leftover.join("tree/d/mnt")).unwrap();
    fs::write(leftover.join("tree/d/f"), "half").unwrap();
    shop.want(&["a:1", "b:1"]);
    let script = "mount --bind \"$1\" \"$2\"";
    let place = leftover.join("tree/d/mnt");
    let Some(output) = with_mounts(&shop.sandbox, script, &[&precious, &place], "apply") else { return };
    assert_eq!(output.status.code(), Some(0), "{output}");
    assert!(output.stderr.contains(&format!("something is mounted at {}", place.display())), "{output}");
    assert!(precious.join("below").is_dir() && !leftover.join("tree/d/f").exists(), "{output}");
    shop.assert_exact(&["a", "b"]);
    shop.sandbox.msb("prune").run().success();
    assert!(shop.staged().is_empty(), "{:?}", shop.staged());
}

/// The images of a layer whose name is taken fail, the others of its group do not, and it is fetched once.
#[test]
fn a_layer_that_cannot_be_placed_fails_alone_and_is_not_fetched_again() {
    let check = |shop: &Shop, first: bool, output: &Output| {
        let failed = event(output, &shop.name("a:1"));
        assert_eq!(failed["status"], "failed", "{output}");
        let place = shop.directory("a");
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(message.contains(place.to_str().unwrap()) && failed["error"]["hint"].is_string(), "{output}");
        assert_eq!(output.summary()["failed"], 1, "{output}");
        assert_eq!(output.status.code(), Some(1), "{output}");
        shop.assert_exact(&["b", "c"]);
        let size = layer("a").blob.len() as u64;
        assert_eq!(shop.registry.sent(&layer("a").digest()), if first { size } else { 0 }, "{output}");
        shop.registry.forget();
        failed["error"]["kind"].as_str().unwrap().to_owned()
    };
    let all = ["a:1", "b:1", "c:1"];
    let shop = Shop::new(&[]);
    shop.want(&all);
    let place = shop.directory("a");
    fs::create_dir_all(&place).unwrap();
    for first in [true, false] {
        let Some(output) =
            with_mounts(&shop.sandbox, "mount -t tmpfs none \"$1\"", &[&place], "apply --json")
        else {
            return;
        };
        assert_eq!(check(&shop, first, &output), "in-use", "{output}");
    }
    applied(&shop.sandbox);
    shop.assert_exact(&["a", "b", "c"]);
    assert_eq!(shop.registry.sent(&layer("a").digest()), 0);

    let shop = Shop::new(&[]);
    shop.want(&all);
    let place = shop.directory("a");
    fs::create_dir_all(&place).unwrap();
    let Some(immutable) = Immutable::make(&place) else { return };
    for first in [true, false] {
        let output = shop.sandbox.msb("apply --json").run();
        assert_eq!(check(&shop, first, &output), "permission", "{output}");
        assert!(output.stdout.contains("chattr"), "{output}");
    }
    drop(immutable);
    applied(&shop.sandbox);
    shop.assert_exact(&["a", "b", "c"]);
    assert_eq!(shop.registry.sent(&layer("a").digest()), 0);
    assert!(shop.staged().is_empty());
}

/// What dead runs left and cannot be removed stops neither apply nor repair nor prune, under the very names that
/// they need; it is told, and goes as soon as it can.
#[test]
fn no_leftover_ends_a_run() {
    let shop = Shop::new(&["a:1", "b:1"]);
    let (a, c) = (layer("a").digest(), layer("c").digest());
    let staging = shop.private("staging");
    let mut fixed = Vec::new();
    for name in [c.clone(), format!("removed-{a}"), "garbage".to_owned(), a.clone()] {
        fs::create_dir_all(staging.join(&name).join("tree/d")).unwrap();
        fs::write(staging.join(&name).join("tree/d/f"), "half").unwrap();
        fs::write(staging.join(&name).join("tree/g"), "half").unwrap();
        let Some(immutable) = Immutable::make(&staging.join(&name).join("tree/d/f")) else { return };
        fixed.push(immutable);
    }
    // The blob of a layer that is there, and of no use any more.
    let spool = shop.sandbox.home().join("downloads").join(format!("{}.part", layer("b").digest()));
    fs::write(&spool, "x").unwrap();
    fixed.push(Immutable::make(&spool).unwrap());
    let told = |output: &Output, names: &[&str]| {
        for name in names {
            assert!(output.stderr.contains(name) || output.stdout.contains(name), "{name}\n{output}");
        }
    };
    shop.want(&["a:1", "b:1", "c:1"]);
    let output = shop.sandbox.msb("apply").run().success();
    told(&output, &["staging/garbage", &format!("removed-{a}"), "lsattr", ".part"]);
    shop.assert_exact(&["a", "b", "c"]);
    fs::write(shop.directory("a").join("data/f"), "damaged").unwrap();
    shop.sandbox.msb("verify --repair").run().success();
    shop.want(&["b:1", "c:1"]);
    let output = shop.sandbox.msb("prune").run().success();
    told(&output, &["staging/garbage", "lsattr", &a, &c]);
    shop.assert_exact(&["b", "c"]);
    assert!(!shop.directory("a").exists());
    for name in shop.staged() {
        assert!(!staging.join(&name).join("tree/g").exists(), "{name}: what could go is still there");
    }
    drop(fixed);
    let document = shop.sandbox.msb("prune --json").run().success().json();
    assert_eq!(document["kept"], Value::Array(Vec::new()), "{document}");
    assert!(shop.staged().is_empty(), "{:?}", shop.staged());
    assert_eq!(shop.sandbox.msb("prune").run().success().stdout, "Nothing to remove.\n");
}

/// As the user of a layer that other tools have made: closed directories, whose owner must open them first, can be
/// neither moved nor removed as they are.
#[test]
fn closed_directories_are_replaced_and_removed() {
    let shop = Shop::new(&[]);
    shop.want(&["a:1", "b:1"]);
    let place = shop.directory("a");
    let staged = shop.private("staging").join(layer("b").digest());
    for tree in [&place, &staged] {
        for mode in [0o000, 0o111, 0o333, 0o444, 0o555] {
            let closed = tree.join(format!("{mode:o}"));
            fs::create_dir_all(closed.join("below")).unwrap();
            fs::write(closed.join("below/f"), "").unwrap();
            for path in [closed.join("below"), closed] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        fs::set_permissions(tree, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command: Vec<&str> = Vec::new();
    if is_root() {
        give(shop.sandbox.root(), NOBODY);
        command.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        let mut probe = tool_command(Path::new("/"), "setpriv");
        let probe = probe.args(&command[1..]).args([MSB, "--version"]).output();
        if !probe.is_ok_and(|probe| probe.status.success()) {
            return say("another user may not run the binary: closed directories were NOT checked");
        }
    }
    command.push(MSB);
    let run = |arguments: &[&str]| {
        let all = [&command[1..], arguments].concat();
        shop.sandbox.program(command[0], &all).run()
    };
    run(&["apply"]).success();
    run(&["verify"]).success();
    // As microsandbox makes them: no one can write to the layer itself, nor to what is in it.
    fs::set_permissions(place.join("data"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o555)).unwrap();
    shop.want(&["b:1"]);
    run(&["prune"]).success();
    assert!(!place.exists() && shop.staged().is_empty(), "{:?}", shop.staged());
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

/// A file system that can neither refuse to replace nor exchange names, as NFS, 9p and some on FUSE: everything works,
/// deep trees too.
#[test]
fn renames_without_flags_will_do() {
    if !may_trace("file systems without flags of renameat2 were NOT checked") {
        return;
    }
    let shop = Shop::new(&[]);
    let deep = format!("{}f", "d/".repeat(150));
    let tall = Layer::of(&[file(&deep, "x"), file("f", "x")]);
    shop.registry.edit(|content| {
        let manifest = content.image(&Image::new(std::slice::from_ref(&tall)));
        content.tag("tall:1", &manifest);
    });
    let left = shop.private("staging").join("garbage").join(&deep);
    fs::create_dir_all(left).unwrap();
    let run = |error: &str, arguments: &str| {
        let inject = format!("inject=renameat2:error={error}");
        let log = shop.sandbox.root().join("calls");
        let strace = ["-f", "-qq", "-o", log.to_str().unwrap(), "-e", &inject, MSB];
        let all: Vec<&str> = strace.into_iter().chain(arguments.split_whitespace()).collect();
        let output = shop.sandbox.program("strace", &all).run().success();
        (output, fs::read_to_string(&log).unwrap().contains("(INJECTED)"))
    };
    for error in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        shop.want(&["a:1", "b:1", "tall:1"]);
        assert!(run(error, "apply").1, "{error}: no call was made");
        shop.assert_exact(&["a", "b", "tall"]);
        assert!(shop.staged().is_empty(), "{error}");
        // Replaced twice: as one that is damaged, and as one of somebody else's.
        fs::write(shop.directory("a").join("data/f"), "damaged").unwrap();
        run(error, "verify --repair");
        fs::remove_file(shop.private("records").join(tall.digest())).unwrap();
        run(error, "apply");
        shop.assert_exact(&["a", "b", "tall"]);
        shop.want(&["b:1"]);
        run(error, "prune");
        shop.assert_exact(&["b"]);
        assert_eq!(shop.sandbox.extracted(), [layer("b").directory()], "{error}");
        assert!(shop.staged().is_empty(), "{error}");
    }
}

/// A file system without extended attributes is told once, and takes layers all the same.
#[test]
fn extended_attributes_are_not_needed() {
    if !may_trace("file systems without extended attributes were NOT checked") {
        return;
    }
    let shop = Shop::new(&[]);
    shop.want(&["a:1", "b:1"]);
    let inject = "inject=/.*xattr:error=EOPNOTSUPP";
    let run = |arguments: &[&str]| {
        let all = [&["-f", "-qq", "-o", "/dev/null", "-e", inject, MSB], arguments].concat();
        shop.sandbox.program("strace", &all).run().success()
    };
    let output = run(&["apply"]);
    assert_eq!(output.stderr.matches("no extended attributes").count(), 1, "{output}");
    assert_eq!(listed(&shop.sandbox).len(), 2);
    run(&["verify"]);
    shop.want(&["b:1"]);
    run(&["prune"]);
    assert_eq!(shop.sandbox.extracted(), [layer("b").directory()]);
}

/// The home in a lower layer of overlayfs, as in an image built with `RUN msb-sync apply`: its directories cannot be
/// renamed there, and all verbs work all the same.
struct Overlay<'s> {
    shop: &'s Shop,
    upper: PathBuf,
    work: PathBuf,
}

impl<'s> Overlay<'s> {
    /// `None`, and a word on stderr, where overlayfs cannot be mounted.
    fn over(shop: &'s Shop) -> Option<Self> {
        let [upper, work] = ["upper", "work"].map(|name| shop.sandbox.root().join(name));
        for path in [&upper, &work] {
            fs::create_dir_all(path).unwrap();
        }
        let overlay = Self { shop, upper, work };
        let mounted = overlay.run(&["true"]).run();
        if mounted.status.success() {
            return Some(overlay);
        }
        say("may not mount overlayfs: stores in lower layers were NOT checked");
        None
    }

    /// A program that sees the home through the overlay.
    fn run(&self, program: &[&str]) -> Run {
        const SCRIPT: &str = "mount -t overlay overlay \
            -o \"lowerdir=$1,upperdir=$2,workdir=$3,redirect_dir=off\" \"$1\" || exit 77; shift 3; exec \"$@\"";
        let user = self.shop.sandbox.user();
        let places = [&user, &self.upper, &self.work].map(|path| path.to_str().unwrap());
        let all = [&["-m", "sh", "-c", SCRIPT, "sh"][..], &places, program].concat();
        self.shop.sandbox.program("unshare", &all)
    }

    fn msb(&self, arguments: &str) -> Output {
        let all: Vec<&str> = std::iter::once(MSB).chain(arguments.split_whitespace()).collect();
        self.run(&all).run()
    }

    fn names(&self, directory: &Path) -> Vec<String> {
        let output = self.run(&["ls", "-A", directory.to_str().unwrap()]).run().success();
        output.stdout.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_holds(&self, layers: &[&str]) {
        self.msb("verify").success();
        let mut expected: Vec<String> = layers.iter().map(|name| layer(name).directory()).collect();
        expected.sort();
        assert_eq!(self.names(&self.shop.sandbox.layers()), expected);
        assert_eq!(self.names(&self.shop.private("staging")), [""; 0]);
        assert_eq!(self.names(&self.shop.private("records")).len(), layers.len());
    }
}

#[test]
fn a_store_in_a_lower_layer_of_overlayfs_is_served() {
    if !is_root() {
        return say("needs root to mount overlayfs: stores in lower layers were NOT checked");
    }
    for verb in ["prune", "apply --prune", "forget"] {
        let shop = Shop::new(&["a:1", "b:1"]);
        let Some(overlay) = Overlay::over(&shop) else { return };
        shop.want(&["b:1"]);
        let arguments =
            if verb == "forget" { format!("forget {}", shop.name("a:1")) } else { verb.to_owned() };
        let output = overlay.msb(&arguments).success();
        assert!(!output.stderr.contains("warning"), "{verb}\n{output}");
        shop.want(&["b:1", "c:1"]);
        overlay.msb("apply").success();
        overlay.assert_holds(&["b", "c"]);
    }
    // One that is damaged, one of somebody else's, and then an update of everything that is there.
    let shop = Shop::new(&["a:1", "b:1"]);
    fs::write(shop.directory("a").join("data/f"), "damaged").unwrap();
    fs::remove_file(shop.private("records").join(layer("b").digest())).unwrap();
    let Some(overlay) = Overlay::over(&shop) else { return };
    overlay.msb("verify --repair").success();
    overlay.assert_holds(&["a", "b"]);
    shop.registry.edit(|content| {
        let manifest = content.image(&Image::new(&[layer("c")]));
        content.tag("a:1", &manifest);
    });
    overlay.msb("apply --prune").success();
    overlay.assert_holds(&["b", "c"]);
}

/// A kill while a layer is removed where it is leaves nothing that counts as complete, and the next run goes on.
#[test]
fn a_removal_in_place_that_dies_is_finished() {
    if !is_root() || !may_trace("removals in lower layers that die were NOT checked") {
        return say("needs root to mount overlayfs: removals in lower layers that die were NOT checked");
    }
    for (verb, then) in [("prune", "prune"), ("verify --repair", "verify --repair")] {
        let mut died = 0;
        for when in 1..8 {
            let shop = Shop::new(&["a:1", "b:1"]);
            let Some(overlay) = Overlay::over(&shop) else { return };
            let mut left: &[&str] = &["b"];
            if verb == "prune" {
                shop.want(&["b:1"]);
            } else {
                overlay.run(&["rm", shop.directory("a").join("conf").to_str().unwrap()]).run().success();
                left = &["a", "b"];
            }
            let inject = format!("inject=unlinkat:signal=KILL:when={when}");
            let mut all = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject, MSB];
            all.extend(verb.split_whitespace());
            died += usize::from(!overlay.run(&all).run().status.success());
            overlay.msb(then).success();
            overlay.assert_holds(left);
        }
        assert!(died > 3, "{verb}: only {died} runs died");
    }
}
