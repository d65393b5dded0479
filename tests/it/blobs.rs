//! Kept blobs and engines after `apply`: what `verify` finds, `--repair` mends, `prune` and `forget` take away.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::check::{applied, image};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::Sandbox;
use crate::support::tree::Tree;
use crate::support::{may_trace, sha256, tool};

struct Shop {
    registry: FakeRegistry,
    sandbox: Sandbox,
    base: Layer,
    top: Layer,
}

const KEEP: &str = "[settings]\nblobs = \"keep\"\n";

/// Two images that share their base, behind an index each, applied with these settings.
fn shop(settings: &str) -> Shop {
    let base = Layer::of(&[file("base", noise(1, 200_000))]);
    let top = Layer::of(&[file("top", "top")]);
    let mut content = BlobSet::default();
    for (name, layers) in [("a:1", &[base.clone(), top.clone()][..]), ("b:1", &[base.clone()][..])] {
        let manifest = content.image(&Image::new(layers));
        let index = content.index(false, &[manifest]);
        content.tag(name, &index);
    }
    let shop = Shop { registry: FakeRegistry::start(content), sandbox: Sandbox::new(), base, top };
    shop.want(settings, &["a:1", "b:1"]);
    applied(&shop.sandbox);
    shop.registry.forget();
    shop
}

