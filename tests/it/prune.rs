//! `prune` and `forget`: what nobody needs goes, what anybody needs stays, and a dry run changes nothing.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::check::{applied, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::{Running, Sandbox};
use crate::support::tree::Tree;

struct Shop {
    registry: FakeRegistry,
    sandbox: Sandbox,
    base: Layer,
    top: Layer,
    other: Layer,
}

/// `a:1` of `base` and `top`, `b:1` of `base` and `other`, both applied.
fn shop() -> Shop {
    let [base, top, other] = ["base", "top", "other"].map(|name| Layer::of(&[file(name, name.repeat(100))]));
    let mut content = BlobSet::with("a:1", &Image::new(&[base.clone(), top.clone()]));
    let descriptor = content.image(&Image::new(&[base.clone(), other.clone()]));
    content.tag("b:1", &descriptor);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["a:1", "b:1"]));
    applied(&sandbox);
    let shop = Shop { registry, sandbox, base, top, other };
    shop.registry.forget();
    shop
}

impl Shop {
    fn want(&self, images: &[&str]) {
        self.sandbox.images(&wanted(&self.registry.name(), images));
    }

    fn json(&self, arguments: &str) -> Value {
        let document = self.sandbox.msb(&format!("{arguments} --json")).run().success().json();
        assert_eq!(document["version"], 1);
        document
    }

    fn has(&self, layer: &Layer) -> bool {
        self.sandbox.extracted().contains(&layer.directory())
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.name())
    }
}

fn digests(document: &Value, key: &str) -> Vec<String> {
    let layers = document[key].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_unlisted_goes_with_the_layers_that_nobody_needs() {
    let shop = shop();
    shop.want(&["b:1"]);
    let before = Tree::snapshot(&shop.sandbox.user());
    let dry = shop.json("prune --dry-run");
    before.assert_matches(&Tree::snapshot(&shop.sandbox.user()), "the home after a dry run");
    assert_eq!(dry["dry_run"], true);
    let document = shop.json("prune");
    assert_eq!(document["dry_run"], false);
    for key in ["images", "layers", "kept", "freed_bytes"] {
        assert_eq!(dry[key], document[key], "{key}");
    }
    assert_eq!(document["images"][0]["reference"], shop.name("a:1"));
    assert_eq!(document["images"][0]["reason"], "not listed any more");
    assert_eq!(digests(&document, "layers"), [shop.top.digest()]);
    assert_eq!(document["freed_bytes"], 300);
    assert!(shop.has(&shop.base) && shop.has(&shop.other) && !shop.has(&shop.top));
    assert_eq!(listed(&shop.sandbox).len(), 1);
    assert_eq!(shop.sandbox.msb("prune").run().success().stdout, "Nothing to remove.\n");
    shop.sandbox.msb("verify").run().success();
    assert!(shop.registry.requests().is_empty(), "{:?}", shop.registry.requests());
}

#[test]
fn a_broken_or_missing_file_removes_nothing() {
    let shop = shop();
    for text in ["[registry.x]\nimages = [\"BAD\"]\n", "oops", "[registri.x]\n"] {
        shop.sandbox.images(text);
        shop.sandbox.msb("prune").run().code(2);
    }
    shop.sandbox.msb("prune nothing.toml").run().code(2);
    // A file that has brought images is not another one that is there.
    shop.sandbox.write("imagez.toml", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply imagez.toml").run().success();
    fs::remove_file(shop.sandbox.work().join("imagez.toml")).unwrap();
    let gone = shop.sandbox.msb("prune imagez.toml").run().code(2);
    let gone = gone.says("cannot read imagez.toml").says("msb-sync forget --owner imagez.toml");
    assert!(!gone.stderr.contains("did you mean"), "{gone}");
    shop.sandbox.msb("prune imagex.toml").run().code(2).says("did you mean images.toml?");
    // The hint is a command that does so.
    shop.sandbox.write("my images.toml", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply").arg("my images.toml").run().success();
    fs::remove_file(shop.sandbox.work().join("my images.toml")).unwrap();
    let home = shop.sandbox.home().display().to_string();
    let gone = shop.sandbox.msb(&format!("--home {home} prune")).arg("my images.toml").run().code(2);
    gone.says(&format!("msb-sync --home {home} forget --owner 'my images.toml'"));
    assert_eq!(shop.sandbox.extracted().len(), 3);
    assert_eq!(listed(&shop.sandbox).len(), 2);
}

#[test]
fn an_image_stays_until_both_files_drop_it_and_pulled_ones_stay() {
    let shop = shop();
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply other.toml").run().success();
    shop.sandbox.msb(&format!("pull {}", shop.name("b:1"))).run().success();
    shop.want(&[]);
    let document = shop.json("prune --allow-empty");
    assert!(document["images"].as_array().unwrap().iter().all(|image| image["stays"] == true), "{document}");
    assert!(digests(&document, "layers").is_empty());
    assert_eq!(listed(&shop.sandbox).len(), 2);
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &[]));
    let document = shop.json("prune --allow-empty other.toml");
    assert_eq!(digests(&document, "layers"), [shop.top.digest()]);
    assert_eq!(listed(&shop.sandbox)[0]["reference"], shop.name("b:1"));
    shop.sandbox.msb(&format!("forget {}", shop.name("b:1"))).run().success();
    assert!(shop.sandbox.extracted().is_empty() && listed(&shop.sandbox).is_empty());
}

#[test]
fn an_image_that_stays_for_another_file_is_not_counted_as_removed() {
    let shop = shop();
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply other.toml").run().success();
    shop.want(&["b:1"]);
    let output = shop.sandbox.msb("apply --prune --json").run().success();
    assert_eq!(output.summary()["removed"], 0, "{output}");
    assert!(!output.stdout.contains("\"remove\""), "{output}");
    shop.want(&["a:1", "b:1"]);
    applied(&shop.sandbox);
    shop.want(&["b:1"]);
    let output = shop.sandbox.msb("apply --prune").run().success();
    assert!(!output.stdout.contains("removed"), "{output}");
    assert!(output.stdout.contains("1 image stays for others"), "{output}");
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &["b:1"]));
    let output = shop.sandbox.msb("apply other.toml --prune --json").run().success();
    assert_eq!(output.summary()["removed"], 1, "{output}");
}

