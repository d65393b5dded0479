//! What users and scripts read: JSON keys, exit codes, plain text off a terminal, errors that help, and no secret.

use serde_json::{Value, json};

use crate::support::check::{applied, image, listed, wanted};
use crate::support::fake_registry::{Auth, FakeRegistry, Fault, basic};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Image, Layer, dir, file};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::Tree;

fn layer(name: &str) -> Layer {
    Layer::of(&[dir("d"), file(format!("d/{name}"), name.repeat(100))])
}

/// A registry of `team/app:1` (layers one, two) and `team/app:2` (layers one, three), both wanted.
fn two_images(sandbox: &Sandbox) -> FakeRegistry {
    let mut content = BlobSet::with("team/app:1", &Image::new(&[layer("one"), layer("two")]));
    let second = content.image(&Image::new(&[layer("one"), layer("three")]));
    content.tag("team/app:2", &second);
    let registry = FakeRegistry::start(content);
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2"]));
    registry
}

/// Fails unless `value` has these keys; more are welcome.
#[track_caller]
fn assert_keys(value: &Value, keys: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("not an object: {value:#}"));
    for key in keys.split(' ') {
        assert!(object.contains_key(key), "no {key:?} in {value:#}");
    }
}

/// Fails where the text has a control character other than the end of a line.
#[track_caller]
fn assert_plain(output: &Output) {
    for (name, text) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(odd, None, "a control character on {name}\n{output}");
    }
}

#[test]
fn json_documents_and_events_have_the_promised_keys() {
    const IMAGE: &str = "reference platform digest manifest_digest config_digest size managed_by layers";
    const PLAN: &str = "version changes download_bytes images layers_to_remove";
    const PLANNED: &str = "reference platform action digest previous reason layers download_bytes";
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    let json = |arguments: &str| sandbox.msb(&format!("{arguments} --json")).run().success().json();

    let plan = json("plan");
    assert_keys(&plan, PLAN);
    assert_eq!(plan["changes"], 2);
    let bytes: usize = ["one", "two", "three"].iter().map(|name| layer(name).blob.len()).sum();
    assert_eq!(plan["download_bytes"], bytes, "a shared layer counts once");
    for planned in plan["images"].as_array().unwrap() {
        assert_keys(planned, PLANNED);
        assert_keys(&planned["layers"], "total present");
        assert_eq!(planned["action"], "add");
        assert_eq!(planned["previous"], Value::Null);
    }
    assert_eq!(json("apply --dry-run")["changes"], 2);

    let output = applied(&sandbox);
    let events = output.json_lines();
    let images: Vec<&Value> = events.iter().filter(|event| event["event"] == "image").collect();
    assert_eq!(images.len(), 2, "{output}");
    for event in images {
        assert_keys(event, "event reference action status error");
        assert_eq!((&event["status"], &event["error"]), (&json!("done"), &Value::Null));
    }
    let summary = output.summary();
    assert_keys(
        &summary,
        "added updated repaired removed unchanged failed downloaded_bytes extracted_bytes requests duration_ms",
    );
    assert_eq!(summary["downloaded_bytes"], bytes);

    let list = json("list");
    for image in list["images"].as_array().unwrap() {
        assert_keys(image, IMAGE);
        assert_eq!(image["managed_by"], sandbox.work().join("images.toml").to_str().unwrap());
        let layers = image["layers"].as_array().unwrap();
        for layer in layers {
            assert_keys(layer, "digest diff_id media_type size path");
        }
        let size: u64 = layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
        assert_eq!(image["size"], size);
    }
    let reference = format!("{}/team/app:1", registry.name());
    let inspected = json(&format!("inspect {reference}"));
    assert_keys(&inspected["image"], IMAGE);
    let text = inspected["image"].to_string();
    assert!(text.contains("PATH=/usr/bin:/bin") && text.contains("80/tcp"), "no config in {text}");

    let verified = json("verify");
    assert_eq!(verified["layers"].as_array().unwrap().len(), 3);
    for layer in verified["layers"].as_array().unwrap() {
        assert_keys(layer, "digest status detail");
        assert_eq!(layer["status"], "ok");
    }
    for arguments in ["prune --dry-run", "prune", "lock"] {
        assert_eq!(json(arguments)["version"], 1);
    }

    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let plan = json("plan --prune");
    assert_eq!(plan["layers_to_remove"].to_string().matches(&layer("three").digest()).count(), 1, "{plan:#}");
    let removed =
        image(plan["images"].as_array().unwrap(), &format!("{}/team/app:2", registry.name())).clone();
    assert_eq!(removed["action"], "remove");
}

