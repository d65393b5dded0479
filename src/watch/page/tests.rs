//! The page as text: its states, its bounds, and text from outside, which never becomes markup.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{POLICY, Query, STYLE, page};
use crate::digest::{Algorithm, BlobDigest};
use crate::progress::{SignatureReport, Waiting};
use crate::state::{Action, EngineName};
use crate::watch::status::{
    Change, Failure, ImageState, ImageStatus, Reason, RunStatus, Running, Status, Verdict,
};

const HOSTILE: &str =
    "</style></title><script>alert('1')</script>\"><img src=x onerror=alert(2)>&amp;\u{202e}\u{1b}[31m";

fn now() -> Timestamp {
    "2026-11-29T14:00:00Z".parse().unwrap()
}

fn digest(text: &str) -> BlobDigest {
    BlobDigest::of(Algorithm::Sha256, text.as_bytes())
}

fn image(reference: &str, state: ImageState) -> ImageStatus {
    let failed = matches!(state, ImageState::Failed | ImageState::Blocked);
    ImageStatus {
        reference: reference.to_owned(),
        platform: Some("linux/amd64".to_owned()),
        state,
        digest: Some(digest(reference)),
        wanted: None,
        layers: 3,
        size: 3_670_016,
        created: Some("2026-11-01T00:00:00Z".parse().unwrap()),
        recorded: Some("2026-11-27T14:00:00Z".parse().unwrap()),
        engines: Vec::new(),
        signatures: SignatureReport { status: "not-asked", by: None, issuer: None, at: None, rule: None },
        held: None,
        waiting: None,
        staged: false,
        chosen_by: None,
        failure: failed.then(|| Failure {
            kind: "not-found",
            message: "manifest unknown".to_owned(),
            hint: Some("look at the name".to_owned()),
        }),
    }
}

fn verdict(result: &'static str, summary: &str) -> Verdict {
    Verdict { result, summary: summary.to_owned(), hint: None }
}

fn run(verdict: Verdict) -> RunStatus {
    RunStatus::new(verdict, now(), Duration::from_millis(1300), Vec::new())
}

/// A watch whose last run left `images`.
fn status(images: Vec<ImageStatus>) -> Status {
    let mut status = Status::new("/etc/images.toml".to_owned(), Duration::from_secs(300), now());
    status.images = images.into();
    status.remember(run(verdict("ok", "1 image in sync")));
    status.next = Some((now() + jiff::SignedDuration::from_secs(250), "interval"));
    status
}

/// The page, which is well-formed and small.
fn shown(status: &Status, trouble: Option<&str>, query: &str) -> String {
    let page = page(status, trouble, &Query::parse(query), now());
    assert_well_formed(&page);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    page
}

/// Each element of `page` is one that the page is made of, and ends.
fn assert_well_formed(page: &str) {
    const ELEMENTS: &str = "html head title style body a header p code main section span h1 h2 div ul ol li b \
                            small time table caption thead tbody tr th td form label button nav footer \
                            details summary";
    const VOID: &str = "meta input wbr br";
    let is_one = |names: &str, name: &str| names.split_whitespace().any(|known| known == name);
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(!text.contains(['"', '\'', '>']) || open.is_empty() || tag == "style", "raw text: {text}");
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
        // Between the quotes is text.
        let names: String = attributes.split('"').step_by(2).collect();
        assert!(!format!(" {names}").contains(" on") && !names.contains("style"), "{tag}");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "in {tag}"),
            None if name == "!doctype" || is_one(VOID, name) => {}
            None => {
                assert!(is_one(ELEMENTS, name), "{tag}");
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[track_caller]
fn assert_has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "no {part} in\n{}", page.replace(STYLE, ""));
    }
}

#[test]
fn the_policy_lets_in_the_style_of_the_page_alone() {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    assert!(POLICY.contains(&format!("style-src 'sha256-{hash}'")), "the style's digest is {hash}");
    assert!(POLICY.starts_with("default-src 'none';"));
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
    assert!(shown(&status(Vec::new()), None, "").contains(&format!("<style>{STYLE}</style>")));
}