#[test]
fn orphans_and_leftovers_go_and_directories_of_others_stay() {
    let shop = shop();
    let layers = shop.sandbox.layers();
    let foreign = format!("sha256:{}.extracted", "0".repeat(64));
    fs::create_dir(layers.join(&foreign)).unwrap();
    let private = shop.sandbox.home().join(".layers.msb-sync");
    // An orphan: rows gone, directory and record still there.
    shop.sandbox
        .program("sqlite3", &[shop.sandbox.home().join("oci.db").to_str().unwrap(), "DELETE FROM images; DELETE FROM manifest_layers; DELETE FROM layers; DELETE FROM sync_images; DELETE FROM sync_image_layers; DELETE FROM sync_owners;"])
        .run()
        .success();
    let left = format!("sha256:{}", "1".repeat(64));
    fs::create_dir_all(private.join("staging").join(&left).join("tree")).unwrap();
    fs::write(private.join("staging").join(&left).join("tree/file"), "12345").unwrap();
    shop.want(&[]);
    let dry = shop.json("prune --dry-run --allow-empty");
    let document = shop.json("prune --allow-empty");
    assert_eq!(dry["layers"], document["layers"]);
    assert_eq!(digests(&document, "layers").len(), 4, "{document}");
    assert!(document["layers"].as_array().unwrap().iter().any(|layer| layer["size"] == 5), "{document}");
    assert_eq!(shop.sandbox.extracted(), [foreign]);
    assert!(fs::read_dir(private.join("staging")).unwrap().next().is_none());
    assert!(fs::read_dir(private.join("records")).unwrap().next().is_none());
}

