//! Many bad days: several images are applied while the registry cuts, resets, stalls, refuses, lies about
//! ranges and lengths, and corrupts bytes, as a seed says.
//!
//! Every run ends in success or in errors that say what failed; what is under its final name is exact either way; no
//! blob is sent again more often than the faults it met account for; and the next run on a good day completes what
//! is missing. `MSB_SYNC_TEST_SEED=N` runs other days, from seed N on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::check::{assert_exact, image, listed, wanted};
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::http::Request;
use crate::support::image::{BlobSet, Image, Layer, dir, file, noise};
use crate::support::sandbox::{Output, Sandbox};
use crate::support::tree::{Tree, unpack};

const DAYS: u64 = 180;
const THREADS: usize = 16;
const IMAGES: [&str; 3] = ["team/app:1", "team/app:2", "team/tool:1"];

/// The generator `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Three images that share layers, of very different sizes.
fn content() -> BlobSet {
    let layer = |seed: u64, size: usize| Layer::of(&[dir("d"), file(format!("d/{seed}"), noise(seed, size))]);
    let (shared, big) = (layer(1, 40_000), layer(2, 250_000));
    let mut content = BlobSet::default();
    for (name, layers) in IMAGES.into_iter().zip([
        vec![shared.clone(), big.clone(), layer(3, 10)],
        vec![shared.clone(), layer(4, 9_000)],
        vec![shared, layer(5, 70_000), big],
    ]) {
        let image = content.image(&Image::new(&layers));
        content.tag(name, &image);
    }
    content
}

/// A fault, and how many times a whole blob may have to be sent again for it.
fn fault(dice: &mut Dice, request: &Request, body: &[u8]) -> (Fault, u64) {
    let at = dice.below(body.len() as u64 + 1);
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let from: Option<usize> = range.and_then(|from| from.parse().ok());
    match dice.below(13) {
        // What was under way is lost.
        2 | 3 => (Fault::reset(at), 1),
        4 => (Fault::stall(at), 0),
        5 => (Fault::status([500, 502, 503, 504, 408][usize::try_from(dice.below(5)).unwrap()]), 0),
        6 => (Fault::status(429).header("Retry-After", "0"), 0),
        7 => (Fault::no_ranges(), 1),
        8 => (Fault::corrupt(), 1),
        // The whole, said to be shorter than the descriptor has it.
        9 if body.len() > 1 => {
            let end = body.len() - 1 - usize::try_from(dice.below(body.len() as u64 / 2 + 1)).unwrap();
            (Fault { body: Some(body[..end.max(1)].to_vec()), ignore_range: true, ..Fault::default() }, 1)
        }
        10 => (Fault { body: Some([body, b"more"].concat()), ignore_range: true, ..Fault::default() }, 1),
        // Another part than the one asked for.
        11 | 12 => match from {
            Some(from) if from + 1 < body.len() => {
                let range = format!("bytes {}-{}/{}", from + 1, body.len() - 1, body.len());
                let part = Some(body[from + 1..].to_vec());
                (Fault { body: part, ..Fault::default() }.header("Content-Range", &range), 2)
            }
            _ => (Fault::cut(at), 0),
        },
        _ => (Fault::cut(at), 0),
    }
}

/// What the faults of a day account for.
#[derive(Default)]
struct Account {
    /// How often each blob may be sent again, by digest.
    again: BTreeMap<String, u64>,
    stalls: usize,
}

/// Lets the registry misbehave as `seed` says.
fn bad_day(registry: &FakeRegistry, content: &BlobSet, seed: u64) -> Arc<Mutex<Account>> {
    let mut dice = Dice(seed);
    let mut left = 1 + dice.below(7);
    // One day in twenty, something never works.
    let hopeless = (dice.below(20) == 0).then(|| dice.below(content.blobs.len() as u64));
    let hopeless =
        hopeless.and_then(|index| content.blobs.keys().nth(usize::try_from(index).unwrap()).cloned());
    let account = Arc::new(Mutex::new(Account::default()));
    let (noting, blobs, tags) = (Arc::clone(&account), content.blobs.clone(), content.tags.clone());
    registry.on(move |request| {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        if hopeless.as_deref() == Some(name) {
            return Some(Fault::status(500));
        }
        let repository = request.path.strip_prefix("/v2/")?.split("/manifests/").next()?;
        let digest = tags.get(&format!("{repository}:{name}")).map_or(name, String::as_str);
        let body = blobs.get(digest)?;
        if left == 0 || dice.below(3) > 0 {
            return None;
        }
        left -= 1;
        let (fault, weight) = fault(&mut dice, request, body);
        let mut account = noting.lock().unwrap();
        *account.again.entry(digest.to_owned()).or_default() += weight;
        account.stalls += usize::from(fault.shape.stall_after.is_some());
        Some(fault)
    });
    account
}

