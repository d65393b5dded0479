//! How few requests a run costs, how many at once, and who waits for whom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::check::{applied, event, wanted};
use crate::support::fake_registry::{Auth, FakeRegistry, Fault};
use crate::support::http::{Front, Request};
use crate::support::image::{BlobSet, Image, Layer, file, noise};
use crate::support::sandbox::Sandbox;

/// A layer of one file of `size` bytes that no compression shrinks.
pub(crate) fn layer(seed: u64, size: usize) -> Layer {
    Layer::of(&[file("f", noise(seed, size))])
}

/// `METHOD path` of all requests, `/v2/` included, without the digests.
fn lines(registry: &FakeRegistry) -> Vec<String> {
    let line = |request: &Request| {
        let path = request.path.split("sha256:").next().unwrap();
        format!("{} {path}{}", request.method, if path == request.path { "" } else { "DIGEST" })
    };
    registry.log().iter().map(|exchange| line(&exchange.request)).collect()
}

/// An image of two layers, in an index with one for another platform.
fn indexed() -> BlobSet {
    let mut content = BlobSet::default();
    let here = content.image(&Image::new(&[layer(1, 3_000), layer(2, 200)]));
    let elsewhere = content.image(&Image::new(&[layer(3, 10)]).platform("linux/s390x"));
    let index = content.index(false, &[elsewhere, here]);
    content.tag("team/app:1", &index);
    content
}

#[test]
fn a_first_apply_costs_the_fewest_requests_and_a_second_one_head_a_tag() {
    let image = [
        "GET /v2/team/app/manifests/1",
        "GET /v2/team/app/manifests/DIGEST",
        "GET /v2/team/app/blobs/DIGEST",
        "GET /v2/team/app/blobs/DIGEST",
        "GET /v2/team/app/blobs/DIGEST",
    ];
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(indexed());
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let output = applied(&sandbox);
    assert_eq!(lines(&registry), image);
    assert_eq!(output.summary()["requests"], 5, "{output}");
    registry.forget();
    let again = applied(&sandbox);
    assert_eq!(lines(&registry), ["HEAD /v2/team/app/manifests/1"]);
    assert_eq!(again.summary()["requests"], 1, "{again}");

    // What a token costs: the question who asks, once, and the token. Nobody probes /v2/.
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::with(indexed(), Front::Plain, Auth::Bearer { user: None });
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    let asked = ["GET /v2/team/app/manifests/1", "GET /token"];
    assert_eq!(lines(&registry), [&asked[..], &image].concat());
    registry.forget();
    applied(&sandbox);
    let head = "HEAD /v2/team/app/manifests/1";
    assert_eq!(lines(&registry), [head, "GET /token", head]);
}

#[test]
fn one_token_serves_all_threads_of_a_repository() {
    let sandbox = Sandbox::in_memory();
    let layers: Vec<Layer> = (0..16).map(|seed| layer(seed, 500)).collect();
    let mut content = BlobSet::with("team/app:1", &Image::new(&layers));
    let other = content.image(&Image::new(&layers[..3]));
    content.tag("team/app:2", &other);
    let registry = FakeRegistry::with(content, Front::Plain, Auth::Bearer { user: None });
    let images = wanted(&registry.name(), &["team/app:1", "team/app:2"]);
    sandbox.images(&format!("[settings]\ndownloads = 8\n{images}"));
    applied(&sandbox);
    let count = |wanted: &str| lines(&registry).iter().filter(|line| *line == wanted).count();
    assert_eq!(count("GET /token"), 1);
    assert_eq!(count("GET /v2/team/app/blobs/DIGEST"), 18, "each blob once: 16 layers, 2 configs");
    let refused = registry.log().iter().filter(|exchange| exchange.status == 401).count();
    assert!(refused <= 2, "at most one a lookup that began without: {refused}");
}

