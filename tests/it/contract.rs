//! The command line, line by line: every command with every option of its own, for people, with `--json` and with
//! `-q`; the global options; the exit codes; the streams.
//!
//! To add a command or an option, add a line to [`LINES`]: a test compares the table with `--help`.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::check::{listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Output, Sandbox};

/// What a command prints with `--json`: which keys every value at a path has. A path is there at least once.
type Shape = &'static [(&'static str, &'static str)];

const NOTHING: Shape = &[];
const PLAN: Shape = &[
    ("", "version changes download_bytes images layers_to_remove spared spared_bytes"),
    ("images[]", "reference platform action digest previous reason layers download_bytes waits staged trust"),
    ("images[].trust", "status by issuer at rule"),
    ("images[].layers", "total present"),
];
const EVENTS: Shape = &[("", "version event")];
const SUMMARY: Shape = &[(
    "",
    "added updated staged repaired removed removals_waiting unchanged failed downloaded_bytes extracted_bytes hooks_run hooks_failed requests duration_ms",
)];
const LIST: Shape = &[
    ("", "version images"),
    (
        "images[]",
        "reference platform digest manifest_digest config_digest size managed_by owners owner_gone trust layers",
    ),
    ("images[].layers[]", "digest diff_id media_type size path"),
];
const INSPECT: Shape = &[
    ("", "version image"),
    (
        "image",
        "reference platform digest manifest_digest config_digest size managed_by owners owner_gone trust evidence layers env cmd \
         labels",
    ),
    ("image.layers[]", "digest diff_id media_type size path"),
];
const ROOTFS: Shape = &[("", "version rootfs"), ("rootfs[]", "")];
const VERIFY: Shape = &[("", "version layers unproven"), ("layers[]", "digest status detail")];
const ROOT: Shape =
    &[("", "version source date digest believed"), ("believed[]", "kind url id subject from until")];
const LOCK: Shape = &[
    ("", "version changed path images"),
    ("images[]", "reference platform digest previous action signed_by"),
];
const DIFF: Shape = &[("", "version added removed changed download_bytes")];
const ADDED: Shape = &[DIFF[0], ("added[]", "reference platform digest download_bytes")];
const REMOVED: Shape = &[DIFF[0], ("removed[]", "reference platform digest download_bytes")];
const EDIT: Shape = &[("", "version file created changed images groups"), ("images[]", "reference status")];
const DF: Shape = &[
    (
        "",
        "version layers_bytes blobs_bytes downloads_bytes staging_bytes spared_bytes reclaimable_bytes images",
    ),
    ("images[]", "reference bytes shared_bytes"),
];
const EXPORT: Shape = &[
    ("", "version images failed blobs bytes downloaded_bytes left_out left_out_bytes requests"),
    ("images[]", "reference digest"),
];
const NOTHING_EXPORTED: Shape = &[("", "version images failed"), ("failed[]", "reference error")];
const HISTORY: Shape = &[
    ("", "version images"),
    ("images[]", "reference held entries"),
    ("images[].entries[]", "digest from until"),
];
const PRUNE: Shape = &[
    (
        "",
        "version dry_run images layers kept downloads freed_bytes spared spared_bytes removals_waiting waiting_for",
    ),
    ("images[]", "reference reason waits"),
    ("layers[]", "digest path"),
];

/// One line: what is run before, what is run, its exit code, its document. `REF` stands for the first image.
struct Line(&'static [&'static str], &'static str, i32, Shape);

