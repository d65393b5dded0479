//! Bars in a terminal: no row wraps at any width, and nothing of them is left, however a run ends.

use std::num::NonZeroU16;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use crate::support::check::wanted;
use crate::support::fake_registry::{FakeRegistry, Fault};
use crate::support::image::{BlobSet, Image, Layer, Pack, file, noise, tar};
use crate::support::sandbox::{Run, Sandbox};

/// The widths at which people look, and scripts' terminals.
const WIDTHS: [u16; 4] = [30, 50, 80, 120];
const HEIGHT: u16 = 20;
/// The characters of which bars consist.
const OF_BARS: [char; 2] = ['━', '─'];

/// A registry with `images` of two layers each, which sends `rate` bytes a second of each.
fn registry(images: usize, rate: u64) -> (FakeRegistry, Vec<String>) {
    let (mut content, mut names) = (BlobSet::default(), Vec::new());
    for image in 0..images {
        let layer = |of: usize| {
            let seed = u64::try_from(image * 2 + of).unwrap();
            Layer::packed(&tar(&[file("f", noise(seed, 150_000))]), Pack::Plain)
        };
        let digest = content.image(&Image::new(&[layer(0), layer(1)]));
        let name = format!("an-organisation/of-many/services-with-long-names-{image}:v2026.11.29-rc.{image}");
        content.tag(&name, &digest);
        names.push(name);
    }
    let registry = FakeRegistry::start(content);
    registry.fail(usize::MAX, "/blobs/", &Fault::slow(rate));
    (registry, names)
}

/// `apply` of all images in a terminal of `columns`, where `plan` goes on.
fn apply(sandbox: &Sandbox, columns: u16, plan: &serde_json::Value) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/terminal.py");
    let (columns, height, plan) = (columns.to_string(), HEIGHT.to_string(), plan.to_string());
    let program = env!("CARGO_BIN_EXE_msb-sync");
    let arguments = [script.to_str().unwrap(), &columns, &height, &plan, program, "apply"];
    sandbox.program("python3", &arguments).env("TERM", "xterm-256color")
}

fn size(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

/// Shows what was written on a terminal, and hands every frame with bars to `look`: the rows from
/// the cursor on. Returns what is on the screen in the end.
fn play(written: &str, columns: u16, mut look: impl FnMut(&[String], u16)) -> String {
    let mut terminal = vt100::Parser::new(size(HEIGHT), size(columns), 0);
    let mut columns = columns;
    for mut part in written.split_inclusive("\x1b[J") {
        if let Some((before, rest)) = part.split_once('<') {
            let (new_size, after) = rest.split_once('>').unwrap();
            let (width, height) = new_size.split_once('x').unwrap();
            terminal.process(before.as_bytes());
            columns = width.parse().unwrap();
            terminal.set_size(height.parse().unwrap(), size(columns));
            part = after;
        }
        terminal.process(part.as_bytes());
        let screen = terminal.screen();
        let rows: Vec<String> = screen.rows(0, columns).collect();
        if rows.iter().any(|row| row.contains(OF_BARS)) {
            for row in 0..HEIGHT {
                assert!(!screen.row_wrapped(row) || !rows[usize::from(row)].contains(OF_BARS), "{rows:#?}");
            }
            look(&rows, columns);
        }
    }
    terminal.screen().contents()
}

#[test]
fn bars_fit_and_leave_nothing_behind_when_a_run_is_interrupted() {
    // Slow enough that no layer is complete before the interrupt, however slow the machine is.
    let (registry, names) = registry(12, 4_000);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    std::thread::scope(|scope| {
        for columns in WIDTHS {
            let (registry, names) = (&registry, &names);
            scope.spawn(move || {
                let sandbox = Sandbox::in_memory();
                sandbox.images(&wanted(&registry.name(), names));
                let output = apply(&sandbox, columns, &json!([["iB/s", "^C"]])).run().code(130);
                let mut frames = 0;
                let left = play(&output.stdout, columns, |rows, columns| {
                    frames += 1;
                    let text = rows.join("\n");
                    assert!(text.contains(" layers"), "{text}");
                    for row in rows.iter().filter(|row| row.contains(OF_BARS)) {
                        assert!(row.trim_end().chars().count() < usize::from(columns), "{row:?}");
                    }
                });
                assert!(frames > 0, "{output}");
                assert!(!left.contains(OF_BARS) && !left.contains("^C"), "{left}\n{output}");
                assert!(left.starts_with("Not done") && left.contains("stopped by a signal"), "{output}");
                // The names are there, with their tags, each with its layers.
                assert!(
                    output.stdout.contains("9-rc.") && output.stdout.contains("0 of 2 layers"),
                    "{output}"
                );
            });
        }
    });
}

#[test]
fn bars_fit_and_leave_nothing_behind_when_a_run_ends_and_the_size_changes() {
    let (registry, names) = registry(1, 80_000);
    std::thread::scope(|scope| {
        for columns in WIDTHS {
            let (registry, names) = (&registry, &names);
            scope.spawn(move || {
                let sandbox = Sandbox::in_memory();
                sandbox.images(&wanted(&registry.name(), &[&names[0]]));
                let plan = json!([["layers", "40x20"], ["layers", "100x20"]]);
                let output = apply(&sandbox, columns, &plan).run().success();
                let mut sizes = Vec::new();
                let left = play(&output.stdout, columns, |_, columns| sizes.push(columns));
                sizes.dedup();
                assert!(sizes.ends_with(&[40, 100]), "{sizes:?}\n{output}");
                assert!(!left.contains(OF_BARS), "{left}\n{output}");
                assert!(left.contains("Done: 1 added"), "{left}");
            });
        }
    });
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_gets_lines() {
    let (registry, names) = registry(1, 10_000_000);
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &[&names[0]]));
    let output = apply(&sandbox, 80, &json!([])).env("TERM", "dumb").run().success();
    let plain = |c: char| !c.is_control() || c == '\n' || c == '\r';
    assert!(output.stdout.chars().all(plain), "{output}");
    assert!(output.stdout.contains("Done: 1 added"), "{output}");
}

#[test]
fn machines_are_told_at_most_twice_a_second() {
    let (registry, names) = registry(1, 120_000);
    let sandbox = Sandbox::in_memory();
    sandbox.images(&wanted(&registry.name(), &[&names[0]]));
    let output = sandbox.msb("apply --json --progress always").run().success();
    let told: Vec<(Timestamp, u64)> = output
        .json_lines()
        .iter()
        .filter(|event| event["event"] == "progress")
        .map(|event| {
            assert!(event["layers"] == 2 && event["layers_done"].as_u64() <= Some(2), "{event}");
            let received = event["received_bytes"].as_u64().unwrap();
            assert!(received <= event["total_bytes"].as_u64().unwrap(), "{event}");
            (event["time"].as_str().unwrap().parse().unwrap(), received)
        })
        .collect();
    assert!(told.len() >= 2, "{output}");
    for pair in told.windows(2) {
        // Times are told in milliseconds.
        assert!(pair[1].0.duration_since(pair[0].0).as_millis() >= 490, "{output}");
        assert!(pair[1].1 >= pair[0].1, "{output}");
    }
}
