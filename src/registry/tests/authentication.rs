//! Challenges, tokens and credentials: what is sent to whom, and what is not.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// `Basic` of `me:hunter2`.
const BASIC: &str = "Basic bWU6aHVudGVyMg==";

fn with_password(server: &Server) -> Setup {
    Setup::new().variable("PASSWORD", "hunter2").with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        ..settings(server)
    })
}

/// A registry that wants tokens of its own `/token`, which counts them: `token-1`, `token-2`, …
fn token_registry(
    content: Content,
    life: u64,
    valid: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Server {
    let issued = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path() == "/token" {
            let token = format!("token-{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
            return Response::new(
                200,
                json!({"access_token": token, "expires_in": life}).to_string().as_bytes(),
            );
        }
        match request.authorization().and_then(|text| text.strip_prefix("Bearer ")) {
            Some(token) if valid(token) => content.answer(request),
            _ => Response::new(401, b"").header(
                "WWW-Authenticate",
                r#"Bearer realm="/token",service="s",scope="repository:team/app:pull""#,
            ),
        }
    })
}

#[test]
fn a_token_is_fetched_once_and_then_sent_up_front() {
    let app = Image::new("layer");
    let server = token_registry(serve(&app), 300, |token| token == "token-1");
    let registries = with_password(&server).build();
    resolve(&registries, &reference(&server)).unwrap();
    assert_eq!(
        server.lines()[..3],
        [
            "GET /v2/team/app/manifests/1",
            "GET /token?service=s&scope=repository%3Ateam%2Fapp%3Apull",
            "GET /v2/team/app/manifests/1"
        ]
    );
    assert_eq!(server.requests()[1].authorization(), Some(BASIC));
    assert_eq!(server.lines().len(), 4);
    registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    assert_eq!(server.lines().len(), 5);
}

#[test]
fn threads_share_one_token_request() {
    let app = Image::new("layer");
    let server = token_registry(serve(&app), 300, |_| true);
    let registries = Setup::new().build();
    let layer = app.layer_descriptor();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut bytes = Vec::new();
                let mut reader = registries.blob(&reference(&server), &layer, 0).unwrap();
                std::io::Read::read_to_end(&mut reader, &mut bytes).unwrap();
            });
        }
    });
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 1);
}

#[test]
fn a_token_is_renewed_before_it_expires_and_once_after_a_401() {
    let app = Image::new("layer");
    let server = token_registry(serve(&app), 1, |_| true);
    let registries = Setup::new().build();
    resolve(&registries, &reference(&server)).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    let tokens = server.requests().iter().filter(|request| request.path() == "/token").count();
    let refused =
        server.requests().iter().filter(|request| request.authorization().is_none()).count() - tokens;
    assert_eq!((tokens, refused), (2, 1));

    // Token 1 is good for two requests, then revoked.
    let uses = AtomicUsize::new(0);
    let valid = move |token: &str| token == "token-2" || uses.fetch_add(1, Ordering::SeqCst) < 2;
    let server = token_registry(serve(&app), 300, valid);
    let registries = Setup::new().build();
    resolve(&registries, &reference(&server)).unwrap();
    let lookup = registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    assert!(matches!(lookup, Lookup::Same));
}

#[test]
fn a_401_to_a_fresh_token_is_final() {
    let server = token_registry(Content::default(), 300, |_| false);
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert_eq!(error.to_string(), format!("unauthorized (HTTP 401 from {})", server.name()));
    assert!(error.hint().unwrap().contains("docker login 127.0.0.1"), "{:?}", error.hint());
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_hint_names_the_host_whose_login_is_looked_up() {
    let server = token_registry(Content::default(), 300, |_| false);
    let elsewhere = RegistrySettings {
        name: "registry.corp".to_owned(),
        endpoint: Some(format!("http://{}", server.name())),
        ..RegistrySettings::default()
    };
    let reference = ImageRef::in_registry("registry.corp", "team/app:1").unwrap();
    let hint = resolve(&Setup::new().with(elsewhere).build(), &reference).unwrap_err().hint().unwrap();
    assert!(hint.contains(&format!("`docker login {}`", server.name())), "{hint}");
    assert!(hint.contains("[registry.\"registry.corp\"]"), "{hint}");
}

#[test]
fn a_token_answer_that_is_too_large_is_said_to_be() {
    let server = Server::start(|request| {
        if request.path() == "/token" {
            return Response::new(200, &vec![b' '; 2 << 20]);
        }
        Response::new(401, b"").header("WWW-Authenticate", "Bearer realm=\"/token\"")
    });
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("larger than 64 KiB") && error.hint().is_none(), "{error}");
}

