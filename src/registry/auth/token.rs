//! Authentication by challenge: none, Basic and Bearer, as the distribution spec's [token flow] has
//! it.
//!
//! A registry is asked without credentials first; its 401 says what it wants. What worked is kept
//! per repository and sent up front from then on: a token is fetched by one thread while the others
//! wait for it, renewed before it expires, and once after a 401. A 401 to a token just issued is
//! final, unless others have had that token too: some are good for a few requests only. Then the
//! request gets one of its own, which nobody else can use up.
//!
//! Credentials go to the registry's own origin and its token realm only: over plain http only where
//! the registry itself is asked over plain http, and to a realm on another host only over https.
//! Mirrors get none.
//!
//! [token flow]: https://distribution.github.io/distribution/spec/auth/token/

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Method};

use super::challenge::{Challenge, bearer_of, challenges_in};
use super::credential::Credential;
use super::credentials::{Credentials, Found};
use crate::error::{Login, Refused, RegistryError, Trouble};
use crate::registry::transport::{
    Answer, Client, FailedTry, Request, Secret, Sought, TRIES, basic, printable, refusal, retry,
};
use crate::threads::lock;
use crate::url::{Url, form_pair};

/// A token without `expires_in` lives this long (token flow, "Requesting a Token").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Longest life believed; a token that still works after it is renewed for nothing.
const MAX_LIFE: u64 = 24 * 60 * 60;
/// A token server's answer is not longer than this, in bytes.
const MAX_TOKEN_ANSWER: u64 = 64 << 10;
/// Scopes of one challenge that are asked for.
const MAX_SCOPES: usize = 8;

/// The parameters of Bearer authentication.
#[derive(Clone)]
struct Bearer {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
    /// True if the words of the realm are shown: those of a host that the registry names, and that
    /// proves nothing, are not.
    heard: bool,
}

// ----------------------------------------------------------------------------------- authorizer

/// The two sides of a request: whose credentials, and to whom.
#[derive(Clone, Copy)]
pub(crate) struct Party<'a> {
    pub(crate) client: &'a Client,
    /// The endpoint or mirror.
    pub(crate) base: &'a Url,
    pub(crate) repository: &'a str,
    /// None for a mirror.
    pub(crate) credentials: Option<&'a Credentials>,
}

/// The authorization that a request takes along, and the state of knowledge it comes from.
pub(crate) struct Pass {
    pub(crate) header: Option<Secret>,
    generation: u64,
    /// The place of the user's credentials, if they are behind the header.
    pub(crate) place: Option<Arc<str>>,
    turn: Turn,
}

/// A challenge, and where it was heard.
pub(crate) enum Challenged<'a> {
    /// At the request itself.
    Here(&'a HeaderMap),
    /// At the API's root, which knows nothing of the repository.
    AtRoot(&'a HeaderMap),
}

impl Challenged<'_> {
    fn challenges(&self) -> Vec<Challenge> {
        let (Self::Here(headers) | Self::AtRoot(headers)) = self;
        challenges_in(headers)
    }
}

/// The number of times that the request was refused before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    /// Once; what it has now it may share with other requests.
    Second,
    /// Twice; what it has now is its own.
    Last,
}

impl Pass {
    /// A header that is set elsewhere, and stays as it is.
    pub(crate) fn fixed(header: Secret) -> Self {
        Self { header: Some(header), generation: 0, place: None, turn: Turn::First }
    }

    /// Tells where the credentials came from.
    pub(crate) fn source(&self) -> &str {
        self.place.as_deref().unwrap_or("a token for anybody")
    }
}

#[derive(Default)]
struct Slot {
    generation: u64,
    place: Option<Arc<str>>,
    state: State,
    /// The number of requests that were given what is known now.
    given: u64,
}

#[derive(Default)]
enum State {
    /// Nothing was asked for yet.
    #[default]
    Open,
    Basic(Secret),
    Bearer {
        bearer: Bearer,
        token: Secret,
        renew_at: Option<Instant>,
    },
}

/// The tokens of one registry and its mirrors, by origin and repository.
#[derive(Default)]
pub(crate) struct Authorizer {
    slots: Mutex<HashMap<String, Arc<Mutex<Slot>>>>,
}

