//! `registries.toml`, the machine's settings for all images files, and `pull`, which has none.

use std::process::Command;
use std::time::Duration;

use crate::support::check::{applied, image, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{Auth, FakeRegistry, Fault};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Image, Layer, file, host_platform};
use crate::support::sandbox::Sandbox;

fn content() -> BlobSet {
    let mut content = BlobSet::default();
    let here = content.image(&Image::new(&[Layer::of(&[file("name", "here")])]));
    let there = content.image(&Image::new(&[Layer::of(&[file("name", "there")])]).platform("linux/s390x"));
    let index = content.index(false, &[here, there]);
    for tag in ["1", "2"] {
        content.tag(&format!("team/app:{tag}"), &index);
    }
    content
}

/// A registry that wants `me` with `hunter2`.
fn private() -> FakeRegistry {
    let auth = Auth::Basic { user: "me".to_owned(), password: "hunter2".to_owned() };
    FakeRegistry::with(content(), Front::Plain, auth)
}

/// Writes `<home>/registries.toml`.
fn machine(sandbox: &Sandbox, text: &str) {
    std::fs::create_dir_all(sandbox.home()).unwrap();
    std::fs::write(sandbox.home().join("registries.toml"), text).unwrap();
}

/// The table of `registry.test`, which is `registry`.
fn table(registry: &FakeRegistry) -> String {
    format!(
        "[registry.\"registry.test\"]\nendpoint = \"{}\"\nusername = \"me\"\npassword-file = \"password\"\n",
        registry.url()
    )
}

const REFERENCE: &str = "registry.test/team/app:1";

/// A sandbox whose machine knows `registry.test`.
fn sandbox(registry: &FakeRegistry) -> Sandbox {
    let sandbox = Sandbox::in_memory();
    machine(&sandbox, &table(registry));
    // Relative paths start where the file is.
    std::fs::write(sandbox.home().join("password"), "hunter2\n").unwrap();
    sandbox
}

#[test]
fn every_verb_that_asks_registries_knows_the_machines() {
    let registry = private();
    let sandbox = sandbox(&registry);
    sandbox.msb("pull").arg(REFERENCE).run().success();

    std::fs::remove_dir_all(sandbox.layers().join(&sandbox.extracted()[0])).unwrap();
    sandbox.msb("verify").run().code(1);
    sandbox.msb("verify --repair").run().success();

    sandbox.images(&wanted("registry.test", &["team/app:1", "team/app:2"]));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(plan.json()["changes"], 1, "{plan}");
    sandbox.msb("lock").run().success();
    applied(&sandbox);
    assert_eq!(listed(&sandbox).len(), 2);
}

#[test]
fn a_table_with_more_than_images_stands_in_place_of_the_machines() {
    let registry = private();
    let other = FakeRegistry::start(content());
    let sandbox = sandbox(&registry);
    let images = wanted("registry.test", &["team/app:1"]);
    // As a whole: the endpoint is the file's, and so is that there are no credentials.
    sandbox.images(&format!("{images}endpoint = \"{}\"\n", other.url()));
    applied(&sandbox);
    assert_eq!(registry.requests(), [] as [&str; 0]);
    assert!(other.log().iter().all(|exchange| exchange.request.header("authorization").is_none()));
    sandbox.images(&format!("{images}endpoint = \"{}\"\n", registry.url()));
    sandbox.msb("plan").run().code(1);
    // An empty table, or images alone, say nothing of the registry. Nor does a capital make it another one.
    sandbox.images(&wanted("Registry.Test", &["team/app:1"]));
    assert_eq!(applied(&sandbox).summary()["unchanged"], 1);
    assert!(registry.requests().iter().any(|line| line.starts_with("HEAD ")));
    // A policy of the machine's table is that of images which name none.
    machine(&sandbox, &format!("{}pull = \"never\"\n", table(&registry)));
    registry.forget();
    applied(&sandbox);
    assert_eq!(registry.requests(), [] as [&str; 0]);
}