#[test]
fn two_hundred_tags_are_asked_over_the_configured_connections() {
    let sandbox = Sandbox::in_memory();
    let mut content = BlobSet::default();
    let image = content.image(&Image::new(&[layer(1, 100)]));
    let names: Vec<String> = (0..200).map(|number| format!("team/app:{number}")).collect();
    for name in &names {
        content.tag(name, &image);
    }
    let registry = FakeRegistry::start(content);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&format!("[settings]\ndownloads = 3\n{}", wanted(&registry.name(), &names)));
    applied(&sandbox);
    let first = registry.connections();
    assert!(first <= 3, "{first} connections");
    registry.forget();
    let again = applied(&sandbox);
    assert_eq!(again.summary()["unchanged"], 200, "{again}");
    assert!(registry.connections() - first <= 3, "{} connections", registry.connections() - first);
    let lines = lines(&registry);
    assert!(
        lines.len() == 200 && lines.iter().all(|line| line.starts_with("HEAD ")),
        "{} {lines:?}",
        lines.len()
    );
}

#[test]
fn a_head_that_is_refused_or_says_nothing_costs_one_get() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(indexed());
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    applied(&sandbox);
    let silent = Fault::default().header("Docker-Content-Digest", "");
    for fault in [Fault::status(405), Fault::status(403), Fault::status(501), silent] {
        registry.behave();
        registry.forget();
        registry.on(move |request| (request.method == "HEAD").then(|| fault.clone()));
        let output = applied(&sandbox);
        assert_eq!(output.summary()["unchanged"], 1, "{output}");
        assert_eq!(lines(&registry), ["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1"]);
    }
}

/// A registry of `count` images of one layer each, of `size` bytes.
pub(crate) fn registry_of(
    count: u64,
    size: usize,
    seed: u64,
) -> (FakeRegistry, Vec<String>, BTreeSet<String>) {
    let mut content = BlobSet::default();
    let mut names = Vec::new();
    let mut layers = BTreeSet::new();
    for number in 0..count {
        let layer = layer(seed + number, size);
        layers.insert(crate::support::sha256(&layer.blob));
        let image = content.image(&Image::new(&[layer]));
        names.push(format!("team/app{number}:1"));
        content.tag(&names[names.len() - 1], &image);
    }
    (FakeRegistry::start(content), names, layers)
}