impl Authorizer {
    fn slot(&self, party: &Party<'_>) -> Arc<Mutex<Slot>> {
        let key = format!("{} {}", party.base, party.repository);
        Arc::clone(lock(&self.slots).entry(key).or_default())
    }

    /// Decides what the next request takes along; renews a token that is about to expire.
    pub(crate) fn pass(&self, party: &Party<'_>) -> Result<Pass, FailedTry> {
        let slot = self.slot(party);
        let mut slot = lock(&slot);
        if let State::Bearer { bearer, renew_at: Some(renew_at), .. } = &slot.state
            && Instant::now() >= *renew_at
        {
            let bearer = bearer.clone();
            slot.obtain(party, bearer)?;
        }
        Ok(slot.pass(Turn::First))
    }

    /// Decides what the request takes along after `used` was refused, by what was `heard`; `None`:
    /// nothing better is known.
    pub(crate) fn challenged(
        &self,
        party: &Party<'_>,
        used: &Pass,
        heard: &Challenged<'_>,
    ) -> Result<Option<Pass>, FailedTry> {
        let slot = self.slot(party);
        let mut slot = lock(&slot);
        match used.turn {
            // Another thread was challenged too and has got what this one needs.
            Turn::First if slot.generation != used.generation => return Ok(Some(slot.pass(Turn::Second))),
            Turn::First => {}
            // Others have had it too, and may have used it up: that proves nothing.
            Turn::Second if slot.generation != used.generation || slot.given > 1 => {
                drop(slot);
                return own_token(party, heard);
            }
            Turn::Second | Turn::Last => return Ok(None),
        }
        let challenges = heard.challenges();
        if let Some(challenge) = bearer_of(&challenges) {
            let bearer = Bearer::from_challenge(party, challenge, heard)?;
            slot.obtain(party, bearer)?;
            return Ok(Some(slot.pass(Turn::Second)));
        }
        if !challenges.iter().any(|challenge| challenge.scheme == "basic") || used.header.is_some() {
            return Ok(None);
        }
        let Some(Found { credential, place }) = party.credential()? else { return Ok(None) };
        let header = match credential {
            Credential::Password { user, password } => basic(&user, &password),
            Credential::Token(token) => Secret::new(format!("Bearer {}", token.reveal())),
            Credential::Identity(_) => return Ok(None),
        };
        slot.set(State::Basic(header), Some(place));
        Ok(Some(slot.pass(Turn::Second)))
    }
}

/// A token for one request alone, as the challenge that was `heard` has it; `None` where that asks
/// for none.
fn own_token(party: &Party<'_>, heard: &Challenged<'_>) -> Result<Option<Pass>, FailedTry> {
    let challenges = heard.challenges();
    let Some(challenge) = bearer_of(&challenges) else { return Ok(None) };
    let bearer = Bearer::from_challenge(party, challenge, heard)?;
    let mut slot = Slot::default();
    slot.obtain(party, bearer)?;
    Ok(Some(slot.pass(Turn::Last)))
}

impl Party<'_> {
    fn credential(&self) -> Result<Option<Found>, FailedTry> {
        match self.credentials {
            Some(credentials) => Ok(credentials.find(&self.client.network, self.repository)?),
            None => Ok(None),
        }
    }

    /// Tells whether this registry's credentials may be sent to `realm`.
    fn trusts(&self, realm: &Url) -> bool {
        // An endpoint over plain http is loopback, or says so itself in the images file.
        let plain_is_fine = realm.is_loopback() || !self.base.is_secure();
        realm.is_secure() || (realm.host() == self.base.host() && plain_is_fine)
    }
}

