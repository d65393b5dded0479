//! Whose a reference in an engine is: what several owners, spellings, tags and pins want there stays, and what nobody
//! wants any more is told and goes. Scripts stand in for the engines' programs.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::check::{event, image, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;
use crate::support::{SOON, eventually};

/// A registry that has the images a:1 and b:1.
struct Shop {
    sandbox: Sandbox,
    registry: FakeRegistry,
    podman: PathBuf,
}

fn made_of(content: &str) -> Image {
    Image::new(&[Layer::of(&[file("content", content)])])
}

fn shop() -> Shop {
    let mut content = BlobSet::with("a:1", &made_of("a"));
    let b = content.image(&made_of("b"));
    content.tag("b:1", &b);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let podman = program(&sandbox, "engines", "podman");
    Shop { sandbox, registry, podman }
}

/// Puts the script in the place of a program.
fn program(sandbox: &Sandbox, directory: &str, name: &str) -> PathBuf {
    let directory = sandbox.root().join(directory);
    std::fs::create_dir_all(&directory).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py");
    symlink(script, directory.join(name)).unwrap();
    directory.join(name)
}

impl Shop {
    /// The table of podman, and images.
    fn text(&self, images: &[&str]) -> String {
        let images = wanted(&self.registry.name(), images);
        format!("[engine.podman]\ncommand = \"{}\"\n{images}", self.podman.display())
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.name())
    }

    /// Moves the tag, and returns the digest that it means now.
    fn moved(&self, name: &str, content: &str) -> String {
        self.registry.edit(|blobs| {
            let image = blobs.image(&made_of(content));
            blobs.tag(name, &image);
            image.digest().to_owned()
        })
    }

    /// The images that an engine has been given, with their digests.
    fn state(&self, engine: &str) -> Value {
        let text = std::fs::read(self.sandbox.user().join(format!("{engine}.images")));
        text.map_or_else(|_| json!({}), |text| serde_json::from_slice(&text).unwrap())
    }

    /// The names of the images that podman has.
    fn has(&self) -> Vec<String> {
        self.state("podman").as_object().unwrap().keys().cloned().collect()
    }

    fn away(&self) -> PathBuf {
        self.podman.with_extension("away")
    }
}

#[test]
fn another_spelling_of_an_engine_takes_nothing_out() {
    let shop = shop();
    let prune = "[settings]\nprune = true\n";
    shop.sandbox.images(&format!("{prune}{}", shop.text(&["a:1", "b:1"])));
    shop.sandbox.msb("apply").run().success();
    let elsewhere = Shop { podman: program(&shop.sandbox, "other", "podman"), ..shop };
    let text = elsewhere.text(&["a:1", "b:1"]);
    elsewhere.sandbox.images(&format!("{prune}{text}"));
    for run in 0..2 {
        let summary = elsewhere.sandbox.msb("apply --json").run().success().summary();
        assert_eq!(
            (&summary["engine_removals"], &summary["engine_loads"]),
            (&json!(0), &json!(0)),
            "run {run}"
        );
    }
    assert_eq!(elsewhere.has().len(), 2);
    let verified = elsewhere.sandbox.msb("verify --json").run().success().json();
    assert_eq!(verified["engines"].as_array().unwrap().len(), 2, "{verified:#}");
    // They are ours still: without the table they go.
    elsewhere.sandbox.images(&format!("{prune}{}", wanted(&elsewhere.registry.name(), &["a:1", "b:1"])));
    elsewhere.sandbox.msb("apply").run().success();
    assert!(elsewhere.has().is_empty());
}

#[test]
fn a_reference_stays_for_the_other_file_that_lists_it() {
    let shop = shop();
    for name in ["one.toml", "two.toml", "three.toml"] {
        shop.sandbox.write(name, shop.text(&["a:1", "b:1"]));
        shop.sandbox.msb("apply").arg(name).run().success();
    }
    shop.sandbox.write("one.toml", shop.text(&["b:1"]));
    shop.sandbox.msb("apply --prune one.toml").run().success();
    std::fs::remove_file(shop.sandbox.work().join("three.toml")).unwrap();
    shop.sandbox.msb("forget --owner three.toml").run().success();
    assert_eq!(shop.has(), [shop.name("a:1"), shop.name("b:1")]);
    let summary = shop.sandbox.msb("apply --json two.toml").run().success().summary();
    assert_eq!(summary["engine_loads"], 0, "{summary:#}");
    shop.sandbox.write("two.toml", shop.text(&["b:1"]));
    shop.sandbox.msb("apply --prune two.toml").run().success();
    assert_eq!(shop.has(), [shop.name("b:1")], "the last one who listed it has given it up");
}

