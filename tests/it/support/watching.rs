//! `msb-sync watch --json` in the background, and what it has told so far.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::eventually;
use super::sandbox::{Output, Run, Running, Sandbox};

/// As long as anything may take on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A watch that is under way.
#[derive(Debug)]
pub(crate) struct Watching {
    running: Running,
}

impl Watching {
    /// Starts `watch --json` with more arguments, and waits for the end of its first run.
    #[track_caller]
    pub(crate) fn start(sandbox: &Sandbox, arguments: &str) -> Self {
        Self::started(sandbox.msb(&format!("watch --json {arguments}")))
    }

    /// Starts `run`, and waits for the end of its first run.
    #[track_caller]
    pub(crate) fn started(run: Run) -> Self {
        let mut running = run.timeout(LIMIT * 10).spawn();
        let mut told = false;
        eventually("the first run has ended", LIMIT, || {
            told = running.stdout().contains("\"event\":\"summary\"");
            told || running.ended()
        });
        assert!(told, "it ended\n{}", running.wait());
        Self { running }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// All events so far; a line that is not complete is left out.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.running.stdout();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| -> Value {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} is not JSON"));
            assert_eq!(event["version"], 1, "{line}");
            event
        };
        complete.lines().map(parse).collect()
    }

    /// How many events of this kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event["event"] == kind).count()
    }

    /// How many runs have ended.
    pub(crate) fn runs(&self) -> usize {
        self.count("summary") + self.count("error")
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) {
        eventually(what, LIMIT, || self.events().iter().any(&mut condition));
    }

    /// Waits until an image was done in this way.
    #[track_caller]
    pub(crate) fn until_done(&self, reference: &str, action: &str) {
        self.until(&format!("{reference}: {action}"), |event| {
            event["reference"] == reference && event["action"] == action && event["status"] == "done"
        });
    }

    /// Waits for a run for a reason that holds this text.
    #[track_caller]
    pub(crate) fn until_triggered(&self, reason: &str) {
        self.until(&format!("triggered by {reason}"), |event| {
            event["event"] == "triggered"
                && (event["details"].to_string().contains(reason)
                    || event["reasons"].to_string().contains(reason))
        });
    }

    /// Waits until no run has ended for `time`.
    #[track_caller]
    pub(crate) fn settle(&self, time: Duration) {
        let (mut runs, mut since) = (self.runs(), std::time::Instant::now());
        eventually("no run for some time", LIMIT, || {
            let now = self.runs();
            if now != runs {
                (runs, since) = (now, std::time::Instant::now());
            }
            since.elapsed() >= time
        });
    }

    /// Ends it.
    #[track_caller]
    pub(crate) fn stop(self) -> Output {
        self.running.signal(Signal::TERM);
        let output = self.running.wait().code(143);
        // Each event is what the schema says.
        output.json_lines();
        output
    }
}

/// Status, head and body of a GET with HTTP/1.0, whose body is the rest.
pub(crate) fn asked(address: &str, path: &str) -> (u16, String, String) {
    let text = exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"));
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// The answer to the text of a request.
pub(crate) fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    // Refused requests may end in a reset.
    let _ = stream.read_to_string(&mut text);
    text
}
