//! Questions that many tests ask of a finished run: what the catalog lists, and whether the store holds it.

use serde_json::Value;

use super::sandbox::{Output, Sandbox};
use super::sha256;
use super::tree::{Tree, unpack};

/// An images file that wants these of one registry; an item that starts with `{` is taken as a table.
pub(crate) fn wanted(registry: &str, images: &[&str]) -> String {
    let quote =
        |image: &&str| if image.starts_with('{') { (*image).to_owned() } else { format!("{image:?}") };
    let images: Vec<String> = images.iter().map(quote).collect();
    format!("[registry.{registry:?}]\nimages = [{}]\n", images.join(", "))
}

/// `list --json`'s images.
#[track_caller]
pub(crate) fn listed(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.msb("list --json").run().success().json()["images"].as_array().unwrap().clone()
}

/// Applies the images file and returns the run, which must succeed.
#[track_caller]
pub(crate) fn applied(sandbox: &Sandbox) -> Output {
    sandbox.msb("apply --json").run().success()
}

/// The entry of this reference.
#[track_caller]
pub(crate) fn image<'a>(images: &'a [Value], reference: &str) -> &'a Value {
    let all: Vec<&str> = images.iter().filter_map(|image| image["reference"].as_str()).collect();
    let found = images.iter().find(|image| image["reference"] == reference);
    found.unwrap_or_else(|| panic!("{reference} is not among {all:?}"))
}

/// The event of this reference among those of `apply --json`.
#[track_caller]
pub(crate) fn event(output: &Output, reference: &str) -> Value {
    let events = output.json_lines();
    let found = events.iter().find(|event| event["event"] == "image" && event["reference"] == reference);
    found.unwrap_or_else(|| panic!("no event of {reference}\n{output}")).clone()
}

/// Fails unless a listed image agrees with its manifest and config, and each of its layer directories with the
/// layer's tar, entry for entry. `blob` gives the bytes of a digest, as the registry has them.
#[track_caller]
pub(crate) fn assert_exact(listed: &Value, blob: &dyn Fn(&str) -> Vec<u8>) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text in {listed:#}")).to_owned();
    let manifest = blob(&text(&listed["manifest_digest"]));
    assert_eq!(sha256(&manifest), text(&listed["manifest_digest"]));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(listed["config_digest"], manifest["config"]["digest"], "{listed:#}");
    // Labels may have bytes that are no text.
    let config = blob(&text(&listed["config_digest"]));
    let config: Value = serde_json::from_str(&String::from_utf8_lossy(&config)).unwrap();
    let layers = listed["layers"].as_array().unwrap();
    let described = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), described.len(), "{listed:#}");
    for (number, (layer, described)) in layers.iter().zip(described).enumerate() {
        assert_eq!(layer["digest"], described["digest"]);
        assert_eq!(layer["size"], described["size"]);
        assert_eq!(layer["diff_id"], config["rootfs"]["diff_ids"][number]);
        let digest = text(&layer["digest"]);
        let path = text(&layer["path"]);
        assert!(path.ends_with(&format!("/{digest}.extracted")), "{path}");
        let expected = Tree::expected(&unpack(&blob(&digest)));
        expected
            .assert_matches(&Tree::of(path.as_ref()), &format!("layer {number} of {}", listed["reference"]));
    }
}
