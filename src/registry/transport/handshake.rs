//! The meaning of a failed TLS handshake, and what may help.
//!
//! The words are ours throughout: rustls's own show its inner values, and the words of a server are
//! shown only as far as they are a name or a date.

use crate::error::{self, RegistryError, TlsCure};
use crate::url::Url;

/// The part that client certificates play at a server that refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientCertificate {
    /// None was asked for.
    Unasked,
    /// One was asked for, and there is none.
    Missing,
    /// One was asked for, and shown.
    Shown,
}

/// Tells what a TLS failure with `url` means, where `ours` is what is known of client certificates
/// there.
pub(super) fn tls_failure(url: &Url, error: &rustls::Error, ours: ClientCertificate) -> RegistryError {
    let host = url.host_port();
    let fail = |reason: String, cure| RegistryError::Tls { reason, cure };
    let refused = |words: &str, cure| fail(format!("no TLS connection to {host}: {words}"), cure);
    match error {
        rustls::Error::InvalidCertificate(reason) => {
            let words = certificate_words(reason);
            fail(format!("the certificate of {host} is not trusted: it {words}"), certificate_cure(reason))
        }
        // The answer of a server that speaks plain http is no TLS record.
        rustls::Error::InvalidMessage(_) => {
            refused("what it answers is not TLS; it may speak plain http", TlsCure::PlainHttp)
        }
        rustls::Error::AlertReceived(alert) => {
            let (words, cure) = alert_words(*alert, ours);
            refused(&words, cure)
        }
        rustls::Error::PeerIncompatible(_) => {
            refused("the two sides have no TLS version and cipher in common", TlsCure::Protocol)
        }
        rustls::Error::NoCertificatesPresented => refused("it shows no certificate", TlsCure::None),
        rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::PeerSentOversizedRecord => {
            refused("it does not keep to the TLS protocol", TlsCure::None)
        }
        rustls::Error::DecryptError => refused("what it sends cannot be decrypted", TlsCure::None),
        _ => refused("the handshake failed", TlsCure::None),
    }
}

/// Tells what a server says by `alert`, and what may help.
fn alert_words(alert: rustls::AlertDescription, ours: ClientCertificate) -> (String, TlsCure) {
    use rustls::AlertDescription as Alert;
    let said = spelled(&format!("{alert:?}"));
    // In TLS 1.2 a server says of a missing certificate only that the handshake failed.
    let of_ours = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::HandshakeFailure
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
    );
    match (alert, ours) {
        (Alert::CertificateRequired, ClientCertificate::Unasked) | (_, ClientCertificate::Missing)
            if of_ours =>
        {
            (format!("it wants a client certificate, and there is none ({said})"), TlsCure::ClientCertificate)
        }
        (_, ClientCertificate::Shown) if of_ours => {
            (format!("it does not accept the client certificate ({said})"), TlsCure::OtherClientCertificate)
        }
        (Alert::UnrecognisedName, _) => ("it serves no host of this name".to_owned(), TlsCure::Name),
        (Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity, _) => {
            (format!("the two sides have no TLS version and cipher in common ({said})"), TlsCure::Protocol)
        }
        _ => (format!("it says: {said}"), TlsCure::None),
    }
}

/// Tells what is wrong with a certificate, as a predicate.
pub(super) fn certificate_words(reason: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Reason;
    match reason {
        Reason::Expired => "has expired".to_owned(),
        Reason::ExpiredContext { not_after, .. } => format!("expired on {}", date(not_after.as_secs())),
        Reason::NotValidYet => "is not valid yet".to_owned(),
        Reason::NotValidYetContext { not_before, .. } => {
            format!("is not valid yet, but from {} on", date(not_before.as_secs()))
        }
        Reason::UnknownIssuer | Reason::BadSignature => {
            "was issued by nobody whom this machine trusts".to_owned()
        }
        Reason::NotValidForName => "is for another name".to_owned(),
        Reason::NotValidForNameContext { presented, .. } => match &names(presented)[..] {
            [] => "names no host (it has no subjectAltName)".to_owned(),
            names => format!("is for {}", names.join(", ")),
        },
        Reason::InvalidPurpose | Reason::InvalidPurposeContext { .. } => {
            "is not meant for servers".to_owned()
        }
        Reason::BadEncoding => "cannot be read".to_owned(),
        Reason::Revoked => "was revoked".to_owned(),
        Reason::UnhandledCriticalExtension => "has a critical extension that is not known".to_owned(),
        reason if is_authority(reason) => {
            "is its own authority (self-signed), which nobody here trusts".to_owned()
        }
        _ => "cannot be checked: its kind or its signature is not supported".to_owned(),
    }
}

fn certificate_cure(reason: &rustls::CertificateError) -> TlsCure {
    use rustls::CertificateError as Reason;
    match reason {
        Reason::Expired | Reason::ExpiredContext { .. } => TlsCure::Renewal,
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => TlsCure::Time,
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => TlsCure::Name,
        Reason::UnknownIssuer | Reason::BadSignature => TlsCure::Authority,
        reason if is_authority(reason) => TlsCure::Authority,
        _ => TlsCure::None,
    }
}