/// Fails unless every layer that is under its final name is what its blob says.
fn assert_trees(sandbox: &Sandbox, content: &BlobSet, expected: &BTreeMap<String, Tree>) {
    for name in sandbox.extracted() {
        let digest = name.strip_suffix(".extracted").unwrap();
        assert!(content.blobs.contains_key(digest), "{name} is nobody's");
        expected[digest].assert_matches(&Tree::of(&sandbox.layers().join(&name)), &name);
    }
}

fn apply(sandbox: &Sandbox) -> Output {
    sandbox.msb("apply --json -v").env("MSB_SYNC_STALL_TIMEOUT", "0.3").run()
}

/// Whether the first run succeeded.
fn live_through(seed: u64, content: &BlobSet, expected: &BTreeMap<String, Tree>) -> bool {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(content.clone());
    sandbox.images(&wanted(&registry.name(), &IMAGES));
    let account = bad_day(&registry, content, seed);
    let output = apply(&sandbox);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)) && !output.stderr.contains("panicked"), "{output}");
    assert_trees(&sandbox, content, expected);
    for event in output.json_lines().iter().filter(|event| event["event"] == "image") {
        let error = &event["error"];
        assert_eq!(event["status"] == "failed", error.is_object(), "{output}");
        let clear = |key: &str| error[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(error.is_null() || (clear("kind") && clear("message")), "{output}");
    }
    let failed = output.summary()["failed"].as_u64().unwrap();
    assert_eq!(failed > 0, code == Some(1), "{output}");
    let account = account.lock().unwrap();
    // On a busy machine a server may be late that was to be in time.
    let late = output.stderr.matches("sent nothing for").count().saturating_sub(account.stalls) as u64;
    for (digest, blob) in &content.blobs {
        let size = blob.len() as u64;
        let allowed = size * (1 + late + account.again.get(digest).copied().unwrap_or(0));
        let sent = registry.sent(&format!("/blobs/{digest}"));
        // An error's body is short, but a body.
        assert!(
            sent <= allowed + 2_000,
            "{digest} of {size} bytes: {sent} sent, {allowed} allowed\n{output}"
        );
    }
    drop(account);
    registry.behave();
    if failed > 0 {
        apply(&sandbox).success();
    }
    let images = listed(&sandbox);
    for name in IMAGES {
        let listed = image(&images, &format!("{}/{name}", registry.name()));
        assert_exact(listed, &|digest| content.blobs[digest].to_vec());
    }
    assert_trees(&sandbox, content, expected);
    failed == 0
}

#[test]
fn bad_days_end_well_or_in_clear_errors() {
    let first: u64 = std::env::var("MSB_SYNC_TEST_SEED").map_or(1, |text| text.parse().unwrap());
    let content = content();
    let layers = content.blobs.iter().filter(|(_, blob)| blob.starts_with(&[0x1f, 0x8b]));
    let expected: BTreeMap<String, Tree> =
        layers.map(|(digest, blob)| (digest.clone(), Tree::expected(&unpack(blob)))).collect();
    assert_eq!(expected.len(), 5, "layers are told by their compression");
    let (next, well) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + DAYS {
                        return;
                    }
                    let day = std::panic::AssertUnwindSafe(|| live_through(seed, &content, &expected));
                    match std::panic::catch_unwind(day) {
                        Ok(success) => well.fetch_add(u64::from(success), Ordering::Relaxed),
                        Err(panic) => {
                            eprintln!("the day of seed {seed}: MSB_SYNC_TEST_SEED={seed} runs it first");
                            next.store(u64::MAX / 2, Ordering::Relaxed);
                            std::panic::resume_unwind(panic);
                        }
                    };
                }
            });
        }
    });
    let well = well.into_inner();
    // Most faults alone are survived at once. Where all days end well or none, nothing was tested.
    assert!((DAYS / 4..DAYS).contains(&well), "{well} of {DAYS} days ended well");
}
