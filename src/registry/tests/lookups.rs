//! The meaning of references: tags, digests, indexes, mirrors, tag lists, and what goes wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::state::Mirror;

#[test]
fn a_tag_costs_a_get_when_new_and_one_head_when_known() {
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    let found = resolve(&registries, &reference(&server)).unwrap();
    assert_eq!(found.digest, app.digest());
    assert_eq!(found.layers[..], [app.layer_descriptor()]);
    assert_eq!(found.index, None);
    assert_eq!(server.lines()[0], "GET /v2/team/app/manifests/1");
    assert_eq!(server.lines().len(), 2);

    let registries = Setup::new().build();
    let lookup = registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    assert!(matches!(lookup, Lookup::Same));
    assert_eq!(server.lines()[2..], ["HEAD /v2/team/app/manifests/1"]);
    assert_eq!(registries.requests(), 1);

    let pinned = format!("team/app:1@{}", app.digest());
    let pinned = ImageRef::in_registry(&server.name(), &pinned).unwrap();
    let lookup = registries.resolve(&pinned, &amd64(), Some(&app.digest())).unwrap();
    assert!(matches!(lookup, Lookup::Same));
    assert_eq!(registries.requests(), 1);
    assert_eq!(resolve(&registries, &pinned).unwrap().digest, app.digest());
}

#[test]
fn a_tag_that_moved_is_fetched_by_its_new_digest() {
    let app = Image::new("new");
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    let old = sha256(b"old");
    let found = image(registries.resolve(&reference(&server), &amd64(), Some(&old)).unwrap());
    assert_eq!(found.digest, app.digest());
    assert_eq!(server.lines()[1], format!("GET /v2/team/app/manifests/{}", app.digest()));
}

#[test]
fn where_head_is_no_use_one_get_is_made_and_used() {
    for kind in 0..4 {
        let app = Image::new("layer");
        let content = serve(&app);
        let server = Server::start(move |request| match (request.method.as_str(), kind) {
            ("HEAD", 0) => Response::new(405, b""),
            ("HEAD", 1) => Response::new(403, b""),
            ("HEAD", 2) => content.answer(request).without("Docker-Content-Digest"),
            ("HEAD", _) => content
                .answer(request)
                .without("Docker-Content-Digest")
                .header("Docker-Content-Digest", "sha256:nonsense"),
            _ => content.answer(request).without("Docker-Content-Digest"),
        });
        let registries = Setup::new().build();
        let old = sha256(b"old");
        let found = image(registries.resolve(&reference(&server), &amd64(), Some(&old)).unwrap());
        assert_eq!(found.digest, app.digest());
        assert_eq!(server.lines().len(), 3, "{:?}", server.lines());
        let lookup = registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
        assert!(matches!(lookup, Lookup::Same));
    }
}

#[test]
fn an_unknown_manifest_is_final_and_says_so_in_the_registrys_words() {
    let server = Server::start(|request| Content::default().answer(request));
    let registries = Setup::new().build();
    let error = resolve(&registries, &reference(&server)).unwrap_err();
    assert_eq!(error.to_string(), format!("manifest unknown (HTTP 404 from {})", server.name()));
    assert_eq!(error.kind(), "not-found");
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn failures_that_may_pass_are_tried_again_and_others_are_not() {
    for (status, tries) in
        [(408, 6), (429, 6), (500, 6), (501, 6), (503, 6), (505, 6), (400, 1), (401, 1), (403, 1), (404, 1)]
    {
        let server = Server::start(move |_| Response::new(status, b""));
        let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
        assert!(error.to_string().contains(&format!("HTTP {status}")), "{error}");
        assert_eq!(server.lines().len(), tries, "{status}");
    }
    let app = Image::new("layer");
    let content = serve(&app);
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Response::new(429, b"").header("Retry-After", "0"),
        1 => content.answer(request).cut(20),
        2 => Response::new(503, b""),
        _ => content.answer(request),
    });
    assert!(resolve(&Setup::new().build(), &reference(&server)).is_ok());
}

#[test]
fn retry_after_is_obeyed_and_reported() {
    let app = Image::new("layer");
    let content = serve(&app);
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Response::new(429, b"").header("Retry-After", "1"),
        _ => content.answer(request),
    });
    let setup = Setup::new();
    let start = std::time::Instant::now();
    resolve(&setup.build(), &reference(&server)).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(setup.ear.all().contains("; it asks to wait 1 s; trying again in 1.0 s"), "{}", setup.ear.all());
}