#[test]
fn a_layer_in_use_is_kept_and_named() {
    let shop = shop();
    shop.want(&["b:1"]);
    let held = fs::File::open(shop.sandbox.layers().join(shop.top.directory()).join("top")).unwrap();
    let me = format!("process {}", std::process::id());
    for arguments in ["prune --dry-run", "prune"] {
        let document = shop.json(arguments);
        assert_eq!(digests(&document, "kept"), [shop.top.digest()], "{document}");
        assert!(document["kept"][0]["reason"].as_str().unwrap().contains(&me), "{document}");
        assert!(digests(&document, "layers").is_empty());
    }
    assert!(shop.has(&shop.top));
    drop(held);
    assert_eq!(digests(&shop.json("prune"), "layers"), [shop.top.digest()]);

    let held = fs::File::open(shop.sandbox.layers().join(shop.other.directory()).join("other")).unwrap();
    shop.want(&[]);
    shop.sandbox.msb("apply --prune --allow-empty").run().success().says(&me);
    assert!(shop.has(&shop.other) && !shop.has(&shop.base));
    drop(held);
}

/// The names in the directory of partial downloads.
fn downloads(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.home().join("downloads")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A run that has received a part of `layer`, and gets no more of it.
fn stuck(sandbox: &Sandbox, registry: &FakeRegistry, layer: &Layer) -> Running {
    registry.on(|request| request.path.contains("/blobs/").then(|| Fault::stall(100_000)));
    let running = sandbox.msb("apply").spawn();
    let part = sandbox.home().join("downloads").join(format!("{}.part", layer.digest()));
    eventually("a part has arrived", Duration::from_secs(30), || {
        fs::metadata(&part).is_ok_and(|metadata| metadata.len() == 100_000)
    });
    running
}

#[test]
fn partial_downloads_of_dead_runs_go_and_those_of_living_ones_stay() {
    let layer = Layer::of(&[file("large", noise(3, 300_000))]);
    let registry = FakeRegistry::start(BlobSet::with("a:1", &Image::new(std::slice::from_ref(&layer))));
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["a:1"]));
    let part = format!("{}.part", layer.digest());
    let running = stuck(&sandbox, &registry, &layer);
    for arguments in ["prune --dry-run", "prune"] {
        let document = sandbox.msb(&format!("{arguments} --json")).run().success().json();
        assert!(digests(&document, "downloads").is_empty(), "{document}");
    }
    assert_eq!(downloads(&sandbox), std::slice::from_ref(&part));
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);

    // What has such a name and is no file of ours, and what has another name, is left alone.
    let others = ["mine".to_owned(), format!("sha256:{}.part", "0".repeat(64))];
    let directory = sandbox.home().join("downloads");
    fs::write(directory.join(&others[0]), "mine").unwrap();
    std::os::unix::fs::symlink(directory.join("mine"), directory.join(&others[1])).unwrap();
    let before = Tree::snapshot(&sandbox.user());
    let dry = sandbox.msb("prune --dry-run --json").run().success().json();
    before.assert_matches(&Tree::snapshot(&sandbox.user()), "the home after a dry run");
    assert_eq!(digests(&dry, "downloads"), [layer.digest()]);
    let document = sandbox.msb("prune --json").run().success().json();
    assert_eq!((&document["downloads"], &document["freed_bytes"]), (&dry["downloads"], &100_000.into()));
    assert_eq!(downloads(&sandbox), others);
    assert_eq!(sandbox.msb("prune").run().success().stdout, "Nothing to remove.\n");

    // A run that is killed before there ever was a catalog is no other.
    registry.behave();
    let running = stuck(&sandbox, &registry, &layer);
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);
    fs::remove_file(sandbox.home().join("oci.db")).unwrap();
    let shown = sandbox.msb("prune").run().success();
    assert!(shown.stdout.contains("partial download of "), "{shown}");
    assert_eq!(downloads(&sandbox), others);
    assert!(!sandbox.home().join("oci.db").exists());
    registry.behave();
    applied(&sandbox);
}

