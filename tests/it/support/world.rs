//! docker.io and ghcr.io by their real names: one loopback TLS server that answers as they do, behind a CONNECT
//! proxy which `HTTPS_PROXY` names, trusted through `SSL_CERT_FILE`.
//!
//! As they do: every repository wants a Bearer token; Docker Hub's token answer has `token` and `access_token`,
//! ghcr.io's only `token`; blobs are redirected to another host by a signed URL, and that host refuses a
//! request which carries `Authorization`.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::fake_registry::{error, serve, token_for, with_range};
use super::http::{Exchange, Front, Request, Response, Server};
use super::image::BlobSet;
use super::sandbox::{Run, Sandbox};
use super::tls::Authority;

/// The signature in every redirect: a secret that no output may show.
pub(crate) const SIGNATURE: &str = "c2lnbmVkLWJ5LXRoZS1jZG4";

const HUB: &str = "registry-1.docker.io";
const HUB_AUTH: &str = "auth.docker.io";
const HUB_CDN: &str = "production.cloudfront.docker.com";
const GHCR: &str = "ghcr.io";
const GHCR_CDN: &str = "pkg-containers.githubusercontent.com";

/// The two registries.
pub(crate) struct World {
    server: Server,
    hub: Arc<Mutex<BlobSet>>,
    ghcr: Arc<Mutex<BlobSet>>,
    authority: Authority,
}

impl World {
    /// Starts with nothing in either.
    pub(crate) fn start() -> Self {
        let authority = Authority::new();
        let tls = authority.server(&[HUB, HUB_AUTH, HUB_CDN, GHCR, GHCR_CDN]);
        let (hub, ghcr) =
            (Arc::new(Mutex::new(BlobSet::default())), Arc::new(Mutex::new(BlobSet::default())));
        let (hub_content, ghcr_content) = (Arc::clone(&hub), Arc::clone(&ghcr));
        let handler = move |request: &Request| match request.host() {
            HUB => registry(&hub_content.lock().unwrap(), request, "https://auth.docker.io/token"),
            GHCR if request.path != "/token" => {
                registry(&ghcr_content.lock().unwrap(), request, "https://ghcr.io/token")
            }
            HUB_AUTH | GHCR => token(request),
            HUB_CDN => blob(&hub_content.lock().unwrap(), request),
            GHCR_CDN => blob(&ghcr_content.lock().unwrap(), request),
            _ => error(421, "MISDIRECTED", "no such host here"),
        };
        let server = Server::start(Front::Proxy(tls), Arc::new(handler));
        Self { server, hub, ghcr, authority }
    }

    /// Changes what docker.io serves.
    pub(crate) fn hub<T>(&self, change: impl FnOnce(&mut BlobSet) -> T) -> T {
        change(&mut self.hub.lock().unwrap())
    }

    /// Changes what ghcr.io serves.
    pub(crate) fn ghcr<T>(&self, change: impl FnOnce(&mut BlobSet) -> T) -> T {
        change(&mut self.ghcr.lock().unwrap())
    }

    /// Lets a run see this world.
    pub(crate) fn seen_by(&self, sandbox: &Sandbox, run: Run) -> Run {
        let trust = sandbox.write("world-ca.pem", self.authority.pem());
        run.env("HTTPS_PROXY", format!("http://{}", self.server.name())).env("SSL_CERT_FILE", trust)
    }

    /// Every exchange so far.
    pub(crate) fn log(&self) -> Vec<Exchange> {
        self.server.log()
    }

    /// Forgets the exchanges so far.
    pub(crate) fn forget(&self) {
        self.server.forget();
    }

    /// What the proxy was asked, `CONNECT host:port`.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        self.server.tunnels()
    }
}

fn registry(content: &BlobSet, request: &Request, realm: &str) -> Response {
    let (host, path) = (request.host(), &request.path);
    let repository = path.strip_prefix("/v2/").unwrap_or_default();
    let repository = ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|part| repository.split_once(part));
    let repository = repository.map_or("", |(repository, _)| repository);
    let scope = format!("repository:{repository}:pull");
    if request.header("authorization") != Some(&format!("Bearer {}", token_for(&scope))) {
        let service = if host == HUB { "registry.docker.io" } else { host };
        let challenge = if repository.is_empty() {
            format!(r#"Bearer realm="{realm}",service="{service}""#)
        } else {
            format!(r#"Bearer realm="{realm}",service="{service}",scope="{scope}""#)
        };
        let refusal = error(401, "UNAUTHORIZED", "authentication required");
        return refusal.header("WWW-Authenticate", &challenge);
    }
    let answer = serve(content, request);
    let Some((_, digest)) = path.split_once("/blobs/").filter(|_| answer.status < 300) else {
        return answer.header("RateLimit-Remaining", "99;w=21600");
    };
    let target = if host == HUB {
        format!(
            "https://{HUB_CDN}/registry-v2/docker/registry/v2/blobs/{digest}?Expires=1&Signature={SIGNATURE}"
        )
    } else {
        format!("https://{GHCR_CDN}/ghcr1/blobs/{digest}?se=1&sig={SIGNATURE}")
    };
    Response::new(307, "text/html", "moved").header("Location", &target)
}

fn token(request: &Request) -> Response {
    let hub = request.host() == HUB_AUTH;
    let service = if hub { "registry.docker.io" } else { GHCR };
    if request.parameter("service").as_deref() != Some(service) {
        return error(400, "UNSUPPORTED", "no such service");
    }
    let token = token_for(&request.parameter("scope").unwrap_or_default());
    let body = if hub {
        json!({"token": token, "access_token": token, "expires_in": 300, "issued_at": "2024-05-06T07:08:09Z"})
    } else {
        json!({"token": token})
    };
    Response::new(200, "application/json", body.to_string())
}

/// A content host: knows signed URLs, not users.
fn blob(content: &BlobSet, request: &Request) -> Response {
    if request.header("authorization").is_some() {
        return error(400, "INVALID", "only one auth mechanism allowed");
    }
    if !request.query.contains(SIGNATURE) {
        return error(403, "DENIED", "not signed");
    }
    let digest = request.path.rsplit('/').next().unwrap_or_default();
    match content.blobs.get(digest) {
        Some(body) => with_range(Response::shared(200, "application/octet-stream", body), request),
        None => error(404, "BLOB_UNKNOWN", "no such blob"),
    }
}
