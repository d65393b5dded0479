//! The page of `watch --metrics` and `/status.json`: what they tell, to whom, and that a browser shows the page and
//! runs nothing that somebody else wrote.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::check::{listed, wanted};
use crate::support::eventually;
use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{BlobSet, Image, Layer, file};
use crate::support::sandbox::Sandbox;
use crate::support::schema;
use crate::support::watching::{LIMIT, Watching, asked, exchange};

fn image(text: &str) -> Image {
    Image::new(&[Layer::of(&[file("f", text)])])
}

fn address(watching: &Watching) -> String {
    watching.events()[0]["metrics"].as_str().unwrap().to_owned()
}

fn status(address: &str) -> Value {
    let (code, _, body) = asked(address, "/status.json");
    assert_eq!(code, 200, "{body}");
    let status = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in\n{body}"));
    schema::output().assert_as("watch-status", &status);
    status
}

/// The keys of a JSON object, sorted.
fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

#[test]
fn the_status_tells_of_each_image_and_of_the_last_runs() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image("1")));
    registry.edit(|content| {
        let old = content.image(&image("old"));
        content.tag("team/old:1", &old);
    });
    let name = registry.name();
    sandbox.images(&wanted(&name, &["team/app:1", "team/old:1"]));
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = address(&watching);
    let first = status(&address);
    let of_document = [
        "counts",
        "file",
        "images",
        "in_sync",
        "interval_ms",
        "msb_sync",
        "next",
        "new_tags",
        "next_reason",
        "running",
        "runs",
        "since",
        "time",
        "trouble",
        "version",
    ];
    assert_eq!(keys(&first), of_document.into());
    assert_eq!(
        (&first["version"], &first["in_sync"], &first["trouble"]),
        (&json!(1), &json!(true), &Value::Null)
    );
    assert_eq!(first["file"], sandbox.work().join("images.toml").to_str().unwrap());
    assert_eq!((&first["interval_ms"], &first["next_reason"]), (&json!(300_000), &json!("interval")));
    assert_eq!(
        first["counts"],
        json!({"in_sync": 2, "failed": 0, "blocked": 0, "waiting": 0, "unlisted": 0})
    );
    let app = &first["images"][0];
    let of_image = [
        "candidate",
        "chosen_by",
        "created",
        "digest",
        "engines",
        "error",
        "held_since",
        "layers",
        "platform",
        "recorded",
        "reference",
        "size",
        "staged",
        "state",
        "trust",
        "wanted",
    ];
    assert_eq!(keys(app), of_image.into());
    let known = &listed(&sandbox)[0];
    for key in ["reference", "platform", "digest", "size", "trust"] {
        assert_eq!(app[key], known[key], "{key}");
    }
    // The config's and the catalog's words, in RFC 3339.
    assert_eq!(
        app["created"].as_str().map(|time| &time[..19]),
        known["created"].as_str().map(|time| &time[..19])
    );
    let of_run = [
        "changes",
        "downloaded_bytes",
        "duration_ms",
        "ended",
        "hint",
        "more_changes",
        "reasons",
        "repeats",
        "result",
        "summary",
    ];
    assert_eq!(keys(&first["runs"][0]), of_run.into());
    assert_eq!(first["runs"][0]["changes"].as_array().unwrap().len(), 2);
    assert_eq!(first["runs"][0]["changes"][0]["action"], "add");

    let before = app["digest"].clone();
    registry.edit(|content| {
        let new = content.image(&image("2"));
        content.tag("team/app:1", &new);
    });
    sandbox.images(&wanted(&name, &["team/app:1", "team/none:1"]));
    eventually("a run with the new file has ended", LIMIT, || {
        let images = status(&address)["images"].clone();
        images.as_array().unwrap().iter().any(|image| image["reference"].as_str().unwrap().contains("none"))
    });
    let second = status(&address);
    let find = |part: &str| {
        let images = second["images"].as_array().unwrap();
        let is_it = |image: &&Value| image["reference"].as_str().unwrap().contains(part);
        images.iter().find(is_it).unwrap_or_else(|| panic!("no {part} in {second:#}")).clone()
    };
    assert_eq!((&find("app")["state"], &find("old")["state"]), (&json!("in_sync"), &json!("unlisted")));
    let none = find("none");
    assert_eq!(
        (&none["state"], &none["digest"], &none["recorded"]),
        (&json!("blocked"), &Value::Null, &Value::Null)
    );
    assert_eq!(none["error"]["kind"], "not-found");
    assert_eq!(second["in_sync"], false);
    assert!(second["trouble"].as_str().unwrap().contains("1 of 2 images failed"), "{second:#}");
    let runs = second["runs"].as_array().unwrap();
    assert_eq!((&runs[0]["result"], &runs[0]["reasons"][0]["reason"]), (&json!("failed"), &json!("file")));
    let change = json!({
        "reference": format!("{name}/team/app:1"), "action": "update", "from": before,
        "to": find("app")["digest"], "engines": {},
    });
    // Watch may have looked between the move of the tag and the edit of the file.
    assert!(runs.iter().any(|run| run["changes"] == json!([change])), "{second:#}");

    let (code, _, page) = asked(&address, "/");
    assert_eq!(code, 200);
    for part in ["Not in sync", "not listed", "manifest unknown", find("app")["digest"].as_str().unwrap()] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    // A broken file leaves the images as they were.
    sandbox.images("nonsense = 1\n");
    eventually("it says what is wrong", LIMIT, || status(&address)["runs"][0]["result"] == "error");
    let third = status(&address);
    assert!(third["trouble"].as_str().unwrap().contains("line 1"), "{third:#}");
    assert_eq!(third["images"], second["images"]);
    watching.stop();
}

