//! containerd's hosts files: who is asked for what, with which query and headers, and what is never
//! sent.

use std::fs;

use super::server::{Response, Server};
use super::*;

/// A hosts directory with this file for `registry`.
fn hosts(registry: &str, text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let folder =
        directory.path().join(registry.replace(':', "_") + if registry.contains(':') { "_" } else { "" });
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("hosts.toml"), text).unwrap();
    directory
}

fn setup(directory: &tempfile::TempDir) -> Setup {
    Setup { hosts_dir: Some(directory.path().to_owned()), ..Setup::new() }
}

fn asked(server: &Server) -> Vec<String> {
    let mut lines = server.lines();
    lines.retain(|line| !line.contains("/blobs/"));
    lines
}

#[test]
fn a_host_is_told_the_registry_and_gets_its_headers_but_no_credentials() {
    let image = Image::new("x");
    let content = serve(&image);
    let mirror = Server::start(move |request| content.answer(request));
    let registry = Server::start(|_| Response::new(500, b""));
    let text = format!("[host.\"http://{}\"]\nheader = {{ X-A = [\"1\", \"2\"] }}\n", mirror.name());
    let directory = hosts(&registry.name(), &text);
    let own = RegistrySettings {
        username: Some("ann".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        headers: vec![("X-Own".to_owned(), "secret".to_owned())],
        ..settings(&registry)
    };
    let setup = setup(&directory).with(own).variable("PASSWORD", "hunter2");
    resolve(&setup.build(), &reference(&registry)).unwrap();
    let namespace = format!("?ns={}", registry.name().replace(':', "%3A"));
    assert!(mirror.lines().iter().all(|line| line.ends_with(&namespace)), "{:?}", mirror.lines());
    for request in mirror.requests() {
        assert_eq!(request.header("x-a"), Some("1"));
        assert_eq!((request.header("x-own"), request.authorization()), (None, None));
    }
    assert_eq!(registry.lines(), [] as [&str; 0]);
}

#[test]
fn without_resolve_a_host_serves_bytes_only_and_without_pull_tags_only() {
    let image = Image::new("x");
    for (capability, at_mirror, at_registry) in [("pull", 'G', 'H'), ("resolve", 'H', 'G')] {
        let (content, own) = (serve(&image), serve(&image));
        let mirror = Server::start(move |request| content.answer(request));
        let registry = Server::start(move |request| own.answer(request));
        let text = format!("[host.\"http://{}\"]\ncapabilities = [\"{capability}\"]\n", mirror.name());
        let directory = hosts("_default", &text);
        resolve(&setup(&directory).build(), &reference(&registry)).unwrap();
        assert!(asked(&mirror).iter().all(|line| line.starts_with(at_mirror)), "{:?}", asked(&mirror));
        assert!(asked(&registry).iter().all(|line| line.starts_with(at_registry)), "{:?}", asked(&registry));
        assert_eq!((asked(&mirror).len(), asked(&registry).len()), (1, 1));
    }
}

#[test]
fn the_list_of_tags_is_asked_of_the_server_and_never_of_a_cache() {
    let mirror = Server::start(|_| Response::new(200, br#"{"tags":[]}"#));
    let registry = Server::start(|_| Response::new(200, br#"{"tags":["1"]}"#));
    let directory = hosts("_default", &format!("[host.\"http://{}\"]\n", mirror.name()));
    assert_eq!(setup(&directory).build().tags(&reference(&registry)).unwrap(), ["1"]);
    assert_eq!(mirror.lines(), [] as [&str; 0]);
}

#[test]
fn another_server_takes_the_registrys_place_without_its_credentials() {
    let content = serve(&Image::new("x"));
    let server = Server::start(move |request| {
        let mut request = request.clone();
        request.target = request.target.replace("/api/team", "/v2/team");
        content.answer(&request)
    });
    let registry = Server::start(|_| Response::new(500, b""));
    let text = format!(
        "server = \"http://{}/api\"\noverride_path = true\n[header]\nauthorization = \"Basic eA==\"\n",
        server.name()
    );
    let directory = hosts(&registry.name(), &text);
    let own = RegistrySettings {
        password_env: Some("PASSWORD".to_owned()),
        username: Some("a".to_owned()),
        ..settings(&registry)
    };
    let setup = setup(&directory).with(own).variable("PASSWORD", "hunter2");
    resolve(&setup.build(), &reference(&registry)).unwrap();
    assert_eq!(registry.lines(), [] as [&str; 0]);
    assert!(server.lines()[0].starts_with("GET /api/team/app/manifests/1?ns="), "{:?}", server.lines());
    assert!(server.requests().iter().all(|request| request.authorization() == Some("Basic eA==")));
}

#[test]
fn a_host_that_is_the_registry_itself_is_no_mirror() {
    let content = serve(&Image::new("x"));
    let registry = Server::start(move |request| content.answer(request));
    let text = format!("[host.\"http://{}\"]\nheader = {{ X-A = \"1\" }}\n", registry.name());
    let directory = hosts(&registry.name(), &text);
    resolve(&setup(&directory).build(), &reference(&registry)).unwrap();
    assert_eq!(asked(&registry), ["GET /v2/team/app/manifests/1"]);
    assert!(registry.requests().iter().all(|request| request.header("x-a") == Some("1")));
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_a_directory_that_is_missing_is_not_an_error() {
    let content = serve(&Image::new("x"));
    let registry = Server::start(move |request| content.answer(request));
    let directory = hosts("_default", "[header]\nauthorization = Basic hunter2\n");
    let broken = setup(&directory);
    let error = resolve(&broken.build(), &reference(&registry)).unwrap_err().to_string();
    assert!(error.contains("_default/hosts.toml:2: ") && !error.contains("hunter2"), "{error}");
    assert_eq!(registry.lines(), [] as [&str; 0]);

    let missing = Setup { hosts_dir: Some(directory.path().join("none")), ..Setup::new() };
    let registries = missing.build();
    for name in [registry.name(), registry.other_name()] {
        registries.tags(&ImageRef::in_registry(&name, "team/app:1").unwrap()).unwrap_err();
    }
    let warning =
        format!("warning: hosts-dir {}/none: there is no such directory", directory.path().display());
    assert_eq!(missing.ear.all().matches(&warning).count(), 1, "{}", missing.ear.all());

    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let mistaken = Setup { hosts_dir: Some(file), ..Setup::new() };
    let error = resolve(&mistaken.build(), &reference(&registry)).unwrap_err().to_string();
    assert!(error.contains("Not a directory"), "{error}");
    assert_eq!(mistaken.ear.all(), "");
}