#[test]
fn mirrors_of_the_machine_are_asked_unless_the_file_names_others() {
    let registry = FakeRegistry::start(content());
    let mirror = FakeRegistry::start(content());
    let sandbox = Sandbox::in_memory();
    machine(&sandbox, "[settings]\nhosts-dir = \"hosts\"\n");
    let hosts = sandbox.home().join("hosts").join(registry.name());
    std::fs::create_dir_all(&hosts).unwrap();
    std::fs::write(hosts.join("hosts.toml"), format!("[host.\"{}\"]\n", mirror.url())).unwrap();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    assert!(!mirror.requests().is_empty());
    mirror.forget();
    sandbox.msb(&format!("pull {}/team/app:2", registry.name())).run().success();
    assert!(!mirror.requests().is_empty());
    mirror.forget();
    std::fs::create_dir(sandbox.work().join("none")).unwrap();
    sandbox
        .images(&format!("[settings]\nhosts-dir = \"none\"\n{}", wanted(&registry.name(), &["team/app:1"])));
    applied(&sandbox);
    assert_eq!(mirror.requests(), [] as [&str; 0]);
}

#[test]
fn a_mistake_stops_every_verb_before_anything_is_touched() {
    let registry = FakeRegistry::start(content());
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let pull = format!("pull {}/team/app:1", registry.name());
    for (text, place, hint) in [
        (
            "[registry.\"docker.io\"]\nimages = [\"alpine\"]\n",
            "2:1",
            "[registry.\"docker.io\"] with nothing but `images`",
        ),
        ("[registry.\"docker.io\"]\nendpont = \"x\"\n", "2:1", "did you mean `endpoint`?"),
        ("[registry.\"docker.io\"]\npassword = \"hunter2\"\n", "2:1", "password-env"),
        ("[settings]\nlayers = \"/x\"\n", "2:1", "an images file"),
        ("[groups]\na = []\n", "1:2", "an images file"),
        ("[engine.podmen]\n", "1:9", "did you mean `podman`?"),
        ("[engine.containerd]\nnamespce = \"x\"\n", "2:1", "did you mean `namespace`?"),
        ("[engine.docker]\ncommand = 1\n", "2:11", ""),
        ("[registry.\"a.b\"]\n[registry.\"A.B\"]\n", "2:11", ""),
        ("[registry\n", "1:10", ""),
    ] {
        machine(&sandbox, text);
        let at = format!("{}:{place}", sandbox.home().join("registries.toml").display());
        for verb in ["plan", "apply", "watch", "lock", "prune", "verify --repair", &pull] {
            let output = sandbox.msb(verb).run().code(2).says(&at);
            assert!(hint.is_empty() || output.stderr.contains(hint), "{output}");
            assert!(!output.stderr.contains("hunter2"), "{output}");
        }
    }
    std::fs::remove_file(sandbox.home().join("registries.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", sandbox.home().join("registries.toml")).unwrap();
    sandbox.msb("apply").run().code(2).says("registries.toml: No such file");
    std::fs::remove_file(sandbox.home().join("registries.toml")).unwrap();
    std::fs::create_dir(sandbox.home().join("registries.toml")).unwrap();
    sandbox.msb("apply").run().code(2).says("registries.toml: it is not a regular file");
    let left: Vec<_> =
        std::fs::read_dir(sandbox.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["registries.toml"]);
    assert_eq!(registry.requests(), [] as [&str; 0]);
}

#[test]
fn watch_runs_when_the_machines_settings_change() {
    let registry = private();
    let sandbox = sandbox(&registry);
    machine(&sandbox, "");
    sandbox.images(&format!("[settings]\ninterval = \"1h\"\n{}", wanted("registry.test", &["team/app:1"])));
    let watching = sandbox.msb("watch").timeout(Duration::from_secs(120)).spawn();
    eventually("the first run has failed", Duration::from_secs(60), || {
        watching.stderr().contains("registry.test")
    });
    machine(&sandbox, &table(&registry));
    eventually("the image is here", Duration::from_secs(60), || !sandbox.extracted().is_empty());
    // The next run forgets the registry, and says so once.
    machine(&sandbox, "[registry]\nx = 1\n");
    eventually("the mistake is told", Duration::from_secs(60), || {
        watching.stderr().contains("registries.toml:2:1")
    });
}

#[test]
fn settings_of_the_system_count_where_the_home_has_none() {
    let registry = FakeRegistry::start(content());
    let sandbox = Sandbox::in_memory();
    let own = format!("[registry.\"registry.test\"]\nendpoint = \"{}\"\n", registry.url());
    let settings = sandbox.write("etc/registries.toml", &own);
    // A mount of its own over /etc, which nobody else sees.
    let script =
        "mount -t tmpfs none /etc && mkdir /etc/msb-sync && cp \"$1\" /etc/msb-sync/ && shift && exec \"$@\"";
    let isolated = |arguments: &[&str]| {
        let mut all = vec!["--mount", "sh", "-c", script, "sh", settings.to_str().unwrap()];
        all.push(env!("CARGO_BIN_EXE_msb-sync"));
        all.extend(arguments);
        sandbox.program("unshare", &all)
    };
    let probe = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/etc"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        use std::io::Write as _;
        let why = "needs root and `unshare --mount`: /etc/msb-sync/registries.toml was not tried";
        let _ = writeln!(std::io::stderr(), "{why}");
        return;
    }
    isolated(&["pull", REFERENCE]).run().success();
    // One in the home is taken instead, not besides.
    machine(&sandbox, "");
    isolated(&["pull", "registry.test/team/app:2"]).run().code(1);
}

