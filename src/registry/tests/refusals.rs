//! Refusals, and answers that are none: which are tried again, whose words are shown and how much
//! of them, and the next step that is told.

use std::time::Instant;

use super::*;
use crate::state::Mirror;

fn with_password(server: &Server) -> Setup {
    Setup::new().variable("PASSWORD", "hunter2").with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        ..settings(server)
    })
}

fn refused(setup: &Setup, server: &Server) -> RegistryError {
    resolve(&setup.build(), &reference(server)).unwrap_err()
}

#[track_caller]
fn assert_hint(error: &RegistryError, part: &str) {
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(part), "no {part} in {hint}, of {error}");
}

#[test]
fn the_scope_at_the_root_is_another_repositorys() {
    let app = Image::new("layer");
    for (scope, asked) in [
        ("repository:user/image:pull", "scope=repository%3Ateam%2Fapp%3Apull"),
        ("", "scope=repository%3Ateam%2Fapp%3Apull"),
        ("registry:x:y repository:z:pull", "scope=repository%3Ateam%2Fapp%3Apull&scope=registry%3Ax%3Ay"),
    ] {
        let content = serve(&app);
        let server = Server::start(move |request| match (request.path(), request.authorization()) {
            ("/token", _) => Response::new(200, br#"{"token":"t"}"#),
            (_, Some("Bearer t")) => content.answer(request),
            ("/v2/", _) => Response::new(401, b"")
                .header("WWW-Authenticate", &format!("Bearer realm=\"/token\",scope=\"{scope}\"")),
            _ => Response::new(403, b""),
        });
        resolve(&with_password(&server).build(), &reference(&server)).unwrap();
        let lines = server.lines();
        assert!(lines.contains(&format!("GET /token?{asked}")), "{scope}: {lines:?}");
    }
}

#[test]
fn a_challenge_that_names_no_realm_leaves_the_root_to_be_asked() {
    let server = Server::start(|_| Response::new(401, b"").header("WWW-Authenticate", "Bearer service=s"));
    let error = refused(&with_password(&server), &server);
    assert_hint(&error, "does not ask for any, at /v2/ either");
    assert!(server.lines().contains(&"GET /v2/".to_owned()), "{:?}", server.lines());
}

#[test]
fn no_query_is_shown_that_a_server_tells() {
    const URL: &str = "https://cdn.example/x?X-Amz-SignedHeaders=host;range,a&X-Amz-Signature=SIGNED";
    let message = json!({"errors": [{"code": "DENIED", "message": format!("expired: {URL}")}]}).to_string();
    let server = Server::start(move |_| Response::new(403, message.as_bytes()));
    let error = refused(&Setup::new(), &server).to_string();
    assert!(error.contains("denied: expired: https://cdn.example/x?…"), "{error}");

    let details = json!({"details": format!("see {URL}")}).to_string();
    let server = Server::start(move |request| match request.path() {
        "/token" => Response::new(403, details.as_bytes()),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Bearer realm=\"/token\""),
    });
    let error = refused(&Setup::new(), &server).to_string();
    assert!(error.contains("see https://cdn.example/x?… (HTTP 403"), "{error}");

    let server = Server::start(|_| Response::new(200, b"{\"tags\":[]}").header("Link", URL));
    let registries = Setup::new().build();
    let error = registries.tags(&reference(&server)).unwrap_err().to_string();
    assert!(error.contains("`Link: https://cdn.example/x?…` cannot be read"), "{error}");

    let document = json!({"schemaVersion": 2, "mediaType": URL}).to_string();
    let server = Server::start(move |_| Response::new(200, document.as_bytes()));
    let setup = Setup::new();
    let error = refused(&setup, &server).to_string();
    assert!(error.contains("cdn.example") && !error.contains("SIGNED"), "{error}");
    let told = setup.ear.all();
    assert!(told.contains("trying again") && !told.contains("SIGNED"), "{told}");
}