#[test]
fn settings_for_tls_beside_a_plain_endpoint_are_told() {
    let server = token_registry(Content::default(), 300, |_| false);
    for (scheme, told) in [("http", true), ("https", false)] {
        let setup = Setup::new().with(RegistrySettings {
            endpoint: Some(format!("{scheme}://{}", server.name())),
            insecure: true,
            ..settings(&server)
        });
        assert!(resolve(&setup.build(), &reference(&server)).is_err());
        assert_eq!(setup.ear.all().contains("its endpoint is plain http"), told, "{}", setup.ear.all());
    }
}

#[test]
fn a_refused_password_is_final_and_never_shown() {
    let server = Server::start(|request| {
        let echo = format!("bad {}", request.authorization().unwrap_or_default());
        let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": echo}]}).to_string();
        Response::new(401, body.as_bytes()).header("WWW-Authenticate", "Basic realm=\"x\"")
    });
    let folder = tempfile::tempdir().unwrap();
    docker_config(folder.path(), &json!({"auths": {server.name(): {"auth": "b3RoZXI6b3RoZXI="}}}));
    let setup = with_password(&server).variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    let error = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert_eq!(error.kind(), "unauthorized");
    let text = format!("{error} {error:?} {:?} {}", error.hint(), setup.ear.all());
    assert!(!text.contains("hunter2") && !text.contains(&BASIC[6..]), "{text}");
    // One without, one with the password; Docker's credentials are not tried after it.
    assert_eq!(server.lines().len(), 2);
}

#[test]
fn mirrors_get_no_credentials_but_may_have_tokens_of_their_own() {
    let app = Image::new("layer");
    let content = serve(&app);
    let mirror = token_registry(content.clone(), 300, |_| true);
    let server = Server::start(move |request| match request.authorization() {
        Some(BASIC) => content.answer(request),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    });
    let mut setup = with_password(&server);
    setup.registries[0].mirrors =
        vec![crate::state::Mirror { url: format!("http://{}", mirror.name()), resolve: false }];
    resolve(&setup.build(), &reference(&server)).unwrap();
    assert!(mirror.requests().iter().any(|request| request.path() == "/token"));
    for request in mirror.requests() {
        assert_ne!(request.authorization(), Some(BASIC), "{request:?}");
    }
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
    let app = Image::new("layer");
    let server = token_registry(serve(&app), 300, |_| true);
    let folder = tempfile::tempdir().unwrap();
    docker_config(folder.path(), &json!({"auths": {server.name(): {"identitytoken": "id/token"}}}));
    let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    resolve(&setup.build(), &reference(&server)).unwrap();
    let exchange = &server.requests()[1];
    assert_eq!((exchange.method.as_str(), exchange.target.as_str()), ("POST", "/token"));
    assert!(exchange.body.contains("grant_type=refresh_token&refresh_token=id%2Ftoken"), "{}", exchange.body);
}

