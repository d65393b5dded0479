//! SIGINT and SIGTERM in the middle of a pull: a quick end with the right code, what is finished stays, and the
//! next run goes on where this one stopped.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::Sandbox;
use crate::support::{SOON, eventually};

#[test]
fn a_signal_stops_within_a_second_and_the_next_run_resumes() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandbox = Sandbox::new();
        let quick = Layer::of(&[file("quick", "x")]);
        let slow = Layer::packed(&tar(&[file("slow", noise(1, 2_000_000))]), Pack::Plain);
        let registry =
            FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[quick.clone(), slow.clone()])));
        registry.fail(1, &slow.digest(), &Fault::slow(100_000));
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));

        let running = sandbox.msb("apply").spawn();
        eventually("one layer is finished and the other one under way", Duration::from_secs(20), || {
            sandbox.extracted() == [quick.directory()] && registry.sent(&slow.digest()) > 50_000
        });
        let start = Instant::now();
        running.signal(signal);
        let output = running.wait().code(code);
        let elapsed = start.elapsed();
        assert!(elapsed < SOON, "took {elapsed:?} to stop\n{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        assert_eq!(sandbox.extracted(), [quick.directory()], "{output}");
        assert_eq!(listed(&sandbox).len(), 0, "recorded without its layers");

        registry.forget();
        registry.behave();
        applied(&sandbox);
        assert_eq!(registry.sent(&quick.digest()), 0, "a finished layer was fetched again");
        let log = registry.log();
        let resumed = log.iter().find(|exchange| exchange.request.path.contains(&slow.digest())).unwrap();
        let range = resumed.request.header("range").unwrap_or_default();
        let from: u64 = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
        assert!(from >= 40_000, "resumed from {from} ({range:?})");
        let blobs = registry.edit(|content| content.blobs.clone());
        assert_exact(&listed(&sandbox)[0], &|digest| blobs[digest].to_vec());
    }
}

#[test]
fn a_signal_stops_while_a_registry_does_not_answer() {
    let sandbox = Sandbox::new();
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("f", "x")])])));
    registry.fail(usize::MAX, "/blobs/", &Fault::stall(0));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let running = sandbox.msb("apply").spawn();
    eventually("a blob was asked for", Duration::from_secs(20), || {
        registry.requests().iter().any(|request| request.contains("/blobs/"))
    });
    let start = Instant::now();
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert!(start.elapsed() < SOON, "{output}");
}

#[test]
fn a_run_that_is_stopped_has_its_summary_before_there_is_any_result() {
    let registry =
        FakeRegistry::start(BlobSet::with("team/app:1", &Image::new(&[Layer::of(&[file("f", "x")])])));
    registry.fail(usize::MAX, "/manifests/", &Fault::stall(0));
    for form in ["", " --json"] {
        let sandbox = Sandbox::in_memory();
        sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
        registry.forget();
        let running = sandbox.msb(&format!("apply{form}")).spawn();
        eventually("the image is being looked up", Duration::from_secs(20), || {
            registry.requests().iter().any(|request| request.contains("/manifests/"))
        });
        running.signal(Signal::INT);
        let output = running.wait().code(130);
        if form.is_empty() {
            assert!(output.stdout.starts_with("Not done: 1 stopped"), "{output}");
        } else {
            assert_eq!((&output.summary()["failed"], &output.summary()["added"]), (&json!(1), &json!(0)));
            let events = output.json_lines();
            assert_eq!((events.len(), &events[0]["event"]), (2, &json!("image")), "{output}");
            assert_eq!(
                (&events[0]["status"], &events[0]["error"]["kind"]),
                (&json!("failed"), &json!("stopped"))
            );
        }
    }
}

#[test]
fn a_run_that_does_not_end_in_time_has_its_summary() {
    let sandbox = Sandbox::new();
    let quick = Layer::of(&[file("quick", "x")]);
    let slow = Layer::packed(&tar(&[file("slow", noise(1, 2_000_000))]), Pack::Plain);
    let mut content = BlobSet::with("team/slow:1", &Image::new(std::slice::from_ref(&slow)));
    let other = content.image(&Image::new(&[quick]));
    content.tag("team/quick:1", &other);
    let registry = FakeRegistry::start(content);
    registry.fail(1, &slow.digest(), &Fault::slow(100_000));
    sandbox.images(&wanted(&registry.name(), &["team/slow:1", "team/quick:1"]));
    // The sync of a layer that is finished outlasts the patience with a run that was stopped.
    let delay =
        ["-f", "-qq", "-o", "/dev/null", "-e", "trace=syncfs", "-e", "inject=syncfs:delay_enter=2500000"];
    let program = [env!("CARGO_BIN_EXE_msb-sync"), "apply", "--json"];
    let running = sandbox.program("strace", &[&delay[..], &program[..]].concat()).spawn();
    eventually("a layer is under way", Duration::from_secs(20), || registry.sent(&slow.digest()) > 50_000);
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    let summary = output.summary();
    assert_eq!((&summary["failed"], &summary["added"]), (&json!(2), &json!(0)), "{output}");
    assert!(summary["downloaded_bytes"].as_u64().unwrap() > 10_000, "{output}");
    assert_eq!(output.stdout.matches("\"summary\"").count(), 1, "{output}");
}