#[test]
fn a_plan_shows_what_leaves_an_engine() {
    let shop = shop();
    shop.sandbox.images(&shop.text(&["a:1", "b:1"]));
    shop.sandbox.msb("apply").run().success();
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    let narrowed = |extra: &str| {
        let name = shop.registry.name();
        format!(
            "[engine.podman]\ncommand = {:?}\n[registry.{name:?}]\nimages = [\"a:1\", {{ name = \"b\", tag = \"1\", \
             engines = [] }}{extra}]\n",
            shop.podman
        )
    };
    // An image that cannot be had lets it wait.
    shop.sandbox.images(&narrowed(", \"none:1\""));
    let summary = shop.sandbox.msb("apply --prune --json").run().code(1).summary();
    assert_eq!((&summary["removals_waiting"], &summary["engine_removals"]), (&json!(1), &json!(0)));
    assert_eq!(shop.has(), [a.clone(), b.clone()]);

    shop.sandbox.images(&narrowed(""));
    shop.sandbox.msb("plan --detailed-exitcode").run().success();
    let plan = shop.sandbox.msb("plan --prune --detailed-exitcode --json").run().code(2).json();
    assert_eq!(plan["changes"], 1, "{plan:#}");
    let planned = image(plan["images"].as_array().unwrap(), &b);
    assert_eq!((&planned["action"], &planned["engines"]), (&json!("keep"), &json!({"podman": "remove"})));
    assert_eq!(plan["engine_removals"], json!([{"engine": "podman", "reference": b}]));
    let shown = shop.sandbox.msb("plan --prune").run().success();
    let line = shown.stdout.lines().find(|line| line.trim_start().starts_with('-'));
    assert!(line.is_some_and(|line| line.contains(&b) && line.contains("from podman")), "{shown}");
    assert!(
        !shown.stdout.contains("In sync") && shown.stdout.contains("1 to remove from engines"),
        "{shown}"
    );
    let output = shop.sandbox.msb("apply --prune --json").run().success();
    assert_eq!(event(&output, &b)["engines"], json!({"podman": "remove"}), "{output}");
    assert_eq!(output.summary()["engine_removals"], 1, "{output}");
    assert_eq!(shop.has(), [a]);
    shop.sandbox.msb("plan --prune --detailed-exitcode").run().success();
}

#[test]
fn prune_takes_out_of_an_engine_what_its_entry_wants_there_no_more() {
    let shop = shop();
    shop.sandbox.images(&shop.text(&["a:1", "b:1"]));
    shop.sandbox.msb("apply").run().success();
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    shop.sandbox.images(&shop.text(&["a:1", "{ name = \"b\", tag = \"1\", engines = [\"podman\"] }"]));
    shop.sandbox.msb("prune").run().success();
    assert_eq!(shop.has(), [a.clone(), b.clone()], "the file wants both there");
    shop.sandbox.images(&shop.text(&["a:1", "{ name = \"b\", tag = \"1\", engines = [] }"]));
    let pruned = shop.sandbox.msb("prune --json").run().success().json();
    assert_eq!(pruned["engines"], json!([{"engine": "podman", "reference": b}]), "{pruned:#}");
    assert_eq!(shop.has(), [a]);
}

#[test]
fn a_tag_and_a_pin_of_it_come_to_rest() {
    let shop = shop();
    let old = shop.moved("a:1", "old");
    let pin = format!("a:1@{old}");
    let msb = program(&shop.sandbox, "engines", "msb");
    let text = |engine: &str| format!("{engine}\n{}", wanted(&shop.registry.name(), &["a:1", &pin]));
    let both = text(&format!("[engine.microsandbox]\ncommand = {msb:?}"));
    shop.sandbox.images(&both);
    shop.sandbox.msb("apply").run().success();
    let new = shop.moved("a:1", "new");
    shop.sandbox.msb("apply").run().success();
    assert_eq!(shop.state("msb"), json!({shop.name("a:1"): new, shop.name(&pin): old}));
    let summary = shop.sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&summary["unchanged"], &summary["engine_loads"]), (&json!(2), &json!(0)), "{summary:#}");
    shop.sandbox.msb("plan --detailed-exitcode").run().success();

    // podman has no name but the tag's for the pin.
    shop.sandbox.images(&text(&format!("[engine.podman]\ncommand = {:?}", shop.podman)));
    for _ in 0..2 {
        let output = shop.sandbox.msb("apply --json").run().code(1);
        let blocked = event(&output, &shop.name(&pin));
        assert_eq!(blocked["error"]["kind"], "engine", "{output}");
        assert!(blocked["error"]["message"].as_str().unwrap().contains("cannot hold"), "{output}");
        assert_eq!(shop.state("podman"), json!({shop.name("a:1"): new}));
    }
}