#[test]
fn a_password_that_is_promised_but_missing_is_an_error() {
    let server = Server::start(|_| Response::new(404, b""));
    let own = settings(&server);
    let unset = RegistrySettings { password_env: Some("NOT_SET".to_owned()), ..own.clone() };
    let error = resolve(&Setup::new().with(unset).build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("NOT_SET"), "{error}");
    assert!(error.hint().unwrap().contains("set the variable"), "{:?}", error.hint());
    // People put the password itself there.
    for password in ["ghp_hunter2", "hunter2!HUNTER2", "A B", "4TH", "P\u{c4}SS"] {
        let mistaken = RegistrySettings { password_env: Some(password.to_owned()), ..own.clone() };
        let error = resolve(&Setup::new().with(mistaken).build(), &reference(&server)).unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", error.hint()).contains(password), "{error}");
        assert!(error.to_string().contains("variable that password-env names is not set"), "{error}");
    }
    let missing = RegistrySettings { password_file: Some("/no/such/file".into()), ..own };
    let error = resolve(&Setup::new().with(missing).build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
    assert_eq!(server.lines().len(), 0);
}

fn docker_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Returns what a registry that wants Basic is sent.
fn sent(setup: &Setup, server: &Server) -> Option<String> {
    let _ = resolve(&setup.build(), &reference(server));
    let last = server.requests().into_iter().rfind(|request| request.authorization().is_some());
    last.and_then(|request| request.authorization().map(str::to_owned))
}

fn basic_registry() -> Server {
    Server::start(|_| Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"))
}

#[test]
fn a_password_file_loses_one_final_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let server = basic_registry();
    let own =
        RegistrySettings { username: Some("me".to_owned()), password_file: Some(path), ..settings(&server) };
    assert_eq!(sent(&Setup::new().with(own), &server).as_deref(), Some(BASIC));
}

#[test]
fn dockers_config_and_auth_json_are_read() {
    for (key, scheme) in [("", ""), ("", "https://"), ("/v1/", "https://"), ("/", "http://")] {
        let server = basic_registry();
        let folder = tempfile::tempdir().unwrap();
        let key = format!("{scheme}{}{key}", server.name());
        docker_config(folder.path(), &json!({"auths": {key: {"auth": &BASIC[6..]}}}));
        let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
        assert_eq!(sent(&setup, &server).as_deref(), Some(BASIC));
    }
    for (key, reached) in
        [("", true), ("/team", true), ("/team/app", true), ("/other", false), ("/te", false)]
    {
        let server = basic_registry();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth.json");
        let key = format!("{}{key}", server.name());
        std::fs::write(&file, json!({"auths": {(key.as_str()): {"auth": &BASIC[6..]}}}).to_string()).unwrap();
        let setup = Setup::new().variable("REGISTRY_AUTH_FILE", file.to_str().unwrap());
        assert_eq!(sent(&setup, &server).is_some(), reached, "{key}");
    }
}

#[test]
fn a_broken_credentials_file_is_a_warning_that_does_not_quote_it() {
    let server = basic_registry();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{\"auths\": hunter2").unwrap();
    let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    assert_eq!(sent(&setup, &server), None);
    let heard = setup.ear.all();
    assert!(heard.contains("config.json") && !heard.contains("hunter2"), "{heard}");
}

#[test]
fn a_login_that_cannot_be_used_is_a_warning_that_says_why() {
    let server = basic_registry();
    for (auth, why) in
        [("hunter2!!", "not base64"), ("aHVudGVyMg==", "not USER:PASSWORD"), ("/w==", "not text")]
    {
        let folder = tempfile::tempdir().unwrap();
        docker_config(folder.path(), &json!({"auths": {server.name(): {"auth": auth}}}));
        for variable in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
            let place = if variable == "DOCKER_CONFIG" {
                folder.path().into()
            } else {
                folder.path().join("config.json")
            };
            let setup = Setup::new().variable(variable, place.to_str().unwrap());
            assert_eq!(sent(&setup, &server), None);
            let heard = setup.ear.all();
            let warning = format!("config.json is ignored: its `auth` is {why}");
            assert!(heard.contains(&warning) && !heard.contains("hunter2"), "{heard}");
        }
    }
}

#[test]
fn a_login_that_cannot_be_used_is_told_once_by_its_key() {
    let server = basic_registry();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let broken = json!({"auth": "!!"});
    let key = format!("{}/team", server.name());
    std::fs::write(&file, json!({"auths": {server.name(): broken, (key.as_str()): broken}}).to_string())
        .unwrap();
    let setup = Setup::new().variable("REGISTRY_AUTH_FILE", file.to_str().unwrap()).with(settings(&server));
    let registries = setup.build();
    for _ in 0..3 {
        let hint = resolve(&registries, &reference(&server)).unwrap_err().hint().unwrap();
        let place = format!("{} (which has one that cannot be used)", file.display());
        assert!(hint.contains(&place), "{hint}");
    }
    let heard = setup.ear.all();
    for key in [&server.name(), &key] {
        assert_eq!(heard.matches(&format!("the login for {key} in ")).count(), 1, "{heard}");
    }
}

#[test]
fn a_helper_that_cannot_be_started_is_a_warning_that_names_it() {
    let _one = HELPERS.lock();
    let server = basic_registry();
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"credsStore": "no-such-helper", "auths": {server.name(): {"auth": &BASIC[6..]}}});
    docker_config(folder.path(), &config);
    let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    assert_eq!(sent(&setup, &server).as_deref(), Some(BASIC));
    let heard = setup.ear.all();
    assert_eq!(heard.matches("docker-credential-no-such-helper").count(), 1, "{heard}");
}