#[test]
fn forget_takes_all_or_none() {
    let shop = shop();
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    shop.sandbox
        .msb(&format!("forget {a} {} {}", shop.name("a:2"), shop.name("c:1")))
        .run()
        .code(1)
        .says("a:2")
        .says("c:1")
        .says("did you mean");
    assert_eq!(listed(&shop.sandbox).len(), 2);
    let dry = shop.json(&format!("forget --dry-run {a}"));
    assert_eq!(listed(&shop.sandbox).len(), 2);
    let document = shop.json(&format!("forget {a}"));
    assert_eq!(dry["layers"], document["layers"]);
    assert_eq!(digests(&document, "layers"), [shop.top.digest()]);
    assert_eq!(listed(&shop.sandbox)[0]["reference"], b);
    // The file lists it still, so the next apply brings it back.
    applied(&shop.sandbox);
    assert!(shop.has(&shop.top));
}

#[test]
fn what_a_file_brought_that_is_gone_is_forgotten_by_its_owner() {
    let shop = shop();
    let other = shop.sandbox.write("deep/other.toml", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply deep/other.toml").run().success();
    shop.registry.forget();
    let image = |name: &str| {
        let image = listed(&shop.sandbox).into_iter().find(|image| image["reference"] == shop.name(name));
        image.unwrap_or_else(|| panic!("{name} is not listed"))
    };
    let mine = shop.sandbox.work().join("images.toml");
    assert_eq!(image("a:1")["owners"], serde_json::json!([other, mine]));
    assert_eq!(image("a:1")["owner_gone"], false);

    // There is no file any more, nor its directory.
    fs::remove_dir_all(other.parent().unwrap()).unwrap();
    assert_eq!((&image("a:1")["owner_gone"], &image("b:1")["owner_gone"]), (&true.into(), &false.into()));
    let shown = shop.sandbox.msb("list").run().success();
    assert!(shown.stdout.contains("deep/other.toml (gone)"), "{shown}");
    // Named by a path that needs its `..` taken away.
    let document = shop.json("forget --owner deep/../deep/./other.toml");
    assert_eq!(document["images"][0]["stays"], true, "{document}");
    assert!(document["images"][0]["reason"].as_str().unwrap().contains("images.toml"), "{document}");
    assert!(digests(&document, "layers").is_empty() && shop.has(&shop.top));
    assert_eq!(image("a:1")["owners"], serde_json::json!([mine]));

    for (unknown, similar) in
        [("deep/other.toml", "list"), ("imagse.toml", "images.toml"), ("x/images.toml", "images.toml")]
    {
        let refused = shop.sandbox.msb(&format!("forget --owner {unknown}")).run().code(1).says(unknown);
        let hint = refused.stderr.lines().find(|line| line.contains("hint: "));
        assert!(hint.is_some_and(|hint| hint.contains(similar)), "{refused}");
    }
    fs::remove_file(&mine).unwrap();
    let dry = shop.json("forget --dry-run --owner images.toml");
    assert_eq!(listed(&shop.sandbox).len(), 2);
    let document = shop.json("forget --owner images.toml");
    assert_eq!(dry["layers"], document["layers"]);
    assert_eq!(digests(&document, "layers").len(), 3, "{document}");
    assert!(shop.sandbox.extracted().is_empty() && listed(&shop.sandbox).is_empty());
    assert!(shop.registry.requests().is_empty(), "{:?}", shop.registry.requests());
}

#[test]
fn what_pull_and_microsandbox_brought_stays_when_an_owner_is_forgotten() {
    let shop = shop();
    shop.sandbox.msb(&format!("pull {}", shop.name("a:1"))).run().success();
    let warned = shop.sandbox.msb("forget --owner images.toml").run().success();
    // The file is there: whoever forgets what it brought should know.
    assert!(warned.stderr.contains("images.toml is still there"), "{warned}");
    let left = listed(&shop.sandbox);
    assert_eq!((left.len(), &left[0]["managed_by"]), (1, &"pull".into()), "{left:?}");
    assert!(shop.has(&shop.base) && shop.has(&shop.top) && !shop.has(&shop.other));
}

#[test]
fn a_damaged_layer_of_microsandbox_that_is_ours_too_is_mended() {
    let shop = shop();
    let database = shop.sandbox.home().join("oci.db");
    let name = shop.name("a:1");
    let sql = ["sync_images", "sync_image_layers", "sync_owners"]
        .map(|table| format!("DELETE FROM {table} WHERE reference = '{name}';"));
    shop.sandbox.program("sqlite3", &[database.to_str().unwrap(), &sql.concat()]).run().success();
    fs::remove_dir_all(shop.sandbox.layers().join(shop.base.directory())).unwrap();
    let verified = shop.sandbox.msb(&format!("verify {name}")).run().code(1);
    assert!(verified.stdout.contains("msb-sync verify --repair"), "{verified}");
    assert!(!verified.stdout.contains("Let microsandbox"), "{verified}");
    shop.sandbox.msb(&format!("verify --repair {name}")).run().success();
    assert!(shop.has(&shop.base));
}

#[test]
fn what_microsandbox_pulled_is_left_alone() {
    let shop = shop();
    let database = shop.sandbox.home().join("oci.db");
    let sql = "DELETE FROM sync_images; DELETE FROM sync_image_layers; DELETE FROM sync_owners;";
    shop.sandbox.program("sqlite3", &[database.to_str().unwrap(), sql]).run().success();
    shop.want(&[]);
    shop.sandbox.msb(&format!("forget {}", shop.name("a:1"))).run().code(1).says("microsandbox");
    // Nobody but microsandbox mends these.
    fs::remove_dir_all(shop.sandbox.layers().join(shop.top.directory())).unwrap();
    for repair in ["", " --repair"] {
        let verified = shop.sandbox.msb(&format!("verify {}{repair}", shop.name("a:1"))).run().code(1);
        assert!(verified.stdout.contains("Let microsandbox pull its own images again"), "{verified}");
        assert!(!verified.stdout.contains("verify --repair"), "{verified}");
    }
    assert!(shop.json("prune --allow-empty")["layers"].as_array().unwrap().is_empty());
    assert_eq!(shop.sandbox.extracted().len(), 2);
}

#[test]
fn layers_that_another_home_needs_stay() {
    let shop = shop();
    let shared = shop.sandbox.root().join("shared");
    let settings = format!("[settings]\nlayers = {:?}\n", shared.to_str().unwrap());
    let file = |images: &[&str]| format!("{}\n{settings}", wanted(&shop.registry.name(), images));
    for (name, images) in [("one", &["a:1"][..]), ("two", &["a:1", "b:1"])] {
        let path = shop.sandbox.write(&format!("{name}.toml"), file(images));
        shop.sandbox.msb(&format!("--home ../{name} apply {}", path.display())).run().success();
    }
    shop.sandbox.write("two.toml", file(&[]));
    let document = shop.json("--home ../two prune --allow-empty two.toml");
    assert_eq!(digests(&document, "layers"), [shop.other.digest()], "{document}");
    shop.sandbox.msb("--home ../one verify").run().success();
}

/// A catalog that was emptied says of nothing that it is needed; that is no word to remove anything on.
#[test]
fn an_emptied_catalog_loses_no_layer_to_its_own_prune_or_to_anothers() {
    let shop = shop();
    let shared = shop.sandbox.root().join("shared");
    let settings = format!("[settings]\nlayers = {:?}\n", shared.to_str().unwrap());
    let file = |images: &[&str]| format!("{}\n{settings}", wanted(&shop.registry.name(), images));
    for (name, images) in [("one", &["a:1"][..]), ("two", &["a:1", "b:1"])] {
        let path = shop.sandbox.write(&format!("{name}.toml"), file(images));
        shop.sandbox.msb(&format!("--home ../{name} apply {}", path.display())).run().success();
    }
    let database = shop.sandbox.root().join("one/oci.db");
    let only_microsandbox = "CREATE TABLE images (id INTEGER PRIMARY KEY, reference TEXT NOT NULL UNIQUE, \
        size_bytes INTEGER NOT NULL, last_used_at DATETIME, created_at DATETIME, modified_at DATETIME);";
    for sql in ["", only_microsandbox] {
        fs::write(&database, "").unwrap();
        shop.sandbox.program("sqlite3", &[database.to_str().unwrap(), sql]).run().success();
        for arguments in ["--home ../one prune --dry-run one.toml", "--home ../one prune one.toml"] {
            let output = shop.sandbox.msb(&format!("{arguments} --json")).run().success();
            assert!(digests(&output.json(), "layers").is_empty(), "{output}");
            assert!(output.stderr.contains("nothing is recorded in"), "{output}");
        }
        shop.sandbox.write("two.toml", file(&[]));
        let output = shop.sandbox.msb("--home ../two prune --allow-empty two.toml --json").run().success();
        assert!(digests(&output.json(), "layers").is_empty(), "{output}");
        assert!(output.stderr.contains("lost what its catalog recorded"), "{output}");
        assert_eq!(fs::read_dir(&shared).unwrap().count(), 3);
    }
    // One that was taken away altogether is no better.
    fs::remove_file(&database).unwrap();
    let output = shop.sandbox.msb("--home ../one prune one.toml --json").run().success();
    assert!(digests(&output.json(), "layers").is_empty(), "{output}");
    assert!(output.stderr.contains("nothing is recorded in"), "{output}");
    // Neither needs more than what it was made for.
    shop.sandbox.msb("--home ../one apply one.toml").run().success();
    let document = shop.json("--home ../two prune --allow-empty two.toml");
    assert_eq!(digests(&document, "layers"), [shop.other.digest()], "{document}");
    shop.sandbox.msb("--home ../one verify").run().success();
}

/// An image that is still to come may need any of it.
#[test]
fn layers_that_nobody_needs_wait_with_the_images() {
    let shop = shop();
    let database = shop.sandbox.home().join("oci.db");
    let top = shop.top.digest();
    let orphan = format!(
        "PRAGMA foreign_keys = ON; DELETE FROM images WHERE reference LIKE '%/a:1'; DELETE FROM sync_owners WHERE \
         reference LIKE '%/a:1'; DELETE FROM sync_images WHERE reference LIKE '%/a:1'; DELETE FROM sync_image_layers \
         WHERE reference LIKE '%/a:1'; DELETE FROM layers WHERE digest = '{top}';"
    );
    shop.sandbox.program("sqlite3", &[database.to_str().unwrap(), &orphan]).run().success();
    shop.want(&["a:1"]);
    for arguments in ["prune --dry-run", "prune"] {
        let document = shop.json(arguments);
        assert_eq!(document["removals_waiting"], 1, "{document}");
        assert!(digests(&document, "layers").is_empty(), "{document}");
    }
    let waits = shop.sandbox.msb("prune").run().success();
    assert!(waits.stdout.contains("Bring what is listed first: msb-sync apply\n"), "{waits}");
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &["b:1"]));
    shop.sandbox.msb("apply other.toml").run().success();
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &["a:1"]));
    let waits = shop.sandbox.msb("prune other.toml").run().success();
    assert!(waits.stdout.contains("first: msb-sync apply other.toml\n"), "{waits}");
    assert_eq!(shop.sandbox.extracted().len(), 3);
    // Where no image would go, nothing waits.
    shop.want(&["a:1", "b:1"]);
    assert_eq!(digests(&shop.json("prune"), "layers"), [top]);
}