/// Has an engine given a tag, which `entry` wants, and a pin of what the tag was before.
fn tag_and_pin(shop: &Shop, entry: &str) -> [(String, String); 2] {
    let old = shop.moved("a:1", "old");
    let new = shop.moved("a:1", "new");
    let msb = program(&shop.sandbox, "engines", "msb");
    let pin = format!("{{ name = \"a\", tag = \"1\", digest = \"{old}\", groups = [\"pins\"] }}");
    let images = wanted(&shop.registry.name(), &[entry, &pin]);
    let engine = format!("[engine.microsandbox]\ncommand = \"{}\"\n", msb.display());
    shop.sandbox.images(&format!("[settings]\nblobs = \"discard\"\n{engine}{images}"));
    shop.sandbox.msb("apply").run().success();
    [(shop.name("a:1"), new), (shop.name(&format!("a:1@{old}")), old)]
}

/// A selection that chooses the tag.
const CHOSEN: &str = "{ name = \"a\", tags = { match = \"[0-9]\", newest = 1 }, groups = [\"tags\"] }";

#[test]
fn a_pin_that_an_engine_has_beside_its_tag_needs_no_registry() {
    for entry in ["a:1", CHOSEN] {
        let shop = shop();
        let [_, (_, pinned)] = tag_and_pin(&shop, entry);
        let before = shop.registry.requests().len();
        shop.sandbox.msb("plan --detailed-exitcode").run().success();
        shop.sandbox.msb("apply --offline").run().success();
        let requests = shop.registry.requests();
        let asked = requests[before..].iter().any(|request| request.contains(&pinned));
        assert!(!asked, "{entry}: {requests:?}");
    }
}

#[test]
fn a_repair_of_a_pin_leaves_the_name_of_its_tag_alone() {
    let shop = shop();
    let [(tag, new), (pin, old)] = tag_and_pin(&shop, "a:1");
    let images = shop.sandbox.user().join("msb.images");
    std::fs::write(images, json!({&tag: new}).to_string()).unwrap();
    shop.sandbox.msb("verify").run().code(1);
    shop.sandbox.msb("verify --repair").run().success();
    assert_eq!(shop.state("msb"), json!({&tag: new, &pin: old}));
}

#[test]
fn a_pin_takes_no_name_from_a_tag_whose_selection_is_not_carried_out() {
    let shop = shop();
    let [(tag, new), (pin, old)] = tag_and_pin(&shop, CHOSEN);
    let summary = shop.sandbox.msb("apply --group pins --json").run().success().summary();
    assert_eq!(summary["engine_loads"], 0, "{summary:#}");
    assert_eq!(shop.state("msb"), json!({&tag: new, &pin: old}));
}

#[test]
fn what_somebody_else_puts_in_place_of_ours_is_not_damage() {
    let shop = shop();
    shop.sandbox.images(&shop.text(&["a:1"]));
    shop.sandbox.msb("apply").run().success();
    let new = shop.moved("a:1", "new");
    let state = shop.sandbox.user().join("podman.images");
    std::fs::write(&state, json!({shop.name("a:1"): new}).to_string()).unwrap();
    let summary = shop.sandbox.msb("apply --json").run().success().summary();
    assert_eq!((&summary["updated"], &summary["engine_loads"]), (&json!(1), &json!(0)), "{summary:#}");
    shop.sandbox.msb("verify").run().success();
}