/// A program that is written while another test forks may be "busy": one test with a helper at a
/// time.
static HELPERS: Mutex<()> = Mutex::new(());

/// A folder with a helper `docker-credential-NAME` that runs `script`, and a config that names it.
fn helper(server: &Server, script: &str) -> (tempfile::TempDir, Setup) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("docker-credential-test");
    std::fs::write(&program, format!("#!/bin/sh\necho run >> {}/runs\n{script}", folder.path().display()))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    docker_config(folder.path(), &json!({"credHelpers": {server.name(): "test"}}));
    let setup = Setup::new()
        .variable("DOCKER_CONFIG", folder.path().to_str().unwrap())
        .variable("PATH", &format!("{}:/usr/bin:/bin", folder.path().display()));
    (folder, setup)
}

fn runs(folder: &tempfile::TempDir) -> usize {
    std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default().lines().count()
}

#[test]
fn a_helper_is_asked_once_and_only_if_the_registry_wants_to_know() {
    let _one = HELPERS.lock();
    let app = Image::new("layer");
    let content = serve(&app);
    let open = Server::start(move |request| content.answer(request));
    let (folder, setup) = helper(&open, "exit 1");
    resolve(&setup.build(), &reference(&open)).unwrap();
    assert_eq!(runs(&folder), 0);

    let content = serve(&app);
    let server = Server::start(move |request| match request.authorization() {
        Some(BASIC) => content.answer(request),
        _ => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
    });
    let script = r#"[ "$(cat)" = NAME ] && echo '{"ServerURL":"x","Username":"me","Secret":"hunter2"}'"#;
    let (folder, setup) = helper(&server, &script.replace("NAME", &server.name()));
    let registries = setup.build();
    std::thread::scope(|scope| {
        for repository in ["team/app:1", "team/other:1", "team/third:1"] {
            let reference = ImageRef::in_registry(&server.name(), repository).unwrap();
            let registries = &registries;
            scope.spawn(move || drop(resolve(registries, &reference)));
        }
    });
    resolve(&registries, &reference(&server)).unwrap();
    assert_eq!(runs(&folder), 1);
    assert!(!setup.ear.all().contains("warning"), "{}", setup.ear.all());
}

#[test]
fn a_helper_that_fails_warns_and_one_that_knows_nothing_does_not() {
    let _one = HELPERS.lock();
    for (script, warns) in [
        ("echo 'credentials not found in native keychain'; exit 1", false),
        ("echo 'no keychain'; exit 1", true),
        ("echo nonsense", true),
    ] {
        let server = basic_registry();
        let (_folder, setup) = helper(&server, script);
        assert_eq!(sent(&setup, &server), None);
        assert_eq!(setup.ear.all().contains("docker-credential-test failed"), warns, "{}", setup.ear.all());
    }
}