/// Holds back the answers of `slow` to what `what` says, until `fast` was asked for `count` such things. Whether
/// that ever happened is in what is returned.
fn stall_until(
    slow: &FakeRegistry,
    fast: &FakeRegistry,
    count: usize,
    what: impl Fn(&Request) -> bool + Clone + Send + 'static,
) -> Arc<AtomicBool> {
    let seen = Arc::new(AtomicUsize::new(0));
    let gave_up = Arc::new(AtomicBool::new(false));
    let (noting, of_fast) = (Arc::clone(&seen), what.clone());
    fast.on(move |request| {
        noting.fetch_add(usize::from(of_fast(request)), Ordering::SeqCst);
        None
    });
    let flag = Arc::clone(&gave_up);
    slow.on(move |request| {
        let start = Instant::now();
        while what(request) && seen.load(Ordering::SeqCst) < count && !flag.load(Ordering::SeqCst) {
            if start.elapsed() > Duration::from_secs(20) {
                flag.store(true, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    });
    gave_up
}

fn both(slow: (&FakeRegistry, &[String]), fast: (&FakeRegistry, &[String]), downloads: usize) -> String {
    let part = |(registry, names): (&FakeRegistry, &[String])| {
        wanted(&registry.name(), &names.iter().map(String::as_str).collect::<Vec<_>>())
    };
    format!("[settings]\ndownloads = {downloads}\n{}{}", part(slow), part(fast))
}

#[test]
fn a_slow_registry_does_not_hold_back_the_downloads_from_others() {
    let sandbox = Sandbox::in_memory();
    // The slow one's layers are the bigger ones, which come first.
    let (slow, slow_names, big) = registry_of(6, 9_000, 100);
    let (fast, fast_names, small) = registry_of(8, 500, 200);
    let layers: Arc<BTreeSet<String>> = Arc::new(big.into_iter().chain(small).collect());
    let is_layer = move |request: &Request| {
        request.path.rsplit('/').next().is_some_and(|digest| layers.contains(digest))
    };
    let gave_up = stall_until(&slow, &fast, 8, is_layer);
    sandbox.images(&both((&slow, &slow_names), (&fast, &fast_names), 4));
    let output = applied(&sandbox);
    assert!(!gave_up.load(Ordering::SeqCst), "the slow registry's layers took all the threads\n{output}");
    assert_eq!(output.summary()["added"], 14, "{output}");
}

#[test]
fn a_slow_registry_does_not_hold_back_the_lookups_of_others() {
    let sandbox = Sandbox::in_memory();
    let mut registries = [registry_of(8, 100, 100), registry_of(8, 100, 200)];
    // Lookups go by name: the slow one comes first.
    registries.sort_by_key(|(registry, ..)| registry.name());
    let [(slow, slow_names, _), (fast, fast_names, _)] = registries;
    let gave_up = stall_until(&slow, &fast, 8, |request| request.path.contains("/manifests/"));
    sandbox.images(&both((&slow, &slow_names), (&fast, &fast_names), 4));
    let output = applied(&sandbox);
    assert!(!gave_up.load(Ordering::SeqCst), "the slow registry's lookups took all the threads\n{output}");
}

#[test]
fn a_registry_that_is_down_is_tried_as_often_as_one_image_deserves() {
    let sandbox = Sandbox::in_memory();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (fast, fast_names, _) = registry_of(2, 100, 1);
    let names: Vec<String> = (0..40).map(|number| format!("team/app{number}:1")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fast_names: Vec<&str> = fast_names.iter().map(String::as_str).collect();
    sandbox.images(&format!(
        "[settings]\ndownloads = 2\n{}{}",
        wanted(&down, &names),
        wanted(&fast.name(), &fast_names)
    ));
    let output = sandbox.msb("apply --json -v").run().code(1);
    assert_eq!(
        (&output.summary()["added"], &output.summary()["failed"]),
        (&2.into(), &40.into()),
        "{output}"
    );
    let again = output.stderr.matches("trying again in").count();
    // Two lookups may have been under way when it was found out.
    assert!((5..=10).contains(&again), "{again} times\n{output}");
    let last = event(&output, &format!("{down}/team/app39:1"));
    assert_eq!(last["error"]["kind"], "unreachable", "{output}");
}

#[test]
fn a_run_that_needs_more_pulls_than_are_left_is_warned_of() {
    let sandbox = Sandbox::in_memory();
    let (hub, names, _) = registry_of(8, 100, 1);
    hub.on(|request| {
        let limited = request.path.contains("/manifests/");
        limited.then(|| {
            Fault::default()
                .header("RateLimit-Limit", "100;w=21600")
                .header("RateLimit-Remaining", "3;w=21600")
        })
    });
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&format!("[settings]\ndownloads = 1\n{}", wanted(&hub.name(), &names)));
    let plan = sandbox.msb("plan -v").run().success();
    let said = "3 of 100 pulls are left, and this run needs at least 7 more";
    assert_eq!(plan.stderr.matches(said).count(), 1, "{plan}");
    assert_eq!(plan.stderr.matches("3 of 100 pulls left").count(), 1, "told when it changes: {plan}");
}

#[test]
fn tags_that_moved_are_all_known_before_the_first_is_fetched() {
    let sandbox = Sandbox::in_memory();
    let (hub, names, _) = registry_of(8, 100, 1);
    let wanted_names: Vec<&str> = names.iter().map(String::as_str).collect();
    sandbox.images(&format!("[settings]\ndownloads = 1\n{}", wanted(&hub.name(), &wanted_names)));
    applied(&sandbox);
    let (next, ..) = registry_of(6, 100, 900);
    let moved = next.edit(|content| content.clone());
    hub.edit(|content| {
        content.blobs.extend(moved.blobs);
        content.types.extend(moved.types);
        content.tags.extend(moved.tags);
    });
    hub.on(|request| {
        let limited = request.path.contains("/manifests/");
        limited.then(|| Fault::default().header("RateLimit-Remaining", "3;w=21600"))
    });
    hub.forget();
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(plan.json()["changes"], 6, "{plan}");
    assert_eq!(plan.stderr.matches("3 pulls are left, and this run needs at least").count(), 1, "{plan}");
    let lines = lines(&hub);
    let manifests: Vec<&String> = lines.iter().filter(|line| line.contains("/manifests/")).collect();
    assert_eq!(manifests.len(), 8 + 6, "{manifests:#?}");
    assert!(manifests[..8].iter().all(|line| line.starts_with("HEAD ")), "{manifests:#?}");
}
