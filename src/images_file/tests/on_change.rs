//! `[[on-change]]`: what tables of hooks mean, and what is said about their mistakes.

use super::*;
use crate::state::{Action, Hook};

fn hook(images: &[&str], actions: &[Action], run: &[&str], seconds: u64, line: usize) -> Hook {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Hook {
        images: texts(images),
        actions: actions.iter().copied().collect(),
        run: texts(run),
        timeout: Duration::from_secs(seconds),
        directory: "/etc/msb".into(),
        place: format!("images.toml:{line}"),
    }
}

#[test]
fn tables_of_hooks_mean_what_they_say() {
    let file = good(
        r#"
[[on-change]]
images = ["ghcr.io/acme/*", "GHCR.io/other/app"]
actions = ["update", "repair"]
run = ["systemctl", "restart", "acme"]
timeout = "2m"
[[on-change]]
run = ["./notify.sh", "./x", ""]
[[on-change]]
run = ["~/bin/notify"]
[registry."ghcr.io"]
username = "me"
password-env = "GHCR_TOKEN"
images = ["acme/app:1"]
"#,
    );
    assert_eq!(file.warnings, []);
    let usual = [Action::Add, Action::Update, Action::Remove];
    let acme = ["ghcr.io/acme/*", "ghcr.io/other/app"];
    let restart = ["systemctl", "restart", "acme"];
    let expected = [
        hook(&acme, &[Action::Update, Action::Repair], &restart, 120, 2),
        hook(&["*"], &usual, &["/etc/msb/notify.sh", "./x", ""], 30, 7),
        hook(&["*"], &usual, &["/home/ann/bin/notify"], 30, 9),
    ];
    assert_eq!(file.hooks, expected);
    assert_eq!(file.secret_variables, BTreeSet::from(["GHCR_TOKEN".to_owned()]));
}

#[test]
fn mistakes_in_hooks_are_all_reported() {
    let run = "name a program and its arguments: run = [\"systemctl\", \"restart\", \"acme\"]";
    for (text, expected) in [
        ("images = [\"*\"]", format!("1:1 an [[on-change]] table without `run` | {run}")),
        ("run = []", format!("2:7 `run` of [[on-change]] is empty | {run}")),
        (
            "run = \"systemctl restart acme\"",
            "2:7 `run` must be an array of strings, found a string | no shell reads it: write each word as a \
             string of its own, or [\"sh\", \"-c\", …]"
                .to_owned(),
        ),
        ("run = [\"\"]", "2:8 an entry of `run` is empty".to_owned()),
        (
            "run = [\"systemctl restart\"]",
            "2:8 an entry of `run` is not the name of a program | name the program alone, without arguments: \
             \"podman\", \"/usr/bin/podman\""
                .to_owned(),
        ),
        ("run = [\"a\", \"b\\u0000\"]", "2:13 an entry of `run` has a NUL byte".to_owned()),
        ("run = [\"a\", 1]", "2:13 an entry of `run` must be a string, found an integer".to_owned()),
        (
            "run = [\"a\"]\nactions = [\"updated\"]",
            "3:12 `updated` is no action that changes an image | did you mean `update`?".to_owned(),
        ),
        (
            "run = [\"a\"]\nactions = []",
            "3:11 `actions` of [[on-change]] is empty | leave it out for add, update and remove, or name some of \
             add, update, remove, repair"
                .to_owned(),
        ),
        ("run = [\"a\"]\ntimeout = \"0s\"", "3:11 `timeout` must be at least 1s".to_owned()),
        ("run = [\"a\"]\ntimeout = \"2d\"", "3:11 `timeout` is longer than a day".to_owned()),
        (
            "run = [\"a\"]\nimages = [\"app\"]",
            "3:11 an entry of `images` is not a full name, registry and all: `app` | write `docker.io/library/app`"
                .to_owned(),
        ),
        ("run = [\"a\"]\n[[on-change]]\nrun = [\"a\"]", "3:1 this [[on-change]] table says the same as an earlier one".to_owned()),
        ("run = [\"a\"]\nshell = true", "3:1 unknown key `shell` | the keys of [[on-change]] are `images`, `actions`, `run`, `timeout`".to_owned()),
    ] {
        assert_eq!(brief(&bad(&format!("[[on-change]]\n{text}\n"))), [expected], "{text}");
    }
    let table = brief(&bad("[on-change]\nrun = [\"a\"]\n"));
    let hint = "write [[on-change]] in double brackets: each such table is a rule";
    assert_eq!(table, [format!("1:2 `on-change` must be an array of tables | {hint}")]);
    let table = |number: usize| format!("[[on-change]]\nrun = [\"a{number}\"]\n");
    let many = |count: usize| (0..count).map(table).collect::<Vec<_>>().concat();
    assert_eq!(good(&many(100)).hooks.len(), 100);
    assert_eq!(brief(&bad(&many(101))), ["201:1 more than 100 [[on-change]] tables"]);
}

#[test]
fn a_stranger_may_name_no_hook() {
    let source = Source { untrusted: true, ..source() };
    let problems = parse("[[on-change]]\nrun = [\"a\"]\n", &source).unwrap_err();
    let expected = "1:3 `on-change` is refused under --untrusted: it says which programs are run \
                    | leave it out; who trusts this file runs without --untrusted";
    assert_eq!(brief(&problems), [expected]);
}
