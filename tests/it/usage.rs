//! Layers that processes and mounts use are neither removed nor replaced, by whatever path they are used: real
//! overlays and bind mounts, in namespaces of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::check::wanted;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file};
use crate::support::sandbox::{Running, Sandbox};

/// Mounts an overlay whose lower layer is `$1`, by the calls that take one path at a time.
const NEW_CALLS: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        sys.exit("call %r: %d" % (arguments, ctypes.get_errno()))
    return result
fs = call(430, b"overlay", 1)
for path in sys.argv[1:3]:
    call(431, fs, 1, b"lowerdir+", path.encode(), 0)
call(431, fs, 6, None, None, 0)
call(429, call(432, fs, 1, 0), b"", -100, sys.argv[3].encode(), 4)
"#;

fn layer(number: usize) -> Layer {
    let items = [dir("d"), file(format!("d/file-{number}"), format!("{number}")), file("top", "top")];
    Layer::of(&items)
}

/// What holds mounts until it is dropped: a shell in a mount namespace of its own.
struct Mounts {
    _holder: Running,
}

impl Mounts {
    /// Runs `script`, which mounts, with these arguments; `None` (and a word on stderr) where that is not allowed.
    fn made_by(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Option<Self> {
        let probe = ["-m", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"];
        if !sandbox.program("unshare", &probe).run().status.success() {
            let _ = writeln!(std::io::stderr(), "may not mount: layers in use by mounts were NOT checked");
            return None;
        }
        let script = format!("set -e\n{script}\ncd /\necho mounted\nexec sleep 600");
        let all = [&["-m", "--propagation", "private", "sh", "-c", &script][..], arguments].concat();
        let mut holder = sandbox.program("unshare", &all).timeout(Duration::from_secs(600)).spawn();
        let started = Instant::now();
        while !holder.stdout().contains("mounted") {
            assert!(!holder.ended() && started.elapsed().as_secs() < 60, "not mounted: {}", holder.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { _holder: holder })
    }
}

/// An image of so many layers, applied to a home with an odd name.
struct House {
    sandbox: Sandbox,
    registry: FakeRegistry,
    home: PathBuf,
    layers: Vec<Layer>,
}

impl House {
    /// The layers are the ones from `first` on: overlays of layers that go by the same names are told apart by luck.
    fn new(home: &str, first: usize, count: usize) -> Self {
        let layers: Vec<Layer> = (first..first + count).map(layer).collect();
        let registry = FakeRegistry::start(BlobSet::with("a:1", &Image::new(&layers)));
        let sandbox = Sandbox::in_memory();
        let home = sandbox.root().join(home);
        sandbox.images(&wanted(&registry.name(), &["a:1"]));
        let house = Self { sandbox, registry, home, layers };
        house.run("apply").success();
        house
    }

    fn run(&self, verb: &str) -> crate::support::sandbox::Output {
        self.sandbox.msb(&format!("{verb} --json --home")).arg(&self.home).run()
    }

    fn path(&self, number: usize) -> PathBuf {
        self.home.join("layers").join(self.layers[number].directory())
    }

    fn want_nothing(&self) {
        self.sandbox.images(&wanted(&self.registry.name(), &["b:1"]));
    }

    fn forget(&self, expected: usize) -> Value {
        let document = self.run(&format!("forget {}/a:1", self.registry.name())).success().json();
        let kept = document["kept"].as_array().unwrap();
        assert_eq!(kept.len(), expected, "{document:#}");
        document
    }
}

fn kept(document: &Value) -> BTreeSet<String> {
    let layers = document["kept"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// As overlayfs wants a path written.
fn escaped(path: &Path) -> String {
    path.to_str().unwrap().replace('\\', r"\\").replace(':', r"\:").replace(',', r"\,")
}

#[test]
fn a_layer_that_a_mount_uses_by_whatever_path_is_kept() {
    const CASES: usize = 13;
    let house = House::new("an odd\\home:with,all\n", 0, CASES + 1);
    let work = house.sandbox.root().join("mounts");
    let place = |name: &str| work.join(name);
    for case in 0..CASES {
        fs::create_dir_all(place(&case.to_string())).unwrap();
    }
    for directory in ["alias", "empty", "data"] {
        fs::create_dir_all(place(directory)).unwrap();
    }
    fs::write(place("data/precious"), "x").unwrap();
    fs::create_dir(house.path(11).join("d/mine")).unwrap();
    fs::write(house.sandbox.work().join("calls.py"), NEW_CALLS).unwrap();
    // Relative to the directory of layers; by symlinks; by a bind alias; by a name that says nothing.
    std::os::unix::fs::symlink(house.path(2), place("link")).unwrap();
    std::os::unix::fs::symlink(house.path(3), place("low")).unwrap();
    let names: Vec<String> = (0..CASES).map(|case| house.layers[case].directory()).collect();
    let name = |case: usize| names[case].replace(':', r"\:");
    let script = format!(
        r#"
        layers=$0/layers work=$1 calls=$2
        overlay() {{ mount -n -t overlay overlay -o "lowerdir=$2:$work/empty" "$1"; }}
        cd "$work"
        overlay 0 '{absolute}'
        cd "$layers"; overlay "$work/1" '{relative}'
        overlay "$work/2" "$work/link"
        cd "$work"; overlay "$work/3" low
        mount --bind "$layers" "$work/alias"; overlay "$work/4" "$work/alias/"'{aliased}'; umount "$work/alias"
        overlay "$work/5" '{sub}'
        python3 "$calls" '{raw}' "$work/empty" "$work/6"
        cd "$0"; python3 "$calls" 'layers/{seventh}' "$work/empty" "$work/7"; cd "$work"
        mount --bind '{eighth}' "$work/8"
        mount --bind '{ninth}/d' "$work/9"
        mount -t tmpfs x '{tenth}'
        mount --bind "$work/data" '{eleventh}/d/mine'
        mkdir "$work/up" "$work/wk"
        mount -t overlay overlay -o "lowerdir=$work/empty,upperdir="'{twelfth}'",workdir=$work/wk" "$work/12" || overlay "$work/12" '{twelfth}'
        "#,
        absolute = escaped(&house.path(0)),
        relative = name(1),
        aliased = name(4),
        sub = escaped(&house.path(5).join("d")),
        raw = house.path(6).display(),
        seventh = names[7],
        eighth = house.path(8).display(),
        ninth = house.path(9).display(),
        tenth = house.path(10).display(),
        eleventh = house.path(11).display(),
        twelfth = escaped(&house.path(12)),
    );
    let calls = house.sandbox.work().join("calls.py");
    let arguments = [house.home.to_str().unwrap(), work.to_str().unwrap(), calls.to_str().unwrap()];
    let Some(mounts) = Mounts::made_by(&house.sandbox, &script, &arguments) else { return };

    let document = house.forget(CASES);
    let expected: BTreeSet<String> = house.layers[..CASES].iter().map(Layer::digest).collect();
    assert_eq!(kept(&document), expected, "{document:#}");
    for (case, layer) in house.layers[..CASES].iter().enumerate().filter(|(case, _)| *case != 10) {
        assert!(house.path(case).join(format!("d/file-{case}")).exists(), "{}", layer.digest());
    }
    assert!(document["kept"][0]["reason"].as_str().unwrap().contains("process"), "{document:#}");
    house.want_nothing();
    let document = house.run("prune --dry-run").success().json();
    assert_eq!(kept(&document), expected, "{document:#}");

    drop(mounts);
    assert_eq!(fs::read(place("data/precious")).unwrap(), b"x");
    let document = house.run("prune").json();
    assert!(kept(&document).is_empty(), "{document:#}");
    assert_eq!(document["layers"].as_array().unwrap().len(), CASES, "{document:#}");
}

#[test]
fn overlays_of_others_are_no_use_and_a_moved_home_is() {
    let house = House::new("home", 100, 2);
    let work = house.sandbox.root().join("mounts");
    for directory in ["0", "1", "2", "other", "empty"] {
        fs::create_dir_all(work.join(directory)).unwrap();
    }
    // Another directory of the same name, and one of a name that says nothing.
    let other = work.join("other").join(house.layers[1].directory());
    fs::create_dir(&other).unwrap();
    fs::write(other.join("top"), "top").unwrap();
    fs::create_dir(work.join("other/low")).unwrap();
    let script = format!(
        r#"
        cd "$0/other"
        mount -t overlay overlay -o "lowerdir=low:$0/empty" "$0/0"
        mount -t overlay overlay -o "lowerdir="'{other}'":$0/empty" "$0/1"
        mount -t overlay overlay -o "lowerdir="'{used}'":$0/empty" "$0/2"
        "#,
        other = escaped(&other),
        used = escaped(&house.path(0)),
    );
    let Some(mounts) = Mounts::made_by(&house.sandbox, &script, &[work.to_str().unwrap()]) else { return };
    let moved = house.sandbox.root().join("moved");
    fs::rename(&house.home, &moved).unwrap();
    let house = House { home: moved, ..house };
    let document = house.forget(1);
    assert_eq!(kept(&document), BTreeSet::from([house.layers[0].digest()]), "{document:#}");
    assert!(!house.path(1).exists() && house.path(0).join("top").exists());
    drop(mounts);
}

#[test]
fn without_proc_nobody_knows_and_nothing_is_removed() {
    let house = House::new("home", 200, 1);
    let reference = format!("{}/a:1", house.registry.name());
    let script = "mount -t tmpfs x /proc || exit 77; exec \"$0\" --home \"$1\" forget --json \"$2\"";
    let home = house.home.to_str().unwrap();
    let arguments = ["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_msb-sync"), home, &reference];
    let output = house.sandbox.program("unshare", &arguments).run();
    if output.status.code() == Some(77) || output.stderr.starts_with("unshare: ") {
        let _ = writeln!(std::io::stderr(), "may not mount: a machine without /proc was NOT checked");
        return;
    }
    let document = output.success().json();
    assert!(document["kept"][0]["reason"].as_str().unwrap().contains("/proc"), "{document:#}");
    assert!(house.path(0).join("top").exists());
    house.want_nothing();
    let document = house.run("prune").json();
    assert_eq!(document["layers"].as_array().unwrap().len(), 1, "{document:#}");
}

/// Takes what only msb-sync knows of a home: what microsandbox had is left.
fn as_of_microsandbox(house: &House) {
    let sql =
        "DROP TABLE sync_meta; DROP TABLE sync_images; DROP TABLE sync_image_layers; DROP TABLE sync_owners;";
    let database = house.home.join("oci.db");
    house.sandbox.program("sqlite3", &[database.to_str().unwrap(), sql]).run().success();
    fs::remove_dir_all(house.home.join(".layers.msb-sync")).unwrap();
    fs::remove_file(house.home.join(".msb-sync.id")).unwrap();
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[test]
fn trees_that_microsandbox_extracted_are_adopted() {
    let house = House::new("home", 300, 3);
    as_of_microsandbox(&house);
    let inodes: Vec<u64> = (0..3).map(|number| inode(&house.path(number))).collect();
    // As it leaves them: times of directories are those of the extraction, and the owner's xattr may lack type bits.
    let times =
        ["-c", "touch \"$0\" \"$0/d\"; setfattr -n user.containers.override_stat -v 0:0:0644 \"$0/top\""];
    let path = house.path(0);
    let changed = [&times[..], &[path.to_str().unwrap()]].concat();
    if !house.sandbox.program("sh", &changed).run().status.success() {
        let _ = writeln!(std::io::stderr(), "no setfattr: the xattrs of microsandbox were NOT checked");
    }
    // One is not what the blob says.
    fs::write(house.path(2).join("top"), "pot").unwrap();
    let mut held = fs::File::open(house.path(0).join("top")).unwrap();
    house.run("apply").success();
    assert_eq!((0..2).map(|number| inode(&house.path(number))).collect::<Vec<_>>(), inodes[..2]);
    assert_ne!(inode(&house.path(2)), inodes[2]);
    assert_eq!(fs::read(house.path(2).join("top")).unwrap(), b"top");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut held, &mut text).unwrap();
    assert_eq!(text, "top");
    house.run("verify").success();
    assert_eq!(house.run("plan").success().json()["changes"], 0);
}

#[test]
fn a_layer_that_is_in_use_is_not_replaced_but_told_and_tried_again() {
    let house = House::new("home", 400, 2);
    let repaired = || fs::read(house.path(1).join("top")).unwrap() == b"top";
    let broken = house.path(1).join("top");
    // By verify --repair, and by the first apply beside microsandbox.
    for verb in ["verify --repair", "apply"] {
        fs::write(&broken, "pot").unwrap();
        if verb == "apply" {
            as_of_microsandbox(&house);
        }
        let held = fs::File::open(house.path(1).join("d")).unwrap();
        let before = inode(&house.path(1));
        let output = house.run(verb).code(1);
        let told = format!("{}{}", output.stdout, output.stderr);
        assert!(told.contains(&format!("process {}", std::process::id())), "{output}");
        assert_eq!(inode(&house.path(1)), before);
        assert!(!repaired());
        if verb == "apply" {
            let event = output.json_lines().into_iter().find(|event| event["event"] == "image").unwrap();
            assert_eq!(event["error"]["kind"], "in-use", "{event:#}");
            assert!(event["error"]["hint"].is_string(), "{event:#}");
        }
        drop(held);
        house.run(verb).success();
        assert!(repaired());
        house.run("verify").success();
    }
}

#[test]
fn a_layer_without_a_record_that_is_kept_is_tried_again_unless_somebody_wants_it() {
    let house = House::new("home", 500, 2);
    let private = house.home.join(".layers.msb-sync");
    let marks = || fs::read_dir(private.join("staging")).unwrap().count();
    for wanted_again in [true, false] {
        let before = inode(&house.path(0));
        fs::remove_file(private.join("records").join(house.layers[0].digest())).unwrap();
        let held = fs::File::open(house.path(0).join("top")).unwrap();
        house.forget(1);
        assert!(house.path(0).exists() && !house.path(1).exists());
        assert_eq!(marks(), 1);
        if wanted_again {
            house.run("apply").success();
            assert_eq!((inode(&house.path(0)), marks()), (before, 0));
            drop(held);
            house.run("prune").success();
            house.run("verify").success();
            assert!(house.path(0).exists());
            continue;
        }
        house.want_nothing();
        // Still in use, and by nobody.
        assert_eq!(kept(&house.run("prune").json()), BTreeSet::from([house.layers[0].digest()]));
        assert_eq!(marks(), 1);
        drop(held);
        let document = house.run("prune").json();
        assert_eq!(document["layers"].as_array().unwrap().len(), 1, "{document:#}");
        assert!(!house.path(0).exists());
        assert_eq!(marks(), 0);
    }
}