#[test]
fn a_page_without_tags_is_no_end() {
    for other in ["{}", r#"{"name":"team/app"}"#, r#"{"errors":[{"code":"UNKNOWN"}]}"#] {
        let server = Server::start(move |request| match request.target.as_str() {
            "/v2/team/app/tags/list?n=1000" => Response::new(200, br#"{"tags":["1"]}"#)
                .header("Link", "</v2/team/app/tags/list?last=1>; rel=next"),
            _ => Response::new(200, other.as_bytes()),
        });
        let error = Setup::new().build().tags(&reference(&server)).unwrap_err();
        assert_eq!(error.kind(), "invalid-document", "{error}");
        assert!(error.to_string().contains("missing field `tags`"), "{error}");
    }
}

#[test]
fn who_refused_and_what_for_decides_the_next_step() {
    // The token server.
    let server = Server::start(|request| match request.path() {
        "/token" => Response::new(404, b""),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Bearer realm=\"/token\""),
    });
    let error = refused(&Setup::new(), &server);
    assert!(error.to_string().starts_with("its token server: not found (HTTP 404"), "{error}");
    assert_hint(&error, "its tokens are there");
    // A blob.
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| match request.path() {
        path if path.contains("/blobs/") => Response::new(404, b""),
        _ => content.answer(request),
    });
    let error = refused(&Setup::new(), &server);
    assert!(error.to_string().starts_with("blob unknown (HTTP 404"), "{error}");
    assert_hint(&error, "lacks this part of the image");
    // The registry itself.
    let server = Server::start(|_| Response::new(404, b""));
    assert_hint(&refused(&Setup::new(), &server), "check the name and the tag");
}

/// A server that sends to another host, which answers with `status`.
fn sends_on(status: u16) -> Server {
    let elsewhere = Server::start(move |_| Response::new(status, b"").header("Retry-After", "0"));
    let to = format!("http://{}/x", elsewhere.other_name());
    Server::start(move |_| Response::redirect(&to))
}

#[test]
fn a_host_to_which_the_registry_sends_is_told_from_it() {
    for (status, part) in [
        (429, "this host limits"),
        (403, "sends to this host"),
        (503, "this host, to which the registry sends"),
    ] {
        let error = refused(&Setup::new(), &sends_on(status));
        assert_hint(&error, part);
        assert!(!error.hint().unwrap().contains("docker login"), "{error}");
    }
    // A tag that is mistyped is mistyped wherever manifests and lists are kept.
    let server = sends_on(404);
    assert_hint(&refused(&Setup::new(), &server), "check the name and the tag");
    let error = Setup::new().build().tags(&reference(&server)).unwrap_err();
    assert_hint(&error, "check the name and the tag");
    // A blob is not.
    let (app, blobs) = (Image::new("layer"), sends_on(404));
    let content = serve(&app);
    let to = format!("http://{}", blobs.name());
    let server = Server::start(move |request| match request.path() {
        path if path.contains("/blobs/") => Response::redirect(&format!("{to}{path}")),
        _ => content.answer(request),
    });
    assert_hint(&refused(&Setup::new(), &server), "sends to this host");
}

#[test]
fn a_manifest_that_an_index_names_is_a_part_of_the_image() {
    let app = Image::new("layer");
    let list = index(&[app.entry("linux/amd64")]);
    let mut content = Content::default();
    content.manifest("team/app", "1", OCI_INDEX, &list);
    let server = Server::start(move |request| content.answer(request));
    assert_hint(&refused(&Setup::new(), &server), "lacks this part of the image");
    // A digest that the user names is none.
    let text = format!("team/app@{}", app.digest());
    let pinned = ImageRef::in_registry(&server.name(), &text).unwrap();
    let error = resolve(&Setup::new().build(), &pinned).unwrap_err();
    assert_hint(&error, "check the name and the tag");
}

