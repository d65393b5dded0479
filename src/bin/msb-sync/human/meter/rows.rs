//! The rows of the bars, laid out for a terminal's width and height: the total first, then what is
//! looked up, the other tasks, and the images in work.
//!
//! Pure. No row is wider than the room; what does not fit is left out, in the order of its worth.
//! Places are kept for the longest text that a part may become, so that nothing jumps about while
//! numbers grow.

use std::fmt::Write as _;
use std::time::Instant;

use msb_sync::image_ref::ImageRef;
use msb_sync::progress::Task;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::words::{of, of_bytes, of_task as words_of_task, speed, time_left};
use crate::tally::{Fetching, InWork, Tally, Work};
use crate::text::short;
use crate::{paint, streams};

/// The blanks before the name of an image.
const INDENT: usize = 2;
/// The blanks between the columns of an image's row, and between a bar and what follows.
const GAP: usize = 2;
/// The text between two parts of a total.
const DOT: &str = " · ";
/// The columns of a bar, where there is room for one.
const BAR: std::ops::RangeInclusive<usize> = 8..=30;
/// The columns of the bar in an image's row.
const IMAGE_BAR: std::ops::RangeInclusive<usize> = 8..=20;
/// The columns that the name of an image keeps before its bytes are shown.
const MIN_NAME: usize = 24;
/// The columns that a speed and a time take at most, as a rule.
const SPEED: usize = "1023 KiB/s".len();
const TIME: usize = "59 min left".len();

/// The room on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The columns of a row.
    pub(super) columns: usize,
    /// The number of rows.
    pub(super) rows: usize,
}

/// A part of a total.
#[derive(Default)]
struct Part {
    /// The text now; empty where nothing is known yet.
    text: String,
    /// The columns that the text may come to take.
    most: usize,
}

impl Part {
    fn new(text: String, most: usize) -> Self {
        Self { most: most.max(text.width()), text }
    }
}

/// Lays out the state of a run.
pub(super) fn rows(tally: &Tally, now: Instant, room: Room) -> Vec<String> {
    let mut rows = tally
        .fetching(now)
        .filter(|fetching| !fetching.is_over)
        .map_or_else(Vec::new, |fetching| total(&fetching, room.columns));
    rows.extend(tally.lookups().map(|lookups| looked_up(lookups, room.columns)));
    for (task, work) in tally.tasks(now) {
        rows.extend(of_task(task, &work, room.columns));
    }
    let in_work = tally.in_work();
    let left = room.rows.saturating_sub(rows.len());
    if in_work.len() > left {
        let shown = left.saturating_sub(1);
        rows.extend(images(&in_work[..shown], tally, room.columns));
        rows.push(fit(&format!("{:INDENT$}and {} more", "", in_work.len() - shown), room.columns));
    } else {
        rows.extend(images(&in_work, tally, room.columns));
    }
    rows.truncate(room.rows);
    rows
}

/// The rows of all that is fetched.
fn total(fetching: &Fetching, columns: usize) -> Vec<String> {
    let Fetching { images: (images_done, images), layers: (named, layers), arrived, bytes, .. } = *fetching;
    let counted_images = Part::new(of(images_done, images, "image"), of(images, images, "image").width());
    let counted_layers = Part::new(of(arrived, layers, "layer"), of(layers, layers, "layer").width());
    let time = match (fetching.to_come, fetching.is_active) {
        (0, true) => "extracting".to_owned(),
        (0, false) if named < layers => "writing to disk".to_owned(),
        (0, false) => String::new(),
        (to_come, _) => time_left(to_come, fetching.rate),
    };
    let mut parts = vec![counted_layers];
    // A single image has its name below.
    if images > 1 {
        parts.insert(0, counted_images);
    }
    lay(parts, (bytes, fetching.rate, time), share((arrived, layers), bytes), columns)
}

/// The rows of a task.
fn of_task(task: Task, work: &Work, columns: usize) -> Vec<String> {
    let text = |done: usize| words_of_task(task, done, work.things.1);
    let counted = Part::new(text(work.things.0), text(work.things.1).width());
    let time = time_left(work.bytes.1 - work.bytes.0.min(work.bytes.1), work.rate);
    lay(vec![counted], (work.bytes, work.rate, time), share(work.things, work.bytes), columns)
}

