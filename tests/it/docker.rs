//! docker, by its real client: against a daemon that a script plays, with either of docker's image stores, and against
//! a real daemon where there is one. Without a client the test says so.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::check::{event, wanted};
use crate::support::engines::{find, say};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::{Run, Sandbox};
use crate::support::tool_command;

/// A daemon, ended with the test.
struct Daemon {
    directory: PathBuf,
    process: Child,
}

impl Daemon {
    /// A script with the image store `store`.
    fn fake(sandbox: &Sandbox, store: &str) -> Self {
        let directory = sandbox.root().join("daemon");
        fs::create_dir(&directory).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/docker_daemon.py");
        let mut process = tool_command(&directory, "python3")
            .args([script.as_path(), &directory, Path::new(store)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { directory, process }
    }

    /// A real daemon, if there is one and it works here.
    fn real(sandbox: &Sandbox) -> Option<Self> {
        let Some(program) = find("dockerd") else {
            say("dockerd cannot be had");
            return None;
        };
        let directory = sandbox.root().join("daemon");
        fs::create_dir(&directory).unwrap();
        let place = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let log = fs::File::create(place("log")).unwrap();
        let process = tool_command(&directory, program.to_str().unwrap())
            .args(["--host", &format!("unix://{}", place("d.sock")), "--storage-driver", "vfs"])
            .args(["--data-root", &place("root"), "--exec-root", &place("run"), "--pidfile", &place("pid")])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { directory, process };
        let start = Instant::now();
        while !daemon.docker(sandbox, &["version"]).run().status.success() {
            if start.elapsed() > Duration::from_secs(20) {
                let log = fs::read_to_string(daemon.directory.join("log")).unwrap_or_default();
                say(&format!("dockerd does not start here ({})", log.lines().last().unwrap_or_default()));
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(daemon)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.join("d.sock").display())
    }

    /// docker's client, as its user calls it.
    fn docker(&self, sandbox: &Sandbox, arguments: &[&str]) -> Run {
        let client = find("docker").unwrap();
        sandbox.program(client.to_str().unwrap(), arguments).env("DOCKER_HOST", self.host())
    }

    /// The references that the daemon lists, and their digests, or their IDs where it knows none.
    fn listing(&self, sandbox: &Sandbox) -> Vec<(String, String)> {
        let format = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}";
        let arguments = ["image", "ls", "--digests", "--no-trunc", "--format", format];
        let text = self.docker(sandbox, &arguments).run().success().stdout;
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let digest = if fields[1] == "<none>" { fields[2] } else { fields[1] };
            (fields[0].to_owned(), digest.to_owned())
        };
        let mut rows: Vec<_> = text.lines().map(row).collect();
        rows.sort();
        rows
    }

    /// The requests since the last question, without pings.
    fn requests(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("requests")).unwrap_or_default();
        fs::write(self.directory.join("requests"), "").unwrap();
        text.lines().filter(|line| !line.ends_with("/_ping")).map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A real one has to end its containerd. Ended already is fine.
        if let Ok(pid) = i32::try_from(self.process.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(15) && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn has_client() -> bool {
    let found = find("docker").is_some();
    if !found {
        say("docker's client cannot be had");
    }
    found
}

/// A registry that serves docker.io's `busy:1` and its own `team/app:1`; the version is in their contents.
fn push(content: &mut BlobSet, version: u32) {
    for name in ["library/busy:1", "team/app:1"] {
        let layers =
            [Layer::of(&[file("base", "base")]), Layer::of(&[file("name", format!("{name} {version}"))])];
        let image = content.image(&Image::new(&layers));
        content.tag(name, &image);
    }
}

fn registry() -> FakeRegistry {
    let mut content = BlobSet::default();
    push(&mut content, 0);
    FakeRegistry::start(content)
}

fn images(sandbox: &Sandbox, registry: &FakeRegistry, settings: &str, own: &[&str]) {
    let name = registry.name();
    sandbox.images(&format!(
        "[settings]\n{settings}\nlayers = false\n[engine.docker]\n\
         [registry.\"docker.io\"]\nendpoint = \"http://{name}\"\nimages = [\"busy:1\"]\n{}",
        wanted(&name, own)
    ));
}

/// The digest of the manifest of `tag`, or of its config.
fn digest_of(registry: &FakeRegistry, tag: &str, of_config: bool) -> String {
    registry.edit(|content| {
        let manifest = content.tags[tag].clone();
        let document: Value = serde_json::from_slice(&content.blobs[&manifest]).unwrap();
        if of_config { document["config"]["digest"].as_str().unwrap().to_owned() } else { manifest }
    })
}

/// Loads, keeps, gets back, follows and removes, with a daemon that knows images by their configs or by their
/// manifests.
fn lives_with(sandbox: &Sandbox, daemon: &Daemon, by_config: bool) {
    let registry = registry();
    images(sandbox, &registry, "", &["team/app:1"]);
    let expected = || {
        let own = format!("{}/team/app:1", registry.name());
        let mut rows = vec![
            (own, digest_of(&registry, "team/app:1", by_config)),
            ("busy:1".to_owned(), digest_of(&registry, "library/busy:1", by_config)),
        ];
        rows.sort();
        rows
    };
    let apply = |code: i32| sandbox.msb("apply --json").env("DOCKER_HOST", daemon.host()).run().code(code);
    let output = apply(0);
    assert_eq!(output.summary()["engine_loads"], 2, "{output}");
    assert_eq!(daemon.listing(sandbox), expected());

    registry.forget();
    daemon.requests();
    let output = apply(0);
    assert_eq!((&output.summary()["engine_loads"], &output.summary()["unchanged"]), (&json!(0), &json!(2)));
    let asked = daemon.requests();
    assert!(asked.iter().all(|request| request.starts_with("GET ")), "{asked:?}");
    assert!(asked.len() <= 2, "the store's kind, and one listing: {asked:?}");

    daemon.docker(sandbox, &["image", "rm", "busy:1"]).run().success();
    let output = apply(0);
    assert_eq!(output.summary()["engine_loads"], 1, "{output}");
    assert_eq!(daemon.listing(sandbox), expected());
    assert!(
        registry.requests().iter().all(|request| request.starts_with("HEAD ")),
        "{:?}",
        registry.requests()
    );

    registry.edit(|content| push(content, 1));
    apply(0);
    let listed = daemon.listing(sandbox);
    assert!(expected().iter().all(|row| listed.contains(row)), "{listed:?}");
    let verify = |code: i32| sandbox.msb("verify --json").env("DOCKER_HOST", daemon.host()).run().code(code);
    verify(0);
    daemon.docker(sandbox, &["image", "rm", "busy:1"]).run().success();
    assert!(verify(1).stdout.contains("missing"));
    apply(0);

    images(sandbox, &registry, "prune = true", &[]);
    apply(0);
    let listed = daemon.listing(sandbox);
    assert!(listed.iter().all(|(name, _)| !name.contains("team/app:1")), "{listed:?}");
    assert!(listed.iter().any(|(name, _)| name == "busy:1"), "{listed:?}");
}

#[test]
fn the_client_of_docker_keeps_images_in_either_image_store() {
    if !has_client() {
        return;
    }
    for (store, by_config) in [("containerd", false), ("classic", true)] {
        let sandbox = Sandbox::in_memory();
        let daemon = Daemon::fake(&sandbox, store);
        lives_with(&sandbox, &daemon, by_config);
    }
}

#[test]
fn a_real_daemon_of_docker_keeps_images() {
    if !has_client() {
        return;
    }
    let sandbox = Sandbox::new();
    if let Some(daemon) = Daemon::real(&sandbox) {
        let driver = daemon.docker(&sandbox, &["info", "--format", "{{.Driver}}"]).run().success();
        lives_with(&sandbox, &daemon, driver.stdout.trim() == "vfs");
    }
}

#[test]
fn the_classic_store_has_no_place_for_a_digest_without_a_tag() {
    if !has_client() {
        return;
    }
    let sandbox = Sandbox::in_memory();
    let daemon = Daemon::fake(&sandbox, "classic");
    let registry = registry();
    let digest = digest_of(&registry, "team/app:1", false);
    let (tagged, alone) = (format!("team/app:1@{digest}"), format!("team/app@{digest}"));
    images(&sandbox, &registry, "", &[&tagged, &alone]);
    let output = sandbox.msb("apply --json").env("DOCKER_HOST", daemon.host()).run().code(1);
    assert_eq!(event(&output, &format!("{}/{tagged}", registry.name()))["status"], "done", "{output}");
    let failed = event(&output, &format!("{}/{alone}", registry.name()));
    assert_eq!(failed["error"]["kind"], "engine", "{output}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("name:tag@digest"), "{output}");
    assert_eq!(daemon.listing(&sandbox).len(), 2, "{output}");
    // Nothing is tried that cannot be.
    daemon.requests();
    sandbox.msb("apply").env("DOCKER_HOST", daemon.host()).run().code(1);
    assert!(daemon.requests().iter().all(|request| request.starts_with("GET ")));
}

#[test]
fn what_docker_says_is_told() {
    if !has_client() {
        return;
    }
    let sandbox = Sandbox::in_memory();
    let daemon = Daemon::fake(&sandbox, "containerd");
    let registry = registry();
    images(&sandbox, &registry, "", &["team/app:1"]);
    fs::write(daemon.directory.join("full"), "").unwrap();
    let apply = || sandbox.msb("apply").env("DOCKER_HOST", daemon.host()).run();
    apply().code(1).says("docker load failed: exit status: 1: ").says("no space left on device");
    fs::remove_file(daemon.directory.join("full")).unwrap();
    apply().success();

    // What a container uses stays, and is no failure.
    let own = format!("{}/team/app:1", registry.name());
    fs::write(daemon.directory.join("in-use"), &own).unwrap();
    images(&sandbox, &registry, "prune = true", &[]);
    let output = apply().success();
    assert!(format!("{}{}", output.stdout, output.stderr).contains("container 0123456789ab"), "{output}");
    assert_eq!(daemon.listing(&sandbox).len(), 2);
    fs::remove_file(daemon.directory.join("in-use")).unwrap();
    apply().success();
    assert_eq!(daemon.listing(&sandbox).len(), 1);

    drop(daemon);
    let gone = format!("unix://{}/gone.sock", sandbox.root().display());
    let output = sandbox.msb("plan").env("DOCKER_HOST", gone).run().code(1);
    assert!(
        format!("{}{}", output.stdout, output.stderr).contains("Cannot connect to the Docker daemon"),
        "{output}"
    );
}
