//! The images file from outside: text in, values or printed problems out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::state::{Mirror, Ownership};

fn source() -> Source<'static> {
    Source {
        name: "images.toml",
        directory: Path::new("/etc/msb"),
        home_directory: Some(Path::new("/home/ann")),
        default_registry: "docker.io",
        default_platform: Platform::new("linux", "amd64", None),
    }
}

fn good(text: &str) -> ImagesFile {
    parse(text, &source()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str) -> Problems {
    match parse(text, &source()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems,
    }
}

/// `line:column message [| hint]` of each problem.
fn brief(problems: &Problems) -> Vec<String> {
    let one = |problem: &Problem| {
        let hint = problem.hint().map_or(String::new(), |hint| format!(" | {hint}"));
        format!("{}:{} {}{hint}", problem.line(), problem.column(), problem.message())
    };
    problems.iter().map(one).collect()
}

fn references(file: &ImagesFile) -> Vec<String> {
    file.images.iter().map(|image| image.reference.to_string()).collect()
}

const FULL: &str = r#"
[settings]
layers = "/var/lib/msb/layers"
platform = "linux/arm64"
pull = "missing"
prune = true
downloads = 8
interval = "1h30m"
ownership = "none"
[settings.limits]
layer-size = "1GiB"
layer-entries = 1000
manifest-size = 1048576

[registry."docker.io"]
images = [
  "alpine:3.20",
  "python:3.12-slim@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  { name = "nginx", tag = "stable-alpine", platform = "linux/amd64", pull = "never", groups = ["web"] },
  { name = "busybox", digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
  { name = "grafana/grafana:11" },
]

[registry."ghcr.io"]
username = "octocat"
password-env = "GHCR_TOKEN"
images = ["github/super-linter:v7"]

[registry."sandboxes.io"]
images = ["alpine:latest"]

[registry."registry.corp:5000"]
endpoint = "https://registry.corp:5000/"
mirrors = ["https://mirror.corp", { url = "http://other.corp/v2/proxy", resolve = true }]
ca = "corp-ca.pem"
client-cert = "~/client.pem"
client-key = "../key.pem"
insecure = false
headers = { "X-Team" = "infra" }
pull = "always"
images = ["team/app:v1"]

[registry."vendored.local"]
layout = "vendor/oci"
images = ["tools/busybox:1"]

[groups]
dev = ["alpine:3.20", "@web", "@all-of-corp"]
all-of-corp = ["registry.corp:5000/team/app:v1"]
"#;

#[test]
fn a_full_file_means_what_it_says() {
    let file = good(FULL);
    assert_eq!(file.warnings, []);
    assert!(file.unsupported().is_none());
    let settings = &file.settings;
    assert_eq!(settings.layers.as_deref(), Some(Path::new("/var/lib/msb/layers")));
    assert_eq!(settings.platform.to_string(), "linux/arm64");
    assert_eq!(settings.pull, PullPolicy::Missing);
    assert!(settings.prune);
    assert_eq!(settings.downloads, 8);
    assert_eq!(settings.interval, Duration::from_secs(5400));
    assert_eq!(settings.ownership, Ownership::None);
    assert_eq!(settings.limits.layer_size, 1 << 30);
    assert_eq!(settings.limits.layer_entries, 1000);
    assert_eq!(settings.limits.manifest_size, 1 << 20);

    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        references(&file),
        [
            "docker.io/library/alpine:3.20".to_owned(),
            format!("docker.io/library/python:3.12-slim@{digest}"),
            "docker.io/library/nginx:stable-alpine".to_owned(),
            format!("docker.io/library/busybox@{digest}"),
            "docker.io/grafana/grafana:11".to_owned(),
            "ghcr.io/github/super-linter:v7".to_owned(),
            "sandboxes.io/library/alpine:latest".to_owned(),
            "registry.corp:5000/team/app:v1".to_owned(),
            "vendored.local/tools/busybox:1".to_owned(),
        ]
    );
    let nginx = &file.images[2];
    assert_eq!(nginx.platform.to_string(), "linux/amd64");
    assert_eq!(nginx.pull, PullPolicy::Never);
    assert_eq!(nginx.line, 19);
    assert_eq!(file.images[0].platform.to_string(), "linux/arm64");
    assert_eq!(file.images[0].pull, PullPolicy::Missing);
    assert_eq!(file.images[7].pull, PullPolicy::Always, "the registry's policy");

    let names: Vec<&str> = file.registries.iter().map(|registry| registry.name.as_str()).collect();
    assert_eq!(names, ["docker.io", "ghcr.io", "sandboxes.io", "registry.corp:5000", "vendored.local"]);
    assert_eq!(
        file.registries[3],
        RegistrySettings {
            name: "registry.corp:5000".to_owned(),
            endpoint: Some("https://registry.corp:5000".to_owned()),
            mirrors: vec![
                Mirror { url: "https://mirror.corp".to_owned(), resolve: false },
                Mirror { url: "http://other.corp/v2/proxy".to_owned(), resolve: true },
            ],
            ca: Some(PathBuf::from("/etc/msb/corp-ca.pem")),
            client_cert: Some(PathBuf::from("/home/ann/client.pem")),
            client_key: Some(PathBuf::from("/etc/key.pem")),
            headers: vec![("X-Team".to_owned(), "infra".to_owned())],
            ..RegistrySettings::default()
        }
    );
    assert_eq!(file.registries[1].username.as_deref(), Some("octocat"));
    assert_eq!(file.registries[1].password_env.as_deref(), Some("GHCR_TOKEN"));
    assert_eq!(file.registries[4].layout.as_deref(), Some(Path::new("/etc/msb/vendor/oci")));

    let members =
        |group: &str| -> Vec<String> { file.groups[group].images.iter().map(ToString::to_string).collect() };
    assert_eq!(members("web"), ["docker.io/library/nginx:stable-alpine"]);
    assert_eq!(
        members("dev"),
        [
            "docker.io/library/alpine:3.20",
            "docker.io/library/nginx:stable-alpine",
            "registry.corp:5000/team/app:v1"
        ]
    );
    assert_eq!(nginx.groups, BTreeSet::from(["dev".to_owned(), "web".to_owned()]));
}

#[test]
fn empty_files_byte_order_marks_and_crlf_are_fine() {
    for text in [
        "",
        "\u{feff}",
        "# nothing\r\n",
        "[settings]\r\n",
        "\u{feff}[registry.\"docker.io\"]\r\nimages = []\r\n",
    ] {
        let file = good(text);
        assert!(file.images.is_empty());
        assert_eq!(file.settings.platform.to_string(), "linux/amd64");
        assert_eq!(file.settings.downloads, 6);
    }
    let problems = bad("\u{feff}a = 1\r\nb = \"\u{1F600}\" # x\r\n");
    let texts: Vec<(usize, usize, &str)> =
        problems.iter().map(|problem| (problem.line(), problem.column(), problem.text())).collect();
    assert_eq!(texts, [(1, 1, "a = 1"), (2, 1, "b = \"\u{1F600}\" # x")]);
}

#[test]
fn entries_groups_and_group_tables_of_one_name_are_one_group() {
    let file = good(
        r#"
[registry."docker.io"]
images = ["alpine", { name = "nginx", groups = ["web"] }, { name = "redis", tags = { newest = 2 }, groups = ["db"] }]
[groups]
web = ["alpine"]
all = ["@web", "docker.io/library/redis"]
"#,
    );
    let web: Vec<String> = file.groups["web"].images.iter().map(ToString::to_string).collect();
    assert_eq!(web, ["docker.io/library/alpine:latest", "docker.io/library/nginx:latest"]);
    assert_eq!(file.groups["all"].selections, BTreeSet::from([0]));
    assert_eq!(file.selections[0].groups, BTreeSet::from(["all".to_owned(), "db".to_owned()]));
}

#[test]
fn group_members_without_a_registry_use_the_default_one() {
    let text = "[registry.\"ghcr.io\"]\nimages = [\"a/b:1\"]\n[groups]\ng = [\"a/b:1\"]\n";
    let source = Source { default_registry: "ghcr.io", ..source() };
    assert_eq!(parse(text, &source).unwrap().groups["g"].images.len(), 1);
    assert_eq!(
        brief(&bad(text)),
        ["4:6 no image `docker.io/a/b:1` is listed in this file | did you mean `ghcr.io/a/b:1`?"]
    );
}

#[test]
fn desired_images_are_sorted_and_chosen_by_group() {
    let file = good(FULL);
    let owner = || Owner("/etc/msb/images.toml".to_owned());
    let all = file.desired(owner(), &[]).unwrap();
    assert_eq!(all.images.len(), 9);
    assert!(all.images.is_sorted_by_key(|image| &image.reference));
    assert!(all.listed_elsewhere.is_empty());
    assert!(all.prune);

    let web = file.desired(owner(), &["web".to_owned()]).unwrap();
    assert_eq!(web.images.len(), 1);
    assert_eq!(web.listed_elsewhere.len(), 8);
    let both = file.desired(owner(), &["@web".to_owned(), "all-of-corp".to_owned()]).unwrap();
    assert_eq!(both.images.len(), 2);

    let error = file.desired(owner(), &["wbe".to_owned()]).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.hint()), ("unknown group `wbe`", "did you mean `web`?"));
    let error = file.desired(owner(), &["zzzz".to_owned(), "web".to_owned(), "yyyy".to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), "unknown groups `yyyy`, `zzzz`");
    assert_eq!(error.hint(), "the images file has `all-of-corp`, `dev`, `web`");
    let error = good("").desired(owner(), &["x".to_owned()]).unwrap_err();
    assert_eq!(error.hint(), "the images file defines no groups");
}