#[test]
fn off_a_terminal_there_are_plain_lines() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    let reference = format!("{}/team/app:1", registry.name());
    for (arguments, parts) in [
        ("plan", &["team/app:1", "add", "2 to add"][..]),
        ("apply --dry-run", &["team/app:1", "add"]),
        ("apply -v", &[]),
        ("apply", &[]),
        ("plan", &["= 2 images", "keep"]),
        ("plan -v", &["team/app:1", "team/app:2", "keep"]),
        ("list", &["team/app:1", "team/app:2"]),
        (&format!("inspect {reference}"), &["team/app:1", &layer("two").digest()]),
        ("verify", &[]),
        ("lock", &[]),
        ("prune --dry-run", &[]),
        (&format!("forget --dry-run {reference}"), &[]),
        ("--help", &["apply", "watch", "verify"]),
        ("apply --help", &["--locked"]),
        ("--version", &["msb-sync"]),
        ("init", &[]),
    ] {
        if arguments == "init" {
            std::fs::remove_file(sandbox.work().join("images.toml")).unwrap();
        }
        let output = sandbox.msb(arguments).run().success();
        assert_plain(&output);
        for part in parts {
            assert!(output.stdout.contains(part), "no {part:?} on stdout\n{output}");
        }
    }
    let coloured = |arguments: &str| sandbox.msb(arguments).run().stdout.contains('\u{1b}');
    assert!(!coloured("--color never list") && !coloured("--color auto list"));
}

#[test]
fn a_plan_changes_nothing() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    for arguments in ["plan", "apply --dry-run", "plan --json", "list", "prune --dry-run"] {
        let before = Tree::snapshot(sandbox.root());
        sandbox.msb(arguments).run().success();
        before.assert_matches(&Tree::snapshot(sandbox.root()), arguments);
    }
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let forget = format!("forget --dry-run {}/team/app:1", registry.name());
    for arguments in ["plan --prune", "apply --dry-run --prune", "prune --dry-run", "verify", "list", &forget]
    {
        let before = Tree::snapshot(sandbox.root());
        sandbox.msb(arguments).run().success();
        before.assert_matches(&Tree::snapshot(sandbox.root()), arguments);
    }
}

#[test]
fn quiet_is_quiet() {
    let sandbox = Sandbox::in_memory();
    let _registry = two_images(&sandbox);
    let output = sandbox.msb("-q apply").run().success();
    assert_eq!(output.stderr, "", "{output}");
    let again = sandbox.msb("apply").run().success();
    assert!(format!("{}{}", again.stdout, again.stderr).lines().count() >= 1, "it says so\n{again}");
}

#[test]
fn quiet_leaves_warnings_out_and_errors_in() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    sandbox.msb("lock").run().success();
    sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/app:2", "team/app:3"]));
    let loud = sandbox.msb("plan").run().code(1).says("warning: not in images.lock");
    let quiet = sandbox.msb("plan --quiet").run().code(1).says("error: ");
    assert!(!quiet.stderr.contains("warning") && loud.stderr.contains("error: "), "{quiet}\n{loud}");
    assert_eq!(quiet.stdout, "", "{quiet}");
}

