//! `/status.json`: the state of a watch for scripts. `docs/watch.md` describes the keys.
//!
//! The document is written piece by piece while the client reads, so that one of very many images
//! takes no memory of its own.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::{Change, Failure, ImageState, ImageStatus, Reason, RunStatus, Status};
use crate::progress::Waiting;

/// Within it, keys are only added.
const VERSION: u32 = 1;
/// Images in one piece of the document.
const PIECE: usize = 100;

/// The document about one status.
pub(super) struct Document {
    status: Arc<Status>,
    trouble: Option<String>,
    now: Timestamp,
    /// The number of the next piece: the head, then the images, then the end.
    next: usize,
}

impl Document {
    /// The document about `status`, which is in sync unless there is `trouble`.
    pub(super) fn new(status: Arc<Status>, trouble: Option<String>, now: Timestamp) -> Self {
        Self { status, trouble, now, next: 0 }
    }

    /// The beginning, up to the images.
    fn head(&self) -> String {
        let status = &self.status;
        let counts: Map<String, Value> = ImageState::ALL
            .into_iter()
            .map(|state| (state.as_str().to_owned(), json!(status.count(state))))
            .collect();
        let head = json!({
            "version": VERSION,
            "time": self.now.to_string(),
            "msb_sync": env!("CARGO_PKG_VERSION"),
            "file": status.file,
            "in_sync": self.trouble.is_none(),
            "trouble": self.trouble,
            "since": status.since.to_string(),
            "interval_ms": milliseconds(status.interval),
            "running": status.running.as_ref().map(|running| json!({
                "since": running.since.to_string(),
                "reasons": reasons(&running.reasons),
            })),
            "next": status.next.map(|(next, _)| next.to_string()),
            "next_reason": status.next.map(|(_, reason)| reason),
            "counts": counts,
        });
        let head = head.to_string();
        format!("{},\"images\":[", head.strip_suffix('}').unwrap_or(&head))
    }
}

impl Iterator for Document {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let piece = self.next;
        self.next += 1;
        if piece == 0 {
            return Some(self.head());
        }
        let images = &self.status.images;
        let (pieces, begin) = (images.len().div_ceil(PIECE), (piece - 1) * PIECE);
        if piece <= pieces {
            let end = images.len().min(begin + PIECE);
            let texts: Vec<String> =
                images[begin..end].iter().map(|status| image(status).to_string()).collect();
            return Some(format!("{}{}", if piece > 1 { "," } else { "" }, texts.join(",")));
        }
        (piece == pieces + 1).then(|| {
            let runs: Vec<Value> = self.status.runs.iter().map(|status| run(status)).collect();
            let new_tags: Vec<Value> = self.status.new_tags.iter().map(new_tag).collect();
            format!("],\"new_tags\":{},\"runs\":{}}}\n", json!(new_tags), json!(runs))
        })
    }
}

fn image(image: &ImageStatus) -> Value {
    let signatures = &image.signatures;
    let engines: Map<String, Value> =
        image.engines.iter().map(|(engine, state)| (engine.to_string(), json!(state.as_str()))).collect();
    json!({
        "reference": image.reference,
        "platform": image.platform,
        "state": image.state.as_str(),
        "digest": image.digest,
        "wanted": image.wanted,
        "layers": image.layers,
        "size": image.size,
        "created": image.created.map(|time| time.to_string()),
        "recorded": image.recorded.map(|time| time.to_string()),
        "engines": engines,
        "trust": {
            "status": signatures.status,
            "by": signatures.by,
            "issuer": signatures.issuer,
            "at": signatures.at.and_then(|at| Timestamp::from_second(at).ok()).map(|at| at.to_string()),
            "rule": signatures.rule,
        },
        "chosen_by": image.chosen_by,
        "held_since": image.held.map(|since| since.to_string()),
        "candidate": image.waiting.as_ref().map(candidate),
        "staged": image.staged,
        "error": image.failure.as_ref().map(failure),
    })
}

