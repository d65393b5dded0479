//! Signatures for machines: who signed an image, by what proof, and who is believed.

use jiff::Timestamp;
use msb_sync::progress::SignatureReport;
use msb_sync::state::{Evidence, SigstoreAnchor, TrustStatus};
use msb_sync::sync::TrustRoot;
use serde_json::{Value, json};

use super::{VERSION, path};

/// The object `trust` of an image.
pub(super) fn signatures(report: &SignatureReport) -> Value {
    json!({
        "status": report.status,
        "by": report.by,
        "issuer": report.issuer,
        "at": report.at.and_then(time),
        "rule": report.rule,
    })
}

/// The state of a recorded image's signatures, by the `proof` that holds.
pub(super) fn of_proof(proof: Option<&Evidence>) -> SignatureReport {
    proof.map_or_else(|| TrustStatus::NotAsked.report(), Evidence::report)
}

/// One proof, with its signatures.
pub(super) fn evidence(proof: &Evidence) -> Value {
    let signatures = proof.candidates.iter().map(|candidate| {
        json!({
            "digest": candidate.digest,
            "subject": candidate.subject,
            "place": candidate.place.as_str(),
        })
    });
    json!({
        "form": proof.form,
        "by": proof.by,
        "issuer": proof.issuer,
        "at": proof.at.and_then(time),
        "until": proof.until.and_then(time),
        "rule": proof.rule,
        "fingerprint": proof.judged_by,
        "digest": proof.digest,
        "manifest_digest": proof.manifest,
        "signatures": signatures.collect::<Vec<_>>(),
    })
}

/// The document of `trust-root`.
pub(crate) fn root(root: &TrustRoot) -> Value {
    json!({
        "version": VERSION,
        "source": root.file.as_deref().map_or_else(|| "built-in".to_owned(), path),
        "date": root.root.built_in_date,
        "digest": root.root.digest,
        "believed": root.root.anchors.iter().map(anchor).collect::<Vec<_>>(),
    })
}

fn anchor(anchor: &SigstoreAnchor) -> Value {
    json!({
        "kind": anchor.kind.as_str(),
        "url": anchor.url,
        "id": anchor.id,
        "subject": anchor.subject,
        "from": anchor.start.and_then(time),
        "until": anchor.end.and_then(time),
    })
}

/// A time in RFC 3339; `None` where it is beyond all dates.
fn time(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}
