//! Signatures for people: who signed an image, and why none of its signatures will do.

use jiff::Timestamp;
use msb_sync::error::{Error, SignatureError};
use msb_sync::progress::SignatureReport;
use msb_sync::state::Evidence;

use crate::text::wrapped;

/// The columns that every terminal has.
const WIDTH: usize = 80;

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
pub(super) fn details(error: &SignatureError, indent: &str) -> String {
    let mut out = wrapped(&error.summary(), indent, indent, WIDTH);
    out.push_str(&reasons(error, indent));
    if let Some(hint) = error.hint() {
        out.push_str(&wrapped(&format!("hint: {hint}"), indent, indent, WIDTH));
    }
    out
}

/// The reasons of a refusal, each on lines of its own.
pub(super) fn reasons(error: &SignatureError, indent: &str) -> String {
    let next = format!("{indent}  ");
    let findings = error.findings().iter();
    findings.map(|finding| wrapped(&format!("- {finding}"), indent, &next, WIDTH)).collect()
}

/// The proofs of an image, for `inspect`: a fact of lines each.
pub(super) fn proof(proof: &Evidence) -> Vec<String> {
    let mut lines = vec![proof.by.clone()];
    let at = proof.at.and_then(|at| Timestamp::from_second(at).ok());
    let at = at.map_or_else(String::new, |at| format!(", {at}"));
    lines.push(format!("{}{at}", proof.form));
    lines.extend(proof.issuer.as_ref().map(|issuer| format!("issuer {issuer}")));
    lines.push(format!("rule {}, fingerprint {}", proof.rule, proof.judged_by));
    lines.extend(proof.candidates.iter().map(|candidate| format!("signature {}", candidate.digest)));
    lines
}