#[rustfmt::skip]
const LINES: &[Line] = &[
    Line(&[], "apply", 0, EVENTS),
    Line(&["apply"], "apply", 0, EVENTS),
    Line(&[], "apply other.toml", 0, EVENTS),
    Line(&[], "apply missing.toml", 1, EVENTS),
    Line(&[], "apply --dry-run", 0, PLAN),
    Line(&["apply"], "apply fewer.toml --prune", 0, EVENTS),
    Line(&["apply"], "apply empty.toml --prune", 2, NOTHING),
    Line(&["apply", "empty"], "apply --prune --allow-empty", 0, EVENTS),
    Line(&["apply"], "apply missing.toml --prune", 1, EVENTS),
    Line(&[], "apply --stage", 0, EVENTS),
    Line(&["apply"], "apply --stage", 0, EVENTS),
    Line(&[], "apply --stage --watch", 2, NOTHING),
    Line(&[], "apply --locked", 1, NOTHING),
    Line(&["lock"], "apply --locked", 0, EVENTS),
    Line(&["apply"], "apply --offline", 0, EVENTS),
    Line(&["apply"], "apply --now REF", 0, EVENTS),
    Line(&["apply"], "apply --now docker.io/library/nowhere:1", 2, NOTHING),
    Line(&[], "apply --offline", 1, EVENTS),
    Line(&[], "apply --hooks", 0, EVENTS),
    Line(&[], "apply --group one --group two", 0, EVENTS),
    Line(&[], "apply --group nobody", 2, NOTHING),
    Line(&[], "plan", 0, PLAN),
    Line(&[], "plan missing.toml", 1, PLAN),
    Line(&[], "plan --detailed-exitcode", 2, PLAN),
    Line(&["apply"], "plan --detailed-exitcode", 0, PLAN),
    Line(&[], "plan broken.toml", 2, NOTHING),
    Line(&[], "plan broken.toml --detailed-exitcode", 1, NOTHING),
    Line(&["lock"], "plan --locked", 0, PLAN),
    Line(&[], "plan --untrusted", 0, PLAN),
    Line(&["apply"], "plan --offline --prune --group one", 0, PLAN),
    Line(&["apply", "empty"], "plan --prune", 2, NOTHING),
    Line(&["apply", "empty"], "plan --prune --detailed-exitcode", 1, NOTHING),
    Line(&["apply", "empty"], "plan --prune --allow-empty", 0, PLAN),
    Line(&[], "lock", 0, LOCK),
    Line(&[], "lock other.toml", 0, LOCK),
    Line(&["lock"], "lock --upgrade", 0, LOCK),
    Line(&["lock"], "lock --upgrade REF", 0, LOCK),
    Line(&["lock"], "lock --check", 0, LOCK),
    Line(&[], "lock --check", 2, LOCK),
    Line(&["lock"], "lock --check --untrusted", 0, LOCK),
    Line(&[], "lock --untrusted", 2, NOTHING),
    Line(&[], "lock --check broken.toml", 1, NOTHING),
    Line(&[], "lock missing.toml", 1, LOCK),
    Line(&["lock", "lock fewer.toml"], "diff fewer.lock", 0, ADDED),
    Line(&["lock", "lock fewer.toml"], "diff images.lock fewer.lock --markdown", 0, REMOVED),
    Line(&["lock", "lock other.toml"], "diff images.lock other.lock --untrusted", 0, DIFF),
    Line(&["lock"], "diff nowhere.lock", 2, NOTHING),
    Line(&["lock"], "diff images.toml", 2, NOTHING),
    Line(&[], "diff", 2, NOTHING),
    Line(&[], "export --output out.tar", 0, EXPORT),
    Line(&[], "export --output bundle --image REF --index --docker", 0, EXPORT),
    Line(&["lock"], "export --output delta.tar --since images.lock --group one", 0, EXPORT),
    Line(&[], "export --output out.tar --offline", 1, NOTHING_EXPORTED),
    Line(&[], "export --output out.tar --since nowhere.lock", 2, NOTHING),
    Line(&[], "export --output out.tar --platform amd64", 2, NOTHING),
    Line(&[], "export missing.toml --output out.tar", 1, NOTHING_EXPORTED),
    Line(&[], "export", 2, NOTHING),
    Line(&[], "plan --from nowhere.tar", 2, NOTHING),
    Line(&[], "apply --from nowhere.tar", 2, NOTHING),
    Line(&[], "pull REF", 0, EVENTS),
    Line(&[], "pull @one", 0, EVENTS),
    Line(&[], "pull REF --file images.toml", 0, EVENTS),
    Line(&[], "pull REF --file nowhere.toml", 2, NOTHING),
    Line(&[], "pull REF --platform amd64", 2, NOTHING),
    Line(&[], "pull 127.0.0.1:1/UPPER", 2, NOTHING),
    Line(&["apply"], "list", 0, LIST),
    Line(&["apply"], "list *team/app:1", 0, LIST),
    Line(&["apply"], "list nothing/*", 0, &[("", "version images")]),
    Line(&["apply"], "inspect REF", 0, INSPECT),
    Line(&["apply"], "inspect REF --rootfs", 0, ROOTFS),
    Line(&[], "inspect REF", 1, NOTHING),
    Line(&[], "trust-root", 0, ROOT),
    Line(&[], "trust-root images.toml", 0, ROOT),
    Line(&[], "trust-root broken.toml", 2, NOTHING),
    Line(&["apply"], "verify", 0, VERIFY),
    Line(&["apply"], "verify REF", 0, VERIFY),
    Line(&["apply", "damage"], "verify", 1, VERIFY),
    Line(&["apply", "damage"], "verify --repair", 0, VERIFY),
    Line(&["apply", "apply fewer.toml"], "prune --dry-run", 0, &[("", "version dry_run images layers")]),
    Line(&["apply", "fewer"], "prune", 0, PRUNE),
    Line(&["apply", "empty"], "prune", 2, NOTHING),
    Line(&["apply", "empty"], "prune --allow-empty", 0, PRUNE),
    Line(&["apply other.toml", "fewer other.toml"], "prune other.toml --dry-run", 0, PRUNE),
    Line(&["apply"], "forget REF", 0, PRUNE),
    Line(&["apply"], "forget REF --dry-run", 0, PRUNE),
    Line(&[], "forget REF", 1, NOTHING),
    Line(&["apply", "unlist"], "forget --owner images.toml", 0, PRUNE),
    Line(&["apply"], "forget --owner other.toml", 1, NOTHING),
    Line(&["apply"], "forget", 2, NOTHING),
    Line(&["apply"], "forget REF --owner images.toml", 2, NOTHING),
    Line(&["apply"], "history", 0, HISTORY),
    Line(&["apply"], "history REF", 0, HISTORY),
    Line(&[], "history REF", 1, NOTHING),
    Line(&["apply", "move", "apply"], "rollback REF", 0, EVENTS),
    Line(&["apply", "move", "apply"], "rollback REF --to nothing", 1, NOTHING),
    Line(&["apply"], "rollback REF", 1, NOTHING),
    Line(&["apply"], "rollback REF --release", 0, &[("", "version reference released")]),
    Line(&["apply"], "rollback REF --release --to sha256", 2, NOTHING),
    Line(&[], "rollback", 2, NOTHING),
    Line(&[], "add alpine:3.20", 0, EDIT),
    Line(&[], "add REF --file images.toml --group two", 0, EDIT),
    Line(&["unlist"], "add REF", 0, EDIT),
    Line(&[], "add REF --file broken.toml", 2, NOTHING),
    Line(&[], "add REF --file -", 2, NOTHING),
    Line(&[], "add", 2, NOTHING),
    Line(&[], "add --from list.txt", 0, EDIT),
    Line(&[], "add REF --from Dockerfile", 1, EDIT),
    Line(&[], "add --from nowhere.yml", 2, NOTHING),
    Line(&["apply"], "df", 0, DF),
    Line(&[], "df", 0, &[("", "version layers_bytes blobs_bytes downloads_bytes staging_bytes reclaimable_bytes images")]),
    Line(&[], "outdated", 0, &[("", "version images failed")]),
    Line(&[], "outdated other.toml", 0, &[("", "version images failed"), ("images[]", "reference newer latest")]),
    Line(&[], "outdated broken.toml", 2, NOTHING),
    Line(&[], "remove REF", 0, EDIT),
    Line(&[], "remove REF --file fewer.toml", 0, EDIT),
    Line(&[], "remove alpine:3.20", 2, NOTHING),
    Line(&["unlist"], "remove REF", 2, NOTHING),
    Line(&["unlist"], "init", 0, &[("", "version path")]),
    Line(&[], "init", 1, NOTHING),
    Line(&[], "schema", 0, &[("", "$schema $id properties")]),
    Line(&[], "schema output", 0, &[("", "$schema $id anyOf $defs")]),
    Line(&[], "completions bash", 0, NOTHING),
    Line(&[], "completions zsh", 0, NOTHING),
    Line(&[], "completions fish", 0, NOTHING),
    Line(&[], "completions tcsh", 2, NOTHING),
    Line(&[], "man", 0, NOTHING),
    Line(&[], "man --output pages", 0, NOTHING),
];