#[test]
fn pull_speaks_of_nothing_but_what_it_pulls() {
    let registry = FakeRegistry::start(content());
    let sandbox = Sandbox::in_memory();
    let [one, two] = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", registry.name()));
    sandbox.msb("pull").arg(&one).run().success();
    let output = sandbox.msb("pull").arg(&two).run().success();
    assert!(!format!("{}{}", output.stdout, output.stderr).contains("isted"), "{output}");
    assert!(!output.stdout.contains(&one), "{output}");
}

#[test]
fn pull_takes_a_platform_and_the_settings_of_a_file() {
    let registry = FakeRegistry::start(content());
    let sandbox = Sandbox::in_memory();
    let reference = format!("{}/team/app:1", registry.name());
    sandbox.msb("pull --platform linux/s390x").arg(&reference).run().success();
    assert_eq!(image(&listed(&sandbox), &reference)["platform"], "linux/s390x");
    sandbox.msb("pull").arg(&reference).run().success();
    assert_eq!(image(&listed(&sandbox), &reference)["platform"], host_platform());
    sandbox.msb("pull --platform linux/riscv64").arg(&reference).run().code(1).says("linux/s390x");
    sandbox.msb("pull --platform amd64").arg(&reference).run().code(2);

    let registry = private();
    let text = format!(
        "{}password-env = \"PASSWORD\"\n",
        table(&registry).replace("password-file = \"password\"\n", "")
    );
    sandbox.write(
        "other/registries-of-team.toml",
        format!("{text}images = [{{ name = \"team/app\", tag = \"2\", groups = [\"g\"] }}]\n"),
    );
    let pull = |more: &str| {
        sandbox
            .msb(&format!("pull --file other/registries-of-team.toml {more}"))
            .env("PASSWORD", "hunter2")
            .run()
    };
    sandbox.msb("pull").arg(REFERENCE).run().code(1);
    pull(REFERENCE).success();
    assert_eq!(image(&listed(&sandbox), REFERENCE)["managed_by"], "pull");
    pull("@g").success();
    image(&listed(&sandbox), "registry.test/team/app:2");
    pull("@h").code(2);
    sandbox.msb("pull --file nowhere.toml").arg(REFERENCE).run().code(2).says("nowhere.toml");
    sandbox.write("bad.toml", "[registry.\"x.y\"]\nendpont = 1\n");
    sandbox.msb("pull --file bad.toml").arg(REFERENCE).run().code(2).says("bad.toml:2:1");
    // An images file that nobody names says nothing.
    sandbox.images(&text);
    registry.fail(usize::MAX, "/", &Fault::status(500));
    registry.forget();
    sandbox.msb("pull").arg(REFERENCE).run().code(1);
    assert_eq!(registry.requests(), [] as [&str; 0]);
}