#[test]
fn progress_off_a_terminal_is_lines_if_it_is_asked_for() {
    let sandbox = Sandbox::in_memory();
    let _registry = two_images(&sandbox);
    let output = sandbox.msb("apply --progress always").run().success();
    assert_plain(&output);
    for part in ["looking up 2 images", "1 of 3 layers done, ", "3 of 3 layers done, "] {
        assert!(output.stderr.contains(part), "no {part:?}\n{output}");
    }
    let output = sandbox.msb("verify --progress always").run().success();
    assert_plain(&output);
    for part in ["comparing 3 layers, ", "3 of 3 layers compared"] {
        assert!(output.stderr.contains(part), "no {part:?}\n{output}");
    }
    let output = sandbox.msb("export --progress always --output out.tar").run().success();
    assert_plain(&output);
    // Two manifests, two configs, three layers.
    for part in ["writing 7 blobs, ", "7 of 7 blobs written"] {
        assert!(output.stderr.contains(part), "no {part:?}\n{output}");
    }
    let images = std::fs::read(sandbox.work().join("images.toml")).unwrap();
    sandbox.images("");
    let output = sandbox.msb("prune --allow-empty --progress always").run().success();
    for part in ["removing 3 layers", "3 of 3 layers removed"] {
        assert!(output.stderr.contains(part), "no {part:?}\n{output}");
    }
    sandbox.write("images.toml", images);
    for never in ["--progress never", "--progress auto", "-q --progress always"] {
        std::fs::remove_dir_all(sandbox.home()).unwrap();
        let output = sandbox.msb(&format!("apply {never}")).run().success();
        assert!(!output.stderr.contains("layers done"), "{output}");
    }
}

#[test]
fn layers_that_cannot_be_removed_are_told_and_end_no_run() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    applied(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let directory = sandbox.layers().join(layer("three").directory());
    let immutable =
        |flag: &str| sandbox.program("chattr", &[flag, directory.to_str().unwrap()]).run().status.success();
    // Only root can forbid it to root, and only on a file system that knows how.
    if !immutable("+i") {
        return;
    }
    let kept = sandbox.msb("apply --prune --json").run();
    let people = sandbox.msb("prune").run();
    immutable("-i");
    let kept = kept.success().says("warning: layer").says("is kept: cannot remove");
    let summary = kept.summary();
    assert_eq!((&summary["removed"], &summary["failed"]), (&json!(1), &json!(0)), "{kept}");
    let people = people.success();
    assert!(
        format!("{}{}", people.stdout, people.stderr).contains(&layer("three").digest()[7..19]),
        "{people}"
    );
    // The row is gone, so that the layer is only what nobody needs.
    assert_eq!(listed(&sandbox).len(), 1);
    sandbox.msb("prune").run().success();
    assert!(!directory.exists());
}