/// A sandbox with images files for a registry that has `team/app:1` and `team/app:2`.
fn world() -> (Sandbox, FakeRegistry) {
    let layer = |name: &str| Layer::of(&[file(name, name)]);
    let config = serde_json::json!({"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"k": "v"}});
    let image = |name: &str| Image::new(&[layer("base"), layer(name)]).config(config.clone());
    let mut content = BlobSet::with("team/app:1", &image("one"));
    let second = content.image(&image("two"));
    content.tag("team/app:2", &second);
    let (sandbox, registry) = (Sandbox::in_memory(), FakeRegistry::start(content));
    let grouped = |tag: &str, group: &str| format!("{{ name = \"team/app:{tag}\", groups = [\"{group}\"] }}");
    let (one, two) = (grouped("1", "one"), grouped("2", "two"));
    for (name, images) in [
        ("images.toml", &[&*one, &two][..]),
        ("other.toml", &[&*one, &two]),
        ("fewer.toml", &[&*one]),
        ("missing.toml", &[&*one, "team/app:3"]),
        ("empty.toml", &[]),
    ] {
        sandbox.write(name, wanted(&registry.name(), images));
    }
    sandbox.write("list.txt", "alpine:3.20\n");
    sandbox.write("Dockerfile", "FROM alpine:3.20\nFROM $UNSET\n");
    sandbox.write("broken.toml", "[settings]\nlayerz = 1\n");
    (sandbox, registry)
}

/// Runs a command of a table, or does what its word says.
fn prepare(sandbox: &Sandbox, registry: &FakeRegistry, command: &str) {
    match command.split(' ').collect::<Vec<_>>()[..] {
        ["damage"] => {
            let first = sandbox.layers().join(&sandbox.extracted()[0]);
            std::fs::write(first.join("stranger"), "").unwrap();
        }
        ["move"] => registry.edit(|content| {
            let moved = content.image(&Image::new(&[Layer::of(&[file("moved", "moved")])]));
            content.tag("team/app:1", &moved);
        }),
        ["unlist"] => std::fs::remove_file(sandbox.work().join("images.toml")).unwrap(),
        ["empty"] => sandbox.images(&wanted(&registry.name(), &[])),
        ["fewer"] => sandbox.images(&wanted(&registry.name(), &["team/app:1"])),
        ["fewer", name] => drop(sandbox.write(name, wanted(&registry.name(), &["team/app:1"]))),
        _ => drop(sandbox.msb(command).run().success()),
    }
}

/// The values at a path such as `images[].layers`.
fn at<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut found = vec![value];
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, each) = part.strip_suffix("[]").map_or((part, false), |key| (key, true));
        let below = found.into_iter().filter_map(|value| value.get(key));
        found = if each { below.filter_map(Value::as_array).flatten().collect() } else { below.collect() };
    }
    found
}

