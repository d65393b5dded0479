//! Images signed here and now by the real cosign and notation, from `apply` to a refusal.
//!
//! The tools are those on the PATH, and `cosign2`, `cosign3` and `notation` in the directory that
//! `MSB_SYNC_SIGNING_TOOLS` names, as `tests/fixtures/signing/tools.sh` makes it. Keyless signatures want node
//! too, and npm's `@sigstore/mock` where `NODE_PATH` says. A test whose tools are not here says so.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::docker_registry::DockerRegistry;
use crate::support::image::{BlobSet, Image, Layer, dir, file};
use crate::support::sandbox::Sandbox;
use crate::support::{path, tool};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/signing");
const IDENTITY: &str = "https://github.com/example-org/tool/.github/workflows/publish.yml@refs/tags/v1";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// Finds programs; says it where there is none.
fn programs(names: &[&str]) -> Vec<PathBuf> {
    let given = std::env::var("MSB_SYNC_SIGNING_TOOLS").unwrap_or_default();
    let directories = format!("{given}:{}", path());
    let found: Vec<PathBuf> = names
        .iter()
        .filter_map(|name| {
            let mut places = directories.split(':').filter(|directory| !directory.is_empty());
            places.find_map(|directory| std::fs::canonicalize(Path::new(directory).join(name)).ok())
        })
        .collect();
    if found.is_empty() {
        say(&format!("there is no {}", names.join(" or ")));
    }
    found
}

fn say(missing: &str) {
    let _ = writeln!(std::io::stderr(), "{missing} here: no signature was made and judged");
}

/// A registry with `team/app:1`, an index of one platform, and its user.
struct Setup {
    sandbox: Sandbox,
    registry: DockerRegistry,
}

impl Setup {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let registry = DockerRegistry::start();
        let mut content = BlobSet::default();
        let image = content.image(&Image::new(&[Layer::of(&[dir("d"), file("d/f", "hello")])]));
        let index = content.index(false, &[image]);
        let layout = sandbox.root().join("layout");
        content.write_layout(&layout, &[("1", &index)]);
        registry.push(&format!("oci:{}:1", layout.display()), "team/app:1", &["--all"]);
        Self { sandbox, registry }
    }

    fn name(&self) -> String {
        format!("{}/team/app", self.registry.name())
    }

    /// Runs a signing tool with an environment.
    #[track_caller]
    fn run(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let work = self.sandbox.work();
        let output = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", path())
            .env("HOME", self.sandbox.user())
            .env("COSIGN_PASSWORD", "")
            .env("COSIGN_YES", "true")
            .envs(environment.iter().copied())
            .current_dir(work)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} {arguments:?}: {said}", program.display());
        String::from_utf8_lossy(&output.stdout).into_owned() + &said
    }

    fn reference(&self) -> String {
        format!("{}@{}", self.name(), self.registry.digest_of("team/app:1"))
    }

    /// Writes the images file with one rule and more settings.
    fn rule(&self, settings: &str, rule: &str) {
        let registry = self.registry.name();
        self.sandbox.images(&format!(
            "[settings]\n{settings}\n[registry.\"{registry}\"]\nimages = [\"team/app:1\"]\n\
             [[trust]]\nimages = [\"{}\"]\n{rule}\n",
            self.name()
        ));
    }

    /// Applies: the image has to be there, signed.
    #[track_caller]
    fn accepts(&self) -> Value {
        self.sandbox.msb("apply").run().success();
        let listed = self.sandbox.msb("list --json").run().success().json();
        let trust = listed["images"][0]["trust"].clone();
        assert_eq!(trust["status"], "verified", "{listed}");
        trust
    }

    /// Applies: the image has to be refused, with a reason.
    #[track_caller]
    fn refuses(&self, reason: &str) {
        self.sandbox.msb("apply").run().code(1).says(reason);
    }

    fn cosign(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
        let reference = self.reference();
        let mut all = vec!["sign", "--allow-http-registry"];
        all.extend(arguments);
        all.push(&reference);
        self.run(program, &all, environment);
    }
}

