//! A credential: what proves who asks.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use crate::registry::transport::Secret;

/// A proof of who asks.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// User and password.
    Password {
        /// May be empty.
        user: String,
        /// The password, or what the registry takes for one.
        password: Secret,
    },
    /// A refresh token, to be exchanged by a POST (`OAuth2`).
    Identity(Secret),
    /// A finished bearer token.
    Token(Secret),
}

/// One entry of `auths`; an empty one (Docker leaves them behind for its store) counts for nothing.
pub(super) fn credential_in(entry: &Value) -> Option<Credential> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Credential::Identity(Secret::new(token)));
    }
    if let Some(token) = text("registrytoken") {
        return Some(Credential::Token(Secret::new(token)));
    }
    if let Some(auth) = text("auth") {
        let lenient = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let decoded = String::from_utf8(lenient.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        // Docker's own config writer pads with NUL.
        let password = Secret::new(password.trim_end_matches('\0'));
        return Some(Credential::Password { user: user.to_owned(), password });
    }
    let password = Secret::new(text("password")?);
    Some(Credential::Password { user: text("username")?.to_owned(), password })
}
