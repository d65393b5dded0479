//! Real servers: `docker-registry` behind `nginx` as companies run it (a password, TLS by an authority of their
//! own, blobs by redirect, limits), and as a cache that pulls through.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::check::{assert_exact, image, listed, wanted};
use crate::support::docker_registry::{DockerRegistry, PASSWORD, USER};
use crate::support::fake_registry::{base64, basic, error};
use crate::support::http::{Front, Response, Server};
use crate::support::image::{BlobSet, Image, Layer, dir, file, noise};
use crate::support::nginx::{Nginx, Site};
use crate::support::sandbox::{Run, Sandbox};
use crate::support::tls::Authority;
use crate::support::{eventually, tool};

/// Pushes images of `sizes` bytes, `team/app0:1`, `team/app1:1` and so on, and returns all their blobs.
fn push(registry: &DockerRegistry, sandbox: &Sandbox, sizes: &[usize], more: &[&str]) -> BlobSet {
    let mut content = BlobSet::default();
    for (number, &size) in sizes.iter().enumerate() {
        let seed = 1 + number as u64;
        let layers = [
            Layer::of(&[dir("d"), file("d/f", noise(seed, size))]),
            Layer::of(&[file("x", noise(seed, 99))]),
        ];
        let image = content.image(&Image::new(&layers));
        content.tag(&format!("team/app{number}:1"), &image);
        let layout = sandbox.root().join(format!("layout{number}"));
        content.write_layout(&layout, &[("1", &image)]);
        registry.push(&format!("oci:{}:1", layout.display()), &format!("team/app{number}:1"), more);
    }
    content
}

/// Fails unless `team/app<number>:1` of `name` is here as `content` has it.
#[track_caller]
fn assert_applied(sandbox: &Sandbox, name: &str, count: usize, content: &BlobSet) {
    let images = listed(sandbox);
    assert_eq!(images.len(), count);
    for number in 0..count {
        let image = image(&images, &format!("{name}/team/app{number}:1"));
        assert_exact(image, &|digest| content.blobs[digest].to_vec());
    }
}

/// A company's registry: `docker-registry` with a password behind nginx with TLS. Blobs are redirected to another
/// port, which has the registry's password itself and refuses whoever brings one.
struct Company {
    authority: Authority,
    nginx: Nginx,
    content: BlobSet,
    _registry: DockerRegistry,
}

