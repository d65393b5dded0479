//! Registries on a bad day: a HEAD that never works, tokens that wear out, answers that ask to wait for an hour,
//! documents with one wrong bit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::check::{applied, event, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault, error, serve};
use crate::support::http::{Front, Request, Response, Server};
use crate::support::image::{BlobSet, Descriptor, Image, Layer, file, noise};
use crate::support::sandbox::Sandbox;

/// `team/app:1`, in an index.
fn content(seed: &str) -> BlobSet {
    let mut content = BlobSet::default();
    add(&mut content, "team/app:1", seed);
    content
}

fn add(content: &mut BlobSet, name: &str, seed: &str) -> Descriptor {
    let image = content.image(&Image::new(&[Layer::of(&[file("name", seed)])]));
    let index = content.index(false, std::slice::from_ref(&image));
    content.tag(name, &index);
    image
}

fn is_document(request: &Request) -> bool {
    request.path.contains("/manifests/")
}

#[test]
fn a_head_that_always_fails_is_made_up_for_by_a_get() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content("one"));
    let tags: Vec<String> = (1..=8).map(|number| format!("team/app:{number}")).collect();
    registry.edit(|content| tags.iter().for_each(|tag| drop(add(content, tag, "one"))));
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    sandbox.images(&wanted(&registry.name(), &tags));
    applied(&sandbox);

    for fault in
        [Fault::status(500), Fault::status(503), Fault { shape: Fault::cut(0).shape, ..Fault::default() }]
    {
        registry.behave();
        registry.forget();
        registry.on(move |request| (request.method == "HEAD").then(|| fault.clone()));
        let output = applied(&sandbox);
        assert_eq!(output.summary()["unchanged"], 8, "{output}");
        let heads = registry.requests().iter().filter(|line| line.starts_with("HEAD ")).count();
        assert!(heads <= 20, "{heads} times HEAD, which is no use");
    }

    registry.behave();
    registry.on(|request| (request.method == "HEAD").then(|| Fault::status(500)));
    registry.edit(|content| drop(add(content, "team/app:3", "three")));
    let output = applied(&sandbox);
    let moved = event(&output, &format!("{}/team/app:3", registry.name()));
    assert_eq!(moved["action"], "update", "{output}");

    // A registry that answers nothing else is asked as often as ever, and its failure is told.
    registry.behave();
    registry.forget();
    registry.on(|request| is_document(request).then(|| Fault::status(500)));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    sandbox.msb("apply").run().code(1).says("scripted failure (HTTP 500 from 127.0.0.1");
    let gets = registry.requests().iter().filter(|line| line.starts_with("GET ")).count();
    assert!(gets >= 5, "{gets}");
}

/// A registry whose tokens are good for `uses` requests each.
fn worn_out(content: BlobSet, uses: usize) -> (Server, Arc<Mutex<Vec<usize>>>) {
    let issued: Arc<Mutex<Vec<usize>>> = Arc::default();
    let tokens = Arc::clone(&issued);
    let handler = move |request: &Request| {
        let mut tokens = tokens.lock().unwrap();
        if request.path == "/token" {
            tokens.push(0);
            let body = format!(r#"{{"token":"number-{}","expires_in":3600}}"#, tokens.len() - 1);
            return Response::new(200, "application/json", body);
        }
        let given = request.header("authorization").and_then(|text| text.strip_prefix("Bearer number-"));
        let used = given.and_then(|number| tokens.get_mut(number.parse::<usize>().ok()?));
        if let Some(used) = used.filter(|used| **used < uses) {
            *used += 1;
            drop(tokens);
            return serve(&content, request);
        }
        error(401, "UNAUTHORIZED", "authentication required").header(
            "WWW-Authenticate",
            r#"Bearer realm="/token",service="s",scope="repository:team/app:pull""#,
        )
    };
    (Server::start(Front::Plain, Arc::new(handler)), issued)
}

#[test]
fn tokens_that_wear_out_between_threads_refuse_nobody() {
    let layers: Vec<Layer> = (0..32).map(|seed| Layer::of(&[file("f", noise(seed, 20_000))])).collect();
    for uses in [1, 3] {
        let sandbox = Sandbox::in_memory();
        let (server, _) = worn_out(BlobSet::with("team/app:1", &Image::new(&layers)), uses);
        sandbox.images(&format!("[settings]\ndownloads = 16\n{}", wanted(&server.name(), &["team/app:1"])));
        applied(&sandbox);
    }
    // A token that is refused although nobody else has had it proves that the credentials are at fault.
    let sandbox = Sandbox::in_memory();
    let (server, issued) = worn_out(BlobSet::with("team/app:1", &Image::new(&layers[..1])), 0);
    sandbox.images(&wanted(&server.name(), &["team/app:1"]));
    sandbox.msb("apply").run().code(1).says("HTTP 401");
    assert_eq!(issued.lock().unwrap().len(), 1);
}

#[test]
fn who_asks_for_more_than_a_minute_fails_its_image_at_once() {
    let registry = FakeRegistry::start(content("one"));
    registry.edit(|content| drop(add(content, "team/other:1", "other")));
    for (status, path) in
        [(429, "team/app/manifests/"), (503, "team/app/manifests/"), (503, "team/app/blobs/")]
    {
        let sandbox = Sandbox::in_memory();
        sandbox.images(&wanted(&registry.name(), &["team/app:1", "team/other:1"]));
        registry.behave();
        registry.forget();
        let fault = Fault::status(status).header("Retry-After", "3600");
        registry.on(move |request| request.path.contains(path).then(|| fault.clone()));
        let before = jiff::Timestamp::now().as_second();
        let output = sandbox.msb("apply").run().code(1);
        let asked = registry.requests().iter().filter(|line| line.contains(path)).count();
        assert_eq!(asked, 1, "asked once more\n{output}");
        let until = output.stderr.split("until ").nth(1).unwrap_or_else(|| panic!("until when?\n{output}"));
        let until: jiff::Timestamp =
            until.split_whitespace().next().unwrap().trim_end_matches([',', ')']).parse().unwrap();
        let wait = until.as_second() - before;
        assert!((3600..3700).contains(&wait), "in {wait} s\n{output}");
        let output = sandbox.msb("list").run().success();
        assert!(output.stdout.contains("team/other:1"), "{output}");
    }
    // Date and time as the header may have them too.
    registry.behave();
    let date = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2);
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    registry.on(move |_| Some(Fault::status(429).header("Retry-After", &date)));
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    sandbox.msb("apply").run().code(1).says("until ");
}