#[test]
fn a_thrown_switch_ends_every_wait_and_every_read() {
    let server = Server::start(|_| Response::new(429, b"").header("Retry-After", "50"));
    let stalling = Server::start(|_| Response::new(200, &[b'x'; 100]).stalling(10));
    for server in [&server, &stalling] {
        let setup = Setup::new();
        let registries = setup.build();
        let cancel = setup.cancel.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(SHORT);
            cancel.cancel();
        });
        let start = std::time::Instant::now();
        let error = resolve(&registries, &reference(server)).unwrap_err();
        assert_eq!(error.kind(), "stopped", "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
        stopper.join().unwrap();
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let server = Server::start(|_| Response::new(200, &[b'x'; 100]).stalling(10));
    let setup = Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.1");
    let error = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert_eq!(error.kind(), "stalled", "{error}");
    assert_eq!(server.lines().len(), 6);
}

#[test]
fn nobody_there_and_no_such_host_are_said_plainly() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    drop(listener);
    let reference = ImageRef::in_registry(&name, "team/app:1").unwrap();
    let setup = Setup::new();
    let error = resolve(&setup.build(), &reference).unwrap_err();
    assert_eq!(error.to_string(), format!("connection refused by http://{name}"));
    assert_eq!(setup.ear.all().matches("trying again").count(), 5);

    let reference = ImageRef::in_registry("no-such-host.invalid:5000", "team/app:1").unwrap();
    let endpoint = Some("http://no-such-host.invalid:5000".to_owned());
    let settings = RegistrySettings {
        name: "no-such-host.invalid:5000".to_owned(),
        endpoint,
        ..RegistrySettings::default()
    };
    let error = resolve(&Setup::new().with(settings).build(), &reference).unwrap_err();
    assert!(error.to_string().starts_with("cannot find the host no-such-host.invalid: "), "{error}");
}

#[test]
fn documents_that_are_not_what_their_digest_says_are_refused() {
    let app = Image::new("layer");
    let other = Image::new("other");
    let mut content = serve(&app);
    let path = format!("/v2/team/app/blobs/{}", sha256(&app.config));
    content.0.insert(path, ("x".to_owned(), other.config.clone()));
    let server = Server::start(move |request| content.answer(request).without("Docker-Content-Digest"));
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert_eq!(error.kind(), "content-mismatch", "{error}");

    let content = serve(&app);
    let lie = other.digest();
    let server = Server::start(move |request| {
        content.answer(request).without("Docker-Content-Digest").header("Docker-Content-Digest", &lie.text())
    });
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert_eq!(error.kind(), "content-mismatch", "{error}");
}

#[test]
fn a_document_larger_than_the_limit_is_refused() {
    let content = serve(&Image::new("layer"));
    let server = Server::start(move |request| content.answer(request).unmeasured());
    let mut setup = Setup::new();
    setup.limits.manifest_size = 100;
    let error = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert_eq!(error.kind(), "limit", "{error}");
}

#[test]
fn the_platforms_manifest_is_found_through_nested_indexes() {
    let amd = Image::new("amd");
    let arm6 = Image::with_platform("arm6", "arm", Some("v6"));
    let arm5 = Image::with_platform("arm5", "arm", Some("v5"));
    let mut attestation = Image::new("attestation").entry("linux/amd64");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let unknown = json!({"mediaType": OCI_MANIFEST, "digest": sha256(b"u"), "size": 1,
                         "platform": {"os": "unknown", "architecture": "unknown"}});
    let inner = index(&[arm5.entry("linux/arm/v5"), arm6.entry("linux/arm/v6"), amd.entry("linux/amd64")]);
    let nested = json!({"mediaType": OCI_INDEX, "digest": sha256(&inner), "size": inner.len()});
    let outer = index(&[attestation, unknown, nested]);
    let mut content = Content::default();
    for image in [&amd, &arm6, &arm5] {
        image.serve(&mut content, "team/app", "x");
    }
    content.manifest("team/app", "inner", OCI_INDEX, &inner);
    content.manifest("team/app", "1", OCI_INDEX, &outer);
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    let found = resolve(&registries, &reference(&server)).unwrap();
    assert_eq!(found.digest, sha256(&outer));
    assert_eq!(found.manifest.digest, amd.digest());
    assert_eq!(found.index.unwrap().digest, sha256(&outer));

    let arm7 = Platform::new("linux", "arm", Some("v7"));
    let found = image(registries.resolve(&reference(&server), &arm7, None).unwrap());
    assert_eq!(found.manifest.digest, arm6.digest());

    let s390x = Platform::new("linux", "s390x", None);
    let error = registries.resolve(&reference(&server), &s390x, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image for linux/s390x; there is one for linux/amd64, linux/arm/v5, linux/arm/v6"
    );
}