impl Bearer {
    /// The parameters that `challenge`, one of those that were `heard`, gives.
    fn from_challenge(
        party: &Party<'_>,
        challenge: &Challenge,
        heard: &Challenged<'_>,
    ) -> Result<Self, FailedTry> {
        let refuse = |reason: String| RegistryError::Document {
            what: "the challenge".to_owned(),
            host: party.base.host_port(),
            reason,
        };
        let text = challenge.get("realm").unwrap_or_default();
        let realm =
            party.base.join(text).map_err(|reason| refuse(format!("its realm cannot be used: {reason}")))?;
        if party.base.is_secure() && !realm.is_secure() && !(realm.is_loopback() && party.base.is_loopback())
        {
            return Err(refuse(format!("its realm leads from https to plain http, {realm}")).into());
        }
        if realm.is_local() && !party.base.is_local() {
            let reason = format!("its realm leads to this machine itself, {}", realm.origin());
            return Err(refuse(reason).into());
        }
        // The root may name a repository that stands for any, and certainly not this one.
        let is_asked_for = |scope: &&str| match heard {
            Challenged::Here(_) => true,
            Challenged::AtRoot(_) => !scope.starts_with("repository:"),
        };
        let scopes = challenge.get("scope").unwrap_or_default().split_ascii_whitespace();
        let mut scopes: Vec<String> =
            scopes.filter(is_asked_for).take(MAX_SCOPES).map(str::to_owned).collect();
        if scopes.is_empty() || matches!(heard, Challenged::AtRoot(_)) {
            scopes.insert(0, format!("repository:{}:pull", party.repository));
        }
        let heard = realm.is_secure() || realm.host() == party.base.host();
        Ok(Self { realm, service: challenge.get("service").map(str::to_owned), scopes, heard })
    }
}

impl Slot {
    fn pass(&mut self, turn: Turn) -> Pass {
        self.given += 1;
        let header = match &self.state {
            State::Open => None,
            State::Basic(header) => Some(header.clone()),
            State::Bearer { token, .. } => Some(Secret::new(format!("Bearer {}", token.reveal()))),
        };
        Pass { header, generation: self.generation, place: self.place.clone(), turn }
    }

    fn set(&mut self, state: State, place: Option<Arc<str>>) {
        self.generation += 1;
        self.given = 0;
        self.state = state;
        self.place = place;
    }

    /// Gets a token and keeps it.
    fn obtain(&mut self, party: &Party<'_>, bearer: Bearer) -> Result<(), FailedTry> {
        let found = party.credential()?;
        if let Some(Found { credential: Credential::Token(token), place }) = found {
            self.set(State::Bearer { bearer, token, renew_at: None }, Some(place));
            return Ok(());
        }
        let trusted = party.trusts(&bearer.realm);
        let login = match (&found, party.credentials) {
            (Some(found), _) if trusted => Login::Sent { place: (*found.place).into() },
            (Some(_), _) => Login::KeptBack,
            (None, credentials) => credentials.map_or_else(Login::unknown, Credentials::no_login),
        };
        if login == Login::KeptBack {
            party.client.network.warn(format!(
                "{}: the credentials are not sent to its token realm {}: it is another host, or not encrypted",
                party.client.name.name, bearer.realm
            ));
        }
        let found = found.filter(|_| trusted);
        let (token, life) =
            retry(&party.client.network, TRIES, || request_token(party, &bearer, found.as_ref(), &login))
                .map_err(of_token_server)?;
        // A tenth of its life, but no more than half a minute, is left for requests under way.
        let renew_at =
            Instant::now().checked_add(life.saturating_sub((life / 10).min(Duration::from_secs(30))));
        self.set(State::Bearer { bearer, token, renew_at }, found.map(|found| found.place));
        Ok(())
    }
}

/// Says that it was not the registry that failed, but the server that gives tokens for it.
fn of_token_server(error: RegistryError) -> RegistryError {
    let mut error = error.elsewhere("its token server", Trouble::TokenServer);
    match &mut error {
        RegistryError::Refused(Refused { reason, status: 404 | 429 | 500.., .. }) => {
            reason.insert_str(0, "its token server: ");
        }
        RegistryError::Protocol { url, .. }
        | RegistryError::Stalled { url, .. }
        | RegistryError::Slow { url, .. } => url.insert_str(0, "the registry's token server "),
        _ => {}
    }
    error
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number as a rule; some write it as a string.
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// Reads the life of a token from its `expires_in`.
fn life(expires_in: &serde_json::Value) -> Duration {
    let seconds = match expires_in {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    };
    match seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(MAX_LIFE)),
        _ => DEFAULT_LIFE,
    }
}

/// A request for a token, by either of the two flows.
struct TokenRequest {
    url: Url,
    authorization: Option<Secret>,
    /// The form of the `OAuth2` flow.
    form: Option<Secret>,
}