#[track_caller]
fn assert_shape(value: &Value, shape: Shape, output: &Output) {
    for (path, keys) in shape {
        let values = at(value, path);
        assert!(!values.is_empty(), "nothing at {path:?}\n{output}");
        for value in values {
            for key in keys.split_whitespace() {
                assert!(value.get(key).is_some(), "no {key:?} at {path:?}\n{output}");
            }
        }
    }
}

#[track_caller]
fn assert_plain(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(odd, None, "a control character\n{output}");
        assert!(!text.contains("panicked"), "{output}");
    }
}

/// Whether a command changes nothing, so that what was prepared for it does for the next one too.
fn only_looks(arguments: &str) -> bool {
    let looks = ["df", "diff", "history", "inspect", "list", "outdated", "plan", "trust-root"];
    looks.contains(&arguments.split(' ').next().unwrap_or_default())
}

/// Whether a command's result is its text, whatever is asked for.
fn prints_text(arguments: &str) -> bool {
    ["schema", "completions", "man"].contains(&arguments.split(' ').next().unwrap_or_default())
        || arguments.ends_with("--rootfs")
}

#[test]
fn every_line_does_what_it_says_for_people_scripts_and_in_silence() {
    for Line(before, arguments, code, shape) in LINES {
        let prepared = || {
            let (sandbox, registry) = world();
            before.iter().for_each(|command| prepare(&sandbox, &registry, command));
            (sandbox, registry)
        };
        let for_all = only_looks(arguments).then(prepared);
        for mode in ["", "--json", "-q"] {
            let own = if for_all.is_some() { None } else { Some(prepared()) };
            let (sandbox, registry) = for_all.as_ref().or(own.as_ref()).unwrap();
            let arguments = arguments.replace("REF", &format!("{}/team/app:1", registry.name()));
            let output = sandbox.msb(&format!("{arguments} {mode}")).run().code(*code);
            assert_plain(&output);
            let failed = *code == 1 || (*code == 2 && shape.is_empty());
            let found_damage = arguments == "verify";
            // A plan's document has the errors itself.
            let told_elsewhere = found_damage || (mode == "--json" && *shape == PLAN);
            if failed && !told_elsewhere {
                assert!(output.stderr.contains("error: "), "no error\n{output}");
            }
            match mode {
                "--json" if *shape == EVENTS => {
                    let events = output.json_lines();
                    assert!(events.iter().rev().skip(1).all(|event| event["event"] == "image"), "{output}");
                    for event in &events[..events.len() - 1] {
                        assert_shape(event, &[("", "reference action status error")], &output);
                    }
                    assert_shape(&output.summary(), SUMMARY, &output);
                }
                "--json" if arguments.starts_with("schema") => {
                    assert_shape(&serde_json::from_str(&output.stdout).unwrap(), shape, &output);
                }
                "--json" if !shape.is_empty() => assert_shape(&output.json(), shape, &output),
                // The names alone, for scripts.
                "-q" if arguments.starts_with("list") => {
                    let is_name = |line: &str| line.starts_with(&registry.name()) && !line.contains(' ');
                    assert!(output.stdout.lines().all(is_name) && output.stderr.is_empty(), "{output}");
                }
                "-q" if !prints_text(&arguments) => {
                    assert_eq!(output.stdout, "", "{output}");
                    assert!(failed || output.stderr.is_empty(), "{output}");
                }
                "" if !failed => assert!(!output.stdout.is_empty(), "no result on stdout\n{output}"),
                _ => {}
            }
        }
    }
}