/// A new digest that is not taken yet.
fn candidate(Waiting { digest, since, until }: &Waiting) -> Value {
    json!({ "digest": digest, "since": since.to_string(), "until": until.to_string() })
}

/// A tag that a selection would choose, were it not new.
fn new_tag((tag, waiting): &(String, Waiting)) -> Value {
    let mut value = candidate(waiting);
    value["reference"] = json!(tag);
    value
}

fn failure(failure: &Failure) -> Value {
    json!({ "kind": failure.kind, "message": failure.message, "hint": failure.hint })
}

fn run(run: &RunStatus) -> Value {
    json!({
        "ended": run.ended.to_string(),
        "duration_ms": milliseconds(run.elapsed),
        "reasons": reasons(&run.reasons),
        "result": run.verdict.result,
        "summary": run.verdict.summary,
        "hint": run.verdict.hint,
        "changes": run.changes.iter().map(change).collect::<Vec<_>>(),
        "more_changes": run.more_changes,
        "downloaded_bytes": run.downloaded_bytes,
        "repeats": run.repeats,
    })
}

fn change(change: &Change) -> Value {
    let engines: Map<String, Value> =
        change.engines.iter().map(|(engine, action)| (engine.to_string(), json!(action))).collect();
    json!({
        "reference": change.reference,
        "action": change.action,
        "from": change.from,
        "to": change.to,
        "engines": engines,
    })
}

fn reasons(reasons: &[Reason]) -> Vec<Value> {
    reasons.iter().map(|reason| json!({ "reason": reason.word, "detail": reason.text })).collect()
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, BlobDigest};
    use crate::state::TrustStatus;

    fn status(images: usize) -> Arc<Status> {
        let now = "2026-11-29T14:00:00Z".parse().unwrap();
        let mut status = Status::new("/\"images\".toml".to_owned(), std::time::Duration::from_secs(300), now);
        let image = |number: usize| ImageStatus {
            reference: format!("a.io/b:{number}"),
            platform: None,
            state: ImageState::Failed,
            digest: Some(BlobDigest::of(Algorithm::Sha256, b"")),
            wanted: None,
            layers: 1,
            size: 10,
            created: Some(now),
            recorded: None,
            engines: Vec::new(),
            signatures: TrustStatus::NotAsked.report(),
            held: None,
            waiting: None,
            staged: false,
            chosen_by: None,
            failure: Some(Failure { kind: "io", message: "\"\n\\".to_owned(), hint: None }),
        };
        status.images = (0..images).map(image).collect();
        Arc::new(status)
    }

    #[test]
    fn the_document_is_one_however_many_images_there_are() {
        for count in [0, 1, 99, 100, 101, 200, 10_000] {
            let pieces: Vec<String> = Document::new(status(count), None, Timestamp::UNIX_EPOCH).collect();
            assert!(pieces.iter().all(|piece| piece.len() < 100_000), "a piece is large");
            let value: Value = serde_json::from_str(&pieces.concat()).unwrap();
            assert_eq!(value["images"].as_array().unwrap().len(), count);
            assert_eq!((&value["version"], &value["in_sync"]), (&json!(1), &json!(true)));
            assert_eq!(value["counts"]["failed"], count);
            assert_eq!((&value["file"], &value["runs"]), (&json!("/\"images\".toml"), &json!([])));
        }
        let failed = Document::new(status(1), Some("x".to_owned()), Timestamp::UNIX_EPOCH);
        let value: Value = serde_json::from_str(&failed.collect::<String>()).unwrap();
        assert_eq!((&value["in_sync"], &value["trouble"]), (&json!(false), &json!("x")));
        assert_eq!(value["images"][0]["error"]["message"], "\"\n\\");
        assert_eq!(value["images"][0]["created"], "2026-11-29T14:00:00Z");
        assert_eq!(value["time"], "1970-01-01T00:00:00Z");
    }
}
