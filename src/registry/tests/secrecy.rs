//! The words that a registry sends back are shown, but no secret that it was sent, in whatever form
//! it comes back, and nothing of a service to which it only leads.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::*;

const PASSWORD: &str = "hunter2-hunter2&co";
const HEADER: &str = "header-of-ours-12345";

/// Every form of the secrets that must not be seen.
fn forms() -> Vec<String> {
    let pair = format!("me:{PASSWORD}");
    let mut forms = Vec::new();
    for secret in [PASSWORD, HEADER, "issued-token-67890"] {
        forms.push(secret.to_owned());
        forms.push(secret.replace('&', "%26"));
        forms.push(secret.replace('&', "&amp;"));
        forms.push(BASE64_STANDARD.encode(secret));
        let digits: Vec<String> = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        forms.push(digits.concat());
    }
    forms.push(BASE64_STANDARD.encode(&pair));
    forms.push(BASE64_URL_SAFE_NO_PAD.encode(&pair));
    forms
}

/// All that a run says of a registry that answers so, at any verbosity.
fn told(answer: impl Fn(&Request, &str) -> Response + Send + Sync + Clone + 'static) -> String {
    let mut all = Vec::new();
    for form in forms() {
        let answer = answer.clone();
        let server = Server::start(move |request| {
            if request.path() == "/token" {
                return Response::new(200, br#"{"token":"issued-token-67890"}"#);
            }
            match request.authorization() {
                None => Response::new(401, b"")
                    .header("WWW-Authenticate", "Basic realm=x")
                    .header("WWW-Authenticate", "Bearer realm=\"/token\""),
                Some(_) => answer(request, &form),
            }
        });
        let setup = Setup::new().variable("PASSWORD", PASSWORD).with(RegistrySettings {
            username: Some("me".to_owned()),
            password_env: Some("PASSWORD".to_owned()),
            headers: vec![("X-Team".to_owned(), HEADER.to_owned())],
            ..settings(&server)
        });
        let registries = setup.build();
        let error = resolve(&registries, &reference(&server)).unwrap_err();
        let tags = registries.tags(&reference(&server));
        all.push(format!("{error}\n{error:?}\n{:?}\n{tags:?}\n{}\n", error.hint(), setup.ear.all()));
    }
    all.concat()
}

#[track_caller]
fn assert_hidden(text: &str) {
    for form in forms() {
        assert!(!text.to_lowercase().contains(&form.to_lowercase()), "{form} in {text}");
    }
}

#[test]
fn in_the_words_of_an_error() {
    for key in ["message", "code", "detail"] {
        let text = told(move |_, secret| {
            let mut error = json!({"code": "DENIED", "message": "no"});
            error[key] = json!(format!("bad {secret}"));
            Response::new(403, json!({"errors": [error]}).to_string().as_bytes())
        });
        assert_hidden(&text);
        assert!(text.contains("HTTP 403"), "{text}");
    }
    assert_hidden(&told(|_, secret| {
        Response::new(403, json!({"details": secret, "error": secret}).to_string().as_bytes())
    }));
}

#[test]
fn in_a_redirect_a_challenge_and_headers() {
    assert_hidden(&told(|_, secret| {
        Response::redirect(&format!("http://127.0.0.1:1/{secret}/x?y={secret}"))
    }));
    assert_hidden(&told(|_, secret| Response::redirect(&format!("ftp://{secret}/"))));
    assert_hidden(&told(|_, secret| {
        Response::new(401, b"").header(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://127.0.0.1:1/{secret}\",service=\"{secret}\""),
        )
    }));
    assert_hidden(&told(|_, secret| {
        Response::new(200, b"{}").header("Content-Type", &format!("application/{secret}"))
    }));
    assert_hidden(&told(|_, secret| Response::new(429, b"").header("Retry-After", "0").header("X", secret)));
}

#[test]
fn in_a_digest() {
    let text = told(|_, secret| {
        if !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Response::new(403, b"");
        }
        let digest = format!("sha256:{secret:0<64}");
        Response::new(200, b"something else").header("Docker-Content-Digest", &digest)
    });
    assert_hidden(&text);
    assert!(text.contains("is not what was asked for"), "{text}");
}

#[test]
fn in_a_document() {
    assert_hidden(&told(|_, secret| {
        Response::new(
            200,
            json!({"schemaVersion": 2, "mediaType": secret, "tags": secret}).to_string().as_bytes(),
        )
    }));
    assert_hidden(&told(|_, secret| Response::new(200, json!([secret]).to_string().as_bytes())));
    assert_hidden(&told(|_, secret| {
        let entry =
            json!({"digest": sha256(b"x"), "size": 1, "platform": {"os": secret, "architecture": secret}});
        Response::new(200, &index(&[entry])).header("Content-Type", OCI_INDEX)
    }));
}

