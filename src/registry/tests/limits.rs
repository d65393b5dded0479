//! The limits of a registry, and those that it meets: waits it asks for, pulls it counts, outages,
//! and patience that ends.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

fn in_repository(server: &Server, repository: &str) -> ImageRef {
    ImageRef::in_registry(&server.name(), &format!("{repository}:1")).unwrap()
}

#[test]
fn a_wait_that_is_too_long_is_told_and_not_made() {
    let server = Server::start(|_| Response::new(429, b"").header("Retry-After", "7200"));
    let before = std::time::SystemTime::now();
    let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
    assert_eq!(server.lines().len(), 1);
    assert!(error.retry_at().unwrap() >= before + Duration::from_secs(7200));
    assert!(error.to_string().contains("; it asks to be left alone until 2"), "{error}");
    for (after, words) in [("9999999999", "until 23"), ("99999999999999999999", "for thousands of years")] {
        let server = Server::start(move |_| Response::new(429, b"").header("Retry-After", after));
        let error = resolve(&Setup::new().build(), &reference(&server)).unwrap_err();
        assert!(error.to_string().contains(&format!("left alone {words}")), "{error}");
    }

    // The longest one that is made.
    let server = Server::start(|_| Response::new(429, b"").header("Retry-After", "60"));
    let setup = Setup::new();
    let registries = setup.build();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| resolve(&registries, &reference(&server)));
        while !setup.ear.all().contains("trying again") {
            assert!(!asking.is_finished());
            std::thread::yield_now();
        }
        setup.cancel.cancel();
    });
    let heard = setup.ear.all();
    let line = heard.lines().find(|line| line.starts_with("warning: ")).unwrap_or_default();
    assert!(line.contains("/manifests/1: too many requests (HTTP 429 from"), "{heard}");
    assert!(heard.contains("; it asks to wait 60 s; trying again in 60.0 s"), "{heard}");
}

#[test]
fn who_asks_to_be_left_alone_is_in_the_next_run_too() {
    let content = serve(&Image::new("layer"));
    let server = Server::start(move |request| match request.path() {
        "/v2/team/app/manifests/1" => Response::new(429, b"").header("Retry-After", "3600"),
        _ => content.answer(request),
    });
    let setup = Setup::new();
    let first = resolve(&setup.build(), &reference(&server)).unwrap_err();
    let second = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert_eq!(first.to_string(), second.to_string());
    assert_eq!(first.retry_at(), second.retry_at());
    let other = ImageRef::in_registry(&server.name(), "team/app:2").unwrap();
    assert_eq!(resolve(&setup.build(), &other).unwrap_err().kind(), "not-found");
    assert_eq!(server.lines(), ["GET /v2/team/app/manifests/1", "GET /v2/team/app/manifests/2"]);
    setup.rests.forget();
    resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert_eq!(server.lines().len(), 3);
}

/// All that a layer's reader gives, or its error.
fn fetch(registries: &Registries, server: &Server, app: &Image) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = registries.blob(&reference(server), &app.layer_descriptor(), 0);
    reader.map_err(std::io::Error::other)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn who_begins_anew_has_no_fresh_patience() {
    let app = Image::new(&"0123456789".repeat(1_000));
    let content = serve(&app);
    let server = Server::start(move |request| content.answer(request).cut(1));
    let registries = Setup::new().build();
    assert!(fetch(&registries, &server, &app).is_err());
    let spent = server.lines().len();
    assert!((100..=102).contains(&spent), "{spent}");
    assert!(fetch(&registries, &server, &app).is_err());
    assert_eq!(server.lines().len(), spent + 1);
}

#[test]
fn a_server_that_cannot_resume_is_not_read_again_and_again() {
    let app = Image::new(&"0123456789 ".repeat(10_000));
    let layer = app.layer.clone();
    let count = AtomicUsize::new(0);
    // Each answer gets a little further: there is headway, bought dearly.
    let server = Server::start(move |_| {
        let count = count.fetch_add(1, Ordering::SeqCst) + 1;
        Response::new(200, &layer).cut(5_000 * count)
    });
    assert!(fetch(&Setup::new().build(), &server, &app).is_err());
    assert_eq!(server.lines().len(), 7, "one, and six more from the start");
}

