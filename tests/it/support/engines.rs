//! The real engines, each with a storage of its own in the sandbox. One that cannot be had on this machine is said
//! aloud, and left out: a test goes on with the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sandbox::{Run, Sandbox};
use super::{path, tool_command};

/// The engines by the names of their tables, each with its program.
const ENGINES: [(&str, &str); 3] = [("containerd", "ctr"), ("microsandbox", "msb"), ("podman", "podman")];
/// The address of containerd in its directory. A path of a socket has room for 107 bytes.
const SOCKET: &str = "c.sock";

/// The real engines of one test.
pub(crate) struct RealEngines<'s> {
    sandbox: &'s Sandbox,
    /// The real programs, by the names of the engines' tables.
    programs: BTreeMap<&'static str, PathBuf>,
    containerd: Option<Child>,
}

impl<'s> RealEngines<'s> {
    /// Starts those of `wanted` that can be had.
    pub(crate) fn start(sandbox: &'s Sandbox, wanted: &[&str]) -> Self {
        let mut engines = Self { sandbox, programs: BTreeMap::new(), containerd: None };
        fs::create_dir(engines.place("")).unwrap();
        for (name, program) in ENGINES.into_iter().filter(|(name, _)| wanted.contains(name)) {
            match find(program) {
                Some(found) => drop(engines.programs.insert(name, found)),
                None => say(&format!("{program} cannot be had")),
            }
        }
        if engines.has("containerd") && !engines.start_containerd() {
            say("containerd does not start here");
            engines.programs.remove("containerd");
        }
        if engines.has("podman") {
            let listed = engines.run("podman", &["images"]).run();
            if !listed.status.success() {
                say(&format!("podman does not work here: {}", listed.stderr.trim()));
                engines.programs.remove("podman");
            }
        }
        for (name, real) in &engines.programs {
            let (script, calls) = (engines.place(name), engines.place("calls"));
            let options = engines.options(name).join(" ");
            let text = format!(
                "#!/bin/sh\nprintf '%s %s\\n' {name} \"$*\" >> {}\nexec {} {options} \"$@\"\n",
                calls.display(),
                real.display()
            );
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        engines
    }

    /// The names of those that are there.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.programs.keys().copied().collect()
    }

    pub(crate) fn has(&self, engine: &str) -> bool {
        self.programs.contains_key(engine)
    }

    /// The tables of the images file that use them.
    pub(crate) fn tables(&self) -> String {
        let table = |name: &&str| {
            let more = match *name {
                "microsandbox" => format!("home = \"{}\"\n", self.place("msb").display()),
                "containerd" => format!(
                    "address = \"{}\"\nnamespace = \"test\"\nsnapshotter = \"native\"\n",
                    self.place("containerd.d").join(SOCKET).display()
                ),
                _ => String::new(),
            };
            format!("[engine.{name}]\ncommand = \"{}\"\n{more}", self.place(name).display())
        };
        self.names().iter().map(table).collect()
    }

    /// The engine's own program, as its user calls it.
    pub(crate) fn run(&self, engine: &str, arguments: &[&str]) -> Run {
        let options = self.options(engine);
        let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
        let socket = self.place("containerd.d").join(SOCKET);
        if engine == "containerd" {
            all.extend(["--address", socket.to_str().unwrap(), "--namespace", "test"]);
        }
        all.extend(arguments);
        let run = self.sandbox.program(self.programs[engine].to_str().unwrap(), &all);
        run.env("MSB_HOME", self.place("msb")).env("HTTPS_PROXY", "http://127.0.0.1:1")
    }