/// The row of what is looked up.
fn looked_up((done, all, open): (usize, usize, &ImageRef), columns: usize) -> String {
    let text = format!("{} looked up", of(done, all, "image"));
    let name = columns.saturating_sub(text.width() + DOT.width() + "waiting for ".len());
    if name < MIN_NAME / 2 {
        return fit(&text, columns);
    }
    format!("{text}{DOT}waiting for {}", shortened(&short_name(open), name))
}

/// Lays `counted` parts and those of bytes on as few rows as they need, beside a bar where there is
/// room.
fn lay(
    counted: Vec<Part>,
    (bytes, rate, time): ((u64, u64), Option<u64>, String),
    share: (u64, u64),
    columns: usize,
) -> Vec<String> {
    let mut rest = Vec::new();
    if bytes.1 > 0 {
        rest.push(Part::new(of_bytes(bytes), of_bytes((bytes.1, bytes.1)).width()));
        rest.push(Part::new(rate.map(speed).unwrap_or_default(), SPEED));
        rest.push(Part::new(time, TIME));
    }
    let all = counted.len() + rest.len();
    let mut parts: Vec<Part> = counted.into_iter().chain(rest).collect();
    let width = |row: &[usize]| {
        row.iter().map(|part| parts[*part].most).sum::<usize>() + DOT.width() * row.len().saturating_sub(1)
    };
    let layouts: Vec<Vec<Vec<usize>>> = match all {
        4 => vec![
            vec![vec![0, 1, 2, 3]],
            vec![vec![0], vec![1, 2, 3]],
            vec![vec![0], vec![1, 2], vec![3]],
            vec![vec![0], vec![1], vec![2, 3]],
        ],
        5 => vec![
            vec![vec![0, 1, 2, 3, 4]],
            vec![vec![0, 1], vec![2, 3, 4]],
            vec![vec![1], vec![2, 3], vec![0, 4]],
            vec![vec![1], vec![2], vec![3, 4], vec![0]],
        ],
        _ => vec![vec![(0..all).collect()], (0..all).map(|part| vec![part]).collect()],
    };
    // The bar shares the first row.
    let room_for_bar = |layout: &[Vec<usize>]| columns.saturating_sub(width(&layout[0]) + GAP);
    let fits = |layout: &&Vec<Vec<usize>>| layout.iter().all(|row| width(row) <= columns);
    let fits_with_bar = |layout: &&Vec<Vec<usize>>| fits(layout) && room_for_bar(layout) >= *BAR.start();
    let layout = layouts.iter().find(fits_with_bar).or_else(|| layouts.iter().find(fits));
    let Some(layout) = layout.or(layouts.last()) else { return Vec::new() };
    let for_bar = room_for_bar(layout).min(*BAR.end());
    let bar = (for_bar >= *BAR.start()).then(|| bar(share, for_bar) + "  ");
    let mut rows = Vec::new();
    for row in layout {
        let texts = row.iter().map(|part| std::mem::take(&mut parts[*part].text));
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        rows.push(fit(&texts.join(DOT), columns));
    }
    if let (Some(bar), Some(first)) = (bar, rows.first_mut()) {
        first.insert_str(0, &bar);
    }
    rows
}

/// The rows of images in work, in columns.
fn images(in_work: &[InWork<'_>], tally: &Tally, columns: usize) -> Vec<String> {
    let count = |image: &InWork<'_>| of(image.layers.0, image.layers.1, "layer");
    let state = |image: &InWork<'_>| {
        if image.is_extracted { "extracting".to_owned() } else { of_bytes(image.bytes) }
    };
    let widest = |cell: &dyn Fn(&InWork<'_>) -> usize| in_work.iter().map(cell).max().unwrap_or_default();
    let counts = widest(&|image| of(image.layers.1, image.layers.1, "layer").width());
    let states = widest(&|image| of_bytes((image.bytes.1, image.bytes.1)).width().max("extracting".len()));
    let longest = tally.awaited().map(|image| short_name(image).width()).max().unwrap_or_default();
    let mut left = columns.saturating_sub(INDENT + GAP + counts);
    let has_state = left >= MIN_NAME.min(longest) + GAP + states;
    if has_state {
        left -= GAP + states;
    }
    let for_bar = left.saturating_sub(longest + GAP).min(*IMAGE_BAR.end());
    let has_bar = has_state && for_bar >= *IMAGE_BAR.start();
    if has_bar {
        left -= GAP + for_bar;
    }
    let names = longest.min(left);
    let row = |image: &InWork<'_>| {
        let name = shortened(&short_name(image.reference), names);
        let blanks = names.saturating_sub(name.width());
        let mut row = format!("{:INDENT$}{name}{:blanks$}{:GAP$}{:>counts$}", "", "", "", count(image));
        if has_bar {
            let _ = write!(row, "{:GAP$}{}", "", bar(share(image.layers, image.bytes), for_bar));
        }
        if has_state {
            let _ = write!(row, "{:GAP$}{}", "", state(image));
        }
        row
    };
    // Only an unheard-of width leaves no room for the counts.
    let is_too_narrow = columns < INDENT + GAP + counts;
    let narrow = |image: &InWork<'_>| fit(&count(image), columns);
    in_work.iter().map(|image| if is_too_narrow { narrow(image) } else { row(image) }).collect()
}

