//! The places to which a registry's credentials go, and those to which they do not: a test for each
//! row of the table in `docs/registries.md`.
//!
//! Each looks at what arrived at every server that took part.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use super::encryption::{Authority, tls_front};
use super::*;
use crate::state::Mirror;

/// `Basic` of `me:hunter2`.
const BASIC: &str = "Basic bWU6aHVudGVyMg==";

/// The user's password for the registry with these settings.
fn with_password(settings: RegistrySettings) -> Setup {
    Setup::new().variable("PASSWORD", "hunter2").with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        headers: vec![("X-Team".to_owned(), "secret-header".to_owned())],
        ..settings
    })
}

/// Serves `content` to who has the password, by Basic.
fn basic_registry(content: Content) -> Server {
    Server::start(move |request| match request.authorization() {
        Some(BASIC) => content.answer(request),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    })
}

/// Asks for the password, then redirects whoever has it to `to`, followed by the path.
fn redirecting(to: String) -> Server {
    Server::start(move |request| match request.authorization() {
        Some(BASIC) => Response::redirect(&format!("{to}{}", request.target)),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    })
}

/// Serves `content` to who has the token `t`, which `realm` gives out.
fn token_registry(content: Content, realm: String) -> Server {
    Server::start(move |request| match request.authorization() {
        Some("Bearer t") => content.answer(request),
        _ => Response::new(401, b"")
            .header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=s"))
            .header("Connection", "close"),
    })
}

fn token_server() -> Server {
    Server::start(|_| Response::new(200, br#"{"token":"t"}"#).header("Connection", "close"))
}

/// A server that has the image, and wants nothing.
fn open(app: &Image) -> Server {
    let content = serve(app);
    Server::start(move |request| content.answer(request))
}

/// The address of a server that knows plain http alone.
fn without_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    address
}

/// Settings that say plain http, also where they have a `ca` for somebody else.
fn plain(server: &Server) -> RegistrySettings {
    RegistrySettings { endpoint: Some(format!("http://{}", server.name())), ..settings(server) }
}

#[track_caller]
fn assert_got_nothing(server: &Server) {
    assert!(!server.requests().is_empty(), "nobody asked it at all");
    for request in server.requests() {
        assert_eq!((request.authorization(), request.header("x-team")), (None, None), "{request:?}");
    }
}

#[test]
fn the_same_host_gets_them() {
    let server = basic_registry(serve(&Image::new("layer")));
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].authorization(), None, "only when it asks");
    assert!(requests[1..].iter().all(|request| request.authorization() == Some(BASIC)));
    assert!(requests.iter().all(|request| request.header("x-team") == Some("secret-header")));
}

#[test]
fn a_redirect_on_the_same_host_keeps_them() {
    let content = serve(&Image::new("layer"));
    let server = Server::start(move |request| match (request.authorization(), request.path()) {
        (Some(BASIC), path) if path.starts_with("/v2/elsewhere") => {
            let mut request = request.clone();
            request.target = request.target.replace("/v2/elsewhere/", "/v2/");
            content.answer(&request)
        }
        (Some(BASIC), _) => Response::redirect(&request.target.replacen("/v2/", "/v2/elsewhere/", 1)),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    });
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    assert!(server.requests()[1..].iter().all(|request| request.authorization() == Some(BASIC)));
}

#[test]
fn a_redirect_to_another_host_loses_them() {
    let other = open(&Image::new("layer"));
    let server = redirecting(format!("http://{}", other.other_name()));
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    assert_got_nothing(&other);
}

#[test]
fn a_redirect_to_another_port_loses_them() {
    let other = open(&Image::new("layer"));
    let server = redirecting(format!("http://{}", other.name()));
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    assert_got_nothing(&other);
}

#[test]
fn a_host_that_refuses_is_told_from_the_registry_that_sends_there() {
    let server = redirecting("http://127.0.0.1:1".to_owned());
    let error = resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the host to which the registry sends: connection refused by http://127.0.0.1:1"),
        "{text}"
    );
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("the registry itself answers") && !hint.contains("endpoint"), "{hint}");
    // Nor does an endpoint help against whatever else ails it.
    for (to, words) in [
        (format!("https://{}", without_tls()), "sends: no TLS connection to "),
        ("http://nobody.invalid".to_owned(), "sends: cannot find the host nobody.invalid"),
    ] {
        let server = redirecting(to);
        let error = resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.starts_with("the registry itself answers") && !hint.contains("endpoint"), "{hint}");
    }
    // A redirect within the registry leads nowhere else.
    let dead = RegistrySettings { endpoint: Some("http://127.0.0.1:1".to_owned()), ..settings(&server) };
    let error = resolve(&with_password(dead).build(), &reference(&server)).unwrap_err();
    assert!(error.hint().unwrap().contains("check that the registry runs"), "{error}");
}

#[test]
fn a_redirect_there_and_back_does_not_bring_them_back() {
    let content = serve(&Image::new("layer"));
    let back = Arc::new(Mutex::new(String::new()));
    let target = Arc::clone(&back);
    let other = Server::start(move |request| {
        Response::redirect(&format!("http://{}{}?back", target.lock().unwrap(), request.path()))
    });
    let there = format!("http://{}", other.name());
    let server = Server::start(move |request| match request.authorization() {
        _ if request.target.ends_with("?back") => content.answer(request),
        Some(BASIC) => Response::redirect(&format!("{there}{}", request.target)),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    });
    *back.lock().unwrap() = server.name();
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    assert_got_nothing(&other);
    let returned = server.requests().into_iter().filter(|request| request.target.ends_with("?back"));
    assert!(
        returned.clone().count() > 0 && returned.clone().all(|request| request.authorization().is_none())
    );
}

