//! Signatures of the largest size that are none, of many small parts: what a parser likes least.

use super::*;
use crate::support::fake_registry::base64;
use crate::support::signing::{Signature, SignedImage, fixtures, list_in};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const LARGEST: usize = 4 << 20;

/// JSON of about `size` bytes that repeats `item`.
fn fill(start: &str, item: &str, end: &str, size: usize) -> String {
    let count = (size - start.len() - end.len() - 2) / (item.len() + 1);
    format!("{start}{}{item}{end}", format!("{item},").repeat(count - 1))
}

/// A bundle with this statement.
fn bundle_of(statement: &str) -> String {
    let payload = base64(statement.as_bytes());
    format!(
        r#"{{"mediaType":"{BUNDLE}","verificationMaterial":{{"publicKey":{{"hint":""}},"tlogEntries":[]}},"#
    ) + &format!(
        r#""dsseEnvelope":{{"payload":"{payload}","payloadType":"application/vnd.in-toto+json","signatures":[{{"sig":"AAAA"}}]}}}}"#
    )
}

/// Bundles that are large.
fn bundles() -> Vec<String> {
    let head = format!(r#"{{"mediaType":"{BUNDLE}""#);
    let material = format!(r#"{head},"verificationMaterial":{{"publicKey":{{"hint":""}},"tlogEntries":["#);
    let sign = r#"{"predicateType":"https://sigstore.dev/cosign/sign/v1","#;
    let statement =
        |list: &str, item: &str| bundle_of(&fill(&format!(r#"{sign}"{list}":["#), item, "]}", 3_140_000));
    vec![
        fill(&format!(r#"{head},"x":["#), "1", "]}", LARGEST),
        fill(&format!(r#"{head},"x":["#), r#"{"a":1}"#, "]}", LARGEST),
        fill(&format!(r#"{head},"dsseEnvelope":{{"signatures":["#), r#"{"sig":""}"#, "]}}", LARGEST),
        fill(&material, r#"{"logIndex":"1"}"#, "]}}", LARGEST),
        statement("subject", r#"{"digest":{}}"#),
        statement("predicate", r#"{"a":1}"#),
    ]
}

/// Manifests that are large: of many layers, and of many annotations.
fn manifests(small: &Signature) -> Vec<Signature> {
    let text = String::from_utf8(small.manifest.clone()).unwrap();
    let annotations: Vec<String> = (0..340_000).map(|number| format!("\"{number:x}\":\"\"")).collect();
    let annotations = format!("\"annotations\":{{{}}}", annotations.join(","));
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        small.with_manifest(text.replacen(from, to, 1).into_bytes())
    };
    let layers = text.split_once("\"layers\":[").unwrap().1.split_once(']').unwrap().0;
    vec![
        with(
            layers,
            &(layers.to_owned() + &fill(",", r#"{"digest":"","size":1}"#, "", LARGEST - 2 * text.len())),
        ),
        with("\"schemaVersion\"", &format!("{annotations},\"schemaVersion\"")),
        with("\"layers\":[{", &format!("\"layers\":[{{{annotations},")),
    ]
}

#[test]
fn hostile_signatures_of_the_largest_size_fit() {
    let image = SignedImage::new();
    let of = |blob: &String| Signature::of(&image.index, BUNDLE, blob.as_bytes());
    let mut signatures: Vec<Signature> = bundles().iter().map(of).collect();
    signatures.extend(manifests(&of(&"{}".to_owned())));
    for signature in &signatures {
        let largest = signature.blobs.values().map(Vec::len).chain([signature.manifest.len()]).max().unwrap();
        assert!((3 << 20..=LARGEST).contains(&largest), "{largest}");
    }
    let mut content = image.content.clone();
    list_in(&mut content, &image.index, &signatures);
    let sandbox = Sandbox::new();
    let registry = FakeRegistry::start(content);
    let key = fixtures().join("p256.pub");
    sandbox.images(&format!(
        "[settings]\nplatform = \"linux/amd64\"\n[[trust]]\nimages = [\"*\"]\nkey = {key:?}\n{}",
        wanted(&registry.name(), &["team/app:1"])
    ));
    let output = sandbox.measured("plan --json").timeout(Duration::from_secs(180)).run().code(1);
    output.assert_bounded(0);
    let plan = output.json();
    let message = plan["images"][0]["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!(" {} signatures", signatures.len())), "{message}");
}
