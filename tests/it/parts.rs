//! Runs in parts: what the registries that answer have said is fetched while another one keeps the run waiting, and
//! the end is the same as if all had been known at once, whatever others do meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::requests::{layer, registry_of};
use crate::support::check::{applied, wanted};
use crate::support::eventually;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::http::Request;
use crate::support::image::{BlobSet, Image};
use crate::support::sandbox::{Run, Running, Sandbox};

/// Says nothing of manifests until `until` is thrown, at most for half a minute.
fn silent_until(registry: &FakeRegistry, until: &Arc<AtomicBool>) {
    let until = Arc::clone(until);
    registry.on(move |request| {
        let start = Instant::now();
        while request.path.contains("/manifests/")
            && !until.load(Ordering::SeqCst)
            && start.elapsed() < Duration::from_secs(30)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    });
}

/// `msb-sync` that begins with what it knows as soon as no lookup has ended for a moment.
fn impatient(sandbox: &Sandbox, arguments: &str) -> Run {
    sandbox.msb(arguments).env("MSB_SYNC_LOOKUP_PATIENCE", "0.3")
}

/// Waits until all of `names` were reported.
#[track_caller]
fn await_images(running: &Running, names: &[String]) {
    let start = Instant::now();
    while !names.iter().all(|name| running.stdout().contains(name.as_str())) {
        assert!(start.elapsed() < Duration::from_secs(25), "nothing came of them:\n{}", running.stdout());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_silent_registry_does_not_keep_the_images_of_others_waiting() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(2, 500, 100);
    let (fast, fast_names, _) = registry_of(3, 500, 200);
    // Two that the first part must leave alone, one of them because it may not know yet whether it is wanted.
    sandbox.images(&format!(
        "{}{}",
        wanted(&fast.name(), &[&fast_names[0], &fast_names[1]]),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    applied(&sandbox);
    // One image more of each, one of each is gone, and one of the fast one's has moved.
    let (moved, gone) = (&fast_names[0], &fast_names[1]);
    fast.edit(|content| {
        let image = content.image(&Image::new(&[layer(999, 700)]));
        content.tag(moved, &image);
    });
    let was = sandbox.extracted();
    sandbox.images(&format!(
        "settings.prune = true\n{}{}",
        wanted(&fast.name(), &[moved, &fast_names[2]]),
        wanted(&silent.name(), &[&silent_names[1]])
    ));
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json").spawn();
    let full = |registry: &FakeRegistry, name: &str| format!("{}/{name}", registry.name());
    await_images(&running, &[full(&fast, moved), full(&fast, &fast_names[2])]);
    // Nothing is removed before everything that is wanted is known.
    assert!(!running.stdout().contains("remove"), "{}", running.stdout());
    assert!(was.iter().all(|layer| sandbox.extracted().contains(layer)));
    speaks.store(true, Ordering::SeqCst);
    let output = running.wait().success();
    let summary = output.summary();
    let counts =
        ["added", "updated", "removed", "failed", "unchanged"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 2, 0, 0], "{output}");
    assert_eq!(sandbox.extracted().len(), 3, "{output}");
    assert!(was.iter().all(|layer| !sandbox.extracted().contains(layer)), "{output}");
    assert_eq!(output.stdout.matches(&full(&fast, gone)).count(), 1, "{output}");
    sandbox.msb("plan --detailed-exitcode").run().success();
}

#[test]
fn a_silent_registry_does_not_keep_locked_images_of_others_waiting() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, _) = registry_of(1, 500, 200);
    sandbox.images(&format!(
        "{}{}",
        wanted(&silent.name(), &[&silent_names[0]]),
        wanted(&fast.name(), &[&fast_names[0]])
    ));
    sandbox.msb("lock").run().success();
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json --locked").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    // Whoever stops it now learns what was done.
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    assert_eq!(output.summary()["added"], 1, "{output}");
    speaks.store(true, Ordering::SeqCst);
    let output = applied(&sandbox);
    assert_eq!(
        (&output.summary()["added"], &output.summary()["unchanged"]),
        (&1.into(), &1.into()),
        "{output}"
    );
}

