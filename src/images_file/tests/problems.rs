//! Bad files and exactly what is said about them.

use super::{bad, brief, good, references};

#[test]
fn problems_are_printed_in_the_form_of_rustc() {
    let problems = bad("[registry.\"docker.io\"]\nimags = [\"alpine\"]\n");
    assert_eq!(
        problems.to_string(),
        "error: unknown key `imags`
 --> images.toml:2:1
  |
2 | imags = [\"alpine\"]
  | ^^^^^
hint: did you mean `images`?"
    );
    let problems =
        bad("[registry.\"docker.io\"]\nimages = [\n  \"alpine:3.20\",\n\t\"library/alpine:3.20\",\n]\n");
    assert_eq!(
        problems.to_string(),
        "error: docker.io/library/alpine:3.20 is listed twice
 --> images.toml:4:2
  |
4 |     \"library/alpine:3.20\",
  |     ^^^^^^^^^^^^^^^^^^^^^
 ::: images.toml:3:3
  |
3 |   \"alpine:3.20\",
  |   ------------- first listed here
hint: remove one of the two"
    );
}

#[test]
fn all_problems_of_a_file_are_reported_in_one_run() {
    let text = r#"
[settings]
pul = "always"
downloads = "six"
interval = "5"
[registry."docker.io"]
images = ["Alpine", "a", "a", { name = "b", tag = "x y", digest = "sha256:1", pull = "sometimes" }, 7]
[registry."Ghcr.io"]
endpont = "x"
[groups]
g = ["@h", "zebra"]
[group]
"#;
    assert_eq!(
        brief(&bad(text)),
        [
            "3:1 unknown key `pul` | did you mean `pull`?",
            "4:13 `downloads` must be an integer, found a string",
            "5:12 `interval` is not a duration | a unit is missing; did you mean \"5s\"?",
            "7:11 invalid image reference `Alpine`: repositories are lower case | did you mean `alpine`?",
            "7:26 docker.io/library/a:latest is listed twice | remove one of the two",
            "7:51 invalid tag `x y`: a tag has only letters, digits, '_', '.' and '-'",
            "7:67 invalid digest `sha256:1`: sha256 takes 64 hex digits",
            "7:86 unknown value `sometimes` for `pull` | valid here: `always`, `missing`, `never`",
            "7:101 an entry of `images` must be a string or a table, found an integer",
            "9:1 unknown key `endpont` | did you mean `endpoint`?",
            "11:6 unknown group `@h`",
            "11:12 no image `docker.io/library/zebra:latest` is listed in this file | groups select among the images of this file; they add none",
            "12:2 unknown key `group` | did you mean `groups`?",
        ]
    );
}

/// Each file and its only problem.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_files_and_their_problems() {
    let registry = |body: &str| format!("[registry.\"r.io\"]\n{body}\n");
    let settings = |body: &str| format!("[settings]\n{body}\n");
    let groups = |body: &str| {
        format!(
            "[registry.\"docker.io\"]\nimages = [\"alpine:3\", {{ name = \"nginx\", groups = [\"web\"] }}]\n[groups]\n{body}\n"
        )
    };
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let cases: Vec<(String, &str)> = vec![
        // keys
        ("images = []".into(), "1:1 unknown key `images` | `images` belongs to [registry.\"NAME\"]"),
        ("[settngs]".into(), "1:2 unknown key `settngs` | did you mean `settings`?"),
        ("[registries.\"a.b\"]".into(), "1:2 unknown key `registries` | did you mean `registry`?"),
        ("zzz = 1".into(), "1:1 unknown key `zzz` | the keys of the top level are `settings`, `engine`, `registry`, `groups`, `trust`, `on-change`"),
        (settings("hosts_dir = \"x\""), "2:1 unknown key `hosts_dir` | did you mean `hosts-dir`?"),
        (settings("[settings.limits]\nlayersize = 1"), "3:1 unknown key `layersize` | did you mean `layer-size`?"),
        (settings("images = 1"), "2:1 unknown key `images` | `images` belongs to [registry.\"NAME\"]"),
        (registry("images = [{ name = \"a\", tga = \"1\" }]"), "2:25 unknown key `tga` | did you mean `tag`?"),
        (registry("mirrors = [{ url = \"https://x\", resolv = true }]"), "2:33 unknown key `resolv` | did you mean `resolve`?"),
        (registry("images = [{ name = \"a\", tags = { newst = 1, semver = \"1\" } }]"), "2:34 unknown key `newst` | did you mean `newest`?"),
        ("[registry.\"h:1\".auth]\nuser = \"u\"".into(), "1:17 unknown key `auth` | put it into an environment variable named by `password-env`, or into a file named by `password-file`"),
        ("[registry.docker.io]\nimages = []".into(), "1:18 unknown key `io` | quote the registry's name, as in [registry.\"docker.io\"]"),
        ("[registry]\nimages = []".into(), "2:1 `images` must be a table of one registry | name the registry: [registry.\"docker.io\"]"),
        // types
        ("settings = 1".into(), "1:12 `settings` must be a table, found an integer"),
        ("registry = []".into(), "1:12 `registry` must be a table, found an array"),
        ("[[registry]]".into(), "1:1 `registry` must be a table, found an array"),
        ("groups = \"x\"".into(), "1:10 `groups` must be a table, found a string"),
        (settings("layers = 1"), "2:10 `layers` must be a path, or false where none are extracted, found an integer"),
        (settings("layers = false"), "2:10 `layers = false` leaves images no place on this machine | then at least one engine, such as [engine.podman], or `blobs = \"keep\"`"),
        (settings("blobs = true"), "2:9 `blobs` must be a string, found a boolean"),
        (settings("blobs = \"keeep\""), "2:9 unknown value `keeep` for `blobs` | did you mean `keep`?"),
        ("engine = 1".into(), "1:10 `engine` must be a table, found an integer"),
        ("[engine]\npodman = true".into(), "2:10 `podman` must be a table, found a boolean"),
        // engines
        ("[engine.podmen]".into(), "1:9 unknown engine `podmen` | did you mean `podman`?"),
        ("[engine.kvm]".into(), "1:9 unknown engine `kvm` | the engines are `microsandbox`, `containerd`, `podman`, `docker`"),
        ("[engines.podman]".into(), "1:2 unknown key `engines` | `engines` belongs to an image"),
        ("[engine.podman]\nadress = \"x\"".into(), "2:1 unknown key `adress` | the keys of [engine.podman] are `command`"),
        ("[engine.podman]\nhome = \"x\"".into(), "2:1 unknown key `home` | `home` belongs to [engine.microsandbox]"),
        ("[engine.docker]\ncommand = \"\"".into(), "2:11 `command` is empty"),
        ("[engine.docker]\ncommand = \"docker --debug\"".into(), "2:11 `command` is not the name of a program | name the program alone, without arguments: \"podman\", \"/usr/bin/podman\""),
        ("[engine.docker]\ncommand = \"~ann/docker\"".into(), "2:11 `command` names another user's home directory | only ~ and ~/… are expanded; write ./~… for a file whose name starts with ~"),
        ("[engine.containerd]\naddress = \"tcp://10.0.0.1\"".into(), "2:11 `address` is not the path of a socket | only a socket of this machine is possible: \"/run/containerd/containerd.sock\""),
        ("[engine.containerd]\nnamespace = \"--help\"".into(), "2:13 `namespace` is not a name: letters and digits, with single '.', '_' or '-' between them"),
        ("[engine.containerd]\nsnapshotter = 1".into(), "2:15 `snapshotter` must be a string, found an integer"),
        (registry("images = [{ name = \"a\", engines = [\"podman\"] }]"), "2:36 no table [engine.podman] is in this file | add the line [engine.podman], or leave `podman` out"),
        (registry("images = [{ name = \"a\", engines = [\"podmna\"], tags = { newest = 1 } }]"), "2:36 unknown engine `podmna` | did you mean `podman`?"),
        (registry("images = [{ name = \"a\", engines = \"podman\" }]"), "2:35 `engines` must be an array, found a string"),
        (settings("prune = \"yes\""), "2:9 `prune` must be true or false, found a string"),
        (settings("interval = 300"), "2:12 `interval` must be a string, found an integer"),
        (settings("limits = 1.5"), "2:10 `limits` must be a table, found a float"),
        (settings("[settings.limits]\nlayer-size = true"), "3:14 `layer-size` must be a size such as \"64GiB\", found a boolean"),
        (registry("images = \"alpine\""), "2:10 `images` must be an array, found a string"),
        (registry("images = [2020-01-01]"), "2:11 an entry of `images` must be a string or a table, found a date-time"),
        (registry("mirrors = [1]"), "2:12 an entry of `mirrors` must be a URL or a table { url, resolve }, found an integer"),
        (registry("headers = [1]"), "2:11 `headers` must be a table, found an array"),
        (registry("insecure = 0"), "2:12 `insecure` must be true or false, found an integer"),
        // values
        (settings("downloads = 0"), "2:13 `downloads` must be from 1 to 64"),
        (settings("downloads = 65"), "2:13 `downloads` must be from 1 to 64"),
        (settings("downloads = -1"), "2:13 `downloads` must be from 1 to 64"),
        (settings("interval = \"0s\""), "2:12 `interval` must be at least 1s"),
        (settings("rate = \"20MiB\""), "2:8 `rate` is not a rate | did you mean \"20MiB/s\"?"),
        (settings("rate = 20971520"), "2:8 `rate` must be a rate such as \"20MiB/s\", found an integer"),
        (settings("rate = \"0\""), "2:8 `rate` must be more than 0 | leave `rate` out: then nothing is held back"),
        (registry("rate = \"0B/s\""), "2:8 `rate` must be more than 0 | leave `rate` out: then nothing is held back"),
        (registry("layout = \"d\"\nrate = \"1MB/s\""), "3:1 `rate` has no meaning beside `layout` | an image layout is a directory: no network is used"),
        (registry("images = [{ name = \"a\", rate = \"1MB/s\" }]"), "2:25 unknown key `rate` | `rate` belongs to [settings] or [registry.\"NAME\"]"),
        (settings("pull = \"alwyas\""), "2:8 unknown value `alwyas` for `pull` | did you mean `always`?"),
        (settings("layers-mode = \"755 \""), "2:15 `layers-mode` is not a mode | a mode is octal, as in \"0755\": others may read; or \"0700\": they may not"),
        (settings("layers-mode = \"0777\""), "2:15 `layers-mode` lets others write | who may write there decides what is in the images; \"0755\" lets others read"),
        (settings("layers-mode = \"0644\""), "2:15 `layers-mode` keeps msb-sync itself out | the first digit is 7, as in \"0755\""),
        (settings("layers-mode = 0o755"), "2:15 `layers-mode` must be a string, found an integer"),
        (settings("ownership = \"override\""), "2:13 unknown value `override` for `ownership` | valid here: `override-stat`, `none`"),
        (settings("platform = \"amd64\""), "2:12 `platform` is no platform to ask for: `amd64` | a platform is os/architecture or os/architecture/variant, as in linux/arm64"),
        (settings("layers = \"\""), "2:10 `layers` is empty"),
        (settings("layers = \"~root/x\""), "2:10 `layers` names another user's home directory | only ~ and ~/… are expanded; write ./~… for a file whose name starts with ~"),
        (settings("[settings.limits]\nlayer-entries = 0"), "3:17 `layer-entries` must be at least 1"),
        (settings("[settings.limits]\nlayer-size = \"64GiBi\""), "3:14 `layer-size` is not a size | did you mean `GiB`?"),
        (settings("[settings.limits]\nmanifest-size = 99999999999999999999"), "3:17 `manifest-size` must be at most 9223372036854775807"),
        // registries
        ("[registry.\"https://docker.io\"]".into(), "1:11 invalid registry name `https://docker.io`: a registry is host[:port], without a scheme | write [registry.\"docker.io\"]"),
        ("[registry.\"Ghcr.io\"]\n[registry.\"ghcr.IO\"]".into(), "2:11 registry `ghcr.io` has two tables"),
        (registry("endpoint = \"https://r.io/v2/\""), "2:12 `endpoint` ends in /v2, which msb-sync adds by itself | write \"https://r.io\""),
        (registry("images = [\"docker://a:1\"]"), "2:11 invalid image reference `docker://a:1`: no image reference starts with docker:// | write `a:1`"),
        (registry("images = [\"https://R.io/a:1\"]"), "2:11 invalid image reference `https://R.io/a:1`: the registry is named by the table, not by the image | write `a:1`"),
        ("[registry.\"docker.io\"]\n[registry.\"index.docker.io\"]".into(), "2:11 registry `docker.io` has two tables"),
        (registry("endpoint = \"r.io\""), "2:12 `endpoint` is not a URL | a URL starts with https:// or http://"),
        (registry("endpoint = \"https://r.io?a=b\""), "2:12 `endpoint` must not have a query or a fragment"),
        (registry("mirrors = [\"ftp://r.io\"]"), "2:12 an entry of `mirrors` has an unknown scheme | only https:// and http:// are possible"),
        (registry("mirrors = [{ resolve = true }]"), "2:12 a mirror without `url`"),
        (registry("username = \"me\""), "2:1 `username` needs `password-env` or `password-file`"),
        (registry("username = \"me\"\npassword-env = \"A\"\npassword-file = \"b\""), "4:1 `password-env` and `password-file` exclude each other | keep one of them"),
        (registry("username = \"me\"\npassword-env = \"A=b\""), "3:16 `password-env` is not the name of a variable | name the variable that holds the password, as in \"GHCR_TOKEN\""),
        (registry("client-cert = \"a\""), "2:1 `client-cert` needs `client-key`"),
        (registry("client-key = \"a\""), "2:1 `client-key` needs `client-cert`"),
        (registry("layout = \"x\"\nendpoint = \"https://x\""), "3:1 `endpoint` has no meaning beside `layout` | an image layout is a directory: no network is used"),
        (registry("headers = { \"X Y\" = \"1\" }"), "2:13 header `X Y` is not a valid header name"),
        (registry("headers = { X-Y = \"a\\r\\nb\" }"), "2:19 `X-Y` has a control character in its value"),
        (registry("headers = { X-Y = \"1\", x-y = \"2\" }"), "2:24 header `x-y` is given twice: case does not matter"),
        // images
        (registry("images = [\"a\"]\npull = \"nver\""), "3:8 unknown value `nver` for `pull` | did you mean `never`?"),
        (registry("images = [\"\"]"), "2:11 invalid image reference ``: the repository is empty"),
        (registry("images = [\"r.io/a:1\"]"), "2:11 invalid image reference `r.io/a:1`: the registry is named by the table, not by the image | write `a:1`"),
        ("[registry.\"docker.io\"]\nimages = [\"ghcr.io/a/b:1\"]".into(), "2:11 invalid image reference `ghcr.io/a/b:1`: the registry is named by the table, not by the image | list `a/b:1` under [registry.\"ghcr.io\"]"),
        (registry("images = [{ tag = \"1\" }]"), "2:11 an image without `name` | an image is { name = \"alpine\", tag = \"3.20\" }, or just \"alpine:3.20\""),
        (registry("images = [{ name = \"nginx:1.2\", tag = \"1.3\" }]"), "2:33 `tag` beside a tag in `name` | leave it out of the name, or drop `tag`"),
        (registry(&format!("images = [{{ name = \"a@{digest}\", digest = \"{digest}\" }}]")), "2:97 `digest` beside a digest in `name` | leave it out of the name, or drop `digest`"),
        (registry("images = [{ name = \"a:1\", tags = { newest = 1 } }]"), "2:27 `tags` beside a tag or digest in `name` | leave it out of the name, or drop `tags`"),
        (registry("images = [{ name = \"a\", tag = \"1\", tags = { newest = 1 } }]"), "2:25 `tag` and `tags` exclude each other | `tags` selects the tags: keep one of them"),
        (registry("images = [{ name = \"a\", platform = \"x\" }]"), "2:36 `platform` is no platform to ask for: `x` | a platform is os/architecture or os/architecture/variant, as in linux/arm64"),
        (registry("images = [{ name = \"a\", groups = [\"@x\"] }]"), "2:35 group name `@x` starts with @ | the @ goes before a group's name only where [groups] refers to it"),
        (registry("images = [{ name = \"a\", groups = [\"\"] }]"), "2:35 group name `` is empty"),
        // selections
        (registry("images = [{ name = \"a\", tags = {} }]"), "2:32 an empty selection of tags | say which tags: `semver`, `match` or `newest`"),
        (registry("images = [{ name = \"a\", tags = { newest = 0 } }]"), "2:43 `newest` must be from 1 to 4294967295"),
        (registry("images = [{ name = \"a\", tags = { semver = [\"1\", \"2 || seven\"] } }]"), "2:49 an entry of `semver` is not a range of versions: `seven` is none: unexpected character 's' while parsing major version number | a range is written as in \">=7, <8\" or \"~1.25\""),
        (registry("images = [{ name = \"a\", tags = { semver = [] } }]"), "2:43 `semver` lists no range | leave it out to take any tag"),
        (registry("images = [{ name = \"a\", tags = { semver = 7 } }]"), "2:43 `semver` must be a string or an array of strings, found an integer"),
        (registry("images = [{ name = \"a\", tags = { semver = [7] } }]"), "2:44 an entry of `semver` must be a string, found an integer"),
        (registry("images = [{ name = \"a\", tags = { semver = \"seven\" } }]"), "2:43 `semver` is not a range of versions: unexpected character 's' while parsing major version number | a range is written as in \">=7, <8\" or \"~1.25\""),
        (registry("images = [{ name = \"a\", tags = { match = \"a(\" } }]"), "2:42 `match` is not a valid pattern: unclosed group"),
        (registry("images = [{ name = \"a\", tags = { match = \"a)(b\" } }]"), "2:42 `match` is not a valid pattern: unopened group"),
        (registry("images = [{ name = \"a\", tags = { match = \"a{1000}{1000}{1000}\" } }]"), "2:42 `match` is not a valid pattern: too large | \\w and \\d stand for thousands of characters: write [0-9A-Za-z_] and [0-9]"),
        (registry("images = [{ name = \"a\", tags = { newest = 1 } }, { name = \"a\", tags = { newest = 1 } }]"), "2:59 the same selection of r.io/a is listed twice"),
        // two platforms
        (registry("images = [\"a\", { name = \"a\", platform = \"linux/arm64\" }]"), "2:25 r.io/a:latest is wanted for two platforms: linux/amd64 and linux/arm64"),
        ("[registry.\"docker.io\"]\nimages = [\"a\"]\n[registry.\"sandboxes.io\"]\nimages = [{ name = \"a\", platform = \"linux/arm64\" }]".into(),
            "4:20 docker.io/library/a:latest is wanted for two platforms: linux/amd64 and linux/arm64 | an image of sandboxes.io is recorded under docker.io, too"),
        // groups
        (groups("g = []"), "4:1 group `g` names nothing | list images or other groups in it, or remove it"),
        (groups("g = [\"alpine:4\"]"), "4:6 no image `docker.io/library/alpine:4` is listed in this file | did you mean `docker.io/library/alpine:3`?"),
        (groups("g = [\"@wbe\"]"), "4:6 unknown group `@wbe` | did you mean `@web`?"),
        (groups("g = [\"@g\"]"), "4:6 group `g` contains itself | remove one of these references"),
        (groups("a = [\"@b\"]\nb = [\"@c\", \"alpine:3\"]\nc = [\"@a\"]"), "4:6 group `a` contains itself: a → b → c → a | remove one of these references"),
        (groups("g = [\"\"]"), "4:6 invalid image reference ``: the repository is empty | a group is referred to as \"@name\""),
        (groups("g = \"alpine:3\""), "4:5 `g` must be an array, found a string"),
        (groups("g = [1]"), "4:6 an entry of `g` must be a string, found an integer"),
        (groups("\"a b\" = [\"alpine:3\"]"), "4:1 group name `a b` must have only letters, digits, '-', '_' and '.'"),
        // syntax
        ("[settings]\ndownloads = \n".into(), "2:13 invalid TOML: a value is missing"),
        ("[settings]\npull = always\n".into(), "2:8 invalid TOML: not a value | text goes in double quotes: \"…\""),
        ("[settings\npull = \"always\"\n".into(), "1:10 invalid TOML: unclosed table, expected `]`"),
        ("[settings]\nprune = true\nprune = false\n".into(), "3:1 duplicate key `prune`"),
        ("[settings]\n[settings]\n".into(), "2:2 duplicate key `settings`"),
    ];
    let wrong: Vec<(Vec<String>, &str)> = cases
        .iter()
        .map(|(text, expected)| (brief(&bad(text)), *expected))
        .filter(|(found, expected)| found != &[*expected])
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_independent_of_broken_toml_is_reported_with_it() {
    let text = "[settings]\nfoo = 1\ndownloads = \n[registry.\"docker.io\"]\nimags = [\"a\"]\n[groups]\ng = [\"a\"]\n";
    assert_eq!(
        brief(&bad(text)),
        [
            "2:1 unknown key `foo` | the keys of [settings] are `layers`, `layers-mode`, `blobs`, `platform`, `platforms`, `pull`, `cooldown`, `keep`, `prune`, `downloads`, `rate`, `interval`, `hosts-dir`, `ownership`, `unsigned`, `trusted-root`, `limits`",
            "3:13 invalid TOML: a value is missing",
            "5:1 unknown key `imags` | did you mean `images`?",
        ]
    );
    let text = "[settings]\nfoo = 1\n[registry.\"docker.io\"]\nimages = [\n  \"a\"\n[registry.\"ghcr.io\"]\nimages = [\"b\"]\n";
    let problems = brief(&bad(text));
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[1].starts_with("6:1 invalid TOML: missing comma"), "{problems:#?}");
    assert!(problems[2].contains("unclosed array"), "{problems:#?}");
}