#[test]
fn files_whose_paths_differ_in_bytes_that_are_no_text_are_two_owners() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let shop = shop();
    let name = shop.registry.name();
    shop.want(&[]);
    shop.sandbox.msb("prune --allow-empty").run().success();
    let file = |byte: u8| shop.sandbox.work().join(OsStr::from_bytes(&[b'f', byte, b'.', b't']));
    for (byte, image) in [(0xfe, "a:1"), (0xff, "b:1")] {
        fs::write(file(byte), wanted(&name, &[image])).unwrap();
        shop.sandbox.msb("apply").arg(file(byte)).run().success();
    }
    let managed: Vec<String> =
        listed(&shop.sandbox).iter().map(|image| image["managed_by"].as_str().unwrap().to_owned()).collect();
    assert!(managed[0].starts_with('/') && managed[0].ends_with("f\\xfe.t"), "{managed:?}");
    assert!(managed[1].ends_with("f\\xff.t"), "{managed:?}");
    // What one of them drops is not the other's.
    fs::write(file(0xfe), wanted(&name, &[])).unwrap();
    shop.sandbox.msb("prune --allow-empty").arg(file(0xfe)).run().success();
    let left = listed(&shop.sandbox);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["reference"], shop.name("b:1"));
    // Its file is found again, for its registries.
    fs::remove_dir_all(shop.sandbox.layers().join(shop.other.directory())).unwrap();
    let repaired = shop.sandbox.msb("verify --repair").run().success();
    assert!(!repaired.stderr.contains("cannot be used"), "{repaired}");
}