#[test]
fn selections_are_validated_anchored_and_not_supported_yet() {
    let file = good(
        r#"
[settings]
hosts-dir = "certs.d"
[registry."docker.io"]
images = [
  { name = "redis", tags = { semver = ">=7, <8", newest = 2 } },
  { name = "node", tags = { match = "22\\.[0-9]+|lts", newest = 1 } },
]
"#,
    );
    assert_eq!(file.selections[0].semver.as_deref(), Some(">=7, <8"));
    assert_eq!(file.selections[0].newest.map(NonZeroUsize::get), Some(2));
    assert_eq!(file.selections[1].repository, "library/node");
    let pattern = regex::Regex::new(file.selections[1].matching.as_deref().unwrap()).unwrap();
    assert!(pattern.is_match("22.1") && pattern.is_match("lts"));
    assert!(!pattern.is_match("22.1-slim") && !pattern.is_match("x-lts"));
    assert_eq!(
        brief(&file.unsupported().unwrap()),
        [
            "3:1 `hosts-dir` is not supported yet",
            "6:21 `tags` is not supported yet",
            "7:20 `tags` is not supported yet"
        ]
    );
}

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
            "8:11 invalid registry name `Ghcr.io`: registry names are lower case",
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
        ("zzz = 1".into(), "1:1 unknown key `zzz` | the keys of the top level are `settings`, `registry`, `groups`"),
        (settings("hosts_dir = \"x\""), "2:1 unknown key `hosts_dir` | did you mean `hosts-dir`?"),
        (settings("[settings.limits]\nlayersize = 1"), "3:1 unknown key `layersize` | did you mean `layer-size`?"),
        (settings("images = 1"), "2:1 unknown key `images` | `images` belongs to [registry.\"NAME\"]"),
        (registry("images = [{ name = \"a\", tga = \"1\" }]"), "2:25 unknown key `tga` | did you mean `tag`?"),
        (registry("mirrors = [{ url = \"https://x\", resolv = true }]"), "2:33 unknown key `resolv` | did you mean `resolve`?"),
        (registry("images = [{ name = \"a\", tags = { newst = 1, semver = \"1\" } }]"), "2:34 unknown key `newst` | did you mean `newest`?"),
        ("[registry.docker.io]\nimages = []".into(), "1:18 unknown key `io` | quote the registry's name, as in [registry.\"docker.io\"]"),
        ("[registry]\nimages = []".into(), "2:1 `images` must be a table of one registry | name the registry: [registry.\"docker.io\"]"),
        // types
        ("settings = 1".into(), "1:12 `settings` must be a table, found an integer"),
        ("registry = []".into(), "1:12 `registry` must be a table, found an array"),
        ("[[registry]]".into(), "1:1 `registry` must be a table, found an array"),
        ("groups = \"x\"".into(), "1:10 `groups` must be a table, found a string"),
        (settings("layers = true"), "2:10 `layers` must be a string, found a boolean"),
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
        (settings("pull = \"alwyas\""), "2:8 unknown value `alwyas` for `pull` | did you mean `always`?"),
        (settings("ownership = \"override\""), "2:13 unknown value `override` for `ownership` | valid here: `override-stat`, `none`"),
        (settings("platform = \"amd64\""), "2:12 `platform` is not a platform: `amd64` | a platform is os/architecture or os/architecture/variant, as in linux/arm64"),
        (settings("layers = \"\""), "2:10 `layers` is empty"),
        (settings("layers = \"~root/x\""), "2:10 `layers` names another user's home directory | only ~ and ~/… are expanded; write ./~… for a file whose name starts with ~"),
        (settings("[settings.limits]\nlayer-entries = 0"), "3:17 `layer-entries` must be at least 1"),
        (settings("[settings.limits]\nlayer-size = \"64GiBi\""), "3:14 `layer-size` is not a size | did you mean `GiB`?"),
        (settings("[settings.limits]\nmanifest-size = 99999999999999999999"), "3:17 `manifest-size` must be at least 1"),
        // registries
        ("[registry.\"https://docker.io\"]".into(), "1:11 invalid registry name `https://docker.io`: a registry is host[:port], without a scheme"),
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
        (registry("images = [{ name = \"a\", platform = \"x\" }]"), "2:36 `platform` is not a platform: `x` | a platform is os/architecture or os/architecture/variant, as in linux/arm64"),
        (registry("images = [{ name = \"a\", groups = [\"@x\"] }]"), "2:35 group name `@x` starts with @ | the @ goes before a group's name only where [groups] refers to it"),
        (registry("images = [{ name = \"a\", groups = [\"\"] }]"), "2:35 group name `` is empty"),
        // selections
        (registry("images = [{ name = \"a\", tags = {} }]"), "2:32 an empty selection of tags | say which tags: `semver`, `match` or `newest`"),
        (registry("images = [{ name = \"a\", tags = { newest = 0 } }]"), "2:43 `newest` must be from 1 to 4294967295"),
        (registry("images = [{ name = \"a\", tags = { semver = \"seven\" } }]"), "2:43 `semver` is not a range of versions: unexpected character 's' while parsing major version number | a range is written as in \">=7, <8\" or \"~1.25\""),
        (registry("images = [{ name = \"a\", tags = { match = \"a(\" } }]"), "2:42 `match` is not a valid pattern: unclosed group"),
        (registry("images = [{ name = \"a\", tags = { match = \"a)(b\" } }]"), "2:42 `match` is not a valid pattern: unopened group"),
        (registry("images = [{ name = \"a\", tags = { match = \"a{1000}{1000}{1000}\" } }]"), "2:42 `match` is not a valid pattern: too large"),
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
            "2:1 unknown key `foo` | the keys of [settings] are `layers`, `platform`, `pull`, `prune`, `downloads`, `interval`, `hosts-dir`, `ownership`, `limits`",
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
fn secrets_are_refused_and_never_shown() {
    let hint = "put it into an environment variable";
    for (text, column) in [
        ("password = \"hunter2\"", 1),
        ("password = 'hunter2'", 1),
        ("password = \"\"\"\nhunter2\"\"\"", 1),
        ("password = '''hunter2\nhunter2'''", 1),
        ("password = \"hunter\\u0032hunter2\"", 1),
        ("\"password\" = \"hunter2\"", 1),
        ("\"pass\\u0077ord\" = \"hunter2\"", 1),
        ("Password = \"hunter2\"", 1),
        ("password = [\"hunter2\"]", 1),
        ("password = { value = \"hunter2\" }", 1),
        ("passwd = \"hunter2\"", 1),
        ("token = \"hunter2\"", 1),
        ("auth = \"hunter2\"", 1),
        ("headers = { Authorization = \"Basic hunter2\" }", 13),
        ("headers = { authorization = [\"hunter2\"] }", 13),
        ("headers = { X-Api-Key = \"hunter2\\n\" }", 25),
        ("endpoint = \"https://me:hunter2@r.io\"", 12),
        ("endpoint = \"https:\\u002f/me:hunter2@r.io\"", 12),
        ("endpoint = 'https://me:hunt\"hunter2@r.io'", 12),
        ("endpoint = \"https://r.io/?sig=hunter2\"", 12),
        ("mirrors = [\"https://me:hunter2@r.io\"]", 12),
        ("mirrors = [{ url = \"https://me:hunter2@r.io\" }]", 20),
        ("images = [\"https://me:hunter2@r.io/x\"]", 11),
        ("imags = 1 # no secret", 1),
    ] {
        let problems = bad(&format!("[registry.\"r.io\"]\n{text}\n"));
        let shown = format!("{problems} {problems:?}");
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        assert_eq!(
            problems.iter().next().map(|problem| (problem.line(), problem.column())),
            Some((2, column)),
            "{text}"
        );
    }
    let problems = bad("[registry.\"r.io\"]\npassword = \"hunter2\" # x\n");
    assert_eq!(
        brief(&problems),
        [
            "2:1 a password in the images file is refused | put it into an environment variable named by `password-env`, or into a file named by `password-file`"
        ]
    );
    assert_eq!(problems.iter().next().unwrap().text(), "password = \"***\" # x");
    // On one line with another problem, in an inline table, in the registry's name.
    let problems = bad("registry = { \"r.io\" = { password = \"hunter2\", imags = [] } }\n");
    assert_eq!(problems.len(), 2);
    assert!(!problems.to_string().contains("hunter2"));
    assert!(problems.to_string().contains(hint));
    assert!(problems.to_string().contains("password = \"***\", imags"));
    let problems = bad("[registry.\"https://me:hunter2@r.io\"]\n");
    assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    // A variable's name is no secret.
    assert!(
        bad("[registry.\"r.io\"]\npassword-env = \"\" # A\n").to_string().contains("password-env = \"\" # A")
    );
}