#[test]
fn every_answer_forbids_what_browsers_might_do_with_it() {
    let sandbox = Sandbox::in_memory();
    sandbox.images("");
    let watching = Watching::start(&sandbox, "--metrics localhost:0");
    let address = address(&watching);
    for path in ["/", "/?q=%22%3E%3Cscript%3E&page=9", "/status.json", "/metrics", "/healthz", "/none"] {
        let (code, head, body) = asked(&address, path);
        assert_eq!(code, if path == "/none" { 404 } else { 200 }, "{path}");
        for header in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "no {header} for {path} in\n{head}");
        }
        assert!(!head.contains("access-control") && !head.contains("unsafe"), "{head}");
        assert!(!body.contains("<script"), "{body}");
        let answer = exchange(&address, &format!("HEAD {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        assert!(answer.ends_with("\r\n\r\n"), "a body: {answer}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
            let answer = exchange(&address, &request).to_ascii_lowercase();
            assert!(answer.starts_with("http/1.1 405 ") && answer.contains("allow: get, head"), "{answer}");
        }
        // Browsers always say a Host, and HTTP/1.0 has none.
        assert!(exchange(&address, &format!("GET {path} HTTP/1.0\r\n\r\n")).contains(&format!(" {code} ")));
        for host in ["rebound.example", "localhost.rebound.example", "[::1].rebound.example", "127.0.0.1:x"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(exchange(&address, &request).starts_with("HTTP/1.1 403 "), "{path} of {host}");
        }
    }
    watching.stop();
}

/// Prints red, green and blue of the first pixel of a PNG with 8 bits a channel.
const FIRST_PIXEL: &str = "import sys, zlib, struct\n\
    data = open(sys.argv[1], 'rb').read()\n\
    at, body = 8, b''\n\
    while at < len(data):\n    \
        size, kind = struct.unpack('>I4s', data[at:at + 8])\n    \
        body += data[at + 8:at + 8 + size] if kind == b'IDAT' else b''\n    \
        at += size + 12\n\
    print(*zlib.decompress(body)[1:4])\n";