#[test]
fn exit_codes_tell_success_failure_and_misuse_apart() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    sandbox.write("broken.toml", "[registry.\"x.example\"\nimages = []\n");
    sandbox.write("wrong.toml", "[setings]\n");
    sandbox.write("down.toml", wanted("127.0.0.1:1", &["team/app:1"]));
    sandbox.write("unknown.toml", wanted(&registry.name(), &["team/none:1"]));
    sandbox.write("empty.toml", "");
    for (arguments, code) in [
        ("plan", 0),
        ("plan --detailed-exitcode", 2),
        ("plan --detailed-exitcode broken.toml", 1),
        ("plan broken.toml", 2),
        ("apply broken.toml", 2),
        ("apply wrong.toml", 2),
        ("apply no-such-file.toml", 2),
        ("apply unknown.toml", 1),
        ("plan unknown.toml", 1),
        ("apply empty.toml", 0),
        ("apply --locked", 1),
        ("apply --group nope", 2),
        ("apply --no-such-flag", 2),
        ("no-such-command", 2),
        ("apply one two", 2),
        ("", 2),
        ("pull UPPER/case", 2),
        ("inspect team/none:1", 1),
        ("lock --check", 2),
        ("lock --check broken.toml", 1),
        ("apply", 0),
        ("plan --detailed-exitcode", 0),
        ("lock", 0),
        ("lock --check", 0),
        ("apply --locked", 0),
        ("apply --offline", 0),
        ("init", 1),
        ("completions bash", 0),
        ("completions nosuchshell", 2),
        ("man", 0),
        ("schema", 0),
    ] {
        let output = sandbox.msb(arguments).run();
        // init may call a file that exists misuse or failure; both are errors.
        let codes = if arguments == "init" { vec![1, 2] } else { vec![code] };
        assert!(codes.contains(&output.status.code().unwrap_or(-1)), "expected {codes:?}\n{output}");
        let failed = code != 0 && !arguments.contains("detailed-exitcode") && !arguments.contains("--check");
        if failed && !arguments.is_empty() {
            assert!(output.stderr.contains("error:"), "no error:\n{output}");
        }
        assert!(!output.stderr.contains("panicked") && !output.stderr.contains("RUST_BACKTRACE"), "{output}");
    }
    let down = sandbox.msb("apply down.toml").timeout(std::time::Duration::from_secs(120)).run().code(1);
    assert!(down.stderr.contains("127.0.0.1:1"), "{down}");
}

#[test]
fn the_file_may_come_from_stdin_or_lie_elsewhere() {
    let sandbox = Sandbox::in_memory();
    let mut set = BlobSet::default();
    let manifest = set.image(&Image::new(&[layer("one")]));
    set.write_layout(&sandbox.work().join("oci"), &[("1", &manifest)]);
    set.write_layout(&sandbox.work().join("deep/er/oci"), &[("1", &manifest)]);
    let text = "[registry.\"a.local\"]\nlayout = \"oci\"\nimages = [\"app:1\"]\n";
    sandbox.msb("apply -").stdin(text).run().success();
    assert_eq!(listed(&sandbox).len(), 1);
    std::fs::remove_dir_all(sandbox.work().join("oci")).unwrap();
    let file = sandbox.write("deep/er/mine.toml", text.replace("a.local", "b.local"));
    sandbox.msb("apply deep/er/mine.toml").run().success();
    let images = listed(&sandbox);
    assert_eq!(image(&images, "b.local/app:1")["managed_by"], file.to_str().unwrap());
    sandbox.msb("lock deep/er/mine.toml").run().success();
    assert!(sandbox.work().join("deep/er/mine.lock").exists());

    let home = sandbox.root().join("another home");
    sandbox.msb("apply deep/er/mine.toml --home").arg(&home).run().success();
    assert!(home.join("oci.db").exists());
    let home = sandbox.root().join("by variable");
    sandbox.msb("apply deep/er/mine.toml").env("MICROSANDBOX_HOME", &home).run().success();
    assert!(home.join("oci.db").exists());
}

#[test]
fn every_mistake_in_a_file_is_shown_at_once_where_it_is() {
    let sandbox = Sandbox::in_memory();
    let text = "[settings]\n\
        platfrom = \"linux/amd64\"\n\
        downloads = \"six\"\n\
        [registry.\"x.example\"]\n\
        images = [\n\
        \"UPPER/case:1\",\n\
        \"team/app:1\",\n\
        \"team/app:1\",\n\
        { name = \"sel\", tags = { match = \"(\", newest = 1 } },\n\
        { name = \"sel2\", tags = { semver = \"1\", newest = 0 } },\n\
        ]\n\
        [groups]\n\
        a = [\"x.example/none:1\"]\n\
        b = [\"@b\"]\n";
    sandbox.images(text);
    let before = Tree::snapshot(sandbox.root());
    let output = sandbox.msb("apply").run().code(2);
    before.assert_matches(&Tree::snapshot(sandbox.root()), "a wrong file touches nothing");
    assert_plain(&output);
    for line in [2, 3, 6, 8, 9, 10, 13, 14] {
        let own = text.lines().nth(line - 1).unwrap();
        assert!(output.stderr.contains(own), "line {line} is not shown: {own}\n{output}");
        let places = [format!("images.toml:{line}:"), format!("line {line}, column ")];
        assert!(
            places.iter().any(|place| output.stderr.contains(place)),
            "no place for line {line}\n{output}"
        );
    }
    assert!(output.stderr.contains("images.toml"), "{output}");
    assert!(output.stderr.contains("platform"), "no near miss for platfrom\n{output}");
}

