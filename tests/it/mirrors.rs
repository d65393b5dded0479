//! Mirrors that containerd's hosts files name, behaving as those of a fleet do: Spegel, which has what its peers
//! have and answers 404 for the rest, and Dragonfly, which fetches through.

use crate::support::check::{assert_exact, image, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;

/// A hosts file of the fleet example, whose addresses are replaced by those of this test.
fn example(name: &str, addresses: &[(&str, String)]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fleet/certs.d/");
    let mut text = std::fs::read_to_string(format!("{path}{name}/hosts.toml")).unwrap();
    for (address, own) in addresses {
        assert!(text.contains(&format!("\"{address}\"")), "the example does not name {address}");
        text = text.replace(&format!("\"{address}\""), &format!("\"{own}\""));
    }
    text
}

fn content(seed: &str) -> BlobSet {
    let mut content = BlobSet::default();
    let image = content.image(&Image::new(&[Layer::of(&[file("name", seed)])]));
    content.tags.insert("team/app:1".to_owned(), image.digest().to_owned());
    content
}

/// An images file that wants `team/app:1` of `registry`, and a hosts file for it.
fn fleet(sandbox: &Sandbox, registry: &FakeRegistry, hosts: &str) {
    sandbox.write(&format!("certs.d/{}/hosts.toml", registry.name()), hosts);
    let images = wanted(&registry.name(), &["team/app:1"]);
    sandbox.images(&format!("[settings]\nhosts-dir = \"certs.d\"\n{images}"));
}

/// Answers 404 to whoever does not say for which registry he asks.
fn needs_namespace(mirror: &FakeRegistry, registry: &FakeRegistry) {
    let name = registry.name();
    mirror.on(move |request| {
        (request.parameter("ns").as_deref() != Some(name.as_str())).then(|| Fault::status(404))
    });
}

#[test]
fn spegel_serves_what_peers_have_and_the_registry_the_rest() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content("one"));
    let spegel = FakeRegistry::start(content("one"));
    needs_namespace(&spegel, &registry);
    // `_default`, so that no file names the registry.
    let hosts = example("_default", &[("http://127.0.0.1:30020", spegel.url())]);
    sandbox.write("certs.d/_default/hosts.toml", hosts);
    let images = wanted(&registry.name(), &["team/app:1"]);
    sandbox.images(&format!("[settings]\nhosts-dir = \"certs.d\"\n{images}"));
    sandbox.msb("apply").run().success();
    assert_eq!(registry.requests(), [] as [&str; 0], "the peers had all of it");

    // No peer has the new image: each of them says so, and the registry serves it.
    spegel.edit(|content| *content = BlobSet::default());
    registry.edit(|old| *old = content("two"));
    sandbox.msb("apply").run().success();
    assert!(registry.requests().iter().any(|request| request.contains("/blobs/")));
    let plan = sandbox.msb("plan --json").run().success();
    assert_eq!(plan.json()["changes"], 0, "{plan}");
}

#[test]
fn dragonfly_fetches_through_and_gets_its_header() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content("one"));
    let dragonfly = FakeRegistry::start(content("one"));
    let upstream = registry.url();
    let expected = upstream.clone();
    dragonfly.on(move |request| {
        (request.header("x-dragonfly-registry") != Some(expected.as_str())).then(|| Fault::status(400))
    });
    let hosts =
        example("ghcr.io", &[("http://127.0.0.1:4001", dragonfly.url()), ("https://ghcr.io", upstream)]);
    fleet(&sandbox, &registry, &hosts);
    sandbox.msb("apply").run().success();
    assert_eq!(registry.requests(), ["HEAD /v2/team/app/manifests/1"], "only what the tag means");
    assert!(dragonfly.requests().iter().any(|request| request.contains("/blobs/")));

    // Its peer is down: the registry itself has all there is.
    drop(dragonfly);
    registry.edit(|old| *old = content("two"));
    let output = sandbox.msb("apply -v").run().success();
    assert!(registry.requests().iter().any(|request| request.contains("/blobs/")), "{output}");
    assert!(output.stderr.contains("mirror http://127.0.0.1"), "a line with -v\n{output}");
}

#[test]
fn a_hosts_file_that_is_broken_blocks_its_registry_and_is_named() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content("one"));
    fleet(&sandbox, &registry, "server = \"https://a\"\nx");
    sandbox.msb("apply").run().code(1).says("hosts.toml:2: ");
    assert_eq!(registry.requests(), [] as [&str; 0]);
}

#[test]
fn a_mirror_that_is_down_stalls_breaks_lacks_or_lies_costs_a_line_and_not_the_image() {
    let all = [
        Some(Fault::corrupt()),
        Some(Fault::stall(10)),
        Some(Fault::cut(10)),
        Some(Fault::reset(10)),
        Some(Fault::status(500)),
        Some(Fault::status(404)),
        Some(Fault { body: Some(b"short".to_vec()), ..Fault::default() }),
        None,
    ];
    for fault in all {
        let sandbox = Sandbox::in_memory();
        let registry = FakeRegistry::start(content("one"));
        let mirror = FakeRegistry::start(content("one"));
        let images = wanted(&registry.name(), &["team/app:1"]);
        sandbox.images(&format!("{images}mirrors = [\"{}\"]\n", mirror.url()));
        let shown = format!("{fault:?}");
        match fault {
            Some(fault) => mirror.on(move |request| request.path.contains("/blobs/").then(|| fault.clone())),
            None => drop(mirror),
        }
        let output = sandbox.msb("apply -v").env("MSB_SYNC_STALL_TIMEOUT", "0.2").run().success();
        assert!(output.stderr.contains("mirror http://127.0.0.1"), "{shown}: no line\n{output}");
        let blobs = registry.edit(|content| content.blobs.clone());
        let images = listed(&sandbox);
        let reference = format!("{}/team/app:1", registry.name());
        assert_exact(image(&images, &reference), &|digest| blobs[digest].to_vec());
        assert!(!output.stderr.contains("error:"), "{shown}\n{output}");
    }
}
