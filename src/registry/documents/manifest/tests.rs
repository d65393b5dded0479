//! Documents as servers send them, good and bad.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::digest::Algorithm;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[test]
fn images_are_asked_for_in_both_dialects() {
    assert_eq!(
        *ACCEPT,
        "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
         application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    );
    for (media_type, expected) in [
        ("application/vnd.oci.image.layer.v1.tar", true),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", true),
        ("application/vnd.docker.image.rootfs.diff.tar", true),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", true),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
        ("application/vnd.docker.image.rootfs.diff.tar+gzip", false),
        ("application/vnd.oci.image.layer.v1.tar.gzip", false),
        ("", false),
    ] {
        assert_eq!(is_layer(media_type), expected, "{media_type}");
    }
}

fn digest(text: &str) -> String {
    BlobDigest::of(Algorithm::Sha256, text.as_bytes()).to_string()
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest("c"), "size": 2},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest("1"), "size": 10,
             "urls": ["http://evil/"]},
            {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest("2"), "size": 20},
        ]
    })
}

fn parsed(value: &Value, content_type: Option<&str>) -> Result<Manifest, String> {
    match parse(value.to_string().as_bytes(), content_type)? {
        Parsed::Manifest(manifest) => Ok(manifest),
        Parsed::Index(_) => Err("an index".to_owned()),
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut document = manifest();
    *document.pointer_mut(pointer).unwrap() = value;
    document
}

#[test]
fn an_image_manifest_is_read_whatever_a_careless_server_calls_it() {
    for content_type in
        [None, Some(OCI_MANIFEST), Some("application/json; charset=utf-8"), Some("text/plain")]
    {
        assert_eq!(parsed(&manifest(), content_type).unwrap().layers.len(), 2);
    }
    let unnamed = with("/mediaType", Value::Null);
    assert_eq!(parsed(&unnamed, Some(DOCKER_MANIFEST)).unwrap().media_type, DOCKER_MANIFEST);
    assert_eq!(parsed(&unnamed, None).unwrap().media_type, OCI_MANIFEST);
}

#[test]
fn documents_that_could_be_read_in_two_ways_are_refused() {
    let mut both = manifest();
    both["manifests"] = json!([]);
    assert!(parsed(&both, None).unwrap_err().contains("both `manifests` and `layers`"));
    assert!(parsed(&manifest(), Some(OCI_INDEX)).unwrap_err().contains("served as"));
    assert!(parsed(&manifest(), Some(DOCKER_MANIFEST)).unwrap_err().contains("served as"));
    assert!(parsed(&with("/mediaType", json!(OCI_INDEX)), None).unwrap_err().contains("it has `layers`"));
    assert!(
        parsed(&with("/mediaType", Value::Null), Some(OCI_INDEX)).unwrap_err().contains("it has `layers`")
    );
    let twice = manifest().to_string().replacen('{', r#"{"layers":[],"#, 1);
    assert!(parse(twice.as_bytes(), None).unwrap_err().contains("duplicate field"));
}

#[test]
fn what_is_no_image_is_refused() {
    let refused = |document: Value, words: &str| {
        let error = parsed(&document, None).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(with("/schemaVersion", json!(1)), "schema 1");
    for other in ["application/vnd.cncf.helm.config.v1+json", "application/vnd.docker.plugin.v1+json"] {
        refused(with("/config/mediaType", json!(other)), "no container image");
    }
    for odd in ["application/octet-stream", "application/json", "text/html; charset=utf-8", "", "x"] {
        assert!(parsed(&with("/config/mediaType", json!(odd)), None).is_ok(), "{odd}");
    }
    assert!(parsed(&with("/config/mediaType", Value::Null), None).is_ok());
    refused(with("/layers/0/mediaType", json!("application/vnd.in-toto+json")), "no file system layer");
    refused(
        with("/layers/0/mediaType", json!("application/vnd.oci.image.layer.v1.tar+encrypted")),
        "no file system layer",
    );
    refused(with("/layers/0/size", json!(-1)), "impossible");
    refused(with("/layers/0/size", json!(u64::MAX)), "impossible");
    refused(with("/layers/0/size", json!(1.5)), "impossible");
    refused(with("/layers/0/digest", json!("sha256:../../etc")), "digest");
    refused(with("/layers/0", Value::Null), "not what it should be");
    refused(with("/layers", json!({})), "not what it should be");
    refused(with("/layers", Value::Null), "neither");
    refused(with("/config", Value::Null), "no `config`");
    refused(with("/layers/1/digest", json!(digest("1"))), "two sizes");
    let layer = manifest()["layers"][0].clone();
    refused(with("/layers", json!(vec![layer; MAX_LAYERS + 1])), "more than");
    assert!(parse(b"<html>", Some("text/plain")).unwrap_err().contains("not JSON"));
    assert!(parse(b"{}", Some("text/html")).unwrap_err().contains("media type"));
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(parse(deep.as_bytes(), None).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, None);
    }

    #[test]
    fn damaged_documents_are_read_without_panic(at in 0_usize..400, byte in any::<u8>()) {
        let mut bytes = manifest().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse(&bytes, Some(OCI_MANIFEST));
    }
}