#[test]
fn a_password_in_the_file_is_refused_and_hidden() {
    for text in [
        "[registry.\"x.example\"]\nusername = \"me\"\npassword = \"hunter2secret\"\nimages = []\n",
        "[registry.\"x.example\"]\npassword = '''hunter2secret'''\nimages = [\"UPPER\"]\n",
    ] {
        let sandbox = Sandbox::in_memory();
        sandbox.images(text);
        let output = sandbox.msb("apply -vvv").run().code(2);
        assert!(!format!("{output}").contains("hunter2secret"), "{output}");
        assert!(output.stderr.contains("password"), "{output}");
    }
}

#[test]
fn no_output_holds_a_secret() {
    const PASSWORD: &str = "hunter2secret";
    let content = BlobSet::with("team/app:1", &Image::new(&[layer("one")]));
    let user = || Some(("me".to_owned(), PASSWORD.to_owned()));
    let basic_auth = || Auth::Basic { user: "me".to_owned(), password: PASSWORD.to_owned() };
    for (what, auth, given, code) in [
        ("basic", basic_auth(), PASSWORD, 0),
        ("bearer", Auth::Bearer { user: user() }, PASSWORD, 0),
        ("basic refused", basic_auth(), "wrong-hunter2secret", 1),
        ("bearer refused", Auth::Bearer { user: user() }, "wrong-hunter2secret", 1),
    ] {
        let sandbox = Sandbox::in_memory();
        let registry = FakeRegistry::with(content.clone(), Front::Plain, auth);
        let text = wanted(&registry.name(), &["team/app:1"]);
        sandbox.images(&format!("{text}username = \"me\"\npassword-env = \"SECRET\"\n"));
        for arguments in ["apply -vvv", "apply --json -vvv"] {
            let output = sandbox.msb(arguments).env("SECRET", given).run();
            assert_eq!(output.status.code(), Some(code), "{what}\n{output}");
            let encoded = basic("me", given);
            for secret in [PASSWORD, encoded.trim_start_matches("Basic "), "secret-token"] {
                assert!(!format!("{output}").contains(secret), "{what}: {secret} in\n{output}");
            }
        }
    }

    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content);
    let target = format!("{}/elsewhere?sig=hunter2secret", registry.url());
    registry.on(move |request| {
        request.path.contains("/blobs/").then(|| Fault::status(307).header("Location", &target))
    });
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let output = sandbox.msb("apply -vvv").run().code(1);
    assert!(!format!("{output}").contains("hunter2secret"), "{output}");
    assert!(output.stderr.contains("404"), "{output}");

    let text = wanted(&registry.name(), &["team/app:1"]);
    let endpoint = registry.url().replace("//", "//me:hunter2secret@");
    sandbox.images(&format!("{text}endpoint = {endpoint:?}\n"));
    let output = sandbox.msb("plan -vvv").run();
    assert!(!format!("{output}").contains("hunter2secret"), "{output}");
}