#[test]
fn a_redirect_to_another_scheme_loses_them_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = Some(authority.write(folder.path(), "ca.pem"));
    let content = serve(&Image::new("layer"));
    let secure = Server::start(move |request| content.answer(request).header("Connection", "close"));
    let port = tls_front(&authority, false, &secure);
    let server = redirecting(format!("https://127.0.0.1:{port}"));
    let setup = with_password(RegistrySettings { ca: ca.clone(), ..plain(&server) });
    resolve(&setup.build(), &reference(&server)).unwrap();
    assert_got_nothing(&secure);

    // From https to http nothing goes at all, not even the request.
    let plain = open(&Image::new("layer"));
    let target = format!("http://{}", plain.name());
    let front = Server::start(move |request| match request.authorization() {
        Some(BASIC) => Response::redirect(&format!("{target}{}", request.target)),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    });
    let port = tls_front(&authority, false, &front);
    let endpoint = Some(format!("https://127.0.0.1:{port}"));
    let setup = with_password(RegistrySettings { endpoint, ca, ..settings(&front) });
    assert_eq!(resolve(&setup.build(), &reference(&front)).unwrap_err().kind(), "redirect");
    assert!(plain.requests().is_empty());
}

#[test]
fn a_token_realm_on_the_same_host_gets_them() {
    let realm = token_server();
    let server = token_registry(serve(&Image::new("layer")), format!("http://{}/token", realm.name()));
    resolve(&with_password(settings(&server)).build(), &reference(&server)).unwrap();
    assert_eq!(realm.requests()[0].authorization(), Some(BASIC));
    assert!(server.requests().iter().all(|request| request.authorization() != Some(BASIC)));
}

#[test]
fn a_token_realm_on_another_host_over_https_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = Some(authority.write(folder.path(), "ca.pem"));
    let realm = token_server();
    let port = tls_front(&authority, false, &realm);
    let server = token_registry(serve(&Image::new("layer")), format!("https://localhost:{port}/token"));
    let setup = with_password(RegistrySettings { ca, ..plain(&server) });
    resolve(&setup.build(), &reference(&server)).unwrap();
    assert_eq!(realm.requests()[0].authorization(), Some(BASIC));
    assert_eq!(realm.requests()[0].header("x-team"), None);
}

#[test]
fn a_token_realm_on_another_host_over_http_does_not_get_them() {
    let realm = token_server();
    let server = token_registry(serve(&Image::new("layer")), format!("http://{}/token", realm.other_name()));
    let setup = with_password(settings(&server));
    resolve(&setup.build(), &reference(&server)).unwrap();
    assert_got_nothing(&realm);
    assert!(setup.ear.all().contains("warning: "), "{}", setup.ear.all());
}

#[test]
fn a_token_realm_over_http_is_refused_by_a_registry_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = Some(authority.write(folder.path(), "ca.pem"));
    let realm = token_server();
    let server = token_registry(serve(&Image::new("layer")), "http://realm.invalid/token".to_owned());
    let port = tls_front(&authority, false, &server);
    let endpoint = Some(format!("https://127.0.0.1:{port}"));
    let setup = with_password(RegistrySettings { endpoint, ca, ..settings(&server) });
    let error = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("from https to plain http"), "{error}");
    assert!(realm.requests().is_empty());
}

#[test]
fn a_mirror_does_not_get_them_even_if_it_asks() {
    for realm in [false, true] {
        let app = Image::new("layer");
        let token = token_server();
        let challenge = if realm {
            format!("Bearer realm=\"http://{}/t\"", token.name())
        } else {
            "Basic realm=x".to_owned()
        };
        let mirror = Server::start(move |_| Response::new(401, b"").header("WWW-Authenticate", &challenge));
        let server = basic_registry(serve(&app));
        let mut setup = with_password(settings(&server));
        setup.registries[0].mirrors =
            vec![Mirror { url: format!("http://{}", mirror.name()), resolve: true }];
        resolve(&setup.build(), &reference(&server)).unwrap();
        assert!(mirror.requests().iter().all(|request| request.header("x-team").is_none()));
        let sent: Vec<_> =
            mirror.requests().iter().filter_map(|it| it.authorization().map(str::to_owned)).collect();
        assert!(sent.iter().all(|header| header == "Bearer t"), "{sent:?}");
        if realm {
            assert_got_nothing(&token);
        }
    }
}

#[test]
fn a_foreign_url_is_never_contacted() {
    let mut app = Image::new("layer");
    let foreign = open(&app);
    let mut manifest: Value = serde_json::from_slice(&app.manifest).unwrap();
    manifest["layers"][0]["urls"] = json!([format!("http://{}/layer", foreign.name())]);
    manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    app.manifest = manifest.to_string().into_bytes();
    let server = basic_registry(serve(&app));
    let registries = with_password(settings(&server)).build();
    let found = resolve(&registries, &reference(&server)).unwrap();
    let mut bytes = Vec::new();
    let mut reader = registries.blob(&reference(&server), &found.layers[0], 0).unwrap();
    std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
    assert_eq!(bytes, app.layer);
    assert!(foreign.requests().is_empty());
}
