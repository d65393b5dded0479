//! Errors about signatures.

use std::fmt;
use std::path::PathBuf;

use crate::digest::BlobDigest;

/// The refusal of an image that the right signer has not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Nothing that was found is the signature that the rule asks for.
    #[error("{rule}: {}; expected {expected}{}", found(.findings), reasons(.findings))]
    Refused {
        /// The place of the rule, `images.toml:12`.
        rule: String,
        /// The signature that the rule asks for, in words.
        expected: String,
        /// Everything that was found, and why none of them will do.
        findings: Vec<Finding>,
        /// The next step, where the findings suggest one.
        hint: Option<String>,
    },
    /// No rule names the image, and `unsigned = "refuse"`.
    #[error("{place}: no [[trust]] rule names the image, and unsigned = \"refuse\"")]
    NoRule {
        /// The place of `unsigned`, `images.toml:3`.
        place: String,
    },
    /// The stored evidence does not fit, and `--offline` forbids asking for more.
    #[error(
        "{rule}: no signature of the image that will do is here, and --offline forbids asking its registry"
    )]
    Offline {
        /// The place of the rule.
        rule: String,
    },
    /// The stored evidence does not fit, and the pull policy forbids asking for more.
    #[error("{rule}: no signature of the image that will do is here, and its pull policy is \"never\"")]
    NeverPulled {
        /// The place of the rule.
        rule: String,
    },
}

/// One signature that was looked at, and why it will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The digest of the artifact's manifest.
    pub digest: BlobDigest,
    /// The signer, where one could be read: not proven.
    pub by: Option<String>,
    /// The reason of the refusal.
    pub reason: String,
}

/// A file of keys or roots that cannot be used: a mistake of the user's, not of an image.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}, which {rule} names: {reason}", path.display())]
pub struct TrustFileError {
    /// The file.
    pub path: PathBuf,
    /// The place that names the file, `images.toml:12`.
    pub rule: String,
    /// The reason.
    pub reason: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
}

impl TrustFileError {
    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

impl SignatureError {
    /// The message without the reasons of the refusals, which others tell line by line.
    pub fn summary(&self) -> String {
        match self {
            Self::Refused { rule, expected, findings, .. } => {
                format!("{rule}: {}; expected {expected}", found(findings))
            }
            other => other.to_string(),
        }
    }

    /// Everything that was found, and why it will not do.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Refused { findings, .. } => findings,
            _ => &[],
        }
    }

    /// A stable, machine-readable word for the kind of failure.
    pub fn kind(&self) -> &'static str {
        "signature"
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::NoRule { .. } => Some(
                "add a [[trust]] rule for the image, or accept = \"unsigned\" in one for those that nobody signs"
                    .to_owned(),
            ),
            Self::Offline { .. } => Some("run without --offline".to_owned()),
            Self::NeverPulled { .. } => {
                Some("set pull = \"missing\" for this image, so that its signatures may be asked for".to_owned())
            }
        }
    }
}

/// The findings that a message tells of: a registry may have many.
const TOLD: usize = 8;

/// The findings in a few words: `no signature`, `2 signatures, by …`.
fn found(findings: &[Finding]) -> String {
    let mut signers: Vec<&str> = Vec::new();
    for signer in findings.iter().filter_map(|finding| finding.by.as_deref()) {
        if !signers.contains(&signer) && signers.len() < TOLD {
            signers.push(signer);
        }
    }
    let mut text = match findings.len() {
        0 => "no signature".to_owned(),
        1 => "1 signature".to_owned(),
        count => format!("{count} signatures"),
    };
    if !signers.is_empty() {
        text.push_str(", by ");
        text.push_str(&signers.join(", "));
    }
    text
}

/// The reasons of the refusals, each with the artifact it is about.
fn reasons(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().take(TOLD) {
        text.push_str("; ");
        text.push_str(&finding.to_string());
    }
    if let Some(more @ 1..) = findings.len().checked_sub(TOLD) {
        text.push_str("; and ");
        text.push_str(&more.to_string());
        text.push_str(" more");
    }
    text
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest.text();
        let start = digest.hex().get(..12).unwrap_or_default();
        write!(f, "{}:{start}: {}", self.digest.algorithm().as_str(), self.reason)
    }
}
