//! The two kinds of signers that Sigstore knows: owners of keys, holders of certificates.

use sigstore_crypto::parse_certificate_info;
use sigstore_types::VerificationMaterialContent;
use sigstore_verify::{
    CertificateError, Error, PublicKeyVerificationPolicy, TransparencyLogError, VerificationPolicy,
    VerificationResult,
};

use super::claim::Claim;
use super::finding::{Refused, Signed, shown};
use super::holder::{Holder, Wanted, claimed_by};
use super::key::Key;
use super::root::Root;

/// Judges a claim by a rule of keys: one of them made the signature. A log has to have it too where
/// the rule says so; else only an entry of a log that `root` knows is looked at, which then has to
/// be genuine, and says when.
pub(super) fn of_keys(
    claim: &Claim,
    keys: &[Key],
    wanted: &str,
    log_required: bool,
    root: &Root,
) -> Result<Signed, Refused> {
    let signed_bytes = claim.signed_bytes();
    let is_signer =
        |key: &&Key| claim.signature().is_some_and(|signature| key.verifies(&signed_bytes, signature));
    let Some(key) = keys.iter().find(is_signer) else { return Err(by_another_key(claim, keys, wanted)) };
    let signed = |at| Signed {
        by: key.by(),
        issuer: None,
        at,
        until: None,
        signer: key.fingerprint(),
        form: claim.form,
    };
    let entries = &claim.bundle.verification_material.tlog_entries;
    if !log_required && !entries.iter().any(|entry| root.knows_log(&entry.log_id.key_id)) {
        return Ok(signed(None));
    }
    if entries.is_empty() {
        return Err(Refused::because("is in no log, which the rule wants").by(&key.by()));
    }
    known_logs(claim, root).map_err(|refused| refused.by(&key.by()))?;
    let policy = PublicKeyVerificationPolicy::new(key.public().clone());
    match claim.of_key().verify(root, &policy) {
        Ok(result) => Ok(signed(time(&result))),
        Err(error) => Err(refusal(&error, root).by(&key.by())),
    }
}

/// The refusal of a claim that none of `keys` made.
fn by_another_key(claim: &Claim, keys: &[Key], wanted: &str) -> Refused {
    match &claim.bundle.verification_material.content {
        VerificationMaterialContent::PublicKey(key) if !key.hint.is_empty() => {
            let Some(own) = keys.iter().find(|own| own.is_hinted_at(&key.hint)) else {
                let by = format!("a key of hint {}", shown(&key.hint));
                return Refused::because(format!("by another key; the rule wants {wanted}")).by(&by);
            };
            let reason = if own.is_ed25519() {
                "its signature is not one of Ed25519: newer cosigns make Ed25519ph of such a key, \
                 which is not supported"
            } else {
                "its signature is not the key's, or what it signs was altered"
            };
            Refused::because(reason).by(&own.by())
        }
        VerificationMaterialContent::PublicKey(_) => {
            Refused::because(format!("by another key, or altered; the rule wants {wanted}"))
        }
        _ => {
            let refused =
                Refused::because(format!("by a certificate, not by a key; the rule wants {wanted}"));
            match claimed_by(&claim.bundle) {
                Some(by) => refused.by(&by),
                None => refused,
            }
        }
    }
}

/// Judges a claim by a keyless rule: the certificate is the CA's for the holder whom the rule
/// wants, was valid when the log recorded the signature, and the log has it.
pub(super) fn of_holder(claim: &Claim, wanted: &Wanted, root: &Root) -> Result<Signed, Refused> {
    let Some(certificate) = claim.bundle.signing_certificate() else {
        let words = wanted.words();
        return Err(Refused::because(format!("by a key, not by a certificate; the rule wants {words}")));
    };
    let certificate = parse_certificate_info(certificate)
        .map_err(|_| Refused::because("its certificate cannot be read"))?;
    let holder = Holder::of(&certificate);
    let judged = wanted.accepts(&holder).map_err(Refused::because).and_then(|()| {
        known_logs(claim, root)?;
        claim.verify(root, &VerificationPolicy::any_identity()).map_err(|error| refusal(&error, root))
    });
    let result = judged.map_err(|refused| refused.by(&holder.by()))?;
    Ok(Signed {
        by: holder.by(),
        issuer: holder.issuer(),
        at: time(&result),
        until: None,
        signer: wanted.signer(&holder),
        form: claim.form,
    })
}