impl Shop {
    fn want(&self, settings: &str, images: &[&str]) {
        let wanted = crate::support::check::wanted(&self.registry.name(), images);
        self.sandbox.images(&format!("{settings}{wanted}"));
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.name())
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.sandbox.home().join("blobs/blobs").join(digest.replace(':', "/"))
    }

    /// The names of all kept blobs.
    fn kept(&self) -> Vec<String> {
        let names = fs::read_dir(self.sandbox.home().join("blobs/blobs/sha256")).unwrap();
        let mut names: Vec<String> =
            names.map(|name| format!("sha256:{}", name.unwrap().file_name().to_str().unwrap())).collect();
        names.sort();
        names
    }

    /// The names in the index of the kept blobs.
    fn indexed(&self) -> Vec<String> {
        let index = fs::read(self.sandbox.home().join("blobs/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let name = |manifest: &Value| {
            assert!(self.blob(manifest["digest"].as_str().unwrap()).exists(), "{manifest}");
            manifest["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()
        };
        index["manifests"].as_array().unwrap().iter().map(name).collect()
    }

    fn json(&self, arguments: &str, code: i32) -> Value {
        self.sandbox.msb(&format!("{arguments} --json")).run().code(code).json()
    }

    /// Writes a stand-in for msb, and returns the settings that use it.
    fn engine(sandbox: &Sandbox) -> String {
        let script = sandbox.write("engines/msb", include_str!("support/engine.py"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (script, home) = (script.display(), sandbox.work().join("msb"));
        format!("[engine.microsandbox]\ncommand = \"{script}\"\nhome = \"{}\"\n", home.display())
    }

    /// The names that the stand-in lists.
    fn loaded(&self) -> Vec<String> {
        let state = fs::read(self.sandbox.work().join("msb/msb.images")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        let mut names: Vec<String> = state.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }
}

/// Two images in an engine.
fn with_engine(settings: &str) -> (Shop, String) {
    let shop = shop("");
    let settings = format!("{settings}{}", Shop::engine(&shop.sandbox));
    shop.want(&settings, &["a:1", "b:1"]);
    applied(&shop.sandbox);
    shop.registry.forget();
    (shop, settings)
}

fn statuses<'a>(document: &'a Value, part: &str, key: &str) -> Vec<(&'a str, &'a str)> {
    let parts = document[part].as_array().unwrap();
    let mut found: Vec<_> = parts
        .iter()
        .map(|part| (part["status"].as_str().unwrap(), part[key].as_str().unwrap()))
        .filter(|(status, _)| *status != "ok")
        .collect();
    found.sort_unstable();
    found
}

fn flip(path: &std::path::Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}

#[test]
fn kept_blobs_are_a_layout_that_other_programs_read() {
    let shop = shop(KEEP);
    // Two layers, and index, manifest and config of each image.
    assert_eq!(shop.kept().len(), 8);
    for digest in shop.kept() {
        assert_eq!(sha256(&fs::read(shop.blob(&digest)).unwrap()), digest);
    }
    assert_eq!(shop.indexed(), [shop.name("a:1"), shop.name("b:1")]);
    let layout = shop.sandbox.home().join("blobs");
    assert_eq!(layout.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(fs::read_dir(shop.sandbox.home().join("downloads")).unwrap().next().is_none());
    let source = format!("oci:{}:{}", layout.display(), shop.name("a:1"));
    let copy = format!("dir:{}", shop.sandbox.work().join("copy").display());
    tool(
        &shop.sandbox.work(),
        "skopeo",
        &["--insecure-policy", "copy", "--preserve-digests", &source, &copy],
    );
    let inspected = shop.json(&format!("inspect {}", shop.name("a:1")), 0);
    let blobs = inspected["image"]["blobs"].as_array().unwrap();
    assert_eq!(blobs.len(), 5, "{inspected}");
    assert!(blobs.iter().all(|blob| PathBuf::from(blob["path"].as_str().unwrap()).exists()));
}

#[test]
fn a_deleted_layer_comes_back_without_a_request() {
    let shop = shop(KEEP);
    fs::remove_dir_all(shop.sandbox.layers().join(shop.base.directory())).unwrap();
    applied(&shop.sandbox);
    let asked: Vec<String> =
        shop.registry.requests().into_iter().filter(|request| !request.starts_with("HEAD")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    assert!(shop.sandbox.layers().join(shop.base.directory()).join("base").exists());
}

#[test]
fn damaged_blobs_are_found_and_repaired() {
    let shop = shop(KEEP);
    assert_eq!(statuses(&shop.json("verify", 0), "blobs", "digest"), []);
    assert!(shop.registry.requests().is_empty());
    let (base, top) = (shop.base.digest(), shop.top.digest());
    flip(&shop.blob(&base));
    fs::remove_file(shop.blob(&top)).unwrap();
    let found = shop.json("verify", 1);
    let mut expected = [("missing", top.as_str()), ("modified", base.as_str())];
    expected.sort_unstable();
    assert_eq!(statuses(&found, "blobs", "digest"), expected);
    assert_eq!(statuses(&found, "layers", "digest"), []);
    let repaired = shop.json("verify --repair", 0);
    let marked = repaired["blobs"].as_array().unwrap().iter().filter(|blob| blob["repaired"] == true);
    assert_eq!(marked.count(), 2, "{repaired}");
    assert_eq!(statuses(&shop.json("verify", 0), "blobs", "digest"), []);
    assert_eq!(shop.indexed().len(), 2);
}

#[test]
fn a_damaged_blob_that_cannot_be_had_is_reported_as_it_was_found() {
    let shop = shop(KEEP);
    let base = shop.base.digest();
    flip(&shop.blob(&base));
    let damaged = base.clone();
    shop.registry.on(move |request| request.path.ends_with(&damaged).then(|| Fault::status(404)));
    let failed = shop.json("verify --repair", 1);
    assert_eq!(statuses(&failed, "blobs", "digest"), [("modified", base.as_str())]);
    let detail = |blob: &Value| blob["detail"].as_str().unwrap_or_default().to_owned();
    let blob = failed["blobs"].as_array().unwrap().iter().find(|blob| blob["digest"] == base).unwrap();
    assert!(detail(blob).contains("does not match its digest"), "{blob}");
    assert!(detail(blob).contains("not repaired: "), "{blob}");
    shop.registry.behave();
    shop.json("verify --repair", 0);
}

#[test]
fn a_blob_that_cannot_be_read_is_not_taken_for_a_damaged_one() {
    let shop = shop(KEEP);
    let base = shop.base.digest();
    let path = shop.blob(&base);
    // The first page of a process's memory is never there: EIO.
    let script = "mount --bind /proc/$$/mem \"$1\" || exit 77; exec \"$0\" $2 --json";
    let program = env!("CARGO_BIN_EXE_msb-sync");
    for verb in ["verify", "verify --repair"] {
        let arguments = ["-m", "sh", "-c", script, program, path.to_str().unwrap(), verb];
        let output = shop.sandbox.program("unshare", &arguments).run();
        if output.status.code() == Some(77) || output.stderr.starts_with("unshare: ") {
            let _ = writeln!(std::io::stderr(), "may not mount: an unreadable blob was NOT checked");
            return;
        }
        let found = output.code(1).json();
        assert_eq!(statuses(&found, "blobs", "digest"), [("blocked", base.as_str())], "{verb}");
    }
    assert!(shop.registry.requests().is_empty());
    shop.json("verify", 0);
}

/// The mark and the index of the kept blobs, lost or spoiled in every way: whoever looks after the blobs puts them back.
#[test]
fn the_frame_of_the_kept_blobs_is_put_back() {
    let shop = shop(KEEP);
    let place = |name: &str| shop.sandbox.home().join("blobs").join(name);
    let sound = ["oci-layout", "index.json"].map(|name| (name, fs::read(place(name)).unwrap()));
    for (name, bytes) in &sound {
        let cut = bytes[..bytes.len() / 2].to_vec();
        for spoiled in [None, Some(Vec::new()), Some(b"{}".to_vec()), Some(cut), Some(b"[".repeat(10_000))] {
            for verb in ["apply", "verify --repair", "prune"] {
                let what = format!("{name} {:?} {verb}", spoiled.as_ref().map(Vec::len));
                match &spoiled {
                    None => fs::remove_file(place(name)).unwrap(),
                    Some(bytes) => fs::write(place(name), bytes).unwrap(),
                }
                let found = shop.sandbox.msb("verify").run().code(1);
                assert!(found.stderr.contains(name), "{what}: {found}");
                let output = shop.sandbox.msb(verb).run().success();
                assert!(fs::read(place(name)).unwrap() == *bytes, "{what}: {output}");
                shop.sandbox.msb("verify").run().success();
            }
        }
    }
    // An index that other programs can read, and that names too little.
    let none = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for verb in ["verify --repair", "prune"] {
        fs::write(place("index.json"), none).unwrap();
        shop.sandbox.msb("verify").run().code(1).says("index.json");
        shop.sandbox.msb(verb).run().success();
        assert_eq!(shop.indexed().len(), 2, "{verb}");
    }
    // A prune whose removals wait, and that therefore removes nothing.
    shop.want(KEEP, &["a:1", "to-come:1"]);
    let index = String::from_utf8(sound[1].1.clone()).unwrap();
    fs::write(place("index.json"), index.replace("\"size\":", "\"sizE\":")).unwrap();
    shop.sandbox.msb("verify").run().code(1).says("index.json");
    shop.sandbox.msb("prune").run().success();
    assert_eq!(fs::read_to_string(place("index.json")).unwrap(), index);
    assert!(shop.registry.requests().iter().all(|request| !request.contains("/blobs/")));
}

#[test]
fn blobs_go_with_the_last_image_that_needs_them() {
    let shop = shop(KEEP);
    shop.want(KEEP, &["b:1"]);
    let planned = shop.json("prune --dry-run", 0);
    assert_eq!(planned["blobs"].as_array().unwrap().len(), 4, "{planned}");
    assert_eq!(shop.kept().len(), 8);
    let pruned = shop.json("prune", 0);
    assert_eq!(pruned["blobs"].as_array().unwrap().len(), 4, "{pruned}");
    assert_eq!(shop.kept().len(), 4);
    assert_eq!(shop.indexed(), [shop.name("b:1")]);
    assert!(shop.blob(&shop.base.digest()).exists() && !shop.blob(&shop.top.digest()).exists());
    shop.json(&format!("forget {}", shop.name("b:1")), 0);
    assert!(shop.kept().is_empty() && shop.indexed().is_empty());
    let text = shop.sandbox.msb("prune --allow-empty").run();
    assert!(text.stdout.contains("Nothing to remove"), "{text}");
}

#[test]
fn a_damaged_file_of_an_engine_is_found_and_mended() {
    let (shop, _) = with_engine("");
    assert_eq!(shop.loaded(), [shop.name("a:1"), shop.name("b:1")]);
    let verified = shop.json("verify", 0);
    assert_eq!(verified["engines"].as_array().unwrap().len(), 2, "{verified}");
    let files = fs::read_dir(shop.sandbox.work().join("msb/cache/layers")).unwrap();
    let damaged = files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let damaged = damaged.unwrap();
    let before = fs::read(&damaged).unwrap();
    flip(&damaged);
    let found = shop.json("verify", 1);
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    assert_eq!(statuses(&found, "engines", "reference"), [("modified", &*a), ("modified", &*b)]);
    let repaired = shop.json("verify --repair", 0);
    assert!(
        repaired["engines"].as_array().unwrap().iter().all(|found| found["repaired"] == true),
        "{repaired}"
    );
    assert_eq!(fs::read(&damaged).unwrap(), before);
    assert!(shop.registry.requests().is_empty());

    // What somebody took out of the engine is missing, and comes back.
    fs::write(shop.sandbox.work().join("msb/msb.images"), "{}").unwrap();
    assert_eq!(
        statuses(&shop.json("verify", 1), "engines", "reference"),
        [("missing", &*a), ("missing", &*b)]
    );
    shop.json("verify --repair", 0);
    assert_eq!(shop.loaded(), [a, b]);
}

#[test]
fn a_file_that_was_damaged_before_a_load_is_noted_as_it_was_made() {
    let (shop, settings) = with_engine("");
    let files = fs::read_dir(shop.sandbox.work().join("msb/cache/layers")).unwrap();
    let damaged = files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let damaged = damaged.unwrap();
    let before = fs::read(&damaged).unwrap();
    flip(&damaged);
    shop.registry.edit(|content| {
        let own = Layer::of(&[file("own", "own")]);
        let image = content.image(&Image::new(&[shop.base.clone(), own]));
        content.tag("c:1", &image);
    });
    shop.want(&settings, &["a:1", "b:1", "c:1"]);
    applied(&shop.sandbox);
    let found = shop.json("verify", 1);
    assert_eq!(statuses(&found, "engines", "reference").len(), 3, "{found}");
    shop.json("verify --repair", 0);
    shop.json("verify", 0);
    assert_eq!(fs::read(&damaged).unwrap(), before);
}

#[test]
fn damage_that_an_update_finds_in_its_own_files_is_not_noted_as_good() {
    let (shop, settings) = with_engine("");
    shop.want(&settings, &["a:1"]);
    shop.json("prune", 0);
    let files = fs::read_dir(shop.sandbox.work().join("msb/cache/layers")).unwrap();
    let damaged = files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let damaged = damaged.unwrap();
    let before = fs::read(&damaged).unwrap();
    flip(&damaged);
    shop.registry.edit(|content| {
        let image = content.image(&Image::new(&[shop.base.clone(), Layer::of(&[file("own", "new")])]));
        content.tag("a:1", &image);
    });
    applied(&shop.sandbox);
    let found = shop.json("verify", 1);
    assert_eq!(statuses(&found, "engines", "reference"), [("modified", &*shop.name("a:1"))], "{found}");
    shop.json("verify --repair", 0);
    shop.json("verify", 0);
    assert_eq!(fs::read(&damaged).unwrap(), before);
}

#[test]
fn references_leave_engines_with_their_images_and_what_is_in_use_stays() {
    let (shop, settings) = with_engine("");
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    shop.want(&settings, &["b:1"]);
    let in_use = shop.sandbox.work().join("msb/in-use");
    let planned = shop.json("prune --dry-run", 0);
    assert_eq!(planned["engines"][0]["reference"], a.as_str(), "{planned}");
    assert_eq!(shop.loaded().len(), 2);
    fs::write(&in_use, "").unwrap();
    let pruned = shop.json("prune", 0);
    assert_eq!(pruned["engines_kept"][0]["reference"], a.as_str(), "{pruned}");
    assert!(pruned["engines_kept"][0]["reason"].as_str().unwrap().contains("build-7"), "{pruned}");
    assert_eq!(shop.loaded().len(), 2);
    fs::remove_file(&in_use).unwrap();
    let pruned = shop.json("prune", 0);
    assert_eq!(pruned["engines"][0]["reference"], a.as_str(), "{pruned}");
    assert_eq!(shop.loaded(), [b]);

    // An engine that the file lists no more loses what we loaded, one that cannot be asked keeps it.
    shop.want(KEEP, &["b:1"]);
    let script = shop.sandbox.work().join("engines/msb");
    let hidden = script.with_extension("away");
    fs::rename(&script, &hidden).unwrap();
    let pruned = shop.json("prune", 1);
    assert_eq!(pruned["error"]["kind"], "engine", "{pruned}");
    fs::rename(&hidden, &script).unwrap();
    shop.json("prune", 0);
    assert!(shop.loaded().is_empty());
    assert_eq!(shop.kept().len(), 4, "the image stays, and its blobs");
}

#[test]
fn what_somebody_else_loaded_meanwhile_is_not_ours() {
    let (shop, _) = with_engine("");
    let state = shop.sandbox.work().join("msb/msb.images");
    let theirs = serde_json::json!({ shop.name("a:1"): sha256(b"theirs"), "other:1": sha256(b"other") });
    fs::write(&state, theirs.to_string()).unwrap();
    shop.json(&format!("forget {} {}", shop.name("a:1"), shop.name("b:1")), 0);
    assert_eq!(shop.loaded(), [shop.name("a:1"), "other:1".to_owned()]);
}

#[test]
fn apply_prunes_the_blobs_that_no_image_needs_and_no_others() {
    let shop = shop(KEEP);
    let both = shop.kept();
    shop.want(KEEP, &["b:1"]);
    shop.sandbox.msb("apply --prune").run().success();
    assert_eq!(shop.indexed(), [shop.name("b:1")]);
    let left = shop.kept();
    assert!(left.contains(&shop.base.digest()) && !left.contains(&shop.top.digest()), "{left:?}");
    // The index, manifest and config of the other image went with its layer.
    assert_eq!(left.len(), both.len() - 4, "{left:?}");
    let verified = shop.json("verify", 0);
    assert!(statuses(&verified, "blobs", "digest").is_empty(), "{verified}");
}

#[test]
fn a_run_that_was_killed_before_the_index_leaves_that_to_the_next() {
    if !may_trace("an index that was not written was NOT checked") {
        return;
    }
    let shop = shop(KEEP);
    let (home, note) = (shop.sandbox.home(), shop.sandbox.home().join(".blobs.behind"));
    assert!(!note.exists());
    shop.registry.edit(|content| {
        let index = content.tags["a:1"].clone();
        content.tags.insert("c:1".to_owned(), index);
    });
    let (two, three) = (["a:1", "b:1"], ["a:1", "b:1", "c:1"]);
    let names = |images: &[&str]| images.iter().map(|image| shop.name(image)).collect::<Vec<_>>();
    let recorded = || {
        let listed = shop.sandbox.msb("list --json").run().success().json();
        listed["images"].as_array().unwrap().len()
    };
    let in_sync = || {
        let output = shop.sandbox.msb("apply").run().success();
        assert!(output.stdout.contains("In sync"), "{output}");
    };
    // Killed when the new index gets its name.
    let killed = |arguments: &[&str]| {
        let (log, blobs) = (shop.sandbox.root().join("calls"), home.join("blobs"));
        let trace = ["-f", "-o", log.to_str().unwrap(), "-P", blobs.to_str().unwrap()];
        let kill = ["-e", "inject=renameat:signal=SIGKILL", env!("CARGO_BIN_EXE_msb-sync")];
        let output = shop.sandbox.program("strace", &[&trace[..], &kill, arguments].concat()).run();
        let log = fs::read_to_string(&log).unwrap();
        assert!(!output.status.success() && log.contains("SIGKILL"), "{output}");
    };

    shop.want(KEEP, &three);
    killed(&["apply"]);
    assert_eq!((recorded(), shop.indexed()), (3, names(&two)));
    // A run that is at work writes its index itself, and nobody waits for it.
    let lock = fs::File::open(home.join(".msb-sync.lock")).unwrap();
    lock.lock().unwrap();
    in_sync();
    assert_eq!(shop.indexed(), names(&two));
    drop(lock);
    in_sync();
    assert_eq!(shop.indexed(), names(&three));
    assert!(!note.exists());

    killed(&["forget", &shop.name("c:1")]);
    assert_eq!((recorded(), shop.indexed()), (2, names(&three)));
    shop.want(KEEP, &two);
    in_sync();
    assert_eq!(shop.indexed(), names(&two));
    assert!(!note.exists());

    // By `apply --prune`, too.
    shop.want(KEEP, &["b:1"]);
    killed(&["apply", "--prune"]);
    assert_eq!((recorded(), shop.indexed()), (1, names(&two)));
    in_sync();
    assert_eq!(shop.indexed(), names(&["b:1"]));
    // What cannot be taken away harms nobody.
    fs::create_dir(&note).unwrap();
    in_sync();
}

#[test]
fn the_index_names_whole_images_alone() {
    let shop = shop(KEEP);
    assert_eq!(shop.indexed().len(), 2);
    fs::remove_file(shop.blob(&shop.top.digest())).unwrap();
    let gone = shop.top.digest();
    shop.registry.on(move |request| request.path.ends_with(&gone).then(|| Fault::status(404)));
    shop.sandbox.msb("apply").run().code(1);
    assert_eq!(shop.indexed(), [shop.name("b:1")], "half an image is named");
    shop.registry.behave();
    applied(&shop.sandbox);
    assert_eq!(shop.indexed().len(), 2);
}

/// The registry means another image by `a:1` from now on; returns the layer that only that one has.
fn move_a(shop: &Shop) -> Layer {
    let new = Layer::of(&[file("new", "new")]);
    shop.registry.edit(|content| {
        let moved = content.image(&Image::new(&[shop.base.clone(), new.clone()]));
        content.tag("a:1", &moved);
    });
    new
}

#[test]
fn an_image_that_a_pull_has_moved_lacks_no_blob_before_its_owner_has_fetched_it() {
    let shop = shop(KEEP);
    let new = move_a(&shop).digest();
    shop.sandbox.msb(&format!("pull {}", shop.name("a:1"))).run().success();
    shop.json("verify", 0);
    for repaired in [1, 0] {
        let output = shop.sandbox.msb("apply --json").run().success();
        assert_eq!(output.summary()["repaired"], repaired, "{output}");
        let verified = shop.json("verify", 0);
        assert!(verified["blobs"].as_array().unwrap().iter().any(|blob| blob["digest"] == new));
    }
    assert_eq!(shop.indexed().len(), 2);
}

#[test]
fn an_update_that_never_reached_an_engine_leaves_what_the_engine_has_ours() {
    let (shop, settings) = with_engine("");
    let new = move_a(&shop).digest();
    let gone = new.clone();
    shop.registry.on(move |request| request.path.ends_with(&gone).then(|| Fault::status(404)));
    shop.sandbox.msb("apply").run().code(1);
    let verified = shop.json("verify", 0);
    assert!(statuses(&verified, "engines", "reference").is_empty(), "no load has begun: {verified}");
    shop.want(&settings, &["b:1"]);
    shop.json("prune", 0);
    assert_eq!(shop.loaded(), [shop.name("b:1")]);
}

#[test]
fn an_update_that_an_engine_refused_leaves_what_it_has_ours() {
    let (shop, settings) = with_engine("");
    move_a(&shop);
    let broken = shop.sandbox.work().join("msb/msb.broken");
    fs::write(&broken, "").unwrap();
    for _ in 0..2 {
        shop.sandbox.msb("apply").run().code(1).says("no space left");
    }
    fs::remove_file(&broken).unwrap();
    shop.want(&settings, &["b:1"]);
    shop.json("prune", 0);
    assert_eq!(shop.loaded(), [shop.name("b:1")]);
}

#[test]
fn an_engine_that_cannot_be_asked_is_not_taken_for_one_that_lost_its_images() {
    let (shop, _) = with_engine("");
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    let script = shop.sandbox.work().join("engines/msb");
    let hidden = script.with_extension("away");
    fs::rename(&script, &hidden).unwrap();
    for arguments in ["verify", "verify --repair"] {
        let verified = shop.json(arguments, 1);
        assert_eq!(statuses(&verified, "engines", "reference"), [("blocked", &*a), ("blocked", &*b)]);
        assert!(verified["engines"][0]["detail"].as_str().unwrap().contains("engines/msb"), "{verified}");
    }
    let shown = shop.sandbox.msb("verify").run().code(1);
    assert!(shown.stdout.contains("2 blocked"), "{shown}");
    fs::rename(&hidden, &script).unwrap();
    let loads = || fs::read_to_string(shop.sandbox.work().join("msb/msb.loads")).unwrap().lines().count();
    let before = loads();
    shop.json("verify", 0);
    applied(&shop.sandbox);
    assert_eq!(loads(), before, "nothing was to be loaded again");
}

#[test]
fn an_engine_is_mended_though_no_blob_is_kept() {
    let (shop, _) = with_engine("[settings]\nblobs = \"discard\"\n");
    assert!(shop.kept().is_empty());
    let files = || -> Vec<PathBuf> {
        let files = fs::read_dir(shop.sandbox.work().join("msb/cache/layers")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    };
    for file in files() {
        flip(&file);
    }
    let before = files().len();
    let away = |request: &crate::support::http::Request| {
        request.path.contains("manifests").then(|| Fault::status(404))
    };
    shop.registry.on(away);
    let told = shop.json("verify --repair", 1);
    assert!(told["engines"][0]["detail"].as_str().unwrap().contains("404"), "{told}");
    assert_eq!(files().len(), before, "nothing is taken away before there is something to put in its place");
    shop.registry.behave();
    let repaired = shop.json("verify --repair", 0);
    assert!(
        repaired["engines"].as_array().unwrap().iter().all(|found| found["repaired"] == true),
        "{repaired}"
    );
    assert!(shop.kept().is_empty(), "they are still not kept");
    shop.json("verify", 0);
    shop.registry.forget();
    let output = applied(&shop.sandbox);
    assert_eq!(output.summary()["unchanged"], 2, "{output}");
}

#[test]
fn what_only_the_leaving_owner_wanted_goes_at_once() {
    for verb in ["forget", "prune", "apply"] {
        let shop = shop(KEEP);
        let other = |settings: &str| {
            let wanted = crate::support::check::wanted(&shop.registry.name(), &["a:1", "b:1"]);
            shop.sandbox.write("other.toml", format!("[settings]\n{settings}\n{wanted}"));
            shop.sandbox.msb("apply other.toml").run().success();
        };
        let leave = |extra: &str| match verb {
            "forget" => {
                let owner = shop.sandbox.work().join("images.toml");
                shop.json(&format!("forget {extra} --owner {}", owner.display()), 0)
            }
            "prune" => shop.json(&format!("prune {extra} --allow-empty"), 0),
            _ => shop.sandbox.msb("apply --json --prune --allow-empty").run().success().summary(),
        };
        // Of this owner only the blobs, of the other one only the layers.
        other("blobs = \"discard\"");
        assert_eq!(shop.kept().len(), 8);
        shop.want(KEEP, &[]);
        if verb != "apply" {
            let planned = leave("--dry-run");
            assert_eq!(planned["blobs"].as_array().unwrap().len(), 8, "{planned}");
        }
        let told = leave("");
        assert!(shop.kept().is_empty(), "{verb}: {told}");
        assert_eq!(shop.sandbox.extracted().len(), 2);
        shop.json("verify", 0);

        // The other way round.
        shop.want("", &["a:1", "b:1"]);
        applied(&shop.sandbox);
        other("blobs = \"keep\"\nlayers = false");
        assert_eq!((shop.kept().len(), shop.sandbox.extracted().len()), (8, 2));
        shop.want("", &[]);
        if verb != "apply" {
            let planned = leave("--dry-run");
            assert_eq!(planned["layers"].as_array().unwrap().len(), 2, "{planned}");
        }
        let told = leave("");
        assert_eq!(shop.kept().len(), 8);
        assert!(shop.sandbox.extracted().is_empty(), "{verb}: {told}");
        shop.json("verify", 0);
    }
}

#[test]
fn a_damaged_kept_blob_is_named_when_an_engine_refuses_it_and_fetched_by_the_next_run() {
    let (shop, _) = with_engine("");
    let damaged = shop.top.digest();
    flip(&shop.blob(&damaged));
    fs::write(shop.sandbox.work().join("msb/msb.images"), "{}").unwrap();
    let failed = shop.sandbox.msb("apply").run().code(1);
    assert!(failed.stderr.contains(&format!("the kept blob {damaged}")), "{failed}");
    assert_eq!(shop.loaded(), [shop.name("b:1")], "the other image is sound");
    assert_eq!(shop.indexed(), [shop.name("b:1")]);
    applied(&shop.sandbox);
    assert_eq!(shop.loaded().len(), 2);
    assert!(shop.registry.requests().iter().any(|request| request.contains(&damaged)), "fetched");
    shop.json("verify", 0);
}

/// Puts a link of somebody's in the place of the index, which nobody writes through.
fn divert_index(shop: &Shop) {
    let index = shop.sandbox.home().join("blobs/index.json");
    let elsewhere = shop.sandbox.root().join("elsewhere.json");
    fs::rename(&index, &elsewhere).unwrap();
    std::os::unix::fs::symlink(elsewhere, index).unwrap();
}

#[test]
fn a_repair_whose_index_cannot_be_written_has_failed() {
    if !may_trace("a repair whose index cannot be written was NOT checked") {
        return;
    }
    let shop = shop(KEEP);
    let blob = shop.blob(&shop.top.digest());
    fs::remove_file(&blob).unwrap();
    // The index of the images that are still whole, as a prune would leave it.
    fs::write(shop.sandbox.home().join("blobs/index.json"), "{}").unwrap();
    let (log, blobs) = (shop.sandbox.root().join("calls"), shop.sandbox.home().join("blobs"));
    let trace = ["-f", "-o", log.to_str().unwrap(), "-P", blobs.to_str().unwrap()];
    let refuse = ["-e", "inject=renameat:error=EROFS", env!("CARGO_BIN_EXE_msb-sync")];
    let arguments = [&trace[..], &refuse, &["verify", "--repair"]].concat();
    let output = shop.sandbox.program("strace", &arguments).run().code(1);
    assert!(output.stderr.contains("index.json"), "{output}");
    assert!(blob.exists(), "the blob is there again all the same");
}

#[test]
fn every_failure_at_the_end_of_a_run_is_told_once() {
    let (shop, _) = with_engine(KEEP);
    shop.want(KEEP, &["b:1"]);
    let script = shop.sandbox.work().join("engines/msb");
    fs::rename(&script, script.with_extension("away")).unwrap();
    divert_index(&shop);
    let output = shop.sandbox.msb("apply --prune").run().code(1);
    assert_eq!(output.stderr.matches("index.json").count(), 1, "{output}");
    assert!(output.stderr.contains("engine microsandbox"), "{output}");
}

#[test]
fn a_repair_writes_the_index_that_a_killed_run_has_left_behind() {
    let shop = shop(KEEP);
    let (index, note) =
        (shop.sandbox.home().join("blobs/index.json"), shop.sandbox.home().join(".blobs.behind"));
    fs::write(&index, r#"{"schemaVersion": 2, "manifests": []}"#).unwrap();
    fs::write(&note, "").unwrap();
    shop.json("verify --repair", 0);
    assert_eq!(shop.indexed(), [shop.name("a:1"), shop.name("b:1")]);
    assert!(!note.exists());
}

/// Nobody extracts the layer that the two share: no inventory tells which of them is right.
#[test]
fn an_image_that_says_another_diff_id_of_a_kept_blob_is_refused_in_every_run() {
    const UNEXTRACTED: &str = "[settings]\nlayers = false\nblobs = \"keep\"\n";
    let shared = Layer::of(&[file("shared", noise(3, 1000))]);
    // The one that is looked at first is either of them.
    for (digit, is_recorded_first) in [("0", false), ("f", false), ("f", true)] {
        let mut lying = shared.clone();
        lying.diff_id = format!("sha256:{}", digit.repeat(64));
        let mut content = BlobSet::default();
        for (name, layer) in [("right:1", &shared), ("wrong:1", &lying)] {
            let own = Layer::of(&[file("own", name)]);
            let manifest = content.image(&Image::new(&[layer.clone(), own]));
            content.tag(name, &manifest);
        }
        let registry = FakeRegistry::start(content);
        let shop = Shop { registry, sandbox: Sandbox::new(), base: shared.clone(), top: lying };
        if is_recorded_first {
            // Nobody contradicts it yet.
            shop.want(UNEXTRACTED, &["wrong:1"]);
            applied(&shop.sandbox);
        }
        shop.want(UNEXTRACTED, &["right:1", "wrong:1"]);
        if is_recorded_first {
            shop.sandbox.msb("apply").run();
        }
        for _ in 0..2 {
            shop.sandbox.msb("apply").run().code(1).says("diff_id");
            let plan = shop.json("plan", 1);
            let action = |name: &str| &image(plan["images"].as_array().unwrap(), &shop.name(name))["action"];
            assert_eq!((action("right:1"), action("wrong:1")), (&"keep".into(), &"blocked".into()), "{plan}");
        }
    }
}

/// A directory of somebody's own is none of the business of a run that keeps no blobs.
#[test]
fn what_is_no_layout_of_ours_stays_as_it_is() {
    let shop = shop("");
    let blobs = shop.sandbox.home().join("blobs");
    fs::create_dir(&blobs).unwrap();
    fs::write(blobs.join("mine.txt"), "mine").unwrap();
    let names = || fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let forget = format!("forget {}", shop.name("b:1"));
    for (verb, images) in [
        ("apply", &["a:1", "b:1"][..]),
        ("apply --prune", &["a:1"]),
        ("apply", &["a:1", "b:1"]),
        (&*forget, &["a:1"]),
        ("apply", &["a:1", "b:1"]),
        ("prune", &["a:1"]),
    ] {
        shop.want("", images);
        let output = shop.sandbox.msb(verb).run().success();
        assert!(!output.stderr.contains("warning"), "{verb}: {output}");
        assert_eq!(names(), ["mine.txt"], "{verb}: {output}");
        assert!(!shop.sandbox.home().join(".blobs.behind").exists(), "{verb}: {output}");
    }
}

/// Nor is a layout that another program has made, or a thing that is no directory.
#[test]
fn a_layout_of_somebody_else_loses_nothing() {
    let mine = format!("blobs/sha256/{}", "3".repeat(64));
    for what in ["directory", "symlink", "file", "file inside"] {
        let shop = shop("");
        let (blobs, real) = (shop.sandbox.home().join("blobs"), shop.sandbox.work().join("real"));
        let root = if what == "symlink" { &real } else { &blobs };
        match what {
            "file" => fs::write(root, "mine").unwrap(),
            "file inside" => {
                fs::create_dir(root).unwrap();
                fs::write(root.join("blobs"), "mine").unwrap();
            }
            _ => {
                fs::create_dir_all(root.join("blobs/sha256")).unwrap();
                fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
                fs::write(root.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
                fs::write(root.join(&mine), "mine").unwrap();
            }
        }
        if what == "symlink" {
            std::os::unix::fs::symlink(root, &blobs).unwrap();
        }
        let state = || if root.is_file() { Err(fs::read(root).unwrap()) } else { Ok(Tree::of(root)) };
        let before = state();
        let forget = format!("forget {}", shop.name("b:1"));
        for verb in ["apply --prune", &*forget, "prune"] {
            shop.want("", &["a:1", "b:1"]);
            shop.sandbox.msb("apply").run().success();
            shop.want("", &["a:1"]);
            let output = shop.sandbox.msb(verb).run().success();
            assert!(!output.stderr.contains("warning"), "{what}: {verb}: {output}");
            assert_eq!(state(), before, "{what}: {verb}: {output}");
        }
    }
}

/// An index that cannot be written is no failure of a run whose file keeps no blobs.
#[test]
fn an_index_of_others_that_cannot_be_written_is_a_warning() {
    let shop = shop(KEEP);
    let other = crate::support::check::wanted(&shop.registry.name(), &["b:1"]);
    shop.sandbox.write("other.toml", other);
    divert_index(&shop);
    for _ in 0..2 {
        let output = shop.sandbox.msb("apply other.toml").run().success();
        assert_eq!(output.stderr.matches("warning: the index of the kept blobs").count(), 1, "{output}");
    }
}