#[test]
fn secrets_are_not_shown_where_the_toml_is_broken() {
    for text in [
        "password = \"hunter2\n",
        "password = hunter2\n",
        "password = \"a\nhunter2\"\n",
        "password = \"a\"hunter2\"\n",
        "password = \"\"\"hunter2\n",
        "password = [\"a\"\n\"hunter2\"\n",
        "password = \"\\hunter2\"\n",
        "x = { password = \"hunter2\", }} \n",
        "password : \"hunter2\"\nfoo = \n",
        "password \"hunter2\"\n",
        "endpoint = \"https://me:hunter2@r.io\n",
        "endpoint = https://me:hunter2@r.io\n",
        "headers = { X = \"hunter2\" \n",
        "headers = { X = hunter2 }\n",
        "[registry.x.headers]\nX = hunter2\n",
        "password = \"hunter2\"\npassword = \"hunter2\"\n",
        "passwort = \"hunter2\n",
    ] {
        let problems = bad(&format!("[registry.\"r.io\"]\n{text}"));
        let shown = format!("{problems} {problems:?}");
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
    }
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
fn size_depth_and_number_are_bounded() {
    assert!(
        bad(&" ".repeat(MAX_TEXT + 1)).to_string().starts_with("error: the images file is larger than 8 MiB")
    );
    good(&" ".repeat(MAX_TEXT));
    for text in [
        format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("x = {}1{}", "{a=".repeat(100_000), "}".repeat(100_000)),
        format!("{}x = 1", "a.".repeat(100_000)),
        format!("[{}x]", "a.".repeat(100_000)),
        format!("x = {}1{}", format!("{{{}a=", "a.".repeat(78)).repeat(79), "}".repeat(79)),
        "a = [".repeat(50_000),
        "[[registry]]\n".repeat(10_000),
    ] {
        assert!(!bad(&text).is_empty());
    }
    let mut chain = String::from("[registry.\"docker.io\"]\nimages = [\"a\"]\n[groups]\ng0 = [\"a\"]\n");
    for index in 1..20_000 {
        let _ = writeln!(chain, "g{index} = [\"@g{}\"]", index - 1);
    }
    assert_eq!(good(&chain).images[0].groups.len(), 20_000);
    let cycle = chain.replace("g0 = [\"a\"]", "g0 = [\"@g19999\"]");
    assert_eq!(bad(&cycle).len(), 1);
    let names: Vec<String> = (0..2_000).map(|index| format!("\"a{index}\"")).collect();
    let names = names.join(",");
    let mut many = format!("[registry.\"docker.io\"]\nimages = [{names}]\n[groups]\ng0 = [{names}]\n");
    for index in 1..2_000 {
        let _ = writeln!(many, "g{index} = [\"@g0\"]");
    }
    assert!(bad(&many).to_string().contains("more than 1000000 members"));
}

#[test]
fn the_starter_file_is_valid_with_and_without_its_examples() {
    let file = good(STARTER);
    assert_eq!(references(&file), ["docker.io/library/alpine:3.20", "docker.io/library/python:3.12-slim"]);
    assert!(file.unsupported().is_none());
    assert_eq!(file.warnings, []);
    // Every line that is commented-out TOML is TOML, and valid.
    let is_example = |line: &str| {
        let line = line.trim_start().trim_start_matches("# ");
        line.starts_with(['[', '{']) || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let uncommented: String = STARTER
        .lines()
        .map(|line| if is_example(line) { line.replacen("# ", "", 1) } else { line.to_owned() } + "\n")
        .collect();
    let file = good(&uncommented);
    assert_eq!((file.images.len(), file.selections.len(), file.registries.len()), (8, 2, 5), "{uncommented}");
    let missing: Vec<&&str> = keys::ALL
        .iter()
        .flat_map(|keys| keys.names)
        .filter(|key| !["digest", "password-file"].contains(key) && !uncommented.contains(**key))
        .collect();
    assert!(missing.is_empty(), "not in the starter file: {missing:?}");
}

#[test]
fn the_schema_and_the_parser_know_the_same_keys() {
    let schema: Value = serde_json::from_str(json_schema()).unwrap();
    for (keys, pointer) in [
        (&keys::TOP, ""),
        (&keys::SETTINGS, "/$defs/settings"),
        (&keys::LIMITS, "/$defs/limits"),
        (&keys::REGISTRY, "/$defs/registry"),
        (&keys::MIRROR, "/$defs/mirror"),
        (&keys::IMAGE, "/$defs/image"),
        (&keys::TAGS, "/$defs/tags"),
    ] {
        let table = schema.pointer(pointer).unwrap();
        assert_eq!(table["additionalProperties"], Value::Bool(false), "{pointer}");
        let properties = table["properties"].as_object().unwrap();
        let in_schema: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(in_schema, keys.names.iter().copied().collect::<BTreeSet<_>>(), "{pointer}");
        for (key, property) in properties {
            let described = property.get("description").or_else(|| {
                let target = property["$ref"].as_str()?.strip_prefix('#')?;
                schema.pointer(target)?.get("description")
            });
            assert!(described.is_some(), "{key} has no description");
        }
    }
    assert_eq!(keys::ALL.len(), 7);
    for (table, key) in keys::NOT_YET {
        assert!(keys::ALL.iter().any(|keys| keys.table == *table && keys.names.contains(key)));
    }
    let words = |pointer: &str| -> Vec<String> {
        serde_json::from_value(schema.pointer(pointer).unwrap()["enum"].clone()).unwrap()
    };
    let pull: Vec<&str> = PULL_WORDS.iter().map(|(word, _)| *word).collect();
    assert_eq!(words("/$defs/pull"), pull);
    assert_eq!(words("/$defs/settings/properties/ownership"), ["override-stat", "none"]);
}

fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[settings]\n".to_owned()),
        Just("[registry.\"docker.io\"]\n".to_owned()),
        Just("[groups]\n".to_owned()),
        Just("[settings.limits]\n".to_owned()),
        Just("images = [".to_owned()),
        Just("{ name = \"a\", ".to_owned()),
        Just("tags = { ".to_owned()),
        Just("]\n".to_owned()),
        Just("}".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("'".to_owned()),
        Just("password = \"".to_owned()),
        Just("https://a:b@".to_owned()),
        "\"[a-z:/@.]{0,12}\", ",
        "[a-z-]{1,9} = ",
        "[a-z.]{1,5}\\.[a-z]{1,3} = ",
        "[0-9]{1,4}\n",
        "\\PC{0,6}",
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn check_any(text: &str) {
    match parse(text, &source()) {
        Ok(file) => drop(file.desired(Owner::pull(), &[])),
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for problem in &problems {
                assert!((1..=lines).contains(&problem.line()) && problem.column() >= 1);
                assert!(!problem.to_string().contains(|char: char| char != '\n' && char.is_control()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,200}") {
        check_any(&text);
    }

    #[test]
    fn nothing_like_toml_makes_the_parser_panic(text in toml_like()) {
        check_any(&text);
    }

    #[test]
    fn a_password_is_never_shown(password in "[A-Z]{12}", before in toml_like(), after in toml_like(), quote in 0..4_usize) {
        let quote = ["\"", "'", "\"\"\"", "'''"][quote];
        let text = format!("{before}\n[registry.\"r.io\"]\npassword = {quote}{password}{quote}\n{after}");
        if let Err(problems) = parse(&text, &source()) {
            let shown = format!("{problems} {problems:?}");
            prop_assert!(!shown.contains(&password), "{}", shown);
        }
    }

    #[test]
    fn valid_files_are_read_whole(
        names in proptest::collection::btree_map("[a-z][a-z0-9]{0,8}(/[a-z]{1,4})?", "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,8}", 0..12),
        as_tables in any::<u16>(),
        downloads in 1..=64_usize,
        minutes in 1..600_u64,
        prune in any::<bool>(),
    ) {
        let mut text = format!("[settings]\ndownloads = {downloads}\ninterval = \"{minutes}m\"\nprune = {prune}\n[registry.\"r.io\"]\nimages = [\n");
        for (index, (name, tag)) in names.iter().enumerate() {
            if as_tables >> index & 1 == 1 {
                let _ = writeln!(text, "  {{ name = '{name}', tag = \"{tag}\", groups = [\"g\"] }},");
            } else {
                let _ = writeln!(text, "  \"{name}:{tag}\",");
            }
        }
        text += "]\n";
        let file = parse(&text, &source()).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(file.settings.downloads, downloads);
        prop_assert_eq!(file.settings.interval, Duration::from_secs(minutes * 60));
        prop_assert_eq!(file.settings.prune, prune);
        let expected: Vec<String> = names.iter().map(|(name, tag)| format!("r.io/{name}:{tag}")).collect();
        prop_assert_eq!(references(&file), expected);
        for (index, image) in file.images.iter().enumerate() {
            prop_assert_eq!(image.groups.contains("g"), as_tables >> index & 1 == 1);
            prop_assert_eq!(image.line, index + 7);
        }
    }
}
