//! A registry that serves a [`BlobSet`], records every request, and misbehaves where a test asks for it.
//!
//! Its answers follow the distribution spec; a hook may replace or bend each. Authentication is by Basic or
//! Bearer challenge with a token endpoint of its own; a token is good for one repository only.

use std::sync::{Arc, Mutex};

use super::http::{Exchange, Front, Gone, Request, Response, Server, Shape};
use super::image::{BlobSet, OCI_INDEX, OCI_MANIFEST};

/// How an answer differs from the right one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fault {
    /// Another status, with an error body.
    pub(crate) status: Option<u16>,
    /// More headers; one that is there already is replaced.
    pub(crate) headers: Vec<(String, String)>,
    /// Another body.
    pub(crate) body: Option<Vec<u8>>,
    /// The right bytes with one of them changed.
    pub(crate) corrupt: bool,
    /// The whole body and 200, whatever range was asked for.
    pub(crate) ignore_range: bool,
    /// How it is sent.
    pub(crate) shape: Shape,
}

impl Fault {
    /// This status instead.
    pub(crate) fn status(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// The connection ends after so many bytes of the body.
    pub(crate) fn cut(after: u64) -> Self {
        Self { shape: Shape { cut_after: Some(after), ..Shape::default() }, ..Self::default() }
    }

    /// The connection is reset after so many bytes of the body.
    pub(crate) fn reset(after: u64) -> Self {
        Self { shape: Shape { reset_after: Some(after), ..Shape::default() }, ..Self::default() }
    }

    /// Nothing comes after so many bytes of the body.
    pub(crate) fn stall(after: u64) -> Self {
        Self { shape: Shape { stall_after: Some(after), ..Shape::default() }, ..Self::default() }
    }

    /// No more than this many bytes a second.
    pub(crate) fn slow(bytes_per_second: u64) -> Self {
        let shape = Shape { bytes_per_second: Some(bytes_per_second), ..Shape::default() };
        Self { shape, ..Self::default() }
    }

    /// One byte of the body is wrong.
    pub(crate) fn corrupt() -> Self {
        Self { corrupt: true, ..Self::default() }
    }

    /// Ranges are not served.
    pub(crate) fn no_ranges() -> Self {
        Self { ignore_range: true, ..Self::default() }
    }

    /// With this header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn apply(&self, mut response: Response) -> Response {
        if let Some(status) = self.status {
            let mut other = error(status, "SCRIPTED", "scripted failure");
            if (200..400).contains(&status) {
                (other.body, other.range) = (Arc::default(), 0..0);
            }
            response = other;
        }
        if let Some(body) = &self.body {
            response.body = Arc::new(body.clone());
            response.range = 0..body.len();
        }
        if self.corrupt && !response.body.is_empty() {
            let mut body = response.body.as_slice().to_vec();
            body[response.range.start + response.range.len() / 2] ^= 1;
            response.body = Arc::new(body);
        }
        for (name, value) in &self.headers {
            response.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
            response = response.header(name, value);
        }
        response.shape = self.shape.clone();
        response
    }
}

/// Who may read.
#[derive(Clone, Debug, Default)]
pub(crate) enum Auth {
    /// Everyone.
    #[default]
    None,
    /// One user, by Basic.
    Basic { user: String, password: String },
    /// Who has a token; the token endpoint gives it to this user, or to everyone where there is none.
    Bearer { user: Option<(String, String)> },
}

type Hook = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

struct State {
    content: Mutex<BlobSet>,
    hooks: Mutex<Vec<Hook>>,
    auth: Auth,
    scheme: &'static str,
}

/// A registry under the test's control.
pub(crate) struct FakeRegistry {
    server: Server,
    state: Arc<State>,
}

impl FakeRegistry {
    /// A plain, open registry.
    pub(crate) fn start(content: BlobSet) -> Self {
        Self::with(content, Front::Plain, Auth::None)
    }