#[test]
fn what_another_run_recorded_after_a_part_is_not_taken_back() {
    let sandbox = Sandbox::in_memory();
    let (slow, slow_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, _) = registry_of(1, 500, 200);
    let mut text = wanted(&slow.name(), &[&slow_names[0]]);
    sandbox.images(&text);
    applied(&sandbox);
    slow.edit(|content| {
        let image = content.image(&Image::new(&[layer(555, 700)]));
        content.tag(&slow_names[0], &image);
    });
    text.push_str(&wanted(&fast.name(), &[&fast_names[0]]));
    sandbox.images(&text);
    let count = Arc::new(AtomicUsize::new(0));
    {
        let count = Arc::clone(&count);
        slow.on(move |request| {
            if request.method == "GET"
                && request.path.contains("/manifests/")
                && count.fetch_add(1, Ordering::SeqCst) == 0
            {
                // So slow that the other run is done before.
                Some(Fault::slow(100))
            } else {
                None
            }
        });
    }
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    let newest = layer(999, 700);
    let digest = slow.edit(|content| {
        let image = content.image(&Image::new(std::slice::from_ref(&newest)));
        content.tag(&slow_names[0], &image);
        crate::support::sha256(&newest.blob)
    });
    let other = sandbox.msb("apply --json").run().success();
    assert!(count.load(Ordering::SeqCst) >= 1);
    let output = running.wait().success();
    let list = sandbox.msb("list --json").run().success();
    assert!(list.stdout.contains(&digest), "the other run:\n{other}\nthe first:\n{output}\n{list}");
}