#[test]
fn the_state_of_everything_is_said_first() {
    let begun = Status { runs: [].into(), next: None, ..status(Vec::new()) };
    let page = shown(&begun, Some("the first run has not ended yet"), "");
    assert_has(&page, &["<h1 id=\"state\">Starting</h1>", "The first run has not ended yet"]);

    let page = shown(&status(vec![image("a.io/b:1", ImageState::InSync)]), None, "");
    assert_has(&page, &["✓ In sync · images.toml · msb-sync", ">In sync</h1>", "as the file says"]);
    assert_has(&page, &["took 1.3 s", "next look-up", ">in 4 minutes</time>", "2026-11-29 14:04:10 UTC"]);
    assert_has(&page, &["title=\"sha256:", "3.5 MiB", "3 layers", ">4 weeks</time>", "here for <time"]);
    assert!(!page.contains("Engines") && !page.contains("Signed by"), "columns without data");

    let mut failed = status(vec![image("a.io/b:1", ImageState::Failed)]);
    failed.next = failed.next.map(|(next, _)| (next, "retry"));
    let page = shown(&failed, Some("1 of 1 images failed; a.io/b:1: manifest unknown"), "");
    assert_has(
        &page,
        &["! Not in sync", "1 of 1 images failed", "manifest unknown", "Hint: look at the name"],
    );
    assert_has(&page, &["next try", "✗</span> failed"]);

    let mut wrong = failed;
    let broken = Verdict { hint: Some("did you mean `images`?".to_owned()), ..verdict("error", "line 3") };
    wrong.remember(run(broken));
    let page = shown(&wrong, Some("images.toml is wrong, line 3: no key imges"), "");
    assert_has(&page, &["images.toml is wrong, line 3", "Hint: did you mean `images`?"]);
}

#[test]
fn a_run_that_is_going_on_is_shown_with_its_reason() {
    let mut status = status(Vec::new());
    let reason = Reason { word: "file", text: "/etc/images.toml changed".to_owned() };
    status.running = Some(Running { since: now(), reasons: vec![reason] });
    let page = shown(&status, None, "");
    assert_has(&page, &["A run is going on", "because /etc/images.toml changed"]);
    assert!(!page.contains("next look-up"));
}

#[test]
fn engines_and_signers_are_shown_where_there_are_any() {
    let mut signed = image("a.io/b:1", ImageState::Failed);
    signed.engines = vec![(EngineName::Podman, ImageState::InSync), (EngineName::Docker, ImageState::Failed)];
    signed.wanted = Some(digest("other"));
    signed.signatures = SignatureReport {
        status: "verified",
        by: Some("github.com/acme/app release.yml@refs/tags/v1".to_owned()),
        issuer: None,
        at: None,
        rule: Some("images.toml:12".to_owned()),
    };
    let page = shown(&status(vec![signed, image("a.io/c:1", ImageState::InSync)]), None, "");
    assert_has(&page, &["Engines", "Signed by", "podman", "docker", "wanted ", "no rule"]);
    assert_has(&page, &["release.yml@<wbr>refs/", "rule images.toml:<wbr>12"]);
}

#[test]
fn what_is_held_and_what_waits_is_shown_with_its_time() {
    let waiting = || Waiting {
        digest: digest("new"),
        since: "2026-11-28T14:00:00Z".parse().unwrap(),
        until: "2026-12-01T14:00:00Z".parse().unwrap(),
    };
    let mut held = image("a.io/b:1", ImageState::InSync);
    held.held = Some("2026-11-29T13:00:00Z".parse().unwrap());
    let mut cooling = image("a.io/c:1", ImageState::InSync);
    cooling.waiting = Some(waiting());
    let mut staged = image("a.io/d:1", ImageState::Failed);
    staged.staged = true;
    let mut status = status(vec![held, cooling, staged]);
    let plain = shown(&status, None, "");
    assert!(!plain.contains("New tags"));
    status.new_tags = vec![("a.io/e:2".to_owned(), waiting())].into();
    let page = shown(&status, None, "");
    assert_has(&page, &["held for <time", ">1 hour</time>", "ready, and not recorded yet"]);
    assert_has(&page, &[&format!("title=\"{}\"", digest("new")), "taken <time", ">in 2 days</time>"]);
    assert_has(&page, &["New tags that are not taken yet:", "a.io/<wbr>e:<wbr>2"]);
}