/// The share that is done: of the bytes, or of the things where no bytes are counted.
fn share(things: (usize, usize), bytes: (u64, u64)) -> (u64, u64) {
    if bytes.1 > 0 { bytes } else { (things.0 as u64, things.1 as u64) }
}

/// A bar of `columns`, filled so far as `done` of `all` says.
fn bar((done, all): (u64, u64), columns: usize) -> String {
    let filled = u128::from(done) * columns as u128 / u128::from(all.max(1));
    let filled = usize::try_from(filled).unwrap_or(columns).min(columns);
    let (full, rest) = ("━".repeat(filled), "─".repeat(columns - filled));
    if streams::errors_are_colored() { paint::green(&full) + &paint::dim(&rest) } else { full + &rest }
}

/// The name of an image with the first digits of its digest.
fn short_name(image: &ImageRef) -> String {
    let name = image.to_string();
    match (image.digest(), name.split_once('@')) {
        (Some(digest), Some((name, _))) => format!("{name}@{}", short(&digest.to_string())),
        _ => name,
    }
}

/// `text` cut on its left so that it takes `columns` at most: the end, with the tag, tells images
/// apart.
fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let kept = text.char_indices().rev().take_while(|(_, c)| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    });
    let start = kept.last().map_or(text.len(), |(at, _)| at);
    if columns == 0 { String::new() } else { format!("…{}", &text[start..]) }
}

/// `text` cut at `columns`.
fn fit(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    });
    let kept: String = kept.collect();
    if columns == 0 { String::new() } else { kept + "…" }
}