/// A registry that asks who is there at `/v2/` only, and says `status` to others everywhere else.
fn shy(content: Content, status: u16, token: bool) -> Server {
    Server::start(move |request| {
        if request.path() == "/token" {
            return Response::new(200, br#"{"token":"t"}"#);
        }
        let known = if token { "Bearer t" } else { BASIC };
        match (request.authorization(), request.path()) {
            (Some(header), _) if header == known => content.answer(request),
            (_, "/v2/") if token => {
                Response::new(401, b"").header("WWW-Authenticate", "Bearer realm=\"/token\",service=s")
            }
            (_, "/v2/") => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
            _ => Response::new(status, b""),
        }
    })
}

#[test]
fn a_registry_that_asks_at_its_root_only_is_asked_there_once() {
    for (status, token) in [(401, false), (403, false), (404, false), (401, true), (404, true)] {
        let app = Image::new("layer");
        let mut content = serve(&app);
        app.serve(&mut content, "team/other", "1");
        let server = shy(content, status, token);
        let registries = with_password(&server).build();
        resolve(&registries, &reference(&server)).unwrap();
        let other = ImageRef::in_registry(&server.name(), "team/other:1").unwrap();
        resolve(&registries, &other).unwrap();
        let missing = ImageRef::in_registry(&server.name(), "team/missing:1").unwrap();
        let error = resolve(&registries, &missing).unwrap_err();
        assert_eq!(error.kind(), "not-found");
        let asked = server.lines().iter().filter(|line| *line == "GET /v2/").count();
        assert_eq!(asked, 1, "{:?}", server.lines());
        if token {
            let scope = "scope=repository%3Ateam%2Fother%3Apull";
            assert!(server.lines().iter().any(|line| line.contains(scope)), "{:?}", server.lines());
        }
    }
}

#[test]
fn the_hint_says_what_the_registry_knows() {
    let hint = |setup: &Setup, server: &Server| {
        resolve(&setup.build(), &reference(server)).unwrap_err().hint().unwrap()
    };
    // There are no credentials: nothing more is asked, and the hint is to log in.
    let server = shy(Content::default(), 403, false);
    assert!(hint(&Setup::new(), &server).contains("docker login"));
    assert_eq!(server.lines().len(), 1);
    // It never asks for them.
    let server = Server::start(|_| Response::new(403, b""));
    let found = hint(&with_password(&server), &server);
    assert!(found.contains("does not ask for any"), "{found}");
    // They were sent, and refused.
    let server = shy(Content::default(), 403, false);
    let setup = Setup::new().variable("PASSWORD", "wrong").with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        ..settings(&server)
    });
    assert!(hint(&setup, &server).contains("PASSWORD were refused"));
}

/// A home with a login for each of `hosts`, in Docker's file.
fn logins(hosts: &[&str]) -> (tempfile::TempDir, Setup) {
    let folder = tempfile::tempdir().unwrap();
    let auths: serde_json::Map<String, Value> =
        hosts.iter().map(|host| ((*host).to_owned(), json!({"auth": &BASIC[6..]}))).collect();
    docker_config(folder.path(), &json!({ "auths": auths }));
    let setup = Setup::new().variable("DOCKER_CONFIG", folder.path().to_str().unwrap());
    (folder, setup)
}

/// Returns what a server that wants Basic is sent by a lookup of `name`'s image, where `endpoint`
/// leads there.
fn sent_to(setup: &Setup, name: &str, server: &Server) -> Option<String> {
    let _ = resolve(&setup.build(), &ImageRef::in_registry(name, "team/app:1").unwrap());
    assert!(!server.requests().is_empty(), "nobody asked it");
    server.requests().iter().find_map(|request| request.authorization().map(str::to_owned))
}

#[test]
fn a_stored_login_goes_to_the_host_that_is_really_asked() {
    for name in ["ghcr.io", "docker.io", "sandboxes.io"] {
        let elsewhere = |server: &Server| RegistrySettings {
            name: name.to_owned(),
            endpoint: Some(format!("http://{}", server.name())),
            ..RegistrySettings::default()
        };
        let server = basic_registry();
        let (_folder, setup) = logins(&[name, "https://index.docker.io/v1/"]);
        assert_eq!(sent_to(&setup.with(elsewhere(&server)), name, &server), None, "{name}");
        // That host's own login is its own.
        let server = basic_registry();
        let (_folder, setup) = logins(&[name, &server.name()]);
        let sent = sent_to(&setup.with(elsewhere(&server)), name, &server);
        assert_eq!(sent.as_deref(), Some(BASIC), "{name}");
        // And the file may have some for it.
        let server = basic_registry();
        let own = RegistrySettings {
            username: Some("me".to_owned()),
            password_env: Some("PASSWORD".to_owned()),
            ..elsewhere(&server)
        };
        let setup = Setup::new().variable("PASSWORD", "hunter2").with(own);
        assert_eq!(sent_to(&setup, name, &server).as_deref(), Some(BASIC), "{name}");
    }
}