#[test]
fn text_from_outside_never_becomes_markup() {
    let mut hostile = image(HOSTILE, ImageState::Blocked);
    hostile.platform = Some(HOSTILE.to_owned());
    hostile.chosen_by = Some(HOSTILE.to_owned());
    hostile.signatures.status = "verified";
    hostile.signatures.by = Some(HOSTILE.to_owned());
    hostile.signatures.rule = Some(HOSTILE.to_owned());
    let (since, until) = (now(), now());
    let waiting = Waiting { digest: digest(HOSTILE), since, until };
    hostile.failure =
        Some(Failure { kind: "not-found", message: HOSTILE.to_owned(), hint: Some(HOSTILE.to_owned()) });
    let mut status = status(vec![hostile]);
    status.file = format!("/{HOSTILE}");
    status.new_tags = vec![(HOSTILE.to_owned(), waiting)].into();
    let reason = Reason { word: "file", text: HOSTILE.to_owned() };
    let broken = Verdict { hint: Some(HOSTILE.to_owned()), ..verdict("error", HOSTILE) };
    let mut run = RunStatus::new(broken, now(), Duration::ZERO, vec![reason.clone()]);
    run.changes = vec![Change {
        reference: HOSTILE.to_owned(),
        action: Action::Add,
        from: None,
        to: None,
        engines: Vec::new(),
    }];
    status.remember(run);
    for running in [None, Some(Running { since: now(), reasons: vec![reason] })] {
        status.running = running;
        let page = shown(&status, Some(HOSTILE), &format!("q={HOSTILE}&state=blocked&refresh=on"));
        let page = format!("{page}{}", shown(&status, Some(HOSTILE), ""));
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'));
        assert!(page.matches("&lt;script&gt;alert(&#39;1&#39;)").count() >= 20, "something is not shown");
    }
}

#[test]
fn ten_thousand_images_are_shown_a_page_at_a_time() {
    let mut images: Vec<ImageStatus> =
        (0..10_000).map(|number| image(&format!("a.io/b:{number:05}"), ImageState::InSync)).collect();
    images[7777].state = ImageState::Failed;
    let status = status(images);
    let first = shown(&status, None, "");
    assert_eq!(first.matches("<tbody").count(), 200);
    assert_has(&first, &["1–200 of 10,000 images", "href=\"/?page=2#images\">Next"]);
    let (failed, good) = (first.find("b:<wbr>07777").unwrap(), first.find("b:<wbr>00000").unwrap());
    assert!(failed < good, "what is to be looked at first is not first");
    let last = shown(&status, None, "page=999999999");
    assert_has(&last, &["9,801–10,000 of 10,000 images", "page=49#images\">Previous", "b:<wbr>09999"]);
    assert!(!last.contains(">Next<"));
    let found = shown(&status, None, "q=B:0123&refresh=on");
    assert_has(&found, &["10 images<", "value=\"b:0123\"", "href=\"/?refresh=on#images\">All images"]);
    assert_has(&found, &["http-equiv=\"refresh\"", "Stop refreshing"]);
    let failed = shown(&status, None, "state=failed");
    assert_eq!(failed.matches("<tbody").count(), 1);
    assert_has(&shown(&status, None, "q=nothing"), &["No image fits."]);
    assert_eq!(shown(&status, None, &format!("q={}", digest("a.io/b:00042"))).matches("<tbody").count(), 1);
}

#[test]
fn runs_tell_what_they_changed() {
    let mut status = status(Vec::new());
    let change = |number: usize| Change {
        reference: format!("a.io/b:{number}"),
        action: Action::Update,
        from: Some(digest("old")),
        to: Some(digest("new")),
        engines: vec![(EngineName::Podman, Action::Update)],
    };
    let mut updated = run(verdict("ok", "1 image in sync"));
    updated.changes = vec![change(1)];
    updated.downloaded_bytes = 2048;
    status.remember(updated);
    let page = shown(&status, None, "");
    assert_has(&page, &["1 image changed · 2.0 KiB fetched · took 1.3 s", " → ", "into podman", "updated"]);
    assert!(!page.contains("<details>"));
    let mut many = run(verdict("ok", "1 image in sync"));
    (many.changes, many.more_changes) = ((0..100).map(change).collect(), 9900);
    status.remember(many);
    assert_has(&shown(&status, None, ""), &["<details><summary>10,000 changes", "and 9,900 more"]);
}

#[test]
fn runs_that_change_nothing_are_one_and_the_oldest_are_forgotten() {
    let mut status = status(Vec::new());
    (0..9).for_each(|_| status.remember(run(verdict("ok", "1 image in sync"))));
    assert_eq!(status.runs.len(), 1);
    assert_has(&shown(&status, None, ""), &["nothing changed, 10 times in a row"]);
    for number in 0..1000 {
        status.remember(run(verdict("failed", &format!("failure {number}"))));
    }
    let first = Arc::clone(&status.runs[0]);
    assert_eq!((status.runs.len(), first.verdict.summary.as_str(), first.repeats), (20, "failure 999", 0));
}