impl TokenRequest {
    fn new(bearer: &Bearer, credential: Option<&Credential>) -> Self {
        let mut url = bearer.realm.clone();
        if let Some(Credential::Identity(identity)) = credential {
            // OAuth2, https://distribution.github.io/distribution/spec/auth/oauth/
            let form = [
                form_pair("grant_type", "refresh_token"),
                form_pair("refresh_token", identity.reveal()),
                form_pair("client_id", "msb-sync"),
                form_pair("service", bearer.service.as_deref().unwrap_or_default()),
                form_pair("scope", &bearer.scopes.join(" ")),
            ];
            return Self { url, authorization: None, form: Some(Secret::new(form.join("&"))) };
        }
        if let Some(service) = &bearer.service {
            url = url.with_parameter("service", service);
        }
        for scope in &bearer.scopes {
            url = url.with_parameter("scope", scope);
        }
        let authorization = match credential {
            Some(Credential::Password { user, password }) => Some(basic(user, password)),
            _ => None,
        };
        Self { url, authorization, form: None }
    }
}

/// Asks the token server of `bearer`, which knows `login` of us, for a token; tells also how long
/// the token lives.
fn request_token(
    party: &Party<'_>,
    bearer: &Bearer,
    found: Option<&Found>,
    login: &Login,
) -> Result<(Secret, Duration), FailedTry> {
    let TokenRequest { url, authorization, form } =
        TokenRequest::new(bearer, found.map(|found| &found.credential));
    let method = if form.is_some() { Method::POST } else { Method::GET };
    let about = || format!("{}: {method} {url}", party.client.name.name);
    let client = party.client;
    let answer = client
        .send(&Request {
            method: method.clone(),
            authorization: authorization.as_ref(),
            form: form.as_ref(),
            credentials: found.map_or("", |found| &*found.place),
            heard: bearer.heard,
            ..Request::get(&url, "application/json")
        })
        .map_err(|failure| failure.about(about))?;
    if answer.status != 200 {
        let refused = refusal(client, answer, Sought::Token, login.clone(), bearer.heard);
        return Err(refused.about(about));
    }
    let host = answer.url.host_port();
    let (token, life) = read_token(answer, &host)?;
    client.network.veil.add(&token);
    client.network.detail(format!("{}: got a token from {}", client.name.name, printable(&host, 200)));
    Ok((Secret::new(token), life))
}

/// Reads the token in `answer`, which came from `host`.
fn read_token(answer: Answer, host: &str) -> Result<(String, Duration), FailedTry> {
    let refuse = |reason: &str| RegistryError::Document {
        what: "the token".to_owned(),
        host: host.to_owned(),
        reason: reason.to_owned(),
    };
    let body = answer.read("the token", MAX_TOKEN_ANSWER).map_err(|failed| match failed.error {
        // No setting is about it.
        RegistryError::TooLarge { limit, .. } => {
            refuse(&format!("the answer is larger than {} KiB", limit >> 10)).into()
        }
        _ => failed,
    })?;
    // serde's words could quote the token.
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| refuse("the answer is not the JSON it should be"))?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or_else(|| refuse("the answer holds none"))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("it cannot be sent in a header").into());
    }
    Ok((token, life(&answer.expires_in)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_token_may_be_written_as_a_string() {
        for (answer, seconds) in [
            (r#"{"token":"t","expires_in":300}"#, 300),
            (r#"{"token":"t","expires_in":"300"}"#, 300),
            (r#"{"token":"t","expires_in":"99999999"}"#, MAX_LIFE),
            (r#"{"token":"t","expires_in":"soon"}"#, 60),
            (r#"{"token":"t","expires_in":-1}"#, 60),
            (r#"{"token":"t","expires_in":1.5}"#, 60),
            (r#"{"token":"t","expires_in":null}"#, 60),
            (r#"{"token":"t","expires_in":{}}"#, 60),
            (r#"{"token":"t"}"#, 60),
        ] {
            let answer: TokenAnswer = serde_json::from_str(answer).unwrap();
            assert_eq!(life(&answer.expires_in).as_secs(), seconds, "{}", answer.expires_in);
        }
    }
}