#[test]
fn a_plain_manifest_for_another_platform_is_refused_and_names_it() {
    let app = Image::with_platform("arm", "arm64", Some("v8"));
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    let error = resolve(&registries, &reference(&server)).unwrap_err();
    assert_eq!(error.to_string(), "there is no image for linux/amd64; there is one for linux/arm64");
    let arm64 = Platform::new("linux", "arm64", None);
    assert!(registries.resolve(&reference(&server), &arm64, None).is_ok());
}

#[test]
fn an_index_that_names_no_platforms_is_searched_by_config() {
    let amd = Image::new("amd");
    let arm = Image::with_platform("arm", "arm64", None);
    let mut content = Content::default();
    for image in [&amd, &arm] {
        image.serve(&mut content, "team/app", "x");
    }
    content.manifest("team/app", "1", OCI_INDEX, &index(&[arm.descriptor(), amd.descriptor()]));
    let server = Server::start(move |request| content.answer(request));
    assert_eq!(resolve(&Setup::new().build(), &reference(&server)).unwrap().manifest.digest, amd.digest());
}

#[test]
fn endless_nesting_is_refused() {
    let mut content = Content::default();
    let mut inner = index(&[]);
    for _ in 0..12 {
        content.manifest("team/app", "1", OCI_INDEX, &inner);
        inner = index(&[json!({"mediaType": OCI_INDEX, "digest": sha256(&inner), "size": inner.len()})]);
    }
    let server = Server::start(move |request| content.answer(request));
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("nested deeper"), "{error}");
}

#[test]
fn documents_shared_by_images_are_fetched_once() {
    let app = Image::new("layer");
    let mut content = serve(&app);
    app.serve(&mut content, "team/app", "2");
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    let two = reference(&server).with_tag("2").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| resolve(&registries, &two).unwrap());
        scope.spawn(|| resolve(&registries, &reference(&server)).unwrap());
    });
    assert_eq!(server.lines().iter().filter(|line| line.contains("/blobs/")).count(), 1);
}

#[test]
fn mirrors_serve_bytes_but_say_nothing_of_tags_unless_trusted() {
    for trusted in [false, true] {
        let app = Image::new("layer");
        let content = serve(&app);
        let mirrored = content.clone();
        let server = Server::start(move |request| content.answer(request));
        let mirror = Server::start(move |request| mirrored.answer(request));
        let mirrors = vec![
            Mirror { url: "http://127.0.0.1:1".to_owned(), resolve: false },
            Mirror { url: format!("http://{}", mirror.name()), resolve: trusted },
        ];
        let setup = Setup::new().with(RegistrySettings { mirrors, ..settings(&server) });
        let registries = setup.build();
        let found = resolve(&registries, &reference(&server)).unwrap();
        assert_eq!(found.digest, app.digest());
        let expected: &[&str] = if trusted { &[] } else { &["HEAD /v2/team/app/manifests/1"] };
        assert_eq!(server.lines(), expected);
        assert!(
            setup.ear.all().contains("mirror http://127.0.0.1:1/: connection refused"),
            "{}",
            setup.ear.all()
        );
    }
}

#[test]
fn a_mirror_that_lies_or_lacks_is_passed_over() {
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let liar = Server::start(|_| Response::new(200, b"{}"));
    let empty = Server::start(|_| Response::new(404, b""));
    let mirrors =
        [&empty, &liar].map(|mirror| Mirror { url: format!("http://{}", mirror.name()), resolve: false });
    let setup = Setup::new().with(RegistrySettings { mirrors: mirrors.to_vec(), ..settings(&server) });
    assert_eq!(resolve(&setup.build(), &reference(&server)).unwrap().digest, app.digest());
    assert!(!liar.lines().is_empty() && !empty.lines().is_empty());
}