#[test]
fn warnings_do_not_stop() {
    let file = good(
        "[registry.\"sandboxes.io\"]\nimages = [\"alpine\", \"me/tool:1\"]\n[registry.\"docker.io\"]\nimages = [\"alpine\"]\n",
    );
    assert_eq!(references(&file).len(), 3);
    assert_eq!(file.warnings.len(), 1);
    assert_eq!(
        file.warnings[0].to_string(),
        "warning: sandboxes.io/me/tool:1 is outside library/: what docker.io serves under this name is not microsandbox's
 --> images.toml:2:21
  |
2 | images = [\"alpine\", \"me/tool:1\"]
  |                     ^^^^^^^^^^^
hint: list it under [registry.\"docker.io\"] if that is what you want"
    );
}

#[test]
fn lines_are_shown_escaped_and_shortened() {
    let problems = bad("[settings]\n\"p\u{202e}q\" = 1 # \u{9b}31m\n");
    assert!(!problems.to_string().contains('\u{202e}'));
    assert_eq!(problems.iter().next().unwrap().text(), "\"p\\u{202e}q\" = 1 # \\u{9b}31m");

    let long = format!(
        "[registry.\"r.io\"]\nimages = [{}, 7, {}]\n",
        vec!["\"é\""; 3000].join(", "),
        vec!["1"; 3000].join(", ")
    );
    let problems = bad(&long);
    assert!(problems.len() > 500);
    let text = problems.to_string();
    assert!(text.len() < 1_000_000);
    assert!(text.ends_with("more problems in the same file are not shown"));
    let last = problems.iter().last().unwrap();
    assert!(last.text().starts_with('…') && last.text().ends_with('…') && last.text().chars().count() < 300);
}

#[test]
fn the_caret_is_under_the_place_on_a_shortened_line() {
    let text = format!(
        "[registry.\"r.io\"]\nimages = [{} 77, \"x\"]\n",
        "\"é\", ".repeat(300).replace('é', "a/ü").replace('ü', "u")
    );
    let problems = bad(&text);
    // Every `a/u` after the first is listed twice; the integer is the only wrong type.
    let problem = problems.iter().find(|problem| problem.message().contains("integer")).unwrap();
    let shown = problem.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let caret = lines[4].find('^').unwrap();
    assert_eq!(&lines[3].chars().skip(caret).take(2).collect::<String>(), "77", "{shown}");
    assert_eq!(lines[4].matches('^').count(), 2);
}

#[test]
fn numbers_and_units_that_are_wrong_are_told_in_the_direction_that_they_are_wrong_in() {
    for (limit, expected) in [
        ("layer-entries = 99999999999999999999", "`layer-entries` must be at most"),
        ("layer-entries = 0", "`layer-entries` must be at least 1"),
        ("layer-entries = -99999999999999999999", "`layer-entries` must be at least 1"),
        ("layer-size = \"x\"", "`layer-size` is not a size | a size is a number with a unit"),
    ] {
        let told = brief(&bad(&format!("[settings.limits]\n{limit}\n"))).join("; ");
        assert!(told.contains(expected), "{limit}: {told}");
    }
}

#[test]
fn bytes_that_are_no_text_are_told_with_their_place() {
    let problems =
        crate::images_file::not_utf8(b"# first\npassword = \"hunter2\" # caf\xe9\n", "images.toml");
    assert_eq!(
        problems.to_string(),
        "error: invalid TOML: not UTF-8 text
 --> images.toml:2:27
  |
2 | password = \"***\" # caf\u{fffd}
  |                       ^
hint: save the file as UTF-8"
    );
}