#[test]
fn watch_leaves_alone_who_asks_for_it_and_goes_on_with_the_others() {
    let registry = FakeRegistry::start(content("one"));
    registry.edit(|content| drop(add(content, "team/other:1", "0")));
    registry.on(|request| {
        let hit = request.path.contains("team/app/manifests/");
        hit.then(|| Fault::status(429).header("Retry-After", "3600"))
    });
    let sandbox = Sandbox::in_memory();
    let images = wanted(&registry.name(), &["team/app:1", "team/other:1"]);
    sandbox.images(&format!("[settings]\ninterval = \"1s\"\n{images}"));
    let watching = sandbox.msb("watch").timeout(Duration::from_secs(240)).spawn();
    for layers in 1..=3 {
        eventually("the other image is here", Duration::from_secs(60), || {
            sandbox.extracted().len() >= layers
        });
        registry.edit(|content| drop(add(content, "team/other:1", &layers.to_string())));
    }
    let asked = || registry.requests().iter().filter(|line| line.contains("team/app/manifests/")).count();
    assert_eq!(asked(), 1);
    // Who asks by hand wants an answer.
    watching.signal(Signal::HUP);
    eventually("it is asked again", Duration::from_secs(60), || asked() == 2);
}

#[test]
fn a_document_with_a_wrong_bit_is_fetched_again() {
    let registry = FakeRegistry::start(content("one"));
    let manifest = registry.edit(|content| add(content, "team/app:1", "one"));
    let config = registry.edit(|content| {
        let manifest: serde_json::Value = serde_json::from_slice(&content.blobs[manifest.digest()]).unwrap();
        manifest["config"]["digest"].as_str().unwrap().to_owned()
    });
    for part in ["/manifests/1", manifest.digest(), &config] {
        let sandbox = Sandbox::in_memory();
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        registry.behave();
        registry.forget();
        registry.fail(1, part, &Fault::corrupt());
        applied(&sandbox);
        let asked = registry.requests().iter().filter(|line| line.contains(part)).count();
        assert_eq!(asked, 2, "{part}");

        // Always wrong: an error, after a few tries.
        let sandbox = Sandbox::in_memory();
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        registry.forget();
        registry.fail(usize::MAX, part, &Fault::corrupt());
        sandbox.msb("apply").run().code(1).says("is not what was asked for");
        let asked = registry.requests().iter().filter(|line| line.contains(part)).count();
        assert!((2..=6).contains(&asked), "{part}: {asked} times");
    }
}

#[test]
fn a_mirror_that_damages_documents_is_not_believed_again() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content("one"));
    let mirror = FakeRegistry::start(content("one"));
    mirror.fail(usize::MAX, "/manifests/", &Fault::corrupt());
    let images = wanted(&registry.name(), &["team/app:1"]);
    sandbox.images(&format!("{images}mirrors = [{:?}]\n", mirror.url()));
    applied(&sandbox);
    let of = |registry: &FakeRegistry| {
        registry
            .requests()
            .into_iter()
            .filter(|line| line.starts_with("GET") && line.contains("/manifests/"))
            .count()
    };
    assert_eq!(
        (of(&mirror), of(&registry)),
        (2, 2),
        "each document once from the mirror, then from its registry"
    );
}