/// True if a cosign takes its services from a file, as from version 3 on.
fn takes_services_from_a_file(setup: &Setup, cosign: &Path) -> bool {
    setup.run(cosign, &["sign", "--help"], &[]).contains("--signing-config")
}

#[test]
fn an_image_signed_with_a_key_is_applied_and_with_another_key_refused() {
    for cosign in programs(&["cosign2", "cosign3", "cosign"]) {
        let setup = Setup::new();
        for key in ["team", "other"] {
            setup.run(&cosign, &["generate-key-pair", "--output-key-prefix", key], &[]);
        }
        setup.rule("", "key = \"team.pub\"");
        setup.refuses("no signature");
        assert!(setup.sandbox.extracted().is_empty());

        let services = json!({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "rekorTlogConfig": {}, "tsaConfig": {}});
        setup.sandbox.write("services", services.to_string());
        let how = if takes_services_from_a_file(&setup, &cosign) {
            ["--signing-config", "services"]
        } else {
            ["--tlog-upload=false", "--upload=true"]
        };
        setup.cosign(&cosign, &[&how[..], &["--key", "team.key"]].concat(), &[]);
        let trust = setup.accepts();
        assert!(trust["by"].as_str().unwrap().contains("team.pub"), "{trust}");

        setup.rule("", "key = \"other.pub\"");
        setup.refuses("other.pub");
        setup.rule("", "key = \"team.pub\"\nlog = \"required\"");
        setup.refuses("log");
        setup.rule("", "key = \"team.pub\"");
        setup.accepts();
    }
}

#[test]
fn an_image_signed_by_notation_is_applied_and_below_another_root_refused() {
    for notation in programs(&["notation"]) {
        for form in ["jws", "cose"] {
            let setup = Setup::new();
            let config = setup.sandbox.user().join(".config/notation");
            let environment = [("XDG_CONFIG_HOME", setup.sandbox.user().join(".config"))];
            let environment = [(environment[0].0, environment[0].1.to_str().unwrap())];
            for name in ["team", "other"] {
                setup.run(&notation, &["cert", "generate-test", name], &environment);
                let certificate = config.join(format!("localkeys/{name}.crt"));
                setup.sandbox.write(&format!("{name}.pem"), std::fs::read(certificate).unwrap());
            }
            let rule = |roots: &str, subject: &str| {
                setup.rule("", &format!("notation = {{ roots = \"{roots}.pem\", subject = \"{subject}\" }}"));
            };
            rule("team", "O=Notary,CN=te*");
            setup.refuses("no signature");
            let (reference, key) = (setup.reference(), ["--key", "team", "--signature-format", form]);
            let sign = [&["sign", "--insecure-registry"][..], &key, &[&reference]].concat();
            setup.run(&notation, &sign, &environment);
            let trust = setup.accepts();
            assert!(trust["by"].as_str().unwrap().contains("CN=team"), "{trust}");
            rule("other", "O=Notary");
            setup.refuses("none of the roots");
            rule("team", "O=Acme");
            setup.refuses("another subject");
        }
    }
}

/// A Sigstore on loopback, which ends when dropped.
struct Sigstore {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Sigstore {
    /// Starts one, where node and the package are.
    fn start(sandbox: &Sandbox) -> Option<Self> {
        let modules = std::env::var("NODE_PATH").unwrap_or_default();
        if programs(&["node"]).is_empty() || !Path::new(&modules).join("@sigstore/mock").exists() {
            say("there is no node with @sigstore/mock");
            return None;
        }
        let directory = sandbox.root().join("sigstore");
        let mut process = Command::new("node")
            .args([
                &format!("{FIXTURES}/sigstore.js"),
                directory.to_str().unwrap(),
                &three_ports().to_string(),
            ])
            .env("NODE_PATH", modules)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "ready"), "sigstore.js has ended");
        // Until it ends: a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let root: Value =
            serde_json::from_slice(&std::fs::read(directory.join("trusted_root.json")).unwrap()).unwrap();
        let uri = root["certificateAuthorities"][0]["uri"].as_str().unwrap();
        let port = uri.rsplit(':').next().unwrap().parse().unwrap();
        Some(Self { process, directory, port })
    }
}

