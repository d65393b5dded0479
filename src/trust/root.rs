//! Sigstore's trusted root: whose certificates, logs and timestamps are believed.

use std::path::{Path, PathBuf};

use sigstore_trust_root::{SIGSTORE_PRODUCTION_TRUSTED_ROOT, TrustedRoot};
use sigstore_types::{LogKeyId, TimeRange};
use sigstore_verify::Verifier;

use super::crypto;
use super::finding::shown;
use crate::digest::{Algorithm, BlobDigest};
use crate::error::TrustFileError;
use crate::state::{SigstoreAnchor, SigstoreAnchorKind, SigstoreRoot};

/// The day of the root that is built in: the release of the package that brings it.
pub(crate) const BUILT_IN_ROOT_DATE: &str = "2026-10-23";

/// A trusted root, ready to verify by.
pub(super) struct Root {
    parsed: TrustedRoot,
    verifier: Verifier,
    name: String,
    is_built_in: bool,
    digest: BlobDigest,
}

impl Root {
    /// Reads the root that an images file names, or the one that is built in.
    pub(super) fn load(file: Option<(&Path, &[u8])>) -> Result<Self, TrustFileError> {
        crypto::install();
        let broken = |reason: String| TrustFileError {
            path: file.map_or_else(|| PathBuf::from("(built in)"), |(path, _)| path.to_owned()),
            rule: "trusted-root".to_owned(),
            reason,
            hint: Some("a trusted root is the file trusted_root.json of a Sigstore".to_owned()),
        };
        let bytes = file.map_or(SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes(), |(_, bytes)| bytes);
        let text = str::from_utf8(bytes).map_err(|_| broken("it is not text".to_owned()))?;
        let parsed = TrustedRoot::from_json(text).map_err(|error| broken(shown(&error.to_string())))?;
        let verifier = Verifier::new(&parsed).map_err(|error| broken(shown(&error.to_string())))?;
        let name = match file {
            Some((path, _)) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                format!("the trusted root {}", shown(&name))
            }
            None => format!("the trusted root of {BUILT_IN_ROOT_DATE} that is built in"),
        };
        let digest = BlobDigest::of(Algorithm::Sha256, bytes);
        Ok(Self { parsed, verifier, name, is_built_in: file.is_none(), digest })
    }

    /// The verifier by this root.
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Names the root in a message, with its date or its file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The digest of the root's file.
    pub(super) fn digest(&self) -> &BlobDigest {
        &self.digest
    }

    /// True if the root has the log `id`.
    pub(super) fn knows_log(&self, id: &LogKeyId) -> bool {
        self.parsed.tlogs.iter().any(|log| log.log_id.key_id == *id)
    }

    /// The next step if a signature is of logs or authorities that the root has not.
    pub(super) fn hint(&self) -> String {
        if self.is_built_in {
            "the built-in root may be too old, or the signature be of another Sigstore: name its \
             trusted_root.json by trusted-root; `msb-sync trust-root` shows what is believed"
        } else {
            "the file may be too old, or the signature be of another Sigstore: get its present \
             trusted_root.json; `msb-sync trust-root` shows what is believed"
        }
        .to_owned()
    }

    /// Lists everything that the root believes.
    pub(super) fn list(&self) -> SigstoreRoot {
        let logs = |kind, url: &str, id: &LogKeyId, valid: Option<TimeRange>| {
            anchor(kind, url, &hex(id.as_bytes()), None, valid)
        };
        let root = &self.parsed;
        let mut anchors = Vec::new();
        for ca in &root.certificate_authorities {
            let id = ca.cert_chain.certificates.first().map(|first| fingerprint(first.raw_bytes.as_bytes()));
            let subject = ca.subject.common_name.as_deref().zip(ca.subject.organization.as_deref());
            let kind = SigstoreAnchorKind::CertificateAuthority;
            anchors.push(anchor(kind, &ca.uri, &id.unwrap_or_default(), subject, ca.valid_for));
        }
        for log in &root.tlogs {
            let (id, valid) = (&log.log_id.key_id, log.public_key.valid_for);
            anchors.push(logs(SigstoreAnchorKind::Log, &log.base_url, id, valid));
        }
        for log in &root.ctlogs {
            let (id, valid) = (&log.log_id.key_id, log.public_key.valid_for);
            anchors.push(logs(SigstoreAnchorKind::CertificateLog, &log.base_url, id, valid));
        }
        for tsa in &root.timestamp_authorities {
            let id = tsa.cert_chain.certificates.first().map(|first| fingerprint(first.raw_bytes.as_bytes()));
            let subject = tsa.subject.common_name.as_deref().zip(tsa.subject.organization.as_deref());
            let (kind, url) =
                (SigstoreAnchorKind::TimestampAuthority, tsa.uri.as_deref().unwrap_or_default());
            anchors.push(anchor(kind, url, &id.unwrap_or_default(), subject, tsa.valid_for));
        }
        let built_in_date = self.is_built_in.then(|| BUILT_IN_ROOT_DATE.to_owned());
        SigstoreRoot { built_in_date, digest: self.digest.clone(), anchors }
    }
}

/// One line of the list; `subject` is a common name and an organization.
fn anchor(
    kind: SigstoreAnchorKind,
    url: &str,
    id: &str,
    subject: Option<(&str, &str)>,
    valid: Option<TimeRange>,
) -> SigstoreAnchor {
    SigstoreAnchor {
        kind,
        url: shown(url),
        id: id.to_owned(),
        subject: subject.map(|(name, organization)| shown(&format!("CN={name},O={organization}"))),
        start: valid.map(|valid| valid.start.as_second()),
        end: valid.and_then(|valid| valid.end).map(jiff::Timestamp::as_second),
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    BlobDigest::of(Algorithm::Sha256, certificate).text().hex().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    sigstore_types::DigestBytes::from(bytes).to_hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_that_is_built_in_can_be_used_and_has_the_date_of_its_package() {
        let root = Root::load(None).unwrap();
        let list = root.list();
        for kind in [
            SigstoreAnchorKind::CertificateAuthority,
            SigstoreAnchorKind::Log,
            SigstoreAnchorKind::CertificateLog,
            SigstoreAnchorKind::TimestampAuthority,
        ] {
            assert!(
                list.anchors.iter().any(|anchor| anchor.kind == kind && anchor.id.len() == 64),
                "{kind:?}"
            );
        }
        // The date and this version belong together: change both.
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains("name = \"sigstore-trust-root\"\nversion = \"0.15.1\"\n"));
        let begun = list.anchors.iter().filter_map(|anchor| anchor.start).max().unwrap();
        let date: jiff::civil::Date = BUILT_IN_ROOT_DATE.parse().unwrap();
        assert!(begun <= date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second());
    }

    #[test]
    fn a_broken_root_is_refused_with_a_reason() {
        let key = r#"{"baseUrl":"x","hashAlgorithm":"SHA2_256","publicKey":{"rawBytes":"AAAA","keyDetails":"X"},"logId":{"keyId":"AAAA"}}"#;
        for text in ["", "{", "[]", "\u{0}", &format!(r#"{{"mediaType":"x","tlogs":[{key}]}}"#)] {
            let Err(error) = Root::load(Some((Path::new("/x/root.json"), text.as_bytes()))) else {
                panic!("{text} was accepted")
            };
            assert!(error.to_string().starts_with("cannot use /x/root.json, which trusted-root names: "));
        }
    }
}
