//! Servers that are never silent and never done: whatever drips, an exchange ends. Only the content
//! of a blob may take as long as it needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;
use crate::registry::BlobReader;

/// Patience of half a second in all.
const IMPATIENT: (&str, &str) = ("MSB_SYNC_STALL_TIMEOUT", "0.05");

/// A server that is no good: `answer` gets the head of a request and the connection.
fn raw(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer) = (stream, Arc::clone(&answer)) else { return };
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                answer(&String::from_utf8_lossy(&head), &mut stream);
            });
        }
    });
    name
}

/// Sends `start`, then `drop` again and again, until the other side has gone away.
fn drip(stream: &mut TcpStream, start: &str, drop: &str) {
    let mut sent = stream.write_all(start.as_bytes());
    while sent.is_ok() {
        std::thread::sleep(Duration::from_millis(10));
        sent = stream.write_all(drop.as_bytes());
    }
}

/// Returns what `ask` finds; a run that does not end fails the test instead of holding it up.
fn ends<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || answer.send(ask()));
    answered.recv_timeout(Duration::from_secs(120)).expect("it does not end")
}

fn lookup(name: &str, variables: &[(&str, &str)]) -> RegistryError {
    let reference = ImageRef::in_registry(name, "team/app:1").unwrap();
    let mut setup = Setup::new().variable(IMPATIENT.0, IMPATIENT.1);
    for (name, value) in variables {
        setup = setup.variable(name, value);
    }
    ends(move || resolve(&setup.build(), &reference).unwrap_err())
}

#[test]
fn whatever_drips_a_lookup_ends() {
    for (start, drop) in [
        ("HTTP/1.1 200 OK\r\nX-Endless: ", "x"),
        ("HTTP/1.1 200 OK\r\n", "X-Many: x\r\n"),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", " "),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", "x"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\nX-Trailer: ", "x"),
    ] {
        let name = raw(move |_, stream| drip(stream, start, drop));
        let error = lookup(&name, &[]);
        assert!(matches!(error.kind(), "stalled" | "protocol"), "{start:?}: {error}");
    }
}

#[test]
fn the_body_of_an_error_or_a_redirect_is_not_waited_for() {
    for (status, kind) in [(401, "unauthorized"), (403, "forbidden"), (404, "not-found")] {
        let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 1000\r\n\r\n");
        let name = raw(move |_, stream| drip(stream, &head, " "));
        assert_eq!(lookup(&name, &[]).kind(), kind);
    }
    let elsewhere = Server::start(|_| Response::new(404, b""));
    let to = elsewhere.name();
    let head = format!("HTTP/1.1 307 X\r\nLocation: http://{to}/\r\nContent-Length: 1000\r\n\r\n");
    let name = raw(move |_, stream| drip(stream, &head, " "));
    assert_eq!(lookup(&name, &[]).kind(), "not-found");
    let name = raw(|head, stream| {
        let answer = if head.starts_with("GET /token") {
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        } else {
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"/token\"\r\nContent-Length: 1000\r\n\r\n"
        };
        drip(stream, answer, " ");
    });
    assert_eq!(lookup(&name, &[]).kind(), "stalled");
}

#[test]
fn a_proxy_that_drips_and_a_handshake_that_drips_end() {
    let proxy = raw(|_, stream| drip(stream, "HTTP/1.1 200 OK\r\nX-Endless: ", "x"));
    let error = lookup("registry.invalid", &[("HTTPS_PROXY", &format!("http://{proxy}"))]);
    assert!(matches!(error.kind(), "stalled" | "unreachable" | "protocol"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A handshake record of 16 KiB, byte by byte.
            std::thread::spawn(move || drip(&mut stream.unwrap(), "\x16\x03\x03\x40\x00\x02", "\0"));
        }
    });
    let settings = RegistrySettings {
        name: "registry.corp".to_owned(),
        endpoint: Some(format!("https://127.0.0.1:{port}")),
        insecure: true,
        ..RegistrySettings::default()
    };
    let setup = Setup::new().with(settings).variable(IMPATIENT.0, IMPATIENT.1);
    let reference = ImageRef::in_registry("registry.corp", "team/app:1").unwrap();
    let error = ends(move || resolve(&setup.build(), &reference).unwrap_err());
    assert!(matches!(error.kind(), "stalled" | "unreachable" | "tls"), "{error}");
}

