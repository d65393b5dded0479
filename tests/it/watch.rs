//! `watch` as a service: when it runs, what it says, how it stops, what it costs, and what systemd and Prometheus
//! hear of it. Changes of files are in `watch_files`, the storm is in `watch_storm`.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::check::{listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::Sandbox;
use crate::support::watching::{LIMIT, Watching, asked, exchange};
use crate::support::{SOON, eventually};

fn image(text: &str) -> Image {
    Image::new(&[Layer::of(&[file("f", text)])])
}

/// A registry with `team/app:1`, and an images file that wants it, with settings.
fn one(sandbox: &Sandbox, settings: &str) -> FakeRegistry {
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image("1")));
    sandbox.images(&format!("[settings]\n{settings}\n{}", wanted(&registry.name(), &["team/app:1"])));
    registry
}

fn add(registry: &FakeRegistry, name: &str, text: &str) {
    registry.edit(|content| {
        let image = content.image(&image(text));
        content.tag(name, &image);
    });
}

#[test]
fn a_moved_tag_is_found_at_the_interval() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"");
    let watching = Watching::start(&sandbox, "");
    add(&registry, "team/app:1", "2");
    watching.until_done(&format!("{}/team/app:1", registry.name()), "update");
    watching.until_triggered("interval");
    watching.stop();
}

#[test]
fn a_failed_image_is_tried_again_and_said_once() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"");
    sandbox.images(&format!(
        "[settings]\ninterval = \"1s\"\n{}",
        wanted(&registry.name(), &["team/app:1", "team/later:1"])
    ));
    let mut running = sandbox.msb("watch").spawn();
    eventually("it was tried some times", LIMIT, || {
        registry.requests().iter().filter(|request| request.contains("team/later")).count() >= 4
    });
    assert!(!running.ended());
    add(&registry, "team/later:1", "x");
    eventually("it is there", LIMIT, || listed(&sandbox).len() == 2);
    eventually("it says so", LIMIT, || {
        running.stdout().contains("2 unchanged") || running.stdout().contains("1 added")
    });
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert_eq!(output.stderr.matches("error:").count(), 1, "once until it changes\n{output}");
    assert!(output.stderr.contains("team/later:1 added"), "{output}");
}

#[test]
fn a_registry_that_is_down_does_not_stop_it() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"");
    registry.on(|_| Some(Fault::status(503)));
    let watching = Watching::start(&sandbox, "");
    watching.until("it failed", |event| event["error"]["kind"] == "registry-failure");
    registry.behave();
    watching.until_done(&format!("{}/team/app:1", registry.name()), "add");
    watching.stop();
}

#[test]
fn sighup_applies_at_once() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "");
    let watching = Watching::start(&sandbox, "");
    add(&registry, "team/app:1", "2");
    watching.signal(Signal::HUP);
    watching.until_done(&format!("{}/team/app:1", registry.name()), "update");
    watching.until_triggered("SIGHUP");
    watching.stop();
}

#[test]
fn a_broken_file_keeps_the_last_good_state_and_is_said_once() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"\nprune = true");
    let watching = Watching::start(&sandbox, "");
    let before = listed(&sandbox);
    sandbox.images("[settings]\ninterval = \"1s\"\nprune = true\nnonsense = 1\n");
    watching.until("where it is wrong", |event| {
        event["event"] == "error"
            && event["error"]["kind"] == "images-file"
            && event["problems"][0]["line"] == 4
            && event["problems"][0]["column"] == 1
    });
    // At the interval it is tried again, and nothing more is said.
    eventually("it was tried again twice", LIMIT, || watching.count("error") >= 3);
    assert_eq!(watching.stderr().matches("error:").count(), 1, "{}", watching.stderr());
    assert!(watching.stderr().contains("images.toml:4:1"), "{}", watching.stderr());
    sandbox.images("[settings]\n\nnonsense = 1\n");
    eventually("the next one is said too", LIMIT, || watching.stderr().matches("error:").count() == 2);
    assert_eq!(listed(&sandbox), before);
    add(&registry, "team/other:1", "x");
    sandbox.images(&wanted(&registry.name(), &["team/other:1"]));
    watching.until_done(&format!("{}/team/other:1", registry.name()), "add");
    watching.stop();
}