#[test]
fn a_service_to_which_a_registry_leads_is_not_heard() {
    let bodies = [
        json!({"errors": [{"code": "DENIED", "message": "private-words"}]}).to_string(),
        json!({"schemaVersion": 2, "mediaType": "private-words", "tags": "private-words"}).to_string(),
        json!(["private-words"]).to_string(),
    ];
    for (status, body) in
        [403, 404, 500, 200].into_iter().flat_map(|status| bodies.clone().map(|body| (status, body)))
    {
        let service = Server::start(move |_| {
            Response::new(status, body.as_bytes()).header("Content-Type", "application/private-words")
        });
        for realm in [false, true] {
            // Another host, as far as anybody knows.
            let to = format!("http://{}/", service.other_name());
            let server = Server::start(move |_| {
                if realm {
                    Response::new(401, b"").header("WWW-Authenticate", &format!("Bearer realm=\"{to}\""))
                } else {
                    Response::redirect(&to)
                }
            });
            let setup = Setup::new();
            let registries = setup.build();
            let error = resolve(&registries, &reference(&server)).unwrap_err();
            let tags = registries.tags(&reference(&server));
            let text = format!("{error} {error:?} {tags:?} {}", setup.ear.all());
            assert!(!text.contains("private-words"), "{text}");
        }
    }
}

#[test]
fn a_registry_elsewhere_cannot_lead_to_this_machine() {
    let proxy = Server::start(|request| {
        if request.target.contains("by-realm") {
            let realm = "Bearer realm=\"http://[::1]:9/\"";
            return Response::new(401, b"").header("WWW-Authenticate", realm);
        }
        Response::redirect("http://169.254.169.254/latest/meta-data")
    });
    for (repository, kind) in [("team/app:1", "redirect"), ("team/by-realm:1", "invalid-document")] {
        let name = "registry.invalid:5000".to_owned();
        let endpoint = Some(format!("http://{name}"));
        let setup = Setup::new()
            .with(RegistrySettings { name: name.clone(), endpoint, ..RegistrySettings::default() })
            .variable("HTTP_PROXY", &format!("http://{}", proxy.name()));
        let reference = ImageRef::in_registry(&name, repository).unwrap();
        let error = resolve(&setup.build(), &reference).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("leads to this machine itself"), "{error}");
    }
    assert_eq!(proxy.lines().len(), 2);
}

#[test]
fn requests_are_told_with_their_headers_and_where_credentials_came_from() {
    let server = Server::start(|request| match (request.path(), request.authorization()) {
        (path, _) if path.ends_with("/elsewhere") => {
            Response::new(404, b"").header("Set-Cookie", "c=cookie-12345")
        }
        (_, None) => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
        (_, Some(_)) => Response::new(307, b"").header("Location", "/elsewhere?sig=signature-12345"),
    });
    let setup = Setup::new().variable("PASSWORD", PASSWORD).with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        headers: vec![("X-Team".to_owned(), HEADER.to_owned())],
        ..settings(&server)
    });
    assert!(resolve(&setup.build(), &reference(&server)).is_err());
    let told = setup.ear.all();
    for part in [
        "method: \"GET\"",
        "credentials: \"no credentials\"",
        "credentials: \"the environment variable PASSWORD\"",
        "(\"authorization\", \"Basic …\")",
        "(\"x-team\", \"…\")",
        "(\"www-authenticate\", \"Basic realm=x\")",
        "(\"location\", \"/elsewhere?…\")",
        "(\"set-cookie\", \"…\")",
        "/elsewhere\"",
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(!told.contains("12345"), "{told}");
    assert_hidden(&told);
}

#[test]
fn a_try_that_is_repeated_is_told_with_image_and_path() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let server = Server::start(move |_| {
        let tried = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Response::new(if tried == 0 { 503 } else { 404 }, b"")
    });
    let setup = Setup::new().with(settings(&server));
    let reference = reference(&server);
    assert!(resolve(&setup.build(), &reference).is_err());
    let (told, tag) = (setup.ear.all(), reference.tag().unwrap());
    let line = told.lines().find(|line| line.contains("trying again in")).unwrap_or_default();
    assert!(line.starts_with(&format!("{reference}: GET http://")), "{told}");
    assert!(line.contains(&format!("/v2/{}/manifests/{tag}: ", reference.repository())), "{told}");
}
