//! Memory does not grow with what is counted: entries of a layer, hard links, tags. Each is run with a few and with many,
//! and the second peak may be above the first by so little that the most that is allowed would still fit into what is
//! promised. That is far sharper than the promise itself, which what keeps much of each entry may keep with very many.
//!
//! `MSB_SYNC_TEST_MANY_FILES`, `MSB_SYNC_TEST_MANY_LINKS` and `MSB_SYNC_TEST_MANY_TAGS` change what many is.

use super::*;

/// The most entries that a layer may have, unless its limit is raised.
const MOST: u64 = 4_000_000;
/// KiB that the most of them may add to the peak of a few: of the 64 MiB that are promised, what a few leave of it in an
/// optimized build.
const ROOM: u64 = 40 << 10;
/// KiB that are kept for speed, of entries or tags, and no more of them with any number.
const KEPT: u64 = 1 << 10;
/// Peaks of each count, at most: what a thread meets while it starts makes a peak higher by chance, and never lower.
const TRIES: usize = 10;

/// Fails if `peak`, in KiB, is higher with many than with a few by more than `allowed`.
#[track_caller]
#[expect(clippy::print_stdout, reason = "the figures are worth a look with --nocapture")]
fn assert_grows_little(few: usize, many: usize, allowed: u64, peak: &dyn Fn(usize) -> u64) {
    let (mut low, mut high) = (u64::MAX, u64::MAX);
    for _ in 0..TRIES {
        (low, high) = (low.min(peak(few)), high.min(peak(many)));
        println!("{few}: {low} KiB at peak, {many}: {high}; {allowed} more are allowed");
        if high <= low + allowed {
            return;
        }
    }
    panic!("{few} take {low} KiB and {many} take {high}, which is over {allowed} more");
}

/// KiB that so many more may take where nothing is to be kept of each.
fn allowed(few: usize, many: usize) -> u64 {
    KEPT + (many - few) as u64 * ROOM / MOST
}

#[test]
fn very_many_files_take_no_more_memory_than_a_few() {
    let (few, many) = (5_000, setting("MSB_SYNC_TEST_MANY_FILES", 35_000));
    assert_grows_little(few, many, allowed(few, many), &peak_of_files);
}

fn peak_of_files(count: usize) -> u64 {
    let mut items = Vec::with_capacity(count + count / 1000 + 1);
    for number in 0..count {
        if number % 1000 == 0 {
            items.push(dir(format!("d{}", number / 1000)));
        }
        items.push(file(format!("d{}/f{number}", number / 1000), number.to_string()));
    }
    let layer = Layer::of(&items);
    drop(items);

    let sandbox = Sandbox::in_memory();
    let image = Image::new(std::slice::from_ref(&layer));
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image));
    sandbox.images(&wanted(&registry.name(), &["team/app:1"]));
    let output = assert_bounded(&sandbox, "apply");
    let root = sandbox.layers().join(layer.directory());
    let mut there = 0;
    for directory in std::fs::read_dir(&root).unwrap() {
        there += std::fs::read_dir(directory.unwrap().path()).unwrap().count();
    }
    assert_eq!(there, count);
    let last = count - 1;
    let content = std::fs::read_to_string(root.join(format!("d{}/f{last}", last / 1000))).unwrap();
    assert_eq!(content, last.to_string());
    output.peak_kib()
}

/// Twelve bytes are kept of each link, and up to 32 of each path of a part, as many as these are; they are cut into two
/// parts. All paths at once take 1.5 MiB more than that.
#[test]
fn verifying_very_many_hard_links_takes_no_more_memory_than_a_few() {
    let many = setting("MSB_SYNC_TEST_MANY_LINKS", 420_000);
    let parts = many / 400_000 + 1;
    let allowed = KEPT / 2 + (12 * many + 32 * many / parts) as u64 / 1024;
    assert_grows_little(10_000, many, allowed, &peak_of_links);
}

/// What a record of so many hard links takes: one that was made by hand, since making the links takes longer than
/// looking at them.
fn peak_of_links(count: usize) -> u64 {
    let sandbox = apply_bounded(&Image::new(&[Layer::of(&[file("f", "x")])]));
    let records = sandbox.layers().join("../.layers.msb-sync/records");
    let record = std::fs::read_dir(records).unwrap().next().unwrap().unwrap().path();
    let old = std::fs::read(&record).unwrap();
    let facts = &old[old.len() - 200..];
    let mut text = b"msb-sync layer record 1\n".to_vec();
    // A file `f`; then links, whose paths are eight digits and share nothing with the path before.
    text.extend([&[1, 0, 1, b'f', 0xa4, 3, 0, 0, 1][..], &[0; 16]].concat());
    for number in 0..count {
        text.extend([4, 0, 8]);
        write!(text, "{number:08}").unwrap();
        text.extend([0, 0, 0, 1, b'f']);
    }
    text.extend([0, 1, 1, 1, 0]);
    std::fs::write(&record, [&zstd::encode_all(&*text, 1).unwrap(), facts].concat()).unwrap();
    let output = sandbox.measured("verify").timeout(Duration::from_secs(600)).run().code(1);
    assert!(output.stdout.contains("00000000: removed"), "{output}");
    output.assert_bounded(0).peak_kib()
}

#[test]
fn very_long_lists_of_tags_take_no_more_memory_than_short_ones() {
    let many = setting("MSB_SYNC_TEST_MANY_TAGS", 2 * PAGE).next_multiple_of(PAGE);
    assert_grows_little(PAGE, many, allowed(PAGE, many), &peak_of_tags);
}

/// Tags of one page.
const PAGE: usize = 10_000;

/// Tags as long as they may be, so many in each of three registries that are asked at once.
fn peak_of_tags(count: usize) -> u64 {
    let image = Image::new(&[Layer::of(&[file("f", "x")])]);
    let mut images = String::new();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let content = BlobSet::with("team/app:3.0.0", &image);
        let handler = move |request: &Request| {
            if request.path != "/v2/team/app/tags/list" {
                return serve(&content, request);
            }
            let first: usize = request.parameter("last").map_or(0, |last| last.parse().unwrap());
            let next = first + PAGE;
            let filling = "1a".repeat(50);
            let mut tags: Vec<String> =
                (first..next).map(|number| format!("1.{number:06}-{filling}")).collect();
            tags.push(format!("2.{first}.0"));
            if next == count {
                tags.push("3.0.0".to_owned());
            }
            let body = json!({"name": "team/app", "tags": tags}).to_string();
            let page = Response::new(200, "application/json", body);
            if next == count {
                return page;
            }
            page.header("Link", &format!("</v2/team/app/tags/list?last={next}>; rel=next"))
        };
        let server = Server::start(Front::Plain, Arc::new(handler));
        let all = r#"{ name = "team/app", tags = { match = "[0-9].*", newest = 1 } }"#;
        images.push_str(&wanted(&server.name(), &[all]));
        servers.push(server);
    }
    let sandbox = Sandbox::in_memory();
    sandbox.images(&images);
    let plan = assert_bounded(&sandbox, "plan --json");
    let images = plan.json()["images"].as_array().unwrap().clone();
    assert_eq!(images.len(), 3, "{plan}");
    let newest = |image: &serde_json::Value| image["reference"].as_str().unwrap().ends_with(":3.0.0");
    assert!(images.iter().all(newest), "{plan}");
    plan.peak_kib()
}