/// The words of a help text that begin with `--`, and the names of its commands.
fn named_in(help: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let own = help.split("Global options:").next().unwrap();
    let options = own.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let options = options.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    let commands =
        help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or_default();
    let commands = commands.lines().filter_map(|line| line.split_whitespace().next());
    (options.map(str::to_owned).collect(), commands.map(str::to_owned).collect())
}

#[test]
fn the_table_has_every_command_and_every_option() {
    /// What needs a test of its own: it does not end by itself.
    const ELSEWHERE: &[&str] = &["watch", "apply --watch"];
    let sandbox = Sandbox::new();
    let help = |arguments: &str| sandbox.msb(arguments).run().success().stdout;
    let (_, commands) = named_in(&help("--help"));
    assert!(commands.contains("apply") && commands.contains("man"), "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        let lines = LINES.iter().map(|line| line.1);
        let lines: Vec<&str> = lines.filter(|line| line.split(' ').next() == Some(command)).collect();
        assert!(!lines.is_empty() || ELSEWHERE.contains(&command.as_str()), "no line for {command}");
        let (options, _) = named_in(&help(&format!("{command} --help")));
        assert!(options.contains("--help"), "{command}: {options:?}");
        for option in options.iter().filter(|option| *option != "--help") {
            let there = lines.iter().any(|line| line.split(' ').any(|word| word == option));
            let elsewhere = ELSEWHERE.contains(&format!("{command} {option}").as_str())
                || ELSEWHERE.contains(&command.as_str());
            assert!(there || elsewhere, "no line for {command} {option}");
        }
    }
}