/// Refuses entries of logs that `root` does not know.
fn known_logs(claim: &Claim, root: &Root) -> Result<(), Refused> {
    let entries = &claim.bundle.verification_material.tlog_entries;
    match entries.iter().find(|entry| !root.knows_log(&entry.log_id.key_id)) {
        Some(entry) => {
            let log = shown(&entry.log_id.key_id.to_base64());
            Err(Refused::because(format!("the log {log} is unknown to {}", root.name())).hinted(root.hint()))
        }
        None => Ok(()),
    }
}

/// The earliest time that was proven, in seconds.
fn time(result: &VerificationResult) -> Option<i64> {
    let times = result.verified_timestamps().iter().copied().chain(result.integrated_time());
    times.min().map(jiff::Timestamp::as_second)
}

/// Says in words why a claim does not hold.
fn refusal(error: &Error, root: &Root) -> Refused {
    let detail = shown(&error.to_string());
    let root_name = root.name();
    match error {
        Error::Certificate(
            CertificateError::NotYetValid { time, .. } | CertificateError::Expired { time, .. },
        ) => Refused::because(format!("certificate was not valid at the time of the log entry, {time}")),
        Error::Certificate(CertificateError::ChainInvalid(text))
            if text.contains("CertExpired") || text.contains("CertNotValidYet") =>
        {
            Refused::because("certificate was not valid at the time of the log entry")
        }
        Error::TransparencyLog(TransparencyLogError::IntegratedTime(text))
            if text.contains("in the future") =>
        {
            Refused::because(format!("its log entry is of a time to come: {detail}"))
                .hinted("set this machine's clock right: it is behind the log's".to_owned())
        }
        Error::TransparencyLog(TransparencyLogError::IntegratedTime(_)) => {
            Refused::because(format!("certificate was not valid at the time of the log entry: {detail}"))
        }
        Error::Certificate(CertificateError::ChainInvalid(_) | CertificateError::NoValidAuthority { .. }) => {
            Refused::because(format!(
                "its certificate is of no authority that {root_name} believes: {detail}"
            ))
            .hinted(root.hint())
        }
        Error::Certificate(CertificateError::Sct(_)) | Error::InvalidTrustRoot(_) => Refused::because(
            format!("no log of certificates that {root_name} believes has its certificate: {detail}"),
        )
        .hinted(root.hint()),
        Error::TransparencyLog(TransparencyLogError::EntryMismatch(_)) | Error::ArtifactMismatch(_) => {
            Refused::because(format!("its log entry is that of another signature: {detail}"))
        }
        Error::TransparencyLog(_) => {
            Refused::because(format!("no log that {root_name} believes has the signature: {detail}"))
                .hinted(root.hint())
        }
        Error::SignatureInvalid(_) => {
            Refused::because("its signature is not the certificate's, or what it signs was altered")
        }
        Error::Timestamp(_) => {
            Refused::because(format!("nobody whom {root_name} believes says when it was made: {detail}"))
        }
        _ => Refused::because(format!("cannot be verified: {detail}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_is_told_from_a_certificate_of_another_time() {
        let root = Root::load(None).unwrap();
        let refused = |words: &str| {
            let error = TransparencyLogError::IntegratedTime(words.to_owned());
            refusal(&Error::TransparencyLog(error), &root)
        };
        // The verifier's words.
        let future = refused(
            "integrated time 2026-11-30T00:00:00Z is in the future (current time: 2020-01-01T00:00:00Z)",
        );
        assert!(future.hint.unwrap().contains("clock") && future.reason.contains("current time"));
        let late = refused("integrated time 2026-11-30T00:00:00Z is after certificate validity");
        assert!(late.hint.is_none() && late.reason.contains("not valid at the time of the log entry"));
    }
}