/// Two homes, of which the second has never had a layer in the directory of the first.
#[test]
fn a_home_claims_no_layers_that_are_nothing_to_it() {
    let shop = shop();
    let shared = shop.sandbox.root().join("shared");
    let settings = format!("[settings]\nlayers = {:?}\n", shared.to_str().unwrap());
    let name = shop.registry.name();
    shop.sandbox.write("one.toml", format!("{}\n{settings}", wanted(&name, &["a:1"])));
    shop.sandbox.write("two.toml", wanted(&name, &["b:1"]));
    for home in ["one", "two"] {
        shop.sandbox.msb(&format!("--home ../{home} apply {home}.toml")).run().success();
    }
    shop.sandbox.write("two.toml", format!("{}\n{settings}", wanted(&name, &["b:1"])));
    shop.sandbox.msb("--home ../two prune two.toml").run().success();
    fs::remove_dir_all(shop.sandbox.root().join("two")).unwrap();
    shop.sandbox.write("one.toml", settings);
    let document = shop.json("--home ../one prune --allow-empty one.toml");
    assert_eq!(digests(&document, "layers").len(), 2, "{document}");
}

#[test]
fn a_moved_home_that_somebody_works_on_is_not_waited_for() {
    let shop = shop();
    let moved = shop.sandbox.root().join("moved");
    fs::rename(shop.sandbox.home(), &moved).unwrap();
    let lock = fs::File::open(moved.join(".msb-sync.lock")).unwrap();
    lock.lock().unwrap();
    let output = shop.sandbox.msb("--home ../moved apply").run().success();
    assert!(output.stdout.contains("In sync"), "{output}");
}