#[test]
fn a_registry_that_lacks_a_blob_may_lack_the_image() {
    let app = Image::new("layer");
    let server = Server::start(|_| Response::new(404, b""));
    let registries = Setup::new().build();
    let error = registries.blob(&reference(&server), &app.layer_descriptor(), 0).err().unwrap();
    assert_hint(&error, "lacks this part of the image, or all of it");
}

#[test]
fn an_authorization_of_a_hosts_file_is_mended_there() {
    let server = Server::start(|_| Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"));
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}_", server.name().replace(':', "_"));
    std::fs::create_dir(folder.path().join(&name)).unwrap();
    let text =
        format!("[host.\"http://{}\"]\nheader = {{ Authorization = \"Basic hunter2\" }}\n", server.name());
    std::fs::write(folder.path().join(name).join("hosts.toml"), text).unwrap();
    let setup = Setup { hosts_dir: Some(folder.path().to_owned()), ..with_password(&server) };
    let error = refused(&setup, &server);
    assert_hint(&error, "correct the authorization in its hosts.toml");
    assert!(!error.hint().unwrap().contains("docker login"), "{:?}", error.hint());
}

#[test]
fn a_proxy_that_wants_a_login_is_asked_once_and_named() {
    let proxy = Server::start(|_| Response::new(407, b""));
    let setup = Setup::new()
        .with(RegistrySettings {
            name: "registry.invalid:5000".to_owned(),
            endpoint: Some("http://registry.invalid:5000".to_owned()),
            ..RegistrySettings::default()
        })
        .variable("HTTP_PROXY", &format!("http://{}", proxy.name()))
        .variable("HTTPS_PROXY", &format!("http://{}", proxy.name()));
    for (name, words) in [
        ("registry.invalid:5000", "no way through the proxy that HTTP_PROXY names: it wants a login"),
        ("registry.invalid", "the proxy does not connect to https://registry.invalid: it wants a login"),
    ] {
        let before = proxy.lines().len();
        let reference = ImageRef::in_registry(name, "team/app:1").unwrap();
        let error = resolve(&setup.build(), &reference).unwrap_err();
        assert!(error.to_string().starts_with(words), "{error}");
        assert_eq!(error.kind(), "unreachable");
        assert_hint(&error, "http://USER:PASSWORD@HOST:PORT");
        assert_eq!(proxy.lines().len(), before + 1, "{:?}", proxy.lines());
    }
    // Six images of a registry are one login, not six.
    let registries = setup.build();
    let before = proxy.lines().len();
    for _ in 0..6 {
        let reference = ImageRef::in_registry("registry.invalid:5000", "team/app:1").unwrap();
        assert_hint(&resolve(&registries, &reference).unwrap_err(), "http://USER:PASSWORD@HOST:PORT");
    }
    assert_eq!(proxy.lines().len(), before + 1, "{:?}", proxy.lines());
}

#[test]
fn a_mirror_that_asks_for_a_long_wait_is_passed_over() {
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let mirror = Server::start(|_| Response::new(429, b"").header("Retry-After", "30"));
    let mirrors = vec![Mirror { url: format!("http://{}", mirror.name()), resolve: false }];
    let setup = Setup::new().with(RegistrySettings { mirrors, ..settings(&server) });
    let start = Instant::now();
    assert_eq!(resolve(&setup.build(), &reference(&server)).unwrap().digest, app.digest());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(mirror.lines().len(), 1);
}

#[test]
fn a_login_file_that_cannot_be_used_is_not_said_to_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"auths\": ").unwrap();
    let server = Server::start(|_| Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"));
    let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    let error = refused(&setup, &server);
    assert_hint(&error, "config.json (which cannot be used)");
}

#[test]
fn a_method_that_a_server_does_not_know_is_not_tried_again_where_there_is_another_way() {
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| match request.method.as_str() {
        "HEAD" => Response::new(501, b""),
        _ => content.answer(request),
    });
    let lookup = Setup::new().build().resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    assert!(matches!(lookup, Lookup::Same));
    assert_eq!(server.lines(), ["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1"]);
}
