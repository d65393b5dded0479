//! Servers that give no answer over plain http: whether https is what they speak, is suggested only
//! where nothing speaks against it.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

const HTTPS: &str = "if the registry speaks https";

/// The address of a server that sends these bytes to whoever connects, after the request if it
/// `reads` that, and closes.
fn sends(answer: &'static [u8], reads: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if reads {
                let _ = stream.read(&mut [0; 4096]);
            }
            let _ = stream.write_all(answer);
        }
    });
    name
}

fn refused(name: &str) -> RegistryError {
    let reference = ImageRef::in_registry(name, "team/app:1").unwrap();
    resolve(&Setup::new().build(), &reference).unwrap_err()
}

fn suggests_https(error: &RegistryError) -> bool {
    error.hint().is_some_and(|hint| hint.contains(HTTPS))
}

#[test]
fn a_server_that_closes_without_an_answer_may_speak_tls() {
    // The second one says in TLS that it does not understand.
    for answer in [&b""[..], b"\x15\x03\x01\x00\x02\x02\x46"] {
        for reads in [true, false] {
            let error = refused(&sends(answer, reads));
            assert!(suggests_https(&error), "{error}: {:?}", error.hint());
        }
    }
}

#[test]
fn a_server_that_began_to_answer_speaks_http() {
    let cut = Server::start(|_| Response::new(200, b"{\"schemaVersion\": 2}").cut(5));
    assert_eq!(refused(&cut.name()).hint(), None);
    let bad_name = b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n";
    let bad_status = b"HTTP/1.1 2x0 OK\r\n\r\n";
    for answer in [&bad_name[..], bad_status] {
        let error = refused(&sends(answer, true));
        assert_eq!(error.hint(), None, "{error}");
    }
    let many = Server::start(|_| {
        (0..200).fold(Response::new(200, b"{}"), |response, at| response.header(&format!("X-{at}"), "x"))
    });
    let error = refused(&many.name());
    assert_eq!(error.hint(), None, "{error}");
}

#[test]
fn a_registry_that_has_answered_before_speaks_http() {
    let app = Image::new("layer");
    let content = serve(&app);
    let server = Server::start(move |request| match request.path() {
        path if path.contains("/blobs/") => Response::closed(),
        _ => content.answer(request),
    });
    let error = refused(&server.name());
    assert!(!suggests_https(&error), "{error}: {:?}", error.hint());
}

#[test]
fn a_host_to_which_the_registry_sends_is_not_the_registry() {
    let elsewhere = sends(b"", true).replace("127.0.0.1", "localhost");
    let server = Server::start(move |_| Response::redirect(&format!("http://{elsewhere}/x")));
    let error = refused(&server.name());
    assert!(!suggests_https(&error), "{error}: {:?}", error.hint());
}
