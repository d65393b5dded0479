//! The bytes of layers: resuming, redirects, short, long and stalling bodies.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::registry::BlobReader;
use crate::state::Mirror;

fn big() -> Image {
    let content = "0123456789 ".repeat(10_000);
    Image::new(&content)
}

fn fetch(
    registries: &Registries,
    server: &Server,
    app: &Image,
    offset: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let mut reader = registries.blob(&reference(server), &app.layer_descriptor(), offset)?;
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            assert!(reader.read(&mut [0; 8]).is_err(), "a failed reader must not go on");
            Err(BlobReader::cause(error).unwrap())
        }
    }
}

#[test]
fn a_layer_is_fetched_whole_or_from_an_offset() {
    let app = big();
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request));
    let registries = Setup::new().build();
    assert_eq!(fetch(&registries, &server, &app, 0).unwrap(), app.layer);
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
    assert_eq!(server.requests()[0].range(), None);
    assert_eq!(fetch(&registries, &server, &app, 1000).unwrap(), app.layer[1000..]);
    assert_eq!(server.requests()[1].range(), Some(1000));
    let size = app.layer.len() as u64;
    assert_eq!(fetch(&registries, &server, &app, size).unwrap(), b"");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let app = big();
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request).cut(9_000));
    assert_eq!(fetch(&Setup::new().build(), &server, &app, 0).unwrap(), app.layer);
    let ranges: Vec<_> = server.requests().iter().map(|request| request.range().unwrap_or(0)).collect();
    assert!(ranges.is_sorted() && ranges.len() > 10, "{ranges:?}");
}

#[test]
fn a_transfer_that_makes_no_headway_fails() {
    let app = big();
    let content = serve(&app);
    let server = Server::start(move |request| {
        let stuck = request.range().is_some();
        content.answer(request).cut(if stuck { 0 } else { 9_000 })
    });
    assert!(fetch(&Setup::new().build(), &server, &app, 0).is_err());
    assert_eq!(server.lines().len(), 1 + 5);

    // One byte at a time is headway, but not for ever.
    let content = serve(&app);
    let dripping = Server::start(move |request| content.answer(request).cut(1));
    assert!(fetch(&Setup::new().build(), &dripping, &app, 0).is_err());
    assert!(dripping.lines().len() <= 102);
}

#[test]
fn a_server_that_cannot_resume_is_read_again_and_what_is_known_is_skipped() {
    for kind in 0..4 {
        let app = big();
        let content = serve(&app);
        let size = app.layer.len();
        let count = AtomicUsize::new(0);
        let server = Server::start(move |request| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            let path = request.path().to_owned();
            let (_, bytes) = &content.0[&path];
            match (request.range().filter(|_| kind > 0), kind) {
                _ if first => Response::new(200, bytes).cut(9_000),
                (Some(_), 1) => Response::new(416, b"").header("Content-Range", &format!("bytes */{size}")),
                // The wrong part.
                (Some(from), 2) => Response::new(206, &bytes[from + 1..])
                    .header("Content-Range", &format!("bytes {}-{}/{size}", from + 1, size - 1)),
                // Of another blob.
                (Some(from), _) => Response::new(206, &bytes[from..])
                    .header("Content-Range", &format!("bytes {from}-{}/{}", size - 1, size + 5)),
                (None, _) => Response::new(200, bytes),
            }
        });
        assert_eq!(fetch(&Setup::new().build(), &server, &app, 0).unwrap(), app.layer, "{kind}");
    }
}

#[test]
fn bodies_that_are_too_long_or_too_short_are_errors() {
    let app = big();
    let layer = app.layer.clone();
    for (change, words) in [(1_i64, "longer"), (-1, "bytes, its descriptor says")] {
        for unmeasured in [false, true] {
            let mut body = layer.clone();
            if change > 0 {
                body.push(b'x');
            } else {
                body.truncate(layer.len() - 1);
            }
            let server = Server::start(move |request| {
                let response = match request.range() {
                    // A server that has no more bytes than it sent.
                    Some(_) => return Response::new(416, b""),
                    None => Response::new(200, &body),
                };
                if unmeasured { response.unmeasured() } else { response }
            });
            let error = fetch(&Setup::new().build(), &server, &app, 0).unwrap_err();
            assert_eq!(error.kind(), "content-mismatch", "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[test]
fn a_stalled_transfer_is_resumed_and_given_up_in_the_end() {
    let app = big();
    let content = serve(&app);
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let answer = content.answer(request);
        if count.fetch_add(1, Ordering::SeqCst) == 0 { answer.stalling(5_000) } else { answer }
    });
    let setup = Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.2");
    assert_eq!(fetch(&setup.build(), &server, &app, 0).unwrap(), app.layer);

    let content = serve(&app);
    let dead = Server::start(move |request| content.answer(request).stalling(0));
    assert_eq!(fetch(&setup.build(), &dead, &app, 0).unwrap_err().kind(), "stalled");
    assert_eq!(dead.lines().len(), 6);
}

#[test]
fn a_slow_but_living_transfer_takes_as_long_as_it_needs() {
    use std::io::Write;
    let app = Image::new(&"x".repeat(10));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let layer = app.layer.clone();
    let dripping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", layer.len()).unwrap();
        for byte in layer {
            stream.write_all(&[byte]).unwrap();
            std::thread::sleep(SHORT / 2);
        }
    });
    let setup = Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.4");
    let reference = ImageRef::in_registry(&name, "team/app:1").unwrap();
    let mut bytes = Vec::new();
    let registries = setup.build();
    registries.blob(&reference, &app.layer_descriptor(), 0).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, app.layer);
    assert_eq!(registries.requests(), 1);
    dripping.join().unwrap();
}