/// A registry of many repositories that allows `limit` pulls, counts them as Docker Hub does, and
/// says so.
fn counting(app: &Image, limit: usize) -> Server {
    let mut content = Content::default();
    for number in 0..10 {
        app.serve(&mut content, &format!("team/app{number}"), "1");
    }
    let pulls = AtomicUsize::new(0);
    Server::start(move |request| {
        let answer = content.answer(request);
        if !request.path().contains("/manifests/") {
            return answer;
        }
        let pulls = pulls.fetch_add(usize::from(request.method == "GET"), Ordering::SeqCst);
        let left = limit - (pulls + usize::from(request.method == "GET")).min(limit);
        answer
            .header("RateLimit-Limit", &format!("{limit};w=21600"))
            .header("RateLimit-Remaining", &format!("{left};w=21600"))
    })
}

#[test]
fn a_run_that_needs_more_pulls_than_are_left_says_so_before_they_are_used_up() {
    let app = Image::new("layer");
    for (limit, images, warning) in
        [(3, 6, Some("2 of 3 pulls are left, and this run needs at least 5 more")), (6, 6, None)]
    {
        let server = counting(&app, limit);
        let setup = Setup::new();
        let registries = setup.build();
        let references: Vec<ImageRef> =
            (0..images).map(|number| in_repository(&server, &format!("team/app{number}"))).collect();
        for reference in &references {
            registries.announce(reference, None);
        }
        for (done, reference) in references.iter().enumerate() {
            resolve(&registries, reference).unwrap();
            let heard = setup.ear.all();
            assert_eq!(
                heard.matches("warning: ").count(),
                usize::from(warning.is_some()),
                "after {done}: {heard}"
            );
        }
        let heard = setup.ear.all();
        if let Some(warning) = warning {
            let expected = format!("warning: {}: {warning}", server.name());
            assert!(heard.contains(&expected) && heard.contains("which it does every 6 h"), "{heard}");
        }
        assert!(heard.contains(&format!("{}: 2 of {limit} pulls left", server.name())), "{heard}");
    }
}

#[test]
fn a_known_tag_needs_a_pull_only_if_it_moved() {
    let app = Image::new("layer");
    let server = counting(&app, 0);
    let setup = Setup::new();
    let registries = setup.build();
    let check = |number: usize, known: &BlobDigest| {
        registries.check(&in_repository(&server, &format!("team/app{number}")), known).unwrap()
    };
    // Two have moved, and are not fetched yet; at a third answer the first of them is one too many.
    let old = sha256(b"old");
    assert_eq!(check(0, &app.digest()), Meaning::Same);
    for number in 1..3 {
        assert!(!setup.ear.all().contains("needs at least 2"), "{}", setup.ear.all());
        assert_eq!(check(number, &old), Meaning::Digest(app.digest()));
    }
    let heard = setup.ear.all();
    assert!(heard.contains("0 of 0 pulls are left, and this run needs at least 1 more"), "{heard}");
    let reference = in_repository(&server, "team/app1");
    let found = registries.fetch(&reference, &amd64(), &old, &Meaning::Digest(app.digest())).unwrap();
    assert_eq!(image(found).digest, app.digest());
    assert_eq!(
        server.lines().iter().filter(|line| line.starts_with("GET")).count(),
        2,
        "manifest and config"
    );
}

#[test]
fn where_nobody_listens_the_next_lookups_fail_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    drop(listener);
    let setup = Setup::new();
    let registries = setup.build();
    for repository in ["one", "two", "three"] {
        let reference = ImageRef::in_registry(&name, &format!("team/{repository}:1")).unwrap();
        let error = resolve(&registries, &reference).unwrap_err();
        assert_eq!(error.to_string(), format!("connection refused by http://{name}"));
        assert!(registries.tags(&reference).is_err());
    }
    assert_eq!(registries.requests(), 6);
}

