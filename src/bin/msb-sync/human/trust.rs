//! Signatures for people: who signed an image, why none of its signatures will do, and who is
//! believed.

use std::fmt::Write as _;

use jiff::Timestamp;
use msb_sync::error::{Error, SignatureError};
use msb_sync::progress::SignatureReport;
use msb_sync::state::{Evidence, SigstoreAnchor};
use msb_sync::sync::TrustRoot;

use super::View;
use crate::paint;
use crate::table::table;
use crate::text::{count, printable};

/// Says in a few words who signed an image, or that nobody had to.
pub(super) fn signatures(report: &SignatureReport) -> Option<String> {
    match (report.status, &report.by, &report.rule) {
        ("verified", Some(by), _) => Some(format!("signed by {by}")),
        ("unsigned", None, Some(rule)) => Some(format!("unsigned, accepted by {rule}")),
        _ => None,
    }
}

/// The refusal of an image's signatures, if `error` is one.
pub(super) fn refusal(error: Option<&Error>) -> Option<&SignatureError> {
    match error {
        Some(Error::Signature(error)) => Some(error),
        _ => None,
    }
}

/// The details of a refusal, in lines that begin with `indent`: what was found and expected, and
/// each reason on lines of its own.
pub(super) fn details(error: &SignatureError, indent: &str, view: View) -> String {
    let mut out = view.paragraph(&error.summary(), indent, indent);
    out.push_str(&reasons(error, indent, view));
    if let Some(hint) = error.hint() {
        out.push_str(&view.paragraph(&format!("hint: {hint}"), indent, indent));
    }
    out
}

/// The reasons of a refusal, each on lines of its own.
pub(super) fn reasons(error: &SignatureError, indent: &str, view: View) -> String {
    let next = format!("{indent}  ");
    let findings = error.findings().iter();
    findings.map(|finding| view.paragraph(&format!("- {finding}"), indent, &next)).collect()
}

/// The proofs of an image, for `inspect` at `now`: a fact of lines each.
pub(super) fn proof(proof: &Evidence, now: Timestamp) -> Vec<String> {
    let mut lines = vec![proof.by.clone()];
    let at = proof.at.and_then(|at| Timestamp::from_second(at).ok());
    let at = at.map_or_else(String::new, |at| format!(", {at}"));
    lines.push(format!("{}{at}", proof.form));
    let until = proof.until.filter(|_| !proof.holds(now.as_second()));
    let until = until.and_then(|until| Timestamp::from_second(until).ok());
    lines.extend(until.map(|until| format!("it does not hold any more, since {until}")));
    lines.extend(proof.issuer.as_ref().map(|issuer| format!("issuer {issuer}")));
    lines.push(format!("rule {}, fingerprint {}", proof.rule, proof.judged_by));
    lines.extend(proof.candidates.iter().map(|candidate| format!("signature {}", candidate.digest)));
    lines
}

/// The keys and certificates that are believed, as `trust-root` prints them.
pub(crate) fn trust_root(root: &TrustRoot, view: View) -> String {
    let source = match (&root.file, &root.root.built_in_date) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(date)) => format!("the built-in one of {date}"),
        (None, None) => "the built-in one".to_owned(),
    };
    let mut out = format!("{}: {}\n", paint::bold("Trusted root"), printable(&source, false));
    let _ = writeln!(out, "{}\n", root.root.digest);
    let head = ["BELIEVED", "WHO", "FROM", "UNTIL", "ID"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(root.root.anchors.iter().map(row)).collect();
    for row in table(&rows, "  ", view.room) {
        let _ = writeln!(out, "{row}");
    }
    let _ = writeln!(
        out,
        "\n{}.",
        count(root.root.anchors.len() as u64, "key or certificate", "keys and certificates")
    );
    out
}

fn row(anchor: &SigstoreAnchor) -> Vec<String> {
    let day = |at: Option<i64>| {
        let at = at.and_then(|at| Timestamp::from_second(at).ok());
        at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
    };
    let id = anchor.id.get(..16).map_or_else(|| anchor.id.clone(), |start| format!("{start}…"));
    let who = match (&anchor.subject, anchor.url.is_empty()) {
        (Some(subject), true) => subject.clone(),
        _ => anchor.url.clone(),
    };
    vec![anchor.kind.as_str().to_owned(), who, day(anchor.start), day(anchor.end), id]
}

/// The version, and the date of the root that is built in, as `--version -v` prints them.
pub(crate) fn version() -> String {
    format!(
        "msb-sync {}\nSigstore's trusted root, built in: {}\n",
        crate::args::VERSION,
        msb_sync::sync::built_in_root_date()
    )
}