/// A day, or nothing usable.
fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a day that cannot be shown".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// The names of a certificate, a few of them: webpki gives them as `DnsName("a.corp")` and
/// `IpAddress(10.0.0.1)`.
fn names(presented: &[String]) -> Vec<String> {
    let inside = |text: &String| {
        let inner = text.split_once('(').map_or(&**text, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
        error::printable(inner.trim_matches('"').get(..100).unwrap_or(inner.trim_matches('"')))
    };
    let mut names: Vec<String> = presented.iter().take(5).map(inside).collect();
    if presented.len() > names.len() {
        names.push(format!("{} more", presented.len() - names.len()));
    }
    names
}

/// A name of the TLS standard in words: `HandshakeFailure` is "handshake failure", `UnknownCA` is
/// "unknown CA".
fn spelled(name: &str) -> String {
    let mut words = String::new();
    if !name.chars().all(|char| char.is_ascii_alphanumeric()) {
        return "something that is not known".to_owned();
    }
    let is_capital = |char: Option<&u8>| char.is_some_and(u8::is_ascii_uppercase);
    let name = name.as_bytes();
    for (at, letter) in name.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| name.get(at));
        let after = name.get(at + 1);
        // Capitals in a row are an abbreviation; the last one begins a word where small letters
        // follow.
        let in_abbreviation = is_capital(before) && (after.is_none() || is_capital(after))
            || is_capital(after) && after.is_some();
        let begins = is_capital(Some(letter))
            && before.is_some()
            && (!is_capital(before) || after.is_some_and(u8::is_ascii_lowercase));
        if begins {
            words.push(' ');
        }
        words.push(char::from(if in_abbreviation { *letter } else { letter.to_ascii_lowercase() }));
    }
    words
}

/// Tells whether a certificate is refused because of the one who issued it.
pub(super) fn is_strange(reason: &rustls::CertificateError) -> bool {
    use rustls::CertificateError as Reason;
    matches!(
        reason,
        Reason::UnknownIssuer | Reason::BadSignature | Reason::UnsupportedSignatureAlgorithmContext { .. }
    )
}

/// Tells whether a certificate is refused because it is an authority's and not a server's.
pub(super) fn is_authority(reason: &rustls::CertificateError) -> bool {
    let rustls::CertificateError::Other(other) = reason else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

    use super::*;

    fn failure(error: &Error, ours: ClientCertificate) -> RegistryError {
        tls_failure(&Url::parse("https://registry.corp:5000/v2/").unwrap(), error, ours)
    }

    #[test]
    fn each_failure_has_words_and_a_hint_of_its_own() {
        use ClientCertificate::{Missing, Shown, Unasked};
        let alert = |alert| Error::AlertReceived(alert);
        let mut hints = std::collections::BTreeSet::new();
        for (error, ours, words, hint) in [
            (CertificateError::UnknownIssuer.into(), Unasked, "issued by nobody", "`ca = "),
            (CertificateError::Expired.into(), Unasked, "has expired", "renew"),
            (CertificateError::NotValidYet.into(), Unasked, "not valid yet", "clock"),
            (CertificateError::NotValidForName.into(), Unasked, "another name", "`endpoint`"),
            (
                alert(AlertDescription::CertificateRequired),
                Unasked,
                "wants a client certificate",
                "`client-cert`",
            ),
            (alert(AlertDescription::BadCertificate), Shown, "does not accept the client", "another"),
            (alert(AlertDescription::ProtocolVersion), Unasked, "in common (protocol version)", "TLS 1.2"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), Unasked, "plain http", "http://"),
        ] {
            let error = failure(&error, ours);
            let found = error.hint().unwrap();
            assert!(error.to_string().contains(words) && found.contains(hint), "{error}: {found}");
            assert!(hints.insert(found), "each has its own: {error}");
        }
        let same = |error: Error, ours, other: Error, others| {
            assert_eq!(failure(&error, ours).hint(), failure(&other, others).hint());
        };
        let required = || alert(AlertDescription::CertificateRequired);
        same(alert(AlertDescription::HandshakeFailure), Missing, required(), Unasked);
        let incompatible = Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon);
        same(incompatible, Unasked, alert(AlertDescription::HandshakeFailure), Unasked);
    }

    #[test]
    fn no_inner_value_is_shown() {
        let presented = ["DnsName(\"a.corp\")", "IpAddress(10.0.0.1)", "odd"].map(str::to_owned);
        assert_eq!(names(&presented), ["a.corp", "10.0.0.1", "odd"]);
        let many: Vec<String> = (0..9).map(|number| format!("DnsName(\"{number}\")")).collect();
        assert_eq!(names(&many).last().unwrap(), "4 more");
        for (name, words) in [
            ("NoApplicationProtocol", "no application protocol"),
            ("UnknownCA", "unknown CA"),
            ("UnknownPSKIdentity", "unknown PSK identity"),
            ("BadRecordMac", "bad record mac"),
        ] {
            assert_eq!(spelled(name), words);
        }
        assert_eq!(spelled("AlertDescription(0x3)"), "something that is not known");
        let unknown =
            failure(&Error::AlertReceived(AlertDescription::Unknown(99)), ClientCertificate::Unasked);
        assert!(
            unknown.to_string().ends_with("it says: something that is not known") && unknown.hint().is_some(),
            "{unknown}"
        );
        let general = failure(&Error::General("Inner { value }".to_owned()), ClientCertificate::Unasked);
        assert!(!general.to_string().contains("Inner"), "{general}");
    }
}