/// The status between two runs, in one row.
pub(super) fn status(text: &str, columns: usize) -> Vec<String> {
    let text = fit(text, columns);
    vec![if streams::errors_are_colored() { paint::dim(&text) } else { text }]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use msb_sync::digest::BlobDigest;
    use msb_sync::progress::{AwaitedImage, Event};

    use super::*;

    fn image(text: &str) -> ImageRef {
        ImageRef::parse(text, "docker.io").unwrap()
    }

    fn layer(number: usize) -> BlobDigest {
        BlobDigest::parse(&format!("sha256:{number:064x}")).unwrap()
    }

    /// A run that fetches `images` of three layers each, of which all are under way, at 1 MiB/s.
    fn run(images: &[ImageRef], size: u64) -> (Tally, Instant) {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let layers = |at: usize| (0..3).map(|number| (layer(at * 3 + number), size)).collect();
        let awaited = images.iter().enumerate();
        let awaited =
            awaited.map(|(at, reference)| AwaitedImage { reference: reference.clone(), layers: layers(at) });
        let (images, layers) = (awaited.collect(), images.len() * 3);
        let started = Event::Started { images, layers, bytes: size * layers as u64 };
        tally.note(&started, start);
        (tally, start)
    }

    fn fetch(tally: &mut Tally, start: Instant, images: &[ImageRef], size: u64) -> Instant {
        for (at, image) in images.iter().enumerate() {
            let (digest, image) = (layer(at * 3), image.clone());
            tally.note(&Event::LayerStarted { digest, size, resumed: 0, image }, start);
        }
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            tally.note(&Event::LayerReceived { digest: layer(0), bytes: 1 << 20 }, now);
        }
        start + Duration::from_secs(2)
    }

    const NAMES: [&str; 5] = [
        "alpine:3.20",
        "ghcr.io/github/super-linter:v7",
        "registry.corp:5000/a/very/long/path/of-an-organisation/with-a-service-name:v2026.11.29-rc.7",
        "quay.io/x/y@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "r.io/t:an-extremely-long-tag-which-nobody-would-ever-want-to-type-but-somebody-generated-0123456789",
    ];

    #[test]
    fn no_row_is_wider_than_its_room_at_any_width() {
        let names: Vec<ImageRef> = NAMES.iter().map(|name| image(name)).collect();
        for (names, size) in [(&names[..], 4 << 20), (&names[..1], 4 << 30), (&names[1..2], u64::MAX / 99)] {
            let (mut tally, start) = run(names, size);
            let now = fetch(&mut tally, start, names, size);
            let references = names.to_vec();
            tally.note(&Event::Resolving { references }, now);
            for task in [Task::CompareLayers, Task::CompareEngines, Task::Load("microsandbox")] {
                let bytes = if task == Task::CompareEngines { 0 } else { size };
                tally.note(&Event::Begun { task, things: 1234, bytes }, start);
                tally.note(&Event::Advanced { task, things: 1, bytes: 1 << 20 }, start);
            }
            for columns in (0..30).chain(30..=200) {
                let rows = rows(&tally, now, Room { columns, rows: 50 });
                for row in &rows {
                    assert!(row.width() <= columns, "{} of {columns}: {row:?}", row.width());
                }
                let has = |part: &str| rows.iter().any(|row| row.contains(part));
                if columns < 29 {
                    continue;
                }
                let counted = format!("0 of {} layers", names.len() * 3);
                assert!(has(&counted), "{columns}: {rows:?}");
                assert!(has("0 of 3 layers") && has("left") && has("looked up"), "{columns}: {rows:?}");
                assert!(has(" of ") && has("iB"), "{columns}: {rows:?}");
                // The end of a name stays, with the tag.
                let tag = names[0].tag().unwrap();
                assert!(has(&tag[tag.len().saturating_sub(3)..]), "{columns}: {rows:?}");
            }
        }
    }

    #[test]
    fn rows_read_well() {
        let names: Vec<ImageRef> = NAMES[..3].iter().map(|name| image(name)).collect();
        let (mut tally, start) = run(&names, 8 << 20);
        let now = fetch(&mut tally, start, &names, 8 << 20);
        let at = |columns, height| rows(&tally, now, Room { columns, rows: height });
        let wide = [
            "━─────────────────────────────  0 of 3 images · 0 of 9 layers · 3.0 of 72.0 MiB · 1.5 MiB/s · 47 s left".to_owned(),
            format!("  {:84}  0 of 3 layers  3.0 of 24.0 MiB", "docker.io/library/alpine:3.20"),
        ];
        assert_eq!(at(119, 24)[..2], wide);
        let usual = [
            "━─────────────────────────────  0 of 3 images · 0 of 9 layers",
            "3.0 of 72.0 MiB · 1.5 MiB/s · 47 s left",
            "  docker.io/library/alpine:3.20                 0 of 3 layers  3.0 of 24.0 MiB",
            "  ghcr.io/github/super-linter:v7                0 of 3 layers  0.0 of 24.0 MiB",
            "  …sation/with-a-service-name:v2026.11.29-rc.7  0 of 3 layers  0.0 of 24.0 MiB",
        ];
        assert_eq!(at(79, 24), usual);
        let narrow = [
            "──────────────  0 of 9 layers",
            "3.0 of 72.0 MiB · 1.5 MiB/s",
            "0 of 3 images · 47 s left",
            "  …alpine:3.20  0 of 3 layers",
            "  …r-linter:v7  0 of 3 layers",
            "  ….11.29-rc.7  0 of 3 layers",
        ];
        assert_eq!(at(29, 24), narrow);
        assert_eq!(at(79, 4).last().unwrap(), "  and 2 more");
        assert_eq!(at(79, 1).len(), 1);
    }

    #[test]
    fn names_are_cut_on_their_left_by_columns() {
        assert_eq!(shortened("docker.io/library/python:3.12", 14), "…y/python:3.12");
        assert_eq!(shortened("漢字漢字:1", 7), "…漢字:1");
        assert_eq!(shortened("漢字漢字:1", 6), "…字:1");
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!((shortened("abcd", 1), shortened("abcd", 0)), ("…".to_owned(), String::new()));
        assert_eq!((fit("漢字漢字", 6), fit("漢字", 4)), ("漢字…".to_owned(), "漢字".to_owned()));
        let pinned = format!("a:1@sha256:{}", "0".repeat(64));
        assert_eq!(short_name(&image(&pinned)), "docker.io/library/a:1@sha256:000000000000…");
    }
}
