//! Image layout directories as tools write them: which image a reference means by the names in `index.json`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::check::{applied, image, listed, wanted};
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Descriptor, Image, Layer, OCI_INDEX, file};
use crate::support::sandbox::Sandbox;
use crate::support::tool;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Three images, and blobs for all of them.
fn content() -> (BlobSet, [Descriptor; 3]) {
    let mut content = BlobSet::default();
    let images = ["a", "b", "c"].map(|name| content.image(&Image::new(&[Layer::of(&[file("name", name)])])));
    (content, images)
}

/// A layout with these entries, whatever they are called.
fn layout(directory: &Path, content: &BlobSet, entries: &[(&Descriptor, &[(&str, &str)])]) {
    content.write_layout(directory, &[]);
    let entry = |(descriptor, names): &(&Descriptor, &[(&str, &str)])| {
        let named = (*descriptor).clone();
        names.iter().fold(named, |named, (key, value)| named.annotated(key, value)).json
    };
    let manifests: Vec<Value> = entries.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

/// As `docker save` and `ctr images export` name an image.
fn saved(name: &'static str) -> [(&'static str, &'static str); 2] {
    [(CONTAINERD_NAME, name), (REF_NAME, name.rsplit_once(':').unwrap().1)]
}

fn table(registry: &str, images: &[&str]) -> String {
    format!("{}layout = \"saved\"\n", wanted(registry, images))
}

#[track_caller]
fn has(sandbox: &Sandbox, reference: &str, descriptor: &Descriptor) {
    assert_eq!(image(&listed(sandbox), reference)["manifest_digest"], descriptor.digest(), "{reference}");
}

#[test]
fn two_repositories_with_one_tag_are_two_images() {
    let (content, [a, b, c]) = content();
    for (registry, names) in [
        ("docker.io", ["docker.io/team/a:latest", "docker.io/team/b:latest", "docker.io/library/c:latest"]),
        (
            "vendored.local",
            ["docker.io/team/a:latest", "docker.io/team/b:latest", "docker.io/library/c:latest"],
        ),
        ("vendored.local", ["localhost/team/a:latest", "localhost/team/b:latest", "localhost/c:latest"]),
        ("ghcr.io", ["GHCR.io/team/a:latest", "ghcr.io/team/b:latest", "ghcr.io/c:latest"]),
    ] {
        let sandbox = Sandbox::in_memory();
        let [one, two, three] = names.map(saved);
        layout(&sandbox.work().join("saved"), &content, &[(&a, &one), (&b, &two), (&c, &three)]);
        sandbox.images(&table(registry, &["team/a:latest", "team/b:latest", "c:latest"]));
        applied(&sandbox);
        has(&sandbox, &format!("{registry}/team/a:latest"), &a);
        has(&sandbox, &format!("{registry}/team/b:latest"), &b);
        let library = if registry == "docker.io" { "library/" } else { "" };
        has(&sandbox, &format!("{registry}/{library}c:latest"), &c);
    }
}

#[test]
fn an_image_that_is_not_there_is_not_another_one_with_its_tag() {
    let (content, [_, b, c]) = content();
    let full = [(REF_NAME, "docker.io/team/b:latest")];
    let short = [(REF_NAME, "team/b:latest")];
    for (registry, names) in [
        ("vendored.local", &saved("docker.io/team/b:latest")[..]),
        ("docker.io", &saved("docker.io/team/b:latest")),
        ("vendored.local", &full),
        ("vendored.local", &short),
        // The names of a real registry are not those of another one.
        ("docker.io", &saved("quay.io/team/a:latest")),
    ] {
        let sandbox = Sandbox::in_memory();
        layout(&sandbox.work().join("saved"), &content, &[(&b, names)]);
        sandbox.images(&table(registry, &["team/a:latest"]));
        let error = sandbox.msb("apply").run().code(1);
        assert!(error.stderr.contains("index.json names only "), "{error}");
        assert!(error.stderr.contains(names[0].1), "{error}");
        assert_eq!(sandbox.extracted(), [] as [&str; 0]);
        sandbox.images(&table(registry, &["{ name = \"team/a\", tags = { newest = 1 } }"]));
        sandbox.msb("apply").run().code(1);
    }
    // One name for two images is no name, wherever they come from.
    let sandbox = Sandbox::in_memory();
    let [one, two] = [saved("docker.io/team/a:latest"), saved("quay.io/team/a:latest")];
    layout(&sandbox.work().join("saved"), &content, &[(&b, &one), (&c, &two)]);
    sandbox.images(&table("vendored.local", &["team/a:latest"]));
    sandbox.msb("apply").run().code(1).says("2 different images have this name");
    sandbox.images(&table("quay.io", &["team/a:latest"]));
    applied(&sandbox);
    has(&sandbox, "quay.io/team/a:latest", &c);
}

#[test]
fn what_tools_write_is_found_by_its_names() {
    let (mut content, [a, b, _]) = content();
    content.tag("team/a:latest", &a);
    content.tag("team/b:latest", &b);
    let registry = FakeRegistry::start(content);
    let sandbox = Sandbox::in_memory();
    let saved = sandbox.work().join("saved");
    for name in ["team/a:latest", "team/b:latest"] {
        let from = format!("docker://{}/{name}", registry.name());
        let to = format!("oci:{}:docker.io/{name}", saved.display());
        let arguments = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &from, &to];
        tool(sandbox.root(), "skopeo", &arguments);
    }
    let (root, run) = (sandbox.root().join("storage"), sandbox.root().join("run"));
    let storage =
        ["--storage-driver", "vfs", "--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
    let buildah = |arguments: &[&str]| tool(sandbox.root(), "buildah", &[&storage[..], arguments].concat());
    let container = String::from_utf8(buildah(&["from", "scratch"])).unwrap();
    let to = format!("oci:{}:team/built:latest", saved.display());
    buildah(&["commit", "-q", container.trim(), &to]);
    sandbox.images(&table("vendored.local", &["team/a:latest", "team/b:latest", "team/built:latest"]));
    applied(&sandbox);
    has(&sandbox, "vendored.local/team/a:latest", &a);
    has(&sandbox, "vendored.local/team/b:latest", &b);
    sandbox.images(&table("vendored.local", &["team/c:latest"]));
    sandbox
        .msb("apply")
        .run()
        .code(1)
        .says("index.json names only docker.io/team/a:latest, docker.io/team/b:latest, team/built:latest");
}