#[test]
fn a_layer_that_another_home_took_after_a_part_stays() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, old) = registry_of(1, 500, 200);
    // The other home's image has the fast one's old layer.
    let (third, third_names, same) = registry_of(1, 500, 200);
    assert_eq!(old, same);
    let shared = sandbox.root().join("shared");
    let head = format!("[settings]\nlayers = {shared:?}\nprune = true\n");
    sandbox.images(&format!("{head}{}", wanted(&fast.name(), &[&fast_names[0]])));
    applied(&sandbox);
    fast.edit(|content| {
        let image = content.image(&Image::new(&[layer(999, 700)]));
        content.tag(&fast_names[0], &image);
    });
    sandbox.images(&format!(
        "{head}{}{}",
        wanted(&fast.name(), &[&fast_names[0]]),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    sandbox.write("b.toml", format!("{head}{}", wanted(&third.name(), &[&third_names[0]])));
    let other_home = sandbox.root().join("other");
    let other = sandbox.msb("apply --json b.toml --home").arg(&other_home).run().success();
    assert_eq!(other.summary()["downloaded_bytes"], 0, "{other}");
    speaks.store(true, Ordering::SeqCst);
    let output = running.wait().success();
    let list = sandbox.msb("verify --json --home").arg(&other_home).run();
    assert!(list.stdout.contains("\"ok\"") && !list.stdout.contains("missing"), "{other}\n{output}\n{list}");
}

#[test]
fn a_part_asks_nobody_twice() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, _) = registry_of(3, 500, 200);
    sandbox.msb("pull").arg(format!("{}/{}", silent.name(), silent_names[0])).run().success();
    let names: Vec<&str> = fast_names.iter().map(String::as_str).collect();
    sandbox.images(&format!(
        "{}{}",
        wanted(&fast.name(), &names),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    fast.forget();
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    speaks.store(true, Ordering::SeqCst);
    let output = running.wait().success();
    let gets = fast.requests().iter().filter(|line| line.contains("manifests/1")).count();
    assert_eq!(gets, 3, "{:#?}\n{output}", fast.requests());
}

#[test]
fn who_stops_a_run_that_waits_for_another_learns_what_its_part_did() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, _) = registry_of(1, 500, 200);
    sandbox.images(&format!(
        "{}{}",
        wanted(&fast.name(), &[&fast_names[0]]),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    // Somebody else takes the lock as soon as the part gives it back.
    let lock = sandbox.home().join(".msb-sync.lock");
    let script = "echo held; exec sleep 60";
    let holder = sandbox.program("flock", &[lock.to_str().unwrap(), "sh", "-c", script]).spawn();
    let limit = Duration::from_secs(30);
    eventually("the lock is held", limit, || holder.stdout().contains("held"));
    speaks.store(true, Ordering::SeqCst);
    eventually("the run waits for it", limit, || running.stderr().contains("waiting for "));
    running.signal(Signal::INT);
    let output = running.wait().code(130);
    drop(holder);
    assert_eq!(output.summary()["added"], 1, "{output}");
}

#[test]
fn a_layer_that_a_failing_image_of_the_rest_wants_stays() {
    // The fast image's old layer is needed by the silent registry's new image, whose other layer fails.
    let sandbox = Sandbox::in_memory();
    let (fast, fast_names, old) = registry_of(1, 500, 200);
    let mut content = BlobSet::default();
    let other = layer(321, 900);
    let image = content.image(&Image::new(&[layer(200, 500), other.clone()]));
    content.tag("team/both:1", &image);
    let silent = FakeRegistry::start(content);
    sandbox.images(&format!("settings.prune = true\n{}", wanted(&fast.name(), &[&fast_names[0]])));
    applied(&sandbox);
    fast.edit(|content| {
        let image = content.image(&Image::new(&[layer(999, 700)]));
        content.tag(&fast_names[0], &image);
    });
    sandbox.images(&format!(
        "settings.prune = true\n{}{}",
        wanted(&fast.name(), &[&fast_names[0]]),
        wanted(&silent.name(), &["team/both:1"])
    ));
    let speaks = Arc::new(AtomicBool::new(false));
    let digest = crate::support::sha256(&other.blob);
    {
        let until = Arc::clone(&speaks);
        silent.on(move |request| {
            let start = Instant::now();
            while request.path.contains("/manifests/")
                && !until.load(Ordering::SeqCst)
                && start.elapsed() < Duration::from_secs(30)
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            request.path.contains(&digest).then(|| Fault::status(404))
        });
    }
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    speaks.store(true, Ordering::SeqCst);
    let output = running.wait().code(1);
    let old = old.iter().next().unwrap();
    assert!(
        sandbox.extracted().iter().any(|name| name.contains(old.trim_start_matches("sha256:"))),
        "{old} is gone\n{output}"
    );
}

#[test]
fn an_image_that_another_run_removed_after_a_part_is_fetched_again() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, _) = registry_of(1, 500, 100);
    let (fast, fast_names, _) = registry_of(1, 500, 200);
    sandbox.images(&wanted(&silent.name(), &[&silent_names[0]]));
    applied(&sandbox);
    sandbox.images(&format!(
        "{}{}",
        wanted(&fast.name(), &[&fast_names[0]]),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    let speaks = Arc::new(AtomicBool::new(false));
    silent_until(&silent, &speaks);
    let running = impatient(&sandbox, "apply --json").spawn();
    await_images(&running, &[format!("{}/{}", fast.name(), fast_names[0])]);
    let gone = format!("{}/{}", silent.name(), silent_names[0]);
    sandbox.msb("forget").arg(&gone).run().success();
    speaks.store(true, Ordering::SeqCst);
    let output = running.wait().success();
    let list = sandbox.msb("list --json").run();
    assert!(list.stdout.contains(&gone), "{output}");
}

#[test]
fn a_part_begins_nothing_more_once_all_have_answered() {
    let sandbox = Sandbox::in_memory();
    let (silent, silent_names, big) = registry_of(1, 9_000, 100);
    let (fast, fast_names, small) = registry_of(6, 500, 200);
    let names: Vec<&str> = fast_names.iter().map(String::as_str).collect();
    sandbox.images(&format!(
        "settings.downloads = 2\n{}{}",
        wanted(&fast.name(), &names),
        wanted(&silent.name(), &[&silent_names[0]])
    ));
    let begun = Arc::new(Mutex::new(Vec::new()));
    let speaks = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicUsize::new(0));
    let of = |request: &Request, layers: &BTreeSet<String>| {
        request.path.rsplit('/').next().is_some_and(|digest| layers.contains(digest))
    };
    {
        let (begun, speaks, answers) = (Arc::clone(&begun), Arc::clone(&speaks), Arc::clone(&answers));
        silent.on(move |request| {
            let start = Instant::now();
            while !speaks.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if of(request, &big) {
                begun.lock().unwrap().push("silent");
            }
            answers.fetch_add(1, Ordering::SeqCst);
            None
        });
    }
    {
        let begun = Arc::clone(&begun);
        fast.on(move |request| {
            if of(request, &small) {
                let place = {
                    let mut begun = begun.lock().unwrap();
                    begun.push("fast");
                    begun.len()
                };
                if place > 2 {
                    return None;
                }
                // While both downloads are on their way all lookups end: manifest and config are the last ones. None
                // may end before, or its slot would take as many others as there is time for.
                speaks.store(true, Ordering::SeqCst);
                let start = Instant::now();
                while answers.load(Ordering::SeqCst) < 2 && start.elapsed() < Duration::from_secs(20) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // The program still has to read the last answer.
                std::thread::sleep(Duration::from_millis(500));
            }
            None
        });
    }
    let output = impatient(&sandbox, "apply --json").run().success();
    assert_eq!(output.summary()["added"], 7, "{output}");
    // The biggest goes first again: after the two that were under way, and one at most beside it.
    let order = begun.lock().unwrap().clone();
    assert!(
        order.iter().position(|of| *of == "silent").is_some_and(|place| place <= 3),
        "{order:?}\n{output}"
    );
    let images = output.json_lines().iter().filter(|event| event["event"] == "image").count();
    assert_eq!(images, 7, "each is told once: {output}");
}
