//! What somebody else has put where msb-sync keeps its own things, by intent or by chance: it is refused, named and
//! left as it is. What msb-sync makes is its user's alone.
//!
//! Files of another user need root, who gives them away; a second user who acts himself needs `setpriv`. Where the
//! tests may not do that they say so, and that part is not checked.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, Mode};
use tempfile::TempDir;

use crate::support::check::{applied, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file, noise};
use crate::support::sandbox::{Output, Run, Sandbox};

/// Nobody's number on every Linux.
const NOBODY: u32 = 65534;
/// No run of these tests may wait for anything.
const SOON: Duration = Duration::from_secs(25);

fn layer() -> Layer {
    Layer::of(&[file("f", noise(1, 40_000))])
}

/// A registry with `team/app:1`, which the images file of the sandbox lists after `settings`.
fn serve(sandbox: &Sandbox, settings: &str, layers: &[Layer]) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(layers)));
    sandbox.images(&format!("{settings}{}", wanted(&registry.name(), &["team/app:1"])));
    registry
}

fn is_root(otherwise: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let _ = writeln!(std::io::stderr(), "needs root: {otherwise}");
    }
    root
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below `root`: names, types, owners, modes, content.
fn everything(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap().len() } else { 0 };
        let (owner, mode) = (metadata.uid(), metadata.mode());
        found.push(format!("{} {owner} {mode:o} {content}", path.display()));
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

/// A place for what a stranger has put somewhere.
struct Precious(PathBuf);

impl Precious {
    fn new(sandbox: &Sandbox) -> Self {
        let path = sandbox.root().join("precious");
        fs::create_dir_all(path.join("directory/below")).unwrap();
        fs::write(path.join("directory/below/file"), "precious").unwrap();
        fs::write(path.join("file"), "precious").unwrap();
        Self(path)
    }
}

/// The places that are msb-sync's own, and whether each is a directory. `staging` is made by the first run.
fn own_places(digest: &str) -> Vec<(String, bool)> {
    [
        (".msb-sync.lock", false),
        ("oci.db", false),
        ("oci.db-journal", false),
        ("oci.db-wal", false),
        (".layers.msb-sync", true),
        (".layers.msb-sync/lock", false),
        (".layers.msb-sync/staging", true),
        (".layers.msb-sync/records", true),
        (&format!("downloads/{digest}.part"), false),
        (&format!(".layers.msb-sync/records/{digest}"), false),
    ]
    .map(|(name, directory)| (name.to_owned(), directory))
    .to_vec()
}