#[test]
fn what_is_wrong_at_the_start_ends_it() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "nonsense = 1");
    for arguments in ["watch", "watch missing.toml", "watch -", "apply --watch", "apply --watch -"] {
        sandbox.msb(arguments).run().code(2).says("error:");
    }
    sandbox.msb("watch -").run().code(2).says("hint:");
    for arguments in
        ["apply --watch --dry-run", "watch --metrics host", "watch --poll 0", "watch --group none"]
    {
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        sandbox.msb(arguments).run().code(2);
    }
    sandbox.msb("watch --locked").run().code(1).says("lock");
    assert!(registry.requests().is_empty() && !sandbox.home().exists(), "something was touched");
}

#[test]
fn the_flags_of_apply_work() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "");
    add(&registry, "team/web:1", "x");
    let entry = "{ name = \"team/web\", tag = \"1\", groups = [\"web\"] }";
    sandbox.images(&wanted(&registry.name(), &["team/app:1", entry]));
    let offline = Watching::start(&sandbox, "--offline");
    assert_eq!(offline.count("image"), 2);
    assert!(registry.requests().is_empty());
    offline.stop();
    let group = Watching::started(sandbox.msb("apply --watch --json --group web"));
    group.until_done(&format!("{}/team/web:1", registry.name()), "add");
    assert_eq!(group.count("image"), 1);
    group.stop();
}

#[test]
fn a_signal_stops_it_in_the_middle_of_a_run() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandbox = Sandbox::in_memory();
        let slow = Layer::packed(&tar(&[file("slow", noise(1, 2_000_000))]), Pack::Plain);
        let registry =
            FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(std::slice::from_ref(&slow))));
        registry.fail(2, &slow.digest(), &Fault::slow(100_000));
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        let running = sandbox.msb("watch --json").spawn();
        eventually("a layer is under way", LIMIT, || registry.sent(&slow.digest()) > 50_000);
        let start = Instant::now();
        running.signal(signal);
        let output = running.wait().code(code);
        assert!(start.elapsed() < SOON, "took {:?}\n{output}", start.elapsed());
        assert!(!output.stderr.contains("error"), "{output}");
        let events = output.json_lines();
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(names, ["watching", "stopping", "image", "summary"], "{output}");
        assert_eq!((&events[2]["error"]["kind"], &events[3]["failed"]), (&json!("stopped"), &json!(1)));
        registry.forget();
        let running = sandbox.msb("watch").spawn();
        eventually("a layer is under way", LIMIT, || registry.sent(&slow.digest()) > 50_000);
        running.signal(signal);
        let output = running.wait().code(code);
        assert!(output.stdout.starts_with("Not done: 1 stopped"), "{output}");
        registry.behave();
        let again = Watching::start(&sandbox, "");
        again.until_done(&format!("{}/team/app:1", registry.name()), "add");
        let start = Instant::now();
        again.stop();
        assert!(start.elapsed() < SOON, "took {:?} when idle", start.elapsed());
    }
}

#[test]
fn changes_during_a_run_lead_to_one_more() {
    let sandbox = Sandbox::in_memory();
    let slow = Layer::packed(&tar(&[file("slow", noise(1, 400_000))]), Pack::Plain);
    let registry =
        FakeRegistry::start(BlobSet::with("team/slow:1", &Image::new(std::slice::from_ref(&slow))));
    add(&registry, "team/app:1", "1");
    sandbox.images("");
    let watching = Watching::start(&sandbox, "");
    registry.fail(1, &slow.digest(), &Fault::slow(100_000));
    sandbox.images(&wanted(&registry.name(), &["team/slow:1"]));
    eventually("the slow run is under way", LIMIT, || registry.sent(&slow.digest()) > 0);
    for number in 0..50 {
        sandbox.images(&format!("# {number}\n{}", wanted(&registry.name(), &["team/slow:1"])));
    }
    let last = wanted(&registry.name(), &["team/slow:1", "team/app:1"]);
    sandbox.images(&last);
    assert_eq!(watching.runs(), 1, "the slow run was too fast for this test");
    watching.until_done(&format!("{}/team/app:1", registry.name()), "add");
    watching.settle(Duration::from_secs(1));
    assert_eq!(watching.runs(), 3, "{:#?}", watching.events());
    watching.stop();
}

