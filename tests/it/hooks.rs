//! Hooks: what programs of `[[on-change]]` are told, when, and how often. Nobody is told twice of a change, and nobody is
//! left untold by a kill.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::check::wanted;
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::watching::{LIMIT, Watching};

/// A registry that has the images `acme/a:1`, `acme/b:1` and `other/c:1`.
struct Shop {
    sandbox: Sandbox,
    registry: FakeRegistry,
}

fn made_of(content: &str) -> Image {
    Image::new(&[Layer::of(&[file("content", content)])])
}

impl Shop {
    fn new() -> Self {
        let shop = Self { sandbox: Sandbox::in_memory(), registry: FakeRegistry::start(BlobSet::default()) };
        for name in ["acme/a:1", "acme/b:1", "other/c:1"] {
            shop.push(name, name);
        }
        shop
    }

    /// Moves the tag, and returns the digest that it means now.
    fn push(&self, name: &str, content: &str) -> String {
        self.registry.edit(|blobs| {
            let image = blobs.image(&made_of(content));
            blobs.tag(name, &image);
            image.digest().to_owned()
        })
    }

    /// Writes the images file: these images, and hooks.
    fn want(&self, images: &[&str], hooks: &str) {
        self.sandbox.images(&format!("{hooks}{}", wanted(&self.registry.name(), images)));
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.name())
    }

    fn apply(&self) -> Output {
        self.sandbox.msb("apply --json --hooks").run()
    }

    /// What a hook has written to `file` of the working directory, less what was there before.
    fn taken(&self, file: &str) -> String {
        let path = self.sandbox.work().join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text
    }

    /// `action image` of each line that a hook has written to `file`, a dash between two of its runs.
    fn told(&self, file: &str) -> Vec<String> {
        let prefix = format!("{}/", self.registry.name());
        let short = |line: &str| {
            let Ok(event) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
            let reference = event["reference"].as_str().unwrap().trim_start_matches(&prefix).to_owned();
            format!("{} {reference}", event["action"].as_str().unwrap())
        };
        self.taken(file).lines().map(short).collect()
    }
}

/// A table with more keys.
fn hook(script: &str, more: &str) -> String {
    format!("[[on-change]]\nrun = [\"sh\", \"-c\", '''{script}''']\n{more}\n")
}

/// A hook that adds what it is told, and a dash, to a file.
fn noting(file: &str, more: &str) -> String {
    hook(&format!("cat >>{file}; echo - >>{file}"), more)
}

fn hook_events(output: &Output) -> Vec<Value> {
    output.json_lines().into_iter().filter(|event| event["event"] == "hook").collect()
}

#[test]
fn a_hook_is_told_of_all_changes_of_a_run_at_once_and_of_each_once() {
    let shop = Shop::new();
    let all = ["acme/a:1", "acme/b:1", "other/c:1"];
    let acme = format!("images = [\"{}/acme/*\"]\n", shop.registry.name());
    let hooks = noting("all", "") + &noting("acme", &format!("{acme}actions = [\"update\", \"remove\"]"));
    shop.want(&all, &hooks);
    // Without --hooks nothing is run, and nothing is noted for a later run.
    let idle = shop.sandbox.msb("apply -v").run().success();
    assert!(idle.stderr.contains("2 [[on-change]] tables, run with --hooks only"), "{idle}");
    let quiet = shop.sandbox.msb("plan").run().success();
    assert!(!quiet.stderr.contains("on-change"), "{quiet}");
    assert!(!shop.sandbox.home().join(".msb-sync.hooks").exists());
    assert_eq!(shop.apply().success().summary()["hooks_run"], 0);
    assert_eq!((shop.taken("all"), shop.taken("acme")), (String::new(), String::new()));

    let (a, _) = (shop.push("acme/a:1", "new a"), shop.push("acme/b:1", "new b"));
    shop.push("other/c:1", "new c");
    let output = shop.apply().success();
    let events = hook_events(&output);
    assert_eq!(events.len(), 2, "{output}");
    let place = |event: &Value| event["rule"].as_str().unwrap().to_owned();
    assert_eq!((place(&events[0]), place(&events[1])), ("images.toml:1".into(), "images.toml:4".into()));
    for (event, changes) in events.iter().zip([3, 2]) {
        assert_eq!((&event["status"], &event["exit_code"]), (&"done".into(), &0.into()), "{event}");
        assert_eq!((&event["program"], &event["changes"]), (&"sh".into(), &changes.into()), "{event}");
    }
    assert_eq!(output.summary()["hooks_run"], 2);
    let text = std::fs::read_to_string(shop.sandbox.work().join("all")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["version"], 1);
    assert_eq!((&first["event"], &first["action"]), (&"image".into(), &"update".into()));
    assert_eq!((&first["reference"], &first["digest"]), (&shop.name("acme/a:1").into(), &a.into()));
    assert!(first["previous"].as_str().unwrap().starts_with("sha256:"), "{first}");
    assert!(first["platform"].as_str().unwrap().starts_with("linux/"), "{first}");
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
    assert_eq!(shop.told("all"), ["update acme/a:1", "update acme/b:1", "update other/c:1", "-"]);
    assert_eq!(shop.told("acme"), ["update acme/a:1", "update acme/b:1", "-"]);

    assert_eq!(shop.apply().success().summary()["hooks_run"], 0);
    assert_eq!(shop.taken("all") + &shop.taken("acme"), "");

    shop.want(&all[1..], &hooks);
    shop.sandbox.msb("apply --prune --hooks").run().success();
    assert_eq!(
        (shop.told("all"), shop.told("acme")),
        (vec!["remove acme/a:1".into(), "-".into()], vec!["remove acme/a:1".into(), "-".into()])
    );
}