#[test]
fn a_browser_shows_the_page_and_runs_nothing_in_it() {
    if !crate::support::path().split(':').any(|place| Path::new(place).join("chromium").exists()) {
        // Seen without --nocapture too. The tests of the page itself read it as text.
        let _ = writeln!(std::io::stderr(), "needs chromium: the page was NOT shown in a browser");
        return;
    }
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(BlobSet::with("team/app:1", &image("1")));
    let name = "\"><img src=x onerror=document.title=1><script>document.title=2<!script>.toml";
    sandbox.write(name, wanted(&registry.name(), &["team/app:1", "team/none:1"]));
    let watching = Watching::started(sandbox.msb("watch --json --metrics 0").arg(name));
    let url = format!("http://{}/?q=team%22%3E%3Cscript%3Edocument.title=3%3C/script%3E", address(&watching));
    let shown = |url: &str, more: &[&str]| {
        let profile = format!("--user-data-dir={}", sandbox.root().join("chromium").display());
        let always = [
            "--headless",
            // There is no other sandbox for root.
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--enable-logging=stderr",
            "--virtual-time-budget=1000",
            "--window-size=900,900",
            &profile,
        ];
        let run = sandbox.program("chromium", &[&always[..], more, &[url]].concat());
        let output = run.timeout(LIMIT * 2).run().success();
        // A style that the policy refuses, or a script, would be told of.
        assert!(!output.stderr.contains("CONSOLE"), "{output}");
        output.stdout
    };
    let document = shown(&url, &["--dump-dom"]);
    assert!(document.contains("No image fits.") && document.contains("&lt;script&gt;"), "{document}");
    assert!(!document.contains("<script") && !document.contains("<img"), "{document}");
    assert!(document.contains("<title>! Not in sync"), "{document}");
    let url = format!("http://{}/", address(&watching));
    for (flag, color) in [("--disable-sync", "245 246 248\n"), ("--force-dark-mode", "14 18 23\n")] {
        let picture = sandbox.root().join("page.png");
        shown(&url, &[flag, &format!("--screenshot={}", picture.display())]);
        let pixel = sandbox.program("python3", &["-c", FIRST_PIXEL]).arg(&picture).run().success();
        assert_eq!(pixel.stdout, color, "the background with {flag}");
    }
    watching.stop();
}

/// A registry whose tag moves while it cools, and another image that a rollback holds.
#[test]
fn the_status_tells_what_is_held_and_what_waits() {
    let sandbox = Sandbox::in_memory();
    let registry = FakeRegistry::start(BlobSet::default());
    let move_to = |name: &str, text: &str| {
        registry.edit(|content| {
            let new = content.image(&image(text));
            content.tag(name, &new);
            new.digest().to_owned()
        })
    };
    let name = registry.name();
    let newest = r#"{ name = "team/new", tags = { semver = ">=1", newest = 1 } }"#;
    let images = |cooldown: &str| {
        format!("[settings]\n{cooldown}\n{}", wanted(&name, &["team/app:1", "team/held:1", newest]))
    };
    sandbox.images(&images(""));
    for text in ["1", "2"] {
        for name in ["team/app:1", "team/held:1", "team/new:1.0"] {
            move_to(name, text);
        }
        sandbox.msb("apply").run().success();
    }
    sandbox.msb("rollback").arg(format!("{name}/team/held:1")).run().success();
    let (next, tag) = (move_to("team/app:1", "3"), move_to("team/new:1.1", "3"));
    sandbox.images(&images("cooldown = \"3d\""));
    let watching = Watching::start(&sandbox, "--metrics 0");
    let address = address(&watching);
    let status = status(&address);
    let of = |part: &str| {
        let images = status["images"].as_array().unwrap().iter();
        let mut found = images.filter(|image| image["reference"].as_str().unwrap().contains(part));
        found.next().unwrap_or_else(|| panic!("no {part} in {status:#}"))
    };
    let (app, held) = (of("app"), of("held"));
    assert_eq!((&app["state"], &app["candidate"]["digest"]), (&json!("in_sync"), &json!(next)), "{app:#}");
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let [since, until] = ["since", "until"].map(|key| time(&app["candidate"][key]));
    assert_eq!(until.duration_since(since).as_hours(), 72);
    assert_eq!((&app["held_since"], &held["candidate"]), (&Value::Null, &Value::Null));
    assert!(time(&held["held_since"]) <= jiff::Timestamp::now(), "{held:#}");
    let tags = status["new_tags"].as_array().unwrap();
    assert_eq!((tags.len(), &tags[0]["digest"]), (1, &json!(tag)), "{status:#}");
    assert!(tags[0]["reference"].as_str().unwrap().ends_with("team/new:1.1"));

    let (_, _, page) = asked(&address, "/");
    for part in ["held for ", &next, ", taken <time", "New tags that are not taken yet", "1.1"] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    watching.stop();
}