#[test]
fn tags_are_read_page_by_page() {
    let server = Server::start(|request| match request.target.as_str() {
        "/v2/team/app/tags/list?n=1000" => {
            Response::new(200, br#"{"name":"x","tags":["1","2","not a tag"]}"#)
                .header("Link", r#"</v2/team/app/tags/list?last=2>; rel="next""#)
        }
        "/v2/team/app/tags/list?last=2" => Response::new(200, br#"{"name":"x","tags":["10","2"]}"#),
        _ => Response::new(404, b""),
    });
    assert_eq!(Setup::new().build().tags(&reference(&server)).unwrap(), ["1", "10", "2"]);
}

#[test]
fn a_tag_list_that_loops_or_leads_away_is_an_error() {
    for link in ["</v2/team/app/tags/list?n=1000>; rel=next", "<https://elsewhere/x>; rel=next"] {
        let server = Server::start(move |_| Response::new(200, br#"{"tags":null}"#).header("Link", link));
        let error = Setup::new().build().tags(&reference(&server)).unwrap_err();
        assert_eq!(error.kind(), "invalid-document", "{error}");
    }
    let server = Server::start(|_| Response::new(404, b""));
    assert_eq!(Setup::new().build().tags(&reference(&server)).unwrap_err().kind(), "not-found");
}

#[test]
fn pages_that_bring_nothing_new_are_borne_a_few_times() {
    let listing = |empty: usize| {
        let number = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::start(move |_| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if number > empty {
                return Response::new(200, br#"{"tags":["2"]}"#);
            }
            let tags: &[u8] = if number.is_multiple_of(2) { br#"{"tags":["1"]}"# } else { br#"{"tags":[]}"# };
            Response::new(200, tags)
                .header("Link", &format!("</v2/team/app/tags/list?last={number}>; rel=next"))
        });
        let tags = Setup::new().build().tags(&reference(&server)).map_err(|error| error.to_string());
        (tags, server.lines().len())
    };
    assert_eq!(listing(5).0.unwrap(), ["1", "2"]);
    let (tags, requests) = listing(900);
    assert!(tags.unwrap_err().ends_with("its pages bring nothing new") && requests < 20, "{requests}");
}

#[test]
fn a_page_that_breaks_off_is_asked_for_again() {
    let number = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let answer = Response::new(200, br#"{"tags":["1","2","3"]}"#);
        match number.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => answer.cut(14),
            _ => answer,
        }
    });
    assert_eq!(Setup::new().build().tags(&reference(&server)).unwrap(), ["1", "2", "3"]);
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn a_plain_http_proxy_is_asked_with_the_whole_url() {
    let app = Image::new("layer");
    let content = serve(&app);
    let proxy = Server::start(move |request| {
        let mut request = request.clone();
        request.target = request.target.trim_start_matches("http://registry.invalid:5000").to_owned();
        content.answer(&request)
    });
    let name = "registry.invalid:5000".to_owned();
    let endpoint = Some(format!("http://{name}"));
    let setup = Setup::new()
        .with(RegistrySettings { name: name.clone(), endpoint, ..RegistrySettings::default() })
        .variable("HTTP_PROXY", &format!("http://user:pass@{}", proxy.name()));
    let reference = ImageRef::in_registry(&name, "team/app:1").unwrap();
    assert_eq!(resolve(&setup.build(), &reference).unwrap().digest, app.digest());
    assert_eq!(proxy.lines()[0], "GET http://registry.invalid:5000/v2/team/app/manifests/1");
    assert_eq!(proxy.requests()[0].header("host"), Some("registry.invalid:5000"));
    assert_eq!(proxy.requests()[0].header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
}

#[test]
fn sandboxes_io_is_served_by_docker_io_unless_it_has_its_own_endpoint() {
    let app = Image::new("layer");
    let mut content = Content::default();
    app.serve(&mut content, "library/alpine", "1");
    let hub = Server::start(move |request| content.answer(request));
    let own = Server::start(|_| Response::new(404, b""));
    let docker = RegistrySettings {
        name: "docker.io".to_owned(),
        endpoint: Some(format!("http://{}", hub.name())),
        headers: vec![("X-Team".to_owned(), "infra".to_owned())],
        ..RegistrySettings::default()
    };
    let reference = ImageRef::in_registry("sandboxes.io", "alpine:1").unwrap();
    let registries = Setup::new().with(docker.clone()).build();
    assert_eq!(resolve(&registries, &reference).unwrap().reference, reference);
    assert_eq!(hub.requests()[0].header("x-team"), Some("infra"));

    let sandboxes = RegistrySettings {
        name: "sandboxes.io".to_owned(),
        endpoint: Some(format!("http://{}", own.name())),
        ..RegistrySettings::default()
    };
    let registries = Setup::new().with(docker).with(sandboxes).build();
    assert_eq!(resolve(&registries, &reference).unwrap_err().kind(), "not-found");
    assert_eq!(own.requests()[0].header("x-team"), None);
}

#[test]
fn what_a_registry_says_is_shown_escaped() {
    let body = json!({"errors": [{"code": "DENIED", "message": "no\u{1b}[31m\nway"}]}).to_string();
    let server = Server::start(move |_| Response::new(403, body.as_bytes()));
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().starts_with(r"denied: no\u{1b}[31m\nway (HTTP 403"), "{error}");
}
