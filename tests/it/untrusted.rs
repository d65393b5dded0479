//! `--untrusted`: an images file that a stranger may have written, as in CI on pull requests.

use crate::support::fake_registry::{Auth, FakeRegistry, base64};
use crate::support::http::Front;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

fn content() -> BlobSet {
    BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("a", "a")])]))
}

#[test]
fn what_reads_files_names_credentials_or_hosts_or_writes_elsewhere_is_refused() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content());
    let name = registry.name();
    sandbox.write("secret", "hunter2");
    for (table, line, key) in [
        ("settings", "layers = \"/etc\"", "layers"),
        ("settings", "layers-mode = \"0755\"", "layers-mode"),
        ("settings", "hosts-dir = \"/etc\"", "hosts-dir"),
        ("settings", "trusted-root = \"secret\"", "trusted-root"),
        ("[trust]", "images = [\"*\"]\nkey = \"secret\"", "key"),
        ("[trust]", "images = [\"*\"]\nkeys = [\"secret\"]", "keys"),
        ("settings.limits", "manifest-size = \"1GiB\"", "manifest-size"),
        ("engine.podman", "command = \"/bin/false\"", "command"),
        ("engine.microsandbox", "home = \"/etc\"", "home"),
        ("engine.containerd", "address = \"/etc\"", "address"),
        ("engine.containerd", "namespace = \"k8s.io\"", "namespace"),
        ("registry", "endpoint = \"http://127.0.0.1:1\"", "endpoint"),
        ("registry", "mirrors = [\"http://127.0.0.1:1\"]", "mirrors"),
        ("registry", "ca = \"secret\"", "ca"),
        ("registry", "client-cert = \"secret\"\nclient-key = \"secret\"", "client-cert"),
        ("registry", "client-cert = \"secret\"\nclient-key = \"secret\"", "client-key"),
        ("registry", "insecure = true", "insecure"),
        ("registry", "headers = { \"X-A\" = \"b\" }", "headers"),
        ("registry", "username = \"me\"\npassword-env = \"HOME\"", "username"),
        ("registry", "username = \"me\"\npassword-env = \"HOME\"", "password-env"),
        ("registry", "username = \"me\"\npassword-file = \"secret\"", "password-file"),
    ] {
        let rest = format!("[registry.{name:?}]\nimages = [\"team/app:1\"]\n");
        let text = if table == "registry" {
            format!("{rest}{line}\n")
        } else {
            format!("[{table}]\n{line}\n{rest}")
        };
        sandbox.images(&text);
        let place = text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
        let says = format!("`{key}` is refused under --untrusted");
        for (command, code) in [("plan --untrusted", 2), ("lock --check --untrusted", 1)] {
            let output = sandbox.msb(command).run().code(code).says(&says);
            let at = format!("images.toml:{place}:1");
            assert!(output.stderr.contains(&at), "{at}: {output}");
        }
    }
    sandbox.images("[registry.\"x.local\"]\nlayout = \"oci\"\nimages = [\"team/app:1\"]\n");
    sandbox.msb("plan --untrusted").run().code(2).says("`layout` is refused under --untrusted");
    assert_eq!(registry.requests(), Vec::<String>::new(), "nobody is asked");
    assert!(!sandbox.home().exists());
}

#[test]
fn other_files_are_looked_at_as_ever() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content());
    sandbox.images(&format!(
        "[settings]\nprune = true\ndownloads = 2\n[registry.{:?}]\npull = \"always\"\nimages = [\"team/app:1\"]\n",
        registry.name()
    ));
    sandbox.msb("lock --check --untrusted").run().code(2);
    sandbox.msb("lock").run().success();
    sandbox.msb("lock --check --untrusted").run().success();
    let plan = sandbox.msb("plan --untrusted --detailed-exitcode").run().code(2);
    assert!(plan.stdout.contains("1 to add"), "{plan}");
    // It is for looking only.
    for command in ["lock --untrusted", "apply --untrusted", "watch --untrusted", "prune --untrusted"] {
        sandbox.msb(command).run().code(2);
    }
}

#[test]
fn a_stored_login_is_not_a_strangers() {
    let sandbox = Sandbox::in_memory();
    let auth = Auth::Basic { user: "me".to_owned(), password: "hunter2".to_owned() };
    let registry = FakeRegistry::with(content(), Front::Plain, auth);
    let name = registry.name();
    std::fs::create_dir_all(sandbox.user().join(".docker")).unwrap();
    let login = serde_json::json!({"auths": {&name: {"auth": base64(b"me:hunter2")}}});
    std::fs::write(sandbox.user().join(".docker/config.json"), login.to_string()).unwrap();
    sandbox.images(&format!("[registry.{name:?}]\nimages = [\"team/app:1\"]\n"));
    sandbox.msb("plan").run().success();
    registry.forget();
    sandbox.msb("plan --untrusted").run().code(1).says("HTTP 401");
    assert!(registry.log().iter().all(|exchange| exchange.request.header("authorization").is_none()));
}

#[test]
fn the_machines_login_is_not_a_strangers_either() {
    let sandbox = Sandbox::in_memory();
    let auth = Auth::Basic { user: "me".to_owned(), password: "hunter2".to_owned() };
    let registry = FakeRegistry::with(content(), Front::Plain, auth);
    let name = registry.name();
    sandbox.write("secret", "hunter2");
    std::fs::create_dir_all(sandbox.home()).unwrap();
    let secret = sandbox.work().join("secret");
    let machine = format!(
        "[registry.{name:?}]\nusername = \"me\"\npassword-file = {secret:?}\nheaders = {{ \"X-Key\" = \"k\" }}\n"
    );
    std::fs::write(sandbox.home().join("registries.toml"), machine).unwrap();
    sandbox.images(&format!("[registry.{name:?}]\nimages = [\"team/app:1\"]\n"));
    sandbox.msb("plan").run().success();
    registry.forget();
    sandbox.msb("plan --untrusted").run().code(1).says("HTTP 401");
    for header in ["authorization", "x-key"] {
        assert!(registry.log().iter().all(|exchange| exchange.request.header(header).is_none()), "{header}");
    }
}

#[test]
fn a_symlink_shows_no_other_files_lines() {
    let sandbox = Sandbox::in_memory();
    std::fs::write(sandbox.user().join("private"), "private-words = 1\n").unwrap();
    std::os::unix::fs::symlink(sandbox.user().join("private"), sandbox.work().join("images.toml")).unwrap();
    std::os::unix::fs::symlink(sandbox.user(), sandbox.work().join("folder")).unwrap();
    let absolute = sandbox.work().join("folder/private").display().to_string();
    for file in ["images.toml", "folder/private", &absolute] {
        let output = sandbox.msb("plan --untrusted").arg(file).run().code(2).says("is a symlink");
        assert!(!output.stderr.contains("private-words"), "{output}");
    }
}

#[test]
fn a_directory_of_other_things_is_told_before_it_holds_layers() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content());
    std::fs::create_dir(sandbox.work().join("mine")).unwrap();
    sandbox.write("mine/notes.txt", "notes");
    sandbox.images(&format!(
        "[settings]\nlayers = \"mine\"\n[registry.{:?}]\nimages = [\"team/app:1\"]\n",
        registry.name()
    ));
    let output = sandbox.msb("apply").run().success().says("warning: ").says("holds other things: notes.txt");
    assert_eq!(output.stderr.matches("notes.txt").count(), 1, "{output}");
    let again = sandbox.msb("apply").run().success();
    assert!(!again.stderr.contains("notes.txt"), "only when it is first used: {again}");
}
