//! docker.io, ghcr.io and sandboxes.io by their real names: hosts, tokens, redirects and what is recorded.

use crate::support::check::{assert_exact, image, listed, wanted};
use crate::support::image::{BlobSet, Image, Layer, dir, file, noise};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::Tree;
use crate::support::world::{SIGNATURE, World};

fn sample(seed: u64) -> Image {
    Image::new(&[
        Layer::of(&[dir("d"), file("d/f", noise(seed, 20_000))]),
        Layer::of(&[file("x", noise(seed, 99))]),
    ])
}

#[track_caller]
fn apply(world: &World, sandbox: &Sandbox, arguments: &str) -> Output {
    world.seen_by(sandbox, sandbox.msb(arguments)).run()
}

#[test]
fn hub_and_ghcr_are_pulled_with_their_tokens_and_redirects() {
    let sandbox = Sandbox::in_memory();
    let world = World::start();
    world.hub(|content| *content = BlobSet::with("library/alpine:3", &sample(1)));
    world.hub(|content| {
        let other = content.image(&sample(2));
        content.tag("team/app:1", &other);
    });
    world.ghcr(|content| *content = BlobSet::with("github/tool:v7", &sample(3)));
    let hub = wanted("docker.io", &["alpine:3", "team/app:1"]);
    sandbox.images(&(hub + &wanted("ghcr.io", &["github/tool:v7"])));

    let output = apply(&world, &sandbox, "apply --json -vv").success();
    assert_eq!(output.summary()["added"], 3, "{output}");
    let images = listed(&sandbox);
    let blobs = world
        .hub(|hub| world.ghcr(|ghcr| [hub.blobs.clone(), ghcr.blobs.clone()].map(Vec::from_iter)))
        .concat();
    let blob = |digest: &str| blobs.iter().find(|(key, _)| key == digest).unwrap().1.to_vec();
    for reference in ["docker.io/library/alpine:3", "docker.io/team/app:1", "ghcr.io/github/tool:v7"] {
        assert_exact(image(&images, reference), &blob);
    }
    for exchange in world.log() {
        let (request, status) = (&exchange.request, exchange.status);
        assert!([200, 307, 401].contains(&status), "{} {} got {status}", request.host(), request.path);
        let tunnel = format!("{}:443", request.host());
        assert_eq!(request.tunnel.as_deref(), Some(tunnel.as_str()));
    }
    let text = format!("{output}");
    assert!(!text.contains("secret-token") && !text.contains(SIGNATURE), "a secret in\n{text}");

    let tokens = world.log().iter().filter(|exchange| exchange.request.path == "/token").count();
    assert_eq!(tokens, 3, "one token a repository");
    assert!(world.tunnels().iter().all(|tunnel| tunnel.starts_with("CONNECT ")));
    world.forget();
    let again = apply(&world, &sandbox, "apply --json").success();
    assert_eq!(again.summary()["unchanged"], 3, "{again}");
    for exchange in world.log() {
        let method = exchange.request.method.as_str();
        let what = format!("{method} {}", exchange.request.path);
        assert!(
            method == "HEAD" || exchange.request.path == "/token" || exchange.request.path == "/v2/",
            "{what}"
        );
    }
    let resolved = world
        .log()
        .into_iter()
        .filter(|exchange| exchange.status == 200 && exchange.request.method == "HEAD");
    assert_eq!(resolved.count(), 3, "one HEAD a tag");
}

#[test]
fn an_image_of_sandboxes_io_is_served_by_docker_hub_and_has_both_names() {
    let sandbox = Sandbox::in_memory();
    let world = World::start();
    world.hub(|content| *content = BlobSet::with("library/alpine:latest", &sample(1)));
    sandbox.images(&wanted("sandboxes.io", &["alpine:latest"]));
    apply(&world, &sandbox, "apply --json").success();
    let references = sandbox.program(
        "sqlite3",
        &[sandbox.home().join("oci.db").to_str().unwrap(), "SELECT reference FROM images ORDER BY reference"],
    );
    let references = references.run().success().stdout;
    assert_eq!(references, "docker.io/library/alpine:latest\nsandboxes.io/library/alpine:latest\n");
    assert!(world.log().iter().all(|exchange| !exchange.request.host().contains("sandboxes")));
    let before = Tree::snapshot(&sandbox.home());
    let again = apply(&world, &sandbox, "apply --json").success();
    assert_eq!(again.summary()["unchanged"], 1, "{again}");
    before.assert_matches(&Tree::snapshot(&sandbox.home()), "the home after a run with nothing to do");

    world.hub(|content| {
        let other = content.image(&sample(2));
        content.tag("someone/alpine:latest", &other);
    });
    sandbox.images(&wanted("sandboxes.io", &["someone/alpine:latest"]));
    let output = apply(&world, &sandbox, "plan").success();
    assert!(output.stderr.contains("warning") && output.stderr.contains("someone/alpine"), "{output}");
}

#[test]
fn no_proxy_is_obeyed() {
    use crate::support::fake_registry::FakeRegistry;
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &sample(1)));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let nowhere = "http://127.0.0.1:1";
    let run = sandbox.msb("apply --json").env("HTTPS_PROXY", nowhere).env("HTTP_PROXY", nowhere);
    let output = run.env("NO_PROXY", "127.0.0.1").run().success();
    assert_eq!(output.summary()["added"], 1, "{output}");
}