/// An image that another owner keeps leaves behind what its file alone had spared.
#[test]
fn a_dry_run_spares_what_the_run_will() {
    let shop = shop();
    let settings = "[settings]\nkeep = 1\n";
    let want = |images: &[&str]| {
        let wanted = wanted(&shop.registry.name(), images);
        shop.sandbox.images(&format!("{settings}{wanted}"));
    };
    want(&["a:1", "b:1"]);
    applied(&shop.sandbox);
    shop.registry.edit(|content| {
        let manifest = content.image(&Image::new(&[shop.base.clone(), shop.other.clone()]));
        content.tag("a:1", &manifest);
        let manifest = content.image(&Image::new(std::slice::from_ref(&shop.other)));
        content.tag("b:1", &manifest);
    });
    applied(&shop.sandbox);
    shop.sandbox.msb(&format!("pull {}", shop.name("a:1"))).run().success();
    want(&["b:1"]);
    let (dry, document) = (shop.json("prune --dry-run"), shop.json("prune"));
    assert_eq!(digests(&document, "layers"), [shop.top.digest()], "{document:#}");
    for key in ["images", "layers", "spared", "spared_bytes"] {
        assert_eq!(dry[key], document[key], "{key}");
    }
}

/// An earlier layer stays like a present one where a name of its directory leads elsewhere for the moment.
#[test]
fn an_earlier_layer_stays_when_a_second_name_of_its_directory_is_not_mounted() {
    let shop = shop();
    let work = shop.sandbox.work();
    fs::create_dir_all(work.join("first/l")).unwrap();
    fs::create_dir(work.join("second")).unwrap();
    let second = work.join("second/l");
    std::os::unix::fs::symlink("../first/l", &second).unwrap();
    let want = |settings: &str, image: &str| {
        format!("[settings]\n{settings}\n{}", wanted(&shop.registry.name(), &[image]))
    };
    shop.sandbox.write("first.toml", want("layers = \"first/l\"", "b:1"));
    shop.sandbox.images(&want("keep = 1\nlayers = \"second/l\"", "a:1"));
    applied(&shop.sandbox);
    shop.sandbox.msb("apply first.toml").run().success();
    let new = Layer::of(&[file("new", "new")]);
    shop.registry.edit(|content| {
        let manifest = content.image(&Image::new(std::slice::from_ref(&new)));
        content.tag("a:1", &manifest);
    });
    applied(&shop.sandbox);
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    let output = shop.sandbox.msb("prune first.toml").run().success();
    for layer in [&shop.top, &new] {
        assert!(work.join("first/l").join(layer.directory()).exists(), "{output}");
    }
    assert!(output.stderr.contains("layers in") && output.stderr.contains("stay: images need"), "{output}");
}