    /// A registry behind this front that asks for this.
    pub(crate) fn with(content: BlobSet, front: Front, auth: Auth) -> Self {
        let scheme = if matches!(front, Front::Plain) { "http" } else { "https" };
        let state = Arc::new(State { content: Mutex::new(content), hooks: Mutex::default(), auth, scheme });
        let answering = Arc::clone(&state);
        let server = Server::start(front, Arc::new(move |request| answering.respond(request)));
        Self { server, state }
    }

    /// Ends it, and keeps its port, so that whoever asks it is refused.
    pub(crate) fn gone(self) -> Gone {
        self.server.gone()
    }

    /// `127.0.0.1:<port>`, the registry's name in references.
    pub(crate) fn name(&self) -> String {
        self.server.name()
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.state.scheme, self.name())
    }

    /// Changes what it serves.
    pub(crate) fn edit<T>(&self, change: impl FnOnce(&mut BlobSet) -> T) -> T {
        change(&mut self.state.content.lock().unwrap())
    }

    /// Asks this about every request from now on; of several hooks the first that has an answer counts.
    pub(crate) fn on(&self, hook: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        self.state.hooks.lock().unwrap().push(Box::new(hook));
    }

    /// Bends the answers to the next `count` GET requests whose path holds `part`.
    pub(crate) fn fail(&self, mut count: usize, part: &str, fault: &Fault) {
        let (part, fault) = (part.to_owned(), fault.clone());
        self.on(move |request| {
            let hit = count > 0 && request.method == "GET" && request.path.contains(&part);
            hit.then(|| {
                count -= 1;
                fault.clone()
            })
        });
    }

    /// Forgets all hooks.
    pub(crate) fn behave(&self) {
        self.state.hooks.lock().unwrap().clear();
    }

    /// Every exchange since the start, or since [`FakeRegistry::forget`].
    pub(crate) fn log(&self) -> Vec<Exchange> {
        self.server.log()
    }

    /// Forgets the exchanges so far.
    pub(crate) fn forget(&self) {
        self.server.forget();
    }

    /// Connections accepted since the start.
    pub(crate) fn connections(&self) -> usize {
        self.server.connections()
    }

    /// `METHOD path` of every request, `/v2/` left out, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log()
            .iter()
            .map(|exchange| format!("{} {}", exchange.request.method, exchange.request.path))
            .filter(|line| line != "GET /v2/")
            .collect()
    }

    /// Bytes of bodies sent for paths that hold `part`.
    pub(crate) fn sent(&self, part: &str) -> u64 {
        let matching = self.log().into_iter().filter(|exchange| exchange.request.path.contains(part));
        matching.map(|exchange| exchange.sent).sum()
    }
}

impl State {
    fn respond(&self, request: &Request) -> Response {
        let fault = self.hooks.lock().unwrap().iter_mut().find_map(|hook| hook(request));
        let Some(fault) = fault else { return self.right_answer(request) };
        let mut whole = request.clone();
        if fault.ignore_range {
            whole.headers.retain(|(name, _)| name != "range");
        }
        fault.apply(self.right_answer(&whole))
    }

    fn right_answer(&self, request: &Request) -> Response {
        if request.path == "/token" {
            return self.token(request);
        }
        if let Some(refusal) = self.refusal(request) {
            return refusal;
        }
        serve(&self.content.lock().unwrap(), request)
    }

