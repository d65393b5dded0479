//! Servers that give tokens for a registry, and fail: who failed is told, and what may help.

use std::net::TcpListener;

use super::*;

/// A registry whose tokens are at `realm`.
fn registry(realm: &str) -> Server {
    let challenge = format!("Bearer realm=\"{realm}\"");
    Server::start(move |_| Response::new(401, b"").header("WWW-Authenticate", &challenge))
}

fn refused(setup: Setup, server: &Server) -> RegistryError {
    resolve(&setup.with(settings(server)).build(), &reference(server)).unwrap_err()
}

/// The error where the server of tokens gives this answer.
fn refused_by(answer: impl Fn() -> Response + Send + Sync + 'static) -> RegistryError {
    let tokens = Server::start(move |_| answer());
    let server = registry(&format!("http://{}/token", tokens.name()));
    refused(Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.1"), &server)
}

#[track_caller]
fn assert_hint(error: &RegistryError, part: &str) {
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(part), "no {part} in {hint}, of {error}");
}

#[test]
fn a_token_server_that_is_down_is_told_from_the_registry() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(Setup::new(), &registry(&format!("http://{nobody}/token")));
    let text = format!("its token server: connection refused by http://{nobody}");
    assert_eq!(error.to_string(), text);
    assert_hint(&error, "the registry itself answers");
}

#[test]
fn a_token_server_that_refuses_is_told_from_the_registry() {
    for (status, words, hint) in [
        (503, "its token server: service unavailable", "the registry's token server has a problem"),
        (429, "its token server: too many requests", "the registry's token server limits"),
        (404, "its token server: not found", "its tokens are there"),
    ] {
        let error = refused_by(move || Response::new(status, b"").header("Retry-After", "0"));
        assert!(error.to_string().starts_with(words), "{error}");
        assert_hint(&error, hint);
    }
}

#[test]
fn a_token_server_that_breaks_off_is_named() {
    let error = refused_by(Response::closed);
    assert!(error.to_string().contains("the registry's token server"), "{error}");
    assert!(!error.hint().unwrap_or_default().contains("speaks https"), "{:?}", error.hint());
    let error = refused_by(|| Response::new(200, b"{\"token\": \"t\"}").stalling(3));
    assert!(error.to_string().contains("the registry's token server"), "{error}");
}

#[test]
fn credentials_that_are_kept_back_are_not_asked_for() {
    let tokens = Server::start(|_| Response::new(401, b""));
    let server = registry(&format!("http://{}/token", tokens.other_name()));
    let setup = Setup::new().variable("PASSWORD", "hunter2");
    let own = RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        ..settings(&server)
    };
    let error = resolve(&setup.with(own).build(), &reference(&server)).unwrap_err();
    assert_hint(&error, "the credentials are not sent to the registry's token server");
    assert!(tokens.requests().iter().all(|request| request.authorization().is_none()));
}