#[test]
fn a_stored_login_is_never_sent_over_plain_http_off_this_machine() {
    let host = "registry.invalid:5000";
    let proxied = |setup: Setup, proxy: &Server| {
        let variable = ("HTTP_PROXY", format!("http://{}", proxy.name()));
        setup.variable(variable.0, &variable.1)
    };
    let plain = RegistrySettings {
        name: host.to_owned(),
        endpoint: Some(format!("http://{host}")),
        ..RegistrySettings::default()
    };
    let proxy = basic_registry();
    let (_folder, setup) = logins(&[host]);
    let setup = proxied(setup.with(plain.clone()), &proxy);
    assert_eq!(sent_to(&setup, host, &proxy), None);
    let error = resolve(&setup.build(), &ImageRef::in_registry(host, "team/app:1").unwrap()).unwrap_err();
    assert!(error.hint().unwrap().contains("not sent over plain http"), "{:?}", error.hint());
    // The file's own credentials go there: it says http itself.
    let proxy = basic_registry();
    let own = RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        ..plain
    };
    let setup = proxied(Setup::new().variable("PASSWORD", "hunter2").with(own), &proxy);
    assert_eq!(sent_to(&setup, host, &proxy).as_deref(), Some(BASIC));
}

#[test]
fn a_strangers_file_gets_no_stored_login() {
    let server = basic_registry();
    let (_folder, mut setup) = logins(&[&server.name()]);
    setup.untrusted = true;
    assert_eq!(sent_to(&setup, &server.name(), &server), None);
}

#[test]
fn a_file_of_several_lines_is_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("id_ed25519");
    std::fs::write(&path, "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END\n").unwrap();
    let server = basic_registry();
    let own =
        RegistrySettings { username: Some("me".to_owned()), password_file: Some(path), ..settings(&server) };
    let error = resolve(&Setup::new().with(own).build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("holds no password"), "{error}");
    assert!(!error.to_string().contains("hunter2") && server.lines().is_empty(), "{error}");
}

#[test]
fn podmans_logins_are_found_where_podman_stores_them() {
    let login = |folder: &Path, host: &str| {
        std::fs::create_dir_all(folder).unwrap();
        let file = json!({"auths": {host: {"auth": &BASIC[6..]}}});
        std::fs::write(folder.join("auth.json"), file.to_string()).unwrap();
    };
    for (variable, folder) in
        [("XDG_RUNTIME_DIR", "containers"), ("XDG_CONFIG_HOME", "containers"), ("HOME", ".config/containers")]
    {
        let server = basic_registry();
        let place = tempfile::tempdir().unwrap();
        login(&place.path().join(folder), &server.name());
        let setup = Setup::new().variable(variable, place.path().to_str().unwrap());
        assert_eq!(sent(&setup, &server).as_deref(), Some(BASIC), "{variable}");
    }
    // The first place that knows the registry counts; one that does not leads on to the next.
    let server = basic_registry();
    let (runtime, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    login(&runtime.path().join("containers"), "elsewhere.corp");
    login(&config.path().join("containers"), &server.name());
    let setup = Setup::new()
        .variable("XDG_RUNTIME_DIR", runtime.path().to_str().unwrap())
        .variable("XDG_CONFIG_HOME", config.path().to_str().unwrap());
    assert_eq!(sent(&setup, &server).as_deref(), Some(BASIC));
    // Who names a file means this one.
    let named = runtime.path().join("containers/auth.json");
    assert_eq!(sent(&setup.variable("REGISTRY_AUTH_FILE", named.to_str().unwrap()), &basic_registry()), None);
}

#[test]
fn a_failing_helpers_words_are_shown_without_the_secret() {
    let _one = HELPERS.lock();
    for (words, shown) in [
        (r#"{"ServerURL":"x","Username":"me","Secret":"hunter2"}"#, "Username"),
        ("cannot unlock: password=hunter2", "cannot unlock"),
        ("no keychain", "no keychain"),
    ] {
        let server = basic_registry();
        let (_folder, setup) = helper(&server, &format!("echo '{words}'; exit 1"));
        assert_eq!(sent(&setup, &server), None);
        let heard = setup.ear.all();
        assert!(heard.contains("docker-credential-test failed") && heard.contains(shown), "{heard}");
        assert!(!heard.contains("hunter2"), "{heard}");
    }
}

#[test]
fn a_refusal_says_where_a_login_was_looked_for() {
    let server = Server::start(|_| Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"));
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".docker");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    let setup = Setup::new().variable("HOME", home.path().to_str().unwrap()).with(settings(&server));
    let hint = resolve(&setup.build(), &reference(&server)).unwrap_err().hint().unwrap();
    let (docker, podman) = (folder.join("config.json"), home.path().join(".config/containers/auth.json"));
    assert!(hint.contains(&format!("is in {}, ", docker.display())), "{hint}");
    assert!(hint.contains(&format!("{} (not there)", podman.display())), "{hint}");
}
