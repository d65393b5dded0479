//! SIGINT and SIGTERM in the middle of a pull: a quick end with the right code, what is finished stays, and the
//! next run goes on where this one stopped.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::check::{applied, assert_exact, listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::Sandbox;

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
        assert!(elapsed < Duration::from_secs(1), "took {elapsed:?} to stop\n{output}");
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
    assert!(start.elapsed() < Duration::from_secs(1), "{output}");
}