#[test]
fn what_an_engine_could_not_give_up_goes_later() {
    let shop = shop();
    let machine = shop.sandbox.home().join("registries.toml");
    std::fs::create_dir_all(shop.sandbox.home()).unwrap();
    std::fs::write(machine, format!("[engine.podman]\ncommand = {:?}\n", shop.podman)).unwrap();
    let (a, b) = (shop.name("a:1"), shop.name("b:1"));
    shop.sandbox.msb("pull").arg(&a).arg(&b).run().success();
    assert_eq!(shop.has(), [a.clone(), b.clone()]);
    std::fs::rename(&shop.podman, shop.away()).unwrap();
    shop.sandbox.msb("forget").arg(&a).arg(&b).run().code(1);
    shop.sandbox.msb("forget").arg(&a).run().code(1).says("cannot run");
    std::fs::rename(shop.away(), &shop.podman).unwrap();
    let forgotten = shop.sandbox.msb("forget --json").arg(&a).run().success().json();
    assert_eq!(forgotten["engines"], json!([{"engine": "podman", "reference": a}]), "{forgotten:#}");
    assert_eq!(shop.has(), [b]);
    shop.sandbox.msb("forget").arg(&a).run().code(1).says("not recorded");
    // Any prune takes what nobody has pulled any more.
    shop.sandbox.images(&wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.msb("apply").run().success();
    shop.sandbox.msb("prune").run().success();
    assert_eq!(shop.has(), [a]);
}

#[test]
fn nothing_is_pruned_while_an_image_of_the_file_could_not_be_loaded() {
    let shop = shop();
    shop.sandbox.images(&shop.text(&["a:1"]));
    shop.sandbox.msb("apply").run().success();
    let failing = shop.sandbox.write(
        "podman",
        format!("#!/bin/sh\ncase \"$*\" in *load*) exit 1;; esac\nexec {} \"$@\"\n", shop.podman.display()),
    );
    std::fs::set_permissions(&failing, std::fs::Permissions::from_mode(0o755)).unwrap();
    let shop = Shop { podman: failing, ..shop };
    shop.sandbox.images(&shop.text(&["b:1"]));
    shop.sandbox.msb("apply").run().code(1);
    let pruned = shop.sandbox.msb("prune --json").run().success().json();
    assert_eq!(pruned["waiting_for"], json!([shop.name("b:1")]), "{pruned:#}");
    assert_eq!(shop.has(), [shop.name("a:1")]);
    assert_eq!(pruned["removals_waiting"], 1, "{pruned:#}");
}

#[test]
fn a_load_that_a_signal_ends_has_its_event_and_its_summary() {
    let shop = shop();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *load*) touch {0}.begun; exec sleep 60;; esac\nexec {0} \"$@\"\n",
        shop.podman.display()
    );
    let slow = shop.sandbox.write("podman", script);
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    let begun = shop.podman.with_extension("begun");
    let shop = Shop { podman: slow, ..shop };
    for verb in ["apply", "watch"] {
        shop.sandbox.images(&shop.text(&["a:1"]));
        let running = shop.sandbox.msb(&format!("{verb} --json")).spawn();
        eventually("an image is being loaded", SOON * 20, || begun.exists());
        running.signal(Signal::TERM);
        let output = running.wait().code(143);
        let mut events = output.json_lines();
        // The watch says so at any time.
        events.retain(|event| event["event"] != "stopping");
        let [.., image, summary] = &events[..] else { panic!("{output}") };
        assert_eq!(
            (&image["event"], &image["error"]["kind"]),
            (&json!("image"), &json!("stopped")),
            "{output}"
        );
        assert_eq!((&summary["event"], &summary["failed"]), (&json!("summary"), &json!(1)), "{output}");
        std::fs::remove_file(&begun).unwrap();
    }
}

#[test]
fn a_bundle_is_asked_whatever_the_pull_policy_says() {
    let shop = shop();
    let text =
        |pull: &str| format!("[settings]\npull = \"{pull}\"\n{}", wanted(&shop.registry.name(), &["a:1"]));
    shop.sandbox.images(&text("always"));
    shop.sandbox.msb("export --output one.tar").run().success();
    let new = shop.moved("a:1", "new");
    shop.sandbox.msb("export --output two.tar").run().success();
    for (pull, home) in [("missing", "here"), ("never", "there")] {
        shop.sandbox.images(&text(pull));
        for bundle in ["one.tar", "two.tar"] {
            shop.sandbox.msb("apply --from").arg(bundle).arg("--home").arg(home).run().success();
        }
        let listed = shop.sandbox.msb("list --json --home").arg(home).run().success().json();
        assert_eq!(listed["images"][0]["digest"], json!(new), "{pull}: {listed:#}");
    }
}

#[test]
fn what_no_file_wants_in_an_engine_any_more_is_not_verified_there() {
    let shop = shop();
    shop.sandbox.images(&shop.text(&["a:1"]));
    shop.sandbox.msb("apply").run().success();
    shop.sandbox
        .images(&format!("[settings]\nblobs = \"keep\"\n{}", wanted(&shop.registry.name(), &["a:1"])));
    shop.sandbox.msb("apply").run().success();
    std::fs::write(shop.sandbox.user().join("podman.images"), "{}").unwrap();
    shop.sandbox.msb("verify").run().success();
    shop.sandbox.msb("verify --repair").run().success();
    assert!(shop.has().is_empty(), "nothing is loaded again");
    shop.sandbox.images(&shop.text(&["a:1"]));
    shop.sandbox.msb("apply").run().success();
    assert_eq!(shop.has(), [shop.name("a:1")]);
    std::fs::write(shop.sandbox.user().join("podman.images"), "{}").unwrap();
    let verified = shop.sandbox.msb("verify").run().code(1);
    assert!(verified.stdout.contains("missing"), "wanted again\n{verified}");
}