#[test]
fn what_changes_during_a_run_and_back_again_is_not_believed_to_be_unchanged() {
    let sandbox = Sandbox::in_memory();
    let slow = Layer::packed(&tar(&[file("slow", noise(1, 400_000))]), Pack::Plain);
    let registry =
        FakeRegistry::start(BlobSet::with("team/slow:1", &Image::new(std::slice::from_ref(&slow))));
    sandbox.images("");
    let watching = Watching::start(&sandbox, "");
    registry.fail(1, &slow.digest(), &Fault::slow(100_000));
    let text = wanted(&registry.name(), &["team/slow:1"]);
    sandbox.images(&text);
    eventually("the slow run is under way", LIMIT, || registry.sent(&slow.digest()) > 0);
    // The run may have read the one or the other.
    sandbox.images("");
    sandbox.images(&text);
    assert_eq!(watching.runs(), 1, "the slow run was too fast for this test");
    eventually("one more run", LIMIT, || watching.runs() >= 3);
    watching.settle(Duration::from_secs(1));
    assert_eq!(watching.runs(), 3, "{:#?}", watching.events());
    watching.stop();
}

#[test]
fn what_may_pass_is_tried_again_long_before_the_interval() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1h\"");
    registry.on(|_| Some(Fault::status(503)));
    let watching = Watching::start(&sandbox, "");
    registry.behave();
    let next = watching.events().iter().find_map(|event| event["next_ms"].as_u64()).unwrap();
    assert!((5_000..=10_000).contains(&next), "in {next} ms");
    watching.until_triggered("retry");
    watching.until_done(&format!("{}/team/app:1", registry.name()), "add");
    watching.stop();
}

/// Nanoseconds on a processor, of all threads.
fn processor_time(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(|task| of(task.unwrap().path())).sum()
}

#[test]
fn idle_it_uses_no_processor() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "");
    let watching = Watching::start(&sandbox, "--metrics 0");
    assert!(processor_time(watching.pid()) > 0, "nothing was measured");
    // Threads of the run may still be ending, for as long as a busy machine lets them. Whoever is idle at last stays so;
    // whoever polls never is.
    let window = Duration::from_secs(2);
    eventually("it is idle", LIMIT, || {
        let before = processor_time(watching.pid());
        std::thread::sleep(window);
        let used = processor_time(watching.pid()).saturating_sub(before);
        // 0.1 %.
        u128::from(used) < window.as_nanos() / 1000
    });
    watching.stop();
}

/// Status and body of a GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let (status, _, body) = asked(address, path);
    (status, body)
}

/// The value of a metric with all its labels.
fn metric(address: &str, name: &str) -> f64 {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[test]
fn an_image_that_stays_for_others_is_no_change() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "");
    sandbox.write("other.toml", wanted(&registry.name(), &["team/app:1"]));
    sandbox.msb("apply").run().success();
    sandbox.msb("apply other.toml").run().success();
    sandbox.images("");
    let watching = Watching::start(&sandbox, "--prune --allow-empty --metrics :0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let (_, text) = get(&address, "/metrics");
    assert!(!text.contains("changes_total{action=\"remove\"}"), "{text}");
    let status: Value = serde_json::from_str(&get(&address, "/status.json").1).unwrap();
    assert_eq!(status["runs"][0]["changes"], json!([]), "{status:#}");
}

#[test]
fn metrics_and_health_are_served() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"");
    let watching = Watching::start(&sandbox, "--metrics :0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let value = |name: &str| metric(&address, &format!("msb_sync_{name}"));
    let name = registry.name();
    assert!(value("images{state=\"in_sync\"}") > 0.5);
    assert!(value("last_success_timestamp_seconds") > 1.6e9);
    assert!(value("downloaded_bytes_total") > 100.0 && value("extracted_bytes_total") > 1000.0);
    assert!(value(&format!("requests_total{{registry={name:?},status=\"2xx\"}}")) >= 3.0);
    assert!(value("run_duration_seconds_count") >= 1.0);
    assert!(value("changes_total{action=\"add\"}") > 0.5);
    let (status, body) = get(&address, "/healthz");
    assert_eq!((status, body.as_str()), (200, "ok: 1 image in sync\n"));

    registry.on(|_| Some(Fault::status(404)));
    sandbox
        .images(&format!("[settings]\ninterval = \"1s\"\n{}", wanted(&name, &["team/app:1", "team/none:1"])));
    eventually("it is not healthy", LIMIT, || get(&address, "/healthz").0 == 503);
    let (_, why) = get(&address, "/healthz");
    assert!(why.contains("of 2 images failed") && why.contains("404"), "{why}");
    assert!(value("images{state=\"blocked\"}") > 0.5);
    assert!(value("image_failures_total{kind=\"not-found\"}") > 0.5);
    assert!(value(&format!("requests_total{{registry={name:?},status=\"4xx\"}}")) >= 1.0);
    assert!(value("healthy") < 0.5);
    sandbox.images("nonsense");
    eventually("it says what is wrong", LIMIT, || get(&address, "/healthz").1.contains("line 1"));
    registry.behave();
    sandbox.images(&wanted(&name, &["team/app:1"]));
    eventually("it is healthy again", LIMIT, || get(&address, "/healthz").0 == 200);
    watching.stop();
}