impl Company {
    /// `limits` go into the place that serves manifests, `speed` into that of the blobs.
    fn start(sandbox: &Sandbox, sizes: &[usize], limits: &str, speed: &str) -> Self {
        let registry = DockerRegistry::with_password();
        let content = push(&registry, sandbox, sizes, &["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        let authority = Authority::new();
        let (behind, right) = (registry.name(), basic(USER, PASSWORD));
        let nginx = Nginx::start(&Site {
            authority: &authority,
            ports: 2,
            http: &|ports| {
                let [front, blobs] = ports else { panic!("two ports") };
                format!(
                    "limit_req_zone $binary_remote_addr zone=manifests:1m rate=4r/s;\n\
                     limit_req_status 429;\n\
                     server {{\n listen 127.0.0.1:{front} ssl;\n\
                       proxy_set_header Host $http_host;\n proxy_set_header X-Forwarded-Proto https;\n\
                       location /v2/ {{\n {limits}\n proxy_pass http://{behind};\n }}\n\
                       location ~ ^/v2/.*/blobs/ {{\n\
                         if ($http_authorization = '{right}') {{\n\
                           return 307 https://127.0.0.1:{blobs}$request_uri?signature=c2lnbmVk;\n }}\n\
                         proxy_pass http://{behind};\n }}\n\
                       location @wait {{ internal; add_header Retry-After 1 always; return 429 'wait'; }}\n\
                     }}\n\
                     server {{\n listen 127.0.0.1:{blobs} ssl;\n\
                       location / {{\n {speed}\n\
                         if ($http_authorization) {{ return 400; }}\n\
                         proxy_buffering off;\n proxy_set_header Authorization '{right}';\n\
                         proxy_pass http://{behind};\n }}\n\
                     }}\n"
                )
            },
        });
        Self { authority, nginx, content, _registry: registry }
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.nginx.port(0))
    }

    /// Writes an images file that wants its first images, with its authority and this user's password.
    fn wanted(&self, sandbox: &Sandbox, count: usize, more: &str) {
        sandbox.write("corp-ca.pem", self.authority.pem());
        let images: Vec<String> = (0..count).map(|number| format!("team/app{number}:1")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let name = self.name();
        sandbox.images(&format!(
            "{}endpoint = \"https://{name}\"\nca = \"corp-ca.pem\"\nusername = {USER:?}\npassword-env = \"CORP_PASSWORD\"\n{more}",
            wanted(&name, &images)
        ));
    }
}

fn with_password(run: Run) -> Run {
    run.env("CORP_PASSWORD", PASSWORD)
}

#[test]
fn a_companys_registry_with_password_authority_and_redirects() {
    let sandbox = Sandbox::in_memory();
    let company = Company::start(&sandbox, &[300_000, 20_000], "", "");
    company.wanted(&sandbox, 2, "");
    let output = with_password(sandbox.msb("apply --json -vv")).run().success();
    assert_eq!(output.summary()["added"], 2, "{output}");
    assert_applied(&sandbox, &company.name(), 2, &company.content);
    let shown = format!("{output}");
    assert!(!shown.contains(PASSWORD) && !shown.contains("c2lnbmVk"), "a secret in {output}");
    assert!(company.nginx.log().iter().any(|line| line.starts_with("307 ")), "blobs are redirected");

    let before = company.nginx.log().len();
    let again = with_password(sandbox.msb("apply --json")).run().success();
    assert_eq!(again.summary()["unchanged"], 2, "{again}");
    let log = company.nginx.log().split_off(before);
    assert!(log.iter().all(|line| line.contains(" HEAD ")), "{log:#?}");

    // Wrong password: one clear error an image, and no storm of requests.
    let before = company.nginx.log().len();
    let output = sandbox.msb("apply").env("CORP_PASSWORD", "wrong-one").run().code(1);
    assert!(output.stderr.contains("HTTP 401") && output.stderr.contains("hint: "), "{output}");
    assert!(!format!("{output}").contains("wrong-one"), "{output}");
    let requests = company.nginx.log().split_off(before);
    assert!(requests.len() <= 8, "{requests:#?}");

    // Without the authority nobody is believed.
    let text = std::fs::read_to_string(sandbox.work().join("images.toml")).unwrap();
    sandbox.images(&text.replace("ca = \"corp-ca.pem\"\n", ""));
    let output = with_password(sandbox.msb("plan")).run().code(1);
    output.says("is not trusted").says("hint: name the certificate authority");
}

#[test]
fn a_download_that_was_killed_is_resumed_behind_a_real_server() {
    let sandbox = Sandbox::in_memory();
    let size = 3_000_000;
    let company = Company::start(&sandbox, &[size], "", "limit_rate 1500k;");
    company.wanted(&sandbox, 1, "");
    let running = with_password(sandbox.msb("apply")).spawn();
    let downloads = sandbox.home().join("downloads");
    let spooled = || -> u64 {
        let Ok(entries) = std::fs::read_dir(&downloads) else { return 0 };
        entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    };
    eventually("a part has arrived", Duration::from_secs(30), || spooled() > 400_000);
    running.signal(Signal::KILL);
    running.wait().killed_by(Signal::KILL);
    let kept = spooled();
    with_password(sandbox.msb("apply")).run().success();
    assert_applied(&sandbox, &company.name(), 1, &company.content);
    let log = company.nginx.log();
    let resumed: Vec<&String> = log.iter().filter(|line| line.starts_with("206 ")).collect();
    assert_eq!(resumed.len(), 1, "{log:#?}");
    let fields: Vec<&str> = resumed[0].split(' ').collect();
    let sent: u64 = fields[3].parse().unwrap();
    let largest = company.content.blobs.values().map(|blob| blob.len() as u64).max().unwrap();
    assert!(
        fields[4].starts_with("bytes=") && sent <= largest - 400_000 && sent + kept >= largest,
        "{log:#?}"
    );
}

#[test]
fn a_rate_limit_slows_a_run_down_and_does_not_fail_it() {
    let sandbox = Sandbox::in_memory();
    let limits = "limit_req zone=manifests burst=2 nodelay;\n error_page 429 @wait;";
    let company = Company::start(&sandbox, &[2_000; 8], limits, "");
    company.wanted(&sandbox, 8, "");
    let output = with_password(sandbox.msb("apply -v")).run().success();
    assert_applied(&sandbox, &company.name(), 8, &company.content);
    let log = company.nginx.log();
    assert!(log.iter().any(|line| line.starts_with("429 ")), "nothing was refused: {log:#?}");
    assert!(output.stderr.contains("; it asks to wait 1 s; trying again in 1.0 s"), "{output}");
}

#[test]
fn a_cache_that_pulls_through_is_a_mirror() {
    let sandbox = Sandbox::in_memory();
    let origin = DockerRegistry::start();
    let content = push(&origin, &sandbox, &[100_000, 5_000], &[]);
    let cache = DockerRegistry::pulling_through(&format!("http://{}", origin.name()));
    let images = wanted(origin.name(), &["team/app0:1", "team/app1:1"]);
    let mirrored = format!("{images}mirrors = [\"http://{}\"]\n", cache.name());
    sandbox.images(&mirrored);
    origin.requests();
    sandbox.msb("apply").run().success();
    assert_applied(&sandbox, origin.name(), 2, &content);
    let layers = |requests: &[String]| {
        requests.iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/")).count()
    };
    assert_eq!(layers(&cache.requests()), 6, "two configs and four layers came from the cache");
    // It passes a blob on and stores it by two requests.
    assert!(layers(&origin.requests()) >= 6, "which got them from the registry");
    eventually("the cache has stored it all", Duration::from_secs(20), || {
        content.blobs.keys().all(|digest| cache.holds(digest))
    });
    origin.requests();

    // The next machine costs the registry no more than the question what the tags mean.
    let next = Sandbox::in_memory();
    next.images(&mirrored);
    next.msb("apply").run().success();
    assert_applied(&next, origin.name(), 2, &content);
    assert_eq!(layers(&cache.requests()), 6);
    let asked = origin.requests();
    assert_eq!(layers(&asked), 0, "{asked:?}");
    let heads = asked.iter().filter(|line| line.starts_with("HEAD") && line.contains("/manifests/1")).count();
    assert_eq!(heads, 2, "{asked:?}");
}

/// A token that a `docker-registry` with this certificate believes, for all of `team/app0`.
fn signed_token(sandbox: &Sandbox, service: &str) -> String {
    let directory = sandbox.root();
    let request = "req -x509 -newkey rsa:2048 -nodes -keyout token-key.pem -out token-cert.pem -days 2 -subj /CN=tokens";
    tool(directory, "openssl", &request.split(' ').collect::<Vec<_>>());
    let certificate = std::fs::read_to_string(directory.join("token-cert.pem")).unwrap();
    let certificate: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
    let url_safe = |bytes: &[u8]| base64(bytes).replace('+', "-").replace('/', "_").replace('=', "");
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({
        "iss": "tests", "sub": "puller", "aud": service, "exp": 4_102_444_800_u64, "nbf": 0, "iat": 0, "jti": "1",
        "access": [{"type": "repository", "name": "team/app0", "actions": ["pull", "push"]}],
    });
    let payload = [header, claims].map(|part| url_safe(part.to_string().as_bytes())).join(".");
    std::fs::write(directory.join("payload"), &payload).unwrap();
    tool(
        directory,
        "openssl",
        &["dgst", "-sha256", "-sign", "token-key.pem", "-out", "signature", "payload"],
    );
    let signature = std::fs::read(directory.join("signature")).unwrap();
    format!("{payload}.{}", url_safe(&signature))
}

#[test]
fn a_registry_that_believes_a_token_server() {
    let sandbox = Sandbox::in_memory();
    let token = signed_token(&sandbox, "real-registry");
    let (right, issued) = (basic(USER, PASSWORD), Arc::new(Mutex::new(Vec::new())));
    let (giving, noting) = (token.clone(), Arc::clone(&issued));
    let tokens = Server::start(
        Front::Plain,
        Arc::new(move |request| {
            noting.lock().unwrap().push(request.parameter("scope").unwrap_or_default());
            if request.header("authorization") != Some(&right) {
                return error(401, "UNAUTHORIZED", "wrong user or password");
            }
            Response::new(200, "application/json", json!({"token": giving}).to_string())
        }),
    );
    let registry = DockerRegistry::with(&format!(
        "auth: {{token: {{realm: 'http://{}/token', service: real-registry, issuer: tests, rootcertbundle: '{}'}}}}\n",
        tokens.name(),
        sandbox.root().join("token-cert.pem").display()
    ));
    let content = push(&registry, &sandbox, &[50_000], &["--dest-creds", &format!("{USER}:{PASSWORD}")]);
    issued.lock().unwrap().clear();
    let images = wanted(registry.name(), &["team/app0:1"]);
    sandbox.images(&format!("{images}username = {USER:?}\npassword-env = \"CORP_PASSWORD\"\n"));
    let output = with_password(sandbox.msb("apply -vv")).run().success();
    assert_applied(&sandbox, registry.name(), 1, &content);
    assert_eq!(*issued.lock().unwrap(), ["repository:team/app0:pull"], "one token for all threads");
    let shown = format!("{output}");
    assert!(!shown.contains(PASSWORD) && !shown.contains(&token[..40]), "a secret in {output}");

    let refused = sandbox.msb("apply").env("CORP_PASSWORD", "wrong-one").run().code(1);
    assert!(refused.stderr.contains("HTTP 401") && refused.stderr.contains("hint: "), "{refused}");
}

#[test]
fn what_podmans_login_stores_as_root_is_found() {
    let registry = DockerRegistry::with_password();
    let sandbox = Sandbox::in_memory();
    push(&registry, &sandbox, &[9], &["--dest-creds", &format!("{USER}:{PASSWORD}")]);
    sandbox.images(&wanted(registry.name(), &["team/app0:1"]));
    // skopeo logs in by podman's library. Without XDG_RUNTIME_DIR that stores below /run, here in a mount of the test's
    // own, which ends with it.
    let script = "mount -t tmpfs none /run && \
                  skopeo login --tls-verify=false --username \"$1\" --password \"$2\" \"$3\" && \
                  test -s /run/containers/0/auth.json && shift 3 && exec \"$@\"";
    let all = ["--mount", "sh", "-c", script, "sh", USER, PASSWORD, registry.name()];
    let program = [env!("CARGO_BIN_EXE_msb-sync"), "plan"];
    let probe = ["--mount", "mount", "-t", "tmpfs", "none", "/run"];
    if !sandbox.program("unshare", &probe).run().status.success() {
        use std::io::Write as _;
        let why = "needs root and `unshare --mount`: a login in /run/containers was not tried";
        let _ = writeln!(std::io::stderr(), "{why}");
        return;
    }
    sandbox.msb("plan").run().code(1).says("HTTP 401");
    let plan = sandbox.program("unshare", &[&all[..], &program].concat()).run().success();
    assert!(plan.stdout.contains("1 to add"), "{plan}");
    assert!(!format!("{}{}", plan.stdout, plan.stderr).contains(PASSWORD), "{plan}");
}
