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
///
/// # Errors
/// Why the entry cannot be used.
pub(super) fn credential_in(entry: &Value) -> Result<Option<Credential>, &'static str> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity(Secret::new(token))));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credential::Token(Secret::new(token))));
    }
    if let Some(auth) = text("auth") {
        let lenient = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let decoded = lenient.decode(auth.trim()).map_err(|_| "its `auth` is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "its `auth` is not text in base64")?;
        let (user, password) = decoded.split_once(':').ok_or("its `auth` is not USER:PASSWORD in base64")?;
        // Docker's own config writer pads with NUL.
        let password = Secret::new(password.trim_end_matches('\0'));
        return Ok(Some(Credential::Password { user: user.to_owned(), password }));
    }
    let login = text("username").zip(text("password"));
    Ok(login.map(|(user, password)| Credential::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }))
}