#[test]
fn an_error_says_what_where_and_what_next() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    sandbox.images(&wanted(&registry.name(), &["team/nope:1"]));
    let output = sandbox.msb("apply").run().code(1);
    let name = registry.name();
    let line = output.stderr.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
    for part in [&format!("{name}/team/nope:1"), "manifest unknown", "404"] {
        assert!(line.contains(part), "no {part:?} in {line:?}\n{output}");
    }
    let refused = sandbox.msb("apply nowhere.toml").run().code(2);
    assert!(refused.stderr.contains("nowhere.toml") && refused.stderr.contains("hint:"), "{refused}");

    // What a registry says is shown, but it does not steer the terminal.
    let body =
        json!({"errors": [{"code": "DENIED", "message": "\u{1b}[31mred\u{7}\r\nerror: forged"}]}).to_string();
    registry.on(move |_| Some(Fault { body: Some(body.clone().into_bytes()), ..Fault::status(403) }));
    let output = sandbox.msb("apply").run().code(1);
    assert_plain(&output);
    assert!(output.stderr.contains("red") && output.stderr.contains("403"), "{output}");
    assert!(!output.stderr.lines().any(|line| line.starts_with("error: forged")), "{output}");
    registry.behave();

    let sandbox = Sandbox::in_memory();
    let hostile = Layer::of(&[file("../\u{1b}[2Jgone", "x")]);
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[hostile])));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let output = sandbox.msb("apply").run().code(1);
    assert_plain(&output);
    assert!(output.stderr.contains("gone"), "the entry is not named\n{output}");
}

#[test]
fn verify_tells_what_is_wrong_and_repairs_it() {
    let sandbox = Sandbox::in_memory();
    let _registry = two_images(&sandbox);
    applied(&sandbox);
    let status = |output: &Output, name: &str| -> String {
        let document = output.json();
        let layers = document["layers"].as_array().unwrap();
        let found = layers.iter().find(|entry| entry["digest"] == layer(name).digest());
        found.unwrap_or_else(|| panic!("no layer {name}\n{output}"))["status"].as_str().unwrap().to_owned()
    };
    let directory = |name: &str| sandbox.layers().join(layer(name).directory());
    std::fs::write(directory("one").join("d/one"), "changed").unwrap();
    std::fs::remove_dir_all(directory("two")).unwrap();
    std::fs::write(directory("three").join("d/extra"), "added").unwrap();
    let output = sandbox.msb("verify --json").run().code(1);
    assert_eq!(status(&output, "one"), "modified", "{output}");
    assert_eq!(status(&output, "two"), "missing", "{output}");
    assert_eq!(status(&output, "three"), "modified", "{output}");
    sandbox.msb("verify --repair").run().success();
    let output = sandbox.msb("verify --json").run().success();
    assert!(["one", "two", "three"].iter().all(|name| status(&output, name) == "ok"), "{output}");
}

#[test]
fn prune_forget_and_pull_keep_to_what_is_theirs() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    let full = |name: &str| format!("{}/team/{name}", registry.name());
    registry.edit(|content| {
        let third = content.image(&Image::new(&[layer("four")]));
        content.tag("team/pulled:1", &third);
    });
    applied(&sandbox);
    sandbox.msb(&format!("pull {}", full("pulled:1"))).run().success();
    assert_eq!(image(&listed(&sandbox), &full("pulled:1"))["managed_by"], "pull");

    // Another file that lists one of them keeps it.
    sandbox.write("other.toml", wanted(&registry.name(), &["team/app:1"]));
    sandbox.msb("apply other.toml").run().success();
    sandbox.images(&wanted(&registry.name(), &[]));
    sandbox.msb("apply").run().success();
    assert_eq!(listed(&sandbox).len(), 3, "apply alone removes nothing");
    sandbox.msb("prune --allow-empty").run().success();
    let names = |images: &[Value]| -> Vec<String> {
        let mut names: Vec<String> =
            images.iter().map(|image| image["reference"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&listed(&sandbox)), [full("app:1"), full("pulled:1")]);
    let mut left = ["one", "two", "four"].map(|name| layer(name).directory());
    left.sort();
    assert_eq!(sandbox.extracted(), left, "only layers that nobody needs go");

    sandbox.msb(&format!("forget {}", full("pulled:1"))).run().success();
    assert_eq!(names(&listed(&sandbox)), [full("app:1")]);
    sandbox.write("other.toml", wanted(&registry.name(), &[]));
    sandbox.msb("apply --prune --allow-empty other.toml").run().success();
    assert_eq!(listed(&sandbox).len(), 0);
    assert_eq!(sandbox.extracted(), [""; 0]);
}