#[test]
fn the_server_is_bounded() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "");
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    // Clients that say nothing, or half a request, keep nobody out.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in silent.iter_mut().take(10) {
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    }
    assert_eq!(get(&address, "/healthz").0, 200);
    assert_eq!(get(&address, "/other").0, 404);
    assert!(
        exchange(&address, "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
            .contains(" 405 ")
    );
    assert!(exchange(&address, "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").ends_with("\r\n\r\n"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "x".repeat(100_000));
    assert!(!exchange(&address, &long).contains(" 200 "));
    assert!(!exchange(&address, "\u{0}\u{1}nonsense\r\n\r\n").contains(" 200 "));
    assert_eq!(get(&address, "/healthz").0, 200);
    sandbox.msb("watch --metrics").arg(&address).run().code(1).says(&address).says("hint:");
    drop(silent);
    watching.stop();
}

#[test]
fn hundreds_of_idle_clients_keep_nobody_waiting() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "");
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let begin = Instant::now();
    let idle: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).unwrap();
            // Half of them have begun, and go on with nothing.
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nX-").unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(get(&address, "/healthz").0, 200);
    }
    // Each connection has five seconds for its request: whoever was served while the last of them is open has not
    // waited for them. On a machine so slow that they are over by now, nothing can be told.
    let last = idle.last().unwrap();
    last.set_nonblocking(true).unwrap();
    let is_open = last.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_open || begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(idle);
    watching.stop();
}

#[test]
fn who_is_called_by_a_name_of_somebody_else_does_not_answer() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "");
    let watching = Watching::start(&sandbox, "--metrics localhost:0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let port = address.rsplit(':').next().unwrap();
    let status = |target: &str, host: &str| {
        let text = exchange(&address, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for host in ["127.0.0.1", "[::1]:80", "localhost", &format!("localhost:{port}"), "192.0.2.7:1"] {
        assert_eq!(status("/metrics", host), "200", "{host}");
    }
    for path in ["/metrics", "/healthz", "/status.json", "/?q=x", "/", "/none"] {
        for host in ["rebound.example", &format!("rebound.example:{port}"), "127.0.0.1.rebound.example"] {
            assert_eq!(status(path, host), "403", "{path} of {host}");
        }
    }
    assert_eq!(status("http://rebound.example/metrics", "127.0.0.1"), "403");
    watching.stop();
}

#[test]
fn health_is_told_while_the_images_file_does_not_answer() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "interval = \"1s\"");
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = watching.events()[0]["metrics"].as_str().unwrap().to_owned();
    let file = sandbox.work().join("images.toml");
    std::fs::remove_file(&file).unwrap();
    sandbox.program("mkfifo", &["images.toml"]).run().success();
    // Long enough for a look at it.
    std::thread::sleep(Duration::from_secs(3));
    for path in ["/healthz", "/metrics"] {
        let (status, text) = get(&address, path);
        assert!(status == 200 || status == 503, "{status} {text}");
    }
    // Ready for whoever waits for a writer.
    drop(std::fs::File::options().read(true).write(true).open(&file).unwrap());
    std::fs::remove_file(&file).unwrap();
    watching.signal(rustix::process::Signal::KILL);
}