#[test]
fn the_images_file_may_be_stdin() {
    let (sandbox, registry) = world();
    let text = wanted(&registry.name(), &["team/app:1"]);
    for (arguments, code) in [
        ("plan -", 0),
        ("apply -", 0),
        ("apply --dry-run -", 0),
        ("prune -", 0),
        ("lock -", 2),
        ("apply --locked -", 1),
    ] {
        let output = sandbox.msb(arguments).stdin(text.clone()).run().code(code);
        assert_plain(&output);
    }
    assert_eq!(listed(&sandbox).len(), 1);
    // Whose it is: the working directory's `-`.
    assert_eq!(listed(&sandbox)[0]["managed_by"], sandbox.work().join("-").to_str().unwrap());
    assert!(!sandbox.work().join("-.lock").exists());
}

#[test]
fn global_options_count_before_and_after_the_command() {
    let (sandbox, _registry) = world();
    sandbox.msb("apply").run().success();
    assert!(sandbox.home().join("oci.db").exists(), "the default home");
    for (arguments, variable, home) in [
        ("--home a apply", "", "a"),
        ("apply --home b", "", "b"),
        ("apply", "c", "c"),
        ("apply --home d", "not-this", "d"),
    ] {
        let home = sandbox.work().join(home);
        let variable = if variable.is_empty() {
            String::new()
        } else {
            sandbox.work().join(variable).display().to_string()
        };
        sandbox.msb(arguments).env("MICROSANDBOX_HOME", variable).run().success();
        assert!(home.join("oci.db").exists() && home.join("layers").is_dir(), "{arguments}");
    }
    assert!(!sandbox.work().join("not-this").exists());

    let coloured = |arguments: &str, no_color: &str| {
        sandbox.msb(arguments).env("NO_COLOR", no_color).run().success().stdout.contains('\u{1b}')
    };
    assert!(coloured("--color always list", "") && coloured("list --color always", "1"));
    assert!(
        !coloured("--color never list", "") && !coloured("--color auto list", "") && !coloured("list", "1")
    );
    for arguments in
        ["-v plan", "plan -vv", "-j 1 plan", "plan --jobs 3", "--progress never plan", "plan --progress auto"]
    {
        assert_plain(&sandbox.msb(arguments).run().success());
    }
    for arguments in [
        "-q -v plan",
        "-j 0 plan",
        "--color sometimes plan",
        "--progress maybe plan",
        "plan --home",
        "--jsonn plan",
    ] {
        let refused = sandbox.msb(arguments).run().code(2);
        assert!(refused.stdout.is_empty() && refused.stderr.contains("error: "), "{refused}");
    }
    for arguments in ["--version", "-V"] {
        let version = sandbox.msb(arguments).run().success();
        assert_eq!(version.stdout, format!("msb-sync {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn signals_end_apply_pull_and_verify_with_their_codes() {
    for (arguments, signal, code) in
        [("apply", Signal::INT, 130), ("pull REF", Signal::TERM, 143), ("verify --repair", Signal::INT, 130)]
    {
        let (sandbox, registry) = world();
        if arguments.starts_with("verify") {
            prepare(&sandbox, &registry, "apply");
            prepare(&sandbox, &registry, "damage");
        }
        registry.fail(usize::MAX, "/blobs/", &Fault::stall(0));
        registry.forget();
        let running =
            sandbox.msb(&arguments.replace("REF", &format!("{}/team/app:1", registry.name()))).spawn();
        eventually("a blob was asked for", Duration::from_secs(20), || {
            registry.requests().iter().any(|request| request.contains("/blobs/"))
        });
        running.signal(signal);
        let stopped = running.wait().code(code);
        assert!(stopped.stderr.contains("stopped by a signal"), "{stopped}");
    }
}