#[test]
fn a_registry_that_is_down_removes_nothing() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    applied(&sandbox);
    registry.on(|_| Some(Fault::status(403)));
    let output = sandbox.msb("apply --prune --json").run().code(1);
    assert_eq!(output.summary()["removed"], 0, "{output}");
    assert_eq!(listed(&sandbox).len(), 2);
    assert_eq!(sandbox.extracted().len(), 3);
    let offline = sandbox.msb("apply --offline --json").run().success();
    assert_eq!(offline.summary()["requests"], 0, "{offline}");
}

#[test]
fn a_lockfile_pins_what_tags_meant() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    sandbox.msb("lock").run().success();
    let lock = sandbox.work().join("images.lock");
    let before = (std::fs::read_to_string(&lock).unwrap(), Tree::snapshot(&sandbox.work()));
    registry.edit(|content| {
        let moved = content.image(&Image::new(&[layer("five")]));
        content.tag("team/app:1", &moved);
    });
    sandbox.msb("lock").run().success();
    before.1.assert_matches(&Tree::snapshot(&sandbox.work()), "an unchanged lockfile is not rewritten");
    applied(&sandbox);
    let full = format!("{}/team/app:1", registry.name());
    let locked = image(&listed(&sandbox), &full)["digest"].as_str().unwrap().to_owned();
    assert!(before.0.contains(&locked), "apply left the lockfile\n{}", before.0);
    assert!(
        before.0.contains(&layer("two").digest()) && before.0.contains(&layer("two").diff_id),
        "{}",
        before.0
    );

    sandbox.msb(&format!("lock --upgrade {}/team/app:2", registry.name())).run().success();
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), before.0, "only what is asked for moves");
    sandbox.msb("lock --upgrade").run().success();
    assert_ne!(std::fs::read_to_string(&lock).unwrap(), before.0);
    assert_eq!(applied(&sandbox).summary()["updated"], 1);

    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    sandbox.msb("apply --locked").run().code(1);
    for (broken, what) in [("version = 99\n", "newer"), ("nonsense", "broken")] {
        std::fs::write(&lock, broken).unwrap();
        let output = sandbox.msb("apply").run().code(2);
        assert!(output.stderr.contains("images.lock"), "{what}\n{output}");
    }
}