#[test]
fn systemd_hears_how_it_is() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "");
    let path = sandbox.root().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let running = sandbox.msb("watch").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").spawn();
    let mut heard = Vec::new();
    let mut until = |part: &str| {
        let (start, since) = (heard.len(), Instant::now());
        loop {
            // The watchdog's pings come whatever happens.
            assert!(since.elapsed() < LIMIT, "never {part:?}, only {heard:?}");
            let mut buffer = [0; 4096];
            let count = socket.recv(&mut buffer).unwrap_or_else(|_| panic!("never {part:?}, only {heard:?}"));
            heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            if heard.last().unwrap().contains(part) {
                return heard[start..].to_vec();
            }
        }
    };
    let before = until("READY=1");
    assert!(before.iter().any(|message| message.contains("STATUS=applying")), "{before:?}");
    assert!(before.last().unwrap().contains("STATUS=1 image in sync"), "{before:?}");
    assert_eq!(listed(&sandbox).len(), 1, "ready before the first run's end");
    let pings = [until("WATCHDOG=1"), until("WATCHDOG=1"), until("WATCHDOG=1")];
    assert!(pings.len() == 3);
    running.signal(Signal::HUP);
    assert!(until("RELOADING=1").last().unwrap().contains("MONOTONIC_USEC="));
    until("READY=1");
    registry.on(|_| Some(Fault::status(403)));
    running.signal(Signal::HUP);
    until("STATUS=1 of 1 images failed");
    running.signal(Signal::TERM);
    until("STOPPING=1");
    running.wait().code(143);
}

#[test]
fn a_log_has_one_line_a_change() {
    let sandbox = Sandbox::in_memory();
    let registry = one(&sandbox, "interval = \"1s\"");
    let name = format!("{}/team/app:1", registry.name());
    let running = sandbox.msb("watch").spawn();
    // Either may be heard first.
    let has_ended = || running.stdout().contains("1 added") && running.stderr().contains("app:1 added");
    eventually("the first run has ended", LIMIT, has_ended);
    let (out, err) = (running.stdout(), running.stderr());
    assert_eq!(out.lines().count(), 1, "{out}");
    registry.forget();
    eventually("three runs that change nothing", LIMIT, || registry.requests().len() >= 3);
    assert_eq!((running.stdout(), running.stderr()), (out.clone(), err.clone()));
    add(&registry, "team/app:1", "2");
    eventually("a change", LIMIT, || running.stderr().len() > err.len());
    registry.forget();
    eventually("two more runs", LIMIT, || registry.requests().len() >= 2);
    running.signal(Signal::TERM);
    let output = running.wait().code(143);
    // The signal may end a run.
    let told = output.stdout.strip_prefix(&out).unwrap();
    assert!(told.is_empty() || told.starts_with("Not done: 1 stopped in "), "{output}");
    let more = output.stderr.strip_prefix(&err).unwrap();
    assert_eq!(more, format!("  ~ {name} updated\nstopped\n"), "{output}");
    assert!(!output.stderr.chars().any(|c| c.is_control() && c != '\n'), "{output}");
}

/// A terminal that ends the program when it has seen the line.
const TERMINAL: &str = "import os, pty, sys, signal, time\n\
    pid, fd = pty.fork()\n\
    if pid == 0: os.execv(sys.argv[1], sys.argv[1:])\n\
    seen = b''\n\
    while b'in sync' not in seen or b'at the latest' not in seen:\n    seen += os.read(fd, 1000)\n\
    os.kill(pid, signal.SIGTERM)\n\
    try:\n    while True: seen += os.read(fd, 1000)\n\
    except OSError: pass\n\
    sys.stdout.buffer.write(seen)\n\
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";

#[test]
fn a_terminal_has_a_status_line() {
    let sandbox = Sandbox::in_memory();
    let _registry = one(&sandbox, "");
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let run = sandbox.program("python3", &["-c", TERMINAL, program, "watch"]).env("TERM", "xterm");
    let output = run.env("TZ", "XYZ-05:30").timeout(LIMIT).run().code(143);
    assert!(output.stdout.contains("watching · 1 image in sync"), "{output}");
    assert!(output.stdout.contains("stopped"), "{output}");
    // The time is the user's.
    let (before, _) = output.stdout.split_once(" XYZ · again in ").unwrap_or_else(|| panic!("{output}"));
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text:?} in {output}"));
    let (hours, minutes) = before[before.len() - 8..].split_once(':').unwrap();
    let shown = 60 * number(hours) + number(&minutes[..2]);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60;
    let ahead = (since_1970 + 330 + 1440 - shown) % 1440;
    assert!(ahead <= 5, "{shown} is {ahead} minutes ago\n{output}");
}