/// A former directory that cannot be read is left out, of what is counted as spared, too.
#[test]
fn a_former_directory_that_cannot_be_read_stops_no_prune_that_spares() {
    let shop = shop();
    let want = |layers: &str, images: &[&str]| {
        let wanted = wanted(&shop.registry.name(), images);
        shop.sandbox.images(&format!("[settings]\nkeep = 1\nlayers = \"{layers}\"\n{wanted}"));
    };
    for layers in ["former/l", "present/l"] {
        want(layers, &["a:1", "b:1"]);
        applied(&shop.sandbox);
    }
    shop.registry.edit(|content| {
        let manifest = content.image(&Image::new(std::slice::from_ref(&shop.base)));
        content.tag("a:1", &manifest);
    });
    applied(&shop.sandbox);
    let records = shop.sandbox.work().join("former/.l.msb-sync");
    fs::remove_dir_all(&records).unwrap();
    fs::write(&records, "precious").unwrap();
    want("present/l", &["a:1"]);
    for verb in ["prune --dry-run", "prune", "prune"] {
        let output = shop.sandbox.msb(verb).run().success();
        assert!(
            output.stderr.contains("former layers directory")
                && output.stdout.contains("1 earlier digest spared ("),
            "{verb}: {output}"
        );
    }
}

/// A prune that fails later on tells what it has done so far.
#[test]
fn what_is_gone_is_told_by_a_prune_that_fails() {
    let shop = shop();
    let downloads = shop.sandbox.home().join("downloads");
    let part = downloads.join(format!("sha256:{}.part", "a".repeat(64)));
    for human in [false, true] {
        fs::create_dir_all(&downloads).unwrap();
        fs::write(&part, "x".repeat(100)).unwrap();
        let lock = shop.sandbox.home().join(".layers.msb-sync/lock");
        let _ = fs::remove_file(&lock);
        let _ = fs::create_dir(&lock);
        shop.want(&["b:1"]);
        let verb = if human { "prune" } else { "prune --json" };
        let output = shop.sandbox.msb(verb).run().code(1);
        assert!(!part.exists() && output.stderr.contains(".layers.msb-sync/lock"), "{output}");
        if human {
            assert!(output.stdout.contains("1 partial download"), "{output}");
            continue;
        }
        let document = output.json();
        assert_eq!(document["downloads"].as_array().unwrap().len(), 1, "{document:#}");
        assert_eq!(document["freed_bytes"], 100, "{document:#}");
        assert!(document["error"]["message"].as_str().unwrap().contains("lock"), "{document:#}");
        assert!(document["images"].as_array().unwrap().is_empty(), "{document:#}");
    }
}
