//! Debian's `docker-registry`, started for one test on a free port, killed when dropped.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{eventually, tool, tool_command};

/// Who may use a registry with a password.
pub(crate) const USER: &str = "puller";
/// The password.
pub(crate) const PASSWORD: &str = "hunter2secret";
/// `htpasswd -nbBC 5 puller hunter2secret`
const HASH: &str = "$2y$05$86SDPHzJazvCYxoLcUrXg.TPluEH6yxN.VT226n3X7Q1EHzB79YjG";

/// A real registry on loopback.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    directory: TempDir,
    process: Child,
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl DockerRegistry {
    /// Starts one with nothing in it.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// Starts one that takes what it has from `upstream`, and keeps it.
    pub(crate) fn pulling_through(upstream: &str) -> Self {
        Self::with(&format!("proxy: {{remoteurl: '{upstream}'}}\n"))
    }

    /// Starts one that only [`USER`] with [`PASSWORD`] may read and write.
    pub(crate) fn with_password() -> Self {
        Self::with("auth: {htpasswd: {realm: test, path: htpasswd}}\n")
    }

    /// Starts one with more configuration.
    pub(crate) fn with(more: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = format!(
            "version: 0.1\n\
             log: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n\
             {more}",
            directory.path().join("data").display()
        );
        std::fs::write(directory.path().join("config.yml"), config).unwrap();
        std::fs::write(directory.path().join("htpasswd"), format!("{USER}:{HASH}\n")).unwrap();
        let mut process = tool_command(directory.path(), "docker-registry")
            .args(["serve", "config.yml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("needs Debian's docker-registry: {error}"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (noting, log) = (Arc::clone(&requests), BufReader::new(process.stderr.take().unwrap()));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Until the registry ends; whoever waits for the port has a time limit.
            for line in log.lines().map_while(Result::ok) {
                let Ok(entry) = serde_json::from_str::<Value>(&line) else { continue };
                let message = entry["msg"].as_str().unwrap_or_default();
                if let Some(address) = message.strip_prefix("listening on ") {
                    let _ = sender.send(address.to_owned());
                }
                if message.starts_with("response completed") {
                    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                    let request = format!("{} {}", text("http.request.method"), text("http.request.uri"));
                    noting.lock().unwrap().push(request);
                }
            }
        });
        let address = receiver.recv_timeout(Duration::from_secs(20)).expect("docker-registry did not start");
        Self { directory, process, address, requests }
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn name(&self) -> &str {
        &self.address
    }

    /// Pushes by `skopeo copy SOURCE docker://…/NAME`, with more arguments of skopeo's.
    #[track_caller]
    pub(crate) fn push(&self, source: &str, name: &str, more: &[&str]) {
        let target = format!("docker://{}/{name}", self.address);
        let mut arguments = vec!["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(more);
        arguments.extend([source, &target]);
        tool(self.directory.path(), "skopeo", &arguments);
    }

    /// Uploads the file at `path`, whose digest this is.
    #[track_caller]
    pub(crate) fn put_blob(&self, repository: &str, digest: &str, path: &Path) {
        let uploads = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let arguments = ["--silent", "--fail", "--include", "--request", "POST", &uploads];
        let answer = String::from_utf8(tool(self.directory.path(), "curl", &arguments)).unwrap();
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
        let separator = if location.contains('?') { '&' } else { '?' };
        self.put(&format!("{location}{separator}digest={digest}"), "application/octet-stream", path);
    }

    /// Puts the file at `path` under a tag or its digest, a manifest or an index as its type says.
    #[track_caller]
    pub(crate) fn put_manifest(&self, repository: &str, name: &str, media_type: &str, path: &Path) {
        self.put(&format!("http://{}/v2/{repository}/manifests/{name}", self.address), media_type, path);
    }

    #[track_caller]
    fn put(&self, url: &str, media_type: &str, path: &Path) {
        let (kind, data) = (format!("Content-Type: {media_type}"), format!("@{}", path.display()));
        let arguments =
            ["--silent", "--fail", "--request", "PUT", "--header", &kind, "--data-binary", &data, url];
        tool(self.directory.path(), "curl", &arguments);
    }

    /// The bytes of a blob or manifest, read from its data directory.
    #[track_caller]
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        std::fs::read(self.data_of(digest))
            .unwrap_or_else(|error| panic!("the registry has no {digest}: {error}"))
    }

    /// Whether it holds a blob or manifest.
    pub(crate) fn holds(&self, digest: &str) -> bool {
        self.data_of(digest).exists()
    }

    fn data_of(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let path: PathBuf = ["data/docker/registry/v2/blobs/sha256", &hex[..2], hex, "data"].iter().collect();
        self.directory.path().join(path)
    }

    /// The digest that a tag means.
    #[track_caller]
    pub(crate) fn digest_of(&self, name: &str) -> String {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let path =
            format!("data/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link");
        std::fs::read_to_string(self.directory.path().join(path)).unwrap()
    }

    /// `METHOD uri` of every request since the last call, as the registry logs them.
    pub(crate) fn requests(&self) -> Vec<String> {
        // The log comes a little after the answer; a request of our own marks its end.
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let mark = format!("/v2/?mark={}", MARKS.fetch_add(1, Ordering::Relaxed));
        let url = format!("http://{}{mark}", self.address);
        tool(self.directory.path(), "curl", &["--silent", "--fail", &url]);
        let marked = format!("GET {mark}");
        eventually("the registry logged the mark", Duration::from_secs(10), || {
            self.requests.lock().unwrap().contains(&marked)
        });
        std::thread::sleep(Duration::from_millis(20));
        let all = std::mem::take(&mut *self.requests.lock().unwrap());
        all.into_iter().filter(|request| *request != marked).collect()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