/// The layer of `app` from a server that sends it as `send` does, after its head.
fn layer(
    app: &Image,
    send: impl Fn(&mut TcpStream) + Send + Sync + 'static,
) -> Result<Vec<u8>, RegistryError> {
    let name = raw(move |_, stream| send(stream));
    let reference = ImageRef::in_registry(&name, "team/app:1").unwrap();
    let layer = app.layer_descriptor();
    let setup = Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.1");
    ends(move || {
        let mut bytes = Vec::new();
        let mut reader = setup.build().blob(&reference, &layer, 0)?;
        reader.read_to_end(&mut bytes).map_err(|error| BlobReader::cause(error).unwrap())?;
        Ok(bytes)
    })
}

#[test]
fn a_blob_of_which_only_the_framing_arrives_has_stalled() {
    let app = Image::new("layer");
    for (start, drop) in [("5;x=", "x"), ("000000", "0")] {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{start}");
        let error = layer(&app, move |stream| drip(stream, &head, drop)).unwrap_err();
        assert!(matches!(error.kind(), "stalled" | "protocol"), "{error}");
    }
}

#[test]
fn a_slow_blob_that_lives_takes_as_long_as_it_needs() {
    let app = Image::new(&"0123456789".repeat(15));
    let content = app.layer.clone();
    // Longer in all than any other answer may take.
    let slowly = move |stream: &mut TcpStream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
        let mut sent = stream.write_all(head.as_bytes());
        for byte in &content {
            std::thread::sleep(Duration::from_millis(10));
            sent = sent.and_then(|()| stream.write_all(&[*byte]));
        }
    };
    assert_eq!(layer(&app, slowly).unwrap(), app.layer);
}

#[test]
fn a_list_whose_pages_all_come_in_time_ends_too() {
    let number = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |_| {
        std::thread::sleep(Duration::from_millis(10));
        let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Response::new(200, json!({"tags": [number.to_string()]}).to_string().as_bytes())
            .header("Link", &format!("</v2/team/app/tags/list?last={number}>; rel=next"))
    });
    let reference = reference(&server);
    let setup = Setup::new().variable(IMPATIENT.0, IMPATIENT.1);
    let error = ends(move || setup.build().tags(&reference).unwrap_err());
    assert_eq!(error.kind(), "stalled", "{error}");
}

#[test]
fn a_list_that_is_slow_holds_up_no_other() {
    let large = |number: usize| -> Vec<String> {
        (0..4000).map(|tag| format!("{number}.{tag}-{}", "x".repeat(100))).collect()
    };
    let (arrived, arrival) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let gate = Mutex::new((arrived, released));
    let slow = Server::start(move |request| {
        if request.target.contains("last=") {
            let gate = gate.lock().unwrap();
            gate.0.send(()).unwrap();
            // The other list has been read, or the test has failed.
            let _ = gate.1.recv();
            return Response::new(200, json!({"tags": ["end"]}).to_string().as_bytes());
        }
        Response::new(200, json!({"tags": large(1)}).to_string().as_bytes())
            .header("Link", "</v2/team/app/tags/list?last=x>; rel=next")
    });
    let quick = Server::start(move |_| Response::new(200, json!({"tags": large(2)}).to_string().as_bytes()));
    let registries = Arc::new(Setup::new().build());
    let (first, second) = (Arc::clone(&registries), registries);
    let (at_slow, at_quick) = (reference(&slow), reference(&quick));
    let waiting = std::thread::spawn(move || first.tags(&at_slow).unwrap().len());
    arrival.recv().unwrap();
    assert_eq!(ends(move || second.tags(&at_quick).unwrap().len()), 4000);
    release.send(()).unwrap();
    assert_eq!(waiting.join().unwrap(), 4001);
}
