//! Debian's `nginx` as the front of a registry, started for one test on free ports, killed when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tls::Authority;
use super::tool_command;

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    directory: TempDir,
    process: Child,
    ports: Vec<u16>,
}

/// What a test configures.
pub(crate) struct Site<'a> {
    /// Whose certificate for 127.0.0.1 and localhost all servers present.
    pub(crate) authority: &'a Authority,
    /// Ports that are needed.
    pub(crate) ports: usize,
    /// The inside of `http { … }`, given the ports.
    pub(crate) http: &'a dyn Fn(&[u16]) -> String,
}

impl Nginx {
    /// Starts one; every server logs `status method uri bytes range` to [`Nginx::log`].
    pub(crate) fn start(site: &Site<'_>) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (certificate, key) = site.authority.pem_pair(&["127.0.0.1", "localhost"]);
        std::fs::write(directory.path().join("cert.pem"), certificate).unwrap();
        std::fs::write(directory.path().join("key.pem"), key).unwrap();
        // Somebody else may take a port between its choice and its use.
        for _ in 0..5 {
            let listeners: Vec<TcpListener> =
                (0..site.ports).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let ports: Vec<u16> =
                listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
            drop(listeners);
            let config = config(directory.path(), &(site.http)(&ports));
            std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
            let mut process = tool_command(directory.path(), "nginx")
                .args(["-p", ".", "-c", "nginx.conf", "-e", "error.log"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("needs Debian's nginx: {error}"));
            let start = Instant::now();
            let ended = loop {
                if process.try_wait().unwrap().is_some() {
                    break true;
                }
                let open = |port: &u16| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok();
                if ports.iter().all(open) {
                    break false;
                }
                assert!(start.elapsed() < Duration::from_secs(20), "nginx did not start");
                std::thread::sleep(Duration::from_millis(5));
            };
            if !ended {
                return Self { directory, process, ports };
            }
        }
        let errors = std::fs::read_to_string(directory.path().join("error.log")).unwrap_or_default();
        panic!("nginx ended at once:\n{errors}");
    }

    /// The ports, in the order in which the configuration got them.
    pub(crate) fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    /// The access log so far, a request a line.
    pub(crate) fn log(&self) -> Vec<String> {
        let path: PathBuf = self.directory.path().join("access.log");
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One process, with all its files in `directory`.
fn config(directory: &Path, http: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};\n", directory.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
         http {{\n{temporary}\
         log_format plain '$status $request_method $request_uri $body_bytes_sent $http_range';\n\
         access_log access.log plain;\n\
         ssl_certificate cert.pem;\nssl_certificate_key key.pem;\n\
         {http}\n}}\n"
    )
}