#[test]
fn what_init_schema_completions_and_man_print_is_of_use() {
    let sandbox = Sandbox::in_memory();
    sandbox.msb("init").run().success();
    let file = sandbox.work().join("images.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().any(|line| line.starts_with('#')), "{text}");
    assert_ne!(sandbox.msb("init").run().status.code(), Some(0), "init overwrites");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    let schema: Value = serde_json::from_str(&sandbox.msb("schema").run().success().stdout).unwrap();
    for key in ["settings", "registry", "groups"] {
        assert!(schema["properties"].get(key).is_some(), "no {key} in {schema:#}");
    }
    assert!(sandbox.msb("man").run().success().stdout.contains(".TH"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(sandbox.msb(&format!("completions {shell}")).run().success().stdout.contains("msb-sync"));
    }
}

#[test]
fn a_plan_tells_why_an_image_is_blocked_wherever_it_is_read() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(BlobSet::default());
    registry.on(|_| Some(Fault::status(405)));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let plan = sandbox.msb("plan").run().code(1);
    let told = |output: &Output| {
        [&output.stdout, &output.stderr].map(|text| text.matches("scripted failure").count())
    };
    assert_eq!(told(&plan), [1, 1], "{plan}");
    let both = format!("{} plan 2>&1", env!("CARGO_BIN_EXE_msb-sync"));
    let together = sandbox.program("sh", &["-c", &both]).run();
    assert_eq!(told(&together), [1, 0], "{together}");
    let quiet = sandbox.msb("plan -q").run().code(1);
    assert_eq!(told(&quiet), [0, 1], "{quiet}");

    // What has a next step is told with it.
    sandbox.images(&(wanted(&registry.name(), &["team/app:1"]) + "password-env = \"NOT_SET\"\n"));
    sandbox.msb("plan").run().code(1).says("NOT_SET is not set").says("hint: set the variable");
}

#[test]
fn what_one_registry_keeps_from_many_images_is_one_entry() {
    let sandbox = Sandbox::in_memory();
    let registry = two_images(&sandbox);
    let dead: Vec<String> = (0..30).map(|at| format!("dead/d{at}:1")).collect();
    let dead: Vec<&str> = dead.iter().map(String::as_str).collect();
    let long = format!("{}/end:1", ["very-long-name"; 12].join("/"));
    let alive = ["team/app:1", "team/app:2", &long];
    sandbox.images(&(wanted(&registry.name(), &alive) + &wanted("127.0.0.1:1", &dead)));

    let plan = sandbox.msb("plan").run().code(1);
    let (stdout, stderr) = (plan.stdout.lines(), plan.stderr.lines());
    assert!(stdout.clone().count() < 12 && stderr.clone().count() < 10, "{plan}");
    assert_eq!(plan.stderr.matches("check that the registry runs").count(), 1, "{plan}");
    let entry = plan.stdout.lines().find(|line| line.contains("x 30 images of 127.0.0.1:1 "));
    assert!(entry.is_some_and(|line| line.contains("  blocked  connection refused")), "{plan}");
    // The long name breaks no other row.
    assert!(stdout.clone().any(|line| line.contains("team/app:1") && line.len() < 80), "{plan}");
    // On a terminal, nothing is wider than that.
    let script = "import os, pty, sys\n\
        def read(fd):\n \
        data = os.read(fd, 65536)\n \
        return data\n\
        os.environ['TERM'] = 'xterm'\n\
        status = pty.spawn(['sh', '-c', 'stty cols 60 rows 24; exec \"$@\"', 'sh'] + sys.argv[1:], read)\n\
        sys.exit(os.waitstatus_to_exitcode(status))\n";
    let terminal = |arguments: &[&str]| {
        let program = ["-c", script, env!("CARGO_BIN_EXE_msb-sync"), "--color", "never"];
        sandbox.program("python3", &[&program, arguments].concat()).run().stdout
    };
    for (arguments, parts) in
        [(&["plan", "-v"][..], ["dead/d29:1", "to add"]), (&["plan"][..], ["30 images of", "31 blocked"])]
    {
        let shown = terminal(arguments);
        // Before the plan come the requests, which are told whole.
        let plan = shown.split_once("images.toml · ").unwrap_or_else(|| panic!("no plan in {shown}")).1;
        let rows = plan.lines().filter(|line| !line.starts_with("error: ") && !line.starts_with("hint: "));
        for row in rows {
            assert!(row.chars().count() <= 60, "{row:?} in {shown}");
        }
        for part in parts {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
    }

    let applied = sandbox.msb("apply").run().code(1);
    assert_eq!(applied.stderr.matches("check that the registry runs").count(), 1, "{applied}");
    assert!(applied.stderr.contains("error: 30 images of 127.0.0.1:1: connection refused"), "{applied}");
    assert!(applied.stdout.contains("Partly done: 2 added, 31 failed"), "{applied}");
    // A log has no use for what to look at next.
    assert!(!applied.stdout.contains("Look at them"), "{applied}");
    let list = terminal(&["list"]);
    assert!(list.lines().all(|row| row.chars().count() <= 60) && list.contains("team/app:2"), "{list}");
    let names = sandbox.msb("-q list").run().success().stdout;
    assert_eq!(names, format!("{0}/team/app:1\n{0}/team/app:2\n", registry.name()));
}