    fn refusal(&self, request: &Request) -> Option<Response> {
        let given = request.header("authorization");
        let challenge = match &self.auth {
            Auth::None => return None,
            Auth::Basic { user, password } => {
                if given == Some(&basic(user, password)) {
                    return None;
                }
                r#"Basic realm="fake""#.to_owned()
            }
            Auth::Bearer { .. } => {
                let repository = repository_of(&request.path).unwrap_or_default();
                if given == Some(&format!("Bearer {}", token_for(&format!("repository:{repository}:pull")))) {
                    return None;
                }
                let realm = format!("{}://{}/token", self.scheme, request.header("host").unwrap_or_default());
                format!(r#"Bearer realm="{realm}",service="fake",scope="repository:{repository}:pull""#)
            }
        };
        let refusal = error(401, "UNAUTHORIZED", "authentication required");
        Some(refusal.header("WWW-Authenticate", &challenge))
    }

    fn token(&self, request: &Request) -> Response {
        if let Auth::Bearer { user: Some((user, password)) } = &self.auth
            && request.header("authorization") != Some(&basic(user, password))
        {
            return error(401, "UNAUTHORIZED", "wrong user or password");
        }
        if request.parameter("service").as_deref() != Some("fake") {
            return error(400, "UNSUPPORTED", "no such service");
        }
        let token = token_for(&request.parameter("scope").unwrap_or_default());
        let body = serde_json::json!({"token": token, "expires_in": 300}).to_string();
        Response::new(200, "application/json", body)
    }
}

/// The token that is good for a scope; recognisable, so that a test can look for it where it must not be.
pub(crate) fn token_for(scope: &str) -> String {
    format!("secret-token-{}", super::hex(scope.as_bytes()))
}

/// The `Authorization` header of Basic.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap();
            text.push(if digit <= chunk.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

fn repository_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().find_map(|part| rest.rfind(part))?;
    Some(&rest[..end])
}

/// An error answer of the distribution spec.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
    Response::new(status, "application/json", body)
}

/// The right answer to a request for `content`, as the distribution spec has it.
pub(crate) fn serve(content: &BlobSet, request: &Request) -> Response {
    if request.path == "/v2/" {
        return Response::new(200, "application/json", "{}");
    }
    let Some(repository) = repository_of(&request.path) else {
        return error(404, "NOT_FOUND", "no such page");
    };
    let rest = &request.path["/v2/".len() + repository.len()..];
    if let Some(name) = rest.strip_prefix("/manifests/") {
        let digest = content.tags.get(&format!("{repository}:{name}")).map_or(name, String::as_str);
        let Some(body) = content.blobs.get(digest) else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let media_type = content.types.get(digest).map_or(OCI_MANIFEST, String::as_str);
        return Response::shared(200, media_type, body).header("Docker-Content-Digest", digest);
    }
    if let Some(digest) = rest.strip_prefix("/blobs/") {
        let Some(body) = content.blobs.get(digest) else {
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        return with_range(Response::shared(200, "application/octet-stream", body), request);
    }
    if let Some(subject) = rest.strip_prefix("/referrers/") {
        let Some(referrers) = &content.referrers else { return error(404, "NOT_FOUND", "no such page") };
        let none = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
        let list = referrers.get(subject).unwrap_or(&none);
        return Response::new(200, OCI_INDEX, list.to_string());
    }
    tags(content, repository, request)
}

/// Serves the range that was asked for, if any.
pub(crate) fn with_range(mut response: Response, request: &Request) -> Response {
    let asked = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let length = response.body.len();
    let Some((from, to)) = asked else { return response.header("Accept-Ranges", "bytes") };
    let from: usize = from.parse().unwrap();
    let to = to.parse::<usize>().map_or(length, |last| length.min(last + 1));
    if from >= to {
        return error(416, "RANGE_INVALID", "range").header("Content-Range", &format!("bytes */{length}"));
    }
    response.status = 206;
    response.range = from..to;
    response.header("Content-Range", &format!("bytes {from}-{}/{length}", to - 1))
}

fn tags(content: &BlobSet, repository: &str, request: &Request) -> Response {
    let last = request.parameter("last").unwrap_or_default();
    let page: usize = request.parameter("n").map_or(usize::MAX, |count| count.parse().unwrap());
    let all: Vec<&str> = content
        .tags
        .keys()
        .filter_map(|name| name.strip_prefix(repository)?.strip_prefix(':'))
        .filter(|tag| *tag > last.as_str())
        .collect();
    let shown = &all[..page.min(all.len())];
    let body = serde_json::json!({"name": repository, "tags": shown}).to_string();
    let response = Response::new(200, "application/json", body);
    match shown.last() {
        Some(last) if shown.len() < all.len() => response
            .header("Link", &format!("</v2/{repository}/tags/list?n={page}&last={last}>; rel=\"next\"")),
        _ => response,
    }
}