#[test]
fn a_registry_that_says_nothing_is_tried_once_more_each_time_until_it_answers() {
    let app = Image::new("layer");
    let content = serve(&app);
    let silent = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&silent);
    let server = Server::start(move |request| {
        let answer = content.answer(request);
        if switch.load(Ordering::SeqCst) { answer.stalling(0) } else { answer }
    });
    let setup = Setup::new().variable("MSB_SYNC_STALL_TIMEOUT", "0.1");
    let registries = setup.build();
    let ask = || {
        let before = registries.requests();
        let error = resolve(&registries, &reference(&server)).map(|_| ()).map_err(|error| error.kind());
        (error, registries.requests() - before)
    };
    assert_eq!([ask(), ask(), ask()], [(Err("stalled"), 6), (Err("stalled"), 1), (Err("stalled"), 1)]);
    silent.store(false, Ordering::SeqCst);
    // Its one try may be too slow on a busy machine; it gets another one each time.
    assert!((0..50).any(|_| ask().0.is_ok()));
    silent.store(true, Ordering::SeqCst);
    assert_eq!(ask(), (Err("stalled"), 6), "an answer gives it all its tries back");
}

#[test]
fn where_a_redirect_leads_to_nobody_the_registry_itself_is_not_down() {
    let app = Image::new("layer");
    let content = serve(&app);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start(move |request| {
        if request.path().contains("/blobs/") {
            Response::redirect(&format!("http://{nobody}{}", request.target))
        } else {
            content.answer(request)
        }
    });
    let registries = Setup::new().build();
    assert_eq!(resolve(&registries, &reference(&server)).unwrap_err().kind(), "unreachable");
    let lookup = registries.resolve(&reference(&server), &amd64(), Some(&app.digest())).unwrap();
    assert!(matches!(lookup, Lookup::Same));
}

#[test]
fn a_length_that_is_a_lie_reserves_no_memory() {
    let server =
        Server::start(|_| Response::new(200, b"{}").header("Content-Length", "4000000000000").cut(2));
    let mut setup = Setup::new();
    setup.limits.manifest_size = 8 << 40;
    let error = resolve(&setup.build(), &reference(&server)).unwrap_err();
    assert!(error.to_string().contains("closed too early"), "{error}");
}

/// An image whose manifest takes 3 MiB, and differs from others by `number`.
fn large(number: usize) -> (Image, Vec<u8>) {
    let app = Image::new(&format!("layer {number}"));
    let manifest = [&app.manifest[..], &vec![b' '; 3 << 20]].concat();
    (app, manifest)
}

#[test]
fn large_documents_that_come_at_once_are_all_served() {
    let mut content = Content::default();
    for number in 0..8 {
        let (app, manifest) = large(number);
        app.serve(&mut content, "team/app", "small");
        content.manifest("team/app", &number.to_string(), OCI_MANIFEST, &manifest);
    }
    let server = Server::start(move |request| {
        let answer = content.answer(request);
        let is_odd = request.path().ends_with(['1', '3', '5', '7']);
        if is_odd && request.path().contains("/manifests/") { answer.unmeasured() } else { answer }
    });
    let registries = Setup::new().build();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (registries, name) = (&registries, server.name());
            scope.spawn(move || {
                let reference = ImageRef::in_registry(&name, &format!("team/app:{number}")).unwrap();
                assert_eq!(resolve(registries, &reference).unwrap().digest, sha256(&large(number).1));
            });
        }
    });
    for number in 0..8 {
        let tag = format!("/manifests/{number}");
        let asked = server.lines().iter().filter(|line| line.ends_with(&tag)).count();
        assert!((1..=2).contains(&asked), "{number}: {asked}");
    }
}

#[test]
fn a_registry_that_goes_silent_within_documents_holds_no_other_one_up() {
    let content_of = |(app, manifest): (Image, Vec<u8>)| {
        let mut content = serve(&app);
        content.manifest("team/app", "1", OCI_MANIFEST, &manifest);
        content
    };
    let (silent, other) = (content_of(large(1)), content_of(large(2)));
    let silent = Server::start(move |request| silent.answer(request).stalling(1 << 20));
    let other = Server::start(move |request| other.answer(request));
    let setup = Setup::new();
    let registries = setup.build();
    std::thread::scope(|scope| {
        let ask = || scope.spawn(|| resolve(&registries, &reference(&silent)).unwrap_err().kind());
        let asked = [ask(), ask(), ask()];
        while silent.lines().len() < asked.len() {
            std::thread::yield_now();
        }
        assert_eq!(resolve(&registries, &reference(&other)).unwrap().digest, sha256(&large(2).1));
        setup.cancel.cancel();
        for asked in asked {
            assert_eq!(asked.join().unwrap(), "stopped");
        }
    });
}