#[test]
fn a_failure_of_a_hook_is_told_and_undoes_nothing_and_is_final() {
    let shop = Shop::new();
    let hooks = hook("echo told; printf 'no \\033[2J unit' >&2; exit 5", "")
        + &hook("sleep 600 & sleep 600", "timeout = \"1s\"")
        + "[[on-change]]\nrun = [\"./later\"]\n"
        + &noting("last", "");
    shop.want(&["acme/a:1"], &hooks);
    let output = shop.apply().code(1);
    let events = hook_events(&output);
    let rules: Vec<&str> = events.iter().map(|event| event["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["images.toml:1", "images.toml:4", "images.toml:7", "images.toml:9"], "{output}");
    let kinds: Vec<&Value> = events.iter().map(|event| &event["error"]["kind"]).collect();
    assert_eq!(kinds, [&"hook".into(), &"hook".into(), &"hook".into(), &Value::Null], "{output}");
    let codes: Vec<&Value> = events.iter().map(|event| &event["exit_code"]).collect();
    assert_eq!(codes, [&5.into(), &Value::Null, &Value::Null, &0.into()], "{output}");
    let messages: Vec<&str> = events.iter().filter_map(|event| event["error"]["message"].as_str()).collect();
    assert_eq!(messages[0], "hook images.toml:1: sh failed: exit status: 5: no \\u{1b}[2J unit");
    assert_eq!(messages[1], "hook images.toml:4: sh was killed: it did not end within a second");
    assert!(messages[2].starts_with("hook images.toml:7: cannot run "), "{output}");
    let summary = output.summary();
    assert_eq!((&summary["added"], &summary["failed"]), (&1.into(), &0.into()), "{output}");
    assert_eq!((&summary["hooks_run"], &summary["hooks_failed"]), (&4.into(), &3.into()), "{output}");
    for words in ["  sh: told\n", "  sh: no \\u{1b}[2J unit\n", "error: hook images.toml:1: ", "hint: "] {
        assert!(output.stderr.contains(words), "no {words:?}\n{output}");
    }
    assert_eq!(shop.told("last"), ["add acme/a:1", "-"]);

    // Only the one that was never run is run again, once it can be.
    let again = shop.apply().code(1);
    assert_eq!(hook_events(&again).len(), 1, "{again}");
    let later = shop.sandbox.write("later", "#!/bin/sh\ncat >later.txt\n");
    std::fs::set_permissions(&later, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    shop.apply().success();
    assert_eq!(shop.told("later.txt"), ["add acme/a:1"]);
    assert!(hook_events(&shop.apply().success()).is_empty());
}

#[test]
fn a_kill_before_the_hooks_have_ended_leaves_nobody_untold() {
    let shop = Shop::new();
    let killing = "if [ ! -e killed ]; then echo $$ >killed; kill -9 $PPID; exec sleep 600; fi; cat >>first";
    shop.want(&["acme/a:1"], &(hook(killing, "") + &noting("second", "")));
    shop.apply().killed_by(Signal::KILL);
    // The hook has ended with the run.
    let pid = shop.taken("killed");
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    eventually("the hook is gone", LIMIT, is_gone);
    std::fs::write(shop.sandbox.work().join("killed"), "").unwrap();
    assert_eq!((shop.taken("first"), shop.taken("second")), (String::new(), String::new()));
    // A run without --hooks leaves it to one with them, which has nothing else to do.
    shop.sandbox.msb("apply").run().success();
    let output = shop.apply().success();
    assert_eq!(output.summary()["hooks_run"], 2, "{output}");
    assert_eq!(
        (shop.told("first"), shop.told("second")),
        (vec!["add acme/a:1".to_owned()], vec!["add acme/a:1".to_owned(), "-".to_owned()])
    );
    assert_eq!(shop.apply().success().summary()["hooks_run"], 0);
    assert_eq!(shop.taken("first") + &shop.taken("second"), "");
}

#[test]
fn a_kill_between_a_repair_and_its_record_leaves_nobody_untold() {
    let shop = Shop::new();
    shop.want(&["acme/a:1"], &noting("told", "actions = [\"repair\"]"));
    shop.apply().success();
    let lost = shop.sandbox.layers().join(&shop.sandbox.extracted()[0]);
    std::fs::remove_dir_all(&lost).unwrap();
    shop.registry.on(|request| request.path.contains("/blobs/").then(|| Fault::stall(0)));
    shop.registry.forget();
    let running = shop.sandbox.msb("apply --json --hooks").spawn();
    let asked = || shop.registry.requests().iter().any(|request| request.contains("/blobs/"));
    eventually("the layer is asked for", LIMIT, asked);
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);
    // All is whole, as if the run had come so far.
    shop.registry.behave();
    shop.sandbox.msb("apply").run().success();
    assert!(lost.is_dir());
    assert_eq!(shop.apply().success().summary()["hooks_run"], 1);
    assert_eq!(shop.told("told"), ["repair acme/a:1", "-"]);
    assert_eq!(shop.apply().success().summary()["hooks_run"], 0);
    // Nor is anybody told twice of a repair that nothing has interrupted.
    std::fs::remove_dir_all(&lost).unwrap();
    assert_eq!(shop.apply().success().summary()["hooks_run"], 1);
    assert_eq!(shop.told("told"), ["repair acme/a:1", "-"]);
}

#[test]
fn nobody_is_told_anything_for_a_file_that_was_forgotten() {
    let shop = Shop::new();
    let killing = "if [ ! -e killed ]; then echo $$ >killed; kill -9 $PPID; exec sleep 600; fi; cat >>told";
    shop.want(&["acme/a:1"], &hook(killing, ""));
    shop.apply().killed_by(Signal::KILL);
    shop.sandbox.msb("forget --owner images.toml").run().success();
    let catalog = rusqlite::Connection::open(shop.sandbox.home().join("oci.db")).unwrap();
    let count = "SELECT count(*) FROM sync_hook_events";
    assert_eq!(catalog.query_row(count, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    // The same file is a new one when it comes back.
    shop.apply().success();
    assert_eq!(shop.told("told"), ["add acme/a:1"]);
}

#[test]
fn a_hook_that_is_stopped_with_the_run_is_run_by_the_next_one() {
    let shop = Shop::new();
    let script = "if [ ! -e here ]; then touch here; exec sleep 600; fi; cat >>told";
    shop.want(&["acme/a:1"], &hook(script, "timeout = \"10m\""));
    let running = shop.sandbox.msb("apply --json --hooks").spawn();
    eventually("the hook runs", LIMIT, || shop.sandbox.work().join("here").exists());
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert_eq!(output.summary()["hooks_run"], 0, "{output}");
    assert_eq!(shop.taken("told"), "");
    shop.apply().success();
    assert_eq!(shop.told("told"), ["add acme/a:1"]);
}

#[test]
fn a_hook_may_use_msb_sync_and_has_no_secrets_and_the_files_directory() {
    let shop = Shop::new();
    let table =
        "[registry.\"private.corp\"]\nusername = \"me\"\npassword-env = \"CORP_TOKEN\"\nimages = []\n";
    let script = "env >env; pwd >pwd; \"$MSB\" list -q >list; \"$MSB\" apply --hooks ../work/images.toml >nested 2>&1; cat >told";
    shop.want(&["acme/a:1"], &(hook(script, "") + table));
    std::fs::create_dir(shop.sandbox.root().join("elsewhere")).unwrap();
    let run = shop.sandbox.msb("apply --hooks ").arg(shop.sandbox.work().join("images.toml"));
    run.env("CORP_TOKEN", "s3cret")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("MSB", env!("CARGO_BIN_EXE_msb-sync"))
        .run()
        .success();
    let env = shop.taken("env");
    assert!(!env.contains("s3cret") && !env.contains("NOTIFY_SOCKET") && env.contains("\nMSB="), "{env}");
    assert_eq!(shop.taken("pwd").trim(), shop.sandbox.work().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(shop.taken("list").trim(), shop.name("acme/a:1"));
    let nested = shop.taken("nested");
    assert!(nested.contains("In sync: 1 image") || nested.contains("CORP_TOKEN"), "{nested}");
    assert_eq!(shop.told("told"), ["add acme/a:1"]);
}

#[test]
fn what_a_hook_that_is_no_more_was_to_be_told_is_dropped_aloud() {
    let shop = Shop::new();
    shop.want(&["acme/a:1"], "[[on-change]]\nrun = [\"./nowhere\"]\n");
    shop.apply().code(1);
    shop.want(&["acme/a:1"], &noting("told", ""));
    let output = shop.apply().success();
    assert!(output.stderr.contains("warning: 1 change is not told to a hook"), "{output}");
    let output = shop.apply().success();
    assert!(!output.stderr.contains("warning"), "{output}");
    assert_eq!(shop.taken("told"), "");
}

#[test]
fn a_hook_waits_for_the_engines_too() {
    let shop = Shop::new();
    let directory = shop.sandbox.root().join("engines");
    std::fs::create_dir_all(&directory).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/engine.py");
    std::os::unix::fs::symlink(script, directory.join("podman")).unwrap();
    let engine = format!("[engine.podman]\ncommand = \"{}\"\n", directory.join("podman").display());
    let broken = shop.sandbox.user().join("podman.broken");
    shop.want(&["acme/a:1"], &(engine + &noting("told", "")));
    std::fs::write(&broken, "").unwrap();
    for _ in 0..2 {
        let output = shop.apply().code(1);
        assert!(hook_events(&output).is_empty(), "{output}");
    }
    std::fs::remove_file(&broken).unwrap();
    shop.apply().success();
    assert_eq!(shop.told("told"), ["add acme/a:1", "-"]);
}

#[test]
fn a_watch_runs_hooks_after_each_run_that_changes_something() {
    let shop = Shop::new();
    let settings = "[settings]\ninterval = \"1s\"\n";
    shop.want(&["acme/a:1"], &format!("{settings}{}", noting("told", "")));
    let watching = Watching::start(&shop.sandbox, "--hooks");
    assert_eq!(watching.count("hook"), 1);
    shop.push("acme/a:1", "new");
    watching.until("a hook was told of the update", |event| event["event"] == "hook");
    eventually("two hooks have run", LIMIT, || watching.count("hook") == 2);
    let runs = watching.runs();
    eventually("another run", LIMIT, || watching.runs() > runs + 1);
    assert_eq!(watching.count("hook"), 2);
    watching.stop();
    assert_eq!(shop.told("told"), ["add acme/a:1", "-", "update acme/a:1", "-"]);
}

#[test]
fn a_hook_is_told_of_no_removal_of_an_image_that_stays_for_others() {
    let shop = Shop::new();
    let (both, hooks) = (["acme/a:1", "acme/b:1"], noting("all", ""));
    shop.want(&both, &hooks);
    shop.apply().success();
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &both[..1]));
    shop.sandbox.msb("apply other.toml").run().success();
    shop.taken("all");
    shop.want(&both[1..], &hooks);
    let output = shop.sandbox.msb("apply --prune --hooks").run().success();
    assert!(output.stderr.contains("not listed any more; stays for "), "{output}");
    assert!(!output.to_string().contains("removed"), "{output}");
    assert_eq!(shop.taken("all"), "", "{output}");
    // Listed again, it is here as it was, and nobody has anything to do.
    shop.want(&both, &hooks);
    assert_eq!(shop.apply().success().summary()["hooks_run"], 0);
    // The last one that gives it up removes it.
    shop.sandbox.write("other.toml", wanted(&shop.registry.name(), &both[1..]));
    shop.sandbox.msb("apply other.toml --prune").run().success();
    shop.want(&both[1..], &hooks);
    shop.sandbox.msb("apply --prune --hooks").run().success();
    assert_eq!(shop.told("all"), ["remove acme/a:1", "-"]);
}
