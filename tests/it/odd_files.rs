//! A fifo, a device or a directory in place of a file that is read: refused at once, by name, and nothing hangs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode};
use serde_json::Value;

use crate::support::check::{applied, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{Auth, FakeRegistry};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::{Run, Sandbox};
use crate::support::watching::{LIMIT, Watching};

/// No run of these tests may wait for anything.
const SOON: Duration = Duration::from_secs(25);

fn layer() -> Layer {
    Layer::of(&[file("f", noise(1, 40_000))])
}

/// A registry with `team/app:1`, which the images file of the sandbox lists.
fn serve(sandbox: &Sandbox, layers: &[Layer]) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(layers)));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    registry
}

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// What a run must not read: a fifo that nobody writes to, a device that never ends, a directory.
const UNREADABLE: [(&str, &str); 3] =
    [("fifo", "a fifo"), ("device", "a device"), ("directory", "a directory")];

fn put(kind: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "fifo" => fifo(path),
        // A link, as not everybody may make devices.
        "device" => symlink("/dev/zero", path).unwrap(),
        _ => fs::create_dir(path).unwrap(),
    }
}

#[test]
fn files_that_an_images_file_names_are_regular_ones() {
    for (kind, words) in UNREADABLE {
        let sandbox = Sandbox::in_memory();
        let refused = |run: Run, code: i32, path: &Path| {
            let output = run.timeout(SOON).run().code(code);
            let said = format!("it is not a regular file but {words}");
            assert!(output.stderr.contains(&said), "{}\n{output}", path.display());
            assert!(output.stderr.contains(path.file_name().unwrap().to_str().unwrap()), "{output}");
        };
        let images = sandbox.work().join("images.toml");
        put(kind, &images);
        for arguments in ["apply", "plan", "lock", "prune", "watch"] {
            refused(sandbox.msb(arguments), 2, &images);
        }
        remove(&images);

        let registry = serve(&sandbox, &[layer()]);
        let lockfile = sandbox.work().join("images.lock");
        put(kind, &lockfile);
        for arguments in ["apply --locked", "plan", "lock"] {
            refused(sandbox.msb(arguments), 2, &lockfile);
        }
        remove(&lockfile);

        let name = registry.name();
        let pem = sandbox.write("good.pem", crate::support::tls::Authority::new().pem());
        let bad = sandbox.work().join("bad");
        put(kind, &bad);
        for settings in [
            "ca = \"bad\"\nendpoint = \"https://127.0.0.1:1\"".to_owned(),
            format!("client-cert = \"bad\"\nclient-key = {pem:?}\nendpoint = \"https://127.0.0.1:1\""),
            format!("client-cert = {pem:?}\nclient-key = \"bad\"\nendpoint = \"https://127.0.0.1:1\""),
            "username = \"me\"\npassword-file = \"bad\"".to_owned(),
        ] {
            sandbox.images(&format!("[registry.{name:?}]\n{settings}\nimages = [\"team/app:1\"]\n"));
            refused(sandbox.msb("apply"), 1, &bad);
        }
        let listed = wanted(&name, &["team/app:1"]);
        let hosts = sandbox.work().join("hosts").join(name.replace(':', "_") + "_").join("hosts.toml");
        put(kind, &hosts);
        sandbox.images(&format!("[settings]\nhosts-dir = \"hosts\"\n{listed}"));
        refused(sandbox.msb("apply"), 1, &hosts);

        sandbox.images("[registry.\"r.local\"]\nlayout = \"oci\"\nimages = [\"app:1\"]\n");
        let index = sandbox.work().join("oci/index.json");
        put(kind, &index);
        fs::write(sandbox.work().join("oci/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        refused(sandbox.msb("apply"), 1, &index);
    }
}

#[test]
fn credentials_and_roots_of_the_environment_are_regular_files() {
    for (kind, words) in UNREADABLE {
        let sandbox = Sandbox::in_memory();
        let content = BlobSet::with("team/app:1", &Image::new(&[layer()]));
        let registry = FakeRegistry::with(
            content,
            Front::Plain,
            Auth::Basic { user: "me".to_owned(), password: "x".to_owned() },
        );
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let config = sandbox.user().join(".docker/config.json");
        put(kind, &config);
        let output = sandbox.msb("apply").timeout(SOON).run().code(1);
        assert!(output.stderr.contains(&format!("it is not a regular file but {words}")), "{output}");
        assert!(output.stderr.contains("config.json"), "{output}");

        let roots = sandbox.work().join("roots.pem");
        put(kind, &roots);
        let name = registry.name();
        sandbox.images(&format!(
            "[registry.{name:?}]\nendpoint = \"https://127.0.0.1:1\"\nimages = [\"team/app:1\"]\n"
        ));
        let output = sandbox.msb("apply").env("SSL_CERT_FILE", &roots).timeout(SOON).run().code(1);
        assert!(output.stderr.contains("roots.pem: it is not a regular file"), "{output}");
    }
}

#[test]
fn an_inventory_that_is_no_file_is_named_by_all_who_would_read_it() {
    let layer = layer();
    for (kind, words) in [("fifo", "a fifo"), ("directory", "a directory"), ("symlink", "a symbolic link")] {
        let sandbox = Sandbox::in_memory();
        let registry = serve(&sandbox, std::slice::from_ref(&layer));
        applied(&sandbox);
        let record = sandbox.home().join(".layers.msb-sync/records").join(layer.digest());
        fs::rename(&record, sandbox.root().join("record")).unwrap();
        match kind {
            "symlink" => symlink(sandbox.root().join("record"), &record).unwrap(),
            kind => put(kind, &record),
        }
        let name = format!("inspect {}/team/app:1", registry.name());
        for (arguments, code) in [(name.as_str(), 0), ("verify", 1), ("verify --repair", 1), ("apply", 1)] {
            let output = sandbox.msb(arguments).timeout(SOON).run().code(code);
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(said.contains(record.to_str().unwrap()) && said.contains(words), "{output}");
        }
        for arguments in ["list", "plan", "prune", "prune --dry-run"] {
            sandbox.msb(arguments).timeout(SOON).run().success();
        }
        assert_eq!(registry.sent(&layer.digest()), layer.blob.len() as u64, "it is not fetched for nothing");
        remove(&record);
        applied(&sandbox);
        sandbox.msb("verify").run().success();
    }
}

#[test]
fn what_a_dead_run_has_left_is_looked_at_without_waiting() {
    for name in ["ready", "record", "tree"] {
        let sandbox = Sandbox::in_memory();
        let layer = layer();
        let _registry = serve(&sandbox, std::slice::from_ref(&layer));
        let staged = sandbox.home().join(".layers.msb-sync/staging").join(layer.digest());
        fs::create_dir_all(&staged).unwrap();
        fifo(&staged.join(name));
        let lock = sandbox.home().join(".layers.msb-sync/homes");
        fs::create_dir_all(&lock).unwrap();
        fifo(&lock.join("0".repeat(64)));
        assert_eq!(sandbox.msb("prune --dry-run").timeout(SOON).run().code(0).stderr, "");
        sandbox.msb("apply").timeout(SOON).run().success();
        assert!(!staged.exists(), "{name}");
        sandbox.msb("verify").run().success();
    }
}

fn health(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_watch_whose_images_file_becomes_a_fifo_goes_on() {
    let sandbox = Sandbox::new();
    let registry = serve(&sandbox, &[layer()]);
    let text = wanted(&registry.name(), &["team/app:1"]);
    let watching = Watching::start(&sandbox, "--metrics 0");
    let first: Value = watching.events().into_iter().find(|event| event["event"] == "watching").unwrap();
    let address = first["metrics"].as_str().unwrap().to_owned();
    assert!(health(&address).contains("200 OK"));
    for (kind, words) in UNREADABLE {
        let path = sandbox.work().join("images.toml");
        fs::remove_file(&path).unwrap();
        put(kind, &path);
        let said = format!("not a regular file but {words}");
        watching.until(&said, |event| event["event"] == "error" && event.to_string().contains(&said));
        eventually("it is not healthy", LIMIT, || health(&address).contains(&said));
        remove(&path);
        fs::write(&path, &text).unwrap();
        eventually("it is healthy again", LIMIT, || health(&address).contains("200 OK"));
    }
    assert_eq!(listed(&sandbox).len(), 1);
    watching.stop();
}