#[test]
fn redirects_are_followed_without_credentials_and_headers() {
    let app = big();
    let content = serve(&app);
    let cdn = Server::start(move |request| content.answer(request));
    let target = cdn.other_name();
    let server = Server::start(move |request| match request.authorization() {
        None => Response::new(401, b"").header("WWW-Authenticate", "Basic realm=x"),
        Some(_) => Response::redirect(&format!("http://{target}{}?sig=secret", request.target)),
    });
    let setup = Setup::new().variable("PASSWORD", "hunter2").with(RegistrySettings {
        username: Some("me".to_owned()),
        password_env: Some("PASSWORD".to_owned()),
        headers: vec![("X-Team".to_owned(), "infra".to_owned())],
        ..settings(&server)
    });
    assert_eq!(fetch(&setup.build(), &server, &app, 100).unwrap(), app.layer[100..]);
    assert_eq!(server.requests()[1].header("x-team"), Some("infra"));
    let arrived = &cdn.requests()[0];
    assert_eq!((arrived.authorization(), arrived.header("x-team")), (None, None));
    assert_eq!(arrived.range(), Some(100));
    assert!(arrived.target.ends_with("?sig=secret"));
    assert!(!setup.ear.all().contains("secret"));
}

#[test]
fn redirects_that_loop_or_lead_nowhere_are_errors_without_their_query() {
    for to in ["/again?sig=secret", "ftp://x/?sig=secret", ""] {
        let server = Server::start(move |_| Response::redirect(to));
        let error = fetch(&Setup::new().build(), &server, &Image::new("x"), 0).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.kind() == "redirect" && !text.contains("secret"), "{text}");
        assert!(server.lines().len() <= 11);
    }
}

#[test]
fn a_mirror_that_breaks_in_the_middle_is_replaced() {
    let app = big();
    let content = serve(&app);
    let mirrored = content.clone();
    let server = Server::start(move |request| content.answer(request));
    let mirror = Server::start(move |request| match request.range() {
        None => mirrored.answer(request).cut(5_000),
        Some(_) => Response::new(500, b""),
    });
    let mirrors = vec![Mirror { url: format!("http://{}", mirror.name()), resolve: false }];
    let setup = Setup::new().with(RegistrySettings { mirrors, ..settings(&server) });
    let registries = setup.build();
    assert_eq!(fetch(&registries, &server, &app, 0).unwrap(), app.layer);
    assert!(server.requests()[0].range().is_some_and(|from| from > 0));

    let before = mirror.lines().len();
    registries.distrust_mirrors(&reference(&server), &app.layer_descriptor().digest).unwrap();
    assert_eq!(fetch(&registries, &server, &app, 0).unwrap(), app.layer);
    assert_eq!(mirror.lines().len(), before);
}

#[test]
fn a_body_is_taken_as_it_is_however_it_is_sent() {
    let app = big();
    let layer = app.layer.clone();
    let encoded = Server::start(move |_| Response::new(200, &layer).header("Content-Encoding", "gzip"));
    assert_eq!(fetch(&Setup::new().build(), &encoded, &app, 0).unwrap(), app.layer);

    let (first, rest) = app.layer.split_at(7);
    let mut chunks = Vec::new();
    for chunk in [first, rest, b""] {
        chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        chunks.extend([chunk, b"\r\n"].concat());
    }
    let chunked = Server::start(move |_| {
        Response::new(200, &chunks).header("Transfer-Encoding", "chunked").unmeasured()
    });
    assert_eq!(fetch(&Setup::new().build(), &chunked, &app, 0).unwrap(), app.layer);

    let layer = app.layer.clone();
    let closing = Server::start(move |_| Response::new(200, &layer).unmeasured());
    assert_eq!(fetch(&Setup::new().build(), &closing, &app, 0).unwrap(), app.layer);
}

#[test]
fn an_ipv6_address_is_a_registry() {
    let app = big();
    let content = serve(&app);
    let server = Server::at(std::net::Ipv6Addr::LOCALHOST.into(), move |request| content.answer(request));
    assert!(server.name().starts_with("[::1]:"));
    let registries = Setup::new().build();
    resolve(&registries, &reference(&server)).unwrap();
    assert_eq!(fetch(&registries, &server, &app, 0).unwrap(), app.layer);
    assert_eq!(server.requests()[0].header("host"), Some(server.name().as_str()));
}