    /// The references that the engine lists, each with its digests.
    #[track_caller]
    pub(crate) fn listing(&self, engine: &str) -> BTreeMap<String, BTreeSet<String>> {
        let arguments: &[&str] = match engine {
            "microsandbox" => &["image", "ls", "--format", "json"],
            "podman" => &["images", "--format", "json"],
            _ => &["images", "ls"],
        };
        let text = self.run(engine, arguments).run().success().stdout;
        if engine == "containerd" {
            let row = |line: &str| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields[0].to_owned(), BTreeSet::from([fields[2].to_owned()]))
            };
            return text.lines().skip(1).map(row).collect();
        }
        let rows: Value = serde_json::from_str(&text).unwrap();
        let mut listing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows.as_array().into_iter().flatten() {
            let names = row["Names"].as_array().cloned().unwrap_or_else(|| vec![row["reference"].clone()]);
            let mut digests = BTreeSet::from([row["Digest"].as_str().or(row["digest"].as_str()).unwrap()]);
            digests.extend(
                row["RepoDigests"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|digest| digest.as_str().unwrap().split_once('@').unwrap().1),
            );
            for name in names.iter().filter_map(Value::as_str) {
                listing.entry(name.to_owned()).or_default().extend(digests.iter().map(ToString::to_string));
            }
        }
        listing
    }

    /// Takes a reference out of the engine, as its user would.
    #[track_caller]
    pub(crate) fn take_out(&self, engine: &str, name: &str) {
        let words: &[&str] = match engine {
            "microsandbox" => &["image", "rm", name],
            "podman" => &["rmi", name],
            _ => &["images", "rm", "--sync", name],
        };
        self.run(engine, words).run().success();
        assert!(!self.listing(engine).contains_key(name));
    }

    /// How msb-sync called the engines' programs since the last question, each call in one line after the engine.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place("calls")).unwrap_or_default();
        fs::write(self.place("calls"), "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Everything that loads of ours have left in msb's directory for temporary files.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.place("msb/cache/tmp")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Lets the half hour pass for which msb keeps everybody out, itself too, after one was killed that was looking
    /// after its database.
    pub(crate) fn outlast_the_killed(&self) {
        let database = self.place("msb/db/msb.db");
        if database.exists() {
            let sql = "UPDATE maintenance_lease SET lease_expires_at = last_completed_at";
            let arguments = ["-cmd", ".timeout 10000", database.to_str().unwrap(), sql];
            self.sandbox.program("sqlite3", &arguments).run().success();
        }
    }

    /// The files that msb mounts.
    pub(crate) fn erofs(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for directory in ["layers", "fsmeta"] {
            let entries = fs::read_dir(self.place("msb/cache").join(directory)).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            files.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "erofs")));
        }
        files
    }

    fn place(&self, name: &str) -> PathBuf {
        self.sandbox.root().join("engines").join(name)
    }

    /// The options by which a program finds its storage.
    fn options(&self, engine: &str) -> Vec<String> {
        let place = |name: &str| self.place(name).to_str().unwrap().to_owned();
        match engine {
            "podman" => ["--root", &place("pod"), "--runroot", &place("run"), "--storage-driver", "vfs"]
                .map(str::to_owned)
                .into(),
            _ => Vec::new(),
        }
    }

    fn start_containerd(&mut self) -> bool {
        let Some(daemon) = find("containerd") else { return false };
        let directory = self.place("containerd.d");
        fs::create_dir(&directory).unwrap();
        let root = directory.display();
        let config = format!(
            "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{root}/{SOCKET}\"\n[ttrpc]\naddress = \"{root}/t.sock\"\n"
        );
        fs::write(directory.join("config.toml"), config).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let started = tool_command(&directory, daemon.to_str().unwrap())
            .args(["-c", "config.toml"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(child) = started else { return false };
        self.containerd = Some(child);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if self.run("containerd", &["version"]).run().status.success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for RealEngines<'_> {
    fn drop(&mut self) {
        if let Some(containerd) = &mut self.containerd {
            // Ended already is fine.
            let _ = containerd.kill();
            let _ = containerd.wait();
        }
        // podman tidies up behind a container by a process of its own, which would make the storage anew.
        let storage = self.place("pod").into_os_string().into_encoded_bytes();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) && is_named_by_a_process(&storage) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// True if a process has `path` in its arguments.
fn is_named_by_a_process(path: &[u8]) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments.any(|arguments| arguments.windows(path.len()).any(|window| window == path))
}

/// Says, past the capture of the test's own output, that something was not tried.
pub(crate) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}: NOT tried with the real one");
}

/// The path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    path().split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}