impl Drop for Sigstore {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first of three free ports in a row.
fn three_ports() -> u16 {
    (0..100)
        .find_map(|_| {
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = first.local_addr().unwrap().port();
            let others = [1, 2].map(|more| TcpListener::bind(("127.0.0.1", port.checked_add(more)?)).ok());
            others.iter().all(Option::is_some).then_some(port)
        })
        .unwrap()
}

/// A token of GitHub's for the workflow [`IDENTITY`]; nobody checks its signature.
fn token(sandbox: &Sandbox) -> String {
    let script = "import base64, json, sys, time\n\
        part = lambda data: base64.urlsafe_b64encode(data).decode().rstrip('=')\n\
        now = int(time.time())\n\
        claims = {'aud': 'sigstore', 'sub': 'x', 'iat': now, 'exp': now + 3600, **json.loads(sys.argv[1])}\n\
        print('.'.join([part(b'{\"alg\":\"ES256\"}'), part(json.dumps(claims).encode()), part(b'x' * 64)]), end='')";
    let workflow = IDENTITY.strip_prefix("https://github.com/").unwrap();
    let claims = json!({"san": IDENTITY, "iss": ISSUER, "repository": "example-org/tool", "ref": "refs/tags/v1",
        "workflow_ref": workflow, "job_workflow_ref": workflow});
    String::from_utf8(tool(sandbox.root(), "python3", &["-c", script, &claims.to_string()])).unwrap()
}

#[test]
fn an_image_signed_by_a_workflow_is_applied_and_by_another_refused() {
    for cosign in programs(&["cosign2", "cosign3", "cosign"]) {
        let setup = Setup::new();
        let Some(sigstore) = Sigstore::start(&setup.sandbox) else { return };
        let (port, directory) = (sigstore.port, sigstore.directory.display().to_string());
        let [fulcio, rekor] = [0, 1].map(|more| format!("http://127.0.0.1:{}", port + more));
        let token = token(&setup.sandbox);
        setup.sandbox.write("token", &token);
        if takes_services_from_a_file(&setup, &cosign) {
            let service = |url: &str| json!([{"url": url, "validFor": {"start": "2024-01-01T00:00:00Z"}, "majorApiVersion": 1, "operator": "x"}]);
            let services = json!({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service(&fulcio), "rekorTlogUrls": service(&rekor),
                "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {}});
            setup.sandbox.write("services", services.to_string());
            let root = format!("{directory}/trusted_root.json");
            let how = ["--signing-config", "services", "--trusted-root", &root, "--identity-token", "token"];
            setup.cosign(&cosign, &how, &[]);
        } else {
            let keys = ["ctlog.pub", "rekor.pub", "fulcio.pem"].map(|name| format!("{directory}/{name}"));
            let how = ["--fulcio-url", &fulcio, "--rekor-url", &rekor, "--identity-token", &token];
            let environment = [
                ("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", keys[0].as_str()),
                ("SIGSTORE_REKOR_PUBLIC_KEY", &keys[1]),
                ("SIGSTORE_ROOT_FILE", &keys[2]),
            ];
            setup.cosign(&cosign, &how, &environment);
        }
        let settings = format!("trusted-root = \"{directory}/trusted_root.json\"");
        let rule = |rest: &str| {
            setup.rule(&settings, &format!("keyless = {{ issuer = \"{ISSUER}\", {rest} }}"));
        };
        rule(&format!("identity = \"{}\"", IDENTITY.replace("v1", "*")));
        let trust = setup.accepts();
        assert_eq!(trust["issuer"], ISSUER);
        rule("repository = \"example-org/tool\", workflow = \"publish.yml\", ref = \"refs/tags/*\"");
        setup.accepts();
        rule("repository = \"example-org/other\"");
        setup.refuses("example-org/tool");
        rule("repository = \"example-org/tool\", ref = \"refs/heads/*\"");
        setup.refuses("refs/tags/v1");
        // Another Sigstore is believed: the one that is built in.
        setup.rule("", &format!("keyless = {{ issuer = \"{ISSUER}\", identity = \"{IDENTITY}\" }}"));
        setup.refuses("expected");
    }
}