/// Fails unless `apply` refuses, names and leaves `place` and what lies beside it; then takes it away and applies.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, place: &Path, precious: &Precious, what: &str) {
    let before = (everything(&precious.0), everything(place));
    // One name of several is prune's to remove: the others stay.
    let hard_link = fs::symlink_metadata(place).unwrap();
    let hard_link = hard_link.is_file() && hard_link.nlink() > 1;
    for arguments in if hard_link { &["apply"][..] } else { &["apply", "prune"] } {
        let output = sandbox.msb(arguments).timeout(SOON).run();
        let shown = place.to_str().unwrap();
        if *arguments == "apply" || output.status.code() != Some(0) {
            let output = output.code(1);
            assert!(output.stderr.contains(shown), "{what}: {shown} is not named\n{output}");
            assert!(output.stderr.contains("hint: "), "{what}\n{output}");
        }
        assert_eq!((everything(&precious.0), everything(place)), before, "{what}: {arguments}");
    }
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_is_not_what_it_should_be_is_refused_named_and_untouched() {
    let layer = layer();
    for (name, directory) in own_places(&layer.digest()) {
        for kind in ["symlink", "dangling", "fifo", "other"] {
            let sandbox = Sandbox::in_memory();
            let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
            let precious = Precious::new(&sandbox);
            let place = sandbox.home().join(&name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            if name.contains("records/") {
                fs::create_dir_all(sandbox.layers().join(layer.directory())).unwrap();
            }
            match kind {
                "symlink" if directory => symlink(precious.0.join("directory"), &place).unwrap(),
                "symlink" => symlink(precious.0.join("file"), &place).unwrap(),
                "dangling" => symlink(precious.0.join("nothing"), &place).unwrap(),
                "fifo" => fifo(&place),
                _ if directory => fs::write(&place, "a file").unwrap(),
                _ => fs::create_dir(&place).unwrap(),
            }
            assert_refused(&sandbox, &place, &precious, &format!("{name} as {kind}"));
            assert!(!precious.0.join("nothing").exists(), "{name}");
            remove(&place);
            applied(&sandbox);
            assert_eq!(listed(&sandbox).len(), 1, "{name} as {kind}");
        }
    }
}

#[test]
fn what_belongs_to_another_user_is_refused_named_and_untouched() {
    if !is_root("files of another user were NOT refused") {
        return;
    }
    let layer = layer();
    let mut places = own_places(&layer.digest());
    places.extend([(String::new(), true), ("layers".to_owned(), true), ("downloads".to_owned(), true)]);
    for (name, directory) in places {
        let sandbox = Sandbox::in_memory();
        let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
        let precious = Precious::new(&sandbox);
        let place = if name.is_empty() { sandbox.home() } else { sandbox.home().join(&name) };
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if name.contains("records/") {
            fs::create_dir_all(sandbox.layers().join(layer.directory())).unwrap();
        }
        if directory {
            fs::create_dir_all(&place).unwrap();
        } else {
            fs::write(&place, "").unwrap();
        }
        chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        assert_refused(&sandbox, &place, &precious, &format!("another user's {name:?}"));
        let output = sandbox.msb("apply").run().code(1);
        assert!(output.stderr.contains("belongs to user 65534, not to user 0"), "{name}\n{output}");
        remove(&place);
        applied(&sandbox);
    }
    // A link of another user, to a directory that would do.
    for name in ["", "layers", "downloads"] {
        let sandbox = Sandbox::in_memory();
        let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
        let precious = Precious::new(&sandbox);
        let place = if name.is_empty() { sandbox.home() } else { sandbox.home().join(name) };
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        symlink(precious.0.join("directory"), &place).unwrap();
        std::os::unix::fs::lchown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        assert_refused(&sandbox, &place, &precious, &format!("another user's link {name:?}"));
    }
}

#[test]
fn a_second_name_of_a_file_is_never_written() {
    let layer = layer();
    for name in [".msb-sync.lock", ".layers.msb-sync/lock", &format!("downloads/{}.part", layer.digest())] {
        let sandbox = Sandbox::in_memory();
        let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
        let precious = Precious::new(&sandbox);
        let place = sandbox.home().join(name);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::hard_link(precious.0.join("file"), &place).unwrap();
        assert_refused(&sandbox, &place, &precious, &format!("a hard link as {name}"));
    }
}

/// A run of the sandbox's `msb-sync` under this umask.
fn under_umask(sandbox: &Sandbox, umask: &str, arguments: &str) -> Run {
    let script = format!("umask {umask}; exec {} {arguments}", env!("CARGO_BIN_EXE_msb-sync"));
    sandbox.program("sh", &["-c", &script])
}

#[test]
fn what_is_made_is_its_users_alone_whatever_the_umask() {
    let layer = Layer::of(&[dir("d").mode(0o775), file("d/f", "x").mode(0o666), file("g", noise(1, 70_000))]);
    for (umask, settings, layers_mode) in [
        ("000", "", 0o700),
        ("022", "", 0o700),
        ("077", "", 0o700),
        ("000", "[settings]\nlayers-mode = \"0755\"\n", 0o755),
        ("077", "[settings]\nlayers-mode = \"0755\"\nlayers = \"../deep/er/layers\"\n", 0o755),
    ] {
        let sandbox = Sandbox::in_memory();
        let _registry = serve(&sandbox, settings, std::slice::from_ref(&layer));
        under_umask(&sandbox, umask, "apply").run().success();
        let home = sandbox.home();
        let below = |path: &str| sandbox.root().join(path);
        let deep = settings.contains("deep");
        let (layers, private) = if deep {
            (below("deep/er/layers"), below("deep/er/.layers.msb-sync"))
        } else {
            (sandbox.layers(), home.join(".layers.msb-sync"))
        };
        let what = format!("umask {umask}, {settings:?}");
        assert_eq!(mode(&layers), layers_mode, "{what}");
        let directories = [home.clone(), home.join("downloads"), private.clone()]
            .into_iter()
            .chain(["records", "staging", "homes"].map(|name| private.join(name)));
        for path in directories {
            assert_eq!(mode(&path), 0o700, "{what}: {}", path.display());
        }
        let record = private.join("records").join(layer.digest());
        for path in [home.join("oci.db"), home.join(".msb-sync.lock"), private.join("lock"), record] {
            assert_eq!(mode(&path), 0o600, "{what}: {}", path.display());
        }
        let tree = layers.join(layer.directory());
        let modes = ["", "d", "d/f", "g"].map(|name| mode(&tree.join(name)));
        assert_eq!(modes, [0o755, 0o775, 0o666, 0o644], "{what}");
        if deep {
            assert_eq!(mode(&below("deep/er")), 0o755, "others get there: {what}");
        }
        // A directory that is gone is made again as it was.
        fs::remove_dir_all(&layers).unwrap();
        under_umask(&sandbox, umask, "verify --repair").run().success();
        assert_eq!(mode(&layers), layers_mode, "{what}");
    }
}

#[test]
fn what_is_there_keeps_its_mode() {
    let sandbox = Sandbox::in_memory();
    let _registry = serve(&sandbox, "[settings]\nlayers-mode = \"0750\"\n", &[layer()]);
    for (path, mode) in
        [(sandbox.home(), 0o755), (sandbox.layers(), 0o711), (sandbox.home().join("downloads"), 0o770)]
    {
        fs::create_dir_all(&path).unwrap();
        set_mode(&path, mode);
    }
    fs::write(sandbox.home().join(".msb-sync.lock"), "").unwrap();
    set_mode(&sandbox.home().join(".msb-sync.lock"), 0o644);
    applied(&sandbox);
    let modes = ["", "layers", "downloads", ".msb-sync.lock", ".layers.msb-sync"];
    let modes = modes.map(|name| mode(&sandbox.home().join(name)));
    // Who may open a lock may hold it for ever.
    assert_eq!(modes, [0o755, 0o711, 0o770, 0o600, 0o700]);
}

/// A directory that every user gets to, as `/tmp` is, and `msb-sync` in it.
struct Shared {
    root: TempDir,
}

impl Shared {
    /// `None` (and a word on stderr) where there is no second user.
    fn new(otherwise: &str) -> Option<Self> {
        let may = is_root(otherwise) && Self::nobody("true").status().is_ok_and(|status| status.success());
        if !may {
            let _ = writeln!(std::io::stderr(), "needs setpriv: {otherwise}");
            return None;
        }
        let root = tempfile::Builder::new().prefix("msb-").tempdir_in(Sandbox::memory()).unwrap();
        set_mode(root.path(), 0o1777);
        Some(Self { root })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A shell's script, run by the second user.
    fn nobody(script: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]);
        command.current_dir("/");
        command
    }

    /// As [`Shared::nobody`], in the shared directory. Whether it succeeded, and what it said.
    fn by_nobody(&self, script: &str) -> (bool, String) {
        let output = Self::nobody(script).current_dir(self.root.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn in_a_shared_directory_the_first_to_come_is_not_obeyed() {
    let Some(_) = Shared::new("a shared directory was NOT tried with a second user") else { return };
    let layer = layer();
    for (script, refused) in [
        ("mkdir -m 777 home", "home"),
        ("ln -s /root home", "home"),
        ("mkdir -m 777 layers", "layers"),
        ("mkdir -p -m 777 mine; ln -s mine layers", "layers"),
        ("mkdir -m 777 .layers.msb-sync", ".layers.msb-sync"),
        ("mkdir mine; ln -s mine .layers.msb-sync", ".layers.msb-sync"),
    ] {
        let shared = Shared::new("").unwrap();
        let sandbox = Sandbox::in_memory();
        let settings = format!("[settings]\nlayers = {:?}\n", shared.path("layers"));
        let _registry = serve(&sandbox, &settings, std::slice::from_ref(&layer));
        assert!(shared.by_nobody(script).0, "{script}");
        let before = everything(shared.root.path());
        let apply = || sandbox.msb("apply --home").arg(shared.path("home")).run();
        let output = apply().code(1);
        let named = shared.path(refused);
        assert!(output.stderr.contains(&format!("{}: it ", named.display())), "{script}\n{output}");
        let after = everything(shared.root.path());
        assert!(before.iter().skip(1).all(|line| after.contains(line)), "{script}: {before:#?} {after:#?}");
        remove(&named);
        apply().success();
    }
}

#[test]
fn a_umask_that_hides_everything_from_its_own_user_hides_nothing() {
    let Some(shared) = Shared::new("a umask of 0777 was NOT tried with a second user") else { return };
    let sandbox = Sandbox::in_memory();
    let layer = Layer::of(&[dir("d").mode(0o755), file("d/f", "x"), file("implicit/g", noise(1, 70_000))]);
    let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
    fs::copy(env!("CARGO_BIN_EXE_msb-sync"), shared.path("msb-sync")).unwrap();
    let images = shared.path("images.toml");
    fs::copy(sandbox.work().join("images.toml"), &images).unwrap();
    set_mode(&images, 0o644);
    for verb in ["apply images.toml", "apply images.toml", "verify"] {
        let run = format!("umask 0777; HOME=$PWD exec ./msb-sync -q --home $PWD/home {verb}");
        assert_eq!(shared.by_nobody(&run), (true, String::new()), "{verb}");
    }
    let modes = ["home", "home/layers", "home/.layers.msb-sync", "home/oci.db"];
    assert_eq!(modes.map(|name| mode(&shared.path(name))), [0o700, 0o700, 0o700, 0o600]);
}

#[test]
fn another_user_cannot_change_a_layer_that_others_may_read() {
    let Some(shared) = Shared::new("layers were NOT tried with a second user") else { return };
    // As an image's /tmp, and a directory that others may not write to.
    let layer = Layer::of(&[
        dir("tmp").mode(0o1777),
        file("tmp/tool", "good").mode(0o755),
        dir("var").mode(0o3777),
        dir("bin").mode(0o755),
        file("bin/sh", "good").mode(0o755),
    ]);
    let sandbox = Sandbox::in_memory();
    let settings = format!("[settings]\nlayers-mode = \"0755\"\nlayers = {:?}\n", shared.path("layers"));
    let _registry = serve(&sandbox, &settings, std::slice::from_ref(&layer));
    under_umask(&sandbox, "000", "apply").run().success();
    let tree = format!("layers/{}", layer.directory());
    assert_eq!(shared.by_nobody(&format!("cat '{tree}/tmp/tool'")), (true, String::new()));
    for script in [
        "mv TREE/tmp/tool TREE/tmp/old",
        "rm -f TREE/tmp/tool",
        "echo evil > TREE/tmp/new",
        "echo evil > TREE/var/new",
        "echo evil > TREE/tmp/tool",
        "mkdir TREE/new",
        "mv layers elsewhere",
        "mkdir layers/new",
        "ls .layers.msb-sync",
    ] {
        let script = script.replace("TREE", &format!("'{tree}'"));
        assert!(!shared.by_nobody(&script).0, "{script}");
    }
    assert_eq!(fs::read(shared.path(&tree).join("tmp/tool")).unwrap(), b"good");
    assert_eq!(mode(&shared.path(&tree).join("tmp")), 0o775);
    assert_eq!(mode(&shared.path(&tree).join("var")), 0o775);
    sandbox.msb("verify").run().success();
    assert_eq!(sandbox.msb("apply --json").run().success().summary()["unchanged"], 1);
}

#[test]
fn records_that_a_symlink_leads_to_are_not_read_either() {
    for name in [".layers.msb-sync", ".layers.msb-sync/records"] {
        for arguments in ["list", "plan", "apply", "prune --dry-run"] {
            let sandbox = Sandbox::in_memory();
            let _registry = serve(&sandbox, "", &[layer()]);
            applied(&sandbox);
            let (place, elsewhere) = (sandbox.home().join(name), sandbox.root().join("elsewhere"));
            fs::rename(&place, &elsewhere).unwrap();
            symlink(&elsewhere, &place).unwrap();
            let output = sandbox.msb(arguments).timeout(SOON).run().code(1);
            assert!(
                output.stderr.contains(&format!("{}: it is a symbolic link", place.display())),
                "{output}"
            );
        }
    }
}

#[test]
fn a_catalog_that_is_a_symlink_is_not_read_either() {
    // The catalog is read by verbs that take no lock.
    for arguments in ["list", "plan", "verify", "inspect r.io/x:1", "prune --dry-run"] {
        let sandbox = Sandbox::in_memory();
        let _registry = serve(&sandbox, "", &[layer()]);
        applied(&sandbox);
        let catalog = sandbox.home().join("oci.db");
        let elsewhere = sandbox.root().join("elsewhere.db");
        fs::rename(&catalog, &elsewhere).unwrap();
        symlink(&elsewhere, &catalog).unwrap();
        let output: Output = sandbox.msb(arguments).timeout(SOON).run().code(1);
        assert!(output.stderr.contains(catalog.to_str().unwrap()), "{output}");
        assert!(output.stderr.contains("it is a symbolic link"), "{output}");
    }
}

/// Gives a tree away, to the last symlink.
fn give_away(sandbox: &Sandbox, path: &Path) {
    sandbox.program("chown", &["-hR", "65534:65534", path.to_str().unwrap()]).run().success();
}

#[test]
fn another_users_copy_of_a_layer_is_neither_adopted_nor_bound_but_replaced() {
    if !is_root("layers of another user were NOT replaced") {
        return;
    }
    let layer = Layer::of(&[dir("d"), file("d/f", "x"), file("g", noise(1, 70_000))]);
    let sandbox = Sandbox::in_memory();
    let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
    applied(&sandbox);
    let path = sandbox.layers().join(layer.directory());
    let copy = sandbox.layers().join("copy");
    let private = sandbox.home().join(".layers.msb-sync");
    let owners = || ["", "d", "d/f", "g"].map(|name| fs::symlink_metadata(path.join(name)).unwrap().uid());
    // All of it, or one thing in a directory of ours, for a record of it or none.
    for (given_away, has_record) in [("", false), ("", true), ("d/f", false), ("d/f", true)] {
        let what = format!("{given_away:?}, record: {has_record}");
        let arguments = ["-a", path.to_str().unwrap(), copy.to_str().unwrap()];
        sandbox.program("cp", &arguments).run().success();
        remove(&path);
        fs::rename(&copy, &path).unwrap();
        give_away(&sandbox, &path.join(given_away));
        if !has_record {
            remove(&private.join("records").join(layer.digest()));
        }
        let output = sandbox.msb("apply -v").run().success();
        if !has_record {
            assert!(output.stderr.contains("belongs to user 65534"), "{what}\n{output}");
        }
        assert_eq!(owners(), [0; 4], "{what}\n{output}");
        sandbox.msb("verify").run().success();
        sandbox.msb("plan --detailed-exitcode").run().success();
    }
}

#[test]
fn a_layer_that_has_become_another_users_is_damaged() {
    if !is_root("layers of another user were NOT found damaged") {
        return;
    }
    let layer = Layer::of(&[dir("d"), file("d/f", "x")]);
    let sandbox = Sandbox::in_memory();
    let _registry = serve(&sandbox, "", std::slice::from_ref(&layer));
    applied(&sandbox);
    let path = sandbox.layers().join(layer.directory());
    for (name, repair) in [("d/f", "verify --repair"), ("d", "verify --repair"), ("", "apply")] {
        chown(path.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        let output = sandbox.msb("verify").run().code(1);
        let told = format!("{}{}", output.stdout, output.stderr);
        assert!(told.contains("belongs to user 65534"), "{name}\n{output}");
        sandbox.msb(repair).run().success();
        assert_eq!(fs::symlink_metadata(path.join(name)).unwrap().uid(), 0, "{name}");
        sandbox.msb("verify").run().success();
    }
}
